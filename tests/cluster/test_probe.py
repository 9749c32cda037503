"""A member's link to its master, through real sockets, bad networks and real deaths."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supervisor.cluster.liveness import How, MasterState, MemberState
from supervisor.cluster.net import Knock, NoAddress, Resolver, knock
from supervisor.cluster.protocol import identify
from supervisor.life import events as ev
from supervisor.life.attempts import Order, Scope
from supervisor.life.words import JobState, Phase
from supervisor.status.doors import Member
from tests.helpers.aio import free_port, until
from tests.helpers.cluster import CAUSE, VERDICT, link, master
from tests.helpers.hosts import process
from tests.helpers.proxy import proxy

HOSTS = ("algo-1", "algo-2")
PATIENT: dict[str, Any] = {"refused_count": 60, "refused_window_s": 6.0}
"""A port that closes for a moment is no crash, and is soon tried again."""


async def pass_time(seconds: float) -> None:
    """Let a policy's time go by; what must not happen in it is asserted afterwards."""
    end = time.monotonic() + seconds
    await until(lambda: time.monotonic() >= end, seconds + 10)


@asynccontextmanager
async def listener(answer: bytes | None, port: int = 0) -> AsyncIterator[int]:
    """A server that is no supervisor: sends ``answer`` to everybody, or with None nothing."""
    taken: set[asyncio.Transport] = set()

    class Visit(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            taken.add(transport)

        def data_received(self, data: bytes) -> None:  # noqa: ARG002
            if answer is not None:
                self.transport.write(answer)
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
            taken.discard(self.transport)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Visit, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in taken:
            transport.abort()
        await until(lambda: not taken)


# --------------------------------------------------------------------------- start-up


def test_no_answer_during_start_up_is_unseen_and_then_it_joins() -> None:
    async def scenario() -> None:
        port = free_port()
        async with link(port, lease_s=0.4) as member:
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            await pass_time(1.0)
            assert member.events == []
            assert member.link.state is MasterState.UNSEEN
            assert "refuses connections" in member.link.evidence
            async with master(port=port) as it:
                await until(lambda: it.reports)
                assert member.events[0] == ev.MasterSeen(bare=False)

    asyncio.run(scenario())


def test_a_name_that_does_not_resolve_is_unseen() -> None:
    async def scenario() -> None:
        async with link(2224, address="no-such-host.invalid", lease_s=0.4) as member:
            await until(lambda: member.link.evidence.startswith("DNS: no-such-host.invalid"))
            await pass_time(0.6)
            assert member.events == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x7f\xff\xff\xff", "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nlost", "answered 404 (lost)"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "answered 500 ()"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
            "302",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "without a job document"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,
            "without a job document",
        ),
    ],
    ids=["http2 frames", "ssh", "404", "500", "redirect", "other json", "huge"],
)
def test_a_protocol_error_from_a_live_port_is_up(answer: bytes, problem: str) -> None:
    async def scenario() -> None:
        async with listener(answer) as port, link(port, lease_s=0.4) as member:
            await until(lambda: member.events)
            await pass_time(0.8)
            assert member.events == [ev.MasterSeen(bare=False)]
            assert member.link.state is MasterState.UP
            assert problem in member.link.evidence

    asyncio.run(scenario())


def test_a_refused_member_says_why() -> None:
    """A wrong token is no death; the reason is there for the one who waits."""

    async def scenario() -> None:
        async with (
            master(token="right") as it,
            link(it.server.port, token="wrong") as member,
        ):
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            await until(lambda: "refuses the token" in member.link.evidence)
            assert not await member.link.flush(0.2)
            assert it.reports == []
            assert it.server.members.peers()[0].state is MemberState.UNSEEN

    asyncio.run(scenario())


def test_the_token_is_sent() -> None:
    async def scenario() -> None:
        async with master(token="right") as it, link(it.server.port, token="right") as member:
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            assert await member.link.flush(5)
            assert len(it.reports) == 1

    asyncio.run(scenario())


# --------------------------------------------------------------------------- reports


def test_the_latest_report_wins_and_is_told_once() -> None:
    async def scenario() -> None:
        async with master() as it, link(it.server.port) as member:
            for phase in (Phase.JOINING, Phase.RUNNING, Phase.DRAINING):
                member.link.report(ev.Report(phase, script_ended=False, cause=None))
            member.link.report(ev.Report(Phase.DRAINING, script_ended=True, cause=CAUSE))
            member.link.report(ev.Report(Phase.DRAINING, script_ended=True, cause=CAUSE))
            assert await member.link.flush(5)
            assert it.reports[-1][1].cause == CAUSE
            sent = len(it.reports)
            member.link.report(ev.Report(Phase.DRAINING, script_ended=True, cause=CAUSE))
            assert await member.link.flush(5)
            assert len(it.reports) == sent

    asyncio.run(scenario())


def test_a_report_does_not_wait_for_the_long_poll() -> None:
    async def scenario() -> None:
        async with master() as it, link(it.server.port, wait_s=30) as member:
            await until(lambda: member.link.document)
            member.link.report(ev.Report(Phase.RUNNING, script_ended=False, cause=None))
            assert await member.link.flush(10)
            assert member.link.latency_s is not None

    asyncio.run(scenario())


def test_flush_without_a_master_gives_up_in_time() -> None:
    async def scenario() -> None:
        async with link(free_port()) as member:
            assert await member.link.flush(0.1)
            member.link.report(ev.Report(Phase.DONE, script_ended=True, cause=None))
            began = time.monotonic()
            assert not await member.link.flush(0.1)
            assert time.monotonic() - began < 10

    asyncio.run(scenario())


def test_a_report_survives_a_network_that_breaks_connections() -> None:
    async def scenario() -> None:
        async with (
            master() as it,
            proxy(it.server.port) as between,
            link(between.port, lease_s=2) as member,
        ):
            await until(lambda: member.link.document)
            between.cut()
            member.link.report(ev.Report(Phase.DRAINING, script_ended=True, cause=CAUSE))
            between.reset()
            assert not await member.link.flush(0.3)
            between.heal()
            assert await member.link.flush(10)
            assert [report.phase for _, report in it.reports] == [Phase.DRAINING]
            assert member.of(ev.MasterLost) == []

    asyncio.run(scenario())


def test_a_new_master_is_told_again_while_the_hosts_join() -> None:
    """A restarted master's supervisor knows nothing; its members say it again, unasked."""

    async def scenario() -> None:
        port = free_port()
        async with link(port, **PATIENT) as member:
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            async with master(port=port, run="run-1") as first:
                assert await member.link.flush(5)
                first.board.announce(JobState.JOINING, None, ())
                await until(lambda: member.events[-1] == ev.JobChanged(JobState.JOINING, None))
            async with master(port=port, run="run-2") as second:
                await until(lambda: second.reports)
                report = second.reports[0][1]
                assert (report.phase, report.run) == (Phase.JOINING, "run-2")
                # Its revision 1 is news, though revision 2 of the other was known.
                assert member.events[-1] == ev.JobChanged(JobState.JOINING, None, ("algo-2",))

    asyncio.run(scenario())


def test_a_master_that_crashes_while_the_hosts_join_may_come_back() -> None:
    """Its members ended with 83 a second after its crash, before anything had been started."""

    async def scenario() -> None:
        port = free_port()
        async with link(port) as member:
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            async with master(port=port, run="run-1"):
                assert await member.link.flush(5)
            await until(lambda: member.of(ev.MasterLost))
            assert not member.link.answers
            assert "refuses connections" in member.link.evidence
            async with master(port=port, run="run-2") as second:
                await until(lambda: second.reports)
                second.board.announce(JobState.RUNNING)
                await until(lambda: member.events[-1] == ev.JobChanged(JobState.RUNNING, None))

    asyncio.run(scenario())


def test_a_member_of_a_running_job_that_meets_another_run_has_lost_its_master() -> None:
    """A master that was killed and started anew within the lease took its running members for
    joined, whose variables were gone with it, and the job succeeded."""

    async def scenario() -> None:
        port = free_port()
        async with link(port, **PATIENT) as member:
            member.link.report(ev.Report(Phase.RUNNING, script_ended=False, cause=None))
            async with master(port=port, run="run-1") as first:
                assert await member.link.flush(5)
                first.board.announce(JobState.RUNNING)
                await until(lambda: member.events[-1] == ev.JobChanged(JobState.RUNNING, None))
            async with master(port=port, run="run-2") as second:
                await until(lambda: member.of(ev.MasterLost))
                (lost,) = member.of(ev.MasterLost)
                assert lost.how == "restarted"
                assert "another run" in lost.evidence
                member.link.report(ev.Report(Phase.DRAINING, script_ended=False, cause=CAUSE))
                assert not await member.link.flush(60), "nobody hears it, and nobody is waited for"
                assert second.reports == []
                assert second.server.members.peers()[0].state is MemberState.UNSEEN
                assert member.events[-1] == lost

    asyncio.run(scenario())


def test_a_master_of_another_job_is_named_and_not_followed() -> None:
    """Both names stand in what both sides say; a name may lead there for a while."""

    async def scenario() -> None:
        theirs, ours = (identify(name, "algo-1", HOSTS) for name in ("job-A", "job-B"))
        async with (
            master(job=theirs) as it,
            link(it.server.port, job=ours, lease_s=0.6) as member,
        ):
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            await until(lambda: it.refused)
            assert it.refused == [("algo-2", "algo-2 is of job job-B, the master of job job-A")]
            assert not member.of(ev.MasterLost), "not yet"
            await until(lambda: member.of(ev.MasterLost))
            (lost,) = member.of(ev.MasterLost)
            assert lost.how == How.REFUSES.value
            assert "algo-2 is of job job-B, the master of job job-A" in lost.evidence
            assert (it.reports, member.of(ev.JobChanged)) == ([], [])
            assert it.server.members.peers()[0].state is MemberState.UNSEEN
            assert len(it.refused) == 1, "said once"

    asyncio.run(scenario())


def test_a_report_of_an_attempt_that_is_over_is_over_too() -> None:
    """Sent again and again it would keep the master's word, and the next report, for a pause."""

    async def scenario() -> None:
        async with master() as it, link(it.server.port) as member:
            member.link.report(ev.Report(Phase.RUNNING, script_ended=False, cause=None))
            assert await member.link.flush(5)
            order = Order(1, 2, Scope.ALL, (("algo-2", "worker"),), CAUSE)
            it.board.announce(JobState.RESTARTING, order=order)
            await until(lambda: member.events[-1].__class__ is ev.JobChanged)
            member.link.report(ev.Report(Phase.RUNNING, script_ended=True, cause=CAUSE))
            assert await member.link.flush(5)
            assert (len(it.reports), it.refused, member.link.problem) == (1, [], None)
            assert it.server._counts["refused_requests"] == 1
            member.link.report(ev.Report(Phase.RESTARTING, False, None, attempt=2, turn=1))
            assert await member.link.flush(5)
            assert it.server._counts["refused_requests"] == 1, "it was not sent again"
            report = it.reports[-1][1]
            assert (report.phase, report.attempt, report.turn) == (Phase.RESTARTING, 2, 1)
            await until(lambda: member.events[-1].__class__ is ev.JobChanged)
            assert member.events[-1] == ev.JobChanged(JobState.RESTARTING, None, order=order)
            assert (member.of(ev.MasterLost), member.link.state) == ([], MasterState.UP)
            it.board.announce(JobState.RUNNING)
            running = ev.JobChanged(JobState.RUNNING, None, order=order)
            await until(lambda: member.events[-1] == running)

    asyncio.run(scenario())


def test_a_host_that_ends_is_heard_whatever_its_attempt() -> None:
    """Stopped while another attempt was being ordered it left, its word refused, and was taken for
    lost."""

    async def scenario() -> None:
        async with master() as it, link(it.server.port) as member:
            member.link.report(ev.Report(Phase.RUNNING, script_ended=False, cause=None))
            assert await member.link.flush(5)
            it.board.announce(JobState.RESTARTING, order=Order(1, 2, Scope.ALL, (), CAUSE))
            member.link.report(ev.Report(Phase.DRAINING, script_ended=False, cause=CAUSE))
            assert await member.link.flush(5)
            report = it.reports[-1][1]
            assert (report.phase, report.cause, report.attempt) == (Phase.DRAINING, CAUSE, 1)

    asyncio.run(scenario())


BOTH = (
    "speaks version 2 of the protocol between hosts, {}: install the same supervisor on all hosts"
)


def test_a_member_of_another_version_is_told_so_and_may_come_as_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with master() as it, link(it.server.port) as member:
            monkeypatch.setattr("supervisor.cluster.probe.VERSION", 2)
            monkeypatch.setattr("supervisor.cluster.protocol.VERSION", 2)
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            await until(lambda: it.refused)
            text = "algo-2 " + BOTH.format("the master version 4")
            assert it.refused == [("algo-2", text)]
            await until(lambda: text in member.link.evidence)
            assert (member.of(ev.JobChanged), it.reports) == ([], [])
            monkeypatch.undo()
            assert await member.link.flush(10)
            assert (member.of(ev.MasterLost), member.link.problem) == ([], None)

    asyncio.run(scenario())


def test_a_master_of_another_version_is_not_followed() -> None:
    """It answers: whoever joined with it was waited for until the join timeout, unheard."""

    async def scenario() -> None:
        body = b'{"v": 2, "run": "run-1", "revision": 4, "state": "running", "verdict": null}'
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        async with listener(head + body) as port, link(port, lease_s=0.4) as member:
            await until(lambda: member.of(ev.MasterLost))
            [lost] = member.of(ev.MasterLost)
            assert lost.how == How.REFUSES.value
            assert "the master " + BOTH.format("this host 4") in lost.evidence
            assert member.of(ev.JobChanged) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [401, 403, 404])
def test_whoever_does_not_know_a_running_member_is_no_sign_of_its_masters_life(
    status: int,
) -> None:
    """A job with another token, or another host's supervisor at the master's address, kept a
    member of an earlier run alive for ever."""

    async def scenario() -> None:
        port = free_port()
        async with link(port, **PATIENT, lease_s=0.8) as member:
            async with master(port=port) as first:
                first.board.announce(JobState.RUNNING)
                await until(lambda: member.events[-1:] == [ev.JobChanged(JobState.RUNNING, None)])
            answer = b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno" % status
            async with listener(answer, port):
                await until(lambda: member.of(ev.MasterLost))
            (lost,) = member.of(ev.MasterLost)
            assert lost.how == "unreachable"
            assert ("refuses the token" if status == 401 else str(status)) in lost.evidence

    asyncio.run(scenario())


def test_cancelling_ends_it_at_once_in_every_state() -> None:
    """tenacity must not swallow a cancellation, neither in an attempt nor in a pause."""

    async def scenario() -> None:
        async def cancelled_after(port: int, moment_s: float) -> float:
            async with link(port, lease_s=8) as member:
                member.link.report(ev.Report(Phase.RUNNING, script_ended=False, cause=None))
                await pass_time(moment_s)
                began = time.monotonic()
                member.task.cancel()
                await asyncio.wait([member.task], timeout=5)
                assert member.task.cancelled()
                return time.monotonic() - began

        async with master() as it, listener(None) as silent:
            for port in (it.server.port, silent, free_port()):
                for moment_s in (0.0, 0.01, 0.3):
                    assert await cancelled_after(port, moment_s) < 4

    asyncio.run(scenario())


# --------------------------------------------------------------------------- the end


def test_finished_is_not_a_loss() -> None:
    async def scenario() -> None:
        async with link(free_port(), lease_s=0.5) as _unused:
            pass
        port = free_port()
        async with link(port, lease_s=0.5) as member:
            async with master(port=port) as it:
                await until(lambda: member.link.document)
                it.board.announce(JobState.ENDED, VERDICT)
                await until(lambda: member.events[-1] == ev.JobChanged(JobState.ENDED, VERDICT))
            await pass_time(1.0)
            assert member.link.state is MasterState.ENDED
            assert member.of(ev.MasterLost) == []

    asyncio.run(scenario())


def test_a_closed_port_after_an_answer_is_a_crash() -> None:
    async def scenario() -> None:
        port = free_port()
        async with link(port) as member:
            async with master(port=port):
                await until(lambda: member.link.document)
            await until(lambda: member.of(ev.MasterLost))  # long before its lease of 30 s
            [lost] = member.of(ev.MasterLost)
            assert lost.how == "crashed"
            assert f"127.0.0.1:{port} refuses connections" in lost.evidence
            assert abs(lost.at - time.time()) < 60

    asyncio.run(scenario())


def test_no_farewell_is_waited_for_where_the_master_crashed() -> None:
    """A member of a crashed master spent its whole farewell on a closed port."""

    async def scenario() -> None:
        port = free_port()
        async with link(port) as member:
            async with master(port=port):
                await until(lambda: member.link.document)
            await until(lambda: member.of(ev.MasterLost))
            member.link.report(ev.Report(Phase.DONE, script_ended=False, cause=CAUSE))
            began = time.monotonic()
            assert not await member.link.flush(30)
            assert time.monotonic() - began < 10

    asyncio.run(scenario())


def test_silence_is_unreachable_after_the_lease_and_not_before() -> None:
    async def scenario() -> None:
        async with (
            master() as it,
            proxy(it.server.port) as between,
            link(between.port, lease_s=1.0) as member,
        ):
            await until(lambda: member.link.document)
            between.cut()
            began = time.monotonic()
            await until(lambda: member.of(ev.MasterLost))
            assert time.monotonic() - began > 0.7
            assert member.of(ev.MasterLost)[0].how == "unreachable"
            assert "no answer for" in member.of(ev.MasterLost)[0].evidence

    asyncio.run(scenario())


def test_a_cut_shorter_than_the_lease_is_nothing() -> None:
    async def scenario() -> None:
        async with (
            master(lease_s=3.0) as it,
            proxy(it.server.port) as between,
            link(between.port, lease_s=3.0) as member,
        ):
            await until(lambda: member.link.document)
            between.cut()
            await pass_time(1.0)
            between.heal()
            revision = it.board.announce(JobState.RUNNING)
            await until(lambda: it.server.members.peers()[0].heard == revision)
            await pass_time(1.0)
            assert member.of(ev.MasterLost) == []
            assert it.lost == []

    asyncio.run(scenario())


@pytest.mark.twice
def test_a_delay_of_two_seconds_each_way_with_default_settings_is_nothing() -> None:
    async def scenario() -> None:
        async with (
            master() as it,
            proxy(it.server.port) as between,
            link(between.port) as member,
        ):
            between.delay_s = 2.0
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            assert await member.link.flush(20)
            assert member.link.latency_s is not None
            assert member.link.latency_s > 3.9
            assert "answers" in member.link.evidence
            assert member.of(ev.MasterLost) == []

    asyncio.run(scenario())


def test_connections_that_break_all_the_time_are_nothing() -> None:
    """Resets are no refusals: something listens."""

    async def scenario() -> None:
        async with (
            master(lease_s=3) as it,
            proxy(it.server.port) as between,
            link(between.port, lease_s=3) as member,
        ):
            for state in (JobState.RUNNING, JobState.STOPPING) * 5:
                revision = it.board.announce(state)
                await until(lambda: it.server.members.peers()[0].heard == revision)  # noqa: B023
                between.reset()
            assert member.of(ev.MasterLost) == []
            assert it.lost == []

    asyncio.run(scenario())


def test_our_own_standstill_is_not_the_masters_silence() -> None:
    async def scenario() -> None:
        async with master() as it, link(it.server.port, lease_s=0.8) as member:
            await until(lambda: member.link.document)
            time.sleep(2.4)  # noqa: ASYNC251 - the standstill itself
            await pass_time(0.5)
            assert member.of(ev.MasterLost) == []

    asyncio.run(scenario())


# --------------------------------------------------------------------------- bare masters


def test_a_bare_master_is_seen_by_its_chiefs_port_and_ends_with_it() -> None:
    async def scenario() -> None:
        chief = free_port()
        async with link(free_port(), chief_endpoint=("127.0.0.1", chief), lease_s=2.0) as member:
            async with listener(None, chief):
                began = time.monotonic()
                await until(lambda: member.events)
                assert time.monotonic() - began >= 0.4
                assert member.events == [ev.MasterSeen(bare=True)]
                await pass_time(0.5)
                assert len(member.events) == 1
            await until(lambda: member.of(ev.MasterEnded))
            assert f"127.0.0.1:{chief} refuses connections" in member.of(ev.MasterEnded)[0].evidence
            assert member.of(ev.MasterLost) == []

    asyncio.run(scenario())


def test_a_stopped_supervisor_is_not_taken_for_a_bare_master() -> None:
    """Its status port takes the connection and says nothing, while its chief's port is open.

    A lease of 5 s allows 1 s for an answer, and each silence after a connection begins the time
    to a bare master anew; with shorter windows a busy machine looks like a closed port.
    """

    async def scenario() -> None:
        async with (
            listener(None) as status,
            listener(None) as chief,
            link(
                status, chief_endpoint=("127.0.0.1", chief), lease_s=5.0, bare_after_s=2.5
            ) as member,
        ):
            await pass_time(3.5)
            assert member.events == []

    asyncio.run(scenario())


def test_a_status_server_is_preferred_to_the_chiefs_port() -> None:
    async def scenario() -> None:
        async with (
            master() as it,
            listener(None) as chief,
            link(it.server.port, chief_endpoint=("127.0.0.1", chief)) as member,
        ):
            await until(lambda: member.link.document)
            await pass_time(0.8)
            assert member.of(ev.MasterSeen) == [ev.MasterSeen(bare=False)]

    asyncio.run(scenario())


# --------------------------------------------------------------------------- real processes


def test_sigkill_of_the_master_is_a_crash_long_before_its_lease() -> None:
    async def scenario() -> None:
        own = free_port()
        async with process("master", own_port=own) as it:
            await until(lambda: it.of("port"))
            async with process("member", port=it.lines[0]["port"], own_port=own) as member:
                await until(lambda: member.of("event", "JobChanged"))
                it.send(signal.SIGKILL)
                await until(lambda: member.of("event", "MasterLost"))
                assert member.of("event", "MasterLost")[0]["how"] == "crashed"

    asyncio.run(scenario())


def test_sigkill_of_a_member_is_a_crash_long_before_its_lease() -> None:
    async def scenario() -> None:
        own = free_port()
        async with process("master", own_port=own) as it:
            await until(lambda: it.of("port"))
            async with process("member", port=it.lines[0]["port"], own_port=own) as member:
                await until(lambda: it.of("report"))
                await until(lambda: member.of("port"))
                # Its second report's answer: by then the master has knocked at its door.
                await pass_time(0.5)
                member.send(signal.SIGKILL)
                await until(lambda: it.of("lost"))
                [lost] = it.of("lost")
                assert lost["lost"] == "algo-2"
                assert lost["evidence"].startswith("crashed: ")

    asyncio.run(scenario())


@pytest.mark.twice
@pytest.mark.parametrize("stopped", ["master", "member"])
def test_sigstop_for_less_than_the_lease_is_nothing_to_either(stopped: str) -> None:
    """Two fifths of a lease, after a quarter without a word at most; then once more, to see that
    both counts began anew."""

    async def scenario() -> None:
        own = free_port()
        async with process("master", own_port=own, lease=4) as it:
            await until(lambda: it.of("port"))
            port = it.lines[0]["port"]
            async with process("member", port=port, own_port=own, lease=4) as member:
                await until(lambda: member.of("event", "JobChanged"))
                victim = it if stopped == "master" else member
                for _ in range(2):
                    victim.send(signal.SIGSTOP)
                    await pass_time(1.6)
                    victim.send(signal.SIGCONT)
                    await pass_time(1.5)
                assert member.of("event", "MasterLost") == []
                assert it.of("lost") == []
                assert it.of("error") == []

    asyncio.run(scenario())


def test_a_stopped_process_itself_blames_nobody_however_long_it_was_stopped() -> None:
    """Three leases: the other side has given up by then; the stopped one has no reason to."""

    async def scenario() -> None:
        own = free_port()
        async with process("master", own_port=own, lease=30) as it:
            await until(lambda: it.of("port"))
            port = it.lines[0]["port"]
            async with process("member", port=port, own_port=own, lease=1) as member:
                await until(lambda: member.of("event", "JobChanged"))
                member.send(signal.SIGSTOP)
                await pass_time(3.0)
                member.send(signal.SIGCONT)
                await pass_time(0.8)
                assert member.of("event", "MasterLost") == []

    asyncio.run(scenario())


# --------------------------------------------------------------------------- asking the network


def test_knocks() -> None:
    async def scenario() -> None:
        resolver = Resolver()
        async with listener(None) as port:
            found = await knock("127.0.0.1", port, resolver=resolver, timeout_s=2)
            assert found.knock is Knock.OPEN
            found = await knock("localhost", port, resolver=resolver, timeout_s=2)
            assert found.knock is Knock.OPEN
        found = await knock("127.0.0.1", free_port(), resolver=resolver, timeout_s=2)
        assert found.knock is Knock.REFUSED
        found = await knock("no-such-host.invalid", 80, resolver=resolver, timeout_s=2)
        assert found.knock is Knock.SILENT
        # A full backlog drops what comes: the port is there and gives no answer.
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)):
                began = time.monotonic()
                found = await knock("127.0.0.1", port, resolver=resolver, timeout_s=0.3)
                assert found.knock is Knock.SILENT
                assert time.monotonic() - began < 20  # the kernel's own patience is minutes

    asyncio.run(scenario())


def test_a_resolver_has_a_deadline_and_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer holds neither the caller nor the end of the program."""
    asked: list[str] = []
    release = asyncio.Event()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        gone = loop.create_future()

        def stuck(host: str, *_args: object, **_more: object) -> list[object]:
            asked.append(host)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)
            return []

        monkeypatch.setattr(socket, "getaddrinfo", stuck)
        resolver = Resolver()
        began = time.monotonic()
        answers = await asyncio.gather(
            *(resolver.resolve("algo-1", timeout_s=0.2) for _ in range(5)),
            return_exceptions=True,
        )
        assert time.monotonic() - began < 8  # the name server keeps it for 10
        assert all(isinstance(answer, NoAddress) for answer in answers)
        assert asked == ["algo-1"]
        release.set()
        await until(lambda: not resolver._running)
        gone.cancel()

    asyncio.run(scenario())


def test_members_are_told_apart_on_the_wire() -> None:
    """Two members at two addresses, one master: each joins as itself."""

    async def scenario() -> None:
        members = (Member("algo-2", "127.0.0.1", 1), Member("algo-3", "127.0.0.1", 1))
        async with (
            master(members=members) as it,
            link(it.server.port, host="algo-2") as second,
            link(it.server.port, host="algo-3") as third,
        ):
            second.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            third.link.report(ev.Report(Phase.RUNNING, script_ended=False, cause=None))
            assert await second.link.flush(5)
            assert await third.link.flush(5)
            phases = {peer.host: peer.phase for peer in it.server.members.peers()}
            assert phases == {"algo-2": Phase.JOINING, "algo-3": Phase.RUNNING}

    asyncio.run(scenario())
