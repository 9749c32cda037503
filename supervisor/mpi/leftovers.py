"""What an earlier launcher or sshd of the same supervisor has left when SIGKILL ended it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile


def remove(prefix: str) -> None:
    """Its temporary directories, by how their names begin. Best effort."""
    base = tempfile.gettempdir()
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            if name.startswith(prefix):
                shutil.rmtree(os.path.join(base, name), ignore_errors=True)
