"""The tables that the reducer steps through: no row is missing, and none is dead."""

from __future__ import annotations

import ast
import pathlib
import signal
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from supervisor import life
from supervisor.life import events as ev
from supervisor.life import ladder
from supervisor.life import state as moves
from supervisor.life.automaton import JOB, LIVES, PHASES, Trigger, after
from supervisor.life.ladder import LADDER
from supervisor.life.lifecycle import step
from supervisor.life.state import State
from supervisor.life.words import Cause, CauseKind, JobState, Outcome, Phase, Rung, Verdict
from tests.life.test_lifecycle import (
    KILLED,
    NEW,
    OK,
    OLD,
    RUNNING_ALONE,
    RUNNING_MASTER,
    RUNNING_MEMBER,
    SAME,
    TERMED,
    alone,
    joined,
    master,
    member,
    play,
    with_policy,
    with_steps,
)
from tests.life.test_restarting import failure, going_on, told

STOP = ev.Signalled(signal.SIGTERM, 1.0)
NOW = ev.Signalled(signal.SIGTERM, 2.0)
CRASH = ev.Exited("chief", KILLED, 2.0)
CHIEF, SERVER = ev.Exited("chief", TERMED, 3.0), ev.Exited("ps", TERMED, 3.0)
ENDED = ev.JobChanged(
    JobState.ENDED,
    Verdict(Outcome.STOPPED, Cause(CauseKind.STOP_REQUESTED, "algo-1", "received SIGTERM"), 143),
)
GONE = (joined("algo-2", Phase.DONE), joined("algo-3", Phase.DONE))


def over(deadline: ev.Deadline) -> ev.Expired:
    return ev.Expired(deadline, 9.0)


HISTORIES: Mapping[str, tuple[State, Iterable[ev.Event]]] = {
    "steps, a script, its results": (
        with_steps(alone()),
        (
            ev.Prepared(),
            ev.Exited("requirements", OK, 1.0),
            ev.Exited("package", OK, 1.0),
            ev.Exited("chief", OK, 2.0),
            ev.Published(None),
        ),
    ),
    "it cannot be prepared": (alone(), (ev.PrepareFailed("no space", 1.0),)),
    "stopped while the hosts join": (master(), (ev.Prepared(), STOP)),
    "stopped while a step prepares the master": (with_steps(master()), (ev.Prepared(), STOP)),
    "a cluster is stopped": (master(), (*RUNNING_MASTER, STOP, CHIEF, SERVER, *GONE)),
    "a cluster finishes": (master(), (*RUNNING_MASTER, ev.Exited("chief", OK, 2.0))),
    "all restore the same checkpoint": (
        with_policy(master(), **SAME),
        (
            ev.Replanned((), OLD),
            ev.Prepared(),
            joined("algo-2", holds=NEW),
            joined("algo-3", holds=NEW),
            ev.Replanned(("restore",)),
            ev.Prepared(),
            ev.Replanned((), NEW),
            ev.Exited("restore", OK, 2.0),
        ),
    ),
    "SIGKILL, again, in vain; and it ends after all": (
        master(),
        (
            *RUNNING_MASTER,
            STOP,
            NOW,
            ev.Signalled(signal.SIGTERM, 3.0),
            ev.Exited("ps", KILLED, 4.0),
            over(ev.Deadline.KILL),
            ev.Exited("chief", KILLED, 9.0, left=(4711,)),
            ev.Exited("chief", KILLED, 9.0),
        ),
    ),
    "a script that ignores its stop signal": (
        alone(),
        (*RUNNING_ALONE, STOP, over(ev.Deadline.GRACE), over(ev.Deadline.GROUP)),
    ),
    "its group obeys; the servers do not": (
        master(),
        (*RUNNING_MASTER, STOP, over(ev.Deadline.GRACE), CHIEF, over(ev.Deadline.GRACE)),
    ),
    "a member holds until the master's word": (
        member(),
        (*RUNNING_MEMBER, STOP, ENDED, ev.Exited("worker", TERMED, 3.0), SERVER),
    ),
    "a script starts anew and finishes": (
        going_on(alone(), "none"),
        (*RUNNING_ALONE, CRASH, ev.Readied(1), ev.Exited("chief", OK, 5.0)),
    ),
    "chief and servers start anew, and one more falls; stopped while they come down": (
        going_on(master(), "ps"),
        (
            *RUNNING_MASTER,
            told("algo-2", failure("algo-2")),
            CRASH,
            told("algo-3", failure("algo-3")),
            STOP,
        ),
    ),
    "stopped while a worker starts anew": (
        going_on(master(), "ps"),
        (*RUNNING_MASTER, told("algo-2", failure("algo-2")), STOP),
    ),
    "stopped while all is down": (
        going_on(master(), "ps"),
        (*RUNNING_MASTER, CRASH, ev.Exited("ps", TERMED, 2.0), STOP),
    ),
    "a member holds in vain": (member(), (*RUNNING_MEMBER, STOP, over(ev.Deadline.HOLD))),
}


def test_each_row_of_the_tables_is_stepped_through_in_some_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dead row would be an arrow in the guide that nothing ever follows."""
    seen: set[tuple[int, object, Trigger]] = set()
    climbed: set[tuple[Rung, Rung | None]] = set()
    climb, kill = ladder._climb, ladder.kill

    def noted(table: Mapping[Any, Any], now: Any, trigger: Trigger) -> Any:
        seen.add((id(table), now, trigger))
        return after(table, now, trigger)

    def climbs(state: State, rung: Rung, actions: list[ev.Action]) -> State:
        if state.phase is Phase.DRAINING:
            climbed.add((state.rung, rung))
        return climb(state, rung, actions)

    def kills(state: State, actions: list[ev.Action]) -> State:
        climbed.add((state.rung, None))
        return kill(state, actions)

    monkeypatch.setattr(moves, "after", noted)
    monkeypatch.setattr(ladder, "_climb", climbs)
    monkeypatch.setattr(ladder, "kill", kills)  # from a rung whose time is over
    for state, events in HISTORIES.values():
        play(state, events)
    for table in (PHASES, JOB, LIVES):
        rows = {(id(table), now, trigger) for now, trigger in table}
        assert rows <= seen, "dead rows"
    overs = {(rung, measure.over) for rung, measure in LADDER.items()}
    dones = {(rung, measure.done) for rung, measure in LADDER.items() if measure.done is not None}
    assert climbed == overs | dones | {(Rung.HOLD, Rung.HOLD)}


def test_a_step_that_no_row_allows_is_a_defect() -> None:
    with pytest.raises(AssertionError, match=r"no step leads on from .*DONE"):
        after(PHASES, Phase.DONE, Trigger.PREPARED)
    ended, _ = play(master(), [*RUNNING_MASTER, ev.Exited("ps", OK, 1.0)])
    with pytest.raises(AssertionError, match="ENDED"):
        step(ended, ev.Exited("ps", OK, 2.0))


def test_only_the_moves_change_what_the_tables_are_about() -> None:
    """A phase that is set elsewhere would be a step beside the table."""
    moving = {"enter", "advance", "hear", "live", "_climb"}
    for path in pathlib.Path(life.__path__[0]).glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name in moving:
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                    changes = {keyword.arg for keyword in call.keywords}
                    if call.func.id in {"replace", "with_process"}:
                        assert not changes & {"phase", "job", "rung", "life"}, function.name
