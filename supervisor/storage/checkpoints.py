"""A directory as generations, each with a manifest that is written last."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence
from typing import Final

from supervisor.storage import epochs, fencing, manifest, snapshot, watch
from supervisor.storage.epochs import Claim, FencedError
from supervisor.storage.fencing import Fence
from supervisor.storage.flights import ChangedError
from supervisor.storage.flow import in_thread
from supervisor.storage.job import SyncJob, Transfer
from supervisor.storage.manifest import File, Link, Manifest, ManifestError
from supervisor.storage.sender import Beside, Sender
from supervisor.storage.snapshot import Fact
from supervisor.storage.store import Reason, StorageError, Store, Sums

RELIST_S: Final = 60.0
"""How old a listing of manifests may be when the next is named."""


class Checkpoints(Sender):
    def __init__(self, transfer: Transfer, job: SyncJob, store: Store, beside: Beside) -> None:
        super().__init__(transfer, job, store, beside)
        self._fence = Fence(
            store,
            job.writer if job.writer.token else fencing.new_writer(),
            host=job.host,
            job=job.job,
        )
        self._refused: FencedError | None = None
        """Another run has the place: nothing is sent there any more."""
        self._generations: set[str] = set()
        """Manifests at the target, as far as we know; claims of lives before ours may be among
        them that were not read yet."""
        self._claims: set[str] = set()
        """Names that are known to be claims."""
        self._listed_at_s: float | None = None
        self._own: set[str] = set()
        """Names that we took; their manifests need not have been written."""
        self._known: dict[tuple[str, int, int], File] = {}
        """Of the newest manifest, when we began."""
        self._published: dict[str, tuple[Fact, File]] = {}
        """Of our newest manifest."""
        self._sent: dict[str, tuple[Fact, File]] = {}
        """Sent, but in no manifest yet."""
        self._links: dict[str, str] = {}
        """Targets by path, as the newest manifest has them."""
        self._orphans: set[str] = set()
        """Keys that we sent for generations that came to nothing."""
        self._contents: dict[str, Manifest] = {}
        self._swept = False
        self._alone = True

    async def run(self) -> None:
        try:
            await super().run()
        except FencedError as error:
            self._refuse(error)

    async def finish(self) -> None:
        try:
            await super().finish()
        except FencedError as error:
            self._refuse(error)
            raise

    def _refuse(self, error: FencedError) -> None:
        if self._refused is None:
            self._refused = error
            self.ledger.failing = str(error)
            self.ledger.changed()
            self._voice.fail(str(error), fenced=True)

    async def _round(self) -> bool:
        if self._refused is not None:
            raise self._refused
        if not await self._look():
            self._expect(())
            return False
        if self._listed_at_s is None:
            self._expect(self._lacking())
            await self._begin()
        assert self._scan is not None
        choice = snapshot.checkpoint(
            self.memory,
            self._scan.evidence,
            root=self.transfer.source,
            now_s=time.monotonic(),
            settle_s=self.job.settle_s,
            final=self.final,
        )
        self._note(choice)
        left_out = {*choice.restless, *choice.incomplete}
        self._expect(fact for fact in self._lacking() if fact.path not in left_out)
        # A removal alone makes no checkpoint: somebody may be clearing the directory.
        if choice.waiting or all(self._has(fact) for fact in choice.files):
            return False
        if all(fact.link for fact in choice.files):
            return False  # links to nothing: no checkpoint
        await self._publish((*choice.files, *snapshot.beside(self._scan.facts)))
        return True

    def _lacking(self) -> list[Fact]:
        facts = (seen.fact for seen in self.memory.files.values())
        return [fact for fact in facts if not self._has(fact)]

    def _has(self, fact: Fact) -> bool:
        """Whether it stands in the newest manifest, a file as one and a link as one."""
        if fact.link:
            return self._links.get(fact.path) == fact.link
        return self._there(fact) is not None

    def _there(self, fact: Fact) -> File | None:
        """As it stands in the newest manifest, if it does."""
        if (ours := self._published.get(fact.path)) is not None:
            return ours[1] if ours[0].same(fact) else None
        return self._known.get((fact.path, fact.size, fact.mtime_ns))

    def landed(self, fact: Fact, key: str, sums: Sums) -> None:
        old = self._sent.get(fact.path)
        if old is not None:
            self._orphans.add(old[1].key)
        file = File(fact.path, fact.size, fact.mtime_ns, fact.mode & 0o777, key, sums)
        self._sent[fact.path] = (fact, file)

    async def _publish(self, facts: Sequence[Fact]) -> None:
        if len(facts) > manifest.MOST_FILES:
            text = f"{self.transfer.source}: a checkpoint has at most {manifest.MOST_FILES} files"
            raise StorageError(Reason.LOCAL, f"{text}, and here are {len(facts)}")
        await self._relist()
        number = manifest.sequence_of(self._fence.name(self._generations, self._own))
        generation = manifest.generation_name(number, secrets.randbits(32))
        missing = [fact for fact in facts if not fact.link and self._there(fact) is None]
        wanted = {fact.path: fact for fact in missing}
        for path, (fact, file) in list(self._sent.items()):
            if not ((now := wanted.get(path)) and now.same(fact)):
                del self._sent[path]
                self._orphans.add(file.key)
        fresh = [fact for fact in missing if fact.path not in self._sent]
        # Bundles first: they are what is removed soon, and what is open stays readable.
        fresh.sort(key=lambda fact: (".data-" not in fact.path, fact.path))
        fresh_paths = {fact.path for fact in fresh}
        rest = [fact for fact in facts if fact.path not in fresh_paths]
        await self._flights.drop_all_but(fresh)
        with self._flights.shown(fresh, small=self.final):
            await self._flights.send(fresh, lambda fact: f"{generation}/{fact.path}", beside=rest)
        plain = [fact for fact in facts if not fact.link]
        files = [self._there(fact) or self._sent[fact.path][1] for fact in plain]
        links = tuple(Link(fact.path, fact.link) for fact in facts if fact.link)
        await self._conclude(plain, files, links)
        for fact in facts:
            if fact.hollow == watch.DANGLING:
                self._voice.name("dangling", fact.path, f"{watch.DANGLING}; it is kept as one")

    async def _conclude(
        self, facts: Sequence[Fact], files: Sequence[File], links: tuple[Link, ...]
    ) -> None:
        if self.transfer.keep:
            await self._relist(now=True)  # another writer may have cleared away what we build on
        while True:
            whole = self._whole(self._fence.name(self._generations, self._own), files, links)
            generation = whole.generation
            try:
                content = await in_thread(manifest.encode, whole)
            except ManifestError as error:
                text = f"{self.transfer.source}: its manifest is too large: {error}"
                raise StorageError(Reason.LOCAL, text) from None
            # Before: should this be cancelled it may yet be written, and the name is taken.
            self._own.add(generation)
            if await self._fence.commit(generation, content):
                break
            self._generations.add(generation)  # of a process before this one
        self._generations.add(generation)
        self._published = {fact.path: (fact, file) for fact, file in zip(facts, files, strict=True)}
        self._known, self._sent = {}, {}
        self._links = {link.path: link.target for link in links}
        self.ledger.newest = str(self.store.location.child(manifest.manifest_key(generation)))
        if self.transfer.keep:
            self._contents[generation] = whole
        newest = self.ledger.newest
        count = sum(not snapshot.is_ours(file.path) for file in files)
        self._voice.say("checkpoint.saved", manifest=newest, files=count, bytes=whole.size)
        self._expect(fact for fact in self.ledger.pending.values() if not self._has(fact))
        if not self.final:
            await self._clear_away()

    def _whole(self, generation: str, files: Sequence[File], links: tuple[Link, ...]) -> Manifest:
        job, writer = self.job, self._fence.writer
        now_s = time.time()
        return Manifest(generation, now_s, job.host, job.job, tuple(files), links, writer.token)

    # ------------------------------------------------------------------ what is at the target

    async def _begin(self) -> None:
        """What a predecessor has left there."""
        if not self._fence.writer.epoch:
            await self._fence.claim()
        names = await fencing.listed(self.store)
        await self._fence.look(names)
        self._sort({*names})
        left = manifest.newest_first(self._generations)
        while left:
            generation = left[0]
            try:
                newest = await fencing.read(self.store, generation)
            except ManifestError:
                break
            if isinstance(newest, Claim):
                self._claims.add(generation)
                left = epochs.without(left, generation, newest)
                continue
            self._known = await self._still_there(manifest.reusable(newest))
            self._links = {link.path: link.target for link in newest.links}
            break
        self._sort({*names})
        self._listed_at_s = time.monotonic()

    async def _still_there(
        self, files: dict[tuple[str, int, int], File]
    ) -> dict[tuple[str, int, int], File]:
        """Those whose objects exist."""
        sizes: dict[str, int] = {}
        for generation in {manifest.generation_of_object(file.key) for file in files.values()}:
            async for entry in self.store.entries(f"{generation}/"):
                sizes[entry.key] = entry.size
        return {name: file for name, file in files.items() if sizes.get(file.key) == file.size}

    def _sort(self, names: set[str]) -> None:
        """Remember what is at the target."""
        self._claims |= {name for name in names if epochs.is_claim(name)}
        if own := self._fence.own_claim(names):
            self._claims.add(own)
        self._generations = names - self._claims

    async def _relist(self, *, now: bool = False) -> None:
        """Notice other writers: an attempt that was given up, but lives."""
        assert self._listed_at_s is not None
        if not now and time.monotonic() - self._listed_at_s < RELIST_S:
            return
        listed = await fencing.listed(self.store)
        self._listed_at_s = time.monotonic()
        await self._fence.look(listed, self._generations)
        before = self._generations
        self._sort(listed)
        # What a writer before us was about to write when we claimed the place is no news.
        others = [
            name
            for name in self._generations - before - self._own
            if epochs.epoch_of(name) >= self._fence.writer.epoch and not epochs.is_of_chain(name)
        ]
        if self._alone and others:
            self._alone = False
            other = manifest.newest_first(others)[0]
            why = "another process writes checkpoints to the same place; nothing is removed there"
            self._voice.say("checkpoint.shared", "warning", manifest=other, why=why)
        lost = before - listed
        if lost:
            self._known, self._published, self._sent, self._links = {}, {}, {}, {}
            raise ChangedError("manifests that this process built upon are gone")

    async def tidy(self) -> None:
        if self._published and self._refused is None:
            await self._clear_away()

    async def _clear_away(self) -> None:
        """Keep the newest complete checkpoints; manifests go first, then what only they named."""
        if not self.transfer.keep or not self._alone:
            return
        await self._tell_claims()
        going = manifest.retired(self._generations, self.transfer.keep)
        if not going and self._swept:
            return
        try:
            staying = [
                await self._content(each)
                for each in manifest.kept(self._generations, self.transfer.keep)
            ]
        except ManifestError as error:
            self._voice.name("not_cleared", str(self.store.location), str(error))
            return
        keys = set(self._orphans)
        for generation in going:
            with contextlib.suppress(ManifestError):
                keys |= {file.key for file in (await self._content(generation)).files}
        if not self._swept:
            async for entry in self.store.entries():
                keys.add(entry.key)
        self._swept = False  # should this be cancelled, or fail, all is looked at next time
        try:
            await self.store.delete([manifest.manifest_key(each) for each in going])
            self._generations -= set(going)
            for generation in going:
                self._contents.pop(generation, None)
            needless = manifest.needless(staying, sorted(keys))
            await self.store.delete(needless)
        except StorageError as error:
            self._voice.name("not_cleared", str(self.store.location), str(error))
            return
        self._swept = True
        # The rest may go when the checkpoints that are kept now have gone.
        used = {file.key for each in staying for file in each.files}
        self._orphans = {key for key in keys - used if manifest.generation_of_object(key)}
        self._orphans.difference_update(needless)

    async def _tell_claims(self) -> None:
        """Claims stay for good, and are no checkpoints that are counted."""
        for generation in sorted(self._generations):
            if epochs.is_of_chain(generation):
                with contextlib.suppress(ManifestError):
                    await self._content(generation)
        self._generations -= self._claims

    async def _content(self, generation: str) -> Manifest:
        if generation not in self._contents:
            found = await fencing.read(self.store, generation)
            if isinstance(found, Claim):
                self._claims.add(generation)
                raise ManifestError("a claim")
            self._contents[generation] = found
        return self._contents[generation]
