"""Deals random blows to real jobs, and judges every end: code, cause, time, what is left.

::

    python tests/benchmarks/bench_blows.py [--blows 200] [--tensorflow 40] [--seed N] [--jobs 2]
    python tests/benchmarks/bench_blows.py --replay SEED:INDEX

A blow is a signal (SIGKILL, SIGTERM, SIGINT, SIGSTOP, SIGTSTP; those that stop are followed by
SIGCONT, sooner or later than a lease) to a supervisor, its guardian, a script, what a wrapping
shell runs, the process that sends checkpoints, a parameter server or a worker server; some jobs are
dealt two. The jobs have one to three hosts. Each blow has a seed of its own, which its line shows
and ``--replay`` takes. ``tests/helpers/oracle.py`` says what must follow. The directory of a job
that ended wrong is kept. Not a test, for it takes minutes; ``tests/jobs/test_blows.py`` has a few.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pathlib
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers.blown import Run  # noqa: E402
from tests.helpers.blows import Kind, Trial, draw  # noqa: E402

FAKE = (
    Kind.PLAIN,
    Kind.ALONE,
    Kind.PS,
    Kind.MWMS,
    Kind.KEPT,
    Kind.PLAIN,
    Kind.PS,
    Kind.SERVER,
)
REAL = (Kind.TF_PS, Kind.TF_PS, Kind.TF_MWMS)
FIRST_REAL = 1_000_000
"""Indices from here on are jobs with TensorFlow."""


def trial_of(seed: int, index: int) -> Trial:
    return draw(seed, index, REAL if index >= FIRST_REAL else FAKE)


class Score:
    """What came of all blows."""

    def __init__(self, base: pathlib.Path, patience: float) -> None:
        self._base = base
        self._patience = patience
        self._lock = threading.Lock()
        self._longest: dict[str, float] = defaultdict(float)
        self._count: dict[str, int] = defaultdict(int)
        self.wrong: list[str] = []
        self.missed = 0

    def perform(self, trial: Trial) -> None:
        directory = self._base / f"{trial.seed}-{trial.index}"
        with Run(trial, directory) as run:
            try:
                complaints = run.perform(patience=self._patience)
            except Exception as error:  # noqa: BLE001  # said, and the others go on
                complaints = [f"the trial itself broke: {error!r}"]
        with self._lock:
            verdict = "WRONG" if complaints else "RIGHT"
            print(f"{trial.seed}:{trial.index} {verdict} {run}", flush=True)
            for each in complaints:
                print(f"    {each}", flush=True)
            if complaints:
                self.wrong.append(f"{trial.seed}:{trial.index}")
                print(f"    kept in {directory}", flush=True)
            self.missed += not run.dealt
            for dealt in run.dealt:
                blow = dealt.blow
                key = f"{trial.kind.value:8} {blow.target.value:10} {blow.signum:2}"
                self._count[key] += 1
                self._longest[key] = max(self._longest[key], run.seconds)
        if not complaints:
            shutil.rmtree(directory, ignore_errors=True)

    def summary(self) -> str:
        rows = [
            f"{key}  {self._count[key]:4}  longest {self._longest[key]:5.1f} s"
            for key in sorted(self._count)
        ]
        return "\n".join(["job      target     signal, blows, from the blow to the end", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blows", type=int, default=200, help="jobs in all")
    parser.add_argument("--tensorflow", type=int, default=40, help="of those with TensorFlow")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=2, help="at once")
    parser.add_argument("--only", choices=[kind.value for kind in Kind])
    parser.add_argument("--replay", metavar="SEED:INDEX", action="append", default=[])
    parser.add_argument("--patience", type=float, default=1.5, help="factor for a busy machine")
    parser.add_argument("--directory", type=pathlib.Path, help="where wrong ones are kept")
    args = parser.parse_args()
    base = args.directory or pathlib.Path(tempfile.mkdtemp(prefix="blows-"))
    if args.replay:
        trials = [trial_of(*map(int, each.split(":"))) for each in args.replay]
    else:
        real = min(args.tensorflow, args.blows)
        indices = [*range(args.blows - real), *range(FIRST_REAL, FIRST_REAL + real)]
        trials = [trial_of(args.seed, index) for index in indices]
        trials = [each for each in trials if args.only in {None, each.kind.value}]
    score = Score(base.resolve(), args.patience)
    began = time.monotonic()
    print(f"seed {args.seed}, {len(trials)} jobs, in {base}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for done in [pool.submit(score.perform, trial) for trial in trials]:
            done.result()
    print(score.summary())
    print(
        f"{len(trials)} jobs in {time.monotonic() - began:.0f} s, {score.missed} ended before "
        f"their blow, {len(score.wrong)} wrong: {' '.join(score.wrong) or 'none'}"
    )
    if not score.wrong:
        shutil.rmtree(base, ignore_errors=True)
    sys.exit(1 if score.wrong else 0)


if __name__ == "__main__":
    main()
