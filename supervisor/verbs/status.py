"""``supervisor status``: ask a running supervisor and show what it says, to the end of its job."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from supervisor.faults import counted, safe, safe_json
from supervisor.verbs import job as all_hosts
from supervisor.verbs import training
from supervisor.verbs.asking import StatusError, Target, endpoint_of, events, fetch, target_of
from supervisor.verbs.runs import Run, master_report
from supervisor.verbs.words import (
    ago,
    duration,
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

_WIDE: Final = 240
"""Columns where the output is no terminal: nothing is folded for `grep`."""
_TALL: Final = 40
"""Lines, then."""
_ABOVE: Final = 8
"""Lines of a screen that are not hosts."""
_END_S: Final = 3.0
"""A supervisor that does not answer any more has so long to have said how it ended."""


def run(
    word: str | None,
    environ: Mapping[str, str],
    *,
    as_json: bool = False,
    watch: bool = False,
    job: bool = False,
    interval_s: float = 1.0,
) -> int:
    """Show the status once, or with ``watch`` every ``interval_s`` seconds until the end.

    Args:
        word: a URL or a run directory; None: whatever runs on this machine.
        environ: says where the supervisor of this machine is asked.
        as_json: the document of ``/status``, a line each while watching.
        watch: until the job's end, or Ctrl-C.
        job: all hosts on one screen, asked at the master.
        interval_s: seconds.

    Returns the exit code: 0 when the supervisor could be reached, else 1. While watching, the
    job's own when it ends; a supervisor that goes away without a word ends it with 1.
    """
    with contextlib.suppress(KeyboardInterrupt):
        try:
            target = target_of(word, environ)
            if not target.alive and target.run is not None:
                return _over(target.run)
            url = _master_of(target) if job else target.url
            show = _as_json(watch=watch) if as_json else _as_table(job=job, watch=watch)
            with show as put:
                put(fetch(url))
                return _watched(url, put, interval_s) if watch else 0
        except StatusError as error:
            print(f"supervisor status: {safe(str(error))}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            return 0  # `supervisor status | head`
    return 0


def _over(run: Run) -> int:
    """Nobody of a run answers any more: how it ended, and where the rest stands."""
    said = master_report(run.reports())
    end = (
        headline(said.get("outcome"), mapping(said.get("cause"))) if said else "no report was left"
    )
    print(f"{plain(run.directory)}: nobody answers any more; {end}", file=sys.stderr)
    print(f"supervisor report {plain(run.directory)} shows the run", file=sys.stderr)
    return 1


def _master_of(target: Target) -> str:
    """Who knows of all hosts: the master of the run, or of the job that was asked."""
    if target.run is not None:
        return target.url
    status = fetch(target.url)
    if status.get("host") == status.get("master") or not status.get("master"):
        return target.url
    master = f"{plain(status.get('master'))}:{endpoint_of(target.url)[1]}"
    try:
        fetch(master)
    except StatusError as error:
        raise StatusError(f"--job is the master's to say, and it was asked at {error}") from None
    return master


# --------------------------------------------------------------------------- watching


class _End:
    """What ``/events`` says of the end, read beside the polls: it comes before the port closes."""

    def __init__(self, url: str) -> None:
        self.status: dict[str, Any] | None = None
        self.come = threading.Event()
        self._url = url
        threading.Thread(target=self._read, daemon=True, name="events").start()

    def _read(self) -> None:
        with contextlib.suppress(StatusError):
            for event in events(self._url, "/events"):
                if event.kind == "end":
                    self.status = event.data if event.data.get("phase") else None
                    break
        self.come.set()


def _watched(url: str, put: Any, interval_s: float) -> int:
    end = _End(url)
    while not end.come.wait(interval_s):
        try:
            put(fetch(url))
        except StatusError:
            end.come.wait(_END_S)
            if end.status is None:
                raise
    if end.status is None:
        put(fetch(url))  # readers are bounded: without the events, as long as it answers
        while True:
            time.sleep(interval_s)
            put(fetch(url))
    put(end.status)
    return job_code(end.status)


def job_code(status: Mapping[str, Any]) -> int:
    """The job's exit code, as the master said it; else this host's own."""
    for code in (mapping(status.get("verdict")).get("exit_code"), status.get("exit_code")):
        if isinstance(code, int):
            return code
    return 1


@contextlib.contextmanager
def _as_json(*, watch: bool) -> Iterator[Any]:
    yield lambda status: print(
        safe_json(json.dumps(status, indent=None if watch else 2)), flush=True
    )


@contextlib.contextmanager
def _as_table(*, job: bool, watch: bool) -> Iterator[Any]:
    # Here and not above: --json does without.
    from rich.console import Console  # noqa: PLC0415

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _WIDE)

    def view(status: Mapping[str, Any]) -> RenderableType:
        most = shutil.get_terminal_size((_WIDE, _TALL)).lines if terminal else _TALL
        return job_table(status, max(4, most - _ABOVE)) if job else table(status)

    if not watch:
        yield lambda status: console.print(view(status))
        return
    from rich.live import Live  # noqa: PLC0415

    with Live(console=console, auto_refresh=False) as live:
        yield lambda status: live.update(view(status), refresh=True)


# --------------------------------------------------------------------------- views


def _grid(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "", mark: int = 0
) -> RenderableType:
    """The first ``mark`` rows stand out."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for number_, row in enumerate(rows):
        style = "bold red" if number_ < mark else ""
        made.add_row(*(Text(plain(cell), style=style) for cell in row))
    return made


def _ended(status: Mapping[str, Any]) -> RenderableType | None:
    """Once it is over."""
    from rich.text import Text  # noqa: PLC0415

    if number(status.get("exit_code")) is None:
        return None
    outcome = mapping(status.get("verdict")).get("outcome") or "ended"
    cause = mapping(status.get("cause"))
    end = f"{plain(outcome)}, {of_cause(cause)}" if cause else plain(outcome)
    return Text(f"the job has ended: {end}", style="bold")


def job_table(status: Mapping[str, Any], most: int) -> RenderableType:
    """All hosts on one screen, the worst first, at most ``most`` lines of them."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    lines = all_hosts.lines_of(status, most)
    marked = sum(line.culprit for line in lines)
    rows = [(line.name, line.phase, line.state, line.seen, line.note) for line in lines]
    hosts = counted(len(mappings(status.get("hosts"))), "host")
    head = [plain(status.get("job")), plain(status.get("phase")), hosts]
    head += [f"up {duration(status.get('uptime_s'))}", _attempt(status)]
    parts: list[RenderableType] = [Text(" · ".join(filter(None, head)), style="bold")]
    if ended := _ended(status):
        parts.append(ended)
    if waiting := all_hosts.missing(status):
        parts.append(Text(f"waiting for {waiting}", style="yellow"))
    parts += [Text(line) for line in training.now(status)]
    parts += [Text(""), _grid(("host", "phase", "state", "last seen", ""), rows, mark=marked)]
    return Group(*parts)


def _attempt(status: Mapping[str, Any]) -> str:
    """Which one it is, once something was started anew."""
    return f"attempt {plain(status.get('attempt'))}" if number(status.get("restarts")) else ""


def _processes(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What they say of themselves stands last, where any of them says something."""
    says = any(row.get("status_text") for row in rows)
    columns = ("name", "role", "pid", "state", "CPU", "memory", "output", *(("says",) * says))
    cells = [
        (
            row.get("name"),
            row.get("role"),
            row.get("pid"),
            row.get("exit") or plain(row.get("state")) + ", ready" * (row.get("ready") is True),
            duration(row.get("cpu_s")),
            size(row.get("rss_bytes")),
            size(row.get("output_bytes")),
            *((row.get("status_text"),) * says),
        )
        for row in rows
    ]
    return _grid(columns, cells, "processes")


def table(status: Mapping[str, Any]) -> RenderableType:
    """Lay a snapshot out for people. Whatever the server says is shown as text, not as markup."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    budget = mapping(status.get("budget"))
    head = [
        plain(status.get("host")),
        plain(status.get("phase")),
        plain(status.get("job")),
        f"master {plain(status.get('master'))}",
        f"up {duration(status.get('uptime_s'))}",
        _attempt(status),
    ]
    if budget.get("left_s") is not None:
        head.append(f"{duration(budget.get('left_s'))} left to stop")
    parts: list[RenderableType] = [Text(" · ".join(part for part in head if part), style="bold")]
    verdict, cause = mapping(status.get("verdict")), mapping(status.get("cause"))
    if ended := _ended(status):
        parts.append(ended)
    elif verdict:
        parts.append(Text(f"verdict: {plain(verdict.get('outcome'))}"))
    if cause and not ended:
        parts.append(Text(f"cause: {of_cause(cause)}", style="red"))
    if waiting := all_hosts.missing(status):
        parts.append(Text(f"waiting for {waiting}", style="yellow"))
    parts += [
        Text(f"{word}: {of_cause(other)}")
        for word in ("tolerated", "also")
        for other in mappings(status.get(word))
    ]
    parts += [Text(line) for line in training.now(status)]
    parts += [
        Text(""),
        _processes(mappings(status.get("processes"))),
        Text(""),
        _grid(
            ("name", "phase", "state", "last seen"),
            [
                (row.get("name"), row.get("phase"), row.get("state"), ago(row.get("last_seen_s")))
                for row in mappings(status.get("hosts"))
            ],
            "hosts",
        ),
    ]
    transfers = mappings(status.get("transfers"))
    if transfers:
        parts += [
            Text(""),
            _grid(
                ("name", "sent", "to be sent", "behind", "newest, or what is wrong"),
                [
                    (
                        row.get("name"),
                        size(row.get("sent_bytes")),
                        size(row.get("pending_bytes")) if row.get("pending_files") else "",
                        duration(row.get("lag_s")) if row.get("lag_s") else "",
                        row.get("error") or row.get("newest"),
                    )
                    for row in transfers
                ],
                "kept elsewhere",
            ),
        ]
    return Group(*parts)
