"""The manifests that ``supervisor launch kubernetes`` prints. Pure.

They are data with notes in it: as YAML the notes are comments, as JSON they are left out. The few
lines that write YAML are ours, since a reader of a manifest is no reason to depend on a library.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from supervisor.faults import safe_json
from supervisor.life.outcome import EXIT_CONTRACT

_WIDTH: Final = 78
_REPLICATED: Final = "host"
"""The replicated job of a JobSet: its pods are ``NAME-host-0-INDEX``."""
_USER: Final = 1000
_CONTAINER: Final = "train"
_SSH_PORT: Final = "2022"
_JOB_DIRECTORY: Final = "/job"
_CHECKPOINTS: Final = "/checkpoints"
_INSTANCE: Final = "app.kubernetes.io/instance"
_PORTS: Final = (("train", 2222), ("ps", 2223), ("status", 2224), ("mwms", 8890))

_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS_OF_YAML: Final = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})
"""In any case they are no strings to one reader of YAML or another."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One job of Kubernetes, checked."""

    kind: str
    """``job`` or ``jobset``."""
    name: str
    namespace: str
    """Empty where it is the one that the manifests are sent to."""
    image: str
    command: tuple[str, ...]
    """The script and its arguments."""
    hosts: int
    strategy: str
    cpu: str
    memory: str
    gpus: int
    stop_limit_s: int
    """Seconds between SIGTERM and SIGKILL."""
    deadline_s: int
    """Seconds that the job, of a JobSet each attempt, may take; 0 is no limit."""
    restarts: int
    """How often the whole job may be started anew."""
    checkpoint_claim: str
    checkpoints: str
    """Where checkpoints are kept, if on no claim."""
    volume_claim: str
    service_account: str
    secrets: tuple[str, ...]
    environ: tuple[tuple[str, str], ...]


class Note(NamedTuple):
    """A value, and why it is that one."""

    value: Any
    text: str


def longest_pod_name(kind: str, name: str, hosts: int) -> str:
    """The name of the last pod, with the five letters that the cluster adds."""
    return f"{_job_name(kind, name)}-{hosts - 1}-abcde"


def as_yaml(documents: list[dict[str, Any]]) -> str:
    return "---\n".join("\n".join((*_yaml(each, 0), "")) for each in documents)


def as_json(documents: list[dict[str, Any]]) -> str:
    """One document, a List where there are several; it ends in a line end."""
    plain = [_without_notes(each) for each in documents]
    whole = plain[0] if len(plain) == 1 else {"apiVersion": "v1", "kind": "List", "items": plain}
    return safe_json(json.dumps(whole, indent=2, ensure_ascii=False)) + "\n"


def documents_of(job: Cluster) -> list[dict[str, Any]]:
    return [_job_set(job)] if job.kind == "jobset" else [_service(job), _job(job)]


# --------------------------------------------------------------------------- objects


def _metadata(job: Cluster) -> dict[str, Any]:
    where = {"namespace": job.namespace} if job.namespace else {}
    return {"name": job.name, **where, "labels": _labels(job)}


def _labels(job: Cluster) -> dict[str, str]:
    return {_INSTANCE: job.name}


def _job_name(kind: str, name: str) -> str:
    return f"{name}-{_REPLICATED}-0" if kind == "jobset" else name


def _service(job: Cluster) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job),
        "spec": {
            "clusterIP": Note("None", "headless: each pod has a name, NAME-INDEX.SERVICE"),
            "publishNotReadyAddresses": Note(
                True, "hosts look for each other before any of them is ready"
            ),
            "selector": _labels(job),
            "ports": [
                {"name": name, "port": port, "targetPort": name} for name, port in _PORTS
            ],
        },
    }  # fmt: skip


def _job(job: Cluster) -> dict[str, Any]:
    rules = [
        _bad_contract(),
        Note(
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            "evicted, preempted, or its node went away: replaced, and not counted",
        ),
    ]
    limit = Note(
        job.restarts * job.hosts,
        f"{job.restarts} x {job.hosts}: when a job ends, each of its pods ends and counts, "
        "the one that failed, those that stopped because of it (84), and those that were "
        "told to stop (143)",
    )
    deadline = {"activeDeadlineSeconds": job.deadline_s} if job.deadline_s else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job),
        "spec": {
            **_indexed(job),
            "backoffLimit": limit,
            **deadline,
            "podReplacementPolicy": Note(
                "Failed", "when the old pod is gone, so that no host is there twice"
            ),
            "podFailurePolicy": {"rules": rules},
            "template": _pod(job),
        },
    }


def _job_set(job: Cluster) -> dict[str, Any]:
    deadline = (
        {"activeDeadlineSeconds": Note(job.deadline_s, "of each attempt; no other follows then")}
        if job.deadline_s
        else {}
    )
    inner = {
        **_indexed(job),
        "backoffLimit": Note(0, "one host that fails ends the job; the set starts it anew, whole"),
        **deadline,
        "podFailurePolicy": {"rules": [_bad_contract()]},
        "template": _pod(job),
    }
    rules = [
        {
            "name": "badContract",
            "action": "FailJobSet",
            "onJobFailureReasons": ["PodFailurePolicy"],
        },
        {"name": "deadline", "action": "FailJobSet", "onJobFailureReasons": ["DeadlineExceeded"]},
    ]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(job),
        "spec": {
            "network": Note(
                {
                    "enableDNSHostnames": True,
                    "publishNotReadyAddresses": True,
                    "subdomain": job.name,
                },
                "each pod has a name, before it is ready too: hosts look for each other",
            ),
            "failurePolicy": {
                "maxRestarts": Note(job.restarts, "of all hosts at once, after whatever ended one"),
                "rules": rules,
            },
            "replicatedJobs": [
                {
                    "name": _REPLICATED,
                    "replicas": 1,
                    "template": {"metadata": {"labels": _labels(job)}, "spec": inner},
                }
            ],
        },
    }


def _indexed(job: Cluster) -> dict[str, Any]:
    return {"completions": job.hosts, "parallelism": job.hosts, "completionMode": "Indexed"}


def _bad_contract() -> Note:
    return Note(
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": _CONTAINER,
                "operator": "In",
                "values": [EXIT_CONTRACT],
            },
        },
        f"{EXIT_CONTRACT}: bad contract or settings, which a second try does not mend",
    )


def _pod(job: Cluster) -> dict[str, Any]:
    account = {"serviceAccountName": job.service_account} if job.service_account else {}
    spec = {
        "subdomain": Note(job.name, "the Service's name: it makes NAME-INDEX a name of the DNS")
        if job.kind == "job"
        else None,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": Note(
            job.stop_limit_s,
            "the same as SUPERVISOR_STOP_LIMIT_S: change both. A supervisor that counts on more "
            "than there is is killed while the script saves",
        ),
        "enableServiceLinks": Note(
            False, "a Service called supervisor would set SUPERVISOR_PORT in every pod"
        ),
        **account,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": Note(_USER, "volumes belong to it: the job writes there without being root"),
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(job)],
        "volumes": _volumes(job),
    }
    return {
        "metadata": {"labels": _labels(job)},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def _container(job: Cluster) -> dict[str, Any]:
    limits: dict[str, Any] = {"memory": job.memory}
    if job.gpus:
        limits["nvidia.com/gpu"] = job.gpus
    mounts = [{"name": "job", "mountPath": _JOB_DIRECTORY}]
    if job.checkpoint_claim:
        mounts.append({"name": "checkpoints", "mountPath": _CHECKPOINTS})
    from_secrets = (
        {"envFrom": [{"secretRef": {"name": name}} for name in job.secrets]} if job.secrets else {}
    )
    return {
        "name": _CONTAINER,
        "image": job.image,
        "command": ["supervisor", "train"],
        "args": ["--", *(_literal(word) for word in job.command)],
        "env": _environment(job),
        **from_secrets,
        "ports": [{"name": name, "containerPort": port} for name, port in _PORTS],
        "livenessProbe": {
            "httpGet": Note(
                {"path": "/livez", "port": "status"},
                "answered while the event loop turns, through draining too",
            ),
            "initialDelaySeconds": 30,
            "periodSeconds": 30,
            "timeoutSeconds": 5,
            "failureThreshold": Note(4, "two minutes of silence: it costs the whole job"),
        },
        "readinessProbe": {
            "httpGet": Note({"path": "/readyz", "port": "status"}, "all hosts are here"),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "terminationMessagePath": Note(
            "/dev/termination-log", "why it ended: kubectl describe pod shows it"
        ),
        "terminationMessagePolicy": Note(
            "FallbackToLogsOnError", "a supervisor that is killed wrote none: the last lines then"
        ),
        "resources": Note(
            {"requests": {"cpu": job.cpu, "memory": job.memory}, "limits": limits},
            "as much memory as is asked for, or another pod's hunger ends this one; no limit of "
            "CPU, which would only slow it down beside idle cores",
        ),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }  # fmt: skip


def _environment(job: Cluster) -> list[Any]:
    namespace = job.namespace or "$(POD_NAMESPACE)"
    checkpoints = f"{_CHECKPOINTS}/{job.name}" if job.checkpoint_claim else job.checkpoints
    found: list[Any] = []
    if not job.namespace:
        found.append(_field("POD_NAMESPACE", "metadata.namespace"))
    found += [
        _variable("SUPERVISOR_ENGINE", "kubernetes"),
        _variable("SUPERVISOR_HOST_COUNT", str(job.hosts)),
        _variable("SUPERVISOR_HOST_DOMAIN", f"{job.name}.{namespace}.svc"),
        _variable("SUPERVISOR_STRATEGY", job.strategy or "auto"),
        _variable("SUPERVISOR_STOP_LIMIT_S", str(job.stop_limit_s)),
        _variable("SUPERVISOR_BASE_DIR", _JOB_DIRECTORY),
    ]
    if job.kind == "jobset":
        label = "metadata.labels['jobset.sigs.k8s.io/restart-attempt']"
        found.append(_field("SUPERVISOR_RESTART_COUNT", label))
    if checkpoints:
        place = _variable("SUPERVISOR_CHECKPOINT_S3_URI", _literal(checkpoints))
        found.append(Note(place, "kept there while the job runs, and restored at its next start"))
    if job.strategy == "mpi" and "SUPERVISOR_MPI_SSH_PORT" not in dict(job.environ):
        port = _variable("SUPERVISOR_MPI_SSH_PORT", _SSH_PORT)
        found.append(Note(port, "22 is for root, on some clusters"))
    return found + [_variable(name, _literal(value)) for name, value in job.environ]


def _variable(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _literal(text: str) -> str:
    """As the kubelet gives it on: ``$(NAME)`` would be a variable's value, and ``$$`` a ``$``."""
    return text.replace("$", "$$")


def _volumes(job: Cluster) -> list[Any]:
    if job.volume_claim:
        place: Any = _claim("job", job.volume_claim)
    else:
        place = Note({"name": "job", "emptyDir": {}}, "gone with the pod")
    kept = [_claim("checkpoints", job.checkpoint_claim)] if job.checkpoint_claim else []
    return [place, *kept]


def _claim(name: str, claim: str) -> dict[str, Any]:
    return {"name": name, "persistentVolumeClaim": {"claimName": claim}}


# --------------------------------------------------------------------------- text


def _without_notes(value: Any) -> Any:
    match value:
        case Note():
            return _without_notes(value.value)
        case dict():
            return {key: _without_notes(each) for key, each in value.items()}
        case list():
            return [_without_notes(each) for each in value]
        case _:
            return value


def _yaml(mapping: Mapping[str, Any], indent: int) -> Iterator[str]:
    """The lines of a mapping, notes before what they are about."""
    pad = " " * indent
    for key, given in mapping.items():
        value = given
        if isinstance(given, Note):
            value = given.value
            yield from _comment(given.text, pad)
        head = f"{pad}{_scalar(key)}:"
        if isinstance(value, dict) and value:
            yield head
            yield from _yaml(value, indent + 2)
        elif isinstance(value, list) and value:
            yield head
            for item in value:
                yield from _item(item, indent + 2)
        else:
            yield f"{head} {_scalar(value)}"


def _item(given: Any, indent: int) -> Iterator[str]:
    pad = " " * indent
    value = given
    if isinstance(given, Note):
        value = given.value
        yield from _comment(given.text, pad)
    if not isinstance(value, dict):
        yield f"{pad}- {_scalar(value)}"
        return
    first, *rest = _yaml(value, indent + 2)
    yield f"{pad}- {first.lstrip()}"
    yield from rest


def _comment(text: str, pad: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")


def _scalar(value: Any) -> str:
    """A string without quotes where every reader of YAML takes it for one, else as JSON writes it,
    which YAML 1.2 is made to read."""
    if not isinstance(value, str):
        return json.dumps(value)  # {} and [] too
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    """Not in the two halves of JSON, which some readers of YAML keep apart."""
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
