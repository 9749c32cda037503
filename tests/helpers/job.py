"""``supervisor local`` from the outside: start it, watch its output, and look at what it left."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Self

from tests.helpers import schemas
from tests.helpers.tree import ROOT
from tests.helpers.waiting import wait_until

COMMAND = (sys.executable, "-P", "-m", "supervisor")
CRASHES = (128 + signal.SIGSEGV, 128 + signal.SIGABRT)
"""How a script may end that raised beside the threads of its TensorFlow server: once in some
hundred runs they crash the interpreter's end, after the traceback."""
LAST_WORDS = 8000
"""Characters of the output that are shown where a test fails: how each process ended, and why."""


def environment(**extra: str) -> dict[str, str]:
    """Ours, less whatever could steer a supervisor, and with this tree's package first."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("SUPERVISOR_")}
    env["PYTHONPATH"] = str(ROOT)
    return env | extra


def processes_with(text: str) -> list[int]:
    """Living processes that have ``text`` in their environment or command line."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            content = pathlib.Path(f"/proc/{entry}/environ").read_bytes()
            content += pathlib.Path(f"/proc/{entry}/cmdline").read_bytes()
            state = pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(") ", 1)[1][0]
        except OSError:
            continue
        if text.encode() in content and state not in "ZX":
            found.append(int(entry))
    return found


def kill_each(pids: Iterable[int]) -> None:
    """SIGKILL to each that is still there: one may end by itself just then."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Job:
    """One ``supervisor local`` in a run directory of its own. A context manager that ends it."""

    def __init__(self, run_dir: pathlib.Path, *arguments: str, **env: str) -> None:
        self.run_dir = run_dir
        self.out_path = run_dir.parent / f"{run_dir.name}.out"
        self._out = open(self.out_path, "wb")  # noqa: SIM115  # closed in __exit__
        self.process = subprocess.Popen(
            [*COMMAND, "local", "--run-dir", str(run_dir), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            env=environment(**env),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._out.close()
        if error is not None:
            error.add_note(f"the job's last words:\n{self.output[-LAST_WORDS:]}")
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        kill_each(processes_with(str(self.run_dir)))

    @property
    def output(self) -> str:
        return self.out_path.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str, timeout_s: float = 60.0) -> re.Match[str]:
        """The first match of ``pattern`` in the output; fails early if the job has ended."""

        def look() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            found = re.search(pattern, self.output)
            assert found or not ended, f"the job ended without {pattern!r}:\n{self.output}"
            return found

        found = wait_until(look, timeout_s, f"no {pattern!r} in time")
        assert found is not None
        return found

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit code. Nothing of the job may be running then."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over after {timeout_s} s:\n{self.output}") from None
        assert not processes_with(str(self.run_dir)), f"left running:\n{self.output}"
        return code

    def pid_of(self, host: str, process: str, timeout_s: float = 60.0) -> int:
        """The pid of a process of a host, from the log."""
        started = rf"{host} supervisor .* process\.started: {process} runs, pid (\d+)"
        return int(self.wait_for(started, timeout_s)[1])

    def supervisor_of(self, host: str) -> int:
        """The pid of a host's supervisor: the parent of its script."""
        pid = self.pid_of(host, "(?:chief|master|worker)")
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return int(re.search(r"^PPid:\s*(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]

    def supervisors(self, *hosts: str) -> dict[str, int]:
        """The pid of each host's supervisor, whatever becomes of its processes."""
        ours = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        children = pathlib.Path(ours).read_text().split()
        places = {str(self.host_dir(host)).encode(): host for host in hosts}
        found = {}
        for pid in children:
            for word in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if (host := places.get(word.partition(b"=")[2])) is not None:
                    found[host] = int(pid)
        return found

    def host_dir(self, host: str) -> pathlib.Path:
        return self.run_dir / host

    def failure(self, host: str) -> str | None:
        path = self.host_dir(host) / "output" / "failure"
        return path.read_text(encoding="utf-8") if path.exists() else None

    def succeeded(self, host: str) -> bool:
        return (self.host_dir(host) / "output" / "success").exists()

    def report(self, host: str) -> Mapping[str, Any]:
        path = self.host_dir(host) / "output" / "supervisor" / "report.json"
        return schemas.read("report", path.read_text(encoding="utf-8"))

    def exit_codes(self, *hosts: str) -> list[int]:
        return [self.report(host)["exit_code"] for host in hosts]
