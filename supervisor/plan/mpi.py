"""The processes of an MPI job: ``mpirun`` on the master, ``sshd`` on the other hosts. Pure.

Command line and defaults follow what scripts know from ``sagemaker-training``: one process a host
unless told otherwise, ranks tagged in the output, not bound to cores, placed by slots. The
environment is carried by name (``-x NAME``): no value of it is in an argument.
"""

from __future__ import annotations

import posixpath
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from supervisor.contract.contract import Contract
from supervisor.contract.entry_point import EntryKind
from supervisor.life.words import ProcessSpec, Role

PROGRAMS: Final = posixpath.join(posixpath.dirname(posixpath.dirname(__file__)), "mpi")

SSHD_TIMEOUT_S: Final = 60.0
"""Every host has passed the barrier and starts its sshd at the same time as we mpirun."""

OF_ONE_HOST: Final = (
    "CURRENT_HOST",
    "SM_CURRENT_HOST",
    "SM_CURRENT_INSTANCE_GROUP",
    "SM_CURRENT_INSTANCE_GROUP_HOSTS",
    "SM_CURRENT_INSTANCE_TYPE",
    "SM_NUM_CPUS",
    "SM_NUM_GPUS",
    "SM_NUM_NEURONS",
    "SM_RESOURCE_CONFIG",
    "SM_TRAINING_ENV",
    "SUPERVISOR_RESUMED_FROM",
)
"""Variables that a rank has from its own host. The predecessor gives all ranks the master's."""

_STAYS_HOME: Final = frozenset(
    {"HOME", "HOSTNAME", "LOGNAME", "OLDPWD", "PWD", "SHELL", "SHLVL", "TMPDIR", "USER", "_"}
)
"""About the master's own session; carried, they would be lies elsewhere."""

_ASKS_TO_STOP: Final = signal.SIGPWR
"""mpirun passes it on to every rank when told to (SIGTERM it does not): its own way on SIGTERM
leaves a rank one second and then kills it."""


def launcher(
    contract: Contract,
    script: ProcessSpec,
    members: Sequence[tuple[str, str, int]],
    *,
    one_machine: bool = False,
) -> ProcessSpec:
    """The master's process. ``members`` are name, address and ssh port of the other hosts.

    ``one_machine``: all of them are this one, and their names mean nothing to it.
    """
    mpi = contract.mpi
    assert mpi is not None
    # Where variables tell the hosts nobody names an interface, and mpirun finds one.
    unnamed = "eth0" if contract.engine.job is None else ""
    network = str(contract.resource_config.get("network_interface_name", unnamed))
    names = ["localhost"]
    if members:
        master = "localhost" if one_machine else contract.master
        names = [master, *(name for name, _, _ in members)]
    places = names
    if mpi.processes_per_host > 1:
        places = [f"{name}:{mpi.processes_per_host}" for name in names]
    # mpirun would start its ranks by srun, in a step that waits for ours to end.
    env = {name: value for name, value in script.env.items() if not _is_slurms(contract, name)}
    command = ["mpirun", "--host", ",".join(places), "-np", str(mpi.processes)]
    command += ["--allow-run-as-root", "--tag-output", "--bind-to", "none", "--map-by", "slot"]
    if members:
        command += _mca(plm_rsh_no_tree_spawn="1", plm_rsh_num_concurrent=str(len(names)))
        if network:
            command += _mca(btl_tcp_if_include=network, oob_tcp_if_include=network)
            env.setdefault("NCCL_SOCKET_IFNAME", network)
    command += _mca(
        pml="ob1",
        # Shared memory has its files by the machine's name: hosts would take each other's.
        btl="self,tcp" if one_machine else "^openib",
        btl_vader_single_copy_mechanism="none",
        orte_abort_on_non_zero_status="1",
        ess_base_forward_signals=_ASKS_TO_STOP.name,
    )
    options, nccl_debug = _without_nccl_debug(mpi.options)
    if nccl_debug:
        env["NCCL_DEBUG"] = nccl_debug
    for name in _carried(env, alone=not members):
        command += ["-x", name]
    command += options
    commands = {EntryKind.COMMAND, EntryKind.TEMPLATE}
    python = () if contract.entry_kind in commands else ("--mpi4py",)
    rank = ("rank.py", *python, str(int(contract.settings.stop_signal)))
    wait = ["--wait-s", f"{SSHD_TIMEOUT_S:g}"]
    if contract.settings.mpi_ssh_key:
        wait += ["--identity", contract.settings.mpi_ssh_key]
    for name, address, port in members:
        wait += ["--member", name, address, str(port)]
    return ProcessSpec(
        name=Role.LAUNCHER.value,
        role=Role.LAUNCHER,
        argv=(*_program("launcher.py"), *wait, "--", *command, *_program(*rank), *script.argv),
        env=env,
        cwd=script.cwd,
        stop_signal=signal.SIGTERM,
    )


def _is_slurms(contract: Contract, name: str) -> bool:
    """What tells mpirun that it is Slurm's; the task of a job array is the script's to know."""
    slurm = contract.engine.name == "slurm" and name.startswith(("SLURM_", "SLURMD_"))
    return slurm and not name.startswith("SLURM_ARRAY_")


def sshd(
    contract: Contract, env: Mapping[str, str], port: int, *, one_machine: bool = False
) -> ProcessSpec:
    """Another host's process: it serves ``mpirun``, and the ranks are its descendants.

    ``one_machine``: the hosts share it, and so each has a base directory of its own.
    """
    settings = contract.settings
    arguments = ["--program", settings.mpi_sshd, "--port", str(port)]
    if settings.mpi_ssh_key:
        arguments += ["--identity", settings.mpi_ssh_key]
    for name, value in sorted(env.items()):
        if name in OF_ONE_HOST or (one_machine and contract.base_dir in value):
            arguments += ["--variable", name]
    return ProcessSpec(
        name=Role.SSHD.value,
        role=Role.SSHD,
        argv=(*_program("sshd.py"), *arguments),
        env=env,
        cwd=contract.base_dir,
        essential=True,
        stop_signal=contract.settings.server_stop_signal,
    )


def _program(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", posixpath.join(PROGRAMS, name), *arguments)


def _mca(**parameters: str) -> list[str]:
    return [word for name, value in parameters.items() for word in ("-mca", name, value)]


def _carried(env: Mapping[str, str], *, alone: bool) -> list[str]:
    """The names that go along. A host alone needs none: its ranks inherit everything."""
    if alone:
        return []
    left = {*_STAYS_HOME, *OF_ONE_HOST}
    return sorted(
        name
        for name in env
        if name not in left and not name.startswith(("OMPI_", "PMIX_", "PRTE_", "BASH_FUNC_"))
    )


def _without_nccl_debug(options: Sequence[str]) -> tuple[list[str], str]:
    """``--NCCL_DEBUG LEVEL`` is the platform's own spelling among the options, not mpirun's."""
    rest: list[str] = []
    level = ""
    words = iter(options)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--NCCL_DEBUG":
            level = value if equals else next(words, "")
        else:
            rest.append(word)
    return rest, level
