"""One directory that is kept elsewhere: a task that looks, decides and sends, until cancelled.

The decisions are ``snapshot``'s and ``manifest``'s. What is sent is held by open descriptors: a
file that is renamed or removed meanwhile stays readable, and one that is written to in place is
seen by comparing what fstat(2) says before and after. An upload outlives the round that began it:
if the next one wants the same file, it goes on.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import functools
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from supervisor.storage import manifest, snapshot, watch
from supervisor.storage.flow import in_thread
from supervisor.storage.job import Kind, SyncJob, Transfer
from supervisor.storage.manifest import File, Link, Manifest, ManifestError
from supervisor.storage.notices import MOST_NAMES, Failed, Notice, Said, Standing, Unsent
from supervisor.storage.progress import Progress
from supervisor.storage.snapshot import Choice, Fact, Memory, Sent
from supervisor.storage.store import Reason, StorageError, Store, Sums
from supervisor.storage.watch import Scan

PERMANENT: Final = frozenset({Reason.DENIED, Reason.NO_BUCKET, Reason.NOT_FOUND, Reason.LOCAL})
"""Waiting does not change them; somebody has to. It is tried every ``SLOW_S`` whether he did."""
_ONCE_MORE_S: Final = 0.5
SLOW_S: Final = 60.0
LONGEST_PAUSE_S: Final = 60.0
"""Between two tries, while the job runs."""
LONGEST_FINAL_PAUSE_S: Final = 5.0
"""The same, when it is over: the budget is short."""
SAY_AGAIN_S: Final = 300.0
"""A failure that lasts is said so often."""
SHOWN_BYTES: Final = 64 << 20
"""What sends so much at a time shows its progress; smaller checkpoints come and go all the time."""
AT_ONCE: Final = 32
"""Files that are being sent at the same time, by the whole process."""
PINNED: Final = 256
"""Files of one transfer that are held open at the same time."""
STALLED_S: Final = 5.0
"""A transfer that moved nothing for so long lets others pass."""
RELIST_S: Final = 60.0
"""How old a listing of manifests may be when the next is named."""
ABANDONED_S: Final = 24 * 3600.0
"""Uploads that a life that was killed has begun are given up after so long."""
COMPARED: Final = 100_000
"""Objects that a mirror looks at for what need not be sent."""
_SCAN_SHARE: Final = 10.0
"""After a scan it is rested for so many times its duration, while changes come all the time …"""
_RESCAN_SHARE: Final = 300.0
"""… and for so many when they do not: large directories are to cost little."""
_SHORTEST_REST_S: Final = 0.1
_NAMED_AT_ONCE: Final = 10


class _ChangedError(Exception):
    """The directory is not what it was when it was looked at. Look again."""


@dataclass(slots=True)
class _Flight:
    """One file on its way."""

    fact: Fact
    key: str
    task: asyncio.Task[Sums]


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
        self.failing = ""
        """Why the last try failed."""
        self.moved_at_s = time.monotonic()
        """When it last got on."""
        self.final = False
        self.memory = Memory()
        self.pending: dict[str, Fact] = {}
        """What differs from what the target has."""
        self._slots = beside.slots
        self._tell = beside.tell
        self._changed = beside.changed
        self._scan: Scan | None = None
        self._scan_s = 0.0
        self._until_s: float | None = None
        self._since: dict[str, float] = {}
        self._flights: dict[str, _Flight] = {}
        self._unreadable: dict[str, Fact] = {}
        self._named: dict[str, set[str]] = {}
        """Paths by the reason for which they were named."""
        self._failed: set[Reason] = set()
        self._said_at_s = 0.0
        self._said: Reason | None = None
        self._lagging = False
        self._sent_files = 0
        self.sent_bytes = 0
        self._newest = ""
        self._progress: Progress | None = None

    # ------------------------------------------------------------------ from outside

    async def run(self) -> None:
        """Keep the target up to date, for ever."""
        while True:
            self.wake.clear()
            again = await self._patiently()
            await self._rest(again=again)

    async def finish(self) -> None:
        """Send what is left, now that nobody writes any more. Ends when all is sent."""
        self.final = True
        while await self._patiently():  # noqa: ASYNC110  # it is no waiting: a round did something
            await asyncio.sleep(_SHORTEST_REST_S)

    async def sweep(self) -> None:
        """Give up uploads that a life that was killed has begun, long ago."""
        with contextlib.suppress(StorageError):
            await self.store.abandon_partial(ABANDONED_S)

    async def survey(self) -> None:
        """Find out what is left, without asking the target."""
        with contextlib.suppress(OSError):
            await self._look()
            self._await(self._lacking())

    async def tidy(self) -> None:  # noqa: B027  # most have nothing to tidy
        """What may be done when all is sent."""

    async def abort(self) -> None:
        """End what is on its way. Nothing of it appears."""
        await self._drop_all_but(())

    def stalled(self) -> bool:
        return bool(self.failing) or time.monotonic() - self.moved_at_s > STALLED_S

    def standing(self, rate_bytes_s: float) -> Standing:
        return Standing(
            name=self.transfer.name,
            sent_files=self._sent_files,
            sent_bytes=self.sent_bytes,
            pending_files=len(self.pending),
            pending_bytes=sum(fact.size for fact in self.pending.values()),
            lag_s=round(self.lag_s(), 1),
            rate_bytes_s=round(rate_bytes_s, 1),
            newest=self._newest,
            error=self.failing,
        )

    def lag_s(self) -> float:
        if not self._since:
            return 0.0
        return max(0.0, time.monotonic() - min(self._since.values()))

    def watch_lag(self) -> None:
        """Say that it lags behind, once each time that it begins."""
        lag_s = self.lag_s()
        if lag_s >= self.job.lag_warn_s and not self._lagging:
            self._lagging = True
            why = {"error": self.failing} if self.failing else {}
            count = len(self.pending)
            self._say("transfer.lags", "warning", lag_s=round(lag_s), pending_files=count, **why)
        elif lag_s < self.job.lag_warn_s and self._lagging:
            self._lagging = False
            self._say("transfer.caught_up")

    def unsent(self) -> Unsent | None:
        if not self.pending:
            return None
        return Unsent(
            transfer=self.transfer.name,
            files=len(self.pending),
            bytes=sum(fact.size for fact in self.pending.values()),
            names=tuple(sorted(self.pending)[:MOST_NAMES]),
            reason=self.failing or "out of time",
        )

    # ------------------------------------------------------------------ tries and rests

    @abc.abstractmethod
    def _lacking(self) -> list[Fact]:
        """What differs from what the target has, of what was seen last."""

    @abc.abstractmethod
    async def _round(self) -> bool:
        """Look, and send what may be sent. True: look again at once.

        Raises StorageError.
        """

    async def _patiently(self) -> bool:
        """A round, tried again after growing pauses until it succeeds."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StorageError),
            wait=self._pause_s,
            sleep=asyncio.sleep,
            before_sleep=self._say_failure,
            stop=self._is_hopeless,
            reraise=True,
        )
        again: bool = await retrying(self._round_or_again)
        if self.failing:
            self.failing, self._said = "", None
            self._failed.clear()
            self._say("transfer.recovered")
            self._changed()
        return again

    async def _round_or_again(self) -> bool:
        try:
            return await self._round()
        except _ChangedError:
            return True
        except OSError as error:
            text = f"look at {self.transfer.source}: {error.strerror or error}"
            raise StorageError(Reason.LOCAL, text) from None

    def _pause_s(self, state: RetryCallState) -> float:
        longest = LONGEST_FINAL_PAUSE_S if self.final else LONGEST_PAUSE_S
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, StorageError) and error.reason in PERMANENT:
            return _ONCE_MORE_S if self.final else SLOW_S
        return float(wait_random_exponential(multiplier=1, max=longest)(state))

    def _is_hopeless(self, state: RetryCallState) -> bool:
        """At the end nobody waits for what waiting does not change. Once more is for a race."""
        error = state.outcome.exception() if state.outcome else None
        permanent = isinstance(error, StorageError) and error.reason in PERMANENT
        return self.final and permanent and state.attempt_number > 1

    def _say_failure(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, StorageError)
        self.failing = str(error)
        self._changed()
        now = time.monotonic()
        if error.reason is not self._said or now - self._said_at_s >= SAY_AGAIN_S:
            self._said, self._said_at_s = error.reason, now
            pause_s = state.next_action.sleep if state.next_action else 0.0
            self._say(
                "transfer.failing",
                "warning",
                error=self.failing,
                tries=state.attempt_number,
                again_in_s=round(pause_s, 1),
            )
        long = (state.seconds_since_start or 0.0) > self.job.options.retry_s
        if (error.reason in PERMANENT or long) and error.reason not in self._failed:
            self._failed.add(error.reason)
            self._tell(Failed(self.transfer.name, self.failing))

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
            self._name("left_out", path, why)
        if found.cut:
            self._name("left_out", "…", f"more than {watch.MOST_FILES} files")
        facts = [
            fact
            for fact in found.facts
            if self._unreadable.get(fact.path) != fact and self._takes(fact)
        ]
        self.memory = snapshot.observe(
            self.memory, facts, found.evidence, now_s=now_s, settle_s=self.job.settle_s
        )
        return found.there

    def _takes(self, fact: Fact) -> bool:  # noqa: ARG002
        """Whether it can be sent at all."""
        return True

    def _note(self, choice: Choice) -> None:
        """Keep when to look again, and name what is left out."""
        self._until_s = choice.until_s
        for path in choice.restless:
            self._name("left_out", path, "it is written to all the time")
        for path in choice.incomplete:
            self._name("left_out", path, "it is incomplete, and nobody goes on writing it")

    def _await(self, pending: Iterable[Fact]) -> None:
        self.pending = {fact.path: fact for fact in pending}
        self._since = snapshot.unsent_since(self.memory, self.pending, self._since)
        self._changed()

    # ------------------------------------------------------------------ sending

    @contextlib.contextmanager
    def _shown(self, facts: Sequence[Fact]) -> Iterator[None]:
        """Show people how the sending of ``facts`` goes, if it is worth it."""
        size = sum(fact.size for fact in facts)
        if not facts or (size < SHOWN_BYTES and not self.final):
            yield
            return
        shown = Progress(self.transfer.name, size, len(facts), live=self.job.live)
        self._progress = shown
        why: str | None = "given up"
        try:
            yield
            why = None
        except (StorageError, _ChangedError) as error:
            why = str(error)
            raise
        finally:
            self._progress = None
            shown.finish(why)

    async def _send(
        self, facts: Sequence[Fact], key_of: Callable[[Fact], str], *, beside: Sequence[Fact] = ()
    ) -> None:
        """Send files. ``beside`` must look as it did, with them, at one moment: after the first of
        them were opened and before the first is sent.

        Raises _ChangedError, or StorageError. What is on its way then goes on.
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
            await flight.task  # raises what it raised
            unsent.discard(flight.fact.path)
            if rest and len(self._flights) < PINNED // 2:
                batch, rest = rest[: PINNED // 2], rest[PINNED // 2 :]
                for path, fd in (await self._pin(batch, beside=batch)).items():
                    self._launch(wanted[path], key_of(wanted[path]), fd, done)

    async def _pin(self, facts: Sequence[Fact], *, beside: Sequence[Fact]) -> dict[str, int]:
        """Open all of them, or none; then look whether ``beside`` is all as it was."""
        opened: dict[str, int] = {}
        root = self.transfer.source

        def work() -> None:
            for fact in facts:
                try:
                    fd = watch.open_as(root, fact)
                except PermissionError as error:
                    self._unreadable[fact.path] = fact
                    raise _ChangedError(fact.path) from error
                if fd is None:
                    raise _ChangedError(fact.path)
                opened[fact.path] = fd
            if path := watch.still_so(root, beside):
                raise _ChangedError(path)

        try:
            await in_thread(work)
        except BaseException as error:
            for fd in opened.values():
                os.close(fd)
            if isinstance(error, _ChangedError) and isinstance(error.__cause__, OSError):
                self._name("left_out", str(error), error.__cause__.strerror or "unreadable")
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
                self._sent_files += 1
                if self._progress is not None:
                    self._progress.file_done()
                self._landed(fact, key, task.result())
            done.put_nowait(flight)

        task.add_done_callback(landed)

    async def _upload(self, fact: Fact, key: str, fd: int) -> Sums:
        def check() -> None:
            if not self._unchanged(fact, watch.fact_of(fact.path, os.fstat(fd), fact.link)):
                raise StorageError(Reason.CHANGED, f"send {fact.path}: it was changed meanwhile")

        async with self._slots:
            return await self.store.upload(key, fd, fact.size, moved=self._moved, check=check)

    def _unchanged(self, before: Fact, after: Fact) -> bool:
        return after.same(before)

    @abc.abstractmethod
    def _landed(self, fact: Fact, key: str, sums: Sums) -> None:
        """A file has been sent."""

    async def _drop_all_but(self, facts: Iterable[Fact]) -> None:
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
        self.sent_bytes += count
        self.moved_at_s = time.monotonic()
        if self._progress is not None:
            self._progress.moved(count)
        self._changed()

    # ------------------------------------------------------------------ saying

    def _say(self, event: str, level: str = "info", **fields: str | float) -> None:
        named = (("transfer", self.transfer.name), *fields.items())
        self._tell(Said(event, level, named))

    def _name(self, event: str, path: str, why: str) -> None:
        """Once for each path and reason; of many, the first ones."""
        named = self._named.setdefault(why, set())
        if path in named or len(named) > _NAMED_AT_ONCE:
            return
        named.add(path)
        shown = path if len(named) <= _NAMED_AT_ONCE else "others"
        self._say(f"transfer.{event}", "warning", path=shown, why=why)


def _put(queue: asyncio.Queue[_Flight], flight: _Flight, _: object) -> None:
    queue.put_nowait(flight)


class Checkpoints(Sender):
    """A directory as generations, each with a manifest that is written last."""

    def __init__(self, transfer: Transfer, job: SyncJob, store: Store, beside: Beside) -> None:
        super().__init__(transfer, job, store, beside)
        self._generations: set[str] = set()
        """Manifests at the target, as far as we know."""
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

    async def _round(self) -> bool:
        if not await self._look():
            self._await(())
            return False
        if self._listed_at_s is None:
            self._await(self._lacking())
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
        self._await(fact for fact in self._lacking() if fact.path not in left_out)
        # A removal alone makes no checkpoint: somebody may be clearing the directory.
        if choice.waiting or all(self._has(fact) for fact in choice.files):
            return False
        if all(fact.link for fact in choice.files):
            return False  # links to nothing: no checkpoint
        await self._publish(choice.files)
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

    def _landed(self, fact: Fact, key: str, sums: Sums) -> None:
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
        generation = manifest.generation_name(
            manifest.next_sequence(self._generations | self._own), secrets.randbits(32)
        )
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
        await self._drop_all_but(fresh)
        try:
            with self._shown(fresh):
                await self._send(fresh, lambda fact: f"{generation}/{fact.path}", beside=rest)
        except StorageError as error:
            if error.reason is Reason.CHANGED:
                raise _ChangedError(str(error)) from None
            raise
        plain = [fact for fact in facts if not fact.link]
        files = [self._there(fact) or self._sent[fact.path][1] for fact in plain]
        links = tuple(Link(fact.path, fact.link) for fact in facts if fact.link)
        await self._conclude(generation, plain, files, links)
        for fact in facts:
            if fact.hollow == watch.DANGLING:
                self._name("dangling", fact.path, f"{watch.DANGLING}; it is kept as one")

    async def _conclude(
        self,
        generation: str,
        facts: Sequence[Fact],
        files: Sequence[File],
        links: tuple[Link, ...],
    ) -> None:
        whole = Manifest(generation, time.time(), self.job.host, self.job.job, tuple(files), links)
        try:
            content = await in_thread(manifest.encode, whole)
        except ManifestError as error:
            text = f"{self.transfer.source}: its manifest is too large: {error}"
            raise StorageError(Reason.LOCAL, text) from None
        if self.transfer.keep:
            await self._relist(now=True)  # another writer may have cleared away what we build on
        # Before: should this be cancelled it may yet be written, and its number is taken.
        self._own.add(generation)
        await self.store.write(manifest.manifest_key(generation), content)
        self._generations.add(generation)
        self._published = {fact.path: (fact, file) for fact, file in zip(facts, files, strict=True)}
        self._known, self._sent = {}, {}
        self._links = {link.path: link.target for link in links}
        self._newest = str(self.store.location.child(manifest.manifest_key(generation)))
        if self.transfer.keep:
            self._contents[generation] = whole
        self._say("checkpoint.saved", manifest=self._newest, files=len(files), bytes=whole.size)
        self._await(fact for fact in self.pending.values() if not self._has(fact))
        if not self.final:
            await self._clear_away()

    # ------------------------------------------------------------------ what is at the target

    async def _begin(self) -> None:
        """What a predecessor has left there."""
        self._generations = await self._list()
        for generation in manifest.newest_first(self._generations)[:1]:
            try:
                newest = await self._read(generation)
            except ManifestError:
                continue
            self._known = await self._still_there(manifest.reusable(newest))
            self._links = {link.path: link.target for link in newest.links}
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

    async def _list(self) -> set[str]:
        found = set()
        async for entry in self.store.entries(manifest.FOLDER):
            generation = manifest.generation_of_manifest(entry.key)
            if generation is not None:
                found.add(generation)
        return found

    async def _relist(self, *, now: bool = False) -> None:
        """Notice other writers: an attempt that was given up, but lives."""
        assert self._listed_at_s is not None
        if not now and time.monotonic() - self._listed_at_s < RELIST_S:
            return
        listed = await self._list()
        self._listed_at_s = time.monotonic()
        others = listed - self._generations - self._own
        if self._alone and others:
            self._alone = False
            other = manifest.newest_first(others)[0]
            why = "another process writes checkpoints to the same place; nothing is removed there"
            self._say("checkpoint.shared", "warning", manifest=other, why=why)
        lost = self._generations - listed
        self._generations = listed
        if lost:
            self._known, self._published, self._sent, self._links = {}, {}, {}, {}
            raise _ChangedError("manifests that this process built upon are gone")

    async def _read(self, generation: str) -> Manifest:
        """Raises ManifestError, also where it is not there any more."""
        key = manifest.manifest_key(generation)
        try:
            content = await self.store.read(key, limit=manifest.SIZE_LIMIT)
        except StorageError as error:
            if error.reason in {Reason.NOT_FOUND, Reason.CORRUPT}:
                raise ManifestError(str(error)) from None
            raise
        return await in_thread(manifest.decode, content)

    async def tidy(self) -> None:
        if self._published:
            await self._clear_away()

    async def _clear_away(self) -> None:
        """Keep the newest complete checkpoints; manifests go first, then what only they named."""
        if not self.transfer.keep:
            return
        going = manifest.retired(self._generations, self.transfer.keep)
        if not self._alone or not (going or not self._swept):
            return
        try:
            staying = [
                await self._content(each)
                for each in manifest.kept(self._generations, self.transfer.keep)
            ]
        except ManifestError as error:
            self._name("not_cleared", str(self.store.location), str(error))
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
            self._name("not_cleared", str(self.store.location), str(error))
            return
        self._swept = True
        # The rest may go when the checkpoints that are kept now have gone.
        used = {file.key for each in staying for file in each.files}
        self._orphans = {key for key in keys - used if manifest.generation_of_object(key)}
        self._orphans.difference_update(needless)

    async def _content(self, generation: str) -> Manifest:
        if generation not in self._contents:
            self._contents[generation] = await self._read(generation)
        return self._contents[generation]


class Mirror(Sender):
    """A directory file by file, each under its own name."""

    def __init__(self, transfer: Transfer, job: SyncJob, store: Store, beside: Beside) -> None:
        super().__init__(transfer, job, store, beside)
        self._there: dict[str, Sent] = {}
        self._growing: frozenset[str] = frozenset()
        self._compared = False

    def _takes(self, fact: Fact) -> bool:
        """A link to a file is sent as the file; there are no links at the target."""
        if fact.hollow:
            self._name("left_out", fact.path, fact.hollow)
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
            self._await(())
            return False
        self._await(self._lacking())
        await self._drop_all_but(choice.files)
        try:
            with self._shown(choice.files):
                for wave in snapshot.waves(choice.files):
                    await self._send(wave, lambda fact: fact.path)
        except StorageError as error:
            if error.reason is Reason.CHANGED:
                raise _ChangedError(str(error)) from None
            raise
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

    def _landed(self, fact: Fact, key: str, sums: Sums) -> None:  # noqa: ARG002
        self._there[fact.path] = Sent(fact, time.monotonic())
        now = self.pending.get(fact.path)
        if now is not None and now.same(fact):
            del self.pending[fact.path]
            self._since.pop(fact.path, None)

    def _unchanged(self, before: Fact, after: Fact) -> bool:
        """What is only appended to may grow: what was sent was there at one time."""
        if before.path in self._growing:
            return after.inode == before.inode and after.size >= before.size
        return after.same(before)


def sender_for(transfer: Transfer, job: SyncJob, store: Store, beside: Beside) -> Sender:
    kind = Checkpoints if transfer.kind is Kind.CHECKPOINTS else Mirror
    return kind(transfer, job, store, beside)
