"""TFRecord framing: only true records come out, wherever a piece is cut, torn or spoilt; and after
what is no record nothing is lost."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.training import framing
from tests.helpers.eventfiles import checksum, head, record
from tests.helpers.many import MANY

DATA = st.one_of(
    st.binary(max_size=80),
    st.integers(0, 3000).map(bytes),  # of zeros, among which heads are looked for
    st.sampled_from([255, 256, 257, 65535, 65536]).map(lambda size: b"x" * size),
).filter(lambda data: len(data) != 8)
"""But for data that may look like a head: see below."""


class Reader:
    """Reads a file as it grows, a piece at a time."""

    def __init__(self) -> None:
        self.offset = 0
        self.found: list[bytes] = []

    def read(self, file: bytes, size: int = framing.PIECE_BYTES) -> None:
        while piece := file[self.offset : self.offset + size]:
            part = framing.records(piece, checksum)
            assert 0 <= part.used <= len(piece)
            assert part.skip >= 0
            assert part.used == len(piece) or not part.skip
            self.found += part.data
            self.offset += part.used + part.skip
            if not part.used:
                return


def read(file: bytes) -> list[bytes]:
    reader = Reader()
    reader.read(file)
    return reader.found


@MANY
@given(st.lists(DATA, max_size=8), st.lists(st.integers(0, 5000), max_size=8))
def test_a_file_that_grows_in_odd_pieces_gives_every_record_once(
    datas: list[bytes], cuts: list[int]
) -> None:
    file = b"".join(map(record, datas))
    reader = Reader()
    for cut in sorted(cuts):
        reader.read(file[:cut])
        assert reader.found == datas[: len(reader.found)]
    reader.read(file)
    assert reader.found == datas
    assert reader.offset == len(file)


@MANY
@given(st.lists(DATA, max_size=6), st.binary(min_size=1, max_size=100), st.lists(DATA, max_size=6))
def test_nothing_is_lost_after_what_is_no_record(
    before: list[bytes], garbage: bytes, after: list[bytes]
) -> None:
    file = b"".join((*map(record, before), garbage, *map(record, after)))
    assert read(file) == before + after


@MANY
@given(st.integers(1, 5000), st.lists(DATA, min_size=1, max_size=4))
def test_records_are_found_behind_zeros(zeros: int, after: list[bytes]) -> None:
    assert read(bytes(zeros) + b"".join(map(record, after))) == after


@MANY
@given(st.lists(DATA, min_size=1, max_size=5), st.data())
def test_a_file_that_is_begun_in_its_middle_gives_the_records_from_the_next_one_on(
    datas: list[bytes], data: st.DataObject
) -> None:
    begins = [sum(len(record(each)) for each in datas[:number]) for number in range(len(datas))]
    file = b"".join(map(record, datas))
    begin = data.draw(st.integers(0, len(file)))
    expected = [each for each, at in zip(datas, begins, strict=True) if at >= begin]
    part = framing.records(file[begin:], checksum, somewhere=True)
    assert [*part.data] == expected


@pytest.mark.parametrize("length", [5, framing.MOST_RECORD + 1, 1 << 56])
def test_data_that_look_like_a_head_are_none(length: int) -> None:
    """Eight bytes and their checksum, where a file is begun in its middle."""
    file = record(length.to_bytes(8, "little")) + record(b"next")
    assert framing.records(file[12:], checksum, somewhere=True).data == (b"next",)
    spoilt = b"\xff" + file[1:]
    assert framing.records(spoilt, checksum).data == (b"next",)


@MANY
@given(st.lists(DATA, min_size=1, max_size=5), st.data())
def test_a_bit_that_is_not_what_it_was_spoils_one_record(
    datas: list[bytes], data: st.DataObject
) -> None:
    file = bytearray(b"".join(map(record, datas)))
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] ^= 1 << data.draw(st.integers(0, 7))
    found = read(bytes(file))
    spoilt = next(
        number
        for number in range(len(datas))
        if at < sum(len(record(each)) for each in datas[: number + 1])
    )
    assert found == [*datas[:spoilt], *datas[spoilt + 1 :]]


@MANY
@given(st.binary(max_size=4000))
def test_garbage_holds_no_record_and_is_done_with(garbage: bytes) -> None:
    part = framing.records(garbage, checksum)
    assert part.data == ()
    assert len(garbage) - part.used < framing.HEAD_BYTES
    assert part.skip == 0


@pytest.mark.parametrize("size", [framing.MOST_RECORD - 4, framing.MOST_RECORD])
def test_the_largest_record_fits_into_a_piece(size: int) -> None:
    """A piece was four bytes too small once, and the reader stayed where it was for ever."""
    data = bytes(size)
    assert read(record(data) + record(b"next")) == [data, b"next"]


@pytest.mark.parametrize("cut", [None, 5, framing.HEAD_BYTES, 1000, 1 << 20])
def test_a_larger_record_is_passed_over(cut: int | None) -> None:
    large = record(bytes(framing.MOST_RECORD + 1))
    reader = Reader()
    if cut is not None:
        reader.read((record(b"first") + large)[: len(record(b"first")) + cut])
    reader.read(record(b"first") + large + record(b"next"))
    assert reader.found == [b"first", b"next"]


@pytest.mark.parametrize("length", [framing.MOST_RECORD + 1, 2 << 30, 2**63, 2**64 - 1])
def test_a_head_that_says_much_is_passed_over_without_reading_it(length: int) -> None:
    piece = record(b"first") + head(length) + b"some of it"
    part = framing.records(piece, checksum)
    assert part.data == (b"first",)
    assert part.used == len(piece)
    assert part.used + part.skip == len(record(b"first")) + 12 + length + 4


def test_a_head_is_looked_for_where_one_can_be() -> None:
    """A hundred million zeros, as in a sparse file, cost a scan of them and no more checksums."""
    asked = 0

    def counted(data: bytes) -> int:
        nonlocal asked
        asked += 1
        return checksum(data)

    zeros = bytes(1 << 20)
    assert framing.records(zeros, counted) == ((), len(zeros) - framing.HEAD_BYTES + 1, 0)
    assert asked < 20


def test_the_mask_is_tensorflows() -> None:
    """record_writer.h by hand: a rotation to the right by 15 bits, and a constant."""
    [data] = read(record(b"abc"))
    assert data == b"abc"
    assert checksum(b"123456789") == 0xE3069283  # CRC-32C's check value
    assert framing.mask(0) == 0xA282EAD8
    assert framing.mask(0x8000) == 0xA282EAD9
    assert framing.mask(1) == (0x20000 + 0xA282EAD8)


def slow_checksum(data: bytes) -> int:
    """Another implementation, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@MANY
@given(st.binary(max_size=60))
def test_the_checksum_is_crc_32c(data: bytes) -> None:
    functions: list[Callable[[bytes], int]] = [checksum, slow_checksum]
    assert len({function(data) for function in functions}) == 1
    assert struct.unpack("<I", record(data)[-4:])[0] == framing.mask(slow_checksum(data))
