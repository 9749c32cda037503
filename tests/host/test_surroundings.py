"""What the container has, what runs short, and what lies in the model directory at the end."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from supervisor.host import model_check
from supervisor.linux import hardware, resources
from supervisor.linux.cgroup import cpu_quota, parse_quota
from tests.helpers.job import environment
from tests.helpers.train import lay_out
from tests.verbs.test_train import failure, run


@pytest.mark.parametrize(
    ("version", "files", "quota"),
    [
        (2, {"cpu.max": "150000 100000\n"}, 1.5),
        (2, {"cpu.max": "max 100000\n"}, None),
        (2, {}, None),
        (1, {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}, 0.5),
        (1, {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        (2, {"cpu.max": "nonsense"}, None),
    ],
)
def test_quotas(version: int, files: dict[str, str], quota: float | None) -> None:
    assert parse_quota(version, files.get) == quota


def test_cpus_are_no_more_than_affinity_and_quota() -> None:
    allowed, quota = len(os.sched_getaffinity(0)), cpu_quota()
    assert 1 <= hardware.num_cpus() <= allowed
    assert quota is None or hardware.num_cpus() < quota + 1


def tool(directory: pathlib.Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


NOWHERE = "/nonexistent/driver"


def test_accelerators_are_counted_by_their_tools(tmp_path: pathlib.Path) -> None:
    tool(tmp_path, "nvidia-smi", 'echo "GPU 0: A"; echo "GPU 1: B"; echo other')
    tool(tmp_path, "neuron-ls", """echo '[{"nc_count": 2}, {"nc_count": 2}, {}]'""")
    environ = {"PATH": f"/nonexistent:{tmp_path}"}
    assert hardware.count_accelerators(environ, NOWHERE) == (2, 4)


def test_the_drivers_list_is_preferred_and_absent_tools_are_0(tmp_path: pathlib.Path) -> None:
    assert hardware.count_accelerators({"PATH": str(tmp_path)}, NOWHERE) == (0, 0)
    (tmp_path / "gpus" / "0000:00:1e.0").mkdir(parents=True)
    assert hardware.count_accelerators({"PATH": ""}, str(tmp_path / "gpus")) == (1, 0)


def test_tools_that_fail_hang_or_talk_nonsense_are_0_in_bounded_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "TOOL_S", 0.3)
    tool(tmp_path, "nvidia-smi", 'echo "GPU 0: A"; exec /bin/sleep 60')
    tool(tmp_path, "neuron-ls", "echo '{'; exit 0")
    began = time.monotonic()
    assert hardware.count_accelerators({"PATH": str(tmp_path)}, NOWHERE) == (0, 0)
    assert time.monotonic() - began < 10
    tool(tmp_path, "nvidia-smi", 'echo "GPU 0: A"; exit 9')
    assert hardware.count_accelerators({"PATH": str(tmp_path)}, NOWHERE) == (0, 0)


def test_a_nearly_full_disk_is_a_twentieth_and_no_more_than_ten_gib() -> None:
    gib = 1 << 30
    assert resources.disk_is_nearly_full(4 * gib, 100 * gib)
    assert not resources.disk_is_nearly_full(6 * gib, 100 * gib)
    assert not resources.disk_is_nearly_full(11 * gib, 10_000 * gib)


def test_warnings_are_given_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "disk_is_nearly_full", lambda *_: True)
    watch = resources.Watch((str(tmp_path), str(tmp_path), "/nonexistent"))
    assert next(text for text in watch.warnings() if "disk" in text).startswith(
        f"the disk of {tmp_path} is nearly full: "
    )
    assert not [text for text in watch.warnings() if "disk" in text]


LIMIT = 128 << 20


@pytest.fixture
def limited() -> Iterator[str]:
    """A memory cgroup of version 1 with a limit of 128 MiB."""
    directory = pathlib.Path(f"/sys/fs/cgroup/memory/supervisor-limited-{os.getpid()}")
    try:
        directory.mkdir()
        (directory / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no memory cgroup of version 1 to be made here: {error}")
    yield str(directory)
    directory.rmdir()


WATCHING = """
import os, sys
from supervisor.linux.resources import Watch
watch = Watch(())
def look(after):
    with open(sys.argv[1] + "/memory.usage_in_bytes") as file:
        print(after, int(file.read()) >> 20, "|".join(watch.warnings()), sep=";", flush=True)
look("nothing")
with open(sys.argv[2], "wb") as file:
    for _ in range(160):
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
look("a file")
some = bytearray(b"x") * (100 << 20)
look("some")
more = bytearray(b"x") * (14 << 20)  # six for Python, and room below the limit
look("more")
look("the same")
"""


def test_memory_near_a_real_limit_is_said_once_and_cached_files_do_not_count(
    tmp_path: pathlib.Path, limited: str
) -> None:
    file_system = ["stat", "-f", "-c", "%T", str(tmp_path)]
    if subprocess.run(file_system, capture_output=True, check=True).stdout.strip() == b"tmpfs":
        pytest.skip("files here are memory, not a cache of a disk")
    join = f'echo $$ >{limited}/cgroup.procs && exec "$@"'
    program = (sys.executable, "-c", WATCHING, limited, str(tmp_path / "file"))
    done = subprocess.run(
        ["/bin/sh", "-c", join, "sh", *program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    looks = [line.split(";") for line in done.stdout.splitlines()]
    assert [after for after, _, _ in looks] == ["nothing", "a file", "some", "more", "the same"]
    used = {after: int(mib) for after, mib, _ in looks}
    assert used["a file"] > 116, "past nine tenths of the limit, by the kernel's own count"
    warnings = [warning for _, _, warning in looks]
    assert [bool(warning) for warning in warnings] == [False, False, False, True, False]
    assert warnings[3].startswith("memory is nearly used up: 1")
    assert warnings[3].endswith(" MiB of the limit 128 MiB")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["nothing is saved in"]),
        (["weights.h5", "sub/x"], ["there is no SavedModel"]),
        (["export/saved_model.pb"], ["lies in a directory whose name is no number"]),
        (["saved_model.pbtxt"], ["lies in a directory whose name is no number"]),
        (["1/saved_model.pb", "m/2/saved_model.pb", "log"], []),
        (["1/saved_model.pb", "best/saved_model.pb"], ["/best lies in"]),
    ],
)
def test_what_serving_will_not_take(
    tmp_path: pathlib.Path, files: list[str], words: list[str]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    problems = model_check.look(str(tmp_path))
    assert len(problems) == len(words)
    for problem, word in zip(problems, words, strict=True):
        assert word in problem


@pytest.mark.parametrize(("policy", "code"), [("warn", 0), ("fail", 87), ("off", 0)])
def test_an_empty_model_directory_is_a_warning_or_a_failure(
    tmp_path: pathlib.Path, policy: str, code: int
) -> None:
    lay_out(tmp_path, "print('trained')")
    ended, _, err = run(tmp_path, SUPERVISOR_MODEL_CHECK=policy)
    assert ended == code
    assert (b"model.unservable" in err) == (policy != "off")
    if code:
        assert "nothing is saved in" in failure(tmp_path)
    else:
        assert (tmp_path / "output" / "success").exists()


def test_a_failed_job_is_not_told_that_it_saved_nothing(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, "1/0")
    code, _, err = run(tmp_path, SUPERVISOR_MODEL_CHECK="fail")
    assert code == 1
    assert b"model.unservable" not in err


def test_a_model_directory_in_s3_is_said_and_stops_nothing(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, "print('trained')", {"model_dir": "s3://bucket/prefix"})
    code, out, err = run(tmp_path, SUPERVISOR_MODEL_DIR_MIRROR="off")
    assert (code, out) == (0, b"trained\n")
    assert b"has no s3:// file system: save to SM_MODEL_DIR" in err
