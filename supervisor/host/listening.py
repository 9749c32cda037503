"""What the script's output says of its training: the end of what was written since the last look is
read, out of what is kept in memory anyway."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from supervisor.streams.recent import Piece, Recent
from supervisor.training.reading import Origin, Reading
from supervisor.training.words import END_BYTES, Found, Words

HEAD_BYTES: Final = 1 << 10
"""The first line that says something is read for itself, if it comes so soon: a script that comes
from step 1 to 50 between two looks, and stops there, has moved."""
_HEADER: Final = b"Epoch "
"""Keras writes it once an epoch; the bars after it count from there."""
_LINE_BYTES: Final = 200


class Listening:
    """Of one attempt of one process."""

    def __init__(self, recent: Recent, process: str, pattern: str, position: int) -> None:
        """``pattern``: the user's own, see ``SUPERVISOR_PROGRESS_PATTERN``; empty: none.
        ``position``: in ``recent``, where the process began."""
        self._recent = recent
        self._process = process
        self._pattern = re.compile(pattern) if pattern else None
        self._position = position
        self._streams: dict[str, Words] = {}

    @property
    def evaluating(self) -> bool:
        return any(words.evaluating for words in self._streams.values())

    def read(self) -> list[Reading]:
        """What has come since the last look; the oldest first."""
        pieces = self._recent.since(self._position)
        lost = bool(pieces) and pieces[0].begin > self._position
        self._position = self._recent.end
        by_stream: dict[str, list[Piece]] = {}
        for piece in pieces:
            if piece.source.process == self._process:
                by_stream.setdefault(piece.source.stream, []).append(piece)
        return [
            reading
            for stream, own in by_stream.items()
            for reading in self._read(stream, own, lost=lost)
        ]

    def _read(self, stream: str, pieces: list[Piece], *, lost: bool) -> Iterator[Reading]:
        words = before = self._streams.get(stream) or Words(pattern=self._pattern)
        cut = lost or sum(len(piece.data) for piece in pieces) > END_BYTES
        data = b"".join(piece.data for piece in pieces)
        if cut:
            data = _cut(data)
        else:
            words, read, at = _first(words, pieces)
            data = data[read:]
            if words.found is not before.found:
                yield _reading(words.found, at, stream)
        last = words.found
        words = words.read(data.decode("utf-8", "replace"), cut=cut)
        if words.found is not last:
            yield _reading(words.found, pieces[-1].at, stream)
        self._streams[stream] = words


def _reading(found: Found | None, at: float, stream: str) -> Reading:
    assert found is not None
    return Reading(Origin.OUTPUT, found.unit, found.step, at, found.total, found.loss, stream)


def _first(words: Words, pieces: list[Piece]) -> tuple[Words, int, float]:
    """After the first line that says something, if it is one of the first few; how many bytes that
    were, and when they came."""
    before, read = words.found, 0
    for piece in pieces:
        for line in piece.data.splitlines(keepends=True):
            if words.found is not before or read > HEAD_BYTES:
                return words, read, piece.at
            words = words.read(line.decode("utf-8", "replace"))
            read += len(line)
        if words.found is not before:
            return words, read, piece.at
    return words, read, pieces[-1].at


def _cut(data: bytes) -> bytes:
    """Its end, behind the last header before that; up to the first end of a line it is no line."""
    kept = data[-END_BYTES:]
    at = data.rfind(_HEADER, 0, len(data) - len(kept))
    header = data[at : at + _LINE_BYTES].partition(b"\n")[0] if at >= 0 else b""
    return b"\n" + header + b"\n" + kept.partition(b"\n")[2]
