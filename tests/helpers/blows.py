"""Blows to whole jobs: which there are, drawn by a seed, and how what followed is told. Pure.

A `Trial` is a job and the blows that it is dealt; ``blown`` performs it, and `oracle.judge` says
what is wrong with what became of it.
"""

from __future__ import annotations

import enum
import random
import signal
from collections.abc import Mapping, Sequence
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


def bound_s(trial: Trial) -> float:
    """From the last blow until every host must be gone, whatever happened."""
    start_s = 60.0 if trial.kind.tensorflow else 5.0
    found_s = max(LEASE_S, trial.hang_s) + 2.0
    down_s = STOP_GRACE_S + GROUP_S + KILL_S + SERVER_GRACE_S + KILL_S + ACK_S
    joined_s = JOIN_S + 2.0
    if any(blow.again_s is not None for blow in trial.blows):
        joined_s += JOIN_S  # who has been heard from is waited for once more
    return start_s + trial.script_s + max(found_s, joined_s) + down_s
