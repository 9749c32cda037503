"""Those who go through a child's tree in rounds: one asks each member to end, the other kills it.

A visitor knows whom it has met, whom it has told, and when another round is worth it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from supervisor.life.words import Respite
from supervisor.linux import procfs
from supervisor.linux.pidfd import lives, send_exactly
from supervisor.linux.procfs import Process

FIRST_LOOK_S = 0.001

LAST_LOOK_S = 0.05
"""Pauses between two looks at a tree that is coming down; they double from first to last."""

PATIENT_S = 1.0
"""Between two surveys while descendants save; whether they are gone is looked at more often."""

SAMPLE = 16
"""Processes looked at between two surveys: when all are gone, few of the others can be left."""


class Visitor:
    """Called with every living member of a tree in a survey; the leader is none of its business."""

    hunts = False
    """Whether to chase what keeps forking while others are still there."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.alive: list[Process] = []
        self.seen: set[tuple[int, int]] = set()
        self.cost_s = 0.0
        self._pause_s = FIRST_LOOK_S
        self._until = 0.0

    def __call__(self, process: Process) -> None:
        if process.pid == self.leader:
            return
        self.alive.append(process)
        key = (process.pid, process.start)
        if key not in self.seen:
            self.seen.add(key)
            self.meet(process)

    def meet(self, process: Process) -> None:
        """A member that was not there in an earlier survey."""
        raise NotImplementedError

    def hurry(self) -> None:
        """The next pauses are the shortest again, and the one under way is over."""
        self._pause_s = FIRST_LOOK_S
        self.cost_s = 0.0
        self._until = 0.0

    async def pause(self, deadline: float, *, least_s: float = 0.0) -> None:
        """Sleep until another survey is worth it, at most until ``deadline``.

        That is when a sample of those seen alive is gone, for until then the tree cannot be; or
        after three times what a survey takes, or ``least_s``, for what has been made meanwhile.
        """
        rest_s = max(self._pause_s, 3 * self.cost_s, least_s)
        self._until = min(deadline, time.monotonic() + rest_s)
        sample = self.alive[:: max(1, len(self.alive) // SAMPLE)]
        while (rest := self._until - time.monotonic()) > 0:
            await asyncio.sleep(min(self._pause_s, rest))
            self._pause_s = min(2 * self._pause_s, LAST_LOOK_S)
            while sample and not lives(sample[-1]):
                sample.pop()
            if not sample:
                return


class Terminator(Visitor):
    """The respite's signal and SIGCONT, once to each process."""

    def __init__(self, leader: int, group_sent: Mapping[int, int]) -> None:
        super().__init__(leader)
        self.respite = Respite(0.0)
        self._group_sent = group_sent
        self._told: set[tuple[int, int]] = set()
        self._untold: list[Process] = []
        self._everybody = False
        self._first_survey_at: int | None = None
        """When it was over (``procfs.now_ticks``)."""

    @property
    def signum(self) -> int:
        return self.respite.signum

    def include_all(self) -> None:
        """From the next survey on those are asked as well that came after the leader's end."""
        self._everybody = True
        self.hurry()

    def __call__(self, process: Process) -> None:
        super().__call__(process)
        key = (process.pid, process.start)
        if process.pid == self.leader or key in self._told:
            return
        if not self.respite.asked:
            self._told.add(key)
            self._send(process)
        elif (
            self._everybody
            or self._first_survey_at is None
            or process.start < self._first_survey_at
        ):
            self._told.add(key)
            self._untold.append(process)

    def meet(self, process: Process) -> None:
        pass

    def tell(self) -> None:
        """Ask those that were found, all of them found first: a process that is asked may start
        another to save, and that one is not to be taken for one that was there before."""
        if self._first_survey_at is None:
            self._first_survey_at = procfs.now_ticks()
        untold, self._untold = self._untold, []
        for process in untold:
            self._send(process)

    async def pause(self, deadline: float, *, least_s: float = 0.0) -> None:
        await super().pause(deadline, least_s=PATIENT_S if self.respite.asked else least_s)

    def _send(self, process: Process) -> None:
        group_sent_at = self._group_sent.get(self.signum)
        had_it = (
            group_sent_at is not None
            and process.pgrp == self.leader
            and process.start < group_sent_at
        )
        if not had_it:
            send_exactly(process, self.signum)
        send_exactly(process, signal.SIGCONT)


class Killer(Visitor):
    """SIGKILL to each process's whole group: atomic against fork(2), one call for thousands."""

    hunts = True

    def __init__(
        self, leader: int, before: Callable[[Sequence[Process]], None] = lambda _: None
    ) -> None:
        """``before`` is told of each that is met, before its end."""
        super().__init__(leader)
        self.killed: dict[tuple[int, int], None] = {}
        self._before = before
        self._us = os.getpgrp()

    def __call__(self, process: Process) -> None:
        if process.pid == self.leader:
            # Has it already, by the group or below; counted so that kill_tree can name it.
            self.killed.setdefault((process.pid, process.start))
            return
        super().__call__(process)

    def meet(self, process: Process) -> None:
        self._before((process,))
        self.killed[process.pid, process.start] = None
        if process.pgrp not in (0, 1, self._us):
            # A group never spans two sessions, and the session belongs to this tree.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pgrp, signal.SIGKILL)
                return
        send_exactly(process, signal.SIGKILL)
