"""``supervisor status``: what it shows, and its errors in one line."""

import asyncio
import contextlib
import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from supervisor.cluster.protocol import encode_cause, encode_verdict
from supervisor.status.limits import Limits
from supervisor.status.snapshot import Snapshot
from supervisor.verbs import status as status_cli
from tests.helpers.aio import free_port
from tests.helpers.cluster import CAUSE, VERDICT, master, snapshot
from tests.helpers.tree import ROOT


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("", "http://127.0.0.1:2224"),
        ("auto", "http://127.0.0.1:2224"),
        ("::", "http://127.0.0.1:2224"),
        ("0.0.0.0", "http://127.0.0.1:2224"),
        ("10.0.0.7", "http://10.0.0.7:2224"),
        ("fd77::1", "http://[fd77::1]:2224"),
    ],
)
def test_where_a_supervisor_of_this_machine_is_asked(bind: str, url: str) -> None:
    """One that was bound to another address than loopback's was not found."""
    assert status_cli.own_url({"SUPERVISOR_STATUS_BIND": bind}) == url
    assert status_cli.own_url({"SUPERVISOR_STATUS_PORT": "2300"}) == "http://127.0.0.1:2300"


def failed() -> Snapshot:
    shown = snapshot()
    shown["cause"] = encode_cause(CAUSE)
    shown["verdict"] = encode_verdict(VERDICT)
    shown["budget"] = {"limit_s": 120.0, "left_s": 99.5}
    shown["job"] = "[red]evil\x1b[2Jjob"
    return shown


async def ask(url: str, *words: str) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; from supervisor.verbs import status as s;"
        "sys.exit(s.run(sys.argv[1], as_json='json' in sys.argv, watch='watch' in sys.argv,"
        " interval_s=0.05))",
        url,
        *words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode is not None
    return child.returncode, out.decode(), error.decode()


def test_the_table_says_what_matters() -> None:
    async def scenario() -> None:
        async with master(show=failed) as it:
            code, out, error = await ask(it.url)
            assert (code, error) == (0, "")
            for word in (
                "algo-1 · running",
                "1 min 39 s left to stop",
                "verdict: failed",
                "cause: algo-2 worker: RuntimeError: loss is NaN (train.py:88); exit 1",
                "killed by SIGKILL",
                "500.0 MiB",
                "1.5 s ago",
                "[red]evil",
            ):
                assert word in out, word
            assert "\x1b" not in out

    asyncio.run(scenario())


def test_json_is_the_snapshot() -> None:
    async def scenario() -> None:
        async with master() as it:
            code, out, error = await ask(it.url.removeprefix("http://"), "json")
            assert (code, error) == (0, "")
            assert json.loads(out)["processes"][0]["name"] == "worker"

    asyncio.run(scenario())


def test_watching_goes_on_until_the_supervisor_is_gone() -> None:
    async def scenario() -> None:
        async with master(limits=Limits(cache_s=0)) as it:
            asked = 0

            def show() -> Snapshot:
                nonlocal asked
                asked += 1
                if asked == 4:
                    raise KeyError("gone")
                return snapshot()

            it.server._answers._snapshot = show
            code, out, error = await ask(it.url, "json", "watch")
            assert code == 1
            assert len(out.splitlines()) == 3
            assert "answered 503" in error

    asyncio.run(scenario())


def test_errors_are_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for url, complaint in (
            (f"127.0.0.1:{port}", "nothing listens there"),
            ("no-such-host.invalid", "no-such-host.invalid:2224: "),
            ("ftp://127.0.0.1", "give http://HOST:PORT"),
            ("http://127.0.0.1:99999", "http://127.0.0.1:99999: "),
            ("http://", "give http://HOST:PORT"),
            ("ho st\nx", ""),
        ):
            assert status_cli.run(url) == 1
            said = capsys.readouterr().err
            assert said.startswith("supervisor status: ")
            assert said.count("\n") == 1
            assert complaint in said
        with pytest.raises(status_cli.StatusError, match=r"no answer within 0\.2 s"):
            status_cli.fetch(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Somebody else's, for one connection; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection, contextlib.suppress(OSError):
                connection.recv(4096)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_an_answer_without_end_is_given_up(head: bytes) -> None:
    """One that came byte by byte was read for as long as it came."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(head)
        while not select.select([connection], [], [], 0.02)[0]:
            connection.sendall(b"x")

    with (
        server(drip) as address,
        pytest.raises(status_cli.StatusError, match=r"no whole answer within 0\.2 s"),
    ):
        status_cli.fetch(address, answer_s=0.2)


def test_an_answer_cannot_draw_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda to: to.sendall(b"HTTP/1.1 500 \x1b[31mred\r\n\r\n")) as address:
        assert status_cli.run(address) == 1
    said = capsys.readouterr().err
    assert "answered 500 \\x1b[31mred" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (11_520, "3 h 12 min"),
        (None, ""),
        ("x", ""),
        (float("inf"), ""),
        (float("nan"), ""),
        (10**400, ""),
    ],
)
def test_durations(value: object, text: str) -> None:
    assert status_cli.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 40, "5.0 TiB"),
        (None, ""),
        (10**400, ""),
    ],
)
def test_sizes(value: object, text: str) -> None:
    assert status_cli.size(value) == text
