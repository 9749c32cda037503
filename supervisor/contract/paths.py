"""Where things lie below the base directory of the container contract. Pure."""

from __future__ import annotations

import posixpath
from typing import Final, NamedTuple

HOST: Final = "host.json"


class Paths(NamedTuple):
    """Where results go, below the base directory."""

    base: str
    model: str
    checkpoints: str
    """Or wherever ``SUPERVISOR_CHECKPOINT_LOCAL_DIR`` says."""
    model_dir: str
    """The local side of a ``model_dir`` in S3."""
    output: str
    output_data: str
    output_intermediate: str
    failure: str
    success: str
    report: str
    logs: str
    constraints: str
    """The image's packages, as pip's constraints."""
    error: str
    """A script may say here, as JSON with a ``message``, why it failed."""
    heartbeat: str
    """A script may touch this file to say that it lives."""
    progress: str
    """A script may say here, as JSON with a ``step``, how far it has come."""
    fetched: str
    """What the step that fetches has done."""
    job: str
    """The job's document with its last order, as a master has given it to the others: for a
    supervisor that is started in its place."""
    host: str
    """Who this host is, and where each of the job is asked: for those that look at a directory."""


def paths_below(base: str, checkpoints: str = "") -> Paths:
    output = posixpath.join(base, "output")
    own = posixpath.join(output, "supervisor")
    return Paths(
        base=base,
        model=posixpath.join(base, "model"),
        checkpoints=checkpoints or posixpath.join(base, "checkpoints"),
        model_dir=model_dir_below(base),
        output=output,
        output_data=posixpath.join(output, "data"),
        output_intermediate=posixpath.join(output, "intermediate"),
        failure=posixpath.join(output, "failure"),
        success=posixpath.join(output, "success"),
        report=posixpath.join(own, "report.json"),
        logs=posixpath.join(own, "logs"),
        constraints=posixpath.join(own, "constraints.txt"),
        error=posixpath.join(own, "error.json"),
        heartbeat=posixpath.join(own, "heartbeat"),
        progress=posixpath.join(own, "progress.json"),
        fetched=posixpath.join(own, "fetched.json"),
        job=posixpath.join(own, "job.json"),
        host=posixpath.join(own, HOST),
    )


def model_dir_below(base: str) -> str:
    return posixpath.join(base, "model_dir")


def channel_below(base: str, name: str) -> str:
    """The directory of an input channel."""
    return posixpath.join(base, "input/data", name)
