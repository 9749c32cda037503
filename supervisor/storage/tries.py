"""One round of a transfer after another, each tried again until it succeeds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from supervisor.storage.ledger import Ledger
from supervisor.storage.store import Reason, StorageError
from supervisor.storage.voice import Voice

PERMANENT: Final = frozenset({Reason.DENIED, Reason.NO_BUCKET, Reason.NOT_FOUND, Reason.LOCAL})
"""Waiting does not change them; somebody has to. It is tried every ``SLOW_S`` whether he did."""
_ONCE_MORE_S: Final = 0.5
SLOW_S: Final = 60.0
LONGEST_PAUSE_S: Final = 60.0
"""Between two tries, while the job runs."""
LONGEST_FINAL_PAUSE_S: Final = 5.0
"""The same, when it is over: the budget is short."""
SAY_AGAIN_S: Final = 300.0
"""A failure that lasts is said so often."""


class Tries:
    """``retry_s``: a failure that lasts longer is told as one of the transfer."""

    def __init__(self, voice: Voice, ledger: Ledger, *, retry_s: float) -> None:
        self.final = False
        """The job is over."""
        self._voice = voice
        self._ledger = ledger
        self._retry_s = retry_s
        self._failed: set[Reason] = set()
        """Those of this failure that were told as one of the transfer."""
        self._said_at_s = 0.0
        self._said: Reason | None = None

    async def patiently(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """A round, tried again after growing pauses until it succeeds: what it returned.

        Raises StorageError when the job is over and waiting would change nothing, and for a place
        that another run has claimed.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StorageError),
            wait=self._pause_s,
            sleep=asyncio.sleep,
            before_sleep=self._say_failure,
            stop=self._is_hopeless,
            reraise=True,
        )
        again: bool = await retrying(work)
        if self._ledger.failing:
            self._ledger.failing, self._said = "", None
            self._failed.clear()
            self._voice.say("transfer.recovered")
            self._ledger.changed()
        return again

    def _pause_s(self, state: RetryCallState) -> float:
        longest = LONGEST_FINAL_PAUSE_S if self.final else LONGEST_PAUSE_S
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, StorageError) and error.reason in PERMANENT:
            return _ONCE_MORE_S if self.final else SLOW_S
        return float(wait_random_exponential(multiplier=1, max=longest)(state))

    def _is_hopeless(self, state: RetryCallState) -> bool:
        """At the end nobody waits for what waiting does not change. Once more is for a race."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, StorageError) and error.reason is Reason.FENCED:
            return True
        permanent = isinstance(error, StorageError) and error.reason in PERMANENT
        return self.final and permanent and state.attempt_number > 1

    def _say_failure(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, StorageError)
        self._ledger.failing = str(error)
        self._ledger.changed()
        now = time.monotonic()
        if error.reason is not self._said or now - self._said_at_s >= SAY_AGAIN_S:
            self._said, self._said_at_s = error.reason, now
            pause_s = state.next_action.sleep if state.next_action else 0.0
            self._voice.say(
                "transfer.failing",
                "warning",
                error=self._ledger.failing,
                tries=state.attempt_number,
                again_in_s=round(pause_s, 1),
            )
        long = (state.seconds_since_start or 0.0) > self._retry_s
        if (error.reason in PERMANENT or long) and error.reason not in self._failed:
            self._failed.add(error.reason)
            self._voice.fail(self._ledger.failing)
