"""The ledger of this host's part of the job, kept as its life goes on (``training/ledger.py``)."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from supervisor.host.present import Present
from supervisor.life import events as ev
from supervisor.life.state import State, process_of
from supervisor.life.words import Life, Outcome, Phase

if TYPE_CHECKING:  # not needed before the script's start
    from collections.abc import Callable

    from supervisor.status.snapshot import LedgerRow, TimeRow
    from supervisor.training.ledger import Ledger
    from supervisor.training.reading import Unit
    from supervisor.training.saves import Saved
    from supervisor.training.totals import Totals

_BEFORE: Final = {Phase.PREPARING: "fetching", Phase.JOINING: "joining"}
_WAITS: Final = frozenset({ev.Deadline.BACKOFF, ev.Deadline.REJOIN})
_MOST_TURNS: Final = 64
"""That wait for what may yet be heard of the time before them."""


class _Turn(NamedTuple):
    """Something that is to be written."""

    at: float
    write: Callable[[Ledger], Ledger]


class Book:
    """Times are ``time.monotonic()``.

    What the script's last look finds was so before the script's end, of which the life has heard
    meanwhile. So turns of the life are kept until something later was seen of the script.
    """

    def __init__(self, present: Present, process: str) -> None:
        """``process``: the name of the script whose training is meant; empty: none runs here."""
        self.process = process
        self.starts = 0
        """How often the script was started."""
        self.unit: Unit | None = None
        """What is counted; None: no step was seen yet."""
        self.earlier: Totals | None = None
        """Of the runs before this one; None where none are known."""
        self._present = present
        self._account = "fetching"
        self._ledger: Ledger | None = None
        self.begun_at = time.monotonic()
        """When the host's life began …"""
        self.started_at = self.begun_at
        """… and when the script was started last."""
        self.fetched_s = 0.0
        """How long that has fetched, before the script started."""
        self.down_at: float | None = None
        """When the script's training ended last; None: it has not."""
        self._account_at = self.begun_at
        self._turns: list[_Turn] = []
        """The latest last."""
        self._counts: dict[Unit, tuple[float, float]] = {}
        """How far the job had come, and by how many new steps, in what else was counted."""

    def seen(self, state: State) -> None:
        """The life has moved on."""
        account = _account_of(state, self.process)
        if account == self._account:
            return
        now = time.monotonic()
        if self._account == "fetching" and not self.starts:
            self.fetched_s += now - self._account_at
        if self._account == "starting":
            self.down_at = now
        self._account, self._account_at = account, now
        lost = account in {"down", "waiting"} and self._is_lost(state)
        if account != "starting" or not self.process:  # else ``started`` knows when
            self._write(_Turn(now, partial(_entered, account, now, lost)))

    def started(self) -> None:
        """The script starts, now."""
        self.starts += 1
        now = self.started_at = time.monotonic()
        self._write(_Turn(now, lambda ledger: ledger.start(now)))

    def is_a_step(self, saved: Saved) -> bool:
        """Whether a number in a checkpoint's name is the step of it: one that counts something else
        is not about as great as the steps that were done."""
        from supervisor.training.reading import Unit  # noqa: PLC0415

        if saved.unit is not Unit.SAVE:
            return False
        mark, _ = self._counts.get(Unit.STEP, (0.0, 0.0))
        if self.unit is Unit.STEP:
            mark = self._written(time.monotonic()).mark
        return mark / 2 <= saved.number <= mark * 2

    def begins_with(self, step: float) -> None:
        """With which step it began, once that is known."""
        self._write(_Turn(self.started_at, lambda ledger: ledger.begins_with(step)))

    def goes_on_from(self, earlier: Totals) -> None:
        """There were runs before this one. Before anything was reached in it."""
        self.earlier = earlier
        self._counts = {unit: (count.mark, 0.0) for unit, count in earlier.counts.items()}

    def reached(self, unit: Unit, step: float, at: float) -> None:
        """The script has come to ``step`` at ``at``."""
        ledger = self._written(at)
        self._turns = [turn for turn in self._turns if turn.at > at]
        if unit is not self.unit:  # another counter, of which nothing else is known
            if self.unit is not None:
                self._counts[self.unit] = ledger.mark, ledger.steps
            ledger = ledger.counts_anew(*self._counts.get(unit, (-1.0, 0.0)))
            self.unit = unit
        if unit.value != "step" and ledger.begun:  # a checkpoint's step, and here are epochs
            ledger = ledger.begins_with(None)
        self._ledger = ledger.reached(step, at)

    def totals(self) -> Totals:
        """Of this run, by now."""
        from supervisor.training.totals import Count, Totals  # noqa: PLC0415

        now = time.monotonic()
        ledger, counts = self._written(now), self._counts
        if self.unit is not None:
            counts = {**counts, self.unit: (ledger.mark, ledger.steps)}
        seen = {unit: Count(*count) for unit, count in counts.items() if count[1] > 0}
        if self.unit is not None:
            seen[self.unit] = Count(*counts[self.unit])
        return Totals(1, self.starts, ledger.totals(now), seen)

    def row(self) -> LedgerRow | None:
        """For ``/status`` and the report; None where nothing trains here."""
        if not self.process:
            return None
        run = self.totals()
        unit = self.unit or next(iter(run.counts), None)
        every = self.earlier + run if self.earlier else run
        return {
            "account": self._written(time.monotonic()).account.value,
            "unit": unit and unit.value,
            "run": _row(run, unit),
            "all": _row(every, unit or next(iter(every.counts), None)),
        }

    @property
    def seconds(self) -> float:
        """Of this run, so far."""
        return time.monotonic() - self.begun_at

    def _write(self, turn: _Turn) -> None:
        self._turns = sorted((*self._turns, turn), key=lambda each: each.at)
        if len(self._turns) > _MOST_TURNS:
            self._ledger = self._turns.pop(0).write(self._written(float("-inf")))

    def _written(self, until: float) -> Ledger:
        """With what is to be written up to then."""
        from supervisor.training.ledger import Ledger  # noqa: PLC0415

        ledger = self._ledger or Ledger.begin(self.begun_at)
        for turn in self._turns:
            if turn.at <= until:
                ledger = turn.write(ledger)
        return ledger

    def _is_lost(self, state: State) -> bool:
        """Whether what came after the last step that was seen has brought nothing."""
        if state.cause is not None:
            return self._present.verdict.outcome is Outcome.FAILED
        main = process_of(state, self.process) if self.process else None
        if main is None or main.again or main.status is None:
            return True  # another attempt is made
        return main.status.code != 0


def _entered(account: str, at: float, lost: bool, ledger: Ledger) -> Ledger:
    from supervisor.training.ledger import Account  # noqa: PLC0415

    return ledger.enter(Account(account), at, lost=lost)


def _row(totals: Totals, unit: Unit | None) -> TimeRow:
    count, share = totals.counts.get(unit) if unit else None, totals.goodput
    return {
        "runs": totals.runs,
        "starts": totals.starts,
        "wall_s": round(totals.seconds, 3),
        "seconds": {account.value: round(each, 3) for account, each in totals.spent.items()},
        "steps": None if count is None else int(count.steps),
        "goodput": None if share is None else round(share, 4),
    }


def _account_of(state: State, process: str) -> str:
    """To which account the present moment belongs, as far as the life says it."""
    if any(each.step and each.life is Life.ALIVE for each in state.processes):
        return "fetching"  # also a checkpoint that is restored later
    if before := _BEFORE.get(state.phase):
        return before
    main = process_of(state, process) if process else None
    if state.under_way and (main is None or (main.life is Life.ALIVE and not main.again)):
        return "starting"
    waits = state.armed & _WAITS or _stands_by(state)
    return "waiting" if state.under_way and waits else "down"


def _stands_by(state: State) -> bool:
    if not state.setup.elastic:
        return False
    from supervisor.life.world import stands_by  # noqa: PLC0415

    return stands_by(state, state.order)
