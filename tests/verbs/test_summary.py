"""The end of `supervisor local`, as its hosts' reports have it."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.contract.distribution import Strategy
from supervisor.engines.local import LocalHost
from supervisor.streams.masking import Masker
from supervisor.verbs.summary import Result, summary
from tests.helpers.cluster import training
from tests.verbs.test_report import of_attempts

SECRET = "geheim-geheim"


def shown(*reports: dict[str, Any]) -> str:
    hosts = [LocalHost(report["host"], "/nowhere", 1) for report in reports]
    results = [
        Result(host, 1, "exit 1", 9.0, report) for host, report in zip(hosts, reports, strict=True)
    ]
    return summary("run", Strategy.MWMS, results, Masker([SECRET]), color=False)


def table(text: str) -> list[list[str]]:
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("HOST"))
    return [line.split() for line in lines[begin : begin + 3]]


def of_host(host: str, count: int, **more: Any) -> dict[str, Any]:
    report = of_attempts(host, count, **more)
    report["processes"][0] |= {"role": "worker", "starts": count}
    return report


def test_a_job_that_was_started_anew_tells_how_often_and_why() -> None:
    reason = f"the same error twice ({SECRET})"
    report = of_host("algo-1", 3, not_restarted=reason)
    report["attempts"][1]["cause"]["message"] = f"\x1b[2J{SECRET}"
    text = shown(report)
    head, worker, supervisor = table(text)
    assert head == ["HOST", "ROLE", "STARTS", "EXIT", "TIME"]
    assert worker[:5] == ["algo-1", "worker", "3", "exit", "1"]
    assert supervisor[:4] == ["algo-1", "supervisor", "exit", "1"]
    below = text.partition("supervisor")[2].splitlines()[2:6]
    assert below[0].startswith("attempt 2: all scripts, after algo-2 worker: ")
    assert below[1].startswith("attempt 3: all scripts, after algo-2 worker: ")
    assert below[2:] == ["not restarted: the same error twice (******)", ""]
    assert SECRET not in text
    assert "\x1b" not in text


def test_the_end_tells_what_of_the_time_was_training() -> None:
    seen = training(runs=2)
    told = {"ledger": seen["ledger"], "startups": seen["startups"]}
    seen["startups"][0]["fetch_host"] = f"\x1b[2J{SECRET}"
    text = shown(of_host("algo-1", 3) | told)
    begin = text.index("goodput 92 % of 1 h 38 min: ")
    lines = text[begin:].splitlines()
    assert lines[1].startswith("lost: 5 min of steps done again, ")
    assert lines[2].startswith("all 2 runs: goodput 89 %")
    assert lines[3].startswith("first step after 71 s: fetch 31 (")
    assert lines[4] == ""
    assert SECRET not in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("starts", "runs", "wall_s", "said"),
    [(1, 1, 59.0, False), (1, 1, 60.0, True), (2, 1, 3.0, True), (1, 2, 3.0, True)],
)
def test_a_try_of_a_few_seconds_says_nothing_of_goodput(
    starts: int, runs: int, wall_s: float, said: bool
) -> None:
    ledger = training(runs=runs)["ledger"]
    assert ledger is not None
    ledger["run"] |= {"starts": starts, "wall_s": wall_s}
    assert ("goodput" in shown(of_host("algo-1", 1) | {"ledger": ledger})) == said
    unseen = {key: {**ledger["run"], "goodput": None, "steps": None} for key in ("run", "all")}
    assert "no step" not in shown(of_host("algo-1", 1) | {"ledger": {**ledger, **unseen}})


def test_without_restarts_nothing_is_said_of_attempts() -> None:
    text = shown(of_host("algo-1", 1, restartable=False, not_restarted=""))
    assert table(text)[0] == ["HOST", "ROLE", "EXIT", "TIME"]
    assert "attempt" not in text
    assert "start" not in text.lower()


def test_a_failure_that_was_not_started_anew_says_why() -> None:
    text = shown(of_host("algo-1", 1, not_restarted="exit 127 would happen again"))
    assert "\n\nnot restarted: exit 127 would happen again\n\n" in text
    assert "STARTS" not in text
