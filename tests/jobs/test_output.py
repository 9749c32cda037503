"""What a host's output promises, at the installed command: ``supervisor train`` with a real
script, seen through real pipes and a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pathlib
import pty
import random
import re
import select
import signal
import struct
import subprocess
import termios
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pytest

from supervisor.contract.contract import read_contract
from supervisor.contract.settings import BY_ENV
from supervisor.plan.plan import make_plan
from supervisor.streams import DEFAULT_TEMPLATE, Label
from supervisor.streams.decode import decode_json, decode_prefix
from tests.contract.test_contract import HYPER, facts
from tests.helpers import schemas
from tests.helpers.aio import free_port
from tests.helpers.job import COMMAND, Job, environment, processes_with
from tests.helpers.train import Script, Train, lay_out
from tests.helpers.tree import ROOT
from tests.helpers.waiting import wait_until
from tests.streams.test_streams import FIXED

pytestmark = pytest.mark.twice

OUT = Label("algo-1", "chief", "stdout")
ERR = Label("algo-1", "chief", "stderr")
QUIET = {"SUPERVISOR_LOG_LEVEL": "error"}

COPY = """
    import os
    for fd, name in ((1, "OUT"), (2, "ERR")):
        with open(os.environ[name], "rb") as file:
            data = file.read()
        size = int(os.environ["SIZE"])
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            while piece:
                piece = piece[os.write(fd, piece):]
"""


def train(
    base: pathlib.Path,
    script: str,
    env: Mapping[str, str] = MappingProxyType({}),
    *,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    shell: str = 'exec "$@"',
) -> Train:
    """A host that runs ``script``; ``shell`` starts the command, which is ``"$@"``."""
    lay_out(base, Script("script.py", textwrap.dedent(script)))
    env = {
        "SUPERVISOR_STATUS_PORT": str(free_port()),
        "SUPERVISOR_STATUS_BIND": "127.0.0.1",
        **env,
    }
    before = ("/bin/sh", "-c", shell, "sh")
    return Train(base, before=before, stdout=stdout, stderr=stderr, preexec=None, **env)


def payloads() -> tuple[bytes, bytes]:
    """Nasty bytes for stdout and others for stderr."""
    dice = random.Random(20)
    words = [*FIXED.values(), *(dice.randbytes(size) for size in (1, 17, 4096, 70_001))]
    out = b"\n".join(words)
    dice.shuffle(words)
    return out, b"".join(words) + b"no newline at the end"


def copying(base: pathlib.Path, out: bytes, err: bytes, size: int, env: Mapping[str, str]) -> Train:
    """A host whose script writes ``out`` and ``err``, ``size`` bytes at a time."""
    base.mkdir()
    (base / "out").write_bytes(out)
    (base / "err").write_bytes(err)
    paths = {"OUT": str(base / "out"), "ERR": str(base / "err"), "SIZE": str(size)}
    return train(base / "host", COPY, {**paths, **env})


# --------------------------------------------------------------------------- fidelity


@pytest.mark.parametrize("size", [7, 4096, 1 << 20])
def test_raw_is_byte_for_byte(tmp_path: pathlib.Path, size: int) -> None:
    out, err = payloads()
    with copying(tmp_path / "a", out, err, size, QUIET) as host:
        assert host.outputs() == (out, err)
        assert host.wait() == 0
        assert host.output_row("stdout")["written_bytes"] == len(out)
        (process,) = host.report["processes"]
        assert process["output_bytes"] == len(out) + len(err)


@pytest.mark.parametrize("size", [61, 1 << 20])
def test_prefix_and_json_decode_back(tmp_path: pathlib.Path, size: int) -> None:
    out, err = payloads()
    keep = {"SUPERVISOR_LOG_PROGRESS": "keep"}
    template = "{host} {role} {stream} {time} {mark} "
    with copying(
        tmp_path / "prefix",
        out,
        err,
        size,
        {
            "SUPERVISOR_LOG_FORMAT": "prefix",
            "SUPERVISOR_LOG_PREFIX": template,
            "SUPERVISOR_LOG_COLOR": "always",
            **keep,
        },
    ) as host:
        written, others = host.outputs()
        assert decode_prefix(written, template) == {OUT: out}
        assert decode_prefix(others, template)[ERR] == err
    with copying(
        tmp_path / "json", out, err, size, {"SUPERVISOR_LOG_FORMAT": "json", **keep}
    ) as host:
        written, others = host.outputs()
        assert decode_json(written) == {OUT: out}
        assert decode_json(others) == {ERR: err}
        assert b'"event": "process.exited"' in others


def test_the_default_prefix_is_one_that_decodes(tmp_path: pathlib.Path) -> None:
    assert BY_ENV["SUPERVISOR_LOG_PREFIX"].default == DEFAULT_TEMPLATE
    text = b"one\n" + b"x" * 40_000 + b"\n  two"
    with copying(tmp_path / "a", text, b"", 4096, {"SUPERVISOR_LOG_FORMAT": "prefix"}) as host:
        written, others = host.outputs()
        assert decode_prefix(written) == {Label("algo-1", "chief", ""): text}
        assert "algo-1 supervisor │ " in others.decode()
        assert max(map(len, written.split(b"\n"))) < 16 * 1024, "Docker cuts lines at 16 KiB"


def test_both_streams_to_stdout(tmp_path: pathlib.Path) -> None:
    with copying(
        tmp_path / "a", b"out\n", b"err\n", 10, {"SUPERVISOR_LOG_STREAMS": "stdout"}
    ) as host:
        written, others = host.outputs()
        assert sorted(written.split()) == [b"err", b"out"]
        assert b"err\n" not in others
        assert b"process.started" in others, "our own words stay on stderr"


IN_TURN = """
    import os, sys
    for number in range(2000):
        os.write(1, b"out %d\\n" % number)
        os.write(2, b"err %d\\n" % number)
    raise RuntimeError("loss is NaN")
"""


@pytest.mark.parametrize("kind", ["raw", "prefix", "json"])
def test_one_pipe_keeps_the_order_between_the_streams(tmp_path: pathlib.Path, kind: str) -> None:
    """They came through two pipes, and what was read from them first was anybody's guess, even
    where both went to one place. The error's last words are found in the one pipe as well."""
    env = {
        "SUPERVISOR_LOG_STREAMS": "merge",
        "SUPERVISOR_LOG_FORMAT": kind,
        "SUPERVISOR_LOG_FILES": "true",
    }
    wanted = b"".join(b"out %d\nerr %d\n" % (number, number) for number in range(2000))
    with train(tmp_path, IN_TURN, env) as host:
        written, others = host.outputs()
        label = Label("algo-1", "chief", "stdout")
        if kind == "json":
            written = decode_json(written)[label]
        elif kind == "prefix":
            written = decode_prefix(written)[Label("algo-1", "chief", "")]
        assert written.startswith(wanted)
        assert b"RuntimeError: loss is NaN" in written[len(wanted) :]
        assert b"err 1\n" not in others
        assert b"process.started" in others, "our own words stay on stderr"
        first, *detail = host.failure.splitlines()
        assert first.startswith("algo-1 chief: RuntimeError: loss is NaN (script.py:6); exit 1")
        assert "Traceback (most recent call last):" in detail
        assert host.log_file().read_bytes().startswith(wanted)


def test_one_pipe_is_as_whole_as_two(tmp_path: pathlib.Path) -> None:
    out, err = payloads()
    env = {**QUIET, "SUPERVISOR_LOG_STREAMS": "merge"}
    with copying(tmp_path / "a", out, err, 1 << 20, env) as host:
        written, others = host.outputs()
        assert (len(written), others) == (len(out) + len(err), b"")
        assert host.report["processes"][0]["output_bytes"] == len(written)


def test_the_last_words_before_sigkill_are_there(tmp_path: pathlib.Path) -> None:
    script = """
        import os, signal
        os.write(1, b"first\\nlast words")
        os.write(2, b"famous ones")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    for form in ("raw", "prefix", "json"):
        with train(tmp_path / form, script, {"SUPERVISOR_LOG_FORMAT": form}) as host:
            written, others = host.outputs()
            assert host.wait() == 137
            assert b"last words" in written
            assert b"famous ones" in others
            assert "SIGKILL" in host.failure


def test_a_python_script_is_unbuffered_unless_it_chose() -> None:
    for given, seen in ((None, "1"), ("", "")):
        environ = {} if given is None else {"PYTHONUNBUFFERED": given}
        plan = make_plan(read_contract(facts(HYPER, environ=environ)))
        assert plan.processes[-1].env["PYTHONUNBUFFERED"] == seen


def test_lines_come_out_while_the_script_runs(tmp_path: pathlib.Path) -> None:
    """Not only at its end: ``print`` without ``flush`` reaches us, line and half line."""
    script = """
        import time
        print("whole line")
        print("half line", end="")
        time.sleep(600)
    """
    with train(tmp_path / "a", script, {"SUPERVISOR_LOG_FORMAT": "prefix"}) as host:
        assert host.process.stdout is not None
        fd = host.process.stdout.fileno()
        seen = bytearray()

        def both_there() -> bool:
            if select.select([fd], [], [], 0.05)[0]:
                seen.extend(os.read(fd, 4096))
            return seen.decode() == "algo-1 chief │ whole line\nalgo-1 chief ┆ half line\n"

        wait_until(both_there, 30, "the lines did not come")
        host.process.send_signal(signal.SIGTERM)
        host.wait()


# --------------------------------------------------------------------------- amounts

WRITERS = 32
LINES = 2_000

MANY_WRITERS = f"""
    import os, sys
    pids = []
    for writer in range({WRITERS}):
        pid = os.fork()
        if not pid:
            for number in range({LINES}):
                os.write(1, b"%d %d %s\\n" % (writer, number, b"x" * ((writer * number) % 300)))
            os._exit(0)
        pids.append(pid)
    sys.exit(max(os.waitpid(pid, 0)[1] for pid in pids))
"""


@pytest.mark.parametrize("form", ["raw", "prefix", "json"])
def test_many_writers_none_missing_none_torn(tmp_path: pathlib.Path, form: str) -> None:
    """Lines up to ``PIPE_BUF`` are written to a pipe whole (pipe(7)); they stay whole."""
    with train(tmp_path / "a", MANY_WRITERS, {"SUPERVISOR_LOG_FORMAT": form}) as host:
        written, _ = host.outputs(120)
        assert host.wait() == 0
    if form == "prefix":
        written = decode_prefix(written)[Label("algo-1", "chief", "")]
    elif form == "json":
        written = decode_json(written)[OUT]
    next_of = dict.fromkeys(range(WRITERS), 0)
    for line in written.splitlines():
        writer, number, text = line.split(b" ")
        assert int(number) == next_of[int(writer)]
        assert text == b"x" * ((int(writer) * int(number)) % 300)
        next_of[int(writer)] += 1
    assert set(next_of.values()) == {LINES}


def test_one_endless_line_takes_constant_memory(tmp_path: pathlib.Path) -> None:
    script = """
        import os
        block = b"y" * (1 << 20)
        for _ in range(200):
            os.write(1, block)
        with open(f"/proc/{os.getppid()}/status") as status:
            kib = next(line.split()[1] for line in status if line.startswith("VmHWM"))
        os.write(2, b"highest %s KiB\\n" % kib.encode())
    """
    null = os.open(os.devnull, os.O_WRONLY)
    for form in ("raw", "prefix", "json"):
        env = {"SUPERVISOR_LOG_FORMAT": form, "SUPERVISOR_LOG_FILES": "true"}
        env["SUPERVISOR_LOG_FILE_MAX_BYTES"] = str(16 << 20)
        with train(tmp_path / form, script, env, stdout=null) as host:
            _, others = host.outputs(120)
            assert host.wait() == 0
            found = re.search(rb"highest (\d+) KiB", others)
            assert found is not None
            assert int(found[1]) < 100 * 1024
            assert host.report["processes"][0]["output_bytes"] > 200 << 20
            assert host.output_row("chief.log")["written_bytes"] > 200 << 20
            files = sorted(path.name for path in host.log_file().parent.iterdir())
            assert files == ["chief.log", *(f"chief.log.{n}" for n in range(1, 5))]
    os.close(null)


# --------------------------------------------------------------------------- back pressure

FLOOD = """
    import os, signal
    block = (b"z" * 99 + b"\\n") * 100
    print("ready", file=open(os.environ["READY"], "w"))
    while True:
        os.write(1, block)
"""


def answer(host: Train, route: str) -> tuple[str, float]:
    """A route of the status port, and the seconds that it took."""
    began = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{host.port}{route}", timeout=10) as response:
        return response.read().decode(), time.monotonic() - began


def serving(host: Train) -> bool:
    with contextlib.suppress(OSError):
        return bool(answer(host, "/livez"))
    return False


def more_than_fits(pipe_fd: int, run_dir: pathlib.Path) -> bool:
    """Whether the hosts have passed on so much that some of it cannot be in the pipe."""
    logs = run_dir.glob("*/output/supervisor/logs/*.log")
    return sum(log.stat().st_size for log in logs) > 2 * fcntl.fcntl(pipe_fd, fcntl.F_GETPIPE_SZ)


def metric(host: Train, name: str, sink: str) -> float:
    text, _ = answer(host, "/metrics")
    found = re.search(rf'^supervisor_{name}{{sink="{sink}"}} (\S+)$', text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


@pytest.mark.parametrize("form", ["raw", "prefix"])
def test_a_stalled_reader_holds_neither_probes_nor_the_end(
    tmp_path: pathlib.Path, form: str
) -> None:
    """Nobody reads stdout: the script is held, ``/livez`` answers, SIGTERM ends everything."""
    env = {"READY": str(tmp_path / "ready"), "SUPERVISOR_LOG_FORMAT": form}
    with train(tmp_path / "a", FLOOD, env) as host:
        wait_until((tmp_path / "ready").exists, 30)
        wait_until(lambda: serving(host), 30)
        wait_until(lambda: metric(host, "sink_stalled_seconds", "stdout") > 1, 30)
        slowest_s = max(answer(host, "/livez")[1] for _ in range(50))
        assert slowest_s < 5.0
        began = time.monotonic()
        host.process.send_signal(signal.SIGTERM)
        code = host.wait(30)
        assert code == 143, "the script died of SIGTERM"
        assert time.monotonic() - began < 15
        row = host.output_row("stdout")
        assert row["unwritten_bytes"] > 0
        assert row["longest_stall_s"] > 1
        written, others = host.outputs()
        assert len(written) == row["written_bytes"]
        assert f"output.lost: stdout: {row['unwritten_bytes']} unwritten bytes" in (others.decode())
        if form == "raw":
            read = host.report["processes"][0]["output_bytes"]
            assert read == row["written_bytes"] + row["unwritten_bytes"], "counted to the byte"
        assert "received SIGTERM" in host.failure


def test_both_outputs_stalled_on_one_pipe(tmp_path: pathlib.Path) -> None:
    """``2>&1 | stopped``: our own words stall too, and hold nobody."""
    read_fd, write_fd = os.pipe()
    try:
        env = {"READY": str(tmp_path / "ready")}
        host = train(tmp_path / "a", FLOOD, env, stdout=write_fd, stderr=write_fd)
        os.close(write_fd)
        with host:
            wait_until((tmp_path / "ready").exists, 30)
            wait_until(lambda: serving(host), 30)
            wait_until(lambda: metric(host, "sink_stalled_seconds", "stdout") > 0.5, 30)
            host.process.send_signal(signal.SIGTERM)
            assert host.wait(30) == 143
            (row,) = host.report["output"]
            assert row["unwritten_bytes"] > 0
    finally:
        os.close(read_fd)


@pytest.mark.twice
def test_stalled_outputs_do_not_cost_the_platforms_limit(tmp_path: pathlib.Path) -> None:
    """The worst of it: nobody reads, and the script ignores SIGTERM and leaves the pipe to a
    process that does too. The report is there before the platform's SIGKILL would be."""
    script = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\n"
    script += textwrap.dedent(FLOOD)
    env = {"READY": str(tmp_path / "ready"), "SUPERVISOR_STOP_LIMIT_S": "16"}
    env |= {"SUPERVISOR_PUBLISH_RESERVE_S": "0", "SUPERVISOR_LOG_FILES": "true"}
    read_fd, write_fd = os.pipe()
    try:
        host = train(tmp_path / "a", script, env, stdout=write_fd, stderr=write_fd)
        os.close(write_fd)
        with host:
            wait_until((tmp_path / "ready").exists, 30)
            wait_until(lambda: serving(host), 30)
            wait_until(lambda: metric(host, "sink_stalled_seconds", "stdout") > 0.5, 30)
            began = time.monotonic()
            host.process.send_signal(signal.SIGTERM)
            assert host.wait(30) == 137
            assert time.monotonic() - began < 16
            assert host.output_row("stdout")["unwritten_bytes"] > 0
            assert "received SIGTERM" in host.failure
    finally:
        os.close(read_fd)


@pytest.mark.parametrize("reader", ["gone", "stalled", "stopped"])
def test_supervisor_local_without_a_reader(tmp_path: pathlib.Path, reader: str) -> None:
    """``supervisor local | head``, and a pager that nobody moves: the job ends as it would."""
    path = tmp_path / "code" / "write.py"
    path.parent.mkdir()
    lines = 1 << 30 if reader == "stopped" else 4000
    path.write_text(f"for number in range({lines}):\n    print(number, 'w' * 90)\n")
    read_fd, write_fd = os.pipe()
    run_dir = tmp_path / "run"
    arguments = ["--hosts", "2", "--strategy", "none", "--run-dir", str(run_dir), str(path)]
    with subprocess.Popen(
        [*COMMAND, "local", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=write_fd,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        try:
            os.close(write_fd)
            if reader == "gone":
                os.close(read_fd)
            if reader == "stopped":
                wait_until(lambda: more_than_fits(read_fd, run_dir), 30, "too little was written")
                process.send_signal(signal.SIGTERM)
            _, others = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == (143 if reader == "stopped" else 0)
    if reader != "gone":
        os.close(read_fd)
        assert re.search(rb"supervisor: \d+ bytes of stdout could not be written", others)
    for host in ("algo-1", "algo-2"):
        report = schemas.read(
            "report", (run_dir / host / "output/supervisor/report.json").read_text()
        )
        assert report["exit_code"] == process.returncode
    assert not processes_with(str(run_dir))


def test_a_script_that_is_held_does_not_hang(tmp_path: pathlib.Path) -> None:
    """It writes nothing and takes no CPU because nobody reads; that is not its fault."""
    script = """
        import os
        for number in range(30_000):
            os.write(1, b"%d %s\\n" % (number, b"h" * 90))
    """
    with train(tmp_path / "a", script, {"SUPERVISOR_HANG_TIMEOUT_S": "1"}) as host:
        wait_until(lambda: serving(host), 30)
        wait_until(lambda: metric(host, "sink_stalled_seconds", "stdout") > 3, 30)
        written, _ = host.outputs()
        assert host.wait() == 0
        assert len(written.splitlines()) == 30_000


def test_a_slow_reader_loses_nothing(tmp_path: pathlib.Path) -> None:
    """The script ends long before its reader has read: what is queued then is still written."""
    script = """
        import os
        for number in range(20000):
            os.write(1, b"%d %s\\n" % (number, b"s" * 90))
    """
    with train(tmp_path / "a", script) as host:
        assert host.process.stdout is not None
        time.sleep(2)  # the slow reader
        written = bytearray()
        while chunk := os.read(host.process.stdout.fileno(), 65536):
            written += chunk
            time.sleep(0.02)  # still slow
        assert [int(line.split()[0]) for line in written.splitlines()] == list(range(20000))
        assert host.wait() == 0
        assert host.output_row("stdout")["unwritten_bytes"] == 0


@pytest.mark.parametrize("form", ["raw", "prefix"])
def test_a_reader_that_is_gone_does_not_fail_the_job(tmp_path: pathlib.Path, form: str) -> None:
    script = """
        import os
        for _ in range(2000):
            os.write(1, b"w" * 999 + b"\\n")
    """
    env = {"SUPERVISOR_LOG_FORMAT": form, "SUPERVISOR_LOG_FILES": "true"}
    read_fd, write_fd = os.pipe()
    with train(tmp_path / "a", script, env, stdout=write_fd) as host:
        os.close(write_fd)
        os.close(read_fd)
        _, others = host.outputs()
        assert host.wait() == 0
        assert b"output.broken: stdout cannot be written to any more: Broken pipe" in others
        row = host.output_row("stdout")
        assert row["error"] == "Broken pipe"
        assert row["discarded_bytes"] > 0
        assert host.log_file().stat().st_size == 2_000_000


def test_stdout_that_was_closed_before_the_start(tmp_path: pathlib.Path) -> None:
    """``>&-``."""
    env = {"SUPERVISOR_LOG_FILES": "true"}
    for number, closed in enumerate((">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-")):
        shell = f'exec "$@" {closed}'
        with train(tmp_path / str(number), 'print("hello")', env, shell=shell) as host:
            written, _ = host.outputs()
            assert host.wait() == 0
            assert written == (b"hello\n" if closed == "2>&-" else b"")
            assert host.log_file().read_text() == "hello\n"


def test_drop_counts_to_the_byte(tmp_path: pathlib.Path) -> None:
    """Nobody reads while the script floods and ends; it is not held, and the loss is exact."""
    script = """
        import os
        line = b"%s\\n" % (b"d" * 99)
        for _ in range(500):
            os.write(1, line * 100)
        open(os.environ["READY"], "w").close()
    """
    env = {"READY": str(tmp_path / "ready"), "SUPERVISOR_LOG_OVERFLOW": "drop"}
    with train(tmp_path / "a", script, env) as host:
        wait_until((tmp_path / "ready").exists, 30, "the script was held")
        written, others = host.outputs()
        assert host.wait() == 0
        row = host.output_row("stdout")
        assert row["unwritten_bytes"] == 0
        assert row["dropped_bytes"] > 1 << 20
        assert len(written) == row["written_bytes"]
        assert len(written) + row["dropped_bytes"] == 500 * 100 * 100
        assert f"{row['dropped_bytes']} dropped bytes" in others.decode()


def test_drop_is_said_among_the_lines(tmp_path: pathlib.Path) -> None:
    script = """
        import os, time
        for number in range(40000):
            os.write(1, b"%d %s\\n" % (number, b"d" * 90))
        open(os.environ["READY"], "w").close()
        while not os.path.exists(os.environ["GO"]):
            time.sleep(0.01)
        os.write(1, b"after\\n")
    """
    env = {"READY": str(tmp_path / "ready"), "GO": str(tmp_path / "go")}
    env |= {"SUPERVISOR_LOG_OVERFLOW": "drop", "SUPERVISOR_LOG_FORMAT": "prefix"}
    with train(tmp_path / "a", script, env) as host:
        wait_until((tmp_path / "ready").exists, 30)
        lines: list[str] = []
        assert host.process.stdout is not None
        for raw in host.process.stdout:
            lines.append(raw.decode())
            if len(lines) == 5000:
                (tmp_path / "go").touch()
        said = [int(n) for line in lines for n in re.findall(r"· (\d+) lines left out", line)]
        numbered = [line for line in lines if re.search(r"│ \d+ d", line)]
        assert len(numbered) + sum(said) == 40000
        assert lines[-1].endswith("│ after\n")
        assert host.wait() == 0
        assert host.output_row("stdout")["dropped_lines"] == sum(said)


# --------------------------------------------------------------------------- files


def test_the_file_of_a_process(tmp_path: pathlib.Path) -> None:
    """Both streams in whole lines, and the report points at it."""
    script = r"""
        import os, time
        os.write(1, b"a half line, ")
        os.write(2, b"an error\n")
        os.write(1, b"its rest\n  indented\n\nlast, without an end")
    """
    env = {"SUPERVISOR_LOG_FILES": "true", "SUPERVISOR_LOG_CONSOLE_ROLES": "none"}
    with train(tmp_path / "a", script, {**env, **QUIET}) as host:
        assert host.outputs() == (b"", b"")
        assert host.wait() == 0
        (process,) = host.report["processes"]
        assert process["log"] == str(host.log_file())
        lines = host.log_file().read_text().splitlines()
        assert "an error" in lines
        lines.remove("an error")
        assert lines == ["a half line, its rest", "  indented", "", "last, without an end ┆"]


def test_files_rotate_by_size_and_number(tmp_path: pathlib.Path) -> None:
    script = """
        import os
        for number in range(1000):
            os.write(1, b"line %05d\\n" % number)
    """
    env = {"SUPERVISOR_LOG_FILES": "true", "SUPERVISOR_LOG_FILE_MAX_BYTES": "1000"}
    with train(tmp_path / "a", script, {"SUPERVISOR_LOG_FILE_KEEP": "2", **env}) as host:
        host.outputs()
        assert host.wait() == 0
        directory = host.log_file().parent
        names = ("chief.log.2", "chief.log.1", "chief.log")
        assert sorted(names) == sorted(path.name for path in directory.iterdir())
        content = b"".join((directory / name).read_bytes() for name in names)
        numbers = [int(line.split()[1]) for line in content.splitlines()]
        assert numbers == list(range(numbers[0], 1000))
        assert all((directory / name).stat().st_size <= 1000 for name in names)


def test_a_log_directory_that_cannot_be_written_fails_nothing(tmp_path: pathlib.Path) -> None:
    base = tmp_path / "a"
    logs = base / "output" / "supervisor" / "logs"
    logs.parent.mkdir(parents=True)
    logs.write_text("a file where the directory belongs")
    with train(base, 'print("x")', {"SUPERVISOR_LOG_FILES": "true"}) as host:
        written, others = host.outputs()
        assert host.wait() == 0
        assert written == b"x\n"
        assert b"output.broken" in others
        assert host.output_row("chief.log")["error"]


def test_a_full_disk_under_the_log_files_fails_nothing(tmp_path: pathlib.Path) -> None:
    """A file size limit is a disk that is full for the supervisor's own files (EFBIG)."""
    script = """
        import os, resource
        os.write(1, b"n" * 200_000 + b"\\n")
    """
    env = {"SUPERVISOR_LOG_FILES": "true"}
    with train(tmp_path / "a", script, env, shell='ulimit -f 64; exec "$@"') as host:
        written, others = host.outputs()
        assert host.wait() == 0
        assert len(written) == 200_001
        assert b"output.broken" in others
        assert host.output_row("chief.log")["error"] == "File too large"


# --------------------------------------------------------------------------- what is shown


def test_repeated_lines_become_their_number(tmp_path: pathlib.Path) -> None:
    script = """
        for _ in range(1000):
            print("WARNING the same again")
        print("something else")
    """
    env = {"SUPERVISOR_LOG_FORMAT": "prefix", "SUPERVISOR_LOG_REPEAT_WINDOW_S": "60"}
    with train(tmp_path / "a", script, env) as host:
        written, _ = host.outputs()
        assert written.decode().splitlines() == [
            "algo-1 chief │ WARNING the same again",
            "algo-1 chief │ something else",
            "algo-1 chief · repeated 999 times: WARNING the same again",
        ]


def test_a_repeat_window_without_effect_is_said(tmp_path: pathlib.Path) -> None:
    with train(tmp_path / "a", "", {"SUPERVISOR_LOG_REPEAT_WINDOW_S": "5"}) as host:
        _, others = host.outputs()
        assert b"plan.note" in others
        assert b"SUPERVISOR_LOG_REPEAT_WINDOW_S leaves" in others


def test_what_fails_is_shown_though_its_role_is_not(tmp_path: pathlib.Path) -> None:
    script = """
        import sys
        for number in range(50_000):
            print("line", number)
        sys.exit("no good")
    """
    env = {"SUPERVISOR_LOG_CONSOLE_ROLES": "ps", "SUPERVISOR_LOG_FORMAT": "prefix"}
    with train(tmp_path / "a", script, env) as host:
        written, others = host.outputs()
        assert host.wait() == 1
        lines = written.decode().splitlines()
        assert lines[0] == "algo-1 chief · the last of what chief wrote, all of it:"
        assert lines[-1] == "algo-1 chief │ line 49999"
        assert 1000 < len(lines) < 50_000, "bounded"
        assert "algo-1 chief │ no good" in others.decode()


def test_what_a_parameter_server_said_is_shown_when_it_fails(tmp_path: pathlib.Path) -> None:
    """Until then TensorFlow's own messages below an error are only in its file."""
    package = tmp_path / "fake" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os, sys, time\n"
        'os.write(2, b"2025-01-31 12:00:00.000000: I tensorflow/x.cc:1] chatter\\n")\n'
        'os.write(2, b"plain words\\n")\n'
        'while not os.path.exists(os.environ["GO"]):\n'
        "    time.sleep(0.01)\n"
        "sys.exit(3)\n"
    )
    script = tmp_path / "code" / "wait.py"
    script.parent.mkdir()
    script.write_text("import time\ntime.sleep(600)\n")
    env = {"PYTHONPATH": f"{package.parent}:{ROOT}", "GO": str(tmp_path / "go")}
    arguments = ("--hosts", "2", "--ps-import", "full", str(script))
    with Job(tmp_path / "run", *arguments, **env) as job:
        job.wait_for(r"algo-1 ps │ plain words", 60)
        job.wait_for(r"algo-2 ps │ plain words", 60)
        assert "chatter" not in job.output
        for host in ("algo-1", "algo-2"):
            log = job.host_dir(host) / "output" / "supervisor" / "logs" / "ps.log"
            # The file has a writer of its own, which may come after the console's.
            wait_until(lambda: log.exists() and "chatter" in log.read_text())  # noqa: B023
        (tmp_path / "go").touch()
        assert job.wait() == 85
        assert re.search(r"algo-\d ps · the last of what ps wrote, all of it:", job.output)
        assert re.search(r"algo-\d ps │ 2025.* chatter", job.output)


# --------------------------------------------------------------------------- a terminal

BAR = """
    import os, sys, time
    for percent in (10, 20, 30):
        sys.stderr.write(f"\\r {percent}% of it")
        sys.stderr.flush()
        while not os.path.exists(f"{os.environ['GO']}{percent}"):
            time.sleep(0.01)
    print("\\ndone", file=sys.stderr)
"""


class Terminal:
    """A terminal of 24 lines of 100, and what was shown on it."""

    def __init__(self) -> None:
        self._master, self.fd = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has it open any more
            while chunk := os.read(self._master, 4096):
                self._seen += chunk

    @property
    def text(self) -> str:
        return self._seen.decode(errors="replace")

    def shows(self, pattern: str) -> bool:
        return re.search(pattern, self.text) is not None

    def close(self) -> None:
        os.close(self.fd)
        self._reader.join(10)
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    screen = Terminal()
    yield screen
    screen.close()


def watch_the_bar(screen: Terminal, go: str, what: str) -> None:
    """Each state is on the screen before the script goes on, in place of the one before."""
    for percent in (10, 20, 30):
        # Below it there may be a row more, which is taken away and drawn again with it.
        drawn = rf"(\r\x1b\[K|\x1b\[J)[^\n]*{what}[^\n]* {percent}% of it"
        wait_until(functools.partial(screen.shows, drawn), 30, f"{percent} % is not shown")
        pathlib.Path(f"{go}{percent}").touch()


def test_progress_bars_live_on_a_terminal(tmp_path: pathlib.Path, terminal: Terminal) -> None:
    go = str(tmp_path / "go")
    env = {"GO": go, "SUPERVISOR_LOG_FORMAT": "prefix", "TERM": "xterm"}
    with train(
        tmp_path / "a", BAR, {**env, **QUIET}, stdout=terminal.fd, stderr=terminal.fd
    ) as host:
        watch_the_bar(terminal, go, "chief")
        host.process.wait(30)
        assert host.process.returncode == 0
    shown = terminal.text
    assert shown.count("\n") == 2, "one line for the bar, one for what followed"
    assert "\x1b[0;" in shown, "coloured"


def test_progress_bars_live_through_supervisor_local(
    tmp_path: pathlib.Path, terminal: Terminal
) -> None:
    """The hosts write to pipes; the bars are drawn where a person sees them."""
    go = str(tmp_path / "go")
    script = tmp_path / "code" / "bar.py"
    script.parent.mkdir()
    script.write_text("\n".join(line[4:] for line in BAR.splitlines()))
    argv = [*COMMAND, "local", "--hosts", "1", "--run-dir", str(tmp_path / "run"), str(script)]
    fd = terminal.fd
    env = environment(GO=go, TERM="xterm")
    with subprocess.Popen(argv, stdin=fd, stdout=fd, stderr=fd, env=env) as process:
        try:
            watch_the_bar(terminal, go, "chief")
            assert process.wait(60) == 0
        finally:
            process.terminate()
    assert re.search(r"algo-1 chief │ .*done\r?\n", terminal.text)
    assert not processes_with(str(tmp_path / "run"))


def test_off_a_terminal_a_bar_is_a_line_with_its_last_state(tmp_path: pathlib.Path) -> None:
    script = """
        import sys
        for number in range(1000):
            sys.stdout.write(f"\\r{number}")
        print()
    """
    with train(tmp_path / "a", script, {"SUPERVISOR_LOG_FORMAT": "prefix"}) as host:
        lines = host.outputs()[0].decode().splitlines()
        assert lines[-1] == "algo-1 chief │ 999"
        assert len(lines) <= 3


# --------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LOG_PREFIX", "{pid} ", "one line"),
        ("LOG_PREFIX", "a\nb", "one line"),
        ("LOG_PREFIX", "{host.upper} ", "one line"),
        ("LOG_STREAMS", "both", "split, stdout, merge"),
        ("LOG_OVERFLOW", "lose", "block, drop"),
        ("LOG_CONSOLE_ROLES", "chief,boss", "chief"),
        ("LOG_PS_LEVEL", "2", "fatal"),
        ("LOG_PROGRESS", "yes", "collapse"),
        ("LOG_FILE_MAX_BYTES", "0", "1 or more"),
        ("LOG_FILE_KEEP", "-1", "0 or more"),
        ("LOG_REPEAT_WINDOW_S", "often", "seconds"),
    ],
)
def test_a_faulty_setting_is_refused(name: str, value: str, expected: str) -> None:
    from supervisor.contract.reading import parse_settings

    _, faults = parse_settings({}, {f"SUPERVISOR_{name}": value}, {})
    assert len(faults) == 1
    assert expected in faults[0].expected
