"""The newest complete checkpoint into a directory, whole or not at all.

Files are fetched aside and checked; see ``staging`` for how they appear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from supervisor.storage import manifest, snapshot
from supervisor.storage.files import raise_local
from supervisor.storage.flow import in_thread, taken_back
from supervisor.storage.job import Restore
from supervisor.storage.manifest import Link, Manifest, ManifestError
from supervisor.storage.staging import Staging
from supervisor.storage.store import Entry, Moved, Reason, StorageError, Store
from supervisor.storage.trees import Incoming, fetch_files, make_links

AT_ONCE: Final = 32
"""Files that are fetched at the same time."""
_OLDER_HELPS: Final = frozenset({Reason.NOT_FOUND, Reason.CORRUPT, Reason.CHANGED})
"""Of a manifest and its objects: an older one may be whole. Whatever else goes wrong would go
wrong with an older one too, or be better soon, and the newest is wanted."""

Say = Callable[[str], None]
"""One sentence."""


class Restored(NamedTuple):
    """What was restored."""

    place: str = ""
    """Of the manifest, or of the store where there is none but there are objects; empty where
    nothing was restored."""
    files: int = 0


async def restore(store: Store, request: Restore, *, moved: Moved, said: Say) -> Restored:
    """The newest checkpoint that is whole, into an empty directory or in place of what is there.

    Raises StorageError. The target is then as it was, or has its marker.
    """
    try:
        place = await in_thread(Staging, request.target)
    except OSError as error:
        raise_local(f"look at {request.target}", error)
    if request.mode == "auto" and place.holds_files:
        said(f"{request.target} holds files already: nothing is restored")
        return Restored()
    names = await _generations(store)
    if not names:
        items = await _plain(store, said)
        if not items:
            return Restored()
        await _fetch(store, place, items, moved)
        said(f"restored {len(items)} files from {store.location}, without a manifest")
        return Restored(str(store.location), len(items))
    tried: dict[str, str] = {}
    while untried := [name for name in names if name not in tried]:
        generation = untried[0]
        where = str(store.location.child(manifest.manifest_key(generation)))
        try:
            content = await _read(store, generation)
            items = [_item(file) for file in content.files]
            await _fetch(store, place, items, moved, content.links)
        except (ManifestError, StorageError) as error:
            if isinstance(error, StorageError) and error.reason not in _OLDER_HELPS:
                raise
            tried[generation] = str(error)
            said(f"{where} cannot be restored: {error}")
            # Its writer may have made a newer one, and cleared this one away, meanwhile.
            names = await _generations(store)
        else:
            said(f"restored {len(items)} files from {where}")
            return Restored(where, len(items))
    first = next(iter(tried.values()), "they were removed")
    raise StorageError(
        Reason.CORRUPT,
        f"restore {store.location}: none of {len(tried)} checkpoints can be restored ({first}); "
        "repair or remove them, or set SUPERVISOR_RESTORE=never",
    )


# --------------------------------------------------------------------------- what there is


async def _generations(store: Store) -> list[str]:
    """Newest first. Manifests are opened only where two writers took the same number."""
    found: dict[int, list[str]] = {}
    async for entry in store.entries(manifest.FOLDER):
        name = manifest.generation_of_manifest(entry.key)
        if name is not None:
            found.setdefault(manifest.sequence_of(name), []).append(name)
    times: dict[str, float] = {}
    for several in found.values():
        for name in several if len(several) > 1 else ():
            with suppress(ManifestError):
                times[name] = (await _read(store, name)).saved_at
    return manifest.newest_first((name for several in found.values() for name in several), times)


async def _read(store: Store, generation: str) -> Manifest:
    try:
        content = await store.read(manifest.manifest_key(generation), limit=manifest.SIZE_LIMIT)
    except StorageError as error:
        if error.reason in _OLDER_HELPS:
            raise ManifestError(str(error)) from None
        raise
    return await in_thread(manifest.decode, content)


def _item(file: manifest.File) -> Incoming:
    # Objects of generations never change, so there is no tag to compare; checksums hold or not.
    entry = Entry(file.key, file.size, "", 0.0)
    return Incoming(entry, file.path, file.sums, file.mode, file.mtime_ns)


async def _plain(store: Store, said: Say) -> list[Incoming]:
    """Objects that somebody else put there, under their own names."""
    entries = []
    async for entry in store.entries():
        if entry.key.startswith(manifest.FOLDER) or manifest.generation_of_object(entry.key):
            continue
        if entry.key.endswith("/") and not entry.size:
            continue  # a "folder" of a console
        if fault := manifest.unsafe(entry.key):
            said(f"{store.location.child(entry.key)} is left out: its name {fault}")
        elif not snapshot.temporary(entry.key):
            entries.append(entry)
    # One time for all: by the order in which they were sent an index may be older than its data.
    newest_ns = int(max((entry.modified_at for entry in entries), default=0.0) * 1e9)
    return [Incoming(entry, entry.key, mtime_ns=newest_ns) for entry in entries]


# --------------------------------------------------------------------------- fetching


async def _fetch(
    store: Store,
    place: Staging,
    items: Sequence[Incoming],
    moved: Moved,
    links: Sequence[Link] = (),
) -> None:
    """All of ``items`` and ``links`` into the target, or nothing."""
    largest_first = sorted(items, key=lambda item: -item.entry.size)
    try:
        try:
            await in_thread(place.__enter__)
            with taken_back(moved) as told:
                await fetch_files(store, largest_first, place.path, moved=told, at_once=AT_ONCE)
                named = [(link.path, link.target) for link in links]
                await in_thread(make_links, named, place.path)
                await in_thread(place.commit)
        finally:
            await in_thread(place.__exit__)
    except OSError as error:
        raise_local(f"restore into {place.target}", error)
