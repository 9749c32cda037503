"""Content to a bucket: in one request, or as an upload in parts."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import mmap
import os
import zlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

from supervisor.storage.flow import Flow, taken_back, together
from supervisor.storage.job import Options
from supervisor.storage.parts import Part, parts
from supervisor.storage.patience import Patience
from supervisor.storage.s3_client import Content, Doing
from supervisor.storage.s3_place import (
    AT_ONCE,
    IN_TRANSIT,
    PARTS_AT_ONCE,
    S3Place,
    local,
    server_time,
)
from supervisor.storage.store import Check, Moved, Reason, StorageError, Sums

_ABORT_S: Final = 10.0
"""Longest time to give up an upload after a cancellation; what is left then is swept later."""
_COMPLETING_S: Final = 0.5
"""Between looks at an object that the server may be putting together."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What is sent by one request."""

    view: memoryview
    crc: int
    sha256: str
    """In hex; empty: not needed."""


class Puts:
    """Requests that send content: an object, or a part of one."""

    def __init__(self, place: S3Place, flow: Flow) -> None:
        self.place = place
        self._client = place.client
        self._flow = flow

    async def put(
        self,
        doing: Doing,
        key: str,
        piece: Piece,
        query: dict[str, str],
        moved: Moved,
        *,
        only_new: bool = False,
    ) -> str:
        """Send one object or one part; its entity tag. ``only_new``: ``CHANGED`` where there is
        one (Amazon S3 User Guide, "How to prevent object overwrites with conditional writes")."""
        headers = {"x-amz-checksum-crc32": _base64_crc(piece.crc)}
        if not query:
            headers |= _kept_as_headers(self.place.options)
        if only_new:
            headers["If-None-Match"] = "*"
        counted = 0

        async def before_slice(offset: int, size: int) -> None:
            nonlocal counted
            await self._flow.bandwidth.take(size)
            moved(offset + size - counted)
            counted = offset + size

        async def attempt(patience: Patience) -> str:
            with Content(piece.view, patience, before_slice) as content:
                try:
                    async with self.place.send(
                        patience, "PUT", key, query=query, headers=headers, body=content,
                        sha256=piece.sha256,
                    ) as answer:  # fmt: skip
                        return answer.headers.get("ETag", "")
                except ClientError as error:
                    if only_new and _knows_no_conditions(error.response):
                        text = f"{doing}: the server takes no If-None-Match"
                        raise StorageError(Reason.UNCONDITIONAL, text) from None
                    raise

        async with self._client.slots:
            return await self._client.tried(doing, attempt)

    @contextlib.asynccontextmanager
    async def piece(self, doing: Doing, fd: int, part: Part) -> AsyncIterator[Piece]:
        """A part of a file in memory."""
        async with self._flow.memory.hold(part.size):
            content = _cached(fd, part) if part.size <= AT_ONCE else None
            if content is not None:
                yield self.piece_of(content)
                return

            def filled(view: memoryview) -> Piece:
                size = 0
                while size < part.size:
                    count = os.preadv(fd, [view[size:]], part.offset + size)
                    if not count:
                        raise StorageError(Reason.CHANGED, f"{doing}: the file became shorter")
                    size += count
                return self.piece_of(view)

            yield await local(doing, filled, _buffer(part.size))

    def piece_of(self, content: bytes | memoryview) -> Piece:
        """With its CRC-32, and SHA-256 where the signature has to protect it: without TLS."""
        sha256 = "" if self._client.secure else hashlib.sha256(content).hexdigest()
        return Piece(memoryview(content), zlib.crc32(content), sha256)


class Multipart:
    """A file under one key, as an upload in parts."""

    def __init__(self, puts: Puts, key: str, fd: int, size: int, part_bytes: int) -> None:
        self._puts = puts
        self._place = puts.place
        self._key = key
        self._fd = fd
        self._size = size
        self._part_bytes = part_bytes

    async def run(self, moved: Moved, check: Check) -> Sums:
        """A request that was given up may still be going on, and replace the part that was sent
        after it by one with another entity tag; then the whole has to be sent anew."""
        left = IN_TRANSIT
        while True:
            left -= 1
            try:
                with taken_back(moved) as told:
                    return Sums(self._part_bytes, await self._send_all(told, check))
            except StorageError as error:
                if error.reason is not Reason.CORRUPT or not left:
                    raise

    async def _send_all(self, moved: Moved, check: Check) -> tuple[int, ...]:
        doing = self._place.doing("UploadPart", self._key)
        waiting = parts(self._size, self._part_bytes)
        sent: dict[int, tuple[str, int]] = {}

        async def send_part(upload: str, part: Part) -> None:
            query = {"partNumber": str(part.number + 1), "uploadId": upload}
            async with self._puts.piece(doing, self._fd, part) as piece:
                etag = await self._puts.put(doing, self._key, piece, query, moved)
            sent[part.number] = etag, piece.crc

        async def send_parts(upload: str) -> None:
            for part in waiting:
                # A function of its own: its variables must not keep a part while we wait for the
                # next one's share of the memory.
                await send_part(upload, part)

        async with self._begun() as (upload, begun_at):
            count = min(PARTS_AT_ONCE, -(-self._size // self._part_bytes))
            await together(send_parts(upload) for _ in range(count))
            check()
            in_order = [sent[number] for number in sorted(sent)]
            await self._complete(upload, in_order, begun_at)
        return tuple(sent[number][1] for number in sorted(sent))

    @contextlib.asynccontextmanager
    async def _begun(self) -> AsyncIterator[tuple[str, float]]:
        """A begun upload and when it was, by the server's clock. Given up if the block fails."""
        doing = self._place.doing("CreateMultipartUpload", self._key)
        # A cancellation must not leave an upload whose name we never learn.
        begun = asyncio.ensure_future(
            self._place.call(
                doing, "create_multipart_upload", Key=self._place.key(self._key),
                ChecksumAlgorithm="CRC32", **_kept_as(self._place.options),
            )
        )  # fmt: skip
        try:
            answer = await asyncio.shield(begun)
            yield str(answer["UploadId"]), server_time(answer)
        except BaseException:
            await _bounded(self._abort(begun), _ABORT_S)
            raise

    async def _abort(self, begun: asyncio.Future[dict[str, Any]]) -> None:
        doing = self._place.doing("AbortMultipartUpload", self._key)
        with contextlib.suppress(StorageError):
            upload = (await begun)["UploadId"]
            key = self._place.key(self._key)
            await self._place.call(doing, "abort_multipart_upload", Key=key, UploadId=upload)

    async def _complete(self, upload: str, sent: list[tuple[str, int]], begun_at: float) -> None:
        listed = [
            {"PartNumber": number, "ETag": etag, "ChecksumCRC32": _base64_crc(crc)}
            for number, (etag, crc) in enumerate(sent, 1)
        ]
        tries = 0

        async def attempt(patience: Patience) -> None:
            nonlocal tries
            tries += 1
            await self._place.ask(
                patience, "complete_multipart_upload", Key=self._place.key(self._key),
                UploadId=upload, MultipartUpload={"Parts": listed},
            )  # fmt: skip

        try:
            doing = self._place.doing("CompleteMultipartUpload", self._key)
            await self._place.client.tried(doing, attempt)
        except StorageError as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
            # An attempt whose answer did not arrive may have completed it, or be at it still.
            now = asyncio.get_running_loop().time
            until_s = now() + (self._place.options.timeout_s if tries > 1 else 0.0)
            while not await self._completed(begun_at):
                if now() >= until_s:
                    raise
                await asyncio.sleep(_COMPLETING_S)

    async def _completed(self, begun_at: float) -> bool:
        found = await self._place.head(self._key)
        return found is not None and found.size == self._size and found.modified_at >= begun_at


def _knows_no_conditions(answer: Mapping[str, Any]) -> bool:
    """What servers say that do not have them. Had it another reason, the same without a condition
    fails as well, and says why."""
    status = answer["ResponseMetadata"].get("HTTPStatusCode", 0)
    code = answer.get("Error", {}).get("Code", "")
    return status == 501 or (status == 400 and code in _UNKNOWN_HEADER)


_UNKNOWN_HEADER: Final = {
    "NotImplemented", "InvalidArgument", "InvalidRequest", "InvalidHeader", "BadRequest",
}  # fmt: skip


def _kept_as(options: Options) -> dict[str, str]:
    """How the server is to keep what is sent, in the words of the API."""
    words = {
        "ServerSideEncryption": options.encryption,
        "SSEKMSKeyId": options.kms_key,
        "StorageClass": options.storage_class,
    }
    return {word: value for word, value in words.items() if value}


def _kept_as_headers(options: Options) -> dict[str, str]:
    words = {
        "x-amz-server-side-encryption": options.encryption,
        "x-amz-server-side-encryption-aws-kms-key-id": options.kms_key,
        "x-amz-storage-class": options.storage_class,
    }
    return {word: value for word, value in words.items() if value}


def _base64_crc(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _buffer(size: int) -> memoryview:
    """Memory that is really given back with its last reference: what malloc keeps of freed parts
    in the arenas of its threads came to twice what was in use."""
    return memoryview(mmap.mmap(-1, size or 1))[:size]


def _cached(fd: int, part: Part) -> bytes | None:
    """A small part without a thread's help, if that needs no waiting for a disk."""
    content = bytearray(part.size)
    try:
        count = os.preadv(fd, [content], part.offset, os.RWF_NOWAIT)
    except OSError:  # not in the cache, or a file system that does not say
        return None
    return bytes(content) if count == part.size else None


async def _bounded(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Do this to its end, or for so long. A cancellation meanwhile comes through afterwards."""
    task = asyncio.ensure_future(work)
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and (left_s := deadline - now()) > 0:
        try:
            await asyncio.wait((task,), timeout=left_s)
        except asyncio.CancelledError as error:
            cancelled = error
    task.cancel()
    if cancelled is not None:
        raise cancelled
