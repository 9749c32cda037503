"""``SUPERVISOR_…`` variables that are no settings of ours: whose they are. Pure.

The name is taken by others too: supervisord sets variables in what it starts, and Kubernetes and
Docker's links put some into every container for each service, ``SUPERVISOR_PORT=tcp://10.0.0.1:80``
for one that is called supervisor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

PREFIX: Final = "SUPERVISOR_"

SUPERVISORD: Final = frozenset(
    {
        "SUPERVISOR_ENABLED",
        "SUPERVISOR_PROCESS_NAME",
        "SUPERVISOR_GROUP_NAME",
        "SUPERVISOR_SERVER_URL",
    }
)
"""http://supervisord.org/subprocess.html#subprocess-environment"""

LIKELY: Final = frozenset({"SUPERVISOR_HOST", "SUPERVISOR_PORT", "SUPERVISOR_BIN"})
"""So people call what they have to do with any supervisor: no slip, near as a setting may be."""

_URL: Final = r"(tcp|udp|sctp)://\S+:\d+"
_NUMBER: Final = r"\d{1,5}"
_ADDRESS: Final = r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]+"
_OF_SERVICES: Final = (
    # https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    (r".+_SERVICE_HOST", _ADDRESS),
    (r".+_SERVICE_PORT(_\w+)?", _NUMBER),
    # https://docs.docker.com/engine/network/links/#environment-variables, which Kubernetes follows
    (r".+_PORT", _URL),
    (r".+_PORT_\d+_(TCP|UDP|SCTP)(_START|_END)?", _URL),
    (r".+_PORT_\d+_(TCP|UDP|SCTP)_ADDR", _ADDRESS),
    (r".+_PORT_\d+_(TCP|UDP|SCTP)_PORT(_START|_END)?", _NUMBER),
    (r".+_PORT_\d+_(TCP|UDP|SCTP)_PROTO", r"tcp|udp|sctp"),
    (r".+_NAME", r"/[\w.-]+/[\w.-]+"),
)
"""Shapes of names and of their values. Compiled where one is met: start-up is a feature."""
_HINTS: Final = ("_SERVICE_HOST", "_PORT", "_NAME")


def is_of_a_service(name: str, value: str) -> bool:
    """Whether Kubernetes or Docker set it, by the shapes of its name and of its value."""
    return any(hint in name for hint in _HINTS) and any(
        re.fullmatch(names, name) and re.fullmatch(values, value) for names, values in _OF_SERVICES
    )


def nearest(name: str, known: Iterable[str]) -> tuple[str, int]:
    """The known name that is fewest letters away, and how many: put in, left out, or another."""
    at = len(PREFIX)  # all begin with it
    found = ((each, _distance(name[at:], each[at:])) for each in known)
    return min(found, key=lambda each: each[1])


def _distance(left: str, right: str) -> int:
    """Levenshtein's."""
    row = list(range(len(right) + 1))
    for at, letter in enumerate(left, 1):
        before, row[0] = row[0], at
        for place, other in enumerate(right, 1):
            before, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, before + (letter != other)),
            )
    return row[-1]
