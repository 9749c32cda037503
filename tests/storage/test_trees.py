"""Many objects at once, of a directory."""

from __future__ import annotations

import asyncio
import pathlib
from dataclasses import replace

import pytest

from supervisor.storage.job import Options
from supervisor.storage.location import Location
from supervisor.storage.places import open_store
from supervisor.storage.store import Reason, StorageError
from supervisor.storage.trees import Incoming, fetch_files


def silent(_: int) -> None: ...


def test_the_first_failure_ends_a_fetch_and_leaves_no_half_file(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "target"

    async def scenario() -> None:
        async with open_store(Location.parse(str(tmp_path / "store")), Options()) as store:
            for name in ("a", "b", "c"):
                await store.write(name, name.encode())
            entries = [entry async for entry in store.entries()]
            entries[1] = replace(entries[1], etag="another")
            files = [Incoming(entry, f"d/{entry.key}") for entry in entries]
            with pytest.raises(StorageError) as caught:
                await fetch_files(store, files, str(target), moved=silent, at_once=1)
            assert caught.value.reason is Reason.CHANGED

    asyncio.run(scenario())
    assert [path.name for path in target.rglob("*") if path.is_file()] == ["a"]


def test_an_object_that_is_another_ones_folder_is_one_sentence(tmp_path: pathlib.Path) -> None:
    """S3 may have both ``a`` and ``a/b``; a directory cannot."""

    async def scenario() -> None:
        async with open_store(Location.parse(str(tmp_path / "store")), Options()) as store:
            await store.write("x", b"1")
            entry = await store.head("x")
            assert entry is not None
            files = [Incoming(entry, "a"), Incoming(entry, "a/b")]
            with pytest.raises(StorageError) as caught:
                await fetch_files(store, files, str(tmp_path / "target"), moved=silent, at_once=1)
            assert str(tmp_path / "target/a/b") in str(caught.value)

    asyncio.run(scenario())
