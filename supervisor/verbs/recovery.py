"""Whether training went on from where it was, after each thing that made it start anew. Pure.

By what the script tells of its steps (``SUPERVISOR_PROGRESS_FILE``), else by the numbers of its
checkpoints. Times are seconds since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from supervisor.faults import counted
from supervisor.verbs.words import mapping, mappings, number, plain, short, who

_MOST_TOLD: Final = 3
"""Starts at step 0 that are told each for itself."""
_PROGRESS: Final = "the script tells no step (SUPERVISOR_PROGRESS_FILE)"
_RESTORES: Final = "nothing restores SUPERVISOR_CHECKPOINT_DIR"
_NUMBER: Final = re.compile(r"(\d+)\D*$")


class Told(NamedTuple):
    """A step, as the script has told it."""

    at: float
    step: int


class Saved(NamedTuple):
    """A complete checkpoint."""

    at: float
    name: str


class Hit(NamedTuple):
    """A fault that was performed."""

    at: float
    label: str
    """``kill 3``."""


class Restart(NamedTuple):
    """Something of the job was started anew."""

    ended_at: float
    began_at: float
    trains: bool
    """Whether what trains was; else a worker beside it, and no step is lost."""
    why: str


@dataclass(slots=True)
class Record:
    """What was seen of one job."""

    told: list[Told] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    lines: tuple[str, ...]
    good: bool
    """No start of training that could have gone on from a checkpoint did not."""


@dataclass(slots=True)
class _Count:
    resumed: int = 0
    older: int = 0
    """Of these, from another checkpoint than the newest."""
    again: int = 0
    """Steps that were done again."""
    counted: int = 0
    """Of the resumed ones: how many told steps."""
    beside: int = 0
    early: int = 0
    unknown: int = 0
    silent: int = 0
    """They ended, whyever, before a step was told."""
    anew: list[str] = field(default_factory=list)
    """After what each time."""


def restarts(reports: Mapping[str, Mapping[str, Any]], *, alone_trains: bool) -> list[Restart]:
    """From the attempts in the reports of hosts, each attempt once; what trains is not told of
    where a process alone started anew, unless ``alone_trains``: each host is a job of its own."""
    rows: dict[int, dict[str, Any]] = {}
    for report in reports.values():
        for row in mappings(report.get("attempts")):
            known = rows.setdefault(int(number(row.get("attempt")) or 0), {})
            # A supervisor that was started anew lacks what was before it; others have it.
            known.update({key: value for key, value in row.items() if known.get(key) is None})
    found = []
    for index in sorted(rows):
        before, row = rows.get(index - 1), rows[index]
        if before is None:
            continue
        began, ended = number(row.get("began_at")), number(before.get("ended_at"))
        if began is None:  # the job ended while it was prepared
            continue
        cause = mapping(before.get("cause"))
        trains = alone_trains or before.get("scope") != "alone"
        ended_at = began if ended is None else min(began, ended)
        found.append(Restart(ended_at, began, trains, f"{who(cause)}: {plain(short(cause))}"))
    return found


def judge(jobs: Sequence[tuple[Record, Sequence[Restart]]], hits: Sequence[Hit]) -> Verdict:
    """Of the jobs that there are: one, or one for each host."""
    count = _Count()
    for record, found in jobs:
        _count(count, record, found, hits)
    return Verdict(tuple(_lines(count)), not count.anew)


def _count(count: _Count, record: Record, found: Sequence[Restart], hits: Sequence[Hit]) -> None:
    training = [restart for restart in found if restart.trains]
    count.beside += len(found) - len(training)
    ends = [*(restart.ended_at for restart in training[1:]), float("inf")]
    began = float("-inf")
    for restart, until in zip(training, ends, strict=False):
        before = [t.step for t in record.told if began <= t.at <= restart.began_at]
        after = [t.step for t in record.told if restart.began_at < t.at <= until]
        began = restart.began_at
        label = _label(restart, hits)
        saved = [s for s in record.saved if s.at <= restart.began_at]
        if not record.told:
            _by_checkpoints(count, record, restart, until, label)
        elif not after:
            count.silent += 1
        elif not saved:
            count.early += 1
        else:
            steps = sorted({_step_at(record.told, each.at) for each in saved}, reverse=True)
            first = record.told[0].step
            fresh = after[0] <= first < steps[0]
            older = [step for step in steps if first < step <= after[0]]
            if after[0] >= steps[0] or (older and not fresh):
                count.resumed += 1
                count.counted += 1
                count.older += after[0] < steps[0]
                count.again += max(0, max(before, default=after[0]) - after[0])
            else:
                count.anew.append(label)


def _step_at(told: Sequence[Told], at: float) -> int:
    """The step at which something was saved, as far as it was told by then. Of what lay there
    before the job, the first."""
    steps = [each.step for each in told if each.at <= at]
    return steps[-1] if steps else told[0].step


def _label(restart: Restart, hits: Sequence[Hit]) -> str:
    before = [hit.label for hit in hits if hit.at <= restart.ended_at + 0.5]
    return before[-1] if before else restart.why


def _by_checkpoints(
    count: _Count, record: Record, restart: Restart, until: float, label: str
) -> None:
    """A script that counts on from the number of the last checkpoint has restored it."""
    before = [s.name for s in record.saved if s.at <= restart.began_at]
    after = [s.name for s in record.saved if restart.began_at < s.at <= until]
    if not before and after:
        count.early += 1
        return
    last, first = (_NUMBER.search(names[index]) if names else None for names, index in (
        (before, -1), (after, 0),
    ))  # fmt: skip
    if last is None or first is None:
        count.unknown += 1
    elif int(first[1]) > int(last[1]):
        count.resumed += 1
    else:
        count.anew.append(label)


def _lines(count: _Count) -> Iterator[str]:
    judged = count.resumed + len(count.anew)
    if judged:
        yield _resumed(count, judged)
    for label in count.anew[:_MOST_TOLD]:
        yield f"began at step 0 after {label}: {_RESTORES}"
    if len(count.anew) > _MOST_TOLD:
        yield f"… and {counted(len(count.anew) - _MOST_TOLD, 'time')} more"
    if count.beside:
        often = counted(count.beside, "time")
        yield f"a process came back beside the training {often}: no step lost"
    if count.early:
        yield f"{counted(count.early, 'restart')} before the first checkpoint"
    if count.silent:
        yield f"{counted(count.silent, 'restart')} ended before a step was told"
    if count.unknown:
        yield f"cannot tell of {counted(count.unknown, 'restart')}: {_PROGRESS}"
    if not (judged or count.beside or count.early or count.silent or count.unknown):
        yield "nothing had to start anew"


def _resumed(count: _Count, judged: int) -> str:
    text = f"resumed {count.resumed} of {judged}"
    if not count.resumed:
        return text
    text += " from the last checkpoint"
    if count.older:
        text += f", {count.older} of them from an older one"
    if count.counted:
        text += f", {counted(count.again, 'step')} done again"
    return text
