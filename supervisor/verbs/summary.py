"""How a run of ``supervisor local`` ended: one headline, the table, and where everything lies."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor.contract.distribution import Strategy
from supervisor.engines.local import LocalHost
from supervisor.faults import safe
from supervisor.streams.masking import Masker
from supervisor.verbs import attempts, training
from supervisor.verbs.recovery import Verdict
from supervisor.verbs.report import exit_of, is_culprit
from supervisor.verbs.runs import master_report
from supervisor.verbs.words import excerpt, headline, mapping, plain

_WIDE: Final = 200
"""Columns of the table where the output is not a terminal: nothing is folded for `grep`."""


@dataclass(slots=True)
class Result:
    """What became of one host."""

    host: LocalHost
    exit_code: int
    how: str
    """The supervisor's own end, in words."""
    seconds: float
    report: Mapping[str, Any] | None
    """Its ``report.json``; None where it left none."""
    given_up: str = ""
    """Why we ended it, where it did not end with the job."""


def job_code(results: Sequence[Result]) -> int:
    """The job's exit code as its master said it; else the worst that a host said. What one says
    that was ended after the job comes last: it knows nothing of it."""
    in_order = sorted(results, key=lambda result: bool(result.given_up))
    for result in in_order:
        code = (result.report or {}).get("job_exit_code")
        if code is not None and not result.given_up:
            return int(code)
    return next((result.exit_code for result in in_order if result.exit_code), 0)


def summary(
    run_dir: str,
    strategy: Strategy,
    results: Sequence[Result],
    masker: Masker,
    faults: Verdict | None = None,
    *,
    color: bool,
) -> str:
    """What stands at the end, for stdout.

    ``faults``: what became of training, where some were asked for. ``color``: it is a terminal that
    may have colours.
    """
    from rich.console import Console  # noqa: PLC0415  # after the job
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    mask = masker.text

    def cell(text: object, style: str = "") -> Text:
        """Nothing that a script wrote is markup, or moves a cursor."""
        return Text(safe(mask(str(text))), style=style)

    said = _speaks(results)
    cause, outcome = mapping(said.get("cause")), said.get("outcome")
    good = outcome == "succeeded"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    again = any((result.report or {}).get("restarts") for result in results)
    columns = ("HOST", "ROLE", *(["STARTS"] if again else []), "EXIT", "TIME", "")
    for column in columns:
        right = column in {"STARTS", "TIME"}
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for result in results:
        report = result.report or {}
        tolerated = {(each["host"], each["process"]) for each in report.get("tolerated", [])}
        for row in report.get("processes", []):
            culprit = is_culprit(result.host.name, row, cause)
            note = "◀ the cause" if culprit else ""
            if (result.host.name, row["name"]) in tolerated:
                note = "tolerated"
            seconds = row["seconds"]
            style = "bold red" if culprit else ""
            table.add_row(
                cell(result.host.name, style),
                cell(row["role"], style),
                *([cell(row.get("starts", ""), style)] if again else []),
                cell(exit_of(row), style),
                "" if seconds is None else f"{seconds:.1f} s",
                cell(note, style),
            )
        table.add_row(
            cell(result.host.name),
            "supervisor",
            *([""] if again else []),
            cell(f"exit {result.exit_code}", "" if result.exit_code == 0 else "red"),
            f"{result.seconds:.1f} s",
            cell(_apart(result, cause)),
        )
    text = io.StringIO()
    terminal = sys.stdout.isatty()
    console = Console(
        file=text,
        highlight=False,
        force_terminal=terminal,
        no_color=not color,
        width=None if terminal else _WIDE,
    )

    def line(words: str, style: str = "") -> None:
        console.print(Text(safe(mask(words)), style=style), soft_wrap=True)

    line("")
    if said:
        line(headline(outcome, cause), "bold green" if good else "bold red")
        for each in [] if good else excerpt(cause):
            line(f"    {each}")
        line("")
    console.print(table)
    line("")
    restarts = list(attempts.summary(_reports(results)))
    for each in restarts:
        line(each)
    if restarts:
        line("")
    gained = list(training.end(said))
    for each in gained:
        line(each)
    if gained:
        line("")
    if faults is not None:
        for each in faults.lines:
            line(f"faults {each}", "" if faults.good else "bold yellow")
        line("")
    for name, place in _places(run_dir, results):
        line(f"{name:<7}{place}")
    for note in _notes(strategy, results):
        line(f"note   {note}")
    return text.getvalue()


def _speaks(results: Sequence[Result]) -> Mapping[str, Any]:
    """The report that tells how the job ended: of one who was there to the end."""
    return master_report(_reports(results))


def _reports(results: Sequence[Result]) -> dict[str, Mapping[str, Any]]:
    """By host, those that were there to the end first."""
    return {
        result.host.name: result.report
        for result in sorted(results, key=lambda each: bool(each.given_up))
        if result.report
    }


def _apart(result: Result, cause: Mapping[str, Any]) -> str:
    """What is to be said of this host's supervisor alone."""
    report = result.report
    if not report:
        return "; ".join(filter(None, (result.given_up, f"no report: {result.how}")))
    own = mapping(report.get("cause"))
    differs = (own.get("host"), own.get("message")) != (cause.get("host"), cause.get("message"))
    if own.get("kind") == cause.get("kind") == "stop_requested":
        differs = own.get("message") != cause.get("message")  # a Ctrl-C is heard by all
    told = f"{plain(own.get('host'))}: {plain(own.get('message'))}" if own and differs else ""
    return "; ".join(filter(None, (result.given_up, told, report.get("publish_error"))))


def _places(run_dir: str, results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    yield "run", run_dir
    model = os.path.join(results[0].host.base_dir, "model")
    if os.path.isdir(model) and os.listdir(model):
        yield "model", model
    yield "logs", os.path.join(run_dir, "*", "output", "supervisor", "logs")
    if any(result.report for result in results):
        yield "more", f"supervisor report {run_dir}"


def _notes(strategy: Strategy, results: Sequence[Result]) -> Iterator[str]:
    """What the table does not show."""
    reports = [(result.host.name, result.report or {}) for result in results]
    resumed: dict[str, list[str]] = {}
    for name, report in reports:
        if report.get("resumed_from"):
            resumed.setdefault(str(report["resumed_from"]), []).append(name)
    for place, names in resumed.items():
        yield f"{', '.join(names)} resumed from {place}"
    unused = [name for name, report in reports if report.get("unused_servers")]
    if unused:
        from supervisor.linux.contacts import REMEDY, REMEDY_OWN  # noqa: PLC0415

        hosts = ", ".join(unused)
        if strategy is Strategy.MWMS:
            yield f"the script never opened its port on {hosts}: {REMEDY_OWN}"
        else:
            yield f"nobody ever connected to the servers of {hosts}: {REMEDY}"
