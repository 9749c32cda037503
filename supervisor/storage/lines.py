"""Lines from a pipe, on the event loop: how the supervisor and its sync process hear each other."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final

_READ_BYTES: Final = 64 * 1024


class Lines:
    """Reads until the end of the pipe; a line that is longer than ``limit`` is passed over.

    A ``process.PumpLike``. The descriptor is its own, and closed at the end.
    """

    def __init__(
        self,
        fd: int,
        heard: Callable[[bytes], None],
        *,
        limit: int,
        ended: Callable[[], None] | None = None,
    ) -> None:
        """``ended`` is called at the end of the pipe; bytes without a line's end are no line."""
        self._fd: int | None = fd
        self._heard = heard
        self._limit = limit
        self._at_end = ended
        self._rest = b""
        self._skipping = False
        self._ended = asyncio.Event()
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    async def finish(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), timeout_s)

    def close(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
            self._ended.set()

    def _read(self) -> None:
        assert self._fd is not None
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            if self._at_end is not None:
                self._at_end()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif line:
                self._heard(line)
        if len(self._rest) > self._limit:
            self._rest, self._skipping = b"", True
