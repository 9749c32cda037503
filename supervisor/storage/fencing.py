"""Who writes checkpoints at a place, performed: claims, commits and looks. See ``epochs``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final, NamedTuple

from supervisor.storage import epochs, manifest
from supervisor.storage.epochs import Claim, FencedError
from supervisor.storage.flow import in_thread
from supervisor.storage.job import Writer
from supervisor.storage.manifest import Manifest, ManifestError, sequence_of
from supervisor.storage.store import Reason, StorageError, Store

MOST_STEPS: Final = 10_000
"""So many numbers are tried for one claim: a listing may be older than what is there (NFS)."""
UNREADABLE: Final = frozenset({Reason.NOT_FOUND, Reason.CORRUPT, Reason.CHANGED})
"""What is wrong with one object, and not with the place or the way to it."""


def new_writer() -> Writer:
    """Of this life, which has claimed nothing yet."""
    return Writer(f"{secrets.randbits(64) or 1:016x}")


async def listed(store: Store) -> set[str]:
    """The generations of manifests, claims among them."""
    found = set()
    async for entry in store.entries(manifest.FOLDER):
        name = manifest.generation_of_manifest(entry.key)
        if name is not None:
            found.add(name)
    return found


async def read(store: Store, generation: str) -> Manifest | Claim:
    """Raises ManifestError where it is neither, or not there any more."""
    try:
        content = await store.read(manifest.manifest_key(generation), limit=manifest.SIZE_LIMIT)
    except StorageError as error:
        if error.reason in UNREADABLE:
            raise ManifestError(str(error)) from None
        raise
    return await in_thread(epochs.decode, content)


class There(NamedTuple):
    """What was at a place when it was claimed."""

    names: list[str]
    """Generations, the newest first; claims of others are among them."""
    newest: Manifest | None
    """That of the chain, where it was read."""


class Fence:
    """One writer's right to write at a place. Its methods raise StorageError."""

    def __init__(self, store: Store, writer: Writer, *, host: str, job: str) -> None:
        self._store = store
        self._host = host
        self._job = job
        self._writer = writer
        self._newest: Manifest | None = None
        self._doubtful: set[str] = set()
        """Manifests of ours of which it is not known yet whether they were written in time: on a
        place without conditions."""

    @property
    def writer(self) -> Writer:
        return self._writer

    # ------------------------------------------------------------------ claiming

    async def claim(self) -> There:
        """Have an epoch that is newer than all others, once; what is there without it.

        A writer that has claimed before and does not know its epoch (its process died) finds it.
        """
        names = await listed(self._store)
        epoch, number, after = await self._end_of_chain(names)
        for _ in range(MOST_STEPS):
            if self._writer.epoch:
                return self._there(names)
            wanted = self._claim(epoch + 1, after)
            taken = epochs.chain_name(epoch, number + 1)
            try:
                written, refused = await self._take(taken, epochs.encode(wanted))
                conditional = refused or await self._keeps(taken, wanted)
            except StorageError as error:
                if error.reason is not Reason.UNCONDITIONAL:
                    raise
                written, conditional = False, False
            if conditional and not written:
                names.add(taken)
                epoch, number, after = await self._after(names, taken, after)
                continue
            own = taken if conditional else await self._claim_freely(wanted, names)
            # It was looked some time ago: meanwhile another one may have claimed the place, saved,
            # and cleared away the number that was taken here, which then bars nobody from the next.
            seen, names = names, await listed(self._store)
            held = self._holds(own, names)
            names -= {own, taken}
            if held:
                self._writer = self._writer.of(wanted.epoch, conditional=conditional)
                if not conditional:  # what has come since may be taken away again
                    names = names & seen or names
            else:
                epoch, number, after = await self._end_of_chain(names)
            needless = set() if held else {own}
            if written and not conditional:
                needless.add(taken)  # says the same as the other one
            with suppress(StorageError):
                await self._store.delete([manifest.manifest_key(each) for each in needless])
        text = f"claim {self._store.location}: others take one number after another"
        raise StorageError(Reason.SERVER, text)

    def _holds(self, own: str, names: Collection[str]) -> bool:
        """Whether a claim is the last that there is, where nobody has saved anything since."""
        epoch = epochs.epoch_of(own)
        if not epochs.is_claim(own):
            last = epochs.chain_name(epoch, epochs.last_of_chain(names, epoch))
            return last == own and epochs.newest_epoch(names) == epoch
        newer = [name for name in names if epochs.epoch_of(name) >= epoch and name > own]
        return not newer

    def _there(self, names: Iterable[str]) -> There:
        return There(manifest.newest_first(names), self._newest)

    def _claim(self, epoch: int, after: str) -> Claim:
        return Claim(epoch, self._writer.token, self._host, self._job, time.time(), after)

    async def _end_of_chain(self, names: Collection[str]) -> tuple[int, int, str]:
        """Epoch and number of what was taken last, and the newest manifest of the chain.

        From the first epoch on where somebody may have to be found: one that had no permission to
        claim before the job, and may have claimed since.
        """
        newest = epochs.newest_epoch(names)
        epoch = 0 if self._writer.again else newest
        after = ""
        while True:
            number = epochs.last_of_chain(names, epoch)
            ended, after = await self._ended(names, epoch, number, after)
            if self._writer.epoch or (not ended and epoch >= newest):
                return epoch, number, after
            epoch += 1

    async def _ended(
        self, names: Collection[str], epoch: int, number: int, after: str
    ) -> tuple[bool, str]:
        """Whether a claim ends that epoch, and the newest manifest of the chain until there."""
        if self._writer.again and epochs.claim_name(epoch + 1, self._writer.token) in names:
            self._writer = self._writer.of(epoch + 1, conditional=False)
        if not number:
            return False, after
        name = epochs.chain_name(epoch, number)
        try:
            found = await read(self._store, name)
        except ManifestError:
            return False, ""
        if isinstance(found, Manifest):
            self._newest = found
            return False, name
        if found.writer == self._writer.token:
            self._writer = self._writer.of(found.epoch, conditional=True)
        return True, found.after

    async def _after(self, names: Collection[str], taken: str, after: str) -> tuple[int, int, str]:
        """The same, where somebody else has taken a number just now."""
        epoch = epochs.epoch_of(taken)
        number = epochs.last_of_chain(names, epoch)
        ended, after = await self._ended(names, epoch, number, after)
        return (epoch + 1, 0, after) if ended else (epoch, number, after)

    async def _take(self, generation: str, content: bytes) -> tuple[bool, bool]:
        """Whether it is ours now, and whether the place has refused it meanwhile: a first attempt
        may have arrived whose answer did not."""
        key = manifest.manifest_key(generation)
        if await self._store.write_new(key, content):
            return True, False
        try:
            return await self._store.read(key, limit=manifest.SIZE_LIMIT) == content, True
        except StorageError as error:
            # Another one may have taken it, and away again when it had a later one.
            if error.reason not in {Reason.CORRUPT, Reason.NOT_FOUND}:
                raise
            return False, True

    async def _keeps(self, taken: str, claim: Claim) -> bool:
        """Whether the place minds the condition: some servers do not know it and replace what is
        there, in silence. So the claim is written again, to be refused."""
        return not await self._store.write_new(manifest.manifest_key(taken), epochs.encode(claim))

    async def _claim_freely(self, claim: Claim, names: Collection[str]) -> str:
        """Where each number cannot be had once: a claim of a name of its own, which is returned."""
        seen = manifest.newest_first(name for name in names if not epochs.is_claim(name))
        claim = replace(claim, after=seen[0] if seen else "")
        name = epochs.claim_name(claim.epoch, claim.writer)
        await self._store.write(manifest.manifest_key(name), epochs.encode(claim))
        return name

    def own_claim(self, names: Collection[str]) -> str:
        """Where this writer has claimed the place, if it is in the chain: as the last of the epoch
        before its own."""
        before = self._writer.epoch - 1
        number = epochs.last_of_chain(names, before) if self._writer.conditional else 0
        return epochs.chain_name(before, number) if number else ""

    # ------------------------------------------------------------------ writing

    def name(self, generations: Collection[str], tried: Collection[str] = ()) -> str:
        """Of the next manifest. ``generations``: what is there, as far as it is known; ``tried``:
        names of ours of which that is not known. In the chain they count for nothing: a number that
        is left out would be free for whoever is refused at the next."""
        epoch = self._writer.epoch
        if self._writer.conditional:
            number = epochs.last_of_chain(generations, epoch) + 1
        else:
            number = epochs.last_number((*generations, *tried), epoch) + 1
        if number >= manifest.PER_EPOCH:
            raise StorageError(
                Reason.LOCAL,
                f"{self._store.location}: {number - 1} checkpoints of one run; start it anew",
            )
        if self._writer.conditional:
            return epochs.chain_name(epoch, number)
        return epochs.free_name(epoch, number, secrets.randbits(32))

    async def commit(self, generation: str, content: bytes) -> bool:
        """Write a manifest, if nobody has claimed the place meanwhile. False: its number is taken,
        by a process of this writer that is gone.

        Raises FencedError, and no manifest of ours is there then that came too late, unless this
        process ends before it can take it away. With conditions none ever was.
        """
        key = manifest.manifest_key(generation)
        if self._writer.conditional:
            written, _ = await self._take(generation, content)
            if not written:
                await self._look_at([generation])
            return written
        await self.look(await listed(self._store))
        self._doubtful.add(generation)
        await self._store.write(key, content)
        await self.look(await listed(self._store))
        return True

    async def look(self, names: Collection[str], known: Collection[str] = ()) -> None:
        """Raises FencedError where ``names`` show that another writer has claimed the place.
        ``known``: those that are known to be manifests."""
        epoch = self._writer.epoch
        newer = epochs.newer_claims(names, epoch, self._writer.token)
        number = epochs.last_of_chain(names, epoch)
        last = [epochs.chain_name(epoch, number)] if number else []
        await self._look_at([name for name in last if name not in known])
        if newer:
            await self._look_at([name for name in newer if epochs.is_claim(name)])
            await self._refuse(None)
        self._doubtful.clear()

    async def _look_at(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                found = await read(self._store, name)
            except ManifestError:
                continue
            if isinstance(found, Claim) and found.order > (self._writer.epoch, self._writer.token):
                await self._refuse(found)

    async def _refuse(self, by: Claim | None) -> None:
        """What the other one has seen stays: it may have been restored from that."""
        seen = sequence_of(by.after) if by is not None and by.after else 0
        late = [name for name in self._doubtful if by is not None and sequence_of(name) > seen]
        with suppress(StorageError):
            await self._store.delete([manifest.manifest_key(name) for name in late])
        raise FencedError(str(self._store.location), self._writer.epoch, by)
