"""The ledger: every moment in one account, and time of training kept only where steps were new."""

from __future__ import annotations

import json
import random

import pytest

from supervisor.training.ledger import Account, Ledger, goodput
from supervisor.training.reading import Unit
from supervisor.training.totals import MOST_BYTES, Count, Kept, Totals, decode, encode

KEPT, AGAIN, DOWN, STARTING = Account.KEPT, Account.AGAIN, Account.DOWN, Account.STARTING


def running(*, begun: float | None = 0.0) -> Ledger:
    """Ten seconds of fetching and five of joining are behind it; the script starts at 15."""
    ledger = Ledger.begin(0.0).enter(Account.JOINING, 10.0).start(15.0)
    return ledger if begun is None else ledger.begins_with(begun)


def spent(ledger: Ledger, now: float) -> dict[str, float]:
    """What is not nothing, by account."""
    totals = ledger.totals(now)
    assert sum(totals.values()) == pytest.approx(now), "every moment in one account"
    return {account.value: round(each, 6) for account, each in totals.items() if round(each, 6)}


def test_a_run_without_a_failure_is_fetching_joining_starting_and_training() -> None:
    ledger = running().reached(0, 20.0).reached(10, 30.0).enter(DOWN, 31.0)
    told = {"fetching": 10.0, "joining": 5.0, "starting": 5.0, "training": 11.0, "down": 2.0}
    assert spent(ledger, 33.0) == told
    assert ledger.steps == 10
    assert goodput(ledger.totals(33.0)) == pytest.approx(11 / 33)


def test_nothing_is_known_of_a_ledger_in_which_no_time_has_passed() -> None:
    assert goodput(Ledger.begin(1.0).totals(1.0)) is None


def test_steps_up_to_where_the_job_had_come_are_done_again() -> None:
    ledger = running().reached(0, 20.0).reached(10, 30.0).enter(DOWN, 30.0, lost=True)
    ledger = ledger.start(32.0).begins_with(4).reached(4, 35.0)
    assert spent(ledger.reached(8, 39.0), 39.0)["done_again"] == 4.0
    ledger = ledger.reached(14, 45.0)  # in one go over the mark
    assert spent(ledger, 45.0) == {
        "fetching": 10.0, "joining": 5.0, "starting": 8.0, "training": 14.0, "done_again": 6.0,
        "down": 2.0,
    }  # fmt: skip
    assert (ledger.steps, ledger.mark) == (14, 14)


def test_a_script_that_speaks_every_50_steps_was_not_starting_meanwhile() -> None:
    """Its second word tells how long a step takes, and so when the first one was."""
    ledger = running().reached(50, 30.0)
    assert spent(ledger, 30.0)["starting"] == 15.0
    ledger = ledger.reached(50, 31.0).reached(50, 34.0)  # looked at meanwhile: no news
    ledger = ledger.reached(100, 40.0)
    assert spent(ledger, 40.0) == {
        "fetching": 10.0, "joining": 5.0, "starting": 5.0, "training": 20.0,
    }  # fmt: skip
    assert ledger.steps == 100


def test_nor_is_one_that_does_them_again() -> None:
    ledger = running().reached(50, 30.0).reached(100, 40.0).enter(DOWN, 40.0, lost=True)
    ledger = ledger.start(40.0).begins_with(80).reached(130, 60.0)
    ledger = ledger.reached(180, 70.0)
    told = spent(ledger, 70.0)
    assert told["done_again"] == pytest.approx(4.0), "steps 80 to 100, 0.2 s each"
    assert told["starting"] == pytest.approx(5.0 + 10.0)
    assert ledger.steps == 180


def test_where_nobody_knows_with_which_step_it_began_its_start_stays_one() -> None:
    ledger = running(begun=None).reached(50, 30.0).reached(100, 40.0)
    assert spent(ledger, 40.0)["starting"] == 15.0
    assert ledger.steps == 50


def test_one_that_did_not_restore_its_checkpoint_began_at_0() -> None:
    ledger = running(begun=400).reached(50, 30.0).reached(100, 40.0)
    assert spent(ledger, 40.0)["starting"] == 5.0


def test_what_came_after_the_last_step_is_lost_in_a_failure() -> None:
    """As much as lies between two steps was training, the rest a script that hung."""
    ledger = running().reached(0, 20.0).reached(10, 22.0)
    assert spent(ledger.enter(DOWN, 23.0, lost=True), 23.0)["done_again"] == 1.0
    hung = spent(ledger.enter(DOWN, 122.0, lost=True), 122.0)
    assert (hung["done_again"], hung["down"], hung["training"]) == (2.0, 98.0, 2.0)
    assert "done_again" not in spent(ledger.enter(DOWN, 122.0), 122.0), "it has ended well"


def test_a_script_may_begin_anew_in_its_own_life() -> None:
    ledger = running().reached(0, 20.0).reached(10, 30.0).reached(2, 31.0).reached(12, 41.0)
    told = spent(ledger, 41.0)
    assert told["training"] == pytest.approx(13.0)
    assert told["done_again"] == pytest.approx(8.0)
    assert ledger.steps == 12


def test_what_is_said_outside_of_training_moves_nothing() -> None:
    ledger = running().reached(5, 20.0).enter(DOWN, 30.0)
    assert ledger.reached(9, 31.0) == ledger


@pytest.mark.parametrize("seed", range(50))
def test_whatever_comes_it_adds_up(seed: int) -> None:
    chance = random.Random(seed)
    ledger, now = Ledger.begin(0.0), 0.0
    for _ in range(100):
        now += chance.choice([0.0, 0.1, 7.0, 100.0])
        at = now - chance.choice([0.0, 0.0, 3.0])
        do = chance.randrange(5)
        if do == 0:
            ledger = ledger.enter(chance.choice([*Account]), at, lost=chance.random() < 0.5)
        elif do == 1:
            ledger = ledger.start(at)
        elif do == 2:
            ledger = ledger.begins_with(chance.randrange(50))
        else:
            ledger = ledger.reached(chance.randrange(60), at)
        totals = ledger.totals(now)
        assert sum(totals.values()) == pytest.approx(now)
        assert all(each >= -1e-9 for each in totals.values())
        assert ledger.steps <= ledger.mark + 1


# ---------------------------------------------------------------------------- over runs

ONE = Totals(1, 3, {KEPT: 30.5, AGAIN: 4.0, STARTING: 2.0}, {Unit.STEP: Count(400.0, 400.0)})
TWO = Totals(1, 1, {KEPT: 10.0, DOWN: 1.0}, {Unit.STEP: Count(500.0, 100.0)})


def test_runs_add_up() -> None:
    both = ONE + TWO
    assert (both.runs, both.starts, both.seconds) == (2, 4, 47.5)
    assert both.counts == {Unit.STEP: Count(500.0, 500.0)}
    assert both.spent[KEPT] == 40.5
    assert both.goodput == pytest.approx(40.5 / 47.5)
    failed = Totals(1, 1, {STARTING: 2.0}, {})
    assert failed.goodput is None, "no step was seen"
    assert (ONE + failed).counts == ONE.counts


def test_what_is_kept_is_read_again() -> None:
    kept = Kept("1f00", ONE + TWO)
    text = encode(kept)
    assert decode(text.encode()) == kept
    assert len(text) < MOST_BYTES / 4


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"line": ""},
        {"line": "a/b"},
        {"line": "a" * 100},
        {"runs": -1},
        {"runs": True},
        {"runs": 1e300},
        {"starts": "3"},
        {"seconds": None},
        {"seconds": {}},
        {"seconds": {each: float("nan") for each in Account}},
        {"seconds": dict.fromkeys(Account, -1.0)},
        {"counts": []},
        {"counts": {"step": 3}},
        {"counts": {"step": {"mark": 1.0}}},
        {"counts": {"step": {"mark": 2.0**64, "new": 1.0}}},
        {"counts": {"step": {"mark": float("inf"), "new": 1.0}}},
    ],
)
def test_what_we_have_not_written_is_refused(change: dict[str, object]) -> None:
    document = json.loads(encode(Kept("1f00", ONE))) | change
    with pytest.raises(ValueError, match="is not what a supervisor writes there"):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 4000, b"9" * 4000])
def test_nor_is_what_is_no_document(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode(data)


def test_units_that_are_not_known_are_passed_over() -> None:
    document = json.loads(encode(Kept("1f00", ONE)))
    document["counts"]["bananas"] = 3
    assert decode(json.dumps(document).encode()).totals.counts == ONE.counts
