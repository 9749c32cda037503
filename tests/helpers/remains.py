"""What a job to which blows were dealt has left behind, read for the oracle."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from supervisor.engines.local import ADDRESS
from tests.helpers import schemas
from tests.helpers.blown_host import HostRun, Notes, words_of
from tests.helpers.blows import MASTER, Dealt, Ended, Kind, Seen, Target, Trial
from tests.helpers.job import processes_with

_GONE_S: Final = 3.0
"""After a supervisor's end: for its guardian to end what it had, and for init to reap it."""
_NAMES: Final = ("chief", "worker", "master")


class Remains:
    """``kept``: where a job of that kind has sent its checkpoints."""

    def __init__(
        self,
        trial: Trial,
        hosts: Mapping[str, HostRun],
        notes: Notes,
        dealt: Sequence[Dealt],
        kept: pathlib.Path,
    ) -> None:
        self._trial = trial
        self._hosts = hosts
        self._notes = notes
        self._dealt = dealt
        self._kept = kept

    def seen(self) -> dict[str, Seen]:
        return {host.name: self._look(host) for host in self._hosts.values()}

    def _look(self, host: HostRun) -> Seen:
        report = _json(host.base / "output" / "supervisor" / "report.json")
        assert not report or not schemas.faults("report", report), report
        cause = report.get("cause") or {}
        rows = [row for row in report.get("processes", []) if row["name"] in _NAMES]
        if self._trial.kind is Kind.SERVER and host.name != MASTER:
            rows = []
        finished_at = self._notes.at(host.name, "finished")
        if self._trial.kind.tensorflow:
            finished_at = next((host.exits[n] for n in _NAMES if n in host.exits), None)
        saved = self._notes.at(host.name, "saved")
        struck = [
            d.at
            for d in self._dealt
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
            begun=self._notes.count(host.name, "began"),
            began_at=self._notes.at(host.name, "began"),
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
        return not re.search(r"process\.signalled: \w+ to (chief|worker|master),", text)

    def _left(self, host: HostRun) -> list[str]:
        found = []
        deadline = time.monotonic() + _GONE_S
        mark = f"{host.layout.base_dir}/"
        while (pids := processes_with(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        found += [f"process {pid} ({words_of(pid)})" for pid in pids]
        struck = any(
            d.blow.host == host.name and d.blow.target is Target.SUPERVISOR for d in self._dealt
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

    def checkpoint_faults(self) -> list[str]:
        """What a job that ended well has sent is what it had last."""
        host = self._hosts[MASTER]
        if host.process is None or host.process.returncode != 0:
            return []
        had = host.base / "checkpoints" / "step"
        manifests = sorted((self._kept / "manifests").glob("[!.]*"))
        if not had.exists():
            return []
        if not manifests:
            return ["no checkpoint was sent"]
        document = json.loads(manifests[-1].read_bytes())
        sent = {each["path"]: (self._kept / each["key"]).read_bytes() for each in document["files"]}
        if sent.get("step") != had.read_bytes():
            return [f"the last checkpoint holds {sent}, and the script had {had.read_bytes()!r}"]
        return []


def _json(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _shell_code(row: Mapping[str, Any]) -> int | None:
    if row["signal"] is not None:
        return 128 + int(row["signal"])
    return None if row["exit_code"] is None else int(row["exit_code"])


def _scratch(path: pathlib.Path) -> bool:
    return ".tmp" in path.name or path.name.startswith(".")
