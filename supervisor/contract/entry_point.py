"""The entry point: what is to be run, how, and where its code comes from."""

from __future__ import annotations

import enum
import posixpath

from supervisor.contract import places
from supervisor.contract.document import Documents
from supervisor.contract.facts import HYPERPARAMETERS
from supervisor.contract.hyperparameters import Hyperparameters
from supervisor.contract.settings import Settings


class EntryKind(enum.StrEnum):
    SCRIPT = "script"
    """``NAME.py``, run by Python."""
    PACKAGE = "package"
    """The code is a package (``setup.py``, ``pyproject.toml``): installed, run as ``-m NAME``."""
    MODULE = "module"
    """``-m NAME``, run from the code directory as it lies there."""
    COMMAND = "command"
    """Anything else: executed as it is."""
    TEMPLATE = "template"
    """The words of ``SUPERVISOR_COMMAND``."""


def source(documents: Documents, submit: str) -> str:
    """Where the code comes from. As in the predecessor, code that is here already counts, and
    nothing is fetched."""
    facts = documents.facts
    code_dir = posixpath.join(facts.base_dir, "code")
    if facts.fetched is not None or facts.code is None or not submit:
        return ""
    if facts.code_dir != code_dir:  # the command line names a script that is here
        return ""
    from supervisor.storage.snapshot import INCOMPLETE  # noqa: PLC0415  # where it is asked

    if facts.code and INCOMPLETE not in facts.code:
        return ""
    if posixpath.normpath(submit) == code_dir:
        return ""
    return places.location(documents, HYPERPARAMETERS, "sagemaker_submit_directory", submit)


def read(
    documents: Documents,
    hyper: Hyperparameters,
    settings: Settings,
    *,
    to_fetch: bool,
) -> tuple[str, EntryKind]:
    """The entry point as it is named, and its kind.

    Of code that is still to be fetched nothing is known yet, so its kind is a first guess.
    """
    code = None if to_fetch else documents.facts.code
    code_dir = documents.facts.code_dir
    source, key = HYPERPARAMETERS, "sagemaker_program"
    name = hyper.platform.get(key)
    given = documents.facts.given
    if given is not None:
        source, key, name = "command line", "SCRIPT", given.program
    if settings.command and (not name or isinstance(name, str)):
        if not name and any("{program}" in word for word in settings.command):
            documents.fault_in_words("environment", "SUPERVISOR_COMMAND", "{program}", f"{key} set")
        return name or "", EntryKind.TEMPLATE
    if name is None or name == "":
        if documents.is_bad(HYPERPARAMETERS):
            return "", EntryKind.SCRIPT  # it may well be named there
        documents.fault_in_words(
            HYPERPARAMETERS,
            key,
            "nothing",
            f"the entry point, a path below {code_dir}; SAGEMAKER_PROGRAM sets it too, and so does "
            "the command line: supervisor train SCRIPT",
        )
        return "", EntryKind.SCRIPT
    if not isinstance(name, str) or "\0" in name:
        documents.fault(source, key, name, "the entry point's path, a string")
        return "", EntryKind.SCRIPT
    if name.startswith("-m"):
        module = name.removeprefix("-m").strip()
        if not all(part.isidentifier() for part in module.split(".")):
            documents.fault(source, key, name, "-m and the name of a module: -m pkg.train")
        return module, EntryKind.MODULE
    if code is not None and not name.endswith(".sh"):
        # pyproject.toml lies beside many a plain script, for its tools; so only where there is
        # nothing else that the name could mean.
        unfiled = not name.endswith(".py") and posixpath.normpath(name) not in code
        if "setup.py" in code or ("pyproject.toml" in code and unfiled):
            return name, EntryKind.PACKAGE
    kind = EntryKind.SCRIPT if name.endswith(".py") else EntryKind.COMMAND
    absent = code is not None and posixpath.normpath(name) not in code
    if absent and not (posixpath.isabs(name)):
        documents.fault(source, key, name, f"a file below {code_dir}; there is none")
    return name, kind
