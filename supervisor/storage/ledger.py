"""The account of one transfer: what was sent, what is left, and since when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from supervisor.storage import snapshot
from supervisor.storage.notices import MOST_NAMES, Standing, Unsent
from supervisor.storage.snapshot import Fact, Memory
from supervisor.storage.voice import Voice

STALLED_S: Final = 5.0
"""A transfer that moved nothing for so long lets others pass."""


class Ledger:
    """``changed`` is called when the standing is not what it was."""

    def __init__(
        self, transfer: str, voice: Voice, changed: Callable[[], None], *, lag_warn_s: float
    ) -> None:
        self.changed = changed
        self.failing = ""
        """Why the last try failed."""
        self.pending: dict[str, Fact] = {}
        """What differs from what the target has."""
        self.sent_bytes = 0
        self.newest = ""
        """The place of the newest manifest, for checkpoints."""
        self._transfer = transfer
        self._voice = voice
        self._lag_warn_s = lag_warn_s
        self._sent_files = 0
        self._moved_at_s = time.monotonic()
        """When it last got on."""
        self._since: dict[str, float] = {}
        self._lagging = False

    # ------------------------------------------------------------------ entries

    def expect(self, pending: Iterable[Fact], memory: Memory) -> None:
        """Take over what is to be sent, of all that was seen."""
        self.pending = {fact.path: fact for fact in pending}
        self._since = snapshot.unsent_since(memory, self.pending, self._since)
        self.changed()

    def arrived(self, fact: Fact) -> None:
        """The target has the file so."""
        now = self.pending.get(fact.path)
        if now is not None and now.same(fact):
            del self.pending[fact.path]
            self._since.pop(fact.path, None)

    def moved(self, count: int) -> None:
        """So many bytes were sent just now; negative: they are to be sent anew."""
        self.sent_bytes += count
        self.gets_on()
        self.changed()

    def gets_on(self) -> None:
        """Note that it has not stalled until now."""
        self._moved_at_s = time.monotonic()

    def file_sent(self) -> None:
        self._sent_files += 1

    # ------------------------------------------------------------------ balances

    def stalled(self) -> bool:
        return bool(self.failing) or time.monotonic() - self._moved_at_s > STALLED_S

    def lag_s(self) -> float:
        """Age of the oldest change that is not sent; 0: all is sent."""
        if not self._since:
            return 0.0
        return max(0.0, time.monotonic() - min(self._since.values()))

    def watch_lag(self) -> None:
        """Say that it lags behind, once each time that it begins."""
        lag_s = self.lag_s()
        if lag_s >= self._lag_warn_s and not self._lagging:
            self._lagging = True
            why = {"error": self.failing} if self.failing else {}
            count = len(self.pending)
            self._voice.say(
                "transfer.lags", "warning", lag_s=round(lag_s), pending_files=count, **why
            )
        elif lag_s < self._lag_warn_s and self._lagging:
            self._lagging = False
            self._voice.say("transfer.caught_up")

    def standing(self, rate_bytes_s: float) -> Standing:
        return Standing(
            name=self._transfer,
            sent_files=self._sent_files,
            sent_bytes=self.sent_bytes,
            pending_files=len(self.pending),
            pending_bytes=sum(fact.size for fact in self.pending.values()),
            lag_s=round(self.lag_s(), 1),
            rate_bytes_s=round(rate_bytes_s, 1),
            newest=self.newest,
            error=self.failing,
        )

    def unsent(self) -> Unsent | None:
        if not self.pending:
            return None
        return Unsent(
            transfer=self._transfer,
            files=len(self.pending),
            bytes=sum(fact.size for fact in self.pending.values()),
            names=tuple(sorted(self.pending)[:MOST_NAMES]),
            reason=self.failing or "out of time",
        )
