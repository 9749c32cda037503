"""The world as the contract needs it, collected by an engine; nothing of it is checked yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from supervisor.storage.job import Fetched

HYPERPARAMETERS: Final = "hyperparameters.json"
RESOURCES: Final = "resourceconfig.json"
CHANNELS: Final = "inputdataconfig.json"
OVERLAY: Final = "supervisorconfig.json"
CONFIG_FILES: Final = (HYPERPARAMETERS, RESOURCES, CHANNELS, OVERLAY)


@dataclass(frozen=True, slots=True)
class Facts:
    """The world as the contract needs it, collected by an engine."""

    base_dir: str
    environ: Mapping[str, str] = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    """Content of those ``CONFIG_FILES`` that exist."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Config files that exist and could not be read → the reason."""
    code: frozenset[str] | None = None
    """Paths below ``code``, relative; None where they are not known (too many to list)."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Settings given on the command line: field name → text."""
    num_cpus: int = 1
    num_gpus: int = 0
    num_neurons: int = 0
    tensorflow_version: str | None = None
    """From package metadata; None where TensorFlow is not installed."""
    tensorflow_io: bool = False
    """Installed: then TensorFlow can read and write s3://."""
    intermediate_exists: bool = False
    """``output/intermediate`` is there already: the platform takes care of it."""
    fetched: Fetched | None = None
    """What is to be fetched is here: the step before this reading has done it."""
