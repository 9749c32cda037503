"""Where the wall time went: it adds up, whatever happens, and time of training is kept where it
brought new steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.training.ledger import Account, Ledger, goodput
from tests.helpers.many import MANY

A = Account


def spent(ledger: Ledger, now: float) -> dict[Account, float]:
    """What is not zero."""
    return {account: seconds for account, seconds in ledger.totals(now).items() if seconds}


def test_a_run_that_nothing_happens_to() -> None:
    ledger = Ledger.begin(100).enter(A.JOINING, 110).start(113).begins_with(0)
    for step in range(1, 11):
        ledger = ledger.reached(step, 120 + step)
    assert spent(ledger.enter(A.DOWN, 132), 135) == {
        A.FETCHING: 10,
        A.JOINING: 3,
        A.STARTING: 7,
        A.KEPT: 12,
        A.DOWN: 3,
    }
    assert goodput(ledger.totals(130)) == pytest.approx(10 / 30)


def test_steps_that_were_done_before_are_done_again_up_to_where_it_had_come() -> None:
    ledger = Ledger.begin(0).start(0).begins_with(0)
    for step in range(1, 101):
        ledger = ledger.reached(step, step)
    ledger = ledger.enter(A.DOWN, 103.5, lost=True).enter(A.WAITING, 105).start(115)
    ledger = ledger.begins_with(60)
    for step in range(61, 131):
        ledger = ledger.reached(step, 60 + step)
    assert spent(ledger, 190) == {
        A.KEPT: 130,
        A.AGAIN: 40,
        A.STARTING: 5,
        A.DOWN: 5,
        A.WAITING: 10,
    }


def test_a_stretch_that_passes_where_it_had_come_is_divided_there() -> None:
    ledger = Ledger.begin(0, mark=70).start(0).reached(50, 10).reached(90, 50)
    assert spent(ledger, 50) == {A.STARTING: 10, A.AGAIN: 20, A.KEPT: 20}
    assert spent(ledger, 60) == {A.STARTING: 10, A.AGAIN: 20, A.KEPT: 30}


@pytest.mark.parametrize("looks", [0, 5])
def test_what_speaks_every_fifty_steps_has_done_fifty_by_then(looks: int) -> None:
    """Two looks at the same step said once that it had begun anew, and its start was all start."""
    ledger = Ledger.begin(0).start(0).begins_with(0).reached(50, 30)
    for _ in range(looks):
        ledger = ledger.reached(50, 30)
    assert spent(ledger.reached(100, 55), 55) == {A.STARTING: 5, A.KEPT: 50}


def test_what_was_done_before_the_first_word_was_done_again_below_the_mark() -> None:
    ledger = Ledger.begin(0, mark=120).start(0).begins_with(100).reached(150, 60).reached(200, 85)
    assert spent(ledger, 85) == {A.STARTING: 35, A.AGAIN: 10, A.KEPT: 40}


def test_a_start_was_no_longer_than_it_was() -> None:
    ledger = Ledger.begin(0).start(0).begins_with(0).reached(50, 10).reached(51, 100)
    assert spent(ledger, 100) == {A.KEPT: 100}


def test_a_reading_of_before_what_is_written_changes_nothing_there() -> None:
    """Of an event file, which says when it was; a start moved below zero once."""
    ledger = Ledger.begin(0).enter(A.JOINING, 50).start(60).begins_with(0)
    ledger = ledger.reached(5, 40).reached(10, 45).reached(20, 70)
    assert spent(ledger, 70) == {A.FETCHING: 50, A.JOINING: 10, A.KEPT: 10}


def test_a_script_that_begins_anew_in_its_own_life() -> None:
    ledger = Ledger.begin(0).start(0).reached(1, 10).reached(11, 20)
    ledger = ledger.reached(1, 30).reached(6, 35).reached(16, 45)
    assert spent(ledger, 45) == {A.STARTING: 10, A.KEPT: 25, A.AGAIN: 10}


def test_what_is_said_outside_of_training_is_not_written() -> None:
    ledger = Ledger.begin(0).reached(5, 10).enter(A.DOWN, 20).reached(6, 30)
    assert spent(ledger, 40) == {A.FETCHING: 20, A.DOWN: 20}
    assert ledger.mark == -1


def test_another_counter_begins_with_its_own_mark() -> None:
    ledger = Ledger.begin(0).start(0).reached(3, 10).counts_anew(-1).reached(500, 20)
    assert spent(ledger.reached(600, 30), 30) == {A.STARTING: 10, A.KEPT: 20}


def test_without_time_there_is_no_goodput() -> None:
    assert goodput(Ledger.begin(5).totals(5)) is None
    assert goodput({}) is None


OPERATIONS = st.one_of(
    st.tuples(st.just("enter"), st.sampled_from([*Account]), st.booleans()),
    st.tuples(st.just("start"), st.floats(0, 1000) | st.none(), st.just(None)),
    st.tuples(st.just("reached"), st.integers(0, 1000), st.floats(0, 100)),
    st.tuples(st.just("anew"), st.integers(-1, 1000), st.just(None)),
)


@MANY
@given(
    st.lists(st.tuples(st.floats(-2, 500), OPERATIONS), max_size=60),
    st.integers(-1, 1000),
)
def test_the_book_adds_up_and_owes_nothing(
    happened: list[tuple[float, tuple[str, object, object]]], mark: int
) -> None:
    """Of any life, and with clocks that are a little behind."""
    begin = now = 1000.0
    ledger = Ledger.begin(begin, mark)
    written = begin
    for after_s, operation in happened:
        now += after_s
        match operation:
            case ("enter", Account() as account, bool() as lost):
                ledger = ledger.enter(account, now, lost=lost)
            case ("start", begun, _):
                ledger = ledger.start(now)
                if isinstance(begun, float):
                    ledger = ledger.begins_with(begun)
            case ("reached", int() as step, float() as before_s):
                ledger = ledger.reached(step, now - before_s)
            case ("anew", int() as step, _):
                ledger = ledger.counts_anew(step)
        assert ledger.since >= written
        written = ledger.since
        totals = ledger.totals(now)
        assert sum(totals.values()) == pytest.approx(max(now, written) - begin, abs=1e-6)
        assert min(totals.values()) >= -1e-6
        assert 0 <= (goodput(totals) or 0) <= 1 + 1e-9
