"""systemd's words at ``NOTIFY_SOCKET``, read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.training.notices import MOST_BYTES, NOTHING, Notice, parse, reading
from supervisor.training.reading import Origin, Reading, Unit


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"READY=1", Notice(ready=True)),
        (b"READY=1\n", Notice(ready=True)),
        (b"READY=1\0", Notice(ready=True)),
        (b"READY=1\r\nSTOPPING=1\r\n", Notice(ready=True, stopping=True)),
        (b"WATCHDOG=1", Notice(watchdog=True)),
        (b"WATCHDOG=trigger", Notice(watchdog_trigger=True)),
        (b"STOPPING=1", Notice(stopping=True)),
        (b"STATUS=", Notice(status="")),
        ("STATUS=Lädt…".encode(), Notice(status="Lädt…")),
        (b"STATUS=a=b", Notice(status="a=b")),
        (b"STATUS=one\nSTATUS=two", Notice(status="one")),
        (b"STATUS=\xff\xfe", Notice(status="\ufffd\ufffd")),
        (b"EXTEND_TIMEOUT_USEC=1500000", Notice(extend_s=1.5)),
        (b"EXTEND_TIMEOUT_USEC=0", Notice(extend_s=0.0)),
        (b"X_SUPERVISOR_IMPORTED=1", Notice(imported=True)),
        (
            b"MAINPID=1\nREADY=1\nSTATUS=up\nFDSTORE=1\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=1000000",
            Notice(ready=True, status="up", watchdog=True, extend_s=1.0),
        ),
    ],
)
def test_what_is_said_is_heard(datagram: bytes, expected: Notice) -> None:
    assert parse(datagram) == expected


@pytest.mark.parametrize(
    "datagram",
    [
        *(b"", b"\n\n", b"=", b"=1", b"READY", b"ready=1", b"READY=0", b" READY=1", b"BARRIER=1"),
        *(b"WATCHDOG=0", b"WATCHDOG=2", b"STOPPING=yes", b"X_SUPERVISOR_IMPORTED=", b"ERRNO=2"),
        *(b"EXTEND_TIMEOUT_USEC=" + text for text in (b"", b"-1", b"1e9", b"0x10", b"9" * 21)),
        *("EXTEND_TIMEOUT_USEC=٣".encode(), b"READY=1\0STATUS=x", b"\0\0"),
        b"READY=1\nSTATUS=" + b"x" * MOST_BYTES,
    ],
)
def test_what_says_nothing_is_nothing(datagram: bytes) -> None:
    assert parse(datagram) == NOTHING


@given(st.binary(max_size=300))
def test_whatever_comes_is_read(datagram: bytes) -> None:
    notice = parse(datagram)
    assert notice.status is None or len(notice.status) <= len(datagram)
    reading(notice, time.time())


@given(st.lists(st.sampled_from([b"READY", b"STATUS", b"WATCHDOG", b"=", b"1", b"\n", b"\0"])))
def test_so_are_its_own_words_in_any_order(parts: list[bytes]) -> None:
    parse(b"".join(parts))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, None),
        ("", None),
        ("loading", None),
        (
            "step 120/1000 loss 0.5",
            Reading(Origin.NOTICE, Unit.STEP, 120, 7.0, 1000, 0.5),
        ),
        ("epoch 3/10", Reading(Origin.NOTICE, Unit.EPOCH, 3, 7.0, 10)),
    ],
)
def test_a_status_may_say_a_step(status: str | None, expected: Reading | None) -> None:
    assert reading(Notice(status=status), 7.0) == expected
