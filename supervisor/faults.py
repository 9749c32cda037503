"""Bad input, said once and whole: where, which key, what was found, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_FOUND_LIMIT = 120
_NUMBER = re.compile(r"\[errno -?\d+\] ", re.IGNORECASE)
"""How Python's own text of an OSError begins, also where it quotes another one."""


def in_words(error: Exception) -> str:
    """What went wrong, for a sentence of ours that names the file: no number, never empty."""
    text = error.strerror if isinstance(error, OSError) else None
    return without_number(text or str(error)) or type(error).__name__


def without_number(text: str) -> str:
    """Python's text of an error, in one line and without its ``[Errno 98]``."""
    return " ".join(_NUMBER.sub("", text).split())


_SPACES = "\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""Blanks that ``str.isprintable`` refuses."""


def safe(text: str) -> str:
    r"""``text`` as one line that a terminal shows and does not obey.

    What is no printable character is written as Python escapes it, ``\x1b``, ``\n``,
    ``\u202e``: controls of both ranges (C0, C1), line ends of every kind, and the format
    characters of Unicode, which hide or reorder text (Trojan Source, CVE-2021-42574).
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _SPACES else c.encode("unicode_escape").decode() for c in text
    )


def safe_lines(text: str) -> str:
    """The same for a text of several lines; tabs stay too."""
    if text.isprintable():
        return text
    return "\n".join("\t".join(map(safe, line.split("\t"))) for line in text.split("\n"))


def safe_json(document: str) -> str:
    """The same for a JSON document, as JSON escapes it: its meaning stays."""
    if document.isprintable():
        return document
    return "".join(
        c if c.isprintable() or c == "\n" or c in _SPACES else _json_escape(c) for c in document
    )


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def shown(value: object) -> str:
    """``value`` as it stands in a message: its repr, bounded."""
    text = repr(value)
    return text if len(text) <= _FOUND_LIMIT else text[: _FOUND_LIMIT - 1] + "…"


def counted(count: int, noun: str) -> str:
    """``1 host``, ``2 hosts``; of a noun whose plural ends in ``s``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the input."""

    source: str
    """The file, or ``environment``, or ``command line``."""
    key: str
    """The key inside it; empty when the whole source is at fault."""
    found: str
    expected: str
    """What is allowed, and the remedy where there is one."""

    def __str__(self) -> str:
        where = f"{self.source}: {self.key}" if self.key else self.source
        return f"{where}: found {self.found}; expected {self.expected}"


class ContractError(Exception):
    """The platform's files or settings are unusable. Holds all faults, not only the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))
