"""Real training under ``supervisor local``: three hosts, three parameter servers, a chief and two
workers on this machine, as the first command of the README runs them; and its ways to fail."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

import supervisor
from tests.helpers import s3
from tests.helpers.job import CRASHES, Job, environment
from tests.helpers.tree import SCRIPTS

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("tensorflow")]

HOSTS = ("algo-1", "algo-2", "algo-3")
_EXAMPLES = pathlib.Path(supervisor.__file__).parent / "examples"
EXAMPLE = str(_EXAMPLES / "parameter_server_strategy.py")
EXAMPLES = {"ps": EXAMPLE, "mwms": str(_EXAMPLES / "multi_worker_mirrored_strategy.py")}
FAULTY = str(SCRIPTS / "faulty_example.py")
LONG = ("--steps", "100000")
"""More steps than anybody waits for."""
BOUND_S = 40.0
"""From the fault to the prompt: two shares of 10 s, their SIGKILLs, and a loaded machine."""

LOAD = """
import sys, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
points = tf.constant([[0.1, 0.2], [1.0, -1.0]])
print("prediction", model.signatures["serving_default"](points)["logits"].shape)
"""


def losses(output: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"step \d+/\d+ loss ([\d.]+)", output)]


def training(job: Job) -> None:
    """Wait until it really trains."""
    job.wait_for(r"algo-1 chief │ step \d+/\d+ loss", 120)


def test_the_first_command_of_the_readme(tmp_path: pathlib.Path) -> None:
    with Job(tmp_path / "run") as job:
        job.wait_for(r"algo-1 supervisor │ .* process.exited: chief", 120)
        assert job.wait(30) == 0
        assert job.exit_codes(*HOSTS) == [0, 0, 0]
        for host in HOSTS:
            assert len(re.findall(rf"{host} ps │ .* listens on port", job.output)) == 1
            assert job.succeeded(host)
        falling = losses(job.output)
        assert len(falling) >= 5
        assert falling[-1] < falling[0] / 4
        seen = job.report("algo-1")["progress"]
        assert (seen["source"], seen["step"], seen["total"]) == ("progress file", 600, 600)
        assert seen["loss"] == pytest.approx(falling[-1], abs=1e-4)
        assert seen["rate"] > 0
        ends = re.findall(r"^(?:goodput|lost:|first step after) .*", job.output, re.MULTILINE)
        gained, lost, start = ends
        assert re.fullmatch(r"goodput \d+ % of \d+ s: [\d.]+ s of new steps \(600; .*\)", gained)
        assert " of starting" in lost
        assert re.fullmatch(r"first step after [\d.]+ s: .*import [\d.]+, first step .*", start)
        model = job.host_dir("algo-1") / "model" / "1"
        loaded = subprocess.run(
            [sys.executable, "-c", LOAD, str(model)],
            env=environment(TF_CPP_MIN_LOG_LEVEL="3"),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "prediction (2, 3)" in loaded.stdout


@pytest.mark.parametrize("strategy", ["ps", "mwms"])
def test_the_bundled_examples_start_warm(tmp_path: pathlib.Path, strategy: str) -> None:
    """On hosts that join soon the interpreter is still importing when it becomes the script."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "part").write_text("to be fetched, which takes a moment")
    words = ("--hosts", "2", "--strategy", strategy, EXAMPLES[strategy], "--steps", "60")
    env = {"SUPERVISOR_WARM_START": "true", "SUPERVISOR_CHANNEL_PART": str(tmp_path / "data")}
    with Job(tmp_path / "run", *words, **env) as job:
        job.wait_for(r"algo-1 chief │ saved model|algo-1 worker │ saved model", 120)
        assert job.wait(60) == 0
        assert job.exit_codes("algo-1", "algo-2") == [0, 0]
        for host in ("algo-1", "algo-2"):
            told = job.report(host)["warm"]
            assert told == {"started": 1, "used": 1, "unused": []}, "TF_CPP_MIN_LOG_LEVEL is known"
            assert job.succeeded(host)
        assert losses(job.output)


def test_worker_servers_of_ours_and_a_master_without_a_parameter_server(
    tmp_path: pathlib.Path,
) -> None:
    """The script runs on the chief alone, unchanged, and trains on the others."""
    layout = {"SUPERVISOR_WORKER": "server", "SUPERVISOR_PS_HOSTS": "members"}
    with Job(tmp_path / "run", "--hosts", "2", **layout) as job:
        job.wait_for(r"algo-1 supervisor │ .* process.exited: chief", 120)
        assert job.wait(30) == 0
        assert job.exit_codes("algo-1", "algo-2") == [0, 0]
        assert losses(job.output)[-1] < losses(job.output)[0] / 4
        roles = {
            host: [row["role"] for row in job.report(host)["processes"]]
            for host in ("algo-1", "algo-2")
        }
        assert roles == {"algo-1": ["chief"], "algo-2": ["ps", "worker"]}


def test_the_chief_trains_on_without_a_worker_server(tmp_path: pathlib.Path) -> None:
    """A worker server holds no variables: its death is a worker's, and may be tolerated."""
    layout = {"SUPERVISOR_WORKER": "server", "SUPERVISOR_PS_HOSTS": "1"}
    words = ("--hosts", "3", "--failure-policy", "tolerate:1", EXAMPLE, "--steps", "3000")
    with Job(tmp_path / "run", *words, **layout) as job:
        training(job)
        os.kill(job.pid_of("algo-2", "worker"), signal.SIGKILL)
        job.wait_for(r"algo-1 supervisor │ .* failure.tolerated: .* without algo-2", 30)
        told = len(losses(job.output))
        job.wait_for(r"algo-1 supervisor │ .* process.exited: chief, .*: exit 0", 240)
        assert len(losses(job.output)) > told, "not one step after it"
        assert job.wait(60) == 0
        assert job.exit_codes(*HOSTS) == [0, 0, 0]
        (failed,) = job.report("algo-1")["tolerated"]
        assert (failed["host"], failed["process"]) == ("algo-2", "worker")


@pytest.mark.parametrize("strategy", ["ps", "mwms"])
def test_a_dead_proxy_is_not_asked_for_the_jobs_own_hosts(
    tmp_path: pathlib.Path, strategy: str
) -> None:
    """gRPC takes a proxy for every host: the job took not one step, and nothing said why."""
    dead = {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    words = ("--hosts", "2", "--strategy", strategy)
    with Job(tmp_path / "run", *words, no_proxy=".corp", **dead) as job:
        assert job.wait(150) == 0
        assert job.exit_codes("algo-1", "algo-2") == [0, 0]


def test_an_evaluator_reads_the_checkpoints_and_judges_the_last_one_after_the_verdict(
    tmp_path: pathlib.Path,
) -> None:
    shared, go = tmp_path / "shared", tmp_path / "go"
    shared.mkdir()
    layout = {"SUPERVISOR_WORKER": "server", "SUPERVISOR_PS_HOSTS": "1"}
    words = ("--evaluator", "last", str(SCRIPTS / "evaluated.py"), str(shared), str(go))
    with Job(tmp_path / "run", *words, **layout) as job:
        job.wait_for(r"algo-1 supervisor │ .* process.exited: chief, .*exit 0", 120)
        go.touch()
        assert job.wait(60) == 0
        assert job.exit_codes(*HOSTS) == [0, 0, 0]
        judged = re.findall(r"algo-3 evaluator │ judged step (\d+) loss ([\d.]+)", job.output)
        assert [step for step, _ in judged] == ["20", "40"], job.output
        assert float(judged[1][1]) < float(judged[0][1])
        assert "trained 40 steps, on /job:ps" in job.output
        (chief,) = [row for row in job.report("algo-1")["processes"] if row["role"] == "chief"]
        (evaluator,) = job.report("algo-3")["processes"]
        assert (evaluator["role"], evaluator["exit_code"]) == ("evaluator", 0)
        assert not evaluator["stopped_by_us"]
        assert evaluator["ended_at"] > chief["ended_at"]


@pytest.mark.parametrize(
    ("host", "after", "who"),
    [
        ("algo-1", "step 50/", "algo-1 chief"),
        ("algo-2", "worker 0 serves", "algo-2 worker"),
    ],
)
def test_an_example_that_raises(tmp_path: pathlib.Path, host: str, after: str, who: str) -> None:
    """It ends with 1, or, beside the threads of its server, by a crash of the interpreter's end.

    That is TensorFlow's: once in some hundred runs SIGSEGV or SIGABRT follows the traceback. The
    cause that is told is the exception either way. Once a chief died so before it had made a step,
    and raised nothing: then the crash is the cause, and the job is run again for the exception.
    """
    options = ("--fault-host", host, "--fault-after", after)
    for run in ("run", "run-again"):
        with Job(tmp_path / run, FAULTY, *options, *LONG) as job:
            code = job.wait(150)
            assert code in (1, *CRASHES)
            assert job.exit_codes(*HOSTS) == [code if each == host else 84 for each in HOSTS]
            raised = "RuntimeError: made to fail" in job.output
            why = "RuntimeError: made to fail" if raised else "killed by SIG"
            for each in HOSTS:
                head = (job.failure(each) or "").splitlines()[0]
                assert who in head
                assert why in head
        if raised:
            return
    pytest.fail("crashed twice before it could raise")


@pytest.mark.parametrize(
    ("host", "process", "code"),
    [("algo-1", "chief", 137), ("algo-3", "worker", 137), ("algo-2", "ps", 85)],
)
def test_an_example_of_which_a_process_is_killed(
    tmp_path: pathlib.Path, host: str, process: str, code: int
) -> None:
    with Job(tmp_path / "run", "-p", "steps=100000") as job:
        training(job)
        os.kill(job.pid_of(host, process), signal.SIGKILL)
        assert job.wait(BOUND_S) == code
        assert job.exit_codes(*HOSTS) == [code if each == host else 84 for each in HOSTS]
        for each in HOSTS:
            head = (job.failure(each) or "").splitlines()[0]
            assert f"{host} {process}" in head
            assert "SIGKILL" in head


def test_sigterm_saves_a_checkpoint_and_the_next_run_resumes_from_it(
    tmp_path: pathlib.Path,
) -> None:
    with Job(tmp_path / "run", "-p", "steps=100000") as job:
        training(job)
        job.process.send_signal(signal.SIGTERM)
        assert job.wait(BOUND_S) == 0
        stopped = job.wait_for(r"stopped by signal 15 at step (\d+), saved")
        for host in HOSTS:
            report = job.report(host)
            assert (report["outcome"], report["cause"]["kind"]) == ("stopped", "stop_requested")
            assert not job.succeeded(host)
    steps = int(stopped[1]) + 100
    with Job(tmp_path / "run", "-p", f"steps={steps}") as job:
        assert job.wait(150) == 0
        assert f"at step {stopped[1]}" in job.wait_for(r"resumed from \S+ at .*")[0]
        assert (job.host_dir("algo-1") / "model" / "1" / "saved_model.pb").exists()


def test_tensorflow_1_style_scripts_run_with_a_chief_called_master(
    tmp_path: pathlib.Path,
) -> None:
    script = str(SCRIPTS / "tensorflow_jobs.py")
    chief_name = {"SUPERVISOR_CHIEF_NAME": "master"}
    with Job(tmp_path / "run", script, "tf1", "--steps", "40", **chief_name) as job:
        assert job.wait(150) == 0
        assert "algo-1 master │ master 0 made" in job.output
        assert "total is on /job:ps" in job.output


def test_multi_worker_mirrored_strategy(tmp_path: pathlib.Path) -> None:
    with Job(tmp_path / "run", "--hosts", "2", "--strategy", "mwms") as job:
        assert job.wait(150) == 0
        assert job.exit_codes("algo-1", "algo-2") == [0, 0]
        assert (job.host_dir("algo-1") / "model" / "1" / "saved_model.pb").exists()
        assert all(row["exit_code"] == 0 for row in job.report("algo-2")["processes"]), (
            "every worker ends by itself"
        )


def test_the_example_goes_on_from_its_checkpoints_in_s3(tmp_path: pathlib.Path) -> None:
    """Killed on all hosts at once, and started again elsewhere."""
    with s3.rclone(tmp_path) as server:
        place = server.place()
        env = {
            "AWS_ACCESS_KEY_ID": s3.KEY,
            "AWS_SECRET_ACCESS_KEY": s3.SECRET,
            "SUPERVISOR_S3_ENDPOINT": server.url,
            "SUPERVISOR_S3_REGION": "us-east-1",
            "SUPERVISOR_S3_ADDRESSING": "path",
        }
        arguments = (
            "--checkpoints",
            str(place),
            EXAMPLE,
            "--save-every",
            "50",
            "--report-every",
            "50",
        )
        manifests = server.root / place.bucket / place.key / "manifests"
        with Job(tmp_path / "first", *arguments, *LONG, **env) as job:
            job.wait_for(r"checkpoint\.saved: .* \S+/000001000002-", 150)
        newest = json.loads(max(manifests.iterdir()).read_bytes())
        # The one that TensorFlow's own file names: the bundle of the next may lie there already.
        keys = {file["path"]: file["key"] for file in newest["files"]}
        named = (manifests.parent / keys["checkpoint"]).read_text()
        found = re.search(r'^model_checkpoint_path: "(?:.*/)?ckpt-(\d+)"$', named, re.MULTILINE)
        assert found, named
        step = int(found[1])
        rest = ("--steps", str(step + 100))
        with Job(tmp_path / "second", *arguments, *rest, **env) as job:
            resumed = job.wait_for(r"resumed from \S+ at step (\d+)", 150)
            assert int(resumed[1]) == step
            assert job.wait(120) == 0
            for host in HOSTS:
                fetched = rf"{host} supervisor .* storage\.fetched: .* checkpoint s3:"
                assert re.search(fetched, job.output)
        newest = json.loads(max(manifests.iterdir()).read_bytes())
        assert any(file["path"] == f"ckpt-{step + 100}.index" for file in newest["files"])
