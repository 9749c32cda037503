"""Numbers, causes and the line at the bottom, as people read them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.verbs.footer import Foot, text
from supervisor.verbs.words import ago, duration, excerpt, headline, size

CAUSE = {
    "host": "algo-3",
    "process": "worker",
    "message": "KeyError: 'batch_size' (bug.py:5); exit 1 after 2.1 s",
    "detail": "Traceback (most recent call last):\n"
    '  File "bug.py", line 5, in <module>\n'
    '    print(config["batch_size"])\n'
    "KeyError: 'batch_size'",
}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (11_520, "3 h 12 min"),
        (None, ""),
        ("x", ""),
        (float("inf"), ""),
        (float("nan"), ""),
        (10**400, ""),
    ],
)
def test_durations(value: object, text: str) -> None:
    assert duration(value) == text
    assert ago(value) == (f"{text} ago" if text else "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 40, "5.0 TiB"),
        (None, ""),
        (10**400, ""),
    ],
)
def test_sizes(value: object, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("outcome", "cause", "text"),
    [
        ("failed", CAUSE, "FAILED  algo-3 worker: KeyError: 'batch_size' (bug.py:5)"),
        ("stopped", {"host": "algo-1", "message": "received SIGINT"}, "STOPPED  by Ctrl-C"),
        ("stopped", {"host": "algo-1", "message": "received SIGTERM"},
         "STOPPED  algo-1: received SIGTERM"),
        ("succeeded", {"host": "algo-1", "process": "chief", "message": "finished, exit 0"},
         "SUCCEEDED  algo-1 chief: finished, exit 0"),
        ("failed", {}, "FAILED"),
        ("\x1b[2J", {}, "\\X1B[2J"),
        (None, {"message": "a\nb"}, "  : a\\nb"),
    ],
)  # fmt: skip
def test_headlines(outcome: Any, cause: dict[str, str], text: str) -> None:
    assert headline(outcome, cause) == text


def test_an_excerpt_is_the_way_to_the_error_and_not_the_error_again() -> None:
    assert excerpt(CAUSE) == [
        "Traceback (most recent call last):",
        '  File "bug.py", line 5, in <module>',
        '    print(config["batch_size"])',
    ]
    assert excerpt({"message": "lost", "detail": ""}) == []
    many = {"message": "x", "detail": "\n".join(f"  line {n} \x1b[2J" for n in range(99))}
    assert len(excerpt(many)) == 8
    assert "\x1b" not in "".join(excerpt(many))


STATUS = {"phase": "joining", "waiting": {"algo-3": "DNS"}, "hosts": []}
HOSTS = ("algo-1", "algo-2", "algo-3")


@pytest.mark.parametrize(
    ("foot", "line"),
    [
        (Foot(HOSTS, seconds=2), "3 hosts · 2.0 s · Ctrl-C stops"),
        (Foot(HOSTS[:1], seconds=61, phase="running"), "1 host running · 1 min 1 s · Ctrl-C stops"),
        (Foot(HOSTS).with_status(STATUS), "waiting for algo-3 · 0.0 s · Ctrl-C stops"),
        (Foot(HOSTS).with_status({"phase": "preparing", "hosts": [
            {"name": f"algo-{n}", "state": "unseen"} for n in range(2, 9)]}),
         "waiting for algo-2, algo-3, algo-4, algo-5 and 3 more · 0.0 s · Ctrl-C stops"),
        (Foot(HOSTS, ended=1, phase="draining"), "2 of 3 hosts draining · 0.0 s · Ctrl-C stops"),
        (Foot(HOSTS[:1], seconds=61).with_status({"phase": "running", "progress": {
            "unit": "step", "step": 1234, "total": 10000, "rate": 3.2, "loss": 0.5,
            "source": "event files", "where": "logs",
        }}), "1 host running · step 1,234 of 10,000, 3.2 /s, loss 0.5 · 1 min 1 s · Ctrl-C stops"),
        (Foot(HOSTS, stop_left_s=7.6),
         "stopping, 8 s left for the scripts · Ctrl-C again kills · 0.0 s"),
        (Foot(HOSTS, stop_left_s=-3, killed=True), "killing everything · 0.0 s"),
    ],
)  # fmt: skip
def test_the_line_at_the_bottom(foot: Foot, line: str) -> None:
    assert text(foot, 100) == line


@given(st.integers(1, 200), st.floats(0, 1e7))
def test_it_always_fits(columns: int, seconds: float) -> None:
    line = text(Foot(HOSTS, seconds=seconds, missing=HOSTS), columns)
    assert 1 <= len(line) <= max(1, columns - 1)
    assert "\n" not in line
