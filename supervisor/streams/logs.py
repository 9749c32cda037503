"""The supervisor's own messages: time, level, event name, and the facts in words.

``logging`` is not used: its handlers write where they stand and so can block the event loop, and
its configuration belongs to the libraries. A message is rendered at once and handed to a sink that
never blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final, Literal, assert_never

from supervisor.faults import safe, safe_json
from supervisor.streams.masking import Masker
from supervisor.streams.sentences import brief, sentence

Style = Literal["text", "brief", "json"]
"""For a log that is kept and searched, for somebody who looks on at a terminal, for programs."""

_ORDER: Final = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_VALUE_LIMIT: Final = 2000
_COLORS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m"}
_RESET: Final = "\x1b[0m"


class Log:
    """Renders messages and gives each to ``write``: a line of bytes as it is shown, and the same
    without prefix and colour."""

    def __init__(
        self,
        write: Callable[[bytes, bytes], object],
        *,
        host: str,
        level: str,
        style: Style,
        masker: Masker,
        prefix: str = "",
        color: bool = False,
    ) -> None:
        self._write = write
        self._host = safe(host)
        self._level = _ORDER[level]
        self._style = style
        self._masker = masker
        self._prefix = prefix
        self._color = color

    def say(self, level: str, event: str, **fields: object) -> None:
        """``event`` is a stable name (``process.exited``); ``fields`` carry the facts."""
        if _ORDER[level] < self._level:
            return
        words = self._words(level, event, fields)
        if not words:
            return
        line = words
        if self._style != "json":
            color = _COLORS.get(level) if self._color else None
            line = self._prefix + (f"{color}{words}{_RESET}" if color else words)
        self._write(_encoded(line), _encoded(words))

    def _words(self, level: str, event: str, fields: dict[str, object]) -> str:
        """Empty where nobody who looks on needs it."""
        match self._style:
            case "json":
                return self._json(level, event, fields)
            case "brief":
                said = safe(brief(event, self._in_bounds(fields), self._host))
                return said and f"{timestamp()[11:19]} {said}"
            case "text":
                head = [timestamp(), level.upper()]
                if not self._prefix:
                    head.append(f"supervisor {self._host}")
                said = safe(sentence(event, self._in_bounds(fields)))
                return " ".join((*head, f"{event}: {said}"))
        assert_never(self._style)

    def debug(self, event: str, **fields: object) -> None:
        self.say("debug", event, **fields)

    def info(self, event: str, **fields: object) -> None:
        self.say("info", event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        self.say("warning", event, **fields)

    def error(self, event: str, **fields: object) -> None:
        self.say("error", event, **fields)

    def _json(self, level: str, event: str, fields: dict[str, object]) -> str:
        record: dict[str, object] = {
            "time": timestamp(),
            "host": self._host,
            "role": "supervisor",
            "level": level,
            "event": event,
        }
        record |= self._in_bounds(fields)
        return safe_json(json.dumps(record, ensure_ascii=False))

    def _in_bounds(self, fields: dict[str, object]) -> dict[str, object]:
        return {key: self._bounded(value) for key, value in fields.items()}

    def _bounded(self, value: object) -> object:
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        text = self._masker.text(str(value))
        return text if len(text) <= _VALUE_LIMIT else text[:_VALUE_LIMIT] + "…"


def _encoded(line: str) -> bytes:
    return line.encode("utf-8", "backslashreplace") + b"\n"


def timestamp(at: float | None = None) -> str:
    """UTC, ISO 8601, milliseconds."""
    now = time.time() if at is None else at
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{seconds}.{int(now % 1 * 1000):03d}Z"
