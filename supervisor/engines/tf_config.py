"""``TF_CONFIG`` as a platform writes it (Kubeflow's TFJob, Vertex AI, PAI), and ``CLUSTER_SPEC``.

https://www.tensorflow.org/guide/distributed_training#TF_CONFIG,
https://cloud.google.com/vertex-ai/docs/training/distributed-training#cluster-variables
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from supervisor.contract.facts import Engine
from supervisor.contract.settings import BY_ENV
from supervisor.contract.told import Job, Task
from supervisor.engines import kubernetes
from supervisor.engines.world import STOPPED_CODE, World, evidence, fault, whole
from supervisor.faults import Fault

_ORDER: Final = ("chief", "master", "worker", "evaluator", "ps")
"""The master first, those that run nothing but a server last."""
_POOLS: Final = {
    "workerpool0": "chief",
    "workerpool1": "worker",
    "workerpool2": "ps",
    "workerpool3": "evaluator",
}
_ADDRESS: Final = "HOST:PORT, or [ADDRESS]:PORT for IPv6"


def cluster_in(environ: Mapping[str, str]) -> str:
    """The variable that has a cluster; empty where none has. No fault is told here."""
    for variable in ("TF_CONFIG", "CLUSTER_SPEC"):
        text = environ.get(variable, "")
        if "cluster" not in text:
            continue
        try:
            config = json.loads(text)
        except (ValueError, RecursionError):
            return variable  # meant as one: the reader says what is wrong
        if isinstance(config, dict) and config.get("cluster"):
            return variable
    return ""


def read(world: World) -> Engine:
    """The cluster and this task of it."""
    environ = world.environ
    variable = cluster_in(environ) or "TF_CONFIG"
    faults: list[Fault] = []
    status_port = whole(world.setting("status_port")) or int(
        BY_ENV["SUPERVISOR_STATUS_PORT"].default
    )
    job = _Reader(variable, environ.get(variable, ""), status_port, faults).job()
    words = f"{variable}, task {_task_words(job)}" if job and job.tasks else variable
    on_kubernetes = "KUBERNETES_SERVICE_HOST" if "KUBERNETES_SERVICE_HOST" in environ else ""
    said = (words, on_kubernetes, evidence(environ, "CLOUD_ML_JOB_ID"))
    return Engine(
        "tf_config",
        ", ".join(filter(None, said)),
        job or Job((), "", {}),
        job_name=environ.get("CLOUD_ML_JOB_ID", "") or _job_name(job),
        # A stop and its limit are Kubernetes' on all of these platforms.
        defaults={"stop_limit_s": kubernetes.STOP_LIMIT},
        failure_files=kubernetes.failure_files(environ),
        stopped_code=STOPPED_CODE,
        faults=tuple(faults),
    )


def _task_words(job: Job) -> str:
    task = job.tasks.get(job.current)
    return f"{task.type} {task.number}" if task else "unknown"


def _job_name(job: Job | None) -> str:
    """``JOB`` of a TFJob's ``JOB-worker-0.NS.svc``, the same on all hosts; else empty."""
    if not job or not job.hosts or not job.tasks:
        return ""
    first = job.tasks[job.hosts[0]]
    label = job.hosts[0].partition(".")[0]
    name = label.removesuffix(f"-{first.type}-{first.number}")
    return name if name != label else ""


class _Reader:
    """Of one such variable; collects what is wrong with it."""

    def __init__(self, variable: str, text: str, status_port: int, faults: list[Fault]) -> None:
        self._variable = variable
        self._text = text
        self._status_port = status_port
        self._faults = faults

    def _fault(self, key: str, found: object, expected: str) -> None:
        name = f"{self._variable}: {key}" if key else self._variable
        self._faults.append(fault(name, found, expected))

    def job(self) -> Job | None:
        """None, and a fault at least, where it cannot be used."""
        try:
            config = json.loads(self._text)
        except (ValueError, RecursionError) as error:
            self._fault("", self._text, f"a JSON object with cluster and task ({error})"[:200])
            return None
        if not isinstance(config, dict):
            self._fault("", config, "a JSON object with cluster and task")
            return None
        if "sparseCluster" in config:
            self._fault(
                "sparseCluster",
                config["sparseCluster"],
                "cluster, with every task of the job: hosts that know a part of it cannot end "
                "together (TFJob: enableDynamicWorker false)",
            )
            return None
        tasks = self._cluster(config.get("cluster"))
        own = self._own(config.get("task"), tasks)
        if tasks is None or own is None:
            return None
        return self._laid_out(tasks, own)

    def _cluster(self, cluster: object) -> dict[Task, tuple[str, int]] | None:
        """Every task → its address, in the order of hosts."""
        if not isinstance(cluster, dict) or not cluster:
            self._fault("cluster", cluster, "an object: task type → list of HOST:PORT")
            return None
        by_type: dict[str, list[Any]] = {}
        for name, addresses in cluster.items():
            kind = _POOLS.get(name, name)
            if kind not in _ORDER:
                known = ", ".join(_ORDER if self._variable == "TF_CONFIG" else _POOLS)
                self._fault(f"cluster.{name}", addresses, f"no such task: those are {known}")
                continue
            if not isinstance(addresses, list):
                self._fault(f"cluster.{name}", addresses, "a list of HOST:PORT")
                continue
            by_type[kind] = addresses
        if {"chief", "master"} <= set(by_type):
            self._fault("cluster", sorted(cluster), "a chief or a master, one of them")
        tasks: dict[Task, tuple[str, int]] = {}
        for kind in _ORDER:
            for index, address in enumerate(by_type.get(kind, ())):
                place = _place(address)
                if place is None:
                    self._fault(f"cluster.{kind}[{index}]", address, _ADDRESS)
                elif place in tasks.values():
                    self._fault(f"cluster.{kind}[{index}]", address, "each address once")
                else:
                    tasks[Task(kind, index)] = place
        for kind in ("chief", "master"):
            if len(by_type.get(kind, ())) > 1:
                self._fault(f"cluster.{kind}", by_type[kind], "one task")
        if self._faults:
            return None
        if not any(task.type in {"chief", "master", "worker"} for task in tasks):
            self._fault("cluster", cluster, "a chief or a worker, which runs the script")
            return None
        return tasks

    def _own(self, task: object, tasks: Mapping[Task, tuple[str, int]] | None) -> Task | None:
        if not isinstance(task, dict):
            self._fault("task", task, "an object with type and index")
            return None
        kind, index = task.get("type"), task.get("index", 0)
        if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 7:
            index = int(index)  # Vertex AI and PAI write it in quotes
        kind = _POOLS.get(kind, kind) if isinstance(kind, str) else kind
        if not isinstance(kind, str) or kind not in _ORDER:
            self._fault("task.type", kind, f"one of {', '.join(_ORDER)}")
            return None
        if type(index) is not int or index < 0:
            self._fault("task.index", index, "a number from 0")
            return None
        own = Task(kind, index)
        # The evaluator knows the cluster and is not known to it.
        if tasks is not None and own not in tasks and kind != "evaluator":
            count = sum(1 for each in tasks if each.type == kind)
            self._fault(
                "task", f"{kind} {index}", f"a task of the cluster, which has {count} {kind}"
            )
            return None
        return own

    def _laid_out(self, tasks: Mapping[Task, tuple[str, int]], own: Task) -> Job:
        sources = {
            "hosts": f"{self._variable}: cluster",
            "current_host": f"{self._variable}: task",
        }
        given = self._text if self._variable == "TF_CONFIG" else ""
        if own not in tasks:
            name = f"{own.type}-{own.number}"
            return Job((name,), name, sources, {}, {name: own}, given)
        addresses = [address for address, _ in tasks.values()]
        apart = len(set(addresses)) == len(addresses)
        names = {
            task: address if apart else f"{task.type}-{task.number}"
            for task, (address, _) in tasks.items()
        }
        places = {}
        for task, (address, port) in tasks.items():
            ports = {"ps" if task.type == "ps" else "train": port}
            if not apart:
                ports["status"] = _status_port(task, tasks, self._status_port)
            places[names[task]] = (address, ports)
        return Job(
            tuple(names.values()),
            names[own],
            sources,
            places,
            {name: task for task, name in names.items()},
            given,
        )


def _status_port(own: Task, tasks: Mapping[Task, tuple[str, int]], first: int) -> int:
    """Of a task that shares its address: the next one from ``first`` on that no task has there,
    the same for whoever computes it."""
    address = tasks[own][0]
    there = {task: port for task, (host, port) in tasks.items() if host == address}
    free = (port for port in range(first, 65536) if port not in there.values())
    return dict(zip(there, free, strict=False))[own]


def _place(address: object) -> tuple[str, int] | None:
    if not isinstance(address, str):
        return None
    host, colon, port = address.removeprefix("grpc://").rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    fits = port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536
    if not (host and colon and fits) or not host.isprintable() or " " in host:
        return None
    return host, int(port)
