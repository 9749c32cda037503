"""What the streams promise: every byte, whole lines, bounded memory, a loop that never waits.

Real pipes, real children. What waits for a condition has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.streams import (
    Branch,
    Carriage,
    Formatter,
    Json,
    Label,
    Mark,
    Policy,
    Prefix,
    Pump,
    Raw,
    Repeats,
    RotatingFile,
    Sink,
    colour_of,
    console,
    quiet_tensorflow,
)
from supervisor.streams.decode import decode_json, decode_prefix
from supervisor.streams.formats import IDLE_S, PROGRESS_S, Lines, json_escaped

LABEL = Label("algo-1", "chief", "stdout")
PREFIX_LABEL = Label("algo-1", "chief", "")  # the default template does not name the stream

FIXED = {
    "nothing": b"",
    "one line": b"hello\n",
    "no final newline": b"hello",
    "blank lines": b"\n\n\n",
    "leading spaces": b"  indented\n\t\ttabs\n trailing  \n",
    "multi-byte": "naïve café 訓練 🚀 損失\n🚀".encode(),
    "invalid UTF-8": b"\xff\xfe ok \xc3\n\xe8\xa8\n\xf0\x9f\x9a lone \x80\n",
    "surrogate": b"\xed\xa0\x80\n",
    "NUL": b"a\0b\0\n\0\n",
    "CR": b"10%\r20%\r30%\rdone\n",
    "CR first": b"\r 10%\r 20%\n",
    "only CR": b"\r\r\r",
    "CRLF": b"dos\r\nlines\r\n\r\n",
    "CR CR LF": b"odd\r\r\nend",
    "separators": "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n".encode(),
    "escapes": b'\x1b[31mred\x1b[0m "quoted" back\\slash \\n \\u0000 \x7f\n',
    "marks in text": "│ ┆ ↻ · algo-1 chief │ x\n".encode(),
    "long line": b"x" * 50_000 + b"\nshort\n",
    "long line, multi-byte": "é".encode() * 40_000 + b"\n",
    "long, no end": b"y" * 33_333,
    "many CR": b"\r" * 40_000 + b"z\n",
}


# --------------------------------------------------------------------------- helpers


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on an event loop of its own, within a bound."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def run_formatter(
    formatter: Formatter, chunks: Sequence[bytes], *, idle_between: bool = False
) -> bytes:
    """Feed chunks as reads would, by a clock of our own."""
    out = bytearray()
    now = 1000.0
    for chunk in chunks:
        out += formatter.feed(chunk, now)
        if idle_between:
            now += IDLE_S
            out += formatter.tick(now)
    out += formatter.flush(now)
    return bytes(out)


def keep_prefix(max_line_bytes: int | None = None) -> Prefix:
    return Prefix(LABEL, carriage=Carriage.KEEP, max_line_bytes=max_line_bytes)


def keep_json(max_line_bytes: int = 15 * 1024) -> Json:
    return Json(LABEL, carriage=Carriage.KEEP, max_line_bytes=max_line_bytes)


async def until(predicate: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition that the loop will bring about."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, "the condition did not come"
        await asyncio.sleep(0.002)


class Reader:
    """The other side of a sink: a pipe, read by a thread so that the loop is not needed."""

    def __init__(self, *, start: bool = True) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self.data = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)
        if start:
            self._thread.start()

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while chunk := os.read(self.read_fd, 1 << 20):
            self.data += chunk

    def all(self) -> bytes:
        """Close our end, and wait for the end of what was written."""
        os.close(self.write_fd)
        self.write_fd = -1
        if not self._thread.is_alive():
            self._run()
        else:
            self._thread.join(10)
            assert not self._thread.is_alive()
        return bytes(self.data)

    def hang_up(self) -> None:
        os.close(self.read_fd)
        self.read_fd = -1

    def close(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
        if self._thread.is_alive():
            self._thread.join(10)
        if self.read_fd >= 0:
            os.close(self.read_fd)


@pytest.fixture
def reader() -> Iterator[Reader]:
    it = Reader()
    yield it
    it.close()


@pytest.fixture
def stopped_reader() -> Iterator[Reader]:
    """A collector that does not read. The pipe holds one page."""
    it = Reader(start=False)
    fcntl.fcntl(it.write_fd, fcntl.F_SETPIPE_SZ, 4096)
    yield it
    it.close()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Every descriptor and thread that a test brought in is gone after it."""
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    yield
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= fds


@contextlib.asynccontextmanager
async def sink_on(
    fd: int | RotatingFile, *, policy: Policy = "block", capacity_bytes: int = 1 << 20
) -> AsyncIterator[Sink]:
    sink = Sink(fd, name="test", policy=policy, capacity_bytes=capacity_bytes)
    try:
        yield sink
        assert sink.offered_bytes == (
            sink.written_bytes + sink.dropped_bytes + sink.discarded_bytes + sink.unwritten_bytes
        )
    finally:
        sink.close()


_started: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """A test that fails leaves no flood behind."""
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()


def child(script: str, *args: str) -> tuple[subprocess.Popen[bytes], int]:
    """A Python child; the read end of its stdout."""
    read_fd, write_fd = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", textwrap.dedent(script), *args], stdout=write_fd
    )
    os.close(write_fd)
    _started.append(process)
    return process, read_fd


async def exited(process: subprocess.Popen[bytes]) -> int:
    await until(lambda: process.poll() is not None, 30)
    assert process.returncode is not None
    return process.returncode


async def pump_all(
    script: str, branches: Sequence[Branch], *args: str, finish_s: float = 30.0
) -> Pump:
    """Run a child to its end through a pump."""
    process, fd = child(script, *args)
    pump = Pump(fd, branches)
    pump.start()
    try:
        await until(lambda: pump.at_end, 60)
        await pump.finish(finish_s)
    finally:
        pump.close()
    assert await exited(process) in {0, -signal.SIGKILL}
    return pump


# --------------------------------------------------------------------------- fidelity


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096, 1 << 20])
def test_every_read_border(name: str, size: int) -> None:
    """Wherever a read ends, the same bytes come out; half lines are given out in between."""
    data = FIXED[name]
    if len(data) > 1000 and size < 7:
        size = 997
    chunks = pieces(data, size)
    for idle_between in (False, True):
        assert run_formatter(Raw(), chunks, idle_between=idle_between) == data
        prefixed = run_formatter(keep_prefix(), chunks, idle_between=idle_between)
        assert decode_prefix(prefixed).get(PREFIX_LABEL, b"") == data
        objects = run_formatter(keep_json(), chunks, idle_between=idle_between)
        assert decode_json(objects).get(LABEL, b"") == data


chunk_lists = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.text(max_size=20).map(lambda text: text.encode(errors="surrogatepass")),
        st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b" ", b"x" * 70, b"\xe8\xa8"]),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=300)
@given(chunks=chunk_lists, idle=st.booleans(), limit=st.integers(8, 64))
def test_random_bytes_decode_back(chunks: list[bytes], idle: bool, limit: int) -> None:
    """Any bytes in any reads, lines longer than the limit included."""
    data = b"".join(chunks)
    prefixed = run_formatter(keep_prefix(limit), chunks, idle_between=idle)
    assert decode_prefix(prefixed).get(PREFIX_LABEL, b"") == data
    objects = run_formatter(keep_json(limit), chunks, idle_between=idle)
    assert decode_json(objects).get(LABEL, b"") == data


@settings(deadline=None, max_examples=200)
@given(chunks=chunk_lists, idle=st.booleans(), limit=st.integers(8, 64))
def test_collapsing_loses_only_states(chunks: list[bytes], idle: bool, limit: int) -> None:
    """Without a carriage return, collapsing output is as exact as keeping output."""
    chunks = [chunk.replace(b"\r", b"") for chunk in chunks]
    data = b"".join(chunks)
    prefixed = run_formatter(Prefix(LABEL, max_line_bytes=limit), chunks, idle_between=idle)
    assert decode_prefix(prefixed).get(PREFIX_LABEL, b"") == data
    objects = run_formatter(Json(LABEL, max_line_bytes=limit), chunks, idle_between=idle)
    assert decode_json(objects).get(LABEL, b"") == data


@settings(deadline=None, max_examples=200)
@given(chunks=chunk_lists, limit=st.integers(8, 64), carriage=st.sampled_from(Carriage))
def test_memory_and_lines_are_bounded(chunks: list[bytes], limit: int, carriage: Carriage) -> None:
    """No line of text is longer than the limit, and no more than that is held back."""
    formatter = Prefix(LABEL, "{mark} ", carriage=carriage, max_line_bytes=limit)
    overhead = len("│ ".encode())
    out = bytearray()
    for chunk in chunks:
        out += formatter.feed(chunk, 0.0)
        assert len(formatter._held) <= limit + 1
    out += formatter.flush(0.0)
    assert all(len(line) - overhead <= limit for line in bytes(out).split(b"\n"))


@settings(deadline=None, max_examples=300)
@given(st.text().map(lambda text: text.replace("\n", " ").encode(errors="replace")))
def test_json_escapes(text: bytes) -> None:
    """What is written between the quotes is read back by json, and is one line to anyone."""
    escaped = json_escaped(text).decode()
    assert json.loads(f'"{escaped}"').encode() == text
    assert len(escaped.splitlines()) <= 1


def test_coloured_and_timed_prefix_decodes() -> None:
    """A colour resets what the line before it left on, and colours the prefix alone."""
    template = "{time} {host} [{role:<8}/{stream}] {mark} "
    formatter = Prefix(
        LABEL, template, colour=colour_of("algo-1"), carriage=Carriage.KEEP, clock=lambda: 1.25
    )
    out = run_formatter(formatter, [b"a\nb\rc"])
    first, *_ = out.split(b"\n")
    assert first == (
        b"\x1b[0;%dm1970-01-01T00:00:01.250Z algo-1 [chief   /stdout] \xe2\x94\x82 \x1b[0ma"
        % colour_of("algo-1")
    )
    assert decode_prefix(out, template) == {LABEL: b"a\nb\rc"}


def test_json_object() -> None:
    formatter = Json(LABEL, clock=lambda: 86400.0, max_line_bytes=8)
    out = run_formatter(formatter, [b"loss 1\n0123456789\n\xff"])
    base = {"time": "1970-01-02T00:00:00.000Z", "host": "algo-1", "role": "chief"}
    base |= {"stream": "stdout"}
    assert [json.loads(line) for line in out.splitlines()] == [
        {**base, "text": "loss 1"},
        {**base, "text": "01234567", "partial": True},
        {**base, "text": "89"},
        {**base, "text": "\N{REPLACEMENT CHARACTER}", "base64": "/w==", "partial": True},
    ]


def test_empty_template_merges() -> None:
    """Lines that have their prefix already pass as they are; a half line ends with a mark."""
    merged = run_formatter(Prefix(LABEL, ""), [b"algo-1 ps \xe2\x94\x82 a\nb", b"c\nd"])
    assert merged == b"algo-1 ps \xe2\x94\x82 a\nbc\nd " + Mark.PART.value.encode() + b"\n"


@pytest.mark.parametrize(
    "template", ["{nope} ", "two\nlines", "{host", "{host.upper}", "{0}", "{}", "{host!x}"]
)
def test_bad_template_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="prefix template"):
        Prefix(LABEL, template)


def test_long_line_is_cut_between_characters() -> None:
    out = run_formatter(Prefix(LABEL, "{mark}", max_line_bytes=8), ["日本語です\n".encode()])
    assert out.decode() == "┆日本\n┆語で\n│す\n"


# --------------------------------------------------------------------------- progress bars


def test_progress_bar_off_a_terminal() -> None:
    """One state every few seconds, and the last one always; CRLF is no progress bar."""
    formatter = Prefix(LABEL, "{mark} ")
    out = bytearray()
    for percent in range(100):
        out += formatter.feed(b"\r%3d%%" % percent, percent / 10)
        out += formatter.tick(percent / 10)
    out += formatter.feed(b"\r100%\nnext\r\n", 10.0)
    assert out.decode().split("\n") == ["↻   0%", "↻  50%", "│ 100%", "│ next\r", ""]


def test_crlf_across_a_read_border_is_one_line() -> None:
    """A return at the end of a read is no progress bar before something else has followed."""
    for form in (Prefix(LABEL, "{mark} "), Prefix(LABEL, "{mark} ", carriage=Carriage.KEEP)):
        out = form.feed(b"one\r", 0.0) + form.feed(b"\ntwo\r\nthr", 0.1) + form.feed(b"ee\r\n", 0.2)
        assert out.decode() == "│ one\r\n│ two\r\n│ three\r\n"


def test_bar_whose_states_end_with_a_return() -> None:
    """The other style of bar, ``10%\\r``, is collapsed as well, however slow it is."""
    formatter = Prefix(LABEL, "{mark} ")
    out = bytearray()
    for second in range(11):
        out += formatter.feed(b"%d%%\r" % second, float(second))
        out += formatter.tick(second + 0.5)
    out += formatter.feed(b"done\n", 11.0)
    assert out.decode().split("\n") == ["↻ 0%", "↻ 5%", "↻ 10%", "│ done", ""]


def test_progress_bar_that_stops_shows_its_last_state() -> None:
    formatter = Prefix(LABEL, "{mark} ")
    out = formatter.feed(b"\r 1%\r 2%", 0.0) + formatter.feed(b"\r 3%", 1.0)
    assert out.decode() == "↻  2%\n"
    assert formatter.due_s(1.0) == pytest.approx(PROGRESS_S - 1.0)
    assert formatter.tick(PROGRESS_S - 0.5) == b""
    assert formatter.tick(PROGRESS_S).decode() == "↻  3%\n"
    assert formatter.due_s(PROGRESS_S) is None
    assert formatter.flush(60.0).decode() == "┆  3%\n"


def test_half_character_waits_for_its_rest() -> None:
    """A half line is given out after a short idle time, without the half character at its end."""
    formatter = Prefix(LABEL, "{mark} ")
    assert formatter.feed("loss: é".encode()[:-1], 0.0) == b""
    assert formatter.due_s(0.0) == pytest.approx(IDLE_S)
    assert formatter.tick(IDLE_S).decode() == "┆ loss: \n"
    assert formatter.due_s(IDLE_S) is None
    assert formatter.feed("é".encode()[-1:] + b"\n", 1.0).decode() == "│ é\n"


@on_loop
async def test_terminal_shows_progress_in_place() -> None:
    """The unfinished line is drawn at the bottom, other lines go above it, the last one stays."""
    master, terminal = pty.openpty()
    try:
        sink = Sink(terminal, name="terminal")
        bar = Branch(Prefix(LABEL, "bar {mark} ", carriage=Carriage.LIVE), sink)
        log = Branch(Prefix(LABEL, "log {mark} ", carriage=Carriage.LIVE), sink)
        bar.feed(b"\r10%", 0.0)
        bar.tick(0.1)
        log.feed(b"line\n", 0.2)
        sink.offer_line(b"ours\n")
        bar.feed(b"\r20%\ndone\n", 0.3)
        assert await sink.drain(5) == 0
        sink.close()
        os.close(terminal)
        data = b""
        with contextlib.suppress(OSError):  # EIO: the end, when the last terminal is closed
            while piece := os.read(master, 65536):
                data += piece
        shown = data.decode().replace("\r\n", "\n")
    finally:
        os.close(master)
    erase, drawn = "\r\x1b[K", "\x1b[?7lbar │ 10%\x1b[0m\x1b[?7h"
    assert shown == (
        f"{erase}{drawn}{erase}log │ line\n{drawn}{erase}ours\n{drawn}"
        f"{erase}bar │ 20%\nbar │ done\n"
    )


# --------------------------------------------------------------------------- filters


def test_tensorflow_chatter_is_hidden_and_errors_are_not() -> None:
    chatter = (
        b"2025-01-31 12:00:00.000001: I tensorflow/core/util/port.cc:153] oneDNN custom\n"
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        b"I0000 00:00:1738324800.000000   12345 grpc_server_lib.cc:465] Started server\n"
        b"W0000 00:00:1738324800.000000   12345 coordination.cc:1] slow\n"
        b"To enable the following instructions: AVX2 FMA, in other operations, rebuild\n"
        b"WARNING:tensorflow:deprecated\n"
    )
    kept = (
        b"2025-01-31 12:00:00.000002: E tensorflow/core/x.cc:1] port taken\n"
        b"F0000 00:00:1738324800.000000   12345 x.cc:1] check failed\n"
        b"Informative line of the script\n\n"
        b"ERROR:tensorflow:boom\n"
    )
    formatter = Prefix(LABEL, "", only=quiet_tensorflow("E"))
    assert run_formatter(formatter, pieces(chatter + kept + chatter, 50)) == kept
    warnings = Prefix(LABEL, "", only=quiet_tensorflow("W"))
    assert b"deprecated" in run_formatter(warnings, [chatter])
    everything = Prefix(LABEL, "", only=quiet_tensorflow("I"))
    assert run_formatter(everything, [chatter]) == chatter


def test_repeated_lines_are_counted() -> None:
    """The first passes at once, the rest of the window is said once, others are untouched."""
    formatter = Prefix(LABEL, "{mark} ", repeats=Repeats(10.0))
    out = formatter.feed(b"warn\nwarn\nother\nwarn\n", 0.0)
    assert out.decode() == "│ warn\n│ other\n"
    assert formatter.due_s(4.0) == pytest.approx(6.0)
    assert formatter.feed(b"warn\n", 5.0) == b""
    assert formatter.tick(10.0).decode() == "· repeated 3 times: warn\n"
    assert formatter.due_s(10.0) is None
    assert formatter.feed(b"warn\nwarn\n", 11.0).decode() == "│ warn\n"
    assert formatter.flush(12.0).decode() == "· repeated once: warn\n"


def test_repeats_have_a_bound() -> None:
    repeats = Repeats(1e6, max_kinds=4)
    formatter = Json(LABEL, repeats=repeats)
    out = run_formatter(formatter, [b"%d\n%d\n" % (i, i) for i in range(100)])
    assert len(repeats._kinds) == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert sum("note" not in record for record in records) == 100
    assert sum(record["text"].startswith("repeated once: ") for record in records) == 100


# --------------------------------------------------------------------------- through pipes


SAY = "import sys; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1]))"


@pytest.mark.parametrize("name", [name for name, data in FIXED.items() if len(data) < 20_000])
@on_loop
async def test_child_to_pipe(name: str) -> None:
    """A real child, a real pipe on both sides, three formats and a file at once."""
    data = FIXED[name]
    readers = [Reader() for _ in range(3)]
    formats: list[Formatter] = [Raw(), keep_prefix(), keep_json()]
    sinks = [Sink(r.write_fd, name=str(i)) for i, r in enumerate(readers)]
    try:
        branches = [Branch(f, s) for f, s in zip(formats, sinks, strict=True)]
        pump = await pump_all(SAY, branches, data.hex())
        assert [await sink.drain(5) for sink in sinks] == [0, 0, 0]
        raw, prefixed, objects = (reader.all() for reader in readers)
    finally:
        for sink in sinks:
            sink.close()
        for reader in readers:
            reader.close()
    assert raw == data
    assert decode_prefix(prefixed).get(PREFIX_LABEL, b"") == data
    assert decode_json(objects).get(LABEL, b"") == data
    assert pump.bytes_read == len(data)
    assert pump.lines == data.count(b"\n")
    assert pump.tail() == data[-65536:]


@pytest.mark.parametrize(
    "formatter", [Raw(), keep_prefix(), keep_json()], ids=["raw", "prefix", "json"]
)
@on_loop
async def test_100_mb_without_newline(formatter: Formatter) -> None:
    """Memory does not grow with the line."""
    size = 100 << 20
    script = f"""
        import os
        block = b"0123456789abcdef" * 4096
        for _ in range({size} // len(block)):
            left = block
            while left:
                left = left[os.write(1, left):]
    """
    process = subprocess.Popen(  # noqa: ASYNC220
        ["wc", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with sink_on(process.stdin.fileno()) as sink:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pump = await pump_all(script, [Branch(formatter, sink)])
        assert await sink.drain(30) == 0
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        counted = await asyncio.to_thread(process.communicate)
    assert pump.bytes_read == size
    if isinstance(formatter, Lines):
        assert sink.written_bytes > size
    assert int(counted[0]) == sink.written_bytes >= size
    assert grown < 16 * 1024, f"resident memory grew by {grown} KiB"


@on_loop
async def test_many_writers_no_line_missing_or_torn(reader: Reader) -> None:
    """32 writers of 100,000 lines through one output."""
    writers, lines = 32, 100_000
    script = """
        import os, sys
        name = sys.argv[1]
        text = "".join(f"{name} line {i}\\n" for i in range(int(sys.argv[2]))).encode()
        for start in range(0, len(text), 7919):
            os.write(1, text[start : start + 7919])
    """
    async with sink_on(reader.write_fd) as sink:
        started = [child(script, f"w{i}", str(lines)) for i in range(writers)]
        pumps = [
            Pump(fd, [Branch(Prefix(Label("algo-1", f"w{i}", "stdout")), sink)])
            for i, (_, fd) in enumerate(started)
        ]
        for pump in pumps:
            pump.start()
        await until(lambda: all(pump.at_end for pump in pumps), 60)
        for pump in pumps:
            await pump.finish(1)
            pump.close()
        assert [await exited(process) for process, _ in started] == [0] * writers
        assert await sink.drain(10) == 0
        streams = decode_prefix(reader.all())
    assert len(streams) == writers
    for label, data in streams.items():
        name = label.role
        assert data == b"".join(b"%s line %d\n" % (name.encode(), i) for i in range(lines))
    assert sum(pump.lines for pump in pumps) == writers * lines


@on_loop
async def test_last_words_before_sigkill(reader: Reader) -> None:
    """What a script wrote without a newline before it was killed is there."""
    script = """
        import os, signal
        os.write(1, b"first\\nlast words")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    async with sink_on(reader.write_fd) as sink:
        pump = await pump_all(script, [Branch(Prefix(LABEL, "{mark} "), sink)])
        assert await sink.drain(5) == 0
        assert reader.all().decode() == "│ first\n┆ last words\n"
    assert pump.tail() == b"first\nlast words"


@on_loop
async def test_half_line_comes_out_while_the_child_lives(reader: Reader) -> None:
    """A prompt is seen after a short idle time, not at the end."""
    process, fd = child("import os; os.write(1, b'ready? '); os.read(0, 1)")
    async with sink_on(reader.write_fd) as sink:
        pump = Pump(fd, [Branch(Prefix(LABEL, "{mark} "), sink)])
        pump.start()
        try:
            await until(lambda: bytes(reader.data).decode() == "┆ ready? \n")
        finally:
            process.kill()
            process.wait()
            await pump.finish(5)
            pump.close()


@on_loop
async def test_grandchild_that_holds_the_pipe_does_not_hold_us(reader: Reader) -> None:
    """Reading ends at the bound, with what was written by then."""
    read_fd, write_fd = os.pipe()
    async with sink_on(reader.write_fd) as sink:
        pump = Pump(read_fd, [Branch(Raw(), sink)])
        pump.start()
        os.write(write_fd, b"said before the end")
        started = time.monotonic()
        await pump.finish(0.2)
        assert 0.15 < time.monotonic() - started < 10
        pump.close()
        with pytest.raises(BrokenPipeError):
            os.write(write_fd, b"too late")
        os.close(write_fd)
        assert await sink.drain(5) == 0
        assert reader.all() == b"said before the end"
    assert pump.tail() == b"said before the end"


@on_loop
async def test_tail_is_the_last_bytes() -> None:
    read_fd, write_fd = os.pipe()
    pump = Pump(read_fd, [], tail_bytes=1000)
    pump.start()
    written = bytearray()
    for i in range(3000):
        piece = b"%d," % i
        written += piece
        os.write(write_fd, piece)
        if i % 7 == 0:
            await asyncio.sleep(0)
    os.close(write_fd)
    await pump.finish(5)
    pump.close()
    assert pump.tail() == bytes(written[-1000:])
    assert pump.bytes_read == len(written)
    assert sum(len(chunk) for chunk in pump._tail) < 1000 + 128 * 1024


@on_loop
async def test_small_pieces_are_read_together(reader: Reader) -> None:
    """A child that flushes every line costs far fewer reads than lines."""
    script = """
        import os
        for i in range(20_000):
            os.write(1, b"step %d\\n" % i)
    """
    chunks = []

    class Counting(Raw):
        def feed(self, data: bytes, now: float) -> bytes:
            chunks.append(len(data))
            return super().feed(data, now)

    async with sink_on(reader.write_fd) as sink:
        await pump_all(script, [Branch(Counting(), sink)])
        assert await sink.drain(5) == 0
        assert reader.all() == b"".join(b"step %d\n" % i for i in range(20_000))
    assert len(chunks) < 5_000


# --------------------------------------------------------------------------- back pressure


FLOOD = """
    import os
    block = b"x" * 99 + b"\\n"
    block *= 600
    while True:
        os.write(1, block)
"""


async def loop_turns(window_s: float) -> bool:
    """Whether the loop turned all the time in one of some windows.

    One that an output blocks is late in each, one on a busy machine in a few.
    """
    for _ in range(20):
        if await _worst_lag(window_s) < min(0.1, window_s):
            return True
    return False


async def _worst_lag(window_s: float) -> float:
    """The longest time for which the loop did not turn within a window, in seconds."""
    worst = 0.0
    end = time.monotonic() + window_s
    while (before := time.monotonic()) < end:
        await asyncio.sleep(0.005)
        worst = max(worst, time.monotonic() - before - 0.005)
    return worst


@pytest.mark.parametrize(
    "formatter", [Raw(), Prefix(LABEL), Json(LABEL)], ids=["raw", "prefix", "json"]
)
@on_loop
async def test_stalled_output_holds_the_child_and_not_the_loop(
    stopped_reader: Reader, formatter: Formatter
) -> None:
    """A reader that stops: the child is held, memory is bounded, the loop turns, the end comes."""
    process, fd = child(FLOOD)
    async with sink_on(stopped_reader.write_fd, capacity_bytes=1 << 18) as sink:
        pump = Pump(fd, [Branch(formatter, sink)])
        pump.start()

        await until(lambda: pump.held)
        read = pump.bytes_read
        assert await loop_turns(0.15)
        await until(lambda: sink.stalled_s() > 0.4)
        assert pump.bytes_read == read, "the pump reads on"
        assert sink.unwritten_bytes < 1 << 20
        assert process.poll() is None
        process.kill()
        process.wait()
        started = time.monotonic()
        await pump.finish(0.1)
        pump.close()
        unwritten = await sink.drain(0.1)
        assert time.monotonic() - started < 10
        assert unwritten > 0
        assert sink.offered_bytes == sink.written_bytes + unwritten
        assert len(stopped_reader.all()) == sink.written_bytes
    # the last words are known though nobody could read them
    assert pump.tail().endswith(b"xxx\n") or pump.tail().endswith(b"x")
    assert os.get_blocking(stopped_reader.read_fd)


@pytest.mark.parametrize("end", ["", "await sink.drain(0.1); sink.close()", "os._exit(0)"])
def test_stalled_output_does_not_hold_the_exit(stopped_reader: Reader, end: str) -> None:
    """The thread that waits for a reader is left behind when the process ends."""
    script = f"""
import asyncio, os
from supervisor.streams import Sink

async def main():
    sink = Sink(1, name="stdout", capacity_bytes=1 << 16)
    while not sink.full:
        sink.offer(b"x" * 9999 + b"\\n")
    {end}

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=stopped_reader.write_fd, timeout=20, check=False
    )
    assert done.returncode == 0


@on_loop
async def test_output_that_goes_on_loses_nothing(stopped_reader: Reader) -> None:
    """After a stall the child goes on where it was held."""
    script = """
        import os
        for i in range(3000):
            os.write(1, b"%d " % i + b"x" * 1000 + b"\\n")
    """
    process, fd = child(script)
    async with sink_on(stopped_reader.write_fd, capacity_bytes=1 << 16) as sink:
        pump = Pump(fd, [Branch(Raw(), sink)])
        pump.start()
        await until(lambda: pump.held)
        assert process.poll() is None
        stopped_reader.start()
        await until(lambda: pump.at_end)
        await pump.finish(5)
        pump.close()
        assert await exited(process) == 0
        assert await sink.drain(5) == 0
        data = stopped_reader.all()
    assert data == b"".join(b"%d " % i + b"x" * 1000 + b"\n" for i in range(3000))


@on_loop
async def test_drop_counts_exactly(stopped_reader: Reader) -> None:
    """Policy ``drop``: the child is never held, and what is missing is said to the line."""
    lines = 50_000
    script = f"""
        import os
        text = b"".join(b"line %d\\n" % i for i in range({lines}))
        for start in range(0, len(text), 10_000):
            os.write(1, text[start : start + 10_000])
    """
    async with sink_on(stopped_reader.write_fd, policy="drop", capacity_bytes=1 << 16) as sink:
        branch = Branch(Prefix(LABEL, "{mark} "), sink)
        pump = await pump_all(script, [branch])
        dropped = sink.dropped_lines
        assert 0 < dropped < lines
        stopped_reader.start()
        assert await sink.flush(5)
        branch.feed(b"the end\n", 0.0)
        assert await sink.drain(5) == 0
        shown = stopped_reader.all().decode().splitlines()
        assert sink.dropped_lines == dropped
    assert pump.lines == lines
    notes = [line for line in shown if line.startswith("·")]
    assert sum(int(note.split()[1]) for note in notes) == dropped
    assert notes[-1].endswith(" lines left out: the output was too slow")
    assert shown[-1] == "│ the end"
    assert len(shown) == lines - dropped + len(notes) + 1


@on_loop
async def test_output_that_was_closed_does_not_hold_the_child(
    reader: Reader, tmp_path: Path
) -> None:
    """EPIPE: the sink is broken, said once, and the child and its file go on."""
    broken: list[tuple[str, int | None]] = []
    read_fd, write_fd = os.pipe()
    sink = Sink(write_fd, name="stdout", on_broken=lambda s, e: broken.append((s.name, e.errno)))
    path = tmp_path / "worker.log"
    file = Sink(RotatingFile(str(path)), name="file")
    os.close(read_fd)
    try:
        script = "for i in range(200_000): print('step', i)"
        pump = await pump_all(script, [Branch(Raw(), sink), Branch(Raw(), file)])
        assert await file.drain(5) == 0
        assert await sink.drain(1) == 0
        await until(lambda: bool(broken))
    finally:
        sink.close()
        file.close()
        os.close(write_fd)
    assert broken == [("stdout", errno.EPIPE)]
    assert sink.broken
    assert sink.discarded_bytes == pump.bytes_read == file.written_bytes
    assert path.read_bytes() == b"".join(b"step %d\n" % i for i in range(200_000))


@on_loop
async def test_full_disk_breaks_the_file_alone(reader: Reader) -> None:
    """ENOSPC on the file: one warning, and the console goes on."""
    broken: list[OSError] = []
    file = Sink(RotatingFile("/dev/full"), name="file", on_broken=lambda _, e: broken.append(e))
    async with sink_on(reader.write_fd) as sink:
        script = "for i in range(100_000): print('step', i)"
        await pump_all(script, [Branch(Raw(), file), Branch(Raw(), sink)])
        assert await sink.drain(5) == 0
        data = reader.all()
    await until(lambda: bool(broken))
    file.close()
    assert [error.errno for error in broken] == [errno.ENOSPC]
    assert data == b"".join(b"step %d\n" % i for i in range(100_000))
    assert file.discarded_bytes == len(data)


@on_loop
async def test_closed_stdout_is_broken_from_the_start(reader: Reader) -> None:
    """``supervisor train >&-``: said once, and nothing waits."""
    broken: list[int | None] = []
    fd = os.dup(reader.write_fd)
    os.close(fd)
    out, err = console(fd, reader.write_fd, on_broken=lambda _, error: broken.append(error.errno))
    assert out is not err
    out.offer(b"x\n")
    err.offer(b"y\n")
    await until(lambda: bool(broken))
    assert [await out.drain(1), await err.drain(1)] == [0, 0]
    out.close()
    err.close()
    assert broken == [errno.EBADF]
    assert (out.discarded_bytes, err.written_bytes) == (2, 2)


@on_loop
async def test_nothing_is_drawn_where_there_is_no_terminal(reader: Reader) -> None:
    async with sink_on(reader.write_fd) as sink:
        with pytest.raises(ValueError, match="no terminal"):
            Branch(Prefix(LABEL, carriage=Carriage.LIVE), sink)
    with pytest.raises(ValueError, match="JSON"):
        Json(LABEL, carriage=Carriage.LIVE)


@pytest.mark.parametrize("block", [b"\n", b"\r", b"\r\r\n", b"\xff\n"], ids=repr)
@pytest.mark.parametrize("form", [keep_prefix, keep_json])
@on_loop
async def test_costly_output_does_not_hold_the_loop(
    reader: Reader, block: bytes, form: Callable[[], Formatter]
) -> None:
    """Blank lines, returns, invalid bytes: a turn that takes long makes the next one short."""
    process, fd = child(f"import os\nwhile True: os.write(1, {block!r} * 65536)")
    async with sink_on(reader.write_fd) as sink:
        pump = Pump(fd, [Branch(form(), sink)])
        pump.start()
        await until(lambda: pump.bytes_read > 1 << 18)
        assert await loop_turns(0.15)
        process.kill()
        await pump.finish(0)
        pump.close()


@on_loop
async def test_our_descriptors_stay_blocking(reader: Reader) -> None:
    """``O_NONBLOCK`` would be seen by everybody who shares our stdout."""
    async with sink_on(reader.write_fd) as sink:
        sink.offer(b"x\n")
        assert await sink.flush(5)
        assert os.get_blocking(reader.write_fd)


@on_loop
async def test_stdout_and_stderr_on_one_pipe_share_a_sink(reader: Reader) -> None:
    other = os.dup(reader.write_fd)
    read_fd, write_fd = os.pipe()
    try:
        out, err = console(reader.write_fd, other)
        assert out is err
        out.close()
        out, err = console(reader.write_fd, write_fd)
        assert out is not err
        out.close()
        err.close()
    finally:
        for fd in (other, read_fd, write_fd):
            os.close(fd)


@on_loop
async def test_socket_output() -> None:
    """Some launchers give a socket as stdout; it cannot be opened anew."""
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with sink_on(ours.fileno()) as sink:
            while not sink.full:
                sink.offer(b"x" * 4096)
            unwritten = await sink.drain(0.1)
            assert unwritten > 0
            received = 0
            theirs.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    received += len(theirs.recv(1 << 20))
            assert received == sink.offered_bytes - unwritten
        assert ours.gettimeout() is None
        assert os.get_blocking(ours.fileno())


@on_loop
async def test_pipe_that_cannot_be_opened_anew(stopped_reader: Reader) -> None:
    """Another user's pipe: written in pieces that cannot block, with an exact count as well."""
    from supervisor.streams.targets import SharedPipe

    sink = Sink(
        SharedPipe(stopped_reader.write_fd, own=False), name="shared", capacity_bytes=1 << 16
    )
    while not sink.full:
        sink.offer(b"y" * 5000)
    unwritten = await sink.drain(0.1)
    sink.close()
    assert unwritten > 0
    assert len(stopped_reader.all()) == sink.offered_bytes - unwritten


@on_loop
async def test_own_lines_never_tear_a_line(reader: Reader) -> None:
    """In raw format a line of ours waits for the child's line to end, then begins a new one."""
    async with sink_on(reader.write_fd) as sink:
        sink.offer(b"child's li")
        assert sink.offer_line(b"ours\n")
        sink.offer(b"ne\nnext")
        assert await sink.flush(5)
        await until(lambda: bytes(reader.data) == b"child's line\nours\nnext")
        assert sink.offer_line(b"ours again\n")
        await until(lambda: bytes(reader.data).endswith(b"next\nours again\n"))


@on_loop
async def test_own_lines_are_taken_when_full_up_to_a_reserve(stopped_reader: Reader) -> None:
    async with sink_on(stopped_reader.write_fd, capacity_bytes=4096) as sink:
        while not sink.full:
            sink.offer(b"x" * 1023 + b"\n")
        line = b"o" * 1023 + b"\n"
        taken = 0
        while sink.offer_line(line):
            taken += 1
        assert 60 <= taken <= 70
        assert sink.dropped_lines == 1
        assert await sink.drain(0.05) > 0


# --------------------------------------------------------------------------- files


@on_loop
async def test_rotation_by_size_and_count(tmp_path: Path) -> None:
    """No file is over its size or ends in the middle of a line; old ones go, none is skipped."""
    path = tmp_path / "logs" / "worker.log"
    async with sink_on(RotatingFile(str(path), max_bytes=10_000, keep=3)) as sink:
        for i in range(10_000):
            sink.offer(b"line %d\n" % i)
        assert await sink.drain(10) == 0
    names = sorted(os.listdir(path.parent))
    assert names == ["worker.log", "worker.log.1", "worker.log.2", "worker.log.3"]
    files = [path.with_name(name).read_bytes() for name in [*reversed(names[1:]), names[0]]]
    assert all(len(data) <= 10_000 for data in files)
    assert all(data.endswith(b"\n") for data in files)
    assert all(len(data) > 9_900 for data in files[:-1])
    numbers = [int(line.split()[1]) for line in b"".join(files).splitlines()]
    assert numbers == list(range(numbers[0], 10_000))


@on_loop
async def test_existing_file_is_continued_and_a_long_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    path.write_bytes(b"before\n")
    async with sink_on(RotatingFile(str(path), max_bytes=100, keep=2)) as sink:
        sink.offer(b"z" * 150 + b"\n")
        assert await sink.drain(10) == 0
    assert (tmp_path / "worker.log.2").read_bytes() == b"before\n"
    assert (tmp_path / "worker.log.1").read_bytes() == b"z" * 100
    assert path.read_bytes() == b"z" * 50 + b"\n"


@on_loop
async def test_a_line_stands_between_two_runs_in_one_file(tmp_path: Path) -> None:
    """An earlier run's file was continued as if it were one; a run that was killed had left half a
    line, to which the next one's first was added."""
    path = tmp_path / "worker.log"
    for number in range(3):
        target = RotatingFile(str(path), max_bytes=1000, keep=2, heading=b"-- run\n")
        async with sink_on(target) as sink:
            sink.offer(b"line %d" % number)
            assert await sink.drain(10) == 0
    assert path.read_bytes() == b"line 0\n-- run\nline 1\n-- run\nline 2"


@on_loop
async def test_no_old_files(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    async with sink_on(RotatingFile(str(path), max_bytes=100, keep=0)) as sink:
        for i in range(100):
            sink.offer(b"line %d\n" % i)
        assert await sink.drain(10) == 0
    assert os.listdir(tmp_path) == ["worker.log"]
    assert path.read_bytes().endswith(b"line 99\n")


# --------------------------------------------------------------------------- the package


def test_import_is_light() -> None:
    """This is loaded before the user's process starts."""
    script = (
        "import sys, asyncio; before = set(sys.modules); import supervisor.streams;"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(eval(out.stdout))
    assert not loaded & {"json", "hypothesis", "aiohttp", "rich", "logging", "tensorflow"}


# --------------------------------------------------------------------------- real chatter

SERVER_CHATTER = b"""\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795871944.233000   27913 port.cc:153] oneDNN custom operations are on. You may see
I0000 00:00:1795871944.233307   27913 cudart_stub.cc:31] Could not find cuda drivers on your machine
I0000 00:00:1795871944.707776   27913 cpu_feature_guard.cc:227] This TensorFlow binary is optimized
To enable the following instructions: AVX2 AVX512F FMA, in other operations, rebuild TensorFlow
E0000 00:00:1795871965.615108   27913 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA \
error: Failed call to cuInit: UNKNOWN ERROR (303)
I0000 00:00:1795871965.619979   27913 grpc_server_lib.cc:467] Started server with target: grpc://h:1
I0000 00:00:1795871965.909511    1432 eager_service_impl.cc:349] Creating sync eager service context
I0000 00:00:1795871965.909597    1432 eager_service_impl.cc:355] SessionOptions: goo.gle/debugproto
device_count {
  key: "CPU"
  value: 1
}
device_count {
  key: "GPU"
  value: 0
}
gpu_options {
  experimental {
  }
}
allow_soft_placement: true
experimental {
  collective_group_leader: "/job:ps/replica:0/task:0"
}
pluggable_device_options {
  experimental {
  }
}

W0000 00:00:1795871967.264208    1367 local_rendezvous.cc:412] Local rendezvous is aborting with \
status: CANCELLED: RecvFromRemoteAsync is cancelled.
\t [[{{node Sum/ReadVariableOp/_2}}]] [type.googleapis.com/tensorflow.DerivedStatus='']
I0000 00:00:1795871930.174073   27392 coordination_service.cc:505] Example stragglers:
/job:worker/replica:0/task:1
"""
"""Of a worker's and a parameter server's stderr, TensorFlow 2.21."""

SERVER_ERRORS = {
    "traceback": b"""\
Traceback (most recent call last):
  File "server.py", line 3, in <module>
    boom()
ValueError: no such port
""",
    "an error of several lines": b"""\
E0000 00:00:1795871968.399243   27912 context.cc:911] Failed to remove function remotely
Additional GRPC error information from remote target /job:ps/replica:0/task:0:
:UNKNOWN:Error received from peer  {grpc_status:14, grpc_message:"connection refused"}
""",
    "warning": b"/usr/lib/python3/x.py:12: DeprecationWarning: old\n  import old\n",
    "fatal": b"Fatal Python error: Segmentation fault\n\nCurrent thread 0x00007f (most recent):\n",
    "C++": b"terminate called after throwing 'std::bad_alloc'\n  what():  std::bad_alloc\n",
    "ours": b"parameter server: port 2223: no server: UnknownError: Could not start gRPC server\n",
    "check": b"F0000 00:00:1738324800.000000   12345 x.cc:1] Check failed: n > 0\n*** stack\n",
}


@pytest.mark.parametrize("size", [1 << 16, 50])
@pytest.mark.parametrize("error", SERVER_ERRORS)
def test_a_line_without_a_level_belongs_to_the_message_before_it(error: str, size: int) -> None:
    """The first line of a message was hidden and its 21 others were shown: 63 lines of noise in
    the very first run of ``supervisor local``."""
    formatter = Prefix(LABEL, "", only=quiet_tensorflow("E"))
    shown = SERVER_ERRORS[error]
    output = SERVER_CHATTER + shown + SERVER_CHATTER
    assert run_formatter(formatter, pieces(output, size)) == shown


def test_half_a_line_of_a_server_waits_to_be_judged() -> None:
    formatter = Prefix(LABEL, "", only=quiet_tensorflow("E"))
    line = b"I0000 00:00:1738324800.000000   12345 grpc.cc:465] Started server\n"
    assert formatter.feed(line[:40], 0.0) == b""
    assert formatter.due_s(0.1) is None
    assert formatter.tick(9.0) == b""
    assert formatter.feed(line[40:], 9.1) == b""


def test_a_host_that_pauses_in_the_middle_of_a_line_keeps_its_prefix() -> None:
    """Its lines have prefixes already. After 0.25 s the first half was given out as a line, with a
    mark, and the rest came without a prefix: a file that could not be decoded any more."""
    lines = b"algo-2 worker \xe2\x94\x82 step 1 of 100\r\nalgo-2 worker \xe2\x94\x82 step 2\n"
    for carriage in Carriage:
        for cut in range(1, len(lines)):
            merged = Prefix(LABEL, "", carriage=carriage, halves=False)
            out = merged.feed(lines[:cut], 0.0)
            assert merged.due_s(0.1) is None or carriage is Carriage.LIVE
            out += merged.tick(100.0) + merged.feed(lines[cut:], 200.0) + merged.flush(201.0)
            assert out == lines


def test_a_stray_line_is_named_and_the_rest_is_decoded() -> None:
    """One line that did not fit made the whole file unreadable."""
    first, rest = keep_prefix().feed(b"a\nb\n", 0.0).split(b"\n", 1)
    decoded = decode_prefix(first + b"\nno prefix\n" + rest + first[:-1])
    assert decoded == {PREFIX_LABEL: b"a\nb\n"}
    stray, cut = decoded.strays
    assert (stray.line, stray.offset, stray.text) == (2, len(first) + 1, b"no prefix")
    assert "line 2 (byte " in str(stray)
    assert cut.line == 4
    objects = keep_json().feed(b"a\nb\n", 0.0)
    mixed = decode_json(b"{torn\n" + objects + b"[]\n" + objects[:30])
    assert mixed == {LABEL: b"a\nb\n"}
    assert [each.line for each in mixed.strays] == [1, 4, 5]
