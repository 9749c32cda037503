"""The wire protocol between the hosts of a job, version 4. Pure: bytes in, frozen data out.

Two documents travel, each a JSON object in UTF-8 of at most 64 KiB with the key ``"v": 4``. Each
message names the run and the attempt of the job that it speaks of, and says which version of the
protocol it is of.

``GET /v1/job?v=4&run=U&attempt=A&after=R&wait=S&host=H&instance=I&job=N&cluster=C`` on the master
answers with the **job document**::

    {"v": 4, "run": "8c…", "revision": 7, "state": "restarting", "verdict": null, "missing": [],
     "restore": "", "restarts": true, "attempt": 2,
     "order": {"turn": 1, "attempt": 2, "scope": "alone", "named": [["algo-2", "worker"]],
               "cause": {…}, "agreed": false, "world": []}, "past": []}

- ``run`` names this run of the job: the master's supervisor makes it when it starts, members learn
  it here and put it into every message. ``revision`` counts up within it from 1. The request says
  with ``run``, ``attempt`` and ``after`` what the member knows already. The answer comes at once
  when the master's document is another one, else as soon as it changes, else after ``wait`` seconds
  (at most 30) unchanged.
- ``verdict``, once there is one, is ``{"outcome", "exit_code", "cause", "not_restarted",
  "restartable"}``: why the job was not started anew, and whether starting the whole of it again
  makes sense (null: as its cause alone says it).
- ``restore``, while joining: the generation of checkpoints that every host is to hold before the
  job runs; a host that holds another one restores it and reports again. While restarting by an
  order that is ``agreed`` the hosts that have come down wait for it; ``-`` is none.
- ``restarts`` says that the master starts anew what fails: a failure is its to judge.
- ``attempt`` is the job's, from 1; an attempt is a part of a run and only grows in it. ``order``
  (null before the first) is what has last been started anew, or is to be, see ``attempts.Order``.
  Its ``named`` are at most 256 pairs of host and process; where their names do not fit into a
  quarter of the body, its ``scope`` is sent as ``all`` and it names nobody, which starts anew more
  than was asked for and never less. The ``detail`` of its cause is left out where it does not fit.
  The process ``*`` is every one of a host that was lost. ``world`` are the hosts that train from
  then on, by their numbers in the cluster (the hosts of the distribution without the evaluator),
  in the order of their ranks; none where that never changes.
- ``past`` is how the last attempts ended, the oldest first, as much as fits into an eighth of the
  body: what a master that is started anew has to know, and which the others tell it.
- ``host`` (optional) makes the request a sign of life of that member, and ``after`` its
  acknowledgement of that revision. It is then accepted on the same terms as a report, and says as
  a report does who asks: ``v``, ``instance``, ``job`` and ``cluster``. An ``attempt`` that is over
  is no reason to refuse it: the answer is how a member learns of the new one.

``PUT /v1/hosts/{name}`` on the master carries the **host report** and answers with the job
document::

    {"v": 4, "job": "mnist", "cluster": "5d…", "run": "8c…", "instance": "f0…", "seq": 3,
     "phase": "restarting", "script_ended": false, "cause": null, "heard": 7,
     "holds": "generation 000012-3fa9c1d2 -", "attempt": 2, "turn": 1, "progressed": false,
     "ordered": 1, "past": [], "world": [], "prepared_s": 31.2}

- ``job`` is the platform's name of the job, empty if it gives none, and ``cluster`` a digest of
  its hosts: both ends must have the same.
- ``instance`` names this run of the member's supervisor, ``seq`` counts its reports. A report is
  the whole of what the member has to say, so sending it again changes nothing; one with a lower
  ``seq`` of the same instance arrived late and is answered and ignored.
- ``holds`` is what the host's checkpoint directory holds (``agreement.Held``), empty where nothing
  is restored.
- ``heard`` is the revision of the job document that the member knows, 0 for none.
- ``attempt`` is the one that the report speaks of. If the job is at a later one, the report is a
  sign of life and no more: it is refused with ``attempt``, the member need not repeat it, and has
  more to say as soon as it hears the job document; a host that comes down for good is heard
  whatever its attempt. One of an attempt that has not begun is 400.
- ``turn`` is that of the last order for which all is down and ready on the host, 0 for none.
- ``progressed`` says that training has moved since the attempt began.
- ``ordered`` is the turn of the last order that the host has heard, ``world`` that order's, and
  ``past`` that of the document.
- ``prepared_s`` (optional) is how long the host took until it waited for the others, in seconds;
  null before.
- Accepted from the named host's own addresses only, and with ``Authorization: Bearer TOKEN``
  where the job has a token.

A host whose processes run keeps them while its master is away, and goes on to ask. A master that
was started anew, and whose job has not begun yet, takes such a host's ``run`` for the name of its
own, goes on counting ``revision`` and, once all hosts are there, ``attempt`` and ``turn`` from what
they say. Where it does not, the host has met another run: its own is over.

Who is not taken is answered with 409 and ``{"error": "one line", "reason": …}``, a `Refusal`;
``admission.py`` decides it. Other errors are ``{"error": "one line"}`` with a 4xx status.

A cause is ``{"kind", "host", "message", "process", "exit", "detail", "at", "error", "attempt"}``,
an exit ``{"code", "signum", "core_dumped"}``. Of a cause in ``past`` travel
``{"attempt", "ended", "scope", "kind", "host", "process", "error", "at", "progressed"}``, where
``ended`` is an ``attempts.Kind``.

Compatibility: unknown keys are ignored, another version or an unknown value of an enumeration is
refused. Hosts whose supervisors speak other versions do not train together: the master refuses such
a host at the join (``version``; before version 3 a poll said none), and a member does not follow
such a master; both say both versions. Nothing is believed of a body: every type, length and range
is checked, and whatever is wrong raises the one `ProtocolError`. Long texts are cut by the sender
(``message`` and ``not_restarted`` to 1,024 characters, ``detail`` to 4,096, ``error`` to 256,
``missing`` to 32 names) and refused by the receiver at four times that.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

from supervisor.life.attempts import MOST_NAMED, Kind, Order, Past, Scope
from supervisor.life.words import Cause, CauseKind, ExitStatus, JobState, Outcome, Phase, Verdict

VERSION = 4
MAX_BODY_BYTES = 64 * 1024
MAX_MESSAGE_CHARS = 1024
MAX_DETAIL_CHARS = 4096
MAX_ERROR_CHARS = 256
MAX_NAME_CHARS = 253
"""A DNS name's greatest length; also the limit for process names and instances."""
MAX_MISSING = 32
"""Names of missing hosts that travel: enough for a message, and few, because every member reads
them again and again while a thousand join."""
MOST_PAST = 16
"""Ends of attempts that travel."""
MAX_WORLD = 2048
"""Hosts of a job that may go on without some of them: their numbers fit into a sixth of the
body."""
MAX_NUMBER = 2**53 - 1
"""The greatest integer that every JSON reader holds exactly."""

MAX_ATTEMPT = 1_000_000
"""An attempt costs a pause or progress: a job that came so far would be years old."""

_TOLERANCE = 4
"""A receiver takes texts of this many times the sender's limit: the limits may grow."""

_E = TypeVar("_E", bound=enum.StrEnum)


class ProtocolError(ValueError):
    """A body that is not a document of this protocol.

    The message is one line and quotes no more than a few characters of the body.
    """


class VersionError(ProtocolError):
    """A document of another version of this protocol, ``found``."""

    def __init__(self, found: int) -> None:
        super().__init__(f"v: this is protocol version {VERSION}, found {found}")
        self.found = found


def versions_differ(one: str, other: str) -> str:
    """What to say, and what to do, where two hosts' supervisors speak other versions.

    Args:
        one: who speaks which version: ``algo-2 speaks version 2``.
        other: the same of the other: ``the master version 3``.

    """
    return f"{one} of the protocol between hosts, {other}: install the same supervisor on all hosts"


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which job a host is of. Hosts that do not agree on it have nothing to say to each other."""

    name: str = ""
    """The platform's; empty if it gives none."""
    cluster: str = ""
    """Tells apart what has the same name, or none: a digest of the hosts, see `identify`."""

    def __str__(self) -> str:
        return f"job {self.name}" if self.name else "a job without a name"


def identify(name: str, master: str, hosts: Iterable[str]) -> JobIdentity:
    """The identity of a job by its name and its hosts, whatever their order.

    Nothing else of the configuration belongs to it: settings may differ from host to host.
    """
    told = json.dumps([master, *sorted(hosts)]).encode()
    return JobIdentity(_clean(name)[:MAX_NAME_CHARS], hashlib.sha256(told).hexdigest()[:16])


class Refusal(enum.StrEnum):
    """Why the master does not take a host, as it travels."""

    JOB = "job"
    """It is of a job with another name."""
    CLUSTER = "cluster"
    """It is of a job of the same name with other hosts."""
    RUN = "run"
    """It follows an earlier run of the job."""
    TAKEN = "taken"
    """Another supervisor is this host, and it is alive."""
    REPLACED = "replaced"
    """Another supervisor has become this host, because this one was gone."""
    RUNNING = "running"
    """The job runs, this host's supervisor was started after that, and hosts do not come back."""
    ATTEMPT = "attempt"
    """It speaks of an attempt that is over."""
    VERSION = "version"
    """Its supervisor speaks another version of the protocol."""


@dataclass(frozen=True, slots=True)
class JobDocument:
    """The job as the master says it, for every member to read."""

    run: str
    revision: int
    state: JobState
    verdict: Verdict | None = None
    missing: tuple[str, ...] = ()
    """While joining: the first `MAX_MISSING` of the hosts that have not joined yet."""
    restore: str = ""
    """While joining: the generation that every host is to hold; empty: as it is. While restarting,
    where the order is ``agreed``, also ``-``: there is none."""
    order: Order | None = None
    """What has last been started anew, or is to be."""
    restarts: bool = False
    """Whether the master starts anew what fails."""
    past: tuple[Past, ...] = ()
    """How the last attempts ended."""

    @property
    def attempt(self) -> int:
        """The number of the job's attempt, from 1."""
        return 1 if self.order is None else self.order.attempt


@dataclass(frozen=True, slots=True)
class HostReport:
    """A member as it says it of itself: always the whole, never a difference."""

    instance: str
    phase: Phase
    script_ended: bool
    cause: Cause | None
    heard: int
    seq: int = 0
    run: str = ""
    """The run of the job that it follows."""
    job: JobIdentity = JobIdentity()
    holds: str = ""
    """What the checkpoint directory holds, see ``agreement.Held``; empty: nothing is said."""
    turn: int = 0
    """That of the last order for which all is down and ready there; 0: none."""
    attempt: int = 1
    """The one it speaks of."""
    progressed: bool = False
    """Training has moved since the attempt began."""
    ordered: int = 0
    """The turn of the last order that was heard; 0: none."""
    past: tuple[Past, ...] = ()
    """How the last attempts ended, as the job's document says it …"""
    world: tuple[int, ...] = ()
    """… and the hosts that train, as its last order does."""
    prepared_s: float | None = None
    """How long it took until it waited for the others; None: it is not so far, or says nothing."""


# --------------------------------------------------------------------------- encoding


def encode_exit(status: ExitStatus) -> dict[str, object]:
    return {"code": status.code, "signum": status.signum, "core_dumped": status.core_dumped}


def encode_cause(cause: Cause) -> dict[str, object]:
    return {
        "kind": cause.kind.value,
        "host": _clean(cause.host)[:MAX_NAME_CHARS],
        "message": cut(_clean(cause.message), MAX_MESSAGE_CHARS),
        "process": None if cause.process is None else _clean(cause.process)[:MAX_NAME_CHARS],
        "exit": None if cause.exit is None else encode_exit(cause.exit),
        "detail": cut_middle(_clean(cause.detail), MAX_DETAIL_CHARS),
        "at": cause.at,
        "error": cut(_clean(cause.error), MAX_ERROR_CHARS),
        "attempt": cause.attempt,
    }


def encode_verdict(verdict: Verdict) -> dict[str, object]:
    return {
        "outcome": verdict.outcome.value,
        "cause": encode_cause(verdict.cause),
        "exit_code": verdict.exit_code,
        "not_restarted": cut(_clean(verdict.not_restarted), MAX_MESSAGE_CHARS),
        "restartable": verdict.restartable,
    }


def _encode_order(order: Order) -> dict[str, object]:
    named = [[_clean(name)[:MAX_NAME_CHARS] for name in pair] for pair in order.named]
    if len(named) > MOST_NAMED or len(json.dumps(named)) > MAX_BODY_BYTES // 4:
        # A part of them would leave out a process that is to start anew.
        return _encode_order(order._replace(scope=Scope.ALL, named=()))
    return {
        "turn": order.turn,
        "attempt": order.attempt,
        "scope": order.scope.value,
        "named": named,
        "cause": None if order.cause is None else encode_cause(order.cause),
        "agreed": order.agreed,
        "world": list(order.world),
    }


def encode_job(document: JobDocument) -> bytes:
    body = _dump(_job(document))
    if len(body) > MAX_BODY_BYTES and (order := document.order) is not None:
        # Two causes, each a page of letters that JSON writes as six. The verdict is what counts.
        cause = None if order.cause is None else replace(order.cause, detail="")
        lean = order._replace(scope=Scope.ALL, named=(), cause=cause)
        body = _dump(_job(replace(document, order=lean, missing=(), past=())))
    # The limits above leave room even then.
    assert len(body) <= MAX_BODY_BYTES
    return body


def _job(document: JobDocument) -> dict[str, object]:
    return {
        "v": VERSION,
        "run": document.run,
        "revision": document.revision,
        "state": document.state.value,
        "verdict": None if document.verdict is None else encode_verdict(document.verdict),
        "missing": _fitting(document.missing[:MAX_MISSING]),
        "restore": _clean(document.restore)[:MAX_NAME_CHARS],
        "restarts": document.restarts,
        "attempt": document.attempt,
        "order": None if document.order is None else _encode_order(document.order),
        "past": _encode_past(document.past),
    }


def _encode_past(past: tuple[Past, ...]) -> list[dict[str, object]]:
    """The latest, as many as fit into an eighth of the body."""
    fitting: list[dict[str, object]] = []
    room = MAX_BODY_BYTES // 8
    for each in reversed(past[-MOST_PAST:]):
        cause = each.cause
        encoded: dict[str, object] = {
            "attempt": each.attempt,
            "ended": each.kind.value,
            "scope": each.scope.value,
            "kind": cause.kind.value,
            "host": _clean(cause.host)[:MAX_NAME_CHARS],
            "process": None if cause.process is None else _clean(cause.process)[:MAX_NAME_CHARS],
            "error": cut(_clean(cause.error), MAX_ERROR_CHARS),
            "at": cause.at,
            "progressed": each.progressed,
        }
        room -= len(_dump(encoded)) + 1
        if room < 0:
            break
        fitting.insert(0, encoded)
    return fitting


def encode_report(report: HostReport) -> bytes:
    body = _dump(
        {
            "v": VERSION,
            "job": report.job.name,
            "cluster": report.job.cluster,
            "run": report.run,
            "instance": report.instance,
            "seq": report.seq,
            "phase": report.phase.value,
            "script_ended": report.script_ended,
            "cause": None if report.cause is None else encode_cause(report.cause),
            "heard": report.heard,
            "holds": _clean(report.holds)[:MAX_NAME_CHARS],
            "attempt": report.attempt,
            "turn": report.turn,
            "progressed": report.progressed,
            "ordered": report.ordered,
            "past": _encode_past(report.past),
            "world": list(report.world),
            "prepared_s": report.prepared_s,
        }
    )
    # The limits above leave room even where every character is an escape.
    assert len(body) <= MAX_BODY_BYTES
    return body


def cut(text: str, limit: int) -> str:
    """At most ``limit`` characters; a cut shows as a final ``…``."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cut_middle(text: str, limit: int) -> str:
    """At most ``limit`` characters: both ends.

    A traceback says where at its beginning and what at its end.
    """
    if len(text) <= limit:
        return text
    mark = "\n…\n"
    head = (limit - len(mark)) // 2
    return text[:head] + mark + text[len(text) - (limit - len(mark) - head) :]


def _clean(text: str) -> str:
    """Without lone surrogates, which have no UTF-8 form (they come from undecodable bytes)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _fitting(names: tuple[str, ...]) -> list[str]:
    """As many as fit into a quarter of the body, however long they and their escapes are."""
    fitting: list[str] = []
    room = MAX_BODY_BYTES // 4
    for name in names:
        cleaned = _clean(name)[:MAX_NAME_CHARS]
        room -= len(json.dumps(cleaned)) + 1
        if room < 0:
            break
        fitting.append(cleaned)
    return fitting


def _dump(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


# --------------------------------------------------------------------------- decoding


def decode_job(body: bytes) -> JobDocument:
    """Read a job document.

    Raises:
        VersionError: it is of another version.
        ProtocolError: the body is too large, not JSON, or has a wrong value.

    """
    fields = _load(body)
    verdict, order = fields.get("verdict"), fields.get("order")
    names = fields.get("missing", [])
    if not isinstance(names, list):
        _wrong("missing", "a list", names)
    if len(names) > _TOLERANCE * MAX_MISSING:
        raise ProtocolError(f"missing: {len(names)} names, at most {_TOLERANCE * MAX_MISSING}")
    document = JobDocument(
        run=_text(fields, "run", MAX_NAME_CHARS),
        revision=_integer(fields, "revision", 0, MAX_NUMBER),
        state=_member(JobState, fields, "state"),
        verdict=None if verdict is None else decode_verdict(verdict),
        missing=tuple(_as_text("missing", name, MAX_NAME_CHARS) for name in names),
        restore=_text(fields, "restore", MAX_NAME_CHARS) if "restore" in fields else "",
        order=None if order is None else _decode_order(order),
        restarts=_boolean(fields, "restarts") if "restarts" in fields else False,
        past=_decode_past(fields),
    )
    attempt = _attempt(fields, otherwise=document.attempt)
    if attempt != document.attempt:
        raise ProtocolError(f"attempt: {attempt}, and that of its order is {document.attempt}")
    return document


def _decode_order(value: object) -> Order:
    fields = _object("order", value)
    named, cause = fields.get("named", []), fields.get("cause")
    if not isinstance(named, list):
        _wrong("named", "a list", named)
    if len(named) > _TOLERANCE * MOST_NAMED:
        raise ProtocolError(f"named: {len(named)} pairs, at most {_TOLERANCE * MOST_NAMED}")
    return Order(
        turn=_integer(fields, "turn", 1, MAX_NUMBER),
        attempt=_attempt(fields),
        scope=_member(Scope, fields, "scope"),
        named=tuple(_pair("named", pair) for pair in named),
        cause=None if cause is None else decode_cause(cause),
        agreed=_boolean(fields, "agreed") if "agreed" in fields else False,
        world=_decode_world(fields),
    )


def _decode_past(fields: Mapping[str, object]) -> tuple[Past, ...]:
    past = fields.get("past", [])
    if not isinstance(past, list):
        _wrong("past", "a list", past)
    if len(past) > _TOLERANCE * MOST_PAST:
        raise ProtocolError(f"past: {len(past)} attempts, at most {_TOLERANCE * MOST_PAST}")
    return tuple(_decode_one_past(each) for each in past)


def _decode_world(fields: Mapping[str, object]) -> tuple[int, ...]:
    world = fields.get("world", [])
    if not isinstance(world, list):
        _wrong("world", "a list", world)
    if len(world) > _TOLERANCE * MAX_WORLD:
        raise ProtocolError(f"world: {len(world)} numbers, at most {_TOLERANCE * MAX_WORLD}")
    named = {"world": 0}
    for number in world:
        named["world"] = number
        _integer(named, "world", 0, _TOLERANCE * MAX_WORLD)
    return tuple(world)


def _decode_one_past(value: object) -> Past:
    fields = _object("past", value)
    process = fields.get("process")
    cause = Cause(
        kind=_member(CauseKind, fields, "kind"),
        host=_text(fields, "host", MAX_NAME_CHARS),
        message="",
        process=None if process is None else _text(fields, "process", MAX_NAME_CHARS),
        at=_seconds(fields, "at"),
        error=_text(fields, "error", _TOLERANCE * MAX_ERROR_CHARS),
        attempt=_attempt(fields),
    )
    return Past(
        attempt=_attempt(fields),
        kind=_member(Kind, fields, "ended"),
        scope=_member(Scope, fields, "scope"),
        cause=cause,
        progressed=_boolean(fields, "progressed"),
    )


def _pair(key: str, value: object) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        _wrong(key, "pairs of host and process", value)
    host, process = (_as_text(key, name, MAX_NAME_CHARS) for name in value)
    return host, process


def _attempt(fields: Mapping[str, object], *, otherwise: int | None = None) -> int:
    if otherwise is not None and "attempt" not in fields:
        return otherwise
    return _integer(fields, "attempt", 1, MAX_ATTEMPT)


def decode_report(body: bytes) -> HostReport:
    """Read a host report.

    Raises:
        ProtocolError, VersionError: as `decode_job`.

    """
    fields = _load(body)
    cause = fields.get("cause")
    return HostReport(
        instance=_text(fields, "instance", MAX_NAME_CHARS),
        phase=_member(Phase, fields, "phase"),
        script_ended=_boolean(fields, "script_ended"),
        cause=None if cause is None else decode_cause(cause),
        heard=_integer(fields, "heard", 0, MAX_NUMBER),
        seq=_integer(fields, "seq", 0, MAX_NUMBER) if "seq" in fields else 0,
        holds=_text(fields, "holds", MAX_NAME_CHARS) if "holds" in fields else "",
        run=_text(fields, "run", MAX_NAME_CHARS),
        job=JobIdentity(
            _text(fields, "job", MAX_NAME_CHARS), _text(fields, "cluster", MAX_NAME_CHARS)
        ),
        turn=_integer(fields, "turn", 0, MAX_NUMBER) if "turn" in fields else 0,
        attempt=_attempt(fields, otherwise=1),
        progressed=_boolean(fields, "progressed") if "progressed" in fields else False,
        ordered=_integer(fields, "ordered", 0, MAX_NUMBER) if "ordered" in fields else 0,
        past=_decode_past(fields),
        world=_decode_world(fields),
        prepared_s=_seconds(fields, "prepared_s") if fields.get("prepared_s") is not None else None,
    )


def decode_refusal(body: bytes) -> tuple[Refusal | None, str]:
    """Read the body of a 409: the reason, None for one that is not known, and the master's words.

    Never raises: whatever has answered is not to be believed, and a word of it is better than none.
    """
    try:
        fields = _object("body", json.loads(body[:MAX_BODY_BYTES].decode("utf-8")))
    except (ValueError, RecursionError):  # a ProtocolError is a ValueError
        return None, cut(body[:200].decode("utf-8", "replace").strip(), 200)
    error, reason = fields.get("error"), fields.get("reason")
    text = cut(_clean(error), MAX_MESSAGE_CHARS) if isinstance(error, str) else ""
    return next((known for known in Refusal if known == reason), None), text


def decode_verdict(value: object) -> Verdict:
    fields = _object("verdict", value)
    code, restartable = fields.get("exit_code"), fields.get("restartable")
    why = "not_restarted"
    return Verdict(
        outcome=_member(Outcome, fields, "outcome"),
        cause=decode_cause(fields.get("cause")),
        exit_code=None if code is None else _integer(fields, "exit_code", 0, 255),
        not_restarted=_text(fields, why, _TOLERANCE * MAX_MESSAGE_CHARS) if why in fields else "",
        restartable=None if restartable is None else _boolean(fields, "restartable"),
    )


def decode_cause(value: object) -> Cause:
    fields = _object("cause", value)
    process = fields.get("process")
    status = fields.get("exit")
    return Cause(
        kind=_member(CauseKind, fields, "kind"),
        host=_text(fields, "host", MAX_NAME_CHARS),
        message=_text(fields, "message", _TOLERANCE * MAX_MESSAGE_CHARS),
        process=None if process is None else _text(fields, "process", MAX_NAME_CHARS),
        exit=None if status is None else decode_exit(status),
        detail=_text(fields, "detail", _TOLERANCE * MAX_DETAIL_CHARS) if "detail" in fields else "",
        at=_seconds(fields, "at") if "at" in fields else 0.0,
        error=_text(fields, "error", _TOLERANCE * MAX_ERROR_CHARS) if "error" in fields else "",
        attempt=_attempt(fields, otherwise=1),
    )


def decode_exit(value: object) -> ExitStatus:
    fields = _object("exit", value)
    code = None if fields.get("code") is None else _integer(fields, "code", 0, 255)
    signum = None if fields.get("signum") is None else _integer(fields, "signum", 1, 127)
    if (code is None) == (signum is None):
        raise ProtocolError("exit: either code or signum must be set")
    return ExitStatus(
        code=code,
        signum=signum,
        core_dumped=_boolean(fields, "core_dumped") if "core_dumped" in fields else False,
    )


def _load(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY_BYTES:
        raise ProtocolError(f"body: {len(body)} bytes, at most {MAX_BODY_BYTES} are allowed")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except ProtocolError:
        raise
    except (ValueError, RecursionError) as error:
        # ValueError is also what UTF-8 decoding and an integer of thousands of digits raise.
        raise ProtocolError(f"body: not JSON ({cut(str(error), 80)})") from None
    fields = _object("body", value)
    version = fields.get("v")
    if type(version) is not int or not 0 <= version <= MAX_NUMBER:
        raise ProtocolError(f"v: this is protocol version {VERSION}, found {_shown(version)}")
    if version != VERSION:
        raise VersionError(version)
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ProtocolError(f"body: {name} is not JSON")


def _object(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        _wrong(key, "an object", value)
    return value


def _as_text(key: str, value: object, limit: int) -> str:
    if not isinstance(value, str):
        _wrong(key, "a string", value)
    if len(value) > limit:
        raise ProtocolError(f"{key}: {len(value)} characters, at most {limit} are allowed")
    return _clean(value)


def _text(fields: Mapping[str, object], key: str, limit: int) -> str:
    return _as_text(key, fields.get(key), limit)


def _integer(fields: Mapping[str, object], key: str, low: int, high: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        _wrong(key, "an integer", value)
    if not low <= value <= high:
        raise ProtocolError(f"{key}: must be from {low} to {high}")
    return value


def _boolean(fields: Mapping[str, object], key: str) -> bool:
    value = fields.get(key)
    if not isinstance(value, bool):
        _wrong(key, "true or false", value)
    return value


def _seconds(fields: Mapping[str, object], key: str) -> float:
    value = fields.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        _wrong(key, "a number", value)
    # Compared before it is converted: an integer of a thousand digits does not fit a float.
    if not -MAX_NUMBER <= value <= MAX_NUMBER or not math.isfinite(value):
        raise ProtocolError(f"{key}: out of range")
    return float(value)


def _member(kind: type[_E], fields: Mapping[str, object], key: str) -> _E:
    value = fields.get(key)
    if isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            pass
    return _wrong(key, "one of " + ", ".join(kind), value)


def _wrong(key: str, wanted: str, found: object) -> NoReturn:
    raise ProtocolError(f"{key}: must be {wanted}, found {_shown(found)}")


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and not isinstance(value, bool):
        return "an integer" if abs(value) > MAX_NUMBER else str(value)
    return cut(ascii(value[:40] if isinstance(value, str) else value), 60)
