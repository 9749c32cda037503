"""Hosts with IPv6 addresses alone, with both families, and with none of it: whole jobs."""

from __future__ import annotations

import asyncio
import errno
import json
import pathlib
import socket
from collections.abc import Callable, Iterator, Mapping

import pytest

from supervisor.cluster.net import (
    Knock,
    Resolver,
    are_refusals,
    canonical,
    connectable,
    families,
    is_wildcard,
    knock,
)
from supervisor.faults import in_words, without_number
from supervisor.life.words import place
from supervisor.plan.plan import Endpoint
from supervisor.programs import parameter_server
from tests.helpers import netns
from tests.helpers.aio import free_port
from tests.helpers.netns import Host, Network

pytestmark = pytest.mark.twice

_WHY_NOT = netns.why_not()
_no_ipv6_here = not socket.has_dualstack_ipv6()
in_namespaces = [
    pytest.mark.xdist_group("families"),
    pytest.mark.skipif(_WHY_NOT is not None, reason=_WHY_NOT or ""),
    pytest.mark.skipif(_no_ipv6_here, reason="this kernel has no IPv6"),
]
HOSTS = ("algo-1", "algo-2")
SCRIPT = """
import os, sys, time
while "hold" in sys.argv and not os.path.exists(os.environ["SUPERVISOR_CHECKPOINT_DIR"] + "/go"):
    time.sleep(0.05)
"""
QUICK = {"SUPERVISOR_LOG_FORMAT": "prefix", "SUPERVISOR_JOIN_TIMEOUT_S": "20"}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(*HOSTS, ipv6=True) as made:
        yield made


Fleet = Callable[..., list[Host]]


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Fleet]:
    network: Network = request.getfixturevalue("network")
    made: list[Host] = []

    def start(
        *arguments: str,
        overlay: Mapping[str, object] | None = None,
        names: Mapping[str, str] | None = None,
        **env: str,
    ) -> list[Host]:
        for name in HOSTS:
            host = Host(network, name, tmp_path)
            host.lay_out(HOSTS, "none", SCRIPT, arguments)
            if overlay is not None:
                path = host.base / "input" / "config" / "supervisorconfig.json"
                path.write_text(json.dumps({"hosts": overlay}))
            if names is not None:
                host.know(names)
            made.append(host)
            host.start(**QUICK | env)
        return made

    with netns.ended(network, made):
        yield start


class TestHosts:
    pytestmark = in_namespaces

    def test_hosts_with_ipv6_alone_join(self, fleet: Fleet) -> None:
        """The status port was IPv4's, and they waited for each other until the join timeout."""
        hosts = fleet("hold")
        hosts[0].wait_for("process.started")
        assert hosts[0].status()["phase"] == "running"
        for host in hosts:
            (host.base / "checkpoints" / "go").touch()
        assert [host.wait() for host in hosts] == [0, 0], hosts[0].log

    def test_addresses_instead_of_names(self, network: Network, fleet: Fleet) -> None:
        overlay = {name: {"address": address} for name, address in network.addresses.items()}
        hosts = fleet(overlay=overlay)
        assert [host.wait() for host in hosts] == [0, 0], hosts[0].log

    def test_link_local_addresses(self, network: Network, fleet: Fleet) -> None:
        """They mean nothing without their scope, which was cut off."""
        ask = "print([l.split()[0] for l in open('/proc/net/if_inet6') if 'fe80' in l][0])"
        overlay = {}
        for name in HOSTS:
            digits = network.ask(name, ask).strip()
            groups = [digits[at : at + 4] for at in range(0, 32, 4)]
            overlay[name] = {"address": f"{':'.join(groups)}%eth0"}
        hosts = fleet(overlay=overlay)
        assert [host.wait() for host in hosts] == [0, 0], hosts[0].log

    def test_a_port_that_is_bound_to_the_other_family_is_said(self, fleet: Fleet) -> None:
        hosts = fleet(SUPERVISOR_STATUS_BIND="0.0.0.0", SUPERVISOR_JOIN_TIMEOUT_S="4")
        assert [host.wait() for host in hosts] == [82, 82]
        assert "waiting for algo-2 (2224 refused over IPv6)" in hosts[0].failure
        where = "waiting for algo-1 (algo-1:2224 refuses connections over IPv6)"
        assert where in hosts[1].failure

    def test_a_name_with_an_address_that_swallows_packets(
        self, network: Network, fleet: Fleet
    ) -> None:
        """And one of a family that this machine has no way to; the other address answers."""
        known: dict[str, str] = {}
        for name in HOSTS:
            # Three lines for one name: a blank makes another key of it, and means nothing there.
            known |= {f"{name} ": "fd77::dead", f" {name}": "10.99.0.9"}
            known[name] = network.addresses[name]
        hosts = fleet(names=known)
        assert [host.wait() for host in hosts] == [0, 0], hosts[0].log


# --------------------------------------------------------------------------- parts


def test_spellings() -> None:
    assert str(Endpoint("::1", 2222)) == "[::1]:2222"
    assert str(Endpoint("10.0.0.1", 2222)) == "10.0.0.1:2222"
    assert place("algo-1", 2224) == "algo-1:2224"
    assert place("fe80::1%eth0", 2224) == "[fe80::1%eth0]:2224"
    assert connectable("FE80::0001%eth0") == "fe80::1%eth0"
    assert connectable("::ffff:10.0.0.1%eth0") == "10.0.0.1"
    assert canonical("fe80::1%eth0") == "fe80::1"
    assert [is_wildcard(each) for each in ("::", "0.0.0.0", "::1", "algo-1")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert families(["10.0.0.1"]) == ""
    assert families(["::1"]) == " over IPv6"
    assert families(["::1", "10.0.0.1"]) == " over IPv4 and IPv6"


@pytest.mark.parametrize(
    ("numbers", "refusal"),
    [
        ([errno.ECONNREFUSED], True),
        ([errno.ECONNREFUSED, errno.ECONNREFUSED], True),
        ([errno.ENETUNREACH, errno.ECONNREFUSED], True),
        ([errno.EAFNOSUPPORT, errno.ECONNREFUSED], True),
        ([errno.EHOSTUNREACH, errno.ECONNREFUSED], False),
        ([errno.ETIMEDOUT, errno.ECONNREFUSED], False),
        ([errno.ENETUNREACH], False),
        ([], False),
    ],
)
def test_what_is_a_refusal_of_a_host_with_several_addresses(
    numbers: list[int], *, refusal: bool
) -> None:
    """A family that is not to be had here hid that the other one is refused: no crash was ever
    proven."""
    assert are_refusals(numbers) is refusal


class _Known(Resolver):
    """Names as the test says; addresses are those of loopback, where packets are not lost."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self._addresses = addresses

    async def resolve(self, name: str, *, timeout_s: float) -> tuple[str, ...]:  # noqa: ARG002
        return self._addresses


def test_a_knock_tries_all_addresses_at_once() -> None:
    """One after the other, the first that swallowed packets took all of the time."""

    async def scenario() -> None:
        port = free_port()
        with (
            socket.create_server(("127.0.0.1", port), backlog=1),
            socket.create_server(("127.0.0.2", port), backlog=0) as full,
        ):
            # A full backlog: the kernel answers nothing.
            fillers = [socket.socket() for _ in range(2)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            found = await knock("x", port, resolver=_Known("127.0.0.2", "127.0.0.1"), timeout_s=5)
            assert found.knock is Knock.OPEN
            silent = await knock("x", port, resolver=_Known("127.0.0.2"), timeout_s=0.2)
            assert silent.knock is Knock.SILENT
            for filler in fillers:
                filler.close()
        refused = await knock("x", port, resolver=_Known("127.0.0.1", "127.0.0.2"), timeout_s=5)
        assert refused.knock is Knock.REFUSED
        assert refused.families == ""

    asyncio.run(scenario())


@pytest.mark.skipif(_no_ipv6_here, reason="this kernel has no IPv6")
def test_a_parameter_servers_port_that_ipv6_has_is_taken() -> None:
    port = free_port()
    with (
        socket.create_server(("::", port), family=socket.AF_INET6),
        pytest.raises(parameter_server.ServerError, match=f"port {port} is already taken"),
    ):
        parameter_server.check_port(port)
    parameter_server.check_port(port)


def test_errors_in_words() -> None:
    """``[Errno 98]`` stood in the middle of a failure text."""
    taken = OSError(errno.EADDRINUSE, "Address already in use")
    assert in_words(taken) == "Address already in use"
    quoting = OSError("Multiple exceptions: [Errno 111] no, [Errno 101] never")
    assert in_words(quoting) == "Multiple exceptions: no, never"
    assert in_words(OSError()) == "OSError"
    assert in_words(ValueError("a\nb")) == "a b"
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")
    assert without_number(str(missing)) == "No such file or directory: '/x'"
