"""The one interface to a place where files are kept, and the one error that it raises.

A store is everything below one ``Location``; keys are relative to it, with slashes. An object
appears under its key whole or not at all, whatever happens to the writer. Stores retry by
themselves, with jitter, until the budget of the options is used up; what they raise is final.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisor.storage.location import Location

Moved = Callable[[int], None]
"""Told the bytes that were moved just now; negative when a part begins anew, and when the
operation fails: in the end, all that was told is the size, or 0."""


Check = Callable[[], None]
"""Raises ``StorageError`` where what was read is not to be kept."""


def unchecked() -> None:
    """Whatever was read is kept."""


class Reason(enum.StrEnum):
    """Why an operation failed in the end."""

    DENIED = "denied"
    CREDENTIALS = "credentials"
    """None found, expired, or unknown to the server."""
    CLOCK = "clock"
    """The server and this host disagree about the time."""
    NO_BUCKET = "no_bucket"
    NOT_FOUND = "not_found"
    CHANGED = "changed"
    """The object, or the file to be sent, is not what it was at the start of the transfer."""
    CORRUPT = "corrupt"
    """A checksum does not hold."""
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    """No answer, no connection, no such name, or answers that break off."""
    SERVER = "server"
    """The server says that it failed, or says what we do not understand."""
    LOCAL = "local"
    """The local disk: full, read-only, not permitted."""
    FENCED = "fenced"
    """Another writer has claimed the place, see ``epochs``."""
    UNCONDITIONAL = "unconditional"
    """The place cannot write only what is not there yet."""


class StorageError(Exception):
    """One operation failed for good. ``str()`` is one line for people, which names the operation,
    the place and the remedy: ``PutObject s3://b/k: AccessDenied; needs s3:PutObject …``."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a store."""

    key: str
    """Relative to the store."""
    size: int
    """Bytes."""
    etag: str
    """Changes with the content; as the server writes it, without quotes. Empty: not known."""
    modified_at: float
    """Seconds since the epoch, by the server's clock."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Checksums of a file's content: one CRC-32 for each ``part_bytes`` of it, in order.

    Parts, so that they can be made and checked while parts are sent and fetched in any order.
    """

    part_bytes: int
    crcs: tuple[int, ...]
    """An empty file has one part, of no bytes."""


class Store(Protocol):
    """Everything below ``location``. Used on one event loop; safe for many tasks at once.

    Every method may be cancelled at any time and leaves nothing torn and no upload begun.
    Raises ``StorageError``, and nothing else, when it fails.
    """

    @property
    def location(self) -> Location: ...

    def entries(self, prefix: str = "") -> AsyncIterator[Entry]:
        """All objects whose key begins with ``prefix``, by key; pages are fetched as needed."""
        ...

    async def head(self, key: str) -> Entry | None:
        """The object at ``key``, or None where there is none."""
        ...

    async def read(self, key: str, *, limit: int) -> bytes:
        """A small object. ``NOT_FOUND`` where there is none, ``CORRUPT`` where it is larger."""
        ...

    async def write(self, key: str, content: bytes) -> None:
        """A small object, replaced if it is there."""
        ...

    async def write_new(self, key: str, content: bytes) -> bool:
        """A small object, unless there is one already: whether it was written.

        Of several that do this at once one succeeds. ``UNCONDITIONAL`` where the place says that
        it cannot do that; some servers do not say so, and replace what is there. False may also
        mean that a first attempt, whose answer was lost, has written it.
        """
        ...

    async def upload(
        self, key: str, fd: int, size: int, *, moved: Moved, check: Check = unchecked
    ) -> Sums:
        """The first ``size`` bytes of the open file; read by ``pread``, parts in parallel.

        ``CHANGED`` where the file turns out shorter. ``check`` is called when all of it has been
        read, before the object appears; it does not if that raises.
        """
        ...

    async def download(
        self, entry: Entry, fd: int, *, sums: Sums | None = None, moved: Moved
    ) -> None:
        """Content of ``entry`` into the open, empty file: preallocated, ranges in parallel.

        ``CHANGED`` where the object is no longer the one of ``entry.etag``; ``CORRUPT`` where
        ``sums``, or a checksum of the server's, does not hold.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Objects that are not there are no error."""
        ...

    async def region(self) -> str:
        """Of the bucket, as the server names it; empty: there is none, or it names none."""
        ...

    async def abandon_partial(self, older_s: float, prefix: str = "") -> int:
        """Remove what killed writers left unfinished for ``older_s`` seconds, and count it.

        Nobody else may write below ``prefix``: whose an unfinished object is cannot be seen. What
        is not permitted is left.
        """
        ...

    async def close(self) -> None: ...
