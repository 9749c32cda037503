"""``supervisor status``: ask a running supervisor and show what it says.

Plain ``http.client`` and no event loop: one request, then a table.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from supervisor.contract.strangers import is_of_a_service
from supervisor.faults import safe, safe_json
from supervisor.life.words import place

if TYPE_CHECKING:
    from rich.console import RenderableType

TIMEOUT_S = 5.0
ANSWER_S = 15.0
MAX_BYTES = 16 * 1024 * 1024


def own_url(environ: Mapping[str, str]) -> str:
    """Where a supervisor of this machine, with these settings in its environment, is asked."""
    address = environ.get("SUPERVISOR_STATUS_BIND", "")
    if address in {"", "auto", "0.0.0.0", "::"}:  # noqa: S104  # every one, and so loopback's
        address = "127.0.0.1"
    port = environ.get("SUPERVISOR_STATUS_PORT") or "2224"
    if is_of_a_service("SUPERVISOR_STATUS_PORT", port):
        port = "2224"
    return f"http://{place(address, port)}"


class StatusError(Exception):
    """The status cannot be shown; the message says why, in one line."""


def fetch(url: str, *, timeout_s: float = TIMEOUT_S, answer_s: float = ANSWER_S) -> dict[str, Any]:
    """Get ``/status`` of a supervisor.

    Args:
        url: ``http://host:port``, or ``host:port``, or ``host``.
        timeout_s: for the connection, and for each part of the answer.
        answer_s: for the answer as a whole, which may come byte by byte.

    Raises:
        StatusError: no such address, nobody there, or no supervisor.

    """
    host, port = _endpoint(url)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    except http.client.InvalidURL:
        raise StatusError(f"{_plain(url)}: give http://HOST:PORT") from None
    try:
        connection.connect()
        with _cut_after(connection.sock, answer_s):
            connection.request("GET", "/status", headers={"Accept": "application/json"})
            answer = connection.getresponse()
            body = answer.read(MAX_BYTES)
    except _TooLongError:
        raise StatusError(f"{shown}: no whole answer within {answer_s:g} s") from None
    except ConnectionRefusedError:
        raise StatusError(f"{shown}: nothing listens there; is the supervisor running?") from None
    except TimeoutError:
        raise StatusError(f"{shown}: no answer within {timeout_s:g} s") from None
    except http.client.HTTPException as error:
        raise StatusError(f"{shown}: not a supervisor ({type(error).__name__})") from None
    except (OSError, UnicodeError) as error:
        raise StatusError(f"{shown}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise StatusError(f"{shown}: answered {answer.status} {_plain(answer.reason)}")
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict) or "phase" not in status:
        raise StatusError(f"{shown}: not a supervisor (its /status is another program's)")
    return status


class _TooLongError(Exception):
    """The answer was cut because it did not end."""


@contextlib.contextmanager
def _cut_after(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Ends the connection then: whoever reads from it goes on at once."""
    cut = threading.Event()

    def shut() -> None:
        cut.set()
        with contextlib.suppress(OSError):  # it is closed already
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    with contextlib.suppress(RuntimeError):  # no thread to be had: the socket's own limit has to do
        timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not cut.is_set():
            raise
    finally:
        timer.cancel()
    if cut.is_set():
        raise _TooLongError


def run(url: str, *, as_json: bool = False, watch: bool = False, interval_s: float = 1.0) -> int:
    """Show the status once, or with ``watch`` every ``interval_s`` seconds until Ctrl-C.

    Returns the exit code: 0 when the supervisor could be reached, else 1. While watching, a
    supervisor that goes away ends it with 1 and the last error.
    """
    with contextlib.suppress(KeyboardInterrupt):
        try:
            if as_json:
                _print_json(url, watch=watch, interval_s=interval_s)
            else:
                _print_table(url, watch=watch, interval_s=interval_s)
        except StatusError as error:
            print(f"supervisor status: {safe(str(error))}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            return 0  # `supervisor status | head`
    return 0


def _print_json(url: str, *, watch: bool, interval_s: float) -> None:
    while True:
        print(safe_json(json.dumps(fetch(url), indent=None if watch else 2)), flush=True)
        if not watch:
            return
        time.sleep(interval_s)


def _print_table(url: str, *, watch: bool, interval_s: float) -> None:
    # Here and not above: --json does without.
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    # A pipe has no width of its own: nothing is folded for `grep`.
    console = Console(width=None if sys.stdout.isatty() else 240)
    view = table(fetch(url))
    if not watch:
        console.print(view)
        return
    with Live(view, console=console, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            live.update(table(fetch(url)), refresh=True)


def table(status: Mapping[str, Any]) -> RenderableType:
    """Lay a snapshot out for people. Whatever the server says is shown as text, not as markup."""
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
        made = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in columns:
            made.add_column(column)
        for row in rows:
            made.add_row(*(Text(_plain(cell)) for cell in row))
        return made

    budget = _mapping(status.get("budget"))
    head = [
        _plain(status.get("host")),
        _plain(status.get("phase")),
        _plain(status.get("job")),
        f"master {_plain(status.get('master'))}",
        f"up {duration(status.get('uptime_s'))}",
    ]
    if budget.get("left_s") is not None:
        head.append(f"{duration(budget.get('left_s'))} left to stop")
    parts: list[RenderableType] = [Text(" · ".join(part for part in head if part), style="bold")]
    verdict, cause = _mapping(status.get("verdict")), _mapping(status.get("cause"))
    if verdict:
        parts.append(Text(f"verdict: {_plain(verdict.get('outcome'))}"))
    if cause:
        parts.append(Text(f"cause: {_who(cause)}: {_plain(cause.get('message'))}", style="red"))
    waiting = _mapping(status.get("waiting"))
    if waiting:
        who = ", ".join(f"{_plain(host)} ({_plain(why)})" for host, why in waiting.items())
        parts.append(Text(f"waiting for {who}", style="yellow"))
    parts += [
        Text(f"{word}: {_who(other)}: {_plain(other.get('message'))}")
        for word in ("tolerated", "also")
        for other in _mappings(status.get(word))
    ]
    parts += [
        Text(""),
        grid(
            "processes",
            ("name", "role", "pid", "state", "CPU", "memory", "output"),
            [
                (
                    row.get("name"),
                    row.get("role"),
                    row.get("pid"),
                    row.get("exit") or row.get("state"),
                    duration(row.get("cpu_s")),
                    size(row.get("rss_bytes")),
                    size(row.get("output_bytes")),
                )
                for row in _mappings(status.get("processes"))
            ],
        ),
        Text(""),
        grid(
            "hosts",
            ("name", "phase", "state", "last seen"),
            [
                (row.get("name"), row.get("phase"), row.get("state"), _ago(row.get("last_seen_s")))
                for row in _mappings(status.get("hosts"))
            ],
        ),
    ]
    transfers = _mappings(status.get("transfers"))
    if transfers:
        parts += [
            Text(""),
            grid(
                "kept elsewhere",
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
            ),
        ]
    return Group(*parts)


def duration(seconds: object) -> str:
    """``3 h 12 min``, ``4 min 5 s``, ``12 s``, ``0.4 s``; nothing for what is no number."""
    seconds = _number(seconds)
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: object) -> str:
    """``512 B``, ``1.5 MiB``; nothing for what is no number."""
    value = _number(count)
    if value is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _number(value: object) -> float | None:
    """Whatever the server says: no truth value, no infinity, nothing beyond a float."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


def _ago(seconds: object) -> str:
    text = duration(seconds)
    return f"{text} ago" if text else ""


def _who(cause: Mapping[str, Any]) -> str:
    return " ".join(_plain(cause.get(key)) for key in ("host", "process") if cause.get(key))


def _plain(value: object) -> str:
    """As one line without control characters, which a terminal would obey."""
    return "" if value is None else safe(str(value)[:2000])


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _endpoint(url: str) -> tuple[str, int]:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise StatusError(f"{_plain(url)}: {error}; give http://HOST:PORT") from None
    if parts.scheme != "http" or not parts.hostname:
        raise StatusError(f"{_plain(url)}: give http://HOST:PORT")
    return parts.hostname, 2224 if port is None else port
