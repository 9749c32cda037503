"""Every setting of the program, in one table.

Precedence: command line flag, environment, hyperparameter (or the platform's own variable),
default. The table is what the parser reads, what ``--help`` prints and what the guide lists (a
test compares them). Durations are seconds and say so in their names.
"""

from __future__ import annotations

import signal
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from supervisor.contract import strangers
from supervisor.contract.strangers import PREFIX
from supervisor.faults import Fault, shown
from supervisor.life.words import Role
from supervisor.streams.masking import is_secret_name

TOLD_TO_SCRIPT: Final = frozenset(
    {
        "SUPERVISOR_CHECKPOINT_DIR",
        "SUPERVISOR_ERROR_FILE",
        "SUPERVISOR_HEARTBEAT_FILE",
        "SUPERVISOR_STACKS_SIGNAL",
        "SUPERVISOR_MODEL_DIR_URI",
        "SUPERVISOR_PROCESS_MARK",
        "SUPERVISOR_RESUMED_FROM",
        "SUPERVISOR_STOP_BUDGET_S",
        # For processes of our own, whose descendants may be supervisors again.
        "SUPERVISOR_MPI_ENVIRONMENT",
        "SUPERVISOR_STORAGE_JOB",
    }
)
"""Variables that we set for the script. Seen in our own environment (a supervisor that runs under
a supervisor) they are no setting and no fault."""


_SLIP: Final = 2
"""A variable that is so few letters away from a setting is one, misspelled."""


class Settings(NamedTuple):
    """The settings of one supervisor, checked. Field ``x`` is ``SUPERVISOR_X`` and ``--x``.

    No dataclass: of so many fields one takes 3 ms to make, a tenth of that this way, before the
    script can start.
    """

    args_style: str
    args_order: str
    args_lists: str
    args_flags: bool
    args_dashes: bool
    command: tuple[str, ...]
    requirements: str
    prepare_timeout_s: float
    model_check: str
    log_format: str
    log_level: str
    log_color: str
    log_prefix: str
    log_streams: str
    log_console_roles: frozenset[Role]
    log_ps_level: str
    log_progress: str
    log_repeat_window_s: float
    log_overflow: str
    log_files: bool
    log_file_max_bytes: int
    log_file_keep: int
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
    master_refused_count: int
    master_refused_window_s: float
    bare_master_after_s: float
    poll_wait_s: float
    max_runtime_s: float
    hang_timeout_s: float
    stacks: bool
    status_port: int
    status_bind: str
    token: str
    chief_name: str
    success_policy: str
    failure_policy: str
    straggler_timeout_s: float
    evaluator: str
    evaluator_grace_s: float
    ps_import: str
    ps_hosts: str
    worker: str
    outside: str
    unsupported_distribution: str
    tf_config_mismatch: str
    strict_settings: bool
    mpi_ssh_port: int
    mpi_ssh_key: str
    mpi_sshd: str
    channels: tuple[tuple[str, str], ...]
    """``SUPERVISOR_CHANNEL_<NAME>``: name of the channel and place."""
    channel_shard: str
    fetch_timeout_s: float
    source_max_bytes: int
    source_max_files: int
    checkpoint_s3_uri: str
    checkpoint_local_dir: str
    checkpoint_hosts: str
    checkpoint_keep: int
    checkpoint_settle_s: float
    restore: str
    restore_agreement: str
    model_dir_mirror: str
    intermediate_s3_uri: str
    log_s3_uri: str
    output_s3_uri: str
    model_s3_uri: str
    storage_policy: tuple[tuple[str, str], ...]
    """Name of a transfer and its policy, for those that have another than their default."""
    publish_timeout_s: float
    sync_rescan_s: float
    sync_lag_warn_s: float
    s3_endpoint: str
    s3_region: str
    s3_addressing: str
    s3_anonymous: bool
    s3_part_bytes: int
    s3_in_flight_bytes: int
    s3_bandwidth_bytes_s: int
    s3_encryption: str
    s3_kms_key: str
    s3_storage_class: str
    s3_requester_pays: bool
    s3_retry_s: float
    s3_timeout_s: float


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


def _lease(text: str) -> float:
    value = _seconds(text)
    if value < 1:
        raise ValueError("a number of seconds, 1 or more")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise ValueError("an integer from 1 to 1000")
    return int(text)


def _success_policy(text: str) -> str:
    word = text.lower()
    if word in {"auto", "chief", "all"}:
        return word
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError("auto, chief, all, or a share of the scripts, above 0 and at most 1")
    return text


def _failure_policy(text: str) -> str:
    word, _, count = text.lower().partition(":")
    if text.lower() == "fail-fast" or (
        word == "tolerate" and count.isascii() and count.isdigit() and len(count) < 6
    ):
        return text.lower()
    raise ValueError("fail-fast, or tolerate:N with N workers")


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


_TRUE: Final = frozenset({"1", "true", "yes", "on"})


def _switch(text: str) -> bool:
    word = text.lower()
    if word in _TRUE:
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


def _whole_number(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) < 1 << 62):
            raise ValueError(f"a whole number, {least} or more")
        return int(text)

    return parse


_SIZE_UNITS: Final = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def _size(least: int, most: int = 1 << 62) -> Callable[[str], int]:
    """Bytes: a whole number, with KiB, MiB, GiB or TiB behind it or not."""

    def parse(text: str) -> int:
        digits = text.rstrip("KMGTkmgtIiBb ")
        factor = _SIZE_UNITS.get(text[len(digits) :].strip().upper())
        known = digits.isascii() and digits.isdigit() and len(digits) < 20 and factor is not None
        if not known or not least <= int(digits) * (factor or 1) <= most:
            limit = f" and at most {most}" if most < 1 << 62 else ""
            raise ValueError(f"bytes, such as 67108864 or 64MiB, {least} or more{limit}")
        return int(digits) * (factor or 1)

    return parse


def _place(text: str) -> str:
    """A place where files are kept, or nothing."""
    if not text:
        return ""
    from supervisor.storage.location import Location  # noqa: PLC0415  # only where there is one

    return str(Location.parse(text))


TRANSFERS: Final = {
    "checkpoints": "end",
    "model_dir": "end",
    "intermediate": "warn",
    "output": "end",
    "model": "end",
    "logs": "warn",
}
"""What can be kept elsewhere, by name, in the order of publishing; and the default policy."""
_POLICIES: Final = ("warn", "end", "fail")


def _storage_policy(text: str) -> tuple[tuple[str, str], ...]:
    rules = [rule.strip().partition("=") for rule in text.lower().split(",") if rule.strip()]
    if any(name not in {*TRANSFERS, "all"} or policy not in _POLICIES for name, _, policy in rules):
        names = ", ".join(TRANSFERS)
        raise ValueError(
            f"NAME=POLICY with commas between them, of {names} or all, and warn, end or fail"
        )
    found: dict[str, str] = {}
    for name, _, policy in rules:
        found |= dict.fromkeys(TRANSFERS if name == "all" else (name,), policy)
    return tuple(found.items())


def _roles(text: str) -> frozenset[Role]:
    """Which roles: ``all``, ``none``, or their names with commas between them."""
    word = text.strip().lower()
    if word in {"all", "none"}:
        return frozenset(Role if word == "all" else ())
    try:
        return frozenset(Role(name.strip()) for name in word.split(","))
    except ValueError:
        raise ValueError(f"all, none, or some of {', '.join(Role)}, with commas") from None


def _directory(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("an absolute path")
    return text


def _token(text: str) -> str:
    """It travels in a header of HTTP, which takes no line break and loses blanks at its ends."""
    if not text.isprintable() or text != text.strip() or len(text) > 1024:
        raise ValueError(
            "one line of at most 1024 printable characters with no blank or line break at its ends"
        )
    return text


def _endpoint(text: str) -> str:
    if text and not text.lower().startswith(("http://", "https://")):
        raise ValueError("http://HOST:PORT or https://HOST")
    return text


def _encryption(text: str) -> str:
    known = {name.lower(): name for name in ("", "AES256", "aws:kms", "aws:kms:dsse")}
    if text.lower() not in known:
        raise ValueError("AES256, aws:kms or aws:kms:dsse")
    return known[text.lower()]


_TEMPLATE_FIELDS: Final = ("host", "role", "stream", "time", "mark")


def _template(text: str) -> str:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        text.format(**dict.fromkeys(_TEMPLATE_FIELDS, ""))
        fits = fields <= set(_TEMPLATE_FIELDS) and not set("\r\n") & set(text)
    except (LookupError, ValueError, AttributeError):
        fits = False
    if not fits:
        allowed = "{host}, {role}, {stream}, {time} and {mark}"
        raise ValueError(f"a template of {allowed}, on one line")
    return text


def _command(text: str) -> tuple[str, ...]:
    """A command line's words, by a shell's rules of quoting; no shell reads it."""
    import shlex  # noqa: PLC0415  # only where there is one: start-up is a feature

    try:
        words = tuple(shlex.split(text)) if text else ()
        for word in words:
            word.format(python="p", program="p", args="a")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError(
            "words with closed quotes, and of braces {python}, {program}, {args} only"
        ) from None
    if any("{args}" in word and word != "{args}" for word in words):
        raise ValueError("{args} as a word of its own: it becomes one word for each argument")
    return words


TABLE: Final[tuple[Setting, ...]] = (
    Setting(
        "args_style",
        _one_of("sagemaker", "hydra", "none"),
        "sagemaker",
        "",
        "how hyperparameters become arguments: --name value, name=value in Hydra's grammar, "
        "or not at all",
    ),
    Setting(
        "args_order",
        _one_of("sorted", "given"),
        "sorted",
        "",
        "order of the arguments: by name, or as in hyperparameters.json",
    ),
    Setting(
        "args_lists",
        _one_of("text", "expanded"),
        "text",
        "",
        "a list: one argument as Python writes it, or one argument for each element (nargs)",
    ),
    Setting(
        "args_flags",
        _switch,
        "false",
        "",
        "true becomes a bare --name and false nothing (store_true)",
    ),
    Setting("args_dashes", _switch, "false", "", "dashes for the underscores of names"),
    Setting(
        "command",
        _command,
        "",
        "",
        "the script's whole command line, such as python -u {program} {args}; "
        "{python} is our interpreter; no shell reads it",
    ),
    Setting(
        "requirements",
        _one_of("keep", "replace", "skip"),
        "keep",
        "",
        "requirements.txt: refuse what would replace a package of the image, allow it, "
        "or install nothing, no package either (supervisor local)",
    ),
    Setting(
        "prepare_timeout_s",
        _seconds,
        "600",
        "s",
        "how long installing requirements and a package may take",
    ),
    Setting(
        "model_check",
        _one_of("warn", "fail", "off"),
        "warn",
        "",
        "what follows when the master's model directory cannot be served: "
        "nothing in it, no SavedModel, a version that is no number",
    ),
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
    Setting(
        "log_prefix",
        _template,
        "{host} {role} {mark} ",
        "",
        "the prefix of the prefix format: {host}, {role}, {stream}, {time} and {mark}, "
        "without which such output cannot be decoded",
    ),
    Setting(
        "log_streams",
        _one_of("split", "stdout", "merge"),
        "split",
        "",
        "where the script's output goes: its stdout to stdout and its stderr to stderr; both to "
        "stdout; or both there through one pipe, in the order in which they are written (2>&1)",
    ),
    Setting(
        "log_console_roles",
        _roles,
        "all",
        "",
        "whose output is shown: all, none, or roles with commas between them "
        "(chief, master, worker, ps, …); what fails is shown all the same",
    ),
    Setting(
        "log_ps_level",
        _one_of("info", "warning", "error", "fatal"),
        "error",
        "",
        "from which level TensorFlow's own messages in the parameter server's output are shown; "
        "all are shown when it fails, and all are in its file",
    ),
    Setting(
        "log_progress",
        _one_of("auto", "live", "collapse", "keep"),
        "auto",
        "",
        "progress bars (carriage returns) in the prefix and json formats: rewritten in place, "
        "a state every 5 s, or every state a line; auto: live on a terminal, else collapse",
    ),
    Setting(
        "log_repeat_window_s",
        _seconds,
        "0",
        "s",
        "identical lines within this time become one line and their number "
        "(prefix and json formats); 0: off",
    ),
    Setting(
        "log_overflow",
        _one_of("block", "drop"),
        "block",
        "",
        "when an output takes nothing more: the process that writes waits, "
        "or what comes is left out and counted",
    ),
    Setting(
        "log_files",
        _switch,
        "false",
        "",
        "keep each process's output under output/supervisor/logs (on under supervisor local)",
    ),
    Setting(
        "log_file_max_bytes",
        _size(1),
        "64MiB",
        "B",
        "size at which such a file is rotated, at a line's end",
    ),
    Setting(
        "log_file_keep",
        _whole_number(0),
        "4",
        "",
        "how many rotated files of a process are kept",
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
        _lease,
        "30",
        "s",
        "silence after which a master, or a member, counts as unreachable",
    ),
    Setting(
        "master_refused_count",
        _count,
        "4",
        "",
        "connections that a master, or a member, must refuse in a row to count as crashed",
    ),
    Setting(
        "master_refused_window_s",
        _seconds,
        "1",
        "s",
        "the time over which those refusals must be spread",
    ),
    Setting(
        "bare_master_after_s",
        _seconds,
        "10",
        "s",
        "how long the chief's port must be open, and the master's status port never seen, until "
        "the master is taken for one that runs no supervisor",
    ),
    Setting(
        "poll_wait_s",
        _share,
        "auto",
        "s",
        "length of a member's long poll, at most 30; auto: a quarter of the lease",
    ),
    Setting("max_runtime_s", _seconds, "0", "s", "stop the job after this long; 0: never"),
    Setting(
        "hang_timeout_s",
        _seconds,
        "0",
        "s",
        "stop the job when the script shows no output, CPU time or heartbeat for so long, or, once "
        "it has touched its heartbeat file, no heartbeat; 0: never",
    ),
    Setting(
        "stacks",
        _switch,
        "true",
        "",
        "let the script's Python processes write their stacks before they are killed",
    ),
    Setting("status_port", _port, "2224", "", "port of the status server and of the coordination"),
    Setting(
        "status_bind",
        str,
        "auto",
        "",
        "address that the status server binds; auto: every one of this host, IPv4 and IPv6",
    ),
    Setting(
        "token",
        _token,
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
        _success_policy,
        "auto",
        "",
        "whose exit 0 ends the job: chief, all, or the share of all scripts that must reach it, "
        "such as 0.75; auto: chief with parameter servers and MPI, all otherwise",
    ),
    Setting(
        "failure_policy",
        _failure_policy,
        "fail-fast",
        "",
        "fail-fast: the first script that fails ends the job; tolerate:N: up to N workers may "
        "fail, the same on every host",
    ),
    Setting(
        "straggler_timeout_s",
        _seconds,
        "0",
        "s",
        "where more than the chief must end: how long the others may go on after the chief's "
        "exit 0 before they are stopped and the job has succeeded; 0: without limit",
    ),
    Setting(
        "evaluator",
        str,
        "none",
        "",
        "the host that evaluates beside the training: none, last (the last host), or the name of "
        "an instance group of one host",
    ),
    Setting(
        "evaluator_grace_s",
        _seconds,
        "60",
        "s",
        "how long the evaluator's script may go on after the job has succeeded",
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
    Setting(
        "unsupported_distribution",
        _one_of("error", "ignore"),
        "error",
        "",
        "what follows where a hyperparameter asks for a distribution that is not run here, such as "
        "torchrun: an error, or every host runs its script alone",
    ),
    Setting(
        "tf_config_mismatch",
        _one_of("error", "ignore"),
        "error",
        "",
        "what follows where a TF_CONFIG in our own environment contradicts the contract: an error, "
        "or the script of a distribution is given ours, any other the one that is there",
    ),
    Setting(
        "strict_settings",
        _switch,
        "false",
        "",
        "any unknown SUPERVISOR_ variable is an error; else only one that is within two letters "
        "of a setting, and others are warned of",
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
    Setting(
        "channel_shard",
        str,
        "",
        "",
        "channels of SUPERVISOR_CHANNEL_<NAME> of which each host fetches its own share of the "
        "objects: names with commas between them, or all",
    ),
    Setting(
        "fetch_timeout_s",
        _seconds,
        "3600",
        "s",
        "how long fetching source, channels and checkpoint may take before the script starts",
    ),
    Setting(
        "source_max_bytes",
        _size(1),
        "10GiB",
        "B",
        "what the archive of sagemaker_submit_directory may hold, unpacked",
    ),
    Setting("source_max_files", _whole_number(1), "200000", "", "how many files it may hold"),
    Setting(
        "checkpoint_s3_uri",
        _place,
        "",
        "",
        "where checkpoints are kept: s3://BUCKET/PREFIX, file:///DIRECTORY or a path; sent while "
        "the script trains, restored before it starts",
    ),
    Setting(
        "checkpoint_local_dir",
        _directory,
        "",
        "",
        "the directory that the script saves them to, told it as SUPERVISOR_CHECKPOINT_DIR; "
        "empty: checkpoints below the base directory",
    ),
    Setting(
        "checkpoint_hosts",
        _one_of("master", "all"),
        "master",
        "",
        "whose checkpoints are kept: the master's, which every host is given at the next start, "
        "or each host's own, below its name",
    ),
    Setting(
        "checkpoint_keep",
        _whole_number(0),
        "0",
        "",
        "how many complete checkpoints are kept there, older ones are deleted; 0: all",
    ),
    Setting(
        "checkpoint_settle_s",
        _seconds,
        "2",
        "s",
        "a file that is not TensorFlow's counts as complete when nothing wrote to it for so long",
    ),
    Setting(
        "restore",
        _one_of("auto", "always", "never"),
        "auto",
        "",
        "whether the newest complete checkpoint is fetched: where the directory is empty, always "
        "in place of what is there, or never",
    ),
    Setting(
        "restore_agreement",
        _one_of("auto", "same", "say", "fail"),
        "auto",
        "",
        "what follows where the hosts of a job would begin from different checkpoints: same (all "
        "restore the newest, and what a host held otherwise is moved aside), say, or fail; auto: "
        "same with MultiWorkerMirroredStrategy, else say",
    ),
    Setting(
        "model_dir_mirror",
        _one_of("auto", "on", "off"),
        "auto",
        "",
        "a model_dir in S3 becomes a local directory, fetched before the script and kept in step "
        "while it runs; auto: where TensorFlow cannot write to s3:// itself",
    ),
    Setting(
        "intermediate_s3_uri",
        _place,
        "",
        "",
        "where output/intermediate is sent while the script runs; else sagemaker_s3_output and "
        "the job's name",
    ),
    Setting("log_s3_uri", _place, "", "", "where the log files of SUPERVISOR_LOG_FILES are sent"),
    Setting("output_s3_uri", _place, "", "", "where output/data is sent at the end"),
    Setting(
        "model_s3_uri", _place, "", "", "where the master's model directory is sent after success"
    ),
    Setting(
        "storage_policy",
        _storage_policy,
        "",
        "",
        "what follows where a transfer cannot be done, as NAME=POLICY with commas: warn, end (the "
        "job's end has failed if it is not made good) or fail (the job ends); by default end for "
        "checkpoints, model_dir, output and model, warn for intermediate and logs",
    ),
    Setting(
        "publish_timeout_s",
        _seconds,
        "1800",
        "s",
        "how long results may be sent after a job that nobody stopped; after a stop "
        "SUPERVISOR_PUBLISH_RESERVE_S counts",
    ),
    Setting(
        "sync_rescan_s",
        _lease,
        "15",
        "s",
        "how often directories are looked through for what no file event told of",
    ),
    Setting(
        "sync_lag_warn_s",
        _seconds,
        "600",
        "s",
        "age of the oldest unsent change from which on it is warned of",
    ),
    Setting(
        "s3_endpoint",
        _endpoint,
        "",
        "",
        "another server than Amazon's, such as http://minio:9000",
        twins=("S3_ENDPOINT_URL",),
    ),
    Setting(
        "s3_region",
        str,
        "",
        "",
        "region of the buckets; empty: the client's own, and what the server says",
        twins=("sagemaker_region", "SAGEMAKER_REGION"),
    ),
    Setting(
        "s3_addressing",
        _one_of("auto", "path", "virtual"),
        "auto",
        "",
        "whether a bucket's name is part of the path or of the host name",
    ),
    Setting("s3_anonymous", _switch, "false", "", "ask without credentials, for public buckets"),
    Setting(
        "s3_part_bytes",
        _size(5 << 20, 5 << 30),
        "8MiB",
        "B",
        "size of the parts in which larger objects are sent and fetched",
    ),
    Setting(
        "s3_in_flight_bytes",
        _size(5 << 20),
        "48MiB",
        "B",
        "bytes on their way at once, in memory: bounds what all transfers together hold",
    ),
    Setting(
        "s3_bandwidth_bytes_s",
        _size(0),
        "0",
        "B/s",
        "limit of all transfers of a host together; 0: none",
    ),
    Setting(
        "s3_encryption",
        _encryption,
        "",
        "",
        "server-side encryption of what is sent: AES256, aws:kms or aws:kms:dsse",
    ),
    Setting("s3_kms_key", str, "", "", "the key of aws:kms; empty: the account's own"),
    Setting("s3_storage_class", str, "", "", "storage class of what is sent, such as STANDARD_IA"),
    Setting("s3_requester_pays", _switch, "false", "", "we pay for requests to others' buckets"),
    Setting(
        "s3_retry_s",
        _seconds,
        "300",
        "s",
        "how long one operation is tried before it has failed",
    ),
    Setting(
        "s3_timeout_s",
        _lease,
        "30",
        "s",
        "the longest silence of a server that is borne; first attempts are given up after 1 to 2 s",
    ),
)

BY_ENV: Final = {setting.env: setting for setting in TABLE}

CHANNEL_PREFIX: Final = "SUPERVISOR_CHANNEL_"
"""With a channel's name behind it: a family of variables, and no row of the table."""

assert [setting.field for setting in TABLE] == [
    name for name in Settings._fields if name != "channels"
]


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
    foreign = strangers_in(environ)
    environ = {name: value for name, value in environ.items() if name not in foreign.others}
    strict = _lookup(BY_ENV["SUPERVISOR_STRICT_SETTINGS"], flags, environ, hyperparameters)[2]
    faults = [
        _unknown(name, environ[name], near)
        for name, (near, letters) in foreign.unknown.items()
        if letters <= _SLIP or strict.lower() in _TRUE
    ]
    values: dict[str, Any] = {"channels": _channels(environ, faults)}
    for setting in TABLE:
        source, key, text = _lookup(setting, flags, environ, hyperparameters)
        try:
            values[setting.field] = setting.parse(text)
        except ValueError as error:
            found = "a value that is not shown" if setting.secret else shown(text)
            faults.append(Fault(source, key, found, str(error)))
            values[setting.field] = setting.parse(setting.default)
    faults += _share_out(values)
    faults += _poll_wait(values)
    faults += _in_flight(values)
    return Settings(**values), faults


def _channels(environ: Mapping[str, str], faults: list[Fault]) -> tuple[tuple[str, str], ...]:
    """The family ``SUPERVISOR_CHANNEL_<NAME>``; a channel's name is in lower case."""
    found = {}
    for key in sorted(environ):
        if not key.startswith(CHANNEL_PREFIX) or key in BY_ENV:
            continue
        name = key.removeprefix(CHANNEL_PREFIX).lower()
        expected = "a place such as s3://BUCKET/PREFIX"
        place = ""
        try:
            place = _place(environ[key])
        except ValueError as error:
            expected = str(error)
        if not place or not name or "/" in name or name in found:
            expected = expected if name else "SUPERVISOR_CHANNEL_ and a name"
            expected = f"the channel {name} once" if name in found else expected
            faults.append(Fault("environment", key, shown(environ[key]), expected))
        found[name] = place
    return tuple(found.items())


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


class Strangers(NamedTuple):
    """``SUPERVISOR_…`` variables that are none of ours."""

    others: tuple[str, ...]
    """Those of other programs, as is known: settings by name, among them, are none."""
    unknown: Mapping[str, tuple[str, int]]
    """The rest → the setting that is nearest by name, and how many letters it is away."""


def strangers_in(environ: Mapping[str, str]) -> Strangers:
    others = []
    unknown = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        if name in strangers.SUPERVISORD or strangers.is_of_a_service(name, environ[name]):
            others.append(name)
        elif not is_ours(name):
            unknown[name] = strangers.nearest(name, BY_ENV)
    return Strangers(tuple(others), unknown)


def is_ours(name: str) -> bool:
    """Whether a variable of this name is a setting, or one that we set."""
    return name in BY_ENV or name in TOLD_TO_SCRIPT or name.startswith(CHANNEL_PREFIX)


def warnings_on(unknown: Mapping[str, tuple[str, int]]) -> tuple[str, ...]:
    """What is said of variables that are likely another program's; their values are not."""
    return tuple(
        f"{name} is no setting of this program and is left alone: the nearest is {near}; "
        "SUPERVISOR_STRICT_SETTINGS=true makes it an error"
        for name, (near, letters) in unknown.items()
        if letters > _SLIP
    )


def _unknown(name: str, value: str, near: str) -> Fault:
    secret = is_secret_name(name) or BY_ENV[near].secret
    found = "a value that is not shown" if secret else shown(value)
    return Fault("environment", name, found, f"a known setting; did you mean {near}?")


def _in_flight(values: dict[str, Any]) -> list[Fault]:
    part, room = values["s3_part_bytes"], values["s3_in_flight_bytes"]
    if part <= room:
        return []
    expected = f"at least SUPERVISOR_S3_PART_BYTES, {part}: one part must fit"
    return [Fault("settings", "SUPERVISOR_S3_IN_FLIGHT_BYTES", str(room), expected)]


def _poll_wait(values: dict[str, Any]) -> list[Fault]:
    """Resolve ``auto``. A member that waits for an answer gives no other sign of life."""
    lease_s = values["master_lease_s"]
    if values["poll_wait_s"] is None:
        values["poll_wait_s"] = min(30.0, lease_s / 4)
    if values["poll_wait_s"] <= min(30.0, lease_s / 2):
        return []
    return [
        Fault(
            "settings",
            "SUPERVISOR_POLL_WAIT_S",
            f"{values['poll_wait_s']:g}",
            f"at most 30, and half of SUPERVISOR_MASTER_LEASE_S, {lease_s / 2:g}",
        )
    ]


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
    less = (
        f"SUPERVISOR_STOP_LIMIT_S {limit_s:g} less {tail_s:g} for process groups, servers "
        f"(SUPERVISOR_SERVER_GRACE_S {values['server_grace_s']:g}), SIGKILL, publishing "
        f"(SUPERVISOR_PUBLISH_RESERVE_S {values['publish_reserve_s']:g}) and the report"
    )
    if room_s <= 0:  # no grace fits, 0 neither: another setting is to be changed
        expected = f"a limit that leaves the script time: {less}; raise the limit, or lower those"
        return [Fault("settings", "SUPERVISOR_STOP_LIMIT_S", f"{limit_s:g}", expected)]
    expected = f"at most {room_s:g}: {less}; lower the grace or those, or raise the limit"
    return [Fault("settings", "SUPERVISOR_STOP_GRACE_S", f"{grace_s:g}", expected)]
