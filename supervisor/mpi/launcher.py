"""The master's process of an MPI job: ``python -I launcher.py [OPTIONS] -- mpirun …``.

Waits until the sshd of every other host answers, then runs mpirun and ends as it ends. mpirun
itself would give up at the first refused connection, and the hosts start at the same time. Its
output, tagged with the rank, is passed on in whole lines.

The first SIGTERM asks every rank, through mpirun, to stop (see ``rank.py``); mpirun ends when the
last one has left. Exit code 81: it could not begin, said in one line on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from supervisor.faults import safe
from supervisor.mpi.leftovers import remove

IDLE_S = 1.0
"""A line without an end is passed on, with one, when its rank has been silent for so long."""
LINE_LIMIT = 64 * 1024
"""Bytes of one line; a longer one is passed on in several."""
PIECE = 64 * 1024
VERSION_S = 20.0

_TAG = rb"(\[\d+,\d+\]<std(?:out|err|diag)>:)"
_HALF_TAG = re.compile(rb"\[(?:\d+(?:,(?:\d+(?:\](?:<[a-z]{0,7}(?:>:?)?)?)?)?)?)?\Z")
_LINE_END = re.compile(rb"\n|\r(?=[^\n])")
"""A progress bar's carriage return too, if it is known not to be half of a CR LF."""

EXIT_START = 81
"""As for any failure before the job."""

ANSWER_S = 2.0
"""For one connection and the server's first bytes."""
PAUSE_S = 0.05
"""Between two rounds over the hosts that have not answered."""

_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGABRT)
"""What mpirun passes on to the ranks."""
_DROPPED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGVTALRM, signal.SIGPROF,
            signal.SIGIO, signal.SIGPWR)  # fmt: skip
"""What would end mpirun or us, and asks for nothing that the ranks could be told."""

Member = tuple[str, str, int]
"""Name, address and port of a host's sshd."""


def main(arguments: Sequence[str]) -> NoReturn:
    """Wait, run, end."""
    parser = argparse.ArgumentParser(prog="launcher")
    parser.add_argument("--member", nargs=3, action="append", default=[])
    parser.add_argument("--identity", default="")
    parser.add_argument("--wait-s", type=float, default=60.0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    members = [(name, address, int(port)) for name, address, port in options.member]
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if silent := wait_for(members, options.wait_s):
        fail(f"no sshd answers after {options.wait_s:g} s: {'; '.join(silent)}")
    host = os.environ.get("SM_CURRENT_HOST", "").replace(os.sep, "")
    prefix = f"supervisor-mpi-{host}-{os.getppid()}-"
    remove(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix) as directory:
        path = os.path.join(directory, "ssh_config")
        with open(path, "w", encoding="utf-8") as file:
            file.write(ssh_config(members, options.identity))
        if members:
            if shutil.which("ssh") is None:
                fail("no ssh in PATH: install an OpenSSH client in the image")
            # Open MPI 4 and 5. Not an argument, so that an option of the user's wins.
            for name in ("OMPI_MCA_plm_rsh_agent", "PRTE_MCA_plm_ssh_agent"):
                os.environ[name] = f"ssh -F {path}"
        status = run(command)
    end_as(status)


def wait_for(members: Sequence[Member], wait_s: float) -> list[str]:
    """Until every sshd answers, at most ``wait_s``; what is wrong with those that do not."""
    deadline = time.monotonic() + wait_s
    waiting = list(members)
    while waiting:
        problems = {member: problem for member in waiting if (problem := _problem(member))}
        waiting = list(problems)
        if waiting and time.monotonic() > deadline:
            return [
                f"{name} ({address}:{port}): {problems[name, address, port]}"
                for name, address, port in waiting[:8]
            ]
        if waiting:
            time.sleep(PAUSE_S)
    return []


def _problem(member: Member) -> str | None:
    _, address, port = member
    try:
        with socket.create_connection((address, port), ANSWER_S) as connection:
            connection.settimeout(ANSWER_S)
            banner = connection.recv(4)
            connection.sendall(b"SSH-2.0-probe\r\n")  # else the server complains in its log
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return None if banner == b"SSH-" else f"not an ssh server (it says {banner!r})"


def ssh_config(members: Sequence[Member], identity: str) -> str:
    """Ours alone, whatever the image has. Host keys are made for the job and unknown to all."""
    lines = [
        "BatchMode yes",
        "ConnectTimeout 15",
        "LogLevel ERROR",
        "ServerAliveCountMax 4",
        "ServerAliveInterval 15",
        "StrictHostKeyChecking no",
        "UserKnownHostsFile /dev/null",
        "GlobalKnownHostsFile /dev/null",
    ]
    if identity:
        lines += [f'IdentityFile "{identity}"', "IdentitiesOnly yes"]
    blocks = [("*", lines)]
    blocks += [(name, [f"HostName {address}", f"Port {port}"]) for name, address, port in members]
    return "".join(
        f"Host {pattern}\n" + "".join(f"  {line}\n" for line in each) for pattern, each in blocks
    )


def run(command: list[str]) -> int:
    """Run mpirun to its end, passing signals on; its wait status."""
    behind_tag = blank_behind_tags(command[0])
    # Nothing may arrive before there is somebody to pass it to.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pipes = (os.pipe(), os.pipe())
    targets = zip(pipes, (1, 2), strict=True)
    try:
        mpirun = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, write, fd) for (_, write), fd in targets],
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # ignored by Python, inherited by exec
        )
    except FileNotFoundError:
        fail(f"no {command[0]} in PATH: install Open MPI in the image")
    except OSError as error:
        fail(f"cannot execute {command[0]}: {error.strerror}")
    stopping = False

    def pass_on(signum: int, _frame: object = None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(mpirun, signum)

    def stop(*_: object) -> None:
        nonlocal stopping
        if not stopping:  # the second is one to the whole group: mpirun has it already
            stopping = True
            pass_on(signal.SIGPWR)

    for signum in _PASSED_ON:
        signal.signal(signum, pass_on)
    for signum in _DROPPED:
        signal.signal(signum, lambda *_: None)
    signal.signal(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for _, write in pipes:
        os.close(write)
    relay(mpirun, {read: fd for (read, _), fd in zip(pipes, (1, 2), strict=True)}, behind_tag)
    return os.waitpid(mpirun, 0)[1]


def blank_behind_tags(mpirun: str) -> bytes:
    """Open MPI 5 puts a blank behind a tag, which belongs to no line of a rank."""
    try:
        answer = subprocess.run(
            [mpirun, "--version"], capture_output=True, check=False, timeout=VERSION_S
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return b""  # what is wrong with it will be seen when it is run
    found = re.search(rb"\(Open MPI\) (\d+)", answer)
    return b" " if found and int(found[1]) >= 5 else b""


def relay(mpirun: int, targets: Mapping[int, int], behind_tag: bytes) -> None:
    """Pass the output on in whole lines, until mpirun is gone and its pipes are read."""
    lines = {read: Lines(behind_tag) for read in targets}
    with selectors.DefaultSelector() as selector:
        for read in targets:
            os.set_blocking(read, False)
            selector.register(read, selectors.EVENT_READ)
        # What outlives mpirun may hold its pipes; where pidfd is refused, their end has to do.
        with contextlib.suppress(OSError):
            selector.register(os.pidfd_open(mpirun), selectors.EVENT_READ)
        while set(selector.get_map()) & set(targets):
            open_lines = any(each.pending for each in lines.values())
            ready = [key.fd for key, _ in selector.select(IDLE_S if open_lines else None)]
            if not ready:
                for read, fd in targets.items():
                    write_all(fd, lines[read].end())
            gone = any(fd not in targets for fd in ready)
            for read in [fd for fd in (targets if gone else ready) if fd in selector.get_map()]:
                if pump(read, targets[read], lines[read], to_the_end=gone) or gone:
                    selector.unregister(read)
                    write_all(targets[read], lines[read].end())


def pump(read: int, fd: int, lines: Lines, *, to_the_end: bool) -> bool:
    """Pass on what can be read now, a piece or all; whether the pipe has ended."""
    while True:
        try:
            data = os.read(read, PIECE)
        except BlockingIOError:
            return False
        if not data:
            return True
        write_all(fd, lines.feed(data))
        if not to_the_end:
            return False


def write_all(fd: int, data: bytes) -> None:
    """All of it, or nothing more where nobody reads any longer."""
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(fd, data) :]


class Lines:
    r"""Whole lines out of mpirun's pieces.

    mpirun tags every piece it happens to read, in the middle of a line too, and passes on pieces
    of several ranks in turn: ``[1,0]<stdout>:lo[1,1]<stdout>:x\n[1,0]<stdout>:ss\n``. Behind
    the end of a line comes either a tag or mpirun's own text.
    """

    def __init__(self, behind_tag: bytes = b"") -> None:
        self._tags = re.compile(_TAG + behind_tag)
        self._begun: dict[bytes, bytes] = {}
        """Tag → the line that has begun; mpirun's own has an empty tag."""
        self._tag = b""
        self._held = b""
        """What may be the first half of a tag."""

    @property
    def pending(self) -> bool:
        return bool(self._begun or self._held)

    def feed(self, data: bytes) -> bytes:
        """The lines that are complete with ``data``."""
        data = self._held + data
        half = _HALF_TAG.search(data, max(0, len(data) - 64))
        self._held = half[0] if half else b""
        data = data[: len(data) - len(self._held)]
        done: list[bytes] = []
        at = 0
        for found in self._tags.finditer(data):
            self._take(data[at : found.start()], done)
            self._tag, at = found[1], found.end()
        self._take(data[at:], done)
        return b"".join(done)

    def _take(self, text: bytes, done: list[bytes]) -> None:
        at = 0
        text = self._begun.pop(self._tag, b"") + text
        for end in _LINE_END.finditer(text):
            done += [self._tag, text[at : end.end()]]
            at = end.end()
            if end[0] == b"\n":
                self._tag = b""
        if len(text) - at >= LINE_LIMIT:
            done += [self._tag, text[at:], b"\n"]
        elif at < len(text):
            self._begun[self._tag] = text[at:]

    def end(self) -> bytes:
        """The lines that have only begun, each ended."""
        done: list[bytes] = []
        self._take(self._held, done)
        self._held = b""
        for tag, line in self._begun.items():
            done += [tag, line, b"\n"]
        self._begun.clear()
        return b"".join(done)


def end_as(status: int) -> NoReturn:
    """End with the exit code or by the signal of a wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        sys.exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -code not in {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    sys.exit(128 - code)


def fail(text: str) -> NoReturn:
    """One line, and the exit code of what could not begin."""
    print(safe(f"MPI: {text}"), file=sys.stderr, flush=True)
    sys.exit(EXIT_START)


if __name__ == "__main__":
    main(sys.argv[1:])
