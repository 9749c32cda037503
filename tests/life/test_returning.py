"""Hosts that are lost while the job runs, and come back: members, and the master itself."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from supervisor.life import events as ev
from supervisor.life.attempts import EVERY, Kind, Order, Past, Policy, Scope
from supervisor.life.ending import verdict_of
from supervisor.life.outcome import host_exit_code
from supervisor.life.state import Process, Setup, State, initial, process_of
from supervisor.life.words import Cause, CauseKind, JobState, Life, Phase, SuccessPolicy
from tests.life.test_lifecycle import BUDGETS, KILLED, OK, VICTIM, joined, play, said
from tests.life.test_restarting import HEARD, failure, order_of, starts, told

REJOIN_S = 60.0
WAITING = BUDGETS._replace(rejoin_s=REJOIN_S)
POLICY = Policy(restarts=3)
HOSTS = ("algo-1", "algo-2", "algo-3")
ALL_JOINED: list[ev.Event] = [ev.Prepared(), joined("algo-2"), joined("algo-3")]
LOST = ev.MemberLost("algo-3", "crashed: 4 connections refused in a row", 100.0)
GONE = ev.MasterLost("crashed", "algo-1:2224 refuses connections", 100.0, final=False)


def host(
    name: str,
    strategy: str = "mwms",
    processes: tuple[Process, ...] = (Process("worker", False),),
    servers: tuple[str, ...] = (),
    tolerated: int = 0,
) -> State:
    one = strategy == "ps"
    policy = SuccessPolicy.CHIEF if one else SuccessPolicy.ALL
    setup = Setup(
        name, "algo-1", HOSTS, policy, one, WAITING,
        strategy=strategy, servers=servers, tolerated_failures=tolerated,
        policy=POLICY if name == "algo-1" else None,
    )  # fmt: skip
    return initial(setup, processes)


def chief(servers: tuple[str, ...] = ("algo-1",)) -> State:
    """Of a cluster whose parameter server is on the master."""
    return host("algo-1", "ps", (Process("ps", True), Process("chief", False)), servers)


def code(state: State) -> int:
    assert state.cause is not None
    verdict = verdict_of(state, state.cause)
    return host_exit_code(state.setup.host, verdict, None, left=False, publish_error=None)


def back(name: str, turn: int = 0, phase: Phase = Phase.JOINING) -> ev.MemberReported:
    return ev.MemberReported(name, phase, False, None, turn=turn, at=130.0)


# --------------------------------------------------------------------------- a member is lost


def test_all_come_down_for_a_lost_host_and_start_when_it_is_back() -> None:
    state, actions = play(host("algo-1"), [*ALL_JOINED, LOST])
    order = order_of(actions)
    assert (order.scope, order.attempt, order.named) == (Scope.ALL, 2, (("algo-3", EVERY),))
    assert ev.Arm(ev.Deadline.REJOIN, REJOIN_S) in actions
    assert (state.phase, state.cause) == (Phase.RESTARTING, None)
    state, _ = play(
        state, [ev.Exited("worker", KILLED, 101.0), ev.Readied(1), told("algo-2", turn=1)]
    )
    assert state.phase is Phase.RESTARTING, "the lost host is waited for"
    state, _ = play(state, [ev.Expired(ev.Deadline.RESTART, 150.0)])
    assert state.phase is Phase.RESTARTING, "by its own deadline"
    state, actions = play(state, [back("algo-3", phase=Phase.PREPARING), back("algo-3")])
    assert said(actions) == {"member.returned": "algo-3"}
    assert not starts(actions), "it is not ready"
    state, actions = play(state, [back("algo-3", turn=1, phase=Phase.RESTARTING)])
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["worker"])
    assert state.past[-1].kind is Kind.LOST
    assert (
        ev.Deadline.REJOIN not in state.armed
        or play(state, [ev.Expired(ev.Deadline.REJOIN, 161.0)])[0].phase is Phase.RUNNING
    )


def test_a_host_that_does_not_come_back_ends_the_job_with_84_and_the_evidence() -> None:
    state, _ = play(host("algo-1"), [*ALL_JOINED, LOST, ev.Exited("worker", KILLED, 101.0)])
    state, actions = play(state, [ev.Expired(ev.Deadline.REJOIN, 130.0)])
    assert state.cause is None, "a timer that is early by the clock of the loss waits for the rest"
    assert ev.Arm(ev.Deadline.REJOIN, 30.0) in actions
    state, _ = play(state, [ev.Expired(ev.Deadline.REJOIN, 160.0)])
    assert state.cause is not None
    assert (state.cause.kind, state.cause.host, code(state)) == (
        CauseKind.MEMBER_LOST,
        "algo-3",
        84,
    )
    for words in ("4 connections refused", "not back within 60 s (SUPERVISOR_REJOIN_TIMEOUT_S)"):
        assert words in state.cause.message
    assert state.refused is not None
    assert state.refused.restartable


def test_the_chief_trains_on_without_a_worker_and_takes_it_back() -> None:
    state, actions = play(chief(), [*ALL_JOINED, LOST])
    assert (state.phase, state.job) == (Phase.RUNNING, JobState.RUNNING)
    assert not [a for a in actions if isinstance(a, ev.Announce) and a.order]
    state, actions = play(state, [told("algo-2", failure("algo-2", at=110.0))])
    assert order_of(actions).named == (("algo-2", "worker"),), "the lost host has no part in it"
    state, _ = play(state, [told("algo-2", turn=1)])
    assert (state.job, state.attempt) == (JobState.RUNNING, 2)
    state, actions = play(state, [back("algo-3", phase=Phase.PREPARING)])
    assert state.job is JobState.RUNNING, "it still fetches"
    state, actions = play(state, [back("algo-3")])
    order = order_of(actions)
    assert (order.scope, order.attempt, order.named) == (Scope.ALONE, 3, (("algo-3", EVERY),))
    state, actions = play(state, [back("algo-3", turn=2, phase=Phase.RESTARTING)])
    assert state.job is JobState.RUNNING
    restarted = next(a for a in actions if isinstance(a, ev.Restarted))
    assert (restarted.kind, restarted.cause.host) == ("lost host", "algo-3")
    assert not starts(actions), "nothing of the chief's host has started anew"


def test_a_host_that_takes_a_parameter_server_with_it_stops_the_chief_at_once() -> None:
    state, actions = play(chief(("algo-1", "algo-3")), [*ALL_JOINED, LOST])
    order = order_of(actions)
    assert (order.scope, order.named) == (Scope.CHIEF, (("algo-3", EVERY),))
    assert process_of(state, "chief").again


def test_a_worker_that_is_lost_while_the_chief_starts_anew_is_not_waited_for_by_it() -> None:
    state, _ = play(chief(), [*ALL_JOINED, ev.Exited("chief", KILLED, 90.0, "killed")])
    state, _ = play(state, [ev.Exited("ps", KILLED, 90.5), told("algo-2", turn=1), LOST])
    state, actions = play(state, [ev.Readied(1)])
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["ps", "chief"])
    state, actions = play(state, [back("algo-3")])
    assert order_of(actions).named == (("algo-3", EVERY),)


def test_what_died_of_a_lost_host_starts_anew_without_waiting_for_it() -> None:
    victim = failure("algo-2", at=99.0, message=VICTIM)
    state, _ = play(chief(), [*ALL_JOINED, told("algo-2", victim)])
    assert state.suspect == victim, "what it may have died of is looked for"
    state, actions = play(state, [LOST])
    order = order_of(actions)
    assert (order.scope, order.named) == (Scope.ALONE, (("algo-2", "worker"),))
    assert [each.kind for each in state.past] == [Kind.LOST], "the victim is not charged"
    state, _ = play(state, [told("algo-2", turn=1)])
    assert state.job is JobState.RUNNING
    state, actions = play(state, [back("algo-3")])
    assert order_of(actions).named == (("algo-3", EVERY),)


def test_a_silent_host_that_speaks_again_starts_its_processes_anew() -> None:
    """It was cut off for longer than a lease: what it runs belongs to an attempt that is over."""
    state, _ = play(chief(), [*ALL_JOINED, LOST])
    state, actions = play(state, [back("algo-3", phase=Phase.RUNNING)])
    assert order_of(actions).named == (("algo-3", EVERY),)


def test_a_host_that_is_lost_again_and_again_has_an_hour() -> None:
    state, _ = play(host("algo-1"), [*ALL_JOINED, LOST, ev.Exited("worker", KILLED, 101.0)])
    for turn in range(1, 100):
        at = 100.0 + 40.0 * turn
        state, _ = play(
            state,
            [
                ev.Readied(turn), told("algo-2", turn=turn),
                replace_at(back("algo-3", turn=turn), at),
                ev.Expired(ev.Deadline.BACKOFF, at),
                ev.MemberLost("algo-3", "crashed", at),
                ev.Exited("worker", KILLED, at),
            ],
        )  # fmt: skip
        if state.cause is not None:
            break
    assert turn == 91
    assert state.refused is not None
    assert state.refused.reason == "no progress for 1 h"


def replace_at(event: ev.MemberReported, at: float) -> ev.MemberReported:
    return ev.MemberReported(**(vars(event) | {"at": at}))


def test_two_lost_hosts_have_a_time_each() -> None:
    later = ev.MemberLost("algo-2", "unreachable: nothing heard for 30 s", 140.0)
    state, _ = play(host("algo-1"), [*ALL_JOINED, LOST, later, ev.Exited("worker", KILLED, 141.0)])
    state, _ = play(state, [back("algo-3")])
    state, actions = play(state, [ev.Expired(ev.Deadline.REJOIN, 160.0)])
    assert state.cause is None
    assert ev.Arm(ev.Deadline.REJOIN, 40.0) in actions
    state, _ = play(state, [ev.Expired(ev.Deadline.REJOIN, 200.0)])
    assert state.cause is not None
    assert state.cause.host == "algo-2"


def test_without_a_timeout_or_restarts_a_lost_host_ends_the_job() -> None:
    for setup in ({"budgets": BUDGETS}, {"policy": None}):
        before = host("algo-1")
        state = initial(replace(before.setup, **setup), before.processes)
        state, _ = play(state, [*ALL_JOINED, LOST])
        assert state.cause is not None
        assert state.cause.message == "lost: crashed: 4 connections refused in a row"


def test_a_host_that_may_be_missing_is_given_up_when_its_time_is_over() -> None:
    state = host("algo-1", "none", tolerated=1)
    state, _ = play(state, [*ALL_JOINED, LOST, ev.Expired(ev.Deadline.REJOIN, 160.0)])
    assert (state.phase, state.cause) == (Phase.RUNNING, None)
    state, _ = play(state, [ev.Exited("worker", OK, 170.0)])
    assert state.cause is None, "algo-2 has not finished"
    done = ev.MemberReported("algo-2", Phase.RUNNING, True, None)
    state, _ = play(state, [done])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.FINISHED


def test_a_stop_while_a_host_is_away_ends_at_once() -> None:
    state, _ = play(host("algo-1"), [*ALL_JOINED, LOST, ev.Exited("worker", KILLED, 101.0)])
    state, _ = play(state, [ev.Signalled(signal.SIGTERM, 110.0)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.STOP_REQUESTED
    assert ev.Deadline.REJOIN not in state.armed


# --------------------------------------------------------------------------- a host that comes back


RUNS = ev.JobChanged(JobState.RUNNING, None, restarts=True)


def test_a_host_that_comes_back_waits_for_its_order_and_follows_it() -> None:
    state, actions = play(host("algo-2"), [RUNS, ev.Prepared()])
    assert (state.phase, starts(actions)) == (Phase.JOINING, [])
    assert ev.Deadline.JOIN not in state.armed
    earlier = Order(3, 4, Scope.ALONE, (("algo-3", "worker"),), failure("algo-3"))
    for phase in (JobState.RESTARTING, JobState.RUNNING):
        state, _ = play(state, [ev.JobChanged(phase, None, order=earlier, restarts=True)])
        assert state.phase is Phase.JOINING, "that is another host's"
    order = Order(4, 5, Scope.ALONE, (("algo-2", EVERY),), failure("algo-2"))
    state, actions = play(
        state, [ev.JobChanged(JobState.RESTARTING, None, order=order, restarts=True)]
    )
    ready = next(a for a in actions if isinstance(a, ev.MakeReady))
    assert (ready.processes, ready.attempt, state.phase) == (("worker",), 5, Phase.RESTARTING)
    state, _ = play(state, [ev.Readied(4)])
    state, actions = play(
        state, [ev.JobChanged(JobState.RUNNING, None, order=order, restarts=True)]
    )
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["worker"])
    assert process_of(state, "worker").attempt == 5


def test_a_host_that_comes_back_while_all_wait_for_it_restores_what_they_go_on_from() -> None:
    order = Order(2, 3, Scope.ALL, (("algo-2", EVERY),), failure("algo-2"), agreed=True)
    heard = ev.JobChanged(
        JobState.RESTARTING, None, restore="000007-aa", order=order, restarts=True
    )
    state, actions = play(host("algo-2"), [heard, ev.Prepared()])
    assert [a.generation for a in actions if isinstance(a, ev.Restore)] == ["000007-aa"]
    assert state.phase is Phase.RESTARTING


def test_a_host_that_still_prepares_hears_of_its_order_and_follows_it_then() -> None:
    order = Order(2, 3, Scope.ALL, (("algo-2", EVERY),), failure("algo-2"))
    state, actions = play(
        host("algo-2"), [ev.JobChanged(JobState.RESTARTING, None, order=order, restarts=True)]
    )
    assert (state.phase, actions) == (Phase.PREPARING, [])
    state, actions = play(state, [ev.Prepared()])
    assert [a.processes for a in actions if isinstance(a, ev.MakeReady)] == [("worker",)]


# --------------------------------------------------------------------------- the master is gone


def test_a_member_keeps_its_processes_while_its_master_is_away() -> None:
    state, actions = play(host("algo-2"), [*HEARD, GONE])
    assert (state.phase, state.cause) == (Phase.RUNNING, None)
    assert ev.Arm(ev.Deadline.REJOIN, REJOIN_S) in actions
    state, actions = play(state, [ev.MasterSeen(bare=False)])
    assert said(actions) == {"master.back": "algo-1"}
    assert ev.Deadline.REJOIN not in state.armed
    order = Order(1, 2, Scope.ALL, (("algo-1", EVERY),), failure("algo-1"))
    state, _ = play(
        state,
        [
            ev.JobChanged(JobState.JOINING, None, ("algo-3",), restarts=True),
            ev.JobChanged(JobState.RESTARTING, None, order=order, restarts=True),
        ],
    )
    assert (state.phase, state.attempt) == (Phase.RESTARTING, 2)


def test_a_master_that_does_not_come_back_ends_its_members_with_83() -> None:
    state, _ = play(host("algo-2"), [*HEARD, GONE, ev.Expired(ev.Deadline.REJOIN, 160.0)])
    assert state.cause is not None
    assert (state.cause.kind, code(state)) == (CauseKind.MASTER_LOST, 83)
    for words in ("algo-1:2224 refuses", "not back within 60 s (SUPERVISOR_REJOIN_TIMEOUT_S)"):
        assert words in state.cause.message


def test_a_failure_while_the_master_is_away_is_told_when_it_is_back() -> None:
    failed = ev.Exited("worker", KILLED, 105.0, "killed")
    orders: tuple[list[ev.Event], ...] = ([GONE, failed], [failed, GONE])
    for events in orders:
        state, _ = play(host("algo-2"), [*HEARD, *events])
        assert ev.Deadline.DECISION not in state.armed, "nobody is there to decide"
        state, _ = play(state, [ev.MasterSeen(bare=False)])
        assert ev.Deadline.DECISION in state.armed
        assert state.phase is Phase.RUNNING


def test_a_master_that_will_never_be_ours_again_ends_it_at_once() -> None:
    another = ev.MasterLost("restarted", "another run of its supervisor answers", 110.0)
    for events in ([another], [GONE, another]):
        state, _ = play(host("algo-2"), [*HEARD, *events])
        assert state.cause is not None
        assert state.cause.kind is CauseKind.MASTER_LOST


def test_a_stop_while_the_master_is_away_waits_for_nobody() -> None:
    state = host("algo-2", "ps", (Process("worker", False),))
    state, actions = play(state, [*HEARD, GONE, ev.Signalled(signal.SIGTERM, 110.0)])
    assert ev.Deadline.HOLD not in state.armed, "no chief saves"
    assert ev.Send("worker", signal.SIGTERM) in actions


# --------------------------------------------------------------------------- the master comes back


PAST = (Past(1, Kind.CRASH, Scope.ALL, failure("algo-3", at=50.0), False),)


def runs_on(
    name: str, attempt: int = 2, turn: int = 1, phase: Phase = Phase.RUNNING, **more: object
) -> ev.MemberReported:
    earlier = ev.EarlierLife(attempt, turn, PAST)
    fields = {"script_ended": False, "cause": None, "turn": turn, "at": 120.0} | more
    return ev.MemberReported(name, phase, earlier=earlier, **fields)  # type: ignore[arg-type]


def test_a_master_that_was_started_anew_learns_attempt_and_budgets_and_gives_the_order() -> None:
    state, actions = play(host("algo-1"), [ev.Prepared(), runs_on("algo-2"), runs_on("algo-3")])
    order = order_of(actions)
    assert (order.attempt, order.turn, order.scope) == (3, 2, Scope.ALL)
    assert order.named == (("algo-1", EVERY),)
    assert order.cause is not None
    assert (order.cause.kind, order.cause.host) == (CauseKind.MASTER_LOST, "algo-1")
    assert [each.kind for each in state.past] == [Kind.CRASH, Kind.LOST]
    assert not starts(actions), "the others come down first"
    ready = next(a for a in actions if isinstance(a, ev.MakeReady))
    assert (ready.processes, ready.attempt) == (("worker",), 3)
    state, actions = play(state, [ev.Readied(2), told("algo-2", turn=2), told("algo-3", turn=2)])
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["worker"])
    assert process_of(state, "worker").attempt == 3


def test_budgets_outlive_the_master() -> None:
    state, _ = play(host("algo-1"), [ev.Prepared(), runs_on("algo-2"), runs_on("algo-3")])
    state, _ = play(state, [ev.Readied(2), told("algo-2", turn=2), told("algo-3", turn=2)])
    for turn in (3, 4):
        state, _ = play(
            state,
            [
                ev.Exited("worker", KILLED, 130.0 + turn, "killed"), ev.Readied(turn),
                told("algo-2", turn=turn), told("algo-3", turn=turn),
                ev.Expired(ev.Deadline.BACKOFF, 135.0),
            ],
        )  # fmt: skip
        assert (state.phase, state.attempt) == (Phase.RUNNING, turn + 1)
    state, _ = play(state, [ev.Exited("worker", KILLED, 140.0, "killed")])
    assert state.refused is not None
    assert "3 restarts without progress" in state.refused.reason


def test_workers_outlive_the_chiefs_host() -> None:
    _, actions = play(chief(), [ev.Prepared(), runs_on("algo-2"), runs_on("algo-3")])
    order = order_of(actions)
    assert (order.scope, order.named) == (Scope.CHIEF, (("algo-1", EVERY),))
    member = host("algo-2", "ps")
    member, actions = play(
        member, [*HEARD, ev.JobChanged(JobState.RESTARTING, None, order=order, restarts=True)]
    )
    assert (member.phase, process_of(member, "worker").life) == (Phase.RUNNING, Life.ALIVE)
    assert member.turn == order.turn


def test_what_failed_or_was_being_started_while_the_master_was_away_starts_with_it() -> None:
    failed = runs_on("algo-2", cause=failure("algo-2", at=110.0))
    state, actions = play(chief(), [ev.Prepared(), failed, runs_on("algo-3")])
    assert state.cause is None, "nobody was there to judge it"
    assert order_of(actions).named == (("algo-2", "worker"), ("algo-1", EVERY))
    waits = runs_on("algo-2", phase=Phase.RESTARTING, turn=1)
    state, actions = play(chief(), [ev.Prepared(), waits, runs_on("algo-3")])
    assert order_of(actions).named == (("algo-2", EVERY), ("algo-1", EVERY))
    fresh = joined("algo-2")
    state, actions = play(chief(), [ev.Prepared(), fresh, runs_on("algo-3")])
    assert order_of(actions).named == (("algo-2", EVERY), ("algo-1", EVERY))


def test_a_host_that_came_down_while_the_master_was_away_ends_the_job() -> None:
    cause = Cause(CauseKind.STOP_REQUESTED, "algo-2", "received SIGTERM", at=110.0)
    ended = ev.MemberReported("algo-2", Phase.DRAINING, False, cause)
    state, _ = play(host("algo-1"), [ev.Prepared(), runs_on("algo-3"), ended])
    assert state.cause == cause


def test_a_turn_that_no_host_had_come_to_is_not_given_twice() -> None:
    """A member may know of an order for which it is not ready."""
    waits = runs_on("algo-2", attempt=3, turn=5, phase=Phase.RESTARTING)
    waits = ev.MemberReported(**(vars(waits) | {"turn": 4}))
    _, actions = play(host("algo-1"), [ev.Prepared(), waits, runs_on("algo-3")])
    assert (order_of(actions).turn, order_of(actions).attempt) == (6, 4)


@pytest.mark.parametrize("moved", [True, False])
def test_progress_under_the_earlier_master_counts(*, moved: bool) -> None:
    state, _ = play(
        host("algo-1"), [ev.Prepared(), runs_on("algo-2", progressed=moved), runs_on("algo-3")]
    )
    assert state.past[-1].progressed is moved


def test_a_host_that_was_lost_with_the_master_and_stays_away_ends_the_job_in_time() -> None:
    state, actions = play(host("algo-1"), [ev.Prepared(), runs_on("algo-2")])
    assert ev.Arm(ev.Deadline.REJOIN, REJOIN_S) in actions
    late, _ = play(state, [ev.Expired(ev.Deadline.REJOIN, 180.0)])
    assert late.cause is not None
    assert (late.cause.host, code(late)) == ("algo-3", 84)
    busy, _ = play(state, [back("algo-3", phase=Phase.PREPARING)])
    busy, actions = play(busy, [ev.Expired(ev.Deadline.REJOIN, 180.0)])
    assert busy.cause is None, "it fetches"
    assert ev.Arm(ev.Deadline.REJOIN, WAITING.prepare_s) in actions
    fewer = initial(
        replace(state.setup, cluster=HOSTS, world=HOSTS, min_hosts=2), (Process("worker", False),)
    )
    fewer, _ = play(fewer, [ev.Prepared(), runs_on("algo-2")])
    fewer, actions = play(fewer, [ev.Expired(ev.Deadline.REJOIN, 180.0)])
    assert order_of(actions).world == (0, 1)


def test_a_host_that_was_given_up_may_still_come() -> None:
    state = host("algo-1", "none", tolerated=1)
    state, _ = play(state, [*ALL_JOINED, LOST, ev.Expired(ev.Deadline.REJOIN, 160.0)])
    state, actions = play(state, [back("algo-3")])
    order = order_of(actions)
    assert order.named == (("algo-3", EVERY),)
    assert order.cause is not None
