"""A trial of ``blows.py``, performed: real supervisors as the hosts of one job on this machine.

Each host is a ``supervisor train`` with a base directory and ports of its own. One loop starts
them, deals the blows when their time has come, and waits until all is over, in bounded time; then
everything that the hosts left behind is read, for the oracle to judge.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from supervisor.contract.contract import Strategy
from supervisor.engines.local import ADDRESS, LocalHost, lay_out
from tests.helpers.blows import (
    FREEZING,
    MASTER,
    Blow,
    Dealt,
    Ended,
    Kind,
    Manner,
    Seen,
    Target,
    Trial,
    When,
    bound_s,
)
from tests.helpers.job import COMMAND, environment, processes_with
from tests.helpers.oracle import judge

_TICK_S: Final = 0.005
_GONE_S: Final = 3.0
"""After a supervisor's end: for its guardian to end what it had, and for init to reap it."""
_TENSORFLOW: Final = pathlib.Path(__file__).parents[1] / "scripts" / "tensorflow_jobs.py"
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

_LINE: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z (?:DEBUG|INFO|WARNING|ERROR) supervisor \S+ "
    r"([\w.]+)(.*)"
)


@dataclass
class HostRun:
    """One host, its log read as it comes."""

    name: str
    layout: LocalHost
    process: subprocess.Popen[bytes] | None = None
    spawned_at: float = 0.0
    ended_at: float | None = None
    phase: str = ""
    up_at: float | None = None
    ending_at: float | None = None
    exits: dict[str, float] = field(default_factory=dict)
    """When a process left with 0."""
    pids: dict[str, int] = field(default_factory=dict)
    joined: dict[str, float] = field(default_factory=dict)
    reborn: bool = False
    steps: bool = False
    """A TensorFlow script's first step is made."""
    _read: int = 0
    _rest: bytes = b""

    @property
    def base(self) -> pathlib.Path:
        return pathlib.Path(self.layout.base_dir)

    @property
    def log(self) -> pathlib.Path:
        return self.base.parent / f"{self.name}{'.again' if self.reborn else ''}.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def script(self) -> int | None:
        return next((self.pids[n] for n in ("chief", "worker", "master") if n in self.pids), None)

    def read(self) -> None:
        """Take in what its log has more."""
        if self.process is None:
            return
        with open(self.log, "rb") as file:
            file.seek(self._read)
            data = file.read()
        if not data:
            return
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.decode(errors="replace"))

    def _take(self, line: str) -> None:
        self.steps = self.steps or line.startswith("step ")
        found = _LINE.search(line)
        if found is None:
            return
        at = dt.datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
        event, fields = found[2], found[3]
        self.up_at = self.up_at or at
        if event == "phase.entered":
            self.phase = fields.split("=")[1]
        elif event == "job.ending":
            self.ending_at = self.ending_at or at
        elif event == "member.joined":
            self.joined.setdefault(_field(fields, "host"), at)
        elif event == "process.started":
            self.pids[_field(fields, "process")] = int(_field(fields, "pid"))
        elif event == "process.exited" and 'exit="exit 0"' in fields:
            self.exits[_field(fields, "process")] = at

    def poll(self) -> bool:
        """Whether it is still there."""
        if self.process is None:
            return True
        if self.running and self.process.poll() is not None:
            self.ended_at = time.time()
        return self.running


def _field(fields: str, name: str) -> str:
    found = re.search(rf'\b{name}=("[^"]*"|\S+)', fields)
    return found[1].strip('"') if found else ""


class Run:
    """One trial in a directory of its own. A context manager that leaves no process behind."""

    def __init__(self, trial: Trial, directory: pathlib.Path) -> None:
        self.trial = trial
        self.directory = directory
        self.dealt: list[Dealt] = []
        self.seen: dict[str, Seen] = {}
        self._hosts: dict[str, HostRun] = {}
        self._struck: list[int | None] = []
        self._thaws: list[tuple[float | None, int, str]] = []
        """When, whom, and which host's supervisor that is, or none."""
        self._rebirths: list[tuple[float, str]] = []
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
        for pid in processes_with(self._mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def _mark(self) -> str:
        return f"{self.directory}/"

    @property
    def kept(self) -> pathlib.Path:
        return self.directory / "kept"

    @property
    def _notes(self) -> pathlib.Path:
        return self.directory / "notes"

    # ------------------------------------------------------------------ the life

    def perform(self, *, patience: float = 1.0) -> list[str]:
        """Run the job, deal the blows, wait for the end; what is wrong, in sentences."""
        self._lay_out()
        self._live(patience)
        self.seen = {host.name: self._look(host) for host in self._hosts.values()}
        self.complaints = judge(self.trial, self.dealt, self.seen, patience=patience)
        if self.trial.kind is Kind.KEPT:
            self.complaints += self._checkpoint_faults()
        return self.complaints

    def _lay_out(self) -> None:
        trial = self.trial
        code = self.directory / "code"
        code.mkdir(parents=True)
        self._notes.mkdir()
        script = code / "train.py"
        words: tuple[str, ...] = (
            str(self._notes),
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
        layouts = lay_out(str(self.directory), len(trial.hosts), strategy, str(script), words, {})
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
            if self._deal() or self._thaw() or self._bear():
                last = time.monotonic()
            alive = any(host.poll() for host in self._hosts.values())
            if not alive and not self._rebirths:
                break
            if now - last > limit_s:
                break
            time.sleep(_TICK_S)
        for host in self._hosts.values():
            host.read()
        self.seconds = time.monotonic() - last

    # ------------------------------------------------------------------ blows

    def _deal(self) -> bool:
        """Deal the next blow if its time has come."""
        number = len(self._struck)
        if number == len(self.trial.blows):
            return False
        blow = self.trial.blows[number]
        due = self._due(blow)
        if due is None or time.time() < due + blow.after_s:
            return False
        pid = self._find(blow)
        if pid is None:
            return False  # not there yet, or not any more
        host = self._hosts[blow.host]
        host.read()
        self._struck.append(pid)
        at = time.time()
        try:
            os.kill(pid, blow.signum)
        except ProcessLookupError:
            return True
        self.dealt.append(Dealt(blow, at, host.phase))
        if blow.again_s is not None:
            self._rebirths.append((at + blow.again_s, host.name))
        if blow.signum in FREEZING:
            supervisor = blow.host if blow.target is Target.SUPERVISOR else ""
            if blow.thaw_s is not None or supervisor:
                due = None if blow.thaw_s is None else at + blow.thaw_s
                self._thaws.append((due, pid, supervisor))
        return True

    def _bear(self) -> bool:
        """Start a host anew that was killed."""
        for entry in self._rebirths:
            due, name = entry
            before = self._hosts[name]
            if before.running or time.time() < due:
                continue
            self._rebirths.remove(entry)
            after = HostRun(name, before.layout, joined=before.joined, reborn=True)
            self._hosts[name] = after
            self._spawn(after)
            return True
        return False

    def _due(self, blow: Blow) -> float | None:
        """When the time of the blow begins to count; None while it does not."""
        host = self._hosts[blow.host]
        if not host.running:
            return None
        match blow.when:
            case When.SPAWN:
                return host.spawned_at
            case When.BLOW:
                return self.dealt[-1].at if self.dealt else None
            case When.ENDING:
                at = [each.ending_at for each in self._hosts.values() if each.ending_at]
                return min(at) if at else None
            case When.RUNNING:
                return self._running_since(host)

    def _running_since(self, host: HostRun) -> float | None:
        if self.trial.kind.tensorflow:
            # Most blows are to meet a job that trains; some its long start.
            early = self.trial.index % 4 == 3
            if not (self._hosts[MASTER].steps or (early and host.script)):
                return None
            marks = self.directory / "notes" / f"{host.name}.running"
            if not marks.exists():
                marks.touch()
            return marks.stat().st_mtime
        if self.trial.kind is Kind.SERVER and host.name != MASTER:
            return self._note(MASTER, "began")
        return self._note(host.name, "began")

    def _note(self, host: str, what: str) -> float | None:
        try:
            return float((self._notes / f"{host}.{what}").read_text().split("\n")[0])
        except (OSError, ValueError):
            return None

    def _find(self, blow: Blow) -> int | None:
        """The pid to strike, if it is there and ours."""
        host = self._hosts[blow.host]
        assert host.process is not None
        match blow.target:
            case Target.SUPERVISOR:
                return host.process.pid
            case Target.SCRIPT:
                found = host.script
            case Target.PS:
                found = host.pids.get("ps")
            case Target.SERVER:
                found = host.pids.get("worker")
            case Target.GUARDIAN:
                found = _child_of(host.process.pid, comm="supervisor-guar")
            case Target.SYNC:
                found = _child_of(host.process.pid, word="supervisor.storage.sync")
            case Target.CHILD:
                found = _child_of(host.script, word="train.py") if host.script else None
        return found if found is not None and _alive(found) else None

    def _thaw(self) -> bool:
        for entry in self._thaws:
            due, pid, supervisor = entry
            if due is None:
                others = [h for h in self._hosts.values() if h.name != supervisor]
                if any(other.running or other.process is None for other in others):
                    continue
            elif time.time() < due:
                continue
            self._thaws.remove(entry)
            # After SIGTSTP a supervisor is not stopped, its tree is. A pid that has died, and is
            # not our own child's, may have another owner.
            ours = supervisor and self._hosts[supervisor].running
            if ours or _stopped(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            return True
        return False

    # ------------------------------------------------------------------ what is left

    def _look(self, host: HostRun) -> Seen:
        report = _json(host.base / "output" / "supervisor" / "report.json")
        cause = report.get("cause") or {}
        rows = [row for row in report.get("processes", []) if row["name"] in _NAMES]
        if self.trial.kind is Kind.SERVER and host.name != MASTER:
            rows = []
        finished_at = self._note(host.name, "finished")
        if self.trial.kind.tensorflow:
            finished_at = next((host.exits[n] for n in _NAMES if n in host.exits), None)
        saved = self._note(host.name, "saved")
        struck = [
            d.at
            for d in self.dealt
            if d.blow.host == host.name and d.blow.target in {Target.SCRIPT, Target.CHILD}
        ]
        if saved is not None and struck and self._asked_to_stop_by_us(host):
            finished_at = finished_at or saved  # nobody but the blow asked it to
        failure = host.base / "output" / "failure"
        code = host.process.returncode if host.process is not None else None
        joined = self._hosts[MASTER].joined
        return Seen(
            name=host.name,
            code=code,
            spawned_at=host.spawned_at,
            up_at=host.up_at,
            ending_at=host.ending_at,
            ended_at=host.ended_at,
            joined_at=joined.get(host.name),
            reborn=host.reborn,
            begun=len(_lines(self._notes / f"{host.name}.began")),
            began_at=self._note(host.name, "began"),
            finished_at=finished_at,
            saved=saved is not None,
            script_code=_shell_code(rows[0]) if rows else None,
            cause=Ended(cause["kind"], cause["host"], cause["process"], cause["message"])
            if cause
            else None,
            report_code=report.get("exit_code"),
            failure=failure.read_text(errors="replace") if failure.exists() else None,
            success=(host.base / "output" / "success").exists(),
            left=tuple(self._left(host)) if code is not None else (),
        )

    def _asked_to_stop_by_us(self, host: HostRun) -> bool:
        """Whether the script had a SIGTERM of a blow and none of its supervisor before it ended."""
        text = host.log.read_text(errors="replace")
        return not re.search(r"process\.signalled process=(chief|worker|master) ", text)

    def _left(self, host: HostRun) -> list[str]:
        found = []
        deadline = time.monotonic() + _GONE_S
        mark = f"{host.layout.base_dir}/"
        while (pids := processes_with(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        found += [f"process {pid} ({_words(pid)})" for pid in pids]
        struck = any(
            d.blow.host == host.name and d.blow.target is Target.SUPERVISOR for d in self.dealt
        )
        output = host.base / "output"
        if not struck:
            found += [f"file {path}" for path in output.rglob("*") if _scratch(path)]
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, host.layout.status_port))
            except OSError as error:
                found.append(f"port {host.layout.status_port} ({error})")
        return found

    def _checkpoint_faults(self) -> list[str]:
        """What a job that ended well has sent is what it had last."""
        host = self._hosts[MASTER]
        if self.seen[MASTER].code != 0:
            return []
        had = host.base / "checkpoints" / "step"
        manifests = sorted((self.kept / "manifests").glob("[!.]*"))
        if not had.exists():
            return []
        if not manifests:
            return ["no checkpoint was sent"]
        document = json.loads(manifests[-1].read_bytes())
        sent = {each["path"]: (self.kept / each["key"]).read_bytes() for each in document["files"]}
        if sent.get("step") != had.read_bytes():
            return [f"the last checkpoint holds {sent}, and the script had {had.read_bytes()!r}"]
        return []

    # ------------------------------------------------------------------ for people

    def __str__(self) -> str:
        codes = " ".join(str(host.code) for host in self.seen.values())
        cause = next((h.cause for h in self.seen.values() if h.cause), None)
        at = ", ".join(d.phase or "unborn" for d in self.dealt) or "missed"
        told = f"{cause.kind} {cause.host}" if cause else "no cause"
        return f"{self.trial} [{at}] -> {codes}, {told}, {self.seconds:.1f} s"


_NAMES: Final = ("chief", "worker", "master")


def _json(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _shell_code(row: Mapping[str, Any]) -> int | None:
    if row["signal"] is not None:
        return 128 + int(row["signal"])
    return None if row["exit_code"] is None else int(row["exit_code"])


def _scratch(path: pathlib.Path) -> bool:
    return ".tmp" in path.name or path.name.startswith(".")


def _stat(pid: int) -> list[str]:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return []


def _alive(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def _stopped(pid: int) -> bool:
    return _stat(pid)[:1] in (["T"], ["t"])


def _words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return "?"


def _child_of(parent: int, *, comm: str = "", word: str = "") -> int | None:
    """A child of this process, by its name or by a word of its command line."""
    try:
        children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return None
    for child in map(int, children):
        with contextlib.suppress(OSError):
            name = pathlib.Path(f"/proc/{child}/comm").read_text()
            if (comm and name.startswith(comm)) or (word and word in _words(child)):
                return child
    return None
