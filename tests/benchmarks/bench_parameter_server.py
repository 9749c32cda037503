"""What the light import of the parameter server saves: ``bench_parameter_server.py [--runs 5]``.

Prints, for each way, the median of several runs of the time from exec to the open port and of the
resident memory then. The yardstick is ``python -c "import tensorflow"`` (to its end of import),
measured in the same run. One process at a time; the first run of each way is thrown away, because
it reads the libraries from disk.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 120.0
POLL_S = 0.002


@dataclass(frozen=True)
class Sample:
    wall_s: float
    """From just before exec to the open port, or to the end of the import."""
    resident_mib: float


def resident_mib(pid: int) -> float:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"no result from {process.args!r}")
        time.sleep(POLL_S)


def measure(
    argv: list[str], ready: Callable[[], bool], env: dict[str, str], pass_fds: tuple[int, ...] = ()
) -> Sample:
    began = time.monotonic()
    process = subprocess.Popen(
        argv,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=pass_fds,
    )
    try:
        wait_for(ready, process)
        return Sample(time.monotonic() - began, resident_mib(process.pid))
    finally:
        process.kill()
        process.wait()


def server(mode: str) -> Sample:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {"cluster": {"ps": [f"127.0.0.1:{port}"]}, "task": {"type": "ps", "index": 0}}
    argv = [sys.executable, "-P", "-m", "supervisor.programs.parameter_server"]
    env = {"TF_CONFIG": json.dumps(config), "SUPERVISOR_PS_IMPORT": mode}

    def port_is_open() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    return measure(argv, port_is_open, env)


def plain_import() -> Sample:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    code = f"import os, signal, tensorflow; os.write({writer}, b'!'); signal.pause()"

    def imported() -> bool:
        try:
            return os.read(reader, 1) == b"!"
        except BlockingIOError:
            return False

    try:
        return measure([sys.executable, "-c", code], imported, {}, (writer,))
    finally:
        os.close(reader)
        os.close(writer)


WAYS: dict[str, Callable[[], Sample]] = {
    "parameter server, light import": lambda: server("light"),
    "parameter server, full import": lambda: server("full"),
    'python -c "import tensorflow"': plain_import,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each way, after one for the cache")
    runs = parser.parse_args().runs
    print(f"medians of {runs} runs; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'':34}{'wall':>9}{'slowest':>9}{'resident':>12}")
    for name, way in WAYS.items():
        samples = [way() for _ in range(runs + 1)][1:]
        walls = [sample.wall_s for sample in samples]
        resident = statistics.median(sample.resident_mib for sample in samples)
        print(
            f"{name:34}{statistics.median(walls):7.2f} s{max(walls):7.2f} s{resident:8.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
