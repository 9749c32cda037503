"""A master's status server and members' links to it, with short leases, for real sockets."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from supervisor.cluster.probe import MasterLink
from supervisor.cluster.protocol import HostReport
from supervisor.life import events as ev
from supervisor.life.words import Cause, CauseKind, ExitStatus, Outcome, Verdict
from supervisor.status.board import JobBoard
from supervisor.status.doors import Member
from supervisor.status.limits import Limits
from supervisor.status.server import StatusServer
from supervisor.status.snapshot import Snapshot, TimeRow
from tests.helpers.aio import free_port

CAUSE = Cause(
    kind=CauseKind.SCRIPT_FAILED,
    host="algo-2",
    message="RuntimeError: loss is NaN (train.py:88); exit 1",
    process="worker",
    exit=ExitStatus(code=1),
    detail='File "train.py", line 88\nRuntimeError: loss is NaN',
    at=1_700_000_000.25,
)
VERDICT = Verdict(Outcome.FAILED, CAUSE, 1)


def training(*, runs: int = 1) -> Snapshot:
    """Of a host that has trained for a while, and of which there were runs before."""
    spent = {
        "fetching": 31.0, "joining": 0.4, "starting": 78.0, "training": 5400.0, "done_again": 300.0,
        "down": 90.6, "waiting": 0.0,
    }  # fmt: skip
    run: TimeRow = {
        "runs": 1, "starts": 3, "wall_s": 5900.0, "seconds": spent, "steps": 1230,
        "goodput": 0.9153,
    }  # fmt: skip
    return snapshot() | {
        "progress": {
            "unit": "step", "step": 1234, "total": 10000, "rate": 0.2278, "left_s": 38481.0,
            "loss": 0.34567, "source": "event files", "where": "logs/<b>train</b>", "at": 99.5,
        },
        "ledger": {
            "account": "training", "unit": "step", "run": run,
            "all": {**run, "runs": runs, "goodput": 0.8912},
        },
        "startups": [
            {
                "attempt": 1, "seconds": 71.0, "fetch_s": 31.0, "fetch_host": "algo-3",
                "join_s": 0.4, "down_s": None, "import_s": 6.3, "first_step_s": 33.3,
            },
            {
                "attempt": 2, "seconds": 24.0, "fetch_s": None, "fetch_host": "", "join_s": None,
                "down_s": 1.5, "import_s": 6.0, "first_step_s": 16.5,
            },
        ],
        "saves": {"save_s": 4.25, "grace_s": 30.0, "every_s": 60.0, "best_s": 158.4},
    }  # fmt: skip


def snapshot() -> Snapshot:
    return {
        "version": "0.1.0",
        "host": "algo-1",
        "job": "mnist",
        "master": "algo-1",
        "phase": "running",
        "started_at": time.time() - 60,
        "uptime_s": 60.0,
        "attempt": 1,
        "restarts": 0,
        "attempts": [],
        "processes": [
            {
                "name": "worker",
                "role": "chief",
                "attempt": 1,
                "pid": 4711,
                "state": "running",
                "exit": None,
                "started_at": time.time() - 50,
                "cpu_s": 12.5,
                "rss_bytes": 500 << 20,
                "output_bytes": 12_345,
                "ready": True,
                "status_text": "fetching <b>data</b>",
            },
            {
                "name": "ps",
                "role": "ps",
                "attempt": 1,
                "pid": None,
                "state": "exited",
                "exit": "killed by SIGKILL",
                "started_at": None,
                "cpu_s": None,
                "rss_bytes": None,
                "output_bytes": 0,
                "ready": False,
                "status_text": "",
            },
        ],
        "hosts": [
            {"name": "algo-1", "phase": "running", "state": "self", "last_seen_s": None},
            {"name": "algo-2", "phase": None, "state": "unseen", "last_seen_s": 1.5},
        ],
        "budget": {"limit_s": 120.0, "left_s": None},
        "cause": None,
        "verdict": None,
        "timeline": [{"at": time.time(), "event": "phase", "phase": "running"}],
    }


@dataclass
class Master:
    server: StatusServer
    board: JobBoard
    reports: list[tuple[str, HostReport]] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@contextlib.asynccontextmanager
async def master(
    *,
    members: tuple[Member, ...] = (Member("algo-2", "127.0.0.1", 1),),
    port: int = 0,
    is_master: bool = True,
    token: str | None = None,
    limits: Limits | None = None,
    lease_s: float = 30.0,
    bind: str = "127.0.0.1",
    run: str = "run-1",
    show: Callable[[], Snapshot] = snapshot,
    **more: Any,
) -> AsyncIterator[Master]:
    missing = tuple(member.host for member in members)
    board = JobBoard(run, missing=missing, restarts=more.pop("restarts", False))
    it = Master(None, board)  # type: ignore[arg-type]  # filled below
    it.server = StatusServer(
        bind=bind,
        port=port,
        host=more.pop("host", "algo-1"),
        board=board if is_master else None,
        members=members,
        token=token,
        snapshot=show,
        ready=more.pop("ready", lambda: (True, "running")),
        on_report=lambda host, report: it.reports.append((host, report)),
        on_lost=lambda host, evidence: it.lost.append((host, evidence)),
        on_refused=lambda host, reason: it.refused.append((host, reason)),
        lease_s=lease_s,
        refused_count=3,
        refused_window_s=more.pop("refused_window_s", 0.3),
        on_error=it.errors.append,
        limits=limits,
        **more,
    )
    await it.server.start()
    try:
        yield it
    finally:
        await it.server.stop()


@dataclass
class Told:
    """A link and what it posted."""

    link: MasterLink
    task: asyncio.Task[None]
    events: list[ev.MasterSeen | ev.JobChanged | ev.MasterLost | ev.MasterEnded]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.asynccontextmanager
async def link(
    port: int, *, host: str = "algo-2", address: str = "127.0.0.1", **more: Any
) -> AsyncIterator[Told]:
    events: list[ev.MasterSeen | ev.JobChanged | ev.MasterLost | ev.MasterEnded] = []
    settings: dict[str, Any] = {
        "lease_s": 30.0,
        "refused_count": 3,
        "refused_window_s": 0.3,
        "bare_after_s": 0.5,
    } | more
    it = MasterLink(
        host=host,
        master_host="algo-1",
        status_endpoint=(address, port),
        post=events.append,
        **settings,
    )
    task = asyncio.create_task(it.run())
    told = Told(it, task, events)
    try:
        yield told
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


__all__ = ["CAUSE", "VERDICT", "Master", "Told", "free_port", "link", "master", "snapshot"]


def session(address: str = "127.0.0.1", **more: Any) -> aiohttp.ClientSession:
    """A client whose connections come from one of loopback's addresses."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(local_addr=(address, 0), force_close=True),
        timeout=aiohttp.ClientTimeout(total=10),
        **more,
    )


async def get(url: str, **params: str) -> tuple[int, bytes]:
    async with session() as client, client.get(url, params=params) as answer:
        return answer.status, await answer.read()
