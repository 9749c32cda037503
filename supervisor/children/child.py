"""One child from spawn to reap: own session, own pipes, a pidfd, and a clean end of its tree.

``Child.run_to_end`` is the life of a child, readable top to bottom. What it rests on:

- A zombie pins its pid and, being the leader, the id of its group and session. So descendants are
  swept *before* the leader is reaped, and nothing is signalled by number afterwards.
- ``asyncio.create_subprocess_exec`` is not used: its ``wait()`` waits for pipes that a grandchild
  may hold for ever, and up to 3.12 ``send_signal`` can eat the exit status.
- ``subprocess.Popen`` does the fork and exec (vfork, close-on-exec, dispositions; the error of the
  exec comes back). Its ``poll``, ``wait`` and ``send_signal`` are never called, so the status has
  one reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource  # noqa: F401  # os.wait4 loads it, and there may be no descriptor to be had then
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from supervisor.aside import start_thread
from supervisor.children import execution
from supervisor.children.execution import SpawnError
from supervisor.life.words import ExitStatus, ProcessSpec, Respite
from supervisor.linux import orphans, procfs
from supervisor.linux.procfs import Process
from supervisor.linux.tree import MARK_VARIABLE, Tree, mark_value, new_mark

__all__ = [
    "Child",
    "ChildEnd",
    "InheritedSignals",
    "Patience",
    "PumpLike",
    "SpawnError",
    "kill_everything",
    "reset_inherited_signals",
    "spawn",
]

SLICE_S = 0.002
"""Longest stretch of a survey of ``/proc`` between two turns of the event loop."""

FIRST_LOOK_S = 0.001
LAST_LOOK_S = 0.05
"""Pauses between two looks at a tree that is coming down; they double from first to last."""

OVERTIME_S = 1.0
"""What a survey that a deadline finds under way may still take: so each stage has one."""

HUNT_S = 0.25
"""Longest time of quick looks between two surveys."""

PATIENT_S = 1.0
"""Between two surveys while descendants save; whether they are gone is looked at more often."""

NAMED = 10
"""Descendants that are named when they are killed."""

SAMPLE = 16
"""Processes looked at between two surveys: when all are gone, few of the others can be left."""

KILL_PASSES = 50
"""Most surveys of one ``kill_tree``; two are the rule. More only while processes keep forking."""

KILL_TREE_S = 1.0
"""Longest time of one ``kill_tree``."""

DYING_S = 10.0
"""Longest further time for what has its SIGKILL and only lacks a turn of the processor to act on
it: ten thousand processes at once on a busy machine are not uninterruptible, they are slow."""

CLOSE_S = 0.5
"""Longest time that the emergency path waits for the leader to become reapable after SIGKILL."""

BLIND_TERM_S = 0.2
"""Time from SIGTERM to SIGKILL for a group that cannot be looked at."""

DRAIN_SLACK_S = 0.5
"""A pump ends within its own bound; this much later it is left whatever it does."""

_OOM_SCORE_ADJ = "/proc/self/oom_score_adj"
_MOST_OOM_SCORE_ADJ = 1000

_STOPPING = frozenset(
    {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}
)
_PENDING = (b"SigPnd:", b"ShdPnd:")
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})


Patience = Callable[[Sequence[Process]], Respite]
"""What the descendants of a dead leader have, asked again and again while they live. Given those
that were found last; none at the first time."""


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


@dataclass(frozen=True, slots=True)
class InheritedSignals:
    """What whoever started us left behind, before ``reset_inherited_signals`` undid it."""

    ignored: frozenset[int] = frozenset()
    blocked: frozenset[int] = frozenset()

    @property
    def hangup_ignored(self) -> bool:
        """Started under nohup(1), or so: a hang-up is not to stop anything."""
        return signal.SIGHUP in self.ignored


def _without_effect(signum: int, frame: object) -> None:
    """Stand in for "ignored". Unlike that, a handler goes back to the default at exec."""


STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
"""Signals that mean "stop"; held back from the first instruction until somebody handles them."""


def reset_inherited_signals(*, hold: Iterable[int] = ()) -> InheritedSignals:
    """Undo blocked and ignored signals that came through exec. On the main thread, first thing.

    The mask is emptied, but for ``hold``: signals that stay blocked, and so pending, until their
    handlers are installed. SIGCHLD goes to its default (ignored, the kernel would reap our children
    and throw their statuses away). Any other ignored signal stays without effect on us until
    somebody installs a handler, but no longer reaches our children as ignored. SIGTTIN and SIGTTOU
    go to their default: a handler would make a background write to a terminal spin. SIGPIPE and
    SIGXFSZ are ignored by Python itself; ``subprocess`` gives children the default back.
    """
    blocked = frozenset(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    ignored: set[int] = set()
    for signum in signal.valid_signals():
        if signum in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGKILL, signal.SIGSTOP):
            continue
        if signal.getsignal(signum) is signal.SIG_IGN:
            ignored.add(int(signum))
            to_default = signum in (signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU)
            signal.signal(signum, signal.SIG_DFL if to_default else _without_effect)
    # After the dispositions: what was pending meets its new one.
    signal.pthread_sigmask(signal.SIG_SETMASK, hold)
    return InheritedSignals(frozenset(ignored), blocked)


def spawn(spec: ProcessSpec, *, stdin: int = subprocess.DEVNULL, one_pipe: bool = False) -> Child:
    """Execute ``spec`` in a session of its own, stdout and stderr piped, stdin ``/dev/null`` or the
    descriptor ``stdin``, which stays the caller's to close.

    ``one_pipe`` for both streams, as a shell's ``2>&1``: what is written to them comes in order.

    The child starts with default dispositions and an empty signal mask, no descriptor of ours,
    and ``SUPERVISOR_PROCESS_MARK`` added to its environment. Blocks until the exec has succeeded
    or failed (a millisecond). On the event loop's thread.

    Raises:
        SpawnError: it could not be executed; ``code`` 126 or 127, ``message`` says why.

    """
    mark = new_mark()
    environ = {MARK_VARIABLE: mark_value(mark, os.environ.get(MARK_VARIABLE)), **spec.env}
    environ[MARK_VARIABLE] = mark_value(mark, os.environ.get(MARK_VARIABLE))
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
    orphans.register(popen.pid)
    for write in writes:
        os.close(write)
    return Child(spec, popen, mark, reads, started_at)


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


class Child:
    """One child, from ``spawn`` to ``reap``. Belongs to the event loop's thread."""

    def __init__(
        self,
        spec: ProcessSpec,
        popen: subprocess.Popen[bytes],
        mark: str,
        pipes: tuple[int, ...],
        started_at: float,
    ) -> None:
        self.spec = spec
        self.pid: int = popen.pid
        self._pipes = pipes
        self.stdout_fd, self.stderr_fd = pipes[0], pipes[-1]
        self.started_at = started_at
        self.swept = 0
        self._popen = popen
        self._pidfd = _open_pidfd(popen.pid)
        self._dead = asyncio.Event()
        self._watching = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._status: ExitStatus | None = None
        self._usage = (0.0, 0)
        self._killed = False
        self._doomed: dict[int, tuple[str, ...]] = {}
        """Descendants that get SIGKILL: pid → command line; ``NAMED`` at most."""
        self._sweeping: _Terminator | None = None
        self._fds_open = True
        self._sent: set[int] = set()
        """Ending signals that the leader alone has had."""
        self._group_sent: dict[int, int] = {}
        """Ending signals that the group has had, and when (``procfs.now_ticks``)."""
        leader = procfs.stat(popen.pid) if procfs.usable() else None
        self._tree = Tree(popen.pid, mark, leader.start if leader else procfs.now_ticks())

    def __repr__(self) -> str:
        state = str(self._status) if self._status is not None else "not reaped"
        return f"<Child {self.spec.name} pid={self.pid} {state}>"

    @property
    def pinned(self) -> bool:
        """Whether the pid is still this child's: not reaped, not given up."""
        return self._popen.returncode is None

    def take_pipes(self) -> tuple[int, ...]:
        """Hand the read ends of stdout and stderr over, or the one that they share; whoever takes
        them closes them."""
        self._fds_open = False
        return self._pipes

    # ------------------------------------------------------------------ signals

    def signal(self, signum: int, *, group: bool = False) -> bool:
        """Send a signal to the leader, or to its whole process group.

        To the group it is followed by SIGCONT, unless it is itself one that stops or continues:
        a stopped process acts on nothing else. A leader that has had this same ending signal by
        itself is passed over when its group gets it, because many programs take the second one
        for "now". A stopped leader that is sent an ending signal is continued.

        False if there is nobody left to send to, or the kernel forbids it (a set-uid program).
        Never reaches a stranger: nothing is sent once the child is reaped.
        """
        if not self.pinned:
            return False
        if not group:
            if self.exited():
                return False
            if not self._send(signum):
                return False
            if signum in _ENDING:
                self._sent.add(signum)
                process = procfs.stat(self.pid)
                if process is not None and process.stopped:
                    self._send(signal.SIGCONT)
            return True
        if self._sweeping is not None and signum in _ENDING | {self._sweeping.signum}:
            # The leader is dead. Who was there then has had it; this is for who came since.
            self._sweeping.include_all()
            return True
        if signum in self._sent and not self.exited():
            done = self._signal_group_but_leader(signum)
        else:
            done = self._killpg(signum)
        if signum not in _STOPPING:
            self._group_sent[signum] = procfs.now_ticks()
        if signum not in _STOPPING and signum != signal.SIGKILL:
            self._killpg(signal.SIGCONT)
        return done

    def suspend(self) -> int:
        """SIGSTOP to every process of the tree; how many were stopped.

        SIGTSTP would not do: the kernel drops its default action in a process group without a
        parent in its session (setpgid(2), orphaned process groups), which a new session is.
        """
        return self._signal_all(signal.SIGSTOP)

    def resume(self) -> int:
        """SIGCONT to every process of the tree; how many there were."""
        return self._signal_all(signal.SIGCONT)

    def kill_soon(self) -> bool:
        """SIGKILL to the group now; the rest of the tree as ``run_to_end`` gets to it.

        For a stop in order, with the event loop turning: a tree of ten thousand does not hold it.
        A leader that not even SIGKILL ends (uninterruptible sleep) keeps ``run_to_end`` waiting;
        whoever counts the time cancels that.
        """
        self._doom(self._sweeping.alive if self._sweeping else self._below())
        self._killed = True
        if self._sweeping is not None:
            self._sweeping.hurry()
        return self.signal(signal.SIGKILL, group=True)

    def kill_tree(self, *, limit_s: float = KILL_TREE_S) -> tuple[int, ...]:
        """SIGKILL the group and every descendant, at once; the pids that were killed.

        Synchronous and safe in ``finally``: it looks until it finds nothing new, for at most
        ``limit_s``, and waits for nobody. A ``sweep`` under way then skips its SIGTERM.
        """
        if not self.pinned:
            return ()
        self._killed = True
        self._killpg(signal.SIGKILL)
        deadline = time.monotonic() + limit_s
        killer = _Killer(self.pid)
        progress = -1
        for _ in range(KILL_PASSES):
            for _ in self._tree.survey(killer):
                if time.monotonic() > deadline:
                    break
            self._tree.hunt(killer)
            before, progress = progress, len(killer.killed) + orphans.churn(self.pid)
            if progress == before or time.monotonic() > deadline:
                break
        return tuple(pid for pid, _ in killer.killed)

    def descendants(self) -> tuple[int, ...]:
        """The pids of the living descendants, the leader not among them. Empty once reaped."""
        if not self.pinned:
            return ()
        return tuple(p.pid for p in self._tree.members() if p.pid != self.pid)

    # ------------------------------------------------------------------ the life of a child

    async def run_to_end(
        self, pumps: Sequence[PumpLike], *, term_s: float | Patience, kill_s: float, drain_s: float
    ) -> ChildEnd:
        """Wait for the leader, bring down what it left behind, reap, drain, close.

        Takes at most ``term_s + kill_s + drain_s`` and a little after the leader's exit, unless a
        ``Patience`` gives the descendants more. However it is left, cancelled included, the tree
        is killed and the descriptors are closed.
        """
        try:
            await self.leader_exit()
            exited_at = time.monotonic()
            left = await self.sweep(term_s=term_s, kill_s=kill_s)
            status = self.reap()
            drained, errors = await _drain(pumps, drain_s)
            return ChildEnd(
                status=status,
                run_s=exited_at - self.started_at,
                exited_at=exited_at,
                left=left,
                swept=self.swept,
                drained=drained,
                cpu_s=self._usage[0],
                peak_rss_bytes=self._usage[1],
                killed=tuple(self._doomed.items()),
                pump_errors=errors,
            )
        finally:
            self.close(pumps)

    async def leader_exit(self) -> None:
        """Return when the leader is dead. Reaps nothing. Any number may wait; may be cancelled."""
        if not self.exited():
            self._watch()
            await self._dead.wait()

    def exited(self) -> bool:
        """Whether the leader is dead (all its threads), reaped or not."""
        if self._dead.is_set():
            return True
        if _reapable(self.pid):
            self._dead.set()
            return True
        return False

    async def sweep(self, *, term_s: float | Patience, kill_s: float) -> tuple[int, ...]:
        """End every descendant that outlived the leader; the pids that would not go.

        SIGTERM and SIGCONT once to each, SIGKILL after ``term_s``, given up ``kill_s`` later, or up
        to ``DYING_S`` after that while there are some who only have to get round to dying.
        Returns the moment all are gone. The leader must be dead and not reaped: its zombie keeps
        the numbers of its group and session from being given to others.

        Where the leader was asked to stop (``Respite.asked``) its descendants are asked as it was,
        and only those that were there when it died: what they start now, they start to save.
        """
        if not self.pinned:
            return ()
        patience = term_s if callable(term_s) else _fixed(term_s)
        if not procfs.usable():
            return await self._sweep_blindly(patience)
        began = time.monotonic()
        terminator = self._sweeping = _Terminator(self.pid, self._group_sent)
        while not self._killed:
            respite = terminator.respite = patience(terminator.alive)
            deadline = began + respite.seconds
            if await self._is_gone(terminator, deadline):
                # It costs nothing, and no fork in the group escapes it.
                self._killpg(signal.SIGKILL)
                return ()
            terminator.tell()
            self.swept = len(terminator.seen)
            if time.monotonic() >= deadline:
                break
            await terminator.pause(deadline)
        self._doom(terminator.alive)
        self._killpg(signal.SIGKILL)
        deadline = time.monotonic() + kill_s
        last = deadline + DYING_S
        killer = _Killer(self.pid, self._doom)
        while not await self._is_gone(killer, deadline):
            self.swept = len(terminator.seen | killer.seen)
            if (now := time.monotonic()) >= deadline:
                if now >= last or (killer.alive and not any(map(_is_dying, killer.alive))):
                    return tuple(p.pid for p in killer.alive)
                deadline = min(last, now + kill_s)
            await killer.pause(deadline)
        return ()

    def death(self) -> ExitStatus | None:
        """How the leader died, before it is reaped; None while it lives or where it is unknown."""
        if self._status is not None:
            return self._status
        try:
            seen = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return None
        if seen is None:
            return None
        if seen.si_code == os.CLD_EXITED:
            return ExitStatus(code=seen.si_status)
        return ExitStatus(signum=seen.si_status, core_dumped=seen.si_code == os.CLD_DUMPED)

    def dying(self) -> bool:
        """After a SIGKILL: whether the leader is dead, or will be when it gets the processor."""
        if self.exited():
            return True
        leader = procfs.stat(self.pid)
        return leader is not None and _is_dying(leader)

    def reap(self) -> ExitStatus:
        """Take the exit status. Once; later calls return the same. The leader must be dead.

        Raises:
            RuntimeError: the leader still runs, or somebody else took its status.

        """
        if self._status is not None:
            return self._status
        try:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            self._forget()
            raise RuntimeError(
                f"the exit status of {self.spec.name} (pid {self.pid}) was taken by somebody else"
            ) from None
        if pid == 0:
            raise RuntimeError(f"{self.spec.name} (pid {self.pid}) has not exited")
        self._status = exit_status(status)
        self._usage = (usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
        self._forget()
        return self._status

    def close(self, pumps: Iterable[PumpLike] = ()) -> None:
        """Let go of everything, synchronously and in bounded time. Idempotent.

        A child that is not reaped yet is killed with its tree and reaped; if even SIGKILL does
        not end it within half a second, the collector of orphans gets it.
        """
        if self.pinned:
            self.kill_tree()
            if self._wait_dead(CLOSE_S):
                with contextlib.suppress(RuntimeError):
                    self.reap()
            else:
                self._forget()
        for pump in pumps:
            pump.close()
        if self._fds_open:
            self._fds_open = False
            for fd in self._pipes:
                os.close(fd)

    # ------------------------------------------------------------------ inside

    def _send(self, signum: int) -> bool:
        # The pid is pinned: we alone reap it, and have not.
        try:
            os.kill(self.pid, signum)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _killpg(self, signum: int) -> bool:
        try:
            os.killpg(self.pid, signum)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _signal_group_but_leader(self, signum: int) -> bool:
        done = False

        def send(process: Process) -> None:
            nonlocal done
            if process.pgrp == self.pid and process.pid != self.pid:
                done |= _send_exactly(process, signum)

        for _ in self._tree.survey(send):
            pass
        return done

    def _signal_all(self, signum: int) -> int:
        if not self.pinned:
            return 0
        self._killpg(signum)
        count = 0

        def send(process: Process) -> None:
            nonlocal count
            count += 1
            if process.pgrp != self.pid:
                _send_exactly(process, signum)

        for _ in self._tree.survey(send):
            pass
        return count

    async def _sweep_blindly(self, patience: Patience) -> tuple[int, ...]:
        """Without ``/proc``, only the group can be seen, and of it whether any child of ours lives:
        as subreaper we are the parent of whatever the leader leaves there."""
        respite = patience(())
        began = time.monotonic()
        if not self._killed:
            self.signal(respite.signum, group=True)
        while _group_lives(self.pid):
            respite = patience(())
            term_s = respite.seconds if respite.asked else min(respite.seconds, BLIND_TERM_S)
            if self._killed or time.monotonic() - began >= term_s:
                break
            await asyncio.sleep(LAST_LOOK_S)
        self._killpg(signal.SIGKILL)
        return ()

    def _below(self) -> list[Process]:
        """Some of the leader's descendants, found quickly: not those whose parents are gone."""
        found: list[Process] = []
        queue = [self.pid] if procfs.usable() else []
        while queue and len(found) < NAMED:
            for pid in procfs.children(queue.pop(0)) or ():
                if (process := procfs.stat(pid)) is not None:
                    found.append(process)
                    queue.append(pid)
        return found

    def _doom(self, processes: Iterable[Process]) -> None:
        """Remember the names of who gets SIGKILL, while they can be read."""
        for process in processes:
            if len(self._doomed) >= NAMED:
                return
            if process.pid not in self._doomed and _lives(process):
                self._doomed[process.pid] = procfs.arguments(process.pid)

    async def _is_gone(self, visitor: _Visitor, deadline: float) -> bool:
        """One survey in slices, and one collection of the zombies that it leaves to us.

        True if nobody was found alive, nor died meanwhile without being found. Cut short, and
        False, a little after the deadline.
        """
        churn = orphans.churn(self.pid)
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
        if orphans.churn(self.pid) == churn:
            return not visitor.alive
        if visitor.alive and not visitor.hunts:
            return False
        visitor.hurry()
        await self._hunt(visitor, deadline)
        return False

    async def _hunt(self, visitor: _Visitor, deadline: float) -> None:
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

    def _watch(self) -> None:
        """Have ``_dead`` set at the leader's exit."""
        if self._watching:
            return
        self._watching = True
        self._loop = loop = asyncio.get_running_loop()
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._on_pidfd)
            return
        waiting = partial(_wait_in_thread, self.pid, loop, self._dead)
        if not start_thread(waiting, f"wait-{self.pid}"):
            self._poll()

    def _poll(self) -> None:
        """Where there is neither a pidfd nor a thread."""
        if self._loop is not None and not self.exited():
            self._loop.call_later(LAST_LOOK_S, self._poll)

    def _on_pidfd(self) -> None:
        if self.exited() and self._loop is not None and self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)

    def _wait_dead(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        if self._pidfd is not None:
            poll.register(self._pidfd, select.POLLIN)
        while not self.exited():
            rest = deadline - time.monotonic()
            if rest <= 0:
                return False
            poll.poll(rest * 1000 if self._pidfd is not None else 2)
        return True

    def _forget(self) -> None:
        """No longer ours: reaped, or given up."""
        # Popen's destructor would otherwise put a child without one on a list to poll later.
        self._popen.returncode = self._status.shell_code if self._status is not None else 255
        self._dead.set()
        orphans.release(self.pid)
        if self._pidfd is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


class _Visitor:
    """Called with every living member of a tree in a survey; the leader is none of its business."""

    hunts = False
    """Whether to chase what keeps forking while others are still there."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.alive: list[Process] = []
        self.seen: set[tuple[int, int]] = set()
        self.cost_s = 0.0
        self._pause_s = FIRST_LOOK_S
        self._until = 0.0

    def __call__(self, process: Process) -> None:
        if process.pid == self.leader:
            return
        self.alive.append(process)
        key = (process.pid, process.start)
        if key not in self.seen:
            self.seen.add(key)
            self.meet(process)

    def meet(self, process: Process) -> None:
        """A member that was not there in an earlier survey."""
        raise NotImplementedError

    def hurry(self) -> None:
        """The next pauses are the shortest again, and the one under way is over."""
        self._pause_s = FIRST_LOOK_S
        self.cost_s = 0.0
        self._until = 0.0

    async def pause(self, deadline: float, *, least_s: float = 0.0) -> None:
        """Sleep until another survey is worth it, at most until ``deadline``.

        That is when a sample of those seen alive is gone, for until then the tree cannot be; or
        after three times what a survey takes, or ``least_s``, for what has been made meanwhile.
        """
        rest_s = max(self._pause_s, 3 * self.cost_s, least_s)
        self._until = min(deadline, time.monotonic() + rest_s)
        sample = self.alive[:: max(1, len(self.alive) // SAMPLE)]
        while (rest := self._until - time.monotonic()) > 0:
            await asyncio.sleep(min(self._pause_s, rest))
            self._pause_s = min(2 * self._pause_s, LAST_LOOK_S)
            while sample and not _lives(sample[-1]):
                sample.pop()
            if not sample:
                return


class _Terminator(_Visitor):
    """The respite's signal and SIGCONT, once to each process."""

    def __init__(self, leader: int, group_sent: Mapping[int, int]) -> None:
        super().__init__(leader)
        self.respite = Respite(0.0)
        self._group_sent = group_sent
        self._told: set[tuple[int, int]] = set()
        self._untold: list[Process] = []
        self._everybody = False
        self._first_survey_at: int | None = None
        """When it was over (``procfs.now_ticks``)."""

    @property
    def signum(self) -> int:
        return self.respite.signum

    def include_all(self) -> None:
        """From the next survey on those are asked as well that came after the leader's end."""
        self._everybody = True
        self.hurry()

    def __call__(self, process: Process) -> None:
        super().__call__(process)
        key = (process.pid, process.start)
        if process.pid == self.leader or key in self._told:
            return
        if not self.respite.asked:
            self._told.add(key)
            self._send(process)
        elif (
            self._everybody
            or self._first_survey_at is None
            or process.start < self._first_survey_at
        ):
            self._told.add(key)
            self._untold.append(process)

    def meet(self, process: Process) -> None:
        pass

    def tell(self) -> None:
        """Ask those that were found, all of them found first: a process that is asked may start
        another to save, and that one is not to be taken for one that was there before."""
        if self._first_survey_at is None:
            self._first_survey_at = procfs.now_ticks()
        untold, self._untold = self._untold, []
        for process in untold:
            self._send(process)

    async def pause(self, deadline: float, *, least_s: float = 0.0) -> None:
        await super().pause(deadline, least_s=PATIENT_S if self.respite.asked else least_s)

    def _send(self, process: Process) -> None:
        group_sent_at = self._group_sent.get(self.signum)
        had_it = (
            group_sent_at is not None
            and process.pgrp == self.leader
            and process.start < group_sent_at
        )
        if not had_it:
            _send_exactly(process, self.signum)
        _send_exactly(process, signal.SIGCONT)


class _Killer(_Visitor):
    """SIGKILL to each process's whole group: atomic against fork(2), one call for thousands."""

    hunts = True

    def __init__(
        self, leader: int, before: Callable[[Sequence[Process]], None] = lambda _: None
    ) -> None:
        """``before`` is told of each that is met, before its end."""
        super().__init__(leader)
        self.killed: dict[tuple[int, int], None] = {}
        self._before = before
        self._us = os.getpgrp()

    def __call__(self, process: Process) -> None:
        if process.pid == self.leader:
            # Has it already, by the group or below; counted so that kill_tree can name it.
            self.killed.setdefault((process.pid, process.start))
            return
        super().__call__(process)

    def meet(self, process: Process) -> None:
        self._before((process,))
        self.killed[process.pid, process.start] = None
        if process.pgrp not in (0, 1, self._us):
            # A group never spans two sessions, and the session belongs to this tree.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pgrp, signal.SIGKILL)
                return
        _send_exactly(process, signal.SIGKILL)


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


def _is_dying(process: Process) -> bool:
    """Whether SIGKILL will end it: not in uninterruptible sleep, nor out of our reach."""
    now = procfs.stat(process.pid)
    if now is None or now.start != process.start or not now.alive or now.state == "R":
        return True
    if now.state == "D":
        return False
    status = procfs.read(f"/proc/{process.pid}/status") or b""
    pending = [line.split()[1] for line in status.splitlines() if line[:7] in _PENDING]
    return any(int(mask, 16) >> (signal.SIGKILL - 1) & 1 for mask in pending)


def _lives(process: Process) -> bool:
    now = procfs.stat(process.pid)
    return now is not None and now.start == process.start and now.alive


def _send_exactly(process: Process, signum: int) -> bool:
    """Signal this very process and not one that got its number since it was looked at."""
    pidfd = _open_pidfd(process.pid)
    try:
        now = procfs.stat(process.pid)
        if now is None or now.start != process.start:
            return False
        if pidfd is not None:
            signal.pidfd_send_signal(pidfd, signum)
        else:
            os.kill(process.pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return True


def _open_pidfd(pid: int) -> int | None:
    """None where the kernel or a sandbox refuses, the process is gone or descriptors are short."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _reapable(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return True  # somebody took it: ``reap`` will say so


def _wait_in_thread(pid: int, loop: asyncio.AbstractEventLoop, dead: asyncio.Event) -> None:
    """Where pidfd_open(2) is refused. Ends with the child: dead, or reaped by someone (ECHILD).

    Safe against a recycled pid: the kernel waits for the process, not for the number.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(dead.set)


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


def exit_status(status: int) -> ExitStatus:
    """The words of ``model`` for a wait(2) status."""
    if os.WIFSIGNALED(status):
        return ExitStatus(signum=os.WTERMSIG(status), core_dumped=os.WCOREDUMP(status))
    return ExitStatus(code=os.WEXITSTATUS(status))


def kill_everything(*, limit_s: float = KILL_TREE_S) -> tuple[int, ...]:
    """SIGKILL every descendant of this process, whoever's it was; the pids that were killed.

    The last act of a supervisor that has to go. Our own helpers are left alone.
    """
    me = os.getpid()
    deadline = time.monotonic() + limit_s
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
                _send_exactly(process, signal.SIGKILL)
        if len(killed) == before or time.monotonic() > deadline:
            break
    orphans.collect()
    return tuple(pid for pid, _ in killed)


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
