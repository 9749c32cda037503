"""What the fetch process costs: ``bench_fetch.py [one] [small] [large] [mixed]``.

The same tree is fetched from a directory and from a real S3 server (``rclone serve s3``) on this
machine: wall time from exec to the end, CPU, and peak resident memory of the process. ``one`` is
one byte: what starting costs. Every result is compared with its origin, byte by byte.
"""

from __future__ import annotations

import argparse
import filecmp
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

from supervisor.storage import job as jobs
from supervisor.storage.job import FetchJob, Options, Tree
from supervisor.storage.location import Location
from tests.helpers import s3
from tests.helpers.job import environment

COMMAND = (sys.executable, "-P", "-m", "supervisor.storage.fetch")
SHAPES = {
    "one": [(1, 1)],
    "small": [(10_000, 1 << 10)],
    "large": [(1, 1 << 31)],
    "mixed": [(2000, 2 << 10), (30, 8 << 20), (1, 300 << 20)],
}
"""How many files of how many bytes."""


def make(shape: str, root: pathlib.Path) -> None:
    chance = random.Random(1)
    for count, size in SHAPES[shape]:
        for number in range(count):
            path = root / f"{size}" / f"{number % 100:02}" / f"{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.writelines(
                    chance.randbytes(min(1 << 20, size - at)) for at in range(0, size, 1 << 20)
                )


def fetch(tmp: pathlib.Path, origin: Location, options: Options) -> str:
    tree = Tree("tree", origin, str(tmp / "target"))
    job = FetchJob(str(tmp / "result"), options, trees=(tree,))
    env = environment(
        SUPERVISOR_STORAGE_JOB=jobs.encode(job),
        AWS_ACCESS_KEY_ID=s3.KEY,
        AWS_SECRET_ACCESS_KEY=s3.SECRET,
    )
    # The peak of a process begins with that of its maker: a small one in between.
    small = "import os, sys; p = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]);"
    small += "_, s, u = os.wait4(p, 0); print(s, u.ru_utime + u.ru_stime, u.ru_maxrss)"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-S", "-c", small, *COMMAND],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    took_s = time.monotonic() - began
    status, cpu_s, peak_kib = done.stdout.split()
    if status != "0":
        raise SystemExit(done.stderr)
    return f"{took_s:6.2f} s  cpu {float(cpu_s):6.2f} s  peak {int(peak_kib) >> 10:4} MiB"


def check_same(one: pathlib.Path, other: pathlib.Path) -> None:
    names = [str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()]
    match, _, _ = filecmp.cmpfiles(one, other, names, shallow=False)
    if len(match) != len(names):
        raise SystemExit(f"{len(names) - len(match)} files differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", metavar="shape", help=", ".join(SHAPES))
    shapes = parser.parse_args().shapes or list(SHAPES)
    for shape in shapes:
        with tempfile.TemporaryDirectory() as name:
            tmp = pathlib.Path(name)
            origin = tmp / "buckets" / "bucket" / "tree"
            make(shape, origin)
            with s3.rclone(tmp) as server:
                patient = replace(server.options, timeout_s=120, retry_s=300)
                for kind, place, options in (
                    ("file", str(origin), Options()),
                    ("s3", "s3://bucket/tree", patient),
                ):
                    line = fetch(tmp, Location.parse(place), options)
                    print(f"{shape:6} {kind:5} {line}", flush=True)
                    check_same(origin, tmp / "target")
                    shutil.rmtree(tmp / "target")


if __name__ == "__main__":
    main()
