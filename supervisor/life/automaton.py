"""The automata of a life as tables: what leads from which state to which.

The reducer changes the phase of a host, the lives of its processes and, on the master, the state of
the job by ``after`` alone (the moves of ``state.py``): a step that its table lacks is a defect and
raises, so that a table cannot lie. The guide's diagrams are drawn from them (``diagram.py``). The
rungs on the way down are a table too: ``ladder.LADDER``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from supervisor.life.words import JobState, Life, Phase


class Trigger(enum.StrEnum):
    """What makes a state change; the words are the labels of the diagrams."""

    PREPARED = "every step before the barrier is done"
    ALL_JOINED = "every host has joined"
    RESTART = "something of the job starts anew"
    ALL_READY = "all that starts anew is down and ready"
    CAUSE_KNOWN = "the cause of the end is known"
    MUST_DIE = "the time is over, or a second stop signal or a defect came"
    NOTHING_ALIVE = "no process is alive"
    ALL_SETTLED = "publishing is over, and no host is waited for"

    NO_SCRIPT_ALIVE = "no script of the master is alive"

    STARTED = "its start is ordered"
    ENDED = "it has ended, or could not be started"
    SURVIVED = "SIGKILL has not ended it"


_S = TypeVar("_S", Phase, JobState, Life)

PHASES: Final[Mapping[tuple[Phase, Trigger], Phase]] = MappingProxyType(
    {
        (Phase.PREPARING, Trigger.PREPARED): Phase.JOINING,
        # Joining has a step where this host restores the checkpoint that all are to hold.
        (Phase.JOINING, Trigger.PREPARED): Phase.JOINING,
        # A host alone waits for nobody; a member hears it from the master.
        (Phase.JOINING, Trigger.ALL_JOINED): Phase.RUNNING,
        (Phase.PREPARING, Trigger.CAUSE_KNOWN): Phase.DRAINING,
        (Phase.JOINING, Trigger.CAUSE_KNOWN): Phase.DRAINING,
        (Phase.RUNNING, Trigger.CAUSE_KNOWN): Phase.DRAINING,
        # Another attempt: what it concerns comes down, waits for the other hosts and starts anew.
        (Phase.RUNNING, Trigger.RESTART): Phase.RESTARTING,
        (Phase.RESTARTING, Trigger.RESTART): Phase.RESTARTING,
        (Phase.RESTARTING, Trigger.ALL_READY): Phase.RUNNING,
        (Phase.RESTARTING, Trigger.CAUSE_KNOWN): Phase.DRAINING,
        (Phase.DRAINING, Trigger.MUST_DIE): Phase.KILLING,
        (Phase.KILLING, Trigger.MUST_DIE): Phase.KILLING,
        (Phase.DRAINING, Trigger.NOTHING_ALIVE): Phase.PUBLISHING,
        (Phase.KILLING, Trigger.NOTHING_ALIVE): Phase.PUBLISHING,
        (Phase.PUBLISHING, Trigger.ALL_SETTLED): Phase.DONE,
    }
)
"""A host's life."""

JOB: Final[Mapping[tuple[JobState, Trigger], JobState]] = MappingProxyType(
    {
        (JobState.JOINING, Trigger.ALL_JOINED): JobState.RUNNING,
        # A step may be under way while the hosts join: it is stopped like a script.
        (JobState.JOINING, Trigger.CAUSE_KNOWN): JobState.STOPPING,
        (JobState.RUNNING, Trigger.CAUSE_KNOWN): JobState.STOPPING,
        (JobState.RUNNING, Trigger.RESTART): JobState.RESTARTING,
        (JobState.RESTARTING, Trigger.RESTART): JobState.RESTARTING,
        (JobState.RESTARTING, Trigger.ALL_READY): JobState.RUNNING,
        (JobState.RESTARTING, Trigger.CAUSE_KNOWN): JobState.STOPPING,
        # Without a script that is to be stopped the first word of the end is the last.
        (JobState.JOINING, Trigger.NO_SCRIPT_ALIVE): JobState.ENDED,
        (JobState.RUNNING, Trigger.NO_SCRIPT_ALIVE): JobState.ENDED,
        (JobState.RESTARTING, Trigger.NO_SCRIPT_ALIVE): JobState.ENDED,
        (JobState.STOPPING, Trigger.NO_SCRIPT_ALIVE): JobState.ENDED,
    }
)
"""The job, as the master announces it. A member takes the master's word, whatever came before:
it may have been late, or have missed one."""

LIVES: Final[Mapping[tuple[Life, Trigger], Life]] = MappingProxyType(
    {
        (Life.PLANNED, Trigger.STARTED): Life.ALIVE,
        (Life.ALIVE, Trigger.ENDED): Life.ENDED,
        (Life.ALIVE, Trigger.SURVIVED): Life.LEFT,
        (Life.ENDED, Trigger.STARTED): Life.ALIVE,  # with another attempt
        # What was given up may still end while other things are waited for.
        (Life.LEFT, Trigger.ENDED): Life.ENDED,
        (Life.LEFT, Trigger.SURVIVED): Life.LEFT,
    }
)
"""One process."""


def after(table: Mapping[tuple[_S, Trigger], _S], now: _S, trigger: Trigger) -> _S:
    """The next state.

    Raises:
        AssertionError: the table has no such step: a defect of the reducer.

    """
    found = table.get((now, trigger))
    if found is None:
        raise AssertionError(f"no step leads on from {now!r} when {trigger}")
    return found
