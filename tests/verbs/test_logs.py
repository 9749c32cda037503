"""`supervisor logs`: of a local run from its files, of any job over the status port."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

from supervisor.status.lines import Lines
from supervisor.streams.masking import Masker
from supervisor.streams.recent import Recent, Source
from tests.helpers.cluster import master
from tests.helpers.job import COMMAND, Job, environment
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

SCRIPT = """
import os, sys, time
print("hello from", os.environ["SM_CURRENT_HOST"], flush=True)
sys.stderr.write("a warning\\n")
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
print("last words", flush=True)
"""


def ask(*words: str, cwd: pathlib.Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "logs", *words],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=60, env=environment(**env),
    )  # fmt: skip


def job(tmp_path: pathlib.Path, *, place: str = "run", **env: str) -> Job:
    script = tmp_path / "s.py"
    script.write_text(SCRIPT)
    go = str(tmp_path / "go")
    run = tmp_path / place
    run.parent.mkdir(exist_ok=True)
    return Job(run, "--hosts", "2", "--strategy", "none", str(script), go, **env)


def all_run(job: Job) -> None:
    for host in ("algo-1", "algo-2"):
        job.wait_for(rf"{host} \w+ │ hello from {host}")
        job.wait_for(rf"{host} \w+ │ a warning")


def test_the_files_of_a_local_run(tmp_path: pathlib.Path) -> None:
    """While it runs, to its end with ``--follow``, and afterwards; the newest run is found."""
    with job(tmp_path, place="supervisor-runs/one") as running:
        all_run(running)
        out = ask(cwd=tmp_path).stdout
        assert "algo-1 chief │ hello from algo-1\n" in out
        assert "algo-2 worker │ a warning\n" in out
        assert ask("algo-2", cwd=tmp_path).stdout.count("algo-1") == 0
        with subprocess.Popen(
            [*COMMAND, "logs", "--follow", "--from", "supervisor-runs/one", "--role", "worker"],
            cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment(),
        ) as follower:  # fmt: skip
            assert follower.stdout is not None
            assert "algo-2 worker │" in follower.stdout.readline()
            (tmp_path / "go").touch()
            assert running.wait() == 0
            assert "algo-2 worker │ last words\n" in follower.stdout.read()
            assert follower.wait(30) == 0
    out = ask("--lines", "1", cwd=tmp_path).stdout
    assert sorted(out.splitlines()) == ["algo-1 chief │ last words", "algo-2 worker │ last words"]
    nobody = ask("algo-9", cwd=tmp_path)
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "algo-9: no host of this run; it has algo-1, algo-2" in nobody.stderr


def test_over_the_port_of_any_host(tmp_path: pathlib.Path) -> None:
    """A run without files: each host relays the other's lines, and the token is wanted."""
    env = {"SUPERVISOR_LOG_FILES": "false", "SUPERVISOR_TOKEN": "geheim-geheim"}
    with job(tmp_path, **env) as running:
        all_run(running)
        config = running.host_dir("algo-1") / "input/config/supervisorconfig.json"
        places = json.loads(config.read_text())["hosts"]
        url = f"127.0.0.1:{places['algo-2']['ports']['status']}"
        refused = ask("--from", url, cwd=tmp_path)
        assert refused.returncode == 1
        assert "SUPERVISOR_TOKEN" in refused.stderr
        out = ask("--from", url, cwd=tmp_path, **env).stdout
        assert "algo-1 chief │ hello from algo-1\n" in out
        assert "algo-2 worker │ a warning\n" in out
        assert "algo-1 supervisor │ " in out
        only = ask("algo-1", "--role", "chief", "--lines", "1", "--from", url, cwd=tmp_path, **env)
        assert only.stdout.count("\n") == 1
        follower = subprocess.Popen(
            [*COMMAND, "logs", "algo-1", "-f", "--from", url],
            stdout=subprocess.PIPE, text=True, env=environment(**env),
        )  # fmt: skip
        with follower:
            assert follower.stdout is not None
            for line in follower.stdout:
                if "hello from" in line:
                    break
            (tmp_path / "go").touch()
            assert running.wait() == 0
            assert "algo-1 chief │ last words\n" in follower.stdout.read()
            assert follower.wait(30) == 0


FLOOD = """
import sys, time
print("begin", flush=True)
line = b"x" * 1023 + b"\\n"
began = time.monotonic()
for _ in range(60_000):
    sys.stdout.buffer.write(line)
sys.stdout.buffer.flush()
print("took", time.monotonic() - began, file=sys.stderr)
"""


def test_a_reader_that_stands_still_costs_the_job_nothing(tmp_path: pathlib.Path) -> None:
    """60 MB of output, while one reader of it is stopped and another has never read a byte."""
    script, go = tmp_path / "s.py", tmp_path / "go"
    awaits = f"""
import pathlib, time
print("awaits its readers", flush=True)
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.05)
"""
    script.write_text(awaits + FLOOD)
    words = ("--hosts", "1", "--log-files", "false", str(script))
    with Job(tmp_path / "run", *words) as running:
        running.wait_for(r"process\.started: chief")
        config = running.host_dir("algo-1") / "input/config/supervisorconfig.json"
        port = json.loads(config.read_text())["hosts"]["algo-1"]["ports"]["status"]

        def connect() -> socket.socket | None:
            try:
                return socket.create_connection(("127.0.0.1", port), 5)
            except ConnectionRefusedError:
                return None

        deaf = wait_until(connect)
        assert deaf is not None
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET /logs HTTP/1.1\r\nHost: x\r\n\r\n")
        stopped = subprocess.Popen(
            [*COMMAND, "logs", "-f", "--from", f"127.0.0.1:{port}"],
            stdout=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        assert stopped.stdout is not None
        stopped.stdout.readline()
        stopped.send_signal(signal.SIGSTOP)
        go.touch()
        try:
            assert running.wait(60) == 0
            report = running.report("algo-1")
            (chief,) = report["processes"]
            assert chief["output_bytes"] > 60_000_000
            assert report["seconds"] < 40
            assert "status.error" not in running.output
        finally:
            stopped.send_signal(signal.SIGCONT)
            rest = stopped.stdout.read()
            stopped.wait(30)
            stopped.stdout.close()
            deaf.close()
    assert b"are missing here" in rest, "what it did not read in time is said"


def test_a_connection_that_breaks_is_made_again(tmp_path: pathlib.Path) -> None:
    """It goes on after the last line that was read."""

    async def scenario() -> None:
        recent = Recent()
        source = Source("chief", "chief", "stdout")
        recent.add(source, b"one\n")
        lines = Lines(recent, host="algo-1", mask=Masker(()))
        async with master(lines=lines) as it:
            child = await asyncio.create_subprocess_exec(
                *COMMAND, "logs", "algo-1", "-f", "--from", it.url,
                stdout=subprocess.PIPE, env=environment(),
            )  # fmt: skip
            assert child.stdout is not None
            async with asyncio.timeout(30):
                assert await child.stdout.readline() == "algo-1 chief │ one\n".encode()
                for connection in list(it.server._connections):
                    connection.abort()
                recent.add(source, b"two\n")
                assert await child.stdout.readline() == "algo-1 chief │ two\n".encode()
                await it.server.stop()
                assert await child.stdout.read() == b""
                assert await child.wait() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "no run lies below ./supervisor-runs"),
        (("--from", "."), "no run of supervisor local lies there"),
        (("--from", "127.0.0.1:1"), "nothing listens there"),
    ],
)
def test_where_there_is_nothing_it_is_said(
    tmp_path: pathlib.Path, words: Sequence[str], complaint: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "supervisor", "logs", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=environment() if words else environment() | {"SUPERVISOR_STATUS_BIND": "127.0.0.9"},
    )  # fmt: skip
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_pipe_that_is_closed_is_no_error(tmp_path: pathlib.Path) -> None:
    logs = tmp_path / "run/algo-1/output/supervisor/logs"
    logs.mkdir(parents=True)
    (logs / "chief.log").write_text("line\n" * 100_000)
    config = tmp_path / "run/algo-1/input/config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text('{"hosts": ["algo-1"]}')
    command = " ".join([*COMMAND, "logs", "--from", "run"])
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} | head -1"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert done.stdout == "algo-1 chief │ line\n"
    assert done.stderr == ""
    assert os.path.exists(logs)
