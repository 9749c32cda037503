"""Which checkpoint a run finds in its directory, for people: the newest that is complete."""

from __future__ import annotations

import os

from supervisor.storage import snapshot, watch

_MOST_FILES = 5000


def newest(directory: str, before_ns: int) -> str:
    """Its path: a bundle's prefix where TensorFlow wrote it, else a file. Empty: there is none.

    ``before_ns``: what is younger this run has written. Looks at a bounded number of files. Blocks.
    """
    return newest_with_time(directory, before_ns)[0]


def newest_with_time(directory: str, before_ns: int) -> tuple[str, int]:
    """The same, and when it was written, in nanoseconds; ``("", 0)`` where there is none."""
    try:
        found = watch.scan(directory, most=_MOST_FILES)
    except OSError:
        return "", 0
    facts = [
        fact
        for fact in found.facts
        if fact.mtime_ns < before_ns and not fact.hollow and not snapshot.temporary(fact.path)
    ]
    bundles = snapshot.bundles(facts, found.evidence).values()
    parts = {part.path for each in bundles for part in (each.index, *each.shards) if part}
    indexes = [each.index for each in bundles if each.complete and each.index is not None]
    others = [
        fact
        for fact in facts
        if not snapshot.is_state(fact.path) and fact.path not in found.evidence.broken | parts
    ]
    last = max(indexes or others, key=lambda fact: (fact.mtime_ns, fact.path), default=None)
    if last is None:
        return "", 0
    return os.path.join(directory, last.path.removesuffix(".index")), last.mtime_ns
