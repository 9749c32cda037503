"""A trial of ``blows.py``, performed: real supervisors as the hosts of one job on this machine.

Each host is a ``supervisor train`` with a base directory and ports of its own. One loop starts
them, deals the blows when their time has come, and waits until all is over, in bounded time; then
everything that the hosts left behind is read, for the oracle to judge.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import time
from typing import Final, Self

from supervisor.contract.distribution import Strategy
from supervisor.engines.local import ADDRESS, lay_out
from tests.helpers.blown_host import HostRun, Notes
from tests.helpers.blows import Dealt, Kind, Manner, Seen, Trial, bound_s
from tests.helpers.job import COMMAND, environment, kill_each, processes_with
from tests.helpers.oracle import judge
from tests.helpers.remains import Remains
from tests.helpers.striking import Striker
from tests.helpers.tree import SCRIPTS

_TICK_S: Final = 0.005
_TENSORFLOW: Final = SCRIPTS / "tensorflow_jobs.py"
_STRATEGIES: Final = {
    Kind.MWMS: Strategy.MWMS,
    Kind.TF_MWMS: Strategy.MWMS,
    Kind.PS: Strategy.PS,
    Kind.SERVER: Strategy.PS,
    Kind.TF_PS: Strategy.PS,
}

SCRIPT: Final = """
import os, signal, subprocess, sys, time
notes, manner, script_s, save_s = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
place, host = os.environ["SUPERVISOR_CHECKPOINT_DIR"], os.environ["SM_CURRENT_HOST"]

def note(what):
    with open(os.path.join(notes, f"{host}.{what}"), "a") as file:
        file.write(repr(time.time()) + "\\n")

def save(step):
    path = os.path.join(place, "step")
    with open(path + ".part", "w") as file:
        file.write(str(step))
    os.replace(path + ".part", path)

def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ends = time.monotonic() + save_s
    while time.monotonic() < ends:
        time.sleep(0.02)
    save("last")
    note("saved")
    sys.exit(0)

if manner in ("saves", "wrapped"):
    signal.signal(signal.SIGTERM, stop)
elif manner == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
# What a data loader leaves: a child of the group, and one in a session of its own.
subprocess.Popen(["sleep", "300"])
subprocess.Popen(["sleep", "300"], start_new_session=True)
began = time.monotonic()
note("began")
step = 0
while time.monotonic() - began < script_s:
    step += 1
    print("step", step, flush=True)
    save(step)
    time.sleep(0.1)
note("finished")
"""

WRAPPER: Final = """#!/bin/sh
{python} "{script}" "$@"
exit $?
"""


class Run:
    """One trial in a directory of its own. A context manager that leaves no process behind."""

    def __init__(self, trial: Trial, directory: pathlib.Path) -> None:
        self.trial = trial
        self.directory = directory
        self.dealt: list[Dealt] = []
        self.seen: dict[str, Seen] = {}
        self._hosts: dict[str, HostRun] = {}
        self._notes = Notes(directory / "notes")
        self._promises = contextlib.ExitStack()
        self.seconds = 0.0
        """From the last blow to the end of the last host."""
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for host in self._hosts.values():
            if host.process is not None and host.process.poll() is None:
                host.process.kill()
                host.process.wait(10)
        kill_each(processes_with(self._mark))
        self._promises.close()

    @property
    def _mark(self) -> str:
        return f"{self.directory}/"

    @property
    def kept(self) -> pathlib.Path:
        return self.directory / "kept"

    # ------------------------------------------------------------------ the life

    def perform(self, *, patience: float = 1.0) -> list[str]:
        """Run the job, deal the blows, wait for the end; what is wrong, in sentences."""
        self._lay_out()
        self._live(patience)
        remains = Remains(self.trial, self._hosts, self._notes, self.dealt, self.kept)
        self.seen = remains.seen()
        self.complaints = judge(self.trial, self.dealt, self.seen, patience=patience)
        if self.trial.kind is Kind.KEPT:
            self.complaints += remains.checkpoint_faults()
        return self.complaints

    def _lay_out(self) -> None:
        trial = self.trial
        code = self.directory / "code"
        code.mkdir(parents=True)
        self._notes.directory.mkdir()
        script = code / "train.py"
        words: tuple[str, ...] = (
            str(self._notes.directory),
            trial.manner.value,
            str(trial.script_s),
            str(trial.save_s),
        )
        if trial.kind.tensorflow:
            script = _TENSORFLOW
            job = "ps" if trial.kind is Kind.TF_PS else "mwms"
            words = (job, "--steps", str(int(trial.script_s / 0.1)), "--step-s", "0.1")
        else:
            script.write_text(SCRIPT)
        if trial.manner is Manner.WRAPPED:
            wrapper = code / "run.sh"
            wrapper.write_text(WRAPPER.format(python=sys.executable, script=script))
            wrapper.chmod(0o755)
            script = wrapper
        strategy = _STRATEGIES.get(trial.kind, Strategy.NONE)
        directory, promises = str(self.directory), self._promises
        layouts = lay_out(directory, len(trial.hosts), strategy, str(script), words, {}, promises)
        self._hosts = {each.name: HostRun(each.name, each) for each in layouts}

    def _spawn(self, host: HostRun) -> None:
        env = self.trial.environment
        if self.trial.kind is Kind.KEPT:
            env["SUPERVISOR_CHECKPOINT_S3_URI"] = f"file://{self.kept}"
        with open(host.log, "wb") as log:
            host.process = subprocess.Popen(
                [*COMMAND, "train"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(
                    SAGEMAKER_BASE_DIR=host.layout.base_dir, SUPERVISOR_STATUS_BIND=ADDRESS, **env
                ),
            )
        host.spawned_at = time.time()

    def _live(self, patience: float) -> None:
        striker = Striker(self.trial, self._hosts, self._notes, self._spawn)
        self.dealt = striker.dealt
        began = time.monotonic()
        limit_s = bound_s(self.trial) * patience
        last = began
        """The last thing that we did to it."""
        while True:
            now = time.monotonic()
            for host, stagger_s in zip(self._hosts.values(), self.trial.stagger_s, strict=True):
                if host.process is None and now - began >= stagger_s:
                    self._spawn(host)
                host.poll()
                host.read()
            if striker.turn():
                last = time.monotonic()
            alive = any(host.poll() for host in self._hosts.values())
            if not alive and not striker.expecting:
                break
            if now - last > limit_s:
                break
            time.sleep(_TICK_S)
        for host in self._hosts.values():
            host.read()
        self.seconds = time.monotonic() - last

    # ------------------------------------------------------------------ for people

    def __str__(self) -> str:
        codes = " ".join(str(host.code) for host in self.seen.values())
        cause = next((h.cause for h in self.seen.values() if h.cause), None)
        at = ", ".join(d.phase or "unborn" for d in self.dealt) or "missed"
        told = f"{cause.kind} {cause.host}" if cause else "no cause"
        return f"{self.trial} [{at}] -> {codes}, {told}, {self.seconds:.1f} s"
