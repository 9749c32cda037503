"""Kills the sync process at random points, and restores after each; TensorFlow for a minute.

::

    python tests/benchmarks/bench_kills.py [--kills 100] [--s3-kills 20] [--tensorflow-s 60]

What must hold: after every kill the newest manifest comes back, no older than the last that the
process had said to be saved, byte by byte a state that the writer had; every manifest that was
ever published restores in TensorFlow. The first violation ends it. Not a test, for it takes
minutes; the suite has a short form of each (``tests/storage/test_sync.py``).
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from supervisor.storage.job import Options  # noqa: E402
from tests.helpers.s3 import KEY, SECRET, rclone  # noqa: E402
from tests.storage.test_sync import (  # noqa: E402
    Place,
    check_every_manifest,
    kill_and_restore,
    save_with_tensorflow,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--s3-kills", type=int, default=20)
    parser.add_argument("--tensorflow-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    print(f"seed {args.seed}")
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with tempfile.TemporaryDirectory() as base:
        place = Place(pathlib.Path(base))
        options = Options(bandwidth_bytes_s=3_000_000)
        began = time.monotonic()
        steps = kill_and_restore(
            place, str(place.target), args.kills, options=options, seed=args.seed
        )
        took_s = time.monotonic() - began
        whole = len(check_every_manifest(place))
        print(
            f"directory: {args.kills} kills in {took_s:.0f} s, steps {steps[0]} to {steps[-1]} "
            f"({len(set(steps))} different), {whole} manifests at the end, all whole"
        )
    with tempfile.TemporaryDirectory() as base, rclone(pathlib.Path(base)) as server:
        place = Place(pathlib.Path(base))
        options = server.options
        began = time.monotonic()
        target = str(server.place())
        steps = kill_and_restore(place, target, args.s3_kills, options=options, seed=args.seed)
        print(
            f"rclone serve s3: {args.s3_kills} kills in {time.monotonic() - began:.0f} s, "
            f"steps {steps[0]} to {steps[-1]} ({len(set(steps))} different)"
        )
    with tempfile.TemporaryDirectory() as base:
        place = Place(pathlib.Path(base))
        saved, steps = save_with_tensorflow(place, args.tensorflow_s, 1.0)
        print(
            f"TensorFlow, a save a second for {args.tensorflow_s:.0f} s: {saved} saves, "
            f"{len(steps)} manifests, all restored, the last of step {steps[-1]}"
        )


if __name__ == "__main__":
    main()
