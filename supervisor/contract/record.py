"""What a run leaves behind for people and platforms: failure, success and ``report.json``.

Writing must not change the outcome: a full disk or a missing directory is said, never raised.

The script may have put anything in the place of any of these files. Nothing is read, written or
changed through a link, and nothing waits for a FIFO; but everything here takes as long as the disk
does, so it is not for the event loop's thread.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from supervisor import regular
from supervisor.contract.paths import Paths
from supervisor.faults import safe_json

if TYPE_CHECKING:
    from supervisor.storage.job import Fetched

_WORDS_LIMIT = 64 * 1024
_MOST_FILES = 5000
_NO_JSON = frozenset({"NaN", "Infinity", "-Infinity"})
_CLOCK_S = 0.01
"""File systems stamp with the kernel's tick, which is behind the clock by up to one."""


def clear(paths: Paths) -> None:
    """Take away what an earlier run in the same place has said."""
    for path in (
        paths.failure,
        paths.success,
        paths.report,
        paths.error,
        paths.heartbeat,
        paths.progress,
        paths.fetched,
    ):
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        except OSError:
            # Mounted there (Kubernetes' terminationMessagePath), or not our directory: emptied.
            with contextlib.suppress(OSError):
                regular.overwrite(path, b"")


def write_failure(paths: Paths, text: str) -> str | None:
    """The failure file; one that the script wrote itself wins. Returns what went wrong."""
    with contextlib.suppress(OSError):
        status = os.lstat(paths.failure)
        if stat.S_ISREG(status.st_mode) and status.st_size > 0:
            return None
    return regular.write(paths.failure, text)


def tell_platform(files: Iterable[str], text: str) -> str | None:
    """Put the text into files of the platform's, where they are: ``/dev/termination-log``, which
    the kubelet has mounted and where nothing can be renamed to. What went wrong, or None."""
    for path in files:
        try:
            regular.overwrite(path, text.encode("utf-8", "backslashreplace"))
        except FileNotFoundError:
            continue
        except OSError as error:
            return regular.not_written(path, error)
    return None


def own_words(paths: Paths, mask: Callable[[str], str] = str) -> str | None:
    """Why the script failed, where it said so itself; None where it did not.

    Its failure file, whose first line counts, or its error file: JSON whose ``message`` is a text,
    or an object that has one (as torch.distributed.elastic writes it). ``mask`` takes secrets out
    of the whole text, of which one line may be told.
    """
    failure = mask(_start_of(paths.failure)).strip()
    if failure:
        return failure.splitlines()[0]
    try:
        error = json.loads(_start_of(paths.error))
        message = error["message"]
        words = str(message["message"] if isinstance(message, dict) else message)
        return mask(words).strip() or None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def heartbeat(paths: Paths) -> int | None:
    """The modification time of the heartbeat file in nanoseconds; None unless it is a regular file:
    a link, a pipe or a device says nothing about the script."""
    try:
        found = os.lstat(paths.heartbeat)
    except OSError:
        return None
    return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None


class Progress(NamedTuple):
    """How far training is, by what the script says of itself."""

    step: int
    total: int | None = None
    """The step that it ends with."""
    loss: float | None = None
    """May be NaN or infinite."""
    at: float | None = None
    """When it was so, seconds since the epoch, by the script's clock."""


def reading(paths: Paths) -> Progress | None:
    """What the progress file says; None where it says nothing.

    JSON with a ``step``, a number that is not negative, of which the whole part counts, and where
    they are known ``total``, ``loss`` and ``at``; one that is no number is as if it were not there.
    A loss that is none in JSON (RFC 8259, 6) stands as Python's `json` writes it, ``NaN`` or
    ``-Infinity``, or as the same in quotes, which is how protocol buffers write it. A file that is
    being written as it is read says nothing: the next look finds it whole.
    """
    from supervisor.training.reading import real, whole  # noqa: PLC0415  # not to start a script

    try:
        said = json.loads(_start_of(paths.progress))
        step = whole(said["step"])
        loss = said.get("loss")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if step is None:
        return None
    if isinstance(loss, str) and loss in _NO_JSON:
        loss = float(loss)
    at = real(said.get("at"))
    known = at is not None and math.isfinite(at)
    return Progress(step, whole(said.get("total")), real(loss), at if known else None)


def progress(paths: Paths) -> int | None:
    """The step alone of what the progress file says."""
    said = reading(paths)
    return None if said is None else said.step


def job(paths: Paths) -> bytes:
    """The job's document that a master before this one has left here; empty where there is none."""
    return _start_of(paths.job).encode()


def fetched(paths: Paths) -> Fetched:
    """What the step that fetches says it did; nothing where it says nothing."""
    from supervisor.storage.job import Fetched  # noqa: PLC0415  # for those that fetch

    try:
        return Fetched(**json.loads(_start_of(paths.fetched)))
    except (ValueError, TypeError, RecursionError):
        return Fetched()


def newest_checkpoint(directory: str, since: float) -> str:
    """The prefix of the TensorFlow checkpoint below ``directory`` that was written last, at
    ``since`` (seconds since the epoch) or later; empty if there is none. Looks at a bounded number
    of files.
    """
    newest, when, room = "", since - _CLOCK_S, _MOST_FILES
    for parent, _, names in os.walk(directory):
        for name in names[:room]:
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                if name.endswith(".index") and (written := os.stat(path).st_mtime) >= when:
                    newest, when = path.removesuffix(".index"), written
        room -= len(names) + 1
        if room <= 0:
            break
    return newest


def _start_of(path: str) -> str:
    try:
        return regular.read(path, _WORDS_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""


def write_success(paths: Paths) -> str | None:
    return regular.write(paths.success, "")


def write_host(paths: Paths, job: str, host: str, asked_at: Mapping[str, str]) -> str | None:
    """Who this host is and where each host of the job is asked, for ``supervisor status``."""
    document = {"version": 1, "job": job, "host": host, "status": dict(asked_at)}
    return regular.write(paths.host, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_report(paths: Paths, report: Mapping[str, object]) -> str | None:
    """``report.json``, whole or not at all."""
    text = safe_json(json.dumps(report, indent=2, ensure_ascii=False)) + "\n"
    try:
        regular.own_directory(os.path.dirname(paths.report))
    except OSError as error:
        return regular.not_written(paths.report, error)
    return regular.write(paths.report, text)
