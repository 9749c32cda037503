"""The figures of ``bench_goodput.py``, from records that are written here."""

from __future__ import annotations

import itertools
import json
import pathlib
import subprocess
import sys
import time

import pytest

from supervisor.engines.local import free_ports
from supervisor.host import resumed
from tests.benchmarks import goodput
from tests.benchmarks.goodput import Blow, Mark, Outage
from tests.helpers.tree import SCRIPTS


def steps(pid: int, began: float, first: int, count: int) -> list[Mark]:
    """A process that starts, and makes a step each 0.1 s from two seconds later on."""
    made = [Mark(began + 2 + number / 10, pid, "step", first + number) for number in range(count)]
    return [Mark(began, pid, "start"), *made]


def test_a_kill_is_followed_from_the_outside() -> None:
    """Rank 1 is killed at 7.05, when 51 steps are made and 40 are saved."""
    zero = [*steps(10, 0, 1, 51), Mark(7.15, 10, "term"), *steps(20, 7.5, 41, 30)]
    one = [*steps(11, 0, 1, 51), *steps(21, 7.75, 41, 30)]
    gone = {11: 7.06, 10: 7.35}
    found = goodput.outage([zero, one], gone, 7.05, {11})
    assert found == pytest.approx(Outage(0.1, 0.3, 2.45, 2.7, 11))


def test_what_was_not_seen_is_not_a_figure() -> None:
    """The launcher ended at the first kill, and rank 0 lives on."""
    found = goodput.outage([steps(10, 0, 1, 51), steps(11, 0, 1, 51)], {11: 7.06}, 7.05, {11})
    assert found == Outage(None, None, None, None, None)


def test_another_rank_that_is_gone_is_a_sign_too() -> None:
    zero, one = steps(10, 0, 1, 51), steps(11, 0, 1, 51)
    found = goodput.outage([zero, one], {11: 7.06, 10: 7.25}, 7.05, {11})
    assert found.detect_s == pytest.approx(0.2)


def test_steps_that_are_made_again_count_once() -> None:
    marks = [*steps(10, 0, 1, 51), *steps(20, 7.5, 41, 30)]
    assert goodput.kept(marks, 0, 100) == 70
    assert goodput.kept(marks, 2.0, 100) == 69, "what was made before the time began"
    assert goodput.goodput(70, 14.0, 0.1) == pytest.approx(50)
    assert goodput.starts(marks, 7.0) == 1
    assert goodput.starts(marks, 8.0) == 2


def test_the_newest_process_of_a_rank() -> None:
    marks = [*steps(10, 0, 1, 51), *steps(20, 7.5, 41, 30)]
    assert [goodput.running(marks, at) for at in (-1, 7.4, 7.6)] == [None, 10, 20]


def test_a_record_that_is_being_written_is_read_to_its_last_whole_line() -> None:
    line = json.dumps(Mark(1.5, 10, "step", 3)._asdict())
    assert goodput.marks_in(f"{line}\n{line[:9]}") == [Mark(1.5, 10, "step", 3)]


def test_the_timetable_is_the_same_for_all() -> None:
    table = goodput.timetable(14, 20, 3, ["script", "freeze"])
    assert table == goodput.timetable(14, 20, 3, ["script", "freeze"])
    gaps = [later.after_s - blow.after_s for blow, later in itertools.pairwise(table)]
    assert all(4 <= gap <= 10 for gap in gaps)
    assert {blow.rank for blow in table} == {0, 1, 2}
    assert {blow.kind for blow in table} == {"script", "freeze"}


@pytest.mark.parametrize(
    ("blows", "expected"),
    [
        ([], 100.0),
        # 100 steps in 10 s; a blow at 5 s finds 50 made and 40 saved, and costs 2 s and 10 steps.
        ([5.0], 70.0),
        # The second falls into the start-up after the first, and lengthens it by one second.
        ([5.0, 6.0], 60.0),
    ],
)
def test_what_is_best_possible(blows: list[float], expected: float) -> None:
    table = [Blow(at, "script", 0) for at in blows]
    ideal = goodput.ideal_with_restarts(table, 10.0, 2.0, 0.1, 20)
    assert ideal.goodput == pytest.approx(expected)


def test_a_median_is_of_what_is_there() -> None:
    assert goodput.middle([None, 3.0, 1.0, 2.0]) == 2.0
    assert goodput.middle([None]) is None


def test_the_trainer_goes_on_from_its_newest_whole_checkpoint(tmp_path: pathlib.Path) -> None:
    for last in (7, 11):
        port = free_ports(1)[0]
        words = f"--directory . --port {port} --ranks 2 --steps {last} --save-every 2"
        words += " --startup-s 0 --step-s 0.001"
        ranks = [
            subprocess.Popen(
                [sys.executable, "-S", str(SCRIPTS / "fake_trainer.py"), *words.split()],
                cwd=tmp_path,
                env={"RANK": str(rank)},
            )
            for rank in range(2)
        ]
        assert [rank.wait(30) for rank in ranks] == [0, 0]
        saved = tmp_path / "checkpoints" / f"ckpt-{last - 1}.json"
        assert resumed.newest(str(saved.parent), time.time_ns()) == str(saved)
        saved.write_bytes(saved.read_bytes()[:100])
    for rank in range(2):
        marks = goodput.marks_in((tmp_path / f"rank-{rank}.jsonl").read_text())
        made = [each.step for each in marks if each.what == "step"]
        assert made == [*range(1, 8), *range(5, 12)], "of 6, which is spoilt, back to 4"
