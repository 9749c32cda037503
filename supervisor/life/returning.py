"""Hosts that are lost and come back: they are waited for, and taken into the running job. Pure.

A host that is lost takes its processes with it. What cannot go on without them comes down at once
(``attempts.SCOPES``) and starts anew with the host; what can goes on, and what the host runs starts
anew when it is back. Its container was started anew under its name, or it was only cut off: then it
hears that the job is at another attempt, and follows.

The master's host comes back as well. The others keep their processes meanwhile, tell the new
supervisor how far the job had come, and it gives the order for the next attempt.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.faults import counted
from supervisor.life import events as ev
from supervisor.life.attempts import EVERY, NONE, Kind, Order, Refused, Scope
from supervisor.life.ending import end, tolerable, tolerate
from supervisor.life.joining import run
from supervisor.life.restarting import concerned, give, into, judge, run_late, turn_of, waited_for
from supervisor.life.state import Member, State, arm, disarm, hear, own_cause
from supervisor.life.words import Cause, CauseKind, JobState
from supervisor.life.world import is_beside, next_world, present_in, stands_by, world_of

__all__ = [
    "begin_late",
    "begin_without",
    "learn",
    "lost",
    "master_away",
    "master_back",
    "master_not_back",
    "not_back",
    "returned",
    "take_over",
    "waits",
]

SOON_S = 0.05
"""A timer may be so much early by another clock."""


def waits(state: State) -> bool:
    """Whether a host that is lost now is waited for."""
    waits = state.setup.budgets.rejoin_s > 0 or state.setup.elastic
    return state.restarts and state.under_way and waits


# --------------------------------------------------------------------------- members that are lost


def lost(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    """On the master: a host is gone with all that ran there."""
    host, rejoin_s = cause.host, state.setup.budgets.rejoin_s
    state = replace(state, members={**state.members, host: Member(lost=cause)})
    state = judge(state, cause, actions)
    if not state.under_way:
        return state
    if cause in state.tolerated:
        return replace(state, members={**state.members, host: Member(down=True)})
    if is_beside(state.setup, host, state.world):
        return state  # the others go on without it
    fields = (("host", host), ("seconds", rejoin_s), ("evidence", cause.message))
    actions.append(ev.Say("member.away", fields, "warning"))
    if ev.Deadline.REJOIN not in state.armed:
        state = arm(state, ev.Deadline.REJOIN, rejoin_s, actions)
    return state


def not_back(state: State, at: float, actions: list[ev.Action]) -> State:
    """On the master: the time of a lost host may be over."""
    rejoin_s = state.setup.budgets.rejoin_s
    if state.nothing_started:
        return _not_back_with_us(state, at, actions)
    away = {
        host: member.lost
        for host, member in state.members.items()
        if member.lost is not None
        and not member.heard
        and not is_beside(state.setup, host, state.world)
    }
    left_s = {host: cause.at + rejoin_s - at for host, cause in away.items()}
    for host in [host for host, seconds in left_s.items() if seconds <= SOON_S]:
        cause = _given_up(away[host], rejoin_s)
        del left_s[host]
        if (without := _without(state, host, cause, actions)) is not None:
            state = without
            continue
        if not tolerable(state, cause) or host in waited_for(state):
            reason = f"{host} has not come back within {rejoin_s:g} s"
            state = replace(state, refused=Refused(Kind.LOST, reason, restartable=True))
            return end(state, cause, actions)
        state = tolerate(state, cause, actions)
        state = replace(state, members={**state.members, host: Member(down=True)})
    if not left_s:
        return state
    return arm(state, ev.Deadline.REJOIN, min(rejoin_s, *left_s.values()), actions)


def _not_back_with_us(state: State, at: float, actions: list[ev.Action]) -> State:
    """On a master that was started anew: others are there, and one that was lost as well is not."""
    budgets, missing = state.setup.budgets, state.missing
    if not missing:
        return state  # this host still prepares
    if all(state.members[host].heard for host in missing):
        return arm(state, ev.Deadline.REJOIN, budgets.prepare_s, actions)  # the barrier bounds it
    present = present_in(state)
    world = next_world(state.world, state.setup, present)
    if state.setup.elastic and present.issuperset(world):
        return into(state, world, actions)
    host = next(host for host in missing if not state.members[host].heard)
    message = f"lost: not back within {budgets.rejoin_s:g} s (SUPERVISOR_REJOIN_TIMEOUT_S)"
    return end(state, Cause(CauseKind.MEMBER_LOST, host, message, at=at), actions)


def _without(state: State, host: str, cause: Cause, actions: list[ev.Action]) -> State | None:
    """On the master: a host that has not come back is replaced, or done without; None: it can be
    neither."""
    world = next_world(state.world, state.setup, present_in(state))
    if not state.setup.elastic or host in world:
        return None
    if state.setup.strategy == NONE:  # each host is a job of its own, and nobody else starts anew
        came = tuple(each for each in world if each not in state.world)
        state = into(state, world, actions)
        for each in came:
            state = _start(state, Scope.ALONE, each, cause, actions)
        return state
    return _start(state, Scope.ALL, host, cause, actions)


def _start(state: State, scope: Scope, host: str, cause: Cause, actions: list[ev.Action]) -> State:
    """On the master: what a host runs starts anew, with the attempt that is being prepared or by
    an order of its own."""
    order = Order(turn_of(state) + 1, state.attempt + 1, scope, ((host, EVERY),), cause)
    if state.job is JobState.RESTARTING and state.order is not None:
        order = state.order.widened(scope, host, EVERY)
    return give(state, order, actions)


def begin_without(state: State, at: float, actions: list[ev.Action]) -> State | None:
    """On the master: not all hosts have joined in time. Begin with those that have, if they are
    enough; None: they are not."""
    setup, present = state.setup, present_in(state)
    world = next_world(state.world, setup, present)
    missing = [host for host in state.world if host not in present]
    if not (setup.elastic and state.restarts) or any(host not in present for host in world):
        return None
    waited_s = setup.budgets.join_s
    cause = Cause(CauseKind.MEMBER_LOST, missing[0], f"has not joined in {waited_s:g} s", at=at)
    state = run(state, actions, but=tuple(process.name for process in state.processes))
    return give(state, Order(turn_of(state) + 1, state.attempt, Scope.ALL, (), cause), actions)


def _given_up(cause: Cause, rejoin_s: float) -> Cause:
    words = f"{cause.message}; not back within {rejoin_s:g} s (SUPERVISOR_REJOIN_TIMEOUT_S)"
    return replace(cause, message=words)


def returned(state: State, host: str, cause: Cause | None, actions: list[ev.Action]) -> State:
    """On the master: a host is back, ready to begin; or it was silent, and runs on."""
    order = state.order
    if is_beside(state.setup, host, state.world):
        return _came(state, host, cause, actions)
    actions.append(ev.Say("member.returned", (("host", host),)))
    cause = cause or _why(state, host)
    evaluator, restarting = host == state.setup.evaluator, state.job is JobState.RESTARTING
    if restarting and order is not None and order.concerns(host, EVERY, evaluator=evaluator):
        return state  # waited for
    return _start(state, Scope.ALONE, host, cause, actions)


def _came(state: State, host: str, cause: Cause | None, actions: list[ev.Action]) -> State:
    """On the master: a host that is none of those that train, a spare or one that was done without.
    Where all start anew just now, or nobody else has to, it takes part; else with the next."""
    world = next_world(state.world, state.setup, present_in(state))
    order = state.order
    if host in world and state.setup.strategy == NONE:
        why = cause or _why(state, host)
        return _start(into(state, world, actions), Scope.ALONE, host, why, actions)
    restarting = state.job is JobState.RESTARTING and order is not None
    if host in world and restarting and order is not None and order.scope is Scope.ALL:
        return give(state, order.widened(Scope.ALL, host, EVERY), actions)
    actions.append(ev.Say("member.stands_by", (("host", host),)))
    return state


def _why(state: State, host: str) -> Cause:
    """What an order for a host is given for, whose loss is over and done with, or that is new."""
    last = next((each.cause for each in reversed(state.past) if each.kind is Kind.LOST), None)
    return last or Cause(
        CauseKind.MEMBER_LOST, host, "was not there", at=state.members[host].seen_at
    )


# --------------------------------------------------------------------------- a host that comes back


def begin_late(state: State, actions: list[ev.Action]) -> State:
    """On a member at the barrier: begin where the job stands. One that comes back to a job which
    runs waits for the order that it is to begin with, and the master for it."""
    order, generation = state.offered
    if stands_by(state, order):
        return disarm(state, actions, ev.Deadline.JOIN)
    if order is None and not state.late:
        return run(state, actions)
    if state.late:
        state = disarm(state, actions, ev.Deadline.JOIN)
        if order is None or state.job is not JobState.RESTARTING:
            return state
        if not concerned(state, order):
            return state
    assert order is not None, "begun without an order, and not late: see _begin_as_told"
    return run_late(state, order, state.job, actions, generation)


# --------------------------------------------------------------------------- the master


def master_away(
    state: State, how: str, evidence: str, at: float, actions: list[ev.Action]
) -> State:
    """On a member: the master is gone. What runs here runs on until it is back."""
    if state.away is not None:
        return state
    rejoin_s = state.setup.budgets.rejoin_s
    cause = own_cause(
        state, CauseKind.MASTER_LOST, f"the master {state.setup.master} {how}: {evidence}", at
    )
    fields = (("host", state.setup.master), ("how", how), ("evidence", evidence))
    actions.append(ev.Say("master.away", (*fields, ("seconds", rejoin_s)), "warning"))
    state = disarm(replace(state, away=cause), actions, ev.Deadline.DECISION)
    return arm(state, ev.Deadline.REJOIN, rejoin_s, actions)


def master_back(state: State, actions: list[ev.Action]) -> State:
    """On a member: it answers again, or another supervisor in its place."""
    if state.away is None:
        return state
    state = disarm(replace(state, away=None), actions, ev.Deadline.REJOIN)
    actions.append(ev.Say("master.back", (("host", state.setup.master),)))
    if state.asked is not None and state.under_way:
        state = arm(state, ev.Deadline.DECISION, state.setup.budgets.lease_s, actions)
    return state


def master_not_back(state: State, actions: list[ev.Action]) -> State:
    """On a member: nobody will say any more how the job ends."""
    if state.away is None or not state.under_way:
        return state
    cause = _given_up(state.away, state.setup.budgets.rejoin_s)
    return end(hear(state, JobState.ENDED), cause, actions)


def learn(state: State, actions: list[ev.Action], *, moved: bool) -> State:
    """On a master that was started anew: a host says how far the job had come, and who trained."""
    if not state.nothing_started:
        return state
    state = replace(state, moved=state.moved or moved)
    if ev.Deadline.REJOIN not in state.armed:
        state = arm(state, ev.Deadline.REJOIN, state.setup.budgets.rejoin_s, actions)
    if not state.setup.elastic:
        return state
    lives = [each.earlier for each in state.members.values() if each.earlier is not None]
    latest = max(lives, key=lambda life: life.turn)
    return replace(state, world=world_of(state.setup, latest.world))


def take_over(state: State, actions: list[ev.Action]) -> State:
    """On a master that was started anew, when all have joined: the job goes on from where the
    others say that it was. This host's loss is judged like another's; hosts that came back with it,
    or were being started anew, begin with it."""
    setup, members = state.setup, state.members
    lives = [each.earlier for each in members.values() if each.earlier is not None]
    attempt, turn = max(life.attempt for life in lives), max(life.turn for life in lives)
    at = max(member.seen_at for member in members.values())
    fallen = []
    for host, member in members.items():
        if is_beside(state.setup, host, state.world):
            continue
        if member.earlier is None or member.restarting:
            fallen.append((host, EVERY))
        elif member.told is not None:
            fallen.append((host, member.told.process or EVERY))
    state = replace(
        state,
        past=max((life.past for life in lives), key=len),
        order=Order(turn, attempt, Scope.ALONE),
        fallen=tuple(fallen),
    )
    said = (("attempt", attempt), ("hosts", counted(len(lives), "host")))
    actions.append(ev.Say("job.taken_over", said, "warning"))
    state = disarm(state, actions, ev.Deadline.REJOIN)
    state = run(state, actions, but=tuple(process.name for process in state.processes))
    message = "its supervisor was started anew while the job ran"
    cause = Cause(CauseKind.MASTER_LOST, setup.host, message, at=at, attempt=attempt)
    return judge(state, cause, actions)
