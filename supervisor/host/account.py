"""What one host knows of its own life, and how it says it: log, timeline, status and report."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from supervisor import __version__
from supervisor.children.child import Child, ChildEnd
from supervisor.host.console import Outputs
from supervisor.life.outcome import host_exit_code, outcome_of
from supervisor.life.state import Process, State
from supervisor.life.words import Life, Outcome, Phase, ProcessSpec, Verdict
from supervisor.linux import procfs
from supervisor.plan.plan import Plan
from supervisor.streams.logs import Log
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # not needed before the script's start: loaded when they are used
    from supervisor.cluster.probe import MasterLink
    from supervisor.linux.memory import MemoryReading
    from supervisor.status.server import StatusServer
    from supervisor.status.snapshot import HostRow, ProcessRow, Snapshot, TransferRow
    from supervisor.storage.agent import Agent
    from supervisor.storage.notices import Unsent

_TIMELINE_LENGTH: Final = 1000


@dataclass(slots=True)
class Running:
    """What the shell keeps of one process."""

    spec: ProcessSpec
    child: Child | None = None
    started_at: float | None = None
    ended_at: float | None = None
    end: ChildEnd | None = None
    pumps: tuple[Any, ...] = ()
    log_file: str = ""
    suspended: bool = False
    stop_sent_at: float | None = None
    asked: bool = False
    """Our stop signal reached the leader while it lived."""
    heartbeat_before: int | None = None
    outlived_by: int = 0
    """Its leader is dead, and so many descendants are not."""
    memory_before: MemoryReading | None = None

    @property
    def output_bytes(self) -> int:
        return sum(pump.bytes_read for pump in self.pumps)


@dataclass(slots=True)
class _PhaseSpan:
    phase: Phase
    at: float
    began: float
    seconds: float | None = None


class Account:
    """Keeps what the reducer's state does not: times, pids, output; and puts both into words."""

    def __init__(self, plan: Plan, outputs: Outputs, log: Log, masker: Masker) -> None:
        self.running = {spec.name: Running(spec) for spec in (*plan.steps, *plan.processes)}
        self.server: StatusServer | None = None
        self.link: MasterLink | None = None
        """On a member."""
        self.agent: Agent | None = None
        self.unsent: tuple[Unsent, ...] = ()
        """What publishing left behind."""
        self.stop_at: float | None = None
        """When the platform kills us, ``time.monotonic()``; None while no stop was asked for."""
        self.unused_servers: tuple[str, ...] = ()
        """Servers of this host that nobody ever connected to."""
        self.resumed_from = ""
        """The checkpoint that the script found or was given, as far as it is known."""
        self._plan = plan
        self._outputs = outputs
        self._log = log
        self._masker = masker
        self._timeline: deque[dict[str, object]] = deque(maxlen=_TIMELINE_LENGTH)
        self._began = time.monotonic()
        self._started_at = time.time()
        self._phases = [_PhaseSpan(Phase.PREPARING, self._started_at, self._began)]

    def replan(self, plan: Plan) -> None:
        """The plan was made again; what has been started stays what it was."""
        self._plan = plan
        for spec in (*plan.steps, *plan.processes):
            known = self.running.setdefault(spec.name, Running(spec))
            if known.child is None:
                known.spec = spec

    def enter(self, phase: Phase) -> None:
        """The life has come to another phase."""
        now = time.monotonic()
        last = self._phases[-1]
        last.seconds = now - last.began
        self._phases.append(_PhaseSpan(phase, time.time(), now))
        self.say("debug", "phase.entered", phase=phase.value)

    def say(self, level: str, event: str, **fields: object) -> None:
        self._log.say(level, event, **fields)
        entry: dict[str, object] = {"at": time.time(), "event": event}
        entry |= {key: _plain(value, self._masker) for key, value in fields.items()}
        self._timeline.append(entry)
        if self.server is not None:
            self.server.publish(entry)

    def verdict(self, state: State) -> Verdict:
        cause = state.cause
        assert cause is not None, "a life ends for a cause"
        return state.verdict or Verdict(outcome_of(cause), cause)

    def ends(self, state: State) -> Iterator[str]:
        """How processes ended, as far as the cause leaves it open."""
        stopped = self.verdict(state).outcome is Outcome.STOPPED
        for process in state.processes:
            who = f"{self._plan.host} {process.name}"
            if process.life is Life.LEFT:
                pids = ", ".join(map(str, self._left(process)))
                yield f"{who}: not even SIGKILL ended pid {pids} (uninterruptible sleep); left"
            elif stopped and process.message and not process.server:
                yield f"{who}: {process.message}"
            elif stopped and process.script and process.life is Life.PLANNED:
                yield f"{who}: not started before the stop"

    def _left(self, process: Process) -> list[int]:
        """The pids of a process's tree that could not be killed."""
        running = self.running[process.name]
        if running.end is not None:
            return list(running.end.left)
        return [running.child.pid] if running.child and process.life is Life.LEFT else []

    def exit_code(self, state: State) -> int:
        return host_exit_code(
            self._plan.host,
            self.verdict(state),
            state.script_status,
            left=state.left,
            publish_error=state.publish_error,
        )

    def snapshot(self, state: State) -> Snapshot:
        """What ``/status`` shows. Secrets are masked here."""
        from supervisor.cluster.protocol import encode_cause, encode_verdict  # noqa: PLC0415

        now = time.monotonic()
        verdict = state.verdict
        # Others' words too: a host may print what is a secret here.
        mask: Callable[[Any], Any] = self._masker.tree
        return {
            "version": __version__,
            "host": self._plan.host,
            "job": self._plan.contract.job_name,
            "master": self._plan.master,
            "phase": state.phase.value,
            "started_at": self._started_at,
            "uptime_s": now - self._began,
            "processes": [self._process_row(process) for process in state.processes],
            "hosts": self._host_rows(state),
            "budget": {
                "limit_s": self._plan.budgets.stop_limit_s if self.stop_at else None,
                "left_s": max(0.0, self.stop_at - now) if self.stop_at else None,
            },
            "cause": None if state.cause is None else mask(encode_cause(state.cause)),
            "verdict": None if verdict is None else mask(encode_verdict(verdict)),
            "waiting": mask(dict(state.waiting)) if state.phase is Phase.JOINING else {},
            "tolerated": [mask(encode_cause(cause)) for cause in state.tolerated],
            "also": [mask(encode_cause(cause)) for cause in state.also],
            "timeline": list(self._timeline),
            "probe_latency_s": self.link.latency_s if self.link else None,
            "transfers": self._transfer_rows(),
        }

    def _transfer_rows(self) -> list[TransferRow]:
        """How what is kept elsewhere stands, as the process that sends it says."""
        return [
            {
                "name": each.name,
                "sent_files": each.sent_files,
                "sent_bytes": each.sent_bytes,
                "pending_files": each.pending_files,
                "pending_bytes": each.pending_bytes,
                "lag_s": each.lag_s,
                "rate_bytes_s": each.rate_bytes_s,
                "newest": each.newest,
                "error": self._masker.text(each.error),
            }
            for each in (self.agent.standings if self.agent else ())
        ]

    def _process_row(self, process: Process) -> ProcessRow:
        running = self.running[process.name]
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
            "pid": running.child.pid if running.child else None,
            "state": state,
            "exit": str(process.status) if process.status else None,
            "started_at": running.started_at,
            "cpu_s": cpu_s,
            "rss_bytes": rss_bytes,
            "output_bytes": running.output_bytes,
        }

    def _host_rows(self, state: State) -> list[HostRow]:
        phase = state.phase.value
        rows: list[HostRow] = [
            {"name": self._plan.host, "phase": phase, "state": "self", "last_seen_s": 0.0}
        ]
        if self.link is not None:
            rows.append(
                {
                    "name": self._plan.master,
                    "phase": None,
                    "state": self.link.state.value,
                    "last_seen_s": self.link.silence_s,
                }
            )
        peers = self.server.members.peers() if self.server and self.link is None else ()
        rows.extend(
            {
                "name": peer.host,
                "phase": peer.phase.value if peer.phase else None,
                "state": peer.state.value,
                "last_seen_s": peer.last_seen_s,
            }
            for peer in peers
        )
        return rows

    def report(self, state: State, exit_code: int) -> dict[str, object]:
        """``report.json``; times are seconds since the epoch, durations seconds."""
        from supervisor.cluster.protocol import encode_cause  # noqa: PLC0415

        verdict = self.verdict(state)
        mask = self._masker.tree
        return {
            "version": 1,
            "supervisor": __version__,
            "job": self._plan.contract.job_name,
            "host": self._plan.host,
            "master": self._plan.master,
            "hosts": list(self._plan.hosts),
            "strategy": self._plan.strategy.value,
            "outcome": verdict.outcome.value,
            "exit_code": exit_code,
            "job_exit_code": verdict.exit_code,
            "cause": mask(encode_cause(verdict.cause)),
            "tolerated": [mask(encode_cause(cause)) for cause in state.tolerated],
            "also": [mask(encode_cause(cause)) for cause in state.also],
            "phases": [
                {"phase": span.phase.value, "at": span.at, "seconds": span.seconds}
                for span in self._phases
            ],
            "seconds": time.monotonic() - self._began,
            "processes": [self._process_record(process) for process in state.processes],
            "members": [row for row in self._host_rows(state) if row["state"] != "self"],
            "publish_error": mask(state.publish_error),
            "resumed_from": self.resumed_from,
            "unused_servers": list(self.unused_servers),
            "transfers": self._transfer_rows(),
            "unsent": [
                {
                    "transfer": each.transfer,
                    "files": each.files,
                    "bytes": each.bytes,
                    "names": list(each.names),
                    "reason": self._masker.text(each.reason),
                }
                for each in self.unsent
            ],
            "output": self._outputs.rows(),
            "timeline": list(self._timeline),
        }

    def _process_record(self, process: Process) -> dict[str, object]:
        running = self.running[process.name]
        end = running.end
        return {
            "name": process.name,
            "role": running.spec.role.value,
            "argv": self._masker.argv(running.spec.argv),
            "cwd": running.spec.cwd,
            "pid": running.child.pid if running.child else None,
            "started_at": running.started_at,
            "ended_at": running.ended_at,
            "seconds": end.run_s if end else None,
            "exit": str(process.status) if process.status else None,
            "exit_code": process.status.code if process.status else None,
            "signal": process.status.signum if process.status else None,
            "stopped_by_us": process.stopped_by_us,
            "cpu_s": end.cpu_s if end else None,
            "peak_rss_bytes": end.peak_rss_bytes if end else None,
            "output_bytes": running.output_bytes,
            "descendants_swept": end.swept if end else None,
            "left": self._left(process),
            "message": self._masker.text(process.message),
            "log": running.log_file or None,
        }


def _plain(value: object, masker: Masker) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each, masker) for each in value]
    return masker.text(str(value))
