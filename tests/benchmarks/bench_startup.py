"""What the supervisor costs a job of one process: ``bench_startup.py [--runs 25] [--idle-s 10]``.

Three things, each beside yardsticks of the same run:

- from exec of ``supervisor train`` to the first instruction of the script, against the script by
  itself, under ``tini`` (where it is installed) and ``python -c pass`` to its end;
- from SIGTERM until the supervisor is gone, with a script that obeys at once;
- resident memory and CPU time while the script only waits: alone, and as a member of three hosts.

The script is a Python program without ``site``; its own start is in every figure but the last two
and so falls out of the difference. Ways are measured in turns, so that a loaded machine is unjust
to none; the first turn is thrown away, because it compiles and reads from disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

from supervisor.contract.distribution import Strategy
from supervisor.engines.local import LocalHost, lay_out

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 60.0
SUPERVISOR = (sys.executable, "-P", "-m", "supervisor", "train")
PYTHONS = {"python -c pass, to its end": "pass", "python -c 'import asyncio'": "import asyncio"}

SCRIPT = """\
#!{python} -IS
import time
began = time.monotonic()
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
used = 0
for task in os.listdir(f"/proc/{{os.getppid()}}/task"):
    used += int(open(f"/proc/{{os.getppid()}}/task/{{task}}/schedstat").read().split()[0])
os.write(1, f"began {{began}} {{used / 1e6}}\\n".encode())
if {waits}:
    signal.pause()
"""


def write_script(directory: pathlib.Path, name: str, *, waits: bool) -> str:
    path = directory / name
    path.write_text(SCRIPT.format(python=sys.executable, waits=waits))
    path.chmod(0o755)
    return str(path)


def environment(host: LocalHost) -> dict[str, str]:
    dropped = ("SUPERVISOR_", "PYTHONDONTWRITEBYTECODE")  # installed, it is compiled
    env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {
        **env,
        "PYTHONPATH": str(ROOT),
        "SAGEMAKER_BASE_DIR": host.base_dir,
        "SUPERVISOR_STATUS_BIND": "127.0.0.1",
    }


class Run:
    """One process under measurement; its script says when it began."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.exec_at = time.monotonic()
        self.process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def script_began(self) -> float:
        """When it did; ``parent_cpu_ms`` is what its parent had used soon after."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"began "):
                self.parent_cpu_ms = float(line.split()[2])
                return float(line.split()[1])
        raise SystemExit(f"no script under {self.process.args!r}")

    def end(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            self.process.wait(DEADLINE_S)


def start_ms(argv: Sequence[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Until the script began, and the CPU time of its parent until then."""
    run = Run(argv, env)
    began = run.script_began()
    run.end()
    return 1000 * (began - run.exec_at), run.parent_cpu_ms


def run_ms(code: str) -> tuple[float, float]:
    """To its end, and its CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * took, 1000 * cpu_s


def term_ms(argv: Sequence[str], env: Mapping[str, str], settle_s: float) -> float:
    run = Run(argv, env)
    run.script_began()
    time.sleep(settle_s)  # past the status server's start, which is not what is measured here
    # With a deadline ``wait`` polls, in steps of up to 50 ms: the kernel's own word instead.
    end = os.pidfd_open(run.process.pid)
    sent = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    if not select.select([end], [], [], DEADLINE_S)[0]:
        raise SystemExit(f"not gone: {run.process.args!r}")
    gone = time.monotonic()
    os.close(end)
    run.end()
    return 1000 * (gone - sent)


def table(title: str, columns: Mapping[str, Sequence[float]], yardstick: str) -> None:
    base = statistics.median(columns[yardstick])
    print(f"\n{title}")
    print(f"  {'':28}{'median':>10}{'best':>10}{'worst':>10}{'more':>10}{'ratio':>8}")
    for name, values in columns.items():
        middle = statistics.median(values)
        print(
            f"  {name:28}{middle:8.1f}ms{min(values):8.1f}ms{max(values):8.1f}ms"
            f"{middle - base:8.1f}ms{middle / base:8.2f}"
        )


# ------------------------------------------------------------------ memory and idle CPU


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident, and what of it belongs to no other process, MiB."""
    found = {}
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) / 1024
    return found["Rss"], found["Private_Clean"] + found["Private_Dirty"]


def cpu_s(pid: int) -> float:
    """CPU time of all threads, to the nanosecond (proc(5) has it in ticks of 10 ms elsewhere)."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def guardian_of(pid: int) -> int | None:
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == "job-guardian":
            return int(child)
    return None


@contextlib.contextmanager
def running(hosts: Sequence[LocalHost]) -> Iterator[list[Run]]:
    runs = [Run(SUPERVISOR, environment(host)) for host in hosts]
    try:
        for run in runs:
            run.script_began()
        yield runs
    finally:
        for run in runs:
            run.process.send_signal(signal.SIGTERM)
        for run in runs:
            run.end()


def at_rest(title: str, hosts: Sequence[LocalHost], idle_s: float) -> None:
    print(f"\n{title}, while the script waits ({idle_s:g} s; bounds: 60 MB, 0.1 %)")
    bare = subprocess.Popen([sys.executable, "-c", "import signal, asyncio; signal.pause()"])
    with running(hosts) as runs:
        time.sleep(2.0)  # the status server's imports, the joining's tail
        before = [cpu_s(run.process.pid) for run in runs]
        time.sleep(idle_s)
        for run, host, used in zip(runs, hosts, before, strict=True):
            pid = run.process.pid
            resident, own = memory_mib(pid)
            guardian = guardian_of(pid)
            guard = f", its guardian {memory_mib(guardian)[1]:.1f} private" if guardian else ""
            busy = 100 * (cpu_s(pid) - used) / idle_s
            print(
                f"  {host.name:28}{resident:6.1f} MiB resident ({own:.1f} private{guard}), "
                f"{busy:.3f} % of a core"
            )
    print(f"  {'python -c import asyncio':28}{memory_mib(bare.pid)[0]:6.1f} MiB resident")
    bare.terminate()
    bare.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--idle-s", type=float, default=10.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as name:
        directory = pathlib.Path(name)
        short = write_script(directory, "short", waits=False)
        long = write_script(directory, "long", waits=True)

        def hosts(count: int, script: str) -> list[LocalHost]:
            run_dir = str(directory / f"{os.path.basename(script)}-{count}")
            return lay_out(run_dir, count, Strategy.NONE, script, (), {})

        tini = shutil.which("tini")
        if tini is None:
            print("tini is not installed: that yardstick is left out")
        (alone,), (waiting,) = hosts(1, short), hosts(1, long)
        starts: dict[str, list[float]] = {"the script by itself": []}
        ends: dict[str, list[float]] = {"the script by itself": []}
        cpu: dict[str, list[float]] = {}
        bare = dict(os.environ)
        for turn in range(given.runs + 1):
            took = {"the script by itself": start_ms([short], bare)[0]}
            stop = {"the script by itself": term_ms([long], bare, 0.05)}
            if tini:
                took["tini"] = start_ms([tini, "-s", "--", short], bare)[0]
                stop["tini"] = term_ms([tini, "-s", "--", long], bare, 0.05)
            used = {}
            for key, code in PYTHONS.items():
                took[key], used[key] = run_ms(code)
            took["supervisor train"], used["supervisor train"] = start_ms(
                SUPERVISOR, environment(alone)
            )
            stop["supervisor train"] = term_ms(SUPERVISOR, environment(waiting), 0.05)
            stop["the same, serving status"] = term_ms(SUPERVISOR, environment(waiting), 1.0)
            if turn == 0:
                continue
            for columns, row in ((starts, took), (cpu, used), (ends, stop)):
                for key, value in row.items():
                    columns.setdefault(key, []).append(value)
        print(json.dumps({"python": sys.version.split()[0], "cores": os.cpu_count()}))
        table(
            "exec to the script's first instruction (bound: 150 ms more)",
            starts,
            "the script by itself",
        )
        table("CPU time until then, and soon after", cpu, "python -c 'import asyncio'")
        table("SIGTERM to gone, a script that obeys", ends, "the script by itself")
        at_rest("one host", [waiting], given.idle_s)
        at_rest("three hosts, no distribution", hosts(3, long), given.idle_s)


if __name__ == "__main__":
    main()
