"""How a host comes down."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from typing import Final

from supervisor.life import events as ev
from supervisor.life.outcome import outcome_of
from supervisor.life.state import State, arm, disarm, process_of, with_process
from supervisor.life.words import ExitStatus, Outcome, Phase, Respite, Rung

SWEEP_S: Final = 2.0
"""What outlived a leader that ended of its own accord has this long after SIGTERM."""
STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})


def evaluates_on(state: State) -> bool:
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


def grace_s(state: State) -> float:
    """A stop that was asked for leaves the script its full share; an end elsewhere a short one."""
    assert state.cause is not None
    asked = outcome_of(state.cause) is Outcome.STOPPED
    budgets = state.setup.budgets
    return budgets.stop_grace_s if asked else budgets.end_grace_s


def climb(state: State, rung: Rung, actions: list[ev.Action]) -> State:
    """Enter a rung: its signals and its deadline. ``_settle`` climbs on when it is empty."""
    if state.phase is not Phase.DRAINING:
        return state
    budgets = state.setup.budgets
    state = disarm(state, actions, ev.Deadline.HOLD, ev.Deadline.GRACE, ev.Deadline.GROUP)
    state = replace(state, rung=rung)
    servers = rung is Rung.SERVERS
    targets = [process for process in state.alive if process.server is servers]
    for process in targets:
        if rung is Rung.GROUPS:
            actions.append(ev.DumpStacks(process.name))
        whole_group = rung is Rung.GROUPS
        actions.append(ev.Send(process.name, process.stop_signal, whole_group=whole_group))
        state = with_process(state, process.name, stopped_by_us=True)
    if not targets:
        return state
    if rung is Rung.GROUPS:
        return arm(state, ev.Deadline.GROUP, budgets.group_s, actions)
    share_s = budgets.server_grace_s if servers else grace_s(state)
    if any(process.shelters_scripts for process in targets):
        share_s = max(share_s, grace_s(state))
    return arm(state, ev.Deadline.GRACE, share_s, actions)


def kill(state: State, actions: list[ev.Action]) -> State:
    """SIGKILL to every tree that is alive."""
    if state.phase not in {Phase.DRAINING, Phase.KILLING}:
        return state
    state = disarm(state, actions, ev.Deadline.HOLD, ev.Deadline.GRACE, ev.Deadline.GROUP)
    state = replace(state, phase=Phase.KILLING)
    for process in state.alive:
        actions.append(ev.KillTree(process.name))
        state = with_process(state, process.name, stopped_by_us=True)
    if state.alive and ev.Deadline.KILL not in state.armed:
        return arm(state, ev.Deadline.KILL, state.setup.budgets.kill_s, actions)
    return state


def respite(state: State, name: str, death: ExitStatus | None, *, asked: bool) -> Respite:
    """What those have that outlive the leader of a process.

    ``death`` is how the leader ended and ``asked`` whether our stop signal reached it before. Then
    they may be what it stood for: the training below a shell, which dies of SIGTERM at once and
    passes nothing on. They have what is left of the rung's time, and ``kill`` ends that. A whole
    container may get the signal from the platform (``scancel``), and a leader die before ours.
    """
    process = process_of(state, name)
    deadly = death is not None and death.signum in {process.stop_signal, *STOP_SIGNALS}
    if process.stopped_by_us and (asked or (deadly and state.stop_signals > 0)):
        return Respite(math.inf, process.stop_signal, asked=True)
    return Respite(SWEEP_S)
