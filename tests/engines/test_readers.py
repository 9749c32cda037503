"""Readers of variables: what platforms set, recorded or as their source has it → the job."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from supervisor.contract.contract import Contract, read_contract
from supervisor.contract.facts import Asked, Engine, Facts
from supervisor.contract.told import Code
from supervisor.engines.choosing import choose
from supervisor.engines.hostlist import MOST_HOSTS, expand
from supervisor.engines.world import World
from supervisor.faults import ContractError
from supervisor.plan.plan import Plan, make_plan

RECORDED = pathlib.Path(__file__).parent.parent / "recorded" / "engines"
POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
INDEXED = POD | {
    "JOB_COMPLETION_INDEX": "1",
    "HOSTNAME": "train-1",
    "SUPERVISOR_HOST_COUNT": "3",
    "SUPERVISOR_HOST_DOMAIN": "train.ml.svc",
}
TRAINER = POD | {
    "PET_NNODES": "3",
    "PET_NPROC_PER_NODE": "1",
    "PET_NODE_RANK": "2",
    "PET_MASTER_ADDR": "mnist-node-0-0.mnist",
    "PET_MASTER_PORT": "29500",
    "JOB_COMPLETION_INDEX": "2",
}
COMMAND = Code("/job", "train.py", ("--lr", "0.1"))
STEP = {
    "SLURM_JOB_ID": "42",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-3]",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "n2",
    "SLURM_JOB_PARTITION": "main",
    "SLURM_CONF": "/etc/slurm.conf",
}


def world(
    environ: Mapping[str, str],
    *,
    flags: Mapping[str, str] | None = None,
    hostname: str = "desk",
    here: Sequence[str] = (),
    readable: Mapping[str, str] | None = None,
) -> World:
    return World(
        environ,
        flags or {},
        lambda: hostname,
        here.__contains__,
        lambda path: (readable or {}).get(path, ""),
    )


def engine(environ: Mapping[str, str], **kwargs: Any) -> Engine:
    return choose(world(environ, **kwargs), has_files=False)


def contract(
    environ: Mapping[str, str],
    *,
    files: Mapping[str, object] | None = None,
    command: Code | None = COMMAND,
    **kwargs: Any,
) -> Contract:
    return read_contract(
        Facts(
            base_dir="/base",
            environ=environ,
            files={name: json.dumps(content).encode() for name, content in (files or {}).items()},
            code=frozenset({"train.py"}),
            flags=kwargs.get("flags") or {},
            engine=choose(
                world(environ, **kwargs), has_files="resourceconfig.json" in (files or {})
            ),
            given=command,
        )
    )


def plan(environ: Mapping[str, str], **kwargs: Any) -> Plan:
    return make_plan(contract(environ, **kwargs))


def refusal(environ: Mapping[str, str], **kwargs: Any) -> str:
    with pytest.raises(ContractError) as caught:
        plan(environ, **kwargs)
    return str(caught.value)


def names(found: Engine) -> list[str]:
    assert found.job is not None
    assert not found.faults, found.faults
    return list(found.job.hosts)


# --------------------------------------------------------------------------- lists of hosts


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", "n1"),
        ("a,b,c", "a b c"),
        (" a , b ", "a b"),
        ("n[1-3,7]", "n1 n2 n3 n7"),
        ("n[08-11,14]", "n08 n09 n10 n11 n14"),
        ("n[099-101]", "n099 n100 n101"),
        ("gpu[1-2].site.example,cpu-7.site.example",
         "gpu1.site.example gpu2.site.example cpu-7.site.example"),
        ("r[1-2]n[1-2]", "r1n1 r1n2 r2n1 r2n2"),
        ("r[1-2]-[8-9].x", "r1-8.x r1-9.x r2-8.x r2-9.x"),
        ("n[5]", "n5"),
        ("n[1-2],m[3-4],x", "n1 n2 m3 m4 x"),
    ],
)  # fmt: skip
def test_a_list_of_hosts(text: str, hosts: str) -> None:
    assert expand(text) == tuple(hosts.split())


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "names of hosts"),
        (",", "names of hosts"),
        ("a,,b", "names of hosts"),
        ("n[1-3", "brackets that are closed"),
        ("n1-3]", "brackets that are closed"),
        ("n[[1-2]-3]", "brackets that are closed"),
        ("n[3-1]", "'3-1'"),
        ("n[a-b]", "'a-b'"),
        ("n[]", "''"),
        ("n[1-]", "'1-'"),
        ("n[1-99999999]", f"at most {MOST_HOSTS}"),
        ("a[1-1000]b[1-1000]", f"at most {MOST_HOSTS}"),
        ("n[1-99999999999]", "'1-99999999999'"),
    ],
)
def test_a_list_that_is_none(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=r".*") as caught:
        expand(text)
    assert wrong in str(caught.value)


# --------------------------------------------------------------------------- which engine


@pytest.mark.parametrize(
    ("environ", "name", "evidence"),
    [
        ({}, "local", "no variables of a platform"),
        (STEP, "slurm", "SLURM_JOB_ID=42, SLURM_STEP_ID=0, SLURM_STEP_NODELIST=n[1-3]"),
        (INDEXED, "kubernetes", "KUBERNETES_SERVICE_HOST=10.96.0.1, JOB_COMPLETION_INDEX=1"),
        (POD, "kubernetes", "KUBERNETES_SERVICE_HOST=10.96.0.1"),
        ({"JOB_COMPLETION_INDEX": "1"}, "local", "no variables"),
        ({"SUPERVISOR_HOSTS": "a,b", "SUPERVISOR_HOST_INDEX": "1"}, "hosts",
         "SUPERVISOR_HOSTS=a,b, SUPERVISOR_HOST_INDEX=1"),
        ({**STEP, **INDEXED, "SUPERVISOR_HOSTS": "a,desk"}, "hosts", "SUPERVISOR_HOSTS=a,desk"),
        ({**STEP, **INDEXED, "TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "tf_config",
         "TF_CONFIG"),
        ({**STEP, **INDEXED}, "slurm", "SLURM_JOB_ID=42"),
        ({**INDEXED, "SKYPILOT_NODE_IPS": "10.0.0.1"}, "kubernetes", "KUBERNETES_SERVICE_HOST"),
        ({"TF_CONFIG": '{"task": {"type": "worker"}}'}, "local", ""),
        ({"TF_CONFIG": "not json"}, "local", ""),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, "hosts",
         "OMPI_COMM_WORLD_RANK=0"),
        ({**STEP, "SUPERVISOR_ENGINE": "local"}, "local", "SUPERVISOR_ENGINE=local"),
        ({**STEP, **INDEXED, "SUPERVISOR_ENGINE": "kubernetes"}, "kubernetes",
         "SUPERVISOR_ENGINE=kubernetes, KUBERNETES_SERVICE_HOST"),
        ({**STEP, "SUPERVISOR_ENGINE": "AUTO"}, "slurm", "SLURM_JOB_ID=42"),
    ],
)  # fmt: skip
def test_the_engine_is_chosen_by_evidence(
    environ: dict[str, str], name: str, evidence: str
) -> None:
    found = engine(environ)
    assert found.name == name
    assert found.evidence.startswith(evidence)


def test_flags_choose_as_variables_do() -> None:
    assert engine(STEP, flags={"engine": "local"}).name == "local"
    found = engine({}, flags={"hosts": "a,desk"})
    assert (found.name, names(found)) == ("hosts", ["a", "desk"])
    assert found.job is not None
    assert found.job.current == "desk"


def test_files_win_and_what_contradicts_them_is_a_fault() -> None:
    two = {"resourceconfig.json": {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]}}
    switch = {"hyperparameters.json": {"sagemaker_parameter_server_enabled": "true"}}
    assert contract({}, files=two).engine.name == "sagemaker"
    step = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}  # fmt: skip
    assert contract({**STEP, **step}, files=two).hosts == ("algo-1", "algo-2")
    said = refusal(STEP, files=two)
    assert "/base/input/config/resourceconfig.json: hosts: found algo-1, algo-2, and" in said
    assert "SLURM_JOB_ID=42" in said
    assert "SUPERVISOR_ENGINE=sagemaker takes the file" in said
    assert "n1, n2, n3" in said
    assert contract({**STEP, "SUPERVISOR_ENGINE": "sagemaker"}, files=two).hosts[0] == "algo-1"
    assert "SUPERVISOR_HOSTS" in refusal(
        {"SUPERVISOR_HOSTS": "a,b", "SUPERVISOR_HOST_INDEX": "0"}, files=two
    )
    # A pod alone, or a batch script's shell, says nothing of hosts.
    assert contract(POD, files=two).hosts == ("algo-1", "algo-2")
    made = plan({"SUPERVISOR_STRATEGY": "ps"}, files={**two, **switch})
    assert made.strategy == "ps"
    said = refusal({"SUPERVISOR_STRATEGY": "mwms"}, files={**two, **switch})
    assert "SUPERVISOR_STRATEGY: found 'mwms'; expected ps, or sagemaker_parameter_server" in said


def test_a_bad_engine_is_named() -> None:
    assert "SUPERVISOR_ENGINE: found 'slrum'" in refusal({"SUPERVISOR_ENGINE": "slrum"})


# --------------------------------------------------------------------------- Slurm


@pytest.mark.parametrize("name", ["slurm-srun", "slurm-sbatch"])
def test_recorded_tasks_of_slurm(name: str) -> None:
    lines = (RECORDED / f"{name}.txt").read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines)
    found = engine(environ)
    assert names(found) == ["n1", "n2", "n3"]
    assert found.job is not None
    assert found.job.current == "n2"
    made = plan(environ)
    assert made.strategy == "ps"
    assert [spec.name for spec in made.processes] == ["ps", "worker"]
    assert made.contract.job_name == f"slurm-{environ['SLURM_JOB_ID']}"
    assert made.stopped_code == 143
    settings = made.contract.settings
    assert (settings.log_format, settings.requirements) == ("prefix", "skip")
    assert settings.stop_limit_s == 30


def test_ports_are_the_jobs_own() -> None:
    """Two jobs on a node, or two steps of one: the second ended, its other hosts waited 900 s."""
    seen: dict[tuple[str, str], set[int]] = {}
    for job in ("42", "43", "44"):
        for step in ("0", "1"):
            environ = {**STEP, "SLURM_JOB_ID": job, "SLURM_STEP_ID": step}
            hosts = [
                plan({**environ, "SLURMD_NODENAME": node}).endpoints for node in ("n1", "n2", "n3")
            ]
            assert hosts[0] == hosts[1] == hosts[2]
            each = hosts[0]["n2"]
            ports = {each.train.port, each.ps.port, each.status.port}
            assert len(ports) == 3
            assert all(1024 < port < 32768 for port in ports)
            assert not any(ports & others for others in seen.values())
            seen[job, step] = ports
    assert plan({**STEP, "SUPERVISOR_STATUS_PORT": "2224"}).endpoints["n1"].status.port == 2224


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SLURM_STEP_NODELIST": "n[1-3"}, "SLURM_STEP_NODELIST: found 'n[1-3'; expected brackets"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3)"},
         "SLURM_STEP_TASKS_PER_NODE: found '2(x3)'; expected one task on each node: srun "),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,2,1"}, "SLURM_STEP_TASKS_PER_NODE: found '1,2,1'"),
        ({"SLURM_STEP_NUM_NODES": "2"}, "SLURM_STEP_NUM_NODES: found 2; expected as many as"),
        ({"SLURMD_NODENAME": "x", "SLURM_NODEID": "7"}, "SLURM_NODEID: found '7'; expected "),
        ({"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID: found 'x'; expected the number of the job"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_slurms_variables(change: dict[str, str], said: str) -> None:
    text = refusal({**STEP, **change})
    assert f"environment: {said}" in text
    assert len(text.splitlines()) == 1


def test_odd_steps_of_slurm() -> None:
    part = {
        **STEP, "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_STEP_NODELIST": "n3",
        "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_NODEID": "0",
        "SLURMD_NODENAME": "n3",
    }  # fmt: skip
    assert contract(part).hosts == ("n3",)
    assert plan(part).strategy == "none"
    dots = {**STEP, "SLURM_STEP_NODELIST": "n[08-10].site", "SLURMD_NODENAME": "n09.site"}
    assert contract(dots).current_host == "n09.site"
    # The node's name is not in the list: its number counts.
    assert contract({**STEP, "SLURMD_NODENAME": "other"}).current_host == "n2"
    mixed = {**STEP, "SLURM_STEP_TASKS_PER_NODE": "1,1(x2)"}
    assert contract(mixed).hosts == ("n1", "n2", "n3")
    assert contract({**STEP, "SLURM_RESTART_COUNT": "2"}).settings.restart_count == 2
    assert contract({**STEP, "SLURM_JOB_END_TIME": "1795000000"}).engine.deadline == 1795000000


def test_mpirun_is_not_told_of_slurm() -> None:
    """It would start its ranks by srun, in a step that waits for ours to end."""
    environ = {**STEP, "SLURM_ARRAY_TASK_ID": "7", "SLURMD_NODENAME": "n1"}
    made = plan({**environ, "SUPERVISOR_STRATEGY": "mpi"})
    [launcher] = made.processes
    told = {name for name in launcher.env if name.startswith("SLURM")}
    assert told == {"SLURM_ARRAY_TASK_ID"}
    assert "btl_tcp_if_include" not in launcher.argv
    assert ["--member", "n2", "n2", str(made.endpoints["n2"].train.port)] == [
        *launcher.argv[launcher.argv.index("--member") :][:4]
    ]
    assert made.endpoints["n2"].train.port > 1024


def test_a_batch_script_is_told_to_use_srun() -> None:
    batch = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_NODEID": "0"}
    said = refusal(batch)
    assert said.startswith("environment: SLURM_STEP_NODELIST: found nothing; expected ")
    assert "start it with srun" in said
    alone = contract({**batch, "SLURM_JOB_NODELIST": "n1"})
    assert alone.hosts == ("n1",)
    assert any("start it with srun" in note for note in alone.notes)


@pytest.mark.parametrize(
    ("config", "limit_s", "source"),
    [
        ("", 30, "KillWait (its default)"),
        ("KillWait=8\n", 8, "KillWait in /etc/slurm.conf"),
        ("killwait = 60 # long\n", 60, "KillWait in"),
        ("#KillWait=8\n", 30, "its default"),
        ("KillWait=60\nPartitionName=main Nodes=ALL GraceTime=10\n", 10, "GraceTime of the part"),
        ("KillWait=8\nPartitionName=main Nodes=ALL GraceTime=10\n", 8, "KillWait in"),
        ("KillWait=60\nPartitionName=other Nodes=ALL GraceTime=10\n", 60, "KillWait in"),
        ("KillWait=60\nPartitionName=main Nodes=ALL GraceTime=0\n", 60, "KillWait in"),
        (
            "KillWait=60\nPartitionName=DEFAULT GraceTime=20\nPartitionName=main Nodes=ALL\n",
            20,
            "GraceTime of the part",
        ),
    ],
)
def test_the_stop_limit_is_slurms(config: str, limit_s: float, source: str) -> None:
    made = plan(STEP, readable={"/etc/slurm.conf": config})
    assert made.budgets.stop_limit_s == limit_s
    assert source in made.contract.engine.defaults["stop_limit_s"][1]
    budgets = made.budgets
    shares = (budgets.stop_grace_s, budgets.group_s, budgets.server_grace_s, budgets.kill_s)
    assert sum(shares) + budgets.publish_s + budgets.record_s <= limit_s + 0.001
    assert budgets.stop_grace_s > 0.4 * limit_s


# --------------------------------------------------------------------------- Kubernetes


def test_an_indexed_job() -> None:
    found = contract(INDEXED)
    assert found.hosts == tuple(f"train-{i}.train.ml.svc" for i in range(3))
    assert found.current_host == "train-1.train.ml.svc"
    made = plan(INDEXED)
    assert made.strategy == "ps"
    assert str(made.endpoints["train-0.train.ml.svc"].status) == "train-0.train.ml.svc:2224"
    assert made.budgets.stop_limit_s == 30
    assert made.contract.engine.failure_files == ("/dev/termination-log",)
    assert made.stopped_code == 143
    assert found.job_name == "train"
    assert contract({**INDEXED, "SUPERVISOR_STOP_LIMIT_S": "120"}).settings.stop_limit_s == 120


def test_kubeflows_trainer() -> None:
    found = contract(TRAINER)
    assert found.hosts == tuple(f"mnist-node-0-{i}.mnist" for i in range(3))
    assert found.current_host == "mnist-node-0-2.mnist"
    assert found.settings.status_port == 29500
    assert found.job_name == "mnist"
    without = {name: value for name, value in TRAINER.items() if name != "PET_NODE_RANK"}
    assert contract(without).current_host == "mnist-node-0-2.mnist"
    one = {**POD, "PET_NNODES": "1", "PET_NODE_RANK": "0", "HOSTNAME": "mnist-node-0-0"}
    assert contract(one).hosts == ("mnist-node-0-0",)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({**INDEXED, "JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX: found 'x'; expected "),
        ({**INDEXED, "JOB_COMPLETION_INDEX": "3", "HOSTNAME": "train-3"},
         "SUPERVISOR_HOST_COUNT: found 3; expected more than JOB_COMPLETION_INDEX, 3"),
        ({**INDEXED, "SUPERVISOR_HOST_COUNT": ""}, "SUPERVISOR_HOST_COUNT: found nothing; "),
        ({**INDEXED, "SUPERVISOR_HOST_DOMAIN": ""}, "SUPERVISOR_HOST_DOMAIN: found nothing; "),
        ({**INDEXED, "HOSTNAME": "other"}, "HOSTNAME: found 'other'; expected a name that ends"),
        ({**TRAINER, "PET_NNODES": "1:4"}, "PET_NNODES: found '1:4'; expected a number of nodes"),
        ({**TRAINER, "PET_NODE_RANK": "9"}, "PET_NODE_RANK: found '9'; expected the rank "),
        ({**TRAINER, "PET_MASTER_ADDR": "10.0.0.1"}, "PET_MASTER_ADDR: found '10.0.0.1'; expected"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_pods_variables(environ: dict[str, str], said: str) -> None:
    text = refusal(environ)
    assert f"environment: {said}" in text
    assert len(text.splitlines()) == 1


def test_a_pod_alone_and_one_among_services_of_our_name() -> None:
    alone = contract(POD)
    assert alone.hosts == ("localhost",)
    assert alone.settings.stop_limit_s == 30
    services = {
        "SUPERVISOR_PORT": "tcp://10.0.0.1:80",
        "SUPERVISOR_STATUS_PORT": "tcp://10.0.0.2:2224",
        "SUPERVISOR_HOSTS_PORT": "tcp://10.0.0.2:80",
        "SUPERVISOR_PS_PORT": "tcp://10.0.0.2:80",
        "SUPERVISOR_ENGINE_SERVICE_HOST": "10.0.0.3",
    }
    made = plan({**INDEXED, **services})
    assert made.endpoints[made.host].status.port == 2224


# --------------------------------------------------------------------------- TF_CONFIG


def tf(cluster: Mapping[str, Any], kind: str, index: object = 0, **more: Any) -> dict[str, str]:
    config = {"cluster": cluster, "task": {"type": kind, "index": index}, **more}
    return {"TF_CONFIG": json.dumps(config)}


TFJOB = {
    "chief": ["job-chief-0.ns.svc:2222"],
    "worker": ["job-worker-0.ns.svc:2222", "job-worker-1.ns.svc:2222"],
    "ps": ["job-ps-0.ns.svc:2222", "job-ps-1.ns.svc:2222"],
}


def test_a_tfjob_with_parameter_servers() -> None:
    """Each host does what its task says, with the platform's own words for it."""
    runs = {}
    for kind, count in (("chief", 1), ("worker", 2), ("ps", 2)):
        for index in range(count):
            environ = tf(TFJOB, kind, index, environment="cloud") | POD
            made = plan(environ)
            runs[made.host] = [spec.name for spec in made.processes]
            for spec in made.processes:
                given = spec.env["TF_CONFIG"]
                assert given == environ["TF_CONFIG"] or json.loads(given) == json.loads(
                    environ["TF_CONFIG"]
                )
                if not spec.essential:
                    assert given == environ["TF_CONFIG"], "byte for byte"
            assert made.master == "job-chief-0.ns.svc"
            assert made.hosts[-2:] == ("job-ps-0.ns.svc", "job-ps-1.ns.svc") == made.scriptless
            assert made.listening == (2222,)
            assert str(made.chief_endpoint) == "job-chief-0.ns.svc:2222"
            assert made.contract.job_name == "job"
            assert made.contract.engine.failure_files == ("/dev/termination-log",)
    assert list(runs.values()) == [["chief"], ["worker"], ["worker"], ["ps"], ["ps"]]
    script = plan(tf(TFJOB, "ps", 1) | {"SUPERVISOR_PS": "script"})
    assert [spec.essential for spec in script.processes] == [False]
    assert script.processes[0].argv[-3:] == ("train.py", "--lr", "0.1")
    assert script.scriptless == ("job-ps-0.ns.svc", "job-ps-1.ns.svc")
    servers = plan(tf(TFJOB, "worker", 1) | {"SUPERVISOR_WORKER": "server"})
    assert [spec.essential for spec in servers.processes] == [True]


def test_clusters_without_parameter_servers() -> None:
    three = {"worker": ["a:2222", "b:2222", "c:2222"]}
    made = plan(tf(three, "worker", 1))
    assert (made.strategy, made.host, made.master) == ("mwms", "b", "a")
    assert json.loads(made.processes[0].env["TF_CONFIG"])["cluster"] == three
    with_chief = plan(tf({"chief": ["a:1"], "worker": ["b:1"]}, "chief"))
    assert (with_chief.strategy, with_chief.processes[0].role) == ("mwms", "chief")
    alone = plan(tf({"chief": ["a:1"]}, "chief"))
    assert (alone.strategy, alone.hosts) == ("none", ("a",))
    assert "TF_CONFIG" in alone.processes[0].env
    assert plan(tf(three, "worker") | {"SUPERVISOR_STRATEGY": "none"}).strategy == "none"
    master = plan(tf({"master": ["m:1"], "worker": ["w:1"], "ps": ["p:1"]}, "master"))
    assert master.processes[0].role == "master"
    # TensorFlow 1's clusters may have no chief: the first worker is it.
    plain = plan(tf({"worker": ["w:1", "x:1"], "ps": ["p:1"]}, "worker", 1))
    assert (plain.strategy, plain.master, plain.host) == ("ps", "w", "x")


def test_two_tasks_on_one_address_are_two_hosts() -> None:
    cluster = {"chief": ["10.0.0.1:2222"], "worker": ["10.0.0.2:2222"],
               "ps": ["10.0.0.1:2224", "10.0.0.2:2223"]}  # fmt: skip
    seen = []
    for kind, index in (("chief", 0), ("worker", 0), ("ps", 0), ("ps", 1)):
        made = plan(tf(cluster, kind, index))
        seen.append(made.endpoints)
        assert made.hosts == ("chief-0", "worker-0", "ps-0", "ps-1")
        assert made.host == f"{kind}-{index}"
    assert all(each == seen[0] for each in seen)
    status = {name: str(each.status) for name, each in seen[0].items()}
    assert status == {"chief-0": "10.0.0.1:2225", "ps-0": "10.0.0.1:2226",
                      "worker-0": "10.0.0.2:2224", "ps-1": "10.0.0.2:2225"}  # fmt: skip
    moved = plan(tf(cluster, "chief") | {"SUPERVISOR_STATUS_PORT": "3000"}).endpoints
    assert str(moved["ps-0"].status) == "10.0.0.1:3001"


def test_addresses_of_ipv6() -> None:
    cluster = {"worker": ["[fd00::1]:2222", "[fd00::2]:2222"]}
    made = plan(tf(cluster, "worker", 1))
    assert made.hosts == ("fd00::1", "fd00::2")
    assert str(made.endpoints["fd00::2"].train) == "[fd00::2]:2222"


def test_the_evaluator_stands_aside() -> None:
    """A TFJob's cluster does not know it; Vertex AI's does."""
    aside = plan(tf(TFJOB, "evaluator"))
    assert aside.hosts == ("evaluator-0",)
    assert (aside.strategy, aside.processes[0].role) == ("none", "evaluator")
    assert json.loads(aside.processes[0].env["TF_CONFIG"])["task"]["type"] == "evaluator"
    known = {**TFJOB, "evaluator": ["job-evaluator-0.ns.svc:2222"]}
    chief, evaluator = plan(tf(known, "chief")), plan(tf(known, "evaluator"))
    assert chief.evaluator == evaluator.evaluator == evaluator.host == "job-evaluator-0.ns.svc"
    assert evaluator.host in chief.hosts
    assert [spec.role for spec in evaluator.processes] == ["evaluator"]


def test_vertex_ais_cluster_spec() -> None:
    spec = {
        "cluster": {"workerpool0": ["cmle-0:2222"], "workerpool1": ["cmle-1:2222"],
                    "workerpool2": ["cmle-2:2222"]},
        "environment": "cloud",
        "task": {"type": "workerpool2", "index": "0", "trial": "7"},
    }  # fmt: skip
    made = plan({"CLUSTER_SPEC": json.dumps(spec), "CLOUD_ML_JOB_ID": "17"})
    assert (made.host, made.strategy, made.contract.job_name) == ("cmle-2", "ps", "17")
    config = json.loads(made.processes[0].env["TF_CONFIG"])
    assert config["cluster"] == {"chief": ["cmle-0:2222"], "worker": ["cmle-1:2222"],
                                 "ps": ["cmle-2:2222"]}  # fmt: skip
    assert config["task"] == {"type": "ps", "index": 0}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"TF_CONFIG": '{"cluster": '}, "TF_CONFIG: found "),
        (tf({}, "worker") | {"SUPERVISOR_ENGINE": "tf_config"}, "TF_CONFIG: cluster: found {}; "),
        (tf({"worker": ["a", "b:1"]}, "worker"), "TF_CONFIG: cluster.worker[0]: found 'a'; "),
        (tf({"worker": ["a:1", "b:x"]}, "worker"), "TF_CONFIG: cluster.worker[1]: found 'b:x'; "),
        (tf({"worker": ["fd00::1:2222"]}, "worker"), "cluster.worker[0]: found 'fd00::1:2222'; "),
        (tf({"worker": "a:1"}, "worker"), "TF_CONFIG: cluster.worker: found 'a:1'; "),
        (tf({"wroker": ["a:1"]}, "worker"), "TF_CONFIG: cluster.wroker: found "),
        (tf({"worker": ["a:1", "a:1"]}, "worker"), "cluster.worker[1]: found 'a:1'; expected each"),
        (tf({"chief": ["a:1", "b:1"]}, "chief"), "TF_CONFIG: cluster.chief: found "),
        (tf({"chief": ["a:1"], "master": ["b:1"]}, "chief"), "TF_CONFIG: cluster: found "),
        (tf({"ps": ["a:1"]}, "ps"), "TF_CONFIG: cluster: found "),
        (tf({"worker": ["a:1"]}, "worker", 1), "TF_CONFIG: task: found 'worker 1'; expected a "),
        (tf({"worker": ["a:1"]}, "wroker"), "TF_CONFIG: task.type: found 'wroker'; "),
        (tf({"worker": ["a:1"]}, "worker", "x"), "TF_CONFIG: task.index: found 'x'; "),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": 3}'}, "TF_CONFIG: task: found 3"),
        ({"TF_CONFIG": '{"sparseCluster": {"worker": {"0": "a:1"}}, "cluster": 1}'},
         "TF_CONFIG: sparseCluster: found "),
        (tf(TFJOB, "chief") | {"SUPERVISOR_STRATEGY": "mwms"}, ""),
        (tf({"worker": ["a:1", "b:1"]}, "worker") | {"SUPERVISOR_STRATEGY": "ps"}, ""),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_tf_config(environ: dict[str, str], said: str) -> None:
    text = refusal(environ)
    assert said in text or "SUPERVISOR_STRATEGY: found" in text
    assert len(text.splitlines()) == 1


# --------------------------------------------------------------------------- lists


def test_our_own_list() -> None:
    by_index = contract({"SUPERVISOR_HOSTS": "a,b,c", "SUPERVISOR_HOST_INDEX": "1"})
    assert (by_index.hosts, by_index.current_host) == (("a", "b", "c"), "b")
    assert contract({"SUPERVISOR_HOSTS": "n[1-3]"}, hostname="n2").current_host == "n2"
    assert contract({"SUPERVISOR_HOSTS": "a.x,b.x"}, hostname="b").current_host == "b.x"
    assert contract({"SUPERVISOR_HOSTS": "a,b"}, hostname="b.site").current_host == "b"
    addresses = {"SUPERVISOR_HOSTS": "10.0.0.1,10.0.0.2"}
    assert contract(addresses, here=["10.0.0.2"]).current_host == "10.0.0.2"
    six = {"SUPERVISOR_HOSTS": "[fd00::1]:2300,fd00::2", "SUPERVISOR_HOST_INDEX": "0"}
    made = plan(six)
    assert made.hosts == ("fd00::1", "fd00::2")
    assert made.endpoints["fd00::1"].status.port == 2300
    ports = plan({"SUPERVISOR_HOSTS": "a:2300,b", "SUPERVISOR_HOST_INDEX": "0"})
    assert [each.status.port for each in ports.endpoints.values()] == [2300, 2224]
    assert ports.budgets.stop_limit_s == 120
    assert ports.stopped_code == 0
    assert plan({"SUPERVISOR_HOSTS": "a", "SUPERVISOR_HOST_INDEX": "0"}).strategy == "none"


def test_lists_of_others() -> None:
    sky = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_TASK_ID": "sky-2026-1",
    }
    found = contract(sky)
    assert (found.hosts, found.current_host) == (("10.0.0.1", "10.0.0.2"), "10.0.0.2")
    assert found.job_name == "sky-2026-1"
    azure = {
        "AZ_BATCH_HOST_LIST": "10.0.0.5,10.0.0.4",
        "AZ_BATCH_MASTER_NODE": "10.0.0.4:6000",
        "AZ_BATCH_JOB_ID": "job1",
    }
    found = contract(azure, here=["10.0.0.5"])
    assert (found.hosts, found.current_host) == (("10.0.0.4", "10.0.0.5"), "10.0.0.5")
    assert found.settings.status_port == 6000
    mpi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "SUPERVISOR_HOSTS": "a,b"}
    found = contract(mpi)
    assert found.current_host == "b"
    assert found.settings.stop_limit_s == 2
    waits = {**mpi, "OMPI_MCA_odls_base_sigkill_timeout": "60"}
    assert contract(waits).settings.stop_limit_s == 60


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SUPERVISOR_HOSTS": "a,b"}, "SUPERVISOR_HOST_INDEX: found nothing; expected which of "),
        ({"SUPERVISOR_HOSTS": "a,b", "SUPERVISOR_HOST_INDEX": "2"},
         "SUPERVISOR_HOST_INDEX: found '2'; expected a number from 0, below the 2"),
        ({"SUPERVISOR_HOSTS": "a,a", "SUPERVISOR_HOST_INDEX": "0"},
         "SUPERVISOR_HOSTS: found a 2 times; expected each host once"),
        ({"SUPERVISOR_HOSTS": "a:x", "SUPERVISOR_HOST_INDEX": "0"}, "SUPERVISOR_HOSTS: found"),
        ({"SUPERVISOR_HOSTS": "n[1-", "SUPERVISOR_HOST_INDEX": "0"}, "SUPERVISOR_HOSTS: found"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"},
         "SUPERVISOR_HOSTS: found nothing; expected the hosts of the job, which mpirun"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3", "SUPERVISOR_HOSTS": "a,b"},
         "OMPI_COMM_WORLD_SIZE: found 3; expected as many as SUPERVISOR_HOSTS has, 2"),
        ({"SKYPILOT_NODE_IPS": "a\nb", "SKYPILOT_NODE_RANK": "5"}, "SKYPILOT_NODE_RANK: found '5'"),
        ({"AZ_BATCH_HOST_LIST": "10.0.0.1"}, "AZ_BATCH_HOST_LIST: found '10.0.0.1'; expected addr"),
        ({"SUPERVISOR_ENGINE": "hosts"}, "SUPERVISOR_HOSTS: found nothing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list(environ: dict[str, str], said: str) -> None:
    text = refusal(environ)
    assert said in text
    assert len(text.splitlines()) == 1


# --------------------------------------------------------------------------- what an engine brings


@pytest.mark.parametrize(
    ("environ", "setting", "code"),
    [
        ({}, "auto", 0),
        (STEP, "auto", 143),
        (INDEXED, "auto", 143),
        (tf(TFJOB, "chief"), "auto", 143),
        (STEP, "0", 0),
        ({}, "99", 99),
    ],
)
def test_the_exit_code_after_a_stop(environ: dict[str, str], setting: str, code: int) -> None:
    assert plan({**environ, "SUPERVISOR_STOPPED_EXIT_CODE": setting}).stopped_code == code


def test_a_script_on_the_command_line() -> None:
    found = contract({})
    assert found.code_dir == "/job"
    assert found.entry_point == "train.py"
    assert found.arguments == ("--lr", "0.1")
    [spec] = plan({}).processes
    assert spec.argv[1:] == ("train.py", "--lr", "0.1")
    assert spec.cwd == "/job"
    module = plan({}, command=Code("/job", "-m pkg.train", ("x",)))
    assert module.processes[0].argv[1:] == ("-m", "pkg.train", "x")
    said = refusal({}, command=Code("/job", "trian.py"))
    assert "command line: SCRIPT: found 'trian.py'; expected a file below /job" in said
    named = contract({}, files={"hyperparameters.json": {"sagemaker_program": "other.py"}})
    assert named.entry_point == "train.py"


def test_nothing_asked_and_nothing_there() -> None:
    assert Asked() == Asked({}, ())
    said = refusal({}, command=None)
    assert "sagemaker_program: found nothing" in said
    assert "supervisor train SCRIPT" in said
