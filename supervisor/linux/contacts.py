"""Whether the script takes part in the cluster: seen, not guessed.

A script that does not use the parameter servers trains a model of its own on every host, ends with
0, and looks like a success. So does one under MultiWorkerMirroredStrategy's switch that does not
use that: it never opens the port at which the other hosts' collectives would reach it.

TensorFlow's server owns its socket and tells nothing, but the kernel lists every TCP connection of
the network namespace (proc(5), ``/proc/net/tcp``), among them those that ended a while ago
(TIME_WAIT, 60 s). gRPC's connections last as long as the training. So a look every few seconds
finds any that there was.

We never connect there ourselves: ports are tried by binding them, and the probe knocks at status
ports and at the chief's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_CLOSE_S: Final = 60.0
LEAST_S: Final = 2.0
"""A server that has listened for less at the job's end is not spoken of: a script that trains with
it has been connected for as long as it trained, one of a moment trained nothing."""
LEAST_RUN_S: Final = 5.0
"""A script that ran for less is not asked for a port of its own: it may have done without."""
LATE_S: Final = 600.0
"""While the job runs, it is said after so long. Until then a chief may well be reading its data."""
_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_MOST_BYTES: Final = 2 << 20
"""Of one table: some 13,000 connections. With more of them no look is worth its time."""
_LISTEN: Final = "0A"


def rest_s(runs_s: float) -> float:
    """How long until the next look, of a job that has run for ``runs_s``."""
    return 1.0 if runs_s < _CLOSE_S else 5.0


@dataclass(frozen=True, slots=True)
class Contact:
    """What was seen of one server's port. Seconds of a clock that does not jump."""

    listens_since_s: float | None = None
    used: bool = False
    """There was a connection; or it cannot be known."""
    looked_since_s: float | None = None

    def look(self, now_s: float, *, listens: bool, connected: bool) -> Contact:
        since_s = self.listens_since_s
        if since_s is None and listens:
            since_s = now_s
        first_s = now_s if self.looked_since_s is None else self.looked_since_s
        return Contact(since_s, self.used or connected, first_s)

    def unused_s(self, now_s: float) -> float:
        """For how long it has listened and nobody came; 0 where somebody did."""
        if self.used or self.listens_since_s is None:
            return 0.0
        return now_s - self.listens_since_s

    def closed_s(self, now_s: float) -> float:
        """For how long it was looked at and never listened; 0 where it did."""
        if self.used or self.listens_since_s is not None or self.looked_since_s is None:
            return 0.0
        return now_s - self.looked_since_s


def seen(rows: Iterable[str], ports: frozenset[int]) -> tuple[set[int], set[int]]:
    """Which of ``ports`` listen, and which have or had a connection, by the kernel's table.

    At either end: of one that its client ended, only the client's end is left (TIME_WAIT), if it
    was a process of this host. And who connects to that port of another host uses the cluster too.
    """
    listening: set[int] = set()
    connected: set[int] = set()
    for row in rows:
        words = row.split(None, 4)
        if len(words) < 4 or words[0] == "sl":
            continue
        try:
            here, there = (int(word.rpartition(":")[2], 16) for word in words[1:3])
        except ValueError:
            continue
        if words[3] == _LISTEN:
            listening |= ports & {here}
        else:
            connected |= ports & {here, there}
    return listening, connected


@dataclass(slots=True)
class Servers:
    """The ports of one host at which its cluster meets."""

    ports: Mapping[str, int]
    """Of our servers, or of the script where it has one of its own, by the name of the process."""
    own: bool = False
    """They are the script's."""
    tables: tuple[str, ...] = _TABLES
    _contacts: dict[str, Contact] = field(default_factory=dict)

    def look(self, now_s: float) -> None:
        """Blocks for some milliseconds at most."""
        rows = _rows(self.tables)
        listening, connected = seen(rows or (), frozenset(self.ports.values()))
        for name, port in self.ports.items():
            before = self._contacts.get(name, Contact())
            used = rows is None or port in connected
            self._contacts[name] = before.look(now_s, listens=port in listening, connected=used)

    @property
    def settled(self) -> bool:
        """Nothing is left to find out."""
        done = [
            each.used or (self.own and each.listens_since_s is not None)
            for each in self._contacts.values()
        ]
        return bool(done) and all(done)

    def unused(self, now_s: float, *, ended: bool) -> list[str]:
        """The processes whose port had no part in the job. ``ended``: the job has succeeded."""
        rows = self._contacts.items()
        if self.own:
            # While it runs it may yet be reading its data.
            return [name for name, each in rows if ended and each.closed_s(now_s) >= LEAST_RUN_S]
        least_s = LEAST_S if ended else LATE_S
        return [name for name, each in rows if each.unused_s(now_s) >= least_s]

    def words(self, names: Iterable[str]) -> str:
        """What is said, with the remedy."""
        if self.own:
            ports = ", ".join(str(self.ports[name]) for name in names)
            return f"the script of this host never opened its port {ports}: {REMEDY_OWN}"
        servers = " and ".join(
            f"the {'parameter server' if name == 'ps' else 'worker server'} "
            f"(port {self.ports[name]})"
            for name in names
        )
        return f"nobody ever connected to {servers} of this host: {REMEDY}"


REMEDY_OWN: Final = (
    "it does not use the cluster, and each host trains a model of its own; use "
    "tf.distribute.MultiWorkerMirroredStrategy (supervisor local --strategy mwms without a script "
    "runs an example), or one host (--hosts 1)"
)
REMEDY: Final = (
    "the script does not use the cluster, and each host trains a model of its own; use "
    "tf.distribute.ParameterServerStrategy (supervisor local without a script runs an example), "
    "or MultiWorkerMirroredStrategy (--strategy mwms, "
    "sagemaker_multi_worker_mirrored_strategy_enabled), or one host (--hosts 1)"
)


def _rows(tables: Iterable[str]) -> list[str] | None:
    """None where the kernel does not tell, or tells too much."""
    rows: list[str] = []
    for path in tables:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if path == _TABLES[1]:
                continue  # a kernel without IPv6
            return None
        except OSError:
            return None
        with open(fd, encoding="ascii", errors="replace") as file:
            try:
                text = file.read(_MOST_BYTES)
            except OSError:
                return None
        if len(text) == _MOST_BYTES:
            return None
        rows += text.splitlines()
    return rows
