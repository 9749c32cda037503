"""Which engine a job comes from, by evidence; and the directory that the job has on this host.

The order: ``SUPERVISOR_ENGINE``; files; a list of hosts of our own; a ``TF_CONFIG`` with a cluster
(before Kubernetes, for a TFJob runs on it); a step of Slurm; pods that know each other; lists of
others; a pod alone; a host alone.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

from supervisor import regular
from supervisor.contract.facts import RESOURCES, Asked, Engine
from supervisor.contract.settings import ENGINES
from supervisor.engines.directory import absolute
from supervisor.engines.world import World

DEFAULT_BASE_DIR: Final = "/opt/ml"
RUNS: Final = "supervisor-runs"
"""Below the working directory: where a job has its directory that has no other."""
_FILE_BYTES: Final = 1 << 20


_Evidence = Callable[[World], bool]


def _any(*variables: str) -> _Evidence:
    return lambda world: any(world.environ.get(name) for name in variables)


def _has_cluster(world: World) -> bool:
    if not _any("TF_CONFIG", "CLUSTER_SPEC")(world):
        return False
    from supervisor.engines import tf_config  # noqa: PLC0415  # where there is one

    return bool(tf_config.cluster_in(world.environ))


def _is_pod(world: World) -> bool:
    return "KUBERNETES_SERVICE_HOST" in world.environ


_BY_VARIABLES: Final[tuple[tuple[str, _Evidence], ...]] = (
    ("hosts", lambda world: bool(world.setting("hosts"))),  # a flag counts too
    ("tf_config", _has_cluster),
    ("slurm", _any("SLURM_STEP_NODELIST", "SLURM_JOB_ID")),
    ("kubernetes", lambda w: _is_pod(w) and _any("JOB_COMPLETION_INDEX", "PET_NNODES")(w)),
    ("hosts", _any("SKYPILOT_NODE_IPS", "AZ_BATCH_HOST_LIST", "AZ_BATCH_NODE_LIST")),
    ("hosts", _any("OMPI_COMM_WORLD_RANK")),
    ("kubernetes", _is_pod),
)


def world_of(environ: Mapping[str, str], asked: Asked) -> World:
    """The real one."""
    return World(environ, asked.flags, socket.gethostname, is_here, _read)


def choose(world: World, *, has_files: bool) -> Engine:
    """The engine, and what it says. Loads no other one than that. Pure over ``world``."""
    wish = world.setting("engine").lower()
    if wish in ENGINES:
        said = world.flags.get("engine")
        return _read_by(wish, world, "--engine" if said else f"SUPERVISOR_ENGINE={wish}")
    found = next((name for name, is_there in _BY_VARIABLES if is_there(world)), "")
    if has_files:
        rival = _read_by(found, world, "") if found not in {"", "tf_config"} else None
        # A pod alone contradicts nothing, and neither does a shell of Slurm's.
        silent = rival is None or rival.job is None or rival.faults
        return Engine("sagemaker", RESOURCES, rival=None if silent else rival)
    if not found:
        return Engine("local", "no variables of a platform")
    return _read_by(found, world, "")


def _read_by(name: str, world: World, why: str) -> Engine:
    if name in {"sagemaker", "local"}:
        return Engine(name, why)
    module = importlib.import_module(f"supervisor.engines.{name}")
    engine: Engine = module.read(world)
    return engine._replace(evidence=", ".join(filter(None, (why, engine.evidence))))


# --------------------------------------------------------------------------- directories


class Site:
    """Where a job comes from, and its directory on this host."""

    def __init__(self, engine: Engine, base_dir: str) -> None:
        self.engine = engine
        self.base_dir = base_dir


def site_of(environ: Mapping[str, str], asked: Asked) -> Site:
    """Raises ``ContractError`` where the working directory has been removed."""
    world = world_of(environ, asked)
    engine = choose(world, has_files=has_files(files_dir(world)))
    return Site(engine, base_dir(world, asked, engine))


def files_dir(world: World) -> str:
    """Where the files of the container contract would be."""
    own = world.setting("base_dir") or world.environ.get("SAGEMAKER_BASE_DIR")
    return absolute(own or DEFAULT_BASE_DIR)


def has_files(base: str) -> bool:
    """Whether a platform has written there who the hosts are."""
    return os.path.lexists(os.path.join(base, "input", "config", RESOURCES))


def base_dir(world: World, asked: Asked, engine: Engine) -> str:
    """The directory of this host; with it may come those of other hosts on a shared disk.

    ``SAGEMAKER_BASE_DIR`` is a host's own, ``SUPERVISOR_BASE_DIR`` the job's. Without either it is
    ``/opt/ml`` where that can be used; not on nodes that jobs share.
    """
    if engine.name == "sagemaker":
        return files_dir(world)
    if job_dir := world.setting("base_dir"):
        return os.path.join(absolute(job_dir), _host_dir(engine))
    if world.environ.get("SAGEMAKER_BASE_DIR"):
        return files_dir(world)
    usable = engine.name != "slurm" and os.access(DEFAULT_BASE_DIR, os.W_OK | os.X_OK)
    nothing_asked = engine.name == "local" and not asked.command
    if usable or nothing_asked:  # without a script nothing is run: it is told where one may be
        return DEFAULT_BASE_DIR
    name = engine.job_name or world.environ.get("SAGEMAKER_JOB_NAME") or _script_name(asked)
    return absolute(os.path.join(RUNS, name.replace("/", "_"), _host_dir(engine)))


def _host_dir(engine: Engine) -> str:
    """By its index, which it keeps when the job is started again on other machines."""
    job = engine.job
    index = job.hosts.index(job.current) if job and job.current in job.hosts else 0
    return f"host-{index}"


def _script_name(asked: Asked) -> str:
    if not asked.command:
        return "job"
    words = asked.command[1:] if asked.command[0] == "-m" else asked.command
    word = words[0] if words else "-m"
    return os.path.splitext(os.path.basename(word))[0] or "job"


# --------------------------------------------------------------------------- the world


def is_here(address: str) -> bool:
    """Only an address of this machine can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            end.bind((address, 0))
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    try:
        return regular.read(path, _FILE_BYTES, follow=True).decode("utf-8", "replace")
    except OSError:
        return ""
