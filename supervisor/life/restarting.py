"""Another attempt: what failed starts anew in place, and the rest goes on. Pure.

The master judges (``attempts.decide``) and gives an order; the members follow it, from the job's
document. On every host what the order concerns comes down by the stop ladder, is made ready, and
waits until all that the order concerns is ready everywhere: then it starts. What it does not
concern runs on. The supervisors, their links and their transfers stay as they are.

    running → restarting (down, made ready, waiting for the others) → running

A failure that comes while an order is being followed makes it wider and is not judged: nothing can
fail twice before it was started anew. A stop, or anything else that ends a run, ends this as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from supervisor.life import events as ev
from supervisor.life.attempts import (
    EVERY,
    LOST,
    NONE,
    RESTARTED,
    Order,
    Past,
    Refused,
    Restart,
    Scope,
    decide,
    scope_of,
    scope_of_host,
)
from supervisor.life.automaton import Trigger
from supervisor.life.ending import doubt, end, note, resume, tolerable, tolerate
from supervisor.life.joining import run
from supervisor.life.ladder import first_rung, rung_done
from supervisor.life.state import (
    State,
    advance,
    arm,
    disarm,
    enter,
    hear,
    live,
    own_cause,
    with_process,
)
from supervisor.life.words import Cause, CauseKind, JobState, Life, Phase, Rung
from supervisor.life.world import is_beside, next_world, numbers, present_in, stands_by, world_of

__all__ = [
    "RESTARTED",
    "concerned",
    "failed",
    "follow",
    "give",
    "into",
    "judge",
    "over",
    "progress",
    "readied",
    "run_late",
    "turn_of",
    "unanswered",
    "waited_for",
]

MARGIN_S: Final = 10.0
"""Beyond what coming down takes on one host, for the words to travel and the files to answer."""
MOST_PAST: Final = 1000
"""Ends of attempts that are remembered; budgets look no further back."""
AGAIN_S: Final = (5.0, 15.0)
"""Pauses before a checkpoint that could not be restored is tried once more."""
HANDOVER_S: Final = 60.0
"""What the master's script saved is sent in so much time, where other hosts are to have it."""
AS_IT_IS: Final = "-"
"""Told in the place of a generation where there is none: nothing is to be restored."""
_SHOWN: Final = 10
"""Hosts that are named in a message."""


# --------------------------------------------------------------------------- who judges


def failed(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    """A failure here, or on the master anywhere, of what could start anew."""
    process = cause.process or ""
    if state.setup.is_member:
        if state.asked is not None:
            state = note(state, state.asked, actions)
        state = replace(state, asked=cause, fallen=(*state.fallen, (cause.host, process)))
        if state.away is not None:
            return state  # asked when the master is back
        return arm(state, ev.Deadline.DECISION, state.setup.budgets.lease_s, actions)
    if state.job is JobState.RESTARTING:
        state = note(state, cause, actions)
        assert state.order is not None
        if _concerns(state, state.order, cause.host, process):
            return state  # it comes up with the rest
        scope = _scope_of(state, cause)
        return give(state, state.order.widened(scope, cause.host, process), actions)
    state = replace(state, fallen=(*state.fallen, (cause.host, process)))
    doubted = doubt(state, cause, actions)
    return judge(state, cause, actions) if doubted is None else doubted


def judge(state: State, cause: Cause, actions: list[ev.Action], now: float = 0.0) -> State:
    """On the master, or alone: another attempt, or the end."""
    setup = state.setup
    assert setup.policy is not None
    scope, progressed, past = _scope_of(state, cause), state.moved, state.past
    if setup.strategy == NONE:  # what moves one host's training is nothing to another
        past = tuple(each for each in past if each.cause.host == cause.host)
    decision = decide(cause, past, setup.policy, scope, progressed=progressed, now=now or cause.at)
    match decision:
        case Refused():
            fields = (("cause", str(cause)), ("reason", decision.reason))
            actions.append(ev.Say("attempt.refused", fields, "warning"))
            if tolerable(state, cause):
                fallen = tuple(who for who in state.fallen if who != (cause.host, cause.process))
                state = replace(state, suspect=None, fallen=fallen)
                return tolerate(state, cause, actions)
            return end(replace(state, refused=decision), cause, actions)
        case Restart():
            suspect, state = state.suspect, replace(state, suspect=None)
            if suspect not in {None, cause}:
                assert suspect is not None
                state = note(state, suspect, actions)
            ended = Past(state.attempt, decision.kind, decision.scope, cause, progressed)
            state = replace(state, past=(*state.past, ended)[-MOST_PAST:])
            return _order(state, cause, decision, actions)


def _order(state: State, cause: Cause, decision: Restart, actions: list[ev.Action]) -> State:
    """It is to start anew, and what cannot go on without it."""
    scope, order, after_s = decision.scope, state.order, decision.after_s
    host, process = cause.host, cause.process or EVERY
    away = cause.kind in LOST and host != state.setup.host
    if state.job is JobState.RESTARTING and order is not None:  # only a lost host is judged then
        if scope is not Scope.ALONE or _waits_for(state, order, host):
            return give(state, order.widened(scope, host, process), actions)
        return state
    named = tuple(dict.fromkeys((*state.fallen, (host, process))))
    if away and scope is Scope.ALONE:  # its order comes when it is back
        named = tuple(each for each in named if each[0] != host)
        if not named:
            return replace(state, moved=False)
        scope = max((_scope_at(state, *each) for each in named), key=lambda each: each.width)
    turn, attempt = turn_of(state) + 1, state.attempt + 1
    order = Order(turn, attempt, scope, named, cause).bounded()
    state = give(state, order, actions)
    if after_s:
        words = (("attempt", attempt), ("after_s", after_s), ("cause", str(cause)))
        actions.append(ev.Say("attempt.waiting", words))
        state = arm(state, ev.Deadline.BACKOFF, after_s, actions)
    return state


def _scope_of(state: State, cause: Cause) -> Scope:
    setup, host = state.setup, cause.host
    if cause.kind not in LOST:
        return _scope_at(state, host, cause.process)
    evaluator = host == setup.evaluator
    master, server = host == setup.master, host in setup.servers
    scope = scope_of_host(setup.strategy, evaluator=evaluator, master=master, server=server)
    if scope is Scope.CHIEF and state.world != next_world(state.world, setup, present_in(state)):
        return Scope.ALL  # another host takes its place, and is told to all
    return scope


def _scope_at(state: State, host: str, process: str | None) -> Scope:
    return scope_of(state.setup.strategy, process, evaluator=host == state.setup.evaluator)


def _concerns(state: State, order: Order, host: str, process: str) -> bool:
    return order.concerns(host, process, evaluator=host == state.setup.evaluator)


def turn_of(state: State) -> int:
    return state.order.turn if state.order else 0


# --------------------------------------------------------------------------- an order is followed


def give(state: State, order: Order, actions: list[ev.Action]) -> State:
    """On the master, or alone: begin the attempt, or make it wider."""
    members = {
        host: replace(member, script_ended=False)
        if order.scope is Scope.ALL or any(host == named for named, _ in order.named)
        else member
        for host, member in state.members.items()
    }
    setup = state.setup
    same = setup.agreement == "same" and not setup.own_lines and state.holds and members
    everything = order.scope is Scope.ALL
    if everything and setup.elastic:
        state = into(state, next_world(state.world, setup, present_in(state)), actions)
    order = order._replace(agreed=bool(same and everything), world=numbers(setup, state.world))
    state = replace(state, members=members, fallen=(), moved=False)
    state = advance(state, Trigger.RESTART)
    if state.members:
        actions.append(ev.Announce(state.job, order=order, past=state.past))
    state = _begin(state, order, actions)
    return arm(state, ev.Deadline.RESTART, _bound_s(state), actions)


def into(state: State, world: tuple[str, ...], actions: list[ev.Action]) -> State:
    """On the master: other hosts train from now on."""
    if world == state.world:
        return state
    fields = (
        ("hosts", len(world)),
        ("of", len(state.setup.world)),
        ("left", tuple(host for host in state.world if host not in world)),
        ("came", tuple(host for host in world if host not in state.world)),
    )
    actions.append(ev.Say("hosts.changed", fields, "warning"))
    return replace(state, world=world)


def _bound_s(state: State) -> float:
    """The whole ladder, and a margin."""
    budgets = state.setup.budgets
    shares = (budgets.end_grace_s, budgets.group_s, budgets.server_grace_s, budgets.end_grace_s)
    agreed = state.order is not None and state.order.agreed
    files_s = HANDOVER_S + sum(AGAIN_S) + budgets.prepare_s if agreed else 0.0
    if any(not member.joined for member in state.members.values()):
        files_s += budgets.prepare_s  # of a host that comes back
    return sum(shares) + budgets.kill_s + MARGIN_S + files_s


def follow(
    state: State, order: Order, job: JobState, actions: list[ev.Action], generation: str = ""
) -> State:
    """On a member: the master's document has an order, and later the checkpoint of all hosts."""
    if generation and job is JobState.RESTARTING:
        state = replace(state, agreed=(order.turn, generation))
    if order.turn > turn_of(state):
        state = _begin(state, order, actions)
        # It may have missed that an earlier one is over, for which it is down.
        waits = any(process.again for process in state.processes)
        missed = waits and state.turn == order.turn and not concerned(state, order)
        return go(state, actions) if missed and not stands_by(state, order) else state
    ready = state.phase is Phase.RESTARTING and state.turn == order.turn
    if job is JobState.RUNNING and ready and not stands_by(state, order):
        return go(state, actions)
    return state


def run_late(
    state: State, order: Order, job: JobState, actions: list[ev.Action], generation: str = ""
) -> State:
    """On a member: it has missed that all hosts are there, or comes back to a job that runs. What
    is to start anew just now has not been started here yet."""
    if job is JobState.RESTARTING:
        if generation:
            state = replace(state, agreed=(order.turn, generation))
        state = hear(run(state, actions, but=concerned(state, order)), job)
        return _begin(state, order, actions) if state.under_way else state
    for process in state.processes:
        state = with_process(state, process.name, attempt=order.attempt)
    return run(replace(state, order=order, turn=order.turn), actions)


def concerned(state: State, order: Order) -> tuple[str, ...]:
    """The processes of this host that start anew by it: with one of them also those that have
    fallen here at the same time, of which the master may have heard of one alone."""
    host = state.setup.host
    names = {
        process.name
        for process in state.processes
        if not process.step and _concerns(state, order, host, process.name)
    }
    if names or order.scope is not Scope.ALONE:
        names |= {process for at, process in state.fallen if at == host}
    return tuple(process.name for process in state.processes if process.name in names)


def _begin(state: State, order: Order, actions: list[ev.Action]) -> State:
    """Bring down what the order concerns here."""
    state = replace(state, order=order)
    names = concerned(state, order)
    if not names:
        down = not state.coming_down or state.phase is not Phase.RESTARTING
        return replace(state, turn=order.turn) if down else state
    state = disarm(state, actions, ev.Deadline.DECISION, ev.Deadline.SETTLE, ev.Deadline.STRAGGLER)
    if state.asked is not None and state.asked != order.cause:
        state = note(state, state.asked, actions)
    state = replace(state, asked=None, suspect=None, moved=False, fallen=())
    if state.setup.is_member:
        state = disarm(replace(state, tried=0), actions, ev.Deadline.BACKOFF)
    if state.suspended:
        state = resume(state, actions)
    for name in names:
        state = with_process(state, name, again=True)
    for process in state.alive:
        if process.step:  # it restores for an order that has become another one
            state = with_process(state, process.name, again=True)
    state = enter(state, Trigger.RESTART)
    return first_rung(state, actions)


def progress(state: State, actions: list[ev.Action]) -> State:
    """Draw every conclusion that needs no further event."""
    if state.phase is Phase.RESTARTING and state.order is not None:
        state = _come_down(state, state.order, actions)
    if state.job is JobState.RESTARTING and state.setup.is_master and state.before_draining:
        assert state.order is not None
        if ev.Deadline.BACKOFF not in state.armed and not waited_for(state):
            state = go(state, actions)
    return state


def _come_down(state: State, order: Order, actions: list[ev.Action]) -> State:
    again = [process for process in state.processes if process.again]
    if any(process.life is Life.LEFT for process in again):
        what = ", ".join(process.name for process in again if process.life is Life.LEFT)
        message = f"not even SIGKILL ended {what}: no other attempt can be started here"
        at = order.cause.at if order.cause else 0.0
        return end(state, own_cause(state, CauseKind.INTERNAL, message, at), actions)
    if not any(not process.server for process in state.coming_down) and state.rung < Rung.SERVERS:
        state = rung_done(state, actions)
    if state.coming_down or order.turn in {state.making, state.turn}:
        return state
    state = disarm(state, actions, ev.Deadline.GRACE, ev.Deadline.GROUP, ev.Deadline.KILL)
    if order.agreed and state.setup.is_member and state.restored < order.turn:
        return _restore_as_agreed(state, order, actions)
    assert order.cause is not None
    names = tuple(process.name for process in again if not process.step)
    asked = order.agreed and state.setup.is_master
    world = world_of(state.setup, order.world) if order.world else ()
    actions.append(ev.MakeReady(names, order.turn, order.attempt, order.cause, asked, world))
    return replace(state, making=order.turn)


def _restore_as_agreed(state: State, order: Order, actions: list[ev.Action]) -> State:
    """On a member: what its directory holds may be older than what the master's script saved."""
    turn, generation = state.agreed
    waits = ev.Deadline.BACKOFF in state.armed
    if turn < order.turn or state.restoring == order.turn or waits:
        return state
    if generation == AS_IT_IS:
        return _come_down(replace(state, restored=order.turn), order, actions)
    actions.append(ev.Restore(generation))
    return replace(state, restoring=order.turn)


def restore(state: State, steps: tuple[str, ...], actions: list[ev.Action]) -> State:
    """The step that restores is planned: run it, beside what is down."""
    for name in steps[:1]:
        actions.append(ev.Start(name))
        state = _started(state, name, state.attempt)
    return state


def restore_again(state: State, event: ev.Exited, actions: list[ev.Action]) -> State | None:
    """On a member: what all go on from could not be restored here, for a disk was full perhaps.
    Tried once more after a pause; None: it was tried often enough."""
    if state.tried >= len(AGAIN_S):
        return None
    after_s = AGAIN_S[state.tried]
    fields = (("error", event.message or str(event.status)), ("again_in_s", after_s))
    actions.append(ev.Say("restore.failed", fields, "warning"))
    state = replace(state, restoring=0, tried=state.tried + 1)
    return arm(state, ev.Deadline.BACKOFF, after_s, actions)


def readied(state: State, turn: int, generation: str, actions: list[ev.Action]) -> State:
    """All is made ready for a turn; it may have become another one meanwhile."""
    order = state.order
    if state.phase is not Phase.RESTARTING or order is None or turn != order.turn:
        return state
    if order.agreed and state.setup.is_master:
        actions.append(ev.Announce(state.job, restore=generation or AS_IT_IS, order=order))
    return replace(state, turn=turn)


def not_ready(state: State, turn: int, reason: str, actions: list[ev.Action]) -> State:
    """It cannot be made ready here: the failure ends the job after all."""
    if state.phase is not Phase.RESTARTING or turn != turn_of(state):
        return state
    return _give_up(state, reason, actions)


def waited_for(state: State) -> tuple[str, ...]:
    """On the master, or alone: who is not ready yet for the order that is under way."""
    order = state.order
    if order is None or state.job is not JobState.RESTARTING:
        return ()
    late = [state.setup.host] if state.turn < order.turn else []
    for host, member in state.members.items():
        if member.turn < order.turn and not member.down and _waits_for(state, order, host):
            late.append(host)
    return tuple(late)


def _waits_for(state: State, order: Order, host: str) -> bool:
    """Whether something is to be down and ready there. A lost host's processes are down; where
    they start anew by another order, this one goes on without it."""
    if is_beside(state.setup, host, state.world):
        return False
    if any(host == named for named, _ in order.named):
        return True
    lost = host in state.members and state.members[host].lost is not None
    if lost:
        return order.scope is Scope.ALL and host != state.setup.evaluator
    return order.scope is not Scope.ALONE


def go(state: State, actions: list[ev.Action]) -> State:
    """All is down and ready, everywhere: start it."""
    order = state.order
    assert order is not None
    state = disarm(state, actions, ev.Deadline.RESTART)
    if state.phase is Phase.RESTARTING:
        state = enter(state, Trigger.ALL_READY)
    if state.setup.is_master:
        state = advance(state, Trigger.ALL_READY)
        if state.members:
            actions.append(ev.Announce(state.job, order=order))
    for process in state.processes:
        if process.step:
            state = with_process(state, process.name, again=False)
        elif process.again:
            actions.append(ev.Start(process.name))
            state = _started(state, process.name, order.attempt)
    if state.setup.is_master and state.past:
        last = next((each for each in state.past if each.cause is order.cause), state.past[-1])
        actions.append(ev.Restarted(order.attempt, order.scope, last.kind.value, last.cause))
    return state


def _started(state: State, name: str, attempt: int) -> State:
    return live(
        state,
        name,
        Trigger.STARTED,
        status=None,
        ended_at=0.0,
        had_stop=False,
        stopped_by_us=False,
        message="",
        attempt=attempt,
        again=False,
    )


# --------------------------------------------------------------------------- what does not come


def unanswered(state: State, actions: list[ev.Action]) -> State:
    """On a member: the master has not said what follows from the failure here."""
    cause = state.asked
    if cause is None or not state.under_way:
        return state
    if tolerable(state, cause):
        return tolerate(replace(state, asked=None), cause, actions)
    return end(replace(state, asked=None), cause, actions)


def over(state: State, actions: list[ev.Action]) -> State:
    """What was to start anew is not down and ready in time: the failure ends the job after all."""
    if state.order is None or not state.under_way:
        return state
    if state.armed & {ev.Deadline.BACKOFF, ev.Deadline.REJOIN}:
        return arm(state, ev.Deadline.RESTART, _bound_s(state), actions)
    who = ", ".join(waited_for(state)[:_SHOWN]) or state.setup.master
    reason = f"waited {_bound_s(state):g} s in vain for {who} to be down and ready"
    return _give_up(state, reason, actions)


def _give_up(state: State, reason: str, actions: list[ev.Action]) -> State:
    order = state.order
    assert order is not None
    assert order.cause is not None
    fields = (("cause", str(order.cause)), ("reason", reason))
    actions.append(ev.Say("attempt.refused", fields, "warning"))
    if state.past:
        refused = Refused(state.past[-1].kind, reason, restartable=True)
        state = replace(state, refused=refused)
    return end(state, order.cause, actions)
