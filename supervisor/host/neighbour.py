"""PyPI's ``supervisor`` (supervisord): another program that installs into the same directory.

The one that is installed last overwrites files of the other, and uninstalling either takes them
away. Imports nothing of ours: any of it may be the other's.
"""

from __future__ import annotations

import os
from typing import Final

_HERE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MARKS: Final = {
    "__init__.py": b"\n__version__",
    "events.py": b"\nfrom __future__ import annotations\n",
    "process.py": b"\nfrom __future__ import annotations\n",
}
"""Files that supervisord 3 and 4 have too → what is in ours and not in theirs."""
_ALONE: Final = (
    "give supervisord an environment of its own (python -m venv /opt/supervisord, then "
    "/opt/supervisord/bin/pip install supervisor)"
)
_REPAIR: Final = (
    "python -m pip uninstall -y supervisor, then "
    "python -m pip install --force-reinstall --no-deps supervisor-tensorflow"
)


def is_beside(directory: str = _HERE) -> bool:
    """Whether supervisord is installed into our package: a file that only it has is there."""
    return os.path.exists(os.path.join(directory, "supervisord.py"))


def warning(directory: str = _HERE) -> str:
    """One sentence where supervisord is there and our files are sound; empty where it is not."""
    if not is_beside(directory):
        return ""
    return (
        f"PyPI's supervisor (supervisord) is installed into the same directory, {directory}, and "
        f"is broken by this program as this program would be by it: {_ALONE}"
    )


def damage(directory: str = _HERE) -> str:
    """One sentence where files of ours are gone or the other's, with the remedy; else empty."""
    lost = [name for name, mark in _MARKS.items() if not _has(os.path.join(directory, name), mark)]
    if not lost:
        return ""
    return (
        f"{', '.join(lost)} in {directory} {'is' if len(lost) == 1 else 'are'} not this program's "
        "any more: PyPI's supervisor (supervisord) installs into the same directory; repair it "
        f"with {_REPAIR}, and {_ALONE}"
    )


def _has(path: str, mark: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return mark in b"\n" + file.read(1 << 20)
    except OSError:
        return False
