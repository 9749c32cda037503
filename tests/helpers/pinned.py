"""The versions that this environment has of what the package needs, as a constraints file of pip.

    python -m tests.helpers.pinned FILE     of what was just tested; the gate calls it

The Dockerfile installs by that file, so that an image built next year holds what the tests held. It
names the distributions that ``pip install .`` brings, with those that they bring themselves, and
none of the tests' own. What another Python or another processor would need besides, by a marker, is
not in this environment and so is left to pip there; so are pip's own tools, which came with this
environment's Python and may be too old for another one.

The file is replaced where it says something else, and one line tells. The exit code is 0 for both.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import sys
from collections.abc import Mapping
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAME: Final = "supervisor-tensorflow"
TOOLS: Final = frozenset({"pip", "setuptools", "wheel"})


def needed(name: str) -> dict[str, str]:
    """Canonical name → version of all that the distribution ``name`` needs here, itself aside."""
    found: dict[str, str] = {}
    waiting = {(name, "")}
    asked = set(waiting)
    while waiting:
        this, extra = waiting.pop()
        for line in importlib.metadata.requires(this) or ():
            wanted = Requirement(line)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
                continue
            each = canonicalize_name(wanted.name)
            found[each] = importlib.metadata.version(each)
            steps = {(each, ""), *((each, inner) for inner in wanted.extras)} - asked
            asked |= steps
            waiting |= steps
    return found


def constraints(versions: Mapping[str, str]) -> str:
    """Local versions, ``2.21.0+cpu``, are one index's own: without them every index has a match."""
    return "".join(
        f"{name}=={version.partition('+')[0]}\n"
        for name, version in sorted(versions.items())
        if name not in TOOLS
    )


def main(path: pathlib.Path) -> None:
    tested = constraints(needed(NAME))
    python = ".".join(platform.python_version_tuple()[:2])
    text = (
        "# Made by .ci/run: what the package needs, in the versions that were tested last. The\n"
        f"# Dockerfile installs these. Python {python}, {platform.machine()}.\n{tested}"
    )
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    pinned = [line for line in before.splitlines(keepends=True) if not line.startswith("#")]
    if "".join(pinned) == tested:
        print(f"{path}: these are the versions that were tested")
        return
    path.write_text(text, encoding="utf-8")
    changed = sorted(set(tested.splitlines()) - set("".join(pinned).splitlines()))
    print(f"{path}: other versions were tested, and it names them now: {', '.join(changed)}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
