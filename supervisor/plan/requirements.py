"""What a requirements file would do to the image's packages, and why pip failed. Pure.

``packaging`` is imported here: this module belongs to the installation's own process and to
``supervisor doctor``, never to the way to the user's script.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

_TENSORFLOW: Final = frozenset(
    {
        "tensorflow",
        "tensorflow-cpu",
        "tensorflow-cpu-aws",
        "tensorflow-gpu",
        "tensorflow-intel",
        "tensorflow-rocm",
    }
)
"""Distributions that install the same package: the second one overwrites the first."""
_TOOLS: Final = frozenset({"pip", "setuptools", "wheel"})
"""What installs; no script depends on their versions."""
_DEEPEST: Final = 8
"""Requirements files that include each other."""
_LONGEST: Final = 300


@dataclass(frozen=True, slots=True)
class Conflict:
    """A requirement that the image's own packages do not meet."""

    file: str
    line: int
    requirement: str
    name: str
    """Of the installed distribution that it would replace."""
    version: str

    def __str__(self) -> str:
        return (
            f"{self.file} line {self.line}: {self.requirement} would replace "
            f"{self.name} {self.version} of the image"
        )


def conflicts(
    name: str, read: Callable[[str], str | None], installed: Mapping[str, str]
) -> list[Conflict]:
    """What in the file ``name`` and those that it includes conflicts with ``installed``.

    ``read`` gives a file's text, or None; ``installed`` maps canonical names to versions. Lines
    that are no plain requirement (paths, options) are pip's to judge.
    """
    return list(_conflicts(name, read, installed, _DEEPEST))


def _conflicts(
    file: str, read: Callable[[str], str | None], installed: Mapping[str, str], depth: int
) -> Iterator[Conflict]:
    for number, line in _logical_lines(read(file) or ""):
        included = re.match(r"(?:-r|--requirement)(?:\s+|=)(\S+)", line)
        if included and depth:
            directory = file.rpartition("/")[0]
            inner = f"{directory}/{included[1]}" if directory else included[1]
            yield from _conflicts(inner, read, installed, depth - 1)
        if line.startswith("-"):
            continue
        try:
            wanted = Requirement(re.split(r"\s--\w", line, maxsplit=1)[0])
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        found = _installed_instead(canonicalize_name(wanted.name), installed)
        if found is None:
            continue
        version = installed[found]
        if wanted.url or not wanted.specifier.contains(version, prereleases=True):
            yield Conflict(file, number, f"{wanted.name}{_limits(wanted)}", found, version)


def _limits(wanted: Requirement) -> str:
    return f" @ {wanted.url}" if wanted.url else str(wanted.specifier)


def _installed_instead(name: str, installed: Mapping[str, str]) -> str | None:
    """The installed distribution that one of this name replaces."""
    if name in installed or name not in _TENSORFLOW:
        return name if name in installed else None
    return next((other for other in sorted(_TENSORFLOW) if other in installed), None)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines joined at backslashes, without comments and blanks; numbered from 1."""
    joined, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        start = start or number
        if raw.endswith("\\"):
            joined += raw[:-1]
            continue
        line = re.sub(r"(^|\s+)#.*$", "", joined + raw).strip()
        if line:
            yield start, line
        joined, start = "", 0


def constraints(installed: Mapping[str, str]) -> str:
    """``installed`` as a constraints file of pip: nothing of it may change."""
    pinned = {name: version for name, version in installed.items() if name not in _TOOLS}
    present = next((name for name in sorted(_TENSORFLOW) if name in installed), None)
    if present is not None:
        pinned |= dict.fromkeys(_TENSORFLOW - set(installed), installed[present])
    return "".join(f"{name}=={version}\n" for name, version in sorted(pinned.items()))


_RETRYING: Final = re.compile(r"Retrying \(.*\) after connection broken by '(.*)': (\S+)")
_REASONS: Final = (
    (re.compile(r"\[Errno -?\d+\] ([^'\")]+)"), None),
    (re.compile(r"Failed to resolve"), "the name of the index cannot be resolved"),
    (re.compile(r"ReadTimeout"), "no answer in time"),
    (re.compile(r"[Tt]imed ?out|Timeout"), "no connection in time"),
    (re.compile(r"ProxyError"), "the proxy does not let us through"),
    (re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLError"), "its certificate is not trusted"),
)
_NOT_FOUND: Final = re.compile(
    r"(?:No matching distribution found for|that satisfies the requirement) ([^ ]+)"
)


_INVALID: Final = re.compile(r"ERROR: (Invalid requirement: .*)")
_SUBPROCESS: Final = "subprocess-exited-with-error"
_PYTHON: Final = re.compile(r"\s*(?P<why>(?:\w+\.)*\w*(?:Error|Exception|Unavailable)(?:: .+)?)$")
"""Python's own, of a setup.py or a build backend: the last line of its traceback."""
_WHY: Final = (
    # git, whose first word on it is the reason and whose later ones are advice
    re.compile(r"\s*(?P<why>fatal: (?!Could not read from remote).+)"),
    # compilers and linkers: FILE:LINE:COLUMN: error: …, error[E0432]: …
    re.compile(r"\s*(?P<why>\S+:\d+(?::\d+)?: (?:fatal )?error:? .+)"),
    re.compile(r"\s*(?P<why>\S*: (?:cannot find -l|undefined reference).+)"),
    re.compile(r"\s*(?P<why>error\[E\d+\]: .+)"),
    re.compile(r"\s*(?:CMake Error.*: *)(?P<why>.+)"),
    _PYTHON,
    re.compile(r"\s*(?P<why>error: (?!subprocess-exited|metadata-gen|command ).+)"),
    re.compile(r"\s*(?P<why>error: command .+)"),
)
"""In this order: the line that says why before those that say that."""
_FAILED_BUILD: Final = re.compile(r"\s*ERROR: Failed building wheel for (\S+)")
_SUBJECT: Final = re.compile(r"(?:Processing|Collecting) (\S+)")


def diagnosis(lines: Sequence[str], *, offline: bool = False) -> str:
    """Why pip failed, in one sentence, from what it wrote.

    ``offline``: it was told to look into the directory ``wheels`` alone.
    """
    if (blocked := _unreachable(lines)) is not None:
        return blocked
    if (caused := _conflict_caused_by(lines)) is not None:
        return caused
    if any("No space left on device" in line for line in lines):
        return "a disk is full (No space left on device)"
    if (invalid := next(filter(None, map(_INVALID.match, lines)), None)) is not None:
        return invalid[1][:_LONGEST]
    if (hashes := _wrong_hash(lines)) is not None:
        return hashes
    missing = next((m for line in reversed(lines) if (m := _NOT_FOUND.search(line))), None)
    if missing is not None:
        where = "the directory wheels has" if offline else "the index has"
        python = next((m[1] for line in lines if (m := _OTHER_PYTHON.search(line))), "")
        asked = f" (there is one for Python {python})" if python else ""
        return f"{where} no distribution for {missing[1]} that fits this Python and machine{asked}"
    if (built := _failed_build(lines)) is not None:
        return built
    errors = [line for line in lines if re.match(r"\s*(ERROR|error):", line)]
    said = errors or [line for line in lines if line.strip()] or ["pip said nothing"]
    text = re.sub(r"^\s*(ERROR|error):\s*", "", said[-1]).strip()
    if re.fullmatch(r"[\w-]+:?", text):  # a headline: metadata-generation-failed, Exception:
        crosses = (line for line in lines if line.startswith("\N{MULTIPLICATION SIGN}"))
        crossed = next(crosses, "")[1:].strip()
        text = crossed or [line.strip() for line in lines if line.strip()][-1]
    return text[:_LONGEST]


_OTHER_PYTHON: Final = re.compile(r"a different python version: .*?Requires-Python ([^;\s]+)")


def _failed_build(lines: Sequence[str]) -> str | None:
    """A program that pip ran has failed: the line of its output that says why, and of what.

    pip's headline, ``subprocess-exited-with-error``, is the same for git, compilers and setup.py.
    """
    end = next((n for n, line in enumerate(lines) if _SUBPROCESS in line), None)
    if end is None:
        return None
    start = max((n for n in range(end) if _SUBJECT.match(lines[n])), default=0)
    after = list(lines[end:])
    stop = next((n for n, line in enumerate(after) if "[end of output]" in line), 0)
    said = [*lines[start:end], *after[:stop]]
    subject = next((m[1] for line in lines if (m := _FAILED_BUILD.match(line))), "")
    if not subject and (found := _SUBJECT.match(lines[start])) is not None:
        subject = found[1]
    for pattern in _WHY:
        matches = [m["why"].strip() for line in said if (m := pattern.match(line)) is not None]
        if matches:
            # A traceback's last line is the error; of a compiler's errors the first is the cause.
            why = matches[-1] if pattern is _PYTHON else matches[0]
            return f"{subject}: {why}"[:_LONGEST] if subject else why[:_LONGEST]
    words = [line.strip() for line in after[1:stop] if line.strip()]
    return f"{subject}: {words[-1]}"[:_LONGEST] if words else None


def _wrong_hash(lines: Sequence[str]) -> str | None:
    start = next((n for n, line in enumerate(lines) if "DO NOT MATCH THE HASHES" in line), None)
    if start is None:
        return None
    found = [" ".join(line.split()) for line in lines[start + 1 :] if line.strip()][:3]
    which, *hashes = (found[0].partition(" from ")[0], *found[1:]) if found else ("a package",)
    said = f"{which} is not the file whose hash is given"
    return f"{said}: {'; '.join(hashes)}"[:_LONGEST] if hashes else said


def _unreachable(lines: Sequence[str]) -> str | None:
    """The index could not be asked, if that was the end of it."""
    broken = next((m for line in reversed(lines) if (m := _RETRYING.search(line))), None)
    if broken is None or not any(re.match(r"\s*ERROR:", line) for line in lines):
        return None
    after = list(lines)
    last = max(number for number, line in enumerate(after) if _RETRYING.search(line))
    if any(line.lstrip().startswith(("Downloading", "Collecting")) for line in after[last + 1 :]):
        return None  # it came through in the end
    reason = "the connection broke"
    for pattern, words in _REASONS:
        if (match := pattern.search(broken[1])) is not None:
            reason = words or match[1].strip()
            break
    return f"no route to the package index: {reason} (asked for {broken[2]})"


def _conflict_caused_by(lines: Sequence[str]) -> str | None:
    """``ResolutionImpossible``: which requirement asks for another version than the image's."""
    start = next((n for n, line in enumerate(lines) if "conflict is caused by:" in line), None)
    if start is None:
        return None
    causes = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        causes.append(line.strip())
    pinned = [cause for cause in causes if "(constraint)" in cause]
    asked = [cause for cause in causes if "(constraint)" not in cause]
    if not pinned or not asked:
        return "; ".join(causes)[:_LONGEST] or None
    has = pinned[-1].rpartition(") ")[2].replace("==", " ")
    return f"{asked[-1]}, and the image has {has}"[:_LONGEST]


_ARN: Final = re.compile(
    r"arn:[^:]+:codeartifact:(?P<region>[^:]+):(?P<owner>[^:]+)"
    r":repository/(?P<domain>[^/]+)/(?P<repository>.+)"
)


@dataclass(frozen=True, slots=True)
class CodeArtifact:
    """A repository of AWS CodeArtifact, from its ARN."""

    region: str
    owner: str
    domain: str
    repository: str


def code_artifact(arn: str) -> CodeArtifact | None:
    """The repository that ``CA_REPOSITORY_ARN`` names; None where it is no such ARN."""
    match = _ARN.fullmatch(arn.strip())
    return None if match is None else CodeArtifact(**match.groupdict())
