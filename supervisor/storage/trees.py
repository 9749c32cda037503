"""Many objects at once into files of a directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from supervisor.storage.files import PARTIAL, raise_local
from supervisor.storage.flow import together
from supervisor.storage.store import Entry, Moved, Reason, StorageError, Store, Sums

T = TypeVar("T")

AT_ONCE: Final = 64
"""Files under way. What they hold in memory is bounded by the store, whatever their number."""


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


async def fetch_files(
    store: Store,
    files: Iterable[Incoming] | AsyncIterable[Incoming],
    target: str,
    *,
    moved: Moved,
    at_once: int = AT_ONCE,
) -> int:
    """Objects into files below ``target``, which is made if need be; how many it were.

    Each file appears whole, and none outside of ``target``: names with ``..`` are refused, links
    below it are not followed. Raises the first StorageError, and what ``files`` raises.
    """
    count = 0
    try:
        os.makedirs(target, exist_ok=True)
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise_local(f"make {target}", error)

    async def fetch(file: Incoming) -> None:
        nonlocal count
        try:
            with _new_file(root, target, file) as fd:
                await store.download(file.entry, fd, sums=file.sums, moved=moved)
        except OSError as error:
            raise_local(f"write {target}/{file.path}", error)
        count += 1

    try:
        await _each(files, fetch, at_once)
    finally:
        os.close(root)
    return count


def make_links(links: Iterable[tuple[str, str]], target: str) -> None:
    """Symbolic links, path and what they lead to, below ``target``. Blocks.

    That none leads out is the caller's to know (``manifest.link_fault``); none is made outside.
    """
    try:
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path, leads_to in links:
                *folders, name = path.split("/")
                with _folder(root, folders) as folder:
                    os.symlink(leads_to, name, dir_fd=folder)
        finally:
            os.close(root)
    except OSError as error:
        raise_local(f"make links in {target}", error)


async def _each(
    items: Iterable[T] | AsyncIterable[T], work: Callable[[T], Awaitable[None]], at_once: int
) -> None:
    """Work on items, ``at_once`` at a time. Raises what the first failure raises."""
    waiting = _async(items)
    turn = asyncio.Lock()  # an asynchronous generator can serve one at a time

    async def worker() -> None:
        while True:
            async with turn:
                try:
                    item = await anext(waiting)
                except StopAsyncIteration:
                    return
            await work(item)

    await together(worker() for _ in range(at_once))


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
        partial = PARTIAL + secrets.token_hex(8)
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
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                inner = os.open(part, flags, dir_fd=folder)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
                inner = os.open(part, flags, dir_fd=folder)
            if folder != root:
                os.close(folder)
            folder = inner
        yield folder
    finally:
        if folder != root:
            os.close(folder)
