"""Which processes belong to a child: its group, its session, and those that left both.

How a process is known to be a descendant of a child, each fact enough by itself:

1. its session is the child's (``start_new_session``), or that of another descendant. A session is
   only ever inherited, so all its members descend from whoever made it;
2. its parent is a descendant;
3. it carries the child's mark in the environment it was executed with (``MARK_VARIABLE``). This is
   what finds a daemon that forked twice, made a session of its own and whose parents were gone
   before anybody looked. The mark survives fork and exec; it is lost on a program that empties
   its environment or writes over it (``env -i``, ``sudo``, ``setproctitle``), and unreadable on
   a set-uid one;
4. it was seen as a descendant before, same pid and same start time;
5. it was handed to us as an orphan, carries nobody's mark, and there is no other child whose it
   could be.

Rejected: a cgroup per child would answer it in one read, but containers are rarely allowed to
make one. Rejected: SIGSTOP to all before SIGKILL, against fork bombs: SIGKILL to a process group
is atomic against fork(2) (the kernel holds the process list for both), and what makes groups of
its own is caught up with by looking again until nothing new is found.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator

from supervisor.linux import orphans, procfs
from supervisor.linux.procfs import Process

MARK_VARIABLE = "SUPERVISOR_PROCESS_MARK"
"""Set on every child. Supervisors inside supervisors: their marks are joined by colons."""

RUN_MARK = os.urandom(8).hex()
"""Names this run of the program."""

_PREFIX = MARK_VARIABLE.encode() + b"="
_numbers = itertools.count(1)


def new_mark() -> str:
    """A mark for one child: this run's name and a number."""
    return f"{RUN_MARK}.{next(_numbers)}"


def mark_value(mark: str, outer: str | None) -> str:
    """The variable's value for a child, below the mark that we carry ourselves, if any."""
    return f"{outer}:{mark}" if outer else mark


def marks_in(environ: bytes) -> tuple[bytes, ...]:
    """The marks in an environment block as ``/proc/PID/environ`` shows it."""
    if environ.startswith(_PREFIX):
        start = len(_PREFIX)
    else:
        found = environ.find(b"\0" + _PREFIX)
        if found < 0:
            return ()
        start = found + 1 + len(_PREFIX)
    end = environ.find(b"\0", start)
    return tuple(environ[start : end if end >= 0 else None].split(b":"))


class Tree:
    """The descendants of one child, looked up anew at every ``survey``.

    ``leader`` is the child's pid, which must be pinned: alive, or a zombie not yet reaped. Then
    its number names no other process, group or session.
    """

    def __init__(self, leader: int, mark: str, since: int) -> None:
        self.leader = leader
        self._run = mark.split(".", 1)[0].encode() + b"."
        self._mark = mark.encode()
        self.since = since
        self._known: dict[int, int] = {}
        self._ours: dict[tuple[int, int], bool | None] = {}

    def survey(self, found: Callable[[Process], None]) -> Generator[None, None, None]:
        """Look at every process once; call ``found`` with each living one that belongs here.

        ``found`` is called at first sight where that decides it, so that a caller that kills is
        close behind a process that forks. Yields every few processes (under 1 ms), for callers
        on an event loop; to run it to the end at once: ``for _ in tree.survey(f): pass``.
        """
        if not procfs.usable():
            return
        me = os.getpid()
        view = _View(self, found)
        rest: dict[int, Process] = {}
        for count, pid in enumerate(procfs.pids(), start=1):
            if pid != me and (process := procfs.stat(pid)) is not None:
                if view.claims(process):
                    view.take(process)
                else:
                    rest[pid] = process
            if count % 32 == 0:
                yield
        view.link(rest)
        self._known = {p.pid: p.start for p in view.owned.values()}
        self._ours = view.ours

    def hunt(self, found: Callable[[Process], None]) -> int:
        """Look at our own children only, which the orphans among the descendants are.

        The youngest first, collecting the dead on the way: for what forks and exits quicker than
        a survey reads. How many were found, dead or alive.
        """
        view = _View(self, found)
        count = 0
        for pid in reversed(procfs.own_children() or ()):
            if orphans.registered(pid) or (process := procfs.stat(pid)) is None:
                continue
            if not process.alive:
                count += orphans.collect_dead(process)
            elif view.claims(process):
                view.take(process)
                count += 1
        return count

    def members(self) -> list[Process]:
        """All living members, the leader among them if it lives."""
        found: list[Process] = []
        for _ in self.survey(found.append):
            pass
        return found

    def known(self, process: Process) -> bool:
        """Whether the last survey found this very process."""
        return self._known.get(process.pid) == process.start

    def marked(self, process: Process) -> bool | None:
        """True with this child's mark, False with another's of this run, None if it has none."""
        before = self._ours.get((process.pid, process.start))
        if before is not None:
            return before
        if procfs.stuck(process.pid):
            return None  # for now: the event loop is not to be stuck with it
        marks = marks_in(procfs.environ(process.pid) or b"")
        if self._mark in marks:
            return True
        return False if any(mark.startswith(self._run) for mark in marks) else None


class _View:
    """What one look at the processes has found out so far."""

    def __init__(self, tree: Tree, found: Callable[[Process], None]) -> None:
        self.owned: dict[int, Process] = {}
        self.sessions = {tree.leader}
        self.ours: dict[tuple[int, int], bool | None] = {}
        self._tree = tree
        self._found = found
        self._us = os.getpid()
        self._apart = (0, os.getsid(0))
        """Sessions that say nothing about descent."""
        self._everywhere = not orphans.adopting()

    def take(self, process: Process) -> None:
        """Count a process in, and its session."""
        self.owned[process.pid] = process
        if process.session not in self._apart:
            self.sessions.add(process.session)
        if process.alive:
            self._found(process)

    def claims(self, process: Process) -> bool:
        """Whether a process is known to belong to the tree by what has been seen so far."""
        tree = self._tree
        if process.session in self.sessions or process.ppid in self.owned:
            return True
        if tree.known(process):
            return True
        orphan = process.ppid == self._us
        if (
            not (orphan or self._everywhere)
            or process.start < tree.since
            or not process.alive
            or process.session in self._apart
            or orphans.registered(process.pid)
        ):
            return False
        marked = self.ours[process.pid, process.start] = tree.marked(process)
        return (orphan and orphans.only_child(tree.leader)) if marked is None else marked

    def link(self, rest: dict[int, Process]) -> None:
        """Count in what a later process revealed about an earlier one (pids wrap around)."""
        by_parent: dict[int, list[Process]] = {}
        by_session: dict[int, list[Process]] = {}
        for process in rest.values():
            by_parent.setdefault(process.ppid, []).append(process)
            by_session.setdefault(process.session, []).append(process)
        queue = list(self.owned.values())
        while queue:
            process = queue.pop()
            linked = by_parent.pop(process.pid, [])
            if process.session in self.sessions:
                linked += by_session.pop(process.session, [])
            for other in linked:
                if other.pid not in self.owned and not orphans.registered(other.pid):
                    self.take(other)
                    queue.append(other)
