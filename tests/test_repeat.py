"""The script that repeats tests, on a suite of three."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from tests import repeat
from tests.helpers.job import processes_with
from tests.helpers.tree import ROOT

SUITE = """
import os, pathlib, subprocess, time

HERE = pathlib.Path(__file__).parent

def test_every_second_time():
    count = len(list(HERE.glob("*.ran")))
    (HERE / f"{count}.ran").touch()
    assert count % 2 == 0, f"seen {count} before"

class TestOften:
    def test_passes(self):
        subprocess.Popen(("sleep", "600"), start_new_session=True, env={"LEFT_BY": str(HERE)})

def test_counts_who_burns():
    parent = f"/proc/{os.getppid()}/task/{os.getppid()}/children"
    (HERE / "children").write_text(pathlib.Path(parent).read_text())
"""


def run(tmp_path: pathlib.Path, *arguments: str, suite: str = SUITE) -> tuple[int, str]:
    (tmp_path / "test_few.py").write_text(suite)
    done = subprocess.run(
        [
            *(sys.executable, repeat.__file__, "--logs", str(tmp_path / "logs"), *arguments, "--"),
            *("-c", os.devnull, "-p", "no:xdist", "--rootdir", str(tmp_path), str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_says_which_failed_how_often_and_keeps_what_they_said(tmp_path: pathlib.Path) -> None:
    code, said = run(tmp_path, "--times", "4")
    assert code == 1
    assert "\n2 of 4: test_few.py::test_every_second_time\n" in said
    assert said.count(" of 4: test_few.py") == 1
    (log,) = (tmp_path / "logs" / "failed").iterdir()
    text = log.read_text()
    assert [number for number in range(1, 5) if f"== run {number}: " in text] == [2, 4]
    assert "seen 1 before" in text
    assert "seen 3 before" in text
    assert "3 passed" in (tmp_path / "logs" / "1.log").read_text()


def test_leaves_no_process_of_its_own_or_of_the_tests(tmp_path: pathlib.Path) -> None:
    code, _ = run(tmp_path, "--times", "1", "--busy")
    assert code == 0
    assert not processes_with(str(tmp_path))
    children = (tmp_path / "children").read_text().split()
    assert len(children) == len(os.sched_getaffinity(0)) + 1  # and pytest itself
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children)


def test_a_run_that_hangs_is_ended_and_counted(tmp_path: pathlib.Path) -> None:
    hangs = "import time\ndef test_hangs():\n    time.sleep(600)\n"
    code, said = run(tmp_path, "--times", "2", "--limit-s", "1", suite=hangs)
    assert code == 1
    assert "\n2 of 2: (a run over 1 s)\n" in said
    assert not processes_with(str(tmp_path))


def test_what_pytest_cannot_run_is_no_result(tmp_path: pathlib.Path) -> None:
    code, said = run(tmp_path, suite="import nothing_of_this_name\n")
    assert code == 2
    assert "nothing_of_this_name" in said


def test_without_arguments_it_runs_what_the_gate_runs() -> None:
    readme = pathlib.Path(ROOT, "README.md").read_text(encoding="utf-8")
    assert f" && python -m pytest {' '.join(repeat.GATE)}\n" in readme
