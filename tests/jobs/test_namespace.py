"""The same behaviour as PID 1 of a PID namespace, and without privilege in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.tree import ROOT

pytestmark = pytest.mark.twice

NAMESPACES = {
    "pid 1": ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
    "unprivileged": ("unshare", "-Urpf", "--mount-proc", "--kill-child"),
}

ELSEWHERE = (
    "thousand or many_stubborn or caught_up or subreaper or killed_supervisors or kills_nobody"
    " or ends_with_its_use or holds_nothing or signals_do_not_end or stopped_supervisor"
    " or without_its_guardian or does_not_listen or without_a_mark or what_it_has_had"
    " or goes_by_no_name"
)
"""Tests that are about not being PID 1, or take long."""


def enter(kind: str, *command: str) -> subprocess.CompletedProcess[str]:
    prefix = NAMESPACES[kind]
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare(1) is not installed")
    if allowed.returncode != 0:
        pytest.skip(f"not permitted here: {allowed.stderr.strip()}")
    return subprocess.run(
        [*prefix, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
    )


@pytest.mark.parametrize("kind", NAMESPACES)
def test_processes_and_orphans_as_pid_1(kind: str) -> None:
    """The tests themselves run as PID 1 there."""
    done = enter(
        kind,
        *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *(
            "tests/children/test_child.py",
            "tests/linux/test_orphans.py",
            "tests/children/test_guardian.py",
        ),
        *("-k", f"not ({ELSEWHERE})"),
    )
    told = [line for line in done.stdout.splitlines() if line.startswith(("E  ", "FAILED"))]
    assert done.returncode == 0, "\n".join(told[-20:]) or done.stdout[-2000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("kind", NAMESPACES)
def test_pid_1_needs_no_guardian_and_is_a_reaper_by_nature(kind: str) -> None:
    script = (
        "import os; from supervisor.linux import orphans, prctl; "
        "from supervisor.children.guardian import Guardian; g = Guardian.start(); "
        "assert os.getpid() == 1; assert g.pid is None; assert not g.alive; g.close(); "
        "assert orphans.adopting() and orphans.adopt() and prctl.is_subreaper(); print('good')"
    )
    done = enter(kind, sys.executable, "-c", script)
    assert done.stdout == "good\n", done.stderr


def test_a_foreign_proc_is_never_believed() -> None:
    """A PID namespace without its own /proc: the numbers there are other processes'."""
    script = (
        "import os; from supervisor.linux import procfs; from supervisor.linux.tree import Tree; "
        "assert os.getpid() == 1; assert not procfs.usable(); "
        "assert Tree(2, 'x.1', 0).members() == []; print('good')"
    )
    allowed = subprocess.run(["unshare", "--pid", "--fork", "true"], check=False)
    if allowed.returncode != 0:
        pytest.skip("PID namespaces are not permitted here")
    done = subprocess.run(
        ["unshare", "--pid", "--fork", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout == "good\n", done.stderr
