"""Performs the faults of ``supervisor local --faults``, says each, and undoes what lasts.

Nothing is done before the job runs, and once it ends everything is undone at once. What a fault
does to whom is drawn in ``injection.py``; whether training went on is judged in ``recovery.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

from supervisor.aside import Aside
from supervisor.children.child import Child
from supervisor.contract import record
from supervisor.contract.distribution import Strategy
from supervisor.contract.paths import Paths, paths_below
from supervisor.engines.local import ADDRESS, LocalHost
from supervisor.faults import counted
from supervisor.host import resumed
from supervisor.linux import pidfd, procfs, straits
from supervisor.linux.silence import RefusedError, Silence
from supervisor.linux.straits import RATE_BYTES_S, Holds, Slow, below
from supervisor.verbs import recovery
from supervisor.verbs.asking import StatusError, fetch
from supervisor.verbs.injection import SCRIPTS, Action, Faults, Moment, schedule
from supervisor.verbs.recovery import Hit, Record, Restart, Saved, Told, Verdict
from supervisor.verbs.words import mappings, plain

_ASK_S: Final = 1.0
_LOOK_S: Final = 0.25
"""How often the master is asked how the job stands."""
_CUT_S: Final = 0.05
"""How often connections are looked at during a partition."""
_DISK_S: Final = 0.02
_TREE_S: Final = 0.3
"""How often processes are looked for."""
_SAMPLE_S: Final = 0.05
_CHECKPOINT_S: Final = 0.5
_READ_S: Final = 10.0
_MOST_TOLD: Final = 200_000
_YOUNGEST: Final = 2**63
_RUNS: Final = frozenset({"running", "restarting"})
_COMES_UP: Final = frozenset({"", "preparing", "joining"})


class _SkippedError(Exception):
    """A fault cannot be performed; the message says why."""


class Injector:
    """Belongs to the event loop's thread.

    Args:
        faults: which.
        hosts: of the job, the master first.
        living: their supervisors, by host; looked at again and again.
        say: a line for people.
        lose: kill a host with all that is on it; started anew after some seconds, or None: never.

    """

    def __init__(
        self,
        faults: Faults,
        hosts: Sequence[LocalHost],
        checkpoints: str,
        *,
        living: Mapping[str, Child],
        say: Callable[[str], None],
        lose: Callable[[str, float | None], None],
    ) -> None:
        self._faults = faults
        self._hosts = {host.name: host for host in hosts}
        self._living = living
        self._say = say
        self._lose = lose
        self._seen = _Seen({host.name: paths_below(host.base_dir, checkpoints) for host in hosts})
        self._asides = {host.name: Aside("status") for host in hosts}
        self._rosters: dict[str, dict[str, tuple[str, int | None]]] = {}
        """Host → process → its role, and its pid while it runs; as its supervisor told last."""
        self._phase = ""
        self._began = 0.0
        self._over = False
        self._active: dict[int, Callable[[], None]] = {}
        """What undoes a fault that lasts, by its number."""
        self._hits: list[Hit] = []
        self._skipped = 0
        self._holds = Holds()
        self._deaf: set[str] = set()
        """Hosts whose supervisors do not answer, because of us."""
        self._cut = _Cut(living)

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """To the end of the job; is cancelled then."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_training())
                await self._until_it_runs()
                group.create_task(self._watch_job())
                for moment in schedule(self._faults.clauses, self._faults.seed):
                    await asyncio.sleep(self._began + moment.at_s - time.monotonic())
                    if self._over:
                        break
                    group.create_task(self._perform(moment))
        finally:
            self.end()

    def end(self) -> None:
        """The job ends: undo what lasts, at once, and do nothing more. Idempotent."""
        self._over = True
        for undo in [self._active.pop(number) for number in sorted(self._active)]:
            undo()

    async def _until_it_runs(self) -> None:
        while True:
            await self._ask(self._master)
            if self._phase in _RUNS:
                break
            await asyncio.sleep(_LOOK_S)
        self._began = time.monotonic()
        await self._ask_all()  # one that is killed soon has told by then what it has

    async def _watch_job(self) -> None:
        while not self._over:
            await asyncio.sleep(_LOOK_S)
            await self._ask(self._master)
            if self._phase not in _RUNS | _COMES_UP:
                self.end()

    @property
    def _master(self) -> str:
        return next(iter(self._hosts))

    async def _ask_all(self) -> None:
        await asyncio.gather(*map(self._ask, self._hosts))

    async def _ask(self, host: str) -> None:
        """What a host's supervisor says, if it does."""
        if host in self._deaf or host not in self._living:
            return
        url = f"http://{ADDRESS}:{self._hosts[host].status_port}"
        with contextlib.suppress(StatusError, TimeoutError):
            status = await self._asides[host](2 * _ASK_S, partial(fetch, url, timeout_s=_ASK_S))
            self._rosters[host] = dict(_roster(status))
            if host == self._master:
                self._phase = plain(status.get("phase"))

    # ------------------------------------------------------------------ one fault

    async def _perform(self, moment: Moment) -> None:
        try:
            if moment.clause.at_step is not None:
                await self._until_step(moment.clause.at_step)
            await self._done(moment)
        except _SkippedError as why:
            self._skipped += 1
            self._tell(moment, f"skipped, {moment.clause.text!r}: {why}")

    async def _until_step(self, step: int) -> None:
        while self._seen.furthest() < step:
            if self._over:
                raise _SkippedError(f"step {step} was not told")
            await asyncio.sleep(_SAMPLE_S)

    async def _done(self, moment: Moment) -> None:
        clause = moment.clause
        match clause.action:
            case Action.KILL:
                await self._signalled(moment, signal.SIGKILL, "killed")
            case Action.STOP:
                await self._signalled(moment, signal.SIGTERM, "SIGTERM to")
            case Action.FREEZE:
                await self._frozen(moment)
            case Action.PARTITION:
                await self._partitioned(moment)
            case Action.KILL_HOST:
                self._lost(moment)
            case Action.SPOIL:
                await self._spoilt(moment)
            case Action.SLOW_DISK | Action.FULL_DISK:
                await self._disk(moment)

    def _tell(self, moment: Moment, what: str) -> None:
        after_s = time.monotonic() - self._began
        head = f"fault {moment.number} of seed {self._faults.seed}"
        self._say(f"{head}: {what}, {after_s:.1f} s after the start")

    def _hit(self, moment: Moment, what: str) -> None:
        self._hits.append(Hit(time.time(), f"{moment.clause.action} {moment.number}"))
        self._tell(moment, what)

    async def _lasting(self, moment: Moment, undo: Callable[[], None], said: str) -> None:
        """Undone after its time, or by whoever ends all of them."""
        number = moment.number
        self._active[number] = undo
        try:
            await asyncio.sleep(moment.clause.lasts_s)
        finally:
            if self._active.pop(number, None) is not None:
                undo()
                self._say(f"fault {number} is over: {said}")

    async def _victim(self, moment: Moment) -> tuple[str, str, int]:
        """Host, process and pid. One that does not run is chosen as well, and skipped: what the
        seed chooses does not hang on what happens to be down."""
        await self._ask_all()
        if self._over:
            raise _SkippedError("the job ends")
        target = moment.clause.target
        found = {
            f"{host}/{name}": pid
            for host, roster in self._rosters.items()
            for name, (role, pid) in roster.items()
            if _is_meant(target, host, name, role)
        }
        if not found:
            raise _SkippedError(f"there is no {target or 'script'}")
        chosen = moment.pick([*found])
        host, _, name = chosen.partition("/")
        pid = found[chosen]
        # What was told before its supervisor ended may be the number of a stranger by now.
        tree = below(_roots(self._living, [host])).get(host, ())
        if pid is None or pid not in {process.pid for process in tree}:
            raise _SkippedError(f"{host} {name} does not run just now")
        return host, name, pid

    def _host(self, moment: Moment) -> str:
        host = moment.clause.target or moment.pick([*self._hosts])
        if host not in self._living:
            raise _SkippedError(f"{host} does not run just now")
        return host

    async def _signalled(self, moment: Moment, signum: int, verb: str) -> None:
        host, name, pid = await self._victim(moment)
        process = procfs.stat(pid)
        if process is None or not pidfd.send_exactly(process, signum):
            raise _SkippedError(f"{host} {name} (pid {pid}) has just ended")
        self._hit(moment, f"{verb} {host} {name} (pid {pid})")

    async def _frozen(self, moment: Moment) -> None:
        clause, number = moment.clause, moment.number
        whole = clause.target in self._hosts
        if whole:
            host, name, pid = self._host(moment), "", self._living[clause.target].pid
        else:
            host, name, pid = await self._victim(moment)
        if whole:
            self._deaf.add(host)
        count = self._holds.hold_tree(pid, number)
        who = f"{host} {name}".rstrip()
        many = f"{count} process{'' if count == 1 else 'es'} by SIGSTOP"
        self._hit(moment, f"froze {who} ({many}) for {clause.lasts_s:g} s")

        def undo() -> None:
            self._holds.release(number)
            self._deaf.discard(host)

        await self._lasting(moment, undo, f"{who} goes on")

    async def _partitioned(self, moment: Moment) -> None:
        host = self._host(moment)
        if len(self._hosts) == 1:
            raise _SkippedError("there is one host alone")
        if not self._cut.add(host):
            raise _SkippedError(f"{host} is cut off already")
        try:
            await self._cut.apply()
        except RefusedError as error:
            self._cut.remove(host)
            raise _SkippedError(
                f"this machine does not let us at the sockets of our processes ({error})"
            ) from None
        self._hit(
            moment,
            f"cut {host} off from the other hosts for {moment.clause.lasts_s:g} s, supervisor "
            "and scripts (TCP in silence)",
        )
        keeping = asyncio.create_task(self._cut.keep())
        try:
            await self._lasting(moment, partial(self._cut.remove, host), f"{host} is connected")
            await self._cut.settle()
        finally:
            keeping.cancel()

    def _lost(self, moment: Moment) -> None:
        host, clause = self._host(moment), moment.clause
        pid = self._living[host].pid
        back_s = None if clause.for_good else clause.lasts_s
        back = "for good" if back_s is None else f"started anew in {back_s:g} s"
        self._hit(moment, f"killed host {host} (supervisor {pid} and all below it), {back}")
        self._lose(host, back_s)

    async def _spoilt(self, moment: Moment) -> None:
        host = moment.clause.target
        try:
            told = await Aside("spoil")(_READ_S, self._seen.spoil, host, zeros=moment.draw < 0.5)
        except (OSError, TimeoutError) as error:
            raise _SkippedError(f"the checkpoint could not be written to ({error})") from None
        if not told:
            raise _SkippedError("there is no checkpoint")
        self._hit(moment, f"spoilt {told}")

    async def _disk(self, moment: Moment) -> None:
        clause = moment.clause
        hosts = [self._host(moment)] if clause.target else [*self._living]
        where = clause.target or "every host"
        if clause.action is Action.FULL_DISK:
            disk: _Disk = _FullDisk(self._living)
            what = "full disk of {}: every write to a file fails with EFBIG (RLIMIT_FSIZE)"
        else:
            disk = _SlowDisk(self._holds)
            what = f"slow disk of {{}}: who writes more than {RATE_BYTES_S >> 10} KiB/s is held"
        self._hit(moment, f"{what.format(where)}, scripts and transfers, for {clause.lasts_s:g} s")
        ended = asyncio.Event()

        def undo() -> None:
            ended.set()
            disk.end(hosts)

        looking = asyncio.create_task(_look_on(self._living, hosts, disk, ended))
        try:
            await self._lasting(moment, undo, f"the disk of {where} is as it was")
        finally:
            looking.cancel()

    # ------------------------------------------------------------------ what becomes of training

    async def _watch_training(self) -> None:
        look, looked_at = Aside("progress"), float("-inf")
        while True:
            with contextlib.suppress(TimeoutError):
                await look(_READ_S, self._seen.steps)
                if time.monotonic() - looked_at >= _CHECKPOINT_S:
                    looked_at = time.monotonic()
                    await look(_READ_S, self._seen.checkpoints)
            await asyncio.sleep(_SAMPLE_S)

    def verdict(self, strategy: Strategy, reports: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """Of the whole, once the job is over. Blocks."""
        self._seen.steps()
        self._seen.checkpoints()
        told = recovery.judge(self._seen.jobs(strategy, reports), self._hits)
        count = f"{counted(len(self._hits), 'fault')} of seed {self._faults.seed}"
        if self._skipped:
            count += f", {self._skipped} skipped"
        return Verdict((count, *told.lines), told.good)


class _Disk(Protocol):
    def look(self, processes: Sequence[procfs.Process]) -> None:
        """At what runs on the hosts, but their supervisors; again and again."""

    def end(self, hosts: Sequence[str]) -> None:
        """At once."""


class _FullDisk:
    def __init__(self, living: Mapping[str, Child]) -> None:
        self._living = living
        self.look = straits.fill

    def end(self, hosts: Sequence[str]) -> None:
        roots = _roots(self._living, hosts)
        for host, tree in below(roots).items():
            straits.empty(roots[host], tree)


class _SlowDisk:
    def __init__(self, holds: Holds) -> None:
        self._slow = Slow(holds)
        self.look = self._slow.look

    def end(self, _hosts: Sequence[str]) -> None:
        self._slow.end()


def _roots(living: Mapping[str, Child], hosts: Sequence[str]) -> dict[str, int]:
    return {host: living[host].pid for host in hosts if host in living}


async def _look_on(
    living: Mapping[str, Child], hosts: Sequence[str], disk: _Disk, ended: asyncio.Event
) -> None:
    """What starts meanwhile has the same disk."""
    trees: dict[str, list[procfs.Process]] = {}
    looked_at = float("-inf")
    while not ended.is_set():
        roots = _roots(living, hosts)
        if time.monotonic() - looked_at >= _TREE_S:
            trees, looked_at = below(roots), time.monotonic()
        for host, tree in trees.items():
            disk.look([each for each in tree if each.pid != roots.get(host)])
        await asyncio.sleep(_DISK_S)


def _roster(status: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, int | None]]]:
    for row in mappings(status.get("processes")):
        pid = row.get("pid")
        runs = row.get("state") == "running" and isinstance(pid, int)
        yield plain(row.get("name")), (plain(row.get("role")), pid if runs else None)


def _is_meant(target: str, host: str, name: str, role: str) -> bool:
    if "/" in target:
        return target == f"{host}/{name}"
    if target in {"", host}:
        return role in SCRIPTS
    return role == target


class _Cut:
    """Which hosts are cut off."""

    def __init__(self, living: Mapping[str, Child]) -> None:
        self._living = living
        self._hosts: set[str] = set()
        self._silence = Silence()
        self._lock = threading.Lock()
        self._aside = Aside("cut")

    def add(self, host: str) -> bool:
        if host in self._hosts:
            return False
        self._hosts.add(host)
        return True

    def remove(self, host: str) -> None:
        """At once."""
        self._hosts.discard(host)
        with contextlib.suppress(RefusedError):
            self._apply()

    async def apply(self) -> int:
        return await self._aside(_READ_S, self._apply)

    def _apply(self) -> int:
        # Who is cut off is asked once it is our turn: what `remove` mends stays mended.
        with self._lock:
            roots = {host: child.pid for host, child in [*self._living.items()]}
            return self._silence.apply(
                {
                    process.pid: host if host in self._hosts else ""
                    for host, tree in below(roots).items()
                    for process in tree
                }
            )

    async def keep(self) -> None:
        """New connections are judged as well."""
        while True:
            await asyncio.sleep(_CUT_S)
            with contextlib.suppress(RefusedError, TimeoutError):
                await self.apply()

    async def settle(self) -> None:
        """Mend what was accepted late."""
        left = 1
        while left and not self._hosts:
            left = await self.apply()
            await asyncio.sleep(_CUT_S)


class _Seen:
    """What the hosts' directories tell of training. Its calls block, one at a time."""

    def __init__(self, paths: Mapping[str, Paths]) -> None:
        self._paths = paths
        self.by_host = {host: Record() for host in paths}
        self._stamps: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._spoilt: dict[str, int] = {}
        """Checkpoint → when it was, in nanoseconds: it is not a new one by that."""

    def steps(self) -> None:
        for host, paths in self._paths.items():
            told = self.by_host[host].told
            with contextlib.suppress(OSError):
                stamp = os.lstat(paths.progress).st_mtime_ns
                if stamp == self._stamps.get(host) or len(told) >= _MOST_TOLD:
                    continue
                step = record.progress(paths)
                # Else it may be the next step that was read, with the time of the last.
                if step is not None and stamp == os.lstat(paths.progress).st_mtime_ns:
                    self._stamps[host] = stamp
                    told.append(Told(stamp / 1e9, step))

    def checkpoints(self) -> None:
        for host, paths in self._paths.items():
            self._note(host, *resumed.newest_with_time(paths.checkpoints, _YOUNGEST))

    def _note(self, host: str, path: str, stamp: int) -> None:
        """A host's newest checkpoint, with its time in nanoseconds."""
        known = max(self._newest.get(host, 0), self._spoilt.get(path, 0))
        if path and stamp > known:
            self._newest[host] = stamp
            self.by_host[host].saved.append(Saved(stamp / 1e9, os.path.basename(path)))

    def furthest(self) -> int:
        """The step that was told last, of any host; -1: none yet."""
        return max((each.told[-1].step for each in self.by_host.values() if each.told), default=-1)

    def jobs(
        self, strategy: Strategy, reports: Mapping[str, Mapping[str, Any]]
    ) -> list[tuple[Record, list[Restart]]]:
        """What was seen of each job: of all hosts together, unless each is one by itself."""
        if strategy is Strategy.NONE:
            return [
                (self.by_host[host], recovery.restarts({host: report}, alone_trains=True))
                for host, report in reports.items()
            ]
        records = self.by_host.values()
        merged = Record(
            sorted(told for each in records for told in each.told),
            sorted(saved for each in records for saved in each.saved),
        )
        return [(merged, recovery.restarts(reports, alone_trains=False))]

    def spoil(self, host: str, *, zeros: bool) -> str:
        """Damage the newest checkpoint, of one host or of any; what was done, empty: none lies
        there. Raises OSError."""
        found = {
            each: resumed.newest_with_time(self._paths[each].checkpoints, _YOUNGEST)
            for each in ([host] if host else self._paths)
        }
        host = max(found, key=lambda each: found[each][1])
        path, stamp = found[host]
        self._note(host, path, stamp)  # it was whole, and may not have been looked at yet
        files = [path] if os.path.isfile(path) else glob.glob(f"{glob.escape(path)}.*")
        if not path or not files:
            return ""
        file = max(files, key=os.path.getsize)
        fd = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if zeros:
                os.pwrite(fd, bytes(min(1 << 20, max(1, size // 2))), size // 4)
            else:
                os.ftruncate(fd, size // 2)
            self._spoilt[path] = os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)
        return f"{file} ({'zeros in its middle' if zeros else 'half of it cut off'})"
