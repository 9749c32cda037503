"""Whom the master takes for a host of its job: the whole table, and what holds in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cluster.admission import Admission, Claim, Seat, admit, speaks_otherwise
from supervisor.cluster.protocol import VERSION, JobIdentity, Refusal, identify
from supervisor.life.words import JobState

HOSTS = ("algo-1", "algo-2", "algo-3")
JOB = identify("mnist", "algo-1", HOSTS)
ANEW = frozenset({JobState.JOINING, JobState.STOPPING, JobState.ENDED})
"""States in which a host that is gone may be replaced: nothing is begun with the new one."""


def claim(
    instance: str = "m-2", *, job: JobIdentity = JOB, run: str = "run-1", host: str = "algo-2"
) -> Claim:
    return Claim(host, instance, job, run)


def decide(
    seat: Seat,
    asked: Claim,
    *,
    state: JobState = JobState.JOINING,
    alive: bool = True,
    rejoins: bool = False,
) -> Admission:
    return admit(
        seat,
        asked,
        job=JOB,
        runs=frozenset({"run-1"}),
        earlier="",
        state=state,
        alive=alive,
        rejoins=rejoins,
    )


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("alive", [True, False])
def test_the_table(state: JobState, *, alive: bool) -> None:
    first, taken = Seat(), Seat("m-1", ("m-0",))
    rows = (
        (first, claim(), None, Seat("m-2")),
        (first, claim(run=""), None, Seat("m-2")),
        (taken, claim("m-1"), None, taken),
        (taken, claim("m-1", run="run-0"), Refusal.RUN, taken),
        (taken, claim("m-0"), Refusal.REPLACED, taken),
        (taken, claim(job=identify("other", "algo-1", HOSTS)), Refusal.JOB, taken),
        (taken, claim(job=identify("", "algo-1", HOSTS)), Refusal.JOB, taken),
        (taken, claim(job=identify("mnist", "algo-1", HOSTS[:2])), Refusal.CLUSTER, taken),
        (taken, claim(job=identify("mnist", "algo-3", HOSTS)), Refusal.CLUSTER, taken),
    )
    for seat, asked, refusal, after in rows:
        found = decide(seat, asked, state=state, alive=alive)
        assert (found.refusal, found.seat, found.lost) == (refusal, after, False)
        assert bool(found.text) == (refusal is not None)
    found = decide(taken, claim("m-2"), state=state, alive=alive)
    if alive:
        assert (found.refusal, found.seat, found.lost) == (Refusal.TAKEN, taken, False)
    elif state not in ANEW:
        assert (found.refusal, found.seat, found.lost) == (Refusal.RUNNING, taken, True)
    else:
        assert (found.refusal, found.lost) == (None, True)
        assert found.seat == Seat("m-2", ("m-0", "m-1"))


def test_both_versions_are_named_and_what_to_do() -> None:
    """Version 2 did not say its version in a poll."""
    assert speaks_otherwise("algo-2", VERSION) == ""
    for found, said in ((2, "version 2"), (5, "version 5"), (None, "version 2 or an older one")):
        assert speaks_otherwise("algo-2", found) == (
            f"algo-2 speaks {said} of the protocol between hosts, the master version 4: "
            "install the same supervisor on all hosts"
        )


def test_both_jobs_are_named() -> None:
    other = identify("job-B", "algo-1", HOSTS)
    assert decide(Seat(), claim(job=other)).text == (
        "algo-2 is of job job-B, the master of job mnist"
    )
    nameless = identify("", "algo-1", HOSTS)
    assert decide(Seat(), claim(job=nameless)).text == (
        "algo-2 is of a job without a name, the master of job mnist"
    )


def test_an_identity_is_of_the_name_and_the_hosts_in_any_order() -> None:
    """A host that follows a distribution may see its hosts in another order."""
    assert identify("mnist", "algo-1", reversed(HOSTS)) == JOB
    assert identify("mnist", "algo-1", ("algo-1", "algo-2,algo-3")) != JOB
    assert identify("", "algo-1", HOSTS) != JOB
    assert identify("", "algo-1", HOSTS) == identify("", "algo-1", HOSTS)


def test_of_many_replaced_supervisors_the_latest_are_remembered() -> None:
    seat = Seat()
    for number in range(40):
        seat = decide(seat, claim(f"m-{number}"), alive=False).seat
    assert seat.instance == "m-39"
    assert len(seat.former) == 8
    assert decide(seat, claim("m-38"), alive=False).refusal is Refusal.REPLACED


INSTANCES = st.sampled_from(["m-1", "m-2", "m-3"])


@given(
    st.lists(
        st.tuples(
            INSTANCES,
            st.sampled_from(["", "run-1", "run-0"]),
            st.sampled_from([JOB, identify("other", "algo-1", HOSTS)]),
            st.booleans(),
        ),
        max_size=30,
    ),
    st.integers(0, 30),
    st.sampled_from([JobState.RUNNING, JobState.RESTARTING]),
)
def test_laws_over_any_order(
    steps: list[tuple[str, str, JobIdentity, bool]], runs_after: int, running: JobState
) -> None:
    """One that is alive is never replaced; none that was replaced comes back; nobody of another
    job or run is taken; once the job runs every seat stays as it is."""
    seat = Seat()
    gone: set[str] = set()
    for number, (instance, run, job, alive) in enumerate(steps):
        state = running if number >= runs_after else JobState.JOINING
        found = decide(seat, claim(instance, run=run, job=job), state=state, alive=alive)
        taken = found.refusal is None
        assert taken == (found.seat.instance == instance and run != "run-0" and job == JOB)
        if found.seat.instance != seat.instance:
            assert taken
            assert not seat.instance or not alive
            assert not seat.instance or state is JobState.JOINING
            gone |= {seat.instance} - {""}
        assert not (taken and instance in gone)
        assert found.lost <= (not alive and bool(seat.instance) and instance != seat.instance)
        seat = found.seat
