"""`/logs`: lines for those who read along, at no cost to the job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.status import lines as module
from supervisor.status.doors import Member
from supervisor.status.limits import Limits
from supervisor.status.lines import Lines, Wanted
from supervisor.streams.masking import MASK, Masker
from supervisor.streams.recent import Recent, Source
from tests.helpers.cluster import get, master, session

CHIEF = Source("chief", "chief", "stdout")
PS = Source("ps", "ps", "stderr")
EVERYTHING = Wanted()
SECRET = "tr0ub4dor-and-3"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(recent: Recent, clock: Callable[[], float] | None = None) -> Lines:
    more = {} if clock is None else {"clock": clock}
    return Lines(recent, host="algo-1", mask=Masker([SECRET]), **more)


async def read(
    lines: Lines, wanted: Wanted = EVERYTHING, *, after: str = ""
) -> list[dict[str, Any]]:
    """All that is here, each with its id."""
    found = []
    async for chunk in lines.follow(wanted, after=after, heartbeat_s=5, onward=False):
        for event in chunk.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
            if "data" in fields:
                found.append(json.loads(fields["data"]) | {"id": fields.get("id", "")})
    return found


def texts(events: list[dict[str, Any]]) -> str:
    return "".join(event.get("text", "") for event in events)


def test_what_was_written_is_read_in_lines_and_without_secrets() -> None:
    async def scenario() -> None:
        recent = Recent()
        lines = made(recent)
        recent.add(CHIEF, b"step 1\nstep")
        recent.add(PS, b"listens\n")
        recent.add(CHIEF, b" 2\npassword tr0ub4dor")
        recent.add(CHIEF, b"-and-3\n")
        events = await read(lines)
        assert texts([e for e in events if e["process"] == "chief"]) == (
            f"step 1\nstep 2\npassword {MASK}\n"
        )
        assert [e["host"] for e in events] == ["algo-1"] * len(events)
        assert texts(await read(lines, Wanted(roles={"ps"}))) == "listens\n"
        assert texts(await read(lines, Wanted(processes={"evaluator"}))) == ""

    asyncio.run(scenario())


def test_a_reader_goes_on_where_it_was() -> None:
    async def scenario() -> None:
        recent = Recent()
        lines = made(recent)
        recent.add(CHIEF, b"one\n")
        first = await read(lines)
        recent.add(CHIEF, b"two\n")
        assert texts(await read(lines, after=first[-1]["id"])) == "two\n"
        assert texts(await read(lines, after="ffffffff-1")) == "one\ntwo\n", "another supervisor's"
        assert texts(await read(lines, after="nonsense")) == "one\ntwo\n"

    asyncio.run(scenario())


def test_nothing_is_done_while_nobody_reads() -> None:
    async def scenario() -> None:
        recent = Recent(1000)
        lines = made(recent)
        for _ in range(1000):
            recent.add(CHIEF, b"x" * 99 + b"\n")
        assert recent.on_more is None
        events = await read(lines)
        assert events[0]["missing_bytes"] == 100_000 - 1000
        assert texts(events) == ("x" * 99 + "\n") * 10
        assert recent.on_more is None

    asyncio.run(scenario())


def test_of_a_flood_so_much_is_shown_and_the_rest_counted() -> None:
    async def scenario() -> None:
        recent, clock = Recent(), Clock()
        lines = made(recent, clock)
        reader = lines.follow(Wanted(), heartbeat_s=5)
        await anext(reader)
        shown = missing = 0
        for _ in range(20):  # 20 MiB in no time at all
            for _ in range(16):
                recent.add(CHIEF, b"y" * 65535 + b"\n")
            lines._take_in()
        recent.add(CHIEF, b"last\n")
        while lines._take_in():
            clock.now += 1
        for event in lines._ring:
            data = json.loads(event.chunk.decode().partition("data: ")[2])
            shown += len(data.get("text", ""))
            missing += data.get("missing_bytes", 0)
        assert lines._ring_bytes <= module.RING_BYTES
        assert shown <= module.RING_BYTES
        assert missing > 0
        await reader.aclose()

    asyncio.run(scenario())


def test_a_reader_that_stands_still_costs_nothing_and_is_told_what_it_missed() -> None:
    async def scenario() -> None:
        recent, clock = Recent(), Clock()
        lines = made(recent, clock)
        recent.add(CHIEF, b"first\n")
        reader = lines.follow(Wanted(), heartbeat_s=5)
        await anext(reader)
        assert b"first" in await anext(reader)
        for _ in range(80):
            clock.now += 1
            recent.add(CHIEF, b"z" * 65535 + b"\n")
            lines._take_in()
        assert lines._ring_bytes <= module.RING_BYTES
        assert b"missing_events" in await anext(reader)
        await reader.aclose()

    asyncio.run(scenario())


def test_half_a_line_is_shown_after_a_moment_and_no_half_secret() -> None:
    async def scenario() -> None:
        recent, clock = Recent(), Clock()
        lines = made(recent, clock)
        recent.add(CHIEF, b"50 % tr0ub4")
        reader = lines.follow(Wanted(), heartbeat_s=5)
        await anext(reader)
        lines._take_in()
        clock.now += 2
        lines._take_in()
        event = json.loads((await anext(reader)).decode().partition("data: ")[2])
        assert (event["text"], event["partial"]) == ("50 % ", True)
        recent.add(CHIEF, b"dor-and-3\n")
        lines._take_in()
        event = json.loads((await anext(reader)).decode().partition("data: ")[2])
        assert event["text"] == f"{MASK}\n"
        await reader.aclose()

    asyncio.run(scenario())


def test_the_end_comes_after_the_last_line() -> None:
    async def scenario() -> None:
        recent = Recent()
        lines = made(recent)
        reader = lines.follow(Wanted(), heartbeat_s=5)
        await anext(reader)
        recent.add(CHIEF, b"last words")
        lines.close(b'{"phase": "done"}')
        chunks = [chunk async for chunk in reader]
        assert b"last words" in chunks[0]
        assert chunks[-1] == b'event: end\ndata: {"phase": "done"}\n\n'
        late = [chunk async for chunk in lines.follow(Wanted(), heartbeat_s=5)]
        assert late[-1] == chunks[-1], "who comes after it is told as well"

    asyncio.run(scenario())


def test_a_line_is_read_soon_and_a_quiet_stream_shows_that_it_lives() -> None:
    async def scenario() -> None:
        recent = Recent()
        lines = made(recent)
        reader = lines.follow(Wanted(), heartbeat_s=0.05)
        assert await anext(reader) == b": still here\n\n"
        assert await anext(reader) == b": still here\n\n"
        recent.add(CHIEF, b"soon\n")
        async with asyncio.timeout(5):
            while b"soon" not in await anext(reader):
                pass
        await reader.aclose()
        assert recent.on_more is None

    asyncio.run(scenario())


# --------------------------------------------------------------------------- over the port


async def logs(url: str, **query: str) -> tuple[int, bytes]:
    return await get(f"{url}/logs", follow="0", **query)


def test_logs_are_asked_for_at_any_host() -> None:
    """The master relays a member's lines, and a member the master's; nobody is sent in circles."""

    async def scenario() -> None:
        recent = Recent()
        recent.add(CHIEF, b"step 1\n")
        async with master(lines=made(recent)) as it:
            own = await logs(it.url)
            assert own[0] == 200
            assert b"step 1" in own[1]
            there = (Member("algo-1", "127.0.0.1", it.server.port), Member("algo-9", "::1", 1))
            async with master(members=there, is_master=False, host="algo-2") as other:
                assert b"step 1" in (await logs(other.url, host="algo-1"))[1]
                assert (await logs(other.url, host="nobody"))[0] == 404
                assert (await logs(other.url, host="algo-9", relayed="1"))[0] == 404
                status, body = await logs(other.url, host="algo-9")
                assert status == 502
                assert b"algo-9 cannot be asked" in body

    asyncio.run(scenario())


def test_logs_want_the_token_of_the_job() -> None:
    async def scenario() -> None:
        recent = Recent()
        recent.add(CHIEF, b"step 1\n")
        async with master(lines=made(recent), token="geheim") as it:
            assert (await logs(it.url))[0] == 401
            there = (Member("algo-1", "127.0.0.1", it.server.port),)
            async with (
                master(members=there, is_master=False, host="algo-2", token="geheim") as other,
                session(headers={"Authorization": "Bearer geheim"}) as client,
                client.get(f"{other.url}/logs", params={"host": "algo-1", "follow": "0"}) as answer,
            ):
                assert b"step 1" in await answer.content.read()

    asyncio.run(scenario())


def test_the_end_of_a_relayed_host_is_told() -> None:
    async def scenario() -> None:
        async with master(lines=made(Recent())) as it:
            there = (Member("algo-1", "127.0.0.1", it.server.port),)
            async with (
                master(members=there, is_master=False, host="algo-2") as other,
                session() as client,
                client.get(f"{other.url}/logs", params={"host": "algo-1"}) as answer,
            ):
                await answer.content.readuntil(b"\n\n")
                await it.server.stop()
                assert b"event: end\ndata: {" in await answer.content.read()

    asyncio.run(scenario())


def test_readers_are_bounded_together() -> None:
    async def scenario() -> None:
        limits = Limits(event_readers=2)
        async with (
            master(lines=made(Recent()), limits=limits) as it,
            session() as client,
            client.get(f"{it.url}/logs") as answer,
        ):
            await answer.content.readuntil(b"\n\n")
            assert (await logs(it.url))[0] == 503
            assert (await get(f"{it.url}/events"))[0] == 503
            assert (await logs(it.url, process=",".join("abcdefghijklmnopqrstuvwxyz1234567")))[
                0
            ] == 400

    asyncio.run(scenario())


# --------------------------------------------------------------------------- what always holds


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([CHIEF, PS]), st.binary(min_size=1, max_size=40))),
    st.lists(st.integers(1, 5)),
)
def test_every_byte_is_shown_once_in_order(
    pieces: list[tuple[Source, bytes]], reads: list[int]
) -> None:
    """Wherever pieces end, whenever somebody reads; in UTF-8 text, where a character is whole."""

    async def scenario() -> None:
        recent = Recent()
        lines = Lines(recent, host="algo-1", mask=Masker([]))
        written = {CHIEF: b"", PS: b""}
        shown = {"chief": "", "ps": ""}
        after = ""
        left = list(pieces)
        for count in [*reads, len(left)]:
            for source, data in left[:count]:
                text = data.hex().encode() + "é\n"[len(data) % 2 :].encode()
                written[source] += text
                half = len(text) // 2
                recent.add(source, text[:half])
                recent.add(source, text[half:])
            left = left[count:]
            for event in await read(lines, after=after):
                after = event["id"] or after
                shown[event["process"]] += event["text"]
        lines._readers += 1  # as if one read along, the unfinished line comes too
        lines.close(b"{}")
        for event in await read(lines, after=after):
            shown[event["process"]] += event["text"]
        assert shown == {"chief": written[CHIEF].decode(), "ps": written[PS].decode()}

    asyncio.run(scenario())


@given(st.text(max_size=30), st.integers(0, 30))
def test_no_seam_is_inside_a_secret(text: str, at: int) -> None:
    masker = Masker([SECRET])
    whole = text + SECRET + text
    seam = masker.seam(whole[:at])
    begin = len(text)
    assert seam <= at
    assert not begin < seam < begin + len(SECRET)
