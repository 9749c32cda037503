"""Connections that carry nothing for a while, as if a cable were cut: between processes of ours.

No rule of a firewall, which needs root and cannot tell hosts apart that share an address: every
socket of the processes gets a filter that drops what comes in (socket(7), SO_ATTACH_FILTER),
through a descriptor that pidfd_getfd(2) lends us. The kernel then acknowledges nothing either, so
both ends see what a partition shows: no data, no reset, and segments that are sent again and again.
The loan needs the right to ptrace(2) the processes, which a parent has of its descendants; the
seccomp profile of many containers refuses it. Filters are everybody's on most kernels, and root's
alone on some (seen on one of 6.18).

New connections are let through their handshake, carry nothing, and are judged at the next look: a
listening socket has a filter that drops segments with data, and hands it down to what it accepts.
So a connect within one side loses a fifth of a second, and one across the cut hears nothing.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from supervisor.linux import pidfd

_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN: Final = "0A"
_PIDFD_GETFD: Final = 438
"""The number of pidfd_getfd(2), Linux 5.6, the same on every architecture but alpha."""
_ATTACH_FILTER: Final = 26
_DETACH_FILTER: Final = 27
_REFUSED: Final = {errno.EPERM, errno.EACCES, errno.ENOSYS}

_Instruction = tuple[int, int, int, int]
_NOTHING: Final[tuple[_Instruction, ...]] = ((0x06, 0, 0, 0),)
"""Classic BPF: return 0, which drops the segment."""
_NO_DATA: Final[tuple[_Instruction, ...]] = (
    (0x30, 0, 0, 12),  # the byte with the length of TCP's header, in words, in its upper half
    (0x54, 0, 0, 0xF0),
    (0x74, 0, 0, 2),
    (0x07, 0, 0, 0),
    (0x80, 0, 0, 0),  # the length of the segment
    (0x1D, 0, 1, 0),  # the same: there is no data in it
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)
"""Let pass what only makes and ends connections."""


class Hearing(enum.Enum):
    """What a socket hears."""

    ALL = ()
    NO_DATA = _NO_DATA
    NOTHING = _NOTHING


class RefusedError(Exception):
    """The kernel does not let us at the sockets of our own descendants."""


class _Row(NamedTuple):
    """A socket of the kernel's table."""

    here: str
    there: str
    listens: bool
    inode: int
    """0: a connection that nobody has accepted yet."""


class Silence:
    """Which sockets of some processes hear what. Its calls block, for some ten milliseconds."""

    def __init__(self) -> None:
        self._applied: dict[int, Hearing] = {}
        """By inode; every socket that was looked at."""

    def apply(self, sides: Mapping[int, str]) -> int:
        """Cut what lies between processes of different sides, and mend the rest.

        Args:
            sides: the side of each process, by pid. With one side alone nothing is cut.

        Returns:
            how many connections nobody has accepted yet. What they hear can only be changed then.

        Raises:
            RefusedError: the kernel does not allow it.

        """
        rows = list(_rows())
        owners = dict(_sockets(sides))
        inodes = {(row.here, row.there): row.inode for row in rows if not row.listens}
        cut = len(set(sides.values())) > 1
        seen, waiting = set(), 0
        ports = {row.here.rpartition(":")[2] for row in rows if row.listens and row.inode in owners}
        for row in rows:
            waiting += not row.inode and not row.listens and row.here.rpartition(":")[2] in ports
            if (owner := owners.get(row.inode)) is None:
                continue
            seen.add(row.inode)
            if row.listens:
                wanted = Hearing.NO_DATA if cut else Hearing.ALL
            else:
                peer = inodes.get((row.there, row.here))
                if peer == 0 and cut:
                    continue  # who it is with is known once it is accepted
                other = owners.get(peer or 0)
                across = other is not None and sides[other[0]] != sides[owner[0]]
                wanted = Hearing.NOTHING if across else Hearing.ALL
            if self._applied.get(row.inode) is not wanted and _filter(*owner, wanted):
                self._applied[row.inode] = wanted
        for gone in self._applied.keys() - seen:
            del self._applied[gone]
        return waiting


def _rows() -> Iterator[_Row]:
    for path in _TABLES:
        with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
            next(file, "")
            for line in file:
                words = line.split(None, 10)
                if len(words) > 9 and words[9].isdigit():
                    here, there = _place(words[1]), _place(words[2])
                    yield _Row(here, there, words[3] == _LISTEN, int(words[9]))


def _place(text: str) -> str:
    """The same for an address of IPv4 and for it mapped into IPv6."""
    address, _, port = text.partition(":")
    return f"{address[-8:]}:{port}" if address[:-8] in {"", "0" * 16 + "FFFF0000"} else text


def _sockets(pids: Mapping[int, str]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Inode, and a process and its descriptor."""
    for pid in pids:
        directory = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for fd in os.listdir(directory):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"{directory}/{fd}")
                    if target.startswith("socket:["):
                        yield int(target[8:-1]), (pid, int(fd))


def _filter(pid: int, fd: int, wanted: Hearing) -> bool:
    """Whether the socket hears as wanted, as far as is known: its process may have closed it."""
    try:
        with _lent(pid, fd) as lent:
            if wanted is Hearing.ALL:
                with contextlib.suppress(FileNotFoundError):  # there was none
                    lent.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
            else:
                _attach(lent, wanted.value)
    except OSError as error:
        if error.errno in _REFUSED:
            raise RefusedError(error.strerror) from None
        return False
    return True


def _lent(pid: int, fd: int) -> socket.socket:
    """The same socket, by a descriptor of our own. Raises OSError."""
    import ctypes  # noqa: PLC0415  # for a cut alone

    if (process := pidfd.open_pidfd(pid)) is None:
        raise ProcessLookupError
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        found = libc.syscall(_PIDFD_GETFD, process, fd, 0)
        if found < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(process)
    os.set_inheritable(found, False)
    return socket.socket(fileno=found)


def _attach(lent: socket.socket, program: tuple[_Instruction, ...]) -> None:
    """``struct sock_fprog`` of linux/filter.h: a count and where the instructions lie."""
    import ctypes  # noqa: PLC0415

    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(code)
    fprog = struct.pack("@HP", len(program), ctypes.addressof(held))
    lent.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, fprog)
