"""How transfers stand, for people, on stderr.

Live, one line is drawn in place for all of the process's transfers together, each state after a
carriage return, as ``supervisor.streams`` shows it on a terminal; else each transfer gives a line
every few seconds. At its end each gives one line, and a short one no other.

What is said here is never waited for: where stderr takes nothing now, a state is left out, and a
final line is kept for the next time.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from supervisor.faults import safe

LINE_S: Final = 5.0
DRAW_S: Final = 0.1
QUIET_S: Final = 2.0
"""A transfer that is over by then gives its final line alone."""
_RATE_S: Final = 10.0
"""The rate is that of the last so many seconds."""
_BAR: Final = 24
"""Characters."""
_KEPT: Final = 64
"""Lines that could not be written yet."""
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def amount(count: float) -> str:
    """Bytes as people read them: three digits and a unit."""
    return f"{_scaled(count, _unit(count))} {_UNITS[_unit(count)]}"


def _unit(count: float) -> int:
    power = 0
    while count >= 999.5 and power < len(_UNITS) - 1:
        count /= 1024
        power += 1
    return power


def _scaled(count: float, unit: int) -> str:
    value = count / 1024**unit
    return f"{value:.0f}" if not unit or value >= 99.95 else f"{value:.1f}"


def part(done: float, total: float) -> str:
    """``1.2 of 3.4 GiB``."""
    unit = _unit(total)
    return f"{_scaled(done, unit)} of {amount(total)}"


def span(seconds: float) -> str:
    """``5 s``, ``2 min 5 s``, ``3 h 2 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _Rate:
    """Bytes a second, over the last seconds."""

    def __init__(self, now: float) -> None:
        self._marks: deque[tuple[float, int]] = deque([(now, 0)])

    def at(self, now: float, moved: int) -> float:
        if now - self._marks[-1][0] >= _RATE_S / 20:
            self._marks.append((now, moved))
        while len(self._marks) > 1 and now - self._marks[1][0] >= _RATE_S:
            self._marks.popleft()
        since, before = self._marks[0]
        return max(0.0, moved - before) / max(now - since, 1e-3)


class Progress:
    """One transfer. Made inside a running event loop; used on its thread."""

    def __init__(
        self,
        name: str,
        total_bytes: int | None = None,
        total_files: int | None = None,
        *,
        live: bool = False,
    ) -> None:
        self.name = name
        self.total_bytes = total_bytes
        self.total_files = total_files
        self.bytes = 0
        self.files = 0
        self.began = time.monotonic()
        self._rate = _Rate(self.began)
        self.said_at = self.began + QUIET_S - LINE_S
        _BOARD.enter(self, live=live)

    def moved(self, count: int) -> None:
        """Bytes, just now; negative when a part begins anew."""
        self.bytes += count

    def file_done(self) -> None:
        self.files += 1

    def finish(self, error: str | None = None) -> None:
        """Say how it ended, unless there was nothing to do. Once."""
        nothing = error is None and not self.bytes and not self.files
        _BOARD.leave(self, "" if nothing else self._ending(error))

    def line(self, now: float) -> str:
        """``channel training: 1.2 of 3.4 GiB, 412 MiB/s, 5 s left``."""
        words = [part(self.bytes, self.total_bytes) if self.total_bytes else amount(self.bytes)]
        if self.total_files is not None and self.total_files > 1:
            words.append(f"{self.files:,} of {self.total_files:,} files")
        return f"{self.name}: {', '.join(words + _pace(self.rate(now), self._left))}"

    @property
    def _left(self) -> int | None:
        return None if self.total_bytes is None else max(0, self.total_bytes - self.bytes)

    def rate(self, now: float) -> float:
        return self._rate.at(now, self.bytes)

    def _ending(self, error: str | None) -> str:
        took_s = time.monotonic() - self.began
        if error is not None:
            return f"{self.name}: {amount(self.bytes)} in {span(took_s)}, then: {error}"
        words = [f"{self.files:,} file{'' if self.files == 1 else 's'}"] if self.files else []
        words.append(amount(self.bytes))
        text = f"{self.name}: {', '.join(words)} in {span(took_s)}"
        return f"{text}, {amount(self.bytes / took_s)}/s" if took_s >= QUIET_S else text


def say(text: str) -> None:
    """A line of its own, which does not disturb one that is drawn."""
    _BOARD.say(text)


def flush(timeout_s: float = 1.0) -> None:
    """Before the process ends: lines that stderr did not take yet. Blocks for so long at most."""
    deadline = time.monotonic() + timeout_s
    while _BOARD.unsaid and (left_s := deadline - time.monotonic()) > 0:
        select.select((), (2,), (), left_s)
        _BOARD.give_lines()


def _pace(rate: float, left: int | None) -> list[str]:
    pace = [f"{amount(rate)}/s"]
    if left is not None and rate > 0:
        pace.append(f"{span(left / rate)} left")
    return pace


def _drawing(active: Sequence[Progress], now: float) -> str:
    """All transfers of the process in one line."""
    moved = sum(each.bytes for each in active)
    total = sum(each.total_bytes or 0 for each in active)
    name = active[0].name if len(active) == 1 else f"{len(active)} transfers"
    rate = sum(each.rate(now) for each in active)
    if not total or any(each.total_bytes is None for each in active):
        return f"{name}  {', '.join([amount(moved), *_pace(rate, None)])}"
    share = min(1.0, moved / total)
    bar = "━" * round(_BAR * share)
    words = ", ".join([part(moved, total), *_pace(rate, max(0, total - moved))])
    return f"{name}  {bar:─<{_BAR}} {share:4.0%}  {words}"


class _Board:
    """All transfers of this process that go on."""

    def __init__(self) -> None:
        self._active: list[Progress] = []
        self._live = False
        self._drawn = 0
        """Characters of the line that is drawn now."""
        self.unsaid: deque[str] = deque(maxlen=_KEPT)
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, progress: Progress, *, live: bool) -> None:
        self._live = live
        self._active.append(progress)
        if self._timer is None:
            self._arm()

    def leave(self, progress: Progress, final: str) -> None:
        self._active.remove(progress)
        if final:
            self.say(final)
        if not self._active and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def say(self, text: str) -> None:
        self.unsaid.append(safe(text))
        self.give_lines()

    def _arm(self) -> None:
        delay_s = DRAW_S if self._live else LINE_S / 10
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        self.give_lines()
        if self._live:
            text = _drawing(self._active, now)
            if _written(f"\r{text:<{self._drawn}}"):
                self._drawn = len(text)
        else:
            for each in self._active:
                if now - each.said_at >= LINE_S and _written(each.line(now) + "\n"):
                    each.said_at = now
        self._arm()

    def give_lines(self) -> None:
        while self.unsaid:
            start = "\r" if self._drawn else ""
            if not _written(f"{start}{self.unsaid[0]:<{self._drawn}}\n"):
                break
            self._drawn = 0
            self.unsaid.popleft()


def _written(text: str) -> bool:
    """Whether stderr took it. Where it is ready, a pipe takes PIPE_BUF bytes at once (pipe(7))."""
    with suppress(OSError, ValueError):
        if select.select((), (2,), (), 0)[1]:
            os.write(2, text.encode(errors="replace")[: select.PIPE_BUF])
            return True
    return False


_BOARD: Final = _Board()
