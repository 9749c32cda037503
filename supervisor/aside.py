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
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Aside:
    """Calls of one kind, one at a time. What does not come back holds one thread, not many."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: asyncio.Future[object] | None = None

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
            work = _Work(lambda: call(*args, **kwargs))
            self._running = ended = asyncio.get_running_loop().create_future()
            if not start_thread(work.in_thread(ended), self._name):
                ended.set_result(None)
                return work.now()
            await asyncio.wait({ended})
        return work.result()


def within(limit_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same without an event loop; signals are not heard meanwhile."""
    work = _Work(lambda: call(*args, **kwargs))
    ended = threading.Event()

    def run() -> None:
        work.run()
        ended.set()

    if not start_thread(run, "aside"):
        return work.now()
    if not ended.wait(limit_s):
        raise TimeoutError
    return work.result()


def start_thread(run: Callable[[], object], name: str) -> bool:
    """Run it in a daemon thread; False where no thread is to be had."""
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True


class _Work(Generic[T]):
    """One call, and what came of it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._done: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._done.append(self._call())
        except BaseException as error:  # noqa: BLE001  # handed on to who waits
            self._error = error

    def in_thread(self, ended: asyncio.Future[object]) -> Callable[[], None]:
        loop = ended.get_loop()

        def run() -> None:
            self.run()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle, ended)

        return run

    def now(self) -> T:
        return self._call()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._done[0]


def _settle(ended: asyncio.Future[object]) -> None:
    if not ended.done():
        ended.set_result(None)
