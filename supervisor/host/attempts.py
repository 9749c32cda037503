"""Attempts on this host: whether training has moved, and what is made ready for the next one. What
starts anew, and whether, is decided in ``life/restarting.py``; what is told of it: ``history.py``.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from supervisor import regular
from supervisor.contract import record
from supervisor.contract.distribution import Strategy
from supervisor.contract.paths import Paths
from supervisor.host.files import FILES_CLOCK, Files
from supervisor.host.history import History
from supervisor.host.keeping import Keeping
from supervisor.host.present import Present
from supervisor.host.processes import Processes
from supervisor.host.records import process_record
from supervisor.host.tasks import Tasks
from supervisor.host.timeline import Say
from supervisor.life import events as ev
from supervisor.life.state import State, process_of
from supervisor.life.words import Cause, Phase, ProcessSpec
from supervisor.plan.plan import processes_in
from supervisor.streams.masking import Masker

LOOK_S: Final = 2.0
"""A failure is judged without an answer after so long: nothing else is heard meanwhile. It takes a
few milliseconds, and more where processors are short."""
HANDOVER_S: Final = 55.0
"""So long what the script saved may take to be sent; less than `restarting.HANDOVER_S`."""
BEAT_S: Final = 10.0
"""A heartbeat counts as progress so long after the attempt's start: a script that only comes up
touches the file as well."""
_CAUSE_LENGTH: Final = 1024
"""Characters of ``SUPERVISOR_LAST_CAUSE``."""
_YOUNGEST: Final = 2**63
_NUMBER: Final = r"(\d+)\D*$"
"""A text: the script's start does not wait for it to be compiled."""


class Mark(NamedTuple):
    """How far training had come, by what lies in the job's directories."""

    checkpoint: str = ""
    """The newest that is complete: its path …"""
    name: str = ""
    """… and its path below the directory of checkpoints."""
    written_ns: int = 0
    step: float | None = None
    """What the script has written into its progress file."""
    beat_ns: int = 0
    """When the heartbeat file was touched last."""

    def moved_to(self, later: Mark, started_ns: int) -> bool:
        """Whether training has moved between two looks.

        A checkpoint that has another number must have a greater one: a script that begins again at
        step 0 and saves that has not come further.
        """
        if later.step is not None and later.step > (-1.0 if self.step is None else self.step):
            return True
        if (later.checkpoint, later.written_ns) != (self.checkpoint, self.written_ns):
            before, now = _numbered(self.name), _numbered(later.name)
            comparable = before is not None and now is not None and before[0] == now[0]
            if later.checkpoint and not (comparable and before and now and now[1] <= before[1]):
                return True
        return later.beat_ns > max(self.beat_ns, started_ns + int(BEAT_S * 1e9))


def _numbered(name: str) -> tuple[str, int] | None:
    """A checkpoint's name without its last number, and that number."""
    found = re.search(_NUMBER, name)
    return None if found is None else (name[: found.start()], int(found[1][:18]))


def look(paths: Paths) -> Mark:
    """What lies in the job's directories now. Blocks; looks at a bounded number of files."""
    step, beat_ns = record.progress(paths), record.heartbeat(paths) or 0
    return found(paths, _YOUNGEST)._replace(step=step, beat_ns=beat_ns)


def found(paths: Paths, before_ns: int) -> Mark:
    """The newest checkpoint of those that were written before a time. Blocks."""
    from supervisor.host import resumed  # noqa: PLC0415

    checkpoint, written_ns = resumed.newest_with_time(paths.checkpoints, before_ns)
    return Mark(checkpoint, checkpoint.removeprefix(paths.checkpoints), written_ns)


def remembered(paths: Paths) -> ev.EarlierLife | None:
    """How far the job had come, as a master before this one has left it here. Blocks."""
    from supervisor.cluster.protocol import ProtocolError, decode_job  # noqa: PLC0415

    try:
        document = decode_job(record.job(paths))
    except ProtocolError:
        return None
    order = document.order
    if order is None:
        return None
    return ev.EarlierLife(order.attempt, order.turn, document.past, order.world, document.run)


class Attempts:
    """Belongs to the event loop's thread."""

    def __init__(
        self,
        present: Present,
        *,
        post: Callable[[ev.Event], None],
        say: Say,
        tasks: Tasks,
        files: Files,
        processes: Processes,
        keeping: Keeping,
        masker: Masker,
    ) -> None:
        self.history = History(present, masker)
        self._present = present
        self._post = post
        self._say = say
        self._tasks = tasks
        self._files = files
        self._processes = processes
        self._keeping = keeping
        self._masker = masker
        self._mark: Mark | None = None
        self._started_ns = 0

    # ------------------------------------------------------------------ progress

    def begin(self) -> None:
        """The first attempt begins, or the one at which this host has come back: from here on
        training can have moved."""
        self.history.begin()
        if self._present.may_restart:
            self._started_ns = time.clock_gettime_ns(FILES_CLOCK)
            self._tasks.serve("progress", self._take_mark(), vital=False)

    async def _take_mark(self) -> None:
        """What lay there before: the script may have saved by the time that this is looked at."""
        paths, before_ns = self._present.plan.paths, self._started_ns
        self._mark = await self._files.look(lambda: found(paths, before_ns), None)

    async def _renew_mark(self) -> None:
        """Something starts anew elsewhere: from here on progress counts once more."""
        self._mark = await self._look() or self._mark

    async def _look(self) -> Mark | None:
        paths = self._present.plan.paths
        with contextlib.suppress(TimeoutError):
            return await self._files.ask(LOOK_S, look, paths)
        return None

    async def judged(self, event: ev.Event) -> ev.Event:
        """A failure with what is known of progress, where that decides about another attempt."""
        if isinstance(event, ev.MemberReported) and event.earlier is not None:
            return await self._taken_over(event, event.earlier)
        if self._mark is None or not self._matters(event):
            return event
        now = await self._look()
        if now is None or not self._mark.moved_to(now, self._started_ns):
            return event
        return type(event)(**(vars(event) | {"progressed": True}))

    async def _taken_over(self, event: ev.MemberReported, life: ev.EarlierLife) -> ev.Event:
        """How far the job had come under the master before this one, as it has left it here: an
        order may not have reached the others. And whether training had moved: a checkpoint is
        younger than the last end of an attempt."""
        left = await self._files.look(partial(remembered, self._present.plan.paths), None)
        if left is not None and left.run == life.run and left.turn > life.turn:
            life = left
        now = await self._look()
        since = max((each.cause.at for each in life.past), default=0.0)
        moved = now is not None and now.written_ns > since * 1e9
        return ev.MemberReported(**(vars(event) | {"progressed": moved, "earlier": life}))

    def remember(self, document: bytes) -> None:
        """On the master: leave the job's document with its order to whoever comes in our place."""
        path, text = self._present.plan.paths.job, document.decode()

        async def write() -> None:
            await self._files.look(partial(regular.write, path, text), None)

        self._tasks.serve("remember the order", write(), vital=False)

    def _matters(self, event: ev.Event) -> bool:
        state = self._present.state
        if not state.restarts or not state.under_way or state.moved:
            return False
        match event:
            case ev.Exited(process):
                return not event.status.ok or self._processes.by_name[process].spec.essential
            case ev.Hung():
                return True
            case ev.MemberLost():
                return self._present.plan.strategy is not Strategy.NONE
            case ev.MemberReported(host):
                # Without a distribution each host is a job of its own, and sees to it itself.
                own = self._present.plan.strategy is Strategy.NONE
                member = state.members.get(host)
                news = member is not None and event.cause not in {None, member.told}
                return news and not own
        return False

    # ------------------------------------------------------------------ the next one

    def make_ready(self, action: ev.MakeReady) -> None:
        """What starts anew is down: plan its processes again, as the next attempt."""
        self._tasks.serve("next attempt", self._make_ready(action))

    async def _make_ready(self, action: ev.MakeReady) -> None:
        generation = ""
        if action.agreed:
            try:
                generation = await self._hand_over()
            except TimeoutError as error:
                self._post(ev.NotReady(action.turn, f"the other hosts cannot have it: {error}"))
                return
        mark = await self._look()
        self._mark, self._started_ns = mark or self._mark, time.time_ns()
        checkpoint = self._mark.checkpoint if self._mark else ""
        plan = self._present.plan
        planned = processes_in(plan, action.world) if action.world else plan.processes
        specs = {spec.name: spec for spec in planned}
        for name in action.processes:
            spec = specs[name]
            if not spec.essential or spec.env.get("SUPERVISOR_ATTEMPT"):
                spec = self._told(spec, action.attempt, action.cause, checkpoint)
            self._renew(spec, action.attempt)
        self._post(ev.Readied(action.turn, generation))

    async def _hand_over(self) -> str:
        """The generation of checkpoints that the others are to restore: what was saved here last,
        else what all began with."""
        from supervisor.life import agreement  # noqa: PLC0415
        from supervisor.storage import manifest  # noqa: PLC0415

        newest = await self._keeping.hand_over(HANDOVER_S)
        key = manifest.FOLDER + newest.rpartition("/")[2]
        if (generation := manifest.generation_of_manifest(key)) is not None:
            return generation
        held = agreement.Held.parse(self._present.state.holds)
        return held.mark if held and held.kind is agreement.Kind.GENERATION else ""

    def _renew(self, spec: ProcessSpec, attempt: int) -> None:
        """Plan it again, and keep what is told of its end."""
        before = self._processes.by_name[spec.name]

        def ended() -> dict[str, object]:
            process = process_of(self._present.state, spec.name)
            return process_record(process, before, self._masker)

        news = self.history.keep(spec.name, attempt, ended)
        self._processes.renew(spec)
        self._processes.by_name[spec.name].starts = before.starts + news

    def _told(self, spec: ProcessSpec, attempt: int, cause: Cause, checkpoint: str) -> ProcessSpec:
        """With what the script is told of the attempt."""
        why = self._masker.text(str(cause)).replace("\0", "")[:_CAUSE_LENGTH]
        env = dict(spec.env) | {"SUPERVISOR_ATTEMPT": str(attempt), "SUPERVISOR_LAST_CAUSE": why}
        if checkpoint or "SUPERVISOR_RESUMED_FROM" in env:
            env["SUPERVISOR_RESUMED_FROM"] = checkpoint
        return replace(spec, env=env)

    # ------------------------------------------------------------------ what is told

    def seen(self, before: State, after: State) -> None:
        """The life has moved on."""
        if self.history.seen(before, after) and after.phase is not Phase.RESTARTING:
            # Else when all is down.
            self._tasks.serve("progress", self._renew_mark(), vital=False)

    def say_restarted(self, action: ev.Restarted) -> None:
        """One line for each."""
        mark = self._mark
        self._say(
            "warning",
            "attempt.restarted",
            attempt=action.attempt,
            scope=action.scope.value,
            kind=action.kind,
            cause=str(action.cause),
            seconds=self.history.since_judged_s,
            **({"from": mark.checkpoint} if mark and mark.checkpoint else {}),
        )
