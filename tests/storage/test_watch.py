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


def test_nothing_is_opened_through_a_link_that_took_a_directorys_place(
    tmp_path: pathlib.Path,
) -> None:
    """A child directory was looked at and opened by its path: one that a link to outside replaced
    meanwhile (here with the very same file in it) was read through the link, and sent."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "child").mkdir(parents=True)
    (root / "child" / "a").write_bytes(b"one")
    (fact,) = watch.scan(str(root)).facts
    (root / "child").rename(outside)
    (root / "child").symlink_to(outside)
    assert (root / "child" / "a").stat().st_ino == fact.inode, "by its path it looks the same"
    assert watch.open_as(str(root), fact) is None
    assert watch.still_so(str(root), [fact]) == "child/a"
    found = watch.scan(str(root))
    assert found.facts == ()
    assert found.skipped == {"child": "a link that leads out of the directory"}


def test_a_link_is_opened_as_its_file_while_it_is_that_link(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"one")
    (root / "z").symlink_to("a")
    _, link = sorted(watch.scan(str(root)).facts, key=lambda fact: fact.path)
    assert (link.link, link.hollow) == ("a", "")
    fd = watch.open_as(str(root), link)
    assert fd is not None
    os.close(fd)
    assert watch.still_so(str(root), [link]) == ""
    (root / "z").unlink()
    os.link(root / "a", root / "z")  # the same file, and no link any more
    assert watch.open_as(str(root), link) is None
    assert watch.still_so(str(root), [link]) == "z"
    (root / "z").unlink()
    (root / "b").symlink_to("a")
    (root / "z").symlink_to("b")  # the same file by another way
    assert watch.open_as(str(root), link) is None
    assert watch.still_so(str(root), [link]) == "z"
    (root / "z").unlink()
    (root / "a").rename(tmp_path / "a")
    (root / "z").symlink_to(tmp_path / "a")
    assert watch.open_as(str(root), link) is None
    assert watch.still_so(str(root), [link]) == "z"
