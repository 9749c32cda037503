"""The supervisor's own messages: time, level, event name, fields, in one format.

``logging`` is not used: its handlers write where they stand and so can block the event loop, and
its configuration belongs to the libraries. A message is rendered at once and handed to a sink that
never blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

from supervisor.faults import safe, safe_json
from supervisor.streams.masking import Masker

_ORDER: Final = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_VALUE_LIMIT: Final = 2000
_COLORS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m"}
_RESET: Final = "\x1b[0m"


class Log:
    """Renders messages and gives each, a line of bytes, to ``write``."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        host: str,
        level: str,
        style: str,
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
        if self._style == "json":
            line = self._json(level, event, fields)
        else:
            line = self._text(level, event, fields)
        self._write(line.encode("utf-8", "backslashreplace") + b"\n")

    def debug(self, event: str, **fields: object) -> None:
        self.say("debug", event, **fields)

    def info(self, event: str, **fields: object) -> None:
        self.say("info", event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        self.say("warning", event, **fields)

    def error(self, event: str, **fields: object) -> None:
        self.say("error", event, **fields)

    def _text(self, level: str, event: str, fields: dict[str, object]) -> str:
        words = [timestamp(), level.upper()]
        if not self._prefix:
            words.append(f"supervisor {self._host}")
        words.append(event)
        words += [f"{key}={self._plain(value)}" for key, value in fields.items()]
        line = " ".join(words)
        color = _COLORS.get(level) if self._color else None
        return self._prefix + (f"{color}{line}{_RESET}" if color else line)

    def _json(self, level: str, event: str, fields: dict[str, object]) -> str:
        record = {
            "time": timestamp(),
            "host": self._host,
            "role": "supervisor",
            "level": level,
            "event": event,
        }
        values = {key: self._bounded(value) for key, value in fields.items()}
        return safe_json(json.dumps({**record, **values}, ensure_ascii=False))

    def _bounded(self, value: object) -> object:
        if value is None or isinstance(value, int | float):
            return value
        text = self._masker.text(value if isinstance(value, str) else str(value))
        return text if len(text) <= _VALUE_LIMIT else text[:_VALUE_LIMIT] + "…"

    def _plain(self, value: object) -> str:
        text = str(self._bounded(value))
        if text and not any(c.isspace() or c in "\"'=" or not c.isprintable() for c in text):
            return text
        return safe_json(json.dumps(text, ensure_ascii=False))


def timestamp(at: float | None = None) -> str:
    """UTC, ISO 8601, milliseconds."""
    now = time.time() if at is None else at
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{seconds}.{int(now % 1 * 1000):03d}Z"
