"""The container contract of Amazon SageMaker: files under ``/opt/ml`` and variables.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from supervisor import regular
from supervisor.contract.facts import CONFIG_FILES, Facts
from supervisor.engines.directory import absolute
from supervisor.linux import hardware

if TYPE_CHECKING:
    from supervisor.storage.job import Fetched

DEFAULT_BASE_DIR: Final = "/opt/ml"
_CONFIG_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one config file; the platform's own limits lie far below."""
_CODE_LIMIT: Final = 20_000
"""Entries of the code directory that are listed; with more, what is in it is not known."""

_TENSORFLOWS: Final = frozenset(
    {"tensorflow", "tensorflow_cpu", "tensorflow_gpu", "tensorflow_intel", "tensorflow_cpu_aws"}
)


def base_dir(environ: Mapping[str, str]) -> str:
    return absolute(environ.get("SAGEMAKER_BASE_DIR") or DEFAULT_BASE_DIR)


def gather(
    environ: Mapping[str, str], flags: Mapping[str, str], fetched: Fetched | None = None
) -> Facts:
    """Read the world once. Raises nothing: what cannot be read is a fact too.

    ``fetched``: what was done about it, once everything is fetched.
    """
    base = base_dir(environ)
    files: dict[str, bytes] = {}
    unreadable: dict[str, str] = {}
    for name in CONFIG_FILES:
        path = os.path.join(base, "input", "config", name)
        try:
            # Links lead to it where Kubernetes mounts it.
            content = regular.read(path, _CONFIG_LIMIT + 1, follow=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable[name] = error.strerror or type(error).__name__
            continue
        if len(content) > _CONFIG_LIMIT:
            unreadable[name] = f"larger than {_CONFIG_LIMIT} bytes"
        else:
            files[name] = content
    gpus, neurons = hardware.count_accelerators(environ)
    return Facts(
        base_dir=base,
        environ=environ,
        files=files,
        unreadable=unreadable,
        code=_listing(os.path.join(base, "code")),
        flags=flags,
        num_cpus=hardware.num_cpus(),
        num_gpus=gpus,
        num_neurons=neurons,
        tensorflow_version=_version_of(_TENSORFLOWS),
        tensorflow_io=bool(_version_of({"tensorflow_io"})),
        intermediate_exists=os.path.isdir(os.path.join(base, "output", "intermediate")),
        fetched=fetched,
    )


def _listing(directory: str) -> frozenset[str] | None:
    """Files below ``directory``, relative; links to directories are not followed."""
    found: list[str] = []
    for top, directories, names in os.walk(directory):
        relative = os.path.relpath(top, directory)
        found += [os.path.normpath(os.path.join(relative, name)) for name in names]
        directories[:] = [name for name in directories if not name.startswith(".")]
        if len(found) > _CODE_LIMIT:
            return None
    return frozenset(found)


def _version_of(packages: Collection[str]) -> str | None:
    """From the installed packages' directory names: TensorFlow is not imported.

    ``importlib.metadata`` answers the same in 30 ms of imports, and start-up is a feature.
    """
    for directory in sys.path:
        try:
            names = os.listdir(directory or ".")
        except OSError:
            continue
        for name in names:
            package, dash, rest = name.partition("-")
            if dash and rest.endswith(".dist-info") and package in packages:
                return rest.removesuffix(".dist-info")
    return None
