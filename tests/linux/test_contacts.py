"""Whether anybody ever connected to a host's servers."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import time

import pytest

from supervisor.linux import contacts
from supervisor.linux.contacts import Contact, Servers
from tests.helpers.aio import free_port
from tests.helpers.job import Job
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.xdist_group("floods")  # not beside one: its connections are too many

# Of /proc/net/tcp and tcp6: a listener, its connection, a client's end, one in TIME_WAIT.
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout"
TABLE = [
    HEAD,
    "   0: 00000000:08AF 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1",
    "   1: 0100007F:08AF 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1",
    "   2: 0100007F:9C40 0100007F:08B0 01 00000000:00000000 00:00000000 00000000     0        0 1",
    "   3: 00000000000000000000000000000000:08B0 00000000000000000000000000000000:0000 0A 0 0 0 0",
    "   4: 0100007F:08B1 0100007F:9C41 06 00000000:00000000 03:00000F00 00000000     0        0 0",
    "",
    "cut off",
    "   5: nothing:here nothing:there 01",
]


def test_what_the_kernels_table_tells_of_a_port() -> None:
    ports = frozenset({0x08AF, 0x08B0, 0x08B1, 0x08B2})
    assert contacts.seen(TABLE, ports) == ({0x08AF, 0x08B0}, {0x08AF, 0x08B0, 0x08B1})
    assert contacts.seen(TABLE, frozenset()) == (set(), set())


@pytest.mark.parametrize(
    ("looks", "unused_s"),
    [
        ([], 0),
        ([(0, False, False)], 0),  # it is still loading TensorFlow
        ([(0, False, False), (4, True, False)], 6),
        ([(4, True, False), (6, True, False)], 6),
        ([(4, True, False), (6, True, True)], 0),
        ([(4, True, True), (6, True, False)], 0),  # once is enough
        ([(4, True, False), (6, False, False)], 6),  # it ended
        ([(4, False, True)], 0),
    ],
)
def test_how_long_a_server_has_listened_for_nobody(
    looks: list[tuple[float, bool, bool]], unused_s: float
) -> None:
    contact = Contact()
    for now_s, listens, connected in looks:
        contact = contact.look(now_s, listens=listens, connected=connected)
    assert contact.unused_s(10) == unused_s


@pytest.fixture
def readable_table() -> None:
    """Of more connections than the program looks at, as after another test's flood, the kernel
    forgets those that are over after a minute."""
    wait_until(lambda: contacts._rows(contacts._TABLES) is not None, 90)


def bind(server: socket.socket) -> None:
    """To a port that no client ever has: it is by ports alone that connections are known."""
    server.bind(("127.0.0.1", free_port()))


@pytest.mark.usefixtures("readable_table")
def test_a_connection_of_before_is_remembered_and_our_own_check_of_a_port_is_none() -> None:
    with socket.socket() as server, socket.socket() as other:
        for each in (server, other):
            bind(each)
            each.listen()
        servers = Servers({"ps": server.getsockname()[1], "worker": other.getsockname()[1]})
        servers.look(0.0)
        assert servers.unused(10.0, ended=True) == ["ps", "worker"]
        assert servers.unused(1.0, ended=True) == []
        assert servers.unused(10.0, ended=False) == [], "a chief may be reading its data"
        assert servers.unused(1000.0, ended=False) == ["ps", "worker"]
        with socket.create_connection(server.getsockname()):
            servers.look(1.0)
        servers.look(2.0)
        assert servers.unused(10.0, ended=True) == ["worker"]
        assert not servers.settled
        with socket.create_connection(other.getsockname()):
            servers.look(3.0)
        assert servers.settled


def test_where_the_kernel_does_not_tell_nothing_is_claimed(tmp_path: pathlib.Path) -> None:
    servers = Servers({"ps": 2223}, tables=(str(tmp_path / "none"),))
    servers.look(0.0)
    assert servers.settled
    assert servers.unused(1000.0, ended=True) == []
    servers = Servers({"worker": 2223}, own=True, tables=(str(tmp_path / "none"),))
    servers.look(0.0)
    assert servers.unused(1000.0, ended=True) == []


@pytest.mark.usefixtures("readable_table")
def test_a_script_of_collectives_opens_its_port() -> None:
    with socket.socket() as server:
        bind(server)
        servers = Servers({"worker": server.getsockname()[1]}, own=True)
        servers.look(0.0)
        assert servers.unused(4.0, ended=True) == [], "a script of a moment"
        assert servers.unused(20.0, ended=True) == ["worker"]
        assert servers.unused(1000.0, ended=False) == []
        assert "MultiWorkerMirroredStrategy" in servers.words(["worker"])
        server.listen()
        servers.look(20.0)
        assert servers.settled
    servers.look(21.0)
    assert servers.unused(40.0, ended=True) == []


PLAIN = """
import json, os, socket, time
here = json.loads(os.environ["TF_CONFIG"])
print("ready", flush=True)
if here["task"]["type"] in ("chief", "master"):
    host, port = here["cluster"]["ps"][0].rsplit(":", 1)
    while not os.path.exists("../go"):
        time.sleep(0.05)
    os._exit(0)
time.sleep(600)
"""


@pytest.mark.tensorflow
@pytest.mark.usefixtures("readable_table")
def test_a_script_that_never_speaks_to_the_parameter_servers_is_told_so(
    tmp_path: pathlib.Path,
) -> None:
    """A plain Keras script trained three separate models under ``supervisor local``, exit 0, and
    nothing said that nobody ever spoke to the parameter servers."""
    script = tmp_path / "code" / "plain.py"
    script.parent.mkdir()
    script.write_text(PLAIN)
    with Job(tmp_path / "run", "--hosts", "2", str(script)) as job, contextlib.ExitStack() as held:
        ports = [
            int(job.wait_for(rf"{host} ps │ .* listens on port (\d+)", 60)[1])
            for host in ("algo-1", "algo-2")
        ]
        held.enter_context(socket.create_connection(("127.0.0.1", ports[0])))
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > contacts.LEAST_S + 2, 30)
        (tmp_path / "go").touch()
        assert job.wait() == 0
        rows = [line for line in job.output.splitlines() if "servers.unused" in line]
        (row,) = rows
        assert row.startswith("algo-2 supervisor")
        assert f"the parameter server (port {ports[1]}) of this host" in row
        assert "tf.distribute.ParameterServerStrategy" in row
        assert "note   nobody ever connected to the servers of algo-2: " in job.output
        for host, unused in (("algo-1", []), ("algo-2", ["ps"])):
            assert job.report(host)["unused_servers"] == unused
