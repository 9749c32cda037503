"""The end of a child's tree: its descendants are asked, given time, killed, and looked for again.

Descendants are swept *before* the leader is reaped: its zombie keeps the numbers of its group and
session from being given to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence

from supervisor.children.leader import Leader
from supervisor.children.signalling import ENDING, Signals
from supervisor.children.visitors import LAST_LOOK_S, Killer, Terminator, Visitor
from supervisor.life.words import Respite
from supervisor.linux import orphans, procfs
from supervisor.linux.pidfd import is_dying, lives, send_exactly
from supervisor.linux.procfs import Process
from supervisor.linux.tree import Tree

SLICE_S = 0.002
"""Longest stretch of a survey of ``/proc`` between two turns of the event loop."""

OVERTIME_S = 1.0
"""What a survey that a deadline finds under way may still take: so each stage has one."""

HUNT_S = 0.25
"""Longest time of quick looks between two surveys."""

NAMED = 10
"""Descendants that are named when they are killed."""

KILL_PASSES = 50
"""Most surveys of one ``kill_tree``; two are the rule. More only while processes keep forking."""

KILL_TREE_S = 1.0
"""Longest time of one ``kill_tree``, and of ``kill_everything``."""

DYING_S = 10.0
"""Longest further time for what has its SIGKILL and only lacks a turn of the processor to act on
it: ten thousand processes at once on a busy machine are not uninterruptible, they are slow."""

BLIND_TERM_S = 0.2
"""Time from SIGTERM to SIGKILL for a group that cannot be looked at."""

Patience = Callable[[Sequence[Process]], Respite]
"""What the descendants of a dead leader have, asked again and again while they live. Given those
that were found last; none at the first time."""


class Ending:
    """How far the end of one child's tree has come. The leader must be pinned throughout."""

    def __init__(self, leader: Leader, tree: Tree, signals: Signals) -> None:
        self._leader = leader
        self._tree = tree
        self._signals = signals
        self._killed = False
        self._sweeping: Terminator | None = None
        self.swept = 0
        """Descendants that outlived the leader and were ended by us."""
        self.doomed: dict[int, tuple[str, ...]] = {}
        """Descendants that get SIGKILL: pid → command line; ``NAMED`` at most."""

    def pass_on(self, signum: int) -> bool:
        """Have a sweep under way ask by its own signal; False if there is none, or it asks for
        something else."""
        if self._sweeping is None or signum not in ENDING | {self._sweeping.signum}:
            return False
        # The leader is dead. Who was there then has had it; this is for who came since.
        self._sweeping.include_all()
        return True

    async def sweep(self, *, term_s: float | Patience, kill_s: float) -> tuple[int, ...]:
        """End every descendant that outlived the leader; the pids that would not go.

        SIGTERM and SIGCONT once to each, SIGKILL after ``term_s``, given up ``kill_s`` later, or up
        to ``DYING_S`` after that while there are some who only have to get round to dying.
        Returns the moment all are gone. The leader must be dead and not reaped.

        Where the leader was asked to stop (``Respite.asked``) its descendants are asked as it was,
        and only those that were there when it died: what they start now, they start to save.
        """
        if not self._leader.pinned:
            return ()
        patience = term_s if callable(term_s) else _fixed(term_s)
        if not procfs.usable():
            return await self._sweep_blindly(patience)
        began = time.monotonic()
        terminator = self._sweeping = Terminator(self._leader.pid, self._signals.group_sent)
        while not self._killed:
            respite = terminator.respite = patience(terminator.alive)
            deadline = began + respite.seconds
            if await self._is_gone(terminator, deadline):
                # It costs nothing, and no fork in the group escapes it.
                self._signals.killpg(signal.SIGKILL)
                return ()
            terminator.tell()
            self.swept = len(terminator.seen)
            if time.monotonic() >= deadline:
                break
            await terminator.pause(deadline)
        self._doom(terminator.alive)
        self._signals.killpg(signal.SIGKILL)
        deadline = time.monotonic() + kill_s
        last = deadline + DYING_S
        killer = Killer(self._leader.pid, self._doom)
        while not await self._is_gone(killer, deadline):
            self.swept = len(terminator.seen | killer.seen)
            if (now := time.monotonic()) >= deadline:
                if now >= last or (killer.alive and not any(map(is_dying, killer.alive))):
                    return tuple(p.pid for p in killer.alive)
                deadline = min(last, now + kill_s)
            await killer.pause(deadline)
        return ()

    def hasten(self) -> None:
        """A SIGKILL to the group follows; the rest of the tree gets it as ``sweep`` gets to it."""
        self._doom(self._sweeping.alive if self._sweeping else self._below())
        self._killed = True
        if self._sweeping is not None:
            self._sweeping.hurry()

    def kill_tree(self) -> tuple[int, ...]:
        """SIGKILL the group and every descendant, at once; the pids that were killed.

        Synchronous and safe in ``finally``: it looks until it finds nothing new, for at most
        ``KILL_TREE_S``, and waits for nobody. A ``sweep`` under way then skips its SIGTERM.
        """
        if not self._leader.pinned:
            return ()
        self._killed = True
        self._signals.killpg(signal.SIGKILL)
        deadline = time.monotonic() + KILL_TREE_S
        killer = Killer(self._leader.pid)
        progress = -1
        for _ in range(KILL_PASSES):
            for _ in self._tree.survey(killer):
                if time.monotonic() > deadline:
                    break
            self._tree.hunt(killer)
            before, progress = progress, len(killer.killed) + orphans.churn(self._leader.pid)
            if progress == before or time.monotonic() > deadline:
                break
        return tuple(pid for pid, _ in killer.killed)

    async def _sweep_blindly(self, patience: Patience) -> tuple[int, ...]:
        """Without ``/proc``, only the group can be seen, and of it whether any child of ours lives:
        as subreaper we are the parent of whatever the leader leaves there."""
        respite = patience(())
        began = time.monotonic()
        if not self._killed:
            self._signals.to_group(respite.signum)
        while _group_lives(self._leader.pid):
            respite = patience(())
            term_s = respite.seconds if respite.asked else min(respite.seconds, BLIND_TERM_S)
            if self._killed or time.monotonic() - began >= term_s:
                break
            await asyncio.sleep(LAST_LOOK_S)
        self._signals.killpg(signal.SIGKILL)
        return ()

    def _below(self) -> list[Process]:
        """Some of the leader's descendants, found quickly: not those whose parents are gone."""
        found: list[Process] = []
        queue = [self._leader.pid] if procfs.usable() else []
        while queue and len(found) < NAMED:
            for pid in procfs.children(queue.pop(0)) or ():
                if (process := procfs.stat(pid)) is not None:
                    found.append(process)
                    queue.append(pid)
        return found

    def _doom(self, processes: Iterable[Process]) -> None:
        """Remember the names of who gets SIGKILL, while they can be read."""
        for process in processes:
            if len(self.doomed) >= NAMED:
                return
            if process.pid not in self.doomed and lives(process):
                self.doomed[process.pid] = procfs.arguments(process.pid)

    async def _is_gone(self, visitor: Visitor, deadline: float) -> bool:
        """One survey in slices, and one collection of the zombies that it leaves to us.

        True if nobody was found alive, nor died meanwhile without being found. Cut short, and
        False, a little after the deadline.
        """
        churn = orphans.churn(self._leader.pid)
        visitor.alive = []
        started = turn = time.monotonic()
        for steps in (self._tree.survey(visitor), orphans.collecting()):
            # Closed at once where we are cancelled: a task that is kept keeps its frames, and
            # those would keep /proc open.
            with contextlib.closing(steps):
                for _ in steps:
                    now = time.monotonic()
                    if now - turn > SLICE_S:
                        await asyncio.sleep(0)
                        turn = time.monotonic()
                    if now - max(started, deadline) > OVERTIME_S:
                        return False
        visitor.cost_s = time.monotonic() - started
        if orphans.churn(self._leader.pid) == churn:
            return not visitor.alive
        if visitor.alive and not visitor.hunts:
            return False
        visitor.hurry()
        await self._hunt(visitor, deadline)
        return False

    async def _hunt(self, visitor: Visitor, deadline: float) -> None:
        """Quick looks, one after the other, as long as they find somebody, dead or alive.

        A survey takes the longer the more corpses it reads past, and what forks and exits all the
        time makes more of them meanwhile: by surveys alone it may never be caught up with.
        """
        turn = time.monotonic()
        until = min(deadline + OVERTIME_S, turn + HUNT_S)
        while self._tree.hunt(visitor):
            now = time.monotonic()
            if now > until:
                return
            if now - turn > SLICE_S:
                await asyncio.sleep(0)
                turn = time.monotonic()


def kill_everything() -> tuple[int, ...]:
    """SIGKILL every descendant of this process, whoever's it was; the pids that were killed.

    The last act of a supervisor that has to go. Our own helpers are left alone.
    """
    me = os.getpid()
    deadline = time.monotonic() + KILL_TREE_S
    killed: dict[tuple[int, int], None] = {}
    for _ in range(KILL_PASSES):
        if not procfs.usable():
            break
        before = len(killed)
        processes = {p.pid: p for pid in procfs.pids() if (p := procfs.stat(pid)) is not None}
        for process in processes.values():
            key = (process.pid, process.start)
            if process.alive and key not in killed and _below(process, me, processes):
                killed[key] = None
                send_exactly(process, signal.SIGKILL)
        if len(killed) == before or time.monotonic() > deadline:
            break
    orphans.collect()
    return tuple(pid for pid, _ in killed)


def _fixed(term_s: float) -> Patience:
    return lambda _: Respite(term_s)


def _group_lives(group: int) -> bool:
    """Whether a child of ours in the group is alive.

    Asking for stopped children alone passes zombies over: ECHILD says that there is no other
    (wait_consider_task() in the kernel's exit.c).
    """
    try:
        os.waitid(os.P_PGID, group, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _below(process: Process, root: int, processes: dict[int, Process]) -> bool:
    for _ in range(len(processes)):
        if orphans.is_helper(process.pid):
            return False
        if process.ppid == root:
            return True
        parent = processes.get(process.ppid)
        if parent is None:
            return False
        process = parent
    return False
