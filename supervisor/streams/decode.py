"""From written output back to the bytes that the children wrote.

Exact for output that was written with ``Carriage.KEEP`` and no filter, and whose template names
``{mark}``; ``Carriage.COLLAPSE`` and filters leave things out on purpose, and nothing else.
"""

from __future__ import annotations

import base64
import json
import re
import string
import warnings
from collections.abc import Iterator

from supervisor.streams.formats import DEFAULT_TEMPLATE, Label, Mark, template_fields


def decode_json(output: bytes) -> dict[Label, bytes]:
    """The bytes of each stream in an output of `Json`.

    A line that is none of such an output is left out, with a warning (``DecodeWarning``) that says
    where it is.
    """
    streams: dict[Label, bytearray] = {}
    for number, line in _lines(output):
        try:
            record = json.loads(line)
            if record.get("note") or "event" in record:  # words of the supervisor
                continue
            label = Label(record["host"], record["role"], record["stream"])
            text = record["text"].encode()
            if "base64" in record:
                text = base64.b64decode(record["base64"])
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            _left_out(number, line, "is no object of this format")
            continue
        stream = streams.setdefault(label, bytearray())
        stream += text if record.get("partial") else text + b"\n"
    return {label: bytes(stream) for label, stream in streams.items()}


def decode_prefix(output: bytes, template: str = DEFAULT_TEMPLATE) -> dict[Label, bytes]:
    """The bytes of each stream in an output of `Prefix`, coloured or not.

    Fields that the template does not name are empty in the labels. A line that does not fit the
    template is left out, with a warning (``DecodeWarning``) that says where it is.

    Raises ValueError for a template without ``{mark}``.
    """
    if "mark" not in template_fields(template):
        raise ValueError(f"the template {template!r} has no {{mark}}: its output has no way back")
    marks = {mark.value.encode(): mark for mark in Mark}
    pattern = _pattern(template)
    streams: dict[Label, bytearray] = {}
    text, prefix, ending = bytearray(), b"", b""
    for number, line in _lines(output):
        # most lines have the prefix of the line before them, and a match is slow
        if prefix and line.startswith(prefix):
            text += line[len(prefix) :] + ending
            continue
        found = pattern.match(line)
        if found is None:
            _left_out(number, line, f"does not begin with {template!r}")
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
    return {label: bytes(text) for label, text in streams.items()}


class DecodeWarning(UserWarning):
    """A line that could not be given back to the stream that it came from."""


def _left_out(number: int, line: bytes, why: str) -> None:
    text = f"line {number}, {line[:80]!r}, {why}: it is left out"
    warnings.warn(text, DecodeWarning, stacklevel=3)


def _lines(output: bytes) -> Iterator[tuple[int, bytes]]:
    """Every line, without its newline, and its number. A last one without a newline was cut."""
    *lines, rest = output.split(b"\n")
    yield from enumerate(lines, 1)
    if rest:
        _left_out(len(lines) + 1, rest, "was cut")


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
