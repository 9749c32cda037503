"""Answers that go on until the host's end: ``/events`` and ``/logs``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from aiohttp import web

from supervisor.status.doors import Member
from supervisor.status.feed import STILL_HERE, EventFeed, number_of
from supervisor.status.handler import connection_of
from supervisor.status.http import Refused, has_token
from supervisor.status.limits import Limits, Pool
from supervisor.status.lines import Lines, Wanted

_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
_NAMES: Final = 32
"""Processes or roles that one reader may name."""


class Streaming:
    """``members`` are where other hosts' lines are asked for; the rest as `Answers`."""

    def __init__(
        self,
        *,
        host: str,
        members: Sequence[Member],
        feed: EventFeed,
        lines: Lines | None,
        connections: Pool,
        limits: Limits,
        token: bytes | None,
    ) -> None:
        self._host = host
        self._members = {member.host: member for member in members}
        self._feed = feed
        self._lines = lines
        self._connections = connections
        self._limits = limits
        self._token = token

    async def get_events(self, request: web.Request) -> web.StreamResponse:
        number = number_of(request.headers.get("Last-Event-ID", ""))
        queue = self._feed.subscribe(connection_of(request).abort, after=number or 0)
        if queue is None:
            raise Refused(503, "too many readers")

        async def chunks() -> AsyncGenerator[bytes, None]:
            yield STILL_HERE
            while True:
                chunk: bytes | None = STILL_HERE
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.events_heartbeat_s):
                        chunk = await queue.get()
                if chunk is None:
                    return
                yield chunk

        try:
            return await self._send(request, chunks())
        finally:
            self._feed.unsubscribe(queue)

    async def get_logs(self, request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        if self._token is not None and not has_token(authorization, self._token):
            raise Refused(401, "logs: the token of the job (SUPERVISOR_TOKEN) is wanted")
        query = request.query
        host = query.get("host", self._host)
        after = request.headers.get("Last-Event-ID", query.get("after", ""))[:64]
        onward = query.get("follow", "1") != "0"
        if host != self._host:
            member = self._members.get(host)
            if member is None:
                raise Refused(404, f"{host[:100]} is no host of this job")
            if query.get("relayed"):
                raise Refused(404, f"{host[:100]} is not here")  # nobody is sent in circles
            from supervisor.status import relay  # noqa: PLC0415 - only when a person looks

            asked = {**query, "host": host, "after": after, "relayed": "1"}
            chunks = relay.lines_of(member, asked, token=self._token, limits=self._limits)
            return await self._send(request, chunks)
        if self._lines is None:
            raise Refused(404, "this host keeps no lines")
        wanted = Wanted(_names(query.get("process", "")), _names(query.get("role", "")))
        beat_s = self._limits.events_heartbeat_s
        return await self._send(
            request,
            self._lines.follow(wanted, after=after, heartbeat_s=beat_s, onward=onward),
        )

    async def _send(
        self, request: web.Request, chunks: AsyncGenerator[bytes, None]
    ) -> web.StreamResponse:
        """One reader of many: an address has half of the places at most."""
        connection = connection_of(request)
        beside = [*self._connections.beside(connection)]
        everybody = sum(one.follows for one in self._connections)
        if (
            sum(one.follows for one in beside) >= max(1, self._limits.event_readers // 2)
            or everybody >= self._limits.event_readers
        ):
            raise Refused(503, "too many readers")
        response = web.StreamResponse(headers=_HEADERS)
        connection.follows = True
        try:
            async with contextlib.aclosing(chunks):
                first = await anext(chunks)  # or why there is nothing to read
                await response.prepare(request)
                await response.write(first)
                async for chunk in chunks:
                    await response.write(chunk)
        except ConnectionError:
            pass  # the reader left
        finally:
            connection.follows = False
        return response


def _names(text: str) -> frozenset[str]:
    names = [name for name in text.split(",") if name]
    if len(names) > _NAMES:
        raise Refused(400, f"at most {_NAMES} names")
    return frozenset(names)
