"""One rank: ``python -I rank.py [--mpi4py] SIGNUM COMMAND…``, started by mpirun on any host.

Runs the command as its child and ends as it ends. What it is for:

- SIGPWR, passed on by mpirun, becomes the stop signal SIGNUM, once, to the command alone. mpirun's
  own way to stop a rank leaves it one second;
- the variables of the host that the rank is on replace the master's (see ``sshd.py``);
- a rank that fails says on which host that was, which mpirun does not;
- ``--mpi4py``: where mpi4py is installed, a Python script runs under it. Then an exception in one
  rank aborts all; without, its interpreter waits in MPI_Finalize for ranks that wait for it.

mpirun signals the process group, so the command has every other signal already; here they are
taken and dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from typing import NoReturn

ENVIRONMENT = "SUPERVISOR_MPI_ENVIRONMENT"
"""A JSON file: what this host's ranks have in place of the master's variables."""

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
    _, status = os.waitpid(child, 0)
    end_as(status)


def _execute(command: list[str]) -> NoReturn:
    signal.signal(signal.SIGPWR, signal.SIG_IGN)
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, inherited through exec
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvp(command[0], command)  # noqa: S606  # no shell is the point
    except OSError as error:
        say(f"cannot execute {command[0]!r}: {error.strerror}")
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


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
    """A line of ours in the rank's output; ``mpi_words.py`` reads it."""
    rank, host = os.environ.get("OMPI_COMM_WORLD_RANK", "?"), os.environ.get("SM_CURRENT_HOST", "?")
    print(f"supervisor: rank {rank} on {host}: {text}", file=sys.stderr, flush=True)


def _is_installed(package: str) -> bool:
    return any(os.path.isdir(os.path.join(place, package)) for place in sys.path)


if __name__ == "__main__":
    main(sys.argv[1:])
