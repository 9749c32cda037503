"""Disks of our descendants that are slow or full, without root.

Full: RLIMIT_FSIZE of 0 by prlimit(2), so that every write to a file fails, with EFBIG in the place
of ENOSPC; the soft limit alone is lowered, and can be raised again. Slow: a process that has
written more than its share is held by SIGSTOP until a disk of that speed would have been done.
Rejected: a small file system in a user and a mount namespace, which would be the real thing, but
has to be there before the first process starts; and ``io.max`` of cgroups, which needs root.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Final

from supervisor.linux import pidfd, procfs
from supervisor.linux.procfs import Process

RATE_BYTES_S: Final = 256 << 10
"""What a slow disk takes."""
_PASSES: Final = 5


def below(roots: Mapping[str, int]) -> dict[str, list[Process]]:
    """The living processes of each of these trees, parents before their children.

    By parents alone: our supervisors adopt what would be an orphan.
    """
    children: dict[int, list[Process]] = {}
    found: dict[int, Process] = {}
    for pid in procfs.pids():
        if (process := procfs.stat(pid)) is not None and process.alive:
            found[pid] = process
            children.setdefault(process.ppid, []).append(process)
    trees = {}
    for name, root in roots.items():
        members = [found[root]] if root in found else []
        for process in members:  # which grows meanwhile
            members += children.get(process.pid, ())
        trees[name] = members
    return trees


class Holds:
    """Processes that are stopped, and by whom: continued once nobody holds them any more."""

    def __init__(self) -> None:
        self._by: dict[Process, set[object]] = {}
        """By process as it was seen first; told apart by pid and start."""
        self._known: dict[tuple[int, int], Process] = {}

    def hold(self, process: Process, holder: object) -> bool:
        """False where it is gone, or the holder has it already."""
        key = (process.pid, process.start)
        first = self._known.get(key, process)
        holders = self._by.get(first, set())
        if holder in holders or not pidfd.send_exactly(process, signal.SIGSTOP):
            return False
        self._known[key] = first
        self._by[first] = holders | {holder}
        return True

    def hold_tree(self, root: int, holder: object) -> int:
        """Again until nothing new is found; how many are held."""
        count = 0
        for _ in range(_PASSES):
            fresh = sum([self.hold(each, holder) for each in below({"": root})[""]])
            count += fresh
            if not fresh:
                break
        return count

    def release(self, holder: object, only: Process | None = None) -> None:
        """Whatever it holds, or one of them."""
        for process, holders in list(self._by.items()):
            if holder not in holders or (only and _key(only) != _key(process)):
                continue
            if left := holders - {holder}:
                self._by[process] = left
                continue
            del self._by[process], self._known[_key(process)]
            pidfd.send_exactly(process, signal.SIGCONT)


def _key(process: Process) -> tuple[int, int]:
    return process.pid, process.start


def fill(processes: Iterable[Process]) -> None:
    """Every write of theirs to a file fails from now on."""
    for process in processes:
        with contextlib.suppress(OSError, ValueError):  # it has ended
            soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            if soft != 0:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, hard))


def empty(supervisor: int, processes: Iterable[Process]) -> None:
    """They are limited as their supervisor is, from which each has its limits."""
    with contextlib.suppress(OSError, ValueError):
        before, _ = resource.prlimit(supervisor, resource.RLIMIT_FSIZE)
        for process in processes:
            with contextlib.suppress(OSError, ValueError):
                soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                if soft == 0:
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (before, hard))


class Slow:
    """Processes that write as to a slow disk."""

    def __init__(self, holds: Holds) -> None:
        self._holds = holds
        self._written: dict[tuple[int, int], int] = {}
        self._owed: dict[tuple[int, int], float] = {}
        """Bytes beyond what the disk has taken."""
        self._at = time.monotonic()

    def look(self, processes: Iterable[Process]) -> None:
        """Hold who has written too much, and let go who has waited for it."""
        now = time.monotonic()
        taken, self._at = RATE_BYTES_S * (now - self._at), now
        for process in processes:
            key = _key(process)
            if (written := _written(process.pid)) is None:
                continue
            fresh = written - self._written.get(key, written)
            self._written[key] = written
            owed = self._owed[key] = max(0.0, self._owed.get(key, 0.0) + fresh - taken)
            if owed:
                self._holds.hold(process, self)
            else:
                self._holds.release(self, process)

    def end(self) -> None:
        self._holds.release(self)


def _written(pid: int) -> int | None:
    """Bytes that the process has written, to files and pipes (``wchar`` of proc_pid_io(5)). What it
    sends with send(2), as gRPC does, is not among them."""
    for line in (procfs.read(f"/proc/{pid}/io") or b"").splitlines():
        if line.startswith(b"wchar:"):
            return int(line[6:])
    return None
