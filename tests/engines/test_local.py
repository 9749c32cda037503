"""Ports of the hosts of ``supervisor local``."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
from typing import Any

import pytest

from supervisor.engines import local
from supervisor.engines.local import NoPortsError, free_ports
from tests.helpers.job import Job

# Between the ports of local runs and those that the kernel gives to outgoing connections: no other
# test listens there.


def _only(monkeypatch: pytest.MonkeyPatch, ports: range) -> None:
    monkeypatch.setattr(local, "_LOWEST_PORT", ports.start)
    monkeypatch.setattr(local, "_HIGHEST_PORT", ports.stop)


def test_a_port_is_promised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that began together chose the same port now and then: it looks free until
    TensorFlow binds it, seconds later. The one that came second lost its parameter server."""
    _only(monkeypatch, range(32_100, 32_100 + 2 * local._BLOCK))
    with contextlib.ExitStack() as theirs:
        with contextlib.ExitStack() as ours:
            first, second = free_ports(9, theirs), free_ports(9, ours)
            assert len({*first, *second}) == 18
            with pytest.raises(NoPortsError, match="only 0 of 9"), contextlib.ExitStack() as more:
                free_ports(9, more)
            assert len(free_ports(60)) == 60, "nobody is kept from looking"
        assert set(free_ports(9, theirs)).isdisjoint(first)


def test_a_port_that_is_listened_on_is_not_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, range(32_200, 32_202))
    with socket.create_server(("127.0.0.1", 32_200)), contextlib.ExitStack() as promises:
        assert free_ports(1, promises) == [32_201]


def test_without_room_for_a_promise_there_are_ports_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _only(monkeypatch, range(32_210, 32_212))

    class Refused(socket.socket):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_UNIX:
                raise PermissionError(1, "no such names here")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Refused)
    with contextlib.ExitStack() as promises:
        assert sorted(free_ports(2, promises)) == [32_210, 32_211]


def test_a_run_keeps_its_ports_as_long_as_it_lasts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those too that its script has not bound yet."""
    script = tmp_path / "train.py"
    script.write_text("import sys, time\nprint('ready', flush=True)\ntime.sleep(60)")
    arguments = ("--hosts", "1", "--strategy", "none", str(script))
    with Job(tmp_path / "run", *arguments) as job:
        job.wait_for("│ ready")
        config = job.host_dir("algo-1") / "input" / "config" / "supervisorconfig.json"
        (host,) = json.loads(config.read_text())["hosts"].values()
        ports = sorted(host["ports"].values())
        first = ports[0] - (ports[0] - local._LOWEST_PORT) % local._BLOCK
        _only(monkeypatch, range(first, first + local._BLOCK))
        with pytest.raises(NoPortsError), contextlib.ExitStack() as promises:
            free_ports(1, promises)
        job.process.terminate()
        assert job.wait() == 143
        with contextlib.ExitStack() as promises:
            assert free_ports(3, promises) == ports, "and no longer"
