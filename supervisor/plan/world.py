"""A contract as it would be if other hosts trained: fewer, or spares in the place of some. Pure.

A script counts its hosts by ``SM_HOSTS``, ``SM_RESOURCE_CONFIG``, ``TF_CONFIG`` or the size of its
MPI job; all of them tell the hosts that train now, in the order of their ranks. What was fetched
before stays as it is, a channel that is shared out by hosts among it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from supervisor.contract.contract import Contract
from supervisor.contract.distribution import Strategy
from supervisor.faults import Fault, counted

MOST_HOSTS: Final = 2048
"""`protocol.MAX_WORLD`."""


def cluster_of(contract: Contract, evaluator: str | None) -> tuple[str, ...]:
    """The hosts that train, or stand by for it."""
    return tuple(host for host in contract.distribution_hosts if host != evaluator)


def first_world(contract: Contract, cluster: tuple[str, ...]) -> tuple[str, ...]:
    """Those that train at first: the last ``SUPERVISOR_SPARES`` stand by."""
    return cluster[: len(cluster) - contract.settings.spares] if cluster else ()


def narrowed(contract: Contract, world: tuple[str, ...]) -> Contract:
    """The same job with these hosts in its cluster; whoever asks is one of them, if as the last."""
    if contract.current_host in contract.distribution_hosts and contract.current_host not in world:
        world = (*world, contract.current_host)
    gone = {*contract.distribution_hosts}.difference(world)
    if not gone and world == contract.distribution_hosts:
        return contract
    hosts = (*world, *(host for host in contract.hosts if host not in world and host not in gone))
    mpi = contract.mpi
    if mpi is not None:
        mpi = replace(mpi, processes=mpi.processes_per_host * len(world))
    return contract._replace(
        hosts=hosts,
        distribution_hosts=world,
        ps_hosts=world if contract.ps_hosts else (),
        resource_config=_without(contract.resource_config, hosts, gone),
        mpi=mpi,
    )


def _without(resources: Any, hosts: tuple[str, ...], gone: set[str]) -> dict[str, Any]:
    """``resourceconfig.json`` as a platform without these hosts would write it."""
    changed = dict(resources)
    if "hosts" in changed:
        changed["hosts"] = list(hosts)
    if groups := changed.get("instance_groups"):
        changed["instance_groups"] = [
            {**group, "hosts": [host for host in group.get("hosts", ()) if host not in gone]}
            for group in groups
        ]
    return changed


def faults_of(contract: Contract, cluster: tuple[str, ...], *, given: bool) -> Iterator[Fault]:
    """What is asked of spares and of the fewest hosts, and cannot be; ``given``: the platform has
    made ``TF_CONFIG``."""
    settings = contract.settings
    spares, least = settings.spares, settings.min_hosts
    asked = {"SUPERVISOR_SPARES": spares, "SUPERVISOR_MIN_HOSTS": least}
    for name, number in asked.items():
        if number and given:
            expected = "0: the platform names the hosts in TF_CONFIG, and would have to change it"
            yield Fault("settings", name, str(number), expected)
        elif number and len(cluster) > MOST_HOSTS:
            yield Fault("settings", name, str(number), f"0 with more than {MOST_HOSTS} hosts")
    if spares and not settings.restarts:
        expected = "0, or SUPERVISOR_RESTARTS above 0: a spare begins with another attempt"
        yield Fault("settings", "SUPERVISOR_SPARES", str(spares), expected)
    if spares and spares >= len(cluster):
        expected = f"fewer than the {counted(len(cluster), 'host')} of the cluster"
        yield Fault("settings", "SUPERVISOR_SPARES", str(spares), expected)
    elif least > len(cluster) - spares:
        expected = f"at most the {counted(len(cluster) - spares, 'host')} that train"
        yield Fault("settings", "SUPERVISOR_MIN_HOSTS", str(least), expected)
    uneven = contract.ps_only_hosts or contract.ps_hosts not in {(), contract.distribution_hosts}
    if spares and contract.strategy is Strategy.PS and uneven:
        expected = "0, or a parameter server on every host: a spare takes the place of any"
        yield Fault("settings", "SUPERVISOR_SPARES", str(spares), expected)


def fewest(contract: Contract) -> int:
    """How many hosts are enough to go on; 0: all of them. With parameter servers none can be done
    without: each holds a part of the variables."""
    settings = contract.settings
    able = settings.restarts and contract.strategy is not Strategy.PS
    return settings.min_hosts if able else 0
