"""Whether MPI jobs can be run on this machine."""

from __future__ import annotations

import shutil

_WANTED = ("mpirun", "mpicc", "gcc", "ssh", "ssh-keygen", "/usr/sbin/sshd")


def why_not() -> str:
    """Why they cannot; empty where they can."""
    missing = [name for name in _WANTED if shutil.which(name) is None]
    return f"needs Open MPI and OpenSSH; missing: {', '.join(missing)}" if missing else ""
