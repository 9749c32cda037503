"""What one process gives to its visitors: the limits, and who has to go for whom.

Every source address has limits of its own, and a new visitor takes the place of the longest idle
one of the greediest address rather than be refused. What an orchestrator, Prometheus and a person's
browser need lies far below these limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from supervisor.cluster.protocol import MAX_BODY_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process gives to all its visitors. Times in seconds.

    A stranger is whose address is no member's: an orchestrator, Prometheus, a person. Limits
    "per address" are per /64 for a stranger's IPv6 address: that is what one machine can get.
    """

    connections_per_member: int = 3
    """A poll, a report, and one that is being replaced after a broken network."""
    stranger_connections: int = 64
    """All of the strangers', and as many more from members' addresses: on one machine every
    stranger has a member's address."""
    connections_per_address: int = 32
    """Of one stranger, and of a member's address beyond its own."""
    admissions_per_s: float = 200.0
    """New connections that HTTP is made for, per address and, at a member's, per member. Somebody
    who asks for the status a hundred times a second on this machine is no flood."""
    admissions_burst: int = 400
    requests_per_s: float = 200.0
    """Per address and, at a member's, per member; ``/livez`` and ``/readyz`` are not counted."""
    requests_burst: int = 400
    waiting_per_address: int = 64
    """Accepted connections that have not said a word yet."""
    waiting: int = 256
    accepts_per_turn: int = 256
    accept_turn_s: float = 0.02
    """New connections hold the loop no longer than this, then it is everybody else's turn. Much
    less, and a thousand members that join at once wait for each other's requests."""
    backlog: int = 4096
    """For the kernel's queue, which bridges a standstill of the loop: a fifth of a second of the
    densest flood that one core can make. Linux cuts it to ``net.core.somaxconn``."""
    crowded: float = 0.25
    """A queue that is so full grows faster than we accept: the address that most come from is shut
    out, for …"""
    shut_s: float = 1.0
    """… and for twice as long each time that it goes on at once, up to …"""
    shut_longest_s: float = 16.0
    """… except a member's address: always the shortest."""
    event_readers: int = 16
    line_bytes: int = 4096
    """Request line, and each header field."""
    headers: int = 64
    head_bytes: int = 16 * 1024
    """Request line and all headers."""
    read_bytes: int = 16 * 1024
    """The most that is read and parsed of one connection in a turn of the loop."""
    refused_bytes: int = 256 * 1024
    """The rest of a refused request that is thrown away unparsed, so that the answer is read."""
    body_bytes: int = MAX_BODY_BYTES
    header_timeout_s: float = 10.0
    """From the connection to the end of its first request's headers."""
    body_timeout_s: float = 10.0
    write_timeout_s: float = 20.0
    """How long a reader may leave an answer unread."""
    idle_timeout_s: float = 75.0
    """Between two requests of a connection."""
    events_heartbeat_s: float = 15.0
    cache_s: float = 0.25
    """``/status`` and ``/metrics`` are computed at most this often."""
    shutdown_timeout_s: float = 0.5


@dataclass(slots=True, eq=False)
class Connection:
    """One visitor's connection, from its first bytes to its close."""

    address: str
    key: str
    """What its limits are counted by: the address, or a stranger's IPv6 prefix."""
    seats: int
    """The members that live at its address; 0 for a stranger."""
    opened_at: float
    """Active seconds."""
    trusted: bool
    """From a member's address: counted and limited apart from strangers."""
    transport: asyncio.Transport | None = None
    """None until the event loop has made it."""
    served: bool = False
    """A request's headers have arrived whole."""
    host: str | None = None
    """The member it has proven to be."""
    instance: str = ""
    """That member's supervisor."""
    busy: bool = False
    """A request is being answered."""
    follows: bool = False
    """It reads the timeline."""
    idle_since: float = 0.0
    unread_since: float | None = None

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Bucket:
    """A token bucket: ``rate_s`` things a second, ``burst`` at once."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, burst: float) -> None:
        self._tokens = burst
        self._at = time.monotonic()

    def take(self, rate_s: float, burst: float) -> bool:
        now = time.monotonic()
        self._tokens = min(burst, self._tokens + (now - self._at) * rate_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


MOST_KEYS = 4096
ALL_STRANGERS = 3
"""Shares of all strangers together: so many of them can use up theirs without being in the way."""


class Buckets:
    """A bucket for each key; a bounded number, of which the one asked longest ago is forgotten."""

    def __init__(self, rate_s: float, burst: int, *, keys: int = MOST_KEYS) -> None:
        self._rate_s = rate_s
        self._burst = burst
        self._keys = keys
        self._of: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, key: str, seats: int) -> bool:
        """Whether ``key`` may; a member has a share, all strangers together `ALL_STRANGERS`."""
        return self._take(key, 1 + seats) and (seats > 0 or self._take("", ALL_STRANGERS))

    def _take(self, key: str, shares: int) -> bool:
        bucket = self._of.get(key)
        if bucket is None:
            if len(self._of) >= self._keys:
                self._of.popitem(last=False)
            bucket = self._of[key] = Bucket(float(self._burst * shares))
        else:
            self._of.move_to_end(key)
        return bucket.take(self._rate_s * shares, float(self._burst * shares))


def key_of(address: str, seats: int) -> str:
    """Name what the limits of a canonical address are counted by."""
    if seats or ":" not in address:
        return address
    with contextlib.suppress(ValueError):
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return address


class Pool:
    """The open connections, and who has to go for a new one.

    Members and strangers are counted apart. What proved to be a member's is never closed for
    another.
    """

    def __init__(self, limits: Limits, *, members: int) -> None:
        self._limits = limits
        self._totals = {
            True: limits.connections_per_member * members + limits.stranger_connections,
            False: limits.stranger_connections,
        }
        self._groups: dict[bool, dict[str, set[Connection]]] = {True: {}, False: {}}
        self._counts = {True: 0, False: 0}
        self._all: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, connection: object) -> bool:
        return connection in self._all

    def __iter__(self) -> Iterator[Connection]:
        # Of a copy: whoever looks at them may close some.
        return iter(tuple(self._all))

    def beside(self, connection: Connection) -> Iterable[Connection]:
        """Give all connections that are counted together with this one, itself too."""
        return self._groups[connection.trusted].get(connection.key, ())

    def enter(self, connection: Connection) -> bool:
        """Take it in, if need be in the place of another, which is closed; False: no place."""
        group = self._groups[connection.trusted]
        mine = group.get(connection.key, set())
        room = self._limits.connections_per_address
        room += self._limits.connections_per_member * connection.seats
        if len(mine) >= room and not self._push_out(mine, busy=connection.trusted):
            return False
        if self._counts[connection.trusted] >= self._totals[connection.trusted]:
            greedy = max(group.values(), key=_unproven)
            # Busy ones go only for somebody who has less, or two of a kind would close each other.
            more = _unproven(greedy) > _unproven(mine) + 1
            if not self._push_out(greedy, busy=more):
                return False
        self._all.add(connection)
        self._counts[connection.trusted] += 1
        group.setdefault(connection.key, set()).add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        if connection not in self._all:
            return
        self._all.discard(connection)
        self._counts[connection.trusted] -= 1
        mine = self._groups[connection.trusted][connection.key]
        mine.discard(connection)
        if not mine:
            del self._groups[connection.trusted][connection.key]

    def proven(self, connection: Connection, host: str) -> None:
        """Note that it is ``host``'s, wherever it comes from."""
        inside = connection in self._all
        if inside and not connection.trusted:
            self.leave(connection)
        connection.host = host
        if not connection.trusted:
            connection.trusted = True
            connection.key = connection.address
            connection.seats = max(1, connection.seats)
            if inside:
                self._all.add(connection)
                self._counts[True] += 1
                self._groups[True].setdefault(connection.key, set()).add(connection)

    def _push_out(self, some: set[Connection], *, busy: bool) -> bool:
        """Close the one that has been idle longest, or the oldest busy one."""
        unproven = [one for one in some if one.host is None]
        idle = [one for one in unproven if not one.busy]
        if not idle and not (busy and unproven):
            return False
        victim = min(idle or unproven, key=lambda one: one.idle_since)
        self.leave(victim)
        victim.abort()
        return True


def _unproven(some: set[Connection]) -> int:
    return sum(one.host is None for one in some)
