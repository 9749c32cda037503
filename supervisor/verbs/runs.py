"""Runs on this machine, as their directories tell of them: those of ``supervisor local``, and those
of jobs that have no other directory than one below the working directory (``engines/choosing.py``).
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from supervisor import regular
from supervisor.contract.facts import OVERLAY, RESOURCES
from supervisor.contract.paths import HOST, paths_below
from supervisor.engines.choosing import RUNS
from supervisor.life.words import place
from supervisor.verbs.words import mapping

_REPORT_BYTES: Final = 64 << 20
_CONFIG_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RunHost:
    """One host of a run."""

    name: str
    base_dir: str
    url: str
    """Its status port, while it lives."""

    @property
    def logs(self) -> str:
        return paths_below(self.base_dir).logs

    def report(self) -> dict[str, Any] | None:
        """Its ``report.json``; None where it left none."""
        return report_at(paths_below(self.base_dir).report)

    @property
    def lives(self) -> bool:
        """Whether its supervisor does: the report is the last that it leaves."""
        return not os.path.isfile(paths_below(self.base_dir).report)


@dataclass(frozen=True, slots=True)
class Run:
    directory: str
    hosts: tuple[RunHost, ...]
    """The master first."""

    def reports(self) -> dict[str, Mapping[str, Any]]:
        """By host, of those that left one."""
        return {host.name: report for host in self.hosts if (report := host.report())}


def newest() -> str | None:
    """The run below ``./supervisor-runs`` that was begun last."""
    found = []
    with contextlib.suppress(OSError), os.scandir(RUNS) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                found += [
                    (os.stat(path).st_mtime_ns, entry.path)
                    for path in (_resources(entry.path, "algo-1"), *_host_files(entry.path))
                    if os.path.exists(path)
                ]
    return max(found)[1] if found else None


def read(directory: str) -> Run | None:
    """The run in a directory; None where there is none."""
    resources = _json_at(_resources(directory, "algo-1"))
    names = resources.get("hosts")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        hosts = tuple(_own_hosts(directory))
        return Run(directory, hosts) if hosts else None
    return Run(directory, tuple(_hosts(directory, names)))


def _host_files(directory: str) -> list[str]:
    """What the hosts of a job have left there of themselves: those that share this disk."""
    pattern = os.path.join(glob.escape(directory), "host-*", "output", "supervisor", HOST)
    return glob.glob(pattern)


def _own_hosts(directory: str) -> Iterator[RunHost]:
    """In the order of their indexes, by which their directories are called."""
    for path in _host_files(directory)[:1]:
        for index, (name, at) in enumerate(mapping(_json_at(path).get("status")).items()):
            base = os.path.join(directory, f"host-{index}")
            yield RunHost(str(name), base, f"http://{at}")


def _hosts(directory: str, names: list[str]) -> Iterator[RunHost]:
    config = os.path.join(directory, names[0], "input", "config", OVERLAY)
    places = mapping(_json_at(config).get("hosts"))
    for name in names:
        at = mapping(places.get(name))
        port = mapping(at.get("ports")).get("status")
        url = f"http://{place(str(at.get('address') or '127.0.0.1'), port or 2224)}"
        yield RunHost(name, os.path.join(directory, name), url)


def report_at(path: str) -> dict[str, Any] | None:
    """A report; None where none lies there, or something else."""
    report = _json_at(path, _REPORT_BYTES)
    return report or None


def _json_at(path: str, most: int = _CONFIG_BYTES) -> dict[str, Any]:
    try:
        document = json.loads(regular.read(path, most))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _resources(directory: str, host: str) -> str:
    return os.path.join(directory, host, "input", "config", RESOURCES)


def master_report(reports: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The report that speaks for the job: the master's, else the first that there is."""
    for report in reports.values():
        if report.get("host") == report.get("master"):
            return report
    return next(iter(reports.values()), {})
