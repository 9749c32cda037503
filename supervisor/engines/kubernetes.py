"""Kubernetes: pods of an Indexed Job, of a JobSet, or of Kubeflow's Trainer; and a pod alone.

https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode,
https://www.kubeflow.org/docs/components/trainer/ (``PET_…``, as torchrun knows them)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from supervisor.contract.facts import Engine
from supervisor.contract.told import Job
from supervisor.engines.world import STOPPED_CODE, World, evidence, fault, number, whole
from supervisor.faults import Fault

STOP_LIMIT: Final = ("30", "terminationGracePeriodSeconds (its default)")
"""The pod is not told: whoever changes it there sets ``SUPERVISOR_STOP_LIMIT_S`` too."""
TERMINATION_LOG: Final = "/dev/termination-log"
"""``terminationMessagePath``, where a pod does not say otherwise."""


def failure_files(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where the kubelet reads why a container ended."""
    return (TERMINATION_LOG,) if "KUBERNETES_SERVICE_HOST" in environ else ()


def read(world: World) -> Engine:
    """The pods of this job."""
    environ = world.environ
    faults: list[Fault] = []
    defaults = {"stop_limit_s": STOP_LIMIT}
    if "PET_NNODES" in environ:
        job, name = _trainer(environ, faults)
        if (port := number(environ, "PET_MASTER_PORT")) is not None:
            defaults["status_port"] = (str(port), "PET_MASTER_PORT")
    elif "JOB_COMPLETION_INDEX" in environ:
        job, name = _indexed(world, faults)
    else:
        job, name = None, ""
    return Engine(
        "kubernetes",
        evidence(
            environ,
            *("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX", "PET_NNODES", "PET_NODE_RANK"),
        ),
        job,
        job_name=name,
        defaults=defaults,
        failure_files=failure_files(environ),
        stopped_code=STOPPED_CODE,
        faults=tuple(faults),
    )


def _indexed(world: World, faults: list[Fault]) -> tuple[Job, str]:
    """The controller names pods' hosts ``JOB-INDEX``, below the headless Service of the template's
    ``subdomain``; how many they are only the manifest knows."""
    environ = world.environ
    sources = {"hosts": "SUPERVISOR_HOST_COUNT", "current_host": "JOB_COMPLETION_INDEX"}
    index = number(environ, "JOB_COMPLETION_INDEX")
    if index is None:
        found = environ["JOB_COMPLETION_INDEX"]
        faults.append(fault("JOB_COMPLETION_INDEX", found, "the pod's index, a number from 0"))
        return Job((), "", sources), ""
    count = whole(world.setting("host_count"))
    domain = world.setting("host_domain")
    hostname = environ.get("HOSTNAME") or world.hostname()
    prefix = hostname.removesuffix(f"-{index}")
    if not world.setting("host_count"):
        expected = (
            "the Job's completions: how many pods there are, which they are not told; "
            "supervisor launch kubernetes prints a manifest that says it"
        )
        faults.append(fault("SUPERVISOR_HOST_COUNT", None, expected))
    elif count is not None and count <= index:
        expected = f"more than JOB_COMPLETION_INDEX, {index}"
        faults.append(fault("SUPERVISOR_HOST_COUNT", count, expected))
    if not domain and count != 1:
        expected = "the headless Service of the pods, the template's subdomain: SERVICE"
        faults.append(fault("SUPERVISOR_HOST_DOMAIN", None, expected))
    if prefix == hostname:
        expected = f"a name that ends in -{index}, JOB_COMPLETION_INDEX, as the Job gives it"
        faults.append(fault("HOSTNAME", hostname, expected))
    if faults or count is None:
        return Job((), "", sources), prefix
    end = f".{domain}" if domain else ""
    hosts = tuple(f"{prefix}-{number}{end}" for number in range(count))
    return Job(hosts, hosts[index], sources), prefix


def _trainer(environ: Mapping[str, str], faults: list[Fault]) -> tuple[Job, str]:
    """``PET_MASTER_ADDR`` is the pod of index 0: ``NAME-node-0-0.NAME``."""
    sources = {"hosts": "PET_NNODES", "current_host": "PET_NODE_RANK"}
    count = number(environ, "PET_NNODES")
    if not count:
        expected = "a number of nodes; a range of them, for elastic training, is not run"
        faults.append(fault("PET_NNODES", environ["PET_NNODES"], expected))
        return Job((), "", sources), ""
    rank = number(environ, "PET_NODE_RANK")
    variable = "PET_NODE_RANK"
    if variable not in environ and "JOB_COMPLETION_INDEX" in environ:
        variable = "JOB_COMPLETION_INDEX"
        rank = number(environ, variable)
    if rank is None or rank >= count:
        expected = f"the rank of this node, below PET_NNODES, {count}"
        faults.append(fault(variable, environ.get(variable), expected))
        rank = 0
    master = environ.get("PET_MASTER_ADDR", "")
    label, _, domain = master.partition(".")
    prefix = label.removesuffix("-0")
    if count > 1 and (prefix == label or not domain):
        expected = "the pod with index 0, such as NAME-node-0-0.NAME"
        faults.append(fault("PET_MASTER_ADDR", master, expected))
        return Job((), "", sources), ""
    if count == 1:
        name = environ.get("HOSTNAME") or "localhost"
        return Job((name,), name, sources), name
    hosts = tuple(f"{prefix}-{number}.{domain}" for number in range(count))
    return Job(hosts, hosts[rank], sources), domain.partition(".")[0]
