"""One child: exec, exit truth, signals, the sweep of its tree, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from supervisor.children import ending
from supervisor.children.child import Child, ChildEnd, spawn
from supervisor.children.execution import SpawnError
from supervisor.children.leader import exit_status
from supervisor.life.words import ExitStatus, ProcessSpec, Role
from supervisor.linux import orphans, procfs
from tests.helpers import children
from tests.helpers.leaks import no_leaks, no_other_tasks, open_descriptors, own_children
from tests.helpers.waiting import wait_until, wait_until_async

T = TypeVar("T")


class Reader:
    """The simplest pump: keeps what the pipe gave."""

    def __init__(self, fd: int) -> None:
        self.data = b""
        self._fd = fd
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> None:
        part = os.read(self._fd, 1 << 16)
        self.data = (self.data + part)[-(1 << 20) :]
        if not part:
            self.close()

    async def finish(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self._ended.wait(), timeout_s)
        except TimeoutError:
            self.close()

    def close(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            asyncio.get_running_loop().remove_reader(self._fd)

    async def line(self, word: str = "ready", timeout_s: float = 10.0) -> list[str]:
        """Wait for a whole line that begins with a word; the words after it."""

        def look() -> list[str] | None:
            for line in self.data.decode().splitlines(keepends=True):
                if line.endswith("\n") and line.split()[:1] == [word]:
                    return [word, *line.split()[1:]]
            return None

        found = await wait_until_async(look, timeout_s, f"no {word!r} in {self.data[-200:]!r}")
        assert found is not None
        return found[1:]


class Running:
    """A child with its pumps, run to its end in a task."""

    def __init__(self, child: Child, *, term_s: float, kill_s: float, drain_s: float) -> None:
        self.child = child
        self.out, self.err = Reader(child.stdout_fd), Reader(child.stderr_fd)
        self.task = asyncio.ensure_future(
            child.run_to_end([self.out, self.err], term_s=term_s, kill_s=kill_s, drain_s=drain_s)
        )

    async def end(self, timeout_s: float = 20) -> ChildEnd:
        return await asyncio.wait_for(self.task, timeout_s)


def spec(*argv: str, env: dict[str, str] | None = None, cwd: str = "/") -> ProcessSpec:
    environment = {"PATH": os.environ["PATH"]} if env is None else env
    return ProcessSpec("worker", Role.WORKER, argv, environment, cwd)


def start(
    verb: str,
    *arguments: object,
    term_s: float = 5.0,
    kill_s: float = 5.0,
    drain_s: float = 1.0,
) -> Running:
    child = spawn(spec(*children.command(verb, *arguments)))
    return Running(child, term_s=term_s, kill_s=kill_s, drain_s=drain_s)


def run(body: Callable[[], Awaitable[T]]) -> T:
    """A coroutine as a test: the collector of orphans beside it, no task left after it."""

    async def main() -> T:
        collector = orphans.Collector()
        collector.start()
        try:
            result = await body()
            assert no_other_tasks()
            return result
        finally:
            collector.stop()

    with no_leaks():
        return asyncio.run(main())


@pytest.fixture(autouse=True)
def _adopt() -> None:
    assert orphans.adopt()


@pytest.fixture(params=["pidfd", "thread"])
def _waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to wait for a child: the second is for kernels and sandboxes that refuse pidfds."""
    if request.param == "thread":

        def refused(pid: int, flags: int = 0) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(os, "pidfd_open", refused)


def gone(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is None or not found.alive


# ---------------------------------------------------------------------------- exit truth


@pytest.mark.usefixtures("_waits")
def test_every_exit_code_comes_through() -> None:
    async def body() -> list[int | None]:
        return [(await start("exits", code).end()).status.code for code in (0, 1, 2, 127, 255)]

    assert run(body) == [0, 1, 2, 127, 255]


@pytest.mark.usefixtures("_waits")
@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1, signal.SIGRTMIN]
)
def test_a_death_by_signal_is_told_as_one(signum: int) -> None:
    async def body() -> ExitStatus:
        return (await start("dies", int(signum)).end()).status

    assert run(body) == ExitStatus(signum=int(signum))


def test_core_dumped_is_read_from_the_status() -> None:
    assert exit_status(signal.SIGSEGV | 0x80) == ExitStatus(signum=signal.SIGSEGV, core_dumped=True)


def test_the_end_tells_time_cpu_and_memory() -> None:
    async def body() -> ChildEnd:
        return await start("exits", 3).end()

    end = run(body)
    assert 0 < end.run_s < 10
    assert end.left == ()
    assert end.swept == 0
    assert end.drained
    assert 0 <= end.cpu_s < 5
    assert end.peak_rss_bytes > 1 << 20


def test_the_last_words_are_read() -> None:
    """Output written right before the death is drained after it."""

    async def body() -> bytes:
        running = start("half_line")
        await running.end()
        return running.out.data

    assert run(body) == b"the last words"


def test_a_pump_that_breaks_does_not_cost_the_status() -> None:
    class Broken:
        async def finish(self, timeout_s: float) -> None:
            raise ValueError(f"pump {timeout_s}")

        def close(self) -> None:
            pass

    async def body() -> ChildEnd:
        child = spawn(spec(*children.command("exits", 7)))
        return await child.run_to_end([Broken()], term_s=1, kill_s=1, drain_s=1)

    end = run(body)
    assert end.status.code == 7
    assert end.pump_errors == ("ValueError: pump 1",)


def steal_status(pid: int) -> bool:
    return os.waitpid(pid, 0)[0] == pid


def test_a_stolen_status_is_an_error_and_not_an_invention() -> None:
    async def body() -> None:
        running = start("exits", 7)
        await running.child._leader.exit()
        assert steal_status(running.child.pid)
        with pytest.raises(RuntimeError, match="taken by somebody else"):
            await running.end()

    run(body)


# ---------------------------------------------------------------------------- how it is started


def test_a_child_starts_clean() -> None:
    """Own session and group, no descriptor of ours, an empty mask, nothing ignored."""
    kept = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(kept, True)
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    async def body() -> tuple[bytes, bytes, tuple[int, int]]:
        first, second, third = start("descriptors"), start("signal_state"), start("plain")
        await asyncio.gather(first.end(), second.end())
        await third.out.line()
        ids = (os.getsid(third.child.pid), os.getpgid(third.child.pid))
        assert ids == (third.child.pid, third.child.pid)
        third.child.signal(signal.SIGTERM)
        await third.end()
        return first.out.data, second.out.data, ids

    try:
        descriptors, signals, _ = run(body)
    finally:
        os.close(kept)
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    assert sorted(descriptors.split()) == [b"0", b"1", b"2"]
    blocked, ignored = signals.split()
    assert int(blocked.removeprefix(b"SigBlk:"), 16) == 0
    # The child is a Python, which ignores these two itself.
    own = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert int(ignored.removeprefix(b"SigIgn:"), 16) & ~own & ~children.OF_THE_C_LIBRARY == 0


def test_our_pipe_ends_are_non_blocking_and_the_childs_are_not() -> None:
    async def body() -> bytes:
        child = spawn(spec(sys.executable, "-S", "-c", "import os; print(os.get_blocking(1))"))
        assert not os.get_blocking(child.stdout_fd)
        assert not os.get_blocking(child.stderr_fd)
        assert not os.get_inheritable(child.stdout_fd)
        running = Running(child, term_s=1, kill_s=1, drain_s=1)
        await running.end()
        return running.out.data

    assert run(body) == b"True\n"


def write(path: Path, content: bytes, mode: int = 0o755) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def elf(machine: int, loader: bytes = b"") -> bytes:
    """A 64-bit little-endian ELF header with one PT_INTERP entry."""
    header = bytearray(64)
    header[:7] = b"\x7fELF\x02\x01\x01"
    header[16:18] = (2).to_bytes(2, "little")
    header[18:20] = machine.to_bytes(2, "little")
    header[32:40] = (64).to_bytes(8, "little")
    header[54:58] = (56).to_bytes(2, "little") + (1).to_bytes(2, "little")
    entry = bytearray(56)
    entry[:4] = (3).to_bytes(4, "little")
    entry[8:16] = (120).to_bytes(8, "little")
    entry[32:40] = (len(loader) + 1).to_bytes(8, "little")
    return bytes(header + entry) + loader + b"\0"


@pytest.mark.twice
def test_what_cannot_be_executed_is_explained(tmp_path: Path) -> None:
    """126 for found, 127 for not found, and one sentence that names the program and the reason."""
    other = 183 if os.uname().machine == "x86_64" else 62
    cases = {
        ("no-such-program-anywhere",): (127, "no such program in PATH"),
        ("/no/such/program",): (127, "no such file"),
        ("",): (127, "the command is empty"),
        (str(tmp_path),): (126, "it is a directory"),
        (write(tmp_path / "plain.py", b"print()", 0o644),): (126, "it is not executable; chmod +x"),
        (write(tmp_path / "shebang", b"#!/no/such/python\n"),): (
            126,
            "its interpreter '/no/such/python' (first line) does not exist",
        ),
        (write(tmp_path / "dos", b"#!/bin/sh\r\ntrue\r\n"),): (126, "carriage return"),
        (write(tmp_path / "text", b"echo hello\n"),): (126, "neither a program nor a script"),
        (write(tmp_path / "empty", b""),): (126, "it is empty"),
        (write(tmp_path / "other", elf(other, b"/lib/ld.so")),): (126, "it is built for"),
        ("true", "x" * 200_000): (126, "too long for the kernel"),
        ("true", "a\0b"): (126, "embedded null byte"),
    }
    (tmp_path / "link").symlink_to("/no/such/target")
    cases[str(tmp_path / "link"),] = (126, "a link to '/no/such/target', which does not exist")
    for argv, (code, words) in cases.items():
        with no_leaks(), pytest.raises(SpawnError) as caught:
            spawn(spec(*argv))
        assert caught.value.code == code, caught.value.message
        assert words in caught.value.message
        assert caught.value.message.startswith("cannot execute ")
        assert "\n" not in caught.value.message


def test_a_missing_loader_is_told_from_a_missing_program(tmp_path: Path) -> None:
    machine = {"x86_64": 62, "aarch64": 183}.get(os.uname().machine)
    if machine is None:
        pytest.skip("only where the ELF machine number is known")
    program = write(tmp_path / "musl", elf(machine, b"/lib/ld-musl-nowhere.so.1"))
    with pytest.raises(SpawnError) as caught:
        spawn(spec(program))
    assert caught.value.code == 126
    assert "'/lib/ld-musl-nowhere.so.1' does not exist" in caught.value.message


def test_a_bad_working_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cwd, words in (("nowhere", "does not exist"), ("file", "is not a directory")):
        with no_leaks(), pytest.raises(SpawnError) as caught:
            spawn(spec("true", cwd=str(tmp_path / cwd)))
        assert caught.value.code == 126
        assert f"working directory {str(tmp_path / cwd)!r} {words}" in caught.value.message


def test_argv0_is_looked_up_in_the_childs_path(tmp_path: Path) -> None:
    write(tmp_path / "only-there", b"#!/bin/sh\nexit 9\n")

    async def body() -> int | None:
        child = spawn(spec("only-there", env={"PATH": str(tmp_path)}))
        return (await child.run_to_end([], term_s=1, kill_s=1, drain_s=1)).status.code

    assert run(body) == 9


# ---------------------------------------------------------------------------- signals


@pytest.mark.usefixtures("_waits")
def test_signals_reach_the_leader_once_and_in_order() -> None:
    async def body() -> list[str]:
        running = start("tells")
        await running.out.line()
        sent = ["SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGHUP", "SIGTERM", "SIGQUIT"]
        for name in sent:
            assert running.child.signal(signal.Signals[name])
            await running.out.line(name)
        assert (await running.end()).status.code == 0
        assert running.out.data.decode().split() == ["ready", *sent]
        assert not running.child.signal(signal.SIGTERM)
        return sent

    assert len(run(body)) == 6


def test_a_leader_that_had_sigterm_is_passed_over_when_the_group_gets_it() -> None:
    """Many programs take a second SIGTERM for "now" and abandon what they are saving."""

    async def body() -> list[str]:
        running = start("tells")
        await running.out.line()
        running.child.signal(signal.SIGTERM)
        await running.out.line("SIGTERM")
        running.child.signal(signal.SIGTERM, group=True)
        await running.out.line("SIGCONT")
        running.child.signal(signal.SIGQUIT)
        await running.end()
        return running.out.data.decode().split()

    assert run(body) == ["ready", "SIGTERM", "SIGCONT", "SIGQUIT"]


def test_a_stopped_leader_is_continued_for_an_ending_signal() -> None:
    async def body() -> ExitStatus:
        running = start("stopped")
        await running.out.line()
        await wait_until_async(lambda: (s := procfs.stat(running.child.pid)) and s.stopped)
        running.child.signal(signal.SIGTERM)
        return (await running.end()).status

    assert run(body) == ExitStatus(signum=signal.SIGTERM)


def test_suspend_and_resume_reach_the_whole_tree() -> None:
    """SIGTSTP's default action is dropped in a session without a parent: SIGSTOP is used."""

    async def body() -> None:
        running = start("keeps", "daemon")
        (daemon,) = map(int, await running.out.line())
        pids = (running.child.pid, daemon)
        assert running.child.suspend() == 2
        await wait_until_async(lambda: all((s := procfs.stat(p)) and s.stopped for p in pids))
        assert running.child.resume() == 2
        await wait_until_async(lambda: not any((s := procfs.stat(p)) and s.stopped for p in pids))
        running.child.kill_tree()
        await running.end()

    run(body)


def test_nothing_is_signalled_after_the_reap() -> None:
    async def body() -> None:
        running = start("exits", 0)
        await running.end()
        child = running.child
        assert not child.signal(signal.SIGKILL)
        assert not child.signal(signal.SIGKILL, group=True)
        assert child.kill_tree() == ()
        assert child.descendants() == ()
        assert child.reap() == ExitStatus(code=0)

    run(body)


# ---------------------------------------------------------------------------- the sweep


@pytest.mark.usefixtures("_waits")
@pytest.mark.parametrize("kind", ["group", "session", "daemon"])
@pytest.mark.parametrize("stubborn", ["", "-stubborn"])
def test_nothing_outlives_the_leader(kind: str, stubborn: str) -> None:
    """A descendant in the group, one in its own session, a daemon; one that ignores SIGTERM."""

    async def body() -> None:
        running = start("leaves", kind + stubborn, 5, term_s=0.3 if stubborn else 5)
        (pid,) = map(int, await running.out.line())
        started = time.monotonic()
        end = await running.end()
        assert end.status.code == 5
        assert end.swept == 1
        assert end.left == ()
        assert gone(pid)
        assert time.monotonic() - started < 4.5, "less than the patience with a stubborn one"

    run(body)


def test_a_daemon_belongs_to_the_child_that_made_it() -> None:
    """Two children, each with a daemon that nothing but its mark connects with it."""

    async def body() -> None:
        first, second = start("keeps", "daemon"), start("keeps", "daemon")
        (one,) = map(int, await first.out.line())
        (two,) = map(int, await second.out.line())
        assert first.child.descendants() == (one,)
        assert second.child.descendants() == (two,)
        first.child.signal(signal.SIGTERM)
        await first.end()
        assert gone(one)
        assert not gone(two)
        second.child.signal(signal.SIGTERM)
        await second.end()
        assert gone(two)

    run(body)


def test_a_daemon_without_a_mark_belongs_to_the_only_child() -> None:
    async def body() -> None:
        inner = " ".join(children.command("leaves", "daemon-stubborn-quiet"))
        child = spawn(spec("/bin/sh", "-c", f"env -i {inner}; exit 3"))
        running = Running(child, term_s=0.1, kill_s=5, drain_s=1)
        (daemon,) = map(int, await running.out.line())
        end = await running.end()
        assert end.status.code == 3
        assert end.swept == 1
        assert gone(daemon)

    run(body)


def test_a_grandchild_that_holds_the_pipe_is_waited_for_no_longer_than_the_bound() -> None:
    """It cannot be seen (a process of another tree got the pipe), so the drain is cut."""

    async def body() -> tuple[ChildEnd, float]:
        child = spawn(spec(*children.command("exits", 4)))
        holder = os.open(f"/proc/self/fd/{child.stdout_fd}", os.O_WRONLY)  # a write end of it
        running = Running(child, term_s=1, kill_s=1, drain_s=0.2)
        started = time.monotonic()
        end = await running.end()
        took_s = time.monotonic() - started
        os.close(holder)
        return end, took_s

    end, took_s = run(body)
    assert end.status.code == 4
    assert not end.drained
    assert took_s < 15


def test_a_sweep_ends_early_when_the_tree_is_killed() -> None:
    """A second stop signal means now: kill_tree during the sweep skips the rest of its SIGTERM."""

    async def body() -> ChildEnd:
        running = start("leaves", "session-stubborn", term_s=60)
        await running.out.line()
        await running.child._leader.exit()
        running.child.kill_tree()
        return await running.end(5)

    assert run(body).left == ()


def test_cancelled_it_leaves_nothing() -> None:
    async def body() -> None:
        running = start("keeps", "daemon-stubborn")
        (daemon,) = map(int, await running.out.line())
        running.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running.task
        await wait_until_async(lambda: gone(daemon), 2)
        assert gone(running.child.pid)

    run(body)


def test_cancelled_in_a_survey_it_leaves_proc_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task's exception kept the frames, and those the open directory, as long as the task."""
    monkeypatch.setattr(ending, "SLICE_S", -1.0)  # a turn for the loop after every slice

    async def body() -> None:
        before = own_children()
        running = start("descendants", 64, "session-stubborn", term_s=60)
        await running.out.line(timeout_s=30)
        running.child.signal(signal.SIGKILL)
        async with asyncio.timeout(30):
            # Turn by turn: a survey of few processes is over before a look every 5 ms finds it.
            while "/proc" not in open_descriptors().values():  # noqa: ASYNC110
                await asyncio.sleep(0)
        running.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running.task
        assert "/proc" not in open_descriptors().values()
        # As PID 1 the descendants are our children now: reaped while the loop turns.
        await wait_until_async(lambda: own_children() <= before, 20, "they are still there")

    run(body)


def test_many_stubborn_descendants_come_down_and_the_loop_turns() -> None:
    """1,000 that ignore SIGTERM, each in a session of its own: the worst case of a sweep."""

    async def body() -> tuple[ChildEnd, float]:
        running = start("descendants", 1000, "session-stubborn", term_s=0.2, kill_s=15)
        await running.out.line(timeout_s=30)
        longest = 0.0
        running.child.signal(signal.SIGKILL)
        last = time.thread_time()
        while not running.task.done():
            await asyncio.sleep(0.0005)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
        return await running.end(), longest

    end, longest_s = run(body)
    assert end.swept == 1000
    assert end.left == ()
    assert longest_s < 0.05  # of CPU: what others on this machine do is not ours


def test_kill_soon_takes_the_whole_tree() -> None:
    async def body() -> ChildEnd:
        running = start("keeps", "daemon-stubborn", term_s=60)
        (daemon,) = map(int, await running.out.line())
        assert running.child.kill_soon()
        end = await running.end(5)
        assert gone(daemon)
        return end

    end = run(body)
    assert end.status == ExitStatus(signum=signal.SIGKILL)
    assert end.swept == 1


@pytest.mark.parametrize("kind", ["group-stubborn", "session-stubborn", "daemon-stubborn"])
@pytest.mark.parametrize("how", ["kill", "sweep"])
def test_whoever_is_killed_below_a_leader_is_named(kind: str, how: str) -> None:
    """Nobody said whom it hit."""

    async def body() -> None:
        running = start("keeps", kind, term_s=0.2)
        (pid,) = map(int, await running.out.line())
        if how == "kill":
            running.child.kill_soon()
        else:
            running.child.signal(signal.SIGTERM)
        (killed,) = (await running.end(10)).killed
        assert killed[0] == pid
        assert killed[1][-2:] == ("keeps", kind)

    run(body)


# Sixteen against a supervisor that is itself measured, on processors that two suites share, were
# once not caught up with in ten seconds. They burn out after thirty, and run where nothing is
# measured.
@pytest.mark.parametrize(
    ("count", "pause_s"),
    [(1, 0), (1, 0.002), pytest.param(16, 0.002, marks=pytest.mark.once)],
)
def test_what_keeps_forking_is_caught_up_with(count: int, pause_s: float) -> None:
    """Processes that fork, leave group and session and exit all the time, racing the kill."""

    async def body() -> ChildEnd:
        running = start("comets", count, pause_s, "stubborn", term_s=0.05, kill_s=20)
        await running.out.line()
        running.child.signal(signal.SIGKILL)
        return await running.end(40)

    end = run(body)
    assert end.left == ()


def test_kill_everything_leaves_nobody() -> None:
    async def body() -> None:
        first, second = start("keeps", "daemon-stubborn"), start("descendants", 5, "session")
        (daemon,) = map(int, await first.out.line())
        await second.out.line()
        pids = {first.child.pid, daemon, second.child.pid, *second.child.descendants()}
        assert len(pids) == 8
        assert set(ending.kill_everything()) >= pids
        await asyncio.gather(first.end(), second.end())
        assert all(map(gone, pids))

    run(body)


# ---------------------------------------------------------------------------- at length


def test_a_thousand_cycles_leak_nothing() -> None:
    """Descriptors, children and tasks are checked by ``run``; memory here."""
    true = "/bin/true"
    assert stat.S_IXUSR & os.stat(true).st_mode

    async def body() -> int:
        async def cycle() -> None:
            child = spawn(spec(true))
            pumps = [Reader(child.stdout_fd), Reader(child.stderr_fd)]
            end = await child.run_to_end(pumps, term_s=1, kill_s=1, drain_s=1)
            assert end.status.ok

        async def cycles(count: int) -> None:
            for _ in range(count // 4):
                await asyncio.gather(*(cycle() for _ in range(4)))

        await cycles(100)
        before = resident_bytes()
        await cycles(900)
        return resident_bytes() - before

    assert run(body) < 4 << 20


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_wait_until_is_used_with_a_deadline() -> None:
    with pytest.raises(AssertionError):
        wait_until(lambda: False, 0.01)
