"""One very process, told from whoever has its number after it: by a pidfd, or by its start time."""

from __future__ import annotations

import os
import signal

from supervisor.linux import procfs
from supervisor.linux.procfs import Process

_PENDING = (b"SigPnd:", b"ShdPnd:")


def open_pidfd(pid: int) -> int | None:
    """None where the kernel or a sandbox refuses, the process is gone or descriptors are short."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def send_exactly(process: Process, signum: int) -> bool:
    """Signal this very process and not one that got its number since it was looked at."""
    pidfd = open_pidfd(process.pid)
    try:
        now = procfs.stat(process.pid)
        if now is None or now.start != process.start:
            return False
        if pidfd is not None:
            signal.pidfd_send_signal(pidfd, signum)
        else:
            os.kill(process.pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return True


def lives(process: Process) -> bool:
    now = procfs.stat(process.pid)
    return now is not None and now.start == process.start and now.alive


def is_dying(process: Process) -> bool:
    """Whether SIGKILL will end it: not in uninterruptible sleep, nor out of our reach."""
    now = procfs.stat(process.pid)
    if now is None or now.start != process.start or not now.alive or now.state == "R":
        return True
    if now.state == "D":
        return False
    status = procfs.read(f"/proc/{process.pid}/status") or b""
    pending = [line.split()[1] for line in status.splitlines() if line[:7] in _PENDING]
    return any(int(mask, 16) >> (signal.SIGKILL - 1) & 1 for mask in pending)
