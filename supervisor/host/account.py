"""What one host tells of its own life: ``/status``, the report, and how its processes ended.

Puts together what each part of the host keeps; secrets are masked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from supervisor import __version__
from supervisor.host.attempts import Attempts
from supervisor.host.console import Outputs
from supervisor.host.coordination import Coordination
from supervisor.host.keeping import Keeping
from supervisor.host.notices import status_text
from supervisor.host.present import Present
from supervisor.host.records import left, process_record
from supervisor.host.running import Running
from supervisor.host.timeline import Timeline
from supervisor.host.training import Training
from supervisor.host.warming import Warming
from supervisor.host.watches import Watches
from supervisor.life.state import Process
from supervisor.life.words import Life, Outcome, Phase
from supervisor.linux import procfs
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # not needed before the script's start: loaded when it is used
    from supervisor.status.snapshot import HostRow, ProcessRow, Snapshot


class Account:
    def __init__(
        self,
        present: Present,
        *,
        timeline: Timeline,
        processes: Mapping[str, Running],
        coordination: Coordination,
        keeping: Keeping,
        watches: Watches,
        attempts: Attempts,
        warming: Warming,
        training: Training,
        outputs: Outputs,
        masker: Masker,
    ) -> None:
        self._present = present
        self._timeline = timeline
        self._processes = processes
        self._coordination = coordination
        self._keeping = keeping
        self._watches = watches
        self._attempts = attempts
        self._warming = warming
        self._training = training
        self._outputs = outputs
        self._masker = masker

    def ends(self) -> Iterator[str]:
        """How processes ended, as far as the cause leaves it open."""
        stopped = self._present.verdict.outcome is Outcome.STOPPED
        for process in self._present.state.processes:
            who = f"{self._present.plan.host} {process.name}"
            if process.life is Life.LEFT:
                pids = ", ".join(map(str, left(process, self._processes[process.name])))
                yield f"{who}: not even SIGKILL ended pid {pids} (uninterruptible sleep); left"
            elif stopped and process.message and not process.server:
                yield f"{who}: {process.message}"
            elif stopped and process.script and process.life is Life.PLANNED:
                yield f"{who}: not started before the stop"

    def snapshot(self) -> Snapshot:
        """What ``/status`` shows."""
        from supervisor.cluster.protocol import encode_cause, encode_verdict  # noqa: PLC0415

        plan, state = self._present.plan, self._present.state
        left_s = self._present.left_s
        # Others' words too: a host may print what is a secret here.
        mask: Callable[[Any], Any] = self._masker.tree
        return {
            "version": __version__,
            "host": plan.host,
            "job": plan.contract.job_name,
            "master": plan.master,
            "phase": state.phase.value,
            "started_at": self._timeline.started_at,
            "uptime_s": self._timeline.seconds,
            "attempt": state.attempt,
            "restarts": self._attempts.history.restarts,
            "attempts": self._attempts.history.newest(),
            "processes": [self._process_row(process) for process in state.processes],
            "progress": mask(self._training.row()),
            "ledger": self._training.book.row(),
            "startups": self._training.startups.rows(),
            "saves": self._training.saving.row(),
            "warm": self._warming.row(),
            "hosts": [self._own_row(), *self._coordination.rows()],
            "budget": {
                "limit_s": None if left_s is None else plan.budgets.stop_limit_s,
                "left_s": None if left_s is None else max(0.0, left_s),
            },
            "cause": None if state.cause is None else mask(encode_cause(state.cause)),
            "verdict": None if state.verdict is None else mask(encode_verdict(state.verdict)),
            "exit_code": self._present.exit_code if state.phase is Phase.DONE else None,
            "waiting": mask(dict(state.waiting)) if state.phase is Phase.JOINING else {},
            "tolerated": [mask(encode_cause(cause)) for cause in state.tolerated],
            "also": [mask(encode_cause(cause)) for cause in state.also],
            "timeline": self._timeline.entries(),
            "probe_latency_s": self._coordination.latency_s,
            "transfers": self._keeping.rows(),
        }

    def report(self, exit_code: int) -> dict[str, object]:
        """``report.json``; times are seconds since the epoch, durations seconds."""
        from supervisor.cluster.protocol import encode_cause  # noqa: PLC0415

        plan, state, verdict = self._present.plan, self._present.state, self._present.verdict
        mask = self._masker.tree
        return {
            "version": 1,
            "supervisor": __version__,
            "job": plan.contract.job_name,
            "host": plan.host,
            "master": plan.master,
            "hosts": list(plan.hosts),
            "strategy": plan.strategy.value,
            "outcome": verdict.outcome.value,
            "exit_code": exit_code,
            "job_exit_code": verdict.exit_code,
            "cause": mask(encode_cause(verdict.cause)),
            "tolerated": [mask(encode_cause(cause)) for cause in state.tolerated],
            "also": [mask(encode_cause(cause)) for cause in state.also],
            "phases": self._timeline.phases(),
            "seconds": self._timeline.seconds,
            "processes": [self._record(process) for process in state.processes],
            **self._attempts.history.report(),
            "progress": mask(self._training.row()),
            "ledger": self._training.book.row(),
            "startups": self._training.startups.rows(),
            "saves": self._training.saving.row(),
            "warm": mask(self._warming.report()),
            "members": self._coordination.rows(),
            "publish_error": mask(state.publish_error),
            "resumed_from": self._watches.resumed_from,
            "unused_servers": list(self._watches.unused_servers),
            "transfers": self._keeping.rows(),
            "unsent": self._keeping.unsent_rows(),
            "output": self._outputs.rows(),
            "timeline": self._timeline.entries(),
        }

    def _own_row(self) -> HostRow:
        name, phase = self._present.plan.host, self._present.state.phase
        return {"name": name, "phase": phase.value, "state": "self", "last_seen_s": 0.0}

    def _record(self, process: Process) -> dict[str, object]:
        return process_record(process, self._processes[process.name], self._masker)

    def _process_row(self, process: Process) -> ProcessRow:
        running = self._processes[process.name]
        ended = running.end is not None
        cpu_s, rss_bytes = None, None
        if running.end is not None:
            cpu_s = running.end.cpu_s
        elif running.child is not None:
            cpu_s, rss_bytes = procfs.usage(running.child.pid)
        state = "exited" if ended else "running" if running.child else "planned"
        if running.outlived_by:
            state = f"outlived by {running.outlived_by}"
        return {
            "name": process.name,
            "role": running.spec.role.value,
            "attempt": process.attempt,
            "pid": running.child.pid if running.child else None,
            "state": state,
            "exit": str(process.status) if process.status else None,
            "started_at": running.started_at,
            "cpu_s": cpu_s,
            "rss_bytes": rss_bytes,
            "output_bytes": running.output_bytes,
            "ready": running.ready,
            "status_text": status_text(running, self._masker),
        }
