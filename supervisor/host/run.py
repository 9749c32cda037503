"""One host's life, performed: the only place where actions of the reducer become deeds.

``run_host`` is the table of contents. Inside, two nested task groups: ``services`` (status server,
link to the master: cancelled at the end) around ``children`` (one task a process, never cancelled
in normal life). Processes end tasks, tasks do not end processes: coming down is the sequence of
signals that the reducer chose, and a child's task finishes because its process died.

Everything that happens becomes an ``Event`` in one queue; signal handlers and callbacks only put
events there.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import os
import shlex
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, assert_never

from supervisor import regular
from supervisor.aside import Aside
from supervisor.children import execution, stacks
from supervisor.children.child import Child, ChildEnd, spawn
from supervisor.children.ending import DYING_S, NAMED, Patience, kill_everything
from supervisor.children.execution import SpawnError
from supervisor.children.guardian import Guardian
from supervisor.cluster import beat
from supervisor.contract import record
from supervisor.contract.distribution import Strategy
from supervisor.contract.entry_point import EntryKind
from supervisor.contract.facts import OVERLAY, RESOURCES
from supervisor.contract.settings import KILL_S, RECORD_S
from supervisor.contract.values import TRANSFERS
from supervisor.faults import ContractError, counted, safe, safe_lines, without_number
from supervisor.host import neighbour
from supervisor.host.account import Account, Running
from supervisor.host.console import HURRIED_PATIENCE_S, PATIENCE_S, SETTLE_S, Outputs
from supervisor.life import events as ev
from supervisor.life.ladder import respite
from supervisor.life.lifecycle import step
from supervisor.life.outcome import failure_text
from supervisor.life.state import Process, Setup, State, initial
from supervisor.life.words import (
    ExitStatus,
    Outcome,
    Phase,
    ProcessSpec,
    Respite,
    Role,
    Rung,
    signal_name,
)
from supervisor.linux import orphans, procfs
from supervisor.linux.contacts import Servers, rest_s
from supervisor.linux.inherited import InheritedSignals
from supervisor.linux.signals import SignalPipe
from supervisor.plan.plan import FETCH, RESTORE, Plan
from supervisor.streams.logs import Log
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # not needed before the script's start: loaded when they are used
    from supervisor.children.watchdog import Signs
    from supervisor.cluster.probe import MasterLink
    from supervisor.cluster.protocol import HostReport, JobIdentity
    from supervisor.status.board import JobBoard
    from supervisor.storage.agent import Agent
    from supervisor.storage.job import Fetched
    from supervisor.storage.notices import Failed, Unsent
    from supervisor.streams import Pump

SWEEP_KILL_S: Final = 2.0
OUTLIVED_AFTER_S: Final = 0.25
"""Descendants that are still there so long after their leader's end are worth a message: helpers
of Python's multiprocessing take a moment to notice."""
_COMMAND_LENGTH: Final = 160
"""Characters of a command line in a message."""
_LOOK_AGAIN_S: Final = 0.2
DRAIN_S: Final = 1.0
"""After the leader's end a grandchild may hold the pipes; they are read for this long."""
WAITING_FIRST_S: Final = 2.0
WAITING_EVERY_S: Final = 5.0
"""While hosts wait for each other, this often a line says for whom and why; the first comes after
``WAITING_FIRST_S``."""
WAITING_KNOCKS: Final = 64
"""So many missing hosts are asked why, each time."""
SAME_ADDRESS_S: Final = 2.0
"""So long the hosts' names are looked up for one that has our address."""
WHO_IS_IT_S: Final = 2.0
"""So long whoever has our status port may take to say who it is."""
FLUSH_S: Final = 1.0
"""At the very end: for the last words to the master, or to members that have not heard them."""
LAST_OUTPUT_S: Final = 2.0
"""At the very end: for our own last lines. What came before them has had its time by then."""
OUTPUT_RESERVE_S: Final = 1.0
"""Waiting for outputs ends this long before the platform's limit."""
RECORD_LIMIT_S: Final = 10.0
"""For each of failure, success and report, while nobody counts the time: a disk that is busy with a
checkpoint takes a while."""
LOOK_S: Final = 2.0
"""For a look at files whose answer makes a text better."""
READY_S: Final = 60.0
"""For preparing directories, and for reading the contract again."""
PUBLISH_MARGIN_S: Final = 0.75
"""Transfers are ended this long before their time is over, to hear what they did not do."""
_MISTAKEN: Final = frozenset({2, 126, 127})
"""Exit codes of interpreters and of env(1) that were called wrongly."""
SERVE_ALONE_AFTER_S: Final = 0.2
"""A host alone opens its status port this long after its script's start: a quarter of a second of
imports is not to compete with the script's own, and a script of milliseconds needs no server."""

T = TypeVar("T")
P = ParamSpec("P")

_NOT_FORWARDED: Final = frozenset(
    {
        signal.SIGKILL, signal.SIGSTOP,  # cannot be caught
        signal.SIGCHLD,  # about our own children
        signal.SIGPIPE, signal.SIGXFSZ,  # Python turns them into errors where they belong
        signal.SIGTTIN, signal.SIGTTOU,  # about our own terminal
        # Raised by our own faults: the default action is the right one.
        signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT,
        signal.SIGTRAP, signal.SIGSYS,
    }
)  # fmt: skip


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
        host.install_signals(inherited)
        async with asyncio.TaskGroup() as services:
            async with asyncio.TaskGroup() as children:
                host.begin(services, children)
                await host.supervise()
                host.leave_the_unkillable()
            await host.record_result()
            await host.settle_output()
            await host.record_report()
            await host.say_farewell()
            host.end_services()
    finally:
        host.clean_up()
    await host.end_output()
    return host.exit_code


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
        self.plan = plan
        self._replan = replan
        self.exit_code = 0
        self._outputs = outputs
        self._masker = masker
        self._guardian = guardian
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._publishing = asyncio.Event()
        self._state = _initial_state(plan)
        self._account = Account(plan, outputs, log, masker)
        self._timers: dict[ev.Deadline, asyncio.TimerHandle] = {}
        self._ran = False
        """The job ran here: there may be something to keep."""
        self._kill_since: float | None = None
        """When the time to die was over, ``loop.time()``."""
        self._files = Aside("files")
        """Whatever is looked at, read or written below the base directory: it may not answer."""
        self._said_silent = False
        self._signals = SignalPipe(self._on_signal)
        self._collector = orphans.Collector()
        self._services: asyncio.TaskGroup
        self._children: asyncio.TaskGroup
        self._service_tasks: list[asyncio.Task[None]] = []
        self._child_tasks: set[asyncio.Task[None]] = set()
        self._board: JobBoard | None = None
        self._servers: Servers | None = None
        self._reported_output: list[dict[str, object]] = []
        outputs.say = self._account.say

    # ------------------------------------------------------------------ the life, in order

    def install_signals(self, inherited: InheritedSignals) -> None:
        """Every signal that may reach the script becomes an event. Before anything slow."""
        wanted = signal.valid_signals() - _NOT_FORWARDED
        if inherited.hangup_ignored:  # started under nohup: a hang-up is nobody's wish to stop
            wanted.discard(signal.SIGHUP)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._signals.catch(wanted)
        orphans.adopt()
        self._collector.start()

    def begin(self, services: asyncio.TaskGroup, children: asyncio.TaskGroup) -> None:
        """Prepare and begin to serve; what comes of it are events."""
        self._services, self._children = services, children
        for note in self.plan.notes:
            self._account.say("warning", "plan.note", text=note)
        if beside := neighbour.warning():
            self._account.say("warning", "installation.shared", text=beside)
        if others := self.plan.contract.variables_of_others:
            self._account.say("debug", "settings.of_others", ignored=", ".join(others[:20]))
        self._serve("prepare", self._prepare())
        self._serve("resources", self._watch_resources(), vital=False)

    async def _prepare(self) -> None:
        """Everything that comes before the barrier. A cluster's coordination begins first, so
        that a host which fails here can say so to the others; a host alone serves its status
        when its script runs, which is not to wait for our imports."""
        if self.plan.is_cluster and (error := await self._coordinate()):
            self._post(ev.PrepareFailed(error, time.time()))
            return
        if not self._is_preparing():
            return  # a stop came: the record of this life is not to be cleared any more
        try:
            error = await self._files(READY_S, _make_ready, self.plan)
        except TimeoutError:
            error = _silent(self.plan.paths.base, READY_S)
        if not self._is_preparing():
            return
        self._post(ev.PrepareFailed(error, time.time()) if error else ev.Prepared())
        if not self.plan.is_cluster:
            self._serve("status", self._serve_alone(), vital=False)

    def _is_preparing(self) -> bool:
        return self._state.phase is Phase.PREPARING

    async def supervise(self) -> None:
        """Turn events into actions until the life is over."""
        while self._state.phase is not Phase.DONE:
            self._take(await self._inbox.get())

    def leave_the_unkillable(self) -> None:
        """The one case in which a task ends before its process: it would never end."""
        for task in self._child_tasks:
            task.cancel()

    async def record_result(self) -> None:
        """Write failure or success. What cannot be written is said and changes nothing."""
        verdict = self._account.verdict(self._state)
        paths = self.plan.paths
        self.exit_code = self._account.exit_code(self._state)
        if verdict.outcome is Outcome.SUCCEEDED and self.exit_code == 0:
            await self._write_record(record.write_success, paths)
        elif self.exit_code != 0:
            ends = (self._state.publish_error or "", *self._account.ends(self._state))
            text = failure_text(self.plan.host, verdict, ends, mask=self._masker.text)
            await self._write_record(record.write_failure, paths, text)

    async def _write_record(
        self, write: Callable[P, str | None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        limit_s = RECORD_LIMIT_S
        if self._account.stop_at is not None:
            limit_s = min(limit_s, max(LOOK_S, self._account.stop_at - time.monotonic()))
        try:
            problem = await self._files(limit_s, write, *args, **kwargs)
        except TimeoutError:
            problem = _silent(self.plan.paths.output, limit_s)
        if problem:
            self._account.say("error", "record.failed", error=problem)

    async def settle_output(self) -> None:
        """Have written what the processes wrote. A slow reader may take its time, a stalled one
        only a little, and neither any of what the platform's limit leaves for the rest."""
        if self._account.stop_at is None:
            await self._outputs.settle(patience_s=PATIENCE_S, limit_s=SETTLE_S)
        else:
            await self._outputs.settle(
                patience_s=HURRIED_PATIENCE_S,
                limit_s=self._account.stop_at - time.monotonic() - OUTPUT_RESERVE_S,
            )

    async def record_report(self) -> None:
        """Write the report, and our own last word."""
        verdict = self._account.verdict(self._state)
        self._reported_output = self._outputs.rows()
        await self._write_report()
        self._account.say(
            "info" if self.exit_code == 0 else "error",
            "job.ended",
            outcome=verdict.outcome.value,
            exit_code=self.exit_code,
            cause=str(verdict.cause),
        )

    async def say_farewell(self) -> None:
        """The last report to the master, the last answers to members, in bounded time."""
        if self._account.link is not None:
            await self._account.link.flush(FLUSH_S)
        if self._board is not None and self._account.server is not None:
            await self._account.server.members.told(FLUSH_S)

    async def end_output(self) -> None:
        """The outputs are closed; the report is put right where that has cost anything."""
        left_s = (
            self._account.stop_at - time.monotonic() if self._account.stop_at else LAST_OUTPUT_S
        )
        await self._outputs.finish(limit_s=min(LAST_OUTPUT_S, left_s))
        if any(map(_loss, self._reported_output + self._outputs.rows())):
            await self._write_report()

    async def _write_report(self) -> None:
        report = self._account.report(self._state, self.exit_code)
        await self._write_record(record.write_report, self.plan.paths, report)

    def end_services(self) -> None:
        for task in self._service_tasks:
            task.cancel()

    def clean_up(self) -> None:
        """However the life ended: nothing of ours survives. Synchronous."""
        for timer in self._timers.values():
            timer.cancel()
        for running in self._account.running.values():
            if running.child is not None:
                running.child.close(running.pumps)
        kill_everything()
        self._collector.stop()
        self._signals.close()

    # ------------------------------------------------------------------ events in, actions out

    def _post(self, event: ev.Event) -> None:
        self._inbox.put_nowait(event)

    def _on_signal(self, signum: int) -> None:
        self._post(ev.Signalled(signum, time.time()))

    def _take(self, event: ev.Event) -> None:
        before = self._state
        self._state, actions = step(before, event)
        if isinstance(event, ev.Signalled) and self._state.stop_signals > before.stop_signals:
            limit_s = self.plan.budgets.stop_limit_s
            self._account.stop_at = self._account.stop_at or time.monotonic() + limit_s
            if self._account.agent is not None:
                self._account.agent.hurry(self._publish_budget_s())
        if before.phase is Phase.RUNNING and self._state.phase is not Phase.RUNNING:
            self._look_at_servers()
        for action in actions:
            self._perform(action)
        if self._state.phase is not before.phase:
            self._account.enter(self._state.phase)
            if self._state.phase is Phase.RUNNING:
                self._ran = True
                self._serve("resumed", self._say_resumed(time.time_ns()), vital=False)
                if self.plan.storage is not None:
                    self._serve("storage", self._keep(self.plan.storage))
                self._servers = _servers(self.plan)
                if self._servers is not None:
                    self._serve("servers", self._watch_servers(self._servers), vital=False)

    def _perform(self, action: ev.Action) -> None:
        match action:
            case ev.Start(process):
                self._start(self._account.running[process])
            case ev.Send(process, signum, whole_group):
                self._send(self._account.running[process], signum, whole_group)
            case ev.Suspend(process) | ev.Resume(process):
                self._suspend(
                    self._account.running[process], suspend=isinstance(action, ev.Suspend)
                )
            case ev.DumpStacks(process):
                self._dump_stacks(self._account.running[process])
            case ev.KillTree(process):
                child = self._account.running[process].child
                if child is not None:
                    self._account.say("warning", "process.kill", process=process, pid=child.pid)
                    child.kill_soon()
            case ev.Arm(deadline, seconds):
                self._disarm(deadline)
                self._timers[deadline] = self._loop.call_later(seconds, self._expire, deadline)
            case ev.Disarm(deadline):
                self._disarm(deadline)
            case ev.Announce(state, verdict, missing, generation):
                if self._board is not None:
                    self._board.announce(state, verdict, missing, generation)
            case ev.Restore(generation):
                self._restore_as_all(generation)
            case ev.Report(phase, script_ended, cause, holds):
                if self._account.link is not None:
                    self._account.link.report(
                        phase, script_ended=script_ended, cause=cause, holds=holds
                    )
            case ev.Publish():
                self._publishing.set()
                self._serve("publish", self._publish())
            case ev.Record():
                pass  # the life is over: ``run_host`` goes on to ``record_result``
            case ev.Say(event, fields, level):
                self._account.say(level, event, **dict(fields))
            case _:
                assert_never(action)

    def _expire(self, deadline: ev.Deadline) -> None:
        self._timers.pop(deadline, None)
        if deadline is ev.Deadline.KILL and self._is_dying():
            later = self._loop.call_later(_LOOK_AGAIN_S, self._expire, deadline)
            self._timers[deadline] = later
            return
        self._post(ev.Expired(deadline, time.time()))

    def _is_dying(self) -> bool:
        """Whether what was killed needs no more than a little time: it is not to be given up."""
        if self._kill_since is None:
            self._kill_since = self._loop.time()
        if self._loop.time() - self._kill_since > DYING_S + SWEEP_KILL_S + DRAIN_S:
            return False
        children = [self._account.running[process.name].child for process in self._state.alive]
        return all(child is not None and child.dying() for child in children)

    def _disarm(self, deadline: ev.Deadline) -> None:
        timer = self._timers.pop(deadline, None)
        if timer is not None:
            timer.cancel()

    # ------------------------------------------------------------------ processes

    def _for_this_terminal(self, spec: ProcessSpec) -> ProcessSpec:
        """A transfer's progress is drawn in place where that is seen."""
        transfers = spec.name in {FETCH, RESTORE} or spec.role is Role.STORAGE
        wish = self.plan.contract.settings.log_progress
        if not transfers or wish != "auto" or not self._outputs.err.terminal:
            return spec
        from supervisor.storage.job import VARIABLE, drawn_in_place  # noqa: PLC0415

        return replace(spec, env={**spec.env, VARIABLE: drawn_in_place(spec.env[VARIABLE])})

    def _start(self, running: Running) -> None:
        spec = self._for_this_terminal(running.spec)
        if self.plan.contract.settings.hang_timeout_s:  # else nobody asks for it
            running.heartbeat_before = record.heartbeat(self.plan.paths)
        one_pipe = self.plan.contract.settings.log_streams == "merge"
        try:
            child = spawn(spec, one_pipe=one_pipe)
        except SpawnError as error:
            refused: SpawnError | None = error
            if error.instead is not None and not spec.essential and spec.role is not Role.PREPARE:
                self._account.say("warning", "process.interpreted", text=error.instead.why)
                running.spec = spec = replace(spec, argv=error.instead.argv)
                with contextlib.suppress(SpawnError):
                    child, refused = spawn(spec, one_pipe=one_pipe), None
            if refused is not None:
                message = self._masker.text(refused.message)
                self._post(ev.StartFailed(spec.name, refused.code, message, time.time()))
                return
        from supervisor.linux import cgroup  # noqa: PLC0415

        if self._guardian is not None:
            self._guardian.watch(child.pid)
        running.child = child
        running.started_at = time.time()
        running.memory_before = cgroup.read_memory_cgroup()
        running.pumps, running.log_file = self._outputs.attach(
            spec.name, spec.role, child.take_pipes()
        )
        self._account.say(
            "info",
            "process.started",
            process=spec.name,
            pid=child.pid,
            argv=shlex.join(self._masker.argv(spec.argv)),
        )
        self._post(ev.Started(spec.name, child.pid))
        task = self._children.create_task(self._watched(f"process {spec.name}", self._own(running)))
        self._child_tasks.add(task)
        timeout_s = self.plan.contract.settings.hang_timeout_s
        if timeout_s and spec.role is not Role.PREPARE and not spec.essential:
            self._serve("watchdog", self._watch_for_hang(running, timeout_s), vital=False)
        task.add_done_callback(self._child_tasks.discard)

    async def _own(self, running: Running) -> None:
        """One child from spawn to its end as an event."""
        # Loaded while the script starts: neither its start nor its end waits for them.
        # What cannot be loaded (too many open files) costs an explanation, not the job.
        with contextlib.suppress(OSError, ImportError):
            from supervisor.children import attribution  # noqa: F401, PLC0415
            from supervisor.cluster import protocol  # noqa: F401, PLC0415
            from supervisor.linux import cgroup  # noqa: F401, PLC0415
            from supervisor.mpi import words as mpi_words  # noqa: F401, PLC0415
        child = running.child
        assert child is not None
        end = await child.run_to_end(
            running.pumps,
            term_s=self._patience(running, child),
            kill_s=SWEEP_KILL_S,
            drain_s=DRAIN_S,
        )
        if self._guardian is not None:
            self._guardian.forget(child.pid)
        running.end, running.ended_at, running.outlived_by = end, time.time(), 0
        if end.killed:
            self._account.say(
                "warning",
                "process.descendants_killed",
                process=running.spec.name,
                signal="SIGKILL",
                who=self._named(end.killed),
            )
        if self._has_failed(running.spec, end):
            self._outputs.reveal(running.spec.name)
        elif running.spec.name in {FETCH, RESTORE} and end.status.ok:
            await self._plan_again()
        message, detail = str(end.status), ""
        try:
            message, detail = await self._explained(running, end)
        except (OSError, ImportError) as error:
            self._account.say("error", "internal.error", error=f"no explanation: {error}")
        except Exception as error:  # noqa: BLE001  # a defect of ours is not to cost the exit status
            self._broke(f"process {running.spec.name}", error)
        self._account.say(
            "info",
            "process.exited",
            process=running.spec.name,
            pid=child.pid,
            exit=str(end.status),
            seconds=round(end.run_s, 3),
            # Otherwise it is a cause, and said as one.
            **({"message": message} if self._state.cause and not end.status.ok else {}),
        )
        self._post(
            ev.Exited(
                running.spec.name,
                end.status,
                running.ended_at,
                safe(self._masker.text(message)),
                safe_lines(self._masker.text(detail)),
                end.left,
            )
        )

    def _patience(self, running: Running, child: Child) -> Patience:
        """What the descendants that outlive a leader have; and say that they do."""
        began: float | None = None
        said = False

        def ask(alive: Sequence[procfs.Process]) -> Respite:
            nonlocal began, said
            now = time.monotonic()
            began = began or now
            name = running.spec.name
            given = respite(self._state, name, child.death(), asked=running.asked)
            running.outlived_by = len(alive)
            if alive and not said and now - began >= OUTLIVED_AFTER_S:
                said = True
                self._account.say(
                    "info",
                    "process.outlived",
                    process=name,
                    exit=str(child.death() or "unknown"),
                    count=len(alive),
                    who=self._named((each.pid, procfs.arguments(each.pid)) for each in alive),
                    signal=signal_name(given.signum),
                    left_s=round(min(began + given.seconds - now, self._until_kill_s()), 1),
                )
            return given

        return ask

    def _until_kill_s(self) -> float:
        """On the way down: until SIGKILL ends what is alive now."""
        servers = self._state.rung is Rung.SERVERS
        group_s = 0.0 if servers else self.plan.budgets.group_s
        ends = [
            timer.when() + (group_s if deadline is ev.Deadline.GRACE else 0.0)
            for deadline, timer in self._timers.items()
            if deadline in {ev.Deadline.GRACE, ev.Deadline.GROUP, ev.Deadline.LIMIT}
        ]
        return max(0.0, min(ends, default=math.inf) - self._loop.time())

    def _named(self, processes: Iterable[tuple[int, Sequence[str]]]) -> str:
        """``python3 t.py (pid 12), sleep 9 (pid 13)``."""
        named = [
            f"{shlex.join(self._masker.argv(words))[:_COMMAND_LENGTH]} (pid {pid})"
            for pid, words in islice(processes, NAMED)
        ]
        return ", ".join(named)

    async def _plan_again(self) -> None:
        """Everything is fetched: the contract is read again, with the code that is here now."""

        def again() -> tuple[Fetched, Plan | ContractError]:
            fetched, before = record.fetched(self.plan.paths), self.plan.contract.fetched
            if before is not None:  # a restore alone, after all was fetched
                fetched = replace(
                    before,
                    resumed_from=fetched.resumed_from or before.resumed_from,
                    holds=fetched.holds,
                    files=fetched.files,
                    bytes=fetched.bytes,
                )
            try:
                return fetched, self._replan(fetched)
            except ContractError as error:
                return fetched, error

        try:
            fetched, plan = await self._files(READY_S, again)
        except TimeoutError:
            self._post(ev.PrepareFailed(_silent(self.plan.paths.base, READY_S), time.time()))
            return
        told = ("files", "bytes", "resumed_from", "bucket_region")
        fields = {name: value for name in told if (value := getattr(fetched, name))}
        self._account.say("info", "storage.fetched", **fields)
        if isinstance(plan, ContractError):
            self._post(ev.PrepareFailed(self._masker.text(str(plan)), time.time()))
            return
        self.plan = plan
        self._account.replan(plan)
        self._post(ev.Replanned(tuple(spec.name for spec in plan.steps), fetched.holds))

    def _restore_as_all(self, generation: str) -> None:
        """One more step: the checkpoint with which all hosts of the job begin."""
        from supervisor.plan import storage as storage_plan  # noqa: PLC0415

        spec = storage_plan.restore_step(self.plan.contract, self.plan.paths, generation)
        spec = replace(spec, name=RESTORE)
        self._account.running[spec.name] = Running(spec)
        self._post(ev.Replanned((spec.name,)))
        self._post(ev.Prepared())

    async def _look(self, call: Callable[[], T], otherwise: T) -> T:
        """What ``call`` sees in the script's files; ``otherwise`` where they do not answer."""
        try:
            return await self._files(LOOK_S, call)
        except TimeoutError:
            if not self._said_silent:
                self._said_silent = True
                text = _silent(self.plan.paths.base, LOOK_S)
                self._account.say("warning", "files.silent", text=text)
            return otherwise

    async def _explained(self, running: Running, end: ChildEnd) -> tuple[str, str]:
        """Why a process ended: a sentence, and the detail."""
        from supervisor.children import attribution  # noqa: PLC0415
        from supervisor.linux import cgroup  # noqa: PLC0415
        from supervisor.mpi import words as mpi_words  # noqa: PLC0415

        # Secrets go first: whatever is cut or picked out of the text later is masked by then.
        *first, stderr = map(self._masked_tail, running.pumps)
        stdout = first[0] if first else b""  # one pipe: all of it may be what an error says
        who, status, checkpoint, spec = "", end.status, "", running.spec
        if running.spec.role is Role.LAUNCHER and not end.status.ok:
            words = mpi_words.read(stdout, stderr, end.status.code)
            who, stdout, stderr = words.who, words.stdout, words.stderr
            status = ExitStatus(signum=words.signum) if words.signum else status
        if running.stop_sent_at is not None and end.status.code in attribution.RESTART_CODES:
            checkpoint = await self._newest_checkpoint(running.stop_sent_at)
        early = not end.status.ok and end.run_s < attribution.STARTUP_S
        saved = early and await self._newest_checkpoint(running.started_at or 0.0)
        known = attribution.attribute_failure(
            status=status,
            run_s=end.run_s,
            stdout=stdout,
            stderr=stderr,
            memory_before=running.memory_before,
            memory_after=cgroup.read_memory_cgroup(),
            stopped_because=self._stopped_because(running.spec.name),
            checkpoint=checkpoint,
            progressed=bool(saved),
        )
        if not end.status.ok and not running.spec.essential:
            paths, mask = self.plan.paths, self._masker.text
            own_words = await self._look(lambda: record.own_words(paths, mask), None)
            if own_words is None and status.code in _MISTAKEN:
                own_words = await self._look(lambda: execution.spoiled_by_line_end(spec), "")
            if own_words:
                return f"{safe(own_words)[:300]}; {end.status}", known.detail
        return f"{who}: {known.message}" if who else known.message, known.detail

    async def _newest_checkpoint(self, since: float) -> str:
        place = self.plan.paths.checkpoints
        return await self._look(lambda: record.newest_checkpoint(place, since), "")

    def _stopped_by_us(self, process: str) -> bool:
        return any(each.name == process and each.stopped_by_us for each in self._state.processes)

    def _has_failed(self, spec: ProcessSpec, end: ChildEnd) -> bool:
        ended_well = end.status.ok and not spec.essential
        return not ended_well and not self._stopped_by_us(spec.name)

    def _stopped_because(self, process: str) -> str:
        """Why we sent the process a stop signal; empty where we did not."""
        cause = self._state.cause
        return str(cause) if cause and self._stopped_by_us(process) else ""

    def _send(self, running: Running, signum: int, whole_group: bool) -> None:
        child = running.child
        if child is None:
            return
        stops = signum == running.spec.stop_signal and self._state.cause is not None
        if stops:
            running.stop_sent_at = running.stop_sent_at or time.time()
        lived = not child.exited()
        reached = child.signal(signum, group=whole_group)
        running.asked = running.asked or (stops and lived and reached)
        self._account.say(
            "info",
            "process.signalled",
            process=running.spec.name,
            pid=child.pid,
            signal=signal_name(signum),
            to="group" if whole_group else "leader",
        )

    def _suspend(self, running: Running, *, suspend: bool) -> None:
        if running.child is None:
            return
        running.suspended = suspend
        count = running.child.suspend() if suspend else running.child.resume()
        what = "process.suspended" if suspend else "process.resumed"
        self._account.say("info", what, process=running.spec.name, processes=count)

    def _dump_stacks(self, running: Running) -> int:
        """Ask the tree for its stacks; how many of it can answer."""
        if running.child is None:
            return 0
        asked = stacks.dump((running.child.pid, *running.child.descendants()))
        self._account.say("info", "process.stacks", process=running.spec.name, processes=asked)
        return asked

    async def _watch_for_hang(self, running: Running, timeout_s: float) -> None:
        """Look now and then whether the script still does something."""
        from supervisor.children import attribution  # noqa: PLC0415
        from supervisor.children.watchdog import HangDetector  # noqa: PLC0415

        signs = await self._signs_of_life(running)
        detector = HangDetector.begin(signs, running.heartbeat_before)
        while running.end is None:
            await asyncio.sleep(min(5.0, timeout_s / 10))
            # A script that waits for a stalled reader of its output is held, and does not hang.
            if running.suspended or any(pump.held for pump in running.pumps):
                detector = detector.excuse(await self._signs_of_life(running))
                continue
            detector = detector.look(await self._signs_of_life(running))
            if detector.idle_s < timeout_s:
                continue
            self._account.say(
                "warning",
                "process.hung",
                process=running.spec.name,
                idle_s=round(detector.idle_s, 1),
            )
            words = ""
            if self._dump_stacks(running):
                await asyncio.sleep(stacks.WRITE_S)
            elif running.child is not None:
                with contextlib.suppress(TimeoutError):
                    words = await Aside("spy")(2 * stacks.SPY_S, stacks.spy, running.child.pid)
                self._account.say("info", "process.seen", process=running.spec.name, stacks=words)
            last = self._masked_tail(running.pumps[-1]).decode("utf-8", "replace")
            words = self._masker.text(words) or last
            detail = safe_lines(words)[-attribution.DETAIL_LIMIT :]
            self._post(
                ev.Hung(running.spec.name, detector.idle_s, time.time(), detail, detector.beats)
            )
            return

    def _masked_tail(self, pump: Pump) -> bytes:
        tail = pump.tail()
        return self._masker.tail(tail, whole=pump.bytes_read <= len(tail))

    async def _signs_of_life(self, running: Running) -> Signs:
        from supervisor.children.watchdog import Signs  # noqa: PLC0415

        child = running.child
        assert child is not None
        pids = (child.pid, *child.descendants())
        return Signs(
            at=time.monotonic(),
            output_bytes=running.output_bytes,
            cpu_s=sum(procfs.usage(pid)[0] or 0.0 for pid in pids),
            heartbeat=await self._look(lambda: record.heartbeat(self.plan.paths), None),
        )

    # ------------------------------------------------------------------ services

    async def _watched(self, name: str, work: Awaitable[None], *, vital: bool = True) -> None:
        """A defect of ours in a task is an event, so that the job still ends in order; in one that
        the job can do without it is only said."""
        try:
            await work
        except Exception as error:  # noqa: BLE001  # the last line of defence, reported as such
            if vital:
                self._broke(name, error)
            else:
                text = f"{name}: {type(error).__name__}: {error}"
                self._account.say("error", "internal.error", error=text)

    def _broke(self, name: str, error: Exception) -> None:
        text = self._masker.text(f"{name}: {type(error).__name__}: {without_number(str(error))}")
        self._post(ev.Broke(text, time.time()))

    def _serve(self, name: str, work: Coroutine[Any, Any, None], *, vital: bool = True) -> None:
        task = self._services.create_task(self._watched(name, work, vital=vital), name=name)
        self._service_tasks.append(task)

    async def _coordinate(self) -> str | None:
        """Serve the status port, and the job on it or the link to it; what went wrong, or None."""
        from supervisor.cluster.probe import MasterLink  # noqa: PLC0415
        from supervisor.status.board import JobBoard  # noqa: PLC0415
        from supervisor.status.server import BindError  # noqa: PLC0415

        plan = self.plan
        if plan.is_master:
            self._board = JobBoard(os.urandom(8).hex(), missing=tuple(plan.hosts[1:]))
        failed: BindError | None = None
        try:
            await self._open_status_port()
        except BindError as error:
            failed = error
        # A supervisor whose port is another one's of the same host says nothing to the master: it
        # would end the job of the other one.
        if not plan.is_master and not (failed and failed.taken and await self._is_a_second_one()):
            self._account.link = self._new_link(MasterLink)
            self._serve("link to the master", self._account.link.run())
        if failed:
            return str(failed) + await self._at_our_address()
        self._serve("who is missing", self._keep_explaining(), vital=False)
        return None

    async def _is_a_second_one(self) -> bool:
        """Whether a supervisor of this host and job has the status port, as far as can be known.

        Another program, or another job's supervisor, keeps ours from ever coming: that the master
        is told. One that does not answer in time may be ours, and stopped.
        """
        from supervisor.cluster.net import is_wildcard  # noqa: PLC0415
        from supervisor.cluster.probe import who_serves  # noqa: PLC0415

        plan = self.plan
        bind = plan.status_bind
        address = "127.0.0.1" if not bind or is_wildcard(bind) else bind
        port = plan.endpoints[plan.host].status.port
        told = await who_serves(address, port, timeout_s=WHO_IS_IT_S)
        own = {"host": plan.host, "master": plan.master, "job": plan.contract.job_name}
        return told is None or {key: told.get(key) for key in own} == own

    async def _at_our_address(self) -> str:
        """Which other host of the job has this one's address and port, if one does."""
        from supervisor.cluster.net import NoAddress, Resolver  # noqa: PLC0415

        resolver, own = Resolver(), self.plan.endpoints[self.plan.host].status
        hosts = [name for name in self.plan.hosts if name != self.plan.host][:WAITING_KNOCKS]

        async def addresses(name: str) -> set[str]:
            at = self.plan.endpoints[name].status
            with contextlib.suppress(NoAddress):
                if at.port == own.port:
                    return {*await resolver.resolve(at.address, timeout_s=SAME_ADDRESS_S)}
            return set()

        ours, *others = await asyncio.gather(*map(addresses, (self.plan.host, *hosts)))
        for name, theirs in zip(hosts, others, strict=True):
            if both := ours & theirs:
                return (
                    f"; {name} and {self.plan.host} are both at {min(both)}: correct the DNS or "
                    f"{RESOURCES}, or give each ports of its own in {OVERLAY}"
                )
        return ""

    async def _keep_explaining(self) -> None:
        """Until the job runs: who is missing and why, every few seconds, as an event."""
        longest_s = max(0.1, self.plan.budgets.join_s / 4)
        pause_s = min(WAITING_FIRST_S, longest_s)
        while self._state.phase in {Phase.PREPARING, Phase.JOINING}:
            await asyncio.sleep(pause_s)
            if self._state.phase is Phase.JOINING:
                self._post(ev.Waiting(tuple((await self._why_missing(longest_s)).items())))
                pause_s = min(WAITING_EVERY_S, longest_s)

    async def _why_missing(self, timeout_s: float) -> dict[str, str]:
        if self._account.link is None:
            assert self._account.server is not None
            missing = self._state.missing[:WAITING_KNOCKS]
            return await self._account.server.members.explain(
                missing, timeout_s=min(2.0, timeout_s)
            )
        link = self._account.link
        heard = link.document
        if link.problem or heard is None or not link.answers:
            return {self.plan.master: link.evidence}
        if heard.restore and not heard.missing:
            return {self.plan.master: f"hosts restore checkpoint {heard.restore}"}
        return dict.fromkeys(
            (name for name in heard.missing if name != self.plan.host), "not heard from"
        )

    def _new_link(self, kind: type[MasterLink]) -> MasterLink:
        plan = self.plan
        status, chief = plan.endpoints[plan.master].status, plan.chief_endpoint
        link = kind(
            host=plan.host,
            master_host=plan.master,
            status_endpoint=(status.address, status.port),
            chief_endpoint=(chief.address, chief.port) if chief else None,
            token=plan.contract.settings.token or None,
            lease_s=plan.budgets.lease_s,
            refused_count=plan.contract.settings.master_refused_count,
            refused_window_s=plan.contract.settings.master_refused_window_s,
            bare_after_s=plan.contract.settings.bare_master_after_s,
            wait_s=plan.contract.settings.poll_wait_s,
            job=self._identity,
            post=self._post,
        )
        link.report(Phase.PREPARING, script_ended=False, cause=None)
        return link

    @property
    def _identity(self) -> JobIdentity:
        from supervisor.cluster.protocol import identify  # noqa: PLC0415

        plan = self.plan
        return identify(plan.contract.job_name, plan.master, plan.hosts)

    async def _watch_servers(self, servers: Servers) -> None:
        """Look now and then whether anybody speaks to the servers of this host."""
        began = time.monotonic()
        while not servers.settled:
            await asyncio.sleep(beat.rest_s(rest_s(time.monotonic() - began)))
            servers.look(time.monotonic())
            self._say_unused(servers, ended=False)
        if self._account.unused_servers:
            self._account.unused_servers = ()
            self._account.say("info", "servers.used")

    def _look_at_servers(self) -> None:
        """The last look, before they are stopped. Of a job that failed another cause is told."""
        if self._servers and self._account.verdict(self._state).outcome is Outcome.SUCCEEDED:
            self._servers.look(time.monotonic())
            self._say_unused(self._servers, ended=True)

    def _say_unused(self, servers: Servers, *, ended: bool) -> None:
        names = servers.unused(time.monotonic(), ended=ended)
        if names and not self._account.unused_servers:
            self._account.unused_servers = tuple(names)
            self._account.say("warning", "servers.unused", text=servers.words(names))

    async def _say_resumed(self, began_ns: int) -> None:
        """From which checkpoint the script goes on, as far as it can be seen from outside."""
        fetched = self.plan.contract.fetched
        place = fetched.resumed_from if fetched else ""
        if not place:
            await asyncio.sleep(SERVE_ALONE_AFTER_S)  # the script's start is not to wait for it
            place = await _found(self.plan.paths.checkpoints, began_ns)
        if place:
            self._account.resumed_from = place
            self._account.say("info", "job.resumed", **{"from": place})

    async def _watch_resources(self) -> None:
        """Say early what would end the job later."""
        await asyncio.sleep(SERVE_ALONE_AFTER_S)  # the script's start is not to wait for it
        from supervisor.linux import resources  # noqa: PLC0415

        paths = self.plan.paths
        watch = resources.Watch((paths.model, paths.checkpoints, paths.output, "/tmp", "/dev/shm"))  # noqa: S108
        look, silent = Aside("disks"), False
        while True:
            try:
                for text in await look(LOOK_S, lambda: list(watch.warnings())):
                    self._account.say("warning", "resource.low", text=text)
            except TimeoutError:
                if not silent:
                    text = _silent(watch.looking_at, LOOK_S)
                    self._account.say("warning", "files.silent", text=text)
                silent = True
            await asyncio.sleep(resources.EVERY_S)

    async def _keep(self, spec: ProcessSpec) -> None:
        """Have directories kept elsewhere, from the script's start on to the end of publishing."""
        # The script's start is not to wait for it; a script of milliseconds is over before.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._publishing.wait(), SERVE_ALONE_AFTER_S)
        await self._begin_keeping(spec).run()

    def _begin_keeping(self, spec: ProcessSpec) -> Agent:
        from supervisor.storage.agent import Agent  # noqa: PLC0415

        guardian = self._guardian
        nothing = lambda _pid: None  # noqa: E731
        self._account.agent = self._account.agent or Agent(
            self._for_this_terminal(spec),
            attach=lambda fd: self._outputs.attach_stderr(spec.name, spec.role, fd),
            watch=guardian.watch if guardian else nothing,
            forget=guardian.forget if guardian else nothing,
            say=self._account.say,
            failed=self._on_transfer_failed,
        )
        return self._account.agent

    def _on_transfer_failed(self, notice: Failed) -> None:
        text = f"{notice.transfer}: {notice.message}"
        if self._policies[notice.transfer] == "fail":
            self._post(ev.TransferFailed(self._masker.text(text), time.time()))
        else:
            self._account.say("error", "storage.failed", text=text)

    @property
    def _policies(self) -> Mapping[str, str]:
        return TRANSFERS | dict(self.plan.contract.settings.storage_policy)

    def _publish_budget_s(self) -> float:
        """What is left for transfers, as the reducer counts it, less what ending them takes."""
        budgets, stop_at = self.plan.budgets, self._account.stop_at
        if stop_at is None:
            left_s = budgets.publish_end_s
        elif ev.Deadline.LIMIT in self._state.armed:
            left_s = stop_at - time.monotonic() - KILL_S - RECORD_S
        else:
            left_s = budgets.publish_s
        return max(0.0, left_s - PUBLISH_MARGIN_S)

    async def _publish(self) -> None:
        """Send what is to be kept; what could not be sent is named."""
        errors = [await self._check_model()]
        spec = self.plan.storage
        if spec is not None and self._ran:
            agent = self._begin_keeping(spec)
            results = self._account.verdict(self._state).outcome is not Outcome.FAILED
            self._account.unsent = await agent.publish(self._publish_budget_s(), results=results)
            for unsent in self._account.unsent:
                text = unsent_text(unsent)
                level = "warning" if self._policies.get(unsent.transfer) == "warn" else "error"
                self._account.say(level, "storage.unsent", text=text)
                errors.append(text if level == "error" else None)
        self._post(ev.Published("; ".join(filter(None, errors)) or None))

    async def _check_model(self) -> str | None:
        """What serving will not take, on the host that saves; an error where that is the policy."""
        policy = self.plan.contract.settings.model_check
        succeeded = self._account.verdict(self._state).outcome is Outcome.SUCCEEDED
        if policy == "off" or not self.plan.is_master or not succeeded:
            return None
        from supervisor.host import model_check  # noqa: PLC0415

        none: list[str] = []
        problems = await self._look(lambda: model_check.look(self.plan.paths.model), none)
        for text in problems:
            self._account.say("warning", "model.unservable", text=text)
        return "; ".join(problems) if policy == "fail" and problems else None

    async def _serve_alone(self) -> None:
        await asyncio.sleep(SERVE_ALONE_AFTER_S)
        # A quarter of a second, in which the loop still hears signals. Whoever imports it next is
        # told what went wrong.
        with contextlib.suppress(Exception):
            await Aside("import")(READY_S, importlib.import_module, "supervisor.status.server")
        from supervisor.status.server import BindError  # noqa: PLC0415

        try:
            await self._open_status_port()
        except BindError as error:
            # Nobody coordinates over it: a job of one host goes on without.
            self._account.say("warning", "status.unavailable", error=str(error))

    async def _open_status_port(self) -> None:
        from supervisor.status.doors import Member  # noqa: PLC0415
        from supervisor.status.server import StatusServer  # noqa: PLC0415

        plan = self.plan
        others = [(name, plan.endpoints[name].status) for name in plan.hosts if name != plan.host]
        self._account.server = StatusServer(
            bind=plan.status_bind,
            port=plan.endpoints[plan.host].status.port,
            host=plan.host,
            board=self._board,
            members=[Member(name, at.address, at.port) for name, at in others],
            token=plan.contract.settings.token or None,
            snapshot=lambda: self._account.snapshot(self._state),
            ready=self._ready,
            on_report=self._on_report,
            on_lost=lambda host, why: self._post(ev.MemberLost(host, why, time.time())),
            on_refused=self._on_refused,
            job=self._identity,
            lease_s=plan.budgets.lease_s,
            samples=self._outputs.samples,
            refused_count=plan.contract.settings.master_refused_count,
            refused_window_s=plan.contract.settings.master_refused_window_s,
            on_error=lambda line: self._account.say("error", "status.error", error=line),
        )
        await self._account.server.start()
        self._serve("status server", self._until_cancelled(self._account.server.stop))

    async def _until_cancelled(self, stop: Callable[[], Awaitable[None]]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await stop()

    def _on_report(self, host: str, report: HostReport) -> None:
        self._post(
            ev.MemberReported(host, report.phase, report.script_ended, report.cause, report.holds)
        )

    def _on_refused(self, host: str, reason: str) -> None:
        self._account.say("warning", "member.refused", host=host, reason=reason)

    def _ready(self) -> tuple[bool, str]:
        state = self._state
        reason = state.phase.value
        if state.phase is Phase.JOINING and state.waiting:
            reason += ", waiting for " + ", ".join(f"{host} ({why})" for host, why in state.waiting)
        return state.phase is Phase.RUNNING, reason

    # ------------------------------------------------------------------ what is said


async def _found(directory: str, before_ns: int) -> str:
    """The newest checkpoint there; empty where nothing answers: it is only for people."""
    try:
        from supervisor.host import resumed  # noqa: PLC0415

        return await Aside("resumed")(LOOK_S, resumed.newest, directory, before_ns)
    except (OSError, TimeoutError):
        return ""


def _servers(plan: Plan) -> Servers | None:
    """The ports by which it is seen whether the script takes part in its cluster."""
    if plan.strategy is Strategy.MWMS and plan.listening:  # an evaluator opens none
        return Servers({plan.processes[-1].name: plan.listening[-1]}, own=True)
    if plan.strategy is not Strategy.PS:
        return None
    here = plan.endpoints[plan.host]
    ports = {
        spec.name: here.ps.port if spec.role is Role.PS else here.train.port
        for spec in plan.processes
        if spec.essential
    }
    return Servers(ports) if ports else None


def _initial_state(plan: Plan) -> State:
    setup = Setup(
        host=plan.host,
        master=plan.master,
        hosts=plan.hosts,
        success_policy=plan.success_policy,
        # The variables live on the parameter servers, and the coordinator waits for its workers:
        # the chief's last checkpoint needs both. The ranks of an MPI job are mpirun's to stop.
        chief_first=plan.strategy in {Strategy.PS, Strategy.MPI},
        budgets=plan.budgets,
        success_share=plan.success_share,
        tolerated_failures=plan.tolerated_failures,
        evaluator=plan.evaluator,
        scriptless=plan.scriptless,
        agreement=plan.restore_agreement,
        own_lines=plan.contract.settings.checkpoint_hosts == "all",
    )
    return initial(
        setup,
        tuple(
            Process(
                spec.name,
                server=spec.essential,
                step=spec.role is Role.PREPARE,
                stop_signal=spec.stop_signal,
                shelters_scripts=spec.role is Role.SSHD,
            )
            for spec in (*plan.steps, *plan.processes)
        ),
    )


def _make_ready(plan: Plan) -> str | None:
    """Directories, a clean slate, an executable entry point, free ports; what is wrong, or None."""
    paths = plan.paths
    record.clear(paths)
    own = os.path.dirname(paths.report)
    wanted = (paths.model, paths.checkpoints, paths.output_data, paths.output_intermediate, own)
    for directory in wanted:
        try:
            if directory == own:
                regular.own_directory(own)
            else:
                os.makedirs(directory, exist_ok=True)
        except OSError as error:
            return f"{directory} cannot be made: {error.strerror or error}"
    if plan.contract.entry_kind is EntryKind.COMMAND:
        with contextlib.suppress(OSError):  # exec says what is wrong, and better
            execution.make_executable(paths.base, plan.contract.code_dir, plan.contract.entry_point)
    if not plan.listening:
        return None
    # Before TensorFlow starts: its own message for a taken port names neither pid nor command.
    from supervisor.linux.ports import check_free  # noqa: PLC0415

    return next(filter(None, map(check_free, plan.listening)), None)


def _silent(place: str, seconds: float) -> str:
    return f"the file system of {place} does not answer in {seconds:.3g} s"


def unsent_text(unsent: Unsent) -> str:
    """``checkpoints: 3 files, 12000 bytes not sent (a, b, c): AccessDenied …``."""
    more = unsent.files - len(unsent.names)
    names = ", ".join(unsent.names) + (f" and {more} more" if unsent.names and more > 0 else "")
    which = f" ({names})" if names else ""
    return (
        f"{unsent.transfer}: {counted(unsent.files, 'file')}, {counted(unsent.bytes, 'byte')} "
        f"not sent{which}: "
        f"{unsent.reason}"
    )


def _loss(row: dict[str, object]) -> bool:
    return any(row[name] for name in ("unwritten_bytes", "dropped_bytes", "discarded_bytes"))
