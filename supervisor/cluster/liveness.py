"""Who is alive, decided from observations alone. Pure: every time is an argument.

These things are never confused. *Finished*: it said so. *Crashed*: after it had answered, its
host refuses connections, several times over a window; a refusal is an answer by the kernel of a
host on which nobody listens any more. *Unreachable*: silence past a lease, whatever the reason.
*Restarted*: another run of it answers in its place. *Unseen*: it has not answered yet, which is
never a death, however long it lasts.

All times are seconds of an `ActiveClock`, so that our own suspension is not the other's silence.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from supervisor.faults import counted
from supervisor.life.words import JobState

_PATIENCE = 1.5
"""Leases for which a member that is not taken asks again."""


class ActiveClock:
    """A clock that stands still while this process does not run.

    A SIGSTOP, a blocked event loop and a starved machine are such times. The clock is advanced at
    least every ``max_step_s`` seconds while the process runs; a longer gap between two advances
    means that it did not, and counts as ``max_step_s``.
    """

    def __init__(self, now: float, *, max_step_s: float) -> None:
        self._last = now
        self._active = 0.0
        self._max_step_s = max_step_s

    def advance(self, now: float) -> float:
        """Take over the monotonic time and return the active seconds so far."""
        self._active += min(max(now - self._last, 0.0), self._max_step_s)
        self._last = now
        return self._active


@dataclass(slots=True)
class Refusals:
    """Refused connections in a row.

    ``count`` of them over ``window_s`` seconds are a proof; one alone may be a restart of a
    listener or a name that moved.
    """

    count: int
    window_s: float
    _seen: int = 0
    _since: float = 0.0

    def add(self, now: float) -> bool:
        """Count one; True when the proof is complete."""
        if self._seen == 0:
            self._since = now
        self._seen += 1
        return self._seen >= self.count and now - self._since >= self.window_s

    def clear(self) -> None:
        self._seen = 0

    def __str__(self) -> str:
        return f"{counted(self._seen, 'connection')} refused in a row"


# --------------------------------------------------------------------------- observations


@dataclass(frozen=True, slots=True)
class Answered:
    """The status port answered.

    ``state`` is None when the answer was no job document: an error status, another protocol,
    garbage. It is alive all the same. ``run`` is the document's.
    """

    state: JobState | None = None
    run: str = ""


@dataclass(frozen=True, slots=True)
class Renewed:
    """A master answered that we follow another run than its own: it was started anew."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The status port answered that we are nobody to it: a wrong token, another address, no master.

    A master that is ours may say so before the job runs (its resolver is behind, our token is
    wrong). Once it has begun with us, whoever says so is no sign of its life.
    """

    evidence: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A master answered, and does not take this host; ``final`` where waiting cannot change it."""

    evidence: str
    final: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The status port's host refused the connection."""

    evidence: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nothing came: a time-out, no route, no name, a connection that broke.

    ``connected``: the port took the connection before that. A stopped process does so too (its
    kernel answers), so it is no sign of life; but something listens.
    """

    evidence: str
    connected: bool = False


@dataclass(frozen=True, slots=True)
class ChiefOpen:
    """The chief's own TCP port accepts connections."""


@dataclass(frozen=True, slots=True)
class ChiefRefused:
    evidence: str


@dataclass(frozen=True, slots=True)
class ChiefSilent:
    evidence: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by."""


Observation = (
    Answered
    | Renewed
    | Denied
    | Rejected
    | Refused
    | NoAnswer
    | ChiefOpen
    | ChiefRefused
    | ChiefSilent
    | Tick
)


# --------------------------------------------------------------------------- findings


@dataclass(frozen=True, slots=True)
class Seen:
    """It answers for the first time; ``bare``: only the chief's TCP port does."""

    bare: bool


class How(enum.StrEnum):
    CRASHED = "crashed"
    UNREACHABLE = "unreachable"
    RESTARTED = "restarted"
    REFUSES = "refuses this host"


@dataclass(frozen=True, slots=True)
class Lost:
    """``final``: nothing that comes later is news. Before the job runs a master may come back."""

    how: How
    evidence: str
    final: bool = True


@dataclass(frozen=True, slots=True)
class Ended:
    """A bare master's port is closed: it ended, its verdict is unknown."""

    evidence: str


Finding = Seen | Lost | Ended


# --------------------------------------------------------------------------- the master


class MasterState(enum.StrEnum):
    UNSEEN = "unseen"
    UP = "up"
    BARE = "bare"
    """Up by its chief's TCP port alone: it runs no status server."""
    DRAINING = "draining"
    ENDED = "ended"
    """Final: it gave its verdict, or a bare one closed its port."""
    LOST = "lost"
    """Final: crashed, unreachable, restarted, or it does not take us."""


@dataclass(slots=True)
class MasterLiveness:
    """What a member knows of its master: ``unseen → up → draining → ended``, or ``lost``.

    Until the job runs, a master that crashes or falls silent is *unseen* again: nothing has been
    started, and it may be started anew. From the first document that says more than *joining* it
    is bound to one run, and whatever else answers is not this master. Where it ``may_return`` it is
    *unseen* then as well: a new one takes the run up.

    Args:
        lease_s: silence after which a master that had answered is unreachable.
        refused_count: connections refused in a row that prove a crash …
        refused_window_s: … when they are spread over at least this long.
        bare_after_s: how long the chief's port must be open, with the status port refused or
            silent and never seen, until the master is taken for one without a status server.

    """

    lease_s: float
    refused_count: int
    refused_window_s: float
    bare_after_s: float
    state: MasterState = MasterState.UNSEEN
    evidence: str = "not asked yet"
    """The last thing observed, for people."""
    _refusals: Refusals = field(init=False)
    _chief_refusals: Refusals = field(init=False)
    bound: bool = False
    """The job has begun: from here on a loss is final."""
    run: str = ""
    """Of the job, as the last document named it."""
    may_return: bool = False
    """A master that is gone while the job runs is waited for."""
    _last_sign: float = 0.0
    _ever_seen: bool = False
    _chief_open_since: float | None = None
    _rejected_since: float | None = None

    def __post_init__(self) -> None:
        self._refusals = Refusals(self.refused_count, self.refused_window_s)
        self._chief_refusals = Refusals(self.refused_count, self.refused_window_s)

    @property
    def final(self) -> bool:
        return self.state in (MasterState.ENDED, MasterState.LOST)

    @property
    def seen(self) -> bool:
        """Whether the status port answers, as far as is known."""
        return self.state is not MasterState.UNSEEN and self.state is not MasterState.BARE

    @property
    def wants_chief(self) -> bool:
        """Whether the chief's port is worth a look: only while the status port never answered."""
        return not self._ever_seen and not self.final

    def silence_s(self, now: float) -> float:
        """Seconds since the last sign of life; 0 while there was none."""
        return 0.0 if self.state is MasterState.UNSEEN else now - self._last_sign

    def observe(self, observation: Observation, now: float) -> Finding | None:
        """Take in one observation at ``now`` (active seconds) and say what follows, if anything."""
        match observation:
            case Answered(state, run):
                return self._answered(state, run, now)
            case Renewed():
                if self._follows_a_run and not self.final:
                    return self._restarted()
                return self._answered(None, "", now)  # the next poll brings its document
            case Denied(evidence):
                if not self.bound:
                    return self._answered(None, "", now)
                self.evidence = evidence
            case Rejected(evidence, final):
                return self._rejected(evidence, now, final=final)
            case Refused(evidence):
                self.evidence = evidence
                proven = self._refusals.add(now)
                if proven and self.state in (MasterState.UP, MasterState.DRAINING):
                    return self._lost(How.CRASHED, f"{evidence}: {self._refusals}")
            case NoAnswer(evidence, connected):
                self.evidence = evidence
                if connected:
                    # Something listens on the status port: no crash, and no bare master either.
                    self._refusals.clear()
                    self._chief_open_since = None
            case ChiefOpen():
                self._chief_refusals.clear()
                return self._chief_open(now)
            case ChiefRefused(evidence):
                self._chief_open_since = None
                proven = self._chief_refusals.add(now)
                if proven and self.state is MasterState.BARE:
                    self.state = MasterState.ENDED
                    return Ended(f"{evidence} after it had been open")
            case ChiefSilent(evidence):
                if self.state is MasterState.BARE:
                    self.evidence = evidence
            case Tick():
                pass
        return self._check_lease(now)

    def _answered(self, job: JobState | None, run: str, now: float) -> Finding | None:
        if self.final:
            return None
        if job is not None:
            if self._follows_a_run and run != self.run:
                return self._restarted()
            self.run = run
            self.bound = self.bound or job is not JobState.JOINING
            self._rejected_since = None
        self.evidence = "answers"
        first = self._sign(now)
        if job is JobState.ENDED:
            self.state = MasterState.ENDED
        elif job is JobState.STOPPING:
            self.state = MasterState.DRAINING
        elif self.state is not MasterState.DRAINING:
            self.state = MasterState.UP
        return Seen(bare=False) if first else None

    @property
    def _follows_a_run(self) -> bool:
        return self.bound and bool(self.run)

    def _restarted(self) -> Lost:
        return self._lost(
            How.RESTARTED,
            "another run of its supervisor answers, which knows nothing of this one",
            final=True,
        )

    def _sign(self, now: float) -> bool:
        """Take a sign of life; True for the first one."""
        first = not self.seen
        self._ever_seen = True
        self._last_sign = now
        self._refusals.clear()
        return first

    def _rejected(self, evidence: str, now: float, *, final: bool) -> Finding | None:
        """It does not take us: for good, or for longer than silence may last.

        A name may still lead to the last job's master, and a supervisor that was killed may not
        be known to be dead yet: its lease has to run out first.
        """
        if self.final:
            return None
        self.evidence = evidence
        if self._rejected_since is None:
            self._rejected_since = now
        if final or now - self._rejected_since > _PATIENCE * self.lease_s:
            return self._lost(How.REFUSES, evidence, final=True)
        if self.bound:
            return self._check_lease(now)  # no sign of life of ours
        # Somebody listens who is no bare master, whatever the chief's port says.
        first = self._sign(now)
        self.state = MasterState.UP
        return Seen(bare=False) if first else None

    def _chief_open(self, now: float) -> Finding | None:
        if self.state is MasterState.BARE:
            self._last_sign = now
        elif self.wants_chief:
            if self._chief_open_since is None:
                self._chief_open_since = now
            if now - self._chief_open_since >= self.bare_after_s:
                self.state = MasterState.BARE
                self.bound = True
                self._last_sign = now
                return Seen(bare=True)
        return None

    def _check_lease(self, now: float) -> Finding | None:
        if self.final or self.state is MasterState.UNSEEN:
            return None
        if now - self._last_sign <= self.lease_s:
            return None
        if self.bound and self._rejected_since is not None:
            return self._lost(How.REFUSES, self.evidence, final=True)
        return self._lost(
            How.UNREACHABLE, f"no answer for {now - self._last_sign:.0f} s ({self.evidence})"
        )

    def _lost(self, how: How, evidence: str, *, final: bool = False) -> Lost:
        final = final or (self.bound and not self.may_return)
        self.state = MasterState.LOST if final else MasterState.UNSEEN
        self._refusals.clear()
        self._rejected_since = None
        return Lost(how, evidence, final)


# --------------------------------------------------------------------------- the members


class MemberState(enum.StrEnum):
    UNSEEN = "unseen"
    UP = "up"
    DONE = "done"
    """It said so; it is not watched any more."""
    CRASHED = "crashed"
    UNREACHABLE = "unreachable"


@dataclass(slots=True)
class _Member:
    refusals: Refusals
    state: MemberState = MemberState.UNSEEN
    last_sign: float = 0.0
    proven_open: bool = False
    """Its port has accepted a connection of ours, so that a refusal means something. A member
    that binds its status port to loopback refuses us all its life."""


class MemberWatch:
    """What the master knows of its members' lives, by their own words and by knocks at their doors.

    Args:
        hosts: the members to expect.
        lease_s: silence after which a member that had joined is unreachable.
        refused_count: connections refused in a row that prove a crash …
        refused_window_s: … when they are spread over at least this long.

    """

    def __init__(
        self, hosts: Iterable[str], *, lease_s: float, refused_count: int, refused_window_s: float
    ) -> None:
        self._lease_s = lease_s
        self._refused_count = refused_count
        self._refused_window_s = refused_window_s
        self._members = {host: _Member(Refusals(refused_count, refused_window_s)) for host in hosts}

    def signed(self, host: str, now: float) -> bool:
        """Take a sign of life; True for its first one, and for that of one that was given up."""
        member = self._members[host]
        first = member.state not in (MemberState.UP, MemberState.DONE)
        member.last_sign = now
        member.refusals.clear()
        if member.state is not MemberState.DONE:
            member.state = MemberState.UP
        return first

    def done(self, host: str) -> None:
        self._members[host].state = MemberState.DONE

    def replaced(self, host: str, now: float) -> Lost | None:
        """Watch a member again that has come back as a new process; what became of the old one."""
        was_up = self._members[host].state is MemberState.UP
        self._members[host] = _Member(
            Refusals(self._refused_count, self._refused_window_s), MemberState.UP, now
        )
        return Lost(How.RESTARTED, "its supervisor was started anew") if was_up else None

    def given_up(self, host: str) -> Lost | None:
        """Take a member for gone whose place another process wants while the job runs."""
        member = self._members[host]
        if member.state is not MemberState.UP:
            return None
        member.state = MemberState.CRASHED
        return Lost(How.RESTARTED, "its supervisor was started anew while the job ran")

    def opened(self, host: str) -> None:
        """Note that its port accepts connections. A stopped process's does too: no sign of life."""
        member = self._members[host]
        member.proven_open = True
        member.refusals.clear()

    def refused(self, host: str, evidence: str, now: float) -> Lost | None:
        member = self._members[host]
        if member.state is not MemberState.UP or not member.proven_open:
            return None
        if not member.refusals.add(now):
            return None
        member.state = MemberState.CRASHED
        return Lost(How.CRASHED, f"{evidence}: {member.refusals}")

    def tick(self, now: float) -> list[tuple[str, Lost]]:
        """Tell the members whose lease has run out, each once."""
        lost: list[tuple[str, Lost]] = []
        for host, member in self._members.items():
            if member.state is MemberState.UP and now - member.last_sign > self._lease_s:
                member.state = MemberState.UNREACHABLE
                evidence = f"nothing heard for {now - member.last_sign:.0f} s"
                lost.append((host, Lost(How.UNREACHABLE, evidence)))
        return lost

    def state(self, host: str) -> MemberState:
        return self._members[host].state

    def proven_open(self, host: str) -> bool:
        return self._members[host].proven_open

    def silence_s(self, host: str, now: float) -> float | None:
        """Seconds since the last sign of life, None if there was none."""
        member = self._members[host]
        return None if member.state is MemberState.UNSEEN else now - member.last_sign
