"""How much of a job's time is training when its processes are killed: ours and other launchers.

    python -m tests.benchmarks.bench_goodput [--kills 20] [--seed 14] [--only ours,torchrun,…]
        [--kinds script,spoilt,freeze,spin,host,startup-error] [--lost wait|fail]
    python -m tests.benchmarks.bench_goodput --quiet-s 600      # ours without faults
    python -m tests.benchmarks.bench_goodput --tensorflow       # ours with the bundled example

Three hosts on this machine train with ``tests/scripts/fake_trainer.py`` (2 s of start-up, a step
each 0.1 s, a checkpoint every 20 steps). Blows fall at seeded times, the same for every launcher,
counted from the first step of its run:

- ``script``: SIGKILL of a rank's script; ``spoilt``: the same, after the newest checkpoint has
  been cut short; ``freeze``: SIGSTOP; ``spin``: it loops for ever; ``host``: SIGKILL of a host's
  launcher and of all below it;
- ``startup-error``, by itself at the end: from a kill on the script fails at each start. The
  launcher has to end, and not to loop.

Medians over the blows after which the job was back before the next one fell: *detect*: until the
first of the others is told to stop, or is gone; *down*: until all that ran are gone; *back*: until
rank 0's first new step, and the last rank's; *own*: back without the script's own start-up;
*redone*: steps made again. *goodput*: distinct steps of all that an undisturbed run makes in the
same time. *ledger*: the same by the master's own ledger, which does not know these records: of its
time in that window the part that is training (goal: within 2 points). *missed*: blows that found no
process; *overtaken*: the next one fell before it was back.

Beside ours, in the same run: the same command anew in a shell's loop, twenty lines that start all
ranks again in place, torchrun and NVRx's ft_launcher (three agents, from an environment of their
own, which is made at the first time: ``--peers``), and what is best possible: each blow costs the
script's start-up, as measured here by itself, and the steps since the checkpoint (of whatever kind
it is: finding one that hangs, and a spoilt checkpoint, cost more).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from supervisor.engines.local import free_ports
from supervisor.linux import prctl, procfs
from tests.benchmarks import goodput
from tests.benchmarks.goodput import Blow, Mark, Outage, middle
from tests.helpers.tree import ROOT, SCRIPTS
from tests.scripts.fake_trainer import SPIN

TRAINER: Final = SCRIPTS / "fake_trainer.py"
EXAMPLE: Final = ROOT / "supervisor" / "examples" / "multi_worker_mirrored_strategy.py"
HOSTS: Final = 3
STARTUP_S, STEP_S, SAVE_EVERY = 2.0, 0.1, 20
TAIL_S: Final = 7.0
"""After the last blow, within the measured time."""
START_LIMIT_S: Final = 120.0
LOOK_S: Final = 0.01
HOST_FILE: Final = os.path.join("algo-1", "output", "supervisor", "host.json")
HANG_S: Final = 5
PEERS: Final = ("torch==2.13.0", "nvidia-resiliency-ext")
KINDS: Final = ("script", "spoilt", "freeze", "spin", "host", "startup-error")

LOOP: Final = """\
import os, subprocess, sys
while True:
    ranks = [
        subprocess.Popen(sys.argv[2:], env={**os.environ, "RANK": str(rank)})
        for rank in range(int(sys.argv[1]))
    ]
    for _ in ranks:
        if os.wait()[1]:
            break
    else:
        sys.exit()
    for rank in ranks:
        rank.terminate()
    for rank in ranks:
        try:
            rank.wait(10)
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()
"""


class Place(NamedTuple):
    """Where one run of one launcher has its files and ports."""

    directory: pathlib.Path
    port: int
    script: tuple[str, ...]


class Launcher(NamedTuple):
    name: str
    commands: Callable[[Place], list[list[str]]]
    """What is to be started: one command, or one a host."""
    depth: int
    """Generations between what is started and a host's own launcher."""
    environ: Mapping[str, str] = MappingProxyType({})


def clean_environment(place: Place) -> dict[str, str]:
    dropped = ("SUPERVISOR_", "SAGEMAKER_", "SM_", "PYTHONDONTWRITEBYTECODE", "RANK", "TF_CONFIG")
    env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    own = {"PYTHONPATH": str(ROOT), "TMPDIR": str(place.directory), "CUDA_VISIBLE_DEVICES": "-1"}
    return {**env, **own}


# --------------------------------------------------------------------------- the launchers


def local(place: Place) -> list[str]:
    flags = ["--hosts", str(HOSTS), "--strategy", "mwms", "--run-dir", str(place.directory / "run")]
    return [sys.executable, "-P", "-m", "supervisor", "local", *flags, *place.script]


def in_a_loop(place: Place) -> list[list[str]]:
    return [["sh", "-c", 'while ! "$@"; do :; done', "sh", *local(place)]]


def twenty_lines(place: Place) -> list[list[str]]:
    return [[sys.executable, "-c", LOOP, str(HOSTS), sys.executable, *place.script]]


def agents(program: pathlib.Path, *options: str) -> Callable[[Place], list[list[str]]]:
    """torchrun, or one that is like it: an agent a host. All else as it comes."""

    def commands(place: Place) -> list[list[str]]:
        flags = ["--nnodes", str(HOSTS), "--nproc-per-node", "1", "--max-restarts", "1000"]
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{place.port + 1}"]
        flags += [*meeting, "--rdzv-id", "bench", "--local-addr", "127.0.0.1", *options]
        return [[str(program), *flags, "--no-python", sys.executable, *place.script]] * HOSTS

    return commands


def launchers(peers: pathlib.Path | None, hang: bool) -> Iterator[Launcher]:
    limit = {"SUPERVISOR_HANG_TIMEOUT_S": str(HANG_S)} if hang else {}
    yield Launcher(
        "ours", lambda place: [local(place)], 1, {"SUPERVISOR_RESTARTS": "1000", **limit}
    )
    yield Launcher("ours-loop", in_a_loop, 2, {"SUPERVISOR_RESTARTS": "0", **limit})
    yield Launcher("loop", twenty_lines, 1)
    if peers is None:
        return
    for name, options in (("torchrun", ()), ("ft_launcher", ("--ignore-missing-fault-tol-cfg",))):
        if (peers / "bin" / name).exists():
            yield Launcher(name, agents(peers / "bin" / name, *options), 0)
        else:
            print(f"{name}: not there, left out")


def with_peers(directory: pathlib.Path) -> pathlib.Path:
    """An environment for other launchers, made when it is missing; what it lacks is left out."""
    if not (directory / "bin" / "pip").exists():
        python = shutil.which("python3.11") or sys.executable
        print(f"making {directory} ({python}), once", flush=True)
        subprocess.run([python, "-m", "venv", str(directory)], check=True)
    pip = [str(directory / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    wheels = ["--find-links", "/opt/wheels"] if os.path.isdir("/opt/wheels") else []
    for package, program in zip(PEERS, ("torchrun", "ft_launcher"), strict=True):
        if not (directory / "bin" / program).exists():
            print(f"installing {package} there, once", flush=True)
            done = subprocess.run([*pip, *wheels, package], check=False, capture_output=True)
            if done.returncode:
                print(f"{package} cannot be installed: {done.stderr.decode().strip()[-200:]}")
    return directory


# --------------------------------------------------------------------------- processes


def below(pid: int) -> list[int]:
    """Everything that descends from a process."""
    found: list[int] = []
    queue = [pid]
    while queue:
        children = procfs.children(queue.pop()) or []
        found += children
        queue += children
    return found


def end_all() -> None:
    """Everything that we have started: who loses its parent becomes our child."""
    deadline = time.monotonic() + 20
    while left := below(os.getpid()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > deadline:
            raise SystemExit(f"not gone after SIGKILL: {left}")
        time.sleep(LOOK_S)


def host_of(pid: int, roots: Sequence[int], depth: int) -> int:
    """The process that is a host's launcher, above a script."""
    line = [pid]
    while line[-1] not in roots:
        process = procfs.stat(line[-1])
        if process is None or process.ppid <= 1:
            return pid
        line.append(process.ppid)
    return line[max(0, len(line) - 1 - depth)]


class Run:
    """One launcher with the trainer, watched from outside."""

    def __init__(self, launcher: Launcher, place: Place) -> None:
        self.launcher, self.place = launcher, place
        self.gone: dict[int, float] = {}
        self._pidfds: dict[int, int] = {}
        self._texts = [""] * HOSTS
        self._read = [0] * HOSTS
        self.ranks: list[list[Mark]] = [[] for _ in range(HOSTS)]
        log = place.directory / "log"
        self.began = time.monotonic()
        with log.open("ab") as output:
            self.roots = [
                subprocess.Popen(
                    command,
                    cwd=place.directory,
                    env={**clean_environment(place), **launcher.environ},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                for command in launcher.commands(place)
            ]

    @property
    def over(self) -> bool:
        return all([root.poll() is not None for root in self.roots])  # noqa: C419  # reap them all

    def look(self) -> None:
        """Read what is new in the records."""
        for rank in range(HOSTS):
            path = self.place.directory / f"rank-{rank}.jsonl"
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._read[rank])
                text = file.read().decode()
            self._read[rank] += len(text)
            text = self._texts[rank] + text
            self._texts[rank] = text[text.rfind("\n") + 1 :]
            for mark in goodput.marks_in(text):
                self.ranks[rank].append(mark)
                if mark.what == "start":
                    self._watch(mark.pid)

    def _watch(self, pid: int) -> None:
        try:
            self._pidfds[os.pidfd_open(pid)] = pid
        except ProcessLookupError:
            self.gone[pid] = time.monotonic()

    def wait(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Watch until something holds. False: it does not within the limit, or all is over."""
        deadline = time.monotonic() + limit_s
        while not until():
            if time.monotonic() > deadline or self.over:
                return until()
            ready, _, _ = select.select(list(self._pidfds), [], [], LOOK_S)
            for fd in ready:
                self.gone[self._pidfds.pop(fd)] = time.monotonic()
                os.close(fd)
            self.look()
        return True

    def all_step(self) -> bool:
        return all(any(each.what == "step" for each in marks) for marks in self.ranks)

    @property
    def first_step(self) -> float:
        """When the last rank had made its first."""
        return max(next(each.at for each in marks if each.what == "step") for marks in self.ranks)

    def strike(self, blow: Blow) -> set[int]:
        """Returns the scripts that it has ended; empty: it found none."""
        pid = goodput.running(self.ranks[blow.rank], time.monotonic())
        if pid is None or pid in self.gone or pid not in self._pidfds.values():
            return set()
        if blow.kind == "spoilt":
            spoil(self.place.directory)
        signum = {"freeze": signal.SIGSTOP, "spin": SPIN}.get(blow.kind, signal.SIGKILL)
        struck = [pid]
        if blow.kind == "host":
            roots = [root.pid for root in self.roots]
            top = host_of(pid, roots, self.launcher.depth)
            struck = [top, *below(top)]
        for each in struck:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signum)
        return set(struck)

    def close(self) -> None:
        end_all()
        for fd in self._pidfds:
            os.close(fd)
        self._pidfds.clear()


def spoil(directory: pathlib.Path) -> None:
    """Cut the newest checkpoint short."""
    found = sorted(directory.rglob("ckpt-*.json"), key=lambda path: path.stat().st_mtime_ns)
    if found:
        os.truncate(found[-1], 100)


@contextlib.contextmanager
def running(launcher: Launcher, lost: str) -> Iterator[Run]:
    """A new place, and the launcher in it; at the end nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="goodput-", ignore_cleanup_errors=True) as name:
        directory, port = pathlib.Path(name), block_of_ports()
        options = {"directory": directory, "port": port, "ranks": HOSTS, "lost": lost}
        options |= {"startup-s": STARTUP_S, "step-s": STEP_S, "save-every": SAVE_EVERY}
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        words.append("--tell")
        run = Run(launcher, Place(directory, port, (str(TRAINER), *words)))
        try:
            yield run
        except BaseException:
            print((directory / "log").read_text(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            run.close()


def block_of_ports() -> int:
    """The first of two that nobody listens on."""
    return next(port for port in free_ports(64) if port % 2 == 0)


# --------------------------------------------------------------------------- what is measured


class Ledger(NamedTuple):
    """What the master says of its time so far, in seconds."""

    wall_s: float
    training_s: float


def ledger_of(place: Place) -> Ledger | None:
    """None where there is no supervisor, or it does not answer."""
    said = place.directory / "run" / HOST_FILE
    try:
        address = json.loads(said.read_text())["status"]["algo-1"]
        with urllib.request.urlopen(f"http://{address}/status", timeout=5) as answer:
            run = json.load(answer)["ledger"]["run"]
        return Ledger(run["wall_s"], run["seconds"]["training"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def share_of(before: Ledger | None, after: Ledger | None) -> float | None:
    """Percent of the time between that was training; None also where another one took over."""
    if before is None or after is None or after.wall_s <= before.wall_s:
        return None
    return 100.0 * (after.training_s - before.training_s) / (after.wall_s - before.wall_s)


class Figures(NamedTuple):
    start_s: float
    outages: list[Outage]
    blows: int
    missed: int
    overtaken: int
    """The next blow fell before the job was back."""
    restarts: int
    goodput: float
    ledger: float | None
    end: str
    """How it ended before its time; empty: it did not."""


def disturbed(launcher: Launcher, blows: Sequence[Blow], lost: str, patience_s: float) -> Figures:
    with running(launcher, lost) as run:
        if not run.wait(run.all_step, START_LIMIT_S):
            raise SystemExit(f"{launcher.name}: no first step")
        began, before = run.first_step, ledger_of(run.place)
        struck: list[tuple[float, set[int]]] = []
        end = ""

        def stuck() -> bool:
            last = max(each.at for each in run.ranks[0] if each.what == "step")
            return time.monotonic() - last > patience_s

        def until(at: float) -> str:
            run.wait(lambda: time.monotonic() >= at or stuck(), at - time.monotonic() + 1)
            if run.over:
                return f"ended after {len(struck)} of {len(blows)}"
            return f"stuck after {len(struck)} of {len(blows)}" if stuck() else ""

        missed = 0
        for blow in blows:
            end = until(began + blow.after_s)
            if end:
                break
            at = time.monotonic()
            victims = run.strike(blow)
            if victims:
                # One that only hangs is ended by the launcher: that is a sign as well.
                struck.append((at, set() if blow.kind in {"freeze", "spin"} else victims))
            else:
                missed += 1
        ended = began + blows[-1].after_s + TAIL_S
        end = end or until(ended)
        after = ledger_of(run.place)
        run.look()
        outages = []
        for number, (at, victims) in enumerate(struck):
            following = struck[number + 1][0] if number + 1 < len(struck) else ended
            found = goodput.outage(run.ranks, run.gone, at, victims)
            if found.all_back_s is not None and at + found.all_back_s <= following:
                outages.append(found)
        steps = goodput.kept(run.ranks[0], began, ended)
        window_s = ended - began
        return Figures(
            start_s=began - run.began,
            outages=outages,
            blows=len(struck),
            missed=missed,
            overtaken=len(struck) - len(outages),
            restarts=goodput.starts(run.ranks[0], ended) - 1,
            goodput=goodput.goodput(steps, window_s, STEP_S),
            ledger=share_of(before, after),
            end=end,
        )


def own_startup_s(runs: int = 3) -> float:
    """The script's own: three ranks by themselves, until all have made their first step."""
    ranks = [["env", f"RANK={rank}", sys.executable] for rank in range(HOSTS)]
    bare = Launcher("bare", lambda place: [[*words, *place.script] for words in ranks], 0)
    took = []
    for _ in range(runs):
        with running(bare, "wait") as run:
            if not run.wait(run.all_step, START_LIMIT_S):
                raise SystemExit("the trainer by itself makes no step")
            took.append(run.first_step - run.began)
    return statistics.median(took)


def fails_at_start(launcher: Launcher, limit_s: float = 40.0) -> str:
    with running(launcher, "wait") as run:
        if not run.wait(run.all_step, START_LIMIT_S):
            raise SystemExit(f"{launcher.name}: no first step")
        run.wait(lambda: False, 3.0)
        (run.place.directory / "broken").touch()
        began, before = time.monotonic(), len(run.ranks[1])
        run.strike(Blow(0, "script", 1))
        run.wait(lambda: False, limit_s)
        run.look()
        count = sum(each.what == "start" for each in run.ranks[1][before:])
        took_s = time.monotonic() - began
        if run.over:
            return f"ended after {took_s:.1f} s and {count} starts"
        return f"loops: {count} starts in {took_s:.0f} s"


def quiet(launcher: Launcher, quiet_s: float) -> None:
    """False restarts in a run without faults; the hang limit is on."""
    with running(launcher, "wait") as run:
        if not run.wait(run.all_step, START_LIMIT_S):
            raise SystemExit("no first step")
        began = run.first_step
        run.wait(lambda: time.monotonic() >= began + quiet_s, quiet_s + 1)
        run.look()
        ended = began + quiet_s
        again = max(goodput.starts(marks, ended) for marks in run.ranks) - 1
        steps = goodput.kept(run.ranks[0], began, ended)
        share = goodput.goodput(steps, quiet_s, STEP_S)
        print(
            f"{launcher.name}, {quiet_s:.0f} s without faults, hang limit {HANG_S} s: "
            f"{again} false restarts (goal 0), {'it ended' if run.over else 'it runs'}, "
            f"goodput {share:.1f} %"
        )


# --------------------------------------------------------------------------- what is printed


COLUMNS: Final = (
    *("start", "detect", "down", "back", "all back", "own", "redone"),
    *("goodput", "ledger", "restarts", "missed", "overtaken"),
)


def row(name: str, cells: Sequence[str], remark: str = "") -> None:
    print(f"{name:22}" + "".join(f"{cell:>10}" for cell in cells) + f"  {remark}", flush=True)


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def show(name: str, figures: Figures, startup_s: float) -> None:
    outages = figures.outages
    back = middle(each.back_s for each in outages)
    redone = middle(each.redone for each in outages)
    cells = [
        seconds(figures.start_s),
        seconds(middle(each.detect_s for each in outages)),
        seconds(middle(each.down_s for each in outages)),
        seconds(back),
        seconds(middle(each.all_back_s for each in outages)),
        seconds(back - startup_s if back is not None else None),
        "-" if redone is None else f"{redone:g}",
        f"{figures.goodput:.1f} %",
        "-" if figures.ledger is None else f"{figures.ledger:.1f} %",
        *(str(figures.restarts), str(figures.missed), str(figures.overtaken)),
    ]
    row(name, cells, figures.end)


def compare(given: argparse.Namespace, kinds: Sequence[str]) -> None:
    in_time = [kind for kind in kinds if kind != "startup-error"]
    hang = bool({"freeze", "spin"} & set(kinds))
    only = given.only.split(",") if given.only else []
    foreign = not only or bool({"torchrun", "ft_launcher"} & set(only))
    peers = with_peers(given.peers) if foreign else None
    chosen = [each for each in launchers(peers, hang) if not only or each.name in only]
    startup_s = own_startup_s()
    print(
        f"{HOSTS} hosts, {os.cpu_count()} cores, seed {given.seed}; a step {STEP_S:g} s, a "
        f"checkpoint every {SAVE_EVERY} steps, the script's own start-up {startup_s:.2f} s"
    )
    if in_time:
        blows = goodput.timetable(
            given.seed, given.kills, HOSTS, in_time, given.shortest_s, given.longest_s
        )
        window_s = blows[-1].after_s + TAIL_S
        print(f"{given.kills} blows ({', '.join(in_time)}) in {window_s:.0f} s; medians\n")
        row("", COLUMNS)
        for launcher in chosen:
            show(launcher.name, disturbed(launcher, blows, given.lost, given.patience_s), startup_s)
        ideal = goodput.ideal_with_restarts(blows, window_s, startup_s, STEP_S, SAVE_EVERY)
        cells = ["-", "0", "0", seconds(startup_s), seconds(startup_s), "0", f"{ideal.redone:g}"]
        row("best possible", [*cells, f"{ideal.goodput:.1f} %", "-", str(given.kills), "0", "0"])
        row("without a blow", [*["-"] * 7, "100.0 %", "-", "0", "0", "0"])
    if "startup-error" in kinds:
        print("\nfrom a kill on the script fails at each start (it has to end):")
        for launcher in chosen:
            print(f"  {launcher.name:20}{fails_at_start(launcher)}", flush=True)


# --------------------------------------------------------------------------- TensorFlow

_STEP: Final = re.compile(r"step (\d+)/")


class Output:
    """The chief's steps in a log that grows."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path, self._read = path, 0

    def steps(self) -> list[int]:
        """Those that are new, in order."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [int(number) for number in _STEP.findall(whole.decode(errors="replace"))]


def wait_for_step(output: Output, processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """The chief's next; 0: all have ended, or there is none in time."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if steps := output.steps():
            return steps[-1]
        if all([each.poll() is not None for each in processes]):  # noqa: C419
            return 0
        time.sleep(LOOK_S)
    return 0


def trainers() -> dict[int, int]:
    """By rank the example's processes below us."""
    found = {}
    for pid in below(os.getpid()):
        words = procfs.arguments(pid)
        if not any(word.endswith(EXAMPLE.name) for word in words[1:3]):
            continue
        match = re.search(rb'"index": (\d+)', procfs.environ(pid) or b"")
        if match:
            found[int(match[1])] = pid
    return found


def tensorflow(kills: int, seed: int) -> None:
    """Ours with the bundled example. Its own start-up: three workers by themselves."""
    words = ["--steps", "1000000", "--report-every", "5", "--save-every", "100"]
    with tempfile.TemporaryDirectory(prefix="goodput-", ignore_cleanup_errors=True) as name:
        directory = pathlib.Path(name)
        place = Place(directory, 0, (str(EXAMPLE), *words))
        env = clean_environment(place)
        ports = free_ports(HOSTS)
        workers = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        bare = [
            {
                "TF_CONFIG": f'{{"cluster": {{"worker": [{workers}]}}, '
                f'"task": {{"type": "worker", "index": {rank}}}}}',
                "SUPERVISOR_CHECKPOINT_DIR": str(directory / f"checkpoints-{rank}"),
            }
            for rank in range(HOSTS)
        ]
        began = time.monotonic()
        commands = [[sys.executable, *place.script]] * HOSTS
        output, processes = _started(directory / "bare", commands, [env | each for each in bare])
        try:
            if not wait_for_step(output, processes):
                print((directory / "bare").read_text(errors="replace")[-2000:])
                raise SystemExit("the example by itself makes no step")
        finally:
            own_s = time.monotonic() - began
            end_all()
        env |= {"SUPERVISOR_RESTARTS": "1000"}
        began = time.monotonic()
        output, processes = _started(directory / "log", [local(place)], [env])
        try:
            step = wait_for_step(output, processes)
            start_s = time.monotonic() - began
            back: list[float] = []
            redone: list[int] = []
            end = "" if step else "no first step"
            for blow in goodput.timetable(seed, kills, HOSTS, ["script"], 5, 10):
                time.sleep(5 + blow.after_s % 5)
                step = max([step, *output.steps()])
                ranks = trainers()
                if blow.rank not in ranks:
                    end = end or "no script to kill"
                    break
                at = time.monotonic()
                os.kill(ranks[blow.rank], signal.SIGKILL)
                while any(os.path.exists(f"/proc/{pid}") for pid in ranks.values()):
                    if time.monotonic() > at + START_LIMIT_S:
                        break
                    time.sleep(LOOK_S)
                step = max([step, *output.steps()])
                first = wait_for_step(output, processes)
                if not first:
                    end = f"ended, or not back, after {len(back) + 1} of {kills}"
                    break
                back.append(time.monotonic() - at)
                redone.append(step - first + 5)
                step = first
            print(
                f"TensorFlow, {HOSTS} hosts, {len(back)} kills: own start-up {own_s:.2f} s, launch "
                f"to first steps {start_s:.2f} s; back {seconds(middle(back))} (best "
                f"{seconds(min(back, default=None))}, worst {seconds(max(back, default=None))}), "
                f"steps redone {middle(redone)}  {end}"
            )
            if end:
                print((directory / "log").read_text(errors="replace")[-2000:])
        finally:
            end_all()


def _started(
    log: pathlib.Path, commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]]
) -> tuple[Output, list[subprocess.Popen[bytes]]]:
    with log.open("ab") as output:
        return Output(log), [
            subprocess.Popen(
                command,
                cwd=log.parent,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            for command, env in zip(commands, environments, strict=True)
        ]


def main() -> None:
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--kinds", default="script", help=f"of {','.join(KINDS)}")
    parser.add_argument("--only", help="of ours,ours-loop,loop,torchrun,ft_launcher")
    parser.add_argument("--lost", choices=("wait", "fail"), default="wait")
    parser.add_argument("--shortest-s", type=float, default=4.0, help="between two blows")
    parser.add_argument("--longest-s", type=float, default=10.0)
    parser.add_argument("--patience-s", type=float, default=60.0, help="without a step: stuck")
    parser.add_argument("--peers", type=pathlib.Path, default=cache / "supervisor-bench" / "peers")
    parser.add_argument("--quiet-s", type=float)
    parser.add_argument("--tensorflow", action="store_true")
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    if wrong := set(kinds) - set(KINDS):
        parser.error(f"--kinds: {', '.join(sorted(wrong))}: expected some of {', '.join(KINDS)}")
    if not prctl.become_subreaper():
        raise SystemExit("orphans cannot be adopted here, so that nothing could be ended for sure")
    # Told to stop, it ends what it has started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if given.quiet_s:
            quiet(next(launchers(None, hang=True)), given.quiet_s)
        elif given.tensorflow:
            tensorflow(given.kills, given.seed)
        else:
            compare(given, kinds)
    finally:
        end_all()


if __name__ == "__main__":
    main()
