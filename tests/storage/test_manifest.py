"""Manifests: what is written is read, what could do harm is refused, what is needed is kept."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.storage import manifest
from supervisor.storage.manifest import File, Link, Manifest, ManifestError
from supervisor.storage.store import Sums
from supervisor.storage.trees import make_links

GENERATION = "000007-0badcafe"


def file(path: str = "ckpt-1.index", *, generation: str = GENERATION, size: int = 10) -> File:
    return File(
        path, size, 1_700_000_000_123_456_789, 0o644, f"{generation}/{path}", Sums(8, (1, 2))
    )


def of(*files: File, generation: str = GENERATION) -> Manifest:
    return Manifest(generation, 1_700_000_000.5, "algo-1", "job", files)


def changed(**fields: Any) -> bytes:
    body = json.loads(manifest.encode(of(file())))
    row = {key: fields.pop(key) for key in list(fields) if key in body["files"][0]}
    body["files"][0] |= row
    return json.dumps(body | fields).encode()


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)
paths = (
    st.lists(names, min_size=1, max_size=3).map("/".join).filter(lambda p: not manifest.unsafe(p))
)


@given(
    st.lists(paths, min_size=1, max_size=6, unique_by=lambda path: path.partition("/")[0]),
    st.integers(0, 1 << 40),
    st.integers(1, 1 << 30),
    st.data(),
)
def test_what_is_written_is_read(
    found: list[str], size: int, part_bytes: int, data: st.DataObject
) -> None:
    size = min(size, part_bytes * 50)
    count = max(1, -(-size // part_bytes))
    crcs = tuple(data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count)))
    files = tuple(
        File(path, size, -5, 0o600, f"{GENERATION}/{path}", Sums(part_bytes, crcs))
        for path in found
    )
    whole = of(*files)
    assert manifest.decode(manifest.encode(whole)) == whole
    assert whole.size == size * len(files)


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a/.", "a\0b", "x" * 901, "\udcff"],
)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    assert manifest.unsafe(path)
    with pytest.raises(ManifestError, match="the path"):
        manifest.decode(changed(path=path, key=f"{GENERATION}/{path}"))


@pytest.mark.parametrize("path", ["a", "a/b", "..a", "a..", " ", "a\nb", "ü/é", "x" * 900])
def test_other_paths_are_not(path: str) -> None:
    assert not manifest.unsafe(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no JSON object"),
        (changed(version=2), "version 2; version 1"),
        (changed(generation="../x"), "no generation"),
        (changed(files=[]), "0 files"),
        (changed(files=[1]), "no JSON object"),
        (changed(files=None), "'files' is NoneType, not list"),
        (changed(key="000001-00000000/other"), "not GENERATION/"),
        (changed(key="other/ckpt-1.index"), "not GENERATION/"),
        (changed(size=-1), "checksums"),
        (changed(size=100), "checksums"),
        (changed(size=True), "'size' is bool"),
        (changed(part_bytes=0), "checksums"),
        (changed(crcs=[1, -1]), "a checksum that is none"),
        (changed(crcs=[1, 1 << 32]), "a checksum that is none"),
        (changed(mtime_ns=1 << 63), "a time that is none"),
        (changed(saved_at="now"), "'saved_at' is str"),
        (changed(files=[json.loads(changed())["files"][0]] * 2), "stands there twice"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_reason(content: bytes, why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        manifest.decode(content)


def test_no_path_is_both_a_file_and_a_directory() -> None:
    with pytest.raises(ManifestError, match="'a/b' is a file and a directory"):
        manifest.decode(manifest.encode(of(file("a/b"), file("a/b/c/d"))))


def test_a_mode_brings_no_privilege() -> None:
    assert manifest.decode(changed(mode=0o104755)).files[0].mode == 0o755


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused(content: bytes) -> None:
    with pytest.raises(ManifestError):
        manifest.decode(content)


def test_too_many_files_are_refused_when_written() -> None:
    many = tuple(dataclasses.replace(file(), path=str(n)) for n in range(manifest.MOST_FILES + 1))
    with pytest.raises(ManifestError, match="100001 files"):
        manifest.encode(of(*many))


# --------------------------------------------------------------------------- links


def linked(*links: tuple[Any, Any], **fields: Any) -> bytes:
    rows = [{"path": path, "target": target} for path, target in links]
    return changed(links=rows, **fields)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", "b"), ("a", "."), ("a", "b/c"), ("a/b", ".."), ("a/b", "../c"), ("a/b/c", "../.."),
        ("a", "..b"), ("a", "a"), ("a", "ü"),
    ],
)  # fmt: skip
def test_links_that_stay_inside_are_read_as_they_were_written(path: str, target: str) -> None:
    whole = dataclasses.replace(of(file()), links=(Link(path, target),))
    assert manifest.decode(manifest.encode(whole)) == whole


@pytest.mark.parametrize(
    ("links", "why"),
    [
        ([("a", "/etc/passwd")], "is absolute"),
        ([("a", "..")], "leads out"),
        ([("a", "../../etc")], "leads out"),
        ([("a/b", "../..")], "leads out"),
        ([("a", ".."), ("b", "a/etc")], "leads out"),
        # By its words it leads to x; by the link a, which is the directory itself, to its parent.
        ([("a", "."), ("b", "a/../x")], "shortest form"),
        ([("a", "b/../../x")], "shortest form"),
        ([("a", "b//c")], "shortest form"),
        ([("a", "./b")], "shortest form"),
        ([("a", "")], "is empty"),
        ([("a", "b\0")], "NUL"),
        ([("a", "x" * 901)], "more than 900 bytes"),
        ([("a", "\udcff")], "not UTF-8"),
        ([("../a", "b")], "has an empty part, . or .. in it"),
        ([("/a", "b")], "is absolute"),
        ([("ckpt-1.index", "b")], "stands there twice"),
        ([("a", "b"), ("a", "c")], "stands there twice"),
        ([("a", "b"), ("a/c", "b")], "'a' is a file and a directory"),
        ([("ckpt-1.index/x", "b")], "is a file and a directory"),
        ([("a", 1)], "'target' is int"),
        ([(None, "b")], "'path' is NoneType"),
    ],
)
def test_links_that_could_lead_elsewhere_are_refused(
    links: list[tuple[Any, Any]], why: str
) -> None:
    with pytest.raises(ManifestError, match=why):
        manifest.decode(linked(*links))


def test_no_file_is_written_through_a_link_of_the_same_manifest() -> None:
    path = "a/ckpt-1.index"
    with pytest.raises(ManifestError, match="'a' is a file and a directory"):
        manifest.decode(linked(("a", "."), path=path, key=f"{GENERATION}/{path}"))


_parts = st.sampled_from(["a", "b", "c", "..", "."])


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join),
        st.lists(_parts, min_size=1, max_size=5).map("/".join),
        max_size=6,
    )
)
def test_no_links_lead_out_however_they_are_chained(links: dict[str, str]) -> None:
    try:
        content = manifest.decode(linked(*links.items()))
    except ManifestError:
        return
    with tempfile.TemporaryDirectory() as base:
        root = os.path.join(os.path.realpath(base), "x", "root")
        os.makedirs(root)
        make_links([(link.path, link.target) for link in content.links], root)
        for link in content.links:
            assert os.path.realpath(os.path.join(root, link.path)).startswith(root)


@pytest.mark.parametrize("links", [None, {}, ["a"], [None]])
def test_other_links_are_none(links: object) -> None:
    with pytest.raises(ManifestError):
        manifest.decode(changed(links=links))


def test_a_manifest_without_links_is_what_it_was() -> None:
    """Readers of before know of no links: they restore the files, and the version is theirs."""
    assert "links" not in json.loads(manifest.encode(of(file())))
    whole = dataclasses.replace(of(file()), links=(Link("a", "b"),))
    assert json.loads(manifest.encode(whole))["version"] == 1


# --------------------------------------------------------------------------- names and order


def test_names_of_keys() -> None:
    name = manifest.generation_name(12, 0xABC)
    assert name == "000012-00000abc"
    assert manifest.sequence_of(name) == 12
    assert manifest.generation_of_manifest(manifest.manifest_key(name)) == name
    assert manifest.generation_of_object(f"{name}/a/b") == name
    for key in (
        "manifests/x.json",
        f"manifests/{name}",
        f"{name}.json",
        f"manifests/{name}.json.1",
    ):
        assert manifest.generation_of_manifest(key) is None
    for key in ("model/saved_model.pb", name, f"{name}/", "manifests/a"):
        assert manifest.generation_of_object(key) is None


def test_the_newest_is_that_of_the_highest_number_then_of_the_latest_time() -> None:
    names = ["000002-00000001", "1000000-00000000", "000010-000000aa", "000010-000000bb"]
    times = {"000010-000000aa": 9.0, "000010-000000bb": 8.0}
    assert manifest.newest_first(names, times) == [
        "1000000-00000000",
        "000010-000000aa",
        "000010-000000bb",
        "000002-00000001",
    ]
    assert manifest.next_sequence(names) == 1_000_001
    assert manifest.next_sequence([]) == 1


# --------------------------------------------------------------------------- what may go

generations = st.builds(manifest.generation_name, st.integers(1, 12), st.integers(0, 5))


@given(st.sets(generations, max_size=20), st.integers(0, 6))
def test_the_newest_k_are_kept_and_all_others_go(found: set[str], keep: int) -> None:
    staying, going = manifest.kept(found, keep), manifest.retired(found, keep)
    assert sorted([*staying, *going]) == sorted(found)
    if keep == 0:
        assert not going
    else:
        assert len(staying) >= min(keep, len(found))
        for gone in going:
            newer = [n for n in staying if manifest.sequence_of(n) > manifest.sequence_of(gone)]
            assert len(newer) >= keep


@given(st.data())
def test_nothing_goes_that_a_kept_manifest_refers_to_or_that_is_newer(data: st.DataObject) -> None:
    """A manifest may refer to any generation up to its own; objects may belong to none."""
    found = data.draw(st.lists(generations, min_size=1, max_size=10, unique=True))
    every = []
    for name in found:
        older = [each for each in found if manifest.sequence_of(each) <= manifest.sequence_of(name)]
        sources = data.draw(st.lists(st.sampled_from(older), min_size=1, max_size=4))
        files = [file(f"f{number}", generation=each) for number, each in enumerate(sources)]
        every.append(of(*files, generation=name))
    staying_names = manifest.kept(found, data.draw(st.integers(1, 5)))
    staying = [each for each in every if each.generation in staying_names]
    keys = {each.key for whole in every for each in whole.files}
    keys |= set(data.draw(st.lists(generations.map(lambda name: f"{name}/stray"), max_size=5)))
    keys |= {"manifests/000001-00000000.json", "foreign/model.pb", "README"}
    going = set(manifest.needless(staying, keys))
    assert not going & {each.key for whole in staying for each in whole.files}
    assert not going & {"manifests/000001-00000000.json", "foreign/model.pb", "README"}
    oldest = min(manifest.sequence_of(name) for name in staying_names)
    for key in keys - going:
        generation = manifest.generation_of_object(key)
        used = any(key == each.key for whole in staying for each in whole.files)
        assert generation is None or used or manifest.sequence_of(generation) >= oldest
    assert all(manifest.sequence_of(key.partition("/")[0]) < oldest for key in going)


def test_without_a_manifest_nothing_goes() -> None:
    assert manifest.needless([], ["000001-00000000/a"]) == []


def test_a_file_is_reused_if_its_path_size_and_time_are_the_same() -> None:
    known = manifest.reusable(of(file("a", size=10)))
    assert known[("a", 10, file().mtime_ns)].key == f"{GENERATION}/a"
    assert ("a", 10, file().mtime_ns + 1) not in known
    assert manifest.reusable(None) == {}
