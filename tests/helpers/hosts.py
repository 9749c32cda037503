"""A master and a member as processes of their own, to be killed and stopped by signals.

Run as ``python -m tests.helpers.hosts``; every line on stdout is a JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

from supervisor.cluster.probe import MasterLink
from supervisor.life import events as ev
from supervisor.life.words import Phase
from supervisor.status.board import JobBoard
from supervisor.status.doors import Member
from supervisor.status.server import StatusServer
from tests.helpers.cluster import snapshot
from tests.helpers.tree import ROOT


def say(**line: object) -> None:
    print(json.dumps(line, default=str), flush=True)


async def serve(port: int, members: tuple[Member, ...], lease_s: float) -> None:
    server = StatusServer(
        bind="127.0.0.1",
        port=port,
        host="algo-1",
        board=JobBoard(os.urandom(4).hex()) if members else None,
        members=members,
        token=None,
        snapshot=snapshot,
        ready=lambda: (True, "running"),
        on_report=lambda host, report: say(report=host, phase=report.phase),
        on_lost=lambda host, evidence: say(lost=host, evidence=evidence),
        lease_s=lease_s,
        refused_count=3,
        refused_window_s=0.5,
        on_error=lambda line: say(error=line),
    )
    await server.start()
    say(port=server.port)
    await asyncio.Event().wait()


def _plain(event: ev.Event) -> dict[str, Any]:
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in vars(event).items()
    }


async def follow(port: int, own_port: int, lease_s: float, token: str | None) -> None:
    link = MasterLink(
        host="algo-2",
        master_host="algo-1",
        status_endpoint=("127.0.0.1", port),
        post=lambda event: say(event=type(event).__name__, **_plain(event)),
        token=token,
        lease_s=lease_s,
        refused_count=3,
        refused_window_s=0.5,
    )
    link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(own_port, (), lease_s))
        tasks.create_task(link.run())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("master", "member"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--own-port", type=int, default=0)
    parser.add_argument("--lease", type=float, default=30.0)
    parser.add_argument("--token")
    given = parser.parse_args()
    if given.role == "master":
        members = (Member("algo-2", "127.0.0.1", given.own_port),)
        asyncio.run(serve(given.port, members, given.lease))
    else:
        asyncio.run(follow(given.port, given.own_port, given.lease, given.token))


class Process:
    """One of them, its lines read as they come."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(json.loads(line))

    def of(self, key: str, value: object = None) -> list[dict[str, Any]]:
        return [
            line for line in self.lines if key in line and (value is None or line[key] == value)
        ]

    def send(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def process(role: str, **options: object) -> AsyncIterator[Process]:
    words: Iterator[str] = (
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    )
    it = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.helpers.hosts",
            role,
            *words,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
    )
    try:
        yield it
    finally:
        await it.close()


if __name__ == "__main__":
    main()
