"""`supervisor report`: a past run, from what its hosts left."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest

from supervisor.engines.choosing import RUNS
from supervisor.verbs import attempts, report, runs
from tests.helpers.cluster import training
from tests.helpers.job import COMMAND, Job, environment

CAUSE = {
    "kind": "script_failed",
    "host": "algo-2",
    "process": "worker",
    "message": "KeyError: 'batch_size' (bug.py:5); exit 1 after 2.1 s",
    "detail": "",
}


def record(host: str, **more: Any) -> dict[str, Any]:
    return {
        "job": "mnist", "host": host, "master": "algo-1", "hosts": ["algo-1", "algo-2"],
        "strategy": "ps", "outcome": "failed", "exit_code": 84, "job_exit_code": 1,
        "cause": CAUSE, "tolerated": [], "also": [], "seconds": 75.0,
        "phases": [{"phase": "preparing", "at": 1_700_000_000.0, "seconds": 1.0}],
        "processes": [
            {"name": "worker", "exit": "exit 1", "stopped_by_us": False, "signal": None,
             "seconds": 2.1, "cpu_s": 1.0, "peak_rss_bytes": 1 << 20, "output_bytes": 5}
        ],
        "publish_error": None, "resumed_from": None, "unsent": [], "output": [],
        "timeline": [
            {"at": 1_700_000_001.5, "event": "member.joined", "host": "algo-2", "missing": 0},
            {"at": 1_700_000_002.5, "event": "phase.entered", "phase": "running"},
            {"at": 1_700_000_003.5, "event": "job.ending", "outcome": "failed",
             "cause": f"algo-2 worker: {CAUSE['message']}"},
        ],
    } | more  # fmt: skip


def attempt(number: int, began: float | None, **more: Any) -> dict[str, Any]:
    return {
        "attempt": number, "began_at": began, "prepared_s": 0.0, "ended_at": None, "cause": None,
        "kind": None, "scope": None, "progressed": None, "processes": [],
    } | more  # fmt: skip


def of_attempts(host: str, count: int, **more: Any) -> dict[str, Any]:
    """Of a job that was started anew after each attempt but the last."""
    killed = {**CAUSE, "message": "killed by SIGKILL after 5.0 s"}
    ends = {"cause": killed, "kind": "crash", "scope": "all", "progressed": True}
    began = 1_700_000_000.0
    rows = [
        attempt(n, began + 10 * n, ended_at=began + 10 * n + 5, prepared_s=0.3 * (n > 1), **ends)
        for n in range(1, count)
    ]
    last = began + 10 * count
    rows += [attempt(count, last, ended_at=last + 1, prepared_s=0.3 * (count > 1), cause=CAUSE)]
    return record(host, attempts=rows, restarts=count - 1, **more)


def lay_out(place: pathlib.Path, *reports: dict[str, Any]) -> None:
    """A run directory as `supervisor local` leaves it."""
    for host in ("algo-1", "algo-2"):
        config = place / host / "input" / "config"
        config.mkdir(parents=True)
        names = {"current_host": host, "hosts": ["algo-1", "algo-2"]}
        (config / "resourceconfig.json").write_text(json.dumps(names))
    for each in reports:
        own = place / each["host"] / "output" / "supervisor"
        own.mkdir(parents=True)
        (own / "report.json").write_text(json.dumps(each))


def shown(capsys: pytest.CaptureFixture[str], *words: Any, **more: Any) -> str:
    assert report.run(*(str(word) for word in words), **more) == 0
    return capsys.readouterr().out


def test_a_run_is_shown(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(tmp_path / "run", record("algo-1"), record("algo-2"))
    out = shown(capsys, tmp_path / "run")
    assert out.startswith("FAILED  algo-2 worker: KeyError: 'batch_size' (bug.py:5)\n")
    assert "mnist · 2 hosts, ps · began 2023-11-14 22:13:20 UTC · took 1 min 15 s" in out
    assert "exit code 1" in out
    (marked,) = [line for line in out.splitlines() if line.startswith("▶")]
    assert "algo-2" in marked
    assert "22:13:21.5  algo-1  algo-2 has joined, all hosts are here" in out
    assert out.count("KeyError") == 2, "each host tells the cause, and it is shown once"
    assert "the job has failed: as above" in out
    assert "running" not in out
    assert "running" in shown(capsys, tmp_path / "run", everything=True)


def test_training_and_the_ledger_are_told(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = training(runs=2)
    told = {key: seen[key] for key in ("progress", "ledger", "startups", "saves")}
    lay_out(tmp_path / "run", record("algo-1") | told, record("algo-2"))
    out = shown(capsys, tmp_path / "run")
    lines = out[out.index("\ntraining\n") :].splitlines()[2:8]
    assert [line.split(maxsplit=1)[0] for line in lines] == [
        "step", "goodput", "lost:", "all", "first", "a",
    ]  # fmt: skip
    assert "training\n" not in shown(capsys, tmp_path / "run" / "algo-2")


def test_a_host_and_a_file_are_reports_too(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path / "run", record("algo-2"))
    host = tmp_path / "run" / "algo-2"
    for place in (host, host / "output" / "supervisor" / "report.json"):
        assert shown(capsys, place).startswith("FAILED  algo-2 worker")
    assert "1 host left no report" not in shown(capsys, tmp_path / "run")


def test_what_was_lost_is_shown(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = record(
        "algo-1",
        unsent=[{"name": "model", "files": 3, "bytes": 9, "names": ["a", "b"]}],
        output=[{"name": "stdout", "unwritten_bytes": 0, "dropped_bytes": 2048,
                 "discarded_bytes": 0}],
        publish_error="model: 3 files could not be sent",
        also=[{**CAUSE, "host": "algo-1", "message": "UnavailableError"}],
        resumed_from="s3://b/c/000001",
    )  # fmt: skip
    lay_out(tmp_path / "run", lost)
    out = shown(capsys, tmp_path / "run")
    for word in (
        "algo-1 model: 3 files unsent a, b",
        "algo-1 stdout: 2.0 KiB dropped",
        "algo-1: model: 3 files could not be sent",
        "algo-1 worker: UnavailableError",
        "resumed from s3://b/c/000001",
    ):
        assert word in out


def test_attempts_are_told_where_there_was_more_than_one(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "3 restarts without progress (SUPERVISOR_RESTARTS=3)"
    job = of_attempts("algo-1", 2, restartable=True, not_restarted=reason)
    lay_out(tmp_path / "run", job, of_attempts("algo-2", 2))
    lines = shown(capsys, tmp_path / "run").splitlines()
    assert lines[2:4] == [f"not restarted: {reason}", "restartable: yes"]
    begin = lines.index("attempts (UTC)")
    first, second, after = lines[begin + 1 : begin + 4]
    assert first == (
        "  attempt 1: began 22:13:30, lasted 5.0 s; algo-2 worker: killed by SIGKILL after 5.0 s "
        "(crash); all scripts start anew"
    )
    assert second == (
        "  attempt 2: began 22:13:40, lasted 1.0 s, down for 0.3 s before; algo-2 worker: "
        "KeyError: 'batch_size' (bug.py:5)"
    )
    assert after == "", "the master's word, once"


def test_a_job_of_one_attempt_says_only_whether_to_start_it_again(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path / "run", of_attempts("algo-1", 1, restartable=False, not_restarted=""))
    out = shown(capsys, tmp_path / "run")
    assert "restartable: no\n" in out
    assert "attempt" not in out
    good = of_attempts("algo-2", 1, outcome="succeeded", restartable=False)
    lay_out(tmp_path / "good", good)
    assert "restartable" not in shown(capsys, tmp_path / "good")


def test_hosts_that_are_jobs_of_their_own_tell_of_their_own_attempts() -> None:
    hosts = {host: of_attempts(host, 2, master=host) for host in ("algo-1", "algo-2")}
    told = [line.partition(":")[0] for line in attempts.each(hosts)]
    assert told == ["algo-1 attempt 1", "algo-1 attempt 2", "algo-2 attempt 1", "algo-2 attempt 2"]


def test_the_end_of_a_local_job_tells_of_the_newest_restarts() -> None:
    told = list(attempts.summary({"algo-1": of_attempts("algo-1", 3)}))
    assert len(told) == 2
    assert told[0] == (
        "attempt 2: all scripts, after algo-2 worker: killed by SIGKILL after 5.0 s; down for 0.3 s"
    )
    many = list(attempts.summary({"algo-1": of_attempts("algo-1", 9, not_restarted="no")}))
    assert many[0] == "… and 3 more before these"
    assert [line.partition(":")[0] for line in many[1:]] == [
        *(f"attempt {n}" for n in range(5, 10)),
        "not restarted",
    ]
    assert not list(attempts.summary({"algo-1": of_attempts("algo-1", 1)}))


def test_whatever_a_file_says_is_text(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J[red]x[/red]\u202e"
    strange = record(
        "algo-1",
        job=evil,
        hosts=None,
        phases=[{"at": "never"}, 7],
        processes=[{"name": evil, "exit": evil, "seconds": evil}, "no row"],
        timeline=[{"at": 1.0, "event": evil, "x": evil}, {"at": None}],
        unsent=[{"names": None}],
        cause={"host": evil, "message": evil, "detail": evil},
        attempts=[
            {"attempt": evil, "began_at": 1e300, "ended_at": evil, "cause": {"message": evil}},
            7,
            {"scope": evil, "kind": evil, "cause": evil, "prepared_s": evil},
        ],
        not_restarted=evil,
        restartable=evil,
    )
    lay_out(tmp_path / "run", strange)
    out = shown(capsys, tmp_path / "run", everything=True)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[red]x[/red]" in out


@pytest.mark.parametrize("word", ["nothing", "run", None])
def test_where_there_is_none_it_is_said(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    word: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path / "run")
    assert report.run(word) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("supervisor report: ")


def test_the_newest_run_is_found(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.newest() is None
    for number, name in enumerate(("b", "a")):
        lay_out(tmp_path / RUNS / name)
        config = tmp_path / RUNS / name / "algo-1/input/config/resourceconfig.json"
        os.utime(config, ns=(number, number))
    (tmp_path / RUNS / "not a run").mkdir()
    assert runs.newest() == os.path.join(RUNS, "a")
    assert runs.read(str(tmp_path / RUNS / "not a run")) is None


def test_a_real_run_from_its_end(tmp_path: pathlib.Path) -> None:
    """What `supervisor local` names at its end shows the run."""
    script = tmp_path / "s.py"
    script.write_text("print(1/0)\n")
    with Job(tmp_path / "run", "--hosts", "2", "--strategy", "none", str(script)) as job:
        assert job.wait() == 1
    done = subprocess.run(
        [*COMMAND, "report", str(tmp_path / "run")],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    assert done.stdout.startswith("FAILED  algo-")
    assert "ZeroDivisionError" in done.stdout
    assert "timeline (UTC)" in done.stdout
