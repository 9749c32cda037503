"""How a host comes down: the stop ladder as a table, and the few moves on it.

Each rung concerns some of the processes. Those that are alive get its signal and have its time. The
next rung follows when none of them is left, or when the time is over; the last resort is SIGKILL to
every tree. ``Deadline.LIMIT`` bounds all rungs together.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple

from supervisor.life import events as ev
from supervisor.life.automaton import Trigger
from supervisor.life.outcome import outcome_of
from supervisor.life.state import Process, State, arm, disarm, enter, process_of, with_process
from supervisor.life.words import (
    STOP_SIGNALS,
    ExitStatus,
    JobState,
    Outcome,
    Phase,
    Respite,
    Rung,
)

SWEEP_S: Final = 2.0
"""What outlived a leader that ended of its own accord has this long after SIGTERM."""


# --------------------------------------------------------------------------- the shares of time


def _hold_s(state: State) -> float:
    """The evaluator's last evaluation has its own; else what the chief has for its end."""
    budgets = state.setup.budgets
    if evaluates_on(state):
        return budgets.evaluator_grace_s
    return _grace_s(state) + budgets.group_s + budgets.kill_s


def _grace_s(state: State) -> float:
    """A stop that was asked for leaves the script its full share; an end elsewhere a short one."""
    asked = state.cause is not None and outcome_of(state.cause) is Outcome.STOPPED
    budgets = state.setup.budgets
    return budgets.stop_grace_s if asked else budgets.end_grace_s


def _group_s(state: State) -> float:
    return state.setup.budgets.group_s


def _server_grace_s(state: State) -> float:
    server_s = state.setup.budgets.server_grace_s
    sheltering = any(process.shelters_scripts for process in state.coming_down)
    return max(server_s, _grace_s(state)) if sheltering else server_s


# --------------------------------------------------------------------------- the ladder


class Whom(enum.StrEnum):
    EVERYBODY = "everybody"
    SCRIPTS = "scripts"
    """And steps, which are stopped in the same way."""
    SERVERS = "servers"


class To(enum.StrEnum):
    """Where the stop signal of each of them goes."""

    NOBODY = "nobody"
    LEADERS = "leaders"
    GROUPS = "process groups"
    """Their stacks are asked for first: SIGKILL may follow, and then it is too late to ask."""


class Measure(NamedTuple):  # a dataclass takes half a millisecond of each script's start
    """What is done on a rung."""

    whom: Whom
    signalled: To
    deadline: ev.Deadline
    share_s: Callable[[State], float]
    """Seconds until the deadline."""
    over: Rung | None
    """Next when the time is over; None: SIGKILL."""
    done: Rung | None
    """Next when none of them is alive, or nothing is waited for any more; None: nothing is left."""


LADDER: Final[Mapping[Rung, Measure]] = MappingProxyType(
    {
        # A member of a cluster with parameter servers keeps its processes for the chief's last
        # checkpoint (the variables live on the servers) until the master says ENDED. The
        # evaluator evaluates that checkpoint.
        Rung.HOLD: Measure(
            Whom.EVERYBODY, To.NOBODY, ev.Deadline.HOLD, _hold_s, Rung.SCRIPTS, Rung.SCRIPTS
        ),
        # The leader alone at first: it knows whom of its own to ask, and in which order.
        Rung.SCRIPTS: Measure(
            Whom.SCRIPTS, To.LEADERS, ev.Deadline.GRACE, _grace_s, Rung.GROUPS, Rung.SERVERS
        ),
        Rung.GROUPS: Measure(
            Whom.SCRIPTS, To.GROUPS, ev.Deadline.GROUP, _group_s, None, Rung.SERVERS
        ),
        # Parameter servers outlive every script here.
        Rung.SERVERS: Measure(
            Whom.SERVERS, To.LEADERS, ev.Deadline.GRACE, _server_grace_s, None, None
        ),
    }
)


def first_rung(state: State, actions: list[ev.Action]) -> State:
    """The cause is known, or something starts anew; nothing has been asked to stop yet."""
    setup = state.setup
    if state.phase is Phase.RESTARTING:
        return _climb(state, Rung.SCRIPTS, actions)
    heard = state.job is not JobState.ENDED and state.away is None
    held = setup.is_member and setup.chief_first and heard
    if evaluates_on(state) or (held and any(not process.step for process in state.alive)):
        return _climb(state, Rung.HOLD, actions)
    return _climb(state, Rung.SCRIPTS, actions)


def rung_over(state: State, actions: list[ev.Action]) -> State:
    """The rung's time is over."""
    following = LADDER[state.rung].over
    return kill(state, actions) if following is None else _climb(state, following, actions)


def rung_done(state: State, actions: list[ev.Action]) -> State:
    """Nothing on this rung is waited for any more."""
    following = LADDER[state.rung].done
    return state if following is None else _climb(state, following, actions)


def _climb(state: State, rung: Rung, actions: list[ev.Action]) -> State:
    """Enter a rung: its signals and its deadline. The reducer goes on where it is empty."""
    if state.phase not in {Phase.DRAINING, Phase.RESTARTING}:
        return state
    measure = LADDER[rung]
    state = _disarm_rungs(state, actions)
    state = replace(state, rung=rung)
    targets = _alive(state, measure.whom)
    if not targets:
        return state
    if measure.signalled is not To.NOBODY:
        whole_group = measure.signalled is To.GROUPS
        for process in targets:
            if whole_group:
                actions.append(ev.DumpStacks(process.name))
            if process.had_stop and not whole_group:  # many programs take a second one for "now"
                actions.append(ev.Had(process.name, process.stop_signal))
            elif process.again and process.stopped_by_us and not whole_group:
                pass  # it had it in order to start anew, and now has the time of a stop
            else:
                actions.append(ev.Send(process.name, process.stop_signal, whole_group=whole_group))
            state = with_process(state, process.name, stopped_by_us=True)
    return arm(state, measure.deadline, measure.share_s(state), actions)


def kill(state: State, actions: list[ev.Action]) -> State:
    """The last resort: SIGKILL to every tree that is to go. What it does not end is left."""
    if state.phase not in {Phase.DRAINING, Phase.KILLING, Phase.RESTARTING}:
        return state
    state = _disarm_rungs(state, actions)
    if state.phase is not Phase.RESTARTING:
        state = enter(state, Trigger.MUST_DIE)
    for process in state.coming_down:
        actions.append(ev.KillTree(process.name))
        state = with_process(state, process.name, stopped_by_us=True)
    if state.coming_down and ev.Deadline.KILL not in state.armed:
        return arm(state, ev.Deadline.KILL, state.setup.budgets.kill_s, actions)
    return state


def more_time(state: State, name: str, seconds: float, actions: list[ev.Action]) -> State:
    """A script that comes down asks for more of the rung's time than its share.

    It may have what is left of the time that bounds all rungs, less what the rungs to come need:
    ``Deadline.LIMIT``, which is the platform's limit after a stop signal, and is as long at the end
    of a job that nobody stopped. Where it starts anew there is none, and the other hosts wait for
    it (``restarting.py``): there it may have its share twice.
    """
    measure = LADDER[state.rung]
    if measure.whom is not Whom.SCRIPTS or measure.deadline not in state.armed:
        return state
    targets = _alive(state, measure.whom)
    if not any(process.name == name and process.stopped_by_us for process in targets):
        return state
    groups_s = _group_s(state) if state.rung is Rung.SCRIPTS else 0.0
    servers_s = _server_grace_s(state) if any(each.server for each in state.coming_down) else 0.0
    most_s = math.inf
    if state.phase is Phase.RESTARTING:
        most_s = 2 * measure.share_s(state) if state.rung is Rung.SCRIPTS else 0.0
    actions.append(ev.Extend(name, measure.deadline, seconds, groups_s + servers_s, most_s))
    return state


def _alive(state: State, whom: Whom) -> tuple[Process, ...]:
    if whom is Whom.EVERYBODY:
        return state.coming_down
    return tuple(each for each in state.coming_down if each.server is (whom is Whom.SERVERS))


def _disarm_rungs(state: State, actions: list[ev.Action]) -> State:
    return disarm(state, actions, *{measure.deadline for measure in LADDER.values()})


# --------------------------------------------------------------------------- what it depends on


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
