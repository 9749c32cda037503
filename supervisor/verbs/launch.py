"""``supervisor launch slurm`` and ``kubernetes``: what their own tools start, printed for them.

Nothing is started here, and no cluster is asked: what can be checked without one is checked.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from supervisor.contract.reading import parse_settings
from supervisor.contract.strangers import PREFIX
from supervisor.faults import ContractError, Fault, safe, shown
from supervisor.verbs import manifests, sbatch
from supervisor.verbs.words import misplaced

PLATFORMS: Final = {
    "slurm": "a batch script: supervisor launch slurm --nodes 3 train.py | sbatch",
    "kubernetes": "manifests: supervisor launch kubernetes --image IMAGE train.py | "
    "kubectl apply -f -",
}

_COMMAND_LINE: Final = "command line"
_STRATEGIES: Final = ("ps", "mwms", "mpi", "none")
_MOST_HOSTS: Final = 1000
_MOST_SECONDS: Final = 2**31 - 1
_REQUEUED_SIGNAL_S: Final = 120
"""Before the time limit of a job that is queued again: it has to end before Slurm ends it."""
_LABEL: Final = 63
"""Characters of a label of the DNS (RFC 1035)."""

_ANYWHERE: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("--name", {"metavar": "NAME", "help": "the job's (default: the script's, else train)"}),
    (
        "--strategy",
        {
            "choices": _STRATEGIES,
            "help": "parameter servers (default with two hosts or more), "
            "MultiWorkerMirroredStrategy, MPI, or every host its script alone",
        },
    ),
    (
        "--checkpoints",
        {
            "metavar": "PLACE",
            "help": "where checkpoints are kept, and restored from at the start: a directory "
            "that every host sees, or s3://BUCKET/PREFIX",
        },
    ),
    (
        "--env",
        {
            "metavar": "NAME=VALUE",
            "action": "append",
            "default": [],
            "help": "a variable, a setting such as SUPERVISOR_LOG_FORMAT=json too; may be repeated",
        },
    ),
)
_OPTIONS: Final[dict[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "slurm": (
        ("--nodes", {"metavar": "N", "default": "1", "help": "how many nodes (default 1)"}),
        *_ANYWHERE,
        ("--time", {"metavar": "LIMIT", "help": "the time limit, as sbatch takes it: 1-12:00:00"}),
        ("--partition", {"metavar": "NAME", "help": "where it is queued"}),
        ("--cpus", {"metavar": "N", "help": "of each node"}),
        ("--gpus", {"metavar": "[TYPE:]N", "help": "of each node"}),
        ("--mem", {"metavar": "SIZE", "help": "of each node: 64G; 0 is all of it"}),
        (
            "--signal-s",
            {
                "metavar": "S",
                "help": "tell the job to stop so many seconds before its time limit, to save "
                f"(default: not at all; with --requeue {_REQUEUED_SIGNAL_S})",
            },
        ),
        (
            "--requeue",
            {
                "action": "store_true",
                "help": "queue it again where it was preempted or its time was over: "
                "it goes on from its checkpoint",
            },
        ),
        (
            "--output",
            {
                "choices": ("nodes", "merged"),
                "help": "a file for each node (default with two nodes or more), or one for all",
            },
        ),
        ("--venv", {"metavar": "DIR", "help": "the virtual environment that is activated"}),
        (
            "--before",
            {
                "metavar": "LINE",
                "action": "append",
                "default": [],
                "help": "a line of shell that comes first, such as 'module load cuda'; may be "
                "repeated",
            },
        ),
        (
            "--sbatch",
            {
                "metavar": "OPTION",
                "action": "append",
                "default": [],
                "help": "a further option of sbatch, --sbatch account=lab; may be repeated",
            },
        ),
    ),
    "kubernetes": (
        (
            "--kind",
            {
                "choices": ("job", "jobset"),
                "default": "job",
                "help": "an Indexed Job with its Service (default), or a JobSet, which starts all "
                "hosts anew when one fails and has to be installed in the cluster",
            },
        ),
        ("--image", {"metavar": "IMAGE", "help": "the container's image; has to be given"}),
        ("--hosts", {"metavar": "N", "default": "1", "help": "how many pods (default 1)"}),
        *_ANYWHERE,
        ("--namespace", {"metavar": "NAME", "help": "default: the one it is sent to"}),
        ("--cpu", {"metavar": "N", "default": "2", "help": "of each pod (default 2)"}),
        ("--memory", {"metavar": "SIZE", "default": "8Gi", "help": "of each pod (default 8Gi)"}),
        (
            "--gpus",
            {"metavar": "N", "default": "0", "help": "of each pod, NVIDIA's (default none)"},
        ),
        (
            "--stop-limit-s",
            {
                "metavar": "S",
                "default": "120",
                "help": "what the cluster leaves between SIGTERM and SIGKILL (default 120)",
            },
        ),
        (
            "--deadline-s",
            {"metavar": "S", "help": "how long the job may take; of a JobSet, each attempt"},
        ),
        (
            "--restarts",
            {
                "metavar": "N",
                "default": "0",
                "help": "how often Kubernetes may start the whole job anew (default 0); in place, "
                "without new pods: --env SUPERVISOR_RESTARTS=N",
            },
        ),
        (
            "--checkpoint-claim",
            {
                "metavar": "CLAIM",
                "help": "a PersistentVolumeClaim that checkpoints are kept on (several hosts: "
                "ReadWriteMany), in place of --checkpoints",
            },
        ),
        (
            "--volume-claim",
            {
                "metavar": "CLAIM",
                "help": "a PersistentVolumeClaim for the job's directory (default: an emptyDir)",
            },
        ),
        ("--service-account", {"metavar": "NAME", "help": "whose rights the pods have"}),
        (
            "--secret",
            {
                "metavar": "NAME",
                "action": "append",
                "default": [],
                "help": "a Secret whose entries become variables; may be repeated",
            },
        ),
        (
            "--format",
            {"choices": ("yaml", "json"), "default": "yaml", "help": "default yaml, with comments"},
        ),
    ),
}

_BY_OPTION: Final = {
    "SUPERVISOR_STRATEGY": "--strategy, which sets it",
    "SUPERVISOR_CHECKPOINT_S3_URI": "--checkpoints, which sets it",
}
_BY_MANIFESTS: Final = {
    "SUPERVISOR_HOST_COUNT": "--hosts, which sets it",
    "SUPERVISOR_STOP_LIMIT_S": "--stop-limit-s, which sets it",
    **dict.fromkeys(
        (
            "POD_NAMESPACE",
            "SUPERVISOR_BASE_DIR",
            "SUPERVISOR_ENGINE",
            "SUPERVISOR_HOST_DOMAIN",
            "SUPERVISOR_RESTART_COUNT",
        ),
        "none: the manifests set it",
    ),
}
"""What is right instead of ``--env`` for variables that we write ourselves."""

_TIME: Final = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
"""https://slurm.schedmd.com/sbatch.html#OPT_time: without days the first number is minutes, with
two colons hours; with days it is hours."""
_SLURM_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PARTITION: Final = re.compile(r"[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*")
_GPUS: Final = re.compile(r"([A-Za-z0-9._-]+:)?[1-9]\d{0,3}")
_MEM: Final = re.compile(r"\d{1,12}[KMGT]?")
_DNS_1035: Final = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
"""Of a Service, https://kubernetes.io/docs/concepts/overview/working-with-objects/names/: it may
not begin with a digit, as other names may."""
_DNS_1123: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_DNS_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_QUANTITY: Final = re.compile(r"\d{1,15}(\.\d{1,9})?(m|k|Ki|[MGTPE]i?)?")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def define(platform: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of one platform to its parser."""
    for flag, given in _OPTIONS[platform]:
        parser.add_argument(flag, **given)
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="the training script")
    parser.add_argument("arguments", metavar="ARGS", nargs="...", help="its arguments")
    parser.set_defaults(platform=platform)


def show(arguments: argparse.Namespace) -> int:
    """Print it, or which platforms there are; raises ``ContractError`` with all faults."""
    platform: str | None = arguments.platform
    if platform is None:
        for name, what in PLATFORMS.items():
            print(f"{name:<10}  {what}")
        return 0
    if platform not in PLATFORMS:
        expected = f"{' or '.join(PLATFORMS)}: where the job is to run"
        raise ContractError([Fault(_COMMAND_LINE, "PLATFORM", shown(platform), expected)])
    if platform == "slurm":
        text = sbatch.script_of(_batch(arguments))
    else:
        documents = manifests.documents_of(_cluster(arguments))
        write = manifests.as_json if arguments.format == "json" else manifests.as_yaml
        text = write(documents)
    _say_what_is_misplaced(arguments)
    print(text, end="")
    return 0


def _say_what_is_misplaced(arguments: argparse.Namespace) -> None:
    ours = {flag for flag, _ in _OPTIONS[arguments.platform]}
    if found := misplaced(arguments.words, arguments.arguments, ours):
        name = safe(os.path.basename(arguments.script))
        print(
            f"supervisor: {safe(', '.join(found))} after {name} is the script's and no option "
            f"of supervisor launch: put it before {name}, or -- before {name} to say that it is "
            "meant",
            file=sys.stderr,
        )


# --------------------------------------------------------------------------- checks


class _Faults(list[Fault]):
    """What is wrong with the words; each check gives its value back, or a harmless one."""

    def add(self, key: str, found: object, expected: str) -> None:
        self.append(Fault(_COMMAND_LINE, key, shown(found), expected))

    def number(self, key: str, text: str, low: int, high: int) -> int:
        if text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high:
            return int(text)
        self.add(key, text, f"a number from {low} to {high}")
        return low

    def like(self, key: str, text: str | None, pattern: re.Pattern[str], expected: str) -> str:
        """Empty where none is given."""
        if text is None or pattern.fullmatch(text):
            return text or ""
        self.add(key, text, expected)
        return ""

    def lines(self, key: str, texts: Sequence[str], expected: str) -> tuple[str, ...]:
        for text in texts:
            if not text.isprintable() or not text.strip():
                self.add(key, text, expected)
        return tuple(texts)

    def words(self, arguments: argparse.Namespace) -> tuple[str, ...]:
        """The script and its arguments."""
        if not arguments.script:
            self.append(Fault(_COMMAND_LINE, "SCRIPT", "none", "the training script's path"))
            return ()
        for text in (arguments.script, *arguments.arguments):
            if not _is_text(text):
                self.add("SCRIPT or ARGS", text, "text in UTF-8: nothing else can be printed")
        return (arguments.script, *arguments.arguments)

    def environ(
        self, given: Sequence[str], ours: Mapping[str, str], limit_flag: str, limit_s: int
    ) -> tuple[tuple[str, str], ...]:
        """The variables, settings among them checked as ``train`` will.

        ``ours`` says what is right for each variable that is written here anyway.
        """
        found: dict[str, str] = {}
        for text in given:
            name, equals, value = text.partition("=")
            if not equals or not _VARIABLE.fullmatch(name) or not _is_text(value):
                self.add("--env", text, "NAME=VALUE, the name of letters, digits and _")
            elif name in ours:
                self.append(Fault(_COMMAND_LINE, "--env", name, ours[name]))
            else:
                found[name] = value
        limit = {"SUPERVISOR_STOP_LIMIT_S": str(limit_s)} if limit_s else {}
        settings = {name: value for name, value in found.items() if name.startswith(PREFIX)}
        for fault in parse_settings({}, {**settings, **limit}, {})[1]:
            key = limit_flag if fault.key in limit else f"--env {fault.key}"
            self.append(dataclasses.replace(fault, source=_COMMAND_LINE, key=key))
        return tuple(found.items())


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8
        return False
    return True


def _name_of(script: str | None, given: str | None, usable: Callable[[str], object]) -> str:
    """What was given, else the script's own name where that can be one, else ``train``."""
    if given is not None:
        return given
    own = os.path.basename(script or "").partition(".")[0].replace("_", "-")
    return own if usable(own) else "train"


def _batch(arguments: argparse.Namespace) -> sbatch.Batch:
    faults = _Faults()
    command = faults.words(arguments)
    nodes = faults.number("--nodes", arguments.nodes, 1, _MOST_HOSTS)
    signal = arguments.signal_s
    if signal is None and arguments.requeue:
        signal = str(_REQUEUED_SIGNAL_S)
    signal_s = faults.number("--signal-s", signal, 1, 65535) if signal is not None else 0
    limit_s = _seconds_of(arguments.time, faults)
    if limit_s and signal_s >= limit_s:
        less = "less than --time, which is before the job begins"
        faults.add("--signal-s", str(signal_s), less)
    ours = {**_BY_OPTION}
    if signal_s:
        ours["SUPERVISOR_STOP_LIMIT_S"] = "--signal-s, which sets it"
    if arguments.requeue:
        ours["SUPERVISOR_STOPPED_EXIT_CODE"] = "none: by it the script knows what to queue again"
        ours["SUPERVISOR_MAX_RUNTIME_S"] = "none: a job that it stopped would be queued again"
    environ = faults.environ(arguments.env, ours, "--signal-s", signal_s)
    if arguments.checkpoints is not None:
        place = _place(arguments.checkpoints, faults)
        environ = (("SUPERVISOR_CHECKPOINT_S3_URI", place), *environ)
    cpus = arguments.cpus
    if arguments.venv is not None and not (arguments.venv and _is_text(arguments.venv)):
        faults.add("--venv", arguments.venv, "the directory of a virtual environment")
    job = sbatch.Batch(
        name=faults.like(
            "--name",
            _name_of(arguments.script, arguments.name, _SLURM_NAME.fullmatch),
            _SLURM_NAME,
            "up to 64 letters, digits, '.', '_' and '-': files are named after it",
        ),
        nodes=nodes,
        command=command,
        strategy=_strategy(arguments.strategy, nodes, "--nodes", faults),
        time=arguments.time or "",
        partition=faults.like(
            "--partition", arguments.partition, _PARTITION, "a partition, or several with commas"
        ),
        cpus="" if cpus is None else str(faults.number("--cpus", cpus, 1, 9999)),
        gpus=faults.like("--gpus", arguments.gpus, _GPUS, "a number, or TYPE:NUMBER"),
        mem=faults.like("--mem", arguments.mem, _MEM, "a number with K, M, G or T behind it: 64G"),
        signal_s=signal_s,
        requeue=arguments.requeue,
        one_file=(arguments.output or ("nodes" if nodes > 1 else "merged")) == "merged",
        options=tuple(
            each if each.startswith("-") else f"--{each}"
            for each in faults.lines("--sbatch", arguments.sbatch, "an option: account=lab")
        ),
        environ=environ,
        venv=arguments.venv or "",
        before=faults.lines("--before", arguments.before, "one line of shell"),
    )
    if faults:
        raise ContractError(faults)
    return job


def _cluster(arguments: argparse.Namespace) -> manifests.Cluster:
    faults = _Faults()
    command = faults.words(arguments)
    hosts = faults.number("--hosts", arguments.hosts, 1, _MOST_HOSTS)
    name = _kubernetes_name(arguments, hosts, faults)
    if arguments.image is None:
        faults.append(Fault(_COMMAND_LINE, "--image", "none", "the image that has the script"))
    limit_s = faults.number("--stop-limit-s", arguments.stop_limit_s, 1, 86400)
    ours = {**_BY_OPTION, **_BY_MANIFESTS}
    if arguments.checkpoints is not None and arguments.checkpoint_claim is not None:
        found = f"{arguments.checkpoints} beside --checkpoint-claim {arguments.checkpoint_claim}"
        faults.add("--checkpoints", found, "one of the two")
    label = "lower-case letters, digits and '-', up to 63"
    deadline = arguments.deadline_s

    def named(key: str, text: str | None) -> str:
        expected = "lower-case letters, digits, '-' and '.', as names of objects are"
        return faults.like(key, text, _DNS_SUBDOMAIN, expected)

    def amount(key: str, text: str) -> str:
        expected = "an amount above 0 as Kubernetes writes it: 2, 500m, 8Gi"
        found = faults.like(key, text, _QUANTITY, expected)
        if found and not re.search("[1-9]", found):
            faults.add(key, found, expected)
        return found

    job = manifests.Cluster(
        kind=arguments.kind,
        name=name,
        namespace=faults.like("--namespace", arguments.namespace, _label(_DNS_1123), label),
        image=faults.like("--image", arguments.image, _IMAGE, "an image's name: registry/name:tag"),
        command=command,
        hosts=hosts,
        strategy=_strategy(arguments.strategy, hosts, "--hosts", faults),
        cpu=amount("--cpu", arguments.cpu),
        memory=amount("--memory", arguments.memory),
        gpus=faults.number("--gpus", arguments.gpus, 0, 1024),
        stop_limit_s=limit_s,
        deadline_s=(
            faults.number("--deadline-s", deadline, 1, _MOST_SECONDS) if deadline is not None else 0
        ),
        restarts=faults.number("--restarts", arguments.restarts, 0, 1000),
        checkpoint_claim=named("--checkpoint-claim", arguments.checkpoint_claim),
        checkpoints=(
            _place(arguments.checkpoints, faults) if arguments.checkpoints is not None else ""
        ),
        volume_claim=named("--volume-claim", arguments.volume_claim),
        service_account=named("--service-account", arguments.service_account),
        secrets=tuple(named("--secret", each) for each in arguments.secret),
        environ=faults.environ(arguments.env, ours, "--stop-limit-s", limit_s),
    )
    if faults:
        raise ContractError(faults)
    return job


def _label(pattern: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(rf"(?=.{{1,{_LABEL}}}\Z)(?:{pattern.pattern})")


def _kubernetes_name(arguments: argparse.Namespace, hosts: int, faults: _Faults) -> str:
    def fits(name: str) -> int:
        """How many characters it is too long."""
        longest = manifests.longest_pod_name(arguments.kind, name, hosts)
        return max(0, len(longest) - _LABEL)

    def usable(name: str) -> bool:
        return bool(_DNS_1035.fullmatch(name)) and not fits(name)

    name = _name_of(arguments.script, arguments.name, usable)
    expected = "lower-case letters, digits and '-', beginning with a letter, as a Service's is"
    if faults.like("--name", name, _DNS_1035, expected) and (over := fits(name)):
        longest = manifests.longest_pod_name(arguments.kind, name, hosts)
        most = len(name) - over
        faults.add("--name", name, f"at most {most} characters: pods are named like {longest}")
    return name


def _strategy(given: str | None, hosts: int, flag: str, faults: _Faults) -> str:
    if given == "ps" and hosts == 1:
        faults.add(
            "--strategy",
            f"ps with {flag} 1",
            "two hosts or more: a cluster of one host has no parameter server; "
            "add hosts, or take --strategy none",
        )
    return given or ""


def _place(given: str, faults: _Faults) -> str:
    """A place as it is on the hosts: this machine's working directory says nothing of theirs."""
    if not _is_text(given) or not ("://" in given or given.startswith("/")):
        expected = "an absolute path that every host sees, or s3://BUCKET/PREFIX"
        faults.add("--checkpoints", given, expected)
    return given


def _seconds_of(text: str | None, faults: _Faults) -> int:
    """A time limit in seconds; 0 for none."""
    if text is None:
        return 0
    match = _TIME.fullmatch(text)
    if match is None or len(text) > 20:
        expected = "minutes, minutes:seconds, hours:minutes:seconds, or days-hours:minutes:seconds"
        faults.add("--time", text, expected)
        return 0
    days, first, second, third = (int(each or 0) for each in match.groups())
    if match[1] is not None:
        return ((days * 24 + first) * 60 + second) * 60 + third
    if match[4] is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second
