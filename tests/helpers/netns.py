"""Hosts of a job as network namespaces: addresses, names and ports of their own, and cables to cut.

Every host is a namespace with one ``eth0`` on a bridge; the bridge lies in a namespace too, so that
nothing of it shows in the machine's own network. Names come from a hosts file that is bind-mounted
over ``/etc/hosts`` for the host's processes alone. Needs root and iproute2 (iptables for loss).
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

from tests.helpers import schemas
from tests.helpers.job import COMMAND, environment, kill_each
from tests.helpers.waiting import wait_until

SWITCHES = {
    "ps": "sagemaker_parameter_server_enabled",
    "mwms": "sagemaker_multi_worker_mirrored_strategy_enabled",
}
QUICK = {
    "SUPERVISOR_LOG_FORMAT": "prefix",
    "SUPERVISOR_END_GRACE_S": "2",
    "SUPERVISOR_STOP_LIMIT_S": "40",
    "SUPERVISOR_ACK_TIMEOUT_S": "6",
}


def why_not() -> str | None:
    """Why there can be no namespaces here, if so."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the ip command (iproute2)"
    name = f"sv{os.getpid():x}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.decode().strip()}"
    _run("ip", "netns", "del", name)
    return None


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
    return done.stdout.decode()


class Network:
    """Namespaces ``hosts``, connected. A context manager that leaves nothing behind."""

    def __init__(self, *hosts: str, ipv6: bool = False, tag: str = "") -> None:
        """``tag`` tells several networks of one process apart."""
        self._tag = f"sv{os.getpid():x}{tag}"
        self._switch = f"{self._tag}-switch"
        self._spaces = {host: f"{self._tag}-{host}" for host in hosts}
        self._ports = {host: f"port{number}" for number, host in enumerate(hosts, 1)}
        net, self._mask = ("fd77::", "64") if ipv6 else ("10.77.0.", "24")
        self.addresses = {host: f"{net}{number}" for number, host in enumerate(hosts, 1)}

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for host, space in self._spaces.items():
            with contextlib.suppress(AssertionError):
                self.kill(host)
            with contextlib.suppress(AssertionError):
                _run("ip", "netns", "del", space)
        with contextlib.suppress(AssertionError):
            _run("ip", "netns", "del", self._switch)

    def _build(self) -> None:
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        for host, space in self._spaces.items():
            port = self._ports[host]
            _run("ip", "netns", "add", space)
            _run(
                *("ip", "-n", self._switch, "link", "add", port, "type", "veth"),
                *("peer", "name", "eth0", "netns", space),
            )
            _run("ip", "-n", self._switch, "link", "set", port, "master", "bridge", "up")
            address = f"{self.addresses[host]}/{self._mask}"
            # Without the detection of duplicates, which takes a second, where there is any.
            calm = ("nodad",) if ":" in address else ()
            _run("ip", "-n", space, "address", "add", address, "dev", "eth0", *calm)
            _run("ip", "-n", space, "link", "set", "lo", "up")
            _run("ip", "-n", space, "link", "set", "eth0", "up")

    def inside(self, host: str, *command: str) -> tuple[str, ...]:
        """A command line that runs ``command`` in the host's namespace."""
        return ("ip", "netns", "exec", self._spaces[host], *command)

    def joining(self, host: str, *command: str) -> tuple[str, ...]:
        """The same, and /sys stays as it is: with ``ip netns exec`` it shows no cgroups."""
        return ("nsenter", f"--net=/run/netns/{self._spaces[host]}", *command)

    def ask(self, host: str, *arguments: str) -> str:
        """The output of a Python program in the host's namespace."""
        return _run(*self.inside(host, sys.executable, "-c", *arguments))

    def cut(self, host: str) -> None:
        _run("ip", "-n", self._switch, "link", "set", self._ports[host], "down")

    def join(self, host: str) -> None:
        _run("ip", "-n", self._switch, "link", "set", self._ports[host], "up")

    def lose(self, host: str, probability: float) -> None:
        """Drop this share of the packets that come in."""
        _run(
            *self.inside(host, "iptables", "-A", "INPUT", "-m", "statistic", "--mode", "random"),
            *("--probability", str(probability), "-j", "DROP"),
        )

    def mend(self) -> None:
        """Cables in, nothing lost, nothing running."""
        for host in self._spaces:
            self.kill(host)
            self.join(host)
            if shutil.which("iptables"):
                _run(*self.inside(host, "iptables", "-F", "INPUT"))

    def pids(self, host: str) -> list[int]:
        return [int(pid) for pid in _run("ip", "netns", "pids", self._spaces[host]).split()]

    def kill(self, host: str) -> None:
        """SIGKILL to everything on the host, as when its machine is gone."""

        def gone() -> bool:
            kill_each(self.pids(host))
            return not self.pids(host)

        wait_until(gone, 20)


class Host:
    """One ``supervisor train`` in a namespace, with a base directory of its own."""

    def __init__(self, network: Network, name: str, directory: pathlib.Path) -> None:
        self.network = network
        self.name = name
        self.base = directory / name
        self._names = directory / f"{name}.hosts"
        self._log = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.know(network.addresses)

    def know(self, addresses: Mapping[str, str]) -> None:
        """The names that this host can resolve, from now on. In place: the file is mounted."""
        lines = [f"{address} {name}\n" for name, address in addresses.items()]
        self._names.write_text("127.0.0.1 localhost\n" + "".join(lines))

    def lay_out(
        self, hosts: Sequence[str], strategy: str, script: str, arguments: Sequence[str]
    ) -> None:
        config = self.base / "input" / "config"
        config.mkdir(parents=True)
        (self.base / "code").mkdir()
        (self.base / "code" / "script.py").write_text(script)
        hyper: dict[str, str] = {"sagemaker_program": '"script.py"'}
        if strategy in SWITCHES:
            hyper[SWITCHES[strategy]] = "true"
        files: dict[str, object] = {
            "hyperparameters.json": hyper,
            "resourceconfig.json": {"current_host": self.name, "hosts": list(hosts)},
            "supervisorconfig.json": {"arguments": list(arguments)},
        }
        for name, content in files.items():
            (config / name).write_text(json.dumps(content))

    def start(self, *words: str, **env: str) -> None:
        """``words`` follow ``supervisor train``."""
        enter = 'hostname "$0"; mount --bind "$1" /etc/hosts; shift; exec "$@"'
        command = self.network.inside(
            *(self.name, "unshare", "-u", "sh", "-c", enter, self.name, str(self._names)),
            *(*COMMAND, "train", *words),
        )
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(SAGEMAKER_BASE_DIR=str(self.base), **env),
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def wait_for(self, pattern: str, timeout_s: float = 40.0) -> re.Match[str]:
        found = wait_until(
            lambda: re.search(pattern, self.log), timeout_s, f"{self.name}: no {pattern!r}"
        )
        assert found is not None
        return found

    def wait(self, timeout_s: float = 60.0) -> int:
        """The supervisor's exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} is not over after {timeout_s} s:\n{self.log}"
            ) from None

    @property
    def began(self) -> int:
        """How often the script has begun, for those that note it."""
        path = self.base / "checkpoints" / "began"
        return len(path.read_text()) if path.exists() else 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def status(self) -> dict[str, Any]:
        """What ``supervisor status`` says on this host."""
        command = self.network.inside(self.name, *COMMAND, "status", "--json")
        answer = subprocess.run(
            command, stdout=subprocess.PIPE, env=environment(), timeout=30, check=True
        ).stdout
        return schemas.read("status", answer)

    @property
    def failure(self) -> str:
        path = self.base / "output" / "failure"
        return path.read_text() if path.exists() else ""

    @property
    def report(self) -> dict[str, Any]:
        text = (self.base / "output" / "supervisor" / "report.json").read_text()
        return schemas.read("report", text)


@contextlib.contextmanager
def ended(network: Network, hosts: Sequence[Host]) -> Iterator[None]:
    """At its end nothing of ``hosts``, which may have grown since, runs any more."""
    yield
    network.mend()
    for host in hosts:
        if host.process is not None:
            host.process.wait(10)


def all_run(hosts: Sequence[Host]) -> None:
    """Wait until every script has said that it is there."""
    for host in hosts:
        host.wait_for(r"│ part")


def finish(hosts: Sequence[Host]) -> None:
    """Let every script end with 0, and see that the job then ends well."""
    for host in hosts:
        (host.base / "checkpoints" / "finish").touch()
    for host in hosts:
        assert host.wait() == 0, host.log
        assert host.failure == ""


def lasts(predicate: Callable[[], object], seconds: float) -> bool:
    """Whether a condition holds all the time for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not predicate():
            return False
        time.sleep(0.05)
    return True
