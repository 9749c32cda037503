"""What a member has to tell its master: the newest report, until it is acknowledged."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

from supervisor.cluster.protocol import HostReport, JobIdentity
from supervisor.life import events as ev


class Outbox:
    """``instance`` names this run of the supervisor, ``job`` the job that this host is of."""

    def __init__(self, instance: str, job: JobIdentity) -> None:
        self.newest: HostReport | None = None
        self._instance = instance
        self._job = job
        self._numbers = itertools.count(1)
        self._unsent = asyncio.Event()
        self._acknowledged = 0
        self._nobody_listens = False
        self._progress = asyncio.Event()
        """Set, and replaced by a new one, at every acknowledgement and finding."""

    def put(self, told: ev.Report) -> None:
        """Have this told, in place of what is still to be told. The same again is no news."""
        last = self.newest
        report = HostReport(
            instance=self._instance,
            phase=told.phase,
            script_ended=told.script_ended,
            cause=told.cause,
            heard=0,
            seq=last.seq if last else 0,
            job=self._job,
            holds=told.holds,
            turn=told.turn,
            attempt=told.attempt,
            progressed=told.progressed,
            ordered=told.ordered,
        )
        if report != last:
            self.newest = replace(report, seq=next(self._numbers))
            self._unsent.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the newest report is acknowledged.

        False if ``timeout_s`` seconds pass, and at once where nobody is there to hear it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.newest is not None and self._acknowledged < self.newest.seq:
                    if self._nobody_listens:
                        return False
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    # ----------------------------------------------------------------- whoever sends

    async def wait(self) -> None:
        """Until there is something to be sent."""
        await self._unsent.wait()

    def taken(self) -> None:
        """It is being sent: only a later report is news."""
        self._unsent.clear()

    def not_sent(self) -> None:
        """It has to be sent once more."""
        self._unsent.set()

    def acknowledge(self, report: HostReport) -> None:
        """Whoever it was for has heard it, or has no more use for it."""
        self._acknowledged = max(self._acknowledged, report.seq)
        self._stir()

    def forgotten(self) -> None:
        """Whoever acknowledged is gone, and his successor knows nothing of us."""
        if self.newest is not None:
            self._acknowledged = 0
            self._unsent.set()

    def found(self, *, nobody_listens: bool) -> None:
        """What is known of the master has changed."""
        self._nobody_listens = nobody_listens
        self._stir()

    def _stir(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()
