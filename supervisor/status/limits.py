"""The door of the status port: who is let in, who waits before it, and who has to go for whom.

The event loop behind it supervises a training, so a visitor must cost next to nothing until it has
said something. `Gate` accepts a bounded number of connections in each turn of the loop, and none
has a transport, a protocol or a task until its first bytes are there; most of a flood is closed
again for the price of three system calls. One that comes faster than it can be accepted is shut out
in the kernel, see ``status_filter.py``. Then `Pool` finds the visitor a place: every source address
has its own limits, and a new one takes the place of the longest idle one of the greediest address
rather than be refused. ``/livez`` and ``/readyz`` need no place: they are answered at the door.

What an orchestrator, Prometheus and a person's browser need lies far below these limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import re
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from supervisor.cluster.net import canonical
from supervisor.cluster.protocol import MAX_BODY_BYTES
from supervisor.status import filter as status_filter


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


_MOST_KEYS = 4096
ALL_STRANGERS = 3
"""Shares of all strangers together: so many of them can use up theirs without being in the way."""


class Buckets:
    """A bucket for each key; a bounded number, of which the one asked longest ago is forgotten."""

    def __init__(self, rate_s: float, burst: int, *, keys: int = _MOST_KEYS) -> None:
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


@dataclass(slots=True, eq=False)
class _Waiting:
    """An accepted connection that has said nothing yet, or has its answer and is to hang up."""

    end: socket.socket
    address: str
    key: str
    seats: int
    until: float
    answered: bool = False


@dataclass(frozen=True, slots=True)
class _Shut:
    """An address that is shut out; remembered for a while after."""

    until: float
    for_s: float


def _excess(some: Iterable[_Waiting]) -> int:
    """How many wait beyond what the members at their address may need."""
    waiting = list(some)
    return len(waiting) - 4 * waiting[0].seats


class Gate:
    """Accepts connections, answers the health routes, and hands the rest over.

    Args:
        end: the bound socket; the gate closes it.
        seats: how many members live at an address.
        room: asked for a place; None: there is none.
        enter: takes a connection over that got a place.
        health: gives status and body of a health route.
        counts: where connections and refused ones are counted.
        token: the job's secret; None where none is configured.

    """

    def __init__(
        self,
        end: socket.socket,
        *,
        limits: Limits,
        seats: Callable[[str], int],
        room: Callable[[str, str, int], Connection | None],
        enter: Callable[[socket.socket, Connection], None],
        health: Callable[[str], tuple[int, bytes]],
        counts: dict[str, int],
        token: bytes | None = None,
    ) -> None:
        self._end = end
        self._token = token
        self._limits = limits
        self._seats = seats
        self._room = room
        self._enter = enter
        self._health = health
        self._counts = counts
        self._admissions = Buckets(limits.admissions_per_s, limits.admissions_burst)
        self._calls = Buckets(limits.admissions_per_s, limits.admissions_burst)
        self._waiting: dict[str, dict[_Waiting, None]] = {}
        """By key, oldest first."""
        self._number = 0
        self._again: asyncio.TimerHandle | None = None
        self._recent: dict[str, int] = {}
        """Accepted by key, since the queue was last found short."""
        self._shut: dict[str, _Shut] = {}
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        # Not asyncio's own server: it makes a transport, a protocol and a task for everybody who
        # connects, and as many of them in one turn of the loop as the kernel's queue holds.
        end.listen(limits.backlog)
        self._loop.add_reader(end.fileno(), self._accept)

    def close(self) -> None:
        """Let the port go, and everybody who has said nothing."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._loop.remove_reader(self._end.fileno())
        self._end.close()
        for some in list(self._waiting.values()):
            for one in list(some):
                self._drop(one)

    def sweep(self) -> None:
        """Give up those who have waited too long."""
        now = time.monotonic()
        for some in list(self._waiting.values()):
            for one in list(some):
                if now >= one.until:
                    self._drop(one)

    # ----------------------------------------------------------------- accepting

    def _accept(self) -> None:
        deadline = time.monotonic() + self._limits.accept_turn_s
        for _ in range(self._limits.accepts_per_turn):
            try:
                end, peer = self._end.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._recent.clear()
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause()
                    return
                continue  # accept(2): errors of the new connection's network are its own
            self._counts["connections"] += 1
            self._greet(end, canonical(str(peer[0])))
            if time.monotonic() >= deadline:
                break
        self._relieve()

    def _relieve(self) -> None:
        """Shut out whom the kernel's queue is full of, if it is."""
        recent = self._recent
        if not recent or status_filter.queue_share(self._end) < self._limits.crowded:
            recent.clear()
            return
        key, number = max(recent.items(), key=lambda item: item[1])
        # Who has most of a queue that many fill together is not to blame for it, nor are members
        # that join at the same time.
        if 2 * number < sum(recent.values()) or number < 4 * self._seats(key):
            if len(recent) > _MOST_KEYS:
                recent.clear()
            return
        self._recent.clear()
        now = time.monotonic()
        for old in [one for one, shut in self._shut.items() if now > shut.until + shut.for_s]:
            del self._shut[old]
        last = self._shut.get(key)
        for_s = self._limits.shut_s
        if last is not None and not self._seats(key):
            for_s = min(2 * last.for_s, self._limits.shut_longest_s)
        if last is None and len(self._shut) >= status_filter.MAX_SHUT:
            return
        self._shut[key] = _Shut(now + for_s, for_s)
        self._filter()
        self._loop.call_later(for_s, self._filter)

    def _filter(self) -> None:
        if self._end.fileno() >= 0:
            now = time.monotonic()
            status_filter.shut_out(
                self._end, [key for key, shut in self._shut.items() if now < shut.until]
            )

    def _pause(self) -> None:
        """Without descriptors: close who waits, and leave the rest to the kernel for a moment."""
        for some in list(self._waiting.values()):
            for one in list(some):
                self._drop(one)
        self._loop.remove_reader(self._end.fileno())
        self._again = self._loop.call_later(0.1, self._resume)

    def _resume(self) -> None:
        self._again = None
        self._loop.add_reader(self._end.fileno(), self._accept)

    def _greet(self, end: socket.socket, address: str) -> None:
        seats = self._seats(address)
        key = key_of(address, seats)
        self._recent[key] = self._recent.get(key, 0) + 1
        said = _peek(end)
        if said is None:
            until = time.monotonic() + self._limits.header_timeout_s
            end.setblocking(False)
            self._wait(_Waiting(end, address, key, seats, until))
        elif said:
            end.setblocking(False)
            self._decide(end, address, key, seats, said)
        else:
            # A knock, or a flood that connects and hangs up.
            end.close()

    def _wait(self, one: _Waiting) -> None:
        mine = self._waiting.setdefault(one.key, {})
        if len(mine) >= self._limits.waiting_per_address + 4 * one.seats:
            self._drop(next(iter(mine)))
        elif self._number >= self._limits.waiting + 4 * one.seats:
            greedy = max(self._waiting.values(), key=_excess)
            self._drop(next(iter(greedy)))
        # The greedy one may have been the last of this key.
        self._waiting.setdefault(one.key, {})[one] = None
        self._number += 1
        self._loop.add_reader(one.end.fileno(), self._hear, one)

    def _forget(self, one: _Waiting) -> None:
        mine = self._waiting[one.key]
        del mine[one]
        self._number -= 1
        if not mine:
            del self._waiting[one.key]
        self._loop.remove_reader(one.end.fileno())

    def _drop(self, one: _Waiting) -> None:
        self._forget(one)
        if not one.answered:
            self._counts["refused_connections"] += 1
            _hang_up(one.end)
        else:
            one.end.close()

    def _hear(self, one: _Waiting) -> None:
        """Look at the first words of a connection, or at what follows its answer."""
        if one.answered:
            try:
                over = not one.end.recv(self._limits.read_bytes)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                over = True
            if over:
                self._drop(one)
            return
        said = _peek(one.end)
        if said is None:
            return
        self._forget(one)
        if said:
            self._decide(one.end, one.address, one.key, one.seats, said)
        else:
            one.end.close()

    # ----------------------------------------------------------------- deciding

    def _is_members(self, said: bytes) -> bool:
        """Whether a request looks like a member's: a look ahead, which proves nothing."""
        if not said.startswith(_MEMBERS_ROUTES):
            return False
        if self._token is None:
            return True
        found = _BEARER.search(said)
        return found is not None and hmac.compare_digest(found[1], self._token)

    def _decide(self, end: socket.socket, address: str, key: str, seats: int, said: bytes) -> None:
        connection: Connection | None = None
        # What a member asks for has a share of its own: a script at its address cannot use it up.
        admissions = self._calls if seats and self._is_members(said) else self._admissions
        if admissions.take(key, seats):
            connection = self._room(address, key, seats)
        if connection is not None:
            self._enter(end, connection)
            return
        route = _health_route(said)
        if route is None:
            self._counts["refused_connections"] += 1
            status, body = 503, b'{"error": "too many connections"}\n'
        else:
            self._counts["requests"] += 1
            status, body = self._health(route)
        with contextlib.suppress(OSError):
            read = end.recv(self._limits.read_bytes)
            end.send(_answer(status, b"" if said.startswith(b"HEAD ") else body, len(body)))
            # Unread bytes make of a close a reset, and the client may see that and no answer.
            end.shutdown(socket.SHUT_WR)
            if not read.endswith(b"\r\n\r\n"):
                until = time.monotonic() + 1.0
                self._wait(_Waiting(end, address, key, seats, until, answered=True))
                return
        end.close()


_BEARER = re.compile(rb"\r\nauthorization: bearer ([^\r\n]*)\r\n", re.IGNORECASE)
_MEMBERS_ROUTES = (b"GET /v1/job", b"PUT /v1/hosts/")
_FIRST_WORDS_BYTES = 1024
"""What is looked at to decide. A member's token is in it: its headers begin with it."""
_REASONS = {200: b"OK", 503: b"Service Unavailable"}


def _answer(status: int, body: bytes, length: int) -> bytes:
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        b"%b\r\n%b"
    ) % (status, _REASONS[status], length, b"Retry-After: 1\r\n" * (status == 503), body)


def _health_route(said: bytes) -> str | None:
    """Find the health route that the first bytes of a request ask for, if they do."""
    words = said.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or words[0] not in (b"GET", b"HEAD") or not words[2].startswith(b"HTTP/1."):
        return None
    path = words[1].partition(b"?")[0]
    return path.decode() if path in (b"/livez", b"/readyz") else None


def _peek(end: socket.socket) -> bytes | None:
    """Look at what has arrived: None: nothing yet, empty: nothing will come."""
    try:
        return end.recv(_FIRST_WORDS_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


def _hang_up(end: socket.socket) -> None:
    """Close with a reset: nothing of it stays with the kernel."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
