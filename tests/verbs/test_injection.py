"""``--faults``: what can be said, what is answered to a slip, and that a seed is a schedule."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.verbs.injection import (
    Action,
    Clause,
    Faults,
    Moment,
    Wanted,
    parse,
    read,
    schedule,
)
from supervisor.verbs.local import read_request

HOSTS = ("algo-1", "algo-2", "algo-3")
EVERYTHING = (
    "kill worker every 30s; freeze algo-2 10s; partition algo-3 5s; kill host algo-2 at 60s; "
    "spoil checkpoint; slow disk; full disk"
)


def test_all_of_it_at_once() -> None:
    clauses, faults = parse(EVERYTHING, HOSTS)
    assert not faults
    assert [(each.action, each.target, each.lasts_s) for each in clauses] == [
        (Action.KILL, "worker", 0.0),
        (Action.FREEZE, "algo-2", 10.0),
        (Action.PARTITION, "algo-3", 5.0),
        (Action.KILL_HOST, "algo-2", 3.0),
        (Action.SPOIL, "", 0.0),
        (Action.SLOW_DISK, "", 10.0),
        (Action.FULL_DISK, "", 10.0),
    ]
    assert clauses[0].every_s == 30.0
    assert clauses[3].at_s == 60.0
    assert str(Faults(clauses, 7)) == EVERYTHING


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("kill", {"action": Action.KILL}),
        ("stop algo-2/ps at 500ms", {"target": "algo-2/ps", "at_s": 0.5}),
        ("kill chief randomly every 2min", {"every_s": 120.0, "randomly": True}),
        ("kill chief at step 200", {"at_step": 200, "at_s": None, "every_s": None}),
        ("kill every 30s until 1h", {"every_s": 30.0, "until_s": 3600.0}),
        ("kill host algo-3 for good at 5s", {"for_good": True, "at_s": 5.0, "target": "algo-3"}),
        ("kill host 1.5s", {"action": Action.KILL_HOST, "lasts_s": 1.5, "target": ""}),
        ("full disk algo-1 2m", {"action": Action.FULL_DISK, "target": "algo-1", "lasts_s": 120.0}),
    ],
)
def test_one_part(text: str, clause: dict[str, object]) -> None:
    (found,), faults = parse(f" {text} ;", HOSTS)
    assert not faults
    assert {name: getattr(found, name) for name in clause} == clause


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("shoot worker", "'shoot worker': 'shoot'; expected one of kill, stop, freeze, partition"),
        ("kill wroker", "'kill wroker': 'wroker'; expected a role (chief, master, worker,"),
        ("kill host worker", "'worker'; expected one of the hosts algo-1 to algo-3"),
        ("kill host algo-9", "'algo-9'; expected one of the hosts algo-1 to algo-3"),
        ("kill algo-9/ps", "'algo-9/ps'; expected a role"),
        ("slow", "'slow': it ends there; expected slow disk"),
        ("full tank", "'tank'; expected full disk"),
        ("kill worker 5s", "'5s'; expected no duration: kill takes none"),
        ("freeze algo-2 10", "'10'; expected a time with its unit, such as 500ms, 30s"),
        ("kill every", "it ends there; expected a time after 'every', such as 30s"),
        ("kill every 5s until", "it ends there; expected a time after 'until'"),
        ("kill every 0s", "'0s'; expected a time from 100ms to 10 days"),
        ("kill at step", "it ends there; expected the number of a step"),
        ("kill at step x", "'x'; expected the number of a step"),
        ("kill at step 5 every 3s", "'every'; expected nothing more"),
        ("kill at soon", "'soon'; expected a time with its unit"),
        ("kill randomly at 5s", "'at'; expected every T after 'randomly'"),
        ("kill at 5s every 3s", "'every'; expected nothing more"),
        ("kill worker chief", "'chief'; expected at T, at step N, every T"),
        ("kill host for good for good", "'for'; expected at T"),
        (" ; ", "expected kill, stop, freeze"),
    ],
)
def test_a_slip_is_one_sentence(text: str, sentence: str) -> None:
    _, (fault,) = parse(text, HOSTS)
    assert sentence in str(fault)
    assert str(fault).startswith("command line: --faults: found ")


def test_each_part_with_a_slip_has_its_sentence() -> None:
    clauses, faults = parse("kill wroker; kill ps; slow dsik", HOSTS)
    assert [each.text for each in clauses] == ["kill ps"]
    assert len(faults) == 2
    assert len(parse("kill;" * 101, HOSTS)[1]) == 1


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.5", "1" * 19, "²"])
def test_a_seed_is_a_whole_number(seed: str) -> None:
    faults, (wrong,) = read(Wanted("kill", seed), HOSTS)
    assert faults is None
    assert "--faults-seed" in str(wrong)


def test_without_a_seed_one_is_drawn_and_said() -> None:
    faults, wrong = read(Wanted("kill", None, strict=True), HOSTS)
    assert not wrong
    assert faults is not None
    assert faults.strict
    first, second = faults.greeting(3)
    assert f"--faults-seed {faults.seed} repeats them: kill" in first
    assert "3 times" in second
    assert "the first fault" in [*faults.greeting(0)][1]


clauses_of_any_kind = st.lists(
    st.builds(
        Clause,
        text=st.sampled_from(["a", "b", "c"]),
        action=st.sampled_from(Action),
        at_s=st.none() | st.floats(0.1, 100),
        at_step=st.none() | st.integers(0, 100),
        every_s=st.none() | st.floats(0.5, 50),
        until_s=st.just(math.inf) | st.floats(1, 100),
        randomly=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


def begun(clauses: list[Clause], seed: int) -> list[Moment]:
    return list(itertools.islice(schedule(clauses, seed), 40))


@given(clauses_of_any_kind, st.integers(0, 1000))
def test_a_seed_is_a_schedule(clauses: list[Clause], seed: int) -> None:
    moments = begun(clauses, seed)
    assert moments == begun(clauses, seed)
    assert [each.number for each in moments] == list(range(1, len(moments) + 1))
    times = [each.at_s for each in moments]
    assert times == sorted(times)
    for moment in moments:
        assert 0 <= moment.draw < 1
        if moment.clause.every_s is not None:
            assert moment.at_s <= moment.clause.until_s
        elif moment.clause.at_step is not None:
            assert moment.at_s == 0
        elif moment.clause.at_s is None:
            assert 5 <= moment.at_s <= 30
        else:
            assert moment.at_s == moment.clause.at_s


def test_other_parts_change_nothing_for_one() -> None:
    (kill,), _ = parse("kill randomly every 5s until 60s", HOSTS)
    (other,), _ = parse("freeze every 7s until 60s", HOSTS)
    alone = [(each.at_s, each.draw) for each in schedule([kill], 3)]
    both = [(each.at_s, each.draw) for each in schedule([kill, other], 3) if each.clause is kill]
    assert alone
    assert alone == both
    assert alone != [(each.at_s, each.draw) for each in schedule([kill], 4)]


def test_the_victim_does_not_hang_on_the_order_of_the_candidates() -> None:
    moments = begun([Clause("kill", Action.KILL, every_s=1.0)], 1)
    names = ["algo-3/worker", "algo-1/chief", "algo-2/worker"]
    assert [each.pick(names) for each in moments] == [each.pick(names[::-1]) for each in moments]
    assert {each.pick(names) for each in moments} == set(names)


@pytest.mark.parametrize(
    ("wanted", "environ", "found"),
    [
        (None, {}, (0, 0.0)),
        (Wanted("kill"), {}, (3, 120.0)),
        (Wanted("kill"), {"SUPERVISOR_RESTARTS": "0"}, (0, 120.0)),
        (None, {"SUPERVISOR_REJOIN_TIMEOUT_S": "7"}, (0, 7.0)),
    ],
)
def test_restarts_and_waiting_for_hosts_are_on_where_hosts_come_back(
    wanted: Wanted | None, environ: dict[str, str], found: tuple[int, float]
) -> None:
    """Without faults nobody starts a host anew, and to wait for one would be in vain."""
    request = read_request(
        hosts="2", strategy="none", run_dir=None, parameters=(), script=None, arguments=(),
        flags={}, environ=environ, wanted=wanted,
    )  # fmt: skip
    settings = request.settings
    assert (settings.restarts, settings.rejoin_timeout_s) == found
