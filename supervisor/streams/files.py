"""A log file that is cut by size, so that a long job cannot fill a disk."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from supervisor import regular


class RotatingFile:
    """A target for a `Sink`: ``path``, and ``path.1`` (the last one) to ``path.keep``.

    A file is closed at a line's end and before it would be larger than ``max_bytes``; a line
    that is longer than that is cut. An existing file is continued. Nothing is opened before the
    first write, which happens on the sink's thread: a slow or full disk holds nobody else.

    What a script has put in the place of the file (a link, a FIFO, a directory, another name of
    somebody's file) is kept, aside, and a new file begun.
    """

    instant = False

    def __init__(
        self, path: str, *, max_bytes: int = 64 << 20, keep: int = 4, heading: bytes = b""
    ) -> None:
        """``heading``: a line that is written first where an existing file is continued."""
        if max_bytes < 1 or keep < 0:
            raise ValueError("max_bytes must be 1 or more and keep 0 or more")
        self.path = path
        self._max = max_bytes
        self._keep = keep
        self._heading = heading
        self._name = os.path.basename(path)
        self._fd = self._place = -1
        self._size = 0

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        """Write the first of ``parts`` as far as the current file has room; bytes written.

        Raises OSError: the file cannot be opened, written or renamed, or the disk is full.
        """
        if self._fd < 0:
            self.close()
            self._open()
            heading, self._heading = self._heading, b""
            if heading and self._size:
                self._size += os.write(self._fd, _line_end(self.path) + heading)
        part = parts[0]
        room = self._max - self._size
        if len(part) > room:
            head = bytes(part[: max(room, 0)])
            cut = head.rfind(b"\n") + 1
            if not cut and self._size:
                self._rotate()
                return self.write(parts)
            part = part[: cut or room]
        written = os.write(self._fd, part)
        self._size += written
        return written

    def wait(self, wake_fd: int) -> None:
        """Files are always ready."""

    def close(self) -> None:
        for fd in (self._fd, self._place):
            if fd >= 0:
                os.close(fd)
        self._fd = self._place = -1

    def _open(self) -> None:
        directory = os.path.dirname(self.path) or "."
        for own in (os.path.dirname(directory), directory):  # output/supervisor, and its logs
            if os.path.islink(own):
                os.rename(own, regular.aside(own))
        os.makedirs(directory, exist_ok=True)
        # Files are renamed in this very directory, whatever takes its place meanwhile.
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._place = os.open(directory, flags)
        try:
            self._fd = self._own_file()
        except OSError:
            if not self._is_replaced():
                raise
            self._rename(self._name, regular.aside(self._name))
            self._fd = self._own_file()
        self._size = os.fstat(self._fd).st_size

    def _own_file(self) -> int:
        return regular.open_file(
            self._name,
            os.O_WRONLY | os.O_CREAT | os.O_APPEND,
            devices=True,
            alone=True,
            place=self._place,
            mode=0o644,
        )

    def _is_replaced(self) -> bool:
        """Whether something is there that is no file of ours. A device is, and stays."""
        try:
            status = os.lstat(self._name, dir_fd=self._place)
        except OSError:
            return False
        kind = stat.S_IFMT(status.st_mode)
        return kind in {stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFSOCK} or (
            kind == stat.S_IFREG and status.st_nlink > 1
        )

    def _rotate(self) -> None:
        if self._keep:
            for number in range(self._keep - 1, 0, -1):
                self._rename(f"{self._name}.{number}", f"{self._name}.{number + 1}")
            self._rename(self._name, f"{self._name}.1")
        else:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(self._name, dir_fd=self._place)
        self.close()
        self._open()

    def _rename(self, name: str, new: str) -> None:
        """If it is there."""
        with contextlib.suppress(FileNotFoundError):
            regular.rename(name, new, self._place)


def _line_end(path: str) -> bytes:
    """What is missing to the last line of a file: a run that was killed left half of one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        return b"\n" if end and os.pread(fd, 1, end - 1) != b"\n" else b""
    except OSError:
        return b""
    finally:
        os.close(fd)
