"""PyPI's ``supervisor`` in the same environment: a file of the same name in one directory."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence

import pytest

import supervisor
from supervisor.host.neighbour import damage, is_beside, warning
from tests.helpers.job import environment
from tests.helpers.train import lay_out

OURS = pathlib.Path(supervisor.__file__).parent
SHARED = "__init__.py"
START = "import sys; from supervisor.__main__ import main; main(sys.argv[1:])"


def site(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory of packages with ours in it."""
    place = tmp_path / "site"
    shutil.copytree(OURS, place / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
    return place


def install_other(place: pathlib.Path) -> None:
    """The files of supervisord that matter here, as its wheel has them."""
    (place / "supervisor" / "supervisord.py").write_text("import supervisor.options\n")
    (place / "supervisor" / SHARED).write_text("# this is a package\n")


def start(
    place: pathlib.Path, *words: str, options: Sequence[str] = (), base: object = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *options, "-c", START, *words],
        env=environment(SAGEMAKER_BASE_DIR=str(base)) | {"PYTHONPATH": str(place)},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_our_own_files_are_known_as_ours() -> None:
    assert not is_beside()
    assert (damage(), warning()) == ("", "")


def test_an_overwritten_file_is_one_sentence_with_the_remedy(tmp_path: pathlib.Path) -> None:
    """It was a traceback of an import, and exit code 1 without a failure text."""
    place, base = site(tmp_path), tmp_path / "ml"
    install_other(place)
    lay_out(base, "print('trained')")
    done = start(place, "train", base=base)
    assert (done.returncode, done.stdout) == (90, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"supervisor: {SHARED} in {place}/supervisor ")
    assert "PyPI's supervisor (supervisord)" in line
    assert "--force-reinstall --no-deps supervisor-tensorflow" in line
    assert "supervisord" in (base / "output" / "failure").read_text()


def test_a_file_that_went_with_the_other_is_one_sentence_too(tmp_path: pathlib.Path) -> None:
    place = site(tmp_path)
    (place / "supervisor" / SHARED).unlink()
    done = start(place, "plan", options=("-S",))  # or another installation of ours is found
    assert done.returncode == 90
    [line] = done.stderr.splitlines()
    assert line.startswith(f"supervisor: {SHARED} in ")


def test_where_both_are_there_every_command_says_so(tmp_path: pathlib.Path) -> None:
    """Ours came last: the other is broken, and nobody said why."""
    place, base = site(tmp_path), tmp_path / "ml"
    (place / "supervisor" / "supervisord.py").touch()
    lay_out(base, "print('trained')")
    train = start(place, "train", base=base)
    assert train.returncode == 0
    assert train.stderr.count("PyPI's supervisor (supervisord) is installed into the same") == 1
    assert "installation.shared" in train.stderr
    doctor = start(place, "doctor", base=base)
    [line] = [line for line in doctor.stdout.splitlines() if line.startswith("installation")]
    assert line.split()[1] == "warn"
    assert doctor.stderr.startswith("supervisor: PyPI's supervisor (supervisord) is installed ")


def test_the_real_one(tmp_path: pathlib.Path) -> None:
    """Both orders of installation, with the wheel from the index."""
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--retries", "0"]
    download += ["--timeout", "5", "--only-binary", ":all:", "-d", str(tmp_path), "supervisor"]
    got = subprocess.run(download, capture_output=True, text=True, timeout=120, check=False)
    if got.returncode != 0:
        pytest.skip(f"no index has PyPI's supervisor: {got.stderr.strip()[-200:]}")
    [wheel] = tmp_path.glob("supervisor-*.whl")
    place = site(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        shared = sorted(
            name.removeprefix("supervisor/")
            for name in archive.namelist()
            if name.startswith("supervisor/") and (place / name).is_file()
        )
        archive.extractall(place)
    assert shared == [SHARED], "the file that is watched is the one that coincides"
    assert SHARED in start(place, "plan").stderr
    shutil.copytree(OURS, place / "supervisor", dirs_exist_ok=True)
    done = start(place, "doctor")
    assert "installed into the same directory" in done.stdout
