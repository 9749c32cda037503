"""Where the wall time went: a book in which every moment belongs to one account. Pure.

Over the attempts of a run, and over the runs of a job. Time of training is kept where it brought
new steps, and was done again where the job had come so far before.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NamedTuple


class Account(enum.StrEnum):
    FETCHING = "fetching"
    """Before the barrier: fetching, installing, restoring."""
    JOINING = "joining"
    """Waiting for the other hosts to come."""
    STARTING = "starting"
    """From a script's start to its first step."""
    KEPT = "training"
    """Steps that the job had not done before."""
    AGAIN = "done again"
    """Steps that it had done before, up to where it had come."""
    DOWN = "down"
    """From a failure to the start after it, and from the end of training to the end of the run."""
    WAITING = "waiting"
    """Before another attempt: for its pause, or for a host to come back."""


_TRAINING: Final = (Account.KEPT, Account.AGAIN)

Spent = Mapping[Account, float]
"""Seconds."""


class _First(NamedTuple):
    """The first that was heard of an attempt's steps."""

    step: float
    after_s: float
    """For so long the script had been starting."""
    mark: float
    """How far the job had come before."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Times are a steady clock's, in seconds."""

    account: Account
    """That of the present moment."""
    since: float
    """Up to where the book is written."""
    spent: Spent = field(default_factory=lambda: MappingProxyType({}))
    """What is written."""
    mark: float = -1.0
    """The greatest step that the job has come to."""
    begun: float | None = None
    """The step with which this attempt's script began; None where nobody knows."""
    step: float | None = None
    """The last of this attempt."""
    first: _First | None = None
    """Until it is known how fast the script trains: one that speaks every 50 steps has done 50 by
    then, and was not starting meanwhile."""

    @classmethod
    def begin(cls, now: float, mark: float = -1.0) -> Ledger:
        """A run begins. ``mark``: how far the runs before it have come."""
        return cls(Account.FETCHING, now, mark=mark)

    def enter(self, account: Account, now: float, *, lost: bool = False) -> Ledger:
        """Something else goes on from now.

        ``lost``: training has failed, and what it did since its last step was for nothing.
        """
        seconds = max(0.0, now - self.since)  # a clock that two look at may be a little behind
        ended = account if lost and self.account in _TRAINING else self.account
        spent = _moved(self.spent, None, ended, seconds)
        return replace(self, account=account, since=max(self.since, now), spent=spent)

    def start(self, now: float) -> Ledger:
        """The script starts now."""
        return replace(self.enter(Account.STARTING, now), step=None, first=None, begun=None)

    def begins_with(self, step: float) -> Ledger:
        """The script has started with this step: that of a checkpoint, or 0."""
        return replace(self, begun=step)

    def counts_anew(self, mark: float) -> Ledger:
        """What is counted from now on is something else."""
        return replace(self, mark=mark, step=None, first=None)

    def reached(self, step: float, now: float) -> Ledger:
        """The script has come to ``step``, now."""
        if self.account not in {Account.STARTING, *_TRAINING} or step == self.step:
            return self
        now = max(now, self.since)
        before, mark = self.step, self.mark
        if self.account is Account.STARTING:
            ledger = replace(self, first=_First(step, now - self.since, mark))
        elif before is None or step < before:  # it has begun anew, in its own life
            ledger = replace(self, first=None)
        else:
            ledger = self._shared_out((now - self.since) / (step - before))
            again = _below(mark, before, step)
            middle = self.since + again * (now - self.since)
            if again > 0:
                ledger = replace(ledger, account=Account.AGAIN)
            if again < 1:
                ledger = ledger.enter(Account.KEPT, middle)
        new = Account.KEPT if step >= mark else Account.AGAIN
        return replace(ledger.enter(new, now), step=step, mark=max(mark, step))

    def _shared_out(self, step_s: float) -> Ledger:
        """It takes so long for a step: so much of its start was training."""
        if self.first is None or self.begun is None:
            return replace(self, first=None)
        step, after_s, mark = self.first
        steps = max(0.0, step - self.begun)
        trained_s = min(steps * step_s, after_s)
        again_s = _below(mark, self.begun, step) * trained_s
        spent = _moved(self.spent, Account.STARTING, Account.AGAIN, again_s)
        spent = _moved(spent, Account.STARTING, Account.KEPT, trained_s - again_s)
        return replace(self, first=None, spent=spent)

    def totals(self, now: float) -> Spent:
        """Of each account, the present moment included; they add up to the wall time."""
        spent = self.enter(self.account, now).spent
        return {account: spent.get(account, 0.0) for account in Account}


def goodput(totals: Spent) -> float | None:
    """The share of the time that brought new steps; None where no time has passed."""
    whole = sum(totals.values())
    return totals.get(Account.KEPT, 0.0) / whole if whole > 0 else None


def _below(mark: float, before: float, step: float) -> float:
    """Which part of the way from one step to a later one lies below the mark."""
    return min(max(mark - before, 0.0) / (step - before), 1.0) if step > before else 0.0


def _moved(spent: Spent, source: Account | None, to: Account, seconds: float) -> Spent:
    """With seconds written to an account, out of another one or new."""
    moved = {**spent, to: spent.get(to, 0.0) + seconds}
    if source is not None:
        moved[source] = moved.get(source, 0.0) - seconds
    return MappingProxyType(moved)
