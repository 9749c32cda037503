"""Archives that nobody vouches for: hostile ones are refused in one sentence, write nothing outside
and fill nothing; honest ones come out byte for byte."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pathlib
import random
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.storage import archive
from supervisor.storage.archive import (
    DEPTH,
    HEADER_BYTES,
    NAME_BYTES,
    ArchiveError,
    Limits,
    Unpacked,
    copy,
    leads_out,
    packing,
    unpack,
)
from supervisor.storage.staging import Staging
from tests.helpers.job import environment

LIMITS = Limits(1 << 20, 200)


def unpacked(
    content: bytes, tmp: pathlib.Path, name: str = "code.tar.gz", limits: Limits = LIMITS
) -> Unpacked:
    """As the process does it: into ``tmp/base/code``, whole or not at all."""
    file = io.BytesIO(content)
    base = tmp / "base"
    with Staging(str(base / "code")) as staging:
        try:
            packed = packing(file, name)
            assert packed, "no archive"
            done = unpack(file, name, packed, staging.path, limits, lambda _: None)
        except ArchiveError:
            # Nothing but the staging directory, whatever was tried, and no more than allowed.
            assert {path.name for path in base.iterdir()} == {
                "code",
                os.path.basename(staging.path),
            }
            assert disk_bytes(staging.path) <= limits.bytes
            raise
        staging.commit()
    return done


def disk_bytes(directory: str) -> int:
    return sum(
        os.lstat(os.path.join(at, name)).st_blocks * 512 // 8 * 8
        for at, _, names in os.walk(directory)
        for name in names
    )


def item(
    name: str, content: bytes | None = None, **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content or b"")
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content or b""


def link(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return item(name, type=tarfile.SYMTYPE, linkname=to)


def hard(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return item(name, type=tarfile.LNKTYPE, linkname=to)


def tar(*items: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for info, content in items:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(*items: tuple[str, bytes, int]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in items:
            info = zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6))
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return out.getvalue()


def raw_header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    """A header that ``tarfile`` would not write."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108] = b"0000644\0"
    header[108:116] = header[116:124] = b"0000000\0"
    octal = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    header[124:136] = octal
    header[136:148] = b"00000000000\0"
    header[156:157] = kind
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax(name: bytes, records: dict[bytes, bytes]) -> bytes:
    body = b""
    for key, value in records.items():
        rest = b" %s=%s\n" % (key, value)
        size = len(rest) + 1
        while len(b"%d" % size) + len(rest) != size:
            size = len(b"%d" % size) + len(rest)
        body += b"%d%s" % (size, rest)
    return raw_header(name, len(body), b"x") + body + bytes(-len(body) % 512)


# ------------------------------------------------------------------------------------- hostile


def zeros_bz2() -> bytes:
    """10 GiB of zeros in some kilobytes: one stream for 32 MiB of them, 320 times."""
    size = 10 << 30
    return bz2.compress(raw_header(b"zeros", size)) + bz2.compress(bytes(32 << 20)) * 320


def zeros_behind() -> bytes:
    """The same behind the end of an honest archive."""
    return bz2.compress(bytes(1024)) + bz2.compress(bytes(32 << 20)) * 320


def million_gz() -> bytes:
    return gzip.compress(raw_header(b"x", 0) * 1000) * 1000


def million_zip() -> bytes:
    """A directory of a million entries; all of them mean the same bytes."""
    name = b"x"
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + name
    entry = struct.pack(
        "<4s4B4HIIIHHHHHII", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, *(0, 0, 0), 1, *(0,) * 6
    )
    directory = (entry + name) * 1_000_000
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), len(local), 0)
    return local + directory + end


def sparse_bomb() -> bytes:
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": b"sparse",
        b"GNU.sparse.realsize": b"%d" % (1 << 40),
    }
    body = b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512
    return pax(b"p", records) + raw_header(b"sparse", len(body)) + body + bytes(1024)


def sparse_map_bomb() -> bytes:
    """A map of segments that never ends: taken into memory, it is all there is."""
    header = bytearray(raw_header(b"sparse", 512, b"S"))
    header[257:265] = b"ustar  \0"
    header[482] = 1  # goes on
    header[483:495] = b"%011o\0" % 512
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    more = bytearray(b"00000000000\0" * 42).ljust(512, b"\0")
    more[504] = 1
    return bz2.compress(bytes(header)) + bz2.compress(bytes(more) * 4096) * 320


def header_bomb(kind: bytes) -> bytes:
    size = 8 << 30
    return bz2.compress(raw_header(b"big", size, kind)) + bz2.compress(bytes(32 << 20)) * 256


def header_chain() -> bytes:
    """Long names of long names: each costs ``tarfile`` a recursion."""
    return gzip.compress((raw_header(b"././@LongLink", 2, b"L") + b"a\0".ljust(512, b"\0")) * 5000)


def xz_memory() -> bytes:
    """A block that asks for a dictionary of 4 GiB."""
    content = bytearray(lzma.compress(tar(item("a", b"a"), mode="w")))
    size = (content[12] + 1) * 4
    assert content[14:16] == b"\x21\x01"  # LZMA2, one byte of properties
    content[16] = 40
    content[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(content[12 : 8 + size]))
    return bytes(content)


def lying_zip() -> bytes:
    """Says 10 bytes, in both places, and inflates to a mebibyte."""
    content = zipped(("big", bytes(1 << 20), 0o100644))
    return content.replace(struct.pack("<I", 1 << 20), struct.pack("<I", 10))


def encrypted_zip() -> bytes:
    content = bytearray(zipped(("a", b"secret", 0o100644)))
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


def nul_zip() -> bytes:
    return zipped(("a_evil", b"a", 0o100644)).replace(b"a_evil", b"a\0evil")


def method_zip() -> bytes:
    content = bytearray(zipped(("a", b"a", 0o100644)))
    content[8] = content[content.index(b"PK\1\2") + 10] = 9
    return bytes(content)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


NOISE = random.Random(7).randbytes(60_000)
GOOD = (item("a", NOISE), item("b", b"b"))
OUT = "leads out of the directory"

HOSTILE: Sequence[tuple[str, Callable[[], bytes], str]] = [
    ("parent", lambda: tar(item("../evil", b"x")), "part .."),
    ("parent-inside", lambda: tar(item("a/b/../../../evil", b"x")), "part .."),
    ("parent-directory", lambda: tar(item("../evil", type=tarfile.DIRTYPE)), "part .."),
    ("absolute", lambda: tar(item("/tmp/evil", b"x")), "absolute"),
    ("link-absolute", lambda: tar(link("l", "/etc")), "absolute path"),
    ("link-parent", lambda: tar(link("l", "../base")), OUT),
    ("link-own-name", lambda: tar(link("l", "../code/x")), OUT),
    ("link-through", lambda: tar(link("l", "d"), item("l/evil", b"x")), "lies below 'l'"),
    ("link-chain", lambda: tar(link("d/e/l", "../.."), link("b", "d/e/l/../../x")), OUT),
    ("link-chain-later", lambda: tar(link("b", "d/e/l/../../x"), link("d/e/l", "../..")), OUT),
    (
        "link-over-directory",
        lambda: tar(item("d/x", b"x"), link("d", "..")),
        OUT,
    ),
    ("link-for-directory", lambda: tar(item("d/x", b"x"), link("d", "e")), "a directory of its"),
    ("link-circle-out", lambda: tar(link("a", "b/.."), link("b", "a/..")), "the link to"),
    ("link-long", lambda: tar(link("l", "a/../" * 400 + "x")), "proper target"),
    ("link-empty", lambda: tar(link("l", "")), "proper target"),
    ("link-links", lambda: tar(*(link(f"l{n}", f"l{n + 1}") for n in range(100))), "more links"),
    ("hard-parent", lambda: tar(hard("h", "../canary")), "part .."),
    ("hard-absolute", lambda: tar(hard("h", "/etc/passwd")), "absolute"),
    ("hard-missing", lambda: tar(hard("h", "no")), "no file before it"),
    ("hard-to-link", lambda: tar(link("l", "x"), hard("h", "l")), "no file before it"),
    ("hard-to-itself", lambda: tar(item("h", b"h"), hard("h", "h")), "no file before it"),
    ("character-device", lambda: tar(item("d", type=tarfile.CHRTYPE)), "neither a file"),
    ("block-device", lambda: tar(item("d", type=tarfile.BLKTYPE)), "neither a file"),
    ("fifo", lambda: tar(item("d", type=tarfile.FIFOTYPE)), "neither a file"),
    ("unknown-type", lambda: gzip.compress(raw_header(b"d", 0, b"Q") * 2), "neither a file"),
    ("newline", lambda: tar(item("a\nb", b"x")), "control characters"),
    ("escape", lambda: tar(item("a\x1b[2Jb", b"x")), "control characters"),
    (
        "nul",
        lambda: pax(b"p", {b"path": b"a\0b"}) + raw_header(b"a", 0) + bytes(1024),
        "control characters",
    ),
    ("no-name", lambda: tar(item(".", b"x")), "no name"),
    ("long-name", lambda: tar(item("x/" * 60 + "y" * 1000, b"x")), f"{NAME_BYTES} bytes"),
    ("long-part", lambda: tar(item("y" * 300, b"x")), "255 bytes"),
    ("deep", lambda: tar(item("d/" * DEPTH + "x", b"x")), f"more than {DEPTH}"),
    ("below-file", lambda: tar(item("a", b"x"), item("a/b", b"x")), "which is a file"),
    ("file-for-directory", lambda: tar(item("a/b", b"x"), item("a", b"x")), "a directory of its"),
    ("directory-for-file", lambda: tar(item("a"), item("a", type=tarfile.DIRTYPE)), "a file of"),
    ("large", lambda: tar(item("a", bytes((1 << 20) + 1))), "1.0 MiB would be unpacked"),
    (
        "large-together",
        lambda: tar(*(item("a", bytes(1 << 19)) for _ in range(3))),
        "1.0 MiB would be unpacked",
    ),
    ("zeros", zeros_bz2, "1.0 MiB would be unpacked"),
    ("million", million_gz, "more than 200 members"),
    ("sparse", sparse_bomb, "1.0 MiB would be unpacked"),
    ("sparse-map", sparse_map_bomb, f"larger than {HEADER_BYTES >> 10} KiB"),
    ("pax-large", lambda: header_bomb(b"x"), f"larger than {HEADER_BYTES >> 10} KiB"),
    ("pax-global-large", lambda: header_bomb(b"g"), f"larger than {HEADER_BYTES >> 10} KiB"),
    ("long-name-large", lambda: header_bomb(b"L"), f"larger than {HEADER_BYTES >> 10} KiB"),
    ("header-chain", header_chain, f"larger than {HEADER_BYTES >> 10} KiB"),
    ("xz-memory", xz_memory, "emory"),
    ("gzip-truncated", lambda: tar(*GOOD)[:-200], "breaks off"),
    ("gzip-truncated-trailer", lambda: tar(*GOOD)[:-4], "breaks off"),
    ("bzip2-truncated", lambda: tar(*GOOD, mode="w:bz2")[:-9], "breaks off"),
    ("xz-truncated", lambda: tar(*GOOD, mode="w:xz")[:-20], "breaks off"),
    ("tar-truncated", lambda: tar(*GOOD, mode="w")[:30_000], "unexpected end of data"),
    ("tar-header-cut", lambda: tar(*GOOD, mode="w")[: 512 + 60_416 + 100], "header is damaged"),
    ("gzip-flipped", lambda: flipped(tar(*GOOD), 9_000), "incorrect data check"),
    ("gzip-checksum", lambda: flipped(tar(*GOOD), -6), "incorrect data check"),
    ("bzip2-flipped", lambda: flipped(tar(*GOOD, mode="w:bz2"), 9_000), "Invalid data"),
    ("xz-flipped", lambda: flipped(tar(*GOOD, mode="w:xz"), 9_000), "orrupt"),
    ("tar-header-flipped", lambda: flipped(tar(*GOOD, mode="w"), 512 + 60_416), "is damaged"),
    ("no-tar", lambda: gzip.compress(b"<html>403</html>" * 99), "no archive that can be unpacked"),
    ("text", lambda: b"<html>403 Forbidden</html>", "no archive that can be unpacked"),
    ("empty", lambda: b"", "no archive that can be unpacked"),
    ("zstd", lambda: b"\x28\xb5\x2f\xfd" + bytes(600), "zstd is not supported"),
    ("zip-parent", lambda: zipped(("../evil", b"x", 0o100644)), "part .."),
    ("zip-absolute", lambda: zipped(("/tmp/evil", b"x", 0o100644)), "absolute"),
    ("zip-link", lambda: zipped(("l", b"../../etc", 0o120777)), OUT),
    ("zip-link-absolute", lambda: zipped(("l", b"/etc/passwd", 0o120777)), "absolute path"),
    ("zip-link-large", lambda: zipped(("l", b"x" * 9000, 0o120777)), "proper target"),
    ("zip-link-nul", lambda: zipped(("l", b"a\0b", 0o120777)), "proper target"),
    ("zip-fifo", lambda: zipped(("p", b"", 0o010644)), "neither a file"),
    ("zip-through", lambda: zipped(("l", b"d", 0o120777), ("l/x", b"", 0)), "lies below 'l'"),
    ("zip-nul", nul_zip, "control characters"),
    ("zip-bomb", lambda: zipped(("z", bytes(1 << 26), 0o100644)), "1.0 MiB would be unpacked"),
    ("zip-lying", lying_zip, "is damaged"),
    ("zip-million", million_zip, "directory is larger"),
    ("zip-many", lambda: zipped(*((f"{n}", b"", 0) for n in range(201))), "more than 200 members"),
    ("zip-encrypted", encrypted_zip, "encrypted"),
    ("zip-method", method_zip, "method 9 is not supported"),
    ("zip-truncated", lambda: zipped(("a", NOISE, 0))[:-30], "is damaged"),
    ("zip-flipped", lambda: flipped(zipped(("a", NOISE, 0)), 9_000), "is damaged"),
]


@pytest.mark.parametrize(
    ("build", "words"), [row[1:] for row in HOSTILE], ids=[r[0] for r in HOSTILE]
)
def test_a_hostile_archive_is_refused_in_one_sentence(
    build: Callable[[], bytes], words: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "canary").write_text("alive")
    name = "code.zip" if request.node.callspec.id.startswith("zip-") else "code.tar.gz"
    with pytest.raises(ArchiveError) as caught:
        unpacked(build(), tmp_path, name)
    sentence = str(caught.value)
    assert words in sentence
    assert sentence.startswith(name)
    assert sentence.isprintable()
    assert len(sentence) < 500
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["base", "canary", "code"]
    assert not Staging(str(tmp_path / "base" / "code")).holds_files
    assert not os.path.exists("/tmp/evil")


@pytest.mark.parametrize(
    ("build", "words"),
    [row[1:] for row in HOSTILE if row[0].startswith(("parent", "absolute", "link", "hard"))],
)
def test_our_own_checks_need_no_filter(
    build: Callable[[], bytes],
    words: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python 3.11.0 to 3.11.3 has none."""
    monkeypatch.setattr(archive, "_FILTER", None)
    with pytest.raises(ArchiveError, match=words):
        unpacked(build(), tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["base", "code"]


def test_what_follows_the_end_of_an_archive_is_not_unpacked_without_end(
    tmp_path: pathlib.Path,
) -> None:
    assert unpacked(zeros_behind(), tmp_path) == Unpacked(0, 0)


def test_a_full_disk_is_one_sentence(tmp_path: pathlib.Path) -> None:
    """In a namespace of its own with a file system of one mebibyte."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    target = tmp_path / "small"
    target.mkdir()
    archive = tmp_path / "code.tar.gz"
    archive.write_bytes(tar(item("first", b"1"), item("large", os.urandom(3 << 20))))
    program = (
        "import sys; from supervisor.storage.archive import *;"
        "from supervisor.storage.staging import Staging\n"
        "with open(sys.argv[1], 'rb') as file, Staging(sys.argv[2]) as staging:\n"
        " try: unpack(file, 'code.tar.gz', 'tar', staging.path, Limits(1 << 30, 9), id)\n"
        " except ArchiveError as error: print(error)\n"
    )
    script = 'mount -t tmpfs -o size=1m none "$2" && "$0" -P -c "$3" "$1" "$2" && ls -A "$2"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, sys.executable, str(archive), str(target), program],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    (sentence,) = done.stdout.splitlines()  # and no file is left in the mounted directory
    assert "member 'large' cannot be written" in sentence
    assert "No space left on device" in sentence


def test_a_disk_that_would_be_full_is_known_before_it_is(tmp_path: pathlib.Path) -> None:
    content = raw_header(b"huge", 1 << 50) + b"x" * 5120
    with pytest.raises(ArchiveError, match="No space left on device"):
        unpacked(content, tmp_path, limits=Limits(1 << 60, 9))


# -------------------------------------------------------------------------------------- honest


def make_tree(root: pathlib.Path) -> None:
    (root / "package" / "empty").mkdir(parents=True)
    (root / "train.py").write_text("print('training')\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "key").write_text("secret")
    (root / "key").chmod(0o600)
    (root / "nothing").touch()
    (root / "package" / ("long" * 20)).write_bytes(NOISE)
    (root / "package" / "naïve ☃ name.txt").write_text("ü")
    (root / "Readme").write_text("upper")
    (root / "README").write_text("uppest")
    (root / "noise").write_bytes(NOISE * 5)
    (root / "current").symlink_to("package/naïve ☃ name.txt")
    (root / "package" / "up").symlink_to("../train.py")
    (root / "lib").symlink_to("package")
    (root / "dangling").symlink_to("package/not-yet")
    with open(os.fsencode(root) + b"/latin-\xe9", "wb") as file:
        file.write(b"any bytes")


def content_of(root: pathlib.Path, *, times: bool = True) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = "directory"
        else:
            mode = stat.S_IMODE(status.st_mode)
            found[name] = path.read_bytes(), mode, int(status.st_mtime) if times else 0
    return found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_honest_tar_comes_out_as_it_went_in(
    mode: str, form: int, tmp_path: pathlib.Path
) -> None:
    make_tree(tmp_path / "in")
    os.link(tmp_path / "in" / "noise", tmp_path / "in" / "package" / "twin")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        archive.add(tmp_path / "in", ".")
    done = unpacked(out.getvalue(), tmp_path, "code", Limits(1 << 20, 50))
    code = tmp_path / "base" / "code"
    assert content_of(code) == content_of(tmp_path / "in")
    assert (code / "noise").stat().st_ino == (code / "package" / "twin").stat().st_ino
    assert done.files == 11
    assert os.listdir(tmp_path / "base") == ["code"]


def test_an_honest_zip_comes_out_as_it_went_in(tmp_path: pathlib.Path) -> None:
    make_tree(tmp_path / "in")
    os.unlink(os.fsencode(tmp_path) + b"/in/latin-\xe9")  # zipfile cannot write it
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "in").rglob("*"):
            name = str(path.relative_to(tmp_path / "in"))
            if path.is_symlink():
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, 0o120777 << 16
                archive.writestr(info, os.readlink(path))
            else:
                archive.write(path, name)
    unpacked(out.getvalue(), tmp_path, "CODE.ZIP")
    code = tmp_path / "base" / "code"
    # Its times are of two seconds.
    assert content_of(code, times=False) == content_of(tmp_path / "in", times=False)


def test_gnu_tar_and_its_sparse_files(tmp_path: pathlib.Path) -> None:
    make_tree(tmp_path / "in")
    with open(tmp_path / "in" / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(600_000)
        file.write(b"middle")
        file.truncate(700_000)
    for form in ("gnu", "posix"):
        done = subprocess.run(
            ["tar", "-cz", "--sparse", f"--format={form}", "-C", str(tmp_path / "in"), "."],
            capture_output=True,
            check=True,
            timeout=20,
        )
        unpacked(done.stdout, tmp_path / form, limits=Limits(2 << 20, 50))
        assert content_of(tmp_path / form / "base" / "code") == content_of(tmp_path / "in")


def test_old_and_joined_forms(tmp_path: pathlib.Path) -> None:
    plain = tar(item("a", NOISE), mode="w")
    forms = {
        "lzma": lzma.compress(plain, format=lzma.FORMAT_ALONE),
        "joined": gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]),
        "joined-bz2": bz2.compress(plain[:1000]) + bz2.compress(plain[1000:]),
        "joined-xz": lzma.compress(plain[:1000]) + lzma.compress(plain[1000:]),
        "padded": gzip.compress(plain) + bytes(300),
        "signed": gzip.compress(plain) + b"-- a signature --" * 30,
        "without-end": plain[: 512 + 60_416],
    }
    for name, content in forms.items():
        unpacked(content, tmp_path / name)
        assert (tmp_path / name / "base" / "code" / "a").read_bytes() == NOISE


def test_what_is_added_later_replaces(tmp_path: pathlib.Path) -> None:
    """As ``tar --append`` makes it; also a file for a link, and a link for a file."""
    unpacked(
        tar(
            item("a", b"old"),
            link("b", "a"),
            item("c", b"old"),
            item("a", b"new"),
            item("b", b"file"),
            link("c", "a"),
        ),
        tmp_path,
    )
    code = tmp_path / "base" / "code"
    assert (code / "a").read_bytes() == b"new"
    assert (code / "b").read_bytes() == b"file"
    assert os.readlink(code / "c") == "a"


def test_modes_and_owners_are_made_harmless(tmp_path: pathlib.Path) -> None:
    unpacked(
        tar(
            item("setuid", b"x", mode=0o6777, uid=4711),
            item("sticky", b"x", mode=0o1666),
            item("none", b"x", mode=0),
            item("times", b"x", mtime=1 << 40),
            item("d", type=tarfile.DIRTYPE, mode=0),
        ),
        tmp_path,
    )
    code = tmp_path / "base" / "code"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in code.iterdir()}
    assert modes["setuid"] == 0o755
    assert modes["sticky"] == 0o644
    assert modes["none"] == 0o600
    assert modes["d"] & 0o700 == 0o700
    assert (code / "setuid").stat().st_uid == os.getuid()


def test_a_name_decides_only_about_zip(tmp_path: pathlib.Path) -> None:
    inner = zipped(("a", b"a", 0o100644))
    assert packing(io.BytesIO(inner), "keras.zip") == "zip"
    assert packing(io.BytesIO(inner), "model.keras") == ""
    assert packing(io.BytesIO(tar(item("a", b"a"))), "whatever") == "tar"
    assert packing(io.BytesIO(gzip.compress(b"a text")), "text.gz") == ""
    assert packing(io.BytesIO(b"print()"), "train.py") == ""


# ------------------------------------------------------------------------- directories, one file


def test_a_directory_is_copied_with_what_its_links_lead_to(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "in"
    make_tree(source)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data").write_text("from outside")
    (source / "far").symlink_to(outside)
    (source / "near").symlink_to(outside / "data")
    (source / "absolute").symlink_to(source / "package" / "up")
    (source / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(source / "pipe")
    said: list[str] = []
    target = tmp_path / "code"
    target.mkdir()
    copy(str(source), str(target), LIMITS, lambda _: None, said.append)
    assert [line.split()[0] for line in said] == [str(source / "broken"), str(source / "pipe")]
    assert (target / "far" / "data").read_text() == "from outside"
    assert not (target / "far").is_symlink()
    assert (target / "near").read_text() == "from outside"
    assert os.readlink(target / "absolute") == "train.py"
    os.unlink(source / "pipe")
    expected = content_of(source)
    copied = content_of(target)
    for name in ("broken", "absolute", "far", "near"):
        expected.pop(name)
    assert {name: copied[name] for name in expected} == expected


def test_a_directory_that_contains_itself_ends(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "again").symlink_to(tmp_path / "out")
    (tmp_path / "code").mkdir()
    with pytest.raises(ArchiveError, match=r"in cannot be read: .*symbolic links"):
        copy(str(tmp_path / "in"), str(tmp_path / "code"), LIMITS, lambda _: None, print)


def test_one_file_is_copied_as_it_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("print()")
    path.chmod(0o755)
    (tmp_path / "code").mkdir()
    with open(path, "rb") as file:
        packed = packing(file, str(path))
        done = unpack(file, str(path), packed, str(tmp_path / "code"), LIMITS, lambda _: None)
    assert done == Unpacked(1, 7)
    assert content_of(tmp_path / "code") == {
        "train.py": (b"print()", 0o755, int(path.stat().st_mtime))
    }


# ------------------------------------------------------------------------------------- staging


def test_what_a_killed_attempt_left_is_removed_by_the_next(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "code"
    Staging(str(target)).__enter__()  # killed here
    assert len(os.listdir(tmp_path)) == 2
    assert not Staging(str(target)).holds_files
    target.chmod(0o750)
    with Staging(str(target)) as staging:
        pathlib.Path(staging.path, "a").touch()
        staging.commit()
    assert os.listdir(tmp_path) == ["code"]
    assert os.listdir(target) == ["a"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    assert Staging(str(target)).holds_files


def test_a_mount_point_gets_its_content_too(tmp_path: pathlib.Path) -> None:
    """A kill while entries are moved up leaves the inner directory: so it is begun anew."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    target = tmp_path / "code"
    target.mkdir()
    program = (
        "import os, sys; from supervisor.storage.staging import *\n"
        "target = sys.argv[1]; Staging(target).__enter__()\n"
        "open(os.path.join(target, INCOMPLETE), 'x')\n"
        "os.makedirs(target + '/half/old')\n"  # moved up before the kill
        "assert not Staging(target).holds_files, 'half'\n"
        "with Staging(target) as staging:\n"
        " assert os.path.dirname(staging.path) == target\n"
        " os.makedirs(staging.path + '/half/new'); open(staging.path + '/half/new/f', 'x')\n"
        " staging.commit()\n"
        "assert Staging(target).holds_files\n"
        "print(os.listdir(target), os.listdir(target + '/half'))\n"
    )
    script = 'mount -t tmpfs none "$1" && mkdir "$1/lost+found" && "$0" -P -c "$2" "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, sys.executable, str(target), program],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout.replace("'lost+found', ", "").replace(", 'lost+found'", "") == (
        "['half'] ['new']\n"
    ), done.stderr


# ------------------------------------------------------------------------------------- property

PART = st.sampled_from(["a", "b", "c", "..", "."])
LINKS = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(tuple),
    st.lists(PART, min_size=1, max_size=5).map("/".join),
    min_size=1,
    max_size=5,
)


@given(LINKS)
@settings(max_examples=300, deadline=None)
def test_links_that_we_let_pass_stay_inside(links: dict[tuple[str, ...], str]) -> None:
    """The kernel's own resolution, whatever directories exist, agrees."""
    if any(path[:end] in links for path in links for end in range(1, len(path))):
        return  # below a link: refused before
    root = pathlib.Path(os.path.realpath("/tmp"), f"links-{os.getpid()}", "outer", "root")
    try:
        for path in links:
            (root.joinpath(*path)).parent.mkdir(parents=True, exist_ok=True)
        for path, to in links.items():
            if root.joinpath(*path).is_dir():
                return  # there already as a parent: refused before
            root.joinpath(*path).symlink_to(to)
        for path in links:
            real = os.path.realpath(root.joinpath(*path))
            if not f"{real}/".startswith(f"{root}/"):
                assert leads_out(path, links)
    finally:
        shutil.rmtree(root.parent.parent, ignore_errors=True)
