"""The plan: TF_CONFIG, endpoints, command lines, budgets."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from supervisor.contract.contract import read_contract
from supervisor.contract.distribution import Strategy
from supervisor.faults import ContractError
from supervisor.life.attempts import Policy, Rules
from supervisor.life.words import Role, SuccessPolicy
from supervisor.plan.plan import Plan, chief_name, make_plan, tf_config
from tests.contract.test_contract import HYPER, facts

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
    assert server.argv == (sys.executable, "-P", "-m", "supervisor.programs.parameter_server")
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


def test_the_evaluator_is_kept_out_of_the_others_cluster_and_is_told_of_it() -> None:
    environ = {"PATH": "/bin", "SUPERVISOR_EVALUATOR": "last"}
    cluster = {
        "chief": ["algo-1:2222"],
        "worker": ["algo-2:2222"],
        "ps": ["algo-1:2223", "algo-2:2223"],
    }
    for current, kind, names in [
        (1, "chief", ["ps", "chief"]),
        (2, "worker", ["ps", "worker"]),
        (3, "evaluator", ["evaluator"]),
    ]:
        made = plan(PS, 3, current, environ=environ)
        task = {"type": kind, "index": 0}
        assert made.tf_config == {"cluster": cluster, "task": task, "environment": "cloud"}
        assert [spec.name for spec in made.processes] == names
        assert made.evaluator == "algo-3"
        assert made.hosts == ("algo-1", "algo-2", "algo-3"), "it ends with the others"
    mirrored = plan(MWMS, 3, 3, environ=environ)
    assert mirrored.tf_config == {
        "cluster": {"worker": ["algo-1:8890", "algo-2:8890"]},
        "task": {"type": "evaluator", "index": 0},
        "environment": "cloud",
    }


def test_an_instance_group_may_be_the_evaluator() -> None:
    groups = [
        {"instance_group_name": name, "instance_type": "x", "hosts": hosts}
        for name, hosts in [("train", ["algo-1", "algo-3"]), ("watch", ["algo-2"])]
    ]
    resources = {
        "current_host": "algo-3",
        "current_group_name": "train",
        "hosts": ["algo-1", "algo-2", "algo-3"],
        "instance_groups": groups,
    }
    hyper = {**PS, "sagemaker_distribution_instance_groups": '["train", "watch"]'}

    def made(evaluator: str) -> Plan:
        environ = {"PATH": "/bin", "SUPERVISOR_EVALUATOR": evaluator}
        return make_plan(read_contract(facts(hyper, resources, environ=environ)))

    assert made("watch").evaluator == "algo-2"
    config = made("watch").tf_config
    assert config is not None
    assert config["cluster"]["worker"] == ["algo-3:2222"]
    for wrong in ("train", "nobody"):
        with pytest.raises(ContractError, match="the groups are train, watch"):
            made(wrong)


@pytest.mark.parametrize(("hyper", "hosts"), [(PS, 2), (PS, 1), (MWMS, 1), (HYPER, 3)])
def test_an_evaluator_needs_a_training_beside_it(hyper: dict[str, Any], hosts: int) -> None:
    with pytest.raises(ContractError, match="SUPERVISOR_EVALUATOR"):
        plan(hyper, hosts, environ={"PATH": "/bin", "SUPERVISOR_EVALUATOR": "last"})


def test_policies_come_from_the_settings() -> None:
    environ = {
        "PATH": "/bin",
        "SUPERVISOR_SUCCESS_POLICY": "0.75",
        "SUPERVISOR_FAILURE_POLICY": "tolerate:2",
    }
    made = plan(PS, 4, environ=environ)
    assert (made.success_policy, made.success_share) == (SuccessPolicy.SHARE, 0.75)
    assert made.tolerated_failures == 2
    plain = plan(PS, 4)
    assert (plain.success_policy, plain.tolerated_failures) == (SuccessPolicy.CHIEF, 0)


# --------------------------------------------------------------------------- who runs what

GROUPS = [
    {"instance_group_name": "tf", "instance_type": "g", "hosts": ["algo-2", "algo-3"]},
    {"instance_group_name": "params", "instance_type": "c", "hosts": ["algo-1", "algo-4"]},
]


def plans(hyper: dict[str, Any], groups: object = None, **environ: str) -> dict[str, Plan]:
    """The plans of four hosts."""
    names = [f"algo-{number}" for number in range(1, 5)]
    made = {}
    for name in names:
        resources: dict[str, Any] = {"current_host": name, "hosts": names}
        if isinstance(groups, list):
            resources["instance_groups"] = groups
            own = [g["instance_group_name"] for g in groups if name in g["hosts"]]
            resources["current_group_name"] = own[0]
        made[name] = make_plan(read_contract(facts(hyper, resources, environ=environ)))
    return made


def who_runs_what(made: dict[str, Plan]) -> dict[str, list[str]]:
    return {host: [spec.name for spec in each.processes] for host, each in made.items()}


@pytest.mark.parametrize(
    ("setting", "runs", "servers"),
    [
        ("all", [["ps", "chief"], ["ps", "worker"], ["ps", "worker"], ["ps", "worker"]], "1234"),
        ("members", [["chief"], ["ps", "worker"], ["ps", "worker"], ["ps", "worker"]], "234"),
        ("1", [["ps", "chief"], ["worker"], ["worker"], ["worker"]], "1"),
        ("2", [["ps", "chief"], ["ps", "worker"], ["worker"], ["worker"]], "12"),
        ("group:params", [["ps"], ["chief"], ["worker"], ["ps"]], "14"),
    ],
)
@pytest.mark.parametrize("worker", ["script", "server"])
def test_the_layout_of_parameter_servers(
    setting: str, runs: list[list[str]], servers: str, worker: str
) -> None:
    made = plans(PS, GROUPS, SUPERVISOR_PS_HOSTS=setting, SUPERVISOR_WORKER=worker)
    if setting != "group:params":  # without it every group is a distribution by itself
        made = plans(PS, SUPERVISOR_PS_HOSTS=setting, SUPERVISOR_WORKER=worker)
    assert list(who_runs_what(made).values()) == runs
    clusters, tasks = [], set()
    for host, each in made.items():
        for spec in each.processes:
            config = json.loads(spec.env["TF_CONFIG"])
            clusters.append(config["cluster"])
            task = config["task"]
            assert task["type"] == spec.role
            port = {"ps": 2223}.get(spec.role, 2222)
            assert config["cluster"][spec.role][task["index"]] == f"{host}:{port}"
            assert port in each.listening
            tasks.add((spec.role, task["index"]))
            blind = spec.env.get("CUDA_VISIBLE_DEVICES") == "-1"
            assert blind == (spec.role is Role.PS)
            ours = spec.role is Role.PS or (worker == "server" and spec.role is Role.WORKER)
            assert spec.essential == ours
            assert (spec.argv[-1] == "supervisor.programs.parameter_server") == ours
        assert len(each.listening) == len(each.processes)
        scripts = {h for h, p in made.items() if not all(s.essential for s in p.processes)}
        assert set(each.hosts) - set(each.scriptless) == scripts
        assert each.master == next(h for h, p in made.items() if p.processes[-1].name == "chief")
    assert all(cluster == clusters[0] for cluster in clusters), "one cluster for all processes"
    assert len(tasks) == len(clusters), "no task twice"
    assert clusters[0]["ps"] == [f"algo-{digit}:2223" for digit in servers]
    entries = sum(len(addresses) for addresses in clusters[0].values())
    assert entries == len(clusters), "every task of the cluster is somebody's"


@pytest.mark.parametrize(
    ("setting", "groups", "message"),
    [
        ("5", None, r"SUPERVISOR_PS_HOSTS.*at most 4"),
        ("group:none", GROUPS, r"SUPERVISOR_PS_HOSTS.*params, tf"),
        ("group:params", None, r"SUPERVISOR_PS_HOSTS.*it has none"),
        ("group:all", [{**GROUPS[0], "instance_group_name": "all",
                        "hosts": ["algo-1", "algo-2", "algo-3", "algo-4"]}], "beside which"),
        ("some", None, "a number of hosts from 1"),
        ("0", None, "a number of hosts from 1"),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_be_is_refused(setting: str, groups: object, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        plans(PS, groups, SUPERVISOR_PS_HOSTS=setting)


@pytest.mark.parametrize(
    ("setting", "worker", "runs", "servers"),
    [
        ("all", "script", [["ps", "chief"], ["ps", "worker"], ["ps", "worker"], ["evaluator"]],
         "123"),
        ("members", "server", [["chief"], ["ps", "worker"], ["ps", "worker"], ["evaluator"]], "23"),
        ("group:params", "server", [["ps"], ["chief"], ["worker"], ["evaluator"]], "1"),
    ],
)  # fmt: skip
def test_the_evaluator_beside_a_layout(
    setting: str, worker: str, runs: list[list[str]], servers: str
) -> None:
    environ = {
        "SUPERVISOR_PS_HOSTS": setting,
        "SUPERVISOR_WORKER": worker,
        "SUPERVISOR_EVALUATOR": "last",
    }
    groups = [
        {**GROUPS[1], "hosts": ["algo-1"]},
        {**GROUPS[0], "hosts": ["algo-2", "algo-3", "algo-4"]},
    ]
    made = plans(PS, groups if ":" in setting else None, **environ)
    assert list(who_runs_what(made).values()) == runs
    for each in made.values():
        for spec in each.processes:
            cluster = json.loads(spec.env["TF_CONFIG"])["cluster"]
            assert cluster["ps"] == [f"algo-{digit}:2223" for digit in servers]
        assert each.evaluator not in each.scriptless
        assert len(each.listening) == len(each.processes) - (each.host == each.evaluator)


def test_worker_servers_are_for_parameter_servers() -> None:
    made = plan(MWMS, 2, 2, environ={"SUPERVISOR_WORKER": "server"})
    assert [spec.name for spec in made.processes] == ["worker"]
    assert not made.processes[0].essential
    assert "SUPERVISOR_WORKER=server is ignored" in made.notes[0]


@pytest.mark.parametrize("outside", ["independent", "follow"])
def test_hosts_outside_the_distribution(outside: str) -> None:
    hyper = {**PS, "sagemaker_distribution_instance_groups": '["tf"]'}
    made = plans(hyper, GROUPS, SUPERVISOR_OUTSIDE=outside)
    assert who_runs_what(made) == {
        "algo-1": ["chief" if outside == "independent" else "worker"],
        "algo-2": ["ps", "chief"],
        "algo-3": ["ps", "worker"],
        "algo-4": ["chief" if outside == "independent" else "worker"],
    }
    inside = ("algo-2", "algo-3")
    everyone = (*inside, "algo-1", "algo-4")
    for host in inside:
        assert made[host].hosts == (everyone if outside == "follow" else inside)
        config = made[host].tf_config
        assert config is not None
        assert config["cluster"]["ps"] == ["algo-2:2223", "algo-3:2223"]
    for host in ("algo-1", "algo-4"):
        assert made[host].hosts == (everyone if outside == "follow" else (host,))
        assert made[host].tf_config is None
        assert "TF_CONFIG" not in made[host].processes[0].env
        assert not made[host].listening


# --------------------------------------------------------------------------- MPI

MPI = {**HYPER, "sagemaker_mpi_enabled": "true"}


def test_mpirun_on_the_master_and_sshd_on_the_others() -> None:
    more = {
        "sagemaker_mpi_num_of_processes_per_host": "2",
        "sagemaker_mpi_custom_mpi_options": "\"-x NAME='a b' --NCCL_DEBUG WARN -verbose\"",
        "lr": "0.1",
    }
    environ = {"PATH": "/bin", "API_TOKEN": "geheim-geheim", "HOSTNAME": "x", "OMPI_MCA_a": "b"}
    made = [plan({**MPI, **more}, 3, current, environ=environ) for current in (1, 2, 3)]
    assert [spec.name for each in made for spec in each.processes] == ["launcher", "sshd", "sshd"]
    assert made[0].tf_config is None
    assert made[0].chief_endpoint is None
    assert made[0].success_policy is SuccessPolicy.CHIEF
    assert made[0].scriptless == ("algo-2", "algo-3")
    assert [each.listening for each in made] == [(), (22,), (22,)]
    launcher = made[0].processes[0]
    line = " ".join(launcher.argv)
    assert "--member algo-2 algo-2 22 --member algo-3 algo-3 22 -- mpirun" in line
    assert "mpirun --host algo-1:2,algo-2:2,algo-3:2 -np 6 " in line
    assert launcher.argv[-4:] == (sys.executable, "train.py", "--lr", "0.1")
    at = launcher.argv.index("-verbose")
    assert launcher.argv[at - 2 : at] == ("-x", "NAME=a b"), "after ours, NCCL_DEBUG taken out"
    assert launcher.env["NCCL_DEBUG"] == "WARN"
    assert "geheim" not in line
    carried = {b for a, b in zip(launcher.argv, launcher.argv[1:], strict=False) if a == "-x"}
    assert {"API_TOKEN", "PATH", "SM_HPS", "NCCL_DEBUG"} <= carried
    assert not carried & {"HOSTNAME", "OMPI_MCA_a", "SM_CURRENT_HOST", "SM_TRAINING_ENV"}
    daemon = made[1].processes[0]
    assert daemon.essential
    assert not launcher.essential
    assert daemon.env["SM_CURRENT_HOST"] == "algo-2"
    assert ("--variable", "SM_CURRENT_HOST") in zip(daemon.argv, daemon.argv[1:], strict=False)


def test_mpi_on_one_host_needs_no_ssh() -> None:
    made = plan({**MPI, "sagemaker_mpi_num_processes": "3"}, 1)
    line = " ".join(made.processes[0].argv)
    assert "mpirun --host localhost -np 3 " in line
    assert "--member" not in line
    assert " -x " not in line, "its ranks inherit everything"


def test_mpi_ports_are_looked_up_and_may_not_collide() -> None:
    ports = {"algo-1": 21000, "algo-2": 21001}
    places = {
        host: {"address": "127.0.0.1", "ports": {"train": port, "status": port + 100}}
        for host, port in ports.items()
    }
    made = plan(MPI, 2, overlay={"hosts": places})
    assert "--member algo-2 127.0.0.1 21001" in " ".join(made.processes[0].argv)
    with pytest.raises(ContractError, match="the status port of algo-2 and the ssh port of algo-2"):
        plan(MPI, 2, 2, environ={"SUPERVISOR_STATUS_PORT": "22"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sagemaker_mpi_num_of_processes_per_host", "0", "a number of processes, 1 or more"),
        ("sagemaker_mpi_num_processes", '"many"', "a number of processes, 1 or more"),
        ("sagemaker_mpi_custom_mpi_options", '"-x \'open"', "words as in a shell: no closing"),
        ("sagemaker_parameter_server_enabled", "true", "both true"),
    ],
)
def test_bad_mpi_options_are_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        plan({**MPI, key: value}, 2)


# --------------------------------------------------------------------------- going on


def with_settings(**given: str) -> Plan:
    environ = {f"SUPERVISOR_{name.upper()}": text for name, text in given.items()}
    return plan(PS, 2, environ={"PATH": "/bin", **environ})


def test_by_what_a_failure_is_judged() -> None:
    rules = '{"restart": [3], "stop": ["NaN"]}'
    made = with_settings(restarts="3", restart_rules=rules, stop_limit_s="90")
    assert made.restart_policy == Policy(
        restarts=3, rules=Rules(frozenset({3}), (), frozenset(), ("NaN",)), needed_s=90.0
    )
    assert not [note for note in made.notes if "RESTART" in note]
    assert with_settings(restarts="1").restart_policy == Policy(1, needed_s=120.0)
    assert with_settings().restart_policy is None


def test_rules_without_restarts_are_said_to_be_ignored() -> None:
    made = with_settings(restart_rules='{"stop": [3]}')
    assert made.restart_policy is None
    assert "SUPERVISOR_RESTART_RULES is ignored: SUPERVISOR_RESTARTS is 0" in made.notes


def test_the_script_is_told_its_attempt_and_where_to_say_its_progress() -> None:
    outer = {"SUPERVISOR_ATTEMPT": "7", "SUPERVISOR_LAST_CAUSE": "of a job around this one"}
    server, script = plan(PS, 2, environ={"PATH": "/bin", **outer}).processes
    assert script.env["SUPERVISOR_ATTEMPT"] == "1"
    assert script.env["SUPERVISOR_PROGRESS_FILE"] == "/opt/ml/output/supervisor/progress.json"
    assert "SUPERVISOR_LAST_CAUSE" not in script.env
    assert not outer.keys() & server.env.keys()


def test_what_systemd_tells_a_supervisor_is_for_no_process_of_the_job() -> None:
    """A script would speak for the supervisor at its socket."""
    outer = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}
    for process in plan(PS, 2, environ={"PATH": "/bin", **outer}).processes:
        assert not outer.keys() & process.env.keys()


@pytest.mark.parametrize(("restarts", "loaded"), [("0", "False"), ("1", "True")])
def test_a_plan_without_restarts_does_not_load_what_judges_failures(
    restarts: str, loaded: str
) -> None:
    """The start of every script would wait for it."""
    source = (
        "import sys\n"
        "from supervisor.contract.contract import read_contract\n"
        "from supervisor.contract.facts import Facts\n"
        "from supervisor.plan.plan import make_plan\n"
        "files = {'hyperparameters.json': b'{\"sagemaker_program\": \"t.py\"}'}\n"
        f"environ = {{'SUPERVISOR_RESTARTS': '{restarts}'}}\n"
        "facts = Facts(base_dir='/x', environ=environ, files=files, code=frozenset({'t.py'}))\n"
        "make_plan(read_contract(facts))\n"
        "print('supervisor.life.attempts' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == loaded
