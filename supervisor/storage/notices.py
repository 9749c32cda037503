"""What the sync process and the supervisor say to each other: one JSON object a line. Pure.

From the process, on its stdout: how the transfers stand (``State``, now and then), a line for the
log (``Said``), that a transfer cannot be done (``Failed``), and how publishing went
(``PublishedAll``, the last). To it, on its stdin: ``PublishNow``, once. End of file there ends the
process at once: nobody is left to hear of it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final

LINE_LIMIT: Final = 64 * 1024
"""Bytes of one line; a longer one is not sent."""
MOST_NAMES: Final = 20
"""Of unsent files so many are named; all are counted."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one transfer stands."""

    name: str
    sent_files: int = 0
    sent_bytes: int = 0
    """Since the process began."""
    pending_files: int = 0
    pending_bytes: int = 0
    lag_s: float = 0.0
    """Age of the oldest change that is not sent; 0: all is sent."""
    rate_bytes_s: float = 0.0
    newest: str = ""
    """The place of the newest complete manifest, for checkpoints."""
    error: str = ""
    """Why the last attempt failed; empty after one that did not."""


@dataclass(frozen=True, slots=True)
class State:
    transfers: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """A line for the supervisor's log."""

    event: str
    level: str = "info"
    fields: tuple[tuple[str, str | int | float], ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """A transfer cannot be done for a reason that waiting does not change."""

    transfer: str
    message: str
    fenced: bool = False
    """Another run has the place: this one is over."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """What of one transfer did not make it."""

    transfer: str
    files: int
    bytes: int
    names: tuple[str, ...]
    """Relative to its directory, at most ``MOST_NAMES``."""
    reason: str


@dataclass(frozen=True, slots=True)
class PublishedAll:
    unsent: tuple[Unsent, ...]


@dataclass(frozen=True, slots=True)
class PublishNow:
    """The processes are gone: send what is left, in the order of the job, then end."""

    budget_s: float
    results: bool
    """Whether the job left results: transfers of kind RESULT are sent."""


Notice = State | Said | Failed | PublishedAll | PublishNow
_KINDS: Final[dict[str, type[Any]]] = {
    kind.__name__: kind for kind in (State, Said, Failed, PublishedAll, PublishNow)
}


def encode(notice: Notice) -> bytes:
    body = {"kind": type(notice).__name__} | dataclasses.asdict(notice)
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Notice:
    """Raises ValueError where ``line`` is none of ours."""
    try:
        body = json.loads(line)
        kind = _KINDS[body.pop("kind")]
        if kind is State:
            return State(tuple(Standing(**each) for each in body["transfers"]))
        if kind is PublishedAll:
            rows = [each | {"names": tuple(each["names"])} for each in body["unsent"]]
            return PublishedAll(tuple(Unsent(**row) for row in rows))
        if kind is Said:
            body["fields"] = tuple((str(key), value) for key, value in body["fields"])
        notice: Notice = kind(**body)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no notice: {error}") from None
    return notice
