"""What is looked at beside the job so that people hear of it: nothing of it changes the job.

Resources that run low, servers that nobody uses, the checkpoint from which the script goes on.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from supervisor.aside import Aside
from supervisor.cluster import beat
from supervisor.contract.distribution import Strategy
from supervisor.host.files import FILES_CLOCK, LOOK_S, silent
from supervisor.host.present import Present
from supervisor.host.tasks import Tasks
from supervisor.host.timeline import Say
from supervisor.life.words import Role
from supervisor.plan.plan import Plan

if TYPE_CHECKING:  # not needed before the script's start: loaded when it is used
    from supervisor.linux.contacts import Servers

_SHARED: Final = ("/tmp", "/dev/shm")  # noqa: S108  # looked at, never written
"""Places outside the base directory that scripts fill."""


class Watches:
    def __init__(self, present: Present, *, say: Say, tasks: Tasks) -> None:
        self.unused_servers: tuple[str, ...] = ()
        """Servers of this host that nobody ever connected to."""
        self.resumed_from = ""
        """The checkpoint that the script found or was given, as far as it is known."""
        self._present = present
        self._say = say
        self._tasks = tasks
        self._servers: Servers | None = None

    def begin(self, after_s: float) -> None:
        """The life has begun. No look is taken for ``after_s``: the script's start is not to wait
        for it."""
        self._tasks.serve("resources", self._watch_resources(after_s), vital=False)

    def begin_with_script(self, after_s: float) -> None:
        """The script is about to start. Not later: what it saves at once is not what it found."""
        resumed = self._say_resumed(time.clock_gettime_ns(FILES_CLOCK), after_s)
        self._tasks.serve("resumed", resumed, vital=False)
        self._tasks.serve("servers", self._watch_servers(), vital=False)

    def end_with_script(self) -> None:
        """The last look at the servers, before they are stopped. Of a job that failed another cause
        is told."""
        if self._servers and self._present.succeeded:
            self._servers.look(time.monotonic())
            self._say_unused(self._servers, ended=True)

    async def _watch_resources(self, after_s: float) -> None:
        """Say early what would end the job later."""
        await asyncio.sleep(after_s)
        from supervisor.linux import resources  # noqa: PLC0415

        paths = self._present.plan.paths
        watch = resources.Watch((paths.model, paths.checkpoints, paths.output, *_SHARED))
        look, said_silent = Aside("disks"), False
        while True:
            try:
                for text in await look(LOOK_S, lambda: list(watch.warnings())):
                    self._say("warning", "resource.low", text=text)
            except TimeoutError:
                if not said_silent:
                    said_silent = True
                    text = silent(watch.looking_at, LOOK_S)
                    self._say("warning", "files.silent", text=text)
            await asyncio.sleep(resources.EVERY_S)

    async def _watch_servers(self) -> None:
        """Look now and then whether anybody speaks to the servers of this host."""
        began = time.monotonic()
        self._servers = servers = _servers(self._present.plan)
        if servers is None:
            return
        from supervisor.linux.contacts import rest_s  # noqa: PLC0415

        while not servers.settled:
            await asyncio.sleep(beat.rest_s(rest_s(time.monotonic() - began)))
            servers.look(time.monotonic())
            self._say_unused(servers, ended=False)
        if self.unused_servers:
            self.unused_servers = ()
            self._say("info", "servers.used")

    def _say_unused(self, servers: Servers, *, ended: bool) -> None:
        names = servers.unused(time.monotonic(), ended=ended)
        if names and not self.unused_servers:
            self.unused_servers = tuple(names)
            self._say("warning", "servers.unused", text=servers.words(names))

    async def _say_resumed(self, began_ns: int, after_s: float) -> None:
        """From which checkpoint the script goes on, as far as it can be seen from outside."""
        plan = self._present.plan
        place = plan.contract.fetched.resumed_from if plan.contract.fetched else ""
        if not place:
            await asyncio.sleep(after_s)
            place = await _newest(plan.paths.checkpoints, began_ns)
        if place:
            self.resumed_from = place
            self._say("info", "job.resumed", **{"from": place})


async def _newest(directory: str, before_ns: int) -> str:
    """The newest checkpoint there; empty where nothing answers: it is only for people."""
    try:
        from supervisor.host import resumed  # noqa: PLC0415

        return await Aside("resumed")(LOOK_S, resumed.newest, directory, before_ns)
    except (OSError, TimeoutError):
        return ""


def _servers(plan: Plan) -> Servers | None:
    """The ports by which it is seen whether the script takes part in its cluster."""
    if plan.strategy not in {Strategy.PS, Strategy.MWMS}:
        return None
    from supervisor.linux.contacts import Servers  # noqa: PLC0415

    if plan.strategy is Strategy.MWMS:  # an evaluator opens none
        own = plan.listening and {plan.processes[-1].name: plan.listening[-1]}
        return Servers(own, own=True) if own else None
    here = plan.endpoints[plan.host]
    ports = {
        spec.name: here.ps.port if spec.role is Role.PS else here.train.port
        for spec in plan.processes
        if spec.essential
    }
    return Servers(ports) if ports else None
