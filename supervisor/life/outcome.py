"""From the cause to what people and platforms see: exit code, failure text, report record. Pure."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from typing import Final

from supervisor.faults import safe_lines
from supervisor.life.words import Cause, CauseKind, ExitStatus, Outcome, Verdict

EXIT_CONTRACT: Final = 80
EXIT_PREPARING: Final = 81
EXIT_JOINING: Final = 82
EXIT_MASTER_LOST: Final = 83
EXIT_ELSEWHERE: Final = 84
EXIT_ESSENTIAL: Final = 85
EXIT_UNKILLABLE: Final = 86
EXIT_PUBLISHING: Final = 87
EXIT_HUNG: Final = 88
EXIT_FENCED: Final = 89
EXIT_INTERNAL: Final = 90
EXIT_DIVERGED: Final = 91

EXIT_CODES: Final = {
    EXIT_CONTRACT: "bad contract or settings: nothing was started",
    EXIT_PREPARING: "preparing failed",
    EXIT_JOINING: "joining failed: not every host came in time, or the master refused this one",
    EXIT_MASTER_LOST: "the master was lost",
    EXIT_ELSEWHERE: "the job failed on another host",
    EXIT_ESSENTIAL: "an essential process (a parameter server) died on this host",
    EXIT_UNKILLABLE: "a process could not be killed and was left",
    EXIT_PUBLISHING: "the job ended well, or could have, and its results could not be sent",
    EXIT_HUNG: "the script hung: no sign of life for SUPERVISOR_HANG_TIMEOUT_S",
    EXIT_FENCED: "another run writes at the place of the checkpoints: this one is the older",
    EXIT_INTERNAL: "internal error of the supervisor",
    EXIT_DIVERGED: "the loss is not a number any more, and SUPERVISOR_END_ON_NAN is set",
}
"""Our own codes. They keep clear of 64 to 78 (sysexits) and of 126 to 165 (shells)."""

_EVERYWHERE: Final = frozenset({CauseKind.JOIN_TIMEOUT, CauseKind.MASTER_LOST, CauseKind.FENCED})
"""Causes that are true of every host of a job, wherever they were seen."""

_TERMINATED: Final = ExitStatus(signum=signal.SIGTERM)

FAILURE_LIMIT: Final = 1024
"""Characters of the failure file that the platform shows."""


def outcome_of(cause: Cause) -> Outcome:
    match cause.kind:
        case CauseKind.FINISHED | CauseKind.MASTER_ENDED:
            return Outcome.SUCCEEDED
        case CauseKind.STOP_REQUESTED | CauseKind.MAX_RUNTIME:
            return Outcome.STOPPED
        case _:
            return Outcome.FAILED


def job_exit_code(cause: Cause, chief: ExitStatus | None) -> int:
    """The exit code of the job: that of the host where it ended first.

    A job that was stopped has the chief's: 0 where the chief saved and left with 0. ``chief`` is
    how the master's script ended. Where it never ran nobody answered the stop, and the job has
    trained nothing: 128 + N, as if the signal had ended it.
    """
    match outcome_of(cause):
        case Outcome.SUCCEEDED:
            return 0
        case Outcome.STOPPED:
            return (chief or cause.exit or _TERMINATED).shell_code
        case Outcome.FAILED:
            return _failure_code(cause)


def _failure_code(cause: Cause) -> int:
    match cause.kind:
        case CauseKind.SCRIPT_FAILED | CauseKind.START_FAILED if cause.exit is not None:
            return cause.exit.shell_code
        case CauseKind.ESSENTIAL_DIED:
            return EXIT_ESSENTIAL
        case CauseKind.PREPARE_FAILED:
            return EXIT_PREPARING
        case CauseKind.TRANSFER_FAILED:
            return EXIT_PUBLISHING
        case CauseKind.JOIN_TIMEOUT | CauseKind.REFUSED:
            return EXIT_JOINING
        case CauseKind.MASTER_LOST:
            return EXIT_MASTER_LOST
        case CauseKind.HANG:
            return EXIT_HUNG
        case CauseKind.FENCED:
            return EXIT_FENCED
        case CauseKind.DIVERGED:
            return EXIT_DIVERGED
        case CauseKind.INTERNAL:
            return EXIT_INTERNAL
        case _:
            return EXIT_ELSEWHERE


def host_exit_code(
    host: str,
    verdict: Verdict,
    script: ExitStatus | None,
    *,
    left: bool,
    publish_error: str | None,
    fenced: bool = False,
    stopped_code: int = 0,
    restartable_code: int | None = None,
) -> int:
    """The exit code of this host's supervisor.

    ``script`` is how its own script ended; ``left`` that a process of it could not be killed;
    ``fenced`` that what could not be sent was refused for another run.
    ``stopped_code`` stands for 0 after a stop that was asked for: a scheduler takes 0 for a job
    that is done, and it was preempted. ``restartable_code`` stands, on every host, for the code of
    a failure after which starting the whole job again makes sense.
    """
    if left:
        return EXIT_UNKILLABLE
    cause = verdict.cause
    unsent = EXIT_FENCED if fenced else EXIT_PUBLISHING
    match verdict.outcome:
        case Outcome.SUCCEEDED:
            return unsent if publish_error else 0
        case Outcome.STOPPED:
            # A member's worker that only our signal ended says nothing; the chief's exit does.
            code = verdict.exit_code
            code = code if code is not None else job_exit_code(cause, script)
            if code == 0 and publish_error:
                return unsent
            asked = cause.kind is CauseKind.STOP_REQUESTED
            return stopped_code if code == 0 and asked else code
        case Outcome.FAILED:
            if restartable_code is not None and is_restartable(verdict):
                return restartable_code
            everywhere = cause.kind in _EVERYWHERE
            if cause.host == host or everywhere:
                return _failure_code(cause)
            return EXIT_ELSEWHERE


def is_restartable(verdict: Verdict) -> bool:
    """As the master has judged, or else as the cause alone says it."""
    if verdict.restartable is not None:
        return verdict.restartable
    from supervisor.life.attempts import restartable  # noqa: PLC0415  # where it is asked for

    return restartable(verdict.cause)


def failure_text(
    host: str,
    verdict: Verdict,
    ends: Iterable[str] = (),
    *,
    mask: Callable[[str], str] = str,
) -> str:
    """What goes into the failure file: at most 1024 characters, those that count first.

    ``ends`` are sentences about how processes of this host ended that the cause does not speak of.
    ``mask`` takes secrets out; that comes before the cut, which would leave the rest of one.
    """
    cause = verdict.cause
    if verdict.outcome is Outcome.STOPPED:
        head = f"stopped: {cause}"
    elif cause.host == host:
        head = str(cause)
    else:
        who = f"{cause.host} {cause.process}" if cause.process else cause.host
        head = f"stopped because {who} failed: {cause.message}"
    refused = f"not restarted: {verdict.not_restarted}" if verdict.not_restarted else ""
    return cut(mask("\n".join(filter(None, (head, refused, *ends, cause.detail)))))


def cut(text: str) -> str:
    """As much of a text as the platform shows, safe to be shown on a terminal."""
    return safe_lines(text)[:FAILURE_LIMIT].rstrip()
