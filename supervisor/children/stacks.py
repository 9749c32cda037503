"""Where is it? The stacks of a script's Python processes, written to their own stderr.

A process is asked only if it says that it can answer: a real-time signal ends a process that has
no handler for it, so ``SigCgt`` of ``/proc/PID/status`` is read first (proc_pid_status(5)). Where
none can answer, py-spy, if the image has it, looks from outside.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from typing import Final

from supervisor.life.words import STACKS_SIGNUM
from supervisor.linux import orphans, procfs

WRITE_S: Final = 1.0
"""Time for the stacks to be written before anything else is done to the process."""
SPY_S: Final = 5.0
"""Longest time that py-spy may look."""
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


def spy(pid: int) -> str:
    """The stacks of a Python process as py-spy sees them; empty without it, or if it sees none.

    Blocks, for ``SPY_S`` at most: not for the event loop's thread.
    """
    import shutil  # noqa: PLC0415  # the script's start does not wait for it

    program = shutil.which("py-spy")
    if program is None:
        return ""
    try:
        spying = subprocess.Popen(
            [program, "dump", "--pid", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # no process or no descriptor to be had: nothing is seen
        return ""
    with spying as process:
        orphans.register(process.pid, helper=True)
        try:
            output, _ = process.communicate(timeout=SPY_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output = b""
    orphans.release(process.pid)
    return output.decode("utf-8", "replace").strip()


def _catches(pid: int) -> bool:
    status = procfs.read(f"/proc/{pid}/status")
    for line in (status or b"").splitlines():
        if line.startswith(b"SigCgt:"):
            return bool(int(line.split()[1], 16) >> (STACKS_SIGNUM - 1) & 1)
    return False
