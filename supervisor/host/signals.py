"""Signals that reach the supervisor, as events: those that may be meant for the script."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Final

from supervisor.life import events as ev
from supervisor.linux.inherited import InheritedSignals
from supervisor.linux.signals import SignalPipe

NOT_FORWARDED: Final = frozenset(
    {
        signal.SIGKILL, signal.SIGSTOP,  # cannot be caught
        signal.SIGCHLD,  # about our own children
        signal.SIGPIPE, signal.SIGXFSZ,  # Python turns them into errors where they belong
        signal.SIGTTIN, signal.SIGTTOU,  # about our own terminal
        # Raised by our own faults: the default action is the right one.
        signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT,
        signal.SIGTRAP, signal.SIGSYS,
    }
)  # fmt: skip


class Signals:
    """On the main thread, one at a time."""

    def __init__(self, post: Callable[[ev.Event], None]) -> None:
        self._pipe = SignalPipe(lambda signum: post(ev.Signalled(signum, time.time())))

    def install(self, inherited: InheritedSignals) -> None:
        """From now on they are heard; what was held back comes first."""
        wanted = signal.valid_signals() - NOT_FORWARDED
        if inherited.hangup_ignored:  # started under nohup: a hang-up is nobody's wish to stop
            wanted.discard(signal.SIGHUP)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._pipe.catch(wanted)

    def close(self) -> None:
        """The handlers stay, without effect: our exit is not to be cut short any more."""
        self._pipe.close()
