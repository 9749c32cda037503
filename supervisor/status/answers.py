"""What each path of the status port answers, and that nothing in a request hurts the training."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from supervisor.cluster.protocol import ProtocolError, VersionError, decode_report
from supervisor.status.board import JobBoard
from supervisor.status.handler import connection_of, handler_of
from supervisor.status.http import (
    Refused,
    encode,
    error_answer,
    expect,
    seconds,
    whole_number,
)
from supervisor.status.limits import Buckets, Limits, Pool
from supervisor.status.members import Members, claim_of, samples
from supervisor.status.snapshot import Sample, Snapshot
from supervisor.status.streaming import Streaming

MAX_WAIT_S = 30.0
"""The longest long poll; longer wishes are cut to it."""
_ALIVE = {"alive": True}
_PROBES = frozenset({"/livez", "/readyz"})


class Answers:
    """The paths of one host's status port; arguments as those of `StatusServer`."""

    def __init__(
        self,
        *,
        host: str,
        board: JobBoard | None,
        members: Members,
        streaming: Streaming,
        connections: Pool,
        counts: dict[str, int],
        limits: Limits,
        now: Callable[[], float],
        snapshot: Callable[[], Snapshot],
        ready: Callable[[], tuple[bool, str]],
        samples: Callable[[], Iterable[Sample]],
        on_error: Callable[[str], None],
    ) -> None:
        self._host = host
        self._board = board
        self._members = members
        self._streaming = streaming
        self._connections = connections
        self._counts = counts
        self._limits = limits
        self._now = now
        self._snapshot = snapshot
        self._ready = ready
        self._samples = samples
        self._on_error = on_error
        self._requests = Buckets(limits.requests_per_s, limits.requests_burst)
        self._probes = Buckets(limits.requests_per_s, limits.requests_burst)
        self._cache: dict[str, tuple[float, bytes]] = {}
        self._stopping = False

    def stop_waiting(self) -> None:
        """Answer whoever asks from now on with what is there."""
        self._stopping = True

    def last_words(self) -> bytes:
        """The final ``/status``, as the data of an event."""
        try:
            return encode(self._snapshot())
        except Exception as error:  # noqa: BLE001 - as in `guard`
            self._on_error(f"the end: {error!r}"[:400])
            return b"{}"

    def health(self, route: str) -> tuple[int, bytes]:
        """Status and body; for the gate as well, where there is no place for a visitor."""
        if route == "/livez":
            return 200, encode(_ALIVE) + b"\n"
        ready, reason = self._ready()
        return 200 if ready else 503, encode({"ready": ready, "reason": reason}) + b"\n"

    def add_routes(self, router: web.UrlDispatcher) -> None:
        gets: tuple[tuple[str, Callable[[web.Request], Awaitable[web.StreamResponse]]], ...] = (
            ("/livez", self._get_health),
            ("/readyz", self._get_health),
            ("/status", self._get_status),
            ("/metrics", self._get_metrics),
            ("/v1/job", self._get_job),
            ("/", self._get_page),
        )
        for path, handler in gets:
            router.add_get(path, handler, expect_handler=expect)
        streams = (("/events", self._streaming.get_events), ("/logs", self._streaming.get_logs))
        for path, handler in streams:
            router.add_get(path, handler, allow_head=False, expect_handler=expect)
        router.add_put("/v1/hosts/{name}", self._put_host, expect_handler=expect)

    @web.middleware
    async def guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        self._counts["requests"] += 1
        connection = connection_of(request)
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
                response = error_answer(429, "too many requests")
        except Refused as refusal:
            response = error_answer(refusal.status, refusal.text, refusal.reason)
        except ProtocolError as error:
            response = error_answer(400, str(error))
        except web.HTTPException as error:
            response = error_answer(error.status, error.reason)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except (ConnectionError, TimeoutError):
            # The client broke off; whoever it was does not read this.
            response = error_answer(408, "the request did not arrive")
        except Exception as error:  # noqa: BLE001 - nothing in a request may hurt the training
            self._on_error(f"{request.method} {request.path[:80]}: {error!r}"[:400])
            response = error_answer(503, "not available")
        if response.status >= 400 and response.status != 503:
            self._counts["refused_requests"] += 1
            response.force_close()  # the rest of the request may still be on its way
            handler_of(request).refuse()
        else:
            handler_of(request).go_on()
        connection.busy = False
        connection.idle_since = self._now()
        if not response.prepared:
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Cache-Control"] = "no-store"
        return response

    async def _get_health(self, request: web.Request) -> web.StreamResponse:
        status, body = self.health(request.path)
        return web.Response(body=body, status=status, content_type="application/json")

    async def _get_status(self, _request: web.Request) -> web.StreamResponse:
        body = self._cached("status", lambda: encode(self._snapshot()))
        return web.Response(body=body, content_type="application/json")

    async def _get_metrics(self, _request: web.Request) -> web.StreamResponse:
        # Here and not above: a host whose metrics nobody reads does not pay for the import.
        from supervisor.status import metrics  # noqa: PLC0415

        def render() -> bytes:
            return metrics.render(self._snapshot(), [*self._own_samples(), *self._samples()])

        body = self._cached("metrics", render)
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    def _own_samples(self) -> list[Sample]:
        own = [
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
        if self._board is not None:
            own.append(
                Sample("job_revision", "Revision of the job.", self._board.document.revision)
            )
            own += samples(self._members.peers())
        return own

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

    async def _get_job(self, request: web.Request) -> web.StreamResponse:
        board = self._master()
        query = request.query
        after = whole_number(query.get("after", "0"), "after")
        wait_s = min(seconds(query.get("wait", "0"), "wait"), MAX_WAIT_S)
        run = query.get("run", "")
        attempt = whole_number(query.get("attempt", "1"), "attempt")
        host = query.get("host")
        if host is not None:
            await self._prove(request, host)
            said = query.get("v")
            self._members.understand(host, None if said is None else whole_number(said, "v"))
            # A member of an earlier run is answered: the document is how it learns of this one.
            claim = claim_of(host, query, run)
            door = self._members.door
            assert door is not None, "there is a board: see _master"
            if door.follows(claim):
                self._members.admit(claim, connection_of(request), after, attempt)
                if run:
                    door.must_have_begun(attempt)
                    self._members.heard(host, after)
        if self._stopping:
            wait_s = 0.0  # stopping: what is there, now
        body = await board.wait(run, after, timeout_s=wait_s)
        return web.Response(body=body, content_type="application/json")

    async def _put_host(self, request: web.Request) -> web.StreamResponse:
        board = self._master()
        host = request.match_info["name"]
        await self._prove(request, host)
        body = await self._body(request)
        try:
            report = decode_report(body)
        except VersionError as error:
            self._members.understand(host, error.found)
            raise
        self._members.take(host, report, connection_of(request))
        return web.Response(body=board.body, content_type="application/json")

    def _master(self) -> JobBoard:
        if self._board is None:
            raise Refused(404, f"{self._host} is not the master of the job")
        return self._board

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                handler_of(request).go_on()
                return await request.read()
        except TimeoutError:
            raise Refused(408, "the body did not arrive in time") from None
        except web.HTTPRequestEntityTooLarge:
            raise
        except Exception as error:  # noqa: BLE001
            # aiohttp's payload errors (a broken chunk, a lost connection) share no public base.
            raise ProtocolError(f"body: {type(error).__name__}") from None

    async def _prove(self, request: web.Request, host: str) -> None:
        authorization = request.headers.get("Authorization", "")
        await self._members.prove(host, authorization, connection_of(request))
