"""A ``TF_CONFIG`` in our own environment, held against the contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.faults import ContractError
from tests.contract.test_contract import HYPER
from tests.plan.test_plan import MPI, MWMS, PS, plan

CHIEF = {"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "chief"}}


def tasks(count: int, role: str = "worker", host: str = "algo-{}:2222") -> dict[str, list[str]]:
    return {role: [host.format(number) for number in range(1, count + 1)]}


def config(cluster: dict[str, Any], role: str, index: int = 0) -> dict[str, Any]:
    return {"cluster": cluster, "task": {"type": role, "index": index}}


PS_OF_TWO: dict[str, Any] = {**tasks(1, "chief"), **tasks(2, "ps"), "worker": ["algo-2:2222"]}


@pytest.mark.parametrize(
    ("hyper", "hosts", "current", "given", "found"),
    [
        # Another size than the job has: one of the two is wrong.
        (HYPER, 1, 1, config(tasks(3), "worker"), "a cluster of 3 hosts, algo-1, algo-2, algo-3"),
        (HYPER, 1, 1, CHIEF, "a cluster of 3 hosts, a, b, c"),
        (HYPER, 3, 1, config(tasks(2), "worker"), "a cluster of 2 hosts"),
        (PS, 3, 1, config(PS_OF_TWO, "chief"), "is 1 chief, 3 ps, 2 worker"),
        (PS, 2, 1, config(tasks(2), "worker"), "a cluster of 2 worker; the contract's is 1 chief"),
        (PS, 1, 1, config(tasks(2), "worker"), "a cluster of 2 hosts"),
        (MWMS, 2, 1, config(tasks(3), "worker"), "3 worker; the contract's is 2 worker"),
        (MWMS, 2, 1, config({**tasks(2), "ps": ["algo-1:3"]}, "worker"), "1 ps, 2 worker"),
        (MPI, 2, 1, config(tasks(2), "worker"), "a cluster of 2 hosts"),
        # The same on every host, as an image has it.
        (HYPER, 3, 2, config(tasks(3), "worker"), "the task worker 0, which is that of algo-1"),
        (PS, 2, 2, config(PS_OF_TWO, "chief"), "the task chief 0; the contract's is worker 0"),
        (MWMS, 2, 2, config(tasks(2), "worker"), "the task worker 0; the contract's is worker 1"),
        (MWMS, 3, 2, CHIEF, "the task worker 0; the contract's is worker 1"),
        (PS, 2, 1, {"cluster": PS_OF_TWO}, "the task of nobody"),
        (PS, 2, 1, [1], "no TF_CONFIG"),
        (HYPER, 1, 1, {"cluster": 3}, "no TF_CONFIG"),
        (HYPER, 1, 1, config({"worker": {"x": "a"}}, "worker"), "no TF_CONFIG"),
    ],
)
def test_one_that_contradicts_the_contract_is_refused(
    hyper: dict[str, Any], hosts: int, current: int, given: object, found: str
) -> None:
    """It was replaced, or handed on, in silence: each host trained alone and the job succeeded."""
    environ = {"PATH": "/bin", "TF_CONFIG": json.dumps(given)}
    with pytest.raises(ContractError) as caught:
        plan(hyper, hosts, current, environ=environ)
    [fault] = caught.value.faults
    assert (fault.source, fault.key) == ("environment", "TF_CONFIG")
    assert found in fault.found
    assert "SUPERVISOR_TF_CONFIG_MISMATCH=ignore lets it pass" in fault.expected
    environ["SUPERVISOR_TF_CONFIG_MISMATCH"] = "ignore"
    made = plan(hyper, hosts, current, environ=environ)
    assert any("TF_CONFIG in the environment contradicts" in note for note in made.notes)
    told = made.processes[-1].env["TF_CONFIG"]
    assert json.loads(told) == (made.tf_config or given)


@pytest.mark.parametrize(
    ("hyper", "hosts", "current", "given"),
    [
        (HYPER, 1, 1, config(tasks(1), "worker")),
        (HYPER, 1, 1, config(tasks(3, host="localhost:{}"), "worker", 2)),  # in one script
        (HYPER, 1, 1, {"task": {"type": "worker", "index": 4}}),
        (HYPER, 3, 2, config(tasks(3), "worker", 1)),  # the script's own distribution
        (HYPER, 3, 2, config(tasks(3, host="10.0.0.{}:1"), "worker")),
        (HYPER, 3, 2, config(tasks(1), "worker")),
        (PS, 2, 1, config(PS_OF_TWO, "chief")),
        (PS, 2, 1, config({"master": ["x:1"], **tasks(1), **tasks(2, "ps")}, "master")),
        (PS, 2, 2, config({**PS_OF_TWO, "evaluator": ["e:1"]}, "worker")),
        (PS, 2, 2, config({**PS_OF_TWO, "worker": {"0": "algo-2:2222"}}, "worker")),
        (PS, 1, 1, {}),
        (MWMS, 2, 2, config(tasks(2), "worker", 1)),
        (MWMS, 3, 2, {**CHIEF, "task": {"type": "worker", "index": 0}}),
        (MPI, 2, 1, config(tasks(1), "worker")),
    ],
)
def test_one_that_agrees_is_none_of_our_business(
    hyper: dict[str, Any], hosts: int, current: int, given: object
) -> None:
    plan(hyper, hosts, current, environ={"PATH": "/bin", "TF_CONFIG": json.dumps(given)})


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_one_is_none(text: str) -> None:
    plan(HYPER, 2, environ={"PATH": "/bin", "TF_CONFIG": text})
