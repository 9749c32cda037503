"""The words of the project as frozen data: roles, phases, exits, causes, verdicts.

The lowest layer. It imports nothing of ours and touches nothing of the world, so that the
contract, the plan, the reducer, the wire protocol and the reports speak of the same things.
"""

from __future__ import annotations

import enum
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

STACKS_SIGNUM: Final = int(signal.SIGRTMAX) - 1
"""Asks a Python process for its stacks. Neither the C library, Python nor TensorFlow uses it."""


STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})


class Role(enum.StrEnum):
    """What a process is for. ``chief`` is also the role of a script that runs alone."""

    CHIEF = "chief"
    MASTER = "master"
    """The chief under TensorFlow 1's name (``SUPERVISOR_CHIEF_NAME=master``)."""
    WORKER = "worker"
    PS = "ps"
    EVALUATOR = "evaluator"
    LAUNCHER = "launcher"
    """``mpirun`` on the master: its end is that of all ranks."""
    SSHD = "sshd"
    """On the other hosts of an MPI job: how ``mpirun`` starts their ranks."""
    PREPARE = "prepare"
    """A step before the job, such as installing the script's requirements."""
    STORAGE = "storage"
    """What keeps checkpoints and results elsewhere, beside the job and after it."""


class Phase(enum.StrEnum):
    """Where a host's life cycle stands; the order of the members is the order of life."""

    PREPARING = "preparing"
    JOINING = "joining"
    RUNNING = "running"
    RESTARTING = "restarting"
    """Something of the job is started anew here, and the rest goes on; see ``restarting.py``."""
    DRAINING = "draining"
    KILLING = "killing"
    PUBLISHING = "publishing"
    DONE = "done"


class Rung(enum.IntEnum):
    """Where draining stands; see ``ladder.py``."""

    HOLD = 0
    SCRIPTS = 1
    GROUPS = 2
    SERVERS = 3


class Life(enum.StrEnum):
    """Where one process stands."""

    PLANNED = "planned"
    ALIVE = "alive"
    """From the moment its start was ordered: a signal must not miss it."""
    ENDED = "ended"
    LEFT = "left"
    """Not gone after SIGKILL: uninterruptible, reported and left."""


OOM_RAISE = 500
"""Thousandths of the memory that there is, by which a process counts as larger than it is when the
kernel runs out of it and chooses whom to kill (proc_pid_oom_score_adj(5)). Half of it is more than
a supervisor, which must live to say what happened, in any container that a training fits into."""
OOM_RAISE_OF_HELPERS = 250
"""For what works beside the script and is not what the memory is needed for: after the script's
processes, before the supervisor."""


def signal_name(signum: int) -> str:
    """``SIGTERM`` for 15, ``SIGRTMIN+3`` and the bare number for what has no name."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        low = int(getattr(signal, "SIGRTMIN", 0))
        return f"SIGRTMIN+{signum - low}" if low and signum > low else f"signal {signum}"


def place(address: str, port: int | str) -> str:
    """As people and URLs write it: an IPv6 address stands in brackets (RFC 3986, 3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: exactly one of ``code`` (0 to 255) and ``signum`` is set."""

    code: int | None = None
    signum: int | None = None
    core_dumped: bool = False

    def __post_init__(self) -> None:
        if (self.code is None) == (self.signum is None):
            raise ValueError("an exit status has either a code or a signal")

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def shell_code(self) -> int:
        """The code as it is, or ``128 + N`` for a death by signal N (POSIX shells' rule)."""
        if self.code is not None:
            return self.code
        assert self.signum is not None  # held by __post_init__
        return 128 + self.signum

    def __str__(self) -> str:
        if self.code is not None:
            return f"exit {self.code}"
        assert self.signum is not None
        return f"killed by {signal_name(self.signum)}" + (
            " (core dumped)" if self.core_dumped else ""
        )


@dataclass(frozen=True, slots=True)
class Respite:
    """What the descendants of a dead leader have until SIGKILL."""

    seconds: float
    """From the leader's end. Infinite: as long as the one who asked the leader to stop waits."""
    signum: int = signal.SIGTERM
    """How they are asked."""
    asked: bool = False
    """The leader had been asked to stop: they may be what it stood for, and save."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process of the plan, ready to be executed as it stands.

    ``argv`` goes to exec unchanged, no shell anywhere; ``env`` is the child's whole
    environment; ``argv[0]`` is looked up in ``env["PATH"]`` when it has no slash.
    """

    name: str
    """Unique on its host; also the stem of its log files."""
    role: Role
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    stop_signal: int = signal.SIGTERM
    essential: bool = False
    """A server: it must outlive the script, and its end while the job runs fails the job."""
    oom_raise: int = OOM_RAISE
    """Added to our own ``oom_score_adj``."""


class CauseKind(enum.StrEnum):
    """Why a run ended. Proven, never guessed."""

    FINISHED = "finished"
    """The deciding script exited 0."""
    SCRIPT_FAILED = "script_failed"
    """A script exited non-zero or died of a signal that was not ours."""
    START_FAILED = "start_failed"
    """A process could not be executed (126) or found (127)."""
    ESSENTIAL_DIED = "essential_died"
    """A server (a parameter server, a worker server, sshd) ended while the job ran."""
    STOP_REQUESTED = "stop_requested"
    """A stop signal: the platform, a person, a scheduler."""
    MAX_RUNTIME = "max_runtime"
    HANG = "hang"
    DIVERGED = "diverged"
    """The loss is not a number any more, and the job is to end for it."""
    PREPARE_FAILED = "prepare_failed"
    TRANSFER_FAILED = "transfer_failed"
    """What must be kept elsewhere cannot be sent there."""
    FENCED = "fenced"
    """Another run writes at the place of the checkpoints, and this one is the older."""
    JOIN_TIMEOUT = "join_timeout"
    REFUSED = "refused"
    """The master does not take this host for one of its job."""
    MASTER_LOST = "master_lost"
    """The master crashed or became unreachable: no verdict can come."""
    MASTER_ENDED = "master_ended"
    """A master without a status server closed its port: ended, verdict unknown."""
    MEMBER_LOST = "member_lost"
    """The master has not heard from a member for a lease."""
    INTERNAL = "internal"
    """A defect of the supervisor itself."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The first event that ended a run: set once, never overwritten, the same on all hosts."""

    kind: CauseKind
    host: str
    """The host it happened on."""
    message: str
    """One sentence without the host: ``RuntimeError: loss is NaN (train.py:88); exit 1 …``."""
    process: str | None = None
    """The name of the process it happened to, if it happened to one."""
    exit: ExitStatus | None = None
    """How that process ended. Of a stop: the signal that asked for it, as an end by it."""
    detail: str = ""
    """Traceback and last stderr lines of the user's script, bounded, masked."""
    at: float = 0.0
    """Wall-clock seconds since the epoch, by the clock of ``host``."""
    error: str = ""
    """What the script's own words say went wrong, and where, without what changes from one time to
    the next: ``ValueError (train.py:88)``. Empty where nothing says it."""
    attempt: int = 1
    """The attempt with which the process had been started that it happened to."""

    def __str__(self) -> str:
        who = f"{self.host} {self.process}" if self.process else self.host
        return f"{who}: {self.message}"


class Outcome(enum.StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The job's outcome as the master says it."""

    outcome: Outcome
    cause: Cause
    exit_code: int | None = None
    """The master's own exit code, known once its script has ended."""
    not_restarted: str = ""
    """Why the job was not started anew, where it is to be: one sentence."""
    restartable: bool | None = None
    """Whether starting the whole job again makes sense; None: as the cause alone says it."""


class JobState(enum.StrEnum):
    """The job as the master announces it to its members."""

    JOINING = "joining"
    RUNNING = "running"
    RESTARTING = "restarting"
    """Something of it comes down, or is down, to be started anew as another attempt."""
    STOPPING = "stopping"
    """A cause is known; the chief is being stopped, servers are still needed."""
    ENDED = "ended"
    """The verdict is final: stop everything, acknowledge, exit."""


class SuccessPolicy(enum.StrEnum):
    """Whose exit 0 makes the job a success."""

    CHIEF = "chief"
    ALL = "all"
    SHARE = "share"
    """That of a share of all scripts."""


ECHO_S: Final = 0.05
"""The same stop signal again this soon is the same wish: timeout(1) sends each to its command and
then to the group, a terminal's Ctrl-C comes again through an init that passes signals on. Taken for
a second thought it would cost the script its last checkpoint."""


class Budgets(NamedTuple):  # of so many fields a dataclass takes a millisecond of each start
    """All durations of a life cycle, in seconds; see the settings table for each."""

    prepare_s: float
    join_s: float
    max_runtime_s: float
    """0: no limit."""
    stop_grace_s: float
    end_grace_s: float
    group_s: float
    server_grace_s: float
    kill_s: float
    stop_limit_s: float
    """The platform's: from its stop signal to its SIGKILL."""
    limit_s: float
    """From the first stop signal, or the end of the job, until everything here is killed."""
    publish_s: float
    """Of the platform's limit, for transfers after a stop."""
    publish_end_s: float
    """For transfers after a job that nobody stopped."""
    ack_s: float
    lease_s: float
    straggler_s: float = 0.0
    """0: no limit."""
    evaluator_grace_s: float = 0.0
    rejoin_s: float = 0.0
    """How long a lost host is waited for, where the job may go on; 0: it ends the job."""
    record_s: float = 2.0
    """Of the platform's limit, for failure and report."""
    echo_s: float = ECHO_S
    """The same stop signal again this soon is the same wish."""


_LOST_PEER = (
    r"UnavailableError|UNAVAILABLE|AbortedError|Connection(?:Reset|Refused|Aborted)Error"
    r"|BrokenPipeError|Connection re(?:set by peer|fused)|Socket closed|Broken pipe"
    r"|failed to connect to all addresses|[Hh]eartbeat|\bRPC (?:failed|error)|GOAWAY"
)
"""What gRPC, TensorFlow's coordination service and sockets say of a peer that is gone. A text: the
spawn of the user's process does not wait for it to be compiled."""


def speaks_of_lost_peer(text: str) -> bool:
    """Whether a script's last words say that another process of the job could not be reached.

    Such a script is often the victim of a loss that will be proven a moment later.
    """
    return re.search(_LOST_PEER, text) is not None
