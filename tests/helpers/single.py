"""``supervisor train`` from the outside: one host with a base directory of its own."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from tests.helpers.aio import free_port
from tests.helpers.job import COMMAND, environment, processes_with


class Train:
    """One host that runs ``script``, the text of a Python program. A context manager.

    ``shell`` starts the command, which is ``"$@"``.
    """

    def __init__(
        self,
        base: pathlib.Path,
        script: str,
        env: Mapping[str, str] = MappingProxyType({}),
        *,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        shell: str = 'exec "$@"',
    ) -> None:
        self.base = base
        self.port = free_port()
        config = base / "input" / "config"
        config.mkdir(parents=True)
        (base / "code").mkdir()
        (base / "code" / "script.py").write_text(textwrap.dedent(script))
        resources = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "lo"}
        for name, content in {
            "hyperparameters": {"sagemaker_program": "script.py"},
            "resourceconfig": resources,
            "inputdataconfig": {},
        }.items():
            (config / f"{name}.json").write_text(json.dumps(content))
        extra = {
            "SAGEMAKER_BASE_DIR": str(base),
            "SUPERVISOR_STATUS_PORT": str(self.port),
            "SUPERVISOR_STATUS_BIND": "127.0.0.1",
        }
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", *COMMAND, "train"],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment(**extra, **env),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait(10)
        for pid in processes_with(str(self.base)):
            os.kill(pid, signal.SIGKILL)

    def outputs(self, timeout_s: float = 60.0) -> tuple[bytes, bytes]:
        """All of stdout and stderr, once it is over; what is no pipe is empty."""
        out, err = self.process.communicate(timeout=timeout_s)
        return out or b"", err or b""

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit code. Nothing of the host may be running then."""
        code = self.process.wait(timeout_s)
        assert not processes_with(str(self.base))
        return code

    @property
    def report(self) -> Mapping[str, Any]:
        path = self.base / "output" / "supervisor" / "report.json"
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return report

    def output_row(self, name: str) -> Mapping[str, Any]:
        """What the report says of an output: ``stdout``, ``stderr``, or a file by its name."""
        rows = [row for row in self.report["output"] if pathlib.Path(row["name"]).name == name]
        assert len(rows) == 1, self.report["output"]
        found: Mapping[str, Any] = rows[0]
        return found

    @property
    def failure(self) -> str:
        return (self.base / "output" / "failure").read_text(encoding="utf-8")

    def log_file(self, process: str = "chief") -> pathlib.Path:
        return self.base / "output" / "supervisor" / "logs" / f"{process}.log"
