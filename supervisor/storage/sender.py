"""One directory that is kept elsewhere: a task that looks, decides and sends, until cancelled.

The decisions are ``snapshot``'s and ``manifest``'s, the sending is that of ``flights``.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from supervisor.storage import snapshot, watch
from supervisor.storage.flights import ChangedError, Flights
from supervisor.storage.flow import in_thread
from supervisor.storage.job import SyncJob, Transfer
from supervisor.storage.ledger import Ledger
from supervisor.storage.notices import Notice
from supervisor.storage.snapshot import Choice, Fact, Memory
from supervisor.storage.store import Reason, StorageError, Store, Sums
from supervisor.storage.tries import Tries
from supervisor.storage.voice import Voice
from supervisor.storage.watch import Scan

AT_ONCE: Final = 32
"""Files that are being sent at the same time, by the whole process."""
ABANDONED_S: Final = 24 * 3600.0
"""Uploads that a life that was killed has begun are given up after so long."""
_SCAN_SHARE: Final = 10.0
"""After a scan it is rested for so many times its duration, while changes come all the time …"""
_RESCAN_SHARE: Final = 300.0
"""… and for so many when they do not: large directories are to cost little."""
_SHORTEST_REST_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Beside:
    """What the senders of a process share."""

    slots: asyncio.Semaphore
    """Of the files that are being sent at a time."""
    tell: Callable[[Notice], None]
    changed: Callable[[], None]
    """A standing is not what it was."""


class Sender(abc.ABC):
    """What checkpoints and mirrors have in common."""

    def __init__(self, transfer: Transfer, job: SyncJob, store: Store, beside: Beside) -> None:
        self.transfer = transfer
        self.job = job
        self.store = store
        self.wake = asyncio.Event()
        """Set by whoever knows that the directory has changed."""
        self.memory = Memory()
        self._voice = Voice(transfer.name, beside.tell)
        self.ledger = Ledger(transfer.name, self._voice, beside.changed, lag_warn_s=job.lag_warn_s)
        self._flights = Flights(
            transfer, store, beside.slots, self, self.ledger, self._voice, live=job.live
        )
        self._tries = Tries(self._voice, self.ledger, retry_s=job.options.retry_s)
        self._scan: Scan | None = None
        self._scan_s = 0.0
        self._until_s: float | None = None

    @property
    def final(self) -> bool:
        """The job is over: nobody writes any more."""
        return self._tries.final

    # ------------------------------------------------------------------ from outside

    async def run(self) -> None:
        """Keep the target up to date, for ever."""
        while True:
            self.wake.clear()
            again = await self._tries.patiently(self._round_or_again)
            await self._rest(again=again)

    async def finish(self) -> None:
        """Send what is left, now that nobody writes any more. Ends when all is sent."""
        self._tries.final = True
        # It is no waiting for something that an event could tell: a round did something.
        while await self._tries.patiently(self._round_or_again):  # noqa: ASYNC110
            await asyncio.sleep(_SHORTEST_REST_S)

    async def sweep(self) -> None:
        """Give up uploads that a life that was killed has begun, long ago."""
        with contextlib.suppress(StorageError):
            await self.store.abandon_partial(ABANDONED_S)

    async def survey(self) -> None:
        """Find out what is left, without asking the target."""
        with contextlib.suppress(OSError):
            await self._look()
            self._expect(self._lacking())

    async def tidy(self) -> None:  # noqa: B027  # most have nothing to tidy
        """What may be done when all is sent."""

    async def abort(self) -> None:
        """End what is on its way. Nothing of it appears."""
        await self._flights.drop_all_but(())

    # ------------------------------------------------------------------ what the kinds decide

    @abc.abstractmethod
    def _lacking(self) -> list[Fact]:
        """What differs from what the target has, of what was seen last."""

    @abc.abstractmethod
    async def _round(self) -> bool:
        """Look, and send what may be sent. True: look again at once.

        Raises StorageError.
        """

    @abc.abstractmethod
    def landed(self, fact: Fact, key: str, sums: Sums) -> None:
        """A file has been sent."""

    def unchanged(self, before: Fact, after: Fact) -> bool:
        """Whether what was read is what was to be sent."""
        return after.same(before)

    def _takes(self, fact: Fact) -> bool:  # noqa: ARG002
        """Whether it can be sent at all."""
        return True

    # ------------------------------------------------------------------ rounds and rests

    async def _round_or_again(self) -> bool:
        try:
            return await self._round()
        except ChangedError:
            return True
        except OSError as error:
            text = f"look at {self.transfer.source}: {error.strerror or error}"
            raise StorageError(Reason.LOCAL, text) from None

    async def _rest(self, *, again: bool) -> None:
        """Until the next look is due."""
        shortest_s = max(_SHORTEST_REST_S, _SCAN_SHARE * self._scan_s)
        await asyncio.sleep(shortest_s)
        if again:
            return
        due_s = time.monotonic() + max(self.job.rescan_s, _RESCAN_SHARE * self._scan_s)
        if self._until_s is not None:
            due_s = min(due_s, self._until_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due_s - time.monotonic())):
                await self.wake.wait()

    # ------------------------------------------------------------------ looking

    async def _look(self) -> bool:
        """Scan and remember. False: there is nothing to see."""
        began = time.monotonic()
        found = await in_thread(watch.scan, self.transfer.source, self._scan)
        now_s = time.monotonic()
        self._scan, self._scan_s = found, now_s - began
        for path, why in found.skipped.items():
            self._voice.name("left_out", path, why)
        if found.cut:
            self._voice.name("left_out", "…", f"more than {watch.MOST_FILES} files")
        facts = [
            fact for fact in found.facts if self._flights.can_be_read(fact) and self._takes(fact)
        ]
        self.memory = snapshot.observe(
            self.memory, facts, found.evidence, now_s=now_s, settle_s=self.job.settle_s
        )
        return found.there

    def _note(self, choice: Choice) -> None:
        """Keep when to look again, and name what is left out."""
        self._until_s = choice.until_s
        for path in choice.restless:
            self._voice.name("left_out", path, "it is written to all the time")
        for path in choice.incomplete:
            self._voice.name("left_out", path, "it is incomplete, and nobody goes on writing it")

    def _expect(self, pending: Iterable[Fact]) -> None:
        self.ledger.expect(pending, self.memory)
