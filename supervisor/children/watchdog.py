"""The hang detector: for how long a script has shown no sign of life, and how long it may. Pure.

Output, CPU time and a touched heartbeat file are signs of life. CPU time counts only at a rate: a
process that waits for ever still wakes up a few times a second. Once the script has touched its
heartbeat file, or its training was seen to come past its third step, that alone counts: neither the
CPU time of a loop that spins nor the output of one that fails and tries again says so. While it
evaluates no step is to be expected, and the other signs count, for a while; and a checkpoint that
grows is a sign of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BUSY: Final = 0.02
"""Cores. A tree that uses less between two looks is waiting."""
LEAST_S: Final = 120.0
GAPS: Final = 10
"""Under ``auto``: so many times the usual time between two steps, and at least `LEAST_S`."""
APART_S: Final = 3600.0
"""So long an evaluation may go on by its CPU time or output alone."""
LATE: Final = 3.0
"""A look that comes after so many times its pause: we were stopped, or the machine was."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What is seen of the script's training."""

    count: int
    """Grows whenever it moves."""
    gap_s: float | None = None
    """The usual time between two movements; None: not known yet."""
    in_stride: bool = False
    """The third step is behind it."""
    evaluates: bool = False
    """As far as it is seen."""
    saves: bool = False
    """Files of a checkpoint or a model have just changed."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What was seen at one look. ``at`` is a steady clock's time in seconds."""

    at: float
    output_bytes: int
    cpu_s: float
    """Of the whole tree; it falls when a member ends."""
    heartbeat: int | None
    """The file's modification time as it stands there; None where there is none. Whether it has
    changed counts and not what it says: clocks jump, and those of a file server are others."""
    watchdog: int = 0
    """How often it has said ``WATCHDOG=1``, which is another heartbeat."""
    steps: Steps | None = None
    """None: nothing has said how far training is."""


@dataclass(frozen=True, slots=True)
class HangDetector:
    """The last look, and when something last moved."""

    last: Signs
    moved_at: float
    beats: bool
    """The script has touched its heartbeat file …"""
    beaten: int = 0
    """… so often, as far as it was seen …"""
    gaps: tuple[float, ...] = ()
    """… after so many seconds each time, the last few."""
    told_at: float = 0.0
    """When it last touched it, or its training moved."""

    @classmethod
    def begin(cls, signs: Signs, heartbeat_before: int | None = None) -> HangDetector:
        """``heartbeat_before``: what stood there before the script was started."""
        beats = _touched(heartbeat_before, signs.heartbeat) or signs.watchdog > 0
        return cls(signs, signs.at, beats, int(beats), told_at=signs.at)

    def look(self, signs: Signs) -> HangDetector:
        elapsed_s = max(signs.at - self.last.at, 1e-9)
        touched = _touched(self.last.heartbeat, signs.heartbeat)
        touched = touched or signs.watchdog != self.last.watchdog
        told = touched or _moved(self.last.steps, signs.steps)
        busy = signs.cpu_s < self.last.cpu_s or (
            (signs.cpu_s - self.last.cpu_s) / elapsed_s >= BUSY
        )
        beats = self.beats or touched
        told_at = signs.at if told else self.told_at
        steps = signs.steps
        apart = steps is not None and steps.evaluates and signs.at - told_at < APART_S
        others = apart or not (beats or _in_stride(signs))
        saves = steps is not None and steps.saves
        moved = told or saves or (others and (busy or signs.output_bytes != self.last.output_bytes))
        gaps = (*self.gaps, signs.at - self.told_at)[-_KEPT:] if touched and self.beats else ()
        return HangDetector(
            signs,
            signs.at if moved else self.moved_at,
            beats,
            self.beaten + touched,
            gaps or self.gaps,
            told_at,
        )

    def excuse(self, signs: Signs) -> HangDetector:
        """It could not have moved since the last look, or we could not have seen it: its time
        begins anew."""
        looked = self.look(signs)
        return HangDetector(signs, signs.at, looked.beats, looked.beaten, self.gaps, signs.at)

    @property
    def goes_by_steps(self) -> bool:
        return _in_stride(self.last)

    @property
    def idle_s(self) -> float:
        return self.last.at - self.moved_at

    def limit_s(self, setting_s: float | None) -> float | None:
        """How long it may show nothing; None: for ever, as yet. ``setting_s``: None is ``auto``."""
        steps = self.last.steps
        gap_s = max((steps.gap_s if steps else None) or 0.0, _median(self.gaps))
        if setting_s is not None:
            return max(setting_s, GAPS * gap_s)
        if _in_stride(self.last) or self.beaten > _THIRD:
            return max(LEAST_S, GAPS * gap_s)
        return None


_KEPT: Final = 65
_THIRD: Final = 3


def _in_stride(signs: Signs) -> bool:
    return signs.steps is not None and signs.steps.in_stride


def _touched(before: int | None, now: int | None) -> bool:
    return now is not None and now != before


def _moved(before: Steps | None, now: Steps | None) -> bool:
    return now is not None and (before is None or now.count != before.count)


def _median(gaps: tuple[float, ...]) -> float:
    return sorted(gaps)[len(gaps) // 2] if gaps else 0.0
