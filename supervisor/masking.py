"""Secrets out of everything that is written: by the name of a key and by value. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
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
_SHORTEST: Final = 6
"""Values shorter than this are not looked for in text: masking ``1`` or ``true`` hides the log."""


def is_secret_name(name: str) -> bool:
    """Whether a variable, hyperparameter or flag of this name holds a secret."""
    name = name.replace("-", "_")
    return bool(re.search(_HIDDEN, name)) and not re.search(_HARMLESS, name)


class Masker:
    """Masks known secret values wherever they occur in text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = secrets

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        # Longest first: a secret that contains another must not leave its rest behind.
        values = sorted({s for s in self._secrets if len(s) >= _SHORTEST}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, values))) if values else None

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
        return re.sub(_URL_LOGIN, MASK, text) if "://" in text else text

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
