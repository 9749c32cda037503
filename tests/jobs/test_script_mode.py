"""A script written for the predecessor, unchanged, on the trees of a job with parameter servers.

Its workers train alone and end by themselves, as in the predecessor's own tests; the parameter
servers are there and unused.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil

import pytest

from supervisor.contract.distribution import Strategy
from supervisor.contract.facts import CHANNELS
from supervisor.engines.local import lay_out
from tests.helpers.train import Train
from tests.helpers.tree import SCRIPTS

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("tensorflow")]

SCRIPT = SCRIPTS / "script_mode.py"


def test_a_script_of_the_predecessor_runs_unchanged(tmp_path: pathlib.Path) -> None:
    import numpy as np  # comes with TensorFlow: what runs without it collects this file too

    (tmp_path / "code").mkdir()
    script = str(tmp_path / "code" / SCRIPT.name)
    shutil.copy(SCRIPT, script)
    hyper = {"epochs": 2, "model_dir": "s3://bucket/job/model", "some-other": "a b"}
    hosts = lay_out(str(tmp_path / "run"), 2, Strategy.PS, script, (), hyper)
    random = np.random.default_rng(1)
    for host in hosts:
        base = pathlib.Path(host.base_dir)
        channel = base / "input" / "data" / "training"
        channel.mkdir(parents=True)
        np.save(channel / "images.npy", random.random((64, 28, 28), np.float32))
        np.save(channel / "labels.npy", random.integers(0, 10, 64))
        described = {"training": {"TrainingInputMode": "File"}}
        (base / "input" / "config" / CHANNELS).write_text(json.dumps(described))

    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                Train(
                    pathlib.Path(host.base_dir),
                    SUPERVISOR_STATUS_BIND="127.0.0.1",
                    SUPERVISOR_MODEL_DIR_MIRROR="off",  # there is no such bucket
                )
            )
            for host in hosts
        ]
        assert [each.wait(150) for each in running] == [0, 0], [each.err for each in running]

    for host in hosts:
        base = pathlib.Path(host.base_dir)
        assert (base / "output" / "success").exists()
        assert json.loads((base / "output" / "data" / "seen.json").read_text()) == {
            "epochs": 2,
            "model_dir": "s3://bucket/job/model",
            "sm_model_dir": str(base / "model"),
            "output_data_dir": str(base / "output" / "data"),
            "train": str(base / "input" / "data" / "training"),
            "hosts": ["algo-1", "algo-2"],
            "current_host": host.name,
            "unknown": ["--some-other", "a b"],
        }
        assert (base / "model" / "my_model.h5").exists() is (host.name == "algo-1")
