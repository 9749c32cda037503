"""Whether what failed is started anew, and how much: the tables, the decision, what is ordered."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.contract.distribution import Strategy
from supervisor.life import attempts
from supervisor.life.attempts import (
    KINDS,
    SCOPES,
    USAGE_ERROR,
    VICTIM_S,
    WINDOW_S,
    Kind,
    Order,
    Part,
    Past,
    Policy,
    Refused,
    Restart,
    Rules,
    Scope,
    decide,
    kind_of,
    part_of,
    restartable,
    scope_of,
)
from supervisor.life.words import Cause, CauseKind, ExitStatus, Role

POLICY = Policy(restarts=3)
START = 1_000_000.0
"""Seconds since the epoch at which a history begins."""


def failed(
    code: int | None = 1,
    *,
    signum: int | None = None,
    kind: CauseKind = CauseKind.SCRIPT_FAILED,
    error: str = "",
    message: str = "it failed",
    detail: str = "",
    host: str = "algo-2",
    process: str = "worker",
    at: float = START,
) -> Cause:
    status = ExitStatus(code=None if signum else code, signum=signum)
    return Cause(kind, host, message, process, status, detail, at, error)


def ended(cause: Cause, kind: Kind, *, progressed: bool = False, scope: Scope = Scope.ALL) -> Past:
    return Past(1, kind, scope, cause, progressed)


def lives(
    causes: list[tuple[Cause, bool]], policy: Policy = POLICY, scope: Scope = Scope.ALL
) -> tuple[list[Restart], Refused | None, tuple[Past, ...]]:
    """A job whose attempts end so, one after the other, until one is not started anew."""
    past: tuple[Past, ...] = ()
    restarts: list[Restart] = []
    for cause, progressed in causes:
        found = decide(cause, past, policy, scope, progressed=progressed, now=cause.at)
        if isinstance(found, Refused):
            return restarts, found, past
        restarts.append(found)
        past = (*past, Past(len(past) + 1, found.kind, found.scope, cause, progressed))
    return restarts, None, past


# --------------------------------------------------------------------------- what starts anew


@pytest.mark.parametrize(
    ("strategy", "process", "part", "scope"),
    [
        (Strategy.PS, Role.WORKER, Part.WORKER, Scope.ALONE),
        (Strategy.PS, Role.CHIEF, Part.CHIEF, Scope.CHIEF),
        (Strategy.PS, Role.MASTER, Part.CHIEF, Scope.CHIEF),
        (Strategy.PS, Role.PS, Part.SERVER, Scope.CHIEF),
        (Strategy.MWMS, Role.WORKER, Part.WORKER, Scope.ALL),
        (Strategy.MPI, Role.LAUNCHER, Part.RANK, Scope.ALL),
        (Strategy.MPI, Role.SSHD, Part.RANK, Scope.ALL),
        (Strategy.NONE, Role.CHIEF, Part.SCRIPT, Scope.ALONE),
        (Strategy.NONE, Role.WORKER, Part.SCRIPT, Scope.ALONE),
    ],
)
def test_what_starts_anew(strategy: str, process: str, part: Part, scope: Scope) -> None:
    assert part_of(strategy, process, evaluator=False) is part
    assert scope_of(strategy, process, evaluator=False) is scope
    assert SCOPES[strategy, part][1], "the guide says why"


@pytest.mark.parametrize("strategy", Strategy)
def test_an_evaluator_starts_alone_whatever_trains(strategy: Strategy) -> None:
    assert part_of(strategy, Role.EVALUATOR, evaluator=True) is Part.EVALUATOR
    assert scope_of(strategy, Role.EVALUATOR, evaluator=True) is Scope.ALONE


def test_every_strategy_and_role_has_a_scope() -> None:
    assert {attempts.PS, attempts.MWMS, attempts.MPI, attempts.NONE} == set(Strategy)
    for strategy, role, evaluator in itertools.product(Strategy, [*Role, None], (False, True)):
        assert scope_of(strategy, role, evaluator=evaluator) in Scope


# --------------------------------------------------------------------------- what sort of end

SOCKET = "UnavailableError: Socket closed"
PREEMPTED = ended(failed(42), Kind.PREEMPTED)
CRASHED = ended(failed(signum=9), Kind.CRASH)
MOVED = ended(failed(), Kind.CRASH, progressed=True)


@pytest.mark.parametrize(
    ("cause", "past", "kind"),
    [
        (failed(42), (), Kind.PREEMPTED),
        (failed(143), (), Kind.PREEMPTED),
        (failed(42, kind=CauseKind.ESSENTIAL_DIED), (), Kind.PREEMPTED),
        *((failed(signum=signum), (), Kind.PREEMPTED) for signum in (1, 2, 3, 15)),
        (failed(126), (), Kind.CERTAIN),
        (failed(127), (), Kind.CERTAIN),
        (failed(127, kind=CauseKind.START_FAILED), (), Kind.CERTAIN),
        (failed(143, kind=CauseKind.START_FAILED), (), Kind.CERTAIN),
        (failed(error="SyntaxError (train.py:3)"), (), Kind.CERTAIN),
        (failed(error="IndentationError (train.py:3)"), (), Kind.CERTAIN),
        (failed(error="TabError"), (), Kind.CERTAIN),
        (failed(error="ImportError (train.py:3)"), (), Kind.CERTAIN),
        (failed(error="ModuleNotFoundError (train.py:3)"), (MOVED,), Kind.CERTAIN),
        (failed(2, error=USAGE_ERROR), (), Kind.CERTAIN),
        (failed(2, error=f"{USAGE_ERROR} (t.py: error: no --x)"), (), Kind.CERTAIN),
        (failed(80, kind=CauseKind.ESSENTIAL_DIED), (), Kind.CERTAIN),
        (failed(80), (), Kind.STARTUP),
        (failed(2), (), Kind.STARTUP),
        (failed(message=SOCKET), (CRASHED,), Kind.VICTIM),
        (failed(detail=SOCKET), (CRASHED,), Kind.VICTIM),
        (failed(detail=SOCKET, at=START + VICTIM_S), (CRASHED,), Kind.VICTIM),
        (failed(detail=SOCKET, at=START + VICTIM_S + 0.1), (CRASHED,), Kind.STARTUP),
        (failed(detail=SOCKET), (), Kind.STARTUP),
        (failed(detail="shape mismatch"), (CRASHED,), Kind.STARTUP),
        (failed(kind=CauseKind.HANG, signum=9), (), Kind.HANG),
        (replace(failed(), kind=CauseKind.HANG, exit=None), (), Kind.HANG),
        (failed(error="ValueError (train.py:3)"), (), Kind.STARTUP),
        (failed(signum=11), (), Kind.STARTUP),
        (failed(error="ValueError (train.py:3)"), (MOVED,), Kind.CRASH),
        (failed(error="ValueError (train.py:3)"), (MOVED, CRASHED), Kind.CRASH),
        (failed(signum=9), (), Kind.CRASH),
        (failed(0, kind=CauseKind.ESSENTIAL_DIED), (MOVED,), Kind.CRASH),
    ],
)
def test_kinds_of_ends(cause: Cause, past: tuple[Past, ...], kind: Kind) -> None:
    assert kind_of(cause, past, POLICY, progressed=False) is kind


def test_an_end_after_progress_is_none_of_start_up() -> None:
    assert kind_of(failed(), (), POLICY, progressed=True) is Kind.CRASH


def test_every_kind_is_in_the_table_and_those_without_a_budget_end_it() -> None:
    assert set(KINDS) == set(Kind)
    assert all(row.means and row.budget for row in KINDS.values())
    without = {kind for kind, row in KINDS.items() if row.budget == "none"}
    assert without == {Kind.STOP_RULE, Kind.CERTAIN}


# --------------------------------------------------------------------------- rules of the user

RULES = Policy(3, Rules(frozenset({3, 137, 126}), ("CUDA error",), frozenset({65}), ("is NaN",)))


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (failed(65), Kind.STOP_RULE),
        (failed(65, message="CUDA error"), Kind.STOP_RULE),  # of two rules the one that stops
        (failed(message="RuntimeError: loss is NaN"), Kind.STOP_RULE),
        (failed(42, detail="loss is NaN"), Kind.STOP_RULE),
        (failed(3, error="ImportError (train.py:3)"), Kind.CRASH),
        (failed(126), Kind.CRASH),
        (failed(error="ImportError", detail="CUDA error: no device"), Kind.CRASH),
        (failed(signum=9), Kind.CRASH),
        (failed(42, message="CUDA error"), Kind.PREEMPTED),
        (failed(error="ImportError (train.py:3)"), Kind.CERTAIN),
    ],
)
def test_the_users_rules(cause: Cause, kind: Kind) -> None:
    assert kind_of(cause, (), RULES, progressed=False) is kind


def test_what_a_rule_stops_makes_sense_nowhere() -> None:
    found = decide(failed(65), (), RULES, Scope.ALL, progressed=True)
    assert found == Refused(Kind.STOP_RULE, "SUPERVISOR_RESTART_RULES says stop", restartable=False)


def test_what_a_rule_starts_anew_may_be_the_same_error_and_has_the_whole_budget() -> None:
    again = failed(3, error="ValueError (train.py:88)")
    restarts, last, _ = lives([(again, False)] * 9, RULES)
    assert [each.kind for each in restarts] == [Kind.CRASH] * 3
    assert last is not None
    assert last.reason == "3 restarts without progress (SUPERVISOR_RESTARTS=3)"


# --------------------------------------------------------------------------- the decision


def test_without_restarts_nothing_starts_anew() -> None:
    """A preempted script did: only what is charged was held against a budget of 0."""
    for cause in (failed(42), failed(signum=9), failed(127)):
        found = decide(cause, (), Policy(), Scope.ALL, progressed=True)
        assert isinstance(found, Refused)
    assert decide(failed(42), (), Policy(), Scope.ALL, progressed=True) == Refused(
        Kind.PREEMPTED, "SUPERVISOR_RESTARTS is 0", restartable=True
    )


def test_a_crash_starts_anew_as_often_as_is_said() -> None:
    restarts, last, _ = lives([(failed(signum=9), False)] * 9)
    assert [each.after_s for each in restarts] == [0.0, 1.0, 2.0]
    assert last == Refused(
        Kind.CRASH, "3 restarts without progress (SUPERVISOR_RESTARTS=3)", restartable=True
    )


def test_a_hang_has_the_budget_of_a_crash() -> None:
    hung = failed(kind=CauseKind.HANG, signum=9)
    restarts, last, _ = lives([(failed(signum=9), False), *[(hung, False)] * 9])
    assert len(restarts) == 3
    assert last is not None
    assert (last.kind, last.restartable) == (Kind.HANG, True)


def test_a_failure_of_start_up_starts_anew_once() -> None:
    restarts, last, _ = lives([(failed(message=f"{n}"), False) for n in range(9)])
    assert [each.kind for each in restarts] == [Kind.STARTUP]
    assert last == Refused(
        Kind.STARTUP,
        "1 restart, and no attempt has made progress (SUPERVISOR_RESTARTS=3)",
        restartable=True,
    )


def test_progress_gives_the_budget_and_the_haste_back() -> None:
    killed = failed(signum=9)
    turns = [(killed, False), (killed, False), (killed, True), *[(killed, False)] * 9]
    restarts, last, _ = lives(turns)
    assert [each.after_s for each in restarts] == [0.0, 1.0, 0.0, 1.0, 2.0]
    assert last is not None
    assert last.kind is Kind.CRASH


def test_a_job_that_advances_may_be_killed_for_ever() -> None:
    restarts, last, _ = lives([(failed(error="ValueError (t.py:8)"), True)] * 100)
    assert last is None
    assert {each.after_s for each in restarts} == {0.0}


def test_the_same_error_twice_without_progress_is_final() -> None:
    first, other = (failed(error=f"ValueError (train.py:{line})") for line in (88, 90))
    _, last, past = lives([(first, True), (first, False)])
    assert len(past) == 1
    reason = "the same error twice, no progress between (train.py:88)"
    assert last == Refused(Kind.CRASH, reason, restartable=False)
    restarts, last, _ = lives([(first, True), (other, False), (first, False), (other, False)])
    assert len(restarts) == 3
    assert last is not None
    assert "3 restarts without progress" in last.reason


def test_what_happened_between_two_same_errors_and_was_no_error_does_not_part_them() -> None:
    same = failed(error="KeyError (train.py:8)")
    _, last, past = lives([(same, True), (failed(42), False), (same, False)])
    assert len(past) == 2
    assert last is not None
    assert "the same error twice" in last.reason


def test_an_error_without_a_place_is_told_by_its_name() -> None:
    _, last, _ = lives([(failed(error="KeyError"), True), (failed(error="KeyError"), False)])
    assert last is not None
    assert last.reason == "the same error twice, no progress between (KeyError)"


def test_ends_of_which_nothing_is_known_are_not_the_same() -> None:
    restarts, _, _ = lives([(failed(signum=9), False)] * 9)
    assert len(restarts) == 3


@pytest.mark.parametrize(
    ("cause", "what"),
    [
        (failed(error="SyntaxError (train.py:3)"), "SyntaxError (train.py:3)"),
        (failed(127), "exit 127"),
        (replace(failed(kind=CauseKind.START_FAILED), exit=None), "it"),
    ],
)
def test_what_is_certain_to_fail_again_is_final(cause: Cause, what: str) -> None:
    found = decide(cause, (), POLICY, Scope.ALL, progressed=False)
    assert found == Refused(Kind.CERTAIN, f"{what} would happen again", restartable=False)


def test_pauses_double_to_a_minute() -> None:
    restarts, last, _ = lives([(failed(signum=9), False)] * 11, Policy(restarts=10))
    assert [each.after_s for each in restarts] == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert last is not None


def test_an_attempt_that_has_run_for_longer_than_its_pause_is_followed_at_once() -> None:
    past = (CRASHED,) * 3
    later = [failed(signum=9, at=START + ran_s) for ran_s in (0.0, 1.5, 3.0, 4.0, 100.0, -5.0)]
    policy = Policy(restarts=10)
    found = [decide(each, past, policy, Scope.ALL, progressed=False) for each in later]
    pauses = [each.after_s for each in found if isinstance(each, Restart)]
    assert pauses == [4.0, 2.5, 1.0, 0.0, 0.0, 4.0]


def test_workers_outlive_a_chief_and_start_anew_with_the_next() -> None:
    def scope_after(*past: Scope) -> Scope:
        ends = tuple(ended(failed(signum=9), Kind.CRASH, scope=scope) for scope in past)
        found = decide(failed(signum=9), ends, POLICY, Scope.CHIEF, progressed=True)
        assert isinstance(found, Restart)
        return found.scope

    assert scope_after() is Scope.CHIEF
    assert scope_after(Scope.ALONE) is Scope.CHIEF
    assert scope_after(Scope.CHIEF, Scope.ALONE) is Scope.ALL
    assert scope_after(Scope.CHIEF, Scope.ALL) is Scope.CHIEF


def test_a_long_row_of_preemptions_has_a_pause_too() -> None:
    """The 1026th of a row was an OverflowError."""
    found = decide(failed(42), (PREEMPTED,) * 2000, POLICY, Scope.ALL, progressed=False)
    assert found == Restart(Kind.PREEMPTED, Scope.ALL, 60.0)


def test_a_preempted_job_starts_anew_for_an_hour_without_progress() -> None:
    def preempted(at: float) -> Cause:
        return failed(42, at=START + at)

    turns = [(preempted(at), False) for at in (0.0, 1000.0, WINDOW_S)]
    restarts, last, past = lives(turns)
    assert last is None
    assert [each.kind for each in restarts] == [Kind.PREEMPTED] * 3
    _, last, _ = lives([*turns, (preempted(WINDOW_S + 1), False)])
    assert last == Refused(Kind.PREEMPTED, "no progress for 1 h", restartable=True)
    moved = decide(preempted(WINDOW_S + 1), past, POLICY, Scope.ALL, progressed=True)
    assert moved == Restart(Kind.PREEMPTED, Scope.ALL, 0.0)
    # The hour counts from the last progress.
    late = [(preempted(3000.0), True), (preempted(3000.0 + WINDOW_S), False)]
    assert lives([*turns[:2], *late])[1] is None
    assert lives([*turns[:2], *late, (preempted(3001.0 + WINDOW_S), False)])[1] is not None
    assert lives([(preempted(9e9), False)])[1] is None, "the first has no hour behind it"


def test_an_attempt_that_the_deadline_would_cut_short_is_not_begun() -> None:
    policy = Policy(3, deadline=START + 200.0, needed_s=120.0)
    in_time = decide(failed(signum=9), (), policy, Scope.ALL, progressed=True, now=START + 80.0)
    assert isinstance(in_time, Restart)
    late = decide(failed(signum=9), (), policy, Scope.ALL, progressed=True, now=START + 81.0)
    reason = "the platform ends the job in 119 s, less than an attempt needs"
    assert late == Refused(Kind.CRASH, reason, restartable=True)
    over = decide(failed(42), (), policy, Scope.ALL, progressed=True, now=START + 999.0)
    assert isinstance(over, Refused)
    assert "in 0 s" in over.reason


@pytest.mark.parametrize(
    ("cause", "past"),
    [
        (failed(127), ()),
        (failed(65), ()),
        (failed(error="E (t.py:1)"), (ended(failed(error="E (t.py:1)"), Kind.CRASH),)),
    ],
)
def test_a_deadline_makes_nothing_restartable_that_would_fail_anywhere(
    cause: Cause, past: tuple[Past, ...]
) -> None:
    """Near the deadline a syntax error was told the platform as worth another start."""
    policy = RULES._replace(deadline=START + 1.0, needed_s=120.0)
    found = decide(cause, past, policy, Scope.ALL, progressed=False, now=START)
    assert isinstance(found, Refused)
    assert not found.restartable


# --------------------------------------------------------------------------- victims and lines


def victim(number: int, at: float = 1.0) -> Cause:
    return failed(message=SOCKET, host=f"algo-{number}", at=START + at)


def test_victims_of_a_restart_are_not_charged_and_each_is_one_once() -> None:
    killed = failed(signum=9, host="algo-9")
    turns = [(killed, True), *((victim(number), False) for number in range(1, 9))]
    restarts, last, _ = lives(turns)
    assert last is None
    assert [each.kind for each in restarts] == [Kind.CRASH, *[Kind.VICTIM] * 8]
    # The second time it is a failure like others, and starts a row of victims of its own.
    again = [(victim(1, at), False) for at in (2.0, 3.0, 4.0, 5.0, 6.0)]
    restarts, last, _ = lives([*turns, *again])
    kinds = [Kind.CRASH, Kind.VICTIM, Kind.CRASH, Kind.VICTIM]
    assert [each.kind for each in restarts[9:]] == kinds
    assert last is not None
    assert last.reason == "3 restarts without progress (SUPERVISOR_RESTARTS=3)"


def test_the_budget_is_the_process_own_where_it_starts_alone() -> None:
    one, other = (failed(signum=9, host=host) for host in ("algo-2", "algo-3"))
    past = tuple(ended(one, Kind.CRASH, scope=Scope.ALONE) for _ in range(3))
    assert isinstance(decide(one, past, POLICY, Scope.ALONE, progressed=False), Refused)
    assert decide(other, past, POLICY, Scope.ALONE, progressed=False) == Restart(
        Kind.CRASH, Scope.ALONE, 0.0
    )
    server = replace(one, process="ps")
    assert isinstance(decide(server, past, POLICY, Scope.ALONE, progressed=False), Restart)
    # The job's budget is another one.
    assert isinstance(decide(one, past, POLICY, Scope.CHIEF, progressed=False), Restart)


def test_what_starts_more_than_itself_has_the_jobs_budget() -> None:
    one, other = (failed(signum=9, host=host) for host in ("algo-1", "algo-3"))
    past = (ended(one, Kind.CRASH, scope=Scope.CHIEF), *(ended(one, Kind.CRASH),) * 2)
    assert isinstance(decide(other, past, POLICY, Scope.ALL, progressed=False), Refused)


def test_progress_of_the_job_refills_every_line() -> None:
    one, other = (failed(signum=9, host=host) for host in ("algo-2", "algo-3"))
    past = (
        *(ended(one, Kind.CRASH, scope=Scope.ALONE) for _ in range(3)),
        ended(other, Kind.CRASH, scope=Scope.ALONE, progressed=True),
    )
    assert decide(one, past, POLICY, Scope.ALONE, progressed=False) == Restart(
        Kind.CRASH, Scope.ALONE, 0.0
    )


# --------------------------------------------------------------------------- properties

CAUSES = st.builds(
    failed,
    code=st.sampled_from([1, 2, 3, 42, 65, 80, 126, 127, 137, 143, 255]),
    signum=st.sampled_from([None, None, 1, 6, 9, 11, 15]),
    kind=st.sampled_from(sorted(attempts.RESTARTED)),
    error=st.sampled_from(["", "ValueError (t.py:8)", "KeyError (t.py:9)", "ImportError (t.py:1)"]),
    message=st.sampled_from(["it failed", SOCKET, "CUDA error", "loss is NaN"]),
    host=st.sampled_from(["algo-1", "algo-2"]),
)
TURNS = st.lists(st.tuples(CAUSES, st.booleans(), st.sampled_from(Scope), st.floats(0, 5000)))


@given(TURNS, st.integers(1, 5), st.sampled_from([Rules(), RULES.rules]))
def test_restarts_are_bounded_whatever_happens(
    turns: list[tuple[Cause, bool, Scope, float]], restarts: int, rules: Rules
) -> None:
    """Charged restarts of a line in a row without progress are never more than the setting, what
    is certain never starts anew, and a pause is at most a minute."""
    policy = Policy(restarts, rules)
    past: tuple[Past, ...] = ()
    charged: dict[str, int] = {}
    now = START
    for cause, progressed, scope, pause_s in turns:
        now += pause_s
        cause = replace(cause, at=now)  # noqa: PLW2901
        if progressed:
            charged.clear()
        found = decide(cause, past, policy, scope, progressed=progressed, now=now)
        assert found.kind is kind_of(cause, past, policy, progressed=progressed)
        if isinstance(found, Refused):
            assert found.reason
            assert found.kind not in {Kind.CERTAIN, Kind.STOP_RULE} or not found.restartable
            continue  # the next is another way in which this history might have gone on
        assert found.kind not in {Kind.CERTAIN, Kind.STOP_RULE}
        assert found.scope.width >= scope.width
        assert 0.0 <= found.after_s <= 60.0
        assert not progressed or found.after_s == 0.0
        line = attempts.line_of(cause, scope)
        charged[line] = charged.get(line, 0) + KINDS[found.kind].charged
        assert charged[line] <= restarts
        past = (*past, Past(len(past) + 1, found.kind, scope, cause, progressed))


@given(st.lists(st.integers(1, 4), max_size=60), st.floats(0, VICTIM_S))
def test_victims_are_bounded_by_the_processes(hosts: list[int], at: float) -> None:
    """However often peers say that they lost each other, a restart has one victim a process."""
    killed = failed(signum=9, host="algo-9")
    restarts, _, _ = lives([(killed, True), *((victim(host, at), False) for host in hosts)])
    in_a_row = [
        sum(1 for _ in group)
        for kind, group in itertools.groupby(each.kind for each in restarts)
        if kind is Kind.VICTIM
    ]
    assert max(in_a_row, default=0) <= 4
    assert len(restarts) <= POLICY.restarts * (1 + 4)


# --------------------------------------------------------------------------- the whole job anew


@pytest.mark.parametrize(
    ("cause", "sense"),
    [
        (failed(signum=9), True),
        (failed(error="ValueError (t.py:8)"), True),
        (failed(error="ImportError (t.py:8)"), False),
        (failed(2, error=USAGE_ERROR), False),
        (failed(127), False),
        (failed(126, kind=CauseKind.START_FAILED), False),
        (failed(80, kind=CauseKind.ESSENTIAL_DIED), False),
        (failed(signum=9, kind=CauseKind.ESSENTIAL_DIED), True),
        (replace(failed(kind=CauseKind.HANG), exit=None), True),
        (failed(kind=CauseKind.PREPARE_FAILED), False),
        (failed(kind=CauseKind.REFUSED), False),
        (failed(kind=CauseKind.FINISHED), False),
        (failed(kind=CauseKind.MASTER_ENDED), False),
        (failed(kind=CauseKind.JOIN_TIMEOUT), True),
        (failed(kind=CauseKind.MASTER_LOST), True),
        (failed(kind=CauseKind.MEMBER_LOST), True),
        (failed(kind=CauseKind.TRANSFER_FAILED), True),
        (failed(kind=CauseKind.INTERNAL), True),
    ],
)
def test_whether_starting_the_job_again_makes_sense(cause: Cause, sense: bool) -> None:
    assert restartable(cause) is sense


# --------------------------------------------------------------------------- what is ordered

ORDER = Order(4, 2, Scope.ALONE, (("algo-2", "worker"),), failed())


@pytest.mark.parametrize(
    ("scope", "begin"),
    [
        (Scope.ALONE, {("algo-2", "worker")}),
        (
            Scope.CHIEF,
            {("algo-1", "chief"), ("algo-1", "ps"), ("algo-2", "ps"), ("algo-2", "worker")},
        ),
        (
            Scope.ALL,
            {("algo-1", "chief"), ("algo-1", "ps"), ("algo-2", "ps"), ("algo-2", "worker"),
             ("algo-3", "worker")},
        ),
    ],
)  # fmt: skip
def test_whom_an_order_concerns(scope: Scope, begin: set[tuple[str, str]]) -> None:
    everybody = [("algo-1", "chief"), ("algo-1", "ps"), ("algo-2", "ps"), ("algo-2", "worker"),
                 ("algo-3", "worker"), ("algo-4", "evaluator")]  # fmt: skip
    order = ORDER._replace(scope=scope)
    assert begin == {
        (host, process)
        for host, process in everybody
        if order.concerns(host, process, evaluator=process == "evaluator")
    }
    named = order._replace(named=(("algo-4", "evaluator"),))
    assert named.concerns("algo-4", "evaluator", evaluator=True)


def test_the_chief_under_its_old_name_is_the_chief() -> None:
    assert ORDER._replace(scope=Scope.CHIEF).concerns("algo-1", "master", evaluator=False)


def test_an_order_is_made_wider_and_never_narrower() -> None:
    wider = ORDER.widened(Scope.CHIEF, "algo-1", "chief")
    named = (("algo-2", "worker"), ("algo-1", "chief"))
    assert wider == Order(5, 2, Scope.CHIEF, named, ORDER.cause)
    again = wider.widened(Scope.ALONE, "algo-3", "worker")
    assert (again.turn, again.scope) == (6, Scope.CHIEF)
    assert again.widened(Scope.ALL, "algo-3", "worker").named == again.named, "once each"


def test_of_too_many_the_whole_job_starts_anew_and_the_evaluator_that_ended() -> None:
    """An evaluator that was among them was forgotten: it is no part of all."""
    order = ORDER.widened(Scope.ALONE, "algo-9", "evaluator")
    for number in range(attempts.MOST_NAMED - len(order.named)):
        order = order.widened(Scope.ALONE, f"host-{number}", "worker")
    assert (order.scope, len(order.named)) == (Scope.ALONE, attempts.MOST_NAMED)
    order = order.widened(Scope.ALONE, "one-more", "worker")
    assert (order.scope, order.named) == (Scope.ALL, (("algo-9", "evaluator"),))
