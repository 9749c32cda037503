"""Of two writers at one place of checkpoints the older is refused, however their steps interleave.

Real places: a directory, moto's server (which knows conditional writes) and rclone's (which ignores
them and replaces what is there). The writers run in this process, so that each of their requests
can be held back, and either of them killed with a request on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import pathlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from supervisor.storage import epochs, manifest, sender
from supervisor.storage.checkpoints import Checkpoints
from supervisor.storage.epochs import Claim, FencedError
from supervisor.storage.fencing import Fence, listed, new_writer, read
from supervisor.storage.job import Options, Restore, SyncJob, Writer
from supervisor.storage.location import Location
from supervisor.storage.manifest import File, Manifest, manifest_key
from supervisor.storage.notices import Failed, Notice
from supervisor.storage.places import open_store
from supervisor.storage.restore import restore
from supervisor.storage.sender import Beside
from supervisor.storage.store import (
    Check,
    Entry,
    Moved,
    Reason,
    StorageError,
    Store,
    Sums,
    unchecked,
)
from tests.helpers import writer as training
from tests.helpers.faults import Request, fault_proxy, s3_error
from tests.helpers.s3 import BUCKET, KEY, SECRET, Server, moto, rclone
from tests.helpers.syncing import checkpoints

T = TypeVar("T")
ALL = "SUPERVISOR_TEST_ALL"
RUNS = 50 if os.environ.get(ALL) else 4
"""Interleavings of each place."""
PLACES = ("directory", "moto", "rclone")
HONEST = {"directory": True, "moto": True, "rclone": False}
"""Whether a place writes only what is not there yet, if it is asked to."""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(sender, "_SHORTEST_REST_S", 0.0)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    with (
        rclone(tmp_path_factory.mktemp("rclone")) as one,
        moto(tmp_path_factory.mktemp("moto")) as other,
    ):
        yield {"rclone": one, "moto": other}


class OneByOne:
    """moto's server looks whether an object is there and writes it in two steps: of 1,500 races of
    four such requests one had two winners. One at a time it is what it stands for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write_new(self, key: str, content: bytes) -> bool:
        async with self._lock:
            return await self._store.write_new(key, content)


@dataclasses.dataclass
class Site:
    """A place of checkpoints that nobody else has."""

    kind: str
    location: Location
    options: Options

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with open_store(self.location, self.options) as store:
            if self.kind == "moto":
                with contextlib.suppress(Exception):  # it is there
                    api = await store._client.api(BUCKET)  # type: ignore[attr-defined]
                    await api.create_bucket(Bucket=BUCKET)
                yield OneByOne(store)
            else:
                yield store


@pytest.fixture
def site(kind: str, request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Site:
    if kind == "directory":
        return Site(kind, Location.parse(str(tmp_path / "place")), Options())
    server: Server = request.getfixturevalue("servers")[kind]
    return Site(kind, server.place(), server.options)


async def manifests_of(store: Store) -> dict[str, Manifest]:
    found = {name: await read(store, name) for name in await listed(store)}
    return {name: each for name, each in found.items() if isinstance(each, Manifest)}


async def claims_of(store: Store) -> list[Claim]:
    found = [await read(store, name) for name in await listed(store)]
    return sorted((each for each in found if isinstance(each, Claim)), key=lambda each: each.order)


# --------------------------------------------------------------------------- writers


class Stage:
    """Where requests are held back: seeded, and counted in the requests of the other one."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.turns = {"older": 0, "newer": 0}
        self.active = {"older"}
        self.on_their_way: set[asyncio.Task[Any]] = set()
        """Requests of who was killed meanwhile."""
        self.deaths = 0
        self._moved = asyncio.Condition()

    async def pass_by(self, who: str, held: float) -> None:
        other = "newer" if who == "older" else "older"
        self.turns[who] += 1
        async with self._moved:
            self._moved.notify_all()
        if other not in self.active or self.chance.random() >= held:
            return
        await self.reaches(other, self.turns[other] + self.chance.randint(1, 40), 0.1)

    async def reaches(self, who: str, turns: int, limit_s: float) -> None:
        """Until it has asked so often, or has nothing to do, or is held back itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s), self._moved:
                await self._moved.wait_for(
                    lambda: who not in self.active or self.turns[who] >= turns
                )

    @contextlib.asynccontextmanager
    async def on(self, who: str) -> AsyncIterator[None]:
        self.active.add(who)
        try:
            yield
        finally:
            self.active.discard(who)
            async with self._moved:
                self._moved.notify_all()


class Staged:
    """A store whose requests are held back before they are sent and before they are answered."""

    def __init__(self, store: Store, stage: Stage, who: str, *, held: float, dies: float) -> None:
        self._store = store
        self._who = who
        self._stage = stage
        self._held = held
        self._dies = dies
        self.location = store.location

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        async def sent() -> T:
            await self._stage.pass_by(self._who, self._held)
            return await call()

        task = asyncio.ensure_future(sent())
        try:
            if self._stage.chance.random() < self._dies and self._who in self._stage.active:
                self._stage.deaths += 1
                me = asyncio.current_task()
                assert me is not None
                asyncio.get_running_loop().call_soon(me.cancel)
            answer = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stage.on_their_way.add(task)
            raise
        await self._stage.pass_by(self._who, self._held)
        return answer

    async def entries(self, prefix: str = "") -> AsyncIterator[Entry]:
        async def all_of_it() -> list[Entry]:
            return [entry async for entry in self._store.entries(prefix)]

        for entry in await self._asked(all_of_it):
            yield entry

    async def head(self, key: str) -> Entry | None:
        return await self._asked(lambda: self._store.head(key))

    async def read(self, key: str, *, limit: int) -> bytes:
        return await self._asked(lambda: self._store.read(key, limit=limit))

    async def write(self, key: str, content: bytes) -> None:
        await self._asked(lambda: self._store.write(key, content))

    async def write_new(self, key: str, content: bytes) -> bool:
        return await self._asked(lambda: self._store.write_new(key, content))

    async def upload(
        self, key: str, fd: int, size: int, *, moved: Moved, check: Check = unchecked
    ) -> Sums:
        """Not held back once it is on its way: its file is closed when the writer dies."""
        await self._stage.pass_by(self._who, self._held)
        return await self._store.upload(key, fd, size, moved=moved, check=check)

    async def download(
        self, entry: Entry, fd: int, *, sums: Sums | None = None, moved: Moved
    ) -> None:
        await self._stage.pass_by(self._who, self._held)
        await self._store.download(entry, fd, sums=sums, moved=moved)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._asked(lambda: self._store.delete(keys))

    async def region(self) -> str:
        return ""

    async def abandon_partial(self, older_s: float, prefix: str = "") -> int:
        return await self._store.abandon_partial(older_s, prefix)

    async def close(self) -> None: ...


class Run:
    """One supervisor's life at a place: it claims, restores, and its process sends what is saved;
    that process may die and be followed by another."""

    def __init__(self, name: str, store: Store, base: pathlib.Path, *, keep: int) -> None:
        self.store = store
        self.source = base / name
        self.writer = Writer()
        self.restored = ""
        self.notices: list[Notice] = []
        self._name = name
        self._keep = keep

    async def begin(self) -> None:
        fence = Fence(self.store, new_writer(), host=self._name, job="j")
        there = await fence.claim()
        self.writer = fence.writer
        request = Restore(self.store.location, str(self.source))
        done = await restore(
            self.store, request, moved=lambda _: None, said=lambda _: None, there=there
        )
        self.restored = done.place

    def process(self) -> Checkpoints:
        transfer = checkpoints(self.source, str(self.store.location), keep=self._keep)
        job = SyncJob((transfer,), host=self._name, job="j", writer=self.writer)
        beside = Beside(asyncio.Semaphore(32), self.notices.append, lambda: None)
        return Checkpoints(transfer, job, self.store, beside)

    async def train(self, first: int, steps: int) -> None:
        """Raises FencedError."""
        process = self.process()
        for step in range(first, first + steps):
            training.save(self.source, step, keep=2, size=2000, fixed=False)
            while True:
                try:
                    await process.finish()
                    await process.tidy()
                except asyncio.CancelledError:
                    me = asyncio.current_task()
                    assert me is not None
                    me.uncancel()
                    process = self.process()  # of the same life
                else:
                    break


async def restored_step(
    store: Store, into: pathlib.Path, generation: str = "", mode: str = "exact"
) -> int:
    request = Restore(store.location, str(into), mode if generation else "auto", generation)
    done = await restore(store, request, moved=lambda _: None, said=lambda _: None)
    assert done.place
    return training.step_of(into)


# --------------------------------------------------------------------------- interleavings


@dataclasses.dataclass
class Seen:
    """What one interleaving came to."""

    refused: bool = False
    late: int = 0
    """Manifests of the older one that came after the newer one's claim and are still there."""
    deaths: int = 0
    saved_before: int = 0


async def interleave(site: Site, base: pathlib.Path, seed: int) -> Seen:
    chance = random.Random(seed)
    stage = Stage(chance)
    keep = chance.choice((0, 0, 1, 2))
    seen = Seen()
    there: set[str] = set()
    async with site.open() as store:
        held, dies = chance.choice((0.1, 0.3)), chance.choice((0.0, 0.03))
        older = Run("older", Staged(store, stage, "older", held=held, dies=dies), base, keep=keep)
        newer = Run("newer", Staged(store, stage, "newer", held=held, dies=0.0), base, keep=keep)
        await _begun(older, store)
        after = chance.randint(0, 60)

        async def old() -> None:
            async with stage.on("older"):
                try:
                    await older.train(1, chance.randint(3, 8))
                except FencedError:
                    seen.refused = True

        async def new() -> None:
            await stage.reaches("older", after, 5.0)
            async with stage.on("newer"):
                await newer.begin()
                there.update(await manifests_of(store))
                seen.saved_before = len(there)
                await newer.train(101, chance.randint(1, 4))

        async with asyncio.TaskGroup() as both:
            both.create_task(old())
            both.create_task(new())
        await asyncio.gather(*stage.on_their_way, return_exceptions=True)
        if not seen.refused:
            with contextlib.suppress(FencedError):
                await older.train(50, 1)
                raise AssertionError("the older one has saved after the newer one")
            seen.refused = True
        await _judge(store, base, older, newer, there, seen, strict=HONEST[site.kind])
    seen.deaths = stage.deaths
    return seen


async def _begun(run: Run, store: Store) -> None:
    """The supervisor's own start is not what is killed here."""
    staged, run.store = run.store, store
    await run.begin()
    run.store = staged


async def _judge(
    store: Store,
    base: pathlib.Path,
    older: Run,
    newer: Run,
    there: set[str],
    seen: Seen,
    *,
    strict: bool,
) -> None:
    left = await manifests_of(store)
    late = {name for name, each in left.items() if each.writer == older.writer.token} - there
    seen.late = len(late)
    if strict:
        assert not late, f"of the older one, after the newer one's claim: {late}"
    ours = [name for name, each in left.items() if each.writer == newer.writer.token]
    assert ours
    assert min(map(manifest.sequence_of, ours)) > max(
        (manifest.sequence_of(name) for name in left if name not in ours), default=0
    )
    for number, name in enumerate(sorted(left)):
        step = await restored_step(store, base / f"each-{number}", name)
        assert (step > 100) == (name in ours)
    newest = max(step for step in range(101, 105) if (newer.source / f"ckpt-{step}.index").exists())
    assert await restored_step(store, base / "newest") == newest
    failed = [each for each in older.notices if isinstance(each, Failed)]
    assert failed
    assert all(each.fenced and "belong to another run now (newer of job j" in each.message
               for each in failed)  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("kind", PLACES)
def test_no_manifest_of_the_older_comes_after_the_newer_ones_claim(
    site: Site, tmp_path: pathlib.Path
) -> None:
    """Each interleaving has a place of its own; where one fails its seed is named.

    Without conditional writes one may be left, if the older one's process dies between its write
    and its next look; what is restored is the newer one's in any case.
    """
    runs = []
    for seed in range(RUNS):
        base = tmp_path / str(seed)
        base.mkdir()
        each = dataclasses.replace(site, location=site.location.child(str(seed)))
        try:
            runs.append(asyncio.run(interleave(each, base, seed)))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    print(
        f"{site.kind}: {len(runs)} interleavings, {sum(each.saved_before > 0 for each in runs)} "
        f"with checkpoints before the claim, {sum(each.deaths for each in runs)} deaths, "
        f"{sum(each.late for each in runs)} manifests that came too late"
    )
    assert all(each.refused for each in runs)
    assert all(not each.late for each in runs if not each.deaths)


# --------------------------------------------------------------------------- claims


async def claimed(store: Store, host: str = "algo-1", writer: Writer | None = None) -> Fence:
    fence = Fence(store, writer or new_writer(), host=host, job="j")
    await fence.claim()
    return fence


@pytest.mark.twice
@pytest.mark.parametrize("kind", PLACES)
def test_each_claim_is_newer_than_those_before_it(site: Site) -> None:
    async def scenario() -> None:
        async with site.open() as store:
            fences = [await claimed(store, f"algo-{number}") for number in (1, 2, 3)]
            assert [each.writer.epoch for each in fences] == [1, 2, 3]
            assert {each.writer.conditional for each in fences} == {HONEST[site.kind]}
            assert [each.host for each in await claims_of(store)] == ["algo-1", "algo-2", "algo-3"]
            names = await listed(store)
            for fence in fences[:2]:
                with pytest.raises(FencedError) as refused:
                    await fence.look(names)
                assert refused.value.reason is Reason.FENCED
                said = str(refused.value)
                assert f"fenced: the checkpoints at {site.location} belong to another run" in said
                assert f"this one has epoch {fence.writer.epoch}" in said
            assert re.search(r"\(algo-[23] of job j, since 20", await _refusal(fences[0], names))
            await fences[2].look(names)

    asyncio.run(scenario())


async def _refusal(fence: Fence, names: set[str]) -> str:
    try:
        await fence.look(names)
    except FencedError as error:
        return str(error)
    return ""


@pytest.mark.twice
@pytest.mark.parametrize("kind", PLACES)
def test_of_claims_at_the_same_moment_one_holds(site: Site) -> None:
    """Where numbers are taken once they come one after another. Elsewhere they may be one epoch's:
    then it is the one with the greater token."""

    async def scenario() -> None:
        async with site.open() as store:
            for _ in range(5):
                fences = await asyncio.gather(*(claimed(store) for _ in range(4)))
                names = await listed(store)
                held = [each for each in fences if not await _refusal(each, names)]
                assert len(held) == 1
                newest = max((each.writer.epoch, each.writer.token) for each in fences)
                assert (held[0].writer.epoch, held[0].writer.token) == newest

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("kind", PLACES)
def test_a_process_that_does_not_know_its_epoch_finds_it_and_no_newer_one(site: Site) -> None:
    """The one before it had claimed the place only beside the job, and died."""

    async def scenario() -> None:
        async with site.open() as store:
            await claimed(store)
            mine = await claimed(store)
            again = dataclasses.replace(Writer(mine.writer.token), again=True)
            assert (await claimed(store, writer=again)).writer == mine.writer
            await claimed(store, "algo-2")
            after = await claimed(store, writer=again)
            assert after.writer == mine.writer
            assert "algo-2" in await _refusal(after, await listed(store))
            assert len(await claims_of(store)) == 3

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("kind", ["directory"])
def test_a_number_is_not_left_out(site: Site, tmp_path: pathlib.Path) -> None:
    """A write that was given up may have come to nothing: its number is tried again, else whoever
    claims the place would take it, and not be in the way of the next."""

    class Lost:
        """The first manifest does not arrive."""

        def __init__(self, store: Store) -> None:
            self._store = store
            self.left = 1

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def write_new(self, key: str, content: bytes) -> bool:
            if self.left:
                self.left = 0
                raise StorageError(Reason.SERVER, "lost")
            return await self._store.write_new(key, content)

    async def scenario() -> None:
        async with site.open() as store:
            older = Run("older", store, tmp_path, keep=0)
            await older.begin()
            older.store = lost = Lost(store)
            process = older.process()
            training.save(older.source, 1, keep=2, size=2000, fixed=False)
            with pytest.raises(StorageError, match="lost"):
                await process._round()
            assert not lost.left
            await claimed(store, "algo-2")
            with pytest.raises(FencedError):
                await process._round()
            assert not await manifests_of(store)

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("kind", PLACES)
def test_a_claim_by_an_old_listing_is_none(site: Site, tmp_path: pathlib.Path) -> None:
    """Whoever was suspended between his look and his claim finds a number free that others have
    taken and cleared away meanwhile: it would not bar the newest of them from the next."""

    class Suspended:
        """For so long that another run claims the place and saves, after the first listing."""

        def __init__(self, store: Store, meanwhile: Callable[[], Awaitable[None]]) -> None:
            self._store = store
            self._meanwhile: Callable[[], Awaitable[None]] | None = meanwhile

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def entries(self, prefix: str = "") -> AsyncIterator[Entry]:
            for entry in [each async for each in self._store.entries(prefix)]:
                yield entry
            if self._meanwhile is not None:
                meanwhile, self._meanwhile = self._meanwhile, None
                await meanwhile()

    async def scenario() -> None:
        async with site.open() as store:
            runs = [Run(name, store, tmp_path, keep=1) for name in ("first", "other")]
            await runs[0].begin()
            await runs[0].train(1, 2)

            async def saves() -> None:
                await runs[0].train(3, 3)
                await runs[1].begin()
                await runs[1].train(10, 3)

            last = Run("last", Suspended(store, saves), tmp_path, keep=1)
            await last.begin()
            assert training.step_of(last.source) == 12
            assert last.writer.epoch == 3
            for run in runs:
                with pytest.raises(FencedError):
                    await run.train(50, 1)
            await last.train(20, 1)
            assert await restored_step(store, tmp_path / "newest") == 20

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("kind", ["directory", "moto"])
def test_an_answer_that_is_lost_is_no_refusal(site: Site, tmp_path: pathlib.Path) -> None:
    """The server has what was written and refuses the second attempt; or a file server's answer to
    link(2) does not come."""

    class Repeating:
        """Every request is sent twice, and the second answer is all that arrives."""

        def __init__(self, store: Store) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def write_new(self, key: str, content: bytes) -> bool:
            await self._store.write_new(key, content)
            return await self._store.write_new(key, content)

    async def scenario() -> None:
        async with site.open() as store:
            run = Run("algo-1", Repeating(store), tmp_path, keep=0)
            await run.begin()
            assert (run.writer.epoch, run.writer.conditional) == (1, True)
            await run.train(1, 2)
            assert sorted(await manifests_of(store)) == [
                "000001000001-00000000",
                "000001000002-00000000",
            ]
            assert len(await claims_of(store)) == 1

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("kind", ["rclone"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_without_conditions_what_came_too_late_is_taken_away(
    site: Site, tmp_path: pathlib.Path, *, after: bool
) -> None:
    """The claim comes between the older one's look and its write. One that the newer has seen stays
    for it to be restored, though it was written in the same moment."""

    class Overtaken:
        """Somebody claims the place before or after a manifest is written."""

        def __init__(self, store: Store) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def write(self, key: str, content: bytes) -> None:
            if not after:
                await claimed(self._store, "algo-2")
            await self._store.write(key, content)
            if after:
                await claimed(self._store, "algo-2")

    async def scenario() -> None:
        async with site.open() as store:
            older = Run("older", store, tmp_path, keep=0)
            await older.begin()
            await older.train(1, 1)
            older.store = Overtaken(store)
            with pytest.raises(FencedError):
                await older.train(2, 1)
            assert len(await manifests_of(store)) == (2 if after else 1)

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("kind", ["directory"])
@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP"])
def test_a_file_system_without_links_has_no_conditions(
    site: Site, tmp_path: pathlib.Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, code), "no")

    async def scenario() -> None:
        monkeypatch.setattr(os, "link", link)
        async with site.open() as store:
            older, newer = (Run(name, store, tmp_path, keep=1) for name in ("older", "newer"))
            await older.begin()
            assert (older.writer.epoch, older.writer.conditional) == (1, False)
            await older.train(1, 2)
            await newer.begin()
            await newer.train(101, 2)
            with pytest.raises(FencedError):
                await older.train(3, 1)
            (left,) = await manifests_of(store)
            assert epochs.epoch_of(left) == 2
            assert [each.epoch for each in await claims_of(store)] == [1, 2]

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("status", [501, 400])
def test_a_server_that_refuses_conditions_is_asked_without(
    tmp_path: pathlib.Path, servers: dict[str, Server], status: int
) -> None:
    server = servers["rclone"]

    def answer(request: Request) -> bytes | None:
        if request.header("if-none-match"):
            return s3_error(status, "NotImplemented", "A header you provided is not implemented")
        return None

    async def scenario() -> None:
        with fault_proxy(server.port) as proxy:
            proxy.faults.answer = answer
            options = dataclasses.replace(server.options, endpoint=f"http://127.0.0.1:{proxy.port}")
            async with Site("rclone", server.place(), options).open() as store:
                older, newer = (Run(name, store, tmp_path, keep=0) for name in ("older", "newer"))
                await older.begin()
                await older.train(1, 1)
                await newer.begin()
                assert (newer.writer.epoch, newer.writer.conditional) == (2, False)
                with pytest.raises(FencedError):
                    await older.train(2, 1)
                assert list(map(epochs.epoch_of, await manifests_of(store))) == [1]
                others = await listed(store) - {*await manifests_of(store)}
                assert all(map(epochs.is_claim, others))

    asyncio.run(scenario())


# --------------------------------------------------------------------------- what is there already


async def put_old(store: Store, base: pathlib.Path, number: int, step: int) -> str:
    """A checkpoint as versions without epochs have written them."""
    generation = manifest.generation_name(number, 0xABCD0000 + step)
    training.save(base, step, keep=1, size=2000, fixed=False)
    files = []
    for name in sorted(os.listdir(base)):
        path = base / name
        key = f"{generation}/{path.name}"
        with path.open("rb") as file:
            status = path.stat()
            sums = await store.upload(key, file.fileno(), status.st_size, moved=lambda _: None)
        files.append(
            File(path.name, status.st_size, status.st_mtime_ns, status.st_mode & 0o777, key, sums)
        )
    content = manifest.encode(Manifest(generation, float(step), "algo-1", "j", tuple(files)))
    assert b"writer" not in content
    await store.write(manifest_key(generation), content)
    return generation


@pytest.mark.twice
@pytest.mark.parametrize("kind", PLACES)
def test_checkpoints_of_versions_without_epochs_are_gone_on_from(
    site: Site, tmp_path: pathlib.Path
) -> None:
    async def scenario() -> None:
        async with site.open() as store:
            for number in (11, 12):
                last = await put_old(store, tmp_path / "old", number, number)
            run = Run("algo-1", store, tmp_path, keep=2)
            await run.begin()
            assert run.restored.endswith(f"{last}.json")
            assert training.step_of(run.source) == 12
            await run.train(20, 1)
            left = sorted(await manifests_of(store), key=manifest.sequence_of)
            assert [epochs.epoch_of(name) for name in left] == [0, 1], "claims are not counted"
            # Somebody goes back to the old version, which counts on from the highest number.
            number = manifest.next_sequence(left)
            last = await put_old(store, tmp_path / "back", number, 21)
            after = Run("algo-2", store, tmp_path, keep=2)
            await after.begin()
            assert after.restored.endswith(f"{last}.json")
            assert after.writer.epoch == 2

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("kind", ["directory", "rclone"])
def test_lives_that_saved_nothing_cost_nothing(site: Site, tmp_path: pathlib.Path) -> None:
    class Counting:
        def __init__(self, store: Store) -> None:
            self._store = store
            self.reads: list[str] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def read(self, key: str, *, limit: int) -> bytes:
            self.reads.append(key)
            return await self._store.read(key, limit=limit)

    async def scenario() -> None:
        async with site.open() as store:
            first = Run("algo-1", store, tmp_path, keep=0)
            await first.begin()
            assert first.restored == "", "there is nothing but the claim"
            await first.train(1, 1)
            for _ in range(20):
                await claimed(store)
            counting = Counting(store)
            last = Run("algo-2", counting, tmp_path, keep=0)
            await last.begin()
            assert training.step_of(last.source) == 1
            assert last.writer.epoch == 22
            assert len(counting.reads) <= 3
            await last.train(2, 1)
            # Whoever only restores reads no more.
            counting.reads.clear()
            assert await restored_step(counting, tmp_path / "member") == 2
            assert len(counting.reads) <= 2

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("kind", ["directory"])
def test_objects_without_a_manifest_are_restored_beside_a_claim(
    site: Site, tmp_path: pathlib.Path
) -> None:
    async def scenario() -> None:
        async with site.open() as store:
            await store.write("weights.h5", b"w")
            run = Run("algo-1", store, tmp_path, keep=0)
            await run.begin()
            assert run.restored == str(site.location)
            assert (run.source / "weights.h5").read_bytes() == b"w"
            (tmp_path / "later").mkdir()
            request = Restore(site.location, str(tmp_path / "later"))
            done = await restore(store, request, moved=lambda _: None, said=lambda _: None)
            assert done.place == str(site.location)

    asyncio.run(scenario())


# --------------------------------------------------------------------------- names and content


CLAIM = Claim(7, "00c0ffee00c0ffee", "algo-1", "j", 1795981618.9, "000006000012-00000000")


def test_a_claim_is_read_as_it_was_written() -> None:
    assert epochs.decode(epochs.encode(CLAIM)) == CLAIM
    assert str(CLAIM) == "algo-1 of job j, since 2026-11-29 19:46:58 UTC, epoch 7"
    assert str(dataclasses.replace(CLAIM, job="")).startswith("algo-1, since ")


def test_a_version_without_epochs_takes_a_claim_for_no_manifest() -> None:
    with pytest.raises(manifest.ManifestError, match="version 'claim'; version 1 is understood"):
        manifest.decode(epochs.encode(CLAIM))


@pytest.mark.parametrize(
    "content",
    [
        b'{"version":"claim"',
        b'{"version":"claim","epoch":"7"}',
        b'{"version":"claim","epoch":true,"writer":"","host":"","job":"","at":1.0,"after":""}',
        b'{"version":"claim","epoch":7,"writer":"","host":"","job":"","at":1.0,"after":"../x"}',
    ],
)
def test_what_is_no_claim_is_refused(content: bytes) -> None:
    with pytest.raises(manifest.ManifestError):
        epochs.decode(content)


def test_names_stand_in_the_order_of_their_epochs() -> None:
    names = ["000012-abcd0001", epochs.claim_name(2, CLAIM.writer)]
    names += [epochs.chain_name(*each) for each in ((1, 1), (1, 12), (2, 1), (11, 3))]
    names.append(epochs.free_name(2, 2, 0))
    assert names[-1] == "000002000002-00000001", "no name of the chain"
    assert manifest.newest_first(names) == [
        "000011000003-00000000",
        "000002000002-00000001",
        "000002000001-00000000",
        "000002000000-00c0ffee",
        "000001000012-00000000",
        "000001000001-00000000",
        "000012-abcd0001",
    ]
    assert sorted(names[1:]) == manifest.newest_first(names[1:])[::-1]
    assert [epochs.newest_epoch(names), epochs.newest_epoch(())] == [11, 0]
    assert [epochs.last_of_chain(names, each) for each in (0, 1, 2, 3, 11)] == [0, 12, 1, 0, 3]
    assert epochs.last_number(names, 2) == 2
    assert [name for name in names if epochs.is_claim(name)] == ["000002000000-00c0ffee"]


def test_a_run_has_no_more_than_the_numbers_of_an_epoch() -> None:
    store = open_store(Location.parse("/nowhere"), Options())

    async def scenario() -> None:
        async with store as there:
            fence = Fence(there, Writer("00c0ffee00c0ffee", 3, conditional=True), host="a", job="")
            last = epochs.chain_name(3, manifest.PER_EPOCH - 1)
            with pytest.raises(StorageError, match="999999 checkpoints of one run"):
                fence.name([last])

    asyncio.run(scenario())
