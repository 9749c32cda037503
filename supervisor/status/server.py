"""The status server of a host: health, status, metrics, events, and on the master the job itself.

It lives in the event loop that supervises the training, so its first duty is to do no harm: every
header, body, wait, queue and number of connections has a limit, strangers have a pool of
connections and a rate of their own so that they cannot crowd the members out, and nothing in a
request can raise beyond `Answers`. The two documents that members exchange with the master:
``cluster/protocol.py``.

``/status`` serves a `Snapshot` exactly as the ``snapshot`` callable gives it, so masking secrets
is that callable's duty. ``/metrics`` is computed from the same snapshot.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from aiohttp import web

from supervisor.cluster import beat
from supervisor.cluster.liveness import ActiveClock
from supervisor.cluster.net import Resolver
from supervisor.cluster.protocol import HostReport, JobIdentity
from supervisor.faults import in_words
from supervisor.linux import ports
from supervisor.status.answers import Answers
from supervisor.status.board import JobBoard
from supervisor.status.doors import Member
from supervisor.status.feed import EventFeed
from supervisor.status.gate import Gate
from supervisor.status.handler import Handler
from supervisor.status.limits import Connection, Limits, Pool
from supervisor.status.lines import Lines
from supervisor.status.members import Members
from supervisor.status.snapshot import Sample, Snapshot
from supervisor.status.streaming import Streaming


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
        refused_count, refused_window_s: see `MemberWatch`.
        samples, lines: more figures for ``/metrics``; what the processes write, for ``/logs``.
        on_error: told about defects of ours, one line each.
        limits: see `Limits`.
        rejoins: whether a host that is gone may come back while the job runs.

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
        lines: Lines | None = None,
        on_error: Callable[[str], None] = lambda _line: None,
        limits: Limits | None = None,
        resolver: Resolver | None = None,
        rejoins: bool = False,
    ) -> None:
        self.host = host
        self.board = board
        self._bind = bind
        self._port = port
        self._token = None if token is None else token.encode()
        self._limits = limits or Limits()
        # Without members to watch there are only connections to sweep.
        idle_s = min(2.0, self._limits.header_timeout_s / 2)
        self._tick_s = idle_s if board is None else min(1.0, lease_s / 8)
        self._clock = ActiveClock(time.monotonic(), max_step_s=4 * self._tick_s)
        self._connections = Pool(self._limits, members=len(members))
        self.members = Members(
            members,
            board=board,
            job=job or JobIdentity(),
            token=self._token,
            connections=self._connections,
            now=self._now,
            lease_s=lease_s,
            refused_count=refused_count,
            refused_window_s=refused_window_s,
            resolver=resolver or Resolver(),
            on_report=on_report,
            on_lost=on_lost,
            on_refused=on_refused,
            on_error=on_error,
            rejoins=rejoins,
        )
        self._counts = dict.fromkeys(
            ("connections", "requests", "refused_requests", "refused_connections"), 0
        )
        self._lines = lines
        self._feed = EventFeed(max_clients=self._limits.event_readers)
        streaming = Streaming(
            host=host, members=members, feed=self._feed, lines=lines,
            connections=self._connections, limits=self._limits, token=self._token,
        )  # fmt: skip
        self._answers = Answers(
            host=host,
            board=board,
            members=self.members,
            streaming=streaming,
            connections=self._connections,
            counts=self._counts,
            limits=self._limits,
            now=self._now,
            snapshot=snapshot,
            ready=ready,
            samples=samples,
            on_error=on_error,
        )
        self._buffer = memoryview(bytearray(self._limits.read_bytes))
        self._runner: web.AppRunner | None = None
        self._gate: Gate | None = None
        self._arriving: set[asyncio.Task[None]] = set()
        """Connections that the event loop makes a transport for."""
        self._watcher: asyncio.Task[None] | None = None
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
                middlewares=[self._answers.guard],
                client_max_size=self._limits.body_bytes,
                logger=self._log,
            )
            self._answers.add_routes(app.router)
            self._runner = web.AppRunner(
                app,
                access_log=None,
                handler_cancellation=True,
                shutdown_timeout=self._limits.shutdown_timeout_s,
            )
            await self._runner.setup()
            self._gate = Gate(
                end,
                limits=self._limits,
                seats=self.members.seats,
                room=self._room,
                enter=self._enter,
                health=self._answers.health,
                counts=self._counts,
                token=self._token,
            )
        except BaseException:
            end.close()
            raise
        self._watcher = asyncio.create_task(self._keep_watch(), name="status watch")
        self.members.begin()

    async def stop(self) -> None:
        """Answer whoever waits, close the port and every connection; about a second at most."""
        if self._gate is not None:
            self._gate.close()
            self._gate = None
        self._answers.stop_waiting()
        tasks = [*self._arriving] if self._watcher is None else [self._watcher, *self._arriving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self.members.close(), return_exceptions=True)
        self._watcher = None
        last = self._answers.last_words()
        self._feed.close(last)
        if self._lines is not None:
            self._lines.close(last)
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

    def _now(self) -> float:
        return self._clock.advance(time.monotonic())

    async def _keep_watch(self) -> None:
        sweep_at = 0.0
        while True:
            await asyncio.sleep(beat.rest_s(self._tick_s))
            now = self._now()
            self.members.tick()
            if now >= sweep_at:
                sweep_at = now + min(2.0, self._limits.header_timeout_s / 2)
                self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Close the connections of those who never ask, or never read the answer."""
        if self._gate is not None:
            self._gate.sweep()
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
        handler = Handler(
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

    async def _arrive(self, handler: Handler, end: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: handler, end)
        if handler.connection not in self._connections:
            handler.connection.abort()  # pushed out before it had a transport

    def _gone(self, connection: Connection) -> None:
        self._connections.leave(connection)
        self.members.left(connection)


def _one_line_logger(on_error: Callable[[str], None]) -> logging.Logger:
    """Make the logger that aiohttp is given: not in the registry, one line, no traceback."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            on_error(f"http: {record.getMessage()}"[:300] + (f": {error!r}"[:100] if error else ""))

    logger = logging.Logger("supervisor.status", level=logging.WARNING)  # noqa: LOG001
    logger.addHandler(Handler())
    return logger
