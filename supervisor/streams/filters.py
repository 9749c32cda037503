"""What may be left out of an output on purpose, and how it is said that it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

LineFilter = Callable[[bytes], bytes]
"""Whole lines in, each with its newline; the lines that stay out."""

_LEVELS = "IWEF"


def quiet_tensorflow(show_from: Literal["I", "W", "E", "F"] = "E") -> LineFilter:
    """Hide messages of TensorFlow below a level, with all their lines; whatever else is written
    stays. One filter for one stream: it remembers what the line before was part of.

    Known are the two headers that TensorFlow's C++ code writes (its own,
    ``2025-01-31 12:00:00.000000: I tensorflow/…``, and absl's,
    ``I0000 00:00:1738324800.000000   12345 file.cc:1] …``), and the Python logger's
    ``INFO:tensorflow:…``. A line without a level belongs to the message before it, unless it begins
    something of its own: a traceback, a warning of Python's, the last words of a crash.
    """
    hidden = _LEVELS[: _LEVELS.index(show_from)]
    if not hidden:
        return _everything
    hiding = False

    def keep(lines: bytes) -> bytes:
        nonlocal hiding
        kept = []
        for line in _whole(lines):
            if (header := _HEADER.match(line)) is not None:
                level = next(filter(None, header.groups()), b"W")[:1].decode()
                hiding = level in hidden or _GPU_HIDDEN.search(line) is not None
            elif hiding and _OWN_BEGINNING.match(line):
                hiding = False
            if not hiding:
                kept.append(line)
        return b"".join(kept)

    return keep


def _whole(lines: bytes) -> list[bytes]:
    return [line + b"\n" for line in lines.removesuffix(b"\n").split(b"\n")]


_HEADER = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ([IWEF]) "
    rb"|([IWEF])\d{4} \d\d:\d\d:[\d.]+ +\d+ "
    rb"|(INFO|WARNING|ERROR|FATAL|CRITICAL|DEBUG):(?:tensorflow|absl):"
    rb"|WARNING: All log messages before absl::InitializeLog\(\) is called"
)
_GPU_HIDDEN = re.compile(rb"failed call to cuInit: ")
"""An error to TensorFlow: a parameter server is to see no GPU, and we hide them from it."""
_OWN_BEGINNING = re.compile(
    rb"Traceback \(most recent call last\)|Fatal Python error|Exception |Current thread |Thread 0x"
    rb"|parameter server: |worker server: |\S+:\d+: \w*Warning: "
    rb"|[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)(?::|\s|$)"
    rb"|terminate called|Segmentation fault|Aborted|Bus error|Killed|Illegal instruction|\*\*\* "
    rb"|(?:free|malloc|munmap_chunk|realloc)\(\)|double free|corrupted "
    rb"|python[\d.]*: |\[libprotobuf (?:ERROR|FATAL)|\S+: error while loading"
)


def _everything(lines: bytes) -> bytes:
    return lines


class Repeats:
    """Counts identical lines instead of passing them on, within a window.

    The first of a kind passes at once. Those that follow within ``window_s`` seconds of it are
    counted, and when the window is over the count is said once. At most ``max_kinds`` different
    lines are remembered; the oldest is closed early when one more comes.
    """

    def __init__(self, window_s: float, *, max_kinds: int = 256) -> None:
        if window_s <= 0:
            raise ValueError(f"window_s must be positive, not {window_s}")
        self.window_s = window_s
        self._max_kinds = max_kinds
        # insertion order is order of age, so the oldest is always the first
        self._kinds: dict[bytes, tuple[float, int]] = {}
        self.suppressed = 0
        """Lines that were counted instead of passed on."""

    def admit(self, line: bytes, now: float) -> bool:
        """Whether this line passes; ``now`` in seconds of a steady clock.

        What is over by then must have been taken out with `closed` before.
        """
        seen = self._kinds.get(line)
        if seen is None:
            self._kinds[line] = (now, 0)
            return True
        self._kinds[line] = (seen[0], seen[1] + 1)
        self.suppressed += 1
        return False

    @property
    def crowded(self) -> bool:
        """More kinds are remembered than allowed; `closed` makes room."""
        return len(self._kinds) > self._max_kinds

    def closed(self, now: float, *, everything: bool = False) -> list[tuple[bytes, int]]:
        """Take out what is over: ``(line, how often it was left out)``, only counts above 0."""
        over = []
        while self._kinds:
            line, (since, count) = next(iter(self._kinds.items()))
            if not (everything or self.crowded or now - since >= self.window_s):
                break
            del self._kinds[line]
            if count:
                over.append((line, count))
        return over

    def due_s(self, now: float) -> float | None:
        """Seconds until `closed` has something to do; None when nothing is remembered."""
        for since, _count in self._kinds.values():
            return max(0.0, since + self.window_s - now)
        return None
