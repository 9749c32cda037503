"""If the supervisor is killed, its children do not outlive it.

SIGKILL cannot be caught, so somebody else has to be there: a fork of ours, made before there are
threads or an event loop, that holds the read end of a pipe. We tell it of each child. When the
pipe ends without a farewell we are dead, and it kills what we had: the children it was told of
with their groups and sessions, and everything that carries this run's mark in its environment
(``tree.py``). As PID 1 none is needed: the kernel ends the namespace with us.

It is a witness as well. It has a session of its own and a name that is not ours, so nobody signals
it along with us but who signals every process that we have: Slurm without cgroups, systemd's
``KillMode=control-group``. Each signal it has is a byte in a second pipe, for ``host/signals.py``.
Rejected: to leave signals blocked and look for them in ``/proc/PID/status``. What is pending there
has no time: a signal to the guardian alone would, a minute later, pass for one to everybody, and
the script would never have it.

Decided by measurement: the fork takes 0.6 ms and keeps about 5 MB to itself; executing another
Python would cost 10 ms and 8 MB, and a shell is not in every image. Rejected: a parent-death
signal on each child (prctl(2), PR_SET_PDEATHSIG). It must be set in the child between fork and
exec, where only ``preexec_fn`` could, is tied to our spawning thread, is cleared on set-uid
programs, and reaches no grandchild.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import time
from collections.abc import Callable

from supervisor.linux import orphans, procfs
from supervisor.linux.inherited import FAULT_SIGNALS
from supervisor.linux.procfs import Process
from supervisor.linux.tree import RUN_MARK, marks_in

FAREWELL_S = 0.25
"""Longest time that ``close`` waits for the guardian to end by itself."""

KILL_S = 10.0
"""Longest time that a guardian kills. It looks again until it finds nobody."""

DEATH_S = 5.0
"""Longest time from the end of the pipe to the death of the supervisor."""

_LOOK_S = 0.02
_QUIET_LOOKS = 3
"""Looks in a row that find nobody before it believes it: the last may be just being forked."""

_NAME = "job-guardian"
"""In the place of our name and command line, of which it is a copy: ``pkill supervisor`` and
``pkill -f train.py`` mean us, and are not to make a witness of it. At most 15 characters."""
_BYE = "bye"

_UNTOLD = FAULT_SIGNALS | {signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ}
"""Signals that it ignores, and says nothing of."""


class Guardian:
    """Our end of it. ``pid`` is None where there is none: as PID 1, or once it is closed."""

    def __init__(self, pid: int | None, pipe: int | None, signals: int | None = None) -> None:
        self.pid = pid
        self.signals = signals
        """What it has had: a pipe, not blocking, with the number of each signal as a byte. At its
        end where nobody is a witness. None once closed, and where there is no guardian."""
        self._pipe = pipe

    @classmethod
    def start(cls) -> Guardian:
        """Fork the guardian. At program start, before there are threads or an event loop.

        As PID 1 there is nothing to fork. Where the fork is refused there is none either, and
        ``pid`` is None: a job is worth more than its guard.
        """
        if os.getpid() == 1:
            return cls(None, None)
        us = os.getpid()
        ends: list[int] = []
        # In the fork they stay blocked until it can take them.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for _ in range(2):
                ends += os.pipe()
            pid = os.fork()
        except OSError:
            for end in ends:
                os.close(end)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            return cls(None, None)
        read, write, told, telling = ends
        if pid == 0:
            # Nothing of ours may run in here but this: no atexit, no finally, no flushing.
            try:
                _guard(read, telling, us)
            finally:
                os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        os.close(read)
        os.close(telling)
        os.set_blocking(write, False)
        os.set_blocking(told, False)
        orphans.register(pid, helper=True)
        return cls(pid, write, told)

    @property
    def alive(self) -> bool:
        """Whether somebody watches: false as PID 1, once closed, or when it was killed itself."""
        if self.pid is None:
            return False
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return False
        return ended is None

    def watch(self, pid: int) -> None:
        """Have a child of ours and its session killed when we are gone."""
        process = procfs.stat(pid)
        self._tell(f"+ {pid} {process.start if process is not None else 0}")

    def forget(self, pid: int) -> None:
        """The child is reaped, its number may become somebody else's."""
        self._tell(f"- {pid}")

    def close(self) -> None:
        """Say farewell and reap it. Idempotent, bounded. Our children must be gone."""
        pid, self.pid = self.pid, None
        self._tell(_BYE)
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        if self.signals is not None:
            os.close(self.signals)
            self.signals = None
        if pid is None:
            return
        deadline = time.monotonic() + FAREWELL_S
        pause_s = 0.0002
        while not _reaped(pid):
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                deadline += KILL_S  # a SIGKILL is a matter of microseconds
            time.sleep(pause_s)
            pause_s = min(0.01, 2 * pause_s)
        orphans.release(pid)

    def _tell(self, line: str) -> None:
        """A line is shorter than PIPE_BUF, so it goes whole or not at all; it never blocks."""
        if self._pipe is not None:
            # Full: the guardian is stopped. Broken: it is gone. ``alive`` tells.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._pipe, line.encode() + b"\n")


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


# ---------------------------------------------------------------------------- in the fork


def _guard(pipe: int, telling: int, supervisor: int) -> None:
    """The guardian's life."""
    _settle(pipe, telling)
    watched: dict[int, int] = {}
    if not _listen(pipe, watched) and _is_gone(supervisor):
        _avenge(watched, supervisor)


def _settle(pipe: int, telling: int) -> None:
    """Let go of all that is the supervisor's: session, name, signals, descriptors, children."""
    gc.disable()  # a collection would write to every page that we share with the supervisor
    os.setsid()
    kept = {pipe, telling} if _rename() else {pipe}
    os.set_blocking(telling, False)
    # The handler in C writes the byte, before any Python runs.
    signal.set_wakeup_fd(telling if telling in kept else -1, warn_on_full_buffer=False)
    for signum in signal.valid_signals():
        # All but SIGKILL and SIGSTOP: the signals of a terminal, and the SIGTERM of a sweep that
        # is on its way to what we are here to kill.
        with contextlib.suppress(OSError):
            signal.signal(signum, signal.SIG_IGN if signum in _UNTOLD else _without_effect)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    # Our stdout must reach its end of file with the supervisor, not with its guardian.
    first = 3
    for fd in (*sorted(kept), max(os.sysconf("SC_OPEN_MAX"), 256)):
        os.closerange(first, fd)
        first = fd + 1
    os.chdir("/")
    orphans.forget_all()


def _without_effect(signum: int, frame: object) -> None:
    """Unlike "ignored" it leaves a byte in the pipe."""


def _rename() -> bool:
    """Have a name and a command line of its own; whether that went well.

    A process may write to the memory in which it was given its arguments (proc_pid_cmdline(5)),
    and Python has a copy of them. Without prctl(2), which needs ctypes, and that 1.5 ms.
    """
    try:
        with open("/proc/self/comm", "wb", buffering=0) as file:
            file.write(_NAME.encode())
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # 48 and 49 of proc_pid_stat(5)
        with open("/proc/self/mem", "r+b", buffering=0) as file:
            file.seek(start)
            file.write(_NAME.encode()[: end - start - 1].ljust(end - start, b"\0"))
    except (OSError, ValueError, IndexError, OverflowError):
        return False
    return True


def _listen(pipe: int, watched: dict[int, int]) -> bool:
    """Keep the list of children until the pipe ends; whether there was a farewell."""
    buffer = b""
    said_bye = False
    while part := os.read(pipe, 4096):
        *lines, buffer = (buffer + part).split(b"\n")
        for line in lines:
            words = line.decode("ascii", "replace").split()
            if words == [_BYE]:
                said_bye = True
            elif len(words) == 3 and words[0] == "+":
                watched[int(words[1])] = int(words[2])
            elif len(words) == 2 and words[0] == "-":
                watched.pop(int(words[1]), None)
    return said_bye


def _is_gone(supervisor: int) -> bool:
    """Whether our parent has died; a process closes its descriptors a moment before it is dead.

    If it lives, somebody closed our pipe, and its children are still its own business.
    """
    deadline = time.monotonic() + DEATH_S
    while os.getppid() == supervisor:
        if time.monotonic() > deadline:
            return False
        select.select((), (), (), 0.001)
    return True


def _avenge(watched: dict[int, int], supervisor: int) -> None:
    """Kill what the supervisor had, until nothing of it is found."""
    deadline = time.monotonic() + KILL_S
    quiet = 0
    while quiet < _QUIET_LOOKS and time.monotonic() < deadline:
        quiet = 0 if _kill_once(watched, supervisor) else quiet + 1
        select.select((), (), (), _LOOK_S)


def _kill_once(watched: dict[int, int], supervisor: int) -> bool:
    """One look; whether anybody was found alive."""
    if not procfs.usable():
        for pid in watched:
            _quietly(os.killpg, pid)
        return False
    sessions = {pid for pid, start in watched.items() if _is_that_session(pid, start)}
    processes = [p for pid in procfs.pids() if (p := procfs.stat(pid)) is not None]
    us = os.getpid()
    run = RUN_MARK.encode() + b"."
    owned: dict[int, Process] = {}

    def marked(process: Process) -> bool:
        marks = marks_in(procfs.environ(process.pid) or b"")
        return any(mark.startswith(run) for mark in marks)

    # An environment may not be readable for as long as a file system does not answer: last.
    for by_mark in (False, True):
        for process in processes:
            if process.pid in owned or process.pid in (us, supervisor) or not process.alive:
                continue
            if (
                process.session in sessions
                or process.ppid in owned
                or watched.get(process.pid) == process.start
                or (by_mark and marked(process))
            ):
                owned[process.pid] = process
                if process.session not in (0, os.getsid(0)):
                    sessions.add(process.session)
                _kill(process)
    return bool(owned)


def _kill(process: Process) -> None:
    # At first sight, so that what forks does not get far. A group is killed in one, atomically.
    if process.pgrp not in (0, 1, os.getpgrp()):
        _quietly(os.killpg, process.pgrp)
    now = procfs.stat(process.pid)
    if now is not None and now.start == process.start:
        _quietly(os.kill, process.pid)


def _quietly(send: Callable[[int, int], None], number: int) -> None:
    with contextlib.suppress(OSError):
        send(number, signal.SIGKILL)


def _is_that_session(pid: int, start: int) -> bool:
    """Whether a session of this number can only be the child's.

    Init may have reaped the leader by now. As long as its session has members the number is not
    given away; if another process has it, the session is over.
    """
    process = procfs.stat(pid)
    return process is None or process.start == start
