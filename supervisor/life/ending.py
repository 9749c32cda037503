"""What ends a run, and what does not: success, failures, doubt and tolerance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from supervisor.faults import counted
from supervisor.life import events as ev
from supervisor.life.automaton import Trigger
from supervisor.life.ladder import evaluates_on, first_rung
from supervisor.life.outcome import outcome_of
from supervisor.life.state import State, advance, arm, disarm, enter, own_cause, with_process
from supervisor.life.words import (
    Cause,
    CauseKind,
    Life,
    Role,
    SuccessPolicy,
    Verdict,
    speaks_of_lost_peer,
)

SETTLE_S: Final = 2.0
"""A script that failed and speaks of a lost peer is looked at this long: a peer's crash takes about
a second to be proven, and it, not its victim, is then the cause."""
_MOST_NOTED: Final = 32
"""Further failures that are kept for the report."""


def end(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    """The cause is known: begin to come down. The first cause stays."""
    if not state.before_draining:
        return state
    budgets = state.setup.budgets
    if state.suspended:  # all of it: a leader that saves needs its helpers, the chief our servers
        state = resume(state, actions)
    others = (state.suspect, state.asked)
    state = replace(state, suspect=None, asked=None, cause=cause)
    for other in filter(None, others):
        state = note(state, other, actions)  # whatever ends the run explains it
    for process in state.processes:
        if process.again and process.life is not Life.ALIVE:  # nobody is there to answer a stop
            state = with_process(state, process.name, again=False, status=None, message="")
    state = enter(state, Trigger.CAUSE_KNOWN)
    state = disarm(
        state,
        actions,
        ev.Deadline.PREPARE,
        ev.Deadline.JOIN,
        ev.Deadline.RUNTIME,
        ev.Deadline.SETTLE,
        ev.Deadline.STRAGGLER,
        ev.Deadline.DECISION,
        ev.Deadline.BACKOFF,
        ev.Deadline.RESTART,
        ev.Deadline.REJOIN,
        ev.Deadline.KILL,  # of a process that was to start anew
    )
    extra_s = budgets.evaluator_grace_s if evaluates_on(state) else 0.0
    state = arm(state, ev.Deadline.LIMIT, budgets.limit_s + extra_s, actions)
    fields = (("outcome", outcome_of(cause).value), ("cause", str(cause)))
    level = "info" if cause.kind is CauseKind.FINISHED else "warning"
    actions.append(ev.Say("job.ending", fields, level))
    if state.members and state.scripts_alive:  # else it is final, and announced as ENDED at once
        state = advance(state, Trigger.CAUSE_KNOWN, verdict_of(state, cause))
        actions.append(ev.Announce(state.job, state.verdict))
    return first_rung(state, actions)


def failed_for_good(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    """What failed is not started anew: the end, unless a policy or doubt says else."""
    if tolerable(state, cause):
        return tolerate(state, cause, actions)
    doubted = doubt(state, cause, actions)
    return end(state, cause, actions) if doubted is None else doubted


def doubt(state: State, cause: Cause, actions: list[ev.Action]) -> State | None:
    """Wait for what a failure may be the consequence of; None where it speaks for itself."""
    victim = cause.kind is CauseKind.SCRIPT_FAILED and speaks_of_lost_peer(
        f"{cause.message}\n{cause.detail}"
    )
    if victim and state.suspect is not None:
        return note(state, cause, actions)
    if victim and state.under_way and len(state.setup.hosts) > 1:
        fields = (("cause", str(cause)), ("seconds", SETTLE_S))
        actions.append(ev.Say("failure.examined", fields, "warning"))
        return arm(replace(state, suspect=cause), ev.Deadline.SETTLE, SETTLE_S, actions)
    return None


def tolerable(state: State, cause: Cause) -> bool:
    """Whether the failure policy lets the job go on; a member leaves that to the master."""
    setup = state.setup
    if not state.under_way or cause.host == setup.master:
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
    hosts = {each.host for each in state.tolerated} | {cause.host}
    if len(hosts) > setup.tolerated_failures:
        return False
    trained = len(state.training)
    within_reach = trained - len(hosts & {*state.training}) >= _share_of(state, trained)
    return setup.is_member or setup.success_policy is not SuccessPolicy.SHARE or within_reach


def tolerate(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    fields = (
        ("host", cause.host),
        ("process", cause.process),
        ("message", cause.message),
        ("limit", state.setup.tolerated_failures),
    )
    actions.append(ev.Say("failure.tolerated", fields, "warning"))
    return replace(state, tolerated=(*state.tolerated, cause))


def note(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    """A failure that is not the cause: said and kept, so that nothing is hidden."""
    if cause in {state.cause, *state.also} or len(state.also) >= _MOST_NOTED:
        return state
    actions.append(ev.Say("failure.also", (("cause", str(cause)),), "warning"))
    return replace(state, also=(*state.also, cause))


def verdict_of(state: State, cause: Cause, exit_code: int | None = None) -> Verdict:
    """The job's, on the master or alone."""
    refused = state.refused
    why, restartable = (refused.reason, refused.restartable) if refused else ("", None)
    return Verdict(outcome_of(cause), cause, exit_code, why, restartable)


def finished(state: State) -> Cause | None:
    """The job's success, where this host is the one to say so."""
    setup = state.setup
    if setup.is_member:
        return None
    ok = state.script_finished
    if setup.success_policy is SuccessPolicy.CHIEF:
        return success(state, "finished, exit 0") if ok else None
    training = [name for name in state.training if name != setup.host]
    ended = ok + sum(state.members[name].script_ended for name in training)
    total = 1 + len(training)
    if setup.success_policy is SuccessPolicy.SHARE:
        if ended < _share_of(state, total):
            return None
        return success(state, f"{ended} of {counted(total, 'script')} ended with 0")
    given_up = {cause.host for cause in state.tolerated}
    if not ok or any(
        not state.members[name].script_ended and name not in given_up for name in training
    ):
        return None
    return success(state, "finished, exit 0")


def _share_of(state: State, scripts: int) -> int:
    """How many of so many scripts the success policy asks for."""
    return max(1, math.ceil(state.setup.success_share * scripts - 1e-9))


def success(state: State, message: str) -> Cause:
    script = next(process for process in state.processes if process.script)
    return own_cause(
        state, CauseKind.FINISHED, message, script.ended_at, script.name, state.script_status
    )


def resume(state: State, actions: list[ev.Action]) -> State:
    actions += [ev.Resume(process.name) for process in state.alive]
    return replace(state, suspended=False)
