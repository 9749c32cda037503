"""Objects to and from real S3 servers, and through a proxy that spoils what it can."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiobotocore.session import AioSession

from supervisor.storage import patience
from supervisor.storage.flow import Flow, Memory
from supervisor.storage.job import Options
from supervisor.storage.location import Location
from supervisor.storage.places import open_store
from supervisor.storage.s3 import S3Store
from supervisor.storage.s3_client import S3Client
from supervisor.storage.store import Entry, Reason, StorageError, Store, Sums
from supervisor.storage.trees import Incoming, fetch_files
from tests.helpers.faults import INTERNAL, FaultProxy, Request, fault_proxy, s3_error
from tests.helpers.job import environment
from tests.helpers.s3 import BUCKET, KEY, OTHER_KEY, OTHER_SECRET, SECRET, Server, moto, rclone
from tests.helpers.sending import send_files
from tests.helpers.waiting import wait_until_async

pytestmark = pytest.mark.twice

MIB = 1 << 20


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as it:
        yield it


@pytest.fixture(scope="session")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto(tmp_path_factory.mktemp("moto")) as it:
        yield it


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those: whatever else this machine would offer is not asked."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture
def place(server: Server) -> Location:
    return server.place()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.port, seed=7) as it:
        yield it


class Moving:
    """What a transfer tells of itself."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, count: int) -> None:
        self.bytes += count


def through(proxy: FaultProxy, server: Server, **changes: Any) -> Options:
    return replace(server.options, endpoint=proxy.url, **changes)


async def sent(store: Store, key: str, path: pathlib.Path, content: bytes) -> tuple[Entry, Sums]:
    with path.open("w+b") as file:
        file.write(content)
        file.flush()
        sums = await store.upload(key, file.fileno(), len(content), moved=Moving())
    entry = await store.head(key)
    assert entry is not None
    return entry, sums


async def fetched(store: Store, entry: Entry, path: pathlib.Path, sums: Sums | None) -> bytes:
    moving = Moving()
    with path.open("w+b") as file:
        try:
            await store.download(entry, file.fileno(), sums=sums, moved=moving)
        except StorageError:
            assert moving.bytes == 0
            raise
        assert moving.bytes == entry.size
        return file.read()


async def uploads(server: Server, place: Location) -> list[str]:
    """Multipart uploads that are begun and neither completed nor aborted."""
    client = S3Client(server.options)
    try:
        api = await client.api(place.bucket)
        page = await api.list_multipart_uploads(Bucket=place.bucket, Prefix=place.key)
        return [row["Key"] for row in page.get("Uploads", ())]
    finally:
        await client.close()


async def failing(work: Any, reason: Reason) -> str:
    with pytest.raises(StorageError) as caught:
        await work
    assert caught.value.reason is reason, caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --------------------------------------------------------------------------- round trips

SIZES = [0, 1, 65536, 65537, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB, 12 * MIB + 3]


@pytest.mark.parametrize(("kind", "sizes"), [("server", SIZES), ("mock", [0, 70_000, SIZES[-1]])])
def test_what_was_sent_comes_back(
    kind: str, sizes: list[int], request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    """Around the borders of parts, with our checksums and with the server's."""
    at: Server = request.getfixturevalue(kind)
    data = os.urandom(max(SIZES))

    async def scenario() -> None:
        options = replace(at.options, part_bytes=5 * MIB)
        location = at.place()
        if kind == "mock":
            client = S3Client(options)
            await (await client.api(location.bucket)).create_bucket(Bucket=location.bucket)
            await client.close()
        async with open_store(location, options) as store:
            for size in sizes:
                content = data[:size]
                entry, sums = await sent(store, f"{size}", tmp_path / "up", content)
                assert entry.size == size
                assert len(sums.crcs) == max(1, -(-size // sums.part_bytes))
                for given in (sums, None):
                    assert await fetched(store, entry, tmp_path / "down", given) == content
            listed = [(entry.key, entry.size) async for entry in store.entries()]
            assert listed == sorted((f"{size}", size) for size in sizes)
            await store.delete([key for key, _ in listed] + ["never there"])
            assert [entry async for entry in store.entries()] == []
        assert await uploads(at, location) == []

    asyncio.run(scenario())


NAMES = [
    "a b",
    "é/ü ñ",
    "a+b",
    "100%",
    "a%20b",
    "#1",
    "q?x=1&y",
    "=~'()*!,;:@$",
    "日本/語",
    "a.b-c_d",
]


def test_odd_names_are_names_like_others(
    server: Server, place: Location, tmp_path: pathlib.Path
) -> None:
    async def scenario() -> None:
        async with open_store(place, server.options) as store:
            for name in NAMES:
                entry, sums = await sent(store, name, tmp_path / "up", name.encode())
                assert await store.read(name, limit=100) == name.encode()
                assert await fetched(store, entry, tmp_path / "down", sums) == name.encode()
            assert {entry.key async for entry in store.entries()} == set(NAMES)
            inside = server.root / place.bucket / place.key
            assert {str(it.relative_to(inside)) for it in inside.rglob("*") if it.is_file()} == set(
                NAMES
            )
            await store.delete(NAMES)
            assert [entry async for entry in store.entries()] == []

    asyncio.run(scenario())


def test_small_objects(server: Server, place: Location) -> None:
    async def scenario() -> None:
        async with open_store(place, server.options) as store:
            assert await store.head("a/b") is None
            await store.write("a/b", b"one")
            await store.write("a/b", b"two")
            await store.write("a-b", b"")
            assert await store.read("a/b", limit=3) == b"two"
            assert [entry.key async for entry in store.entries()] == ["a-b", "a/b"]
            assert [entry.key async for entry in store.entries("a/")] == ["a/b"]
            assert "larger than 2 bytes" in await failing(
                store.read("a/b", limit=2), Reason.CORRUPT
            )
            assert f"GetObject {place}/x: NoSuchKey" in await failing(
                store.read("x", limit=2), Reason.NOT_FOUND
            )

    asyncio.run(scenario())


def test_a_listing_of_many_pages_is_whole(tmp_path: pathlib.Path) -> None:
    inside = tmp_path / "buckets" / BUCKET / "many"
    inside.mkdir(parents=True)
    for number in range(2100):
        (inside / f"{number:05}").touch()

    async def scenario(server: Server) -> None:
        async with open_store(Location.parse(f"s3://{BUCKET}/many"), server.options) as store:
            keys = [entry.key async for entry in store.entries()]
            assert keys == [f"{number:05}" for number in range(2100)]
            await store.delete(keys)
            assert [entry async for entry in store.entries()] == []

    with rclone(tmp_path) as server:
        asyncio.run(scenario(server))


def test_trees_go_there_and_back(server: Server, place: Location, tmp_path: pathlib.Path) -> None:
    """Many small files beside some large ones; what is held in memory stays within its bound."""
    source, target = tmp_path / "source", tmp_path / "target"
    content = {f"d{n % 7}/f{n}": os.urandom(n * 17) for n in range(300)}
    content |= {f"large/{n}": os.urandom(11 * MIB + n) for n in range(3)}
    for name, data in content.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    moving = Moving()

    async def scenario() -> None:
        options = replace(server.options, part_bytes=5 * MIB, in_flight_bytes=12 * MIB)
        client, flow = S3Client(options), Flow(options)
        store = S3Store(place, client, flow)
        files = {name: str(source / name) for name in content}
        sums = await send_files(store, files, moved=moving)
        assert moving.bytes == sum(map(len, content.values()))

        async def incoming() -> AsyncIterator[Incoming]:
            async for entry in store.entries():
                yield Incoming(entry, entry.key, sums[entry.key], mode=0o640, mtime_ns=10**18)

        assert await fetch_files(store, incoming(), str(target), moved=Moving()) == len(content)
        assert 5 * MIB < flow.memory.highest <= 12 * MIB
        assert flow.memory.used == 0
        await client.close()

    asyncio.run(scenario())
    found = {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file()
    }
    assert found == content
    status = (target / "d1/f1").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 10**18)


# --------------------------------------------------------------------------- wholeness


def test_an_object_that_changes_while_it_is_fetched_is_no_mixture(
    server: Server, place: Location, proxy: FaultProxy, tmp_path: pathlib.Path
) -> None:
    old, new = os.urandom(12 * MIB), os.urandom(12 * MIB)

    async def rewrite() -> None:
        async with open_store(place, server.options) as store:
            await store.write("x", new)

    async def scenario() -> None:
        # So that one range comes after the other.
        options = through(proxy, server, part_bytes=5 * MIB, in_flight_bytes=MIB)
        async with open_store(place, options) as store:
            entry, sums = await sent(store, "x", tmp_path / "up", old)

            def change(request: Request) -> None:
                if request.method == "GET":
                    thread = threading.Thread(target=asyncio.run, args=(rewrite(),))
                    thread.start()
                    thread.join()

            proxy.faults.seen = change
            text = await failing(fetched(store, entry, tmp_path / "down", sums), Reason.CHANGED)
            assert text == f"GetObject {place}/x: the object was changed meanwhile"

    asyncio.run(scenario())


def test_if_match_is_asked_for(
    server: Server, place: Location, proxy: FaultProxy, tmp_path: pathlib.Path
) -> None:
    """A server that knows the condition says 412."""

    def refuse(request: Request) -> bytes | None:
        if request.header("if-match") == '"0123"':
            return s3_error(412, "PreconditionFailed")
        return None

    async def scenario() -> None:
        async with open_store(place, through(proxy, server)) as store:
            await store.write("x", b"abc")
            proxy.faults.answer = refuse
            entry = Entry("x", 3, "0123", 0.0)
            await failing(fetched(store, entry, tmp_path / "down", None), Reason.CHANGED)

    asyncio.run(scenario())


@pytest.mark.parametrize("ours", [True, False])
def test_a_broken_object_is_not_taken_for_whole(
    server: Server,
    place: Location,
    proxy: FaultProxy,
    tmp_path: pathlib.Path,
    *,
    ours: bool,
) -> None:
    """Ours: by the sums of the manifest. Else by the entity tag, where it is an MD5."""
    body = b"spoilt!!"

    async def scenario() -> None:
        async with open_store(place, through(proxy, server)) as store:
            entry, sums = await sent(store, "x", tmp_path / "up", b"original")
            answer = f'HTTP/1.1 200 OK\r\nETag: "{entry.etag}"\r\nContent-Length: 8\r\n\r\n'
            proxy.faults.answer = lambda _: answer.encode() + body
            proxy.faults.counts.clear()
            work = fetched(store, entry, tmp_path / "down", sums if ours else None)
            text = await failing(work, Reason.CORRUPT)
            assert text == f"GetObject {place}/x: its checksum does not hold"
            assert proxy.faults.counts["requests"] == 2

    asyncio.run(scenario())


def test_a_file_that_became_shorter_is_not_sent(
    server: Server, place: Location, tmp_path: pathlib.Path
) -> None:
    async def scenario() -> None:
        path = tmp_path / "file"
        path.write_bytes(os.urandom(6 * MIB))
        async with open_store(place, replace(server.options, part_bytes=7 * MIB)) as store:
            with path.open("rb") as file:
                for size in (7 * MIB, 8 * MIB):
                    work = store.upload("x", file.fileno(), size, moved=Moving())
                    assert "became shorter" in await failing(work, Reason.CHANGED)
            assert await store.head("x") is None
        assert await uploads(server, place) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
def test_a_cancelled_upload_leaves_nothing(
    server: Server, place: Location, proxy: FaultProxy, tmp_path: pathlib.Path, after: int
) -> None:
    """Cancelled when the server has seen so many requests: before, and right after, the upload is
    begun, and between its parts."""
    path = tmp_path / "file"
    path.write_bytes(bytes(20 * MIB))

    async def scenario() -> None:
        proxy.faults.delay_s = 0.02
        options = through(proxy, server, part_bytes=5 * MIB, in_flight_bytes=5 * MIB)
        async with open_store(place, options) as store:
            moving = Moving()
            with path.open("rb") as file:
                task = asyncio.create_task(store.upload("x", file.fileno(), 20 * MIB, moved=moving))
                await wait_until_async(lambda: proxy.faults.counts["requests"] > after)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await store.head("x") is None
            again, sums = await sent(store, "x", path, bytes(20 * MIB))
            assert await fetched(store, again, tmp_path / "down", sums) == bytes(20 * MIB)
        assert await uploads(server, place) == []

    asyncio.run(scenario())


def test_uploads_of_the_killed_are_abandoned(server: Server, place: Location) -> None:
    async def scenario() -> None:
        client = S3Client(server.options)
        api = await client.api(place.bucket)
        for key in ("mine/g/a", "mine/g/b", "theirs/c"):
            await api.create_multipart_upload(Bucket=place.bucket, Key=f"{place.key}/{key}")
        async with open_store(place.child("mine"), server.options) as store:
            assert await store.abandon_partial(3600) == 0
            assert await store.abandon_partial(-60, "g/") == 2
        await client.close()
        assert await uploads(server, place) == [f"{place.key}/theirs/c"]

    asyncio.run(scenario())


# --------------------------------------------------------------------------- faults


def test_a_bad_network_delays_and_no_more(
    server: Server, place: Location, proxy: FaultProxy, tmp_path: pathlib.Path
) -> None:
    """A tenth of the requests fails, some stall, connections are cut in both directions: all
    arrives, byte by byte, and the progress that was told is the truth."""
    content = {f"{n:03}": os.urandom(20_000 + n) for n in range(120)}
    content["large"] = os.urandom(32 * MIB)
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    target = tmp_path / "target"

    async def scenario() -> None:
        options = through(proxy, server, part_bytes=5 * MIB, timeout_s=0.7, retry_s=60)
        faults = proxy.faults
        async with open_store(place, options) as store:
            faults.slow_down = faults.internal = 0.03
            faults.stall = 0.01
            faults.cut_request = faults.cut_answer = 0.04
            there, back = Moving(), Moving()
            files = {name: str(tmp_path / name) for name in content}
            sums = await send_files(store, files, moved=there)
            incoming = [Incoming(it, it.key, sums[it.key]) async for it in store.entries()]
            await fetch_files(store, incoming, str(target), moved=back)
        assert there.bytes == back.bytes == sum(map(len, content.values()))
        for fault in ("slow_down", "internal", "stall", "cut_request", "cut_answer"):
            assert faults.counts[fault], fault

    asyncio.run(scenario())
    assert {path.name: path.read_bytes() for path in target.iterdir()} == content

    async def swept() -> int:
        async with open_store(place, server.options) as store:
            return await store.abandon_partial(-60)

    # An upload whose name was lost with the answer that began it is nobody's: it is swept later.
    begun = asyncio.run(uploads(server, place))
    assert asyncio.run(swept()) == len(begun) < 5
    assert asyncio.run(uploads(server, place)) == []


def test_one_stall_costs_no_more_than_a_moment(
    server: Server,
    place: Location,
    proxy: FaultProxy,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each kind of request the first is never answered. The limit for silence, 30 s by
    default, was waited for each time."""
    for name in ("_FIRST_S", "_LEAST_S"):
        monkeypatch.setattr(patience, name, 0.2)
    monkeypatch.setattr(patience, "_AT_LEAST_S", {})
    met: set[tuple[str, str]] = set()

    def held(request: Request) -> bool:
        kind = request.method, re.sub(r"uploadId=[^&]*|list-type=.*", "", request.target)
        first = kind not in met
        met.add(kind)
        return first

    async def scenario() -> None:
        proxy.faults.held = held
        defaults = Options()
        options = through(
            proxy, server, timeout_s=defaults.timeout_s, retry_s=defaults.retry_s,
            part_bytes=5 * MIB,
        )  # fmt: skip
        async with open_store(place, options) as store, asyncio.timeout(defaults.timeout_s / 2):
            await store.write("small", b"1")
            assert await store.read("small", limit=1) == b"1"
            content = os.urandom(6 * MIB)
            entry, sums = await sent(store, "large", tmp_path / "up", content)
            assert await fetched(store, entry, tmp_path / "down", sums) == content
            assert [each.key async for each in store.entries()] == ["large", "small"]
            await store.delete(["large", "small"])
        assert len(met) >= 9

    asyncio.run(scenario())


def test_a_slow_link_is_no_silent_one(server: Server, place: Location, proxy: FaultProxy) -> None:
    """All of an upload is in the kernel's buffers long before the other side has it: it is sent
    once, however long that takes."""

    async def scenario() -> None:
        proxy.faults.slow_s = 0.2
        async with open_store(place, through(proxy, server)) as store:
            begun = time.monotonic()
            await store.write("x", bytes(MIB))
            assert time.monotonic() - begun > patience._FIRST_S
        assert proxy.faults.counts["requests"] == 1

    asyncio.run(scenario())


def test_an_upload_that_is_being_completed_is_waited_for(
    server: Server,
    place: Location,
    proxy: FaultProxy,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first request was given up, and the server, still at it, knows the upload no more."""
    monkeypatch.setattr(patience, "_AT_LEAST_S", {"CompleteMultipartUpload": 0.2})
    monkeypatch.setattr(patience, "_FIRST_S", 0.2)
    content = os.urandom(6 * MIB)
    completing: list[str] = []
    looks: list[str] = []

    def held(request: Request) -> bool:
        if request.method == "POST" and "uploadId" in request.target:
            completing.append(request.target)
        return len(completing) == 1

    def answer(request: Request) -> bytes | None:
        if len(completing) > 1 and request.method == "POST":
            return s3_error(404, "NoSuchUpload")
        return None

    async def appear() -> None:
        async with open_store(place, server.options) as store:
            await store.write("x", content)

    def seen(request: Request) -> None:
        if request.method == "GET":  # why there was no answer to HEAD
            looks.append(request.target)
            if len(looks) == 1:
                thread = threading.Thread(target=asyncio.run, args=(appear(),))
                thread.start()
                thread.join()

    async def scenario() -> None:
        proxy.faults.held, proxy.faults.answer, proxy.faults.seen = held, answer, seen
        async with open_store(place, through(proxy, server, part_bytes=5 * MIB)) as store:
            entry, sums = await sent(store, "x", tmp_path / "up", content)
            assert (entry.size, len(sums.crcs)) == (6 * MIB, 2)
        assert len(completing) == 2
        assert looks

    asyncio.run(scenario())


def test_a_part_that_was_replaced_is_no_end(
    server: Server, place: Location, proxy: FaultProxy, tmp_path: pathlib.Path
) -> None:
    """By a request that was given up and went on all the same: what was sent last is not what
    the server has. Seen with rclone on a busy machine."""
    refused: list[str] = []
    most = 1

    def answer(request: Request) -> bytes | None:
        if request.method == "POST" and "uploadId" in request.target and len(refused) < most:
            refused.append(request.target)
            return s3_error(400, "InvalidPart")
        return None

    async def scenario() -> None:
        proxy.faults.answer = answer
        content = os.urandom(6 * MIB)
        async with open_store(place, through(proxy, server, part_bytes=5 * MIB)) as store:
            entry, sums = await sent(store, "x", tmp_path / "up", content)
            assert await fetched(store, entry, tmp_path / "down", sums) == content
            nonlocal most
            most = 9
            text = await failing(sent(store, "x", tmp_path / "up", content), Reason.CORRUPT)
            assert "InvalidPart" in text
        assert len(refused) == 3
        assert await uploads(server, place) == []

    asyncio.run(scenario())


def test_a_range_goes_on_where_it_broke_off(
    server: Server, place: Location, proxy: FaultProxy, tmp_path: pathlib.Path
) -> None:
    content = os.urandom(4 * MIB)
    asked: list[str] = []

    async def scenario() -> None:
        async with open_store(place, through(proxy, server)) as store:
            entry, _ = await sent(store, "x", tmp_path / "up", content)
            proxy.faults.cut_answer = 1.0

            def note(request: Request) -> bytes | None:
                asked.append(request.header("range"))
                if len(asked) > 1:
                    proxy.faults.cut_answer = 0.0
                return None

            proxy.faults.answer = note
            # The fault of a request is drawn before this: the second one's answer is cut too.
            assert await fetched(store, entry, tmp_path / "down", None) == content

    asyncio.run(scenario())
    assert asked[0] == ""
    begins = [int(it.removeprefix("bytes=").partition("-")[0]) for it in asked[1:]]
    assert len(begins) == 2
    assert 0 < begins[0] < begins[1] < len(content)


SENTENCES: dict[str, tuple[bytes, Reason, str]] = {
    "denied": (
        s3_error(403, "AccessDenied", "Access Denied"),
        Reason.DENIED,
        r"PutObject s3://\S+/x: AccessDenied \(Access Denied\); needs s3:PutObject on arn:\S+/\*",
    ),
    "kms": (
        s3_error(403, "AccessDenied", "User is not authorized to perform: kms:GenerateDataKey"),
        Reason.DENIED,
        r"PutObject .*; needs kms:GenerateDataKey on the key of the bucket",
    ),
    "clock": (
        s3_error(
            403, "RequestTimeTooSkewed", "The difference is too large.",
            headers="Date: Mon, 01 Jan 2001 00:00:00 GMT\r\n",
        ),
        Reason.CLOCK,
        r"PutObject .*Skewed .*: this host's clock is \d{8,} s ahead of the server's; set this .*",
    ),
    "expired": (
        s3_error(400, "ExpiredToken", "The provided token has expired."),
        Reason.CREDENTIALS,
        r"PutObject .*ExpiredToken .*; the credentials ran out \(tried 2 times in \d+ s\)",
    ),
    "bucket": (
        s3_error(404, "NoSuchBucket", "The specified bucket does not exist"),
        Reason.NO_BUCKET,
        r"PutObject .*NoSuchBucket .*; make the bucket bucket or correct its name",
    ),
    "elsewhere": (
        s3_error(301, "PermanentRedirect", "The bucket is elsewhere."),
        Reason.SERVER,
        r"PutObject .*PermanentRedirect .*; name the bucket's region and endpoint",
    ),
    "throttled": (
        s3_error(503, "SlowDown", "Please reduce your request rate."),
        Reason.THROTTLED,
        r"PutObject .*SlowDown .*; the server asks for fewer .* \(tried \d+ times in \d s\)",
    ),
    "broken": (INTERNAL, Reason.SERVER, r"PutObject .*InternalError .*\(tried \d+ times .*"),
    "no s3": (
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 13\r\n\r\n<html>no</htm",
        Reason.SERVER,
        r"PutObject s3://\S+: (502|status 502).*",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SENTENCES)
def test_what_does_not_pass_is_one_sentence(
    server: Server, place: Location, proxy: FaultProxy, name: str
) -> None:
    answer, reason, sentence = SENTENCES[name]

    async def scenario() -> None:
        proxy.faults.answer = lambda _: answer
        async with open_store(place, through(proxy, server, retry_s=0.5)) as store:
            text = await failing(store.write("x", b"1"), reason)
            assert re.fullmatch(sentence, text), text
            # The same by the other way, through the client's API.
            with pytest.raises(StorageError) as caught:
                _ = [entry async for entry in store.entries()]
            assert caught.value.reason is reason

    asyncio.run(scenario())


def test_a_denied_look_says_that_it_may_not_be_there(
    server: Server, place: Location, proxy: FaultProxy
) -> None:
    async def scenario() -> None:
        proxy.faults.answer = lambda _: s3_error(403, "AccessDenied", "Access Denied")
        async with open_store(place, through(proxy, server)) as store:
            text = await failing(store.head("x"), Reason.DENIED)
            assert text.startswith(f"HeadObject {place}/x: AccessDenied (Access Denied); ")
            assert "without s3:ListBucket on" in text

    asyncio.run(scenario())


def test_silence_and_no_server_are_named(
    server: Server, place: Location, proxy: FaultProxy
) -> None:
    async def scenario() -> None:
        proxy.faults.stall = 1.0
        async with open_store(place, through(proxy, server, retry_s=0.1, timeout_s=0.2)) as store:
            text = await failing(store.write("x", b"1"), Reason.UNREACHABLE)
            assert text.startswith(f"PutObject {place}/x: ")
        nowhere = replace(server.options, endpoint="http://127.0.0.1:1", retry_s=0.1)
        async with open_store(place, nowhere) as store:
            text = await failing(store.write("x", b"1"), Reason.UNREACHABLE)
            assert "http://127.0.0.1:1" in text

    asyncio.run(scenario())


def test_a_bucket_of_another_region_is_followed(
    server: Server, place: Location, proxy: FaultProxy
) -> None:
    """As AWS answers: 301 with the region as a header, 400 with it in the body."""
    answers = [
        s3_error(301, "PermanentRedirect", headers="x-amz-bucket-region: eu-west-3\r\n"),
        s3_error(400, "AuthorizationHeaderMalformed", extra="<Region>eu-west-3</Region>"),
    ]

    async def scenario(answer: bytes) -> None:
        scopes = []

        def elsewhere(request: Request) -> bytes | None:
            scopes.append(request.header("authorization").split("/")[2])
            return answer if scopes[-1] != "eu-west-3" else None

        proxy.faults.answer = elsewhere
        async with open_store(place, through(proxy, server)) as store:
            await store.write("x", b"1")
            await store.write("y", b"1")
            assert [entry.key async for entry in store.entries()] == ["x", "y"]
        assert scopes == ["us-east-1", "eu-west-3", "eu-west-3", "eu-west-3"]

    for answer in answers:
        asyncio.run(scenario(answer))


def test_a_bucket_says_where_it_is(
    server: Server, place: Location, mock: Server, proxy: FaultProxy
) -> None:
    async def region(where: Location, options: Options) -> str:
        async with open_store(where, options) as store:
            return await store.region()

    async def scenario() -> None:
        async with AioSession().create_client(
            "s3", endpoint_url=mock.url, region_name="eu-west-1"
        ) as api:
            there = {"LocationConstraint": "eu-west-1"}
            await api.create_bucket(Bucket="europe", CreateBucketConfiguration=there)
        assert await region(Location.parse("s3://europe/models"), mock.options) == "eu-west-1"
        assert await region(place, server.options) == "", "not every server says it"
        named = "x-amz-bucket-region: eu-west-3\r\n"
        proxy.faults.answer = lambda _: s3_error(403, "AccessDenied", headers=named)
        assert await region(place, through(proxy, server)) == "eu-west-3", "not even to look at"
        proxy.faults.answer = lambda _: s3_error(403, "AccessDenied")
        with pytest.raises(StorageError, match=f"HeadBucket s3://{BUCKET}/: .*needs s3:ListBucket"):
            await region(place, through(proxy, server))

    asyncio.run(scenario())


# --------------------------------------------------------------------------- credentials


@contextlib.contextmanager
def credential_server(answer: Callable[[], dict[str, str]]) -> Iterator[str]:
    """As containers have one: its answers are JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}/creds"
        finally:
            httpd.shutdown()
            thread.join()


@pytest.mark.parametrize("lifetime_s", [3600, 30])
def test_credentials_that_run_out_are_replaced(
    server: Server,
    place: Location,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    lifetime_s: int,
) -> None:
    """Those that say so before they do (30 s are fewer than the provider waits), and those that
    the server refuses long before their time."""
    asked: list[int] = []
    revoked = threading.Event()

    def answer() -> dict[str, str]:
        asked.append(1)
        key, secret = (OTHER_KEY, OTHER_SECRET) if revoked.is_set() else (KEY, SECRET)
        until = datetime.now(UTC) + timedelta(seconds=3600 if revoked.is_set() else lifetime_s)
        return {
            "AccessKeyId": key,
            "SecretAccessKey": secret,
            "Token": "a-token",
            "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def refuse(request: Request) -> bytes | None:
        if revoked.is_set() and f"/{KEY}/" in request.header("authorization").replace("=", "/"):
            return s3_error(400, "ExpiredToken", "The provided token has expired.")
        return None

    async def scenario() -> None:
        proxy.faults.answer = refuse
        async with open_store(place, through(proxy, server)) as store:
            await store.write("x", b"1")
            revoked.set()
            async with asyncio.TaskGroup() as group:
                for number in range(10):
                    group.create_task(store.write(f"{number}", b"1"))
            assert len([entry async for entry in store.entries()]) == 11
            assert await store.head("x") is not None

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with credential_server(answer) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        asyncio.run(scenario())
    assert len(asked) >= 2


def test_without_credentials_there_is_one_sentence(
    server: Server, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with open_store(place, server.options) as store:
            text = await failing(store.write("x", b"1"), Reason.CREDENTIALS)
            assert text.startswith(f"PutObject {place}/x: no credentials were found; give the job")

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    asyncio.run(scenario())


def test_a_wrong_secret_is_told(
    server: Server, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with open_store(place, server.options) as store:
            text = await failing(store.write("x", b"1"), Reason.CREDENTIALS)
            assert "SignatureDoesNotMatch" in text

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    asyncio.run(scenario())


# --------------------------------------------------------------------------- options


def test_options_reach_the_server(
    server: Server, place: Location, proxy: FaultProxy, tmp_path: pathlib.Path
) -> None:
    """On both ways: an object of one part, and one of several."""
    seen: list[Request] = []

    def note(request: Request) -> bytes | None:
        seen.append(request)
        return None

    async def scenario() -> None:
        proxy.faults.answer = note
        options = through(
            proxy, server, part_bytes=5 * MIB, encryption="aws:kms", kms_key="alias/k",
            storage_class="STANDARD_IA", requester_pays=True,
        )  # fmt: skip
        async with open_store(place, options) as store:
            await store.write("x", b"1")
            await sent(store, "y", tmp_path / "up", bytes(6 * MIB))
        begun = [it for it in seen if "uploads" in it.target or it.target.endswith("/x")]
        assert len(begun) == 2
        for request in begun:
            assert request.header("x-amz-server-side-encryption") == "aws:kms"
            assert request.header("x-amz-server-side-encryption-aws-kms-key-id") == "alias/k"
            assert request.header("x-amz-storage-class") == "STANDARD_IA"
        assert all(it.header("x-amz-request-payer") == "requester" for it in seen)
        assert all(it.header("authorization") for it in seen)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("options", "bucket", "base", "region"),
    [
        (Options(region="eu-west-1"), "b-1", "https://b-1.s3.eu-west-1.amazonaws.com", "eu-west-1"),
        (Options(region="us-east-1"), "b-1", "https://b-1.s3.amazonaws.com", "us-east-1"),
        (
            Options(region="eu-west-1", addressing="path"),
            "b-1",
            "https://s3.eu-west-1.amazonaws.com/b-1",
            "eu-west-1",
        ),
        (
            Options(region="eu-west-1"),
            "dotted.name",
            "https://s3.eu-west-1.amazonaws.com/dotted.name",
            "eu-west-1",
        ),
        (
            Options(region="eu-west-1"),
            "arn:aws:s3:us-west-2:123456789012:accesspoint/ap",
            "https://ap-123456789012.s3-accesspoint.us-west-2.amazonaws.com",
            "us-west-2",
        ),
        (Options(endpoint="http://h:9/sub"), "b-1", "http://h:9/sub/b-1", "us-east-1"),
        (
            Options(endpoint="http://h.org:9", addressing="virtual"),
            "b-1",
            "http://b-1.h.org:9",
            "us-east-1",
        ),
    ],
)
def test_buckets_have_the_addresses_that_the_endpoint_rules_give_them(
    options: Options, bucket: str, base: str, region: str
) -> None:
    async def scenario() -> None:
        client = S3Client(options)
        try:
            place = await client._place(await client._regional(bucket), bucket)
        finally:
            await client.close()
        assert (place.base, place.region, place.service) == (base, region, "s3")
        assert client.secure is base.startswith("https:")

    asyncio.run(scenario())


def test_tls_protects_contents_and_is_checked(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contents are not hashed for the signature then; a server that is not trusted is no server."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    argv = [
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)

    async def scenario(server: Server) -> None:
        options = replace(server.options, part_bytes=5 * MIB, retry_s=1)
        content = os.urandom(6 * MIB)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        async with open_store(server.place(), options) as store:
            entry, sums = await sent(store, "x", tmp_path / "up", content)
            assert await fetched(store, entry, tmp_path / "down", sums) == content
        monkeypatch.delenv("AWS_CA_BUNDLE")
        async with open_store(server.place(), options) as store:
            text = await failing(store.write("x", b"1"), Reason.UNREACHABLE)
            assert text.endswith("AWS_CA_BUNDLE names who is trusted")

    with rclone(tmp_path, certificate, key) as server:
        asyncio.run(scenario(server))


def test_uploads_and_downloads_do_not_wait_for_each_other(
    server: Server, place: Location, tmp_path: pathlib.Path
) -> None:
    """More of both at once than there are connections or memory for."""

    async def scenario() -> None:
        options = replace(server.options, part_bytes=5 * MIB, in_flight_bytes=MIB)
        async with open_store(place, options) as store:
            entry, sums = await sent(store, "x", tmp_path / "x", bytes(300_000))
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                for number in range(60):
                    up, down = tmp_path / f"up{number}", tmp_path / f"down{number}"
                    group.create_task(sent(store, f"{number}", up, bytes(300_000)))
                    group.create_task(fetched(store, entry, down, sums))

    asyncio.run(scenario())


def test_anonymous_requests_are_not_signed(
    server: Server, place: Location, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        signed: list[str] = []

        def note(request: Request) -> bytes:
            signed.append(request.header("authorization"))
            return s3_error(403, "AccessDenied")

        proxy.faults.answer = note
        async with open_store(place, through(proxy, server, anonymous=True)) as store:
            await failing(store.read("x", limit=1), Reason.DENIED)
            await failing(store.delete(["x"]), Reason.DENIED)
        assert signed == ["", ""]

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    asyncio.run(scenario())


def test_the_bandwidth_is_kept(server: Server, place: Location, tmp_path: pathlib.Path) -> None:
    async def scenario() -> float:
        options = replace(server.options, bandwidth_bytes_s=4 * MIB)
        async with open_store(place, options) as store:
            begun = time.monotonic()
            entry, sums = await sent(store, "x", tmp_path / "up", bytes(2 * MIB))
            await fetched(store, entry, tmp_path / "down", sums)
            return time.monotonic() - begun

    # 4 MiB there and back at 4 MiB a second, less the burst.
    assert asyncio.run(scenario()) > 0.7


def test_memory_is_given_in_order_and_given_back() -> None:
    """Nobody overtakes a large request, and one that is cancelled lets the next ones through."""

    async def scenario() -> None:
        memory, order = Memory(10), []

        async def user(name: str, size: int) -> None:
            async with memory.hold(size):
                order.append(name)
                await asyncio.sleep(0)

        async with memory.hold(4):
            tasks = []
            for name, size in (("whole", 99), ("cancelled", 8), ("small", 1)):
                tasks.append(asyncio.create_task(user(name, size)))
                await asyncio.sleep(0)
            assert order == []
            tasks[1].cancel()
        await asyncio.wait(tasks)
        assert order == ["whole", "small"]
        assert (memory.used, memory.highest) == (0, 10)

    asyncio.run(scenario())


# --------------------------------------------------------------------------- the local disk


def test_a_full_disk_is_known_before_anything_is_fetched(
    server: Server, place: Location, tmp_path: pathlib.Path
) -> None:
    """A limit on the size of files stands for the disk's."""

    async def scenario() -> None:
        async with open_store(place, server.options) as store:
            entry, sums = await sent(store, "x", tmp_path / "up", bytes(9 * MIB))
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
            try:
                work = fetched(store, entry, tmp_path / "down", sums)
                text = await failing(work, Reason.LOCAL)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert text.startswith(f"GetObject {place}/x ({9 * MIB} bytes): File too large; ")

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "a//b", ".", ""])
def test_no_object_becomes_a_file_elsewhere(
    server: Server, place: Location, tmp_path: pathlib.Path, name: str
) -> None:
    async def scenario() -> None:
        async with open_store(place, server.options) as store:
            await store.write("x", b"1")
            entry = await store.head("x")
            assert entry is not None
            target = tmp_path / "a" / "b"
            work = fetch_files(store, [Incoming(entry, name)], str(target), moved=Moving())
            assert "no name of a file" in await failing(work, Reason.LOCAL)
            (target / "link").symlink_to(tmp_path)
            work = fetch_files(store, [Incoming(entry, "link/x")], str(target), moved=Moving())
            await failing(work, Reason.NOT_FOUND)

    asyncio.run(scenario())
    assert sorted(it.name for it in tmp_path.rglob("*")) == ["a", "b", "link"]


MEMORY = """
import asyncio, os, sys
from supervisor.storage.job import Options
from supervisor.storage.location import Location
from supervisor.storage.places import open_store

def mib(what):
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if what in line)

async def main():
    url, place, path, size = *sys.argv[1:4], int(sys.argv[4])
    options = Options(endpoint=url, region="us-east-1", addressing="path")
    async with open_store(Location.parse(place), options) as store:
        await store.write("small", b"1")
        idle = mib("VmRSS")
        fd = os.open(path, os.O_RDWR)
        sums = await store.upload("x", fd, size, moved=lambda count: None)
        entry = await store.head("x")
        os.ftruncate(fd, 0)
        await store.download(entry, fd, sums=sums, moved=lambda count: None)
        print(idle, mib("VmHWM"))

asyncio.run(main())
"""


def test_memory_of_a_transfer_is_bounded(
    server: Server, place: Location, tmp_path: pathlib.Path
) -> None:
    size = 120 * MIB
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(size)
    argv = [sys.executable, "-c", MEMORY, server.url, str(place), str(path), str(size)]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    idle, highest = map(int, done.stdout.split())
    assert highest - idle < 100, (idle, highest)
    assert path.stat().st_size == size
