"""Hyperparameters: the user's, and those with which the platform says how to run the job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from supervisor.contract.document import Documents
from supervisor.contract.facts import HYPERPARAMETERS
from supervisor.faults import shown

ENVIRONMENT_TWINS: Final = {
    "sagemaker_program": "SAGEMAKER_PROGRAM",
    "sagemaker_submit_directory": "SAGEMAKER_SUBMIT_DIRECTORY",
    "sagemaker_region": "SAGEMAKER_REGION",
    "sagemaker_job_name": "SAGEMAKER_JOB_NAME",
    "sagemaker_s3_output": "SAGEMAKER_S3_OUTPUT",
}
"""Platform hyperparameters that an image or a platform may also give as a variable."""

TUNING_METRIC: Final = "_tuning_objective_metric"
_RESERVED: Final = frozenset({TUNING_METRIC, "default_user_module_name"})


class Hyperparameters:
    """Both kinds, decoded. A platform's one is checked by the method that reads it."""

    def __init__(
        self, user: Mapping[str, Any], platform: Mapping[str, Any], documents: Documents
    ) -> None:
        """``documents`` is told of the faults."""
        self.user = user
        self.platform = platform
        self._documents = documents

    def text(self, key: str) -> str:
        """A string; empty where there is none."""
        value = self.platform.get(key, "")
        if not isinstance(value, str):
            self._documents.fault(HYPERPARAMETERS, key, value, "a string")
            return ""
        return value

    def truth(self, key: str) -> bool:
        """A switch, off where there is none."""
        value = self.platform.get(key)
        if value is None or value == "":
            return False
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
        if not isinstance(value, bool):
            self._documents.fault(HYPERPARAMETERS, key, value, "true or false")
            return False
        return value

    def number(self, key: str, default: int) -> int:
        """A number of processes."""
        value = self.platform.get(key)
        if value is None or value == "":
            return default
        if type(value) is not int or value < 1:
            self._documents.fault(HYPERPARAMETERS, key, value, "a number of processes, 1 or more")
            return default
        return value


def read(documents: Documents) -> Hyperparameters:
    """User's and platform's hyperparameters, decoded.

    A value is JSON where it parses as JSON, else the string itself. An absent file means none.
    """
    user: dict[str, Any] = {}
    platform: dict[str, Any] = {}
    for twin, name in ENVIRONMENT_TWINS.items():
        if documents.facts.environ.get(name):
            platform[twin] = documents.facts.environ[name]
    for key, raw in documents.read(HYPERPARAMETERS).items():
        mine = key.startswith("sagemaker_") or key in _RESERVED
        if key == "sagemaker_program" and key in platform:
            continue  # as in the predecessor, the image's word counts
        value = (platform if mine else user)[key] = _decoded(raw)
        for text in (key, value):
            if isinstance(text, str) and not _passes_exec(text):
                expected = "text with no NUL and no half of a character, to be an argument"
                documents.fault(HYPERPARAMETERS, shown(key)[1:-1], text, expected)
    return Hyperparameters(user, platform, documents)


def _decoded(raw: object) -> Any:
    if not isinstance(raw, str):
        return raw
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw


def _passes_exec(text: str) -> bool:
    """Whether it can be an argument or a variable of a process."""
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in text
