"""All hosts of a job on one screen, the worst first. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor.faults import counted
from supervisor.verbs.words import ago, mapping, mappings, number, plain

_WORST: Final = ("crashed", "unreachable", "lost", "bare", "unseen")
"""States of a host that are worth a look, the worst first."""
_ON_THE_WAY: Final = (
    "preparing",
    "joining",
    "restarting",
    "killing",
    "draining",
    "publishing",
)


@dataclass(frozen=True, slots=True)
class HostLine:
    """One host, or several of which there is no more to say than of each other."""

    name: str
    phase: str
    state: str
    seen: str
    note: str
    culprit: bool = False
    count: int = 1


def lines_of(status: Mapping[str, Any], most: int) -> list[HostLine]:
    """The hosts of a ``/status``, at most ``most`` lines: the culprit, then whoever is lost or
    behind, then the rest; those that are left are folded by what they do."""
    rows = mappings(status.get("hosts"))
    cause, waiting = mapping(status.get("cause")), mapping(status.get("waiting"))
    others = {str(each.get("host")): each for each in mappings(status.get("tolerated"))}
    usual = _most_frequent([str(row.get("phase")) for row in rows])

    def rank(row: Mapping[str, Any]) -> tuple[bool, bool, int, bool, bool, int, float]:
        name, state, phase = (str(row.get(key)) for key in ("name", "state", "phase"))
        return (
            cause.get("host") != name,
            name not in others,
            _place(state, _WORST),
            name not in waiting,
            phase == usual,
            _place(phase, _ON_THE_WAY),
            -(number(row.get("last_seen_s")) or 0.0),
        )

    ranked = sorted(rows, key=rank)
    shown = ranked if len(ranked) <= most else ranked[: max(1, most - _groups(ranked))]
    lines = [_line(row, cause, waiting, others) for row in shown]
    return lines + _folded(ranked[len(shown) :])


def _place(word: str, words: Sequence[str]) -> int:
    return words.index(word) if word in words else len(words)


def _line(
    row: Mapping[str, Any],
    cause: Mapping[str, Any],
    waiting: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
) -> HostLine:
    name = str(row.get("name"))
    culprit = bool(cause) and cause.get("host") == name
    note = ""
    if culprit:
        note = f"{plain(cause.get('process') or '')}: {plain(cause.get('message'))}".lstrip(": ")
    elif name in others:
        note = f"tolerated: {plain(others[name].get('message'))}"
    elif name in waiting:
        note = plain(waiting[name])
    return HostLine(
        plain(name), plain(row.get("phase")), plain(row.get("state")),
        ago(row.get("last_seen_s")), note, culprit=culprit,
    )  # fmt: skip


def _kind(row: Mapping[str, Any]) -> tuple[str, str]:
    state = plain(row.get("state"))
    return plain(row.get("phase")), "up" if state == "self" else state


def _groups(rows: Sequence[Mapping[str, Any]]) -> int:
    return len({_kind(row) for row in rows})


def _folded(rows: Sequence[Mapping[str, Any]]) -> list[HostLine]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_kind(row), []).append(row)
    return [
        HostLine(
            f"and {counted(len(each), 'host')}", phase, state,
            ago(max((number(row.get("last_seen_s")) or 0.0 for row in each), default=0.0)),
            "", count=len(each),
        )
        for (phase, state), each in groups.items()
    ]  # fmt: skip


def _most_frequent(values: Sequence[str]) -> str:
    return max(set(values), key=values.count, default="")


def missing(status: Mapping[str, Any], most: int = 8) -> str:
    """Who is waited for while hosts join, and why; empty when nobody is."""
    waiting = mapping(status.get("waiting"))
    named = [f"{plain(host)} ({plain(why)})" for host, why in [*waiting.items()][:most]]
    more = len(waiting) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
