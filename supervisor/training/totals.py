"""What a ledger comes to at its end, added up over runs, and as it is kept in a file. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn

from supervisor.training.ledger import Account, Spent, goodput
from supervisor.training.reading import MOST_STEPS, Unit

MOST_BYTES: Final = 4096
"""Of the file."""
_VERSION: Final = 1
_NAME_CHARS: Final = 64
_MOST: Final = 1 << 40
"""Runs, starts and seconds: what says more was not written by us."""


class Count(NamedTuple):
    """Of one unit."""

    mark: float
    """The greatest that the job has come to."""
    steps: float
    """How many new ones there were."""


class Totals(NamedTuple):
    """Of one run, or of several."""

    runs: int
    starts: int
    """How often the script was started."""
    spent: Spent
    counts: Mapping[Unit, Count]

    @property
    def seconds(self) -> float:
        return sum(self.spent.values())

    @property
    def goodput(self) -> float | None:
        """None where no step was seen: the time may have been anything."""
        return goodput(self.spent) if self.counts else None

    def __add__(self, other: object) -> Totals:
        """With a later run, whose marks are those of the job by then."""
        if not isinstance(other, Totals):
            return NotImplemented
        counts = dict(self.counts)
        for unit, count in other.counts.items():
            before = counts.get(unit, Count(count.mark, 0.0))
            counts[unit] = Count(max(before.mark, count.mark), before.steps + count.steps)
        spent = {each: self.spent.get(each, 0.0) + other.spent.get(each, 0.0) for each in Account}
        return Totals(
            self.runs + other.runs,
            self.starts + other.starts,
            MappingProxyType(spent),
            MappingProxyType(counts),
        )


class Kept(NamedTuple):
    """What the file holds."""

    line: str
    """Which runs went on from each other: one name for all of them."""
    totals: Totals


def encode(kept: Kept) -> str:
    """As one line of JSON."""
    totals = kept.totals
    document = {
        "version": _VERSION,
        "line": kept.line,
        "runs": totals.runs,
        "starts": totals.starts,
        "seconds": {account: round(totals.spent.get(account, 0.0), 3) for account in Account},
        "counts": {
            unit: {"mark": count.mark, "new": count.steps} for unit, count in totals.counts.items()
        },
    }
    return json.dumps(document) + "\n"


def decode(data: bytes) -> Kept:
    """Raises ValueError, in one line, where it is not what we write: nothing of it is believed."""
    try:
        document = json.loads(data)
    except RecursionError:
        _wrong("it")
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        _wrong("version")
    line, seconds, counts = (document.get(key) for key in ("line", "seconds", "counts"))
    if not isinstance(line, str) or not 0 < len(line) <= _NAME_CHARS or not line.isalnum():
        _wrong("line")
    if not isinstance(seconds, dict) or not isinstance(counts, dict):
        _wrong("seconds or counts")
    totals = Totals(
        int(_number(document, "runs", _MOST)),
        int(_number(document, "starts", _MOST)),
        MappingProxyType({each: _number(seconds, each, _MOST) for each in Account}),
        MappingProxyType({unit: _count(counts[unit]) for unit in Unit if unit in counts}),
    )
    return Kept(line, totals)


def _count(value: object) -> Count:
    if not isinstance(value, dict):
        _wrong("counts")
    return Count(_number(value, "mark", MOST_STEPS), _number(value, "new", MOST_STEPS))


def _number(fields: Mapping[str, object], key: str, most: float) -> float:
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(key)
    if not 0 <= value <= most or not math.isfinite(value):
        _wrong(key)
    return float(value)


def _wrong(key: str) -> NoReturn:
    raise ValueError(f"{key} is not what a supervisor writes there")
