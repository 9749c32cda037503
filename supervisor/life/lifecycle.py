"""The life of one host as a reducer: ``step(state, event) -> (state, actions)``.

Pure: no time, no I/O, no processes. A deadline arrives as an event; a wish to signal a process
leaves as an action. ``step`` is two moves: ``_react`` says what the event means, and ``_settle``
draws every conclusion that no longer needs an event (all scripts are gone, so stop the servers; all
processes are gone, so publish; …). The two together are the whole life cycle:

    preparing → joining → running → draining → killing → publishing → done

Preparing may have steps, processes such as an installation: one after the other, each to its end.
A step is stopped like a script and counts as none. Joining may have one too: hosts that hold other
checkpoints than the rest restore theirs (``agreement.py``) before anything runs.

How a host comes down (the rungs of ``draining``):

    HOLD      a member of a cluster with parameter servers keeps its processes for the chief's last
              checkpoint (the variables live on the servers), until the master says ENDED
    SCRIPTS   the stop signal to each script's leader alone, for the grace
    GROUPS    the signal to the scripts' process groups
    SERVERS   the signal to the parameter servers, which outlive every script here

and, where a rung's time is over and something is left, ``killing``: SIGKILL to every tree.

What always holds (tested as properties): the cause never changes; nothing is started once
draining; every phase after running has an armed deadline; done if and only if nothing is alive and
publishing is settled; a second stop signal kills, unless it is the echo of the first.
"""

from __future__ import annotations

import enum
import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, assert_never

from supervisor.faults import counted
from supervisor.life import events as ev
from supervisor.life.outcome import job_exit_code, outcome_of
from supervisor.life.words import (
    Budgets,
    Cause,
    CauseKind,
    ExitStatus,
    JobState,
    Outcome,
    Phase,
    Respite,
    Role,
    SuccessPolicy,
    Verdict,
    signal_name,
    speaks_of_lost_peer,
)

SETTLE_S: Final = 2.0
"""A script that failed and speaks of a lost peer is looked at this long: a peer's crash takes about
a second to be proven, and it, not its victim, is then the cause."""
JOIN_MARGIN_S: Final = 2.0
"""A member waits this much longer than the master, which can say better who is missing."""
SWEEP_S: Final = 2.0
"""What outlived a leader that ended of its own accord has this long after SIGTERM."""
LATE_S: Final = 2.0
"""A job that fails before all hosts have come is still served so long. Hosts of a job start at
about the same time, and one that comes too late waits for its whole join timeout."""
_SHOWN: Final = 10
"""Missing hosts that are named in a message."""
_NO_SIGN: Final = "no output, no CPU time and no heartbeat"
_MOST_NOTED: Final = 32
"""Further failures that are kept for the report."""

REFUSES: Final = "refuses this host"
"""How a master is lost that does not take this host; `liveness.How`."""
_NOTHING_STARTED: Final = frozenset({Phase.PREPARING, Phase.JOINING})
"""Nothing of the job has been started: a host may still be started anew."""

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
ECHO_S: Final = 0.05
"""The same stop signal again this soon is the same wish: timeout(1) sends each to its command and
then to the group, a terminal's Ctrl-C comes again through an init that passes signals on. Taken for
a second thought it would cost the script its last checkpoint."""


class Rung(enum.IntEnum):
    """Where draining stands; see the module's text."""

    HOLD = 0
    SCRIPTS = 1
    GROUPS = 2
    SERVERS = 3


class Life(enum.StrEnum):
    """Where one process stands."""

    PLANNED = "planned"
    ALIVE = "alive"
    """From the moment its start was ordered: a signal must not miss it."""
    ENDED = "ended"
    LEFT = "left"
    """Not gone after SIGKILL: uninterruptible, reported and left."""


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
    stopped_by_us: bool = False
    message: str = ""
    """How it ended, in one sentence."""

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

    @property
    def training(self) -> tuple[str, ...]:
        """The hosts whose scripts count for the success of the job."""
        return tuple(
            name for name in self.hosts if name != self.evaluator and name not in self.scriptless
        )

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
    def scripts_alive(self) -> bool:
        """A script, or a step, which is stopped in the same way."""
        return any(not process.server for process in self.alive)

    @property
    def script_status(self) -> ExitStatus | None:
        """How this host's script ended; None while it runs or where it never ran."""
        return next((process.status for process in self.processes if process.script), None)

    @property
    def preparing(self) -> bool:
        """While joining: whoever is missing has been heard from. A member leaves it to the master
        to judge that."""
        if self.setup.is_member:
            return self.master_heard
        return all(self.members[name].heard for name in self.missing)

    @property
    def missing(self) -> tuple[str, ...]:
        """On the master: who has not joined."""
        return tuple(name for name, member in self.members.items() if not member.joined)


def initial(setup: Setup, processes: tuple[Process, ...]) -> State:
    others = {name: Member() for name in setup.hosts if name != setup.host}
    return State(setup, processes, others if setup.is_master else {})


def step(state: State, event: ev.Event) -> tuple[State, tuple[ev.Action, ...]]:
    """The next state, and what to do, in order."""
    if state.phase is Phase.DONE:
        return state, ()
    actions: list[ev.Action] = []
    reacted = _settle(_react(state, event, actions), actions)
    if reacted.setup.is_member and _told(reacted) != _told(state):
        actions.append(ev.Report(*_told(reacted)))
    return reacted, tuple(actions)


def _told(state: State) -> tuple[Phase, bool, Cause | None, str]:
    """What a member tells the master: whenever it changes, and nothing else."""
    status = state.script_status
    ended = status is not None and status.ok
    for cause in (state.cause, state.suspect, *state.tolerated):
        if cause is not None and cause.host == state.setup.host:
            return state.phase, ended, cause, state.holds
    return state.phase, ended, None, state.holds


# --------------------------------------------------------------------------- what an event means


def _react(state: State, event: ev.Event, actions: list[ev.Action]) -> State:
    match event:
        case ev.Prepared():
            return _prepared(state, actions)
        case ev.PrepareFailed(message, at):
            return _end(state, _own(state, CauseKind.PREPARE_FAILED, message, at), actions)
        case ev.Replanned(names, holds):
            state = replace(state, holds=state.holds if holds is None else holds)
            known = {process.name for process in state.processes}
            more = [Process(name, server=False, step=True) for name in names if name not in known]
            return replace(state, processes=(*state.processes, *more))
        case ev.TransferFailed(message, at):
            return _end(state, _own(state, CauseKind.TRANSFER_FAILED, message, at), actions)
        case ev.Started():
            return state  # alive since its start was ordered
        case ev.StartFailed(process, code, message, at):
            status = ExitStatus(code=code)
            state = _with_process(
                state, process, life=Life.ENDED, status=status, ended_at=at, message=message
            )
            step_failed = _process(state, process).step
            kind = CauseKind.PREPARE_FAILED if step_failed else CauseKind.START_FAILED
            cause = _own(state, kind, message, at, process, status)
            return _failed(state, cause, actions)
        case ev.Exited():
            return _exited(state, event, actions)
        case ev.Signalled(signum, at):
            return _signalled(state, signum, at, actions)
        case ev.Hung(process, idle_s, at, detail, beats):
            if state.phase is not Phase.RUNNING:
                return state
            what = "its heartbeat file was not touched" if beats else _NO_SIGN
            message = f"hung: {what} for {idle_s:.0f} s"
            cause = _own(state, CauseKind.HANG, message, at, process, detail=detail)
            return _end(state, cause, actions)
        case ev.Expired(deadline, at):
            state = replace(state, armed=state.armed - {deadline})
            return _expired(state, deadline, at, actions)
        case ev.MemberReported():
            return _member_reported(state, event, actions)
        case ev.MemberLost(host, evidence, at):
            return _member_lost(state, host, evidence, at, actions)
        case ev.JobChanged(job, verdict, _, generation):
            if generation and job is JobState.JOINING:
                return _restore(replace(state, master_heard=True), generation, actions)
            return _job_changed(state, job, verdict, actions)
        case ev.Waiting(reasons):
            return _waiting(state, reasons, actions)
        case ev.MasterSeen(bare):
            # A master without our status server says nothing about the barrier: its open port has
            # to do, as it did in the predecessor.
            return _job_changed(state, JobState.RUNNING, None, actions) if bare else state
        case ev.MasterLost(how, evidence, at):
            return _master_lost(state, how, evidence, at, actions)
        case ev.MasterEnded(evidence, at):
            message = f"the master's port is closed ({evidence}); it ended, its verdict is unknown"
            cause = Cause(CauseKind.MASTER_ENDED, state.setup.master, message, at=at)
            return _job_changed(
                state, JobState.ENDED, Verdict(Outcome.SUCCEEDED, cause, 0), actions
            )
        case ev.Published(error):
            return _publishing_over(_disarm(state, actions, ev.Deadline.PUBLISH), error)
        case ev.Broke(message, at):
            return _broke(state, message, at, actions)
    assert_never(event)


def _prepared(state: State, actions: list[ev.Action]) -> State:
    """Start the next step, or go on to the barrier where none is left."""
    if state.phase not in _NOTHING_STARTED or state.alive:
        return state  # a stop came first, or a step is under way
    step = next((each for each in state.processes if each.step and each.life is Life.PLANNED), None)
    if step is not None:
        actions.append(ev.Start(step.name))
        if ev.Deadline.PREPARE not in state.armed:  # one for all steps
            state = _arm(state, ev.Deadline.PREPARE, state.setup.budgets.prepare_s, actions)
        return _with_process(state, step.name, life=Life.ALIVE)
    state = _disarm(state, actions, ev.Deadline.PREPARE)
    before, state = state.phase, replace(state, phase=Phase.JOINING)
    if len(state.setup.hosts) == 1:
        return _run(state, actions)
    if state.setup.is_member and state.job is not JobState.JOINING:
        return _run(state, actions)  # a late host: the others have gone on
    if before is Phase.JOINING:
        return state  # it has restored what all hosts are to hold
    margin_s = JOIN_MARGIN_S if state.setup.is_member else 0.0
    state = _arm(state, ev.Deadline.JOIN, state.setup.budgets.join_s + margin_s, actions)
    return _restore_now(state, actions) if state.restore else state


def _restore(state: State, generation: str, actions: list[ev.Action]) -> State:
    """Once in a life, before the job runs: the checkpoint with which all hosts begin."""
    if state.restore or state.phase not in _NOTHING_STARTED:
        return state
    state = replace(state, restore=generation)
    if state.phase is Phase.PREPARING:
        return state  # a master that was started anew; asked for when this host has joined
    return _restore_now(state, actions)


def _restore_now(state: State, actions: list[ev.Action]) -> State:
    from supervisor.life import agreement  # noqa: PLC0415  # the spawn does not wait

    if not agreement.differing({state.setup.host: state.holds}, state.restore):
        return state
    actions.append(ev.Restore(state.restore))
    return state


def _agree(state: State, actions: list[ev.Action]) -> State:
    """On the master, when all have joined: run, if they begin from the same checkpoint."""
    setup = state.setup
    told = {host: state.members[host].holds for host in setup.training if host != setup.host}
    told[setup.host] = state.holds
    if not any(told.values()):
        return _run(state, actions)
    from supervisor.life import agreement  # noqa: PLC0415  # for jobs of several hosts that restore

    if state.restore:
        return state if agreement.differing(told, state.restore) else _run(state, actions)
    found = agreement.compare(told, own_lines=setup.own_lines)
    if found.same:
        return _run(state, actions)
    if setup.agreement == "fail":
        message = (
            f"the hosts would begin from different checkpoints: {found.words} "
            "(SUPERVISOR_RESTORE_AGREEMENT=fail); empty the directories that differ, or set "
            "SUPERVISOR_RESTORE_AGREEMENT=same"
        )
        return _end(state, _own(state, CauseKind.PREPARE_FAILED, message, 0.0), actions)
    wanted = found.restore if setup.agreement == "same" else ""
    fields = (("hosts", found.words), ("restore", wanted or "none"))
    level = "info" if setup.agreement == "say" else "warning"
    actions.append(ev.Say("checkpoints.differ", fields, level))
    if not wanted:
        return _run(state, actions)
    state = replace(state, restore=wanted)
    actions.append(ev.Announce(JobState.JOINING, restore=wanted))
    return _restore_now(state, actions)


def _waiting(state: State, reasons: tuple[tuple[str, str], ...], actions: list[ev.Action]) -> State:
    if state.phase is not Phase.JOINING:
        return state
    state = replace(state, waiting=reasons)
    actions.append(ev.Say("joining.waiting", (("hosts", _who_is_missing(state)),)))
    return state


def _who_is_missing(state: State) -> str:
    """``algo-3 (DNS), algo-7 (no answer on 2224) and 3 more``."""
    reasons = dict(state.waiting)
    if state.setup.is_master:
        names = state.missing or _restoring(state)
        reasons |= dict.fromkeys(_restoring(state), f"restoring checkpoint {state.restore}")
    else:
        names = tuple(reasons) or (state.setup.master,)
    shown = [f"{name} ({reasons.get(name, 'not heard from')})" for name in names[:_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _restoring(state: State) -> tuple[str, ...]:
    """On the master: who has joined, but does not hold the checkpoint yet that it is to hold."""
    if not state.restore:
        return ()
    from supervisor.life import agreement  # noqa: PLC0415

    told = {
        host: state.members[host].holds for host in state.setup.training if host in state.members
    }
    return tuple(agreement.differing(told, state.restore))


def _run(state: State, actions: list[ev.Action]) -> State:
    """Start everything, all at once; what is still being restored comes first."""
    if state.alive:
        return state
    state = _disarm(state, actions, ev.Deadline.JOIN)
    state = replace(state, phase=Phase.RUNNING, job=JobState.RUNNING)
    if state.members:
        actions.append(ev.Announce(JobState.RUNNING))
    for process in state.processes:
        if process.step:
            continue
        actions.append(ev.Start(process.name))
        state = _with_process(state, process.name, life=Life.ALIVE)
    if state.setup.budgets.max_runtime_s:
        state = _arm(state, ev.Deadline.RUNTIME, state.setup.budgets.max_runtime_s, actions)
    return state


def _exited(state: State, event: ev.Exited, actions: list[ev.Action]) -> State:
    process = _process(state, event.process)
    life = Life.LEFT if event.left else Life.ENDED
    state = _with_process(
        state,
        event.process,
        life=life,
        status=event.status,
        ended_at=event.at,
        message=event.message,
    )
    if process.step and event.status.ok:
        return _prepared(state, actions)
    if state.phase not in (_NOTHING_STARTED if process.step else {Phase.RUNNING}):
        return state
    if process.step:
        kind = CauseKind.PREPARE_FAILED
    elif process.server:
        kind = CauseKind.ESSENTIAL_DIED
    elif not event.status.ok:
        kind = CauseKind.SCRIPT_FAILED
    else:
        # Success is a conclusion, drawn in _settle.
        waits = state.setup.success_policy is not SuccessPolicy.CHIEF and state.members
        if waits and state.setup.budgets.straggler_s:
            return _arm(state, ev.Deadline.STRAGGLER, state.setup.budgets.straggler_s, actions)
        return state
    message = event.message or str(event.status)
    cause = _own(state, kind, message, event.at, event.process, event.status, event.detail)
    return _failed(state, cause, actions)


def _failed(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    """A failure here, or on the master anywhere: the end, unless a policy or doubt says else."""
    if not _before_draining(state):
        return _note(state, cause, actions)
    if _tolerable(state, cause):
        return _tolerate(state, cause, actions)
    victim = cause.kind is CauseKind.SCRIPT_FAILED and speaks_of_lost_peer(
        f"{cause.message}\n{cause.detail}"
    )
    if victim and state.suspect is not None:
        return _note(state, cause, actions)
    if victim and state.phase is Phase.RUNNING and len(state.setup.hosts) > 1:
        fields = (("cause", str(cause)), ("seconds", SETTLE_S))
        actions.append(ev.Say("failure.examined", fields, "warning"))
        return _arm(replace(state, suspect=cause), ev.Deadline.SETTLE, SETTLE_S, actions)
    return _end(state, cause, actions)


def _tolerable(state: State, cause: Cause) -> bool:
    """Whether the failure policy lets the job go on; a member leaves that to the master."""
    setup = state.setup
    if state.phase is not Phase.RUNNING or cause.host == setup.master:
        return False
    match cause.kind:
        case CauseKind.SCRIPT_FAILED | CauseKind.START_FAILED if cause.process != Role.PS:
            pass
        case CauseKind.ESSENTIAL_DIED if cause.process == Role.WORKER:
            pass  # a worker server: the coordinator gives its work to the others
        case CauseKind.MEMBER_LOST if not setup.chief_first or cause.host == setup.evaluator:
            pass  # with parameter servers a host takes variables with it
        case _:
            return False
    failed = {each.host for each in state.tolerated} | {cause.host}
    if len(failed) > setup.tolerated_failures:
        return False
    trained = len(setup.training)
    within_reach = trained - len(failed & {*setup.training}) >= _share_of(state, trained)
    return setup.is_member or setup.success_policy is not SuccessPolicy.SHARE or within_reach


def _tolerate(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    fields = (
        ("host", cause.host),
        ("process", cause.process),
        ("message", cause.message),
        ("limit", state.setup.tolerated_failures),
    )
    actions.append(ev.Say("failure.tolerated", fields, "warning"))
    return replace(state, tolerated=(*state.tolerated, cause))


def _note(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    """A failure that is not the cause: said and kept, so that nothing is hidden."""
    if cause in {state.cause, *state.also} or len(state.also) >= _MOST_NOTED:
        return state
    actions.append(ev.Say("failure.also", (("cause", str(cause)),), "warning"))
    return replace(state, also=(*state.also, cause))


def _signalled(state: State, signum: int, at: float, actions: list[ev.Action]) -> State:
    if signum == signal.SIGTSTP:
        if state.phase is not Phase.RUNNING:
            return state  # nothing to suspend yet, or no time for it any more
        actions += [ev.Suspend(process.name) for process in state.alive]
        return replace(state, suspended=True)
    if signum == signal.SIGCONT:
        return _resume(state, actions)
    if signum not in STOP_SIGNALS:
        actions += [ev.Send(process.name, signum) for process in state.alive if process.script]
        return state
    last, state = state.last_stop, replace(state, last_stop=(signum, at))
    if last is not None and last[0] == signum and 0 <= at - last[1] < ECHO_S:
        return state
    state = replace(
        state,
        stop_signals=state.stop_signals + 1,
        first_stop_at=state.first_stop_at if state.stop_signals else at,
    )
    left_s = max(0.0, state.setup.budgets.stop_limit_s - (at - state.first_stop_at))
    actions.append(
        ev.Say(
            "signal.received",
            (
                ("signal", signal_name(signum)),
                ("count", state.stop_signals),
                ("left_s", round(left_s, 1)),
            ),
            "warning",
        )
    )
    if _before_draining(state):
        message = f"received {signal_name(signum)}"
        asked = ExitStatus(signum=signum)
        cause = _own(state, CauseKind.STOP_REQUESTED, message, at, status=asked)
        return _end(state, cause, actions)
    if state.stop_signals > 1:
        if state.phase is Phase.PUBLISHING:
            return _give_up_publishing(state, "before a second stop signal")
        return _kill(state, actions)
    # Already coming down for another reason: the platform's limit counts from here all the same.
    if state.rung is Rung.HOLD and state.setup.host == state.setup.evaluator:
        state = _climb(state, Rung.SCRIPTS, actions)
    state = _disarm(
        state, actions, ev.Deadline.PUBLISH, ev.Deadline.LATE
    )  # their ample time is over
    return _arm(state, ev.Deadline.LIMIT, state.setup.budgets.limit_s, actions)


def _resume(state: State, actions: list[ev.Action]) -> State:
    actions += [ev.Resume(process.name) for process in state.alive]
    return replace(state, suspended=False)


def _expired(state: State, deadline: ev.Deadline, at: float, actions: list[ev.Action]) -> State:
    budgets = state.setup.budgets
    match deadline:
        case ev.Deadline.PREPARE:
            if not any(process.step for process in state.alive):
                return state
            message = (
                f"not prepared within {budgets.prepare_s:g} s (SUPERVISOR_PREPARE_TIMEOUT_S, and "
                "SUPERVISOR_FETCH_TIMEOUT_S where there is something to fetch)"
            )
            step = next((process.name for process in state.alive), None)
            return _end(state, _own(state, CauseKind.PREPARE_FAILED, message, at, step), actions)
        case ev.Deadline.JOIN:
            if state.phase is not Phase.JOINING:
                return state
            who = _who_is_missing(state)
            if state.preparing and not state.join_extended:
                # Heard from, and busy: installing or fetching takes one longer than another.
                actions.append(ev.Say("joining.extended", (("hosts", who),), "warning"))
                state = replace(state, join_extended=True)
                return _arm(state, ev.Deadline.JOIN, budgets.prepare_s, actions)
            waited_s = budgets.join_s + (budgets.prepare_s if state.join_extended else 0.0)
            message = f"joining timed out after {waited_s:g} s, waiting for {who}"
            return _end(state, _own(state, CauseKind.JOIN_TIMEOUT, message, at), actions)
        case ev.Deadline.SETTLE:
            if state.suspect is None or state.phase is not Phase.RUNNING:
                return state
            return _end(state, state.suspect, actions)
        case ev.Deadline.STRAGGLER:
            if state.phase is not Phase.RUNNING:
                return state
            late = [name for name, member in state.members.items() if not member.script_ended]
            message = (
                f"finished, exit 0; not waited for after {budgets.straggler_s:g} s: "
                + ", ".join(late[:_SHOWN])
            )
            return _end(state, _success(state, message), actions)
        case ev.Deadline.RUNTIME:
            if state.phase is not Phase.RUNNING:
                return state
            message = f"ran for SUPERVISOR_MAX_RUNTIME_S, {budgets.max_runtime_s:g} s"
            return _end(state, _own(state, CauseKind.MAX_RUNTIME, message, at), actions)
        case ev.Deadline.HOLD:
            actions.append(ev.Say("hold.expired", level="warning"))
            return _climb(state, Rung.SCRIPTS, actions)
        case ev.Deadline.GRACE:
            if state.rung is Rung.SCRIPTS and state.phase is Phase.DRAINING:
                return _climb(state, Rung.GROUPS, actions)
            return _kill(state, actions)
        case ev.Deadline.GROUP | ev.Deadline.LIMIT:
            if state.phase is not Phase.PUBLISHING:
                return _kill(state, actions)
            if state.publishing_settled:
                return replace(state, all_down=True)  # nobody is waited for past the limit
            return _arm(state, ev.Deadline.PUBLISH, budgets.publish_s, actions)
        case ev.Deadline.KILL:
            for process in state.alive:
                actions.append(ev.Say("process.left", (("process", process.name),), "error"))
                state = _with_process(state, process.name, life=Life.LEFT)
            return state
        case ev.Deadline.ACK:
            late = [
                name for name, member in state.members.items() if member.heard and not member.down
            ]
            actions.append(ev.Say("members.late", (("hosts", late),), "warning"))
            return replace(state, all_down=True)
        case ev.Deadline.LATE:
            return state  # whether anybody is waited for still is drawn in _settle
        case ev.Deadline.PUBLISH:
            return _publishing_over(state, "not finished in time")
    assert_never(deadline)


def _publishing_over(state: State, error: str | None) -> State:
    if state.publishing_settled:
        return state
    return replace(state, publishing_settled=True, publish_error=error)


def _give_up_publishing(state: State, when: str) -> State:
    """Leave now: neither the transfers nor the other hosts are waited for any more."""
    return _publishing_over(replace(state, all_down=True), f"not finished {when}")


def _member_reported(state: State, event: ev.MemberReported, actions: list[ev.Action]) -> State:
    member = state.members.get(event.host)
    if member is None:
        return state  # not ours; the server refuses it before it comes here
    updated = replace(
        member,
        joined=member.joined or event.phase is not Phase.PREPARING,
        heard=True,
        script_ended=member.script_ended or event.script_ended,
        down=member.down or event.phase in {Phase.PUBLISHING, Phase.DONE},
        holds=event.holds,
    )
    if updated != member:
        state = replace(state, members={**state.members, event.host: updated})
    if updated.joined and not member.joined:
        fields = (("host", event.host), ("missing", len(state.missing)))
        actions.append(ev.Say("member.joined", fields))
        if state.missing and state.job is JobState.JOINING:
            actions.append(ev.Announce(JobState.JOINING, missing=state.missing))
    told = event.cause
    if told is None or told in {state.suspect, *state.tolerated}:
        return state
    failures = {CauseKind.SCRIPT_FAILED, CauseKind.START_FAILED, CauseKind.ESSENTIAL_DIED}
    if told.kind in failures:
        return _failed(state, told, actions)
    return _end(state, told, actions)


def _member_lost(
    state: State, host: str, evidence: str, at: float, actions: list[ev.Action]
) -> State:
    member = state.members.get(host)
    if member is None or member.down:
        return state
    actions.append(ev.Say("member.lost", (("host", host), ("evidence", evidence)), "warning"))
    if state.phase in _NOTHING_STARTED:
        # It may be started anew. Until it is, it is one of those that are waited for.
        state = replace(state, members={**state.members, host: Member()})
        actions.append(ev.Announce(JobState.JOINING, missing=state.missing))
        return state
    state = replace(state, members={**state.members, host: replace(member, down=True)})
    if not _before_draining(state):
        return state
    return _failed(state, Cause(CauseKind.MEMBER_LOST, host, f"lost: {evidence}", at=at), actions)


def _job_changed(
    state: State, job: JobState, verdict: Verdict | None, actions: list[ev.Action]
) -> State:
    if state.setup.is_master or state.job is JobState.ENDED:
        return state
    state = replace(state, job=job, master_heard=True)
    if job is JobState.RUNNING and state.phase is Phase.JOINING:
        return _run(state, actions)
    if verdict is None:
        return state
    state = replace(state, verdict=verdict)
    if _before_draining(state):
        return _end(state, verdict.cause, actions)
    if job is JobState.ENDED and state.rung is Rung.HOLD and not _evaluates_on(state):
        return _climb(state, Rung.SCRIPTS, actions)
    return state


def _master_lost(
    state: State, how: str, evidence: str, at: float, actions: list[ev.Action]
) -> State:
    if state.setup.is_master or state.job is JobState.ENDED:
        return state  # nobody to lose, or it said all it had to say
    master = state.setup.master
    if state.phase in _NOTHING_STARTED and how != REFUSES:
        # It may be started anew, and how long that is waited for is the join timeout.
        fields = (("host", master), ("how", how), ("evidence", evidence))
        actions.append(ev.Say("master.lost", fields, "warning"))
        return replace(state, master_heard=False)
    # From here on nobody will say ENDED.
    state = replace(state, job=JobState.ENDED)
    if _before_draining(state):
        begun = state.phase not in _NOTHING_STARTED
        kind = CauseKind.MASTER_LOST if begun else CauseKind.REFUSED
        return _end(state, _own(state, kind, f"the master {master} {how}: {evidence}", at), actions)
    if state.phase is Phase.DRAINING and state.rung is Rung.HOLD:
        return _climb(state, Rung.SCRIPTS, actions)
    return state


def _broke(state: State, message: str, at: float, actions: list[ev.Action]) -> State:
    """A defect of ours. The first one ends the job in order; from then on only SIGKILL."""
    actions.append(ev.Say("internal.error", (("error", message),), "error"))
    if _before_draining(state):
        return _end(state, _own(state, CauseKind.INTERNAL, message, at), actions)
    return _kill(state, actions)


# --------------------------------------------------------------------------- coming down


def _before_draining(state: State) -> bool:
    return state.phase in {*_NOTHING_STARTED, Phase.RUNNING}


def _end(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    """The cause is known: begin to come down. The first cause stays."""
    if not _before_draining(state):
        return state
    budgets = state.setup.budgets
    if state.suspended:  # all of it: a leader that saves needs its helpers, the chief our servers
        state = _resume(state, actions)
    suspect, state = state.suspect, replace(state, suspect=None, cause=cause)
    if suspect is not None:
        state = _note(state, suspect, actions)  # whatever ends the run explains it
    state = replace(state, phase=Phase.DRAINING)
    state = _disarm(
        state,
        actions,
        ev.Deadline.PREPARE,
        ev.Deadline.JOIN,
        ev.Deadline.RUNTIME,
        ev.Deadline.SETTLE,
        ev.Deadline.STRAGGLER,
    )
    extra_s = budgets.evaluator_grace_s if _evaluates_on(state) else 0.0
    state = _arm(state, ev.Deadline.LIMIT, budgets.limit_s + extra_s, actions)
    fields = (("outcome", outcome_of(cause).value), ("cause", str(cause)))
    level = "info" if cause.kind is CauseKind.FINISHED else "warning"
    actions.append(ev.Say("job.ending", fields, level))
    if state.members and state.scripts_alive:  # else it is final, and announced as ENDED at once
        state = replace(state, job=JobState.STOPPING, verdict=Verdict(outcome_of(cause), cause))
        actions.append(ev.Announce(JobState.STOPPING, state.verdict))
    if _evaluates_on(state):
        return _arm(state, ev.Deadline.HOLD, budgets.evaluator_grace_s, actions)
    held = state.setup.is_member and state.setup.chief_first and state.job is not JobState.ENDED
    if held and any(not process.step for process in state.alive):
        state = replace(state, rung=Rung.HOLD)
        hold_s = _grace_s(state) + budgets.group_s + budgets.kill_s
        return _arm(state, ev.Deadline.HOLD, hold_s, actions)
    return _climb(state, Rung.SCRIPTS, actions)


def _evaluates_on(state: State) -> bool:
    """Whether this host's script has the evaluator's share: the job succeeded, and its last
    checkpoint is still to be evaluated."""
    return (
        state.setup.host == state.setup.evaluator
        and state.setup.budgets.evaluator_grace_s > 0
        and state.cause is not None
        and outcome_of(state.cause) is Outcome.SUCCEEDED
        and state.scripts_alive
        and state.stop_signals == 0
    )


def _grace_s(state: State) -> float:
    """A stop that was asked for leaves the script its full share; an end elsewhere a short one."""
    assert state.cause is not None
    asked = outcome_of(state.cause) is Outcome.STOPPED
    budgets = state.setup.budgets
    return budgets.stop_grace_s if asked else budgets.end_grace_s


def _climb(state: State, rung: Rung, actions: list[ev.Action]) -> State:
    """Enter a rung: its signals and its deadline. ``_settle`` climbs on when it is empty."""
    if state.phase is not Phase.DRAINING:
        return state
    budgets = state.setup.budgets
    state = _disarm(state, actions, ev.Deadline.HOLD, ev.Deadline.GRACE, ev.Deadline.GROUP)
    state = replace(state, rung=rung)
    servers = rung is Rung.SERVERS
    targets = [process for process in state.alive if process.server is servers]
    for process in targets:
        if rung is Rung.GROUPS:
            actions.append(ev.DumpStacks(process.name))
        whole_group = rung is Rung.GROUPS
        actions.append(ev.Send(process.name, process.stop_signal, whole_group=whole_group))
        state = _with_process(state, process.name, stopped_by_us=True)
    if not targets:
        return state
    if rung is Rung.GROUPS:
        return _arm(state, ev.Deadline.GROUP, budgets.group_s, actions)
    grace_s = budgets.server_grace_s if servers else _grace_s(state)
    if any(process.shelters_scripts for process in targets):
        grace_s = max(grace_s, _grace_s(state))
    return _arm(state, ev.Deadline.GRACE, grace_s, actions)


def _kill(state: State, actions: list[ev.Action]) -> State:
    """SIGKILL to every tree that is alive."""
    if state.phase not in {Phase.DRAINING, Phase.KILLING}:
        return state
    state = _disarm(state, actions, ev.Deadline.HOLD, ev.Deadline.GRACE, ev.Deadline.GROUP)
    state = replace(state, phase=Phase.KILLING)
    for process in state.alive:
        actions.append(ev.KillTree(process.name))
        state = _with_process(state, process.name, stopped_by_us=True)
    if state.alive and ev.Deadline.KILL not in state.armed:
        return _arm(state, ev.Deadline.KILL, state.setup.budgets.kill_s, actions)
    return state


def respite(state: State, name: str, death: ExitStatus | None, *, asked: bool) -> Respite:
    """What those have that outlive the leader of a process.

    ``death`` is how the leader ended and ``asked`` whether our stop signal reached it before. Then
    they may be what it stood for: the training below a shell, which dies of SIGTERM at once and
    passes nothing on. They have what is left of the rung's time, and ``_kill`` ends that. A whole
    container may get the signal from the platform (``scancel``), and a leader die before ours.
    """
    process = _process(state, name)
    deadly = death is not None and death.signum in {process.stop_signal, *STOP_SIGNALS}
    if process.stopped_by_us and (asked or (deadly and state.stop_signals > 0)):
        return Respite(math.inf, process.stop_signal, asked=True)
    return Respite(SWEEP_S)


# --------------------------------------------------------------------------- conclusions


def _settle(state: State, actions: list[ev.Action]) -> State:
    """Draw every conclusion that needs no further event."""
    if state.phase is Phase.JOINING and state.members and not state.missing:
        state = _agree(state, actions)
    if state.phase is Phase.RUNNING and (finished := _finished(state)) is not None:
        state = _end(state, finished, actions)
    if state.phase in {Phase.DRAINING, Phase.KILLING}:
        state = _come_down(state, actions)
    if state.phase is Phase.PUBLISHING:
        state = _leave(state, actions)
    return state


def _finished(state: State) -> Cause | None:
    """The job's success, where this host is the one to say so."""
    setup, status = state.setup, state.script_status
    if setup.is_member:
        return None
    ok = status is not None and status.ok
    if setup.success_policy is SuccessPolicy.CHIEF:
        return _success(state, "finished, exit 0") if ok else None
    training = [name for name in setup.training if name != setup.host]
    ended = ok + sum(state.members[name].script_ended for name in training)
    total = 1 + len(training)
    if setup.success_policy is SuccessPolicy.SHARE:
        if ended < _share_of(state, total):
            return None
        return _success(state, f"{ended} of {counted(total, 'script')} ended with 0")
    given_up = {cause.host for cause in state.tolerated}
    if not ok or any(
        not state.members[name].script_ended and name not in given_up for name in training
    ):
        return None
    return _success(state, "finished, exit 0")


def _share_of(state: State, scripts: int) -> int:
    """How many of so many scripts the success policy asks for."""
    return max(1, math.ceil(state.setup.success_share * scripts - 1e-9))


def _success(state: State, message: str) -> Cause:
    script = next(process for process in state.processes if process.script)
    return _own(
        state, CauseKind.FINISHED, message, script.ended_at, script.name, state.script_status
    )


def _come_down(state: State, actions: list[ev.Action]) -> State:
    if state.phase is Phase.DRAINING and state.rung is Rung.HOLD and not state.alive:
        state = _climb(state, Rung.SCRIPTS, actions)
    if not state.scripts_alive and state.rung is not Rung.HOLD:
        if state.members and state.job is not JobState.ENDED:
            state = _announce_end(state, actions)
        if state.phase is Phase.DRAINING and state.rung < Rung.SERVERS:
            state = _climb(state, Rung.SERVERS, actions)
    if state.alive:
        return state
    if state.members and state.job is not JobState.ENDED:  # killed while holding, or left alive
        state = _announce_end(state, actions)
    # Every timer of the way down, but the platform's where it was asked to stop.
    budgets = state.setup.budgets
    kept = {ev.Deadline.ACK, ev.Deadline.LATE} | (
        {ev.Deadline.LIMIT} if state.stop_signals else set()
    )
    state = _disarm(state, actions, *(state.armed - kept))
    state = replace(state, phase=Phase.PUBLISHING)
    if not state.begun:
        return _publishing_over(state, None)  # nothing was made that could be sent
    actions.append(ev.Publish())
    if ev.Deadline.LIMIT in state.armed:
        return state  # all that the platform leaves; the share that is kept free follows it
    seconds = budgets.publish_s if state.stop_signals else budgets.publish_end_s
    return _arm(state, ev.Deadline.PUBLISH, seconds, actions)


def _announce_end(state: State, actions: list[ev.Action]) -> State:
    """On the master: the verdict is final, members may stop their servers and leave."""
    assert state.cause is not None
    verdict = Verdict(
        outcome_of(state.cause), state.cause, job_exit_code(state.cause, state.script_status)
    )
    actions.append(ev.Announce(JobState.ENDED, verdict))
    state = replace(state, job=JobState.ENDED, verdict=verdict)
    budgets = state.setup.budgets
    ack_s = min(budgets.ack_s, budgets.publish_s) if state.stop_signals else budgets.ack_s
    if state.setup.evaluator and verdict.outcome is Outcome.SUCCEEDED and not state.stop_signals:
        ack_s += budgets.evaluator_grace_s
    waited_for = state.stop_signals or verdict.cause.kind is CauseKind.JOIN_TIMEOUT
    if not state.begun and not waited_for:
        state = _arm(state, ev.Deadline.LATE, LATE_S, actions)
    return _arm(state, ev.Deadline.ACK, ack_s, actions)


def _leave(state: State, actions: list[ev.Action]) -> State:
    # Who has never been heard from may never come, and is not waited for.
    late = ev.Deadline.LATE in state.armed
    down = state.all_down or all(
        member.down or not (member.heard or late) for member in state.members.values()
    )
    if down:
        state = _disarm(state, actions, ev.Deadline.ACK)
    if not (down and state.publishing_settled):
        return state
    state = _disarm(state, actions, *state.armed)
    actions.append(ev.Record())
    return replace(state, phase=Phase.DONE)


# --------------------------------------------------------------------------- small parts


def _own(
    state: State,
    kind: CauseKind,
    message: str,
    at: float,
    process: str | None = None,
    status: ExitStatus | None = None,
    detail: str = "",
) -> Cause:
    return Cause(kind, state.setup.host, message, process, status, detail, at)


def _process(state: State, name: str) -> Process:
    return next(process for process in state.processes if process.name == name)


def _with_process(state: State, name: str, **changes: Any) -> State:
    return replace(
        state,
        processes=tuple(
            replace(process, **changes) if process.name == name else process
            for process in state.processes
        ),
    )


def _arm(state: State, deadline: ev.Deadline, seconds: float, actions: list[ev.Action]) -> State:
    actions.append(ev.Arm(deadline, seconds))
    return replace(state, armed=state.armed | {deadline})


def _disarm(state: State, actions: list[ev.Action], *deadlines: ev.Deadline) -> State:
    stale = state.armed.intersection(deadlines)
    actions.extend(ev.Disarm(deadline) for deadline in sorted(stale))
    return replace(state, armed=state.armed - stale)
