"""The one way in which tests wait: for a condition, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE_S = 0.005


class TooLateError(AssertionError):
    """A condition did not come true in time."""


def wait_until(predicate: Callable[[], T], timeout_s: float = 30.0, what: str = "") -> T:
    """Poll until ``predicate()`` is true and return what it returned."""
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise TooLateError(what or f"not within {timeout_s} s: {predicate}")
        time.sleep(_PAUSE_S)
    return value


async def wait_until_async(
    predicate: Callable[[], T], timeout_s: float = 30.0, what: str = ""
) -> T:
    """The same, while the event loop turns."""
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise TooLateError(what or f"not within {timeout_s} s: {predicate}")
        await asyncio.sleep(_PAUSE_S)
    return value
