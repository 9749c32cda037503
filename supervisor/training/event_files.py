"""TensorBoard's event files as they grow: which there are, and what is new in them. Blocks.

Files are found where the script's processes hold them open for writing, wherever that is, and below
the job's directories, for writers that open a file anew each time. Nothing is read that lay there
before the attempt began. All is bounded: files, bytes read at a look, and what is kept (an offset a
file). Of a file that grows faster, or was large when it was found, the end is read.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from supervisor import regular
from supervisor.training import events, framing
from supervisor.training.reading import Origin, Reading

NAME: Final = ".tfevents."
"""What every event file has in its name."""
MOST_FILES: Final = 64
"""That are followed, those that were written last."""
MOST_LOOKED_AT: Final = 5000
"""Names below a directory, at one look."""
PIECE_BYTES: Final = 1 << 20
"""Read at once."""
LOOK_BYTES: Final = 8 << 20
"""Read at one look, of all files together."""
END_BYTES: Final = 256 << 10
"""Of a file of which more is new than a look may read, so much of its end is read."""
_FEW: Final = 1024
"""Descriptors of a process that are looked at."""


@dataclass(slots=True)
class _Followed:
    offset: int
    where: str
    written_ns: int = 0


class EventFiles:
    """Follows the event files of one script; for one thread at a time."""

    def __init__(self, roots: Iterable[str]) -> None:
        """``roots``: directories below which files are looked for."""
        self._roots = tuple(dict.fromkeys(os.path.realpath(root) for root in roots))
        self._followed: dict[tuple[int, int], _Followed] = {}
        """By device and inode: a file that is renamed goes on."""
        self._checksum: Callable[[bytes], int] | None = None

    def begin(self, before_ns: int) -> None:
        """An attempt has begun: what was written before that is none of its doing.

        ``before_ns``: nanoseconds since the epoch, by the clock of files.
        """
        self._followed.clear()
        for path, status in self._below():
            if status.st_mtime_ns < before_ns:
                self._follow(path, status, status.st_size)

    def look(self, pids: Iterable[int] = ()) -> list[Reading]:
        """What has come since the last look, the oldest of each file first.

        ``pids``: the script's processes.
        """
        found: dict[tuple[int, int], tuple[str, os.stat_result]] = {}
        for path, status in (*self._below(), *_held_open(pids)):
            found.setdefault((status.st_dev, status.st_ino), (path, status))
        latest = sorted(found.items(), key=lambda each: -each[1][1].st_mtime_ns)
        for key in self._followed.keys() - {key for key, _ in latest}:
            del self._followed[key]
        readings: list[Reading] = []
        budget = LOOK_BYTES
        for key, (path, status) in latest:
            if key not in self._followed:
                self._follow(path, status, 0)
            followed = self._followed[key]
            if status.st_size < followed.offset:  # begun anew, in its place
                followed.offset = 0
            if status.st_size > followed.offset and budget > 0:
                with contextlib.suppress(OSError):
                    budget -= self._read(path, key, followed, budget, readings)
        return readings

    def _follow(self, path: str, status: os.stat_result, offset: int) -> None:
        folder = os.path.dirname(path)
        root = next((each for each in self._roots if f"{folder}/".startswith(f"{each}/")), "")
        where = os.path.relpath(folder, os.path.dirname(root)) if root else folder
        self._followed[status.st_dev, status.st_ino] = _Followed(offset, where)

    def _read(
        self,
        path: str,
        key: tuple[int, int],
        followed: _Followed,
        budget: int,
        readings: list[Reading],
    ) -> int:
        """Read what is new of one file; how many bytes that were."""
        checksum = self._checksum = self._checksum or crc32c()
        fd = regular.open_file(path, os.O_RDONLY, follow=path.startswith("/proc/"))
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != key:
                return 0
            if status.st_size - followed.offset > budget:
                followed.offset = status.st_size - END_BYTES
            done = 0
            while piece := os.pread(fd, PIECE_BYTES + framing.HEAD_BYTES, followed.offset):
                part = framing.records(piece, checksum)
                said = (_reading(each, followed.where) for each in part.data)
                readings += [reading for reading in said if reading is not None]
                followed.offset += part.used + part.skip
                done += len(piece)
                if not part.used or done >= budget:
                    break
            return done
        finally:
            os.close(fd)

    def _below(self) -> Iterator[tuple[str, os.stat_result]]:
        """Event files below the directories, the latest few. Nothing is looked at through links."""
        found: list[tuple[str, os.stat_result]] = []
        for root in self._roots:
            room = MOST_LOOKED_AT
            for parent, _, names in os.walk(root):
                for name in names[:room]:
                    if NAME in name:
                        with contextlib.suppress(OSError):
                            path = os.path.join(parent, name)
                            status = os.lstat(path)
                            if stat.S_ISREG(status.st_mode):
                                found.append((path, status))
                room -= len(names) + 1
                if room <= 0:
                    break
        found.sort(key=lambda each: -each[1].st_mtime_ns)
        return iter(found[:MOST_FILES])


def _held_open(pids: Iterable[int]) -> Iterator[tuple[str, os.stat_result]]:
    """Event files that these processes hold open."""
    room = MOST_FILES
    for pid in pids:
        with contextlib.suppress(OSError):
            place = f"/proc/{pid}/fd"
            for number in os.listdir(place)[:_FEW]:
                with contextlib.suppress(OSError):
                    path = f"{place}/{number}"
                    target = os.readlink(path)
                    if NAME in target.rpartition("/")[2]:
                        status = os.stat(path)
                        if stat.S_ISREG(status.st_mode) and room > 0:
                            room -= 1
                            yield (target if _is(target, status) else path), status


def _is(path: str, status: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        there = os.lstat(path)
        return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)
    return False


def _reading(record: bytes, where: str) -> Reading | None:
    told = events.told(record)
    if told is None or told.evaluated:
        return None
    return Reading(Origin.EVENTS, told.unit, told.step, told.at, None, told.loss, where)


def crc32c() -> Callable[[bytes], int]:
    import google_crc32c  # noqa: PLC0415  # not before there is something to read

    value: Callable[[bytes], int] = google_crc32c.value
    return value
