"""Which hosts train: without lost ones, with spares in their places, and whole again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.life import events as ev
from supervisor.life.attempts import EVERY, Scope
from supervisor.life.state import Process, Setup, State, initial
from supervisor.life.words import CauseKind, JobState, Phase, SuccessPolicy
from supervisor.life.world import next_world, world_of
from tests.life.test_lifecycle import BUDGETS, KILLED, OK, joined, play, said
from tests.life.test_restarting import HEARD, failure, order_of, starts, told
from tests.life.test_returning import POLICY, REJOIN_S, back, runs_on

HOSTS = ("algo-1", "algo-2", "algo-3", "algo-4")
BUDGET = BUDGETS._replace(rejoin_s=REJOIN_S)


def host(name: str = "algo-1", strategy: str = "mwms", *, spares: int = 0, least: int = 0) -> State:
    servers = HOSTS if strategy == "ps" else ()
    one = strategy == "ps"
    setup = Setup(
        name, "algo-1", HOSTS, SuccessPolicy.CHIEF if one else SuccessPolicy.ALL, one, BUDGET,
        strategy=strategy, policy=POLICY if name == "algo-1" else None, servers=servers,
        cluster=HOSTS, world=HOSTS[: len(HOSTS) - spares], min_hosts=least,
    )  # fmt: skip
    scripts = Process("chief" if one and name == "algo-1" else "worker", server=False)
    return initial(setup, (Process("ps", server=True), scripts) if one else (scripts,))


def all_of(state: State) -> list[ev.Event]:
    return [ev.Prepared(), *(joined(name) for name in state.setup.hosts[1:])]


def lost(name: str, at: float = 100.0) -> ev.MemberLost:
    return ev.MemberLost(name, "crashed: 4 connections refused", at)


def ready(turn: int, *names: str) -> list[ev.Event]:
    return [ev.Readied(turn), *(told(name, turn=turn) for name in names)]


DOWN = ev.Exited("worker", KILLED, 101.0)


# --------------------------------------------------------------------------- the decision


def test_the_next_world() -> None:
    setup = host(spares=1).setup
    rows = (
        # Now, who is there, who trains then.
        ("123", "1234", "123"),
        ("123", "134", "143"),
        ("143", "1234", "143"),
        ("123", "13", "123"),
        ("143", "13", "143"),
    )
    for now, present, then in rows:
        assert next_world(names(now), setup, names(present)) == names(then)
    fewer = host(least=2).setup
    more = (
        ("1234", "1234", "1234"),
        ("1234", "134", "134"),
        ("134", "1234", "1234"),
        ("1234", "14", "14"),
        ("14", "1", "14"),
        ("14", "1234", "1234"),
    )
    for now, present, then in more:
        assert next_world(names(now), fewer, names(present)) == names(then)
    both = host(spares=1, least=2).setup
    assert next_world(names("123"), both, names("14")) == names("14")
    assert next_world(names("14"), both, names("1234")) == names("124")


def names(numbers: str) -> tuple[str, ...]:
    return tuple(f"algo-{number}" for number in numbers)


@given(
    spares=st.integers(0, 3),
    least=st.integers(0, 3),
    turns=st.lists(st.sets(st.sampled_from(HOSTS[1:])), max_size=12),
)
def test_whoever_comes_and_goes_the_world_holds(
    spares: int, least: int, turns: list[set[str]]
) -> None:
    setup = host(spares=spares, least=min(least, 4 - spares)).setup
    world = setup.world
    for others in turns:
        present = {"algo-1", *others}
        before, world = world, next_world(world, setup, present)
        assert world[0] == "algo-1", "the master stays the first"
        assert len({*world}) == len(world) <= len(setup.world)
        if not {*world} <= present:
            assert len({*world} & present) < (setup.min_hosts or len(setup.world))
            assert present <= {*world}, "nobody stands by while one is missing"
        if {*before} <= present and len(before) == len(setup.world):
            assert world == before, "nobody is moved without need"


# --------------------------------------------------------------------------- fewer


def test_the_others_go_on_without_a_lost_host_and_with_it_at_the_next_attempt() -> None:
    state, _ = play(host(least=3), all_of(host()))
    state, actions = play(state, [lost("algo-3")])
    order = order_of(actions)
    assert (order.scope, order.world) == (Scope.ALL, (0, 1, 3))
    assert said(actions)["hosts.changed"] == 3
    assert ev.Deadline.REJOIN not in state.armed, "nobody waits for it"
    state, _ = play(state, [DOWN])
    state, actions = play(state, ready(1, "algo-2", "algo-4"))
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["worker"])
    state, actions = play(state, [back("algo-3", phase=Phase.PREPARING), back("algo-3")])
    assert said(actions) == {"member.stands_by": "algo-3"}
    assert state.job is JobState.RUNNING
    state, actions = play(state, [told("algo-2", failure("algo-2", at=200.0))])
    assert order_of(actions).world == (0, 1, 2, 3)
    state, _ = play(state, [DOWN, *ready(2, "algo-2", "algo-4")])
    assert state.phase is Phase.RESTARTING
    state, _ = play(state, [told("algo-3", turn=2)])
    assert state.phase is Phase.RUNNING
    done = [ev.MemberReported(name, Phase.RUNNING, True, None) for name in HOSTS[1:]]
    state, _ = play(state, [ev.Exited("worker", OK, 300.0), *done])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.FINISHED


def test_only_those_that_train_are_waited_for_at_the_end() -> None:
    state, _ = play(host(least=3), [*all_of(host()), lost("algo-3"), DOWN])
    state, _ = play(state, ready(1, "algo-2", "algo-4"))
    done = [ev.MemberReported(name, Phase.RUNNING, True, None) for name in ("algo-2", "algo-4")]
    state, _ = play(state, [ev.Exited("worker", OK, 300.0), *done])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.FINISHED


def test_too_few_wait_for_one_that_comes_back() -> None:
    state, _ = play(host(least=3), [*all_of(host()), lost("algo-3"), lost("algo-4"), DOWN])
    assert (state.world, state.phase) == (names("124"), Phase.RESTARTING)
    state, actions = play(state, [*ready(2, "algo-2"), back("algo-3")])
    assert order_of(actions).world == (0, 1, 2)
    state, _ = play(state, ready(3, "algo-2", "algo-3"))
    assert state.phase is Phase.RUNNING
    state, _ = play(state, [lost("algo-2"), lost("algo-3", 102.0), DOWN])
    state, _ = play(state, [ev.Expired(ev.Deadline.REJOIN, 170.0)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.MEMBER_LOST


def test_a_host_that_was_cut_off_comes_down_and_stands_by() -> None:
    state, _ = play(host("algo-3", least=3), HEARD)
    heard = {"verdict": None, "restarts": True}
    order = order_of(play(host(least=3), [*all_of(host()), lost("algo-3")])[1])
    state, _ = play(state, [ev.JobChanged(JobState.RESTARTING, order=order, **heard)])  # type: ignore[arg-type]
    assert state.phase is Phase.RESTARTING
    state, actions = play(
        state,
        [DOWN, ev.Readied(1), ev.JobChanged(JobState.RUNNING, order=order, **heard)],  # type: ignore[arg-type]
    )
    assert (state.phase, starts(actions)) == (Phase.RESTARTING, [])
    again = order._replace(turn=2, attempt=3, world=(0, 1, 2, 3))
    state, _ = play(state, [ev.JobChanged(JobState.RESTARTING, order=again, **heard)])  # type: ignore[arg-type]
    state, actions = play(
        state,
        [ev.Readied(2), ev.JobChanged(JobState.RUNNING, order=again, **heard)],  # type: ignore[arg-type]
    )
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["worker"])


def test_hosts_that_depend_on_nobody_go_on_and_finish_without_the_lost_one() -> None:
    state, actions = play(host(strategy="none", least=3), [*all_of(host()), lost("algo-3")])
    assert (state.phase, ev.Arm(ev.Deadline.REJOIN, REJOIN_S) in actions) == (Phase.RUNNING, True)
    state, actions = play(state, [ev.Expired(ev.Deadline.REJOIN, 160.0)])
    assert said(actions) == {"hosts.changed": 3}
    state, actions = play(state, [back("algo-3")])
    assert order_of(actions).named == (("algo-3", EVERY),), "it may come back at any time"
    assert state.world == HOSTS


def test_a_job_begins_without_those_that_do_not_join_in_time() -> None:
    here: list[ev.Event] = [ev.Prepared(), joined("algo-2"), joined("algo-4")]
    late = ev.Expired(ev.Deadline.JOIN, 900.0)
    state, _ = play(host(), [*here, late])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.JOIN_TIMEOUT
    state, actions = play(host(least=3), [*here, late])
    order = order_of(actions)
    assert (order.attempt, order.world) == (1, (0, 1, 3))
    state, actions = play(state, ready(1, "algo-2", "algo-4"))
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["worker"])
    late_one, actions = play(
        host("algo-3"),
        [ev.JobChanged(JobState.RUNNING, None, order=order, restarts=True), ev.Prepared()],
    )
    assert (late_one.phase, starts(actions)) == (Phase.JOINING, [])
    assert ev.Deadline.JOIN not in late_one.armed


# --------------------------------------------------------------------------- spares


@pytest.mark.parametrize("strategy", ["mwms", "mpi"])
def test_a_spare_takes_the_place_of_a_lost_host_at_once(strategy: str) -> None:
    state, actions = play(host(strategy=strategy, spares=1), all_of(host()))
    assert (state.phase, state.world) == (Phase.RUNNING, names("123"))
    state, actions = play(state, [lost("algo-2")])
    assert order_of(actions).world == (0, 3, 2)
    state, _ = play(state, [DOWN, *ready(1, "algo-3")])
    assert state.phase is Phase.RESTARTING
    state, _ = play(state, [told("algo-4", turn=1)])
    assert state.phase is Phase.RUNNING
    state, actions = play(state, [back("algo-2")])
    assert said(actions) == {"member.stands_by": "algo-2"}, "it is the spare now"


def test_the_job_does_not_wait_for_its_spares() -> None:
    state, _ = play(host(spares=2), [ev.Prepared(), joined("algo-2")])
    assert state.phase is Phase.RUNNING
    state, actions = play(state, [joined("algo-3", Phase.PREPARING), joined("algo-3")])
    assert said(actions) == {"member.stands_by": "algo-3"}
    state, actions = play(state, [lost("algo-2")])
    assert order_of(actions).world == (0, 2)


def test_a_spare_waits_from_the_start_and_begins_by_an_order() -> None:
    state, actions = play(host("algo-4", spares=1), HEARD)
    assert (state.phase, starts(actions)) == (Phase.JOINING, [])
    assert ev.Deadline.JOIN not in state.armed
    order = order_of(play(host(spares=1), [*all_of(host()), lost("algo-2")])[1])
    state, actions = play(
        state, [ev.JobChanged(JobState.RESTARTING, None, order=order, restarts=True)]
    )
    ready_ = next(a for a in actions if isinstance(a, ev.MakeReady))
    assert (ready_.processes, ready_.world) == (("worker",), names("143"))
    state, actions = play(
        state, [ev.Readied(1), ev.JobChanged(JobState.RUNNING, None, order=order, restarts=True)]
    )
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["worker"])


def test_a_host_with_a_parameter_server_is_replaced_and_all_are_told() -> None:
    _, actions = play(host(strategy="ps", spares=1), [*all_of(host()), lost("algo-2")])
    order = order_of(actions)
    assert (order.scope, order.world) == (Scope.ALL, (0, 3, 2))


def test_a_worker_without_one_is_waited_for_and_replaced_when_its_time_is_over() -> None:
    before = host(strategy="ps", spares=1)
    state = initial(replace(before.setup, servers=("algo-1",)), before.processes)
    state, _ = play(state, [*all_of(host()), lost("algo-2")])
    assert state.job is JobState.RUNNING, "the chief trains on"
    state, actions = play(state, [ev.Expired(ev.Deadline.REJOIN, 160.0)])
    order = order_of(actions)
    assert (order.scope, order.world) == (Scope.ALL, (0, 3, 2))


def test_a_master_that_was_started_anew_learns_who_trains() -> None:
    late = [runs_on("algo-4"), runs_on("algo-3")]
    late = [
        ev.MemberReported(**(vars(each) | {"earlier": ev.EarlierLife(2, 1, (), world=(0, 3, 2))}))
        for each in late
    ]
    state, actions = play(host(spares=1), [ev.Prepared(), *late])
    assert order_of(actions).world == (0, 3, 2), "algo-2 is not waited for"
    assert world_of(state.setup, order_of(actions).world) == names("143")
