"""Where is it? The stacks of a script's Python processes, written to their own stderr.

A process is asked only if it says that it can answer: a real-time signal ends a process that has
no handler for it, so ``SigCgt`` of ``/proc/PID/status`` is read first (proc_pid_status(5)).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from supervisor import procfs
from supervisor.environment import STACKS_SIGNUM

WRITE_S: Final = 1.0
"""Time for the stacks to be written before anything else is done to the process."""
_MOST: Final = 64


def dump(pids: Iterable[int]) -> int:
    """Ask those of ``pids`` that can to write their stacks; how many were asked."""
    asked = 0
    for pid in pids:
        if asked >= _MOST:
            break
        if _catches(pid):
            try:
                os.kill(pid, STACKS_SIGNUM)
            except OSError:
                continue
            asked += 1
    return asked


def _catches(pid: int) -> bool:
    status = procfs.read(f"/proc/{pid}/status")
    for line in (status or b"").splitlines():
        if line.startswith(b"SigCgt:"):
            return bool(int(line.split()[1], 16) >> (STACKS_SIGNUM - 1) & 1)
    return False
