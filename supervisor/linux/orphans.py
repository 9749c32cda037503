"""Orphans: descendants whose parent died are ours, and so are their zombies.

As PID 1 or child subreaper every orphan of our children becomes our own child (prctl(2),
PR_SET_CHILD_SUBREAPER). Its zombie stays until we collect it. The collector goes pid by pid
through ``/proc/self/task/*/children`` and leaves out every process that has an owner among us; a
``waitpid(-1)`` would take the statuses that ``children/leader.py`` waits for.

The set of owned processes is one per process, like the children it speaks of, and hence lives
in this module. It belongs to the thread that spawns and collects: the event loop's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.cluster import beat
from supervisor.linux import prctl, procfs
from supervisor.linux.procfs import Process

if TYPE_CHECKING:
    import asyncio

IDLE_LOOK_S = 0.5
"""Between two looks while no orphan dies: no zombie is older than that, for two wakes a second."""

BUSY_LOOK_S = 0.02
"""Between two looks while orphans die."""

STRAY_GRACE_S = 2.0
"""A zombie of our own session was not made by a child of ours, which all have sessions of their
own: it was made here, by a library say, whose ``waitpid`` may be on its way. Or it was a child
of the shell that became us by exec. It is collected if nobody has come for it after this long."""

SLICE_S = 0.002
"""Longest stretch of collecting between two turns of the event loop."""


@dataclass(slots=True)
class _Owned:
    children: set[int] = field(default_factory=set)
    """Leaders that ``children/leader.py`` reaps."""
    helpers: set[int] = field(default_factory=set)
    """Processes of our own machinery, such as the guardian."""
    strays: dict[int, float] = field(default_factory=dict)
    """Zombies of our own session: pid → when first seen, seconds of the monotonic clock."""
    adopting: bool = False
    churn: dict[int, int] = field(default_factory=dict)
    """Orphans collected so far: session of a child → how many; 0 for all other sessions."""


_owned = _Owned()


def register(pid: int, *, helper: bool = False) -> None:
    """Say that ``pid`` has an owner who will reap it; the collector leaves it alone."""
    (_owned.helpers if helper else _owned.children).add(pid)


def release(pid: int) -> None:
    """Say that the owner has reaped ``pid``, or gives it up to the collector."""
    _owned.children.discard(pid)
    _owned.helpers.discard(pid)
    _owned.churn.pop(pid, None)


def registered(pid: int) -> bool:
    return pid in _owned.children or pid in _owned.helpers


def is_helper(pid: int) -> bool:
    return pid in _owned.helpers


def only_child(pid: int) -> bool:
    """Whether no other leader than ``pid`` is there: every orphan without a name is its."""
    return _owned.children <= {pid}


def churn(leader: int) -> int:
    """How many orphans that may be ``leader``'s have died so far.

    As long as this goes up its tree is not gone, however empty it looks: processes that fork and
    exit all the time can slip through every survey, but each of them dies as an orphan.
    """
    return _owned.churn.get(leader, 0) + _owned.churn.get(0, 0)


def forget_all() -> None:
    """In a fork of ours: nobody's children are ours any more."""
    _owned.children.clear()
    _owned.helpers.clear()
    _owned.strays.clear()
    _owned.churn.clear()
    _owned.adopting = False


def adopt() -> bool:
    """Become the parent of every orphan among our descendants. Before the first spawn.

    False where the kernel refuses; orphans are then found by their mark (``tree.py``).
    """
    _owned.adopting = prctl.become_subreaper()
    return _owned.adopting


def adopting() -> bool:
    return _owned.adopting or os.getpid() == 1


def collect_dead(process: Process) -> bool:
    """Collect a zombie among our children that has no owner; False if it is left to its maker."""
    now = time.monotonic()
    pid = process.pid
    if process.session == os.getsid(0) and now - _owned.strays.setdefault(pid, now) < STRAY_GRACE_S:
        return False
    _owned.strays.pop(pid, None)
    try:
        # WNOHANG: a tracer may still hold the zombie back.
        if os.waitpid(pid, os.WNOHANG)[0] != pid:
            return False
    except ChildProcessError:
        return False
    of = process.session if process.session in _owned.children else 0
    _owned.churn[of] = _owned.churn.get(of, 0) + 1
    return True


def _collect_unlisted() -> Iterator[int]:
    """Where ``/proc`` is of no use: peek at one zombie after the other without taking it.

    It ends at the first that has an owner, because the kernel would show that one again; the
    owner takes it soon, and the next SIGCHLD or rescan goes on from there.
    """
    while True:
        try:
            seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if seen is None or registered(seen.si_pid):
            return
        os.waitpid(seen.si_pid, os.WNOHANG)
        yield 1


def _any_dead() -> bool:
    """Whether any child of ours is a zombie, an owned one included. It stays one."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def collecting() -> Generator[int, None, None]:
    """Collect the zombies of all orphans; yields after each child with 1 if it was collected."""
    if not _any_dead():  # the usual answer, for one system call instead of four for each child
        _owned.strays.clear()
        return
    if not procfs.usable():
        yield from _collect_unlisted()
        return
    children = procfs.own_children()
    if children is None:
        me = os.getpid()
        children = [p for p in procfs.pids() if (s := procfs.stat(p)) and s.ppid == me]
    for pid in children:
        if not registered(pid):
            process = procfs.stat(pid)
            dead = process is not None and not process.alive
            yield 1 if dead and process is not None and collect_dead(process) else 0
    if _owned.strays:
        gone = _owned.strays.keys() - set(children)
        for pid in gone:
            del _owned.strays[pid]


def collect() -> int:
    """Collect the zombies of all orphans at once; how many there were."""
    return sum(collecting())


class Collector:
    """Collects orphans for as long as an event loop turns. ``collected`` counts them.

    It looks by the clock. Rejected: a handler for SIGCHLD. Python's signal handlers write a byte
    each to the loop's wakeup socket, which takes about 280; thousands of orphans that die while
    the loop is busy fill it (seen in a test), and then the byte of a SIGTERM is lost with them.
    """

    def __init__(self) -> None:
        self.collected = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._round: Iterator[int] | None = None
        self._before = 0

    def start(self) -> None:
        """Begin on the running event loop."""
        import asyncio  # noqa: PLC0415  # the guardian is forked before it is loaded

        self._loop = asyncio.get_running_loop()
        self._turn()

    def stop(self) -> None:
        """End, after one last complete round. Idempotent."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._round = None
        self.collected += collect()

    def _turn(self) -> None:
        if self._loop is None:
            return
        if self._round is None:
            self._before = self.collected
            self._round = collecting()
        pause_s = 0.0
        deadline = time.monotonic() + SLICE_S
        for collected in self._round:
            self.collected += collected
            if time.monotonic() > deadline:
                break
        else:
            self._round = None
            idle = self.collected == self._before
            pause_s = beat.rest_s(IDLE_LOOK_S) if idle else BUSY_LOOK_S
        self._timer = self._loop.call_later(pause_s, self._turn)
