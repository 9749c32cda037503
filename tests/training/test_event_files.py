"""Event files as they grow, on a real disk: every step is told once and none that was not taken,
whatever files look like and whatever happens to them; and no look costs more than it may."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from supervisor.training import event_files, framing
from supervisor.training.event_files import EventFiles
from supervisor.training.reading import Origin, Unit
from tests.helpers.eventfiles import event, head, loss, record, tensor, version

NAME = "events.out.tfevents.1.host.7.0.v2"


class Job:
    """A script's directory, and who looks at it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.logs = path / "model" / "logs"
        self.logs.mkdir(parents=True)
        self.files = EventFiles([str(path / "model")])
        self.files.begin(time.time_ns())
        self.at = time.time() + 3600
        """When things are written: after the attempt has begun, whenever that was."""

    def path(self, name: str = NAME) -> pathlib.Path:
        return self.logs / name

    def write(self, *parts: bytes, name: str = NAME) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.writelines(parts)

    def loss(self, *steps: int) -> bytes:
        """Each is written a little later than the one before."""
        written = []
        for step in steps:
            self.at += 0.001
            written.append(loss(self.at, step))
        return b"".join(written)

    def steps(self, *pids: int) -> list[int]:
        return [reading.step for reading in self.files.look(pids)]


@pytest.fixture
def job(tmp_path: pathlib.Path) -> Job:
    return Job(tmp_path)


# --------------------------------------------------------------------------- what is told


def test_a_reading_names_its_counter(job: Job) -> None:
    job.write(version(job.at), loss(job.at, 3, 0.25), name=f"train/{NAME}")
    [reading] = job.files.look()
    assert reading == (Origin.EVENTS, Unit.STEP, 3, job.at, None, 0.25, "model/logs/train")


def test_each_step_is_told_once(job: Job) -> None:
    assert job.steps() == []
    job.write(version(job.at), job.loss(1, 2, 3))
    assert job.steps() == [1, 2, 3]
    assert job.steps() == []
    job.write(job.loss(4))
    assert job.steps() == [4]


def test_a_file_that_grows_in_odd_pieces_is_told_as_if_it_were_whole(job: Job) -> None:
    rest = version(job.at) + job.loss(*range(1, 40))
    chance = random.Random(1)
    told = []
    while rest:
        size = chance.randrange(1, 60)
        job.write(rest[:size])
        rest = rest[size:]
        told += job.steps()
    assert told == list(range(1, 40))


def test_a_writer_that_writes_meanwhile(job: Job) -> None:
    content = version(job.at) + job.loss(*range(1, 3001))
    chance = random.Random(4)

    def write() -> None:
        with job.path().open("wb", buffering=0) as file:
            at = 0
            while at < len(content):
                at += file.write(content[at : at + chance.randrange(1, 300)])

    told: list[int] = []
    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        told += job.steps()
    told += job.steps()
    assert told == sorted({*told})
    assert told[-1] == 3000


def test_what_lay_there_before_the_attempt_says_nothing(job: Job) -> None:
    job.write(version(job.at), job.loss(1, 2, 3))
    job.files.begin(time.time_ns())
    assert job.steps() == []
    job.write(job.loss(4))
    assert job.steps() == [4]


def test_what_the_attempt_has_written_by_the_time_it_is_looked_at_is_told(job: Job) -> None:
    """A script may be quicker than who looks at it."""
    began_ns = time.time_ns() - 10**9
    job.write(version(job.at), job.loss(1, 2))
    job.files.begin(began_ns)
    assert job.steps() == [1, 2]


def test_what_was_written_before_the_attempt_says_nothing_wherever_it_comes_from(job: Job) -> None:
    """A script that fetches an earlier run's logs, or moves them here."""
    before = time.time() - 5
    job.write(version(before), loss(before, 400), loss(job.at, 7))
    assert job.steps() == [7]


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_clock_that_is_set_hides_nothing(tmp_path: pathlib.Path, jump_s: float) -> None:
    clock, steady = 1e9, 50.0
    files = EventFiles([str(tmp_path)], clock=lambda: clock, steady=lambda: steady)
    files.begin(int(clock * 1e9))
    path = tmp_path / NAME
    clock, steady = clock + 10, steady + 10
    path.write_bytes(loss(clock, 1))
    assert [reading.step for reading in files.look()] == [1]
    clock += jump_s
    path.write_bytes(loss(clock - 11, 2) + loss(clock, 3))
    path.write_bytes(loss(1e9, 1) + loss(clock - 11, 2) + loss(clock, 3))
    assert [reading.step for reading in files.look()] == [3]


def test_what_is_no_event_file_is_not_read(job: Job, tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / NAME).write_bytes(job.loss(1))
    job.write(job.loss(2), name=f".{NAME}.x7")  # as rsync calls what is not whole yet
    job.write(job.loss(3), name="events.out")
    job.path(f"link.{NAME}").symlink_to(outside / NAME)
    job.path("elsewhere").symlink_to(outside)
    job.path(f"dangling.{NAME}").symlink_to("nowhere")
    os.mkfifo(job.path(f"fifo.{NAME}"))
    job.path(f"folder.{NAME}").mkdir()
    assert job.steps() == []


def test_a_fifo_that_takes_a_files_place_is_not_waited_for(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.write(job.loss(1))
    found = job.files._found(())
    job.path().unlink()
    os.mkfifo(job.path())
    monkeypatch.setattr(job.files, "_found", lambda _: found)
    assert job.steps() == []


# --------------------------------------------------------------------------- what happens to files


def test_files_may_go_at_any_time(job: Job) -> None:
    job.write(job.loss(1))
    job.write(job.loss(2), name=f"other.{NAME}")
    assert sorted(job.steps()) == [1, 2]
    job.path().unlink()
    assert job.steps() == []
    job.write(job.loss(3), name=f"other.{NAME}")
    assert job.steps() == [3]
    for name in (f"other.{NAME}",):
        job.path(name).unlink()
    job.logs.rmdir()
    assert job.steps() == []
    assert not job.files._followed


def test_a_file_that_is_renamed_goes_on(job: Job) -> None:
    job.write(job.loss(1, 2))
    assert job.steps() == [1, 2]
    (job.logs / "old").mkdir()
    job.path().rename(job.path(f"old/{NAME}"))
    assert job.steps() == []
    job.write(job.loss(3), name=f"old/{NAME}")
    [reading] = job.files.look()
    assert (reading.step, reading.where) == (3, "model/logs/old")


def test_a_writer_may_begin_another_file(job: Job) -> None:
    job.write(job.loss(1, 2))
    assert job.steps() == [1, 2]
    job.write(version(job.at), job.loss(3), name="events.out.tfevents.2.host")
    assert job.steps() == [3]


def test_a_copy_that_takes_a_files_place_again_and_again_is_read_on(job: Job) -> None:
    """As a file system that keeps objects, or a script that copies its logs into the job's."""
    content = version(job.at)
    for step in range(1, 6):
        content += job.loss(step)
        copy = job.path(".copy")
        copy.write_bytes(content)
        copy.replace(job.path())
        assert job.steps() == [step]


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_file_that_is_cut_off_says_nothing_again(job: Job, size: int) -> None:
    job.write(version(job.at), job.loss(*range(1, 20)))
    assert job.steps() == list(range(1, 20))
    os.truncate(job.path(), size)
    assert job.steps() == []
    job.write(job.loss(20, 21))
    assert job.steps() == [20, 21]
    job.write(job.loss(22))
    assert job.steps() == [22]


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_file_that_is_cut_off_and_written_between_two_looks(job: Job, size: int) -> None:
    job.write(version(job.at), job.loss(*range(1, 20)))
    assert job.steps() == list(range(1, 20))
    os.truncate(job.path(), size)
    job.write(job.loss(20, 21))
    assert job.steps() == [20, 21]


@pytest.mark.parametrize("count", [5, 9, 50])
@pytest.mark.parametrize("name", [NAME, f"run2/{NAME}"])
def test_another_file_with_the_number_of_one_that_is_gone_is_told_in_whole(
    job: Job, name: str, count: int
) -> None:
    """ext4 and tmpfs give it again at once: what a script clears away before it begins was said
    to have been read once."""
    job.write(version(job.at), job.loss(*range(1, 10)))
    assert job.steps()
    before = job.path().stat().st_ino
    job.path().unlink()
    job.write(version(job.at), name=name)
    same = job.path(name).stat().st_ino == before
    job.write(job.loss(*range(1, count)), name=name)
    told = job.steps()
    if (same and name == NAME) and count > 9:  # nothing tells it from one that has grown
        assert told == list(range(count - len(told), count))
    else:
        assert told == list(range(1, count))
    job.write(job.loss(count), name=name)
    assert job.steps() == [count]


# --------------------------------------------------------------------------- held open


@contextlib.contextmanager
def holder(path: pathlib.Path, mode: str, *, gone: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a file open, and writes the bytes of each line it is told in hex."""
    program = (
        "import os, sys\n"
        "file = open(sys.argv[1], sys.argv[2], buffering=0)\n"
        "if sys.argv[3]: os.unlink(sys.argv[1])\n"
        "print(flush=True)\n"
        "for line in sys.stdin: print(file.write(bytes.fromhex(line)), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path), mode, "1" if gone else ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.stdin and process.stdin.close()


def tell(process: subprocess.Popen[str], data: bytes) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.write(data.hex() + "\n")
    process.stdin.flush()
    process.stdout.readline()


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_the_script_holds_open_is_read_wherever_it_is(
    job: Job, tmp_path: pathlib.Path, gone: bool
) -> None:
    path = tmp_path / NAME
    with holder(path, "wb", gone=gone) as process:
        tell(process, version(job.at) + job.loss(1))
        assert job.steps() == []
        [reading] = job.files.look([process.pid])
        assert (reading.step, reading.where) == (1, str(tmp_path))
        tell(process, job.loss(2))
        assert job.steps(process.pid, process.pid) == [2]
    assert job.steps(process.pid) == []


def test_a_file_that_is_held_open_for_reading_is_tensorboards(
    job: Job, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / NAME
    path.write_bytes(job.loss(400))
    with holder(path, "rb") as process:
        assert job.steps(process.pid) == []


def test_a_file_that_is_held_open_below_the_directories_is_one(job: Job) -> None:
    with holder(job.path(), "wb") as process:
        tell(process, job.loss(1))
        assert job.steps(process.pid) == [1]
        assert job.steps() == []


# --------------------------------------------------------------------------- spoilt files


def whole(job: Job) -> tuple[bytes, list[int]]:
    steps = [10, 20, 30, 40]
    return version(job.at) + job.loss(*steps), steps


def test_a_bit_in_any_byte_spoils_one_step_at_most(job: Job) -> None:
    content, steps = whole(job)
    for at in range(len(content)):
        for bit in range(8) if at % 7 == 0 else (at % 8,):
            spoilt = bytearray(content)
            spoilt[at] ^= 1 << bit
            path = job.path(f"{at}.{bit}.{NAME}")
            path.write_bytes(spoilt)
            told = job.steps()
            assert set(told) <= {*steps}
            assert len(told) >= len(steps) - 1
            path.unlink()
            assert job.steps() == []


def test_a_file_that_is_cut_anywhere_tells_what_is_whole(job: Job) -> None:
    content, steps = whole(job)
    size = len(job.loss(steps[0]))
    for cut in range(len(content)):
        path = job.path(f"{cut}.{NAME}")
        path.write_bytes(content[:cut])
        assert job.steps() == steps[: max(0, cut - len(version(job.at))) // size]
        path.write_bytes(content[:cut] + os.urandom(20) + job.loss(50))
        assert job.steps()[-1] == 50
        path.unlink()
        assert job.steps() == []


def test_garbage_says_nothing(job: Job) -> None:
    chance = random.Random(2)
    for number in range(300):
        size = chance.choice([1, 11, 12, 100, 5000])
        kind = chance.choice(
            [chance.randbytes(size), bytes(size), b"\xff" * size, b"\1\0\0\0\0" * size]
        )
        job.write(kind, name=f"{number}.{NAME}")
        assert job.steps() == []


def test_a_torn_end_is_read_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a writer that was killed has left is no work at each look."""
    job.write(job.loss(1), record(bytes(900_000))[:-10])
    assert job.steps() == [1]

    def refuse(*args: object) -> None:
        raise AssertionError(args)

    monkeypatch.setattr(os, "pread", refuse)
    assert job.steps() == []


# --------------------------------------------------------------------------- bounds


def test_a_record_that_says_two_gigabytes_is_passed_over(job: Job) -> None:
    job.write(job.loss(1), head(2 << 30), b"some of it")
    assert job.steps() == [1]
    assert job.steps() == []
    job.write(b"more of it")
    assert job.steps() == []
    with job.path().open("r+b") as file:
        file.seek(len(job.loss(1)) + framing.HEAD_BYTES + (2 << 30) + framing.TAIL_BYTES)
        file.write(job.loss(2))
    assert job.steps() == [2]


@pytest.mark.parametrize("length", [2**63, 2**64 - 1])
def test_a_record_without_end_ends_the_file(job: Job, length: int) -> None:
    job.write(job.loss(1), head(length), b"some of it")
    assert job.steps() == [1]
    job.write(job.loss(2))
    assert job.steps() == []


@pytest.mark.parametrize("end", [b"", b"garbage", None])
def test_a_sparse_file_of_two_gigabytes_is_read_at_its_ends(job: Job, end: bytes | None) -> None:
    job.write(version(job.at), job.loss(1, 2))
    os.truncate(job.path(), 2 << 30)
    job.write(job.loss(3, 4) if end is None else end)
    tracemalloc.start()
    try:
        began = time.process_time()
        told = job.steps()
        took_s = time.process_time() - began
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told == ([1, 2, 3, 4] if end is None else [1, 2])
    assert most < 4 << 20
    assert took_s < 1
    job.write(job.loss(5))
    assert job.steps() == [5]


def test_of_what_comes_too_fast_the_end_is_read(job: Job) -> None:
    job.write(*[job.loss(*range(1000))] * 330)
    tracemalloc.start()
    try:
        told = job.steps()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told == list(range(1000))[-event_files.MOST_READINGS :]
    assert most < 8 << 20
    job.write(job.loss(7))
    assert job.steps() == [7]


@pytest.mark.parametrize("size", [100_000, 300_000, 1_000_000])
def test_steps_between_images_are_told(job: Job, size: int) -> None:
    """More of them come between two looks than are read."""
    image = record(os.urandom(size))
    for step in range(1, 4):
        for _ in range(5):
            job.write(job.loss(step), image)
        job.write(job.loss(step))
        assert job.steps()[-1:] == [step]


def test_the_largest_summary_that_is_read_does_not_hold_up_what_follows(job: Job) -> None:
    summary = tensor("loss", 0.5)
    room = framing.MOST_RECORD - len(event(job.at, 1, summary + tensor("x" * 20_000, 0.5)))
    large = event(job.at, 1, summary + tensor("x" * (20_000 + room - 2), 0.5))
    job.write(record(large), job.loss(2))
    assert framing.MOST_RECORD - 4 <= len(large) <= framing.MOST_RECORD
    assert job.steps() == [1, 2]


def test_of_many_writers_each_is_read_in_turn(job: Job) -> None:
    for step in (1, 2):
        for number in range(100):
            job.write(job.loss(1000 * step + number), name=f"{number}/{NAME}")
        first = job.steps()
        assert len(first) == event_files.MOST_FILES
        assert sorted(first + job.steps()) == [1000 * step + number for number in range(100)]
    assert job.steps() == []


def test_files_that_flood_do_not_keep_the_others_waiting_for_ever(job: Job) -> None:
    flood = job.loss(*range(5000))  # of 300 KiB
    for number in range(10):
        job.write(flood, name=f"{number}/{NAME}")
    job.write(job.loss(77_777), name=f"quiet/{NAME}")
    os.utime(job.path(f"quiet/{NAME}"), (1, 1))
    looks = 0
    while 77_777 not in job.steps():
        looks += 1
        assert looks < 5
        for number in range(10):
            job.write(flood, name=f"{number}/{NAME}")


def test_names_without_end_are_not_looked_at(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "MOST_LOOKED_AT", 50)
    (job.logs / "samples").mkdir()
    for number in range(200):
        (job.logs / "samples" / f"{number}.png").touch()
    job.write(job.loss(1))
    assert job.steps() == [1]


def test_only_so_many_descriptors_are_looked_at(
    job: Job, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(tmp_path / NAME, "wb") as process:
        tell(process, job.loss(1))
        monkeypatch.setattr(event_files, "MOST_DESCRIPTORS", 2)
        assert job.steps(process.pid) == []
        monkeypatch.setattr(event_files, "MOST_DESCRIPTORS", 100)
        assert job.steps(process.pid) == [1]


def test_pids_that_are_none_say_nothing(job: Job) -> None:
    assert job.steps(2**22 + 1, -1, 0) == []
