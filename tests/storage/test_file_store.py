"""A directory as a store."""

from __future__ import annotations

import asyncio
import os
import pathlib
import resource
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from supervisor.storage.job import Options
from supervisor.storage.location import Location
from supervisor.storage.parts import MOST_PARTS, part_bytes_for, parts
from supervisor.storage.places import open_store
from supervisor.storage.store import Entry, Reason, StorageError, Store, Sums

MIB = 1 << 20
OPTIONS = Options(part_bytes=5 * MIB)


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """Not made yet."""
    return tmp_path / "store" / "deep"


class Moving:
    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, count: int) -> None:
        self.bytes += count


def located(root: pathlib.Path) -> Location:
    return Location.parse(str(root))


def files_below(root: pathlib.Path) -> list[str]:
    return sorted(str(it.relative_to(root)) for it in root.rglob("*") if not it.is_dir())


async def sent(store: Store, key: str, content: bytes, path: pathlib.Path) -> tuple[Entry, Sums]:
    moving = Moving()
    with path.open("w+b") as file:
        file.write(content)
        file.flush()
        sums = await store.upload(key, file.fileno(), len(content), moved=moving)
    assert moving.bytes == len(content)
    entry = await store.head(key)
    assert entry is not None
    return entry, sums


async def fetched(store: Store, entry: Entry, path: pathlib.Path, sums: Sums | None) -> bytes:
    with path.open("w+b") as file:
        await store.download(entry, file.fileno(), sums=sums, moved=Moving())
        return file.read()


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 5 * MIB, 5 * MIB + 1, 11 * MIB])
def test_what_was_written_is_read(root: pathlib.Path, tmp_path: pathlib.Path, size: int) -> None:
    content = os.urandom(size)

    async def scenario() -> None:
        async with open_store(located(root), OPTIONS) as store:
            entry, sums = await sent(store, "a/b c/ü+%#", content, tmp_path / "up")
            assert (entry.size, len(sums.crcs)) == (size, max(1, -(-size // (5 * MIB))))
            for given in (sums, None):
                assert await fetched(store, entry, tmp_path / "down", given) == content

    asyncio.run(scenario())
    assert (root / "a/b c/ü+%#").read_bytes() == content
    assert files_below(root) == ["a/b c/ü+%#"]


def test_keys_come_in_the_order_of_their_bytes(root: pathlib.Path) -> None:
    """As S3 lists them: ``a-b`` before ``a/b``. Links to folders are not gone into."""
    keys = ["a-b", "a/b", "a/c/d", "a0", "b"]

    async def scenario() -> None:
        async with open_store(located(root), OPTIONS) as store:
            assert [entry async for entry in store.entries()] == []
            for key in reversed(keys):
                await store.write(key, key.encode())
            (root / "loop").symlink_to(root)
            assert [entry.key async for entry in store.entries()] == keys
            assert [entry.key async for entry in store.entries("a/")] == ["a/b", "a/c/d"]
            assert [entry.key async for entry in store.entries("a")] == keys[:4]
            assert [entry.key async for entry in store.entries("a/c")] == ["a/c/d"]
            assert await store.read("a/c/d", limit=5) == b"a/c/d"
            await store.delete(["a/c/d", "a/b", "never/there"])
            assert [entry.key async for entry in store.entries()] == ["a-b", "a0", "b"]
            # A folder that is empty is nothing, in a place of keys.
            assert not (root / "a").exists()
            assert await store.head("a") is None

    asyncio.run(scenario())


def test_a_place_may_be_one_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "one.tar").write_bytes(b"abc")

    async def scenario() -> None:
        async with open_store(located(tmp_path / "one.tar"), OPTIONS) as store:
            entry = await store.head("")
            assert entry is not None
            assert entry.size == 3
            assert await store.read("", limit=3) == b"abc"
            assert [it async for it in store.entries()] == []

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/x", "a//x", "./x", "x\0y", "out/x", "file"])
def test_no_key_leads_out(root: pathlib.Path, tmp_path: pathlib.Path, key: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"secret")
    root.mkdir(parents=True)
    (root / "out").symlink_to(outside)
    (root / "file").symlink_to(outside / "x")

    async def scenario() -> None:
        async with open_store(located(root), OPTIONS) as store:
            for work in (
                store.read(key, limit=9),
                store.write(key, b"new"),
                store.delete([key]),
                store.head(key),
            ):
                with pytest.raises(StorageError) as caught:
                    await work
                assert caught.value.reason is Reason.LOCAL

    asyncio.run(scenario())
    assert files_below(tmp_path) == ["outside/x", "store/deep/file"]
    assert (outside / "x").read_bytes() == b"secret"


def test_a_file_appears_whole_or_not_at_all(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The old content stays until the new one is complete, and a failure leaves nothing beside."""

    async def scenario() -> None:
        async with open_store(located(root), OPTIONS) as store:
            await store.write("x", b"old")
            path = tmp_path / "up"
            with path.open("w+b") as file:
                file.truncate(3 * MIB)
                seen = []
                moving = Moving()

                def moved(count: int) -> None:
                    moving(count)
                    seen.append((root / "x").read_bytes())

                with pytest.raises(StorageError) as caught:
                    await store.upload("x", file.fileno(), 4 * MIB, moved=moved)
                assert caught.value.reason is Reason.CHANGED
                assert str(caught.value) == f"write file://{root}/x: the file became shorter"
                assert set(seen) == {b"old"}
                assert moving.bytes == 0

                task: asyncio.Task[Sums]

                def cancel(_: int) -> None:
                    task.cancel()

                task = asyncio.create_task(store.upload("x", file.fileno(), 3 * MIB, moved=cancel))
                with pytest.raises(asyncio.CancelledError):
                    await task

    asyncio.run(scenario())
    assert files_below(root) == ["x"]
    assert (root / "x").read_bytes() == b"old"


def test_changed_and_broken_files_are_told(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    async def scenario() -> None:
        async with open_store(located(root), OPTIONS) as store:
            entry, sums = await sent(store, "x", b"original", tmp_path / "up")
            for wrong, given, reason in (
                (replace(entry, etag="another"), sums, Reason.CHANGED),
                (entry, replace(sums, crcs=(1,)), Reason.CORRUPT),
                (replace(entry, key="y"), sums, Reason.NOT_FOUND),
            ):
                with pytest.raises(StorageError) as caught:
                    await fetched(store, wrong, tmp_path / "down", given)
                assert caught.value.reason is reason

    asyncio.run(scenario())


def test_what_the_killed_left_is_swept(root: pathlib.Path) -> None:
    async def scenario() -> None:
        async with open_store(located(root), OPTIONS) as store:
            await store.write("a/x", b"1")
            left = root / "a" / ".supervisor-partial-0123456789abcdef"
            left.write_bytes(b"half")
            assert [entry.key async for entry in store.entries()] == ["a/x"]
            assert await store.abandon_partial(3600) == 0
            old_s = time.time() - 7200
            os.utime(left, (old_s, old_s))
            assert await store.abandon_partial(3600) == 1

    asyncio.run(scenario())
    assert files_below(root) == ["a/x"]


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_sentence(small_disk: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Where it is written to, and where it is fetched to."""

    async def scenario() -> None:
        async with open_store(located(small_disk), OPTIONS) as store:
            with pytest.raises(StorageError) as caught:
                await sent(store, "x", bytes(3 * MIB), tmp_path / "up")
            assert caught.value.reason is Reason.LOCAL
            assert str(caught.value) == (
                f"write file://{small_disk}/x: No space left on device; "
                "free space or give the job a larger disk"
            )
        async with open_store(located(tmp_path / "plenty"), OPTIONS) as store:
            entry, _ = await sent(store, "x", bytes(3 * MIB), tmp_path / "up")
            with pytest.raises(StorageError) as caught:
                await fetched(store, entry, small_disk / "down", None)
            assert caught.value.reason is Reason.LOCAL
            assert "No space left on device" in str(caught.value)

    asyncio.run(scenario())
    assert files_below(small_disk) == ["down"]


def test_a_limit_on_sizes_is_one_sentence(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    async def scenario() -> None:
        async with open_store(located(root), OPTIONS) as store:
            path = tmp_path / "up"
            with path.open("w+b") as file:
                file.truncate(3 * MIB)
                limits = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
                try:
                    with pytest.raises(StorageError) as caught:
                        await store.upload("x", file.fileno(), 3 * MIB, moved=Moving())
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert caught.value.reason is Reason.LOCAL
            assert "File too large" in str(caught.value)

    asyncio.run(scenario())
    assert files_below(root) == []


def test_a_permission_is_one_sentence(root: pathlib.Path) -> None:
    root.mkdir(parents=True)
    root.chmod(stat.S_IRUSR | stat.S_IXUSR)

    async def scenario() -> None:
        async with open_store(located(root), OPTIONS) as store:
            with pytest.raises(StorageError, match="Permission denied; user"):
                await store.write("x", b"1")

    user = os.geteuid()
    if user == 0:  # root may write anywhere
        os.seteuid(65534)
    try:
        asyncio.run(scenario())
    finally:
        os.seteuid(user)


def test_the_bandwidth_is_shared_by_all_stores(root: pathlib.Path) -> None:
    async def scenario() -> float:
        options = replace(OPTIONS, bandwidth_bytes_s=4 * MIB)
        async with (
            open_store(located(root / "a"), options) as one,
            open_store(located(root / "b"), options) as other,
        ):
            begun = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    store = (one, other)[number % 2]
                    group.create_task(store.write(f"{number}", bytes(MIB)))
            return time.monotonic() - begun

    assert asyncio.run(scenario()) > 0.7


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 80_000 * MIB, 90_000 * MIB, 5 << 40])
def test_parts_cover_a_file_and_are_not_too_many(size: int) -> None:
    part_bytes = part_bytes_for(size, 8 * MIB)
    assert part_bytes % MIB == 0
    count, end = 0, 0
    for part in parts(size, part_bytes):
        assert (part.number, part.offset) == (count, end)
        count, end = count + 1, part.end
    assert end == size
    assert 1 <= count <= MOST_PARTS
