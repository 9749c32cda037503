"""Where a job has its directory on a host, and what a supervisor started there says and leaves."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping

import pytest

from supervisor.contract import record
from supervisor.contract.facts import Asked
from supervisor.engines import choosing
from supervisor.engines.choosing import site_of
from supervisor.verbs import runs
from tests.helpers.job import COMMAND, environment
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

SCRIPT = ("train.py", "--lr", "0.1")
STEP = {
    "SLURM_JOB_ID": "42",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-3]",
    "SLURM_NODEID": "2",
}
LIST = {"SUPERVISOR_HOSTS": "a,b", "SUPERVISOR_HOST_INDEX": "1"}


@pytest.fixture(autouse=True)
def work(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choosing, "DEFAULT_BASE_DIR", str(tmp_path / "opt-ml"))
    return tmp_path


def base_dir(environ: Mapping[str, str], *command: str, **flags: str) -> str:
    site = site_of(environ, Asked(flags, command))
    return os.path.relpath(site.base_dir)


@pytest.mark.parametrize(
    ("environ", "command", "directory"),
    [
        ({}, SCRIPT, "supervisor-runs/train/host-0"),
        ({}, ("-m", "pkg.train"), "supervisor-runs/pkg/host-0"),
        ({}, (), "opt-ml"),
        (LIST, SCRIPT, "supervisor-runs/train/host-1"),
        (STEP, SCRIPT, "supervisor-runs/slurm-42/host-2"),
        ({**STEP, "SAGEMAKER_BASE_DIR": "mine"}, SCRIPT, "mine"),
        ({**STEP, "SUPERVISOR_BASE_DIR": "jobs/a"}, SCRIPT, "jobs/a/host-2"),
        ({**LIST, "SUPERVISOR_BASE_DIR": "jobs/a", "SAGEMAKER_BASE_DIR": "x"}, (),
         "jobs/a/host-1"),
        ({"SAGEMAKER_JOB_NAME": "a/b"}, SCRIPT, "supervisor-runs/a_b/host-0"),
    ],
)  # fmt: skip
def test_the_directory(environ: dict[str, str], command: tuple[str, ...], directory: str) -> None:
    assert base_dir(environ, *command) == directory


def test_opt_ml_where_it_can_be_used(work: pathlib.Path) -> None:
    (work / "opt-ml").mkdir()
    assert base_dir(LIST, *SCRIPT) == "opt-ml"
    # Jobs share the nodes of Slurm: two would be in one place.
    assert base_dir(STEP, *SCRIPT) == "supervisor-runs/slurm-42/host-2"
    assert base_dir({}, *SCRIPT, base_dir="b") == "b/host-0"


def test_the_files_are_found_wherever_the_directory_is(work: pathlib.Path) -> None:
    config = work / "job" / "input" / "config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text("{}")
    for variable in ("SAGEMAKER_BASE_DIR", "SUPERVISOR_BASE_DIR"):
        site = site_of({variable: "job", **STEP}, Asked())
        assert (site.engine.name, os.path.relpath(site.base_dir)) == ("sagemaker", "job")


# --------------------------------------------------------------------------- from the outside


def run(work: pathlib.Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words],
        cwd=work,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_script_with_one_command_and_where_its_things_are(work: pathlib.Path) -> None:
    (work / "train.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.getcwd(), os.environ['SM_MODEL_DIR'])\n"
    )
    done = run(work, "train", *SCRIPT, SUPERVISOR_ENGINE="local")
    model = work / "supervisor-runs" / "train" / "host-0" / "model"
    assert done.stdout == f"['--lr', '0.1'] {work} {model}\n"
    assert done.returncode == 0
    assert "engine.chosen" not in done.stderr, "somebody has said that it is a host alone"
    found = runs.newest()
    assert found is not None
    read = runs.read(found)
    assert read is not None
    [host] = read.hosts
    assert host.name == "localhost"
    report = host.report()
    assert report is not None
    assert report["exit_code"] == 0
    assert "succeeded" in run(work, "report").stdout
    stray = run(work, "train", "train.py", "--log-format", "json", SUPERVISOR_ENGINE="local")
    assert "--log-format after train.py is the script's" in stray.stderr
    module = run(work, "train", "--", "-m", "train", "x", SUPERVISOR_ENGINE="local")
    assert module.stdout.startswith("['x'] ")


def test_a_script_below_the_contracts_code(work: pathlib.Path) -> None:
    code = work / "base" / "code"
    code.mkdir(parents=True)
    (code / "other.py").write_text("print('other')\n")
    done = run(work, "train", "other.py", SAGEMAKER_BASE_DIR=str(work / "base"))
    assert done.stdout == "other\n"
    none = run(work, "train", "no.py", SAGEMAKER_BASE_DIR=str(work / "base"))
    assert none.returncode == 80
    assert f"command line: SCRIPT: found 'no.py'; expected a file below {code}" in none.stderr


def test_a_directory_that_cannot_be_made(work: pathlib.Path) -> None:
    (work / "file").write_text("")
    done = run(work, "train", "train.py", SUPERVISOR_BASE_DIR=str(work / "file"))
    assert done.returncode == 80
    assert "SUPERVISOR_BASE_DIR: found " in done.stderr
    assert "which cannot be made (Not a directory)" in done.stderr


@contextlib.contextmanager
def started(work: pathlib.Path, *words: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with open(work / "log", "wb") as log:
        process = subprocess.Popen(
            [*COMMAND, *words], cwd=work, env=environment(**env), stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def test_status_finds_the_port_by_the_directory(work: pathlib.Path) -> None:
    (work / "train.py").write_text("import signal\nsignal.pause()\n")
    port = "31999"
    env = {"SUPERVISOR_ENGINE": "local", "SUPERVISOR_STATUS_PORT": port}
    with started(work, "train", "train.py", **env):

        def told() -> str:
            return run(work, "status").stdout

        assert wait_until(lambda: "localhost · running" in told(), 30, "no status")
        assert "localhost · running" in run(work, "status", "supervisor-runs/train").stdout


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (STEP, "slurm (SLURM_JOB_ID=42, SLURM_STEP_ID=0"),
        ({**LIST, "SUPERVISOR_HOSTS": "localhost", "SUPERVISOR_HOST_INDEX": "0"}, "hosts ("),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes (KUBERNETES_SERVICE_HOST=10.0.0.1)"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["localhost:2222"]}, "task": {"type": "worker"}}'},
         "tf_config (TF_CONFIG, task worker 0)"),
        ({}, "local (no variables of a platform)"),
    ],
)  # fmt: skip
def test_doctor_on_each_engine(work: pathlib.Path, environ: dict[str, str], said: str) -> None:
    (work / "train.py").write_text("")
    done = run(work, "doctor", "--json", "train.py", **environ)
    checks = json.loads(done.stdout)["checks"]
    [engine] = [each for each in checks if each["check"] == "engine" and each["state"] == "ok"]
    assert engine["found"].startswith(said)
    assert "are the script's" in engine["found"]
    entry = next(each for each in checks if each["check"] == "entry point")
    assert (entry["state"], entry["found"]) == ("ok", "train.py")
    if "KUBERNETES_SERVICE_HOST" in environ and not os.path.exists("/dev/termination-log"):
        warned = [each for each in checks if each["check"] == "engine" and each["state"] == "warn"]
        assert "/dev/termination-log cannot be written" in warned[0]["found"]


def test_doctor_tells_what_is_wrong_with_a_variable(work: pathlib.Path) -> None:
    done = run(work, "doctor", "train.py", **{**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x3)"})
    assert done.returncode == 1
    assert "SLURM_STEP_TASKS_PER_NODE: '2(x3)'" in done.stdout


def test_the_platforms_file_is_written_in_place(work: pathlib.Path) -> None:
    """A kubelet mounts it, so that nothing can be renamed to it; a pod without one has none."""
    log, other = work / "termination-log", work / "none"
    log.write_text("what an earlier container said, and longer than this one")
    inode = log.stat().st_ino
    assert record.tell_platform((str(log), str(other)), "stopped: algo-1: received SIGTERM") is None
    assert log.read_text() == "stopped: algo-1: received SIGTERM"
    assert log.stat().st_ino == inode
    assert not other.exists()
    link = work / "link"
    link.symlink_to(log)
    assert "was not written" in (record.tell_platform((str(link),), "x") or "")
