"""``supervisor local --faults`` as a person runs it: whole jobs, each fault, and the verdict."""

from __future__ import annotations

import os
import pathlib
import re
import signal

import pytest

from supervisor.engines.local import free_ports
from tests.helpers import cutting
from tests.helpers.job import Job, processes_with
from tests.helpers.tree import ROOT
from tests.helpers.waiting import wait_until

TRAINER = str(ROOT / "tests" / "scripts" / "fake_trainer.py")
QUICK = {"SUPERVISOR_END_GRACE_S": "2", "SUPERVISOR_STOP_LIMIT_S": "40"}
EXAMPLES = ROOT / "supervisor" / "examples"


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def trainer(
    tmp_path: pathlib.Path,
    port: int,
    faults: str,
    *more: str,
    hosts: int = 2,
    options: str = "",
    **env: str,
) -> Job:
    work = tmp_path / "work"
    work.mkdir()
    words = ["--hosts", str(hosts), "--strategy", "mwms", "--faults", faults, *options.split()]
    words += [TRAINER, "--directory", str(work), "--port", str(port), "--ranks", str(hosts)]
    words += ["--startup-s", "0", "--step-s", "0.02", "--save-every", "10", "--lost", "fail"]
    return Job(tmp_path / "run", *words, *more, **QUICK)


def verdict(job: Job) -> list[str]:
    return re.findall(r"^faults (.*)", job.output, re.MULTILINE)


def said(job: Job) -> list[str]:
    return re.findall(r"^supervisor: (fault .*)", job.output, re.MULTILINE)


@pytest.mark.twice
def test_kills_are_survived_and_what_they_cost_is_told(tmp_path: pathlib.Path, port: int) -> None:
    faults = (
        "kill algo-2 at step 15; stop worker at step 45; spoil checkpoint at step 75; "
        "kill chief at step 80"
    )
    with trainer(
        tmp_path, port, faults, "--tell", "--steps", "100", options="--faults-seed 5"
    ) as job:
        assert job.wait() == 0
        assert "what fails is started anew 3 times without progress between" in job.output
        first, second, third, fourth = said(job)
        assert re.fullmatch(
            r"fault 1 of seed 5: killed algo-2 worker \(pid \d+\), \d+\.\d s after the start", first
        )
        assert re.match(r"fault 2 of seed 5: SIGTERM to algo-[12] worker", second)
        assert re.search(r"fault 3 of seed 5: spoilt \S+/ckpt-\d+\.json \((zeros|half)", third)
        assert "fault 4 of seed 5: skipped, 'kill chief at step 80': there is no chief" in fourth
        counted, resumed = verdict(job)
        assert counted == "3 faults of seed 5, 1 skipped"
        assert re.match(
            r"resumed 2 of 2 from the last checkpoint, .*\d+ steps? done again", resumed
        )


@pytest.mark.once
def test_a_script_that_restores_nothing_is_told_so(tmp_path: pathlib.Path, port: int) -> None:
    """The job succeeds all the same; with --faults-strict that is not enough."""
    words = ("--tell", "--forget", "--steps", "60")
    with trainer(tmp_path, port, "kill at step 25", *words, options="--faults-strict") as job:
        assert job.wait() == 1
        assert job.exit_codes("algo-1", "algo-2") == [0, 0]
        assert verdict(job)[1:] == [
            "resumed 0 of 1",
            "began at step 0 after kill 1: nothing restores SUPERVISOR_CHECKPOINT_DIR",
        ]


@pytest.mark.once
def test_without_restarts_the_first_fault_ends_the_job(tmp_path: pathlib.Path, port: int) -> None:
    with trainer(tmp_path, port, "kill algo-2 every 1s", options="--restarts 0") as job:
        assert job.wait() == 137
        assert "SUPERVISOR_RESTARTS is 0: the first fault that ends a script" in job.output
        assert len(said(job)) == 1
        assert verdict(job)[1:] == ["nothing had to start anew"]


@pytest.mark.twice
def test_what_lasts_is_begun_and_undone(tmp_path: pathlib.Path, port: int) -> None:
    """Nothing fails of it, and no step is lost."""
    faults = "freeze algo-2 1s at 500ms; full disk 700ms at 2s; slow disk 500ms at 3s"
    if not cutting.why_not():
        faults += "; partition algo-2 600ms at 4s"
    with trainer(tmp_path, port, faults, "--tell", "--steps", "200") as job:
        assert job.wait() == 0
        ended = re.findall(r"^supervisor: fault (\d) is over", job.output, re.MULTILINE)
        assert ended == [str(number + 1) for number in range(len(faults.split(";")))]
        assert "not saved: [Errno 27] File too large" in job.output
        assert verdict(job)[1:] == ["nothing had to start anew"]
        for line, word in zip(
            said(job)[::2], ("froze algo-2", "full", "slow", "cut"), strict=False
        ):
            assert word in line


@pytest.mark.once
@pytest.mark.parametrize("faults", ["freeze algo-2 1h at 500ms", "full disk 1h at 500ms"])
def test_ctrl_c_undoes_what_lasts_first(tmp_path: pathlib.Path, port: int, faults: str) -> None:
    """A host that is held could not act on the stop."""
    with trainer(tmp_path, port, faults) as job:
        job.wait_for(r"supervisor: fault 1 of seed \d+: (froze|full)")
        os.kill(job.process.pid, signal.SIGINT)
        job.wait(30)
        assert len(verdict(job)) == 2
        assert "SIGCONT and SIGTERM now" not in job.output
        assert job.report("algo-2")["outcome"] == "stopped"


@pytest.mark.once
def test_a_frozen_host_does_not_hold_the_end(tmp_path: pathlib.Path, port: int) -> None:
    """The job ends while a host is frozen: it is continued then."""
    faults = "freeze algo-2 1h at 500ms; kill algo-1 at 1s"
    with trainer(tmp_path, port, faults, options="--restarts 0") as job:
        assert job.wait(30) != 0
        assert "was stopped (SIGSTOP)" not in job.output
        assert job.report("algo-2")["cause"]["host"] == "algo-1"


@pytest.mark.once
def test_nothing_stays_when_local_itself_is_killed(tmp_path: pathlib.Path, port: int) -> None:
    with trainer(tmp_path, port, "freeze algo-2 1h at 500ms") as job:
        job.wait_for("froze algo-2")
        job.process.kill()
        wait_until(lambda: not processes_with(str(tmp_path / "run")), 20, "left running")


@pytest.mark.once
@pytest.mark.parametrize("host", ["algo-1", "algo-2"])
def test_a_host_that_is_killed_comes_back(tmp_path: pathlib.Path, port: int, host: str) -> None:
    """As a platform starts a container anew; the master's as well."""
    with trainer(
        tmp_path, port, f"kill host {host} 200ms at step 25", "--tell", "--steps", "60"
    ) as job:
        assert job.wait() == 0
        assert f"supervisor: host {host} is started anew" in job.output
        assert verdict(job)[1].startswith("resumed 1 of 1 from the last checkpoint, ")
        assert job.exit_codes("algo-1", "algo-2") == [0, 0]


@pytest.mark.once
def test_a_host_that_is_killed_for_good_is_lost(tmp_path: pathlib.Path, port: int) -> None:
    faults = "kill host algo-2 for good at 500ms; kill algo-2 at 600ms"
    with trainer(tmp_path, port, faults, options="--restarts 0") as job:
        assert job.wait() == 84
        first, second = said(job)
        assert re.search(r"killed host algo-2 \(supervisor \d+ and all below it\), for good", first)
        assert re.search(r"skipped, .*: (algo-2 worker does not run just now|the job ends)", second)


def test_faults_are_refused_before_anything_starts(tmp_path: pathlib.Path) -> None:
    for words, sentence in (
        (["--faults", "kill wroker"], "'wroker'; expected a role"),
        (["--faults", "kill", "--faults-seed", "x"], "--faults-seed: found 'x'; expected"),
        (["--faults-seed", "3"], "--faults-seed: found no --faults; expected --faults WORDS"),
    ):
        with Job(tmp_path / "run", *words, TRAINER) as job:
            assert job.wait() == 80
            assert sentence in job.output
            assert not (tmp_path / "run").exists()


@pytest.mark.tensorflow
@pytest.mark.xdist_group("tensorflow")
def test_the_bundled_example_goes_on(tmp_path: pathlib.Path) -> None:
    """Its newest checkpoint is torn, and it takes the one before."""
    script = str(EXAMPLES / "parameter_server_strategy.py")
    faults = "kill worker at step 50; spoil checkpoint at step 190; kill chief at step 190"
    often = ("--steps", "400", "--report-every", "10", "--save-every", "60")
    with Job(tmp_path / "run", "--hosts", "2", "--faults", faults, script, *often) as job:
        assert job.wait(180) == 0
        (lost,) = [line for line in verdict(job) if "beside the training 1 time" in line]
        assert lost.endswith("no step lost")
        assert "is not restored: " in job.output
        assert verdict(job)[1].startswith(
            "resumed 1 of 1 from the last checkpoint, 1 of them from an older one, "
        )
        assert (job.host_dir("algo-1") / "model" / "1" / "saved_model.pb").exists()


@pytest.mark.once
def test_a_partition_that_cannot_be_is_skipped(tmp_path: pathlib.Path, port: int) -> None:
    """One host alone has nobody to be cut off from."""
    faults = "partition at 200ms"
    with trainer(tmp_path, port, faults, "--steps", "150", hosts=1) as job:
        assert job.wait() == 0
        assert "skipped, 'partition at 200ms': there is one host alone" in job.output
        assert verdict(job)[0].endswith(", 1 skipped")
