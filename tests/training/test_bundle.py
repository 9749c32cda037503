"""The step that a checkpoint holds: bundles that TensorFlow wrote, and what looks like one."""

from __future__ import annotations

import pathlib
import random
import struct
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.training import bundle, framing
from supervisor.training.bundle import step_of
from tests.helpers.eventfiles import checksum, field, varint
from tests.helpers.many import MANY

RECORDED = pathlib.Path(__file__).parents[1] / "recorded" / "training" / "bundles"
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
INT32, INT64, FLOAT = 3, 9, 1


def step_in(prefix: str, index: bytes) -> int | None:
    """As it is read: the index, and so much of a shard."""
    variable = step_of(index)
    if variable is None:
        return None
    shard = RECORDED / f"{prefix}.data-{variable.shard:05}-of-{variable.shards:05}"
    data = shard.read_bytes() if shard.exists() else b""
    return variable.value(data[variable.offset :][: variable.size], checksum)


# --------------------------------------------------------------------------- real ones


@pytest.mark.parametrize(
    ("prefix", "name", "step"),
    [
        ("step", "step", 1234),
        ("int32", "step", 5),
        ("keras3", "optimizer/_iterations", 16),
        ("tf_keras", "optimizer/_iterations", 16),
        ("sharded-4242", "global_step", 4242),
    ],
)
def test_a_step_that_tensorflow_saved(prefix: str, name: str, step: int) -> None:
    index = (RECORDED / f"{prefix}.index").read_bytes()
    variable = step_of(index)
    assert variable
    assert variable.name == name
    assert step_in(prefix, index) == step


@pytest.mark.parametrize("prefix", ["counter-1", "float"])
def test_what_tensorflow_saved_without_a_step(prefix: str) -> None:
    """A counter of saves, and a step that is no whole number."""
    assert step_of((RECORDED / f"{prefix}.index").read_bytes()) is None


def test_a_variable_that_is_not_what_was_saved_is_none() -> None:
    variable = step_of((RECORDED / "step.index").read_bytes())
    assert variable
    assert variable.value(struct.pack("<q", 1234), checksum) == 1234
    for data in (struct.pack("<q", 1235), struct.pack("<i", 1234), b""):
        assert variable.value(data, checksum) is None


@pytest.mark.parametrize("prefix", ["step", "keras3", "tf_keras", "sharded-4242"])
def test_a_bit_that_is_not_what_it_was_makes_no_step(prefix: str) -> None:
    """Or it spoils something else."""
    index = (RECORDED / f"{prefix}.index").read_bytes()
    step = step_in(prefix, index)
    for at in range(len(index)):
        for bit in range(8):
            spoilt = bytearray(index)
            spoilt[at] ^= 1 << bit
            assert step_in(prefix, bytes(spoilt)) in {step, None}


@pytest.mark.parametrize("prefix", ["step", "sharded-4242"])
def test_a_part_of_an_index_is_none(prefix: str) -> None:
    index = (RECORDED / f"{prefix}.index").read_bytes()
    for size in range(len(index)):
        assert step_of(index[:size]) is None
        assert step_in(prefix, index[size:]) in {None, step_in(prefix, index)}


# --------------------------------------------------------------------------- by hand


def entry(dtype: int, data: bytes, *, shard: int = 0, offset: int = 0, shape: bytes = b"") -> bytes:
    """BundleEntryProto."""
    told = field(1, dtype) + field(2, shape) + field(3, shard) + field(4, offset)
    masked = framing.mask(checksum(data))
    return told + field(5, len(data)) + varint(6 << 3 | 5) + struct.pack("<I", masked)


def block(entries: Iterable[tuple[bytes, bytes]], *, kind: int = 0) -> bytes:
    """Names are written whole, which is allowed."""
    rows = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    return rows + struct.pack("<II", 0, 1) + bytes([kind]) + bytes(4)


def table(*blocks: bytes) -> bytes:
    """format.cc: blocks, a block of their handles, and a footer."""
    body, handles = b"", []
    for number, each in enumerate(blocks):
        handles.append((b"%d" % number, varint(len(body)) + varint(len(each) - 5)))
        body += each
    index = block(handles)
    footer = varint(0) + varint(0) + varint(len(body)) + varint(len(index) - 5)
    return body + index + footer.ljust(40, b"\0") + MAGIC


HEADER = (b"", field(1, 1))
STEP = entry(INT64, struct.pack("<q", 7))


def found(*entries: tuple[str, bytes], header: tuple[bytes, bytes] = HEADER) -> str | None:
    variable = step_of(table(block([header, *((name.encode(), told) for name, told in entries)])))
    return variable and variable.name


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["step"], "step"),
        (["a/b/step"], "a/b/step"),
        (["step/.ATTRIBUTES/VARIABLE_VALUE"], "step"),
        (["global_step", "step", "optimizer/_iterations"], "global_step"),
        (["model/step", "step", "optimizer/iter"], "step"),
        (["optimizer/iterations", "optimizer/learning_rate"], "optimizer/iterations"),
        (["b/_iterations", "a/_iterations"], "a/_iterations"),
        (["optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE", "save_counter"], "optimizer/iter"),
        (["save_counter", "steps", "step_1", "my_step", "stepper"], None),
    ],
)
def test_which_variable_counts_the_steps(names: list[str], best: str | None) -> None:
    assert found(*((name, STEP) for name in names)) == best


@pytest.mark.parametrize(
    "told",
    [
        entry(FLOAT, struct.pack("<f", 7)),
        entry(INT64, struct.pack("<q", 7), shape=field(2, field(1, 1))),
        entry(INT64, struct.pack("<i", 7)),
        entry(INT64, struct.pack("<q", 7), shard=1),
        entry(INT64, struct.pack("<q", 7), shard=-1),
        entry(INT64, struct.pack("<q", 7), offset=-1),
        entry(INT64, struct.pack("<q", 7), offset=2**63 - 8),
        field(1, b"int64"),
        b"",
        b"\xff",
    ],
)
def test_a_variable_that_cannot_be_a_step(told: bytes) -> None:
    assert found(("step", told)) is None


@pytest.mark.parametrize("header", [b"", field(1, 0), field(1, b"1"), field(1, 1) + field(2, 1)])
def test_a_header_that_says_no_number_of_shards(header: bytes) -> None:
    """Or that all is big endian."""
    assert found(("step", STEP), header=(b"", header)) is None


def test_a_negative_step_is_none() -> None:
    for dtype, form, step in ((INT64, "<q", -1), (INT32, "<i", -1), (23, "<Q", 2**63)):
        data = struct.pack(form, step)
        variable = step_of(table(block([HEADER, (b"step", entry(dtype, data))])))
        assert variable
        assert variable.value(data, checksum) is None


def test_an_index_may_have_many_blocks() -> None:
    blocks = [block([HEADER])]
    blocks += [block([(b"v%d" % number, STEP)]) for number in range(500)]
    assert step_of(table(*blocks, block([(b"x/step", STEP)])))


def test_blocks_that_are_compressed_are_not_read() -> None:
    assert step_of(table(block([HEADER, (b"step", STEP)], kind=1))) is None


def test_an_index_cannot_be_made_to_be_looked_through_without_end() -> None:
    """A hundred thousand handles of one block, and names that grow by their own length."""
    large = block([HEADER, *((b"step", STEP) for _ in range(5000))])
    handles = block([(b"", varint(0) + varint(len(large) - 5))] * 100_000)
    footer = varint(0) + varint(0) + varint(len(large)) + varint(len(handles) - 5)
    hostile = large + handles + footer.ljust(40, b"\0") + MAGIC
    rows = b"".join(
        varint(shared) + varint(10) + varint(0) + bytes(10)
        for shared in (10 * number for number in range(60_000))
    )
    growing = table(rows + struct.pack("<II", 0, 1) + bytes(5))
    began = time.process_time()
    assert step_of(hostile) is None
    assert step_of(growing) is None
    assert time.process_time() - began < 5


@MANY
@given(st.binary(max_size=400))
def test_any_bytes_are_an_index_or_none(data: bytes) -> None:
    assert step_of(data) is None
    assert step_of(data + MAGIC) is None
    assert step_of(data.ljust(48, b"\0") + MAGIC) is None


@MANY
@given(st.binary(max_size=100), st.binary(max_size=200))
def test_any_entries_are_read(told: bytes, rows: bytes) -> None:
    assert found(("step", told)) in {None, "step"}
    spoilt = rows + struct.pack("<II", 0, 1) + bytes(5)
    assert step_of(table(block([HEADER]), spoilt)) is None or b"step" in rows or b"iter" in rows


def test_garbage_of_any_size_is_none() -> None:
    chance = random.Random(3)
    index = bytearray((RECORDED / "keras3.index").read_bytes())
    for _ in range(2000):
        spoilt = bytearray(index)
        for _ in range(chance.randrange(1, 20)):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        assert step_in("keras3", bytes(spoilt)) in {16, None}
    assert step_of(bytes(bundle.MOST_INDEX)) is None
