"""From what a directory looks like: which files may be sent now, and what to wait for. Pure.

What is known of how files are written:

- TensorFlow's bundle ``P`` is ``P.index`` and ``P.data-0000i-of-0000n``. The shards are written
  under other names and renamed, then the index is written, in place, under its own name
  (tensorflow/core/util/tensor_bundle, ``MergeBundles``). So a bundle is complete if all shards are
  there, the index is no older than any of them, and the index has its end: a table's footer with
  its magic number.
- ``checkpoint``, the state file, is replaced atomically after the bundle that it names, and before
  older ones are removed. Without it `tf.train.latest_checkpoint` finds nothing: a directory's first
  bundle waits for it, for ``settle_s``, for there are programs that write none.
- Whatever else is written is complete when nobody has written to it for a while (``settle_s``),
  and its format, where we know it, has its end: Keras writes HDF5 files and archives in place, and
  may pause for long in the middle.

Times of files are compared with each other only, never with a clock: how long a file has been
unchanged is what was seen, by a clock that does not jump.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

PATIENCE_S: Final = 60.0
"""A file that is written to for longer without a pause, or is not whole for so long, holds up the
others no more."""
SOON_S: Final = 0.1
"""What TensorFlow is just renaming or removing is looked at again so soon, then ever later."""
OURS: Final = ".supervisor-"
INCOMPLETE: Final = f"{OURS}incomplete"
"""In a directory whose files are not all there yet."""
"""Names that begin so are ours."""
LEDGER: Final = f"{OURS}ledger.json"
"""How much time of how many runs went into what lies there. It goes with checkpoints, and alone
would make none."""
EDGE_BYTES: Final = 64
"""Of the beginning and of the end of a file, looked at for its format."""

_SHARD: Final = re.compile(r"(?P<prefix>.+)\.data-(?P<shard>\d{5})-of-(?P<shards>\d{5})", re.DOTALL)
_TEMPORARY: Final = re.compile(
    r"""
      \.tempstate\d+$           # TensorFlow's bundles
    | _temp(_[0-9a-f]{32})?/part[-.]
    | \.tmp([0-9a-f]{32})?$     # TensorFlow's atomic writes, and nearly everybody's
    | \.orbax-checkpoint-tmp    # directories of Orbax
    | (^|/)\.nfs[0-9a-f]{16,}$  # unlinked on NFS, but open
    """,
    re.VERBOSE,
)
_TABLE_MAGIC: Final = (0xDB4775248B80FB57).to_bytes(8, "little")
_HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_END_BYTES: Final = 22
_HDF5_NAMES: Final = (".h5", ".hdf5")
_ZIP_NAMES: Final = (".keras", ".npz", ".zip")
_MODEL_NAMES: Final = (*_HDF5_NAMES, *_ZIP_NAMES, ".pb", ".ckpt", ".safetensors", ".npy")
_LAST_NAMES: Final = frozenset({"saved_model.pb", "saved_model.pbtxt"})
_STATE_NAME: Final = "checkpoint"
_STATE_ROW: Final = re.compile(
    r'^\s*(model_checkpoint_path|all_model_checkpoint_paths)\s*:\s*"((?:[^"\\\n]|\\.)*)"',
    re.MULTILINE,
)
_ESCAPE: Final = re.compile(r"\\([0-7]{1,3}|.)")


@dataclass(frozen=True, slots=True)
class Fact:
    """A regular file as stat(2) shows it, or a link that stays inside of the directory.

    Of a link to a file size, time, inode and mode are the file's."""

    path: str
    """Relative to the directory, with slashes."""
    size: int
    mtime_ns: int
    inode: int
    mode: int
    """Permission bits."""
    link: str = ""
    """The target of a link, relative to the link's own directory; empty: it is none."""
    hollow: str = ""
    """Why there is no file behind the link: ``a link to a directory``."""

    def same(self, other: Fact) -> bool:
        """Whether it holds the same content, as far as stat(2) tells."""
        return self._identity == other._identity

    @property
    def _identity(self) -> tuple[int, int, int, str]:
        return self.size, self.mtime_ns, self.inode, self.link


@dataclass(frozen=True, slots=True)
class State:
    """What TensorFlow's ``checkpoint`` file names: prefixes of bundles."""

    newest: str
    all: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read of the files themselves. Paths that are not mentioned were not looked at."""

    broken: frozenset[str] = frozenset()
    """Their format has no end yet."""
    tables: frozenset[str] = frozenset()
    """Files with the end of a table: indexes of TensorFlow."""
    states: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A file over time; seconds of a clock that does not jump."""

    fact: Fact
    since_s: float
    """It has looked so since then."""
    restless_s: float
    """It had not settled since then, when it last changed."""
    calm: bool = False
    """It has been seen settled, as it is."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What was seen of a directory."""

    files: Mapping[str, Seen] = field(default_factory=dict)
    broken_s: Mapping[str, float] = field(default_factory=dict)
    """Bundles that were incomplete whenever they were looked at, since then."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files of one prefix of TensorFlow's."""

    prefix: str
    index: Fact | None
    shards: tuple[Fact, ...]
    complete: bool

    @property
    def facts(self) -> tuple[Fact, ...]:
        return (*self.shards, self.index) if self.index else self.shards


@dataclass(frozen=True, slots=True)
class Choice:
    """What may be sent, and what may not."""

    files: tuple[Fact, ...]
    """Complete, by path."""
    waiting: tuple[str, ...] = ()
    """Not yet complete, but expected to be."""
    until_s: float | None = None
    """When to look again if nothing changes; None: nothing becomes true by waiting."""
    restless: tuple[str, ...] = ()
    """Left out: they never settle."""
    incomplete: tuple[str, ...] = ()
    """Left out: nobody goes on writing them."""
    growing: frozenset[str] = frozenset()
    """Of ``files``: sent as far as they go, and may be appended to meanwhile."""


# --------------------------------------------------------------------------- formats


def temporary(path: str) -> bool:
    """Whether the name says that it is still being written, or that it is ours."""
    return bool(_TEMPORARY.search(path)) or is_ours(path)


def is_ours(path: str) -> bool:
    """Whether we have made it; also what we are about to rename so."""
    return any(part.startswith((OURS, f".{OURS}")) for part in path.split("/"))


def interesting(path: str) -> bool:
    """Whether the ends of the file tell something; see ``whole``."""
    return path.endswith((".index", *_HDF5_NAMES, *_ZIP_NAMES))


def beside(facts: Iterable[Fact]) -> list[Fact]:
    """What is sent with a checkpoint."""
    return [fact for fact in facts if fact.path == LEDGER and not fact.link]


def is_written_by_a_save(path: str) -> bool:
    """Whether it is a checkpoint's or a model's, or a part of one that is being written."""
    if is_ours(path):
        return False
    return bool(
        temporary(path) or _SHARD.fullmatch(path) or path.endswith((".index", *_MODEL_NAMES))
    )


def is_state(path: str) -> bool:
    return posixpath.basename(path) == _STATE_NAME


def whole(path: str, size: int, head: bytes, tail: bytes) -> bool | None:
    """Whether the format of the file has its end; None where the format is not known.

    ``head`` and ``tail``: the first and the last ``EDGE_BYTES``, or all there are.
    """
    if path.endswith(".index"):
        return tail.endswith(_TABLE_MAGIC) or None
    if path.endswith(_HDF5_NAMES):
        return _hdf5_whole(size, head)
    if path.endswith(_ZIP_NAMES):
        # With a comment at its end it is not seen to be whole: then it waits longer, no more.
        return tail[-_ZIP_END_BYTES:].startswith(_ZIP_END)
    return None


def _hdf5_whole(size: int, head: bytes) -> bool | None:
    """The superblock tells where the file ends; it is right when the file was closed.

    HDF5 File Format Specification, "Disk Format: Level 0A".
    """
    if size == 0:
        return False
    if not head.startswith(_HDF5_MAGIC) or len(head) < 56:
        return None
    version = head[8]
    width, at = (
        (head[13], 40) if version == 0 else (head[13], 44) if version == 1 else (head[9], 28)
    )
    return version > 3 or width != 8 or int.from_bytes(head[at : at + 8], "little") == size


def parse_state(text: str) -> State | None:
    """The content of a ``checkpoint`` file; None where it is none of TensorFlow's."""
    newest, others = "", []
    for name, value in _STATE_ROW.findall(text):
        path = _ESCAPE.sub(_unescaped, value)
        if name == "model_checkpoint_path":
            newest = path
        else:
            others.append(path)
    return State(newest, tuple(others)) if newest else None


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code, 8)) if code[0] in "01234567" else {"n": "\n", "t": "\t"}.get(code, code)


def bundles(facts: Iterable[Fact], evidence: Evidence) -> dict[str, Bundle]:
    """By prefix. A lone ``*.index`` that is no table is somebody else's file."""
    indexes: dict[str, Fact] = {}
    shards: dict[str, list[tuple[int, int, Fact]]] = {}
    for fact in facts:
        if fact.hollow:
            continue
        if match := _SHARD.fullmatch(fact.path):
            row = (int(match["shards"]), int(match["shard"]), fact)
            shards.setdefault(match["prefix"], []).append(row)
        elif fact.path.endswith(".index"):
            indexes[fact.path.removesuffix(".index")] = fact
    for prefix in [each for each in indexes if each not in shards]:
        if indexes[prefix].path not in evidence.tables:
            del indexes[prefix]
    return {
        prefix: Bundle(
            prefix,
            index := indexes.get(prefix),
            tuple(fact for _, _, fact in sorted(rows, key=lambda row: row[:2])),
            index is not None and index.path in evidence.tables and _all_there(index, rows),
        )
        for prefix in indexes.keys() | shards.keys()
        for rows in [shards.get(prefix, [])]
    }


def _all_there(index: Fact, rows: list[tuple[int, int, Fact]]) -> bool:
    """Some number of shards is there in full, none of it younger than the index."""
    for count in {shards for shards, _, _ in rows}:
        mine = [(shard, fact) for shards, shard, fact in rows if shards == count]
        if {shard for shard, _ in mine} == set(range(count)) and all(
            fact.mtime_ns <= index.mtime_ns for _, fact in mine
        ):
            return True
    return False


# --------------------------------------------------------------------------- time


def observe(
    memory: Memory,
    facts: Iterable[Fact],
    evidence: Evidence,
    *,
    now_s: float,
    settle_s: float,
) -> Memory:
    """``memory`` and what the directory looks like now."""
    files = {}
    for fact in facts:
        if temporary(fact.path):
            continue
        old = memory.files.get(fact.path)
        if old is None:
            files[fact.path] = Seen(fact, now_s, now_s)
        elif not fact.same(old.fact):
            files[fact.path] = Seen(fact, now_s, now_s if old.calm else old.restless_s)
        elif not old.calm and now_s - old.since_s >= settle_s:
            files[fact.path] = replace(old, calm=True)
        else:
            files[fact.path] = replace(old, fact=fact) if fact != old.fact else old
    broken = {
        prefix: memory.broken_s.get(prefix, now_s)
        for prefix, bundle in bundles((seen.fact for seen in files.values()), evidence).items()
        if not bundle.complete
    }
    return Memory(files, broken)


# --------------------------------------------------------------------------- choices


class _Chooser:
    """One pass over a directory; what checkpoints and mirrors have in common."""

    def __init__(
        self,
        memory: Memory,
        evidence: Evidence,
        *,
        root: str,
        now_s: float,
        settle_s: float,
        final: bool,
    ) -> None:
        self.memory, self.evidence, self.root = memory, evidence, root.rstrip("/")
        self.now_s, self.settle_s, self.final = now_s, settle_s, final
        self.files: list[Fact] = []
        self.waiting: list[str] = []
        self.restless: list[str] = []
        self.incomplete: list[str] = []
        self.until_s: float | None = None
        facts = [seen.fact for seen in memory.files.values()]
        self.bundles = bundles(facts, evidence)
        self.members = {fact.path for each in self.bundles.values() for fact in each.facts}

    def wait(self, path: str, until_s: float) -> None:
        self.waiting.append(path)
        self.until_s = until_s if self.until_s is None else min(self.until_s, until_s)

    def wait_briefly(self, path: str, since_s: float) -> None:
        """It should be complete in a moment, and is waited for as long as ``PATIENCE_S``."""
        later_s = self.now_s + max(SOON_S, self.now_s - since_s)
        self.wait(path, min(later_s, since_s + PATIENCE_S))

    def take_bundles(self, *, with_state: bool = False) -> None:
        """``with_state``: the first ones of a directory wait for the file that names them."""
        due_s = self._state_due_s() if with_state and not self.final else {}
        for prefix, bundle in self.bundles.items():
            names = [fact.path for fact in bundle.facts]
            until_s = due_s.get(posixpath.dirname(prefix), self.now_s)
            since_s = self.memory.broken_s.get(prefix, self.now_s)
            if bundle.complete and until_s <= self.now_s:
                self.files += bundle.facts
            elif bundle.complete:
                for name in names:
                    self.wait(name, until_s)
            elif self.final or self.now_s >= since_s + PATIENCE_S:
                self.incomplete += names
            else:
                for name in names:
                    self.wait_briefly(name, since_s)

    def _state_due_s(self) -> dict[str, float]:
        """By directory with bundles and without a state file: how long that is waited for."""
        named = {posixpath.dirname(path) for path in self.evidence.states}
        due_s: dict[str, float] = {}
        for prefix, bundle in self.bundles.items():
            place = posixpath.dirname(prefix)
            if bundle.complete and place not in named:
                # Of one that is written again and again: since it was so for the first time.
                since_s = max(self.memory.files[fact.path].restless_s for fact in bundle.facts)
                until_s = since_s + self.settle_s
                due_s[place] = min(until_s, due_s.get(place, until_s))
        return due_s

    def take_others(self) -> None:
        for path, seen in self.memory.files.items():
            if path in self.members or path in self.evidence.states:
                continue
            quiet_s = PATIENCE_S if path in self.evidence.broken else self.settle_s
            if self.final or self.now_s >= seen.since_s + quiet_s:
                self.files.append(seen.fact)
            elif not seen.calm and self.now_s >= seen.restless_s + PATIENCE_S:
                self.restless.append(path)
            else:
                self.wait(path, min(seen.since_s + quiet_s, seen.restless_s + PATIENCE_S))

    def take_states(self) -> None:
        """After the others: a state file goes with what it names."""
        there = {fact.path for fact in self.files}
        for path, state in self.evidence.states.items():
            seen = self.memory.files.get(path)
            if seen is None:
                continue
            if not self._named(path, state.newest, there):
                if self.final or self.now_s >= seen.since_s + PATIENCE_S:
                    self.incomplete.append(path)
                else:
                    self.wait_briefly(path, seen.since_s)
            elif (
                self.final
                or self.now_s >= seen.since_s + self.settle_s
                or all(self._named(path, name, there) for name in state.all)
            ):
                self.files.append(seen.fact)
            else:
                # Between the removal of old checkpoints and the state file that says so.
                self.wait(path, seen.since_s + self.settle_s)

    def _named(self, state: str, name: str, there: set[str]) -> bool:
        """Whether what is named is there, or is none of ours: outside the directory."""
        prefix = posixpath.join(self.root, posixpath.dirname(state), name)
        prefix = posixpath.relpath(posixpath.normpath(prefix), self.root or "/")
        if prefix.startswith("../"):
            return True
        bundle = self.bundles.get(prefix)
        return bundle.complete if bundle else prefix in there

    def choice(self, files: Iterable[Fact]) -> Choice:
        return Choice(
            tuple(sorted(files, key=lambda fact: fact.path)),
            tuple(sorted(self.waiting)),
            self.until_s,
            tuple(sorted(self.restless)),
            tuple(sorted(self.incomplete)),
        )


def checkpoint(
    memory: Memory,
    evidence: Evidence,
    *,
    root: str,
    now_s: float,
    settle_s: float,
    final: bool = False,
) -> Choice:
    """The directory as one checkpoint. While ``waiting`` is not empty it is not one.

    ``final``: nobody writes any more, so that nothing is waited for. ``root``: the directory, for
    state files with absolute paths.
    """
    chooser = _Chooser(memory, evidence, root=root, now_s=now_s, settle_s=settle_s, final=final)
    chooser.take_bundles(with_state=True)
    chooser.take_others()
    chooser.take_states()
    return chooser.choice(chooser.files)


@dataclass(frozen=True, slots=True)
class Sent:
    """A file that a mirror has."""

    fact: Fact
    at_s: float


def mirror(
    memory: Memory,
    evidence: Evidence,
    sent: Mapping[str, Sent],
    *,
    root: str,
    now_s: float,
    settle_s: float,
    grows_s: float | None = None,
    final: bool = False,
) -> Choice:
    """The files that a mirror lacks and that may be sent, each for itself.

    A file that never settles is sent now and then as far as it goes: every ``PATIENCE_S``, or
    from the first on every ``grows_s`` where that is given, because files are only appended to.
    ``final``: nobody writes any more, everything is sent.
    """
    chooser = _Chooser(memory, evidence, root=root, now_s=now_s, settle_s=settle_s, final=final)
    if final:
        everything = (seen.fact for seen in memory.files.values())
        return chooser.choice(fact for fact in everything if not _has(sent, fact))
    chooser.take_bundles()
    chooser.take_others()
    chooser.take_states()
    pause_s = PATIENCE_S if grows_s is None else grows_s
    growing = chooser.restless
    if grows_s is not None:
        growing = [path for path in (*growing, *chooser.waiting) if path not in chooser.members]
    due = set()
    for path in growing:
        before = sent.get(path)
        due_s = before.at_s + pause_s if before else now_s
        if now_s >= due_s:
            due.add(path)
            chooser.files.append(memory.files[path].fact)
        else:
            chooser.until_s = min(due_s, chooser.until_s or due_s)
    choice = chooser.choice(fact for fact in chooser.files if not _has(sent, fact))
    return replace(choice, growing=frozenset(due))


def _has(sent: Mapping[str, Sent], fact: Fact) -> bool:
    there = sent.get(fact.path)
    return there is not None and fact.same(there.fact)


def waves(files: Iterable[Fact]) -> list[tuple[Fact, ...]]:
    """The order in which a reader may see them appear: what names others comes after them."""
    order: dict[int, list[Fact]] = {}
    for fact in files:
        name = posixpath.basename(fact.path)
        rank = (
            3
            if is_state(fact.path)
            else 2
            if name in _LAST_NAMES
            else 1
            if name.endswith(".index")
            else 0
        )
        order.setdefault(rank, []).append(fact)
    return [tuple(order[rank]) for rank in sorted(order)]


def unsent_since(
    memory: Memory, unsent: Iterable[str], before: Mapping[str, float]
) -> dict[str, float]:
    """When the oldest change of each file came that is not sent. ``before``: the last answer."""
    return {path: before.get(path, memory.files[path].since_s) for path in unsent}
