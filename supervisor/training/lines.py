"""What one line of a script's output says of training, by the habits of those who write them. Pure.

A step that is wrong is worse than none: a download's bar, a configuration, a time and an evaluation
are told apart, and what cannot be is passed over. Every expression takes linear time: what may
repeat is bounded, or ends at a character that it cannot take.
"""

from __future__ import annotations

import enum
import json
import re
from itertools import islice
from typing import Final, NamedTuple

from supervisor.training.reading import MOST_STEPS, real, whole

MOST_LINE: Final = 1024
"""Characters of a line that are looked at …"""
MOST_JSON: Final = 4096
"""… but of JSON."""
_MOST: Final = 8
"""Steps, epochs or losses in one line that are looked at."""


class Kind(enum.Enum):
    """Who writes such a line. Those of one kind count the same."""

    HEADER = enum.auto()
    """Keras, before an epoch."""
    BAR = enum.auto()
    """Keras."""
    TQDM = enum.auto()
    JSON = enum.auto()
    OWN = enum.auto()
    """What the user's own pattern finds."""
    STEP = enum.auto()
    """``step 120``."""
    ITERATION = enum.auto()
    """``iteration 120``, ``it 120``."""
    BATCH = enum.auto()
    """``batch 120/1000``."""
    BRACKET = enum.auto()
    """``[120/1000]``."""
    EPOCH = enum.auto()
    LOSS = enum.auto()
    """A loss alone."""
    EVALUATION = enum.auto()


class Line(NamedTuple):
    kind: Kind
    step: int | None = None
    total: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    over: bool = False
    """The epoch is over, as far as the line tells; else it begins."""


_COUNT: Final = r"(?:\d{1,3}(?:[,_]\d{3}){1,4}|\d{1,15})"
_END: Final = (
    r"(?![\d%A-Za-z]|[-.,_:]\d|\s{0,3}/"
    r"|\s{0,2}(?:[mun]s|[smh]|secs?|seconds?|mins?|minutes?|hours?|%|[kmg]i?b|bytes)\b)"
)
"""No part of a date, a time, a size, a share, a name or another number."""
_SEPARATOR: Final = r"['\"]?(?:\s{0,3}(?:[:=#]|is\s)\s{0,8}|\s{1,8}|(?=[\[(]))[\[(#]?\s{0,8}"
_OF: Final = r"\s{0,3}(?:/|of\s|out\sof\s)\s{0,8}"
_FLAGS: Final = re.IGNORECASE | re.ASCII

_STEP: Final = re.compile(
    r"(?<![\w/.\\-])(?P<word>(?:global|train|training)[_ -]?step|step|iter(?:ation)?|batch|it)"
    rf"{_SEPARATOR}(?P<step>{_COUNT})(?:{_OF}(?P<total>{_COUNT}))?{_END}",
    _FLAGS,
)
_WORDS: Final = ("global", "train", "step", "iter", "batch", "it")
"""By which the better of two in one line begins."""
_EPOCH: Final = re.compile(
    rf"(?<![\w/.\\-])epoch(?P<between>{_SEPARATOR})(?P<epoch>\d{{1,7}})"
    rf"(?:{_OF}(?P<total>\d{{1,7}}))?{_END}",
    _FLAGS,
)
_BRACKET: Final = re.compile(r"^\W{0,8}\[\s{0,8}(?P<step>\d{1,15})\s?/\s{0,8}(?P<total>\d{1,15})\]")
_NUMBER: Final = (
    r"(?:nan|[-+]?inf(?:inity)?|[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:e[-+]?\d{1,4})?)"
)
_LOSS: Final = re.compile(
    r"(?<![\w/.-])(?:(?:train|training|total|batch|mean|avg|average|running|epoch)[_ /-])?loss"
    r"['\"]?\s{0,3}(?:[:=]|is\s)?\s{0,8}(?:(?:tf\.)?tensor\(|[\[(])?"
    rf"(?P<loss>{_NUMBER})(?![\w.%])",
    _FLAGS,
)
_METRIC: Final = re.compile(
    r"(?:[A-Za-z_)\]]['\"]?\s{0,3}[:=]|\b(?:loss|acc|accuracy|lr|learning rate|perplexity|reward"
    rf"|score|mae|mse|error))\s{{0,3}}{_NUMBER}",
    _FLAGS,
)
_OVER: Final = re.compile(
    r"\b(?:done|finish|end|complet|took|time\b|elapsed|stopp|over\b|in\s{0,3}\d)", _FLAGS
)
_TIMES: Final = re.compile(
    r"\d\s?(?:[a-z]{1,12}/[a-z]{1,12}|[mun]s|[smh]|secs?|seconds?|mins?)\b", _FLAGS
)
_SHARE: Final = re.compile(r"\d\s?/\s{0,8}\d", re.ASCII)
"""How far an epoch is: ``[640/60000 (1%)]``."""
_LETTERS: Final = re.compile(r"[A-Za-z]{2}")
_EVALUATION: Final = re.compile(
    r"(?<![\w./-])(?:eval(?:uat(?:ion|ing|e))?|val(?:id(?:at(?:ion|ing|e))?)?|test(?:ing)?|inference"
    r"|predict(?:ion|ing)?)(?![\w/-]|\.\w|[ ](?:loss|acc|err|f1|auc|score|metric|mae|mse))",
    _FLAGS,
)
_OTHERS: Final = re.compile(
    r"\b(?:per|best|last|first|next|every|each|max|maximum|min|minimum|total|num|number|until|till|to"
    r"|warmup|decay|time|save|saving|log|logging|print|display|summary|lr|scheduler|env|environment"
    r"|sub|inner|outer|eval|val|validation|test|final|previous|prev|initial|start|init)"
    r"[ _:'\"-]{1,4}$",
    _FLAGS,
)
"""``best epoch 3``, ``every step 10``: it is another one that is spoken of."""

_HEADER: Final = re.compile(r"^\s{0,8}Epoch (?P<epoch>\d{1,9})/(?P<total>\d{1,9})\s*$", re.ASCII)
_BAR: Final = re.compile(
    r"^\s{0,20}(?P<step>\d{1,12})/(?:(?P<total>\d{1,12})\s(?:\[[=>.]{1,200}\]|━{1,200}|-\s\d{1,9}m?s\b)"
    r"|Unknown(?:\s|━){1,200}(?:-\s)?\d{1,9}m?s\b)",
    re.ASCII,
)
"""Keras' bar, of version 2 and 3, and its one line with ``verbose=2``."""
_TQDM: Final = re.compile(
    r"(?:\d{1,3}%\|[^|]{0,300}\|\s{0,8}(?P<step>\d{1,12})/(?P<total>\d{1,12})|(?P<alone>\d{1,12})it)"
    r"\s\[\d[\d:]{1,12}(?:<[\d:?]{1,12}|<\d{1,9} days?, [\d:]{1,12})?,"
    r"\s{0,8}(?:[\d.?]{1,12}\s?(?:it|iter|step|batch|epoch)s?/s|[\d.]{1,12}s/(?:it|iter|step|batch|epoch))",
    re.ASCII,
)
_TRAINS: Final = re.compile(r"train|epoch|step|iter|fit|loss", re.IGNORECASE)
_EPOCHS: Final = re.compile(r"\bepochs?\W{0,4}$", _FLAGS)
_KEYS: Final = {
    "step": ("step", "global_step", "train_step", "iteration", "iter"),
    "total": ("total", "total_steps", "max_steps", "num_steps", "steps_total"),
    "epoch": ("epoch",),
    "epochs": ("epochs", "num_epochs", "total_epochs"),
    "loss": ("loss", "train_loss", "training_loss", "train/loss"),
}
_MESSAGES: Final = ("message", "msg", "text", "event")


def said_by(line: str) -> Line | None:
    """None where it says nothing of training."""
    if "{" in line and len(line) <= MOST_JSON and (object_ := _json(line)) is not None:
        return _of_json(object_)
    return _of_text(line[:MOST_LINE])


def drawn_by(line: str) -> Line | None:
    """What a bar says that is drawn in place, and may have no end yet."""
    line = line[:MOST_LINE]
    said = _of_bar(line) or _of_tqdm(line)
    if said is not None and (loss := _LOSS.search(line)) and loss.end() == len(line):
        return said._replace(loss=None)  # more of the number may come
    return said


def found_by(pattern: re.Pattern[str], line: str) -> Line | None:
    """What the user's own pattern finds, by its groups ``step``, ``epoch``, ``total``, ``loss``."""
    found = pattern.search(line[:MOST_LINE])
    if found is None:
        return None
    groups = {name: text for name, text in found.groupdict().items() if text}
    step, epoch = _count(groups.get("step")), _count(groups.get("epoch"))
    total, loss = _count(groups.get("total")), _number(groups.get("loss"))
    if step is not None:
        return Line(Kind.OWN, step, total, epoch, None, loss)
    if epoch is not None:
        return Line(Kind.OWN, None, None, epoch, total, loss, over=True)
    return None if loss is None else Line(Kind.LOSS, loss=loss)


def _of_text(line: str) -> Line | None:
    if header := _HEADER.match(line):
        return Line(Kind.HEADER, epoch=int(header["epoch"]), epochs=int(header["total"]))
    if said := _of_bar(line) or _of_tqdm(line):
        return said
    if "%|" in line or "Namespace(" in line:  # a bar of something else, a configuration
        return None
    loss = _loss(line)
    epoch = next(
        (each for each in islice(_EPOCH.finditer(line), _MOST) if _is_meant(line, each)), None
    )
    step = _best(line)
    apart = (
        _EVALUATION.search(line, 0, min(each.start() for each in (step, epoch) if each))
        if (step or epoch)
        else _EVALUATION.search(line)
    )
    if apart:
        return Line(Kind.EVALUATION)
    if step is None and loss is not None and (step := _BRACKET.match(line)):
        kind = Kind.BRACKET
    elif step is not None:
        kind = _KINDS[_word(step)]
    if step is not None and _is_plain(line, step, epoch, loss):
        return Line(
            kind,
            _count(step["step"]),
            _count(step["total"]),
            epoch and int(epoch["epoch"]),
            epoch and _count(epoch["total"]),
            loss,
        )
    if epoch is not None:
        rest = line[epoch.end() :]
        figures = loss is not None or bool(_OVER.search(line) or _METRIC.search(rest))
        over = figures and not _SHARE.search(rest)
        if not figures and epoch["total"] is None and {*epoch["between"]} & {*":="}:
            return None  # a configuration, as likely as not
        said = Line(Kind.EPOCH, epoch=int(epoch["epoch"]), epochs=_count(epoch["total"]), over=over)
        return said._replace(loss=loss)
    return None if loss is None else Line(Kind.LOSS, loss=loss)


_KINDS: Final = {
    "global": Kind.STEP,
    "train": Kind.STEP,
    "step": Kind.STEP,
    "iter": Kind.ITERATION,
    "it": Kind.ITERATION,
    "batch": Kind.BATCH,
}


def _word(step: re.Match[str]) -> str:
    word = step["word"].lower()
    return next(each for each in _WORDS if word.startswith(each))


def _best(line: str) -> re.Match[str] | None:
    """The step that is meant where a line speaks of several."""
    found = []
    for step in islice(_STEP.finditer(line), _MOST):
        word = _word(step)
        if not _is_meant(line, step) or (word == "batch" and step["total"] is None):
            continue
        if word == "it" and line[: step.start()].rstrip()[-1:] not in {"", *"[(,|:;]"}:
            continue  # it 5 times
        found.append(step)
    return min(found, key=lambda step: _WORDS.index(_word(step)), default=None)


def _is_meant(line: str, found: re.Match[str]) -> bool:
    before = line[max(0, found.start() - 24) : found.start()]
    return not _OTHERS.search(before)


def _is_plain(
    line: str, step: re.Match[str], epoch: re.Match[str] | None, loss: float | None
) -> bool:
    """Step 2: download the data. No such step: it has figures beside it, or nothing but a time."""
    if loss is not None or epoch is not None:
        return True
    rest = line[step.end() :]
    if not _LETTERS.search(_TIMES.sub("", rest)):
        return True
    return bool(
        _OVER.match(rest.lstrip(" :,-|])")) or _METRIC.search(line[: step.start()])
    ) or bool(_METRIC.search(rest))


def _of_bar(line: str) -> Line | None:
    bar = _BAR.match(line)
    if bar is None:
        return None
    total = int(bar["total"]) if bar["total"] else None
    return Line(Kind.BAR, int(bar["step"]), total or None, loss=_loss(line))


def _of_tqdm(line: str) -> Line | None:
    """A bar over anything: only one that says that it trains is meant."""
    bar = _TQDM.search(line)
    if bar is None:
        return None
    before, after = line[: bar.start()], line[bar.start() :]
    words = f"{before} {after.partition('[')[2]}"
    if not _TRAINS.search(words) or _EVALUATION.search(words) or "sanity" in words.lower():
        return Line(Kind.EVALUATION) if _EVALUATION.search(words) else None
    step = int(bar["step"] or bar["alone"])
    total = int(bar["total"]) if bar["total"] else None
    if _EPOCHS.search(before) or re.search(r"epochs?/s|s/epoch", bar[0]):
        return Line(Kind.EPOCH, epoch=step, epochs=total, loss=_loss(after), over=True)
    epoch = _EPOCH.search(before)
    return Line(
        Kind.TQDM,
        step,
        total,
        epoch and int(epoch["epoch"]),
        epoch and _count(epoch["total"]),
        _loss(after),
    )


# --------------------------------------------------------------------------- JSON


def _json(line: str) -> dict[str, object] | None:
    """The object that a line is, or that stands at its end, behind what a logger writes first."""
    text = line[line.index("{") :].rstrip()
    if not text.endswith("}"):
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _of_json(told: dict[str, object]) -> Line | None:
    def first(name: str) -> object:
        return next((told[key] for key in _KEYS[name] if key in told), None)

    step, epoch = first("step"), whole(first("epoch"))
    steps = whole(step) if not isinstance(step, float) or step.is_integer() else None
    if steps is None and epoch is None:
        text = next((told[key] for key in _MESSAGES if isinstance(told.get(key), str)), None)
        if text:
            return _of_text(str(text)[:MOST_LINE])
        loss = real(first("loss"))
        return None if loss is None else Line(Kind.LOSS, loss=loss)
    total, epochs = whole(first("total")), whole(first("epochs"))
    return Line(Kind.JSON, steps, total, epoch, epochs, real(first("loss")), over=True)


# --------------------------------------------------------------------------- numbers


def _loss(line: str) -> float | None:
    for found in islice(_LOSS.finditer(line), _MOST):
        before = line[max(0, found.start() - 24) : found.start()].rstrip(" _")
        if not _EVALUATION.search(f"{before} ") or not before[-1:].isalpha():
            return _number(found["loss"])
    return None


def _count(text: str | None) -> int | None:
    if not text:
        return None
    try:
        number = int(text.replace(",", "").replace("_", ""))
    except ValueError:
        return None
    return number if 0 <= number < MOST_STEPS else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
