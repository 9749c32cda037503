"""Objects below a prefix of a bucket, at any server that speaks S3."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import mmap
import os
import re
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Final, ParamSpec, TypeVar

import aiohttp
from botocore.exceptions import ClientError

from supervisor.storage.files import preallocate, raise_local
from supervisor.storage.flow import Flow, in_thread, taken_back, together
from supervisor.storage.location import Location
from supervisor.storage.parts import Part, part_bytes_for, parts
from supervisor.storage.patience import Patience
from supervisor.storage.s3_client import Content, Doing, S3Client
from supervisor.storage.store import (
    Check,
    Entry,
    Moved,
    Reason,
    StorageError,
    Sums,
    unchecked,
)

T = TypeVar("T")
P = ParamSpec("P")

_ABORT_S: Final = 10.0
"""Longest time to give up an upload after a cancellation; what is left then is swept later."""
_AT_ONCE: Final = 64 << 10
"""Bytes that are read or written without a thread, where the page cache has them."""
_COMPLETING_S: Final = 0.5
"""Between looks at an object that the server may be putting together."""
_BUFFER: Final = 1 << 20
"""Bytes of an object that are gathered before they are written."""
_PARTS_AT_ONCE: Final = 16
"""Of one object."""
_RANGE: Final = 8 << 20
"""Bytes that are asked for at once, of an object without checksums of ours."""
_IN_TRANSIT: Final = 2
"""So often a part is fetched whose checksum does not hold, and a file is sent of which a part is
another: it may have been broken on the way."""
_DELETE_BATCH: Final = 1000
"""Keys; the most that a request takes."""


class S3Store:
    def __init__(self, location: Location, client: S3Client, flow: Flow) -> None:
        self._location = location
        self._client = client
        self._flow = flow
        self._options = client.options
        self._bucket = location.bucket

    @property
    def location(self) -> Location:
        return self._location

    async def close(self) -> None:
        """The client belongs to all stores."""

    # ------------------------------------------------------------------- small things

    async def entries(self, prefix: str = "") -> AsyncIterator[Entry]:
        base = f"{self._location.key}/" if self._location.key else ""
        asked: dict[str, Any] = {"Bucket": self._bucket, "Prefix": base + prefix, **self._payer()}
        doing = Doing("ListObjectsV2", self._bucket, base + prefix)
        while True:
            page = await self._call(doing, "list_objects_v2", **asked)
            for row in page.get("Contents", ()):
                key = row["Key"].removeprefix(base)
                if not key or (key.endswith("/") and not row["Size"]):
                    continue  # what consoles make to show a folder
                etag = row.get("ETag", "").strip('"')
                yield Entry(key, row["Size"], etag, row["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page.get("NextContinuationToken", "")
            if not asked["ContinuationToken"]:
                raise StorageError(Reason.SERVER, f"{doing}: the listing breaks off")

    async def head(self, key: str) -> Entry | None:
        doing = self._doing("HeadObject", key)

        async def attempt(patience: Patience) -> Entry:
            try:
                return await self._looked(patience, "HEAD", key)
            except ClientError:
                # An answer to HEAD has no body: why it failed is told to GET only.
                return await self._looked(patience, "GET", key)

        try:
            return await self._client.tried(doing, attempt)
        except StorageError as error:
            if error.reason is Reason.NOT_FOUND:
                return None
            raise

    async def read(self, key: str, *, limit: int) -> bytes:
        doing = self._doing("GetObject", key)

        async def attempt(patience: Patience) -> bytes:
            async with self._client.send(
                patience, "GET", self._bucket, self._key(key), headers={}
            ) as answer:
                if (answer.content_length or 0) > limit:
                    raise StorageError(Reason.CORRUPT, f"{doing}: larger than {limit} bytes")
                content = bytearray()
                while piece := await _next(answer, patience):
                    content += piece
                    if len(content) > limit:
                        raise StorageError(Reason.CORRUPT, f"{doing}: larger than {limit} bytes")
                return bytes(content)

        async with self._client.slots:
            return await self._client.tried(doing, attempt)

    async def write(self, key: str, content: bytes) -> None:
        piece = _Piece(memoryview(content), *self._hashes(content))
        await self._put(self._doing("PutObject", key), key, piece, {}, _unmoved)

    async def delete(self, keys: Sequence[str]) -> None:
        waiting = iter(keys)
        while batch := list(islice(waiting, _DELETE_BATCH)):
            await self._delete(batch)

    async def region(self) -> str:
        async def attempt(patience: Patience) -> str:
            try:
                answer = await self._client.ask(
                    patience, self._bucket, "head_bucket", Bucket=self._bucket
                )
            except ClientError as error:
                if region := _region(error.response):
                    return region  # whoever may not look at a bucket is told where it is
                raise
            return _region(answer)

        return await self._client.tried(Doing("HeadBucket", self._bucket, ""), attempt)

    async def abandon_partial(self, older_s: float, prefix: str = "") -> int:
        found = 0
        base = self._location.child(prefix).key if prefix else f"{self._location.key}/".lstrip("/")
        asked: dict[str, Any] = {"Bucket": self._bucket, "Prefix": base}
        listing = Doing("ListMultipartUploads", self._bucket, base)
        aborting = Doing("AbortMultipartUpload", self._bucket, base)
        try:
            while True:
                page = await self._call(listing, "list_multipart_uploads", **asked, **self._payer())
                for row in page.get("Uploads", ()):
                    if _server_time(page) - row["Initiated"].timestamp() > older_s:
                        await self._call(
                            aborting, "abort_multipart_upload", Bucket=self._bucket,
                            Key=row["Key"], UploadId=row["UploadId"], **self._payer(),
                        )  # fmt: skip
                        found += 1
                if not page.get("IsTruncated"):
                    return found
                asked["KeyMarker"] = page["NextKeyMarker"]
                asked["UploadIdMarker"] = page["NextUploadIdMarker"]
        except StorageError:
            return found  # not permitted, or not known to the server: it does no harm but cost

    # ------------------------------------------------------------------- upload

    async def upload(
        self, key: str, fd: int, size: int, *, moved: Moved, check: Check = unchecked
    ) -> Sums:
        part_bytes = part_bytes_for(size, self._options.part_bytes)
        if size > part_bytes:
            return await self._upload_large(key, fd, size, part_bytes, moved, check)
        with taken_back(moved) as told:
            doing = self._doing("PutObject", key)
            async with self._piece(doing, fd, Part(0, 0, size)) as piece:
                check()
                await self._put(doing, key, piece, {}, told)
            return Sums(part_bytes, (piece.crc,))

    async def _upload_large(
        self, key: str, fd: int, size: int, part_bytes: int, moved: Moved, check: Check
    ) -> Sums:
        """A request that was given up may still be going on, and replace the part that was sent
        after it by one with another entity tag; then the whole has to be sent anew."""
        left = _IN_TRANSIT
        while True:
            left -= 1
            try:
                with taken_back(moved) as told:
                    crcs = await self._upload_parts(key, fd, size, part_bytes, told, check)
                    return Sums(part_bytes, crcs)
            except StorageError as error:
                if error.reason is not Reason.CORRUPT or not left:
                    raise

    async def _upload_parts(
        self, key: str, fd: int, size: int, part_bytes: int, moved: Moved, check: Check
    ) -> tuple[int, ...]:
        doing = self._doing("UploadPart", key)
        waiting = parts(size, part_bytes)
        sent: dict[int, tuple[str, int]] = {}

        async def send_part(upload: str, part: Part) -> None:
            query = {"partNumber": str(part.number + 1), "uploadId": upload}
            async with self._piece(doing, fd, part) as piece:
                etag = await self._put(doing, key, piece, query, moved)
            sent[part.number] = etag, piece.crc

        async def send_parts(upload: str) -> None:
            for part in waiting:
                # A function of its own: its variables must not keep a part while we wait for the
                # next one's share of the memory.
                await send_part(upload, part)

        async with self._multipart(key) as (upload, begun_at):
            count = min(_PARTS_AT_ONCE, -(-size // part_bytes))
            await together(send_parts(upload) for _ in range(count))
            check()
            in_order = [sent[number] for number in sorted(sent)]
            await self._complete(key, upload, in_order, Entry(key, size, "", begun_at))
        return tuple(sent[number][1] for number in sorted(sent))

    @contextlib.asynccontextmanager
    async def _multipart(self, key: str) -> AsyncIterator[tuple[str, float]]:
        """A begun upload and when it was, by the server's clock. Given up if the block fails."""
        doing = self._doing("CreateMultipartUpload", key)
        # A cancellation must not leave an upload whose name we never learn.
        begun = asyncio.ensure_future(
            self._call(
                doing, "create_multipart_upload", Bucket=self._bucket, Key=self._key(key),
                ChecksumAlgorithm="CRC32", **self._kept_as(), **self._payer(),
            )
        )  # fmt: skip
        try:
            answer = await asyncio.shield(begun)
            yield str(answer["UploadId"]), _server_time(answer)
        except BaseException:
            await bounded(self._abort(key, begun), _ABORT_S)
            raise

    async def _abort(self, key: str, begun: asyncio.Future[dict[str, Any]]) -> None:
        doing = self._doing("AbortMultipartUpload", key)
        with contextlib.suppress(StorageError):
            upload = (await begun)["UploadId"]
            await self._call(
                doing, "abort_multipart_upload", Bucket=self._bucket, Key=self._key(key),
                UploadId=upload, **self._payer(),
            )  # fmt: skip

    async def _complete(
        self, key: str, upload: str, sent: list[tuple[str, int]], expected: Entry
    ) -> None:
        listed = [
            {"PartNumber": number, "ETag": etag, "ChecksumCRC32": _base64_crc(crc)}
            for number, (etag, crc) in enumerate(sent, 1)
        ]
        tries = 0

        async def attempt(patience: Patience) -> None:
            nonlocal tries
            tries += 1
            await self._client.ask(
                patience, self._bucket, "complete_multipart_upload", Bucket=self._bucket,
                Key=self._key(key), UploadId=upload, MultipartUpload={"Parts": listed},
                **self._payer(),
            )  # fmt: skip

        try:
            await self._client.tried(self._doing("CompleteMultipartUpload", key), attempt)
        except StorageError as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
            # An attempt whose answer did not arrive may have completed it, or be at it still.
            now = asyncio.get_running_loop().time
            until_s = now() + (self._options.timeout_s if tries > 1 else 0.0)
            while not await self._completed(key, expected):
                if now() >= until_s:
                    raise
                await asyncio.sleep(_COMPLETING_S)

    async def _completed(self, key: str, expected: Entry) -> bool:
        found = await self.head(key)
        return (
            found is not None
            and found.size == expected.size
            and found.modified_at >= expected.modified_at
        )

    async def _put(
        self, doing: Doing, key: str, piece: _Piece, query: dict[str, str], moved: Moved
    ) -> str:
        """Send one object or one part; its entity tag."""
        headers = {"x-amz-checksum-crc32": _base64_crc(piece.crc)}
        if not query:
            headers |= self._kept_as_headers()
        counted = 0

        async def before_slice(offset: int, size: int) -> None:
            nonlocal counted
            await self._flow.bandwidth.take(size)
            moved(offset + size - counted)
            counted = offset + size

        async def attempt(patience: Patience) -> str:
            with Content(piece.view, patience, before_slice) as content:
                async with self._client.send(
                    patience, "PUT", self._bucket, self._key(key), query=query, headers=headers,
                    body=content, sha256=piece.sha256,
                ) as answer:  # fmt: skip
                    return answer.headers.get("ETag", "")

        async with self._client.slots:
            return await self._client.tried(doing, attempt)

    @contextlib.asynccontextmanager
    async def _piece(self, doing: Doing, fd: int, part: Part) -> AsyncIterator[_Piece]:
        """A part of a file in memory."""
        async with self._flow.memory.hold(part.size):
            content = _cached(fd, part) if part.size <= _AT_ONCE else None
            if content is not None:
                yield _Piece(memoryview(content), *self._hashes(content))
                return

            def filled(view: memoryview) -> _Piece:
                size = 0
                while size < part.size:
                    count = os.preadv(fd, [view[size:]], part.offset + size)
                    if not count:
                        raise StorageError(Reason.CHANGED, f"{doing}: the file became shorter")
                    size += count
                return _Piece(view, *self._hashes(view))

            yield await _local(doing, filled, _buffer(part.size))

    def _hashes(self, content: bytes | memoryview) -> tuple[int, str]:
        """CRC-32, and SHA-256 where the signature has to protect the content: without TLS."""
        secure = self._client.secure
        return zlib.crc32(content), "" if secure else hashlib.sha256(content).hexdigest()

    # ------------------------------------------------------------------- download

    async def download(
        self, entry: Entry, fd: int, *, sums: Sums | None = None, moved: Moved
    ) -> None:
        doing = self._doing("GetObject", entry.key)
        part_bytes = sums.part_bytes if sums else part_bytes_for(entry.size, _RANGE)
        waiting = parts(entry.size, part_bytes)
        if entry.size > part_bytes:
            await in_thread(preallocate, str(doing), fd, entry.size)

        whole = _Whole(fd)

        async def fetch_parts(told: Moved) -> None:
            for part in waiting:
                got = await self._fetch(doing, entry, fd, part, sums, told)
                if sums is None:
                    await whole.follow(part, got)

        with taken_back(moved) as told:
            if entry.size <= part_bytes:
                await fetch_parts(told)
            else:
                count = min(_PARTS_AT_ONCE, -(-entry.size // part_bytes))
                await together(fetch_parts(told) for _ in range(count))
            if not whole.holds():
                raise StorageError(Reason.CORRUPT, f"{doing}: its checksum does not hold")

    async def _fetch(
        self, doing: Doing, entry: Entry, fd: int, part: Part, sums: Sums | None, moved: Moved
    ) -> _Got:
        """One range into its place in the file, again from where it broke off."""
        wanted = sums.crcs[part.number] if sums else None
        for _ in range(_IN_TRANSIT):
            got = _Got(part.offset, summed=sums is not None)
            whole = part.size == entry.size

            async def attempt(patience: Patience, got: _Got = got, *, whole: bool = whole) -> None:
                headers = {"x-amz-checksum-mode": "ENABLED"} if whole and sums is None else {}
                if entry.etag:
                    headers["If-Match"] = f'"{entry.etag}"'
                if got.offset or not whole:
                    if got.offset == part.end:
                        return
                    headers["Range"] = f"bytes={got.offset}-{part.end - 1}"
                async with self._client.send(
                    patience, "GET", self._bucket, self._key(entry.key), headers=headers
                ) as answer:
                    self._check_answer(doing, entry, got.offset, part, answer)
                    if sums is None:
                        got.expect(answer.headers, entry.etag, whole=whole)
                    await self._receive(doing, answer, patience, fd, got, part, moved)

            # Memory before a slot, here and for uploads: else both could wait for each other.
            async with self._flow.memory.hold(min(part.size, 2 * _BUFFER)), self._client.slots:
                await self._client.tried(doing, attempt)
            if (wanted is None or wanted == got.crc) and got.holds():
                return got
            moved(-part.size)
        raise StorageError(Reason.CORRUPT, f"{doing}: its checksum does not hold")

    async def _receive(
        self,
        doing: Doing,
        answer: aiohttp.ClientResponse,
        patience: Patience,
        fd: int,
        got: _Got,
        part: Part,
        moved: Moved,
    ) -> None:
        pieces: list[bytes] = []
        size = 0

        async def flush() -> None:
            nonlocal size
            if not size:
                return
            if size <= _AT_ONCE:
                try:
                    got.take(fd, pieces)
                except OSError as error:
                    raise_local(str(doing), error)
            else:
                await _local(doing, got.take, fd, pieces)
            pieces.clear()
            moved(size)
            size = 0

        try:
            while piece := await _next(answer, patience):
                await self._flow.bandwidth.take(len(piece))
                if got.offset + size + len(piece) > part.end:
                    raise StorageError(Reason.SERVER, f"{doing}: more came than was asked for")
                pieces.append(piece)
                size += len(piece)
                if size >= _BUFFER:
                    await flush()
        except (aiohttp.ClientError, OSError):
            await flush()  # what came is not fetched again
            raise
        await flush()
        if got.offset < part.end:
            raise aiohttp.ClientPayloadError("the answer broke off")

    def _check_answer(
        self, doing: Doing, entry: Entry, offset: int, part: Part, answer: aiohttp.ClientResponse
    ) -> None:
        etag = answer.headers.get("ETag", "").strip('"')
        if entry.etag and etag and etag != entry.etag:
            raise StorageError(Reason.CHANGED, f"{doing}: the object was changed meanwhile")
        # By the header, for not every server says 206 where it gives a range.
        span = answer.headers.get("Content-Range", "")
        if span and not span.startswith(f"bytes {offset}-"):
            raise StorageError(Reason.SERVER, f"{doing}: asked for bytes {offset}-, got {span}")
        if not span and (offset or part.size != entry.size):
            raise StorageError(Reason.SERVER, f"{doing}: the server gives no ranges")

    # ------------------------------------------------------------------- requests

    def _key(self, key: str) -> str:
        return self._location.child(key).key if key else self._location.key

    def _doing(self, operation: str, key: str) -> Doing:
        return Doing(operation, self._bucket, self._key(key))

    async def _call(self, doing: Doing, method: str, **asked: Any) -> dict[str, Any]:
        async def attempt(patience: Patience) -> dict[str, Any]:
            return await self._client.ask(patience, self._bucket, method, **asked)

        return await self._client.tried(doing, attempt)

    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self._options.requester_pays else {}

    def _kept_as(self) -> dict[str, str]:
        """How the server is to keep what is sent, in the words of the API."""
        options = self._options
        words = {
            "ServerSideEncryption": options.encryption,
            "SSEKMSKeyId": options.kms_key,
            "StorageClass": options.storage_class,
        }
        return {word: value for word, value in words.items() if value}

    def _kept_as_headers(self) -> dict[str, str]:
        options = self._options
        words = {
            "x-amz-server-side-encryption": options.encryption,
            "x-amz-server-side-encryption-aws-kms-key-id": options.kms_key,
            "x-amz-storage-class": options.storage_class,
        }
        return {word: value for word, value in words.items() if value}

    async def _looked(self, patience: Patience, method: str, key: str) -> Entry:
        headers = {"Range": "bytes=0-0"} if method == "GET" else {}
        async with self._client.send(
            patience, method, self._bucket, self._key(key), headers=headers
        ) as answer:
            span = answer.headers.get("Content-Range", "")
            size = span.rpartition("/")[2] if span else answer.headers.get("Content-Length", "")
            if not size.isdigit():
                doing = self._doing("HeadObject", key)
                raise StorageError(Reason.SERVER, f"{doing}: the answer names no size")
            etag = answer.headers.get("ETag", "").strip('"')
            return Entry(key, int(size), etag, _time(answer.headers.get("Last-Modified", "")))

    async def _delete(self, keys: Sequence[str]) -> None:
        doing = self._doing("DeleteObjects", "" if len(keys) > 1 else keys[0])
        named = {self._key(key) for key in keys}

        async def attempt(patience: Patience) -> None:
            asked = {"Objects": [{"Key": key} for key in sorted(named)], "Quiet": True}
            answer = await self._client.ask(
                patience, self._bucket, "delete_objects", Bucket=self._bucket, Delete=asked,
                **self._payer(),
            )  # fmt: skip
            rows = [row for row in answer.get("Errors", ()) if row.get("Code") != "NoSuchKey"]
            if rows:
                named.intersection_update(row["Key"] for row in rows)
                first = rows[0]
                told = {"Code": first.get("Code", ""), "Message": first.get("Message", "")}
                status = {"HTTPStatusCode": 200}
                raise ClientError({"Error": told, "ResponseMetadata": status}, "DeleteObjects")

        await self._client.tried(doing, attempt)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is sent by one request."""

    view: memoryview
    crc: int
    sha256: str
    """In hex; empty: not needed."""


class _Got:
    """How far a range has come."""

    def __init__(self, offset: int, *, summed: bool) -> None:
        self.offset = offset
        self.crc = 0
        self._summed = summed
        """Whether the CRC-32 is asked for."""
        self.md5 = b""
        """Of the whole object, as the server says; of a range, where it is no part's sum."""
        self._crc: int | None = None
        self._hash: tuple[Any, bytes] | None = None
        """What the server says of the content, and the hash that must come to it."""
        self._begun = False

    def expect(self, headers: Any, etag: str, *, whole: bool) -> None:
        """Note what can be checked: of a first answer, which begins at the first byte.

        An entity tag is the MD5 of the content only of objects that were sent in one piece and
        are not encrypted with a key of KMS's or the customer's. Source: Amazon S3 API Reference,
        "Object".
        """
        if self._begun:
            return
        self._begun = True
        crc, sha256 = (headers.get(f"x-amz-checksum-{name}", "") for name in ("crc32", "sha256"))
        encrypted = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
        encrypted |= "x-amz-server-side-encryption-customer-algorithm" in headers
        # With a hyphen it is a sum of sums.
        if whole and crc and "-" not in crc:
            self._crc = int.from_bytes(base64.b64decode(crc), "big")
            self._summed = True
        elif whole and sha256 and "-" not in sha256:
            self._hash = hashlib.sha256(), base64.b64decode(sha256)
        elif not encrypted and re.fullmatch(r"[0-9a-f]{32}", etag):
            wanted = bytes.fromhex(etag)
            if whole:
                self._hash = hashlib.md5(usedforsecurity=False), wanted
            else:
                self.md5 = wanted

    def take(self, fd: int, pieces: Sequence[bytes]) -> None:
        """The next bytes. Blocks."""
        for piece in pieces:
            view = memoryview(piece)
            while view:
                count = os.pwrite(fd, view, self.offset)
                if self._summed:
                    self.crc = zlib.crc32(view[:count], self.crc)
                if self._hash:
                    self._hash[0].update(view[:count])
                view, self.offset = view[count:], self.offset + count

    def holds(self) -> bool:
        if self._crc is not None and self._crc != self.crc:
            return False
        return self._hash is None or self._hash[0].digest() == self._hash[1]


class _Whole:
    """Follows the ranges of one file, which come in any order, with the hash of all of it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._wanted = b""
        self._come: dict[int, Part] = {}
        self._next = 0
        self._busy = False

    async def follow(self, part: Part, got: _Got) -> None:
        """``part`` has come. Hashes what that makes possible, unless another task is at it."""
        if not got.md5:
            return
        self._wanted = got.md5
        self._come[part.number] = part
        if self._busy:
            return
        self._busy = True
        try:
            while (due := self._come.pop(self._next, None)) is not None:
                await in_thread(self._hash, due)
                self._next += 1
        finally:
            self._busy = False

    def _hash(self, part: Part) -> None:
        for offset in range(part.offset, part.end, _BUFFER):
            self._md5.update(os.pread(self._fd, min(_BUFFER, part.end - offset), offset))

    def holds(self) -> bool:
        return not self._wanted or self._md5.digest() == self._wanted


def _server_time(answer: dict[str, Any]) -> float:
    """When an answer was given."""
    return _time(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))


def _region(answer: dict[str, Any]) -> str:
    return str(answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))


def _time(date: str) -> float:
    """In seconds since the epoch; 0: it is not said."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return 0.0


def _unmoved(_: int) -> None: ...


async def _next(answer: aiohttp.ClientResponse, patience: Patience) -> bytes:
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


async def _local(doing: Doing, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``call(…)`` in a thread; the local disk's errors as ours."""
    try:
        return await in_thread(call, *args, **kwargs)
    except OSError as error:
        raise_local(str(doing), error)


async def bounded(work: Coroutine[Any, Any, None], seconds: float) -> None:
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
