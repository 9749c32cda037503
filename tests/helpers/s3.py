"""S3 servers of our own on loopback: ``rclone serve s3`` over a directory, and moto's."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from supervisor.storage.job import Options
from supervisor.storage.location import Location
from tests.helpers.aio import free_port
from tests.helpers.waiting import wait_until

KEY, SECRET = "AKIDTESTKEY", "test-secret-key"
OTHER_KEY, OTHER_SECRET = "AKIDOTHERKEY", "other-secret-key"
"""A second pair that the server knows."""
BUCKET = "bucket"
OPTIONS = Options(region="us-east-1", addressing="path", retry_s=60, timeout_s=20)
_places = itertools.count()


@dataclass(frozen=True)
class Server:
    url: str
    root: pathlib.Path
    """Its buckets are the directories there; moto's are not."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def options(self) -> Options:
        return replace(OPTIONS, endpoint=self.url)

    def place(self) -> Location:
        """One that nobody else has."""
        return Location.parse(f"s3://{BUCKET}/some/prefix-{next(_places)}")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def _running(argv: list[str], port: int, log: pathlib.Path, env: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **env}
        )
    try:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            return _listens(port)

        wait_until(ready, 30, f"{argv[0]} does not listen")
        yield
    finally:
        process.kill()
        process.wait()


def _program(name: str) -> str:
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.path.exists(beside) else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextlib.contextmanager
def rclone(directory: pathlib.Path, *tls: pathlib.Path) -> Iterator[Server]:
    """A server that knows both key pairs. It does not see files that others make later.

    ``tls``: a certificate for ``localhost``, and its key.
    """
    port = free_port()
    root = directory / "buckets"
    (root / BUCKET).mkdir(parents=True, exist_ok=True)
    argv = [
        _program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}",
        "--auth-key", f"{KEY},{SECRET}", "--auth-key", f"{OTHER_KEY},{OTHER_SECRET}",
        "--config", os.devnull, str(root),
    ]  # fmt: skip
    argv += [f"--{name}={path}" for name, path in zip(("cert", "key"), tls, strict=False)]
    with _running(argv, port, directory / "rclone.log", {}):
        yield Server(f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}", root)


@contextlib.contextmanager
def moto(directory: pathlib.Path) -> Iterator[Server]:
    """A mock with a wide API; what rclone's has not."""
    port = free_port()
    argv = [_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with _running(argv, port, directory / "moto.log", {}):
        yield Server(f"http://127.0.0.1:{port}", directory)
