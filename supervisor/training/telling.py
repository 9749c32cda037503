"""Progress and the ledger as people read them: units that fit, and no digit more than is known.

Pure. Rows are those of ``/status`` and ``report.json``, of which nothing is believed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from supervisor.training.ledger import Account
from supervisor.training.reading import Unit, real

Row = Mapping[str, Any]

_LOST: Final = {
    Account.AGAIN: "{} of {}s done again",
    Account.STARTING: "{} of starting",
    Account.DOWN: "{} down",
    Account.WAITING: "{} of waiting",
    Account.FETCHING: "{} of fetching",
    Account.JOINING: "{} of joining",
}
_LONG_S: Final = 60
_SHORT_S: Final = 5
_LEAST_SHARE: Final = 0.005
"""Of all the time; what is less is not told."""


def progress(row: Row) -> str:
    """``step 1,234 of 10,000, 3.2 /s, 46 min left, loss 0.35 (event files, logs/train)``."""
    step, total, rate = (_number(row.get(key)) for key in ("step", "total", "rate"))
    if step is None:
        return ""
    words = [f"{_unit(row)} {step:,.0f}" + ("" if total is None else f" of {total:,.0f}")]
    if rate is not None and rate > 0:
        words.append(pace(rate))
        left_s = _number(row.get("left_s"))
        if left_s is not None:
            words.append(f"{rough(left_s)} left")
    if row.get("loss") is not None:
        loss = _number(row.get("loss"))
        words.append(f"loss {str(row['loss'])[:20] if loss is None else format(loss, '.3g')}")
    source = ", ".join(str(row[key]) for key in ("source", "where") if row.get(key))
    return ", ".join(words) + (f" ({source})" if source else "")


def accounts(time: Row, unit: str) -> tuple[str, ...]:
    """One line of what was gained and one of what was lost, of a run or of several; none where no
    time is told."""
    wall_s, spent = _number(time.get("wall_s")), time.get("seconds")
    if not wall_s or not isinstance(spent, Mapping):
        return ()
    share, steps = _number(time.get("goodput")), _number(time.get("steps"))
    kept_s = _number(spent.get(Account.KEPT)) or 0.0
    if share is None:
        return (f"no step was seen in {rough(wall_s)}",)
    gained = f"goodput {100 * share:.0f} % of {rough(wall_s)}: {rough(kept_s)} of new {unit}s"
    if steps is not None:
        gained += f" ({steps:,.0f}" + (f"; {pace(steps / kept_s)})" if kept_s > 0 < steps else ")")
    amounts = [(_number(spent.get(account)) or 0.0, words) for account, words in _LOST.items()]
    lost = [
        words.format(rough(seconds), unit)
        for seconds, words in sorted(amounts, key=lambda each: -each[0])
        if seconds >= _LEAST_SHARE * wall_s
    ]
    return (gained, f"lost: {', '.join(lost)}") if lost else (gained,)


def is_worth_it(row: Row, *, failed: bool) -> bool:
    """Whether the ledger says anything at the end: steps were seen, and the run was long, or went
    on from something. Of a try of a few seconds, or a failure in the first minute, nobody asks how
    much was lost."""
    run, every = row.get("run"), row.get("all")
    if not isinstance(run, Mapping) or not isinstance(every, Mapping):
        return False
    starts, runs, wall_s = (
        _number(time.get(key)) or 0
        for time, key in ((run, "starts"), (every, "runs"), (run, "wall_s"))
    )
    least_s = _LONG_S if failed else _SHORT_S
    return every.get("goodput") is not None and (starts > 1 or runs > 1 or wall_s >= least_s)


def ledger(row: Row) -> tuple[str, ...]:
    """Of this run, and of all runs in one line where there were others."""
    run, every, unit = row.get("run"), row.get("all"), _unit(row)
    if not isinstance(run, Mapping) or not isinstance(every, Mapping):
        return ()
    lines = accounts(run, unit)
    runs = _number(every.get("runs")) or 1
    if runs > 1 and (before := accounts(every, unit)):
        lines = (*lines, f"all {runs:.0f} runs: {'; '.join(before)}")
    return lines


def rough(seconds: float) -> str:
    """``3 h 12 min``, ``46 min``, ``35 s``, ``0.4 s``."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(int(seconds / 60 + 0.5), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if hours < 100 else f"{hours:,} h"


def pace(rate: float) -> str:
    """``250 /s``, ``3.2 /s``, ``12 /min``, ``1.5 /h``; ``rate`` is of a second."""
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if rate * size >= 0.1 or unit == "h":
            each = rate * size
            return f"{each:,.0f} /{unit}" if each >= 9.95 else f"{each:.1f} /{unit}"
    raise AssertionError("an hour is the last unit")


def _unit(row: Row) -> str:
    unit = row.get("unit")
    return unit if isinstance(unit, str) and unit in {*Unit} else "step"


def _number(value: object) -> float | None:
    found = real(value)
    return found if found is not None and math.isfinite(found) else None
