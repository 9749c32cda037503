"""``supervisor train``, ``train`` and ``supervisor plan`` on one host, from the outside."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess

import pytest

from tests.helpers import schemas
from tests.helpers.aio import free_port
from tests.helpers.job import COMMAND, environment, processes_with
from tests.helpers.train import lay_out
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice


def start(base: pathlib.Path, *words: str, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *(words or ("train",))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(SAGEMAKER_BASE_DIR=str(base), **env),
    )


def run(base: pathlib.Path, *words: str, **env: str) -> tuple[int, bytes, bytes]:
    with start(base, *words, **env) as process:
        out, err = process.communicate(timeout=60)
    assert not processes_with(f"SAGEMAKER_BASE_DIR={base}")
    return process.returncode, out, err


def failure(base: pathlib.Path) -> str:
    return (base / "output" / "failure").read_text()


def test_raw_output_is_the_scripts_byte_for_byte(tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path,
        "import os; os.write(1, b'  \\xff\\x00 half\\r\\n\\n no end')\n"
        "os.write(2, b'to stderr\\n')",
    )
    code, out, err = run(tmp_path)
    assert code == 0
    assert out == b"  \xff\x00 half\r\n\n no end"
    assert b"to stderr\n" in err
    assert (tmp_path / "output" / "success").exists()
    assert not (tmp_path / "output" / "failure").exists()


def test_the_failure_text_is_the_users_words(tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path,
        "class LossError(Exception): pass\n"
        "def step():\n    raise LossError('loss is NaN')\nstep()\n",
    )
    code, _, _ = run(tmp_path)
    assert code == 1
    first = failure(tmp_path).splitlines()[0]
    assert first.startswith("algo-1 chief: LossError: loss is NaN (train.py:3); exit 1 after ")
    report = schemas.read(
        "report", (tmp_path / "output" / "supervisor" / "report.json").read_text()
    )
    assert (report["outcome"], report["exit_code"]) == ("failed", 1)
    assert report["cause"]["process"] == "chief"


def test_exit_codes_and_sys_exit_messages_survive(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, "import sys; sys.exit('no data in channel train')")
    code, _, _ = run(tmp_path)
    assert code == 1
    assert "no data in channel train" in failure(tmp_path).splitlines()[0]


def test_a_missing_output_directory_does_not_turn_failure_into_success(
    tmp_path: pathlib.Path,
) -> None:
    """The predecessor exits 0 when it cannot write the failure file."""
    lay_out(tmp_path, "import shutil, sys; shutil.rmtree('../output'); open('../output', 'w'); 1/0")
    code, _, err = run(tmp_path)
    assert code == 1
    assert b"record.failed" in err


def test_sigterm_reaches_the_script_and_its_exit_0_is_ours(tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path,
        "import os, signal, sys\n"
        "def save(signum, frame):\n    open('../model/saved', 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print(os.environ['SUPERVISOR_STOP_BUDGET_S'], flush=True)\n"
        "while True: signal.pause()\n",
    )
    with start(tmp_path, SUPERVISOR_STOP_LIMIT_S="60") as process:
        assert process.stdout is not None
        assert float(process.stdout.readline()) == pytest.approx(39.5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert (tmp_path / "model" / "saved").exists()
    assert not (tmp_path / "output" / "success").exists(), "a stopped job has not succeeded"
    assert b"signal.received: SIGTERM; 60.0 s are left" in err


def test_other_signals_are_passed_on(tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path,
        "import signal, sys\n"
        "def seen(signum, frame):\n    print(signal.Signals(signum).name, flush=True)\n"
        "    if signum == signal.SIGUSR2: sys.exit(0)\n"
        "for s in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH): signal.signal(s, seen)\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n",
    )
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for name in ("SIGUSR1", "SIGWINCH", "SIGUSR2"):
            process.send_signal(getattr(signal, name))
            assert process.stdout.readline() == f"{name}\n".encode()
        assert process.wait(30) == 0


def test_a_hanging_script_is_stopped_and_its_stacks_are_shown(tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path,
        "import threading\n"
        "def wait_for_ever():\n    threading.Event().wait()\n"
        "print('ready', flush=True)\nwait_for_ever()\n",
    )
    code, _, err = run(tmp_path, SUPERVISOR_HANG_TIMEOUT_S="1")
    assert code == 88
    assert b"in wait_for_ever" in err
    first, _, detail = failure(tmp_path).partition("\n")
    assert first.startswith("algo-1 chief: hung: no output, no CPU time and no heartbeat for ")
    assert "in wait_for_ever" in detail


@pytest.mark.skipif(shutil.which("py-spy") is None, reason="py-spy is not installed")
def test_a_hanging_script_that_cannot_answer_is_looked_at_from_outside(
    tmp_path: pathlib.Path,
) -> None:
    lay_out(
        tmp_path,
        "import threading\n"
        "def wait_for_ever():\n    threading.Event().wait()\n"
        "print('ready', flush=True)\nwait_for_ever()\n",
    )
    code, _, err = run(tmp_path, SUPERVISOR_HANG_TIMEOUT_S="1", SUPERVISOR_STACKS="false")
    assert code == 88
    assert b"process.seen: chief" in err
    assert "wait_for_ever (train.py:3)" in failure(tmp_path)


def test_a_script_that_works_or_prints_does_not_hang(tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path,
        "import time\n"
        "for _ in range(10): print('x', flush=True); time.sleep(0.2)\n"
        "end = time.monotonic() + 2\n"
        "while time.monotonic() < end: pass\n",
    )
    code, _, _ = run(tmp_path, SUPERVISOR_HANG_TIMEOUT_S="1.5")
    assert code == 0


BEATS = """
import os, pathlib, time
beat = pathlib.Path(os.environ["SUPERVISOR_HEARTBEAT_FILE"])
"""


@pytest.mark.parametrize(
    "touch",
    [
        "beat.touch()",
        "os.utime(beat, ns=(0, 10**9 - step)) if beat.exists() else beat.touch()",  # clocks jump
        "new = beat.with_name('new'); new.write_text('x'); new.rename(beat)",
        "beat.unlink(missing_ok=True); beat.touch()",
    ],
)
def test_a_script_that_touches_its_heartbeat_does_not_hang(
    tmp_path: pathlib.Path, touch: str
) -> None:
    lay_out(tmp_path, f"{BEATS}for step in range(15):\n    {touch}\n    time.sleep(0.2)\n")
    code, _, _ = run(tmp_path, SUPERVISOR_HANG_TIMEOUT_S="1.5")
    assert code == 0


@pytest.mark.parametrize(
    "spin",
    [
        "pass",  # CPU time
        "time.sleep(0.05); print('trying again', flush=True)",
        "os.wait() if os.fork() else os._exit(0)",  # the tree's CPU time falls again and again
    ],
)
def test_a_script_that_spins_hangs_once_it_uses_its_heartbeat(
    tmp_path: pathlib.Path, spin: str
) -> None:
    """The heartbeat was one sign of life beside the others, and so it was no use to a script that
    is busy for ever or says for ever that it tries again."""
    lay_out(tmp_path, f"{BEATS}beat.touch()\nwhile True: {spin}\n")
    code, _, _ = run(tmp_path, SUPERVISOR_HANG_TIMEOUT_S="1")
    assert code == 88
    first = failure(tmp_path).splitlines()[0]
    assert first.startswith("algo-1 chief: hung: its heartbeat file was not touched for ")


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_what_is_no_regular_file_is_no_heartbeat(tmp_path: pathlib.Path, kind: str) -> None:
    """Nor may it block us. The script works, so it does not hang."""
    make = {
        "fifo": "os.mkfifo(beat)",
        "link": "beat.symlink_to('/proc/uptime')",
        "directory": "beat.mkdir()",
    }[kind]
    spin = "end = time.monotonic() + 2.5\nwhile time.monotonic() < end: pass\n"
    lay_out(tmp_path, f"{BEATS}{make}\n{spin}")
    code, _, _ = run(tmp_path, SUPERVISOR_HANG_TIMEOUT_S="1")
    assert code == 0


def test_a_script_that_ignores_its_stop_shows_its_stacks_before_it_is_killed(
    tmp_path: pathlib.Path,
) -> None:
    lay_out(
        tmp_path,
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def stubborn():\n    while True: time.sleep(60)\n"
        "print('ready', flush=True)\nstubborn()\n",
    )
    with start(tmp_path, SUPERVISOR_STOP_GRACE_S="0.5") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 137
    assert b"in stubborn" in err


def test_the_stop_signal_is_a_setting(tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path,
        "import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\nwhile True: signal.pause()\n",
    )
    with start(tmp_path, SUPERVISOR_STOP_SIGNAL="usr1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 7


def test_sigtstp_and_sigcont_suspend_and_resume_the_tree(tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path,
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'],"
        " start_new_session=True)\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "child.wait()\n",
    )

    def states() -> str:
        stats = [pathlib.Path(f"/proc/{pid}/stat").read_text() for pid in pids]
        return "".join(stat.rsplit(") ", 1)[1][0] for stat in stats)

    with start(tmp_path) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: states() == "TT", 10, "the tree was not suspended")
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: states() == "SS", 10, "the tree was not resumed")
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: states() == "TT", 10, "the tree was not suspended again")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143, "a suspended script can be stopped"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            (
                "import json, os, sys; path = os.environ['SUPERVISOR_ERROR_FILE'];"
                " json.dump({'message': 'no GPU left'}, open(path, 'w')); sys.exit(3)"
            ),
            "algo-1 chief: no GPU left; exit 3",
        ),
        ("open('../output/failure', 'w').write('my own words'); 1/0", "my own words"),
    ],
)
def test_the_scripts_own_words_win(tmp_path: pathlib.Path, script: str, words: str) -> None:
    lay_out(tmp_path, script)
    code, _, err = run(tmp_path)
    assert code in {1, 3}
    assert failure(tmp_path).splitlines()[0] == words
    assert words.rpartition(": ")[2].encode() in err


def test_a_storm_of_signals_loses_nothing(tmp_path: pathlib.Path) -> None:
    """Signals that are pending together have no order: the script leaves without looking back."""
    lay_out(
        tmp_path,
        "import os, signal\n"
        "for s in (signal.SIGUSR1, signal.SIGWINCH): signal.signal(s, lambda *_: None)\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(5))\n"
        "print('ready', flush=True)\nwhile True: signal.pause()\n",
    )
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(3000):
            process.send_signal(signal.SIGUSR1)
            process.send_signal(signal.SIGWINCH)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 5


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: pathlib.Path) -> None:
    lay_out(
        tmp_path,
        "import os, signal, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'],"
        " start_new_session=True)\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n",
    )
    mark = f"SAGEMAKER_BASE_DIR={tmp_path}"
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert len(processes_with(mark)) >= 3
        process.kill()
        process.wait(10)
        wait_until(lambda: not processes_with(mark), 15, "children outlived their supervisor")


def test_a_second_supervisor_in_the_same_place_touches_nothing(tmp_path: pathlib.Path) -> None:
    """It took the first one's records away, and its own failure stood beside that one's success."""
    lay_out(tmp_path, "import sys\nprint('ready', flush=True)\nsys.stdin = open('../go')\ninput()")
    os.mkfifo(tmp_path / "go")
    with start(tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"ready\n"
        for more in ({}, {"SUPERVISOR_STATUS_PORT": "http"}):
            second = subprocess.run(
                [*COMMAND, "train"],
                env=environment(SAGEMAKER_BASE_DIR=str(tmp_path), **more),
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert second.returncode == 81
            assert second.stdout == b""
            assert second.stderr.startswith(b"supervisor: another supervisor (pid "), second.stderr
            assert not (tmp_path / "output" / "failure").exists()
        with open(tmp_path / "go", "w") as go:
            go.write("\n")
        assert first.wait(60) == 0
    assert (tmp_path / "output" / "success").exists()
    assert run(tmp_path / "nowhere")[0] == 80, "what is not there cannot be taken"


def test_a_bad_contract_starts_nothing_and_says_all_of_it(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, "open('../model/started', 'w')")
    config = tmp_path / "input" / "config"
    (config / "resourceconfig.json").write_text('{"current_host": "algo-9", "hosts": ["algo-1"]}')
    code, out, err = run(tmp_path, SUPERVISOR_STOP_GRACE="5")
    assert code == 80
    assert out == b""
    lines = err.decode().splitlines()
    assert len(lines) == 2
    assert "current_host" in err.decode()
    assert "did you mean SUPERVISOR_STOP_GRACE_S?" in err.decode()
    assert "current_host" in failure(tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_bad_contract_takes_the_earlier_runs_result_away(tmp_path: pathlib.Path) -> None:
    """The success of the run before stood beside the new failure."""
    lay_out(tmp_path, "print('trained')")
    assert run(tmp_path)[0] == 0
    assert (tmp_path / "output" / "success").exists()
    assert run(tmp_path, SUPERVISOR_STATUS_PORT="http")[0] == 80
    assert "SUPERVISOR_STATUS_PORT" in failure(tmp_path)
    assert not (tmp_path / "output" / "success").exists()
    assert not (tmp_path / "output" / "supervisor" / "report.json").exists()


def test_an_error_of_our_own_has_a_code_and_a_failure_of_its_own(tmp_path: pathlib.Path) -> None:
    """Outside the life of the host it ended in 1, as a script's error does, and without a word."""
    lay_out(tmp_path, "print('trained')")
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 9 && exec "$@"', "sh", *COMMAND, "train"],
        env=environment(SAGEMAKER_BASE_DIR=str(tmp_path)),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 90
    assert failure(tmp_path).startswith("internal error of the supervisor: OSError(24, ")


def test_without_a_contract_nothing_is_made(tmp_path: pathlib.Path) -> None:
    code, _, err = run(tmp_path / "nowhere")
    assert code == 80
    assert b"sagemaker_program: found nothing" in err
    assert not (tmp_path / "nowhere").exists()


def test_the_command_train_is_the_same(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, "print('trained')")
    code = "import sys; from supervisor.__main__ import train; sys.exit(train())"
    done = subprocess.run(
        [COMMAND[0], "-P", "-c", code],
        env=environment(SAGEMAKER_BASE_DIR=str(tmp_path)),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"trained\n")


@pytest.mark.parametrize("verb", [("plan",), ("plan", "--json"), ("doctor", "--json")])
def test_what_could_not_be_printed_is_no_success(
    tmp_path: pathlib.Path, verb: tuple[str, ...]
) -> None:
    """A long one ended in a traceback, a short one in 0: it was lost when all was over."""
    lay_out(tmp_path, "print('trained')")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *verb],
            env=environment(SAGEMAKER_BASE_DIR=str(tmp_path)),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    said = f"supervisor {verb[0]}: not printed: No space left on device\n"
    assert done.stderr.decode() == said


def test_plan_prints_and_starts_nothing(tmp_path: pathlib.Path) -> None:
    secret = "geheim-geheim-geheim"
    lay_out(tmp_path, "open('../model/started', 'w')", {"lr": "0.1", "api_key": secret})
    code, out, _ = run(tmp_path, "plan", "--json", MY_TOKEN=secret, SUPERVISOR_TOKEN=secret)
    assert code == 0
    plan = json.loads(out)
    (process,) = plan["processes"]
    assert process["argv"][1:] == ["train.py", "--api_key", "******", "--lr", "0.1"]
    assert process["env"]["SM_HP_LR"] == "0.1"
    assert "SUPERVISOR_TOKEN" in process["removed_env"]
    assert plan["budgets"]["stop_limit_s"] == 120
    code, text, _ = run(tmp_path, "plan", MY_TOKEN=secret)
    assert code == 0
    assert b"SM_MODEL_DIR=" in text
    assert secret.encode() not in out + text
    assert sorted(os.listdir(tmp_path)) == ["code", "input"]


def test_an_image_on_a_desk_needs_no_platform(tmp_path: pathlib.Path) -> None:
    """Without ``resourceconfig.json`` or with empty files it was exit code 80."""
    lay_out(tmp_path, "import os; print(os.environ['SM_CURRENT_HOST'], os.environ['SM_HOSTS'])")
    config = tmp_path / "input" / "config"
    (config / "resourceconfig.json").unlink()
    (config / "hyperparameters.json").write_text("")
    (config / "inputdataconfig.json").write_text("\n")
    code, out, err = run(tmp_path, SAGEMAKER_PROGRAM="train.py")
    assert (code, out) == (0, b'localhost ["localhost"]\n')
    assert b"WARN" in err
    assert b"resourceconfig.json is missing, so this host is taken for the only one" in err


def test_two_names_at_one_address_are_named_with_it(tmp_path: pathlib.Path) -> None:
    """The second host failed with "port … is held", without a word of the address."""
    port = free_port()
    place = {"address": "127.0.0.1", "ports": {"status": port}}
    others = {"address": "localhost", "ports": {"status": port}}
    lay_out(tmp_path, "print('trained')", hosts=("algo-1", "algo-2"))
    overlay = tmp_path / "input" / "config" / "supervisorconfig.json"
    overlay.write_text(json.dumps({"hosts": {"algo-1": place, "algo-2": others}}))
    with socket.create_server(("127.0.0.1", port)):
        code, _, err = run(tmp_path, SUPERVISOR_ACK_TIMEOUT_S="0")
    assert code == 81
    assert b"; algo-2 and algo-1 are both at 127.0.0.1: correct the DNS" in err
