"""The timeline as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

END: Final = b"event: end\ndata: %s\n\n"
"""The last event of a stream; its data is the final ``/status``."""
STILL_HERE: Final = b": still here\n\n"
"""So that a reader, and whatever is between us, knows that the connection lives."""


def number_of(text: str) -> int | None:
    """The number that an event's id holds; None where it holds none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


class EventFeed:
    """The timeline as server-sent events: a bounded past, and a bounded queue for each reader."""

    def __init__(self, *, max_clients: int, queue_length: int = 256, history: int = 256) -> None:
        self._max_clients = max_clients
        self._queue_length = queue_length
        self._history: deque[tuple[int, bytes]] = deque(maxlen=history)
        self._clients: dict[asyncio.Queue[bytes | None], Callable[[], None]] = {}
        self._next_id = 1
        self.closed = False

    def publish(self, event: Mapping[str, object]) -> None:
        """Send an event to all readers; one that does not keep up is cut off, never waited for."""
        number = self._next_id
        self._next_id += 1
        # json.dumps escapes line ends, which would end the event.
        chunk = f"id: {number}\ndata: {json.dumps(event, default=str)}\n\n".encode()
        self._history.append((number, chunk))
        for queue, cut_off in list(self._clients.items()):
            try:
                queue.put_nowait(chunk)
            except asyncio.QueueFull:
                del self._clients[queue]
                cut_off()

    def subscribe(
        self, cut_off: Callable[[], None], *, after: int
    ) -> asyncio.Queue[bytes | None] | None:
        """Give a queue that holds the past since event ``after``; ``None`` in it ends the feed.

        ``cut_off`` is called when the queue is full. Returns None when there are too many readers.
        """
        if self.closed or len(self._clients) >= self._max_clients:
            return None
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(self._queue_length)
        past = [chunk for number, chunk in self._history if number > after]
        if past:
            queue.put_nowait(b"".join(past))
        self._clients[queue] = cut_off
        return queue

    def unsubscribe(self, queue: asyncio.Queue[bytes | None]) -> None:
        self._clients.pop(queue, None)

    def close(self, last: bytes = b"") -> None:
        """It is the end; ``last`` is what is still said of it."""
        self.closed = True
        for queue, cut_off in list(self._clients.items()):
            try:
                if last:
                    queue.put_nowait(END % last)
                queue.put_nowait(None)
            except asyncio.QueueFull:
                cut_off()
