"""One process of this host, as far as its life has come."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.children.child import Child, ChildEnd
from supervisor.life.words import ProcessSpec
from supervisor.streams import Pump
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # not needed before the script's start: loaded when it is used
    from supervisor.linux.memory import MemoryReading


@dataclass(slots=True)
class Running:
    """What is kept of one process: planned, then running, then ended."""

    spec: ProcessSpec
    child: Child | None = None
    started_at: float | None = None
    ended_at: float | None = None
    end: ChildEnd | None = None
    pumps: tuple[Pump, ...] = ()
    log_file: str = ""
    suspended: bool = False
    stop_sent_at: float | None = None
    asked: bool = False
    """Our stop signal reached the leader while it lived."""
    heartbeat_before: int | None = None
    outlived_by: int = 0
    """Its leader is dead, and so many descendants are not."""
    memory_before: MemoryReading | None = None
    starts: int = 1
    """Which start of the process in this run it is."""
    ready: bool = False
    """It has said so by a notification, as all of these; see ``notices.py``."""
    status: str = ""
    """What it last said for people, as it came; see ``notices.status_text``."""
    extended: bool = False
    """It has had more time than its share on its way down."""
    watchdog_beats: int = 0
    """How often it has said that it is alive."""
    watchdog_triggered: bool = False
    """It has said that it is not."""
    imported_s: float | None = None
    """How long after its start TensorFlow was imported; 0 where the interpreter was warm."""

    def stop_sent(self, *, reached: bool) -> None:
        self.stop_sent_at = self.stop_sent_at or time.time()
        self.asked = self.asked or reached

    @property
    def output_bytes(self) -> int:
        return sum(pump.bytes_read for pump in self.pumps)

    def tails(self, masker: Masker) -> list[bytes]:
        """The last of each stream, stderr's the last of all. Secrets go first: whatever is cut or
        picked out of the text later is masked by then."""
        ends = [(pump, pump.tail()) for pump in self.pumps]
        return [masker.tail(tail, whole=pump.bytes_read <= len(tail)) for pump, tail in ends]
