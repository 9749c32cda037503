"""What can happen to a host (events) and what it can do about it (actions), as frozen data.

The reducer of ``lifecycle.py`` turns one into the other; ``host/`` observes the first and
performs the second. An event tells a fact and carries no opinion; the time of an event, where it
matters, is a value in it, because the reducer knows no clock.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from supervisor.life.frozen import Frozen
from supervisor.life.words import Cause, ExitStatus, JobState, Phase, Verdict

if TYPE_CHECKING:  # for jobs that go on after a failure
    from supervisor.life.attempts import Order, Past, Scope


class Deadline(enum.StrEnum):
    """The timers of a life cycle, named. Each is armed by the reducer and expires as an event."""

    PREPARE = "prepare"
    """The steps before the barrier, such as installing requirements."""
    JOIN = "join"
    """The barrier: every host must have joined."""
    SETTLE = "settle"
    """A script failed and speaks of a lost peer; the peer's own loss may be proven meanwhile."""
    STRAGGLER = "straggler"
    """The chief is done; the scripts that the success policy still waits for have this long."""
    RUNTIME = "runtime"
    """``SUPERVISOR_MAX_RUNTIME_S``."""
    DECISION = "decision"
    """On a member: its failure is told, and the master's word on what starts anew is awaited."""
    BACKOFF = "backoff"
    """On the master: the pause before another attempt; on a member: before a checkpoint that could
    not be restored is tried once more."""
    RESTART = "restart"
    """All that starts anew must be down and ready, on every host that it concerns."""
    REJOIN = "rejoin"
    """A lost host must have come back; on a member: the master must."""
    HOLD = "hold"
    """A member keeps its servers for the chief's last checkpoint; the master's word may be lost.
    Also the evaluator's share for its last evaluation."""
    GRACE = "grace"
    """The leader's share after its stop signal."""
    GROUP = "group"
    """The process group's share after its stop signal; SIGKILL follows."""
    KILL = "kill"
    """After SIGKILL: what is not gone now is in uninterruptible sleep, reported and left."""
    ACK = "ack"
    """The master waits for its members to be down; a member that was told to stop for its word."""
    LATE = "late"
    """The job failed before every host had come; those that are just starting are told as well."""
    PUBLISH = "publish"
    LIMIT = "limit"
    """The platform's SIGKILL is near: whatever is left is killed and the record written."""


# --------------------------------------------------------------------------- events


class Prepared(Frozen):
    """The supervisor is ready; what is left before the barrier are the steps of the plan."""


class Replanned(Frozen):
    """What was fetched calls for further steps: the code is here, and its requirements."""

    steps: tuple[str, ...]
    holds: str | None = None
    """What the checkpoint directory holds now, see ``agreement.Held``; None: what it held."""


class TransferFailed(Frozen):
    """A transfer without which the job is not to go on cannot be done."""

    message: str
    at: float
    fenced: bool = False
    """Another run writes at the place of the checkpoints, and this one is the older."""


class PrepareFailed(Frozen):
    message: str
    at: float


class Started(Frozen):
    process: str
    pid: int


class StartFailed(Frozen):
    """exec failed. ``code`` is 127 when the program was not found, 126 when it could not run."""

    process: str
    code: int
    message: str
    at: float


class Exited(Frozen):
    """A process is gone: its tree swept, its status reaped, its pipes drained.

    ``message`` and ``detail`` are what its last words say (``children/attribution.py``); ``left``
    are the pids of its tree that survived SIGKILL (uninterruptible sleep).
    """

    process: str
    status: ExitStatus
    at: float
    message: str = ""
    detail: str = ""
    left: tuple[int, ...] = ()
    error: str = ""
    """See ``Cause.error``."""
    progressed: bool = False
    """Training has moved here since the attempt began; looked at where it matters."""


class Signalled(Frozen):
    """A signal reached the supervisor."""

    signum: int
    at: float
    everywhere: bool = False
    """Whoever sent it sent it to every process of the host: those that run have had it."""


class Hung(Frozen):
    """A script has shown no sign of life for ``idle_s``; its stacks have been asked for."""

    process: str
    idle_s: float
    at: float
    detail: str = ""
    """The end of its output, stacks included."""
    lacking: str = ""
    """What it had shown before, where that alone counted: ``no step after step 50 (output)``."""
    progressed: bool = False
    """As of ``Exited``."""


class Diverged(Frozen):
    """The loss that a script tells is not a number any more, and the job is to end for it."""

    process: str
    message: str
    at: float


class MoreTime(Frozen):
    """A script asks that its time is not over for ``seconds`` from now."""

    process: str
    seconds: float
    at: float


class Readied(Frozen):
    """What starts anew here is down, and all is made ready for its start by an order."""

    turn: int
    generation: str = ""
    """The newest checkpoint that others can have; empty: there is none, or nobody asks."""


class NotReady(Frozen):
    """It cannot be made ready."""

    turn: int
    reason: str


class Expired(Frozen):
    deadline: Deadline
    at: float


class EarlierLife(Frozen):
    """How far the job had come under the master that was there before this one was started anew."""

    attempt: int
    turn: int
    """Of the last order that was heard."""
    past: tuple[Past, ...] = ()
    world: tuple[int, ...] = ()
    """Of the last order that was heard."""
    run: str = ""
    """Of the job, as its hosts know it."""


class MemberReported(Frozen):
    """On the master: a member said where it stands."""

    host: str
    phase: Phase
    script_ended: bool
    cause: Cause | None
    holds: str = ""
    """What its checkpoint directory holds; empty where it says nothing."""
    turn: int = 0
    """The last order of the master for which all is down and ready there; 0: none."""
    progressed: bool = False
    """Training has moved, there or here, since the attempt began; looked at with a new cause."""
    at: float = 0.0
    """Seconds since the epoch, by the master's clock."""
    earlier: EarlierLife | None = None
    """What the member knows of the job, where it has followed another master before this one."""


class MemberLost(Frozen):
    """On the master: a member that had joined has been silent for a lease, refuses, or another
    supervisor has come in its place."""

    host: str
    evidence: str
    at: float
    progressed: bool = False
    """Training has moved since the attempt began."""


class JobChanged(Frozen):
    """On a member: the master's document of the job."""

    state: JobState
    verdict: Verdict | None
    missing: tuple[str, ...] = ()
    """While joining: the hosts that have not joined yet."""
    restore: str = ""
    """While joining or restarting: the generation that every host is to hold."""
    order: Order | None = None
    """What has last been started anew, or is to be."""
    restarts: bool = False
    """Whether the master starts anew what fails, so that a failure is its to judge."""


class Waiting(Frozen):
    """While joining: which hosts are missing, and why, as far as it can be seen from here."""

    reasons: tuple[tuple[str, str], ...]
    """Host and reason: ``("algo-3", "DNS")``, ``("algo-7", "no answer on 2224")``."""


class MasterSeen(Frozen):
    """On a member: the master answers. ``bare``: only the chief's TCP port, no status server."""

    bare: bool


class MasterLost(Frozen):
    """On a member: the master had been seen and is gone without a verdict.

    ``how`` is a `liveness.How`: ``crashed`` (connections refused, several times), ``unreachable``
    (silence past the lease), ``restarted`` (another run answers), or that it refuses this host.
    ``final``: it cannot come back as this host's master.
    """

    how: str
    evidence: str
    at: float
    final: bool = True


class MasterEnded(Frozen):
    """On a member: a bare master closed its port. It ended; its verdict is unknown."""

    evidence: str
    at: float


class Published(Frozen):
    error: str | None
    fenced: bool = False
    """See ``TransferFailed``."""


class Broke(Frozen):
    """A defect of ours: a task of the supervisor raised."""

    message: str
    at: float


Event = (
    Prepared
    | PrepareFailed
    | Replanned
    | TransferFailed
    | Started
    | StartFailed
    | Exited
    | Signalled
    | Hung
    | Diverged
    | MoreTime
    | Readied
    | NotReady
    | Expired
    | MemberReported
    | MemberLost
    | JobChanged
    | Waiting
    | MasterSeen
    | MasterLost
    | MasterEnded
    | Published
    | Broke
)


# --------------------------------------------------------------------------- actions


class Start(Frozen):
    process: str


class Send(Frozen):
    """A signal to the leader alone, or to its whole group (then followed by SIGCONT)."""

    process: str
    signum: int
    whole_group: bool = False


class Had(Frozen):
    """A signal that whoever sent it has given to the leader already: it counts as sent by us."""

    process: str
    signum: int


class Suspend(Frozen):
    """SIGSTOP to every process of the tree."""

    process: str


class Resume(Frozen):
    """SIGCONT to every process of the tree."""

    process: str


class DumpStacks(Frozen):
    """Ask the Python processes of the tree where they are, before it is too late to ask."""

    process: str


class KillTree(Frozen):
    """SIGKILL to the group and to every descendant, those with a session of their own too."""

    process: str


class Arm(Frozen):
    deadline: Deadline
    seconds: float


class Extend(Frozen):
    """Let a deadline that is armed expire in ``seconds`` if that is later than it would: but
    ``reserve_s`` before ``Deadline.LIMIT`` at the latest, where that is armed, and ``most_s`` after
    the deadline itself was armed. For ``process``, which has asked for it."""

    process: str
    deadline: Deadline
    seconds: float
    reserve_s: float
    most_s: float


class Disarm(Frozen):
    deadline: Deadline


class Announce(Frozen):
    """On the master: publish a new revision of the job's document."""

    state: JobState
    verdict: Verdict | None = None
    missing: tuple[str, ...] = ()
    """While joining: the hosts that have not joined yet."""
    restore: str = ""
    """While joining or restarting: the generation that every host is to hold."""
    order: Order | None = None
    """What has last been started anew, or is to be."""
    past: tuple[Past, ...] = ()
    """How the attempts before it ended, for a master that may come after this one."""


class MakeReady(Frozen):
    """What starts anew here is down: prepare its start as this attempt; ``Readied`` follows."""

    processes: tuple[str, ...]
    turn: int
    attempt: int
    cause: Cause
    agreed: bool = False
    """Have what the script saved sent before, and say which checkpoint that is."""
    world: tuple[str, ...] = ()
    """The hosts that train from now on, in the order of their ranks; empty: those of the plan."""


class Restarted(Frozen):
    """An attempt has begun, where this host judges: to be said with how long it took."""

    attempt: int
    scope: Scope
    kind: str
    cause: Cause


class Restore(Frozen):
    """Make a step that restores this generation; ``Prepared`` has it started."""

    generation: str


class Report(Frozen):
    """On a member: tell the master where this host stands."""

    phase: Phase
    script_ended: bool
    cause: Cause | None
    holds: str = ""
    turn: int = 0
    """The last order for which all is down and ready here."""
    attempt: int = 1
    """The newest that is known here."""
    progressed: bool = False
    ordered: int = 0
    """The turn of the last order that was heard."""


class Publish(Frozen):
    """Send what is to be kept to where it is to be kept."""


class Record(Frozen):
    """Write failure, success and report."""


class Say(Frozen):
    """A line of the supervisor's own log: an event name and fields."""

    event: str
    fields: tuple[tuple[str, object], ...] = ()
    level: str = "info"


Action = (
    Start
    | Send
    | Had
    | Suspend
    | Resume
    | DumpStacks
    | KillTree
    | Arm
    | Extend
    | Disarm
    | Announce
    | MakeReady
    | Restarted
    | Restore
    | Report
    | Publish
    | Record
    | Say
)
