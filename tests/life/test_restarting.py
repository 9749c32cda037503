"""Attempts inside a life: what an order concerns comes down, waits and starts anew."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import replace

import pytest

from supervisor.life import events as ev
from supervisor.life.attempts import Kind, Order, Past, Policy, Scope
from supervisor.life.restarting import AGAIN_S
from supervisor.life.state import Process, Setup, State, initial, process_of
from supervisor.life.words import Cause, CauseKind, ExitStatus, JobState, Life, Phase, SuccessPolicy
from tests.life.test_lifecycle import (
    BUDGETS,
    KILLED,
    OK,
    ONE,
    RUNNING_ALONE,
    RUNNING_MASTER,
    TERMED,
    VICTIM,
    alone,
    essentials,
    joined,
    master,
    member,
    play,
    said,
)

POLICY = Policy(restarts=3)
HEARD: list[ev.Event] = [
    ev.JobChanged(JobState.JOINING, None, restarts=True),
    ev.Prepared(),
    ev.JobChanged(JobState.RUNNING, None, restarts=True),
]
"""A member of a master that judges."""
STOP = ev.Signalled(signal.SIGTERM, 50.0)


def going_on(state: State, strategy: str, policy: Policy = POLICY) -> State:
    """The same host, of a job that may go on."""
    setup = replace(state.setup, strategy=strategy, policy=policy)
    return initial(setup, state.processes)


def all_alike(host: str = "algo-1") -> State:
    """A host of a job whose scripts depend on each other."""
    hosts = ("algo-1", "algo-2", "algo-3")
    setup = Setup(host, "algo-1", hosts, SuccessPolicy.ALL, False, BUDGETS, strategy="mwms")
    if host == "algo-1":
        setup = replace(setup, policy=POLICY)
    return initial(setup, (Process("worker", False),))


def failure(host: str, process: str = "worker", at: float = 1.0, **more: object) -> Cause:
    return replace(Cause(CauseKind.SCRIPT_FAILED, host, "killed", process, KILLED, at=at), **more)  # type: ignore[arg-type]


def told(
    host: str, cause: Cause | None = None, turn: int = 0, *, progressed: bool = False
) -> ev.MemberReported:
    return ev.MemberReported(host, Phase.RUNNING, False, cause, turn=turn, progressed=progressed)


def order_of(actions: Iterable[ev.Action]) -> Order:
    found = [a.order for a in actions if isinstance(a, ev.Announce) and a.order]
    assert found, "nothing was ordered"
    return found[-1]


def starts(actions: Iterable[ev.Action]) -> list[str]:
    return [a.process for a in actions if isinstance(a, ev.Start)]


# --------------------------------------------------------------------------- a host alone


def test_a_script_alone_starts_anew_where_it_was_killed() -> None:
    state, actions = play(
        going_on(alone(), "none"), [*RUNNING_ALONE, ev.Exited("chief", KILLED, 1.0, "killed")]
    )
    assert state.phase is Phase.RESTARTING
    ready = next(a for a in actions if isinstance(a, ev.MakeReady))
    assert (ready.processes, ready.attempt) == (("chief",), 2)
    assert not starts(actions)
    state, actions = play(state, [ev.Readied(ready.turn)])
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["chief"])
    chief = process_of(state, "chief")
    assert (chief.life, chief.status, chief.attempt) == (Life.ALIVE, None, 2)
    assert [a.attempt for a in actions if isinstance(a, ev.Restarted)] == [2]
    state, actions = play(state, [ev.Exited("chief", OK, 5.0), ev.Published(None)])
    assert state.phase is Phase.DONE
    assert state.cause is not None
    assert state.cause.kind is CauseKind.FINISHED


def test_without_a_policy_nothing_is_ever_started_anew() -> None:
    state, _ = play(alone(), [*RUNNING_ALONE, ev.Exited("chief", KILLED, 1.0)])
    assert state.cause is not None
    assert (state.order, state.past) == (None, ())


def test_what_has_no_budget_left_ends_with_its_own_cause_and_the_reason() -> None:
    state = going_on(alone(), "none", Policy(restarts=1))
    state, _ = play(state, [*RUNNING_ALONE, ev.Exited("chief", KILLED, 1.0), ev.Readied(1)])
    state, actions = play(state, [ev.Exited("chief", KILLED, 2.0, "killed again")])
    assert state.cause is not None
    assert state.cause.attempt == 2
    assert state.refused is not None
    assert "1 restart without progress (SUPERVISOR_RESTARTS=1)" in state.refused.reason
    assert "killed again" in str(said(actions)["attempt.refused"])


def test_progress_gives_the_budget_back() -> None:
    state = going_on(alone(), "none", Policy(restarts=1))
    state, _ = play(state, RUNNING_ALONE)
    for turn in range(1, 9):
        ended = ev.Exited("chief", KILLED, float(turn), "killed", progressed=True)
        state, _ = play(state, [ended, ev.Readied(turn)])
        assert (state.phase, state.attempt) == (Phase.RUNNING, turn + 1)
        assert ev.Deadline.BACKOFF not in state.armed


def test_a_pause_grows_where_there_is_no_progress() -> None:
    state, _ = play(going_on(alone(), "none"), RUNNING_ALONE)
    pauses = []
    for turn in range(1, 4):
        state, actions = play(state, [ev.Exited("chief", KILLED, 1.0 + turn / 10, "killed")])
        armed = [a for a in actions if isinstance(a, ev.Arm)]
        pauses.append(sum(a.seconds for a in armed if a.deadline is ev.Deadline.BACKOFF))
        state, _ = play(state, [ev.Readied(turn)])
        if ev.Deadline.BACKOFF in state.armed:
            assert state.phase is Phase.RESTARTING, "ready, and the pause is not over"
            state, _ = play(state, [ev.Expired(ev.Deadline.BACKOFF, 9.0)])
        assert state.phase is Phase.RUNNING
    assert pauses == pytest.approx([0.0, 0.9, 1.9])


def test_a_script_that_hangs_comes_down_by_the_ladder_and_starts_anew() -> None:
    state, actions = play(going_on(alone(), "none"), [*RUNNING_ALONE, ev.Hung("chief", 60, 9.0)])
    assert essentials(actions) == [ev.Send("chief", signal.SIGTERM)]
    state, actions = play(state, [ev.Expired(ev.Deadline.GRACE, 19.0)])
    assert essentials(actions) == [ev.Send("chief", signal.SIGTERM, whole_group=True)]
    state, actions = play(state, [ev.Expired(ev.Deadline.GROUP, 22.0)])
    assert essentials(actions) == [ev.KillTree("chief")]
    assert state.phase is Phase.RESTARTING
    state, _ = play(state, [ev.Exited("chief", KILLED, 22.1), ev.Readied(1)])
    assert (state.phase, state.past[0].kind) == (Phase.RUNNING, Kind.HANG)


def test_what_cannot_be_killed_ends_the_job() -> None:
    state, _ = play(going_on(alone(), "none"), [*RUNNING_ALONE, ev.Hung("chief", 60, 9.0)])
    for deadline in (ev.Deadline.GRACE, ev.Deadline.GROUP, ev.Deadline.KILL):
        state, _ = play(state, [ev.Expired(deadline, 30.0)])
    assert state.cause is not None
    assert "not even SIGKILL ended chief" in state.cause.message
    assert process_of(state, "chief").life is Life.LEFT


@pytest.mark.parametrize(
    "status", [ExitStatus(code=127), ExitStatus(code=126)], ids=["not found", "not executable"]
)
def test_what_would_fail_again_is_not_started_anew(status: ExitStatus) -> None:
    failed = ev.StartFailed("chief", status.code or 0, "train: not found", 1.0)
    state, _ = play(going_on(alone(), "none"), [*RUNNING_ALONE, failed])
    assert state.cause is not None
    assert state.refused is not None
    assert not state.refused.restartable


# --------------------------------------------------------------------------- a stop meanwhile


def test_a_stop_while_it_is_down_ends_at_once_and_nothing_starts() -> None:
    state, _ = play(going_on(alone(), "none"), [*RUNNING_ALONE, ev.Exited("chief", KILLED, 1.0)])
    state, actions = play(state, [STOP])
    assert (state.phase, essentials(actions)) == (Phase.PUBLISHING, [ev.Publish()])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.STOP_REQUESTED
    state, actions = play(state, [ev.Readied(1)])
    assert not starts(actions)
    assert process_of(state, "chief").status is None, "nobody was there to answer the stop"


def test_a_stop_while_it_comes_down_leaves_it_the_time_of_a_stop_and_signals_it_once() -> None:
    state, _ = play(going_on(alone(), "none"), [*RUNNING_ALONE, ev.Hung("chief", 60, 9.0)])
    state, actions = play(state, [STOP])
    assert not [a for a in actions if isinstance(a, ev.Send)]
    assert ev.Arm(ev.Deadline.GRACE, BUDGETS.stop_grace_s) in actions
    state, _ = play(state, [ev.Exited("chief", OK, 51.0)])
    assert state.phase is Phase.PUBLISHING


def test_a_script_that_comes_down_to_start_anew_may_have_its_share_twice() -> None:
    """The other hosts wait for it, and have counted so much. No limit of the platform's runs."""
    hung = ev.Hung("chief", 600.0, 1.0)
    state, _ = play(going_on(alone(), "none"), [*RUNNING_ALONE, hung])
    assert (state.phase, ev.Deadline.LIMIT in state.armed) == (Phase.RESTARTING, False)
    asks = ev.MoreTime("chief", 60.0, 2.0)
    group_s, share_s = BUDGETS.group_s, BUDGETS.end_grace_s
    _, actions = play(state, [asks])
    assert actions == [ev.Extend("chief", ev.Deadline.GRACE, 60.0, group_s, 2 * share_s)]
    _, actions = play(state, [ev.Expired(ev.Deadline.GRACE, 20.0), asks])
    assert actions == [ev.Extend("chief", ev.Deadline.GROUP, 60.0, 0.0, 0.0)]


def test_a_stop_while_it_is_being_killed_gives_up_nothing_else() -> None:
    state, _ = play(going_on(master(), "ps"), [*RUNNING_MASTER, ev.Hung("chief", 60, 9.0)])
    state, _ = play(state, [ev.Expired(ev.Deadline.GRACE, 19.0)])
    state, _ = play(state, [ev.Expired(ev.Deadline.GROUP, 22.0)])
    assert ev.Deadline.KILL in state.armed
    state, _ = play(state, [STOP])
    assert ev.Deadline.KILL not in state.armed, "it was for the chief alone"


# --------------------------------------------------------------------------- all scripts


def test_all_scripts_of_all_hosts_start_when_the_last_is_ready() -> None:
    state, actions = play(all_alike(), [*RUNNING_MASTER, told("algo-2", failure("algo-2"))])
    order = order_of(actions)
    assert (order.scope, order.attempt, order.turn) == (Scope.ALL, 2, 1)
    assert ev.Send("worker", signal.SIGTERM) in actions
    assert state.job is JobState.RESTARTING
    state, actions = play(state, [ev.Exited("worker", TERMED, 2.0), ev.Readied(1)])
    assert not starts(actions), "two others are not ready"
    state, actions = play(state, [told("algo-2", turn=1)])
    assert not starts(actions)
    state, actions = play(state, [told("algo-3", turn=1)])
    assert starts(actions) == ["worker"]
    assert essentials(actions)[0] == ev.Announce(JobState.RUNNING, order=order)


def test_a_member_tells_its_failure_waits_for_the_word_and_follows_it() -> None:
    state, actions = play(all_alike("algo-2"), [*HEARD, ev.Exited("worker", KILLED, 1.0, "killed")])
    assert state.phase is Phase.RUNNING
    assert ev.Arm(ev.Deadline.DECISION, BUDGETS.lease_s) in actions
    report = next(a for a in actions if isinstance(a, ev.Report))
    assert report.cause is not None
    assert (report.cause.process, report.attempt, report.turn) == ("worker", 1, 0)
    order = Order(1, 2, Scope.ALL, (("algo-2", "worker"),), report.cause)
    state, actions = play(state, [ev.JobChanged(JobState.RESTARTING, None, order=order)])
    assert ev.Deadline.DECISION not in state.armed
    assert [a.processes for a in actions if isinstance(a, ev.MakeReady)] == [("worker",)]
    state, actions = play(state, [ev.Readied(1)])
    assert actions == [ev.Report(Phase.RESTARTING, False, None, turn=1, attempt=2, ordered=1)]
    state, actions = play(state, [ev.JobChanged(JobState.RUNNING, None, order=order)])
    assert (state.phase, starts(actions)) == (Phase.RUNNING, ["worker"])
    assert process_of(state, "worker").attempt == 2


def test_a_member_whose_master_says_nothing_ends_with_its_own_failure() -> None:
    state, _ = play(all_alike("algo-2"), [*HEARD, ev.Exited("worker", KILLED, 1.0, "killed")])
    state, _ = play(state, [ev.Expired(ev.Deadline.DECISION, 31.0)])
    assert state.cause is not None
    assert (state.cause.host, state.cause.kind) == ("algo-2", CauseKind.SCRIPT_FAILED)


def test_the_same_report_twice_is_one_failure() -> None:
    lost = failure("algo-2")
    state, _ = play(all_alike(), [*RUNNING_MASTER, told("algo-2", lost)])
    state, actions = play(state, [told("algo-2", lost)])
    assert (actions, len(state.past)) == ([], 1)


def test_a_failure_while_all_come_down_is_noted_and_not_charged() -> None:
    state, _ = play(all_alike(), [*RUNNING_MASTER, told("algo-2", failure("algo-2"))])
    state, actions = play(state, [told("algo-3", failure("algo-3", at=1.1))])
    assert "failure.also" in said(actions)
    assert (len(state.past), state.attempt) == (1, 2)


def test_who_is_not_ready_in_time_is_named_and_the_first_failure_ends_the_job() -> None:
    lost = failure("algo-2")
    state, _ = play(all_alike(), [*RUNNING_MASTER, told("algo-2", lost)])
    state, _ = play(
        state, [ev.Exited("worker", TERMED, 2.0), ev.Readied(1), told("algo-2", turn=1)]
    )
    state, _ = play(state, [ev.Expired(ev.Deadline.RESTART, 99.0)])
    assert state.cause == lost
    assert state.refused is not None
    assert "algo-3" in state.refused.reason
    assert "algo-2" not in state.refused.reason


def test_a_lost_peers_victim_waits_for_the_cause_which_alone_is_charged() -> None:
    said_so = failure("algo-3", message=VICTIM, exit=ONE)
    state, _ = play(all_alike(), [*RUNNING_MASTER, told("algo-3", said_so)])
    assert (state.suspect, state.job) == (said_so, JobState.RUNNING)
    state, actions = play(state, [told("algo-2", failure("algo-2", at=1.5))])
    assert order_of(actions).cause == failure("algo-2", at=1.5)
    assert [past.cause.host for past in state.past] == ["algo-2"]
    assert said_so in state.also


def test_a_member_that_missed_the_word_that_all_run_starts_with_the_next_order() -> None:
    order = Order(1, 2, Scope.ALL, (), failure("algo-3"))
    state, _ = play(
        all_alike("algo-2"),
        [
            *HEARD,
            ev.JobChanged(JobState.RESTARTING, None, order=order),
            ev.Exited("worker", TERMED, 2.0),
            ev.Readied(1),
        ],
    )
    other = Order(2, 3, Scope.ALONE, (("algo-3", "worker"),), failure("algo-3"))
    state, actions = play(state, [ev.JobChanged(JobState.RESTARTING, None, order=other)])
    assert (state.phase, starts(actions), state.turn) == (Phase.RUNNING, ["worker"], 2)


# --------------------------------------------------------------------------- parameter servers


def test_a_worker_starts_anew_alone_and_nothing_else_is_touched() -> None:
    state, actions = play(
        going_on(master(), "ps"), [*RUNNING_MASTER, told("algo-2", failure("algo-2"))]
    )
    order = order_of(actions)
    assert (order.scope, order.named) == (Scope.ALONE, (("algo-2", "worker"),))
    assert not [a for a in actions if isinstance(a, ev.Send)]
    assert state.phase is Phase.RUNNING
    state, actions = play(state, [told("algo-2", turn=1)])
    assert essentials(actions) == [ev.Announce(JobState.RUNNING, order=order)], "algo-3 has no part"
    assert [a.attempt for a in actions if isinstance(a, ev.Restarted)] == [2]


def test_the_member_of_it_restarts_its_worker_and_keeps_its_server() -> None:
    order = Order(1, 2, Scope.ALONE, (("algo-2", "worker"),), failure("algo-2"))
    state, actions = play(
        member(),
        [
            *HEARD,
            ev.Exited("worker", KILLED, 1.0),
            ev.JobChanged(JobState.RESTARTING, None, order=order),
        ],
    )
    assert not [a for a in actions if isinstance(a, ev.Send)]
    state, actions = play(
        state, [ev.Readied(1), ev.JobChanged(JobState.RUNNING, None, order=order)]
    )
    assert starts(actions) == ["worker"]
    assert process_of(state, "ps").attempt == 1


def test_the_chief_starts_anew_with_the_parameter_servers_of_all_hosts() -> None:
    state, actions = play(
        going_on(master(), "ps"), [*RUNNING_MASTER, ev.Exited("chief", KILLED, 1.0)]
    )
    order = order_of(actions)
    assert order.scope is Scope.CHIEF
    assert ev.Send("ps", signal.SIGTERM) in actions
    state, actions = play(state, [ev.Exited("ps", TERMED, 1.1), ev.Readied(1)])
    state, actions = play(state, [told("algo-2", turn=1), told("algo-3", turn=1)])
    assert starts(actions) == ["ps", "chief"]
    _, actions = play(member(), [*HEARD, ev.JobChanged(JobState.RESTARTING, None, order=order)])
    assert essentials(actions) == [ev.Send("ps", signal.SIGTERM)], "its worker stays"


def test_a_parameter_server_that_dies_takes_the_chief_with_it() -> None:
    _, actions = play(going_on(master(), "ps"), [*RUNNING_MASTER, ev.Exited("ps", KILLED, 1.0)])
    assert order_of(actions).scope is Scope.CHIEF
    assert ev.Send("chief", signal.SIGTERM) in actions


def test_a_chief_that_fails_while_a_worker_is_being_started_anew_makes_the_order_wider() -> None:
    state, _ = play(going_on(master(), "ps"), [*RUNNING_MASTER, told("algo-2", failure("algo-2"))])
    state, actions = play(state, [ev.Exited("chief", KILLED, 2.0)])
    order = order_of(actions)
    assert (order.turn, order.attempt, order.scope) == (2, 2, Scope.CHIEF)
    assert order.named == (("algo-2", "worker"), ("algo-1", "chief"))
    assert len(state.past) == 1, "one charge"
    state, _ = play(state, [ev.Exited("ps", TERMED, 2.1), ev.Readied(2), told("algo-3", turn=2)])
    state, actions = play(state, [told("algo-2", turn=1)])
    assert not starts(actions), "ready for what was ordered before"
    state, actions = play(state, [told("algo-2", turn=2)])
    assert starts(actions) == ["ps", "chief"]


def test_a_chief_that_is_done_ends_the_job_though_a_worker_is_being_started_anew() -> None:
    state, _ = play(going_on(master(), "ps"), [*RUNNING_MASTER, told("algo-2", failure("algo-2"))])
    state, actions = play(state, [ev.Exited("chief", OK, 2.0)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.FINISHED
    assert any(isinstance(a, ev.Announce) and a.state is JobState.ENDED for a in actions)


def test_a_worker_that_may_fail_is_tolerated_once_it_is_not_started_anew() -> None:
    state = going_on(master(), "ps")
    state = initial(replace(state.setup, tolerated_failures=1), state.processes)
    wrong = failure("algo-2", exit=ONE, error="ImportError (train.py:3)")
    state, actions = play(state, [*RUNNING_MASTER, told("algo-2", wrong)])
    assert "failure.tolerated" in said(actions)
    assert (state.cause, state.tolerated) == (None, (wrong,))
    state, actions = play(state, [told("algo-3", failure("algo-3", at=3.0))])
    assert order_of(actions).named == (("algo-3", "worker"),), "it stays down"


def test_a_member_that_joins_while_others_start_anew_starts_the_rest_and_follows() -> None:
    order = Order(1, 2, Scope.CHIEF, (), failure("algo-1", "chief"))
    late: list[ev.Event] = [
        ev.Prepared(),
        ev.JobChanged(JobState.RESTARTING, None, order=order, restarts=True),
    ]
    state, actions = play(member(), late)
    assert starts(actions) == ["worker"]
    assert [a.processes for a in actions if isinstance(a, ev.MakeReady)] == [("ps",)]
    assert state.phase is Phase.RESTARTING
    running = ev.JobChanged(JobState.RUNNING, None, order=order)
    state, actions = play(state, [ev.Readied(1), running])
    assert starts(actions) == ["ps"]
    late[1] = running
    state, actions = play(member(), late)
    assert starts(actions) == ["ps", "worker"]
    assert {process.attempt for process in state.processes} == {2}


def test_hosts_without_a_distribution_have_budgets_of_their_own() -> None:
    state = going_on(master(SuccessPolicy.ALL), "none", Policy(restarts=1))
    state = initial(state.setup, (Process("chief", False),))
    state, _ = play(state, RUNNING_MASTER)
    for turn, host in enumerate(("algo-2", "algo-3"), 1):
        state, _ = play(state, [told(host, failure(host, at=float(turn)))])
        state, _ = play(state, [told(host, turn=turn)])
        assert state.cause is None
    state, _ = play(state, [told("algo-2", failure("algo-2", at=9.0), turn=1)])
    assert state.cause is not None
    assert state.cause.host == "algo-2"


def test_a_longer_pause_than_coming_down_may_take_is_no_failure() -> None:
    state, _ = play(going_on(alone(), "none", Policy(restarts=99)), RUNNING_ALONE)
    past = Past(1, Kind.CRASH, Scope.ALONE, failure("algo-1", "chief"), progressed=False)
    state = replace(state, past=(past,) * 9)
    state, actions = play(state, [ev.Exited("chief", KILLED, 1.0, "killed")])
    assert ev.Arm(ev.Deadline.BACKOFF, 60.0) in actions
    state, actions = play(state, [ev.Readied(1), ev.Expired(ev.Deadline.RESTART, 42.0)])
    assert (state.phase, state.cause) == (Phase.RESTARTING, None)
    assert ev.Deadline.RESTART in state.armed
    state, actions = play(state, [ev.Expired(ev.Deadline.BACKOFF, 61.0)])
    assert starts(actions) == ["chief"]


def test_two_that_fall_on_one_host_at_once_both_start_anew() -> None:
    """A report has one cause: the master may never hear of the first."""
    fallen = [ev.Exited("worker", KILLED, 1.0), ev.Exited("ps", KILLED, 1.0)]
    state, _ = play(member(), [*HEARD, *fallen])
    order = Order(1, 2, Scope.CHIEF, (("algo-2", "ps"),), failure("algo-2", "ps"))
    state, actions = play(state, [ev.JobChanged(JobState.RESTARTING, None, order=order)])
    assert [a.processes for a in actions if isinstance(a, ev.MakeReady)] == [("ps", "worker")]


def test_progress_of_one_host_is_none_of_another_where_each_is_a_job_of_its_own() -> None:
    state = going_on(master(SuccessPolicy.ALL), "none", Policy(restarts=1))
    state, _ = play(initial(state.setup, (Process("chief", False),)), RUNNING_MASTER)
    state, _ = play(state, [told("algo-2", failure("algo-2")), told("algo-2", turn=1)])
    moved = told("algo-3", failure("algo-3", at=2.0), progressed=True)
    state, _ = play(state, [moved, told("algo-3", turn=2)])
    assert state.phase is Phase.RUNNING
    state, _ = play(state, [told("algo-2", failure("algo-2", at=3.0), turn=1)])
    assert state.cause is not None
    assert state.cause.host == "algo-2"


def test_an_order_that_would_name_too_many_starts_all_anew() -> None:
    many = tuple((f"host-{number:04}", "worker") for number in range(257))
    assert Order(1, 2, Scope.ALONE, many).bounded() == Order(1, 2, Scope.ALL, ())
    long = tuple((f"{number:03}" + "h" * 240, "worker") for number in range(60))
    assert Order(1, 2, Scope.ALONE, long).bounded().scope is Scope.ALL
    assert Order(1, 2, Scope.ALONE, long[:9]).bounded().scope is Scope.ALONE


# --------------------------------------------------------------------------- one checkpoint for all


def restoring(host: str) -> State:
    """A host of a job in which each host restores from the same place."""
    state = all_alike(host)
    state = initial(replace(state.setup, agreement="same"), state.processes)
    return replace(state, holds="generation 000001-0badcafe -")


def test_the_master_has_what_it_saved_sent_and_says_which_checkpoint_it_is() -> None:
    holds = "generation 000001-0badcafe -"
    state, actions = play(
        restoring("algo-1"),
        [
            ev.Prepared(),
            joined("algo-2", holds=holds),
            joined("algo-3", holds=holds),
            ev.Exited("worker", KILLED, 1.0, "killed"),
        ],
    )
    order = order_of(actions)
    assert order.agreed
    assert next(a for a in actions if isinstance(a, ev.MakeReady)).agreed
    assert ev.Arm(ev.Deadline.RESTART, 10 + 3 + 5 + 10 + 3 + 10 + 60 + 20 + 600) in actions
    _, actions = play(state, [ev.Readied(1, "000002-0badcafe")])
    told_so = ev.Announce(JobState.RESTARTING, restore="000002-0badcafe", order=order)
    assert essentials(actions) == [told_so]
    _, actions = play(state, [ev.Readied(1)])
    assert essentials(actions) == [ev.Announce(JobState.RESTARTING, restore="-", order=order)]
    state, _ = play(state, [ev.NotReady(1, "checkpoints: 3 files not sent: AccessDenied")])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.SCRIPT_FAILED
    assert state.refused is not None
    assert "AccessDenied" in state.refused.reason


AGREED = Order(1, 2, Scope.ALL, (), failure("algo-1"), agreed=True)


def test_a_member_restores_what_the_master_names_before_it_is_ready() -> None:
    state, actions = play(
        restoring("algo-2"),
        [
            *HEARD,
            ev.JobChanged(JobState.RESTARTING, None, order=AGREED),
            ev.Exited("worker", TERMED, 2.0),
        ],
    )
    assert not [a for a in actions if isinstance(a, ev.MakeReady)], "it waits for the word"
    word = ev.JobChanged(JobState.RESTARTING, None, (), "000002-0badcafe", AGREED)
    state, actions = play(state, [word])
    assert actions == [ev.Restore("000002-0badcafe")]
    _, actions = play(state, [word])
    assert not actions, "once"
    state, actions = play(state, [ev.Replanned(("restore",))])
    assert starts(actions) == ["restore"]
    state, actions = play(state, [ev.Replanned((), "generation 000002-0badcafe -")])
    assert not starts(actions)
    failed = state
    for pause_s in AGAIN_S:
        failed, actions = play(failed, [ev.Exited("restore", ONE, 3.0, "the disk is full")])
        assert (failed.cause, failed.phase) == (None, Phase.RESTARTING)
        assert ev.Arm(ev.Deadline.BACKOFF, pause_s) in actions
        assert not [a for a in actions if isinstance(a, ev.Restore)]
        failed, actions = play(failed, [ev.Expired(ev.Deadline.BACKOFF, 9.0)])
        assert [a.generation for a in actions if isinstance(a, ev.Restore)] == ["000002-0badcafe"]
        failed, actions = play(failed, [ev.Replanned(("restore",))])
        assert starts(actions) == ["restore"]
    failed, _ = play(failed, [ev.Exited("restore", ONE, 3.0, "gone")])
    assert failed.cause is not None
    assert failed.cause.kind is CauseKind.PREPARE_FAILED
    state, actions = play(state, [ev.Exited("restore", OK, 3.0)])
    assert [a.processes for a in actions if isinstance(a, ev.MakeReady)] == [("worker",)]
    state, _ = play(state, [ev.Readied(1)])
    state, actions = play(state, [ev.JobChanged(JobState.RUNNING, None, order=AGREED)])
    assert starts(actions) == ["worker"], "the step is not started again"


def test_a_member_goes_on_as_it_is_where_nothing_was_ever_saved() -> None:
    state, _ = play(
        restoring("algo-2"),
        [*HEARD, ev.Exited("worker", KILLED, 1.0)],
    )
    _, actions = play(state, [ev.JobChanged(JobState.RESTARTING, None, (), "-", AGREED)])
    assert [a.processes for a in actions if isinstance(a, ev.MakeReady)] == [("worker",)]


def test_a_stop_while_it_restores_stops_the_step() -> None:
    word = ev.JobChanged(JobState.RESTARTING, None, (), "000002-0badcafe", AGREED)
    state, _ = play(
        restoring("algo-2"),
        [*HEARD, word, ev.Exited("worker", TERMED, 2.0), ev.Replanned(("restore",))],
    )
    state, actions = play(state, [STOP])
    assert ev.Send("restore", signal.SIGTERM) in actions
    state, _ = play(state, [ev.Exited("restore", TERMED, 51.0)])
    assert state.phase is Phase.PUBLISHING
