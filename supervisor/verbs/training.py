"""What is told of a host's training, from its ``/status`` or its report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from supervisor.streams.sentences import first_step
from supervisor.training import telling
from supervisor.verbs.words import mapping, mappings, number, plain

Said = Mapping[str, Any]


def progress(said: Said) -> str:
    """How far it is, in one line; nothing where nothing was seen."""
    return plain(telling.progress(mapping(said.get("progress"))))


def startup(said: Said) -> str:
    """How long the first attempt took to its first step, and from what."""
    rows = mappings(said.get("startups"))
    return plain(first_step(rows[0])) if rows and number(rows[0].get("seconds")) else ""


def ledger(said: Said) -> tuple[str, ...]:
    """What was gained and what was lost, once a step was seen in this run or one before it."""
    row = mapping(said.get("ledger"))
    seen = any(mapping(row.get(key)).get("goodput") is not None for key in ("run", "all"))
    return tuple(plain(line) for line in telling.ledger(row)) if seen else ()


def saves(said: Said) -> str:
    """How long a save takes, and how often to save, as far as it is known."""
    row = mapping(said.get("saves"))
    save_s, every_s, best_s = (number(row.get(key)) for key in ("save_s", "every_s", "best_s"))
    if save_s is None:
        return ""
    words = [f"a save takes {telling.rough(save_s) if save_s >= 0.05 else 'less than 0.1 s'}"]
    if every_s is not None and best_s is not None:
        words.append(f"one every {telling.rough(every_s)}")
        words.append(f"by the failures so far every {telling.rough(best_s)} would be best")
    return ", ".join(words)


def now(said: Said) -> Iterator[str]:
    """For who looks on."""
    yield from filter(None, (progress(said), *ledger(said), startup(said), saves(said)))


def end(said: Said) -> Iterator[str]:
    """For the end, where there is something to say."""
    failed = said.get("outcome") == "failed"
    if telling.is_worth_it(mapping(said.get("ledger")), failed=failed):
        yield from filter(None, (*ledger(said), startup(said)))
