"""What checkpoints tell of training: the step in a name, and how often it pays to save. Pure."""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple

from supervisor.training.reading import Unit

_NAMED: Final = re.compile(
    r"(?:^|[^a-z])(steps?|epochs?|iter(?:ation)?s?)[-_.=]?0*(\d{1,15})", re.IGNORECASE
)
_NUMBER: Final = re.compile(r"(\d{1,15})(?!.*\d)")
_FORMATS: Final = re.compile(r"(\.(h5|hdf5|keras|npz|npy|zip|ckpt|safetensors|weights))+$")


class Saved(NamedTuple):
    """A checkpoint that is complete."""

    path: str
    written_ns: int
    """By the clock of files, nanoseconds since the epoch."""
    unit: Unit | None = None
    number: int = 0
    """How far training was: what it holds itself, else what its name says, in this unit; without a
    unit nothing says it."""
    save_s: float | None = None
    """How long it took to write; None: not known."""

    @property
    def step(self) -> int | None:
        return self.number if self.unit is Unit.STEP else None


def by_name(name: str) -> tuple[Unit, int] | None:
    """How far training was by a checkpoint's name: ``model.epoch-12.keras``, ``ckpt-3``.

    TensorFlow's and Keras' numbers count steps, epochs or saves, and the name says rarely which.
    """
    bare = _FORMATS.sub("", name)
    if said := _NAMED.search(bare):
        unit = Unit.EPOCH if said[1].lower().startswith("epoch") else Unit.STEP
        return unit, int(said[2])
    if number := _NUMBER.search(bare):
        return Unit.SAVE, int(number[1])
    return None


def best_interval_s(save_s: float, between_failures_s: float) -> float:
    """How often to save, so that saving and what is done again take the least time together.

    Young's first approximation, the square root of twice the time of a save times the mean time
    between failures (CACM 17(9), 1974), which Daly's higher order (FGCS 22, 2006) hardly changes
    where a save is short beside that time; where it is not, there is no better than to save that
    often.
    """
    return min(math.sqrt(2 * save_s * between_failures_s), between_failures_s)
