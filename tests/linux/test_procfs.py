"""What the kernel tells of a process."""

from __future__ import annotations

import os
import subprocess

from supervisor.linux import procfs


def test_one_that_has_ended_is_ending_until_it_is_collected_and_after() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(["cat"], bufsize=0, stdin=pipe, stdout=pipe) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"begun\n")  # in the middle of an execve(2) it has no command line either
        assert child.stdout.readline() == b"begun\n"
        assert not procfs.ending(child.pid)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.ending(child.pid)
    assert procfs.ending(child.pid)
    assert not procfs.ending(os.getpid())
