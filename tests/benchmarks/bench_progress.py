"""What it costs to see from outside how far training is.

    python -m tests.benchmarks.bench_progress [--rounds 5] [--gib 2]

Four tables, each with yardsticks of the same run:

- a look at event files, which a host takes once a second: with so many files below its directories
  of which none is new, and beside it ``os.walk`` over the same;
- a burst of 8 MiB of events between two looks: what is read of it, and beside it all of it framed,
  and its checksum alone: google-crc32c's, and one of pure Python;
- a look at the output: the end of a flood, of lines of several kinds; beside it ``str.splitlines``;
- a stream from a child's pipe to a reader's, as a host carries it, with and without a look a second
  at its lines and at 1000 event files of which one grows: MB/s, and CPU seconds per GB of the
  process that carries.

Processor time of the process, the least of the rounds; the last table: medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Final

import google_crc32c

from tests.benchmarks.bench_streams import cpu_so_far
from tests.helpers.eventfiles import checksum, loss, version
from tests.helpers.tree import ROOT

LINES: Final = {
    "step 120/1000 loss 0.35": "step {0}/90000 loss 0.{0:05}, 12.3 examples/s\n",
    "Keras' bar": "\r {0}/90000 [=====>........] - ETA: 3:21 - loss: 0.{0:05} - mae: 0.2\b\b\b\b",
    "JSON": '{{"level": "info", "step": {0}, "loss": 0.{0:05}, "message": "trained"}}\n',
    "a logger's, of nothing": "2026-11-30 12:00:00,{0:03} INFO loader: read shard {0:05}.tar\n",
    "100 letters": "x" * 100 + "\n",
    "1 KiB of numbers": "1,000 step " * 93 + "\n",
}


def least(rounds: int, call: Callable[[], object]) -> float:
    """Milliseconds of processor time."""
    took = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        took.append(time.process_time() - began)
    return min(took) * 1e3


# --------------------------------------------------------------------------- files and lines


def files(rounds: int) -> None:
    from supervisor.training.event_files import EventFiles

    print(f"\n{'files, none new':26}{'look, ms':>10}{'os.walk, ms':>14}")
    for count in (0, 10, 1000):
        with tempfile.TemporaryDirectory() as root:
            for number in range(count):
                folder = os.path.join(root, str(number // 20))
                os.makedirs(folder, exist_ok=True)
                with open(os.path.join(folder, f"events.out.tfevents.{number}"), "wb") as file:
                    file.write(version(time.time()))
            followed = EventFiles([root])
            followed.begin(time.time_ns())
            followed.look([os.getpid()])
            look = least(rounds, lambda: followed.look([os.getpid()]))  # noqa: B023
            walk = least(rounds, lambda: [*os.walk(root)])
        print(f"{count:<26}{look:10.2f}{walk:14.2f}")


def burst(rounds: int) -> None:
    from supervisor.training import framing
    from supervisor.training.event_files import EventFiles

    at = time.time() + 3600
    block = b"".join(loss(at, step) for step in range(1000))
    content = block * ((8 << 20) // len(block))

    def look() -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
            followed = EventFiles([root])
            followed.begin(time.time_ns())
            with open(os.path.join(root, "events.out.tfevents.1"), "wb") as file:
                file.write(content)
            assert followed.look()[-1].step == 999

    def write() -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as root, open(f"{root}/a", "wb") as file:
            file.write(content)

    part = content[: 64 << 10]
    for each in ("look", "framing"):  # what is imported late is imported by now
        look() if each == "look" else framing.records(part, checksum)
    print(f"\n{'8 MiB of events':26}{'ms':>10}")
    print(f"{'a look':26}{least(rounds, look) - least(rounds, write):10.2f}")
    print(f"{'all of them framed':26}{least(rounds, lambda: _framed(content)):10.2f}")
    print(f"{'google-crc32c':26}{least(rounds, lambda: google_crc32c.value(content)):10.2f}")
    pure = least(rounds, lambda: slow_crc32c(part)) * len(content) / len(part)
    print(f"{'CRC-32C in pure Python':26}{pure:10.2f}")


def _framed(content: bytes) -> None:
    from supervisor.training import framing

    at = 0
    while (part := framing.records(content[at : at + (64 << 10)], checksum)).used:
        at += part.used


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE: Final = _table()


def slow_crc32c(data: bytes) -> int:
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def output(rounds: int) -> None:
    from supervisor.training.words import END_BYTES, Words

    print(f"\n{'a flood of':26}{'look, ms':>10}{'splitlines, ms':>16}")
    for name, form in LINES.items():
        text = "".join(form.format(number) for number in range(3000))[-END_BYTES:]
        words = Words().read("Epoch 1/3\n")
        look = least(rounds, lambda: words.read(text, cut=True))  # noqa: B023
        split = least(rounds, text.splitlines)
        print(f"{name:26}{look:10.2f}{split:16.2f}")


# --------------------------------------------------------------------------- a stream


def _grow(root: str, step: int) -> None:
    with open(os.path.join(root, "events.out.tfevents.new"), "ab") as file:
        file.writelines(loss(time.time(), number) for number in range(step, step + 10))


async def carry(root: str) -> None:
    """Carry fd 0 to fd 1 as a host does; ``root``: look beside it, at event files below it."""
    from supervisor.aside import Aside
    from supervisor.host.listening import Listening
    from supervisor.host.training import LOOK_S
    from supervisor.streams import Branch, Pump, Raw, Sink
    from supervisor.streams.recent import Recent, Source
    from supervisor.training.course import Course
    from supervisor.training.event_files import EventFiles

    recent, sink, aside = Recent(), Sink(1, name="stdout"), Aside("training")

    def tap(data: bytes) -> None:
        recent.add(Source("chief", "chief", "stdout"), data)

    async def look() -> None:
        listening, followed = Listening(recent, "chief", "", 0), EventFiles([root])
        followed.begin(time.time_ns())
        course, step = Course(), 0
        while True:
            step += 10
            _grow(root, step)
            readings = listening.read()
            readings += await aside(2.0, followed.look, [os.getpid()])
            course = course.take(readings, time.monotonic())
            assert course.best(time.monotonic())
            await asyncio.sleep(LOOK_S)

    pump = Pump(os.dup(0), [Branch(Raw(), sink)], tap=tap)
    os.write(2, b"ready\n")
    pump.start()
    looking = asyncio.ensure_future(look()) if root else None
    await pump.finish(3600)
    if looking is not None:
        assert not looking.done(), looking.exception()
        looking.cancel()
    pump.close()
    assert not await sink.drain(3600)
    sink.close()


def run(path: str, times: int, root: str) -> tuple[float, float]:
    """MB/s, and CPU seconds per GB of the process that carries."""
    in_fd, child_fd = os.pipe()
    reader_fd, out_fd = os.pipe()
    command = (sys.executable, "-m", "tests.benchmarks.bench_progress", "--carry", "--root", root)
    with (
        subprocess.Popen(
            command, stdin=in_fd, stdout=out_fd, stderr=subprocess.PIPE, cwd=ROOT
        ) as carrier,
        subprocess.Popen(
            ["dd", "of=/dev/null", "bs=1M"], stdin=reader_fd, stderr=subprocess.DEVNULL
        ) as reader,
    ):
        for fd in (in_fd, out_fd, reader_fd):
            os.close(fd)
        assert carrier.stderr
        if carrier.stderr.readline() != b"ready\n":
            raise RuntimeError(carrier.stderr.read().decode())
        began_cpu_s, began = cpu_so_far(carrier.pid), time.monotonic()
        with subprocess.Popen(["cat", *[path] * times], stdout=child_fd):
            os.close(child_fd)
        reader.wait()
        took_s = time.monotonic() - began
        _, status, usage = os.wait4(carrier.pid, 0)
        carrier.returncode = os.waitstatus_to_exitcode(status)
        if carrier.returncode:
            raise RuntimeError(carrier.stderr.read().decode())
    size = os.path.getsize(path) * times
    cpu_s = usage.ru_utime + usage.ru_stime - began_cpu_s
    return size / took_s / 1e6, cpu_s / size * 1e9


def stream(rounds: int, gib: float) -> None:
    block = "".join(LINES["step 120/1000 loss 0.35"].format(n) for n in range(20_000)).encode()
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory() as root,
    ):
        path = os.path.join(memory, "lines")
        with open(path, "wb") as file:
            file.writelines([block] * ((64 << 20) // len(block)))
        for number in range(1000):
            with open(os.path.join(root, f"events.out.tfevents.{number}"), "wb") as events:
                events.write(version(time.time()))
        times = max(1, round(gib * 16))
        figures: dict[str, list[tuple[float, float]]] = {"without": [], "with a look a second": []}
        for _ in range(rounds):
            for name, told in figures.items():
                told.append(run(path, times, root if name != "without" else ""))
    print(f"\n{f'{gib} GiB of steps':26}{'MB/s':>10}{'CPU s/GB':>12}")
    for name, told in figures.items():
        speed, cpu = (statistics.median(each[which] for each in told) for which in (0, 1))
        print(f"{name:26}{speed:10.0f}{cpu:12.3f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=float, default=2.0, help="carried in one run")
    parser.add_argument("--carry", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--root", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.carry:
        asyncio.run(carry(options.root))
        return 0
    files(options.rounds)
    burst(options.rounds)
    output(options.rounds)
    stream(options.rounds, options.gib)
    return 0


if __name__ == "__main__":
    sys.exit(main())
