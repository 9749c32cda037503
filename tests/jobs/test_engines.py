"""Jobs that are told by variables alone, on hosts with networks of their own: the same script and
one command on each platform.

What sets the variables is played here; Slurm's own are in ``test_slurm.py``.
"""

from __future__ import annotations

import json
import pathlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest

import supervisor
from tests.helpers import netns
from tests.helpers.netns import Host, Network

_WHY_NOT = netns.why_not()
pytestmark = [
    pytest.mark.twice,
    pytest.mark.xdist_group("netns"),
    pytest.mark.skipif(_WHY_NOT is not None, reason=_WHY_NOT or ""),
]

EXAMPLES = pathlib.Path(supervisor.__file__).parent / "examples"
PODS = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
SERVICES = {
    # Of Services called supervisor and supervisor-status, in the pods' namespace.
    "SUPERVISOR_SERVICE_HOST": "10.96.0.7",
    "SUPERVISOR_PORT": "tcp://10.96.0.7:80",
    "SUPERVISOR_STATUS_PORT": "tcp://10.96.0.8:2224",
}

SCRIPT = """
import os, signal, sys, time
host, culprit = os.environ["SM_CURRENT_HOST"], sys.argv[1]
def stop(*_):
    open(os.path.join(os.environ["SUPERVISOR_CHECKPOINT_DIR"], "saved"), "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("part", sys.argv[1:], flush=True)
if host == culprit:
    raise ValueError("loss is NaN")
while culprit != "nobody":
    time.sleep(0.05)
"""


class Platform(NamedTuple):
    """Names of the hosts, the master first, and the variables of each."""

    hosts: Sequence[str]
    environ: Callable[[Sequence[str], int], Mapping[str, str]]


def _cluster(tasks: Sequence[str]) -> Callable[[Sequence[str], int], dict[str, str]]:
    """A TF_CONFIG as the operator of a TFJob writes it, every task at 2222."""

    def environ(hosts: Sequence[str], index: int) -> dict[str, str]:
        cluster: dict[str, list[str]] = {}
        for host, task in zip(hosts, tasks, strict=True):
            cluster.setdefault(task, []).append(f"{host}:2222")
        own = tasks[: index + 1].count(tasks[index]) - 1
        this = {"type": tasks[index], "index": own}
        config = {"cluster": cluster, "task": this, "environment": "cloud"}
        return {**PODS, **SERVICES, "TF_CONFIG": json.dumps(config)}

    return environ


def _indexed(hosts: Sequence[str], index: int) -> dict[str, str]:
    own = {
        "JOB_COMPLETION_INDEX": str(index),
        "HOSTNAME": f"train-{index}",
        "SUPERVISOR_HOST_COUNT": str(len(hosts)),
        "SUPERVISOR_HOST_DOMAIN": "job",
    }
    return {**PODS, **SERVICES, **own}


PS = Platform(("job-chief-0", "job-worker-0", "job-ps-0"), _cluster(("chief", "worker", "ps")))
MWMS = Platform(("job-worker-0", "job-worker-1"), _cluster(("worker", "worker")))
INDEXED = Platform(("train-0.job", "train-1.job"), _indexed)
LISTED = Platform(("a", "b"), lambda hosts, _index: {"SUPERVISOR_HOSTS": ",".join(hosts)})
NAMES = {*PS.hosts, *MWMS.hosts, *INDEXED.hosts, *LISTED.hosts}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(*sorted(NAMES)) as made:
        yield made


Fleet = Callable[..., list[Host]]


@pytest.fixture
def fleet(network: Network, tmp_path: pathlib.Path) -> Iterator[Fleet]:
    made: list[Host] = []

    def start(platform: Platform, *words: str, **env: str) -> list[Host]:
        for index, name in enumerate(platform.hosts):
            host = Host(network, name, tmp_path)
            made.append(host)
            told = platform.environ(platform.hosts, index)
            host.start(*words, **{**netns.QUICK, "SUPERVISOR_LOG_FORMAT": "prefix", **told, **env})
        return made

    with netns.ended(network, made):
        yield start


@pytest.fixture
def script(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return str(path)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("platform", "example", "engine"),
    [
        pytest.param(PS, "parameter_server_strategy.py", "tf_config", id="TFJob"),
        pytest.param(INDEXED, "parameter_server_strategy.py", "kubernetes", id="Indexed Job"),
        pytest.param(LISTED, "parameter_server_strategy.py", "hosts", id="SUPERVISOR_HOSTS"),
        pytest.param(MWMS, "multi_worker_mirrored_strategy.py", "tf_config", id="TFJob, mwms"),
    ],
)
def test_an_example_unchanged_with_one_command(
    fleet: Fleet, platform: Platform, example: str, engine: str
) -> None:
    hosts = fleet(platform, str(EXAMPLES / example), "--steps", "60")
    for host in hosts:
        host.wait_for(rf"engine\.chosen: the job comes from {engine}: ", 60)
    for host in hosts:
        assert host.wait(180) == 0, host.log
        assert host.failure == ""
    assert "loss" in hosts[0].log
    roles = [row["role"] for host in hosts for row in host.report["processes"]]
    servers = 0 if platform is MWMS else 1 if platform is PS else 2
    assert roles.count("ps") == servers
    assert (hosts[0].base / "model" / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize("platform", [MWMS, INDEXED, LISTED], ids=["TFJob", "Indexed Job", "list"])
def test_a_worker_that_fails_is_the_cause_on_every_host(
    fleet: Fleet, platform: Platform, script: str
) -> None:
    culprit = platform.hosts[1]
    hosts = fleet(platform, "--strategy", "mwms", script, culprit)
    assert [host.wait() for host in hosts] == [84, 1]
    for host in hosts:
        assert "ValueError: loss is NaN" in host.failure
        cause = host.report["cause"]
        assert (cause["host"], cause["process"]) == (culprit, "worker")
    assert hosts[0].failure.startswith(f"stopped because {culprit} worker failed")


@pytest.mark.parametrize(
    ("platform", "code"), [(MWMS, 143), (INDEXED, 143), (LISTED, 0)], ids=["TFJob", "Job", "list"]
)
def test_a_stop_is_not_booked_as_done_where_that_matters(
    fleet: Fleet, platform: Platform, code: int, script: str
) -> None:
    """All scripts saved and left with 0: Kubernetes took the half-trained job for complete."""
    hosts = fleet(platform, "--strategy", "mwms", script, "no host of these")
    for host in hosts:
        host.wait_for(r"worker │ part")
    hosts[0].signal(signal.SIGTERM)
    assert [host.wait() for host in hosts] == [code] * len(hosts)
    for host in hosts:
        assert (host.base / "checkpoints" / "saved").exists()
        assert host.report["outcome"] == "stopped"
