"""Whether training has moved, and how far a job had come, by what lies in its directories."""

from __future__ import annotations

import json
import os
import pathlib
from dataclasses import replace

import pytest

from supervisor.cluster.protocol import JobDocument, encode_job
from supervisor.contract.paths import Paths, paths_below
from supervisor.host.attempts import BEAT_S, Mark, look, remembered
from supervisor.life.attempts import Kind, Order, Past, Scope
from supervisor.life.words import Cause, CauseKind, JobState

SECOND = 10**9


@pytest.fixture
def paths(tmp_path: pathlib.Path) -> Paths:
    found = paths_below(str(tmp_path))
    os.makedirs(found.checkpoints)
    os.makedirs(os.path.dirname(found.heartbeat), exist_ok=True)
    return found


def save(paths: Paths, name: str, text: str = "{}") -> None:
    pathlib.Path(paths.checkpoints, name).write_text(text)


def test_nothing_there_is_no_progress(paths: Paths) -> None:
    assert look(paths) == Mark()
    assert not Mark().moved_to(look(paths), 0)


def test_a_checkpoint_with_a_greater_number_is_progress(paths: Paths) -> None:
    save(paths, "ckpt-9.json")
    before = look(paths)
    save(paths, "ckpt-10.json")
    after = look(paths)
    assert after.checkpoint.endswith("ckpt-10.json")
    assert before.moved_to(after, 0)


def test_a_script_that_begins_again_at_step_0_and_saves_has_not_come_further(paths: Paths) -> None:
    save(paths, "ckpt-40.json")
    before = look(paths)
    os.utime(pathlib.Path(paths.checkpoints, "ckpt-40.json"), ns=(SECOND, SECOND))
    save(paths, "ckpt-10.json")
    assert look(paths).checkpoint.endswith("ckpt-10.json")
    assert not before.moved_to(look(paths), 0)


def test_a_checkpoint_without_a_number_is_progress_when_it_is_written_anew(paths: Paths) -> None:
    save(paths, "model.weights")
    before = look(paths)
    assert not before.moved_to(look(paths), 0)
    written = before.written_ns + SECOND
    os.utime(pathlib.Path(paths.checkpoints, "model.weights"), ns=(written, written))
    assert before.moved_to(look(paths), 0)


def test_half_a_checkpoint_is_none(paths: Paths) -> None:
    before = look(paths)
    save(paths, "ckpt-5.data-00000-of-00001")
    save(paths, "ckpt-6.json.tmp")
    assert not before.moved_to(look(paths), 0), "data without its index, and a temporary file"


def test_the_first_checkpoint_is_progress(paths: Paths) -> None:
    save(paths, "ckpt-1.json")
    assert Mark().moved_to(look(paths), 0)


@pytest.mark.parametrize(
    ("before", "after", "moved"), [(None, 0, True), (5, 5, False), (5, 6, True), (6, 5, False)]
)
def test_the_progress_file(before: int | None, after: int, moved: bool, paths: Paths) -> None:
    pathlib.Path(paths.progress).write_text(json.dumps({"step": after}))
    assert Mark(step=before).moved_to(look(paths), 0) is moved


@pytest.mark.parametrize("text", ["", "[]", '{"step": "6"}', '{"step": NaN}', "{", '{"step": -1}'])
def test_a_progress_file_that_says_no_step_says_nothing(text: str, paths: Paths) -> None:
    pathlib.Path(paths.progress).write_text(text)
    assert look(paths).step is None


def test_a_heartbeat_counts_when_the_script_has_come_up(paths: Paths) -> None:
    pathlib.Path(paths.heartbeat).touch()
    beat = look(paths).beat_ns
    assert not Mark().moved_to(look(paths), beat - SECOND), "a second after the start"
    assert Mark().moved_to(look(paths), beat - int((BEAT_S + 1) * SECOND))
    assert not look(paths).moved_to(look(paths), 0), "not touched since"


# --------------------------------------------------------------------------- the master's memory


def test_a_master_finds_the_order_that_the_one_before_it_has_left(tmp_path: pathlib.Path) -> None:
    paths = paths_below(str(tmp_path))
    pathlib.Path(paths.job).parent.mkdir(parents=True)
    assert remembered(paths) is None
    cause = Cause(CauseKind.SCRIPT_FAILED, "algo-2", "killed", "worker", at=7.0)
    past = (Past(1, Kind.CRASH, Scope.ALL, cause, progressed=True),)
    order = Order(3, 2, Scope.ALL, (), cause, world=(0, 2))
    document = JobDocument("run-1", 9, JobState.RESTARTING, order=order, past=past)
    for body, found in (
        (encode_job(document), (2, 3, (0, 2), "run-1")),
        (encode_job(replace(document, order=None)), None),
        (b'{"v": 4}', None),
        (b"", None),
    ):
        pathlib.Path(paths.job).write_bytes(body)
        left = remembered(paths)
        assert (left and (left.attempt, left.turn, left.world, left.run)) == found
        if left is not None:
            assert [each.cause.process for each in left.past] == ["worker"]
