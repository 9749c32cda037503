"""The error that TensorFlow logs on every machine without a GPU, and what is said in its place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final

from supervisor.streams.formats import Formatter

_KEY: Final = b"failed call to cuInit"
_ERROR: Final = (  # compiled where it is first used: it is loaded before the script starts
    rb"(?m)(?:^WARNING: All log messages before absl::InitializeLog\(\) is called[^\n]*\n)?"
    rb"^E0000 [^\n]*\bcuda_platform\.cc:\d+\] failed call to cuInit: "
    rb"[^\n]*UNKNOWN ERROR \(303\)\n"
)
_LOOKED_AT: Final = 1 << 20
"""Bytes of a stream. TensorFlow says it when it first looks for devices, and nobody later."""
REASON: Final = "no GPU on this machine: TensorFlow's error about cuInit (303) is left out"


def no_gpu_here() -> bool:
    """Whether this machine has no NVIDIA GPU that a process could see. With a driver, the same
    words are an error."""
    return not os.path.exists("/dev/nvidiactl") and not os.path.exists("/proc/driver/nvidia")


class Gpuless:
    """Another formatter's stream without that error: a note stands in its place, once.

    TensorFlow writes a message at once. One that comes in two pieces is left as it is.
    """

    def __init__(self, inner: Formatter) -> None:
        self.live = inner.live
        self._inner = inner
        self._left = _LOOKED_AT
        self._at_line = True
        self.feed: Callable[[bytes, float], bytes] = self._look
        self.tick, self.flush, self.due_s = inner.tick, inner.flush, inner.due_s
        self.state, self.note = inner.state, inner.note

    def _look(self, data: bytes, now: float) -> bytes:
        """`feed`, until there is nothing more to look for."""
        at_line, self._at_line = self._at_line, data.endswith(b"\n")
        self._left -= len(data)
        if self._left < 0:
            self.feed = self._inner.feed
        if _KEY not in data:
            return self._inner.feed(data, now)
        found = re.search(_ERROR, data)
        if found is None or not (at_line or found.start()):
            return self._inner.feed(data, now)
        self.feed = self._inner.feed
        before = self._inner.feed(data[: found.start()], now) if found.start() else b""
        rest = data[found.end() :]
        after = self._inner.feed(rest, now) if rest else b""
        return before + self._inner.note(REASON) + after
