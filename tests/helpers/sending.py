"""Many files into objects at once, without the sync process around it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

from supervisor.storage.flow import together
from supervisor.storage.store import Store, Sums


async def send_files(
    store: Store, files: Mapping[str, str], *, moved: Callable[[int], None]
) -> dict[str, Sums]:
    """``files``: key -> path. The checksums by key; raises the first failure."""
    turns = asyncio.Semaphore(64)

    async def send(key: str, path: str) -> Sums:
        async with turns:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return await store.upload(key, fd, os.fstat(fd).st_size, moved=moved)
            finally:
                os.close(fd)

    sums = await together(send(key, path) for key, path in files.items())
    return dict(zip(files, sums, strict=True))
