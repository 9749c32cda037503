"""What is seen of a script's training from outside, and what follows from it."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from tests.helpers import eventfiles
from tests.helpers.train import Train, lay_out

pytestmark = pytest.mark.twice

HEAD = """
import json, os, pathlib, signal, sys, time
checkpoints = pathlib.Path(os.environ["SUPERVISOR_CHECKPOINT_DIR"])
checkpoints.mkdir(parents=True, exist_ok=True)
progress = pathlib.Path(os.environ["SUPERVISOR_PROGRESS_FILE"])
def tell(**what):
    new = progress.with_suffix(".new")
    new.write_text(json.dumps(what))
    new.replace(progress)
"""
PRINTS = """
for step in range(1, 31):
    print(f"step {step}/40 loss {1 / step:.4f}", flush=True)
    time.sleep(0.05)
"""


def run(base: pathlib.Path, text: str, code: int = 0, **env: Any) -> Mapping[str, Any]:
    """The report of a host whose script this is."""
    lay_out(base, HEAD + text)
    with Train(base, **env) as train:
        assert train.wait() == code
        return train.report


def said(report: Mapping[str, Any], event: str) -> list[dict[str, Any]]:
    return [entry for entry in report["timeline"] if entry["event"] == event]


def test_a_script_that_prints(tmp_path: pathlib.Path) -> None:
    report = run(tmp_path, PRINTS)
    seen = report["progress"]
    assert (seen["unit"], seen["step"], seen["total"]) == ("step", 30, 40)
    assert (seen["source"], seen["where"], seen["loss"]) == ("output", "stdout", 0.0333)
    assert 10 < seen["rate"] < 30
    assert seen["left_s"] == pytest.approx(10 / seen["rate"])
    [began] = said(report, "training.began")
    assert (began["unit"], began["step"], began["source"]) == ("step", 1, "output, stdout")


def test_what_it_says_on_purpose_counts_before_what_is_found(tmp_path: pathlib.Path) -> None:
    report = run(
        tmp_path,
        "for step in range(1, 21):\n"
        "    tell(step=100 + step, total=200, loss=0.5, at=time.time())\n"
        "    print('step', step, flush=True)\n"
        "    time.sleep(0.06)\n",
    )
    seen = report["progress"]
    assert (seen["step"], seen["total"], seen["loss"]) == (120, 200, 0.5)
    assert (seen["source"], seen["where"]) == ("progress file", "")


def test_the_users_own_pattern_counts_alone(tmp_path: pathlib.Path) -> None:
    report = run(
        tmp_path,
        "for n in range(1, 21):\n"
        "    print('step', 1000 * n, flush=True)\n"
        "    print(f'<<{n} of 60, cost {n / 2}>>', flush=True)\n"
        "    time.sleep(0.05)\n",
        SUPERVISOR_PROGRESS_PATTERN=r"<<(?P<step>\d+) of (?P<total>\d+), cost (?P<loss>[\d.]+)>>",
    )
    seen = report["progress"]
    assert (seen["step"], seen["total"], seen["loss"]) == (20, 60, 10.0)


@pytest.mark.parametrize("place", ["output", "elsewhere"])
def test_a_script_that_only_writes_event_files(tmp_path: pathlib.Path, place: str) -> None:
    """Below the job's directories, or wherever it holds them open."""
    base = tmp_path / "base"
    base.mkdir()
    logs = base / "output" / "data" / "logs" if place == "output" else tmp_path / "elsewhere"
    # Events that were written before the attempt began do not count.
    records = [eventfiles.loss(2e9 + step, step, 1 / step).hex() for step in range(1, 41)]
    report = run(
        base,
        f"logs = pathlib.Path({str(logs)!r}); logs.mkdir(parents=True, exist_ok=True)\n"
        f"records = {records!r}\n"
        "with open(logs / 'events.out.tfevents.1.host', 'wb', buffering=0) as file:\n"
        "    for record in records:\n"
        "        file.write(bytes.fromhex(record)); time.sleep(0.06)\n",
    )
    seen = report["progress"]
    assert seen["source"] == "event files"
    assert seen["where"].endswith("logs" if place == "output" else "elsewhere")
    # What is closed cannot be found any more where only an open descriptor has shown it.
    assert seen["step"] == 40 if place == "output" else seen["step"] >= 15
    assert seen["loss"] == pytest.approx(1 / seen["step"])
    assert seen["rate"] == pytest.approx(1.0), "by the times of the events"


@pytest.mark.parametrize("stays", ["while True: pass", "time.sleep(1000)"])
def test_a_script_that_makes_no_more_steps_is_found(tmp_path: pathlib.Path, stays: str) -> None:
    """One that spins was never found by its CPU time."""
    report = run(
        tmp_path,
        "def stay():\n"
        f"    {stays}\n"
        "for step in range(1, 51):\n"
        "    tell(step=step)\n"
        "    time.sleep(0.02)\n"
        "stay()\n",
        88,
        SUPERVISOR_HANG_TIMEOUT_S="2",
    )
    cause = report["cause"]
    assert cause["message"].startswith("hung: no step after step 50 (progress file) for ")
    assert "in stay" in cause["detail"]


def test_a_script_that_says_so_itself_is_hung(tmp_path: pathlib.Path) -> None:
    report = run(
        tmp_path,
        "import socket\n"
        "with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:\n"
        "    link.sendto(b'WATCHDOG=trigger', os.environ['NOTIFY_SOCKET'].replace('@', '\\0', 1))\n"
        "time.sleep(1000)\n",
        88,
        SUPERVISOR_HANG_TIMEOUT_S="30",
    )
    assert report["cause"]["message"].startswith("hung: by its own word (WATCHDOG=trigger), no ")


@pytest.mark.parametrize("place", ["checkpoints", "pathlib.Path(os.environ['HOME'])"])
def test_a_save_that_goes_on_is_no_hang(tmp_path: pathlib.Path, place: str) -> None:
    """In the directory for it, or wherever the script holds a file of that kind open."""
    (home := tmp_path / "home").mkdir()
    report = run(
        tmp_path,
        "for step in range(1, 41):\n"
        "    print('step', step, flush=True)\n"
        "    time.sleep(0.02)\n"
        f"with open({place} / 'model.h5', 'wb', buffering=0) as file:\n"
        "    for _ in range(40):\n"
        "        file.write(b'x'); time.sleep(0.1)\n",
        SUPERVISOR_HANG_TIMEOUT_S="1",
        HOME=str(home),
    )
    assert report["progress"]["step"] == 40


NAN = """
for step in range(1, 41):
    print(f"step {step} loss {'nan' if step > 10 else 0.5}", flush=True)
    time.sleep(0.05)
"""


def test_a_loss_that_is_no_number_is_said_once(tmp_path: pathlib.Path) -> None:
    report = run(tmp_path, NAN)
    [diverged] = said(report, "training.diverged")
    assert (diverged["loss"], diverged["source"]) == ("nan", "output, stdout")
    assert 10 < diverged["step"] <= 40
    assert report["progress"]["loss"] == "nan"


def test_it_ends_the_job_where_that_is_wanted_and_is_not_tried_again(
    tmp_path: pathlib.Path,
) -> None:
    endless = NAN + "time.sleep(1000)\n"
    env = {"SUPERVISOR_END_ON_NAN": "true", "SUPERVISOR_RESTARTS": "3"}
    report = run(tmp_path, endless, 91, **env)
    assert report["cause"]["kind"] == "diverged"
    assert report["cause"]["message"].startswith("the loss is nan at step ")
    assert (report["restarts"], report["restartable"]) == (0, False)


@pytest.mark.parametrize(("first", "warned"), [(1, True), (400, False), (401, False)])
def test_a_script_that_does_not_go_on_from_its_checkpoint(
    tmp_path: pathlib.Path, first: int, warned: bool
) -> None:
    saved = tmp_path / "checkpoints"
    saved.mkdir()
    (saved / "model.step-400.ckpt").write_text("weights")
    report = run(
        tmp_path,
        f"for step in range({first}, {first} + 20):\n"
        "    print('step', step, flush=True)\n"
        "    time.sleep(0.03)\n",
    )
    found = said(report, "training.not_resumed")
    assert bool(found) == warned
    if warned:
        [entry] = found
        assert (entry["step"], entry["saved"]) == (1, 400)
        assert entry["path"].endswith("checkpoints/model.step-400.ckpt")


SAVES = """
def save(step, seconds):
    new = checkpoints / f"model.step-{step}.ckpt.tmp"
    with open(new, "wb", buffering=0) as file:
        file.write(b"x"); time.sleep(seconds); file.write(b"x")
    new.rename(checkpoints / f"model.step-{step}.ckpt")
"""


def test_a_save_that_is_longer_than_what_a_stop_leaves(tmp_path: pathlib.Path) -> None:
    report = run(
        tmp_path,
        SAVES + "save(10, 1.0); time.sleep(1.2); save(20, 1.0); time.sleep(1.2)\n",
        SUPERVISOR_STOP_GRACE_S="0.8",
    )
    [warned] = said(report, "training.save_too_long")
    assert (warned["save_s"], warned["grace_s"]) == (pytest.approx(1.0, abs=0.15), 0.8)
    assert report["progress"]["source"] == "checkpoints"
    assert report["progress"]["step"] == 20


def test_how_often_to_save_is_said_once_something_has_failed(tmp_path: pathlib.Path) -> None:
    enough = tmp_path / "enough"
    lay_out(
        tmp_path,
        HEAD
        + SAVES
        + "again = os.environ['SUPERVISOR_ATTEMPT'] != '1'\n"
        + "step = 100 * again\n"
        + f"while not pathlib.Path({str(enough)!r}).exists():\n"
        + "    step += 1; save(step, 0.02)\n"
        + "    time.sleep(1.1 if again else 0.1)\n"
        + "    if step == 5: os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    with Train(tmp_path, SUPERVISOR_RESTARTS="2") as train:
        train.wait_for("training.save_interval")
        enough.touch()
        assert train.wait() == 0
        [advice] = said(train.report, "training.save_interval")
    assert advice["failures"] == 1
    assert advice["every_s"] >= 1.1
    assert 0.1 < advice["best_s"] < advice["every_s"]


def test_the_report_is_json_for_everybody(tmp_path: pathlib.Path) -> None:
    """NaN is none."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    run(tmp_path, NAN)
    text = (tmp_path / "output/supervisor/report.json").read_text()
    json.loads(text, parse_constant=refuse)
