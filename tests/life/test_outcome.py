"""From cause to exit code and failure text; what is written, and what must never be."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import stat

import pytest

from supervisor.contract import record
from supervisor.contract.paths import Paths, paths_below
from supervisor.life.outcome import (
    EXIT_CODES,
    failure_text,
    host_exit_code,
    job_exit_code,
    outcome_of,
)
from supervisor.life.words import Cause, CauseKind, ExitStatus, Outcome, Verdict
from supervisor.streams.logs import Log, Style
from supervisor.streams.masking import MASK, Masker, is_secret_name


def cause(kind: CauseKind, status: ExitStatus | None = None, host: str = "algo-2") -> Cause:
    return Cause(kind, host, "it happened", "worker", status)


@pytest.mark.parametrize("code", range(1, 256))
def test_the_scripts_code_is_the_hosts_code(code: int) -> None:
    failed = cause(CauseKind.SCRIPT_FAILED, ExitStatus(code=code))
    verdict = Verdict(Outcome.FAILED, failed, job_exit_code(failed, None))
    own = host_exit_code("algo-2", verdict, failed.exit, left=False, publish_error=None)
    other = host_exit_code("algo-1", verdict, None, left=False, publish_error=None)
    assert (own, other, verdict.exit_code) == (code, 84, code)


@pytest.mark.parametrize(
    ("kind", "status", "own", "elsewhere"),
    [
        (CauseKind.SCRIPT_FAILED, ExitStatus(signum=9), 137, 84),
        (CauseKind.SCRIPT_FAILED, ExitStatus(signum=11, core_dumped=True), 139, 84),
        (CauseKind.START_FAILED, ExitStatus(code=127), 127, 84),
        (CauseKind.ESSENTIAL_DIED, ExitStatus(signum=9), 85, 84),
        (CauseKind.PREPARE_FAILED, None, 81, 84),
        (CauseKind.JOIN_TIMEOUT, None, 82, 82),
        (CauseKind.MASTER_LOST, None, 83, 83),
        (CauseKind.FENCED, None, 89, 89),
        (CauseKind.MEMBER_LOST, None, 84, 84),
        (CauseKind.INTERNAL, None, 90, 84),
    ],
)
def test_exit_codes_of_failures(
    kind: CauseKind, status: ExitStatus | None, own: int, elsewhere: int
) -> None:
    verdict = Verdict(Outcome.FAILED, cause(kind, status))
    codes = [
        host_exit_code(host, verdict, None, left=False, publish_error=None)
        for host in ("algo-2", "algo-1")
    ]
    assert codes == [own, elsewhere]


def test_exit_codes_of_stops_and_successes() -> None:
    stopped = cause(CauseKind.STOP_REQUESTED)
    assert outcome_of(stopped) is Outcome.STOPPED
    saved, died = ExitStatus(code=0), ExitStatus(signum=15)
    assert job_exit_code(stopped, saved) == 0
    assert job_exit_code(stopped, died) == 143
    # A member's worker that only our signal ended says nothing; the chief's exit does.
    verdict = Verdict(Outcome.STOPPED, stopped, 0)
    assert host_exit_code("algo-3", verdict, died, left=False, publish_error=None) == 0
    success = Verdict(Outcome.SUCCEEDED, cause(CauseKind.FINISHED, saved), 0)
    assert host_exit_code("algo-3", success, died, left=False, publish_error=None) == 0
    assert host_exit_code("algo-3", success, died, left=False, publish_error="403") == 87
    late = host_exit_code(
        "algo-3", success, died, left=False, publish_error="fenced: …", fenced=True
    )
    assert late == 89
    assert host_exit_code("algo-3", success, died, left=True, publish_error=None) == 86


@pytest.mark.parametrize(
    ("signum", "chief", "code"),
    [
        (15, ExitStatus(code=0), 0),
        (15, ExitStatus(code=42), 42),
        (15, ExitStatus(signum=15), 143),
        (15, ExitStatus(signum=9), 137),
        (15, None, 143),
        (2, None, 130),
        (None, None, 143),
    ],
)
def test_the_code_of_a_stop_is_the_chiefs_answer_to_it(
    signum: int | None, chief: ExitStatus | None, code: int
) -> None:
    """A job that was stopped before its script ran left with 0, and a platform took it for done."""
    asked = ExitStatus(signum=signum) if signum else None
    stopped = cause(CauseKind.STOP_REQUESTED if signum else CauseKind.MAX_RUNTIME, asked)
    assert job_exit_code(stopped, chief) == code
    # Every host has it, one that runs no script as well; and by itself where the master is silent.
    told, untold = Verdict(Outcome.STOPPED, stopped, code), Verdict(Outcome.STOPPED, stopped)
    own = ExitStatus(signum=9)
    assert host_exit_code("algo-3", told, own, left=False, publish_error=None) == code
    assert host_exit_code("algo-3", told, None, left=False, publish_error=None) == code
    assert host_exit_code("algo-3", untold, own, left=False, publish_error=None) == 137
    alone = 128 + (signum or 15)
    assert host_exit_code("algo-3", untold, None, left=False, publish_error=None) == alone
    error = host_exit_code("algo-1", told, chief, left=False, publish_error="403")
    assert error == (code or 87)


CERTAIN = dataclasses.replace(
    cause(CauseKind.SCRIPT_FAILED, ExitStatus(code=1)), error="SyntaxError (train.py:3)"
)


@pytest.mark.parametrize(
    ("verdict", "own", "elsewhere"),
    [
        # As the cause alone says it: where the master does not judge, or was never heard.
        (Verdict(Outcome.FAILED, cause(CauseKind.SCRIPT_FAILED, ExitStatus(signum=9))), 99, 99),
        (Verdict(Outcome.FAILED, cause(CauseKind.MASTER_LOST)), 99, 99),
        (Verdict(Outcome.FAILED, CERTAIN), 1, 84),
        (Verdict(Outcome.FAILED, cause(CauseKind.PREPARE_FAILED)), 81, 84),
        (Verdict(Outcome.FAILED, cause(CauseKind.FENCED)), 89, 89),
        # As the master has judged, who knows what was before.
        (Verdict(Outcome.FAILED, CERTAIN, restartable=True), 99, 99),
        (
            Verdict(
                Outcome.FAILED,
                cause(CauseKind.SCRIPT_FAILED, ExitStatus(code=7)),
                restartable=False,
            ),
            7,
            84,
        ),
        # Only failures.
        (Verdict(Outcome.SUCCEEDED, cause(CauseKind.FINISHED), 0, restartable=True), 0, 0),
        (Verdict(Outcome.STOPPED, cause(CauseKind.STOP_REQUESTED), 0, restartable=True), 0, 0),
    ],
)
def test_a_code_says_that_starting_the_job_again_makes_sense(
    verdict: Verdict, own: int, elsewhere: int
) -> None:
    for host, code in (("algo-2", own), ("algo-1", elsewhere)):
        ends = [
            host_exit_code(host, verdict, None, left=False, publish_error=None, restartable_code=to)
            for to in (99, None)
        ]
        assert ends[0] == code
        assert ends[1] != 99, "only where it is asked for"
    left = host_exit_code(
        "algo-2", verdict, None, left=True, publish_error=None, restartable_code=99
    )
    assert left == 86


def test_our_own_codes_keep_clear_of_sysexits_and_shells() -> None:
    assert not set(EXIT_CODES) & {*range(64, 79), *range(126, 166)}


def test_failure_texts_begin_with_what_counts_and_end_in_time() -> None:
    failed = dataclasses.replace(
        cause(CauseKind.SCRIPT_FAILED), message="ValueError: loss is NaN", detail="x" * 5000
    )
    verdict = Verdict(Outcome.FAILED, failed)
    own, other = failure_text("algo-2", verdict), failure_text("algo-1", verdict)
    assert own.startswith("algo-2 worker: ValueError: loss is NaN\nxxx")
    assert other.startswith("stopped because algo-2 worker failed: ValueError: loss is NaN\n")
    assert len(own) == len(other) == 1024
    stop = Verdict(Outcome.STOPPED, Cause(CauseKind.STOP_REQUESTED, "algo-1", "received SIGTERM"))
    assert failure_text("algo-1", stop) == "stopped: algo-1: received SIGTERM"


def test_the_failure_text_says_why_there_was_no_other_attempt() -> None:
    failed = dataclasses.replace(cause(CauseKind.SCRIPT_FAILED), message="no", detail="x" * 5000)
    verdict = Verdict(Outcome.FAILED, failed, not_restarted="the same error twice geheim-geheim")
    text = failure_text("algo-2", verdict, ["algo-2 ps: gone"], mask=Masker(["geheim-geheim"]).text)
    lines = text.splitlines()
    assert lines[:3] == [
        "algo-2 worker: no",
        f"not restarted: the same error twice {MASK}",
        "algo-2 ps: gone",
    ]
    assert len(text) == 1024


# --------------------------------------------------------------------------- what a script says


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ('{"step": 1200}', 1200),
        ('{"step": 0, "loss": 0.5}', 0),
        ('{"step": 1200.9}', 1200),
        ('{"step": -1}', None),
        ('{"step": true}', None),
        ('{"step": "12"}', None),
        ('{"step": NaN}', None),
        ('{"step": Infinity}', None),
        ('{"step": 1e400}', None),
        ('{"step": ' + "9" * 30 + "}", None),
        ('{"step": ' + "9" * 5000 + "}", None),
        ('{"step": null}', None),
        ('{"steps": 12}', None),
        ("[12]", None),
        ("12", None),
        ("", None),
        ('{"step": 12', None),
        ("[" * 60000, None),
        ('{"step": 12}' + " " * (1 << 16), 12),
        ('{"step": 12, "more": "' + "x" * (1 << 16) + '"}', None),
    ],
)
def test_the_progress_file_says_a_step_or_nothing(
    tmp_path: pathlib.Path, text: str, step: int | None
) -> None:
    where = paths(tmp_path)
    assert record.progress(where) is None
    os.makedirs(os.path.dirname(where.progress))
    pathlib.Path(where.progress).write_text(text)
    assert record.progress(where) == step
    record.clear(where)
    assert not os.path.exists(where.progress)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"step": 3}', record.Progress(3)),
        ('{"step": 3, "total": 9, "loss": 0.5, "at": 12}', record.Progress(3, 9, 0.5, 12.0)),
        ('{"step": 3, "loss": Infinity}', record.Progress(3, loss=math.inf)),
        ('{"step": 3, "loss": "-Infinity"}', record.Progress(3, loss=-math.inf)),
        ('{"step": 3, "loss": 1%s}' % ("0" * 400), record.Progress(3, loss=math.inf)),
        ('{"step": 3, "loss": "nine", "total": "9", "at": "now"}', record.Progress(3)),
        ('{"step": 3, "loss": true, "total": -1, "at": NaN}', record.Progress(3)),
        ('{"step": 3, "loss": [], "total": 1e99, "at": {}}', record.Progress(3)),
        ('"step"', None),
        ("[]", None),
    ],
)
def test_what_else_the_progress_file_says_is_read_where_it_can_be(
    tmp_path: pathlib.Path, text: str, expected: record.Progress | None
) -> None:
    where = paths(tmp_path)
    os.makedirs(os.path.dirname(where.progress))
    pathlib.Path(where.progress).write_text(text)
    assert record.reading(where) == expected


@pytest.mark.parametrize("written", ["NaN", '"NaN"'])
def test_a_loss_that_is_no_number_is_known_as_such(tmp_path: pathlib.Path, written: str) -> None:
    where = paths(tmp_path)
    os.makedirs(os.path.dirname(where.progress))
    pathlib.Path(where.progress).write_text(f'{{"step": 3, "loss": {written}}}')
    said = record.reading(where)
    assert said is not None
    assert said.loss is not None
    assert math.isnan(said.loss)


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "device"])
def test_what_is_no_regular_file_says_no_step(tmp_path: pathlib.Path, kind: str) -> None:
    where = paths(tmp_path)
    os.makedirs(os.path.dirname(where.progress))
    (tmp_path / "elsewhere").write_text('{"step": 12}')
    if kind == "link":
        os.symlink(tmp_path / "elsewhere", where.progress)
    elif kind == "pipe":
        os.mkfifo(where.progress)
    elif kind == "directory":
        os.mkdir(where.progress)
    else:
        where = where._replace(progress="/dev/zero")
    assert record.progress(where) is None


# --------------------------------------------------------------------------- records


def paths(tmp_path: pathlib.Path) -> Paths:
    return paths_below(str(tmp_path))


def test_a_failure_file_that_the_script_wrote_wins(tmp_path: pathlib.Path) -> None:
    where = paths(tmp_path)
    os.makedirs(where.output)
    pathlib.Path(where.failure).write_text("my own words")
    assert record.write_failure(where, "ours") is None
    assert pathlib.Path(where.failure).read_text() == "my own words"
    record.clear(where)
    assert record.write_failure(where, "ours") is None
    assert pathlib.Path(where.failure).read_text() == "ours"


def test_what_cannot_be_written_is_said_and_leaves_nothing_half(tmp_path: pathlib.Path) -> None:
    where = paths(tmp_path)
    pathlib.Path(where.output).write_text("a file where a directory should be")
    problem = record.write_report(where, {"a": 1})
    assert problem is not None
    assert where.report in problem
    full = where._replace(report="/dev/full/report.json", output="/dev/full")
    assert record.write_report(full, {"a": 1})
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode), "whatever is no script's stays"


def test_a_report_is_replaced_whole(tmp_path: pathlib.Path) -> None:
    where = paths(tmp_path)
    for number in (1, 2):
        assert record.write_report(where, {"n": number, "text": "é\ud800"}) is None
    assert json.loads(pathlib.Path(where.report).read_text())["n"] == 2
    assert os.listdir(os.path.dirname(where.report)) == ["report.json"]


# --------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "token", "db_password", "API_KEY", "apikey",
     "--wandb-api-key", "MYSQL_PWD", "SUPERVISOR_TOKEN", "client_secret", "AUTH_HEADER"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "num_tokens", "tokenizer", "author", "PWD", "OLDPWD", "learning_rate",
     "AWS_WEB_IDENTITY_TOKEN_FILE", "SSH_AUTH_SOCK", "GIT_AUTHOR_NAME", "key"],
)  # fmt: skip
def test_names_that_only_look_like_it(name: str) -> None:
    assert not is_secret_name(name)


def test_secrets_are_masked_by_value_wherever_they_stand() -> None:
    environ = {"API_KEY": "s3cr3t-value", "HOME": "/root", "MY_TOKEN": "s3cr3t-value-longer"}
    masker = Masker.of(environ, {"password": 12345678})
    assert masker.text("a s3cr3t-value-longer b s3cr3t-value 12345678 /root") == (
        f"a {MASK} b {MASK} {MASK} /root"
    )
    assert masker.text("https://me:hunter2@host/x") == f"https://{MASK}@host/x"
    argv = ["train.py", "--password", "abc", "--lr", "0.1", "--token=xyz", "--api_key", "--fast"]
    assert masker.argv(argv) == [
        "train.py", "--password", MASK, "--lr", "0.1", f"--token={MASK}", "--api_key", "--fast",
    ]  # fmt: skip
    assert masker.mapping({"X": "s3cr3t-value", "MY_TOKEN": "short"}) == {
        "X": MASK,
        "MY_TOKEN": MASK,
    }


def log_lines(style: Style, **options: object) -> tuple[Log, list[bytes]]:
    lines: list[bytes] = []
    masker = Masker(["geheim-geheim"])
    log = Log(
        lambda line, _words: lines.append(line),
        host="algo-1",
        level="info",
        style=style,
        masker=masker,
        **options,  # type: ignore[arg-type]
    )
    return log, lines


def test_our_own_messages_are_one_line_with_all_fields_and_no_secrets() -> None:
    log, lines = log_lines("text")
    log.debug("not.shown")
    log.warning("x.y", exit="exit 1", text="two\nlines geheim-geheim", none=None, n=3)
    (line,) = lines
    assert line.endswith(
        b" WARNING supervisor algo-1 x.y: exit exit 1, text two\\nlines ******, none None, n 3\n"
    )


def test_our_own_messages_as_json() -> None:
    log, lines = log_lines("json")
    log.info("x.y", n=3, text="geheim-geheim\n")
    entry = json.loads(lines[0])
    assert {key: entry[key] for key in ("event", "level", "role", "host", "n", "text")} == {
        "event": "x.y", "level": "info", "role": "supervisor", "host": "algo-1", "n": 3,
        "text": "******\n",
    }  # fmt: skip
