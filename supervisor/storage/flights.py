"""Files on their way to a target.

What is sent is held by open descriptors: a file that is renamed or removed meanwhile stays
readable, and one that is written to in place is seen by comparing what fstat(2) says before and
after. An upload outlives the round that began it: if the next one wants the same file, it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from supervisor.storage import watch
from supervisor.storage.flow import in_thread
from supervisor.storage.job import Transfer
from supervisor.storage.ledger import Ledger
from supervisor.storage.progress import Progress
from supervisor.storage.snapshot import Fact
from supervisor.storage.store import Reason, StorageError, Store, Sums
from supervisor.storage.voice import Voice

SHOWN_BYTES: Final = 64 << 20
"""What sends so much at a time shows its progress; smaller checkpoints come and go all the time."""
PINNED: Final = 256
"""Files of one transfer that are held open at the same time."""


class ChangedError(Exception):
    """The directory is not what it was when it was looked at. Look again."""


class Owner(Protocol):
    """Whose files these are."""

    def landed(self, fact: Fact, key: str, sums: Sums) -> None:
        """A file has been sent."""

    def unchanged(self, before: Fact, after: Fact) -> bool:
        """Whether what was read is what was to be sent."""
        ...


@dataclass(slots=True)
class _Flight:
    """One file on its way."""

    fact: Fact
    key: str
    task: asyncio.Task[Sums]


class Flights:
    """Those of one transfer.

    ``slots`` bounds how many are sent at a time; ``live``: progress is drawn in place.
    """

    def __init__(
        self,
        transfer: Transfer,
        store: Store,
        slots: asyncio.Semaphore,
        owner: Owner,
        ledger: Ledger,
        voice: Voice,
        *,
        live: bool,
    ) -> None:
        self._name = transfer.name
        self._root = transfer.source
        self._live = live
        self._store = store
        self._slots = slots
        self._owner = owner
        self._ledger = ledger
        self._voice = voice
        self._flights: dict[str, _Flight] = {}
        self._unreadable: dict[str, Fact] = {}
        self._progress: Progress | None = None

    def can_be_read(self, fact: Fact) -> bool:
        """As far as is known: whether nobody refused it as it is."""
        return self._unreadable.get(fact.path) != fact

    @contextlib.contextmanager
    def shown(self, facts: Sequence[Fact], *, small: bool) -> Iterator[None]:
        """Show people how the sending of ``facts`` goes, if it is worth it, or ``small`` too."""
        size = sum(fact.size for fact in facts)
        if not facts or (size < SHOWN_BYTES and not small):
            yield
            return
        shown = Progress(self._name, size, len(facts), live=self._live)
        self._progress = shown
        why: str | None = "given up"
        try:
            yield
            why = None
        except (StorageError, ChangedError) as error:
            why = str(error)
            raise
        finally:
            self._progress = None
            shown.finish(why)

    async def send(
        self, facts: Sequence[Fact], key_of: Callable[[Fact], str], *, beside: Sequence[Fact] = ()
    ) -> None:
        """Send files. ``beside`` must look as it did, with them, at one moment: after the first of
        them were opened and before the first is sent.

        Raises ChangedError, or StorageError. What is on its way then goes on.
        """
        wanted = {fact.path: fact for fact in facts}
        fresh = [fact for fact in facts if fact.path not in self._flights]
        first, rest = fresh[:PINNED], fresh[PINNED:]
        done: asyncio.Queue[_Flight] = asyncio.Queue()
        for path, flight in self._flights.items():  # now: some may land while we wait
            if path in wanted:
                flight.task.add_done_callback(functools.partial(_put, done, flight))
        pinned = await self._pin(first, beside=[*facts, *beside])
        for fact in first:
            self._launch(fact, key_of(fact), pinned[fact.path], done)
        unsent = set(wanted)
        while unsent:
            flight = await done.get()
            try:
                await flight.task  # raises what it raised
            except StorageError as error:
                if error.reason is Reason.CHANGED:
                    raise ChangedError(str(error)) from None
                raise
            unsent.discard(flight.fact.path)
            if rest and len(self._flights) < PINNED // 2:
                batch, rest = rest[: PINNED // 2], rest[PINNED // 2 :]
                for path, fd in (await self._pin(batch, beside=batch)).items():
                    self._launch(wanted[path], key_of(wanted[path]), fd, done)

    async def _pin(self, facts: Sequence[Fact], *, beside: Sequence[Fact]) -> dict[str, int]:
        """Open all of them, or none; then look whether ``beside`` is all as it was."""
        opened: dict[str, int] = {}
        root = self._root

        def work() -> None:
            for fact in facts:
                try:
                    fd = watch.open_as(root, fact)
                except PermissionError as error:
                    self._unreadable[fact.path] = fact
                    raise ChangedError(fact.path) from error
                if fd is None:
                    raise ChangedError(fact.path)
                opened[fact.path] = fd
            if path := watch.still_so(root, beside):
                raise ChangedError(path)

        try:
            await in_thread(work)
        except BaseException as error:
            for fd in opened.values():
                os.close(fd)
            if isinstance(error, ChangedError) and isinstance(error.__cause__, OSError):
                self._voice.name("left_out", str(error), error.__cause__.strerror or "unreadable")
            raise
        return opened

    def _launch(self, fact: Fact, key: str, fd: int, done: asyncio.Queue[_Flight]) -> None:
        task = asyncio.create_task(self._upload(fact, key, fd))
        flight = _Flight(fact, key, task)
        self._flights[fact.path] = flight

        def landed(task: asyncio.Task[Sums]) -> None:
            # Not in the task: one that is cancelled before its first step runs no finally.
            os.close(fd)
            if self._flights.get(fact.path) is flight:
                del self._flights[fact.path]
            if not task.cancelled() and task.exception() is None:
                self._ledger.file_sent()
                if self._progress is not None:
                    self._progress.file_done()
                self._owner.landed(fact, key, task.result())
            done.put_nowait(flight)

        task.add_done_callback(landed)

    async def _upload(self, fact: Fact, key: str, fd: int) -> Sums:
        def check() -> None:
            if not self._owner.unchanged(fact, watch.fact_of(fact.path, os.fstat(fd), fact.link)):
                raise StorageError(Reason.CHANGED, f"send {fact.path}: it was changed meanwhile")

        async with self._slots:
            return await self._store.upload(key, fd, fact.size, moved=self._moved, check=check)

    async def drop_all_but(self, facts: Iterable[Fact]) -> None:
        """End what is on its way and not wanted any more."""
        wanted = {fact.path: fact for fact in facts}
        tasks = [
            flight.task
            for path, flight in self._flights.items()
            if not ((now := wanted.get(path)) and now.same(flight.fact))
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _moved(self, count: int) -> None:
        if self._progress is not None:
            self._progress.moved(count)
        self._ledger.moved(count)


def _put(queue: asyncio.Queue[_Flight], flight: _Flight, _: object) -> None:
    queue.put_nowait(flight)
