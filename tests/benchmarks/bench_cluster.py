"""One master and 1,000 members that really poll it: join, idle cost, one death, restarts, verdict.

    python -m tests.benchmarks.bench_cluster [--members 1000] [--idle-s 15] [--restarts 5]

The members are `MasterLink`s, a few hundred to a process, over loopback TCP. The same is done with
a bare aiohttp handler that long-polls without any of our code: the yardstick. Times of different
processes are compared by CLOCK_MONOTONIC, which they share.

A restart here is what the hosts say to each other for one of all of them: the master orders it,
each member is ready as soon as it hears that, and the job runs again when all are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from supervisor.life import events as ev
from supervisor.life.attempts import Order, Scope
from supervisor.life.words import JobState, Phase
from tests.helpers.aio import free_port
from tests.helpers.cluster import CAUSE, VERDICT, snapshot

ROOT = Path(__file__).resolve().parents[2]
INSTANCE = "bench"


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def commands() -> AsyncIterator[str]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line.decode().strip()


def stats() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    say(cpu_s=used.ru_utime + used.ru_stime, rss=resident_bytes(), at=time.monotonic())


def order_of(turn: int) -> Order:
    return Order(turn, turn + 1, Scope.ALL, (("host-0", "worker"),), CAUSE)


# --------------------------------------------------------------------------- the two servers


async def serve(members: int, death_port: int, doors: list[int]) -> None:
    """The real one."""
    from supervisor.cluster.protocol import HostReport
    from supervisor.status.board import JobBoard
    from supervisor.status.doors import Member
    from supervisor.status.server import StatusServer

    names = [f"host-{number}" for number in range(members)]
    board = JobBoard(INSTANCE, missing=tuple(names), restarts=True)
    joined: set[str] = set()
    missing = dict.fromkeys(names)
    turn = 0
    ready: set[str] = set()

    def on_report(host: str, report: HostReport) -> None:
        if report.turn:
            if report.turn == turn:
                ready.add(host)
            if len(ready) == members:
                ready.clear()
                say(all_ready=time.monotonic())
                board.announce(JobState.RUNNING)
            return
        joined.add(host)
        missing.pop(host, None)
        if board.document.state is JobState.JOINING:
            board.announce(JobState.JOINING if missing else JobState.RUNNING, None, tuple(missing))
        if len(joined) == members:
            say(joined=time.monotonic())

    server = StatusServer(
        bind="127.0.0.1",
        port=0,
        host="algo-1",
        board=board,
        members=[
            *(
                Member(name, "127.0.0.1", doors[at * len(doors) // members])
                for at, name in enumerate(names)
            ),
            Member("algo-2", "127.0.0.1", death_port),
        ],
        token="bench",
        snapshot=snapshot,
        ready=lambda: (True, ""),
        on_report=on_report,
        on_lost=lambda host, evidence: say(lost=host, evidence=evidence, at=time.monotonic()),
        on_error=lambda line: say(error=line),
    )
    await server.start()
    say(port=server.port)
    async for command in commands():
        if command == "restart":
            turn += 1
            say(ordered=time.monotonic())
            board.announce(JobState.RESTARTING, order=order_of(turn))
        elif command == "announce":
            say(announced=time.monotonic())
            revision = board.announce(JobState.ENDED, VERDICT)
            while sum(peer.heard == revision for peer in server.members.peers()) < members:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            say(acknowledged=time.monotonic())
        elif command == "stats":
            stats()


async def serve_bare(members: int) -> None:
    """The yardstick: a long poll in aiohttp's plainest form, nothing checked, nobody watched."""
    from aiohttp import web

    from supervisor.cluster.protocol import JobDocument, encode_job

    bodies = [encode_job(JobDocument(INSTANCE, 1, JobState.JOINING))]
    changed = [asyncio.Event()]
    joined: set[str] = set()
    ready: set[str] = set()
    turn = 0

    def publish(state: JobState, **more: Any) -> None:
        order = order_of(turn) if turn else None
        document = JobDocument(INSTANCE, len(bodies) + 1, state, order=order, **more)
        bodies.append(encode_job(document))
        changed.pop().set()
        changed.append(asyncio.Event())

    async def job(request: web.Request) -> web.Response:
        if int(request.query["after"]) >= len(bodies):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(float(request.query["wait"])):
                    await changed[-1].wait()
        return web.Response(body=bodies[-1])

    async def put(request: web.Request) -> web.Response:
        if json.loads(await request.read())["turn"] == turn > 0:
            ready.add(request.match_info["name"])
            if len(ready) == members:
                ready.clear()
                say(all_ready=time.monotonic())
                publish(JobState.RUNNING)
            return web.Response(body=bodies[-1])
        joined.add(request.match_info["name"])
        if len(joined) == members:
            say(joined=time.monotonic())
        return web.Response(body=bodies[-1])

    app = web.Application()
    app.router.add_get("/v1/job", job)
    app.router.add_put("/v1/hosts/{name}", put)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    say(port=runner.addresses[0][1])
    async for command in commands():
        if command == "restart":
            turn += 1
            say(ordered=time.monotonic())
            publish(JobState.RESTARTING)
        elif command == "announce":
            say(announced=time.monotonic())
            publish(JobState.ENDED, verdict=VERDICT)
        elif command == "stats":
            stats()


# --------------------------------------------------------------------------- members


async def follow(port: int, first: int, count: int, door: int) -> None:
    from supervisor.cluster.probe import MasterLink

    heard: dict[str, list[float]] = {}

    def note(what: str) -> None:
        times = heard.setdefault(what, [])
        times.append(time.monotonic())
        if len(times) == count:
            say(**{what: heard.pop(what)})

    def listen(number: int) -> MasterLink:
        def post(event: object) -> None:
            if isinstance(event, ev.JobChanged) and event.state is JobState.ENDED:
                note("heard")
            elif isinstance(event, ev.JobChanged) and (order := event.order):
                if event.state is JobState.RUNNING:
                    note("running")
                    return
                note("restarting")
                link.report(
                    ev.Report(
                        Phase.RESTARTING,
                        script_ended=False,
                        cause=None,
                        turn=order.turn,
                        attempt=order.attempt,
                    )
                )
            elif not isinstance(event, ev.JobChanged) and "Lost" in type(event).__name__:
                say(alarm=repr(event))

        link = MasterLink(
            host=f"host-{number}",
            master_host="algo-1",
            status_endpoint=("127.0.0.1", port),
            post=post,
            token="bench",
        )
        return link

    links = [listen(number) for number in range(first, first + count)]
    # Where the master knocks to see that these members' own ports are open.
    doorway = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", door)
    say(ready=len(links))
    async for _go in commands():
        break
    async with doorway, asyncio.TaskGroup() as tasks:
        for link in links:
            link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            tasks.create_task(link.run())


# --------------------------------------------------------------------------- the measurement


class Part:
    """A process of the measurement."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")

    async def hear(self, key: str, timeout_s: float = 60) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout_s):
            async for line in self.process.stdout:
                said = json.loads(line)
                if key in said:
                    return said if key in ("cpu_s", "lost") else said[key]
                print("   ", said)
        raise RuntimeError(f"ended without {key}")

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


async def start(*words: object, module: str = "tests.benchmarks.bench_cluster") -> Part:
    return Part(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *map(str, words),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=1 << 20,
        )
    )


async def restart(server: Part, clients: list[Part]) -> tuple[float, float, float]:
    """From the order until all have heard it, until all are ready, until all hear that it runs."""
    await asyncio.sleep(1)  # every member polls again
    server.tell("restart")
    ordered = await server.hear("ordered")
    heard = [at for client in clients for at in await client.hear("restarting")]
    ready = await server.hear("all_ready")
    running = [at for client in clients for at in await client.hear("running")]
    return max(heard) - ordered, ready - ordered, max(running) - ordered


async def measure(
    role: str, members: int, idle_s: float, processes: int, restarts: int
) -> dict[str, str]:
    figures: dict[str, str] = {}
    death_port = free_port()
    doors = [free_port() for _ in range(processes)]
    server = await start(
        *(role, "--members", members, "--death-port", death_port, "--doors", *doors)
    )
    parts = [server]
    try:
        port = await server.hear("port")
        share = members // processes
        clients = [
            await start(
                *("members", "--port", port, "--first", at * share, "--members", share),
                *("--doors", door),
            )
            for at, door in enumerate(doors)
        ]
        parts += clients
        for client in clients:
            await client.hear("ready")
        began = time.monotonic()
        for client in clients:
            client.tell("go")
        figures["all members joined, s"] = f"{await server.hear('joined') - began:.2f}"

        await asyncio.sleep(3)  # the joining's own tail
        server.tell("stats")
        before = await server.hear("cpu_s")
        await asyncio.sleep(idle_s)
        server.tell("stats")
        after = await server.hear("cpu_s", idle_s + 30)
        busy = (after["cpu_s"] - before["cpu_s"]) / (after["at"] - before["at"])
        figures["idle CPU of the master, % of a core"] = f"{100 * busy:.2f}"
        figures["resident memory of the master, MiB"] = f"{after['rss'] / 2**20:.0f}"

        if role == "server":
            victim = await start(
                *("member", "--port", port, "--own-port", death_port, "--token", "bench"),
                module="tests.helpers.hosts",
            )
            parts.append(victim)
            await victim.hear("state")
            await asyncio.sleep(2)
            died = time.monotonic()
            victim.process.send_signal(signal.SIGKILL)
            lost = await server.hear("lost")
            figures["SIGKILL of one member noticed after, s"] = f"{lost['at'] - died:.2f}"
            figures["… as"] = lost["evidence"].partition(":")[0]

        server.tell("stats")
        before = await server.hear("cpu_s")
        times = [await restart(server, clients) for _ in range(restarts)]
        server.tell("stats")
        spent_s = (await server.hear("cpu_s"))["cpu_s"] - before["cpu_s"]
        figures["CPU of the master for one restart, s"] = f"{spent_s / restarts:.3f}"
        for what, each in zip(
            ("order known to the last", "… all ready", "… known to the last that it runs"),
            zip(*times, strict=True),
            strict=False,
        ):
            figures[f"{what}, s"] = f"{statistics.median(each):.3f} ≤{max(each):.3f}"

        server.tell("announce")
        announced = await server.hear("announced")
        heard = sorted(
            at for times in [await client.hear("heard") for client in clients] for at in times
        )
        figures["verdict known to half of them, s"] = f"{heard[len(heard) // 2] - announced:.3f}"
        figures["verdict known to the last, s"] = f"{heard[-1] - announced:.3f}"
        if role == "server":
            figures["verdict acknowledged by the last, s"] = (
                f"{await server.hear('acknowledged') - announced:.3f}"
            )
    finally:
        for part in parts:
            await part.end()
    return figures


async def compare(members: int, idle_s: float, processes: int, restarts: int) -> None:
    print(f"{members} members in {processes} processes, {os.cpu_count()} cores")
    columns = {
        "supervisor": await measure("server", members, idle_s, processes, restarts),
        "bare aiohttp": await measure("bare", members, idle_s, processes, restarts),
    }
    names = list(columns["supervisor"])
    width = max(map(len, names))
    print(" " * width, *(f"{title:>14}" for title in columns))
    for name in names:
        print(name.ljust(width), *(f"{column.get(name, '-'):>14}" for column in columns.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", default="compare")
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--idle-s", type=float, default=15.0)
    parser.add_argument("--restarts", type=int, default=5, help="the median of so many is told")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--death-port", type=int, default=0)
    parser.add_argument("--doors", type=int, nargs="*", default=[0])
    given = parser.parse_args()
    match given.role:
        case "server":
            asyncio.run(serve(given.members, given.death_port, given.doors))
        case "bare":
            asyncio.run(serve_bare(given.members))
        case "members":
            asyncio.run(follow(given.port, given.first, given.members, given.doors[0]))
        case _:
            asyncio.run(compare(given.members, given.idle_s, given.processes, given.restarts))


if __name__ == "__main__":
    main()
