"""How much sooner a script makes its first step by SUPERVISOR_WARM_START.

    python -m tests.benchmarks.bench_warm [--runs 10] [--only ps,mwms] [--hosts 1]

The bundled examples on one host, where the time is the script's own, or on several of this machine,
which share its processors. Every host fetches a channel from a place of ours, which takes six
seconds to answer.

- *first*: from the order to start the first host's script to its first step;
- *again*: that script is killed once it has trained for a while; from the kill to the next step.

Cold and warm in turns, so that a loaded machine is unjust to neither, and ``python -c 'import
tensorflow'`` in each turn beside them. Medians.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from supervisor.contract.distribution import Strategy
from supervisor.engines.local import LocalHost, lay_out
from tests.helpers.tree import ROOT

EXAMPLES: Final = {
    "ps": (Strategy.PS, "parameter_server_strategy.py"),
    "mwms": (Strategy.MWMS, "multi_worker_mirrored_strategy.py"),
}
COMMAND: Final = (sys.executable, "-P", "-m", "supervisor", "train")
LATER_S: Final = 6.0
TRAINS_S: Final = 4.0
"""From the first step to the kill, or from when the next interpreter is warm."""
READY: Final = re.compile(r"warm\.ready")
DEADLINE_S: Final = 180.0
STARTED: Final = re.compile(r"process\.started: (?:chief|worker) runs, pid (\d+)(, warm for)?")


class Took(NamedTuple):
    first_s: float
    again_s: float
    warm: tuple[bool, bool]
    """Whether the script was started warm, each time."""


class Host:
    """One supervisor, whose output is read line by line with the time at which each came."""

    def __init__(self, host: LocalHost, place: str, *, warm: bool) -> None:
        dropped = ("SUPERVISOR_", "SAGEMAKER_", "SM_", "TF_CONFIG", "PYTHONDONTWRITEBYTECODE")
        env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        own = {
            "PYTHONPATH": str(ROOT),
            "SAGEMAKER_BASE_DIR": host.base_dir,
            "SUPERVISOR_STATUS_BIND": "127.0.0.1",
            "SUPERVISOR_RESTARTS": "3",
            "SUPERVISOR_WARM_START": str(warm).lower(),
            "SUPERVISOR_CHANNEL_DATA": "s3://bucket/data",
            "AWS_ENDPOINT_URL": place,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            COMMAND,
            env={**env, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._rest = b""

    def read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.process.stdout.fileno(), 1 << 16):
                *lines, self._rest = (self._rest + part).split(b"\n")
                now = time.monotonic()
                self.lines += [(now, line.decode("utf-8", "replace")) for line in lines]

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
            time.sleep(0.01)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Slow(http.server.BaseHTTPRequestHandler):
    """As much of S3 as fetching one object needs, slowly."""

    def do_GET(self) -> None:
        body = b"x"
        if "list-type=2" in self.path:
            time.sleep(LATER_S)
            body = LISTING
        with contextlib.suppress(BrokenPipeError):  # one of several that asked
            self.send_response(200)
            for name, value in {"Content-Length": len(body), "ETag": '"etag"'}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


LISTING: Final = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>
<Prefix>data</Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>
<Contents><Key>data/one</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified>
<ETag>"etag"</ETag><Size>1</Size></Contents></ListBucketResult>"""


@contextlib.contextmanager
def slow_place() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Job:
    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts

    def wait_for(self, pattern: re.Pattern[str], after: float = 0.0) -> tuple[float, re.Match[str]]:
        """The first line of the first host that has it, since then, and when it came."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for host in self.hosts:
                host.read()
            for at, line in self.hosts[0].lines:
                if at > after and (found := pattern.search(line)):
                    return at, found
            if any(host.process.poll() is not None for host in self.hosts):
                break
            time.sleep(0.002)
        said = "\n".join(line for _, line in self.hosts[0].lines[-40:])
        raise SystemExit(f"nothing like {pattern.pattern!r}:\n{said}")

    def rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.02)
            for host in self.hosts:
                host.read()


@contextlib.contextmanager
def job(which: str, count: int, *, warm: bool) -> Iterator[Job]:
    strategy, script = EXAMPLES[which]
    path = str(ROOT / "supervisor" / "examples" / script)
    arguments = ["--steps", "1000000", "--report-every", "1", "--save-every", "50"]
    with (
        slow_place() as place,
        tempfile.TemporaryDirectory(prefix="bench-warm-", ignore_cleanup_errors=True) as directory,
    ):
        if count == 1:
            strategy = Strategy.NONE
        laid_out = lay_out(directory, count, strategy, path, arguments, {})
        made = Job([Host(host, place, warm=warm) for host in laid_out])
        try:
            yield made
        finally:
            for host in made.hosts:
                host.end()


STEP: Final = re.compile(r"^(?:\S+ +\S+ +\S+ )?step \d+/")


def measured(which: str, count: int, *, warm: bool) -> Took:
    with job(which, count, warm=warm) as made:
        ordered, first_start = made.wait_for(STARTED)
        first, _ = made.wait_for(STEP, ordered)
        if warm:
            made.wait_for(READY, ordered)
        made.rest(TRAINS_S)
        killed = time.monotonic()
        os.kill(int(first_start[1]), signal.SIGKILL)
        ordered_again, second_start = made.wait_for(STARTED, killed)
        again, _ = made.wait_for(STEP, ordered_again)
        used = (first_start[2] is not None, second_start[2] is not None)
        return Took(first - ordered, again - killed, used)


def imported_s() -> float:
    began = time.monotonic()
    command = [sys.executable, "-c", "import tensorflow"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--only", default=",".join(EXAMPLES))
    parser.add_argument("--hosts", type=int, default=1)
    options = parser.parse_args()
    imported_s()  # compiles, and reads from disk
    for which in options.only.split(","):
        cold: list[Took] = []
        hot: list[Took] = []
        yardstick = []
        for _ in range(options.runs):
            yardstick.append(imported_s())
            for warm, took in ((False, cold), (True, hot)):
                took.append(measured(which, options.hosts, warm=warm))
                print(json.dumps([which, warm, took[-1]]), file=sys.stderr, flush=True)
        table(f"{which}, hosts: {options.hosts}, runs: {options.runs}", cold, hot, yardstick)


def table(title: str, cold: list[Took], hot: list[Took], yardstick: list[float]) -> None:
    imports = statistics.median(yardstick)
    print(f"\n{title}; import tensorflow by itself: {imports:.2f} s")
    print(f"  {'':8}{'cold':>8}{'warm':>8}{'sooner':>9}{'of the import':>15}{'warm starts':>13}")
    rows = {
        "first": [[each.first_s for each in took] for took in (cold, hot)],
        "again": [[each.again_s for each in took] for took in (cold, hot)],
    }
    for index, (name, columns) in enumerate(rows.items()):
        before, now = map(statistics.median, columns)
        used = sum(each.warm[index] for each in hot)
        print(
            f"  {name:8}{before:7.2f}s{now:7.2f}s{before - now:8.2f}s"
            f"{(before - now) / imports:15.2f}{used:7} of {len(hot)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
