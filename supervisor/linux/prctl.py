"""The two process attributes that Linux has only behind prctl(2), through ctypes.

ctypes costs about 1.5 ms to import, so it is imported where it is used. There is no other way to
them from Python's standard library.
"""

from __future__ import annotations

import os
import signal

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37


def _prctl(option: int, argument: object) -> None:
    import ctypes  # noqa: PLC0415  # see the module's docstring

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_subreaper() -> bool:
    """Have every descendant whose parent dies handed to us, as it would be to PID 1.

    Needs no privilege. PID 1 has it by nature. False where the kernel refuses.
    """
    if os.getpid() == 1:
        return True
    import ctypes  # noqa: PLC0415

    try:
        _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
    except OSError:
        return False
    return True


def is_subreaper() -> bool:
    if os.getpid() == 1:
        return True
    import ctypes  # noqa: PLC0415

    value = ctypes.c_int(0)
    try:
        _prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(value))
    except OSError:
        return False
    return value.value == 1


def die_with_parent(parent: int | None = None, signum: int = signal.SIGKILL) -> None:
    """In a child: die of ``signum`` when the parent dies.

    Call it first thing, on the main thread. ``parent`` is the pid that the parent has by its own
    account, if the child knows it; else the parent is whoever it is at the time of the call.

    The attribute is tied to the *thread* that made this process (prctl(2)): it fires when that
    thread ends, so the parent must spawn from a thread that lives as long as it does. A parent
    that died before the call sends nothing any more; that race is closed by looking again after.
    It survives exec. Raises OSError where a sandbox refuses it.
    """
    before = os.getppid() if parent is None else parent
    import ctypes  # noqa: PLC0415

    try:
        _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signum))
    finally:
        if os.getppid() != before:
            signal.raise_signal(signum)
