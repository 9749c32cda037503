"""How far training is by all that says something of it: which counter is told, how fast it goes,
and what is a movement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.training.course import (
    GAPS,
    MARKS,
    MOST_TRACKS,
    RATE_S,
    STALE_S,
    Course,
    Track,
)
from supervisor.training.reading import MOST_STEPS, Origin, Reading, Unit, real, whole
from tests.helpers.many import MANY

WALL = 1.75e9


def reading(
    step: int,
    at: float = 0.0,
    *,
    origin: Origin = Origin.OUTPUT,
    unit: Unit = Unit.STEP,
    total: int | None = None,
    loss: float | None = None,
    where: str = "stdout",
) -> Reading:
    return Reading(origin, unit, step, WALL + at, total, loss, where)


def course(*readings: Reading, every_s: float = 1.0) -> Course:
    """A look each, from 0 on."""
    made = Course()
    for number, each in enumerate(readings):
        made = made.take([each], number * every_s)
    return made


def best(made: Course, now: float) -> Track:
    track = made.best(now)
    assert track
    return track


# --------------------------------------------------------------------------- the rate


def test_the_rate_is_that_of_the_last_minute() -> None:
    slow = [reading(number, number * 10.0) for number in range(50)]
    fast = [reading(50 + number, 500 + number) for number in range(100)]
    track = best(course(*slow, *fast), 0)
    assert track.rate == pytest.approx(1.0)
    assert best(course(*slow), 0).rate == pytest.approx(0.1)


@pytest.mark.parametrize("per_s", [0.01, 0.5, 1, 7.5, 100, 3000])
def test_the_rate_is_right_however_often_it_is_told(per_s: float) -> None:
    """With a few marks, which last for a minute."""
    readings = [reading(number, number / per_s) for number in range(20_000)]
    made = Course()
    for number in range(0, len(readings), 1000):
        made = made.take(readings[number : number + 1000], number / per_s)
    track = best(made, 0)
    assert track.rate == pytest.approx(per_s, rel=1e-6)
    assert len(track.marks) <= MARKS
    if per_s > 1:
        span = track.marks[-1][0] - track.marks[0][0]
        assert span > min(0.9 * RATE_S, 19_000 / per_s)


def test_no_rate_is_known_from_one_reading_nor_from_two_at_once() -> None:
    assert best(course(reading(5)), 0).rate is None
    assert best(course(reading(5), reading(6)), 0).rate is None
    assert best(course(reading(5), reading(6)), 0).left_s is None


def test_the_time_left_is_until_the_total() -> None:
    made = course(reading(10, 0, total=100), reading(20, 5))
    assert best(made, 0).left_s == pytest.approx(40)
    made = made.take([reading(120, 55)], 3)
    assert best(made, 0).left_s == 0


def test_a_counter_that_begins_anew_has_a_rate_of_its_own() -> None:
    made = course(reading(1000, 0, total=2000, loss=3), reading(2000, 1), reading(1, 2))
    track = best(made, 0)
    assert (track.rate, track.last.total, track.last.loss, track.moves) == (None, None, None, 2)
    assert best(made.take([reading(3, 3)], 4), 0).rate == pytest.approx(2)


def test_a_clock_that_is_set_back_begins_a_rate_anew() -> None:
    made = course(reading(1, 5000), reading(2, 5001), reading(3, 10), reading(5, 11))
    assert best(made, 0).rate == pytest.approx(2)


def test_a_loss_may_come_after_its_step() -> None:
    track = best(course(reading(3, 1, loss=1), reading(3, 2, total=9), reading(3, 3, loss=2)), 0)
    assert (track.last.loss, track.last.total, track.last.at) == (2, 9, WALL + 1)
    assert track.moves == 0


# --------------------------------------------------------------------------- which is told


def test_steps_are_told_before_epochs_and_what_is_said_on_purpose_before_what_is_found() -> None:
    said = [
        reading(9, origin=Origin.CHECKPOINT, unit=Unit.SAVE),
        reading(3, unit=Unit.EPOCH),
        reading(50, origin=Origin.CHECKPOINT),
        reading(60),
        reading(70, origin=Origin.EVENTS, where="logs/validation"),
        reading(71, origin=Origin.EVENTS, where="logs/a"),
        reading(72, origin=Origin.EVENTS, where="logs/b"),
        reading(69, origin=Origin.NOTICE),
        reading(68, origin=Origin.FILE),
    ]
    expected = [9, 3, 50, 60, 70, 71, 72, 69, 68]
    for number in range(len(said)):
        made = Course().take(said[: number + 1], 0)
        assert best(made, 0).last.step == expected[number]
        assert best(Course().take(reversed(said[: number + 1]), 0), 0) == best(made, 0)


def test_one_that_moves_no_more_is_not_told_while_another_one_moves() -> None:
    made = Course().take([reading(5, origin=Origin.EVENTS), reading(1)], 0)
    for number in range(1, 100):
        made = made.take([reading(number)], number)
        expected = 5 if number <= STALE_S else number
        assert best(made, number).last.step == expected
    assert best(made, 10_000).last.step == 5  # neither moves


def test_one_that_moves_rarely_is_not_stale_between_two_movements() -> None:
    made = Course()
    for number in range(4):
        made = made.take([reading(100 * number, origin=Origin.EVENTS)], number * 300)
    made = made.take([reading(7)], 900 + 200)
    assert best(made, 900 + 299).last.step == 300
    made = made.take([reading(8)], 900 + 3000)
    assert best(made, 900 + 3001).last.step == 8


def test_counters_without_end_do_not_hide_the_one_that_moves() -> None:
    """A script with a directory for each epoch's events: 32 were followed, and no other."""
    made, now = Course(), 0.0
    for epoch in range(100):
        for step in range(3):
            now += 10
            where = f"logs/{epoch}"
            made = made.take([reading(epoch * 3 + step, origin=Origin.EVENTS, where=where)], now)
            assert made.moved_at == now
            assert len(made.tracks) <= MOST_TRACKS
    assert best(made, now).last.step == 299


def test_more_counters_than_are_followed_that_all_move() -> None:
    made = Course()
    for now in range(3):
        made = made.take([reading(now, where=str(each)) for each in range(100)], now)
    assert len(made.tracks) == MOST_TRACKS
    assert made.moves == 2


# --------------------------------------------------------------------------- movements


def test_the_gap_is_the_median_between_looks_at_which_something_moved() -> None:
    made = Course()
    assert (made.gap_s, made.moved_at) == (None, None)
    made = made.take([reading(1)], 100)
    assert (made.gap_s, made.moved_at, made.moves) == (None, 100, 0)
    for now, step in ((110, 2), (111, 2), (120, 3), (123, 4), (133, 5)):
        made = made.take([reading(step)], now)
    assert (made.gap_s, made.moved_at, made.moves) == (10, 133, 4)
    for now in range(200, 1000):
        made = made.take([reading(now)], now)
    assert len(made.gaps) == GAPS


def test_nothing_new_is_no_movement() -> None:
    made = course(reading(1), reading(2))
    again = made.take([], 50).take([reading(2), reading(2, 9)], 60)
    assert (again.moved_at, again.moves, again.gaps) == (made.moved_at, made.moves, made.gaps)


@MANY
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([*Origin]),
                st.sampled_from([*Unit]),
                st.integers(0, 2**62),
                st.floats(-1e6, 1e12),
                st.sampled_from(["a", "logs/validation"]),
            ),
            max_size=4,
        ),
        max_size=20,
    ),
    st.lists(st.floats(0, 1e5), min_size=20, max_size=20),
)
def test_whatever_is_read_what_is_told_was_read(
    looks: list[list[tuple[Origin, Unit, int, float, str]]], pauses: list[float]
) -> None:
    made, now, seen = Course(), 0.0, set()
    for look, pause in zip(looks, pauses, strict=False):
        now += pause
        readings = [
            Reading(origin, unit, step, at, None, None, where)
            for origin, unit, step, at, where in look
        ]
        seen |= {(each.origin, each.unit, each.step, each.where) for each in readings}
        made = made.take(readings, now)
        track = made.best(now)
        assert (track is None) == (not seen)
        if track:
            last = track.last
            assert (last.origin, last.unit, last.step, last.where) in seen
            assert track.rate is None or track.rate > 0
        assert made.gap_s is None or made.gap_s >= 0


# --------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("number", "is_"),
    [
        *((0, 0), (7, 7), (7.9, 7), (True, None), (-1, None), ("7", None), (None, None)),
        *((MOST_STEPS, None), (MOST_STEPS - 1, MOST_STEPS - 1), (1e999, None), (1e300, None)),
        (float("nan"), None),
    ],
)
def test_a_step_that_somebody_wrote(number: object, is_: int | None) -> None:
    assert whole(number) == is_


@pytest.mark.parametrize(
    ("number", "is_"), [(1, 1.0), (0.5, 0.5), (True, None), ("1", None), (10**400, float("inf"))]
)
def test_a_loss_that_somebody_wrote(number: object, is_: float | None) -> None:
    assert real(number) == is_
    assert real(-(10**400)) == -float("inf")
