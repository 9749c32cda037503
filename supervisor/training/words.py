"""What a script's output says of training: Keras' and tqdm's bars, ``step 120/1000 loss 0.35``,
``Epoch 3/10``, JSON lines, or what the user's own pattern finds. Pure.

Only the end of what is new is read, now and then: the streams' way to their outputs is not touched,
and a script that floods its output costs no more than another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from supervisor.training import lines
from supervisor.training.lines import Kind, Line
from supervisor.training.reading import Unit

END_BYTES: Final = 16 << 10
"""Of what is new at a look, so much of its end is read."""
MOST_LINES: Final = 200
_BREAKS: Final = re.compile(r"[\r\n\b]+")
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
"""ECMA-48: colours and cursors, and a terminal's titles."""
_TAG: Final = re.compile(r"\[\d+,(?P<rank>\d+)\]<std(?:out|err|diag)>: ?")
"""What mpirun puts before each line of a rank (``--tag-output``)."""
_OTHERS: Final = 20
"""When so many lines of another kind have come, the kind that counts comes no more."""


class Found(NamedTuple):
    """What a look at the output gives."""

    unit: Unit
    step: int
    total: int | None = None
    loss: float | None = None


class _Place(NamedTuple):
    """Where in an epoch a step was said."""

    epoch: int | None
    step: int


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
    """That goes on, as was said last."""
    _epochs: int | None = None
    _begun: int | None = None
    """The first one that was seen."""
    _from_0: bool = False
    """Epochs are counted from there."""
    _from_first: bool = False
    """The first one was seen."""
    _headed: bool = False
    """Keras said that an epoch begins, once."""
    _bar_done: bool = False
    """The bar has come to its end: the next one without a header is no training."""
    _kind: Kind | None = None
    """Of the lines whose steps count: others may count something else."""
    _others: int = 0
    """So many lines of other kinds have come since."""
    _within: bool | None = None
    """Steps begin anew with each epoch; None: nobody knows."""
    _last: _Place | None = None

    def read(self, new: str, *, cut: bool = False) -> Words:
        """After ``new`` more of the output. ``cut``: something before it was left out."""
        text = new if cut else self.rest + new
        parts = _BREAKS.split(_ESCAPES.sub("", text))
        rest = parts.pop()[: lines.MOST_JSON + 1]  # of a longer line its beginning is looked at
        words = self
        for line in parts[1 if cut else 0 :][-MOST_LINES:]:
            if line and not line.isspace():
                words = words.take(line)
        own = None if self.pattern else _of_first_rank(rest)
        if own and (said := lines.drawn_by(own)):
            words = words.say(said)
        return replace(words, rest=rest)

    def take(self, line: str) -> Words:
        """After one line, without its end."""
        if (own := _of_first_rank(line)) is None:
            return self
        said = lines.found_by(self.pattern, own) if self.pattern else lines.said_by(own)
        return self if said is None else self.say(said)

    def say(self, said: Line) -> Words:
        if said.kind is Kind.EVALUATION:
            return replace(self, evaluating=True)
        if said.kind is Kind.LOSS or not self._counts(said.kind):
            words = self.with_loss(said.loss)
            return words if said.kind is Kind.LOSS else replace(words, _others=self._others + 1)
        words = self._in_epoch(said)
        if said.kind is Kind.BAR:
            return words.with_bar(said)
        if said.step is not None:
            return words.with_step(said)
        return words.with_epoch(said)

    def _counts(self, kind: Kind) -> bool:
        """Whether steps of such lines do: one kind does, until it comes no more."""
        return (
            self._kind in {None, kind}
            or kind in {Kind.HEADER, Kind.EPOCH}
            or self._others >= _OTHERS
        )

    def with_loss(self, loss: float | None) -> Words:
        if self.found is None or loss is None:
            return self
        return replace(self, found=self.found._replace(loss=loss))

    def _in_epoch(self, said: Line) -> Words:
        if said.epoch is None:
            # A bar of its own has nothing to do with those of epochs.
            return replace(self, _epoch=None, _within=None) if said.kind is Kind.TQDM else self
        return replace(
            self,
            _epoch=said.epoch,
            _begun=said.epoch if self._begun is None else self._begun,
            _epochs=said.epochs or self._epochs,
            _from_0=self._from_0 or said.epoch == 0,
            _from_first=self._from_first or said.epoch <= 1,
        )

    @property
    def _before(self) -> int:
        """Epochs before this one."""
        return max(0, (self._epoch or 0) - (not self._from_0))

    # ------------------------------------------------------------------ epochs

    def with_epoch(self, said: Line) -> Words:
        words = replace(self, evaluating=False)
        if said.kind is Kind.HEADER:
            words = replace(words, _headed=True, _bar_done=False)
        return words.in_epochs(said.loss, over=said.over)

    def in_epochs(self, loss: float | None, *, over: bool = False) -> Words:
        """Epochs are all that is known. One that is over counts by its own number, for which one
        is the first is not always known; when the first one that is seen begins, none is over."""
        assert self._epoch is not None
        words = replace(self, evaluating=False)
        if self.found is not None and self.found.unit is Unit.STEP:
            return words.with_loss(loss)
        if not over and self._begun == self._epoch:
            return words.with_loss(loss)
        done = self._epoch if over else self._before
        total = None if self._from_0 else self._epochs
        loss = loss if loss is not None else self.found and self.found.loss
        return replace(words, found=Found(Unit.EPOCH, done, total, loss))

    # ------------------------------------------------------------------ Keras' bars

    def with_bar(self, said: Line) -> Words:
        """It counts within an epoch. The first epoch of one has no header; a bar without a loss is
        that of a prediction."""
        assert said.step is not None
        if self._bar_done:  # it is drawn once more, with what was validated; or it is another one
            if self._last is not None and said.step == said.total == self._last.step:
                return self.with_loss(said.loss)
            return replace(self, _last=None, evaluating=True)
        if not self._headed and said.loss is None:
            return self
        before, epochs = (self._before, self._epochs or 1) if self._headed else (0, 1)
        words = replace(self, _kind=Kind.BAR, _others=0, evaluating=False)
        if said.total is None:  # nobody knows yet how long an epoch is
            if before:
                return words
            return replace(words, found=Found(Unit.STEP, said.step, None, said.loss))
        loss = said.loss if said.loss is not None else self.found and self.found.loss
        total = said.total * epochs if not self._from_0 else None
        done = said.step >= said.total
        return replace(
            words,
            found=Found(Unit.STEP, before * said.total + said.step, total, loss),
            _bar_done=done,
            evaluating=done,
            _last=_Place(self._epoch, said.step),
        )

    # ------------------------------------------------------------------ steps

    def with_step(self, said: Line) -> Words:
        assert said.step is not None
        within = self._is_within(said)
        words = replace(
            self,
            _kind=said.kind,
            _others=0,
            _within=within,
            _last=_Place(self._epoch, said.step),
            evaluating=False,
        )
        placed = words.placed(said)
        if placed is None:
            found = self.found if self.found and self.found.unit is Unit.EPOCH else None
            return replace(words, found=found).in_epochs(said.loss)
        step, total = placed
        loss = said.loss if said.loss is not None else self.found and self.found.loss
        return replace(words, found=Found(Unit.STEP, step, total, loss))

    def _is_within(self, said: Line) -> bool | None:
        """Whether this step is one within an epoch."""
        assert said.step is not None
        if said.kind is Kind.OWN or self._epoch is None:
            return False if said.kind is Kind.OWN else None
        if self._within is not None:
            return self._within
        if (said.kind is Kind.TQDM and said.epoch is not None) or said.kind is Kind.BATCH:
            return True
        apace = None
        if said.total and self._epochs:  # as far in all steps as in all epochs
            share = said.step * self._epochs / said.total
            apace = self._before <= share <= self._before + 1
            if not apace:
                return True
        last = self._last
        if last is None or last.epoch is None or self._epoch <= last.epoch:
            return None
        if said.step <= last.step:
            return True
        return False if apace or said.total is None else None

    def placed(self, said: Line) -> tuple[int, int | None] | None:
        """The step in the whole training, and where that ends; None where it cannot be known."""
        assert said.step is not None
        if self._epoch is None or self._within is False:
            return (said.step, said.total) if said.kind is not Kind.BATCH else None
        if self._within:
            if not self._before:
                pass
            elif said.total is None or not (self._epochs or self._from_first):
                return None
            total = said.total * self._epochs if said.total and self._epochs else None
            return self._before * (said.total or 0) + said.step, None if self._from_0 else total
        if not self._before:  # in the first epoch it makes no difference, but for the end
            return said.step, said.total if self._epochs == 1 else None
        if said.total is None:
            return (said.step, None) if said.kind is not Kind.ITERATION else None
        return (said.step, said.total) if self._epochs else None


def _of_first_rank(line: str) -> str | None:
    """A line without its tag; None where another rank than the first has written it: all of them
    train the same steps."""
    tag = _TAG.match(line)
    if tag is None:
        return line
    return line[tag.end() :] if tag["rank"].strip("0") == "" else None
