"""What one host leaves behind at its end: failure or success, the report, and all of its output.

What cannot be written is said and changes nothing. All of it ends before the platform's limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, ParamSpec

from supervisor.contract import record
from supervisor.host.account import Account
from supervisor.host.console import HURRIED_PATIENCE_S, PATIENCE_S, SETTLE_S, Outputs
from supervisor.host.files import LOOK_S, RECORD_LIMIT_S, Files, silent
from supervisor.host.present import Present
from supervisor.host.timeline import Say
from supervisor.life.outcome import failure_text
from supervisor.streams.masking import Masker

LAST_OUTPUT_S: Final = 2.0
"""At the very end: for our own last lines. What came before them has had its time by then."""
OUTPUT_RESERVE_S: Final = 1.0
"""Waiting for outputs ends this long before the platform's limit."""

P = ParamSpec("P")


class Results:
    """Its methods are called once each, in the order in which they stand."""

    def __init__(
        self,
        present: Present,
        account: Account,
        *,
        say: Say,
        files: Files,
        outputs: Outputs,
        masker: Masker,
    ) -> None:
        self.exit_code = 0
        """The supervisor's, from `record` on."""
        self._present = present
        self._account = account
        self._say = say
        self._files = files
        self._outputs = outputs
        self._masker = masker
        self._reported: list[dict[str, object]] = []

    async def record(self) -> None:
        """Write failure or success."""
        present, verdict = self._present, self._present.verdict
        paths = present.plan.paths
        self.exit_code = present.exit_code
        if present.succeeded and self.exit_code == 0:
            await self._write(record.write_success, paths)
        elif self.exit_code != 0:
            ends = (present.state.publish_error or "", *self._account.ends())
            text = failure_text(present.plan.host, verdict, ends, mask=self._masker.text)
            await self._write(record.write_failure, paths, text)
            if files := present.plan.contract.engine.failure_files:
                await self._write(record.tell_platform, files, text)

    async def settle_output(self) -> None:
        """Have written what the processes wrote. A slow reader may take its time, a stalled one
        only a little, and neither any of what the platform's limit leaves for the rest."""
        left_s = self._present.left_s
        if left_s is None:
            await self._outputs.settle(patience_s=PATIENCE_S, limit_s=SETTLE_S)
        else:
            limit_s = left_s - OUTPUT_RESERVE_S
            await self._outputs.settle(patience_s=HURRIED_PATIENCE_S, limit_s=limit_s)

    async def report(self) -> None:
        """Write the report, and our own last word."""
        verdict = self._present.verdict
        self._reported = self._outputs.rows()
        await self._write_report()
        self._say(
            "info" if self.exit_code == 0 else "error",
            "job.ended",
            outcome=verdict.outcome.value,
            exit_code=self.exit_code,
            cause=str(verdict.cause),
        )

    async def end_output(self) -> None:
        """The outputs are closed; the report is put right where that has cost anything."""
        left_s = self._present.left_s
        await self._outputs.finish(
            limit_s=LAST_OUTPUT_S if left_s is None else min(LAST_OUTPUT_S, left_s)
        )
        if any(map(_loss, self._reported + self._outputs.rows())):
            await self._write_report()

    async def _write_report(self) -> None:
        report = self._account.report(self.exit_code)
        await self._write(record.write_report, self._present.plan.paths, report)

    async def _write(
        self, write: Callable[P, str | None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        left_s = self._present.left_s
        limit_s = RECORD_LIMIT_S if left_s is None else min(RECORD_LIMIT_S, max(LOOK_S, left_s))
        try:
            problem = await self._files.ask(limit_s, write, *args, **kwargs)
        except TimeoutError:
            problem = silent(self._present.plan.paths.output, limit_s)
        if problem:
            self._say("error", "record.failed", error=problem)


def _loss(row: dict[str, object]) -> bool:
    return any(row[name] for name in ("unwritten_bytes", "dropped_bytes", "discarded_bytes"))
