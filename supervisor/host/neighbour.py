"""PyPI's ``supervisor`` (supervisord): another program that installs into the same directory.

The one that is installed last overwrites the other's ``__init__.py``, the one name that both have,
and uninstalling either takes it away. Imports nothing of ours: any of it may be gone.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

_HERE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SHARED: Final = "__init__.py"
"""The only file that supervisord 3 and 4 have too."""
_MARK: Final = b"\n__version__"
"""In ours, and not in theirs."""
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
    """One sentence where our file is gone or the other's, with the remedy; else empty."""
    with contextlib.suppress(OSError), open(os.path.join(directory, _SHARED), "rb") as file:
        if _MARK in b"\n" + file.read(1 << 20):
            return ""
    return (
        f"{_SHARED} in {directory} is not this program's any more: PyPI's supervisor (supervisord) "
        f"installs into the same directory; repair it with {_REPAIR}, and {_ALONE}"
    )
