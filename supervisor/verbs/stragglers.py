"""Supervisors of ``supervisor local`` that do not end with the job: found, told, ended."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from supervisor.children.child import Child
from supervisor.contract.settings import GROUP_S, KILL_S, Settings
from supervisor.linux import procfs

MARGIN_S: Final = 5.0
"""Beyond a host's own limit: a supervisor that is still there then is killed."""
_LOOK_S: Final = 0.5
STOPPED_S: Final = 5.0
"""A supervisor that is stopped (SIGSTOP) has so long to be continued once the job is over."""
END_S: Final = 5.0
"""What it has from SIGTERM to SIGKILL beyond the shares of its processes."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A host's supervisor at one look."""

    ended: bool
    stopped: bool = False
    """By a signal (SIGSTOP), so that it does not know what became of the job."""


def is_over(hosts: Sequence[Standing]) -> bool:
    """Whether the job is, though supervisors are left: the master, the first of ``hosts``, has
    ended, or all have whose supervisors can act. If none has, they are all somebody's to continue.
    """
    left = [host for host in hosts if not host.ended]
    if not left or len(left) == len(hosts):
        return False
    return hosts[0].ended or all(host.stopped for host in left)


def _shares_s(settings: Settings) -> float:
    """What a supervisor gives its processes at the end of a job, all rungs."""
    return settings.end_grace_s + GROUP_S + settings.server_grace_s + KILL_S


def longest_s(settings: Settings, *, keeps: bool) -> float:
    """The longest that a supervisor in order needs after the master's: to notice, to stop its
    processes, and where something is kept elsewhere to send it."""
    return (
        settings.master_lease_s
        + max(settings.stop_limit_s, _shares_s(settings))
        + settings.evaluator_grace_s
        + (settings.publish_timeout_s if keeps else 0.0)
        + MARGIN_S
    )


class Stragglers:
    """Looks after them.

    Args:
        hosts: their names, the master's first.
        settings: of the job.
        living: the supervisors that run, by host; looked at again and again.
        ended: the hosts that have ended; the same.
        one_ended: set once any has.
        say: a line for people.
        keeps: whether anything may have to be sent at the end.

    """

    def __init__(
        self,
        hosts: Sequence[str],
        settings: Settings,
        living: Mapping[str, Child],
        ended: Collection[str],
        one_ended: asyncio.Event,
        *,
        say: Callable[[str], None],
        keeps: bool,
    ) -> None:
        self.given_up: dict[str, str] = {}
        """Hosts that we end because they do not end with the job, and why."""
        self._hosts = hosts
        self._settings = settings
        self._living = living
        self._ended = ended
        self._one_ended = one_ended
        self._say = say
        self._keeps = keeps

    async def watch(self) -> None:
        """End the supervisors that do not end with the job: first in order, then for good.

        One that is stopped hears of nothing. Its master gives it up after a lease; here it would
        be waited for without end.
        """
        settings = self._settings
        kill_s = _shares_s(settings) + END_S
        late_s = longest_s(settings, keeps=self._keeps)
        since: dict[str, float] = {}
        """Host → since when it is late in this way: stopped, or not ended."""
        was_stopped: dict[str, bool] = {}
        told_at: dict[str, float] = {}
        await self._one_ended.wait()
        while self._living or len(self._ended) < len(self._hosts):
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            stopped = {name: _is_stopped(child.pid) for name, child in self._living.items()}
            standings = [
                Standing(host in self._ended, stopped.get(host, False)) for host in self._hosts
            ]
            if not is_over(standings):
                since.clear()
                continue
            for name, child in list(self._living.items()):
                if name in told_at:
                    if now - told_at[name] >= kill_s:
                        child.kill_tree()
                    continue
                if was_stopped.get(name) != stopped[name] or name not in since:
                    since[name], was_stopped[name] = now, stopped[name]
                if now - since[name] < (STOPPED_S if stopped[name] else late_s):
                    continue
                why = "was stopped (SIGSTOP)" if stopped[name] else f"did not end in {late_s:g} s"
                self.given_up[name] = f"its supervisor {why}, and was ended after the job"
                told_at[name] = now
                self._say(
                    f"the job is over, and the supervisor of {name} (pid {child.pid}) {why}: "
                    f"SIGCONT and SIGTERM now, SIGKILL in {kill_s:g} s"
                )
                child.signal(signal.SIGTERM)
                child.signal(signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.stopped
