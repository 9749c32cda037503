"""The attempts of a job, from the reports of its hosts, as people read them. Pure."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from supervisor.streams.sentences import SCOPES, starts_anew
from supervisor.verbs.runs import master_report
from supervisor.verbs.words import duration, mapping, mappings, number, plain, short, who

Report = Mapping[str, Any]

_MOST: Final = 5
"""Restarts that are told at the end of `supervisor local`, the newest."""


def told_by(reports: Mapping[str, Report]) -> list[Report]:
    """The reports that tell of attempts: the master's, or of hosts that have nothing to do with
    each other every one."""
    masters = [each for each in reports.values() if each.get("host") == each.get("master")]
    return masters or [master_report(reports)]


def each(reports: Mapping[str, Report]) -> Iterator[str]:
    """A line for each attempt, where there was more than one."""
    told = told_by(reports)
    for report in told:
        rows = _rows(report)
        host = f"{plain(report.get('host'))} " if len(told) > 1 else ""
        if len(rows) > 1:
            yield from (f"{host}{_attempt(row)}" for row in rows)


def _rows(report: Report) -> list[Report]:
    return mappings(report.get("attempts"))


def _attempt(row: Report) -> str:
    began, ended = number(row.get("began_at")), number(row.get("ended_at"))
    words = [f"attempt {plain(row.get('attempt'))}: {_clock(began)}"]
    if began is not None and ended is not None:
        words.append(f"lasted {duration(ended - began)}")
    if down := number(row.get("prepared_s")):
        words.append(f"down for {duration(down)} before")
    text = ", ".join(words)
    cause = mapping(row.get("cause"))
    if cause:
        kind = f" ({plain(row.get('kind'))})" if row.get("kind") else ""
        text += f"; {_cause(cause)}{kind}"
    if scope := plain(row.get("scope")):
        text += f"; {starts_anew(scope)}"
    return text


def _clock(at: float | None) -> str:
    try:
        return "never began" if at is None else time.strftime("began %H:%M:%S", time.gmtime(at))
    except (OverflowError, ValueError, OSError):
        return f"began {at:g}"  # no time that there is: whatever a file says


def _cause(cause: Report) -> str:
    return f"{who(cause)}: {short(cause)}"


def refusal(report: Report) -> str:
    """``not restarted: …``; nothing where nothing is to be said of it."""
    reason = plain(report.get("not_restarted"))
    return f"not restarted: {reason}" if reason else ""


def verdict(report: Report) -> Iterator[str]:
    """Of a job that has not succeeded: why there was no other attempt, and whether starting it
    again makes sense."""
    if reason := refusal(report):
        yield reason
    again = report.get("restartable")
    if isinstance(again, bool) and report.get("outcome") != "succeeded":
        yield f"restartable: {'yes' if again else 'no'}"


def summary(reports: Mapping[str, Report]) -> Iterator[str]:
    """For the end of `supervisor local`: the newest restarts, and why there was no other."""
    told = told_by(reports)
    restarts = sorted((row for report in told for row in _restarts(_rows(report))), key=_began)
    if len(restarts) > _MOST:
        yield f"… and {len(restarts) - _MOST} more before these"
    yield from (text for _, text in restarts[-_MOST:])
    if reason := refusal(master_report(reports)):
        yield reason


def _began(restart: tuple[float, str]) -> float:
    return restart[0]


def _restarts(rows: Sequence[Report]) -> Iterator[tuple[float, str]]:
    """When each began, and in words; what never began is none."""
    for before, row in itertools.pairwise(rows):
        began = number(row.get("began_at"))
        if began is None:
            continue
        scope = plain(before.get("scope"))
        text = (
            f"attempt {plain(row.get('attempt'))}: {SCOPES.get(scope, scope)}, after "
            f"{_cause(mapping(before.get('cause')))}; down for {duration(row.get('prepared_s'))}"
        )
        yield began, text
