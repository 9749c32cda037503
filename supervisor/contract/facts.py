"""The world as the contract needs it, collected by an engine; nothing of it is checked yet."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from supervisor.faults import Fault

if TYPE_CHECKING:
    from supervisor.contract.told import Code, Job
    from supervisor.storage.job import Fetched

HYPERPARAMETERS: Final = "hyperparameters.json"
RESOURCES: Final = "resourceconfig.json"
CHANNELS: Final = "inputdataconfig.json"
OVERLAY: Final = "supervisorconfig.json"
CONFIG_FILES: Final = (HYPERPARAMETERS, RESOURCES, CHANNELS, OVERLAY)

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Asked(NamedTuple):
    """What stands on the command line."""

    flags: Mapping[str, str] = _NOTHING
    """Settings: field name → text."""
    command: tuple[str, ...] = ()
    """SCRIPT and ARGS; without them the contract names the entry point."""


class Engine(NamedTuple):
    """Where the job comes from, and what its platform is like."""

    name: str
    evidence: str
    """What it was taken by, such as ``SLURM_JOB_ID=42, SLURM_STEP_ID=0``."""
    job: Job | None = None
    """None: the files say it, or there is one host."""
    job_name: str = ""
    """Where neither files nor variables of SageMaker name the job."""
    defaults: Mapping[str, tuple[str, str]] = MappingProxyType({})
    """Settings that are others here: field → text, and where it comes from."""
    deadline: float = 0.0
    """When the platform ends the job, seconds since the epoch; 0: not known."""
    failure_files: tuple[str, ...] = ()
    """Where the platform looks for the text of a failure, beside ``output/failure``."""
    stopped_code: int = 0
    """The exit code after a stop that the script answered with 0."""
    echo_s: float = 0.0
    """Seconds in which the platform's stop signal may come again, and is no second one."""
    rival: Engine | None = None
    """What would have been chosen by the variables if there were no files."""
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()


LOCAL: Final = Engine("local", "")


class Facts(NamedTuple):  # a dataclass would take a millisecond of each start
    """The world as the contract needs it, collected by an engine."""

    base_dir: str
    environ: Mapping[str, str]
    files: Mapping[str, bytes]
    """Content of those ``CONFIG_FILES`` that exist."""
    unreadable: Mapping[str, str] = _NOTHING
    """Config files that exist and could not be read → the reason."""
    code: frozenset[str] | None = None
    """Paths below ``code``, relative; None where they are not known (too many to list)."""
    flags: Mapping[str, str] = _NOTHING
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
    engine: Engine = LOCAL
    given: Code | None = None
    """What the command line names; None where it names nothing."""

    def __repr__(self) -> str:
        """Without variables and files, in which there are secrets."""
        return f"Facts({self.base_dir!r}, {self.engine.name!r})"

    @property
    def code_dir(self) -> str:
        return self.given.directory if self.given else posixpath.join(self.base_dir, "code")
