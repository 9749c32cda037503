"""What must hold of the command whatever the script does: matrices of real children, from outside,
as PID 1 of a namespace and not, and below other inits and a shell."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from supervisor.host.signals import NOT_FORWARDED
from tests.helpers.aio import free_port
from tests.helpers.children import OF_THE_C_LIBRARY
from tests.helpers.job import COMMAND, Job, environment, processes_with
from tests.helpers.train import Script, Train, child, lay_out, several, shell
from tests.helpers.tree import ROOT, SCRIPTS
from tests.helpers.waiting import wait_until

PLACES = ("plain", "pid 1")
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
WIDTH = 4
"""Supervisors at once, where there are many."""

ALL = "SUPERVISOR_TEST_ALL"
"""Set in the environment: all exit codes and ten thousand descendants, which takes minutes."""

both = pytest.mark.parametrize("place", PLACES)


def zombies_of(pid: int) -> list[int]:
    found = []
    for child_pid in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            stat = pathlib.Path(f"/proc/{child_pid}/stat").read_text()
            if stat.rsplit(") ", 1)[1][0] == "Z":
                found.append(int(child_pid))
    return found


# ---------------------------------------------------------------------------- exit codes

BOUNDARIES = (0, 1, 2, 42, 64, 100, 125, 126, 127, 128, 129, 137, 143, 165, 200, 254, 255)


@both
def test_exit_codes_come_through(place: str, tmp_path: pathlib.Path) -> None:
    codes = range(256) if ALL in os.environ else BOUNDARIES

    def start(code: int) -> Train:
        base = tmp_path / str(code)
        base.mkdir()
        lay_out(base, shell(f"exit {code}"))
        return Train(base, place=place)

    starts = [functools.partial(start, code) for code in codes]
    for code, train in zip(codes, several(starts, width=WIDTH), strict=True):
        assert train.process.returncode == code
        assert train.report["exit_code"] == code
        assert (train.base / "output" / "success").exists() == (code == 0)
        assert bool(train.failure) == (code != 0)


@pytest.mark.parametrize("place", ["tini", "dumb-init", "shell", "unprivileged"])
def test_under_other_inits_a_shell_and_without_privilege(
    place: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "a").mkdir()
    lay_out(tmp_path / "a", shell("exit 7"))
    with Train(tmp_path / "a", place=place) as train:
        assert train.wait() == 7
    (tmp_path / "b").mkdir()
    saved = tmp_path / "b" / "saved"
    lay_out(tmp_path / "b", child("saves", 0.3, saved))
    with Train(tmp_path / "b", place=place) as train:
        train.wait_for("ready")
        if place in {"tini", "dumb-init"}:  # they pass it on
            parent = pathlib.Path(f"/proc/{train.supervisor()}/status").read_text()
            init = re.search(r"^PPid:\s*(\d+)", parent, re.MULTILINE)
            assert init is not None
            os.kill(int(init[1]), signal.SIGTERM)
        else:
            train.send(signal.SIGTERM)
        assert train.wait() == 0
        assert saved.read_text() == "weights"
        assert train.report["outcome"] == "stopped"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("#!/no/such/interpreter\n", 126, "/no/such/interpreter"),
        ("\x7fELF nonsense", 126, "run.sh"),
        ("#!/bin/sh\nexec /no/such/program\n", 127, "/no/such/program"),
        ("#!/bin/sh\n: >plain\nexec ./plain\n", 126, "./plain"),
        ("#!/bin/sh\nkill -KILL $$\n", 137, "killed by SIGKILL after"),
        ("#!/bin/sh\nkill -USR1 $$\n", 138, "killed by SIGUSR1 after"),
    ],
)
def test_what_cannot_run_or_is_killed_says_why(
    text: str, code: int, words: str, tmp_path: pathlib.Path
) -> None:
    lay_out(tmp_path, Script("run.sh", text))
    with Train(tmp_path) as train:
        assert train.wait() == code
        first = train.failure.splitlines()[0]
        assert first.startswith("algo-1 chief: ")
        assert words in first


def test_a_dumped_core_is_said(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, shell("ulimit -c unlimited && kill -SEGV $$"))
    with Train(tmp_path) as train:
        assert train.wait() == 139
        if "(core dumped)" not in train.failure:
            pytest.skip("this system dumps no cores")
        assert "killed by SIGSEGV (core dumped) after" in train.failure


# ---------------------------------------------------------------------------- signals


@both
def test_every_other_signal_is_passed_on_once_and_in_order(
    place: str, tmp_path: pathlib.Path
) -> None:
    """One after the other they keep their order. Of signals that are pending at once the kernel
    keeps none (signal(7)), but each must arrive."""
    lay_out(tmp_path, child("tells"))
    signums = sorted(signal.valid_signals() - NOT_FORWARDED - {*STOPS, signal.SIGTSTP})
    names = [signal.Signals(s).name if s in set(signal.Signals) else str(s) for s in signums]
    with Train(tmp_path, place=place, SUPERVISOR_STOP_SIGNAL="SIGQUIT") as train:
        train.wait_for("ready")
        pid = train.supervisor()
        for count, signum in enumerate(signums, start=2):
            os.kill(pid, signum)
            wait_until(lambda count=count: len(train.out.splitlines()) >= count)  # type: ignore[misc]
        for signum in signums:
            os.kill(pid, signum)
        twice = 1 + 2 * len(signums)
        wait_until(lambda: len(train.out.splitlines()) >= twice)
        assert train.process.poll() is None, "they stop nothing"
        assert train.stop() == 0
        out = train.out.split()
        assert out[: 1 + len(names)] == ["ready", *names]
        assert sorted(out[1 + len(names) : -1]) == sorted(names)
        assert out[-1] == "SIGQUIT"


ANSWERS = {"obeys": 0, "plain": 143, "ignores": 137, "late": 0}


@pytest.mark.twice
@both
def test_stop_signals_whatever_the_script_makes_of_them(place: str, tmp_path: pathlib.Path) -> None:
    cases = [(signum, verb) for signum in STOPS for verb in ANSWERS]
    with contextlib.ExitStack() as stack:
        trains = []
        for signum, verb in cases:
            base = tmp_path / f"{verb}-{signum}"
            base.mkdir()
            lay_out(base, child(verb, *(["0.5"] if verb == "late" else [])))
            trains.append(
                stack.enter_context(Train(base, place=place, SUPERVISOR_STOP_GRACE_S="1"))
            )
            if len(trains) % WIDTH == 0:
                trains[-1].wait_for("ready")
        for train, (signum, _) in zip(trains, cases, strict=True):
            train.wait_for("ready")
            train.send(signum)
        for train, (signum, verb) in zip(trains, cases, strict=True):
            assert train.wait() == ANSWERS[verb], (signum, verb)
            report = train.report
            assert report["outcome"] == "stopped"
            assert report["cause"]["message"] == f"received {signum.name}"
            assert report["processes"][0]["stopped_by_us"]
            if verb == "obeys":
                assert train.out == "ready\nsaved\n", "it was asked once"


@both
def test_a_checkpoint_is_saved_before_the_end(place: str, tmp_path: pathlib.Path) -> None:
    saved = tmp_path / "saved"
    lay_out(tmp_path, child("saves", 2, saved))
    with Train(tmp_path, place=place) as train:
        train.wait_for("ready")
        pid = train.supervisor()
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert train.process.wait(30) == 0
        seconds = time.monotonic() - began
        assert train.wait() == 0
        assert saved.read_text() == "weights"
        assert 2 <= seconds < 25, "it had 92"
        print(f"gone {seconds:.3f} s after SIGTERM")
        assert "signal.received: SIGTERM; 120.0 s are left" in train.err


def test_a_sigterm_that_comes_twice_at_once_is_one(tmp_path: pathlib.Path) -> None:
    """timeout(1) signals its command, and then the group that the command is in."""
    saved = tmp_path / "saved"
    lay_out(tmp_path, child("saves", 0.5, saved))
    with Train(tmp_path, before=("timeout", "--preserve-status", "600")) as train:
        train.wait_for("ready")
        train.process.send_signal(signal.SIGTERM)  # which it treats as the end of its time
        assert train.wait() == 0
        assert saved.exists()
        assert train.err.count("signal.received") == 1


def test_a_local_run_takes_a_sigterm_that_comes_twice_at_once_for_one(
    tmp_path: pathlib.Path,
) -> None:
    saved = tmp_path / "saved"
    script = tmp_path / "run.sh"
    script.write_text(child("saves", 0.5, saved).text)
    script.chmod(0o755)
    with Job(tmp_path / "run", "--hosts", "1", str(script)) as job:
        job.wait_for("│ ready")
        for _ in range(3):  # of which the kernel keeps one, two or three
            job.process.send_signal(signal.SIGTERM)
        assert job.wait() == 0
        assert saved.exists()


@both
def test_a_second_stop_signal_kills_and_a_storm_breaks_nothing(
    place: str, tmp_path: pathlib.Path
) -> None:
    lay_out(tmp_path, child("keeps", "daemon-stubborn"))
    with Train(tmp_path, place=place) as train:
        train.wait_for("ready")
        pid = train.supervisor()
        with contextlib.suppress(ProcessLookupError):
            for count in range(2000):
                os.kill(pid, STOPS[count % len(STOPS)])
                os.kill(pid, signal.SIGUSR2)
        assert train.wait() in {137, 140, 143}
        report = train.report
        assert (report["outcome"], report["exit_code"]) == ("stopped", train.process.returncode)


def test_stops_until_the_very_end_change_no_exit_code(tmp_path: pathlib.Path) -> None:
    """The interpreter gives signals their default action back before it ends: a late SIGTERM made
    a death by signal of a recorded exit."""
    for attempt in range(5):
        base = tmp_path / str(attempt)
        base.mkdir()
        lay_out(base, shell(f"until [ -e {base}/go ]; do sleep 0.01; done; exit 3"))
        with Train(base) as train:
            train.wait_for("process.started")
            pid = train.supervisor()
            (base / "go").touch()
            train.wait_for("process.exited", 10)
            with contextlib.suppress(ProcessLookupError):
                while train.process.poll() is None:
                    os.kill(pid, signal.SIGTERM)
                    os.kill(pid, signal.SIGINT)
            assert train.wait() == 3
            assert train.report["exit_code"] == 3


def test_under_nohup_a_hang_up_stops_nothing(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, child("tells"))
    before = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    with Train(tmp_path, before=before, SUPERVISOR_STOP_SIGNAL="SIGQUIT") as train:
        train.wait_for("ready")
        train.send(signal.SIGHUP)
        train.send(signal.SIGUSR1)
        train.wait_for("SIGUSR1")
        assert "SIGHUP" not in train.out + train.err
        assert train.stop() == 0


def test_the_script_starts_clean_whatever_we_inherited(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, shell("exec grep -E '^Sig(Blk|Ign)' /proc/self/status"))

    def spoil() -> None:
        for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError):
                signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    with Train(tmp_path, preexec=spoil) as train:
        assert train.wait() == 0, "SIGCHLD ignored would have taken the status"
        _, blocked, _, ignored = train.out.split()
        assert blocked == "0" * 16
        assert int(ignored, 16) & ~OF_THE_C_LIBRARY == 0


def test_only_the_codes_own_files_are_made_executable(tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o644)
    base = tmp_path / "ml"
    base.mkdir()
    lay_out(base, shell("exit 0"), {"sagemaker_program": str(other)})
    with Train(base) as train:
        assert train.wait() == 126
    assert stat.S_IMODE(other.stat().st_mode) == 0o644
    assert str(other) in train.failure


# ---------------------------------------------------------------------------- every phase


def hears_signals(pid: int) -> bool:
    """Whether a SIGTERM is held back or caught by now."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s*(\w+)", status, re.MULTILINE)
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


@both
def test_a_stop_at_any_moment_of_the_start_ends_in_order(
    place: str, tmp_path: pathlib.Path
) -> None:
    """While the interpreter loads (before that, an init hears nothing and others just die),
    preparing, between fork and exec, and just after."""
    moments = random.Random(7)
    phases = set()
    for attempt in range(16):
        base = tmp_path / str(attempt)
        base.mkdir()
        lay_out(base, shell("exec sleep 300"))
        with Train(base, place=place) as train:
            pid = train.supervisor()
            wait_until(functools.partial(hears_signals, pid))
            time.sleep(moments.uniform(0, 0.25))
            os.kill(pid, signal.SIGTERM)
            code = train.wait()
            report = train.report
            assert (report["outcome"], report["exit_code"]) == ("stopped", code)
            assert code == 143, "whether the script was started or not"
            assert train.failure
            phases.add(report["phases"][-4:][0]["phase"])
    assert phases <= {"preparing", "joining", "running"}
    print(phases)


@both
@pytest.mark.parametrize("current", ["algo-1", "algo-2"])
def test_a_stop_while_joining(place: str, current: str, tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path, shell("exit 9"), hosts=["algo-1", "algo-2"], current=current
    )  # the other never comes
    port = str(free_port())
    with Train(
        tmp_path,
        place=place,
        SUPERVISOR_ACK_TIMEOUT_S="1",  # for hosts that may yet come, to hear that it is over
        SUPERVISOR_STATUS_PORT=port,
        SUPERVISOR_STATUS_BIND="127.0.0.1",
        SUPERVISOR_LOG_LEVEL="debug",
    ) as train:
        train.wait_for("phase.entered: joining")
        assert train.stop() == 143
        assert [span["phase"] for span in train.report["phases"]][:2] == ["preparing", "joining"]
        assert train.report["processes"][0]["pid"] is None
        assert train.report["cause"]["kind"] == "stop_requested"


@both
def test_a_stop_while_draining(place: str, tmp_path: pathlib.Path) -> None:
    """The script is gone, what it left behind is being swept: its exit code stays."""
    lay_out(tmp_path, child("leaves", "session-stubborn", 5))
    with Train(tmp_path, place=place) as train:
        train.wait_for("ready")
        supervisor = train.supervisor()
        wait_until(lambda: zombies_of(supervisor), 10, "the script should be waited for")
        assert train.stop() == 5


# ---------------------------------------------------------------------------- trees


@both
def test_nothing_that_a_script_leaves_behind_survives(place: str, tmp_path: pathlib.Path) -> None:
    kinds = ["group-stubborn", "session", "session-stubborn", "daemon-stubborn", "daemon-quiet"]

    def start(kind: str) -> Train:
        base = tmp_path / kind
        base.mkdir()
        lay_out(base, child("leaves", kind, 7))
        return Train(base, place=place)

    starts = [functools.partial(start, kind) for kind in kinds]
    for train in several(starts, width=len(kinds)):
        assert train.process.returncode == 7
        assert train.report["processes"][0]["descendants_swept"] == 1
        assert train.report["seconds"] < 20


@pytest.mark.twice
@both
@pytest.mark.parametrize(
    ("verb", "arguments", "code"),
    [
        ("keeps", ["daemon-stubborn"], 143),
        ("stopped", [], 143),
        ("descendants", ["2000", "stubborn"], 143),
        ("descendants", ["300", "session-stubborn"], 143),
    ],
)
def test_every_tree_comes_down(
    place: str, verb: str, arguments: list[str], code: int, tmp_path: pathlib.Path
) -> None:
    if ALL in os.environ and arguments[:1] == ["2000"]:
        arguments = ["10000", *arguments[1:]]
    lay_out(tmp_path, child(verb, *arguments))
    with Train(tmp_path, place=place, SUPERVISOR_STOP_GRACE_S="1") as train:
        train.wait_for("ready", 120)
        began = time.monotonic()
        assert train.stop() == code
        print(f"{verb} {arguments}: {time.monotonic() - began:.1f} s")
        assert train.report["processes"][0]["left"] == []


@both
@pytest.mark.parametrize("read", [True, False])
def test_output_without_end_holds_nothing(place: str, read: bool, tmp_path: pathlib.Path) -> None:
    """Whether it is read or not."""
    lay_out(tmp_path, child("floods"))
    ours, theirs = os.pipe()
    try:
        with Train(tmp_path, place=place, stdout=subprocess.DEVNULL if read else theirs) as train:
            train.wait_for("process.started")
            assert train.stop() == 143
    finally:
        os.close(ours)
        os.close(theirs)


@both
def test_a_hundred_orphans_leave_no_zombie(place: str, tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, child("orphans", 100))
    with Train(tmp_path, place=place) as train:
        train.wait_for("ready")
        pid = train.supervisor()
        wait_until(lambda: not zombies_of(pid), 3, "zombies after three seconds")
        assert train.stop() == 143


@pytest.mark.parametrize("place", PLACES)
def test_nothing_outlives_a_supervisor_that_is_killed(place: str, tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, child("keeps", "daemon-stubborn"))
    with Train(tmp_path, place=place) as train:
        train.wait_for("ready")
        train.send(signal.SIGKILL)
        train.process.wait(30)
        wait_until(lambda: not train.survivors(), 15, "somebody outlived it")


def test_nothing_outlives_a_local_run_that_is_killed(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text(shell("echo ready; sleep 300 & exec sleep 300").text)
    script.chmod(0o755)
    with Job(tmp_path / "run", "--hosts", "2", "--strategy", "none", str(script)) as job:
        for host in ("algo-1", "algo-2"):
            job.wait_for(rf"{host} \w+ │ ready")
        job.process.kill()
        job.process.wait(10)
        wait_until(lambda: not processes_with(str(job.run_dir)), 15, "somebody outlived it")


def test_what_not_even_sigkill_ends_is_named_and_left(tmp_path: pathlib.Path) -> None:
    """A task that the version 1 freezer holds is uninterruptible."""
    freezer = pathlib.Path(f"/sys/fs/cgroup/freezer/supervisor-test-{os.getpid()}")
    try:
        freezer.mkdir()
    except OSError as error:
        pytest.skip(f"no freezer to be had here: {error}")
    state = freezer / "freezer.state"
    try:
        lay_out(tmp_path, child("plain"))
        with Train(tmp_path) as train:
            train.wait_for("ready")
            pid = int(train.wait_for(r"process\.started: chief runs, pid (\d+)")[1])
            (freezer / "cgroup.procs").write_text(str(pid))
            state.write_text("FROZEN")
            wait_until(lambda: state.read_text() == "FROZEN\n")
            began = time.monotonic()
            train.send(signal.SIGTERM)
            train.wait_for("process.signalled")
            train.send(signal.SIGINT)
            assert train.process.wait(30) == 86
            assert time.monotonic() - began < 20
            assert train.report["processes"][0]["left"] == [pid]
            assert f"not even SIGKILL ended pid {pid}" in train.failure
            state.write_text("THAWED")
            wait_until(lambda: not train.survivors(), 5, "it did not die when it could")
    finally:
        with contextlib.suppress(OSError):
            state.write_text("THAWED")
        wait_until(lambda: not (freezer / "cgroup.procs").read_text(), 5)
        freezer.rmdir()


# ---------------------------------------------------------------------------- causes


def test_out_of_memory_is_proven_by_the_cgroup(tmp_path: pathlib.Path) -> None:
    cgroup = pathlib.Path(f"/sys/fs/cgroup/memory/supervisor-test-{os.getpid()}")
    try:
        cgroup.mkdir()
        (cgroup / "memory.limit_in_bytes").write_text(str(256 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup of version 1 to be made here: {error}")
    try:
        lay_out(tmp_path, "x = bytearray(1 << 30)")
        before = ("sh", "-c", f'echo $$ >{cgroup}/cgroup.procs && exec "$@"', "sh")
        with Train(tmp_path, before=before) as train:
            assert train.wait() == 137
            first = train.failure.splitlines()[0]
            assert first.startswith(
                "algo-1 chief: out of memory (limit 256 MiB, peak 256 MiB); killed by SIGKILL after"
            )
    finally:
        wait_until(lambda: not (cgroup / "cgroup.procs").read_text(), 5)
        cgroup.rmdir()


def test_of_many_small_processes_one_is_killed_and_not_the_supervisor(
    tmp_path: pathlib.Path,
) -> None:
    """Each was smaller than the supervisor, which the kernel therefore took, and with it whoever
    could have said what happened."""
    cgroup = pathlib.Path(f"/sys/fs/cgroup/memory/supervisor-test-{os.getpid()}")
    try:
        cgroup.mkdir()
        (cgroup / "memory.limit_in_bytes").write_text(str(120 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup of version 1 to be made here: {error}")
    try:
        text = (
            "import os, sys, time\n"
            "for _ in range(40):\n"
            " if os.fork() == 0:\n"
            "  b = bytearray(8 << 20)\n"
            "  for at in range(0, len(b), 4096): b[at] = 1\n"
            "  time.sleep(3); os._exit(0)\n"
            "sys.exit(9 if sum(os.wait()[1] != 0 for _ in range(40)) else 0)\n"
        )
        lay_out(tmp_path, text)
        before = ("sh", "-c", f'echo $$ >{cgroup}/cgroup.procs && exec "$@"', "sh")
        with Train(tmp_path, before=before) as train:
            assert train.wait() in {9, 137}
            first = train.failure.splitlines()[0]
            assert "out of memory" in first
            assert train.report["cause"]["kind"] == "script_failed"
    finally:
        wait_until(lambda: not (cgroup / "cgroup.procs").read_text(), 5)
        cgroup.rmdir()


def oom_score_adj(pid: int | str) -> int:
    return int(pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.parametrize(("inherited", "expected"), [(0, 500), (300, 800), (700, 1000)])
def test_the_kernel_takes_the_scripts_processes_first(
    inherited: int, expected: int, tmp_path: pathlib.Path
) -> None:
    """From their first instruction on, what the script starts at once too; ours stays as it was,
    and what a process says of itself stays."""
    own = "sh -c 'echo 1000 >/proc/self/oom_score_adj; cat /proc/self/oom_score_adj'"
    lay_out(tmp_path, shell(f"cat /proc/self/oom_score_adj\n{own}\necho ready\nexec sleep 300"))
    unprivileged = ("setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource")
    before: tuple[str, ...] = (
        "sh",
        "-c",
        f'echo {inherited} >/proc/self/oom_score_adj && exec "$@"',
        "sh",
    )
    if shutil.which("setpriv") and os.geteuid() == 0:
        before = (*before, *unprivileged)
    with Train(tmp_path, before=before) as train:
        train.wait_for("(?m)^ready")
        supervisor = train.supervisor()
        words = train.out.split()
        assert words[:2] == [str(expected), "1000"]
        assert oom_score_adj(supervisor) == inherited
        script = int(train.wait_for(r"process\.started: chief runs, pid (\d+)")[1])
        assert oom_score_adj(script) == expected
        guardians = set(train.survivors()) - {supervisor, script}
        assert all(oom_score_adj(pid) == inherited for pid in guardians)
        train.stop()


@pytest.mark.parametrize("where", ["scratch", "."])
def test_a_full_disk_is_said(where: str, tmp_path: pathlib.Path) -> None:
    """The script's own, or the one that the failure should go to: then the exit code still comes
    through, and the log says what could not be written."""
    full = tmp_path / "full"
    full.mkdir()
    options = ["-t", "tmpfs", "-o", "size=128k", "tmpfs", str(full)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"not permitted here: {mounted.stderr.strip()}")
    try:
        base = full if where == "." else tmp_path / "base"
        base.mkdir(exist_ok=True)
        lay_out(base, shell(f"cat /dev/zero >{full}/x; cat /dev/zero >{full}/y; exit 5"))
        with Train(base) as train:
            assert train.wait() == 5
            if where == ".":
                assert b"record.failed" in (base / "stderr").read_bytes() or not train.failure
            else:
                assert "No space left on device" in train.failure.splitlines()[0]
    finally:
        subprocess.run(["umount", "-l", str(full)], check=True)


PREEMPTED = """
trap : TERM
echo ready
while [ ! -e {flag} ]; do sleep 0.05; done
echo 'INFO:tensorflow:PreemptionCheckpointHandler: Starting saving a checkpoint.' >&2
echo 'INFO:tensorflow:Checkpoint finished at path /opt/ml/checkpoints/ckpt-7' >&2
echo 'INFO:tensorflow:PreemptionCheckpointHandler: checkpoint saved. Exiting.' >&2
exit 42
"""


@pytest.mark.parametrize("asked", [True, False])
def test_a_checkpoint_saved_at_preemption_is_said(asked: bool, tmp_path: pathlib.Path) -> None:
    """Whether the stop came to us, or to another worker of which TensorFlow told this one."""
    flag = tmp_path / "flag"
    lay_out(tmp_path, shell(PREEMPTED.format(flag=flag)))
    with Train(tmp_path) as train:
        train.wait_for("ready")
        if asked:
            train.send(signal.SIGTERM)
            train.wait_for("process.signalled")
        flag.touch()
        assert train.wait() == 42
        assert train.report["outcome"] == ("stopped" if asked else "failed")
        words = "checkpoint saved at preemption, restartable (/opt/ml/checkpoints/ckpt-7)"
        assert words in train.failure
        assert words in train.err
        if asked:
            assert train.failure.startswith("stopped: algo-1: received SIGTERM\nalgo-1 chief: ")
        else:
            assert train.failure.startswith(f"algo-1 chief: {words}; exit 42 after ")


@pytest.mark.parametrize("saves", [True, False])
def test_a_checkpoint_since_the_stop_is_proof_enough(saves: bool, tmp_path: pathlib.Path) -> None:
    """TensorFlow logs that it saved below its default level; the files do not lie."""
    write = "echo x >$SUPERVISOR_CHECKPOINT_DIR/ckpt-3.index" if saves else ":"
    old = "echo x >$SUPERVISOR_CHECKPOINT_DIR/ckpt-2.index"
    stop = f"trap '{write}; exit 42' TERM"
    lay_out(tmp_path, shell(f"{old}; {stop}; sleep 0.2; echo ready; while :; do sleep 0.05; done"))
    with Train(tmp_path) as train:
        train.wait_for("ready")
        assert train.stop() == 42
        words = f"checkpoint saved at preemption, restartable ({tmp_path}/checkpoints/ckpt-3)"
        assert (words in train.failure) == saves
        assert "exit 42 after" in train.failure


@pytest.mark.tensorflow
@pytest.mark.xdist_group("tensorflow")
def test_tensorflows_own_preemption_is_recognised(tmp_path: pathlib.Path) -> None:
    script = str(SCRIPTS / "preempted.py")
    quiet = {"GCE_METADATA_IP": "127.0.0.1:9"}  # TensorFlow asks a cloud's host where it is
    with Job(tmp_path / "run", "--hosts", "1", "--strategy", "mwms", script, **quiet) as job:
        job.wait_for("│ training", 120)
        job.process.send_signal(signal.SIGTERM)
        assert job.wait(90) == 42
        assert job.report("algo-1")["outcome"] == "stopped"
        assert "checkpoint saved at preemption, restartable (" in (job.failure("algo-1") or "")


# ---------------------------------------------------------------------------- watchdog


def test_the_longest_run_time_is_a_stop_in_order(tmp_path: pathlib.Path) -> None:
    saved = tmp_path / "saved"
    lay_out(tmp_path, child("saves", 0.2, saved))
    with Train(tmp_path, SUPERVISOR_MAX_RUNTIME_S="1") as train:
        assert train.wait() == 0
        assert saved.exists()
        assert train.report["cause"]["kind"] == "max_runtime"
        assert train.report["outcome"] == "stopped"


def test_work_in_a_child_process_is_a_sign_of_life(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, child("works_elsewhere", 3, 6))
    with Train(tmp_path, SUPERVISOR_HANG_TIMEOUT_S="1") as train:
        assert train.wait() == 6


def test_a_suspended_tree_does_not_hang(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, shell("echo ready; while :; do echo x; sleep 0.1; done"))
    with Train(tmp_path, SUPERVISOR_HANG_TIMEOUT_S="0.8") as train:
        train.wait_for("ready")
        train.send(signal.SIGTSTP)
        train.wait_for("process.suspended")
        time.sleep(2.5)  # what is waited for is that nothing happens
        train.send(signal.SIGCONT)
        train.wait_for("process.resumed")
        size = len(train.out)
        wait_until(lambda: len(train.out) > size)
        assert "process.hung" not in train.err
        assert train.stop() == 143


# ---------------------------------------------------------------------------- again and again

CYCLES = """
import asyncio, gc, os, signal, sys
sys.path.insert(0, {root!r})
from supervisor.contract.facts import Asked
from supervisor.host import entry
from supervisor.children.guardian import Guardian
from tests.helpers.leaks import no_leaks

def tasks():
    gc.collect()
    return sum(isinstance(each, asyncio.Task) for each in gc.get_objects())

environ = {{**os.environ, "SAGEMAKER_BASE_DIR": {base!r}}}

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"), sys.getallocatedblocks()

def run():
    guardian = Guardian.start()
    assert entry.train(environ, Asked(), guardian) == 3
    guardian.close()

for _ in range(100):  # until the allocators' and the interpreter's caches have filled
    run()
threads, known = len(os.listdir("/proc/self/task")), tasks()
marks = [memory()]
with no_leaks():
    for _ in range(4):
        for _ in range({count} // 4):
            run()
        gc.collect()
        marks.append(memory())
assert tasks() <= known
assert len(os.listdir("/proc/self/task")) <= threads
# A leak grows in every quarter. An arena that the C library makes for a thread is there at once,
# and so are the modules that only a run imports whose script the machine keeps waiting.
for each in zip(*marks):
    growth = sorted(after - before for before, after in zip(each, each[1:]))[1]
    print(growth * 4 // {count})
"""


@pytest.mark.twice
def test_whole_runs_leak_nothing(tmp_path: pathlib.Path) -> None:
    """Descriptors, tasks, threads, zombies; memory by what a run adds to what is there.

    The interpreter's cache of attribute names takes five blocks a run until its 4,096 places
    are full (``case Arm(…)`` looks ``__match_args__`` up under a new string each time).
    """
    lay_out(tmp_path, shell("sleep 0.01 & exit 3"))
    count = 1000 if ALL in os.environ else 100
    text = CYCLES.format(root=str(ROOT), base=str(tmp_path), count=count)
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    resident, blocks = (int(each) for each in done.stdout.split())
    assert resident < 10_000, "bytes a run"
    assert blocks < 30, "blocks a run"
    assert not processes_with(f"SAGEMAKER_BASE_DIR={tmp_path}")


def test_a_verb_that_only_looks_can_be_interrupted() -> None:
    """Stop signals are held from the first instruction on; who only looks must let them in."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        words = [*COMMAND, "status", "--watch", url]
        with subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL) as process:
            asking, _ = server.accept()  # and never answered
            with asking:
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == -signal.SIGTERM
