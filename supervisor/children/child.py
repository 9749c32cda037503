"""One child from spawn to reap: own session, own pipes, a pidfd, and a clean end of its tree.

``Child.run_to_end`` is the life of a child, readable top to bottom. What it rests on:
``leader.py``, the process that was executed and its exit status; ``signalling.py``, what is sent
while it is owned; ``ending.py``, the end of what it leaves behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisor.children import execution
from supervisor.children.ending import Ending, Patience
from supervisor.children.leader import Leader
from supervisor.children.signalling import Signals
from supervisor.life.words import ExitStatus, ProcessSpec
from supervisor.linux import procfs
from supervisor.linux.tree import MARK_VARIABLE, Tree, mark_value, new_mark

CLOSE_S = 0.5
"""Longest time that the emergency path waits for the leader to become reapable after SIGKILL."""

DRAIN_SLACK_S = 0.5
"""A pump ends within its own bound; this much later it is left whatever it does."""

_OOM_SCORE_ADJ = "/proc/self/oom_score_adj"
_MOST_OOM_SCORE_ADJ = 1000


class PumpLike(Protocol):
    """What carries a child's output away, from descriptors taken with ``take_pipes``."""

    async def finish(self, timeout_s: float) -> object:
        """Go on until end of file, for at most ``timeout_s``."""

    def close(self) -> None:
        """Let go of the descriptor at once, without waiting. Idempotent."""


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child ended, its tree swept, its status reaped, its pipes drained."""

    status: ExitStatus
    run_s: float
    """From spawn to the leader's exit."""
    exited_at: float
    """The leader's exit as we saw it, ``time.monotonic()``."""
    left: tuple[int, ...]
    """Descendants that SIGKILL did not end in time: uninterruptible, or not ours to kill."""
    swept: int
    """Descendants that outlived the leader and were ended by us."""
    drained: bool
    """False if a pump took all of its time: somebody still holds the pipe."""
    cpu_s: float
    """CPU time, user and system, of the leader and of the descendants it waited for."""
    peak_rss_bytes: int
    """Largest resident set of any single one of those."""
    killed: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Descendants that had to be ended by SIGKILL, the first few: pid and command line."""
    pump_errors: tuple[str, ...] = ()
    """What pumps raised; it must not cost the exit status."""


def spawn(
    spec: ProcessSpec,
    *,
    stdin: int = subprocess.DEVNULL,
    one_pipe: bool = False,
    also: Mapping[str, str] | None = None,
    fds: Sequence[int] = (),
) -> Child:
    """Execute ``spec`` in a session of its own, stdout and stderr piped, stdin ``/dev/null`` or the
    descriptor ``stdin``, which stays the caller's to close.

    ``one_pipe`` for both streams, as a shell's ``2>&1``: what is written to them comes in order.
    ``also`` is added to its environment, and ``fds`` it inherits, of the same numbers.

    The child starts with default dispositions and an empty signal mask, no other descriptor of
    ours, and ``SUPERVISOR_PROCESS_MARK`` added to its environment. Blocks until the exec has
    succeeded or failed (a millisecond). On the event loop's thread.

    Raises:
        SpawnError: it could not be executed; ``code`` 126 or 127, ``message`` says why.

    """
    mark = new_mark()
    environ = environment(spec, mark) | dict(also or {})
    ends: list[int] = []
    try:
        for _ in range(1 if one_pipe else 2):
            ends += os.pipe()
        reads, writes = tuple(ends[::2]), ends[1::2]
        for read in reads:  # ours only: each end is an open file description of its own
            os.set_blocking(read, False)
        masked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
        started_at = time.monotonic()
        try:
            with _likelier_to_be_killed(spec.oom_raise):
                popen = subprocess.Popen(
                    spec.argv,
                    stdin=stdin,
                    stdout=writes[0],
                    stderr=writes[-1],
                    cwd=spec.cwd,
                    env=environ,
                    close_fds=True,
                    pass_fds=fds,
                    start_new_session=True,
                    restore_signals=True,
                )
        finally:
            if masked:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    except (OSError, ValueError) as error:
        for fd in ends:
            os.close(fd)
        raise execution.explain(spec, error) from None
    leader = Leader(spec.name, popen)
    for write in writes:
        os.close(write)
    return Child(spec, leader, mark, reads, started_at)


def environment(spec: ProcessSpec, mark: str) -> dict[str, str]:
    """A child's whole environment, with the mark that its tree is found by."""
    value = mark_value(mark, os.environ.get(MARK_VARIABLE))
    return {MARK_VARIABLE: value} | {**spec.env, MARK_VARIABLE: value}


class Child:
    """One child, from ``spawn`` to ``reap``. Belongs to the event loop's thread."""

    def __init__(
        self,
        spec: ProcessSpec,
        leader: Leader,
        mark: str,
        pipes: tuple[int, ...],
        started_at: float,
    ) -> None:
        self.spec = spec
        self.pid = leader.pid
        self.mark = mark
        self.told: dict[str, object] = {}
        """What else is to be said of its start."""
        self.started_at = started_at
        self.stdout_fd, self.stderr_fd = pipes[0], pipes[-1]
        self._pipes = pipes
        self._fds_open = True
        process = procfs.stat(leader.pid) if procfs.usable() else None
        self._leader = leader
        self._tree = Tree(leader.pid, mark, process.start if process else procfs.now_ticks())
        self._signals = Signals(leader, self._tree)
        self._ending = Ending(leader, self._tree, self._signals)

    def __repr__(self) -> str:
        state = str(self._leader.status) if self._leader.status is not None else "not reaped"
        return f"<Child {self.spec.name} pid={self.pid} {state}>"

    def take_pipes(self) -> tuple[int, ...]:
        """Hand the read ends of stdout and stderr over, or the one that they share; whoever takes
        them closes them."""
        self._fds_open = False
        return self._pipes

    async def run_to_end(
        self, pumps: Sequence[PumpLike], *, term_s: float | Patience, kill_s: float, drain_s: float
    ) -> ChildEnd:
        """Wait for the leader, bring down what it left behind, reap, drain, close.

        Takes at most ``term_s + kill_s + drain_s`` and a little after the leader's exit, unless a
        ``Patience`` gives the descendants more. However it is left, cancelled included, the tree
        is killed and the descriptors are closed.
        """
        try:
            await self._leader.exit()
            exited_at = time.monotonic()
            left = await self._ending.sweep(term_s=term_s, kill_s=kill_s)
            status = self._leader.reap()
            drained, errors = await _drain(pumps, drain_s)
            return ChildEnd(
                status=status,
                run_s=exited_at - self.started_at,
                exited_at=exited_at,
                left=left,
                swept=self._ending.swept,
                drained=drained,
                cpu_s=self._leader.cpu_s,
                peak_rss_bytes=self._leader.peak_rss_bytes,
                killed=tuple(self._ending.doomed.items()),
                pump_errors=errors,
            )
        finally:
            self.close(pumps)

    def close(self, pumps: Iterable[PumpLike] = ()) -> None:
        """Let go of everything, synchronously and in bounded time. Idempotent.

        A child that is not reaped yet is killed with its tree and reaped; if even SIGKILL does
        not end it within half a second, the collector of orphans gets it.
        """
        if self._leader.pinned:
            self._ending.kill_tree()
            if self._leader.exit_within(CLOSE_S):
                with contextlib.suppress(RuntimeError):
                    self._leader.reap()
            else:
                self._leader.release()
        for pump in pumps:
            pump.close()
        if self._fds_open:
            self._fds_open = False
            for fd in self._pipes:
                os.close(fd)

    def exited(self) -> bool:
        """Whether the leader is dead (all its threads), reaped or not."""
        return self._leader.exited()

    async def exit(self) -> None:
        """Return when the leader is dead. Reaps nothing; may be cancelled."""
        await self._leader.exit()

    def death(self) -> ExitStatus | None:
        """How the leader died, before it is reaped; None while it lives or where it is unknown."""
        return self._leader.death()

    def dying(self) -> bool:
        """After a SIGKILL: whether the leader is dead, or will be when it gets the processor."""
        return self._leader.dying()

    def reap(self) -> ExitStatus:
        """The leader's exit status, taken once. Raises RuntimeError: it is not to be had."""
        return self._leader.reap()

    def descendants(self) -> tuple[int, ...]:
        """The pids of the living descendants, the leader not among them. Empty once reaped."""
        if not self._leader.pinned:
            return ()
        return tuple(p.pid for p in self._tree.members() if p.pid != self.pid)

    def signal(self, signum: int, *, group: bool = False) -> bool:
        """Send a signal to the leader, or to its whole process group (``Signals``).

        False if there is nobody left to send to, or the kernel forbids it (a set-uid program).
        Never reaches a stranger: nothing is sent once the child is reaped.
        """
        if not self._leader.pinned:
            return False
        if not group:
            return self._signals.to_leader(signum)
        return self._ending.pass_on(signum) or self._signals.to_group(signum)

    def had(self, signum: int) -> None:
        """Somebody else has sent it to every process: it counts as sent to the leader."""
        if self._leader.pinned:
            self._signals.had_by_leader(signum)

    def suspend(self) -> int:
        """SIGSTOP to every process of the tree; how many were stopped.

        SIGTSTP would not do: the kernel drops its default action in a process group without a
        parent in its session (setpgid(2), orphaned process groups), which a new session is.
        """
        return self._signals.to_all(signal.SIGSTOP)

    def resume(self) -> int:
        """SIGCONT to every process of the tree; how many there were."""
        return self._signals.to_all(signal.SIGCONT)

    def kill_soon(self) -> bool:
        """SIGKILL to the group now; the rest of the tree as ``run_to_end`` gets to it.

        For a stop in order, with the event loop turning: a tree of ten thousand does not hold it.
        A leader that not even SIGKILL ends (uninterruptible sleep) keeps ``run_to_end`` waiting;
        whoever counts the time cancels that.
        """
        self._ending.hasten()
        return self.signal(signal.SIGKILL, group=True)

    def kill_tree(self) -> tuple[int, ...]:
        """SIGKILL the group and every descendant, at once; the pids that were killed.

        Synchronous, for at most ``ending.KILL_TREE_S``; waits for nobody.
        """
        return self._ending.kill_tree()


@contextlib.contextmanager
def _likelier_to_be_killed(more: int) -> Iterator[None]:
    """Raise our own ``oom_score_adj`` for the time of a spawn, so that the child inherits it.

    A value that the child got from us only after its exec would come too late for what it forks
    first. Raising needs no privilege, nor does going back to what a privileged process had set
    (__set_oom_adj() in the kernel's fs/proc/base.c). Where it is refused, all stays as it was.
    """
    before: int | None = None
    with contextlib.suppress(OSError, ValueError):
        found = int(procfs.read(_OOM_SCORE_ADJ) or b"")
        raised = min(found + more, _MOST_OOM_SCORE_ADJ)
        if raised > found:
            procfs.write(_OOM_SCORE_ADJ, b"%d" % raised)
            before = found
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                procfs.write(_OOM_SCORE_ADJ, b"%d" % before)


async def _drain(pumps: Sequence[PumpLike], drain_s: float) -> tuple[bool, tuple[str, ...]]:
    """Let all pumps finish side by side; whether all did within the bound, and their errors."""
    if not pumps:
        return True, ()
    started = time.monotonic()
    tasks = [asyncio.ensure_future(pump.finish(drain_s)) for pump in pumps]
    try:
        done, pending = await asyncio.wait(tasks, timeout=drain_s + DRAIN_SLACK_S)
    finally:
        for task in tasks:
            task.cancel()
    in_time = not pending and time.monotonic() - started < drain_s
    errors = [task.exception() for task in done if not task.cancelled()]
    return in_time, tuple(f"{type(e).__name__}: {e}" for e in errors if e is not None)
