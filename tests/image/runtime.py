#!/usr/bin/env python3
"""runc for machines that are containers themselves: without limits that cannot be raised there.

podman asks for more open files and processes than it has itself, and for an ``oom_score_adj``
below its own, which needs rights that root in a container does not have. Everything else is runc's.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

LIMITS: Final = ("rlimits", "oomScoreAdj")


def without_limits(path: str, *, whole: bool) -> None:
    """Of a container's ``config.json``, or of one process that is to run in it."""
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    process = found["process"] if whole else found
    for name in LIMITS:
        process.pop(name, None)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(found, file)


def value(arguments: Sequence[str], *names: str) -> str | None:
    """Of an option, in either of its spellings."""
    for at, word in enumerate(arguments[:-1]):
        if word in names:
            return arguments[at + 1]
    found = (word.partition("=") for word in arguments)
    return next((text for name, _, text in found if name in names and text), None)


def main(arguments: Sequence[str]) -> NoReturn:
    if bundle := value(arguments, "--bundle", "-b"):
        without_limits(os.path.join(bundle, "config.json"), whole=True)
    if "exec" in arguments and (process := value(arguments, "--process", "-p")):
        without_limits(process, whole=False)
    runc = shutil.which("runc") or "/usr/sbin/runc"
    os.execv(runc, ["runc", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
