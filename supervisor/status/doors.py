"""The members' doors, at which the master knocks: that they open, and that one is shut for good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from supervisor.cluster.liveness import Lost, MemberState, MemberWatch
from supervisor.cluster.net import Knock, Knocked, Resolver, knock
from supervisor.life.words import place


@dataclass(frozen=True, slots=True)
class Member:
    """Where another host of the job is found."""

    host: str
    address: str
    """A name or an address. Reports of ``host`` are taken from its addresses only."""
    port: int
    """Its own status port."""


class Doors:
    """Knocks at members' status ports: at first to know that one opens, later to learn of a crash.

    Args:
        members: all of them, by name.
        watch: is told what was found.
        now: active seconds, see `ActiveClock`.
        again_s: pause before another knock at a port that never opened to us.
        refused_count: connections that a member's port must refuse in a row, …
        refused_window_s: … over at least this long, to have crashed.
        resolver: finds addresses.
        on_lost: called with a member that is found lost.

    """

    def __init__(
        self,
        members: Mapping[str, Member],
        *,
        watch: MemberWatch,
        now: Callable[[], float],
        again_s: float,
        refused_count: int,
        refused_window_s: float,
        resolver: Resolver,
        on_lost: Callable[[str, Lost], None],
    ) -> None:
        self._members = members
        self._watch = watch
        self._now = now
        self._again_s = again_s
        self._refused_count = refused_count
        self._refused_window_s = refused_window_s
        self._resolver = resolver
        self._on_lost = on_lost
        self._again_at = dict.fromkeys(members, 0.0)
        """When a member whose port never opened to us is worth another knock."""
        self._turns = asyncio.Semaphore(64)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._serving = False

    def begin(self) -> None:
        """Take examinations from now on."""
        self._serving = True

    async def close(self) -> None:
        """End all examinations, and begin none any more."""
        self._serving = False
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forget(self, host: str) -> None:
        """Another supervisor is this member now."""
        self._again_at[host] = 0.0

    def examine(self, host: str, *, again: bool) -> None:
        """Knock at a member's door in a task of its own; ``again``: even if that was just done."""
        if not self._serving or host in self._tasks:
            return
        now = self._now()
        if not again and now < self._again_at[host]:
            return
        self._again_at[host] = now + self._again_s
        task = asyncio.create_task(self._examination(host), name=f"examine {host}")
        self._tasks[host] = task
        task.add_done_callback(lambda _task: self._tasks.pop(host, None))

    async def _examination(self, host: str) -> None:
        member = self._members[host]
        pause_s = self._refused_window_s / max(1, self._refused_count - 1)
        # A process that is being killed loses its connections and its listening socket one after
        # the other: one open door proves that it once was open, and not that it will be.
        enough = self._refused_count if self._watch.proven_open(host) else 1
        for _attempt in range(3 * self._refused_count):
            if self._watch.state(host) is not MemberState.UP:
                return
            async with self._turns:
                found = await self._knock(member, max(2.0, self._refused_window_s))
            if found.knock is Knock.OPEN:
                self._watch.opened(host)
                enough -= 1
                if enough == 0:
                    return
            if found.knock is Knock.REFUSED:
                lost = self._watch.refused(host, found.evidence, self._now())
                if lost is not None:
                    self._on_lost(host, lost)
                    return
            await asyncio.sleep(pause_s)

    async def answer(self, member: Member, timeout_s: float) -> str:
        """Say what one knock at a door brings, in words for people who wait for its member."""
        found = await self._knock(member, timeout_s)
        match found.knock:
            case Knock.OPEN:
                return f"answers on {member.port}, has not reported"
            case Knock.REFUSED:
                return f"{member.port} refused{found.families}"
            case Knock.SILENT:
                unnamed = not found.evidence.startswith(place(member.address, member.port))
                return "DNS" if unnamed else f"no answer on {member.port}{found.families}"

    async def _knock(self, member: Member, timeout_s: float) -> Knocked:
        return await knock(
            member.address, member.port, resolver=self._resolver, timeout_s=timeout_s
        )
