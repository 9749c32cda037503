"""Jobs that go on: what fails starts anew in place, on real hosts with real signals, or does not
and says why."""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
import signal
import time
from typing import Any

import pytest

from tests.helpers.job import Job
from tests.helpers.train import Script, Train, lay_out, shell
from tests.helpers.tree import SCRIPTS

ALL = "SUPERVISOR_TEST_ALL"
"""Set in the environment: a hundred moments of a restart, which takes minutes."""
HOSTS = ("algo-1", "algo-2", "algo-3")
AGAIN = str(SCRIPTS / "again.py")

# --------------------------------------------------------------------------- one host


def run(base: pathlib.Path, script: str | Script, *, code: int, **env: str) -> Train:
    """A job of one host to its end, with its exit code."""
    lay_out(base, script)
    settings: Any = {"SUPERVISOR_RESTARTS": "3"} | env
    with Train(base, **settings) as host:
        assert host.wait() == code, host.err
    return host


SAVING = """
import json, os, signal, sys
attempt = int(os.environ["SUPERVISOR_ATTEMPT"])
with open("seen.jsonl", "a") as file:
    told = {name: value for name, value in os.environ.items() if name.startswith("SUPERVISOR_")}
    file.write(json.dumps(told) + "\\n")
where = os.path.join(os.environ["SUPERVISOR_CHECKPOINT_DIR"], f"ckpt-{attempt}.json")
with open(where + ".tmp", "w") as file:
    file.write("{}")
os.rename(where + ".tmp", where)
if attempt < 7:
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Saves in each attempt, and is killed in the first six."""


def test_a_script_that_saves_is_started_anew_as_often_as_it_is_killed(
    tmp_path: pathlib.Path,
) -> None:
    host = run(tmp_path, SAVING, code=0)
    seen = (tmp_path / "code" / "seen.jsonl").read_text()
    told = [json.loads(line) for line in seen.splitlines()]
    assert [each["SUPERVISOR_ATTEMPT"] for each in told] == [str(n) for n in range(1, 8)]
    checkpoints = tmp_path / "checkpoints"
    assert "SUPERVISOR_LAST_CAUSE" not in told[0]
    assert told[1]["SUPERVISOR_LAST_CAUSE"].startswith("algo-1 chief: killed by SIGKILL after")
    assert told[6]["SUPERVISOR_RESUMED_FROM"] == str(checkpoints / "ckpt-6.json")
    assert len(re.findall("attempt.restarted", host.err)) == 6, "one line for each"
    rows = host.report["attempts"]
    assert [row["attempt"] for row in rows] == list(range(1, 8))
    assert {row["kind"] for row in rows[:-1]} == {"crash"}
    assert all(row["progressed"] for row in rows[:-1])
    assert rows[-1]["cause"]["kind"] == "finished"


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("import missing_module\n", 1, "ModuleNotFoundError (train.py:1) would happen again"),
        ("def broken(:\n", 1, "SyntaxError (train.py:1) would happen again"),
        (
            "import argparse\nargparse.ArgumentParser().parse_args(['--wrong'])\n",
            2,
            "usage error would happen again",
        ),
        (shell("exec /nowhere/train"), 127, "exit 127 would happen again"),
    ],
    ids=["import error", "syntax error", "wrong argument", "no such command"],
)
def test_what_would_fail_again_ends_at_once_with_the_users_code(
    script: str | Script, code: int, reason: str, tmp_path: pathlib.Path
) -> None:
    host = run(tmp_path, script, code=code)
    assert f"not restarted: {reason}" in host.failure
    report = host.report
    assert (report["not_restarted"], report["restartable"]) == (reason, False)
    assert len(report["attempts"]) == 1


def test_the_same_error_twice_without_progress_ends_the_job(tmp_path: pathlib.Path) -> None:
    host = run(tmp_path, "\n\nraise ValueError(open('/proc/self/stat').read())\n", code=1)
    assert len(host.report["attempts"]) == 2
    assert (
        "not restarted: the same error twice, no progress between (train.py:3)" in host.failure
    ), "though its message is another one each time"


def test_a_rule_of_the_user_starts_anew_or_stops(tmp_path: pathlib.Path) -> None:
    rules = json.dumps({"restart": [75], "stop": ["loss is NaN"]})
    text = 'if [ "$SUPERVISOR_ATTEMPT" = 3 ]; then echo "loss is NaN" >&2; exit 76; fi; exit 75'
    host = run(tmp_path, shell(text), code=76, SUPERVISOR_RESTART_RULES=rules)
    assert "not restarted: SUPERVISOR_RESTART_RULES says stop" in host.failure
    assert len(host.report["attempts"]) == 3


@pytest.mark.twice
def test_a_code_of_its_own_tells_the_platform_to_start_the_job_again(
    tmp_path: pathlib.Path,
) -> None:
    kill = shell("kill -9 $$")
    host = run(tmp_path, kill, code=75, SUPERVISOR_RESTARTABLE_EXIT_CODE="75")
    assert "3 restarts without progress (SUPERVISOR_RESTARTS=3)" in host.failure
    assert host.report["restartable"] is True


@pytest.mark.twice
def test_a_log_file_goes_on_over_attempts(tmp_path: pathlib.Path) -> None:
    host = run(tmp_path, SAVING, code=0, SUPERVISOR_LOG_FILES="true")
    text = host.log_file().read_text()
    assert [int(n) for n in re.findall(r"attempt (\d+), ", text)] == list(range(2, 8))
    assert host.output_row("chief.log")


# --------------------------------------------------------------------------- three hosts


def attempts_of(job: Job, host: str) -> list[int]:
    return [int(n) for n in re.findall(rf"{host} \w+ │ begins attempt (\d+)", job.output)]


@pytest.mark.twice
def test_all_scripts_start_anew_where_they_depend_on_each_other(tmp_path: pathlib.Path) -> None:
    with Job(tmp_path / "run", "--strategy", "mwms", AGAIN, SUPERVISOR_RESTARTS="1") as job:
        assert job.wait() == 0
    for host in HOSTS:
        assert attempts_of(job, host) == [1, 2, 3, 4]
        report = job.report(host)
        assert [row["attempt"] for row in report["attempts"]] == [1, 2, 3, 4]
        assert report["attempts"][0]["cause"]["host"] == "algo-2"


@pytest.mark.twice
def test_hosts_without_a_distribution_start_anew_alone(tmp_path: pathlib.Path) -> None:
    with Job(tmp_path / "run", "--strategy", "none", AGAIN, SUPERVISOR_RESTARTS="1") as job:
        assert job.wait() == 0
    assert attempts_of(job, "algo-1") == attempts_of(job, "algo-3") == [1]
    assert attempts_of(job, "algo-2") == [1, 2, 3, 4]


@pytest.mark.twice
def test_a_failure_of_another_host_is_told_with_the_reason(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import os, signal\n"
        "if os.environ['SM_CURRENT_HOST'] == 'algo-3':\n    import missing_module\n"
        "signal.pause()\n"
    )
    with Job(tmp_path / "run", "--strategy", "mwms", str(script), SUPERVISOR_RESTARTS="3") as job:
        assert job.wait() == 1
    for host in HOSTS:
        report = job.report(host)
        assert report["not_restarted"] == "ModuleNotFoundError (train.py:3) would happen again"
        assert report["restartable"] is False


@pytest.mark.once
def test_a_stop_at_any_moment_of_a_restart_ends_in_order(tmp_path: pathlib.Path) -> None:
    """A job that does nothing but start anew, stopped through any of its hosts."""
    seed = 14
    dice = random.Random(seed)  # moments
    for number in range(100 if ALL in os.environ else 4):
        run_dir = tmp_path / f"run-{number}"
        again = ("--strategy", dice.choice(["mwms", "none"]), AGAIN, "for ever")
        with Job(run_dir, *again, SUPERVISOR_RESTARTS="1") as job:
            job.wait_for(r"attempt\.restarted: attempt [23]\b")
            pid = job.supervisors(*HOSTS)[dice.choice(HOSTS)]
            time.sleep(dice.uniform(0.0, 0.3))
            began = time.monotonic()
            os.kill(pid, signal.SIGTERM)
            job.wait(30)
            assert time.monotonic() - began < 20
        for host in HOSTS:
            report = job.report(host)
            assert report["outcome"] == "stopped", (number, host, report["cause"])
            assert report["cause"]["message"] == "received SIGTERM"
            events = [entry["event"] for entry in report["timeline"]]
            ending = events.index("job.ending")
            assert "process.started" not in events[ending:], (number, host)
            assert all(row["ended_at"] for row in report["attempts"])


RESTORING = """
import os, pathlib, signal, time
host, attempt = os.environ["SM_CURRENT_HOST"], int(os.environ["SUPERVISOR_ATTEMPT"])
own = pathlib.Path(os.environ["SUPERVISOR_CHECKPOINT_DIR"])
print(f"begins attempt {attempt} with {sorted(path.name for path in own.iterdir())}", flush=True)
(own.parent / f"begun-{attempt}").touch()
others = [own.parent.parent / f"algo-{number}" / f"begun-{attempt}" for number in (1, 2, 3)]
saved = own.parent.parent / "algo-1" / "checkpoints" / f"ckpt-{attempt}.json"
if attempt == 3:
    raise SystemExit(0)
if host == "algo-1":
    saved.with_suffix(".tmp").write_text("{}")
    saved.with_suffix(".tmp").rename(saved)
if host == "algo-2":
    while not all(path.exists() for path in (saved, *others)):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""


@pytest.mark.twice
def test_hosts_that_restore_each_for_themselves_go_on_from_one_checkpoint(
    tmp_path: pathlib.Path,
) -> None:
    """The first host's script saves, and another one is killed at once: what was saved is sent, and
    all others have it before they begin again."""
    script = tmp_path / "train.py"
    script.write_text(RESTORING)
    options = ("--strategy", "mwms", "--checkpoints", str(tmp_path / "place"), str(script))
    with Job(tmp_path / "run", *options, SUPERVISOR_RESTARTS="1") as job:
        assert job.wait(120) == 0
    for host in HOSTS:
        begun = dict(re.findall(rf"{host} worker │ begins attempt (\d) with (.*)", job.output))
        assert begun["1"] == "[]"
        assert begun["2"] == "['ckpt-1.json']"
        assert begun["3"] == "['ckpt-1.json', 'ckpt-2.json']"
