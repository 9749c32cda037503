"""The process that fetches, from the outside: on directories and on a real S3 server."""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.storage import job as jobs
from supervisor.storage.fetch import Disks, FetchError, Here, fault_of, is_wanted, shard_of
from supervisor.storage.job import Fetched, FetchJob, Restore, Source, Tree
from supervisor.storage.location import Location
from supervisor.storage.store import Entry
from tests.helpers import s3
from tests.helpers.job import environment
from tests.helpers.waiting import wait_until
from tests.storage.test_archive import content_of, item, make_tree, tar

pytestmark = pytest.mark.twice

COMMAND = (sys.executable, "-P", "-m", "supervisor.storage.fetch")
PARTIAL = ".supervisor-partial-"


@dataclass(frozen=True)
class Done:
    code: int
    fetched: Fetched | None
    message: str
    """From the error file."""
    stderr: str


class Fetching:
    """One process of a job. A context manager that ends it."""

    def __init__(self, tmp: pathlib.Path, job: FetchJob, command: Sequence[str] = COMMAND) -> None:
        self._error = tmp / "error.json"
        self._job = replace(job, result=str(tmp / "out" / "fetched.json"))
        self._stderr = tmp / "stderr"
        self._error.unlink(missing_ok=True)
        pathlib.Path(self._job.result).unlink(missing_ok=True)
        env = environment(
            SUPERVISOR_STORAGE_JOB=jobs.encode(self._job),
            SUPERVISOR_ERROR_FILE=str(self._error),
            AWS_ACCESS_KEY_ID=s3.KEY,
            AWS_SECRET_ACCESS_KEY=s3.SECRET,
        )
        with open(self._stderr, "wb") as stderr:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=stderr, env=env
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait(10)

    def wait(self) -> Done:
        code = self.process.wait(60)
        result = pathlib.Path(self._job.result)
        return Done(
            code,
            Fetched(**json.loads(result.read_text())) if result.exists() else None,
            json.loads(self._error.read_text())["message"] if self._error.exists() else "",
            self._stderr.read_text(),
        )


def fetch(tmp: pathlib.Path, job: FetchJob) -> Done:
    with Fetching(tmp, job) as fetching:
        return fetching.wait()


def refused(tmp: pathlib.Path, job: FetchJob) -> str:
    """The sentence."""
    done = fetch(tmp, job)
    assert done.code == 1, done.stderr
    assert done.fetched is None
    assert done.stderr.count(done.message) == 1
    assert "Traceback" not in done.stderr
    assert done.message.isprintable()
    return done.message


@dataclass(frozen=True)
class Place:
    """Where files come from: their directory, and its name for the process."""

    path: pathlib.Path
    location: Location
    options: jobs.Options

    def at(self, name: str) -> Location:
        return self.location.child(name)

    def job(self, *trees: Tree, source: Source | None = None, **rest: object) -> FetchJob:
        return FetchJob("", self.options, trees=trees, source=source, **rest)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RCLONE_DIR_CACHE_TIME", "0s")  # files are put below it, not through it
        with s3.rclone(tmp_path_factory.mktemp("s3")) as server:
            yield server


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Place]:
    if request.param == "file":
        path = tmp_path / "origin"
        path.mkdir()
        yield Place(path, Location.parse(str(path)), jobs.Options())
        return
    server: s3.Server = request.getfixturevalue("server")
    bucket = server.root / "bucket"
    path = bucket / "jobs"
    path.mkdir(parents=True)
    yield Place(path, Location.parse("s3://bucket/jobs"), server.options)
    shutil.rmtree(bucket)


def source(origin: Location, tmp: pathlib.Path, limit: int = 1 << 24) -> Source:
    return Source(origin, str(tmp / "code"), limit, 100)


def names(directory: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# -------------------------------------------------------------------------------------- source


def test_an_archive_becomes_the_code(place: Place, tmp_path: pathlib.Path) -> None:
    make_tree(tmp_path / "in")
    archive = place.path / "sourcedir.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path / "in", "."], check=True, timeout=10)
    (tmp_path / "code").mkdir()
    done = fetch(tmp_path, place.job(source=source(place.at("sourcedir.tar.gz"), tmp_path)))
    assert done.code == 0, done.stderr
    assert content_of(tmp_path / "code") == content_of(tmp_path / "in")
    assert done.fetched is not None
    assert done.fetched.files == 10
    assert "source unpacked: 10 files" in done.stderr


def test_a_directory_becomes_the_code(place: Place, tmp_path: pathlib.Path) -> None:
    (place.path / "src" / "package").mkdir(parents=True)
    (place.path / "src" / "train.py").write_text("print()")
    (place.path / "src" / "package" / "__init__.py").touch()
    done = fetch(tmp_path, place.job(source=source(place.at("src"), tmp_path)))
    assert done.code == 0, done.stderr
    assert names(tmp_path / "code") == ["package", "package/__init__.py", "train.py"]


def test_one_file_becomes_the_code(place: Place, tmp_path: pathlib.Path) -> None:
    (place.path / "train.py").write_text("print()")
    done = fetch(tmp_path, place.job(source=source(place.at("train.py"), tmp_path)))
    assert done.code == 0, done.stderr
    assert (tmp_path / "code" / "train.py").read_text() == "print()"
    assert names(tmp_path / "code") == ["train.py"]


def test_code_that_is_there_is_left_alone(place: Place, tmp_path: pathlib.Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").touch()
    done = fetch(tmp_path, place.job(source=source(place.at("no.tar.gz"), tmp_path)))
    assert done.code == 0
    assert names(tmp_path / "code") == ["mine.py"]
    assert f"{tmp_path}/code holds files already" in done.stderr


def test_the_code_directory_itself_is_a_source(tmp_path: pathlib.Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "link").symlink_to("code")
    origin = Location.parse(str(tmp_path / "link"))
    done = fetch(tmp_path, FetchJob("", source=source(origin, tmp_path)))
    assert done.code == 0
    assert done.fetched is not None
    assert done.fetched.files == 0


def test_a_source_that_is_not_there_is_named(place: Place, tmp_path: pathlib.Path) -> None:
    message = refused(tmp_path, place.job(source=source(place.at("no.tar.gz"), tmp_path)))
    assert "hyperparameter sagemaker_submit_directory" in message
    assert "no.tar.gz" in message
    if place.location.bucket:
        assert "the bucket bucket has no object 'jobs/no.tar.gz'" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tar(item("../evil", b"x")), "member '../evil': its name has the part .."),
        (tar(item("big", bytes(1 << 21))), "more than 1.0 MiB would be unpacked"),
        (tar(item("a", noise(9999)))[:-999], "it breaks off"),
        (b"<html>", "is no archive that can be unpacked"),
    ],
    ids=["parent", "large", "truncated", "html"],
)
def test_a_bad_archive_leaves_nothing(content: bytes, words: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "code.tar.gz").write_bytes(content)
    origin = Location.parse(str(tmp_path / "code.tar.gz"))
    target = tmp_path / "ml" / "code"
    message = refused(tmp_path, FetchJob("", source=Source(origin, str(target), 1 << 20, 100)))
    assert message.startswith(f"source: {tmp_path}/code.tar.gz")
    assert words in message
    assert names(tmp_path / "ml") == ["code"]


def test_a_bad_archive_of_a_bucket_is_named(place: Place, tmp_path: pathlib.Path) -> None:
    (place.path / "code.tar.gz").write_bytes(tar(item("/evil", b"x")))
    message = refused(tmp_path, place.job(source=source(place.at("code.tar.gz"), tmp_path)))
    name = str(place.at("code.tar.gz")).removeprefix("file://")
    assert message == f"source: {name}: member '/evil': its name is absolute"
    assert names(tmp_path / "code") == []


def test_a_source_over_its_limits_is_refused_before_it_is_fetched(
    place: Place, tmp_path: pathlib.Path
) -> None:
    (place.path / "src").mkdir()
    for number in range(5):
        (place.path / "src" / f"{number}.py").write_bytes(bytes(1000))
    message = refused(tmp_path, place.job(source=source(place.at("src"), tmp_path, 3000)))
    assert "2.9 KiB" in message
    assert names(tmp_path / "code") == []


# --------------------------------------------------------------------------------------- trees


def make_channel(path: pathlib.Path, count: int = 40) -> dict[str, bytes]:
    files = {f"part-{number:03}": noise(number * 37, number) for number in range(count)}
    files |= {"deep/er/file.bin": noise(100_000), "empty": b"", "naïve ☃": b"snow"}
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return files


def read_all(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_channels_arrive_whole_and_once(place: Place, tmp_path: pathlib.Path) -> None:
    """And a second start of the container fetches what has changed, and no more."""
    files = make_channel(place.path / "train")
    (place.path / "one.csv").write_text("1,2,3")
    job = place.job(
        Tree("channel training", place.at("train"), str(tmp_path / "training")),
        Tree("channel one", place.at("one.csv"), str(tmp_path / "one")),
        Tree("model_dir", place.at("nothing"), str(tmp_path / "model"), may_be_empty=True),
    )
    done = fetch(tmp_path, job)
    assert done.code == 0, done.stderr
    assert read_all(tmp_path / "training") == files
    assert read_all(tmp_path / "one") == {"one.csv": b"1,2,3"}
    assert done.fetched is not None
    assert done.fetched.files == len(files) + 1
    assert done.fetched.bytes == sum(map(len, files.values())) + 5
    assert f"channel training: {len(files)} files" in done.stderr

    before = (tmp_path / "training" / "part-001").stat().st_ino
    (place.path / "train" / "part-002").write_bytes(b"changed")
    (tmp_path / "training" / "part-003").write_bytes(b"torn")
    (tmp_path / "training" / f"{PARTIAL}abc").touch()
    done = fetch(tmp_path, job)
    assert done.fetched is not None
    assert done.fetched.files == 2
    assert f"channel training: {len(files) - 2} files are there already" in done.stderr
    assert read_all(tmp_path / "training") == files | {"part-002": b"changed"}
    assert (tmp_path / "training" / "part-001").stat().st_ino == before


def test_what_is_no_file_of_a_directory_is_named(tmp_path: pathlib.Path) -> None:
    """A linked directory was left out of a channel in silence, and its data with it."""
    source = tmp_path / "data"
    (source / "real").mkdir(parents=True)
    (source / "real" / "x").write_bytes(b"x")
    (source / "twin").symlink_to("real/x")
    (source / "linked").symlink_to("real")
    (source / "dangling").symlink_to("nowhere")
    os.mkfifo(source / "pipe")
    tree = Tree("channel train", Location.parse(str(source)), str(tmp_path / "target"))
    done = fetch(tmp_path, FetchJob("", trees=(tree,)))
    assert done.code == 0
    files = [path for path in (tmp_path / "target").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["twin", "x"]
    assert {path.read_bytes() for path in files} == {b"x"}
    for name, why in (
        ("linked", "a link to a directory"),
        ("dangling", "a link to nothing"),
        ("pipe", "no regular file"),
    ):
        assert done.stderr.count(f"channel train: {name!r} is left out: {why}") == 1


def test_hosts_share_a_channel(place: Place, tmp_path: pathlib.Path) -> None:
    files = make_channel(place.path / "train", 11)
    seen: dict[str, bytes] = {}
    for shard in range(2):
        target = tmp_path / f"host-{shard}"
        tree = Tree("channel training", place.at("train"), str(target), shard, 2)
        assert fetch(tmp_path, place.job(tree)).code == 0
        got = read_all(target)
        assert not seen.keys() & got.keys()
        seen |= got
    assert seen == files


def test_more_hosts_than_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "only").touch()
    origin = Location.parse(str(tmp_path / "train"))
    tree = Tree("channel training", origin, str(tmp_path / "t"), 4, 5)
    assert fetch(tmp_path, FetchJob("", trees=(tree,))).code == 0
    assert names(tmp_path / "t") == []


def test_an_empty_channel_is_an_error(place: Place, tmp_path: pathlib.Path) -> None:
    tree = Tree("channel training", place.at("train"), str(tmp_path / "training"))
    message = refused(tmp_path, place.job(tree))
    assert message.startswith(f"channel training: nothing is at {place.at('train')}")


def test_what_is_optional_is_said_and_fails_nothing(
    server: s3.Server, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "file").write_bytes(b"x")
    wanted = Tree("channel a", Location.parse(str(tmp_path / "train")), str(tmp_path / "a"))
    mirror = Tree("model_dir", Location.parse("s3://no-such/x"), str(tmp_path / "m"), optional=True)
    done = fetch(tmp_path, FetchJob("", server.options, trees=(mirror, wanted)))
    assert done.code == 0
    assert "no-such" in done.stderr
    assert "the job goes on without it" in done.stderr
    assert names(tmp_path / "a") == ["file"]


def test_a_missing_bucket_is_named(server: s3.Server, tmp_path: pathlib.Path) -> None:
    tree = Tree("channel training", Location.parse("s3://no-such/x"), str(tmp_path / "training"))
    message = refused(tmp_path, FetchJob("", server.options, trees=(tree,)))
    assert message.startswith("channel training: ")
    assert "no-such" in message


def test_the_first_failure_ends_the_rest(place: Place, tmp_path: pathlib.Path) -> None:
    (place.path / "large").mkdir()
    (place.path / "large" / "file").write_bytes(noise(1 << 20))
    slow = replace(place.options, bandwidth_bytes_s=1 << 14)  # a minute
    job = place.job(
        Tree("channel large", place.at("large"), str(tmp_path / "large")),
        Tree("channel none", place.at("none"), str(tmp_path / "none")),
    )
    message = refused(tmp_path, replace(job, options=slow))
    assert message.startswith("channel none: ")
    assert names(tmp_path / "large") == []


def test_what_does_not_fit_is_not_begun(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train").mkdir()
    with open(tmp_path / "train" / "huge", "wb") as file:
        file.truncate(1 << 43)
    origin = Location.parse(str(tmp_path / "train"))
    tree = Tree("channel training", origin, str(tmp_path / "training"))
    message = refused(tmp_path, FetchJob("", trees=(tree,)))
    assert "channel training needs 8.0 TiB (8,796,093,022,208 bytes)" in message
    assert "are free on its disk" in message
    assert not (tmp_path / "training").exists()


def test_a_disk_that_fills_while_it_is_written_is_said(tmp_path: pathlib.Path) -> None:
    """By the limit of a file's size, which is as final as a full disk."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a-small").write_bytes(b"small")
    (tmp_path / "train" / "large").write_bytes(noise(1 << 20))
    origin = Location.parse(str(tmp_path / "train"))
    tree = Tree("channel training", origin, str(tmp_path / "training"))
    limited = ("sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *COMMAND)
    with Fetching(tmp_path, FetchJob("", trees=(tree,)), limited) as fetching:
        done = fetching.wait()
    assert done.code == 1
    assert done.message.startswith("channel training: ")
    assert "large (1048576 bytes): File too large" in done.message
    assert not [name for name in names(tmp_path / "training") if name != "a-small"]


def test_a_checkpoint_is_restored_beside_the_rest(place: Place, tmp_path: pathlib.Path) -> None:
    """Of objects that somebody put there; checkpoints of ours are ``test_restore``'s."""
    make_channel(place.path / "train", 3)
    (place.path / "saved").mkdir()
    (place.path / "saved" / "model.bin").write_bytes(b"weights")
    job = place.job(
        Tree("channel training", place.at("train"), str(tmp_path / "training")),
        restore=Restore(place.at("saved"), str(tmp_path / "checkpoints")),
    )
    done = fetch(tmp_path, job)
    assert done.fetched is not None, done.stderr
    assert done.fetched.resumed_from == str(place.at("saved"))
    assert read_all(tmp_path / "checkpoints") == {"model.bin": b"weights"}


# ------------------------------------------------------------------------------- interruptions


@pytest.fixture
def slow(place: Place, tmp_path: pathlib.Path) -> FetchJob:
    """A job of ten seconds: small files first, then a large one."""
    make_channel(place.path / "train", 20)
    (place.path / "train" / "z-large").write_bytes(noise(5 << 20))
    tree = Tree("channel training", place.at("train"), str(tmp_path / "training"))
    options = replace(place.options, bandwidth_bytes_s=1 << 19, part_bytes=1 << 20)
    return replace(place.job(tree), options=options)


def begun(tmp: pathlib.Path) -> bool:
    found = names(tmp / "training") if (tmp / "training").exists() else []
    return any(PARTIAL in name for name in found) and any("part-" in name for name in found)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_it_and_leaves_whole_files_only(
    signum: int, slow: FetchJob, place: Place, tmp_path: pathlib.Path
) -> None:
    with Fetching(tmp_path, slow) as fetching:
        wait_until(lambda: begun(tmp_path))
        fetching.process.send_signal(signum)
        done = fetching.wait()
    assert done.code == -signum
    assert not done.message
    assert done.fetched is None
    assert "Traceback" not in done.stderr
    found = read_all(tmp_path / "training")
    assert found
    assert not [name for name in found if PARTIAL in name]
    origin = read_all(place.path / "train")
    assert all(origin[name] == content for name, content in found.items())


def test_a_kill_in_the_middle_and_a_new_start(
    slow: FetchJob, place: Place, tmp_path: pathlib.Path
) -> None:
    with Fetching(tmp_path, slow) as fetching:
        wait_until(lambda: begun(tmp_path))
        fetching.process.kill()
        fetching.process.wait(10)
    origin = read_all(place.path / "train")
    found = read_all(tmp_path / "training")
    whole = {name: content for name, content in found.items() if PARTIAL not in name}
    assert whole
    assert all(origin[name] == content for name, content in whole.items())
    done = fetch(tmp_path, replace(slow, options=place.options))
    assert done.fetched is not None
    assert done.fetched.files == len(origin) - len(whole)
    assert read_all(tmp_path / "training") == origin


def test_a_stop_while_unpacking_leaves_no_code(tmp_path: pathlib.Path) -> None:
    """Many small members: seconds of unpacking in the thread."""
    origin = tmp_path / "code.tar"
    origin.write_bytes(tar(*(item(f"{n % 50}/{n}", b"x") for n in range(40_000)), mode="w"))
    target = tmp_path / "ml" / "code"
    job = FetchJob("", source=Source(Location.parse(str(origin)), str(target), 1 << 30, 1_000_000))
    with Fetching(tmp_path, job) as fetching:
        wait_until(lambda: len(list((tmp_path / "ml").glob(".code.supervisor-staging-*/*"))) > 3)
        assert names(target) == []
        fetching.process.send_signal(signal.SIGTERM)
        assert fetching.wait().code == -signal.SIGTERM
    assert names(tmp_path / "ml") == ["code"]


def test_it_dies_with_its_parent(slow: FetchJob, tmp_path: pathlib.Path) -> None:
    env = environment(
        SUPERVISOR_STORAGE_JOB=jobs.encode(slow),
        AWS_ACCESS_KEY_ID=s3.KEY,
        AWS_SECRET_ACCESS_KEY=s3.SECRET,
    )
    program = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", program, *COMMAND],
        env=env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as parent:
        wait_until(lambda: begun(tmp_path))
        parent.kill()
        assert parent.stderr is not None
        assert b"Traceback" not in parent.stderr.read()  # which ends when the last holder is gone


def test_a_job_that_is_none_is_said(tmp_path: pathlib.Path) -> None:
    for text in ("", "[]", '{"a": 1}', "nonsense"):
        done = subprocess.run(
            COMMAND,
            env=environment(SUPERVISOR_STORAGE_JOB=text),
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("supervisor: SUPERVISOR_STORAGE_JOB is no job")
        assert len(done.stderr.splitlines()) == 1


# ----------------------------------------------------------------------------------- decisions


def entry(key: str, size: int = 1, modified_at: float = 1e9) -> Entry:
    return Entry(key, size, "tag", modified_at)


@given(st.sets(st.text("aé/~\U0001f600.", min_size=1)), st.integers(1, 7), st.randoms())
def test_shards_are_disjoint_and_complete_in_whatever_order_keys_are_listed(
    keys: set[str], shards: int, chance: random.Random
) -> None:
    found = []
    for shard in range(shards):
        listed = [entry(key) for key in keys]
        chance.shuffle(listed)
        found.append([each.key for each in shard_of(listed, shard, shards)])
    assert sorted(key for part in found for key in part) == sorted(keys)
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["a", "a/b"], "'a' and 'a/b' cannot both be files"),
        (["a", "a-b", "a.b", "a/b/c"], "'a' and 'a/b/c' cannot both"),
        (["../a"], "the part .."),
        (["a/../../b"], "the part .."),
        (["a/./b"], "the part ."),
        (["a//b"], "an empty part"),
        (["/a"], "an empty part"),
        (["a\0b"], "a NUL"),
    ],
)
def test_keys_that_cannot_be_files_are_named(keys: list[str], words: str) -> None:
    assert words in fault_of(keys)


def test_keys_that_differ_in_case_are_two_files() -> None:
    assert fault_of(["a/B", "A/b", "a/b", "A", "ab/c"][:3]) == ""


def test_what_is_fetched_again() -> None:
    there = entry("a", 5, 1e9)
    same = Here(5, 10**18)
    newer = Here(5, 10**18 + 1)
    assert is_wanted(there, None, kept_newer=True)
    assert not is_wanted(there, same, kept_newer=False)
    assert is_wanted(there, replace(same, size=4), kept_newer=False)
    assert is_wanted(there, newer, kept_newer=False)
    assert not is_wanted(there, newer, kept_newer=True)
    assert is_wanted(there, replace(same, mtime_ns=1), kept_newer=True)


def test_transfers_share_a_disk(tmp_path: pathlib.Path) -> None:
    disk = os.statvfs(tmp_path)
    most = disk.f_bavail * disk.f_frsize * 2 // 3
    disks = Disks()
    disks.claim(str(tmp_path / "not" / "yet"), most, "one")
    with pytest.raises(FetchError, match="other needs"):
        disks.claim(str(tmp_path), most, "other")
