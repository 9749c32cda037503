"""Files that a script can put something else in the place of: read and written without waiting.

A FIFO, a device, a socket or a directory is not read, and neither is a link unless its target is
wanted. An ``open`` of a FIFO waits for its other end, one of a leased file for the lease
(fcntl(2), F_SETLEASE), and a device may do anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

_QUIETLY: Final = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_REPLACED: Final = {stat.S_IFLNK, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK}


def read(path: str, limit: int, *, follow: bool = False) -> bytes:
    """The first ``limit`` bytes of a regular file. ``follow``: links lead to it.

    Raises OSError where it is none or cannot be read.
    """
    fd = open_file(path, os.O_RDONLY, follow=follow)
    try:
        parts = []
        while limit > 0 and (part := os.read(fd, limit)):
            parts.append(part)
            limit -= len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def open_file(
    path: str,
    flags: int,
    *,
    follow: bool = False,
    devices: bool = False,
    alone: bool = False,
    place: int | None = None,
    mode: int = 0o666,
) -> int:
    """A descriptor of the regular file ``path``, relative to the directory ``place`` if given.

    ``devices``: or of a character device, as ``/dev/null`` is. ``alone``: it has no other name, by
    which it would be somebody else's too. Raises OSError where something else is there, a link
    included unless ``follow``.
    """
    if not follow:
        flags |= os.O_NOFOLLOW
    try:
        # Before it is opened: opening alone does something to some devices.
        _check(os.stat(path, dir_fd=place, follow_symlinks=follow), path, devices=devices)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    fd = os.open(path, flags | _QUIETLY, mode, dir_fd=place)
    try:
        _check(os.fstat(fd), path, devices=devices, alone=alone)
    except OSError:
        os.close(fd)
        raise
    return fd


def write(path: str, text: str) -> str | None:
    """``replace``; None, or one sentence about what went wrong."""
    try:
        replace(path, text)
    except OSError as error:
        return not_written(path, error)
    return None


def write_error(message: str) -> str | None:
    """The error file that a step was told of, if it was: how it says why it failed."""
    path = os.environ.get("SUPERVISOR_ERROR_FILE")
    if not path:
        return None
    import json  # noqa: PLC0415  # of a step's process: the streams import this module

    return write(path, json.dumps({"message": message}))


def replace(path: str, text: str) -> None:
    """Put a file with ``text`` in the place of whatever ``path`` is, at once and whole.

    A directory there is kept, aside. A file that cannot be replaced (mounted there, or in a
    directory that may not be written) is written in place.

    Not synchronised: an fsync waits for all that the disk still has to write, minutes after a large
    checkpoint, and this is for readers on this running machine. Raises OSError.
    """
    content = text.encode("utf-8", "backslashreplace")
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    # Everything below happens in this very directory, whatever takes its place meanwhile.
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            _put(name, content, place)
        except OSError as error:
            try:
                overwrite(name, content, place)
            except OSError:
                raise error from None
    finally:
        os.close(place)


def _put(name: str, content: bytes, place: int) -> None:
    scratch = f".{name}.{os.urandom(8).hex()}"
    try:
        fd = open_file(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, place=place)
        try:
            _write_all(fd, content)
        finally:
            os.close(fd)
        rename(scratch, name, place)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=place)
        raise


def overwrite(path: str, content: bytes, place: int | None = None) -> None:
    """Put ``content`` into the regular file that ``path`` is. Raises OSError; so it does where the
    file has other names, for then it is somebody else's too."""
    fd = open_file(path, os.O_WRONLY, alone=True, place=place)
    try:
        os.truncate(fd, 0)
        _write_all(fd, content)
    finally:
        os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def not_written(path: str, error: OSError) -> str:
    """One sentence for people."""
    return f"{path} was not written: {error.strerror or error}"


def own_directory(path: str) -> None:
    """Make a directory that is ours alone. A link or a file in its place is kept, aside; a device
    is none that a script makes, and stays.

    Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IFMT(os.lstat(path).st_mode) in _REPLACED:
            os.rename(path, aside(path))
    os.makedirs(path, exist_ok=True)


def rename(name: str, new: str, place: int) -> None:
    """In the directory ``place``. A directory in the place of the new name is kept, aside.

    Raises OSError.
    """
    try:
        os.rename(name, new, src_dir_fd=place, dst_dir_fd=place)
    except (IsADirectoryError, NotADirectoryError):
        os.rename(new, aside(new), src_dir_fd=place, dst_dir_fd=place)
        os.rename(name, new, src_dir_fd=place, dst_dir_fd=place)


def aside(path: str) -> str:
    """A name for what is in the place of ``path`` and not ours."""
    return f"{path}.replaced-{os.urandom(4).hex()}"


def _check(status: os.stat_result, path: str, *, devices: bool, alone: bool = False) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "it is a link", path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not (stat.S_ISREG(status.st_mode) or (devices and stat.S_ISCHR(status.st_mode))):
        raise OSError(errno.EINVAL, "it is no regular file", path)
    if alone and status.st_nlink > 1:
        raise OSError(errno.EMLINK, "it has other names", path)
