"""What TensorBoard's event files say of training: the step of scalars, and the loss. Pure.

Protocol buffers are walked by hand, as far as scalars need it: TensorFlow takes seconds to import,
and nothing of it is wanted in a supervisor. Fields as in tensorflow/core/util/event.proto,
framework/summary.proto and framework/tensor.proto.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from supervisor.training.reading import APART, MOST_STEPS, Unit

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FORMS: Final = {1: "<f", 2: "<d"}
"""Of tensors, by their types: DT_FLOAT, DT_DOUBLE."""
_MOST_FIELDS: Final = 4096
"""Of one message; what has more is not looked at further."""
_MOST_TAGS: Final = 64
"""Of one file, those that come first."""
_MOST_TAG: Final = 256
"""Characters of a tag."""
_AHEAD: Final = 16
"""By so much more than twice the weight another tag is written more often."""
_OVER: Final = 32
"""When another tag was written so often meanwhile, one is written no more."""
_LOSSES: Final = {"loss", "loss_1", "batch_loss", "train_loss", "training_loss", "total_loss"}
_LOSS: Final = re.compile(r"(?:^|[_. -])loss(?:_?\d+)?$")


class Event(NamedTuple):
    """One that says something of training."""

    step: int
    at: float
    """Seconds since the epoch."""
    scalars: tuple[tuple[str, float | None], ...]
    """Tags and values; None where it is no float."""


class Told(NamedTuple):
    unit: Unit
    step: int
    at: float
    loss: float | None


@dataclass(slots=True)
class _Tag:
    """How good a sign of what is told a tag is; 0: it is none."""

    step: int
    loss: int
    epochs: bool = False
    apart: bool = False
    """It tells of an evaluation: only where nothing else is told it counts."""
    count: int = 0
    turn: int = 0
    since: int = 0
    """It was written so often since the tag that counts was, at that turn of it."""

    @property
    def weight(self) -> int:
        return self.step * self.count


@dataclass(slots=True)
class Writer:
    """What the events of one file say, one after the other.

    Scalars of one file may count different things: batches and epochs, steps of training and those
    of an environment, a first training and a second one. So the step is that of one tag: of the one
    that is written most often, the loss before others, until it is written no more. Of Keras'
    callback ``batch_loss`` counts steps, and ``epoch_loss`` epochs, from 0 and when they are over;
    what it says of an evaluation begins with ``evaluation_``.
    """

    loss: float | None = None
    """The last."""
    _tags: dict[str, _Tag] = field(default_factory=dict)
    _step: str = ""
    """The tag whose steps are told …"""
    _loss: str = ""
    """… and the one whose values."""
    _turn: int = 0

    def take(self, record: bytes) -> Told | None:
        """What an event says; None where it says nothing, or is none."""
        event = event_of(record)
        if event is None:
            return None
        step = epoch = False
        for name, value in event.scalars:
            tag = self._tags.get(name)
            if tag is None:
                if len(self._tags) == _MOST_TAGS or len(name) > _MOST_TAG:
                    continue
                tag = self._tags[name] = _tag(name)
            if tag.step:
                step |= self._counts(name, tag)
            epoch |= tag.epochs
            if self._is_loss(name, tag) and value is not None:
                self.loss = value
        if step:
            return Told(Unit.STEP, event.step, event.at, self.loss)
        return Told(Unit.EPOCH, event.step + 1, event.at, self.loss) if epoch else None

    def _counts(self, name: str, tag: _Tag) -> bool:
        """Whether the step is that of this tag, which was written now."""
        tag.count += 1
        if name == self._step:
            self._turn += 1
            return True
        tag.since = tag.since + 1 if tag.turn == self._turn else 1
        tag.turn = self._turn
        chosen = self._tags.get(self._step)
        if chosen is not None and tag.apart > chosen.apart:
            return False
        over = chosen is not None and (tag.since >= _OVER or tag.apart < chosen.apart)
        if over:
            self._loss = ""
            for other in self._tags.values():
                other.count = 0
        if chosen is None or over or tag.weight > 2 * chosen.weight + _AHEAD:
            self._step = name
            return True
        return False

    def _is_loss(self, name: str, tag: _Tag) -> bool:
        known = self._tags.get(self._loss)
        if known is None or tag.loss > known.loss:
            self._loss = name if tag.loss else ""
        return bool(tag.loss) and name == self._loss


def _tag(name: str) -> _Tag:
    parts = name.lower().split("/")
    if parts[-1].startswith(("epoch_", "evaluation_")):
        # Other metrics of an epoch come along with its loss; alone they may count anything.
        return _Tag(0, 1, epochs=True) if parts[-1] == "epoch_loss" else _Tag(0, 0)
    if any(part.startswith(APART) for part in parts):
        return _Tag(4, 0, apart=True)
    if parts[-1] in _LOSSES:
        return _Tag(16, 3)
    if _LOSS.search(parts[-1]) or parts[0] in {"loss", "losses"}:
        return _Tag(8, 2)
    return _Tag(4, 0)


def event_of(record: bytes) -> Event | None:
    """None where it says nothing of training, or is no event."""
    try:
        return _event(record)
    except (ValueError, struct.error):
        return None


def _event(record: bytes) -> Event | None:
    at, step = 0.0, 0
    scalars: list[tuple[str, float | None]] = []
    for number, kind, value in fields(record):
        match number, kind:
            case 1, 1:
                (at,) = struct.unpack("<d", as_bytes(value))
            case 2, 0:
                step = as_int(value)
            case 5, 2:
                scalars += _scalars(as_bytes(value))
    if not scalars or not 0 <= step < MOST_STEPS - 1 or not math.isfinite(at):
        return None
    return Event(step, at, tuple(scalars))


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
    form = _FORMS.get(dtype)
    if form is None:
        return False, None
    if not content:  # as TensorFlow reads it
        return True, 0.0
    if len(content) != struct.calcsize(form):
        return False, None
    return True, float(struct.unpack(form, content)[0])


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
        if number < 1:
            raise ValueError("no message")
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
        if not 0 <= length <= len(message) - at:
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
