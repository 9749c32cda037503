"""A directory whose content appears whole, or not at all: a job's code, a restored checkpoint.

The content is made in another directory beside it, which then takes its name. Where that cannot
be (a mount point cannot be renamed, nor a directory whose parent is not ours), it is made inside
and moved up entry by entry under a marker: a kill in between is known by it at the next start, and
everything is done again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from typing import Final, Self

from supervisor.linux.mounts import is_mount
from supervisor.storage import below
from supervisor.storage.snapshot import INCOMPLETE, LEDGER, OURS, is_state

NO_FILES: Final = frozenset({"lost+found"})
"""What a fresh file system holds."""

_KEPT: Final = "kept"


class Staging:
    """Looks at the directory when it is made; a context manager for what is made in its stead.

    Blocks, and raises OSError. What was not committed is removed at the block's end, and the
    directory is then as it was, or has its marker.
    """

    def __init__(self, target: str, *, passed_over: Callable[[str], bool] | None = None) -> None:
        """``passed_over``: of which files, by their path below ``target``, it is as empty as
        without them: an attempt that was killed has left them half written."""
        self.target = os.path.realpath(target)
        self.path = ""
        """Where the content is to be made, within the block: empty, on the target's disk."""
        self._parent, base = os.path.split(self.target)
        self._inside = False
        self._prefix = f".{base}{OURS}"
        try:
            names = set(os.listdir(self.target))
        except FileNotFoundError:
            names = set()
        ours = {name for name in names if name in NO_FILES or name.startswith(OURS)}
        self.incomplete = INCOMPLETE in names
        """It has its marker: what lies there is no more than the beginning of something."""
        self.holds_files = not self.incomplete and _holds_files(
            self.target, names - ours, passed_over or (lambda _: False)
        )
        """Whether there is any file in it already, but for what a killed attempt has left."""

    def reuse(self, files: Iterable[tuple[str, int, int]]) -> set[str]:
        """Which of ``files`` (path, size, time of change) the directory has already; they need not
        be made, and cost no room."""
        found = set()
        top = below.top(self.target)
        try:
            for path, size, mtime_ns in files:
                with contextlib.suppress(OSError):  # then it is made
                    status = below.status(top, path)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    if (status.st_size, status.st_mtime_ns) == (size, mtime_ns):
                        made = os.path.join(self.path, path)
                        os.makedirs(os.path.dirname(made), exist_ok=True)
                        os.link(os.path.join(self.target, path), made, follow_symlinks=False)
                        found.add(path)
        finally:
            os.close(top)
        return found

    def commit(self, *, keep: bool = False) -> str:
        """What was made takes the place of what is there.

        ``keep``: what was there and is not there any more is kept; the directory that holds it is
        returned, or nothing where it was no file.
        """
        aside = self._name(_KEPT if keep else "aside")
        if self._inside:
            self._move_in(aside, keep=keep)
        else:
            os.chmod(self.path, stat.S_IMODE(os.stat(self.target).st_mode))
            try:
                os.rename(self.path, self.target)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
            else:
                return ""
            os.rename(self.target, aside)
            os.rename(self.path, self.target)
        if not keep:
            _remove(aside)
            return ""
        return aside if _without_copies(aside, self.target) else ""

    def __enter__(self) -> Self:
        os.makedirs(self.target, exist_ok=True)
        self._inside = is_mount(self.target) or not os.access(self._parent, os.W_OK | os.X_OK)
        self._clean()
        self.path = self._name("staging")
        os.mkdir(self.path, 0o700)
        return self

    def __exit__(self, *exc: object) -> None:
        _remove(self.path)

    def _move_in(self, aside: str, *, keep: bool) -> None:
        # What lies there under the marker is removed at the next start.
        if not keep:
            self._mark()
        os.mkdir(aside)
        for name in os.listdir(self.target):
            if name not in NO_FILES and not name.startswith(OURS):
                os.rename(os.path.join(self.target, name), os.path.join(aside, name))
        if keep:
            self._mark()
        # TensorFlow's state file names what is there: it comes last.
        for name in sorted(os.listdir(self.path), key=is_state):
            os.rename(os.path.join(self.path, name), os.path.join(self.target, name))
        os.rmdir(self.path)
        os.unlink(os.path.join(self.target, INCOMPLETE))

    def _mark(self) -> None:
        with open(os.path.join(self.target, INCOMPLETE), "wb") as file:
            os.fsync(file.fileno())

    def _name(self, what: str) -> str:
        # Unguessable: no link of an archive can lead out of it and back in by its name.
        chance = secrets.token_hex(8)
        if what == _KEPT and not self._inside:  # for people to find
            return f"{self.target}.{what}-{time.strftime('%Y%m%d-%H%M%S')}-{chance}"
        if self._inside:
            return os.path.join(self.target, f"{OURS}{what}-{chance}")
        return os.path.join(self._parent, f"{self._prefix}{what}-{chance}")

    def _clean(self) -> None:
        """What an attempt has left that was killed."""
        place, prefix = (self.target, OURS) if self._inside else (self._parent, self._prefix)
        kept = f"{OURS}{_KEPT}-"
        for name in os.listdir(place):
            if name.startswith(prefix) and name != INCOMPLETE and not name.startswith(kept):
                _remove(os.path.join(place, name))


def is_kept(path: str, target: str) -> bool:
    """Whether a path is one in which what ``target`` held was kept."""
    folder, name = os.path.split(path)
    beside = (os.path.dirname(target), f"{os.path.basename(target)}.{_KEPT}-")
    inside = (target, f"{OURS}{_KEPT}-")
    return any(folder == at and name.startswith(prefix) for at, prefix in (beside, inside))


def _holds_files(
    directory: str, names: Iterable[str], passed_over: Callable[[str], bool], below: str = ""
) -> bool:
    """Whether one of ``names``, or anything below them, is a file or a link. What may not be
    looked at counts as one."""
    for name in names:
        path = f"{below}{name}"
        whole = os.path.join(directory, path)
        try:
            mode = os.lstat(whole).st_mode
            if stat.S_ISDIR(mode):
                if _holds_files(directory, os.listdir(whole), passed_over, f"{path}/"):
                    return True
            elif (stat.S_ISREG(mode) or stat.S_ISLNK(mode)) and not passed_over(path):
                return True
        except FileNotFoundError:
            continue
        except OSError:
            return True
    return False


def _without_copies(aside: str, target: str) -> bool:
    """Remove from ``aside`` the files that are in ``target`` too (second names of the same file),
    and empty directories; whether anything is left."""
    with contextlib.suppress(OSError):  # another is in its place, and it is nobody's but ours
        os.unlink(os.path.join(aside, LEDGER))
    for folder, _, names in os.walk(aside, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            there = os.path.join(target, os.path.relpath(path, aside))
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(path), os.lstat(there)):
                    os.unlink(path)
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(folder)
    return os.path.lexists(aside)


def _remove(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
