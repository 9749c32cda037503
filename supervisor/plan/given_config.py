"""A ``TF_CONFIG`` that is in our own environment, held against the contract. Pure.

An image, a platform or a person may have set it. Where it tells of another cluster than the
contract does, one of the two is wrong, and every host would train alone or wait for hosts that
nobody starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

_CHIEFS: Final = ("chief", "master")


def contradiction(
    text: str, ours: Mapping[str, Any] | None, hosts: Mapping[str, str], here: str, *, mpi: bool
) -> str:
    """What in ``text`` contradicts the contract; the empty string where nothing does.

    ``ours`` is the ``TF_CONFIG`` of the script by the contract, None without one; ``hosts`` are
    those of the job with their addresses, ``here`` is this one; ``mpi``: ``mpirun`` gives one
    environment to all.
    """
    if not text.strip():
        return ""
    try:
        given = json.loads(text)
        cluster = _tasks(given.get("cluster") or {})
        task = _task(given.get("task") or {})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "no TF_CONFIG: expected is a JSON object with cluster and task"
    if not cluster:
        return ""
    if ours is not None:
        return _unlike(cluster, task, _tasks(ours["cluster"]), _task(ours["task"]))
    places = {_host(address) for tasks in cluster.values() for address in tasks.values()}
    if len(places) < 2:  # on one host a cluster within the script is nobody else's business
        return ""
    if mpi or len(places) != len(hosts):
        return f"a cluster of {len(places)} hosts, {', '.join(sorted(places)[:20])}"
    own = _host(cluster.get(task[0], {}).get(task[1], ""))
    others = {each for name, address in hosts.items() if name != here for each in (name, address)}
    if own in others - {here, hosts[here]}:
        return f"the task {task[0]} {task[1]}, which is that of {own}"
    return ""


def _unlike(
    cluster: Mapping[str, Mapping[int, str]],
    task: tuple[str, int],
    ours: Mapping[str, Mapping[int, str]],
    own_task: tuple[str, int],
) -> str:
    """Addresses are not compared: the script is given ours."""
    if not set(_CHIEFS) & set(ours):
        # MultiWorkerMirroredStrategy: a chief beside the workers is the first of them.
        chiefs = sum(len(cluster.get(name, ())) for name in _CHIEFS)
        workers = dict.fromkeys(range(chiefs + len(cluster.get("worker", ()))), "")
        rest = {name: each for name, each in cluster.items() if name not in _CHIEFS}
        cluster = {**rest, "worker": workers}
        if task[0] in _CHIEFS:
            task = ("worker", task[1])
        elif task[0] == "worker":
            task = ("worker", task[1] + chiefs)
    found, wanted = _sizes(cluster), _sizes(ours)
    if found != wanted:
        return f"a cluster of {_words(found)}; the contract's is {_words(wanted)}"
    if _named(task) != _named(own_task):
        return f"the task {_words_of(task)}; the contract's is {_words_of(own_task)}"
    return ""


def _tasks(cluster: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """Role → index → address; a sparse cluster names its indexes."""
    return {
        str(role): {int(index): str(address) for index, address in tasks.items()}
        if isinstance(tasks, dict)
        else {index: str(address) for index, address in enumerate(list(tasks))}
        for role, tasks in cluster.items()
    }


def _task(task: Mapping[str, Any]) -> tuple[str, int]:
    return str(task.get("type", "")), int(task.get("index") or 0)


def _named(task: tuple[str, int]) -> tuple[str, int]:
    return ("chief" if task[0] in _CHIEFS else task[0]), task[1]


def _sizes(cluster: Mapping[str, Mapping[int, str]]) -> dict[str, int]:
    """Tasks by role; an evaluator is no part of a cluster."""
    sizes = {_named((role, 0))[0]: len(tasks) for role, tasks in cluster.items() if tasks}
    sizes.pop("evaluator", None)
    return sizes


def _words(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {role}" for role, count in sorted(sizes.items())) or "nothing"


def _words_of(task: tuple[str, int]) -> str:
    return f"{task[0]} {task[1]}" if task[0] else "of nobody"


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]") or address
