"""Places in S3 that the platform or the user names for models and output."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from supervisor.contract.document import Documents
from supervisor.contract.facts import HYPERPARAMETERS
from supervisor.contract.hyperparameters import TUNING_METRIC, Hyperparameters
from supervisor.contract.paths import model_dir_below
from supervisor.contract.settings import Settings


def location(documents: Documents, source: str, key: str, text: str) -> str:
    """The place that ``text`` names, as we write it; empty, and a fault, where it names none."""
    from supervisor.storage.location import Location  # noqa: PLC0415  # where there is one

    try:
        return str(Location.parse(text))
    except ValueError as error:
        documents.fault(source, key, text, str(error))
        return ""


def model_dir(
    documents: Documents, hyper: Hyperparameters, settings: Settings, job_name: str
) -> tuple[dict[str, Any], str]:
    """The user's hyperparameters, with the ``model_dir`` that the script is given.

    And the one in S3 that it stands for; empty where it stands for itself.
    """
    base_dir = documents.facts.base_dir
    user = _with_tuning_model_dir(hyper, job_name, base_dir)
    uri = _mirrored_model_dir(documents, user, settings)
    if uri:
        user["model_dir"] = model_dir_below(base_dir)
    return user, uri


def intermediate_uri(documents: Documents, hyper: Hyperparameters, job_name: str) -> str:
    """Where we are to send intermediate output; empty: nowhere.

    As in the predecessor: below the output place, unless the platform made the directory.
    """
    output = hyper.text("sagemaker_s3_output")
    if not output or documents.facts.intermediate_exists or output.startswith("file://"):
        return ""
    place = location(documents, HYPERPARAMETERS, "sagemaker_s3_output", output)
    return posixpath.join(place, job_name, "output/intermediate") if place else ""


def _mirrored_model_dir(documents: Documents, user: Mapping[str, Any], settings: Settings) -> str:
    """The ``model_dir`` in S3 that a local directory stands for; empty: none."""
    model_dir = user.get("model_dir")
    if not (isinstance(model_dir, str) and model_dir.startswith("s3://")):
        return ""
    old = (documents.facts.tensorflow_version or "2").startswith("1.")
    able = old or documents.facts.tensorflow_io
    if settings.model_dir_mirror == "off" or (settings.model_dir_mirror == "auto" and able):
        return ""
    return location(documents, HYPERPARAMETERS, "model_dir", model_dir)


def _with_tuning_model_dir(hyper: Hyperparameters, job_name: str, base_dir: str) -> dict[str, Any]:
    """Under a tuning job every trial gets a model directory of its own.

    ``<model_dir>/<job name>/model``, unless it is local to the container already.
    """
    result = dict(hyper.user)
    model_dir = result.get("model_dir")
    if (
        hyper.platform.get(TUNING_METRIC)
        and isinstance(model_dir, str)
        and model_dir
        and not model_dir.startswith((base_dir, "/opt/ml"))
    ):
        result["model_dir"] = posixpath.join(model_dir, job_name, "model")
    return result
