"""Signals that reach the supervisor, as events: those that may be meant for the script.

Who sends one may mean us, who pass it on, or may send it to every process that there is. Then the
script has had it, and once more would be once too often: many programs take a second SIGTERM for
"now", in the middle of a checkpoint. The guardian is the witness of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from supervisor.children.guardian import Guardian
from supervisor.life import events as ev
from supervisor.linux import procfs
from supervisor.linux.inherited import FAULT_SIGNALS, STOP_SIGNALS, InheritedSignals
from supervisor.linux.signals import SignalPipe

NOT_FORWARDED: Final = frozenset(
    {
        signal.SIGKILL, signal.SIGSTOP,  # cannot be caught
        signal.SIGCHLD,  # about our own children
        signal.SIGPIPE, signal.SIGXFSZ,  # Python turns them into errors where they belong
        signal.SIGTTIN, signal.SIGTTOU,  # about our own terminal
        *FAULT_SIGNALS,
    }
)  # fmt: skip

AFTER_S: Final = 0.02
"""Whoever signals all walks over the processes, one after the other: the witness may have its own
so long after us. A signal to us alone is passed on that much later."""
BEFORE_S: Final = 1.0
"""Or so long before: then it costs nobody any time. Whoever walks over the processes waits for a
processor in between, where they are short."""
_MOST: Final = 4096


class Witness:
    """What the guardian has had. On the event loop's thread."""

    def __init__(self, guardian: Guardian | None) -> None:
        self._pid = guardian.pid if guardian is not None else None
        self._fd = guardian.signals if guardian is not None else None
        self._had: dict[int, float] = {}
        """Signal → when it was last seen, ``time.time()``."""
        self._due: set[int] = set()
        """Signals that it was seen to have had before it said so."""
        self._news = asyncio.Event()
        if self._fd is not None:
            asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        """The descriptor is the guardian's to close."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._fd = None
            self._news.set()

    async def has_had(self, signum: int, at: float) -> bool:
        """Whether it has had the signal that we had at ``at``; waits until ``AFTER_S`` later."""
        self._read()  # both pipes may have had theirs in the same turn of the loop
        while not self._is_about(signum, at):
            left_s = min(AFTER_S, at + AFTER_S - time.time())
            if self._fd is None or left_s <= 0:
                return False
            self._news.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._news.wait()
            except TimeoutError:
                self._read()
                return self._is_about(signum, at) or self._is_about_to_say(signum)
        return True

    def _is_about(self, signum: int, at: float) -> bool:
        """Each that it has had stands for one of ours."""
        if self._had.get(signum, -1.0) < at - BEFORE_S:
            return False
        del self._had[signum]
        return True

    def _is_about_to_say(self, signum: int) -> bool:
        """Whether it has had it, and waits for a processor: on a machine that is busy this took
        longer than ``AFTER_S``. One that is stopped may have it for any time."""
        status = procfs.read(f"/proc/{self._pid}/status") if self._fd is not None else None
        fields = dict(line.split(b":", 1) for line in (status or b"").splitlines() if b":" in line)
        pending = int(fields.get(b"ShdPnd", b"0"), 16)
        if not pending >> (signum - 1) & 1 or fields[b"State"].strip()[:1] in b"Tt":
            return False
        self._due.add(signum)
        return True

    def _read(self) -> None:
        if self._fd is None:
            return
        try:
            came = os.read(self._fd, _MOST)
        except BlockingIOError:
            return
        if not came:  # it is dead, or could not take a name of its own
            self.close()
        now = time.time()
        self._had.update((signum, now) for signum in came if signum not in self._due)
        self._due.difference_update(came)
        self._news.set()


class Signals:
    """On the main thread, one at a time."""

    def __init__(self, post: Callable[[ev.Event], None], guardian: Guardian | None) -> None:
        self._post = post
        self._stop_asked = asyncio.Event()
        self._pipe = SignalPipe(self._heard)
        self._witness = Witness(guardian)

    def _heard(self, signum: int) -> None:
        self._post(ev.Signalled(signum, time.time()))
        if signum in STOP_SIGNALS:
            self._stop_asked.set()

    async def stop_asked(self, limit_s: float) -> None:
        """Wait until a stop signal has come, or for so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop_asked.wait(), limit_s)

    def install(self, inherited: InheritedSignals) -> None:
        """From now on they are heard; what was held back comes first."""
        wanted = signal.valid_signals() - NOT_FORWARDED
        if inherited.hangup_ignored:  # started under nohup: a hang-up is nobody's wish to stop
            wanted.discard(signal.SIGHUP)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._pipe.catch(wanted)

    async def sent_to_all(self, event: ev.Signalled) -> bool:
        """Whether the signal was sent to every process that we have; in bounded time. As PID 1 and
        without a guardian it is taken for ours alone."""
        return await self._witness.has_had(event.signum, event.at)

    def close(self) -> None:
        """The handlers stay, without effect: our exit is not to be cut short any more."""
        self._pipe.close()
        self._witness.close()
