"""A host of a job that blows are dealt to: its supervisor, and what its log and notes tell."""

from __future__ import annotations

import contextlib
import datetime as dt
import pathlib
import re
import subprocess
import time
from dataclasses import dataclass, field
from typing import Final

from supervisor.engines.local import LocalHost

_LINE: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z (?:DEBUG|INFO|WARNING|ERROR) supervisor \S+ "
    r"([\w.]+): (.*)"
)
_STARTED: Final = re.compile(r"(\S+) runs, pid (\d+)")
_ENDED_WELL: Final = re.compile(r"(\S+), pid \d+: exit 0\b")


@dataclass
class HostRun:
    """One host, its log read as it comes."""

    name: str
    layout: LocalHost
    process: subprocess.Popen[bytes] | None = None
    spawned_at: float = 0.0
    ended_at: float | None = None
    phase: str = ""
    up_at: float | None = None
    ending_at: float | None = None
    exits: dict[str, float] = field(default_factory=dict)
    """When a process left with 0."""
    pids: dict[str, int] = field(default_factory=dict)
    joined: dict[str, float] = field(default_factory=dict)
    reborn: bool = False
    steps: bool = False
    """A TensorFlow script's first step is made."""
    _read: int = 0
    _rest: bytes = b""

    @property
    def base(self) -> pathlib.Path:
        return pathlib.Path(self.layout.base_dir)

    @property
    def log(self) -> pathlib.Path:
        return self.base.parent / f"{self.name}{'.again' if self.reborn else ''}.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def script(self) -> int | None:
        return next((self.pids[n] for n in ("chief", "worker", "master") if n in self.pids), None)

    def read(self) -> None:
        """Take in what its log has more."""
        if self.process is None:
            return
        with open(self.log, "rb") as file:
            file.seek(self._read)
            data = file.read()
        if not data:
            return
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.decode(errors="replace"))

    def _take(self, line: str) -> None:
        self.steps = self.steps or line.startswith("step ")
        found = _LINE.search(line)
        if found is None:
            return
        at = dt.datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
        event, said = found[2], found[3]
        self.up_at = self.up_at or at
        if event == "phase.entered":
            self.phase = said
        elif event == "job.ending":
            self.ending_at = self.ending_at or at
        elif event == "member.joined":
            self.joined.setdefault(said.partition(" has joined")[0], at)
        elif event == "process.started" and (started := _STARTED.match(said)):
            self.pids[started[1]] = int(started[2])
        elif event == "process.exited" and (ended := _ENDED_WELL.match(said)):
            self.exits[ended[1]] = at

    def poll(self) -> bool:
        """Whether it is still there."""
        if self.process is None:
            return True
        if self.running and self.process.poll() is not None:
            self.ended_at = time.time()
        return self.running


@dataclass(frozen=True, slots=True)
class Notes:
    """What the scripts of a job have noted, and when: a file for each host and thing."""

    directory: pathlib.Path

    def at(self, host: str, what: str) -> float | None:
        """Seconds since the epoch; None: it has not been noted."""
        try:
            return float((self.directory / f"{host}.{what}").read_text().split("\n")[0])
        except (OSError, ValueError):
            return None

    def count(self, host: str, what: str) -> int:
        """How often it was noted."""
        try:
            return len((self.directory / f"{host}.{what}").read_text().splitlines())
        except OSError:
            return 0

    def mark(self, host: str, what: str) -> float:
        """Note that we have seen it, and when we first did."""
        path = self.directory / f"{host}.{what}"
        if not path.exists():
            path.touch()
        return path.stat().st_mtime


def _stat(pid: int) -> list[str]:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def stopped(pid: int) -> bool:
    return _stat(pid)[:1] in (["T"], ["t"])


def words_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return "?"


def child_of(parent: int, *, comm: str = "", word: str = "") -> int | None:
    """A child of this process, by its name or by a word of its command line."""
    try:
        children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return None
    for child in map(int, children):
        with contextlib.suppress(OSError):
            name = pathlib.Path(f"/proc/{child}/comm").read_text()
            if (comm and name.startswith(comm)) or (word and word in words_of(child)):
                return child
    return None
