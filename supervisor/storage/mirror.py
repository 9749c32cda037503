"""A directory file by file, each under its own name."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from supervisor.storage import snapshot
from supervisor.storage.job import SyncJob, Transfer
from supervisor.storage.sender import Beside, Sender
from supervisor.storage.snapshot import Fact, Sent
from supervisor.storage.store import StorageError, Store, Sums

COMPARED: Final = 100_000
"""Objects that a mirror looks at for what need not be sent."""


class Mirror(Sender):
    def __init__(self, transfer: Transfer, job: SyncJob, store: Store, beside: Beside) -> None:
        super().__init__(transfer, job, store, beside)
        self._there: dict[str, Sent] = {}
        self._growing: frozenset[str] = frozenset()
        self._compared = False

    def _takes(self, fact: Fact) -> bool:
        """A link to a file is sent as the file; there are no links at the target."""
        if fact.hollow:
            self._voice.name("left_out", fact.path, fact.hollow)
        return not fact.hollow

    async def _round(self) -> bool:
        there = await self._look()
        if self.memory.files and not self._compared and not self.final:
            await self._compare()
        assert self._scan is not None
        choice = snapshot.mirror(
            self.memory,
            self._scan.evidence,
            self._there,
            root=self.transfer.source,
            now_s=time.monotonic(),
            settle_s=self.job.settle_s,
            grows_s=self.job.rescan_s if self.transfer.grows else None,
            final=self.final,
        )
        self._until_s = choice.until_s
        self._growing = choice.growing
        if not there:
            self._expect(())
            return False
        self._expect(self._lacking())
        await self._flights.drop_all_but(choice.files)
        with self._flights.shown(choice.files, small=self.final):
            for wave in snapshot.waves(choice.files):
                await self._flights.send(wave, lambda fact: fact.path)
        return bool(choice.files)

    async def _compare(self) -> None:
        """What was fetched from the target before the job need not be sent there: such files have
        the time and the size of their objects."""
        self._compared = True
        here = {path: seen.fact for path, seen in self.memory.files.items()}
        looked_at = 0
        with contextlib.suppress(StorageError):  # it may not be permitted, nor is it needed
            async for entry in self.store.entries():
                looked_at += 1
                fact = here.pop(entry.key, None)
                # Times of objects are in microseconds at best, see ``fetch.mtime_ns_of``.
                if (
                    fact is not None
                    and fact.size == entry.size
                    and fact.mtime_ns // 1000 == round(entry.modified_at * 1e6)
                ):
                    self._there[entry.key] = Sent(fact, time.monotonic())
                if not here or looked_at == COMPARED:
                    return

    def _lacking(self) -> list[Fact]:
        facts = (seen.fact for seen in self.memory.files.values())
        return [
            fact
            for fact in facts
            if not ((sent := self._there.get(fact.path)) and sent.fact.same(fact))
        ]

    def landed(self, fact: Fact, key: str, sums: Sums) -> None:  # noqa: ARG002
        self._there[fact.path] = Sent(fact, time.monotonic())
        self.ledger.arrived(fact)

    def unchanged(self, before: Fact, after: Fact) -> bool:
        """What is only appended to may grow: what was sent was there at one time."""
        if before.path in self._growing:
            return after.inode == before.inode and after.size >= before.size
        return after.same(before)
