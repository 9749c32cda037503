"""Proxy variables, and the job's own hosts, which no proxy is asked for."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping

import pytest

from supervisor.plan.proxies import exceptions, proxies_in
from supervisor.verbs.plan import as_json, as_text
from tests.contract.test_contract import HYPER
from tests.plan.test_plan import MPI, MWMS, PS, plan

PROXY = {"http_proxy": "http://proxy.corp:3128"}
NAMES = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
LOOPBACK = ["127.0.0.1", "localhost", "::1", "[::1]"]


def entries(environ: Mapping[str, str], *hosts: str) -> dict[str, list[str]]:
    return {name: value.split(",") for name, value in exceptions(environ, hosts).items()}


def test_without_a_proxy_the_environment_stays_as_it_is() -> None:
    assert exceptions({"no_proxy": "a", "http_proxy": ""}, ["algo-1"]) == {}


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "grpc_proxy", "all_proxy"])
def test_the_jobs_hosts_are_excepted_from_every_kind_of_proxy(name: str) -> None:
    assert proxies_in({name: "http://proxy:1"}) == (name,)
    assert entries({name: "http://proxy:1"}, "algo-1", "algo-2") == {
        each: [*LOOPBACK, "algo-1", "algo-2"] for each in NAMES
    }


def test_names_are_given_in_full_and_short_and_addresses_whole() -> None:
    """For gRPC an entry holds for all that ends with it: "10" would be many an address."""
    found = entries(PROXY, "w-0.train.svc", "10.0.0.7", "0.pool.corp", "fd00::7", "[fd00::8]")
    assert found["no_proxy"][len(LOOPBACK) :] == [
        "w-0.train.svc", "w-0", "10.0.0.7", "0.pool.corp",
        "fd00::7", "[fd00::7]", "fd00::8", "[fd00::8]",
    ]  # fmt: skip


def test_what_the_user_excepts_stays() -> None:
    own = ",".join([*LOOPBACK, "algo-1"])
    assert exceptions({**PROXY, "no_proxy": ".corp, 10.0.0.0/8"}, ["algo-1"]) == dict.fromkeys(
        NAMES, f".corp, 10.0.0.0/8,{own}"
    )
    upper = exceptions({**PROXY, "NO_PROXY": ".corp,algo-1,"}, ["algo-1"])
    assert upper == dict.fromkeys(NAMES, ".corp,algo-1," + ",".join(LOOPBACK))
    each = {"no_grpc_proxy": "a", "no_proxy": "", "NO_PROXY": "c"}
    assert exceptions({**PROXY, **each}, ["algo-1"]) == {
        "no_grpc_proxy": f"a,{own}", "no_proxy": own, "NO_PROXY": f"c,{own}",
    }  # fmt: skip


def test_the_asterisk_stays_alone_where_it_means_every_host() -> None:
    """gRPC knows no asterisk; Python and curl know it only as the whole value."""
    found = exceptions({**PROXY, "no_proxy": "*"}, ["algo-1"])
    assert (found["no_proxy"], found["NO_PROXY"]) == ("*", "*")
    assert found["no_grpc_proxy"].endswith(",algo-1")


@pytest.mark.parametrize("host", ["algo-1", "ALGO-1:2222", "127.0.0.1:80", "[::1]:80", "localhost"])
def test_pythons_own_client_reads_it_so(host: str) -> None:
    found = exceptions({**PROXY, "no_proxy": ".corp"}, ["algo-1"])
    assert urllib.request.proxy_bypass_environment(host, {"no": found["no_proxy"]})  # type: ignore[attr-defined]
    assert not urllib.request.proxy_bypass_environment("example.com", {"no": found["no_proxy"]})  # type: ignore[attr-defined]


@pytest.mark.parametrize("hyper", [PS, MWMS, MPI, HYPER])
def test_every_process_of_every_strategy_is_told(hyper: dict[str, str]) -> None:
    """gRPC took the proxy for the job's own hosts, and training hung without a word."""
    overlay = {"hosts": {"algo-2": {"address": "10.0.0.2"}}}
    environ = {"PATH": "/bin", "no_proxy": ".corp", **PROXY}
    for current in (1, 2):
        made = plan(hyper, 2, current, environ=environ, overlay=overlay)
        for spec in made.processes:
            for name in NAMES:
                found = spec.env[name].split(",")
                assert {".corp", "algo-1", "algo-2", "10.0.0.2", "127.0.0.1"} <= set(found), spec
            assert spec.env["http_proxy"] == PROXY["http_proxy"]
            if spec.name == "launcher":
                assert ("-x", "no_grpc_proxy") in zip(spec.argv, spec.argv[1:], strict=False)
        assert "proxy       http_proxy, but not for the job's own hosts" in as_text(made)
        assert '"proxies": [\n    "http_proxy"\n  ]' in as_json(made)
