"""The exposition of ``/metrics``: a `Snapshot` and more samples, in Prometheus' text format.

A module of its own so that ``prometheus_client`` is imported by the first request and not by the
start of a training. It keeps no registry: a registry collects over time, and here everything is
known at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from supervisor.life.words import Phase
from supervisor.status.snapshot import (
    LedgerRow,
    ProgressRow,
    Sample,
    Snapshot,
    TransferRow,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "supervisor_"


def render(snapshot: Snapshot, samples: Iterable[Sample]) -> bytes:
    """Give the exposition of this moment."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once([*_of_snapshot(snapshot), *samples]))
    return generate_latest(registry)


class _Once(Collector):
    """Hands over samples, those of one name together, as the format wants it."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for sample in self._samples:
            family = families.get(sample.name)
            if family is None:
                kind = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
                family = kind(PREFIX + sample.name, sample.help, labels=tuple(sample.labels))
                families[sample.name] = family
            family.add_metric(list(sample.labels.values()), sample.value)
        yield from families.values()


def _of_snapshot(snapshot: Snapshot) -> Iterator[Sample]:
    for phase in Phase:
        yield Sample(
            "phase",
            "1 for the phase this host is in.",
            float(snapshot["phase"] == phase.value),
            {"phase": phase.value},
        )
    yield Sample("uptime_seconds", "Age of this supervisor.", snapshot["uptime_s"])
    yield Sample("attempt", "The number of the newest attempt, from 1.", snapshot.get("attempt", 1))
    budget = snapshot["budget"]
    if budget["limit_s"] is not None:
        yield Sample("stop_budget_seconds", "The whole stop budget.", budget["limit_s"])
    if budget["left_s"] is not None:
        yield Sample(
            "stop_budget_left_seconds", "What is left of the stop budget.", budget["left_s"]
        )
    latency = snapshot.get("probe_latency_s")
    if latency is not None:
        yield Sample(
            "probe_latency_seconds", "The master's last immediate answer to this host.", latency
        )
    for process in snapshot["processes"]:
        labels = {"process": process["name"], "role": process["role"]}
        yield Sample(
            "process_running",
            "1 while it, or what outlived it, runs.",
            float(process["state"] not in {"planned", "exited"}),
            labels,
        )
        if process["cpu_s"] is not None:
            yield Sample(
                "process_cpu_seconds_total",
                "User and system time of the process and its descendants.",
                process["cpu_s"],
                labels,
                "counter",
            )
        if process["rss_bytes"] is not None:
            yield Sample(
                "process_resident_memory_bytes",
                "Resident memory of the process and its descendants.",
                process["rss_bytes"],
                labels,
            )
        yield Sample(
            "process_output_bytes_total",
            "Bytes it wrote to stdout and stderr.",
            process["output_bytes"],
            labels,
            "counter",
        )
    if (progress := snapshot.get("progress")) is not None:
        yield from _of_progress(progress)
    if (ledger := snapshot.get("ledger")) is not None:
        yield from _of_ledger(ledger)
    if (startups := snapshot.get("startups")) and (last := startups[-1]):
        yield Sample(
            "first_step_seconds",
            "How long the newest attempt with a step took to its first one.",
            last["seconds"],
        )
    if (saves := snapshot.get("saves")) is not None and saves["save_s"] is not None:
        yield Sample("save_seconds", "How long the last checkpoint took to save.", saves["save_s"])
    for transfer in snapshot.get("transfers", ()):
        yield from _of_transfer(transfer)
    for host in snapshot["hosts"]:
        if host["last_seen_s"] is not None:
            yield Sample(
                "peer_silence_seconds",
                "Time since the host's last sign of life.",
                host["last_seen_s"],
                {"host": host["name"]},
            )


def _of_progress(row: ProgressRow) -> Iterator[Sample]:
    labels = {"unit": row["unit"]}
    gauges = (
        ("step", "How far the script's training is, in steps or what else it counts.", row["step"]),
        ("step_target", "Where it ends, in the same unit.", row["total"]),
        ("step_rate", "Of that unit, a second.", row["rate"]),
        ("step_seen_timestamp_seconds", "When it was so far, since the epoch.", row["at"]),
    )
    for name, text, value in gauges:
        if value is not None:
            yield Sample(name, text, float(value), labels)
    if row["loss"] is not None:
        yield Sample("loss", "The loss that was told last; may be NaN.", float(row["loss"]))


def _of_ledger(row: LedgerRow) -> Iterator[Sample]:
    run, every = row["run"], row["all"]
    for account, seconds in run["seconds"].items():
        yield Sample(
            "time_seconds",
            "Where the wall time of this run went, by account; together all of it.",
            seconds,
            {"account": account},
        )
    for scope, times in (("run", run), ("all", every)):
        if times["goodput"] is not None:
            yield Sample(
                "goodput_ratio",
                "The share of the time that brought new steps, of this run and of all runs.",
                times["goodput"],
                {"of": scope},
            )
    if run["steps"] is not None:
        yield Sample("new_steps_total", "New steps of this run.", run["steps"], kind="counter")


def _of_transfer(row: TransferRow) -> Iterator[Sample]:
    labels = {"transfer": row["name"]}
    counters = (
        ("sent_bytes_total", "Bytes sent to where they are kept.", row["sent_bytes"]),
        ("sent_files_total", "Files sent to where they are kept.", row["sent_files"]),
    )
    gauges = (
        ("pending_bytes", "Bytes of changes that are not sent.", row["pending_bytes"]),
        ("pending_files", "Files with changes that are not sent.", row["pending_files"]),
        ("lag_seconds", "Age of the oldest change that is not sent.", row["lag_s"]),
        ("rate_bytes_per_second", "Bytes sent a second, lately.", row["rate_bytes_s"]),
        ("failing", "1 while the last attempt has failed.", bool(row["error"])),
    )
    for name, text, count in counters:
        yield Sample(f"transfer_{name}", text, float(count), labels, "counter")
    for name, text, value in gauges:
        yield Sample(f"transfer_{name}", text, float(value), labels)
