"""What this host's processes write, as server-sent events for those who read along.

Nothing is done for a line until somebody reads it, and then once for all readers: what came is cut
into whole lines, secrets are masked, and the events wait in a ring. A reader has a place in that
ring and nothing else, so one that is slow or stands still costs nothing: the ring goes on, and
the reader is told how much it has missed.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from supervisor.status.feed import END, STILL_HERE, number_of
from supervisor.streams.masking import Masker
from supervisor.streams.recent import Piece, Recent, Source

RING_BYTES: Final = 2 << 20
RATE_BYTES_S: Final = 1 << 20
"""Of a flood, this much is made readable in a second. What is more is missing, and counted."""
BURST_BYTES: Final = 4 << 20
_GATHER_S: Final = 0.05
"""A reader that has seen everything waits so long for more than one line."""
_LINE_BYTES: Final = 64 * 1024
"""An unfinished line that is longer is given out in pieces."""
_TURN_BYTES: Final = 64 * 1024
"""The loop has other things to do after this much: to look for secrets in it takes 5 ms."""
HALF_S: Final = 1.0
"""An unfinished line is given out when nothing has followed for so long."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines somebody wants; an empty collection stands for all."""

    processes: Collection[str] = ()
    roles: Collection[str] = ()

    def __contains__(self, source: Source | None) -> bool:
        if source is None:
            return True
        return (not self.processes or source.process in self.processes) and (
            not self.roles or source.role in self.roles
        )


@dataclass(frozen=True, slots=True)
class _Event:
    number: int
    source: Source | None
    """None: it concerns every reader."""
    chunk: bytes


@dataclass(slots=True)
class _Half:
    """The unfinished line of a stream."""

    data: bytes
    at: float
    since: float


class Lines:
    """``host`` is whose lines they are. Belongs to the event loop's thread."""

    def __init__(
        self,
        recent: Recent,
        *,
        host: str,
        mask: Masker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recent = recent
        self._host = host
        self._mask = mask
        self._clock = clock
        self._run = os.urandom(4).hex()
        """So that an id of another supervisor is not taken for one of ours."""
        self._ring: deque[_Event] = deque()
        self._ring_bytes = 0
        self._next = 1
        self._position = 0
        self._halves: dict[Source, _Half] = {}
        self._budget = float(BURST_BYTES)
        self._budget_at = clock()
        self._readers = 0
        self._more = asyncio.Event()
        """Something has come, or it is the end."""
        self._news = asyncio.Event()
        """Replaced whenever the ring has grown."""
        self._task: asyncio.Task[None] | None = None
        self._last: bytes | None = None
        """The end, once it has come."""

    # ------------------------------------------------------------------ whoever reads

    async def follow(
        self, wanted: Wanted, *, after: str = "", heartbeat_s: float, onward: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """Events after the id ``after``, from the oldest that is known where it is none of ours.

        ``onward``: until the end of this host, with a sign of life every ``heartbeat_s`` seconds;
        else only what is here.
        """
        self._begin()
        try:
            yield STILL_HERE  # the headers need not wait for a line
            more = True
            while more:
                more = self._take_in() and self._budget > 0
                await asyncio.sleep(0)  # turn by turn
            seen = self._number_of(after)
            while True:
                last, news = self._last, self._news
                missed, events = self._after(seen)
                if missed:
                    yield self._say({"missing_events": missed})
                for event in events:
                    seen = event.number
                    if event.source in wanted:
                        yield event.chunk
                if self._next - 1 > seen:
                    continue  # the ring has gone on while this reader took its time
                if not onward:
                    return
                if last is not None:
                    yield END % last
                    return
                try:
                    async with asyncio.timeout(heartbeat_s):
                        await news.wait()
                except TimeoutError:
                    yield STILL_HERE
        finally:
            self._readers -= 1
            if not self._readers:
                self._rest()

    def _number_of(self, after: str) -> int:
        run, _, text = after.partition("-")
        number = number_of(text)
        if run == self._run and number is not None and number < self._next:
            return number
        return self._ring[0].number - 1 if self._ring else self._next - 1

    def _after(self, seen: int) -> tuple[int, list[_Event]]:
        """How many events between ``seen`` and the oldest are gone, and those that are there."""
        found: list[_Event] = []
        for event in reversed(self._ring):
            if event.number <= seen:
                break
            found.append(event)
        found.reverse()
        oldest = self._ring[0].number if self._ring else self._next
        return max(0, oldest - seen - 1), found

    def close(self, last: bytes) -> None:
        """It is the end: what is left is made readable, and then ``last`` is said."""
        if self._last is not None:
            return
        if self._readers:
            self._take_in(everything=True)
            for source, half in list(self._halves.items()):
                self._give_half(source, half, self._clock(), whole=True)
        self._last = last
        self._rest()
        self._stir()

    # ------------------------------------------------------------------ from pieces to events

    def _begin(self) -> None:
        self._readers += 1
        if self._task is None and self._last is None:
            self._recent.on_more = self._more.set
            self._task = asyncio.create_task(self._keep_taking_in(), name="lines")

    def _rest(self) -> None:
        self._recent.on_more = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep_taking_in(self) -> None:
        while True:
            pause_s = HALF_S if self._halves else None
            try:
                async with asyncio.timeout(pause_s):
                    await self._more.wait()
            except TimeoutError:
                pass
            self._more.clear()
            await asyncio.sleep(_GATHER_S)
            if self._take_in():
                self._more.set()

    def _take_in(self, *, everything: bool = False) -> bool:
        """Make events of what has come, as much as a turn and the rate allow, or ``everything``.
        Returns whether there is more."""
        now = self._clock()
        self._budget = min(BURST_BYTES, self._budget + (now - self._budget_at) * RATE_BYTES_S)
        self._budget_at = now
        grown = self._next
        pieces = self._recent.since(self._position)
        turn = 0
        for piece in pieces:
            if not everything and (turn >= _TURN_BYTES or self._budget <= 0):
                break
            if piece.begin > self._position:
                self._halves.clear()
                self._put(None, {"missing_bytes": piece.begin - self._position})
            self._position = piece.begin + len(piece.data)
            self._budget -= len(piece.data)
            turn += len(piece.data)
            self._cut(piece, now)
        for source, half in list(self._halves.items()):
            if now - half.since >= HALF_S:
                self._give_half(source, half, now)
        if self._next != grown:
            self._stir()
        return self._position < self._recent.end and bool(pieces)

    def _cut(self, piece: Piece, now: float) -> None:
        """Whole lines go out; the unfinished one waits."""
        half = self._halves.pop(piece.source, None)
        data = half.data + piece.data if half else piece.data
        end = data.rfind(b"\n") + 1
        if end:
            self._give(piece.source, piece.at, data[:end])
        if rest := data[end:]:
            self._halves[piece.source] = half = _Half(rest, piece.at, now)
            if len(rest) > _LINE_BYTES:
                self._give_half(piece.source, half, now)

    def _give_half(self, source: Source, half: _Half, now: float, *, whole: bool = False) -> None:
        """What there is of an unfinished line, but for the end, which may be half a secret."""
        text = half.data.decode("utf-8", "surrogateescape")
        cut = text if whole else text[: self._mask.seam(text)]
        given = cut.encode("utf-8", "surrogateescape")
        if given:
            self._give(source, half.at, given, partial=True)
        rest = half.data[len(given) :]
        if rest:
            self._halves[source] = _Half(rest, half.at, now)
        else:
            del self._halves[source]

    def _give(self, source: Source, at: float, data: bytes, *, partial: bool = False) -> None:
        text = self._mask.text(data.decode("utf-8", "replace"))
        entry: dict[str, object] = {
            "at": round(at, 3),
            "host": self._host,
            "process": source.process,
            "role": source.role,
            "stream": source.stream,
            "text": text,
        }
        if partial:
            entry["partial"] = True
        self._put(source, entry)

    def _put(self, source: Source | None, entry: Mapping[str, object]) -> None:
        number = self._next
        self._next += 1
        # json.dumps escapes line ends, which would end the event.
        named = f"id: {self._run}-{number}\ndata: {json.dumps(entry)}\n\n".encode()
        self._ring.append(_Event(number, source, named))
        self._ring_bytes += len(named)
        while self._ring_bytes > RING_BYTES and len(self._ring) > 1:
            self._ring_bytes -= len(self._ring.popleft().chunk)

    def _say(self, entry: Mapping[str, object]) -> bytes:
        return f"data: {json.dumps({'host': self._host, **entry})}\n\n".encode()

    def _stir(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
