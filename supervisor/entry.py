"""``supervisor train``: from the environment to a plan, and from the plan to an exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from supervisor import process, record
from supervisor.console import Outputs
from supervisor.contract import read_contract
from supervisor.engines import sagemaker
from supervisor.faults import ContractError
from supervisor.guardian import Guardian
from supervisor.logs import Log
from supervisor.masking import Masker
from supervisor.occupied import OccupiedError, occupied
from supervisor.outcome import EXIT_PREPARING, FAILURE_LIMIT
from supervisor.paths import paths_below
from supervisor.plan import Plan, make_plan
from supervisor.run import LAST_OUTPUT_S, run_host

if TYPE_CHECKING:
    from supervisor.storage.job import Fetched


def plan_of(
    environ: Mapping[str, str], flags: Mapping[str, str], fetched: Fetched | None = None
) -> Plan:
    """The plan of this host; raises ``ContractError`` with everything that is wrong.

    ``fetched``: what was done about it, once everything is fetched. The code is here then, and the
    plan is made again from what it says.
    """
    return make_plan(read_contract(sagemaker.gather(environ, flags, fetched)))


def masker_of(plan: Plan) -> Masker:
    """Knows every secret that the job was given."""
    contract = plan.contract
    return Masker.of(contract.environ, contract.hyperparameters, contract.platform_hyperparameters)


def train(environ: Mapping[str, str], flags: Mapping[str, str], guardian: Guardian) -> int:
    """Run this host; returns the supervisor's exit code (see ``outcome.EXIT_CODES``).

    ``guardian`` is closed by whoever started it.

    Raises:
        ContractError: nothing was started; the failure file says why.
    """
    inherited = process.reset_inherited_signals(hold=process.STOP_SIGNALS)
    try:
        with occupied(sagemaker.base_dir(environ)):
            return _train_alone(environ, flags, inherited, guardian)
    except OccupiedError as error:
        print(f"supervisor: {error}", file=sys.stderr)
        return EXIT_PREPARING


def _train_alone(
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    inherited: process.InheritedSignals,
    guardian: Guardian,
) -> int:
    try:
        plan = plan_of(environ, flags)
        return asyncio.run(_train(plan, partial(plan_of, environ, flags), inherited, guardian))
    except ContractError as error:
        _record_failure(environ, str(error), anew=True)
        raise
    except Exception as error:
        _record_failure(environ, f"internal error of the supervisor: {error!r}", anew=False)
        raise


def _record_failure(environ: Mapping[str, str], text: str, *, anew: bool) -> None:
    """For a life that has no end of its own. ``anew``: what lies there is an earlier run's."""
    base = sagemaker.base_dir(environ)
    if os.path.isdir(base):  # not on a laptop that has no such thing
        if anew:
            record.clear(paths_below(base))
        record.write_failure(paths_below(base), text[:FAILURE_LIMIT])


async def _train(
    plan: Plan,
    replan: Callable[[Fetched], Plan],
    inherited: process.InheritedSignals,
    guardian: Guardian,
) -> int:
    settings = plan.contract.settings
    outputs = Outputs(plan.host, settings, plan.paths.logs)
    masker = masker_of(plan)
    log = Log(
        outputs.err.offer_line,
        host=plan.host,
        level=settings.log_level,
        style=settings.log_format,
        masker=masker,
        prefix=outputs.own_prefix,
        color=outputs.color,
    )
    try:
        return await run_host(plan, replan, outputs, log, masker, inherited, guardian)
    finally:
        await outputs.finish(limit_s=LAST_OUTPUT_S)
