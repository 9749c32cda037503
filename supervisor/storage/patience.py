"""How long the silence of a server is borne: less at first, more with each attempt."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

_FIRST_S: Final = 2.0
"""Silence after which an attempt is given up while nothing is known of the server; each further
attempt bears twice as much.

Source: Amazon S3 User Guide, "Performance guidelines", "Timeouts and retries for latency-sensitive
applications".
"""
_LEAST_S: Final = 1.0
"""The same of a server that answers faster. Source: RFC 6298, 2.4: what TCP began with."""
_AT_LEAST_S: Final[Mapping[str, float]] = {"CompleteMultipartUpload": 8.0, "UploadPart": 4.0}
"""The same of what takes long: the end of an upload does what the rest left for later, of large
objects S3 itself speaks of minutes; and to send a part again is dear."""
_TIMES: Final = 8.0
"""So many times the longest silence that ended in success lately is a sign of a fault."""
_FADES: Final = 0.98
"""How much of what was long ago is left after an answer: half of it after 34."""
_LOOKS: Final = 4
"""So often in its time the progress of an upload is looked at."""
_MOVED: Final = struct.Struct("@120xQQ")
"""``tcpi_bytes_acked`` and ``tcpi_bytes_received`` in ``struct tcp_info`` (linux/tcp.h)."""


class Waits:
    """What the servers of a process taught about silence, by operation.

    Those that are slow by nature are given time from the first attempt on: to make requests anew
    which they are still at would make them slower yet.
    """

    def __init__(self, limit_s: float, retry_s: float) -> None:
        """``limit_s``: the longest silence that is borne; ``retry_s``: of all attempts together."""
        self._limit_s = limit_s
        self._retry_s = retry_s
        self._longest_s: dict[str, float] = {}

    def patience_s(self, operation: str, failed: int, spent_s: float) -> float:
        """Of the attempt after ``failed`` ones and ``spent_s``.

        Only who has the time for a patient attempt afterwards may be impatient: so whatever
        answers within the limit is waited for at least once.
        """
        longest_s = self._longest_s.get(operation)
        first_s = _FIRST_S if longest_s is None else max(_LEAST_S, _TIMES * longest_s)
        first_s = max(first_s, _AT_LEAST_S.get(operation, 0.0))
        # Of more doublings than this nothing is left to say, and 2.0**1024 is an error.
        wait_s = first_s * 2.0 ** min(failed, 30)
        if wait_s + spent_s + self._limit_s > self._retry_s:
            return self._limit_s
        return min(wait_s, self._limit_s)

    def answered(self, operation: str, silence_s: float) -> None:
        """An attempt succeeded, and this was the longest silence in it."""
        before_s = self._longest_s.get(operation, 0.0)
        self._longest_s[operation] = max(silence_s, before_s * _FADES)


class Patience:
    """Of one attempt. As a block: TimeoutError when the other side is silent for so long in it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.longest_s = 0.0
        """The longest silence yet."""
        self._loop = asyncio.get_running_loop()
        self._timeout: asyncio.Timeout | None = None
        """Of the block that goes on."""
        self._timer: asyncio.TimerHandle | None = None
        self._followed: asyncio.Transport | None = None
        self._since_s = 0.0

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(None)
        await self._timeout.__aenter__()
        self._since_s = self._loop.time()
        self._timer = self._loop.call_later(self.seconds, self._give_up)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pause()
        timeout, self._timeout = self._timeout, None
        followed, self._followed = self._followed, None
        if error is not None and followed is not None:
            followed.abort()  # else it would first be rid of what it is to send, however long
        assert timeout is not None
        await timeout.__aexit__(kind, error, trace)

    def pause(self) -> None:
        """It is on us now."""
        self._heard()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def follow(self, transport: asyncio.Transport | None) -> None:
        """From now on bytes that the other side acknowledges are a sign of life, too: of what was
        written, much may wait in the buffers of a slow link."""
        self.pause()
        if self._timeout is not None and transport is not None:  # else it was answered already
            self._followed = transport
            self._look(transport, _moved(transport))

    def _look(self, transport: asyncio.Transport, before: int) -> None:
        moved = _moved(transport)
        if moved != before:
            self._heard()
        if self._loop.time() - self._since_s >= self.seconds:
            self._give_up()
        else:
            self._timer = self._loop.call_later(self.seconds / _LOOKS, self._look, transport, moved)

    def _give_up(self) -> None:
        self._timer = None
        if self._timeout is not None and not self._timeout.expired():
            # That is in the loop's next turn: where this process did not run for a while, what
            # came meanwhile is only now being told to whoever waits for it.
            self._timeout.reschedule(self._loop.time())

    def _heard(self) -> None:
        now = self._loop.time()
        self.longest_s = max(self.longest_s, now - self._since_s)
        self._since_s = now


def _moved(transport: asyncio.Transport) -> int:
    """Bytes that went over a connection, both ways together; 0: it is closed."""
    end: Any = transport.get_extra_info("socket")
    try:
        told = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MOVED.size)
    except OSError:
        return 0
    acknowledged, received = _MOVED.unpack(told)
    return int(acknowledged) + int(received)
