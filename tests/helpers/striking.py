"""Blows, dealt to the hosts of a job when their time has come, and what has to follow each."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from tests.helpers.blown_host import HostRun, Notes, alive, child_of, stopped
from tests.helpers.blows import FREEZING, MASTER, Blow, Dealt, Kind, Target, Trial, When


class Striker:
    """``spawn`` starts a host's supervisor. ``hosts`` is changed where one is started anew."""

    def __init__(
        self,
        trial: Trial,
        hosts: dict[str, HostRun],
        notes: Notes,
        spawn: Callable[[HostRun], None],
    ) -> None:
        self.dealt: list[Dealt] = []
        self._trial = trial
        self._hosts = hosts
        self._notes = notes
        self._spawn = spawn
        self._struck = 0
        self._thaws: list[tuple[float | None, int, str]] = []
        """When, whom, and which host's supervisor that is, or none."""
        self._rebirths: list[tuple[float, str]] = []

    def turn(self) -> bool:
        """Do what is due, one thing at a time. Whether there was any."""
        return self._deal() or self._thaw() or self._bear()

    @property
    def expecting(self) -> bool:
        """A host that is down is still to be started anew."""
        return bool(self._rebirths)

    def _deal(self) -> bool:
        """Deal the next blow if its time has come."""
        number = self._struck
        if number == len(self._trial.blows):
            return False
        blow = self._trial.blows[number]
        due = self._due(blow)
        if due is None or time.time() < due + blow.after_s:
            return False
        pid = self._find(blow)
        if pid is None:
            return False  # not there yet, or not any more
        host = self._hosts[blow.host]
        host.read()
        self._struck += 1
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
        if self._trial.kind.tensorflow:
            # Most blows are to meet a job that trains; some its long start.
            early = self._trial.index % 4 == 3
            if not (self._hosts[MASTER].steps or (early and host.script)):
                return None
            return self._notes.mark(host.name, "running")
        if self._trial.kind is Kind.SERVER and host.name != MASTER:
            return self._notes.at(MASTER, "began")
        return self._notes.at(host.name, "began")

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
                found = child_of(host.process.pid, comm="job-guardian")
            case Target.SYNC:
                found = child_of(host.process.pid, word="supervisor.storage.sync")
            case Target.CHILD:
                found = child_of(host.script, word="train.py") if host.script else None
        return found if found is not None and alive(found) else None

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
            if ours or stopped(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            return True
        return False
