"""Blows to whole jobs: a few of those that ``benchmarks/bench_blows.py`` deals by the hundred, and
its oracle, which must take what is right and nothing else."""

from __future__ import annotations

import pathlib
import signal
from dataclasses import replace

import pytest

from tests.helpers.blown import Run
from tests.helpers.blows import (
    Blow,
    Dealt,
    Ended,
    Kind,
    Manner,
    Seen,
    Target,
    Trial,
    When,
    draw,
)
from tests.helpers.oracle import judge

KILL, TERM, STOP = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP
AT = 1_700_000_000.0


def trial(*blows: Blow, kind: Kind = Kind.PLAIN, hosts: int = 2, **more: object) -> Trial:
    given: dict[str, object] = {
        "seed": 0,
        "index": 0,
        "kind": kind,
        "hosts": tuple(f"algo-{number}" for number in range(1, hosts + 1)),
        "manner": Manner.SAVES,
        "script_s": 4.0,
        "save_s": 0.2,
        "stagger_s": (0.0,) * hosts,
        "tolerated": 0,
        "hang_s": 0.0,
        "blows": blows,
    }
    return Trial(**{**given, **more})  # type: ignore[arg-type]


def blow(target: Target, host: str, signum: int, after_s: float = 0.3, **more: object) -> Blow:
    return Blow(target, host, signum, When.RUNNING, after_s, **more)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- real jobs

DEALT = {
    "a script": trial(blow(Target.SCRIPT, "algo-2", KILL)),
    "the child of a wrapper": trial(
        blow(Target.CHILD, "algo-1", KILL), kind=Kind.ALONE, hosts=1, manner=Manner.WRAPPED
    ),
    "the master": trial(blow(Target.SUPERVISOR, "algo-1", KILL)),
    "a member": trial(blow(Target.SUPERVISOR, "algo-2", KILL)),
    "a member, stopped": trial(
        blow(Target.SUPERVISOR, "algo-2", STOP), kind=Kind.MWMS, script_s=9.0
    ),
    "a member that is asked to stop": trial(blow(Target.SUPERVISOR, "algo-2", TERM)),
    "the guardian": trial(
        blow(Target.GUARDIAN, "algo-1", KILL), kind=Kind.ALONE, hosts=1, script_s=1.0
    ),
    "what sends checkpoints": trial(
        blow(Target.SYNC, "algo-1", KILL), kind=Kind.KEPT, hosts=1, script_s=1.0
    ),
    "a member and its master, as one": trial(
        blow(Target.SUPERVISOR, "algo-2", KILL),
        Blow(Target.SUPERVISOR, "algo-1", TERM, When.BLOW, 0.1),
    ),
}


@pytest.mark.twice
@pytest.mark.parametrize("name", DEALT)
def test_a_blow_ends_a_job_as_it_must(tmp_path: pathlib.Path, name: str) -> None:
    """In bounded time, with nothing left, and with the right code and cause on every host."""
    with Run(DEALT[name], tmp_path / "run") as run:
        assert run.perform(patience=3.0) == [], run
        assert run.dealt, "the job was over before the blow"


# --------------------------------------------------------------------------- the oracle

KILLED = Ended("script_failed", "algo-2", "worker", "killed by SIGKILL after 0.3 s")
LOST = Ended("member_lost", "algo-2", None, "lost: connection refused: 4 connections refused")
FINISHED = Ended("finished", "algo-1", "chief", "finished, exit 0")


def failed(name: str, code: int, cause: Ended) -> Seen:
    return Seen(
        name=name,
        code=code,
        report_code=code,
        cause=cause,
        failure=f"stopped because {cause.host} {cause.process or ''} failed: {cause.message}",
        spawned_at=AT - 2,
        up_at=AT - 1.5,
        joined_at=None if name == "algo-1" else AT - 1,
        began_at=AT - 0.5,
        ending_at=AT + 0.2,
        ended_at=AT + 0.6,
        script_code=0,
    )


def finished(name: str) -> Seen:
    ended = replace(failed(name, 0, FINISHED), failure=None, success=True)
    return replace(ended, finished_at=AT + 2, ending_at=AT + 2.1, ended_at=AT + 2.2)


def verdict(given: Trial, *seen: Seen) -> list[str]:
    dealt = [Dealt(each, AT, "running") for each in given.blows]
    return judge(given, dealt, {each.name: each for each in seen})


def test_the_oracle_takes_what_is_right() -> None:
    script = trial(blow(Target.SCRIPT, "algo-2", KILL))
    assert verdict(script, failed("algo-1", 84, KILLED), failed("algo-2", 137, KILLED)) == []
    member = trial(blow(Target.SUPERVISOR, "algo-2", KILL))
    gone = Seen("algo-2", code=-9, joined_at=AT - 1)
    assert verdict(member, failed("algo-1", 84, LOST), gone) == []
    guardian = trial(blow(Target.GUARDIAN, "algo-2", KILL))
    assert verdict(guardian, finished("algo-1"), finished("algo-2")) == []


def test_the_oracle_refuses_a_wrong_end() -> None:
    script = trial(blow(Target.SCRIPT, "algo-2", KILL))
    right = (failed("algo-1", 84, KILLED), failed("algo-2", 137, KILLED))
    master, member = right

    def wrong(master: Seen = master, member: Seen = member) -> str:
        return "\n".join(verdict(script, master, member))

    assert wrong() == ""
    assert "not over in time" in wrong(member=replace(member, code=None))
    assert "right is [137]" in wrong(member=failed("algo-2", 1, KILLED))
    assert "right is [84]" in wrong(master=failed("algo-1", 137, KILLED))
    assert "ended by member_lost" in wrong(master=failed("algo-1", 84, LOST))
    blames_the_victim = replace(KILLED, host="algo-1", process="chief")
    assert "ended by script_failed (algo-1" in wrong(
        failed("algo-1", 137, blames_the_victim), failed("algo-2", 84, blames_the_victim)
    )
    other_words = failed("algo-1", 84, replace(KILLED, message="killed by SIGKILL after 9 s"))
    assert "do not agree" in wrong(master=other_words)
    assert "without a failure file" in wrong(master=replace(master, failure=None))
    assert "does not name" in wrong(master=replace(master, failure="something failed"))
    assert "no report" in wrong(master=replace(master, cause=None))
    assert "left behind: process 7" in wrong(member=replace(member, left=("process 7",)))
    assert "to the end" in wrong(master=replace(master, ended_at=AT + 30))
    late = (replace(each, ending_at=AT + 9, ended_at=AT + 9.1) for each in right)
    assert "to the job's ending" in wrong(*late)
    assert "ended by finished" in wrong(finished("algo-1"), finished("algo-2"))


def test_the_oracle_of_a_stop_wants_the_chiefs_answer() -> None:
    """Exit 0 is right only where the chief left with 0, and had begun."""
    asked = trial(blow(Target.SUPERVISOR, "algo-2", TERM))
    cause = Ended("stop_requested", "algo-2", None, "received SIGTERM")

    def stopped(code: int, script_code: int | None) -> list[str]:
        hosts = [
            replace(
                failed(name, code, cause),
                saved=True,
                script_code=script_code,
                began_at=None if script_code is None else AT - 0.5,
                failure=None if code == 0 else "stopped: algo-2: received SIGTERM",
            )
            for name in asked.hosts
        ]
        return verdict(asked, *hosts)

    assert stopped(0, 0) == []
    assert stopped(143, None) == []
    assert any("right is [143]" in each for each in stopped(0, None))
    assert any("right is [0]" in each for each in stopped(137, 137))


def test_a_trial_is_the_same_whenever_it_is_drawn() -> None:
    kinds = tuple(Kind)
    drawn = [draw(7, index, kinds) for index in range(200)]
    assert drawn == [draw(7, index, kinds) for index in range(200)]
    targets = {each.target for one in drawn for each in one.blows}
    assert targets == set(Target)
    assert {len(each.hosts) for each in drawn} == {1, 2, 3}
