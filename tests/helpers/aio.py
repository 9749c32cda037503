"""Waiting in an event loop, and ports that nobody holds."""

import asyncio
import socket
from collections.abc import Callable


async def until(predicate: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Let the loop turn until a condition holds; fail after a deadline."""
    try:
        async with asyncio.timeout(timeout_s):
            while not predicate():  # noqa: ASYNC110 - what is waited for is not always ours
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {predicate}") from None


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as end:
        end.bind((address, 0))
        return int(end.getsockname()[1])
