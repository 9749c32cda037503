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
    AGAIN = "done_again"
    """Steps that it had done before, up to where it had come; and what was lost in a failure."""
    DOWN = "down"
    """From a failure to the start after it, and from the end of training to the end of the run."""
    WAITING = "waiting"
    """Before another attempt: for its pause, or for a host to come back."""


_TRAINING: Final = (Account.KEPT, Account.AGAIN)

Spent = Mapping[Account, float]
"""Seconds."""


class _First(NamedTuple):
    """The first that was heard of an attempt's steps."""

    begun: float
    """With which one it had started."""
    step: float
    after_s: float
    """For so long it had been starting."""
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
    gap_s: float = 0.0
    """Between the last two steps that were seen."""
    steps: float = 0.0
    """How many new ones there were."""

    @classmethod
    def begin(cls, now: float) -> Ledger:
        """A run begins."""
        return cls(Account.FETCHING, now)

    def enter(self, account: Account, now: float, *, lost: bool = False) -> Ledger:
        """Something else goes on from now.

        ``lost``: training has failed, and what it did since the last step that was seen brought
        nothing. As much of it as lies between two steps was training, which is done again; what is
        more was none: a script that hung.
        """
        seconds = max(0.0, now - self.since)  # a clock that two look at may be a little behind
        spent = self.spent
        if lost and self.account in _TRAINING:
            trained_s = min(seconds, self.gap_s)
            spent = _moved(spent, None, Account.AGAIN, trained_s)
            spent = _moved(spent, None, account, seconds - trained_s)
        else:
            spent = _moved(spent, None, self.account, seconds)
        return replace(self, account=account, since=max(self.since, now), spent=spent)

    def start(self, now: float) -> Ledger:
        """The script starts now."""
        ledger = self.enter(Account.STARTING, now)
        return replace(ledger, step=None, first=None, begun=None, gap_s=0.0)

    def begins_with(self, step: float | None) -> Ledger:
        """The script has started with this step: that of a checkpoint, 0, or nobody knows."""
        return replace(self, begun=step)

    def counts_anew(self, mark: float, steps: float) -> Ledger:
        """What is counted from now on is something else, of which so much is known."""
        return replace(self, mark=mark, steps=steps, step=None, first=None, gap_s=0.0)

    def reached(self, step: float, now: float) -> Ledger:
        """The script has come to ``step``, now."""
        if step == self.step or self.account not in {Account.STARTING, *_TRAINING}:
            return self
        now = max(now, self.since)  # what is told may be of before what is written
        before, mark = self.step, self.mark
        ledger = self
        if before is None:
            begun = step if self.begun is None else self.begun if step >= self.begun else 0.0
            if mark < 0:  # what was done before it began, another has done
                mark = begun
            if self.account is Account.STARTING and self.begun is not None:
                ledger = replace(self, first=_First(begun, step, now - self.since, mark))
        elif step < before:  # it has begun anew, in its own life
            ledger = replace(ledger, first=None)
        else:
            seconds = now - self.since
            ledger = self._shared_out(seconds / (step - before))
            ledger = replace(ledger, gap_s=seconds)
            again = _below(mark, before, step)
            if again > 0:
                ledger = replace(ledger, account=Account.AGAIN)
            if again < 1:
                ledger = ledger.enter(Account.KEPT, self.since + again * seconds)
        new = Account.KEPT if step >= mark else Account.AGAIN
        steps = self.steps + max(0.0, step - mark)
        return replace(ledger.enter(new, now), step=step, mark=max(mark, step), steps=steps)

    def _shared_out(self, step_s: float) -> Ledger:
        """It takes so long for a step: so much of its start was training."""
        if self.first is None:
            return self
        begun, step, after_s, mark = self.first
        trained_s = min((step - begun) * step_s, after_s)
        again_s = _below(mark, begun, step) * trained_s
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
