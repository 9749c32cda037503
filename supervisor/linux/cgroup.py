"""Finds and reads our memory cgroup, version 2 or 1, wherever it is mounted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from supervisor.linux import memory, procfs
from supervisor.linux.memory import MemoryReading

_LIMIT = 1 << 20


def _text(path: str) -> str | None:
    data = procfs.read_all(path, _LIMIT)
    return None if data is None else data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """The directory of our memory controller and those above it that we can see."""

    directories: tuple[str, ...]
    """Ours first. A limit of any of them is a limit for us."""
    version: int

    def read(self) -> MemoryReading | None:
        """A reading now (0.1 ms), with the tightest limit; None if the files are gone."""
        readings = [r for d in self.directories if (r := self._read_one(d)) is not None]
        if not readings:
            return None
        ours = readings[0]
        limited = [r for r in readings if r.limit_bytes is not None]
        if not limited:
            return ours
        tightest = min(limited, key=lambda r: r.limit_bytes or 0)
        return MemoryReading(
            oom_kills=ours.oom_kills,
            limit_bytes=tightest.limit_bytes,
            # The peak that goes with that limit, or nobody could compare them.
            peak_bytes=tightest.peak_bytes,
            usage_bytes=tightest.usage_bytes,
        )

    def reclaimable_bytes(self) -> int:
        """Of the usage that `read` tells, cached files that nobody has used lately."""
        limits = {
            directory: reading.limit_bytes
            for directory in self.directories
            if (reading := self._read_one(directory)) and reading.limit_bytes is not None
        }
        place = min(limits, key=lambda directory: limits[directory], default=self.directories[0])
        counters = memory.parse_counters(_text(f"{place}/memory.stat") or "")
        return counters.get("inactive_file" if self.version == 2 else "total_inactive_file", 0)

    def _read_one(self, directory: str) -> MemoryReading | None:
        def text(name: str) -> str | None:
            return _text(f"{directory}/{name}")

        if self.version == 2:
            return memory.parse_v2(
                text("memory.events"),
                text("memory.max"),
                text("memory.peak"),
                text("memory.current"),
            )
        return memory.parse_v1(
            text("memory.oom_control"),
            text("memory.limit_in_bytes"),
            text("memory.max_usage_in_bytes"),
            text("memory.usage_in_bytes"),
        )


def locate(membership: str, mounts: str, controller: str = "memory") -> list[tuple[int, str, str]]:
    """Where a controller is: (version, mount point, our directory), best first. Pure.

    ``membership`` is ``/proc/self/cgroup`` (cgroups(7)), ``mounts`` ``/proc/self/mountinfo``
    (proc_pid_mountinfo(5)). In a container the mount shows only a part of the hierarchy: the
    mount's root is taken off our path, and where our path is not below it, or leads out of our
    cgroup namespace (``/../..``), the mount point itself is the best there is.
    """
    paths: dict[int, str] = {}
    for line in membership.splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        if parts[0] == "0" and not parts[1]:
            paths[2] = parts[2]
        elif controller in parts[1].split(","):
            paths[1] = parts[2]
    found: list[tuple[int, str, str]] = []
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            version = 2
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            version = 1
        else:
            continue
        if version not in paths:
            continue
        root, point = _unescape(fields[3]), _unescape(fields[4])
        path = paths[version]
        below = path.removeprefix(root.rstrip("/")) if _is_below(path, root) else ""
        found.append((version, point, (point + below).rstrip("/") or "/"))
    # Version 1 first: where it has the memory controller, version 2 is there without it.
    return sorted(found)


def _is_below(path: str, root: str) -> bool:
    if ".." in path.split("/"):
        return False
    return root in ("/", path) or path.startswith(root.rstrip("/") + "/")


def _unescape(field: str) -> str:
    """Blanks and line ends are octal in mountinfo."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def find_memory_cgroup() -> MemoryCgroup | None:
    """Our memory cgroup, or None where there is no controller that we can read."""
    membership, mounts = _text("/proc/self/cgroup"), _text("/proc/self/mountinfo")
    if membership is None or mounts is None:
        return None
    for version, point, directory in locate(membership, mounts):
        for start in dict.fromkeys((directory, point)):
            directories = [start]
            while directories[-1] != point and directories[-1].startswith(point):
                directories.append(os.path.dirname(directories[-1]))
            cgroup = MemoryCgroup(tuple(directories), version)
            if cgroup.read() is not None:
                return cgroup
    return None


def parse_quota(version: int, texts: Callable[[str], str | None]) -> float | None:
    """CPUs that a cgroup may use: ``cpu.max``, or ``cpu.cfs_quota_us`` and its period. Pure.

    None where there is no limit. Sources: cgroup-v2.rst and scheduler/sched-bwc.rst of the kernel.
    """
    if version == 2:
        quota, _, period = (texts("cpu.max") or "").strip().partition(" ")
    else:
        quota = (texts("cpu.cfs_quota_us") or "").strip()
        period = (texts("cpu.cfs_period_us") or "").strip()
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None  # "max", or -1
    return int(quota) / int(period)


def cpu_quota() -> float | None:
    """The tightest quota of our cgroup and those above it that we can see, in CPUs."""
    membership, mounts = _text("/proc/self/cgroup"), _text("/proc/self/mountinfo")
    if membership is None or mounts is None:
        return None
    found: list[float] = []
    for version, point, directory in locate(membership, mounts, "cpu"):
        places = [point, directory]
        while places[-1] != point and places[-1].startswith(point):
            places.append(os.path.dirname(places[-1]))
        quotas = (parse_quota(version, partial(_file_in, place)) for place in places)
        found += [quota for quota in quotas if quota is not None]
    return min(found, default=None)


def _file_in(directory: str, name: str) -> str | None:
    return _text(f"{directory}/{name}")


def read_memory_cgroup() -> MemoryReading | None:
    """Find and read at once."""
    cgroup = find_memory_cgroup()
    return None if cgroup is None else cgroup.read()
