"""Disk nearly full, memory near the cgroup's limit: said before they end the job, and once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from supervisor.linux import cgroup, procfs
from supervisor.linux.memory import format_bytes

EVERY_S: Final = 60.0
_DISK_SHARE: Final = 0.05
_DISK_BYTES: Final = 10 << 30
"""Of a large disk a twentieth is much: below this many bytes it is little."""
_MEMORY_SHARE: Final = 0.9


class Watch:
    """Each warning is given once."""

    def __init__(self, directories: Iterable[str]) -> None:
        self._directories = tuple(directories)
        self.looking_at = ""
        """The directory that is being asked, which may be one that does not answer."""
        self._said: set[object] = set()
        self._memory = cgroup.find_memory_cgroup()

    def warnings(self) -> Iterator[str]:
        """What is new since the last look. Blocks for as long as a file system does."""
        for directory in self._directories:
            self.looking_at = directory
            try:
                device = os.stat(directory).st_dev
                disk = os.statvfs(directory)
            except OSError:
                continue
            if device in self._said or not disk.f_blocks:
                continue
            free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
            if disk_is_nearly_full(free, total):
                self._said.add(device)
                yield f"the disk of {directory} is nearly full: {format_bytes(free)} are left"
        reading = None if self._memory is None or "memory" in self._said else self._memory.read()
        if reading is None or self._memory is None or not reading.limit_bytes:
            return
        # Cached files are given back when memory is needed.
        used = (reading.usage_bytes or 0) - self._memory.reclaimable_bytes()
        if used > _MEMORY_SHARE * reading.limit_bytes:
            self._said.add("memory")
            yield (
                f"memory is nearly used up: {format_bytes(used)} of the limit "
                f"{format_bytes(reading.limit_bytes)}"
            )


def disk_is_nearly_full(free: int, total: int) -> bool:
    """Less than a twentieth is free, and less than 10 GiB."""
    return free < min(_DISK_SHARE * total, _DISK_BYTES)


def memory_left() -> int | None:
    """Bytes that may still be used here: by our cgroup's limit and by the machine. None where
    nobody tells."""
    left: list[int] = []
    found = cgroup.find_memory_cgroup()
    reading = None if found is None else found.read()
    if found is not None and reading is not None and reading.limit_bytes:
        used = (reading.usage_bytes or 0) - found.reclaimable_bytes()
        left.append(reading.limit_bytes - used)
    for line in (procfs.read("/proc/meminfo") or b"").splitlines():
        name, _, value = line.partition(b":")
        if name == b"MemAvailable":  # proc_meminfo(5): an estimate, in KiB
            left.append(int(value.split()[0]) * 1024)
    return min(left, default=None)
