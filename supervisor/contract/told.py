"""What variables of a platform and the command line tell. Loaded where they do: start-up is a
feature."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

Place = tuple[str, Mapping[str, int]]
"""Address and ports of a host: ``train``, ``ps``, ``status`` → port."""


class Task(NamedTuple):
    """What a host does, where its platform says so by a ``TF_CONFIG``."""

    type: str
    number: int
    """Its index among those of its type."""


class Job(NamedTuple):
    """What variables of a platform say of the job, where no file does."""

    hosts: tuple[str, ...]
    """All of the job, the master first."""
    current: str
    """This one; empty, and a fault, where it is not known."""
    sources: Mapping[str, str]
    """Key of ``resourceconfig.json`` → the variable that stands for it, for faults."""
    places: Mapping[str, Place] = MappingProxyType({})
    """Of those that are not at ``NAME:standard ports``."""
    tasks: Mapping[str, Task] = MappingProxyType({})
    """Of every host, where the platform lays the cluster out."""
    tf_config: str = ""
    """The platform's own, for the script as it is."""


class Code(NamedTuple):
    """Where the code is, and which of it was named on the command line."""

    directory: str
    program: str = ""
    """Below ``directory``, or ``-m MODULE``; empty where the contract names it."""
    arguments: tuple[str, ...] = ()
