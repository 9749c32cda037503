"""From preparing to running: the steps, the barrier, and one checkpoint for all hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from supervisor.life import events as ev
from supervisor.life.automaton import Trigger
from supervisor.life.ending import end
from supervisor.life.state import State, advance, arm, disarm, enter, hear, live, own_cause
from supervisor.life.words import CauseKind, JobState, Life, Phase

JOIN_MARGIN_S: Final = 2.0
"""A member waits this much longer than the master, which can say better who is missing."""
_SHOWN: Final = 10
"""Missing hosts that are named in a message."""


def prepared(state: State, actions: list[ev.Action]) -> State:
    """Start the next step, or go on to the barrier where none is left."""
    if not state.nothing_started or state.alive:
        return state  # a stop came first, or a step is under way
    step = next((each for each in state.processes if each.step and each.life is Life.PLANNED), None)
    if step is not None:
        actions.append(ev.Start(step.name))
        if ev.Deadline.PREPARE not in state.armed:  # one for all steps
            state = arm(state, ev.Deadline.PREPARE, state.setup.budgets.prepare_s, actions)
        return live(state, step.name, Trigger.STARTED)
    state = disarm(state, actions, ev.Deadline.PREPARE)
    before, state = state.phase, enter(state, Trigger.PREPARED)
    if len(state.setup.hosts) == 1:
        return run(state, actions)
    if before is Phase.JOINING:
        return state  # it has restored what all hosts are to hold
    margin_s = JOIN_MARGIN_S if state.setup.is_member else 0.0
    state = arm(state, ev.Deadline.JOIN, state.setup.budgets.join_s + margin_s, actions)
    return _restore_now(state, actions) if state.restore else state


def restore_as_all(state: State, generation: str, actions: list[ev.Action]) -> State:
    """Once in a life, before the job runs: the checkpoint with which all hosts begin."""
    if state.restore or not state.nothing_started:
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


def agree(state: State, actions: list[ev.Action]) -> State:
    """On the master, when all have joined: run, if they begin from the same checkpoint."""
    setup = state.setup
    told = {host: state.members[host].holds for host in state.training if host != setup.host}
    told[setup.host] = state.holds
    if not any(told.values()):
        return run(state, actions)
    from supervisor.life import agreement  # noqa: PLC0415  # for jobs of several hosts that restore

    if state.restore:
        return state if agreement.differing(told, state.restore) else run(state, actions)
    found = agreement.compare(told, own_lines=setup.own_lines)
    if found.same:
        return run(state, actions)
    if setup.agreement == "fail":
        message = (
            f"the hosts would begin from different checkpoints: {found.words} "
            "(SUPERVISOR_RESTORE_AGREEMENT=fail); empty the directories that differ, or set "
            "SUPERVISOR_RESTORE_AGREEMENT=same"
        )
        return end(state, own_cause(state, CauseKind.PREPARE_FAILED, message, 0.0), actions)
    wanted = found.restore if setup.agreement == "same" else ""
    fields = (("hosts", found.words), ("restore", wanted or "none"))
    level = "info" if setup.agreement == "say" else "warning"
    actions.append(ev.Say("checkpoints.differ", fields, level))
    if not wanted:
        return run(state, actions)
    state = replace(state, restore=wanted)
    actions.append(ev.Announce(JobState.JOINING, restore=wanted))
    return _restore_now(state, actions)


def waiting(state: State, reasons: tuple[tuple[str, str], ...], actions: list[ev.Action]) -> State:
    if state.phase is not Phase.JOINING:
        return state
    state = replace(state, waiting=reasons)
    actions.append(ev.Say("joining.waiting", (("hosts", who_is_missing(state)),)))
    return state


def who_is_missing(state: State) -> str:
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

    told = {host: state.members[host].holds for host in state.training if host in state.members}
    return tuple(agreement.differing(told, state.restore))


def run(state: State, actions: list[ev.Action], *, but: tuple[str, ...] = ()) -> State:
    """Start everything ``but`` some, all at once; what is still being restored comes first."""
    if state.alive:
        return state
    state = disarm(state, actions, ev.Deadline.JOIN)
    state = enter(state, Trigger.ALL_JOINED)
    if state.setup.is_master:
        state = advance(state, Trigger.ALL_JOINED)
    else:
        state = hear(state, JobState.RUNNING)
    if state.members:
        actions.append(ev.Announce(JobState.RUNNING))
    for process in state.processes:
        if process.step or process.name in but:
            continue
        actions.append(ev.Start(process.name))
        state = live(state, process.name, Trigger.STARTED)
    if state.setup.budgets.max_runtime_s:
        state = arm(state, ev.Deadline.RUNTIME, state.setup.budgets.max_runtime_s, actions)
    return state
