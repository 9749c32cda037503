"""Slurm: one supervisor on each node of a step, started by ``srun``.

https://slurm.schedmd.com/srun.html, "OUTPUT ENVIRONMENT VARIABLES"
"""

from __future__ import annotations

import re
from typing import Final

from supervisor.contract.facts import Engine
from supervisor.contract.told import Job
from supervisor.engines.hostlist import expand
from supervisor.engines.world import STOPPED_CODE, World, evidence, fault, number
from supervisor.faults import Fault

KILL_WAIT_S: Final = 30.0
"""Between SIGTERM and SIGKILL where slurm.conf says nothing (slurm.conf(5), KillWait)."""
_ECHO_S: Final = 1.0
"""At the time limit every task gets SIGTERM twice: 2 to 150 ms apart on two busy processors, with
Slurm 22.05."""
_LOWEST_PORT: Final = 16384
_PORTS: Final = 4
"""Of one step on a node."""
_BLOCKS: Final = 4096
"""Up to 32768, where the kernel's ephemeral ports begin."""
_STEPS_APART: Final = 977
"""Steps of one job are so many blocks apart: jobs of one node have numbers that follow each other,
and so have their steps."""
_CONFIG: Final = "/etc/slurm/slurm.conf"
_ONE_TASK: Final = "one task on each node: srun --ntasks-per-node=1 (sbatch and salloc know it too)"


def read(world: World) -> Engine:
    """The step that this process is a task of."""
    environ = world.environ
    job_id, step_id = number(environ, "SLURM_JOB_ID"), number(environ, "SLURM_STEP_ID")
    faults: list[Fault] = []
    notes: list[str] = []
    if job_id is None:
        expected = "the number of the job, which srun sets"
        faults.append(fault("SLURM_JOB_ID", environ.get("SLURM_JOB_ID"), expected))
    job = _job(world, faults, notes)
    defaults = {
        "log_format": ("prefix", "SLURM_JOB_ID"),
        "requirements": ("skip", "SLURM_JOB_ID"),  # the nodes share one environment
        "stop_limit_s": _stop_limit(world),
    }
    if job_id is not None:
        first = _first_port(job_id, step_id or 0)
        defaults["status_port"] = (str(first), "SLURM_JOB_ID")
        places = {name: (name, _ports(first)) for name in job.hosts}
        job = job._replace(places=places)
    if (restarts := number(environ, "SLURM_RESTART_COUNT")) is not None:
        defaults["restart_count"] = (str(restarts), "SLURM_RESTART_COUNT")
    return Engine(
        "slurm",
        evidence(environ, "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NODELIST"),
        job,
        job_name=f"slurm-{job_id}",
        defaults=defaults,
        deadline=float(number(environ, "SLURM_JOB_END_TIME") or 0),
        stopped_code=STOPPED_CODE,
        echo_s=_ECHO_S,
        faults=tuple(faults),
        notes=tuple(notes),
    )


def _job(world: World, faults: list[Fault], notes: list[str]) -> Job:
    environ = world.environ
    variable = "SLURM_STEP_NODELIST"
    if variable not in environ:  # a batch script's own shell, or one of salloc
        return _without_step(world, faults, notes)
    hosts = _names(environ[variable], variable, faults)
    # Of the step alone: SLURM_NTASKS_PER_NODE may be what the batch job was asked for.
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "1")
    if not re.fullmatch(r"1(\(x\d+\))?(,1(\(x\d+\))?)*", tasks, re.ASCII):
        faults.append(fault("SLURM_STEP_TASKS_PER_NODE", tasks, _ONE_TASK))
    count = number(environ, "SLURM_STEP_NUM_NODES")
    if hosts and count is not None and count != len(hosts):
        expected = f"as many as SLURM_STEP_NODELIST has: {len(hosts)}"
        faults.append(fault("SLURM_STEP_NUM_NODES", count, expected))
    return Job(hosts, _own(world, hosts, faults), _SOURCES)


_SOURCES: Final = {"hosts": "SLURM_STEP_NODELIST", "current_host": "SLURM_NODEID"}


def _without_step(world: World, faults: list[Fault], notes: list[str]) -> Job:
    environ = world.environ
    variable = "SLURM_JOB_NODELIST"
    hosts = _names(environ.get(variable, ""), variable, faults)
    sources = {"hosts": variable, "current_host": "SLURMD_NODENAME"}
    if len(hosts) > 1:
        faults.append(
            fault(
                "SLURM_STEP_NODELIST",
                None,
                f"the nodes of a step: this job has {len(hosts)} nodes, and no step runs on them; "
                "start it with srun: srun supervisor train …",
            )
        )
        return Job(hosts, hosts[0], sources)
    notes.append(
        "SLURM_STEP_NODELIST is not set, so this is no step of the job: start it with srun, or "
        "scancel may not reach it"
    )
    return Job(hosts, hosts[0] if hosts else "", sources)


def _names(text: str, variable: str, faults: list[Fault]) -> tuple[str, ...]:
    try:
        return expand(text)
    except ValueError as error:
        faults.append(fault(variable, text, str(error)))
        return ()


def _own(world: World, hosts: tuple[str, ...], faults: list[Fault]) -> str:
    """The node that we are on, by its name, else by its number in the step."""
    environ = world.environ
    name = environ.get("SLURMD_NODENAME", "")
    if name in hosts:
        return name
    index = number(environ, "SLURM_NODEID")
    if index is not None and index < len(hosts):
        return hosts[index]
    if hosts:
        expected = f"the number of this node in the step, below {len(hosts)}"
        faults.append(fault("SLURM_NODEID", environ.get("SLURM_NODEID"), expected))
        return hosts[0]
    return ""


def _first_port(job_id: int, step_id: int) -> int:
    """Of the step's block of ports: the same on every node, another one for each job."""
    return _LOWEST_PORT + _PORTS * ((job_id + _STEPS_APART * step_id) % _BLOCKS)


def _ports(first: int) -> dict[str, int]:
    return {"train": first + 1, "ps": first + 2}


def _stop_limit(world: World) -> tuple[str, str]:
    """What Slurm leaves between SIGTERM and SIGKILL, and who says so.

    KillWait, or the GraceTime of the partition where jobs are preempted and that is shorter.
    """
    path = world.environ.get("SLURM_CONF") or _CONFIG
    text = world.read(path)
    wait_s, source = KILL_WAIT_S, "KillWait (its default)"
    if found := re.search(r"(?im)^[^#\n]*\bKillWait\s*=\s*(\d+)", text):
        wait_s, source = float(found[1]), f"KillWait in {path}"
    grace = _grace_s(text, world.environ.get("SLURM_JOB_PARTITION", ""))
    if 0 < grace < wait_s:
        wait_s, source = float(grace), f"GraceTime of the partition in {path}"
    if wait_s <= 0:  # killed at once: what is left is no limit to plan with
        wait_s = 1.0
    return f"{wait_s:g}", source


def _grace_s(config: str, partition: str) -> int:
    """The partition's GraceTime, or that of PartitionName=DEFAULT; 0 where there is none."""
    for name in filter(None, (partition, "DEFAULT")):
        line = re.search(rf"(?im)^\s*PartitionName\s*=\s*{re.escape(name)}\s.*$", config)
        if line and (found := re.search(r"(?i)\bGraceTime\s*=\s*(\d+)", line[0])):
            return int(found[1])
    return 0
