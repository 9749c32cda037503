"""From a place's name to its store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from supervisor.storage.files import FileStore
from supervisor.storage.flow import Flow
from supervisor.storage.job import Options
from supervisor.storage.location import Location, Scheme
from supervisor.storage.store import Store

if TYPE_CHECKING:
    from supervisor.storage.s3_client import S3Client


@dataclass(slots=True)
class _Shared:
    flow: Flow
    client: S3Client | None = None
    users: int = 0


_shared: Final[dict[tuple[asyncio.AbstractEventLoop, Options], _Shared]] = {}
"""What the open stores of a loop share. Gone with the last of them."""


@contextlib.asynccontextmanager
async def open_store(location: Location, options: Options) -> AsyncIterator[Store]:
    """The store at ``location``, closed at the block's end.

    Stores that are open at the same time with the same options share connections, the budget of
    bytes in memory and the bandwidth.
    """
    key = asyncio.get_running_loop(), options
    shared = _shared.setdefault(key, _Shared(Flow(options)))
    shared.users += 1
    try:
        store: Store
        if location.scheme is Scheme.FILE:
            store = FileStore(location, shared.flow, part_bytes=options.part_bytes)
        else:
            if shared.client is None:
                # Not before it is used: the import takes 0.3 s.
                from supervisor.storage.s3_client import S3Client  # noqa: PLC0415

                shared.client = S3Client(options)
            from supervisor.storage.s3 import S3Store  # noqa: PLC0415

            store = S3Store(location, shared.client, shared.flow)
        try:
            yield store
        finally:
            await store.close()
    finally:
        shared.users -= 1
        if not shared.users:
            del _shared[key]
            if shared.client is not None:
                await shared.client.close()
