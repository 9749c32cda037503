"""From which checkpoint the hosts of a job begin: whether it is the same one. Pure.

Each host fetches for itself, before they join, so that they may come to hold different ones: one
was restarted in place and has files of its own, another is a new machine; a straggler of an earlier
attempt published a checkpoint between their looks. A collective then joins hosts of different
epochs. So each host says what its directory holds (``Held``), and the master compares.

The truth is the newest checkpoint that some host holds whole, else the newest that one has seen at
the place: all of it can be had by every host. Files of a host's own cannot, and are moved aside.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

_SHOWN: Final = 8
"""Hosts that a sentence names, for each thing that is held."""


class Kind(enum.StrEnum):
    NOTHING = "nothing"
    GENERATION = "generation"
    """All of it, and nothing else; restored or found."""
    OBJECTS = "objects"
    """What lies at the place without a manifest."""
    FILES = "files"
    """Of its own."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a host's checkpoint directory holds when everything is fetched."""

    kind: Kind
    mark: str = ""
    """The generation; of others a digest of their names, sizes and times."""
    newest: str = ""
    """The newest generation that was seen at the place, where the host does not hold one."""

    def __str__(self) -> str:
        """As it travels."""
        return " ".join((self.kind.value, self.mark or "-", self.newest or "-"))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None where ``text`` says nothing: nothing is to be restored there."""
        try:
            kind, mark, newest = text.split(" ")
            return cls(Kind(kind), mark.strip("-"), newest.strip("-"))
        except ValueError:
            return None

    @property
    def words(self) -> str:
        match self.kind:
            case Kind.NOTHING:
                return "no checkpoint"
            case Kind.GENERATION:
                return f"checkpoint {self.mark}"
            case Kind.OBJECTS:
                return "files without a manifest"
            case Kind.FILES:
                return f"files of its own ({self.mark})"


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a comparison finds."""

    same: bool
    restore: str = ""
    """The generation that all are to hold; empty where there is none."""
    words: str = ""
    """Which hosts hold what, where they differ."""


def compare(told: Mapping[str, str], *, own_lines: bool) -> Agreement:
    """``told``: what each host says; who says nothing is not compared.

    ``own_lines``: each host has generations of its own, whose numbers say nothing of each other:
    then all hold something, or none does.
    """
    held = _parsed(told)
    marks: set[object] = {
        each.kind is Kind.NOTHING if own_lines else (each.kind, each.mark) for each in held.values()
    }
    if len(marks) <= 1:
        return Agreement(same=True)
    generations = [each.mark for each in held.values() if each.kind is Kind.GENERATION]
    seen = generations or [each.newest for each in held.values() if each.newest]
    newest = "" if own_lines else max(seen, key=_order, default="")
    return Agreement(same=False, restore=newest, words=_words(held))


def differing(told: Mapping[str, str], generation: str) -> list[str]:
    """Who does not hold it, of those who say anything."""
    wanted = (Kind.GENERATION, generation)
    return [host for host, each in _parsed(told).items() if (each.kind, each.mark) != wanted]


def _parsed(told: Mapping[str, str]) -> dict[str, Held]:
    return {host: known for host, text in told.items() if (known := Held.parse(text))}


def _order(generation: str) -> tuple[int, str]:
    number = generation.partition("-")[0]
    return (int(number) if number.isdecimal() else -1), generation


def _words(held: Mapping[str, Held]) -> str:
    """``algo-1, algo-2: checkpoint 000012-…; algo-3: no checkpoint``."""
    hosts: dict[str, list[str]] = {}
    for host, each in held.items():
        hosts.setdefault(each.words, []).append(host)
    rows = []
    for words, names in list(hosts.items())[:_SHOWN]:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        rows.append(f"{', '.join(names[:_SHOWN])}{more}: {words}")
    if len(hosts) > _SHOWN:
        rows.append(f"{len(hosts) - _SHOWN} further kinds")
    return "; ".join(rows)
