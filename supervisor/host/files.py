"""What is looked at, read or written below the base directory: a disk may not answer, and neither
the event loop nor the end of the job waits for it longer than it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from supervisor.aside import Aside
from supervisor.host.timeline import Say

LOOK_S: Final = 2.0
"""For a look at files whose answer makes a text better."""
READY_S: Final = 60.0
"""For preparing directories, and for reading the contract again."""
RECORD_LIMIT_S: Final = 10.0
"""For each of failure, success and report, while nobody counts the time: a disk that is busy with a
checkpoint takes a while."""

FILES_CLOCK: Final = 5
"""CLOCK_REALTIME_COARSE, from which files get their times: the other clock is up to 10 ms ahead."""

T = TypeVar("T")
P = ParamSpec("P")


class Files:
    """One call at a time, off the event loop: what does not come back holds one thread."""

    def __init__(self, base: str, say: Say) -> None:
        """``base`` is named where nothing answers."""
        self._base = base
        self._say = say
        self._aside = Aside("files")
        self._said_silent = False

    async def ask(
        self, limit_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``call(…)``, which may block. Raises TimeoutError after ``limit_s`` seconds."""
        return await self._aside(limit_s, call, *args, **kwargs)

    async def look(self, call: Callable[[], T], otherwise: T) -> T:
        """What ``call`` sees in the script's files; ``otherwise`` where they do not answer, which
        is said once."""
        try:
            return await self.ask(LOOK_S, call)
        except TimeoutError:
            if not self._said_silent:
                self._said_silent = True
                self._say("warning", "files.silent", text=silent(self._base, LOOK_S))
            return otherwise


def silent(place: str, seconds: float) -> str:
    """What is said of a file system that did not answer."""
    return f"the file system of {place} does not answer in {seconds:.3g} s"
