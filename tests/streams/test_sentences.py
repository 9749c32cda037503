"""What the supervisor says, in words; and TensorFlow's error of a machine without a GPU."""

from __future__ import annotations

import ast
import os
import pathlib
from collections.abc import Iterator

import pytest

import supervisor
from supervisor.streams import Carriage, Json, Label, Prefix
from supervisor.streams.gpuless import REASON, Gpuless, no_gpu_here
from supervisor.streams.logs import Log
from supervisor.streams.masking import Masker
from supervisor.streams.sentences import _SENTENCES, brief, sentence

SAYS = {"say", "_say", "Say", "Said"}
SAMPLES = {"outcome": "failed", "restore": "000001-x", "hosts": ["algo-2", "algo-3"]}


def said_in_the_code() -> Iterator[tuple[str, list[str] | None]]:
    """Each event that is said with a name that stands there, and its fields where they do too."""
    for path in sorted(pathlib.Path(supervisor.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            words = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
            events = [each for each in words if isinstance(each, str) and "." in each]
            if name not in SAYS or not events or " " in events[0]:
                continue
            fields = [each.arg for each in node.keywords]
            known = None if None in fields or name in {"Say", "Said"} else fields
            if known is not None and "storage" in path.parts:
                known = ["transfer", *filter(None, known)]
            yield events[0], [each for each in known if each] if known is not None else None


EVENTS = sorted({event for event, _ in said_in_the_code()})


def test_the_events_are_found() -> None:
    assert {"process.started", "job.ending", "member.joined", "checkpoint.saved"} <= {*EVENTS}
    assert len(EVENTS) > 50


@pytest.mark.parametrize("event", EVENTS)
def test_each_event_has_a_sentence(event: str) -> None:
    assert event in _SENTENCES


@pytest.mark.parametrize(
    ("event", "names"),
    [(event, names) for event, names in said_in_the_code() if names],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sentence_needs_no_field_that_is_not_said(event: str, names: list[str]) -> None:
    fields = {name: SAMPLES.get(name, f"<{name}>") for name in names}
    text = sentence(event, fields)
    told_by_fields = ", ".join(f"{name} {fields[name]}" for name in names)
    assert text != told_by_fields or len(names) == 0
    assert "=" not in text


@pytest.mark.parametrize(
    ("event", "fields", "text"),
    [
        ("member.joined", {"host": "algo-2", "missing": 0},
         "algo-2 has joined, all hosts are here"),
        ("member.joined", {"host": "algo-2", "missing": 3}, "algo-2 has joined, 3 missing"),
        ("process.started", {"process": "ps", "pid": 7, "argv": "p" * 200},
         "ps runs, pid 7: " + "p" * 119 + "…"),
        ("process.exited", {"process": "ps", "pid": 7, "exit": "exit 0", "seconds": 1.5},
         "ps, pid 7: exit 0 after 1.5 s"),
        ("process.signalled", {"process": "ps", "pid": 7, "signal": "SIGTERM", "to": "group"},
         "SIGTERM to ps, pid 7 and its process group"),
        ("process.signalled", {"process": "ps", "pid": 7, "signal": "SIGTERM", "to": "everybody"},
         "SIGTERM to ps, pid 7: sent to every process, it has had it already"),
        ("signal.received", {"signal": "SIGTERM", "count": 2, "left_s": 3.5},
         "SIGTERM, number 2; 3.5 s are left to stop"),
        ("job.ended", {"outcome": "stopped", "cause": "algo-1: received SIGTERM", "exit_code": 0},
         "the job was stopped: algo-1: received SIGTERM; exit code 0"),
        ("members.late", {"hosts": ["algo-2", "algo-3"]},
         "not waited for any more: algo-2, algo-3"),
        ("output.lost", {"output": "stdout", "dropped_bytes": 5, "dropped_lines": 1},
         "stdout: 5 dropped bytes, 1 dropped lines"),
        ("attempt.restarted",
         {"attempt": 2, "scope": "all", "kind": "crash", "seconds": 0.312,
          "cause": "algo-2 worker: died", "from": "/c/4"},
         "attempt 2: all scripts start anew after algo-2 worker: died (crash); 0.31 s, from /c/4"),
        ("attempt.restarted",
         {"attempt": 3, "scope": "alone", "kind": "hang", "seconds": 2.0, "cause": "a: b"},
         "attempt 3: the process alone starts anew after a: b (hang); 2.00 s"),
        ("attempt.restarted",
         {"attempt": 3, "scope": "chief", "kind": "crash", "seconds": 2.0, "cause": "a: b"},
         "attempt 3: the chief and the parameter servers start anew after a: b (crash); 2.00 s"),
        ("attempt.refused", {"cause": "a: b", "reason": "exit 127 would happen again"},
         "not restarted: exit 127 would happen again (a: b)"),
        ("attempt.waiting", {"attempt": 3, "after_s": 2.0, "cause": "a: b"},
         "attempt 3 begins in 2 s, after a: b"),
        ("some.event", {"a": 1, "b": [2, 3]}, "a 1, b 2, 3"),
        ("job.ending", {"outcome": "failed"}, "outcome failed"),
    ],
)  # fmt: skip
def test_what_is_said(event: str, fields: dict[str, object], text: str) -> None:
    assert sentence(event, fields) == text


def test_a_cause_is_told_once_by_the_host_of_it() -> None:
    cause = "algo-2 worker: KeyError: 'batch_size' (bug.py:5); exit 1"
    fields = {"outcome": "failed", "cause": cause}
    assert brief("job.ending", fields, "algo-2") == "worker: KeyError: 'batch_size' (bug.py:5)"
    assert brief("job.ending", fields, "algo-1") == "stopping: algo-2 worker failed"
    assert brief("job.ending", {**fields, "outcome": "succeeded"}, "algo-2") == ""
    stop = {"outcome": "stopped", "cause": "algo-2: received SIGINT"}
    assert brief("job.ending", stop, "algo-2") == ""
    assert brief("job.ending", stop, "algo-1") == "stopping: algo-2 was asked to stop"
    assert brief("job.ended", {**fields, "exit_code": 84}, "algo-1") == ""


def test_attempts_in_brief_leave_out_what_the_line_of_the_process_says() -> None:
    cause = "algo-2 worker: KeyError: 'batch_size' (bug.py:5); exit 1 after 2.1 s"
    fields = {"attempt": 2, "scope": "all", "kind": "crash", "seconds": 0.31, "cause": cause}
    told = brief("attempt.restarted", {**fields, "from": "/w/run/algo-1/ckpt-40"}, "algo-1")
    assert told == (
        "attempt 2: all scripts start anew after algo-2 worker: KeyError: 'batch_size' (bug.py:5) "
        "(crash); 0.31 s, from ckpt-40"
    )
    waiting = {"attempt": 2, "after_s": 4.0, "cause": cause}
    assert brief("attempt.waiting", waiting, "algo-1") == (
        "attempt 2 begins in 4 s, after algo-2 worker: KeyError: 'batch_size' (bug.py:5)"
    )
    refused = {"cause": cause, "reason": "3 restarts without progress (SUPERVISOR_RESTARTS=3)"}
    assert brief("attempt.refused", refused, "algo-1") == (
        "not restarted: 3 restarts without progress (SUPERVISOR_RESTARTS=3)"
    )


def test_brief_lines_have_a_time_and_words() -> None:
    lines: list[bytes] = []
    log = Log(
        lambda line, _words: lines.append(line),
        host="algo-1",
        level="info",
        style="brief",
        masker=Masker(["geheim-geheim"]),
    )
    log.info("member.joined", host="algo-2 geheim-geheim", missing=0)
    log.info("process.signalled", process="ps", pid=7, signal="SIGTERM", to="leader")
    (line,) = lines
    assert line[8:] == b" algo-2 ****** has joined, all hosts are here\n"
    assert line[2:3] == line[5:6] == b":"


# --------------------------------------------------------------------------- without a GPU

BEFORE = b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
ERROR = (
    b"E0000 00:00:1795871784.236872   14053 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
    b"CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)\n"
)


def shown(*chunks: bytes) -> str:
    formatter = Gpuless(Prefix(Label("algo-1", "chief", "stderr"), "{mark} "))
    out = b"".join(formatter.feed(chunk, 0.0) for chunk in chunks)
    return (out + formatter.flush(1.0)).decode()


def test_the_error_of_a_machine_without_a_gpu_is_left_out_once_and_said() -> None:
    note = f"· {REASON}\n"
    assert shown(BEFORE + ERROR + b"step 1\n") == f"{note}│ step 1\n"
    assert shown(b"a\n", ERROR, b"step 1\n") == f"│ a\n{note}│ step 1\n"
    assert shown(ERROR + ERROR) == note + f"│ {ERROR.decode()}"


@pytest.mark.parametrize(
    "text",
    [
        ERROR.replace(b"(303)", b"(100)"),  # a GPU that cannot be used
        b"half a line " + ERROR,
        b"    " + ERROR,
        ERROR.replace(b"cuda_platform", b"mine"),
    ],
)
def test_whatever_else_is_written_stays(text: bytes) -> None:
    assert shown(text) == f"│ {text.decode()}"


def test_it_is_looked_for_where_it_may_be() -> None:
    assert shown(b"half", ERROR) == f"│ half{ERROR.decode()}"
    late = b"x" * 79 + b"\n"
    assert shown(late * 14_000, ERROR).endswith(f"│ {ERROR.decode()}")


def test_the_note_is_an_object_in_json() -> None:
    formatter = Gpuless(Json(Label("algo-1", "chief", "stderr"), carriage=Carriage.COLLAPSE))
    out = formatter.feed(ERROR, 0.0).decode()
    assert '"note":true' in out
    assert "failed call" not in out


def test_a_machine_with_a_driver_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/nvidiactl")
    assert not no_gpu_here()
