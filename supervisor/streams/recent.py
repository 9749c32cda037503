"""The last of what a host's processes wrote, for whoever asks for it later. In memory, bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

RECENT_BYTES: Final = 1 << 20
_PIECES: Final = 4096
"""A piece of one byte takes as much room as one of two hundred."""


class Source(NamedTuple):
    """Whose bytes they are."""

    process: str
    role: str
    stream: str


class Piece(NamedTuple):
    """Bytes as they were read."""

    source: Source
    begin: int
    """How many bytes came before it, from all sources."""
    at: float
    """Seconds since the epoch."""
    data: bytes


class Recent:
    """Keeps the last `RECENT_BYTES` bytes or so. Nothing is copied or looked at here: `add` is
    called for every piece that is read, and whoever wants lines, or secrets out of them, makes
    them of the pieces when somebody reads them."""

    def __init__(self, capacity_bytes: int = RECENT_BYTES) -> None:
        self.end = 0
        """Bytes that have come so far."""
        self.on_more: Callable[[], None] | None = None
        """Called after each piece, while somebody reads along."""
        self._capacity = capacity_bytes
        self._pieces: deque[Piece] = deque()

    def add(self, source: Source, data: bytes) -> None:
        pieces, begin = self._pieces, self.end
        pieces.append(Piece(source, begin, time.time(), data))
        self.end = end = begin + len(data)
        while len(pieces) > 1 and (end - pieces[0].begin > self._capacity or len(pieces) > _PIECES):
            pieces.popleft()
        if self.on_more is not None:
            self.on_more()

    def since(self, position: int) -> list[Piece]:
        """The pieces that begin at ``position`` or later; what is gone by now is left out."""
        found: list[Piece] = []
        for piece in reversed(self._pieces):
            if piece.begin < position:
                break
            found.append(piece)
        found.reverse()
        return found
