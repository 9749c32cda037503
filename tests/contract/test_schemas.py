"""The schemas in ``supervisor/schemas``: what is written is valid by them, and what is read too.

Reports and ``/status`` of the jobs of other tests are held against them where those read them
(``tests/helpers/schemas.py``).
"""

from __future__ import annotations

import json
import pathlib
import re
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

import pytest
from jsonschema import Draft202012Validator

from supervisor.cluster.liveness import MasterState, MemberState
from supervisor.contract.contract import read_contract
from supervisor.contract.distribution import Strategy
from supervisor.faults import ContractError
from supervisor.life.attempts import Scope
from supervisor.life.words import CauseKind, Outcome, Phase, Role
from supervisor.status.snapshot import (
    AttemptRow,
    BudgetRow,
    HostRow,
    LedgerRow,
    ProcessRow,
    ProgressRow,
    SavesRow,
    Snapshot,
    StartupRow,
    TimeRow,
    TransferRow,
)
from supervisor.training.ledger import Account
from supervisor.training.reading import Origin, Unit
from supervisor.verbs import schema
from tests.contract.test_contract import facts
from tests.helpers import schemas
from tests.helpers.aio import free_port
from tests.helpers.train import Script, Train, lay_out, shell
from tests.helpers.waiting import wait_until

NAMES = ("report", "status", "supervisorconfig")
_STATES = {"self", *MemberState, *MasterState}
ENUMS: Mapping[str, Mapping[str, set[str | None]]] = {
    "report": {
        "/strategy": {*Strategy},
        "/outcome": {*Outcome},
        "/$defs/attempt/scope": {*Scope, None},
        "/$defs/cause/kind": {*CauseKind},
        "/$defs/host/phase": {*Phase, None},
        "/$defs/host/state": _STATES,
        "/$defs/phase/phase": {*Phase},
        "/$defs/process/role": {*Role},
        "/$defs/progress/unit": {*Unit},
        "/$defs/progress/source": {*Origin},
        "/$defs/ledger/account": {*Account},
        "/$defs/ledger/unit": {*Unit, None},
    },
    "status": {
        "/phase": {*Phase},
        "/$defs/attempt/scope": {*Scope, None},
        "/$defs/cause/kind": {*CauseKind},
        "/$defs/host/phase": {*Phase, None},
        "/$defs/host/state": _STATES,
        "/$defs/process/role": {*Role},
        "/$defs/progress/unit": {*Unit},
        "/$defs/progress/source": {*Origin},
        "/$defs/ledger/account": {*Account},
        "/$defs/ledger/unit": {*Unit, None},
        "/$defs/verdict/outcome": {*Outcome},
    },
    "supervisorconfig": {},
}


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(schema.text_of(name))
    return found


def properties(part: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property that a schema describes, with its place; those of its definitions too."""
    for name, each in part.get("properties", {}).items():
        yield f"{place}/{name}", each
        yield from properties(each, f"{place}/{name}")
    for name, each in part.get("$defs", {}).items():
        yield from properties(each, f"{place}/$defs/{name}")


def test_every_file_is_a_schema_and_can_be_printed() -> None:
    files = pathlib.Path(schema.__file__).parent.parent / "schemas"
    assert sorted(path.name for path in files.iterdir()) == [f"{name}.json" for name in NAMES]
    assert tuple(schema.WHAT_THEY_DESCRIBE) == NAMES
    for name in NAMES:
        assert document(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        Draft202012Validator.check_schema(document(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_property_has_a_type_and_says_what_it_is(name: str) -> None:
    for place, each in properties(document(name)):
        assert each.keys() & {"type", "const", "$ref", "anyOf"}, place
        assert each["description"].endswith("."), place


@pytest.mark.parametrize("name", NAMES)
def test_closed_sets_of_words_are_those_of_the_program(name: str) -> None:
    found = {place: each["enum"] for place, each in properties(document(name)) if "enum" in each}
    assert {place: set(words) for place, words in found.items()} == ENUMS[name]
    assert all(len(words) == len(set(words)) for words in found.values())


def test_both_documents_tell_of_the_same_things_in_the_same_way() -> None:
    report, status = document("report")["$defs"], document("status")["$defs"]
    # A report tells of the end of a process, and of those that ended with an attempt.
    shared = (report.keys() & status.keys()) - {"process", "attempt"}
    assert shared == {"cause", "exit", "host", "transfer", "entry", "progress"} | {
        *("ledger", "time", "startup", "saves")
    }
    assert all(report[name] == status[name] for name in shared)
    told, shown = (part["attempt"]["properties"] for part in (report, status))
    assert told == shown | {"processes": told["processes"]}


def test_what_status_says_is_its_types() -> None:
    status = document("status")
    rows = {
        "process": ProcessRow,
        "attempt": AttemptRow,
        "host": HostRow,
        "ledger": LedgerRow,
        "progress": ProgressRow,
        "saves": SavesRow,
        "startup": StartupRow,
        "time": TimeRow,
        "transfer": TransferRow,
    }
    parts = {name: status["$defs"][name] for name in rows}
    for part, row in (
        (status, Snapshot),
        (status["properties"]["budget"], BudgetRow),
        *((parts[name], row) for name, row in rows.items()),
    ):
        assert set(part["properties"]) == set(get_type_hints(row))
        assert set(part["required"]) == set(part["properties"]), "the host writes all of them"


# ---------------------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    ("script", "env", "code", "outcome", "kind"),
    [
        (shell("true"), {}, 0, "succeeded", "finished"),
        (shell("echo bad >&2; exit 3"), {}, 3, "failed", "script_failed"),
        (shell("kill -SEGV $$"), {}, 139, "failed", "script_failed"),
        (Script("none.sh", "#!/no/such/shell\n"), {}, 126, "failed", "start_failed"),
        (shell("sleep 60"), {"SUPERVISOR_MAX_RUNTIME_S": "0.3"}, 143, "stopped", "max_runtime"),
        (shell("sleep 60"), {"SUPERVISOR_HANG_TIMEOUT_S": "0.3"}, 88, "failed", "hang"),
    ],
)
def test_a_report_is_valid_however_the_job_ended(
    tmp_path: pathlib.Path,
    script: Script,
    env: Mapping[str, Any],
    code: int,
    outcome: str,
    kind: str,
) -> None:
    lay_out(tmp_path, script)
    with Train(tmp_path, SUPERVISOR_LOG_FILES="true", **env) as train:
        assert train.wait() == code
    report = train.report
    assert (report["outcome"], report["cause"]["kind"]) == (outcome, kind)


def test_status_and_report_are_valid_with_transfers_and_after_a_stop(
    tmp_path: pathlib.Path,
) -> None:
    base, wall, port = tmp_path / "base", tmp_path / "wall", free_port()
    base.mkdir()
    wall.write_text("a file, where a directory would have to be")
    saves = "echo x > $SUPERVISOR_CHECKPOINT_DIR/x; echo y > $SM_OUTPUT_DATA_DIR/y"
    lay_out(base, shell(f"trap 'exit 0' TERM; {saves}; sleep 60 & wait"))
    env: dict[str, Any] = {
        "SUPERVISOR_STATUS_PORT": str(port),
        "SUPERVISOR_CHECKPOINT_S3_URI": f"{tmp_path}/kept",
        "SUPERVISOR_OUTPUT_S3_URI": f"{wall}/output",
        "SUPERVISOR_PUBLISH_RESERVE_S": "3",
    }

    def sent() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status") as answer:
                status = schemas.read("status", answer.read())
        except OSError:  # it is not there yet
            return 0
        return sum(row["sent_files"] for row in status["transfers"])

    with Train(base, **env) as train:
        wait_until(sent, 30)
        assert train.stop() == 87
    assert train.report["outcome"] == "stopped"
    assert train.report["transfers"]
    assert train.report["unsent"]


def test_a_fault_in_a_document_is_found() -> None:
    """The schemas are no sieve with holes only."""
    exit_ = {"code": 1, "signum": None, "core_dumped": False}
    cause = {
        "kind": "finished", "host": "a", "message": "", "process": None, "exit": exit_,
        "detail": "", "at": 1.5, "error": "", "attempt": 1,
    }  # fmt: skip
    parts = schemas.validator("report").schema["$defs"]
    validator = Draft202012Validator({"$ref": "#/$defs/cause", "$defs": parts})
    assert validator.is_valid(cause)
    for wrong in (
        {"kind": "luck"},
        {"more": 1},
        {"at": "now"},
        {"error": None},
        {"attempt": 0},
        {"exit": exit_ | {"signum": 9}},
        {"exit": exit_ | {"code": None}},
        {"exit": exit_ | {"code": 256}},
    ):
        assert not validator.is_valid(cause | wrong), wrong
    assert not validator.is_valid({key: cause[key] for key in cause if key != "host"})


# ---------------------------------------------------------------------------- what is read


def refused(config: object) -> str:
    """Why the reader does not take it; empty if it does."""
    try:
        read_contract(facts(raw={"supervisorconfig.json": json.dumps(config).encode()}))
    except ContractError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hosts": {}},
        {"arguments": []},
        {"arguments": ["--epochs", "3", ""]},
        {"hosts": {"algo-1": {}}},
        {"hosts": {"algo-1": {"address": "10.0.0.1"}}},
        {"hosts": {"algo-1": {"ports": {}}}},
        {"hosts": {"algo-1": {"ports": {"train": 1, "ps": 65535, "status": 2224}}}},
        {"hosts": {"algo-1": {"address": "fd77::1", "ports": {"ps": 2223}, "rack": 7}}},
    ],
)
def test_a_config_that_is_taken_is_valid(config: object) -> None:
    assert refused(config) == ""
    assert schemas.faults("supervisorconfig", config) == []


@pytest.mark.parametrize(
    "config",
    [
        [],
        None,
        "hosts",
        {"argv": []},
        {"hosts": []},
        {"hosts": None},
        {"arguments": None},
        {"arguments": "--epochs 3"},
        {"arguments": ["--epochs", 3]},
        {"hosts": {"algo-1": None}},
        {"hosts": {"algo-1": "10.0.0.1"}},
        {"hosts": {"algo-1": {"address": None}}},
        {"hosts": {"algo-1": {"address": 7}}},
        {"hosts": {"algo-1": {"ports": [2223]}}},
        {"hosts": {"algo-1": {"ports": None}}},
        {"hosts": {"algo-1": {"ports": {"ps": "2223"}}}},
        {"hosts": {"algo-1": {"ports": {"ps": None}}}},
        {"hosts": {"algo-1": {"ports": {"ps": True}}}},
        {"hosts": {"algo-1": {"ports": {"ps": 2223.5}}}},
        {"hosts": {"algo-1": {"ports": {"ps": 0}}}},
        {"hosts": {"algo-1": {"ports": {"ps": 65536}}}},
        {"hosts": {"algo-1": {"ports": {"ssh": 22}}}},
    ],
)
def test_a_config_that_is_refused_for_its_shape_is_not(config: object) -> None:
    assert "supervisorconfig.json" in refused(config)
    assert schemas.faults("supervisorconfig", config)


# ---------------------------------------------------------------------------- the verb


def test_the_verb_prints_a_schema_or_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        assert schema.show(name) == 0
        assert json.loads(capsys.readouterr().out) == document(name)
    assert schema.show(None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*NAMES]


@pytest.mark.parametrize(
    ("name", "near"),
    [("reports", "report"), ("/status", "status"), ("supervisor-config", "supervisorconfig"),
     ("", ""), ("../../etc/passwd", "")],
)  # fmt: skip
def test_the_verb_knows_the_nearest_name(
    capsys: pytest.CaptureFixture[str], name: str, near: str
) -> None:
    assert schema.show(name) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert re.search(rf"no schema {name!r}; did you mean {near}", error)
