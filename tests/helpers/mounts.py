"""A mount namespace of one's own, where one is to be had."""

from __future__ import annotations

import subprocess
from typing import Final

import pytest

NAMESPACE: Final = ("unshare", "-rm", "sh", "-c")
"""Before a shell's text, which mounts something and then executes ``"$@"``."""


def needs_mounts() -> None:
    """Skip where nobody lets us mount anything, not even in namespaces of our own."""
    done = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no mount namespace to be had: {done.stderr.strip()}")
