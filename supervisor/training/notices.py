"""What a script says of itself at ``NOTIFY_SOCKET``, in systemd's words: sd_notify(3). Pure.

A datagram is lines of ``NAME=VALUE``. Of several of one name the first counts, and names that are
not known here are passed over, as the protocol wants it: ``MAINPID``, ``FDSTORE``, ``ERRNO``, …
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from supervisor.training.reading import Origin, Reading, Unit

MOST_BYTES: Final = 4096
"""Of a datagram (systemd's NOTIFY_BUFFER_MAX); a greater one says nothing."""
IMPORTED: Final = "X_SUPERVISOR_IMPORTED"
"""Our own, which ``programs/injected/sitecustomize.py`` sends."""
_EXTEND: Final = "EXTEND_TIMEOUT_USEC"
_USEC: Final = re.compile(r"[0-9]{1,20}")


class Notice(NamedTuple):
    """What one datagram says."""

    ready: bool = False
    """It has started: ``READY=1``."""
    stopping: bool = False
    """It is about to end: ``STOPPING=1``."""
    status: str | None = None
    """For people, as it came: may hold a secret, or what a terminal obeys. Empty: it takes the last
    one back."""
    watchdog: bool = False
    """It is alive: ``WATCHDOG=1``."""
    watchdog_trigger: bool = False
    """It is not, and is to be dealt with as if it had hung: ``WATCHDOG=trigger``."""
    extend_s: float | None = None
    """It will say more within so many seconds, and its time is not to be over before."""
    imported: bool = False
    """TensorFlow is imported there."""


NOTHING: Final = Notice()


def parse(datagram: bytes) -> Notice:
    """`NOTHING` where it says nothing that is known here, or is none: with a NUL in it, but for one
    at its end (as systemd has it), or too large."""
    data = datagram.removesuffix(b"\0")
    if len(data) > MOST_BYTES or b"\0" in data:
        return NOTHING
    said: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        name, equals, value = line.partition("=")
        if equals:
            said.setdefault(name, value.removesuffix("\r"))
    extend = said.get(_EXTEND, "")
    return Notice(
        ready=said.get("READY") == "1",
        stopping=said.get("STOPPING") == "1",
        status=said.get("STATUS"),
        watchdog=said.get("WATCHDOG") == "1",
        watchdog_trigger=said.get("WATCHDOG") == "trigger",
        extend_s=int(extend) / 1e6 if _USEC.fullmatch(extend) else None,
        imported=said.get(IMPORTED) == "1",
    )


def reading(notice: Notice, at: float) -> Reading | None:
    """How far training is by its status, ``step 120/1000 loss 0.35``, at a time in seconds since
    the epoch; None where that says no step. An epoch counts as it is said: nothing comes before."""
    from supervisor.training import lines  # noqa: PLC0415  # their patterns, for those who say one
    from supervisor.training.words import Found, Words  # noqa: PLC0415

    if not notice.status:
        return None
    found = Words().read(notice.status + "\n").found
    if found is None:
        said = lines.said_by(notice.status)
        if said is None or said.epoch is None:
            return None
        found = Found(Unit.EPOCH, said.epoch, said.epochs, said.loss)
    return Reading(Origin.NOTICE, found.unit, found.step, at, found.total, found.loss)
