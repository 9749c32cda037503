"""Whole jobs on hosts with networks of their own: cables cut, hosts killed, stopped, late, absent.

The ports are those of production. Leases are shortened so that each test takes seconds.
"""

from __future__ import annotations

import json
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.helpers import netns
from tests.helpers.netns import Host, Network, all_run, finish, lasts
from tests.helpers.waiting import wait_until

_WHY_NOT = netns.why_not()
pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("netns"),
    pytest.mark.skipif(_WHY_NOT is not None, reason=_WHY_NOT or ""),
]

HOSTS = ("algo-1", "algo-2", "algo-3")
QUICK = {**netns.QUICK, "SUPERVISOR_MASTER_LEASE_S": "5"}

SCRIPT = """
import json, os, socket, sys, time
parts = dict(a.split("=") for a in sys.argv[1:])
part = parts.get(os.environ["SM_CURRENT_HOST"], "work")
print("part", part, flush=True)
if part == "fail":
    servers = json.loads(os.environ["TF_CONFIG"])["cluster"]["ps"]
    while servers:
        host, port = servers[0].split(":")
        try:
            socket.create_connection((host, int(port)), 1).close()
            print("serves", servers.pop(0), flush=True)
        except OSError:
            time.sleep(0.1)
    raise ValueError("loss is NaN")
while not os.path.exists(os.path.join(os.environ["SUPERVISOR_CHECKPOINT_DIR"], "finish")):
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(*HOSTS, "stranger") as made:
        yield made


Fleet = Callable[..., list[Host]]


@pytest.fixture
def fleet(network: Network, tmp_path: pathlib.Path) -> Iterator[Fleet]:
    """Lays hosts out, and starts those that are to be started."""
    made: list[Host] = []

    def lay_out(
        *arguments: str, strategy: str = "none", start: Sequence[str] = HOSTS, **env: str
    ) -> list[Host]:
        for name in HOSTS:
            host = Host(network, name, tmp_path)
            host.lay_out(HOSTS, strategy, SCRIPT, arguments)
            made.append(host)
            if name in start:
                host.start(**{**QUICK, **env})
        return made

    with netns.ended(network, made):
        yield lay_out


def test_a_cable_that_is_cut_for_longer_than_the_lease(network: Network, fleet: Fleet) -> None:
    hosts = fleet()
    all_run(hosts)
    network.cut("algo-1")
    for host in hosts[1:]:
        assert host.wait() == 83
        assert host.failure.startswith(f"{host.name}: the master algo-1 unreachable: no answer for")
    assert hosts[0].wait() == 84
    failure = hosts[0].failure
    assert failure.startswith("stopped because algo-")
    assert "failed: lost: unreachable: nothing heard for" in failure
    states = {row["name"]: row["state"] for row in hosts[0].report["members"]}
    assert set(states.values()) == {"unreachable"}


def cut(network: Network, hosts: Sequence[Host]) -> None:
    network.cut("algo-1")
    assert lasts(lambda: all(host.running for host in hosts), 2.5)
    network.join("algo-1")


def suspend_the_master(_network: Network, hosts: Sequence[Host]) -> None:
    suspend(hosts, hosts[0])


def suspend_a_member(_network: Network, hosts: Sequence[Host]) -> None:
    suspend(hosts, hosts[1])


def suspend(hosts: Sequence[Host], one: Host) -> None:
    one.signal(signal.SIGSTOP)
    assert lasts(lambda: all(host.running for host in hosts), 2.5)
    one.signal(signal.SIGCONT)


def in_touch(hosts: Sequence[Host]) -> bool:
    """Whether the master has just heard from every member, and every member from it."""
    rows = [row for host in hosts for row in host.status()["hosts"] if row["state"] != "self"]
    return len(rows) == 4 and all(row["state"] == "up" and row["last_seen_s"] < 1.5 for row in rows)


def test_what_is_shorter_than_the_lease_ends_nothing(network: Network, fleet: Fleet) -> None:
    hosts = fleet()
    all_run(hosts)
    for disturb in (cut, suspend_the_master, suspend_a_member):
        disturb(network, hosts)
        wait_until(lambda: in_touch(hosts), 20, f"out of touch after {disturb.__name__}")
    assert all(host.running for host in hosts)
    finish(hosts)


def test_lost_packets_are_no_alarm(network: Network, fleet: Fleet) -> None:
    """30 % in each direction. The lease is not the shortest here: of so many packets as a TCP
    answer needs, several are lost in a row now and then, and their repetition takes seconds."""
    hosts = fleet(SUPERVISOR_MASTER_LEASE_S="12")
    all_run(hosts)
    for host in hosts:
        network.lose(host.name, 0.3)
    assert lasts(lambda: all(host.running for host in hosts), 9)
    finish(hosts)


def test_a_master_that_is_killed_has_crashed(network: Network, fleet: Fleet) -> None:
    hosts = fleet()
    all_run(hosts)
    killed_at = time.time()
    network.kill("algo-1")
    for host in hosts[1:]:
        assert host.wait() == 83
        assert host.failure.startswith(f"{host.name}: the master algo-1 crashed: algo-1:2224")
        noticed = next(e for e in host.report["timeline"] if e["event"] == "job.ending")
        assert noticed["at"] - killed_at < 10


def test_a_name_that_appears_late(network: Network, fleet: Fleet) -> None:
    hosts = fleet(start=())
    first, _, last = hosts
    known = network.addresses
    first.know({name: known[name] for name in HOSTS[:2]})
    last.know({"algo-3": known["algo-3"]})
    for host in hosts:
        host.start(**QUICK)
    line = r"joining.waiting: waiting for "
    first.wait_for(line + r"algo-3 \(DNS\)")
    last.wait_for(line + r"algo-1 \(DNS: algo-1: ")
    waiting = first.status()
    assert (waiting["phase"], waiting["waiting"]) == ("joining", {"algo-3": "DNS"})
    first.know(known)
    last.know(known)
    all_run(hosts)
    finish(hosts)


def test_a_peer_that_comes_late(network: Network, fleet: Fleet) -> None:
    network.cut("algo-3")
    hosts = fleet(start=HOSTS[:2])
    hosts[0].wait_for(r"waiting for algo-3 \(no answer on 2224\)")
    network.join("algo-3")
    hosts[0].wait_for(r"waiting for algo-3 \(2224 refused\)")
    hosts[1].wait_for(r"waiting for algo-3 \(not heard from\)")
    hosts[2].start(**QUICK)
    all_run(hosts)
    finish(hosts)


def test_a_peer_that_never_comes_is_named_with_the_reason(fleet: Fleet) -> None:
    hosts = fleet(start=HOSTS[:2], SUPERVISOR_JOIN_TIMEOUT_S="4", SUPERVISOR_ACK_TIMEOUT_S="1")
    message = "joining timed out after 4 s, waiting for algo-3 (2224 refused)"
    for host in hosts[:2]:
        assert host.wait() == 82
        assert message in host.failure
        assert host.report["processes"][0]["pid"] is None, "nothing was started"


def test_a_master_that_never_comes_is_named_with_the_reason(fleet: Fleet) -> None:
    hosts = fleet(start=HOSTS[1:2], SUPERVISOR_JOIN_TIMEOUT_S="3")
    assert hosts[1].wait() == 82
    assert "waiting for algo-1 (algo-1:2224 refuses connections)" in hosts[1].failure


def test_a_master_that_ends_before_a_member_has_come(fleet: Fleet) -> None:
    """Whoever has come is told; the master does not wait for the one that never did."""
    hosts = fleet(start=HOSTS[:2], SUPERVISOR_ACK_TIMEOUT_S="60")
    hosts[0].wait_for(r"joining.waiting")
    hosts[0].wait_for(r"member.joined: algo-2")
    hosts[0].signal(signal.SIGTERM)
    codes = [host.wait(10) for host in hosts[:2]]
    assert codes[0] == codes[1]
    assert hosts[1].report["cause"]["host"] == "algo-1"
    assert hosts[1].report["outcome"] == "stopped"
    assert all(host.report["processes"][0]["pid"] is None for host in hosts[:2])


ASK = """
import sys, urllib.request, urllib.error
url, token, body = sys.argv[1:]
request = urllib.request.Request(url, data=body.encode(), method="PUT" if body else "GET")
request.add_header("Authorization", "Bearer " + token)
try:
    print(urllib.request.urlopen(request, timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


def test_a_stranger_can_neither_report_nor_stop(network: Network, fleet: Fleet) -> None:
    token = "correct-horse-battery"
    hosts = fleet(SUPERVISOR_TOKEN=token)
    all_run(hosts)
    cause = {"kind": "script_failed", "host": "algo-2", "message": "boo", "process": None}
    report = {"v": 1, "instance": "x", "seq": 9, "phase": "running", "script_ended": False}
    body = json.dumps(report | {"cause": cause | {"exit": None}, "heard": 0})
    url = f"http://{network.addresses['algo-1']}:2224/v1/hosts/algo-2"
    answers = {
        ("stranger", token): "403",
        ("stranger", "wrong"): "401",
        ("algo-2", "wrong"): "401",
        ("algo-3", token): "403",
    }
    for (asker, given), expected in answers.items():
        assert network.ask(asker, ASK, url, given, body).startswith(expected), (asker, given)
    status = hosts[0].status()
    assert status["phase"] == "running"
    assert status["cause"] is None
    assert token not in json.dumps(status)
    for route in ("", "metrics", "status"):
        page = f"http://{network.addresses['algo-1']}:2224/{route}"
        assert network.ask("stranger", ASK, page, "", "").startswith("200")
    finish(hosts)


def test_a_member_with_another_token_says_so_and_is_named(fleet: Fleet) -> None:
    hosts = fleet(start=(), SUPERVISOR_JOIN_TIMEOUT_S="4")
    for host, token in zip(hosts, ("first-secret", "first-secret", "other-secret"), strict=True):
        host.start(
            # The stranger's time begins when it does; the master is to be there until it is over.
            **{**QUICK, "SUPERVISOR_JOIN_TIMEOUT_S": "4", "SUPERVISOR_ACK_TIMEOUT_S": "6"},
            SUPERVISOR_TOKEN=token,
        )
    assert [host.wait() for host in hosts] == [82, 82, 82]
    for host in hosts[:2]:
        assert "algo-3 (comes without the job's token)" in host.failure
    assert "algo-1:2224 refuses the token: SUPERVISOR_TOKEN is not the master's" in hosts[2].failure
    assert not any("secret" in host.failure + host.log for host in hosts)


@pytest.mark.tensorflow
def test_a_worker_that_fails_is_named_on_every_host(fleet: Fleet) -> None:
    """With parameter servers, on the ports of production."""
    hosts = fleet("algo-3=fail", strategy="ps")
    assert [host.wait(90) for host in hosts] == [84, 84, 1]
    for name in HOSTS:
        hosts[2].wait_for(rf"│ serves {name}:2223")
    message = "ValueError: loss is NaN (script.py:15)"
    for host in hosts[:2]:
        assert host.failure.startswith(f"stopped because algo-3 worker failed: {message}")
    assert hosts[2].failure.startswith(f"algo-3 worker: {message}")


def test_the_status_port_is_bound_where_it_is_said(network: Network, fleet: Fleet) -> None:
    fleet(
        SUPERVISOR_STATUS_PORT="2300", SUPERVISOR_STATUS_BIND=network.addresses["algo-1"],
        start=HOSTS[:1],
    )  # fmt: skip

    def listening() -> set[str]:
        table = network.ask("algo-1", "print(open('/proc/net/tcp').read().strip())")
        rows = [line.split() for line in table.strip().splitlines()[1:]]
        return {row[1] for row in rows if row[3] == "0A"}

    little_endian = "".join(
        f"{int(octet):02X}" for octet in reversed(network.addresses["algo-1"].split("."))
    )
    assert wait_until(listening) == {f"{little_endian}:{2300:04X}"}
