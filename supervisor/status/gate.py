"""The door of the status port: who is let in, who waits before it, and who has to go for whom.

The event loop behind it supervises a training, so a visitor must cost next to nothing until it has
said something. `Gate` accepts a bounded number of connections in each turn of the loop, and none
has a transport, a protocol or a task until its first bytes are there; most of a flood is closed
again for the price of three system calls. One that comes faster than it can be accepted is shut out
in the kernel, see ``filter.py``. Then `Pool` finds the visitor a place: every source address
has its own limits, and a new one takes the place of the longest idle one of the greediest address
rather than be refused. ``/livez`` and ``/readyz`` need no place: they are answered at the door.

What an orchestrator, Prometheus and a person's browser need lies far below these limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from supervisor.cluster.net import canonical
from supervisor.status import filter as status_filter
from supervisor.status.limits import MOST_KEYS, Buckets, Connection, Limits, key_of


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
            if len(recent) > MOST_KEYS:
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
