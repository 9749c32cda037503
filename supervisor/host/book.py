"""The ledger of this host's part of the job, kept as its life goes on (``training/ledger.py``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor.host.present import Present
from supervisor.life import events as ev
from supervisor.life.state import State, process_of
from supervisor.life.words import Life, Outcome, Phase

if TYPE_CHECKING:  # not needed before the script's start
    from collections.abc import Callable

    from supervisor.training.ledger import Account, Ledger
    from supervisor.training.reading import Unit

_BEFORE: Final = {Phase.PREPARING: "fetching", Phase.JOINING: "joining"}
_WAITS: Final = frozenset({ev.Deadline.BACKOFF, ev.Deadline.REJOIN})


class Book:
    """Times are ``time.monotonic()``."""

    def __init__(self, present: Present, process: str) -> None:
        """``process``: the name of the script whose training is meant; empty: none runs here."""
        self.process = process
        self._present = present
        self._account = "fetching"
        self._ledger: Ledger | None = None
        self._begun_at = time.monotonic()
        self._turns: list[Callable[[Ledger], Ledger]] = []
        """What is to be written, once somebody looks: the module is not loaded before."""
        self._unit: Unit | None = None
        self._marks: dict[Unit, float] = {}

    def seen(self, state: State) -> None:
        """The life has moved on."""
        account = _account_of(state, self.process)
        if account == self._account:
            return
        self._account = account
        lost = account in {"down", "waiting"} and _has_failed(self._present, state)
        if account != "starting" or not self.process:  # else ``started`` knows when
            self._turns.append(partial(_entered, account, time.monotonic(), lost))

    def started(self) -> None:
        """The script starts, now."""
        now = time.monotonic()
        self._turns.append(lambda ledger: ledger.start(now))

    def begins_with(self, step: float) -> None:
        """With which step it begins, once that is known."""
        self._turns.append(lambda ledger: ledger.begins_with(step))

    def reached(self, unit: Unit, step: float, at: float) -> None:
        """The script has come to ``step`` at ``at``."""
        ledger = self.ledger()
        if unit is not self._unit:  # another counter, of which nothing else is known
            if self._unit is not None:
                self._marks[self._unit] = ledger.mark
            ledger = ledger.counts_anew(self._marks.get(unit, -1.0))
            self._unit = unit
        self._ledger = ledger.reached(step, at)

    def ledger(self) -> Ledger:
        """As it stands; what is new is written."""
        from supervisor.training.ledger import Ledger  # noqa: PLC0415

        ledger = self._ledger or Ledger.begin(self._begun_at)
        for turn in self._turns:
            ledger = turn(ledger)
        self._turns.clear()
        self._ledger = ledger
        return ledger

    @property
    def seconds(self) -> float:
        """Of this run, so far."""
        return time.monotonic() - self._begun_at

    def totals(self) -> Mapping[Account, float]:
        """Seconds by account, by now."""
        return self.ledger().totals(time.monotonic())


def _entered(account: str, at: float, lost: bool, ledger: Ledger) -> Ledger:
    from supervisor.training.ledger import Account  # noqa: PLC0415

    return ledger.enter(Account(account), at, lost=lost)


def _account_of(state: State, process: str) -> str:
    """To which account the present moment belongs, as far as the life says it."""
    if before := _BEFORE.get(state.phase):
        return before
    main = process_of(state, process) if process else None
    if state.under_way and (main is None or (main.life is Life.ALIVE and not main.again)):
        return "starting"
    return "waiting" if state.under_way and state.armed & _WAITS else "down"


def _has_failed(present: Present, state: State) -> bool:
    """What came after the last step that was seen has brought nothing."""
    if state.cause is None:
        return True  # another attempt is made
    return present.verdict.outcome is Outcome.FAILED
