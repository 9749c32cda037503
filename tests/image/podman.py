"""podman and buildah with a store of their own, which shares nothing with the machine's."""

from __future__ import annotations

import ast
import configparser
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.helpers.waiting import wait_until

NEEDED: Final = {
    **dict.fromkeys(("podman", "buildah", "runc", "mmdebstrap", "ssh-keygen"), ""),
    **dict.fromkeys(("setpriv", "unshare", "mount", "umount", "ip"), ""),
    "netavark": "/usr/lib/podman/netavark",
    "aardvark-dns": "/usr/lib/podman/aardvark-dns",
    "catatonit": "/usr/libexec/podman/catatonit",
}
"""Programs → where else than in PATH they may lie."""

CONFIGURATION: Final = """\
[containers]
cgroupns = "host"
base_hosts_file = "none"
[engine]
runtime = "limited"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{directory}/tmp"
[engine.runtimes]
limited = ["{runtime}"]
[network]
network_backend = "netavark"
network_config_dir = "{directory}/networks"
"""
STORAGE: Final = """\
[storage]
driver = "overlay"
graphroot = "{directory}/graph"
runroot = "{directory}/run"
"""

NOISE: Final = re.compile(r"systemd connection|connect to syslog|CNI config")
"""podman would have timers of systemd look after the health check, and says each time that it is
not there."""


def missing() -> list[str]:
    """What this machine has to have installed first."""
    return [
        name
        for name, place in NEEDED.items()
        if not shutil.which(name) and not (place and os.path.exists(place))
    ]


class Podman:
    """Everything lies below ``directory``, which is made."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        for name in ("networks", "tmp"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        runtime = pathlib.Path(__file__).with_name("runtime.py")
        self._env = dict(os.environ)
        for variable, name, text in (
            ("CONTAINERS_CONF", "containers.conf", CONFIGURATION),
            ("CONTAINERS_STORAGE_CONF", "storage.conf", STORAGE),
        ):
            path = directory / name
            path.write_text(text.format(directory=directory, runtime=runtime), encoding="utf-8")
            self._env[variable] = str(path)

    def __call__(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """Its stdout; an AssertionError with all that it said where it fails."""
        done = self._done("podman", *arguments, timeout_s=timeout_s)
        said = f"podman {' '.join(arguments)}: {_told(done.stderr)}{_told(done.stdout)}"
        assert done.returncode == 0, said
        return done.stdout.decode()

    def code(self, *arguments: str) -> int:
        """The exit code of a command that may fail."""
        return self._done("podman", *arguments).returncode

    def logs(self, container: str) -> str:
        """stdout and stderr, in the order in which they came."""
        return _told(self._done("podman", "logs", container, stderr=subprocess.STDOUT).stdout)

    def inspect(self, what: str, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self(what, "inspect", name))[0]
        return found

    def build(self, *arguments: str, log: pathlib.Path) -> None:
        """What it says goes into a file: a build's output is long."""
        command = ("buildah", "bud", "--isolation", "chroot", "--network", "host", *arguments)
        done = self._done(*command, stderr=subprocess.STDOUT, timeout_s=3600)
        log.write_bytes(done.stdout)
        assert done.returncode == 0, f"buildah, see {log}:\n{_told(done.stdout)[-3000:]}"

    def _done(
        self, *command: str, stderr: int = subprocess.PIPE, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[bytes]:
        """In a directory of ours: there conmon leaves a file, ``oom``, where memory ran out."""
        return subprocess.run(
            command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=self._env,
            timeout=timeout_s,
            check=False,
        )


def _told(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").splitlines(keepends=True)
    return "".join(line for line in lines if not NOISE.search(line))


class Container:
    """One that was started; ``place`` is the directory that it has as /opt/ml, if any."""

    def __init__(self, podman: Podman, name: str, place: pathlib.Path | None = None) -> None:
        self.podman = podman
        self.name = name
        self.place = place

    @property
    def log(self) -> str:
        return self.podman.logs(self.name)

    def wait_for(self, pattern: str, timeout_s: float = 60.0) -> re.Match[str]:
        """The first match in its output; fails early where it has ended."""

        def look() -> re.Match[str] | None:
            running = self.running
            found = re.search(pattern, self.log, re.MULTILINE)
            assert found or running, f"{self.name} ended without {pattern!r}:\n{self.log[-4000:]}"
            return found

        found = wait_until(look, timeout_s, f"{self.name}: no {pattern!r} in {timeout_s:g} s")
        assert found is not None
        return found

    @property
    def running(self) -> bool:
        return bool(self.podman.inspect("container", self.name)["State"]["Running"])

    def wait(self, timeout_s: float = 120.0) -> int:
        """The exit code of its PID 1."""
        try:
            return int(self.podman("wait", self.name, timeout_s=timeout_s).splitlines()[-1])
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} is not over after {timeout_s:g} s:\n{self.log[-4000:]}"
            ) from None

    def ended(self, code: int, timeout_s: float = 120.0) -> None:
        """It ends with this exit code."""
        found = self.wait(timeout_s)
        assert found == code, f"{self.name}: exit {found}, not {code}:\n{self.log[-4000:]}"

    def read(self, path: str) -> str:
        """A file below its /opt/ml; empty where there is none."""
        assert self.place is not None
        file = self.place / path
        return file.read_text(encoding="utf-8") if file.exists() else ""


def pip_options(directory: pathlib.Path) -> Iterator[str]:
    """Options of a build in which pip is configured as it is here.

    A file for it is mounted, and with it what lies on this machine's disk and is named in it: none
    of that becomes part of the image.
    """
    listed = subprocess.run(
        (sys.executable, "-m", "pip", "config", "list"), capture_output=True, timeout=60, check=True
    )
    found = configparser.RawConfigParser()
    places = set()
    for line in listed.stdout.decode().splitlines():
        name, _, text = line.partition("=")
        section, _, key = name.rpartition(".")
        section = "global" if section == ":env:" else section
        value = str(ast.literal_eval(text))
        if not found.has_section(section):
            found.add_section(section)
        found.set(section, key, value)
        for word in value.split():
            file = word.removeprefix("file://")
            # The pages of an index link to files beside it.
            place = file if file == word else os.path.dirname(file.rstrip("/"))
            if place.startswith("/") and len(place) > 1 and os.path.exists(place):
                places.add(place)
    path = directory / "pip.conf"
    path.touch(mode=0o600)  # an index's address may have a password
    with open(path, "w", encoding="utf-8") as out:
        found.write(out)
    yield from ("--volume", f"{path}:/etc/pip.conf:ro")
    for place in sorted(places):
        yield from ("--volume", f"{place}:{place}:ro")


def remove_groups(ids: Sequence[str]) -> None:
    """Control groups of containers and pods that are gone: podman leaves those of the hierarchies
    that have no controller."""
    for parent in pathlib.Path("/sys/fs/cgroup").glob("*/libpod_parent"):
        for top, _, _ in os.walk(parent, topdown=False):
            if os.path.basename(top).removeprefix("libpod-") in ids:
                with contextlib.suppress(OSError):
                    os.rmdir(top)


class Timed:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def s(self) -> float:
        return time.monotonic() - self._began
