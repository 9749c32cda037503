"""What may be left out of an output on purpose, and how it is said that it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from supervisor.faults import safe

LineFilter = Callable[[bytes], bytes]
"""Whole lines in, each with its newline; the lines that stay out."""

_LEVELS = "IWEF"


def quiet_tensorflow(show_from: Literal["I", "W", "E", "F"] = "E") -> LineFilter:
    """Hide TensorFlow's own messages below a level; whatever else is written stays.

    Known are the two headers that TensorFlow's C++ code writes (its own,
    ``2025-01-31 12:00:00.000000: I tensorflow/…``, and absl's,
    ``I0000 00:00:1738324800.000000   12345 file.cc:1] …``), the Python logger's
    ``INFO:tensorflow:…``, and what every process without a GPU says as an error.

    A line without a header belongs to the message before it: the dump of a ServerDef or of session
    options is one message of 20 lines and more. That is so where it looks like the rest of one:
    plain words are somebody else's, and so is what begins something of its own, as a traceback, a
    fatal error or a warning with its place does.

    The filter knows the message that it is in: each stream has one of its own.
    """
    hidden = _LEVELS[: _LEVELS.index(show_from)]
    if not hidden:
        return _everything
    within = False

    def keep(lines: bytes) -> bytes:
        nonlocal within
        kept = []
        for line in lines[:-1].split(b"\n"):  # a carriage return ends no line here
            header = _HEADER.match(line)
            if header is not None:
                level = (header[1] or header[2] or header[3][:1]).decode()
                within = level in hidden or _HARMLESS.search(line) is not None
            elif _ALWAYS_CHATTER.match(line):
                within = True
            else:
                within = within and not _BEGINS.match(line) and bool(_CONTINUED.match(line))
            if not within:
                kept.append(line + b"\n")
        return b"".join(kept)

    return keep


_HEADER = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ([IWEF]) "
    rb"|([IWEF])\d{4} \d\d:\d\d:[\d.]+ +\d+ "
    rb"|(INFO|WARNING|ERROR|FATAL):tensorflow:"
)
_ALWAYS_CHATTER = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called"
    rb"|To enable the following instructions: "
)
_HARMLESS = re.compile(
    rb"failed call to cuInit: .*UNKNOWN ERROR \(303\)"
    rb"|Unable to register cu\w+ (?:factory|plugin)"
)
"""What TensorFlow logs as an error on every machine without a GPU."""
_CONTINUED = re.compile(
    rb"[ \t]|\S*\}$|[\w.]+ ?\{$|[a-z]\w*: (?:\"[^\"]*\"|[\w.+-]+)$|$"  # indented, or a dump
    rb"|/job:|Additional GRPC error information|:UNKNOWN:Error received|\d+ root error"
    rb"|\d+ (?:successful|derived) |The tasks have crashed\.|The error could be from a previous"
    rb"|This could happen if the remote target"
)
_BEGINS = re.compile(
    rb"Traceback \(most recent call last\)|  \+ Exception Group|Fatal Python error"
    rb"|Exception ignored|Exception in thread|Process |Thread 0x|Current thread"
    rb"|The above exception|During handling|terminate called|libc\+\+abi|pure virtual"
    rb"|\*\*\* |Segmentation fault|Aborted|Bus error|Killed|Illegal instruction|Floating point"
    rb"|(?:free|malloc|realloc|munmap_chunk|double free|corrupted)\b|Out of memory"
    rb"|parameter server: |supervisor: |sys:1: "
    rb"|[^\s:]*\.pyc?:\d+: |(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Warning|Exit|Interrupt)\b"
    rb"|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)[: ]|\[?\d{4}-\d\d-\d\d[ T]"
    rb"|\S+: (?:error while loading shared libraries|symbol lookup error|command not found)"
    rb"|python[\d.]*: |bash: |/\S+: line \d+: "
)


# Text, and compiled where they are first used: a supervisor in a container has no terminal.
_CONTROLS = rb"[\x00-\x08\x0b-\x1f\x7f]"
_COLOUR = r"(\x1b\[[0-9;:]*m)"


def tame(lines: bytes) -> bytes:
    """What a terminal would obey, shown instead: controls, escapes, characters that hide or turn
    text around. Colours stay and end with their line; so do tabs and line ends."""
    if lines.isascii() and not re.search(_CONTROLS, lines):
        return lines
    text = lines.decode("utf-8", "backslashreplace")
    return "\n".join(map(_tame_line, text.split("\n"))).encode("utf-8", "backslashreplace")


def _tame_line(line: str) -> str:
    if line.isprintable():
        return line
    body = line.removesuffix("\r")  # of a CRLF
    parts = re.split(_COLOUR, body)
    parts[::2] = ["\t".join(map(safe, part.split("\t"))) for part in parts[::2]]
    left_on = len(parts) > 1 and parts[-2] not in {"\x1b[0m", "\x1b[m"}
    return "".join(parts) + ("\x1b[0m" if left_on else "") + line[len(body) :]


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
