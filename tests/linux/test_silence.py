"""Connections that carry nothing for a while, between real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Self

import pytest

from supervisor.linux import procfs
from supervisor.linux.silence import Silence
from tests.helpers import cutting
from tests.helpers.waiting import wait_until

ECHO = """
import socket, sys, threading
def echo(link):
    while data := link.recv(100):
        link.sendall(data)
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
server = socket.create_server(("", 0), family=family, dualstack_ipv6=sys.argv[1] == "6")
print(server.getsockname()[1], flush=True)
while True:
    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
"""
SILENT_S = 0.3
"""More than TCP needs to send a segment again."""


class Echo:
    def __init__(self, family: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ECHO, family], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.pid = self.process.pid
        self.port = int(self.process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:
            pass

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 5)


@pytest.fixture(params=["4", "6"])
def echo(request: pytest.FixtureRequest) -> Iterator[Echo]:
    """A server of IPv4, and one of both as TensorFlow's is."""
    with Echo(request.param) as server:
        yield server


@pytest.fixture
def silence() -> Silence:
    if reason := cutting.why_not():
        pytest.skip(f"the kernel refuses it here: {reason}")
    return Silence()


def hears(link: socket.socket, timeout_s: float = 10.0) -> bytes:
    link.settimeout(timeout_s)
    try:
        return link.recv(100)
    except TimeoutError:
        return b""


def test_a_cut_is_silent_and_what_was_said_meanwhile_arrives_after_it(
    echo: Echo, silence: Silence
) -> None:
    with echo.connect() as link:
        link.sendall(b"before")
        assert hears(link) == b"before"
        silence.apply({os.getpid(): "", echo.pid: "other"})
        link.sendall(b"meanwhile")
        with echo.connect() as late:
            late.sendall(b"late")
            assert hears(late, SILENT_S) == b""
            silence.apply({os.getpid(): "", echo.pid: "other"})
            assert hears(late, SILENT_S) == b""
            assert hears(link, SILENT_S) == b""
            assert silence.apply({os.getpid(): "", echo.pid: ""}) == 0
            assert hears(link) == b"meanwhile"
            assert hears(late) == b"late"


def test_connections_within_a_side_work(echo: Echo, silence: Silence) -> None:
    with Echo("4") as third, third.connect() as cut, echo.connect() as old:
        sides = {os.getpid(): "", echo.pid: "", third.pid: "other"}
        silence.apply(sides)
        old.sendall(b"old")
        assert hears(old) == b"old"
        with echo.connect() as new:
            new.sendall(b"new")
            # Once it is accepted it is looked at, and let go.
            wait_until(lambda: silence.apply(sides) == 0, 5, "not accepted")
            assert hears(new) == b"new"
        cut.sendall(b"cut")
        assert hears(cut, SILENT_S) == b""
        silence.apply(dict.fromkeys(sides, ""))
        assert hears(cut) == b"cut"


def test_what_nobody_has_accepted_is_counted_and_mended_later(echo: Echo, silence: Silence) -> None:
    silence.apply({os.getpid(): "", echo.pid: "other"})
    mended = {os.getpid(): "", echo.pid: ""}
    os.kill(echo.pid, signal.SIGSTOP)
    wait_until(lambda: (found := procfs.stat(echo.pid)) and found.stopped, 5, "not stopped")
    with echo.connect() as link:
        link.sendall(b"patience")
        assert silence.apply(mended) == 1
        os.kill(echo.pid, signal.SIGCONT)
        wait_until(lambda: silence.apply(mended) == 0, 5, "not accepted")
        assert hears(link) == b"patience"
