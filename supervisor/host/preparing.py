"""What comes before the barrier on this host: a place to run in, and the plan made anew once what
it runs is here."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor import regular
from supervisor.children import execution
from supervisor.contract import record
from supervisor.contract.entry_point import EntryKind
from supervisor.faults import ContractError
from supervisor.host.files import READY_S, Files, silent
from supervisor.host.present import Present
from supervisor.host.timeline import Say
from supervisor.life import events as ev
from supervisor.life.words import Phase, ProcessSpec
from supervisor.plan.plan import RESTORE, Plan
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # for those that fetch
    from supervisor.storage.job import Fetched


class Preparing:
    """What is wrong with the host or its contract is told, never raised."""

    def __init__(
        self,
        present: Present,
        replan: Callable[[Fetched], Plan],
        adopt: Callable[[Plan], None],
        *,
        post: Callable[[ev.Event], None],
        say: Say,
        files: Files,
        masker: Masker,
    ) -> None:
        """``replan`` makes the plan again or raises ``ContractError``; ``adopt`` puts it in the
        place of the first."""
        self._present = present
        self._replan = replan
        self._adopt = adopt
        self._post = post
        self._say = say
        self._files = files
        self._masker = masker

    async def make_ready(self) -> str | None:
        """Directories, a clean slate, an executable entry point, free ports; what is wrong, or
        None."""
        plan = self._present.plan
        try:
            return await self._files.ask(READY_S, _make_ready, plan)
        except TimeoutError:
            return silent(plan.paths.base, READY_S)

    async def plan_again(self) -> None:
        """Everything is fetched: the contract is read again, with the code that is here now."""
        now = self._present.plan

        def again() -> tuple[Fetched, Plan | ContractError]:
            fetched, before = record.fetched(now.paths), now.contract.fetched
            if before is not None:  # a restore alone, after all was fetched
                fetched = replace(
                    before,
                    resumed_from=fetched.resumed_from or before.resumed_from,
                    holds=fetched.holds,
                    aside=fetched.aside,
                    files=fetched.files,
                    bytes=fetched.bytes,
                )
            try:
                return fetched, self._replan(fetched)
            except ContractError as error:
                return fetched, error

        try:
            fetched, plan = await self._files.ask(READY_S, again)
        except TimeoutError:
            self._post(ev.PrepareFailed(silent(now.paths.base, READY_S), time.time()))
            return
        told = ("files", "bytes", "resumed_from", "bucket_region")
        fields = {name: value for name in told if (value := getattr(fetched, name))}
        self._say("info", "storage.fetched", **fields)
        if isinstance(plan, ContractError):
            self._post(ev.PrepareFailed(self._masker.text(str(plan)), time.time()))
            return
        self._adopt(plan)
        self._post(ev.Replanned(tuple(spec.name for spec in plan.steps), fetched.holds))

    def restore_step(self, generation: str) -> ProcessSpec:
        """The step that restores this checkpoint."""
        from supervisor.plan import storage as storage_plan  # noqa: PLC0415

        plan, again = self._present.plan, self._present.state.phase is Phase.RESTARTING
        spec = storage_plan.restore_step(plan.contract, plan.paths, generation, again=again)
        return replace(spec, name=RESTORE)


def _make_ready(plan: Plan) -> str | None:
    paths = plan.paths
    record.clear(paths)
    own = os.path.dirname(paths.report)
    wanted = (paths.model, paths.checkpoints, paths.output_data, paths.output_intermediate, own)
    for directory in wanted:
        try:
            if directory == own:
                regular.own_directory(own)
            else:
                os.makedirs(directory, exist_ok=True)
        except OSError as error:
            return f"{directory} cannot be made: {error.strerror or error}"
    if plan.contract.engine.name != "sagemaker":  # whose port is in its files, or a container's own
        asked_at = {name: str(each.status) for name, each in plan.endpoints.items()}
        record.write_host(paths, plan.contract.job_name, plan.host, asked_at)  # nobody needs it
    if plan.contract.entry_kind is EntryKind.COMMAND:
        with contextlib.suppress(OSError):  # exec says what is wrong, and better
            execution.make_executable(paths.base, plan.contract.code_dir, plan.contract.entry_point)
    if not plan.listening:
        return None
    # Before TensorFlow starts: its own message for a taken port names neither pid nor command.
    from supervisor.linux.ports import check_free  # noqa: PLC0415

    return next(filter(None, map(check_free, plan.listening)), None)
