"""Bad input, said once and whole: where, which key, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_FOUND_LIMIT = 120


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
