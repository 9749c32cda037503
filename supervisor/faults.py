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


def shown(value: object) -> str:
    """``value`` as it stands in a message: its repr, bounded."""
    text = repr(value)
    return text if len(text) <= _FOUND_LIMIT else text[: _FOUND_LIMIT - 1] + "…"


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
