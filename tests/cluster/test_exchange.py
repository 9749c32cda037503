"""One member and its master, over a real socket: the whole exchange of a job."""

import asyncio

from supervisor.cluster.liveness import MasterState, MemberState
from supervisor.life import events as ev
from supervisor.life.words import JobState, Phase
from tests.helpers.aio import until
from tests.helpers.cluster import CAUSE, VERDICT, link, master


def test_a_job_from_joining_to_its_verdict() -> None:
    """A member joins, reports a failure, hears the verdict and acknowledges it by being done."""

    async def scenario() -> None:
        async with master() as chief, link(chief.server.port) as member:
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            await until(lambda: chief.reports)
            assert chief.server.members.peers()[0].state is MemberState.UP
            assert member.events[0] == ev.MasterSeen(bare=False)
            assert member.events[1] == ev.JobChanged(JobState.JOINING, None, ("algo-2",))

            chief.board.announce(JobState.RUNNING)
            await until(lambda: member.events[-1] == ev.JobChanged(JobState.RUNNING, None))

            member.link.report(ev.Report(Phase.DRAINING, script_ended=True, cause=CAUSE))
            assert await member.link.flush(5)
            assert chief.reports[-1][1].cause == CAUSE

            revision = chief.board.announce(JobState.ENDED, VERDICT)
            await until(lambda: member.events[-1] == ev.JobChanged(JobState.ENDED, VERDICT))
            await until(lambda: chief.server.members.peers()[0].heard == revision)
            assert member.link.state is MasterState.ENDED

            member.link.report(ev.Report(Phase.DONE, script_ended=True, cause=CAUSE))
            assert await member.link.flush(5)
            assert chief.server.members.peers()[0].state is MemberState.DONE
            assert [report.phase for _, report in chief.reports] == [
                Phase.JOINING,
                Phase.DRAINING,
                Phase.DONE,
            ]
            assert chief.errors == []

    asyncio.run(scenario())
