"""Event files written by hand, as TensorBoard's writers do, without TensorFlow."""

from __future__ import annotations

import struct

import google_crc32c

from supervisor.training import framing


def checksum(data: bytes) -> int:
    value: int = google_crc32c.value(data)
    return value


def head(length: int) -> bytes:
    encoded = struct.pack("<Q", length)
    return encoded + struct.pack("<I", framing.mask(checksum(encoded)))


def record(data: bytes) -> bytes:
    return head(len(data)) + data + struct.pack("<I", framing.mask(checksum(data)))


def varint(number: int) -> bytes:
    number %= 1 << 64
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


def field(number: int, value: float | bytes) -> bytes:
    """A varint, a double or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def float32(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)


def scalar(tag: str, value: float) -> bytes:
    """Of a summary, as TensorFlow 1 writes it."""
    return field(1, field(1, tag.encode()) + float32(2, value))


def tensor(tag: str, value: float, dtype: int = 1) -> bytes:
    """The same, as TensorFlow 2 does."""
    content = struct.pack("<d" if dtype == 2 else "<f", value)
    told = field(1, dtype) + field(2, b"") + field(4, content)
    plugin = field(1, field(1, b"scalars"))
    return field(1, field(1, tag.encode()) + field(8, told) + field(9, plugin))


def event(at: float, step: int, summary: bytes) -> bytes:
    told = field(1, at)
    if step:  # the default of a field is not written
        told += field(2, step)
    return told + field(5, summary)


def loss(at: float, step: int, value: float = 0.5, tag: str = "loss") -> bytes:
    """A record: the loss at one step."""
    return record(event(at, step, tensor(tag, value)))


def version(at: float) -> bytes:
    """The record with which each file begins."""
    return record(field(1, at) + field(3, b"brain.Event:2"))
