"""Signals to a child while it is owned: to its leader, its process group, or its whole tree."""

from __future__ import annotations

import os
import signal

from supervisor.children.leader import Leader
from supervisor.linux import procfs
from supervisor.linux.pidfd import send_exactly
from supervisor.linux.procfs import Process
from supervisor.linux.tree import Tree

ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
"""Signals that a program takes for the wish that it end."""

_STOPPING = frozenset(
    {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}
)


class Signals:
    """Who has had which signal. Never reaches a stranger: only while the leader is pinned."""

    def __init__(self, leader: Leader, tree: Tree) -> None:
        self._leader = leader
        self._tree = tree
        self._sent: set[int] = set()
        """Ending signals that the leader has had, and the group not by us."""
        self.group_sent: dict[int, int] = {}
        """Signals that the group has had, and when (``procfs.now_ticks``)."""

    def to_leader(self, signum: int) -> bool:
        """Send to the leader alone; one that is stopped is continued for an ending signal.

        False if it is dead, or the kernel forbids it.
        """
        if self._leader.exited() or not self._leader.signal(signum):
            return False
        self.had_by_leader(signum)
        return True

    def had_by_leader(self, signum: int) -> None:
        """It has been sent to the leader alone, or by somebody else to every process."""
        if signum not in ENDING:
            return
        self._sent.add(signum)
        process = procfs.stat(self._leader.pid)
        if process is not None and process.stopped:
            self._leader.signal(signal.SIGCONT)

    def to_group(self, signum: int) -> bool:
        """Send to the process group, followed by SIGCONT, unless it is itself one that stops or
        continues: a stopped process acts on nothing else.

        A leader that has had this same ending signal by itself is passed over, because many
        programs take the second one for "now".
        """
        if signum in self._sent and not self._leader.exited():
            done = self._to_group_but_leader(signum)
        else:
            done = self.killpg(signum)
        if signum not in _STOPPING:
            self.group_sent[signum] = procfs.now_ticks()
        if signum not in _STOPPING and signum != signal.SIGKILL:
            self.killpg(signal.SIGCONT)
        return done

    def to_all(self, signum: int) -> int:
        """Send to every process of the tree; how many there were."""
        if not self._leader.pinned:
            return 0
        self.killpg(signum)
        count = 0

        def send(process: Process) -> None:
            nonlocal count
            count += 1
            if process.pgrp != self._leader.pid:
                send_exactly(process, signum)

        for _ in self._tree.survey(send):
            pass
        return count

    def killpg(self, signum: int) -> bool:
        """Send to the process group, whoever has had it before."""
        try:
            os.killpg(self._leader.pid, signum)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _to_group_but_leader(self, signum: int) -> bool:
        done = False

        def send(process: Process) -> None:
            nonlocal done
            if process.pgrp == self._leader.pid and process.pid != self._leader.pid:
                done |= send_exactly(process, signum)

        for _ in self._tree.survey(send):
            pass
        return done
