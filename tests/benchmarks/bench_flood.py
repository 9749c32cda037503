"""What a flood on the status port costs: the time of ``/livez``, members' polls, CPU and memory.

    python -m tests.benchmarks.bench_flood [--seconds 5] [--threads 50] [--kinds connect idle …]

A master with members that really poll it, and a stranger that does one thing as often as one
process can, over loopback addresses: the stranger is 127.0.0.66, the members 127.0.0.2 and on, the
orchestrator that asks for ``/livez`` 127.0.0.77. With ``--from-member`` the flood comes from a
member's own address. The same flood on a bare aiohttp server is the yardstick. Nothing leaves the
machine. "Starved" is the share of the time that the server waited for a CPU that others had.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.cluster import snapshot

ROOT = Path(__file__).resolve().parents[2]
STRANGER, ORCHESTRATOR = "127.0.0.66", "127.0.0.77"
LEASE_S = 10.0
SLOW_S = 2.0
"""A poll whose answer takes so much longer than its wait counts as lost, as one that breaks."""

Send = Callable[[socket.socket], None]


# --------------------------------------------------------------------------- floods


def _connect(_end: socket.socket) -> None:
    pass


def _says(*words: bytes, read: bool = True) -> Send:
    def send(end: socket.socket) -> None:
        for word in words:
            end.sendall(word)
        while read and end.recv(65536):
            pass

    return send


_HELD: list[socket.socket] = []


def _holds(words: bytes) -> Send:
    """Send and keep the connection, up to 400 of them; then let the oldest go."""

    def send(end: socket.socket) -> None:
        if words:
            end.sendall(words)
        _HELD.append(end.dup())
        if len(_HELD) > 400:
            _HELD.pop(0).close()

    return send


_PUT = b"PUT /v1/hosts/host-0 HTTP/1.1\r\nHost: x\r\n"
FLOODS: dict[str, Send] = {
    "connect and close": _connect,
    "connect and hold": _holds(b""),
    "half a head": _holds(b"GET /livez HTTP/1.1\r\nHost:"),
    "idle after an answer": _holds(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"),
    "GET /livez": _says(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    "GET /status": _says(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    "GET /status, unread": _holds(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" * 50),
    "GET /events": _holds(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"),
    "long polls": _holds(b"GET /v1/job?wait=30&after=9 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "pipelined": _says(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 2000, read=False),
    "many small headers": _holds(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000),
    "huge headers": _holds(b"GET / HTTP/1.1\r\n" + (b"a: " + b"b" * 4000 + b"\r\n") * 60),
    "chunks of a byte": _says(
        _PUT + b"Transfer-Encoding: chunked\r\n\r\n", *((b"1\r\na\r\n" * 20_000,) * 50), read=False
    ),
    "large body": _says(_PUT + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000),
    "refused reports": _says(_PUT + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"),
    "TLS": _says(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200),
    "HTTP/2": _says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.0": _says(b"GET / HTTP/1.0\r\n\r\n"),
}


def flood(port: int, kind: str, threads: int, seconds: float, source: str) -> None:
    """Do one thing again and again; print how often."""
    end_at = time.monotonic() + seconds
    times = [0] * threads
    send = FLOODS[kind]

    def again(number: int) -> None:
        while time.monotonic() < end_at:
            times[number] += 1
            with contextlib.suppress(OSError), socket.socket() as end:
                # One source port may serve many connections: the other end is always the same.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                end.settimeout(2)
                end.bind((source, 0))
                end.connect(("127.0.0.1", port))
                send(end)

    working = [threading.Thread(target=again, args=(number,)) for number in range(threads)]
    for each in working:
        each.start()
    for each in working:
        each.join()
    print(json.dumps({"times": sum(times), "seconds": seconds}), flush=True)


# --------------------------------------------------------------------------- the two servers


def _figures() -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    with open("/proc/self/schedstat", encoding="ascii") as file:
        starved_s = int(file.read().split()[1]) / 1e9
    return {
        "cpu_s": used.ru_utime + used.ru_stime,
        "rss": pages * resource.getpagesize(),
        "starved_s": starved_s,
    }


async def serve(members: int) -> None:
    """Run the real one."""
    from supervisor.life.words import JobState
    from supervisor.status.board import JobBoard
    from supervisor.status.doors import Member
    from supervisor.status.server import StatusServer

    board = JobBoard("bench")
    lost: list[str] = []
    server = StatusServer(
        bind="127.0.0.1",
        port=0,
        host="algo-1",
        board=board,
        # Their own ports are never open: only the lease can lose them here.
        members=[Member(f"host-{at}", f"127.0.0.{2 + at}", 1) for at in range(members)],
        token=None,
        snapshot=snapshot,
        ready=lambda: (True, ""),
        on_lost=lambda host, evidence: lost.append(f"{host}: {evidence}"),
        lease_s=LEASE_S,
    )
    await server.start()
    board.announce(JobState.RUNNING)
    print(json.dumps({"port": server.port}), flush=True)
    await _answer_with_figures(lost)


async def serve_bare() -> None:
    """Run the yardstick."""
    from aiohttp import web

    logging.disable()  # its log of the flood would be the measurement

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="alive")

    async def job(request: web.Request) -> web.Response:
        await asyncio.sleep(min(30.0, float(request.query.get("wait", "0"))))
        return web.Response(text="{}")

    async def put(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="{}")

    app = web.Application()
    for path in ("/livez", "/status", "/events", "/"):
        app.router.add_get(path, livez)
    app.router.add_get("/v1/job", job)
    app.router.add_put("/v1/hosts/{name}", put)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await _answer_with_figures([])


async def _answer_with_figures(lost: list[str]) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for _line in reader:
        print(json.dumps(_figures() | {"lost": lost}), flush=True)


# --------------------------------------------------------------------------- who must not mind


def ask(port: int, source: str, request: bytes, timeout_s: float) -> tuple[float, bytes]:
    """One request on a connection of its own: how long it took, and the answer."""
    began = time.monotonic()
    answer = b""
    with contextlib.suppress(OSError), socket.socket() as end:
        end.settimeout(timeout_s)
        end.bind((source, 0))
        end.connect(("127.0.0.1", port))
        end.sendall(request)
        while part := end.recv(65536):
            answer += part
    return time.monotonic() - began, answer


def watch(port: int, members: int, stop: threading.Event) -> tuple[list[float], list[float], int]:
    """Ask for /livez and poll and report as members do; give times, and how often it failed."""
    livez: list[float] = []
    reports: list[float] = []
    failed = [0]

    def orchestrator() -> None:
        request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        while not stop.is_set():
            took_s, answer = ask(port, ORCHESTRATOR, request, 30)
            livez.append(took_s)
            failed[0] += not answer.startswith(b"HTTP/1.1 200")
            stop.wait(0.1)

    def member(at: int) -> None:
        # A poll whose connection is new every time: harder than the members' own.
        request = (
            f"GET /v1/job?v=3&host=host-{at}&instance=bench&run=bench&after=2&wait=0.3 HTTP/1.1\r\n"
            "Host: x\r\nConnection: close\r\n\r\n"
        ).encode()
        while not stop.is_set():
            took_s, answer = ask(port, f"127.0.0.{2 + at}", request, 30)
            reports.append(took_s - 0.3)
            failed[0] += not answer.startswith(b"HTTP/1.1 200") or took_s > 0.3 + SLOW_S

    working = [threading.Thread(target=orchestrator)]
    working += [threading.Thread(target=member, args=(at,)) for at in range(members)]
    for each in working:
        each.start()
    for each in working:
        each.join()
    return livez, reports, failed[0]


def measure(role: str, kind: str, given: argparse.Namespace) -> list[str]:
    """Give one row of figures."""
    module = (sys.executable, "-m", "tests.benchmarks.bench_flood")
    server = subprocess.Popen(
        [*module, role, "--members", str(given.members)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin
    assert server.stdout
    try:
        port = json.loads(server.stdout.readline())["port"]

        def figures() -> dict[str, Any]:
            assert server.stdin
            assert server.stdout
            server.stdin.write("\n")
            server.stdin.flush()
            said: dict[str, Any] = json.loads(server.stdout.readline())
            return said

        ask(port, ORCHESTRATOR, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 5)
        before = figures()
        source = "127.0.0.2" if given.from_member else STRANGER
        evil = subprocess.Popen(
            [
                *(*module, "flood", "--port", str(port), "--kinds", kind, "--source", source),
                *("--threads", str(given.threads), "--seconds", str(given.seconds)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        began = time.monotonic()
        stop = threading.Event()
        ending = threading.Timer(given.seconds, stop.set)
        ending.start()
        livez, polls, failed = watch(port, given.members, stop)
        busy_s = time.monotonic() - began
        after = figures()
        said = json.loads(evil.communicate(timeout=60)[0])
        return [
            f"{said['times'] / said['seconds']:.0f}",
            f"{statistics.median(livez):.3f}",
            f"{max(livez):.3f}",
            f"{max(polls):.3f}",
            f"{failed}",
            f"{100 * (after['cpu_s'] - before['cpu_s']) / busy_s:.0f}",
            f"{100 * (after['starved_s'] - before['starved_s']) / busy_s:.0f}",
            f"{before['rss'] / 2**20:.0f} → {after['rss'] / 2**20:.0f}",
            *map(str, after["lost"]),
        ]
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Run one part, or the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", default="compare")
    parser.add_argument("--kinds", nargs="*", default=list(FLOODS), metavar="KIND")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=50)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--source", default=STRANGER)
    parser.add_argument("--from-member", action="store_true")
    parser.add_argument("--bare", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    match given.role:
        case "server":
            asyncio.run(serve(given.members))
        case "bare":
            asyncio.run(serve_bare())
        case "flood":
            flood(given.port, given.kinds[0], given.threads, given.seconds, given.source)
        case _:
            print(f"{given.threads} threads, {given.seconds:g} s each, {os.cpu_count()} cores")
            heads = [
                "tries/s",
                "livez p50",
                "max",
                "poll max",
                "failed",
                "CPU %",
                "RSS MiB",
                "lost",
            ]
            print(f"{'':32}", *(f"{head:>10}" for head in heads))
            for kind in given.kinds:
                for role in ("server", "bare") if given.bare else ("server",):
                    row = measure(role, kind, given)
                    name = kind if role == "server" else "   bare aiohttp"
                    print(f"{name:32}", *(f"{cell:>10}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
