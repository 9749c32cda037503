"""Many files at once between a directory and a store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import stat
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from supervisor.storage.files import raise_local
from supervisor.storage.store import Entry, Moved, Reason, StorageError, Store, Sums

T = TypeVar("T")

AT_ONCE: Final = 64
"""Files under way. What they hold in memory is bounded by the store, whatever their number."""
_PARTIAL: Final = ".supervisor-partial-"
_FOR_ALL: Final = {
    Reason.DENIED, Reason.CREDENTIALS, Reason.CLOCK, Reason.NO_BUCKET, Reason.UNREACHABLE,
    Reason.THROTTLED, Reason.LOCAL,
}  # fmt: skip
"""What one file failed of, others will: no more are begun."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """An object that is to become a file."""

    entry: Entry
    path: str
    """Below the target directory; with slashes."""
    sums: Sums | None = None
    mode: int | None = None
    """Permissions; None: as the umask has it."""
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A file that is to become an object."""

    key: str
    path: str


@dataclass(frozen=True, slots=True)
class Sent:
    key: str
    size: int
    mtime_ns: int
    mode: int
    sums: Sums


@dataclass(slots=True)
class Outcome:
    """How many files went. The order of failures is that in which they happened."""

    files: int = 0
    bytes: int = 0
    sent: list[Sent] = field(default_factory=list)
    failures: list[tuple[str, StorageError]] = field(default_factory=list)
    """Path or key, and why. With the first that others would fail of too, no more are begun."""

    def check(self) -> None:
        """Raises the first failure."""
        if self.failures:
            raise self.failures[0][1]


async def fetch_files(
    store: Store,
    files: Iterable[Incoming] | AsyncIterable[Incoming],
    target: str,
    *,
    moved: Moved,
    at_once: int = AT_ONCE,
) -> Outcome:
    """Objects into files below ``target``, which is made if need be. Each file appears whole.

    Never outside of ``target``: names with ``..`` are refused, links in it are not followed.
    Raises only what ``files`` raises.
    """
    outcome = Outcome()
    try:
        os.makedirs(target, exist_ok=True)
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise_local(f"make {target}", error)

    async def fetch(file: Incoming) -> None:
        try:
            with _new_file(root, target, file) as fd:
                await store.download(file.entry, fd, sums=file.sums, moved=moved)
        except OSError as error:
            raise_local(f"write {target}/{file.path}", error)
        outcome.files += 1
        outcome.bytes += file.entry.size

    try:
        await _each(files, fetch, lambda file: file.path, outcome, at_once)
    finally:
        os.close(root)
    return outcome


async def send_files(
    store: Store,
    files: Iterable[Outgoing] | AsyncIterable[Outgoing],
    *,
    moved: Moved,
    at_once: int = AT_ONCE,
) -> Outcome:
    """Files into objects. One that is written to meanwhile is a failure: ``CHANGED``.

    Raises only what ``files`` raises.
    """
    outcome = Outcome()

    async def send(file: Outgoing) -> None:
        doing = f"send {file.path}"
        try:
            fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise_local(doing, error)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise StorageError(Reason.LOCAL, f"{doing}: no regular file")
            sums = await store.upload(file.key, fd, before.st_size, moved=moved)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise StorageError(Reason.CHANGED, f"{doing}: it was written to meanwhile")
        mode = stat.S_IMODE(before.st_mode)
        outcome.sent.append(Sent(file.key, before.st_size, before.st_mtime_ns, mode, sums))
        outcome.files += 1
        outcome.bytes += before.st_size

    await _each(files, send, lambda file: file.key, outcome, at_once)
    return outcome


async def _each(
    items: Iterable[T] | AsyncIterable[T],
    work: Callable[[T], Awaitable[None]],
    name: Callable[[T], str],
    outcome: Outcome,
    at_once: int,
) -> None:
    """Work on all items, ``at_once`` at a time."""
    waiting = _async(items)
    turn = asyncio.Lock()  # an asynchronous generator can serve one at a time
    hopeless = False

    async def worker() -> None:
        nonlocal hopeless
        while not hopeless:
            async with turn:
                try:
                    item = await anext(waiting)
                except StopAsyncIteration:
                    return
            try:
                await work(item)
            except StorageError as error:
                outcome.failures.append((name(item), error))
                hopeless |= error.reason in _FOR_ALL

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _async(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


@contextlib.contextmanager
def _new_file(root: int, target: str, file: Incoming) -> Iterator[int]:
    """An empty file, which gets its name when the block succeeds. Raises OSError."""
    parts = file.path.split("/")
    if "\0" in file.path or any(part in {"", ".", ".."} for part in parts):
        text = f"write {target}/{file.path}: no name of a file below it; rename the object"
        raise StorageError(Reason.LOCAL, text)
    with _folder(root, parts[:-1]) as folder:
        partial = _PARTIAL + secrets.token_hex(8)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(partial, flags, 0o666, dir_fd=folder)
        try:
            try:
                yield fd
                if file.mode is not None:
                    os.fchmod(fd, file.mode)
                if file.mtime_ns is not None:
                    os.utime(fd, ns=(file.mtime_ns, file.mtime_ns))
            finally:
                os.close(fd)
            os.rename(partial, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=folder)
            raise


@contextlib.contextmanager
def _folder(root: int, parts: list[str]) -> Iterator[int]:
    """A directory below ``root``, made if need be; a link in its place is an error."""
    folder = root
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=folder)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=folder)
            if folder != root:
                os.close(folder)
            folder = inner
        yield folder
    finally:
        if folder != root:
            os.close(folder)
