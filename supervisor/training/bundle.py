"""The step that a checkpoint of TensorFlow's holds, without TensorFlow: of bundle ``P`` the index
``P.index``, a table of LevelDB's with an entry a variable, and the variable itself. Pure.

Formats: tensorflow/core/lib/io/format.cc and table_builder.cc, core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from supervisor.training.events import as_bytes, as_int, fields, varint
from supervisor.training.framing import mask
from supervisor.training.reading import MOST_STEPS

MOST_INDEX: Final = 8 << 20
"""Bytes of an index; a greater one is of more variables than are looked through."""
_MOST_ENTRIES: Final = 50_000
_MOST_KEY: Final = 4096
"""Bytes of a name. What has more of either may be made to be looked through without end."""
_MOST_SHARDS: Final = 99_999
_MAGIC: Final = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER: Final = 48
_NAMES: Final = ("global_step", "step", "iterations", "_iterations", "iter")
"""Of variables that count steps, TF1's first, then what scripts call their own, then Keras'."""
_SUFFIX: Final = "/.ATTRIBUTES/VARIABLE_VALUE"
_FORMATS: Final = {3: "<i", 9: "<q", 22: "<I", 23: "<Q"}
"""DT_INT32, DT_INT64, DT_UINT32, DT_UINT64."""


class Variable(NamedTuple):
    """Where the step lies."""

    name: str
    shard: int
    shards: int
    offset: int
    form: str
    checksum: int

    @property
    def size(self) -> int:
        return struct.calcsize(self.form)

    def value(self, data: bytes, checksum: Callable[[bytes], int]) -> int | None:
        """The step, of the variable's bytes; None where they are not."""
        if len(data) != self.size or mask(checksum(data)) != self.checksum:
            return None
        step: int = struct.unpack(self.form, data)[0]
        return step if 0 <= step < MOST_STEPS else None


def step_of(index: bytes) -> Variable | None:
    """The variable that counts the steps; None where there is none, or the index is no index."""
    best: tuple[tuple[int, int, str], Variable] | None = None
    shards = 1
    try:
        for key, value in _entries(index):
            if not key:  # BundleHeaderProto
                header = {(number, kind): content for number, kind, content in fields(value)}
                shards = as_int(header.get((1, 0), 0))
                if header.get((2, 0)):  # big endian
                    return None
                continue
            path = key.decode("utf-8", "replace").removesuffix(_SUFFIX)
            name = path.rpartition("/")[2]
            if name in _NAMES and (found := _variable(path, value, shards)):
                rank = (_NAMES.index(name), path.count("/"), path)
                best = min(best or (rank, found), (rank, found))
    except (ValueError, struct.error):
        return None
    return best and best[1]


def _variable(path: str, entry: bytes, shards: int) -> Variable | None:
    dtype = shard = offset = size = checksum = 0
    for number, kind, value in fields(entry):
        match number, kind:
            case 1, 0:
                dtype = as_int(value)
            case 2, 2:
                if as_bytes(value):  # a shape with dimensions
                    return None
            case 3, 0:
                shard = as_int(value)
            case 4, 0:
                offset = as_int(value)
            case 5, 0:
                size = as_int(value)
            case 6, 5:
                (checksum,) = struct.unpack("<I", as_bytes(value))
    form = _FORMATS.get(dtype)
    if form is None or size != struct.calcsize(form):
        return None
    if not (0 <= shard < shards <= _MOST_SHARDS and 0 <= offset < MOST_STEPS - size):
        return None
    return Variable(path, shard, shards, offset, form, checksum)


# --------------------------------------------------------------------------- LevelDB's table


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in their order.

    Raises:
        ValueError, struct.error: it is no table, or one whose blocks are compressed.

    """
    if len(table) < _FOOTER or table[-8:] != _MAGIC:
        raise ValueError("no table")
    at = len(table) - _FOOTER
    for _ in range(2):  # the handle of the index of metadata, which says nothing to us
        _, at = varint(table, at)
    room = _MOST_ENTRIES
    for _, handle in _block(table, *_handle(table[at : len(table) - 8])):
        for entry in _block(table, *_handle(handle)):
            yield entry
            if (room := room - 1) < 0:
                raise ValueError("too many entries")


def _handle(encoded: bytes) -> tuple[int, int]:
    offset, at = varint(encoded, 0)
    return offset, varint(encoded, at)[0]


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    if not 0 <= offset <= offset + size < len(table) or table[offset + size] != 0:
        raise ValueError("no block, or a compressed one")
    block = table[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    end = size - 4 * (restarts + 1)
    at, key = 0, b""
    while 0 <= at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        length, at = varint(block, at)
        if not (0 <= shared <= len(key) and own >= 0 and length >= 0 and at + own + length <= end):
            raise ValueError("no entry")
        if shared + own > _MOST_KEY:
            raise ValueError("no name")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length
