"""One output of children's and our own lines, and what its reader sees at its end.

What is offered goes to a ``Writer`` by way of a ``Backlog``. What is kept here is where the output
stands: in the middle of a line, or below a line that is drawn in place.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from supervisor.streams.backlog import Backlog, Policy
from supervisor.streams.filters import tame as tame_text
from supervisor.streams.targets import Target, target_of
from supervisor.streams.writer import Writer

CAPACITY_BYTES = 1 << 20
_OWN_BYTES = 1 << 16
"""The queue's reserve for the supervisor's own lines."""
_MID_LINE_S = 0.25
"""How long a line of ours waits for an unfinished line before it."""
_STOP_S = 0.2
"""How long the end waits for the thread; only a disk's write takes longer."""

_ERASE = b"\r\x1b[K"
# autowrap off while drawing: a line longer than the terminal is wide must not leave rows behind
_UP = b"\x1b[1A"
_ERASE_BELOW = b"\x1b[J"
_DRAW = b"\x1b[?7l%s\x1b[0m\x1b[?7h"


def same_output(fd: int, other_fd: int) -> bool:
    """Whether two descriptors lead to the same pipe, terminal, socket or file (``2>&1``)."""
    try:
        return os.path.samestat(os.fstat(fd), os.fstat(other_fd))
    except OSError:
        return False


def console(
    stdout_fd: int = 1,
    stderr_fd: int = 2,
    *,
    capacity_bytes: int = CAPACITY_BYTES,
    policy: Policy = "block",
    in_place: bool = False,
    tame: bool = False,
    on_broken: Callable[[Sink, OSError], None] | None = None,
) -> tuple[Sink, Sink]:
    """Sinks for our own stdout and stderr: one and the same where both lead to one output.

    Two threads that write to one pipe would tear each other's lines.
    """
    out = Sink(
        stdout_fd,
        name="stdout",
        capacity_bytes=capacity_bytes,
        policy=policy,
        in_place=in_place,
        tame=tame,
        on_broken=on_broken,
    )
    if same_output(stdout_fd, stderr_fd):
        return out, out
    err = Sink(
        stderr_fd,
        name="stderr",
        capacity_bytes=capacity_bytes,
        policy=policy,
        in_place=in_place,
        tame=tame,
        on_broken=on_broken,
    )
    return out, err


class Sink:
    """One output, owned by a thread of its own with a bounded queue.

    Everything but the writing happens on the event loop's thread, and nothing there blocks.
    Chunks are written in the order of their `offer`, each one whole before the next.

    - Policy ``block``: a pump looks at `full` before it reads, so the child waits. What has
      been offered is always taken, so the queue holds at most ``capacity_bytes`` and one chunk
      of each pump.
    - Policy ``drop``: what comes when ``capacity_bytes`` are queued is left out and counted
      (`dropped_bytes`, `dropped_lines`).
    - An output that fails (EPIPE, ENOSPC, …) is `broken`: what is queued and what comes later is
      thrown away and counted in `discarded_bytes`. It is never `full` again, so no child waits
      for it. ``on_broken`` is called once, on the loop.

    At any time ``offered_bytes == written_bytes + dropped_bytes + discarded_bytes +
    unwritten_bytes``.

    ``output`` is a descriptor, which stays the caller's, or a `RotatingFile`. ``tame``: where it
    is a terminal, it shows what it would else obey. Must be made on a running loop.
    """

    def __init__(
        self,
        output: int | Target,
        *,
        name: str,
        capacity_bytes: int = CAPACITY_BYTES,
        policy: Policy = "block",
        in_place: bool = False,
        tame: bool = False,
        on_broken: Callable[[Sink, OSError], None] | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.terminal = isinstance(output, int) and os.isatty(output)
        self.in_place = self.terminal or in_place
        """Unfinished lines may be drawn: it is a terminal, or leads to one at last."""
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._backlog = Backlog(capacity_bytes, policy, self._say_broken)
        target = target_of(output) if isinstance(output, int) else output
        self._writer = Writer(target, self._backlog, name)
        # The loop's alone: what the reader sees at the end of the output.
        self._mid_line = False
        self._own: list[bytes] = []  # lines of ours that wait for the end of a line
        self._own_bytes = 0
        self._own_timer: asyncio.TimerHandle | None = None
        self._drawn = b""  # the unfinished line that is drawn on the terminal
        self._drawn_by: object = None
        self._foot = b""  # the line that stays below everything
        self._rows = 0  # how many rows are drawn at the bottom
        self._tame = tame and self.terminal

    # ------------------------------------------------------------------ state

    @property
    def full(self) -> bool:
        """No pump should offer more now. Always False for ``drop`` and for a broken output."""
        return self._backlog.full

    @property
    def takes(self) -> bool:
        """A chunk that is offered now is not left out."""
        return self._backlog.takes

    @property
    def broken(self) -> bool:
        return self._backlog.broken

    @property
    def error(self) -> OSError | None:
        """Why it is broken."""
        return self._backlog.error

    @property
    def offered_bytes(self) -> int:
        return self._backlog.offered_bytes + self._own_bytes

    @property
    def written_bytes(self) -> int:
        return self._backlog.written_bytes

    @property
    def dropped_bytes(self) -> int:
        return self._backlog.dropped_bytes

    @property
    def dropped_lines(self) -> int:
        return self._backlog.dropped_lines

    @property
    def discarded_bytes(self) -> int:
        return self._backlog.discarded_bytes

    @property
    def unwritten_bytes(self) -> int:
        """Bytes that were taken and have not reached the output."""
        return self._backlog.queued_bytes + self._own_bytes

    def stalled_s(self) -> float:
        """Seconds for which the output has taken nothing though there was something to write."""
        return self._backlog.stalled_s()

    @property
    def longest_stall_s(self) -> float:
        """The longest time so far for which the output took nothing, the present one included."""
        return self._backlog.longest_stall_s

    # ------------------------------------------------------------------ offering

    def offer(self, chunk: bytes, owner: object = None) -> bool:
        """Take a chunk to be written. False: it was left out (``drop``) or is thrown away.

        On a terminal, ``owner`` says whose unfinished line is finished by this chunk.
        """
        if not chunk:
            return True
        if self._tame:
            chunk = tame_text(chunk)
        if self._rows:
            return self._offer_above(chunk, owner)
        if self._own:
            return self._offer_around_own(chunk)
        taken = self._writer.put(chunk)
        if taken:
            self._mid_line = not chunk.endswith(b"\n")
        return taken

    def offer_line(self, line: bytes) -> bool:
        """Take a line of the supervisor's own, with its newline. False: left out and counted.

        It is never in the middle of another line: where the output stands in an unfinished line
        (raw format), it waits for that line's end, and after a short time begins a new line. It
        is taken even when the queue is full, up to a reserve.
        """
        most = self._backlog.capacity_bytes + _OWN_BYTES
        if self.unwritten_bytes >= most or self._backlog.gone:
            self._backlog.leave_out(line)
            return False
        if self._rows:
            return self._offer_above(line, None)
        if not self._mid_line:
            return self._writer.put(line, forced=True)
        self._own.append(line)
        self._own_bytes += len(line)
        if self._own_timer is None:
            self._own_timer = self._loop.call_later(_MID_LINE_S, self._force_own)
        return True

    def draw(self, line: bytes, owner: object) -> None:
        """On a terminal: show an unfinished line at the bottom, in place of the one before.

        It is left out, uncounted, when the queue is full: the next one will do as well.
        """
        backlog = self._backlog
        full = backlog.queued_bytes >= backlog.capacity_bytes  # whatever the policy
        if full or backlog.gone or self._own or not self.in_place:
            return
        if line:
            self._drawn, self._drawn_by = tame_text(line) if self._tame else line, owner
        elif self._drawn and self._drawn_by is owner:
            self._drawn = b""
        else:
            return
        self._writer.put(self._erased() + self._bottom())

    def foot(self, line: bytes) -> None:
        """On a terminal: keep a line below everything that is offered, which has to be whole lines
        then; an empty one takes it away. Left out like `draw` when the queue is full."""
        backlog = self._backlog
        full = backlog.queued_bytes >= backlog.capacity_bytes
        if backlog.gone or not self.terminal or (full and line) or line == self._foot:
            return
        self._foot = line
        self._writer.put(self._erased() + self._bottom(), forced=True)

    def _erased(self) -> bytes:
        """What takes the rows at the bottom away; the cursor stands at the end of the last one."""
        rows, self._rows = self._rows, 0
        return _ERASE if rows < 2 else b"\r" + _UP * (rows - 1) + _ERASE_BELOW

    def _bottom(self) -> bytes:
        rows = [_DRAW % row for row in (self._drawn, self._foot) if row]
        self._rows = len(rows)
        return b"\r\n".join(rows)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, on the loop, when the queue is half empty (or thrown away)."""
        self._backlog.when_room(callback)

    def _offer_above(self, chunk: bytes, owner: object) -> bool:
        """Whole lines go above the unfinished line that is drawn at the bottom."""
        if owner is not None and owner is self._drawn_by:
            self._drawn = b""
        rows = self._rows
        taken = self._writer.put(self._erased() + chunk + self._bottom())
        if not taken:
            self._rows = rows
        return taken

    def _offer_around_own(self, chunk: bytes) -> bool:
        """Lines of ours have waited for a line to end, and this chunk may end it."""
        end = chunk.find(b"\n") + 1
        if not end:
            return self._writer.put(chunk)
        taken = self._writer.put(chunk[:end])
        self._release_own()
        return self.offer(chunk[end:]) and taken

    def _force_own(self) -> None:
        if self._own:
            self._writer.put(b"\n", forced=True)
            self._release_own()

    def _release_own(self) -> None:
        if self._own_timer is not None:
            self._own_timer.cancel()
            self._own_timer = None
        lines = b"".join(self._own)
        self._own.clear()
        self._own_bytes = 0
        self._mid_line = False
        self._writer.put(lines, forced=True)

    # ------------------------------------------------------------------ the end

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that has been offered by now is written or thrown away.

        False: it was not within ``timeout_s`` seconds.
        """
        self._force_own()
        return await self._backlog.flush(timeout_s)

    async def drain(self, timeout_s: float) -> int:
        """Write what is queued, within ``timeout_s`` seconds, and then no more.

        Returns how many bytes could not be written, those thrown away by a broken output not
        among them. The number is exact, except for a disk that is in the middle of a write.
        """
        await self.flush(timeout_s)
        self._writer.seal()
        # what the thread is writing at this moment is not counted yet
        await self._writer.stopped(_STOP_S)
        return self.unwritten_bytes

    def close(self, timeout_s: float = _STOP_S) -> None:
        """Stop writing. What is still queued stays unwritten and counted.

        A thread that hangs in a disk's write is left behind after ``timeout_s`` seconds; it does
        not hold the exit.
        """
        self._writer.seal()
        if self._own_timer is not None:
            self._own_timer.cancel()
            self._own_timer = None
        self._writer.join(timeout_s)

    def _say_broken(self, error: OSError) -> None:
        if self._on_broken is not None:
            self._on_broken(self, error)
