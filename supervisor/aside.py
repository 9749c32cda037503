"""Calls that may take as long as a disk likes: off the event loop, and waited for in bounded time.

In daemon threads. Rejected: ``asyncio.to_thread``, whose threads the loop joins at its end, so that
one call that hangs in a dead file system would hold the exit; and it has no way without a thread.
Where no thread is to be had (a pids limit that the script has used up) the call is made at once, on
the loop: holding it for a moment is better than failing a healthy job.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Aside:
    """Calls of one kind, one at a time. What does not come back holds one thread, not many."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: asyncio.Future[None] | None = None

    async def __call__(
        self, limit_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``call(…)``, begun when the one before has ended.

        Raises what it raises; TimeoutError where it has not ended after ``limit_s`` seconds. It
        goes on by itself then.
        """
        async with asyncio.timeout(limit_s):
            while self._running is not None and not self._running.done():
                await asyncio.wait({self._running})
            loop = asyncio.get_running_loop()
            done: Future[T] = Future()
            self._running = ended = loop.create_future()

            def make() -> None:
                _make(done, lambda: call(*args, **kwargs))
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(_settle, ended)

            if not start_thread(make, self._name):
                ended.set_result(None)
                return call(*args, **kwargs)
            await asyncio.wait({ended})
        return done.result()


def within(limit_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same without an event loop; signals are not heard meanwhile."""
    done: Future[T] = Future()
    if not start_thread(lambda: _make(done, lambda: call(*args, **kwargs)), "aside"):
        return call(*args, **kwargs)
    return done.result(limit_s)


def start_thread(run: Callable[[], object], name: str) -> bool:
    """Run it in a daemon thread; False where no thread is to be had."""
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True


def _make(done: Future[T], call: Callable[[], T]) -> None:
    try:
        done.set_result(call())
    except BaseException as error:  # noqa: BLE001  # handed on to who waits
        done.set_exception(error)


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
