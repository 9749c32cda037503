"""Numbers and causes as people read them. Whatever a server or a file says is text, never markup,
and no control character of it reaches a terminal. Pure."""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

from supervisor.faults import safe

_LONGEST: Final = 2000
HEADLINES: Final = {"succeeded": "SUCCEEDED", "failed": "FAILED", "stopped": "STOPPED"}
_ENDED: Final = "; exit "
"""Where a cause's message goes on to say how the process ended; the table says it."""
_EXCERPT_LINES: Final = 8


def duration(seconds: object) -> str:
    """``3 h 12 min``, ``4 min 5 s``, ``12 s``, ``0.4 s``; nothing for what is no number."""
    seconds = number(seconds)
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: object) -> str:
    """``512 B``, ``1.5 MiB``; nothing for what is no number."""
    value = number(count)
    if value is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def number(value: object) -> float | None:
    """Whatever the server says: no truth value, no infinity, nothing beyond a float."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


def ago(seconds: object) -> str:
    text = duration(seconds)
    return f"{text} ago" if text else ""


def plain(value: object) -> str:
    """As one line without control characters, which a terminal would obey."""
    return "" if value is None else safe(str(value)[:_LONGEST])


def mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def who(cause: Mapping[str, Any]) -> str:
    """``algo-3 worker``, the host and the process of a cause."""
    return " ".join(plain(cause.get(key)) for key in ("host", "process") if cause.get(key))


def of_cause(cause: Mapping[str, Any]) -> str:
    """``algo-3 worker: KeyError: 'batch_size' (bug.py:5); exit 1``."""
    return f"{who(cause)}: {plain(cause.get('message'))}"


def short(cause: Mapping[str, Any]) -> str:
    """A cause's message without how the process ended."""
    message = plain(cause.get("message"))
    return message.partition(_ENDED)[0] or message


def headline(outcome: object, cause: Mapping[str, Any]) -> str:
    """``FAILED  algo-3 worker: KeyError: 'batch_size' (bug.py:5)``: the end of a job in a line."""
    head = HEADLINES.get(str(outcome), plain(outcome).upper())
    if not cause:
        return head
    message = plain(cause.get("message"))
    if outcome == "stopped" and message == "received SIGINT":
        return f"{head}  by Ctrl-C"
    return f"{head}  {who(cause)}: {short(cause)}"


def excerpt(cause: Mapping[str, Any]) -> list[str]:
    """The last lines of a cause's traceback, without the error itself: the headline has it."""
    message = plain(cause.get("message")).partition(_ENDED)[0]
    error = message.rpartition(" (")[0] or message
    lines = [plain(line) for line in str(cause.get("detail") or "").splitlines()]
    lines = [line for line in lines if line.strip() and not line.startswith(error[:60] or "\0")]
    return lines[-_EXCERPT_LINES:]


def stamp(epoch: float) -> str:
    """A time, seconds since the epoch, for people and in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def misplaced(words: Sequence[str], after: Sequence[str], ours: Container[str]) -> list[str]:
    """Options of ours among those of a script, unless ``--`` says that they are not ours.

    ``words`` is the whole command line of the verb, ``after`` what stands behind the script.
    """
    if "--" in words[: len(words) - len(after)]:
        return []
    own = after[: after.index("--")] if "--" in after else after
    return [word for word in own if word.partition("=")[0] in ours]
