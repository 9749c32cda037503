"""Figures of ``bench_goodput.py`` from what the ranks have recorded. Pure.

All times are seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Mark(NamedTuple):
    """A line of a rank's record."""

    at: float
    pid: int
    what: str
    """``start``: the script runs; ``term``: it was told to stop; ``step``: one is made; ``lost``:
    a peer is gone."""
    step: int = 0


def marks_in(text: str) -> list[Mark]:
    """Of a record whose last line may not be complete."""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [Mark(**json.loads(line)) for line in lines]


class Blow(NamedTuple):
    """What is to be done to a rank."""

    after_s: float
    """From the first step of the whole run on."""
    kind: str
    rank: int


def timetable(
    seed: int,
    blows: int,
    ranks: int,
    kinds: Sequence[str],
    shortest_s: float = 4.0,
    longest_s: float = 10.0,
) -> list[Blow]:
    """The same for every launcher. Times between blows lie evenly between the two limits."""
    chance, at_s, table = random.Random(seed), 0.0, []
    for _ in range(blows):
        at_s += chance.uniform(shortest_s, longest_s)
        table.append(Blow(at_s, chance.choice(kinds), chance.randrange(ranks)))
    return table


class Outage(NamedTuple):
    """What followed on a blow, in seconds from it; None: it was not seen."""

    detect_s: float | None
    """The first of the others is told to stop, or gone."""
    down_s: float | None
    """All that ran when it fell are gone."""
    back_s: float | None
    """Rank 0's first step by another process."""
    all_back_s: float | None
    """… the last rank's."""
    redone: int | None
    """Steps that had been made before."""


def running(marks: Sequence[Mark], at: float) -> int | None:
    """The pid of a rank's newest process at a time."""
    return next(
        (each.pid for each in reversed(marks) if each.what == "start" and each.at <= at), None
    )


def outage(
    ranks: Sequence[Sequence[Mark]], gone: Mapping[int, float], at: float, victims: set[int]
) -> Outage:
    """What a blow has done.

    ``ranks``: what each has recorded; ``gone``: when processes ended; ``victims``: what the blow
    itself fell on.
    """
    old = {pid for marks in ranks if (pid := running(marks, at)) is not None}
    others = old - victims
    told = [
        each.at
        for marks in ranks
        for each in marks
        if each.what == "term" and each.pid in others and each.at >= at
    ]
    signs = told + [gone[pid] for pid in others if pid in gone]
    first = [_first_step(marks, old, at) for marks in ranks]
    back = first[0]
    redone = None
    if back is not None:
        done = [each.step for each in ranks[0] if each.what == "step" and each.at < back.at]
        redone = max(done, default=0) - back.step + 1
    return Outage(
        min(signs) - at if signs else None,
        max(gone[pid] for pid in old) - at if old and all(pid in gone for pid in old) else None,
        back.at - at if back else None,
        max(each.at for each in first if each) - at if all(first) else None,
        redone,
    )


def _first_step(marks: Iterable[Mark], old: set[int], at: float) -> Mark | None:
    return next(
        (each for each in marks if each.what == "step" and each.at > at and each.pid not in old),
        None,
    )


def kept(marks: Sequence[Mark], began: float, ended: float) -> int:
    """Distinct steps that rank 0 has made in a time."""
    return len({each.step for each in marks if each.what == "step" and began < each.at <= ended})


def starts(marks: Sequence[Mark], ended: float) -> int:
    return sum(each.what == "start" and each.at <= ended for each in marks)


def goodput(steps: int, window_s: float, step_s: float) -> float:
    """Percent of the steps that nothing would have held up."""
    return 100.0 * steps * step_s / window_s


class Ideal(NamedTuple):
    goodput: float
    redone: float
    """Median of a blow."""


def ideal_with_restarts(
    blows: Sequence[Blow], window_s: float, startup_s: float, step_s: float, save_every: int
) -> Ideal:
    """Every blow costs a start-up and the steps since the last checkpoint, and nothing else."""
    step = saved = best = 0
    began, redone = 0.0, []
    for until in [*(blow.after_s for blow in blows if blow.after_s < window_s), window_s]:
        step = saved + max(0, int((until - began) / step_s + 1e-6))
        best = max(best, step)
        saved = max(saved, step - step % save_every)
        redone.append(step - saved)
        began = until + startup_s
    return Ideal(goodput(best, window_s, step_s), statistics.median(redone[:-1] or [0]))


def middle(values: Iterable[float | None]) -> float | None:
    """The median of those that are there."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None
