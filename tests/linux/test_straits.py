"""Disks that are slow or full, and processes that are held, with real processes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor.linux import procfs
from supervisor.linux.straits import RATE_BYTES_S, Holds, Slow, below, empty, fill
from tests.helpers.waiting import wait_until

WRITER = """
import subprocess, sys
child = subprocess.Popen(["sleep", "60"])
print("ready", flush=True)
for line in sys.stdin:
    try:
        with open(sys.argv[1], "wb", buffering=0) as file:
            print(file.write(bytes(int(line))), flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


class Writer:
    def __init__(self, path: pathlib.Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    @property
    def tree(self) -> list[procfs.Process]:
        return below({"": self.process.pid})[""]

    def told(self, count: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    @property
    def stopped(self) -> list[bool]:
        return [(procfs.stat(each.pid) or each).stopped for each in self.tree]


@pytest.fixture
def writer(tmp_path: pathlib.Path) -> Iterator[Writer]:
    found = Writer(tmp_path / "file")
    tree = found.tree
    try:
        yield found
    finally:
        for each in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
        with found.process:
            pass


def test_a_full_disk_takes_nothing_until_it_is_emptied(writer: Writer) -> None:
    before = resource.prlimit(writer.process.pid, resource.RLIMIT_FSIZE)
    fill(writer.tree)
    fill(writer.tree)
    writer.told(10)
    assert writer.says() == "File too large"
    empty(os.getpid(), writer.tree)
    writer.told(10)
    assert writer.says() == "10"
    for each in writer.tree:
        assert resource.prlimit(each.pid, resource.RLIMIT_FSIZE) == before


def test_who_writes_more_than_a_slow_disk_takes_is_held(writer: Writer) -> None:
    holds = Holds()
    slow = Slow(holds)
    slow.look(writer.tree)
    writer.told(10 * RATE_BYTES_S)
    writer.says()
    slow.look(writer.tree)
    wait_until(lambda: writer.stopped == [True, False], 5, "not held")
    slow.end()
    wait_until(lambda: not any(writer.stopped), 5, "not let go")
    writer.told(1)
    assert writer.says() == "1"


def test_who_has_waited_for_the_disk_goes_on(writer: Writer) -> None:
    slow = Slow(Holds())
    slow.look(writer.tree)
    writer.told(RATE_BYTES_S // 5)
    writer.says()
    slow.look(writer.tree)

    def goes_on() -> bool:
        slow.look(writer.tree)
        return not any(writer.stopped)

    wait_until(goes_on, 5, "not let go")


def test_whom_two_hold_goes_on_when_both_let_go(writer: Writer) -> None:
    holds = Holds()
    assert holds.hold_tree(writer.process.pid, "one") == 2
    assert holds.hold_tree(writer.process.pid, "two") == 2
    wait_until(lambda: all(writer.stopped), 5, "not held")
    assert holds.hold_tree(writer.process.pid, "one") == 0
    holds.release("one")
    assert all(writer.stopped)
    holds.release("two")
    wait_until(lambda: not any(writer.stopped), 5, "not let go")
    holds.release("two")


def test_what_is_gone_is_nobodys(writer: Writer) -> None:
    holds = Holds()
    leader = writer.tree[0]
    holds.hold(leader, "one")
    writer.process.kill()
    writer.process.wait()
    holds.release("one")
    assert not holds.hold(leader, "one")
    assert below({"": leader.pid}) == {"": []}
    fill([leader])
    empty(os.getpid(), [leader])
