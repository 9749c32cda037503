"""The constraints that the gate makes for the Dockerfile: what the package needs, and no more."""

from __future__ import annotations

import pathlib
import tomllib
from collections.abc import Callable

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers import pinned
from tests.helpers.tree import ROOT

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a distribution that is installed, with what it requires."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(name: str, version: str, *requires: str) -> None:
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {each}" for each in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return made


def test_what_is_needed_at_any_depth_and_by_the_extras_that_are_asked_for(install: Install) -> None:
    install("pinned_top", "1.0", "Pinned.Left[fast]>=1", "pinned_tests; extra == 'test'")
    install("pinned_left", "2.0", "pinned_deep", "pinned_fast; extra == 'fast'")
    install("pinned_deep", "3.0", "pinned_left", "pinned_old; python_version < '3'")
    install("pinned_fast", "4.0")
    assert pinned.needed("pinned_top") == {
        "pinned-left": "2.0",
        "pinned-deep": "3.0",
        "pinned-fast": "4.0",
    }


def test_tools_and_local_versions_are_left_to_the_index() -> None:
    found = pinned.constraints({"wheel": "0.48", "b": "2.21.0+cpu", "a": "1"})
    assert found == "a==1\nb==2.21.0\n"


def test_the_file_is_written_when_other_versions_were_tested(
    tmp_path: pathlib.Path,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install("pinned_top", "1.0", "pinned_left", "pinned_deep")
    install("pinned_left", "2.0")
    install("pinned_deep", "3.0")
    monkeypatch.setattr(pinned, "NAME", "pinned_top")
    path = tmp_path / "constraints.txt"
    path.write_text("# of another Python\npinned-deep==3.0\npinned-left==1.9\n", encoding="utf-8")
    pinned.main(path)
    assert path.read_text(encoding="utf-8").endswith("\npinned-deep==3.0\npinned-left==2.0\n")
    assert capsys.readouterr().out.endswith("it names them now: pinned-left==2.0\n")
    written = path.read_text(encoding="utf-8").replace("# Made", "# It was made")
    path.write_text(written, encoding="utf-8")
    pinned.main(path)
    assert path.read_text(encoding="utf-8") == written
    assert capsys.readouterr().out == f"{path}: these are the versions that were tested\n"


def test_the_dockerfile_can_install_what_the_project_depends_on() -> None:
    text = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8")
    versions = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for wanted in map(Requirement, project["dependencies"]):
        version = versions[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{wanted}, and {version} was tested"
