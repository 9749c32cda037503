"""Every test begins with default signals, whoever started the tests: what nohup or a shell's
background job ignores would reach every child, and a supervisor rightly respects it."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator

import pytest

from supervisor.linux import orphans, prctl

for _signum in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
    if signal.getsignal(_signum) is signal.SIG_IGN:
        _default = signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL
        signal.signal(_signum, _default)
signal.pthread_sigmask(signal.SIG_SETMASK, ())


@pytest.fixture(autouse=True)
def _orphans_of_this_test_only() -> Iterator[None]:
    """What became the subreaper of orphans is it no longer afterwards: what an earlier test's
    processes leave behind, seconds later, would be counted as what a later one left."""
    yield
    if prctl.is_subreaper():
        ctypes.CDLL(None).prctl(prctl.PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(0), 0, 0, 0)
    orphans.forget_all()
