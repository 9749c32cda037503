"""The predecessor and this program on the same contracts: what does the user's script see?

Both run the same script on the same tree; it writes down its arguments, environment and working
directory. Needs the predecessor in an environment of its own, whose Python
``TEST_PREDECESSOR_PYTHON`` names (``.ci/run`` makes one).
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from supervisor.children import execution
from supervisor.contract.facts import Asked
from supervisor.host.entry import plan_of
from tests.helpers.tree import ROOT, SCRIPTS

PREDECESSOR = os.environ.get("TEST_PREDECESSOR_PYTHON", "")

pytestmark = [
    pytest.mark.skipif(
        not PREDECESSOR,
        reason="TEST_PREDECESSOR_PYTHON names no Python with sagemaker-tensorflow-training",
    ),
    pytest.mark.once,
    pytest.mark.xdist_group("differential"),
]

DUMP: Final = """\
import json, os, sys
with open(os.environ["SAGEMAKER_BASE_DIR"] + "/seen.json", "w") as file:
    json.dump({"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}, file)
"""
ONE: Final = {"current_host": "algo-1", "hosts": ["algo-1"]}


def cluster(count: int, current: int = 1, **more: Any) -> dict[str, Any]:
    hosts = [f"algo-{number}" for number in range(1, count + 1)]
    resources = {"current_host": f"algo-{current}", "hosts": hosts}
    return {**resources, "network_interface_name": "ethwe", **more}


def groups(current: str, group: str) -> dict[str, Any]:
    """Four hosts in two groups."""
    return cluster(
        4,
        int(current),
        current_group_name=group,
        current_instance_type=f"ml.{group}.xlarge",
        instance_groups=[
            {
                "instance_group_name": "cpu",
                "instance_type": "ml.cpu.xlarge",
                "hosts": ["algo-1", "algo-2"],
            },
            {
                "instance_group_name": "gpu",
                "instance_type": "ml.gpu.xlarge",
                "hosts": ["algo-3", "algo-4"],
            },
        ],
    )


@dataclass(frozen=True)
class Tree:
    """One contract: values as they stand in the platform's files."""

    hyper: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=lambda: dict(ONE))
    channels: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    program: str = "train.py"


FILE: Final = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
PS: Final = {"sagemaker_parameter_server_enabled": "true"}
MWMS: Final = {"sagemaker_multi_worker_mirrored_strategy_enabled": "true"}
TUNING: Final = {"_tuning_objective_metric": "loss", "sagemaker_job_name": '"trial-7"'}
JOB: Final = {"TRAINING_JOB_NAME": "trial-7"}
ON_GPU: Final = {"sagemaker_distribution_instance_groups": '["gpu"]'}

TREES: Final[Mapping[str, Tree]] = {
    "nothing": Tree(),
    "numbers": Tree({"lr": "0.1", "n": "7", "big": "1e-08", "neg": "-3", "zero": "0"}),
    "long number": Tree({"n": "12345678901234567890123", "f": "0.30000000000000004"}),
    "special numbers": Tree({"a": "NaN", "b": "Infinity", "c": "-Infinity"}),
    "booleans": Tree({"yes": "true", "no": "false", "Word": "True"}),
    "null": Tree({"none": "null"}),
    "empty text": Tree({"text": "", "quoted": '""'}),
    "text in quotes": Tree({"name": '"a b"', "bare": "a b"}),
    "shell": Tree({"cmd": "$(touch x); `id` && rm -rf ~ | cat > y", "glob": "*.py ?"}),
    "quotes": Tree({"single": "it's", "double": 'say "hi"', "back": "a\\b\\\\c"}),
    "newlines": Tree({"lines": "a\nb\n\n c\t", "escaped": '"x\\ny"'}),
    "dashes": Tree({"flag": "--other", "dash-ed": "-1", "under_score": "-"}),
    "unicode": Tree({"ünï": '"é"', "emoji": "😀", "text": "naïve 東京"}),
    "escaped unicode": Tree({"text": '"\\u00e9\\ud83d\\ude00"'}),
    "one letter": Tree({"x": "1", "Y": "2", "é": "3"}),
    "order": Tree({"b": "1", "B": "2", "a10": "3", "a9": "4", "_c": "5"}),
    "list": Tree({"layers": "[1, 2, 3]", "words": '["a", "b c"]', "empty": "[]"}),
    "nested list": Tree({"deep": '[[1, [2]], {"a": null}]'}),
    "mapping": Tree({"map": '{"b": 1, "a": "z", "c": null, "d": true}', "none": "{}"}),
    "nested mapping": Tree({"map": '{"a": {"b": [1, "x"]}, "l": [1.5]}'}),
    "not quite JSON": Tree({"a": "{'a': 1}", "b": "[1, 2", "c": "01", "d": "1_000", "e": " 5 "}),
    "raw values": Tree({"number": 3, "list": [1], "map": {"a": 1}, "true": True, "none": None}),
    "long value": Tree({"text": "x" * 60_000}),
    "equals": Tree({"a": "c=d", "url": "https://u@h/p?q=1&r=2#f"}),
    "spaces in names": Tree({"my name": "x", "dot.ted": "y"}),
    "channels": Tree(channels={"train": FILE, "validation": {**FILE, "ContentType": "text/csv"}}),
    "odd channels": Tree(channels={"Train-1": {}, "test.x": {"TrainingInputMode": "Pipe"}}),
    "unicode channel": Tree(channels={"données": FILE}),
    "framework parameters": Tree(
        {
            "sagemaker_enable_cloudwatch_metrics": "false",
            "sagemaker_container_log_level": "20",
            "sagemaker_region": '"eu-west-1"',
            "sagemaker_estimator_class_name": '"TensorFlow"',
            "sagemaker_anything": "[1]",
            "default_user_module_name": '"x"',
        }
    ),
    "job name": Tree({"sagemaker_job_name": '"job-1"'}, env={"TRAINING_JOB_NAME": "job-1"}),
    "log level": Tree({"sagemaker_container_log_level": "10"}),
    "topology": Tree(
        resources=cluster(2, topology=[{"hostName": "algo-1", "capacityUnitId": "u"}])
    ),
    "empty topology": Tree(resources=cluster(1, topology=[])),
    "extra keys": Tree(resources=cluster(1, current_instance_type="ml.p4d", future={"a": [1]})),
    "empty instance groups": Tree(resources=cluster(2, instance_groups=[])),
    "several hosts, no distribution": Tree(resources=cluster(3, 2)),
    "parameter servers, master": Tree(PS, cluster(3, 1)),
    "parameter servers, worker": Tree(PS, cluster(3, 3)),
    "parameter servers, one host": Tree(PS),
    "parameter servers, off": Tree(
        {"sagemaker_parameter_server_enabled": "false"}, resources=cluster(2)
    ),
    "mirrored strategy, first": Tree(MWMS, cluster(2, 1)),
    "mirrored strategy, second": Tree(MWMS, cluster(2, 2)),
    "mirrored strategy, one host": Tree(MWMS),
    "groups, no distribution": Tree(resources=groups("2", "cpu")),
    "groups, chosen": Tree({**PS, **ON_GPU}, groups("3", "gpu")),
    "groups, chosen, mirrored": Tree({**MWMS, **ON_GPU}, groups("4", "gpu")),
    "groups, both": Tree(
        {**MWMS, "sagemaker_distribution_instance_groups": '["cpu", "gpu"]'}, groups("3", "gpu")
    ),
    "groups, own by default": Tree(MWMS, groups("4", "gpu")),
    "groups, outside": Tree({**MWMS, **ON_GPU}, groups("1", "cpu")),
    "one group": Tree(
        PS,
        cluster(
            2,
            current_group_name="homogeneousCluster",
            instance_groups=[
                {
                    "instance_group_name": "homogeneousCluster",
                    "instance_type": "ml.c5",
                    "hosts": ["algo-1", "algo-2"],
                }
            ],
        ),
    ),
    "tuning in S3": Tree({**TUNING, "model_dir": '"s3://bucket/prefix"'}, env=JOB),
    "tuning in the container": Tree({**TUNING, "model_dir": '"/opt/ml/model"'}, env=JOB),
    "tuning without a model directory": Tree({**TUNING, "lr": "1"}, env=JOB),
    "model directory in S3": Tree({"model_dir": "s3://bucket/prefix", "lr": "1"}),
    "program in the environment": Tree(env={"SAGEMAKER_PROGRAM": "train.py"}, program=""),
    "program in both": Tree(env={"SAGEMAKER_PROGRAM": "train.py"}, program="other.py"),
    "submit directory": Tree({"sagemaker_submit_directory": '"code-dir"'}),
    "user's own variables": Tree(
        env={"SM_MODEL_DIR": "/mine", "TF_CPP_MIN_LOG_LEVEL": "0", "S3_REGION": "x", "MY": "é"}
    ),
    "program in a directory": Tree({"a": "b c"}, program="src/deep/train.py"),
    "command": Tree({"a": "it's; $HOME", "empty": ""}, program="run.sh"),
    "command without an interpreter line": Tree({"a": "it's; $HOME"}, program="bare.sh"),
    "command without a final newline": Tree({"a": "b"}, program="unended.sh"),
    "command without an interpreter": Tree({"a": "b"}, program="nameless.sh"),
    "command with carriage returns": Tree({"a": "b"}, program="returns.sh"),
    "command with a byte order mark": Tree({"a": "b"}, program="marked.sh"),
    "command with a marked interpreter line": Tree({"a": "b"}, program="hidden.sh"),
}

_NO_MODEL_DIR: Final = "^tuning without a model directory$"
_NOT_NONE: Final = "a tuning job without a model directory gets none, instead of `None/JOB/model`"
_IMAGE: Final = "what the image or the user set stays"

DIFFERENCES: Final[Mapping[str, tuple[str, str]]] = {
    "arguments": (_NO_MODEL_DIR, _NOT_NONE),
    "SM_HPS": (_NO_MODEL_DIR, _NOT_NONE),
    "SM_HP_MODEL_DIR": (_NO_MODEL_DIR, _NOT_NONE),
    "SM_USER_ARGS": (_NO_MODEL_DIR, _NOT_NONE),
    "SM_TRAINING_ENV hyperparameters": (_NO_MODEL_DIR, _NOT_NONE),
    "SM_TRAINING_ENV job_name": (
        "^framework|^tuning|^job",
        "`sagemaker_job_name` names the job too, not `TRAINING_JOB_NAME` alone",
    ),
    "S3_REGION": ("^user's own variables$", _IMAGE),
    "S3_USE_HTTPS": ("^user's own variables$", _IMAGE),
    "TF_CPP_MIN_LOG_LEVEL": ("^user's own variables$", _IMAGE),
    "SM_NUM_CPUS": ("", "the CPUs that the process may use: its affinity and the cgroup's quota"),
    "SM_TRAINING_ENV num_cpus": (
        "",
        "the CPUs that the process may use: its affinity and the cgroup's quota",
    ),
}
"""Variable, or key of SM_TRAINING_ENV → the trees that it concerns (a pattern), and why."""


def lay_out(base: pathlib.Path, tree: Tree) -> None:
    config = base / "input" / "config"
    for directory in (config, base / "model", base / "output" / "data"):
        directory.mkdir(parents=True)
    for name in ("train.py", "other.py", "src/deep/train.py"):
        path = base / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(DUMP)
    # -E: the PYTHONPATH there names the standard library of that Python, perhaps another version.
    run = f'exec {sys.executable} -E train.py "$@"'.encode()
    for name, text in (
        ("run", b"#!/bin/sh\n%b\n"),
        ("bare", b"%b\n"),
        ("unended", b"%b"),
        ("nameless", b"#!\n%b\n"),
        ("returns", b"%b\r\n"),
        ("marked", b"\xef\xbb\xbfcd .\n%b\n"),
        ("hidden", b"\xef\xbb\xbf#!/bin/sh\n%b\n"),
    ):
        (base / "code" / f"{name}.sh").write_bytes(text % run)
    hyper = {"sagemaker_program": tree.program, **tree.hyper}
    if not tree.program:
        del hyper["sagemaker_program"]
    if "sagemaker_submit_directory" in hyper:
        hyper["sagemaker_submit_directory"] = json.dumps(str(base / "code"))
    for name, content in (
        ("hyperparameters", hyper),
        ("resourceconfig", tree.resources),
        ("inputdataconfig", tree.channels),
    ):
        (config / f"{name}.json").write_text(json.dumps(content))


def environ(base: pathlib.Path, tree: Tree) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "SAGEMAKER_BASE_DIR": str(base), **tree.env}


def seen(base: pathlib.Path) -> dict[str, Any]:
    path = base / "seen.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    path.unlink(missing_ok=True)
    return found


@pytest.fixture(scope="module")
def predecessors(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, pathlib.Path]:
    """Every tree, laid out, and what the script saw under the predecessor beside it."""
    top = tmp_path_factory.mktemp("trees")
    bases = {name: top / str(number) for number, name in enumerate(TREES)}
    lines = []
    for name, base in bases.items():
        lay_out(base, TREES[name])
        lines.append(json.dumps({"base": str(base), "env": environ(base, TREES[name])}))
    script = SCRIPTS / "predecessor.py"
    done = subprocess.run(
        [PREDECESSOR, str(script)],
        input="\n".join(lines).encode(),
        capture_output=True,
        timeout=300,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    (top / "predecessor.log").write_bytes(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr[-4000:].decode(errors="replace")
    for base in bases.values():
        (base / "predecessor.json").write_text(json.dumps(seen(base)))
    return bases


def ours(base: pathlib.Path, tree: Tree) -> dict[str, Any]:
    """What the script sees under our plan."""
    environment = environ(base, tree) | {
        "SUPERVISOR_CHIEF_NAME": "master",
        "SUPERVISOR_MODEL_DIR_MIRROR": "off",
    }
    script = plan_of(environment, Asked()).processes[-1]
    run = functools.partial(
        subprocess.run, env=dict(script.env), cwd=script.cwd, check=True, timeout=60
    )
    instead = None
    try:
        run(script.argv)
    except OSError as error:
        instead = execution.explain(script, error).instead
    if instead is not None:
        run(instead.argv)
    return seen(base)


OTHERS: Final = (
    "CURRENT_HOST",
    "SAGEMAKER_JOB_NAME",
    "SAGEMAKER_REGION",
    "S3_REGION",
    "S3_USE_HTTPS",
    "TF_CPP_MIN_LOG_LEVEL",
    "TF_CONFIG",
)


def visible(what: Mapping[str, Any]) -> dict[str, Any]:
    """All that is compared, flat; JSON as what it means, where its order is not promised."""
    env = what["env"]
    flat = {name: value for name, value in env.items() if name.startswith("SM_")}
    flat.pop("SM_STUDIO_LOCAL_MODE", None)  # set for the predecessor's run here
    flat |= {name: env.get(name, "") for name in OTHERS}
    training = json.loads(flat.pop("SM_TRAINING_ENV"))
    flat |= {f"SM_TRAINING_ENV {key}": value for key, value in training.items()}
    flat["TF_CONFIG"] = json.loads(flat["TF_CONFIG"] or "null")
    flat["arguments"] = what["argv"]
    flat["working directory"] = what["cwd"]
    flat["PYTHONPATH has code"] = what["cwd"] in env["PYTHONPATH"].split(":")
    return flat


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)  # NaN is NaN here


@pytest.mark.parametrize("name", TREES)
def test_the_script_sees_the_same(name: str, predecessors: Mapping[str, pathlib.Path]) -> None:
    base = predecessors[name]
    recorded = json.loads((base / "predecessor.json").read_text())
    assert recorded, f"it did not run there; see {base.parent / 'predecessor.log'}"
    theirs = visible(recorded)
    mine = visible(ours(base, TREES[name]))
    absent = object()
    different = {
        key: (theirs.get(key, absent), mine.get(key, absent))
        for key in sorted({*theirs, *mine})
        if _text(theirs.get(key)) != _text(mine.get(key)) or (key in theirs) != (key in mine)
    }
    listed = {key for key, (names, _) in DIFFERENCES.items() if re.search(names, name)}
    unlisted = {key: pair for key, pair in different.items() if key not in listed}
    assert not unlisted, "(the predecessor's, ours)"


def test_the_guide_lists_every_difference() -> None:
    text = (ROOT / "supervisor" / "guide" / "contract.md").read_text()
    for _, reason in DIFFERENCES.values():
        assert reason in text
