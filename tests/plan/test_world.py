"""The plan of a host where others train than at first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.contract.contract import read_contract
from supervisor.faults import ContractError
from supervisor.plan.plan import Plan, make_plan, processes_in
from tests.contract.test_contract import HYPER, facts
from tests.plan.test_plan import MWMS, PS, plan

SPARE = {"SUPERVISOR_RESTARTS": "3", "SUPERVISOR_SPARES": "1"}
MPI = {**HYPER, "sagemaker_mpi_enabled": "true", "sagemaker_mpi_num_of_processes_per_host": "2"}


def environ_of(made: Plan, world: tuple[str, ...]) -> dict[str, str]:
    return dict(processes_in(made, world)[-1].env)


def cluster(env: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(env["TF_CONFIG"])["cluster"]
    return found


def test_a_spare_is_no_part_of_the_first_cluster() -> None:
    made = plan(MWMS, 4, environ=SPARE)
    assert made.cluster == ("algo-1", "algo-2", "algo-3", "algo-4")
    assert made.world == ("algo-1", "algo-2", "algo-3")
    assert made.tf_config is not None
    assert len(made.tf_config["cluster"]["worker"]) == 3
    env = environ_of(made, made.world)
    assert json.loads(env["SM_HOSTS"]) == ["algo-1", "algo-2", "algo-3"]
    spare = plan(MWMS, 4, 4, environ=SPARE)
    assert [spec.name for spec in spare.processes] == ["worker"], "what it may have to run"


def test_a_spare_in_the_place_of_a_lost_host_has_its_rank() -> None:
    spare = plan(MWMS, 4, 4, environ=SPARE)
    world = ("algo-1", "algo-4", "algo-3")
    env = environ_of(spare, world)
    assert cluster(env) == {"worker": ["algo-1:8890", "algo-4:8890", "algo-3:8890"]}
    assert json.loads(env["TF_CONFIG"])["task"] == {"type": "worker", "index": 1}
    assert json.loads(env["SM_HOSTS"]) == [*world]
    assert json.loads(env["SM_RESOURCE_CONFIG"])["hosts"] == [*world]
    servers = plan(PS, 4, 4, environ=SPARE)
    server, script = processes_in(servers, world)
    assert cluster(dict(script.env))["ps"] == ["algo-1:2223", "algo-4:2223", "algo-3:2223"]
    assert json.loads(server.env["TF_CONFIG"])["task"] == {"type": "ps", "index": 1}
    assert json.loads(script.env["TF_CONFIG"])["task"] == {"type": "worker", "index": 0}


def test_with_fewer_hosts_ranks_and_processes_are_counted_anew() -> None:
    least = {"SUPERVISOR_RESTARTS": "3", "SUPERVISOR_MIN_HOSTS": "2"}
    made = plan(MWMS, 3, 3, environ=least)
    assert (made.min_hosts, made.world) == (2, made.cluster)
    assert environ_of(made, made.world) == dict(made.processes[-1].env), "nothing has changed"
    env = environ_of(made, ("algo-1", "algo-3"))
    assert json.loads(env["TF_CONFIG"])["task"]["index"] == 1
    launcher = processes_in(plan(MPI, 3, environ=least), ("algo-1", "algo-3"))[0]
    words = " ".join(launcher.argv)
    assert "--host algo-1:2,algo-3:2 -np 4" in words
    assert "--member algo-2" not in words
    assert "--member algo-3" in words


def test_groups_and_hosts_outside_of_the_distribution_stay() -> None:
    groups = [
        {"instance_group_name": "train", "hosts": ["algo-1", "algo-2", "algo-3"]},
        {"instance_group_name": "other", "hosts": ["algo-4"]},
    ]
    hyper = {**MWMS, "sagemaker_distribution_instance_groups": ["train"]}
    least = {"SUPERVISOR_RESTARTS": "3", "SUPERVISOR_MIN_HOSTS": "1"}
    resources = {
        "current_host": "algo-1", "current_group_name": "train", "instance_groups": groups,
        "hosts": ["algo-1", "algo-2", "algo-3", "algo-4"],
    }  # fmt: skip
    made = make_plan(read_contract(facts(hyper, resources, environ=least)))
    env = environ_of(made, ("algo-1", "algo-3"))
    assert json.loads(env["SM_HOSTS"]) == ["algo-1", "algo-3", "algo-4"]
    kept = json.loads(env["SM_RESOURCE_CONFIG"])["instance_groups"]
    told = {group["instance_group_name"]: group["hosts"] for group in kept}
    assert told == {"train": ["algo-1", "algo-3"], "other": ["algo-4"]}
    assert groups[0]["hosts"] == ["algo-1", "algo-2", "algo-3"], "the platform's own is as it was"


@pytest.mark.parametrize(
    ("hyper", "hosts", "settings", "key", "expected"),
    [
        (MWMS, 3, {"SPARES": "1", "RESTARTS": "0"}, "SPARES", "SUPERVISOR_RESTARTS above 0"),
        (MWMS, 3, {"SPARES": "3"}, "SPARES", "fewer than the 3 hosts of the cluster"),
        (MWMS, 3, {"SPARES": "1", "MIN_HOSTS": "3"}, "MIN_HOSTS", "at most the 2 hosts that train"),
        (
            PS,
            3,
            {"SPARES": "1", "PS_HOSTS": "members"},
            "SPARES",
            "a parameter server on every host",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    hyper: dict[str, Any], hosts: int, settings: dict[str, str], key: str, expected: str
) -> None:
    settings = {"RESTARTS": "3"} | settings
    environ = {f"SUPERVISOR_{name}": value for name, value in settings.items()}
    with pytest.raises(ContractError) as caught:
        plan(hyper, hosts, environ=environ)
    (fault,) = caught.value.faults
    assert fault.key == f"SUPERVISOR_{key}"
    assert expected in fault.expected


@pytest.mark.parametrize(
    ("hyper", "restarts", "why"),
    [(MWMS, "0", "SUPERVISOR_RESTARTS is 0"), (PS, "3", "takes its part of the variables with it")],
)
def test_fewer_hosts_where_they_cannot_be_are_a_note(
    hyper: dict[str, Any], restarts: str, why: str
) -> None:
    made = plan(hyper, 3, environ={"SUPERVISOR_MIN_HOSTS": "2", "SUPERVISOR_RESTARTS": restarts})
    assert made.min_hosts == 0
    assert any("SUPERVISOR_MIN_HOSTS is ignored" in note and why in note for note in made.notes)
