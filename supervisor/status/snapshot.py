"""What ``/status`` says, as data: the rows, the `Snapshot`, and more figures for ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict


class ProcessRow(TypedDict):
    """One process of this host."""

    name: str
    role: str
    attempt: NotRequired[int]
    """With which it was started last."""
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
    ready: NotRequired[bool]
    """It has said so: ``READY=1`` at ``NOTIFY_SOCKET``."""
    status_text: NotRequired[str]
    """What it has last said for people, ``STATUS=``; empty: nothing."""


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


class AttemptRow(TypedDict):
    """One attempt of the job as this host knows it."""

    attempt: int
    """Its number, from 1."""
    began_at: float | None
    """Seconds since the epoch; None while it is prepared, and where it never began."""
    prepared_s: float
    """From the failure before it to its start."""
    ended_at: float | None
    """When its failure was heard of, or the job was over."""
    cause: dict[str, object] | None
    """What ended it, as `protocol.encode_cause` gives it."""
    kind: str | None
    """An `attempts.Kind`, where this host judges; None where it ended the job unjudged."""
    scope: str | None
    """An `attempts.Scope`: what started anew after it; None where nothing did."""
    progressed: bool | None
    """Whether training had moved, where this host judges."""


class WarmRow(TypedDict):
    """The warm interpreter of this host."""

    pid: int
    state: str
    """``importing`` or ``ready``."""
    since_s: float
    """How long it has been there."""
    rss_bytes: int | None


class ProgressRow(TypedDict):
    """How far the script's training is, as last seen."""

    unit: str
    """``step``, ``epoch`` (that are over) or ``checkpoint``."""
    step: int
    total: int | None
    """Where it ends, in the same unit."""
    rate: float | None
    """Of that unit, a second."""
    left_s: float | None
    """Until the total, at this rate."""
    loss: float | str | None
    """``nan`` and the like as a text."""
    source: str
    """What said it: a `reading.Origin`."""
    where: str
    """Its file or stream; empty where it has one place alone."""
    at: float
    """When it was so, seconds since the epoch."""


class TimeRow(TypedDict):
    """Where the wall time went, of one run or of several."""

    runs: int
    starts: int
    """How often the script was started."""
    wall_s: float
    """All of it."""
    seconds: dict[str, float]
    """By a `ledger.Account`."""
    steps: int | None
    """New ones, or epochs; None where none was seen."""
    goodput: float | None
    """The share of the time that brought new steps; None where none was seen."""


class LedgerRow(TypedDict):
    """Where this host's wall time went."""

    account: str
    """Where the present moment goes: a `ledger.Account`."""
    unit: str | None
    """What ``steps`` counts, as in `ProgressRow`."""
    run: TimeRow
    all: TimeRow
    """With the runs before it in the same directory, or from the same checkpoints."""


class StartupRow(TypedDict):
    """How long an attempt took to the first step that was seen of it; None: not known, or none."""

    attempt: int
    seconds: float
    """All of it: of the first from the supervisor's start, of a later one from the failure."""
    fetch_s: float | None
    """Of the host that took longest."""
    fetch_host: str
    """Empty where there is one alone."""
    join_s: float | None
    """What was waited for others beyond that."""
    down_s: float | None
    """From the failure to the script's start; None of the first attempt."""
    import_s: float | None
    """Until TensorFlow was imported."""
    first_step_s: float
    """The rest."""


class SavesRow(TypedDict):
    """What is known of how checkpoints are saved."""

    save_s: float | None
    grace_s: float
    every_s: float | None
    best_s: float | None


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
    attempt: NotRequired[int]
    """The number of the newest attempt, from 1."""
    restarts: NotRequired[int]
    """How often something of the job has been started anew."""
    attempts: NotRequired[list[AttemptRow]]
    """The newest few, the oldest of them first."""
    processes: list[ProcessRow]
    progress: NotRequired[ProgressRow | None]
    """Of this host's script; None where nothing was seen."""
    ledger: NotRequired[LedgerRow | None]
    """None where nothing trains."""
    startups: NotRequired[list[StartupRow]]
    """The first and the newest few, the oldest first."""
    saves: NotRequired[SavesRow | None]
    warm: NotRequired[WarmRow | None]
    """What waits to become the script; None where there is none."""
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
