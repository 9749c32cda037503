"""The running supervisors of ``supervisor local``: started, shown, stopped, and never waited for
without end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from supervisor.aside import Aside
from supervisor.children import execution
from supervisor.children.child import Child, spawn
from supervisor.children.ending import kill_everything
from supervisor.children.guardian import Guardian
from supervisor.contract.distribution import Strategy
from supervisor.contract.paths import paths_below
from supervisor.contract.settings import Settings
from supervisor.contract.strangers import PREFIX
from supervisor.engines.local import ADDRESS, LocalHost
from supervisor.faults import counted, safe
from supervisor.host.console import HURRIED_PATIENCE_S, PATIENCE_S, SETTLE_S, settle
from supervisor.life.words import ECHO_S, OOM_RAISE_OF_HELPERS, ProcessSpec, Role
from supervisor.linux import orphans
from supervisor.linux.inherited import STOP_SIGNALS, InheritedSignals
from supervisor.linux.signals import SignalPipe
from supervisor.streams import Branch, Carriage, Label, Policy, Prefix, Pump, console
from supervisor.streams.masking import Masker
from supervisor.verbs import footer
from supervisor.verbs.footer import Foot
from supervisor.verbs.injection import Faults
from supervisor.verbs.runs import report_at
from supervisor.verbs.stragglers import MARGIN_S, Stragglers
from supervisor.verbs.summary import Result, summary

if TYPE_CHECKING:
    from supervisor.verbs.injector import Injector

SSH_KEY: Final = "id_ed25519"
"""The run's own, below the directory of its ssh files."""
GRACE_S: Final = 10.0
"""What scripts have after Ctrl-C where nothing else is said: somebody waits for it."""
_READ_S: Final = 10.0
"""For reading what a host has left: its file system may not answer."""
_OF_ANOTHER_JOB: Final = (
    "SAGEMAKER_PROGRAM", "SAGEMAKER_SUBMIT_DIRECTORY", "TF_CONFIG", "SUPERVISOR_BASE_DIR",
    "SUPERVISOR_STRATEGY", "SUPERVISOR_HOSTS", "SUPERVISOR_HOST_INDEX", "SUPERVISOR_HOST_COUNT",
)  # fmt: skip
"""Variables that the hosts of this one are not to read: their files say everything, also within a
job of Slurm's or in a pod."""
_FOOT_S: Final = 1.0
"""The line at the bottom is as old as this."""
_COLUMNS: Final = 80


@dataclass(frozen=True, slots=True)
class Request:
    """What ``supervisor local`` was asked to do, checked."""

    hosts: int
    strategy: Strategy
    run_dir: str
    script: str
    arguments: tuple[str, ...]
    hyperparameters: Mapping[str, Any]
    settings: Settings
    flags: Mapping[str, str]
    environ: Mapping[str, str]
    continued: bool
    """There was a run in this directory before."""
    faults: Faults | None = None
    """What is to be done to it."""


class Fleet:
    """The running supervisors."""

    def __init__(
        self, request: Request, hosts: Sequence[LocalHost], guardian: Guardian, ssh_dir: str
    ) -> None:
        self._request = request
        self._hosts = hosts
        self._guardian = guardian
        self._ssh_dir = ssh_dir
        self._children: list[Child] = []
        self._living: dict[str, Child] = {}
        """The same, by host."""
        self._ended: set[str] = set()
        self._one_ended = asyncio.Event()
        self._stragglers = Stragglers(
            tuple(host.name for host in hosts),
            request.settings,
            self._living,
            self._ended,
            self._one_ended,
            say=self._say,
            keeps=_keeps_elsewhere(request),
        )
        self._collector = orphans.Collector()
        self._stop_timer: asyncio.TimerHandle | None = None
        self._last_stop: tuple[int, float] | None = None
        self._first_stop: int | None = None
        """The signal that asked for the stop."""
        self._unstarted: Result | None = None
        """The host that could not be started, if there is one: the others would wait for it."""
        policy: Policy = "drop" if request.settings.log_overflow == "drop" else "block"
        self._out, self._err = console(policy=policy, tame=True)
        self._foot = Foot(tuple(host.name for host in hosts))
        self._began = time.monotonic()
        self._stop_began: float | None = None
        self.resumed = True
        """False where faults were asked for, and training began anew after one."""
        self._injector = self._injecting()
        self._lost: dict[str, float | None] = {}
        """Hosts that a fault has killed, and after how long they are started anew, if they are."""
        self._closing = asyncio.Event()
        """No host is started anew any more."""
        self._signals = SignalPipe(self._on_signal)

    async def run(self, inherited: InheritedSignals) -> list[Result]:
        wanted = set(STOP_SIGNALS) | {signal.SIGTSTP, signal.SIGCONT}
        if inherited.hangup_ignored:
            wanted.discard(signal.SIGHUP)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._signals.catch(wanted)
        orphans.adopt()
        self._collector.start()
        for line in _greeting(self._request, self._hosts):
            self._say(line)
        beside = [asyncio.create_task(self._stragglers.watch())]
        if self._err.terminal:
            beside.append(asyncio.create_task(self._keep_foot()))
        if self._injector is not None:
            beside.append(asyncio.create_task(self._inject(self._injector)))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._own(host)) for host in self._hosts]
            results = [task.result() for task in tasks]
            self._end_beside(beside)
            await asyncio.gather(*beside, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                text = await Aside("summary")(_READ_S, self._summary, results)
                self._out.offer(text.encode(errors="replace"))
            return results
        finally:
            self._end_beside(beside)
            for child in self._children:
                child.close()
            kill_everything()
            self._collector.stop()
            self._signals.close()
            if self._stop_timer is not None:
                self._stop_timer.cancel()
            await self._write_out()

    def _end_beside(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        self._err.foot(b"")

    # ------------------------------------------------------------------ faults on purpose

    def _injecting(self) -> Injector | None:
        request = self._request
        if request.faults is None:
            return None
        from supervisor.verbs.injector import Injector  # noqa: PLC0415  # for them alone

        return Injector(
            request.faults,
            self._hosts,
            request.settings.checkpoint_local_dir,
            living=self._living,
            say=self._say,
            lose=self._lose,
        )

    async def _inject(self, injector: Injector) -> None:
        try:
            await injector.run()
        except Exception as error:  # noqa: BLE001  # a defect there is none of the job's
            self._say(f"no more faults: {error!r}")

    def _lose(self, host: str, back_s: float | None) -> None:
        """As a machine that is lost, with all that ran on it."""
        self._lost[host] = back_s
        self._living[host].kill_tree()

    async def _comes_back(self, host: str) -> bool:
        """Whether a host that was lost is started anew, as a platform would; waits until then."""
        back_s = self._lost.pop(host, None)
        if back_s is None or self._closing.is_set():
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), back_s)
        if self._closing.is_set():
            return False
        self._say(f"host {host} is started anew")
        return True

    # ------------------------------------------------------------------ what is seen

    def _say(self, text: str) -> None:
        self._err.offer_line(safe(f"supervisor: {text}").encode() + b"\n")

    async def _keep_foot(self) -> None:
        """The line at the bottom: how the job stands, as the master tells it."""
        from supervisor.verbs.asking import StatusError, fetch  # noqa: PLC0415  # after the spawn

        url = f"http://{ADDRESS}:{self._hosts[0].status_port}"
        look = Aside("status")
        while True:
            self._draw_foot()
            await asyncio.sleep(_FOOT_S)
            with contextlib.suppress(StatusError, TimeoutError):
                status = await look(2 * _FOOT_S, partial(fetch, url, timeout_s=_FOOT_S))
                self._foot = self._foot.with_status(status)  # as it is by now

    def _draw_foot(self) -> None:
        now = time.monotonic()
        left_s = None
        if self._stop_began is not None:
            left_s = self._request.settings.stop_grace_s - (now - self._stop_began)
        self._foot = replace(
            self._foot, ended=len(self._ended), seconds=now - self._began, stop_left_s=left_s
        )
        columns = shutil.get_terminal_size((_COLUMNS, 0)).columns
        dim, end = (b"\x1b[2m", b"\x1b[0m") if self._color else (b"", b"")
        self._err.foot(dim + safe(footer.text(self._foot, columns)).encode() + end)

    @property
    def _color(self) -> bool:
        return self._err.terminal and not self._request.environ.get("NO_COLOR")

    def _summary(self, results: Sequence[Result]) -> str:
        request = self._request
        masker = Masker.of(request.environ, request.hyperparameters, argvs=[request.arguments])
        color = self._color and self._out.terminal
        told = None
        if self._injector is not None:
            reports = {each.host.name: each.report for each in results if each.report}
            told = self._injector.verdict(request.strategy, reports)
            self.resumed = told.good
        return summary(request.run_dir, request.strategy, results, masker, told, color=color)

    async def _write_out(self) -> None:
        """A pager may take its time; an output that takes nothing is left, and says how much."""
        sinks = dict.fromkeys((self._out, self._err))
        patience_s = PATIENCE_S if self._stop_timer is None else HURRIED_PATIENCE_S
        await settle(sinks, patience_s=patience_s, limit_s=SETTLE_S)
        for sink in sinks:
            lost = await sink.drain(0) + sink.dropped_bytes
            if lost and sink is not self._err:
                self._say(f"{counted(lost, 'byte')} of {sink.name} could not be written")
                await settle([self._err], patience_s=HURRIED_PATIENCE_S, limit_s=SETTLE_S)
            sink.close(0)

    async def _own(self, host: LocalHost) -> Result:
        """A host's supervisor from its start to its report; another one where it comes back."""
        began = time.monotonic()
        while True:
            if self._unstarted is not None:
                return replace(self._unstarted, host=host)
            try:
                result = await self._live(host, began)
            except execution.SpawnError as error:
                how = f"{host.name} was not started: {error.message}"
                self._unstarted = Result(host, error.code, how, 0.0, None)
                self._kill()
                return self._unstarted
            if not await self._comes_back(host.name):
                break
        self._ended.add(host.name)
        self._one_ended.set()
        if host is self._hosts[0]:
            self._closing.set()
        with contextlib.suppress(TimeoutError):
            path = paths_below(host.base_dir).report
            result.report = await Aside("report")(_READ_S, report_at, path)
        return self._unless_given_up(result)

    async def _live(self, host: LocalHost, began: float) -> Result:
        """One supervisor, without its report. Raises SpawnError."""
        first, terminal = host is self._hosts[0], self._out.terminal and self._err.terminal
        request, ssh_dir = self._request, self._ssh_dir
        spec = _spec(request, host, ssh_dir, first=first, terminal=terminal, color=self._color)
        child = spawn(spec)
        self._children.append(child)
        self._living[host.name] = child
        self._guardian.watch(child.pid)
        pumps = [
            self._pump(fd, host, stream)
            for fd, stream in zip(child.take_pipes(), ("stdout", "stderr"), strict=True)
        ]
        end = await child.run_to_end(pumps, term_s=2.0, kill_s=2.0, drain_s=1.0)
        self._guardian.forget(child.pid)
        self._children.remove(child)
        del self._living[host.name]
        seconds, given_up = time.monotonic() - began, self._stragglers.given_up.get(host.name, "")
        return Result(host, end.status.shell_code, str(end.status), seconds, None, given_up)

    def _unless_given_up(self, result: Result) -> Result:
        if self._unstarted is None:
            return result
        return replace(self._unstarted, host=result.host, seconds=result.seconds)

    def _pump(self, fd: int, host: LocalHost, stream: str) -> Pump:
        """Whole lines only: the hosts' lines have their prefixes and must not tear each other, also
        where a host is held up in the middle of one."""
        sink = self._out if stream == "stdout" else self._err
        wish = self._request.settings.log_progress
        carriage = Carriage.LIVE if sink.terminal else Carriage.COLLAPSE
        if wish == "keep":
            carriage = Carriage.KEEP
        merged = _merging(self._request, Label(host.name, "host", stream), carriage)
        pump = Pump(fd, [Branch(merged, sink)])
        pump.start()
        return pump

    def _on_signal(self, signum: int) -> None:
        if signum not in {signal.SIGTSTP, signal.SIGCONT}:
            last, self._last_stop = self._last_stop, (signum, time.monotonic())
            if last is None or last[0] != signum or self._last_stop[1] - last[1] >= ECHO_S:
                self._stop(signum)
            return
        for child in self._children:
            child.signal(signum)
        if signum == signal.SIGTSTP:
            # Ctrl-Z: the hosts suspend their trees; we stop as a terminal's program should.
            self._err.foot(b"")
            os.kill(os.getpid(), signal.SIGSTOP)

    def _stop(self, signum: int) -> None:
        """Ctrl-C or SIGTERM: once, all hosts are asked to stop; twice, they are told now.

        The supervisors have sessions of their own, so the terminal's Ctrl-C reaches only us. The
        second signal is another one than the first: of two that are pending the kernel keeps one.
        """
        self._end_faults()
        first, second = signal.SIGTERM, signal.SIGINT
        if (self._first_stop or signum) == signal.SIGINT:
            first, second = second, first
        for child in self._children:
            child.signal(first if self._first_stop is None else second)
        grace_s = self._request.settings.stop_grace_s
        if self._first_stop is None:
            self._first_stop, self._stop_began = signum, time.monotonic()
            again = "Ctrl-C again kills" if signum == signal.SIGINT else "a second signal kills"
            self._say(f"stopping: the scripts have {grace_s:g} s; {again}")
            limit_s = self._request.settings.stop_limit_s + MARGIN_S
            loop = asyncio.get_running_loop()
            self._stop_timer = loop.call_later(limit_s, self._kill)
        elif not self._foot.killed:
            self._foot = replace(self._foot, killed=True)
            self._say("killing everything now")
        if self._err.terminal:
            self._draw_foot()

    def _end_faults(self) -> None:
        """First of all at a stop: what is held could not act on it."""
        self._closing.set()
        if self._injector is not None:
            self._injector.end()

    def _kill(self) -> None:
        self._end_faults()
        for child in self._children:
            child.kill_tree()


def _spec(
    request: Request, host: LocalHost, ssh_dir: str, *, first: bool, terminal: bool, color: bool
) -> ProcessSpec:
    """A host's supervisor. ``first``: it is the master, ``terminal``: both outputs are one."""
    env = dict(request.environ)
    env.update(
        {PREFIX + name.upper(): text for name, text in request.flags.items()},
        SAGEMAKER_BASE_DIR=host.base_dir,
        SUPERVISOR_STATUS_BIND=ADDRESS,
        SUPERVISOR_ENGINE="local",
    )
    for name in _OF_ANOTHER_JOB:
        env.pop(name, None)
    env.setdefault("SUPERVISOR_LOG_FORMAT", "prefix")
    env.setdefault("SUPERVISOR_LOG_FILES", "true")
    # All hosts share this Python: N pips at once would race, in an environment that is yours.
    env.setdefault("SUPERVISOR_REQUIREMENTS", "skip")
    if ssh_dir:
        env.setdefault("SUPERVISOR_MPI_SSH_KEY", os.path.join(ssh_dir, SSH_KEY))
        if not first:
            env["TMPDIR"] = ssh_dir  # what an sshd leaves goes with the run
    if terminal:
        # The hosts write to pipes; what they draw in place is drawn here.
        env.setdefault("SUPERVISOR_LOG_PROGRESS", "live")
        env.setdefault("SUPERVISOR_LOG_OWN", "brief")
    if env.get("SUPERVISOR_LOG_COLOR", "auto") == "auto":
        env["SUPERVISOR_LOG_COLOR"] = "always" if color else "never"
    return ProcessSpec(
        name=host.name,
        role=Role.CHIEF,
        argv=(sys.executable, "-P", "-m", "supervisor", "train"),
        env=env,
        cwd=host.base_dir,
        oom_raise=OOM_RAISE_OF_HELPERS,
    )


def _merging(request: Request, label: Label, carriage: Carriage) -> Prefix:
    """A host held in the middle of a line goes on without a prefix: that line is waited for."""
    given = request.environ.get("SUPERVISOR_LOG_FORMAT", "prefix")
    raw = request.flags.get("log_format", given) == "raw"
    return Prefix(label, "", carriage=carriage, halves=raw)


def _greeting(request: Request, hosts: Sequence[LocalHost]) -> Iterator[str]:
    """What is said at the start."""
    script = os.path.basename(request.script)
    yield f"{counted(len(hosts), 'host')}, {script}, in {request.run_dir}"
    yield f"http://{ADDRESS}:{hosts[0].status_port}/ shows it; so do supervisor status and logs"
    if request.continued:
        yield "the run in this directory is continued"
    if request.faults is not None:
        yield from request.faults.greeting(request.settings.restarts)


def _keeps_elsewhere(request: Request) -> bool:
    """Whether anything may have to be sent at the end."""
    settings = vars(request.settings).items()
    return (
        any(value for name, value in settings if name.endswith("_uri"))
        or any("://" in str(value) for value in request.hyperparameters.values())
        or "SAGEMAKER_S3_OUTPUT" in request.environ
    )
