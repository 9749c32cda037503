"""Whether training went on after faults: from steps that were told, and from checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.verbs.recovery import Hit, Record, Restart, Saved, Told, judge, restarts

KILL = Hit(9.9, "kill 1")


def record(told: list[tuple[float, int]], *saved: tuple[float, str]) -> Record:
    return Record([Told(*each) for each in told], [Saved(*each) for each in saved])


def restart(at: float, *, trains: bool = True) -> Restart:
    return Restart(at, at + 0.5, trains, "algo-1 worker: killed by SIGKILL")


def verdict(found: Record, *at: float, hits: tuple[Hit, ...] = (KILL,)) -> tuple[str, ...]:
    told = judge([(found, [restart(each) for each in at])], hits)
    assert told.good is not any("began" in line for line in told.lines)
    return told.lines


OLDER = "1 of them from an older one"
NOTHING = "nothing restores SUPERVISOR_CHECKPOINT_DIR"
BEFORE = [(0.0, 0), (2.0, 20), (4.0, 40), (9.0, 47)]
SAVED = ((2.1, "ckpt-20"), (4.1, "ckpt-40"))


@pytest.mark.parametrize(
    ("after", "line"),
    [
        ([(12.0, 40), (13.0, 41)], "resumed 1 of 1 from the last checkpoint, 7 steps done again"),
        ([(12.0, 46)], "resumed 1 of 1 from the last checkpoint, 1 step done again"),
        (
            [(12.0, 20)],
            f"resumed 1 of 1 from the last checkpoint, {OLDER}, 27 steps done again",
        ),
    ],
)
def test_training_that_went_on(after: list[tuple[float, int]], line: str) -> None:
    assert verdict(record(BEFORE + after, *SAVED), 10.0) == (line,)


def test_training_that_began_anew_is_told_with_what_did_it() -> None:
    assert verdict(record([*BEFORE, (12.0, 0)], *SAVED), 10.0) == (
        "resumed 0 of 1",
        f"began at step 0 after kill 1: {NOTHING}",
    )
    assert (
        "after algo-1 worker: killed by SIGKILL"
        in verdict(record([*BEFORE, (12.0, 1)], *SAVED), 10.0, hits=())[1]
    )


def test_a_script_that_tells_no_step_zero_begins_with_its_first_report() -> None:
    found = record([(2.0, 50), (4.0, 100), (12.0, 50)], (4.1, "ckpt-1"))
    assert verdict(found, 10.0)[1].startswith("began at step 0 after kill 1")


def test_several_restarts_each_have_their_own_time() -> None:
    told = [*BEFORE, (12.0, 40), (18.0, 60), (22.0, 0), (28.0, 30), (32.0, 20)]
    saved = (*SAVED, (18.1, "ckpt-60"), (26.0, "ckpt-20"))
    hits = (KILL, Hit(19.9, "kill 2"), Hit(29.9, "kill host 3"))
    lines = verdict(record(told, *saved), 10.0, 20.0, 30.0, hits=hits)
    assert lines[0].startswith("resumed 2 of 3 from the last checkpoint, 1 of them from an older")
    assert lines[0].endswith("17 steps done again")
    assert lines[1].startswith("began at step 0 after kill 2: ")


def test_before_the_first_checkpoint_there_is_nothing_to_go_on_from() -> None:
    assert verdict(record([(0.0, 0), (9.0, 9), (12.0, 0)]), 10.0) == (
        "1 restart before the first checkpoint",
    )


def test_what_came_to_no_step_any_more() -> None:
    assert verdict(record(BEFORE, *SAVED), 10.0) == ("1 restart ended before a step was told",)


def test_a_process_beside_the_training_costs_no_step() -> None:
    told = judge([(record(BEFORE), [restart(5.0, trains=False)] * 2)], [KILL])
    assert told.lines == ("a process came back beside the training 2 times: no step lost",)


def test_nothing_had_to_start_anew() -> None:
    assert verdict(record(BEFORE)) == ("nothing had to start anew",)


@pytest.mark.parametrize(
    ("saved", "line"),
    [
        ([(5.0, "ckpt-3"), (15.0, "ckpt-4")], "resumed 1 of 1 from the last checkpoint"),
        (
            [(5.0, "ckpt-3"), (15.0, "ckpt-1")],
            f"began at step 0 after kill 1: {NOTHING}",
        ),
        ([(15.0, "ckpt-1")], "1 restart before the first checkpoint"),
        (
            [(5.0, "ckpt-3")],
            "cannot tell of 1 restart: the script tells no step (SUPERVISOR_PROGRESS_FILE)",
        ),
        (
            [(5.0, "weights"), (15.0, "weights")],
            "cannot tell of 1 restart: the script tells no step (SUPERVISOR_PROGRESS_FILE)",
        ),
        ([], "cannot tell of 1 restart: the script tells no step (SUPERVISOR_PROGRESS_FILE)"),
    ],
)
def test_a_script_that_tells_no_step(saved: list[tuple[float, str]], line: str) -> None:
    assert verdict(record([], *saved), 10.0)[-1] == line


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000))),
    st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["ckpt-1", "ckpt-20", "x"]))),
    st.lists(st.floats(0, 100)),
)
def test_every_restart_is_counted_once(
    told: list[tuple[float, int]], saved: list[tuple[float, str]], at: list[float]
) -> None:
    found = record(sorted(told), *sorted(saved))
    lines = judge([(found, [restart(each) for each in sorted(at)])], [KILL]).lines
    assert lines
    counts = [int(word) for line in lines for word in line.split() if word.isdigit()]
    text = "\n".join(lines)
    judged = int(text.partition(" of ")[2].split()[0]) if "resumed" in lines[0] else 0
    rest = [line for line in lines if "restart" in line]
    others = [int(w) for line in rest for w in line.split() if w.isdigit()]
    assert judged + sum(others) == len(at)
    assert all(count >= 0 for count in counts)


def row(number: int, began: float | None, ended: float | None, **more: Any) -> dict[str, Any]:
    cause = {"host": "algo-2", "process": "worker", "message": "killed; exit -9"}
    return {"attempt": number, "began_at": began, "ended_at": ended, "cause": cause, **more}


def test_attempts_are_taken_from_whoever_knows_them() -> None:
    """A master that was started anew knows of the earlier ones that there were."""
    lost = row(1, None, 10.0, scope="all", kind="lost host")
    one = {"attempts": [lost, row(2, None, 20.0, scope="alone", kind="crash"), row(3, 21.0, None)]}
    two = {"attempts": [row(1, 0.0, 10.1, scope="all"), row(2, 11.0, 20.1), row(4, None, None)]}
    found = restarts({"algo-1": one, "algo-2": two}, alone_trains=False)
    assert found == [
        Restart(10.0, 11.0, True, "algo-2 worker: killed"),
        Restart(20.0, 21.0, False, "algo-2 worker: killed"),
    ]
    assert restarts({"algo-1": one}, alone_trains=True)[0].trains
    assert restarts({"algo-1": {"attempts": "x"}}, alone_trains=False) == []
