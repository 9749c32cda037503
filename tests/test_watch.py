"""Word that a directory has changed, and what it looks like."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator

import pytest
import watchfiles

from supervisor.storage import watch
from tests.helpers import writer
from tests.helpers.waiting import wait_until_async


@contextlib.asynccontextmanager
async def watching(*roots: pathlib.Path) -> AsyncIterator[list[str]]:
    """The names of the roots, as they are told to have changed."""
    told: list[str] = []

    def telling(name: str) -> None:
        told.append(name)

    def unsaid(directory: str, why: str) -> None:
        raise AssertionError(f"{directory}: {why}")

    callbacks = {str(root): lambda name=root.name: telling(name) for root in roots}
    task = asyncio.create_task(watch.watch(callbacks, unsaid))
    try:
        yield told
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_change_is_told_to_its_own_directory_only(tmp_path: pathlib.Path) -> None:
    async def scenario() -> None:
        for name in ("a", "b", "ab"):
            (tmp_path / name).mkdir()
        async with watching(tmp_path / "a", tmp_path / "b", tmp_path / "ab") as told:
            await wait_until_async(lambda: sorted(told) == ["a", "ab", "b"])  # it has begun
            told.clear()
            (tmp_path / "a" / "deep").mkdir()
            (tmp_path / "a" / "deep" / "file").write_bytes(b"x")
            await wait_until_async(lambda: told)
            assert set(told) == {"a"}

    asyncio.run(scenario())


def test_a_directory_that_comes_goes_and_comes_again_is_told(tmp_path: pathlib.Path) -> None:
    async def scenario() -> None:
        async with watching(tmp_path / "late") as told:
            (tmp_path / "late").mkdir()
            await wait_until_async(lambda: told)
            (tmp_path / "late").rename(tmp_path / "old")
            (tmp_path / "late").mkdir()
            told.clear()
            await wait_until_async(lambda: told)
            await asyncio.sleep(0)
            told.clear()
            (tmp_path / "late" / "file").write_bytes(b"x")
            await wait_until_async(lambda: told)

    asyncio.run(scenario())


def test_without_events_it_is_said_and_scans_remain(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the kernel's limit of watches is reached."""

    def exhausted(*_: object, **__: object) -> AsyncIterator[set[tuple[int, str]]]:
        raise OSError("OS file watch limit reached. about [])")

    monkeypatch.setattr(watchfiles, "awatch", exhausted)
    said: list[tuple[str, str]] = []
    callbacks = {str(tmp_path): lambda: None}
    asyncio.run(
        asyncio.wait_for(watch.watch(callbacks, lambda where, why: said.append((where, why))), 10)
    )
    assert said == [(str(tmp_path), "OS file watch limit reached. about [])")]


def test_a_scan_is_bounded_and_says_so(tmp_path: pathlib.Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"")
    assert len(watch.scan(str(tmp_path), most=5).facts) == 5
    assert not watch.scan(str(tmp_path), most=5).cut
    assert len(watch.scan(str(tmp_path), most=3).facts) == 3
    assert watch.scan(str(tmp_path), most=3).cut


def test_a_scan_of_nothing(tmp_path: pathlib.Path) -> None:
    assert watch.scan(str(tmp_path)).there
    assert not watch.scan(str(tmp_path / "missing")).there
    (tmp_path / "file").write_bytes(b"")
    assert not watch.scan(str(tmp_path / "file")).there


def test_names_that_no_key_can_have_are_left_out(tmp_path: pathlib.Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"\xff"), "wb"):
        pass
    found = watch.scan(str(tmp_path))
    assert found.facts == ()
    assert list(found.skipped.values()) == ["its name is not UTF-8"]


def test_a_file_that_was_replaced_is_not_opened_for_another(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (fact,) = watch.scan(str(tmp_path)).facts
    fd = watch.open_as(str(tmp_path), fact)
    assert fd is not None
    os.close(fd)
    assert watch.still_so(str(tmp_path), [fact]) == ""
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "b").replace(tmp_path / "a")
    assert watch.open_as(str(tmp_path), fact) is None
    assert watch.still_so(str(tmp_path), [fact]) == "a"
    (tmp_path / "a").unlink()
    assert watch.open_as(str(tmp_path), fact) is None
    assert watch.still_so(str(tmp_path), [fact]) == "a"


def test_an_earlier_scan_is_believed_of_files_that_are_as_they_were(tmp_path: pathlib.Path) -> None:
    writer.save(tmp_path, 1, keep=1, size=100, fixed=True)
    first = watch.scan(str(tmp_path))
    assert first.evidence.tables == {"weights.index"}
    assert first.evidence.states["checkpoint"].newest == "weights"
    again = watch.scan(str(tmp_path), first)
    assert again == first
    with open(tmp_path / "weights.index", "ab") as file:
        file.write(b"torn")
    assert watch.scan(str(tmp_path), first).evidence.tables == frozenset()
