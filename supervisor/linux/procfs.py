"""What ``/proc`` says about processes: one small read each, no cache, never an exception.

A process can end between any two reads; every function answers ``None`` or nothing for one that
is gone. Field numbers are those of proc(5).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""Unit of ``Process.start``: clock ticks per second (100 nearly everywhere)."""


SLACK = 1024
"""Processes that one reading of ``/proc`` follows beyond those there at its beginning."""


class Process(NamedTuple):
    """One line of ``/proc/PID/stat``, cut down to what ownership and life need.

    ``pid`` and ``start`` together name a process for good; ``pid`` alone is recycled.
    """

    pid: int
    state: str
    ppid: int
    pgrp: int
    session: int
    threads: int
    start: int
    """Clock ticks since boot."""

    @property
    def alive(self) -> bool:
        """False for a zombie. A main thread that ended before the others looks like one."""
        return self.state not in "ZXx" or self.threads > 1

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"


def usable() -> bool:
    """Whether ``/proc`` shows the PID namespace that we are in.

    In a new PID namespace without a fresh mount it still shows the outer one, and every number
    in it would name somebody else's process.
    """
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def read(path: str, limit: int = 4096) -> bytes | None:
    """The first ``limit`` bytes of a file, or None if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, limit)
    except OSError:  # ESRCH: the process ended between open and read
        return None
    finally:
        os.close(fd)


def write(path: str, data: bytes) -> None:
    """Write a setting; the one thing here that raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def read_all(path: str, limit: int) -> bytes | None:
    """The whole file up to ``limit`` bytes; /proc hands out long files a page at a time."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    parts: list[bytes] = []
    room = limit
    try:
        while room > 0 and (part := os.read(fd, min(room, 1 << 16))):
            parts.append(part)
            room -= len(part)
    except OSError:
        return None
    finally:
        os.close(fd)
    return b"".join(parts)


def parse_stat(data: bytes) -> Process | None:
    """``/proc/PID/stat``. The command name may hold spaces, line ends and parentheses.

    Source: proc_pid_stat(5); the last ``)`` ends the name.
    """
    end = data.rfind(b")")
    if end < 0:
        return None
    pid = data[: data.find(b" ")]
    fields = data[end + 2 :].split(b" ", 20)
    if len(fields) < 20:
        return None
    return Process(
        int(pid),
        chr(fields[0][0]),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[17]),
        int(fields[19]),
    )


def stat(pid: int) -> Process | None:
    data = read(f"/proc/{pid}/stat")
    return parse_stat(data) if data else None


def pids() -> Iterator[int]:
    """Every process, in ascending order, read lazily: one that is made meanwhile may appear.

    Bounded by the number of processes at the beginning (the link count of ``/proc``) and some:
    processes that fork and exit for ever would else lead the reader on to the highest pid.
    """
    try:
        room = os.stat("/proc").st_nlink + SLACK
        entries = os.scandir("/proc")
    except OSError:
        return
    with entries:
        for entry in entries:
            name = entry.name
            if name[0] in "123456789" and name.isdecimal():
                yield int(name)
                room -= 1
                if room < 0:
                    return


def environ(pid: int, limit: int = 1 << 20) -> bytes | None:
    """The environment that the process was executed with, NUL-separated.

    None where the kernel refuses (set-uid programs, other users' processes); empty in the middle
    of an exec.
    """
    return read_all(f"/proc/{pid}/environ", limit)


def stuck(pid: int) -> bool:
    """Whether a thread of the process is in uninterruptible sleep.

    It may hold the lock of the address space then (an mmap of a dead file system), for which a
    read of ``environ`` or ``cmdline`` waits as long.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    stats = (read(f"/proc/{pid}/task/{thread}/stat") for thread in threads)
    return any(data[data.rfind(b")") + 2 :][:1] == b"D" for data in stats if data)


def own_children() -> list[int] | None:
    """Our children, adopted ones included; see ``children``."""
    return children("self")


def children(pid: int | str) -> list[int] | None:
    """The children of a process; None where the kernel does not list them.

    Source: ``/proc/PID/task/TID/children``, proc_tid_children(5). The list is exact only for
    children that do not change meanwhile, which is why callers come again.
    """
    tasks = f"/proc/{pid}/task"
    found: list[int] = []
    try:
        threads = os.listdir(tasks)
    except OSError:
        return None
    for thread in threads:
        data = read_all(f"{tasks}/{thread}/children", 1 << 24)
        if data is None:
            if os.path.exists(f"{tasks}/{thread}/stat"):
                return None  # built without CONFIG_PROC_CHILDREN
            continue
        found.extend(map(int, data.split()))
    return found


def arguments(pid: int, limit: int = 4096) -> tuple[str, ...]:
    """The command line of a process, its first ``limit`` bytes; its name in brackets where it has
    none (as ps(1) shows it), nothing where it is gone. Not masked."""
    words = (read(f"/proc/{pid}/cmdline", limit) or b"").rstrip(b"\0").decode("utf-8", "replace")
    if words:
        return tuple(words.split("\0"))
    name = (read(f"/proc/{pid}/comm") or b"").decode("utf-8", "replace").strip()
    return (f"[{name}]",) if name else ()


def ending(pid: int) -> bool:
    """Whether it has given back its memory, and its command line with it: it exits, or is gone.
    Or it is in the middle of an execve(2): who needs to be sure asks again."""
    return not read(f"/proc/{pid}/cmdline", 1)


def now_ticks() -> int:
    """The present in the unit and the clock of ``Process.start``."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S)


def usage(pid: int) -> tuple[float | None, int | None]:
    """CPU time of a process and the children it waited for, in seconds, and its resident bytes."""
    data = read(f"/proc/{pid}/stat")
    if data is None:
        return None, None
    fields = data[data.rfind(b")") + 2 :].split()
    # proc(5): utime, stime, cutime, cstime are fields 14 to 17, rss is field 24, in pages.
    ticks = sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
