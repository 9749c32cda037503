"""Does it still do something? Pure: counts for how long nothing has moved.

Output, CPU time and a touched heartbeat file are signs of life. CPU time counts only at a rate: a
process that waits for ever still wakes up a few times a second.
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
    heartbeat: float | None
    """The file's modification time; None where there is none."""


@dataclass(frozen=True, slots=True)
class Stillness:
    """The last look, and when something last moved."""

    last: Signs
    moved_at: float

    @classmethod
    def begin(cls, signs: Signs) -> Stillness:
        return cls(signs, signs.at)

    def look(self, signs: Signs) -> Stillness:
        elapsed_s = max(signs.at - self.last.at, 1e-9)
        busy = signs.cpu_s < self.last.cpu_s or (
            (signs.cpu_s - self.last.cpu_s) / elapsed_s >= BUSY
        )
        moved = (
            busy
            or signs.output_bytes != self.last.output_bytes
            or signs.heartbeat != self.last.heartbeat
        )
        return Stillness(signs, signs.at if moved else self.moved_at)

    @property
    def idle_s(self) -> float:
        return self.last.at - self.moved_at
