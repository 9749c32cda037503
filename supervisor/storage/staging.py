"""A directory whose content appears whole, or not at all: a job's code, a restored checkpoint.

The content is made in another directory beside it, which then takes its name. Where that cannot
be (a mount point cannot be renamed, nor a directory whose parent is not ours), it is made inside
and moved up entry by entry under a marker: a kill in between is known by it at the next start, and
everything is done again.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from typing import Final, Self

from supervisor.storage.snapshot import INCOMPLETE, OURS, is_state

NO_FILES: Final = frozenset({"lost+found"})
"""What a fresh file system holds."""


class Staging:
    """Looks at the directory when it is made; a context manager for what is made in its stead.

    Blocks, and raises OSError. What was not committed is removed at the block's end, and the
    directory is then as it was, or has its marker.
    """

    def __init__(self, target: str) -> None:
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
        files = any(name not in NO_FILES and not name.startswith(OURS) for name in names)
        self.holds_files = files and INCOMPLETE not in names
        """Whether there is anything in it already, but for what a killed attempt has left."""

    def commit(self) -> None:
        """What was made takes the place of what is there."""
        if self._inside:
            self._move_in()
            return
        os.chmod(self.path, stat.S_IMODE(os.stat(self.target).st_mode))
        try:
            os.rename(self.path, self.target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return
        aside = self._name("aside")
        os.rename(self.target, aside)
        os.rename(self.path, self.target)
        _remove(aside)

    def __enter__(self) -> Self:
        os.makedirs(self.target, exist_ok=True)
        self._inside = is_mount(self.target) or not os.access(self._parent, os.W_OK | os.X_OK)
        self._clean()
        self.path = self._name("staging")
        os.mkdir(self.path, 0o700)
        return self

    def __exit__(self, *exc: object) -> None:
        _remove(self.path)

    def _move_in(self) -> None:
        with open(os.path.join(self.target, INCOMPLETE), "wb") as file:
            os.fsync(file.fileno())
        aside = self._name("aside")
        os.mkdir(aside)
        for name in os.listdir(self.target):
            if name not in NO_FILES and not name.startswith(OURS):
                os.rename(os.path.join(self.target, name), os.path.join(aside, name))
        # TensorFlow's state file names what is there: it comes last.
        for name in sorted(os.listdir(self.path), key=is_state):
            os.rename(os.path.join(self.path, name), os.path.join(self.target, name))
        os.rmdir(self.path)
        os.unlink(os.path.join(self.target, INCOMPLETE))
        _remove(aside)

    def _name(self, what: str) -> str:
        # Unguessable: no link of an archive can lead out of it and back in by its name.
        chance = secrets.token_hex(8)
        if self._inside:
            return os.path.join(self.target, f"{OURS}{what}-{chance}")
        return os.path.join(self._parent, f"{self._prefix}{what}-{chance}")

    def _clean(self) -> None:
        """What an attempt has left that was killed."""
        place, prefix = (self.target, OURS) if self._inside else (self._parent, self._prefix)
        for name in os.listdir(place):
            if name.startswith(prefix) and name != INCOMPLETE:
                _remove(os.path.join(place, name))


def is_mount(path: str) -> bool:
    """Whether something is mounted at ``path``, which is absolute and has no links in it.

    ``os.path.ismount`` does not see a directory that is mounted from the same file system, which
    can be renamed as little as any other mount point.
    """
    if os.path.ismount(path):
        return True
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            # Spaces, tabs, line ends and backslashes are written in octal (proc(5)).
            named = path.translate({ord(each): f"\\{ord(each):03o}" for each in " \t\n\\"})
            return any(line.split(" ", 5)[4] == named for line in file)
    except (OSError, IndexError):
        return False


def _remove(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
