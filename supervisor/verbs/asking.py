"""How a verb asks a running supervisor: where it is, one answer, or a stream of events.

Plain ``http.client`` and no event loop: what people type has to answer at once.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from supervisor.contract.strangers import is_of_a_service
from supervisor.engines.choosing import RUNS
from supervisor.life.words import place
from supervisor.verbs import runs
from supervisor.verbs.words import plain

TIMEOUT_S: Final = 5.0
ANSWER_S: Final = 15.0
MAX_BYTES: Final = 16 * 1024 * 1024
SILENCE_S: Final = 45.0
"""A stream that says nothing for so long is broken: a sign of life comes every 15 s."""
_EVENT_BYTES: Final = 32 << 20


class StatusError(Exception):
    """There is no answer to show; the message says why, in one line."""


def own_url(environ: Mapping[str, str]) -> str:
    """Where a supervisor of this machine, with these settings in its environment, is asked."""
    address = environ.get("SUPERVISOR_STATUS_BIND", "")
    if address in {"", "auto", "0.0.0.0", "::"}:  # noqa: S104  # every one, and so loopback's
        address = "127.0.0.1"
    port = environ.get("SUPERVISOR_STATUS_PORT") or "2224"
    if is_of_a_service("SUPERVISOR_STATUS_PORT", port):
        port = "2224"
    return f"http://{place(address, port)}"


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a person means: a supervisor by its address, or the hosts of a run on this machine."""

    url: str
    """Of a supervisor that answers, or the one that was named."""
    run: runs.Run | None = None
    alive: bool = True
    """Whether anybody of the run answers."""


def target_of(word: str | None, environ: Mapping[str, str]) -> Target:
    """What ``word`` names: a URL, a run directory, or without one whatever runs here.

    Raises:
        StatusError: nothing runs here, or the directory holds no run.

    """
    if word is not None and not os.path.isdir(word):
        return Target(word)
    if word is None:
        url = own_url(environ)
        if _listens(url) or "SUPERVISOR_STATUS_PORT" in environ:
            return Target(url)
        newest = runs.newest()
        if newest is None:
            shown = url.removeprefix("http://")
            raise StatusError(
                f"nothing listens on {shown}, and no run lies below ./{RUNS}; "
                "give http://HOST:PORT or a run directory"
            )
        word = newest
    run = runs.read(word)
    if run is None:
        raise StatusError(f"{plain(word)}: no run of supervisor local lies there")
    for host in run.hosts:  # the master first, who knows of all
        if _listens(host.url):
            return Target(host.url, run)
    return Target(run.hosts[0].url, run, alive=False)


def _listens(url: str) -> bool:
    host, port = endpoint_of(url)
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1.0):
        return True
    return False


def fetch(url: str, *, timeout_s: float = TIMEOUT_S, answer_s: float = ANSWER_S) -> dict[str, Any]:
    """Get ``/status`` of a supervisor.

    Args:
        url: ``http://host:port``, or ``host:port``, or ``host``.
        timeout_s: for the connection, and for each part of the answer.
        answer_s: for the answer as a whole, which may come byte by byte.

    Raises:
        StatusError: no such address, nobody there, or no supervisor.

    """
    with _asked(url, "/status", timeout_s=timeout_s) as (answer, connection, shown):
        try:
            with _cut_after(connection.sock, answer_s):
                body = answer().read(MAX_BYTES)
        except _TooLongError:
            raise StatusError(f"{shown}: no whole answer within {answer_s:g} s") from None
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict) or "phase" not in status:
        raise StatusError(f"{shown}: not a supervisor (its /status is another program's)")
    return status


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    kind: str
    """``message``, or ``end``."""
    data: dict[str, Any]
    id: str


def events(
    url: str,
    path: str,
    query: Mapping[str, str] | None = None,
    *,
    token: str = "",
    after: str = "",
    timeout_s: float = SILENCE_S,
) -> Iterator[Event]:
    """Server-sent events of a supervisor, until its end.

    Raises:
        StatusError: nobody there, it refuses, or the connection broke before the end.

    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if after:
        headers["Last-Event-ID"] = after
    asked = f"{path}?{urlencode(query)}" if query else path
    with _asked(url, asked, timeout_s=timeout_s, headers=headers) as (answer, _, _shown):
        stream = answer()
        fields: dict[str, str] = {}
        while line := stream.readline(_EVENT_BYTES):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text:
                name, _, value = text.partition(":")
                fields[name] = value.removeprefix(" ")
                continue
            if "data" in fields:
                with contextlib.suppress(ValueError, RecursionError):
                    data = json.loads(fields["data"])
                    if isinstance(data, dict):
                        kind = fields.get("event", "message")
                        yield Event(kind, data, fields.get("id", ""))
            fields = {}


@contextlib.contextmanager
def _asked(
    url: str, path: str, *, timeout_s: float, headers: Mapping[str, str] | None = None
) -> Iterator[tuple[Any, http.client.HTTPConnection, str]]:
    """A request on its way; what goes wrong then is a StatusError too."""
    host, port = endpoint_of(url)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    except http.client.InvalidURL:
        raise StatusError(f"{plain(url)}: give http://HOST:PORT") from None

    def answer() -> http.client.HTTPResponse:
        connection.request("GET", path, headers={"Accept": "*/*", **(headers or {})})
        given = connection.getresponse()
        if given.status != 200:
            why = _error_of(given.read(4096))
            raise StatusError(
                f"{shown}: answered {given.status} {plain(given.reason)}"
                + (f": {why}" if why else "")
            )
        return given

    try:
        connection.timeout = min(timeout_s, TIMEOUT_S)
        connection.connect()
        connection.sock.settimeout(timeout_s)
        yield answer, connection, shown
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


def _error_of(body: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(body)
        if isinstance(told, dict):
            return plain(told.get("error") or "")
    return ""


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


def endpoint_of(url: str) -> tuple[str, int]:
    """Host and port; raises StatusError."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise StatusError(f"{plain(url)}: {error}; give http://HOST:PORT") from None
    if parts.scheme != "http" or not parts.hostname:
        raise StatusError(f"{plain(url)}: give http://HOST:PORT")
    return parts.hostname, 2224 if port is None else port
