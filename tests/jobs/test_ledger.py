"""The ledger of real jobs against what their scripts have recorded: every moment in one account,
and goodput as a count of the steps has it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from supervisor.engines.local import free_ports
from tests.benchmarks.goodput import Mark, marks_in
from tests.helpers.job import Job
from tests.helpers.train import Train, lay_out, shell
from tests.helpers.tree import SCRIPTS
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

STEP_S, SAVE_EVERY, KILLS = 0.02, 25, 5


def trainer(directory: pathlib.Path, steps: int) -> list[str]:
    options = {
        "directory": directory, "port": free_ports(1)[0], "ranks": 2, "startup-s": 0.2,
        "step-s": STEP_S, "save-every": SAVE_EVERY, "steps": steps,
    }  # fmt: skip
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    return ["--hosts", "2", "--strategy", "mwms", str(SCRIPTS / "fake_trainer.py"), *words]


def marks(directory: pathlib.Path) -> list[Mark]:
    path = directory / "rank-0.jsonl"
    return marks_in(path.read_text()) if path.exists() else []


def reached(directory: pathlib.Path, step: int) -> int:
    """Waits for a step of rank 0; the pid of its process."""

    def seen() -> list[Mark]:
        return [each for each in marks(directory) if each.step >= step]

    found = wait_until(seen, 60)
    assert found
    return found[-1].pid


class Truth(NamedTuple):
    """What became of rank 0's time, in seconds, by its own record."""

    training: float
    done_again: float
    between: float
    """From a failure to the first step after it."""
    steps: int


def truth(found: list[Mark], mark: int = 0) -> Truth:
    """``mark``: how far runs before it have come."""
    training = again = between = 0.0
    last, new = Mark(found[0].at, 0, "start"), 0
    for each in found:
        if each.what != "step":
            continue
        since_s = each.at - last.at
        took_s = since_s if each.pid == last.pid else STEP_S
        between += since_s - took_s
        if each.step > mark:
            training, new, mark = training + took_s, new + 1, each.step
        else:
            again += took_s
        last = each
    return Truth(training, again, between, new)


def check(row: Mapping[str, Any], true: Truth, seconds: float) -> None:
    spent = row["seconds"]
    assert sum(spent.values()) == pytest.approx(row["wall_s"], abs=0.01)
    assert row["wall_s"] == pytest.approx(seconds, rel=0.01)
    assert row["steps"] == true.steps
    share = true.training / row["wall_s"]
    assert row["goodput"] == pytest.approx(share, abs=0.02), (spent, true)
    for account, told in (("training", true.training), ("done_again", true.done_again)):
        assert spent[account] == pytest.approx(told, abs=0.02 * seconds), (spent, true)


@pytest.mark.once
def test_a_job_that_is_killed_five_times_and_one_that_goes_on_from_it(
    tmp_path: pathlib.Path,
) -> None:
    run = tmp_path / "run"
    env = {"SUPERVISOR_RESTARTS": "3"}
    with Job(run, *trainer(tmp_path, 500), "--tell", **env) as job:
        for kill in range(1, KILLS + 1):
            os.kill(reached(tmp_path, kill * 70), signal.SIGKILL)  # some behind a checkpoint
        assert job.wait() == 0
    first = job.report("algo-1")
    found = marks(tmp_path)
    true = truth(found)
    assert true.done_again > KILLS * 5 * STEP_S, "or the test does not test it"
    ledger = first["ledger"]
    assert ledger["unit"] == "step"
    assert ledger["run"]["starts"] == KILLS + 1
    assert ledger["run"] == ledger["all"]
    check(ledger["run"], true, first["seconds"])
    spent = ledger["run"]["seconds"]
    between = spent["starting"] + spent["down"] + spent["waiting"]
    assert between == pytest.approx(true.between, abs=0.05 * first["seconds"] + 0.5)
    assert len(first["startups"]) == KILLS + 1
    way = first["startups"][0]
    assert way["down_s"] is None
    assert way["fetch_host"] in {"algo-1", "algo-2"}
    assert way["seconds"] == pytest.approx(
        way["fetch_s"] + way["join_s"] + way["first_step_s"], abs=0.01
    )
    assert len(re.findall(r"INFO training\.began", job.output)) == 1, "the master's, once"
    other = job.report("algo-2")
    assert other["ledger"]["run"]["goodput"] is None, "nothing of it says a step"
    assert other["ledger"]["run"]["wall_s"] == pytest.approx(other["seconds"], rel=0.01)
    assert all(row["fetch_s"] is None for row in first["startups"][1:])
    assert "goodput " in job.output
    assert "of new steps (500; " in job.output
    assert "of steps done again" in job.output

    with Job(run, *trainer(tmp_path, 600), "--tell", **env) as job:
        assert job.wait() == 0
    second = job.report("algo-1")
    later = truth(marks(tmp_path)[len(found) :], 500)
    check(second["ledger"]["run"], later, second["seconds"])
    assert later.steps == 100
    every = second["ledger"]["all"]
    assert (every["runs"], every["starts"], every["steps"]) == (2, KILLS + 2, 600)
    both = first["ledger"]["run"]["wall_s"] + second["ledger"]["run"]["wall_s"]
    assert every["wall_s"] == pytest.approx(both, rel=0.01)
    assert "all 2 runs: goodput" in job.output
    told = job.run_dir / "algo-1" / "checkpoints" / ".supervisor-ledger.json"
    assert '"runs": 2' in told.read_text(), "beside the checkpoints too"


def test_a_job_that_says_no_step_claims_no_goodput_and_says_nothing(
    tmp_path: pathlib.Path,
) -> None:
    lay_out(tmp_path, shell("echo hello; sleep 0.6; echo world"))
    with Train(tmp_path) as host:
        assert host.wait() == 0
    row = host.report["ledger"]["run"]
    assert (row["goodput"], row["steps"], row["starts"]) == (None, None, 1)
    assert row["seconds"]["starting"] > 0.6
    assert row["wall_s"] == pytest.approx(host.report["seconds"], rel=0.02)
    assert host.report["startups"] == []
    assert "training." not in host.err
    assert not (tmp_path / "checkpoints" / ".supervisor-ledger.json").exists(), "there are none"


SAVES = """
import json, os, pathlib, sys, time
place = pathlib.Path(os.environ["SUPERVISOR_CHECKPOINT_DIR"])
done = sorted(int(path.stem[5:]) for path in place.glob("step-*.json"))
first = done[-1] if done else 0
seen = sorted(os.listdir(place))
for step in range(first, first + 61):
    told = {"step": step, "at": time.time()}
    path = os.environ["SUPERVISOR_PROGRESS_FILE"]
    pathlib.Path(path + ".tmp").write_text(json.dumps(told))
    os.replace(path + ".tmp", path)
    if step == first + 40:
        (place / f"step-{step}.json.tmp").write_text("{}")
        (place / f"step-{step}.json.tmp").rename(place / f"step-{step}.json")
    time.sleep(0.02)
print("found", seen)
"""
"""Goes on from its last checkpoint and does 60 steps, of which it saves the 40th."""


def test_the_ledger_travels_with_the_checkpoints_and_is_none(tmp_path: pathlib.Path) -> None:
    """Another machine goes on from the place where they are kept, and knows what was done twice."""
    place = tmp_path / "kept"
    env: dict[str, Any] = {
        "SUPERVISOR_CHECKPOINT_S3_URI": str(place), "SUPERVISOR_CHECKPOINT_SETTLE_S": "30",
    }  # fmt: skip
    found, rows = [], []
    for number in range(3):
        base = tmp_path / f"machine-{number}"
        lay_out(base, SAVES)
        with Train(base, **env) as host:
            assert host.wait() == 0, host.err
        assert "not_resumed" not in host.err
        found.append(host.out)
        rows.append(host.report["ledger"])
        assert bool(host.report["resumed_from"]) == (number > 0)
    assert "found []" in found[0]
    assert "found ['.supervisor-ledger.json', 'step-40.json']" in found[1]
    assert [row["all"]["runs"] for row in rows] == [1, 2, 3]
    assert [row["run"]["steps"] for row in rows] == [60, 40, 40], "20 of each were done before"
    for row in rows[1:]:
        assert row["run"]["seconds"]["done_again"] == pytest.approx(0.4, abs=0.25)
    for manifest in (place / "manifests").iterdir():
        names = [each["path"] for each in json.loads(manifest.read_text()).get("files", [])]
        assert names != [".supervisor-ledger.json"], "it alone is no checkpoint"


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "null", "[" * 3000, "x" * 100_000])
def test_a_ledger_that_is_broken_is_passed_over(tmp_path: pathlib.Path, text: str) -> None:
    lay_out(tmp_path, SAVES)
    own = tmp_path / "output" / "supervisor" / "ledger.json"
    beside = tmp_path / "checkpoints" / ".supervisor-ledger.json"
    for path in (own, beside):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with Train(tmp_path, SUPERVISOR_LOG_LEVEL="debug") as host:
        assert host.wait() == 0
    assert f"{own} is passed over" in host.err
    row = host.report["ledger"]
    assert (row["all"]["runs"], row["run"]["steps"]) == (1, 60)
    assert '"runs": 1' in own.read_text()
    assert '"runs": 1' in beside.read_text()


@pytest.mark.parametrize("what", ["fifo", "link", "directory"])
def test_what_lies_in_the_place_of_a_ledger_holds_nothing_up(
    tmp_path: pathlib.Path, what: str
) -> None:
    lay_out(tmp_path, SAVES)
    path = tmp_path / "checkpoints" / ".supervisor-ledger.json"
    path.parent.mkdir()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to(tmp_path / "code" / "train.py")
    else:
        path.mkdir()
    with Train(tmp_path) as host:
        assert host.wait() == 0
    assert host.report["ledger"]["run"]["steps"] == 60
    assert (tmp_path / "code" / "train.py").read_text() == SAVES
