"""What counts as a sign of life, without waiting for any."""

import pytest

from supervisor.children.watchdog import APART_S, HangDetector, Signs, Steps
from supervisor.training.course import Course
from supervisor.training.reading import Origin, Reading, Unit

Row = tuple[float, int, float, int | None]


def watched(*rows: Row, before: int | None = None) -> HangDetector:
    first, *rest = [Signs(*row) for row in rows]
    detector = HangDetector.begin(first, before)
    for signs in rest:
        detector = detector.look(signs)
    return detector


@pytest.mark.parametrize(
    ("rows", "before", "idle_s"),
    [
        (((0, 0, 0, None), (5, 1, 0, None)), None, 0),
        (((0, 0, 0, None), (5, 0, 1, None)), None, 0),
        (((0, 0, 0, None), (5, 0, 0.05, None)), None, 5),
        # Touched once, silent since: what it prints and computes says nothing.
        (((0, 0, 0, None), (5, 9, 5, 70), (10, 99, 10, 70)), None, 5),
        # A clock that was set back, and a file taken away between two touches.
        (((0, 0, 0, None), (5, 0, 0, 70), (10, 0, 0, 30)), None, 0),
        (((0, 0, 0, None), (5, 0, 0, 70), (10, 9, 9, None)), None, 5),
        # There before the first look, but not before the script; and one that nobody touched.
        (((0, 0, 0, 70), (5, 9, 5, 70)), None, 5),
        (((0, 0, 0, 70), (5, 9, 5, 70)), 70, 0),
    ],
)
def test_for_how_long_nothing_has_moved(
    rows: tuple[Row, ...], before: int | None, idle_s: float
) -> None:
    assert watched(*rows, before=before).idle_s == idle_s


def test_a_suspension_does_not_undo_that_the_heartbeat_is_used() -> None:
    """The count began anew, and with it CPU time and output were signs of life again."""
    detector = watched((0, 0, 0, None), (5, 0, 0, 70)).excuse(Signs(60, 0, 0, 70))
    assert detector.idle_s == 0
    detector = detector.look(Signs(70, 99, 10, 70))
    assert (detector.beats, detector.idle_s) == (True, 10)


# --------------------------------------------------------------------------- by steps


PAUSE_S = 5.0


class Watched:
    """A script and its detector over time, looked at every five seconds, without waiting."""

    def __init__(self, setting_s: float | None = None) -> None:
        self.setting_s = setting_s
        self.now = self.cpu_s = 0.0
        self.output = 0
        self.course = Course()
        self.wall = 1.8e9
        """What the script's clock shows at time 0."""
        self.detector = HangDetector.begin(self._signs())

    def _signs(self, *, evaluates: bool = False, saves: bool = False) -> Signs:
        course = self.course
        seen = Steps(course.moves, course.gap_s, course.in_stride, evaluates, saves)
        steps = seen if course.moved_at is not None else None
        return Signs(self.now, self.output, self.cpu_s, None, steps=steps)

    def goes_on(
        self,
        seconds: float,
        *steps: int,
        busy: bool = True,
        evaluates: bool = False,
        saves: bool = False,
        lines: int = 0,
        late: bool = False,
    ) -> bool:
        """For so long, at the end of which it tells these steps. Whether it counts as hung."""
        end = self.now + seconds
        while self.now < end:
            self.now = end if late else min(end, self.now + PAUSE_S)
            self.cpu_s += PAUSE_S if busy else 0.0
            self.output += lines
            if self.now >= end:
                at = self.wall + self.now
                self.course = self.course.take(
                    [Reading(Origin.OUTPUT, Unit.STEP, step, at) for step in steps], self.now
                )
            signs = self._signs(evaluates=evaluates, saves=saves)
            looked = self.detector
            self.detector = looked.excuse(signs) if late else looked.look(signs)
            limit_s = self.detector.limit_s(self.setting_s)
            if limit_s is not None and self.detector.idle_s >= limit_s:
                return True
        return False

    def trains(self, first: int, count: int, *, each_s: float = 5.0) -> bool:
        return any(self.goes_on(each_s, step) for step in range(first, first + count))


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize(("each_s", "limit_s"), [(1.0, 120.0), (5.0, 120.0), (60.0, 600.0)])
def test_under_auto_it_hangs_after_ten_gaps_and_two_minutes(
    busy: bool, each_s: float, limit_s: float
) -> None:
    script = Watched()
    assert not script.trains(1, 20, each_s=each_s)
    assert not script.goes_on(limit_s - PAUSE_S, busy=busy, lines=1)
    assert script.goes_on(PAUSE_S, busy=busy, lines=1)


def test_under_auto_nothing_is_judged_before_the_third_step() -> None:
    script = Watched()
    assert not script.goes_on(4000.0, busy=False)
    assert not script.trains(0, 3)
    assert not script.goes_on(4000.0, busy=False)


def test_steps_that_all_come_at_one_look_count_as_well() -> None:
    """Fifty fast ones and then none: the first and the last of them were read."""
    script = Watched()
    script.goes_on(5.0, 1, 50)
    assert script.goes_on(130.0)


def test_an_hour_of_an_odd_but_healthy_script() -> None:
    script = Watched()
    assert not script.goes_on(1500.0, 1), "a long first step"
    assert not script.trains(2, 40)
    for epoch in range(4):
        assert not script.trains(100 * epoch + 42, 20)
        assert not script.goes_on(300.0, evaluates=True), "an evaluation that computes in silence"
        assert not script.goes_on(300.0, evaluates=True, busy=False, lines=1), "one that prints"
        assert not script.trains(100 * epoch + 62, 2)
        assert not script.goes_on(60.0, busy=False), "a save of a minute that nobody sees"
        assert not script.goes_on(300.0, busy=False, saves=True), "one that is seen"
    assert not script.goes_on(900.0, late=True), "the supervisor was stopped"
    assert not script.goes_on(115.0)
    script.wall -= 7200.0
    assert not script.trains(600, 20), "a clock that jumps back"
    script.wall += 90_000.0
    assert not script.trains(620, 20)
    assert script.now > 3600.0


def test_an_evaluation_that_does_nothing_is_none() -> None:
    script = Watched()
    script.trains(1, 20)
    assert script.goes_on(130.0, busy=False, evaluates=True)


def test_an_evaluation_that_spins_for_ever_is_found_in_the_end() -> None:
    script = Watched()
    script.trains(1, 20)
    assert not script.goes_on(APART_S - PAUSE_S, evaluates=True)
    assert script.goes_on(130.0, evaluates=True)


def test_a_number_is_the_least_and_counts_without_steps() -> None:
    script = Watched(setting_s=30.0)
    assert script.goes_on(35.0, busy=False)
    script = Watched(setting_s=30.0)
    assert not script.goes_on(300.0), "it computes, and has told no step"
    assert not script.trains(1, 10, each_s=10.0)
    assert not script.goes_on(95.0)
    assert script.goes_on(10.0), "ten times the usual time between two steps"


def test_the_first_checkpoint_alone_does_not_make_steps_count() -> None:
    """The next one may be far longer off than the setting."""
    script = Watched(setting_s=60.0)
    assert not script.goes_on(900.0, 400)
    assert not script.goes_on(900.0, 401)


def test_a_heartbeat_alone_is_judged_by_its_own_gaps() -> None:
    rows: list[Row] = [(0, 0, 0, None), *((10.0 * n, 0, n, n) for n in range(1, 9))]
    detector = watched(*rows)
    assert detector.limit_s(None) == 120.0
    assert detector.limit_s(20.0) == 100.0
    assert watched(*rows[:3]).limit_s(None) is None


def test_what_it_says_at_its_socket_is_a_heartbeat_too() -> None:
    detector = HangDetector.begin(Signs(0.0, 0, 0.0, None))
    for n in range(1, 9):
        detector = detector.look(Signs(10.0 * n, n, float(n), None, watchdog=n))
    assert (detector.beats, detector.idle_s, detector.limit_s(20.0)) == (True, 0.0, 100.0)
    detector = detector.look(Signs(100.0, 99, 99.0, None, watchdog=8))
    assert detector.idle_s == 20.0
