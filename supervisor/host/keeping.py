"""What is kept elsewhere: the transfers beside the job, and publishing at its end.

The process that transfers is `storage.agent.Agent`'s; it is loaded when it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

from supervisor.children.guardian import Guardian
from supervisor.contract.values import TRANSFERS
from supervisor.faults import counted
from supervisor.host.console import Outputs
from supervisor.host.files import Files
from supervisor.host.present import Present
from supervisor.host.tasks import Tasks
from supervisor.host.timeline import Say
from supervisor.life import events as ev
from supervisor.life.words import Outcome, ProcessSpec
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # not needed before the script's start: loaded when they are used
    from supervisor.status.snapshot import TransferRow
    from supervisor.storage.agent import Agent
    from supervisor.storage.notices import Failed, Unsent

PUBLISH_MARGIN_S: Final = 0.75
"""Transfers are ended this long before their time is over, to hear what they did not do."""


class Keeping:
    """Nothing of it runs where nothing is to be kept."""

    def __init__(
        self,
        present: Present,
        *,
        post: Callable[[ev.Event], None],
        say: Say,
        tasks: Tasks,
        files: Files,
        outputs: Outputs,
        masker: Masker,
        guardian: Guardian | None,
        looked: Callable[[], Awaitable[None]],
    ) -> None:
        """``looked`` ends when what we write ourselves beside the checkpoints is written, or takes
        too long."""
        self._present = present
        self._looked = looked
        self._post = post
        self._say = say
        self._tasks = tasks
        self._files = files
        self._outputs = outputs
        self._masker = masker
        self._guardian = guardian
        self._ran = False
        """The job ran here: there may be something to keep."""
        self._publishing = asyncio.Event()
        self._agent: Agent | None = None
        self._unsent: tuple[Unsent, ...] = ()
        """What publishing left behind."""
        self._handing: asyncio.Task[str] | None = None
        """What was saved is being sent, for the other hosts to begin the next attempt with."""
        self._fenced = False
        """Another run has the place of the checkpoints."""
        self._newest = ""
        """The newest manifest of checkpoints, by processes that are over."""

    def begin(self, after_s: float) -> None:
        """The script has started. Have directories kept, from ``after_s`` on (its start is not to
        wait for us) to the end of publishing."""
        self._ran = True
        if self._present.plan.storage is not None:
            self._tasks.serve("storage", self._keep(self._present.plan.storage, after_s))

    async def hand_over(self, limit_s: float) -> str:
        """Between two attempts: have all checkpoints sent that the script has saved. The place of
        the newest manifest that was written here, empty where there is none.

        Raises TimeoutError, whose text says what is not sent after ``limit_s`` seconds.
        """
        spec = self._present.plan.storage
        if spec is None or not self._ran:
            return self._newest
        self._handing = asyncio.create_task(self._hand_over(spec, limit_s), name="hand over")
        return await self._handing

    async def _hand_over(self, spec: ProcessSpec, limit_s: float) -> str:
        """The process sends what is left and ends, as at the end of a job; another one follows."""
        agent = self._agent_of(spec)
        unsent = await agent.publish(limit_s, results=False)
        found = (each.newest for each in agent.standings if each.name == "checkpoints")
        self._newest = next(filter(None, found), self._newest)
        self._agent = None
        self._tasks.serve("storage", self._keep(spec, 0.0))
        for each in unsent:
            if each.transfer == "checkpoints" and each.files:
                raise TimeoutError(_unsent_text(each))
        return self._newest

    def hurry(self) -> None:
        """There is less time than there was: a stop signal came."""
        if self._agent is not None:
            self._agent.hurry(self._budget_s())

    def publish(self) -> None:
        """Send what is to be kept; what could not be sent is named in ``Published``."""
        self._publishing.set()
        self._tasks.serve("publish", self._publish())

    def rows(self) -> list[TransferRow]:
        """How what is kept elsewhere stands, as the process that sends it says."""
        return [
            {
                "name": each.name,
                "sent_files": each.sent_files,
                "sent_bytes": each.sent_bytes,
                "pending_files": each.pending_files,
                "pending_bytes": each.pending_bytes,
                "lag_s": each.lag_s,
                "rate_bytes_s": each.rate_bytes_s,
                "newest": each.newest,
                "error": self._masker.text(each.error),
            }
            for each in (self._agent.standings if self._agent else ())
        ]

    def unsent_rows(self) -> list[dict[str, object]]:
        """What was left behind, for the report."""
        return [
            {
                "transfer": each.transfer,
                "files": each.files,
                "bytes": each.bytes,
                "names": list(each.names),
                "reason": self._masker.text(each.reason),
            }
            for each in self._unsent
        ]

    async def _keep(self, spec: ProcessSpec, after_s: float) -> None:
        with contextlib.suppress(TimeoutError):  # a script of milliseconds is over before
            await asyncio.wait_for(self._publishing.wait(), after_s)
        await self._agent_of(spec).run()

    def _agent_of(self, spec: ProcessSpec) -> Agent:
        from supervisor.storage.agent import Agent  # noqa: PLC0415

        guardian = self._guardian
        nothing = lambda _pid: None  # noqa: E731
        self._agent = self._agent or Agent(
            self._outputs.for_this_terminal(spec),
            attach=lambda fd: self._outputs.attach_stderr(spec.name, spec.role, fd),
            watch=guardian.watch if guardian else nothing,
            forget=guardian.forget if guardian else nothing,
            say=self._say,
            failed=self._on_failed,
        )
        return self._agent

    def _on_failed(self, notice: Failed) -> None:
        if notice.fenced:
            text = self._masker.text(notice.message)
            self._fenced = True
            self._post(ev.TransferFailed(text, time.time(), fenced=True))
            return
        text = f"{notice.transfer}: {notice.message}"
        if self._policies[notice.transfer] == "fail":
            self._post(ev.TransferFailed(self._masker.text(text), time.time()))
        else:
            self._say("error", "storage.failed", text=text)

    @property
    def _policies(self) -> Mapping[str, str]:
        return TRANSFERS | dict(self._present.plan.contract.settings.storage_policy)

    def _budget_s(self) -> float:
        """What is left for transfers, as the reducer counts it, less what ending them takes."""
        present, budgets = self._present, self._present.plan.budgets
        left_s = present.left_s
        if left_s is None:
            left_s = budgets.publish_end_s
        elif ev.Deadline.LIMIT in present.state.armed:
            left_s -= budgets.kill_s + budgets.record_s
        else:
            left_s = budgets.publish_s
        return max(0.0, left_s - PUBLISH_MARGIN_S)

    async def _publish(self) -> None:
        errors = [await self._check_model()]
        spec = self._present.plan.storage
        if spec is not None and self._ran:
            if self._handing is not None:  # its time has become short with ours
                await asyncio.wait({self._handing})
            await self._looked()
            agent = self._agent_of(spec)
            results = self._present.verdict.outcome is not Outcome.FAILED
            self._unsent = await agent.publish(self._budget_s(), results=results)
            for unsent in self._unsent:
                text = _unsent_text(unsent)
                fenced = self._fenced and unsent.transfer == "checkpoints"
                warns = self._policies.get(unsent.transfer) == "warn" and not fenced
                level = "warning" if warns else "error"
                self._say(level, "storage.unsent", text=text)
                errors.append(text if level == "error" else None)
        self._post(ev.Published("; ".join(filter(None, errors)) or None, fenced=self._fenced))

    async def _check_model(self) -> str | None:
        """What serving will not take, on the host that saves; an error where that is the policy."""
        plan = self._present.plan
        policy = plan.contract.settings.model_check
        if policy == "off" or not plan.is_master or not self._present.succeeded:
            return None
        from supervisor.host import model_check  # noqa: PLC0415

        none: list[str] = []
        problems = await self._files.look(lambda: model_check.look(plan.paths.model), none)
        for text in problems:
            self._say("warning", "model.unservable", text=text)
        return "; ".join(problems) if policy == "fail" and problems else None


def _unsent_text(unsent: Unsent) -> str:
    """``checkpoints: 3 files, 12000 bytes not sent (a, b, c): AccessDenied …``."""
    more = unsent.files - len(unsent.names)
    names = ", ".join(unsent.names) + (f" and {more} more" if unsent.names and more > 0 else "")
    which = f" ({names})" if names else ""
    return (
        f"{unsent.transfer}: {counted(unsent.files, 'file')}, {counted(unsent.bytes, 'byte')} "
        f"not sent{which}: "
        f"{unsent.reason}"
    )
