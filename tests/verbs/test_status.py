"""``supervisor status``: what it shows, and its errors in one line."""

import asyncio
import contextlib
import json
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cluster.protocol import encode_cause, encode_verdict
from supervisor.status.limits import Limits
from supervisor.status.snapshot import HostRow, Snapshot
from supervisor.verbs import job as all_hosts
from supervisor.verbs import status as status_cli
from supervisor.verbs.asking import StatusError, fetch, own_url
from tests.helpers.aio import free_port, until
from tests.helpers.cluster import CAUSE, VERDICT, master, snapshot, training
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
    assert own_url({"SUPERVISOR_STATUS_BIND": bind}) == url
    assert own_url({"SUPERVISOR_STATUS_PORT": "2300"}) == "http://127.0.0.1:2300"


def failed() -> Snapshot:
    shown = snapshot()
    shown["cause"] = encode_cause(CAUSE)
    shown["verdict"] = encode_verdict(VERDICT)
    shown["budget"] = {"limit_s": 120.0, "left_s": 99.5}
    shown["job"] = "[red]evil\x1b[2Jjob"
    shown["attempt"], shown["restarts"] = 4, 3
    return shown


async def ask(url: str, *words: str) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; from supervisor.verbs import status as s;"
        "sys.exit(s.run(sys.argv[1], {}, as_json='json' in sys.argv, watch='watch' in sys.argv,"
        " job='job' in sys.argv, interval_s=0.05))",
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
                "attempt 4",
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


@pytest.mark.parametrize("words", [(), ("job",)])
def test_training_is_told_in_a_few_lines(words: tuple[str, ...]) -> None:
    async def scenario() -> None:
        async with master(show=lambda: training(runs=2)) as it:
            code, out, error = await ask(it.url, *words)
            assert (code, error) == (0, "")
            for line in (
                "step 1,234 of 10,000, 0.2 /s, 10 h 41 min left, loss 0.346 (event files, logs/<b>",
                "goodput 92 % of 1 h 38 min: 1 h 30 min of new steps (1,230; 0.2 /s)",
                "lost: 5 min of steps done again, 2 min down, 1 min of starting, 31 s of fetching",
                "all 2 runs: goodput 89 % of ",
                "first step after 71 s: fetch 31 (algo-3), join 0.4, import 6.3, first step 33",
                "a save takes 4.2 s, one every 1 min, by the failures so far every 3 min would be",
            ):
                assert line in out, line

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
            assert status_cli.run(url, {}) == 1
            said = capsys.readouterr().err
            assert said.startswith("supervisor status: ")
            assert said.count("\n") == 1
            assert complaint in said
        with pytest.raises(StatusError, match=r"no answer within 0\.2 s"):
            fetch(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)


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
        pytest.raises(StatusError, match=r"no whole answer within 0\.2 s"),
    ):
        fetch(address, answer_s=0.2)


def test_an_answer_cannot_draw_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda to: to.sendall(b"HTTP/1.1 500 \x1b[31mred\r\n\r\n")) as address:
        assert status_cli.run(address, {}) == 1
    said = capsys.readouterr().err
    assert "answered 500 \\x1b[31mred" in said
    assert "\x1b" not in said


# --------------------------------------------------------------------------- the end


def ended() -> Snapshot:
    shown = failed()
    shown["phase"], shown["exit_code"] = "done", 84
    return shown


def test_watching_ends_with_the_job_and_its_exit_code() -> None:
    """It froze on ``publishing`` and said that nothing listens."""

    async def scenario() -> None:
        async with master(limits=Limits(cache_s=0)) as it:
            watching = asyncio.create_task(ask(it.url, "watch"))
            await until(lambda: bool(it.server._feed._clients))
            it.server._answers._snapshot = ended
            await it.server.stop()
            code, out, error = await watching
            assert (code, error) == (1, ""), "the job's, as the master said it"
            assert "the job has ended: failed, algo-2 worker: RuntimeError: loss is NaN" in out

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("verdict", "own", "code"), [({"exit_code": 42}, 84, 42), ({}, 143, 143), (None, None, 1)]
)
def test_whose_exit_code_it_is(verdict: object, own: object, code: int) -> None:
    assert status_cli.job_code({"verdict": verdict, "exit_code": own}) == code


# --------------------------------------------------------------------------- all hosts at once


def rows(count: int) -> list[HostRow]:
    return [
        {"name": f"algo-{n}", "phase": "running", "state": "up", "last_seen_s": 0.5}
        for n in range(1, count + 1)
    ]


def test_a_thousand_hosts_are_folded_and_the_worst_come_first() -> None:
    hosts = rows(1000)
    hosts[700] |= {"state": "crashed", "last_seen_s": 31.0}
    hosts[800] |= {"phase": "joining"}
    hosts[900] |= {"state": "unreachable", "last_seen_s": 12.0}
    cause = {"host": "algo-555", "process": "worker", "message": "KeyError: 'x' (bug.py:5)"}
    lines = all_hosts.lines_of({"hosts": hosts, "cause": cause}, 12)
    assert len(lines) <= 12
    assert [line.name for line in lines[:4]] == ["algo-555", "algo-701", "algo-901", "algo-801"]
    assert lines[0].culprit
    assert lines[0].note == "worker: KeyError: 'x' (bug.py:5)"
    assert sum(line.count for line in lines) == 1000
    assert re.fullmatch(r"and 9\d\d hosts", lines[-1].name)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "name": st.text(max_size=8),
                "phase": st.sampled_from(["joining", "running", "done", None]),
                "state": st.sampled_from(["up", "self", "crashed", "unseen", "done", None]),
                "last_seen_s": st.none() | st.floats(),
            }
        ),
        max_size=60,
    ),
    st.integers(1, 40),
)
def test_every_host_is_counted_and_the_screen_suffices(
    hosts: list[dict[str, object]], most: int
) -> None:
    lines = all_hosts.lines_of({"hosts": hosts}, most)
    assert sum(line.count for line in lines) == len(hosts)
    kinds = {(row["phase"], row["state"]) for row in hosts}
    assert len(lines) <= max(most, 1 + len(kinds))
    assert not any("\x1b" in line.name for line in lines)


def test_the_job_on_one_screen() -> None:
    def shown() -> Snapshot:
        made = failed()
        made["hosts"] = rows(1000)
        made["waiting"] = {"algo-9": "DNS"}
        return made

    async def scenario() -> None:
        async with master(show=shown) as it:
            code, out, _error = await ask(it.url, "job")
            assert code == 0
            lines = out.splitlines()
            assert len(lines) <= 40
            assert "1000 hosts" in lines[0]
            assert "waiting for algo-9 (DNS)" in out
            assert lines[4].startswith("algo-2 "), "the culprit is on top"
            assert "RuntimeError: loss is NaN" in lines[4]

    asyncio.run(scenario())


def test_a_member_sends_the_question_to_its_master() -> None:
    async def scenario() -> None:
        def member() -> Snapshot:
            return snapshot() | {"host": "algo-2", "master": "localhost"}

        async with master(show=member, is_master=False) as it:
            code, out, error = await ask(it.url, "job")
            assert code == 0, error  # it is asked again, under the master's name
            assert "running" in out

    asyncio.run(scenario())
