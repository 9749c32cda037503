"""Attempts on this host: whether training has moved, what is made ready for the next one, and what
is told of those that are over. What starts anew, and whether, is decided in ``life/restarting.py``.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from supervisor.contract import record
from supervisor.contract.distribution import Strategy
from supervisor.contract.paths import Paths
from supervisor.host.files import FILES_CLOCK, Files
from supervisor.host.keeping import Keeping
from supervisor.host.present import Present
from supervisor.host.processes import Processes
from supervisor.host.records import process_record
from supervisor.host.tasks import Tasks
from supervisor.host.timeline import Say
from supervisor.life import events as ev
from supervisor.life.outcome import is_restartable
from supervisor.life.state import State, process_of
from supervisor.life.words import Cause, JobState, Phase, ProcessSpec
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # not needed before the script's start
    from supervisor.life.attempts import Order, Past
    from supervisor.status.snapshot import AttemptRow, Sample

LOOK_S: Final = 1.0
"""A failure is judged without an answer after so long: nothing else is heard meanwhile. It takes a
few milliseconds, and more where processors are short."""
HANDOVER_S: Final = 55.0
"""So long what the script saved may take to be sent; less than `restarting.HANDOVER_S`."""
BEAT_S: Final = 10.0
"""A heartbeat counts as progress so long after the attempt's start: a script that only comes up
touches the file as well."""
MOST_TOLD: Final = 100
"""Attempts that are kept for the report, the latest; their number is kept anyhow."""
MOST_SHOWN: Final = 10
"""Of these, in ``/status``."""
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
        self.began = 0
        """How many have begun, as far as this host knows."""
        self.judged_at = 0.0
        """When the failure was heard of after which the latest begins, ``time.monotonic()``."""
        self.down_s = 0.0
        """How long attempts have been prepared, altogether."""
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
        self._rows: deque[AttemptRow] = deque(maxlen=MOST_TOLD)
        self._ended: dict[int, dict[str, dict[str, object]]] = {}
        """Of the attempts in ``_rows``: what is kept of processes that started anew after it."""
        self._kinds: Counter[str] = Counter()
        """How often attempts were ended by what, where this host judges."""

    # ------------------------------------------------------------------ progress

    def begin(self) -> None:
        """The first attempt begins, or the one at which this host has come back: from here on
        training can have moved."""
        if not self._rows:
            self._open(self._present.state.attempt)
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
        """Whether training had moved under the master before this one: a checkpoint is younger than
        the last end of an attempt that the others know of."""
        now = await self._look()
        since = max((each.cause.at for each in life.past), default=0.0)
        if now is None or now.written_ns <= since * 1e9:
            return event
        return ev.MemberReported(**(vars(event) | {"progressed": True}))

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
        specs = {spec.name: spec for spec in self._present.plan.processes}
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
        """Plan it again, and keep what is told of its end. An order that was made wider comes to a
        process a second time that has not been started since."""
        before = self._processes.by_name[spec.name]
        ended_with = max(
            (row["attempt"] for row in self._rows if row["attempt"] < attempt), default=0
        )
        records = self._ended.setdefault(ended_with, {})
        again = spec.name in records
        if not again:
            process = process_of(self._present.state, spec.name)
            records[spec.name] = process_record(process, before, self._masker)
        self._processes.renew(spec)
        self._processes.by_name[spec.name].starts = before.starts + (not again)

    def _told(self, spec: ProcessSpec, attempt: int, cause: Cause, checkpoint: str) -> ProcessSpec:
        """With what the script is told of the attempt."""
        why = self._masker.text(str(cause)).replace("\0", "")[:_CAUSE_LENGTH]
        env = dict(spec.env) | {"SUPERVISOR_ATTEMPT": str(attempt), "SUPERVISOR_LAST_CAUSE": why}
        if checkpoint or "SUPERVISOR_RESUMED_FROM" in env:
            env["SUPERVISOR_RESUMED_FROM"] = checkpoint
        return replace(spec, env=env)

    # ------------------------------------------------------------------ what is told

    def seen(self, before: State, after: State) -> None:
        """The life has moved on: keep what there is to tell of its attempts."""
        order = after.order
        if order is not None and after.attempt > before.attempt:
            self.judged_at = time.monotonic()
            if not self._rows:
                self._know(after.past)
            self._close(order, after)
            self._open(after.attempt)
            if after.phase is not Phase.RESTARTING:  # else when all is down
                self._tasks.serve("progress", self._renew_mark(), vital=False)
        if not self._rows:
            return
        row = self._rows[-1]
        if after.job is JobState.RUNNING and row["began_at"] is None:
            row["began_at"] = time.time()
            row["prepared_s"] = seconds = self.since_judged_s
            self.down_s += seconds
        if before.under_way and not after.under_way:
            row["ended_at"] = time.time()
            if after.refused is not None:
                row["kind"], row["progressed"] = after.refused.kind.value, after.moved

    @property
    def since_judged_s(self) -> float:
        return round(time.monotonic() - self.judged_at, 3)

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
            seconds=self.since_judged_s,
            **({"from": mark.checkpoint} if mark and mark.checkpoint else {}),
        )

    def _open(self, attempt: int) -> None:
        self.began = attempt
        first = attempt == 1
        self._rows.append(
            {
                "attempt": attempt,
                "began_at": time.time() if first else None,
                "prepared_s": 0.0,
                "ended_at": None,
                "cause": None,
                "kind": None,
                "scope": None,
                "progressed": None,
            }
        )
        kept = self._rows[0]["attempt"]
        for gone in [number for number in self._ended if number < kept]:
            del self._ended[gone]

    def _know(self, past: tuple[Past, ...]) -> None:
        """Of the attempts before this supervisor took the job up, what the others have told."""
        for each in {each.attempt: each for each in past}.values():
            self._rows.append(
                {
                    "attempt": each.attempt,
                    "began_at": None,
                    "prepared_s": 0.0,
                    "ended_at": each.cause.at,
                    "cause": self._encoded(each.cause),
                    "kind": each.kind.value,
                    "scope": each.scope.value,
                    "progressed": each.progressed,
                }
            )

    def _close(self, order: Order, state: State) -> None:
        last = next((each for each in reversed(state.past) if each.cause is order.cause), None)
        if last:  # who judges knows more of it
            self._kinds[last.kind.value] += 1
        if not self._rows:
            return
        row = self._rows[-1]
        if row["ended_at"] is None:
            row["ended_at"] = time.time()
        row["cause"] = self._encoded(order.cause)
        row["scope"] = order.scope.value
        row["kind"] = last.kind.value if last else None
        row["progressed"] = last.progressed if last else None

    def _encoded(self, cause: Cause | None) -> dict[str, object] | None:
        from supervisor.cluster.protocol import encode_cause  # noqa: PLC0415

        mask: Callable[[Any], Any] = self._masker.tree
        return None if cause is None else mask(encode_cause(cause))

    @property
    def restarts(self) -> int:
        """How often something of the job has been started anew; an attempt that is being prepared,
        or never began, is none."""
        waits = bool(self._rows) and self._rows[-1]["began_at"] is None
        return max(0, self.began - 1 - waits)

    def newest(self) -> list[AttemptRow]:
        """For ``/status``, which is asked often: the last few, the oldest first, without the last
        words of scripts."""
        rows = list(self.rows())[-MOST_SHOWN:]
        for row in rows:
            row["cause"] = row["cause"] and {**row["cause"], "detail": ""}
        return rows

    def rows(self) -> Iterator[AttemptRow]:
        """Each attempt with its cause and times, the oldest first; the last one with what ended the
        job, where that is known."""
        for row in self._rows:
            told = row.copy()
            if row is self._rows[-1] and self._present.state.cause is not None:
                told["cause"] = self._encoded(self._present.verdict.cause)
            yield told

    def report(self) -> dict[str, object]:
        """The report's part, once there is a cause."""
        verdict = self._present.verdict
        return {
            "attempts": [
                {**row, "processes": list(self._ended.get(row["attempt"], {}).values())}
                for row in self.rows()
            ],
            "restarts": self.restarts,
            "restartable": is_restartable(verdict),
            "not_restarted": self._masker.text(verdict.not_restarted),
        }

    def samples(self) -> Iterator[Sample]:
        """For ``/metrics``, where the job may go on after a failure."""
        if not self._present.may_restart:
            return
        from supervisor.life.attempts import KINDS, NEVER  # noqa: PLC0415
        from supervisor.status.snapshot import Sample  # noqa: PLC0415  # it is loaded: it asks

        if self._present.state.setup.is_master:
            for kind, row in KINDS.items():
                if row.budget != NEVER:
                    yield Sample(
                        "restarts_total",
                        "How often something was started anew, by the kind of the end before it.",
                        self._kinds[kind.value],
                        {"kind": kind.value},
                        "counter",
                    )
        yield Sample(
            "restart_seconds_total",
            "From failures to the starts after them, altogether.",
            self.down_s,
            kind="counter",
        )
