"""How fast a job of three hosts on this machine is over: ``bench_end.py [--runs 5]``.

- ``none``, ``ps``: from the end of the chief's script, the last of the job to end by itself, until
  every host's supervisor has exited. With ``ps`` three real parameter servers and two workers come
  down in between; those scripts obey SIGTERM. Goal: 0.5 s from the end of the chief's last process.
- ``killed``: from SIGKILL of the master's supervisor and of all that it started until both members
  have left, failed with that cause. Goal: 3 s.

Yardsticks of the same run: SIGTERM to three scripts (and three parameter servers) by themselves,
until all are gone. Times of different processes are compared by CLOCK_MONOTONIC, which they share.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from supervisor.contract.distribution import Strategy
from supervisor.engines.local import LocalHost, free_ports, lay_out
from supervisor.life.outcome import EXIT_MASTER_LOST

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 120.0
SUPERVISOR = (sys.executable, "-P", "-m", "supervisor", "train")

SCRIPT = """\
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
here = pathlib.Path({directory!r})
host = os.environ["SM_CURRENT_HOST"] if "SM_CURRENT_HOST" in os.environ else "bare"
(here / f"ready-{{host}}").touch()
while not (here / f"go-{{host}}").exists():
    time.sleep(0.002)
(here / f"ended-{{host}}").write_text(str(time.monotonic()))
os._exit(0)
"""


def clean_environment(**extra: str) -> dict[str, str]:
    dropped = ("SUPERVISOR_", "SAGEMAKER_", "SM_", "PYTHONDONTWRITEBYTECODE")
    env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {**env, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1", **extra}


def wait_for(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"not in time: {what}")
        time.sleep(0.01)


def gone_at(processes: Sequence[subprocess.Popen[bytes]]) -> list[float]:
    """When each had exited, ``time.monotonic()``."""
    ends = {os.pidfd_open(process.pid): at for at, process in enumerate(processes)}
    times = [0.0] * len(processes)
    deadline = time.monotonic() + DEADLINE_S
    while ends:
        ready, _, _ = select.select(list(ends), [], [], max(0.0, deadline - time.monotonic()))
        now = time.monotonic()
        if not ready:
            raise SystemExit("not gone in time")
        for fd in ready:
            times[ends.pop(fd)] = now
            os.close(fd)
    for process in processes:
        process.wait()
    return times


class Job:
    """Three supervisors, started the way a platform would."""

    def __init__(self, directory: pathlib.Path, strategy: Strategy) -> None:
        self.directory = directory
        script = directory / "train.py"
        script.write_text(SCRIPT.format(directory=str(directory)))
        self.hosts: list[LocalHost] = lay_out(
            str(directory / "run"), 3, strategy, str(script), (), {}
        )
        self.processes = [
            subprocess.Popen(
                SUPERVISOR,
                env=clean_environment(
                    SAGEMAKER_BASE_DIR=host.base_dir, SUPERVISOR_STATUS_BIND="127.0.0.1"
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for host in self.hosts
        ]

    def wait_until_ready(self, ports: Sequence[int] = ()) -> None:
        names = [host.name for host in self.hosts]
        ready = [self.directory / f"ready-{name}" for name in names]
        wait_for(lambda: all(path.exists() for path in ready), "scripts")
        wait_for(lambda: all(map(is_listening, ports)), "parameter servers")

    def parameter_server_ports(self) -> list[int]:
        overlay = pathlib.Path(self.hosts[0].base_dir, "input/config/supervisorconfig.json")
        return [place["ports"]["ps"] for place in json.loads(overlay.read_text())["hosts"].values()]

    def let_go(self, host: LocalHost) -> float:
        """Have a host's script end; when it did."""
        (self.directory / f"go-{host.name}").touch()
        ended = self.directory / f"ended-{host.name}"
        wait_for(lambda: ended.exists() and bool(ended.read_text()), f"the end of {host.name}")
        return float(ended.read_text())

    def report(self, host: LocalHost) -> dict[str, object]:
        path = pathlib.Path(host.base_dir, "output/supervisor/report.json")
        report: dict[str, object] = json.loads(path.read_text())
        return report


@contextlib.contextmanager
def job(strategy: Strategy) -> Iterator[Job]:
    with tempfile.TemporaryDirectory(prefix="bench-end-") as name:
        running = Job(pathlib.Path(name), strategy)
        try:
            yield running
        finally:
            for process in running.processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            for process in running.processes:
                process.wait(DEADLINE_S)


def is_listening(port: int) -> bool:
    wanted = f":{port:04X}"
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in pathlib.Path(name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
    return False


def end(strategy: Strategy) -> dict[str, float]:
    """Seconds from the end of the chief's script to …"""
    with job(strategy) as running:
        master, *members = running.hosts
        ports = running.parameter_server_ports() if strategy is Strategy.PS else ()
        running.wait_until_ready(ports)
        if strategy is Strategy.NONE:  # all scripts have to end, the chief's is the last
            for member in members:
                running.let_go(member)
        time.sleep(1.0)
        ended = running.let_go(master)
        times = gone_at(running.processes)
        codes = [process.returncode for process in running.processes]
        if any(codes):
            raise SystemExit(f"exit codes {codes}: {running.report(master)['cause']}")
        began = time.time() - time.monotonic()
        processes = running.report(master)["processes"]
        assert isinstance(processes, list)
        last = max(row["ended_at"] for row in processes) - began
        return {
            "the chief's last process": last - ended,
            "every supervisor gone": max(times) - ended,
            "… the master's": times[0] - ended,
            "… the last member's": max(times[1:]) - ended,
            "… all, after the chief's last process": max(times) - last,
        }


def descendants(pid: int) -> list[int]:
    found = []
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def killed() -> dict[str, float]:
    with job(Strategy.NONE) as running:
        running.wait_until_ready()
        time.sleep(1.0)
        victim = running.processes[0].pid
        for pid in (victim, *descendants(victim)):
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        times = gone_at(running.processes)
        codes = [process.returncode for process in running.processes[1:]]
        if codes != [EXIT_MASTER_LOST, EXIT_MASTER_LOST]:
            raise SystemExit(f"exit codes {codes}")
        return {"both members gone, the cause known": max(times[1:]) - began}


def bare(directory: pathlib.Path, *, servers: bool) -> float:
    """SIGTERM to three of them by themselves, until all are gone."""
    script = directory / "bare.py"
    script.write_text(SCRIPT.format(directory=str(directory)))
    ready = directory / "ready-bare"
    processes = []
    ports = free_ports(3)
    for port in ports:
        ready.unlink(missing_ok=True)
        config = {
            "cluster": {"chief": ["127.0.0.1:1"], "ps": [f"127.0.0.1:{port}"]},
            "task": {"type": "ps", "index": 0},
        }
        argv = ["-m", "supervisor.programs.parameter_server"] if servers else [str(script)]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-P", *argv],
                env=clean_environment(TF_CONFIG=json.dumps(config), TF_CPP_MIN_LOG_LEVEL="2"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        if not servers:
            wait_for(ready.exists, "a script")
    if servers:
        wait_for(lambda: all(map(is_listening, ports)), "parameter servers")
    time.sleep(0.5)
    began = time.monotonic()
    for process in processes:
        process.send_signal(signal.SIGTERM)
    return max(gone_at(processes)) - began


def show(title: str, runs: Sequence[dict[str, float]]) -> None:
    print(f"\n{title}")
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(
            f"  {name:42}{statistics.median(values):8.3f} s   "
            f"(best {min(values):.3f}, worst {max(values):.3f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=("none", "ps", "killed"))
    given = parser.parse_args()
    wanted = [given.only] if given.only else ["none", "ps", "killed"]
    print(f"{given.runs} runs, {os.cpu_count()} cores; medians")
    with tempfile.TemporaryDirectory(prefix="bench-end-") as name:
        directory = pathlib.Path(name)
        if "none" in wanted:
            yard = [bare(directory, servers=False) for _ in range(given.runs)]
            runs = [{**end(Strategy.NONE), "yardstick: 3 bare scripts": each} for each in yard]
            show("no distribution: the chief's script ends → …", runs)
        if "ps" in wanted:
            yard = [bare(directory, servers=True) for _ in range(given.runs)]
            runs = [{**end(Strategy.PS), "yardstick: 3 bare servers": each} for each in yard]
            show("parameter servers: the chief's script ends → … (goal 0.5 s)", runs)
        if "killed" in wanted:
            show(
                "SIGKILL of the master and its children → … (goal 3 s)",
                [killed() for _ in range(given.runs)],
            )


if __name__ == "__main__":
    main()
