"""Descriptors as sinks write to them: without blocking, wherever the kernel allows it.

Making our stdout non-blocking is no way to that. ``O_NONBLOCK`` belongs to the open file
description, which we share with whoever started us and with every process that inherited it. So
a pipe or a terminal is opened anew through ``/proc/self/fd``, which makes a description of our
own, and a socket takes ``MSG_DONTWAIT``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
from collections.abc import Sequence
from typing import Protocol

_DEFAULT_PIPE_BYTES = 1 << 16
_PIPE_BYTES = 1 << 18


class Target(Protocol):
    """Where a sink writes. One thread at a time calls it."""

    instant: bool
    """`write` never blocks, so that the loop may call it."""

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        """Write some of ``parts``, in order; how many bytes.

        Raises BlockingIOError where nothing can be written now, OSError where never again.
        """

    def wait(self, wake_fd: int) -> None:
        """Wait until `write` may succeed or ``wake_fd`` is readable."""

    def close(self) -> None:
        """Close what this target opened; never what it was given."""


class _Pollable:
    """A pipe or a terminal, written to without blocking."""

    instant = True

    def __init__(self, fd: int, *, own: bool) -> None:
        self._fd = fd
        self._own = own
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._wake_fd = -1

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        return os.writev(self._fd, parts)

    def wait(self, wake_fd: int) -> None:
        if self._wake_fd != wake_fd:
            self._poll.register(wake_fd, select.POLLIN)
            self._wake_fd = wake_fd
        self._poll.poll()

    def close(self) -> None:
        if self._own:
            os.close(self._fd)


class SharedPipe(_Pollable):
    """A pipe that cannot be opened anew: another user's, or there is no ``/proc``.

    The descriptor is a blocking one, but a pipe that polls writable takes ``PIPE_BUF`` bytes at
    once (pipe(7)).
    """

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        if not self._poll.poll(0):
            raise BlockingIOError
        return os.write(self._fd, parts[0][: select.PIPE_BUF])


class _Socket(_Pollable):
    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        super().__init__(self._socket.fileno(), own=False)

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        return self._socket.sendmsg(parts, (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._socket.close()


class _Plain:
    """A regular file or a device: it is always ready, and a write takes what the disk takes."""

    instant = False

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        return os.writev(self._fd, parts)

    def wait(self, wake_fd: int) -> None:
        # somebody else made the description non-blocking
        select.select([wake_fd], [self._fd], [])

    def close(self) -> None:
        pass


class _Closed:
    """A descriptor that was closed before we were started (``>&-``)."""

    instant = True

    def __init__(self, error: OSError) -> None:
        self._error = error

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        del parts
        raise self._error

    def wait(self, wake_fd: int) -> None:
        pass

    def close(self) -> None:
        pass


def target_of(fd: int) -> Target:
    """The way to write to ``fd``, which stays the caller's."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        return _Closed(error)
    if stat.S_ISSOCK(mode):
        return _Socket(fd)
    if stat.S_ISFIFO(mode) or os.isatty(fd):
        # A regular file is never opened anew: the offset is the description's.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            own_fd = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:
            return SharedPipe(fd, own=False)
        with contextlib.suppress(OSError):
            # room for a chunk at once; a pipe smaller than the default was made so on purpose
            if _DEFAULT_PIPE_BYTES <= fcntl.fcntl(own_fd, fcntl.F_GETPIPE_SZ) < _PIPE_BYTES:
                fcntl.fcntl(own_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return _Pollable(own_fd, own=True)
    return _Plain(fd)
