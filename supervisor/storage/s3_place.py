"""A place in a bucket: its keys, and one request after another to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Final, ParamSpec, TypeVar

import aiohttp
from botocore.exceptions import ClientError

from supervisor.storage.files import raise_local
from supervisor.storage.flow import in_thread
from supervisor.storage.location import Location
from supervisor.storage.patience import Patience
from supervisor.storage.s3_client import Doing, S3Client
from supervisor.storage.store import Entry, Reason, StorageError

T = TypeVar("T")
P = ParamSpec("P")

AT_ONCE: Final = 64 << 10
"""Bytes that are read or written without a thread, where the page cache has them."""
PARTS_AT_ONCE: Final = 16
"""Of one object."""
IN_TRANSIT: Final = 2
"""So often a part is fetched whose checksum does not hold, and a file is sent of which a part is
another: it may have been broken on the way."""


class S3Place:
    """Everything below ``location``, as the client is asked for it. Keys are relative to it."""

    def __init__(self, location: Location, client: S3Client) -> None:
        self.location = location
        self.client = client
        self.options = client.options
        self.bucket = location.bucket

    def key(self, key: str) -> str:
        """As the bucket has it."""
        return self.location.child(key).key if key else self.location.key

    def doing(self, operation: str, key: str) -> Doing:
        return Doing(operation, self.bucket, self.key(key))

    async def ask(self, patience: Patience, method: str, **asked: Any) -> dict[str, Any]:
        """One attempt at a call of the API."""
        payer = {"RequestPayer": "requester"} if self.options.requester_pays else {}
        return await self.client.ask(
            patience, self.bucket, method, Bucket=self.bucket, **asked, **payer
        )

    async def call(self, doing: Doing, method: str, **asked: Any) -> dict[str, Any]:
        """A call of the API, tried again as the client sees fit."""

        async def attempt(patience: Patience) -> dict[str, Any]:
            return await self.ask(patience, method, **asked)

        return await self.client.tried(doing, attempt)

    def send(
        self, patience: Patience, method: str, key: str, *, headers: dict[str, str], **more: Any
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """One attempt at a request for an object's content, see `S3Client.send`."""
        return self.client.send(
            patience, method, self.bucket, self.key(key), headers=headers, **more
        )

    async def head(self, key: str) -> Entry | None:
        doing = self.doing("HeadObject", key)

        async def attempt(patience: Patience) -> Entry:
            try:
                return await self._looked(patience, "HEAD", key)
            except ClientError:
                # An answer to HEAD has no body: why it failed is told to GET only.
                return await self._looked(patience, "GET", key)

        try:
            return await self.client.tried(doing, attempt)
        except StorageError as error:
            if error.reason is Reason.NOT_FOUND:
                return None
            raise

    async def _looked(self, patience: Patience, method: str, key: str) -> Entry:
        headers = {"Range": "bytes=0-0"} if method == "GET" else {}
        async with self.send(patience, method, key, headers=headers) as answer:
            span = answer.headers.get("Content-Range", "")
            size = span.rpartition("/")[2] if span else answer.headers.get("Content-Length", "")
            if not size.isdigit():
                doing = self.doing("HeadObject", key)
                raise StorageError(Reason.SERVER, f"{doing}: the answer names no size")
            etag = answer.headers.get("ETag", "").strip('"')
            return Entry(key, int(size), etag, _time(answer.headers.get("Last-Modified", "")))


def server_time(answer: dict[str, Any]) -> float:
    """When an answer was given."""
    return _time(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))


def _time(date: str) -> float:
    """In seconds since the epoch; 0: it is not said."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return 0.0


async def next_bytes(answer: aiohttp.ClientResponse, patience: Patience) -> bytes:
    """What has come since; nothing at the end."""
    content = answer.content
    try:
        if content.at_eof():
            return b""
        if come := content.read_nowait():
            return come
        async with patience:
            return await content.readany()
    except RuntimeError as error:  # so aiohttp says that the connection ended in the meantime
        raise aiohttp.ClientPayloadError(str(error)) from error


async def local(doing: Doing, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``call(…)`` in a thread; the local disk's errors as ours."""
    try:
        return await in_thread(call, *args, **kwargs)
    except OSError as error:
        raise_local(str(doing), error)
