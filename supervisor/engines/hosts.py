"""A list of hosts: ``SUPERVISOR_HOSTS``, or what SkyPilot, Azure Batch and Open MPI tell.

https://docs.skypilot.co/en/latest/running-jobs/environment-variables.html,
https://learn.microsoft.com/azure/batch/batch-compute-node-environment-variables,
https://docs.open-mpi.org/en/main/tuning-apps/environment-var.html
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Final

from supervisor.contract.facts import Engine
from supervisor.contract.told import Job, Place
from supervisor.engines.hostlist import expand
from supervisor.engines.world import World, evidence, fault, number, whole
from supervisor.faults import Fault

_LISTS: Final = ("SKYPILOT_NODE_IPS", "AZ_BATCH_HOST_LIST", "AZ_BATCH_NODE_LIST")
OPENMPI_KILL_S: Final = "2"
"""From SIGTERM to SIGKILL where ``odls_base_sigkill_timeout`` says nothing else: 1 s to notice, and
the parameter's default of 1."""


def read(world: World) -> Engine:
    """Whatever of them is there."""
    environ = world.environ
    faults: list[Fault] = []
    if world.setting("hosts"):
        return _own_list(world, faults)
    if "SKYPILOT_NODE_IPS" in environ:
        return _skypilot(world, faults)
    if any(name in environ for name in _LISTS):
        return _azure(world, faults)
    if "OMPI_COMM_WORLD_RANK" in environ:
        return _openmpi_alone(world, faults)
    faults.append(fault("SUPERVISOR_HOSTS", None, "the hosts of the job: a,b,c or n[1-3]"))
    return Engine("hosts", "SUPERVISOR_ENGINE=hosts", Job((), "", {}), faults=tuple(faults))


# --------------------------------------------------------------------------- our own list


def _own_list(world: World, faults: list[Fault]) -> Engine:
    environ = world.environ
    variable, text = "SUPERVISOR_HOSTS", world.setting("hosts")
    hosts, places = _named(variable, text, faults)
    sources = {"hosts": variable, "current_host": "SUPERVISOR_HOST_INDEX"}
    current = ""
    index_text, rank = world.setting("host_index"), number(environ, "OMPI_COMM_WORLD_RANK")
    if index_text:
        index = whole(index_text)
        if index is None or (hosts and index >= len(hosts)):
            expected = f"a number from 0, below the {len(hosts)} of {variable}"
            faults.append(fault("SUPERVISOR_HOST_INDEX", index_text, expected))
        elif hosts:
            current = hosts[index]
    elif rank is not None:
        sources["current_host"] = "OMPI_COMM_WORLD_RANK"
        current = _by_rank(environ, hosts, rank, faults)
    elif hosts:
        current = _here(world, hosts)
        if not current:
            expected = (
                f"which of {variable} this is, a number from 0: none of them has this machine's "
                f"name, {world.hostname()}, or an address of it"
            )
            faults.append(fault("SUPERVISOR_HOST_INDEX", None, expected))
    return Engine(
        "hosts",
        _said(world, "hosts", variable) + _index_words(world, environ),
        Job(hosts, current or (hosts[0] if hosts else ""), sources, places),
        job_name=environ.get("PMIX_NAMESPACE", ""),
        defaults=_openmpi_limit(environ),
        faults=tuple(faults),
    )


def _said(world: World, field: str, variable: str) -> str:
    return evidence({variable: world.setting(field)}, variable)


def _index_words(world: World, environ: Mapping[str, str]) -> str:
    words = _said(world, "host_index", "SUPERVISOR_HOST_INDEX")
    words = words or evidence(environ, "OMPI_COMM_WORLD_RANK")
    return f", {words}" if words else ""


def _by_rank(
    environ: Mapping[str, str], hosts: Sequence[str], rank: int, faults: list[Fault]
) -> str:
    size = number(environ, "OMPI_COMM_WORLD_SIZE")
    if hosts and size is not None and size != len(hosts):
        expected = f"as many as SUPERVISOR_HOSTS has, {len(hosts)}: mpirun -np {len(hosts)} "
        faults.append(fault("OMPI_COMM_WORLD_SIZE", size, expected + "--map-by node"))
        return ""
    return hosts[rank] if rank < len(hosts) else ""


def _named(
    variable: str, text: str, faults: list[Fault]
) -> tuple[tuple[str, ...], dict[str, Place]]:
    """Names, and the status ports that stand behind some of them."""
    hosts: list[str] = []
    places: dict[str, Place] = {}
    try:
        bracketed = re.search(r"\[[^\],]*:[^\],]*\]", text)  # an address, and no range
        words = [word.strip() for word in text.split(",")] if bracketed else expand(text)
        for word in words:
            name, port = _with_port(word)
            hosts.append(name)
            if port:
                places[name] = (name, {"status": port})
    except ValueError as error:
        faults.append(fault(variable, text, str(error)))
        return (), {}
    return tuple(hosts), places


def _with_port(word: str) -> tuple[str, int]:
    expected = "NAME, NAME:PORT, or [ADDRESS]:PORT for IPv6, with commas between them"
    host, colon, port = word.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = word, ""  # a name, or an address of IPv6 without a port
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise ValueError(expected)
    return host, int(port or 0)


def _here(world: World, hosts: Sequence[str]) -> str:
    """The host that is this machine: by its name, the first label of it, or its address."""
    hostname = world.hostname()
    if hostname in hosts:
        return hostname
    label = hostname.partition(".")[0]
    same = [name for name in hosts if name.partition(".")[0] == label and not _is_address(name)]
    if len(same) == 1:
        return same[0]
    here = [name for name in hosts if _is_address(name) and world.is_here(name)]
    return here[0] if len(here) == 1 else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# --------------------------------------------------------------------------- others' lists


def _skypilot(world: World, faults: list[Fault]) -> Engine:
    environ = world.environ
    sources = {"hosts": "SKYPILOT_NODE_IPS", "current_host": "SKYPILOT_NODE_RANK"}
    hosts = tuple(environ["SKYPILOT_NODE_IPS"].split())
    rank = number(environ, "SKYPILOT_NODE_RANK")
    current = hosts[rank] if rank is not None and rank < len(hosts) else ""
    if hosts and not current:
        found = environ.get("SKYPILOT_NODE_RANK")
        expected = f"a number below the {len(hosts)} lines of SKYPILOT_NODE_IPS"
        faults.append(fault("SKYPILOT_NODE_RANK", found, expected))
    return Engine(
        "hosts",
        evidence(environ, "SKYPILOT_NODE_RANK", "SKYPILOT_TASK_ID"),
        Job(hosts, current or (hosts[0] if hosts else ""), sources),
        job_name=environ.get("SKYPILOT_TASK_ID", ""),
        faults=tuple(faults),
    )


def _azure(world: World, faults: list[Fault]) -> Engine:
    """A multi-instance task. Its master node is the first; the lists know no order."""
    environ = world.environ
    variable = next(name for name in _LISTS[1:] if name in environ)
    sources = {"hosts": variable, "current_host": variable}
    hosts = tuple(
        dict.fromkeys(word.strip() for word in environ[variable].replace(";", ",").split(","))
    )
    master, port = "", 0
    try:
        if "AZ_BATCH_MASTER_NODE" in environ:
            master, port = _with_port(environ["AZ_BATCH_MASTER_NODE"])
    except ValueError:
        found, expected = environ["AZ_BATCH_MASTER_NODE"], "ADDRESS:PORT of the master node"
        faults.append(fault("AZ_BATCH_MASTER_NODE", found, expected))
    if master:
        hosts = (master, *(host for host in hosts if host != master))
    current = _here(world, hosts)
    if not current:
        expected = "addresses, one of which is this machine's"
        faults.append(fault(variable, environ[variable], expected))
    return Engine(
        "hosts",
        evidence(environ, "AZ_BATCH_JOB_ID", "AZ_BATCH_MASTER_NODE"),
        Job(hosts, current or (hosts[0] if hosts else ""), sources),
        job_name=environ.get("AZ_BATCH_JOB_ID", ""),
        defaults={"status_port": (str(port), "AZ_BATCH_MASTER_NODE")} if port else {},
        faults=tuple(faults),
    )


def _openmpi_alone(world: World, faults: list[Fault]) -> Engine:
    environ = world.environ
    size = number(environ, "OMPI_COMM_WORLD_SIZE")
    if size != 1:
        expected = (
            "the hosts of the job, which mpirun does not tell: "
            "mpirun -x SUPERVISOR_HOSTS=a,b,c -np 3 --map-by node supervisor train …"
        )
        faults.append(fault("SUPERVISOR_HOSTS", None, expected))
    name = world.hostname()
    sources = {"hosts": "OMPI_COMM_WORLD_SIZE", "current_host": "OMPI_COMM_WORLD_RANK"}
    return Engine(
        "hosts",
        evidence(environ, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        Job((name,), name, sources),
        job_name=environ.get("PMIX_NAMESPACE", ""),
        defaults=_openmpi_limit(environ),
        faults=tuple(faults),
    )


def _openmpi_limit(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    if "OMPI_COMM_WORLD_RANK" not in environ:
        return {}
    variable = "OMPI_MCA_odls_base_sigkill_timeout"
    told = number(environ, variable)
    return {"stop_limit_s": (str(told), variable) if told else (OPENMPI_KILL_S, variable)}
