"""Every setting of the program, each declared once.

The class, the flags, the environment variables, ``--help``, ``supervisor settings`` and the guide's
page come from the declarations in the groups below. Durations are seconds, as their names say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar, cast

from supervisor.contract import values
from supervisor.contract.strangers import PREFIX
from supervisor.life.words import Role

if TYPE_CHECKING:  # for jobs that go on after a failure
    from supervisor.life.attempts import Rules

T = TypeVar("T")


class Setting(NamedTuple):
    """One setting as it was declared."""

    field: str
    group: str
    """What its group is about, in a few words."""
    parse: Callable[[str], Any]
    """Text to value; raises ValueError whose text says what is allowed."""
    default: str
    unit: str
    help: str
    twins: tuple[str, ...]
    """Other names, lower precedence: platform hyperparameters (lower case) and variables."""
    secret: bool
    common: bool
    """Whether ``--help`` shows it; ``--help-all`` shows every one."""

    @property
    def env(self) -> str:
        return PREFIX + self.field.upper()

    @property
    def flag(self) -> str:
        return "--" + self.field.replace("_", "-")


def setting(
    parse: Callable[[str], T],
    default: str,
    unit: str,
    help: str,  # noqa: A002  # as argparse calls it
    *,
    twins: tuple[str, ...] = (),
    secret: bool = False,
    common: bool = False,
) -> T:
    """Declare a setting whose value is of the parser's type."""
    declared = Setting("", "", parse, default, unit, help, twins, secret, common)
    return cast("T", declared)


ENGINES: Final = ("sagemaker", "tf_config", "slurm", "kubernetes", "hosts", "local")
"""Where a job may come from: see ``engines/``."""


class Job:
    """Where the job comes from, and who its hosts are."""

    engine: str = setting(
        values.one_of("auto", *ENGINES),
        "auto",
        "",
        "whose files or variables tell of the job: auto (what is found), sagemaker, tf_config, "
        "slurm, kubernetes, hosts, or local (one host, whatever is set)",
    )
    strategy: str = setting(
        values.one_of("auto", "ps", "mwms", "mpi", "none"),
        "auto",
        "",
        "parameter servers, MultiWorkerMirroredStrategy, MPI, or every host its script alone; "
        "auto: what the platform says, else ps where there are several hosts",
        common=True,
    )
    base_dir: str = setting(
        str,
        "",
        "",
        "the directory of the job, with one of each host's below it; empty: /opt/ml, and without "
        "it one below ./supervisor-runs",
    )
    hosts: str = setting(
        str,
        "",
        "",
        "the hosts of the job, the master first, the same on each: a,b,c or n[1-3], each NAME or "
        "NAME:PORT of its status",
        common=True,
    )
    host_index: int | None = setting(
        values.index,
        "",
        "",
        "which of SUPERVISOR_HOSTS this one is, from 0; empty: the one with this machine's name "
        "or address",
    )
    host_count: int | None = setting(
        values.index,
        "",
        "",
        "on Kubernetes: how many pods the job has",
    )
    host_domain: str = setting(
        str,
        "",
        "",
        "on Kubernetes: the headless Service behind the pods' names, SERVICE or SERVICE.NS.svc",
    )
    restart_count: int = setting(
        values.whole_number(0),
        "0",
        "",
        "how often the platform has started the job anew, where it tells",
    )


class Arguments:
    """How the script is called."""

    args_style: str = setting(
        values.one_of("sagemaker", "hydra", "none"),
        "sagemaker",
        "",
        "how hyperparameters become arguments: --name value, name=value in Hydra's grammar, "
        "or not at all",
    )
    args_order: str = setting(
        values.one_of("sorted", "given"),
        "sorted",
        "",
        "order of the arguments: by name, or as in hyperparameters.json",
    )
    args_lists: str = setting(
        values.one_of("text", "expanded"),
        "text",
        "",
        "a list: one argument as Python writes it, or one argument for each element (nargs)",
    )
    args_flags: bool = setting(
        values.switch,
        "false",
        "",
        "true becomes a bare --name and false nothing (store_true)",
    )
    args_dashes: bool = setting(
        values.switch,
        "false",
        "",
        "dashes for the underscores of names",
    )
    command: tuple[str, ...] = setting(
        values.command,
        "",
        "",
        "the script's whole command line, such as python -u {program} {args}; "
        "{python} is our interpreter; no shell reads it",
    )


class Preparing:
    """What is fetched, installed and checked before the script starts, and its result."""

    requirements: str = setting(
        values.one_of("keep", "replace", "skip"),
        "keep",
        "",
        "requirements.txt: refuse what would replace a package of the image, allow it, "
        "or install nothing, no package either (supervisor local)",
        common=True,
    )
    prepare_timeout_s: float = setting(
        values.seconds,
        "600",
        "s",
        "how long installing requirements and a package may take",
    )
    model_check: str = setting(
        values.one_of("warn", "fail", "off"),
        "warn",
        "",
        "what follows when the master's model directory cannot be served: "
        "nothing in it, no SavedModel, a version that is no number",
    )
    channel_shard: str = setting(
        str,
        "",
        "",
        "channels of SUPERVISOR_CHANNEL_<NAME> of which each host fetches its own share of the "
        "objects: names with commas between them, or all",
    )
    fetch_timeout_s: float = setting(
        values.seconds,
        "3600",
        "s",
        "how long fetching source, channels and checkpoint may take before the script starts",
    )
    source_max_bytes: int = setting(
        values.size(1),
        "10GiB",
        "B",
        "what the archive of sagemaker_submit_directory may hold, unpacked",
    )
    source_max_files: int = setting(
        values.whole_number(1),
        "200000",
        "",
        "how many files the archive of sagemaker_submit_directory may hold",
    )


class Output:
    """Where output goes, and what it looks like."""

    log_format: str = setting(
        values.one_of("raw", "prefix", "json"),
        "raw",
        "",
        "how the processes' output is written: byte for byte, whole lines with a prefix, "
        "or one JSON object a line",
        common=True,
    )
    log_level: str = setting(
        values.level,
        "info",
        "",
        "the supervisor's own messages: debug, info, warning, error",
        twins=("sagemaker_container_log_level", "SAGEMAKER_CONTAINER_LOG_LEVEL"),
    )
    log_own: str = setting(
        values.one_of("full", "brief"),
        "full",
        "",
        "the supervisor's own lines where they are text: with date, level and the event's name, "
        "or short for somebody who looks on (on under supervisor local at a terminal)",
    )
    log_color: str = setting(
        values.one_of("auto", "always", "never"),
        "auto",
        "",
        "colour prefixes; auto: where the output is a terminal",
    )
    log_prefix: str = setting(
        values.template,
        "{host} {role} {mark} ",
        "",
        "the prefix of the prefix format: {host}, {role}, {stream}, {time} and {mark}, "
        "without which such output cannot be decoded",
    )
    log_streams: str = setting(
        values.one_of("split", "stdout", "merge"),
        "split",
        "",
        "where the script's output goes: its stdout to stdout and its stderr to stderr; both to "
        "stdout; or both there through one pipe, in the order in which they are written (2>&1)",
    )
    log_console_roles: frozenset[Role] = setting(
        values.roles,
        "all",
        "",
        "whose output is shown: all, none, or roles with commas between them "
        "(chief, master, worker, ps, …); what fails is shown all the same",
    )
    log_ps_level: str = setting(
        values.one_of("info", "warning", "error", "fatal"),
        "error",
        "",
        "from which level TensorFlow's own messages in the parameter server's output are shown; "
        "all are shown when it fails, and all are in its file",
    )
    log_progress: str = setting(
        values.one_of("auto", "live", "collapse", "keep"),
        "auto",
        "",
        "progress bars (carriage returns) in the prefix and json formats: rewritten in place, "
        "a state every 5 s, or every state a line; auto: live on a terminal, else collapse",
    )
    log_repeat_window_s: float = setting(
        values.seconds,
        "0",
        "s",
        "identical lines within this time become one line and their number "
        "(prefix and json formats); 0: off",
    )
    log_overflow: str = setting(
        values.one_of("block", "drop"),
        "block",
        "",
        "when an output takes nothing more: the process that writes waits, "
        "or what comes is left out and counted",
    )
    log_files: bool = setting(
        values.switch,
        "false",
        "",
        "keep each process's output under output/supervisor/logs (on under supervisor local)",
        common=True,
    )
    log_file_max_bytes: int = setting(
        values.size(1),
        "64MiB",
        "B",
        "size at which a log file is rotated, at a line's end",
    )
    log_file_keep: int = setting(
        values.whole_number(0),
        "4",
        "",
        "how many rotated files of a process are kept",
    )


class Ending:
    """What ends the job, and how long each step of the end may take."""

    stop_signal: int = setting(
        values.stop_signal,
        "SIGTERM",
        "",
        "the signal that asks the script to stop",
    )
    server_stop_signal: int = setting(
        values.stop_signal,
        "SIGTERM",
        "",
        "the signal that asks the parameter server to stop",
    )
    stop_grace_s: float = setting(
        values.share,
        "auto",
        "s",
        "the script's share after a stop signal, to save a checkpoint; "
        "auto: what SUPERVISOR_STOP_LIMIT_S leaves (92 of 120)",
        common=True,
    )
    end_grace_s: float = setting(
        values.seconds,
        "10",
        "s",
        "the share of a script that is stopped because the job ended or failed elsewhere",
    )
    server_grace_s: float = setting(
        values.share,
        "auto",
        "s",
        "the parameter server's share after SIGTERM; auto: 5, less where SUPERVISOR_STOP_LIMIT_S "
        "is below 30",
    )
    stop_limit_s: float = setting(
        values.seconds,
        "120",
        "s",
        "when the platform kills us, counted from SIGTERM; an engine that knows its platform's "
        "limit takes that: Slurm's KillWait, Kubernetes' 30",
        common=True,
    )
    stopped_exit_code: int | None = setting(
        values.exit_code,
        "auto",
        "",
        "the exit code after a stop that the chief's script answered with 0; auto: 0, and 143 "
        "under slurm, kubernetes and tf_config, which would book the job as done",
    )
    publish_reserve_s: float = setting(
        values.share,
        "auto",
        "s",
        "the part of SUPERVISOR_STOP_LIMIT_S that is kept for writing out results; "
        "auto: an eighth of it",
    )
    max_runtime_s: float = setting(
        values.seconds,
        "0",
        "s",
        "stop the job after this long; 0: never",
    )
    hang_timeout_s: float | None = setting(
        values.share,
        "0",
        "s",
        "stop the job when the script shows no output, CPU time or heartbeat for so long, or, once "
        "steps of it were seen or it has touched its heartbeat file, no step and no heartbeat; "
        "auto: for ten times the usual time between two steps, at least 120 s, and not before the "
        "third; 0: never",
        common=True,
    )
    progress_pattern: str = setting(
        values.progress_pattern,
        "",
        "",
        "a regular expression that finds the training's progress in a line of the script's output, "
        "by its groups step, epoch, total and loss: ^it (?P<step>\\d+); no other words of the "
        "output count then",
    )
    end_on_nan: bool = setting(
        values.switch,
        "false",
        "",
        "end the job when the loss that the script tells is not a number any more; it is not "
        "started anew then",
    )
    stacks: bool = setting(
        values.switch,
        "true",
        "",
        "let the script's Python processes write their stacks before they are killed",
    )
    success_policy: str = setting(
        values.success_policy,
        "auto",
        "",
        "whose exit 0 ends the job: chief, all, or the share of all scripts that must reach it, "
        "such as 0.75; auto: chief with parameter servers and MPI, all otherwise",
    )
    failure_policy: str = setting(
        values.failure_policy,
        "fail-fast",
        "",
        "fail-fast: the first script that fails ends the job; tolerate:N: up to N workers may "
        "fail, the same on every host",
        common=True,
    )
    straggler_timeout_s: float = setting(
        values.seconds,
        "0",
        "s",
        "where more than the chief must end: how long the others may go on after the chief's "
        "exit 0 before they are stopped and the job has succeeded; 0: without limit",
    )
    evaluator_grace_s: float = setting(
        values.seconds,
        "60",
        "s",
        "how long the evaluator's script may go on after the job has succeeded",
    )


class Attempts:
    """Going on after a failure: what failed is started anew in place."""

    restarts: int = setting(
        values.whole_number(0),
        "0",
        "",
        "how often what fails is started anew in place, beside what goes on, without progress "
        "between (a new complete checkpoint, the progress file, the heartbeat); 0: never, the "
        "platform may start the whole job anew",
        common=True,
    )
    restart_rules: Rules | None = setting(
        values.restart_rules,
        "",
        "",
        "failures that are started anew, or not, whatever they are: "
        '{"restart": [3, "CUDA error"], "stop": [65, "loss is NaN"]} with exit codes (128 + N for '
        "a death by signal N) and regular expressions, looked for in the sentence of the failure "
        "and the last words",
    )
    warm_start: bool = setting(
        values.switch,
        "false",
        "",
        "a process with TensorFlow imported waits on every host to become the script, while hosts "
        "join, files are fetched, or an attempt runs: seconds sooner, for about 550 MB of memory",
    )
    restartable_exit_code: int | None = setting(
        values.failure_code,
        "",
        "",
        "every host's exit code after a failure after which starting the whole job again makes "
        "sense, for podFailurePolicy, a requeue or a retry strategy; empty: that of the failure",
    )
    rejoin_timeout_s: float = setting(
        values.seconds,
        "120",
        "s",
        "how long a lost host is waited for, the master too, where the job may go on after a "
        "failure (SUPERVISOR_RESTARTS): its container, started anew under its name, joins the "
        "running job; 0: a lost host ends the job",
    )
    min_hosts: int = setting(
        values.whole_number(0),
        "0",
        "",
        "a job that may go on after a failure goes on without lost hosts while so many are there "
        "(not with parameter servers), and with them again at its next attempt; 0: all are needed",
    )
    spares: int = setting(
        values.whole_number(0),
        "0",
        "",
        "the last N hosts of the cluster wait, with everything fetched, and take the places of "
        "lost ones; the same on all hosts",
    )


class Joining:
    """How hosts wait for each other, and when one counts as lost."""

    join_timeout_s: float = setting(
        values.seconds,
        "900",
        "s",
        "how long the hosts of a job wait for each other",
        common=True,
    )
    ack_timeout_s: float = setting(
        values.seconds,
        "30",
        "s",
        "how long the master waits at the end until every member is down",
    )
    master_lease_s: float = setting(
        values.lease,
        "30",
        "s",
        "silence after which a master, or a member, counts as unreachable",
    )
    master_refused_count: int = setting(
        values.count,
        "4",
        "",
        "connections that a master, or a member, must refuse in a row to count as crashed",
    )
    master_refused_window_s: float = setting(
        values.seconds,
        "1",
        "s",
        "the time over which the refusals of SUPERVISOR_MASTER_REFUSED_COUNT must be spread",
    )
    bare_master_after_s: float = setting(
        values.seconds,
        "10",
        "s",
        "how long the chief's port must be open, and the master's status port never seen, until "
        "the master is taken for one that runs no supervisor",
    )
    poll_wait_s: float = setting(
        values.share,
        "auto",
        "s",
        "length of a member's long poll, at most 30; auto: a quarter of SUPERVISOR_MASTER_LEASE_S",
    )


class Status:
    """The status port, and who may speak."""

    status_port: int = setting(
        values.port,
        "2224",
        "",
        "port of the status server and of the coordination",
    )
    status_bind: str = setting(
        str,
        "auto",
        "",
        "address that the status server binds; auto: every one of this host, IPv4 and IPv6",
    )
    token: str = setting(
        values.token,
        "",
        "",
        "shared secret of the job: members' reports must carry it; never passed to the script",
        secret=True,
    )
    strict_settings: bool = setting(
        values.switch,
        "false",
        "",
        "any unknown SUPERVISOR_ variable is an error; else only one that is within two letters "
        "of a setting, and others are warned of",
    )


class Cluster:
    """TF_CONFIG, and who runs what."""

    chief_name: str = setting(
        values.one_of("auto", "chief", "master"),
        "auto",
        "",
        "the chief's job name in TF_CONFIG; auto: chief for TensorFlow 2, master for 1",
    )
    ps: str = setting(
        values.one_of("server", "script"),
        "server",
        "",
        "what a task of type ps of the platform's TF_CONFIG runs: a TensorFlow server of ours, or "
        "your script",
    )
    evaluator: str = setting(
        str,
        "none",
        "",
        "the host that evaluates beside the training: none, last (the last host), or the name of "
        "an instance group of one host",
    )
    ps_import: str = setting(
        values.one_of("light", "full"),
        "light",
        "",
        "how much of TensorFlow the parameter server imports; light falls back to full by itself",
    )
    ps_hosts: str = setting(
        values.ps_hosts,
        "all",
        "",
        "which hosts run a parameter server: all; members (all but the master); a number K (the "
        "first K); group:NAME (the hosts of that instance group, which then run no script)",
    )
    worker: str = setting(
        values.one_of("script", "server"),
        "script",
        "",
        "what the workers of a parameter-server cluster run: your script, or a TensorFlow server "
        "of ours, so that the script runs on the chief alone",
    )
    outside: str = setting(
        values.one_of("independent", "follow"),
        "independent",
        "",
        "hosts outside sagemaker_distribution_instance_groups run their script alone: each ends "
        "by itself, or with the job",
    )
    unsupported_distribution: str = setting(
        values.one_of("error", "ignore"),
        "error",
        "",
        "what follows where a hyperparameter asks for a distribution that is not run here, such as "
        "torchrun: an error, or every host runs its script alone",
    )
    tf_config_mismatch: str = setting(
        values.one_of("error", "ignore"),
        "error",
        "",
        "what follows where a TF_CONFIG in our own environment contradicts the contract: an error, "
        "or the script of a distribution is given ours, any other the one that is there",
    )


class Mpi:
    """MPI."""

    mpi_ssh_port: int = setting(
        values.port,
        "22",
        "",
        "MPI: port of the members' sshd",
    )
    mpi_ssh_key: str = setting(
        str,
        "",
        "",
        "MPI: private key file, with its .pub beside it, in the image of every host; "
        "empty: the keys and authorized_keys in ~/.ssh",
    )
    mpi_sshd: str = setting(
        str,
        "/usr/sbin/sshd",
        "",
        "MPI: the sshd program",
    )


class Storage:
    """What is kept elsewhere, and restored from there."""

    checkpoint_s3_uri: str = setting(
        values.place,
        "",
        "",
        "where checkpoints are kept: s3://BUCKET/PREFIX, file:///DIRECTORY or a path; sent while "
        "the script trains, restored before it starts",
        common=True,
    )
    checkpoint_local_dir: str = setting(
        values.directory,
        "",
        "",
        "the directory that the script saves checkpoints to, told it as SUPERVISOR_CHECKPOINT_DIR; "
        "empty: checkpoints below the base directory",
    )
    checkpoint_hosts: str = setting(
        values.one_of("master", "all"),
        "master",
        "",
        "whose checkpoints are kept: the master's, which every host is given at the next start, "
        "or each host's own, below its name",
    )
    checkpoint_keep: int = setting(
        values.whole_number(0),
        "0",
        "",
        "how many complete checkpoints SUPERVISOR_CHECKPOINT_S3_URI keeps, older ones are deleted; "
        "0: all",
    )
    checkpoint_settle_s: float = setting(
        values.seconds,
        "2",
        "s",
        "a file that is not TensorFlow's counts as complete when nothing wrote to it for so long",
    )
    restore: str = setting(
        values.one_of("auto", "always", "never"),
        "auto",
        "",
        "whether the newest complete checkpoint is fetched: where the directory is empty, always "
        "in place of what is there, or never",
    )
    restore_agreement: str = setting(
        values.one_of("auto", "same", "say", "fail"),
        "auto",
        "",
        "what follows where the hosts of a job would begin from different checkpoints: same (all "
        "restore the newest, and what a host held otherwise is moved aside), say, or fail; auto: "
        "same with MultiWorkerMirroredStrategy, else say",
    )
    model_dir_mirror: str = setting(
        values.one_of("auto", "on", "off"),
        "auto",
        "",
        "a model_dir in S3 becomes a local directory, fetched before the script and kept in step "
        "while it runs; auto: where TensorFlow cannot write to s3:// itself",
    )
    intermediate_s3_uri: str = setting(
        values.place,
        "",
        "",
        "where output/intermediate is sent while the script runs; else sagemaker_s3_output and "
        "the job's name",
    )
    log_s3_uri: str = setting(
        values.place,
        "",
        "",
        "where the log files of SUPERVISOR_LOG_FILES are sent",
    )
    output_s3_uri: str = setting(
        values.place,
        "",
        "",
        "where output/data is sent at the end",
    )
    model_s3_uri: str = setting(
        values.place,
        "",
        "",
        "where the master's model directory is sent after success",
        common=True,
    )
    storage_policy: tuple[tuple[str, str], ...] = setting(
        values.storage_policy,
        "",
        "",
        "what follows where a transfer cannot be done, as NAME=POLICY with commas: warn, end (the "
        "job's end has failed if it is not made good) or fail (the job ends); by default end for "
        "checkpoints, model_dir, output and model, warn for intermediate and logs",
    )
    """Name of a transfer and its policy, for those that have another than their default."""
    publish_timeout_s: float = setting(
        values.seconds,
        "1800",
        "s",
        "how long results may be sent after a job that nobody stopped; after a stop "
        "SUPERVISOR_PUBLISH_RESERVE_S counts",
    )
    sync_rescan_s: float = setting(
        values.lease,
        "15",
        "s",
        "how often directories are looked through for what no file event told of",
    )
    sync_lag_warn_s: float = setting(
        values.seconds,
        "600",
        "s",
        "age of the oldest unsent change from which on it is warned of",
    )


class S3:
    """How S3 is spoken to."""

    s3_endpoint: str = setting(
        values.endpoint,
        "",
        "",
        "another server than Amazon's, such as http://minio:9000",
        twins=("S3_ENDPOINT_URL",),
    )
    s3_region: str = setting(
        str,
        "",
        "",
        "region of the buckets; empty: the client's own, and what the server says",
        twins=("sagemaker_region", "SAGEMAKER_REGION"),
    )
    s3_addressing: str = setting(
        values.one_of("auto", "path", "virtual"),
        "auto",
        "",
        "whether a bucket's name is part of the path or of the host name",
    )
    s3_anonymous: bool = setting(
        values.switch,
        "false",
        "",
        "ask without credentials, for public buckets",
    )
    s3_part_bytes: int = setting(
        values.size(5 << 20, 5 << 30),
        "8MiB",
        "B",
        "size of the parts in which larger objects are sent and fetched",
    )
    s3_in_flight_bytes: int = setting(
        values.size(5 << 20),
        "48MiB",
        "B",
        "bytes on their way at once, in memory: bounds what all transfers together hold",
    )
    s3_bandwidth_bytes_s: int = setting(
        values.size(0),
        "0",
        "B/s",
        "limit of all transfers of a host together; 0: none",
    )
    s3_encryption: str = setting(
        values.encryption,
        "",
        "",
        "server-side encryption of what is sent: AES256, aws:kms or aws:kms:dsse",
    )
    s3_kms_key: str = setting(
        str,
        "",
        "",
        "the key of aws:kms; empty: the account's own",
    )
    s3_storage_class: str = setting(
        str,
        "",
        "",
        "storage class of what is sent, such as STANDARD_IA",
    )
    s3_requester_pays: bool = setting(
        values.switch,
        "false",
        "",
        "we pay for requests to others' buckets",
    )
    s3_retry_s: float = setting(
        values.seconds,
        "300",
        "s",
        "how long one operation is tried before it has failed",
    )
    s3_timeout_s: float = setting(
        values.lease,
        "30",
        "s",
        "the longest silence of a server that is borne; first attempts are given up after 1 to 2 s",
    )


GROUPS: Final = (
    Job, Arguments, Preparing, Output, Ending, Attempts, Joining, Status, Cluster, Mpi, Storage, S3,
)  # fmt: skip
"""In the order in which they are shown."""


class Settings(
    Job, Arguments, Preparing, Output, Ending, Attempts, Joining, Status, Cluster, Mpi, Storage, S3
):
    """The settings of one supervisor, checked. Field ``x`` is ``SUPERVISOR_X`` and ``--x``.

    No dataclass: of so many fields one takes 3 ms to make, before the script can start.
    """

    channels: tuple[tuple[str, str], ...]
    """``SUPERVISOR_CHANNEL_<NAME>``: name of the channel and place."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        assert given.keys() == FIELDS
        vars(self).update(given)

    def __setattr__(self, name: str, _value: object) -> NoReturn:
        raise AttributeError(f"{name}: settings do not change")


TABLE: Final[tuple[Setting, ...]] = tuple(
    declared._replace(field=field, group=(group.__doc__ or group.__name__).rstrip("."))
    for group in GROUPS
    for field, declared in vars(group).items()
    if isinstance(declared, Setting)
)
FIELDS: Final = {setting.field for setting in TABLE} | {"channels"}
BY_ENV: Final = {setting.env: setting for setting in TABLE}

KILL_S: Final = 3.0
"""After SIGKILL: time for the kernel to tear a process tree down, seconds."""
GROUP_S: Final = 3.0
"""The process group's share after its stop signal, once the leader's share is over, seconds."""
RECORD_S: Final = 2.0
"""Kept free before the platform's limit for writing failure and report, seconds."""
SERVER_S: Final = 5.0
"""The parameter server's share after its stop signal, seconds."""
_AMPLE_S: Final = 30.0
"""Where the platform's limit is below, all of these are shorter in proportion: Slurm's KillWait may
be 8 s, and Open MPI gives 2."""


class Tail(NamedTuple):
    """What a stop needs after the script's own share, in seconds."""

    group_s: float
    kill_s: float
    record_s: float
    server_s: float

    @property
    def fixed_s(self) -> float:
        """Of it, what no setting changes."""
        return self.group_s + self.kill_s + self.record_s


def tail_of(limit_s: float) -> Tail:
    """The shares within a platform's limit."""
    part = min(1.0, limit_s / _AMPLE_S)
    return Tail(part * GROUP_S, part * KILL_S, part * RECORD_S, part * SERVER_S)
