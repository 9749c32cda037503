"""Hyperparameters → the script's arguments. Pure, and no shell anywhere: any value arrives intact.

The default is the predecessor's (``sagemaker-training`` 5.1.4, compared with it): ``--name value``,
``-n value`` for names of one letter, sorted by name; a mapping is ``k=v,k=v``, None the empty
string, anything else Python's ``str``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from supervisor.contract.settings import Settings

_HYDRA_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:+@%?-]+")
"""What needs no quotes in Hydra's override grammar."""


def script_arguments(
    hyperparameters: Mapping[str, Any], settings: Settings | None = None
) -> tuple[str, ...]:
    """The arguments in the style of the settings; without settings the predecessor's."""
    style = settings.args_style if settings else "sagemaker"
    given = settings is not None and settings.args_order == "given"
    dashes = settings is not None and settings.args_dashes
    flags = settings is not None and settings.args_flags
    expanded = settings is not None and settings.args_lists == "expanded"
    arguments: list[str] = []
    for key in hyperparameters if given else sorted(hyperparameters):
        value = hyperparameters[key]
        name = key.replace("_", "-") if dashes else key
        if style == "none":
            continue
        if style == "hydra":
            arguments.append(f"{name}={_hydra(value)}")
            continue
        flag = f"--{name}" if len(name) > 1 else f"-{name}" if name else ""
        if flags and isinstance(value, bool):
            arguments += [flag] if value else []
        elif expanded and isinstance(value, list):
            arguments += [flag, *map(_plain, value)]
        else:
            arguments += [flag, _plain(value)]
    return tuple(arguments)


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ",".join(f"{key}={each}" for key, each in sorted(value.items()))
    return str(value)


def _hydra(value: object) -> str:
    """A value in Hydra's override grammar (https://hydra.cc/docs/advanced/override_grammar/)."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_hydra(key)}:{_hydra(each)}" for key, each in value.items()) + "}"
    text = str(value)
    if _HYDRA_PLAIN.fullmatch(text) and not _reads_as_something_else(text):
        return text
    # Backslashes count only before a quote, and at the end.
    quoted = re.sub(r"(\\*)(')", r"\1\1\\\2", text)
    quoted = re.sub(r"(\\+)$", r"\1\1", quoted)
    return f"'{quoted}'"


def _reads_as_something_else(text: str) -> bool:
    """``1``, ``true`` and ``null`` in quotes stay text; so does what looks like a number."""
    if text.lower() in {"true", "false", "null", "nan", "inf", "+inf", "-inf"}:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
