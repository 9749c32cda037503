"""Whatever whoever started us left behind, our children start with defaults and an empty mask."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.helpers.children import OF_THE_C_LIBRARY
from tests.helpers.tree import ROOT

SCRIPT = """
import os, signal, sys
from supervisor.children.child import spawn
from supervisor.life.words import ProcessSpec, Role
from supervisor.linux.inherited import reset_inherited_signals
found = reset_inherited_signals()
print(sorted(found.ignored), sorted(found.blocked), found.hangup_ignored)
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGUSR1)
print("alive", signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
      len(signal.pthread_sigmask(signal.SIG_BLOCK, ())), flush=True)
argv = ("/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
child = spawn(ProcessSpec("worker", Role.WORKER, argv, {}, "/"))
os.set_blocking(child.stdout_fd, True)
print(os.read(child.stdout_fd, 4096).decode(), end="")
child.close()
"""

LEFT_BEHIND = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGCHLD,
    signal.SIGTSTP,
    signal.SIGTTOU,
    signal.SIGRTMIN,
}


def leave_behind() -> None:
    for signum in LEFT_BEHIND:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})


def test_ignored_and_blocked_signals_end_with_us() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        preexec_fn=leave_behind,
    )
    first, second, blocked, ignored = done.stdout.splitlines()
    assert first == f"{sorted(map(int, LEFT_BEHIND))} [12, 15] True"
    assert second == "alive True 0"
    assert blocked.split() == ["SigBlk:", "0" * 16]
    assert int(ignored.split()[1], 16) & ~OF_THE_C_LIBRARY == 0


def test_nothing_left_behind_is_nothing_found() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("os.kill(", "print(")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout.startswith("[] [] False\n")
