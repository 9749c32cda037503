"""The plan: TF_CONFIG, endpoints, command lines, budgets; and the layers of the package."""

from __future__ import annotations

import ast
import json
import pathlib
import sys
from typing import Any

import pytest

import supervisor
from supervisor.contract import Strategy, read_contract
from supervisor.faults import ContractError
from supervisor.model import Role
from supervisor.plan import Plan, SuccessPolicy, chief_name, make_plan, tf_config
from tests.test_contract import HYPER, facts

PS = {**HYPER, "sagemaker_parameter_server_enabled": "true"}
MWMS = {**HYPER, "sagemaker_multi_worker_mirrored_strategy_enabled": "true"}


def plan(hyper: dict[str, Any], hosts: int, current: int = 1, **more: Any) -> Plan:
    names = [f"algo-{number}" for number in range(1, hosts + 1)]
    resources = {"current_host": f"algo-{current}", "hosts": names}
    return make_plan(read_contract(facts(hyper, resources, **more)))


def test_the_seed_convention_of_tf_config() -> None:
    cluster = {
        "chief": ["algo-1:2222"],
        "worker": ["algo-2:2222", "algo-3:2222"],
        "ps": ["algo-1:2223", "algo-2:2223", "algo-3:2223"],
    }
    for current, kind, index in [(1, "chief", 0), (2, "worker", 0), (3, "worker", 1)]:
        made = plan(PS, 3, current)
        task = {"type": kind, "index": index}
        expected = {"cluster": cluster, "task": task, "environment": "cloud"}
        assert made.tf_config == expected
        server, script = made.processes
        assert json.loads(script.env["TF_CONFIG"]) == expected
        assert json.loads(server.env["TF_CONFIG"])["cluster"] == cluster
        assert json.loads(server.env["TF_CONFIG"])["task"] == {"type": "ps", "index": current - 1}
        assert (script.name, server.name) == (kind, "ps")


def test_the_parameter_server_is_essential_blind_and_free_of_user_code() -> None:
    environ = {"PATH": "/bin", "SUPERVISOR_TOKEN": "geheim-geheim", "CUDA_VISIBLE_DEVICES": "0"}
    server, script = plan(PS, 2, environ=environ).processes
    assert server.argv == (sys.executable, "-P", "-m", "supervisor.parameter_server")
    assert server.essential
    assert not script.essential
    assert server.env["CUDA_VISIBLE_DEVICES"] == "-1"
    assert script.env["CUDA_VISIBLE_DEVICES"] == "0"
    assert "SUPERVISOR_TOKEN" not in {**server.env, **script.env}
    assert "/opt/ml/code" not in server.env.get("PYTHONPATH", "")
    assert server.cwd != script.cwd == "/opt/ml/code"


def test_multi_worker_mirrored_strategy_has_workers_only() -> None:
    made = plan(MWMS, 2, 2)
    assert made.tf_config == {
        "cluster": {"worker": ["algo-1:8890", "algo-2:8890"]},
        "task": {"type": "worker", "index": 1},
        "environment": "cloud",
    }
    assert [spec.name for spec in made.processes] == ["worker"]
    assert made.success_policy is SuccessPolicy.ALL


def test_one_host_runs_its_script_alone() -> None:
    made = plan(PS, 1)
    assert made.tf_config is None
    assert [spec.name for spec in made.processes] == ["chief"]
    assert "TF_CONFIG" not in made.processes[0].env
    assert "one host has no parameter server" in made.notes[0]


def test_a_parameter_server_task_on_one_host_is_an_error() -> None:
    made = plan(HYPER, 1)
    with pytest.raises(ContractError, match="a cluster of one host has no parameter server"):
        tf_config(made.contract, made.endpoints, Role.CHIEF, "algo-1", Role.PS)


@pytest.mark.parametrize(
    ("setting", "version", "name"),
    [
        ("auto", "2.21.0", "chief"),
        ("auto", "1.15.5", "master"),
        ("auto", None, "chief"),
        ("master", "2.21.0", "master"),
        ("chief", "1.15.5", "chief"),
    ],
)
def test_the_chiefs_name(setting: str, version: str | None, name: str) -> None:
    assert chief_name(setting, version) == name


def test_the_chiefs_name_is_the_same_in_script_server_and_process() -> None:
    made = plan(PS, 2, environ={"SUPERVISOR_CHIEF_NAME": "master"})
    server, script = made.processes
    assert script.name == script.role == "master"
    for spec in (server, script):
        assert set(json.loads(spec.env["TF_CONFIG"])["cluster"]) == {"master", "worker", "ps"}


def test_endpoints_come_from_the_overlay_where_there_is_one() -> None:
    ports = {"train": 21000, "ps": 21001, "status": 21002}
    overlay = {
        "hosts": {
            "algo-1": {"address": "127.0.0.1", "ports": ports},
            "algo-2": {"address": "127.0.0.1", "ports": {k: v + 10 for k, v in ports.items()}},
        },
        "arguments": ["--verbose", "a b"],
    }
    made = plan({**PS, "lr": "1"}, 2, 2, overlay=overlay)
    assert made.tf_config is not None
    assert made.tf_config["cluster"]["ps"] == ["127.0.0.1:21001", "127.0.0.1:21011"]
    assert str(made.endpoints["algo-2"].status) == "127.0.0.1:21012"
    assert str(made.chief_endpoint) == "127.0.0.1:21000"
    assert made.processes[-1].argv[1:] == ("train.py", "--lr", "1", "--verbose", "a b")


def test_colliding_ports_are_refused() -> None:
    with pytest.raises(ContractError, match="the status port of algo-1 and the training port"):
        plan(PS, 2, environ={"SUPERVISOR_STATUS_PORT": "2222"})
    same = {"hosts": {name: {"address": "127.0.0.1"} for name in ("algo-1", "algo-2")}}
    with pytest.raises(ContractError) as caught:
        plan(PS, 2, overlay=same)
    assert len(caught.value.faults) == 3
    alone = plan(HYPER, 1, environ={"SUPERVISOR_STATUS_PORT": "2222"})
    assert alone.endpoints["algo-1"].status.port == 2222, "nothing else listens there"


@pytest.mark.parametrize(
    ("name", "code", "start"),
    [
        ("train.py", {"train.py"}, (sys.executable, "train.py")),
        ("pkg.py", {"setup.py"}, (sys.executable, "-m", "pkg")),
        ("run.sh", {"run.sh"}, ("./run.sh",)),
        ("bin/run", {"bin/run"}, ("bin/run",)),
    ],
)
def test_command_lines(name: str, code: set[str], start: tuple[str, ...]) -> None:
    made = plan({"sagemaker_program": name, "x": '"a b"'}, 1, code=frozenset(code))
    assert made.processes[0].argv == (*start, "-x", "a b")


def test_the_script_is_told_its_budget_and_its_checkpoints() -> None:
    script = plan(HYPER, 1).processes[0]
    assert script.env["SUPERVISOR_STOP_BUDGET_S"] == "92"
    assert script.env["SUPERVISOR_CHECKPOINT_DIR"] == "/opt/ml/checkpoints"


def test_hosts_outside_a_distribution_end_alone() -> None:
    made = plan(HYPER, 3)
    assert made.strategy is Strategy.NONE
    assert made.success_policy is SuccessPolicy.ALL
    assert made.chief_endpoint is None


# --------------------------------------------------------------------------- layers

_LAYERS = [
    {"model", "faults", "masking", "memory"},
    {"events", "settings"},
    {"contract", "protocol", "evidence", "liveness", "mpi_words"},
    {"environment", "outcome", "mpi_job"},
    {"plan"},
    {"lifecycle"},
]
"""The pure layers, lowest first. A module imports from layers below its own only."""
_WORLD = {
    "asyncio", "subprocess", "aiohttp", "socket", "os", "threading", "multiprocessing", "select",
    "time", "logging", "tensorflow", "aiobotocore", "tenacity", "rich", "prometheus_client",
}  # fmt: skip


def _imports(path: pathlib.Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "supervisor":
            found |= {f"supervisor.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_pure_layers_touch_no_world_and_import_downwards() -> None:
    package = pathlib.Path(supervisor.__file__).parent
    below: set[str] = set()
    for layer in _LAYERS:
        for module in layer:
            path = package / f"{module}.py"
            for name in _imports(path):
                top, _, rest = name.partition(".")
                assert top not in _WORLD, f"{module} is pure and imports {name}"
                if top == "supervisor":
                    assert rest in below, f"{module} imports {rest}, which is not below it"
        below |= layer


def test_only_the_child_imports_tensorflow() -> None:
    package = pathlib.Path(supervisor.__file__).parent
    for path in package.rglob("*.py"):
        if path.name == "parameter_server.py" or "examples" in path.parts:
            continue
        tops = {name.partition(".")[0] for name in _imports(path)}
        assert not tops & {"tensorflow", "keras"}, path
