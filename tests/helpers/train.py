"""``supervisor train`` from the outside: lay a host out, start it somewhere, see what it leaves."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import pytest

from tests.helpers import schemas
from tests.helpers.children import command
from tests.helpers.job import COMMAND, LAST_WORDS, environment, kill_each, processes_with
from tests.helpers.waiting import wait_until

_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

PLACES: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "pid 1": _NAMESPACE,
    "unprivileged": ("unshare", "-Urpf", "--mount-proc", "--kill-child"),
    "tini": (*_NAMESPACE, "tini", "--"),
    "dumb-init": (*_NAMESPACE, "dumb-init", "--"),
    "shell": ("sh", "-c", '"$@"; exit $?', "sh"),
}
"""What stands before the command, by what the supervisor then is."""


@functools.cache
def _refusal(place: str) -> str:
    """Why the place is not to be had here; empty if it is."""
    prefix = PLACES[place]
    for word in (prefix[:1], prefix[len(_NAMESPACE) : len(_NAMESPACE) + 1]):
        if word and shutil.which(word[0]) is None:
            return f"{word[0]} is not installed"
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    return f"not permitted here: {done.stderr.strip()}" if done.returncode else ""


class Script(NamedTuple):
    """An entry point: its file's name and content."""

    entry: str
    text: str


def lay_out(
    base: pathlib.Path,
    script: str | Script,
    hyper: Mapping[str, Any] | None = None,
    *,
    hosts: Sequence[str] = ("algo-1",),
    current: str = "algo-1",
) -> None:
    """The container contract of one host below ``base``, with ``script`` as its entry point."""
    config = base / "input" / "config"
    config.mkdir(parents=True)
    (base / "code").mkdir()
    entry, text = script if isinstance(script, Script) else Script("train.py", script)
    (base / "code" / entry).write_text(text)
    given = {"sagemaker_program": entry, **(hyper or {})}
    (config / "hyperparameters.json").write_text(json.dumps(given))
    resources = {"current_host": current, "hosts": list(hosts)}
    (config / "resourceconfig.json").write_text(json.dumps(resources))


def shell(text: str) -> Script:
    """A script of sh(1) as the entry point: it starts in a millisecond."""
    return Script("run.sh", f"#!/bin/sh\n{text}\n")


def child(verb: str, *arguments: object) -> Script:
    """One of the small purposeful children as the entry point."""
    words = " ".join(f"'{word}'" for word in command(verb, *arguments))
    return shell(f"exec {words}")


class Train:
    """One running ``supervisor train``. A context manager that leaves nothing behind.

    Its output goes to files (`out`, `err`), or where ``stdout`` and ``stderr`` say.
    """

    def __init__(
        self,
        base: pathlib.Path,
        *,
        place: str = "plain",
        before: Sequence[str] = (),
        stdout: int | None = None,
        stderr: int | None = None,
        preexec: Callable[[], None] | None = None,
        **env: str,
    ) -> None:
        if reason := _refusal(place):
            pytest.skip(reason)
        self.base = base
        self.port = int(env.get("SUPERVISOR_STATUS_PORT", 0))
        """Of its status; 0 where the test has not chosen one."""
        self._mark = f"SAGEMAKER_BASE_DIR={base}\0"
        self._out_path, self._err_path = base / "stdout", base / "stderr"
        with open(self._out_path, "wb") as out, open(self._err_path, "wb") as err:
            self.process = subprocess.Popen(
                [*PLACES[place], *before, *COMMAND, "train"],
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err if stderr is None else stderr,
                env=environment(SAGEMAKER_BASE_DIR=str(base), **env),
                preexec_fn=preexec,  # noqa: PLW1509  # what a parent may leave to us
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: object = None, error: BaseException | None = None, trace: object = None
    ) -> None:
        if error is not None and self._err_path.exists():
            error.add_note(f"what its script wrote last:\n{self.out[-LAST_WORDS:]}")
            error.add_note(f"the host's last words:\n{self.err[-LAST_WORDS:]}")
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait(10)
        kill_each(self.survivors())

    def survivors(self) -> list[int]:
        return processes_with(self._mark)

    @property
    def out(self) -> str:
        return self._out_path.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err_path.read_text(errors="replace")

    def outputs(self, timeout_s: float = 60.0) -> tuple[bytes, bytes]:
        """All that it wrote into its pipes, once it is over; what is no pipe is empty."""
        out, err = self.process.communicate(timeout=timeout_s)
        return out or b"", err or b""

    def supervisor(self) -> int:
        """The pid of the supervisor itself, as it is seen from here."""
        return wait_until(self._find, 20, "no supervisor")

    def _find(self) -> int:
        found = {}
        for pid in self.survivors():
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            if [word.decode() for word in words[: len(COMMAND)]] == list(COMMAND):
                parent = re.search(r"^PPid:\s*(\d+)", status, re.MULTILINE)
                assert parent is not None
                found[pid] = int(parent[1])
        # Its guardian is a fork of it and looks the same.
        return next((pid for pid, parent in found.items() if parent not in found), 0)

    def send(self, signum: int) -> None:
        """To the supervisor, wherever it is."""
        os.kill(self.supervisor(), signum)

    def wait_for(self, pattern: str, timeout_s: float = 60.0) -> re.Match[str]:
        """The first match in what it wrote to stdout or stderr."""

        def look() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            found = re.search(pattern, self.out) or re.search(pattern, self.err)
            assert found or not ended, f"it ended without {pattern!r}:\n{self.out}{self.err}"
            return found

        found = wait_until(look, timeout_s, f"no {pattern!r} in time")
        assert found is not None
        return found

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit code as a shell shows it. Nothing of the run may be there any more."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over after {timeout_s} s:\n{self.err}") from None
        # Below another init the dead need a moment to be reaped, the living are alive.
        survivors = self.survivors()
        assert not survivors, f"left running: {survivors}\n{self.err}"
        return code

    def stop(self, signum: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        self.send(signum)
        return self.wait(timeout_s)

    @property
    def failure(self) -> str:
        path = self.base / "output" / "failure"
        return path.read_text() if path.exists() else ""

    def output_row(self, name: str) -> Mapping[str, Any]:
        """What the report says of an output: ``stdout``, ``stderr``, or a file by its name."""
        rows = [row for row in self.report["output"] if pathlib.Path(row["name"]).name == name]
        assert len(rows) == 1, self.report["output"]
        found: Mapping[str, Any] = rows[0]
        return found

    def log_file(self, process: str = "chief") -> pathlib.Path:
        return self.base / "output" / "supervisor" / "logs" / f"{process}.log"

    @property
    def report(self) -> Mapping[str, Any]:
        path = self.base / "output" / "supervisor" / "report.json"
        return schemas.read("report", path.read_text())


def several(starts: Iterable[Callable[[], Train]], *, width: int) -> Iterable[Train]:
    """Run many, ``width`` at a time, each waited for; yields those that are over."""
    running: list[Train] = []
    try:
        for start in starts:
            if len(running) == width:
                first = running.pop(0)
                with first:
                    first.wait()
                yield first
            running.append(start())
        while running:
            first = running.pop(0)
            with first:
                first.wait()
            yield first
    finally:
        for each in running:
            each.__exit__()
