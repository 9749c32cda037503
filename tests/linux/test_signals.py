"""Signals become values: all of them, once, in order, and none that nobody asked for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor.linux.signals import SignalPipe
from tests.helpers.job import environment
from tests.helpers.waiting import wait_until_async


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGUSR1, signal.SIGHUP)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


PENDING = """
import asyncio, os, signal
from supervisor.linux.signals import SignalPipe

async def main():
    got = []
    pipe = SignalPipe(got.append)
    wanted = [10, 12, 15, 28, signal.SIGRTMIN + 6, signal.SIGRTMAX]
    pipe.catch(wanted)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    for signum in reversed(wanted):
        os.kill(os.getpid(), signum)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
    async with asyncio.timeout(30):
        while len(got) < len(wanted):
            await asyncio.sleep(0.001)
    assert got == wanted, got

asyncio.run(main())
"""


def test_what_is_pending_comes_in_the_kernels_order() -> None:
    """It came in reverse: the kernel interrupts each handler with the next before it begins.

    In a process of its own: one more thread here would get what the main thread holds back.
    """
    done = subprocess.run(
        [sys.executable, "-c", PENDING],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_a_signal_with_another_handler_is_not_ours() -> None:
    """Every handler in Python leaves its byte in the pipe: a hang-up under nohup stopped a run."""

    async def main() -> list[int]:
        got: list[int] = []
        signal.signal(signal.SIGHUP, lambda *_: None)
        pipe = SignalPipe(got.append)
        try:
            pipe.catch({signal.SIGUSR1})
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            await wait_until_async(lambda: signal.SIGUSR1 in got)
        finally:
            pipe.close()
        return got

    assert asyncio.run(main()) == [signal.SIGUSR1]


def test_of_many_alike_two_come_and_of_a_real_time_signal_all() -> None:
    """Who sends faster than we read kept the loop for as long as it went on."""
    real_time = signal.SIGRTMIN + 6

    async def main() -> list[int]:
        got: list[int] = []
        pipe = SignalPipe(got.append)
        former = signal.getsignal(real_time)
        try:
            pipe.catch({signal.SIGUSR1, signal.SIGHUP, real_time})
            for signum in (signal.SIGUSR1, signal.SIGHUP, real_time):
                for _ in range(500):
                    os.kill(os.getpid(), signum)
            await wait_until_async(lambda: got.count(real_time) == 500)
        finally:
            pipe.close()
            signal.signal(real_time, former)
        return got

    expected = [signal.SIGUSR1] * 2 + [signal.SIGHUP] * 2 + [real_time] * 500
    assert asyncio.run(main()) == expected
