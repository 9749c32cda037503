"""What the program writes, held against the schemas that it ships: each time a test reads it."""

from __future__ import annotations

import functools
import json
from typing import Any, NoReturn

from jsonschema import Draft202012Validator

from supervisor.verbs.schema import text_of


@functools.cache
def validator(name: str) -> Any:
    return Draft202012Validator(json.loads(text_of(name)))


def faults(name: str, document: object) -> list[str]:
    """What is wrong in ``document`` by the schema of that name, with the place of each fault."""
    return [
        f"{fault.json_path}: {fault.message}" for fault in validator(name).iter_errors(document)
    ]


def read(name: str, text: str | bytes) -> dict[str, Any]:
    """The document in ``text``, which must be JSON (no ``NaN``) and valid by that schema."""
    document: dict[str, Any] = json.loads(text, parse_constant=_no_constant)
    found = faults(name, document)
    assert not found, f"not as the schema {name} says:\n" + "\n".join(found)
    return document


def _no_constant(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")
