"""One supervisor in a base directory: a second one would clear and overwrite what the first says.

The directory itself is locked (flock(2)) for the life of the process. Nothing is left behind, and
the kernel takes the lock away with a supervisor that is killed, so that a container that is started
again in place is not held up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator


class OccupiedError(Exception):
    """Another supervisor runs there; the message names it."""


@contextlib.contextmanager
def occupied(base: str) -> Iterator[None]:
    """Have ``base`` for this process alone.

    Where it cannot be locked (it is not there, or its file system knows no such locks) it is had
    without.

    Raises:
        OccupiedError: another supervisor has it.

    """
    try:
        directory = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        _lock(base, directory)
        yield
    finally:
        os.close(directory)


def _lock(base: str, directory: int) -> None:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            holder = _holder(os.fstat(directory).st_ino)
            raise OccupiedError(
                f"another supervisor{holder} runs the job below {base}: nothing was started, and "
                "nothing of it was touched; SAGEMAKER_BASE_DIR names another place"
            ) from None


def _holder(inode: int) -> str:
    """`` (pid 17)``, from /proc/locks (proc(5)); empty where it cannot be seen."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/locks") as locks:
        for line in locks:
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
                return f" (pid {words[4]})" if int(words[4]) > 0 else ""
    return ""
