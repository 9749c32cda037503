"""What one output was offered and has not written yet, and the account of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

Policy = Literal["block", "drop"]

_BATCH_PARTS = 64
_BATCH_BYTES = 1 << 18
"""At most so much goes to the kernel in one call."""


class Backlog:
    """A bounded queue of chunks between the loop, which offers, and whoever writes.

    Chunks come out in the order in which they were put. The policy says what happens when
    ``capacity_bytes`` are queued: ``block`` takes all the same, and whoever offers looks at `full`
    first; ``drop`` leaves out and counts.

    At any time ``offered_bytes == written_bytes + dropped_bytes + discarded_bytes +
    queued_bytes``.

    ``on_broken`` is called once, on the loop, when the output has failed. Must be made on a
    running loop.
    """

    def __init__(
        self, capacity_bytes: int, policy: Policy, on_broken: Callable[[OSError], None]
    ) -> None:
        if capacity_bytes < 1:
            raise ValueError(f"capacity_bytes must be 1 or more, not {capacity_bytes}")
        self.capacity_bytes = capacity_bytes
        self.policy = policy
        self.broken = False
        self.error: OSError | None = None
        self.sealed = False
        """Nothing is to be written any more: what is queued stays so."""
        self.offered_bytes = 0
        self.written_bytes = 0
        self.dropped_bytes = 0
        self.dropped_lines = 0
        self.discarded_bytes = 0
        self.queued_bytes = 0
        """Offered and not yet written, in flight included."""
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        # Between the threads; whoever changes one of these, or what is queued, holds the lock.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._chunks: deque[bytes | memoryview] = deque()
        self._room_wanted: list[Callable[[], None]] = []
        self._goals: list[tuple[int, asyncio.Future[None]]] = []
        self._progress_at = time.monotonic()
        self._longest_stall_s = 0.0

    # ------------------------------------------------------------------ state

    @property
    def full(self) -> bool:
        """No pump should offer more now. Always False for ``drop`` and for a broken output."""
        return self.queued_bytes >= self.capacity_bytes and self.policy == "block" and not self.gone

    @property
    def takes(self) -> bool:
        """A chunk that is put now is not left out."""
        return self.queued_bytes < self.capacity_bytes or self.policy == "block"

    @property
    def gone(self) -> bool:
        return self.broken or self.sealed

    def stalled_s(self) -> float:
        """Seconds for which nothing was taken out though there was something to write."""
        with self._lock:
            return time.monotonic() - self._progress_at if self.queued_bytes else 0.0

    @property
    def longest_stall_s(self) -> float:
        """The longest such time so far, the present one included."""
        return max(self._longest_stall_s, self.stalled_s())

    # ------------------------------------------------------------------ the loop's side

    def put(self, chunk: bytes, *, written: int = 0, forced: bool = False) -> bool:
        """Take a chunk whose first ``written`` bytes are written already.

        False: it was left out (``drop``, and not ``forced``) or is thrown away.
        """
        rest = memoryview(chunk)[written:] if written else chunk
        with self._lock:
            self.offered_bytes += len(chunk)
            self.written_bytes += written
            if self.gone:
                self.discarded_bytes += len(rest)
                return False
            if forced or self.takes:
                if not self._chunks:
                    if not self.queued_bytes:
                        self._progress_at = time.monotonic()
                    self._work.notify()
                self._chunks.append(rest)
                self.queued_bytes += len(rest)
                return True
        self.dropped_bytes += len(chunk)
        self.dropped_lines += chunk.count(b"\n")
        return False

    def pass_by(self, size: int) -> None:
        """Count a chunk that was written while nothing was queued: the thread counts nothing
        then, so it needs no lock."""
        self.offered_bytes += size
        self.written_bytes += size

    def leave_out(self, line: bytes) -> None:
        """Count a line that is not taken."""
        self.offered_bytes += len(line)
        with self._lock:
            if self.gone:
                self.discarded_bytes += len(line)
                return
        self.dropped_bytes += len(line)
        self.dropped_lines += 1

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, on the loop, when the queue is half empty (or thrown away)."""
        with self._lock:
            if not self.gone and self.queued_bytes > self.capacity_bytes // 2:
                self._room_wanted.append(callback)
                return
        self._loop.call_soon(callback)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that has been put by now is written or thrown away.

        False: it was not within ``timeout_s`` seconds.
        """
        with self._lock:
            goal = self._settled + self.queued_bytes
            if not self.queued_bytes:
                return True
            future: asyncio.Future[None] = self._loop.create_future()
            self._goals.append((goal, future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._goals = [entry for entry in self._goals if entry[1] is not future]
        return True

    def seal(self) -> None:
        """Let nothing out any more. What is queued stays so, and counted."""
        with self._lock:
            self.sealed = True
            self._work.notify()
            self._call_back_all()

    # ------------------------------------------------------------------ the writer's side

    def take(self) -> list[bytes | memoryview]:
        """Wait for chunks to write, as many as go to the kernel at once; none: sealed.

        They stay queued bytes until they are `wrote`.
        """
        with self._lock:
            while not self._chunks and not self.sealed:
                self._work.wait()
            batch: list[bytes | memoryview] = []
            size = 0
            while (
                self._chunks
                and not self.sealed
                and len(batch) < _BATCH_PARTS
                and size < _BATCH_BYTES
            ):
                chunk = self._chunks.popleft()
                batch.append(chunk)
                size += len(chunk)
            return batch

    def first(self) -> bytes | memoryview | None:
        """The chunk that is next, without taking it: where the loop itself writes."""
        return self._chunks[0] if self._chunks else None

    def wrote_of_first(self, count: int) -> None:
        """So many bytes of `first` are written."""
        part = self._chunks[0]
        if count == len(part):
            self._chunks.popleft()
        else:
            self._chunks[0] = memoryview(part)[count:]
        self.wrote(count)

    def wrote(self, count: int) -> None:
        """So many bytes of what was taken are written."""
        with self._lock:
            self.written_bytes += count
            self.queued_bytes -= count
            now = time.monotonic()
            self._longest_stall_s = max(self._longest_stall_s, now - self._progress_at)
            self._progress_at = now
            if self._room_wanted and self.queued_bytes <= self.capacity_bytes // 2:
                self._call_back_all()
            if self._goals:
                self._reach_goals()

    def break_off(self, error: OSError) -> None:
        """The output has failed: throw away what is queued, and what comes later."""
        with self._lock:
            self.broken, self.error = True, error
            self.discarded_bytes += self.queued_bytes
            self.queued_bytes = 0
            self._chunks.clear()
            self._call_back_all()
            self._reach_goals()
        on_loop(self._loop, self._on_broken, error)

    @property
    def _settled(self) -> int:
        return self.written_bytes + self.discarded_bytes

    def _call_back_all(self) -> None:
        """With the lock held."""
        wanted, self._room_wanted = self._room_wanted, []
        for callback in wanted:
            on_loop(self._loop, callback)

    def _reach_goals(self) -> None:
        """With the lock held."""
        for goal, future in self._goals:
            if self._settled >= goal:
                on_loop(self._loop, resolve, future)


def on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object) -> None:
    """Call back on the loop, from any thread."""
    # RuntimeError: the loop is closed, and nobody waits any more
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *args)


def resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
