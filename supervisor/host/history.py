"""What is told of attempts: the number, times and causes of each, and the processes that ended with
it. On this host; one that took the job up knows of the earlier ones what the others have told."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from supervisor.host.present import Present
from supervisor.life.outcome import is_restartable
from supervisor.life.state import State
from supervisor.life.words import Cause, JobState
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # not needed before the script's start
    from supervisor.life.attempts import Order, Past
    from supervisor.status.snapshot import AttemptRow, Sample

MOST_TOLD: Final = 100
"""Attempts that are kept for the report, the latest; their number is kept anyhow."""
MOST_SHOWN: Final = 10
"""Of these, in ``/status``."""


class History:
    """Belongs to the event loop's thread."""

    def __init__(self, present: Present, masker: Masker) -> None:
        self.began = 0
        """How many have begun, as far as this host knows."""
        self.judged_at = 0.0
        """When the failure was heard of after which the latest begins, ``time.monotonic()``."""
        self.down_s = 0.0
        """How long attempts have been prepared, altogether."""
        self._present = present
        self._masker = masker
        self._rows: deque[AttemptRow] = deque(maxlen=MOST_TOLD)
        self._ended: dict[int, dict[str, dict[str, object]]] = {}
        """Of the attempts in ``_rows``: what is kept of processes that started anew after it."""
        self._kinds: Counter[str] = Counter()
        """How often attempts were ended by what, where this host judges."""

    def begin(self) -> None:
        """The first attempt begins, or the one at which this host has come back."""
        if not self._rows:
            self._open(self._present.state.attempt)

    def keep(self, process: str, attempt: int, record: Callable[[], dict[str, object]]) -> bool:
        """Keep what is told of a process's end, before it starts as this attempt. False where that
        was done: an order that was made wider comes to a process a second time that has not been
        started since."""
        ended_with = max(
            (row["attempt"] for row in self._rows if row["attempt"] < attempt), default=0
        )
        records = self._ended.setdefault(ended_with, {})
        if process in records:
            return False
        records[process] = record()
        return True

    def seen(self, before: State, after: State) -> bool:
        """The life has moved on: keep what there is to tell of its attempts. Whether another one
        is being prepared."""
        order = after.order
        another = order is not None and after.attempt > before.attempt
        if order is not None and another:
            self.judged_at = time.monotonic()
            if not self._rows:
                self._know(after.past)
            self._close(order, after)
            self._open(after.attempt)
        if not self._rows:
            return another
        row = self._rows[-1]
        if after.job is JobState.RUNNING and row["began_at"] is None:
            row["began_at"] = time.time()
            row["prepared_s"] = seconds = self.since_judged_s
            self.down_s += seconds
        if before.under_way and not after.under_way:
            row["ended_at"] = time.time()
            if after.refused is not None:
                row["kind"], row["progressed"] = after.refused.kind.value, after.moved
        return another

    @property
    def since_judged_s(self) -> float:
        return round(time.monotonic() - self.judged_at, 3)

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
