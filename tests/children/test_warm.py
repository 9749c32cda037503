"""A script that is run by a process which has waited for it: it sees what it would see anyway, and
ends as it would end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from supervisor.children.child import Child, ChildEnd, environment, spawn
from supervisor.children.warm import DIRECTORY, VARIABLE, Warm
from supervisor.life.words import ProcessSpec, Role
from supervisor.linux import procfs
from supervisor.linux.tree import MARK_VARIABLE
from supervisor.plan.early import reads_early
from supervisor.plan.environment import STACKS_DIRECTORY
from tests.children.test_child import Reader
from tests.helpers.aio import until
from tests.helpers.leaks import no_leaks
from tests.helpers.tree import SCRIPTS

pytestmark = pytest.mark.twice

MODULE = "logging"
"""Imports a dozen others."""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Any:
    with no_leaks():
        yield


def spec(directory: pathlib.Path, *words: str, **env: str) -> ProcessSpec:
    """A script as the plan has it."""
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    search = f"{directory}:{STACKS_DIRECTORY}"
    given = {"PYTHONPATH": search, "PYTHONHASHSEED": "0", "SUPERVISOR_STACKS_SIGNAL": "40", **env}
    return ProcessSpec("chief", Role.CHIEF, (sys.executable, *words), own | given, str(directory))


class End(NamedTuple):
    end: ChildEnd
    out: bytes
    err: bytes


async def to_its_end(child: Child) -> End:
    out, err = Reader(child.stdout_fd), Reader(child.stderr_fd)
    end = await child.run_to_end([out, err], term_s=2, kill_s=2, drain_s=2)
    return End(end, out.data, err.data)


@contextlib.asynccontextmanager
async def warm(
    script: ProcessSpec,
    *modules: str,
    early: Mapping[str, str] | None = None,
    directories: Sequence[str] | None = None,
) -> AsyncIterator[Warm]:
    own = (script.cwd,) if directories is None else directories
    made = Warm.start(
        script,
        modules=modules or (MODULE,),
        early=early or {},
        user_directories=own,
        one_pipe=False,
    )
    try:
        yield made
    finally:
        made.child.close()
        made.let_go()


async def became(made: Warm, script: ProcessSpec) -> Child:
    child = made.become(script)
    assert child is not None, made.said
    return child


# --------------------------------------------------------------------------- what it sees


async def seen(directory: pathlib.Path, *words: str, module: str = MODULE) -> list[dict[str, Any]]:
    """What a script sees of itself, cold and warm."""
    found = []
    file = directory / "seen.json"
    script = spec(SCRIPTS, *words, str(file), module, SUPERVISOR_ATTEMPT="2", LATER="yes")
    then = {name: value for name, value in script.env.items() if name != "LATER"}
    before = replace(script, env=then | {"SUPERVISOR_ATTEMPT": "1"})
    for is_warm in (False, True):
        if is_warm:
            async with warm(before, module) as made:
                assert await made.listen()
                assert made.said == ""
                mark = made.child.mark
                end = await to_its_end(await became(made, script))
                assert not await made.listen(), "it has nothing more to say, and no descriptor"
        else:
            child = spawn(script)
            mark = child.mark
            end = await to_its_end(child)
        assert end.end.status.ok, end.err
        mark = environment(script, mark)[MARK_VARIABLE]
        told = json.loads(file.read_text().replace(mark, "MARK"))
        told["sys hooks"] = [each.partition(" object at ")[0] for each in told["sys hooks"]]
        found.append(told)
        file.unlink()
    return found


def compared(cold: dict[str, Any], hot: dict[str, Any]) -> None:
    """The differences are these, as the guide lists them."""
    at_first = set(hot.pop("modules at first")) - set(cold.pop("modules at first"))
    assert at_first
    assert at_first < set(cold["modules"])
    was, now = set(cold.pop("/proc environ")), set(hot.pop("/proc environ"))
    search = next(each for each in was if each.startswith("PYTHONPATH="))
    assert was - now == {search, "SUPERVISOR_ATTEMPT=2", "LATER=yes"}
    control = {each for each in now if each.startswith(f"{VARIABLE}=")}
    ours = search.replace("=", f"={DIRECTORY}:")
    assert now - was == {ours, "SUPERVISOR_ATTEMPT=1", *control}
    assert len(control) == 1
    assert hot.pop("logging began"), "logging counts from the script's start"
    cold.pop("logging began")  # its import took a while
    for name, value in cold.items():
        assert hot[name] == value, name
    assert cold.keys() == hot.keys()


@pytest.mark.parametrize("words", [("seen.py",), ("-m", "seen")], ids=["script", "module"])
def test_a_script_sees_a_fresh_process(tmp_path: pathlib.Path, words: tuple[str, ...]) -> None:
    """Modules, flags, search path, environment (in order, in C too), descriptors, signals,
    streams, threads, limits, session: equal but for what is listed."""
    compared(*asyncio.run(seen(tmp_path, *words)))


@pytest.mark.tensorflow
@pytest.mark.xdist_group("tensorflow")
def test_and_with_tensorflow(tmp_path: pathlib.Path) -> None:
    """Its import starts a thread and sets variables, which stay."""

    async def look() -> None:
        cold, hot = await seen(tmp_path, "seen.py", module="tensorflow")
        assert ["TF2_BEHAVIOR", "1"] in hot["environ"]
        compared(cold, hot)

    asyncio.run(look())


ENDS = {
    "an exit code": "import sys; print('out'); sys.exit(7)",
    "an exit text": "raise SystemExit('why')",
    "an error": "def f():\n    raise ValueError('no')\ntry:\n    f()\n"
    "finally:\n    print('late')\n",
    "a chained error": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    {}['x']\n",
    "a syntax error": "print('x'\nfoo bar\n",
    "SIGTERM": "import os, signal; print('x', flush=True); os.kill(os.getpid(), signal.SIGTERM)",
    "an interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT)\nwhile True: pass",
    "exit handlers": "import atexit; atexit.register(print, 'bye'); atexit.register(print, 'good')",
    "a thread": "import threading; threading.Thread(target=lambda: 1 / 0, name='t').start()",
    "a warning": "import warnings; warnings.warn('old', DeprecationWarning)",
    "a stack": "import traceback, sys; traceback.print_stack(); print(len(sys.argv), __name__)",
    "the recursion limit": "def f(n):\n    try:\n        return f(n + 1)\n"
    "    except RecursionError:\n        return n\nprint(f(0))\n",
    "no file": "",
    "buffered": "import os; print('x'); os._exit(0)",
    "processes": "import multiprocessing as m\ndef g(): print(__name__, flush=True)\n"
    "if __name__ == '__main__':\n    p = m.get_context('spawn').Process(target=g)\n"
    "    p.start(); p.join(); print(p.exitcode)\n",
}


@pytest.mark.parametrize("what", ENDS)
def test_and_ends_as_one(tmp_path: pathlib.Path, what: str) -> None:
    """Status, output and tracebacks, in which nothing of ours is to be seen."""
    script = tmp_path / "script.py"
    if ENDS[what]:
        script.write_text(ENDS[what])

    async def run() -> None:
        planned = spec(tmp_path, "script.py", "--flag", "value")
        cold = await to_its_end(spawn(planned))
        async with warm(planned) as made:
            hot = await to_its_end(await became(made, planned))
        assert str(hot.end.status) == str(cold.end.status)
        assert hot.out == cold.out
        assert _without_address(hot.err) == _without_address(cold.err)
        assert cold.out or cold.err or not cold.end.status.ok or what == "buffered"

    asyncio.run(run())


def _without_address(text: bytes) -> bytes:
    return b"\n".join(line for line in text.splitlines() if b" at 0x" not in line)


# --------------------------------------------------------------------------- the handover


def test_it_goes_on_at_once_or_when_it_has_imported(tmp_path: pathlib.Path) -> None:
    """What it imports waits for a file, and so do we, for the script or for the file first."""
    library, code = tmp_path / "library", tmp_path / "code"
    library.mkdir()
    code.mkdir()
    (library / "slow.py").write_text(
        "import os, time\nopen('importing', 'w').close()\n"
        "while not os.path.exists('go'): time.sleep(0.005)\n"
        "SEEN = dict(os.environ)\nos.environ['SLOW'] = 'set'\n"
    )
    (code / "script.py").write_text(
        "import os, slow\nprint(os.environ['SLOW'], os.environ['WHEN'], slow.SEEN['EARLY'],"
        " os.environ.get('EARLY'))\n"
    )

    async def run(*, early: bool) -> bytes:
        planned = spec(code, "script.py", WHEN="later")
        planned = replace(planned, env={**planned.env, "PYTHONPATH": f"{code}:{library}"})
        before = replace(planned, env={**planned.env, "WHEN": "before"})
        async with warm(before, "slow", early={"EARLY": "1"}) as made:
            await until((code / "importing").exists)
            child = None
            if early:
                child = made.become(planned)
                assert made.said is None
            (code / "go").touch()
            assert await made.listen()
            assert made.said == ""
            end = await to_its_end(child or await became(made, planned))
        for name in ("importing", "go"):
            (code / name).unlink()
        return end.out

    for early in (True, False):
        assert asyncio.run(run(early=early)) == b"set later 1 None\n"


def test_it_is_unfit_where_the_script_would_import_something_else(tmp_path: pathlib.Path) -> None:
    """It says so, and where it is to be the script already it starts once more, cold."""
    (tmp_path / "decimal.py").write_text("print('mine', flush=True)\n")
    (tmp_path / "logging").mkdir()  # no package: gives way
    (tmp_path / "script.py").write_text(
        "import decimal, sys, os\n"
        "print(os.environ['WHEN'], 'logging' in sys.modules, open('/proc/self/environ').read())\n"
    )

    async def run() -> None:
        planned = spec(tmp_path, "script.py", WHEN="later")
        before = replace(planned, env={**planned.env, "WHEN": "before"})
        async with warm(before, "logging") as made:
            assert await made.listen()
            assert made.said == "", "a directory that is no package shadows nothing"
        for module, why in {
            "decimal": f"{tmp_path}/decimal.py has the name of a library",
            "no_such": "ModuleNotFoundError: No module named 'no_such'",
        }.items():
            async with warm(before, module) as made:
                assert await made.listen()
                assert made.said == why
                assert made.become(planned) is None
            for _ in range(50):
                async with warm(before, module) as made:
                    if (child := made.become(planned)) is None:
                        continue  # on a busy machine it has said so already
                    end = await to_its_end(child)
                    assert await made.listen()
                    assert made.said == why
                    assert not await made.listen()
                    break
            else:
                pytest.fail("it always speaks first")
            assert end.end.status.ok, end.err
            told = environment(planned, child.mark)
            words = b"mine\nlater False " + "\0".join(f"{k}={v}" for k, v in told.items()).encode()
            assert end.out == words + b"\0\n", "as if it had been started so at first"

    asyncio.run(run())


def test_the_users_own_customization_comes_first(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nprint('decimal' in sys.modules)\n")
    (tmp_path / "script.py").write_text(
        "import sys\nprint(sys.modules['sitecustomize'].__file__, 'decimal' in sys.modules)\n"
    )

    async def run() -> None:
        planned = spec(tmp_path, "script.py")
        async with warm(planned, "decimal") as made:
            end = await to_its_end(await became(made, planned))
        assert end.out.decode() == f"False\n{tmp_path}/sitecustomize.py True\n", end.err

    asyncio.run(run())


def test_a_customization_that_fails_is_told_as_ever(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("1 / 0\n")
    (tmp_path / "script.py").write_text("import sys\nprint('sitecustomize' in sys.modules)\n")

    async def run() -> None:
        planned = spec(tmp_path, "script.py")
        cold = await to_its_end(spawn(planned))
        async with warm(planned) as made:
            hot = await to_its_end(await became(made, planned))
        assert (hot.out, hot.err) == (cold.out, cold.err)
        assert b"ZeroDivisionError" in hot.err

    asyncio.run(run())


@pytest.mark.parametrize("handles", [False, True], ids=["by default", "by its handler"])
def test_a_stop_signal_at_the_handover_is_the_scripts(
    tmp_path: pathlib.Path, handles: bool
) -> None:
    """Before its first line it ends it, as it would in a start; after, as the script wants it."""
    (tmp_path / "script.py").write_text(
        "import signal, sys\n"
        f"{'signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))' if handles else ''}\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )

    async def run() -> None:
        planned = spec(tmp_path, "script.py")
        async with warm(planned) as made:
            assert await made.listen()
            child = await became(made, planned)
            out, err = Reader(child.stdout_fd), Reader(child.stderr_fd)
            if handles:
                await out.line()
            child.signal(signal.SIGTERM)
            end = await child.run_to_end([out, err], term_s=2, kill_s=2, drain_s=2)
            if handles:
                assert end.status.code == 9
            else:
                assert end.status.signum == signal.SIGTERM
            assert err.data == b""

    asyncio.run(run())


def test_without_a_supervisor_it_ends(tmp_path: pathlib.Path) -> None:
    (tmp_path / "script.py").write_text("print('begun')\n")

    async def run() -> None:
        async with warm(spec(tmp_path, "script.py")) as made:
            assert await made.listen()
            made.let_go()
            end = await to_its_end(made.child)
        assert (end.out, end.err) == (b"", b"")

    asyncio.run(run())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_while_it_waits_ends_it_and_the_script_does_not_begin(
    tmp_path: pathlib.Path, signum: int
) -> None:
    (tmp_path / "script.py").write_text("print('begun')\n")

    async def run() -> None:
        async with warm(spec(tmp_path, "script.py")) as made:
            assert await made.listen()
            made.child.signal(signum)
            end = await to_its_end(made.child)
            assert not await made.listen()
            assert made.become(made.child.spec) is None
        assert end.end.status.signum == signum
        assert (end.out, end.err) == (b"", b"")

    asyncio.run(run())


def test_of_all_processes_it_is_the_first_to_go_while_it_waits(tmp_path: pathlib.Path) -> None:
    (tmp_path / "script.py").write_text("print(open('/proc/self/oom_score_adj').read())\n")

    async def run() -> None:
        planned = spec(tmp_path, "script.py")
        cold = await to_its_end(spawn(planned))
        async with warm(planned) as made:
            assert await made.listen()
            assert procfs.read(f"/proc/{made.pid}/oom_score_adj") == b"1000\n"
            hot = await to_its_end(await became(made, planned))
        assert hot.out == cold.out

    asyncio.run(run())


# --------------------------------------------------------------------------- TensorFlow's variables


@pytest.mark.tensorflow
@pytest.mark.xdist_group("tensorflow")
def test_every_variable_that_tensorflows_import_reads_is_known(tmp_path: pathlib.Path) -> None:
    """Asked of Python's environment, and of the C library's by a getenv of ours before it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, library = tmp_path / "asked.c", tmp_path / "asked.so"
    source.write_text(ASKED_IN_C)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    file = tmp_path / "asked"
    asked = os.environ | {"ASKED": str(file), "LD_PRELOAD": str(library)}
    subprocess.run([sys.executable, "-c", ASKED_IN_PYTHON], env=asked, check=True)
    names = set(file.read_text().split()) - {"ASKED"}
    assert len(names) > 100
    assert {"TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "OPENBLAS_NUM_THREADS"} <= names
    assert not {name for name in names if not reads_early(name)}


ASKED_IN_C = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
extern char **environ;
static char *find(const char *name) {
  size_t length = strlen(name);
  for (char **each = environ; each && *each; each++)
    if (!strncmp(*each, name, length) && (*each)[length] == '=') return *each + length + 1;
  return 0;
}
char *getenv(const char *name) {
  char line[256], *path = find("ASKED");
  int length = snprintf(line, sizeof line, "%s\n", name);
  int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  if (fd >= 0 && write(fd, line, length) != length) abort();
  if (fd >= 0) close(fd);
  return find(name);
}
char *secure_getenv(const char *name) { return getenv(name); }
"""

ASKED_IN_PYTHON = """
import os
asked = set()
class Asked(dict):
    def __getitem__(self, name):
        asked.add(name)
        return super().__getitem__(name)
    def get(self, name, *otherwise):
        asked.add(name)
        return super().get(name, *otherwise)
    def __contains__(self, name):
        asked.add(name)
        return super().__contains__(name)
os.environ._data = Asked(os.environ._data)
import tensorflow
asked = set(asked)
with open(os.environ["ASKED"], "ab") as file:
    file.write(b"".join(name + b"\\n" for name in asked))
"""
