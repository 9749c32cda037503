"""``supervisor train``: from the environment to a plan, and from the plan to an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor.aside import within
from supervisor.children.guardian import Guardian
from supervisor.contract import record
from supervisor.contract.contract import read_contract
from supervisor.contract.facts import Asked, Facts
from supervisor.contract.paths import paths_below
from supervisor.contract.settings import Settings
from supervisor.engines.choosing import DEFAULT_BASE_DIR, Site, site_of
from supervisor.engines.gathering import gather
from supervisor.faults import ContractError, Fault, in_words
from supervisor.host.console import Outputs
from supervisor.host.files import READY_S, RECORD_LIMIT_S
from supervisor.host.occupied import OccupiedError, occupied
from supervisor.host.results import LAST_OUTPUT_S
from supervisor.host.run import run_host
from supervisor.life.outcome import EXIT_PREPARING, cut
from supervisor.linux.inherited import STOP_SIGNALS, InheritedSignals, reset_inherited_signals
from supervisor.plan.plan import Plan, make_plan
from supervisor.streams.logs import Log, Style
from supervisor.streams.masking import Masker

if TYPE_CHECKING:
    from supervisor.storage.job import Fetched

_BASE: Final = "SUPERVISOR_BASE_DIR"


def plan_of(
    environ: Mapping[str, str],
    asked: Asked,
    fetched: Fetched | None = None,
    site: Site | None = None,
) -> Plan:
    """The plan of this host; raises ``ContractError`` with everything that is wrong.

    ``fetched``: what was done about it, once everything is fetched. The code is here then, and the
    plan is made again from what it says.
    """
    facts = gather(environ, asked, fetched, site)
    try:
        return make_plan(read_contract(facts))
    except ContractError as error:
        raise _masked(error, facts) from None


def _masked(error: ContractError, facts: Facts) -> ContractError:
    """The same faults without the secrets that the platform's files and variables have."""
    mask = Masker.before_the_contract(facts.environ, facts.flags, facts.files).text
    return ContractError(
        [
            replace(each, found=mask(each.found), expected=mask(each.expected))
            for each in error.faults
        ]
    )


def masker_of(plan: Plan) -> Masker:
    """Knows every secret that the job was given."""
    contract = plan.contract
    return Masker.of(
        contract.environ,
        contract.hyperparameters,
        contract.platform_hyperparameters,
        argvs=[spec.argv for spec in plan.processes],
    )


def train(environ: Mapping[str, str], asked: Asked, guardian: Guardian) -> int:
    """Run this host; returns the supervisor's exit code (see ``outcome.EXIT_CODES``).

    ``guardian`` is closed by whoever started it.

    Raises:
        ContractError: nothing was started; the failure file says why.
    """
    inherited = reset_inherited_signals(hold=STOP_SIGNALS)
    site = site_of(environ, asked)
    try:
        with occupied(_own_directory(site, asked)):
            return _train_alone(environ, asked, site, inherited, guardian)
    except OccupiedError as error:
        if site.engine.faults:  # of several tasks on one node all are to say the same
            raise ContractError(site.engine.faults) from None
        print(f"supervisor: {error}", file=sys.stderr)
        return EXIT_PREPARING


def _own_directory(site: Site, asked: Asked) -> str:
    """The host's directory; made where no platform makes it and there is something to run, for it
    is to be locked.

    Raises:
        ContractError: it cannot be made.

    """
    base = site.base_dir
    wanted = asked.command or site.engine.job is not None
    if wanted and site.engine.name != "sagemaker" and base != DEFAULT_BASE_DIR:
        try:
            within(READY_S, os.makedirs, base, exist_ok=True)
        except (OSError, TimeoutError) as error:
            found = f"{base}, which cannot be made ({in_words(error)})"
            expected = "a directory that this user may write to"
            raise ContractError([Fault("environment", _BASE, found, expected)]) from None
    return base


def _train_alone(
    environ: Mapping[str, str],
    asked: Asked,
    site: Site,
    inherited: InheritedSignals,
    guardian: Guardian,
) -> int:
    try:
        plan = _first_plan(environ, asked, site)
        return asyncio.run(
            _train(plan, partial(plan_of, environ, asked, site=site), inherited, guardian)
        )
    except ContractError as error:
        _record_failure(environ, site, str(error), anew=True)
        raise
    except Exception as error:
        text = f"internal error of the supervisor: {error!r}"
        _record_failure(environ, site, text, anew=False)
        raise


def _first_plan(environ: Mapping[str, str], asked: Asked, site: Site) -> Plan:
    """``plan_of`` in bounded time: no signal is heard yet."""
    try:
        return within(READY_S, plan_of, environ, asked, site=site)
    except TimeoutError:
        found = f"no answer in {READY_S:g} s"
        expected = "a file system that answers"
        raise ContractError([Fault(site.base_dir, "", found, expected)]) from None


def _record_failure(environ: Mapping[str, str], site: Site, text: str, *, anew: bool) -> None:
    """For a life that has no end of its own. ``anew``: what lies there is an earlier run's."""
    base = site.base_dir

    def write() -> None:
        words = cut(Masker.of(environ).text(text))
        if os.path.isdir(base):  # not on a laptop that has no such thing
            if anew:
                record.clear(paths_below(base))
            record.write_failure(paths_below(base), words)
        record.tell_platform(site.engine.failure_files, words)

    with contextlib.suppress(TimeoutError):
        within(RECORD_LIMIT_S, write)


def _style(settings: Settings) -> Style:
    if settings.log_format == "json":
        return "json"
    return "brief" if settings.log_own == "brief" else "text"


async def _train(
    plan: Plan,
    replan: Callable[[Fetched], Plan],
    inherited: InheritedSignals,
    guardian: Guardian,
) -> int:
    settings = plan.contract.settings
    outputs = Outputs(plan.host, settings, plan.paths.logs)
    masker = masker_of(plan)
    log = Log(
        outputs.own_line,
        host=plan.host,
        level=settings.log_level,
        style=_style(settings),
        masker=masker,
        prefix=outputs.own_prefix,
        color=outputs.color,
    )
    try:
        return await run_host(plan, replan, outputs, log, masker, inherited, guardian)
    finally:
        await outputs.finish(limit_s=LAST_OUTPUT_S)
