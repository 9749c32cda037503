"""The status server of a host: health, status, metrics, events, and on the master the job itself.

It lives in the event loop that supervises the training, so its first duty is to do no harm: every
header, body, wait, queue and number of connections has a limit, strangers have a pool of
connections and a rate of their own so that they cannot crowd the members out, and nothing in a
request can raise beyond `StatusServer`. Routes and their meaning: ``DESIGN.md`` section 3; the two
documents that members exchange with the master: ``protocol.py``.

``/status`` serves a `Snapshot` exactly as the ``snapshot`` callable gives it, so masking secrets
is that callable's duty. ``/metrics`` is computed from the same snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import json
import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NoReturn, NotRequired, TypedDict

from aiohttp import web

from supervisor.cluster import beat
from supervisor.cluster.admission import Claim, Seat, admit
from supervisor.cluster.liveness import ActiveClock, Lost, MemberState, MemberWatch
from supervisor.cluster.net import AddressBook, Knock, Knocked, Resolver, knock
from supervisor.cluster.protocol import (
    MAX_MESSAGE_CHARS,
    MAX_MISSING,
    MAX_NAME_CHARS,
    MAX_NUMBER,
    HostReport,
    JobDocument,
    JobIdentity,
    ProtocolError,
    Refusal,
    decode_report,
    encode_job,
)
from supervisor.faults import in_words
from supervisor.life.words import JobState, Phase, Verdict, place
from supervisor.linux import ports
from supervisor.status.limits import Buckets, Connection, Gate, Limits, Pool

MAX_WAIT_S = 30.0
"""The longest long poll; longer wishes are cut to it."""
REATTACH_S = 2.0
"""A member that lives and has lost its connection has a new one within this time."""
_TURNED_AWAY = 4
"""Reasons for which a host is turned away that are told."""

# --------------------------------------------------------------------------- the snapshot


class ProcessRow(TypedDict):
    """One process of this host."""

    name: str
    role: str
    pid: int | None
    state: str
    """``planned``, ``running``, ``exited``; ``outlived by 2``: it ended, descendants did not."""
    exit: str | None
    """As people say it: ``exit 1``, ``killed by SIGKILL``."""
    started_at: float | None
    """Seconds since the epoch."""
    cpu_s: float | None
    """User and system time of the process and its descendants."""
    rss_bytes: int | None
    output_bytes: int
    """Bytes read from stdout and stderr so far."""


class HostRow(TypedDict):
    """One host of the job as this host knows it."""

    name: str
    phase: str | None
    """What it last reported, a `Phase`; None before."""
    state: str
    """A `liveness.MemberState`, on a member for its master a `liveness.MasterState`, or
    ``self``."""
    last_seen_s: float | None
    """Seconds since its last sign of life."""


class BudgetRow(TypedDict):
    """The stop budget; both None while no stop was asked for."""

    limit_s: float | None
    left_s: float | None


class TransferRow(TypedDict):
    """One directory that is kept elsewhere."""

    name: str
    sent_files: int
    sent_bytes: int
    pending_files: int
    pending_bytes: int
    lag_s: float
    """Age of the oldest change that is not sent."""
    rate_bytes_s: float
    newest: str
    """The newest complete checkpoint's manifest."""
    error: str


class Snapshot(TypedDict):
    """The JSON of ``/status``."""

    version: str
    host: str
    job: str
    """The job's name, ``""`` if the platform gives none."""
    master: str
    phase: str
    started_at: float
    """Start of this supervisor, seconds since the epoch."""
    uptime_s: float
    processes: list[ProcessRow]
    hosts: list[HostRow]
    budget: BudgetRow
    cause: dict[str, object] | None
    """As `protocol.encode_cause` gives it."""
    verdict: dict[str, object] | None
    """As `protocol.encode_verdict` gives it."""
    transfers: NotRequired[list[TransferRow]]
    waiting: NotRequired[dict[str, str]]
    """While joining: the hosts that are missing, and why."""
    tolerated: NotRequired[list[dict[str, object]]]
    """Failures that the failure policy let pass, as ``cause``."""
    also: NotRequired[list[dict[str, object]]]
    """Further failures, which are not the cause, as ``cause``."""
    timeline: list[dict[str, object]]
    """``{"at": seconds since the epoch, "event": name, …}``, oldest first, bounded."""
    probe_latency_s: NotRequired[float | None]
    """On a member: how long the master took for its last immediate answer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One more figure for ``/metrics``, in Prometheus' words."""

    name: str
    """Without the prefix ``supervisor_``, with its unit: ``stream_dropped_bytes``."""
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["gauge", "counter"] = "gauge"


# --------------------------------------------------------------------------- the job's board


class JobBoard:
    """The job's document on the master, and everybody who waits for its next revision.

    A revision's body is encoded once, however many read it, and one event wakes all waiters.
    Changes of ``missing`` alone are gathered: a thousand hosts that join one after the other would
    otherwise wake each other a million times.

    Args:
        run: names this run of the job.
        missing: the hosts that have not joined yet.
        gather_s: how long changes of ``missing`` alone are gathered.

    """

    def __init__(self, run: str, *, missing: tuple[str, ...] = (), gather_s: float = 1.0) -> None:
        missing = missing[:MAX_MISSING]
        self._document = JobDocument(run, 1, JobState.JOINING, None, missing)
        self._body = encode_job(self._document)
        self._changed = asyncio.Event()
        self._gather_s = gather_s
        self._gathered: tuple[str, ...] = missing
        self._restore = ""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def document(self) -> JobDocument:
        return self._document

    @property
    def body(self) -> bytes:
        return self._body

    def announce(
        self,
        state: JobState,
        verdict: Verdict | None = None,
        missing: tuple[str, ...] = (),
        restore: str = "",
    ) -> int:
        """Publish the job's state and wake everybody who waits; return its revision.

        Announcing what is announced already changes nothing. If only ``missing`` is new, it is
        published within ``gather_s`` seconds and the revision is still the present one. To be
        called in the event loop.
        """
        old = self._document
        missing = missing[:MAX_MISSING]
        self._gathered = missing
        if (old.state, old.verdict, old.restore) != (state, verdict, restore):
            self._restore = restore
            self._publish(state, verdict)
        elif old.missing != missing and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                self._gather_s, self._publish, state, verdict
            )
        return self._document.revision

    def _publish(self, state: JobState, verdict: Verdict | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        old = self._document
        new = JobDocument(old.run, old.revision + 1, state, verdict, self._gathered, self._restore)
        if replace(old, revision=new.revision) != new:
            self._document = new
            self._body = encode_job(new)
            self.wake()

    def wake(self) -> None:
        """Answer everybody who waits with what is there."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, run: str, revision: int, *, timeout_s: float) -> bytes:
        """Give the body as soon as it is another one than that revision of that run.

        After ``timeout_s`` seconds it is given as it is.
        """
        if run == self._document.run and revision >= self._document.revision:
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await changed.wait()
        return self._body


# --------------------------------------------------------------------------- the timeline


class EventFeed:
    """The timeline as server-sent events: a bounded past, and a bounded queue for each reader."""

    def __init__(self, *, max_clients: int, queue_length: int = 256, history: int = 256) -> None:
        self._max_clients = max_clients
        self._queue_length = queue_length
        self._history: deque[tuple[int, bytes]] = deque(maxlen=history)
        self._clients: dict[asyncio.Queue[bytes | None], Callable[[], None]] = {}
        self._next_id = 1
        self.closed = False

    def publish(self, event: Mapping[str, object]) -> None:
        """Send an event to all readers; one that does not keep up is cut off, never waited for."""
        number = self._next_id
        self._next_id += 1
        # json.dumps escapes line ends, which would end the event.
        chunk = f"id: {number}\ndata: {json.dumps(event, default=str)}\n\n".encode()
        self._history.append((number, chunk))
        for queue, cut_off in list(self._clients.items()):
            try:
                queue.put_nowait(chunk)
            except asyncio.QueueFull:
                del self._clients[queue]
                cut_off()

    def subscribe(
        self, cut_off: Callable[[], None], *, after: int
    ) -> asyncio.Queue[bytes | None] | None:
        """Give a queue that holds the past since event ``after``; ``None`` in it ends the feed.

        ``cut_off`` is called when the queue is full. Returns None when there are too many readers.
        """
        if self.closed or len(self._clients) >= self._max_clients:
            return None
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(self._queue_length)
        past = [chunk for number, chunk in self._history if number > after]
        if past:
            queue.put_nowait(b"".join(past))
        self._clients[queue] = cut_off
        return queue

    def unsubscribe(self, queue: asyncio.Queue[bytes | None]) -> None:
        self._clients.pop(queue, None)

    def close(self) -> None:
        self.closed = True
        for queue, cut_off in list(self._clients.items()):
            try:
                queue.put_nowait(None)
            except asyncio.QueueFull:
                cut_off()


# --------------------------------------------------------------------------- connections


class _Handler(web.RequestHandler, asyncio.BufferedProtocol):
    """aiohttp's connection handler with one-line JSON errors, small reads and no log of its own.

    After a request nothing more is parsed until the request wants its body or is answered. A body
    of a quarter of a mebibyte in chunks of one byte takes the parser a tenth of a second; of a
    request that is refused it is thrown away as it comes, and only so much that the answer is read.
    """

    connection: Connection
    limits: Limits
    on_gone: Callable[[Connection], None]
    buffer: memoryview
    """One for all connections: what is read is copied at once."""

    _held = b""
    _hungry = True
    _refused: int | None = None
    """Bytes thrown away since the refusal."""
    _head_bytes = 0

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._refused is not None:
            self._refused += nbytes
            if self._refused > self.limits.refused_bytes:
                self.connection.abort()
        elif self._hungry:
            self._parse(bytes(self.buffer[:nbytes]))
        else:
            self._held += bytes(self.buffer[:nbytes])
            if self.connection.transport is not None:
                self.connection.transport.pause_reading()

    def _parse(self, data: bytes) -> None:
        before = self._request_count
        self.data_received(data)
        if self._request_count != before:
            self._hungry = False
            self._head_bytes = 0
        elif not self.connection.busy:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes:
                self.connection.abort()

    def go_on(self) -> None:
        """Parse what was held, and whatever comes: the body is wanted, or the next request."""
        self._hungry = True
        held, self._held = self._held, b""
        if held:
            self._parse(held)
        self._resume()

    def refuse(self) -> None:
        """Parse nothing of this connection any more: its request is refused."""
        self._held = b""
        self._refused = 0
        transport = self.connection.transport
        if transport is not None and not transport.is_closing():
            # What has arrived already: a close with unread bytes is a reset, and the client may
            # see that instead of the answer.
            with contextlib.suppress(OSError):
                os.read(transport.get_extra_info("socket").fileno(), self.limits.refused_bytes)
        self._resume()

    def _resume(self) -> None:
        transport = self.connection.transport
        if not self._held and transport is not None and not transport.is_closing():
            transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.connection.transport = transport
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.on_gone(self.connection)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - would quote the request
    ) -> web.StreamResponse:
        """Answer what could not be parsed, and what the middleware did not catch."""
        if self.connection.transport is None or self.connection.transport.is_closing():
            # As the base class: there is nobody to answer.
            raise ConnectionError("the client closed the connection")
        if isinstance(exc, UnicodeError):
            status = 400  # aiohttp's own answer to what it does not know quotes it, or tries to
        if status >= 500:
            self.logger.error("%s: %r", request.path[:80], exc)
            status = 503
        self.refuse()
        response = _error(status, "malformed request" if status == 400 else "not served")
        response.force_close()
        return response


# --------------------------------------------------------------------------- the server


@dataclass(frozen=True, slots=True)
class Member:
    """Where another host of the job is found."""

    host: str
    address: str
    """A name or an address. Reports of ``host`` are taken from its addresses only."""
    port: int
    """Its own status port."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A member as the master knows it."""

    host: str
    state: MemberState
    phase: Phase | None
    heard: int
    """The last revision of the job document that it is known to have."""
    last_seen_s: float | None


@dataclass(slots=True)
class _Reported:
    """What a member said last, to tell late reports from new ones."""

    report: HostReport | None = None
    heard: int = 0
    seat: Seat = field(default_factory=Seat)
    left_at: float = -math.inf
    """When its supervisor last closed a connection, active seconds."""
    turned_away: list[str] = field(default_factory=list)
    """Why others that said they were this host were not taken, each once."""


class BindError(Exception):
    """The status port cannot be had; the message names port, pid and command of its holder.

    ``taken``: somebody else has it.
    """

    def __init__(self, message: str, *, taken: bool) -> None:
        super().__init__(message)
        self.taken = taken


class StatusServer:
    """Serves one host's status port, and on the master the job.

    Args:
        bind: the address to listen on; ``""`` for every interface, IPv4 and IPv6.
        port: the port; 0 lets the kernel choose (see `port` after `start`).
        host: this host's name.
        board: the job's document; None on every host but the master.
        members: the other hosts of the job. The master takes reports of these and watches them.
        token: the job's secret; None where none is configured.
        job: the job that this host is of; a host of another one is not taken for a member.
        snapshot: gives the JSON of ``/status``, secrets masked.
        ready: whether this host runs, and if not the reason.
        on_report: called with the host and its report for every report that says something new.
        on_lost: called once per loss with a member's name and the evidence, which begins with
            ``crashed``, ``unreachable`` or ``restarted``.
        on_refused: called with a member's name and the reason when somebody who says that it is
            this member is not taken; once a reason.
        lease_s: silence after which a member that had joined is lost.
        refused_count: connections that a member's status port must refuse in a row, …
        refused_window_s: … over at least this long, to have crashed.
        samples: more figures for ``/metrics``.
        on_error: told about defects of ours, one line each.
        limits: see `Limits`.

    The callables run in the event loop and must not block.

    """

    def __init__(
        self,
        *,
        bind: str,
        port: int,
        host: str,
        board: JobBoard | None,
        members: Sequence[Member],
        token: str | None,
        snapshot: Callable[[], Snapshot],
        ready: Callable[[], tuple[bool, str]],
        on_report: Callable[[str, HostReport], None] = lambda _host, _report: None,
        on_lost: Callable[[str, str], None] = lambda _host, _evidence: None,
        on_refused: Callable[[str, str], None] = lambda _host, _reason: None,
        job: JobIdentity | None = None,
        lease_s: float = 30.0,
        refused_count: int = 4,
        refused_window_s: float = 1.0,
        samples: Callable[[], Iterable[Sample]] = tuple,
        on_error: Callable[[str], None] = lambda _line: None,
        limits: Limits | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self.host = host
        self.board = board
        self._bind = bind
        self._port = port
        self._members = {member.host: member for member in members}
        self._token = None if token is None else token.encode()
        self._snapshot = snapshot
        self._ready = ready
        self._on_report = on_report
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._job = job or JobIdentity()
        self._lease_s = lease_s
        self._refused_count = refused_count
        self._refused_window_s = refused_window_s
        self._samples = samples
        self._on_error = on_error
        self._limits = limits or Limits()
        self._resolver = resolver or Resolver()
        self._feed = EventFeed(max_clients=self._limits.event_readers)
        # Without members to watch there are only connections to sweep.
        idle_s = min(2.0, self._limits.header_timeout_s / 2)
        self._tick_s = idle_s if board is None else min(1.0, lease_s / 8)
        self._clock = ActiveClock(time.monotonic(), max_step_s=4 * self._tick_s)
        self._watch = MemberWatch(
            self._members,
            lease_s=lease_s,
            refused_count=refused_count,
            refused_window_s=refused_window_s,
        )
        self._reported = {name: _Reported() for name in self._members}
        self._book = AddressBook(
            ((member.host, member.address) for member in members),
            resolver=self._resolver,
            now=time.monotonic,
        )
        self._heard_more = asyncio.Event()
        """Set whenever fewer members may be left that have not heard the last word."""
        self._tokenless: set[str] = set()
        """Members from whose addresses somebody spoke in their names with a wrong token."""
        self._connections = Pool(self._limits, members=len(self._members))
        self._requests = Buckets(self._limits.requests_per_s, self._limits.requests_burst)
        self._probes = Buckets(self._limits.requests_per_s, self._limits.requests_burst)
        self._buffer = memoryview(bytearray(self._limits.read_bytes))
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._examine_again = dict.fromkeys(self._members, 0.0)
        """When a member whose port never opened to us is worth another knock."""
        self._knocks = asyncio.Semaphore(64)
        self._cache: dict[str, tuple[float, bytes]] = {}
        self._started_at = time.monotonic()
        self._counts = dict.fromkeys(
            ("connections", "requests", "refused_requests", "refused_connections"), 0
        )
        self._runner: web.AppRunner | None = None
        self._listener: Gate | None = None
        self._arriving: set[asyncio.Task[None]] = set()
        """Connections that the event loop makes a transport for."""
        self._watchers: list[asyncio.Task[None]] = []
        self._log = _one_line_logger(on_error)

    # ----------------------------------------------------------------- life

    @property
    def port(self) -> int:
        """The port that is served; the kernel's choice after `start` if 0 was asked for."""
        return self._port

    async def start(self) -> None:
        """Bind the port and serve.

        Raises:
            BindError: the port is taken or the address is not this machine's.

        """
        end = self._bound()
        self._port = int(end.getsockname()[1])
        try:
            app = web.Application(
                middlewares=[self._guard],
                client_max_size=self._limits.body_bytes,
                logger=self._log,
            )
            self._routes(app.router)
            self._runner = web.AppRunner(
                app,
                access_log=None,
                handler_cancellation=True,
                shutdown_timeout=self._limits.shutdown_timeout_s,
            )
            await self._runner.setup()
            self._listener = Gate(
                end,
                limits=self._limits,
                seats=self._book.members_at,
                room=self._room,
                enter=self._enter,
                health=self._health,
                counts=self._counts,
                token=self._token,
            )
        except BaseException:
            end.close()
            raise
        self._watchers = [asyncio.create_task(self._keep_watch(), name="status watch")]
        if self.board is not None:
            self._watchers.append(asyncio.create_task(self._learn(), name="status addresses"))

    async def stop(self) -> None:
        """Answer whoever waits, close the port and every connection; about a second at most."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        tasks = [*self._watchers, *self._tasks.values(), *self._arriving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watchers = []
        self._feed.close()
        if self.board is not None:
            self.board.wake()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        for connection in self._connections:
            connection.abort()

    def _bound(self) -> socket.socket:
        """The listening socket.

        Every interface: one socket for both families. Where there is no IPv6 (no module, or
        switched off so that ``::`` cannot be had) it is IPv4 alone.
        """
        try:
            if self._bind not in {"", "::"}:
                family = socket.AF_INET6 if ":" in self._bind else socket.AF_INET
                return socket.create_server((self._bind, self._port), family=family, backlog=2048)
            if socket.has_dualstack_ipv6():
                try:
                    return socket.create_server(
                        ("", self._port),
                        family=socket.AF_INET6,
                        dualstack_ipv6=True,
                        backlog=2048,
                    )
                except OSError as error:
                    if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                        raise
            return socket.create_server(("", self._port), backlog=2048)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            if taken:
                reason = ports.why_not(self._port, error)
            else:
                where = self._bind or "every interface"
                reason = f"port {self._port} on {where} cannot be bound: {in_words(error)}"
            raise BindError(f"status server: {reason}", taken=taken) from None

    def publish(self, event: Mapping[str, object]) -> None:
        """Send one entry of the timeline to the readers of ``/events``."""
        self._feed.publish(event)

    # ----------------------------------------------------------------- members

    def peers(self) -> tuple[Peer, ...]:
        """Give every member as the master knows it now."""
        now = self._now()
        rows: list[Peer] = []
        for host, said in self._reported.items():
            rows.append(
                Peer(
                    host=host,
                    state=self._watch.state(host),
                    phase=said.report.phase if said.report else None,
                    heard=said.heard,
                    last_seen_s=self._watch.silence_s(host, now),
                )
            )
        return tuple(rows)

    async def explain(self, hosts: Iterable[str], *, timeout_s: float = 2.0) -> dict[str, str]:
        """Say why members have not joined, by knocking once at the door of each.

        ``DNS``, ``no answer on 2224``, ``2224 refused``, ``answers on 2224, has not reported``,
        ``comes without the job's token`` or why the one that came was not taken; after twice
        ``timeout_s`` for every 64 hosts at most.
        """
        members = [self._members[host] for host in hosts if host in self._members]
        turns = asyncio.Semaphore(64)

        async def reason(member: Member) -> str:
            if member.host in self._tokenless:
                return "comes without the job's token"
            turned_away = self._reported[member.host].turned_away
            if turned_away and self._watch.state(member.host) is not MemberState.UP:
                return turned_away[-1]
            async with turns:
                found = await self._knock(member, timeout_s)
            match found.knock:
                case Knock.OPEN:
                    return f"answers on {member.port}, has not reported"
                case Knock.REFUSED:
                    return f"{member.port} refused{found.families}"
                case Knock.SILENT:
                    unnamed = not found.evidence.startswith(place(member.address, member.port))
                    return "DNS" if unnamed else f"no answer on {member.port}{found.families}"

        reasons = await asyncio.gather(*(reason(member) for member in members))
        return {member.host: why for member, why in zip(members, reasons, strict=True)}

    async def _knock(self, member: Member, timeout_s: float) -> Knocked:
        return await knock(
            member.address, member.port, resolver=self._resolver, timeout_s=timeout_s
        )

    def _now(self) -> float:
        return self._clock.advance(time.monotonic())

    def _admit_member(self, claim: Claim, connection: Connection) -> None:
        """Take whoever asks for the member that it says it is, and its life as proven.

        Raises:
            _Refused: 409 with the reason.

        """
        board = self._master()
        host, said = claim.host, self._reported[claim.host]
        admission = admit(
            said.seat,
            claim,
            job=self._job,
            run=board.document.run,
            state=board.document.state,
            alive=claim.instance != said.seat.instance and self._alive(host),
        )
        now = self._now()
        if admission.refusal is not None:
            if admission.lost and (lost := self._watch.given_up(host)):
                self._lost(host, lost)
            if admission.text not in said.turned_away and len(said.turned_away) < _TURNED_AWAY:
                said.turned_away.append(admission.text)
                self._on_refused(host, admission.text)
            raise _Refused(409, admission.text, admission.refusal)
        if admission.lost:
            said.report, said.heard = None, 0
            self._examine_again[host] = 0.0
            if lost := self._watch.replaced(host, now):
                self._lost(host, lost)
        if admission.seat != said.seat:
            said.seat = admission.seat
            said.turned_away.clear()
        connection.instance = claim.instance
        self._signed(host, connection, now)

    def _alive(self, host: str) -> bool:
        """Whether the supervisor that is this member lives, as far as can be known from here.

        The kernel closes the connections of a process that is killed, and only of such a one: one
        that is stopped or cut off keeps them, and then the lease decides.
        """
        if self._watch.state(host) is not MemberState.UP:
            return False
        said = self._reported[host]
        if any(
            each.host == host and each.instance == said.seat.instance for each in self._connections
        ):
            return True
        silence_s = self._watch.silence_s(host, self._now()) or 0.0
        since_s = min(silence_s, self._now() - said.left_at)
        return since_s < min(REATTACH_S, self._lease_s / 4)

    def _signed(self, host: str, connection: Connection, now: float) -> None:
        self._connections.proven(connection, host)
        self._tokenless.discard(host)
        first = self._watch.signed(host, now)
        last = self._reported[host].report
        if first and last is not None:
            self._on_report(host, last)  # it was given up, and says nothing new of itself
        if first or (not self._watch.proven_open(host) and now >= self._examine_again[host]):
            self._examine_again[host] = now + self._lease_s
            self._examine(host)

    def _examine(self, host: str) -> None:
        """Knock at a member's door: at first to know that it opens, later to learn of a crash."""
        if self.board is None or self._runner is None or host in self._tasks:
            return
        task = asyncio.create_task(self._examination(host), name=f"examine {host}")
        self._tasks[host] = task
        task.add_done_callback(lambda _task: self._tasks.pop(host, None))

    async def _examination(self, host: str) -> None:
        member = self._members[host]
        pause_s = self._refused_window_s / max(1, self._refused_count - 1)
        # A process that is being killed loses its connections and its listening socket one after
        # the other: one open door proves that it once was open, and not that it will be.
        enough = self._refused_count if self._watch.proven_open(host) else 1
        for _attempt in range(3 * self._refused_count):
            if self._watch.state(host) is not MemberState.UP:
                return
            async with self._knocks:
                found = await self._knock(member, max(2.0, self._refused_window_s))
            if found.knock is Knock.OPEN:
                self._watch.opened(host)
                enough -= 1
                if enough == 0:
                    return
            if found.knock is Knock.REFUSED:
                lost = self._watch.refused(host, found.evidence, self._now())
                if lost is not None:
                    self._lost(host, lost)
                    return
            await asyncio.sleep(pause_s)

    def _lost(self, host: str, lost: Lost) -> None:
        self._heard_more.set()
        try:
            self._on_lost(host, f"{lost.how}: {lost.evidence}")
        except Exception as error:  # noqa: BLE001 - the watch must outlive a defect of its listener
            self._on_error(f"on_lost: {error!r}")

    async def _keep_watch(self) -> None:
        sweep_at = 0.0
        while True:
            await asyncio.sleep(beat.rest_s(self._tick_s))
            now = self._now()
            if self.board is not None:
                for host, lost in self._watch.tick(now):
                    self._lost(host, lost)
            if now >= sweep_at:
                sweep_at = now + min(2.0, self._limits.header_timeout_s / 2)
                self._sweep(now)

    async def _learn(self) -> None:
        """Find the members' addresses ahead of them, so that none is taken for a stranger."""
        pause_s = 2.0
        while not await self._book.learn():
            await asyncio.sleep(pause_s)
            pause_s = min(10.0, pause_s * 1.5)

    def _sweep(self, now: float) -> None:
        """Close the connections of those who never ask, or never read the answer."""
        if self._listener is not None:
            self._listener.sweep()
        for connection in self._connections:
            if connection.transport is None:
                continue
            waiting = connection.transport.get_write_buffer_size() > 0
            if not waiting:
                connection.unread_since = None
            elif connection.unread_since is None:
                connection.unread_since = now
            slow = not connection.served and (
                now - connection.opened_at > self._limits.header_timeout_s
            )
            deaf = connection.unread_since is not None and (
                now - connection.unread_since > self._limits.write_timeout_s
            )
            if slow or deaf:
                connection.abort()

    # ----------------------------------------------------------------- connections

    def _room(self, address: str, key: str, seats: int) -> Connection | None:
        if self._runner is None or self._runner.server is None:
            return None
        connection = Connection(address, key, seats, self._now(), trusted=seats > 0)
        connection.idle_since = connection.opened_at
        return connection if self._connections.enter(connection) else None

    def _enter(self, end: socket.socket, connection: Connection) -> None:
        server = self._runner.server if self._runner is not None else None
        assert server is not None
        loop = asyncio.get_running_loop()
        handler = _Handler(
            server,
            loop=loop,
            keepalive_timeout=self._limits.idle_timeout_s,
            access_log=None,  # type: ignore[arg-type]  # "no log", as AppRunner passes it on
            logger=self._log,
            max_line_size=self._limits.line_bytes,
            max_field_size=self._limits.line_bytes,
            max_headers=self._limits.headers,
            lingering_time=1.0,
            # A compressed body is refused as no JSON, not unpacked.
            auto_decompress=False,
        )
        handler.connection = connection
        handler.limits = self._limits
        handler.buffer = self._buffer
        handler.on_gone = self._gone
        task = asyncio.create_task(self._arrive(handler, end), name="status connection")
        self._arriving.add(task)

        def arrived(task: asyncio.Task[None]) -> None:
            self._arriving.discard(task)
            if task.cancelled() or task.exception() is not None:
                self._connections.leave(connection)
                end.close()

        task.add_done_callback(arrived)

    async def _arrive(self, handler: _Handler, end: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: handler, end)
        if handler.connection not in self._connections:
            handler.connection.abort()  # pushed out before it had a transport

    def _health(self, route: str) -> tuple[int, bytes]:
        """Status and body; for the gate as well, where there is no place for a visitor."""
        if route == "/livez":
            return 200, _encode(_ALIVE) + b"\n"
        ready, reason = self._ready()
        return 200 if ready else 503, _encode({"ready": ready, "reason": reason}) + b"\n"

    def _gone(self, connection: Connection) -> None:
        self._connections.leave(connection)
        host = connection.host
        if host is not None and connection.instance == self._reported[host].seat.instance:
            self._reported[host].left_at = self._now()
        if host is not None and self._listener is not None and self._watch.proven_open(host):
            # Perhaps only an idle connection that was closed, perhaps the end of the member.
            self._examine(host)

    # ----------------------------------------------------------------- requests

    def _routes(self, router: web.UrlDispatcher) -> None:
        gets: tuple[tuple[str, Callable[[web.Request], Awaitable[web.StreamResponse]]], ...] = (
            ("/livez", self._get_health),
            ("/readyz", self._get_health),
            ("/status", self._get_status),
            ("/metrics", self._get_metrics),
            ("/v1/job", self._get_job),
            ("/", self._get_page),
        )
        for path, handler in gets:
            router.add_get(path, handler, expect_handler=_expect)
        router.add_get("/events", self._get_events, allow_head=False, expect_handler=_expect)
        router.add_put("/v1/hosts/{name}", self._put_host, expect_handler=_expect)

    @web.middleware
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        self._counts["requests"] += 1
        connection = _connection(request)
        connection.served = True
        connection.busy = True
        response: web.StreamResponse
        probe = request.path in _PROBES
        try:
            mine = self._probes if probe else self._requests
            spare = mine.take(connection.key, connection.seats)
            if not spare:
                # The pause is what limits it: an address has few connections, each now slow.
                await asyncio.sleep(0.2)
            if spare or probe:
                response = await handler(request)
            else:
                response = _error(429, "too many requests")
        except _Refused as refusal:
            response = _error(refusal.status, refusal.text, refusal.reason)
        except ProtocolError as error:
            response = _error(400, str(error))
        except web.HTTPException as error:
            response = _error(error.status, error.reason)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except (ConnectionError, TimeoutError):
            # The client broke off; whoever it was does not read this.
            response = _error(408, "the request did not arrive")
        except Exception as error:  # noqa: BLE001 - nothing in a request may hurt the training
            self._on_error(f"{request.method} {request.path[:80]}: {error!r}"[:400])
            response = _error(503, "not available")
        if response.status >= 400 and response.status != 503:
            self._counts["refused_requests"] += 1
            response.force_close()  # the rest of the request may still be on its way
            _handler(request).refuse()
        else:
            _handler(request).go_on()
        connection.busy = False
        connection.idle_since = self._now()
        if not response.prepared:
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Cache-Control"] = "no-store"
        return response

    async def _get_health(self, request: web.Request) -> web.StreamResponse:
        status, body = self._health(request.path)
        return web.Response(body=body, status=status, content_type="application/json")

    async def _get_status(self, _request: web.Request) -> web.StreamResponse:
        body = self._cached("status", lambda: _encode(self._snapshot()))
        return web.Response(body=body, content_type="application/json")

    async def _get_metrics(self, _request: web.Request) -> web.StreamResponse:
        # Here and not above: a host whose metrics nobody reads does not pay for the import.
        from supervisor.status import metrics  # noqa: PLC0415

        def render() -> bytes:
            return metrics.render(self._snapshot(), [*self._own_samples(), *self._samples()])

        body = self._cached("metrics", render)
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    def _own_samples(self) -> list[Sample]:
        samples = [
            Sample(
                "http_requests_total",
                "Requests to the status port.",
                self._counts["requests"],
                kind="counter",
            ),
            Sample(
                "http_refused_requests_total",
                "Requests to the status port that were answered with a 4xx.",
                self._counts["refused_requests"],
                kind="counter",
            ),
            Sample(
                "http_connections_total",
                "Connections to the status port.",
                self._counts["connections"],
                kind="counter",
            ),
            Sample(
                "http_refused_connections_total",
                "Connections to the status port beyond the limit.",
                self._counts["refused_connections"],
                kind="counter",
            ),
            Sample(
                "http_open_connections",
                "Open connections to the status port.",
                len(self._connections),
            ),
        ]
        if self.board is not None:
            samples.append(
                Sample("job_revision", "Revision of the job.", self.board.document.revision)
            )
            states = [self._watch.state(host) for host in self._members]
            samples += [
                Sample(
                    "peers", "Members of the job by state.", states.count(state), {"state": state}
                )
                for state in MemberState
            ]
        return samples

    def _cached(self, key: str, compute: Callable[[], bytes]) -> bytes:
        """Compute at most every `Limits.cache_s` seconds: many readers cost no more than one."""
        now = time.monotonic()
        at, body = self._cache.get(key, (-math.inf, b""))
        if now - at >= self._limits.cache_s:
            body = compute()
            self._cache[key] = (now, body)
        return body

    async def _get_page(self, _request: web.Request) -> web.StreamResponse:
        from supervisor.status import page  # noqa: PLC0415 - only when a person looks

        return web.Response(
            body=page.HTML,
            content_type="text/html",
            charset="utf-8",
            headers={"Content-Security-Policy": page.POLICY, "Referrer-Policy": "no-referrer"},
        )

    async def _get_events(self, request: web.Request) -> web.StreamResponse:
        connection = _connection(request)
        beside = sum(one.follows for one in self._connections.beside(connection))
        if beside >= max(1, self._limits.event_readers // 2):
            raise _Refused(503, "too many readers")
        after = request.headers.get("Last-Event-ID", "")
        queue = self._feed.subscribe(
            connection.abort,
            after=int(after) if after.isascii() and after.isdecimal() and len(after) < 16 else 0,
        )
        if queue is None:
            raise _Refused(503, "too many readers")
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
            }
        )
        connection.follows = True
        try:
            await response.prepare(request)
            while True:
                chunk: bytes | None = b": still here\n\n"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.events_heartbeat_s):
                        chunk = await queue.get()
                if chunk is None:
                    break
                await response.write(chunk)
        except ConnectionError:
            pass  # the reader left
        finally:
            connection.follows = False
            self._feed.unsubscribe(queue)
        return response

    async def _get_job(self, request: web.Request) -> web.StreamResponse:
        board = self._master()
        query = request.query
        after = _whole_number(query.get("after", "0"), "after")
        wait_s = min(_seconds(query.get("wait", "0"), "wait"), MAX_WAIT_S)
        run = query.get("run", "")
        host = query.get("host")
        if host is not None:
            await self._prove(request, host)
            # A member of an earlier run is answered: the document is how it learns of this one.
            if run in {"", board.document.run}:
                self._admit_member(_claim(host, query, run), _connection(request))
                if run:
                    self._heard(host, after)
        if self._listener is None:
            wait_s = 0.0  # stopping: what is there, now
        body = await board.wait(run, after, timeout_s=wait_s)
        return web.Response(body=body, content_type="application/json")

    async def _put_host(self, request: web.Request) -> web.StreamResponse:
        board = self._master()
        host = request.match_info["name"]
        await self._prove(request, host)
        report = decode_report(await self._body(request))
        if not report.instance:
            raise _Refused(400, _NAMELESS)
        self._admit_member(
            Claim(host, report.instance, report.job, report.run), _connection(request)
        )
        said = self._reported[host]
        last = said.report
        if last is not None and report.seq < last.seq:
            return web.Response(body=board.body, content_type="application/json")
        self._heard(host, report.heard)
        said.report = report
        if report.phase is Phase.DONE:
            self._watch.done(host)
            self._heard_more.set()
        if last is None or last.seq != report.seq:
            self._on_report(host, report)
        return web.Response(body=board.body, content_type="application/json")

    async def told(self, timeout_s: float) -> bool:
        """Wait until every member that is up has heard the last word, ``timeout_s`` at most."""
        assert self.board is not None
        revision = self.board.document.revision
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(
                    peer.state is MemberState.UP and peer.heard < revision for peer in self.peers()
                ):
                    await self._heard_more.wait()
                    self._heard_more.clear()
                return True
        return False

    def _heard(self, host: str, revision: int) -> None:
        assert self.board is not None
        # A revision that does not exist yet was not heard from us.
        if revision <= self.board.document.revision:
            said = self._reported[host]
            said.heard = max(said.heard, revision)
            self._heard_more.set()

    def _master(self) -> JobBoard:
        if self.board is None:
            raise _Refused(404, f"{self.host} is not the master of the job")
        return self.board

    async def _prove(self, request: web.Request, host: str) -> None:
        """Let pass only what comes from ``host`` itself, with the token where there is one."""
        if self._token is not None:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, b"Bearer " + self._token):
                if host in self._members and _connection(request).trusted:
                    self._tokenless.add(host)
                raise _Refused(401, "a valid token is needed")
        # One answer for an unknown name and a wrong address: strangers learn no names.
        if host not in self._book or not await self._book.owns(host, _connection(request).address):
            raise _Refused(403, "not a host of this job, or not at its address")

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                _handler(request).go_on()
                return await request.read()
        except TimeoutError:
            raise _Refused(408, "the body did not arrive in time") from None
        except web.HTTPRequestEntityTooLarge:
            raise
        except Exception as error:  # noqa: BLE001
            # aiohttp's payload errors (a broken chunk, a lost connection) share no public base.
            raise ProtocolError(f"body: {type(error).__name__}") from None


# --------------------------------------------------------------------------- small parts


class _Refused(Exception):  # noqa: N818 - an answer, not a failure of ours
    def __init__(self, status: int, text: str, reason: Refusal | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.reason = reason


_ALIVE = {"alive": True}
_PROBES = frozenset({"/livez", "/readyz"})


def _handler(request: web.BaseRequest) -> _Handler:
    handler = request.protocol
    assert isinstance(handler, _Handler)
    return handler


def _connection(request: web.BaseRequest) -> Connection:
    return _handler(request).connection


def _encode(value: object) -> bytes:
    return json.dumps(value, default=str, ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "replace"
    )


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=_encode(value) + b"\n", status=status, content_type="application/json")


def _error(status: int, text: str, reason: Refusal | None = None) -> web.Response:
    told = {"error": " ".join(text.split())[: 200 if reason is None else MAX_MESSAGE_CHARS]}
    return _json(told if reason is None else told | {"reason": reason.value}, status=status)


_NAMELESS = "instance: a member says which supervisor it is"


def _claim(host: str, query: Mapping[str, str], run: str) -> Claim:
    """Who polls: the same names as in a report."""
    names = [query.get(key, "")[:MAX_NAME_CHARS] for key in ("instance", "job", "cluster")]
    if not names[0]:
        raise _Refused(400, _NAMELESS)
    return Claim(host, names[0], JobIdentity(*names[1:]), run)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer ``Expect``; aiohttp's own handler answers an unknown one outside the middlewares."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # so that it is not taken for part of the answer
        return None
    response = _error(417, "Expect: only 100-continue is known")
    response.force_close()
    return response


def _whole_number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and int(text) <= MAX_NUMBER):
        _bad_number(name, "a whole number")
    return int(text)


def _seconds(text: str, name: str) -> float:
    try:
        value = float(text[:32])
    except ValueError:
        _bad_number(name, "a number of seconds")
    if not (math.isfinite(value) and value >= 0):
        _bad_number(name, "a number of seconds")
    return value


def _bad_number(name: str, wanted: str) -> NoReturn:
    raise _Refused(400, f"{name}: must be {wanted}")


def _one_line_logger(on_error: Callable[[str], None]) -> logging.Logger:
    """Make the logger that aiohttp is given: not in the registry, one line, no traceback."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            on_error(f"http: {record.getMessage()}"[:300] + (f": {error!r}"[:100] if error else ""))

    logger = logging.Logger("supervisor.status", level=logging.WARNING)  # noqa: LOG001
    logger.addHandler(Handler())
    return logger
