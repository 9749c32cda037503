"""Everything that the contract is read from, gathered once: files, variables, code and hardware.

The files are those of Amazon SageMaker, under ``/opt/ml``; on every engine they are read where they
are: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from supervisor import regular
from supervisor.contract.facts import CONFIG_FILES, Asked, Facts
from supervisor.engines.choosing import Site, site_of
from supervisor.engines.directory import absolute
from supervisor.linux import hardware

if TYPE_CHECKING:
    from supervisor.contract.told import Code
    from supervisor.storage.job import Fetched

_CONFIG_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one config file; the platform's own limits lie far below."""
_CODE_LIMIT: Final = 20_000
"""Entries of the code directory that are listed; with more, what is in it is not known."""

_TENSORFLOWS: Final = frozenset(
    {"tensorflow", "tensorflow_cpu", "tensorflow_gpu", "tensorflow_intel", "tensorflow_cpu_aws"}
)


def gather(
    environ: Mapping[str, str],
    asked: Asked,
    fetched: Fetched | None = None,
    site: Site | None = None,
) -> Facts:
    """Read the world once. What cannot be read is a fact too; raises ``ContractError`` where the
    working directory has been removed.

    ``fetched``: what was done about it, once everything is fetched. ``site``: where that was
    chosen already.
    """
    site = site or site_of(environ, asked)
    base = site.base_dir
    given = _named(asked.command, base) if asked.command else None
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
        code=_listing(given.directory if given else os.path.join(base, "code")),
        flags=asked.flags,
        num_cpus=hardware.num_cpus(),
        num_gpus=gpus,
        num_neurons=neurons,
        tensorflow_version=_version_of(_TENSORFLOWS),
        tensorflow_io=bool(_version_of({"tensorflow_io"})),
        intermediate_exists=os.path.isdir(os.path.join(base, "output", "intermediate")),
        fetched=fetched,
        engine=site.engine,
        given=given,
    )


def _named(command: Sequence[str], base: str) -> Code:
    """SCRIPT from the working directory; where it has none, and the contract's code directory has
    or is still to get it, that one. ``-m MODULE`` is run from the working directory."""
    from supervisor.contract.told import Code  # noqa: PLC0415  # where one is named

    word, arguments = command[0], tuple(command[1:])
    if word == "-m":
        module, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
        return Code(absolute("."), f"-m {module}", rest)
    path, code = absolute(word), os.path.join(base, "code")
    there = os.path.lexists(os.path.join(code, word))
    if not os.path.isfile(path) and (there or (os.path.isdir(code) and not os.path.isabs(word))):
        return Code(code, word, arguments)
    return Code(os.path.dirname(path), os.path.basename(path), arguments)


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
