"""``python -m supervisor.plan.installation requirements|package``: a step around pip.

A process of its own, supervised like any other: what it costs to import and how long pip takes do
not concern the event loop, and a stop signal ends it as it ends a script. What went wrong is said
in one sentence through the error file (``SUPERVISOR_ERROR_FILE``), as a script may do it.

pip is told little, so that its own configuration counts (``PIP_INDEX_URL``, ``PIP_TIMEOUT``, …).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from supervisor import regular
from supervisor.faults import safe
from supervisor.plan.requirements import (
    CodeArtifact,
    Conflict,
    code_artifact,
    conflicts,
    constraints,
    diagnosis,
)
from supervisor.streams.masking import Masker

FILE: Final = "requirements.txt"
ALLOW: Final = "SUPERVISOR_REQUIREMENTS=replace allows it"
_BOUNDS: Final = {
    # An index that cannot be reached is said within half a minute; pip's own defaults take minutes.
    "PIP_TIMEOUT": "8",
    "PIP_RETRIES": "2",
    "PIP_NO_INPUT": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
_KEPT_LINES: Final = 400
_LINE_BYTES: Final = 4096
_SHOWN_CONFLICTS: Final = 3
_TOKEN_CONNECT_S: Final = 5
_TOKEN_READ_S: Final = 15


class InstallationError(Exception):
    """Why nothing was installed, one sentence."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="supervisor.plan.installation", allow_abbrev=False)
    parser.add_argument("what", choices=("requirements", "package"))
    parser.add_argument("--constraints", required=True, metavar="FILE")
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("--wheels", metavar="DIRECTORY")
    given = parser.parse_args(argv)
    try:
        _install(given.what, given.constraints, given.wheels, replace=given.replace)
    except InstallationError as error:
        _say_why(str(error))
        return 1
    return 0


def _install(what: str, path: str, wheels: str | None, *, replace: bool) -> None:
    """Raises InstallationError."""
    subject = FILE if what == "requirements" else "the package"
    if importlib.util.find_spec("pip") is None:
        raise InstallationError(f"{subject} cannot be installed: {sys.executable} has no pip")
    options = []
    if not replace:
        installed = installed_versions()
        if what == "requirements" and (found := conflicts(FILE, read_file, installed)):
            raise InstallationError(_refusal(found))
        _write(path, constraints(installed))
        options += ["--constraint", path]
    if wheels is not None:
        options += ["--no-index", "--find-links", wheels]
    env = {**_BOUNDS, **os.environ}
    if "PIP_DEFAULT_TIMEOUT" in os.environ and "PIP_TIMEOUT" not in os.environ:
        del env["PIP_TIMEOUT"]  # two names of one option
    secret = ""
    if arn := os.environ.get("CA_REPOSITORY_ARN"):
        # In the environment: an argument can be read by everybody on the machine.
        env["PIP_INDEX_URL"], secret = _code_artifact_index(arn)
    words = ["--requirement", FILE] if what == "requirements" else ["."]
    command = [sys.executable, "-P", "-m", "pip", "install", *options, *words]
    code, lines = _run(command, env, secret)
    if code:
        mask = Masker.of(os.environ).text
        why = diagnosis([mask(line) for line in lines], offline=wheels is not None)
        hint = f"; {ALLOW}" if "and the image has" in why else ""
        raise InstallationError(f"{subject} cannot be installed: {why}{hint}")


def installed_versions() -> dict[str, str]:
    """Canonical name → version of every distribution that this Python finds."""
    from packaging.utils import canonicalize_name  # noqa: PLC0415

    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and distribution.version:
            # The first on the search path is the one that is imported.
            found.setdefault(canonicalize_name(name), distribution.version)
    return found


def _refusal(found: Sequence[Conflict]) -> str:
    text = "; ".join(map(str, found[:_SHOWN_CONFLICTS]))
    if len(found) > _SHOWN_CONFLICTS:
        text += f"; and {len(found) - _SHOWN_CONFLICTS} more"
    return f"{text}; {ALLOW}"


def read_file(name: str, directory: str = "") -> str | None:
    """The text of a requirements file, at most 1 MiB of it; None where it cannot be read."""
    try:
        data = regular.read(os.path.join(directory, name), 1 << 20, follow=True)
    except OSError:
        return None
    return data.decode("utf-8-sig", "replace")


def _write(path: str, text: str) -> None:
    try:
        regular.replace(path, text)
    except OSError as error:
        raise InstallationError(f"{path} cannot be written: {error.strerror}") from error


def _run(command: Sequence[str], env: Mapping[str, str], secret: str) -> tuple[int, list[str]]:
    """Run pip, pass on what it writes, and keep the end of it."""
    kept: deque[str] = deque(maxlen=_KEPT_LINES)
    hidden = secret.encode()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    ) as process:
        assert process.stdout is not None
        while line := process.stdout.readline(_LINE_BYTES):
            if hidden:
                line = line.replace(hidden, b"******")
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            kept.append(line.decode("utf-8", "replace").rstrip())
        return process.wait(), list(kept)


def _code_artifact_index(arn: str) -> tuple[str, str]:
    """The index for a CodeArtifact repository, and the token in it."""
    import asyncio  # noqa: PLC0415

    repository = code_artifact(arn)
    if repository is None:
        raise InstallationError(
            f"CA_REPOSITORY_ARN is {arn[:200]!r}; expected "
            "arn:PARTITION:codeartifact:REGION:ACCOUNT:repository/DOMAIN/REPOSITORY"
        )
    try:
        token, endpoint = asyncio.run(_ask_code_artifact(repository))
    except Exception as error:  # noqa: BLE001
        # Whatever the library raises; its text names the operation and the reason, no secret.
        raise InstallationError(
            f"CodeArtifact gave no access to {repository.domain}/{repository.repository} in "
            f"{repository.region}: {type(error).__name__}: {str(error)[:200]}; the job's role "
            "needs codeartifact:GetAuthorizationToken, codeartifact:GetRepositoryEndpoint, "
            "codeartifact:ReadFromRepository and sts:GetServiceBearerToken"
        ) from None
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://aws:{token}@{rest.rstrip('/')}/simple/", token


async def _ask_code_artifact(repository: CodeArtifact) -> tuple[str, str]:
    from aiobotocore.config import AioConfig  # noqa: PLC0415
    from aiobotocore.session import get_session  # noqa: PLC0415

    config = AioConfig(
        connect_timeout=_TOKEN_CONNECT_S,
        read_timeout=_TOKEN_READ_S,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    session = get_session()
    async with session.create_client(
        "codeartifact", region_name=repository.region, config=config
    ) as client:
        owned = {"domain": repository.domain, "domainOwner": repository.owner}
        answer = await client.get_authorization_token(**owned)
        place = await client.get_repository_endpoint(
            **owned, repository=repository.repository, format="pypi"
        )
    return answer["authorizationToken"], place["repositoryEndpoint"]


def _say_why(message: str) -> None:
    message = Masker.of(os.environ).text(message)
    print(f"supervisor: {safe(message)}", file=sys.stderr, flush=True)
    if problem := regular.write_error(message):
        print(f"supervisor: {problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
