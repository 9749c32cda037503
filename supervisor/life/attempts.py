"""Whether a job that failed is started anew, and how much of it. Pure: a table and one decision.

``scope_of`` says which processes start anew when one of them has ended; ``decide`` whether they do.
Budgets are by kind of end and are refilled by progress: a job that advances may be killed for ever,
one that does not ends soon. What happened before, the history, is a tuple of ``Past``.
"""

from __future__ import annotations

import enum
import re
import signal
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from supervisor.faults import counted
from supervisor.life.words import (
    STOP_SIGNALS,
    Cause,
    CauseKind,
    ExitStatus,
    Role,
    speaks_of_lost_peer,
)

WINDOW_S: Final = 3600.0
"""What was preempted is started anew without limit for so long after the last progress."""
VICTIM_S: Final = 10.0
"""A failure that speaks of a lost peer so soon after a restart is taken for its consequence."""
_LONGEST_PAUSE_S: Final = 60.0
MOST_NAMED: Final = 256
"""Processes that an order names; of more the whole job starts anew …"""
MOST_LETTERS: Final = 12_000
"""… and where their names are so long together."""
EVERY: Final = "*"
"""In the place of a process: all of that host, which was lost with them."""


class Scope(enum.StrEnum):
    """What starts anew."""

    ALONE = "alone"
    """The process that ended, beside all others."""
    CHIEF = "chief"
    """The chief and the parameter servers, which hold its variables; workers stay."""
    ALL = "all"
    """Every process of every host but the evaluator's."""

    @property
    def width(self) -> int:
        return list(Scope).index(self)


PS, MWMS, MPI, NONE = "ps", "mwms", "mpi", "none"
"""The strategies, as ``contract.distribution`` names them."""


class Part(enum.StrEnum):
    """What ended, in the strategy's own terms."""

    WORKER = "a worker, script or server"
    CHIEF = "the chief"
    SERVER = "a parameter server"
    RANK = "a rank, the launcher, an sshd"
    SCRIPT = "a host's script"
    EVALUATOR = "the evaluator"


SCOPES: Final[Mapping[tuple[str, Part], tuple[Scope, str]]] = MappingProxyType(
    {
        (PS, Part.WORKER): (Scope.ALONE, "the coordinator takes it back, no step is lost"),
        # A new chief makes its variables anew and the old ones stay on a parameter server that
        # lives on: 743 → 780 MB over five chiefs of a tiny model. Servers start in 0.5 s while the
        # chief imports TensorFlow for four: it costs nothing.
        (PS, Part.CHIEF): (Scope.CHIEF, "it goes on from the last checkpoint; servers start empty"),
        (PS, Part.SERVER): (Scope.CHIEF, "its variables are gone, and without them the chief ends"),
        (MWMS, Part.WORKER): (Scope.ALL, "collectives do not go on without one of them"),
        (MPI, Part.RANK): (Scope.ALL, "mpirun ends all ranks; with the sshds they are surely gone"),
        (NONE, Part.SCRIPT): (Scope.ALONE, "each host is a job of its own"),
        (PS, Part.EVALUATOR): (Scope.ALONE, "nobody waits for it"),
        (MWMS, Part.EVALUATOR): (Scope.ALONE, "nobody waits for it"),
    }
)
"""Strategy and what ended → what starts anew, and why. The guide shows it."""


def part_of(strategy: str, process: str | None, *, evaluator: bool) -> Part:
    """What ended. ``process`` is the name of a process, which is its role's."""
    if evaluator:
        return Part.EVALUATOR
    if strategy == PS:
        if process == Role.PS:
            return Part.SERVER
        return Part.CHIEF if process in {Role.CHIEF, Role.MASTER} else Part.WORKER
    return {MWMS: Part.WORKER, MPI: Part.RANK}.get(strategy, Part.SCRIPT)


def scope_of(strategy: str, process: str | None, *, evaluator: bool) -> Scope:
    """What starts anew when that process has ended; see ``SCOPES``.

    An evaluator starts alone whatever the strategy: a platform's TF_CONFIG may name one beside
    hosts that run their scripts alone.
    """
    part = part_of(strategy, process, evaluator=evaluator)
    return Scope.ALONE if part is Part.EVALUATOR else SCOPES[strategy, part][0]


def scope_of_host(strategy: str, *, evaluator: bool, master: bool, server: bool) -> Scope:
    """What starts anew when a host is lost with all that ran there.

    ``master``: its script is the chief's. ``server``: a parameter server was on it.
    """
    process = Role.PS if server else Role.CHIEF if master else Role.WORKER
    return scope_of(strategy, process, evaluator=evaluator)


class Rules(NamedTuple):
    """What the user says of ends: exit codes, and patterns in the sentence or the last words."""

    restart_codes: frozenset[int] = frozenset()
    restart_patterns: tuple[str, ...] = ()
    stop_codes: frozenset[int] = frozenset()
    stop_patterns: tuple[str, ...] = ()


class Policy(NamedTuple):
    """What a job may do about failures."""

    restarts: int = 0
    """Without progress between; 0: nothing is ever started anew."""
    rules: Rules = Rules()
    deadline: float = 0.0
    """When the platform ends the job, seconds since the epoch; 0: not known."""
    needed_s: float = 0.0
    """An attempt that would have less than this until then is not begun."""


class Kind(enum.StrEnum):
    """What sort of end it was."""

    PREEMPTED = "preempted"
    CRASH = "crash"
    HANG = "hang"
    STARTUP = "start-up"
    LOST = "lost host"
    VICTIM = "victim"
    CERTAIN = "certain"
    STOP_RULE = "rule"


NEVER: Final = "none"
"""The budget of what is not started anew."""


class Row(NamedTuple):
    """A row of the table of kinds, as the guide shows it."""

    means: str
    budget: str
    charged: bool


KINDS: Final[Mapping[Kind, Row]] = MappingProxyType(
    {
        Kind.STOP_RULE: Row(
            "an exit code or a pattern of `SUPERVISOR_RESTART_RULES` that means stop", NEVER, True
        ),
        Kind.PREEMPTED: Row(
            "exit 42 or 143, or a stop signal that was not ours: somebody else stopped it",
            f"unlimited for {WINDOW_S / 3600:g} h after the last progress",
            False,
        ),
        Kind.LOST: Row(
            "a host was lost, with all that ran there; it is waited for "
            "(`SUPERVISOR_REJOIN_TIMEOUT_S`)",
            f"unlimited for {WINDOW_S / 3600:g} h after the last progress",
            False,
        ),
        Kind.CERTAIN: Row(
            "126, 127, a syntax or import error, a wrong argument (argparse), "
            "a parameter server that refuses its TF_CONFIG: it would fail again",
            NEVER,
            True,
        ),
        Kind.VICTIM: Row(
            f"it speaks of a lost peer, at most {VICTIM_S:g} s after a restart",
            "once a process for each restart",
            False,
        ),
        Kind.HANG: Row("no sign of life for `SUPERVISOR_HANG_TIMEOUT_S`", "N", True),
        Kind.STARTUP: Row("it ended by itself, and no attempt has made progress", "1", True),
        Kind.CRASH: Row("anything else, SIGKILL from outside among it", "N", True),
    }
)
"""The first that fits holds; N is ``SUPERVISOR_RESTARTS``, counted without progress between."""

RESTARTED: Final = frozenset(
    {
        CauseKind.SCRIPT_FAILED,
        CauseKind.START_FAILED,
        CauseKind.ESSENTIAL_DIED,
        CauseKind.HANG,
    }
)
"""Causes after which something can be started anew in place …"""
LOST: Final = frozenset({CauseKind.MEMBER_LOST, CauseKind.MASTER_LOST})
"""… and those after which it can where the host comes back; all others end the job."""

RESTART_CODES: Final = frozenset({42, 143})
"""With these TensorFlow's PreemptionCheckpointHandler asks to be started again: 42 by default, 143
on one cloud (failure_handling.py, ``_RESTARTABLE_EXIT_CODE``). 143 is also what a shell says for
SIGTERM."""
SELF_MADE: Final = frozenset(
    {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
)
"""Signals by which a program dies of itself: what it said last may say why."""
_CANNOT_START: Final = frozenset({126, 127})
_REFUSED_TF_CONFIG: Final = 80
"""`outcome.EXIT_CONTRACT`, of a server of ours."""
USAGE_ERROR: Final = "usage error"
"""``Cause.error`` of a script that argparse has ended."""
_CERTAIN_ERRORS: Final = frozenset(
    {
        "SyntaxError",
        "IndentationError",
        "TabError",
        "ImportError",
        "ModuleNotFoundError",
        USAGE_ERROR,
    }
)


class Past(NamedTuple):
    """How an attempt ended after which there was another."""

    attempt: int
    kind: Kind
    scope: Scope
    cause: Cause
    progressed: bool
    """Training had moved since the end before."""

    @property
    def line(self) -> str:
        return line_of(self.cause, self.scope)


class Restart(NamedTuple):
    """Start it anew."""

    kind: Kind
    scope: Scope
    after_s: float


class Refused(NamedTuple):
    """The end; ``reason`` says why it is not started anew."""

    kind: Kind
    reason: str
    restartable: bool
    """Whether starting the whole job again makes sense, on other machines perhaps."""


def line_of(cause: Cause, scope: Scope) -> str:
    """Whose budget it is: that of the process which starts anew alone, or the job's."""
    return f"{cause.host} {cause.process or EVERY}" if scope is Scope.ALONE else "job"


def kind_of(cause: Cause, past: tuple[Past, ...], policy: Policy, *, progressed: bool) -> Kind:
    """The first row of ``KINDS`` that fits."""
    rules, status = policy.rules, cause.exit or ExitStatus(code=1)
    code, signum = status.code, status.signum
    if _matches(cause, rules.stop_codes, rules.stop_patterns):
        return Kind.STOP_RULE
    if cause.kind in LOST:
        return Kind.LOST
    asked_for = _matches(cause, rules.restart_codes, rules.restart_patterns)
    if cause.kind is CauseKind.HANG:
        return Kind.HANG
    stopped = code in RESTART_CODES or signum in STOP_SIGNALS
    if stopped and cause.kind is not CauseKind.START_FAILED:
        return Kind.PREEMPTED
    if not asked_for and _certain(cause, code):
        return Kind.CERTAIN
    if _is_victim(cause, past):
        return Kind.VICTIM
    itself = code is not None or signum in SELF_MADE
    if itself and not asked_for and not progressed and not any(each.progressed for each in past):
        return Kind.STARTUP
    return Kind.CRASH


def decide(
    cause: Cause,
    past: tuple[Past, ...],
    policy: Policy,
    scope: Scope,
    *,
    progressed: bool,
    now: float = 0.0,
) -> Restart | Refused:
    """Whether what failed is started anew.

    Args:
        cause: how it failed.
        past: how earlier attempts ended, the oldest first.
        policy: the job's.
        scope: what would be started anew.
        progressed: training has moved since the last end.
        now: seconds since the epoch.

    """
    kind = kind_of(cause, past, policy, progressed=progressed)
    chain = () if progressed else tuple(_since_progress(past, line_of(cause, scope)))
    if not policy.restarts:
        return Refused(kind, "SUPERVISOR_RESTARTS is 0", restartable=restartable(cause))
    if kind is Kind.STOP_RULE:
        return Refused(kind, "SUPERVISOR_RESTART_RULES says stop", restartable=False)
    if kind is Kind.CERTAIN:
        what = cause.error or str(cause.exit or "it")
        return Refused(kind, f"{what} would happen again", restartable=False)
    asked_for = _matches(cause, policy.rules.restart_codes, policy.rules.restart_patterns)
    if KINDS[kind].charged and not asked_for and _same_again(cause, chain):
        reason = f"the same error twice, no progress between ({_where(cause)})"
        return Refused(kind, reason, restartable=False)
    # After what makes no sense anywhere: this leaves it to the next job.
    left_s = policy.deadline - now
    if policy.deadline and left_s < policy.needed_s:
        reason = (
            f"the platform ends the job in {max(0.0, left_s):.0f} s, less than an attempt needs"
        )
        return Refused(kind, reason, restartable=True)
    if kind in {Kind.PREEMPTED, Kind.LOST}:
        if past and not progressed and cause.at - _last_progress(past) > WINDOW_S:
            return Refused(kind, f"no progress for {WINDOW_S / 3600:g} h", restartable=True)
    elif KINDS[kind].charged:
        most = min(1, policy.restarts) if kind is Kind.STARTUP else policy.restarts
        used = sum(KINDS[each.kind].charged for each in chain)
        if used >= most:
            done = counted(used, "restart")
            how = f"{done} without progress"
            if kind is Kind.STARTUP:
                how = f"{done}, and no attempt has made progress"
            return Refused(kind, f"{how} (SUPERVISOR_RESTARTS={policy.restarts})", restartable=True)
    return Restart(kind, _wide_enough(scope, past), _pause_s(cause, chain))


def _wide_enough(scope: Scope, past: tuple[Past, ...]) -> Scope:
    """Workers of a parameter-server cluster outlive one chief, and start anew with the next. The
    input pipeline that each had on them stays there: with a shuffle buffer of 300 MB they held 891,
    1,183, 1,475, 1,766 MB, of which TensorFlow gave back not half a buffer in ten minutes. And with
    a worker that hinders it a chief would come no further however often it starts."""
    last = next((each.scope for each in reversed(past) if each.scope is not Scope.ALONE), None)
    return Scope.ALL if scope is last is Scope.CHIEF else scope


def _pause_s(cause: Cause, chain: tuple[Past, ...]) -> float:
    """None for the first restart after progress; then 1, 2, 4 … s from end to start, less the time
    that the attempt has run: what comes up, works for a while and dies is no hot loop, and to wait
    would only lose steps."""
    if not chain:
        return 0.0
    wanted_s = min(_LONGEST_PAUSE_S, 2.0 ** min(len(chain) - 1, 10))  # 2.0 ** 1024 overflows
    ran_s = max(0.0, cause.at - chain[0].cause.at)  # clocks of two hosts may be
    return max(0.0, wanted_s - ran_s)


def restartable(cause: Cause) -> bool:
    """Whether starting a job again makes sense that ended so, as far as the cause alone says it."""
    match cause.kind:
        case CauseKind.FINISHED | CauseKind.MASTER_ENDED:
            return False
        case CauseKind.PREPARE_FAILED | CauseKind.REFUSED:
            return False
        case CauseKind.DIVERGED:
            return False  # from the same checkpoint it would diverge again
        case CauseKind.FENCED:
            return False  # the other run would be the older one then, and so on in turns
        case kind if kind in RESTARTED:
            return not _certain(cause, cause.exit.code if cause.exit else None)
        case _:
            return True


def _since_progress(past: tuple[Past, ...], line: str) -> Iterator[Past]:
    """The ends of a line whose restarts have brought no progress yet, the newest first."""
    for each in reversed(past):
        if each.line == line:
            yield each
        if each.progressed:  # what was before has had its budget given back
            return


def _last_progress(past: tuple[Past, ...]) -> float:
    """At the latest; where there was none, since the first end."""
    return max((each.cause.at for each in past if each.progressed), default=past[0].cause.at)


def _same_again(cause: Cause, chain: tuple[Past, ...]) -> bool:
    before = next((each.cause.error for each in chain if KINDS[each.kind].charged), "")
    return bool(cause.error) and before == cause.error


def _where(cause: Cause) -> str:
    place = re.search(r"\(([^()]*)\)$", cause.error)
    return place[1] if place else cause.error


def _certain(cause: Cause, code: int | None) -> bool:
    if cause.kind is CauseKind.START_FAILED or code in _CANNOT_START:
        return True
    if cause.kind is CauseKind.ESSENTIAL_DIED:
        return code == _REFUSED_TF_CONFIG
    return cause.error.partition(" (")[0] in _CERTAIN_ERRORS


def _is_victim(cause: Cause, past: tuple[Past, ...]) -> bool:
    """Bounded: a process is a victim of a restart once."""
    if not speaks_of_lost_peer(f"{cause.message}\n{cause.detail}"):
        return False
    who = (cause.host, cause.process)
    for each in reversed(past):
        if each.kind is not Kind.VICTIM:
            return 0 <= cause.at - each.cause.at <= VICTIM_S
        if (each.cause.host, each.cause.process) == who:
            return False
    return False


def _matches(cause: Cause, codes: frozenset[int], patterns: tuple[str, ...]) -> bool:
    status = cause.exit
    if status is not None and status.shell_code in codes:
        return True
    text = f"{cause.message}\n{cause.detail}"
    return any(re.search(pattern, text) for pattern in patterns)


# --------------------------------------------------------------------------- what is ordered


class Order(NamedTuple):
    """What starts anew, as the master says it and each host reads it."""

    turn: int
    """Counts up with every order, and with every one that is made wider: what a host says is ready
    is ready for a turn."""
    attempt: int
    """The number of the attempt that begins by it."""
    scope: Scope
    named: tuple[tuple[str, str], ...] = ()
    """Host and process of those that have ended, which start anew whatever the scope."""
    cause: Cause | None = None
    """Why."""
    agreed: bool = False
    """Every host restores, and the master says from which checkpoint before they are ready."""
    world: tuple[int, ...] = ()
    """The hosts that train, in the order of their ranks, by their numbers in the cluster; empty:
    those of the plan. See ``world.py``."""

    def concerns(self, host: str, process: str, *, evaluator: bool) -> bool:
        """Whether a process of a host starts anew by it; steps never do."""
        if (host, process) in self.named or (host, EVERY) in self.named:
            return True
        if evaluator or self.scope is Scope.ALONE:
            return False
        return self.scope is Scope.ALL or process in {Role.PS, Role.CHIEF, Role.MASTER}

    def widened(self, scope: Scope, host: str, process: str) -> Order:
        """The same attempt, and one more process that ended while it was being prepared; `EVERY`:
        all of that host."""
        named = tuple(each for each in self.named if process != EVERY or each[0] != host)
        if not {(host, process), (host, EVERY)}.intersection(named):
            named = (*named, (host, process))
        wider = max(self.scope, scope, key=lambda each: each.width)
        return self._replace(turn=self.turn + 1, scope=wider, named=named).bounded()

    def bounded(self) -> Order:
        """As it fits into a document: all start anew where those that do are too many to be
        named."""
        letters = sum(len(host) + len(process) for host, process in self.named)
        if len(self.named) <= MOST_NAMED and letters <= MOST_LETTERS:
            return self
        # The evaluator is no part of all, and there is one at most.
        evaluators = tuple(each for each in self.named if each[1] == Role.EVALUATOR)
        return self._replace(scope=Scope.ALL, named=evaluators)
