"""Signals that a platform gives to every process of a host: the script has each of them once.

Slurm without cgroups walks over the descendants of what it started (``kill_proc_tree`` of its
``proctrack/linuxproc``), systemd's ``KillMode=control-group`` over the processes of a group.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable

import pytest

from supervisor.life.words import ECHO_S
from supervisor.linux import procfs
from tests.helpers.train import Train, lay_out
from tests.helpers.waiting import wait_until

COUNTS = """
import os, signal, subprocess, sys, time
had = []
for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCONT):
    signal.signal(each, lambda signum, _: had.append(signal.Signals(signum).name))
below = subprocess.Popen([sys.executable, "-c", '''
import signal, time
had = []
def note(signum, _):
    had.append(signum)
    print("below", had, flush=True)
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
print("up", flush=True)
while True: time.sleep(0.01)
'''])
while not os.path.exists(os.environ["SAGEMAKER_BASE_DIR"] + "/enough"):
    time.sleep(0.005)
print("had", *had, flush=True)
below.kill()
"""
"""Says what it has had once it may end; so does a process of its own."""


def tree(top: int) -> list[int]:
    """A process and all below it, from top to bottom."""
    return [top, *(each for child in procfs.children(top) or () for each in tree(child))]


def send_to(pids: Iterable[int], signum: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it ended of the one before it
            os.kill(pid, signum)


ORDERS: dict[str, Callable[[int], list[int]]] = {
    "from the top": tree,
    "from the bottom": lambda top: tree(top)[::-1],
}


def told(train: Train, signum: int, to: str) -> None:
    name = signal.Signals(signum).name
    train.wait_for(rf"process\.signalled: {name} to chief, pid \d+{to}\n")


EVERYBODY = ": sent to every process, it has had it already"


@pytest.mark.parametrize("order", ORDERS)
def test_what_every_process_was_given_the_script_has_once(
    tmp_path: pathlib.Path, order: str
) -> None:
    """It had each one twice, and many scripts take a second SIGTERM for "now"."""
    lay_out(tmp_path, COUNTS)
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^up")
        everybody = ORDERS[order](train.supervisor())
        assert len(everybody) == 4  # with the guardian, and what the script has started
        send_to(everybody, signal.SIGUSR1)
        told(train, signal.SIGUSR1, EVERYBODY)
        send_to(everybody, signal.SIGTERM)
        told(train, signal.SIGTERM, EVERYBODY)
        train.wait_for(r"(?m)^below ")  # where processors are short it is late, and then killed
        (tmp_path / "enough").touch()
        assert train.wait() == 0
        assert re.findall(r"(?m)^had (.*)$", train.out) == ["SIGUSR1 SIGTERM"]
        assert re.findall(r"(?m)^below (.*)$", train.out) == ["[15]"]
        assert train.report["outcome"] == "stopped"


def test_what_the_supervisor_was_given_alone_the_script_has_once(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, COUNTS)
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^up")
        for signum in (signal.SIGUSR1, signal.SIGTERM):
            train.send(signum)
            told(train, signum, "")
        (tmp_path / "enough").touch()
        assert train.wait() == 0
        assert re.findall(r"(?m)^had (.*)$", train.out) == ["SIGUSR1 SIGTERM"]


def test_what_the_guardian_was_given_alone_is_no_word_on_a_later_signal(
    tmp_path: pathlib.Path,
) -> None:
    lay_out(tmp_path, COUNTS)
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^up")
        supervisor = train.supervisor()
        for pid in tree(supervisor)[1:]:
            if procfs.arguments(pid) == ("job-guardian",):
                os.kill(pid, signal.SIGUSR1)
        # One to all is heard after it, and takes nothing of it along.
        send_to(tree(supervisor), signal.SIGUSR1)
        told(train, signal.SIGUSR1, EVERYBODY)
        train.send(signal.SIGTERM)
        told(train, signal.SIGTERM, "")
        (tmp_path / "enough").touch()
        assert train.wait() == 0
        assert re.findall(r"(?m)^had (.*)$", train.out) == ["SIGUSR1 SIGTERM"]


def test_the_group_has_its_own_and_a_leader_that_has_had_it_none(tmp_path: pathlib.Path) -> None:
    """When the grace is over. The leader's second one would come in the middle of its save."""
    lay_out(tmp_path, COUNTS)
    with Train(tmp_path, SUPERVISOR_STOP_GRACE_S="0.5") as train:
        train.wait_for(r"(?m)^up")
        send_to(tree(train.supervisor()), signal.SIGTERM)
        told(train, signal.SIGTERM, EVERYBODY)
        train.wait_for(r"below \[15, 15\]")
        (tmp_path / "enough").touch()
        assert train.wait() == 0
        assert re.findall(r"(?m)^had (.*)$", train.out) == ["SIGTERM SIGCONT"]


def test_a_second_stop_signal_to_every_process_kills(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, COUNTS)
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^up")
        send_to(tree(train.supervisor()), signal.SIGTERM)
        told(train, signal.SIGTERM, EVERYBODY)
        after = time.monotonic() + ECHO_S
        wait_until(lambda: time.monotonic() > after)
        send_to(tree(train.supervisor()), signal.SIGTERM)
        assert train.wait() == 137


def test_a_script_without_a_handler_was_stopped_and_has_not_failed(tmp_path: pathlib.Path) -> None:
    """It is dead before we can ask it."""
    lay_out(tmp_path, "import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^up")
        send_to(tree(train.supervisor()), signal.SIGTERM)
        assert train.wait() == 143
        assert train.report["cause"]["kind"] == "stop_requested"


def test_a_tree_that_is_suspended_by_its_platform_goes_on(tmp_path: pathlib.Path) -> None:
    """As ``scontrol suspend`` does it: SIGTSTP to all, then SIGSTOP to all, and later SIGCONT."""
    lay_out(tmp_path, COUNTS)
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^up")
        everybody = tree(train.supervisor())

        def stopped(pids: Iterable[int]) -> bool:
            return all((it := procfs.stat(pid)) is not None and it.stopped for pid in pids)

        script = everybody[-2:]
        send_to(everybody, signal.SIGTSTP)
        wait_until(lambda: stopped(script), 10, "the script is held")
        send_to(everybody, signal.SIGSTOP)
        wait_until(lambda: stopped(everybody), 10, "all are")
        send_to(everybody, signal.SIGCONT)
        train.wait_for(r"process\.resumed")
        wait_until(lambda: not any(stopped([pid]) for pid in everybody), 10, "all go on")
        send_to(everybody, signal.SIGTERM)
        told(train, signal.SIGTERM, EVERYBODY)
        (tmp_path / "enough").touch()
        assert train.wait() == 0
        assert re.findall(r"(?m)^had .*SIGTERM", train.out)
        assert train.out.count("SIGTERM") == 1


def test_a_signal_by_name_is_none_to_every_process(tmp_path: pathlib.Path) -> None:
    """``pkill -f train`` finds the supervisor, and found the guardian, which is a copy of it."""
    lay_out(tmp_path, COUNTS)
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^up")
        supervisor = train.supervisor()
        name = re.escape(" ".join(procfs.arguments(supervisor)))
        # pgrep(1) looks and does not send: others on this machine go by that name as well.
        found = subprocess.run(["pgrep", "-f", f"^{name}$"], capture_output=True, check=True)
        meant = {int(pid) for pid in found.stdout.split()}.intersection(tree(supervisor))
        assert meant == {supervisor}
        send_to(meant, signal.SIGTERM)
        told(train, signal.SIGTERM, "")
        (tmp_path / "enough").touch()
        assert train.wait() == 0
        assert re.findall(r"(?m)^had (.*)$", train.out) == ["SIGTERM"]
