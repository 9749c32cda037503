"""Attempts with real training: what fails is started anew beside what lives, and TensorFlow takes
it back. The scopes are those of ``life/attempts.py``."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

import supervisor
from tests.helpers.job import Job, environment
from tests.helpers.waiting import wait_until

EXAMPLES = pathlib.Path(supervisor.__file__).parent / "examples"
PATIENCE_S = 120.0
RESTARTS = {"SUPERVISOR_RESTARTS": "3"}
"""One for each kill of a test: the next may come before there is a checkpoint."""
OFTEN = ("--report-every", "10", "--save-every", "20")

tensorflow = pytest.mark.tensorflow
one_at_a_time = pytest.mark.xdist_group("tensorflow")


def told(job: Job, pattern: str) -> list[str]:
    return re.findall(pattern, job.output, re.MULTILINE)


def wait_for_another(job: Job, pattern: str, known: int) -> str:
    """The latest match, once there are more than ``known``."""

    def look() -> str:
        assert job.process.poll() is None, f"the job ended without {pattern!r}"
        found = told(job, pattern)
        return found[-1] if len(found) > known else ""

    return wait_until(look, PATIENCE_S, f"no other {pattern!r} in time")


def pids(job: Job, host: str, process: str) -> list[int]:
    """Of every attempt."""
    started = rf"^{host} supervisor .* process\.started: {process} runs, pid (\d+)"
    return [int(pid) for pid in told(job, started)]


def killed(job: Job, host: str, process: str) -> None:
    """Kill it, and wait until another attempt has begun for that."""
    known = len(told(job, r"attempt\.restarted: attempt"))
    os.kill(pids(job, host, process)[-1], signal.SIGKILL)
    line = wait_for_another(job, rf"attempt\.restarted: (attempt {known + 2}\b.*)", 0)
    assert f"{host} {process}: killed by SIGKILL" in line


def steps(job: Job, host: str, process: str) -> list[int]:
    return [int(step) for step in told(job, rf"^{host} {process} │ step (\d+)/\d+ loss")]


def wait_for_steps(job: Job, process: str, known: int) -> None:
    """Of the chief, on algo-1: it trains."""
    wait_for_another(job, rf"^algo-1 {process} │ step (\d+)/\d+ loss", known)


def resumed(job: Job) -> list[int]:
    return [int(step) for step in told(job, r"resumed from \S+ at step (\d+)")]


def loads(model: pathlib.Path) -> bool:
    code = "import sys, tensorflow as tf; tf.saved_model.load(sys.argv[1]); print('loaded')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        env=environment(TF_CPP_MIN_LOG_LEVEL="3"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return "loaded" in done.stdout


@tensorflow
@one_at_a_time
def test_the_only_worker_then_a_parameter_server_then_the_chief(tmp_path: pathlib.Path) -> None:
    """The chief can take no step without the worker, so that one has work again. What is restarted
    with a parameter server or the chief goes on from the last checkpoint, and the worker stays the
    first time."""
    script = str(EXAMPLES / "parameter_server_strategy.py")
    words = ("--hosts", "2", script, "--steps", "800", *OFTEN)
    with Job(tmp_path / "run", *words, **RESTARTS) as job:
        wait_for_steps(job, "chief", 2)
        killed(job, "algo-2", "worker")
        wait_for_another(job, "^algo-2 worker │ (worker 0 serves)", 1)
        wait_for_steps(job, "chief", len(steps(job, "algo-1", "chief")) + 1)
        assert len(pids(job, "algo-1", "chief")) == 1
        done = steps(job, "algo-1", "chief")
        assert done == list(range(10, done[-1] + 1, 10)), "a step was lost or done twice"
        assert not resumed(job)
        ends = [("algo-2", "ps", 2), ("algo-1", "chief", 3)]
        for number, (host, process, workers) in enumerate(ends, 1):
            killed(job, host, process)
            wait_for_another(job, r"resumed from \S+ at (step) \d+", number - 1)
            # Three reports on there is another checkpoint: it has come further.
            wait_for_steps(job, "chief", len(steps(job, "algo-1", "chief")) + 2)
            assert resumed(job)[-1] >= 20 * number
            assert len(pids(job, "algo-2", "worker")) == workers
        assert job.wait(PATIENCE_S) == 0
        assert job.exit_codes("algo-1", "algo-2") == [0, 0]
        assert [len(pids(job, host, "ps")) for host in ("algo-1", "algo-2")] == [3, 3]
        assert steps(job, "algo-1", "chief")[-1] == 800
        assert loads(job.host_dir("algo-1") / "model" / "1")


@tensorflow
@one_at_a_time
def test_all_workers_of_collectives_start_anew(tmp_path: pathlib.Path) -> None:
    script = str(EXAMPLES / "multi_worker_mirrored_strategy.py")
    words = ("--hosts", "2", "--strategy", "mwms", script, "--steps", "300", *OFTEN)
    with Job(tmp_path / "run", *words, **RESTARTS) as job:
        wait_for_steps(job, "worker", 3)
        killed(job, "algo-2", "worker")
        assert job.wait(PATIENCE_S) == 0
        assert job.exit_codes("algo-1", "algo-2") == [0, 0]
        (step,) = resumed(job)
        assert step >= 20
        done = steps(job, "algo-1", "worker")
        assert done[-1] == 300
        assert step + 10 in done[done.index(step) + 1 :]
        assert loads(job.host_dir("algo-1") / "model" / "1")


# --------------------------------------------------------------------------- without TensorFlow

SCRIPT = """
import os, pathlib, sys, time
go = pathlib.Path(sys.argv[1])
attempt = os.environ["SUPERVISOR_ATTEMPT"]
print(f"attempt {attempt} after {os.environ.get('SUPERVISOR_LAST_CAUSE', 'nothing')}.", flush=True)
while not go.exists():
    time.sleep(0.01)
print(f"ended in attempt {attempt}", flush=True)
"""


@pytest.mark.once
@pytest.mark.parametrize(
    ("strategy", "options", "process"),
    [("none", (), "worker"), ("mwms", ("--evaluator", "last"), "evaluator")],
)
def test_a_host_that_nobody_waits_for_starts_its_script_anew_alone(
    tmp_path: pathlib.Path, strategy: str, options: tuple[str, ...], process: str
) -> None:
    """A host without a distribution, and an evaluator."""
    go, script = tmp_path / "go", tmp_path / "train.py"
    script.write_text(SCRIPT)
    words = ("--hosts", "3", "--strategy", strategy, *options, str(script), str(go))
    with Job(tmp_path / "run", *words, SUPERVISOR_RESTARTS="2") as job:
        for host in ("algo-1", "algo-2"):
            job.wait_for(rf"{host} \w+ │ attempt 1 after nothing\.")
        for attempt in (1, 2):
            job.wait_for(rf"algo-3 {process} │ attempt {attempt} after ")
            os.kill(pids(job, "algo-3", process)[-1], signal.SIGKILL)
        cause = f"algo-3 {process}: killed by SIGKILL"
        job.wait_for(rf"algo-3 {process} │ attempt 3 after {cause} ")
        go.touch()
        assert job.wait() == 0
        assert job.exit_codes("algo-1", "algo-2", "algo-3") == [0, 0, 0]
        for host, attempt in (("algo-1", 1), ("algo-2", 1), ("algo-3", 3)):
            assert told(job, rf"^{host} \w+ │ ended in attempt (\d)$") == [str(attempt)]
