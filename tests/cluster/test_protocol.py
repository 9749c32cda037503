"""The wire protocol: what goes in comes out, and nothing else is let in."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cluster.protocol import (
    MAX_BODY_BYTES,
    MAX_DETAIL_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_MISSING,
    MAX_NUMBER,
    HostReport,
    JobDocument,
    JobIdentity,
    ProtocolError,
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
)
VERDICTS = st.builds(
    Verdict,
    outcome=st.sampled_from(Outcome),
    cause=CAUSES,
    exit_code=st.none() | st.integers(0, 255),
)
JOBS = st.builds(
    JobDocument,
    run=NAMES,
    revision=st.integers(0, MAX_NUMBER),
    state=st.sampled_from(JobState),
    verdict=st.none() | VERDICTS,
    missing=st.lists(NAMES, max_size=20).map(tuple),
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
    cause = Cause(CauseKind.SCRIPT_FAILED, huge, huge, huge, None, huge, 1.0)
    names = tuple(huge for _ in range(5000))
    body = encode_job(JobDocument("i", 1, JobState.ENDED, Verdict(Outcome.FAILED, cause, 1), names))
    assert len(body) <= MAX_BODY_BYTES
    read = decode_job(body).verdict
    assert read is not None
    assert len(read.cause.message) == MAX_MESSAGE_CHARS
    assert len(read.cause.detail) == MAX_DETAIL_CHARS
    assert len(encode_report(HostReport("i", Phase.DONE, True, cause, 0))) <= MAX_BODY_BYTES


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
        ({"v": 3}, "v: this is protocol version 2, found 3"),
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


@pytest.mark.parametrize("key", [key for key in REPORT if key not in ("cause", "seq", "holds")])
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
