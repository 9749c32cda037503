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
        begin = 0
        if not cut:
            words, begin = _first(words, pieces)
            if words.found is not before.found:
                yield _reading(words.found, pieces[begin - 1].at, stream)
        last = words.found
        data = b"".join(piece.data for piece in pieces[begin:])
        words = words.read((_cut(data) if cut else data).decode("utf-8", "replace"), cut=cut)
        if words.found is not last:
            yield _reading(words.found, pieces[-1].at, stream)
        self._streams[stream] = words


def _reading(found: Found | None, at: float, stream: str) -> Reading:
    assert found is not None
    return Reading(Origin.OUTPUT, found.unit, found.step, at, found.total, found.loss, stream)


def _first(words: Words, pieces: list[Piece]) -> tuple[Words, int]:
    """After the first piece that says something, if it is one of the first few; how many these
    are."""
    before, read, count = words.found, 0, 0
    for piece in pieces:
        read += len(piece.data)
        if read > HEAD_BYTES:
            break
        words = words.read(piece.data.decode("utf-8", "replace"))
        count += 1
        if words.found is not before:
            break
    return words, count


def _cut(data: bytes) -> bytes:
    """Its end, behind the last header before that; up to the first end of a line it is no line."""
    kept = data[-END_BYTES:]
    at = data.rfind(_HEADER, 0, len(data) - len(kept))
    header = data[at : at + _LINE_BYTES].partition(b"\n")[0] if at >= 0 else b""
    return b"\n" + header + b"\n" + kept.partition(b"\n")[2]
