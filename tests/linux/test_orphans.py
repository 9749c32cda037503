"""Zombies of orphans are collected, statuses of children that have an owner never."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from supervisor.linux import orphans, prctl, procfs
from tests.helpers import children
from tests.helpers.leaks import no_leaks
from tests.helpers.waiting import wait_until_async


def zombies() -> set[int]:
    return {
        pid
        for pid in procfs.own_children() or ()
        if (s := procfs.stat(pid)) is not None and not s.alive
    }


async def collected(condition: Callable[[], object], timeout_s: float = 5) -> orphans.Collector:
    collector = orphans.Collector()
    collector.start()
    try:
        await wait_until_async(condition, timeout_s)
    finally:
        collector.stop()
    return collector


@pytest.fixture(autouse=True)
def _none_of_tests_before() -> None:
    """Zombies that tests before this one left to this process are not to be counted."""
    assert orphans.adopt()
    asyncio.run(collected(lambda: not zombies()))


def test_we_are_the_subreaper_and_without_privilege() -> None:
    assert prctl.is_subreaper()
    assert orphans.adopting()


def test_a_hundred_orphans_at_once_leave_no_zombie_after_a_second() -> None:
    with (
        no_leaks(),
        subprocess.Popen(
            children.command("orphans", 100), stdout=subprocess.PIPE, start_new_session=True
        ) as parent,
    ):
        orphans.register(parent.pid)
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"

        async def body() -> tuple[int, float]:
            started = time.monotonic()
            collector = await collected(lambda: procfs.own_children() == [parent.pid])
            return collector.collected, time.monotonic() - started

        count, took_s = asyncio.run(body())
        parent.kill()
        parent.wait()
        orphans.release(parent.pid)
    assert count == 100
    assert took_s < 8


def test_the_status_of_an_owned_child_is_never_taken() -> None:
    with no_leaks():
        owned = subprocess.Popen(["/bin/sh", "-c", "exit 7"], start_new_session=True)
        other = subprocess.Popen(["/bin/sh", "-c", "exit 8"], start_new_session=True)
        orphans.register(owned.pid)

        async def body() -> None:
            collector = await collected(lambda: procfs.stat(other.pid) is None)
            assert collector.collected == 1

        asyncio.run(body())
        assert owned.wait() == 7
        orphans.release(owned.pid)
        other.returncode = 8  # it was taken, as an orphan's is


def test_a_child_that_a_library_made_is_left_to_it_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """subprocess.run in a thread must get its status; nobody's zombie must not stay for ever."""
    with no_leaks():
        mine = subprocess.Popen(["/bin/sh", "-c", "exit 7"])

        async def body() -> None:
            await collected(lambda: mine.pid in zombies())

        asyncio.run(body())
        assert mine.wait() == 7

        monkeypatch.setattr(orphans, "STRAY_GRACE_S", 0.05)
        monkeypatch.setattr(orphans, "IDLE_LOOK_S", 0.02)
        nobodys = subprocess.Popen(["/bin/sh", "-c", "exit 7"])

        async def later() -> None:
            await collected(lambda: procfs.stat(nobodys.pid) is None)

        asyncio.run(later())
        nobodys.returncode = 7


@pytest.mark.parametrize("missing", ["children", "proc"])
def test_orphans_are_collected_without_the_kernels_list(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels built without CONFIG_PROC_CHILDREN; PID namespaces without a /proc of their own."""
    if missing == "children":
        monkeypatch.setattr(procfs, "own_children", lambda: None)
    else:
        monkeypatch.setattr(procfs, "usable", lambda: False)
    other = subprocess.Popen(["/bin/sh", "-c", "exit 8"], start_new_session=True)

    async def body() -> int:
        return (await collected(lambda: procfs.stat(other.pid) is None)).collected

    count = asyncio.run(body())
    other.returncode = 8
    assert count == 1


def test_die_with_parent() -> None:
    """A child that asked for it is gone once its parent was killed."""
    script = """
import os, sys, time
from supervisor.linux.prctl import die_with_parent
read, write = os.pipe()
if os.fork() == 0:
    die_with_parent()
    os.write(1, f"{os.getpid()}\\n".encode())
    os.write(write, b"x")
    time.sleep(3600)
os.read(read, 1)
time.sleep(3600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()

        def dead() -> bool:
            found = procfs.stat(pid)
            return found is None or not found.alive

        asyncio.run(wait_until_async(dead, 5))
    assert os.waitpid(pid, 0)[1] == 9


def test_die_with_parent_notices_a_parent_that_was_quicker() -> None:
    """The attribute sends nothing for a parent that died before it was set."""
    script = (
        "import os; from supervisor.linux.prctl import die_with_parent; "
        "die_with_parent(os.getpid()); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.stdout == b""
    assert done.returncode == -9
