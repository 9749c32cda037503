"""The job's document on the master, and everybody who waits for its next revision."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from supervisor.cluster.protocol import MAX_MISSING, JobDocument, encode_job
from supervisor.life.attempts import Order, Past
from supervisor.life.words import JobState, Verdict

LEAP = 1000
"""Further than any revision that a host may have heard of from the master before this one."""


class JobBoard:
    """The job's document on the master, and everybody who waits for its next revision.

    A revision's body is encoded once, however many read it, and one event wakes all waiters.
    Changes of ``missing`` alone are gathered: a thousand hosts that join one after the other would
    otherwise wake each other a million times.

    Args:
        run: names this run of the job.
        missing: the hosts that have not joined yet.
        gather_s: how long changes of ``missing`` alone are gathered.
        restarts: whether what fails is started anew.

    """

    def __init__(
        self,
        run: str,
        *,
        missing: tuple[str, ...] = (),
        gather_s: float = 1.0,
        restarts: bool = False,
    ) -> None:
        missing = missing[:MAX_MISSING]
        self._document = JobDocument(run, 1, JobState.JOINING, None, missing, restarts=restarts)
        self._body = encode_job(self._document)
        self._changed = asyncio.Event()
        self._gather_s = gather_s
        self._gathered: tuple[str, ...] = missing
        self._restore = ""
        self._order: Order | None = None
        self._past: tuple[Past, ...] = ()
        self.runs = frozenset({run})
        """The names that this run has had."""
        self.taken_up = ""
        """The one that the job had under the master before this one; empty: there was none."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def document(self) -> JobDocument:
        return self._document

    @property
    def body(self) -> bytes:
        return self._body

    def announce(
        self,
        state: JobState,
        verdict: Verdict | None = None,
        missing: tuple[str, ...] = (),
        restore: str = "",
        order: Order | None = None,
        past: tuple[Past, ...] = (),
    ) -> int:
        """Publish the job's state and wake everybody who waits; return its revision.

        Announcing what is announced already changes nothing. If only ``missing`` is new, it is
        published within ``gather_s`` seconds and the revision is still the present one. Without an
        ``order`` the last one stands. To be called in the event loop.
        """
        old = self._document
        missing = missing[:MAX_MISSING]
        self._gathered = missing
        order = old.order if order is None else order
        if (old.state, old.verdict, old.restore, old.order) != (state, verdict, restore, order):
            self._restore, self._order, self._past = restore, order, past or old.past
            self._publish(state, verdict)
        elif old.missing != missing and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                self._gather_s, self._publish, state, verdict
            )
        return self._document.revision

    def take_up(self, run: str, revision: int) -> None:
        """Go on with a run that began under another master, of which a host knows so much.

        Its hosts know of revisions that were close to each other; none of them has heard of those
        that come now.
        """
        old = self._document
        self.taken_up, self.runs = run, self.runs | {run}
        if run == old.run and revision <= old.revision:
            return
        revision = max(revision, old.revision) + LEAP
        self._document = replace(old, run=run, revision=revision)
        self._body = encode_job(self._document)
        self.wake()

    def _publish(self, state: JobState, verdict: Verdict | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        old = self._document
        new = replace(
            old,
            revision=old.revision + 1,
            state=state,
            verdict=verdict,
            missing=self._gathered,
            restore=self._restore,
            order=self._order,
            past=self._past,
        )
        if replace(old, revision=new.revision) != new:
            self._document = new
            self._body = encode_job(new)
            self.wake()

    def wake(self) -> None:
        """Answer everybody who waits with what is there."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, run: str, revision: int, *, timeout_s: float) -> bytes:
        """Give the body as soon as it is another one than that revision of that run.

        After ``timeout_s`` seconds it is given as it is.
        """
        if run == self._document.run and revision >= self._document.revision:
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await changed.wait()
        return self._body
