"""How the hosts train together: the strategy, who takes part in it, and in which role."""

from __future__ import annotations

import enum
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from supervisor.contract.document import Documents
from supervisor.contract.facts import HYPERPARAMETERS, RESOURCES
from supervisor.contract.hosts import Hosts, instance_groups
from supervisor.contract.hyperparameters import Hyperparameters
from supervisor.contract.settings import Settings

if TYPE_CHECKING:
    from supervisor.contract.told import Task

CHOSEN_GROUPS: Final = "sagemaker_distribution_instance_groups"
"""Which instance groups take part, a hyperparameter of the platform."""
_FALSE: Final = (None, False, 0, "", "false", "False")


class Strategy(enum.StrEnum):
    """How the hosts of the distribution train together."""

    NONE = "none"
    PS = "ps"
    """Parameter servers, one on every host (two hosts or more)."""
    MWMS = "mwms"
    """MultiWorkerMirroredStrategy."""
    MPI = "mpi"
    """``mpirun`` on the master, ranks on every host."""


SWITCHES: Final = {
    "sagemaker_parameter_server_enabled": Strategy.PS,
    "sagemaker_multi_worker_mirrored_strategy_enabled": Strategy.MWMS,
    "sagemaker_mpi_enabled": Strategy.MPI,
}
"""Hyperparameters that switch a distribution on which we run."""
UNSUPPORTED: Final = {
    "sagemaker_distributed_dataparallel_enabled": "SageMaker's data parallel library",
    "sagemaker_pytorch_ddp_enabled": "PyTorch's data parallel training",
    "sagemaker_pytorch_xla_multi_worker_enabled": "PyTorch/XLA",
    "sagemaker_torch_distributed_enabled": "torchrun",
}
"""Those that we do not: with ``SWITCHES`` all that ``sagemaker-training`` 5.1.4 knows."""


@dataclass(frozen=True, slots=True)
class Mpi:
    """How ``mpirun`` is to be called."""

    processes_per_host: int
    processes: int
    """In all."""
    options: tuple[str, ...]
    """The user's own, after ours."""


class Distribution(NamedTuple):
    """Who trains together, and what this host does; ``Contract`` says what each field means."""

    hosts: tuple[str, ...]
    followers: tuple[str, ...]
    outside: bool
    strategy: Strategy
    ps_ignored: bool
    ps_hosts: tuple[str, ...]
    ps_only_hosts: tuple[str, ...]
    evaluator: str
    mpi: Mpi | None


def read(
    documents: Documents, hyper: Hyperparameters, settings: Settings, hosts: Hosts
) -> Distribution:
    """Which hosts train together, how, and what this one has to do with it."""
    wanted, unsupported = _wanted(documents, hyper, settings, hosts)
    ps_group = _ps_group(settings) if Strategy.PS in wanted else ""
    members = _members(documents, hyper, hosts, ps_group, distributed=bool(wanted))
    if unsupported:
        meant = _members(documents, hyper, hosts, "", distributed=True)
        _refuse(documents, hyper, settings, unsupported, alone=len(meant) == 1)
    _note_unknown(documents, hyper, wanted, alone=len(hosts.names) == 1)
    # Outside the distribution the script runs alone.
    chosen = hyper.platform.get(CHOSEN_GROUPS)
    outside: tuple[str, ...] = ()
    if members and chosen is not None:
        outside = tuple(host for host in hosts.names if host not in members)
    followers = outside if settings.outside == "follow" else ()
    if hosts.current in outside:
        wanted = []
        members = members if followers else (hosts.current,)
    if isinstance(chosen, list) and hosts.resources.get("instance_groups") is None:
        wanted = wanted if hosts.own_group in chosen else []
    # One host cannot have parameter servers: as in the predecessor its script runs alone.
    ps_ignored = Strategy.PS in wanted and len(members) < 2
    strategy = Strategy.NONE if ps_ignored or not wanted else wanted[0]
    ps_hosts: tuple[str, ...] = ()
    ps_only: tuple[str, ...] = ()
    tasks = documents.facts.engine.job.tasks if documents.facts.engine.job else {}
    if strategy is Strategy.PS:
        if tasks:  # the platform lays the cluster out
            ps_hosts = ps_only = tuple(host for host in members if tasks[host].type == "ps")
        else:
            ps_hosts, ps_only = _ps_hosts(documents, settings, hosts, members)
        members = tuple(host for host in members if host not in ps_only) + ps_only
    return Distribution(
        hosts=members,
        followers=followers,
        outside=hosts.current in outside,
        strategy=strategy,
        ps_ignored=ps_ignored,
        ps_hosts=ps_hosts,
        ps_only_hosts=ps_only,
        # One that its platform's cluster does not know is a host alone.
        evaluator=next((host for host in members[1:] if _evaluates(tasks.get(host))), ""),
        mpi=_mpi(documents, hyper, len(members)) if strategy is Strategy.MPI else None,
    )


def _evaluates(task: Task | None) -> bool:
    return task is not None and task.type == "evaluator"


def _wanted(
    documents: Documents, hyper: Hyperparameters, settings: Settings, hosts: Hosts
) -> tuple[list[Strategy], list[str]]:
    """The strategy that was asked for, one or none, and others' that were.

    The setting, else the hyperparameters, else what the platform's ``TF_CONFIG`` has; where
    variables alone name several hosts they are a cluster with parameter servers, as they are under
    ``supervisor local``.
    """
    wanted, unsupported = _switched_on(documents, hyper)
    job, key = documents.facts.engine.job, "SUPERVISOR_STRATEGY"
    kinds = [task.type for task in job.tasks.values()] if job else []
    if settings.strategy != "auto":
        chosen = Strategy(settings.strategy)
        if wanted and chosen is not wanted[0]:
            switch = next(name for name, each in SWITCHES.items() if each is wanted[0])
            expected = f"{wanted[0].value}, or {switch} false in {documents.path(HYPERPARAMETERS)}"
            documents.fault("settings", key, settings.strategy, expected)
        if kinds and chosen is Strategy.PS and "ps" not in kinds and len(kinds) > 1:
            expected = "mwms or none: the cluster of TF_CONFIG has no ps"
            documents.fault("settings", key, settings.strategy, expected)
        if chosen is Strategy.MWMS and "ps" in kinds:
            # With one the strategy hangs at its construction.
            expected = "ps or none: the cluster of TF_CONFIG has ps"
            documents.fault("settings", key, settings.strategy, expected)
        return ([] if chosen is Strategy.NONE else [chosen]), unsupported
    if wanted or unsupported or job is None or len(hosts.names) < 2:
        return wanted, unsupported
    if kinds and "ps" not in kinds:
        return [Strategy.MWMS], unsupported
    return [Strategy.PS], unsupported


def _switched_on(documents: Documents, hyper: Hyperparameters) -> tuple[list[Strategy], list[str]]:
    """The distributions that the hyperparameters switch on: ours, one or none; and others."""
    keys = [key for key in SWITCHES if hyper.truth(key)]
    if len(keys) > 1:
        found = "both true" if len(keys) == 2 else "all true"
        documents.fault_in_words(HYPERPARAMETERS, ", ".join(keys), found, "at most one")
    unsupported = [key for key in UNSUPPORTED if hyper.truth(key)]
    return [SWITCHES[key] for key in keys], unsupported


def _members(
    documents: Documents,
    hyper: Hyperparameters,
    hosts: Hosts,
    ps_group: str,
    *,
    distributed: bool,
) -> tuple[str, ...]:
    """The hosts of the groups that take part, in the order of ``hosts``.

    Without instance groups all hosts do. A group of parameter servers always does; where
    nothing else says which groups it serves, it serves all.
    """
    by_name = instance_groups(documents, hosts)
    if by_name is None:
        return hosts.names
    chosen = hyper.platform.get(CHOSEN_GROUPS)
    if chosen is None:
        if ps_group in by_name:
            return hosts.names
        if not distributed:
            return hosts.names
        group, current = hosts.own_group, hosts.current
        if current in hosts.names and current not in by_name.get(group, hosts.names):
            expected = f"the instance group that {current} is in"
            documents.fault(RESOURCES, "current_group_name", group, expected)
        return by_name.get(group, hosts.names)
    if not isinstance(chosen, list) or not chosen or not set(map(str, chosen)) <= set(by_name):
        documents.fault(
            HYPERPARAMETERS,
            CHOSEN_GROUPS,
            chosen,
            f"a list of names among {', '.join(sorted(by_name))}",
        )
        return hosts.names
    names = {str(name) for name in chosen} | ({ps_group} & set(by_name))
    members = {host for name in names for host in by_name[name]}
    return tuple(host for host in hosts.names if host in members)


def _refuse(
    documents: Documents,
    hyper: Hyperparameters,
    settings: Settings,
    keys: Sequence[str],
    *,
    alone: bool,
) -> None:
    """Distributions that we do not run: every host would train alone, and succeed.

    The predecessor starts one process for each accelerator, and one where there is none: on
    one host it may come to the same as the script alone.
    """
    each = hyper.platform.get("sagemaker_mpi_num_of_processes_per_host")
    processes = (each if type(each) is int else 0) or max(
        documents.facts.num_gpus or documents.facts.num_neurons, 1
    )
    for key in keys:
        if settings.unsupported_distribution == "ignore" or (alone and processes == 1):
            documents.notes.append(
                f"{key} is ignored: {UNSUPPORTED[key]} is not run by this program, and every "
                "host runs its script as if it were not there"
            )
            continue
        documents.fault_in_words(
            HYPERPARAMETERS,
            key,
            "true",
            f"false, or one of {', '.join(SWITCHES)} in its place: {UNSUPPORTED[key]} is not "
            "run by this program, and each host would train alone; "
            "SUPERVISOR_UNSUPPORTED_DISTRIBUTION=ignore lets it pass",
        )


def _note_unknown(
    documents: Documents, hyper: Hyperparameters, wanted: Sequence[Strategy], *, alone: bool
) -> None:
    """Notes on what might be a distribution of others: each host would train alone."""
    for key, value in hyper.platform.items():
        known = key in SWITCHES or key in UNSUPPORTED
        if known or alone or not key.endswith("_enabled") or value in _FALSE:
            continue
        documents.notes.append(
            f"{key} means nothing to this program: if it is a distribution, each host trains "
            f"alone; those that are run are switched on by {', '.join(SWITCHES)}"
        )
    if hyper.user.get("mp_parameters") and not (alone and Strategy.MPI not in wanted):
        how = "mpirun starts the script itself" if wanted else "each host trains alone"
        documents.notes.append(
            "mp_parameters: smddpmprun, the launcher of SageMaker's model parallel library, is "
            f"not run by this program: {how}"
        )


def _ps_hosts(
    documents: Documents, settings: Settings, hosts: Hosts, members: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The hosts with a parameter server, and those of them that run nothing else."""
    layout, key = settings.ps_hosts, "SUPERVISOR_PS_HOSTS"
    if group := _ps_group(settings):
        groups = hosts.groups
        if group not in groups:
            allowed = f"a group of {RESOURCES}: {', '.join(sorted(groups)) or 'it has none'}"
            documents.fault("settings", key, layout, allowed)
            return (), ()
        only = tuple(host for host in members if host in groups[group])
        if len(only) == len(members):
            documents.fault("settings", key, layout, "a group beside which others run the script")
            return (), ()
        return only, only
    if layout == "members":
        return members[1:], ()
    if layout == "all":
        return members, ()
    if int(layout) > len(members):
        documents.fault("settings", key, layout, f"at most {len(members)}, all hosts")
    return members[: int(layout)], ()


def _mpi(documents: Documents, hyper: Hyperparameters, hosts: int) -> Mpi:
    each = hyper.number("sagemaker_mpi_num_of_processes_per_host", 1)
    processes = hyper.number("sagemaker_mpi_num_processes", each * hosts)
    key = "sagemaker_mpi_custom_mpi_options"
    text = hyper.text(key)
    try:
        options = tuple(shlex.split(text))
    except ValueError as error:
        documents.fault(HYPERPARAMETERS, key, text, f"words as in a shell: {error}".lower())
        options = ()
    return Mpi(each, processes, options)


def _ps_group(settings: Settings) -> str:
    """The instance group that runs the parameter servers and nothing else; empty if none does."""
    return settings.ps_hosts.removeprefix("group:") if ":" in settings.ps_hosts else ""
