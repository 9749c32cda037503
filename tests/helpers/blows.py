"""Blows to whole jobs: which there are, drawn by a seed, and what may follow from each. Pure.

A `Trial` is a job and the blows that it is dealt. `judge` is the oracle: from the trial, from what
was dealt when, and from what every host left behind, it says what is wrong. Its rules are the
guide's (``ending.md``), told a second time and independently of the program:

- a script that dies is the cause, with its host and the way it died; its host has its code
- a server that dies is the cause, with 85 on its host
- a supervisor that dies, or is silent for a lease, is lost: 84 where the master says so, 83 where
  the master is the one
- a stop signal is a stop, and every host has the chief's answer to it as its code
- a job is finished if, and only if, the scripts that decide it left with 0 before a blow could
  count
"""

from __future__ import annotations

import enum
import random
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

LEASE_S: Final = 4.0
STOP_GRACE_S: Final = 5.0
END_GRACE_S: Final = 2.0
SERVER_GRACE_S: Final = 2.0
STOP_LIMIT_S: Final = 25.0
ACK_S: Final = 5.0
JOIN_S: Final = 10.0
PUBLISH_S: Final = 6.0
GROUP_S: Final = 3.0
KILL_S: Final = 3.0
CRASH_S: Final = 4.0
"""A peer's crash takes so long to be proven: refusals over a second, on a busy machine."""
SWEEP_S: Final = 2.0
"""What outlives a script that ended of its own accord has so long after SIGTERM."""
SETTLE_S: Final = 2.0
"""A failure that speaks of a lost peer is looked at for so long."""

SETTINGS: Final[Mapping[str, str]] = {
    "SUPERVISOR_MASTER_LEASE_S": f"{LEASE_S:g}",
    "SUPERVISOR_STOP_GRACE_S": f"{STOP_GRACE_S:g}",
    "SUPERVISOR_END_GRACE_S": f"{END_GRACE_S:g}",
    "SUPERVISOR_SERVER_GRACE_S": f"{SERVER_GRACE_S:g}",
    "SUPERVISOR_STOP_LIMIT_S": f"{STOP_LIMIT_S:g}",
    "SUPERVISOR_ACK_TIMEOUT_S": f"{ACK_S:g}",
    "SUPERVISOR_JOIN_TIMEOUT_S": f"{JOIN_S:g}",
    "SUPERVISOR_PREPARE_TIMEOUT_S": f"{JOIN_S:g}",
    "SUPERVISOR_FETCH_TIMEOUT_S": f"{JOIN_S:g}",
    "SUPERVISOR_PUBLISH_TIMEOUT_S": f"{PUBLISH_S:g}",
    "SUPERVISOR_CHECKPOINT_SETTLE_S": "0.2",
    "SUPERVISOR_SYNC_RESCAN_S": "1",
    "SUPERVISOR_LOG_LEVEL": "debug",
    "SUPERVISOR_MODEL_CHECK": "off",
}

MASTER: Final = "algo-1"


class Kind(enum.StrEnum):
    """What job it is."""

    ALONE = "alone"
    PLAIN = "plain"
    """Hosts whose scripts know nothing of each other."""
    MWMS = "mwms"
    """The contract of MultiWorkerMirroredStrategy, and scripts that use no TensorFlow."""
    PS = "ps"
    """Real parameter servers, and scripts that do not use them."""
    SERVER = "server"
    """The same, with worker servers of ours in place of the workers' scripts."""
    KEPT = "kept"
    """One host, whose checkpoints are sent to a directory."""
    TF_PS = "tf-ps"
    """ParameterServerStrategy, really."""
    TF_MWMS = "tf-mwms"
    """MultiWorkerMirroredStrategy, really."""

    @property
    def tensorflow(self) -> bool:
        return self in {Kind.TF_PS, Kind.TF_MWMS}

    @property
    def servers(self) -> bool:
        return self in {Kind.PS, Kind.SERVER, Kind.TF_PS}

    @property
    def chief_decides(self) -> bool:
        """Whether the chief's exit 0 is the job's success."""
        return self.servers or self in {Kind.ALONE, Kind.KEPT}


class Manner(enum.StrEnum):
    """How the scripts take SIGTERM."""

    SAVES = "saves"
    """They take a while to save, and leave with 0."""
    PLAIN = "plain"
    """They die of it."""
    STUBBORN = "stubborn"
    """They ignore it."""
    WRAPPED = "wrapped"
    """A shell runs one that saves; the shell itself dies of the signal."""


class Target(enum.StrEnum):
    SUPERVISOR = "supervisor"
    GUARDIAN = "guardian"
    SCRIPT = "script"
    CHILD = "child"
    """What the wrapping shell runs."""
    SYNC = "sync"
    PS = "ps"
    SERVER = "server"
    """A worker server of ours."""


class When(enum.StrEnum):
    """From what the time of a blow is counted."""

    SPAWN = "spawn"
    """The start of the host's supervisor: before and while the hosts join."""
    RUNNING = "running"
    """The target is there, and the host's script has begun."""
    ENDING = "ending"
    """Some host says that the job is ending."""
    BLOW = "blow"
    """The blow before this one."""


@dataclass(frozen=True, slots=True)
class Blow:
    target: Target
    host: str
    signum: int
    when: When
    after_s: float
    thaw_s: float | None = None
    """After SIGSTOP and SIGTSTP: when SIGCONT follows; None: a supervisor is continued when the
    other hosts have ended, anything else never."""
    again_s: float | None = None
    """After the death of a supervisor: when it is started anew, as an orchestrator does."""

    def __str__(self) -> str:
        text = f"{signal.Signals(self.signum).name} to {self.host} {self.target}"
        if self.signum in FREEZING:
            text += " for good" if self.thaw_s is None else f" for {self.thaw_s:.1f} s"
        if self.again_s is not None:
            text += f", anew after {self.again_s:.1f} s"
        return f"{text}, {self.when} + {self.after_s:.2f} s"


FREEZING: Final = frozenset({signal.SIGSTOP, signal.SIGTSTP})
STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT})


@dataclass(frozen=True, slots=True)
class Trial:
    seed: int
    index: int
    kind: Kind
    hosts: tuple[str, ...]
    manner: Manner
    script_s: float
    """How long a script runs that nobody disturbs."""
    save_s: float
    stagger_s: tuple[float, ...]
    """When each host is started."""
    tolerated: int
    hang_s: float
    """0: nothing is found hung."""
    blows: tuple[Blow, ...]

    def __str__(self) -> str:
        words = [f"{self.kind}/{len(self.hosts)}", self.manner.value]
        if self.tolerated:
            words.append(f"tolerate:{self.tolerated}")
        if self.hang_s:
            words.append(f"hang {self.hang_s:g} s")
        return f"{' '.join(words)}: {'; '.join(map(str, self.blows))}"

    @property
    def environment(self) -> dict[str, str]:
        env = dict(SETTINGS)
        if self.tolerated:
            env["SUPERVISOR_FAILURE_POLICY"] = f"tolerate:{self.tolerated}"
        if self.hang_s:
            env["SUPERVISOR_HANG_TIMEOUT_S"] = f"{self.hang_s:g}"
        if self.kind is Kind.SERVER:
            env["SUPERVISOR_WORKER"] = "server"
        return env


# --------------------------------------------------------------------------- drawing

_WEIGHTS: Final = {
    Target.SUPERVISOR: {
        signal.SIGKILL: 8,
        signal.SIGTERM: 6,
        signal.SIGINT: 2,
        signal.SIGSTOP: 6,
        signal.SIGTSTP: 1,
    },
    Target.GUARDIAN: {signal.SIGKILL: 3, signal.SIGTERM: 1, signal.SIGSTOP: 1},
    Target.SCRIPT: {signal.SIGKILL: 6, signal.SIGTERM: 4, signal.SIGINT: 1, signal.SIGSTOP: 3},
    Target.CHILD: {signal.SIGKILL: 2, signal.SIGTERM: 1},
    Target.SYNC: {signal.SIGKILL: 4, signal.SIGTERM: 1, signal.SIGSTOP: 1},
    Target.PS: {signal.SIGKILL: 3, signal.SIGTERM: 2, signal.SIGSTOP: 1},
    Target.SERVER: {signal.SIGKILL: 3, signal.SIGTERM: 2},
}


def draw(seed: int, index: int, kinds: Sequence[Kind]) -> Trial:
    """The trial of this number, the same whenever it is drawn with the same kinds."""
    dice = random.Random(f"{seed}:{index}")
    kind = kinds[index % len(kinds)]
    count = 1 if kind in {Kind.ALONE, Kind.KEPT} else 2 if kind is Kind.TF_MWMS else 0
    hosts = tuple(f"algo-{number}" for number in range(1, 1 + (count or dice.choice((2, 3)))))
    manner = Manner.PLAIN
    if not kind.tensorflow:
        manner = dice.choices(tuple(Manner), (5, 2, 1, 3))[0]
    if kind is Kind.KEPT:
        manner = Manner.SAVES
    longest_s = 3.5 if manner is Manner.WRAPPED else 1.0
    several = kind in {Kind.PLAIN, Kind.MWMS, Kind.PS, Kind.SERVER}
    tolerated = int(several and dice.random() < 0.25)
    script_s = 4.0 if kind.tensorflow else dice.uniform(1.0, 3.0)
    blows = _draw_blows(dice, kind, hosts, manner, script_s)
    frozen = any(b.signum == signal.SIGSTOP and b.target is Target.SCRIPT for b in blows)
    rescued = any(b.target is Target.SUPERVISOR and b.signum in STOPPING for b in blows)
    unthawed = frozen and not rescued and any(b.thaw_s is None for b in blows)
    return Trial(
        seed=seed,
        index=index,
        kind=kind,
        hosts=hosts,
        manner=manner,
        script_s=script_s,
        save_s=dice.uniform(0.1, longest_s),
        stagger_s=tuple(dice.uniform(0.0, 0.8) for _ in hosts),
        tolerated=tolerated,
        hang_s=(5.0 if kind.tensorflow else 2.0) if unthawed else 0.0,
        blows=blows,
    )


def _draw_blows(
    dice: random.Random, kind: Kind, hosts: tuple[str, ...], manner: Manner, script_s: float
) -> tuple[Blow, ...]:
    first = _draw_blow(dice, kind, hosts, manner)
    when, after_s = _draw_time(dice, first.target, script_s)
    first = replace(first, when=when, after_s=after_s)
    if first.signum == signal.SIGSTOP and first.target is Target.SCRIPT and first.thaw_s is None:
        if dice.random() < 0.5:
            stop = Blow(Target.SUPERVISOR, dice.choice(hosts), signal.SIGTERM, When.BLOW, 0.7)
            return first, stop
        return (first,)
    if dice.random() > 0.2:
        return (first,)
    for _ in range(20):
        second = _draw_blow(dice, kind, hosts, manner)
        if _may_follow(first, second):
            return first, replace(second, when=When.BLOW, after_s=dice.uniform(0.0, 0.4))
    return (first,)


def _may_follow(first: Blow, second: Blow) -> bool:
    """Whether what the two do to a job can still be told."""
    if second.again_s is not None or (first.again_s is not None and first.host == second.host):
        return False
    if second.signum in FREEZING or (first.signum in FREEZING and first.host == second.host):
        return False
    if first.host == second.host and first.signum == signal.SIGKILL:
        # A dead supervisor's children are its guardian's; a dead guardian's supervisor must live.
        return {first.target, second.target} <= {Target.SCRIPT, Target.PS, Target.SYNC}
    both = {first.target, second.target}
    return first.host != second.host or both != {Target.GUARDIAN, Target.SUPERVISOR}


def _draw_blow(dice: random.Random, kind: Kind, hosts: tuple[str, ...], manner: Manner) -> Blow:
    """A blow whose time is not drawn yet."""
    targets = {Target.SUPERVISOR: 6, Target.SCRIPT: 4, Target.GUARDIAN: 1}
    if manner is Manner.WRAPPED:
        targets[Target.CHILD] = 3
    if kind is Kind.KEPT:
        targets[Target.SYNC] = 8
    if kind.servers:
        targets[Target.PS] = 4
    if kind is Kind.SERVER:
        targets[Target.SERVER] = 5
    target = dice.choices(tuple(targets), tuple(targets.values()))[0]
    host = dice.choice(hosts)
    if target is Target.SCRIPT and kind is Kind.SERVER:
        host = MASTER  # the only one that has a script
    if target is Target.SERVER:
        host = dice.choice(hosts[1:])
    signals = dict(_WEIGHTS[target])
    if target is Target.SCRIPT and (kind.tensorflow or manner is Manner.WRAPPED):
        signals.pop(signal.SIGINT)  # what a KeyboardInterrupt does there is anybody's guess
    if target is Target.SCRIPT and manner is Manner.WRAPPED:
        signals.pop(signal.SIGSTOP)  # the shell's child goes on
    signum = int(dice.choices(tuple(signals), tuple(signals.values()))[0])
    thaw_s = None
    if signum in FREEZING:
        thaw_s = _draw_thaw(dice, target, signum, alone=len(hosts) == 1)
    again_s = None
    if (target, signum) == (Target.SUPERVISOR, signal.SIGKILL) and len(hosts) > 1:
        again_s = dice.uniform(0.05, LEASE_S / 2) if dice.random() < 0.4 else None
    return Blow(target, host, signum, When.RUNNING, 0.0, thaw_s, again_s)


def _draw_time(dice: random.Random, target: Target, script_s: float) -> tuple[When, float]:
    """Of a supervisor all of its life; of what it runs the time when that is likely there."""
    supervisor = target is Target.SUPERVISOR
    late = supervisor or target in {Target.GUARDIAN, Target.SYNC}
    when = dice.choices((When.SPAWN, When.RUNNING, When.ENDING), (3 * supervisor, 7, 2 * late))[0]
    ending_s = 0.2 if supervisor else 0.08  # what sends checkpoints is soon gone
    longest_s = {When.SPAWN: 2.0, When.RUNNING: 0.9 * script_s, When.ENDING: ending_s}[when]
    return when, dice.uniform(0.0, longest_s)


def _draw_thaw(dice: random.Random, target: Target, signum: int, *, alone: bool) -> float | None:
    """Either well within a lease, or well beyond it."""
    short_s = dice.uniform(0.2, LEASE_S / 3)
    if signum == signal.SIGTSTP or alone or target is Target.PS:
        return short_s if target is not Target.SCRIPT or dice.random() < 0.5 else None
    if target is Target.SUPERVISOR:
        return dice.choices((short_s, 2.0 * LEASE_S, None), (2, 2, 3))[0]
    return short_s if dice.random() < 0.5 or target is Target.SYNC else None


# --------------------------------------------------------------------------- what was seen


@dataclass(frozen=True, slots=True)
class Dealt:
    """A blow that reached its target. Times are seconds since the epoch."""

    blow: Blow
    at: float
    phase: str
    """Of the host, as its log had it; empty before it said anything."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The cause of a run, as a report tells it."""

    kind: str
    host: str
    process: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of a host. Times are seconds since the epoch."""

    name: str
    code: int | None = None
    """As a parent sees it: negative for a death by a signal; None: it had not ended in time."""
    spawned_at: float = 0.0
    up_at: float | None = None
    """Its log's first line."""
    ending_at: float | None = None
    """When it said that the job was ending."""
    ended_at: float | None = None
    joined_at: float | None = None
    """When the master said that it had joined."""
    reborn: bool = False
    """It was killed and started anew; all this is of its second life."""
    begun: int = 0
    """How often its script began."""
    began_at: float | None = None
    """When its script had come so far as to know what to do with a signal."""
    finished_at: float | None = None
    """When its script left with 0 of its own accord."""
    saved: bool = False
    """Its script saved after a SIGTERM."""
    script_code: int | None = None
    """How its script ended, as a shell shows it; None where that is not known."""
    cause: Ended | None = None
    report_code: int | None = None
    failure: str | None = None
    success: bool = False
    left: tuple[str, ...] = ()
    """Processes, files and ports that should be gone."""


@dataclass(frozen=True, slots=True)
class Ending:
    """One way in which a run may end on a host."""

    kind: str
    host: str | None = None
    """None: any."""
    process: str | None = None
    pattern: str = ""
    codes: frozenset[int] | None = None
    """On ``host``; None: as the kind says."""

    def fits(self, cause: Ended) -> bool:
        return (
            self.kind == cause.kind
            and self.host in {None, cause.host}
            and self.process in {None, cause.process}
            and re.search(self.pattern, cause.message) is not None
        )

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.host, self.process, f"/{self.pattern}/")))


FINISHED: Final = Ending("finished", MASTER)
_BY_ITSELF: Final = ("master_lost", "join_timeout", "refused")
"""What each host finds by itself, in words of its own."""
_BEFORE: Final = frozenset({"", "preparing", "joining"})


# --------------------------------------------------------------------------- the oracle


def judge(
    trial: Trial, dealt: Sequence[Dealt], seen: Mapping[str, Seen], *, patience: float = 1.0
) -> list[str]:
    """What is wrong, in sentences; nothing where all is right.

    ``patience`` multiplies the times that a busy machine makes longer.
    """
    return list(_Oracle(trial, dealt, seen, patience).complaints())


class _Oracle:
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
            if any(d.blow.host == host.name and self._ended_it(d, host) for d in dealt)
        }
        """Hosts whose supervisors a blow has ended, so that they could say nothing."""
        self.reborn = {host.name for host in seen.values() if host.reborn}
        self.killed -= self.reborn
        self.frozen = {d.blow.host for d in dealt if self._frozen_long(d.blow)}

    def complaints(self) -> Iterator[str]:
        for host in self.seen.values():
            for each in self._of_host(host):
                yield f"{host.name}: {each}"
        yield from self._disagreement()
        yield from self._lateness()

    # ------------------------------------------------------------------ one host

    def _of_host(self, host: Seen) -> Iterator[str]:
        if host.code is None:
            yield "not over in time"
            return
        if host.begun > 1:
            yield f"its script began {host.begun} times"
        yield from (f"left behind: {what}" for what in host.left)
        if host.name in self.killed:
            return
        if host.cause is None:
            yield f"exit {host.code}, and no report that can be read"
            return
        if host.report_code != host.code:
            yield f"exit {host.code}, and the report says {host.report_code}"
        endings = self.endings(host)
        fitting = [ending for ending in endings if ending.fits(host.cause)]
        if not fitting:
            may = " or ".join(map(str, endings)) or "nothing that is known"
            yield f"ended by {_text(host.cause)}; right is {may}"
        codes = frozenset[int]().union(*(self._codes(host, ending) for ending in fitting))
        if fitting and host.code not in codes:
            yield f"exit {host.code} with {_text(host.cause)}; right is {sorted(codes)}"
        yield from self._of_files(host, host.cause)

    def _of_files(self, host: Seen, cause: Ended) -> Iterator[str]:
        if host.code == 0:
            if host.failure is not None:
                yield f"exit 0, and a failure file: {host.failure.splitlines()[:1]}"
            if cause.kind == "finished" and not host.success:
                yield "succeeded without a success file"
            return
        if host.success:
            yield f"exit {host.code}, and a success file"
        if not host.failure:
            yield f"exit {host.code} without a failure file"
            return
        missing = [
            word
            for word in (cause.host, cause.process, cause.message[:200])
            if word and word not in host.failure
        ]
        if missing:
            yield f"the failure text does not name {missing}: {host.failure.splitlines()[0]}"

    # ------------------------------------------------------------------ how it may end

    def endings(self, host: Seen) -> list[Ending]:
        """All that may be the cause on this host."""
        found = [FINISHED] if self._may_be_finished() else []
        for dealt in self.dealt:
            if self._too_late(dealt):
                continue
            found.extend(self._after(dealt, host))
        if host.name in self.frozen | self.reborn:  # what it finds when it comes back
            found += [Ending(kind) for kind in ("member_lost", *_BY_ITSELF)]
            if host.name in self.frozen and self.seen[MASTER].finished_at is not None:
                found.append(FINISHED)
        return found

    def _after(self, dealt: Dealt, host: Seen) -> Iterator[Ending]:
        blow, name = dealt.blow, re.escape(dealt.blow.host)
        here = self.seen[blow.host]
        dead = self._dies(dealt)
        match blow.target:
            case Target.SUPERVISOR if self._ended_it(dealt, here) or self._frozen_long(blow):
                if not self._joined_before(dealt, host):
                    yield Ending("join_timeout", pattern="joining timed out")
                if blow.host == MASTER:
                    if host.name != MASTER:
                        lost = rf"the master {name} (crashed|unreachable): "
                        yield Ending("master_lost", host.name, pattern=lost)
                else:
                    yield Ending("member_lost", blow.host, pattern="^lost: ")
            case Target.SUPERVISOR if blow.signum in STOPPING:
                word = signal.Signals(blow.signum).name
                yield Ending("stop_requested", blow.host, pattern=f"received {word}")
                if not self._met(here, host):
                    yield Ending("join_timeout", pattern="joining timed out")
            case Target.SCRIPT | Target.CHILD if dead:
                code = 128 + blow.signum
                word = signal.Signals(blow.signum).name
                pattern = f"{word}|exit {code}|KeyboardInterrupt"
                process = self._script_of(blow.host)
                yield Ending("script_failed", blow.host, process, pattern, frozenset({code}))
            case Target.SCRIPT if self.trial.hang_s and blow.signum == signal.SIGSTOP:
                # Of a real job all scripts wait for the one that is stopped.
                where = None if self.trial.kind.tensorflow else blow.host
                yield Ending("hang", where, pattern="hung")
            case Target.PS if dead:
                word = signal.Signals(blow.signum).name
                yield Ending("essential_died", blow.host, "ps", f"{word}|exit ")
            case Target.SERVER if dead:
                word = signal.Signals(blow.signum).name
                codes = frozenset({85, 128 + blow.signum})
                for kind in ("essential_died", "script_failed"):
                    yield Ending(kind, blow.host, "worker", f"{word}|exit ", codes)
            case _:
                return

    def _script_of(self, host: str) -> str:
        without_chief = {Kind.MWMS, Kind.TF_MWMS}
        return "chief" if host == MASTER and self.trial.kind not in without_chief else "worker"

    def _dies(self, dealt: Dealt) -> bool:
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
            case Target.PS | Target.SERVER:
                return True
            case _:
                return False

    def _harmful(self, dealt: Dealt) -> bool:
        """Whether the job cannot go on after it."""
        blow = dealt.blow
        match blow.target:
            case Target.GUARDIAN | Target.SYNC:
                return False
            case Target.SUPERVISOR:
                if blow.host in self.reborn:
                    return dealt.phase not in _BEFORE  # nothing had been started by anybody
                fatal = blow.host in self.killed or blow.signum in STOPPING
                return fatal or self._frozen_long(blow)
            case Target.SCRIPT if blow.signum == signal.SIGSTOP:
                return blow.thaw_s is None
            case Target.SCRIPT if self._heeds_nothing(blow):
                return self.seen[blow.host].finished_at is None
            case _:
                return self._dies(dealt)

    def _heeds_nothing(self, blow: Blow) -> bool:
        """TensorFlow's notifier of preemptions takes SIGTERM, once a job's collectives are up."""
        return self.trial.kind is Kind.TF_MWMS and blow.signum == signal.SIGTERM

    def _tolerated(self) -> set[str]:
        """Hosts whose loss the failure policy may let pass."""
        if not self.trial.tolerated:
            return set()
        hosts = {
            d.blow.host
            for d in self.dealt
            if d.blow.host != MASTER and self._harmful(d) and self._may_pass(d)
        }
        return hosts if len(hosts) <= self.trial.tolerated else set()

    def _may_pass(self, dealt: Dealt) -> bool:
        blow = dealt.blow
        if blow.target is Target.SUPERVISOR:
            lost = blow.host in self.killed | self.reborn or self._frozen_long(blow)
            return lost and not self.trial.kind.servers
        stopped = blow.signum == signal.SIGSTOP  # a hang is no failure of a worker
        return blow.target in {Target.SCRIPT, Target.CHILD, Target.SERVER} and not stopped

    def _may_be_finished(self) -> bool:
        """Whether the scripts that decide it left with 0, before any blow could count."""
        tolerated = self._tolerated()
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
            finished_at <= dealt.at + self._detected_s(dealt)
            for dealt in self.dealt
            if self._harmful(dealt) and dealt.blow.host not in tolerated
        )

    def _detected_s(self, dealt: Dealt) -> float:
        """The longest time from a blow to the end of the job that follows from it."""
        blow = dealt.blow
        if self._ended_it(dealt, self.seen[blow.host]):
            seconds = CRASH_S if self.seen[blow.host].joined_at or blow.host == MASTER else JOIN_S
            seconds = max(seconds, LEASE_S + 1.0)
        elif self._frozen_long(blow):
            seconds = LEASE_S + 2.0
        elif blow.signum == signal.SIGSTOP:
            seconds = self.trial.hang_s + 2.5
        else:
            seconds = 0.5 + SETTLE_S * self.trial.kind.tensorflow
            if self.trial.manner in {Manner.WRAPPED, Manner.STUBBORN}:
                seconds += 2 * SWEEP_S  # what outlives it, deaf to SIGTERM too, is ended first
        return seconds * self.patience + 0.5

    def _too_late(self, dealt: Dealt) -> bool:
        """Whether the job was already ending, and the host that was struck had heard so: a report
        and the verdict after it take a moment where three TensorFlows start on two cores."""
        return any(
            host.ending_at < dealt.at - (0.1 if host.name == dealt.blow.host else 1.0)
            for host in self.seen.values()
            if host.ending_at is not None
        )

    def _joined_before(self, dealt: Dealt, host: Seen) -> bool:
        """Whether the two had met, so that one takes note when the other is gone."""
        struck = dealt.blow.host
        if struck != MASTER:
            members = [self.seen[struck]]
        elif host.name != MASTER:
            members = [host]
        else:
            members = [each for each in self.seen.values() if each.name != MASTER]
        return all(each.joined_at and each.joined_at < dealt.at for each in members)

    def _met(self, stopped: Seen, host: Seen) -> bool:
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

    def _ended_it(self, dealt: Dealt, host: Seen) -> bool:
        blow = dealt.blow
        if blow.target is not Target.SUPERVISOR or host.code is None:
            return False
        if blow.signum == signal.SIGKILL:
            return host.reborn or host.code == -signal.SIGKILL
        # Before its first instruction it is any Python.
        early = host.up_at is None or host.up_at > dealt.at
        return blow.signum in STOPPING and early and host.code in {-blow.signum, 130, 1}

    def _frozen_long(self, blow: Blow) -> bool:
        return (
            blow.target is Target.SUPERVISOR
            and blow.signum == signal.SIGSTOP
            and (blow.thaw_s is None or blow.thaw_s > LEASE_S)
        )

    # ------------------------------------------------------------------ codes

    def _codes(self, host: Seen, ending: Ending) -> frozenset[int]:
        own = ending.host == host.name or (host.cause and host.cause.host == host.name)
        match ending.kind:
            case "finished":
                return frozenset({0, 87} if self._sync_held() else {0})
            case "stop_requested":
                return frozenset(self._stop_codes(host))
            case "join_timeout" | "refused":
                return frozenset({82})
            case "master_lost":
                return frozenset({83})
            case "script_failed" if own and ending.codes:
                return ending.codes
            case "essential_died" if own:
                return ending.codes or frozenset({85})
            case "hang" if own:
                return frozenset({88})
            case _:
                return frozenset({84})

    def _stop_codes(self, host: Seen) -> Iterator[int]:
        chief = self.seen[MASTER]
        signals = [d.blow.signum for d in self.dealt if d.blow.signum in STOPPING]
        if MASTER not in self.killed | self.reborn:
            if chief.script_code is not None:
                yield from self._answers(chief)
            else:
                yield from (128 + signum for signum in signals)
        if host.name == MASTER:
            return
        if MASTER in self.killed | self.frozen | self.reborn or self._left_first(host):
            # The master's last word did not come in time.
            if host.script_code is not None:
                yield host.script_code
            else:
                yield from (128 + signum for signum in signals)

    def _left_first(self, host: Seen) -> bool:
        ended = self.seen[MASTER].ended_at
        return ended is None or host.ended_at is None or host.ended_at < ended

    def _answers(self, chief: Seen) -> Iterator[int]:
        """How the chief's script may have answered the stop."""
        answer = {Manner.SAVES: 0, Manner.PLAIN: 143, Manner.STUBBORN: 137, Manner.WRAPPED: 143}
        struck = (
            len(self.dealt) > 1 or self.trial.kind is Kind.TF_MWMS or chief.finished_at is not None
        )
        ready = chief.began_at is not None and chief.began_at < min(d.at for d in self.dealt)
        may = {0, 130, 137, 143} if struck or not ready else {answer[self.trial.manner]}
        if chief.script_code in may:
            yield chief.script_code
        else:
            yield from may

    def _sync_held(self) -> bool:
        return any(
            d.blow.target is Target.SYNC and d.blow.signum == signal.SIGSTOP for d in self.dealt
        )

    # ------------------------------------------------------------------ the job as a whole

    def _disagreement(self) -> Iterator[str]:
        """One cause, in the same words, on all hosts that could hear of it.

        Two that are stopped before they have met leave each for its own signal.
        """
        struck = {d.blow.host for d in self.dealt if d.phase in _BEFORE}
        unmet = struck if len(struck) > 1 else set[str]()
        told = {
            host.cause
            for host in self.seen.values()
            if host.cause is not None
            and host.cause.kind not in _BY_ITSELF
            and host.name not in self.frozen | self.killed | self.reborn
            and not (host.name in unmet and host.cause.host == host.name)
        }
        if len(told) > 1:
            yield f"the hosts do not agree: {' / '.join(sorted(map(_text, told)))}"
        stop = any(cause.kind == "stop_requested" for cause in told)
        chief = self.seen[MASTER]
        saves = self.trial.manner in {Manner.SAVES, Manner.WRAPPED}
        if stop and saves and len(self.dealt) == 1 and chief.began_at is not None:
            ready = chief.began_at < self.dealt[0].at
            if ready and chief.finished_at is None and not chief.saved:
                yield "the chief had no time to save after the stop"

    def _lateness(self) -> Iterator[str]:
        """Each stage within what the settings imply."""
        gone = self.frozen | self.killed | self.reborn
        free = [h for h in self.seen.values() if h.name not in gone]
        endings = [host.ending_at for host in free if host.ending_at is not None]
        ended = [host.ended_at for host in free if host.ended_at is not None]
        if not endings or not ended:
            return
        first, last = min(endings), max(ended)
        harmful = [d for d in self.dealt if self._harmful(d) and not self._too_late(d)]
        running = bool(self.dealt) and self.dealt[0].phase == "running"
        if len(self.dealt) == 1 and harmful and running and not self._tolerated():
            took_s, bound_s = first - harmful[0].at, self._detected_s(harmful[0])
            if took_s > bound_s:
                yield f"{took_s:.1f} s from the blow to the job's ending; right is {bound_s:.1f}"
        took_s, bound_s = last - first, self.drain_s()
        if took_s > bound_s:
            yield f"{took_s:.1f} s from the ending to the end; right is {bound_s:.1f}"

    def drain_s(self) -> float:
        """The longest time from the first host's ending to the last one's end."""
        trial = self.trial
        kinds = {host.cause.kind for host in self.seen.values() if host.cause}
        stop = "stop_requested" in kinds
        grace_s = STOP_GRACE_S if stop else END_GRACE_S
        if trial.manner in {Manner.SAVES, Manner.WRAPPED}:
            grace_s = min(trial.save_s, grace_s)
        seconds = 3.0 + (grace_s if trial.manner is not Manner.PLAIN else 0.0)
        if trial.manner is Manner.STUBBORN or trial.save_s > END_GRACE_S:
            seconds += GROUP_S
        if trial.kind.servers:
            seconds += 1.0
        if (
            self.killed or self.frozen or self.reborn
        ):  # not yet found when the job ended for another reason
            seconds += LEASE_S + ACK_S
        if kinds & {"join_timeout", "master_lost"}:  # each host by itself
            seconds += JOIN_S + 2.0
        if trial.kind is Kind.KEPT:
            seconds += 3.0 + PUBLISH_S * self._sync_held()
        if trial.kind.tensorflow:
            seconds += 4.0
        if trial.kind is Kind.TF_MWMS:
            seconds += grace_s + GROUP_S
        return seconds * self.patience


def _text(cause: Ended) -> str:
    who = " ".join(filter(None, (cause.host, cause.process)))
    return f"{cause.kind} ({who}: {cause.message})"


def bound_s(trial: Trial) -> float:
    """From the last blow until every host must be gone, whatever happened."""
    start_s = 60.0 if trial.kind.tensorflow else 5.0
    found_s = max(LEASE_S, trial.hang_s) + 2.0
    down_s = STOP_GRACE_S + GROUP_S + KILL_S + SERVER_GRACE_S + KILL_S + ACK_S
    joined_s = JOIN_S + 2.0
    if any(blow.again_s is not None for blow in trial.blows):
        joined_s += JOIN_S  # who has been heard from is waited for once more
    return start_s + trial.script_s + max(found_s, joined_s) + down_s
