"""``supervisor local``: N real supervisors as the hosts of one job on this machine.

The same code path as in a container: each host is a ``supervisor train`` with a base directory of
its own. What is here is only what a platform would do: lay out the hosts, start them, merge their
logs, pass a stop on, and say at the end what became of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from supervisor import regular
from supervisor.aside import Aside
from supervisor.children import execution
from supervisor.children.child import Child, spawn
from supervisor.children.ending import kill_everything
from supervisor.children.guardian import Guardian
from supervisor.contract.distribution import Strategy
from supervisor.contract.reading import parse_settings
from supervisor.contract.settings import GROUP_S, KILL_S, Settings
from supervisor.contract.strangers import PREFIX
from supervisor.engines.directory import absolute
from supervisor.engines.local import ADDRESS, LocalHost, NoPortsError, lay_out
from supervisor.faults import ContractError, Fault, counted, in_words, safe
from supervisor.host.console import HURRIED_PATIENCE_S, PATIENCE_S, SETTLE_S, settle
from supervisor.life.lifecycle import ECHO_S
from supervisor.life.words import OOM_RAISE_OF_HELPERS, ProcessSpec, Role
from supervisor.linux import orphans, procfs
from supervisor.linux.inherited import STOP_SIGNALS, InheritedSignals, reset_inherited_signals
from supervisor.linux.signals import SignalPipe
from supervisor.streams import Branch, Carriage, Label, Policy, Prefix, Pump, console
from supervisor.streams.masking import Masker

_MOST_HOSTS: Final = 64
_EXAMPLES: Final = {
    Strategy.PS: "parameter_server_strategy.py",
    Strategy.MWMS: "multi_worker_mirrored_strategy.py",
    Strategy.NONE: "parameter_server_strategy.py",
    Strategy.MPI: "",
}
_SSH_KEY: Final = "id_ed25519"
_READ_S: Final = 10.0
"""For reading what a host has left: its file system may not answer."""
_REPORT_BYTES: Final = 64 << 20
_MARGIN_S: Final = 5.0
"""Beyond a host's own limit: a supervisor that is still there then is killed."""
_LOOK_S: Final = 0.5
STOPPED_S: Final = 5.0
"""A supervisor that is stopped (SIGSTOP) has so long to be continued once the job is over."""
END_S: Final = 5.0
"""What it has from SIGTERM to SIGKILL beyond the shares of its processes."""
_WIDE: Final = 200
"""Columns of the table where the output is not a terminal."""


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


def read_request(
    *,
    hosts: str,
    strategy: str | None,
    run_dir: str | None,
    parameters: Sequence[str],
    script: str | None,
    arguments: Sequence[str],
    flags: Mapping[str, str],
    environ: Mapping[str, str],
) -> Request:
    """Check the command line; raises ``ContractError`` with all faults."""
    settings, faults = parse_settings(flags, environ, {})

    def fault(key: str, found: object, expected: str) -> None:
        faults.append(Fault("command line", key, repr(found), expected))

    count = int(hosts) if hosts.isascii() and hosts.isdigit() and len(hosts) < 4 else 0
    if not 1 <= count <= _MOST_HOSTS:
        fault("--hosts", hosts, f"a number from 1 to {_MOST_HOSTS}")
    chosen = Strategy(strategy) if strategy else (Strategy.PS if count > 1 else Strategy.NONE)
    if chosen is Strategy.PS and count == 1:
        fault(
            "--strategy",
            "ps with --hosts 1",
            "two hosts or more: a cluster of one host has no parameter server; "
            "add hosts, or take --strategy none",
        )
    hyperparameters: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals or not name:
            fault("-p", parameter, "NAME=VALUE")
            continue
        hyperparameters[name] = _decoded(value)
    path = absolute(script) if script else _example(chosen)
    if not os.path.isfile(path):
        there = "which is no file" if os.path.exists(path) else "which does not exist"
        kind = "a directory" if os.path.isdir(path) else there
        faults.append(
            Fault("command line", "SCRIPT", f"{script!r}, {kind}", "the path of a training script")
            if script
            else Fault("command line", "SCRIPT", "none", "one: there is no example for MPI")
        )
    elif not settings.command and (reason := _unrunnable(path)):
        expected = f"a script that can be run: {reason}"
        faults.append(Fault("command line", "SCRIPT", repr(script), expected))
    directory = absolute(run_dir) if run_dir else _new_run_dir(chosen, count)
    if os.path.exists(directory) and not os.path.isdir(directory):
        fault("--run-dir", run_dir, "a directory, or a name that is free")
    if faults:
        raise ContractError(faults)
    return Request(
        hosts=count,
        strategy=chosen,
        run_dir=directory,
        script=path,
        arguments=tuple(arguments),
        hyperparameters=hyperparameters,
        settings=settings,
        flags=flags,
        environ=environ,
        continued=os.path.isdir(os.path.join(directory, "algo-1")),
    )


def run(request: Request) -> int:
    """Run the job to its end; returns the job's exit code."""
    inherited = reset_inherited_signals(hold=STOP_SIGNALS)
    with contextlib.ExitStack() as promises:
        hosts = _laid_out(request, promises)
        with _ssh_directory(request) as ssh_dir:
            guardian = Guardian.start()
            try:
                results = asyncio.run(_run_fleet(request, hosts, guardian, inherited, ssh_dir))
            finally:
                guardian.close()
    return _job_code(results)


def _laid_out(request: Request, promises: contextlib.ExitStack) -> list[LocalHost]:
    """The hosts, whose ports are theirs until ``promises`` is closed; raises ContractError."""
    try:
        return lay_out(
            request.run_dir,
            request.hosts,
            request.strategy,
            request.script,
            request.arguments,
            request.hyperparameters,
            promises,
        )
    except NoPortsError as error:
        expected = f"fewer, or an end to what listens here: {error}"
        raise ContractError(
            [Fault("command line", "--hosts", str(request.hosts), expected)]
        ) from None
    except OSError as error:
        found = error.strerror or str(error)
        raise ContractError(
            [Fault("command line", "--run-dir", f"{request.run_dir} ({found})", "a writable place")]
        ) from None


@contextlib.contextmanager
def _ssh_directory(request: Request) -> Iterator[str]:
    """A directory for the run's ssh key and the files of its sshds; empty where there are none."""
    if request.strategy is not Strategy.MPI or request.hosts == 1:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="supervisor-mpi-") as directory:
        key = os.path.join(directory, _SSH_KEY)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=30)
        except (OSError, subprocess.SubprocessError) as error:
            found = f"mpi, and no ssh key can be made ({in_words(error)})"
            wanted = "OpenSSH's client and server and Open MPI on this machine"
            raise ContractError([Fault("command line", "--strategy", found, wanted)]) from None
        yield directory


@dataclass(slots=True)
class Result:
    """What became of one host."""

    host: LocalHost
    exit_code: int
    how: str
    """The supervisor's own end, in words."""
    seconds: float
    report: Mapping[str, Any] | None
    """Its ``report.json``; None where it left none."""
    given_up: str = ""
    """Why we ended it, where it did not end with the job."""


async def _run_fleet(
    request: Request,
    hosts: Sequence[LocalHost],
    guardian: Guardian,
    inherited: InheritedSignals,
    ssh_dir: str,
) -> list[Result]:
    return await _Fleet(request, hosts, guardian, ssh_dir).run(inherited)


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
        + _MARGIN_S
    )


class _Fleet:
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
        self._given_up: dict[str, str] = {}
        """Hosts that we end because they do not end with the job, and why."""
        self._collector = orphans.Collector()
        self._stop_timer: asyncio.TimerHandle | None = None
        self._last_stop: tuple[int, float] | None = None
        self._unstarted: Result | None = None
        """The host that could not be started, if there is one: the others would wait for it."""
        policy: Policy = "drop" if request.settings.log_overflow == "drop" else "block"
        self._out, self._err = console(policy=policy)
        self._signals = SignalPipe(self._on_signal)

    async def run(self, inherited: InheritedSignals) -> list[Result]:
        wanted = set(STOP_SIGNALS) | {signal.SIGTSTP, signal.SIGCONT}
        if inherited.hangup_ignored:
            wanted.discard(signal.SIGHUP)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._signals.catch(wanted)
        orphans.adopt()
        self._collector.start()
        self._err.offer_line(
            safe(
                f"supervisor: {counted(len(self._hosts), 'host')}, "
                f"{os.path.basename(self._request.script)}, in {self._request.run_dir}"
            ).encode()
            + b"\n"
        )
        if self._request.continued:
            self._err.offer_line(b"supervisor: the run in this directory is continued\n")
        watch = asyncio.create_task(self._watch_the_last())
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._own(host)) for host in self._hosts]
            results = [task.result() for task in tasks]
            with contextlib.suppress(TimeoutError):
                summary = await Aside("summary")(_READ_S, _summary, self._request, results)
                self._out.offer(summary.encode(errors="replace"))
            return results
        finally:
            watch.cancel()
            for child in self._children:
                child.close()
            kill_everything()
            self._collector.stop()
            self._signals.close()
            if self._stop_timer is not None:
                self._stop_timer.cancel()
            await self._write_out()

    async def _write_out(self) -> None:
        """A pager may take its time; an output that takes nothing is left, and says how much."""
        sinks = dict.fromkeys((self._out, self._err))
        patience_s = PATIENCE_S if self._stop_timer is None else HURRIED_PATIENCE_S
        await settle(sinks, patience_s=patience_s, limit_s=SETTLE_S)
        for sink in sinks:
            lost = await sink.drain(0) + sink.dropped_bytes
            if lost and sink is not self._err:
                self._err.offer_line(
                    f"supervisor: {counted(lost, 'byte')} of {sink.name} "
                    "could not be written\n".encode()
                )
                await settle([self._err], patience_s=HURRIED_PATIENCE_S, limit_s=SETTLE_S)
            sink.close(0)

    async def _own(self, host: LocalHost) -> Result:
        """One supervisor from its start to its report."""
        spec = self._spec(host)
        began = time.monotonic()
        if self._unstarted is not None:
            return replace(self._unstarted, host=host)
        try:
            child = spawn(spec)
        except execution.SpawnError as error:
            how = f"{host.name} was not started: {error.message}"
            self._unstarted = Result(host, error.code, how, 0.0, None)
            self._kill()
            return self._unstarted
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
        self._ended.add(host.name)
        self._one_ended.set()
        seconds = time.monotonic() - began
        report = None
        with contextlib.suppress(TimeoutError):
            report = await Aside("report")(_READ_S, _report_of, host)
        given_up = self._given_up.get(host.name, "")
        status = end.status
        result = Result(host, status.shell_code, str(status), seconds, report, given_up)
        return self._unless_given_up(result)

    def _unless_given_up(self, result: Result) -> Result:
        if self._unstarted is None:
            return result
        return replace(self._unstarted, host=result.host, seconds=result.seconds)

    async def _watch_the_last(self) -> None:
        """End the supervisors that do not end with the job: first in order, then for good.

        One that is stopped hears of nothing. Its master gives it up after a lease; here it would
        be waited for without end.
        """
        settings = self._request.settings
        kill_s = _shares_s(settings) + END_S
        late_s = longest_s(settings, keeps=_keeps_elsewhere(self._request))
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
                Standing(host.name in self._ended, stopped.get(host.name, False))
                for host in self._hosts
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
                self._given_up[name] = f"its supervisor {why}, and was ended after the job"
                told_at[name] = now
                self._err.offer_line(
                    f"supervisor: the job is over, and the supervisor of {name} "
                    f"(pid {child.pid}) {why}: SIGCONT and SIGTERM now, SIGKILL in "
                    f"{kill_s:g} s\n".encode()
                )
                child.signal(signal.SIGTERM)
                child.signal(signal.SIGCONT)

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

    def _spec(self, host: LocalHost) -> ProcessSpec:
        request = self._request
        env = dict(request.environ)
        env.update(
            {PREFIX + name.upper(): text for name, text in request.flags.items()},
            SAGEMAKER_BASE_DIR=host.base_dir,
            SUPERVISOR_STATUS_BIND=ADDRESS,
        )
        for name in ("SAGEMAKER_PROGRAM", "SAGEMAKER_SUBMIT_DIRECTORY", "TF_CONFIG"):
            env.pop(name, None)
        env.setdefault("SUPERVISOR_LOG_FORMAT", "prefix")
        env.setdefault("SUPERVISOR_LOG_FILES", "true")
        # All hosts share this Python: N pips at once would race, in an environment that is yours.
        env.setdefault("SUPERVISOR_REQUIREMENTS", "skip")
        if self._ssh_dir:
            env.setdefault("SUPERVISOR_MPI_SSH_KEY", os.path.join(self._ssh_dir, _SSH_KEY))
            if host is not self._hosts[0]:
                env["TMPDIR"] = self._ssh_dir  # what an sshd leaves goes with the run
        if self._out.terminal and self._err.terminal:
            # The hosts write to pipes; what they draw in place is drawn here.
            env.setdefault("SUPERVISOR_LOG_PROGRESS", "live")
        if env.get("SUPERVISOR_LOG_COLOR", "auto") == "auto":
            color = self._err.terminal and not env.get("NO_COLOR")
            env["SUPERVISOR_LOG_COLOR"] = "always" if color else "never"
        return ProcessSpec(
            name=host.name,
            role=Role.CHIEF,
            argv=(sys.executable, "-P", "-m", "supervisor", "train"),
            env=env,
            cwd=host.base_dir,
            oom_raise=OOM_RAISE_OF_HELPERS,
        )

    def _on_signal(self, signum: int) -> None:
        if signum not in {signal.SIGTSTP, signal.SIGCONT}:
            last, self._last_stop = self._last_stop, (signum, time.monotonic())
            if last is None or last[0] != signum or self._last_stop[1] - last[1] >= ECHO_S:
                self._stop()
            return
        for child in self._children:
            child.signal(signum)
        if signum == signal.SIGTSTP:
            # Ctrl-Z: the hosts suspend their trees; we stop as a terminal's program should.
            os.kill(os.getpid(), signal.SIGSTOP)

    def _stop(self) -> None:
        """Ctrl-C or SIGTERM: once, all hosts are asked to stop; twice, they are told now.

        The supervisors have sessions of their own, so the terminal's Ctrl-C reaches only us. The
        second signal is another one than the first: of two that are pending the kernel keeps one.
        """
        signum = signal.SIGTERM if self._stop_timer is None else signal.SIGINT
        for child in self._children:
            child.signal(signum)
        if self._stop_timer is None:
            limit_s = self._request.settings.stop_limit_s + _MARGIN_S
            loop = asyncio.get_running_loop()
            self._stop_timer = loop.call_later(limit_s, self._kill)

    def _kill(self) -> None:
        for child in self._children:
            child.kill_tree()


def _is_stopped(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and found.stopped


def _keeps_elsewhere(request: Request) -> bool:
    """Whether anything may have to be sent at the end."""
    settings = vars(request.settings).items()
    return (
        any(value for name, value in settings if name.endswith("_uri"))
        or any("://" in str(value) for value in request.hyperparameters.values())
        or "SAGEMAKER_S3_OUTPUT" in request.environ
    )


def _merging(request: Request, label: Label, carriage: Carriage) -> Prefix:
    """A host held in the middle of a line goes on without a prefix: that line is waited for."""
    given = request.environ.get("SUPERVISOR_LOG_FORMAT", "prefix")
    raw = request.flags.get("log_format", given) == "raw"
    return Prefix(label, "", carriage=carriage, halves=raw)


def _report_of(host: LocalHost) -> dict[str, Any] | None:
    path = os.path.join(host.base_dir, "output", "supervisor", "report.json")
    try:
        report = json.loads(regular.read(path, _REPORT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) else None


def _job_code(results: Sequence[Result]) -> int:
    """The job's exit code as its master said it; else the worst that a host said. What one says
    that was ended after the job comes last: it knows nothing of it."""
    in_order = sorted(results, key=lambda result: bool(result.given_up))
    for result in in_order:
        code = (result.report or {}).get("job_exit_code")
        if code is not None and not result.given_up:
            return int(code)
    return next((result.exit_code for result in in_order if result.exit_code), 0)


def _summary(request: Request, results: Sequence[Result]) -> str:
    """The table at the end, and where everything lies."""
    from rich.console import Console  # noqa: PLC0415  # after the job
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    mask = Masker.of(request.environ, request.hyperparameters, argvs=[request.arguments]).text

    def cell(text: object, style: str = "") -> Text:
        """Nothing that a script wrote is markup, or moves a cursor."""
        return Text(safe(mask(str(text))), style=style)

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("HOST", "ROLE", "EXIT", "CAUSE", "TIME"):
        table.add_column(column, justify="right" if column == "TIME" else "left", overflow="fold")
    for result in results:
        report = result.report or {}
        cause = _cause_text(report.get("cause")) if report else f"no report: {result.how}"
        if result.given_up:
            cause = f"{result.given_up}; {cause}"
        tolerated = {(each["host"], each["process"]) for each in report.get("tolerated", [])}
        for row in report.get("processes", []):
            seconds = row["seconds"]
            note = "tolerated" if (result.host.name, row["name"]) in tolerated else ""
            table.add_row(
                cell(result.host.name),
                cell(row["role"]),
                cell(_exit_text(row)),
                note,
                "" if seconds is None else f"{seconds:.1f} s",
            )
        style = "green" if result.exit_code == 0 else "red"
        table.add_row(
            cell(result.host.name),
            "supervisor",
            cell(f"exit {result.exit_code}", style),
            cell(cause),
            f"{result.seconds:.1f} s",
        )
    # Where nobody looks at it now, nothing is gained by folding it.
    text = io.StringIO()
    terminal = sys.stdout.isatty()
    console_out = Console(
        file=text, highlight=False, force_terminal=terminal, width=None if terminal else _WIDE
    )
    console_out.print()
    console_out.print(table)
    master = results[0].host.base_dir
    model = os.path.join(master, "model")
    console_out.print()
    console_out.print(safe(f"run    {request.run_dir}"), soft_wrap=True, markup=False)
    if os.path.isdir(model) and os.listdir(model):
        console_out.print(safe(f"model  {model}"), soft_wrap=True, markup=False)
    logs = os.path.join(request.run_dir, "*", "output", "supervisor", "logs")
    console_out.print(safe(f"logs   {logs}"), soft_wrap=True, markup=False)
    for note in _notes(request.strategy, results):
        console_out.print(safe(f"note   {note}"), soft_wrap=True, markup=False)
    return text.getvalue()


def _notes(strategy: Strategy, results: Sequence[Result]) -> Iterator[str]:
    """What the table does not show."""
    reports = [(result.host.name, result.report or {}) for result in results]
    resumed = {
        name: report["resumed_from"] for name, report in reports if report.get("resumed_from")
    }
    if resumed:
        places = ", ".join(dict.fromkeys(resumed.values()))
        yield f"{', '.join(resumed)} resumed from {places}"
    unused = [name for name, report in reports if report.get("unused_servers")]
    if unused:
        from supervisor.linux.contacts import REMEDY, REMEDY_OWN  # noqa: PLC0415

        hosts = ", ".join(unused)
        if strategy is Strategy.MWMS:
            yield f"the script never opened its port on {hosts}: {REMEDY_OWN}"
        else:
            yield f"nobody ever connected to the servers of {hosts}: {REMEDY}"


def _exit_text(row: Mapping[str, Any]) -> str:
    text: str = row["exit"] or "not started"
    if not row["stopped_by_us"]:
        return text
    return text.replace("killed by", "stopped by") if row["signal"] else f"{text}, stopped"


def _cause_text(cause: Mapping[str, Any] | None) -> str:
    if not cause:
        return ""
    who = " ".join(filter(None, (cause.get("host"), cause.get("process"))))
    return f"{who}: {cause.get('message')}"


def _decoded(text: str) -> Any:
    """As a hyperparameter: JSON where it parses, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _unrunnable(path: str) -> str:
    """Why the script could not be run, and what helps; empty where nothing is seen against it. It
    is the user's: nothing about it is changed."""
    beside = os.path.join(os.path.dirname(path), "setup.py")
    if path.endswith(".py") or (not path.endswith(".sh") and os.path.exists(beside)):
        readable = os.access(path, os.R_OK)  # Python's to run, as a script or as a package
        return "" if readable else f"user {os.geteuid()} may not read {path}"
    return execution.refusal(path)


def _example(strategy: Strategy) -> str:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.join(package, "examples", _EXAMPLES[strategy])


def _new_run_dir(strategy: Strategy, count: int) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = absolute(os.path.join("supervisor-runs", f"{stamp}-{strategy.value}-{count}"))
    path, number = base, 1
    while os.path.exists(path):
        number += 1
        path = f"{base}-{number}"
    return path
