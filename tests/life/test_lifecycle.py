"""The reducer: recorded histories of whole lives, and what holds whatever comes in what order."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.cluster.liveness import How
from supervisor.life import events as ev
from supervisor.life.attempts import KINDS, Kind, Order, Past, Policy, Scope, restartable
from supervisor.life.automaton import JOB, LIVES, PHASES, Trigger
from supervisor.life.ladder import SWEEP_S, respite
from supervisor.life.lifecycle import LATE_S, WORD_S, is_anothers_stop, passes_on, step
from supervisor.life.outcome import host_exit_code, outcome_of
from supervisor.life.state import Process, Setup, State, initial, process_of
from supervisor.life.words import (
    STOP_SIGNALS,
    Budgets,
    Cause,
    CauseKind,
    ExitStatus,
    JobState,
    Life,
    Outcome,
    Phase,
    Rung,
    SuccessPolicy,
    Verdict,
    speaks_of_lost_peer,
)

BUDGETS = Budgets(
    prepare_s=600,
    publish_end_s=1800,
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


def with_steps(state: State) -> State:
    """The same host, with two steps to prepare it."""
    steps = tuple(Process(name, server=False, step=True) for name in ("requirements", "package"))
    return initial(state.setup, (*steps, *state.processes))


def with_policy(state: State, **changes: Any) -> State:
    """The same host with other policies; ``straggler_s`` and ``evaluator_grace_s`` are budgets."""
    budgets = {
        name: changes.pop(name) for name in ("straggler_s", "evaluator_grace_s") if name in changes
    }
    setup = replace(state.setup, budgets=state.setup.budgets._replace(**budgets), **changes)
    return initial(setup, state.processes)


def evaluator() -> State:
    hosts = ("algo-1", "algo-2", "algo-3")
    budgets = BUDGETS._replace(evaluator_grace_s=60)
    setup = Setup("algo-3", "algo-1", hosts, SuccessPolicy.CHIEF, True, budgets, evaluator="algo-3")
    return initial(setup, (Process("evaluator", False),))


def play(state: State, events: Iterable[ev.Event]) -> tuple[State, list[ev.Action]]:
    """Feed all events; the actions of the last one."""
    actions: tuple[ev.Action, ...] = ()
    for event in events:
        state, actions = step(state, event)
    return state, list(actions)


def essentials(actions: Iterable[ev.Action]) -> list[ev.Action]:
    """Without the log lines and the timers."""
    kinds = (ev.Start, ev.Send, ev.Had, ev.KillTree, ev.Announce, ev.Publish, ev.Record)
    return [a for a in actions if isinstance(a, kinds)]


def joined(host: str, phase: Phase = Phase.JOINING, **more: object) -> ev.MemberReported:
    return ev.MemberReported(
        host,
        phase,
        bool(more.get("script_ended")),
        more.get("cause"),  # type: ignore[arg-type]
        str(more.get("holds", "")),
    )


@pytest.mark.parametrize("policy", [SuccessPolicy.ALL, SuccessPolicy.SHARE])
def test_hosts_that_run_servers_alone_are_not_waited_for(policy: SuccessPolicy) -> None:
    """Every script must end for the job to succeed, and there is one only on two of the hosts."""
    hosts = ("algo-1", "algo-2", "algo-3")
    setup = Setup("algo-1", "algo-1", hosts, policy, True, BUDGETS, scriptless=("algo-3",))
    state = initial(setup, (Process("chief", False),))
    state, _ = play(state, [*RUNNING_MASTER, ev.Exited("chief", OK, 1.0)])
    assert state.phase is Phase.RUNNING
    state, actions = play(state, [joined("algo-2", Phase.RUNNING, script_ended=True)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.FINISHED
    assert any(isinstance(a, ev.Announce) and a.state is JobState.ENDED for a in actions)


RUNNING_ALONE: list[ev.Event] = [ev.Prepared()]
RUNNING_MASTER: list[ev.Event] = [ev.Prepared(), joined("algo-2"), joined("algo-3")]
RUNNING_MEMBER: list[ev.Event] = [ev.Prepared(), ev.JobChanged(JobState.RUNNING, None)]
DOWN: list[ev.Event] = [joined("algo-2", Phase.PUBLISHING), joined("algo-3", Phase.DONE)]


def test_a_script_alone_that_succeeds() -> None:
    state, actions = play(alone(), RUNNING_ALONE)
    assert state.phase is Phase.RUNNING
    assert essentials(actions) == [ev.Start("chief")]
    state, actions = step(state, ev.Exited("chief", OK, 5.0))  # type: ignore[assignment]
    assert (state.phase, essentials(actions)) == (Phase.PUBLISHING, [ev.Publish()])
    state, actions = step(state, ev.Published(None))  # type: ignore[assignment]
    assert (state.phase, essentials(actions)) == (Phase.DONE, [ev.Record()])
    assert state.cause is not None
    assert (state.cause.kind, state.cause.at) == (CauseKind.FINISHED, 5.0)


def test_the_masters_barrier_then_chief_ends_then_members_then_master() -> None:
    state, actions = play(master(), [ev.Prepared(), joined("algo-2")])
    assert state.phase is Phase.JOINING
    assert state.missing == ("algo-3",)
    assert ev.Deadline.JOIN in state.armed
    state, actions = play(state, [joined("algo-3")])
    assert essentials(actions) == [ev.Announce(JobState.RUNNING), ev.Start("ps"), ev.Start("chief")]
    assert ev.Deadline.JOIN not in state.armed
    state, actions = play(state, [ev.Exited("chief", OK, 1.0)])
    announced = essentials(actions)[0]
    assert isinstance(announced, ev.Announce)
    assert announced.state is JobState.ENDED
    assert announced.verdict is not None
    assert (announced.verdict.outcome, announced.verdict.exit_code) == (Outcome.SUCCEEDED, 0)
    assert essentials(actions)[1:] == [ev.Send("ps", signal.SIGTERM)]
    state, actions = play(state, [ev.Exited("ps", TERMED, 1.1), ev.Published(None)])
    assert state.phase is Phase.PUBLISHING, "members are still up"
    state, actions = play(state, DOWN)
    assert (state.phase, essentials(actions)) == (Phase.DONE, [ev.Record()])


def test_a_member_whose_script_ends_early_with_0_keeps_its_server_until_the_verdict() -> None:
    state, actions = play(member(), [*RUNNING_MEMBER, ev.Exited("worker", OK, 1.0)])
    assert (state.phase, essentials(actions)) == (Phase.RUNNING, [])
    assert ev.Report(Phase.RUNNING, True, None) in actions
    cause = Cause(CauseKind.FINISHED, "algo-1", "finished, exit 0", "chief", OK)
    ended = ev.JobChanged(JobState.ENDED, Verdict(Outcome.SUCCEEDED, cause, 0))
    state, actions = play(state, [ended])
    assert essentials(actions) == [ev.Send("ps", signal.SIGTERM)]
    state, actions = play(state, [ev.Exited("ps", TERMED, 2.0)])
    assert ev.Report(Phase.PUBLISHING, True, None) in actions
    state, actions = play(state, [ev.Published(None)])
    assert state.phase is Phase.DONE
    assert state.cause == cause


def test_a_failing_worker_holds_its_server_for_the_chief_and_reports_itself() -> None:
    failed = ev.Exited(
        "worker", ONE, 1.0, "ValueError: boom (train.py:3); exit 1 after 9 s", "detail"
    )
    state, actions = play(member(), [*RUNNING_MEMBER, failed])
    assert (state.phase, essentials(actions)) == (Phase.DRAINING, [])
    assert ev.Deadline.HOLD in state.armed
    cause = state.cause
    assert cause is not None
    assert (cause.kind, cause.host, cause.process) == (CauseKind.SCRIPT_FAILED, "algo-2", "worker")
    assert ev.Report(Phase.DRAINING, False, cause) in actions
    state, actions = play(state, [ev.JobChanged(JobState.ENDED, Verdict(Outcome.FAILED, cause, 1))])
    assert essentials(actions) == [ev.Send("ps", signal.SIGTERM)]

    above, actions = play(
        master(), [*RUNNING_MASTER, joined("algo-2", Phase.DRAINING, cause=cause)]
    )
    assert essentials(actions) == [
        ev.Announce(JobState.STOPPING, Verdict(Outcome.FAILED, cause)),
        ev.Send("chief", signal.SIGTERM),
    ]
    above, actions = play(above, [ev.Exited("chief", TERMED, 2.0)])
    assert essentials(actions) == [
        ev.Announce(JobState.ENDED, Verdict(Outcome.FAILED, cause, 1)),
        ev.Send("ps", signal.SIGTERM),
    ]
    assert above.cause == cause


def test_a_parameter_server_that_dies_fails_the_job() -> None:
    state, actions = play(master(), [*RUNNING_MASTER, ev.Exited("ps", KILLED, 1.0)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.ESSENTIAL_DIED
    assert ev.Send("chief", signal.SIGTERM) in actions


def test_sigterm_to_the_master_stops_the_chief_first_and_servers_last() -> None:
    state, actions = play(master(), [*RUNNING_MASTER, ev.Signalled(signal.SIGTERM, 1.0)])
    assert [type(action) for action in essentials(actions)] == [ev.Announce, ev.Send]
    assert ev.Arm(ev.Deadline.GRACE, BUDGETS.stop_grace_s) in actions
    assert ev.Arm(ev.Deadline.LIMIT, BUDGETS.limit_s) in actions
    state, actions = play(state, [ev.Exited("chief", OK, 2.0)])
    announced = essentials(actions)[0]
    assert isinstance(announced, ev.Announce)
    assert announced.verdict is not None
    assert (announced.verdict.outcome, announced.verdict.exit_code) == (Outcome.STOPPED, 0)
    assert essentials(actions)[1:] == [ev.Send("ps", signal.SIGTERM)]


def test_sigterm_to_a_member_holds_and_asks_the_master() -> None:
    state, actions = play(member(), [*RUNNING_MEMBER, ev.Signalled(signal.SIGTERM, 1.0)])
    assert essentials(actions) == []
    assert ev.Arm(ev.Deadline.HOLD, 96) in actions
    report = next(action for action in actions if isinstance(action, ev.Report))
    assert report.cause is not None
    assert report.cause.kind is CauseKind.STOP_REQUESTED
    state, actions = play(state, [ev.Expired(ev.Deadline.HOLD, 97.0)])
    assert essentials(actions) == [ev.Send("worker", signal.SIGTERM)]


def test_a_member_that_was_told_to_stop_hears_first_how_the_job_ended() -> None:
    """Its script had died of the signal before the master's answer came: the chief had been done,
    and the member ended with 143."""
    setup = Setup("algo-2", "algo-1", ("algo-1", "algo-2"), SuccessPolicy.ALL, False, BUDGETS)
    stopped: list[ev.Event] = [
        ev.Prepared(),
        ev.JobChanged(JobState.RUNNING, None),
        ev.Started("worker", 7),
        ev.Signalled(signal.SIGTERM, 1.0),
        ev.Exited("worker", TERMED, 1.0),
    ]
    state, actions = play(initial(setup, (Process("worker", False),)), stopped)
    assert ev.Arm(ev.Deadline.ACK, WORD_S) in actions
    state, _ = play(state, [ev.Published(None)])
    assert state.phase is Phase.PUBLISHING
    assert state.cause is not None
    verdict = Verdict(Outcome.STOPPED, state.cause, 0)
    for last in (
        ev.JobChanged(JobState.ENDED, verdict),
        ev.Expired(ev.Deadline.ACK, 2.0),
        ev.MasterLost("crashed", "x", 2.0),
    ):
        state_then, actions = play(state, [ev.JobChanged(JobState.STOPPING, verdict), last])
        assert state_then.phase is Phase.DONE
        assert "members.late" not in said(actions)


def test_the_stop_ladder_of_a_script_that_ignores_everything() -> None:
    state, actions = play(alone(), [*RUNNING_ALONE, ev.Signalled(signal.SIGTERM, 1.0)])
    assert essentials(actions) == [ev.Send("chief", signal.SIGTERM)]
    state, actions = play(state, [ev.Expired(ev.Deadline.GRACE, 91.0)])
    assert essentials(actions) == [ev.Send("chief", signal.SIGTERM, whole_group=True)]
    state, actions = play(state, [ev.Expired(ev.Deadline.GROUP, 94.0)])
    assert (state.phase, essentials(actions)) == (Phase.KILLING, [ev.KillTree("chief")])
    state, actions = play(state, [ev.Exited("chief", KILLED, 94.1), ev.Published(None)])
    assert state.phase is Phase.DONE


def test_a_process_that_survives_sigkill_is_left_and_said() -> None:
    state, _ = play(
        alone(),
        [
            *RUNNING_ALONE,
            ev.Signalled(15, 1.0),
            ev.Signalled(15, 2.0),
            ev.Expired(ev.Deadline.KILL, 5.0),
        ],
    )
    assert state.processes[0].life is Life.LEFT
    state, _ = play(state, [ev.Published(None)])
    assert state.phase is Phase.DONE
    assert _code(state) == 86


def test_a_second_stop_signal_kills() -> None:
    state, actions = play(master(), [*RUNNING_MASTER, ev.Signalled(2, 1.0), ev.Signalled(2, 1.5)])
    assert state.phase is Phase.KILLING
    assert essentials(actions) == [ev.KillTree("ps"), ev.KillTree("chief")]


def test_an_echo_of_a_stop_signal_is_no_second_one() -> None:
    """timeout(1) signals its command and then the group: the script lost its grace to that."""
    state, _ = play(alone(), [*RUNNING_ALONE, ev.Signalled(15, 1.0)])
    state, actions = play(state, [ev.Signalled(15, 1.001), ev.Signalled(15, 1.04)])
    assert (state.phase, actions, state.stop_signals) == (Phase.DRAINING, [], 1)
    _, actions = play(state, [ev.Signalled(2, 1.041)])
    assert essentials(actions) == [ev.KillTree("chief")], "another signal is another wish"
    state, actions = play(state, [ev.Signalled(15, 1.2)])
    assert essentials(actions) == [ev.KillTree("chief")]


def test_a_stop_signal_that_everybody_has_had_is_not_sent_to_the_script_again() -> None:
    """Many programs take a second one for "now", in the middle of their checkpoint."""
    to_all = ev.Signalled(signal.SIGTERM, 1.0, everywhere=True)
    state, actions = play(alone(), [*RUNNING_ALONE, to_all])
    assert essentials(actions) == [ev.Had("chief", signal.SIGTERM)]
    assert state.processes[0].stopped_by_us, "it counts as sent"
    again, actions = play(state, [ev.Signalled(signal.SIGTERM, 1.01, everywhere=True)])
    assert (again.stop_signals, actions) == (1, []), "an echo is still none"
    _, actions = play(state, [ev.Signalled(signal.SIGTERM, 2.0, everywhere=True)])
    assert essentials(actions) == [ev.KillTree("chief")], "a second one is still one"
    _, actions = play(state, [ev.Expired(ev.Deadline.GRACE, 91.0)])
    assert essentials(actions) == [ev.Send("chief", signal.SIGTERM, whole_group=True)]


def test_a_script_with_another_stop_signal_gets_its_own() -> None:
    state = alone()
    state = replace(state, processes=(replace(state.processes[0], stop_signal=signal.SIGINT),))
    to_all = ev.Signalled(signal.SIGTERM, 1.0, everywhere=True)
    _, actions = play(state, [*RUNNING_ALONE, to_all])
    assert essentials(actions) == [ev.Send("chief", signal.SIGINT)]


def test_servers_get_their_stop_signal_from_us_whoever_else_sent_it() -> None:
    """Ours heed nobody else."""
    to_all = ev.Signalled(signal.SIGTERM, 1.0, everywhere=True)
    state, actions = play(master(), [*RUNNING_MASTER, to_all])
    assert ev.Had("chief", signal.SIGTERM) in actions
    _, actions = play(state, [ev.Exited("chief", OK, 2.0)])
    assert ev.Send("ps", signal.SIGTERM) in actions


def test_what_a_member_has_had_while_it_holds_counts_when_its_turn_comes() -> None:
    to_all = ev.Signalled(signal.SIGTERM, 1.0, everywhere=True)
    state, actions = play(member(), [*RUNNING_MEMBER, to_all])
    assert state.rung is Rung.HOLD
    assert not [each for each in actions if isinstance(each, ev.Send | ev.Had)]
    assert state.cause is not None
    ended = ev.JobChanged(JobState.ENDED, Verdict(Outcome.STOPPED, state.cause, 0))
    _, actions = play(state, [ended])
    assert ev.Had("worker", signal.SIGTERM) in actions
    assert not [each for each in actions if isinstance(each, ev.Send) and each.process == "worker"]


def test_another_hosts_word_of_a_stop_may_be_faster_than_our_signal() -> None:
    """Slurm's second node heard of the first one's SIGTERM before its own came: its script had
    it from its supervisor, and then from Slurm."""
    asked = Cause(CauseKind.STOP_REQUESTED, "algo-2", "received SIGTERM")
    failed = replace(asked, kind=CauseKind.SCRIPT_FAILED)
    state, _ = play(master(), RUNNING_MASTER)
    told = [ev.MemberReported("algo-2", Phase.DRAINING, False, each) for each in (asked, failed)]
    assert [is_anothers_stop(state, each) for each in told] == [True, False]
    stopping, _ = play(state, [ev.Signalled(15, 1.0)])
    assert not is_anothers_stop(stopping, told[0]), "ours has come"
    state, _ = play(member(), RUNNING_MEMBER)
    ending = ev.JobChanged(JobState.STOPPING, Verdict(Outcome.STOPPED, asked))
    assert is_anothers_stop(state, ending)
    assert not is_anothers_stop(state, ev.JobChanged(JobState.RUNNING, None))


def test_whom_else_a_signal_was_sent_to_is_asked_where_it_matters() -> None:
    state, _ = play(alone(), RUNNING_ALONE)
    asked = {each for each in signal.valid_signals() if passes_on(state, each)}
    assert asked == signal.valid_signals() - {signal.SIGTSTP, signal.SIGCONT}
    stopped, _ = play(state, [ev.Signalled(signal.SIGTERM, 1.0)])
    assert not any(passes_on(stopped, each) for each in STOP_SIGNALS), "a second one kills"
    assert passes_on(stopped, signal.SIGUSR1)
    assert not passes_on(alone(), signal.SIGTERM), "nothing runs"


def test_how_late_an_echo_may_come_is_the_platforms() -> None:
    """Slurm sends SIGTERM twice at the time limit, up to 150 ms apart: the second one killed the
    script in the middle of its save."""
    setup = Setup(
        *("algo-1", "algo-1", ("algo-1",), SuccessPolicy.ALL, False), BUDGETS._replace(echo_s=1.0)
    )
    state = initial(setup, (Process("chief", False),))
    state, _ = play(state, [*RUNNING_ALONE, ev.Signalled(15, 1.0), ev.Signalled(15, 1.15)])
    assert (state.phase, state.stop_signals) == (Phase.DRAINING, 1)
    _, actions = play(state, [ev.Signalled(15, 2.2)])
    assert essentials(actions) == [ev.KillTree("chief")]


def test_the_time_that_is_left_is_said_at_each_stop_signal() -> None:
    state, first = play(alone(), [*RUNNING_ALONE, ev.Signalled(15, 100.0)])
    _, second = play(state, [ev.Signalled(15, 130.0)])
    said = [a for a in (*first, *second) if isinstance(a, ev.Say) and a.event == "signal.received"]
    assert [dict(say.fields)["left_s"] for say in said] == [120.0, 90.0]


def test_a_second_stop_signal_while_holding_for_the_chief_kills() -> None:
    state, _ = play(member(), [*RUNNING_MEMBER, ev.Signalled(15, 1.0)])
    assert state.rung is Rung.HOLD
    state, actions = play(state, [ev.Signalled(15, 2.0)])
    assert essentials(actions) == [ev.KillTree("ps"), ev.KillTree("worker")]
    assert (ev.Deadline.HOLD in state.armed, ev.Deadline.KILL in state.armed) == (False, True)
    state, _ = play(state, [ev.Exited("worker", KILLED, 3.0), ev.Exited("ps", KILLED, 3.0)])
    assert state.phase is Phase.PUBLISHING


def test_an_expiry_that_was_disarmed_while_it_waited_is_none() -> None:
    """The hold's timer had fired behind the master's ENDED: the script was asked a second time."""
    ended = ev.JobChanged(
        JobState.ENDED,
        Verdict(Outcome.STOPPED, Cause(CauseKind.STOP_REQUESTED, "algo-2", "received SIGTERM"), 0),
    )
    state, actions = play(member(), [*RUNNING_MEMBER, ev.Signalled(15, 1.0), ended])
    assert essentials(actions) == [ev.Send("worker", signal.SIGTERM)]
    assert play(state, [ev.Expired(ev.Deadline.HOLD, 97.0)]) == (state, [])


def test_a_second_stop_signal_while_publishing_leaves_at_once() -> None:
    finished = [*RUNNING_MASTER, ev.Exited("chief", OK, 1.0), ev.Exited("ps", TERMED, 2.0)]
    state, _ = play(master(), [*finished, ev.Signalled(15, 3.0)])
    assert state.phase is Phase.PUBLISHING, "the first only counts the time"
    assert ev.Deadline.LIMIT in state.armed
    state, actions = play(state, [ev.Signalled(15, 4.0)])
    assert (state.phase, essentials(actions)) == (Phase.DONE, [ev.Record()])


def test_a_stop_between_the_order_to_start_and_the_start() -> None:
    """The signal must not miss a process whose start was ordered and not yet confirmed."""
    state, actions = play(alone(), [ev.Prepared(), ev.Signalled(15, 1.0), ev.Started("chief", 7)])
    assert state.phase is Phase.DRAINING
    _, actions = play(alone(), [ev.Prepared(), ev.Signalled(15, 1.0)])
    assert ev.Send("chief", signal.SIGTERM) in actions
    failed = ev.StartFailed("chief", 127, "no such file: ./train", 2.0)
    state, _ = play(state, [failed, ev.Published(None)])
    assert state.phase is Phase.DONE
    assert state.cause is not None
    assert state.cause.kind is CauseKind.STOP_REQUESTED


def test_what_is_suspended_is_resumed_for_its_end() -> None:
    """A leader that saves a checkpoint waits for its helpers; the chief for this host's servers."""
    for first, running, names in (
        (alone(), RUNNING_ALONE, ["chief"]),
        (member(), RUNNING_MEMBER, ["ps", "worker"]),
    ):
        state, actions = play(first, [*running, ev.Signalled(signal.SIGTSTP, 1.0)])
        assert actions == [ev.Suspend(name) for name in names]
        state, actions = play(state, [ev.Signalled(signal.SIGTERM, 2.0)])
        resumed = [a for a in actions if isinstance(a, ev.Resume | ev.Send)]
        assert resumed[: len(names)] == [ev.Resume(name) for name in names]
        state, actions = play(state, [ev.Signalled(signal.SIGTSTP, 3.0)])
        assert actions == [], "there is no time for a pause on the way down"
        state, actions = play(state, [ev.Signalled(signal.SIGCONT, 3.0)])
        assert actions == [ev.Resume(name) for name in names]


def test_what_is_not_running_yet_is_not_suspended() -> None:
    state, actions = play(alone(), [ev.Signalled(signal.SIGTSTP, 1.0)])
    assert actions == []
    state, actions = play(state, [ev.Prepared(), ev.Signalled(signal.SIGTERM, 2.0)])
    assert not [a for a in actions if isinstance(a, ev.Resume)]


def test_the_last_words_of_a_stopped_script_are_kept() -> None:
    saved = ev.Exited("chief", ExitStatus(code=42), 2.0, "checkpoint saved; exit 42")
    state, _ = play(alone(), [*RUNNING_ALONE, ev.Signalled(15, 1.0), saved, ev.Published(None)])
    assert state.processes[0].message == "checkpoint saved; exit 42"
    assert _code(state) == 42


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH])
def test_other_signals_are_passed_on_and_stop_nothing(signum: int) -> None:
    state, actions = play(member(), [*RUNNING_MEMBER, ev.Signalled(signum, 1.0)])
    assert (state.phase, actions) == (Phase.RUNNING, [ev.Send("worker", signum)])
    to_all = ev.Signalled(signum, 2.0, everywhere=True)
    assert play(state, [to_all]) == (state, [ev.Had("worker", signum)])


def test_a_lost_master_releases_and_fails_its_members() -> None:
    lost = ev.MasterLost("crashed", "connection refused 5 times in 1.2 s", 3.0)
    state, actions = play(member(), [*RUNNING_MEMBER, lost])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.MASTER_LOST
    assert essentials(actions) == [ev.Send("worker", signal.SIGTERM)], "nobody is left to hold for"
    state, _ = play(
        state, [ev.Exited("worker", TERMED, 4.0), ev.Exited("ps", TERMED, 4.0), ev.Published(None)]
    )
    assert _code(state) == 83


def test_a_lost_member_fails_the_job() -> None:
    state, _ = play(master(), [*RUNNING_MASTER, ev.MemberLost("algo-3", "silent for 30 s", 9.0)])
    assert state.cause is not None
    assert str(state.cause) == "algo-3: lost: silent for 30 s"
    state, _ = play(
        state,
        [ev.Exited("chief", TERMED, 1), ev.Exited("ps", TERMED, 1), ev.Published(None), DOWN[0]],
    )
    assert state.phase is Phase.DONE, "a lost member is not waited for"


def test_a_host_that_is_lost_while_all_join_is_waited_for_again() -> None:
    """Nothing has been started: a container that is killed may be started anew."""
    lost = ev.MemberLost("algo-2", "restarted: its supervisor was started anew", 1.0)
    orders: tuple[list[ev.Event], ...] = (
        [ev.Prepared(), joined("algo-2")],
        [joined("algo-2"), ev.Prepared()],
    )
    for before in orders:
        state, actions = play(master(), [*before, lost])
        assert (state.phase, state.cause) == (Phase.JOINING, None)
        assert state.missing == ("algo-2", "algo-3")
        assert ev.Announce(JobState.JOINING, missing=("algo-2", "algo-3")) in actions
        state, _ = play(state, [joined("algo-3"), joined("algo-2", Phase.PREPARING)])
        assert state.phase is Phase.JOINING, "the new one has not joined yet"
        state, _ = play(state, [joined("algo-2")])
        assert state.phase is Phase.RUNNING
    state, _ = play(master(), [lost, joined("algo-2"), ev.Prepared()])
    assert state.missing == ("algo-3",)


def test_a_master_that_is_lost_while_all_join_is_waited_for_again() -> None:
    """Members ended with 83, and a master that was started anew had nobody to wait for."""
    lost = ev.MasterLost("crashed", "algo-1:2224 refuses connections", 1.0, final=False)
    waiting: list[ev.Event] = [ev.Prepared(), ev.JobChanged(JobState.JOINING, None, ("algo-3",))]
    state, actions = play(member(), [*waiting, lost])
    assert (state.phase, state.cause) == (Phase.JOINING, None)
    assert said(actions) == {"master.lost": "algo-1"}
    late, _ = play(state, [ev.Expired(ev.Deadline.JOIN, 902.0)])
    assert late.cause is not None, "no longer one that is heard from"
    assert late.cause.kind is CauseKind.JOIN_TIMEOUT
    state, _ = play(state, [*waiting[1:], ev.JobChanged(JobState.RUNNING, None)])
    assert state.phase is Phase.RUNNING
    state, _ = play(state, [ev.MasterLost("restarted", "another run answers", 1.0)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.MASTER_LOST
    assert state.cause.message == "the master algo-1 restarted: another run answers"


def test_a_host_that_the_master_refuses_ends_by_itself() -> None:
    refused = ev.MasterLost(
        How.REFUSES.value, "algo-1:2224: algo-2 is of job a, the master of job b", 1.0
    )
    for before in range(2):
        state, actions = play(member(), [*[ev.Prepared()] * before, refused])
        assert state.cause is not None
        assert (state.cause.kind, state.cause.host) == (CauseKind.REFUSED, "algo-2")
        assert state.phase is Phase.DONE
        assert not [action for action in actions if isinstance(action, ev.Start)]
        assert _code(state) == 82
    state, _ = play(member(), [*RUNNING_MEMBER, refused])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.MASTER_LOST
    assert state.phase is Phase.DRAINING


def test_only_hosts_that_were_heard_are_waited_for_at_the_end() -> None:
    """A master that was stopped while joining waited 15 s for members that had never come."""
    lost: list[ev.Event] = [ev.Prepared(), joined("algo-3"), ev.MemberLost("algo-3", "x", 1)]
    ends: tuple[list[ev.Event], ...] = (
        [ev.Prepared(), joined("algo-2"), ev.Signalled(15, 1.0)],
        [ev.Prepared(), joined("algo-2"), ev.Expired(ev.Deadline.JOIN, 900.0)],
        [joined("algo-2", Phase.PREPARING), ev.PrepareFailed("no space", 1.0)],
        [*lost, joined("algo-2"), ev.Signalled(15, 1.0)],
    )
    for events in ends:
        state, _ = play(master(), events)
        assert state.job is JobState.ENDED, "and those are told"
        assert state.phase is Phase.PUBLISHING
        assert ev.Deadline.ACK in state.armed
        late, actions = play(state, [ev.Expired(ev.Deadline.ACK, 30.0)])
        assert said(actions)["members.late"] == ["algo-2"]
        assert late.phase is Phase.DONE
        state, _ = play(state, [joined("algo-2", Phase.DONE)])
        state, _ = play(state, [ev.Expired(each, 3.0) for each in state.armed & {ev.Deadline.LATE}])
        assert state.phase is Phase.DONE
    state, _ = play(master(), [ev.Prepared(), ev.Signalled(15, 1.0)])
    assert state.phase is Phase.DONE, "nobody has come"


def test_hosts_that_are_just_starting_are_told_of_a_failure() -> None:
    """Hosts start together: one whose master had failed a moment before it came would wait for
    its whole join timeout."""
    failed = ev.PrepareFailed("no space", 1.0)
    state, actions = play(master(), [failed])
    assert ev.Arm(ev.Deadline.LATE, LATE_S) in actions
    told, _ = play(state, [joined("algo-2", Phase.DONE), joined("algo-3", Phase.DONE)])
    assert (told.phase, len(told.armed)) == (Phase.DONE, 0)
    for end in (ev.Expired(ev.Deadline.LATE, 3.0), ev.Signalled(15, 2.0)):
        state, _ = play(master(), [failed, end])
        assert state.phase is Phase.DONE, "and not for long"


def test_where_nothing_was_started_nothing_is_published() -> None:
    """SIGTERM and SIGINT while joining were 87, results could not be sent, of a job that had
    none."""
    for start in (alone(), master(), member()):
        steps, _ = play(with_steps(start), [ev.Prepared(), ev.Signalled(15, 1.0)])
        state, actions = play(steps, [ev.Exited("requirements", TERMED, 2.0)])
        assert not [action for action in actions if isinstance(action, ev.Publish)]
        assert (state.publishing_settled, state.publish_error) == (True, None)
    state, _ = play(master(), [ev.Prepared(), joined("algo-2"), ev.Signalled(15, 1.0)])
    state, _ = play(state, [ev.Signalled(2, 1.0)])
    assert (state.phase, state.publish_error) == (Phase.DONE, None)


def test_joining_times_out_naming_who_is_missing() -> None:
    state, actions = play(
        master(), [ev.Prepared(), joined("algo-3"), ev.Expired(ev.Deadline.JOIN, 900.0)]
    )
    assert state.cause is not None
    assert "algo-2" in state.cause.message
    assert "algo-3" not in state.cause.message
    assert not [action for action in actions if isinstance(action, ev.Start)]


def test_the_master_tells_members_who_is_missing() -> None:
    _, actions = play(master(), [ev.Prepared(), joined("algo-2")])
    assert essentials(actions) == [ev.Announce(JobState.JOINING, missing=("algo-3",))]


def test_joining_says_why_a_host_is_missing_and_so_does_the_error() -> None:
    reasons = ev.Waiting((("algo-2", "DNS"), ("algo-3", "no answer on 2224")))
    state, actions = play(master(), [ev.Prepared(), reasons])
    assert said(actions) == {"joining.waiting": "algo-2 (DNS), algo-3 (no answer on 2224)"}
    state, _ = play(state, [joined("algo-2"), ev.Expired(ev.Deadline.JOIN, 900.0)])
    assert state.cause is not None
    assert (
        state.cause.message == "joining timed out after 900 s, waiting for algo-3 "
        "(no answer on 2224)"
    )
    below, _ = play(member(), [ev.Prepared(), ev.Waiting((("algo-1", "refuses the token"),))])
    below, _ = play(below, [ev.Expired(ev.Deadline.JOIN, 900.0)])
    assert below.cause is not None
    assert below.cause.message.endswith("waiting for algo-1 (refuses the token)")
    assert play(below, [reasons])[0] == below, "nobody is waited for any more"


def test_a_thousand_missing_hosts_make_one_line() -> None:
    hosts = tuple(f"algo-{number}" for number in range(1, 1001))
    state = with_policy(master(), hosts=hosts)
    state, _ = play(state, [ev.Prepared(), ev.Expired(ev.Deadline.JOIN, 900.0)])
    assert state.cause is not None
    assert state.cause.message.endswith("algo-11 (not heard from) and 989 more")


def test_a_share_of_all_scripts_is_enough() -> None:
    state = with_policy(master(SuccessPolicy.SHARE), success_share=0.5)
    state, _ = play(state, [*RUNNING_MASTER, joined("algo-2", script_ended=True)])
    assert state.phase is Phase.RUNNING, "1 of 3 is less than a half"
    state, actions = play(state, [joined("algo-3", script_ended=True)])
    assert ev.Send("chief", signal.SIGTERM) in actions, "what still runs is stopped"
    assert state.cause is not None
    assert state.cause.message == "2 of 3 scripts ended with 0"
    state, _ = play(state, [ev.Exited("chief", TERMED, 2.0), ev.Exited("ps", TERMED, 2.0)])
    state, _ = play(state, [ev.Published(None), *DOWN])
    assert _code(state) == 0


def test_stragglers_are_stopped_and_the_job_has_succeeded() -> None:
    state = with_policy(master(SuccessPolicy.ALL), straggler_s=60)
    state, actions = play(state, [*RUNNING_MASTER, joined("algo-2", script_ended=True)])
    assert ev.Deadline.STRAGGLER not in state.armed
    state, actions = play(state, [ev.Exited("chief", OK, 1.0)])
    assert ev.Arm(ev.Deadline.STRAGGLER, 60) in actions
    state, actions = play(state, [ev.Expired(ev.Deadline.STRAGGLER, 61.0)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.FINISHED
    assert state.cause.message == "finished, exit 0; not waited for after 60 s: algo-3"


WORKER_FAILED = Cause(CauseKind.SCRIPT_FAILED, "algo-2", "ValueError: boom", "worker", ONE)


def test_a_tolerated_worker_keeps_its_server_and_leaves_the_end_to_the_master() -> None:
    state = with_policy(member(), tolerated_failures=1)
    state, actions = play(
        state, [*RUNNING_MEMBER, ev.Exited("worker", ONE, 1.0, "ValueError: boom")]
    )
    assert (state.phase, essentials(actions)) == (Phase.RUNNING, [])
    cause = state.tolerated[0]
    assert ev.Report(Phase.RUNNING, False, cause) in actions
    finished = Cause(CauseKind.FINISHED, "algo-1", "finished, exit 0", "chief", OK)
    ended = ev.JobChanged(JobState.ENDED, Verdict(Outcome.SUCCEEDED, finished, 0))
    state, actions = play(state, [ended])
    assert essentials(actions) == [ev.Send("ps", signal.SIGTERM)]
    assert _code(state) == 0, "a platform fails the whole job for one exit that is not 0"

    with_server = play(with_policy(member(), tolerated_failures=1), RUNNING_MEMBER)[0]
    state, _ = play(with_server, [ev.Exited("ps", KILLED, 1.0)])
    assert state.phase is Phase.DRAINING, "a parameter server is never tolerated"


def test_a_worker_server_counts_as_a_worker() -> None:
    """It ended the job as a parameter server does, though TensorFlow's coordinator goes on without
    it: it holds no variables."""
    setup = replace(member().setup, tolerated_failures=1, scriptless=("algo-2", "algo-3"))
    servers = (Process("ps", server=True), Process("worker", server=True))
    state, actions = play(
        initial(setup, servers), [*RUNNING_MEMBER, ev.Exited("worker", KILLED, 1.0, "killed")]
    )
    assert (state.phase, essentials(actions)) == (Phase.RUNNING, [])
    (cause,) = state.tolerated
    assert cause.kind is CauseKind.ESSENTIAL_DIED
    chief = with_policy(master(), tolerated_failures=1, scriptless=("algo-2", "algo-3"))
    report = joined("algo-2", Phase.RUNNING, cause=cause)
    chief, actions = play(chief, [*RUNNING_MASTER, report])
    assert chief.phase is Phase.RUNNING
    assert said(actions)["failure.tolerated"] == "algo-2"
    second = joined("algo-3", Phase.RUNNING, cause=replace(cause, host="algo-3"))
    assert play(chief, [second])[0].phase is Phase.DRAINING
    strict = with_policy(master(), scriptless=("algo-2", "algo-3"))
    assert play(strict, [*RUNNING_MASTER, report])[0].cause == cause
    sshd = replace(cause, process="sshd")
    assert play(chief, [joined("algo-2", Phase.RUNNING, cause=sshd)])[0].phase is Phase.DRAINING


def test_as_many_workers_as_the_policy_says_may_fail() -> None:
    state = with_policy(master(), tolerated_failures=1)
    report = joined("algo-2", Phase.RUNNING, cause=WORKER_FAILED)
    state, actions = play(state, [*RUNNING_MASTER, report])
    assert state.phase is Phase.RUNNING
    assert said(actions)["failure.tolerated"] == "algo-2"
    state, _ = play(state, [report])
    assert state.tolerated == (WORKER_FAILED,), "told twice is one failure"
    second = replace(WORKER_FAILED, host="algo-3", message="ValueError: bang")
    failed, _ = play(state, [joined("algo-3", Phase.RUNNING, cause=second)])
    assert failed.cause == second
    for fatal in (
        ev.Exited("chief", ONE, 2.0),
        ev.Exited("ps", KILLED, 2.0),
        joined("algo-2", cause=replace(WORKER_FAILED, kind=CauseKind.ESSENTIAL_DIED, process="ps")),
        ev.MemberLost("algo-2", "silent", 2.0),
    ):
        ended, _ = play(state, [fatal])
        assert ended.phase is Phase.DRAINING, fatal


def test_a_lost_host_is_tolerated_where_it_took_no_parameter_server_with_it() -> None:
    state = with_policy(master(SuccessPolicy.ALL), tolerated_failures=1)
    state, _ = play(state, [*RUNNING_MASTER, ev.MemberLost("algo-3", "silent", 2.0)])
    assert state.phase is Phase.RUNNING
    state, _ = play(state, [ev.Exited("chief", OK, 3.0), joined("algo-2", script_ended=True)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.FINISHED, "all that are left have ended with 0"


def test_a_failure_that_puts_the_share_out_of_reach_is_not_tolerated() -> None:
    state = with_policy(master(SuccessPolicy.SHARE), success_share=0.9, tolerated_failures=2)
    state, _ = play(state, [*RUNNING_MASTER, joined("algo-2", Phase.RUNNING, cause=WORKER_FAILED)])
    assert state.cause == WORKER_FAILED


VICTIM = "UnavailableError: Socket closed (train.py:9); exit 1 after 9 s"


def test_the_lost_host_is_named_and_not_the_chief_that_died_of_it() -> None:
    state, actions = play(master(), [*RUNNING_MASTER, ev.Exited("chief", ONE, 1.0, VICTIM)])
    assert state.phase is Phase.RUNNING
    assert [type(action) for action in actions if isinstance(action, ev.Arm)] == [ev.Arm]
    lost, _ = play(state, [ev.MemberLost("algo-3", "crashed: refused", 2.1)])
    assert lost.cause is not None
    assert (lost.cause.kind, lost.cause.host) == (CauseKind.MEMBER_LOST, "algo-3")
    assert [cause.message for cause in lost.also] == [VICTIM]
    killed = replace(WORKER_FAILED, kind=CauseKind.ESSENTIAL_DIED, process="ps")
    died, _ = play(state, [joined("algo-2", Phase.DRAINING, cause=killed)])
    assert died.cause == killed
    alone_in_it, _ = play(state, [ev.Expired(ev.Deadline.SETTLE, 3.0)])
    assert alone_in_it.cause is not None
    assert alone_in_it.cause.message == VICTIM
    assert alone_in_it.also == ()


def test_a_worker_that_dies_of_the_chiefs_end_does_not_fail_the_job() -> None:
    state, actions = play(member(), [*RUNNING_MEMBER, ev.Exited("worker", ONE, 1.0, VICTIM)])
    assert state.phase is Phase.RUNNING
    suspect = state.suspect
    assert suspect is not None
    assert ev.Report(Phase.RUNNING, False, suspect) in actions
    above, _ = play(master(), [*RUNNING_MASTER, joined("algo-2", Phase.RUNNING, cause=suspect)])
    assert above.phase is Phase.RUNNING
    above, _ = play(above, [ev.Exited("chief", OK, 1.1)])
    assert above.verdict is not None
    assert above.verdict.outcome is Outcome.SUCCEEDED
    state, _ = play(state, [ev.JobChanged(JobState.ENDED, above.verdict)])
    assert state.cause == above.cause
    crashed, _ = play(member(), [*RUNNING_MEMBER, ev.Exited("worker", ONE, 1.0, VICTIM)])
    crashed, _ = play(crashed, [ev.MasterLost("crashed", "refused", 2.0)])
    assert crashed.cause is not None
    assert crashed.cause.kind is CauseKind.MASTER_LOST


def test_later_failures_are_noted_beside_the_cause() -> None:
    state, _ = play(master(), [*RUNNING_MASTER, ev.Exited("chief", ONE, 1.0, "ValueError: boom")])
    state, actions = play(state, [joined("algo-2", Phase.DRAINING, cause=WORKER_FAILED)])
    assert state.also == (WORKER_FAILED,)
    assert "failure.also" in said(actions)
    assert state.cause != WORKER_FAILED


SUCCESS = Verdict(
    Outcome.SUCCEEDED, Cause(CauseKind.FINISHED, "algo-1", "finished, exit 0", "chief", OK), 0
)


def test_the_evaluator_may_finish_after_the_verdict() -> None:
    running, _ = play(evaluator(), RUNNING_MEMBER)
    state, actions = play(running, [ev.JobChanged(JobState.ENDED, SUCCESS)])
    assert (state.phase, essentials(actions)) == (Phase.DRAINING, [])
    assert ev.Arm(ev.Deadline.HOLD, 60) in actions
    assert ev.Arm(ev.Deadline.LIMIT, 160) in actions
    done, actions = play(state, [ev.Exited("evaluator", OK, 9.0)])
    assert essentials(actions) == [ev.Publish()]
    late, actions = play(state, [ev.Expired(ev.Deadline.HOLD, 61.0)])
    assert essentials(actions) == [ev.Send("evaluator", signal.SIGTERM)]
    stopped, actions = play(state, [ev.Signalled(15, 5.0)])
    assert essentials(actions) == [ev.Send("evaluator", signal.SIGTERM)]
    assert ev.Arm(ev.Deadline.LIMIT, 100) in actions
    for state in (done, late, stopped):
        assert state.cause == SUCCESS.cause
    failed = replace(SUCCESS, outcome=Outcome.FAILED, cause=WORKER_FAILED)
    state, actions = play(running, [ev.JobChanged(JobState.ENDED, failed)])
    assert essentials(actions) == [ev.Send("evaluator", signal.SIGTERM)]


def test_nobody_waits_for_the_evaluators_script_and_the_master_serves_it_longer() -> None:
    state = with_policy(master(SuccessPolicy.ALL), evaluator="algo-3", evaluator_grace_s=60)
    state, _ = play(state, [*RUNNING_MASTER, joined("algo-2", script_ended=True)])
    state, actions = play(state, [ev.Exited("chief", OK, 1.0)])
    assert state.job is JobState.ENDED
    assert ev.Arm(ev.Deadline.ACK, 90) in actions


def test_a_stop_before_anything_runs_starts_nothing() -> None:
    for state in (alone(), master(), member()):
        stopped, actions = play(state, [ev.Signalled(15, 1.0), ev.Prepared()])
        assert stopped.phase is Phase.DONE, "there is nothing to send and nobody to wait for"
        assert not [action for action in actions if isinstance(action, ev.Start | ev.Publish)]


def test_a_member_that_is_late_gets_the_verdict() -> None:
    cause = Cause(CauseKind.FINISHED, "algo-1", "finished, exit 0", "chief", OK)
    ended = ev.JobChanged(JobState.ENDED, Verdict(Outcome.SUCCEEDED, cause, 0))
    state, _ = play(member(), [ended, ev.Published(None)])
    assert state.phase is Phase.DONE
    assert _code(state) == 0


def test_a_bare_master_is_the_barrier_and_its_closed_port_the_end() -> None:
    state, actions = play(member(), [ev.Prepared(), ev.MasterSeen(bare=True)])
    assert essentials(actions) == [ev.Start("ps"), ev.Start("worker")]
    state, actions = play(state, [ev.MasterEnded("refused", 7.0)])
    assert essentials(actions) == [ev.Send("worker", signal.SIGTERM)]
    assert state.verdict is not None
    assert state.verdict.cause.kind is CauseKind.MASTER_ENDED


def test_success_of_all_waits_for_every_script() -> None:
    state, _ = play(master(SuccessPolicy.ALL), [*RUNNING_MASTER, ev.Exited("chief", OK, 1.0)])
    assert state.phase is Phase.RUNNING
    state, _ = play(state, [joined("algo-2", Phase.RUNNING, script_ended=True)])
    assert state.phase is Phase.RUNNING
    state, _ = play(state, [joined("algo-3", Phase.RUNNING, script_ended=True)])
    assert state.phase is Phase.DRAINING


def test_a_program_that_cannot_be_executed_is_the_cause() -> None:
    state, _ = play(
        master(), [*RUNNING_MASTER, ev.StartFailed("chief", 127, "no such file: ./train", 1.0)]
    )
    assert state.cause is not None
    assert state.cause.kind is CauseKind.START_FAILED
    state, _ = play(state, [ev.Exited("ps", TERMED, 2.0), ev.Published(None), *DOWN])
    assert _code(state) == 127


def test_publishing_has_a_bound_of_its_own() -> None:
    state, _ = play(alone(), [*RUNNING_ALONE, ev.Exited("chief", OK, 1.0)])
    state, _ = play(state, [ev.Expired(ev.Deadline.PUBLISH, 20.0)])
    assert state.phase is Phase.DONE
    assert _code(state) == 87


def test_after_a_stop_publishing_has_what_the_limit_leaves_and_then_its_own_share() -> None:
    stopped: list[ev.Event] = [*RUNNING_ALONE, ev.Signalled(15, 1.0)]
    state, actions = play(alone(), [*stopped, ev.Exited("chief", OK, 3.0)])
    assert essentials(actions) == [ev.Publish()]
    assert state.armed == {ev.Deadline.LIMIT}, "the script took 2 of its 90 s: the rest is ours"
    state, actions = play(state, [ev.Expired(ev.Deadline.LIMIT, 101.0)])
    assert actions == [ev.Arm(ev.Deadline.PUBLISH, BUDGETS.publish_s)]
    state, _ = play(state, [ev.Expired(ev.Deadline.PUBLISH, 116.0)])
    assert (state.phase, _code(state)) == (Phase.DONE, 87), "0 would say that nothing is lost"
    state, _ = play(
        alone(), [*stopped, ev.Expired(ev.Deadline.LIMIT, 101.0), ev.Exited("chief", OK, 102.0)]
    )
    assert state.armed == {ev.Deadline.PUBLISH}, "killed at the limit: the share is kept free"


def test_a_stop_while_publishing_ends_the_ample_time() -> None:
    state, actions = play(alone(), [*RUNNING_ALONE, ev.Exited("chief", OK, 1.0)])
    assert ev.Arm(ev.Deadline.PUBLISH, BUDGETS.publish_end_s) in actions
    state, _ = play(state, [ev.Signalled(15, 2.0)])
    assert state.armed == {ev.Deadline.LIMIT}


def test_a_transfer_that_the_job_needs_ends_it() -> None:
    state, actions = play(alone(), [*RUNNING_ALONE, ev.TransferFailed("checkpoints: denied", 1.0)])
    assert essentials(actions) == [ev.Send("chief", signal.SIGTERM)]
    state, _ = play(state, [ev.Exited("chief", TERMED, 2.0), ev.Published(None)])
    assert (state.phase, _code(state)) == (Phase.DONE, 87)


def test_a_run_whose_checkpoints_another_one_has_claimed_ends() -> None:
    fenced = ev.TransferFailed("fenced: …", 1.0, fenced=True)
    state, actions = play(replace(alone(), restarts=True), [*RUNNING_ALONE, fenced])
    assert essentials(actions) == [ev.Send("chief", signal.SIGTERM)]
    state, _ = play(state, [ev.Exited("chief", TERMED, 2.0), ev.Published("unsent", fenced=True)])
    assert state.cause is not None
    assert (state.phase, state.cause.kind, _code(state)) == (Phase.DONE, CauseKind.FENCED, 89)


def test_a_loss_that_is_no_number_ends_the_job_and_is_not_tried_again() -> None:
    diverged = ev.Diverged("chief", "the loss is nan at step 12", 1.0)
    state, actions = play(replace(alone(), restarts=True), [*RUNNING_ALONE, diverged])
    assert essentials(actions) == [ev.Send("chief", signal.SIGTERM)]
    state, _ = play(state, [diverged, ev.Exited("chief", TERMED, 2.0), ev.Published(None)])
    assert state.cause is not None
    assert (state.phase, state.cause.kind, _code(state)) == (Phase.DONE, CauseKind.DIVERGED, 91)
    assert not restartable(state.cause)


def test_what_was_fetched_may_bring_further_steps() -> None:
    fetching = initial(alone().setup, (Process("fetch", False, step=True), Process("chief", False)))
    state, _ = play(fetching, [ev.Prepared(), ev.Replanned(("requirements",))])
    state, actions = play(state, [ev.Exited("fetch", OK, 1.0)])
    assert (state.phase, essentials(actions)) == (Phase.PREPARING, [ev.Start("requirements")])
    _, actions = play(state, [ev.Exited("requirements", OK, 2.0)])
    assert essentials(actions) == [ev.Start("chief")]


def test_hosts_that_are_heard_from_and_prepare_are_waited_for_longer() -> None:
    preparing = [joined("algo-2"), joined("algo-3", Phase.PREPARING)]
    state, actions = play(
        master(), [ev.Prepared(), *preparing, ev.Expired(ev.Deadline.JOIN, 900.0)]
    )
    assert (state.phase, said(actions)) == (
        Phase.JOINING,
        {"joining.extended": "algo-3 (not heard from)"},
    )
    assert ev.Arm(ev.Deadline.JOIN, BUDGETS.prepare_s) in actions
    late, _ = play(state, [joined("algo-3")])
    assert late.phase is Phase.RUNNING
    state, _ = play(state, [ev.Expired(ev.Deadline.JOIN, 1500.0)])
    assert state.cause is not None, "and not for ever"
    assert "timed out after 1500 s, waiting for algo-3" in state.cause.message


def test_a_member_leaves_it_to_a_master_that_it_hears_who_is_waited_for() -> None:
    waiting: list[ev.Event] = [ev.Prepared(), ev.JobChanged(JobState.JOINING, None, ("algo-3",))]
    state, actions = play(member(), [*waiting, ev.Expired(ev.Deadline.JOIN, 902.0)])
    assert ev.Arm(ev.Deadline.JOIN, BUDGETS.prepare_s) in actions
    state, _ = play(member(), [ev.Prepared(), ev.Expired(ev.Deadline.JOIN, 902.0)])
    assert state.cause is not None, "nobody was heard: the master will not say it"


def test_steps_run_one_after_the_other_before_the_barrier() -> None:
    state, actions = play(with_steps(alone()), [ev.Prepared()])
    assert (state.phase, essentials(actions)) == (Phase.PREPARING, [ev.Start("requirements")])
    assert ev.Arm(ev.Deadline.PREPARE, BUDGETS.prepare_s) in actions
    state, actions = play(state, [ev.Exited("requirements", OK, 1.0)])
    assert (state.phase, essentials(actions)) == (Phase.PREPARING, [ev.Start("package")])
    assert ev.Deadline.PREPARE in state.armed
    state, actions = play(state, [ev.Exited("package", OK, 2.0)])
    assert (state.phase, essentials(actions)) == (Phase.RUNNING, [ev.Start("chief")])
    assert not state.armed
    assert state.script_status is None, "a step's exit 0 is not the script's"
    state, _ = play(state, [ev.Exited("chief", OK, 3.0), ev.Published(None)])
    assert state.cause is not None
    assert state.cause.process == "chief"


def test_a_step_that_fails_ends_preparing_with_its_words() -> None:
    failed = ev.Exited("requirements", ONE, 1.0, "tensorflow==2.15 would replace …; exit 1")
    for start in (alone(), master(), member()):
        state, actions = play(with_steps(start), [ev.Prepared(), failed])
        assert state.cause is not None
        assert (state.cause.kind, state.cause.message) == (
            CauseKind.PREPARE_FAILED,
            failed.message,
        )
        assert not [action for action in actions if isinstance(action, ev.Start)]
        state, _ = play(state, [ev.Published(None), *DOWN])
        assert state.phase is Phase.DONE
        assert _code(state) == 81


def test_a_step_that_cannot_be_executed_is_a_failed_preparation() -> None:
    missing = ev.StartFailed("requirements", 127, "no such file", 1.0)
    state, _ = play(with_steps(alone()), [ev.Prepared(), missing, ev.Published(None)])
    assert _code(state) == 81


def test_a_stop_while_preparing_goes_down_the_ladder() -> None:
    for start in (alone(), master(), member()):
        state, actions = play(with_steps(start), [ev.Prepared(), ev.Signalled(15, 1.0)])
        assert ev.Send("requirements", signal.SIGTERM) in actions, "there is nothing to hold for"
        state, actions = play(state, [ev.Expired(ev.Deadline.GRACE, 91.0)])
        assert ev.Send("requirements", signal.SIGTERM, whole_group=True) in actions
        state, actions = play(state, [ev.Expired(ev.Deadline.GROUP, 94.0)])
        assert ev.KillTree("requirements") in actions
        state, actions = play(state, [ev.Exited("requirements", KILLED, 95.0)])
        assert not [action for action in actions if isinstance(action, ev.Start)]
        state, _ = play(state, [ev.Published(None), *DOWN])
        assert state.phase is Phase.DONE


def test_steps_have_a_deadline_and_get_no_signals_of_the_script() -> None:
    state, actions = play(with_steps(alone()), [ev.Prepared(), ev.Signalled(signal.SIGUSR1, 1.0)])
    assert actions == []
    state, actions = play(state, [ev.Expired(ev.Deadline.PREPARE, 600.0)])
    assert essentials(actions) == [ev.Send("requirements", signal.SIGTERM)]
    assert state.cause is not None
    assert state.cause.kind is CauseKind.PREPARE_FAILED
    assert "SUPERVISOR_PREPARE_TIMEOUT_S" in state.cause.message


def said(actions: Iterable[ev.Action]) -> dict[str, object]:
    """The log lines: event → the value of its first field."""
    return {
        action.event: action.fields[0][1] if action.fields else None
        for action in actions
        if isinstance(action, ev.Say)
    }


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


# --------------------------------------------------------------------------- one checkpoint for all

NEW, OLD = "generation 000008-0badcafe -", "generation 000007-0badcafe -"
SAME = {"agreement": "same"}


def decisions(actions: Iterable[ev.Action]) -> list[ev.Action]:
    return [a for a in actions if isinstance(a, ev.Start | ev.Announce | ev.Restore | ev.Report)]


def prepared(state: State, holds: str) -> State:
    return play(state, [ev.Replanned((), holds), ev.Prepared()])[0]


def test_hosts_that_hold_the_same_checkpoint_run() -> None:
    state = prepared(with_policy(master(), **SAME), NEW)
    _, actions = play(state, [joined("algo-2", holds=NEW), joined("algo-3", holds=NEW)])
    assert decisions(actions)[0] == ev.Announce(JobState.RUNNING)


def test_hosts_that_differ_restore_what_the_newest_holds_before_any_script_starts() -> None:
    """The chief resumed at epoch 3, the worker began at 0, and the collectives mismatched."""
    state = prepared(with_policy(master(), **SAME), NEW)
    events = [joined("algo-2", holds="nothing - -"), joined("algo-3", holds=OLD)]
    state, actions = play(state, events)
    assert decisions(actions) == [ev.Announce(JobState.JOINING, restore="000008-0badcafe")]
    assert said(actions)["checkpoints.differ"] == (
        "algo-2: no checkpoint; algo-3: checkpoint 000007-0badcafe; "
        "algo-1: checkpoint 000008-0badcafe"
    )
    state, actions = play(state, [joined("algo-2", holds=NEW)])
    assert not essentials(actions), "algo-3 is not there yet"
    _, actions = play(state, [joined("algo-3", holds=NEW)])
    assert decisions(actions)[0] == ev.Announce(JobState.RUNNING)


def test_the_master_restores_too_where_another_holds_a_newer_one() -> None:
    """A straggler of an earlier attempt published one between their looks."""
    state = prepared(with_policy(master(), **SAME), OLD)
    state, actions = play(state, [joined("algo-2", holds=NEW), joined("algo-3", holds=NEW)])
    assert decisions(actions) == [
        ev.Announce(JobState.JOINING, restore="000008-0badcafe"),
        ev.Restore("000008-0badcafe"),
    ]
    state, actions = play(state, [ev.Replanned(("restore",)), ev.Prepared()])
    assert essentials(actions) == [ev.Start("restore")]
    assert state.phase is Phase.JOINING
    state, actions = play(state, [ev.Replanned((), NEW)])
    assert not essentials(actions), "no script beside the step"
    _, actions = play(state, [ev.Exited("restore", OK, 2.0)])
    assert essentials(actions) == [ev.Announce(JobState.RUNNING), ev.Start("ps"), ev.Start("chief")]


def test_a_member_restores_what_the_master_names_and_reports_it() -> None:
    state = prepared(member(), OLD)
    state, actions = play(state, [ev.JobChanged(JobState.JOINING, None, (), "000008-0badcafe")])
    assert decisions(actions) == [ev.Restore("000008-0badcafe")]
    state, actions = play(state, [ev.Replanned(("restore",)), ev.Prepared()])
    assert decisions(actions) == [ev.Start("restore")]
    # The master may hear of it, and run, before the end of the step is seen here.
    state, actions = play(state, [ev.Replanned((), NEW)])
    assert decisions(actions) == [
        ev.Report(Phase.JOINING, script_ended=False, cause=None, holds=NEW)
    ]
    state, actions = play(state, [ev.JobChanged(JobState.RUNNING, None)])
    assert not essentials(actions)
    state, actions = play(state, [ev.Exited("restore", OK, 2.0)])
    assert essentials(actions) == [ev.Start("ps"), ev.Start("worker")]


def test_a_member_that_holds_it_does_nothing_when_it_is_named() -> None:
    state = prepared(member(), NEW)
    _, actions = play(state, [ev.JobChanged(JobState.JOINING, None, (), "000008-0badcafe")])
    assert not decisions(actions)


def test_a_checkpoint_that_cannot_be_restored_fails_the_job_before_it_runs() -> None:
    state = prepared(with_policy(master(), **SAME), NEW)
    state, _ = play(state, [joined("algo-2", holds=OLD), joined("algo-3", holds=NEW)])
    cause = Cause(CauseKind.PREPARE_FAILED, "algo-2", "checkpoints: gone", "restore", ONE)
    state, _ = play(state, [joined("algo-2", Phase.DRAINING, holds=OLD, cause=cause)])
    assert state.cause == cause


def test_a_host_that_never_comes_to_hold_it_is_named_when_joining_times_out() -> None:
    state = prepared(with_policy(master(), **SAME), NEW)
    state, _ = play(state, [joined("algo-2", holds=OLD), joined("algo-3", holds=NEW)])
    state, _ = play(state, [ev.Expired(ev.Deadline.JOIN, 9.0)])
    state, _ = play(state, [ev.Expired(ev.Deadline.JOIN, 19.0)])
    assert state.cause is not None
    assert "algo-2 (restoring checkpoint 000008-0badcafe)" in state.cause.message
    assert "algo-3" not in state.cause.message


def test_where_one_restores_for_all_a_difference_is_only_said() -> None:
    state = prepared(master(), NEW)
    _, actions = play(state, [joined("algo-2", holds=OLD), joined("algo-3", holds="nothing - -")])
    assert "algo-3: no checkpoint" in str(said(actions)["checkpoints.differ"])
    assert decisions(actions)[0] == ev.Announce(JobState.RUNNING)


def test_a_difference_fails_the_job_where_that_is_asked_for() -> None:
    state = prepared(with_policy(master(), agreement="fail"), NEW)
    state, actions = play(state, [joined("algo-2", holds=OLD), joined("algo-3", holds=NEW)])
    assert state.cause is not None
    assert state.cause.kind is CauseKind.PREPARE_FAILED
    assert "algo-2: checkpoint 000007-0badcafe" in state.cause.message
    assert not [a for a in actions if isinstance(a, ev.Start)]


# --------------------------------------------------------------------------- properties

_S = TypeVar("_S", Phase, JobState, Life)
_statuses = st.sampled_from([OK, ONE, TERMED, KILLED, ExitStatus(code=42)])
_causes = st.sampled_from(
    [
        Cause(CauseKind.SCRIPT_FAILED, "algo-3", "boom", "worker", ONE),
        Cause(CauseKind.SCRIPT_FAILED, "algo-2", VICTIM, "worker", ONE),
        Cause(CauseKind.ESSENTIAL_DIED, "algo-2", "killed", "ps", KILLED),
        Cause(CauseKind.STOP_REQUESTED, "algo-3", "received SIGTERM"),
        Cause(CauseKind.FINISHED, "algo-1", "finished, exit 0", "chief", OK),
    ]
)
_verdicts = st.builds(
    lambda cause, code: Verdict(outcome_of(cause), cause, code), _causes, st.none() | st.just(0)
)
_orders = st.builds(
    Order,
    st.integers(1, 4),
    st.integers(2, 4),
    st.sampled_from(list(Scope)),
    st.sampled_from([(), (("algo-2", "worker"),), (("algo-3", "worker"),)]),
    _causes,
)
_others = st.sampled_from(["algo-2", "algo-3", "stranger"])
_holds = st.sampled_from(
    ["", "nothing - -", "generation 000007-0badcafe -", "files 1f 000007-0badcafe", "nonsense"]
)
_earlier = st.builds(
    ev.EarlierLife,
    st.integers(1, 3),
    st.integers(0, 3),
    st.just(()),
    st.sampled_from([(), (0, 2), (0, 1, 2), (0, 9)]),
)
_free = st.one_of(
    st.just(ev.Prepared()),
    st.just(ev.PrepareFailed("no space", 1.0)),
    st.just(ev.TransferFailed("checkpoints: denied", 1.0)),
    st.just(ev.TransferFailed("fenced: …", 1.0, fenced=True)),
    st.just(ev.Diverged("chief", "the loss is nan", 1.0)),
    st.just(ev.Replanned(("requirements", "package"))),
    st.just(ev.Replanned(("restore",))),
    st.builds(ev.Replanned, st.just(()), _holds),
    st.builds(
        ev.Signalled,
        st.sampled_from([1, 2, 3, 10, 12, 15, 18, 20, 28]),
        st.sampled_from([1.0, 1.01, 9.0]),
        st.booleans(),
    ),
    st.builds(
        ev.MemberReported,
        _others,
        st.sampled_from(list(Phase)),
        st.booleans(),
        st.none() | _causes,
        _holds,
        st.integers(0, 3),
        st.booleans(),
        st.just(1.0),
        st.none() | _earlier,
    ),
    st.builds(ev.MemberLost, _others, st.just("silent"), st.just(1.0), st.booleans()),
    st.builds(
        ev.JobChanged,
        st.sampled_from(list(JobState)),
        st.none() | _verdicts,
        st.just(()),
        st.sampled_from(["", "000007-0badcafe"]),
        st.none() | _orders,
        st.booleans(),
    ),
    st.builds(ev.Readied, st.integers(1, 3)),
    st.builds(ev.MasterSeen, st.booleans()),
    st.builds(
        ev.MasterLost,
        st.sampled_from(["crashed", "unreachable", "restarted", How.REFUSES.value]),
        st.just("x"),
        st.just(1.0),
        st.booleans(),
    ),
    st.builds(ev.MasterEnded, st.just("x"), st.just(1.0)),
    st.builds(ev.Broke, st.just("bug"), st.just(1.0)),
    st.just(ev.Waiting((("algo-3", "DNS"),))),
)
_unprepared = [
    alone(),
    master(),
    master(SuccessPolicy.ALL),
    with_policy(master(SuccessPolicy.ALL), straggler_s=60, tolerated_failures=1),
    with_policy(master(SuccessPolicy.SHARE), success_share=0.6, tolerated_failures=2),
    with_policy(master(), evaluator="algo-3", evaluator_grace_s=60, tolerated_failures=1),
    with_policy(master(), agreement="same"),
    with_policy(master(), agreement="fail"),
    member(),
    with_policy(member(), tolerated_failures=1),
    evaluator(),
    *(
        initial(replace(state.setup, policy=Policy(2), strategy=strategy), state.processes)
        for state, strategy in (
            (alone(), "none"),
            (master(), "ps"),
            (master(SuccessPolicy.ALL), "mwms"),
            (with_policy(master(), tolerated_failures=1, evaluator="algo-3"), "ps"),
        )
    ),
]
HOSTS = ("algo-1", "algo-2", "algo-3")
WAITING = BUDGETS._replace(rejoin_s=60.0)
_unprepared += [
    initial(
        replace(
            state.setup, budgets=WAITING, policy=state.setup.policy or Policy(2), cluster=HOSTS,
            strategy=strategy, world=HOSTS[: 3 - spares], min_hosts=least,
        ),
        state.processes,
    )
    for state, strategy, spares, least in (
        (master(), "ps", 0, 0),
        (member(), "ps", 0, 0),
        (master(SuccessPolicy.ALL), "mwms", 0, 0),
        (master(SuccessPolicy.ALL), "mwms", 1, 0),
        (master(SuccessPolicy.ALL), "mwms", 0, 2),
        (master(SuccessPolicy.ALL), "none", 1, 1),
        (with_policy(master(SuccessPolicy.ALL), tolerated_failures=1), "none", 0, 0),
    )
]  # fmt: skip
_lives = st.sampled_from([*_unprepared, *map(with_steps, _unprepared)])


def _no_attempt_beside_another(state: State, actions: Iterable[ev.Action]) -> None:
    """What starts anew is down, here, before anything of it is started."""
    if any(isinstance(action, ev.Start) for action in actions):
        assert not any(process.again for process in state.processes)
    charged = [each for each in state.past if KINDS[each.kind].charged]
    policy = state.setup.policy
    for each in charged:
        speaks = speaks_of_lost_peer(each.cause.message) and each.kind is Kind.VICTIM
        assert not speaks, "a victim is never charged"
    since: list[Past] = []
    for each in charged:
        since = [] if each.progressed else [*since, each]
        assert policy is not None
        lines = [one.line for one in since]
        assert all(lines.count(line) <= policy.restarts for line in lines), "a budget is kept"


def _no_more_than_there_is(state: State, action: ev.Extend) -> None:
    """More time is for a script that was asked to stop, and what comes after it has its share."""
    process, budgets = process_of(state, action.process), state.setup.budgets
    assert process.stopped_by_us
    assert not process.server
    assert process in state.coming_down
    assert action.deadline in state.armed & {ev.Deadline.GRACE, ev.Deadline.GROUP}
    if state.phase is Phase.DRAINING:
        assert ev.Deadline.LIMIT in state.armed, "the platform's limit bounds it"
        rest_s = budgets.group_s if state.rung is Rung.SCRIPTS else 0.0
        servers = any(each.server for each in state.alive)
        assert action.reserve_s >= rest_s + (budgets.server_grace_s if servers else 0.0)
    else:
        assert action.most_s <= 2 * budgets.end_grace_s


def _possible(state: State, draw: st.DataObject) -> ev.Event:
    """An event that the world could send now: only what lives can exit, only what is armed can
    expire, only what is being published can be published."""
    choices = [_free]
    if state.alive:
        names = st.sampled_from([process.name for process in state.alive])
        left = st.sampled_from([(), (), (4711,)])
        words = st.sampled_from(["", VICTIM])
        choices.append(st.builds(ev.Exited, names, _statuses, st.just(2.0), words, left=left))
        choices.append(st.builds(ev.MoreTime, names, st.floats(0.0, 1e9), st.just(2.0)))
    if state.armed:
        choices.append(st.builds(ev.Expired, st.sampled_from(sorted(state.armed)), st.just(3.0)))
    if state.phase is Phase.PUBLISHING:
        choices.append(st.builds(ev.Published, st.none() | st.just("403")))
    event: ev.Event = draw.draw(st.one_of(choices))
    return event


def _leads(table: Mapping[tuple[_S, Trigger], _S], before: _S, later: _S) -> bool:
    """Whether rows of the table lead from one state to the other: an event may take several."""
    reached = {before}
    while more := {to for (at, _), to in table.items() if at in reached} - reached:
        reached |= more
    return later in reached


@settings(max_examples=600, deadline=None)
@given(_lives, st.data())
def test_what_holds_whatever_comes(state: State, draw: st.DataObject) -> None:
    published = 0
    for _ in range(draw.draw(st.integers(1, 25))):
        before = state
        event = _possible(state, draw)
        state, actions = step(state, event)
        order = list(Phase)
        if before.phase is not Phase.RESTARTING or state.phase is not Phase.RUNNING:
            assert order.index(state.phase) >= order.index(before.phase), "a life never goes back"
        assert state.attempt >= before.attempt, "attempts only grow"
        assert state.turn <= (state.order.turn if state.order else 0)
        _no_attempt_beside_another(state, actions)
        assert _leads(PHASES, before.phase, state.phase)
        if not before.under_way:
            assert state.rung >= before.rung, "the ladder leads on only"
        if state.setup.is_master:  # a member takes the master's word for the job
            assert _leads(JOB, before.job, state.job)
        had = {process.name: process.stop_signal for process in state.processes if process.had_stop}
        for action in actions:
            if isinstance(action, ev.Send) and not action.whole_group:
                if isinstance(event, ev.Signalled) and event.everywhere:
                    server = process_of(state, action.process).server
                    assert action.signum != event.signum or server, "nobody gets it twice"
                assert had.get(action.process) != action.signum, "nor later"
        lives = {process.name: process.life for process in before.processes}
        for process in state.processes:
            assert _leads(LIVES, lives.get(process.name, Life.PLANNED), process.life)
        if before.cause is not None:
            assert state.cause == before.cause, "the cause never changes"
        if order.index(before.phase) > order.index(Phase.RESTARTING) or state.cause is not None:
            assert not [a for a in actions if isinstance(a, ev.Start)], "no start once draining"
        alive = {process.step for process in state.alive}
        assert len(alive) < 2, "no step beside the job"
        assert sum(process.step for process in state.alive) < 2, "one step at a time"
        published += sum(isinstance(action, ev.Publish) for action in actions)
        if order.index(Phase.RESTARTING) < order.index(state.phase) < order.index(Phase.DONE):
            assert state.cause is not None
            assert state.armed, "every phase after running has a deadline"
        if state.phase is Phase.RESTARTING and (state.setup.is_master or state.coming_down):
            assert state.armed, "coming down is bounded, and so is waiting for the others"
        away = [name for name, each in state.members.items() if each.lost and not each.heard]
        awaited = [name for name in away if name in state.world or name not in state.setup.cluster]
        if state.under_way and (state.away is not None or awaited):
            assert ev.Deadline.REJOIN in state.armed, "who is away is waited for so long"
        if state.setup.is_master and state.setup.cluster:
            assert state.world[:1] == ("algo-1",), "the master is the first of those that train"
        done = state.phase is Phase.DONE
        waits = state.setup.is_member and ev.Deadline.ACK in state.armed
        settled = state.publishing_settled and (
            state.all_down
            or (waits and state.job is JobState.ENDED)
            or (
                not waits
                and all(
                    m.down or not (m.heard or ev.Deadline.LATE in state.armed)
                    for m in state.members.values()
                )
            )
        )
        assert done == (order.index(state.phase) >= order.index(Phase.PUBLISHING) and settled)
        if done:
            assert not state.alive
            assert not state.armed
            assert 0 <= _code(state) <= 255
        armed = set(before.armed)
        for action in actions:
            if isinstance(action, ev.Arm):
                armed.add(action.deadline)
                assert action.seconds >= 0
            elif isinstance(action, ev.Extend):
                _no_more_than_there_is(state, action)
            elif isinstance(action, ev.Disarm):
                assert action.deadline in armed
                armed.discard(action.deadline)
        assert state.armed <= armed
    assert published <= 1


@settings(max_examples=400, deadline=None)
@given(_lives, st.data())
def test_once_draining_the_timers_alone_lead_to_the_end(state: State, draw: st.DataObject) -> None:
    """No state waits only for an event that cannot come: if nobody ever answers again, no process
    ever ends and nothing is ever published, the armed deadlines still reach ``done``."""
    for _ in range(draw.draw(st.integers(1, 15))):
        state, _ = step(state, _possible(state, draw))
    if state.before_draining:
        state, _ = step(state, ev.Signalled(15, 100.0))
    for _ in range(20):
        if state.phase is Phase.DONE:
            return
        assert state.armed, f"stuck in {state.phase}"
        state, _ = step(state, ev.Expired(draw.draw(st.sampled_from(sorted(state.armed))), 9.0))
    pytest.fail(f"still {state.phase} after 20 expired deadlines")


# --------------------------------------------------------------------------- more time

ASKS = ev.MoreTime("chief", 60.0, 101.0)
TERM_AT_100 = ev.Signalled(signal.SIGTERM, 100.0)


def extended(state: State, events: Iterable[ev.Event]) -> list[ev.Action]:
    """What follows when the chief asks for more time after ``events``."""
    return list(step(play(state, events)[0], ASKS)[1])


def test_a_script_that_saves_may_have_the_time_that_is_left() -> None:
    """The last of what the platform leaves is for the rungs to come: process groups, servers."""
    stopped = [*RUNNING_ALONE, ev.Signalled(signal.SIGTERM, 100.0)]
    wanted = ev.Extend("chief", ev.Deadline.GRACE, 60.0, BUDGETS.group_s, math.inf)
    assert extended(alone(), stopped) == [wanted]
    groups = [*stopped, ev.Expired(ev.Deadline.GRACE, 190.0)]
    assert extended(alone(), groups) == [ev.Extend("chief", ev.Deadline.GROUP, 60.0, 0.0, math.inf)]
    servers = [*RUNNING_MASTER, ev.Signalled(signal.SIGTERM, 100.0)]
    reserve_s = BUDGETS.group_s + BUDGETS.server_grace_s
    assert extended(master(), servers) == [
        ev.Extend("chief", ev.Deadline.GRACE, 60.0, reserve_s, math.inf)
    ]


def test_so_may_one_that_is_stopped_because_the_job_ended_elsewhere() -> None:
    ended = ev.MemberReported(
        "algo-2",
        Phase.RUNNING,
        False,
        Cause(CauseKind.STOP_REQUESTED, "algo-2", "received SIGTERM"),
    )
    assert extended(master(), [*RUNNING_MASTER, ended]) == [
        ev.Extend(
            "chief",
            ev.Deadline.GRACE,
            60.0,
            BUDGETS.group_s + BUDGETS.server_grace_s,
            math.inf,
        )
    ]


@pytest.mark.parametrize(
    ("host", "events", "why"),
    [
        (alone, (), "it runs"),
        (alone, (TERM_AT_100, ev.Signalled(signal.SIGTERM, 101.0)), "SIGKILL was sent"),
        (alone, (TERM_AT_100, ev.Exited("chief", OK, 101.0)), "it is gone"),
    ],
)
def test_nobody_else_has_more_time(
    host: Callable[[], State], events: tuple[ev.Event, ...], why: str
) -> None:
    state, _ = play(host(), [*RUNNING_ALONE, *events])
    after, actions = step(state, ASKS)
    assert (after, actions) == (state, ()), why


def test_servers_and_those_that_hold_have_no_more_time() -> None:
    state, _ = play(member(), [*RUNNING_MEMBER, ev.Signalled(signal.SIGTERM, 100.0)])
    assert state.rung is Rung.HOLD
    for name in ("worker", "ps"):
        assert step(state, ev.MoreTime(name, 60.0, 101.0)) == (state, ())
    state, _ = play(master(), [*RUNNING_MASTER, TERM_AT_100, ev.Exited("chief", TERMED, 101.0)])
    assert state.rung is Rung.SERVERS
    assert step(state, ev.MoreTime("ps", 60.0, 101.0)) == (state, ())


# --------------------------------------------------------------------------- what outlives a leader

TERM = ev.Signalled(signal.SIGTERM, 100.0)


@pytest.mark.parametrize(
    ("host", "events", "process", "death", "asked", "seconds"),
    [
        (alone, (), "chief", TERMED, False, SWEEP_S),
        (alone, (TERM,), "chief", TERMED, True, math.inf),
        (alone, (TERM,), "chief", OK, True, math.inf),
        # The whole container got the signal: the leader died of it before ours came.
        (alone, (TERM,), "chief", TERMED, False, math.inf),
        # It had ended before, and what it left is none of the stop's business.
        (alone, (TERM,), "chief", OK, False, SWEEP_S),
        # On a member that keeps its worker for the chief's checkpoint nothing was asked of it.
        (member, (TERM,), "worker", TERMED, False, SWEEP_S),
        (master, (TERM,), "ps", KILLED, False, SWEEP_S),
    ],
)
def test_what_outlives_a_leader_has_the_rest_of_what_the_leader_had(
    host: Callable[[], State],
    events: tuple[ev.Event, ...],
    process: str,
    death: ExitStatus,
    asked: bool,
    seconds: float,
) -> None:
    """Whatever outlived its leader had 2 s, though the leader was a shell and the grace 92 s."""
    running = (ev.Prepared(), ev.JobChanged(JobState.RUNNING, None))
    reports = [ev.MemberReported(name, Phase.JOINING, False, None) for name in ("algo-2", "algo-3")]
    state, _ = play(host(), [*running, *(reports if host is master else ()), *events])
    given = respite(state, process, death, asked=asked)
    assert given.seconds == seconds
    assert given.asked == (seconds == math.inf)


def test_a_step_that_is_stopped_leaves_its_descendants_the_grace() -> None:
    state, actions = play(with_steps(alone()), [ev.Prepared(), TERM])
    assert ev.Arm(ev.Deadline.GRACE, BUDGETS.stop_grace_s) in actions
    assert respite(state, "requirements", TERMED, asked=True).seconds == math.inf


def test_ranks_below_an_sshd_have_a_scripts_share() -> None:
    """They had a server's, and with the sshd's end 2 s."""
    setup = replace(member().setup, scriptless=("algo-2", "algo-3"))
    state = initial(setup, (Process("sshd", server=True, shelters_scripts=True),))
    lost = ev.MasterLost("crashed", "connection refused", 100.0)
    _, actions = play(state, [ev.Prepared(), ev.JobChanged(JobState.RUNNING, None), lost])
    assert ev.Send("sshd", signal.SIGTERM) in actions
    assert ev.Arm(ev.Deadline.GRACE, BUDGETS.end_grace_s) in actions
