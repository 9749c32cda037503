"""The book of a life: to which account a moment belongs, as the life's state says it, and that what
is heard late is written where it belongs."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.host.book import Book
from supervisor.life import events as ev
from supervisor.life.state import Process, State
from supervisor.life.words import Cause, CauseKind, ExitStatus, Life, Outcome, Phase
from supervisor.training.ledger import Account
from supervisor.training.reading import Unit
from supervisor.training.saves import Saved
from supervisor.training.totals import Count, Totals
from tests.life.test_lifecycle import alone

SCRIPT = "worker"


def state(phase: Phase = Phase.RUNNING, *others: Process, armed: Any = (), **script: Any) -> State:
    main = Process(SCRIPT, server=False, **{"life": Life.ALIVE, **script})
    return replace(alone(), processes=(main, *others), phase=phase, armed=frozenset(armed))


def failed(**more: Any) -> State:
    cause = Cause(CauseKind.SCRIPT_FAILED, "algo-1", "exit 1")
    return replace(state(Phase.DRAINING, life=Life.ENDED, **more), cause=cause)


class Clocked:
    """A book whose clock the test turns; times are seconds of its life."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, outcome: Outcome = Outcome.FAILED) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        present: Any = SimpleNamespace(verdict=SimpleNamespace(outcome=outcome))
        self.book = Book(present, SCRIPT)

    def at(self, seconds: float) -> Book:
        self.now = 1000.0 + seconds
        return self.book

    def spent(self, seconds: float) -> dict[str, float]:
        totals = self.at(seconds).totals()
        assert totals.seconds == pytest.approx(seconds)
        return {each.value: round(amount, 3) for each, amount in totals.spent.items() if amount}

    def step(self, step: int, at: float) -> None:
        self.book.reached(Unit.STEP, step, 1000.0 + at)

    def train(self) -> None:
        """Two seconds of joining behind eight of fetching; the script starts at 10."""
        self.at(8).seen(state(Phase.JOINING, life=Life.PLANNED))
        self.at(10).seen(state())
        self.at(10).started()
        self.at(10.5).begins_with(0)


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    return Clocked(monkeypatch)


STEP = Process("restore", server=False, step=True, life=Life.ALIVE)
WORKER = Process("worker server", server=True, life=Life.ALIVE, again=True)


@pytest.mark.parametrize(
    ("now", "account"),
    [
        (state(Phase.PREPARING, life=Life.PLANNED), Account.FETCHING),
        (state(Phase.JOINING, life=Life.PLANNED), Account.JOINING),
        (state(Phase.JOINING, STEP, life=Life.PLANNED), Account.FETCHING),
        (state(Phase.RESTARTING, again=True), Account.DOWN),
        (state(Phase.RESTARTING, STEP, life=Life.ENDED, again=True), Account.FETCHING),
        (state(Phase.RESTARTING, life=Life.ENDED, again=True, armed={ev.Deadline.BACKOFF}),
         Account.WAITING),
        (state(life=Life.ENDED, armed={ev.Deadline.REJOIN}), Account.WAITING),
        (state(life=Life.ENDED, status=ExitStatus(code=0)), Account.DOWN),
        (state(Phase.DRAINING), Account.DOWN),
        (state(Phase.PUBLISHING, life=Life.ENDED), Account.DOWN),
    ],
)  # fmt: skip
def test_a_moment_belongs_where_the_life_stands(
    book: Clocked, now: State, account: Account
) -> None:
    book.at(1).seen(state(Phase.JOINING, life=Life.PLANNED))
    book.at(2).seen(now)
    row = book.at(10).row()
    assert row is not None
    assert row["account"] == account
    assert row["run"]["seconds"][account] >= 8


def test_what_starts_anew_beside_the_training_is_nothing_to_it(book: Clocked) -> None:
    book.train()
    book.step(0, 15)
    book.at(20).seen(state(Phase.RESTARTING, WORKER))
    book.step(10, 25)
    told = {"fetching": 8.0, "joining": 2.0, "starting": 5.0, "training": 10.0}
    assert book.spent(25) == told


def test_who_stands_by_waits(book: Clocked) -> None:
    now = state(Phase.RESTARTING, life=Life.ENDED, again=True)
    hosts = ("algo-1", "algo-2")
    setup = replace(now.setup, hosts=hosts, cluster=hosts, world=("algo-2",), min_hosts=1)
    book.at(0).seen(replace(now, setup=setup))
    assert book.spent(9) == {"waiting": 9.0}


def test_the_last_look_is_of_the_time_before_the_end(book: Clocked) -> None:
    """The life hears of the end first."""
    book.train()
    book.step(0, 15)
    book.step(10, 25)
    book.at(30).seen(state(life=Life.ENDED, status=ExitStatus(signum=9)))
    book.at(31).seen(state(life=Life.PLANNED))
    book.at(32).seen(state())
    book.at(32).started()
    assert book.spent(32)["training"] == 10.0
    book.step(14, 29)  # found afterwards
    book.at(32.5).begins_with(10)
    told = book.spent(33)
    assert (told["training"], told["done_again"], told["down"]) == (14.0, 1.0, 2.0)
    book.step(14, 36)
    assert book.spent(36)["starting"] == pytest.approx(5 + 4, abs=4)


def test_a_script_that_ends_well_has_trained_to_its_end(book: Clocked) -> None:
    book.train()
    book.step(0, 15)
    book.step(10, 25)
    book.at(30).seen(state(life=Life.ENDED, status=ExitStatus(code=0)))
    assert book.spent(31)["training"] == 15.0


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.STOPPED])
def test_what_a_failure_has_cost_is_no_training(
    monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    book = Clocked(monkeypatch, outcome)
    book.train()
    book.step(0, 15)
    book.step(10, 25)
    book.at(30).seen(failed(status=ExitStatus(code=1)))
    assert book.spent(31)["training"] == (10.0 if outcome is Outcome.FAILED else 15.0)


def test_another_counter_is_counted_for_itself(book: Clocked) -> None:
    """Epochs at first, as long as nothing else is known."""
    book.train()
    book.book.reached(Unit.EPOCH, 1, 1015.0)
    book.step(100, 16)
    book.step(200, 26)
    row = book.at(26).row()
    assert row is not None
    assert (row["unit"], row["run"]["steps"]) == ("step", 200)
    assert book.spent(26)["training"] >= 10


def test_epochs_are_not_counted_from_the_step_of_a_checkpoint(book: Clocked) -> None:
    book.train()
    book.at(10.5).begins_with(4)
    book.book.reached(Unit.EPOCH, 6, 1015.0)
    book.book.reached(Unit.EPOCH, 8, 1025.0)
    row = book.at(25).row()
    assert row is not None
    assert (row["unit"], row["run"]["steps"]) == ("epoch", 2)
    assert row["run"]["seconds"]["starting"] == 5


def test_runs_before_say_how_far_the_job_had_come(book: Clocked) -> None:
    spent = {Account.KEPT: 100.0, Account.STARTING: 20.0}
    book.book.goes_on_from(Totals(2, 3, spent, {Unit.STEP: Count(50.0, 50.0)}))
    book.train()
    book.step(40, 15)
    book.step(60, 35)
    row = book.at(35).row()
    assert row is not None
    assert (row["run"]["steps"], row["all"]["steps"]) == (10, 60)
    assert (row["all"]["runs"], row["all"]["starts"]) == (3, 4)
    assert row["all"]["wall_s"] == pytest.approx(155)
    assert row["run"]["seconds"]["done_again"] >= 10


def test_a_number_in_a_name_is_a_step_where_it_is_about_as_great(book: Clocked) -> None:
    book.train()
    book.step(0, 15)
    book.step(100, 25)

    def named(number: int, unit: Unit = Unit.SAVE) -> bool:
        return book.book.is_a_step(Saved("ckpt", 1, unit, number))

    assert [named(number) for number in (3, 49, 50, 90, 110, 201)] == [
        False, False, True, True, True, False,
    ]  # fmt: skip
    assert not named(90, Unit.EPOCH)


def test_a_life_of_a_thousand_attempts_keeps_few_turns(book: Clocked) -> None:
    book.train()
    for number in range(1000):
        began = 20.0 + 10 * number
        book.at(began).seen(state(Phase.RESTARTING, again=True))
        book.at(began + 2).seen(state())
        book.at(began + 2).started()
    assert len(book.book._turns) <= 64
    told = book.spent(10020.0)
    assert (told["down"], told["starting"]) == (2000.0, 8010.0)


def test_a_host_without_a_script_has_no_ledger() -> None:
    present: Any = SimpleNamespace()
    assert Book(present, "").row() is None
