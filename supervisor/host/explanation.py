"""Why a process ended: from its status, its last words, the kernel and its own files to one
sentence and the detail.

What the sentence is made with is loaded while the script runs: neither its start nor its end waits
for that.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from supervisor.children import execution
from supervisor.children.child import ChildEnd
from supervisor.children.ending import NAMED
from supervisor.contract import record
from supervisor.faults import safe
from supervisor.host.files import Files
from supervisor.host.present import Present
from supervisor.host.running import Running
from supervisor.life.words import ExitStatus, Role
from supervisor.streams.masking import Masker

_COMMAND_LENGTH: Final = 160
"""Characters of a command line in a message."""
_MISTAKEN: Final = frozenset({2, 126, 127})
"""Exit codes of interpreters and of env(1) that were called wrongly."""
_CLASS: Final = r"(?:\w+\.)*(\w{1,80}(?:Error|Exception)):"


class Explanation(NamedTuple):
    """Why a process ended; nothing is masked yet."""

    message: str
    """One sentence."""
    detail: str = ""
    error: str = ""
    """See ``Cause.error``."""


def load() -> None:
    """What cannot be loaded (too many open files) costs an explanation, not the job."""
    with contextlib.suppress(OSError, ImportError):
        from supervisor.children import attribution  # noqa: F401, PLC0415
        from supervisor.cluster import protocol  # noqa: F401, PLC0415
        from supervisor.linux import cgroup  # noqa: F401, PLC0415
        from supervisor.mpi import words as mpi_words  # noqa: F401, PLC0415


async def explain(
    running: Running, end: ChildEnd, *, present: Present, files: Files, masker: Masker
) -> Explanation:
    """Why ``running`` ended. Raises OSError or ImportError where what it needs cannot be loaded."""
    from supervisor.children import attribution  # noqa: PLC0415
    from supervisor.life.attempts import RESTART_CODES  # noqa: PLC0415
    from supervisor.linux import cgroup  # noqa: PLC0415
    from supervisor.mpi import words as mpi_words  # noqa: PLC0415

    paths, spec = present.plan.paths, running.spec

    async def newest_checkpoint(since: float) -> str:
        return await files.look(lambda: record.newest_checkpoint(paths.checkpoints, since), "")

    *first, stderr = running.tails(masker)
    stdout = first[0] if first else b""  # one pipe: all of it may be what an error says
    who, status, checkpoint = "", end.status, ""
    if spec.role is Role.LAUNCHER and not end.status.ok:
        words = mpi_words.read(stdout, stderr, end.status.code)
        who, stdout, stderr = words.who, words.stdout, words.stderr
        status = ExitStatus(signum=words.signum) if words.signum else status
    if running.stop_sent_at is not None and end.status.code in RESTART_CODES:
        checkpoint = await newest_checkpoint(running.stop_sent_at)
    early = not end.status.ok and end.run_s < attribution.STARTUP_S
    saved = early and await newest_checkpoint(running.started_at or 0.0)
    known = attribution.attribute_failure(
        status=status,
        run_s=end.run_s,
        stdout=stdout,
        stderr=stderr,
        memory_before=running.memory_before,
        memory_after=cgroup.read_memory_cgroup(),
        stopped_because=_stopped_because(present, spec.name),
        checkpoint=checkpoint,
        progressed=bool(saved),
    )
    if not end.status.ok and not spec.essential:
        own_words = await files.look(lambda: record.own_words(paths, masker.text), None)
        if own_words is None and status.code in _MISTAKEN:
            own_words = await files.look(lambda: execution.spoiled_by_line_end(spec), "")
        if own_words:
            message = f"{safe(own_words)[:300]}; {end.status}"
            return Explanation(message, known.detail, _error(own_words, known.error))
    message = f"{who}: {known.message}" if who else known.message
    return Explanation(message, known.detail, known.error)


def _error(own_words: str, error: str) -> str:
    """What its last words say went wrong, unless its own file speaks of another exception."""
    said = re.match(_CLASS, own_words)
    return error if said is None or error.partition(" (")[0] == said[1] else said[1]


def _stopped_because(present: Present, process: str) -> str:
    """Why we sent the process a stop signal; empty where we did not."""
    cause = present.why_down
    return str(cause) if cause and present.stopped_by_us(process) else ""


def named(processes: Iterable[tuple[int, Sequence[str]]], masker: Masker) -> str:
    """``python3 t.py (pid 12), sleep 9 (pid 13)``."""
    return ", ".join(
        f"{shlex.join(masker.argv(words))[:_COMMAND_LENGTH]} (pid {pid})"
        for pid, words in islice(processes, NAMED)
    )
