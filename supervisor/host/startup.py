"""How long it took to the first step, over all hosts, and of what that was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from supervisor.host.book import Book
from supervisor.host.present import Present

if TYPE_CHECKING:  # not needed before the script's start
    from supervisor.status.snapshot import StartupRow

MOST_TOLD: Final = 10
"""The first and the newest ones."""


class Startups:
    """Of the attempts of this host's script. Times are ``time.monotonic()``."""

    def __init__(
        self, present: Present, book: Book, prepared: Callable[[], Mapping[str, float]]
    ) -> None:
        """``prepared``: how long other hosts took until they waited for the others, in seconds, as
        far as they have said so."""
        self._present = present
        self._book = book
        self._prepared = prepared
        self._rows: list[StartupRow] = []

    def first_step(self, started_at: float, at: float, import_s: float | None) -> StartupRow:
        """The first step that was seen of the script that started then was made ``at``.

        ``import_s``: how long after its start TensorFlow was imported; None: not known.
        """
        at = max(at, started_at)
        fetch_s, join_s, down_s, slowest = None, None, None, ""
        if import_s is not None and not 0 <= import_s <= at - started_at:
            import_s = None
        if self._book.down_at is None:
            before_s = max(0.0, started_at - self._book.begun_at)
            hosts = {**self._prepared(), self._present.plan.host: self._book.fetched_s}
            slowest = max(hosts, key=lambda host: hosts[host])
            fetch_s = min(hosts[slowest], before_s)
            join_s = before_s - fetch_s
        else:
            before_s = down_s = max(0.0, started_at - self._book.down_at)
        row: StartupRow = {
            "attempt": self._present.attempt_of(self._book.process),
            "seconds": round(before_s + at - started_at, 3),
            "fetch_s": _rounded(fetch_s),
            "fetch_host": slowest if self._present.plan.is_cluster else "",
            "join_s": _rounded(join_s),
            "down_s": _rounded(down_s),
            "import_s": _rounded(import_s),
            "first_step_s": round(at - started_at - (import_s or 0.0), 3),
        }
        self._rows.append(row)
        del self._rows[1 : -MOST_TOLD + 1]
        return row

    def rows(self) -> list[StartupRow]:
        """The oldest first."""
        return list(self._rows)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def fields_of(row: StartupRow) -> dict[str, object]:
    """Of an event: what is known."""
    return {
        key: round(value, 1) if isinstance(value, float) else value
        for key, value in row.items()
        if value is not None and value != ""
    }
