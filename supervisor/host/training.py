"""What this host's script does, seen from outside: looked at once a second for the status, the hang
detector and the ledger, and said where people should hear of it.

Nothing of this is loaded before the script runs, and nothing of it stands in the streams' way.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from supervisor.aside import Aside
from supervisor.contract.distribution import Strategy
from supervisor.host.book import Book
from supervisor.host.console import Outputs
from supervisor.host.files import FILES_CLOCK
from supervisor.host.ledgers import Ledgers
from supervisor.host.present import Present
from supervisor.host.running import Running
from supervisor.host.saving import Saving
from supervisor.host.startup import Startups, fields_of
from supervisor.host.tasks import Tasks
from supervisor.host.timeline import Say
from supervisor.life import events as ev
from supervisor.life.state import State
from supervisor.life.words import Outcome, Role
from supervisor.plan.plan import Plan

if TYPE_CHECKING:  # not needed before the script's start
    from supervisor.children.watchdog import Steps
    from supervisor.host.listening import Listening
    from supervisor.host.traces import TraceFiles
    from supervisor.status.snapshot import ProgressRow
    from supervisor.training.course import Course, Track
    from supervisor.training.reading import Reading
    from supervisor.training.saves import Saved

FIRST_S: Final = 0.3
"""A script that has ended by then has trained nothing, and its end waits for no look."""
FIRST_LOOKS: Final = 10
"""The first looks come as soon one after the other: scripts may be short …"""
LOOK_S: Final = 1.0
"""… and later there is so long between two, and more where they take long: …"""
SHARE: Final = 20
"""… a look takes no more than this part of the time."""
QUIET_S: Final = 2.0
"""While nothing is new the pauses grow up to this, those between two looks at files too; later up
to …"""
QUIET_SHARE: Final = 15
"""… this part of the time in which nothing was new, …"""
SELDOM_S: Final = 10.0
"""… and up to this: a process that waits is to cost nothing."""
LOAD_S: Final = 60.0
"""For our own modules; if they take longer nothing is looked at."""
FILES_S: Final = 2.0
"""For the files, which may not answer."""
SETTLE_S: Final = 2.5
"""For the last look, after the script's end."""
HURRY_S: Final = 5.0
"""Of the platform's limit; of less nothing is spent on keeping the ledger."""
LAST_S: Final = 1.0
"""… before what lies there is sent for the last time."""
SAVING_S: Final = 10.0
"""A save goes on for so long after a file of it has changed."""


class Training:
    """Belongs to the event loop's thread. Of each host one script is looked at: the one that
    trains."""

    def __init__(
        self,
        present: Present,
        *,
        post: Callable[[ev.Event], None],
        say: Say,
        tasks: Tasks,
        outputs: Outputs,
        prepared: Callable[[], Mapping[str, float]],
    ) -> None:
        """``prepared``: see ``Startups``."""
        self.process = _script_of(present.plan)
        """Its name; empty: this host trains nothing."""
        self.book = Book(present, self.process)
        self.startups = Startups(present, self.book, prepared)
        self.saving = Saving(present, self.book, say)
        self._ledgers = Ledgers(present, self.book, say)
        self._present = present
        self._post = post
        self._say = say
        self._tasks = tasks
        self._outputs = outputs
        self._aside = Aside("training")
        self._files: TraceFiles | None = None
        self._listening: Listening | None = None
        self._course: Course | None = None
        self._begun = False
        """``_course`` is that of the attempt that runs."""
        self._began_with: Saved | None = None
        self._told: list[Reading] = []
        """By notification, since the last look."""
        self._saving_at: float | None = None
        self._said: set[str] = set()
        """In this attempt."""
        self._started_at = 0.0
        self._looking = asyncio.Lock()
        self._over = asyncio.Event()
        """The script has ended."""
        self._done = asyncio.Event()
        """The last look was taken."""
        self._done.set()

    # ------------------------------------------------------------------ the life of an attempt

    def seen(self, state: State) -> None:
        """The host's life has moved on."""
        self.book.seen(state)

    def started(self, running: Running) -> None:
        """A process was started. Called on its way, so nothing is loaded yet."""
        if running.spec.name != self.process:
            return
        self.book.started()
        before, self._over, self._done = self._done, asyncio.Event(), asyncio.Event()
        self._started_at, self._begun = time.monotonic(), False
        began_ns, position = time.clock_gettime_ns(FILES_CLOCK), self._outputs.recent.end
        watch = self._watch(running, before, began_ns, position)
        self._tasks.serve("training", watch, vital=False)

    def ended(self, process: str) -> None:
        """A process has ended, and its output is read."""
        if process == self.process:
            self._over.set()

    async def looked(self, limit_s: float = LAST_S) -> None:
        """The last look was taken, or takes too long."""
        await _within(limit_s, self._done)

    async def settle(self) -> None:
        """… and what it comes to is kept and said; where the platform's limit is near, less of it
        is waited for."""
        left_s = self._present.left_s
        await self.looked(SETTLE_S if left_s is None else min(SETTLE_S, left_s / 10))
        if left_s is None or left_s > HURRY_S:
            await self._keep()
        self._say_ended()

    async def _watch(
        self, running: Running, before: asyncio.Event, began_ns: int, position: int
    ) -> None:
        """From the script's start to its end, and once more then."""
        over, done = self._over, self._done
        try:
            if await _within(FIRST_S, over):
                return
            await self._aside(LOAD_S, _load)
            await _within(SETTLE_S, before)
            await self._begin(began_ns, position)
            pace = _Pace()
            while not over.is_set():
                await self._look(running, pace)
                await self._keep(now=False)
                await _within(pace.pause_s, over)
            await self._look(running, _Pace(), time.monotonic())
            await self._keep()
        finally:
            done.set()

    async def _begin(self, began_ns: int, position: int) -> None:
        from supervisor.host.listening import Listening  # noqa: PLC0415
        from supervisor.host.traces import TraceFiles  # noqa: PLC0415
        from supervisor.training.course import Course  # noqa: PLC0415

        plan = self._present.plan
        pattern = plan.contract.settings.progress_pattern
        self._listening = Listening(self._outputs.recent, self.process, pattern, position)
        self._began_with, self._saving_at = None, None
        self.saving.begin()
        self._said.clear()
        self._told.clear()
        files = self._files = self._files or TraceFiles(plan.paths)
        with contextlib.suppress(TimeoutError):
            self._began_with = await self._aside(FILES_S, files.begin, began_ns)
        await self._ledgers.read()
        step = self._began_with.step if self._began_with else 0
        self._course, self._begun = Course(begun=step), True
        if step is None and self._began_with and self.book.is_a_step(self._began_with):
            step = self._began_with.number
        if step is not None:
            self.book.begins_with(step)

    async def _keep(self, *, now: bool = True) -> None:
        saved = self.saving.saved or self._began_with
        await self._ledgers.write(saved.path if saved else "", now=now)

    # ------------------------------------------------------------------ one look

    async def look_now(self, running: Running) -> None:
        """Before the script is judged by what was seen of it."""
        if running.spec.name == self.process and self._begun:
            await self._look(running, _Pace())

    async def _look(self, running: Running, pace: _Pace, ended_at: float = math.inf) -> None:
        """``ended_at``: when the script has ended, ``time.monotonic()``."""
        async with self._looking:
            readings = await self._readings(running, with_files=pace.begin())
            pace.end(news=bool(readings))
            assert self._course is not None
            now = time.monotonic()
            self._course = course = self._course.take(readings, now)
            best = course.best(now)
        if best is None or not best.last.has_trained(course.begun):
            return
        at = now - max(0.0, time.time() - best.last.at)
        at = min(max(at, self._started_at), ended_at)
        self.book.reached(best.last.unit, best.last.step, at)
        self._say_begun(best, running.imported_s)
        self._say_not_resumed()
        self._say_diverged(readings)

    async def _readings(self, running: Running, *, with_files: bool) -> list[Reading]:
        """What is new since the last look."""
        assert self._listening is not None
        assert self._files is not None
        readings = [*self._told, *self._listening.read()]
        self._told.clear()
        if not with_files:
            return readings
        child = running.child
        pids = (child.pid, *child.descendants()) if child and running.end is None else ()
        with contextlib.suppress(TimeoutError):
            traces = await self._aside(FILES_S, self._files.look, pids)
            readings += traces.readings
            if traces.saving:
                self._saving_at = time.monotonic()
            if traces.saved is not None:
                self.saving.take(traces.saved)
        return readings

    def told(self, reading: Reading) -> None:
        """The script has said how far it is, by a notification."""
        if self._course is not None:
            self._told.append(reading)

    # ------------------------------------------------------------------ what is said

    def _once(self, what: str) -> bool:
        new = what not in self._said
        self._said.add(what)
        return new

    @property
    def _speaks(self) -> bool:
        """For the job, or for a training of its own."""
        plan = self._present.plan
        return plan.is_master or plan.strategy is Strategy.NONE

    def _say_ended(self) -> None:
        if self.book.unit is None:
            return
        from supervisor.training.telling import is_worth_it, ledger  # noqa: PLC0415

        row = self.book.row()
        failed = self._present.verdict.outcome is Outcome.FAILED
        if row is not None and is_worth_it(row, failed=failed):
            run = row["run"]
            told = {"wall_s": run["wall_s"], "goodput": run["goodput"], "new_steps": run["steps"]}
            text = "; ".join(ledger(row))
            self._say("info" if self._speaks else "debug", "training.ended", text=text, **told)

    def _say_begun(self, best: Track, import_s: float | None) -> None:
        """Of hosts that train together the master speaks, and after a restart another line does."""
        if not self._once("began"):
            return
        reading = best.first
        at = time.monotonic() - max(0.0, time.time() - reading.at)
        row = self.startups.first_step(self._started_at, at, import_s)
        self._say(
            "info" if self._speaks and self.book.starts == 1 else "debug",
            "training.began",
            **_told(reading),
            **fields_of(row),
        )

    def _say_not_resumed(self) -> None:
        """Where something was there to go on from."""
        began_with, course = self._began_with, self._course
        if began_with is None or began_with.unit is None or course is None:
            return
        firsts = [first for first in course.firsts() if first.unit is began_with.unit]
        if not firsts or not self._once("resumed"):
            return
        first = max(firsts, key=lambda reading: reading.step)
        if first.step < began_with.number:
            self._say(
                "warning",
                "training.not_resumed",
                **_told(first),
                saved=began_with.number,
                path=began_with.path,
            )

    def _say_diverged(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            if reading.loss is None or math.isfinite(reading.loss) or reading.is_apart:
                continue
            if not self._once("diverged"):
                return
            self._say("warning", "training.diverged", loss=str(reading.loss), **_told(reading))
            if self._present.plan.contract.settings.end_on_nan:
                message = (
                    f"the loss is {reading.loss} at {reading.unit} {reading.step} "
                    f"({_source(reading)}), and SUPERVISOR_END_ON_NAN is set"
                )
                self._post(ev.Diverged(self.process, message, time.time()))

    # ------------------------------------------------------------------ what others ask

    def steps(self, process: str) -> Steps | None:
        """For the hang detector."""
        course = self._course
        if process != self.process or not self._begun or not course or course.moved_at is None:
            return None
        from supervisor.children.watchdog import Steps  # noqa: PLC0415

        saving = self._saving_at is not None and time.monotonic() - self._saving_at < SAVING_S
        evaluates = self._listening is not None and self._listening.evaluating
        return Steps(course.moves, course.gap_s, course.in_stride, evaluates, saving)

    def last_step(self) -> str:
        """``step 50 (output, stdout)``; empty where nothing was said."""
        best = self._course and self._course.best(time.monotonic())
        return f"{best.last.unit} {best.last.step} ({_source(best.last)})" if best else ""

    def row(self) -> ProgressRow | None:
        """For ``/status`` and the report; None where nothing was said."""
        best = self._course and self._course.best(time.monotonic())
        if not best:
            return None
        last = best.last
        return {
            "unit": last.unit.value,
            "step": last.step,
            "total": last.total,
            "rate": best.rate,
            "left_s": best.left_s,
            "loss": None if last.loss is None else _finite(last.loss),
            "source": last.origin.value,
            "where": last.where,
            "at": last.at,
        }


class _Pace:
    """When to look again, and whether at the files too: while nothing is new ever more seldom."""

    def __init__(self) -> None:
        self._looks = 0
        self._began = self._files_at = 0.0
        self._with_files = False
        self._files_s = self._quiet_s = FIRST_S
        self._news_at = time.monotonic()

    def begin(self) -> bool:
        """A look begins; whether the files are looked at."""
        self._looks, self._began = self._looks + 1, time.monotonic()
        self._with_files = self._began >= self._files_at
        return self._with_files

    def end(self, *, news: bool) -> None:
        now = time.monotonic()
        if news:
            self._news_at = now
        most_s = min(max(QUIET_S, (now - self._news_at) / QUIET_SHARE), SELDOM_S)
        self._quiet_s = LOOK_S if news else min(2 * self._quiet_s, most_s)
        if self._with_files:
            self._files_s = FIRST_S if news else min(2 * self._files_s, most_s)
            self._files_at = self._began + self._files_s

    @property
    def pause_s(self) -> float:
        least_s = FIRST_S if self._looks < FIRST_LOOKS else self._quiet_s
        return max(least_s, SHARE * (time.monotonic() - self._began))


def _load() -> None:
    """What a look needs. In a thread: where nothing is compiled yet it takes a second, and three on
    a busy machine, in which a master that does not answer is given up by the others."""
    from supervisor.children import watchdog  # noqa: F401, PLC0415
    from supervisor.host import listening, traces  # noqa: F401, PLC0415
    from supervisor.training import course, saves, telling, totals  # noqa: F401, PLC0415


def _script_of(plan: Plan) -> str:
    """The script of this host that trains; an evaluator's where there is no other."""
    scripts = [
        spec.name
        for spec in sorted(plan.processes, key=lambda spec: spec.role is Role.EVALUATOR)
        if not spec.essential and spec.role is not Role.PREPARE
    ]
    return scripts[0] if scripts else ""


def _told(reading: Reading) -> dict[str, object]:
    """What the log says of a reading."""
    return {"unit": reading.unit.value, "step": reading.step, "source": _source(reading)}


def _source(reading: Reading) -> str:
    return f"{reading.origin}, {reading.where}" if reading.where else str(reading.origin)


def _finite(number: float) -> float | str:
    """JSON has no other numbers."""
    return number if math.isfinite(number) else str(number)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether it happens in this time."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
