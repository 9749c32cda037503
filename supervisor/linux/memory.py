"""What the kernel's memory controller says: readings of a cgroup, as plain data. Pure.

Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst (memory.events, memory.max,
memory.peak) and cgroup-v1/memory.rst (memory.oom_control, memory.limit_in_bytes,
memory.max_usage_in_bytes).
"""

from __future__ import annotations

from dataclasses import dataclass

_V1_UNLIMITED = 1 << 62
"""Version 1 has no word for "no limit": it says the largest multiple of a page."""


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """A memory cgroup at one moment. None where the kernel does not tell."""

    oom_kills: int
    """Processes that the kernel has killed here for lack of memory, ever."""
    limit_bytes: int | None = None
    peak_bytes: int | None = None
    usage_bytes: int | None = None


def parse_counters(text: str) -> dict[str, int]:
    """Lines of a word and a number (memory.events, memory.oom_control); others are skipped."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].isdecimal():
            found[words[0]] = int(words[1])
    return found


def parse_bytes(text: str | None) -> int | None:
    """A file of one number; ``max``, an absurdly large one, or nonsense is None."""
    word = (text or "").strip()
    if not word.isdecimal():
        return None
    value = int(word)
    return None if value >= _V1_UNLIMITED else value


def parse_v2(
    events: str | None, maximum: str | None, peak: str | None, current: str | None
) -> MemoryReading | None:
    """Contents of memory.events, memory.max, memory.peak (Linux 5.19) and memory.current."""
    if events is None or (kills := parse_counters(events).get("oom_kill")) is None:
        return None
    return MemoryReading(kills, parse_bytes(maximum), parse_bytes(peak), parse_bytes(current))


def parse_v1(
    oom_control: str | None, limit: str | None, max_usage: str | None, usage: str | None
) -> MemoryReading | None:
    """Contents of memory.oom_control (its ``oom_kill`` came with Linux 4.13) and its neighbours."""
    if oom_control is None or (kills := parse_counters(oom_control).get("oom_kill")) is None:
        return None
    return MemoryReading(kills, parse_bytes(limit), parse_bytes(max_usage), parse_bytes(usage))


def format_bytes(count: int) -> str:
    """``512 MiB``, ``7.5 GiB``."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.1f}".removesuffix(".0") + f" {unit}"
        value /= 1024
    raise AssertionError  # the last unit returns


def oom_kills_between(before: MemoryReading | None, after: MemoryReading | None) -> int:
    """How many processes were killed for lack of memory between two readings; 0 if unknown."""
    if before is None or after is None:
        return 0
    return max(0, after.oom_kills - before.oom_kills)


def limit_and_peak(reading: MemoryReading) -> str:
    """``limit 64 MiB, peak 64 MiB``, as far as the kernel tells."""
    parts = []
    if reading.limit_bytes is not None:
        parts.append(f"limit {format_bytes(reading.limit_bytes)}")
    else:
        parts.append("no limit here: the machine's own memory, or a limit further out")
    if reading.peak_bytes is not None:
        parts.append(f"peak {format_bytes(reading.peak_bytes)}")
    elif reading.usage_bytes is not None:
        parts.append(f"in use now {format_bytes(reading.usage_bytes)}")
    return ", ".join(parts)
