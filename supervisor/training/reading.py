"""What is known of training at one moment, whoever says it. Pure."""

from __future__ import annotations

import enum
import math
from typing import Final, NamedTuple

MOST_STEPS: Final = 2**63
"""No step is as great: what says so says nothing."""
APART: Final = ("val", "eval", "test")
"""How names begin of what tells of an evaluation: directories of event files, tags, metrics."""


class Origin(enum.StrEnum):
    """Who says it; what a script says of itself on purpose comes first."""

    FILE = "progress file"
    """``SUPERVISOR_PROGRESS_FILE``, written by the script or by ``supervisor.progress``."""
    NOTICE = "notification"
    """``STATUS=`` at the socket of systemd's protocol."""
    EVENTS = "event files"
    """TensorBoard's."""
    OUTPUT = "output"
    CHECKPOINT = "checkpoints"


class Unit(enum.StrEnum):
    """What is counted."""

    STEP = "step"
    EPOCH = "epoch"
    """That are over."""
    SAVE = "checkpoint"
    """A number in a checkpoint's name, of which nobody says what it counts."""


class Reading(NamedTuple):
    """Something said how far training is."""

    origin: Origin
    unit: Unit
    step: int
    at: float
    """When it was so, seconds since the epoch, by the clock of who says it."""
    total: int | None = None
    """Where it ends, in the same unit."""
    loss: float | None = None
    """May be NaN or infinite."""
    where: str = ""
    """The file or the stream, for people: ``logs/train``, ``stderr``. Readings of one origin, unit
    and place are one counter's."""

    def has_trained(self, begun: int | None) -> bool:
        """Whether something was trained by then: no epoch is over as the first one begins, and who
        counts steps that are done may say at the start how many that are. Others count from 0.

        ``begun``: the step with which the attempt began, where that is known.
        """
        if self.origin in {Origin.FILE, Origin.NOTICE}:
            return self.step > (begun or 0)
        return self.unit is Unit.STEP or self.step > 0

    @property
    def is_apart(self) -> bool:
        """It lies where evaluations are told: ``logs/validation``."""
        return self.where.rpartition("/")[2].lower().startswith(APART)


def whole(number: object) -> int | None:
    """A step or a total that somebody wrote; None where it is none.

    bool is an int of Python, 1e999 is infinite, and Python's integers have no end.
    """
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return int(number) if 0 <= number < MOST_STEPS else None


def real(number: object) -> float | None:
    """A loss that somebody wrote, which may be NaN; None where it is no number."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
