"""What it costs to carry a child's output: ours, ``cat``, and other launchers, on the same data.

::

    python tests/benchmarks/bench_streams.py [--mib 256] [--rounds 5] [--peers PYTHON]

Every contender carries the same prepared data from a child's pipe to the same reader's pipe.
The child is ``cat FILE``; the reader is ``dd``, which counts and throws away. ``tee`` is the
yardstick for what also writes a file. A round runs each contender once, so that a busy machine is
busy for all of them. The medians of the rounds:

- MB/s from the child's start to the reader's end of file, and the ratio to ``cat``'s;
- CPU seconds per GB of the carrying process alone, its start not among them (for launchers that
  start the child themselves, with their start, and less what the child takes under ``cat``);
- the carrying process's highest resident memory.

``--peers`` names a Python that has honcho or sagemaker-training installed; what cannot be
imported there is left out with a line that says so. They carry less
data (``--peer-mib``), so that a run ends.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LINE = b"x" * 99 + b"\n"

PEERS = {
    "honcho": (
        "honcho.manager",
        """
        import sys
        from honcho.manager import Manager
        from honcho.printer import Printer
        manager = Manager(Printer(sys.stdout))
        manager.add_process("chief", sys.argv[1])
        manager.loop()
        """,
    ),
    "sagemaker": (
        "sagemaker_training.process",
        """
        import shlex, sys
        from sagemaker_training import errors, process
        process.check_error(
            shlex.split(sys.argv[1]), errors.ExecuteUserScriptError, 1, cwd="/", capture_error=True
        )
        """,
    ),
}


# --------------------------------------------------------------------------- the carrier: ours


async def carry(form: str, directory: str) -> None:
    """Carry fd 0 to fd 1, and to a log file if there is a directory."""
    from supervisor.streams import (
        Branch,
        Formatter,
        Json,
        Label,
        Prefix,
        Pump,
        Raw,
        RotatingFile,
        Sink,
    )

    label = Label("algo-1", "chief", "stdout")
    formatters: dict[str, Formatter] = {"raw": Raw(), "prefix": Prefix(label), "json": Json(label)}
    sinks = [Sink(1, name="stdout")]
    branches = [Branch(formatters[form], sinks[0])]
    if directory:
        path = os.path.join(directory, "chief.log")
        sinks.append(Sink(RotatingFile(path, max_bytes=32 << 20, keep=1), name="file"))
        branches.append(Branch(Prefix(label, ""), sinks[1]))  # as a host's files are written
    pump = Pump(os.dup(0), branches)
    pump.start()
    os.write(2, b"ready\n")
    await pump.finish(3600)
    pump.close()
    for sink in sinks:
        unwritten = await sink.drain(3600)
        sink.close()
        if unwritten or sink.broken:
            raise RuntimeError(f"{sink.name}: {unwritten} bytes not written, {sink.error}")


# --------------------------------------------------------------------------- the harness


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    argv: tuple[str, ...]
    starts_child: bool = False
    """It starts the child itself: the command is its last argument."""
    says_ready: bool = False
    """It says so on stderr when it has started, and is measured from then on."""


@dataclass(frozen=True, slots=True)
class Figures:
    mb_per_s: float
    cpu_s_per_gb: float
    resident_mib: float
    child_cpu_s_per_byte: float = 0.0


class Resident:
    """The highest resident memory of a process. Not ``ru_maxrss``, which survives exec."""

    def __init__(self) -> None:
        self.highest_mib = 0.0

    def watch(self, pid: int) -> None:
        threading.Thread(target=self._watch, args=(pid,), daemon=True).start()

    def _watch(self, pid: int) -> None:
        try:
            while True:
                with open(f"/proc/{pid}/status") as status:
                    kib = [line.split()[1] for line in status if line.startswith("VmHWM")]
                if not kib:
                    return
                self.highest_mib = int(kib[0]) / 1024
                time.sleep(0.02)
        except OSError:
            return


def cpu_so_far(pid: int) -> float:
    """CPU seconds that a process has taken; proc(5), fields 14 and 15."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(contender: Contender, path: str, child_cpu_s_per_byte: float) -> Figures:
    """Carry the file at ``path`` once."""
    size = os.path.getsize(path)
    command = ["cat", path]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    reader_fd, out_fd = os.pipe()
    reader = subprocess.Popen(
        ["dd", "of=/dev/null", "bs=1M"],
        stdin=reader_fd,
        stderr=subprocess.PIPE,
        env={"LC_ALL": "C"},
    )
    os.close(reader_fd)
    child = None
    start_cpu_s = 0.0
    started = time.monotonic()
    resident = Resident()
    if contender.starts_child:
        argv = (*contender.argv, shlex.join(command))
        carrier = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out_fd, env=environment)
    else:
        in_fd, child_fd = os.pipe()
        carrier = subprocess.Popen(
            contender.argv, stdin=in_fd, stdout=out_fd, stderr=subprocess.PIPE, env=environment
        )
        assert carrier.stderr is not None
        if contender.says_ready and carrier.stderr.readline() != b"ready\n":
            raise RuntimeError(f"{contender.name}: {carrier.stderr.read().decode()}")
        start_cpu_s = cpu_so_far(carrier.pid)
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=child_fd)
        os.close(in_fd)
        os.close(child_fd)
    os.close(out_fd)
    resident.watch(carrier.pid)
    _, said = reader.communicate()
    took_s = time.monotonic() - started
    _, status, usage = os.wait4(carrier.pid, 0)
    carrier.returncode = os.waitstatus_to_exitcode(status)
    if carrier.stderr is not None:
        carrier.stderr.close()
    if child is not None:
        _, status, child_usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        child_cpu_s_per_byte = (child_usage.ru_utime + child_usage.ru_stime) / size
    arrived = int(said.splitlines()[2].split()[0])
    if carrier.returncode or arrived < size:
        raise RuntimeError(
            f"{contender.name}: exit {carrier.returncode}, {arrived} bytes of {size} came out"
        )
    cpu_s = usage.ru_utime + usage.ru_stime - start_cpu_s
    if contender.starts_child:
        cpu_s -= child_cpu_s_per_byte * size
    return Figures(
        mb_per_s=size / took_s / 1e6,
        cpu_s_per_gb=cpu_s / size * 1e9,
        resident_mib=resident.highest_mib,
        child_cpu_s_per_byte=child_cpu_s_per_byte,
    )


def contenders(directory: str, peers: str | None) -> list[Contender]:
    ours = (sys.executable, os.path.abspath(__file__), "--carry")
    found = [Contender("cat", ("cat",)), Contender("tee", ("tee", os.path.join(directory, "tee")))]
    found += [
        Contender(
            f"{form}{' + file' if files else ''}",
            (*ours, form, "--directory", files),
            says_ready=True,
        )
        for form in ("raw", "prefix", "json")
        for files in ("", directory)
    ]
    for name, (module, script) in PEERS.items():
        python = peers or sys.executable
        probe = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
        if probe.returncode:
            print(f"{name}: left out, {python} cannot import {module}")
        else:
            argv = (python, "-c", "\n".join(line.strip() for line in script.splitlines()))
            found.append(Contender(name, argv, starts_child=True))
    return found


def compare(title: str, block: bytes, options: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory() as directory,
    ):
        paths = []
        for mib in (options.mib, options.peer_mib):
            paths.append(os.path.join(memory, f"{mib}"))
            with open(paths[-1], "wb") as file:
                file.writelines([block] * ((mib << 20) // len(block)))
        taking_part = contenders(directory, options.peers)
        figures: dict[str, list[Figures]] = {one.name: [] for one in taking_part}
        for _ in range(options.rounds):
            child_cpu_s_per_byte = 0.0
            for one in taking_part:
                result = run(one, paths[one.starts_child], child_cpu_s_per_byte)
                figures[one.name].append(result)
                child_cpu_s_per_byte = result.child_cpu_s_per_byte
    print(f"\n{title}, {options.mib} MiB, medians of {options.rounds}")
    print(f"{'':16}{'MB/s':>8}{'of cat':>8}{'CPU s/GB':>10}{'resident MiB':>14}")
    yardstick = statistics.median(one.mb_per_s for one in figures["cat"])
    for name, results in figures.items():
        speed = statistics.median(one.mb_per_s for one in results)
        cpu = statistics.median(one.cpu_s_per_gb for one in results)
        resident = statistics.median(one.resident_mib for one in results)
        print(f"{name:16}{speed:8.0f}{speed / yardstick:8.2f}{cpu:10.2f}{resident:14.1f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What it costs to carry a child's output.")
    parser.add_argument("--mib", type=int, default=256, help="data of one run, in MiB")
    parser.add_argument("--peer-mib", type=int, default=8, help="the same for other launchers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", metavar="PYTHON", help="it has honcho or sagemaker-training")
    parser.add_argument("--carry", metavar="FORMAT", help=argparse.SUPPRESS)
    parser.add_argument("--directory", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.carry:
        asyncio.run(carry(options.carry, options.directory))
        return 0
    compare("100-byte lines", LINE * 10_000, options)
    compare("64 KiB lines", b"x" * 65535 + b"\n", options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
