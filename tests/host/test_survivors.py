"""What outlives a process that our stop signal ended: the training below a shell, mostly."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import signal
import time
import urllib.request

import pytest

from tests.helpers import schemas
from tests.helpers.aio import free_port
from tests.helpers.children import command
from tests.helpers.train import Script, Train, lay_out, shell
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

SLOW_S = 3.0
"""Longer than what outlives a leader that ended of its own accord has."""


def words(verb: str, *arguments: object) -> str:
    return " ".join(f"'{word}'" for word in command(verb, *arguments))


def saving(path: pathlib.Path, seconds: float = SLOW_S) -> str:
    return words("saves", seconds, path)


BELOW = {
    "a shell": "{work}\necho not reached",
    "shells below a shell": "sh -c '{bare}; true'\ntrue",
    "a session of its own": "setsid {work} &\nwait",
    "a daemon": "(setsid {work} &)\nsleep 60",
}


@pytest.mark.parametrize("how", BELOW)
def test_a_training_below_a_shell_may_save(tmp_path: pathlib.Path, how: str) -> None:
    """The shell dies of SIGTERM at once, and what it left was killed 2 s later, in the middle of
    its checkpoint, with 90 s of the grace left."""
    saved = tmp_path / "saved"
    work = saving(saved)
    lay_out(tmp_path, shell(BELOW[how].format(work=work, bare=work.replace("'", ""))))
    with Train(tmp_path, SUPERVISOR_LOG_FORMAT="raw") as train:
        train.wait_for(r"(?m)^ready")
        code = train.stop()
        assert saved.exists(), train.err
        assert code == 143, "the shell's own end is what counts"
        outlived = re.search(r"process\.outlived: .* SIGKILL follows in (\S+) s", train.err)
        assert outlived
        assert 80 < float(outlived[1]) < 100
        assert "descendants_killed" not in train.err


LAUNCHERS = {
    "subprocess.run": "import subprocess, sys\nsubprocess.run(sys.argv[1:])\n",
    "os.system": "import os, shlex, sys\nos.system(shlex.join(sys.argv[1:]) + '; true')\n",
}


@pytest.mark.parametrize("how", LAUNCHERS)
def test_a_training_below_a_launcher_may_save(tmp_path: pathlib.Path, how: str) -> None:
    """A launcher without a handler, such as ``conda run``, dies of SIGTERM as a shell does."""
    saved = tmp_path / "saved"
    lay_out(tmp_path, Script("train.py", LAUNCHERS[how]))
    given = {"sagemaker_program": "train.py"}
    config = tmp_path / "input" / "config"
    (config / "hyperparameters.json").write_text(json.dumps(given))
    arguments = [*command("saves", SLOW_S, saved)]
    (config / "supervisorconfig.json").write_text(json.dumps({"arguments": arguments}))
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^ready")
        assert train.stop() == 143
        assert saved.exists(), train.err


def test_survivors_are_asked_as_the_script_is(tmp_path: pathlib.Path) -> None:
    """They got SIGTERM where the script is stopped by another signal, and so no chance to save."""
    saved = tmp_path / "saved"
    text = (
        "import os, signal, time\n"
        f"def save(*_):\n time.sleep({SLOW_S}); open({str(saved)!r}, 'w'); os._exit(0)\n"
        "signal.signal(signal.SIGUSR1, save)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    lay_out(tmp_path, shell("python3 work.py; true"))
    (tmp_path / "code" / "work.py").write_text(text)
    with Train(tmp_path, SUPERVISOR_STOP_SIGNAL="SIGUSR1") as train:
        train.wait_for(r"(?m)^ready")
        assert train.stop() == 128 + signal.SIGUSR1
        assert saved.exists(), train.err


def test_survivors_that_obey_delay_nothing(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, shell(f"{words('plain')} & {words('obeys')}; true"))
    with Train(tmp_path) as train:
        train.wait_for(r"(?ms)^ready.*^ready")
        began = time.monotonic()
        assert train.stop() == 143
        assert time.monotonic() - began < 1.9
        assert "process.outlived" not in train.err


def test_survivors_that_stay_are_killed_with_the_grace_and_named(tmp_path: pathlib.Path) -> None:
    """Nothing said that anybody was killed below the script, and whom."""
    lay_out(tmp_path, shell(f"{words('ignores')}; true"))
    with Train(tmp_path, SUPERVISOR_STOP_GRACE_S="3", SUPERVISOR_STOP_LIMIT_S="30") as train:
        train.wait_for(r"(?m)^ready")
        began = time.monotonic()
        assert train.stop() == 143
        assert 3 < time.monotonic() - began < 10
        killed = re.search(r"process\.descendants_killed: .* ended them: (.*)", train.err)
        assert killed
        assert re.search(r"children\.py ignores \(pid \d+\)$", killed[1])


def test_a_second_stop_signal_kills_survivors_at_once(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, shell(f"setsid {words('ignores')} & wait"))
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^ready")
        train.send(signal.SIGTERM)
        train.wait_for(r"process\.outlived")
        began = time.monotonic()
        train.send(signal.SIGINT)
        assert train.wait() == 143
        assert time.monotonic() - began < 3
        assert re.search(r"process\.descendants_killed: .*ignores", train.err)


def test_what_outlives_an_end_of_its_own_accord_has_two_seconds(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, shell(f"{words('leaves', 'session-stubborn')}"))
    with Train(tmp_path) as train:
        began = time.monotonic()
        assert train.wait() == 0
        assert 2 < time.monotonic() - began < 8
        assert re.search(r"process\.outlived: .* follows in [01]\.", train.err)
        assert re.search(r"process\.descendants_killed: .*leaves", train.err)


def test_status_says_that_descendants_still_run(tmp_path: pathlib.Path) -> None:
    port = free_port()
    lay_out(tmp_path, shell(f"{words('ignores')}; true"))
    with Train(tmp_path, SUPERVISOR_STATUS_PORT=str(port)) as train:
        train.wait_for(r"(?m)^ready")

        def state() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/status") as answer:
                    return str(schemas.read("status", answer.read())["processes"][0]["state"])
            except OSError:
                return ""

        wait_until(lambda: state() == "running")
        train.send(signal.SIGTERM)
        wait_until(lambda: state() == "outlived by 1")
        train.send(signal.SIGINT)
        assert train.wait() == 143


def test_an_end_that_nobody_asked_for_leaves_its_own_share(tmp_path: pathlib.Path) -> None:
    """A job that has run its time is stopped by us as well."""
    saved = tmp_path / "saved"
    lay_out(tmp_path, shell(f"{saving(saved)}; true"))
    with Train(tmp_path, SUPERVISOR_MAX_RUNTIME_S="2") as train:
        assert train.wait() == 143
        assert saved.exists(), train.err


def test_what_a_survivor_starts_to_save_is_left_alone(tmp_path: pathlib.Path) -> None:
    """A copy to a bucket, started by a process that is being stopped, is no second job to stop."""
    saved = tmp_path / "saved"
    inner = (
        f"trap 'sh -c \"sleep 3; echo x > {saved}\"; exit 0' TERM\n"
        "echo ready\nwhile :; do sleep 0.05; done\n"
    )
    lay_out(tmp_path, shell("sh inner.sh; true"))
    (tmp_path / "code" / "inner.sh").write_text(inner)
    with Train(tmp_path) as train:
        train.wait_for(r"(?m)^ready")
        assert train.stop() == 143
        assert saved.exists(), train.err


def test_without_proc_survivors_may_save_too(tmp_path: pathlib.Path) -> None:
    """A PID namespace that shows the outer one's /proc: there they had 0.2 s."""
    saved = tmp_path / "saved"
    lay_out(tmp_path, shell(f"{saving(saved)}; true"))
    try:
        with Train(tmp_path, before=("unshare", "--pid", "--fork", "--kill-child")) as train:
            train.wait_for(r"(?m)^ready")
            assert train.stop() == 143
            assert saved.exists(), train.err
    except AssertionError:
        if "Operation not permitted" in train.err:
            pytest.skip("not permitted here: unshare --pid")
        raise


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed")
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_below_a_shell_may_save(tmp_path: pathlib.Path, ranks: int) -> None:
    """The end of a rank's shell was the end of the rank for mpirun, which left the others a second
    and us the rest."""
    work = (
        words("saves", SLOW_S, "$SAVED.$OMPI_COMM_WORLD_RANK")
        .replace("'$", '"$')
        .replace("RANK'", 'RANK"')
    )
    hyper = {
        "sagemaker_mpi_enabled": True,
        "sagemaker_mpi_num_of_processes_per_host": ranks,
    }
    lay_out(tmp_path, shell(f"{work}; true"), hyper)
    with Train(tmp_path, SAVED=str(tmp_path / "saved")) as train:
        train.wait_for(r"(?m)^\[1,0\]<stdout>:ready")
        train.wait_for(rf"(?m)^\[1,{ranks - 1}\]<stdout>:ready")
        assert train.stop() == 143
        for rank in range(ranks):
            assert (tmp_path / f"saved.{rank}").exists(), train.err
