"""Descendants of a process that are still there after its end: how long they have, and that people
hear of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from supervisor.children.child import Child
from supervisor.children.ending import Patience
from supervisor.host import explanation
from supervisor.host.present import Present
from supervisor.host.running import Running
from supervisor.host.timeline import Say
from supervisor.host.timers import Timers
from supervisor.life import events as ev
from supervisor.life.ladder import respite
from supervisor.life.words import Respite, Rung, signal_name
from supervisor.linux import procfs
from supervisor.streams.masking import Masker

OUTLIVED_AFTER_S: Final = 0.25
"""Descendants that are still there so long after their leader's end are worth a message: helpers
of Python's multiprocessing take a moment to notice."""


def patience(
    running: Running,
    child: Child,
    *,
    present: Present,
    timers: Timers,
    masker: Masker,
    say: Say,
) -> Patience:
    """What the descendants that outlive a leader have; and say that they do."""
    began: float | None = None
    said = False

    def ask(alive: Sequence[procfs.Process]) -> Respite:
        nonlocal began, said
        now = time.monotonic()
        began = began or now
        name = running.spec.name
        given = respite(present.state, name, child.death(), asked=running.asked)
        running.outlived_by = len(alive)
        if said or now - began < OUTLIVED_AFTER_S:
            return given
        if staying := [each.pid for each in alive if not procfs.ending(each.pid)]:
            said = True
            words = ((pid, procfs.arguments(pid)) for pid in staying)
            left_s = max(0.0, min(began + given.seconds - now, _until_kill_s(present, timers)))
            say(
                "info",
                "process.outlived",
                process=name,
                exit=str(child.death() or "unknown"),
                count=len(staying),
                who=explanation.named(words, masker),
                signal=signal_name(given.signum),
                left_s=round(left_s, 1),
            )
        return given

    return ask


def _until_kill_s(present: Present, timers: Timers) -> float:
    """On the way down: until SIGKILL ends what is alive now."""
    left_s = timers.left_s
    servers = present.state.rung is Rung.SERVERS
    grace_s = left_s(ev.Deadline.GRACE) + (0.0 if servers else present.plan.budgets.group_s)
    return max(0.0, min(grace_s, left_s(ev.Deadline.GROUP), left_s(ev.Deadline.LIMIT)))
