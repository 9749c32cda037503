"""Who writes one output: the loop while the output keeps up, else a thread.

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

from supervisor.streams.backlog import Backlog, on_loop, resolve
from supervisor.streams.targets import Target

_NO_THREAD_S = 0.05
"""Where no thread is to be had: how often the loop writes, and for how long at once."""


class Writer:
    """Empties a backlog into a target, which it owns.

    Everything but the thread's writing happens on the event loop's thread, and nothing there
    blocks. The thread is started by the first chunk that the loop cannot write at once. Must be
    made on a running loop.
    """

    def __init__(self, target: Target, backlog: Backlog, name: str) -> None:
        self._target = target
        self._backlog = backlog
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._thread: threading.Thread | None = None
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._wake_lock = threading.Lock()
        """The thread closes ``_wake_fd``, and its number may be another file's at once."""
        self._wake_fd = -1
        self._on_loop_timer: asyncio.TimerHandle | None = None
        """Set while the loop writes, for want of a thread."""

    # ------------------------------------------------------------------ the loop's side

    def put(self, chunk: bytes, *, forced: bool = False) -> bool:
        """Write a chunk at once, or queue what is left of it. False: as `Backlog.put`."""
        backlog = self._backlog
        written = 0
        if not backlog.queued_bytes and self._target.instant and not backlog.gone:
            # The thread is idle and the output may well have room: most chunks end here.
            written = self._write_at_once(chunk)
            if written == len(chunk):
                backlog.pass_by(written)
                return True
        if self._thread is None and not backlog.gone and self._on_loop_timer is None:
            self._start()
        return backlog.put(chunk, written=written, forced=forced)

    def seal(self) -> None:
        """Let nothing be written any more."""
        self._backlog.seal()
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
        if self._thread is None:
            self._never_started()

    async def stopped(self, timeout_s: float) -> None:
        """Wait until a sealed backlog's thread has ended, for at most so long."""
        await asyncio.wait({self._stopped}, timeout=timeout_s)

    def join(self, timeout_s: float) -> None:
        """The same, without the loop. A thread that hangs in a disk's write is left behind."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _write_at_once(self, chunk: bytes) -> int:
        try:
            return self._target.write((chunk,))
        except BlockingIOError:
            return 0
        except OSError as error:
            self._backlog.break_off(error)
            return 0

    def _never_started(self) -> None:
        if self._on_loop_timer is not None:
            self._on_loop_timer.cancel()
            self._on_loop_timer = None
        if not self._stopped.done():
            self._target.close()
            self._stopped.set_result(None)

    def _start(self) -> bool:
        """Start the thread; False where none is to be had, or no descriptor: then the loop writes,
        until there is one."""
        try:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            pass
        else:
            thread = threading.Thread(target=self._run, name=f"sink {self._name}", daemon=True)
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
        backlog = self._backlog
        if backlog.gone or backlog.first() is None or self._start():
            return
        deadline = time.monotonic() + _NO_THREAD_S
        try:
            while (part := backlog.first()) is not None and time.monotonic() < deadline:
                backlog.wrote_of_first(self._target.write((part,)))
        except BlockingIOError:
            pass
        except OSError as error:
            backlog.break_off(error)

    # ------------------------------------------------------------------ the thread's side

    def _run(self) -> None:
        # A signal must interrupt the loop's thread, whose handlers are waiting for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while batch := self._backlog.take():
                self._write(batch)
        except OSError as error:
            self._backlog.break_off(error)
        except Exception as error:  # noqa: BLE001 - a defect here must not hold the children
            self._backlog.break_off(OSError(0, f"{type(error).__name__}: {error}"))
        finally:
            with contextlib.suppress(OSError):
                self._target.close()
            with self._wake_lock:
                os.close(self._wake_fd)
                self._wake_fd = -1
            on_loop(self._loop, resolve, self._stopped)

    def _write(self, parts: list[bytes | memoryview]) -> None:
        while parts and not self._backlog.sealed:
            try:
                written = self._target.write(parts)
            except BlockingIOError:
                self._target.wait(self._wake_fd)
                continue
            self._backlog.wrote(written)
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if written:
                parts[0] = memoryview(parts[0])[written:]
