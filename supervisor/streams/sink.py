"""One output and the thread that writes to it.

Why a thread: a write to a terminal, a pipe or a disk may block for as long as the other side
likes. Where the kernel allows it, we write without blocking all the same (see ``targets``). So
what was written is known to the byte at any moment, a thread that waits can be told to stop, and
while the reader keeps up there is nothing for the thread to do: the loop writes at once, at half
the CPU of a hand-over, and the thread takes what did not fit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from supervisor.streams.targets import Target, target_of

Policy = Literal["block", "drop"]

CAPACITY_BYTES = 1 << 20
_BATCH_PARTS = 64
_BATCH_BYTES = 1 << 18
"""At most so much goes to the kernel in one call."""
_OWN_BYTES = 1 << 16
"""The queue's reserve for the supervisor's own lines."""
_MID_LINE_S = 0.25
"""How long a line of ours waits for an unfinished line before it."""

_NO_THREAD_S = 0.05
"""Where no thread is to be had: how often the loop writes, and for how long at once."""
_STOP_S = 0.2
"""How long the end waits for the thread; only a disk's write takes longer."""

_ERASE = b"\r\x1b[K"
# autowrap off while drawing: a line longer than the terminal is wide must not leave rows behind
_DRAW = b"\x1b[?7l%s\x1b[0m\x1b[?7h"


def same_output(fd: int, other_fd: int) -> bool:
    """Whether two descriptors lead to the same pipe, terminal, socket or file (``2>&1``)."""
    try:
        return os.path.samestat(os.fstat(fd), os.fstat(other_fd))
    except OSError:
        return False


def console(
    stdout_fd: int = 1,
    stderr_fd: int = 2,
    *,
    capacity_bytes: int = CAPACITY_BYTES,
    policy: Policy = "block",
    in_place: bool = False,
    on_broken: Callable[[Sink, OSError], None] | None = None,
) -> tuple[Sink, Sink]:
    """Sinks for our own stdout and stderr: one and the same where both lead to one output.

    Two threads that write to one pipe would tear each other's lines.
    """
    out = Sink(
        stdout_fd,
        name="stdout",
        capacity_bytes=capacity_bytes,
        policy=policy,
        in_place=in_place,
        on_broken=on_broken,
    )
    if same_output(stdout_fd, stderr_fd):
        return out, out
    err = Sink(
        stderr_fd,
        name="stderr",
        capacity_bytes=capacity_bytes,
        policy=policy,
        in_place=in_place,
        on_broken=on_broken,
    )
    return out, err


class Sink:
    """One output, owned by a thread of its own with a bounded queue.

    Everything but the writing happens on the event loop's thread, and nothing there blocks.
    Chunks are written in the order of their `offer`, each one whole before the next.

    - Policy ``block``: a pump looks at `full` before it reads, so the child waits. What has
      been offered is always taken, so the queue holds at most ``capacity_bytes`` and one chunk
      of each pump.
    - Policy ``drop``: what comes when ``capacity_bytes`` are queued is left out and counted
      (`dropped_bytes`, `dropped_lines`).
    - An output that fails (EPIPE, ENOSPC, …) is `broken`: what is queued and what comes later is
      thrown away and counted in `discarded_bytes`. It is never `full` again, so no child waits
      for it. ``on_broken`` is called once, on the loop.

    At any time ``offered_bytes == written_bytes + dropped_bytes + discarded_bytes +
    unwritten_bytes``.

    ``output`` is a descriptor, which stays the caller's, or a `RotatingFile`. Must be made on a
    running loop.
    """

    def __init__(
        self,
        output: int | Target,
        *,
        name: str,
        capacity_bytes: int = CAPACITY_BYTES,
        policy: Policy = "block",
        in_place: bool = False,
        on_broken: Callable[[Sink, OSError], None] | None = None,
    ) -> None:
        if capacity_bytes < 1:
            raise ValueError(f"capacity_bytes must be 1 or more, not {capacity_bytes}")
        self.name = name
        self.policy = policy
        self.terminal = isinstance(output, int) and os.isatty(output)
        self.in_place = self.terminal or in_place
        """Unfinished lines may be drawn: it is a terminal, or leads to one at last."""
        self.broken = False
        self.error: OSError | None = None
        self.offered_bytes = 0
        self.written_bytes = 0
        self.dropped_bytes = 0
        self.dropped_lines = 0
        self.discarded_bytes = 0
        self._capacity = capacity_bytes
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._target = target_of(output) if isinstance(output, int) else output
        # Between the threads; whoever changes one of these holds the lock.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0  # bytes offered and not yet written, in flight included
        self._sealed = False
        self._room_wanted: list[Callable[[], None]] = []
        self._goals: list[tuple[int, asyncio.Future[None]]] = []
        self._progress_at = time.monotonic()
        self._longest_stall_s = 0.0
        self._thread: threading.Thread | None = None
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._wake_fd = -1
        self._on_loop_timer: asyncio.TimerHandle | None = None
        """Set while the loop writes, for want of a thread."""
        # The loop's alone: what the reader sees at the end of the output.
        self._mid_line = False
        self._own: list[bytes] = []  # lines of ours that wait for the end of a line
        self._own_bytes = 0
        self._own_timer: asyncio.TimerHandle | None = None
        self._drawn = b""  # the unfinished line that is drawn on the terminal
        self._drawn_by: object = None

    # ------------------------------------------------------------------ state

    @property
    def full(self) -> bool:
        """No pump should offer more now. Always False for ``drop`` and for a broken output."""
        return self._queued >= self._capacity and self.policy == "block" and not self._gone

    @property
    def takes(self) -> bool:
        """A chunk that is offered now is not left out."""
        return self._queued < self._capacity or self.policy == "block"

    @property
    def unwritten_bytes(self) -> int:
        """Bytes that were taken and have not reached the output."""
        return self._queued + self._own_bytes

    @property
    def _gone(self) -> bool:
        return self.broken or self._sealed

    def stalled_s(self) -> float:
        """Seconds for which the output has taken nothing though there was something to write."""
        with self._lock:
            return time.monotonic() - self._progress_at if self._queued else 0.0

    @property
    def longest_stall_s(self) -> float:
        """The longest time so far for which the output took nothing, the present one included."""
        return max(self._longest_stall_s, self.stalled_s())

    # ------------------------------------------------------------------ offering, on the loop

    def offer(self, chunk: bytes, owner: object = None) -> bool:
        """Take a chunk to be written. False: it was left out (``drop``) or is thrown away.

        On a terminal, ``owner`` says whose unfinished line is finished by this chunk.
        """
        if not chunk:
            return True
        if self._drawn:
            return self._offer_above(chunk, owner)
        if self._own:
            return self._offer_around_own(chunk)
        taken = self._put(chunk)
        if taken:
            self._mid_line = not chunk.endswith(b"\n")
        return taken

    def offer_line(self, line: bytes) -> bool:
        """Take a line of the supervisor's own, with its newline. False: left out and counted.

        It is never in the middle of another line: where the output stands in an unfinished line
        (raw format), it waits for that line's end, and after a short time begins a new line. It
        is taken even when the queue is full, up to a reserve.
        """
        if self._queued + self._own_bytes >= self._capacity + _OWN_BYTES or self._gone:
            self._leave_out(line)
            return False
        if self._drawn:
            return self._offer_above(line, None)
        if not self._mid_line:
            return self._put(line, own=True)
        self.offered_bytes += len(line)
        self._own.append(line)
        self._own_bytes += len(line)
        if self._own_timer is None:
            self._own_timer = self._loop.call_later(_MID_LINE_S, self._force_own)
        return True

    def draw(self, line: bytes, owner: object) -> None:
        """On a terminal: show an unfinished line at the bottom, in place of the one before.

        It is left out, uncounted, when the queue is full: the next one will do as well.
        """
        if self._queued >= self._capacity or self._gone or self._own or not self.in_place:
            return
        if line:
            self._drawn, self._drawn_by = line, owner
            self._put(_ERASE + _DRAW % line)
        elif self._drawn and self._drawn_by is owner:
            self._drawn = b""
            self._put(_ERASE)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, on the loop, when the queue is half empty (or thrown away)."""
        with self._lock:
            if not self._gone and self._queued > self._capacity // 2:
                self._room_wanted.append(callback)
                return
        self._loop.call_soon(callback)

    # ------------------------------------------------------------------ the end, on the loop

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that has been offered by now is written or thrown away.

        False: it was not within ``timeout_s`` seconds.
        """
        self._force_own()
        with self._lock:
            goal = self._settled + self._queued
            if not self._queued:
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

    async def drain(self, timeout_s: float) -> int:
        """Write what is queued, within ``timeout_s`` seconds, and then no more.

        Returns how many bytes could not be written, those thrown away by a broken output not
        among them. The number is exact, except for a disk that is in the middle of a write.
        """
        await self.flush(timeout_s)
        with self._lock:
            self._sealed = True
            self._wake()
        if self._thread is None:
            self._never_started()
        # what the thread is writing at this moment is not counted yet
        await asyncio.wait({self._stopped}, timeout=_STOP_S)
        return self.unwritten_bytes

    def close(self, timeout_s: float = _STOP_S) -> None:
        """Stop writing. What is still queued stays unwritten and counted.

        A thread that hangs in a disk's write is left behind after ``timeout_s`` seconds; it does
        not hold the exit.
        """
        with self._lock:
            self._sealed = True
            self._wake()
        if self._own_timer is not None:
            self._own_timer.cancel()
            self._own_timer = None
        if self._thread is None:
            self._never_started()
        else:
            self._thread.join(timeout_s)

    def _never_started(self) -> None:
        if self._on_loop_timer is not None:
            self._on_loop_timer.cancel()
            self._on_loop_timer = None
        if not self._stopped.done():
            self._target.close()
            self._stopped.set_result(None)

    # ------------------------------------------------------------------ the loop's side

    def _put(self, chunk: bytes, *, own: bool = False) -> bool:
        size = len(chunk)
        self.offered_bytes += size
        rest: bytes | memoryview = chunk
        if not self._queued and self._target.instant and not self._gone:
            # The thread is idle and the output may well have room: most chunks end here.
            written = self._write_at_once(chunk)
            if written == size:
                return True
            rest = memoryview(chunk)[written:]
        if self._thread is None and not self._gone and self._on_loop_timer is None:
            self._start()
        with self._lock:
            if self._gone:
                self.discarded_bytes += len(rest)
                return False
            if own or self.takes:
                if not self._queue:
                    if not self._queued:
                        self._progress_at = time.monotonic()
                    self._work.notify()
                self._queue.append(rest)
                self._queued += len(rest)
                return True
        self.dropped_bytes += size
        self.dropped_lines += chunk.count(b"\n")
        return False

    def _write_at_once(self, chunk: bytes) -> int:
        try:
            written = self._target.write((chunk,))
        except BlockingIOError:
            return 0
        except OSError as error:
            self._break(error)
            return 0
        self.written_bytes += written
        return written

    def _leave_out(self, line: bytes) -> None:
        self.offered_bytes += len(line)
        with self._lock:
            if self._gone:
                self.discarded_bytes += len(line)
                return
        self.dropped_bytes += len(line)
        self.dropped_lines += 1

    def _offer_above(self, chunk: bytes, owner: object) -> bool:
        """Whole lines go above the unfinished line that is drawn at the bottom."""
        if owner is not None and owner is self._drawn_by:
            self._drawn = b""
        tail = _DRAW % self._drawn if self._drawn else b""
        return self._put(_ERASE + chunk + tail)

    def _offer_around_own(self, chunk: bytes) -> bool:
        """Lines of ours have waited for a line to end, and this chunk may end it."""
        end = chunk.find(b"\n") + 1
        if not end:
            return self._put(chunk)
        taken = self._put(chunk[:end])
        self._release_own()
        return self.offer(chunk[end:]) and taken

    def _force_own(self) -> None:
        if self._own:
            self._put(b"\n", own=True)
            self._release_own()

    def _release_own(self) -> None:
        if self._own_timer is not None:
            self._own_timer.cancel()
            self._own_timer = None
        lines = b"".join(self._own)
        self._own.clear()
        self.offered_bytes -= len(lines)  # counted when they came
        self._own_bytes = 0
        self._mid_line = False
        self._put(lines, own=True)

    def _start(self) -> bool:
        """Start the thread; False where none is to be had, or no descriptor: then the loop writes,
        until there is one."""
        try:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            pass
        else:
            thread = threading.Thread(target=self._run, name=f"sink {self.name}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                os.close(self._wake_fd)
                self._wake_fd = -1
            else:
                self._thread = thread
                return True
        self._on_loop_timer = self._loop.call_later(_NO_THREAD_S, self._write_on_loop)
        return False

    def _write_on_loop(self) -> None:
        """In the thread's stead: write what can be written, and look for a thread again.

        A file's write may hold the loop, for as long as the disk takes.
        """
        self._on_loop_timer = None
        if self._gone or not self._queue or self._start():
            return
        deadline = time.monotonic() + _NO_THREAD_S
        try:
            while self._queue and time.monotonic() < deadline:
                part = self._queue[0]
                written = self._target.write((part,))
                if written == len(part):
                    self._queue.popleft()
                else:
                    self._queue[0] = memoryview(part)[written:]
                self._account(written)
        except BlockingIOError:
            pass
        except OSError as error:
            self._break(error)

    def _wake(self) -> None:
        """With the lock held."""
        self._work.notify()
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)
        self._call_back_all()

    # ------------------------------------------------------------------ the thread's side

    @property
    def _settled(self) -> int:
        return self.written_bytes + self.discarded_bytes

    def _run(self) -> None:
        # A signal must interrupt the loop's thread, whose handlers are waiting for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while batch := self._next_batch():
                self._write(batch)
        except OSError as error:
            self._break(error)
        except Exception as error:  # noqa: BLE001 - a defect here must not hold the children
            self._break(OSError(0, f"{type(error).__name__}: {error}"))
        finally:
            with contextlib.suppress(OSError):
                self._target.close()
            with self._lock:
                os.close(self._wake_fd)
                self._wake_fd = -1
            self._on_loop(_resolve, self._stopped)

    def _next_batch(self) -> list[bytes | memoryview]:
        """Wait for work; empty when there is to be no more."""
        with self._lock:
            while not self._queue and not self._sealed:
                self._work.wait()
            batch: list[bytes | memoryview] = []
            size = 0
            while (
                self._queue
                and not self._sealed
                and len(batch) < _BATCH_PARTS
                and size < _BATCH_BYTES
            ):
                chunk = self._queue.popleft()
                batch.append(chunk)
                size += len(chunk)
            return batch

    def _write(self, parts: list[bytes | memoryview]) -> None:
        while parts and not self._sealed:
            try:
                written = self._target.write(parts)
            except BlockingIOError:
                self._target.wait(self._wake_fd)
                continue
            self._account(written)
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if written:
                parts[0] = memoryview(parts[0])[written:]

    def _account(self, written: int) -> None:
        with self._lock:
            self.written_bytes += written
            self._queued -= written
            now = time.monotonic()
            self._longest_stall_s = max(self._longest_stall_s, now - self._progress_at)
            self._progress_at = now
            if self._room_wanted and self._queued <= self._capacity // 2:
                self._call_back_all()
            if self._goals:
                self._reach_goals()

    def _break(self, error: OSError) -> None:
        with self._lock:
            self.broken, self.error = True, error
            self.discarded_bytes += self._queued
            self._queued = 0
            self._queue.clear()
            self._call_back_all()
            self._reach_goals()
        self._on_loop(self._say_broken)

    def _say_broken(self) -> None:
        if self._on_broken is not None and self.error is not None:
            self._on_broken(self, self.error)

    def _call_back_all(self) -> None:
        """With the lock held."""
        wanted, self._room_wanted = self._room_wanted, []
        for callback in wanted:
            self._on_loop(callback)

    def _reach_goals(self) -> None:
        """With the lock held."""
        for goal, future in self._goals:
            if self._settled >= goal:
                self._on_loop(_resolve, future)

    def _on_loop(self, callback: Callable[..., None], *args: object) -> None:
        # RuntimeError: the loop is closed, and nobody waits any more
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
