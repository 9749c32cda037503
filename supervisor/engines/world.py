"""What readers of variables are given: all that they know of the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from supervisor.faults import Fault, shown

STOPPED_CODE: Final = 143
"""The exit code after a stop, on platforms that take 0 for a job that is done: 128 + SIGTERM."""


class World:
    """Readers ask nothing else; what they get is what a test gives them."""

    def __init__(
        self,
        environ: Mapping[str, str],
        flags: Mapping[str, str],
        hostname: Callable[[], str],
        is_here: Callable[[str], bool],
        read: Callable[[str], str],
    ) -> None:
        """``flags`` are settings on the command line, field name → text; ``hostname`` is this
        machine's, ``is_here`` says whether an address is one of it, and ``read`` gives a small file
        of a platform, empty where it cannot be read.
        """
        self.environ = environ
        self.flags = flags
        self.hostname = hostname
        self.is_here = is_here
        self.read = read

    def setting(self, field: str) -> str:
        """A setting as text, before it is checked; empty where it is not given."""
        return self.flags.get(field) or self.environ.get(f"SUPERVISOR_{field.upper()}", "")


def fault(variable: str, value: object, expected: str) -> Fault:
    """What is wrong with a platform's variable."""
    found = "nothing" if value is None or value == "" else shown(value)
    return Fault("environment", variable, found, expected)


def number(environ: Mapping[str, str], variable: str) -> int | None:
    """A variable that is a number from 0; None where it is none."""
    return whole(environ.get(variable, ""))


def whole(text: str) -> int | None:
    """The number from 0 that a text is; None where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def evidence(environ: Mapping[str, str], *variables: str) -> str:
    """``NAME=VALUE``, of those that are set, cut where they are long."""
    return ", ".join(
        f"{name}={value if len(value) <= 60 else value[:59] + '…'}"
        for name in variables
        if (value := environ.get(name))
    )
