"""Signals as values, in the order in which they came, however many.

Not ``loop.add_signal_handler``: its wakeup goes through a socket pair, in which a byte takes a
kernel buffer of its own, so that some 280 signals fill it and the next one, be it the SIGTERM, is
lost. A pipe holds 65,536, and kinds that are lost even then are known from the handler's own note.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable

_CAPACITY = 65536
"""Bytes that a pipe holds (pipe(7))."""


class SignalPipe:
    """Calls ``post(signum)`` on the loop for each signal. On the main thread, one at a time."""

    def __init__(self, post: Callable[[int], None]) -> None:
        self._post = post
        self._noted: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._loop.add_reader(self._read_fd, self._on_readable)
        self._former = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)

    def catch(self, signums: Iterable[int]) -> None:
        """Have these become values; unblocks them: what was held back comes now."""
        caught = set()
        for signum in signums:
            # Some real-time signals belong to the C library, which refuses.
            with contextlib.suppress(OSError, ValueError):
                signal.signal(signum, self._note)
                # A system call of ours that is interrupted goes on by itself.
                signal.siginterrupt(signum, False)
                caught.add(signum)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)

    def close(self) -> None:
        """Stop. The handlers stay, without effect: our exit is not to be cut short any more."""
        signal.set_wakeup_fd(self._former)
        self._loop.remove_reader(self._read_fd)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _note(self, signum: int, frame: object) -> None:
        del frame
        self._noted.add(signum)

    def _on_readable(self) -> None:
        came = bytearray()
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._read_fd, 4096):
                came += part
        for signum in came:
            self._post(signum)
        if len(came) >= _CAPACITY:
            # Full: later ones left no byte, but their handler ran.
            for signum in sorted(self._noted.difference(came)):
                self._post(signum)
        self._noted.clear()
