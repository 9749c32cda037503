"""Whole jobs with supervisors that do not belong to them: a second one on a host, another job's,
one that was killed and started anew, one of an earlier run. On hosts with networks of their own.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from supervisor.host.coordination import FIRST_WORD_S, FLUSH_S
from tests.helpers import netns
from tests.helpers.netns import Host, Network, all_run, lasts
from tests.helpers.waiting import wait_until

_WHY_NOT = netns.why_not()
pytestmark = [
    pytest.mark.twice,
    pytest.mark.xdist_group("identity"),
    pytest.mark.skipif(_WHY_NOT is not None, reason=_WHY_NOT or ""),
]

HOSTS = ("algo-1", "algo-2", "algo-3")
QUICK = {**netns.QUICK, "SUPERVISOR_MASTER_LEASE_S": "3"}
PATIENT = {
    "SUPERVISOR_MASTER_LEASE_S": "20",
    "SUPERVISOR_MASTER_REFUSED_COUNT": "60",
    "SUPERVISOR_MASTER_REFUSED_WINDOW_S": "20",
}
"""Nothing is taken for dead before it has been started anew."""
SCRIPT = """
import os, time
print("part", flush=True)
place = os.environ["SUPERVISOR_CHECKPOINT_DIR"]
with open(os.path.join(place, "began"), "a") as file:
    file.write("x")
while not os.path.exists(os.path.join(place, "finish")):
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(*HOSTS) as made:
        yield made


Lay = Callable[..., Host]


@pytest.fixture
def lay(network: Network, tmp_path: pathlib.Path) -> Iterator[Lay]:
    """Lays a host out in a directory of its own, and starts it."""
    made: list[Host] = []

    def lay_out(
        name: str,
        *,
        place: str = "first",
        hosts: Sequence[str] = HOSTS,
        strategy: str = "none",
        start: bool = True,
        **env: str,
    ) -> Host:
        (tmp_path / place).mkdir(exist_ok=True)
        host = Host(network, name, tmp_path / place)
        host.lay_out(hosts, strategy, SCRIPT, ())
        made.append(host)
        if start:
            host.start(**{**QUICK, **env})
        return host

    with netns.ended(network, made):
        yield lay_out


def finish(hosts: Sequence[Host]) -> None:
    """As ``netns.finish``, each having run once."""
    netns.finish(hosts)
    assert [host.began for host in hosts] == [1] * len(hosts)


def kill(host: Host) -> None:
    host.network.kill(host.name)
    assert host.process is not None
    host.process.wait(10)


def again(host: Host, **env: str) -> None:
    """Kill everything of the host and start it anew, as an orchestrator does in place."""
    kill(host)
    host.start(**{**QUICK, **env})


def squatting(lay: Lay) -> Host:
    """Another job's supervisor, which has the status port of ``algo-2``."""
    squatter = lay("algo-2", place="second", hosts=("algo-2",), TRAINING_JOB_NAME="job-B")
    wait_until(lambda: serves(squatter))
    return squatter


def serves(host: Host) -> bool:
    with contextlib.suppress(subprocess.CalledProcessError):
        return bool(host.status())
    return False


@pytest.mark.parametrize(
    ("where", "names"),
    [("algo-1", ("job-A", "job-A")), ("algo-2", ("job-A", "job-B")), ("algo-2", ("", ""))],
)
def test_a_second_supervisor_on_a_host_ends_nothing_but_itself(
    lay: Lay, where: str, names: tuple[str, str]
) -> None:
    """Its "port 2224 is held" was believed by the first job's master, and ended that job."""
    hosts = [lay(name, TRAINING_JOB_NAME=names[0]) for name in HOSTS]
    all_run(hosts)
    second = lay(where, place="second", TRAINING_JOB_NAME=names[1])
    assert second.wait() == 81
    assert second.failure.startswith(f"{where}: status server: port 2224 is held by pid ")
    assert "Errno" not in second.failure
    finish(hosts)
    assert "lost" not in hosts[0].log


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("job-A", "job-A"), "algo-2 is of job job-A with other hosts than the master's"),
        (("job-A", "job-B"), "algo-2 is of job job-B, the master of job job-A"),
        (("", ""), "another supervisor of algo-2 takes part in the job and is alive"),
    ],
)
def test_a_second_supervisor_with_another_port_is_refused(
    lay: Lay, names: tuple[str, str], said: str
) -> None:
    """With its own status port it took the first one's place, and that one's script ran on."""
    hosts = [lay(name, TRAINING_JOB_NAME=names[0]) for name in HOSTS]
    all_run(hosts)
    few = HOSTS[:2] if "other hosts" in said else HOSTS
    second = lay("algo-2", place="second", hosts=few, start=False)
    ports = {"hosts": {"algo-2": {"ports": {"status": 2300}}}}
    (second.base / "input/config/supervisorconfig.json").write_text(json.dumps(ports))
    second.start(**QUICK, TRAINING_JOB_NAME=names[1])
    assert second.wait() == 82
    assert second.failure.startswith("algo-2: the master algo-1 refuses this host: algo-1:2224: ")
    assert said in second.failure
    hosts[0].wait_for(rf"member\.refused: algo-2 is refused: {said}")
    assert second.began == 0
    finish(hosts)


def test_one_that_was_there_before_the_job_is_not_taken_for_a_host_of_it(lay: Lay) -> None:
    """The master is told that its host cannot come: another job's supervisor has the port."""
    squatter = squatting(lay)
    squatter.wait_for("supervisor .* process.started")
    hosts = [lay(name, TRAINING_JOB_NAME="job-A") for name in HOSTS]
    assert hosts[1].wait() == 81
    for host in (hosts[0], hosts[2]):
        assert host.wait() == 84
        assert "algo-2" in host.failure
        assert "port 2224 is held by pid" in host.failure
    finish([squatter])


def test_a_host_that_failed_before_its_master_serves_is_not_waited_for(lay: Lay) -> None:
    """Its word was lost, and the master waited for it until the join timeout."""
    squatter = squatting(lay)
    early = lay("algo-2", TRAINING_JOB_NAME="job-A")
    wait_until(lambda: early.failure)
    time.sleep(1.5 * FLUSH_S)
    master = lay("algo-1", TRAINING_JOB_NAME="job-A")
    third = lay("algo-3", TRAINING_JOB_NAME="job-A")
    assert [host.wait() for host in (early, master, third)] == [81, 84, 84]
    assert "port 2224 is held by pid" in master.failure
    finish([squatter])


def test_a_stop_cuts_the_last_words_of_a_host_without_a_master_short(lay: Lay) -> None:
    squatter = squatting(lay)
    early = lay("algo-2", TRAINING_JOB_NAME="job-A")
    early.wait_for("job.ended")
    began = time.monotonic()
    assert early.process is not None
    early.process.send_signal(signal.SIGTERM)
    assert early.wait() == 81
    assert time.monotonic() - began < FIRST_WORD_S / 2
    finish([squatter])


def test_a_member_that_is_started_anew_while_the_job_runs_is_lost(lay: Lay) -> None:
    """It counted as joined, and the job succeeded though its script had run twice."""
    hosts = [lay(name, **PATIENT) for name in HOSTS]
    all_run(hosts)
    again(hosts[1], **PATIENT)
    assert [host.wait() for host in hosts] == [84, 82, 84]
    message = "lost: restarted: its supervisor was started anew while the job ran"
    for host in (hosts[0], hosts[2]):
        assert host.failure.startswith(f"stopped because algo-2 failed: {message}")
    assert "the job runs, and this supervisor of algo-2 was started after that" in hosts[1].failure
    assert [host.began for host in hosts] == [1, 1, 1]


def test_a_tolerated_loss_is_no_way_back_either(lay: Lay) -> None:
    settings = PATIENT | {"SUPERVISOR_FAILURE_POLICY": "tolerate:1"}
    hosts = [lay(name, **settings) for name in HOSTS]
    all_run(hosts)
    again(hosts[1], **settings)
    assert hosts[1].wait() == 82
    assert "the job runs, and this supervisor of algo-2 was started after that" in hosts[1].failure
    assert hosts[1].began == 1
    assert hosts[0].status()["tolerated"][0]["message"].startswith("lost: ")
    finish([hosts[0], hosts[2]])


def test_a_master_that_is_started_anew_while_the_job_runs_is_lost(lay: Lay) -> None:
    """Its members counted as joined, and the job succeeded without what they had lost with it.

    The whole job, started anew, succeeds.
    """
    hosts = [lay(name, **PATIENT) for name in HOSTS]
    all_run(hosts)
    again(hosts[0], **PATIENT)
    for host in hosts[1:]:
        assert host.wait() == 83
        lost = f"{host.name}: the master algo-1 restarted: another run of its supervisor answers"
        assert host.failure.startswith(lost)
    for host in hosts[1:]:
        host.start(**QUICK)
    wait_until(lambda: all(host.began == 2 for host in hosts), 30)
    for host in hosts:
        (host.base / "checkpoints" / "finish").touch()
    assert [host.wait() for host in hosts] == [0, 0, 0]


@pytest.mark.parametrize("which", [0, 1])
def test_a_host_that_is_started_anew_while_all_join_is_welcome(lay: Lay, which: int) -> None:
    """Nothing has been started yet, by anybody."""
    hosts = [lay(name, start=name != "algo-3") for name in HOSTS]
    for host in hosts[:2]:
        host.wait_for(r"joining\.waiting: waiting for algo-3")
    kill(hosts[which])
    other = hosts[1 - which]
    lost = r"master\.lost" if which == 0 else r"member\.lost"
    other.wait_for(lost + r".*crashed")
    hosts[which].start(**QUICK)
    hosts[which].wait_for(r"joining\.waiting: waiting for algo-3")
    hosts[2].start(**QUICK)
    all_run(hosts)
    finish(hosts)


def test_a_member_that_is_gone_while_all_join_is_not_counted(lay: Lay) -> None:
    """It had joined; then it was killed. The others began without it."""
    hosts = [lay(name, start=name != "algo-3") for name in HOSTS]
    hosts[0].wait_for(r"member\.joined: algo-2")
    kill(hosts[1])
    hosts[0].wait_for(r"member\.lost: algo-2")
    hosts[2].start(**QUICK)
    hosts[0].wait_for(r"member\.joined: algo-3")
    assert lasts(lambda: not hosts[0].began, 1)
    hosts[1].start(**QUICK)
    all_run(hosts)
    finish(hosts)


def test_a_thawed_member_of_an_earlier_run_takes_no_part(lay: Lay) -> None:
    """It was stopped (SIGSTOP) when its job ended, and went on in the next one as if it had
    joined that."""
    hosts = [lay(name) for name in HOSTS]
    all_run(hosts)
    frozen = hosts[1]
    frozen.signal(signal.SIGSTOP)
    for host in (hosts[0], hosts[2]):
        again(host)
    hosts[0].wait_for(r"member\.joined: algo-3")
    frozen.signal(signal.SIGCONT)
    assert frozen.wait() == 83
    assert "algo-1 restarted: another run of its supervisor answers" in frozen.failure
    assert hosts[0].began == 1, "nobody has joined in its place"
    frozen.start(**QUICK)
    wait_until(lambda: all(host.began == 2 for host in hosts), 30)
    for host in hosts:
        (host.base / "checkpoints" / "finish").touch()
    assert [host.wait() for host in hosts] == [0, 0, 0]


def test_a_master_that_leaves_while_all_join_says_so(lay: Lay) -> None:
    """SIGTERM and SIGINT: the master ended with 87, "results could not be sent", and waited 15 s
    for a host that had never come; the member waited for its whole join timeout."""
    hosts = [lay(name, start=name != "algo-3") for name in HOSTS]
    hosts[0].wait_for(r"member\.joined: algo-2")
    hosts[0].signal(signal.SIGTERM)
    hosts[0].signal(signal.SIGINT)
    codes = [host.wait(10) for host in hosts[:2]]
    assert codes[0] == codes[1] != 87
    assert hosts[1].report["cause"]["host"] == "algo-1"
    assert hosts[1].report["outcome"] == "stopped"
    assert hosts[1].began == 0
