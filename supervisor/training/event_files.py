"""TensorBoard's event files as they grow: which there are, and what is new in them. Blocks.

Files are found where the script's processes hold them open for writing, wherever that is, and below
the job's directories, for writers that open a file anew each time. Nothing counts that lay there
before the attempt began, or says that it was written before. All is bounded: names that are looked
at, files and bytes that are read at a look, what is told of each, and what is kept (an offset and a
few tags a file). Of a file that grows faster, or was large when it was found, the end is read.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from supervisor import regular
from supervisor.training import events, framing
from supervisor.training.reading import Origin, Reading

NAME: Final = ".tfevents."
"""What every event file has in its name."""
MOST_FILES: Final = 64
"""That are read at one look."""
MOST_LOOKED_AT: Final = 5000
"""Names below a directory, at one look."""
MOST_DESCRIPTORS: Final = 4096
"""Of the script's processes that are looked at, all together."""
LOOK_BYTES: Final = 1 << 20
"""When so much has been read at one look, the other files have to wait for the next."""
FILE_BYTES: Final = 256 << 10
"""When so much has been read of a file at one look, of the rest only the end is read …"""
END_BYTES: Final = 64 << 10
"""… of so many bytes."""
MOST_READINGS: Final = 64
"""Of a file at one look, the last."""
_PIECE_BYTES: Final = 64 << 10
"""Read at once, unless a record is larger."""

_Key = tuple[int, int]
"""Device and inode."""


class _Seen(NamedTuple):
    path: str
    """By which it can be opened."""
    folder: str
    """For people."""
    status: os.stat_result


@dataclass(slots=True)
class _Followed:
    path: str
    offset: int
    size: int = 0
    """When it was read last."""
    read_at: int = 0
    """At which look that was."""
    last: float = -math.inf
    """When what was told last was written."""
    again_to: float = -math.inf
    """What was written until then was told already."""
    writer: events.Writer = field(default_factory=events.Writer)

    def begin_anew(self, path: str) -> None:
        """It may be the same file elsewhere, a copy of it, one cut off, or another one with its
        number, which is given again at once: nobody knows what of it was read."""
        self.path, self.offset, self.size = path, 0, -1
        self.again_to = self.last


class EventFiles:
    """Follows the event files of one script; for one thread at a time."""

    def __init__(
        self,
        roots: Iterable[str],
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """``roots``: directories below which files are looked for."""
        self._roots = tuple(dict.fromkeys(os.path.realpath(root) for root in roots))
        self._clock, self._steady = clock, steady
        self._begun = steady()
        self._looks = 0
        self._followed: dict[_Key, _Followed] = {}
        self._checksum: Callable[[bytes], int] | None = None

    def begin(self, before_ns: int) -> None:
        """An attempt has begun: what was written before that is none of its doing.

        ``before_ns``: nanoseconds since the epoch, by the clock of files.
        """
        self._begun = self._steady() - (self._clock() - before_ns / 1e9)
        self._followed = {
            key: _Followed(seen.path, seen.status.st_size, seen.status.st_size)
            for key, seen in self._found(()).items()
            if seen.status.st_mtime_ns < before_ns
        }

    def look(self, pids: Iterable[int] = ()) -> list[Reading]:
        """What has come since the last look, the oldest of each file first.

        ``pids``: the script's processes.
        """
        self._looks += 1
        found = self._found(pids)
        self._follow(found)
        grown = [
            (seen, followed)
            for key, seen in found.items()
            if (followed := self._followed[key]).size != seen.status.st_size
        ]
        grown.sort(key=lambda each: (each[1].read_at, -each[0].status.st_mtime_ns))
        readings: list[Reading] = []
        room = LOOK_BYTES
        for seen, followed in grown[:MOST_FILES]:
            if room <= 0:
                break
            followed.read_at = self._looks
            with contextlib.suppress(OSError):
                room -= self._read(seen, followed, readings)
        return readings

    def _follow(self, found: dict[_Key, _Seen]) -> None:
        gone = {key: self._followed.pop(key) for key in self._followed.keys() - found.keys()}
        replaced = {followed.path: followed for followed in gone.values()}
        for key, seen in found.items():
            followed = self._followed.get(key) or replaced.get(seen.path)
            if followed is None:
                followed = _Followed(seen.path, 0)
            elif key not in self._followed or followed.path != seen.path:
                followed.begin_anew(seen.path)
            self._followed[key] = followed

    def _read(self, seen: _Seen, followed: _Followed, readings: list[Reading]) -> int:
        """Read what is new of one file; how many bytes that were."""
        checksum = self._checksum = self._checksum or crc32c()
        # By what the clock says now: it may have been set since.
        begun = self._clock() - (self._steady() - self._begun)
        found: deque[events.Told] = deque(maxlen=MOST_READINGS)
        fd = regular.open_file(seen.path, os.O_RDONLY, follow=seen.path.startswith("/proc/"))
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != (seen.status.st_dev, seen.status.st_ino):
                return 0
            size = status.st_size
            if size < followed.size:
                followed.begin_anew(seen.path)
            followed.size = size
            done, want = 0, _PIECE_BYTES
            while followed.offset < size:
                behind = size - END_BYTES - followed.offset
                if jump := done >= FILE_BYTES and behind > 0:
                    followed.offset += behind
                piece = os.pread(fd, want, followed.offset)
                done += len(piece)
                part = framing.records(piece, checksum, somewhere=jump)
                for record in part.data:
                    told = followed.writer.take(record)
                    if told is not None and told.at >= begun and told.at > followed.again_to:
                        followed.last = max(followed.last, told.at)
                        found.append(told)
                followed.offset += part.used + part.skip
                if part.used:
                    want = _PIECE_BYTES
                elif len(piece) < want or want == framing.PIECE_BYTES:
                    break  # the rest has yet to be written
                else:
                    want = framing.PIECE_BYTES
            return done
        finally:
            os.close(fd)
            where = self._where(seen.folder)
            readings += (
                Reading(Origin.EVENTS, told.unit, told.step, told.at, None, told.loss, where)
                for told in found
            )

    def _where(self, folder: str) -> str:
        """A folder for people, by the last part of the directory below which it is."""
        for root in self._roots:
            if f"{folder}/".startswith(f"{root}/"):
                return os.path.relpath(folder, os.path.dirname(root))
        return folder

    def _found(self, pids: Iterable[int]) -> dict[_Key, _Seen]:
        found: dict[_Key, _Seen] = {}
        for root in self._roots:
            for seen in _below(root):
                found.setdefault((seen.status.st_dev, seen.status.st_ino), seen)
        for seen in _held_open(pids):
            found.setdefault((seen.status.st_dev, seen.status.st_ino), seen)
        return found


def _is_event_file(name: str) -> bool:
    """A name with a dot before it is that of a copy that has yet to be whole."""
    return NAME in name and not name.startswith(".")


def _below(root: str) -> Iterator[_Seen]:
    """Event files below a directory; nothing is looked at through links.

    Directories nearer to the root come first: a script may write samples by the hundred thousand,
    and ``os.walk`` lists a directory in whole.
    """
    room, folders = MOST_LOOKED_AT, deque([root])
    while folders and room > 0:
        folder = folders.popleft()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                room -= 1
                if _is_event_file(entry.name):
                    with contextlib.suppress(OSError):
                        status = os.lstat(entry.path)
                        if stat.S_ISREG(status.st_mode):
                            yield _Seen(entry.path, folder, status)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                if room <= 0:
                    break


def _held_open(pids: Iterable[int]) -> Iterator[_Seen]:
    """Event files that these processes hold open for writing. TensorBoard reads them."""
    room = MOST_DESCRIPTORS
    for pid in pids:
        with contextlib.suppress(OSError):
            place = f"/proc/{pid}/fd"
            for number in os.listdir(place)[:room]:
                room -= 1
                with contextlib.suppress(OSError):
                    path = f"{place}/{number}"
                    target = os.readlink(path).removesuffix(" (deleted)")
                    if not _is_event_file(os.path.basename(target)):
                        continue
                    writes = os.lstat(path).st_mode & stat.S_IWUSR  # proc(5), /proc/pid/fd
                    status = os.stat(path)
                    if writes and stat.S_ISREG(status.st_mode):
                        there = target if _is(target, status) else path
                        yield _Seen(there, os.path.dirname(target), status)
        if room <= 0:
            return


def _is(path: str, status: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        there = os.lstat(path)
        return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)
    return False


def crc32c() -> Callable[[bytes], int]:
    import google_crc32c  # noqa: PLC0415  # not before there is something to read

    value: Callable[[bytes], int] = google_crc32c.value
    return value
