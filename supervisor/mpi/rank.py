"""One rank: ``python -I rank.py [--mpi4py] SIGNUM COMMAND…``, started by mpirun on any host.

Runs the command as its child and ends as it ends. What it is for:

- SIGPWR, passed on by mpirun, becomes the stop signal SIGNUM, once, to the command alone. mpirun's
  own way to stop a rank leaves it one second;
- where the command is a shell that the stop signal ends, what it had started gets the signal too,
  and is waited for: mpirun takes the end of a rank for the end of its work;
- the variables of the host that the rank is on replace the master's (see ``sshd.py``);
- a rank that fails says on which host that was, which mpirun does not;
- ``--mpi4py``: where mpi4py is installed, a Python script runs under it. Then an exception in one
  rank aborts all; without, its interpreter waits in MPI_Finalize for ranks that wait for it.

mpirun signals the process group, so the command has every other signal already; here they are
taken and dropped.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import sys
from typing import Final, NoReturn

from supervisor.faults import safe

ENVIRONMENT = "SUPERVISOR_MPI_ENVIRONMENT"
"""A JSON file: what this host's ranks have in place of the master's variables."""

PR_SET_CHILD_SUBREAPER: Final = 36

_DROPPED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGALRM, signal.SIGABRT, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO,
)  # fmt: skip


def main(arguments: list[str]) -> NoReturn:
    """Run the command to its end, and end alike."""
    under_mpi4py = arguments[0] == "--mpi4py"
    if under_mpi4py:
        del arguments[0]
    stop_signal, command = int(arguments[0]), arguments[1:]
    if under_mpi4py and _is_installed("mpi4py"):
        command[1:1] = ["-m", "mpi4py"]
    take_environment_of_host()
    # What the command leaves behind becomes our child (prctl(2)); nothing here may import ours.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    # Nothing may arrive between the fork and the moment when each side is ready for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child == 0:
        _execute(command)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, stop_signal)

    for signum in _DROPPED:
        signal.signal(signum, lambda *_: None)
    signal.signal(signal.SIGPWR, stop)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    status = wait_for(child)
    if stopping:
        outlast(stop_signal)
    end_as(status)


def wait_for(child: int) -> int:
    """The wait status of a child; orphans that die meanwhile are collected."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def outlast(stop_signal: int) -> None:
    """Ask what the command left to stop, and wait until it is gone: whoever stops us bounds it."""
    asked = set()
    queue = [os.getpid()]
    while queue:
        parent = queue.pop()
        with contextlib.suppress(OSError, ValueError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file:
                    queue += [pid for pid in map(int, file.read().split()) if pid not in asked]
        asked.add(parent)
    for pid in asked - {os.getpid()}:
        for signum in (stop_signal, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signum)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _execute(command: list[str]) -> NoReturn:
    signal.signal(signal.SIGPWR, signal.SIG_IGN)
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, inherited through exec
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        try:
            os.execvp(command[0], command)  # noqa: S606  # no shell is the point
        except OSError as error:
            if error.errno != errno.ENOEXEC or not _is_text(command[0]):
                raise
            # Not a line about the rank's end, by which a failure is found.
            why = f"supervisor: {command[0]} is run by /bin/sh: it has no interpreter line"
            print(why, file=sys.stderr, flush=True)
            os.execv("/bin/sh", ["/bin/sh", *command])  # noqa: S606  # as without MPI
    except OSError as error:
        say(f"cannot execute {command[0]!r}: {error.strerror}")
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _is_text(path: str) -> bool:
    """As in ``children/execution.py``, of which nothing can be imported here."""
    with open(path, "rb") as file:
        head = file.read(4096)
    return bool(head.strip()) and b"\0" not in head and not head.startswith(b"\x7fELF")


def take_environment_of_host() -> None:
    """The variables of this host, where it is not the master."""
    path = os.environ.pop(ENVIRONMENT, None)
    if path is None:
        return
    try:
        with open(path, encoding="utf-8") as file:
            os.environ.update(json.load(file))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        say(f"the variables of this host cannot be read, those of the master are used: {why}")


def end_as(status: int) -> NoReturn:
    """End with the exit code or by the signal of a wait status, and say a failure."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        if code:
            say(f"exit {code}")
        sys.exit(code)
    say(f"killed by {signal.Signals(-code).name if -code in set(signal.Signals) else -code}")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command's own core is the one to keep
    if -code not in {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    sys.exit(128 - code)


def say(text: str) -> None:
    """A line of ours in the rank's output; ``words.py`` reads it."""
    rank, host = os.environ.get("OMPI_COMM_WORLD_RANK", "?"), os.environ.get("SM_CURRENT_HOST", "?")
    print(safe(f"supervisor: rank {rank} on {host}: {text}"), file=sys.stderr, flush=True)


def _is_installed(package: str) -> bool:
    return any(os.path.isdir(os.path.join(place, package)) for place in sys.path)


if __name__ == "__main__":
    main(sys.argv[1:])
