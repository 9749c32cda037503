"""The warm interpreter of this host: when one is started, whether the script is run by it, and what
is told of it. How it is done: ``children/warm.py``.

It is no part of the job. Where it dies, is unfit or does not fit, that is said, and the script
starts as it would without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from supervisor import regular
from supervisor.children.child import Child, spawn
from supervisor.children.execution import SpawnError
from supervisor.children.guardian import Guardian
from supervisor.contract.entry_point import EntryKind
from supervisor.faults import in_words
from supervisor.host.present import Present
from supervisor.host.tasks import Tasks
from supervisor.host.timeline import Say
from supervisor.life.words import Phase, ProcessSpec
from supervisor.linux import procfs
from supervisor.plan.plan import FETCH, Plan, warm_start_refusal

if TYPE_CHECKING:  # for those that ask for it
    from supervisor.children.warm import Warm
    from supervisor.status.snapshot import Sample, WarmRow

MODULES: Final = ("tensorflow",)
TAKES_BYTES: Final = 560 << 20
"""What it is expected to take: TensorFlow 2.21, imported, 190 MB of it its own."""
AFTER_SCRIPT_S: Final = 15.0
"""The next one is started so long after the script, whose own start needs the processors. To lower
its priority is no way: it could not be raised again without privilege (sched(7), RLIMIT_NICE)."""
LOOK_S: Final = 5.0
"""For the look at what the script sets before its imports."""
MOST_DEATHS: Final = 3
"""After so many that nobody wanted there are no more in this run."""
_SOURCE_BYTES: Final = 1 << 20
_MOST_MODULES: Final = 2000
"""Python files of the user's that are looked at."""
_PAUSE_S: Final = 2.0
"""After such a death, times their number."""
_MOST_TOLD: Final = 10


class Warming:
    """Belongs to the event loop's thread. Does nothing where it is not asked for."""

    def __init__(
        self, present: Present, *, say: Say, tasks: Tasks, guardian: Guardian | None
    ) -> None:
        self._present = present
        self._say = say
        self._tasks = tasks
        self._guardian = guardian
        contract = present.plan.contract
        self._on = contract.settings.warm_start and not warm_start_refusal(contract)
        self._warm: Warm | None = None
        """The one that waits, or imports."""
        self._spec: ProcessSpec | None = None
        """What it was executed as."""
        self._owned: set[Warm] = set()
        self._keeping = False
        """One is there, or is about to be started …"""
        self._turn = 0
        """… by the task of this number."""
        self._hurry = asyncio.Event()
        self._deaths = 0
        self._starts = 0
        self._used = 0
        self._unused: deque[str] = deque(maxlen=_MOST_TOLD)

    # ------------------------------------------------------------------ when

    def begin(self) -> None:
        """The life begins: there is time until the script starts where something is fetched, or
        others are waited for. What is not there yet cannot be looked at: code that is fetched, and
        libraries that are installed, come first."""
        plan = self._present.plan
        if self._on and _is_complete(plan) and (plan.is_cluster or plan.steps):
            self._keep(0.0)

    def seen(self, before: Phase, after: Phase) -> None:
        """The life has moved on."""
        if not self._on or before is after:
            return
        if after is Phase.JOINING and self._present.plan.is_cluster:
            self._keep(0.0)
        elif after is Phase.RESTARTING:
            script, processes = _script(self._present.plan), self._present.state.processes
            if any(script and each.again and each.name == script.name for each in processes):
                self._keep(0.0)
                self._hurry.set()
        elif after in {Phase.DRAINING, Phase.KILLING, Phase.PUBLISHING, Phase.DONE}:
            self._end()

    def launch(self, spec: ProcessSpec, *, one_pipe: bool) -> Child:
        """Start a process of the plan: the script in the warm interpreter, if there is one that
        will do. Raises SpawnError."""
        script = _script(self._present.plan) if self._on else None
        if script is None or spec.name != script.name:
            return spawn(spec, one_pipe=one_pipe)
        child = self._take(spec) or spawn(spec, one_pipe=one_pipe)
        if self._present.may_restart:
            self._keep(AFTER_SCRIPT_S)
        return child

    def close(self) -> None:
        """However the life ended: nothing of it survives. Synchronous."""
        self._on = False
        for warm in tuple(self._owned):
            self._disown(warm)
            warm.child.close()

    # ------------------------------------------------------------------ one of them

    def _keep(self, after_s: float) -> None:
        """Have one there, the sooner the better, but not before ``after_s``."""
        if self._keeping or not self._on or _script(self._present.plan) is None:
            return
        self._keeping = True
        self._turn += 1
        self._hurry = asyncio.Event()
        self._tasks.serve("warm", self._live(after_s, self._turn), vital=False)

    def _is_wanted(self, turn: int) -> bool:
        """Not where the script has started meanwhile, or all ends."""
        return self._on and self._keeping and turn == self._turn

    async def _live(self, after_s: float, turn: int) -> None:
        """From the wait for its time until it is the script, or dead."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), after_s)
        if not self._is_wanted(turn):
            return
        try:
            warm = await self._start(turn)
        except (SpawnError, OSError) as error:  # of no answer in time too
            self._is_unfit(f"it cannot be started: {in_words(error)}")
            return
        if warm is not None:
            try:
                await self._own(warm)
            finally:
                if warm in self._owned:
                    self._disown(warm)
                    warm.child.close()
                warm.let_go()

    async def _start(self, turn: int) -> Warm | None:
        from supervisor.aside import Aside  # noqa: PLC0415
        from supervisor.children.warm import Warm  # noqa: PLC0415
        from supervisor.linux import resources  # noqa: PLC0415
        from supervisor.linux.memory import format_bytes  # noqa: PLC0415

        left = resources.memory_left()
        if left is not None and left < 2 * TAKES_BYTES:
            self._is_unfit(
                f"{format_bytes(left)} of memory are left, and it would take about "
                f"{format_bytes(TAKES_BYTES)}"
            )
            return None
        plan, spec = self._present.plan, _script(self._present.plan)
        assert spec is not None
        early = await Aside("warm")(LOOK_S, _early, plan, spec)
        if isinstance(early, str):
            self._is_unfit(early)
            return None
        if not self._is_wanted(turn):
            return None
        self._warm = warm = Warm.start(
            spec,
            modules=MODULES,
            early=early,
            user_directories=(plan.contract.code_dir,),
            one_pipe=plan.contract.settings.log_streams == "merge",
        )
        self._spec = spec
        self._starts += 1
        self._owned.add(warm)
        if self._guardian is not None:
            self._guardian.watch(warm.pid)
        return warm

    async def _own(self, warm: Warm) -> None:
        """Hear what it says, until it has become the script or is dead."""
        while await warm.listen():
            if warm is self._warm:
                self._heard(warm)
            elif warm.said:  # it was to be the script already
                self._used -= 1
                self._is_unfit(f"{warm.said}; the script was started once more, without")
        if warm not in self._owned:
            return
        await warm.child.exit()
        if warm is not self._warm:  # we have ended it
            return
        how = warm.child.death()
        self._warm, self._keeping = None, False
        self._deaths += 1
        again = self._on and self._deaths < MOST_DEATHS
        again_in_s = _PAUSE_S * self._deaths if again else None
        self._say("warning", "warm.ended", pid=warm.pid, exit=str(how), again_in_s=again_in_s)
        if again_in_s is not None:
            self._keep(again_in_s)

    def _heard(self, warm: Warm) -> None:
        if warm.said:
            self._is_unfit(warm.said)
            self._discard(warm)
            return
        from supervisor.linux import resources  # noqa: PLC0415
        from supervisor.linux.memory import format_bytes  # noqa: PLC0415

        rss = procfs.usage(warm.pid)[1] or 0
        left = resources.memory_left()
        if left is not None and left < rss:
            self._is_unfit(
                f"it takes {format_bytes(rss)}, and {format_bytes(left)} of memory are left"
            )
            self._discard(warm)
            return
        seconds = round(time.monotonic() - warm.child.started_at, 3)
        self._say("info", "warm.ready", pid=warm.pid, seconds=seconds, memory=format_bytes(rss))

    # ------------------------------------------------------------------ the script

    def _take(self, spec: ProcessSpec) -> Child | None:
        """The warm interpreter as the script; None where there is none that will do."""
        from supervisor.plan import early  # noqa: PLC0415

        self._keeping = False
        self._hurry.set()  # one that was to be started is too late
        warm, before = self._warm, self._spec
        self._warm = self._spec = None
        if warm is None or before is None:
            return None
        why: str | None = None
        if (before.argv, before.cwd, before.oom_raise) != (spec.argv, spec.cwd, spec.oom_raise):
            why = "the command line or the directory is another"
        elif (name := early.difference(before.env, spec.env)) is not None:
            why = f"{name} is another in its environment"
        child = None if why else warm.become(spec)
        if child is None:
            if not why and warm.said:
                self._is_unfit(warm.said)  # and who listens to it may hear that as well
            else:
                self._tell_unused(why or "it has ended")
            self._discard(warm)
            return None
        self._used += 1
        self._owned.discard(warm)  # the guardian goes on watching it
        return child

    def _disown(self, warm: Warm) -> None:
        self._owned.discard(warm)
        if self._guardian is not None:
            self._guardian.forget(warm.pid)

    def _discard(self, warm: Warm) -> None:
        """It is of no use: its task sees it dead, and reaps it."""
        if warm is self._warm:
            self._warm, self._keeping = None, False
        warm.child.kill_soon()

    def _end(self) -> None:
        """No script starts any more."""
        self._on = self._keeping = False
        self._hurry.set()
        if self._warm is not None:
            self._discard(self._warm)

    def _is_unfit(self, why: str) -> None:
        """There is none in this run, which is said once."""
        if self._on:
            self._on = self._keeping = False
            self._tell_unused(why)

    def _tell_unused(self, why: str) -> None:
        self._unused.append(why)
        self._say("warning", "warm.unused", reason=why)

    # ------------------------------------------------------------------ what is told

    def row(self) -> WarmRow | None:
        """For ``/status``."""
        warm = self._warm
        if warm is None:
            return None
        return {
            "pid": warm.pid,
            "state": "importing" if warm.said is None else "ready",
            "since_s": round(time.monotonic() - warm.child.started_at, 3),
            "rss_bytes": procfs.usage(warm.pid)[1],
        }

    def report(self) -> dict[str, Any] | None:
        """The report's part; None where it was not asked for."""
        if not self._present.plan.contract.settings.warm_start:
            return None
        return {"started": self._starts, "used": self._used, "unused": list(self._unused)}

    def samples(self) -> Iterator[Sample]:
        """For ``/metrics``, where it was asked for."""
        if not self._present.plan.contract.settings.warm_start:
            return
        from supervisor.status.snapshot import Sample  # noqa: PLC0415  # it is loaded: it asks

        row = self.row()
        yield Sample(
            "warm_resident_bytes",
            "Resident memory of the warm interpreter; 0 where there is none.",
            (row and row["rss_bytes"]) or 0,
        )
        yield Sample(
            "warm_starts_total",
            "How often the script was started in the warm interpreter.",
            self._used,
            kind="counter",
        )


def _script(plan: Plan) -> ProcessSpec | None:
    """What the host runs of the user's; None where it runs servers alone."""
    return next((spec for spec in plan.processes if not spec.essential), None)


def _is_complete(plan: Plan) -> bool:
    """Whether what the script imports is here: its code, and what is installed for it."""
    return not plan.contract.source and all(spec.name == FETCH for spec in plan.steps)


def _early(plan: Plan, spec: ProcessSpec) -> dict[str, str] | str:
    """What the script sets before it imports; in words, why that is not to be known. Blocks."""
    from supervisor.plan import early  # noqa: PLC0415

    own = _file_of(plan, spec)
    if own is None:  # installed: not the user's to change here
        return {}
    source = regular.read(own, _SOURCE_BYTES, follow=True)
    found = early.early_settings(source, spec.env)
    if found.unclear is not None:
        return f"{own} sets {found.unclear}, in a way that cannot be foreseen"
    roots = (os.path.dirname(own), plan.contract.code_dir)
    known, ahead = {own}, list(_imported(own, source, roots))
    while ahead:
        path = ahead.pop()
        if path in known:
            continue
        known.add(path)
        if len(known) > _MOST_MODULES:
            return f"the script imports more than {_MOST_MODULES} modules of its own"
        source = regular.read(path, _SOURCE_BYTES, follow=True)
        name = early.other_settings(source)
        if name is not None:
            return f"{path} sets {name}, and it may do so before its libraries are imported"
        ahead += _imported(path, source, roots)
    return dict(found.values)


def _file_of(plan: Plan, spec: ProcessSpec) -> str | None:
    """The file that is run as ``__main__``; None where it is not among the user's code."""
    if plan.contract.entry_kind is EntryKind.SCRIPT:
        names = [spec.argv[1]]
    else:
        name = spec.argv[2].replace(".", "/")
        names = [f"{name}.py", f"{name}/__main__.py"]
    paths = (os.path.realpath(os.path.join(spec.cwd, name)) for name in names)
    return next((path for path in paths if os.path.isfile(path)), None)


def _imported(file: str, source: bytes, roots: Iterable[str]) -> Iterator[str]:
    """The files of the user's that a module imports, with the packages that they are in."""
    from supervisor.plan import early  # noqa: PLC0415

    for level, name in early.imports(source):
        place = file
        for _ in range(level):
            place = os.path.dirname(place)
        for root in (place,) if level else roots:
            module = root
            for part in name.split("."):
                module = os.path.join(module, part)
                for path in (f"{module}.py", os.path.join(module, "__init__.py")):
                    if os.path.isfile(path):
                        yield os.path.realpath(path)
