"""``supervisor logs``: what the processes of a job write, from its log files on this machine or
over the status port of any of its hosts."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor.faults import counted, safe, safe_lines
from supervisor.verbs.asking import Event, StatusError, Target, events, fetch, target_of
from supervisor.verbs.runs import Run, RunHost
from supervisor.verbs.words import mappings, plain

_MOST_HOSTS: Final = 8
"""That are read at once over the network: a supervisor has so many places for one address."""
_LOOK_S: Final = 0.2
_READ_BYTES: Final = 256 * 1024
_TRIES: Final = 5
"""A connection that breaks is made again so often in a row, after …"""
_AGAIN_S: Final = 0.5
"""… and each time twice as long."""
_QUEUED: Final = 256
"""Lines that wait for a slow terminal; then the network waits."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for."""

    host: str | None = None
    roles: Collection[str] = ()
    follow: bool = False
    lines: int | None = None
    """Of each process at most so many of the past; None: all that there is."""


def run(word: str | None, environ: Mapping[str, str], wish: Wish) -> int:
    """Show them; returns the exit code: 0, or 1 where there is nothing to show."""
    try:
        with contextlib.suppress(KeyboardInterrupt):
            target = target_of(word, environ)
            printer = _Printer()
            if target.run is not None and _has_files(target.run):
                _from_files(target.run, wish, printer)
            else:
                _from_port(target, wish, printer, environ.get("SUPERVISOR_TOKEN", ""))
    except StatusError as error:
        print(f"supervisor logs: {safe(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `supervisor logs | head`
    return 0


class _Printer:
    """Lines with their prefixes. A terminal is shown what it would obey, a file has the bytes."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()

    def put(self, who: str, text: bytes) -> None:
        """Whole lines, or the rest of one."""
        prefix = f"{safe(who)} │ ".encode()
        if self._terminal:
            shown = safe_lines(text.decode("utf-8", "replace").replace("\r\n", "\n"))
            text = shown.encode("utf-8", "replace")
        out = b"".join(prefix + line + b"\n" for line in text.removesuffix(b"\n").split(b"\n"))
        sys.stdout.buffer.write(out)
        sys.stdout.buffer.flush()

    def note(self, who: str, text: str) -> None:
        sys.stdout.buffer.write(f"{safe(who)} · {safe(text)}\n".encode())
        sys.stdout.buffer.flush()


# --------------------------------------------------------------------------- files


def _has_files(run: Run) -> bool:
    return any(os.path.isdir(host.logs) for host in run.hosts)


@dataclass(slots=True)
class _File:
    """A process's log file, and how far it has been read."""

    who: str
    path: str
    offset: int = 0
    inode: int = -1
    half: bytes = b""


def _from_files(run: Run, wish: Wish, printer: _Printer) -> None:
    hosts = [host for host in run.hosts if wish.host in {None, host.name}]
    if not hosts:
        known = ", ".join(host.name for host in run.hosts[:20])
        raise StatusError(f"{plain(wish.host)}: no host of this run; it has {known}")
    files: dict[str, _File] = {}
    first = True
    while True:
        over = not any(host.lives for host in hosts)
        for host in hosts:
            for path, role in _paths(host):
                if (wish.roles and role not in wish.roles) or path in files:
                    continue
                files[path] = _File(f"{host.name} {role}", path)
        for file in files.values():
            _show_more(file, printer, wish.lines if first else None)
        first = False
        if not wish.follow or over:  # what they wrote before that has been shown just now
            break
        time.sleep(_LOOK_S)
    for file in files.values():
        if file.half:
            printer.put(file.who, file.half)
    if not files:
        raise StatusError("no log file is there yet; SUPERVISOR_LOG_FILES=true keeps them")


def _paths(host: RunHost) -> Iterator[tuple[str, str]]:
    """The log files of a host, and whose they are."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(host.logs)):
            if name.endswith(".log"):
                yield os.path.join(host.logs, name), name.removesuffix(".log")


def _show_more(file: _File, printer: _Printer, last: int | None) -> None:
    """What was written since; a file that was turned over is read from its beginning."""
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    with open(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if file.inode not in {-1, found.st_ino} or found.st_size < file.offset:
            file.offset, file.half = 0, b""
        file.inode = found.st_ino
        opened.seek(file.offset)
        kept: deque[bytes] | None = None if last is None else deque(maxlen=last)
        while data := opened.read(_READ_BYTES):
            file.offset += len(data)
            whole, newline, file.half = (file.half + data).rpartition(b"\n")
            if not newline:
                continue
            if kept is None:
                printer.put(file.who, whole)
            else:
                kept.extend(whole.split(b"\n"))
        for line in kept or ():
            printer.put(file.who, line)


# --------------------------------------------------------------------------- the network


def _from_port(target: Target, wish: Wish, printer: _Printer, token: str) -> None:
    hosts = [wish.host] if wish.host else _hosts(target)
    lines: queue.Queue[tuple[str, Event] | StatusError | None] = queue.Queue(_QUEUED)
    for host in hosts:
        threading.Thread(
            target=_read, args=(target.url, host, wish, token, lines), daemon=True
        ).start()
    left, errors = len(hosts), []
    kept: dict[str, deque[bytes]] = {}
    while left:
        got = lines.get()
        if got is None:
            left -= 1
        elif isinstance(got, StatusError):
            errors.append(got)
            left -= 1
        else:
            host, event = got
            _show(host, event, printer, kept, wish)
    for who, last in kept.items():
        for line in last:
            printer.put(who, line)
    if errors:
        raise errors[0]


def _hosts(target: Target) -> list[str]:
    status = fetch(target.url)
    names = [str(row.get("name")) for row in mappings(status.get("hosts"))]
    if len(names) > _MOST_HOSTS:
        raise StatusError(f"name a HOST: the job has {counted(len(names), 'host')}")
    return names


def _show(
    host: str, event: Event, printer: _Printer, kept: dict[str, deque[bytes]], wish: Wish
) -> None:
    data = event.data
    for what in ("missing_bytes", "missing_events"):
        if what in data:
            printer.note(host, f"{data[what]} {what.removeprefix('missing_')} are missing here")
    text = data.get("text")
    if not isinstance(text, str):
        return
    who = f"{plain(data.get('host'))} {plain(data.get('process'))}"
    lines = text.encode("utf-8", "replace")
    if wish.lines is None or wish.follow:
        printer.put(who, lines)
    else:
        last = kept.setdefault(who, deque(maxlen=wish.lines))
        last.extend(lines.removesuffix(b"\n").split(b"\n"))


def _read(url: str, host: str, wish: Wish, token: str, into: queue.Queue[Any]) -> None:
    """One host's lines; where the connection breaks it goes on where it was."""
    query = {"host": host, "follow": "1" if wish.follow else "0"}
    if wish.roles:
        query["role"] = ",".join(wish.roles)
    after, tries, pause_s = "", 0, _AGAIN_S
    while True:
        error = StatusError(f"{host}: the connection broke")
        try:
            for event in events(url, "/logs", query, token=token, after=after):
                tries, pause_s = 0, _AGAIN_S
                if event.kind == "end":
                    into.put(None)
                    return
                after = event.id or after
                into.put((host, event))
            if not wish.follow:
                into.put(None)
                return
        except StatusError as refused:
            error = refused
        tries += 1
        if not wish.follow or tries >= _TRIES or (not after and tries > 1):
            into.put(error)
            return
        time.sleep(pause_s)
        pause_s *= 2


def roles_of(words: Sequence[str]) -> frozenset[str]:
    """``--role ps --role chief,worker``."""
    return frozenset(role for word in words for role in word.split(",") if role)
