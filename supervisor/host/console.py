"""Where output goes: which format each process gets on which sink, and our own lines beside it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from supervisor.cluster import beat
from supervisor.contract.settings import Settings
from supervisor.faults import safe
from supervisor.host import figures
from supervisor.life.words import ProcessSpec, Role
from supervisor.plan.plan import FETCH, RESTORE
from supervisor.streams import (
    Branch,
    Carriage,
    Formatter,
    Json,
    Label,
    Prefix,
    Pump,
    Raw,
    Repeats,
    RotatingFile,
    Sink,
    colour_of,
    console,
    quiet_tensorflow,
)
from supervisor.streams.filters import LineFilter
from supervisor.streams.gpuless import Gpuless, no_gpu_here
from supervisor.streams.recent import Recent, Source

if TYPE_CHECKING:  # heavy: loaded with the status server
    from supervisor.status.snapshot import Sample

PATIENCE_S: Final = 5.0
"""At the end, an output that takes nothing for so long is given up …"""
HURRIED_PATIENCE_S: Final = 1.0
"""… or for so long, after a stop signal: the platform counts too."""
SETTLE_S: Final = 30.0
"""At the end, an output that is slow and not stalled has so long altogether."""
LAST_WORDS_S: Final = 0.1
"""For an output that was given up, and has something new to write."""
STALL_S: Final = 10.0
"""An output that takes nothing for so long is worth a message."""
_LOOK_S: Final = 2.0

_CARRIAGES: Final = {"live": Carriage.LIVE, "collapse": Carriage.COLLAPSE, "keep": Carriage.KEEP}
_LEVELS: Final[dict[str, Literal["I", "W", "E", "F"]]] = {
    "info": "I", "warning": "W", "error": "E", "fatal": "F",
}  # fmt: skip


@dataclass(slots=True)
class _Stream:
    """One stream of a process, for what may have to be shown after all."""

    label: Label
    role: Role
    sink: Sink
    pump: Pump
    only: _Hiding | None
    """What decides which lines are shown; None: no line is."""


class _Hiding:
    """A filter, and whether it has kept anything back."""

    def __init__(self, only: LineFilter) -> None:
        self._only = only
        self.any = False

    def __call__(self, lines: bytes) -> bytes:
        kept = self._only(lines)
        self.any = self.any or len(kept) < len(lines)
        return kept


_OWN: Final = Source("supervisor", "supervisor", "stderr")
_OURS: Final = frozenset({Role.PS, Role.PREPARE, Role.STORAGE})
"""Processes that the user did not write: stdout is the script's alone."""


@dataclass(slots=True)
class Outputs:
    """The outputs of one supervisor. Must be made on a running loop."""

    host: str
    settings: Settings
    log_dir: str
    """Where per-process files go, if they are wanted."""
    say: Callable[..., None] = lambda _level, _event, **_fields: None
    """Told what becomes of an output: level, event name, fields."""
    recent: Recent = field(default_factory=Recent)
    """What was written last, for whoever reads it over the status port."""
    out: Sink = field(init=False)
    err: Sink = field(init=False)
    _files: dict[str, Sink] = field(default_factory=dict)
    """By process: one that starts anew goes on in the file that it has."""
    _streams: dict[str, list[_Stream]] = field(default_factory=dict)
    _stalled: set[str] = field(default_factory=set)
    _look: asyncio.TimerHandle | None = None
    _given_up: set[str] = field(default_factory=set)
    _finished: bool = False

    def __post_init__(self) -> None:
        self.out, self.err = console(
            policy="drop" if self.settings.log_overflow == "drop" else "block",
            in_place=self.settings.log_progress == "live",
            on_broken=self._on_broken,
        )
        self._watch()

    def own_line(self, line: bytes, words: bytes) -> None:
        """A line of ours, as it is shown, and without prefix and colour."""
        self.err.offer_line(line)
        self.recent.add(_OWN, words)

    # ------------------------------------------------------------------ formats

    @property
    def color(self) -> bool:
        """Whether prefixes are coloured."""
        wish = self.settings.log_color
        return wish == "always" or (wish == "auto" and self.err.terminal and not _no_color())

    @property
    def own_prefix(self) -> str:
        """What our own lines begin with in the prefix format; else empty."""
        if self.settings.log_format != "prefix":
            return ""
        text = self.settings.log_prefix.format(
            host=safe(self.host), role="supervisor", stream="stderr", time="", mark="│"
        )
        return f"\x1b[0;{colour_of(self.host)}m{text}\x1b[0m" if self.color and text else text

    def for_this_terminal(self, spec: ProcessSpec) -> ProcessSpec:
        """A transfer's progress is drawn in place where that is seen."""
        transfers = spec.name in {FETCH, RESTORE} or spec.role is Role.STORAGE
        if not transfers or self.settings.log_progress != "auto" or not self.err.terminal:
            return spec
        from supervisor.storage.job import VARIABLE, drawn_in_place  # noqa: PLC0415

        return replace(spec, env={**spec.env, VARIABLE: drawn_in_place(spec.env[VARIABLE])})

    def attach(
        self, spec: ProcessSpec, fds: Sequence[int], attempt: int = 1
    ) -> tuple[tuple[Pump, ...], str]:
        """Pumps for the stdout and stderr of a process, started, and its log file (or ``""``).

        The pumps own the descriptors from here on. A single one is both, and called stdout. Where
        it starts anew, ``attempt`` stands in the file above what it writes.
        """
        name, role = spec.name, spec.role
        file_sink = self._file_of(name)
        if file_sink is not None and attempt > 1:
            file_sink.offer_line(self._heading(f"attempt {attempt}"))
        streams = self._streams[name] = [
            self._stream(name, role, which, fd, file_sink)
            for fd, which in zip(fds, ("stdout", "stderr"), strict=False)
        ]
        return tuple(stream.pump for stream in streams), file_sink.name if file_sink else ""

    def attach_stderr(self, name: str, role: Role, fd: int) -> Pump:
        """The same for a process whose stdout is not for people. May be called again for a
        successor of the process."""
        file_sink = self._file_of(name)
        stream = self._stream(name, role, "stderr", fd, file_sink)
        self._streams[name] = [stream]
        return stream.pump

    def _file_of(self, name: str) -> Sink | None:
        settings = self.settings
        if not settings.log_files:
            return None
        if name in self._files:
            return self._files[name]
        path = os.path.join(self.log_dir, f"{name}.log")
        target = RotatingFile(
            path,
            max_bytes=settings.log_file_max_bytes,
            keep=settings.log_file_keep,
            heading=self._heading("a new run"),
        )
        sink = Sink(target, name=path, policy=self.out.policy, on_broken=self._on_broken)
        self._files[name] = sink
        return sink

    def _heading(self, what: str) -> bytes:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return f"──── supervisor: {what}, {now}, {self.host}, pid {os.getpid()} ────\n".encode()

    def _stream(
        self, name: str, role: Role, which: str, fd: int, file_sink: Sink | None
    ) -> _Stream:
        settings = self.settings
        label = Label(safe(self.host), role.value, which)
        sink = self._sink_of(role, which)
        # A parameter server's output is TensorFlow's chatter.
        only = _Hiding(quiet_tensorflow(_LEVELS[settings.log_ps_level]))
        branches = []
        shown = role in settings.log_console_roles
        if shown:
            formatter = self._formatter(label, role, sink, only if role is Role.PS else None)
            branches.append(Branch(formatter, sink))
        if file_sink is not None:
            # Whole lines: both streams of a process share its file.
            branches.append(Branch(Prefix(label, ""), file_sink))
        pump = Pump(fd, branches, tap=partial(self.recent.add, Source(name, role.value, which)))
        pump.start()
        return _Stream(label, role, sink, pump, only if shown else None)

    def reveal(self, name: str) -> None:
        """Show the last of what was kept from the console: the process has failed."""
        for stream in self._streams.get(name, ()):
            tail = stream.pump.tail()
            if not tail or (stream.only and not stream.only.any):
                continue
            if stream.pump.bytes_read > len(tail):  # it begins in the middle of a line
                tail = tail.partition(b"\n")[2] or tail
            formatter = self._formatter(stream.label, stream.role, stream.sink, None, last=True)
            now = time.monotonic()
            stream.sink.offer(
                formatter.note(f"the last of what {name} wrote, all of it:")
                + formatter.feed(tail, now)
                + formatter.flush(now)
            )

    def _sink_of(self, role: Role, stream: str) -> Sink:
        if role in _OURS:
            return self.err  # stdout is the script's alone
        return self.out if stream == "stdout" or self.settings.log_streams != "split" else self.err

    def _formatter(
        self, label: Label, role: Role, sink: Sink, only: LineFilter | None, *, last: bool = False
    ) -> Formatter:
        """A parameter server's output is never raw between the script's."""
        settings = self.settings
        carriage = _CARRIAGES.get(settings.log_progress)
        if carriage is None:
            carriage = Carriage.LIVE if sink.terminal else Carriage.COLLAPSE
        if carriage is Carriage.LIVE and (last or settings.log_format == "json"):
            carriage = Carriage.COLLAPSE
        window_s = settings.log_repeat_window_s
        repeats = Repeats(window_s) if window_s and not last else None
        if settings.log_format == "raw" and role not in _OURS:
            return Raw()
        formatter: Formatter
        if settings.log_format == "json":
            formatter = Json(label, carriage=carriage, only=only, repeats=repeats)
        else:
            formatter = Prefix(
                label,
                settings.log_prefix,
                colour=colour_of(label.host) if self.color else None,
                carriage=carriage,
                only=only,
                repeats=repeats,
            )
        # TensorFlow writes it to stderr, which may be one pipe with stdout.
        looked_at = only is None and not last and no_gpu_here()
        return Gpuless(formatter) if looked_at else formatter

    # ------------------------------------------------------------------ what becomes of them

    @property
    def _sinks(self) -> tuple[Sink, ...]:
        return tuple(dict.fromkeys((self.out, self.err, *self._files.values())))

    def _on_broken(self, sink: Sink, error: OSError) -> None:
        self.say("warning", "output.broken", output=sink.name, error=error.strerror or str(error))

    def _watch(self) -> None:
        for sink in self._sinks:
            stalled_s = sink.stalled_s()
            if stalled_s >= STALL_S and sink.name not in self._stalled:
                self._stalled.add(sink.name)
                self.say(
                    "warning",
                    "output.stalled",
                    output=sink.name,
                    seconds=round(stalled_s),
                    overflow=sink.policy,
                )
            elif not stalled_s and sink.name in self._stalled:
                self._stalled.remove(sink.name)
                self.say("info", "output.resumed", output=sink.name)
        self._look = asyncio.get_running_loop().call_later(beat.rest_s(_LOOK_S), self._watch)

    def rows(self) -> list[dict[str, object]]:
        """What has become of each output by now, for the report."""
        return figures.rows(self._sinks)

    def samples(self) -> Iterator[Sample]:
        """The same for ``/metrics``."""
        return figures.samples(self._sinks)

    # ------------------------------------------------------------------ the end

    async def settle(self, *, patience_s: float, limit_s: float) -> None:
        """Wait until all is written; for an output that takes nothing at most ``patience_s``
        seconds, and for all together at most ``limit_s``."""
        stuck = await settle(self._sinks, patience_s=patience_s, limit_s=limit_s)
        self._given_up |= {sink.name for sink in stuck}

    async def finish(self, *, limit_s: float) -> None:
        """Write out what is queued and say what could not be written. Then nothing is written.

        Takes at most ``limit_s`` seconds and a little. May be called again, to no effect.
        """
        if self._finished:
            return
        self._finished = True
        if self._look is not None:
            self._look.cancel()
        deadline = time.monotonic() + limit_s
        await self._end([sink for sink in self._sinks if sink is not self.err], deadline)
        for row in self.rows():
            amounts = {
                name: row[name]
                for name in ("unwritten_bytes", "dropped_bytes", "dropped_lines", "discarded_bytes")
                if row[name]
            }
            if amounts and (row["name"] != self.err.name or row["dropped_bytes"]):
                self.say("warning", "output.lost", output=row["name"], **amounts)
        await self._end([self.err], deadline)

    async def _end(self, sinks: Iterable[Sink], deadline: float) -> None:
        async def end(sink: Sink) -> None:
            left_s = max(LAST_WORDS_S, deadline - time.monotonic())
            patience_s = LAST_WORDS_S if sink.name in self._given_up else HURRIED_PATIENCE_S
            await settle([sink], patience_s=patience_s, limit_s=left_s)
            await sink.drain(0)
            sink.close(0)

        await asyncio.gather(*map(end, sinks))


async def settle(sinks: Iterable[Sink], *, patience_s: float, limit_s: float) -> list[Sink]:
    """Wait until all that was offered is written or thrown away; the sinks that did not make it.

    A sink that takes nothing is given up after ``patience_s`` seconds, one that takes a little
    after ``limit_s``.
    """
    began = time.monotonic()

    async def written(sink: Sink) -> bool:
        while True:
            now = time.monotonic()
            idle_s = min(sink.stalled_s(), now - began)
            wait_s = min(patience_s - idle_s, began + limit_s - now)
            if wait_s <= 0:
                return False
            if await sink.flush(wait_s):
                return True

    waited = list(sinks)
    results = await asyncio.gather(*map(written, waited))
    return [sink for sink, result in zip(waited, results, strict=True) if not result]


def _no_color() -> bool:
    return bool(os.environ.get("NO_COLOR"))  # https://no-color.org
