"""Stops of a job that has not begun, or is over for some: what the exit code says of them."""

from __future__ import annotations

import json
import pathlib
import signal
from typing import Any

import pytest

from tests.helpers.aio import free_port
from tests.helpers.train import Train, lay_out, shell
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

PS = {"sagemaker_parameter_server_enabled": "true"}
HOSTS = ("algo-1", "algo-2")


def overlay(*bases: pathlib.Path) -> None:
    """Ports of their own for hosts on one machine."""
    hosts = {
        name: {
            "address": "127.0.0.1",
            "ports": {port: free_port() for port in ("train", "ps", "status")},
        }
        for name in HOSTS
    }
    for base in bases:
        path = base / "input" / "config" / "supervisorconfig.json"
        path.write_text(json.dumps({"hosts": hosts}))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_host_that_is_stopped_while_it_joins_has_trained_nothing(
    tmp_path: pathlib.Path, host: str, signum: int
) -> None:
    """It left with 0, as if the job were done, and without a failure text."""
    lay_out(tmp_path, shell("echo ran"), PS, hosts=HOSTS, current=host)
    overlay(tmp_path)
    with Train(tmp_path, SUPERVISOR_ACK_TIMEOUT_S="1") as train:
        train.wait_for("joining.waiting")
        assert train.stop(signum) == 128 + signum
        first, *rest = train.failure.splitlines()
        assert first == f"stopped: {host}: received {signal.Signals(signum).name}"
        role = "chief" if host == "algo-1" else "worker"
        assert rest == [f"{host} {role}: not started before the stop"]
        assert not (tmp_path / "output" / "success").exists()


def test_the_others_of_a_job_that_never_began_say_so_too(tmp_path: pathlib.Path) -> None:
    """A member is stopped while it prepares: the master, which waits for it, has run nothing."""
    bases = [tmp_path / name for name in HOSTS]
    for base, name in zip(bases, HOSTS, strict=True):
        lay_out(base, shell("echo ran"), PS, hosts=HOSTS, current=name)
    overlay(*bases)
    # pip is never done: it waits for an answer of a name that is a black hole.
    member_code = bases[1] / "code"
    (member_code / "train.py").write_text("print('ran')")
    hyper = bases[1] / "input" / "config" / "hyperparameters.json"
    hyper.write_text(json.dumps({"sagemaker_program": "train.py", **PS}))
    (member_code / "requirements.txt").write_text("./slow\n")
    (member_code / "slow").mkdir()
    (member_code / "slow" / "setup.py").write_text("import time; time.sleep(60)")
    env: dict[str, Any] = {"SUPERVISOR_ACK_TIMEOUT_S": "1"}
    with Train(bases[0], **env) as master, Train(bases[1], **env) as member:
        member.wait_for(r"process\.started: requirements")
        wait_until(lambda: "joining.waiting" in master.err, 20)
        assert member.stop() == 143
        assert master.wait() == 143
        assert master.failure.splitlines()[0] == "stopped: algo-2: received SIGTERM"


def test_a_script_that_was_done_before_the_stop_counts(tmp_path: pathlib.Path) -> None:
    """The chief's work is saved; that others were still training changes nothing of it."""
    bases = [tmp_path / name for name in HOSTS]
    mwms = {"sagemaker_multi_worker_mirrored_strategy_enabled": "true"}
    for base, name, text in zip(bases, HOSTS, ("true", "echo up; exec sleep 60"), strict=True):
        lay_out(base, shell(text), mwms, hosts=HOSTS, current=name)
    overlay(*bases)
    with Train(bases[0]) as master, Train(bases[1]) as member:
        master.wait_for(r"process\.exited: worker")
        member.wait_for(r"(?m)^up")
        assert member.stop() == 0
        assert master.wait() == 0
