"""No thread, no process, no descriptor to be had: a healthy script goes on, and its end is its own.

A stack limit larger than the address space lets no thread of a program be made, from its start on
(pthread_create(3)); a pids limit that the script uses up lets none be made from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Final

import pytest

from tests.helpers.job import Job
from tests.helpers.train import Train, lay_out, shell
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

TOO_LARGE: Final = 1 << 48
PIDS: Final = pathlib.Path("/sys/fs/cgroup/pids")


def no_threads() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if hard != resource.RLIM_INFINITY:
        pytest.skip("the stack limit may not be raised")


def few_files(count: int) -> tuple[str, ...]:
    return ("prlimit", f"--nofile={count}")


WITHOUT_THREADS: Final = ("prlimit", f"--stack={TOO_LARGE}:")


def test_a_host_without_threads_lives_as_any_other(tmp_path: pathlib.Path) -> None:
    """Output to a pipe that fills, log files, the watchdog, the status server's imports: 90, with
    the script killed, or its output thrown away."""
    no_threads()
    text = (
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i + 1)); done; "
        "sleep 0.6; echo last >&2; exit 3"
    )
    lay_out(tmp_path, shell(text))
    with Train(
        tmp_path,
        before=WITHOUT_THREADS,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        SUPERVISOR_LOG_FILES="true",
        SUPERVISOR_HANG_TIMEOUT_S="5",
    ) as train:
        out, err = train.outputs()
        assert train.wait() == 3, err
    assert out.splitlines() == [b"line %d" % i for i in range(20000)]
    assert train.log_file().read_text().count("\n") == 20001
    assert b"internal.error" not in err
    assert b"output.broken" not in err
    assert "last" in train.failure


def test_a_job_without_threads_keeps_its_checkpoints(tmp_path: pathlib.Path) -> None:
    """Fetching, the sync process and its watch, the link to the master: each had threads."""
    no_threads()
    script = tmp_path / "run.sh"
    script.write_text(
        shell(
            'mkdir -p "$SUPERVISOR_CHECKPOINT_DIR/a"; echo x >"$SUPERVISOR_CHECKPOINT_DIR/a/ckpt"; '
            'echo m >"$SM_MODEL_DIR/m"; sleep 1'
        ).text
    )
    script.chmod(0o755)
    kept, models = tmp_path / "kept", tmp_path / "models"
    arguments = ("--strategy", "mwms", "--hosts", "2", "--checkpoints", str(kept))
    with (
        limited(resource.RLIMIT_STACK, TOO_LARGE),
        Job(
            tmp_path / "run", *arguments, str(script), SUPERVISOR_MODEL_S3_URI=f"file://{models}"
        ) as job,
    ):
        assert job.wait() == 0, job.output
    assert [path.read_text() for path in kept.rglob("ckpt")] == ["x\n"]
    assert (models / "m").read_text() == "m\n"


@contextlib.contextmanager
def limited(which: int, soft: int) -> Iterator[None]:
    """A limit of ours, which programs that are started meanwhile inherit."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


@contextlib.contextmanager
def pids_limit(count: int) -> Iterator[pathlib.Path]:
    group = PIDS / f"supervisor-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "pids.max").write_text(str(count))
    except OSError as error:
        pytest.skip(f"no pids cgroup to be had: {error}")
    try:
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 20, "somebody is left in it")
        group.rmdir()


def test_a_script_that_uses_up_the_pids_limit_at_once_ends_as_it_likes(
    tmp_path: pathlib.Path,
) -> None:
    """Within 0.2 s, before the status server is loaded in a thread: 90, a healthy script killed."""
    script = """
        import threading, time
        try:
            while True:
                threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
        except RuntimeError:
            pass
        time.sleep(1)
    """
    lay_out(tmp_path, textwrap.dedent(script))
    with pids_limit(40) as group:
        into = f'echo $$ >{group}/cgroup.procs; exec "$@"'
        with Train(
            tmp_path, before=("sh", "-c", into, "sh"), SUPERVISOR_HANG_TIMEOUT_S="60"
        ) as train:
            assert train.wait() == 0, train.err
    assert "internal.error" not in train.err


@pytest.mark.parametrize("count", [17, 18, 19, 20, 24])
def test_with_few_descriptors_a_script_that_was_started_ends_as_it_likes(
    count: int, tmp_path: pathlib.Path
) -> None:
    """What we load and open while it runs may find none: ``EMFILE`` in a watch of the disks ended
    the job, and a module that could not be loaded left a child that nobody waited for."""
    lay_out(tmp_path, shell("echo started; sleep 0.5; exit 3"))
    with Train(tmp_path, before=few_files(count), SUPERVISOR_LOG_FILES="true") as train:
        code = train.wait(20)
    assert code == 3 if "started" in train.out else code in {90, 126}, train.err


def test_no_process_for_stacks_is_no_defect(tmp_path: pathlib.Path) -> None:
    """py-spy that cannot be started says nothing; the hang is still told."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "py-spy").write_text("#!/no/such/interpreter\n")
    (tools / "py-spy").chmod(0o755)
    base = tmp_path / "ml"
    base.mkdir()
    lay_out(base, shell("exec sleep 60"))
    path = f"{tools}:{os.environ['PATH']}"
    with Train(base, PATH=path, SUPERVISOR_HANG_TIMEOUT_S="0.5") as train:
        assert train.wait() == 88, train.err
    assert "internal.error" not in train.err


def in_a_program_without_threads(code: str) -> str:
    """What the code prints."""
    no_threads()
    assert shutil.which("prlimit")
    done = subprocess.run(
        [*WITHOUT_THREADS, sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_found_without_threads() -> None:
    """No thread was no answer: after a lease of it the master was lost."""
    code = """
        import asyncio
        from supervisor.cluster.net import Resolver
        print(asyncio.run(Resolver().resolve("localhost", timeout_s=5)))
    """
    assert "127.0.0.1" in in_a_program_without_threads(code)


def test_a_child_without_pidfd_and_thread_is_waited_for() -> None:
    code = """
        import asyncio, os
        from supervisor.children.child import spawn
        from supervisor.life.words import ProcessSpec, Role
        def refused(pid, flags=0):
            raise OSError(24, "too many open files")
        os.pidfd_open = refused
        async def main():
            argv = ("/bin/sh", "-c", "sleep 0.3; exit 7")
            spec = ProcessSpec(name="x", role=Role.CHIEF, argv=argv, env=dict(os.environ), cwd="/")
            child = spawn(spec)
            fds = child.take_pipes()
            end = await child.run_to_end((), term_s=1, kill_s=1, drain_s=1)
            print(end.status.code)
            for fd in fds:
                os.close(fd)
        asyncio.run(main())
    """
    assert in_a_program_without_threads(code) == "7\n"


def test_a_call_aside_is_waited_for_only_so_long() -> None:
    from supervisor.aside import Aside, within

    async def scenario() -> None:
        read, write = os.pipe()
        try:
            look = Aside("test")
            with pytest.raises(TimeoutError):
                await look(0.05, os.read, read, 1)
            with pytest.raises(TimeoutError):  # the one before still holds its thread
                await look(0.05, os.getpid)
            os.write(write, b"x")
            assert await look(5, os.getpid) == os.getpid()
            with pytest.raises(FileNotFoundError):
                await look(5, os.stat, "/nowhere/at/all")
        finally:
            os.close(read)
            os.close(write)

    asyncio.run(scenario())
    assert within(5, os.getpid) == os.getpid()
