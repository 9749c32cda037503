"""What ``/status`` says, as data: the rows, the `Snapshot`, and more figures for ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict


class ProcessRow(TypedDict):
    """One process of this host."""

    name: str
    role: str
    pid: int | None
    state: str
    """``planned``, ``running``, ``exited``; ``outlived by 2``: it ended, descendants did not."""
    exit: str | None
    """As people say it: ``exit 1``, ``killed by SIGKILL``."""
    started_at: float | None
    """Seconds since the epoch."""
    cpu_s: float | None
    """User and system time of the process and its descendants."""
    rss_bytes: int | None
    output_bytes: int
    """Bytes read from stdout and stderr so far."""


class HostRow(TypedDict):
    """One host of the job as this host knows it."""

    name: str
    phase: str | None
    """What it last reported, a `Phase`; None before."""
    state: str
    """A `liveness.MemberState`, on a member for its master a `liveness.MasterState`, or
    ``self``."""
    last_seen_s: float | None
    """Seconds since its last sign of life."""


class BudgetRow(TypedDict):
    """The stop budget; both None while no stop was asked for."""

    limit_s: float | None
    left_s: float | None


class TransferRow(TypedDict):
    """One directory that is kept elsewhere."""

    name: str
    sent_files: int
    sent_bytes: int
    pending_files: int
    pending_bytes: int
    lag_s: float
    """Age of the oldest change that is not sent."""
    rate_bytes_s: float
    newest: str
    """The newest complete checkpoint's manifest."""
    error: str


class Snapshot(TypedDict):
    """The JSON of ``/status``."""

    version: str
    host: str
    job: str
    """The job's name, ``""`` if the platform gives none."""
    master: str
    phase: str
    started_at: float
    """Start of this supervisor, seconds since the epoch."""
    uptime_s: float
    processes: list[ProcessRow]
    hosts: list[HostRow]
    budget: BudgetRow
    cause: dict[str, object] | None
    """As `protocol.encode_cause` gives it."""
    verdict: dict[str, object] | None
    """As `protocol.encode_verdict` gives it."""
    exit_code: NotRequired[int | None]
    """The supervisor's own, once its life is over."""
    transfers: NotRequired[list[TransferRow]]
    waiting: NotRequired[dict[str, str]]
    """While joining: the hosts that are missing, and why."""
    tolerated: NotRequired[list[dict[str, object]]]
    """Failures that the failure policy let pass, as ``cause``."""
    also: NotRequired[list[dict[str, object]]]
    """Further failures, which are not the cause, as ``cause``."""
    timeline: list[dict[str, object]]
    """``{"at": seconds since the epoch, "event": name, …}``, oldest first, bounded."""
    probe_latency_s: NotRequired[float | None]
    """On a member: how long the master took for its last immediate answer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One more figure for ``/metrics``, in Prometheus' words."""

    name: str
    """Without the prefix ``supervisor_``, with its unit: ``stream_dropped_bytes``."""
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["gauge", "counter"] = "gauge"
