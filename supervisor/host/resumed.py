"""Which checkpoint a run finds in its directory: the newest that is complete."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from supervisor.storage import snapshot, watch
from supervisor.storage.snapshot import Fact
from supervisor.storage.watch import Scan

MOST_FILES: Final = 5000


class Newest(NamedTuple):
    """A complete checkpoint."""

    path: str
    """A bundle's prefix where TensorFlow wrote it, else a file."""
    written_ns: int
    parts: tuple[Fact, ...]
    """What belongs to it; the last one was written last."""

    @property
    def is_bundle(self) -> bool:
        return self.parts[-1].path.endswith(".index")


def newest(directory: str, before_ns: int) -> str:
    """Its path: a bundle's prefix where TensorFlow wrote it, else a file. Empty: there is none.

    ``before_ns``: what is younger this run has written. Looks at a bounded number of files. Blocks.
    """
    return newest_with_time(directory, before_ns)[0]


def newest_with_time(directory: str, before_ns: int) -> tuple[str, int]:
    """The same, and when it was written, in nanoseconds; ``("", 0)`` where there is none."""
    try:
        found = watch.scan(directory, most=MOST_FILES)
    except OSError:
        return "", 0
    last = newest_of(directory, found, before_ns)
    return (last.path, last.written_ns) if last else ("", 0)


def newest_of(directory: str, found: Scan, before_ns: int) -> Newest | None:
    """The same, of what was found there."""
    facts = [
        fact
        for fact in found.facts
        if fact.mtime_ns < before_ns and not fact.hollow and not snapshot.temporary(fact.path)
    ]
    bundles = snapshot.bundles(facts, found.evidence).values()
    parts = {part.path for each in bundles for part in (each.index, *each.shards) if part}
    complete = {
        each.index.path: (*each.shards, each.index)
        for each in bundles
        if each.complete and each.index is not None
    } or {
        fact.path: (fact,)
        for fact in facts
        if not snapshot.is_state(fact.path) and fact.path not in found.evidence.broken | parts
    }
    if not complete:
        return None
    last = max(complete.values(), key=lambda files: (files[-1].mtime_ns, files[-1].path))
    path = os.path.join(directory, last[-1].path.removesuffix(".index"))
    return Newest(path, last[-1].mtime_ns, last)
