"""The ledger over runs: kept in the run's directory, and beside its checkpoints, with which it goes
to where they are kept. What lies there is not believed, and nothing waits for it long."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from supervisor import regular
from supervisor.aside import Aside
from supervisor.host.book import Book
from supervisor.host.present import Present
from supervisor.host.timeline import Say
from supervisor.storage.snapshot import LEDGER

if TYPE_CHECKING:  # not needed before the script's start
    from supervisor.training.totals import Kept

NAME: Final = "ledger.json"
EVERY_S: Final = 60.0
SAVED_EVERY_S: Final = 5.0
"""With a checkpoint it is written too, that it may go with it, but not more often than this."""
LIMIT_S: Final = 1.0
"""For the files, which may not answer."""


class Ledgers:
    """Belongs to the event loop's thread."""

    def __init__(self, present: Present, book: Book, say: Say) -> None:
        plan = present.plan
        self._own = os.path.join(os.path.dirname(plan.paths.report), NAME)
        # What others train with is the master's checkpoint, and what lies beside it its ledger.
        keeps = plan.is_master or plan.contract.settings.checkpoint_hosts == "all"
        self._beside = os.path.join(plan.paths.checkpoints, LEDGER) if keeps else ""
        self._book = book
        self._say = say
        self._aside = Aside("ledger")
        self._line = ""
        """What is kept here and there is of one line of runs; empty: it was not read yet."""
        self._written_at = 0.0
        self._saved = ""
        """The checkpoint beside which it was written last."""

    async def read(self) -> None:
        """What the runs before this one have left; once, before anything was reached."""
        if self._line:
            return
        self._line, self._written_at = os.urandom(8).hex(), time.monotonic()
        with contextlib.suppress(TimeoutError):
            if (found := await self._aside(LIMIT_S, self._find)) is not None:
                self._line = found.line
                self._book.goes_on_from(found.totals)

    async def write(self, saved: str, *, now: bool = True) -> None:
        """Keep it as it stands. ``saved``: the newest checkpoint; empty: there is none. ``now``:
        not only each minute, and with each checkpoint."""
        if not self._line or not (now or self._is_due(saved)):
            return
        from supervisor.training.totals import Kept, encode  # noqa: PLC0415

        self._written_at, self._saved = time.monotonic(), saved
        run, earlier = self._book.totals(), self._book.earlier
        text = encode(Kept(self._line, earlier + run if earlier else run))
        places = (self._own, self._beside) if saved and self._beside else (self._own,)
        with contextlib.suppress(TimeoutError):
            for problem in await self._aside(LIMIT_S, _write, places, text):
                self._say("debug", "training.unkept", error=problem)

    def _is_due(self, saved: str) -> bool:
        since_s = time.monotonic() - self._written_at
        if saved != self._saved:
            return since_s >= SAVED_EVERY_S or not self._saved
        return since_s >= EVERY_S

    def _find(self) -> Kept | None:
        """That beside the checkpoints, with which training goes on, or a newer one of its line."""
        own, beside = self._read(self._own), (self._beside and self._read(self._beside)) or None
        if own is None or beside is None:
            return beside or own
        newer = own.line == beside.line and own.totals.seconds > beside.totals.seconds
        return own if newer else beside

    def _read(self, path: str) -> Kept | None:
        from supervisor.training.totals import MOST_BYTES, decode  # noqa: PLC0415

        try:
            return decode(regular.read(path, MOST_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._say("debug", "training.unkept", error=f"{path} is passed over: {error}")
            return None


def _write(places: tuple[str, ...], text: str) -> list[str]:
    """What went wrong. The directories are there, or nothing is written: a script may be clearing
    its own."""
    there = [path for path in places if os.path.isdir(os.path.dirname(path))]
    return [problem for path in there if (problem := regular.write(path, text))]
