"""What a directory looks like, and word that it looks different now.

The scan is the truth; events of the kernel only say that one is due. So an event that is lost
(a full queue, a file system without them, a directory made faster than it is watched) costs time
until the next scan, never a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from supervisor.storage import below, manifest, snapshot
from supervisor.storage.snapshot import Evidence, Fact, State

MOST_FILES: Final = 200_000
"""Of one directory; what is more is left out, and said."""
MISSING_LOOK_S: Final = 2.0
"""How often a directory is looked for that is not there, or is there anew."""
DANGLING: Final = "a link to nothing"
_STEP_MS: Final = 400
"""watchfiles looks so often whether the kernel has said anything: its share of the idle CPU."""
_DEBOUNCE_MS: Final = 800
"""Longest time that events are gathered while more come."""
_STATE_BYTES: Final = 1 << 20
"""A ``checkpoint`` file that is larger is none of TensorFlow's."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A directory at about one time."""

    there: bool = True
    """False: there is no such directory."""
    facts: tuple[Fact, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Why, by path, some are left out: special files, links that lead out, names."""
    cut: bool = False
    """There are more than ``MOST_FILES``."""


# --------------------------------------------------------------------------- scan


def scan(root: str, before: Scan | None = None, *, most: int = MOST_FILES) -> Scan:
    """All regular files and links below ``root``, and what their ends tell. Blocks.

    ``before``: an earlier scan; what it tells of files that have not changed is believed.

    Nothing outside is looked at: a directory is opened below its parent, and not through a link,
    so that one which a link replaces meanwhile is none any more. Raises OSError where ``root``
    itself cannot be read.
    """
    try:
        top = below.top(root)
    except (FileNotFoundError, NotADirectoryError):
        return Scan(there=False)
    try:
        return _scan(root, top, before, most)
    finally:
        os.close(top)


def _scan(root: str, top: int, before: Scan | None, most: int) -> Scan:
    skipped: dict[str, str] = {}
    facts: list[Fact] = []
    inside = os.path.realpath(root)
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            fd = below.opened(top, folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in below.GONE:
                if not folder:
                    return Scan(there=False)
            elif not folder:
                raise
            else:
                skipped[folder] = _why(error)
            continue
        try:
            listing = os.scandir(fd)
        except BaseException:
            os.close(fd)
            raise
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fd)
            stack.enter_context(listing)
            for entry in listing:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if fault := manifest.unsafe(path):
                    skipped[ascii(path)] = f"its name {fault}"
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISLNK(status.st_mode):
                        fact = _linked(root, inside, top, path)
                    elif stat.S_ISREG(status.st_mode):
                        fact = fact_of(path, status)
                    else:
                        skipped[path] = "no regular file"
                        continue
                except FileNotFoundError:
                    continue  # gone since
                except (OSError, _NotOursError) as error:
                    skipped[path] = _why(error) if isinstance(error, OSError) else str(error)
                    continue
                if len(facts) == most:
                    return _judged(root, before, facts, skipped, cut=True)
                facts.append(fact)
    return _judged(root, before, facts, skipped, cut=False)


class _NotOursError(Exception):
    pass


def _linked(root: str, inside: str, top: int, path: str) -> Fact:
    """The link at ``path``. Raises _NotOursError where it leads out, OSError.

    ``inside``: ``root`` without links, ``top`` a descriptor of it.
    """
    link = below.status(top, path)
    text = below.read_link(top, path)
    real = os.path.realpath(os.path.join(inside, path))
    if os.path.commonpath((real, inside)) != inside:
        raise _NotOursError("a link that leads out of the directory")
    target = _target(root, inside, path, text, real)
    if fault := manifest.link_fault(path, target):
        raise _NotOursError(f"a link whose target {fault}")
    try:
        status = below.status(top, os.path.relpath(real, inside))
    except OSError as error:
        if error.errno not in below.GONE:
            raise
        hollow = DANGLING
    else:
        if stat.S_ISREG(status.st_mode):
            return fact_of(path, status, target)
        hollow = "a link to a directory"
        if not stat.S_ISDIR(status.st_mode):
            hollow = "a link to no regular file"
    mode = stat.S_IMODE(link.st_mode)
    return Fact(path, 0, link.st_mtime_ns, link.st_ino, mode, target, hollow)


def _target(root: str, inside: str, path: str, text: str, real: str) -> str:
    """Where the link leads, relative to its own directory: as it says, or else as it is."""
    folder = os.path.dirname(path)
    for top in (root.rstrip("/"), inside):
        if text.startswith(f"{top}/"):
            text = os.path.relpath(text[len(top) + 1 :], folder or ".")
            break
    text = text.rstrip("/") or text
    if manifest.link_fault(path, text):
        return os.path.relpath(real, os.path.join(inside, folder))
    return text


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def fact_of(path: str, status: os.stat_result, link: str = "") -> Fact:
    mode = stat.S_IMODE(status.st_mode)
    return Fact(path, status.st_size, status.st_mtime_ns, status.st_ino, mode, link)


def _judged(
    root: str, before: Scan | None, facts: list[Fact], skipped: dict[str, str], *, cut: bool
) -> Scan:
    """With what the files themselves tell."""
    known = _certain(before) if before else {}
    told = before.evidence if before else Evidence()
    broken, tables, states = set(), set(), dict[str, State]()
    for fact in facts:
        path = fact.path
        is_state = snapshot.is_state(path) and fact.size <= _STATE_BYTES
        if snapshot.temporary(path) or not (is_state or snapshot.interesting(path)):
            continue
        if fact.hollow or (fact.link and is_state):
            continue  # a state file names what lies beside it, and not beside a link to it
        if (old := known.get(path)) and old.same(fact):
            if path in told.tables:
                tables.add(path)
            if path in told.states:
                states[path] = told.states[path]
            continue
        edges = _edges(root, fact, fact.size if is_state else snapshot.EDGE_BYTES)
        if is_state:
            state = snapshot.parse_state(edges[0].decode("utf-8", "replace")) if edges else None
            if state is not None:
                states[path] = state
            continue
        verdict = snapshot.whole(path, fact.size, *edges) if edges else False
        if verdict is False:
            broken.add(path)
        elif verdict and path.endswith(".index"):
            tables.add(path)
    evidence = Evidence(frozenset(broken), frozenset(tables), states)
    return Scan(True, tuple(facts), evidence, skipped, cut)


def _certain(before: Scan) -> dict[str, Fact]:
    """Files of which an earlier scan knows something that only a change of theirs can alter."""
    told = before.evidence
    return {
        fact.path: fact
        for fact in before.facts
        if fact.path in told.tables
        or fact.path in told.states
        or (
            snapshot.interesting(fact.path)
            and fact.path not in told.broken
            and not fact.path.endswith(".index")
        )
    }


def _edges(root: str, fact: Fact, size: int) -> tuple[bytes, bytes] | None:
    """The first and the last ``size`` bytes; None where it is not the file any more."""
    try:
        fd = open_as(root, fact)
    except OSError:
        return None
    if fd is None:
        return None
    try:
        head = os.pread(fd, size, 0)
        tail = os.pread(fd, size, max(0, fact.size - size))
        return (head, tail) if fact_of(fact.path, os.fstat(fd), fact.link).same(fact) else None
    except OSError:
        return None
    finally:
        os.close(fd)


def open_as(root: str, fact: Fact) -> int | None:
    """A descriptor of the file that ``fact`` tells of; None where another is in its place.

    No link is followed but the one that ``fact`` is. Raises OSError where it is not permitted, or
    there are too many.
    """
    try:
        top = below.top(root)
        try:
            path = fact.path
            if fact.link:
                inside = os.path.realpath(root)
                if _linked(root, inside, top, path) != fact or fact.hollow:
                    return None
                path = os.path.relpath(os.path.realpath(os.path.join(inside, path)), inside)
            # Not to wait for a pipe's other end.
            fd = below.opened(top, path, os.O_RDONLY | os.O_NONBLOCK)
        finally:
            os.close(top)
    except _NotOursError:
        return None
    except OSError as error:
        if error.errno in {*below.GONE, errno.ENXIO, errno.EISDIR}:
            return None
        raise
    if fact_of(fact.path, os.fstat(fd), fact.link).same(fact):
        return fd
    os.close(fd)
    return None


def still_so(root: str, facts: Iterable[Fact]) -> str:
    """The first path that does not look so any more; empty where all do. Blocks."""
    path = "."
    inside = os.path.realpath(root)
    try:
        top = below.top(root)
    except OSError:
        return path
    try:
        for fact in facts:
            path = fact.path
            if fact.link:
                now = _linked(root, inside, top, path)
            else:
                now = fact_of(path, below.status(top, path))
            if not now.same(fact):
                return path
    except (OSError, _NotOursError):
        return path
    finally:
        os.close(top)
    return ""


# --------------------------------------------------------------------------- events


async def watch(roots: Mapping[str, Callable[[], None]], said: Callable[[str, str], None]) -> None:
    """Call a directory's callback when something in it may have changed; until cancelled.

    A directory that does not exist, or is replaced, is found within ``MISSING_LOOK_S``. Where the
    kernel has no watches left this returns, and ``said`` (directory, reason) is told: scans alone
    find changes then.
    """
    while True:
        standing = {root: _identity(root) for root in roots}
        real = _real(root for root, which in standing.items() if which)
        changes = _changes(list(real), said) if real else None
        following = asyncio.ensure_future(_follow(changes, real, roots)) if changes else None
        begun = False
        try:
            while True:
                if following is None:
                    await asyncio.sleep(MISSING_LOOK_S)
                else:
                    await asyncio.wait((following,), timeout=MISSING_LOOK_S)
                    if following.done():
                        if following.result():
                            return
                        await asyncio.sleep(MISSING_LOOK_S)
                        break
                if not begun:
                    begun = True
                    for root in real.values():  # it may have changed before the watch began
                        roots[root]()
                other = [root for root in roots if _identity(root) != standing[root]]
                if other:
                    for root in other:
                        roots[root]()
                    break
        finally:
            if following is not None:
                following.cancel()
                await asyncio.wait((following,))


def _real(roots: Iterable[str]) -> dict[str, str]:
    return {os.path.realpath(root): root for root in roots}


def _identity(root: str) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


async def _follow(
    changes: AsyncIterator[set[str] | None],
    real: Mapping[str, str],
    roots: Mapping[str, Callable[[], None]],
) -> bool:
    """True: there will be no events, ever."""
    async for paths in changes:
        if paths is None:
            return True
        for directory, root in real.items():
            if any(path == directory or path.startswith(f"{directory}/") for path in paths):
                roots[root]()
    return False


async def _changes(
    directories: list[str], said: Callable[[str, str], None]
) -> AsyncIterator[set[str] | None]:
    """Paths that may have changed; None, last, where no events are to be had."""
    from watchfiles import awatch  # noqa: PLC0415  # 10 MB; not for a process that only restores

    try:
        async for events in awatch(
            *directories,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            recursive=True,
            force_polling=False,
            ignore_permission_denied=True,
        ):
            yield {path for _, path in events}
    except (FileNotFoundError, NotADirectoryError):
        return  # gone between our look and the watch
    except (OSError, RuntimeError) as error:  # the latter is what Rust's errors are by default
        said(directories[0], str(error))
        yield None
    except ExceptionGroup as errors:  # of the watch's thread, or that there is none to be had
        said(directories[0], str(errors.exceptions[0]))
        yield None
