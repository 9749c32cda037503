"""The line at the bottom of `supervisor local`'s terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from supervisor.faults import counted
from supervisor.verbs import training
from supervisor.verbs.words import duration, mapping, mappings, plain


@dataclass(frozen=True, slots=True)
class Foot:
    """What is known of the job at a moment."""

    hosts: tuple[str, ...]
    ended: int = 0
    """Hosts whose supervisors have ended."""
    seconds: float = 0.0
    phase: str = ""
    """The master's; empty while it is not known."""
    step: str = ""
    """How far the master's training is, as far as it was seen."""
    missing: tuple[str, ...] = ()
    stop_left_s: float | None = None
    """Once a stop was asked for: what the scripts have."""
    killed: bool = False

    def with_status(self, status: Mapping[str, Any]) -> Foot:
        """As the master's ``/status`` tells it."""
        phase = plain(status.get("phase"))
        waiting = tuple(map(plain, mapping(status.get("waiting"))))
        rows = mappings(status.get("hosts"))
        unseen = tuple(plain(row.get("name")) for row in rows if row.get("state") == "unseen")
        missing = (waiting or unseen) if phase in {"preparing", "joining"} else ()
        step = training.progress({"progress": _without_source(status.get("progress"))})
        return replace(self, phase=phase, missing=missing, step=step)


def text(foot: Foot, columns: int) -> str:
    """One line of less than ``columns`` columns."""
    count = len(foot.hosts)
    if foot.killed:
        words = ["killing everything"]
    elif foot.stop_left_s is not None:
        left = max(0.0, foot.stop_left_s)
        words = [f"stopping, {left:.0f} s left for the scripts", "Ctrl-C again kills"]
    elif foot.missing:
        words = [f"waiting for {_named(foot.missing)}"]
    else:
        alive = count - foot.ended
        hosts = counted(count, "host") if alive == count else f"{alive} of {counted(count, 'host')}"
        words = [" ".join(filter(None, (hosts, foot.phase)))]
        words += [foot.step] if foot.step and foot.phase == "running" else []
    words.append(duration(foot.seconds))
    if foot.stop_left_s is None and not foot.killed:
        words.append("Ctrl-C stops")
    line = " · ".join(words)
    room = max(1, columns - 1)
    return line if len(line) <= room else line[: room - 1] + "…"


def _without_source(row: object) -> dict[str, Any]:
    return {**mapping(row), "source": "", "where": ""}


def _named(hosts: tuple[str, ...]) -> str:
    more = len(hosts) - 4
    return ", ".join(hosts[:4]) + (f" and {more} more" if more > 0 else "")
