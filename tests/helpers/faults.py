"""An HTTP proxy with a bad temper, before a real server: errors, stalls, cuts, false answers.

It runs on a thread with an event loop of its own, so that what it measures and delays is not
held up by the loop under test. Which requests suffer is drawn from a seed.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Request:
    method: str
    target: str
    head: bytes
    """First line and headers."""

    def header(self, name: str) -> str:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return ""


def s3_error(
    status: int, code: str, message: str = "", extra: str = "", headers: str = ""
) -> bytes:
    """An answer as S3 gives it. ``headers``: whole lines."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
        f"<Message>{message}</Message>{extra}<RequestId>1</RequestId></Error>"
    )
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


_CHUNK = 64 << 10
SLOW_DOWN = s3_error(503, "SlowDown", "Please reduce your request rate.")
INTERNAL = s3_error(500, "InternalError", "We encountered an internal error. Please try again.")


@dataclass
class Faults:
    """Shares of requests, from 0 to 1, that suffer it. May be changed at any time."""

    slow_down: float = 0.0
    internal: float = 0.0
    stall: float = 0.0
    """Neither forwarded nor answered."""
    cut_request: float = 0.0
    """A reset in the middle of the request's content."""
    cut_answer: float = 0.0
    """An end in the middle of the answer's content."""
    delay_s: float = 0.0
    slow_s: float = 0.0
    """A pause after each 64 KiB of a request's content that are taken from the connection."""
    held: Callable[[Request], bool] = lambda _: False
    """Whether a request is neither forwarded nor answered, as in a stall."""
    answer: Callable[[Request], bytes | None] = lambda _: None
    """An answer of its own to a request, instead of the server's."""
    seen: Callable[[Request], None] = lambda _: None
    """Told every request, after the server has answered it."""
    counts: collections.Counter[str] = field(default_factory=collections.Counter)


class FaultProxy:
    def __init__(self, target: int, seed: int = 0) -> None:
        self.faults = Faults()
        self.port = 0
        self._target = target
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._end: asyncio.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._connection(reader, writer)

        def ended(task: asyncio.Task[None]) -> None:
            writer = tasks.pop(task)  # has a name: it complains when it goes before it is closed
            writer.transport.abort()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Not in the task: one that is cancelled before its first step closes nothing.
            task = asyncio.create_task(serve(reader, writer))
            tasks[task] = writer
            task.add_done_callback(ended)

        end = socket.socket()
        # So that a slow reader is one for the other side, too, and not only for the kernel.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        end.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(accepted, sock=end, limit=_CHUNK)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        await _turns()  # for what was being accepted
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _turns()  # what was aborted is closed by the loop

    def _draw(self) -> str:
        faults, drawn = self.faults, self._random.random()
        for name in ("slow_down", "internal", "stall", "cut_request", "cut_answer"):
            share: float = getattr(faults, name)
            if drawn < share:
                return name
            drawn -= share
        return ""

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            request = Request(method, target, head)
            length = int(request.header("content-length") or 0)
            fault = self._draw()
            self.faults.counts["requests"] += 1
            self.faults.counts[fault or "clean"] += 1
            await asyncio.sleep(self.faults.delay_s)
            if fault == "stall" or self.faults.held(request):
                await asyncio.Event().wait()
            if fault == "cut_request" and length:
                await reader.readexactly(length // 2)
                return _reset(writer)
            answer = self.faults.answer(request)
            if answer is None and fault in {"slow_down", "internal"}:
                answer = SLOW_DOWN if fault == "slow_down" else INTERNAL
            if answer is not None:
                await _copy(reader, None, length)
                if method == "HEAD":
                    answer = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                writer.write(answer)
                await writer.drain()
            elif not await self._forward(request, length, reader, writer, fault):
                return None
            self.faults.seen(request)

    async def _forward(
        self,
        request: Request,
        length: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: str,
    ) -> bool:
        """To the server and back; whether the connection may go on."""
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            far_writer.write(request.head[:-2] + b"Connection: close\r\n\r\n")
            await _copy(reader, far_writer, length, self.faults.slow_s)
            head = await far_reader.readuntil(b"\r\n\r\n")
            answer = Request("", "", head)
            lines = [line for line in head.split(b"\r\n") if line.lower() != b"connection: close"]
            writer.write(b"\r\n".join(lines))
            if request.method == "HEAD" or head.split(b" ", 2)[1] in {b"204", b"304"}:
                return True
            size = answer.header("content-length")
            if fault == "cut_answer" and int(size or 0):
                await _copy(far_reader, writer, int(size) // 2)
                # No reset: that would take back what has come already.
                writer.close()
                await writer.wait_closed()
                return False
            if size:
                await _copy(far_reader, writer, int(size))
                return True
            while piece := await far_reader.read(65536):
                writer.write(piece)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return False
        finally:
            far_writer.transport.abort()


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter | None,
    size: int,
    slow_s: float = 0.0,
) -> None:
    while size:
        piece = await reader.read(min(size, _CHUNK if slow_s else 262144))
        if slow_s:
            await asyncio.sleep(slow_s)
        if not piece:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(piece)
        if writer is not None:
            writer.write(piece)
            await writer.drain()
    if writer is not None:
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """A zero linger time turns the close into a RST."""
    end = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


@contextlib.contextmanager
def fault_proxy(target: int, seed: int = 0) -> Iterator[FaultProxy]:
    proxy = FaultProxy(target, seed)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
