"""Where a file is cut into parts. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MOST_PARTS: Final = 10_000
"""Of one upload. Source: Amazon S3 User Guide, "Amazon S3 multipart upload limits"."""
SMALLEST_PART: Final = 5 << 20
"""Bytes; the last part may be smaller. Source: the same."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    """From 0."""
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


def part_bytes_for(size: int, wanted: int) -> int:
    """Bytes of a part of a file of ``size`` bytes: as wanted, unless that makes too many."""
    least = -(-size // MOST_PARTS)
    return max(wanted, SMALLEST_PART, -(-least // _MIB) * _MIB)


def parts(size: int, part_bytes: int) -> Iterator[Part]:
    """In order; an empty file has one part, of no bytes."""
    for number in range(max(1, -(-size // part_bytes))):
        offset = number * part_bytes
        yield Part(number, offset, min(part_bytes, size - offset))
