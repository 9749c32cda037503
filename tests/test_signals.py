"""Signals become values: all of them, once, in order, and none that nobody asked for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from supervisor.signals import SignalPipe
from tests.helpers.waiting import wait_until_async

WANTED = (
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGWINCH, signal.SIGRTMIN + 6,
    signal.SIGRTMAX,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (*WANTED, signal.SIGHUP)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_what_is_pending_comes_in_the_kernels_order() -> None:
    """It came in reverse: the kernel interrupts each handler with the next before it begins."""

    async def main() -> list[int]:
        got: list[int] = []
        pipe = SignalPipe(got.append)
        try:
            pipe.catch(WANTED)
            signal.pthread_sigmask(signal.SIG_BLOCK, WANTED)
            for signum in reversed(WANTED):
                os.kill(os.getpid(), signum)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WANTED)
            await wait_until_async(lambda: len(got) >= len(WANTED))
        finally:
            pipe.close()
        return got

    assert asyncio.run(main()) == sorted(WANTED)


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
