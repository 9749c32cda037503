"""What counts as a sign of life, without waiting for any."""

import pytest

from supervisor.children.watchdog import HangDetector, Signs

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
