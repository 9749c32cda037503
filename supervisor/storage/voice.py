"""What one transfer says for the log, each thing once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supervisor.storage.notices import Failed, Notice, Said

_NAMED_AT_ONCE: Final = 10


class Voice:
    def __init__(self, transfer: str, tell: Callable[[Notice], None]) -> None:
        self._transfer = transfer
        self._tell = tell
        self._named: dict[str, set[str]] = {}
        """Paths by the reason for which they were named."""

    def say(self, event: str, level: str = "info", **fields: str | float) -> None:
        named = (("transfer", self._transfer), *fields.items())
        self._tell(Said(event, level, named))

    def name(self, event: str, path: str, why: str) -> None:
        """Once for each path and reason; of many, the first ones."""
        named = self._named.setdefault(why, set())
        if path in named or len(named) > _NAMED_AT_ONCE:
            return
        named.add(path)
        shown = path if len(named) <= _NAMED_AT_ONCE else "others"
        self.say(f"transfer.{event}", "warning", path=shown, why=why)

    def fail(self, message: str, *, fenced: bool = False) -> None:
        """The transfer cannot be done, for a reason that waiting does not change."""
        self._tell(Failed(self._transfer, message, fenced))
