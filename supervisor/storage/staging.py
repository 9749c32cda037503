"""A directory that appears with all of its content, or not at all.

Its content is made in another directory beside it, which then takes its name. Where that cannot
be (a mount point cannot be replaced, nor a directory whose parent is not ours), it is made inside
and moved up entry by entry; what a kill leaves behind in between is known by the inner directory
that is still there, and made anew.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from typing import Final, Self

_MARK: Final = ".fetch-"
_NO_FILES: Final = frozenset({"lost+found"})
"""What a fresh file system holds."""


class Staging:
    """Context manager; what was not committed at its end is removed.

    Raises OSError. ``path`` is where the content is to be made: empty, on the target's disk.
    """

    def __init__(self, target: str) -> None:
        self.target = os.path.realpath(target)
        parent, base = os.path.split(self.target)
        self._prefix = f".{base}{_MARK}"
        os.makedirs(self.target, exist_ok=True)
        self._inside = is_mount(self.target) or not os.access(parent, os.W_OK | os.X_OK)
        self._place = self.target if self._inside else parent
        # Unguessable: no link of an archive can lead out of it and back in by its name.
        self.path = tempfile.mkdtemp(prefix=self._prefix, dir=self._place)
        for name in _leftovers(self._place, self._prefix):
            if name != os.path.basename(self.path):
                _remove(os.path.join(self._place, name))

    def commit(self) -> None:
        """The target has the content from now on."""
        os.chmod(self.path, stat.S_IMODE(os.stat(self.target).st_mode))
        if not self._inside:
            os.rename(self.path, self.target)  # which is empty, else it is an error
            return
        for name in os.listdir(self.path):
            new = os.path.join(self.target, name)
            _remove(new)  # of an attempt that was killed just here
            os.rename(os.path.join(self.path, name), new)
        os.rmdir(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        _remove(self.path)


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


def holds_files(directory: str) -> bool:
    """Whether there is anything in it already, but for what a killed attempt has left."""
    target = os.path.realpath(directory)
    try:
        names = set(os.listdir(target))
    except FileNotFoundError:
        return False
    if any(name.startswith(f".{os.path.basename(target)}{_MARK}") for name in names):
        return False
    return not names <= _NO_FILES


def _leftovers(place: str, prefix: str) -> list[str]:
    with suppress(OSError):
        return [name for name in os.listdir(place) if name.startswith(prefix)]
    return []


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)
