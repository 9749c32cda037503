"""The hang detector: for how long a script has shown no sign of life. Pure.

Output, CPU time and a touched heartbeat file are signs of life. CPU time counts only at a rate: a
process that waits for ever still wakes up a few times a second. Once the script has touched its
heartbeat file, that alone counts: it says itself when it makes progress, and neither the CPU time
of a loop that spins nor the output of one that fails and tries again says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BUSY: Final = 0.02
"""Cores. A tree that uses less between two looks is waiting."""


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


@dataclass(frozen=True, slots=True)
class HangDetector:
    """The last look, and when something last moved."""

    last: Signs
    moved_at: float
    beats: bool
    """The script has touched its heartbeat file."""

    @classmethod
    def begin(cls, signs: Signs, heartbeat_before: int | None = None) -> HangDetector:
        """``heartbeat_before``: what stood there before the script was started."""
        return cls(signs, signs.at, _touched(heartbeat_before, signs.heartbeat))

    def look(self, signs: Signs) -> HangDetector:
        elapsed_s = max(signs.at - self.last.at, 1e-9)
        touched = _touched(self.last.heartbeat, signs.heartbeat)
        busy = signs.cpu_s < self.last.cpu_s or (
            (signs.cpu_s - self.last.cpu_s) / elapsed_s >= BUSY
        )
        beats = self.beats or touched
        moved = touched or (not beats and (busy or signs.output_bytes != self.last.output_bytes))
        return HangDetector(signs, signs.at if moved else self.moved_at, beats)

    def excuse(self, signs: Signs) -> HangDetector:
        """It could not have moved since the last look: its time begins anew."""
        return HangDetector(signs, signs.at, self.look(signs).beats)

    @property
    def idle_s(self) -> float:
        return self.last.at - self.moved_at


def _touched(before: int | None, now: int | None) -> bool:
    return now is not None and now != before
