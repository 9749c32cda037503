"""Where output goes: which format each process gets on which sink, and our own lines beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from supervisor.model import Role
from supervisor.settings import Settings
from supervisor.streams import (
    Branch,
    Carriage,
    Formatter,
    Json,
    Label,
    Prefix,
    Pump,
    Raw,
    RotatingFile,
    Sink,
    colour_of,
    console,
    quiet_tensorflow,
)

_OURS: Final = frozenset({Role.PS, Role.PREPARE})
"""Processes that the user did not write: stdout is the script's alone."""


@dataclass(slots=True)
class Outputs:
    """The outputs of one supervisor. Must be made on a running loop."""

    host: str
    settings: Settings
    log_dir: str
    """Where per-process files go, if they are wanted."""
    out: Sink = field(init=False)
    err: Sink = field(init=False)
    _files: list[Sink] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out, self.err = console()

    @property
    def color(self) -> bool:
        """Whether prefixes are coloured."""
        wish = self.settings.log_color
        return wish == "always" or (wish == "auto" and self.err.terminal and not _no_color())

    def attach(self, name: str, role: Role, fds: tuple[int, int]) -> tuple[tuple[Pump, Pump], str]:
        """Pumps for the stdout and stderr of a process, started, and its log file (or ``""``).

        The pumps own the descriptors from here on.
        """
        file_sink: Sink | None = None
        path = ""
        if self.settings.log_files:
            path = os.path.join(self.log_dir, f"{name}.log")
            file_sink = Sink(RotatingFile(path), name=path)
            self._files.append(file_sink)
        pumps = []
        who = role.value if role is Role.PREPARE else name
        for fd, stream, sink in zip(fds, ("stdout", "stderr"), (self.out, self.err), strict=True):
            if role in _OURS:
                sink = self.err  # noqa: PLW2901  # stdout is the script's alone
            branches = [Branch(self._formatter(Label(self.host, who, stream), role, sink), sink)]
            if file_sink is not None:
                # Whole lines: both streams of a process share its file.
                branches.append(Branch(Prefix(Label(self.host, name, stream), ""), file_sink))
            pump = Pump(fd, branches)
            pump.start()
            pumps.append(pump)
        return (pumps[0], pumps[1]), path

    def _formatter(self, label: Label, role: Role, sink: Sink) -> Formatter:
        """A parameter server's output is TensorFlow's chatter: whole in its file and in failure
        reports, but on the console only from errors on, and never raw between the script's."""
        only = quiet_tensorflow() if role is Role.PS else None
        if self.settings.log_format == "json":
            return Json(label, only=only)
        if self.settings.log_format == "raw" and role not in _OURS:
            return Raw()
        return Prefix(
            label,
            self.settings.log_prefix,
            colour=colour_of(label.host) if self.color else None,
            carriage=Carriage.LIVE if sink.terminal else Carriage.COLLAPSE,
            only=only,
        )

    async def drain(self, timeout_s: float) -> int:
        """Write out what is queued; how many bytes could not be written in time."""
        left = 0
        for sink in dict.fromkeys((self.out, self.err, *self._files)):
            left += await sink.drain(timeout_s)
            sink.close()
        return left


def _no_color() -> bool:
    return bool(os.environ.get("NO_COLOR"))  # https://no-color.org
