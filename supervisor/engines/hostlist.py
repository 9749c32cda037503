"""Slurm's compressed host lists: ``n[08-11,14],gpu[1-2]-[0-1].site`` → names. Pure.

https://slurm.schedmd.com/slurm.conf.html, "Multiple node names"; ``scontrol show hostnames`` does
the same.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Final

MOST_HOSTS: Final = 100_000
"""A list that means more is a slip: ``n[1-99999999]`` is not to take all memory."""
_RANGE: Final = r"(\d+)(?:-(\d+))?"


def expand(text: str) -> tuple[str, ...]:
    """The names in the order of the list; raises ValueError whose text says what is wrong."""
    names: list[str] = []
    for pattern in _split(text):
        for name in _expanded(pattern):
            names.append(name)
            if len(names) > MOST_HOSTS:
                raise ValueError(f"at most {MOST_HOSTS} hosts")
    if not names or not all(names):
        raise ValueError("names of hosts with commas between them, such as n[1-3] or a,b")
    return tuple(names)


def _split(text: str) -> list[str]:
    """At the commas that stand in no brackets."""
    parts, depth = [""], 0
    for letter in text.strip():
        if letter == "[":
            depth += 1
        elif letter == "]":
            depth -= 1
        if depth not in {0, 1}:
            raise ValueError("brackets that are closed and hold none, such as n[1-3,5]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise ValueError("brackets that are closed and hold none, such as n[1-3,5]")
    return [part.strip() for part in parts]


def _expanded(pattern: str) -> Iterator[str]:
    """With several brackets the last one turns fastest."""
    pieces = re.split(r"\[([^\]]*)\]", pattern)
    fixed, ranges = pieces[::2], pieces[1::2]
    for numbers in itertools.product(*map(_numbers, ranges)):
        yield "".join(itertools.chain(*itertools.zip_longest(fixed, numbers, fillvalue="")))


def _numbers(ranges: str) -> list[str]:
    """``08-11,14`` → ``08``, ``09``, ``10``, ``11``, ``14``: the width stays."""
    found = []
    for part in ranges.split(","):
        match = re.fullmatch(_RANGE, part.strip(), re.ASCII)
        first, last = match.groups() if match else ("", "")
        last = last or first
        if not match or len(last) > 9 or int(last) < int(first):
            raise ValueError(f"numbers and ranges of them in brackets, not {part.strip()!r}")
        if int(last) - int(first) >= MOST_HOSTS:
            raise ValueError(f"at most {MOST_HOSTS} hosts")
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return found
