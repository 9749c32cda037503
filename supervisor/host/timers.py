"""The reducer's deadlines, as timers of the event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from supervisor.life import events as ev


class Timers:
    """One a deadline. Each expires once, unless it is disarmed before."""

    def __init__(self, expired: Callable[[ev.Deadline], None]) -> None:
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._handles: dict[ev.Deadline, asyncio.TimerHandle] = {}
        self._armed_at: dict[ev.Deadline, float] = {}

    def arm(self, deadline: ev.Deadline, seconds: float) -> None:
        """Anew, where it is armed already."""
        self.disarm(deadline)
        self._armed_at[deadline] = self._loop.time()
        self._handles[deadline] = self._loop.call_later(seconds, self._expire, deadline)

    def extend(
        self, deadline: ev.Deadline, seconds: float, *, reserve_s: float, most_s: float
    ) -> float | None:
        """See ``events.Extend``. When it expires now, in seconds; None: when it would have."""
        if (handle := self._handles.get(deadline)) is None:
            return None
        now = self._loop.time()
        limit = now + self.left_s(ev.Deadline.LIMIT) - reserve_s
        at = min(now + seconds, limit, self._armed_at[deadline] + most_s)
        if at <= handle.when():
            return None
        handle.cancel()
        self._handles[deadline] = self._loop.call_at(at, self._expire, deadline)
        return at - now

    def disarm(self, deadline: ev.Deadline) -> None:
        handle = self._handles.pop(deadline, None)
        if handle is not None:
            handle.cancel()

    def left_s(self, deadline: ev.Deadline) -> float:
        """Until it expires; infinite where it is not armed."""
        handle = self._handles.get(deadline)
        return math.inf if handle is None else handle.when() - self._loop.time()

    def close(self) -> None:
        for deadline in tuple(self._handles):
            self.disarm(deadline)

    def _expire(self, deadline: ev.Deadline) -> None:
        del self._handles[deadline]
        self._expired(deadline)
