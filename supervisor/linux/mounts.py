"""What is mounted where."""

from __future__ import annotations

import os


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
