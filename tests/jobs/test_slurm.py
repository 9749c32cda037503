"""Jobs under a real Slurm of three nodes: who stops them, what is kept, and what Slurm books.

Each way to follow processes is tried, for signals go to different ones: to everything below a task
with ``proctrack/linuxproc``, to the task alone with ``proctrack/cgroup``.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest

import supervisor
from tests.helpers import slurm
from tests.helpers.job import COMMAND, CRASHES, environment
from tests.helpers.slurm import NODES, SUPERVISOR, Cluster, Job
from tests.helpers.tree import SCRIPTS

_WHY_NOT = slurm.why_not()
_NO_CGROUPS = slurm.why_no_cgroups()
pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(_WHY_NOT is not None, reason=_WHY_NOT or ""),
]

KILL_WAIT_S = 30
SHORT_S = 8
"""A KillWait that is no time to save."""
EXAMPLES = pathlib.Path(supervisor.__file__).parent / "examples"
ENVIRON = {
    "SUPERVISOR_END_GRACE_S": "2",
    # Of this Python, for batch scripts that are printed.
    "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
}

SCRIPT = """
import os, pathlib, signal, sys, time

saving_s, steps, fails = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
place = pathlib.Path(os.environ["SUPERVISOR_CHECKPOINT_DIR"], "step")
step = int(place.read_text()) if place.exists() else 0
signals = []
signal.signal(signal.SIGTERM, lambda signum, frame: signals.append(signum))
print("begins at", step, "restarts", os.environ.get("SLURM_RESTART_COUNT", "none"), flush=True)
if os.environ["SM_CURRENT_HOST"][-2:] in fails:
    raise ValueError("loss is NaN")
first = step
while not signals and step < first + steps:
    step += 1
    time.sleep(0.01)
if signals:
    end = time.monotonic() + saving_s
    while time.monotonic() < end:
        time.sleep(0.05)
    place.write_text(str(step))
    print("saved", step, "signals", len(signals), flush=True)
else:
    print("trained", flush=True)
"""
LONG = "1000000"
AGAIN = ("--requeue", f"--signal-s={KILL_WAIT_S}", "--strategy=none", "--output=merged")

ONE = pytest.mark.parametrize("place", ["linuxproc"], indirect=True)
"""For what signals have no part in."""
Start = Callable[..., Job]


def train(*arguments: object, strategy: str = "none") -> str:
    return f"{SUPERVISOR} train --strategy {strategy} -- train.py {' '.join(map(str, arguments))}"


def printed(*options: str, arguments: Sequence[object]) -> str:
    """What ``supervisor launch slurm`` prints."""
    words = (*options, "--", "train.py", *map(str, arguments))
    return subprocess.run(
        [*COMMAND, "launch", "slurm", f"--nodes={NODES}", *words],
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
        timeout=60,
        check=True,
    ).stdout


def submitted(cluster: Cluster, directory: pathlib.Path, script: str, *options: str) -> Job:
    """A batch job in a directory with the training script."""
    directory.mkdir(parents=True)
    (directory / "train.py").write_text(SCRIPT)
    return cluster.submit(directory, script, *options, env=ENVIRON)


class Place(NamedTuple):
    proctrack: str
    cluster: Cluster
    warned: Job
    """Has a signal some seconds before its time limit. Slurm counts that by the minute, and looks
    twice a minute: it is submitted first, and looked at last."""
    limited: Job
    """Has none."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Place]]:
    kinds = ["linuxproc"] if _NO_CGROUPS else ["linuxproc", "cgroup"]
    with contextlib.ExitStack() as stack:
        made = {}
        for kind in kinds:
            directory = tmp_path_factory.mktemp(f"slurm-{kind}")
            cluster = Cluster(directory, proctrack=kind, kill_wait_s=KILL_WAIT_S)
            stack.enter_context(cluster)
            script, options = f"exec srun {train(1, LONG)}", ("--time=1", "--partition=high")
            warned = submitted(cluster, directory / "warned", script, *options, "--signal=TERM@30")
            limited = submitted(cluster, directory / "limited", script, *options)
            jobs = stack.enter_context(warned), stack.enter_context(limited)
            made[kind] = Place(kind, cluster, *jobs)
        yield made


@pytest.fixture(params=["linuxproc", "cgroup"])
def place(request: pytest.FixtureRequest, places: Mapping[str, Place]) -> Place:
    if request.param not in places:
        pytest.skip(_NO_CGROUPS or "")
    return places[request.param]


@pytest.fixture
def start(place: Place, tmp_path: pathlib.Path) -> Iterator[Start]:
    """Submits batch scripts, each in a directory of its own."""
    with contextlib.ExitStack() as stack:

        def submit(script: str, *options: str, name: str = "job") -> Job:
            job = submitted(place.cluster, tmp_path / name, script, *options)
            return stack.enter_context(job)

        yield submit


def all_begin(job: Job) -> None:
    job.wait_for(r"│ begins at", times=NODES)


def assert_all_saved(job: Job) -> None:
    """After one signal each, and every supervisor has had its last word."""
    assert len(re.findall(r"│ saved \d+ signals 1$", job.output, re.MULTILINE)) == NODES
    assert [report["exit_code"] for report in job.reports()] == [143] * NODES
    assert job.output.count("job.ended") == NODES


@ONE
def test_one_command(place: Place, start: Start) -> None:
    job = start(f"exec srun {train(0, 10)}")
    assert job.wait() == ("COMPLETED", "0:0")
    assert [report["host"] for report in job.reports()] == list(place.cluster.nodes)
    assert [report["exit_code"] for report in job.reports()] == [0] * NODES
    assert all((job.host_dir(index) / "output" / "success").exists() for index in range(NODES))
    assert job.output.count("│ trained") == NODES
    assert f"the job comes from slurm: SLURM_JOB_ID={job.id}, SLURM_STEP_ID=0" in job.output


@ONE
def test_the_script_that_is_printed(place: Place, start: Start) -> None:
    """With a file for each node."""
    job = start(printed("--strategy=none", "--output=nodes", arguments=(0, 10)))
    assert job.wait() == ("COMPLETED", "0:0")
    for node in place.cluster.nodes:
        own = (job.directory / f"train-{job.id}-{node}.out").read_text()
        assert own.count("│ trained") == own.count("job.ended") == 1
        assert f"{node} supervisor │ " in own


@ONE
@pytest.mark.parametrize("strategy", ["none", "mwms"])
def test_a_worker_fails(start: Start, place: Place, strategy: str) -> None:
    job = start(f"exec srun {train(0, LONG, 'n2', strategy=strategy)}")
    state, code = job.wait()
    assert state == "FAILED"
    assert code == "84:0"  # of all hosts' the highest
    first, second, third = (job.failure(index) for index in range(NODES))
    assert "ValueError: loss is NaN" in second
    for text in (first, third):
        assert text.startswith(f"stopped because {place.cluster.nodes[1]} worker failed")
    assert [report["exit_code"] for report in job.reports()] == [84, 1, 84]


def test_scancel(start: Start) -> None:
    job = start(f"exec srun {train(2, LONG)}")
    all_begin(job)
    job.cancel()
    assert job.wait() == ("CANCELLED", "143:0")
    assert_all_saved(job)


def test_the_save_takes_longer_than_killwait(place: Place, tmp_path: pathlib.Path) -> None:
    """Every supervisor ends before Slurm kills it: its report and its last words are there."""
    directory = tmp_path / "slurm"
    directory.mkdir()
    script = f"exec srun {train(3600, LONG)}"
    with (
        Cluster(directory, proctrack=place.proctrack, kill_wait_s=SHORT_S) as cluster,
        submitted(cluster, tmp_path / "job", script) as job,
    ):
        all_begin(job)
        job.cancel()
        assert job.wait() == ("CANCELLED", "137:0")
        assert job.output.count(f"SIGTERM; {SHORT_S}.0 s are left to stop") == NODES
        assert job.output.count("job.ended") == NODES
        assert [report["exit_code"] for report in job.reports()] == [137] * NODES
        for index in range(NODES):
            assert job.failure(index).startswith("stopped: ")


def test_preempted_and_queued_again(start: Start, place: Place) -> None:
    job = start(printed(*AGAIN, "--cpus=10", arguments=(1, 300)))
    all_begin(job)
    preemptor = start("exec true", "--partition=high", "--cpus-per-task=10", name="preemptor")
    job.wait_for(r"│ saved \d+ signals 1$", times=NODES)
    assert preemptor.wait() == ("COMPLETED", "0:0")
    assert job.wait() == ("COMPLETED", "0:0")
    assert job.fields()["Restarts"] == "1"
    saved = re.findall(r"│ saved (\d+)", job.output)
    begun = re.findall(r"│ begins at (\d+) restarts 1", job.output)
    assert len(begun) == NODES
    assert sorted(begun) == sorted(saved)
    assert [report["exit_code"] for report in job.reports()] == [0] * NODES


def test_cancelled_for_good(start: Start) -> None:
    """By whoever cancels it, and the batch script would have it queued again after a stop."""
    job = start(printed(*AGAIN, arguments=(1, LONG)))
    all_begin(job)
    job.cancel()
    assert job.wait() == ("CANCELLED", "143:0")
    assert_all_saved(job)
    assert job.fields()["Restarts"] == "0"


@ONE
def test_two_jobs_on_the_same_nodes(start: Start) -> None:
    """One ends, with an error, and the other one trains on."""
    lasting = start(f"exec srun {train(0, LONG)}", name="lasting")
    failing = start(f"exec srun {train(0, LONG, 'n3')}", name="failing")
    all_begin(lasting)
    assert failing.wait()[0] == "FAILED"
    assert lasting.state == "RUNNING"
    lasting.signal_step("TERM")
    assert lasting.wait() == ("FAILED", "143:0")
    assert_all_saved(lasting)


@ONE
def test_a_part_of_the_nodes(start: Start, place: Place) -> None:
    """The step's nodes are the job, not the allocation's."""
    job = start(f"exec srun --nodes=2 --ntasks=2 --exclude={place.cluster.nodes[1]} {train(0, 10)}")
    assert job.wait() == ("COMPLETED", "0:0")
    hosts = [report["host"] for report in job.reports(2)]
    assert hosts == [place.cluster.nodes[0], place.cluster.nodes[2]]


@ONE
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (train(0, 10), r"SLURM_STEP_NODELIST.*start it with srun"),
        (
            f"srun --overcommit --ntasks=6 --ntasks-per-node=2 {train(0, 10)}",
            r"SLURM_STEP_TASKS_PER_NODE.*2\(x3\).*--ntasks-per-node=1",
        ),
    ],
    ids=["no step", "two tasks on a node"],
)
def test_refused_in_words(start: Start, command: str, words: str) -> None:
    job = start(f"exec {command}")
    assert job.wait() == ("FAILED", "80:0")
    assert re.search(words, job.output)


def test_a_signal_before_the_time_limit(place: Place) -> None:
    assert place.warned.wait(90) == ("FAILED", "143:0")
    assert_all_saved(place.warned)


def test_the_time_limit(place: Place) -> None:
    """Slurm sends SIGTERM twice then, which is one wish. Where it sends it to everybody, the script
    cannot be spared the second one."""
    job = place.limited
    assert job.wait(150) == ("TIMEOUT", "143:0")
    assert len(re.findall(r"│ saved \d+ signals [12]$", job.output, re.MULTILINE)) == NODES
    assert [report["exit_code"] for report in job.reports()] == [143] * NODES


@ONE
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("options", "example"),
    [
        ("", "parameter_server_strategy.py"),
        ("--strategy mwms ", "multi_worker_mirrored_strategy.py"),
    ],
    ids=["ps", "mwms"],
)
def test_an_example(start: Start, options: str, example: str) -> None:
    """As it is, by one command."""
    job = start(f"exec srun {SUPERVISOR} train {options}-- {EXAMPLES / example} --steps 200")
    assert job.wait(180) == ("COMPLETED", "0:0")
    losses = [float(loss) for loss in re.findall(r"│ step \d+/200 loss ([\d.]+)", job.output)]
    assert losses[-1] < losses[0] / 2
    assert [report["exit_code"] for report in job.reports()] == [0] * NODES
    assert (job.host_dir(0) / "model" / "1" / "saved_model.pb").exists()


@ONE
@pytest.mark.tensorflow
def test_parameter_servers_outlive_the_last_checkpoint(start: Start) -> None:
    """Every process of the job has the signal, and not the supervisors alone: workers are gone
    then, and servers of ours are not."""
    example = EXAMPLES / "parameter_server_strategy.py"
    job = start(f"exec srun {SUPERVISOR} train -- {example} --steps 100000")
    job.wait_for(r"chief │ step \d+/\d+ loss", 120)
    job.cancel()
    assert job.wait(90) == ("CANCELLED", "143:0")
    assert re.search(r"chief │ .*saved", job.output)
    assert [report["exit_code"] for report in job.reports()] == [143] * NODES


@ONE
@pytest.mark.tensorflow
def test_an_example_of_which_a_worker_fails(start: Start, place: Place) -> None:
    """The cause that is told is the exception, however the worker ends: see ``CRASHES``."""
    second = place.cluster.nodes[1]
    faults = f"--fault-host {second} --fault-after 'worker 0 serves'"
    job = start(f"exec srun {SUPERVISOR} train -- {SCRIPTS / 'faulty_example.py'} {faults}")
    state, code = job.wait(180)
    exit_codes = [report["exit_code"] for report in job.reports()]
    assert exit_codes[1] in (1, *CRASHES)
    assert exit_codes == [84, exit_codes[1], 84]
    assert (state, code) == ("FAILED", f"{max(exit_codes)}:0")
    for index in range(NODES):
        first_line = job.failure(index).splitlines()[0]
        assert second in first_line or index == 1
        assert "RuntimeError: made to fail" in first_line
