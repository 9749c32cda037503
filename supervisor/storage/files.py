"""A directory as a store: the default, which needs no cloud."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final, NoReturn, ParamSpec, TypeVar

from supervisor import regular
from supervisor.storage.flow import Flow, in_thread, taken_back
from supervisor.storage.location import Location
from supervisor.storage.parts import part_bytes_for, parts
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

PARTIAL: Final = ".supervisor-partial-"
"""Names of files that are being written begin so; a listing does not show them."""
_CHUNK: Final = 1 << 20
"""Bytes copied by one visit to a thread."""
_OPENING_TRIES: Final = 10
"""``delete`` removes a directory that became empty, perhaps just before a file is made in it."""


class FileStore:
    """Everything below a directory, which need not exist. Keys never lead out of it, by ``..`` or
    by a link. Written files replace others at once when they are complete and on the disk.

    Only the file itself is synchronised, not its directory: file systems with a journal keep the
    order of renames, so what was written first is there if what was written later is.
    """

    def __init__(self, location: Location, flow: Flow, *, part_bytes: int) -> None:
        self._location = location
        self._flow = flow
        self._part_bytes = part_bytes
        self.left_out: dict[str, str] = {}
        """Keys that are no objects, as far as the place was listed, and why."""

    @property
    def location(self) -> Location:
        return self._location

    async def entries(self, prefix: str = "") -> AsyncIterator[Entry]:
        folder = prefix.rpartition("/")[0]
        waiting = [await self._in_thread("list", folder, self._listed, folder, prefix)]
        while waiting:
            found = next(waiting[-1], None)
            if found is None:
                waiting.pop()
            elif isinstance(found, Entry):
                yield found
            else:
                rows = await self._in_thread("list", found, self._listed, found, prefix)
                waiting.append(rows)

    async def head(self, key: str) -> Entry | None:
        return await self._in_thread("stat", key, self._entry, key)

    async def read(self, key: str, *, limit: int) -> bytes:
        def whole() -> bytes:
            content = regular.read(self._path(key), limit + 1, follow=True)
            if len(content) > limit:
                raise StorageError(
                    Reason.CORRUPT, f"read {self._name(key)}: larger than {limit} bytes"
                )
            return content

        return await self._in_thread("read", key, whole)

    async def write(self, key: str, content: bytes) -> None:
        await self._flow.bandwidth.take(len(content))
        async with self._partial(key) as partial_fd:
            await self._in_thread("write", key, _write_all, partial_fd, content, 0)

    async def write_new(self, key: str, content: bytes) -> bool:
        await self._flow.bandwidth.take(len(content))
        try:
            async with self._partial(key, _linked) as partial_fd:
                await self._in_thread("write", key, _write_all, partial_fd, content, 0)
        except _TakenError:
            return False
        return True

    async def upload(
        self, key: str, fd: int, size: int, *, moved: Moved, check: Check = unchecked
    ) -> Sums:
        part_bytes = part_bytes_for(size, self._part_bytes)
        async with self._partial(key) as partial_fd:
            with taken_back(moved) as told:
                crcs = await self._copied("write", key, fd, partial_fd, size, part_bytes, told)
                check()
        return Sums(part_bytes, tuple(crcs))

    async def download(
        self, entry: Entry, fd: int, *, sums: Sums | None = None, moved: Moved
    ) -> None:
        key = entry.key
        if entry.size:
            await in_thread(preallocate, f"read {self._name(key)}", fd, entry.size)
        part_bytes = sums.part_bytes if sums else part_bytes_for(entry.size, self._part_bytes)
        async with self._opened(key) as source_fd:
            with taken_back(moved) as told:
                self._check_same(entry, os.fstat(source_fd))
                crcs = await self._copied("read", key, source_fd, fd, entry.size, part_bytes, told)
                self._check_same(entry, os.fstat(source_fd))
                if sums is not None and tuple(crcs) != sums.crcs:
                    text = f"read {self._name(key)}: its checksum does not hold"
                    raise StorageError(Reason.CORRUPT, text)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._in_thread("delete", key, self._remove, key)

    async def abandon_partial(self, older_s: float, prefix: str = "") -> int:
        def swept() -> int:
            found = 0
            for path, _, names in os.walk(self._path(prefix.rpartition("/")[0])):
                for name in names:
                    whole = os.path.join(path, name)
                    with contextlib.suppress(OSError):
                        if name.startswith(PARTIAL) and _age_s(whole) > older_s:
                            os.unlink(whole)
                            found += 1
            return found

        return await self._in_thread("clean up", prefix, swept)

    async def region(self) -> str:
        return ""

    async def close(self) -> None:
        """Nothing is kept open."""

    # ------------------------------------------------------------------- paths

    def _name(self, key: str) -> str:
        return str(self._location.child(key) if key else self._location)

    def _path(self, key: str) -> str:
        """The file of a key, which may not exist. Empty: the place itself."""
        root = self._location.key
        if not key:
            return root
        if "\0" in key or any(part in {"", ".", ".."} for part in key.split("/")):
            raise StorageError(Reason.LOCAL, f"{self._name(key)}: no name of a file")
        path = os.path.join(root, key)
        real, real_root = os.path.realpath(path), os.path.realpath(root)
        if os.path.commonpath((real, real_root)) != real_root:
            raise StorageError(
                Reason.LOCAL, f"{self._name(key)}: a link leads out of {root}; put the file there"
            )
        return path

    def _entry(self, key: str) -> Entry | None:
        try:
            status = os.stat(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return Entry(key, status.st_size, _etag(status), status.st_mtime)

    def _listed(self, folder: str, prefix: str) -> Iterator[Entry | str]:
        """Files and, as text, folders directly in ``folder`` that ``prefix`` admits, by key."""
        rows: list[tuple[bytes, Entry | str]] = []
        try:
            names = os.listdir(self._path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return iter(())
        for name in names:
            key = f"{folder}/{name}" if folder else name
            if name.startswith(PARTIAL) or not f"{key}/".startswith(prefix):
                continue
            path = os.path.join(self._location.key, key)
            # A linked folder is not gone into: it may lead out, or in circles.
            folder_there, linked = os.path.isdir(path), os.path.islink(path)
            if folder_there and not linked:
                rows.append((os.fsencode(f"{key}/"), key))
            elif key.startswith(prefix) and (entry := self._entry(key)) is not None:
                rows.append((os.fsencode(key), entry))
            elif folder_there:
                self.left_out[key] = "a link to a directory"
            elif os.path.lexists(path):
                there = os.path.exists(path)
                self.left_out[key] = "no regular file" if there else "a link to nothing"
        return iter([row for _, row in sorted(rows, key=lambda row: row[0])])

    def _check_same(self, entry: Entry, status: os.stat_result) -> None:
        if entry.etag and entry.etag != _etag(status):
            raise StorageError(
                Reason.CHANGED, f"read {self._name(entry.key)}: it was changed meanwhile"
            )

    def _remove(self, key: str) -> None:
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
        folder = os.path.dirname(path)
        with contextlib.suppress(OSError):  # not empty, as a rule
            while folder != self._location.key:
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    # ------------------------------------------------------------------- content

    @contextlib.asynccontextmanager
    async def _opened(self, key: str) -> AsyncIterator[int]:
        """The file of ``key``, for reading."""
        fd = -1

        def opened() -> None:
            nonlocal fd
            # Not to wait for a pipe's other end.
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

        try:
            await self._in_thread("read", key, opened)
            yield fd
        finally:
            if fd >= 0:
                os.close(fd)

    @contextlib.asynccontextmanager
    async def _partial(
        self, key: str, appear: Callable[[str, str], None] = os.replace
    ) -> AsyncIterator[int]:
        """A file beside that of ``key``, which takes its place when the block succeeds. ``appear``:
        by which call."""
        fd, partial = -1, ""

        def opened() -> None:
            nonlocal fd, partial
            folder = os.path.dirname(self._path(key))
            partial = os.path.join(folder, PARTIAL + secrets.token_hex(8))
            for _ in range(_OPENING_TRIES):
                os.makedirs(folder, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                    return
            raise OSError(errno.EBUSY, "others remove the directory again and again")

        def finish() -> None:
            os.fsync(fd)
            appear(partial, self._path(key))

        try:
            await self._in_thread("write", key, opened)
            yield fd
            await self._in_thread("write", key, finish)
        finally:
            if fd >= 0:
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.unlink(partial)  # not there any more if it took its place

    async def _copied(
        self, verb: str, key: str, source: int, target: int, size: int, part: int, moved: Moved
    ) -> list[int]:
        """Copy in chunks; the CRC-32 of each part."""

        def copy(offset: int, length: int, crc: int) -> int:
            while length:
                content = os.pread(source, length, offset)
                if not content:
                    raise StorageError(
                        Reason.CHANGED, f"{verb} {self._name(key)}: the file became shorter"
                    )
                crc = zlib.crc32(content, crc)
                _write_all(target, content, offset)
                offset, length = offset + len(content), length - len(content)
            return crc

        crcs = []
        for each in parts(size, part):
            crc = 0
            for offset in range(each.offset, each.end, _CHUNK):
                length = min(_CHUNK, each.end - offset)
                await self._flow.bandwidth.take(length)
                async with self._flow.memory.hold(length):
                    crc = await self._in_thread(verb, key, copy, offset, length, crc)
                moved(length)
            crcs.append(crc)
        return crcs

    async def _in_thread(
        self, verb: str, key: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            return await in_thread(call, *args, **kwargs)
        except OSError as error:
            raise_local(f"{verb} {self._name(key)}", error)


class _TakenError(Exception):
    """Something has the name already."""


def _linked(partial: str, path: str) -> None:
    """A second name for a file that is whole, if nothing has it: at once, over NFS too, where
    O_EXCL alone would show the file before its content (link(2), open(2))."""
    try:
        os.link(partial, path, follow_symlinks=False)
    except FileExistsError:
        raise _TakenError from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        text = f"write {path}: the file system has no hard links"
        raise StorageError(Reason.UNCONDITIONAL, text) from None


_NO_LINKS: Final = {
    errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EXDEV,
}  # fmt: skip
"""Of FAT (link(2)), of object stores that are mounted, and of some network file systems."""


def preallocate(doing: str, fd: int, size: int) -> None:
    """Reserve the space, so that a full disk is known before anything is fetched. Blocks."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EINVAL}:
            return  # not every file system can
        raise_local(f"{doing} ({size} bytes)", error)


def raise_local(doing: str, error: OSError) -> NoReturn:
    """An error of the local disk as a sentence with its remedy."""
    code = error.errno or 0
    if code in {errno.ENOENT, errno.ENOTDIR}:
        raise StorageError(Reason.NOT_FOUND, f"{doing}: {os.strerror(code)}") from None
    remedy = _REMEDIES.get(code, "")
    what = os.strerror(code) if code else str(error)
    raise StorageError(Reason.LOCAL, f"{doing}: {what}{remedy and f'; {remedy}'}") from None


_REMEDIES: Final = {
    errno.ENOSPC: "free space or give the job a larger disk",
    errno.EDQUOT: "free space or raise the quota",
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no file so large",
    errno.EROFS: "mount it for writing or name another directory",
    errno.EACCES: f"user {os.geteuid()} needs the permission",
    errno.EPERM: f"user {os.geteuid()} needs the permission",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def _write_all(fd: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}"


def _age_s(path: str) -> float:
    return time.time() - os.stat(path).st_mtime
