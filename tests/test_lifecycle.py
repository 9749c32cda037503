"""The reducer: recorded histories of whole lives, and what holds whatever comes in what order."""

from __future__ import annotations

import signal
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.events import (
    Action,
    Announce,
    Arm,
    Broke,
    Deadline,
    Disarm,
    Event,
    Exited,
    Expired,
    JobChanged,
    KillTree,
    MasterEnded,
    MasterLost,
    MasterSeen,
    MemberLost,
    MemberReported,
    Prepared,
    PrepareFailed,
    Publish,
    Published,
    Record,
    Report,
    Send,
    Signalled,
    Start,
    StartFailed,
)
from supervisor.lifecycle import Life, Process, Setup, State, initial, step
from supervisor.model import Cause, CauseKind, ExitStatus, JobState, Outcome, Phase, Verdict
from supervisor.outcome import host_exit_code, outcome_of
from supervisor.plan import Budgets, SuccessPolicy

BUDGETS = Budgets(
    join_s=900,
    max_runtime_s=0,
    stop_grace_s=90,
    end_grace_s=10,
    group_s=3,
    server_grace_s=5,
    kill_s=3,
    stop_limit_s=120,
    limit_s=100,
    publish_s=15,
    ack_s=30,
    lease_s=30,
)
OK, ONE = ExitStatus(code=0), ExitStatus(code=1)
TERMED, KILLED = ExitStatus(signum=15), ExitStatus(signum=9)


def alone() -> State:
    setup = Setup("algo-1", "algo-1", ("algo-1",), SuccessPolicy.ALL, False, BUDGETS)
    return initial(setup, (Process("chief", False),))


def master(policy: SuccessPolicy = SuccessPolicy.CHIEF) -> State:
    hosts = ("algo-1", "algo-2", "algo-3")
    setup = Setup("algo-1", "algo-1", hosts, policy, policy is SuccessPolicy.CHIEF, BUDGETS)
    return initial(setup, (Process("ps", True), Process("chief", False)))


def member() -> State:
    hosts = ("algo-1", "algo-2", "algo-3")
    setup = Setup("algo-2", "algo-1", hosts, SuccessPolicy.CHIEF, True, BUDGETS)
    return initial(setup, (Process("ps", True), Process("worker", False)))


def play(state: State, events: Iterable[Event]) -> tuple[State, list[Action]]:
    """Feed all events; the actions of the last one."""
    actions: tuple[Action, ...] = ()
    for event in events:
        state, actions = step(state, event)
    return state, list(actions)


def essentials(actions: Iterable[Action]) -> list[Action]:
    """Without the log lines and the timers."""
    return [
        a for a in actions if isinstance(a, Start | Send | KillTree | Announce | Publish | Record)
    ]


def joined(host: str, phase: Phase = Phase.JOINING, **more: object) -> MemberReported:
    return MemberReported(
        host,
        phase,
        bool(more.get("script_ended")),
        more.get("cause"),  # type: ignore[arg-type]
    )


def test_hosts_that_run_servers_alone_are_not_waited_for() -> None:
    """Every script must end for the job to succeed, and there is one only on two of the hosts."""
    hosts = ("algo-1", "algo-2", "algo-3")
    setup = Setup("algo-1", "algo-1", hosts, SuccessPolicy.ALL, True, BUDGETS, ("algo-3",))
    state = initial(setup, (Process("chief", False),))
    state, _ = play(state, [*RUNNING_MASTER, Exited("chief", OK, 1.0)])
    assert state.phase is Phase.RUNNING
    state, actions = play(state, [joined("algo-2", Phase.RUNNING, script_ended=True)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.FINISHED
    assert any(isinstance(a, Announce) and a.state is JobState.ENDED for a in actions)


RUNNING_ALONE: list[Event] = [Prepared()]
RUNNING_MASTER: list[Event] = [Prepared(), joined("algo-2"), joined("algo-3")]
RUNNING_MEMBER: list[Event] = [Prepared(), JobChanged(JobState.RUNNING, None)]
DOWN: list[Event] = [joined("algo-2", Phase.PUBLISHING), joined("algo-3", Phase.DONE)]


def test_a_script_alone_that_succeeds() -> None:
    state, actions = play(alone(), RUNNING_ALONE)
    assert state.phase is Phase.RUNNING
    assert essentials(actions) == [Start("chief")]
    state, actions = step(state, Exited("chief", OK, 5.0))  # type: ignore[assignment]
    assert (state.phase, essentials(actions)) == (Phase.PUBLISHING, [Publish()])
    state, actions = step(state, Published(None))  # type: ignore[assignment]
    assert (state.phase, essentials(actions)) == (Phase.DONE, [Record()])
    assert state.cause is not None
    assert (state.cause.kind, state.cause.at) == (CauseKind.FINISHED, 5.0)


def test_the_masters_barrier_then_chief_ends_then_members_then_master() -> None:
    state, actions = play(master(), [Prepared(), joined("algo-2")])
    assert state.phase is Phase.JOINING
    assert state.missing == ("algo-3",)
    assert Deadline.JOIN in state.armed
    state, actions = play(state, [joined("algo-3")])
    assert essentials(actions) == [Announce(JobState.RUNNING), Start("ps"), Start("chief")]
    assert Deadline.JOIN not in state.armed
    state, actions = play(state, [Exited("chief", OK, 1.0)])
    announced = essentials(actions)[0]
    assert isinstance(announced, Announce)
    assert announced.state is JobState.ENDED
    assert announced.verdict is not None
    assert (announced.verdict.outcome, announced.verdict.exit_code) == (Outcome.SUCCEEDED, 0)
    assert essentials(actions)[1:] == [Send("ps", signal.SIGTERM)]
    state, actions = play(state, [Exited("ps", TERMED, 1.1), Published(None)])
    assert state.phase is Phase.PUBLISHING, "members are still up"
    state, actions = play(state, DOWN)
    assert (state.phase, essentials(actions)) == (Phase.DONE, [Record()])


def test_a_member_whose_script_ends_early_with_0_keeps_its_server_until_the_verdict() -> None:
    state, actions = play(member(), [*RUNNING_MEMBER, Exited("worker", OK, 1.0)])
    assert (state.phase, essentials(actions)) == (Phase.RUNNING, [])
    assert Report(Phase.RUNNING, True, None) in actions
    cause = Cause(CauseKind.FINISHED, "algo-1", "finished, exit 0", "chief", OK)
    ended = JobChanged(JobState.ENDED, Verdict(Outcome.SUCCEEDED, cause, 0))
    state, actions = play(state, [ended])
    assert essentials(actions) == [Send("ps", signal.SIGTERM)]
    state, actions = play(state, [Exited("ps", TERMED, 2.0)])
    assert Report(Phase.PUBLISHING, True, None) in actions
    state, actions = play(state, [Published(None)])
    assert state.phase is Phase.DONE
    assert state.cause == cause


def test_a_failing_worker_holds_its_server_for_the_chief_and_reports_itself() -> None:
    failed = Exited("worker", ONE, 1.0, "ValueError: boom (train.py:3); exit 1 after 9 s", "detail")
    state, actions = play(member(), [*RUNNING_MEMBER, failed])
    assert (state.phase, essentials(actions)) == (Phase.DRAINING, [])
    assert Deadline.HOLD in state.armed
    cause = state.cause
    assert cause is not None
    assert (cause.kind, cause.host, cause.process) == (CauseKind.SCRIPT_FAILED, "algo-2", "worker")
    assert Report(Phase.DRAINING, False, cause) in actions
    state, actions = play(state, [JobChanged(JobState.ENDED, Verdict(Outcome.FAILED, cause, 1))])
    assert essentials(actions) == [Send("ps", signal.SIGTERM)]

    above, actions = play(
        master(), [*RUNNING_MASTER, joined("algo-2", Phase.DRAINING, cause=cause)]
    )
    assert essentials(actions) == [
        Announce(JobState.STOPPING, Verdict(Outcome.FAILED, cause)),
        Send("chief", signal.SIGTERM),
    ]
    above, actions = play(above, [Exited("chief", TERMED, 2.0)])
    assert essentials(actions) == [
        Announce(JobState.ENDED, Verdict(Outcome.FAILED, cause, 1)),
        Send("ps", signal.SIGTERM),
    ]
    assert above.cause == cause


def test_a_parameter_server_that_dies_fails_the_job() -> None:
    state, actions = play(master(), [*RUNNING_MASTER, Exited("ps", KILLED, 1.0)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.ESSENTIAL_DIED
    assert Send("chief", signal.SIGTERM) in actions


def test_sigterm_to_the_master_stops_the_chief_first_and_servers_last() -> None:
    state, actions = play(master(), [*RUNNING_MASTER, Signalled(signal.SIGTERM, 1.0)])
    assert [type(action) for action in essentials(actions)] == [Announce, Send]
    assert Arm(Deadline.GRACE, BUDGETS.stop_grace_s) in actions
    assert Arm(Deadline.LIMIT, BUDGETS.limit_s) in actions
    state, actions = play(state, [Exited("chief", OK, 2.0)])
    announced = essentials(actions)[0]
    assert isinstance(announced, Announce)
    assert announced.verdict is not None
    assert (announced.verdict.outcome, announced.verdict.exit_code) == (Outcome.STOPPED, 0)
    assert essentials(actions)[1:] == [Send("ps", signal.SIGTERM)]


def test_sigterm_to_a_member_holds_and_asks_the_master() -> None:
    state, actions = play(member(), [*RUNNING_MEMBER, Signalled(signal.SIGTERM, 1.0)])
    assert essentials(actions) == []
    assert Arm(Deadline.HOLD, 96) in actions
    report = next(action for action in actions if isinstance(action, Report))
    assert report.cause is not None
    assert report.cause.kind is CauseKind.STOP_REQUESTED
    state, actions = play(state, [Expired(Deadline.HOLD, 97.0)])
    assert essentials(actions) == [Send("worker", signal.SIGTERM)]


def test_the_stop_ladder_of_a_script_that_ignores_everything() -> None:
    state, actions = play(alone(), [*RUNNING_ALONE, Signalled(signal.SIGTERM, 1.0)])
    assert essentials(actions) == [Send("chief", signal.SIGTERM)]
    state, actions = play(state, [Expired(Deadline.GRACE, 91.0)])
    assert essentials(actions) == [Send("chief", signal.SIGTERM, whole_group=True)]
    state, actions = play(state, [Expired(Deadline.GROUP, 94.0)])
    assert (state.phase, essentials(actions)) == (Phase.KILLING, [KillTree("chief")])
    state, actions = play(state, [Exited("chief", KILLED, 94.1), Published(None)])
    assert state.phase is Phase.DONE


def test_a_process_that_survives_sigkill_is_left_and_said() -> None:
    state, _ = play(
        alone(),
        [*RUNNING_ALONE, Signalled(15, 1.0), Signalled(15, 2.0), Expired(Deadline.KILL, 5.0)],
    )
    assert state.processes[0].life is Life.LEFT
    state, _ = play(state, [Published(None)])
    assert state.phase is Phase.DONE
    assert _code(state) == 86


def test_a_second_stop_signal_kills() -> None:
    state, actions = play(master(), [*RUNNING_MASTER, Signalled(2, 1.0), Signalled(2, 1.5)])
    assert state.phase is Phase.KILLING
    assert essentials(actions) == [KillTree("ps"), KillTree("chief")]


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH])
def test_other_signals_are_passed_on_and_stop_nothing(signum: int) -> None:
    state, actions = play(member(), [*RUNNING_MEMBER, Signalled(signum, 1.0)])
    assert (state.phase, actions) == (Phase.RUNNING, [Send("worker", signum)])


def test_a_lost_master_releases_and_fails_its_members() -> None:
    lost = MasterLost("crashed", "connection refused 5 times in 1.2 s", 3.0)
    state, actions = play(member(), [*RUNNING_MEMBER, lost])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.MASTER_LOST
    assert essentials(actions) == [Send("worker", signal.SIGTERM)], "nobody is left to hold for"
    state, _ = play(
        state, [Exited("worker", TERMED, 4.0), Exited("ps", TERMED, 4.0), Published(None)]
    )
    assert _code(state) == 83


def test_a_lost_member_fails_the_job() -> None:
    state, _ = play(master(), [*RUNNING_MASTER, MemberLost("algo-3", "silent for 30 s", 9.0)])
    assert state.cause is not None
    assert str(state.cause) == "algo-3: lost: silent for 30 s"
    state, _ = play(
        state,
        [Exited("chief", TERMED, 1), Exited("ps", TERMED, 1), Published(None), DOWN[0]],
    )
    assert state.phase is Phase.DONE, "a lost member is not waited for"


def test_joining_times_out_naming_who_is_missing() -> None:
    state, actions = play(master(), [Prepared(), joined("algo-3"), Expired(Deadline.JOIN, 900.0)])
    assert state.cause is not None
    assert "algo-2" in state.cause.message
    assert "algo-3" not in state.cause.message
    assert not [action for action in actions if isinstance(action, Start)]


def test_a_stop_before_anything_runs_starts_nothing() -> None:
    for state in (alone(), master(), member()):
        stopped, actions = play(state, [Signalled(15, 1.0), Prepared()])
        assert stopped.phase is Phase.PUBLISHING
        assert not [action for action in actions if isinstance(action, Start)]


def test_a_member_that_is_late_gets_the_verdict() -> None:
    cause = Cause(CauseKind.FINISHED, "algo-1", "finished, exit 0", "chief", OK)
    ended = JobChanged(JobState.ENDED, Verdict(Outcome.SUCCEEDED, cause, 0))
    state, _ = play(member(), [ended, Published(None)])
    assert state.phase is Phase.DONE
    assert _code(state) == 0


def test_a_bare_master_is_the_barrier_and_its_closed_port_the_end() -> None:
    state, actions = play(member(), [Prepared(), MasterSeen(bare=True)])
    assert essentials(actions) == [Start("ps"), Start("worker")]
    state, actions = play(state, [MasterEnded("refused", 7.0)])
    assert essentials(actions) == [Send("worker", signal.SIGTERM)]
    assert state.verdict is not None
    assert state.verdict.cause.kind is CauseKind.MASTER_ENDED


def test_success_of_all_waits_for_every_script() -> None:
    state, _ = play(master(SuccessPolicy.ALL), [*RUNNING_MASTER, Exited("chief", OK, 1.0)])
    assert state.phase is Phase.RUNNING
    state, _ = play(state, [joined("algo-2", Phase.RUNNING, script_ended=True)])
    assert state.phase is Phase.RUNNING
    state, _ = play(state, [joined("algo-3", Phase.RUNNING, script_ended=True)])
    assert state.phase is Phase.DRAINING


def test_a_program_that_cannot_be_executed_is_the_cause() -> None:
    state, _ = play(
        master(), [*RUNNING_MASTER, StartFailed("chief", 127, "no such file: ./train", 1.0)]
    )
    assert state.cause is not None
    assert state.cause.kind is CauseKind.START_FAILED
    state, _ = play(state, [Exited("ps", TERMED, 2.0), Published(None), *DOWN])
    assert _code(state) == 127


def test_publishing_has_a_bound_of_its_own() -> None:
    state, _ = play(alone(), [*RUNNING_ALONE, Exited("chief", OK, 1.0)])
    state, _ = play(state, [Expired(Deadline.PUBLISH, 20.0)])
    assert state.phase is Phase.DONE
    assert _code(state) == 87


def _code(state: State) -> int:
    assert state.cause is not None
    verdict = state.verdict or Verdict(outcome_of(state.cause), state.cause)
    return host_exit_code(
        state.setup.host,
        verdict,
        state.script_status,
        left=state.left,
        publish_error=state.publish_error,
    )


# --------------------------------------------------------------------------- properties

_statuses = st.sampled_from([OK, ONE, TERMED, KILLED, ExitStatus(code=42)])
_causes = st.sampled_from(
    [
        Cause(CauseKind.SCRIPT_FAILED, "algo-3", "boom", "worker", ONE),
        Cause(CauseKind.STOP_REQUESTED, "algo-3", "received SIGTERM"),
        Cause(CauseKind.FINISHED, "algo-1", "finished, exit 0", "chief", OK),
    ]
)
_verdicts = st.builds(
    lambda cause, code: Verdict(outcome_of(cause), cause, code), _causes, st.none() | st.just(0)
)
_others = st.sampled_from(["algo-2", "algo-3", "stranger"])
_free = st.one_of(
    st.just(Prepared()),
    st.just(PrepareFailed("no space", 1.0)),
    st.builds(Signalled, st.sampled_from([1, 2, 3, 10, 12, 15, 18, 28]), st.just(1.0)),
    st.builds(
        MemberReported, _others, st.sampled_from(list(Phase)), st.booleans(), st.none() | _causes
    ),
    st.builds(MemberLost, _others, st.just("silent"), st.just(1.0)),
    st.builds(JobChanged, st.sampled_from(list(JobState)), st.none() | _verdicts),
    st.builds(MasterSeen, st.booleans()),
    st.builds(MasterLost, st.sampled_from(["crashed", "unreachable"]), st.just("x"), st.just(1.0)),
    st.builds(MasterEnded, st.just("x"), st.just(1.0)),
    st.builds(Broke, st.just("bug"), st.just(1.0)),
)


def _possible(state: State, draw: st.DataObject) -> Event:
    """An event that the world could send now: only what lives can exit, only what is armed can
    expire, only what is being published can be published."""
    choices = [_free]
    if state.alive:
        names = st.sampled_from([process.name for process in state.alive])
        left = st.sampled_from([(), (), (4711,)])
        choices.append(st.builds(Exited, names, _statuses, st.just(2.0), left=left))
    if state.armed:
        choices.append(st.builds(Expired, st.sampled_from(sorted(state.armed)), st.just(3.0)))
    if state.phase is Phase.PUBLISHING:
        choices.append(st.builds(Published, st.none() | st.just("403")))
    event: Event = draw.draw(st.one_of(choices))
    return event


@settings(max_examples=600, deadline=None)
@given(st.sampled_from([alone(), master(), master(SuccessPolicy.ALL), member()]), st.data())
def test_what_holds_whatever_comes(state: State, draw: st.DataObject) -> None:
    published = 0
    for _ in range(draw.draw(st.integers(1, 25))):
        before = state
        state, actions = step(state, _possible(state, draw))
        order = list(Phase)
        assert order.index(state.phase) >= order.index(before.phase), "a life never goes back"
        if before.cause is not None:
            assert state.cause == before.cause, "the cause never changes"
        if order.index(before.phase) > order.index(Phase.RUNNING):
            assert not [a for a in actions if isinstance(a, Start)], "no start once draining"
        published += sum(isinstance(action, Publish) for action in actions)
        if order.index(Phase.RUNNING) < order.index(state.phase) < order.index(Phase.DONE):
            assert state.cause is not None
            assert state.armed, "every phase after running has a deadline"
        done = state.phase is Phase.DONE
        settled = state.publishing_settled and (
            state.all_down or all(m.down for m in state.members.values())
        )
        assert done == (order.index(state.phase) >= order.index(Phase.PUBLISHING) and settled)
        if done:
            assert not state.alive
            assert not state.armed
            assert 0 <= _code(state) <= 255
        armed = set(before.armed)
        for action in actions:
            if isinstance(action, Arm):
                armed.add(action.deadline)
                assert action.seconds >= 0
            elif isinstance(action, Disarm):
                assert action.deadline in armed
                armed.discard(action.deadline)
        assert state.armed <= armed
    assert published <= 1


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([alone(), master(), master(SuccessPolicy.ALL), member()]), st.data())
def test_once_draining_the_timers_alone_lead_to_the_end(state: State, draw: st.DataObject) -> None:
    """No state waits only for an event that cannot come: if nobody ever answers again, no process
    ever ends and nothing is ever published, the armed deadlines still reach ``done``."""
    for _ in range(draw.draw(st.integers(1, 15))):
        state, _ = step(state, _possible(state, draw))
    if state.phase in {Phase.PREPARING, Phase.JOINING, Phase.RUNNING}:
        state, _ = step(state, Signalled(15, 1.0))
    for _ in range(20):
        if state.phase is Phase.DONE:
            return
        assert state.armed, f"stuck in {state.phase}"
        state, _ = step(state, Expired(draw.draw(st.sampled_from(sorted(state.armed))), 9.0))
    pytest.fail(f"still {state.phase} after 20 expired deadlines")
