"""``supervisor report``: a past run, from the reports that its hosts left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from supervisor.contract.paths import paths_below
from supervisor.engines.choosing import RUNS
from supervisor.faults import counted, safe
from supervisor.streams.sentences import sentence
from supervisor.verbs import attempts, runs, training
from supervisor.verbs.runs import master_report, report_at
from supervisor.verbs.words import (
    duration,
    excerpt,
    headline,
    mapping,
    mappings,
    number,
    of_cause,
    plain,
    size,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDE: Final = 200
_TIMELINE: Final = 60
"""Entries that are shown; --all shows every one."""
_QUIET: Final = frozenset({"phase.entered", "process.signalled", "joining.waiting"})
"""Events that explain nothing afterwards, unless everything is asked for."""

Reports = Mapping[str, Mapping[str, Any]]
"""By host, the master's first."""


def run(word: str | None, *, everything: bool = False) -> int:
    """Show the run in a directory, the report in a file, or the newest run; 1: there is none."""
    place = word if word is not None else runs.newest()
    reports = _reports(place) if place else {}
    if not reports:
        said = f"{safe(word)}: no report lies there" if word else _nothing()
        print(f"supervisor report: {said}", file=sys.stderr)
        return 1
    from rich.console import Console  # noqa: PLC0415

    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    console.print(view(reports, everything=everything))
    return 0


def _nothing() -> str:
    return f"no run lies below ./{RUNS}; give a run directory or a report.json"


def _reports(place: str) -> dict[str, Mapping[str, Any]]:
    """A run directory's, a host's, or one file's."""
    if os.path.isdir(place):
        if read := runs.read(place):
            return read.reports()
        place = paths_below(place).report
    report = report_at(place)
    if not report or "outcome" not in report:
        return {}
    return {plain(report.get("host")): report}


def view(reports: Reports, *, everything: bool = False) -> RenderableType:
    """Outcome, causes, processes, what was lost, and what happened when."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    master = master_report(reports)
    cause = mapping(master.get("cause"))
    parts: list[RenderableType] = [
        Text(headline(master.get("outcome"), cause), style="bold"),
        *(Text(f"    {line}") for line in excerpt(cause)),
        Text(_about(master, reports)),
        *(Text(line) for line in attempts.verdict(master)),
    ]
    for title, lines in (
        ("training", list(_training(reports))),
        ("attempts (UTC)", list(attempts.each(reports))),
        ("also", list(_further(reports))),
        ("lost", list(_lost(reports))),
    ):
        if lines:
            parts += [Text(""), Text(title, style="bold"), *(Text(f"  {line}") for line in lines)]
    parts += [Text(""), _processes(reports, cause)]
    entries = _timeline(reports, everything=everything)
    shown = entries if everything else entries[-_TIMELINE:]
    parts += [Text(""), Text("timeline (UTC)", style="bold")]
    if len(shown) < len(entries):
        parts.append(Text(f"  … {len(entries) - len(shown)} before these; --all shows them"))
    parts += [Text(f"  {line}") for line in shown]
    return Group(*parts)


def _about(master: Mapping[str, Any], reports: Reports) -> str:
    began = min(
        (at for report in reports.values() for span in mappings(report.get("phases"))
         if (at := number(span.get("at"))) is not None),
        default=None,
    )  # fmt: skip
    hosts = master.get("hosts")
    count = len(hosts) if isinstance(hosts, list) else len(reports)
    code = master.get("job_exit_code")
    words = [
        plain(master.get("job")),
        f"{counted(count, 'host')}, {plain(master.get('strategy'))}",
        time.strftime("began %Y-%m-%d %H:%M:%S UTC", time.gmtime(began)) if began else "",
        f"took {duration(master.get('seconds'))}",
        f"exit code {plain(master.get('exit_code') if code is None else code)}",
    ]
    missing = count - len(reports)
    if missing > 0 and len(reports) > 1:
        words.append(f"{counted(missing, 'host')} left no report")
    if resumed := plain(master.get("resumed_from")):
        words.append(f"resumed from {resumed}")
    return " · ".join(filter(None, words))


def _training(reports: Reports) -> Iterator[str]:
    """Of hosts that have nothing to do with each other each one's."""
    told = attempts.told_by(reports)
    for report in told:
        host = f"{plain(report.get('host'))}: " if len(told) > 1 else ""
        yield from (f"{host}{line}" for line in training.now(report))


def _further(reports: Reports) -> Iterator[str]:
    """Failures that are not the cause, each once."""
    seen = set()
    for report in reports.values():
        for word in ("tolerated", "also"):
            for cause in mappings(report.get(word)):
                text = of_cause(cause)
                if text not in seen:
                    seen.add(text)
                    yield f"{text} (tolerated)" if word == "tolerated" else text
        if error := plain(report.get("publish_error")):
            yield f"{plain(report.get('host'))}: {error}"


def _lost(reports: Reports) -> Iterator[str]:
    """What did not reach where it was to be kept, and output that nobody took."""
    for report in reports.values():
        host = plain(report.get("host"))
        for row in mappings(report.get("unsent")):
            names = row.get("names")
            named = ", ".join(map(plain, names[:5])) if isinstance(names, list) else ""
            yield f"{host} {plain(row.get('name'))}: {plain(row.get('files'))} files unsent {named}"
        for row in mappings(report.get("output")):
            amounts = [
                f"{size(row.get(key))} {key.removesuffix('_bytes')}"
                for key in ("unwritten_bytes", "dropped_bytes", "discarded_bytes")
                if number(row.get(key))
            ]
            if amounts:
                yield f"{host} {plain(row.get('name'))}: {', '.join(amounts)}"
        for row in mappings(report.get("processes")):
            if row.get("left"):
                yield f"{host} {plain(row.get('name'))}: not even SIGKILL ended it"


def _processes(reports: Reports, cause: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for column in ("", "host", "process", "exit", "time", "CPU", "memory", "output"):
        table.add_column(column, overflow="fold")
    for host, report in reports.items():
        for row in mappings(report.get("processes")):
            culprit = is_culprit(host, row, cause)
            cells = (
                "▶" if culprit else "",
                host,
                row.get("name"),
                exit_of(row),
                duration(row.get("seconds")),
                duration(row.get("cpu_s")),
                size(row.get("peak_rss_bytes")),
                size(row.get("output_bytes")),
            )
            style = "bold red" if culprit else ""
            table.add_row(*(Text(plain(cell), style=style) for cell in cells))
    return table


def is_culprit(host: str, row: Mapping[str, Any], cause: Mapping[str, Any]) -> bool:
    """Whether the cause happened to this process, and is a failure."""
    return (
        cause.get("kind") not in {"finished", "stop_requested", "master_ended", "max_runtime"}
        and cause.get("host") == host
        and cause.get("process") == row.get("name")
    )


def exit_of(row: Mapping[str, Any]) -> str:
    """``exit 1``, ``stopped by SIGTERM``, ``exit 0, stopped``; of a process's record."""
    text = plain(row.get("exit") or "not started")
    if not row.get("stopped_by_us"):
        return text
    return text.replace("killed by", "stopped by") if row.get("signal") else f"{text}, stopped"


def _timeline(reports: Reports, *, everything: bool) -> list[str]:
    """All hosts' entries in order of time; the clocks are the hosts' own."""
    entries: list[tuple[float, str, str, Mapping[str, Any]]] = []
    for host, report in reports.items():
        for entry in mappings(report.get("timeline")):
            at, event = number(entry.get("at")), plain(entry.get("event"))
            if at is not None and (everything or event not in _QUIET):
                entries.append((at, host, event, entry))
    entries.sort(key=lambda each: each[0])
    return [_entry(*each, said=said) for each, said in _once(entries)]


def _once(
    entries: Sequence[tuple[float, str, str, Mapping[str, Any]]],
) -> Iterator[tuple[tuple[float, str, str, Mapping[str, Any]], bool]]:
    """Each with whether its cause was told before: every host says it."""
    told = set()
    for each in entries:
        cause = each[3].get("cause")
        yield each, cause in told if isinstance(cause, str) else False
        if isinstance(cause, str):
            told.add(cause)


def _entry(at: float, host: str, event: str, entry: Mapping[str, Any], *, said: bool) -> str:
    clock = time.strftime("%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 10)}"
    # A process that was stopped repeats the cause in its message.
    dropped = {"at", "event", *(["message"] if event == "process.exited" else [])}
    fields = {key: value for key, value in entry.items() if key not in dropped}
    if said and not event.startswith("attempt."):  # two of them may have ended alike
        fields["cause"] = "as above"
    return f"{clock}  {host}  {plain(sentence(event, fields))}"
