"""Ports: who holds one, and whether it can be had."""

import os
import socket
import subprocess
import sys

import pytest

from supervisor.linux.ports import MAX_COMMAND_CHARS, check_free, port_holder
from tests.helpers.aio import free_port


def test_a_free_port_is_free_and_stays_so() -> None:
    port = free_port()
    for _ in range(3):
        assert check_free(port) is None
    assert port_holder(port) is None
    with socket.create_server(("127.0.0.1", port)):
        assert check_free(port) is not None


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")],
)
def test_the_holder_is_named(family: socket.AddressFamily, address: str) -> None:
    """A listener on one address is enough: TensorFlow binds every interface."""
    with socket.create_server((address, 0), family=family) as end:
        port = end.getsockname()[1]
        said = check_free(port)
        assert said is not None
        assert said.startswith(f"port {port} is held by pid {os.getpid()} (")
        assert "python" in said


def test_another_process_is_named_with_its_command() -> None:
    code = (
        "import socket, sys\n"
        "end = socket.create_server(('127.0.0.1', 0))\n"
        "print(end.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, "--password\tx\x1b[31m", "y" * 500]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        holder = port_holder(port)
        child.communicate()
    assert holder is not None
    assert holder.pid == child.pid
    assert len(holder.command) <= MAX_COMMAND_CHARS
    assert holder.command.isprintable()


def test_a_port_in_time_wait_is_free() -> None:
    """gRPC sets SO_REUSEADDR: what lingers of a former job is no obstacle."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the server's side closes first: TIME_WAIT is on its port
        client.close()
    assert check_free(port) is None
