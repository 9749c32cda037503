"""Checkpoints at their target: generations of immutable objects, each with a manifest. Pure.

Below the target lie ``GENERATION/PATH`` (the files) and ``manifests/GENERATION.json``, written
last: who reads manifests sees whole checkpoints only. A file that has not changed is not sent
again; the manifest names the object of the earlier generation. No object is ever overwritten.

A generation is ``%06d-%08x``: one more than the highest number that was seen, and chance, so that
two writers (an attempt that was given up but lives, and the next) never write to one key; see
``epochs`` for which of them is refused, and for manifests whose number only one can take.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor.storage.store import Sums

VERSION: Final = 1
MOST_FILES: Final = 100_000
"""Of one checkpoint."""
SIZE_LIMIT: Final = 64 << 20
"""Bytes of one manifest; as many files with names of some hundred characters fit."""
PATH_LIMIT: Final = 900
"""Bytes of a path: a key may have 1,024, and the target's prefix comes first (Amazon S3 User
Guide, "Naming Amazon S3 objects")."""
FOLDER: Final = "manifests/"
PER_EPOCH: Final = 1_000_000
"""Numbers of an epoch, see ``epochs``: with a checkpoint a second enough for eleven days."""

_GENERATION: Final = re.compile(r"(\d{6,15})-[0-9a-f]{8}")
_SUFFIX: Final = ".json"
_MODE_MASK: Final = 0o777


class ManifestError(ValueError):
    """What was read is no manifest that can be used; the text says why."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a checkpoint."""

    path: str
    """Relative to the checkpoint's directory, with slashes."""
    size: int
    """Bytes."""
    mtime_ns: int
    mode: int
    """Permission bits."""
    key: str
    """Of the object, relative to the target."""
    sums: Sums


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link of a checkpoint, to something inside of it or to nothing."""

    path: str
    target: str
    """Relative to the link's own directory; see ``link_fault``."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One complete checkpoint."""

    generation: str
    saved_at: float
    """Seconds since the epoch, by the writer's clock."""
    host: str
    job: str
    files: tuple[File, ...]
    """By path."""
    links: tuple[Link, ...] = ()
    """By path. A reader that knows of none restores the files alone, so the version is the same."""
    writer: str = ""
    """Whose it is, see ``epochs.Claim``; empty: of a version that had none."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


# --------------------------------------------------------------------------- names


def generation_name(sequence: int, chance: int) -> str:
    """``chance``: 32 random bits. From the first epoch on, six digits each for epoch and number, so
    that names stand in order where they are listed."""
    width = 6 if sequence < PER_EPOCH else 12
    return f"{sequence:0{width}d}-{chance & 0xFFFFFFFF:08x}"


def sequence_of(generation: str) -> int:
    """Raises ManifestError where it is no generation."""
    match = _GENERATION.fullmatch(generation)
    if not match:
        raise ManifestError(f"{generation[:60]!r} is no generation")
    return int(match[1])


def manifest_key(generation: str) -> str:
    return f"{FOLDER}{generation}{_SUFFIX}"


def generation_of_manifest(key: str) -> str | None:
    """None where ``key`` is no manifest's."""
    if not (key.startswith(FOLDER) and key.endswith(_SUFFIX)):
        return None
    name = key[len(FOLDER) : -len(_SUFFIX)]
    return name if _GENERATION.fullmatch(name) else None


def generation_of_object(key: str) -> str | None:
    """None where ``key`` is not below a generation: none of ours."""
    name, slash, rest = key.partition("/")
    return name if slash and rest and _GENERATION.fullmatch(name) else None


def next_sequence(generations: Iterable[str]) -> int:
    return max((sequence_of(name) for name in generations), default=0) + 1


def newest_first(
    generations: Iterable[str], saved_at: Mapping[str, float] | None = None
) -> list[str]:
    """By number; those of one number (two writers) by time, as far as it is known."""
    times = saved_at or {}
    return sorted(
        generations, key=lambda name: (sequence_of(name), times.get(name, 0.0), name), reverse=True
    )


def unsafe(path: str) -> str:
    """Why ``path`` must not be written below a directory; empty where it may be."""
    if not path:
        return "is empty"
    if "\0" in path:
        return "has a NUL in it"
    if path.startswith("/"):
        return "is absolute"
    if any(part in {"", ".", ".."} for part in path.split("/")):
        return "has an empty part, . or .. in it"
    return _unwritable(path)


def link_fault(path: str, target: str) -> str:
    """Why a link at ``path`` must not lead to ``target``; empty where it may.

    ``..`` stands only at the beginning, and not more often than the link lies deep. No path of a
    manifest lies below a link, so these ``..`` lead through real directories; and what comes after
    them may pass other links, of which the same is true. So none leads out, however they are
    chained (``a -> .`` with ``b -> a/../x`` would).
    """
    if not target or "\0" in target:
        return "is empty or has a NUL in it"
    if target.startswith("/"):
        return "is absolute"
    if posixpath.normpath(target) != target:
        return "is not in its shortest form"
    if f"{posixpath.normpath(posixpath.join(posixpath.dirname(path), target))}/".startswith("../"):
        return "leads out of the directory"
    return _unwritable(target)


def _unwritable(text: str) -> str:
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has more than {PATH_LIMIT} bytes" if length > PATH_LIMIT else ""


# --------------------------------------------------------------------------- content


def encode(manifest: Manifest) -> bytes:
    """Raises ManifestError where it would exceed a limit."""
    count = len(manifest.files) + len(manifest.links)
    if count > MOST_FILES:
        raise ManifestError(f"{count} files; a checkpoint has at most {MOST_FILES}")
    body: dict[str, Any] = {
        "version": VERSION,
        "generation": manifest.generation,
        "saved_at": manifest.saved_at,
        "host": manifest.host,
        "job": manifest.job,
        "files": [
            {
                "path": file.path,
                "size": file.size,
                "mtime_ns": file.mtime_ns,
                "mode": file.mode,
                "key": file.key,
                "part_bytes": file.sums.part_bytes,
                "crcs": file.sums.crcs,
            }
            for file in manifest.files
        ],
    }
    if manifest.links:
        body["links"] = [{"path": link.path, "target": link.target} for link in manifest.links]
    if manifest.writer:
        body["writer"] = manifest.writer
    content = json.dumps(body, separators=(",", ":")).encode()
    if len(content) > SIZE_LIMIT:
        raise ManifestError(f"{len(content)} bytes; a manifest has at most {SIZE_LIMIT}")
    return content


def decode(content: bytes) -> Manifest:
    """Raises ManifestError for whatever is not a manifest, or could write outside."""
    if len(content) > SIZE_LIMIT:
        raise ManifestError(f"{len(content)} bytes; a manifest has at most {SIZE_LIMIT}")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"no JSON: {error}") from None
    if not isinstance(body, dict):
        raise ManifestError("no JSON object")
    if body.get("version") != VERSION:
        raise ManifestError(f"version {body.get('version')!r}; version {VERSION} is understood")
    generation = _typed(body, "generation", str)
    sequence_of(generation)
    rows = _typed(body, "files", list)
    linked = _typed(body, "links", list) if "links" in body else []
    if not rows or len(rows) + len(linked) > MOST_FILES:
        raise ManifestError(f"{len(rows)} files; a checkpoint has 1 to {MOST_FILES}")
    files = tuple(_file(row) for row in rows)
    links = tuple(_link(row) for row in linked)
    _check_tree([*(file.path for file in files), *(link.path for link in links)])
    return Manifest(
        generation=generation,
        saved_at=float(_typed(body, "saved_at", int, float)),
        host=_typed(body, "host", str),
        job=_typed(body, "job", str),
        files=files,
        links=links,
        writer=_typed(body, "writer", str) if "writer" in body else "",
    )


def _file(row: object) -> File:
    if not isinstance(row, dict):
        raise ManifestError("a file that is no JSON object")
    path = _typed(row, "path", str)
    if fault := unsafe(path):
        raise ManifestError(f"the path {path[:120]!r} {fault}")
    key = _typed(row, "key", str)
    if generation_of_object(key) is None or key.partition("/")[2] != path:
        raise ManifestError(f"{path!r} has the key {key[:120]!r}, not GENERATION/{path}")
    size = _typed(row, "size", int)
    part_bytes = _typed(row, "part_bytes", int)
    crcs = _typed(row, "crcs", list)
    if size < 0 or part_bytes <= 0 or len(crcs) != max(1, -(-size // part_bytes)):
        raise ManifestError(f"{path!r} has {len(crcs)} checksums of {part_bytes} for {size} bytes")
    if not all(type(crc) is int and 0 <= crc < 1 << 32 for crc in crcs):
        raise ManifestError(f"{path!r} has a checksum that is none")
    mtime_ns = _typed(row, "mtime_ns", int)
    if abs(mtime_ns) >= 1 << 63:
        raise ManifestError(f"{path!r} has a time that is none")
    return File(
        path=path,
        size=size,
        mtime_ns=mtime_ns,
        mode=_typed(row, "mode", int) & _MODE_MASK,
        key=key,
        sums=Sums(part_bytes, tuple(crcs)),
    )


def _link(row: object) -> Link:
    if not isinstance(row, dict):
        raise ManifestError("a link that is no JSON object")
    path, target = _typed(row, "path", str), _typed(row, "target", str)
    if fault := unsafe(path):
        raise ManifestError(f"the path {path[:120]!r} {fault}")
    if fault := link_fault(path, target):
        raise ManifestError(f"the target {target[:120]!r} of the link {path[:120]!r} {fault}")
    return Link(path, target)


def _typed(row: Mapping[str, Any], key: str, *kinds: type) -> Any:
    value = row.get(key)
    if type(value) not in kinds:
        raise ManifestError(f"{key!r} is {type(value).__name__}, not {kinds[0].__name__}")
    return value


def _check_tree(paths: Sequence[str]) -> None:
    """No path twice, none both a file (or a link) and a directory."""
    files = set(paths)
    if len(files) != len(paths):
        raise ManifestError("a path stands there twice")
    for path in files:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in files:
                raise ManifestError(f"{parent!r} is a file and a directory")
            parent = parent.rpartition("/")[0]


# --------------------------------------------------------------------------- decisions


def reusable(manifest: Manifest | None) -> dict[tuple[str, int, int], File]:
    """Files that need not be sent again, by path, size and time of change: rsync's rule.

    Times have nanoseconds and are restored with the files, so a new attempt finds what it has.
    """
    if manifest is None:
        return {}
    return {(file.path, file.size, file.mtime_ns): file for file in manifest.files}


def kept(generations: Iterable[str], keep: int) -> list[str]:
    """The newest ``keep``, newest first; all for 0. Of one number all or none are kept."""
    order = newest_first(generations)
    if keep <= 0 or len(order) <= keep:
        return order
    last = sequence_of(order[keep - 1])
    return [name for name in order if sequence_of(name) >= last]


def retired(generations: Collection[str], keep: int) -> list[str]:
    """The generations whose manifests may go, oldest first."""
    stay = set(kept(generations, keep))
    return [name for name in reversed(newest_first(generations)) if name not in stay]


def needless(manifests: Sequence[Manifest], keys: Iterable[str]) -> list[str]:
    """Those of ``keys`` that may go when ``manifests`` are all that are left.

    Only what lies in a generation older than all of them: in a newer one another writer may be
    at work, whose manifest is yet to come. Nothing where no manifest is left.
    """
    if not manifests:
        return []
    oldest = min(sequence_of(each.generation) for each in manifests)
    used = {file.key for each in manifests for file in each.files}
    found = []
    for key in keys:
        generation = generation_of_object(key)
        if generation and sequence_of(generation) < oldest and key not in used:
            found.append(key)
    return found
