"""What TensorBoard's event files say of training: the step of scalars, and the loss. Pure.

Protocol buffers are walked by hand, as far as scalars need it: TensorFlow takes seconds to import,
and nothing of it is wanted in a supervisor. Fields as in tensorflow/core/util/event.proto,
framework/summary.proto and framework/tensor.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from supervisor.training.reading import MOST_STEPS, Unit

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT, _DOUBLE = 1, 2
"""Types of tensors: DT_FLOAT, DT_DOUBLE."""
_MOST_FIELDS: Final = 4096
"""Of one message; what has more is not looked at further."""


class Told(NamedTuple):
    """What one event says."""

    unit: Unit
    step: int
    at: float
    """Seconds since the epoch."""
    loss: float | None = None
    evaluated: bool = False
    """It tells of an evaluation, which trains nothing."""


def told(event: bytes) -> Told | None:
    """What an event says of training; None where it says nothing or is none.

    Keras' callback counts epochs in ``epoch_loss`` and the like, from 0 and when they are over, and
    steps in ``batch_loss``; what it says of an evaluation begins with ``evaluation_``.
    """
    try:
        return _told(event)
    except (ValueError, struct.error):
        return None


def _told(event: bytes) -> Told | None:
    at, step = 0.0, 0
    values: list[tuple[str, float | None]] = []
    for number, kind, value in fields(event):
        match number, kind:
            case 1, 1:
                (at,) = struct.unpack("<d", as_bytes(value))
            case 2, 0:
                step = as_int(value)
            case 5, 2:
                values += _scalars(as_bytes(value))
    if not values or not 0 <= step < MOST_STEPS:
        return None
    names = [(tag.rpartition("/")[2], number) for tag, number in values]
    if all(name.startswith("evaluation_") for name, _ in names):
        return Told(Unit.STEP, step, at, evaluated=True)
    losses = [
        (name != "loss" and not name.endswith("_loss"), number)
        for name, number in names
        if "loss" in name and not name.startswith("val_") and number is not None
    ]
    loss = min(losses, key=lambda each: each[0])[1] if losses else None
    if all(name.startswith("epoch_") for name, _ in names):
        return Told(Unit.EPOCH, step + 1, at, loss)
    return Told(Unit.STEP, step, at, loss)


def _scalars(summary: bytes) -> Iterator[tuple[str, float | None]]:
    """Tags and values of a summary's scalars; None where it is a scalar of another type."""
    for number, kind, value in fields(summary):
        if (number, kind) == (1, _BYTES):
            tag, scalar, is_scalar = "", None, False
            for part, form, content in fields(as_bytes(value)):
                match part, form:
                    case 1, 2:
                        tag = as_bytes(content).decode("utf-8", "replace")
                    case 2, 5:
                        (scalar,) = struct.unpack("<f", as_bytes(content))
                        is_scalar = True
                    case 8, 2:
                        is_scalar, scalar = _tensor(as_bytes(content))
            if is_scalar:
                yield tag, scalar


def _tensor(tensor: bytes) -> tuple[bool, float | None]:
    """Whether a tensor is a scalar of numbers, and its value where it is a float."""
    dtype, content = 0, b""
    for number, kind, value in fields(tensor):
        match number, kind:
            case 1, 0:
                dtype = as_int(value)
            case 2, 2:
                if as_bytes(value):  # a shape with dimensions
                    return False, None
            case ((4 | 5 | 6), 2):  # tensor_content, float_val, double_val
                content = as_bytes(value)
            case ((5 | 6), (5 | 1)):  # not packed
                content = as_bytes(value)
    if dtype == _FLOAT and len(content) == 4:
        return True, float(struct.unpack("<f", content)[0])
    if dtype == _DOUBLE and len(content) == 8:
        return True, float(struct.unpack("<d", content)[0])
    return False, None


# --------------------------------------------------------------------------- protocol buffers


def fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of each field.

    Raises:
        ValueError: it is no message.

    """
    at = 0
    for _ in range(_MOST_FIELDS):
        if at == len(message):
            return
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = varint(message, at)
            yield number, kind, value
            continue
        if kind == _BYTES:
            length, at = varint(message, at)
        elif kind in {_FIXED64, _FIXED32}:
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if number == 0 or not 0 <= length <= len(message) - at:
            raise ValueError("no message")
        yield number, kind, message[at : at + length]
        at += length
    raise ValueError("too many fields")


def varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, as two's complement of 64 bits, and where it ends."""
    number = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            number &= (1 << 64) - 1
            return number - (1 << 64) if number >> 63 else number, at
        shift += 7
    raise ValueError("no number")


def as_bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def as_int(value: int | bytes) -> int:
    assert isinstance(value, int)
    return value
