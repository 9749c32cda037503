"""A plugin of pytest: coverage of the program, in the tests' own process and in the processes of
ours that they start.

    python -m tests.helpers.measured                 once: have this environment's Pythons listen
    python -m pytest -p tests.helpers.measured …     $COVERAGE_FILE says where the data go

Coverage's own ``patch = subprocess`` starts in every Python below the tests, the scripts of jobs
too: it is in their environment, among their modules, and costs each 0.15 s of processor time. Here
it starts in programs of ours alone, as they are started in earnest (``-m supervisor…``, a console
script, a file of the package). What a test runs with ``-c`` is left alone, for it is
mostly asked what it loads. A supervisor takes twice its processor time with it (0.35 s more, half
of which goes into imports), so that only the first case of a parametrized test has its processes
measured. What SIGKILL ends tells nothing.
"""

from __future__ import annotations

import os
import pathlib
import site
from typing import Final

import coverage
import pytest

CONFIG: Final = str(pathlib.Path(__file__).parent.parent.parent / "pyproject.toml")

SWITCH: Final = "TEST_COVERAGE"
"""Set in the environment while processes of ours are to be measured: the configuration's path."""

LISTENER: Final = f"""
import os, sys
if os.environ.get("{SWITCH}") and any(
    word == "supervisor" or word.startswith("supervisor.")
    or "/supervisor/" in word and word.endswith(".py")
    or word.endswith(("/bin/supervisor", "/bin/train"))
    for word in sys.orig_argv[1:5]
):
    try:
        os.getcwd()
    except OSError:  # it was removed: coverage cannot do without
        pass
    else:
        import coverage
        os.environ["COVERAGE_PROCESS_START"] = os.environ["{SWITCH}"]
        coverage.process_startup()
        del os.environ["COVERAGE_PROCESS_START"]
"""

_seen: Final[set[str]] = set()


def pytest_runtest_setup(item: pytest.Item) -> None:
    test, _, _ = item.nodeid.partition("[")
    if test in _seen:
        os.environ.pop(SWITCH, None)
    else:
        os.environ[SWITCH] = CONFIG
    _seen.add(test)


def pytest_unconfigure() -> None:
    _measured.stop()
    _measured.save()


if __name__ == "__main__":
    listener = pathlib.Path(site.getsitepackages()[0], "tests_measured.pth")
    listener.write_text(f"import sys; exec({LISTENER!r})\n", encoding="utf-8")
else:
    # By package here: the report shall know of the files that nothing imports, too.
    _measured = coverage.Coverage(config_file=CONFIG, source_pkgs=["supervisor"])
    _measured.start()  # now: what is imported before the first test has lines, too
