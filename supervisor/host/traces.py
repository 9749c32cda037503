"""What a script leaves of its training in files: its progress file, event files, checkpoints. They
are looked at off the event loop, for a disk may not answer."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from supervisor import regular
from supervisor.contract import record
from supervisor.contract.paths import Paths
from supervisor.host import resumed
from supervisor.linux import births
from supervisor.storage import snapshot, watch
from supervisor.storage.watch import Scan
from supervisor.training import bundle, event_files, saves
from supervisor.training.reading import Origin, Reading, Unit
from supervisor.training.saves import Saved

_YOUNGEST: Final = 2**63


class Traces(NamedTuple):
    """What is new since the last look."""

    readings: tuple[Reading, ...] = ()
    saved: Saved | None = None
    """The newest checkpoint, if it is another one than before."""
    saving: bool = False
    """Files of a checkpoint or a model are being written."""


class TraceFiles:
    """The files of one host's script; for one thread at a time. All of it blocks."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._events = event_files.EventFiles((paths.checkpoints, paths.model, paths.output))
        self._scans: dict[str, Scan] = {}
        self._newest: tuple[str, int] | None = None
        self._held: frozenset[tuple[str, int, int]] = frozenset()
        self._progress: record.Progress | None = None
        self._whole: dict[str, int] = {}
        """Inodes of files that belonged to a complete checkpoint before: what is written anew into
        one of them was born with that."""

    def begin(self, before_ns: int) -> Saved | None:
        """An attempt has begun; with which checkpoint, as far as it lies there.

        ``before_ns``: the start, nanoseconds since the epoch by the clock of files.
        """
        self._events.begin(before_ns)
        self._scans.clear()
        self._newest = None
        self._progress = None
        with contextlib.suppress(OSError):
            if os.lstat(self._paths.progress).st_mtime_ns < before_ns:
                self._progress = record.reading(self._paths)
        self._scan(self._paths.checkpoints)
        found = self._scans.get(self._paths.checkpoints)
        self._whole = {fact.path: fact.inode for fact in found.facts} if found else {}
        return self._saved(before_ns, old=True)

    def look(self, pids: Collection[int]) -> Traces:
        """``pids``: the script's processes."""
        readings = [*self._from_file(), *self._events.look(pids)]
        directories = dict.fromkeys((self._paths.checkpoints, self._paths.model))
        changed = [self._scan(directory) for directory in directories]
        held = _held(pids)
        changed.append(bool(held - self._held))
        self._held = held
        saved = self._saved(_YOUNGEST, old=False)
        if saved is not None and saved.unit is not None:
            where = os.path.basename(os.path.dirname(saved.path))
            at = saved.written_ns / 1e9
            readings.append(Reading(Origin.CHECKPOINT, saved.unit, saved.number, at, where=where))
        return Traces(tuple(readings), saved, any(changed))

    def _from_file(self) -> Iterable[Reading]:
        found = record.reading(self._paths)
        if found is None or found == self._progress:
            return
        self._progress = found
        at = found.at
        if at is None:
            try:
                at = min(os.lstat(self._paths.progress).st_mtime, time.time())
            except OSError:
                at = time.time()  # it is just being replaced
        yield Reading(Origin.FILE, Unit.STEP, found.step, at, found.total, found.loss)

    def _scan(self, directory: str) -> bool:
        """Look at a directory; whether something of a save has changed since the last look."""
        before = self._scans.get(directory)
        try:
            found = watch.scan(directory, before, most=resumed.MOST_FILES)
        except OSError:
            return False
        self._scans[directory] = found
        if before is None or found.facts == before.facts:
            return False
        known = {fact.path: fact for fact in before.facts}
        return any(
            snapshot.is_written_by_a_save(fact.path)
            for fact in found.facts
            if not (fact.path in known and fact.same(known[fact.path]))
        )

    def _saved(self, before_ns: int, *, old: bool) -> Saved | None:
        """The newest checkpoint, unless it is the one that was told last."""
        directory = self._paths.checkpoints
        if (found := self._scans.get(directory)) is None:
            return None
        last = resumed.newest_of(directory, found, before_ns)
        if last is None or (last.path, last.written_ns) == self._newest:
            return None
        self._newest = (last.path, last.written_ns)
        told = _step_of(last) if last.is_bundle else None
        unit, number = told or saves.by_name(os.path.basename(last.path)) or (None, 0)
        anew = any(self._whole.get(part.path) == part.inode for part in last.parts)
        save_s = None if old or anew else _save_s(directory, last)
        if len(self._whole) < resumed.MOST_FILES:
            self._whole |= {part.path: part.inode for part in last.parts}
        return Saved(last.path, last.written_ns, unit, number, save_s)


_FEW: Final = 1024
"""Descriptors of a process that are looked at."""


def _held(pids: Collection[int]) -> frozenset[tuple[str, int, int]]:
    """Files of a save that these processes hold open, wherever they are, as they stand now."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            place = f"/proc/{pid}/fd"
            for number in os.listdir(place)[:_FEW]:
                with contextlib.suppress(OSError):
                    target = os.readlink(f"{place}/{number}")
                    if target.startswith("/") and snapshot.is_written_by_a_save(target):
                        status = os.stat(f"{place}/{number}")
                        found.add((target, status.st_size, status.st_mtime_ns))
    return frozenset(found)


def _step_of(last: resumed.Newest) -> tuple[Unit, int] | None:
    """The step that a bundle holds."""
    try:
        variable = bundle.step_of(regular.read(f"{last.path}.index", bundle.MOST_INDEX))
        if variable is None:
            return None
        shard = f"{last.path}.data-{variable.shard:05}-of-{variable.shards:05}"
        fd = regular.open_file(shard, os.O_RDONLY)
        try:
            data = os.pread(fd, variable.size, variable.offset)
        finally:
            os.close(fd)
    except OSError:
        return None
    step = variable.value(data, event_files.crc32c())
    return None if step is None else (Unit.STEP, step)


def _save_s(directory: str, last: resumed.Newest) -> float | None:
    """From the birth of its first file, which a rename keeps, to the last change of the last."""
    born = [births.born_ns(os.path.join(directory, part.path)) for part in last.parts]
    known = [each for each in born if each is not None]
    if len(known) < len(born):
        return None
    return max(0.0, (last.written_ns - min(known)) / 1e9)
