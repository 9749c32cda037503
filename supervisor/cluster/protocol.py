"""The wire protocol between the hosts of a job, version 2. Pure: bytes in, frozen data out.

Two documents travel, each a JSON object in UTF-8 of at most 64 KiB with the key ``"v": 2``.

``GET /v1/job?run=U&after=R&wait=S&host=H&instance=I&job=N&cluster=C`` on the master answers with
the **job document**::

    {"v": 2, "run": "8c…", "revision": 7, "state": "ended",
     "verdict": {"outcome": "failed", "exit_code": 1, "cause": {…}}, "missing": [],
      "restore": ""}

- ``run`` names this run of the job: the master's supervisor makes it when it starts, members learn
  it here and put it into every message. ``revision`` counts up within it from 1. The request says
  with ``run`` and ``after`` what the member knows already. The answer comes at once when the
  master's document is another one, else as soon as it changes, else after ``wait`` seconds (at
  most 30) unchanged.
- ``restore``, while joining: the generation of checkpoints that every host is to hold before the
  job runs; a host that holds another one restores it and reports again.
- ``host`` (optional) makes the request a sign of life of that member, and ``after`` its
  acknowledgement of that revision. It is then accepted on the same terms as a report, and says as
  a report does who asks: ``instance``, ``job`` and ``cluster``.

``PUT /v1/hosts/{name}`` on the master carries the **host report** and answers with the job
document::

    {"v": 2, "job": "mnist", "cluster": "5d…", "run": "8c…", "instance": "f0…", "seq": 3,
     "phase": "running", "script_ended": false, "cause": null, "heard": 6,
     "holds": "generation 000012-3fa9c1d2 -"}

- ``job`` is the platform's name of the job, empty if it gives none, and ``cluster`` a digest of
  its hosts: both ends must have the same.
- ``instance`` names this run of the member's supervisor, ``seq`` counts its reports. A report is
  the whole of what the member has to say, so sending it again changes nothing; one with a lower
  ``seq`` of the same instance arrived late and is answered and ignored.
- ``holds`` is what the host's checkpoint directory holds (``agreement.Held``), empty where nothing
  is restored.
- ``heard`` is the revision of the job document that the member knows, 0 for none.
- Accepted from the named host's own addresses only, and with ``Authorization: Bearer TOKEN``
  where the job has a token.

Who is not taken is answered with 409 and ``{"error": "one line", "reason": …}``, a `Refusal`;
``admission.py`` decides it. Other errors are ``{"error": "one line"}`` with a 4xx status.

A cause is ``{"kind", "host", "message", "process", "exit", "detail", "at"}``, an exit
``{"code", "signum", "core_dumped"}``.

Compatibility: unknown keys are ignored, an unknown version or an unknown value of an enumeration
is refused. Nothing is believed of a body: every type, length and range is checked, and whatever is
wrong raises the one `ProtocolError`. Long texts are cut by the sender (``message`` to 1,024
characters, ``detail`` to 4,096, ``missing`` to 32 names) and refused by the receiver at four
times that.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from supervisor.life.words import Cause, CauseKind, ExitStatus, JobState, Outcome, Phase, Verdict

VERSION = 2
MAX_BODY_BYTES = 64 * 1024
MAX_MESSAGE_CHARS = 1024
MAX_DETAIL_CHARS = 4096
MAX_NAME_CHARS = 253
"""A DNS name's greatest length; also the limit for process names and instances."""
MAX_MISSING = 32
"""Names of missing hosts that travel: enough for a message, and few, because every member reads
them again and again while a thousand join."""
MAX_NUMBER = 2**53 - 1
"""The greatest integer that every JSON reader holds exactly."""

_TOLERANCE = 4
"""A receiver takes texts of this many times the sender's limit: the limits may grow."""

_E = TypeVar("_E", bound=enum.StrEnum)


class ProtocolError(ValueError):
    """A body that is not a document of this protocol.

    The message is one line and quotes no more than a few characters of the body.
    """


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
    """The job runs, and this host's supervisor was started after that."""


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
    """While joining: the generation that every host is to hold; empty: as it is."""


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
    }


def encode_verdict(verdict: Verdict) -> dict[str, object]:
    return {
        "outcome": verdict.outcome.value,
        "cause": encode_cause(verdict.cause),
        "exit_code": verdict.exit_code,
    }


def encode_job(document: JobDocument) -> bytes:
    return _dump(
        {
            "v": VERSION,
            "run": document.run,
            "revision": document.revision,
            "state": document.state.value,
            "verdict": None if document.verdict is None else encode_verdict(document.verdict),
            "missing": _fitting(document.missing[:MAX_MISSING]),
            "restore": _clean(document.restore)[:MAX_NAME_CHARS],
        }
    )


def encode_report(report: HostReport) -> bytes:
    return _dump(
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
        }
    )


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
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    # The limits above leave half of it free even where every character is an escape.
    assert len(body) <= MAX_BODY_BYTES
    return body


# --------------------------------------------------------------------------- decoding


def decode_job(body: bytes) -> JobDocument:
    """Read a job document.

    Raises:
        ProtocolError: the body is too large, not JSON, of another version, or has a wrong value.

    """
    fields = _load(body)
    verdict = fields.get("verdict")
    names = fields.get("missing", [])
    if not isinstance(names, list):
        _wrong("missing", "a list", names)
    if len(names) > _TOLERANCE * MAX_MISSING:
        raise ProtocolError(f"missing: {len(names)} names, at most {_TOLERANCE * MAX_MISSING}")
    return JobDocument(
        run=_text(fields, "run", MAX_NAME_CHARS),
        revision=_integer(fields, "revision", 0, MAX_NUMBER),
        state=_member(JobState, fields, "state"),
        verdict=None if verdict is None else decode_verdict(verdict),
        missing=tuple(_as_text("missing", name, MAX_NAME_CHARS) for name in names),
        restore=_text(fields, "restore", MAX_NAME_CHARS) if "restore" in fields else "",
    )


def decode_report(body: bytes) -> HostReport:
    """Read a host report.

    Raises:
        ProtocolError: as `decode_job`.

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
    code = fields.get("exit_code")
    return Verdict(
        outcome=_member(Outcome, fields, "outcome"),
        cause=decode_cause(fields.get("cause")),
        exit_code=None if code is None else _integer(fields, "exit_code", 0, 255),
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
    if type(version) is not int or version != VERSION:
        raise ProtocolError(f"v: this is protocol version {VERSION}, found {_shown(version)}")
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
