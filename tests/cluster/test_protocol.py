"""The wire protocol: what goes in comes out, and nothing else is let in."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cluster.protocol import (
    MAX_ATTEMPT,
    MAX_BODY_BYTES,
    MAX_DETAIL_CHARS,
    MAX_ERROR_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_MISSING,
    MAX_NUMBER,
    MAX_WORLD,
    VERSION,
    HostReport,
    JobDocument,
    JobIdentity,
    ProtocolError,
    VersionError,
    cut,
    cut_middle,
    decode_cause,
    decode_exit,
    decode_job,
    decode_report,
    decode_verdict,
    encode_cause,
    encode_exit,
    encode_job,
    encode_report,
    encode_verdict,
)
from supervisor.life.attempts import MOST_NAMED, Kind, Order, Past, Scope
from supervisor.life.words import Cause, CauseKind, ExitStatus, JobState, Outcome, Phase, Verdict
from tests.helpers.cluster import CAUSE, VERDICT

TEXT = st.characters(exclude_categories=["Cs"])
NAMES = st.text(TEXT, max_size=40)
EXITS = st.one_of(
    st.builds(ExitStatus, code=st.integers(0, 255)),
    st.builds(ExitStatus, signum=st.integers(1, 127), core_dumped=st.booleans()),
)
CAUSES = st.builds(
    Cause,
    kind=st.sampled_from(CauseKind),
    host=NAMES,
    message=st.text(TEXT, max_size=MAX_MESSAGE_CHARS),
    process=st.none() | NAMES,
    exit=st.none() | EXITS,
    detail=st.text(TEXT, max_size=200),
    at=st.floats(0, 1e11),
    error=st.text(TEXT, max_size=MAX_ERROR_CHARS),
    attempt=st.integers(1, MAX_ATTEMPT),
)
VERDICTS = st.builds(
    Verdict,
    outcome=st.sampled_from(Outcome),
    cause=CAUSES,
    exit_code=st.none() | st.integers(0, 255),
    not_restarted=st.text(TEXT, max_size=80),
    restartable=st.none() | st.booleans(),
)
WORLDS = st.lists(st.integers(0, MAX_WORLD), max_size=5).map(tuple)
ORDERS = st.builds(
    Order,
    turn=st.integers(1, MAX_NUMBER),
    attempt=st.integers(1, MAX_ATTEMPT),
    scope=st.sampled_from(Scope),
    named=st.lists(st.tuples(NAMES, NAMES), max_size=4).map(tuple),
    cause=st.none() | CAUSES,
    agreed=st.booleans(),
    world=WORLDS,
)
PAST = st.lists(
    st.builds(
        lambda cause, kind, scope, progressed: Past(
            cause.attempt, kind, scope, replace(cause, message="", detail="", exit=None), progressed
        ),
        CAUSES,
        st.sampled_from(Kind),
        st.sampled_from(Scope),
        st.booleans(),
    ),
    max_size=3,
).map(tuple)
JOBS = st.builds(
    JobDocument,
    run=NAMES,
    revision=st.integers(0, MAX_NUMBER),
    state=st.sampled_from(JobState),
    verdict=st.none() | VERDICTS,
    missing=st.lists(NAMES, max_size=20).map(tuple),
    order=st.none() | ORDERS,
    restarts=st.booleans(),
    past=PAST,
)
REPORTS = st.builds(
    HostReport,
    instance=NAMES,
    phase=st.sampled_from(Phase),
    script_ended=st.booleans(),
    cause=st.none() | CAUSES,
    heard=st.integers(0, MAX_NUMBER),
    seq=st.integers(0, MAX_NUMBER),
    run=NAMES,
    job=st.builds(JobIdentity, NAMES, NAMES),
    turn=st.integers(0, MAX_NUMBER),
    attempt=st.integers(1, MAX_ATTEMPT),
    progressed=st.booleans(),
    ordered=st.integers(0, MAX_NUMBER),
    past=PAST,
    world=WORLDS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(JOBS)
def test_a_job_document_survives_the_wire(document: JobDocument) -> None:
    assert decode_job(encode_job(document)) == document


@given(REPORTS)
def test_a_report_survives_the_wire(report: HostReport) -> None:
    assert decode_report(encode_report(report)) == report


@given(EXITS, CAUSES, VERDICTS)
def test_parts_survive_by_themselves(status: ExitStatus, cause: Cause, verdict: Verdict) -> None:
    assert decode_exit(encode_exit(status)) == status
    assert decode_cause(encode_cause(cause)) == cause
    assert decode_verdict(encode_verdict(verdict)) == verdict


@pytest.mark.parametrize("letter", ["x", "\0", "\U0001f600", "\ud800", '"', "\n"])
def test_texts_without_bound_still_make_a_body_that_is_taken(letter: str) -> None:
    """Every limit at once, in the letters that JSON and UTF-8 make longest."""
    huge = letter * 100_000
    cause = Cause(CauseKind.SCRIPT_FAILED, huge, huge, huge, None, huge, 1.0, huge, MAX_ATTEMPT)
    verdict = Verdict(Outcome.FAILED, cause, 1, huge, restartable=False)
    names = tuple(huge for _ in range(5000))
    pairs = tuple((huge, huge) for _ in range(MOST_NAMED))
    world = (MAX_WORLD,) * MAX_WORLD
    order = Order(MAX_NUMBER, MAX_ATTEMPT, Scope.ALONE, pairs, cause, world=world)
    past = (Past(MAX_ATTEMPT, Kind.CRASH, Scope.ALL, cause, False),) * 100
    restore = JobDocument(
        "x" * 253, MAX_NUMBER, JobState.ENDED, verdict, names, huge, order, True, past
    )
    for document in (restore, replace(restore, order=None), replace(restore, verdict=None)):
        body = encode_job(document)
        assert len(body) <= MAX_BODY_BYTES
        read = decode_job(body)
        for part in (read.verdict, read.order):
            if part is not None:
                assert part.cause is not None
                assert len(part.cause.message) == MAX_MESSAGE_CHARS
                assert len(part.cause.error) == MAX_ERROR_CHARS
        if read.order is not None:
            assert (read.order.turn, read.attempt) == (MAX_NUMBER, MAX_ATTEMPT)
            assert (read.order.scope, read.order.named) == (Scope.ALL, ())
            assert read.order.world == world, "who trains is never left out"
        if read.verdict is not None:
            assert len(read.verdict.not_restarted) == MAX_MESSAGE_CHARS
            assert len(read.verdict.cause.detail) == MAX_DETAIL_CHARS
    report = HostReport("i", Phase.DONE, True, cause, 0, attempt=MAX_ATTEMPT, turn=MAX_NUMBER)
    body = encode_report(replace(report, past=past, world=world, ordered=MAX_NUMBER))
    assert len(body) <= MAX_BODY_BYTES
    assert decode_report(body).past[-1].cause.error == cause.error[:255] + "…" or letter == "\ud800"


def test_of_the_past_the_latest_travels() -> None:
    past = tuple(
        Past(number, Kind.LOST, Scope.ALL, replace(CAUSE, attempt=number), True)
        for number in range(1, 100)
    )
    read = decode_job(encode_job(JobDocument("i", 1, JobState.RUNNING, past=past))).past
    assert [each.attempt for each in read] == [*range(84, 100)]
    assert read[-1].cause.error == CAUSE.error


def test_an_order_names_all_that_it_names_or_means_the_whole_job() -> None:
    """Cut in the middle it would leave a process out that has ended and is waited for."""

    def read(named: tuple[tuple[str, str], ...]) -> tuple[Scope, tuple[tuple[str, str], ...]]:
        order = Order(3, 2, Scope.ALONE, named, CAUSE)
        found = decode_job(encode_job(JobDocument("i", 1, JobState.RESTARTING, order=order))).order
        assert found is not None
        assert (found.turn, found.attempt, found.cause) == (3, 2, CAUSE)
        return found.scope, found.named

    usual = tuple((f"algo-{number}", "worker") for number in range(MOST_NAMED))
    assert read(usual) == (Scope.ALONE, usual)
    assert read((*usual, ("algo-1", "ps"))) == (Scope.ALL, ())
    longest = tuple((f"{number:03}".ljust(253, "x"), "worker") for number in range(MOST_NAMED))
    assert read(longest[:40]) == (Scope.ALONE, longest[:40])
    assert read(longest) == (Scope.ALL, ())


def test_of_a_thousand_missing_hosts_the_first_travel() -> None:
    names = tuple(f"algo-{number}" for number in range(1, 1001))
    body = encode_job(JobDocument("i", 1, JobState.JOINING, None, names))
    assert decode_job(body).missing == names[:MAX_MISSING]
    assert len(body) < 1024
    many = json.dumps(json.loads(body) | {"missing": list(names)}).encode()
    with pytest.raises(ProtocolError, match=r"^missing: 1000 names"):
        decode_job(many)


def test_cuts_show_and_keep_what_is_useful() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg", 6) == "abcde…"
    long = "first " + "x" * 100 + " last"
    assert len(cut_middle(long, 30)) == 30
    assert cut_middle(long, 30).startswith("first ")
    assert cut_middle(long, 30).endswith(" last")
    assert cut_middle("short", 30) == "short"


def test_unknown_keys_are_ignored() -> None:
    """A later minor version may say more."""
    value = json.loads(encode_job(JobDocument("i", 3, JobState.ENDED, VERDICT)))
    value["colour"] = "blue"
    value["verdict"]["cause"]["mood"] = [1, 2]
    assert decode_job(json.dumps(value).encode()).verdict == VERDICT


REPORT: dict[str, Any] = json.loads(encode_report(HostReport("i", Phase.RUNNING, False, CAUSE, 4)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"v": 2}, "v: this is protocol version 4, found 2"),
        ({"v": 5}, "v: this is protocol version 4, found 5"),
        ({"v": -1}, "v: this is protocol version 4, found -1"),
        ({"v": None}, "v: "),
        ({"v": True}, "v: "),
        ({"v": 1.0}, "v: "),
        ({"v": "1"}, "v: "),
        ({"instance": 7}, "instance: must be a string, found 7"),
        ({"instance": "x" * 254}, "instance: 254 characters"),
        ({"run": None}, "run: must be a string, found None"),
        ({"job": 7}, "job: must be a string, found 7"),
        ({"cluster": ["a"]}, "cluster: must be a string, found a list"),
        ({"phase": "dreaming"}, "phase: must be one of preparing, joining"),
        ({"phase": ["running"]}, "phase: must be one of"),
        ({"script_ended": 0}, "script_ended: must be true or false"),
        ({"heard": -1}, "heard: must be from 0"),
        ({"heard": True}, "heard: must be an integer"),
        ({"heard": 1.5}, "heard: must be an integer"),
        ({"heard": 2**60}, "heard: must be from 0"),
        ({"heard": 10**400}, "heard: must be from 0"),
        ({"seq": "1"}, "seq: must be an integer"),
        ({"attempt": 0}, "attempt: must be from 1 to 1000000"),
        ({"attempt": 1_000_001}, "attempt: must be from 1 to 1000000"),
        ({"attempt": None}, "attempt: must be an integer"),
        ({"turn": -1}, "turn: must be from 0"),
        ({"turn": True}, "turn: must be an integer"),
        ({"progressed": 1}, "progressed: must be true or false"),
        ({"cause": {**REPORT["cause"], "error": None}}, "error: must be a string"),
        ({"cause": {**REPORT["cause"], "error": "x" * 1025}}, "error: 1025 characters"),
        ({"cause": {**REPORT["cause"], "attempt": 0}}, "attempt: must be from 1"),
        ({"cause": "it broke"}, "cause: must be an object"),
        ({"cause": []}, "cause: must be an object, found a list"),
        ({"cause": {**REPORT["cause"], "kind": "bad luck"}}, "kind: must be one of"),
        ({"cause": {**REPORT["cause"], "message": "x" * 4097}}, "message: 4097 characters"),
        ({"cause": {**REPORT["cause"], "detail": "x" * 16_385}}, "detail: 16385 characters"),
        ({"cause": {**REPORT["cause"], "at": 10**400}}, "at: out of range"),
        ({"cause": {**REPORT["cause"], "at": "now"}}, "at: must be a number"),
        ({"cause": {**REPORT["cause"], "exit": {}}}, "exit: either code or signum"),
        ({"cause": {**REPORT["cause"], "exit": {"code": 0, "signum": 9}}}, "exit: either"),
        ({"cause": {**REPORT["cause"], "exit": {"code": 256}}}, "code: must be from 0 to 255"),
        ({"cause": {**REPORT["cause"], "exit": {"signum": 0}}}, "signum: must be from 1"),
    ],
)
def test_every_wrong_value_is_named(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{complaint}") as caught:
        decode_report(json.dumps(REPORT | change).encode())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


ORDER: dict[str, Any] = {
    "turn": 1,
    "attempt": 2,
    "scope": "alone",
    "named": [["algo-2", "worker"]],
    "cause": REPORT["cause"],
}
JOB: dict[str, Any] = json.loads(encode_job(JobDocument("i", 3, JobState.ENDED, VERDICT)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"attempt": 3}, "attempt: 3, and that of its order is 2"),
        ({"attempt": 0}, "attempt: must be from 1"),
        ({"restarts": "yes"}, "restarts: must be true or false"),
        ({"order": []}, "order: must be an object"),
        ({"order": {**ORDER, "turn": 0}}, "turn: must be from 1"),
        ({"order": {**ORDER, "attempt": 2.0}}, "attempt: must be an integer"),
        ({"order": {**ORDER, "scope": "most"}}, "scope: must be one of alone, chief, all"),
        ({"order": {**ORDER, "named": {}}}, "named: must be a list"),
        ({"order": {**ORDER, "named": [["algo-2"]]}}, "named: must be pairs of host and process"),
        ({"order": {**ORDER, "named": ["ab"]}}, "named: must be pairs of host and process"),
        ({"order": {**ORDER, "named": [["algo-2", 7]]}}, "named: must be a string"),
        ({"order": {**ORDER, "named": [["x" * 254, "ps"]]}}, "named: 254 characters"),
        ({"order": {**ORDER, "named": [["a", "ps"]] * 1025}}, "named: 1025 pairs, at most 1024"),
        ({"order": {**ORDER, "cause": "it broke"}}, "cause: must be an object"),
        ({"order": {k: v for k, v in ORDER.items() if k != "turn"}}, "turn: "),
        ({"order": {k: v for k, v in ORDER.items() if k != "attempt"}}, "attempt: "),
        ({"order": {k: v for k, v in ORDER.items() if k != "scope"}}, "scope: "),
        ({"verdict": {**JOB["verdict"], "not_restarted": 7}}, "not_restarted: must be a string"),
        ({"verdict": {**JOB["verdict"], "not_restarted": "x" * 4097}}, "not_restarted: 4097"),
        ({"verdict": {**JOB["verdict"], "restartable": 0}}, "restartable: must be true or false"),
    ],
)
def test_every_wrong_value_of_a_job_is_named(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{complaint}"):
        decode_job(json.dumps(JOB | {"attempt": 2, "order": ORDER} | change).encode())


def test_what_a_document_may_leave_out_is_as_it_was_before_there_were_attempts() -> None:
    job = {name: JOB[name] for name in JOB if name not in {"attempt", "order", "restarts"}}
    cause = {name: REPORT["cause"][name] for name in ("kind", "host", "message")}
    job["verdict"] = {"outcome": "failed", "cause": cause, "exit_code": 1}
    read = decode_job(json.dumps(job).encode())
    assert (read.order, read.attempt, read.restarts) == (None, 1, False)
    assert read.verdict is not None
    assert (read.verdict.not_restarted, read.verdict.restartable) == ("", None)
    assert (read.verdict.cause.error, read.verdict.cause.attempt) == ("", 1)
    order = {name: ORDER[name] for name in ("turn", "attempt", "scope")}
    assert decode_job(json.dumps(job | {"order": order}).encode()).order == Order(1, 2, Scope.ALONE)
    told = {name: REPORT[name] for name in REPORT if name not in OPTIONAL}
    report = decode_report(json.dumps(told).encode())
    assert (report.turn, report.attempt, report.progressed) == (0, 1, False)


@pytest.mark.parametrize("decode", [decode_job, decode_report])
@pytest.mark.parametrize("version", [0, VERSION - 1, VERSION + 1])
def test_another_version_is_told_from_what_is_no_document(
    decode: Callable[[bytes], object], version: int
) -> None:
    with pytest.raises(VersionError) as caught:
        decode(json.dumps({"v": version}).encode())
    assert caught.value.found == version


OPTIONAL = {
    *("cause", "seq", "holds", "turn", "attempt", "progressed", "ordered", "past", "world"),
    "prepared_s",
}


@pytest.mark.parametrize("key", [key for key in REPORT if key not in OPTIONAL])
def test_every_missing_key_is_named(key: str) -> None:
    body = json.dumps({name: value for name, value in REPORT.items() if name != key}).encode()
    with pytest.raises(ProtocolError, match=f"^{key}: "):
        decode_report(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"v"',
        b"\xff\xfe",
        b'{"v": NaN}',
        b'{"v": Infinity}',
        b"[" * 60_000,
        b'{"v":' * 10_000,
        b'{"v": 1' + b"1" * 10_000 + b"}",
        b" " * (MAX_BODY_BYTES + 1),
        b'{"v": 1} trailing',
    ],
    ids=lambda body: body[:12],
)
def test_what_is_no_document_is_refused(body: bytes) -> None:
    for decode in (decode_job, decode_report):
        with pytest.raises(ProtocolError):
            decode(body)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for decode in (decode_job, decode_report):
        with pytest.raises(ProtocolError):
            decode(body)


@given(st.sampled_from(sorted(REPORT)), JSON, st.sampled_from([None, *sorted(REPORT["cause"])]))
def test_no_json_raises_anything_else(key: str, value: object, inner: str | None) -> None:
    changed: dict[str, Any] = json.loads(json.dumps(REPORT))
    if inner is None:
        changed[key] = value
    else:
        changed["cause"][inner] = value
    read = None
    with contextlib.suppress(ProtocolError):
        read = decode_report(json.dumps(changed).encode())
    if read is not None:
        assert decode_report(encode_report(read)) == read


def test_lone_surrogates_do_not_pass() -> None:
    """JSON can spell them, UTF-8 cannot: a log line with one would raise where it is written."""
    body = json.dumps(REPORT | {"instance": "a\ud800b"}).encode()
    assert decode_report(body).instance == "a?b"
