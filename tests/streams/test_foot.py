"""The line below everything on a terminal, and what a terminal is not to obey."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.streams import Branch, Carriage, Label, Prefix, Pump, Sink, console
from supervisor.streams.filters import tame
from tests.helpers.aio import until


class Screen:
    """A terminal, and what a person sees on it: just the sequences that a sink writes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.written = b""

    def rows(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 65536):
                self.written += data
        rows, at = [""], 0
        text = self.written.decode()
        while text:
            if text.startswith("\x1b["):
                end = next(i for i, c in enumerate(text[2:], 2) if c.isalpha())
                what, text = text[2 : end + 1], text[end + 1 :]
                if what == "K":
                    rows[at] = ""
                elif what == "J":
                    rows[at:] = [""]
                elif what.endswith("A"):
                    at -= int(what[:-1])
                continue
            character, text = text[0], text[1:]
            if character == "\n":
                at += 1
                rows += [""] * (at - len(rows) + 1)
            elif character != "\r":
                rows[at] += character
        return rows


@pytest.fixture
def screen() -> Iterator[tuple[Screen, int]]:
    own, terminal = pty.openpty()
    os.set_blocking(own, False)
    yield Screen(own), terminal
    os.close(own)
    os.close(terminal)


def test_the_foot_stays_below_lines_and_bars_and_leaves_nothing(
    screen: tuple[Screen, int],
) -> None:
    seen, terminal = screen

    async def scenario() -> None:
        sink = Sink(terminal, name="stdout")
        sink.foot(b"2 hosts")
        sink.offer(b"one\n")
        await until(lambda: seen.rows() == ["one", "2 hosts"])
        read, write = os.pipe()
        pump = Pump(read, [Branch(Prefix(Label("a", "b", "c"), "", carriage=Carriage.LIVE), sink)])
        pump.start()
        os.write(write, b"50 %")
        await until(lambda: seen.rows() == ["one", "50 %", "2 hosts"])
        sink.offer_line(b"two\n")
        await until(lambda: seen.rows() == ["one", "two", "50 %", "2 hosts"])
        sink.foot(b"1 host")
        await until(lambda: seen.rows() == ["one", "two", "50 %", "1 host"])
        os.write(write, b"\r100 %\n")
        await until(lambda: seen.rows() == ["one", "two", "100 %", "1 host"])
        os.close(write)
        await pump.finish(5)
        pump.close()
        sink.foot(b"")
        await until(lambda: seen.rows() == ["one", "two", "100 %", ""])
        assert await sink.drain(5) == 0
        sink.close()

    asyncio.run(scenario())


def test_off_a_terminal_there_is_no_foot_and_nothing_is_tamed() -> None:
    async def scenario() -> None:
        read, write = os.pipe()
        sink, other = console(write, write, tame=True)
        assert sink is other
        sink.foot(b"2 hosts")
        sink.offer(b"\x1b[2Jone\n")
        await sink.drain(5)
        sink.close()
        assert os.read(read, 100) == b"\x1b[2Jone\n"
        os.close(read)
        os.close(write)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"plain\n\ttab\r\nr\xc3\xa9sum\xc3\xa9\n", "plain\n\ttab\r\nrésumé\n"),
        (b"\x1b[31mred\n", "\x1b[31mred\x1b[0m\n"),
        (b"\x1b[1;38:5:9mred\x1b[0m x\r\n", "\x1b[1;38:5:9mred\x1b[0m x\r\n"),
        (b"\x1b[2Jgone\x1b]0;t\x07\n", "\\x1b[2Jgone\\x1b]0;t\\x07\n"),
        (b"a\rb\n", "a\\rb\n"),
        ("a\u202eb\u2028c\x9b2J\n".encode(), "a\\u202eb\\u2028c\\x9b2J\n"),
        (b"\x9b2J\xff\n", "\\x9b2J\\xff\n"),
        (b"\x00\x08\x7f\n", "\\x00\\x08\\x7f\n"),
        (b"half \x1b", "half \\x1b"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: bytes, shown: str) -> None:
    assert tame(text) == shown.encode()


@given(st.binary(max_size=80))
def test_whatever_comes_there_are_only_colours_in_it(data: bytes) -> None:
    shown = tame(data).decode()
    without = shown.replace("\r\n", "\n")
    for part in without.split("\x1b[")[1:]:
        assert part.lstrip("0123456789;:").startswith("m")
    rest = [c for c in without.replace("\x1b", "") if not c.isprintable() and c not in "\n\t"]
    assert not [c for c in rest if not c.isspace()]
    assert shown.count("\n") == data.count(b"\n")
