"""What happened on this host, in order: each entry is said in our log, kept, and told on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from supervisor.life.words import Phase
from supervisor.streams.logs import Log
from supervisor.streams.masking import Masker

Say = Callable[..., None]
"""Level, event, fields."""
_LENGTH: Final = 1000


@dataclass(slots=True)
class _Span:
    phase: Phase
    at: float
    began: float
    seconds: float | None = None


class Timeline:
    """The entries of one life, secrets masked, and its phases."""

    def __init__(self, log: Log, masker: Masker) -> None:
        self.publish: Callable[[Mapping[str, object]], None] = lambda _entry: None
        """Told each entry."""
        self.started_at = time.time()
        """Seconds since the epoch."""
        self._log = log
        self._masker = masker
        self._began = time.monotonic()
        self._entries: deque[dict[str, object]] = deque(maxlen=_LENGTH)
        self._spans = [_Span(Phase.PREPARING, self.started_at, self._began)]

    def say(self, level: str, event: str, **fields: object) -> None:
        """An event of the supervisor's own, in its log and here."""
        self._log.say(level, event, **fields)
        entry: dict[str, object] = {"at": time.time(), "event": event}
        entry |= {key: self._plain(value) for key, value in fields.items()}
        self._entries.append(entry)
        self.publish(entry)

    def enter(self, phase: Phase) -> None:
        """The life has come to another phase."""
        now = time.monotonic()
        last = self._spans[-1]
        last.seconds = now - last.began
        self._spans.append(_Span(phase, time.time(), now))
        self.say("debug", "phase.entered", phase=phase.value)

    @property
    def seconds(self) -> float:
        """Since the life began."""
        return time.monotonic() - self._began

    def entries(self) -> list[dict[str, object]]:
        """The last of them, oldest first."""
        return list(self._entries)

    def phases(self) -> list[dict[str, object]]:
        return [
            {"phase": span.phase.value, "at": span.at, "seconds": span.seconds}
            for span in self._spans
        ]

    def _plain(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self._plain(each) for each in value]
        return self._masker.text(str(value))
