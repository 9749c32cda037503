"""The processes of one host: started, owned to their end, signalled, and explained.

Each is one task from spawn to reap. Processes end tasks, tasks do not end processes: the one
exception is `Processes.leave`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from supervisor.children import stacks
from supervisor.children.child import Child, ChildEnd
from supervisor.children.ending import DYING_S, kill_everything
from supervisor.children.execution import SpawnError
from supervisor.children.guardian import Guardian
from supervisor.contract import record
from supervisor.faults import safe, safe_lines
from supervisor.host import explanation, outliving
from supervisor.host.console import Outputs
from supervisor.host.files import Files
from supervisor.host.notices import Notices
from supervisor.host.present import Present
from supervisor.host.running import Running
from supervisor.host.tasks import Tasks
from supervisor.host.timeline import Say
from supervisor.host.timers import Timers
from supervisor.host.training import Training
from supervisor.host.warming import Warming
from supervisor.life import events as ev
from supervisor.life.words import ProcessSpec, Role, signal_name
from supervisor.plan.plan import FETCH, RESTORE
from supervisor.streams.masking import Masker

SWEEP_KILL_S: Final = 2.0
SERVER_AGAIN_S: Final = 0.5
"""A server of ours that is still there has its signal a second time. It leaves strangers' signals
without effect, and ours merges with one of theirs of the same number that it has yet to look at
(signal(7): no more than one of each is pending)."""
DRAIN_S: Final = 1.0
"""After the leader's end a grandchild may hold the pipes; they are read for this long."""


class Processes:
    """Does what the reducer orders, and posts what became of it."""

    def __init__(
        self,
        present: Present,
        *,
        post: Callable[[ev.Event], None],
        say: Say,
        tasks: Tasks,
        timers: Timers,
        files: Files,
        outputs: Outputs,
        masker: Masker,
        guardian: Guardian | None,
        warming: Warming,
        training: Training,
        notices: Notices,
        fetched: Callable[[], Awaitable[None]],
    ) -> None:
        """``fetched`` is awaited when a step that fetches has ended well, before that is posted."""
        self._present = present
        self._post = post
        self._say = say
        self._tasks = tasks
        self._timers = timers
        self._files = files
        self._outputs = outputs
        self._masker = masker
        self._guardian = guardian
        self._warming = warming
        self._training = training
        self._notices = notices
        self._fetched = fetched
        self._by_name: dict[str, Running] = {}
        self._group: asyncio.TaskGroup
        self._owners: set[asyncio.Task[None]] = set()
        self._kill_since: float | None = None
        """When the time to die was over, ``loop.time()``."""
        self.expect((*present.plan.steps, *present.plan.processes))

    @property
    def by_name(self) -> Mapping[str, Running]:
        """Planned ones too."""
        return self._by_name

    def expect(self, specs: Iterable[ProcessSpec]) -> None:
        """The plan was made, or made again; what has been started stays what it was."""
        for spec in specs:
            known = self._by_name.setdefault(spec.name, Running(spec))
            if known.child is None:
                known.spec = spec

    def renew(self, spec: ProcessSpec) -> None:
        """Plan a process, though one of its name may have run already."""
        self._by_name[spec.name], self._kill_since = Running(spec), None

    # ------------------------------------------------------------------ from spawn to reap

    def begin(self, group: asyncio.TaskGroup) -> None:
        """``group`` is where children are owned; before the first start."""
        self._group = group

    def start(self, name: str) -> None:
        running = self._by_name[name]
        settings = self._present.plan.contract.settings
        if settings.hang_timeout_s != 0:  # else nobody asks for it
            running.heartbeat_before = record.heartbeat(self._present.plan.paths)
        spawned = self._spawn(running, one_pipe=settings.log_streams == "merge")
        if isinstance(spawned, SpawnError):
            message = self._masker.text(spawned.message)
            self._post(ev.StartFailed(name, spawned.code, message, time.time()))
            return
        from supervisor.linux import cgroup  # noqa: PLC0415

        child, spec, attempt = spawned, running.spec, self._present.attempt_of(name)
        if self._guardian is not None:
            self._guardian.watch(child.pid)
        running.child, running.started_at = child, time.time()
        running.memory_before = cgroup.read_memory_cgroup()
        running.pumps, running.log_file = self._outputs.attach(spec, child.take_pipes(), attempt)
        told = {"argv": shlex.join(self._masker.argv(spec.argv)), **child.told}
        self._say("info", "process.started", process=name, pid=child.pid, **told)
        self._post(ev.Started(name, child.pid))
        self._notices.follow(running)
        self._training.started(running)
        owner = self._group.create_task(
            self._tasks.guard(f"process {name}", self._own(running, child))
        )
        self._owners.add(owner)
        owner.add_done_callback(self._owners.discard)
        watched = spec.role is not Role.PREPARE and not spec.essential
        if settings.hang_timeout_s != 0 and watched:
            watch = self._watch_for_hang(running, settings.hang_timeout_s)
            self._tasks.serve("watchdog", watch, vital=False)

    def _spawn(self, running: Running, *, one_pipe: bool) -> Child | SpawnError:
        """A script that cannot be executed as it stands is started as its error suggests."""
        spec = self._notices.told_to(self._outputs.for_this_terminal(running.spec))
        try:
            return self._warming.launch(spec, one_pipe=one_pipe)
        except SpawnError as error:
            if error.instead is None or spec.essential or spec.role is Role.PREPARE:
                return error
            self._say("warning", "process.interpreted", text=error.instead.why)
            spec = replace(spec, argv=error.instead.argv)
            running.spec = replace(running.spec, argv=spec.argv)
            with contextlib.suppress(SpawnError):
                return self._warming.launch(spec, one_pipe=one_pipe)
            return error

    async def _own(self, running: Running, child: Child) -> None:
        """One child from spawn to its end as an event."""
        explanation.load()
        end = await child.run_to_end(
            running.pumps,
            term_s=outliving.patience(
                running,
                child,
                present=self._present,
                timers=self._timers,
                masker=self._masker,
                say=self._say,
            ),
            kill_s=SWEEP_KILL_S,
            drain_s=DRAIN_S,
        )
        if self._guardian is not None:
            self._guardian.forget(child.pid)
        running.end, running.ended_at, running.outlived_by = end, time.time(), 0
        name = running.spec.name
        self._training.ended(name)
        if end.killed:
            self._say(
                "warning",
                "process.descendants_killed",
                process=name,
                signal="SIGKILL",
                who=explanation.named(end.killed, self._masker),
            )
        if self._has_failed(running.spec, end):
            self._outputs.reveal(name)
        elif name in {FETCH, RESTORE} and end.status.ok:
            await self._fetched()
        why = await self._explain(running, end)
        self._say(
            "info",
            "process.exited",
            process=name,
            pid=child.pid,
            exit=str(end.status),
            seconds=round(end.run_s, 3),
            # Otherwise it is a cause, and said as one.
            **({"message": why.message} if self._present.why_down and not end.status.ok else {}),
        )
        self._post(
            ev.Exited(
                name,
                end.status,
                running.ended_at,
                safe(self._masker.text(why.message)),
                safe_lines(self._masker.text(why.detail)),
                end.left,
                error=safe(self._masker.text(why.error)),
            )
        )

    async def _explain(self, running: Running, end: ChildEnd) -> explanation.Explanation:
        try:
            return await explanation.explain(
                running, end, present=self._present, files=self._files, masker=self._masker
            )
        except (OSError, ImportError) as error:
            self._say("error", "internal.error", error=f"no explanation: {error}")
        except Exception as error:  # noqa: BLE001  # a defect of ours is not to cost the exit status
            self._tasks.broke(f"process {running.spec.name}", error)
        return explanation.Explanation(str(end.status))

    def _has_failed(self, spec: ProcessSpec, end: ChildEnd) -> bool:
        failed = spec.essential or not end.status.ok
        return failed and not self._present.stopped_by_us(spec.name)

    async def _watch_for_hang(self, running: Running, timeout_s: float | None) -> None:
        from supervisor.host import hanging  # noqa: PLC0415  # for those that ask for it

        await hanging.watch(
            running,
            timeout_s,
            paths=self._present.plan.paths,
            files=self._files,
            masker=self._masker,
            say=self._say,
            steps=lambda: self._training.steps(running.spec.name),
            look_now=lambda: self._training.look_now(running),
            last_step=self._training.last_step,
            dump_stacks=lambda: self.dump_stacks(running.spec.name),
            post=self._post,
        )

    # ------------------------------------------------------------------ what the reducer orders

    def send(self, name: str, signum: int, *, whole_group: bool) -> None:
        running = self._by_name[name]
        if (child := running.child) is None:
            return
        lived = not child.exited()
        reached = child.signal(signum, group=whole_group)
        if reached and running.spec.essential and running.spec.role is not Role.SSHD:
            asyncio.get_running_loop().call_later(SERVER_AGAIN_S, child.signal, signum)
        self._has_had(running, signum, reached=lived and reached)
        self._say_signalled(name, child, signum, "group" if whole_group else "leader")

    def had(self, name: str, signum: int) -> None:
        """Whoever signalled us has signalled it as well: as if we had sent it, while it lived."""
        running = self._by_name[name]
        if (child := running.child) is None:
            return
        child.had(signum)
        self._has_had(running, signum, reached=True)
        self._say_signalled(name, child, signum, "everybody")

    def _has_had(self, running: Running, signum: int, *, reached: bool) -> None:
        if signum == running.spec.stop_signal and self._present.why_down is not None:
            running.stop_sent(reached=reached)

    def _say_signalled(self, name: str, child: Child, signum: int, to: str) -> None:
        word = signal_name(signum)
        self._say("info", "process.signalled", process=name, pid=child.pid, signal=word, to=to)

    def extend(self, asked: ev.Extend) -> None:
        """A script that comes down has asked for more time."""
        bounds = {"reserve_s": asked.reserve_s, "most_s": asked.most_s}
        left_s = self._timers.extend(asked.deadline, asked.seconds, **bounds)
        running = self._by_name[asked.process]
        if left_s is not None and not running.extended:  # said once: it may ask every second
            running.extended = True
            seconds = {"asked_s": round(asked.seconds, 1), "left_s": round(left_s, 1)}
            self._say("info", "process.extended", process=asked.process, **seconds)

    def suspend(self, name: str) -> None:
        running = self._by_name[name]
        if running.child is not None:
            running.suspended = True
            count = running.child.suspend()
            self._say("info", "process.suspended", process=name, processes=count)

    def resume(self, name: str) -> None:
        running = self._by_name[name]
        if running.child is not None:
            running.suspended = False
            count = running.child.resume()
            self._say("info", "process.resumed", process=name, processes=count)

    def dump_stacks(self, name: str) -> int:
        """Ask the tree for its stacks; how many of it can answer."""
        if (child := self._by_name[name].child) is None:
            return 0
        asked = stacks.dump((child.pid, *child.descendants()))
        self._say("info", "process.stacks", process=name, processes=asked)
        return asked

    def kill(self, name: str) -> None:
        """The whole tree."""
        if (child := self._by_name[name].child) is not None:
            self._say("warning", "process.kill", process=name, pid=child.pid)
            child.kill_soon()

    # ------------------------------------------------------------------ the end

    def dying(self) -> bool:
        """Whether what was killed needs no more than a little time: it is not to be given up."""
        now = asyncio.get_running_loop().time()
        if self._kill_since is None:
            self._kill_since = now
        if now - self._kill_since > DYING_S + SWEEP_KILL_S + DRAIN_S:
            return False
        children = [self._by_name[each.name].child for each in self._present.state.coming_down]
        return all(child is not None and child.dying() for child in children)

    def leave(self) -> None:
        """The one case in which a task ends before its process: it would never end."""
        for owner in self._owners:
            owner.cancel()

    def close(self) -> None:
        """However the life ended: nothing of ours survives. Synchronous."""
        for running in self._by_name.values():
            if running.child is not None:
                running.child.close(running.pumps)
        kill_everything()
