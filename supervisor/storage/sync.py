"""Beside the training, and after it: ``python -P -m supervisor.storage.sync``.

Reads a ``SyncJob`` from the environment, keeps its directories elsewhere, tells how it goes on
stdout and hears on stdin that the job is over (``notices``). It gives way to the training (a
higher nice value), ends with its parent, and is killed at any time without harm: nothing at the
target is ever torn.

Exit codes: 0 published; 1 the parent closed stdin before that; 2 the job cannot be read; 143
SIGTERM of the parent, the only one whose signals have any effect.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from supervisor.aside import start_thread
from supervisor.faults import without_number
from supervisor.linux import prctl
from supervisor.storage import job as jobs
from supervisor.storage import notices, watch
from supervisor.storage.checkpoints import Checkpoints
from supervisor.storage.flow import run
from supervisor.storage.job import Kind, SyncJob, Transfer
from supervisor.storage.lines import Lines
from supervisor.storage.mirror import Mirror
from supervisor.storage.notices import (
    Notice,
    PublishedAll,
    PublishNow,
    Said,
    Standing,
    State,
)
from supervisor.storage.sender import AT_ONCE, Beside, Sender
from supervisor.storage.store import StorageError, Store

NICENESS: Final = 5
STATE_S: Final = 1.0
"""Shortest time from one ``State`` to the next."""
LAG_LOOK_S: Final = 5.0
"""How often the lag is looked at, while there is one."""
TIDY_S: Final = 5.0
"""Longest time for clearing away old checkpoints after all is sent; less if the budget is."""
CLOSE_S: Final = 5.0
"""Longest time for ending uploads at the server. What is then left of them is invisible."""
_TURN_S: Final = 0.25
_RATE_S: Final = 5.0
_QUEUED: Final = 1000
"""Notices that the parent has not read. The oldest is dropped, then."""
_OTHERS: Final = (
    signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
"""Signals of a terminal, and of whoever signals all processes: the supervisor's business."""


class Outlet:
    """Notices to a pipe, without ever waiting for its reader."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: collections.deque[bytes] = collections.deque(maxlen=_QUEUED)
        self._state: bytes | None = None
        """Only the newest is of interest."""
        self._writing: memoryview | None = None
        self._loop = asyncio.get_running_loop()
        self._awaited = False
        self._is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        if self._is_pipe:
            os.set_blocking(fd, False)

    def tell(self, notice: Notice) -> None:
        line = notices.encode(notice)
        if len(line) > notices.LINE_LIMIT:
            return
        if isinstance(notice, State):
            self._state = line
        else:
            self._lines.append(line)
        self._write()

    async def flush(self, timeout_s: float) -> None:
        """Until all was taken, or nobody takes it."""
        until = time.monotonic() + timeout_s
        while self._next() is not None and time.monotonic() < until:  # noqa: ASYNC110  # the pipe's
            await asyncio.sleep(0.01)

    def close(self) -> None:
        if self._awaited:
            self._loop.remove_writer(self._fd)
            self._awaited = False

    def _next(self) -> memoryview | None:
        if self._writing is None:
            if self._lines:
                self._writing = memoryview(self._lines.popleft())
            elif self._state is not None:
                self._writing, self._state = memoryview(self._state), None
        return self._writing

    def _write(self) -> None:
        try:
            while (line := self._next()) is not None:
                count = os.write(self._fd, line)
                self._writing = line[count:] if count < len(line) else None
        except BlockingIOError:
            if not self._awaited:
                self._loop.add_writer(self._fd, self._write)
                self._awaited = True
            return
        except OSError:  # nobody reads; stdin's end says so as well
            self._lines.clear()
            self._state = self._writing = None
        self.close()


class Inlet:
    """Orders from stdin."""

    def __init__(self, fd: int) -> None:
        self.orders: asyncio.Queue[PublishNow | None] = asyncio.Queue()
        """None: end of file."""
        self._lines = Lines(
            os.dup(fd),
            self._hear,
            limit=notices.LINE_LIMIT,
            ended=lambda: self.orders.put_nowait(None),
        )

    def close(self) -> None:
        self._lines.close()

    def _hear(self, line: bytes) -> None:
        with contextlib.suppress(ValueError):
            order = notices.decode(line)
            if isinstance(order, PublishNow):
                self.orders.put_nowait(order)


class Sync:
    """One life of the process."""

    def __init__(self, job: SyncJob, outlet: Outlet, inlet: Inlet) -> None:
        self._job = job
        self._outlet = outlet
        self._inlet = inlet
        self._changed = asyncio.Event()
        self._senders: list[Sender] = []
        self._publishing: list[Sender] = []
        self._rates: dict[str, _Rate] = {}
        self._deadline = 0.0
        """Of publishing, ``time.monotonic()``."""
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._published = False

    async def run(self) -> int:
        """Until all is published, stdin ends, or ``stop``; the exit code."""
        from supervisor.storage.places import open_store  # noqa: PLC0415  # loads the client

        async with contextlib.AsyncExitStack() as stores:
            slots = asyncio.Semaphore(AT_ONCE)
            beside = Beside(slots, self._outlet.tell, self._changed.set)
            for transfer in self._job.transfers:
                store = await stores.enter_async_context(
                    open_store(transfer.target, self._job.options)
                )
                self._senders.append(sender_for(transfer, self._job, store, beside))
            tasks = [
                asyncio.create_task(self._work()),
                asyncio.create_task(self._report()),
            ]
            try:
                first: list[asyncio.Future[Any]] = [*tasks, self._over]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                if self._over.done():
                    return self._over.result()
                for task in tasks:
                    if task.done():
                        task.result()  # what it raised
                return 0
            finally:
                await _end(tasks)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await asyncio.gather(*(each.abort() for each in self._senders))
                await self._outlet.flush(0.2)

    def stop(self, code: int) -> None:
        """End at once. What was not published by then is said, if it was asked for."""
        if self._publishing and not self._published:
            self._tell_outcome()
        if not self._over.done():
            self._over.set_result(code)

    # ------------------------------------------------------------------ the course of it

    async def _work(self) -> None:
        order = await self._while_training()
        self._deadline = time.monotonic() + order.budget_s
        hurrying = asyncio.create_task(self._hurry())
        try:
            await self._publish(order)
        finally:
            await _end([hurrying])

    async def _while_training(self) -> PublishNow:
        live = [each for each in self._senders if each.transfer.kind is not Kind.RESULT]
        wakes = {each.transfer.source: each.wake.set for each in live}
        tasks = [asyncio.create_task(each.run()) for each in live]
        tasks += [asyncio.create_task(each.sweep()) for each in live]
        tasks.append(asyncio.create_task(watch.watch(wakes, self._no_events)))
        asked = asyncio.create_task(self._order())
        try:
            while True:
                done, _ = await asyncio.wait((asked, *tasks), return_when=asyncio.FIRST_COMPLETED)
                if asked in done:
                    return asked.result()
                for task in done:
                    task.result()  # what it raised; the watch may simply end
                    tasks = [each for each in tasks if each is not task]
        finally:
            await _end([asked, *tasks])

    def _no_events(self, directory: str, reason: str) -> None:
        fields = (("directory", directory), ("why", reason), ("rescan_s", self._job.rescan_s))
        self._outlet.tell(Said("transfer.no_events", "warning", fields))

    async def _order(self) -> PublishNow:
        order = await self._inlet.orders.get()
        if order is None:
            self.stop(1)
            await asyncio.Event().wait()
        assert order is not None
        return order

    async def _hurry(self) -> None:
        """A second order means that there is less time."""
        while True:
            order = await self._order()
            self._deadline = min(self._deadline, time.monotonic() + order.budget_s)

    async def _publish(self, order: PublishNow) -> None:
        """All that is left, in the order of the job: the next begins when one is through, or does
        not get on."""
        self._publishing = [
            each for each in self._senders if order.results or each.transfer.kind is not Kind.RESULT
        ]
        for each in self._publishing:
            await each.survey()
        tasks: dict[asyncio.Task[None], Sender] = {}
        waiting = list(self._publishing)
        current: Sender | None = None
        try:
            while time.monotonic() < self._deadline:
                through = all(task.done() for task in tasks)
                if waiting and (through or (current is not None and current.ledger.stalled())):
                    current = waiting.pop(0)
                    current.ledger.gets_on()
                    tasks[asyncio.create_task(current.finish())] = current
                elif through:
                    break
                left_s = self._deadline - time.monotonic()
                alive = [task for task in tasks if not task.done()]
                await asyncio.wait(alive, timeout=max(0.0, min(_TURN_S, left_s)))
        finally:
            for task, each in tasks.items():
                if task.done() and not task.cancelled() and (error := task.exception()):
                    known = isinstance(error, StorageError)
                    each.ledger.failing = (
                        str(error)
                        if known
                        else f"{type(error).__name__}: {without_number(str(error))}"
                    )
            self._tell_outcome()
            await _end(list(tasks))
        left_s = min(TIDY_S, self._deadline - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, left_s)):
                for each in self._publishing:
                    await each.tidy()

    def _tell_outcome(self) -> None:
        if self._published:
            return
        self._published = True
        self._outlet.tell(self._state())
        unsent = (each.ledger.unsent() for each in self._publishing)
        self._outlet.tell(PublishedAll(tuple(left for left in unsent if left is not None)))

    # ------------------------------------------------------------------ how it goes

    async def _report(self) -> None:
        before: State | None = None
        while True:
            timeout_s = LAG_LOOK_S if any(each.ledger.lag_s() for each in self._senders) else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            self._changed.clear()
            for each in self._senders:
                each.ledger.watch_lag()
            state = self._state()
            if state != before:
                self._outlet.tell(state)
            if any(row.rate_bytes_s for row in state.transfers):
                self._changed.set()  # until it has fallen to nothing
            before = state
            await asyncio.sleep(STATE_S)

    def _state(self) -> State:
        return State(tuple(self._standing(each) for each in self._senders))

    def _standing(self, sender: Sender) -> Standing:
        rate = self._rates.setdefault(sender.transfer.name, _Rate())
        ledger = sender.ledger
        return ledger.standing(rate.at(time.monotonic(), ledger.sent_bytes))


class _Rate:
    """Bytes a second, of the last seconds."""

    def __init__(self) -> None:
        self._points: collections.deque[tuple[float, int]] = collections.deque()

    def at(self, now_s: float, total: int) -> float:
        self._points.append((now_s, total))
        while self._points[0][0] < now_s - _RATE_S:
            self._points.popleft()
        began_s, began = self._points[0]
        return max(0.0, (total - began) / (now_s - began_s)) if now_s > began_s else 0.0


def sender_for(transfer: Transfer, job: SyncJob, store: Store, beside: Beside) -> Sender:
    kind = Checkpoints if transfer.kind is Kind.CHECKPOINTS else Mirror
    return kind(transfer, job, store, beside)


async def _end(tasks: Sequence[asyncio.Task[object]] | Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --------------------------------------------------------------------------- the process


async def _main(job: SyncJob, notices_fd: int) -> int:
    loop = asyncio.get_running_loop()
    outlet, inlet = Outlet(notices_fd), Inlet(0)
    sync = Sync(job, outlet, inlet)
    _heed_parent(loop, lambda: sync.stop(128 + signal.SIGTERM))
    try:
        return await sync.run()
    finally:
        inlet.close()
        outlet.close()


def _heed_parent(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """SIGTERM is for the parent to send: a platform may signal every process of a container, and
    what was published last would be unsent. Without a thread SIGTERM is left without effect, and
    SIGKILL has to do."""
    parent = os.getppid()

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid not in {parent, os.getppid()}:
            pass
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(stop)

    start_thread(wait, "signals")


def _prepare() -> int:
    """Leave stdout to the notices alone; their descriptor. Give way to the training."""
    with contextlib.suppress(OSError):  # then the end of stdin has to do
        prctl.die_with_parent()
    for signum in _OTHERS:
        signal.signal(signum, signal.SIG_IGN)
    # Before there are threads, which have it from here.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fd = os.dup(1)
    os.dup2(2, 1)
    return fd


def main() -> int:
    try:
        job = jobs.decode_sync(os.environ.pop(jobs.VARIABLE))
    except (KeyError, TypeError, ValueError) as error:
        sys.stderr.write(f"{jobs.VARIABLE}: no job that can be read: {error!r}\n")
        return 2
    fd = _prepare()
    return run(_main(job, fd))


if __name__ == "__main__":
    sys.exit(main())
