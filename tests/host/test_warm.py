"""The warm interpreter of a host: when there is one, when it runs the script, and what is said.

What stands for TensorFlow is a package of its name, which imports at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.children.child import Child
from supervisor.host import warming
from supervisor.host.present import Present
from supervisor.host.tasks import Tasks
from supervisor.linux import resources
from supervisor.streams.masking import Masker
from tests.children.test_child import Reader
from tests.helpers import schemas
from tests.helpers.aio import free_port, until
from tests.helpers.leaks import no_leaks
from tests.helpers.train import Script, Train, lay_out, shell
from tests.helpers.tree import ROOT
from tests.helpers.waiting import wait_until
from tests.plan.test_plan import PS, plan

pytestmark = pytest.mark.twice

SCRIPT = """
import os, signal, sys
attempt = int(os.environ["SUPERVISOR_ATTEMPT"])
print("attempt", attempt, "tensorflow" in sys.modules, os.environ.get("SUPERVISOR_LAST_CAUSE"))
print(os.environ.get("TF_SEEN"), os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
if attempt < 4:
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Is killed three times: it starts anew at once, and after pauses of 1 and 2 s."""


@pytest.fixture
def env(tmp_path: pathlib.Path) -> dict[str, Any]:
    library = tmp_path / "library"
    (library / "tensorflow").mkdir(parents=True)
    (library / "tensorflow" / "__init__.py").write_text(
        "import os\nos.environ['TF_SEEN'] = os.environ.get('TF_CPP_MIN_LOG_LEVEL', '')\n"
    )
    return {
        "PYTHONPATH": f"{ROOT}:{library}",
        "SUPERVISOR_WARM_START": "true",
        "SUPERVISOR_RESTARTS": "3",
        "SUPERVISOR_LOG_LEVEL": "info",
    }


def run(base: pathlib.Path, script: str | Script, env: dict[str, Any], *, code: int = 0) -> Train:
    lay_out(base / "host", script)
    with Train(base / "host", **env) as host:
        assert host.wait() == code, host.err
    return host


# --------------------------------------------------------------------------- it is used


@pytest.mark.twice
def test_a_script_that_starts_anew_is_run_by_it(
    tmp_path: pathlib.Path, env: dict[str, Any]
) -> None:
    """Where there is time to have one: between attempts, while what failed waits its turn. What the
    script sets before its imports is set while they are made."""
    early = 'import os\nos.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"\n'
    lay_out(tmp_path / "host", early + SCRIPT)
    (tmp_path / "host" / "code" / "another.py").write_text("os.environ['TF_OWN'] = '1'")
    with Train(tmp_path / "host", **env) as host:
        assert host.wait() == 0, host.err
    attempts = re.findall(r"attempt (\d) (\w+) (.*)\n(.*)", host.out)
    assert [(number, warm) for number, warm, _, _ in attempts][2:] == [("3", "True"), ("4", "True")]
    assert attempts[-1][2].startswith("algo-1 chief: killed by SIGKILL"), "told as ever"
    assert attempts[-1][3] == "3 3"
    assert attempts[0][1:] == ("False", "None", "None 3"), "a host alone waits for nothing at first"
    assert re.search(r"process.started: chief runs, pid \d+, warm for [\d.]+ s: ", host.err)
    assert re.search(
        r"warm.ready: a warm interpreter waits, pid \d+, after [\d.]+ s, with", host.err
    )
    told = host.report["warm"]
    assert 2 <= told["used"] == told["started"] <= 3
    assert told["unused"] == []
    starts = [row for row in host.report["timeline"] if row["event"] == "process.started"]
    assert [("warm_s" in row) for row in starts][2:] == [True, True]


@pytest.mark.twice
def test_while_hosts_join_one_waits_and_is_told_of(
    tmp_path: pathlib.Path, env: dict[str, Any]
) -> None:
    """Its memory is counted; where it dies another one is started, and nothing has failed."""
    port = free_port()
    overlay = {name: {"address": "127.0.0.1"} for name in ("algo-1", "algo-2")}
    ports = {"algo-1": port, "algo-2": free_port()}

    def start(name: str) -> Train:
        base = tmp_path / name
        lay_out(base, SCRIPT.replace("< 4", "< 0"), hosts=[*overlay], current=name)
        own = {host: {"address": "127.0.0.1", "ports": {"status": ports[host]}} for host in overlay}
        (base / "input" / "config" / "supervisorconfig.json").write_text(json.dumps({"hosts": own}))
        return Train(base, **env | {"SUPERVISOR_STATUS_BIND": "127.0.0.1"})

    def asked(route: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{route}") as answer:
                return bytes(answer.read())
        except OSError:
            return b""

    def waits(other_than: int) -> Callable[[], dict[str, Any] | None]:
        def look() -> dict[str, Any] | None:
            row: dict[str, Any] | None = json.loads(asked("status") or "{}").get("warm")
            return row if row and row["state"] == "ready" and row["pid"] != other_than else None

        return look

    with start("algo-1") as first:
        row = wait_until(waits(0), 20, "none is ready")
        assert row is not None
        assert row["rss_bytes"] > 1 << 20
        schemas.read("status", asked("status").decode())
        figures = {
            sample.name: sample.value
            for family in text_string_to_metric_families(asked("metrics").decode())
            for sample in family.samples
        }
        assert figures["supervisor_warm_resident_bytes"] > 1 << 20
        assert figures["supervisor_warm_starts_total"] == 0
        os.kill(row["pid"], signal.SIGKILL)
        again = wait_until(waits(row["pid"]), 20, "no other one")
        with start("algo-2") as second:
            assert second.wait() == 0, second.err
            assert first.wait() == 0, first.err
        assert again is not None
        assert f"process.started: chief runs, pid {again['pid']}, warm for" in first.err
        assert "warm.ended: the warm interpreter ended (killed by SIGKILL), another" in first.err
        assert first.out.startswith("attempt 1 True None\n")


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_it_ends_with_its_supervisor(tmp_path: pathlib.Path, env: dict[str, Any], how: str) -> None:
    """By a stop while it waits, and where the supervisor is killed; the script does not begin."""
    lay_out(tmp_path / "host", SCRIPT, hosts=["algo-1", "localhost"])
    with Train(tmp_path / "host", **env, SUPERVISOR_STATUS_PORT=str(free_port())) as host:
        host.wait_for("warm.ready")
        if how == "stopped":
            assert host.stop() == 143
        else:
            host.process.kill()
            host.process.wait()
            wait_until(lambda: not host.survivors(), 10, "it outlived its supervisor")
        assert host.out == ""
        assert "warm.ended" not in host.err


# --------------------------------------------------------------------------- it is not used


Said = list[dict[str, object]]


@contextlib.asynccontextmanager
async def waiting(base: pathlib.Path, env: dict[str, Any]) -> AsyncIterator[tuple[Any, Any, Said]]:
    """The part of a host that keeps one, where the hosts of a job wait for each other; what it is
    to run, and what it says."""
    (base / "train.py").write_text("import os, sys\nprint(os.environ['OWN'], len(sys.modules))\n")
    made = plan(PS, hosts=2, environ={"PATH": "/bin", "SUPERVISOR_WARM_START": "true"})
    (script,) = (spec for spec in made.processes if not spec.essential)
    environ = {"PATH": "/bin", "PYTHONPATH": env["PYTHONPATH"], "OWN": "1"}
    argv = (sys.executable, "train.py")
    script = replace(script, argv=argv, cwd=str(base), env=environ)
    said: Said = []

    def say(level: str, event: str, **fields: object) -> None:
        said.append({"event": event, **fields})

    tasks = Tasks(lambda _: None, say, Masker(()))
    present = Present(replace(made, processes=(script,)))
    part = warming.Warming(present, say=say, tasks=tasks, guardian=None)
    with no_leaks():
        async with asyncio.TaskGroup() as group:
            tasks.begin(group)
            part.begin()
            yield part, script, said
            tasks.end()
        part.close()


async def ended(child: Child) -> bytes:
    reader = Reader(child.stdout_fd)
    end = await child.run_to_end([reader], term_s=2, kill_s=2, drain_s=2)
    assert end.status.ok
    return reader.data


def test_it_is_used_where_the_environment_is_the_one_foreseen(
    tmp_path: pathlib.Path, env: dict[str, Any]
) -> None:
    """What the plan tells a script of its attempt may differ; what an import may read may not."""

    async def run(**other: str) -> tuple[Child, Said]:
        async with waiting(tmp_path, env) as (part, script, said):
            await until(lambda: said)
            child: Child = part.launch(replace(script, env=script.env | other), one_pipe=False)
            await ended(child)
            assert part.row() is None
        return child, said

    child, said = asyncio.run(run(SUPERVISOR_ATTEMPT="2", TF_CONFIG="{}"))
    assert child.told["warm_s"]
    assert [each["event"] for each in said] == ["warm.ready"]
    child, said = asyncio.run(run(OWN="2"))
    assert child.told == {}
    assert said[1:] == [{"event": "warm.unused", "reason": "OWN is another in its environment"}]


@pytest.mark.parametrize("when", ["before", "after"])
def test_where_memory_is_short_there_is_none(
    tmp_path: pathlib.Path, env: dict[str, Any], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    left = [1 << 30] if when == "before" else [1 << 40, 1 << 20]

    async def run() -> Said:
        async with waiting(tmp_path, env) as (part, script, said):
            await until(lambda: said and part.row() is None)
            child = part.launch(script, one_pipe=False)
            assert child.told == {}
            await ended(child)
        return said

    monkeypatch.setattr(resources, "memory_left", lambda: left.pop(0))
    (only,) = asyncio.run(run())
    assert only["event"] == "warm.unused"
    if when == "before":
        text = "1 GiB of memory are left, and it would take about 560 MiB"
        assert only["reason"] == text
    else:
        assert re.fullmatch(
            r"it takes [\d.]+ MiB, and 1 MiB of memory are left", str(only["reason"])
        )


def test_what_is_left_of_memory_is_known() -> None:
    left = resources.memory_left()
    assert left is None or left > 1 << 20


@pytest.mark.parametrize(
    ("early", "why"),
    [
        (
            'import os, sys\nos.environ["TF_CPP_MIN_LOG_LEVEL"] = sys.argv[0][:1]\n',
            "train.py sets TF_CPP_MIN_LOG_LEVEL, in a way that cannot be foreseen",
        ),
        (
            "from parts import own\n",
            "far.py sets TF_OWN, and it may do so before its libraries are imported",
        ),
        ("import tensorflow\n", "tensorflow.py has the name of a library"),
        ("", "ImportError: none here"),
    ],
    ids=["unclear", "another module", "shadowed", "no TensorFlow"],
)
def test_where_it_would_not_be_the_same_the_script_starts_without(
    tmp_path: pathlib.Path,
    env: dict[str, Any],
    early: str,
    why: str,
    request: pytest.FixtureRequest,
) -> None:
    """And it is said, once."""
    kind = request.node.callspec.id
    lay_out(tmp_path / "host", early + SCRIPT.replace("< 4", "< 3"))
    code = tmp_path / "host" / "code"
    if "own" in early:
        (code / "parts").mkdir()
        (code / "parts" / "__init__.py").write_text("")
        (code / "parts" / "own.py").write_text("from . import far\n")
        (code / "parts" / "far.py").write_text("import os\nos.environ['TF_OWN'] = '1'\n")
    if kind == "shadowed":
        (code / "tensorflow.py").write_text("")
    if kind == "no TensorFlow":
        (tmp_path / "library" / "tensorflow" / "__init__.py").write_text(
            "raise ImportError('none here')"
        )
    with Train(tmp_path / "host", **env) as host:
        assert host.wait() == 0, host.err
    assert len(re.findall("warm.unused: no warm start: ", host.err)) == 1, host.err
    (unused,) = host.report["warm"]["unused"]
    assert why in unused
    assert host.report["warm"]["used"] == 0
    assert "attempt 3 " in host.out


def test_a_command_is_run_by_no_python(tmp_path: pathlib.Path, env: dict[str, Any]) -> None:
    host = run(tmp_path, shell("true"), env)
    assert "SUPERVISOR_WARM_START is ignored: the script is not run by Python alone" in host.err


def test_where_it_is_not_asked_for_there_is_none(
    tmp_path: pathlib.Path, env: dict[str, Any]
) -> None:
    host = run(tmp_path, SCRIPT.replace("< 4", "< 3"), env | {"SUPERVISOR_WARM_START": "false"})
    assert host.report["warm"] is None
    assert "warm" not in host.err
    assert "True" not in host.out
