"""What the reducer knows of a host: its processes, the other hosts, and where its life stands."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from supervisor.life import events as ev
from supervisor.life.automaton import JOB, LIVES, PHASES, Trigger, after
from supervisor.life.words import (
    Budgets,
    Cause,
    CauseKind,
    ExitStatus,
    JobState,
    Life,
    Phase,
    Rung,
    SuccessPolicy,
    Verdict,
)

if TYPE_CHECKING:  # for jobs that go on after a failure
    from supervisor.life.attempts import Order, Past, Policy, Refused


@dataclass(frozen=True, slots=True)
class Process:
    name: str
    server: bool
    """Essential, and stopped after the scripts."""
    step: bool = False
    """Runs to its end while preparing, before anything else of the plan is started."""
    stop_signal: int = signal.SIGTERM
    shelters_scripts: bool = False
    """A server below which scripts run (sshd, the ranks of an MPI job): its share is theirs."""
    life: Life = Life.PLANNED
    status: ExitStatus | None = None
    ended_at: float = 0.0
    """Seconds since the epoch."""
    had_stop: bool = False
    """Its stop signal came to it from whoever sent that to every process."""
    stopped_by_us: bool = False
    message: str = ""
    """How it ended, in one sentence."""
    attempt: int = 1
    """With which it was started."""
    again: bool = False
    """It starts anew with the attempt that is being prepared; until then it comes down."""

    @property
    def script(self) -> bool:
        """The user's: what the job is about."""
        return not self.server and not self.step


@dataclass(frozen=True, slots=True)
class Member:
    """Another host, as the master knows it."""

    joined: bool = False
    heard: bool = False
    script_ended: bool = False
    down: bool = False
    """Its processes are gone and it said so; or it is lost and will say nothing more."""
    holds: str = ""
    """What its checkpoint directory holds, as it says; see ``agreement.Held``."""
    told: Cause | None = None
    """What it last said has failed there."""
    turn: int = 0
    """The last order for which all is down and ready there."""
    lost: Cause | None = None
    """It is gone, and waited for: it may be started anew. Nothing else is known of it."""
    earlier: ev.EarlierLife | None = None
    """It runs on under this master from the life of the one before."""
    restarting: bool = False
    """Something starts anew there, as it says."""
    seen_at: float = 0.0
    """When it reported last, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What never changes in a life: the plan as the reducer needs it."""

    host: str
    master: str
    hosts: tuple[str, ...]
    success_policy: SuccessPolicy
    chief_first: bool
    """The chief is stopped before anything else in the job (parameter servers hold its state, or
    the others hold its ranks)."""
    budgets: Budgets
    success_share: float = 1.0
    """Of all scripts but the evaluator's, how many must end with 0; see the policy."""
    tolerated_failures: int = 0
    """Workers that may fail without ending the job."""
    evaluator: str | None = None
    """A host whose script nobody waits for, and which has a share of its own at the end."""
    scriptless: tuple[str, ...] = ()
    """Hosts that run servers alone: no script of theirs is waited for."""
    agreement: str = "say"
    """What follows where hosts hold different checkpoints: ``same``, ``say`` or ``fail``."""
    own_lines: bool = False
    """Each host keeps checkpoints of its own."""
    strategy: str = "none"
    """As ``contract.distribution`` names it: which processes depend on which."""
    policy: Policy | None = None
    """What is started anew after a failure; None: nothing. The master's counts."""
    servers: tuple[str, ...] = ()
    """Hosts with a parameter server."""
    cluster: tuple[str, ...] = ()
    """Hosts that train or stand by for it, the master first; the evaluator is none."""
    world: tuple[str, ...] = ()
    """Those of them that train at first; the others are spares."""
    min_hosts: int = 0
    """So many are enough to go on; 0: all of them are needed."""

    @property
    def training(self) -> tuple[str, ...]:
        """The hosts whose scripts count for the success of the job."""
        return tuple(
            name for name in self.hosts if name != self.evaluator and name not in self.scriptless
        )

    @property
    def elastic(self) -> bool:
        """Which hosts train may change."""
        return self.min_hosts > 0 or len(self.world) < len(self.cluster)

    @property
    def is_master(self) -> bool:
        return self.host == self.master

    @property
    def is_member(self) -> bool:
        return not self.is_master


@dataclass(frozen=True, slots=True)
class State:
    setup: Setup
    processes: tuple[Process, ...]
    members: Mapping[str, Member]
    """On the master: the others. Empty on a member and on a host alone."""
    phase: Phase = Phase.PREPARING
    rung: Rung = Rung.HOLD
    job: JobState = JobState.JOINING
    cause: Cause | None = None
    """The first event that ended the run here."""
    verdict: Verdict | None = None
    """The job's, as announced."""
    stop_signals: int = 0
    """How many wishes to stop there were; an echo is none."""
    first_stop_at: float = 0.0
    """Seconds since the epoch."""
    last_stop: tuple[int, float] | None = None
    suspended: bool = False
    publishing_settled: bool = False
    publish_error: str | None = None
    fenced: bool = False
    """Of checkpoints, by another run that has their place; see ``CauseKind.FENCED``."""
    join_extended: bool = False
    master_heard: bool = False
    """On a member: the master has said where the job stands."""
    all_down: bool = False
    """On the master: nobody is waited for any more."""
    waiting: tuple[tuple[str, str], ...] = ()
    """While joining: who is missing and why, as last seen."""
    holds: str = ""
    """What the checkpoint directory holds, see ``agreement.Held``."""
    restore: str = ""
    """The generation that all hosts are to hold, once the master has said so."""
    suspect: Cause | None = None
    """A failure that may be the consequence of another, while that is being found out."""
    tolerated: tuple[Cause, ...] = ()
    """On the master: failures that did not end the job. On a member: its own, if it has one."""
    also: tuple[Cause, ...] = ()
    """Failures that came after the cause, or turned out to follow from it, as they came."""
    armed: frozenset[ev.Deadline] = field(default_factory=frozenset)
    restarts: bool = False
    """Whether failures are judged by ``restarting.py``: by its own policy on the master, or because
    the master has said so."""
    order: Order | None = None
    """What has last been started anew, or is to be."""
    turn: int = 0
    """The last order for which all is down and ready here."""
    making: int = 0
    """The order for which that is being made ready."""
    agreed: tuple[int, str] = (0, "")
    """On a member: from which checkpoint all go on, and by which order; `restarting.AS_IT_IS`."""
    restoring: int = 0
    """The order for which that is being restored …"""
    restored: int = 0
    """… and the one for which it is."""
    tried: int = 0
    """How often that has failed for this order."""
    moved: bool = False
    """Training has moved since the last order, as far as it was looked."""
    asked: Cause | None = None
    """On a member: its failure, about which the master is to judge."""
    away: Cause | None = None
    """On a member: the master is gone, and waited for; what the end is if it does not come."""
    late: bool | None = None
    """On a member: the job ran before this supervisor began, whose host has come back; None: the
    master has said nothing yet."""
    offered: tuple[Order | None, str] = (None, "")
    """On a member that has not started anything: the order that was heard last, and the checkpoint
    with which the hosts go on by it."""
    fallen: tuple[tuple[str, str], ...] = ()
    """Hosts and processes that have failed, and about which nothing was ordered: all that the
    master knows of, or a member's own."""
    past: tuple[Past, ...] = ()
    """On the master: how the earlier attempts ended."""
    refused: Refused | None = None
    """Why the cause was not followed by another attempt."""
    world: tuple[str, ...] = ()
    """On the master: the hosts that train, in the order of their ranks."""

    @property
    def training(self) -> tuple[str, ...]:
        """The hosts whose scripts count for the success of the job, as it is now."""
        setup = self.setup
        return tuple(
            name for name in setup.training if name in self.world or name not in setup.cluster
        )

    @property
    def alive(self) -> tuple[Process, ...]:
        return tuple(process for process in self.processes if process.life is Life.ALIVE)

    @property
    def begun(self) -> bool:
        """Whether anything of the job was ever started here: there may be something to keep."""
        return any(
            not process.step and process.life is not Life.PLANNED for process in self.processes
        )

    @property
    def left(self) -> bool:
        return any(process.life is Life.LEFT for process in self.processes)

    @property
    def nothing_started(self) -> bool:
        """Nothing of the job has been started: a host may still be started anew."""
        return self.phase in {Phase.PREPARING, Phase.JOINING}

    @property
    def before_draining(self) -> bool:
        return self.nothing_started or self.under_way

    @property
    def under_way(self) -> bool:
        """The job runs here, or something of it starts anew."""
        return self.phase in {Phase.RUNNING, Phase.RESTARTING}

    @property
    def attempt(self) -> int:
        return self.order.attempt if self.order else 1

    @property
    def coming_down(self) -> tuple[Process, ...]:
        """What is alive and is not to stay so: all, or what starts anew."""
        if self.phase is Phase.RESTARTING:
            return tuple(process for process in self.alive if process.again)
        return self.alive

    @property
    def scripts_alive(self) -> bool:
        """A script, or a step, which is stopped in the same way."""
        return any(not process.server for process in self.alive)

    @property
    def script_status(self) -> ExitStatus | None:
        """How this host's script ended; None while it runs or where it never ran."""
        return next((process.status for process in self.processes if process.script), None)

    @property
    def script_finished(self) -> bool:
        """It has done its work; one that was stopped in order to start anew has not."""
        return any(
            process.script and process.status is not None and process.status.ok
            for process in self.processes
            if not process.again
        )

    @property
    def preparing(self) -> bool:
        """While joining: whoever is missing has been heard from. A member leaves it to the master
        to judge that."""
        if self.setup.is_member:
            return self.master_heard
        return all(self.members[name].heard for name in self.missing)

    @property
    def missing(self) -> tuple[str, ...]:
        """On the master: who has not joined, of those that the job begins with."""
        spares = {*self.setup.cluster}.difference(self.world)
        return tuple(
            name
            for name, member in self.members.items()
            if not member.joined and name not in spares
        )


def initial(setup: Setup, processes: tuple[Process, ...]) -> State:
    others = {name: Member() for name in setup.hosts if name != setup.host}
    restarts = setup.is_master and setup.policy is not None
    members = others if setup.is_master else {}
    return State(setup, processes, members, restarts=restarts, world=setup.world)


# --------------------------------------------------------------------------- the moves


def enter(state: State, trigger: Trigger) -> State:
    """The host's next phase; each way down begins at the foot of the ladder."""
    begins = trigger in {Trigger.RESTART, Trigger.CAUSE_KNOWN}
    rung = Rung.HOLD if begins else state.rung
    return replace(state, phase=after(PHASES, state.phase, trigger), rung=rung)


def advance(state: State, trigger: Trigger, verdict: Verdict | None = None) -> State:
    """On the master, or alone: the job's next state, and what is known of its outcome by then."""
    return replace(state, job=after(JOB, state.job, trigger), verdict=verdict or state.verdict)


def hear(state: State, job: JobState) -> State:
    """On a member: the job's state is what the master says, or what follows from its silence."""
    return replace(state, job=job)


def live(state: State, name: str, trigger: Trigger, **changes: Any) -> State:
    """A process's next life, and what is known of it by then."""
    following = after(LIVES, process_of(state, name).life, trigger)
    return with_process(state, name, life=following, **changes)


# --------------------------------------------------------------------------- small parts


def own_cause(
    state: State,
    kind: CauseKind,
    message: str,
    at: float,
    process: str | None = None,
    status: ExitStatus | None = None,
    detail: str = "",
    error: str = "",
) -> Cause:
    known = next((each.attempt for each in state.processes if each.name == process), state.attempt)
    return Cause(kind, state.setup.host, message, process, status, detail, at, error, known)


def process_of(state: State, name: str) -> Process:
    return next(process for process in state.processes if process.name == name)


def with_process(state: State, name: str, **changes: Any) -> State:
    return replace(
        state,
        processes=tuple(
            replace(process, **changes) if process.name == name else process
            for process in state.processes
        ),
    )


def arm(state: State, deadline: ev.Deadline, seconds: float, actions: list[ev.Action]) -> State:
    actions.append(ev.Arm(deadline, seconds))
    return replace(state, armed=state.armed | {deadline})


def disarm(state: State, actions: list[ev.Action], *deadlines: ev.Deadline) -> State:
    stale = state.armed.intersection(deadlines)
    actions.extend(ev.Disarm(deadline) for deadline in sorted(stale))
    return replace(state, armed=state.armed - stale)
