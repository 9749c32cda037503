"""``python -P -m supervisor.storage.fetch``: what a job reads before it, once, then it ends.

The job is in the environment (``job.FetchJob``), the outcome a file (``job.Fetched``). Everything
goes on at once and shares one budget of memory. The first failure ends the rest; it is said in
one sentence, which is also left in ``SUPERVISOR_ERROR_FILE``, and the exit code is 1.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import posixpath
import signal
import stat
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar, cast

from supervisor import regular
from supervisor.faults import shown, without_number
from supervisor.linux import prctl
from supervisor.storage import job as jobs
from supervisor.storage import progress
from supervisor.storage.files import PARTIAL, FileStore
from supervisor.storage.flow import in_thread, run, together
from supervisor.storage.job import (
    Claiming,
    Fetched,
    FetchJob,
    Options,
    Restore,
    Source,
    Tree,
    Writer,
)
from supervisor.storage.location import Location, Scheme
from supervisor.storage.places import open_store
from supervisor.storage.progress import Progress, amount
from supervisor.storage.store import Entry, Moved, Reason, StorageError, Store
from supervisor.storage.trees import Incoming, fetch_files
from supervisor.streams.masking import Masker

if TYPE_CHECKING:
    from supervisor.storage.archive import Unpacked
    from supervisor.storage.fencing import There

T = TypeVar("T")

OPTIONAL_S: Final = 20.0
"""How long an operation is tried for what is optional."""
_NAMED: Final = 10
"""Of what a place holds and is no file, so many are named."""
_LONGEST: Final = 1000
"""Characters of a sentence."""


class FetchError(Exception):
    """Why the job's files are not there: one sentence."""


# ---------------------------------------------------------------------------- decisions, pure


def shard_of(entries: Iterable[Entry], shard: int, shards: int) -> list[Entry]:
    """Every ``shards``-th from the ``shard``-th, by key: all shards together have each once.

    Sorted here, by the bytes of the keys: not every server lists them so.
    """
    return sorted(entries, key=lambda entry: os.fsencode(entry.key))[shard::shards]


def fault_of(keys: Sequence[str]) -> str:
    """Why these keys cannot be files below one directory; empty if they can."""
    files = set(keys)
    for key in keys:
        parts = key.split("/")
        bad = next((part for part in parts if part in {"", ".", ".."}), None)
        if bad is not None or "\0" in key:
            what = "an empty part" if bad == "" else f"the part {bad}" if bad else "a NUL"
            return f"the key {shown(key)} has {what} and cannot be a file's name; rename it"
        for end in range(1, len(parts)):
            if (parent := "/".join(parts[:end])) in files:
                return (
                    f"the keys {shown(parent)} and {shown(key)} cannot both be files: one is the "
                    "other's directory; rename one"
                )
    return ""


@dataclass(frozen=True, slots=True)
class Here:
    """A regular file of the name that an object is to have."""

    size: int
    mtime_ns: int


def is_wanted(entry: Entry, here: Here | None, *, kept_newer: bool) -> bool:
    """Whether an object is to be fetched. What we have fetched has its time and size.

    ``kept_newer``: a file that was written after the object stays, as in a directory that is
    mirrored there: the last attempt wrote it and died before it was sent.
    """
    if here is None:
        return True
    if kept_newer and here.mtime_ns > mtime_ns_of(entry):
        return False
    return (here.size, here.mtime_ns) != (entry.size, mtime_ns_of(entry))


def mtime_ns_of(entry: Entry) -> int:
    return round(entry.modified_at * 1e6) * 1000


# -------------------------------------------------------------------------------------- disks


class Disks:
    """Room on the disks, claimed before anything is written. One for all transfers."""

    def __init__(self) -> None:
        self._left: dict[int, int] = {}

    def claim(self, directory: str, size: int, what: str) -> None:
        """Raises FetchError where there is not so much room beside what is claimed already."""
        at = os.path.realpath(directory)
        while not os.path.exists(at):
            at = os.path.dirname(at)
        disk = os.statvfs(at)
        device = os.stat(at).st_dev
        left = self._left.setdefault(device, disk.f_bavail * disk.f_frsize)
        if size > left:
            raise FetchError(
                f"{what} needs {amount(size)} ({size:,} bytes) in {directory}, and only "
                f"{amount(left)} ({left:,} bytes) are free on its disk; give the job a larger one"
            )
        self._left[device] = left - size


# ------------------------------------------------------------------------------------ the job


@dataclass(frozen=True, slots=True)
class Count:
    """What one transfer has brought."""

    files: int = 0
    bytes: int = 0
    resumed_from: str = ""
    bucket_region: str = ""
    holds: str = ""
    aside: str = ""
    writer: Writer = field(default_factory=Writer)


class Fetch:
    """One run of a job."""

    def __init__(self, job: FetchJob) -> None:
        self._job = job
        self._disks = Disks()

    async def run(self) -> Fetched:
        """Raises FetchError, StorageError, OSError; the first of those that happened."""
        began = asyncio.get_running_loop().time()
        work: list[Coroutine[None, None, Count]] = [
            self._optional(tree) if tree.optional else self._tree(tree, self._job.options)
            for tree in self._job.trees
        ]
        if self._job.source is not None:
            work.append(self._source(self._job.source))
        if self._job.claim is not None or self._job.restore is not None:
            work.append(self._checkpoints(self._job.claim, self._job.restore))
        if self._job.region_of is not None:
            work.append(self._region(self._job.region_of))
        counts = await together(work)
        return Fetched(
            resumed_from="".join(count.resumed_from for count in counts),
            bucket_region="".join(count.bucket_region for count in counts),
            holds="".join(count.holds for count in counts),
            aside="".join(count.aside for count in counts),
            writer="".join(count.writer.token for count in counts),
            epoch=sum(count.writer.epoch for count in counts),
            conditional=any(count.writer.conditional for count in counts),
            files=sum(count.files for count in counts),
            bytes=sum(count.bytes for count in counts),
            seconds=asyncio.get_running_loop().time() - began,
        )

    # ------------------------------------------------------------------------- trees

    async def _optional(self, tree: Tree) -> Count:
        """What nobody asked for by name is not waited for long, and fails nothing."""
        try:
            return await self._tree(tree, self._hurried())
        except FetchError as error:
            os.makedirs(tree.target, exist_ok=True)
            progress.say(f"{error}; the job goes on without it")
            return Count()

    async def _region(self, place: Location) -> Count:
        try:
            async with open_store(place, self._hurried()) as store:
                return Count(bucket_region=await store.region())
        except StorageError as error:
            progress.say(f"{error}; the script is told the job's region for the bucket's")
            return Count()

    def _hurried(self) -> Options:
        options = self._job.options
        return replace(options, retry_s=min(options.retry_s, OPTIONAL_S))

    async def _tree(self, tree: Tree, options: Options) -> Count:
        with _said_of(tree.name):
            found = await self._listed(tree, options)
            if found is None:
                os.makedirs(tree.target, exist_ok=True)
                return Count()
            location, entries = found
            async with open_store(location, options) as store:
                return await self._fetch(store, tree, entries)

    async def _listed(self, tree: Tree, options: Options) -> tuple[Location, list[Entry]] | None:
        """What there is, and below which place; None where nothing is and nothing need be."""
        async with open_store(tree.origin, options) as store:
            entries = await _entries(store)
            _say_left_out(tree.name, store)
        if entries:
            return tree.origin, entries
        single = await _head(tree.origin, options)
        if single is not None:
            return _parent(tree.origin), [single]
        if tree.may_be_empty:
            return None
        raise FetchError(f"nothing is at {tree.origin}: no object has that name or lies below it")

    async def _fetch(self, store: Store, tree: Tree, entries: list[Entry]) -> Count:
        markers = [entry for entry in entries if entry.key.endswith("/")]
        if any(entry.size for entry in markers):
            progress.say(
                f"{tree.name}: {len(markers)} keys end in a slash and are no files; left out"
            )
        files = [entry for entry in entries if not entry.key.endswith("/")]
        if fault := fault_of([entry.key for entry in files]):
            raise FetchError(f"{store.location}: {fault}")
        mine = shard_of(files, tree.shard, tree.shards)
        wanted = await in_thread(_wanted, tree, mine)
        if len(wanted) < len(mine):
            progress.say(f"{tree.name}: {len(mine) - len(wanted):,} files are there already")
        size = sum(entry.size for entry in wanted)
        self._disks.claim(tree.target, size, tree.name)
        with self._progress(tree.name, size, len(wanted)) as moving:
            moving.files = await fetch_files(
                store,
                (Incoming(each, each.key, mtime_ns=mtime_ns_of(each)) for each in wanted),
                tree.target,
                moved=moving.moved,
            )
        return Count(moving.files, size)

    # ------------------------------------------------------------------------ source

    async def _source(self, source: Source) -> Count:
        from supervisor.storage.staging import Staging  # noqa: PLC0415

        origin = source.origin
        if origin.scheme is Scheme.FILE and _same(origin.key, source.target):
            return Count()
        staging = Staging(source.target)
        if staging.holds_files:
            progress.say(f"source: {source.target} holds files already; {origin} is not fetched")
            return Count()
        with _said_of("source"), staging:
            if origin.scheme is Scheme.FILE:
                done = await self._local_source(source, staging.path)
            else:
                done = await self._remote_source(source, staging.path)
            staging.commit()
        return done

    async def _local_source(self, source: Source, root: str) -> Count:
        path = source.origin.key
        try:
            kind = os.stat(path).st_mode
            if stat.S_ISDIR(kind):
                return await self._copied(source, root)
            if not stat.S_ISREG(kind):
                raise FetchError(f"{path} is neither a file nor a directory ({_HYPERPARAMETER})")
            with await asyncio.to_thread(open, path, "rb") as file:
                return await self._unpacked(source, file, root)
        except (FileNotFoundError, NotADirectoryError):
            raise FetchError(f"{path} is not there ({_HYPERPARAMETER})") from None
        except PermissionError:
            raise FetchError(f"{path} may not be read ({_HYPERPARAMETER})") from None

    async def _remote_source(self, source: Source, root: str) -> Count:
        origin, options = source.origin, self._job.options
        entry = await _head(origin, options)
        if entry is None:
            return await self._source_tree(source, root)
        self._disks.claim(root, entry.size, str(origin))
        # A file without a name: nothing to remove, whatever happens.
        with tempfile.TemporaryFile(dir=root) as file:
            with self._progress("source", entry.size, 1) as moving:
                async with open_store(_parent(origin), options) as store:
                    await store.download(entry, file.fileno(), moved=moving.moved)
                moving.file_done()
            return await self._unpacked(source, cast("BinaryIO", file), root)

    async def _source_tree(self, source: Source, root: str) -> Count:
        async with open_store(source.origin, self._job.options) as store:
            entries = await _entries(store)
            if not entries:
                place = source.origin
                raise FetchError(
                    f"the bucket {place.bucket} has no object {shown(place.key)}, and none below "
                    f"it ({_HYPERPARAMETER})"
                )
            size = sum(entry.size for entry in entries)
            if len(entries) > source.max_files or size > source.max_bytes:
                raise FetchError(
                    f"{source.origin} has {len(entries):,} objects of {amount(size)}; the limits "
                    f"are {source.max_files:,} and {amount(source.max_bytes)}"
                )
            tree = Tree("source", source.origin, root)
            return await self._fetch(store, tree, entries)

    async def _copied(self, source: Source, root: str) -> Count:
        from supervisor.storage import archive  # noqa: PLC0415

        limits = archive.Limits(source.max_bytes, source.max_files)
        loop = asyncio.get_running_loop()

        def copy(moved: Moved) -> Unpacked:
            return archive.copy(
                source.origin.key,
                root,
                limits,
                moved,
                lambda text: _later(loop, text),
            )

        return await self._written("source copied", copy)

    async def _unpacked(self, source: Source, file: BinaryIO, root: str) -> Count:
        from supervisor.storage import archive  # noqa: PLC0415  # not where it is not needed

        name = str(source.origin) if source.origin.bucket else source.origin.key
        limits = archive.Limits(source.max_bytes, source.max_files)

        def unpack(moved: Moved) -> Unpacked:
            packed = archive.packing(file, name)
            return archive.unpack(file, name, packed, root, limits, moved)

        return await self._written("source unpacked", unpack)

    async def _written(self, name: str, work: Callable[[Moved], Unpacked]) -> Count:
        from supervisor.storage.archive import ArchiveError  # noqa: PLC0415

        try:
            with self._progress(name, None, None) as moving:
                done = await _in_thread(work, moving.moved)
                moving.files = done.files
        except ArchiveError as error:
            raise FetchError(str(error)) from error
        return Count(done.files, done.bytes)

    # ----------------------------------------------------------------------- restore

    async def _checkpoints(self, claim: Claiming | None, request: Restore | None) -> Count:
        """Claim the place, if this host is to write there, and restore."""
        places = [claim.place] if claim else [request.origin] if request else []
        with _said_of("checkpoints"):
            async with open_store(places[0], self._job.options) as store:
                writer, there = Writer(), None
                if claim is not None:
                    writer, there = await self._claimed(store, claim, restores=bool(request))
                if request is None:
                    return Count(writer=writer)
                count = await self._restored(store, request, there)
        return replace(count, writer=writer)

    async def _claimed(
        self, store: Store, claim: Claiming, *, restores: bool
    ) -> tuple[Writer, There | None]:
        """Where that is not permitted it is said, and what is there may yet be restored: whether
        the job is to go on without being kept is decided where it is kept."""
        from supervisor.storage.fencing import Fence, new_writer  # noqa: PLC0415

        writer = new_writer()
        fence = Fence(store, writer, host=claim.host, job=claim.job)
        try:
            there = await fence.claim()
        except StorageError as error:
            if restores and error.reason not in {Reason.DENIED, Reason.LOCAL}:
                raise  # it would fail as well, after as long a time
            progress.say(f"checkpoints: {claim.place} is not claimed: {error}")
            return replace(writer, again=True), None
        return fence.writer, there

    async def _restored(self, store: Store, request: Restore, there: There | None) -> Count:
        from supervisor.storage.restore import restore  # noqa: PLC0415

        with self._progress("checkpoint restored", None, None) as moving:
            done = await restore(store, request, moved=moving.moved, said=progress.say, there=there)
            moving.files = done.files
        return Count(done.files, moving.bytes, done.place, holds=done.holds, aside=done.aside)

    @contextmanager
    def _progress(self, name: str, size: int | None, files: int | None) -> Iterator[Progress]:
        moving = Progress(name, size, files, live=self._job.live)
        try:
            yield moving
        except asyncio.CancelledError:
            moving.finish("stopped")
            raise
        except Exception:
            moving.finish("failed")  # why is said once, at the end
            raise
        moving.finish()


_HYPERPARAMETER: Final = "hyperparameter sagemaker_submit_directory"


@contextmanager
def _said_of(name: str) -> Iterator[None]:
    """Whatever fails is said with the transfer's name before it."""
    try:
        yield
    except (StorageError, FetchError) as error:
        raise FetchError(f"{name}: {error}") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise FetchError(f"{name}: {where}{error.strerror or error}") from error


async def _in_thread(work: Callable[[Moved], T], moved: Moved) -> T:
    """Long work in a thread, which tells what it has moved and ends when we are cancelled."""
    loop = asyncio.get_running_loop()
    stopped = threading.Event()

    def told(count: int) -> None:
        if stopped.is_set():
            raise FetchError("stopped")
        if count:
            loop.call_soon_threadsafe(moved, count)

    future = loop.run_in_executor(None, work, told)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait((future,))
        if not future.cancelled():
            future.exception()  # looked at: nobody else will
        raise


def _later(loop: asyncio.AbstractEventLoop, text: str) -> None:
    loop.call_soon_threadsafe(progress.say, text)


async def _entries(store: Store) -> list[Entry]:
    return [entry async for entry in store.entries()]


def _say_left_out(name: str, store: Store) -> None:
    if not isinstance(store, FileStore):
        return
    rows = sorted(store.left_out.items())
    for key, why in rows[:_NAMED]:
        progress.say(f"{name}: {shown(key)} is left out: {why}")
    if len(rows) > _NAMED:
        progress.say(f"{name}: {len(rows) - _NAMED} more are left out")


async def _head(location: Location, options: Options) -> Entry | None:
    """The one object of exactly this name."""
    if not location.key.strip("/"):
        return None
    async with open_store(_parent(location), options) as store:
        return await store.head(posixpath.basename(location.key))


def _parent(location: Location) -> Location:
    return replace(location, key=posixpath.dirname(location.key))


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _here(target: str, key: str) -> Here | None:
    try:
        status = os.lstat(os.path.join(target, key))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Here(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _wanted(tree: Tree, entries: list[Entry]) -> list[Entry]:
    """What of ``entries`` is to be fetched. Blocks."""
    _sweep(tree.target)
    return [
        entry
        for entry in entries
        if is_wanted(entry, _here(tree.target, entry.key), kept_newer=tree.may_be_empty)
    ]


def _sweep(directory: str) -> None:
    """Remove what an attempt that was killed had not finished."""
    for at, _, names in os.walk(directory):
        for name in names:
            if name.startswith(PARTIAL):
                with suppress(OSError):
                    os.unlink(os.path.join(at, name))


# ----------------------------------------------------------------------------------- process


def main() -> int:
    prctl.die_with_parent()
    try:
        job = jobs.decode_fetch(os.environ[jobs.VARIABLE])
    except (LookupError, TypeError, ValueError) as error:
        _say_why(f"{jobs.VARIABLE} is no job: {type(error).__name__}: {error}")
        return 2
    try:
        _write(job.result, run(_until_signalled(Fetch(job).run())))
    except _SignalledError as signalled:
        progress.flush()
        signal.signal(signalled.signum, signal.SIG_DFL)
        signal.raise_signal(signalled.signum)  # so that our parent sees what we died of
        return 128 + signalled.signum
    except (FetchError, StorageError, OSError) as error:
        _say_why(without_number(str(error)))
        return 1
    except Exception as error:  # noqa: BLE001  # a defect of ours is said as well
        traceback.print_exc()
        _say_why(f"internal error while fetching: {type(error).__name__}: {error}")
        return 1
    progress.flush()
    return 0


class _SignalledError(Exception):
    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


async def _until_signalled(work: Coroutine[None, None, T]) -> T:
    """``work``, cancelled by the first stop signal. The second one kills."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    got = 0

    def stop(signum: int) -> None:
        nonlocal got
        got = signum
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        task.cancel()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop, signum)
    try:
        return await task
    except BaseException:
        if got:
            raise _SignalledError(got) from None
        raise


def _write(path: str, fetched: Fetched) -> None:
    """Whole or not at all."""
    regular.replace(path, json.dumps(dataclasses.asdict(fetched)))


def _say_why(message: str) -> None:
    message = Masker.of(os.environ).text(" ".join(message.split()))
    if len(message) > _LONGEST:
        message = message[: _LONGEST - 1] + "…"
    progress.say(f"supervisor: {message}")
    if problem := regular.write_error(message):
        progress.say(f"supervisor: {problem}")
    progress.flush()


if __name__ == "__main__":
    sys.exit(main())
