"""What scripts say of themselves at ``NOTIFY_SOCKET``, and what follows from it."""

from __future__ import annotations

import array
import asyncio
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.children.child import spawn
from supervisor.host import notices
from supervisor.host.running import Running
from supervisor.life import events as ev
from supervisor.life.words import ProcessSpec, Role
from supervisor.linux import procfs
from supervisor.plan import early
from supervisor.training.notices import Notice
from tests.helpers.aio import free_port
from tests.helpers.train import Train, lay_out, shell
from tests.helpers.tree import ROOT
from tests.helpers.waiting import wait_until, wait_until_async

TELLS = r"""
import array, os, signal, socket, subprocess, sys, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
base = os.environ["SAGEMAKER_BASE_DIR"]

def tell(text, *fds):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    notify.sendmsg([text.encode()], rights, 0, "\0" + os.environ["NOTIFY_SOCKET"][1:])

def heard(timeout_s=20.0):
    "sd_notify_barrier(3)"
    end, other = os.pipe()
    tell("BARRIER=1", other)
    os.close(other)
    signal.alarm(int(timeout_s))
    assert os.read(end, 1) == b""
    signal.alarm(0)
    os.close(end)

def until(name):
    while not os.path.exists(f"{base}/{name}"):
        time.sleep(0.005)
"""
"""The beginning of a script in Python."""


def row(train: Train, name: str = "chief") -> dict[str, Any]:
    """What ``/status`` says of a process."""
    with urllib.request.urlopen(f"http://127.0.0.1:{train.port}/status", timeout=10) as answer:
        rows: list[dict[str, Any]] = json.load(answer)["processes"]
    return next(each for each in rows if each["name"] == name)


def served(train: Train) -> bool:
    try:
        return bool(row(train))
    except OSError:
        return False


def let(base: pathlib.Path, name: str = "enough") -> None:
    (base / name).touch()


# --------------------------------------------------------------------------- what is heard


def test_a_script_says_that_it_is_ready_and_how_it_is(tmp_path: pathlib.Path) -> None:
    source = (
        TELLS + 'tell("READY=1\\nSTATUS=loading with hunter2-hunter2 \\x1b[31m\\nX_UNKNOWN=1")\n'
        'tell("READY=1")\nheard()\nprint("heard", flush=True)\nuntil("enough")\n'
    )
    lay_out(tmp_path, source)
    port = str(free_port())
    env: dict[str, Any] = {"SUPERVISOR_STATUS_PORT": port, "MY_PASSWORD": "hunter2-hunter2"}
    with Train(tmp_path, **env) as train:
        train.wait_for("heard\n")
        wait_until(lambda: served(train))
        found = row(train)
        assert found["ready"] is True
        assert re.fullmatch(r"loading with \S*[*<\[]\S* \\x1b\[31m", found["status_text"])
        shown = subprocess.run(
            [sys.executable, "-m", "supervisor", "status", f"http://127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            cwd=ROOT,
        ).stdout
        assert re.search(r"running, ready .*loading with", shown)
        let(tmp_path)
        assert train.wait() == 0
        assert len(re.findall(r"script\.ready: chief is ready, after [\d.]+ s", train.err)) == 1
        assert len(re.findall(r"script\.status: chief: loading with", train.err)) == 1
        assert "hunter2" not in train.err + shown
        events = [entry["event"] for entry in train.report["timeline"]]
        assert "script.ready" in events
        assert "script.status" not in events, "it would push all else out"


SENDERS = {
    "the script": "tell('READY=1')",
    "a process of its own": (
        "if not os.fork():\n    tell('READY=1')\n    heard()\n    os._exit(0)\nos.wait()"
    ),
    "one in a session of its own, whose parents are gone": (
        "if not os.fork():\n"
        "    if not os.fork():\n"
        "        os.setsid()\n"
        "        while os.path.exists(f'/proc/{parent}'): time.sleep(0.001)\n"
        "        tell('READY=1')\n"
        "        heard()\n"
        "        os._exit(0)\n"
        "    os._exit(0)\n"
        "os.wait()"
    ),
}


@pytest.mark.parametrize("sender", SENDERS)
def test_whoever_belongs_to_the_script_is_heard(tmp_path: pathlib.Path, sender: str) -> None:
    daemon = "os.fork():\n    if not" in SENDERS[sender]
    source = SENDERS[sender]
    if daemon:
        source = source.replace(
            "    if not os.fork()", "    parent = os.getpid()\n    if not os.fork()"
        )
    lay_out(tmp_path, f"{TELLS}{source}\nuntil('enough')\n")
    with Train(tmp_path) as train:
        train.wait_for(r"script\.ready: chief is ready")
        let(tmp_path)
        assert train.wait() == 0
        assert "notices.refused" not in train.err


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd-notify is not here")
def test_a_shell_script_has_a_command_for_it(tmp_path: pathlib.Path) -> None:
    notify = "systemd-notify --ready --status='step 7/9'"
    lay_out(tmp_path, shell(f"{notify} && exec sleep 60"))
    with Train(tmp_path) as train:
        train.wait_for(r"script\.ready: chief is ready")
        train.wait_for(r"script\.status: chief: step 7/9")
        train.stop()


def test_a_stranger_is_not_heard(tmp_path: pathlib.Path) -> None:
    """It knows the name, and may do nothing with it: neither is the script ready, nor its time
    longer. What it sends along is closed all the same."""
    source = (
        TELLS + "print('at', os.environ['NOTIFY_SOCKET'], flush=True)\n"
        "until('enough')\nheard()\nprint('over')\n"
    )
    lay_out(tmp_path, source)
    with Train(tmp_path) as train:
        name = train.wait_for(r"at (@\S+)\n")[1]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            end, other = os.pipe()
            text = b"READY=1\nSTATUS=a stranger\nWATCHDOG=1"
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [other]))
            stranger.sendmsg([text], [rights], 0, "\0" + name[1:])
            os.close(other)
            assert os.read(end, 1) == b""
            os.close(end)
        train.wait_for(r"notices\.refused: a notification of pid \d+ is not heeded: it belongs to")
        let(tmp_path)
        assert train.wait() == 0
        assert "script." not in train.err
        assert "a stranger" not in train.err


def test_descriptors_that_come_along_are_closed_at_once(tmp_path: pathlib.Path) -> None:
    source = TELLS + (
        "before = len(os.listdir(f'/proc/{os.getppid()}/fd'))\n"
        "ends = [os.pipe() for _ in range(50)]\n"
        "for _ in range(20): tell('FDSTORE=1', *(fd for pair in ends for fd in pair))\n"
        "heard()\n"
        "after = len(os.listdir(f'/proc/{os.getppid()}/fd'))\n"
        "print('descriptors', before, after)\n"
    )
    lay_out(tmp_path, source)
    with Train(tmp_path) as train:
        assert train.wait() == 0
        found = re.search(r"descriptors (\d+) (\d+)", train.out)
        assert found is not None
        assert int(found[2]) - int(found[1]) < 20, "as many as there are files of its own"


@pytest.mark.once
def test_a_flood_costs_next_to_nothing(tmp_path: pathlib.Path) -> None:
    """What floods waits: for it the kernel keeps a few datagrams, and we come every 20 ms."""
    source = TELLS + (
        "heard()\n"
        "print('floods', flush=True)\n"
        "began = time.monotonic()\n"
        "sent = 0\n"
        "while time.monotonic() < began + 1.5:\n"
        "    tell(f'WATCHDOG=1\\nSTATUS=step {sent}')\n"
        "    sent += 1\n"
        "print('sent', sent, flush=True)\n"
        "until('enough')\n"
    )
    lay_out(tmp_path, source)
    with Train(tmp_path) as train:
        train.wait_for("floods")
        supervisor = train.supervisor()
        before, _ = procfs.usage(supervisor)
        sent = int(train.wait_for(r"sent (\d+)")[1])
        after, _ = procfs.usage(supervisor)
        assert before is not None
        assert after is not None
        assert after - before < 0.6, f"{after - before} s of CPU time for 1.5 s"
        most = 1.5 / notices.PAUSE_S * notices.MOST_AT_ONCE
        assert sent <= 2 * most + 2000
        let(tmp_path)
        assert train.wait() == 0
        assert len(re.findall(r"script\.status", train.err)) <= 2


def test_what_is_heard_is_kept_and_told_on(tmp_path: pathlib.Path) -> None:
    """Heartbeats are counted, the first import is timed, and who asks for time again and again is
    passed on now and then, but never for less than it asked for."""
    source = TELLS + (
        "tell('WATCHDOG=1\\nX_SUPERVISOR_IMPORTED=1')\n"
        "tell('WATCHDOG=1\\nX_SUPERVISOR_IMPORTED=1')\n"
        "tell('WATCHDOG=trigger')\n"
        "for _ in range(20): tell('EXTEND_TIMEOUT_USEC=1000000')\n"
        "tell('EXTEND_TIMEOUT_USEC=60000000')\n"
        "tell('X_UNKNOWN=1')\n"
        "heard()\n"
        "signal.pause()\n"
    )

    async def go() -> None:
        posted: list[ev.Event] = []
        told: list[tuple[str, Notice]] = []
        plan = SimpleNamespace(
            contract=SimpleNamespace(settings=SimpleNamespace(hang_timeout_s=0.0))
        )
        made = notices.Notices(
            SimpleNamespace(plan=plan),  # type: ignore[arg-type]
            post=posted.append,
            say=lambda *_, **__: None,
            log=None,  # type: ignore[arg-type]  # nothing is said for people
            masker=None,  # type: ignore[arg-type]
            heard=lambda process, notice: told.append((process, notice)),
        )
        env = {**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path)}
        spec = ProcessSpec("chief", Role.CHIEF, (sys.executable, "-c", source), env, str(tmp_path))
        server = replace(spec, name="ps", role=Role.PS, essential=True)
        assert made.told_to(server) == server
        prepares = replace(spec, name="requirements", role=Role.PREPARE)
        assert made.told_to(prepares) == prepares
        running = Running(spec, spawn(made.told_to(spec)))
        assert running.child is not None
        try:
            made.follow(running)
            await wait_until_async(lambda: len(told) == 24)
        finally:
            running.child.close()
            made.close()
            made.close()
        assert running.watchdog_beats == 2
        assert running.watchdog_triggered
        assert running.imported_s is not None
        assert 0.0 < running.imported_s < 30.0
        assert {process for process, _ in told} == {"chief"}
        assert told[0][1] == Notice(watchdog=True, imported=True)
        asked = [event.seconds for event in posted if isinstance(event, ev.MoreTime)]
        assert asked[0] == 1.0
        assert asked[-1] == 60.0
        assert len(asked) < 15

    asyncio.run(go())


# --------------------------------------------------------------------------- what a script is told


@pytest.mark.parametrize(("timeout", "usec"), [("0", None), ("auto", None), ("2.5", "2500000")])
def test_a_script_is_told_where_and_how_often(
    tmp_path: pathlib.Path, timeout: str, usec: str | None
) -> None:
    """By us: what systemd tells the supervisor is for that alone."""
    lay_out(tmp_path, shell("env"))
    of_systemd: dict[str, Any] = {
        "NOTIFY_SOCKET": "/run/of/systemd",
        "WATCHDOG_USEC": "7",
        "WATCHDOG_PID": "1",
    }
    with Train(tmp_path, SUPERVISOR_HANG_TIMEOUT_S=timeout, **of_systemd) as train:
        assert train.wait() == 0
        told = dict(line.split("=", 1) for line in train.out.splitlines() if "=" in line)
        assert re.fullmatch(r"@supervisor-notify-[0-9a-f]{24}", told["NOTIFY_SOCKET"])
        assert told.get("WATCHDOG_USEC") == usec
        assert "WATCHDOG_PID" not in told


def test_a_warm_interpreter_need_not_have_been_told() -> None:
    """The socket is there when the script starts, which may be after its interpreter."""
    assert early.difference({}, {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5"}) is None


# --------------------------------------------------------------------------- more time

SAVES = TELLS + (
    "def save(*_):\n"
    "    for _ in range(MOMENTS):\n"
    "        tell('EXTEND_TIMEOUT_USEC=1000000')\n"
    "        time.sleep(0.1)\n"
    "    print('saved', flush=True)\n"
    "    os._exit(0)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "tell('EXTEND_TIMEOUT_USEC=60000000')\n"  # nothing is to be extended yet
    "heard()\n"
    "print('ready', flush=True)\n"
    "while True: time.sleep(0.01)\n"
)


@pytest.mark.once
def test_a_script_that_saves_for_longer_than_the_grace_asks_for_more_time(
    tmp_path: pathlib.Path,
) -> None:
    lay_out(tmp_path, f"MOMENTS = 15\n{SAVES}")
    with Train(tmp_path, SUPERVISOR_STOP_LIMIT_S="20", SUPERVISOR_STOP_GRACE_S="0.5") as train:
        train.wait_for("ready")
        assert train.stop() == 0
        assert "saved" in train.out
        words = r"process\.extended: chief asks for 1\.0 s, and has [01]\.\d s from now"
        assert len(re.findall(words, train.err)) == 1


@pytest.mark.once
def test_one_that_goes_on_asking_is_killed_before_the_platforms_limit(
    tmp_path: pathlib.Path,
) -> None:
    lay_out(tmp_path, f"MOMENTS = 10**6\n{SAVES}")
    with Train(tmp_path, SUPERVISOR_STOP_LIMIT_S="5", SUPERVISOR_STOP_GRACE_S="0.3") as train:
        train.wait_for("ready")
        began = time.monotonic()
        train.stop()
        took_s = time.monotonic() - began
        assert 2.5 < took_s < 5.0, "nearly all of it, and the report was written in time"
        assert "saved" not in train.out
        assert "process.kill: SIGKILL to chief" in train.err
        assert train.report["outcome"] == "stopped"


@pytest.mark.once
def test_so_does_a_script_whose_job_ends_without_a_stop(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, f"MOMENTS = 10\n{SAVES}")
    env: dict[str, Any] = {"SUPERVISOR_MAX_RUNTIME_S": "1", "SUPERVISOR_END_GRACE_S": "0.2"}
    with Train(tmp_path, **env) as train:
        train.wait()
        assert "saved" in train.out


# --------------------------------------------------------------------------- the import

INJECTED = pathlib.Path(notices.__file__).parents[1] / "programs" / "injected"


def imported(tmp_path: pathlib.Path, module: str, script: str) -> tuple[str, list[bytes]]:
    """What a script prints, and what is told meanwhile; ``module`` is its TensorFlow."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(module)
    (tmp_path / "tensorflow" / "below.py").write_text("")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        name = f"supervisor-test-{os.urandom(8).hex()}"
        heard.bind(f"\0{name}")
        heard.setblocking(False)
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": f"{tmp_path}:{INJECTED}", "NOTIFY_SOCKET": f"@{name}"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        told = []
        while True:
            try:
                told.append(heard.recv(4096))
            except BlockingIOError:
                return done.stdout + done.stderr, told


WORD = b"X_SUPERVISOR_IMPORTED=1"


def test_the_first_import_of_tensorflow_is_told_once(tmp_path: pathlib.Path) -> None:
    script = (
        "import importlib.util, sys\n"
        "assert importlib.util.find_spec('tensorflow') is not None\n"
        "finders = len(sys.meta_path)\n"
        "import tensorflow.below\n"
        "import tensorflow\n"
        "print(finders - len(sys.meta_path), tensorflow.answer)\n"
        "print(type(tensorflow.__loader__).__name__, sorted(vars(tensorflow.__loader__)))\n"
        "import importlib\n"
        "importlib.reload(tensorflow)\n"
    )
    printed, told = imported(tmp_path, "answer = 42\n", script)
    assert printed.splitlines() == ["1 42", "SourceFileLoader ['name', 'path']"]
    assert told == [WORD]


def test_an_import_that_fails_fails_as_ever_and_is_not_told(tmp_path: pathlib.Path) -> None:
    script = "import json\ntry:\n    import tensorflow\nexcept ImportError as error: print(error)\n"
    printed, told = imported(tmp_path, "raise ImportError('no such wheel')\n", script)
    assert printed == "no such wheel\n"
    assert told == []


def test_a_script_without_tensorflow_goes_on_without(tmp_path: pathlib.Path) -> None:
    script = (
        "import sys\nsys.path.clear()\ntry: import tensorflow\nexcept ImportError as e: print(e)\n"
    )
    printed, told = imported(tmp_path, "", script)
    assert printed == "No module named 'tensorflow'\n"
    assert told == []
