"""One connection's requests as aiohttp parses them, held back until they are wanted."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from aiohttp import web

from supervisor.status.http import error_answer
from supervisor.status.limits import Connection, Limits


class Handler(web.RequestHandler, asyncio.BufferedProtocol):
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
        response = error_answer(status, "malformed request" if status == 400 else "not served")
        response.force_close()
        return response


def handler_of(request: web.BaseRequest) -> Handler:
    handler = request.protocol
    assert isinstance(handler, Handler)
    return handler


def connection_of(request: web.BaseRequest) -> Connection:
    return handler_of(request).connection
