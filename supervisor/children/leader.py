"""The process that was executed: whether it is dead, how it died, and the one reader of its status.

- A zombie pins its pid and, being the leader, the id of its group and session. Nothing is
  signalled by number once it is reaped.
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
import subprocess
import time
from functools import partial

from supervisor.aside import start_thread
from supervisor.life.words import ExitStatus
from supervisor.linux import orphans, procfs
from supervisor.linux.pidfd import is_dying, open_pidfd

POLL_S = 0.05
"""Between two looks at a leader for whose end nothing can wait."""


class Leader:
    """The first process of a child, owned until it is reaped or given up."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.pid: int = popen.pid
        self.cpu_s = 0.0
        """Once reaped: CPU time, user and system, its own and that of whom it waited for."""
        self.peak_rss_bytes = 0
        """Once reaped: the largest resident set of any single one of those."""
        self.status: ExitStatus | None = None
        """None until it is reaped."""
        self._popen = popen
        orphans.register(popen.pid)
        self._pidfd = open_pidfd(popen.pid)
        self._dead = asyncio.Event()
        self._watching = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pinned(self) -> bool:
        """Whether the pid is still this process's: not reaped, not given up."""
        return self._popen.returncode is None

    def signal(self, signum: int) -> bool:
        """False if it is gone or the kernel forbids it. Only while it is pinned."""
        # The pid is pinned: we alone reap it, and have not.
        try:
            os.kill(self.pid, signum)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def exited(self) -> bool:
        """Whether it is dead (all its threads), reaped or not."""
        if self._dead.is_set():
            return True
        if _reapable(self.pid):
            self._dead.set()
            return True
        return False

    async def exit(self) -> None:
        """Return when it is dead. Reaps nothing. Any number may wait; may be cancelled."""
        if not self.exited():
            self._watch()
            await self._dead.wait()

    def exit_within(self, timeout_s: float) -> bool:
        """Wait for its end without the event loop; whether it came in time."""
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

    def death(self) -> ExitStatus | None:
        """How it died, before it is reaped; None while it lives or where it is unknown."""
        if self.status is not None:
            return self.status
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
        """After a SIGKILL: whether it is dead, or will be when it gets the processor."""
        if self.exited():
            return True
        process = procfs.stat(self.pid)
        return process is not None and is_dying(process)

    def reap(self) -> ExitStatus:
        """Take the exit status. Once; later calls return the same. It must be dead.

        Raises:
            RuntimeError: it still runs, or somebody else took its status.

        """
        if self.status is not None:
            return self.status
        try:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            self.release()
            raise RuntimeError(
                f"the exit status of {self.name} (pid {self.pid}) was taken by somebody else"
            ) from None
        if pid == 0:
            raise RuntimeError(f"{self.name} (pid {self.pid}) has not exited")
        self.status = exit_status(status)
        self.cpu_s = usage.ru_utime + usage.ru_stime
        self.peak_rss_bytes = usage.ru_maxrss * 1024
        self.release()
        return self.status

    def release(self) -> None:
        """No longer ours: reaped, or given up to the collector of orphans."""
        # Popen's destructor would otherwise put a child without one on a list to poll later.
        self._popen.returncode = self.status.shell_code if self.status is not None else 255
        self._dead.set()
        orphans.release(self.pid)
        if self._pidfd is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _watch(self) -> None:
        """Have ``_dead`` set at its exit."""
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
            self._loop.call_later(POLL_S, self._poll)

    def _on_pidfd(self) -> None:
        if self.exited() and self._loop is not None and self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)


def exit_status(status: int) -> ExitStatus:
    """The words of ``life`` for a wait(2) status."""
    if os.WIFSIGNALED(status):
        return ExitStatus(signum=os.WTERMSIG(status), core_dumped=os.WCOREDUMP(status))
    return ExitStatus(code=os.WEXITSTATUS(status))


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
