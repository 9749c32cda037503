"""``supervisor schema``: the JSON schemas of what tools read of us, and of what people write."""

from __future__ import annotations

import os
import sys
from typing import Final

from supervisor.faults import shown

WHAT_THEY_DESCRIBE: Final = {
    "report": "output/supervisor/report.json, what a run leaves behind on each host",
    "status": "the answer to GET /status on the status port",
    "supervisorconfig": "input/config/supervisorconfig.json",
}
"""By name, that of a file of ``supervisor/schemas``."""

_DIRECTORY: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "schemas")


def text_of(name: str) -> str:
    """One of the schemas (draft 2020-12), as its file has it."""
    with open(os.path.join(_DIRECTORY, f"{name}.json"), encoding="utf-8") as file:
        return file.read()


def show(name: str | None) -> int:
    """Print the schema of that name, or which there are; 0, or 2 for a name that is none."""
    if name is None:
        for each, what in WHAT_THEY_DESCRIBE.items():
            print(f"{each:<16}  {what}")
        return 0
    if name not in WHAT_THEY_DESCRIBE:
        from difflib import get_close_matches  # noqa: PLC0415  # for a slip alone

        nearest = get_close_matches(name, WHAT_THEY_DESCRIBE, n=1, cutoff=0)
        there = ", ".join(WHAT_THEY_DESCRIBE)
        print(
            f"supervisor schema: no schema {shown(name)}; did you mean {nearest[0]}? There are "
            f"{there}",
            file=sys.stderr,
        )
        return 2
    print(text_of(name), end="")
    return 0
