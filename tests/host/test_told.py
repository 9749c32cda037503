"""What a host tells of attempts while it runs, and at its end."""

from __future__ import annotations

import collections
import json
import pathlib
import re
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.host.history import MOST_SHOWN, MOST_TOLD, History
from supervisor.life import events as ev
from supervisor.life.attempts import Policy
from supervisor.life.state import State
from supervisor.streams.masking import Masker
from tests.helpers import schemas
from tests.helpers.aio import free_port
from tests.helpers.train import Train, lay_out, shell
from tests.helpers.waiting import wait_until
from tests.life.test_lifecycle import KILLED, RUNNING_ALONE, alone, play
from tests.life.test_restarting import going_on

SECRET = "geheim-geheim"
KILLED_ONCE = f"""
echo "attempt $SUPERVISOR_ATTEMPT"
if [ "$SUPERVISOR_ATTEMPT" = 1 ]; then echo {SECRET} >&2; printf half; kill -9 $$; fi
trap 'exit 0' TERM
sleep 60 & wait
"""


def test_a_job_that_goes_on_tells_of_it_on_its_port_and_in_its_report(
    tmp_path: pathlib.Path,
) -> None:
    port = free_port()
    lay_out(tmp_path, shell(KILLED_ONCE), {"api_token": SECRET})
    env: dict[str, Any] = {
        "SUPERVISOR_STATUS_PORT": str(port),
        "SUPERVISOR_RESTARTS": "3",
        "SUPERVISOR_LOG_FILES": "true",
    }

    def asked(route: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{route}") as answer:
                return bytes(answer.read())
        except OSError:  # it is not there yet
            return b""

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(asked("status") or "{}")
        return found

    with Train(tmp_path, **env) as host:
        wait_until(lambda: "attempt 2" in host.out and status().get("restarts") == 1, 30)
        told = schemas.read("status", asked("status"))
        metrics = {
            sample.name: sample.value
            for family in text_string_to_metric_families(asked("metrics").decode())
            for sample in family.samples
            if sample.labels in ({}, {"kind": "crash"})
        }
        kinds = re.findall(rb'supervisor_restarts_total\{kind="([a-z-]+)"\}', asked("metrics"))
        assert host.stop() == 0
    assert told["attempt"] == told["processes"][0]["attempt"] == 2
    first, second = told["attempts"]
    assert (first["kind"], first["scope"], first["progressed"]) == ("crash", "alone", False)
    assert first["cause"]["message"].startswith("killed by SIGKILL")
    assert first["cause"]["detail"] == "", "the report has it"
    assert (second["ended_at"], second["cause"]) == (None, None)
    assert first["began_at"] < first["ended_at"] < second["began_at"]
    assert metrics["supervisor_attempt"] == 2
    assert metrics["supervisor_restarts_total"] == 1
    assert metrics["supervisor_restart_seconds_total"] == second["prepared_s"] > 0
    assert b"certain" not in kinds, "what is never started anew is not counted"

    report = host.report
    first, second = report["attempts"]
    (ended,) = first["processes"]
    assert (ended["exit"], ended["attempt"], ended["starts"]) == ("killed by SIGKILL", 1, 1)
    assert ended["seconds"] is not None
    assert SECRET not in json.dumps(report)
    assert "******" in first["cause"]["detail"]
    assert second["processes"] == [], "they stand in the report itself"
    (process,) = report["processes"]
    assert (process["attempt"], process["starts"]) == (2, 2)
    assert second["cause"] == report["cause"]
    assert second["ended_at"]
    assert (report["restarts"], report["restartable"], report["not_restarted"]) == (1, True, "")

    names = collections.Counter(row["name"] for row in report["output"])
    assert set(names.values()) == {1}, "the process has one log file"
    log = host.log_file().read_text()
    before, heading, after = re.split(r"(?m)^(────.*\n)", log)
    assert sorted(before.splitlines()) == ["attempt 1", SECRET, "half ┆"]
    assert re.fullmatch(r"──── supervisor: attempt 2, \S+Z, algo-1, pid \d+ ────\n", heading)
    assert after == "attempt 2\n"


def test_a_job_that_succeeds_at_once_tells_of_one_attempt(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, shell("true"))
    with Train(tmp_path) as host:
        assert host.wait() == 0
    report = host.report
    (only,) = report["attempts"]
    assert (only["attempt"], only["cause"], only["kind"]) == (1, report["cause"], None)
    assert (report["restarts"], report["restartable"], report["not_restarted"]) == (0, False, "")


# --------------------------------------------------------------------------- in the long run


def states() -> Iterator[tuple[State, State]]:
    """The life of a host whose script is killed whenever training has moved."""
    state, _ = play(going_on(alone(), "none", Policy(restarts=1)), RUNNING_ALONE)
    turn = 0
    while True:
        turn += 1
        ended = ev.Exited("chief", KILLED, float(turn), "killed", progressed=True)
        for event in (ended, ev.Readied(turn)):
            before = state
            state, _ = play(state, [event])
            yield before, state


def history_of(present: Any) -> History:
    return History(present, Masker([]))


@pytest.mark.parametrize("count", [3, 150])
def test_however_often_it_is_started_anew_what_is_kept_is_bounded(count: int) -> None:
    present: Any = SimpleNamespace(may_restart=False, state=alone())
    told = history_of(present)
    told.begin()
    present.may_restart = True
    for (before, present.state), _ in zip(states(), range(2 * count), strict=False):
        told.seen(before, present.state)
    assert told.restarts == count
    numbers = [row["attempt"] for row in told.rows()]
    assert numbers == list(range(1, count + 2))[-MOST_TOLD:]
    assert [row["attempt"] for row in told.newest()] == numbers[-MOST_SHOWN:]
    counted = {
        sample.labels["kind"]: sample.value
        for sample in told.samples()
        if sample.name == "restarts_total"
    }
    assert counted.pop("crash") == count
    assert not any(counted.values())


def test_an_attempt_that_never_began_is_no_restart() -> None:
    present: Any = SimpleNamespace(may_restart=False, state=alone())
    told = history_of(present)
    told.begin()
    before, present.state = next(states())
    told.seen(before, present.state)
    assert told.restarts == 0
    last = list(told.rows())[-1]
    assert (last["attempt"], last["began_at"]) == (2, None)


def test_where_nothing_starts_anew_nothing_is_counted() -> None:
    present: Any = SimpleNamespace(may_restart=False, state=alone())
    assert list(history_of(present).samples()) == []
