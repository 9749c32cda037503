"""Whole jobs of one host with places to fetch from and to keep things at. On plain directories,
which go every way that S3 goes but the last; that one is tested with real servers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import signal
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest

from supervisor.storage.snapshot import LEDGER
from tests.helpers.aio import free_port
from tests.helpers.faults import fault_proxy, s3_error
from tests.helpers.train import Script, Train, lay_out, shell
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

QUICK: dict[str, Any] = {"SUPERVISOR_CHECKPOINT_SETTLE_S": "0.2", "SUPERVISOR_SYNC_RESCAN_S": "1"}
COUNTING = Script(
    "train.py",
    """
import os, signal, sys, time
place = os.environ["SUPERVISOR_CHECKPOINT_DIR"]
path = os.path.join(place, "step")
step = int(open(path).read()) if os.path.exists(path) else 0
print("from", step, os.environ.get("SUPERVISOR_RESUMED_FROM", "nothing"), flush=True)
def save(*_):
    with open(path + ".tmp", "w") as file:
        file.write(str(step))
    os.replace(path + ".tmp", path)
    print("saved", step, flush=True)
def stop(*_):
    save()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
last = step + 3
while step < last:
    step += 1
    save()
    time.sleep(0.05)
print("idle", flush=True)
while True:
    time.sleep(60)
""",
)


def manifests(place: pathlib.Path) -> list[str]:
    """Claims are none; and one may be half written."""
    found = (place / "manifests").glob("[!.]*")
    return sorted(path.name for path in found if b'"version":1,' in path.read_bytes()[:20])


def newest(place: pathlib.Path) -> dict[str, bytes]:
    """The files of the newest complete checkpoint, as its manifest says; the ledger is none."""
    document = json.loads((place / "manifests" / manifests(place)[-1]).read_text())
    return {
        file["path"]: (place / file["key"]).read_bytes()
        for file in document["files"]
        if file["path"] != LEDGER
    }


def archive(path: pathlib.Path, files: Mapping[str, str]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))


def rows(train: Train, key: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = train.report[key]
    return found


def test_what_a_script_saves_at_once_is_not_what_it_went_on_from(tmp_path: pathlib.Path) -> None:
    """A shell saves two milliseconds after its start. A busy supervisor looked at the clock later,
    and the clock that files get their times from is behind the other one besides."""
    lay_out(tmp_path, shell(': >"$SUPERVISOR_CHECKPOINT_DIR/step-2.npy"; exec sleep 1'))
    found = tmp_path / "checkpoints" / "step-1.npy"
    found.parent.mkdir()
    found.write_bytes(b"")
    with Train(tmp_path, SUPERVISOR_CHECKPOINT_DIR=str(found.parent)) as train:
        assert train.wait() == 0
    assert train.report["resumed_from"] == str(found)


def test_a_stopped_job_goes_on_from_its_checkpoint_on_another_disk(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "kept"
    first, second = tmp_path / "first", tmp_path / "second"
    for base in (first, second):
        base.mkdir()
        lay_out(base, COUNTING)
    env: dict[str, Any] = {**QUICK, "SUPERVISOR_CHECKPOINT_S3_URI": str(place)}
    with Train(first, **env) as train:
        train.wait_for("from 0 nothing")
        train.wait_for("idle")
        wait_until(lambda: manifests(place) and newest(place) == {"step": b"3"}, 40)
        assert train.stop() == 0
    assert rows(train, "unsent") == []
    last = manifests(place)[-1]
    with Train(second, **env) as train:
        origin = train.wait_for(r"from 3 (file://\S+)")[1]
        assert origin == f"file://{place}/manifests/{last}"
        train.wait_for("idle")
        assert train.stop() == 0
    assert newest(place) == {"step": b"6"}, "what was saved last is sent before the end"


def test_a_killed_supervisor_leaves_a_whole_checkpoint(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "kept"
    env: dict[str, Any] = {**QUICK, "SUPERVISOR_CHECKPOINT_S3_URI": f"file://{place}"}
    base = tmp_path / "a"
    base.mkdir()
    lay_out(base, COUNTING)
    with Train(base, **env) as train:
        wait_until(lambda: manifests(place), 40)
        os.kill(train.supervisor(), signal.SIGKILL)
        wait_until(lambda: not train.survivors(), 10, "something outlived the supervisor")
    assert int(newest(place)["step"]) in {1, 2, 3}


SAVING = Script(
    "train.py",
    """
import os, pathlib, time
place = pathlib.Path(os.environ["SUPERVISOR_CHECKPOINT_DIR"])
step = int((place / "step").read_text()) if (place / "step").exists() else 0
print("from", step, flush=True)
while True:
    step += 1
    (place / "step.tmp").write_text(str(step))
    (place / "step.tmp").rename(place / "step")
    time.sleep(0.3)
""",
)


def test_of_two_runs_at_one_place_the_older_ends_and_the_newer_goes_on(
    tmp_path: pathlib.Path,
) -> None:
    place = tmp_path / "kept"
    bases = tmp_path / "older", tmp_path / "newer"
    for base in bases:
        base.mkdir()
        lay_out(base, SAVING, hyper={"sagemaker_job_name": base.name})
    env: dict[str, Any] = {
        **QUICK,
        "SUPERVISOR_CHECKPOINT_S3_URI": str(place),
        "SUPERVISOR_RESTARTS": "3",
        "SUPERVISOR_RESTARTABLE_EXIT_CODE": "75",
    }
    with Train(bases[0], **env) as older:
        wait_until(lambda: len(manifests(place)) > 1, 40)
        with Train(bases[1], **env) as newer:
            began = int(newer.wait_for(r"from (\d+)")[1])
            assert began > 0
            assert older.wait() == 89
            before = len(manifests(place))
            assert all(name.startswith("000001") for name in manifests(place)[: before // 2])
            wait_until(lambda: len(manifests(place)) > before + 2, 40)
            assert newer.stop() == 143
    whose = f"fenced: the checkpoints at file://{place} belong to another run now (algo-1"
    assert f"{whose} of job newer, since 20" in older.failure
    assert "epoch 2; this one has epoch 1): what this one saves there would" in older.failure
    report = older.report
    assert (report["outcome"], report["cause"]["kind"]) == ("failed", "fenced")
    assert (report["exit_code"], report["restartable"], report["restarts"]) == (89, False, 0)
    assert newer.report["cause"]["kind"] == "stop_requested"
    assert rows(newer, "unsent") == []
    assert int(newest(place)["step"]) > began
    epochs = [name[:6] for name in manifests(place)]
    assert epochs == sorted(epochs)
    assert set(epochs) == {"000001", "000002"}


@pytest.mark.parametrize("policy", ["end", "warn"])
def test_a_run_that_is_refused_at_its_last_checkpoint_says_so(
    tmp_path: pathlib.Path, policy: str
) -> None:
    """Results are sent as they are; the code is that of the older one."""
    place, kept = tmp_path / "kept", tmp_path / "model"
    bases = tmp_path / "older", tmp_path / "newer"
    for base in bases:
        base.mkdir()
        lay_out(base, shell('echo 0 >"$SUPERVISOR_CHECKPOINT_DIR/first"; '
                            "while [ ! -e go ]; do sleep 0.02; done; "
                            'echo 1 >"$SUPERVISOR_CHECKPOINT_DIR/step"; '
                            'echo m >"$SM_MODEL_DIR/m"'))  # fmt: skip
    env: dict[str, Any] = {
        "SUPERVISOR_CHECKPOINT_SETTLE_S": "2",  # longer than the script has left then
        "SUPERVISOR_CHECKPOINT_S3_URI": str(place),
        "SUPERVISOR_STORAGE_POLICY": f"checkpoints={policy}",
        "SUPERVISOR_MODEL_S3_URI": str(kept),
    }
    with Train(bases[0], **env) as older:
        older.wait_for("checkpoint.saved")  # else it may see the newer's claim as it begins
        with Train(bases[1], **env) as newer:
            newer.wait_for("storage.started")
            (bases[0] / "code" / "go").touch()
            assert older.wait() == 89
            (bases[1] / "code" / "go").touch()
            assert newer.wait() == 0
    assert "fenced: the checkpoints at" in older.failure
    assert older.report["outcome"] == "succeeded"
    (left,) = rows(older, "unsent")
    assert left["transfer"] == "checkpoints"
    assert left["names"][-1] == "step"
    assert (kept / "m").exists()
    epochs = [name[:6] for name in manifests(place)]
    assert epochs == ["000001", "000002"]


def test_a_supervisor_started_anew_takes_over_at_once(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "kept"
    env: dict[str, Any] = {**QUICK, "SUPERVISOR_CHECKPOINT_S3_URI": f"file://{place}"}
    base = tmp_path / "a"
    base.mkdir()
    lay_out(base, SAVING)
    with Train(base, **env) as train:
        wait_until(lambda: manifests(place), 40)
        os.kill(train.supervisor(), signal.SIGKILL)
        wait_until(lambda: not train.survivors(), 10, "something outlived the supervisor")
    with Train(base, **env) as train:
        wait_until(lambda: manifests(place)[-1].startswith("000002"), 40)
        assert train.stop() == 143
    assert rows(train, "unsent") == []


def test_a_place_that_cannot_be_written_is_restored_from_and_said(tmp_path: pathlib.Path) -> None:
    base, place = tmp_path / "a", tmp_path / "place"
    base.mkdir()
    place.mkdir()
    (place / "weights.h5").write_text("w")
    (place / "manifests").write_text("in the way")
    lay_out(base, shell('cat "$SUPERVISOR_CHECKPOINT_DIR/weights.h5"'))
    with Train(base, **QUICK, SUPERVISOR_CHECKPOINT_S3_URI=str(place)) as train:
        code = train.wait()
    assert code == 87, "the policy of checkpoints"
    assert len(re.findall(r"checkpoints: file://\S+ is not claimed: ", train.err)) == 1


def test_code_channels_and_model_come_from_and_go_to_places(tmp_path: pathlib.Path) -> None:
    """The source brings its own requirements: the plan is made again when it is here."""
    base, data, kept = tmp_path / "base", tmp_path / "data", tmp_path / "kept"
    base.mkdir()
    (data / "deep").mkdir(parents=True)
    (data / "a.txt").write_text("a")
    (data / "deep" / "b.txt").write_text("b")
    code = """
import os, pathlib, helper
channel = pathlib.Path(os.environ["SM_CHANNEL_TRAIN"])
print(sorted(str(p.relative_to(channel)) for p in channel.rglob("*.txt")), helper.WORD)
for name, where in (("SM_MODEL_DIR", "1/model.txt"), ("SM_OUTPUT_DATA_DIR", "metrics.json")):
    path = pathlib.Path(os.environ[name], where)
    path.parent.mkdir(exist_ok=True)
    path.write_text(name)
"""
    archive(
        tmp_path / "source.tar.gz",
        {"train.py": code, "helper.py": "WORD = 'helped'\n", "requirements.txt": "pip>=1\n"},
    )
    source = f"file://{tmp_path}/source.tar.gz"
    lay_out(base, "", {"sagemaker_submit_directory": source})
    (base / "code" / "train.py").unlink()
    env: dict[str, Any] = {
        "SUPERVISOR_CHANNEL_TRAIN": str(data),
        "SUPERVISOR_MODEL_S3_URI": f"{kept}/model",
        "SUPERVISOR_OUTPUT_S3_URI": f"{kept}/output",
        "SUPERVISOR_MODEL_CHECK": "off",
    }
    with Train(base, **env) as train:
        assert train.wait() == 0, train.err
    assert train.out == "['a.txt', 'deep/b.txt'] helped\n"
    names = {row["name"] for row in rows(train, "processes")}
    assert names == {"fetch", "requirements", "chief"}
    assert (kept / "model" / "1" / "model.txt").read_text() == "SM_MODEL_DIR"
    assert (kept / "output" / "metrics.json").read_text() == "SM_OUTPUT_DATA_DIR"


def test_a_failed_job_keeps_its_checkpoint_and_sends_no_model(tmp_path: pathlib.Path) -> None:
    base, kept = tmp_path / "base", tmp_path / "kept"
    base.mkdir()
    lay_out(
        base, shell('echo 1 > "$SUPERVISOR_CHECKPOINT_DIR/w"; echo 2 > "$SM_MODEL_DIR/m"; exit 3')
    )
    env: dict[str, Any] = {
        "SUPERVISOR_CHECKPOINT_S3_URI": f"{kept}/ckpt",
        "SUPERVISOR_MODEL_S3_URI": f"{kept}/model",
    }
    with Train(base, **env) as train:
        assert train.wait() == 3
    assert newest(kept / "ckpt") == {"w": b"1\n"}
    assert not (kept / "model").exists()


def test_a_source_that_is_not_there_is_said_in_one_line(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, "", {"sagemaker_submit_directory": f"file://{tmp_path}/no.tar.gz"})
    (tmp_path / "code" / "train.py").unlink()
    with Train(tmp_path) as train:
        assert train.wait() == 81
    first = train.failure.splitlines()[0]
    assert f"{tmp_path}/no.tar.gz" in first
    assert "Traceback" not in train.failure


def test_a_source_without_the_program_is_the_contracts_fault(tmp_path: pathlib.Path) -> None:
    archive(tmp_path / "source.tar.gz", {"other.py": ""})
    lay_out(tmp_path, "", {"sagemaker_submit_directory": f"{tmp_path}/source.tar.gz"})
    (tmp_path / "code" / "train.py").unlink()
    with Train(tmp_path) as train:
        assert train.wait() == 81
    assert "sagemaker_program: found 'train.py'" in train.failure


@pytest.mark.parametrize("answers", [True, False])
def test_the_script_is_told_the_region_of_the_bucket(tmp_path: pathlib.Path, answers: bool) -> None:
    hyper = {"model_dir": "s3://bucket/models", "sagemaker_region": "us-east-2"}
    lay_out(tmp_path, shell('echo "reads from $S3_REGION"'), hyper)
    refusal = s3_error(403, "AccessDenied", headers="x-amz-bucket-region: eu-west-3\r\n")
    with fault_proxy(free_port(), seed=1) as proxy:  # nobody is behind it
        proxy.faults.answer = lambda _: refusal if answers else s3_error(403, "AccessDenied")
        env: dict[str, Any] = {
            "SUPERVISOR_MODEL_DIR_MIRROR": "off",
            "SUPERVISOR_S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "hush",
        }
        with Train(tmp_path, **env) as train:
            assert train.wait() == 0
    assert train.out == f"reads from {'eu-west-3' if answers else 'us-east-2'}\n"
    assert ("needs s3:ListBucket" in train.err) != answers


def test_results_that_cannot_be_sent_fail_the_job_and_are_named(tmp_path: pathlib.Path) -> None:
    base, wall = tmp_path / "base", tmp_path / "wall"
    base.mkdir()
    wall.write_text("a file, where a directory would have to be")
    lay_out(base, shell('echo 2 > "$SM_MODEL_DIR/weights"'))
    env: dict[str, Any] = {
        "SUPERVISOR_MODEL_S3_URI": f"{wall}/model",
        "SUPERVISOR_MODEL_CHECK": "off",
    }
    with Train(base, SUPERVISOR_PUBLISH_TIMEOUT_S="15", **env) as train:
        assert train.wait() == 87
    (unsent,) = rows(train, "unsent")
    assert (unsent["transfer"], unsent["files"], unsent["names"]) == ("model", 1, ["weights"])
    assert "weights" in train.failure
    (base / "code" / "run.sh").chmod(0o755)
    with Train(base, SUPERVISOR_STORAGE_POLICY="model=warn", **env) as train:
        assert train.wait() == 0, "the policy says so"
    assert "storage.unsent" in train.err


def test_a_transfer_that_the_job_needs_ends_it(tmp_path: pathlib.Path) -> None:
    base, wall = tmp_path / "base", tmp_path / "wall"
    base.mkdir()
    wall.write_text("")
    lay_out(base, COUNTING)
    env: dict[str, Any] = {
        **QUICK,
        "SUPERVISOR_CHECKPOINT_S3_URI": f"{wall}/x",
        "SUPERVISOR_RESTORE": "never",
        "SUPERVISOR_STORAGE_POLICY": "checkpoints=fail",
    }
    with Train(base, **env) as train:
        assert train.wait() == 87
    assert str(wall) in train.failure


@pytest.mark.parametrize("limit_s", ["12"])
def test_after_a_stop_what_does_not_fit_into_the_budget_is_named(
    tmp_path: pathlib.Path, limit_s: str
) -> None:
    base, kept = tmp_path / "base", tmp_path / "kept"
    base.mkdir()
    size = 64 << 20
    lay_out(
        base,
        shell(
            f"trap 'head -c {size} /dev/zero > \"$SUPERVISOR_CHECKPOINT_DIR/big\"; exit 0' TERM\n"
            "echo ready; while :; do sleep 0.1; done"
        ),
    )
    env: dict[str, Any] = {
        "SUPERVISOR_CHECKPOINT_S3_URI": str(kept),
        "SUPERVISOR_S3_BANDWIDTH_BYTES_S": "1MiB",
        "SUPERVISOR_STOP_LIMIT_S": limit_s,
        "SUPERVISOR_STOP_GRACE_S": "1",
        "SUPERVISOR_SERVER_GRACE_S": "1",
        "SUPERVISOR_PUBLISH_RESERVE_S": "1",
    }
    with Train(base, **env) as train:
        train.wait_for("ready")
        assert train.stop(timeout_s=float(limit_s) + 3) == 87
    (unsent,) = rows(train, "unsent")
    assert (unsent["transfer"], unsent["names"]) == ("checkpoints", ["big"])
    assert manifests(kept) == [], "half a checkpoint is none"


def test_lag_and_bytes_are_metrics_while_it_runs(tmp_path: pathlib.Path) -> None:
    base, kept, port = tmp_path / "base", tmp_path / "kept", free_port()
    base.mkdir()
    lay_out(base, COUNTING)
    env: dict[str, Any] = {
        **QUICK,
        "SUPERVISOR_CHECKPOINT_S3_URI": str(kept),
        "SUPERVISOR_STATUS_PORT": str(port),
        "SUPERVISOR_STATUS_BIND": "127.0.0.1",
    }

    def metrics() -> str:
        with (
            contextlib.suppress(urllib.error.URLError),  # not served yet
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer,
        ):
            return str(answer.read().decode())
        return ""

    with Train(base, **env) as train:
        train.wait_for("idle")
        wait_until(lambda: manifests(kept) and newest(kept) == {"step": b"3"}, 40)
        wait_until(
            lambda: (
                'supervisor_transfer_sent_files_total{transfer="checkpoints"} 0.0' not in metrics()
                and 'supervisor_transfer_lag_seconds{transfer="checkpoints"} 0.0' in metrics()
            ),
            10,
        )
        assert train.stop() == 0


def test_on_a_terminal_a_transfer_is_a_bar(tmp_path: pathlib.Path) -> None:
    base, data = tmp_path / "base", tmp_path / "data"
    base.mkdir()
    data.mkdir()
    (data / "file").write_bytes(b"x" * (3 << 20))
    lay_out(base, shell("true"))
    env: dict[str, Any] = {
        "SUPERVISOR_CHANNEL_TRAIN": str(data),
        "SUPERVISOR_S3_BANDWIDTH_BYTES_S": "1MiB",
        "SUPERVISOR_MODEL_CHECK": "off",
    }
    ours, theirs = os.openpty()
    seen = b""
    with Train(base, stderr=theirs, **env) as train:
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
            while part := os.read(ours, 1 << 16):
                seen += part
        os.close(ours)
        assert train.wait() == 0
    percents = [int(found) for found in re.findall(rb"channel train .*?(\d+)%", seen)]
    assert percents == sorted(percents)
    assert len(set(percents)) >= 3
    assert b"channel train: 1 file, 3.0 MiB in" in seen
