"""Waiting in an event loop, and ports that nobody holds."""

import asyncio
import contextlib
import itertools
import os
import random
import socket
from collections.abc import Callable, Iterator


async def until(predicate: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Let the loop turn until a condition holds; fail after a deadline."""
    try:
        async with asyncio.timeout(timeout_s):
            while not predicate():  # noqa: ASYNC110 - what is waited for is not always ours
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {predicate}") from None


_RANGE = range(10_000, 20_000)
"""Below what the kernel gives to outgoing connections: a flood of those in a test beside this one
takes any port that was free a moment ago."""
_MOST_WORKERS = 10


def _ports() -> Iterator[int]:
    """Each worker of pytest-xdist has a part of the range, and begins anywhere in it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _MOST_WORKERS
    mine = _RANGE[worker::_MOST_WORKERS]
    start = random.randrange(len(mine))
    yield from itertools.cycle((*mine[start:], *mine[:start]))


_NEXT = _ports()


def free_port(address: str = "127.0.0.1") -> int:
    for port in itertools.islice(_NEXT, len(_RANGE)):
        with socket.socket() as end, contextlib.suppress(OSError):
            end.bind((address, port))
            return port
    raise OSError("no port is free")
