"""What serving will not take: a look at the model directory once the job has succeeded."""

from __future__ import annotations

import os
from typing import Final

_MOST: Final = 20_000
"""Files that are looked at; a directory with more is nobody's mistake of forgetting to save."""
_SAVED_MODEL: Final = frozenset({"saved_model.pb", "saved_model.pbtxt"})


def look(directory: str) -> list[str]:
    """What is wrong with a model directory, each a sentence; the predecessor warned of the same."""
    files = 0
    bundles: list[str] = []
    for top, directories, names in os.walk(directory):
        directories.sort()
        files += len(names)
        if _SAVED_MODEL & set(names):
            bundles.append(top)
        if files > _MOST:
            break
    if not files:
        text = (
            f"nothing is saved in {directory}: the platform keeps what lies there, "
            "and the script finds its path in SM_MODEL_DIR"
        )
        return [text]
    if not bundles and files <= _MOST:
        text = (
            f"there is no SavedModel (saved_model.pb) in {directory}: "
            "TensorFlow Serving will not take this model"
        )
        return [text]
    return [
        f"the SavedModel {top} lies in a directory whose name is no number: "
        f"TensorFlow Serving looks for versions, such as {os.path.join(directory, '1')}"
        for top in bundles
        if not os.path.basename(top).isdecimal()
    ]
