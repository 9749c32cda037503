"""Liveness as tables of observations, and its laws over any order of them."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cluster.liveness import (
    ActiveClock,
    Answered,
    ChiefOpen,
    ChiefRefused,
    ChiefSilent,
    Denied,
    Ended,
    Finding,
    How,
    Lost,
    MasterLiveness,
    MasterState,
    MemberState,
    MemberWatch,
    NoAnswer,
    Observation,
    Refused,
    Rejected,
    Renewed,
    Seen,
    Tick,
)
from supervisor.life.words import JobState

UP = Answered(JobState.RUNNING, "run-1")
NO = Refused("algo-1:2224 refuses connections")
SILENT = NoAnswer("algo-1:2224: no answer in 5 s")
STOPPED = NoAnswer("algo-1:2224: no answer in 5 s", connected=True)
DENIED = Denied("algo-1:2224 answered 403 (no)")
NOT_NOW = Rejected("algo-1:2224: algo-2 is of another job", final=False)
NEVER = Rejected("algo-1:2224: another supervisor has taken its place", final=True)
JOINING = Answered(JobState.JOINING, "run-1")
CHIEF_NO = ChiefRefused("algo-1:2222 refuses connections")
CHIEF_SILENT = ChiefSilent("algo-1:2222: no answer")


def liveness() -> MasterLiveness:
    return MasterLiveness(lease_s=30, refused_count=3, refused_window_s=1, bare_after_s=10)


@dataclass(frozen=True)
class History:
    name: str
    """What happened, as the specification says it."""
    observed: tuple[tuple[float, Observation], ...]
    findings: tuple[str, ...]
    state: MasterState


HISTORIES = (
    History(
        "no answer during start-up is unseen, however long",
        tuple((float(t), NO if t % 2 else SILENT) for t in range(0, 3600, 7)),
        (),
        MasterState.UNSEEN,
    ),
    History(
        "an answer is seen once",
        ((0, SILENT), (1, UP), (2, UP)),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "a protocol error from a live port is up",
        ((0, Answered(None)), (20, Answered(None)), (40, Answered(None)), (69, Tick())),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "refused several times over the window after an answer is a crash",
        ((0, UP), (5, NO), (5.5, NO), (6.1, NO), (6.2, NO)),
        ("seen", "crashed"),
        MasterState.LOST,
    ),
    History(
        "refused several times within an instant is not yet a crash",
        ((0, UP), (5, NO), (5.1, NO), (5.2, NO), (5.3, NO), (5.4, UP)),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "refused too few times is not a crash",
        ((0, UP), (5, NO), (9, NO), (9.5, UP), (10, NO), (20, NO), (21, UP)),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "before the job runs, a crash may be taken back by another run, or by the same",
        (
            *((0, JOINING), (1, NO), (2, NO), (3, NO), (60, NO), (99, SILENT)),
            *((100, Answered(JobState.JOINING, "run-2")), (131, Tick()), (140, JOINING)),
        ),
        ("seen", "crashed", "seen", "unreachable", "seen"),
        MasterState.UP,
    ),
    History(
        "an open chief's port is no bare master where a status port has ever answered",
        ((0, JOINING), (1, NO), (2, NO), (3, NO), (9, ChiefOpen()), (99, ChiefOpen())),
        ("seen", "crashed"),
        MasterState.UNSEEN,
    ),
    History(
        "another run while the hosts join is the master, started anew",
        ((0, JOINING), (5, Answered(JobState.JOINING, "run-2"))),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "another run while the job runs is a loss",
        ((0, UP), (5, Answered(JobState.JOINING, "run-2")), (6, UP)),
        ("seen", "restarted"),
        MasterState.LOST,
    ),
    History(
        "a refusal of what follows an earlier run says the same",
        ((0, JOINING), (2, Renewed()), (3, UP), (5, Renewed()), (6, UP)),
        ("seen", "restarted"),
        MasterState.LOST,
    ),
    History(
        "another run while the job is stopped is a loss too",
        ((0, Answered(JobState.STOPPING, "run-1")), (5, Answered(JobState.RUNNING, "run-2"))),
        ("seen", "restarted"),
        MasterState.LOST,
    ),
    History(
        "a master that does not take us is waited for as long as silence is",
        ((0, NOT_NOW), (15, NOT_NOW), (29, NOT_NOW), (29.5, JOINING), (59, NOT_NOW), (89, Tick())),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "and no longer",
        ((0, NOT_NOW), (20, NOT_NOW), (40, NOT_NOW), (45.1, NOT_NOW), (46, JOINING)),
        ("seen", "refuses this host"),
        MasterState.LOST,
    ),
    History(
        "in a running job the silence of the true one decides, and the reason is said",
        ((0, UP), (10, NOT_NOW), (20, NOT_NOW), (30, NOT_NOW), (30.1, Tick())),
        ("seen", "refuses this host"),
        MasterState.LOST,
    ),
    History(
        "before that, silence after a refusal is silence, and a new master takes us",
        ((0, NOT_NOW), (31, Tick()), (99, Answered(JobState.JOINING, "run-2"))),
        ("seen", "unreachable", "seen"),
        MasterState.UP,
    ),
    History(
        "one that will never take us is not waited for",
        ((0, JOINING), (1, NEVER), (2, JOINING)),
        ("seen", "refuses this host"),
        MasterState.LOST,
    ),
    History(
        "one that does not take us is no bare master, whatever its chief's port says",
        ((0, NOT_NOW), (1, ChiefOpen()), (12, ChiefOpen()), (15, NOT_NOW), (20, ChiefOpen())),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "in a running job somebody who does not know us is no sign of its life",
        ((0, UP), *((float(t), DENIED) for t in range(5, 35, 5)), (31, DENIED)),
        ("seen", "unreachable"),
        MasterState.LOST,
    ),
    History(
        "before that it is a master that cannot know us yet",
        tuple((float(t), DENIED) for t in range(0, 3600, 7)),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "a stopped master takes connections: neither crashed nor dead before the lease",
        ((0, UP), (5, STOPPED), (11, STOPPED), (17, STOPPED), (20, UP)),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "silence for the lease is not yet a loss, beyond it is",
        ((0, UP), (10, SILENT), (30, Tick()), (30.1, Tick()), (31, Tick())),
        ("seen", "unreachable"),
        MasterState.LOST,
    ),
    History(
        "a name that stops resolving is silence",
        ((0, UP), *((float(t), NoAnswer("DNS: algo-1: no such name")) for t in range(1, 30))),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "refusals count across silent attempts",
        ((0, UP), (1, NO), (2, SILENT), (8, NO), (9, SILENT), (15, NO)),
        ("seen", "crashed"),
        MasterState.LOST,
    ),
    History(
        "a master that stops the job and then crashes has crashed",
        ((0, UP), (1, Answered(JobState.STOPPING, "run-1")), (2, NO), (3, NO), (4, NO)),
        ("seen", "crashed"),
        MasterState.LOST,
    ),
    History(
        "after the verdict nothing is a loss any more",
        ((0, UP), (1, Answered(JobState.ENDED, "run-1")), (2, NO), (3, NO), (4, NO), (99, Tick())),
        ("seen",),
        MasterState.ENDED,
    ),
    History(
        "the first answer may be the verdict",
        ((0, NO), (60, Answered(JobState.ENDED, "run-1")), (61, NO), (62, NO), (63, NO)),
        ("seen",),
        MasterState.ENDED,
    ),
    History(
        "a loss is final, whatever comes later",
        ((0, UP), (31, Tick()), (32, UP), (33, NO), (34, NO), (35, NO), (99, Tick())),
        ("seen", "unreachable"),
        MasterState.LOST,
    ),
    History(
        "an open chief's port alone is a bare master, but not at once",
        ((0, NO), (1, ChiefOpen()), (6, NO), (10.9, ChiefOpen()), (11, ChiefOpen())),
        ("bare",),
        MasterState.BARE,
    ),
    History(
        "not while the status port takes connections",
        ((0, ChiefOpen()), (5, STOPPED), (11, ChiefOpen()), (20, ChiefOpen()), (20.5, STOPPED)),
        (),
        MasterState.UNSEEN,
    ),
    History(
        "not once the status port has answered",
        ((0, UP), (1, ChiefOpen()), (12, ChiefOpen()), (20, UP)),
        ("seen",),
        MasterState.UP,
    ),
    History(
        "a bare master whose port closes has ended",
        ((0, ChiefOpen()), (10, ChiefOpen()), (11, CHIEF_NO), (11.5, CHIEF_NO), (12, CHIEF_NO)),
        ("bare", "ended"),
        MasterState.ENDED,
    ),
    History(
        "one refused connection to a bare master's port is not its end",
        ((0, ChiefOpen()), (10, ChiefOpen()), (11, CHIEF_NO), (12, ChiefOpen()), (13, CHIEF_NO)),
        ("bare",),
        MasterState.BARE,
    ),
    History(
        "a bare master that falls silent is unreachable after the lease",
        (
            (0, ChiefOpen()),
            (10, ChiefOpen()),
            (20, CHIEF_SILENT),
            (40, CHIEF_SILENT),
            (40.1, CHIEF_SILENT),
        ),
        ("bare", "unreachable"),
        MasterState.LOST,
    ),
    History(
        "a bare master's refused status port proves nothing",
        ((0, ChiefOpen()), (10, ChiefOpen()), (11, NO), (12, NO), (13, NO), (14, NO)),
        ("bare",),
        MasterState.BARE,
    ),
    History(
        "a status port that answers late makes a bare master a full one",
        ((0, ChiefOpen()), (10, ChiefOpen()), (11, UP), (12, CHIEF_NO), (14, CHIEF_NO)),
        ("bare", "seen"),
        MasterState.UP,
    ),
    History(
        "a chief's port that closes before it counted leaves the master unseen",
        ((0, ChiefOpen()), (5, CHIEF_NO), (6, ChiefOpen()), (15, ChiefOpen())),
        (),
        MasterState.UNSEEN,
    ),
)


def word(finding: Finding) -> str:
    match finding:
        case Seen(bare):
            return "bare" if bare else "seen"
        case Lost(how, _):
            return how.value
        case Ended():
            return "ended"


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.name)
def test_history(history: History) -> None:
    it = liveness()
    found = [it.observe(observation, at) for at, observation in history.observed]
    assert tuple(word(finding) for finding in found if finding) == history.findings
    assert it.state is history.state


def test_evidence_says_what_was_seen() -> None:
    it = liveness()
    it.observe(UP, 0)
    it.observe(NO, 5)
    it.observe(NO, 6)
    assert it.observe(NO, 7) == Lost(
        How.CRASHED, "algo-1:2224 refuses connections: 3 connections refused in a row"
    )
    it = liveness()
    it.observe(UP, 0)
    it.observe(SILENT, 12)
    assert it.observe(Tick(), 31) == Lost(
        How.UNREACHABLE, "no answer for 31 s (algo-1:2224: no answer in 5 s)"
    )


OBSERVATIONS = st.sampled_from(
    [
        Renewed(),
        UP,
        Answered(None),
        Answered(JobState.STOPPING, "run-1"),
        Answered(JobState.ENDED, "run-1"),
        NO,
        SILENT,
        STOPPED,
        ChiefOpen(),
        CHIEF_NO,
        CHIEF_SILENT,
        Tick(),
        Answered(JobState.JOINING, "run-1"),
        Answered(JobState.JOINING, "run-2"),
        Answered(JobState.RUNNING, "run-2"),
        DENIED,
        NOT_NOW,
        NEVER,
    ]
)


@given(st.lists(st.tuples(st.floats(0, 20), OBSERVATIONS), max_size=60))
def test_laws_over_any_order(steps: list[tuple[float, Observation]]) -> None:
    """Nothing is lost that was not seen, and nothing seen twice without a loss; the last word is
    final; a loss may be taken back as long as the job has not begun, and once it has, only its own
    run counts; a crash needs the refusals, and unreachable the silence, that define them."""
    it = liveness()
    now, last_sign, refusals = 0.0, 0.0, 0
    seen, bare, begun = False, False, False
    for pause_s, observation in steps:
        now += pause_s
        before = it.state
        final_before = it.state if it.final else None
        run_before = it.run if it.bound else ""
        finding = it.observe(observation, now)
        if final_before is not None:
            assert finding is None
            assert it.state is final_before
            continue
        ours = not run_before or (
            getattr(observation, "run", run_before) in {run_before, ""}
            and not isinstance(observation, Renewed)
        )
        answered = isinstance(observation, Answered | Renewed) and ours
        if answered or (isinstance(observation, Denied) and not begun):
            last_sign, refusals = now, 0
        elif isinstance(observation, Refused):
            refusals += 1
        if isinstance(observation, Answered) and observation.state not in {None, JobState.JOINING}:
            begun = True
        match finding:
            case Seen(is_bare):
                assert not seen
                assert not (is_bare and bare)
                seen, bare = not is_bare, bare or is_bare
                begun = begun or is_bare
            case Lost(how, _, final):
                assert seen or bare or how is How.REFUSES
                assert final == (begun or how is How.REFUSES)
                assert it.state is (MasterState.LOST if final else MasterState.UNSEEN)
                if how is How.CRASHED:
                    assert refusals >= 3
                elif how is How.UNREACHABLE:
                    assert now - last_sign > 30 or before is MasterState.BARE
                elif how is How.RESTARTED:
                    assert run_before
                    assert not ours
                seen, refusals = False, 0
            case _:
                pass
        if isinstance(observation, Rejected) and not begun and finding is None:
            last_sign, refusals, seen = now, 0, True
        elif isinstance(observation, Rejected) and finding == Seen(bare=False):
            last_sign, refusals = now, 0


@given(st.lists(st.floats(0.1, 29.9), min_size=1, max_size=40))
def test_answers_within_the_lease_are_never_a_loss(pauses: list[float]) -> None:
    it = liveness()
    now = 0.0
    it.observe(UP, now)
    for pause_s in pauses:
        assert it.observe(Tick(), now + pause_s) is None
        now += pause_s
        assert it.observe(UP, now) is None
    assert it.state is MasterState.UP


# --------------------------------------------------------------------------- our own sleep


def test_our_own_suspension_is_not_silence() -> None:
    """Stopped for an hour between two turns of the loop, a member owes its master nothing."""
    clock = ActiveClock(100.0, max_step_s=2)
    it = liveness()
    it.observe(UP, clock.advance(100.5))
    assert it.observe(Tick(), clock.advance(3700.0)) is None
    assert it.silence_s(clock.advance(3700.0)) == 2.0
    for turn in range(56):
        assert it.observe(Tick(), clock.advance(3700.5 + turn / 2)) is None
    assert isinstance(it.observe(Tick(), clock.advance(3728.5)), Lost)


def test_a_clock_that_goes_back_stands_still() -> None:
    clock = ActiveClock(100.0, max_step_s=2)
    assert clock.advance(101.0) == 1.0
    assert clock.advance(50.0) == 1.0
    assert clock.advance(51.0) == 2.0


# --------------------------------------------------------------------------- members


def watch() -> MemberWatch:
    return MemberWatch(["algo-2", "algo-3"], lease_s=30, refused_count=3, refused_window_s=1)


def test_members_that_never_joined_are_not_watched() -> None:
    it = watch()
    assert it.tick(10_000) == []
    assert it.refused("algo-2", "refused", 10_000) is None
    assert it.state("algo-2") is MemberState.UNSEEN
    assert it.silence_s("algo-2", 10_000) is None


def test_a_silent_member_is_lost_once_and_the_other_is_not() -> None:
    it = watch()
    assert it.signed("algo-2", 0)
    assert it.signed("algo-3", 0)
    assert not it.signed("algo-3", 20)
    assert it.tick(30) == []
    assert it.tick(31) == [("algo-2", Lost(How.UNREACHABLE, "nothing heard for 31 s"))]
    assert it.tick(32) == []
    assert it.state("algo-3") is MemberState.UP


def test_a_lost_member_that_comes_back_is_watched_again() -> None:
    it = watch()
    it.signed("algo-2", 0)
    assert len(it.tick(31)) == 1
    it.signed("algo-2", 40)
    assert it.state("algo-2") is MemberState.UP
    assert it.tick(70) == []
    assert len(it.tick(71)) == 1


def test_a_member_that_said_done_may_leave() -> None:
    it = watch()
    it.signed("algo-2", 0)
    it.opened("algo-2")
    it.done("algo-2")
    it.signed("algo-2", 1)
    for at in (2, 3, 4, 5):
        assert it.refused("algo-2", "refused", at) is None
    assert it.tick(1000) == []
    assert it.replaced("algo-2", 1000) is None
    assert len(it.tick(1031)) == 1


def test_a_member_that_had_opened_and_refuses_has_crashed() -> None:
    it = watch()
    it.signed("algo-2", 0)
    it.opened("algo-2")
    assert it.refused("algo-2", "algo-2:2224 refuses connections", 1) is None
    assert it.refused("algo-2", "algo-2:2224 refuses connections", 1.5) is None
    assert it.refused("algo-2", "algo-2:2224 refuses connections", 2) == Lost(
        How.CRASHED, "algo-2:2224 refuses connections: 3 connections refused in a row"
    )
    assert it.refused("algo-2", "algo-2:2224 refuses connections", 3) is None
    assert it.tick(1000) == []


def test_a_member_that_was_started_anew_is_watched_as_a_new_one() -> None:
    it = watch()
    it.signed("algo-2", 0)
    it.opened("algo-2")
    it.refused("algo-2", "refused", 1)
    it.refused("algo-2", "refused", 2)
    assert it.replaced("algo-2", 2.5) == Lost(How.RESTARTED, "its supervisor was started anew")
    for at in (3, 4, 5):
        assert it.refused("algo-2", "refused", at) is None, "its port has not opened yet"
    assert it.tick(32) == []
    assert len(it.tick(33)) == 1
    assert it.replaced("algo-2", 34) is None, "lost already"


def test_a_member_whose_place_another_one_wants_is_given_up_once() -> None:
    it = watch()
    assert it.given_up("algo-2") is None
    it.signed("algo-2", 0)
    lost = it.given_up("algo-2")
    assert lost == Lost(How.RESTARTED, "its supervisor was started anew while the job ran")
    assert it.given_up("algo-2") is None
    assert it.tick(100) == []
    it.signed("algo-3", 0)
    it.done("algo-3")
    assert it.given_up("algo-3") is None


def test_a_member_whose_port_never_opened_to_us_cannot_be_proven_crashed() -> None:
    """It may serve its status on loopback only."""
    it = watch()
    it.signed("algo-2", 0)
    for at in (1, 2, 3, 4):
        assert it.refused("algo-2", "refused", at) is None
    assert it.state("algo-2") is MemberState.UP


def test_a_sign_of_life_clears_refusals() -> None:
    it = watch()
    it.signed("algo-2", 0)
    it.opened("algo-2")
    it.refused("algo-2", "refused", 1)
    it.refused("algo-2", "refused", 2)
    it.signed("algo-2", 2.5)
    assert it.refused("algo-2", "refused", 3) is None
    it.opened("algo-2")
    assert it.refused("algo-2", "refused", 9) is None
