"""A master that is started anew while the job runs, and hosts that come back: over real sockets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

from supervisor.cluster.liveness import MasterState
from supervisor.cluster.protocol import JobDocument, JobIdentity
from supervisor.life import events as ev
from supervisor.life.attempts import EVERY, Kind, Order, Past, Scope
from supervisor.life.words import JobState, Phase
from supervisor.status.doors import Member
from tests.helpers.aio import until
from tests.helpers.cluster import CAUSE, Master, Told, free_port, link, master

PAST = (Past(1, Kind.CRASH, Scope.ALL, CAUSE, progressed=False),)
ORDER = Order(4, 2, Scope.ALL, (("algo-3", EVERY),), CAUSE, world=(0, 2))
TWO = (Member("algo-2", "127.0.0.1", 1), Member("algo-3", "127.0.0.1", 1))


def begin(it: Master) -> None:
    """The job runs, at its second attempt."""
    it.board.announce(JobState.RESTARTING, order=ORDER, past=PAST)
    it.board.announce(JobState.RUNNING, order=ORDER)


def heard(member: Told, state: JobState) -> bool:
    document = member.link.document
    return document is not None and document.state is state


RUNS = ev.Report(Phase.RUNNING, script_ended=False, cause=None, turn=4, attempt=2, ordered=4)


def test_a_master_that_was_started_anew_takes_the_run_up_that_its_members_follow() -> None:
    async def scenario() -> None:
        port = free_port()
        more: Any = {"lease_s": 3.0, "rejoins": True, "restarts": True}
        async with link(port, rejoins=True, lease_s=3.0) as member:
            async with master(port=port, run="run-1", **more) as first:
                begin(first)
                member.link.report(RUNS)
                await until(lambda: heard(member, JobState.RUNNING) and first.reports)
                revision = first.board.document.revision
            await until(lambda: member.of(ev.MasterLost))
            (lost,) = member.of(ev.MasterLost)
            assert (lost.how, lost.final) == ("crashed", False)
            assert member.link.state is MasterState.UNSEEN
            async with master(port=port, run="run-2", **more) as second:
                await until(lambda: second.reports)
                assert member.of(ev.MasterSeen)[-1] == ev.MasterSeen(bare=False)
                (host, report) = second.reports[0]
                assert (host, report.run, report.attempt, report.ordered) == (
                    "algo-2",
                    "run-1",
                    2,
                    4,
                )
                assert (report.world, [each.kind for each in report.past]) == ((0, 2), [Kind.CRASH])
                document = second.board.document
                assert (document.run, document.state) == ("run-1", JobState.JOINING)
                assert document.revision > revision
                second.board.announce(JobState.RESTARTING, order=ORDER._replace(turn=5, attempt=3))
                await until(lambda: heard(member, JobState.RESTARTING))
                assert not second.refused

    asyncio.run(scenario())


def test_one_that_comes_before_it_is_missed_is_told_as_well() -> None:
    async def scenario() -> None:
        port = free_port()
        async with link(port, rejoins=True, lease_s=30.0, refused_window_s=30.0) as member:
            async with master(port=port, run="run-1", rejoins=True, restarts=True) as first:
                begin(first)
                member.link.report(RUNS)
                await until(lambda: heard(member, JobState.RUNNING) and first.reports)
            async with master(port=port, run="run-2", rejoins=True) as second:
                await until(lambda: second.reports)
                assert second.reports[0][1].past == (_told(PAST[0]),)
            assert not member.of(ev.MasterLost)

    asyncio.run(scenario())


def _told(past: Past) -> Past:
    """As it travels."""
    return past._replace(cause=replace(past.cause, message="", detail="", exit=None))


def test_without_rejoining_another_run_is_the_end_of_a_member() -> None:
    async def scenario() -> None:
        port = free_port()
        async with link(port, lease_s=3.0) as member:
            async with master(port=port, run="run-1", lease_s=3.0) as first:
                begin(first)
                await until(lambda: heard(member, JobState.RUNNING))
            async with master(port=port, run="run-2", lease_s=3.0):
                await until(lambda: member.of(ev.MasterLost))
            assert member.of(ev.MasterLost)[-1].final

    asyncio.run(scenario())


def test_hosts_that_had_heard_of_the_new_run_follow_the_one_that_it_takes_up() -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            master(port=port, run="run-2", members=TWO, rejoins=True) as it,
            link(port, host="algo-3", rejoins=True) as fresh,
        ):
            fresh.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            await until(lambda: it.reports)
            async with link(port, host="algo-2", rejoins=True) as old:
                old.link._document = _of_run("run-1")
                old.link.report(RUNS)
                await until(lambda: len({host for host, _ in it.reports}) == 2)
                it.board.announce(JobState.RUNNING)
                for each in (fresh, old):
                    await until(partial(heard, each, JobState.RUNNING))
                    assert each.link.document is not None
                    assert each.link.document.run == "run-1"
                    assert not each.of(ev.MasterLost)
                assert not it.refused
                polls = it.server._counts["requests"]
                await asyncio.sleep(0.3)
                assert it.server._counts["requests"] <= polls + 4, "nobody asks in a circle"

    asyncio.run(scenario())


def _of_run(name: str) -> JobDocument:
    return JobDocument(name, 40, JobState.RUNNING, order=ORDER, restarts=True)


def test_a_supervisor_of_an_earlier_life_gives_way_to_one_that_was_started_in_its_place() -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            master(port=port, run="run-2", rejoins=True) as it,
            link(port, instance="old", rejoins=True, lease_s=4.0) as old,
        ):
            old.link._document = _of_run("run-1")
            old.link._liveness.bound = True
            old.link.report(RUNS)
            await until(lambda: it.reports)
            async with link(port, instance="new", rejoins=True) as new:
                new.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
                await until(lambda: it.reports[-1][1].instance == "new")
                await until(lambda: old.of(ev.MasterLost))
                (lost,) = old.of(ev.MasterLost)
                assert lost.final
                assert "another supervisor of algo-2 has taken its place" in lost.evidence
                assert it.lost, "what the old one had said is forgotten"

    asyncio.run(scenario())


def test_a_job_of_another_name_is_never_taken_up() -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            master(port=port, run="run-2", rejoins=True, job=JobIdentity("a", "x")) as it,
            link(port, rejoins=True, job=JobIdentity("b", "x")) as old,
        ):
            old.link._document = _of_run("run-1")
            old.link.report(RUNS)
            await until(lambda: it.refused or old.link.problem)
            assert it.board.document.run == "run-2"

    asyncio.run(scenario())


def test_a_host_comes_back_to_a_running_job_where_it_may() -> None:
    async def scenario() -> None:
        port = free_port()
        async with master(port=port, rejoins=True) as it:
            async with link(port, instance="first", rejoins=True, lease_s=4.0) as member:
                member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
                await until(lambda: it.reports)
                begin(it)
                await until(lambda: heard(member, JobState.RUNNING))
            async with link(port, instance="second", rejoins=True) as again:
                again.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
                await until(lambda: it.reports[-1][1].instance == "second")
                assert it.lost
                assert it.lost[0][0] == "algo-2"
                assert heard(again, JobState.RUNNING)
                again.link.report(ev.Report(Phase.DONE, script_ended=True, cause=None))
                assert await again.link.flush(5)
            async with link(port, instance="third", rejoins=True) as late:
                await until(lambda: late.of(ev.MasterLost))
                assert "the job runs" in late.of(ev.MasterLost)[0].evidence, "its part is done"

    asyncio.run(scenario())
