"""Signals as values, in the order in which they came, however many come at once.

Not ``loop.add_signal_handler``: its wakeup goes through a socket pair, in which a byte takes a
kernel buffer of its own, so that some 280 signals fill it and the next one, be it the SIGTERM, is
lost. A pipe holds 65,536, and kinds that are lost even then are known from the handler's own note.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
from collections.abc import Callable, Iterable

_CAPACITY = 65536
"""Bytes that a pipe holds (pipe(7))."""

_ALIKE = 2
"""Values that one turn of the loop makes of a standard signal, however often it came: the second
may mean more than the first. The kernel itself keeps one of them, and all of a real-time one
(signal(7))."""


class SignalPipe:
    """Calls ``post(signum)`` on the loop for each signal. On the main thread, one at a time."""

    def __init__(self, post: Callable[[int], None]) -> None:
        self._post = post
        self._noted: set[int] = set()
        self._caught: set[int] = set()
        """Whoever has any other handler in Python leaves a byte in the pipe as well."""
        self._loop = asyncio.get_running_loop()
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._loop.add_reader(self._read_fd, self._on_readable)
        self._former = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)

    def catch(self, signums: Iterable[int]) -> None:
        """Have these become values; unblocks them: what was held back comes now."""
        for signum in signums:
            # Some real-time signals belong to the C library, which refuses.
            with contextlib.suppress(OSError, ValueError):
                signal.signal(signum, self._note)
                # A system call of ours that is interrupted goes on by itself.
                signal.siginterrupt(signum, False)
                self._caught.add(signum)
        _one_at_a_time(self._caught)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._caught)

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
        # Read once: who sends faster than we read (300,000 a second have been seen) would keep the
        # loop here, and with it the end of the job.
        try:
            came = os.read(self._read_fd, _CAPACITY)
        except BlockingIOError:
            return
        alike: collections.Counter[int] = collections.Counter()
        for signum in came:
            alike[signum] += 1
            if signum in self._caught and (alike[signum] <= _ALIKE or signum >= signal.SIGRTMIN):
                self._post(signum)
        if len(came) >= _CAPACITY:
            # Full: later ones left no byte, but their handler ran.
            for signum in sorted(self._noted.difference(came)):
                self._post(signum)
        self._noted.clear()


def _one_at_a_time(signums: Iterable[int]) -> None:
    """Hold all other signals back while the C handler of one of ``signums`` runs.

    Python installs its handlers with an empty ``sa_mask`` and cannot be asked for another. Where
    several signals are pending, the kernel then starts the handler of the first and interrupts it,
    before its first instruction, with that of the next: they run in reverse, and a SIGTERM came to
    the script before the SIGUSR1 that was sent earlier. ``struct sigaction`` begins with the
    handler and the mask, 128 bytes of which the kernel fills 8, in glibc and musl alike; what looks
    different is left alone.
    """
    import ctypes  # noqa: PLC0415  # loaded by then: see prctl.py

    class Sigaction(ctypes.Structure):
        _fields_ = (
            ("handler", ctypes.c_void_p),
            ("mask", ctypes.c_ubyte * 128),
            ("rest", ctypes.c_ubyte * 128),
        )

    sigaction = getattr(ctypes.CDLL(None), "sigaction", None)
    if sigaction is None:
        return
    for signum in signums:
        action = Sigaction()
        if sigaction(signum, None, ctypes.byref(action)) == 0 and not any(action.mask[:8]):
            ctypes.memset(action.mask, 0xFF, len(action.mask))
            sigaction(signum, ctypes.byref(action), None)
