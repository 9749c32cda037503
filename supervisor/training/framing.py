"""TFRecord framing, of which TensorBoard's event files are made: records out of bytes. Pure.

A record is its length (8 bytes, little endian), a checksum of these, the data, and a checksum of it
(tensorflow/core/lib/io/record_writer.h). The checksums are CRC-32C, masked as ``mask`` does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

MOST_RECORD: Final = 1 << 20
"""A larger one is passed over: scalars take a few hundred bytes, images and graphs the rest."""
_LENGTH: Final = struct.Struct("<QI")
_CHECKSUM: Final = struct.Struct("<I")
HEAD_BYTES: Final = _LENGTH.size
TAIL_BYTES: Final = _CHECKSUM.size
PIECE_BYTES: Final = HEAD_BYTES + MOST_RECORD + TAIL_BYTES
"""A piece of so many bytes that begins with a record's head is always got on with."""
_DELTA: Final = 0xA282EAD8
_ZEROS: Final = re.compile(rb"\0{5,}")


class Records(NamedTuple):
    """What a piece of a file holds."""

    data: tuple[bytes, ...]
    """The records that are whole and right, the first one first."""
    used: int
    """So many bytes of the piece are done with; the next piece begins there."""
    skip: int = 0
    """And so many bytes after it: the rest of a record that is passed over."""


def mask(checksum: int) -> int:
    """As TensorFlow stores it: a checksum of data that holds checksums is a weak one."""
    return ((checksum >> 15 | checksum << 17) + _DELTA) & 0xFFFFFFFF


def records(piece: bytes, checksum: Callable[[bytes], int], *, somewhere: bool = False) -> Records:
    """The records of a piece of a file that begins with one, or ``somewhere``.

    ``checksum`` is CRC-32C. A record that ends behind the piece is left for the next one: it may
    still be written. Where the bytes are no record the next one is looked for: a head is taken for
    one by its own checksum. One that says much is not looked for: data of eight bytes and their
    checksum are a head too, and only between two records it is known that they are none.
    """
    found: list[bytes] = []
    at = _next(piece, 0, checksum) if somewhere else 0
    while len(piece) - at >= HEAD_BYTES:
        length = _length(piece, at, checksum)
        if length is None:
            at = _next(piece, at + 1, checksum)
            continue
        end = at + HEAD_BYTES + length + TAIL_BYTES
        if length > MOST_RECORD:
            return Records(tuple(found), min(end, len(piece)), max(0, end - len(piece)))
        if end > len(piece):
            break
        data = piece[at + HEAD_BYTES : end - TAIL_BYTES]
        if _CHECKSUM.unpack_from(piece, end - TAIL_BYTES)[0] == mask(checksum(data)):
            found.append(data)
            at = end
        else:
            at = _next(piece, at + 1, checksum)
    return Records(tuple(found), at)


def _length(piece: bytes, at: int, checksum: Callable[[bytes], int]) -> int | None:
    """The length that the head of a record says; None where it is no head."""
    length, expected = _LENGTH.unpack_from(piece, at)
    return int(length) if expected == mask(checksum(piece[at : at + 8])) else None


def _next(piece: bytes, at: int, checksum: Callable[[bytes], int]) -> int:
    """Where the next head is; if there is none, where one could begin of which the end is missing.

    The upper five bytes of the length of a record that is looked for are zero. In a longer run of
    zeros only those at its ends are looked at: a head of zeros alone has another checksum.
    """
    end = len(piece) - HEAD_BYTES + 1
    for run in _ZEROS.finditer(piece, at + 3):
        first, last = run.start() - 3, run.end() - 8
        for place in (*range(first, min(first + 3, last)), *range(max(first, last - 3), last + 1)):
            if at <= place < end:
                length = _length(piece, place, checksum)
                if length is not None and length <= MOST_RECORD:
                    return int(place)
    return max(at, end)
