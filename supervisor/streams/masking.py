"""Secrets out of everything that is written: by the name of a key and by value. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Final

MASK: Final = "******"

# Text, and compiled where they are first used (``re`` keeps what it compiled): at import they
# would cost the start of a job 2 ms, and nothing needs masking before its script runs.
_HIDDEN: Final = (
    r"(?i)secret|token|passw|pwd|credential|api_?key|access_?key|private_?key|auth|session_?key"
    r"|connection_?string|sas_?url|cookie"
)
_HARMLESS: Final = (
    r"(?i)max_?tokens|num_?tokens|tokenizer|tokens_per|token_?count|_tokens$|author"
    r"|^(old)?pwd$|_(file|sock|path|dir)$"
)
"""Counts of tokens, working directories, and places where a secret lies."""
_URL_LOGIN: Final = r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
_URL_LOGIN_SECOND: Final = r"://[^/\s:@]*:([^/\s@]+)@"
_SHORTEST: Final = 6
"""Values shorter than this are not looked for in text: masking ``1`` or ``true`` hides the log."""
_SHORTEST_LINE: Final = 8
"""The same for a line of a secret that has several, and for an encoded form."""
_SHORTEST_END: Final = 4
"""The same for the end of a secret where a text begins in the middle of it."""
_LONGEST: Final = 1 << 17
"""Characters of a secret that are looked at."""
_DEEPEST: Final = 6
"""Levels of nested objects in which secrets are looked for."""


def is_secret_name(name: str) -> bool:
    """Whether a variable, hyperparameter or flag of this name holds a secret."""
    name = name.replace("-", "_")
    return bool(re.search(_HIDDEN, name)) and not re.search(_HARMLESS, name)


class Masker:
    """Masks known secret values wherever they occur in text.

    Always mask first and cut then: what is left of a secret that was cut cannot be found.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = secrets

    @cached_property
    def _forms(self) -> tuple[str, ...]:
        return tuple({form for secret in set(self._secrets) for form in _forms_of(secret)})

    @classmethod
    def of(cls, *mappings: Mapping[str, object], argvs: Iterable[Sequence[str]] = ()) -> Masker:
        """Every value whose key, at any depth, or whose flag says that it is a secret."""

        def secrets() -> Iterator[str]:
            for mapping in mappings:
                yield from _secrets_in(mapping, _DEEPEST)
            for argv in argvs:
                yield from _secrets_of(argv)

        return cls(secrets())

    @classmethod
    def before_the_contract(
        cls, environ: Mapping[str, str], flags: Mapping[str, str], files: Mapping[str, bytes]
    ) -> Masker:
        """For faults of the contract, whose files may be anything."""
        texts = {name: content.decode("utf-8", "replace") for name, content in files.items()}
        return cls.of(environ, flags, texts)

    def text(self, text: str) -> str:
        # ``in`` for each form and not one pattern of all: in a text of 64 KiB a pattern of a
        # hundred forms takes 300 ms, this 5 ms. Secrets may overlap, so places are merged.
        places = [(at, at + len(form)) for form in self._forms for at in _finds(text, form)]
        # Messages of faults were cut before there was anybody to mask them.
        for at in _finds(text, "…"):
            places += self._cut_before(text, at)
        if places:
            text = _covered(text, places)
        return re.sub(_URL_LOGIN, MASK, text) if "://" in text else text

    def tail(self, data: bytes, *, whole: bool) -> bytes:
        """The end of an output. Unless it is ``whole`` it may begin in the middle of a secret."""
        text = data.decode("utf-8", "surrogateescape")
        if not whole:
            longest = 0
            start = text[:_SHORTEST_END]
            for form in self._forms if len(start) == _SHORTEST_END else ():
                ends = (len(form) - at for at in _finds(form, start, 1))
                longest = max(longest, next((n for n in ends if text.startswith(form[-n:])), 0))
            if longest:
                text = MASK + text[longest:]
        return self.text(text).encode("utf-8", "surrogateescape")

    def seam(self, text: str) -> int:
        """Where a text (``surrogateescape``) whose rest is still to come can be cut: neither a
        secret nor a character is cut in two."""
        begin = len(text)
        while begin and len(text) - begin < 3 and "\udc80" <= text[begin - 1] <= "\udcff":
            begin -= 1
        for form in self._forms:
            start = form[:_SHORTEST_END]
            for at in _finds(text, start, max(0, len(text) - len(form) + 1)):
                if form.startswith(text[at:]):
                    begin = min(begin, at)
                    break
            # What is shorter than that may be the beginning of any of them.
            for size in range(1, min(_SHORTEST_END, len(form), len(text) + 1)):
                if text.endswith(form[:size]):
                    begin = min(begin, len(text) - size)
        return begin

    def tree(self, value: object) -> object:
        """A JSON document: every text in it, keys left alone."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {key: self.tree(each) for key, each in value.items()}
            case list() | tuple():
                return [self.tree(each) for each in value]
            case _:
                return value

    def _cut_before(self, text: str, end: int) -> Iterator[tuple[int, int]]:
        """The beginnings of secrets that stand before an ellipsis."""
        for form in self._forms:
            for at in _finds(text, form[:_SHORTEST], max(0, end - len(form)), end):
                if form.startswith(text[at:end]):
                    yield at, end
                    break

    def argv(self, argv: Sequence[str]) -> list[str]:
        """A command line; the value after a flag with a secret's name is masked whole."""
        result: list[str] = []
        hide = False
        for word in argv:
            flag, equals, _ = word.partition("=")
            if hide and not word.startswith("--"):
                result.append(MASK)
            elif equals and is_secret_name(flag):
                result.append(f"{flag}={MASK}")
            else:
                result.append(self.text(word))
            hide = word.startswith("-") and not equals and is_secret_name(word)
        return result

    def mapping(self, mapping: Mapping[str, str]) -> dict[str, str]:
        """An environment."""
        return {
            key: MASK if is_secret_name(key) and value else self.text(value)
            for key, value in mapping.items()
        }


def _finds(text: str, part: str, begin: int = 0, end: int | None = None) -> Iterator[int]:
    """Every place of ``part``, overlapping ones too."""
    at = text.find(part, begin, end)
    while at >= 0:
        yield at
        at = text.find(part, at + 1, end)


def _covered(text: str, places: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    done = 0
    for begin, end in sorted(places):
        if begin > done or (begin == done and not (parts and parts[-1] == MASK)):
            parts += (text[done:begin], MASK)
        done = max(done, end)
    return "".join((*parts, text[done:]))


def _secrets_in(value: object, depth: int, *, named: bool = False) -> Iterator[str]:
    """``named``: a key above says that everything below is secret."""
    if isinstance(value, Mapping) and depth:
        for key, each in value.items():
            hidden = named or is_secret_name(str(key))
            yield from _secrets_in(each, depth - 1, named=hidden)
    elif isinstance(value, list | tuple) and depth:
        for each in value:
            yield from _secrets_in(each, depth - 1, named=named)
    elif isinstance(value, str):
        if named:
            yield value
            if value[:1] == '"':  # SageMaker's hyperparameters are JSON in JSON
                yield value.strip().removeprefix('"').removesuffix('"')
        if "://" in value:
            yield from re.findall(_URL_LOGIN_SECOND, value[:_LONGEST])
        if value[:1] in ("{", "[") and depth:
            import json  # noqa: PLC0415  # many jobs have no such value

            try:
                inner = json.loads(value)
            except (ValueError, RecursionError):
                return
            # A service account's key file has its secrets by name, and much that is none.
            yield from _secrets_in(inner, depth - 1)
    elif named and isinstance(value, int | float):
        yield str(value)


def _secrets_of(argv: Sequence[str]) -> Iterator[str]:
    for word, following in pairwise((*argv, "")):
        flag, equals, value = word.partition("=")
        if is_secret_name(flag) and (equals or flag.startswith("-")):
            yield value if equals else following


def _forms_of(secret: str) -> Iterator[str]:
    """How a secret may stand in a text: itself, its lines, and encoded."""
    secret = secret[:_LONGEST]
    whole = secret.strip()
    if len(whole) < _SHORTEST:
        return
    yield whole
    lines = {line.strip() for line in whole.splitlines()}
    pieces = {line for line in lines if len(line) >= _SHORTEST_LINE}
    yield from pieces
    for each in {secret, whole, *pieces}:
        if len(each) < _SHORTEST_LINE:
            continue
        for encode in _ENCODINGS:
            yield from (form for form in encode(each) if len(form) >= _SHORTEST_LINE)


def _base64(text: str) -> Iterator[str]:
    """At each of the three places in a group of three bytes; what neighbours change is left off."""
    import base64  # noqa: PLC0415

    data = text.encode("utf-8", "surrogateescape")
    for before in range(3):
        rest = -(before + len(data)) % 3
        coded = base64.b64encode(b"\0" * before + data + b"\0" * rest).decode()
        inner = coded[(0, 2, 3)[before] : len(coded) - (0, 2, 3)[rest]]
        # urlsafe_b64encode, whose alphabet differs in two letters
        yield from (inner, inner.translate({43: "-", 47: "_"}))


def _percent(text: str) -> Iterator[str]:
    if text.isalnum() and text.isascii():
        return
    from urllib.parse import quote, quote_plus  # noqa: PLC0415

    for coded in (
        quote(text, errors="surrogateescape"),
        quote(text, safe="", errors="surrogateescape"),
        quote_plus(text, errors="surrogateescape"),
    ):
        yield coded
        yield re.sub("%..", lambda found: found[0].lower(), coded)


def _quoted(text: str) -> Iterator[str]:
    """In JSON, in Python's repr of text and of bytes, in a shell's word, twice over in JSON."""
    if text.isprintable() and text.isascii() and not set(text) & set("\\\"'"):
        return
    import json  # noqa: PLC0415

    for coded in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
        yield from (coded, coded.replace("/", "\\/"), json.dumps(coded)[1:-1])
    yield from (repr(text)[1:-1], repr(text.encode("utf-8", "surrogateescape"))[2:-1])
    yield repr(text + "'\"")[1:-4]
    yield text.replace("'", "'\"'\"'")


_ENCODINGS: Final[tuple[Callable[[str], Iterator[str]], ...]] = (_base64, _percent, _quoted)
