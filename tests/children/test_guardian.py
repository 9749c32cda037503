"""If the supervisor is killed, its children do not outlive it; if it leaves in order, they may."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from supervisor.children.guardian import Guardian
from supervisor.linux import orphans, procfs
from tests.helpers.leaks import no_leaks
from tests.helpers.waiting import wait_until

GUARDED = str(Path(__file__).parent.parent / "helpers" / "guarded.py")


class Guarded:
    """A supervisor with a guardian and one child, and everybody's pids."""

    def __init__(self, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, GUARDED, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        _, guardian, took_ms = self.words()
        self.took_ms = float(took_ms)
        self.guardian = None if guardian == "None" else int(guardian)
        _, child, ready, *pids = self.words()
        assert ready == "ready"
        self.pids = [int(child), *map(int, pids)]

    def words(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def alive(self) -> list[int]:
        return [p for p in self.pids if (s := procfs.stat(p)) is not None and s.alive]


@contextmanager
def guarded(*arguments: str) -> Iterator[Guarded]:
    orphans.adopt()
    found = Guarded(*arguments)
    orphans.register(found.process.pid)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.communicate()
        orphans.release(found.process.pid)
        for pid in found.pids:
            if pid in found.alive():
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not found.alive())
        guardian = found.guardian
        if guardian is not None:
            wait_until(lambda: (s := procfs.stat(guardian)) is None or not s.alive)
        wait_until(lambda: orphans.collect() >= 0 and not procfs.own_children())


@pytest.mark.parametrize("kind", ["group", "session", "daemon"])
def test_a_killed_supervisors_children_and_theirs_are_killed(kind: str) -> None:
    """Those that ignore SIGTERM, have a session of their own, or are daemons included."""
    with guarded("keeps", f"{kind}-stubborn") as it:
        assert len(it.pids) == len(it.alive()) == 2
        it.process.kill()
        wait_until(lambda: not it.alive(), 5)


def test_the_group_and_session_of_a_child_are_killed_without_a_mark() -> None:
    with guarded("--unmarked", "keeps", "group-stubborn") as it:
        assert len(it.alive()) == 2
        it.process.kill()
        wait_until(lambda: not it.alive(), 5)


def test_a_farewell_kills_nobody() -> None:
    with guarded("keeps", "session") as it:
        assert it.guardian is not None
        guardian = it.guardian
        it.say("leave")
        assert it.process.wait(5) == 0
        assert procfs.stat(guardian) is None  # it was reaped before the supervisor left
        assert len(it.alive()) == 2


def test_it_ends_with_its_use() -> None:
    with guarded("plain") as it:
        assert it.guardian is not None
        it.say("close")
        assert it.words() == ["closed"]
        assert procfs.stat(it.guardian) is None
        assert not it.alive()


def test_it_holds_nothing_of_the_supervisor_but_its_pipes() -> None:
    """Above all not stdout: whoever reads it would wait for the guardian."""
    with guarded("plain") as it:
        names = os.listdir(f"/proc/{it.guardian}/fd")
        targets = sorted(os.readlink(f"/proc/{it.guardian}/fd/{name}") for name in names)
        assert targets[:3] == ["/dev/null"] * 3
        assert len(targets) == 5
        assert all(target.startswith("pipe:") for target in targets[3:])
        assert it.guardian is not None
        assert os.getsid(it.guardian) == it.guardian
        assert os.readlink(f"/proc/{it.guardian}/cwd") == "/"
        assert procfs.read(f"/proc/{it.guardian}/comm") == b"job-guardian\n"


def test_signals_do_not_end_it() -> None:
    """Those of a terminal, and the SIGTERM of an outer supervisor's sweep."""
    with guarded("keeps", "daemon-stubborn") as it:
        assert it.guardian is not None
        for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            os.kill(it.guardian, signum)
        it.process.kill()
        wait_until(lambda: not it.alive(), 5)


@pytest.mark.parametrize("name", ["supervisor", "guarded.py"])
def test_it_goes_by_no_name_of_the_supervisor(name: str) -> None:
    """``pkill supervisor`` is meant for one of them, and was taken as sent to every process."""
    with guarded("plain") as it:
        assert it.guardian is not None
        wait_until(lambda: procfs.arguments(it.guardian or 0) == ("job-guardian",))
        found = subprocess.run(["pgrep", "-f", name], capture_output=True, text=True, check=False)
        assert str(it.guardian) not in found.stdout.split()


def test_it_says_what_it_has_had() -> None:
    guardian = Guardian.start()
    try:
        assert guardian.pid is not None
        assert guardian.signals is not None
        heard = b""
        told = guardian.signals

        def hears(signum: int) -> bool:
            nonlocal heard
            with suppress(BlockingIOError):
                heard += os.read(told, 64)
            return signum in heard

        # Whatever comes first, it waits until the guardian can take it.
        for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTSTP, signal.SIGRTMAX):
            os.kill(guardian.pid, signum)
            wait_until(partial(hears, signum))
        os.kill(guardian.pid, signal.SIGCHLD)
        os.kill(guardian.pid, signal.SIGCONT)
        wait_until(partial(hears, signal.SIGCONT))
        assert list(heard) == [15, 10, 20, signal.SIGRTMAX, 18]
    finally:
        guardian.close()
    assert guardian.signals is None


def test_a_stopped_supervisor_is_not_a_dead_one() -> None:
    with guarded("plain") as it:
        os.kill(it.process.pid, signal.SIGSTOP)
        wait_until(lambda: (s := procfs.stat(it.process.pid)) is not None and s.stopped)
        assert it.guardian is not None
        # What is told of its state has no moment to wait for: it blocks in its read.
        wait_until(lambda: (s := procfs.stat(it.guardian or 0)) is not None and s.state == "S")
        assert len(it.alive()) == 1
        os.kill(it.process.pid, signal.SIGCONT)
        it.say("close")
        assert it.words() == ["closed"]


def test_without_its_guardian_the_supervisor_goes_on() -> None:
    with no_leaks():
        guardian = Guardian.start()
        assert guardian.pid is not None
        assert guardian.alive
        os.kill(guardian.pid, signal.SIGKILL)
        wait_until(lambda: not guardian.alive)
        guardian.watch(os.getpid())
        guardian.forget(os.getpid())
        guardian.close()
        guardian.close()
        assert not guardian.alive


def test_a_guardian_that_does_not_listen_is_killed_at_the_end() -> None:
    with no_leaks():
        guardian = Guardian.start()
        assert guardian.pid is not None
        os.kill(guardian.pid, signal.SIGSTOP)
        for _ in range(20_000):  # more than the pipe takes: it must not block us
            guardian.watch(os.getpid())
        guardian.close()
