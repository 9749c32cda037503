"""Whether the kernel lets us cut connections (``linux/silence.py``)."""

from __future__ import annotations

import os
import socket

from supervisor.linux.silence import RefusedError, Silence

_NOBODY = 0
"""No process has this number."""


def why_not() -> str:
    """Why connections cannot be cut here; empty where they can."""
    silence = Silence()
    with socket.create_server(("127.0.0.1", 0)):
        try:
            silence.apply({os.getpid(): "", _NOBODY: "other"})
            silence.apply({os.getpid(): ""})
        except RefusedError as error:
            return str(error)
    return ""
