"""What whoever started us left behind: signals that are ignored or blocked come through exec."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
"""Signals that mean "stop"; held back from the first instruction until somebody handles them."""
FAULT_SIGNALS = frozenset(
    {
        signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT,
        signal.SIGTRAP, signal.SIGSYS,
    }
)  # fmt: skip
"""Raised by a process's own faults: the default action is the right one, and a handler that returns
would have the same fault for ever."""


@dataclass(frozen=True, slots=True)
class InheritedSignals:
    """What whoever started us left behind, before ``reset_inherited_signals`` undid it."""

    ignored: frozenset[int] = frozenset()
    blocked: frozenset[int] = frozenset()

    @property
    def hangup_ignored(self) -> bool:
        """Started under nohup(1), or so: a hang-up is not to stop anything."""
        return signal.SIGHUP in self.ignored


def reset_inherited_signals(*, hold: Iterable[int] = ()) -> InheritedSignals:
    """Undo blocked and ignored signals that came through exec. On the main thread, first thing.

    The mask is emptied, but for ``hold``: signals that stay blocked, and so pending, until their
    handlers are installed. SIGCHLD goes to its default (ignored, the kernel would reap our children
    and throw their statuses away). Any other ignored signal stays without effect on us until
    somebody installs a handler, but no longer reaches our children as ignored. SIGTTIN and SIGTTOU
    go to their default: a handler would make a background write to a terminal spin. SIGPIPE and
    SIGXFSZ are ignored by Python itself; ``subprocess`` gives children the default back.
    """
    blocked = frozenset(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    ignored: set[int] = set()
    for signum in signal.valid_signals():
        if signum in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGKILL, signal.SIGSTOP):
            continue
        if signal.getsignal(signum) is signal.SIG_IGN:
            ignored.add(int(signum))
            to_default = signum in (signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU)
            signal.signal(signum, signal.SIG_DFL if to_default else _without_effect)
    # After the dispositions: what was pending meets its new one.
    signal.pthread_sigmask(signal.SIG_SETMASK, hold)
    return InheritedSignals(frozenset(ignored), blocked)


def _without_effect(signum: int, frame: object) -> None:
    """Stand in for "ignored". Unlike that, a handler goes back to the default at exec."""
