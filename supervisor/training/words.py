"""What a script's output says of training: Keras' and tqdm's bars, ``step 120/1000 loss 0.35``,
``Epoch 3/10``, JSON lines, or what the user's own pattern finds. Pure.

Only the end of what is new is read, now and then: the streams' way to their outputs is not touched,
and a script that floods its output costs no more than another.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from supervisor.training.reading import MOST_STEPS, Unit, real, whole

END_BYTES: Final = 16 << 10
"""Of what is new at a look, so much of its end is read."""
MOST_LINES: Final = 200
_LINE: Final = 1024
"""Characters of a line that are looked at."""
_JSON_LINE: Final = 4096
_NUMBER: Final = r"(?:nan|-?inf(?:inity)?|[-+]?(?:\d[\d_,]*)?\.?\d+(?:e[-+]?\d+)?)"

_BREAKS: Final = re.compile(r"[\r\n\b]+")
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_EPOCH: Final = re.compile(
    r"(?<![\w/.-])epochs?\s*[:=#]?\s*\[?\s*(?P<epoch>\d{1,9})(?![\d.]*\d*s\b)"
    r"(?:\s*(?:/|of)\s*(?P<total>\d{1,9}))?(?!\.\d|\d)",
    re.IGNORECASE,
)
_HEADER: Final = re.compile(r"^\s*Epoch (?P<epoch>\d{1,9})/(?P<total>\d{1,9})\s*$")
"""Keras' line before the bar of an epoch."""
_BAR: Final = re.compile(
    r"^\s*(?P<step>\d{1,12})/(?P<total>\d{1,12}|Unknown)\s*(?:\[[=>.]*\]|[━╸╺\s]*)\s*"
    r"(?:-\s)?.*?(?:ETA|step|loss|\d+s\b)"
)
"""Keras' bar, of version 2 and 3, and its one line with ``verbose=2``."""
_TQDM: Final = re.compile(r"\d{1,3}%\|[^|]*\|\s*(?P<step>\d{1,12})/(?P<total>\d{1,12})\s+\[\d+:")
_STEP: Final = re.compile(
    r"(?<![\w/.-])(?:global[_ -]?step|train(?:ing)?[_ -]?step|step|iter(?:ation)?)\b"
    r"\s*[:=#]?\s*[\[(]?\s*(?P<step>\d[\d,_]{0,15})(?!\.\d|\d|\s*(?:ms|us|s|sec|seconds)\b)"
    r"(?:\s*(?:/|of)\s*(?P<total>\d[\d,_]{0,15}))?",
    re.IGNORECASE,
)
_LOSS: Final = re.compile(
    rf"(?<![\w.-])(?P<name>(?:train(?:ing)?[_ ])?loss)\b\s*(?:[:=]|is)?\s*(?P<loss>{_NUMBER})\b",
    re.IGNORECASE,
)
_EVALUATION: Final = re.compile(r"\b(?:evaluat|validat|testing\b|eval\b)", re.IGNORECASE)
_KEYS: Final = {
    "step": ("step", "global_step", "train_step", "iteration", "iter"),
    "total": ("total", "total_steps", "max_steps", "num_steps", "steps_total"),
    "epoch": ("epoch",),
    "epochs": ("epochs", "num_epochs", "total_epochs"),
    "loss": ("loss", "train_loss", "training_loss"),
}


class Found(NamedTuple):
    """What a look at the output gives."""

    unit: Unit
    step: int
    total: int | None = None
    loss: float | None = None


class _Line(NamedTuple):
    """What one line says."""

    step: int | None = None
    total: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    header: bool = False
    bar: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """What is known of one stream between two looks."""

    pattern: re.Pattern[str] | None = None
    """The user's own, with the groups ``step``, ``epoch``, ``total``, ``loss``: nothing else counts
    then."""
    rest: str = ""
    """A line that has no end yet."""
    found: Found | None = None
    """The last."""
    evaluating: bool = False
    """The last line that says anything speaks of an evaluation, or an epoch has come to its end."""
    _epoch: int | None = None
    """That goes on, from 1, by Keras' header."""
    _epochs: int | None = None
    _bar_done: bool = False
    """The bar has come to its end: the next one without a header is no training."""
    _base: int = 0
    """Steps of the epochs before, where steps begin anew in each."""
    _seen_epoch: int | None = None
    _in_epoch: int = -1
    """The last step by a line that says nothing of Keras'."""

    def read(self, new: str, *, cut: bool = False) -> Words:
        """After ``new`` more of the output. ``cut``: something before it was left out."""
        text = new if cut else self.rest + new
        lines = _BREAKS.split(_ESCAPES.sub("", text))
        rest = lines.pop()[-_LINE:]
        words = self
        for line in lines[1 if cut else 0 :][-MOST_LINES:]:
            if line and not line.isspace():
                words = words.take(line)
        if rest and _is_bar(rest):  # drawn in place: its end comes with the next one
            words = words.take(rest)
        return replace(words, rest=rest)

    def take(self, line: str) -> Words:
        """After one line, without its end."""
        said = _own(self.pattern, line) if self.pattern else _of(line)
        if said is None:
            if not self.pattern and _EVALUATION.search(line[:_LINE]):
                return replace(self, evaluating=True)
            return self
        if said.header:
            done = (said.epoch or 1) - 1
            words = replace(
                self, _epoch=said.epoch, _epochs=said.epochs, _bar_done=False, evaluating=False
            )
            if self.found is None or self.found.unit is Unit.EPOCH:
                return replace(words, found=Found(Unit.EPOCH, done, said.epochs))
            return words
        if said.bar:
            return self._bar(said)
        return self._plain(said)

    def _bar(self, said: _Line) -> Words:
        """Keras': it counts within an epoch."""
        assert said.step is not None
        if self._bar_done and not (said.step == said.total and self.found):
            return replace(self, evaluating=True)  # of evaluate() or predict()
        if self._bar_done:
            return self
        if said.total is None:  # nobody knows yet how long an epoch is
            first = self._epoch in {None, 1}
            if not first:
                return self
            found = Found(Unit.STEP, said.step, None, said.loss)
            return replace(self, found=found, evaluating=False)
        before = ((self._epoch or 1) - 1) * said.total
        total = said.total * (self._epochs or 1)
        loss = said.loss if said.loss is not None else self.found and self.found.loss
        found = Found(Unit.STEP, before + said.step, total, loss)
        done = said.step >= said.total
        return replace(self, found=found, _bar_done=done, evaluating=done)

    def _plain(self, said: _Line) -> Words:
        if said.step is None and said.epoch is None:  # a line with a loss alone
            if self.found is None or said.loss is None:
                return self
            return replace(self, found=self.found._replace(loss=said.loss))
        if said.step is None:
            assert said.epoch is not None
            words = replace(self, _seen_epoch=said.epoch, evaluating=False)
            if self.found is not None and self.found.unit is Unit.STEP:
                if said.loss is not None:
                    return replace(words, found=self.found._replace(loss=said.loss))
                return words
            return replace(words, found=Found(Unit.EPOCH, said.epoch, said.epochs, said.loss))
        epoch = said.epoch if said.epoch is not None else self._seen_epoch
        base = self._base
        anew = said.step < self._in_epoch and epoch is not None and epoch != self._of_epoch
        if anew:  # each epoch counts from the beginning
            base += said.total if said.total is not None else self._in_epoch
        total = said.total
        if base and total is not None:
            epochs = said.epochs or self._epochs
            total = total * epochs if epochs else None
        loss = said.loss if said.loss is not None else self.found and self.found.loss
        return replace(
            self,
            found=Found(Unit.STEP, base + said.step, total, loss),
            _base=base,
            _in_epoch=said.step,
            _seen_epoch=epoch,
            _of_epoch=epoch,
            _epochs=said.epochs or self._epochs,
            evaluating=False,
        )

    _of_epoch: int | None = field(default=None)
    """In which ``_in_epoch`` was said."""


def _is_bar(line: str) -> bool:
    return bool(_BAR.match(line[:_LINE]) or _TQDM.search(line[:_LINE]))


def _of(line: str) -> _Line | None:
    """What a line says; None where it says nothing of training."""
    if line.lstrip().startswith("{") and len(line) <= _JSON_LINE:
        return _json(line)
    line = line[:_LINE]
    if header := _HEADER.match(line):
        return _Line(epoch=int(header["epoch"]), epochs=int(header["total"]), header=True)
    loss = _number(found["loss"]) if (found := _LOSS.search(line)) else None
    if bar := _BAR.match(line):
        total = None if bar["total"] == "Unknown" else int(bar["total"])
        return _Line(int(bar["step"]), total or None, loss=loss, bar=True)
    if bar := _TQDM.search(line):
        return _Line(int(bar["step"]), int(bar["total"]), loss=loss)
    step, epoch = _STEP.search(line), _EPOCH.search(line)
    if step is None and epoch is None and loss is None:
        return None
    return _Line(
        step and _count(step["step"]),
        step and _count(step["total"]),
        epoch and _count(epoch["epoch"]),
        epoch and _count(epoch["total"]),
        loss,
    )


def _json(line: str) -> _Line | None:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None

    def first(name: str) -> object:
        return next((told[key] for key in _KEYS[name] if key in told), None)

    step, epoch = whole(first("step")), whole(first("epoch"))
    if step is None and epoch is None:
        return None
    total, epochs = whole(first("total")), whole(first("epochs"))
    return _Line(step, total, epoch, epochs, real(first("loss")))


def _own(pattern: re.Pattern[str], line: str) -> _Line | None:
    """What the user's own pattern finds."""
    found = pattern.search(line[:_LINE])
    if found is None:
        return None
    groups = {name: text for name, text in found.groupdict().items() if text}
    step = _count(groups.get("step"))
    epoch, total = _count(groups.get("epoch")), _count(groups.get("total"))
    loss = _number(groups["loss"]) if "loss" in groups else None
    if step is None and epoch is None and loss is None:
        return None
    return _Line(step, total if step is not None else None, epoch, None if step else total, loss)


def _count(text: str | None) -> int | None:
    if not text:
        return None
    try:
        number = int(text.replace(",", "").replace("_", ""))
    except ValueError:
        return None
    return number if number < MOST_STEPS else None


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace("_", ""))
    except ValueError:
        return None
