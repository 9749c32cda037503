"""Objects below a prefix of a bucket, at any server that speaks S3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Any, Final

from botocore.exceptions import ClientError

from supervisor.storage.flow import Flow, taken_back
from supervisor.storage.location import Location
from supervisor.storage.parts import Part, part_bytes_for
from supervisor.storage.patience import Patience
from supervisor.storage.s3_client import Doing, S3Client
from supervisor.storage.s3_download import Download
from supervisor.storage.s3_place import S3Place, next_bytes, server_time
from supervisor.storage.s3_upload import Multipart, Puts
from supervisor.storage.store import (
    Check,
    Entry,
    Moved,
    Reason,
    StorageError,
    Sums,
    unchecked,
)

_DELETE_BATCH: Final = 1000
"""Keys; the most that a request takes."""


class S3Store:
    def __init__(self, location: Location, client: S3Client, flow: Flow) -> None:
        self._location = location
        self._client = client
        self._flow = flow
        self._place = S3Place(location, client)
        self._puts = Puts(self._place, flow)
        self._bucket = location.bucket

    @property
    def location(self) -> Location:
        return self._location

    async def close(self) -> None:
        """The client belongs to all stores."""

    async def entries(self, prefix: str = "") -> AsyncIterator[Entry]:
        base = f"{self._location.key}/" if self._location.key else ""
        asked: dict[str, Any] = {"Prefix": base + prefix}
        doing = Doing("ListObjectsV2", self._bucket, base + prefix)
        while True:
            page = await self._place.call(doing, "list_objects_v2", **asked)
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
        return await self._place.head(key)

    async def read(self, key: str, *, limit: int) -> bytes:
        doing = self._place.doing("GetObject", key)

        async def attempt(patience: Patience) -> bytes:
            async with self._place.send(patience, "GET", key, headers={}) as answer:
                if (answer.content_length or 0) > limit:
                    raise StorageError(Reason.CORRUPT, f"{doing}: larger than {limit} bytes")
                content = bytearray()
                while piece := await next_bytes(answer, patience):
                    content += piece
                    if len(content) > limit:
                        raise StorageError(Reason.CORRUPT, f"{doing}: larger than {limit} bytes")
                return bytes(content)

        async with self._client.slots:
            return await self._client.tried(doing, attempt)

    async def write(self, key: str, content: bytes) -> None:
        piece = self._puts.piece_of(content)
        await self._puts.put(self._place.doing("PutObject", key), key, piece, {}, _unmoved)

    async def write_new(self, key: str, content: bytes) -> bool:
        piece = self._puts.piece_of(content)
        doing = self._place.doing("PutObject", key)
        try:
            await self._puts.put(doing, key, piece, {}, _unmoved, only_new=True)
        except StorageError as error:
            if error.reason is Reason.CHANGED:
                return False
            raise
        return True

    async def upload(
        self, key: str, fd: int, size: int, *, moved: Moved, check: Check = unchecked
    ) -> Sums:
        part_bytes = part_bytes_for(size, self._place.options.part_bytes)
        if size > part_bytes:
            return await Multipart(self._puts, key, fd, size, part_bytes).run(moved, check)
        with taken_back(moved) as told:
            doing = self._place.doing("PutObject", key)
            async with self._puts.piece(doing, fd, Part(0, 0, size)) as piece:
                check()
                await self._puts.put(doing, key, piece, {}, told)
            return Sums(part_bytes, (piece.crc,))

    async def download(
        self, entry: Entry, fd: int, *, sums: Sums | None = None, moved: Moved
    ) -> None:
        await Download(self._place, self._flow, entry, fd, sums).run(moved)

    async def delete(self, keys: Sequence[str]) -> None:
        waiting = iter(keys)
        while batch := list(islice(waiting, _DELETE_BATCH)):
            await self._delete(batch)

    async def _delete(self, keys: Sequence[str]) -> None:
        doing = self._place.doing("DeleteObjects", "" if len(keys) > 1 else keys[0])
        named = {self._place.key(key) for key in keys}

        async def attempt(patience: Patience) -> None:
            asked = {"Objects": [{"Key": key} for key in sorted(named)], "Quiet": True}
            answer = await self._place.ask(patience, "delete_objects", Delete=asked)
            rows = [row for row in answer.get("Errors", ()) if row.get("Code") != "NoSuchKey"]
            if rows:
                named.intersection_update(row["Key"] for row in rows)
                first = rows[0]
                told = {"Code": first.get("Code", ""), "Message": first.get("Message", "")}
                status = {"HTTPStatusCode": 200}
                raise ClientError({"Error": told, "ResponseMetadata": status}, "DeleteObjects")

        await self._client.tried(doing, attempt)

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
        asked: dict[str, Any] = {"Prefix": base}
        listing = Doing("ListMultipartUploads", self._bucket, base)
        aborting = Doing("AbortMultipartUpload", self._bucket, base)
        try:
            while True:
                page = await self._place.call(listing, "list_multipart_uploads", **asked)
                for row in page.get("Uploads", ()):
                    if server_time(page) - row["Initiated"].timestamp() > older_s:
                        await self._place.call(
                            aborting, "abort_multipart_upload", Key=row["Key"],
                            UploadId=row["UploadId"],
                        )  # fmt: skip
                        found += 1
                if not page.get("IsTruncated"):
                    return found
                asked["KeyMarker"] = page["NextKeyMarker"]
                asked["UploadIdMarker"] = page["NextUploadIdMarker"]
        except StorageError:
            return found  # not permitted, or not known to the server: it does no harm but cost


def _region(answer: dict[str, Any]) -> str:
    return str(answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))


def _unmoved(_: int) -> None: ...
