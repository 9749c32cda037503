"""Every setting of the program, in one table.

Precedence: command line flag, environment, hyperparameter (or the platform's own variable),
default. The table is what the parser reads, what ``--help`` prints and what the README lists (a
test compares them). Durations are seconds and say so in their names.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from supervisor.faults import Fault, shown
from supervisor.masking import is_secret_name

PREFIX: Final = "SUPERVISOR_"

TOLD_TO_SCRIPT: Final = frozenset(
    {
        "SUPERVISOR_CHECKPOINT_DIR",
        "SUPERVISOR_ERROR_FILE",
        "SUPERVISOR_HEARTBEAT_FILE",
        "SUPERVISOR_STACKS_SIGNAL",
        "SUPERVISOR_PROCESS_MARK",
        "SUPERVISOR_STOP_BUDGET_S",
    }
)
"""Variables that we set for the script. Seen in our own environment (a supervisor that runs under
a supervisor) they are no setting and no fault."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one supervisor, checked. Field ``x`` is ``SUPERVISOR_X`` and ``--x``."""

    log_format: str
    log_level: str
    log_color: str
    log_prefix: str
    log_files: bool
    stop_signal: int
    server_stop_signal: int
    stop_grace_s: float
    end_grace_s: float
    server_grace_s: float
    stop_limit_s: float
    publish_reserve_s: float
    join_timeout_s: float
    ack_timeout_s: float
    master_lease_s: float
    max_runtime_s: float
    hang_timeout_s: float
    stacks: bool
    status_port: int
    status_bind: str
    token: str
    chief_name: str
    success_policy: str
    ps_import: str
    ps_hosts: str
    worker: str
    outside: str
    mpi_ssh_port: int
    mpi_ssh_key: str
    mpi_sshd: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    field: str
    parse: Callable[[str], Any]
    """Text to value; raises ValueError whose text says what is allowed."""
    default: str
    unit: str
    help: str
    twins: tuple[str, ...] = ()
    """Other names, lower precedence: platform hyperparameters (lower case) and variables."""
    secret: bool = False

    @property
    def env(self) -> str:
        return PREFIX + self.field.upper()

    @property
    def flag(self) -> str:
        return "--" + self.field.replace("_", "-")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:  # also refuses nan and inf
        raise ValueError("a number of seconds, 0 or more")
    return value


def _share(text: str) -> float | None:
    if text.lower() == "auto":
        return None
    try:
        return _seconds(text)
    except ValueError:
        raise ValueError("a number of seconds, 0 or more, or auto") from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ValueError("a port, an integer from 1 to 65535")
    return int(text)


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return text.lower()

    return parse


def _ps_hosts(text: str) -> str:
    layout = text.lower()
    if layout in {"all", "members"} or (text.isascii() and text.isdigit() and int(text) > 0):
        return layout
    if layout.startswith("group:") and text[6:]:
        return f"group:{text[6:]}"
    raise ValueError("all, members, a number of hosts from 1, or group:NAME")


def _switch(text: str) -> bool:
    word = text.lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("true or false")


def _level(text: str) -> str:
    by_number = {"10": "debug", "20": "info", "30": "warning", "40": "error", "50": "error"}
    word = by_number.get(text, text.lower())
    if word not in {"debug", "info", "warning", "error"}:
        raise ValueError("one of debug, info, warning, error, or 10, 20, 30, 40")
    return word


def _signal(text: str) -> int:
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    known = getattr(signal.Signals, name, None)
    if known is None or known in {signal.SIGKILL, signal.SIGSTOP}:
        raise ValueError("the name of a signal that can be caught, such as SIGTERM or SIGUSR1")
    return int(known)


def _template(text: str) -> str:
    try:
        text.format(host="h", role="r", stream="s", time="t", mark="m")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError("a template of {host}, {role}, {stream}, {time} and {mark}") from None
    return text


TABLE: Final[tuple[Setting, ...]] = (
    Setting(
        "log_format",
        _one_of("raw", "prefix", "json"),
        "raw",
        "",
        "how the processes' output is written: byte for byte, whole lines with a prefix, "
        "or one JSON object a line",
    ),
    Setting(
        "log_level",
        _level,
        "info",
        "",
        "the supervisor's own messages: debug, info, warning, error",
        twins=("sagemaker_container_log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL"),
    ),
    Setting(
        "log_color",
        _one_of("auto", "always", "never"),
        "auto",
        "",
        "colour prefixes; auto: where the output is a terminal",
    ),
    Setting("log_prefix", _template, "{host} {role} │ ", "", "the prefix of the prefix format"),
    Setting(
        "log_files",
        _switch,
        "false",
        "",
        "keep each process's output under output/supervisor/logs (on under supervisor local)",
    ),
    Setting(
        "stop_signal",
        _signal,
        "SIGTERM",
        "",
        "the signal that asks the script to stop",
    ),
    Setting(
        "server_stop_signal",
        _signal,
        "SIGTERM",
        "",
        "the signal that asks the parameter server to stop",
    ),
    Setting(
        "stop_grace_s",
        _share,
        "auto",
        "s",
        "the script's share after a stop signal, to save a checkpoint; "
        "auto: what the limit leaves (92 of 120)",
    ),
    Setting(
        "end_grace_s",
        _seconds,
        "10",
        "s",
        "the share of a script that is stopped because the job ended or failed elsewhere",
    ),
    Setting("server_grace_s", _seconds, "5", "s", "the parameter server's share after SIGTERM"),
    Setting(
        "stop_limit_s", _seconds, "120", "s", "when the platform kills us, counted from SIGTERM"
    ),
    Setting(
        "publish_reserve_s",
        _share,
        "auto",
        "s",
        "the part of that limit which is kept for writing out results; auto: an eighth of it",
    ),
    Setting(
        "join_timeout_s", _seconds, "900", "s", "how long the hosts of a job wait for each other"
    ),
    Setting(
        "ack_timeout_s",
        _seconds,
        "30",
        "s",
        "how long the master waits at the end until every member is down",
    ),
    Setting(
        "master_lease_s",
        _seconds,
        "30",
        "s",
        "silence after which a master, or a member, counts as unreachable",
    ),
    Setting("max_runtime_s", _seconds, "0", "s", "stop the job after this long; 0: never"),
    Setting(
        "hang_timeout_s",
        _seconds,
        "0",
        "s",
        "stop the job when the script shows no output, CPU time or heartbeat for so long; 0: never",
    ),
    Setting(
        "stacks",
        _switch,
        "true",
        "",
        "let the script's Python processes write their stacks before they are killed",
    ),
    Setting("status_port", _port, "2224", "", "port of the status server and of the coordination"),
    Setting("status_bind", str, "0.0.0.0", "", "address that the status server binds"),  # noqa: S104  # members are other hosts; stated in the README
    Setting(
        "token",
        str,
        "",
        "",
        "shared secret of the job: members' reports must carry it; never passed to the script",
        secret=True,
    ),
    Setting(
        "chief_name",
        _one_of("auto", "chief", "master"),
        "auto",
        "",
        "the chief's job name in TF_CONFIG; auto: chief for TensorFlow 2, master for 1",
    ),
    Setting(
        "success_policy",
        _one_of("auto", "chief", "all"),
        "auto",
        "",
        "whose exit 0 ends the job: the chief's, or that of all scripts; "
        "auto: chief with parameter servers and MPI, all otherwise",
    ),
    Setting(
        "ps_import",
        _one_of("light", "full"),
        "light",
        "",
        "how much of TensorFlow the parameter server imports; light falls back to full by itself",
    ),
    Setting(
        "ps_hosts",
        _ps_hosts,
        "all",
        "",
        "which hosts run a parameter server: all; members (all but the master); a number K (the "
        "first K); group:NAME (the hosts of that instance group, which then run no script)",
    ),
    Setting(
        "worker",
        _one_of("script", "server"),
        "script",
        "",
        "what the workers of a parameter-server cluster run: your script, or a TensorFlow server "
        "of ours, so that the script runs on the chief alone",
    ),
    Setting(
        "outside",
        _one_of("independent", "follow"),
        "independent",
        "",
        "hosts outside sagemaker_distribution_instance_groups run their script alone: each ends "
        "by itself, or with the job",
    ),
    Setting("mpi_ssh_port", _port, "22", "", "MPI: port of the members' sshd"),
    Setting(
        "mpi_ssh_key",
        str,
        "",
        "",
        "MPI: private key file, with its .pub beside it, in the image of every host; "
        "empty: the keys and authorized_keys in ~/.ssh",
    ),
    Setting("mpi_sshd", str, "/usr/sbin/sshd", "", "MPI: the sshd program"),
)

BY_ENV: Final = {setting.env: setting for setting in TABLE}

assert [setting.field for setting in TABLE] == [field.name for field in fields(Settings)]


def parse_settings(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    hyperparameters: Mapping[str, Any],
) -> tuple[Settings, list[Fault]]:
    """Settings from all their sources, and what is wrong with them.

    ``flags`` maps field names to text; ``hyperparameters`` are the platform's (already decoded).
    A faulty setting has its default in the result, so that the caller can go on and collect the
    other faults.
    """
    faults = [
        _unknown(name, environ[name])
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in BY_ENV and name not in TOLD_TO_SCRIPT
    ]
    values: dict[str, Any] = {}
    for setting in TABLE:
        source, key, text = _lookup(setting, flags, environ, hyperparameters)
        try:
            values[setting.field] = setting.parse(text)
        except ValueError as error:
            found = "a value that is not shown" if setting.secret else shown(text)
            faults.append(Fault(source, key, found, str(error)))
            values[setting.field] = setting.parse(setting.default)
    faults += _share_out(values)
    return Settings(**values), faults


def _lookup(
    setting: Setting,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    hyperparameters: Mapping[str, Any],
) -> tuple[str, str, str]:
    if setting.field in flags:
        return "command line", setting.flag, flags[setting.field]
    if setting.env in environ:
        return "environment", setting.env, environ[setting.env]
    for twin in setting.twins:
        if twin in hyperparameters:
            return "hyperparameters.json", twin, str(hyperparameters[twin])
        if twin in environ:
            return "environment", twin, environ[twin]
    return "default", setting.env, setting.default


def _unknown(name: str, value: str) -> Fault:
    import difflib  # noqa: PLC0415  # only when there is a fault: start-up is a feature

    near = difflib.get_close_matches(name, BY_ENV, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see the settings table of the README"
    secret = is_secret_name(name) or (near and BY_ENV[near[0]].secret)
    found = "a value that is not shown" if secret else shown(value)
    return Fault("environment", name, found, f"a known setting; {hint}")


KILL_S: Final = 3.0
"""After SIGKILL: time for the kernel to tear a process tree down, seconds."""
GROUP_S: Final = 3.0
"""The process group's share after its stop signal, once the leader's share is over, seconds."""
RECORD_S: Final = 2.0
"""Kept free before the platform's limit for writing failure and report, seconds."""


def _share_out(values: dict[str, Any]) -> list[Fault]:
    """Resolve ``auto`` shares; the shares must fit into the limit, else the last one is a lie."""
    limit_s = values["stop_limit_s"]
    if values["publish_reserve_s"] is None:
        values["publish_reserve_s"] = limit_s / 8
    tail_s = GROUP_S + values["server_grace_s"] + KILL_S + values["publish_reserve_s"] + RECORD_S
    room_s = limit_s - tail_s
    grace_s = values["stop_grace_s"]
    values["stop_grace_s"] = max(room_s, 0.0) if grace_s is None else grace_s
    if room_s > 0 and values["stop_grace_s"] <= room_s:
        return []
    found = "auto" if grace_s is None else f"{grace_s:g}"
    return [
        Fault(
            "settings",
            "SUPERVISOR_STOP_GRACE_S",
            found,
            f"at most {max(room_s, 0):g}: SUPERVISOR_STOP_LIMIT_S {limit_s:g} less {tail_s:g} "
            "for process groups, servers, SIGKILL, publishing and the report; "
            "lower the grace or the reserve, or raise the limit",
        )
    ]
