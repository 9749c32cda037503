"""What we read without TensorFlow is what TensorBoard and TensorFlow read."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest

from supervisor.training import bundle, framing
from supervisor.training.event_files import EventFiles
from supervisor.training.events import event_of
from supervisor.training.reading import Reading, Unit
from tests.helpers.eventfiles import checksum
from tests.helpers.job import environment
from tests.helpers.tree import SCRIPTS

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("tensorflow")]

Traces = tuple[pathlib.Path, Mapping[str, Any], list[Reading]]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """Where the files are, what the libraries read, and what we do."""
    root = tmp_path_factory.mktemp("traces")
    files = EventFiles([str(root)])
    files.begin(time.time_ns())
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "traces.py"), str(root)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout.splitlines()[-1]), files.look()


def steps(readings: list[Reading], where: str, unit: Unit) -> list[int]:
    return [each.step for each in readings if (each.where, each.unit) == (where, unit)]


def test_scalars_are_those_that_tensorboard_reads(traces: Traces) -> None:
    _, read, _ = traces
    assert len(read["events"]) >= 10
    for path, expected in read["events"].items():
        content = pathlib.Path(path).read_bytes()
        part = framing.records(content, checksum)
        assert part.used == len(content)
        found = [
            [event.step, event.at, tag, repr(value)]
            for event in map(event_of, part.data)
            if event
            for tag, value in event.scalars
        ]
        assert found == expected, path
    assert sum(map(len, read["events"].values())) > 100


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_steps_and_epochs_of_keras(traces: Traces, library: str) -> None:
    root, _, readings = traces
    for place in ("train", "validation"):
        where = f"{root.name}/{library}-epoch/{place}"
        assert steps(readings, where, Unit.EPOCH) == [1, 2]
        assert steps(readings, where, Unit.STEP) == []
    if library == "keras":  # tf_keras writes no batches unless it is asked in another way
        assert steps(readings, f"{root.name}/keras-1/train", Unit.STEP) == list(range(1, 9))
        assert steps(readings, f"{root.name}/keras-1/train", Unit.EPOCH) == [1, 2]


def test_steps_of_writers_and_sessions(traces: Traces) -> None:
    root, _, readings = traces
    assert steps(readings, f"{root.name}/summary", Unit.STEP) == list(range(1, 31))
    told = steps(readings, f"{root.name}/session", Unit.STEP)
    assert told == sorted(told)
    assert 20 <= told[-1] <= 25


def test_steps_in_checkpoints_are_those_that_tensorflow_reads(traces: Traces) -> None:
    root, read, _ = traces
    found: dict[str, int | None] = {}
    for prefix, counters in read["checkpoints"].items():
        index = pathlib.Path(f"{prefix}.index").read_bytes()
        variable = bundle.step_of(index)
        name = str(pathlib.Path(prefix).relative_to(root))
        if variable is None:
            assert {each.partition("/")[0] for each in counters} <= {"save_counter"}, name
            found[name] = None
            continue
        shard = f"{prefix}.data-{variable.shard:05}-of-{variable.shards:05}"
        data = pathlib.Path(shard).read_bytes()[variable.offset :][: variable.size]
        step = variable.value(data, checksum)
        tensor = f"{variable.name}/.ATTRIBUTES/VARIABLE_VALUE"
        assert step == counters[tensor if tensor in counters else variable.name], name
        found[name] = step
    assert found == {
        "counter/ckpt-1": None,
        "keras/ckpt-1": 8,
        "many/ckpt": 77,
        "session/model.ckpt-20": 20,
        "session/model.ckpt-25": 25,
        "session/model.ckpt-10": 10,
        "session/model.ckpt-0": 0,
        "sharded/model-4242": 4242,
        "step/ckpt-1": 2**33,
        "tf_keras/ckpt-1": 8,
    }
