"""One pipe of a child, read on the event loop and handed to its outputs."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import termios
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from supervisor.streams.formats import Formatter
from supervisor.streams.sink import Sink

TAIL_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
"""At most so much is read before other descriptors, timers and signals have their turn.

Twice and four times as much took more CPU: the chunks that are made of it no longer fit a core's
cache, and each is a new mapping for malloc.
"""
PIPE_BYTES = 256 * 1024
"""Asked of the kernel for the pipe. It grants less to a user who has many large pipes."""
_LEAST_READ_BYTES = 4 * 1024
_TURN_S = 0.01
"""A turn that takes longer, such as for a megabyte of blank lines, makes the next one shorter."""
_SMALL_BYTES = 2048
_OFTEN_S = 0.004
_REST_S = 0.001
"""A child that writes small pieces often is read once in so long, not once for each piece."""
_TAIL_PIECES = 512


@dataclass(slots=True)
class Branch:
    """One way of a stream to one output. The formatter is this stream's alone."""

    formatter: Formatter
    sink: Sink
    _dropped_lines: int = 0

    def __post_init__(self) -> None:
        if self.formatter.live and not self.sink.in_place:
            raise ValueError(f"{self.sink.name} is no terminal: nothing can be drawn in place")

    def feed(self, data: bytes, now: float) -> None:
        self._hand_on(self.formatter.feed(data, now))

    def tick(self, now: float) -> None:
        self._hand_on(self.formatter.tick(now))
        if self.formatter.live:
            self.sink.draw(self.formatter.state(), self)

    def flush(self, now: float) -> None:
        self._hand_on(self.formatter.flush(now))
        if self.formatter.live:
            self.sink.draw(b"", self)

    def _hand_on(self, chunk: bytes) -> None:
        if self._dropped_lines:
            said = self.formatter.note(
                f"{self._dropped_lines} lines left out: the output was too slow"
            )
            if self.sink.takes:
                self._dropped_lines = 0
                chunk = said + chunk
        if not chunk:
            return
        if not self.sink.offer(chunk, self) and not self.sink.broken:
            self._dropped_lines += chunk.count(b"\n")


def newlines(data: bytes) -> int:
    """How many newlines there are.

    `bytes.count` looks at every byte in turn, which was a third of what raw output cost;
    `bytes.replace` jumps from one newline to the next, which is slower where lines are short.
    """
    if data.count(b"\n", 0, 1024) > 32:
        return data.count(b"\n")
    return len(data) - len(data.replace(b"\n", b""))


class Pump:
    """Reads one pipe of a child until its end and hands every byte to its branches.

    The pump owns ``fd``, the pipe's read end, from here on: it makes it non-blocking and closes
    it. It reads on only while every sink has room, so that a slow output holds the child and
    nobody else. It keeps the last ``tail_bytes`` bytes, and tells ``tap`` each piece that it read.

    Must be made on a running loop.
    """

    def __init__(
        self,
        fd: int,
        branches: Sequence[Branch],
        *,
        tail_bytes: int = TAIL_BYTES,
        tap: Callable[[bytes], None] | None = None,
    ) -> None:
        self.bytes_read = 0
        self.started_at = time.monotonic()
        self.last_output_at = self.started_at
        """`time.monotonic` of the last byte read, or of the pump's making."""
        self.held = False
        """An output is full: nothing is read, so that the child is, or soon will be, held."""
        self._fd = fd
        self._branches = tuple(branches)
        self._tail_bytes = tail_bytes
        self._tap = tap
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._newlines = 0
        self._read_bytes = READ_BYTES
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._reading = False
        self._finishing = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._rest: asyncio.TimerHandle | None = None
        os.set_blocking(fd, False)
        # a larger pipe means fewer wake-ups and a child that is held less often
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    # ------------------------------------------------------------------ what it knows

    @property
    def lines(self) -> int:
        """Newlines read so far."""
        return self._newlines

    @property
    def at_end(self) -> bool:
        """The pipe's last writer is gone and everything has been read."""
        return self._ended.done()

    def tail(self) -> bytes:
        """The last bytes that were read, at most ``tail_bytes``."""
        return b"".join(self._tail)[-self._tail_bytes :] if self._tail_bytes else b""

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        self._resume()

    async def finish(self, timeout_s: float) -> None:
        """After the child's end: read what is left, until the end of the pipe or the bound.

        A process that inherited the pipe and holds it, or an output that is full, cannot make
        this longer than ``timeout_s`` seconds. What is in the pipe at the bound is read then,
        so it is in the tail and counted as taken by the sinks. Half lines are given out.
        """
        self._finishing = True
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
            self._resume()
        try:
            await asyncio.wait({self._ended}, timeout=timeout_s)
            if not self.at_end:
                self._read_what_is_there()
        finally:
            self._end()

    def close(self) -> None:
        """Close the pipe; safe to call at any time, and twice."""
        self._end()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # ------------------------------------------------------------------ reading

    def _on_readable(self) -> None:
        data = self._read(self._read_bytes)
        if data is None:
            return
        if not data:
            self._end()
            return
        now = time.monotonic()
        since, self.last_output_at = now - self.last_output_at, now
        self._take(data, now)
        if time.monotonic() - now > _TURN_S:
            self._read_bytes = max(_LEAST_READ_BYTES, self._read_bytes // 2)
        elif self._read_bytes < READ_BYTES:
            self._read_bytes *= 2
        if any(branch.sink.full for branch in self._branches):
            self._pause()
            self._await_room()
        elif len(data) < _SMALL_BYTES and since < _OFTEN_S and not self._finishing:
            self._pause()
            self._rest = self._loop.call_later(_REST_S, self._rested)

    def _read(self, size: int) -> bytes | None:
        """None: nothing there now. Empty: the end."""
        try:
            return os.read(self._fd, size)
        except BlockingIOError:
            return None
        except OSError:  # EIO, of a terminal whose other side is gone
            return b""

    def _take(self, data: bytes, now: float) -> None:
        self.bytes_read += len(data)
        self._newlines += newlines(data)
        self._remember(data)
        if self._tap is not None:
            self._tap(data)
        due: float | None = None
        for branch in self._branches:
            branch.feed(data, now)
            wait = branch.formatter.due_s(now)
            if wait is not None and (due is None or wait < due):
                due = wait
        if due is not None and now + due < self._timer_at:
            self._arm(now, due)

    def _remember(self, data: bytes) -> None:
        tail = self._tail
        tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(tail[0]) >= self._tail_bytes:
            self._tail_size -= len(tail.popleft())
        if len(tail) > _TAIL_PIECES:  # many small pieces cost more than their bytes
            whole = b"".join(tail)
            tail.clear()
            tail.append(whole)

    def _read_what_is_there(self) -> None:
        """Empty the pipe as it is at this moment, whether the sinks have room or not.

        Bounded by the pipe's own size: whoever still writes is not followed.
        """
        count = array.array("i", [0])
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, termios.FIONREAD, count)
        left = count[0]
        now = time.monotonic()
        while left > 0:
            data = self._read(min(left, READ_BYTES))
            if not data:
                return
            left -= len(data)
            self.last_output_at = now
            self._take(data, now)

    # ------------------------------------------------------------------ holding and going on

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _resume(self) -> None:
        if not self._reading and not self.at_end:
            self._reading = True
            self._loop.add_reader(self._fd, self._on_readable)

    def _rested(self) -> None:
        self._rest = None
        self._resume()

    def _await_room(self) -> None:
        for branch in self._branches:
            if branch.sink.full:
                self.held = True
                branch.sink.when_room(self._await_room)
                return
        self.held = False
        self._resume()

    # ------------------------------------------------------------------ what waits for time

    def _arm(self, now: float, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = now + wait_s
        self._timer = self._loop.call_later(wait_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        now = time.monotonic()
        waits = []
        for branch in self._branches:
            if branch.sink.full:
                waits.append(0.25)
                continue
            branch.tick(now)
            wait = branch.formatter.due_s(now)
            if wait is not None:
                waits.append(max(wait, 0.01))
        if waits:
            self._arm(now, min(waits))

    # ------------------------------------------------------------------ the end

    def _end(self) -> None:
        if self._ended.done():
            return
        self._pause()
        for timer in (self._timer, self._rest):
            if timer is not None:
                timer.cancel()
        self._timer = self._rest = None
        now = time.monotonic()
        for branch in self._branches:
            branch.flush(now)
        self._ended.set_result(None)
