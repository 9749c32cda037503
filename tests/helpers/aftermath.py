"""What the blows have done to a job, whatever its hosts say of it. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Final

from tests.helpers.blows import (
    FREEZING,
    JOIN_S,
    LEASE_S,
    MASTER,
    STOPPING,
    Blow,
    Dealt,
    Kind,
    Manner,
    Seen,
    Target,
    Trial,
)

CRASH_S: Final = 4.0
"""A peer's crash takes so long to be proven: refusals over a second, on a busy machine."""
SWEEP_S: Final = 2.0
"""What outlives a script that ended of its own accord has so long after SIGTERM."""
SETTLE_S: Final = 2.0
"""A failure that speaks of a lost peer is looked at for so long."""
BEFORE: Final = frozenset({"", "preparing", "joining"})
"""Phases in which nothing has been started."""


class Aftermath:
    """``patience`` multiplies the times that a busy machine makes longer."""

    def __init__(
        self, trial: Trial, dealt: Sequence[Dealt], seen: Mapping[str, Seen], patience: float
    ) -> None:
        self.trial = trial
        self.dealt = dealt
        self.seen = seen
        self.patience = patience
        self.killed = {
            host.name
            for host in seen.values()
            if any(d.blow.host == host.name and self.ended_it(d, host) for d in dealt)
        }
        """Hosts whose supervisors a blow has ended, so that they could say nothing."""
        self.reborn = {host.name for host in seen.values() if host.reborn}
        """Those that were started anew after that."""
        self.killed -= self.reborn
        self.frozen = {d.blow.host for d in dealt if self.frozen_long(d.blow)}

        """Hosts whose supervisors were stopped for longer than a lease."""
        self.gone = self.killed | self.reborn | self.frozen

    # ------------------------------------------------------------------ one blow

    def ended_it(self, dealt: Dealt, host: Seen) -> bool:
        blow = dealt.blow
        if blow.target is not Target.SUPERVISOR or host.code is None:
            return False
        if blow.signum == signal.SIGKILL:
            return host.reborn or host.code == -signal.SIGKILL
        # Before its first instruction it is any Python.
        early = host.up_at is None or host.up_at > dealt.at
        return blow.signum in STOPPING and early and host.code in {-blow.signum, 130, 1}

    def frozen_long(self, blow: Blow) -> bool:
        return (
            blow.target is Target.SUPERVISOR
            and blow.signum == signal.SIGSTOP
            and (blow.thaw_s is None or blow.thaw_s > LEASE_S)
        )

    def dies(self, dealt: Dealt) -> bool:
        """Whether the process that was struck dies of it."""
        blow, manner = dealt.blow, self.trial.manner
        if blow.signum in FREEZING:
            return False
        if blow.signum == signal.SIGKILL:
            return blow.target is not Target.GUARDIAN
        match blow.target:
            case Target.SCRIPT if blow.signum == signal.SIGINT:
                return manner is not Manner.STUBBORN
            case Target.SCRIPT:
                return manner in {Manner.PLAIN, Manner.WRAPPED}
            case _:  # servers of ours end of their supervisor's signals alone
                return False

    def harmful(self, dealt: Dealt) -> bool:
        """Whether the job cannot go on after it."""
        blow = dealt.blow
        match blow.target:
            case Target.GUARDIAN | Target.SYNC:
                return False
            case Target.SUPERVISOR:
                if blow.host in self.reborn:
                    return dealt.phase not in BEFORE  # nothing had been started by anybody
                fatal = blow.host in self.killed or blow.signum in STOPPING
                return fatal or self.frozen_long(blow)
            case Target.SCRIPT if blow.signum == signal.SIGSTOP:
                return blow.thaw_s is None
            case Target.SCRIPT if self._heeds_nothing(blow):
                return self.seen[blow.host].finished_at is None
            case _:
                return self.dies(dealt)

    def _heeds_nothing(self, blow: Blow) -> bool:
        """TensorFlow's notifier of preemptions takes SIGTERM, once a job's collectives are up."""
        return self.trial.kind is Kind.TF_MWMS and blow.signum == signal.SIGTERM

    def detected_s(self, dealt: Dealt) -> float:
        """The longest time from a blow to the end of the job that follows from it."""
        blow = dealt.blow
        if self.ended_it(dealt, self.seen[blow.host]):
            seconds = CRASH_S if self.seen[blow.host].joined_at or blow.host == MASTER else JOIN_S
            seconds = max(seconds, LEASE_S + 1.0)
        elif self.frozen_long(blow):
            seconds = LEASE_S + 2.0
        elif blow.signum == signal.SIGSTOP:
            seconds = self.trial.hang_s + 2.5
        else:
            seconds = 0.5 + SETTLE_S * self.trial.kind.tensorflow
            if self.trial.manner in {Manner.WRAPPED, Manner.STUBBORN}:
                seconds += 2 * SWEEP_S  # what outlives it, deaf to SIGTERM too, is ended first
        return seconds * self.patience + 0.5

    def too_late(self, dealt: Dealt) -> bool:
        """Whether the job was already ending, and the host that was struck had heard so: a report
        and the verdict after it take a moment where three TensorFlows start on two cores."""
        return any(
            host.ending_at < dealt.at - (0.1 if host.name == dealt.blow.host else 1.0)
            for host in self.seen.values()
            if host.ending_at is not None
        )

    # ------------------------------------------------------------------ the job

    def tolerated(self) -> set[str]:
        """Hosts whose loss the failure policy may let pass."""
        if not self.trial.tolerated:
            return set()
        hosts = {
            d.blow.host
            for d in self.dealt
            if d.blow.host != MASTER and self.harmful(d) and self._may_pass(d)
        }
        return hosts if len(hosts) <= self.trial.tolerated else set()

    def _may_pass(self, dealt: Dealt) -> bool:
        blow = dealt.blow
        if blow.target is Target.SUPERVISOR:
            lost = blow.host in self.killed | self.reborn or self.frozen_long(blow)
            return lost and not self.trial.kind.servers
        stopped = blow.signum == signal.SIGSTOP  # a hang is no failure of a worker
        return blow.target in {Target.SCRIPT, Target.CHILD, Target.SERVER} and not stopped

    def may_be_finished(self) -> bool:
        """Whether the scripts that decide it left with 0, before any blow could count."""
        tolerated = self.tolerated()
        needed = [MASTER] if self.trial.kind.chief_decides else list(self.trial.hosts)
        times = [
            self.seen[name].finished_at
            for name in needed
            if name not in tolerated or self.seen[name].finished_at is not None
        ]
        if any(time is None for time in times) or not times:
            return False
        finished_at = max(time for time in times if time is not None)
        return all(
            finished_at <= dealt.at + self.detected_s(dealt)
            for dealt in self.dealt
            if self.harmful(dealt) and dealt.blow.host not in tolerated
        )

    def joined_before(self, dealt: Dealt, host: Seen) -> bool:
        """Whether the two had met, so that one takes note when the other is gone."""
        struck = dealt.blow.host
        if struck != MASTER:
            members = [self.seen[struck]]
        elif host.name != MASTER:
            members = [host]
        else:
            members = [each for each in self.seen.values() if each.name != MASTER]
        return all(each.joined_at and each.joined_at < dealt.at for each in members)

    def met(self, stopped: Seen, host: Seen) -> bool:
        """Whether the host that was stopped could tell the others while it was there."""
        pairs = [(stopped, self.seen[MASTER]), (self.seen[MASTER], host)]
        for one, other in pairs:
            if one is other:
                continue
            up = [each.up_at for each in (one, other)]
            ended = [each.ended_at for each in (one, other) if each.ended_at is not None]
            if any(at is None for at in up):
                return False
            if ended and max(at for at in up if at is not None) > min(ended) - 1.0:
                return False
        return True

    def sync_held(self) -> bool:
        return any(
            d.blow.target is Target.SYNC and d.blow.signum == signal.SIGSTOP for d in self.dealt
        )
