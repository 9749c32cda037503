"""From written output back to the bytes that the children wrote.

Exact for output that was written with ``Carriage.KEEP`` and no filter, and whose template names
``{mark}``; ``Carriage.COLLAPSE`` and filters leave things out on purpose, and nothing else.

A line that is none of ours (another program's, one torn by a crash) costs that line and not the
output: it is named, with its place, and left out.
"""

from __future__ import annotations

import base64
import json
import re
import string
from dataclasses import dataclass
from typing import Final

from supervisor.streams.formats import DEFAULT_TEMPLATE, Label, Mark, template_fields

_QUOTED: Final = 80


@dataclass(frozen=True, slots=True)
class Stray:
    """A line of an output that could not be read."""

    line: int
    """Counted from 1."""
    offset: int
    """Of its first byte."""
    text: bytes
    """Its first 80 bytes."""
    why: str

    def __str__(self) -> str:
        return f"line {self.line} (byte {self.offset}): {self.why}: {self.text!r}"


class Decoded(dict[Label, bytes]):
    """The bytes of each stream, and the lines that belong to none."""

    def __init__(self, streams: dict[Label, bytearray], strays: list[Stray]) -> None:
        super().__init__((label, bytes(stream)) for label, stream in streams.items())
        self.strays = tuple(strays)


def decode_json(output: bytes) -> Decoded:
    """The bytes of each stream in an output of `Json`."""
    streams: dict[Label, bytearray] = {}
    strays: list[Stray] = []
    offset = 0
    for number, line in enumerate(_lines(output), 1):
        try:
            record = json.loads(line)
            if not (record.get("note") or "event" in record):  # words of the supervisor
                label = Label(record["host"], record["role"], record["stream"])
                text = record["text"].encode()
                if "base64" in record:
                    text = base64.b64decode(record["base64"])
                stream = streams.setdefault(label, bytearray())
                stream += text if record.get("partial") else text + b"\n"
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            strays.append(Stray(number, offset, line[:_QUOTED], "no object of ours"))
        offset += len(line) + 1
    return Decoded(streams, strays)


def decode_prefix(output: bytes, template: str = DEFAULT_TEMPLATE) -> Decoded:
    """The bytes of each stream in an output of `Prefix`, coloured or not.

    Fields that the template does not name are empty in the labels. Raises ValueError for a
    template without ``{mark}``.
    """
    if "mark" not in template_fields(template):
        raise ValueError(f"the template {template!r} has no {{mark}}: its output has no way back")
    marks = {mark.value.encode(): mark for mark in Mark}
    pattern = _pattern(template)
    streams: dict[Label, bytearray] = {}
    strays: list[Stray] = []
    text, prefix, ending = bytearray(), b"", b""
    offset = 0
    for number, line in enumerate(_lines(output), 1):
        at, offset = offset, offset + len(line) + 1
        # most lines have the prefix of the line before them, and a match is slow
        if prefix and line.startswith(prefix):
            text += line[len(prefix) :] + ending
            continue
        found = pattern.match(line)
        if found is None:
            strays.append(Stray(number, at, line[:_QUOTED], f"does not begin with {template!r}"))
            continue
        groups = found.groupdict()
        mark = marks[groups["mark"]]
        if mark is Mark.NOTE:
            continue
        prefix, ending = found[0], mark.ending
        host, role, stream = (
            (groups.get(name) or b"").decode(errors="surrogateescape").strip()
            for name in ("host", "role", "stream")
        )
        text = streams.setdefault(Label(host, role, stream), bytearray())
        text += line[len(prefix) :] + ending
    if output and not output.endswith(b"\n"):
        # Of a line that was cut nobody knows how it went on.
        if text and ending and prefix and line.startswith(prefix):
            del text[-len(ending) :]
        strays.append(Stray(number, at, line[:_QUOTED], "the output ends in the middle of it"))
    return Decoded(streams, strays)


def _lines(output: bytes) -> list[bytes]:
    return output.removesuffix(b"\n").split(b"\n") if output else []


def _pattern(template: str) -> re.Pattern[bytes]:
    parts = [rb"(\x1b\[0;\d+m)?"]
    seen: set[str] = set()
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal.encode()))
        if name is None:
            continue
        if name == "mark":
            group = b"|".join(re.escape(mark.value.encode()) for mark in Mark)
        else:
            group = rb" *[^ \n]*? *"
        parts.append(
            rb"(?P=%s)" % name.encode() if name in seen else rb"(?P<%s>%s)" % (name.encode(), group)
        )
        seen.add(name)
    parts.append(rb"(?(1)\x1b\[0m)")  # what follows an uncoloured prefix is the child's
    return re.compile(b"".join(parts))
