"""A script's code out of an archive, a directory or a file that nobody vouches for.

One writer for all kinds; what differs is who yields the members. It writes into a directory that
is its own and empty, and no link is made before the last file is written: so nothing is ever
written through one. Links are then resolved among the names of the archive itself, which no file
system's limit can cut short, and once more by the file system. ``tarfile``'s own filter
(``data``) is asked as well, where this Python has it (from 3.11.4).

Limits are on what is written and read, as it happens; what a header says serves only to refuse
earlier. There is none on the ratio: it would refuse an honest file of zeros and stops nothing that
the others let through.
"""

from __future__ import annotations

import bz2
import enum
import errno
import io
import lzma
import os
import posixpath
import stat
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, BinaryIO, Final, Protocol, cast

from supervisor.faults import shown
from supervisor.storage.progress import amount
from supervisor.storage.store import Moved

NAME_BYTES: Final = 1024
"""Of a member's whole name; the target's own comes before it, and PATH_MAX is 4096."""
PART_BYTES: Final = 255
DEPTH: Final = 64
"""Directories in each other."""
HOPS: Final = 40
"""Links on one way, as the kernel has it (path_resolution(7))."""
HEADER_BYTES: Final = 32 << 10
"""All headers of one member of a tar file: ``tarfile`` takes them into memory whole."""
LZMA_BYTES: Final = 256 << 20
"""Memory of the decompressor; ``xz -9`` takes 65 MiB."""
RESERVE_BYTES: Final = 64 << 20
"""Of the disk, left free."""
_TRAILER_BYTES: Final = 4 << 20
"""Behind the last member."""
_LOOK_BYTES: Final = 16 << 20
"""So much is written between two looks at the disk."""
_CHUNK: Final = 256 << 10
SUFFIXES: Final = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.lzma"),
    *(".zip", ".tar.zst", ".tar.lz4", ".tar.z"),
)
"""Of files that are meant to be unpacked."""
_ZIP_ENTRY_BYTES: Final = 256
"""Of an archive's directory, on an average; it is taken into memory whole."""
_ZIP_METHODS: Final = frozenset({0, 8, 12})
"""Stored, deflated, bzip2."""


_FILTER: Final = getattr(tarfile, "data_filter", None)


class ArchiveError(Exception):
    """Why nothing was unpacked: one sentence with the archive, the member and what is wrong."""


@dataclass(frozen=True, slots=True)
class Limits:
    bytes: int
    """Unpacked, in all."""
    files: int
    """Members of any kind."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    files: int
    bytes: int


class Kind(enum.Enum):
    FILE = "a file"
    DIRECTORY = "a directory"
    LINK = "a link"
    HARD_LINK = "a hard link"
    OTHER = "neither a file nor a directory nor a link"


@dataclass(frozen=True, slots=True)
class Member:
    """One thing to be made."""

    name: str
    kind: Kind
    mode: int = 0o644
    mtime: float | None = None
    link: str = ""
    """What a link leads to, as it is written; of a hard link, the other member's name."""
    size: int = 0
    """As it is claimed."""
    content: IO[bytes] | None = None
    header: tarfile.TarInfo | None = None


# ---------------------------------------------------------------------------- decisions, pure


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of a member's name. Raises ValueError with what is wrong with it."""
    if name.startswith("/"):
        raise ValueError("its name is absolute")
    if any(ord(each) < 0x20 or ord(each) == 0x7F for each in name):
        raise ValueError("its name has control characters")
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if ".." in parts:
        raise ValueError("its name has the part ..")
    if len(parts) > DEPTH:
        raise ValueError(f"it lies more than {DEPTH} directories deep")
    if len(os.fsencode(name)) > NAME_BYTES:
        raise ValueError(f"its name is longer than {NAME_BYTES} bytes")
    if any(len(os.fsencode(part)) > PART_BYTES for part in parts):
        raise ValueError(f"a part of its name is longer than {PART_BYTES} bytes")
    return parts


def leads_out(path: tuple[str, ...], links: dict[tuple[str, ...], str]) -> str:
    """Why the link at ``path`` must not be, among all ``links``; empty where it may.

    Resolves as path_resolution(7) does, with names that are no link taken for directories.
    """
    at = list(path[:-1])
    rest = [path[-1]]
    hops = 0
    while rest:
        part = rest.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            if not at:
                return "leads out of the directory"
            at.pop()
            continue
        at.append(part)
        link = links.get(tuple(at))
        if link is None:
            continue
        hops += 1
        if hops > HOPS:
            return "leads through more links than can be followed"
        if link.startswith("/"):
            return "leads to an absolute path"
        at.pop()
        rest.extend(reversed(link.split("/")))
    return ""


# --------------------------------------------------------------------------------- the writer


class _Writer:
    """Members into the empty directory ``root``. Raises ArchiveError."""

    def __init__(self, name: str, root: str, limits: Limits, moved: Moved) -> None:
        self.files = 0
        self.bytes = 0
        self._name = name
        self._root = root
        self._limits = limits
        self._moved = moved
        self._members = 0
        self._unlooked = 0
        self._kinds: dict[tuple[str, ...], Kind] = {(): Kind.DIRECTORY}
        self._links: dict[tuple[str, ...], str] = {}

    def add(self, member: Member) -> None:
        self._members += 1
        self._moved(0)
        if self._members > self._limits.files:
            raise ArchiveError(
                f"{self._name} has more than {self._limits.files:,} members, which is the limit"
            )
        with self._blame(member.name):
            parts = parts_of(member.name)
            if not parts and member.kind is not Kind.DIRECTORY:
                raise ValueError("it has no name")
            self._check(member, parts)
            self._make_parents(parts)
            self._make(member, parts)

    def finish(self) -> Unpacked:
        """Make the links."""
        for parts in self._links:
            with self._blame("/".join(parts)):
                if why := leads_out(parts, self._links):
                    raise ValueError(f"the link to {shown(self._links[parts])} {why}")
                os.symlink(self._links[parts], self._path(parts))
        inside = os.path.realpath(self._root) + "/"
        for parts in self._links:
            with self._blame("/".join(parts)):
                # By other rules than ours, such as a file system's that is blind to case.
                if not (os.path.realpath(self._path(parts)) + "/").startswith(inside):
                    raise ValueError("the link leads out of the directory")
        return Unpacked(self.files, self.bytes)

    def _check(self, member: Member, parts: tuple[str, ...]) -> None:
        if member.kind is Kind.OTHER:
            raise ValueError(f"it is {member.kind.value}")
        if member.kind is Kind.LINK:
            if not member.link or "\0" in member.link or len(member.link) > NAME_BYTES:
                raise ValueError("it is a link without a proper target")
            if why := leads_out(parts, self._links | {parts: member.link}):
                raise ValueError(f"the link to {shown(member.link)} {why}")
        if member.kind is Kind.HARD_LINK:
            other = parts_of(member.link)
            if self._kinds.get(other) is not Kind.FILE or other == parts:
                raise ValueError(
                    f"it is a hard link to {shown(member.link)}, which is no file before it"
                )
        if member.header is not None and _FILTER is not None:
            try:
                _FILTER(member.header, self._root)
            except tarfile.TarError as error:
                raise ValueError(str(error)) from None

    def _make_parents(self, parts: tuple[str, ...]) -> None:
        for end in range(1, len(parts)):
            parent = parts[:end]
            kind = self._kinds.get(parent)
            if kind is None:
                os.mkdir(self._path(parent))
                self._kinds[parent] = Kind.DIRECTORY
            elif kind is not Kind.DIRECTORY:
                raise ValueError(f"it lies below {shown('/'.join(parent))}, which is {kind.value}")

    def _make(self, member: Member, parts: tuple[str, ...]) -> None:
        path = self._path(parts)
        before = self._kinds.get(parts)
        if before is Kind.DIRECTORY and member.kind is Kind.DIRECTORY:
            return
        if before is not None:
            if Kind.DIRECTORY in {before, member.kind}:
                raise ValueError(f"there is {before.value} of its name already")
            # As tar has it: an archive that was added to holds the newer one later.
            if self._links.pop(parts, None) is None:
                os.unlink(path)
        if member.kind is Kind.HARD_LINK:
            os.link(self._path(parts_of(member.link)), path, follow_symlinks=False)
            self.files += 1
        elif member.kind is Kind.LINK:
            self._links[parts] = member.link
        elif member.kind is Kind.DIRECTORY:
            os.mkdir(path)
        else:
            self._write(member, path)
            self.files += 1
        self._kinds[parts] = Kind.FILE if member.kind is Kind.HARD_LINK else member.kind

    def _write(self, member: Member, path: str) -> None:
        self._allow(member.size)
        if member.size > _LOOK_BYTES:
            self._look(member.size)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            while member.content is not None and (chunk := _read(member.content)):
                self._allow(len(chunk))
                self._unlooked += len(chunk)
                if self._unlooked >= _LOOK_BYTES:
                    self._look(0)
                file.write(chunk)
                self.bytes += len(chunk)
                self._moved(len(chunk))
            file.flush()
            mode = member.mode & 0o755 | 0o600  # never set-uid, nor writable for others
            os.fchmod(file.fileno(), mode if mode & 0o100 else mode & 0o666)
            if member.mtime is not None and 0 <= member.mtime < 1 << 33:
                os.utime(file.fileno(), (member.mtime, member.mtime))

    def _allow(self, size: int) -> None:
        if self.bytes + size > self._limits.bytes:
            raise ValueError(
                f"with it, more than {amount(self._limits.bytes)} would be unpacked, "
                "which is the limit"
            )

    def _look(self, needed: int) -> None:
        self._unlooked = 0
        disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        if free < needed + RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _path(self, parts: tuple[str, ...]) -> str:
        return "/".join((self._root, *parts))

    @contextmanager
    def _blame(self, member: str) -> Iterator[None]:
        """What is wrong is said of this member."""
        try:
            yield
        except ValueError as error:
            raise ArchiveError(f"{self._name}: member {shown(member)}: {error}") from None
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                why += f"; {amount(self.bytes)} had been unpacked; free space or a larger disk"
                why += " is needed"
            raise ArchiveError(
                f"{self._name}: member {shown(member)} cannot be written below "
                f"{os.path.dirname(self._root)}: {why}"
            ) from error


class _DamagedError(Exception):
    """Found while reading. No ValueError or OSError: those are of the member and of the disk."""


class _UnreadableError(_DamagedError):
    """The file system does not give it."""


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever a parser or a decompressor raises on garbage, as one error."""
    try:
        yield
    except (_DamagedError, ArchiveError):
        raise
    except OSError as error:
        if error.errno is None:
            raise _DamagedError(str(error)) from error
        what = f"{shown(error.filename)}: " if error.filename else ""
        raise _UnreadableError(f"{what}{error.strerror}") from error
    except Exception as error:
        raise _DamagedError(str(error) or type(error).__name__) from error


def _read(content: IO[bytes]) -> bytes:
    with _reading():
        return content.read(_CHUNK)


# ---------------------------------------------------------------------------------- readers


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decompressor with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # A full output may have more behind it, with all of the input taken.
        self.needs_input = not self._zlib.unconsumed_tail and len(out) < max_length
        return out

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


def _unlzma() -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=LZMA_BYTES)


_COMPRESSIONS: Final[dict[bytes, Callable[[], _Decompressor]]] = {
    b"\x1f\x8b": _Gunzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": _unlzma,
    b"\x5d\0\0": _unlzma,  # the older .lzma
}
_UNREADABLE: Final = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
}
_MAGIC_BYTES: Final = 6


class _Inflated(io.RawIOBase):
    """What is in a compressed file of one or more streams. What follows them is ignored."""

    def __init__(self, file: BinaryIO, magic: bytes) -> None:
        self._file = file
        self._magic = magic
        self._stream = _COMPRESSIONS[magic]()
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ended:
            data = b""
            if self._stream.eof:
                data = self._stream.unused_data
                if len(data) < _MAGIC_BYTES:
                    data += self._file.read(_CHUNK)
                if not data.startswith(self._magic):
                    self._ended = True
                    break
                self._stream = _COMPRESSIONS[self._magic]()
            elif self._stream.needs_input:
                data = self._file.read(_CHUNK)
                if not data:
                    raise _DamagedError("it breaks off")
            try:
                chunk = self._stream.decompress(data, len(buffer))
            except (zlib.error, lzma.LZMAError, OSError) as error:
                raise _DamagedError(str(error)) from error
            if chunk:
                buffer[: len(chunk)] = chunk
                return len(chunk)
        return 0


class _Forward:
    """A tar file from its beginning to its end and never back, as ``tarfile`` reads it.

    Its own modes take headers of any size into memory, and say nothing of a compressed file that
    breaks off after the last member.
    """

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._left = most
        self._header: int | None = None
        self._at = 0
        self.last = b""
        """What was read last."""

    @contextmanager
    def one_header(self) -> Iterator[None]:
        """Within, all reading together is bounded."""
        self._header = HEADER_BYTES
        yield
        self._header = None

    def tell(self) -> int:
        return self._at

    def seek(self, to: int) -> None:
        if to < self._at:
            raise _DamagedError("it refers back")
        while self._at < to and self.read(min(to - self._at, _CHUNK)):
            pass

    def read(self, size: int) -> bytes:
        if self._header is not None:
            self._header -= size
            if self._header < 0:
                raise _DamagedError(f"a header is larger than {HEADER_BYTES >> 10} KiB")
        self.last = data = self._file.read(size)
        self._at += len(data)
        self._left -= len(data)
        if self._left < 0:
            raise _DamagedError("it unpacks to more than its members could be")
        return data

    def drain(self) -> None:
        """Read on to the end: only there a truncated or damaged file shows. Bounded."""
        for _ in range(_TRAILER_BYTES // _CHUNK):
            if not self.read(_CHUNK):
                break


def _opened(file: BinaryIO) -> IO[bytes]:
    """Its content, decompressed if it is compressed."""
    start = file.read(_MAGIC_BYTES)
    file.seek(0)
    magic = next((magic for magic in _COMPRESSIONS if start.startswith(magic)), b"")
    return io.BufferedReader(_Inflated(file, magic), _CHUNK) if magic else file


def _tar_members(file: BinaryIO, limits: Limits) -> Iterator[Member]:
    stream = _Forward(_opened(file), limits.bytes + limits.files * HEADER_BYTES + _TRAILER_BYTES)
    with stream.one_header():  # its constructor reads the first one
        tar: Any = tarfile.TarFile(fileobj=cast("IO[bytes]", stream), mode="r")
    kinds = {
        tarfile.DIRTYPE: Kind.DIRECTORY,
        tarfile.SYMTYPE: Kind.LINK,
        tarfile.LNKTYPE: Kind.HARD_LINK,
    }
    while True:
        with stream.one_header():
            header = tar.next()
        if header is None:
            break
        tar.members.clear()  # else they are all kept
        kind = Kind.FILE if header.isreg() else kinds.get(header.type, Kind.OTHER)
        content = tar.extractfile(header) if kind is Kind.FILE else None
        yield Member(
            header.name,
            kind,
            header.mode,
            header.mtime,
            header.linkname,
            header.size,
            content,
            header,
        )
    if stream.last.strip(b"\0") or len(stream.last) % tarfile.BLOCKSIZE:
        raise _DamagedError("a header is damaged")  # which tarfile takes for the end
    stream.drain()


class _Portions:
    """A file that nobody takes into memory in one piece of more than ``most`` bytes."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise _DamagedError("its directory is larger than its members could make it")
        return self._file.read(size if size >= 0 else self._most)


def _zip_members(file: BinaryIO, limits: Limits) -> Iterator[Member]:
    import zipfile  # noqa: PLC0415  # 20 ms

    most = max(1 << 20, limits.files * _ZIP_ENTRY_BYTES)
    with zipfile.ZipFile(cast("IO[bytes]", _Portions(file, most))) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            # The name that zipfile gives is cut at the first NUL.
            member = Member(
                info.orig_filename,
                Kind.DIRECTORY if info.is_dir() else Kind.FILE,
                stat.S_IMODE(mode) or 0o644,
                _zip_time(info.date_time),
                size=info.file_size,
            )
            if info.is_dir():
                yield member
                continue
            if info.flag_bits & 1:
                raise _DamagedError("it is encrypted")
            if info.compress_type not in _ZIP_METHODS:
                raise _DamagedError(f"compression method {info.compress_type} is not supported")
            with archive.open(info) as content:
                if stat.S_ISLNK(mode):
                    link = os.fsdecode(content.read(NAME_BYTES + 1))
                    yield replace(member, kind=Kind.LINK, link=link)
                elif stat.S_IFMT(mode) in {0, stat.S_IFREG}:
                    yield replace(member, content=content)
                else:
                    yield replace(member, kind=Kind.OTHER)


def _zip_time(date: tuple[int, int, int, int, int, int]) -> float | None:
    try:
        return time.mktime((*date, 0, 0, -1))
    except (ValueError, OverflowError):
        return None


def _directory_members(root: str, below: str, said: Callable[[str], None]) -> Iterator[Member]:
    """Of a directory. Links within it stay links; what others lead to is copied."""
    inside = os.path.realpath(root) + "/"
    with os.scandir(os.path.join(root, below)) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = posixpath.join(below, entry.name)
        if entry.is_symlink():
            real = os.path.realpath(entry.path)
            if (real + "/").startswith(inside):
                start = os.path.dirname(os.path.realpath(os.path.dirname(entry.path)) + "/")
                yield Member(name, Kind.LINK, link=os.path.relpath(real, start))
                continue
        if entry.is_dir():
            yield Member(name, Kind.DIRECTORY)
            yield from _directory_members(root, name, said)
        elif entry.is_file():
            with open(entry.path, "rb") as file:
                yield _file_member(name, file)
        else:
            said(f"{entry.path} is no file, no directory and no link to one; it is left out")


def _file_member(name: str, file: BinaryIO) -> Member:
    status = os.fstat(file.fileno())
    return Member(
        name, Kind.FILE, status.st_mode, status.st_mtime, size=status.st_size, content=file
    )


# ------------------------------------------------------------------------------ what is called


def packing(file: BinaryIO, name: str) -> str:
    """How the open file is packed: ``tar``, ``zip``, or empty where it is none of our archives.

    By content; a name only decides about zip, which many files are that are not meant to be
    unpacked (wheels, Keras models, NumPy arrays). Raises ArchiveError where the name says that
    it is an archive and the content is something else.
    """
    start = file.read(_MAGIC_BYTES)
    file.seek(0)
    lower = name.lower()
    if start.startswith((b"PK\3\4", b"PK\5\6")) and lower.endswith(".zip"):
        return "zip"
    try:
        with _reading():
            head = _opened(file).read(tarfile.BLOCKSIZE)
            if not head.strip(b"\0") and head:
                return "tar"  # one without members
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except _DamagedError as error:
        if not lower.endswith(SUFFIXES):
            return ""
        unreadable = next(
            (what for magic, what in _UNREADABLE.items() if start.startswith(magic)), ""
        )
        why = f"{unreadable} is not supported" if unreadable else str(error)
        raise ArchiveError(
            f"{name} is no archive that can be unpacked (tar, tar.gz, tar.bz2, tar.xz, zip): {why}"
        ) from None
    else:
        return "tar"
    finally:
        file.seek(0)


def unpack(
    file: BinaryIO, name: str, packed: str, root: str, limits: Limits, moved: Moved
) -> Unpacked:
    """The archive in ``file`` into ``root``: an empty directory that nobody else knows of.

    ``packed`` is what ``packing`` says; a file that is no archive is copied. ``name`` is for
    people. ``moved`` is told of bytes that were written, and asked (0) now and then: it may raise
    to end it all. Raises ArchiveError.
    """
    if packed == "zip":
        members = _zip_members(file, limits)
    elif packed == "tar":
        members = _tar_members(file, limits)
    else:
        members = iter([_file_member(posixpath.basename(name), file)])
    return _write_all(members, name, root, limits, moved)


def copy(
    directory: str, root: str, limits: Limits, moved: Moved, said: Callable[[str], None]
) -> Unpacked:
    """A directory, likewise. ``said`` is told what is left out."""
    return _write_all(_directory_members(directory, "", said), directory, root, limits, moved)


def _write_all(
    members: Iterator[Member], name: str, root: str, limits: Limits, moved: Moved
) -> Unpacked:
    writer = _Writer(name, root, limits, moved)
    at = ""
    try:
        while True:
            with _reading():
                member = next(members, None)
            if member is None:
                return writer.finish()
            at = member.name
            writer.add(member)
    except _UnreadableError as error:
        raise ArchiveError(f"{name} cannot be read: {error}") from error
    except _DamagedError as error:
        where = f"after member {shown(at)}" if at else "from its beginning"
        raise ArchiveError(f"{name} is damaged or no archive, {where}: {error}") from error
