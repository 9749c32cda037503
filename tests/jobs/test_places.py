"""What a script, a platform or an operator can put where files of ours are looked for."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import stat
import sys
import time
from typing import Final

import pytest

from tests.helpers.job import Job
from tests.helpers.mounts import NAMESPACE, needs_mounts
from tests.helpers.train import Train, lay_out, shell
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

SILENT: Final = pathlib.Path(__file__).parent.parent / "helpers" / "silent_mount.py"


def laid(base: pathlib.Path, text: str) -> pathlib.Path:
    lay_out(base, shell(text))
    return base


# ------------------------------------------------------------ in the place of last words

OUTPUT: Final = "../output"
OWN: Final = "../output/supervisor"


@pytest.mark.parametrize(
    "deed",
    [
        f"mkfifo {OUTPUT}/failure",
        f"mkdir {OUTPUT}/failure; echo x >{OUTPUT}/failure/x",
        f"ln -s /dev/zero {OUTPUT}/failure",
        f"ln -s /nowhere/at/all {OUTPUT}/failure",
        f"ln -s failure {OUTPUT}/failure",
        'mkfifo "$SUPERVISOR_ERROR_FILE"',
        'ln -s /dev/zero "$SUPERVISOR_ERROR_FILE"',
        'mkdir "$SUPERVISOR_ERROR_FILE"',
        'truncate -s 100G "$SUPERVISOR_ERROR_FILE"',
        'mkfifo "$SUPERVISOR_HEARTBEAT_FILE"',
        f"mkfifo {OUTPUT}/failure.$PPID.tmp {OWN}/report.json.$PPID.tmp",
        f"mkfifo {OWN}/report.json",
        f"mkdir {OWN}/report.json",
        f"ln -s /dev/full {OWN}/report.json",
        f"rm -r {OWN}; mkfifo {OWN}",
        f"rm -r {OWN}; ln -s /nowhere/at/all {OWN}",
        f"rm -r {OWN}; echo x >{OWN}",
        f"rm -r {OUTPUT}; mkdir -m 500 {OUTPUT}",
        "mkdir ../checkpoints/x.index; mkfifo ../checkpoints/y.index ../model/saved_model.pb",
    ],
)
def test_whatever_lies_where_we_look_the_end_is_the_scripts(
    deed: str, tmp_path: pathlib.Path
) -> None:
    """A FIFO in the place of ``failure``, of the error file or of a scratch file held the event
    loop in ``open`` for ever: no signal was heard any more. A directory was taken for words."""
    with Train(laid(tmp_path, f"{deed}; exit 3"), SUPERVISOR_HANG_TIMEOUT_S="30") as train:
        assert train.wait(20) == 3, train.err
    assert train.report["exit_code"] == 3
    if "ERROR_FILE" not in deed:
        assert "exit 3" in train.report["cause"]["message"]
    assert (tmp_path / "output" / "failure").is_file()
    assert "exit 3" in train.failure
    assert not list(tmp_path.rglob(".*.json.*")), "a scratch file was left"


@pytest.mark.parametrize("kind", ["fifo", "file", "link"])
def test_an_output_directory_that_is_none_is_said(kind: str, tmp_path: pathlib.Path) -> None:
    deed = {"fifo": "mkfifo", "file": "touch", "link": "ln -s /nowhere/at/all"}[kind]
    with Train(laid(tmp_path, f"rm -r {OUTPUT}; {deed} {OUTPUT}; exit 3")) as train:
        assert train.wait(20) == 3
    assert "was not written" in train.err


def test_nothing_is_written_or_changed_through_a_link(tmp_path: pathlib.Path) -> None:
    """Neither through links in the place of our files nor through one in that of our directory."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    names = ("report.json", "failure", "chief.log")
    for name in names:
        (theirs / name).write_text("theirs")
        (theirs / name).chmod(0o640)
    deeds = [
        f"rm -r {OWN}; ln -s {theirs} {OWN}; ln -s {theirs}/failure {OUTPUT}/failure",
        f"ln -s {theirs}/report.json {OWN}/report.json; ln {theirs}/failure {OUTPUT}/failure",
        f"rm -r {OWN}/logs; ln -s {theirs} {OWN}/logs",
        f"rm {OWN}/logs/*; ln -s {theirs}/chief.log {OWN}/logs/chief.log",
        f"rm {OWN}/logs/*; ln {theirs}/chief.log {OWN}/logs/chief.log",
    ]
    for number, deed in enumerate(deeds):
        base = tmp_path / str(number)
        base.mkdir()
        noise = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i + 1)); done"
        with Train(
            laid(base, f"echo first; sleep 0.3; {deed}; {noise}; exit 3"),
            SUPERVISOR_LOG_FILES="true",
            SUPERVISOR_LOG_FILE_MAX_BYTES="300",
        ) as train:
            assert train.wait(20) == 3, train.err
        assert train.report["exit_code"] == 3
        for name in names:
            assert (theirs / name).read_text() == "theirs", deed
            assert stat.S_IMODE((theirs / name).stat().st_mode) == 0o640
        assert sorted(each.name for each in theirs.iterdir()) == sorted(names)


@pytest.mark.parametrize("deed", ["mkfifo", "mkdir", "ln -s /nowhere/at/all", "ln -s /dev/zero"])
def test_a_log_file_that_is_replaced_is_begun_anew(deed: str, tmp_path: pathlib.Path) -> None:
    """Opening a FIFO for writing waits for a reader: the log, and the end, waited with it."""
    logs = f"{OWN}/logs"
    text = (
        f"mkdir -p {logs}; {deed} {logs}/chief.log; echo one; "
        f"sleep 0.3; rm -f {logs}/chief.log.1; mkdir {logs}/chief.log.1; echo two; exit 3"
    )
    with Train(
        laid(tmp_path, text),
        SUPERVISOR_LOG_FILES="true",
        SUPERVISOR_LOG_FILE_MAX_BYTES="50",
    ) as train:
        assert train.wait(20) == 3
    assert "output.broken" not in train.err
    written = [each for each in train.log_file().parent.iterdir() if each.is_file()]
    assert any("two" in each.read_text() for each in written)


def test_a_config_file_that_is_a_fifo_is_a_fault(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, shell("exit 0"))
    path = tmp_path / "input" / "config" / "hyperparameters.json"
    path.unlink()
    os.mkfifo(path)
    with Train(tmp_path) as train:
        assert train.wait(20) == 80
    assert "no regular file" in train.err


def test_config_files_behind_links_are_read(tmp_path: pathlib.Path) -> None:
    """Kubernetes mounts a ConfigMap as links into a directory of the moment."""
    lay_out(tmp_path, shell("exit 5"))
    config = tmp_path / "input" / "config"
    data = config / "..data"
    data.mkdir()
    for path in list(config.glob("*.json")):
        path.rename(data / path.name)
        path.symlink_to(f"..data/{path.name}")
    with Train(tmp_path) as train:
        assert train.wait(20) == 5


# ------------------------------------------------------------ file systems


@pytest.mark.parametrize("failing", [True, False])
def test_a_failure_file_that_is_mounted_is_written_in_place(
    failing: bool, tmp_path: pathlib.Path
) -> None:
    """Kubernetes mounts the terminationMessagePath, here ``output/failure``: a rename says EBUSY,
    and the message was lost. What a run before has left in it is taken away."""
    needs_mounts()
    message = tmp_path / "message"
    message.write_text("an earlier run's")
    base = tmp_path / "ml"
    base.mkdir()
    (base / "output").mkdir()
    failure = base / "output" / "failure"
    failure.touch()
    mount = f'mount --bind {message} {failure}; exec "$@"'
    with Train(laid(base, f"exit {3 * failing}"), before=(*NAMESPACE, mount, "sh")) as train:
        assert train.wait(20) == 3 * failing
    written = message.read_text()
    assert "exit 3" in written if failing else not written
    assert "an earlier run's" not in written
    assert "record.failed" not in train.err


def test_the_scripts_own_words_in_a_mounted_failure_file_win(tmp_path: pathlib.Path) -> None:
    needs_mounts()
    message = tmp_path / "message"
    message.touch()
    base = tmp_path / "ml"
    (base / "output").mkdir(parents=True)
    failure = base / "output" / "failure"
    failure.touch()
    mount = f'mount --bind {message} {failure}; exec "$@"'
    laid(base, f"echo my own words >{OUTPUT}/failure; exit 3")
    with Train(base, before=(*NAMESPACE, mount, "sh")) as it:
        assert it.wait(20) == 3
    assert message.read_text() == "my own words\n"
    assert "my own words" in it.report["cause"]["message"]


@pytest.mark.parametrize("place", ["output", "checkpoints", "model"])
def test_a_file_system_that_never_answers_holds_neither_signals_nor_the_end(
    place: str, tmp_path: pathlib.Path
) -> None:
    """As a dead NFS server, for ever: every look and every record waits only so long."""
    needs_mounts()
    lay_out(
        tmp_path,
        shell(
            f"{sys.executable} {SILENT} {tmp_path}/{place} & "
            "trap 'kill $!; exit 4' TERM; echo ready; while :; do sleep 0.05; done"
        ),
    )
    probe = 'echo probe; exec "$@"'
    with Train(
        tmp_path,
        before=(*NAMESPACE, probe, "sh"),
        SUPERVISOR_STOP_LIMIT_S="30",
        SUPERVISOR_HANG_TIMEOUT_S="600",
    ) as train:
        found = train.wait_for("mounted|Operation not permitted|No such file|Permission denied")
        if found[0] != "mounted":
            pytest.skip(f"no FUSE to be had: {found[0]}")
        began = time.monotonic()
        train.send(signal.SIGTERM)
        wait_until(lambda: "signal.received" in train.err, 2, "the loop is held")
        assert train.process.wait(30) == 4
        assert time.monotonic() - began < 25


def test_a_local_run_reads_only_what_is_a_report(tmp_path: pathlib.Path) -> None:
    """A host's files are read when it is over, and its script may have left anything there."""
    path = tmp_path / "run.sh"
    own = "../output/supervisor"
    path.write_text(shell(f"rm -r {own}; mkfifo {own}; exit 3").text)
    path.chmod(0o755)
    run_dir = tmp_path / "run"
    config = run_dir / "algo-1" / "input" / "config" / "hyperparameters.json"
    config.parent.mkdir(parents=True)
    os.mkfifo(config)  # left by an earlier run
    with Job(run_dir, "--hosts", "1", "--strategy", "none", str(path)) as job:
        assert job.wait(30) == 3
    assert json.loads(config.read_text())["sagemaker_program"] == '"run.sh"'
