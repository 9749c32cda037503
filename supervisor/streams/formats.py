"""From chunks of bytes, as a pipe gives them, to chunks of whole lines.

One formatter belongs to one stream and one output. It is pure: bytes and a time go in, bytes
come out, and it says when it wants to be asked again. Its memory is bounded whatever it is fed:
an unfinished line is held up to ``max_line_bytes`` and then given out in pieces.

The work is done on whole chunks (one ``bytes.replace`` for all lines of a chunk); a loop over
lines runs only where a chunk has a carriage return, a very long line or invalid UTF-8.
"""

from __future__ import annotations

import base64
import enum
import re
import string
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from supervisor.streams.filters import LineFilter, Repeats

DEFAULT_TEMPLATE = "{host} {role} {mark} "

LINE_BYTES = 15 * 1024
"""Longest piece of text in one line of output.

Docker's log drivers and the CRI cut at 16 KiB; below it, with room for the prefix, they leave
our lines whole, so that the continuation marks are ours alone.
"""

MERGE_LINE_BYTES = 1024 * 1024
"""The same for an empty template: files, and lines that already have their prefix.

A JSON object of ours has at most six times the bytes of its text, so it is never cut.
"""

IDLE_S = 0.25
"""An unfinished line is given out when nothing has followed for so long."""
PROGRESS_S = 5.0
"""Off a terminal, a progress bar is shown at most once in so long."""
LIVE_S = 0.1
"""On a terminal, an unfinished line is redrawn at most once in so long."""
_QUOTED_BYTES = 200
"""How much of a line is repeated when its repetitions are said."""


class Mark(enum.Enum):
    """What the bytes of one line of output were in the child's stream.

    ``FULL``: a line that ended with a newline. ``PART``: text that goes on in the stream's next
    line of output (a long line, or one that had no newline yet). ``OVER``: text that ended with
    a carriage return. ``NOTE``: words of the supervisor, not of the child.
    """

    FULL = "│"
    PART = "┆"
    OVER = "↻"
    NOTE = "·"

    @property
    def ending(self) -> bytes:
        """The bytes that followed the text in the stream."""
        return {Mark.FULL: b"\n", Mark.OVER: b"\r"}.get(self, b"")


class Carriage(enum.Enum):
    """What to do with carriage returns, that is with progress bars. CRLF is always kept."""

    KEEP = "keep"
    """Every state is a line of its own (``Mark.OVER``). Nothing is lost."""
    COLLAPSE = "collapse"
    """Off a terminal: a state every ``PROGRESS_S`` seconds, and always the last one."""
    LIVE = "live"
    """On a terminal: the state is drawn in place, and the last one stays."""


@dataclass(frozen=True, slots=True)
class Label:
    """Whose stream it is."""

    host: str
    role: str
    stream: str


class Formatter(Protocol):
    """What a pump asks of a format. Times are seconds of a steady clock."""

    live: bool
    """The unfinished line is to be drawn on a terminal (`state`) and not given out."""

    def feed(self, data: bytes, now: float) -> bytes:
        """Take a chunk; return what is ready to be written, often nothing."""

    def tick(self, now: float) -> bytes:
        """Return what has waited long enough."""

    def flush(self, now: float) -> bytes:
        """Return everything that is held; the stream is at its end."""

    def due_s(self, now: float) -> float | None:
        """Seconds until `tick` has something to say; None: not before the next `feed`."""

    def state(self) -> bytes:
        """The unfinished line as it is to be drawn on a terminal; empty when there is none."""

    def note(self, text: str) -> bytes:
        """A line of the supervisor's own words in this format; empty if it has no room for one."""


class Raw:
    """Byte-exact: what comes in goes out, at once."""

    live = False

    def feed(self, data: bytes, now: float) -> bytes:
        del now
        return data

    def tick(self, now: float) -> bytes:
        del now
        return b""

    def flush(self, now: float) -> bytes:
        del now
        return b""

    def due_s(self, now: float) -> float | None:
        del now
        return None

    def state(self) -> bytes:
        return b""

    def note(self, text: str) -> bytes:
        del text
        return b""


class Lines:
    """The part that `Prefix` and `Json` share: whole, half and long lines, carriage returns.

    ``carriage_in_text``: the format can hold a carriage return inside a text, so that keeping
    them needs no lines of their own.

    ``halves``: an unfinished line is given out when nothing has followed for ``IDLE_S``. Off where
    the writer is a supervisor whose lines have prefixes: it writes whole lines, and one that was
    held in the middle of a line (a full pipe, SIGSTOP, a busy machine) goes on without a prefix.
    """

    carriage_in_text = False

    def __init__(
        self,
        label: Label,
        *,
        carriage: Carriage = Carriage.COLLAPSE,
        max_line_bytes: int = LINE_BYTES,
        only: LineFilter | None = None,
        repeats: Repeats | None = None,
        clock: Callable[[], float] = time.time,
        halves: bool = True,
    ) -> None:
        if max_line_bytes < 8:
            raise ValueError(f"max_line_bytes must be 8 or more, not {max_line_bytes}")
        self.label = label
        self.live = carriage is Carriage.LIVE
        self._carriage = carriage
        self._split_carriage = not (self.carriage_in_text and carriage is Carriage.KEEP)
        self._max = max_line_bytes
        self._window = max_line_bytes // 2
        self._only = only
        self._repeats = repeats
        self._clock = clock
        self._halves = halves and only is None  # half a line cannot be judged
        self._held = b""  # the unfinished line, or the state of a progress bar
        self._open = False  # a PART or OVER piece of the unfinished line has been given out
        self._fed_at = 0.0
        self._progress = False  # _held is a state that the next one overwrites
        self._state_out: bytes | None = None  # the state that was given out last
        self._state_at = float("-inf")

    # ------------------------------------------------------------------ what a format adds

    def _frame(self, lines: bytes) -> bytes:
        """Format whole lines; ``lines`` ends with a newline."""
        raise NotImplementedError

    def _piece(self, text: bytes, mark: Mark) -> bytes:
        """Format one piece of text, which has no newline."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the Formatter

    def feed(self, data: bytes, now: float) -> bytes:
        self._fed_at = now
        end = data.rfind(b"\n") + 1
        if not end:
            self._held += data
            return b"" if not self._needs_care(self._held) else b"".join(self._reduce(now))
        lines = b"".join((self._held, memoryview(data)[:end])) if self._held else data[:end]
        was_open, self._open = self._open, False
        self._held = data[end:]
        self._progress = False
        self._state_out = None
        if was_open or self._repeats is not None or self._needs_care(lines):
            out = b"".join(self._carefully(lines, was_open=was_open, now=now))
        else:
            if self._only is not None:
                lines = self._only(lines)
            out = self._frame(lines) if lines else b""
        if self._held and self._needs_care(self._held):
            out += b"".join(self._reduce(now))
        return out

    def tick(self, now: float) -> bytes:
        out = b"".join(self._said(now)) if self._repeats is not None else b""
        if not self._held or self.live:
            return out
        idle = self._halves and now - self._fed_at >= IDLE_S
        if idle and self._held.endswith(b"\r") and self._carriage is Carriage.COLLAPSE:
            self._progress = True  # no newline has followed, so this is no CRLF
        if self._progress:
            if now - self._state_at >= PROGRESS_S:
                out += b"".join(self._show_state(now))
        elif idle:
            out += b"".join(self._give_half())
        return out

    def flush(self, now: float) -> bytes:
        pieces = []
        if self._held:
            held, self._held = self._held, b""
            if self._progress:
                held = _last_state(held)
            pieces += [self._piece(part, mark) for part, mark in self._cut(held, Mark.PART)]
            self._open, self._progress = True, False
        if self._repeats is not None:
            pieces += self._said(now, everything=True)
        return b"".join(pieces)

    def due_s(self, now: float) -> float | None:
        due = self._repeats.due_s(now) if self._repeats is not None else None
        if not self._held:
            return due
        if self.live:
            return due if self._held == self._state_out else LIVE_S
        if self._progress:
            if _last_state(self._held) == self._state_out:
                return due
            wait = self._state_at + PROGRESS_S - now
        elif not self._halves or _unfinished(self._held) == len(self._held):
            return due  # half a character: only more input, or the end, makes it worth a line
        else:
            wait = self._fed_at + IDLE_S - now
        wait = max(0.0, wait)
        return wait if due is None else min(due, wait)

    def state(self) -> bytes:
        self._state_out = self._held
        if not self._held:
            return b""
        text = _last_state(self._held) if b"\r" in self._held else self._held
        return self._piece(text, Mark.FULL)[:-1]

    def note(self, text: str) -> bytes:
        return self._piece(text.encode(errors="surrogateescape"), Mark.NOTE)

    # ------------------------------------------------------------------ the slow paths

    def _needs_care(self, lines: bytes) -> bool:
        """Whether a chunk has a carriage return to look at, or may have a line over the limit.

        A line longer than two windows covers at least one aligned window whole. So if every
        aligned window has a newline, no line is longer than ``max_line_bytes``.
        """
        if self._split_carriage and b"\r" in lines and lines.count(b"\r") != lines.count(b"\r\n"):
            return True
        window = self._window
        if len(lines) <= window:
            return False
        find = lines.find
        return any(
            find(b"\n", start, start + window) < 0
            for start in range(0, len(lines) - window + 1, window)
        )

    def _carefully(self, lines: bytes, *, was_open: bool, now: float) -> Iterator[bytes]:
        """Whole lines one by one. ``was_open``: pieces of the first one are already out."""
        if was_open:
            end = lines.find(b"\n")
            yield from self._line(lines[:end])
            lines = lines[end + 1 :]
        if self._only is not None:
            lines = self._only(lines)
        if not lines:
            return
        if self._repeats is not None:
            yield from self._said(now)
        elif not self._needs_care(lines):
            yield self._frame(lines)
            return
        for line in lines[:-1].split(b"\n"):
            if self._repeats is None or self._repeats.admit(line, now):
                yield from self._line(line)
            elif self._repeats.crowded:
                yield from self._said(now)

    def _line(self, line: bytes) -> Iterator[bytes]:
        """One whole line, without its newline."""
        if self._split_carriage and b"\r" in line:
            crlf = line.endswith(b"\r")
            if self._carriage is Carriage.KEEP:
                states = line[: len(line) - crlf].split(b"\r")
                for text in states[:-1]:
                    for part, mark in self._cut(text, Mark.OVER):
                        yield self._piece(part, mark)
                last = states[-1]
            else:
                last = _last_state(line)
            line = last + b"\r" if crlf else last
        for part, mark in self._cut(line, Mark.FULL):
            yield self._piece(part, mark)

    def _cut(self, text: bytes, last: Mark) -> Iterator[tuple[bytes, Mark]]:
        """Cut a text into pieces of at most ``max_line_bytes``, between characters."""
        start = 0
        while len(text) - start > self._max:
            end = start + self._max
            end -= _unfinished(text[end - 4 : end])
            yield text[start:end], Mark.PART
            start = end
        yield text[start:] if start else text, last

    def _reduce(self, now: float) -> Iterator[bytes]:
        """Make the unfinished line small again: give out or drop what need not be held."""
        if self._split_carriage and b"\r" in self._held:
            if self._carriage is Carriage.KEEP:
                # the last one is held: it may be the first half of a CRLF
                *states, rest = self._held.split(b"\r")
                if not rest:
                    rest = states.pop() + b"\r"
                for text in states:
                    for part, mark in self._cut(text, Mark.OVER):
                        yield self._piece(part, mark)
                    self._open = True
                self._held = rest
            elif self._held.find(b"\r") < len(self._held) - 1 or self._progress:
                # not one return at the very end: that may be the first half of a CRLF
                self._progress = True
                last = _last_state(self._held)
                self._held = last + b"\r" if self._held.endswith(b"\r") else last
                if not self.live and now - self._state_at >= PROGRESS_S:
                    yield from self._show_state(now)
        if len(self._held) > self._max:
            *parts, (rest, _) = self._cut(self._held, Mark.PART)
            for part, mark in parts:
                yield self._piece(part, mark)
            self._open, self._held = True, rest

    def _show_state(self, now: float) -> Iterator[bytes]:
        """Off a terminal: the state of a progress bar as a line; it is held on as the last."""
        state = _last_state(self._held)
        if state and state != self._state_out:
            self._state_out, self._state_at = state, now
            for part, mark in self._cut(state, Mark.OVER):
                yield self._piece(part, mark)

    def _give_half(self) -> Iterator[bytes]:
        """The unfinished line so far, except half a character at its end."""
        split = len(self._held) - _unfinished(self._held[-4:])
        text, self._held = self._held[:split], self._held[split:]
        if not text:
            return
        self._open = True
        if self._split_carriage and text.endswith(b"\r"):
            yield from (self._piece(*piece) for piece in self._cut(text[:-1], Mark.OVER))
        else:
            yield from (self._piece(*piece) for piece in self._cut(text, Mark.PART))

    def _said(self, now: float, *, everything: bool = False) -> Iterator[bytes]:
        assert self._repeats is not None
        for line, count in self._repeats.closed(now, everything=everything):
            quoted = line[:_QUOTED_BYTES].replace(b"\r", b" ")
            if len(line) > _QUOTED_BYTES:
                quoted = quoted[: len(quoted) - _unfinished(quoted[-4:])] + "…".encode()
            times = b"once" if count == 1 else b"%d times" % count
            yield self._piece(b"repeated %s: %s" % (times, quoted), Mark.NOTE)


class Prefix(Lines):
    """Whole lines with a prefix: ``algo-2 ps │ …``.

    ``template`` may name ``{host}``, ``{role}``, ``{stream}``, ``{time}`` (UTC, when the line
    was read) and ``{mark}`` (a `Mark`'s sign), with format specifications for width
    (``{role:<8}``). Where it has no ``{mark}``, the sign stands after the text of lines that
    are not ``FULL``, and such output cannot always be decoded. The empty template gives whole
    lines as they are; it serves to merge outputs that have their prefix already.

    ``colour`` is the parameter of an ANSI "select graphic rendition" sequence, such as ``36``;
    it colours the prefix alone.

    Raises ValueError for a template with an unknown field, a newline, or bad syntax.
    """

    def __init__(
        self,
        label: Label,
        template: str = DEFAULT_TEMPLATE,
        *,
        colour: int | None = None,
        carriage: Carriage = Carriage.COLLAPSE,
        max_line_bytes: int | None = None,
        only: LineFilter | None = None,
        repeats: Repeats | None = None,
        clock: Callable[[], float] = time.time,
        halves: bool = True,
    ) -> None:
        fields = template_fields(template)
        if max_line_bytes is None:
            max_line_bytes = LINE_BYTES if template else MERGE_LINE_BYTES
        super().__init__(
            label,
            carriage=carriage,
            max_line_bytes=max_line_bytes,
            only=only,
            repeats=repeats,
            clock=clock,
            halves=halves,
        )
        self._template = template
        self._timed = "time" in fields
        self._marked = "mark" in fields
        self._colour = colour
        self._prefixes: dict[Mark, bytes] = {}

    def _prefix(self, mark: Mark) -> bytes:
        prefix = self._prefixes.get(mark)
        if prefix is None:
            text = self._template.format(
                host=self.label.host,
                role=self.label.role,
                stream=self.label.stream,
                time=stamp(self._clock()) if self._timed else "",
                mark=mark.value,
            )
            if self._colour is not None and text:
                # 0 first: a colour that the child's line left on ends here
                text = f"\x1b[0;{self._colour}m{text}\x1b[0m"
            prefix = text.encode(errors="surrogateescape")
            if not self._timed:
                self._prefixes[mark] = prefix
        return prefix

    def _frame(self, lines: bytes) -> bytes:
        prefix = self._prefix(Mark.FULL)
        if not prefix:
            return lines
        # the last newline gets a prefix too many, and a view costs less than a copy without it
        with_one_more = memoryview(lines.replace(b"\n", b"\n" + prefix))
        return b"".join((prefix, with_one_more[: -len(prefix)]))

    def _piece(self, text: bytes, mark: Mark) -> bytes:
        sign = b"" if self._marked or mark is Mark.FULL else b" " + mark.value.encode()
        return b"".join((self._prefix(mark), text, sign, b"\n"))


class Json(Lines):
    """One JSON object a line, UTF-8: ``time``, ``host``, ``role``, ``stream``, ``text``.

    ``"partial": true`` says that no newline followed the text in the stream: the text goes on
    in the stream's next object. Where the bytes are not UTF-8, ``text`` has U+FFFD in their
    place and ``base64`` holds the bytes themselves; lone surrogates would be as exact, but many
    readers refuse them (RFC 8259, section 8.2). ``"note": true`` marks words of the supervisor.
    """

    carriage_in_text = True

    def __init__(
        self,
        label: Label,
        *,
        carriage: Carriage = Carriage.COLLAPSE,
        max_line_bytes: int = LINE_BYTES,
        only: LineFilter | None = None,
        repeats: Repeats | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            label,
            carriage=carriage,
            max_line_bytes=max_line_bytes,
            only=only,
            repeats=repeats,
            clock=clock,
        )
        if carriage is Carriage.LIVE:
            raise ValueError("JSON is for programs; it has no lines that are drawn in place")
        names = (("host", label.host), ("role", label.role), ("stream", label.stream))
        self._names = b",".join(
            b'"%s":"%s"' % (key.encode(), json_escaped(value.encode(errors="replace")))
            for key, value in names
        )

    def _head(self) -> bytes:
        return b'{"time":"%s",%s,"text":"' % (stamp(self._clock()).encode(), self._names)

    def _frame(self, lines: bytes) -> bytes:
        head = self._head()
        if not _is_utf8(lines):
            return b"".join(_json_piece(head, line, b"") for line in lines[:-1].split(b"\n"))
        # newlines are the only control characters that are left, so replacing them is exact
        body = json_escaped(lines[:-1]).replace(b"\n", b'"}\n' + head)
        return b"".join((head, body, b'"}\n'))

    def _piece(self, text: bytes, mark: Mark) -> bytes:
        if mark is Mark.OVER:
            text += b"\r"
        return _json_piece(self._head(), text, _JSON_MARKS[mark])


_JSON_MARKS = {
    Mark.FULL: b"",
    Mark.PART: b',"partial":true',
    Mark.OVER: b',"partial":true',
    Mark.NOTE: b',"note":true',
}


def _json_piece(head: bytes, text: bytes, tail: bytes) -> bytes:
    if not _is_utf8(text):
        tail = b',"base64":"%s"%s' % (base64.b64encode(text), tail)
        text = text.decode(errors="replace").encode()
    return b'%s%s"%s}\n' % (head, json_escaped(text), tail)


# --------------------------------------------------------------------------- small parts

_FIELDS = ("host", "role", "stream", "time", "mark")


def template_fields(template: str) -> frozenset[str]:
    """The fields that a prefix template names.

    Raises ValueError for an unknown field, a newline or bad syntax.
    """
    allowed = ", ".join(f"{{{name}}}" for name in _FIELDS)
    if "\n" in template or "\r" in template:
        raise ValueError(f"the prefix template {template!r} must be one line")
    try:
        parsed = list(string.Formatter().parse(template))
        template.format(**dict.fromkeys(_FIELDS, ""))
    except (ValueError, LookupError, AttributeError) as error:
        raise ValueError(
            f"the prefix template {template!r} cannot be used ({error}); it may name {allowed}"
        ) from error
    fields = frozenset(name for _, name, _, _ in parsed if name is not None)
    for name in sorted(fields):
        if name not in _FIELDS:
            raise ValueError(
                f"the prefix template {template!r} names {{{name}}}; it may name {allowed}"
            )
    return fields


def colour_of(name: str) -> int:
    """An ANSI colour for a name, the same in every run: one of those that are readable and mean no
    alarm, as red and yellow do."""
    palette = (36, 32, 35, 34, 96, 92, 95, 94)
    return palette[zlib.crc32(name.encode(errors="surrogateescape")) % len(palette)]


_second = (-1, "")


def stamp(seconds: float) -> str:
    """``2025-01-31T12:00:00.123Z`` for seconds since the epoch."""
    global _second  # noqa: PLW0603 - strftime costs more than the rest; once a second is enough
    whole = int(seconds)
    last = _second
    if last[0] != whole:
        last = _second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    return f"{last[1]}.{int((seconds - whole) * 1000):03d}Z"


# The backslash first, so that no escape is escaped again.
_ESCAPES = [
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\t", b"\\t"),
    (b"\r", b"\\r"),
    *((bytes([c]), b"\\u%04x" % c) for c in range(0x20) if c not in b"\t\n\r"),
]
# Line ends to some readers (str.splitlines): NEL, LINE SEPARATOR, PARAGRAPH SEPARATOR.
_WIDE_ESCAPES = [(chr(c).encode(), b"\\u%04x" % c) for c in (0x85, 0x2028, 0x2029)]
_ESCAPE_OF = dict(_ESCAPES + _WIDE_ESCAPES)
_ESCAPED = re.compile(b"|".join(re.escape(char) for char in _ESCAPE_OF))
_SHORT_BYTES = 8192


def json_escaped(text: bytes) -> bytes:
    """The inside of a JSON string (RFC 8259, section 7) for UTF-8; newlines are left alone."""
    if len(text) < _SHORT_BYTES:
        return _ESCAPED.sub(_escape_of, text)
    # In a long text a search for one byte costs next to nothing, and looking for each in turn
    # is several times faster than a pattern, or than json's encoder.
    for char, escape in _ESCAPES:
        if char in text:
            text = text.replace(char, escape)
    for char, escape in _WIDE_ESCAPES:
        if char[:1] in text:
            text = text.replace(char, escape)
    return text


def _escape_of(found: re.Match[bytes]) -> bytes:
    return _ESCAPE_OF[found[0]]


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _last_state(text: bytes) -> bytes:
    """What a terminal would show of a line with carriage returns: the last text that is one."""
    return text.rstrip(b"\r").rpartition(b"\r")[2]


def _unfinished(text: bytes) -> int:
    """How many bytes at the end of ``text`` begin a UTF-8 character that is not complete."""
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte & 0xC0 == 0x80:  # a continuation byte: its first byte is further left
            continue
        if byte >= 0xC2:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF5 else 1
            return back if back < need else 0
        return 0
    return 0
