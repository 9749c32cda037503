"""Secrets out of everything that is written: by the name of a key and by value. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

MASK: Final = "******"

_SECRET_NAME: Final = re.compile(
    r"(secret|token|passw|pwd|credential|api_?key|access_?key|private_?key|auth|session_?key"
    r"|connection_?string|sas_?url|cookie)",
    re.IGNORECASE,
)
_NOT_SECRET: Final = re.compile(
    r"max_?tokens|num_?tokens|tokenizer|tokens_per|token_?count|_tokens$|author"
    r"|^(old)?pwd$|_(file|sock|path|dir)$",
    re.IGNORECASE,
)
"""Counts of tokens, working directories, and places where a secret lies."""
_URL_PASSWORD: Final = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_SHORTEST: Final = 6
"""Values shorter than this are not looked for in text: masking ``1`` or ``true`` hides the log."""


def is_secret_name(name: str) -> bool:
    """Whether a variable, hyperparameter or flag of this name holds a secret."""
    name = name.replace("-", "_")
    return bool(_SECRET_NAME.search(name)) and not _NOT_SECRET.search(name)


class Masker:
    """Masks known secret values wherever they occur in text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Longest first: a secret that contains another must not leave its rest behind.
        values = sorted({s for s in secrets if len(s) >= _SHORTEST}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, values))) if values else None

    @classmethod
    def of(cls, *mappings: Mapping[str, object]) -> Masker:
        """Every string value whose key says that it is a secret."""
        return cls(
            str(value)
            for mapping in mappings
            for key, value in mapping.items()
            if is_secret_name(key) and isinstance(value, str | int)
        )

    def text(self, text: str) -> str:
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        return _URL_PASSWORD.sub(MASK, text) if "://" in text else text

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
