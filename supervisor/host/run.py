"""One host's life, performed: the only place where actions of the reducer become deeds.

``run_host`` is the table of contents. Inside, two nested task groups: ``services`` (status server,
link to the master: cancelled at the end) around ``children`` (one task a process, never cancelled
in normal life). Processes end tasks, tasks do not end processes: coming down is the sequence of
signals that the reducer chose, and a child's task finishes because its process died.

Everything that happens becomes an ``Event`` in one queue. The parts of the host (``processes.py``,
``coordination.py``, ``keeping.py``, …), signal handlers and callbacks only put events there; what
follows from them the reducer decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Final, assert_never

from supervisor.children.guardian import Guardian
from supervisor.host import neighbour
from supervisor.host.account import Account
from supervisor.host.attempts import Attempts
from supervisor.host.console import Outputs
from supervisor.host.coordination import Coordination
from supervisor.host.files import Files
from supervisor.host.keeping import Keeping
from supervisor.host.notices import Notices
from supervisor.host.preparing import Preparing
from supervisor.host.present import Present
from supervisor.host.processes import Processes
from supervisor.host.results import Results
from supervisor.host.signals import Signals
from supervisor.host.tasks import Tasks
from supervisor.host.timeline import Timeline
from supervisor.host.timers import Timers
from supervisor.host.training import Training
from supervisor.host.warming import Warming
from supervisor.host.watches import Watches
from supervisor.life import events as ev
from supervisor.life.lifecycle import is_anothers_stop, passes_on, step
from supervisor.life.words import STOP_SIGNALS, Phase
from supervisor.linux import orphans
from supervisor.linux.inherited import InheritedSignals
from supervisor.plan.plan import Plan
from supervisor.streams.logs import Log
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # not needed before the script's start
    from supervisor.status.snapshot import Snapshot
    from supervisor.storage.job import Fetched
    from supervisor.training.notices import Notice

AFTER_START_S: Final = 0.2
"""What the job can do without begins this long after its script's start. The status port of a host
alone: a quarter of a second of imports is not to compete with the script's own, and a script of
milliseconds needs no server."""
LAID_OUT: Final = "SUPERVISOR_ENGINE=local"
"""Of a host of ``supervisor local``, which has laid it out."""
OWN_S: Final = 0.2
"""A platform that stops the hosts of a job one after the other comes to the last one so much later;
4 to 15 ms with three nodes of Slurm on two busy processors."""
JITTER: Final = 0.2
"""Of the pause before another attempt, up or down: jobs that failed by the same outage do not come
back to it at the same moment."""
LOOK_AGAIN_S: Final = 0.2
"""Where the time to die is over and it is only a matter of a moment."""


def jittered(deadline: ev.Deadline, seconds: float) -> float:
    if deadline is not ev.Deadline.BACKOFF:
        return seconds
    import random  # noqa: PLC0415  # 2 ms, and the script's start waits for us

    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # jitter


async def run_host(
    plan: Plan,
    replan: Callable[[Fetched], Plan],
    outputs: Outputs,
    log: Log,
    masker: Masker,
    inherited: InheritedSignals,
    guardian: Guardian | None,
) -> int:
    """Live the plan of one host from start to end; returns the exit code of the supervisor.

    ``replan`` makes the plan again once everything is fetched; raises ``ContractError``.
    """
    host = _Host(plan, replan, outputs, log, masker, guardian)
    try:
        host.listen(inherited)
        async with asyncio.TaskGroup() as services:
            async with asyncio.TaskGroup() as children:
                host.begin(services, children)
                await host.supervise()
                host.processes.leave()
            await host.training.settle()
            await host.results.record()
            await host.results.settle_output()
            await host.results.report()
            await host.take_leave()
            host.tasks.end()
    finally:
        host.clean_up()
    await host.results.end_output()
    return host.results.exit_code


class _Host:
    """The shell around one reducer. Belongs to the event loop's thread."""

    def __init__(
        self,
        plan: Plan,
        replan: Callable[[Fetched], Plan],
        outputs: Outputs,
        log: Log,
        masker: Masker,
        guardian: Guardian | None,
    ) -> None:
        self._inbox: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._signals = Signals(self._post, guardian)
        self._collector = orphans.Collector()
        self._present = present = Present(plan)
        self._timeline = Timeline(log, masker)
        post, say = self._post, self._timeline.say
        files = Files(plan.paths.base, say)
        self._timers = Timers(self._expired)
        self.tasks = Tasks(post, say, masker)
        self._preparing = Preparing(
            present, replan, self._adopt, post=post, say=say, files=files, masker=masker
        )
        self._warming = Warming(present, say=say, tasks=self.tasks, guardian=guardian)
        self.training = Training(
            present,
            post=post,
            say=say,
            tasks=self.tasks,
            outputs=outputs,
            prepared=lambda: self.coordination.prepared,
        )
        self._notices = Notices(
            present, post=post, say=say, log=log, masker=masker, heard=self._hear
        )
        self.processes = Processes(
            present,
            post=post,
            say=say,
            tasks=self.tasks,
            timers=self._timers,
            files=files,
            outputs=outputs,
            masker=masker,
            guardian=guardian,
            warming=self._warming,
            training=self.training,
            notices=self._notices,
            fetched=self._preparing.plan_again,
        )
        self.coordination = Coordination(
            present,
            post=post,
            say=say,
            tasks=self.tasks,
            snapshot=self._snapshot,
            samples=lambda: chain(
                outputs.samples(), self._attempts.history.samples(), self._warming.samples()
            ),
            recent=outputs.recent,
            masker=masker,
        )
        self._keeping = Keeping(
            present,
            post=post,
            say=say,
            tasks=self.tasks,
            files=files,
            outputs=outputs,
            masker=masker,
            guardian=guardian,
            looked=self.training.looked,
        )
        self._attempts = Attempts(
            present,
            post=post,
            say=say,
            tasks=self.tasks,
            files=files,
            processes=self.processes,
            keeping=self._keeping,
            masker=masker,
        )
        self._watches = Watches(present, say=say, tasks=self.tasks)
        self._account = Account(
            present,
            timeline=self._timeline,
            processes=self.processes.by_name,
            coordination=self.coordination,
            keeping=self._keeping,
            watches=self._watches,
            attempts=self._attempts,
            warming=self._warming,
            training=self.training,
            outputs=outputs,
            masker=masker,
        )
        self.results = Results(
            present, self._account, say=say, files=files, outputs=outputs, masker=masker
        )
        self._timeline.publish = self.coordination.publish
        outputs.say = say

    # ------------------------------------------------------------------ the life, in order

    def listen(self, inherited: InheritedSignals) -> None:
        """Signals become events, and orphans ours to reap. Before anything slow."""
        self._signals.install(inherited)
        orphans.adopt()
        self._collector.start()

    def begin(self, services: asyncio.TaskGroup, children: asyncio.TaskGroup) -> None:
        """Prepare and begin to serve; what comes of it are events."""
        self.tasks.begin(services)
        self.processes.begin(children)
        plan, say = self._present.plan, self._timeline.say
        engine, restarts = plan.contract.engine, plan.contract.settings.restart_count
        # Under supervisor local nobody asks: it lays the hosts out itself.
        level = "debug" if engine.evidence == LAID_OUT else "info"
        told = {"restarts": restarts} if restarts else {}
        say(level, "engine.chosen", engine=engine.name, evidence=engine.evidence, **told)
        for note in plan.notes:
            say("warning", "plan.note", text=note)
        if beside := neighbour.warning():
            say("warning", "installation.shared", text=beside)
        if others := plan.contract.variables_of_others:
            say("debug", "settings.of_others", ignored=", ".join(others[:20]))
        self.tasks.serve("prepare", self._prepare())
        self._warming.begin()
        self._watches.begin(AFTER_START_S)

    async def _prepare(self) -> None:
        """Everything that comes before the barrier. A cluster's coordination begins first, so
        that a host which fails here can say so to the others; a host alone serves its status
        when its script runs, which is not to wait for our imports."""
        is_cluster = self._present.plan.is_cluster
        if is_cluster and (error := await self.coordination.begin()):
            self._post(ev.PrepareFailed(error, time.time()))
            return
        if not self._is_preparing():
            return  # a stop came: the record of this life is not to be cleared any more
        error = await self._preparing.make_ready()
        if not self._is_preparing():
            return
        self._post(ev.PrepareFailed(error, time.time()) if error else ev.Prepared())
        if not is_cluster:
            self.tasks.serve("status", self.coordination.serve_alone(AFTER_START_S), vital=False)

    def _is_preparing(self) -> bool:
        return self._present.state.phase is Phase.PREPARING

    def _adopt(self, plan: Plan) -> None:
        """The plan was made again."""
        self._present.plan = plan
        self.processes.expect((*plan.steps, *plan.processes))

    def _restore(self, generation: str) -> None:
        """One more step: the checkpoint with which all hosts of the job begin."""
        spec = self._preparing.restore_step(generation)
        self.processes.renew(spec)
        self._post(ev.Replanned((spec.name,)))
        self._post(ev.Prepared())

    async def supervise(self) -> None:
        """Turn events into actions until the life is over."""
        while self._present.state.phase is not Phase.DONE:
            for event in await self._own_signal_first(await self._inbox.get()):
                self._take(await self._judged(event))

    async def _own_signal_first(self, event: ev.Event) -> list[ev.Event]:
        """What is to be taken now. A platform stops hosts one after the other, and the first one's
        word is faster: by it alone we would send our script a signal that it is about to get."""
        if not is_anothers_stop(self._present.state, event):
            return [event]
        await self._signals.stop_asked(OWN_S)
        events = [event, *(self._inbox.get_nowait() for _ in range(self._inbox.qsize()))]
        return sorted(events, key=lambda each: not isinstance(each, ev.Signalled))

    async def _judged(self, event: ev.Event) -> ev.Event:
        """A signal with what is known of whom else it was sent to, a failure with whether training
        had moved. Nothing overtakes it meanwhile: a script that dies of the same signal has not
        failed."""
        if isinstance(event, ev.Signalled) and passes_on(self._present.state, event.signum):
            everywhere = await self._signals.sent_to_all(event)
            return ev.Signalled(event.signum, event.at, everywhere)
        return await self._attempts.judged(event)

    async def take_leave(self) -> None:
        """The last words to the other hosts; a stop signal cuts them short."""
        words = asyncio.create_task(self.coordination.farewell(), name="farewell")
        while not words.done():
            event = asyncio.create_task(self._inbox.get(), name="events after the end")
            await asyncio.wait({words, event}, return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                event.cancel()
            elif isinstance(heard := event.result(), ev.Signalled) and heard.signum in STOP_SIGNALS:
                words.cancel()
        if not words.cancelled():
            words.result()

    def _snapshot(self) -> Snapshot:
        return self._account.snapshot()

    def clean_up(self) -> None:
        """However the life ended: nothing of ours survives. Synchronous."""
        self._timers.close()
        self.processes.close()
        self._warming.close()
        self._notices.close()
        self._collector.stop()
        self._signals.close()

    # ------------------------------------------------------------------ events in, actions out

    def _post(self, event: ev.Event) -> None:
        self._inbox.put_nowait(event)

    def _hear(self, process: str, notice: Notice) -> None:
        """A script has said something of itself."""
        from supervisor.training import notices  # noqa: PLC0415  # for those that do

        if process == self.training.process and (said := notices.reading(notice, time.time())):
            self.training.told(said)

    def _expired(self, deadline: ev.Deadline) -> None:
        if deadline is ev.Deadline.KILL and self.processes.dying():
            self._timers.arm(deadline, LOOK_AGAIN_S)
        else:
            self._post(ev.Expired(deadline, time.time()))

    def _take(self, event: ev.Event) -> None:
        present, before = self._present, self._present.state
        present.state, actions = step(before, event)
        if isinstance(event, ev.Signalled) and present.state.stop_signals > before.stop_signals:
            limit_s = present.plan.budgets.stop_limit_s
            present.stop_at = present.stop_at or time.monotonic() + limit_s
            self._keeping.hurry()
        if before.under_way and not present.state.under_way:
            self._watches.end_with_script()
        begins = not before.under_way and present.state.under_way
        if begins:
            self._watches.begin_with_script(AFTER_START_S)
        self._attempts.seen(before, present.state)
        self._warming.seen(before.phase, present.state.phase)
        self.training.seen(present.state)
        for action in actions:
            self._perform(action)
        if present.state.phase is not before.phase:
            self._timeline.enter(present.state.phase)
        if begins:
            self._keeping.begin(AFTER_START_S)
            self._attempts.begin()

    def _perform(self, action: ev.Action) -> None:
        match action:
            case ev.Start(process):
                self.processes.start(process)
            case ev.Send(process, signum, whole_group):
                self.processes.send(process, signum, whole_group=whole_group)
            case ev.Had(process, signum):
                self.processes.had(process, signum)
            case ev.Suspend(process):
                self.processes.suspend(process)
            case ev.Resume(process):
                self.processes.resume(process)
            case ev.DumpStacks(process):
                self.processes.dump_stacks(process)
            case ev.KillTree(process):
                self.processes.kill(process)
            case ev.Arm(deadline, seconds):
                self._timers.arm(deadline, jittered(deadline, seconds))
            case ev.Extend():
                self.processes.extend(action)
            case ev.Disarm(deadline):
                self._timers.disarm(deadline)
            case ev.Announce():
                self.coordination.announce(action)
                if action.order is not None:
                    self._attempts.remember(self.coordination.body)
            case ev.Report():
                self.coordination.report(action)
            case ev.Restore(generation):
                self._restore(generation)
            case ev.MakeReady():
                self._attempts.make_ready(action)
            case ev.Restarted():
                self._attempts.say_restarted(action)
            case ev.Publish():
                self._keeping.publish()
            case ev.Record():
                pass  # the life is over: ``run_host`` goes on to ``results.record``
            case ev.Say(event, fields, level):
                self._timeline.say(level, event, **dict(fields))
            case _:
                assert_never(action)
