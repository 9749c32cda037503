"""The sync process, from outside: what is at the target is whole at any time, and ends up there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from supervisor.storage.job import Options, Transfer
from supervisor.storage.manifest import Manifest, generation_of_object
from supervisor.storage.notices import Failed, Notice, PublishedAll, Said, State
from supervisor.storage.places import open_store
from supervisor.storage.sender import Beside
from supervisor.storage.sync import sender_for
from tests.helpers import writer
from tests.helpers.faults import fault_proxy
from tests.helpers.job import environment
from tests.helpers.s3 import BUCKET, KEY, SECRET, rclone
from tests.helpers.syncing import (
    COMMAND,
    Syncing,
    checkpoints,
    manifests,
    mirror,
    restore_now,
    result,
    sync_job,
)
from tests.helpers.tree import SCRIPTS
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice


BUNDLE = ("data-00000-of-00002", "data-00001-of-00002", "index")


class Place:
    """A directory that is trained in, and a local target."""

    def __init__(self, base: pathlib.Path) -> None:
        self.base = base
        self.source = base / "source"
        self.target = base / "target"
        self.source.mkdir()

    def save(self, step: int, *, keep: int = 2, fixed: bool = False) -> None:
        writer.save(self.source, step, keep=keep, size=20_000, fixed=fixed)

    def restored_step(self, name: str = "restored") -> int:
        into = self.base / name
        assert restore_now(str(self.target), into)
        return writer.step_of(into)

    @contextlib.contextmanager
    def writing(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, writer.__file__, str(self.source), *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            try:
                yield child
            finally:
                child.kill()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Place:
    return Place(tmp_path)


def check_every_manifest(place: Place) -> list[int]:
    """Restores each into a directory of its own; their steps, oldest first."""
    steps = []
    for number, each in enumerate(reversed(manifests(place.target))):
        into = place.base / f"each-{number}"
        into.mkdir()
        for file in each.files:
            content = (place.target / file.key).read_bytes()
            assert len(content) == file.size
            (into / file.path).parent.mkdir(parents=True, exist_ok=True)
            (into / file.path).write_bytes(content)
        steps.append(writer.step_of(into))
    return steps


# --------------------------------------------------------------------------- while training


def test_a_checkpoint_is_sent_and_restored(place: Place) -> None:
    with Syncing(sync_job(checkpoints(place.source, str(place.target)))) as sync:
        place.save(1)
        sync.wait_for(sync.is_idle)
        row = sync.standing("checkpoints")
        (newest,) = manifests(place.target)
        assert row is not None
        assert row.newest == f"file://{place.target}/manifests/{newest.generation}.json"
        assert (row.lag_s, row.error, row.sent_files) == (0.0, "", 4)
        assert (newest.host, newest.job) == ("algo-1", "j")
        assert newest.files[0].mtime_ns == (place.source / "checkpoint").stat().st_mtime_ns
        assert sync.publish() == PublishedAll(())
        assert sync.errors == b""
    assert place.restored_step() == 1


def test_what_has_not_changed_is_not_sent_again_not_even_by_the_next_attempt(place: Place) -> None:
    job = sync_job(checkpoints(place.source, str(place.target)))
    with Syncing(job) as sync:
        place.save(1)
        sync.wait_for(sync.is_idle)
        place.save(2)
        sync.wait_for(lambda: sync.is_idle() and len(manifests(place.target)) >= 2)
        sync.kill()
    first = manifests(place.target)[0]
    again = place.base / "again"
    restore_now(str(place.target), again)
    job = sync_job(checkpoints(again, str(place.target)))
    with Syncing(job) as sync:
        writer.save(again, 3, keep=3, size=20_000, fixed=False)
        sync.wait_for(sync.is_idle)
        assert sync.publish() == PublishedAll(())
    second = manifests(place.target)[0]
    keys = {file.path: file.key for file in second.files}
    before = {file.path: file.key for file in first.files}
    assert {path for path in keys if keys[path] == before.get(path)} == {
        path for path in before if path.startswith("ckpt-")
    }
    assert second.generation > first.generation
    assert check_every_manifest(place)[-1] == 3


def test_nothing_new_makes_no_checkpoint_and_a_removal_makes_none(place: Place) -> None:
    place.save(1)
    with Syncing(sync_job(checkpoints(place.source, str(place.target)))) as sync:
        sync.wait_for(sync.is_idle)
        for path in list(place.source.iterdir()):
            path.unlink()
        assert sync.publish() == PublishedAll(())
        assert sync.saved() == 1
    with Syncing(sync_job(checkpoints(place.source, str(place.target)))) as sync:
        assert sync.publish() == PublishedAll(())
    assert len(manifests(place.target)) == 1
    assert place.restored_step() == 1


@pytest.mark.parametrize("fixed", [False, True], ids=["a manager", "one file name"])
def test_every_manifest_of_a_busy_writer_is_a_state_that_it_had(place: Place, fixed: bool) -> None:
    """max_to_keep=1: what is being sent is removed meanwhile, all the time."""
    options = Options(bandwidth_bytes_s=2_000_000)
    job = sync_job(checkpoints(place.source, str(place.target)), options=options, rescan_s=0.5)
    arguments = ["--pause-s", "0.03", "--keep", "1", "--bytes", "30000", *["--fixed"] * fixed]
    with Syncing(job) as sync, place.writing(*arguments) as child:
        sync.wait_for(lambda: sync.saved() >= 5)
        child.kill()
        child.wait()
        assert sync.publish() == PublishedAll(())
    steps = check_every_manifest(place)
    assert len(steps) >= 5
    assert steps == sorted(steps)
    assert place.restored_step() == steps[-1]


def test_a_file_written_in_place_is_sent_when_it_is_whole(place: Place) -> None:
    """An HDF5 file whose writer pauses in the middle for longer than the settle time."""
    whole = b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0" + bytes(24) + (90_000).to_bytes(8, "little")
    whole += writer.content(1, "h5", 90_000 - len(whole))
    path = place.source / "model.weights.h5"
    with Syncing(sync_job(checkpoints(place.source, str(place.target)))) as sync:
        for step in range(2):
            body = whole[:-1] + bytes([step])
            with open(path, "wb", buffering=0) as file:
                file.write(body[:40_000])
                time.sleep(0.9)  # the writer's pause, which the process is not to take for the end
                file.write(body[40_000:])
            sync.wait_for(lambda: sync.is_idle() and sync.saved() == step + 1)  # noqa: B023
        assert sync.publish() == PublishedAll(())
    contents = [(place.target / each.files[0].key).read_bytes() for each in manifests(place.target)]
    assert contents == [whole[:-1] + b"\1", whole[:-1] + b"\0"]


def test_only_the_newest_checkpoints_are_kept_where_that_is_asked_for(place: Place) -> None:
    target = checkpoints(place.source, str(place.target), keep=2)
    (place.target / "000000-12345678").mkdir(parents=True)
    (place.target / "000000-12345678" / "stray").write_bytes(b"of a life that was killed")
    (place.target / "mine.txt").write_bytes(b"somebody else's")
    with Syncing(sync_job(target)) as sync:
        for step in range(1, 6):
            place.save(step, keep=3)
            sync.wait_for(lambda: sync.is_idle() and sync.saved() >= step)  # noqa: B023
        assert sync.publish() == PublishedAll(())
    kept = manifests(place.target)
    assert len(kept) == 2
    used = {file.key for each in kept for file in each.files}
    oldest = min(each.generation for each in kept)
    objects = {
        str(path.relative_to(place.target)) for path in place.target.rglob("*") if path.is_file()
    }
    rest = {key for key in objects if (name := generation_of_object(key)) and name < oldest}
    assert rest <= used
    assert "mine.txt" in objects
    assert "000000-12345678/stray" not in objects
    check_every_manifest(place)


def test_an_events_file_beside_is_sent_when_it_rests(place: Place) -> None:
    events = place.source / "train" / "events.out.tfevents.1"
    events.parent.mkdir()
    with Syncing(sync_job(checkpoints(place.source, str(place.target)))) as sync:
        for step in range(1, 4):
            with open(events, "ab") as file:
                file.write(writer.content(step, "event", 1000))
            place.save(step)
            sync.wait_for(lambda: sync.is_idle() and sync.saved() >= step)  # noqa: B023
        assert sync.publish() == PublishedAll(())
    (into := place.base / "restored").mkdir()
    restore_now(str(place.target), into, "always")
    assert (into / "train" / events.name).read_bytes() == events.read_bytes()


def test_what_is_no_file_is_left_out_and_named_once(place: Place) -> None:
    place.save(1)
    outside = place.base / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    os.mkfifo(place.source / "pipe")
    (place.source / "way_out").symlink_to(outside)
    (place.source / "file_out").symlink_to(outside / "secret")
    (place.source / "inside").symlink_to("checkpoint")
    (place.source / "dangling").symlink_to("nowhere")
    with Syncing(sync_job(checkpoints(place.source, str(place.target)), rescan_s=0.2)) as sync:
        sync.wait_for(sync.is_idle)
        place.save(2)
        sync.wait_for(lambda: sync.saved() >= 2)
        assert sync.publish() == PublishedAll(())
        named = [(row["path"], row["why"]) for row in sync.said("transfer.left_out")]
    assert sorted(named) == [
        ("file_out", "a link that leads out of the directory"),
        ("pipe", "no regular file"),
        ("way_out", "a link that leads out of the directory"),
    ]
    dangling = [row["path"] for row in sync.said("transfer.dangling")]
    assert dangling == ["dangling"], "kept, but a link that leads nowhere is said"
    newest = manifests(place.target)[0]
    links = {link.path: link.target for link in newest.links}
    assert links == {"inside": "checkpoint", "dangling": "nowhere"}
    paths = {file.path for file in newest.files}
    assert not paths & {"pipe", "way_out", "file_out", "way_out/secret", "dangling", "inside"}


def test_links_that_stay_inside_are_made_again(place: Place) -> None:
    """``latest -> step-100`` was named and left out: a script that resumed did not find it. Links
    to files were sent as second copies of them."""
    (place.source / "step-100" / "deep").mkdir(parents=True)
    (place.source / "step-100" / "deep" / "w").write_bytes(b"weights")
    made = {
        "latest": "step-100",
        "newest": "latest",
        "best.w": "step-100/deep/w",
        "step-100/deep/up": "../..",
        "step-100/twin": "deep/w",
        "loop": "loop",
        "nowhere": "step-200/w",
    }
    for path, target in made.items():
        (place.source / path).symlink_to(target)
    (place.source / "absolute").symlink_to(place.source / "latest")
    (place.source / "roundabout").symlink_to("latest/deep/../deep/w")
    expected = made | {"absolute": "latest", "roundabout": "step-100/deep/w"}
    with Syncing(sync_job(checkpoints(place.source, str(place.target)), rescan_s=0.2)) as sync:
        sync.wait_for(lambda: sync.saved() == 1)
        (place.source / "latest").unlink()
        (place.source / "latest").symlink_to("step-300")
        sync.wait_for(lambda: sync.saved() == 2, what="a link that leads elsewhere is a change")
        assert sync.publish() == PublishedAll(())
        assert not sync.said("transfer.left_out")
    into = place.base / "restored"
    assert restore_now(str(place.target), into)
    links = {
        str(path.relative_to(into)): os.readlink(path)
        for path in into.rglob("*")
        if path.is_symlink()
    }
    assert links == expected | {"latest": "step-300", "roundabout": "step-300/deep/w"}
    assert (into / "best.w").read_bytes() == b"weights"
    assert (into / "step-100" / "deep" / "w").is_file()
    older = manifests(place.target)[1]
    assert {link.path: link.target for link in older.links} == expected
    assert [file.path for file in older.files] == ["step-100/deep/w"]


def test_a_file_becomes_a_link_and_a_link_a_file(place: Place) -> None:
    (place.source / "a").write_bytes(b"a")
    (place.source / "b").write_bytes(b"b")
    (place.source / "c").symlink_to("a")
    with Syncing(sync_job(checkpoints(place.source, str(place.target)), rescan_s=0.2)) as sync:
        sync.wait_for(lambda: sync.saved() == 1)
        (place.source / "b").unlink()
        (place.source / "b").symlink_to("a")
        (place.source / "c").unlink()
        (place.source / "c").write_bytes(b"c")
        assert sync.publish() == PublishedAll(())
    newest = manifests(place.target)[0]
    assert [file.path for file in newest.files] == ["a", "c"]
    assert [(link.path, link.target) for link in newest.links] == [("b", "a")]


def test_the_next_attempt_makes_no_checkpoint_for_links_that_are_the_same(place: Place) -> None:
    place.save(1)
    (place.source / "latest").symlink_to("checkpoint")
    for _ in range(2):
        with Syncing(sync_job(checkpoints(place.source, str(place.target)))) as sync:
            sync.wait_for(lambda: manifests(place.target))
            assert sync.publish() == PublishedAll(())
    assert len(manifests(place.target)) == 1


def test_a_mirror_follows_links_to_files_and_names_the_others(place: Place) -> None:
    (place.source / "a").mkdir()
    (place.source / "a" / "file").write_bytes(b"content")
    (place.source / "twin").symlink_to("a/file")
    (place.source / "folder").symlink_to("a")
    (place.source / "dangling").symlink_to("nowhere")
    with Syncing(sync_job(mirror(place.source, str(place.target)))) as sync:
        assert sync.publish() == PublishedAll(())
        named = {row["path"]: row["why"] for row in sync.said("transfer.left_out")}
    assert named == {"folder": "a link to a directory", "dangling": "a link to nothing"}
    assert files_of(place.target) == {"a/file": b"content", "twin": b"content"}


@pytest.mark.parametrize("kind", [checkpoints, mirror, result])
def test_a_directory_that_becomes_a_link_to_outside_is_not_sent(
    place: Place, kind: Callable[..., Transfer]
) -> None:
    """What lies outside is nobody's checkpoint. A directory that a link replaced between our look
    at its parent and our look at itself was read through that link."""
    (place.source / "kept").write_bytes(b"kept")
    outside = place.base / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (place.source / "child").mkdir()
    (place.source / "child" / "mine").write_bytes(b"mine")
    with Syncing(sync_job(kind(place.source, str(place.target)), rescan_s=0.2)) as sync:
        if kind is not result:
            sync.wait_for(lambda: any(b"mine" in each for each in files_of(place.target).values()))
        shutil.rmtree(place.source / "child")
        (place.source / "child").symlink_to(outside)
        (place.source / "more").write_bytes(b"more")
        assert sync.publish() == PublishedAll(())
        (row,) = sync.said("transfer.left_out")
    assert row["path"] == "child"
    assert row["why"] == "a link that leads out of the directory"
    assert b"secret" not in files_of(place.target).values()
    assert b"more" in files_of(place.target).values()


def test_a_directory_may_come_later_and_be_replaced(place: Place) -> None:
    place.source.rmdir()
    with Syncing(sync_job(checkpoints(place.source, str(place.target)), rescan_s=60.0)) as sync:
        sync.wait_for(lambda: sync.standing("checkpoints"))
        place.save(1)
        sync.wait_for(lambda: sync.is_idle() and sync.saved() == 1)
        place.source.rename(place.base / "old")
        place.save(2)
        sync.wait_for(lambda: sync.saved() >= 2)
        sync.wait_for(sync.is_idle)
        place.save(3)
        sync.wait_for(lambda: sync.saved() >= 3)
        assert sync.publish() == PublishedAll(())
    assert place.restored_step() == 3


# --------------------------------------------------------------------------- mirrors


def files_of(directory: pathlib.Path) -> dict[str, bytes]:
    """Partial files too, but for one that gets its name while we look."""
    found = {}
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            found[str(path.relative_to(directory))] = path.read_bytes()
    return found


def test_a_mirror_has_every_file_under_its_own_name(place: Place) -> None:
    with Syncing(sync_job(mirror(place.source, str(place.target)))) as sync:
        (place.source / "a" / "b").mkdir(parents=True)
        for number in range(300):
            (place.source / "a" / f"{number}").write_bytes(b"%d" % number)
        (place.source / "a" / "b" / "c").write_bytes(b"first")
        sync.wait_for(lambda: files_of(place.target) == files_of(place.source))
        (place.source / "a" / "b" / "c").write_bytes(b"second")
        sync.wait_for(lambda: (place.target / "a" / "b" / "c").read_bytes() == b"second")
        (place.source / "a" / "7").unlink()
        (place.source / "late").write_bytes(b"late")
        assert sync.publish() == PublishedAll(())
        row = sync.standing("intermediate")
        assert row is not None
        assert (row.sent_files, row.pending_files) == (303, 0)
    assert files_of(place.target) == files_of(place.source) | {"a/7": b"7"}


def test_what_was_fetched_from_the_place_is_not_sent_back_to_it(place: Place) -> None:
    place.target.mkdir()
    for name in ("fetched", "changed"):
        (place.target / name).write_bytes(b"object")
        (place.source / name).write_bytes(b"object")
        status = (place.target / name).stat()
        fetched_ns = round(status.st_mtime * 1e6) * 1000
        os.utime(place.source / name, ns=(fetched_ns, fetched_ns))
    (place.source / "changed").write_bytes(b"OBJECT")
    inode = (place.target / "fetched").stat().st_ino
    with Syncing(sync_job(mirror(place.source, str(place.target)))) as sync:
        sync.wait_for(lambda: sync.is_idle("intermediate"))
        assert sync.publish() == PublishedAll(())
        row = sync.standing("intermediate")
    assert row is not None
    assert row.sent_files == 1
    assert (place.target / "changed").read_bytes() == b"OBJECT"
    assert (place.target / "fetched").stat().st_ino == inode


def test_a_file_that_is_rewritten_while_it_is_sent_is_never_torn(place: Place) -> None:
    """Its size stays, its content changes in place: the object is of one time or not there."""
    size = 3_000_000
    path, there = place.source / "weights.bin", place.target / "weights.bin"
    path.write_bytes(b"a" * size)
    options = Options(bandwidth_bytes_s=2_000_000)
    with Syncing(sync_job(mirror(place.source, str(place.target)), options=options)) as sync:
        sync.wait_for(lambda: (row := sync.standing("intermediate")) and row.sent_bytes)
        with open(path, "r+b", buffering=0) as file:
            file.write(b"b" * size)

        def arrived() -> bool:
            if not there.exists():
                return False
            letters = set(there.read_bytes())
            assert len(letters) == 1
            return letters == {ord("b")}

        sync.wait_for(arrived)
        assert sync.publish() == PublishedAll(())


def test_a_log_that_grows_all_the_time_is_seen_as_it_grows(place: Place) -> None:
    log = place.source / "worker.log"
    stop = threading.Event()

    def write() -> None:
        with open(log, "ab", buffering=0) as file:
            number = 0
            while not stop.wait(0.02):
                file.write(b"line %06d\n" % number)
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        logs = mirror(place.source, str(place.target), grows=True)
        with Syncing(sync_job(logs, settle_s=2.0, rescan_s=0.3)) as sync:
            there = place.target / "worker.log"
            sizes: set[int] = set()

            def grew() -> bool:
                if there.exists():
                    content = there.read_bytes()
                    assert log.read_bytes().startswith(content)
                    sizes.add(len(content))
                return len(sizes) >= 3

            sync.wait_for(grew)
            stop.set()
            thread.join()
            assert sync.publish() == PublishedAll(())
    finally:
        stop.set()
        thread.join()
    assert there.read_bytes() == log.read_bytes()


def test_results_are_sent_when_the_job_left_some_and_only_then(place: Place) -> None:
    (place.source / "model.h5").write_bytes(b"model")
    job = sync_job(result(place.source, str(place.target)))
    with Syncing(job) as sync:
        assert sync.publish(results=False) == PublishedAll(())
    assert not place.target.exists()
    with Syncing(job) as sync:
        assert sync.publish(results=True) == PublishedAll(())
    assert files_of(place.target) == {"model.h5": b"model"}


# --------------------------------------------------------------------------- the end


def test_at_the_end_nothing_needs_to_settle(place: Place) -> None:
    job = sync_job(checkpoints(place.source, str(place.target)), settle_s=30.0)
    with Syncing(job) as sync:
        (place.source / "weights.h5").write_bytes(b"just now")
        began = time.monotonic()
        assert sync.publish() == PublishedAll(())
        assert time.monotonic() - began < 10.0
    assert [file.path for file in manifests(place.target)[0].files] == ["weights.h5"]


@pytest.mark.parametrize("kind", ["checkpoints", "mirror"])
def test_what_is_on_its_way_when_the_end_comes_arrives(place: Place, kind: str) -> None:
    """The order comes at any time in the middle of many files, some of which are through."""
    for number in range(400):
        (place.source / f"{number}").write_bytes(b"%d" % number * 500)
    make = checkpoints if kind == "checkpoints" else mirror
    options = Options(bandwidth_bytes_s=600_000)
    job = sync_job(make(place.source, str(place.target)), options=options, settle_s=0.1)
    with Syncing(job) as sync:
        sync.wait_for(lambda: len(list(place.target.rglob("*"))) > 20)
        assert sync.publish(60.0) == PublishedAll(())
        (row,) = sync.heard(State)[-1].transfers
        assert row.sent_files == 400, "none was sent twice"
    if kind == "mirror":
        assert files_of(place.target) == files_of(place.source)
    else:
        (whole,) = manifests(place.target)
        found = {file.path: (place.target / file.key).read_bytes() for file in whole.files}
        assert found == files_of(place.source)


def test_what_does_not_make_it_is_named_and_the_first_comes_first(place: Place) -> None:
    """1 MB at 400 kB/s in two seconds: the checkpoint is through, the model is not."""
    model = place.base / "model"
    model.mkdir()
    for number in range(20):
        (model / f"shard-{number:02d}").write_bytes(bytes(75_000))
    (place.source / "weights.h5").write_bytes(bytes(200_000))
    job = sync_job(
        checkpoints(place.source, str(place.target)),
        result(model, str(place.base / "results")),
        options=Options(bandwidth_bytes_s=400_000),
    )
    with Syncing(job) as sync:
        outcome = sync.publish(3.0)
    (left,) = outcome.unsent
    sent = files_of(place.base / "results")
    missing = {f"shard-{n:02d}" for n in range(20)} - set(sent)
    assert left.transfer == "model"
    assert missing
    # One that takes its place just as the time runs out is named too, though it is there.
    assert missing <= set(left.names)
    assert len(set(left.names) & set(sent)) <= len(sent) // 2
    assert left.names == tuple(sorted(left.names))
    assert (left.files, left.bytes) == (len(left.names), len(left.names) * 75_000)
    assert left.reason == "out of time"
    assert all(content == bytes(75_000) for content in sent.values())
    assert len(manifests(place.target)) == 1
    assert not [p for p in place.base.rglob("*") if "partial" in p.name], "nothing torn is left"


def test_a_transfer_that_fails_does_not_keep_the_others_from_being_published(place: Place) -> None:
    (place.base / "no_directory").write_bytes(b"")
    model = place.base / "model"
    model.mkdir()
    (model / "m").write_bytes(b"m")
    place.save(1)
    job = sync_job(
        checkpoints(place.source, str(place.base / "no_directory")),
        result(model, str(place.target)),
    )
    with Syncing(job) as sync:
        outcome = sync.publish(3.0)
    (left,) = outcome.unsent
    assert (left.transfer, left.files) == ("checkpoints", 4)
    assert "no_directory" in left.reason
    assert files_of(place.target) == {"m": b"m"}


def test_a_second_order_shortens_the_time(place: Place) -> None:
    (place.source / "weights.h5").write_bytes(bytes(6_000_000))
    options = Options(bandwidth_bytes_s=1_000_000)
    job = sync_job(checkpoints(place.source, str(place.target)), options=options)
    with Syncing(job) as sync:
        sync.order(60.0)
        sync.wait_for(lambda: (row := sync.standing("checkpoints")) and row.sent_bytes)
        began = time.monotonic()
        outcome = sync.publish(0.5)
        assert time.monotonic() - began < 8.0
    assert [left.names for left in outcome.unsent] == [("weights.h5",)]
    assert manifests(place.target) == []


@pytest.mark.parametrize("how", ["SIGTERM", "end of stdin"])
def test_it_ends_at_once_and_leaves_nothing_torn(place: Place, how: str) -> None:
    (place.source / "weights.h5").write_bytes(bytes(6_000_000))
    options = Options(bandwidth_bytes_s=1_000_000)
    job = sync_job(checkpoints(place.source, str(place.target)), options=options)
    with Syncing(job) as sync:
        sync.wait_for(lambda: (row := sync.standing("checkpoints")) and row.sent_bytes)
        began = time.monotonic()
        if how == "SIGTERM":
            sync.process.send_signal(signal.SIGTERM)
            assert sync.process.wait(10) == 128 + signal.SIGTERM
        else:
            assert sync.process.stdin is not None
            sync.process.stdin.close()
            assert sync.process.wait(10) == 1
        assert time.monotonic() - began < 5.0
        assert sync.heard(PublishedAll) == []
        assert sync.errors == b""
    assert not [key for key in files_of(place.target) if not key.startswith("manifests/")]
    assert manifests(place.target) == []


def test_a_stop_while_publishing_says_what_is_left(place: Place) -> None:
    (place.source / "weights.h5").write_bytes(bytes(6_000_000))
    options = Options(bandwidth_bytes_s=1_000_000)
    job = sync_job(checkpoints(place.source, str(place.target)), options=options)
    with Syncing(job) as sync:
        sync.order(60.0)
        sync.wait_for(lambda: (row := sync.standing("checkpoints")) and row.sent_bytes)
        before = sync.standing("checkpoints")
        assert before is not None
        # A platform that signals every process is not whoever may end it.
        for signum in ("TERM", "USR1", "INT", "HUP"):
            subprocess.run(["sh", "-c", f"kill -{signum} {sync.process.pid}"], check=True)
        sync.wait_for(
            lambda: (row := sync.standing("checkpoints")) and row.sent_bytes > before.sent_bytes
        )
        sync.process.send_signal(signal.SIGTERM)
        sync.wait_for(lambda: sync.heard(PublishedAll))
        assert sync.process.wait(10) == 128 + signal.SIGTERM
        (outcome,) = sync.heard(PublishedAll)
    assert [left.names for left in outcome.unsent] == [("weights.h5",)]


def test_it_does_not_outlive_its_parent(place: Place) -> None:
    script = (
        "import subprocess, sys, os\n"
        f"p = subprocess.Popen({list(COMMAND)!r}, stdin=subprocess.PIPE)\n"
        "print(p.pid, flush=True); sys.stdin.read()\n"
    )
    job = sync_job(checkpoints(place.source, str(place.target)))
    from supervisor.storage import job as jobs

    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(**{jobs.VARIABLE: jobs.encode(job)}),
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert b"State" in parent.stdout.readline()
        parent.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}") or "Z" in _state(pid))


def _state(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_a_job_that_cannot_be_read_is_one_line() -> None:
    done = subprocess.run(
        COMMAND,
        env=environment(SUPERVISOR_STORAGE_JOB="{"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("SUPERVISOR_STORAGE_JOB: no job that can be read: ")
    assert done.stderr.count("\n") == 1


def test_a_parent_that_does_not_listen_stops_nothing(place: Place) -> None:
    """Its pipe is full; the notices are bounded, the transfers go on, and it ends when told."""
    from supervisor.storage import job as jobs

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 4096)
    os.set_blocking(write_end, True)
    job = sync_job(checkpoints(place.source, str(place.target)))
    with subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=write_end,
        env=environment(**{jobs.VARIABLE: jobs.encode(job)}),
    ) as child:
        os.close(write_end)
        for step in range(1, 4):
            place.save(step)
            wait_until(lambda: len(manifests(place.target)) >= step, 20)  # noqa: B023
        child.terminate()
        assert child.wait(10) == 128 + signal.SIGTERM
    os.close(read_end)


# --------------------------------------------------------------------------- what goes wrong


def test_a_failure_is_said_and_made_good_later(place: Place) -> None:
    """The server fails whatever it is asked, then it does not."""
    with rclone(place.base) as server, fault_proxy(server.port) as proxy:
        target = str(server.place())
        proxy.faults.internal = 1.0
        options = replace(server.options, endpoint=proxy.url, retry_s=0.5)
        job = sync_job(checkpoints(place.source, target), options=options, lag_warn_s=0.5)
        with Syncing(job) as sync:
            place.save(1)
            sync.wait_for(lambda: sync.said("transfer.failing"))
            sync.wait_for(lambda: sync.said("transfer.lags"))
            row = sync.wait_for(
                lambda: (row := sync.standing("checkpoints")) and row.error and row.pending_files
            )
            assert row == 4
            assert BUCKET in str(sync.said("transfer.failing")[0]["error"])
            proxy.faults.internal = 0.0
            sync.wait_for(lambda: sync.said("transfer.recovered"), 60)
            sync.wait_for(lambda: sync.said("transfer.caught_up"))
            assert len(sync.said("transfer.failing")) == 1
            assert len(sync.said("transfer.lags")) == 1
            assert sync.publish() == PublishedAll(())
        assert restore_now(target, place.base / "restored", options=server.options)
    assert writer.step_of(place.base / "restored") == 1


def test_what_somebody_has_to_mend_is_said_to_have_failed_once(place: Place) -> None:
    with rclone(place.base) as server:
        options = replace(server.options, retry_s=0.5)
        job = sync_job(checkpoints(place.source, "s3://no-such-bucket/c"), options=options)
        with Syncing(job) as sync:
            place.save(1)
            sync.wait_for(lambda: sync.heard(Failed))
            outcome = sync.publish(5.0)
            failures = sync.heard(Failed)
    assert [failure.transfer for failure in failures] == ["checkpoints"]
    assert "no-such-bucket" in failures[0].message
    assert [(left.transfer, left.files) for left in outcome.unsent] == [("checkpoints", 4)]
    assert "no-such-bucket" in outcome.unsent[0].reason


def test_a_file_that_may_not_be_read_is_left_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal is not the kernel's here."""
    place.save(1)
    (place.source / "locked").write_bytes(b"x")
    really_open = os.open

    def refusing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return really_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    told: list[Notice] = []

    async def scenario() -> None:
        transfer = checkpoints(place.source, str(place.target))
        job = sync_job(transfer)
        async with open_store(transfer.target, job.options) as store:
            beside = Beside(asyncio.Semaphore(4), told.append, lambda: None)
            await sender_for(transfer, job, store, beside).finish()

    asyncio.run(scenario())
    left_out = next(dict(each.fields) for each in told if isinstance(each, Said))
    assert (left_out["path"], left_out["why"]) == ("locked", "Permission denied")
    assert place.restored_step() == 1


def test_of_two_that_write_at_once_the_older_is_refused(place: Place) -> None:
    """It was given up but lives; both keep only two, and neither breaks what the other made."""
    other = place.base / "other"
    jobs = [
        sync_job(checkpoints(source, str(place.target), keep=2)) for source in (place.source, other)
    ]
    with Syncing(jobs[0]) as old:
        place.save(1)
        old.wait_for(old.is_idle)
        with Syncing(jobs[1]) as new:
            writer.save(other, 101, keep=2, size=20_000, fixed=False)
            new.wait_for(new.saved)
            place.save(2)
            (failed,) = old.wait_for(lambda: old.heard(Failed))
            assert failed.fenced
            for step in range(102, 105):
                writer.save(other, step, keep=2, size=20_000, fixed=False)
                new.wait_for(lambda: new.saved() >= step - 100)  # noqa: B023
            (left,) = old.publish().unsent
            assert left.reason == failed.message
            assert left.names == ("checkpoint", *(f"ckpt-2.{each}" for each in BUNDLE))
            assert new.publish() == PublishedAll(())
            assert old.heard(Failed) == [failed], "it is said once"
            assert not new.said("checkpoint.shared")
    assert check_every_manifest(place) == [103, 104]
    assert place.restored_step() == 104


# --------------------------------------------------------------------------- killed

KILLS = 8


def kill_and_restore(
    place: Place, target: str, kills: int, *, options: Options, seed: int
) -> list[int]:
    """Kill the process at random points beside a busy writer, and restore after each kill.

    What comes back is of the newest manifest, and no older than what had been said to be saved.
    Half of them are killed after they had saved something, half at any time from their start.
    """
    chance = random.Random(seed)
    job = sync_job(checkpoints(place.source, target, keep=3), options=options, rescan_s=0.5)
    steps: list[int] = []
    said: list[str] = []
    with place.writing("--pause-s", "0.03", "--keep", "2", "--bytes", "60000"):
        for number in range(kills):
            with Syncing(job) as sync:
                if number % 2 == 0:
                    sync.wait_for(sync.saved)
                time.sleep(chance.random() * 1.0)  # the point itself is what is random
                sync.kill()
                said += [str(row["manifest"]) for row in sync.said("checkpoint.saved")]
            into = place.base / f"kill-{number}"
            where = restore_now(target, into, options=options)
            assert where >= said[-1]
            steps.append(writer.step_of(into))
    assert steps == sorted(steps)
    return steps


@pytest.mark.twice
def test_killed_at_any_point_the_newest_whole_checkpoint_comes_back(place: Place) -> None:
    steps = kill_and_restore(
        place,
        str(place.target),
        KILLS,
        options=Options(bandwidth_bytes_s=3_000_000),
        seed=1,
    )
    assert len(set(steps)) >= KILLS // 2
    check_every_manifest(place)


@pytest.mark.twice
def test_killed_at_any_point_with_an_s3_server(place: Place) -> None:
    with rclone(place.base) as server:
        options = replace(server.options, part_bytes=5 << 20, bandwidth_bytes_s=3_000_000)
        target = str(server.place())
        kill_and_restore(place, target, 3, options=options, seed=2)
        place.save(100_000, keep=1)
        with Syncing(sync_job(checkpoints(place.source, target, keep=1), options=options)) as sync:
            assert sync.publish() == PublishedAll(())
        restore_now(target, place.base / "restored", options=options)
    assert writer.step_of(place.base / "restored") == 100_000


@pytest.mark.twice
def test_what_a_life_that_was_killed_left_is_cleared_away(place: Place) -> None:
    """Objects of a generation without a manifest, once it is older than all that are kept."""
    options = Options(bandwidth_bytes_s=1_000_000)
    job = sync_job(checkpoints(place.source, str(place.target), keep=1), options=options)
    (place.source / "a.h5").write_bytes(bytes(1000))
    (place.source / "b.h5").write_bytes(bytes(6_000_000))
    with Syncing(job) as sync:
        sync.wait_for(lambda: list(place.target.glob("*/a.h5")))
        sync.kill()
    (stray,) = place.target.glob("*/a.h5")
    (place.source / "b.h5").unlink()
    job = sync_job(checkpoints(place.source, str(place.target), keep=1))
    with Syncing(job) as sync:
        for number in range(2, 4):
            (place.source / "a.h5").write_bytes(bytes(1000 * number))
            sync.wait_for(lambda: sync.is_idle() and sync.saved() == number - 1)  # noqa: B023
        assert sync.publish() == PublishedAll(())
    (whole,) = manifests(place.target)
    assert isinstance(whole, Manifest)
    assert json.dumps([file.path for file in whole.files]) == '["a.h5"]'
    assert not stray.exists()


# --------------------------------------------------------------------------- TensorFlow

SAVES = SCRIPTS / "saves.py"


def save_with_tensorflow(
    place: Place, seconds: float, pause_s: float, *, enough: int | None = None
) -> tuple[int, list[int]]:
    """The steps that were saved, and the steps of the manifests; each was restored.

    ``enough``: manifests after which it ends ahead of time.
    """
    job = sync_job(checkpoints(place.source, str(place.target)))
    argv = [sys.executable, str(SAVES), str(place.source), str(seconds), str(pause_s)]
    pipe = subprocess.PIPE
    with Syncing(job) as sync, subprocess.Popen(argv, stdin=pipe, stdout=pipe) as child:
        if enough is not None:
            wait_until(lambda: len(manifests(place.target)) >= enough, seconds)
            assert child.stdin is not None
            child.stdin.close()
            child.stdin = None
        out, _ = child.communicate(timeout=seconds + 120)
        assert child.returncode == 0
        assert sync.publish() == PublishedAll(())
        assert sync.said("transfer.left_out") == []
    directories = []
    for number, each in enumerate(reversed(manifests(place.target))):
        into = place.base / f"each-{number}"
        for file in each.files:
            (into / file.path).parent.mkdir(parents=True, exist_ok=True)
            (into / file.path).write_bytes((place.target / file.key).read_bytes())
        directories.append(str(into))
    checked = subprocess.run(
        [sys.executable, str(SAVES), "check", *directories],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert checked.returncode == 0, checked.stderr[-3000:]
    return int(out.split()[-1]), [int(word) for word in checked.stdout.split()]


@pytest.mark.tensorflow
@pytest.mark.xdist_group("tensorflow")
def test_every_manifest_restores_in_tensorflow(place: Place) -> None:
    """A CheckpointManager that saves all the time, with the process beside it."""
    saved, steps = save_with_tensorflow(place, 60.0, 0.2, enough=4)
    assert steps[-1] == saved
    assert steps == sorted(steps)
    assert len(steps) >= 4
