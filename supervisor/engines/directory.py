"""The directory that a relative path is meant from."""

from __future__ import annotations

import os

from supervisor.faults import ContractError, Fault, in_words


def absolute(path: str) -> str:
    """``os.path.abspath``; a ``ContractError`` where the working directory has been removed."""
    try:
        return os.path.abspath(path)
    except OSError as error:
        found, expected = (
            f"{path!r}, and {in_words(error)}",
            "one that exists: cd to another directory",
        )
        raise ContractError([Fault("working directory", "", found, expected)]) from None
