"""The newest complete checkpoint into a directory, whole or not at all.

Files are fetched aside and checked; see ``staging`` for how they appear.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from supervisor.life.agreement import Held, Kind
from supervisor.storage import epochs, fencing, manifest, snapshot, watch
from supervisor.storage.epochs import Claim
from supervisor.storage.fencing import There
from supervisor.storage.files import raise_local
from supervisor.storage.flow import in_thread, taken_back
from supervisor.storage.job import Restore
from supervisor.storage.manifest import Link, Manifest, ManifestError
from supervisor.storage.snapshot import Fact
from supervisor.storage.staging import Staging, is_kept
from supervisor.storage.store import Entry, Moved, Reason, StorageError, Store
from supervisor.storage.trees import Incoming, fetch_files, make_links

LOOK_S: Final = 20.0
"""How long it is looked for what the files that are here already may be."""
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
    holds: str = ""
    """What the directory holds now, as ``agreement.Held`` says it; empty: nobody asks."""
    aside: str = ""
    """See ``Fetched.aside``."""


async def restore(
    store: Store,
    request: Restore,
    *,
    moved: Moved,
    said: Say,
    there: There | None = None,
) -> Restored:
    """The newest checkpoint that is whole, into an empty directory or in place of what is there.

    ``there``: what is at the place, where that was just looked at.
    Raises StorageError. The target is then as it was, or has its marker.
    """
    try:
        place = await in_thread(lambda: Staging(request.target, passed_over=snapshot.temporary))
    except OSError as error:
        raise_local(f"look at {request.target}", error)
    if request.mode == "exact":
        return await _restore_exactly(store, request, place, moved=moved, said=said)
    if request.mode == "auto" and place.holds_files:
        said(f"{request.target} holds files already: nothing is restored")
        return Restored(holds=str(await _held(store, request)) if request.compared else "")
    left = await _in_order(store, set(there.names)) if there else await _generations(store)
    newest = there.newest if there else None
    tried: dict[str, str] = {}
    claims: set[str] = set()
    while left:
        generation = left[0]
        where = str(store.location.child(manifest.manifest_key(generation)))
        try:
            if newest is not None and newest.generation == generation:
                content: Manifest | Claim = newest
            else:
                content = await fencing.read(store, generation)
            if isinstance(content, Claim):
                claims.add(generation)
                left = epochs.without(left, generation, content)
                continue
            items = [_item(file) for file in content.files]
            await _fetch(store, place, items, moved, content.links)
        except (ManifestError, StorageError) as error:
            if isinstance(error, StorageError) and error.reason not in _OLDER_HELPS:
                raise
            tried[generation] = str(error)
            said(f"{where} cannot be restored: {error}")
            # Its writer may have made a newer one, and cleared this one away, meanwhile; or it came
            # too late and was taken away again, see ``fencing``: then it was none.
            names = await _generations(store)
            tried = {name: why for name, why in tried.items() if name in names}
            left = [name for name in names if name not in {*tried, *claims}]
        else:
            links = f" and {len(content.links)} links" if content.links else ""
            said(f"restored {len(items)} files{links} from {where}")
            return Restored(where, len(items), str(Held(Kind.GENERATION, generation)))
    if not tried:
        return await _restore_plain(store, request, place, moved=moved, said=said)
    first = next(iter(tried.values()), "they were removed")
    raise StorageError(
        Reason.CORRUPT,
        f"restore {store.location}: none of {len(tried)} checkpoints can be restored ({first}); "
        "repair or remove them, or set SUPERVISOR_RESTORE=never",
    )


async def _restore_plain(
    store: Store, request: Restore, place: Staging, *, moved: Moved, said: Say
) -> Restored:
    """What lies there without a manifest, if anything does."""
    items = await _plain(store, said)
    if not items:
        there = await _held(store, request) if place.holds_files else Held(Kind.NOTHING)
        return Restored(holds=str(there))
    await _fetch(store, place, items, moved)
    said(f"restored {len(items)} files from {store.location}, without a manifest")
    digest = _digest((item.path, item.entry.size) for item in items)
    return Restored(str(store.location), len(items), str(Held(Kind.OBJECTS, digest)))


async def _restore_exactly(
    store: Store, request: Restore, place: Staging, *, moved: Moved, said: Say
) -> Restored:
    """One checkpoint in place of what is there, which is kept beside it: other hosts begin from
    that one. What is there of it already is not fetched again."""
    generation = request.generation
    where = str(store.location.child(manifest.manifest_key(generation)))
    try:
        content = await fencing.read(store, generation)
    except ManifestError as error:
        raise StorageError(Reason.CORRUPT, f"restore {where}: {error}") from None
    if isinstance(content, Claim):
        raise StorageError(Reason.CORRUPT, f"restore {where}: a claim, and no checkpoint")
    holds = str(Held(Kind.GENERATION, generation))
    if not place.incomplete and await _is_at(request.target, content):
        return Restored(holds=holds, aside=request.superseded)
    try:
        try:
            await in_thread(place.__enter__)
            had = () if place.incomplete else content.files
            there = await in_thread(
                place.reuse, [(file.path, file.size, file.mtime_ns) for file in had]
            )
            items = [_item(file) for file in content.files if file.path not in there]
            await _make(store, place, items, moved, content.links)
            aside = await in_thread(lambda: place.commit(keep=True))
        finally:
            await in_thread(place.__exit__)
    except OSError as error:
        raise_local(f"restore into {place.target}", error)
    found = f", {len(there)} more were there" if there else ""
    said(f"restored {len(items)} files from {where}{found}, as all hosts of the job")
    if aside:
        said(f"what {request.target} held beside is in {aside}")
    if not request.again:
        return Restored(where, len(items), holds)
    if aside and is_kept(request.superseded, request.target):
        await in_thread(lambda: shutil.rmtree(request.superseded, ignore_errors=True))
    return Restored(where, len(items), holds, aside or request.superseded)


# --------------------------------------------------------------------------- what is here


async def _held(store: Store, request: Restore) -> Held:
    """What the files of the directory are. Whoever cannot be asked for it in short time is not
    asked: nothing has to be restored."""
    newest = ""
    with suppress(StorageError, TimeoutError):
        async with asyncio.timeout(LOOK_S):
            left = await _generations(store)
            while left:
                generation, *rest = left
                left = rest
                try:
                    found = await fencing.read(store, generation)
                except ManifestError:
                    newest = newest or generation
                    continue
                if isinstance(found, Claim):
                    left = epochs.without(left, generation, found)
                    continue
                if await _is_at(request.target, found):
                    return Held(Kind.GENERATION, generation)
                newest = generation
                break
    try:
        facts = await in_thread(_facts, request.target)
    except OSError as error:
        raise_local(f"look at {request.target}", error)
    rows = ((fact.path, fact.size, fact.mtime_ns, fact.link) for fact in facts)
    return Held(Kind.FILES, _digest(rows), newest)


async def _is_at(directory: str, content: Manifest) -> bool:
    """Whether it holds a checkpoint and nothing else: by size and time, as a sender judges it."""
    try:
        facts = await in_thread(_facts, directory)
    except OSError:
        return False
    files = {(fact.path, fact.size, fact.mtime_ns) for fact in facts if not fact.link}
    links = {(fact.path, fact.link) for fact in facts if fact.link}
    wanted = [file for file in content.files if not snapshot.is_ours(file.path)]
    return files == {(file.path, file.size, file.mtime_ns) for file in wanted} and (
        links == {(link.path, link.target) for link in content.links}
    )


def _facts(directory: str) -> list[Fact]:
    """Blocks."""
    found = watch.scan(directory).facts
    return [fact for fact in found if not snapshot.temporary(fact.path)]


def _digest(rows: Iterable[tuple[str | int, ...]]) -> str:
    return hashlib.sha256(repr(sorted(rows)).encode("utf-8", "replace")).hexdigest()[:16]


# --------------------------------------------------------------------------- what there is


async def _generations(store: Store) -> list[str]:
    """Newest first; claims may be among them, those apart that are one by their name."""
    return await _in_order(store, await fencing.listed(store))


async def _in_order(store: Store, names: set[str]) -> list[str]:
    """Manifests are opened only where two writers took the same number."""
    found: dict[int, list[str]] = {}
    for name in names:
        if not epochs.is_claim(name):
            found.setdefault(manifest.sequence_of(name), []).append(name)
    times: dict[str, float] = {}
    for several in found.values():
        for name in several if len(several) > 1 else ():
            with suppress(ManifestError):
                content = await fencing.read(store, name)
                times[name] = content.saved_at if isinstance(content, Manifest) else 0.0
    return manifest.newest_first((name for several in found.values() for name in several), times)


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
    try:
        try:
            await in_thread(place.__enter__)
            await _make(store, place, items, moved, links)
            await in_thread(place.commit)
        finally:
            await in_thread(place.__exit__)
    except OSError as error:
        raise_local(f"restore into {place.target}", error)


async def _make(
    store: Store, place: Staging, items: Sequence[Incoming], moved: Moved, links: Sequence[Link]
) -> None:
    largest_first = sorted(items, key=lambda item: -item.entry.size)
    with taken_back(moved) as told:
        await fetch_files(store, largest_first, place.path, moved=told, at_once=AT_ONCE)
        await in_thread(make_links, [(link.path, link.target) for link in links], place.path)
