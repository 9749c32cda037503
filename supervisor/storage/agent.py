"""The supervisor's side of the sync process: started, listened to, started anew, told to publish.

Nothing here loads the client of S3 or waits for a transfer. A process that dies is started again
after a growing pause; what is at the target is whole at any time, so nothing is lost but time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from supervisor.children.child import Child, PumpLike, spawn
from supervisor.children.execution import SpawnError
from supervisor.life.words import ProcessSpec
from supervisor.storage import notices
from supervisor.storage.lines import Lines
from supervisor.storage.notices import (
    Failed,
    Notice,
    PublishedAll,
    PublishNow,
    Said,
    Standing,
    State,
    Unsent,
)

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""Between a death of the process and its next start: doubled each time, up to this."""
STEADY_S: Final = 300.0
"""A process that lived this long is started again after the first pause."""
MARGIN_S: Final = 0.5
"""The process is to be done so much before its budget is over, to say what it did not do."""
LAST_WORD_S: Final = 0.5
"""After the budget: from SIGTERM to SIGKILL."""

Say = Callable[..., None]
"""Level, event, fields."""


class Agent:
    """One sync process, or its successors. Belongs to the event loop's thread."""

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        attach: Callable[[int], PumpLike],
        watch: Callable[[int], None],
        forget: Callable[[int], None],
        say: Say,
        failed: Callable[[Failed], None],
    ) -> None:
        """``attach`` carries the process's stderr away; ``watch`` and ``forget`` tell the guardian;
        ``failed`` hears that a transfer cannot be done."""
        self.standings: tuple[Standing, ...] = ()
        """How the transfers stand, as last heard."""
        self.pid: int | None = None
        self._spec = spec
        self._attach = attach
        self._watch = watch
        self._forget = forget
        self._say = say
        self._failed = failed
        self._commands: int | None = None
        """Write end of its stdin, while it lives."""
        self._child: Child | None = None
        self._order: PublishNow | None = None
        self._deadline = 0.0
        """Of publishing, ``time.monotonic()``."""
        self._wake = asyncio.Event()
        self._published: asyncio.Future[tuple[Unsent, ...]] = (
            asyncio.get_running_loop().create_future()
        )

    async def run(self) -> None:
        """Keep a process running until it has published, or for as long as nobody cancels."""
        pause_s = FIRST_PAUSE_S
        while not self._published.done():
            began = time.monotonic()
            how = await self._live()
            if self._published.done():
                return
            if time.monotonic() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            wait_s = 0.0 if self._order and pause_s == FIRST_PAUSE_S else pause_s
            self._say("warning", "storage.ended", how=how, again_in_s=round(wait_s, 1))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if wait_s:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait_s)
            self._wake.clear()

    async def publish(self, budget_s: float, *, results: bool) -> tuple[Unsent, ...]:
        """Have everything sent that is left; what was not, in at most ``budget_s``."""
        self._deadline = time.monotonic() + budget_s
        self._order = PublishNow(budget_s, results)
        self._wake.set()
        self._tell()
        while not self._published.done():
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                return await self._give_up()
            await asyncio.wait({self._published}, timeout=left_s)
        return self._published.result()

    def hurry(self, budget_s: float) -> None:
        """There is less time than was said: a stop signal came."""
        if self._order is not None and not self._published.done():
            self._deadline = min(self._deadline, time.monotonic() + budget_s)
            self._tell()

    # ------------------------------------------------------------------ the process

    async def _live(self) -> str:
        """One process from its start to its end; how it ended, in words."""
        try:
            read_end, write_end = os.pipe()
        except OSError as error:  # too many open files: as where no process is to be had
            return str(error.strerror)
        try:
            child = spawn(self._spec, stdin=read_end)
        except SpawnError as error:
            os.close(write_end)
            return error.message
        finally:
            os.close(read_end)
        self._child, self.pid = child, child.pid
        self._watch(child.pid)
        os.set_blocking(write_end, False)
        self._commands = write_end
        stdout, stderr = child.take_pipes()
        pumps: Sequence[PumpLike] = (
            Lines(stdout, self._hear, limit=notices.LINE_LIMIT),
            self._attach(stderr),
        )
        self._say("info", "storage.started", pid=child.pid)
        self._tell()
        try:
            end = await child.run_to_end(pumps, term_s=LAST_WORD_S, kill_s=1.0, drain_s=1.0)
        finally:
            self._commands = self._child = self.pid = None
            os.close(write_end)
            self._forget(child.pid)
        return str(end.status)

    def _tell(self) -> None:
        """Give the order to the process, with the time that is left."""
        if self._order is None or self._commands is None:
            return
        left_s = max(0.0, self._deadline - time.monotonic() - MARGIN_S)
        order = PublishNow(left_s, self._order.results)
        with contextlib.suppress(OSError):  # it is ending; its successor is told
            os.write(self._commands, notices.encode(order))

    async def _give_up(self) -> tuple[Unsent, ...]:
        """The time is over. What it says in its last moment counts, else what it said before."""
        if self._child is not None:
            self._child.signal(signal.SIGTERM)
            await asyncio.wait({self._published}, timeout=LAST_WORD_S)
        if self._child is not None:
            self._child.kill_soon()
        if self._published.done():
            return self._published.result()
        unsent = tuple(
            Unsent(each.name, each.pending_files, each.pending_bytes, (), "out of time")
            for each in self.standings
            if each.pending_files
        )
        self._published.set_result(unsent or (Unsent("transfers", 0, 0, (), "nothing heard"),))
        return self._published.result()

    # ------------------------------------------------------------------ what it says

    def _hear(self, line: bytes) -> None:
        try:
            notice: Notice = notices.decode(line)
        except ValueError:
            text = line[:200].decode("utf-8", "replace")
            self._say("warning", "storage.unintelligible", line=text)
            return
        match notice:
            case State(transfers):
                self.standings = transfers
            case Said(event, level, fields):
                self._say(level, event, **dict(fields))
            case Failed():
                self._failed(notice)
            case PublishedAll(unsent) if not self._published.done():
                self._published.set_result(unsent)
            case _:
                pass
