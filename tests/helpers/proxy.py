"""A TCP proxy that delays, stalls, drops and resets: the network's ill will, in one process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator


class Proxy:
    """Forwards connections to a port of loopback; what it does to them may change at any time.

    - ``delay_s``: every piece is delivered this much later, in each direction.
    - ``cut()``: nothing passes any more, not even new connections' bytes; no end is told.
    - ``heal()``: it passes again, what was held back first.
    - ``reset()``: every connection gets a RST, both ends.
    - ``close()``: connections end and new ones are refused; ``open()`` listens again.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay_s = 0.0
        self.accepted = 0
        self._passes = asyncio.Event()
        self._passes.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._passes.clear()

    def heal(self) -> None:
        self._passes.set()

    def reset(self) -> None:
        for writer in list(self._writers):
            end = writer.get_extra_info("socket")
            # A zero linger time turns the close into a RST.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._passes.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(far_writer)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._forward(reader, far_writer))
                    both.create_task(self._forward(far_reader, writer))
            finally:
                self._writers.discard(far_writer)
                far_writer.close()
        except* OSError:
            pass
        except* asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Deliver pieces in order, each ``delay_s`` after it came."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def receive() -> None:
            while True:
                piece = await reader.read(65536)
                await pieces.put((loop.time() + self.delay_s, piece))
                if not piece:
                    return

        async with asyncio.TaskGroup() as both:
            both.create_task(receive())
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._passes.wait()
                if not piece:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()


@contextlib.asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    it = Proxy(target)
    await it.open()
    try:
        yield it
    finally:
        await it.close()
