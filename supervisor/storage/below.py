"""Files below a directory, reached without following any link.

Every component is opened in its parent with O_NOFOLLOW (openat(2)): whoever puts a link in the
place of a directory or of a file between our look and our use of it is refused by the kernel, and
nothing outside is read. ``openat2(2)`` with RESOLVE_BENEATH would do the same in one call, but has
no binding in Python, and sandboxes refuse it.
"""

from __future__ import annotations

import errno
import os
from typing import Final

GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""It is not there, or a link is in its place."""
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def top(root: str) -> int:
    """A descriptor of the directory itself, which may be a link. Raises OSError."""
    return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def opened(top: int, path: str, flags: int) -> int:
    """A descriptor of ``path`` below ``top``; empty: of ``top`` itself. Raises OSError."""
    folder, name = _parent(top, path)
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        _close(folder, top)


def status(top: int, path: str) -> os.stat_result:
    """As lstat(2). Raises OSError."""
    folder, name = _parent(top, path)
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    finally:
        _close(folder, top)


def read_link(top: int, path: str) -> str:
    """Raises OSError; FileNotFoundError also where there is no link any more."""
    folder, name = _parent(top, path)
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise FileNotFoundError(errno.ENOENT, "no link", path) from None
        raise
    finally:
        _close(folder, top)


def _parent(top: int, path: str) -> tuple[int, str]:
    """The directory of ``path``, which is ``top`` itself or to be closed, and the last name."""
    *folders, name = path.split("/")
    at = top
    for part in folders:
        try:
            inner = os.open(part, _FOLDER, dir_fd=at)
        finally:
            _close(at, top)
        at = inner
    return at, name or "."


def _close(fd: int, top: int) -> None:
    if fd != top:
        os.close(fd)
