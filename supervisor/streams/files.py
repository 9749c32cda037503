"""A log file that is cut by size, so that a long job cannot fill a disk."""

from __future__ import annotations

import os
from collections.abc import Sequence


class RotatingFile:
    """A target for a `Sink`: ``path``, and ``path.1`` (the last one) to ``path.keep``.

    A file is closed at a line's end and before it would be larger than ``max_bytes``; a line
    that is longer than that is cut. An existing file is continued. Nothing is opened before the
    first write, which happens on the sink's thread: a slow or full disk holds nobody else.
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
        self._fd = -1
        self._size = 0

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        """Write the first of ``parts`` as far as the current file has room; bytes written.

        Raises OSError: the file cannot be opened, written or renamed, or the disk is full.
        """
        if self._fd < 0:
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
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        directory = os.path.dirname(self.path)
        if directory:
            os.makedirs(directory, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
        self._fd = os.open(self.path, flags, 0o644)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        if self._keep:
            for number in range(self._keep - 1, 0, -1):
                older = f"{self.path}.{number}"
                if os.path.lexists(older):
                    os.replace(older, f"{self.path}.{number + 1}")
            os.replace(self.path, f"{self.path}.1")
        else:
            os.unlink(self.path)
        self._open()


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
