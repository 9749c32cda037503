"""What may be an entry point, how it is run, and whose modes are changed."""

from __future__ import annotations

import pathlib
import stat
import subprocess
import sys

import pytest

from supervisor.mpi import rank as rank_module
from tests.helpers.job import Job
from tests.helpers.mounts import NAMESPACE, needs_mounts
from tests.helpers.train import Script, Train, lay_out, shell

# ------------------------------------------------------------ modes of the user's files


def modes(path: pathlib.Path) -> dict[str, int]:
    return {str(each): each.lstat().st_mode for each in sorted(path.rglob("*"))}


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 0\n", "root:x:0:0\n", "", "\0\1\2garbage\n"])
def test_a_local_run_changes_no_mode_and_refuses_what_cannot_be_run(
    text: str, tmp_path: pathlib.Path
) -> None:
    """``supervisor local FILE`` made any file that was named executable, and then said 126."""
    path = tmp_path / "theirs" / "shadow"
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o640)
    before = modes(path.parent)
    with Job(tmp_path / "run", "--hosts", "1", "--strategy", "none", str(path)) as job:
        assert job.wait() == 80
    assert modes(path.parent) == before
    assert f"chmod +x {path}" in job.output
    assert not job.run_dir.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\0\1\2garbage\n", "neither a program nor a script"),
        ("", "it is empty"),
        ("#!/bin/sh\r\nexit 0\r\n", "carriage return"),
        ("#!/no/such\nexit 0\n", "'/no/such'"),
    ],
)
def test_what_could_only_fail_is_refused_before_a_local_run(
    text: str, words: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "launch"
    path.write_bytes(text.encode())
    path.chmod(0o755)
    with Job(tmp_path / "run", "--hosts", "1", "--strategy", "none", str(path)) as job:
        assert job.wait() == 80
    assert words in job.output


def test_the_platforms_copy_is_made_executable(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, shell("exit 5"))
    path = tmp_path / "code" / "run.sh"
    path.chmod(0o640)
    with Train(tmp_path) as train:
        assert train.wait() == 5
    assert stat.S_IMODE(path.stat().st_mode) == 0o751


@pytest.mark.parametrize("how", ["directory link", "file link", "hard link", "mount"])
def test_code_of_the_users_is_run_and_stays_as_it_is(how: str, tmp_path: pathlib.Path) -> None:
    """Code behind a link or a mount is a directory of the user's: a script in it that is not
    executable is run by its interpreter, and keeps its mode."""
    base, theirs = tmp_path / "ml", tmp_path / "theirs"
    base.mkdir()
    theirs.mkdir()
    lay_out(base, shell("exit 5"))
    path, code = theirs / "run.sh", base / "code"
    path.write_text((code / "run.sh").read_text())
    path.chmod(0o640)
    (code / "run.sh").unlink()
    before: tuple[str, ...] = ()
    if how == "directory link":
        code.rmdir()
        code.symlink_to(theirs)
    elif how == "file link":
        (code / "run.sh").symlink_to(path)
    elif how == "hard link":
        (code / "run.sh").hardlink_to(path)
    else:
        needs_mounts()
        before = (*NAMESPACE, f'mount --bind {theirs} {code}; exec "$@"', "sh")
    with Train(base, before=before) as train:
        assert train.wait() == 5, train.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert "chmod +x" in train.err


# ------------------------------------------------------------ entry points without a first line


@pytest.mark.parametrize(
    ("content", "out"),
    [
        (b'echo "$1" $0', b"-a ./run.sh\n"),
        (b"echo one\r\n", b"one\r\n"),
        (b"#!\necho one\n", b"one\n"),
        (b"\n#!/no/such\necho one\n", b"one\n"),
        (b"\xef\xbb\xbf#!/bin/sh\necho one\n", b"one\n"),
        (b"\xef\xbb\xbf#!/usr/bin/env python3\nprint('one')\n", b"one\n"),
    ],
)
def test_what_a_shell_takes_for_a_script_is_one(
    content: bytes, out: bytes, tmp_path: pathlib.Path
) -> None:
    """The predecessor starts an entry point through ``/bin/sh -c``, and a shell takes a text that
    exec refuses for a script. Here it was 126."""
    lay_out(tmp_path, Script("run.sh", ""), {"a": "b c"})
    (tmp_path / "code" / "run.sh").write_bytes(content)
    with Train(tmp_path) as train:
        assert train.wait() == 0, train.err
    assert (tmp_path / "stdout").read_bytes() == out
    assert "process.interpreted" in train.err


def test_a_script_without_a_first_line_has_its_one_pipe_too(tmp_path: pathlib.Path) -> None:
    """Its second start forgot the setting, and its stderr came where nobody had asked for it."""
    lay_out(tmp_path, Script("run.sh", ""))
    turns = "".join(f"echo out {number}; echo err {number} >&2\n" for number in range(200))
    (tmp_path / "code" / "run.sh").write_text(turns)
    with Train(tmp_path, SUPERVISOR_LOG_STREAMS="merge", SUPERVISOR_LOG_FORMAT="raw") as train:
        assert train.wait() == 0, train.err
    assert "process.interpreted" in train.err
    wanted = "".join(f"out {number}\nerr {number}\n" for number in range(200))
    assert (tmp_path / "stdout").read_text() == wanted


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\n \n", "it is empty"),
        (bytes(range(256)), "neither a program nor a script"),
        (b"\x89PNG\r\n\x1a\n\0\0", "neither a program nor a script"),
        ("#!/bin/sh\nexit 0\n".encode("utf-16"), "neither a program nor a script"),
        (b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\xb7\0" + bytes(60), "aarch64"),
        (b"#!/bin/sh\r\nexit 0\r\n", "carriage return"),
    ],
)
def test_what_is_no_script_is_126_with_its_reason(
    content: bytes, words: str, tmp_path: pathlib.Path
) -> None:
    lay_out(tmp_path, Script("run.sh", ""))
    (tmp_path / "code" / "run.sh").write_bytes(content)
    with Train(tmp_path) as train:
        assert train.wait() == 126
    assert words in train.failure


def test_a_rank_of_mpi_takes_the_same_for_a_script(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "bare"
    path.write_text('echo "$1"; exit 5')
    path.chmod(0o755)
    rank = pathlib.Path(rank_module.__file__)
    done = subprocess.run(
        [sys.executable, "-I", str(rank), "15", str(path), "a b"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (5, "a b\n")
    assert "run by /bin/sh" in done.stderr


def test_a_carriage_return_that_env_is_given_is_named(tmp_path: pathlib.Path) -> None:
    """env(1) says ``use -[v]S to pass options in shebang lines``, which helps nobody."""
    lay_out(tmp_path, Script("run.sh", ""))
    (tmp_path / "code" / "run.sh").write_bytes(b"#!/usr/bin/env bash\r\nexit 0\r\n")
    with Train(tmp_path) as train:
        assert train.wait() == 127
    assert "carriage return" in train.failure
