"""What all transfers of a process share: memory, bandwidth, and the way into a thread."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import queue
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, ParamSpec, TypeVar

from supervisor.storage.job import Options
from supervisor.storage.store import Moved

T = TypeVar("T")
P = ParamSpec("P")

_BURST_S: Final = 0.25
"""So much of a second's bandwidth may go at once."""


class Flow:
    """One for all stores of a process."""

    def __init__(self, options: Options) -> None:
        self.memory = Memory(options.in_flight_bytes)
        self.bandwidth = Bandwidth(options.bandwidth_bytes_s)


class Memory:
    """A budget of bytes, handed out in the order in which it was asked for.

    No request overtakes another, so a large part is not starved by small files; a holder asks
    for no more before it gives back, so nobody waits for himself.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.highest = 0
        """The most that was ever in use."""
        self._waiting: collections.deque[tuple[asyncio.Future[None], int]] = collections.deque()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """``size`` bytes for the block's time. What is larger than the whole gets the whole."""
        size = min(size, self.limit)
        if self._waiting or self.used + size > self.limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((turn, size))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(size)  # it was our turn already when we were cancelled
                else:
                    self._wake()  # those behind may fit where this one did not
                raise
        else:
            self._take(size)
        try:
            yield
        finally:
            self._give_back(size)

    def _take(self, size: int) -> None:
        self.used += size
        self.highest = max(self.highest, self.used)

    def _give_back(self, size: int) -> None:
        self.used -= size
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn, size = self._waiting[0]
            if not turn.cancelled():
                if self.used + size > self.limit:
                    return
                self._take(size)
                turn.set_result(None)
            self._waiting.popleft()


class Bandwidth:
    """A token bucket: debts are allowed, and whoever makes one waits until it is paid."""

    def __init__(self, bytes_s: int) -> None:
        """``bytes_s`` 0: no limit."""
        self.bytes_s = bytes_s
        self._paid_until = 0.0
        """Time of the loop at which all that was taken is paid for."""

    async def take(self, size: int) -> None:
        """Wait until ``size`` bytes may pass. In the order of the calls."""
        if not self.bytes_s:
            return
        now = asyncio.get_running_loop().time()
        self._paid_until = max(self._paid_until, now - _BURST_S) + size / self.bytes_s
        if (wait_s := self._paid_until - now) > 0:
            await asyncio.sleep(wait_s)


@contextmanager
def taken_back(moved: Moved) -> Iterator[Moved]:
    """What the block tells of its progress, unless it fails: then it has made none."""
    total = 0

    def told(count: int) -> None:
        nonlocal total
        total += count
        moved(count)

    try:
        yield told
    except BaseException:
        moved(-total)
        raise


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order; or the first failure, as it is, after the others have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return [task.result() for task in tasks]


class Threads(ThreadPoolExecutor):
    """A loop's executor that goes on with the threads it has, and without any, where no more are to
    be had: a script may have used up the pids limit. The loop itself works then, one call at a
    time.

    Rejected: a call made again by whoever sees ``submit`` fail. It stays in the queue, and the next
    thread would make it a second time.
    """

    def _adjust_thread_count(self) -> None:
        with contextlib.suppress(RuntimeError):
            super()._adjust_thread_count()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = super().submit(fn, *args, **kwargs)
        if not self._threads:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._work_queue.get_nowait().run()
        return future


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` for a process that moves files."""
    runner = asyncio.Runner()
    try:
        runner.get_loop().set_default_executor(Threads())
        return runner.run(main)
    finally:
        with contextlib.suppress(RuntimeError):  # it ends the executor by a thread, too
            runner.close()


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``call(…)`` in a thread. A cancellation waits for its end: it may use the caller's buffers
    and descriptors, and a descriptor that is closed under it may be another file's by then.

    So let a call be short: one chunk of one file. What it returns is lost to a cancellation.
    """
    work = functools.partial(call, *args, **kwargs)
    future = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # looked at: nobody else will
        raise cancelled
    return future.result()
