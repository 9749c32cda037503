"""The newest checkpoint that is whole comes back, byte by byte, or nothing does."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.life.agreement import Held, Kind
from supervisor.storage import restore as restoring
from supervisor.storage.job import Options, Restore
from supervisor.storage.location import Location
from supervisor.storage.manifest import (
    File,
    Manifest,
    encode,
    generation_name,
    manifest_key,
)
from supervisor.storage.places import open_store
from supervisor.storage.restore import Restored
from supervisor.storage.snapshot import INCOMPLETE
from supervisor.storage.staging import NO_FILES, is_kept
from supervisor.storage.store import Reason, StorageError
from tests.helpers import writer
from tests.helpers.job import environment
from tests.helpers.leaks import no_leaks
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

MTIME_NS = 1_600_000_000_123_456_789


class Shelf:
    """A local target with checkpoints in it, and a directory to restore into."""

    def __init__(self, base: pathlib.Path) -> None:
        self.place = base / "shelf"
        self.target = base / "run" / "checkpoints"
        self.said: list[str] = []
        self.moved = 0

    def put(
        self, sequence: int, files: dict[str, bytes], *, chance: int = 0, at: float = 0.0
    ) -> str:
        """A generation; what its manifest is called."""
        return asyncio.run(self._put(generation_name(sequence, chance), files, at))

    async def _put(self, generation: str, files: dict[str, bytes], at: float) -> str:
        rows = []
        async with open_store(Location.parse(str(self.place)), Options()) as store:
            for path, content in files.items():
                source = self.place.parent / "source"
                source.write_bytes(content)
                key, fd = f"{generation}/{path}", os.open(source, os.O_RDONLY)
                sums = await store.upload(key, fd, len(content), moved=lambda _: None)
                os.close(fd)
                rows.append(File(path, len(content), MTIME_NS, 0o640, key, sums))
            whole = Manifest(generation, at, "algo-1", "job", tuple(rows))
            await store.write(manifest_key(generation), encode(whole))
        return f"file://{self.place}/{manifest_key(generation)}"

    def put_step(self, sequence: int, step: int) -> str:
        """A generation as a writer makes it."""
        made = self.place.parent / f"made-{step}"
        writer.save(made, step, keep=1, size=1000, fixed=False)
        return self.put(sequence, {p.name: p.read_bytes() for p in made.iterdir()})

    def object(self, sequence: int, path: str, chance: int = 0) -> pathlib.Path:
        return self.place / generation_name(sequence, chance) / path

    def restore(self, mode: str = "auto") -> str:
        async def work() -> str:
            location = Location.parse(str(self.place))
            async with open_store(location, Options()) as store:
                request = Restore(location, str(self.target), mode)
                done = await restoring.restore(
                    store, request, moved=self.count, said=self.said.append
                )
            files = sum(path.is_file() for path in self.target.rglob("*")) if done.place else 0
            assert done.files == files
            return done.place

        return asyncio.run(work())

    def count(self, count: int) -> None:
        self.moved += count

    @property
    def content(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.target)): path.read_bytes()
            for path in self.target.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def shelf(tmp_path: pathlib.Path) -> Iterator[Shelf]:
    (tmp_path / "run").mkdir()
    made = Shelf(tmp_path)
    with no_leaks():
        yield made
    assert sorted(path.name for path in made.target.parent.iterdir()) in (
        [],
        ["checkpoints"],
    ), "nothing is left beside the target"


FILES = {"ckpt-1.index": b"index", "deep/er/weights.h5": b"w" * 100_000, "empty": b""}


def test_files_come_back_as_they_were(shelf: Shelf) -> None:
    where = shelf.put(1, FILES)
    assert shelf.restore() == where
    assert shelf.content == FILES
    status = (shelf.target / "deep" / "er" / "weights.h5").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (MTIME_NS, 0o640)
    assert shelf.moved == sum(map(len, FILES.values()))
    assert shelf.said == [f"restored 3 files from {where}"]


def test_nothing_there_touches_nothing(shelf: Shelf) -> None:
    assert shelf.restore() == ""
    assert not shelf.target.exists()
    assert shelf.said == []


def test_the_newest_comes_back(shelf: Shelf) -> None:
    shelf.put(9, {"a": b"nine"})
    newest = shelf.put(10, {"a": b"ten"})
    shelf.put(1, {"a": b"one"})
    assert shelf.restore() == newest
    assert shelf.content == {"a": b"ten"}


def test_of_two_writers_with_the_same_number_the_later_comes_back(shelf: Shelf) -> None:
    later = shelf.put(3, {"a": b"later"}, chance=1, at=200.0)
    shelf.put(3, {"a": b"earlier"}, chance=2, at=100.0)
    assert shelf.restore() == later
    assert shelf.content == {"a": b"later"}


def test_a_missing_object_makes_the_next_older_one_come_back(shelf: Shelf) -> None:
    older = shelf.put_step(1, 5)
    newer = shelf.put_step(2, 6)
    shelf.object(2, "ckpt-6.index").unlink()
    assert shelf.restore() == older
    assert writer.step_of(shelf.target) == 5
    assert shelf.said[0].startswith(f"{newer} cannot be restored: ")
    assert "ckpt-6.index" in shelf.said[0]
    assert shelf.moved == sum(map(len, shelf.content.values())), "what was in vain is taken back"


@pytest.mark.parametrize("damaged", [b"y" * 49_999 + b"z", b"y" * 49_999])
def test_a_damaged_object_makes_the_next_older_one_come_back(shelf: Shelf, damaged: bytes) -> None:
    older = shelf.put(1, {"a": b"x" * 50_000})
    shelf.put(2, {"a": b"y" * 50_000})
    shelf.object(2, "a").write_bytes(damaged)
    assert shelf.restore() == older
    assert shelf.content == {"a": b"x" * 50_000}


def test_a_damaged_manifest_makes_the_next_older_one_come_back(shelf: Shelf) -> None:
    older = shelf.put(1, {"a": b"one"})
    newer = shelf.put(2, {"a": b"two"})
    pathlib.Path(newer.removeprefix("file://")).write_bytes(b'{"version": 1, "fi')
    assert shelf.restore() == older
    assert "no JSON" in shelf.said[0]


def test_if_none_can_be_restored_it_is_an_error_and_nothing_is_touched(shelf: Shelf) -> None:
    """To begin anew in silence would be to lose the work."""
    for sequence in (1, 2):
        shelf.put(sequence, {"a": b"a", "b": b"b"})
        shelf.object(sequence, "b").unlink()
    with pytest.raises(StorageError, match=r"none of 2 checkpoints can be restored .*b") as caught:
        shelf.restore()
    assert caught.value.reason is Reason.CORRUPT
    assert shelf.content == {}


def test_a_directory_that_holds_files_is_believed(shelf: Shelf) -> None:
    shelf.put(1, {"a": b"one"})
    shelf.target.mkdir()
    (shelf.target / "mine").write_bytes(b"mine")
    assert shelf.restore() == ""
    assert shelf.content == {"mine": b"mine"}
    assert shelf.said == [f"{shelf.target} holds files already: nothing is restored"]


@pytest.mark.parametrize(
    "leftover",
    ["", "deep/.supervisor-partial-1", "x_temp/part-00000-of-00001", "w.h5.tmp", "pipe"],
)
def test_a_directory_without_any_file_is_empty(shelf: Shelf, leftover: str) -> None:
    """BackupAndRestore leaves ``backup/workertemp_1`` on every host but the chief: it counted as a
    file, nothing was restored there, and the collectives of the hosts did not match."""
    where = shelf.put(1, {"backup/weights": b"one"})
    (shelf.target / "backup" / "workertemp_1").mkdir(parents=True)
    if leftover == "pipe":
        os.mkfifo(shelf.target / leftover)
    elif leftover:
        (shelf.target / leftover).parent.mkdir(exist_ok=True)
        (shelf.target / leftover).write_bytes(b"half")
    assert shelf.restore() == where
    assert shelf.content == {"backup/weights": b"one"}


@pytest.mark.parametrize("what", ["deep/er/file", "deep/link", "deep/dangling"])
def test_one_file_anywhere_is_something(shelf: Shelf, what: str) -> None:
    shelf.put(1, {"a": b"one"})
    path = shelf.target / what
    path.parent.mkdir(parents=True)
    if what.endswith("file"):
        path.write_bytes(b"")
    else:
        path.symlink_to(".." if what.endswith("link") else "nowhere")
    assert shelf.restore() == ""
    assert os.path.lexists(path)


# --------------------------------------------------------------------------- as all hosts


def exactly(shelf: Shelf, sequence: int, **between: Any) -> Restored:
    """``between``: two attempts, and what the restore before has moved aside."""

    async def work() -> Restored:
        location, target = Location.parse(str(shelf.place)), str(shelf.target)
        async with open_store(location, Options()) as store:
            generation = generation_name(sequence, 0)
            request = Restore(location, target, "exact", generation, **between)
            return await restoring.restore(
                store, request, moved=shelf.count, said=shelf.said.append
            )

    return asyncio.run(work())


def held(shelf: Shelf) -> Held | None:
    """What a host says that finds what is there."""

    async def work() -> Held | None:
        location = Location.parse(str(shelf.place))
        async with open_store(location, Options()) as store:
            request = Restore(location, str(shelf.target), compared=True)
            done = await restoring.restore(store, request, moved=shelf.count, said=lambda _: None)
        return Held.parse(done.holds)

    return asyncio.run(work())


def kept_beside(shelf: Shelf) -> dict[str, bytes]:
    """What was moved aside; it is taken away, as a person would."""
    (aside,) = shelf.target.parent.glob("checkpoints.kept-*")
    found = {str(p.relative_to(aside)): p.read_bytes() for p in aside.rglob("*") if p.is_file()}
    assert shelf.said[-1] == f"what {shelf.target} held beside is in {aside}"
    shutil.rmtree(aside)
    return found


def test_what_a_host_holds_is_told(shelf: Shelf) -> None:
    assert held(shelf) == Held(Kind.NOTHING)
    shelf.put(1, {"a": b"one"})
    newest = generation_name(2, 0)
    shelf.put(2, {"a": b"two", "b": b""})
    assert held(shelf) == Held(Kind.GENERATION, newest), "restored"
    assert held(shelf) == Held(Kind.GENERATION, newest), "found"
    (shelf.target / "c").write_bytes(b"mine")
    mine = held(shelf)
    assert mine is not None
    assert (mine.kind, mine.newest) == (Kind.FILES, newest)
    assert held(shelf) == mine, "the same again"
    os.utime(shelf.target / "c", ns=(1, 1))
    assert held(shelf) != mine, "a file of the same size that was written at another time"
    shutil.rmtree(shelf.place)
    shelf.place.write_bytes(b"not a directory")
    assert (found := held(shelf)) is not None, "what cannot be listed costs nothing"
    assert (found.kind, found.newest) == (Kind.FILES, "")


def test_the_checkpoint_of_all_takes_the_place_of_another_and_nothing_is_lost(
    shelf: Shelf,
) -> None:
    where = shelf.put(3, {"ckpt-3": b"three", "old/ckpt-2": b"two"})
    shelf.put(4, {"ckpt-4": b"of a straggler"})
    (shelf.target / "old").mkdir(parents=True)
    (shelf.target / "old" / "ckpt-2").write_bytes(b"two")
    os.utime(shelf.target / "old" / "ckpt-2", ns=(MTIME_NS, MTIME_NS))
    (shelf.target / "ckpt-9").write_bytes(b"mine")
    (shelf.target / "latest").symlink_to("ckpt-9")
    inode = (shelf.target / "old" / "ckpt-2").stat().st_ino
    done = exactly(shelf, 3)
    assert (done.place, done.files) == (where, 1)
    assert Held.parse(done.holds) == Held(Kind.GENERATION, generation_name(3, 0))
    assert shelf.content == {"ckpt-3": b"three", "old/ckpt-2": b"two"}
    assert (shelf.target / "old" / "ckpt-2").stat().st_ino == inode, "not fetched again"
    assert kept_beside(shelf) == {"ckpt-9": b"mine", "latest": b"mine"}
    assert exactly(shelf, 3).place == "", "it is there"


def test_what_leaves_nothing_beside_leaves_no_directory(shelf: Shelf) -> None:
    shelf.put(1, {"a": b"one"})
    shelf.put(2, {"a": b"one", "b": b"two"})
    shelf.object(2, "b").rename(shelf.place / "b")
    with pytest.raises(StorageError):
        exactly(shelf, 2)
    assert shelf.content == {}
    (shelf.place / "b").rename(shelf.object(2, "b"))
    exactly(shelf, 1)
    exactly(shelf, 2)
    assert shelf.content == {"a": b"one", "b": b"two"}


def test_between_attempts_no_more_than_one_checkpoint_stays_beside(shelf: Shelf) -> None:
    """A job of a hundred attempts would have left a hundred, each as large as a checkpoint."""
    (shelf.target).mkdir()
    (shelf.target / "own").write_bytes(b"from before the job")
    for sequence in (1, 2, 3, 4):
        shelf.put(sequence, {f"ckpt-{sequence}": b"weights"})
    assert exactly(shelf, 1).aside == "", "at the start it is nobody's to remove"
    first = exactly(shelf, 2, again=True)
    again = exactly(shelf, 2, again=True, superseded=first.aside)
    assert again.aside == first.aside, "nothing was moved"
    last = exactly(shelf, 4, again=True, superseded=again.aside)
    beside = {path.name: path for path in shelf.target.parent.glob("checkpoints.kept-*")}
    assert {name for path in beside.values() for name in os.listdir(path)} == {"own", "ckpt-2"}
    assert os.listdir(last.aside) == ["ckpt-2"]
    for path in beside.values():
        shutil.rmtree(path)


@pytest.mark.parametrize("where", ["{0}", "{0}/deep", "{0}.kept", "{0}.kept-1/..", "/tmp", ""])
def test_what_was_not_moved_aside_is_never_removed(shelf: Shelf, where: str) -> None:
    assert not is_kept(where.format(shelf.target), str(shelf.target))


def test_a_checkpoint_of_all_that_is_gone_leaves_all_as_it_is(shelf: Shelf) -> None:
    shelf.put(1, {"a": b"one"})
    shelf.target.mkdir()
    (shelf.target / "mine").write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"manifests/000002-00000000\.json"):
        exactly(shelf, 2)
    assert shelf.content == {"mine": b"mine"}


def test_always_replaces_what_is_there(shelf: Shelf) -> None:
    where = shelf.put(1, {"a": b"one"})
    (shelf.target / "deep").mkdir(parents=True)
    (shelf.target / "deep" / "mine").write_bytes(b"mine")
    assert shelf.restore("always") == where
    assert shelf.content == {"a": b"one"}


def test_always_leaves_all_as_it_is_if_it_fails(shelf: Shelf) -> None:
    shelf.put(1, {"a": b"one"})
    shelf.object(1, "a").unlink()
    shelf.target.mkdir()
    (shelf.target / "mine").write_bytes(b"mine")
    with pytest.raises(StorageError):
        shelf.restore("always")
    assert shelf.content == {"mine": b"mine"}


def test_objects_without_a_manifest_come_back_as_they_are(shelf: Shelf) -> None:
    shelf.object(4, "stray", 7).parent.mkdir(parents=True)
    shelf.object(4, "stray", 7).write_bytes(b"of a generation that was never finished")
    writer.save(shelf.place, 3, keep=1, size=100, fixed=False)
    (shelf.place / "sub").mkdir()
    (shelf.place / "sub" / "x").write_bytes(b"x")
    (shelf.place / "manifests").mkdir()
    (shelf.place / "manifests" / "README").write_bytes(b"no manifest")
    assert shelf.restore() == f"file://{shelf.place}"
    assert writer.step_of(shelf.target) == 3
    assert shelf.content["sub/x"] == b"x"
    assert set(shelf.content) == {
        "checkpoint", "ckpt-3.index", "sub/x",
        "ckpt-3.data-00000-of-00002", "ckpt-3.data-00001-of-00002",
    }  # fmt: skip
    times = {path.stat().st_mtime_ns for path in shelf.target.iterdir() if path.is_file()}
    assert len(times) == 1, "an index that was sent first must not be older than its data"
    assert shelf.said == [f"restored 5 files from file://{shelf.place}, without a manifest"]


# --------------------------------------------------------------------------- a mount point


@pytest.fixture
def mounted(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """A target that cannot be renamed, on a fresh file system."""
    target = str(shelf.target)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == target)
    (shelf.target / "lost+found").mkdir(parents=True)
    return shelf


def names(shelf: Shelf) -> set[str]:
    return {path.name for path in shelf.target.iterdir()} - NO_FILES


def test_into_a_mount_point(mounted: Shelf) -> None:
    inode = mounted.target.stat().st_ino
    assert mounted.restore() == ""
    where = mounted.put_step(1, 5)
    assert mounted.restore() == where
    assert writer.step_of(mounted.target) == 5
    assert mounted.target.stat().st_ino == inode
    assert (mounted.target / "lost+found").exists()
    assert not any(name.startswith(".supervisor-") for name in names(mounted))
    assert mounted.restore() == "", "it holds files now"


def test_what_a_kill_left_in_a_mount_point_is_done_again(mounted: Shelf) -> None:
    where = mounted.put_step(1, 5)
    (mounted.target / INCOMPLETE).touch()
    (mounted.target / "ckpt-4.index").write_bytes(b"moved in already")
    (mounted.target / ".supervisor-staging-0123").mkdir()
    (mounted.target / ".supervisor-staging-0123" / "checkpoint").write_bytes(b"not yet")
    assert mounted.restore() == where
    assert writer.step_of(mounted.target) == 5
    assert names(mounted) == {
        "checkpoint", "ckpt-5.index", "ckpt-5.data-00000-of-00002", "ckpt-5.data-00001-of-00002",
    }  # fmt: skip


def test_a_kill_while_files_are_fetched_into_a_mount_point_leaves_no_doubt(mounted: Shelf) -> None:
    where = mounted.put_step(1, 5)
    (mounted.target / ".supervisor-staging-0123").mkdir()
    (mounted.target / ".supervisor-staging-0123" / "ckpt-9.index").write_bytes(b"half")
    assert mounted.restore() == where
    assert writer.step_of(mounted.target) == 5


@pytest.mark.parametrize("failing", range(1, 12))
def test_a_move_that_breaks_off_anywhere_is_done_again(
    mounted: Shelf, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill would: nothing is cleaned up after it."""
    where = mounted.put_step(1, 5)
    (mounted.target / "mine").write_bytes(b"mine")
    count = 0

    def kill() -> None:
        nonlocal count
        count += 1
        if count == failing:
            raise KeyboardInterrupt

    for name in ("rename", "rmdir", "unlink"):
        real = getattr(os, name)

        def breaking(*args: object, _real: object = real, **kwargs: object) -> object:
            kill()
            return _real(*args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(os, name, breaking)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    try:
        mounted.restore("always")
        broken = False
    except KeyboardInterrupt:
        broken = True
    monkeypatch.undo()
    target = str(mounted.target)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == target)
    if broken and (mounted.target / "mine").exists():
        assert mounted.content["mine"] == b"mine"
        mounted.restore("always")
    elif broken:
        assert mounted.restore() == where
    assert writer.step_of(mounted.target) == 5
    assert "mine" not in names(mounted)
    shutil.rmtree(mounted.target / ".supervisor-aside", ignore_errors=True)


BOUND = """
import asyncio, os, subprocess, sys
from tests.helpers.syncing import restore_now
from tests.helpers import writer
import pathlib
target = pathlib.Path(sys.argv[2])
target.mkdir()
other = target.parent / "volume"
other.mkdir()
subprocess.run(["mount", "--bind", str(other), str(target)], check=True)
print(restore_now(sys.argv[1], target), writer.step_of(target), os.listdir(target.parent))
"""


def test_into_a_directory_that_is_mounted_from_the_same_file_system(shelf: Shelf) -> None:
    """As with volumes of a container engine that lie on one disk."""
    where = shelf.put_step(1, 5)
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-c", BOUND, str(shelf.place), str(shelf.target)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"not permitted here: {done.stderr.strip()}")
    assert done.stdout.startswith(f"{where} 5 "), done.stderr
    shutil.rmtree(shelf.target)
    volume = shelf.target.parent / "volume"
    assert "checkpoint" in {path.name for path in volume.iterdir()}
    shutil.rmtree(volume)


# --------------------------------------------------------------------------- killed

CHILD = """
import asyncio, sys
from supervisor.storage import restore
from supervisor.storage.job import Options, Restore
from supervisor.storage.location import Location
from supervisor.storage.places import open_store

async def main():
    location = Location.parse(sys.argv[1])
    async with open_store(location, Options(bandwidth_bytes_s=4_000_000)) as store:
        print("ready", flush=True)
        request = Restore(location, sys.argv[2])
        await restore.restore(store, request, moved=lambda n: print(n, flush=True), said=print)

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 2, 4])
def test_a_restore_that_is_killed_is_done_again_from_the_start(shelf: Shelf, lines: int) -> None:
    where = shelf.put(1, {f"f{n}": writer.content(n, "f", 300_000) for n in range(6)})
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(shelf.place), str(shelf.target)],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert child.stdout is not None
    for _ in range(lines):
        assert child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert shelf.content == {}
    wait_until(lambda: child.poll() is not None)
    assert shelf.restore() == where
    assert shelf.content == {f"f{n}": writer.content(n, "f", 300_000) for n in range(6)}


def test_a_restore_that_is_cancelled_leaves_nothing(shelf: Shelf) -> None:
    shelf.put(1, {f"f{n}": bytes(300_000) for n in range(6)})

    async def work() -> None:
        location = Location.parse(str(shelf.place))
        async with open_store(location, Options(bandwidth_bytes_s=1_000_000)) as store:
            begun = asyncio.Event()
            task = asyncio.create_task(
                restoring.restore(
                    store,
                    Restore(location, str(shelf.target)),
                    moved=lambda _: begun.set(),
                    said=shelf.said.append,
                )
            )
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(work())
    assert shelf.content == {}


def test_what_a_mount_point_held_is_kept_in_it(mounted: Shelf) -> None:
    mounted.put(1, {"a": b"one", "b": b"two"})
    (mounted.target / "mine").write_bytes(b"mine")
    (mounted.target / "a").write_bytes(b"one")
    os.utime(mounted.target / "a", ns=(MTIME_NS, MTIME_NS))
    exactly(mounted, 1)
    (aside,) = mounted.target.glob(".supervisor-kept-*")
    assert [path.name for path in aside.iterdir()] == ["mine"]
    assert names(mounted) == {"a", "b", aside.name}
    assert held(mounted) == Held(Kind.GENERATION, generation_name(1, 0))
    mounted.put(2, {"a": b"three"})
    exactly(mounted, 2)
    assert (aside / "mine").read_bytes() == b"mine", "not cleared away as a leftover"
