"""One object into a file: ranges in parallel, each checked as far as anybody says its sum."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import zlib
from collections.abc import Sequence
from typing import Any, Final

import aiohttp

from supervisor.storage.files import preallocate, raise_local
from supervisor.storage.flow import Flow, in_thread, taken_back, together
from supervisor.storage.parts import Part, part_bytes_for, parts
from supervisor.storage.patience import Patience
from supervisor.storage.s3_place import (
    AT_ONCE,
    IN_TRANSIT,
    PARTS_AT_ONCE,
    S3Place,
    local,
    next_bytes,
)
from supervisor.storage.store import Entry, Moved, Reason, StorageError, Sums

_BUFFER: Final = 1 << 20
"""Bytes of an object that are gathered before they are written."""
_RANGE: Final = 8 << 20
"""Bytes that are asked for at once, of an object without checksums of ours."""


class Download:
    """The content of ``entry`` into the open, empty file; see `Store.download`."""

    def __init__(
        self, place: S3Place, flow: Flow, entry: Entry, fd: int, sums: Sums | None
    ) -> None:
        self._place = place
        self._client = place.client
        self._flow = flow
        self._entry = entry
        self._fd = fd
        self._sums = sums
        self._doing = place.doing("GetObject", entry.key)
        self._whole = _Whole(fd)

    async def run(self, moved: Moved) -> None:
        entry = self._entry
        part_bytes = self._sums.part_bytes if self._sums else part_bytes_for(entry.size, _RANGE)
        waiting = parts(entry.size, part_bytes)
        if entry.size > part_bytes:
            await in_thread(preallocate, str(self._doing), self._fd, entry.size)

        async def fetch_parts(told: Moved) -> None:
            for part in waiting:
                got = await self._fetch(part, told)
                if self._sums is None:
                    await self._whole.follow(part, got)

        with taken_back(moved) as told:
            if entry.size <= part_bytes:
                await fetch_parts(told)
            else:
                count = min(PARTS_AT_ONCE, -(-entry.size // part_bytes))
                await together(fetch_parts(told) for _ in range(count))
            if not self._whole.holds():
                raise StorageError(Reason.CORRUPT, f"{self._doing}: its checksum does not hold")

    async def _fetch(self, part: Part, moved: Moved) -> _Got:
        """One range into its place in the file, again from where it broke off."""
        entry, sums = self._entry, self._sums
        wanted = sums.crcs[part.number] if sums else None
        for _ in range(IN_TRANSIT):
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
                async with self._place.send(patience, "GET", entry.key, headers=headers) as answer:
                    self._check_answer(got.offset, part, answer)
                    if sums is None:
                        got.expect(answer.headers, entry.etag, whole=whole)
                    await self._receive(answer, patience, got, part, moved)

            # Memory before a slot, here and for uploads: else both could wait for each other.
            async with self._flow.memory.hold(min(part.size, 2 * _BUFFER)), self._client.slots:
                await self._client.tried(self._doing, attempt)
            if (wanted is None or wanted == got.crc) and got.holds():
                return got
            moved(-part.size)
        raise StorageError(Reason.CORRUPT, f"{self._doing}: its checksum does not hold")

    async def _receive(
        self,
        answer: aiohttp.ClientResponse,
        patience: Patience,
        got: _Got,
        part: Part,
        moved: Moved,
    ) -> None:
        doing = self._doing
        pieces: list[bytes] = []
        size = 0

        async def flush() -> None:
            nonlocal size
            if not size:
                return
            if size <= AT_ONCE:
                try:
                    got.take(self._fd, pieces)
                except OSError as error:
                    raise_local(str(doing), error)
            else:
                await local(doing, got.take, self._fd, pieces)
            pieces.clear()
            moved(size)
            size = 0

        try:
            while piece := await next_bytes(answer, patience):
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

    def _check_answer(self, offset: int, part: Part, answer: aiohttp.ClientResponse) -> None:
        entry, doing = self._entry, self._doing
        etag = answer.headers.get("ETag", "").strip('"')
        if entry.etag and etag and etag != entry.etag:
            raise StorageError(Reason.CHANGED, f"{doing}: the object was changed meanwhile")
        # By the header, for not every server says 206 where it gives a range.
        span = answer.headers.get("Content-Range", "")
        if span and not span.startswith(f"bytes {offset}-"):
            raise StorageError(Reason.SERVER, f"{doing}: asked for bytes {offset}-, got {span}")
        if not span and (offset or part.size != entry.size):
            raise StorageError(Reason.SERVER, f"{doing}: the server gives no ranges")


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
