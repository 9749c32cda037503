"""The config files as JSON objects, and all that is wrong with what a platform says."""

from __future__ import annotations

import json
import posixpath
from typing import Any, Final

from supervisor.contract.facts import CHANNELS, CONFIG_FILES, HYPERPARAMETERS, RESOURCES, Facts
from supervisor.faults import Fault, shown

_MAY_BE_EMPTY: Final = frozenset({HYPERPARAMETERS, CHANNELS})
"""One that is empty counts as none. The others would lose what they are there for: hosts."""


class Documents:
    """Reads, and collects faults and notes meanwhile: every fault of the input is told at once."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        """What a person should know of what the platform said; no faults."""

    def fault(self, source: str, key: str, value: object, expected: str) -> None:
        """Collect one: what was found under ``key``, and what is allowed there instead."""
        self.fault_in_words(source, key, shown(value), expected)

    def fault_in_words(self, source: str, key: str, found: str, expected: str) -> None:
        """The same where it is not a value that was found."""
        job = self.facts.engine.job
        if source == RESOURCES and job is not None:
            # No file said it: the variable that did is named.
            source, key = "environment", job.sources.get(key.partition("[")[0], key)
        fault = Fault(self.path(source), key, found, expected)
        if fault not in self.faults:  # what is read twice is wrong once
            self.faults.append(fault)

    def path(self, source: str) -> str:
        """Where a config file lies; any other source of faults has its name."""
        if source not in CONFIG_FILES:
            return source
        return posixpath.join(self.facts.base_dir, "input/config", source)

    def read(self, name: str) -> dict[str, Any]:
        """The JSON object in a config file; ``{}`` where there is none, and a fault besides where
        there should be."""
        facts = self.facts
        if name in facts.unreadable:
            self.fault_in_words(
                name, "", f"an unreadable file ({facts.unreadable[name]})", "a JSON object"
            )
            return {}
        content = facts.files.get(name)
        if content is None or (name in _MAY_BE_EMPTY and not content.strip()):
            return {}
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            self.fault_in_words(name, "", f"malformed JSON ({error})"[:200], "a JSON object")
            return {}
        if not isinstance(value, dict):
            self.fault_in_words(name, "", f"{type(value).__name__} {shown(value)}", "a JSON object")
            return {}
        return value

    def is_bad(self, name: str) -> bool:
        """Whether a file that has been read holds no JSON object."""
        return any(fault.source == self.path(name) and not fault.key for fault in self.faults)
