"""What people see of transfers: one line each, more where it takes long, a bar on a terminal."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from supervisor.storage import progress
from supervisor.storage.progress import Progress, amount, flush, part, say, span
from supervisor.streams.formats import Carriage, Label, Prefix
from tests.helpers.aio import until


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (102_350, "100 KiB"),
        (1_048_575, "1.0 MiB"),
        (412 << 20, "412 MiB"),
        (3_650_722_202, "3.4 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_amounts_have_two_or_three_digits(count: int, text: str) -> None:
    assert amount(count) == text


def test_parts_and_spans() -> None:
    assert part(1_288_490_189, 3_650_722_202) == "1.2 of 3.4 GiB"
    assert part(0, 500) == "0 of 500 B"
    assert [span(each) for each in (0.04, 9.94, 9.96, 59.4, 59.6, 125, 3599.6, 10_920)] == [
        "0.0 s",
        "9.9 s",
        "10 s",
        "59 s",
        "1 min 0 s",
        "2 min 5 s",
        "1 h 0 min",
        "3 h 2 min",
    ]


def test_a_line_says_how_far_how_fast_and_how_long() -> None:
    async def scenario() -> str:
        transfer = Progress("channel training", 4000 << 20, 12_345)
        transfer.moved(2000 << 20)
        transfer.moved(-(1000 << 20))  # a part begins anew
        line = transfer.line(transfer.began + 4)
        transfer.finish()
        return line

    assert asyncio.run(scenario()) == (
        "channel training: 1.0 of 3.9 GiB, 0 of 12,345 files, 250 MiB/s, 12 s left"
    )


def test_the_rate_is_that_of_the_last_seconds() -> None:
    async def scenario() -> list[str]:
        transfer = Progress("x", 100 << 20)
        lines = []
        for second in range(60):
            transfer.moved((1 << 20) if second < 30 else 0)
            lines.append(transfer.line(transfer.began + second + 1))
        transfer.finish()
        return lines

    lines = asyncio.run(scenario())
    assert "1.0 MiB/s, 1 min 10 s left" in lines[29]
    assert lines[-1] == "x: 30.0 of 100 MiB, 0 B/s"


def test_a_short_transfer_gives_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(*, live: bool) -> None:
        transfer = Progress("source", 2048, 1, live=live)
        transfer.moved(2048)
        transfer.file_done()
        transfer.finish()

    for live in (False, True):
        asyncio.run(scenario(live=live))
        assert capfd.readouterr().err == "source: 1 file, 2.0 KiB in 0.0 s\n"


def test_a_failed_one_says_so_and_one_without_work_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def scenario() -> None:
        Progress("empty", 0).finish()
        failed = Progress("model", 100)
        failed.moved(10)
        failed.finish("AccessDenied")

    asyncio.run(scenario())
    assert capfd.readouterr().err == "model: 10 B in 0.0 s, then: AccessDenied\n"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    for name in ("LINE_S", "DRAW_S", "QUIET_S"):
        monkeypatch.setattr(progress, name, getattr(progress, name) / 100)


@pytest.mark.usefixtures("hurried")
def test_a_long_one_gives_a_line_now_and_then(capfd: pytest.CaptureFixture[str]) -> None:
    shown = ""

    async def scenario() -> None:
        def lines() -> int:
            nonlocal shown
            shown += capfd.readouterr().err
            return shown.count("\n")

        transfer = Progress("channel a", 900, 3)
        transfer.moved(500)
        await until(lambda: lines() >= 3)
        began = time.monotonic()
        before = lines()
        await until(lambda: time.monotonic() - began > 0.2)
        assert lines() - before <= 0.2 / progress.LINE_S + 2
        transfer.finish()

    asyncio.run(scenario())
    *lines, last = (shown + capfd.readouterr().err).splitlines()
    assert "\r" not in shown
    assert all(line.startswith("channel a: 500 of 900 B, 0 of 3 files, ") for line in lines)
    assert last.startswith("channel a: 500 B in ")


@pytest.mark.usefixtures("hurried")
def test_a_terminal_sees_one_line_that_is_drawn_anew(capfd: pytest.CaptureFixture[str]) -> None:
    shown = ""

    async def scenario() -> None:
        def draws(text: str) -> bool:
            nonlocal shown
            shown += capfd.readouterr().err
            return text in shown.rpartition("\r")[2]

        one = Progress("channel one", 1000 << 20, live=True)
        one.moved(250 << 20)
        await until(lambda: draws("channel one"))
        assert "━━━━━━──────────────────  25%  0.2 of 1.0 GiB, " in shown
        two = Progress("two", 1000 << 20, live=True)
        await until(lambda: draws("2 transfers"))
        assert "━━━─────────────────────  12%  0.2 of 2.0 GiB, " in shown
        say("said between")
        one.finish()
        await until(lambda: draws("two"))
        two.moved(1)
        two.finish("stopped")

    asyncio.run(scenario())
    shown += capfd.readouterr().err
    finals = ["said between", "channel one: 250 MiB in", "two: 1 B in"]
    # On a real one, and where the supervisor collapses it, the lines that stay are these.
    for carriage in (Carriage.LIVE, Carriage.COLLAPSE):
        formatter = Prefix(Label("h", "fetch", "stderr"), "", carriage=carriage)
        out = b"".join(
            formatter.feed(shown[at : at + 7].encode(), at / 1e6) for at in range(0, len(shown), 7)
        )
        lines = [line for line in out.decode().splitlines() if "transfers" not in line]
        stayed = [line for line in lines if any(line.startswith(each) for each in finals)]
        assert len(stayed) == 3
    assert all(terminal(shown)[number].startswith(each) for number, each in enumerate(finals)), (
        terminal(shown)
    )


def terminal(text: str) -> list[str]:
    """What a terminal shows in the end: a carriage return goes back and erases nothing."""
    rows = []
    for line in text.split("\n"):
        row = ""
        for state in line.split("\r"):
            row = state + row[len(state) :]
        rows.append(row.rstrip())
    return rows[:-1]


def test_what_was_longer_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> str:
        transfer = Progress("a name that is rather long", 1000, live=True)
        transfer.moved(1)
        shown = ""

        def drawn() -> bool:
            nonlocal shown
            shown += capfd.readouterr().err
            return "long" in shown

        await until(drawn)
        say("short")
        transfer.finish()
        return shown + capfd.readouterr().err

    assert terminal(asyncio.run(scenario()))[0] == "short"


@contextmanager
def full_stderr() -> Iterator[int]:
    """Fd 2 is a pipe that takes nothing more; its reading end."""
    reader, writer = os.pipe()
    saved = os.dup(2)
    os.dup2(writer, 2)
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(1 << 16))
    except BlockingIOError:
        pass
    os.set_blocking(writer, True)
    try:
        yield reader
    finally:
        os.dup2(saved, 2)
        for fd in (reader, writer, saved):
            os.close(fd)


@pytest.mark.usefixtures("hurried")
def test_a_stderr_that_takes_nothing_holds_nothing_up() -> None:
    """And the final line is kept for when it does."""

    async def scenario() -> None:
        transfer = Progress("channel a", 10)
        transfer.moved(10)
        for _ in range(20):
            await asyncio.sleep(0.005)  # the timer's turns: each would block for ever
        transfer.finish()

    with full_stderr() as reader:
        asyncio.run(asyncio.wait_for(scenario(), 5))
        flush(0.01)
        assert set(drained(reader)) == {0}
        flush()
        assert drained(reader).startswith(b"channel a: 10 B in ")


def drained(fd: int) -> bytes:
    """All that is in a pipe."""
    os.set_blocking(fd, False)
    found = b""
    try:
        while True:
            found += os.read(fd, 1 << 16)
    except BlockingIOError:
        return found
