"""How this host's script saves: whether a save fits what a stop leaves, and how often to save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from supervisor.host.book import Book
from supervisor.host.present import Present
from supervisor.host.timeline import Say

if TYPE_CHECKING:  # not needed before the script's start
    from supervisor.status.snapshot import SavesRow
    from supervisor.training.saves import Saved

_MOST: Final = 33
_OFTEN: Final = 2.0
"""Saving so many times more or less often than is best is worth a word."""


class Saving:
    """Belongs to the event loop's thread."""

    def __init__(self, present: Present, book: Book, say: Say) -> None:
        self.saved: Saved | None = None
        """The newest checkpoint of this attempt …"""
        self.save_s: float | None = None
        """… and how long a save takes, as last measured."""
        self._present = present
        self._book = book
        self._say = say
        self._written: list[float] = []
        self._said: set[str] = set()
        """In this attempt."""

    def begin(self) -> None:
        """An attempt begins."""
        self.saved = None
        self._written = []
        self._said.clear()

    def take(self, saved: Saved) -> None:
        """There is another checkpoint."""
        self.saved = saved
        self._written = [*self._written, saved.written_ns / 1e9][-_MOST:]
        if saved.save_s is not None:
            self.save_s = saved.save_s
            self._judge(saved.save_s)

    def _judge(self, save_s: float) -> None:
        grace_s = self._present.plan.budgets.stop_grace_s
        if save_s > grace_s and self._once("grace"):
            rounded = {"save_s": round(save_s, 1), "grace_s": round(grace_s, 1)}
            self._say("warning", "training.save_too_long", **rounded)
        if (advice := self.advice()) is None or not self._once("interval"):
            return
        every_s, best_s = advice
        if not 1 / _OFTEN <= every_s / best_s <= _OFTEN:
            self._say(
                "info",
                "training.save_interval",
                save_s=round(save_s, 1),
                every_s=round(every_s, 1),
                best_s=round(best_s, 1),
                failures=self._present.state.attempt - 1,
            )

    def _once(self, what: str) -> bool:
        new = what not in self._said
        self._said.add(what)
        return new

    def advice(self) -> tuple[float, float] | None:
        """How often it saves and how often it should, in seconds; None where that is not known:
        before a failure, and before the second checkpoint of an attempt."""
        from supervisor.training.saves import best_interval_s  # noqa: PLC0415

        failures = self._present.state.attempt - 1
        if failures < 1 or len(self._written) < 2 or not self.save_s:
            return None
        every_s = (self._written[-1] - self._written[0]) / (len(self._written) - 1)
        between_s = self._book.seconds / failures
        return (every_s, best_interval_s(self.save_s, between_s)) if every_s > 0 else None

    def row(self) -> SavesRow | None:
        """For ``/status`` and the report; None where nothing is known."""
        if self.save_s is None and self.saved is None:
            return None
        every_s, best_s = self.advice() or (None, None)
        return {
            "save_s": self.save_s,
            "grace_s": self._present.plan.budgets.stop_grace_s,
            "every_s": every_s,
            "best_s": best_s,
        }
