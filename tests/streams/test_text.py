"""What people see is without secrets, and safe to be shown on a terminal."""

from __future__ import annotations

import base64
import json
import pathlib
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Callable

import pytest

from supervisor.contract.distribution import Strategy
from supervisor.contract.reading import parse_settings
from supervisor.engines.local import LocalHost
from supervisor.faults import safe, safe_json, safe_lines
from supervisor.life.outcome import FAILURE_LIMIT, failure_text
from supervisor.life.words import Cause, CauseKind, Outcome, Verdict
from supervisor.streams import Carriage, Label
from supervisor.streams.logs import Log, Style
from supervisor.streams.masking import MASK, Masker
from supervisor.verbs.fleet import Request, _merging
from supervisor.verbs.summary import Result, summary
from tests.helpers.train import Train, lay_out

SECRET = "SeCrEt/VaLuE+0123'456\"789-abcdefghij"
LINES = "line-one-secret\nline-two-secret\nline-three-sec"

FORMS: dict[str, Callable[[str], str]] = {
    "itself": str,
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 behind a user": lambda s: base64.b64encode(b"u:" + s.encode()).decode(),
    "base64 in the middle": lambda s: base64.b64encode(b"x" + s.encode() + b"yz").decode(),
    "base64 for addresses": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "percent": urllib.parse.quote,
    "percent, all": lambda s: urllib.parse.quote(s, safe=""),
    "percent, lower case": lambda s: re.sub(
        "%..", lambda found: found[0].lower(), urllib.parse.quote(s, safe="")
    ),
    "form": urllib.parse.quote_plus,
    "JSON": json.dumps,
    "repr": repr,
    "repr of bytes": lambda s: repr(s.encode()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [SECRET, LINES], ids=["one line", "lines"])
def test_a_secret_is_masked_in_every_form(form: str, secret: str) -> None:
    """Only the value as it was given was looked for: its base64 in an Authorization header and
    its percent form in an address were told."""
    said = Masker.of({"MY_TOKEN": secret}).text(f"no login with <{FORMS[form](secret)}> today")
    assert said.startswith("no login with <")
    assert said.endswith("> today")
    middle = said.removeprefix("no login with <").removesuffix("> today")
    assert MASK in middle
    # what is left are the letters that mix with the neighbours of an encoded secret
    assert len(middle.replace(MASK, "")) <= 8


@pytest.mark.parametrize("line", LINES.split("\n"))
def test_each_line_of_a_secret_is_masked(line: str) -> None:
    """A traceback's last line, which is all that a cause tells, held the last line of a key."""
    assert Masker.of({"MY_TOKEN": LINES}).text(f"cannot use {line}!") == f"cannot use {MASK}!"


def test_a_tail_that_begins_in_the_middle_of_a_secret() -> None:
    """The bounded tail of a stream cuts its beginning anywhere."""
    masker = Masker.of({"MY_TOKEN": SECRET})
    for cut in range(len(SECRET) - 4):
        tail = masker.tail(SECRET[cut:].encode() + b" refused\n\xff", whole=False)
        assert tail == MASK.encode() + b" refused\n\xff"
    assert masker.tail(b"fghij is a word\n", whole=True) == b"fghij is a word\n"


def test_secrets_that_overlap_leave_nothing_behind() -> None:
    masker = Masker.of({"A_TOKEN": "abcdefgh1", "B_TOKEN": "gh1ijklmnop"})
    assert masker.text("<abcdefgh1ijklmnop>") == f"<{MASK}>"


def test_secrets_are_found_by_name_at_any_depth() -> None:
    key = json.dumps({"type": "account", "private_key": "BEGIN\nmiddle-of-key\nEND"})
    masker = Masker.of(
        {"CONFIG": key, "DB": "postgres://me:pa55word@db/x"},
        {"login": {"password": ["first-word", 12345678]}, "epochs": 10},
        argvs=[["train.py", "--api-key", "from-the-flag", "--token=other-flag"]],
    )
    for secret in ("middle-of-key", "pa55word", "first-word", "12345678", "from-the-flag"):
        assert masker.text(f"<{secret}>") == f"<{MASK}>", secret
    assert masker.text("account 10 other-flag") == f"account 10 {MASK}"


def test_the_failure_text_is_masked_before_it_is_cut() -> None:
    """The first 30 characters of a secret that the limit of 1024 cut were told."""
    masker = Masker.of({"MY_TOKEN": SECRET})
    room = FAILURE_LIMIT - len("algo-1: ")
    for overlap in range(len(SECRET)):
        message = "x" * (room - overlap) + SECRET + "y" * 200
        cause = Cause(CauseKind.INTERNAL, "algo-1", message)
        text = failure_text("algo-1", Verdict(Outcome.FAILED, cause), mask=masker.text)
        assert len(text) <= FAILURE_LIMIT
        assert "SeCrE" not in text


def test_a_cause_that_was_cut_holds_no_part_of_a_secret(tmp_path: pathlib.Path) -> None:
    """A cause is cut at 300 characters and shows one line: secrets were masked after that."""
    script = (
        "import os, sys\n"
        "if os.environ['WAY'] == 'lines': sys.exit('no login with ' + os.environ['KEY_SECRET'])\n"
        "sys.exit('x' * 235 + os.environ['MY_TOKEN'] + 'y' * 200)\n"
    )
    for way, pieces in (("lines", LINES.split("\n")), ("cut", [SECRET[:8]])):
        base = tmp_path / way
        lay_out(base, script)
        with Train(base, WAY=way, KEY_SECRET=LINES, MY_TOKEN=SECRET) as host:
            assert host.wait() == 1
            seen = json.dumps(host.report) + (base / "output" / "failure").read_text()
        assert not [piece for piece in pieces if piece in seen], way


def asked(**environ: str) -> Request:
    return Request(
        hosts=1, strategy=Strategy.NONE, run_dir="/run", script="s.py", arguments=(),
        hyperparameters={}, settings=parse_settings({}, environ, {})[0], flags={}, environ=environ,
        continued=False,
    )  # fmt: skip


# ---------------------------------------------------------------------------- terminals

NASTY = "\x1b]0;PWNED\x07\x1b[2J\x9b2J a\u202eb\u2028c\r\nFORGED \U000e0001 [red]bold[/red]"


def obeyed(text: str) -> list[str]:
    return [c for c in text if not c.isprintable() and c != "\n"]


def test_text_for_a_terminal_is_one_line_that_shows_what_it_held() -> None:
    assert safe(NASTY) == (
        "\\x1b]0;PWNED\\x07\\x1b[2J\\x9b2J a\\u202eb"
        "\\u2028c\\r\\nFORGED \\U000e0001 [red]bold[/red]"
    )
    assert safe("é 日本\u3000語 🙂 \udc80") == "é 日本\u3000語 🙂 \\udc80"
    assert safe_lines("a\tb\n\x1bc\r\n") == "a\tb\n\\x1bc\\r\n"
    document = json.dumps({"text": NASTY}, ensure_ascii=False, indent=2)
    assert json.loads(safe_json(document)) == {"text": NASTY}
    assert not obeyed(safe_json(document))


@pytest.mark.parametrize("style", ["text", "brief", "json"])
def test_our_own_lines_are_lines_and_nothing_else(style: Style) -> None:
    """C1 controls, U+202E and U+2028 went out raw in quoted fields, in JSON too."""
    lines: list[bytes] = []
    log = Log(
        lambda line, _words: lines.append(line),
        host="algo-1", level="info", style=style, masker=Masker(()), prefix="",
    )  # fmt: skip
    log.info("process.exited", message=NASTY, code=1)
    text = lines[0].decode()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert not obeyed(text)
    if style == "json":
        assert json.loads(text)["message"] == NASTY


def test_the_table_of_local_shows_a_reports_words_as_text(tmp_path: pathlib.Path) -> None:
    """The cause, which the script's error file may give, stood raw in the table."""
    host = LocalHost("algo-1", str(tmp_path), 1)
    report = {
        "cause": {"host": "algo-1", "process": "worker", "message": NASTY},
        "processes": [
            {"name": NASTY, "role": NASTY, "exit": NASTY, "seconds": 1.0, "stopped_by_us": False}
        ],
    }
    result = Result(host, 1, "exit 1", 2.0, report)
    text = summary(f"/run{NASTY}", Strategy.NONE, [result], Masker(()), color=False)
    assert not obeyed(text)
    assert "\nFORGED" not in text
    assert "[red]bold[/red]" in text.replace("\n", "")


def test_what_a_transfer_says_is_safe() -> None:
    """Names of files and a store's own error texts stood raw in the lines of a transfer."""
    code = (
        "import sys; from supervisor.storage import progress; progress.say(sys.argv[1]);"
        " progress.flush()"
    )
    done = subprocess.run([sys.executable, "-c", code, NASTY], capture_output=True, check=True)
    assert done.stderr.decode() == safe(NASTY) + "\n"


def test_bad_words_on_the_command_line_are_told_safely(tmp_path: pathlib.Path) -> None:
    for words in (["--hosts", NASTY], [f"--{NASTY}"]):
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "local", *words],
            cwd=tmp_path, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode
        assert not obeyed(done.stderr.decode())


def test_local_waits_for_the_rest_of_a_hosts_line() -> None:
    """The rest of a line of a host that paused in its middle stood without a prefix. What a script
    writes raw is shown as it comes."""
    half = b"algo-2 worker \xe2\x94\x82 step 1"
    for environ, shown in ({}, b""), ({"SUPERVISOR_LOG_FORMAT": "raw"}, half):
        merged = _merging(asked(**environ), Label("algo-2", "host", "stdout"), Carriage.COLLAPSE)
        assert merged.feed(half, 0.0) == b""
        assert merged.tick(1.0)[: len(half)] == shown
