"""Hosts that are killed, or cut off, while the job runs, and come back: each with a network of its
own, and under its name again."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.helpers import netns
from tests.helpers.netns import Host, Network, finish
from tests.helpers.waiting import wait_until

_WHY_NOT = netns.why_not()
pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("netns"),
    pytest.mark.skipif(_WHY_NOT is not None, reason=_WHY_NOT or ""),
]

HOSTS = ("algo-1", "algo-2", "algo-3")
FOUR = (*HOSTS, "algo-4")
QUICK = {
    **netns.QUICK,
    "SUPERVISOR_MASTER_LEASE_S": "3",
    "SUPERVISOR_RESTARTS": "3",
    "SUPERVISOR_REJOIN_TIMEOUT_S": "30",
}

SCRIPT = """
import json, os, time
workers = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker", ())
print("part of attempt", os.environ["SUPERVISOR_ATTEMPT"],
      "with", *(worker.partition(":")[0] for worker in workers),
      "as", json.loads(os.environ["SM_HOSTS"]), flush=True)
while not os.path.exists(os.path.join(os.environ["SUPERVISOR_CHECKPOINT_DIR"], "finish")):
    time.sleep(0.05)
"""
Fleet = Callable[..., list[Host]]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(*FOUR, "other", tag="r") as made:
        yield made


@pytest.fixture
def fleet(network: Network, tmp_path: pathlib.Path) -> Iterator[Fleet]:
    made: list[Host] = []

    def lay_out(
        strategy: str = "mwms", hosts: Sequence[str] = HOSTS, absent: int = 0, **env: str
    ) -> list[Host]:
        """``absent``: so many of the last are not started, or wait."""
        for name in hosts:
            host = Host(network, name, tmp_path)
            host.lay_out(hosts, strategy, SCRIPT, ())
            made.append(host)
            if "SUPERVISOR_SPARES" in env or name not in hosts[len(hosts) - absent :]:
                host.start(**{**QUICK, **env})
        run_at(made[: len(hosts) - absent], 1)
        return made

    with netns.ended(network, made):
        yield lay_out


def run_at(hosts: Sequence[Host], attempt: int) -> None:
    for host in hosts:
        host.wait_for(rf"│ part of attempt {attempt} ")


def kill(network: Network, host: Host) -> None:
    """Its machine is gone, with all that ran there."""
    network.kill(host.name)
    assert host.process is not None
    host.process.wait(10)


@pytest.mark.parametrize("lost", ["algo-3", "algo-1"], ids=["a member", "the master"])
def test_a_container_that_is_started_again_goes_on_with_the_job(
    lost: str, network: Network, fleet: Fleet
) -> None:
    hosts = fleet()
    host = hosts[HOSTS.index(lost)]
    for attempt in (2, 3):
        kill(network, host)
        host.start(**QUICK)
        run_at(hosts, attempt)
    finish(hosts)
    for host in hosts:
        rows = host.report["attempts"]
        assert (rows[-1]["attempt"], rows[-1]["cause"]["kind"]) == (3, "finished")
    ended = {row["attempt"]: row["kind"] for row in hosts[0].report["attempts"]}
    assert ended == {1: "lost host", 2: "lost host", 3: None}, "also those of masters before it"


def test_one_that_is_not_started_again_ends_the_job_in_time(network: Network, fleet: Fleet) -> None:
    hosts = fleet(SUPERVISOR_REJOIN_TIMEOUT_S="2")
    kill(network, hosts[2])
    for host in hosts[:2]:
        assert host.wait(30) == 84
    failure = hosts[0].failure
    assert failure.startswith("stopped because algo-3 failed: lost: crashed: ")
    assert "not back within 2 s (SUPERVISOR_REJOIN_TIMEOUT_S)" in failure


def test_a_master_that_is_not_started_again_ends_the_job_in_time(
    network: Network, fleet: Fleet
) -> None:
    hosts = fleet(SUPERVISOR_REJOIN_TIMEOUT_S="2")
    kill(network, hosts[0])
    for host in hosts[1:]:
        assert host.wait(30) == 83
        assert host.failure.startswith(f"{host.name}: the master algo-1 crashed: ")
        assert "not back within 2 s (SUPERVISOR_REJOIN_TIMEOUT_S)" in host.failure


@pytest.mark.parametrize("away", ["algo-3", "algo-1"], ids=["a member", "the master"])
def test_a_host_that_was_cut_off_for_longer_than_the_lease_goes_on_by_a_new_order(
    away: str, network: Network, fleet: Fleet
) -> None:
    hosts = fleet()
    network.cut(away)
    hosts[1].wait_for("is waited for|waited for 30 s" if away == "algo-1" else "part")
    wait_until(lambda: "is waited for" in hosts[0].log, 30, "nobody is missed")
    network.join(away)
    run_at(hosts, 2)
    finish(hosts)


def test_the_old_one_of_a_host_whose_place_is_taken_is_told_and_ends(
    network: Network, fleet: Fleet, tmp_path: pathlib.Path
) -> None:
    """Its machine was cut off, and its platform has started its container on another one."""
    hosts = fleet(SUPERVISOR_REJOIN_TIMEOUT_S="4")
    old = hosts[2]
    network.cut("algo-3")
    (tmp_path / "elsewhere").mkdir()
    moved = {**network.addresses, "algo-3": network.addresses["other"]}
    new = Host(network, "other", tmp_path / "elsewhere")
    new.lay_out(HOSTS, "mwms", SCRIPT, ())
    config = new.base / "input" / "config" / "resourceconfig.json"
    config.write_text(config.read_text().replace('"other"', '"algo-3"', 1))
    for host in (hosts[0], hosts[1], new):
        host.know(moved)
    hosts.append(new)
    new.start(**QUICK)
    run_at([hosts[0], hosts[1], new], 2)
    network.join("algo-3")
    assert old.wait() == 83
    assert "algo-1" in old.failure
    del hosts[2:]
    finish([hosts[0], hosts[1], new])


def trains(host: Host, attempt: int, numbers: str) -> None:
    """Its script has these hosts, by their numbers, in this order."""
    names = " ".join(f"algo-{number}" for number in numbers)
    listed = ", ".join(f"'algo-{number}'" for number in numbers)
    host.wait_for(rf"part of attempt {attempt} with {names} as \[{listed}\]")


def test_the_others_go_on_without_a_lost_host_and_are_whole_again_at_the_next_attempt(
    network: Network, fleet: Fleet
) -> None:
    fewer = {"SUPERVISOR_MIN_HOSTS": "2"}
    hosts = fleet(**fewer)
    kill(network, hosts[1])
    for host in (hosts[0], hosts[2]):
        trains(host, 2, "13")
    hosts[1].start(**QUICK, **fewer)
    hosts[0].wait_for("algo-2 stands by")
    assert hosts[0].status()["attempt"] == 2
    kill_script(hosts[2])
    for host in hosts:
        trains(host, 3, "123")
    finish(hosts)


def kill_script(host: Host) -> None:
    rows = host.status()["processes"]
    os.kill(next(row["pid"] for row in rows if row["name"] == "worker"), signal.SIGKILL)


def test_a_spare_takes_the_place_of_a_lost_host(network: Network, fleet: Fleet) -> None:
    hosts = fleet(hosts=FOUR, absent=1, SUPERVISOR_SPARES="1")
    trains(hosts[2], 1, "123")
    hosts[0].wait_for("algo-4 has joined|algo-4 stands by")
    kill(network, hosts[1])
    for host in (hosts[0], hosts[2], hosts[3]):
        trains(host, 2, "143")
    hosts[1].start(**QUICK, SUPERVISOR_SPARES="1")
    hosts[0].wait_for("algo-2 stands by")
    finish(hosts)
    assert hosts[1].report["cause"]["kind"] == "finished", "the spare ends with the job"


def test_a_master_that_comes_back_goes_on_with_those_that_trained(
    network: Network, fleet: Fleet
) -> None:
    both = {"SUPERVISOR_SPARES": "1", "SUPERVISOR_MIN_HOSTS": "2"}
    hosts = fleet(hosts=FOUR, absent=1, **both)
    kill(network, hosts[1])
    trains(hosts[3], 2, "143")
    kill(network, hosts[0])
    hosts[0].start(**QUICK, **both)
    for host in (hosts[0], hosts[2], hosts[3]):
        trains(host, 3, "143")
    finish([hosts[0], hosts[2], hosts[3]])


def test_a_job_begins_with_those_that_are_there(fleet: Fleet) -> None:
    env = {"SUPERVISOR_MIN_HOSTS": "2", "SUPERVISOR_JOIN_TIMEOUT_S": "2"}
    hosts = fleet(absent=1, **env)
    for host in hosts[:2]:
        trains(host, 1, "12")
    hosts[2].start(**{**QUICK, **env})
    hosts[0].wait_for("algo-3 stands by")
    kill_script(hosts[0])
    for host in hosts:
        trains(host, 2, "123")
    finish(hosts)


def test_hosts_that_depend_on_nobody_go_on_while_one_is_away(
    network: Network, fleet: Fleet
) -> None:
    hosts = fleet("none")
    kill(network, hosts[2])
    hosts[0].wait_for("algo-3 is waited for")
    hosts[2].start(**QUICK)
    hosts[2].wait_for("part of attempt 2 ")
    assert [host.status()["processes"][0]["attempt"] for host in hosts[:2]] == [1, 1]
    finish(hosts)
