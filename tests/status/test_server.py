"""The status server over real sockets: what it serves, to whom, and what cannot hurt it."""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from supervisor.cluster.liveness import MemberState
from supervisor.cluster.protocol import (
    MAX_MISSING,
    VERSION,
    HostReport,
    decode_job,
    encode_report,
)
from supervisor.life import events as ev
from supervisor.life.attempts import Order, Scope
from supervisor.life.words import JobState, Phase
from supervisor.status.board import JobBoard
from supervisor.status.doors import Member
from supervisor.status.feed import STILL_HERE
from supervisor.status.filter import queue_share, shut_out
from supervisor.status.limits import Connection, Limits, Pool, key_of
from supervisor.status.server import BindError
from supervisor.status.snapshot import Snapshot
from tests.helpers.aio import until
from tests.helpers.cluster import (
    CAUSE,
    VERDICT,
    Master,
    free_port,
    get,
    link,
    master,
    session,
    snapshot,
    training,
)

MEMBERS = (Member("algo-2", "127.0.0.1", 1), Member("algo-3", "127.0.0.2", 1))
GOOD = encode_report(HostReport("m-1", Phase.RUNNING, False, None, 0, 1))


async def put(
    url: str, host: str, body: bytes, *, address: str = "127.0.0.1", **headers: str
) -> tuple[int, bytes]:
    async with (
        session(address) as client,
        client.put(f"{url}/v1/hosts/{host}", data=body, headers=headers) as answer,
    ):
        return answer.status, await answer.read()


async def poll_as(it: Master, instance: str, **more: str) -> tuple[int, bytes]:
    """Poll as algo-2."""
    params = {"v": str(VERSION), "host": "algo-2", "instance": instance} | more
    return await get(f"{it.url}/v1/job", **params)


async def raw(port: int, request: bytes) -> bytes:
    """Send bytes as they are and read until the server hangs up."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


# --------------------------------------------------------------------------- routes


def test_health_and_readiness() -> None:
    """Alive while the loop turns; ready only while this host runs, else 503 and the reason."""

    async def scenario() -> None:
        state = (True, "running")
        async with master(ready=lambda: state) as it:
            assert await get(f"{it.url}/livez") == (200, b'{"alive": true}\n')
            assert (await get(f"{it.url}/readyz"))[0] == 200
            state = (False, "draining: algo-2 worker failed")
            status, body = await get(f"{it.url}/readyz")
            assert status == 503
            assert json.loads(body)["reason"] == "draining: algo-2 worker failed"
            assert (await get(f"{it.url}/livez"))[0] == 200

    asyncio.run(scenario())


def test_status_is_the_snapshot() -> None:
    async def scenario() -> None:
        async with master() as it:
            status, body = await get(f"{it.url}/status")
            assert status == 200
            said = json.loads(body)
            assert set(said) == set(snapshot())
            assert said["processes"][1]["exit"] == "killed by SIGKILL"

    asyncio.run(scenario())


def test_many_readers_cost_one_snapshot() -> None:
    async def scenario() -> None:
        calls: list[float] = []

        def show() -> Snapshot:
            calls.append(time.monotonic())
            return snapshot()

        async with master(show=show, limits=Limits(cache_s=60)) as it:
            answers = await asyncio.gather(*(get(f"{it.url}/status") for _ in range(20)))
            assert {status for status, _ in answers} == {200}
            assert len(calls) == 1

    asyncio.run(scenario())


def test_metrics_of_training_have_one_help_and_bounded_labels() -> None:
    async def scenario() -> None:
        now = training(runs=3)
        async with master(show=lambda: now, limits=Limits(cache_s=0)) as it:
            body = (await get(f"{it.url}/metrics"))[1].decode()
            families = {each.name: each for each in text_string_to_metric_families(body)}
            told = {
                (name, *sorted(sample.labels.values())): sample.value
                for name, family in families.items()
                for sample in family.samples
            }
            assert told["supervisor_step", "step"] == 1234
            assert told["supervisor_step_target", "step"] == 10000
            assert told["supervisor_step_rate", "step"] == 0.2278
            assert told["supervisor_loss",] == 0.34567
            assert told["supervisor_time_seconds", "done_again"] == 300
            assert told["supervisor_goodput_ratio", "run"] == 0.9153
            assert told["supervisor_goodput_ratio", "all"] == 0.8912
            assert told["supervisor_new_steps",] == 1230
            assert told["supervisor_first_step_seconds",] == 24
            assert told["supervisor_save_seconds",] == 4.25
            accounts = families["supervisor_time_seconds"].samples
            assert sum(sample.value for sample in accounts) == 5900
            helps = [line.split()[2] for line in body.splitlines() if line.startswith("# HELP")]
            assert len(helps) == len(set(helps))
            assert "logs/" not in body, "no label that a script can make more of"
            assert now["progress"] is not None
            now["progress"]["loss"] = "nan"
            assert "supervisor_loss NaN" in (await get(f"{it.url}/metrics"))[1].decode()
            now |= snapshot() | {"progress": None, "ledger": None, "startups": [], "saves": None}
            assert "supervisor_step" not in (await get(f"{it.url}/metrics"))[1].decode()

    asyncio.run(scenario())


def test_metrics_are_prometheus_text() -> None:
    async def scenario() -> None:
        async with master() as it:
            status, body = await get(f"{it.url}/metrics")
            assert status == 200
            families = {
                family.name: family for family in text_string_to_metric_families(body.decode())
            }

            def value(family: str, **labels: str) -> float:
                return next(
                    sample.value
                    for sample in families[family].samples
                    if labels.items() <= sample.labels.items()
                )

            assert value("supervisor_phase", phase="running") == 1
            assert value("supervisor_phase", phase="done") == 0
            assert value("supervisor_uptime_seconds") == 60
            assert value("supervisor_attempt") == 1
            assert value("supervisor_process_cpu_seconds", process="worker") == 12.5
            assert value("supervisor_process_output_bytes", process="worker") == 12_345
            assert value("supervisor_process_running", process="ps") == 0
            assert value("supervisor_peers", state="unseen") == 1
            assert value("supervisor_stop_budget_seconds") == 120
            assert "supervisor_stop_budget_left_seconds" not in families
            assert value("supervisor_http_requests") == 1
            # One server's figures are not another's.
            async with master() as other:
                assert (
                    b"supervisor_http_requests_total 1.0" in (await get(f"{other.url}/metrics"))[1]
                )

    asyncio.run(scenario())


def test_the_page_is_self_contained_and_allows_nothing_else() -> None:
    async def scenario() -> None:
        async with (
            master() as it,
            session() as client,
            client.get(f"{it.url}/") as answer,
        ):
            text = await answer.text()
            assert answer.content_type == "text/html"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "http://" not in text
            assert "https://" not in text
            assert "innerHTML" not in text

    asyncio.run(scenario())


def test_events_give_the_past_and_then_what_happens() -> None:
    async def scenario() -> None:
        async with master() as it:
            it.server.publish({"at": 1.0, "event": "first"})
            async with (
                session() as client,
                client.get(f"{it.url}/events") as answer,
            ):
                assert answer.content_type == "text/event-stream"
                assert await answer.content.readuntil(b"\n\n") == STILL_HERE
                assert await answer.content.readuntil(b"\n\n") == (
                    b'id: 1\ndata: {"at": 1.0, "event": "first"}\n\n'
                )
                it.server.publish({"at": 2.0, "event": "second", "text": "two\nlines"})
                assert await answer.content.readuntil(b"\n\n") == (
                    b'id: 2\ndata: {"at": 2.0, "event": "second", "text": "two\\nlines"}\n\n'
                )
            # A reader that comes back gets what it has missed.
            async with (
                session(headers={"Last-Event-ID": "1"}) as client,
                client.get(f"{it.url}/events") as answer,
            ):
                assert await answer.content.readuntil(b"\n\n") == STILL_HERE
                assert (await answer.content.readuntil(b"\n\n")).startswith(b"id: 2\n")

    asyncio.run(scenario())


def test_events_have_a_heartbeat_and_a_bounded_number_of_readers() -> None:
    async def scenario() -> None:
        limits = Limits(event_readers=1, events_heartbeat_s=0.05)
        async with (
            master(limits=limits) as it,
            session() as client,
            client.get(f"{it.url}/events") as answer,
        ):
            for _ in range(2):
                assert await answer.content.readuntil(b"\n\n") == STILL_HERE
            status, body = await get(f"{it.url}/events")
            assert (status, json.loads(body)) == (503, {"error": "too many readers"})

    asyncio.run(scenario())


def test_a_reader_of_events_that_does_not_read_is_cut_off() -> None:
    """The queue has a bound, and nobody waits for a reader: not the loop, not the others."""

    async def scenario() -> None:
        async with master() as it:
            _reader, writer = await asyncio.open_connection("127.0.0.1", it.server.port, limit=1024)
            writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            _reader._transport.pause_reading()  # type: ignore[attr-defined]
            feed = it.server._feed
            await until(lambda: feed._clients)
            large = {"event": "x" * 60_000}

            def flooded() -> bool:
                it.server.publish(large)
                return not feed._clients

            await until(flooded)
            writer.close()
            assert (await get(f"{it.url}/livez"))[0] == 200

    asyncio.run(scenario())


def test_stopping_ends_readers_and_pollers_at_once() -> None:
    async def scenario() -> None:
        async with session() as client, master() as it:
            poll = asyncio.create_task(get(f"{it.url}/v1/job", after="1", run="run-1", wait="30"))
            events = await client.get(f"{it.url}/events")
            await until(lambda: len(it.server._connections) == 2)
            began = time.monotonic()
            await it.server.stop()
            assert (await poll)[0] == 200
            last = (await events.content.read()).removeprefix(STILL_HERE)
            assert last.startswith(b"event: end\ndata: {"), (
                "the final state, before the port closes"
            )
            assert json.loads(last.partition(b"data: ")[2])["phase"] == "running"
            assert time.monotonic() - began < 15  # the poll would have waited for 30

    asyncio.run(scenario())


# --------------------------------------------------------------------------- the job


def test_a_long_poll_answers_at_once_when_there_is_news() -> None:
    async def scenario() -> None:
        async with master() as it:
            job = f"{it.url}/v1/job"
            assert decode_job((await get(job))[1]).revision == 1
            # Another run's revision says nothing about ours.
            stale = await get(job, after="7", run="run-0", wait="30")
            assert decode_job(stale[1]).revision == 1
            polls = [
                asyncio.create_task(get(job, after="1", run="run-1", wait="30")) for _ in range(20)
            ]
            await until(lambda: len(it.server._connections) == 20)
            assert not any(poll.done() for poll in polls)
            assert it.board.announce(JobState.ENDED, VERDICT) == 2
            for status, body in await asyncio.gather(*polls):
                assert status == 200
                assert decode_job(body).verdict == VERDICT

    asyncio.run(scenario())


def test_a_long_poll_without_news_ends_after_its_wait() -> None:
    async def scenario() -> None:
        async with master() as it:
            status, body = await get(f"{it.url}/v1/job", after="1", run="run-1", wait="0.05")
            assert (status, decode_job(body).revision) == (200, 1)

    asyncio.run(scenario())


def test_announcing_the_same_again_is_no_news() -> None:
    async def scenario() -> None:
        board = JobBoard("run-1")
        assert board.announce(JobState.RUNNING) == 2
        assert board.announce(JobState.RUNNING) == 2
        assert board.announce(JobState.STOPPING) == 3
        assert board.announce(JobState.STOPPING, VERDICT) == 4

    asyncio.run(scenario())


def test_hosts_that_join_one_by_one_are_announced_together() -> None:
    """A thousand joins that each woke a thousand pollers would be a million answers."""

    async def scenario() -> None:
        names = tuple(f"algo-{number}" for number in range(2, 1002))
        board = JobBoard("run-1", missing=names, gather_s=0.05)
        for joined in range(1, 501):
            assert board.announce(JobState.JOINING, None, names[joined:]) == 1
        poll = asyncio.create_task(board.wait("run-1", 1, timeout_s=10))
        assert decode_job(await poll).missing == names[500:][:MAX_MISSING]
        assert board.document.revision == 2
        # What is pending does not come after what was decided later, nor instead of it.
        board.announce(JobState.JOINING, None, names[600:])
        assert board.announce(JobState.RUNNING) == 3
        gone = time.monotonic() + 0.1
        await until(lambda: time.monotonic() > gone)
        assert board.document.revision == 3
        assert board.document.missing == ()

    asyncio.run(scenario())


def test_a_report_is_answered_with_the_job_and_is_idempotent() -> None:
    async def scenario() -> None:
        async with master(members=MEMBERS) as it:
            it.board.announce(JobState.RUNNING)
            for _ in range(3):
                status, body = await put(it.url, "algo-2", GOOD)
                assert status == 200
                assert decode_job(body) == it.board.document
            assert [host for host, _ in it.reports] == ["algo-2"]

    asyncio.run(scenario())


def test_late_reports_are_answered_and_ignored() -> None:
    """A retry may overtake."""

    async def scenario() -> None:
        async with master() as it:
            for seq, phase in ((2, Phase.RUNNING), (1, Phase.JOINING)):
                report = HostReport("m-1", phase, False, None, 0, seq)
                assert (await put(it.url, "algo-2", encode_report(report)))[0] == 200
            assert [(report.instance, report.seq) for _, report in it.reports] == [("m-1", 2)]
            assert it.server.members.peers()[0].state is MemberState.UP

    asyncio.run(scenario())


async def report(it: Master, instance: str, phase: Phase, **more: Any) -> tuple[int, str]:
    """Report as algo-2; the status, and the reason where it is refused."""
    run = more.pop("run", it.board.document.run)
    body = encode_report(HostReport(instance, phase, False, None, 0, 1, run, **more))
    status, answer = await put(it.url, "algo-2", body)
    return status, json.loads(answer).get("reason", "")


@contextlib.asynccontextmanager
async def polls(it: Master, instance: str) -> AsyncIterator[None]:
    """A member's open connection, as long as its supervisor lives."""
    poll = asyncio.create_task(poll_as(it, instance, run="run-1", after="99", wait="30"))
    await until(lambda: any(each.instance == instance for each in it.server._connections))
    try:
        yield
    finally:
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)


def test_a_member_that_is_alive_is_not_replaced() -> None:
    """A second supervisor on a member's host ended the running job: its word was believed."""

    async def scenario() -> None:
        async with master(lease_s=8.0) as it, polls(it, "m-1"):
            assert await report(it, "m-1", Phase.JOINING) == (200, "")
            for state in (JobState.JOINING, JobState.RUNNING):
                it.board.announce(state)
                for phase in (Phase.JOINING, Phase.DONE):
                    assert await report(it, "m-2", phase) == (409, "taken")
                assert (await poll_as(it, "m-2"))[0] == 409
                assert await report(it, "m-1", Phase.JOINING) == (200, "")
            assert [each.instance for _, each in it.reports] == ["m-1"]
            text = "another supervisor of algo-2 takes part in the job and is alive"
            assert (it.lost, it.refused) == ([], [("algo-2", text)]), "said once"
            assert await it.server.members.explain(["algo-2"]) == {"algo-2": "1 refused"}

    asyncio.run(scenario())


def test_a_member_that_is_gone_is_replaced_while_the_hosts_join() -> None:
    async def scenario() -> None:
        async with master(lease_s=4.0) as it:
            async with polls(it, "m-1"):
                assert await report(it, "m-1", Phase.JOINING) == (200, "")
            assert await report(it, "m-2", Phase.PREPARING) == (409, "taken"), "perhaps alive"
            gone = time.monotonic() + 1.05  # over a quarter of the lease
            await until(lambda: time.monotonic() > gone)
            assert await report(it, "m-2", Phase.PREPARING) == (200, "")
            assert it.lost == [("algo-2", "restarted: its supervisor was started anew")]
            assert [each.instance for _, each in it.reports] == ["m-1", "m-2"]
            assert await report(it, "m-1", Phase.RUNNING) == (409, "replaced")

    asyncio.run(scenario())


def test_a_member_that_is_gone_is_lost_to_a_running_job_and_not_replaced() -> None:
    """Killed and started anew within the lease it counted as joined, and its script ran twice."""

    async def scenario() -> None:
        async with master(lease_s=0.8) as it:
            async with polls(it, "m-1"):
                assert await report(it, "m-1", Phase.JOINING) == (200, "")
                it.board.announce(JobState.RUNNING)
            gone = time.monotonic() + 0.25
            await until(lambda: time.monotonic() > gone)
            for _ in range(2):
                assert await report(it, "m-2", Phase.PREPARING) == (409, "running")
            evidence = "restarted: its supervisor was started anew while the job ran"
            assert it.lost == [("algo-2", evidence)], "once"
            assert [each.instance for _, each in it.reports] == ["m-1"]
            # Its own end is the verdict's, which it may still hear.
            it.board.announce(JobState.ENDED, VERDICT)
            assert await report(it, "m-2", Phase.PREPARING) == (200, "")

    asyncio.run(scenario())


ORDER = Order(1, 2, Scope.ALONE, (("algo-2", "worker"),), CAUSE)


def test_an_order_is_announced_at_once_and_stands_until_there_is_another() -> None:
    async def scenario() -> None:
        board = JobBoard("run-1", missing=("algo-2",), gather_s=60.0, restarts=True)
        assert (board.document.restarts, board.document.attempt) == (True, 1)
        assert board.announce(JobState.JOINING, None, ()) == 1, "gathered"
        assert board.announce(JobState.RUNNING) == 2
        assert board.announce(JobState.RESTARTING, order=ORDER) == 3
        wider = ORDER._replace(turn=2, scope=Scope.ALL)
        poll = asyncio.create_task(board.wait("run-1", 3, timeout_s=10))
        assert board.announce(JobState.RESTARTING, order=wider) == 4
        document = decode_job(await poll)
        assert document == board.document
        assert (document.order, document.attempt, document.restarts) == (wider, 2, True)
        assert board.announce(JobState.RESTARTING) == 4, "no news"
        assert board.announce(JobState.RUNNING) == 5
        assert board.document.order == wider
        assert board.document.missing == ()

    asyncio.run(scenario())


def test_what_is_said_of_an_attempt_that_is_over_is_a_sign_of_life_and_no_more() -> None:
    """Its failure would be taken for one of the attempt that is being prepared."""

    async def scenario() -> None:
        async with master() as it:
            assert await report(it, "m-1", Phase.RUNNING) == (200, "")
            it.board.announce(JobState.RESTARTING, order=ORDER)
            late = HostReport("m-1", Phase.RUNNING, True, CAUSE, 1, 2, "run-1")
            for _ in range(2):
                status, answer = await put(it.url, "algo-2", encode_report(late))
                assert status == 409
                assert json.loads(answer) == {
                    "error": "algo-2 speaks of attempt 1, the job is at attempt 2",
                    "reason": "attempt",
                }
            assert len(it.reports) == 1
            peer = it.server.members.peers()[0]
            assert (peer.state, peer.phase) == (MemberState.UP, Phase.RUNNING)
            now = replace(late, phase=Phase.RESTARTING, seq=3, attempt=2, turn=1)
            assert (await put(it.url, "algo-2", encode_report(now)))[0] == 200
            assert it.reports[-1] == ("algo-2", now)
            assert it.refused == [], "nobody needs to be told"
            # How a member learns of another attempt.
            assert (await poll_as(it, "m-1", run="run-1", attempt="1"))[0] == 200

    asyncio.run(scenario())


def test_a_first_report_of_an_attempt_that_is_over_proves_that_its_member_lives() -> None:
    async def scenario() -> None:
        async with master() as it:
            it.board.announce(JobState.RESTARTING, order=ORDER)
            assert await report(it, "m-1", Phase.RUNNING) == (409, "attempt")
            assert it.server.members.peers()[0].state is MemberState.UP

    asyncio.run(scenario())


def test_nobody_speaks_of_an_attempt_to_come() -> None:
    async def scenario() -> None:
        async with master() as it:
            assert await report(it, "m-1", Phase.RUNNING, attempt=2) == (400, "")
            for run, attempt, status in (("run-1", "2", 400), ("run-0", "2", 200), ("", "x", 400)):
                assert (await poll_as(it, "m-1", run=run, attempt=attempt))[0] == status
            assert it.reports == []

    asyncio.run(scenario())


def test_a_member_that_was_given_up_is_not_known_again_by_what_is_over() -> None:
    async def scenario() -> None:
        async with master(lease_s=0.4) as it:
            assert await report(it, "m-1", Phase.RUNNING) == (200, "")
            await until(lambda: it.lost)
            it.board.announce(JobState.RESTARTING, order=ORDER)
            assert (await poll_as(it, "m-1", run="run-1", after="0"))[0] == 200
            assert len(it.reports) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("version", ["2", "5", None])
def test_a_host_of_another_version_is_refused_before_anything_of_it_is_believed(
    version: str | None,
) -> None:
    async def scenario() -> None:
        async with master(token="right") as it:
            params = {"host": "algo-2", "instance": "m-1", "run": "run-0"}
            if version is not None:
                params["v"] = version
            answers = [await get(f"{it.url}/v1/job", **params)]
            if version is not None:
                body = b'{"v": %s, "what": "else"}' % version.encode()
                answers.append(await put(it.url, "algo-2", body, Authorization="Bearer right"))
            assert answers.pop(0)[0] == 401, "strangers learn nothing"
            for status, answer in answers:
                assert (status, json.loads(answer)["reason"]) == (409, "version")
        async with master() as it:
            status, answer = await get(f"{it.url}/v1/job", **params)
            told = json.loads(answer)
            assert (status, told["reason"]) == (409, "version")
            assert f"algo-2 speaks version {version or '2 or an older one'} of" in told["error"]
            assert "the master version 4" in told["error"]
            assert it.refused == [("algo-2", told["error"])]
            assert it.server.members.peers()[0].state is MemberState.UNSEEN
            assert await it.server.members.explain(["algo-2"]) == {"algo-2": told["error"]}

    asyncio.run(scenario())


def test_a_member_of_an_earlier_run_is_refused_and_told_of_this_one() -> None:
    """A supervisor that was stopped (SIGSTOP) and goes on after its job's end took part in the
    next run of it."""

    async def scenario() -> None:
        async with master() as it:
            assert await report(it, "m-1", Phase.RUNNING, run="run-0") == (409, "run")
            status, body = await poll_as(it, "m-1", run="run-0", after="9", wait="9")
            assert (status, decode_job(body).run) == (200, "run-1")
            assert (it.reports, it.server.members.peers()[0].state) == ([], MemberState.UNSEEN)

    asyncio.run(scenario())


def test_a_member_that_was_given_up_while_joining_is_known_again() -> None:
    """It has said all it has to say, and would have been waited for until the end."""

    async def scenario() -> None:
        async with master(lease_s=0.4) as it:
            assert await report(it, "m-1", Phase.JOINING) == (200, "")
            await until(lambda: it.lost)
            assert (await poll_as(it, "m-1", run="run-1", after="0"))[0] == 200
            assert [each.phase for _, each in it.reports] == [Phase.JOINING, Phase.JOINING]

    asyncio.run(scenario())


def test_a_member_says_which_supervisor_it_is() -> None:
    async def scenario() -> None:
        async with master() as it:
            assert (await poll_as(it, ""))[0] == 400
            assert (await report(it, "", Phase.JOINING))[0] == 400
            assert it.server.members.peers()[0].state is MemberState.UNSEEN

    asyncio.run(scenario())


def test_members_are_told_the_last_word_and_only_for_a_moment() -> None:
    async def scenario() -> None:
        async with master() as it, link(it.server.port) as member:
            member.link.report(ev.Report(Phase.JOINING, script_ended=False, cause=None))
            assert await member.link.flush(5)
            it.board.announce(JobState.ENDED, VERDICT)
            assert await it.server.members.told(5)
            await until(lambda: member.events[-1] == ev.JobChanged(JobState.ENDED, VERDICT))
        async with master() as it:
            assert await it.server.members.told(5), "nobody has come"
            assert await report(it, "m-1", Phase.JOINING) == (200, "")
            assert not await it.server.members.told(0.05)

    asyncio.run(scenario())


def test_a_poll_with_a_name_acknowledges() -> None:
    async def scenario() -> None:
        async with master() as it:
            assert (await poll_as(it, "m-1"))[0] == 200
            peer = it.server.members.peers()[0]
            assert (peer.state, peer.heard, peer.phase) == (MemberState.UP, 0, None)
            await poll_as(it, "m-1", after="1", run="run-1")
            assert it.server.members.peers()[0].heard == 1
            # What was never announced was not heard from us.
            await poll_as(it, "m-1", after="99", run="run-1", wait="0")
            assert it.server.members.peers()[0].heard == 1

    asyncio.run(scenario())


def test_only_the_master_has_the_job() -> None:
    async def scenario() -> None:
        async with master(is_master=False) as it:
            for status, body in (await get(f"{it.url}/v1/job"), await put(it.url, "algo-2", GOOD)):
                assert status == 404
                assert json.loads(body) == {"error": "algo-1 is not the master of the job"}
            assert (await get(f"{it.url}/livez"))[0] == 200

    asyncio.run(scenario())


# --------------------------------------------------------------------------- strangers


def test_a_member_speaks_only_for_itself() -> None:
    """algo-3 lives at 127.0.0.2; neither may report for the other, nor look alive for it."""

    async def scenario() -> None:
        async with master(members=MEMBERS) as it:
            assert (await put(it.url, "algo-3", GOOD))[0] == 403
            assert (await put(it.url, "algo-2", GOOD, address="127.0.0.2"))[0] == 403
            assert (await put(it.url, "algo-2", GOOD, address="127.0.0.3"))[0] == 403
            assert (await put(it.url, "algo-9", GOOD))[0] == 403
            assert (await get(f"{it.url}/v1/job", host="algo-3"))[0] == 403
            assert it.reports == []
            assert {peer.state for peer in it.server.members.peers()} == {MemberState.UNSEEN}
            assert (await put(it.url, "algo-3", GOOD, address="127.0.0.2"))[0] == 200
            assert [host for host, _ in it.reports] == ["algo-3"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer secret ",
        "Bearer secret-token2",
        "bearer secret-token",
        "Basic secret-token",
        "secret-token",
        "Bearer \xff\xfe",
    ],
)
def test_without_the_token_nothing_is_taken(header: str | None) -> None:
    async def scenario() -> None:
        async with master(token="secret-token") as it:
            headers = {} if header is None else {"Authorization": header}
            status, body = await put(it.url, "algo-2", GOOD, **headers)
            assert status == 401
            assert b"secret" not in body
            assert it.reports == []
            good = {"Authorization": "Bearer secret-token"}
            assert (await put(it.url, "algo-2", GOOD, **good))[0] == 200

    asyncio.run(scenario())


def test_the_token_is_served_nowhere() -> None:
    async def scenario() -> None:
        async with master(token="secret-token") as it:
            for path in ("/", "/status", "/metrics", "/livez", "/readyz", "/v1/job"):
                assert b"secret-token" not in (await get(it.url + path))[1]

    asyncio.run(scenario())


def test_members_known_by_name_are_looked_up() -> None:
    """The contract gives names; ``localhost`` is one that every machine has."""

    async def scenario() -> None:
        async with master(members=(Member("algo-2", "localhost", 1),)) as it:
            assert (await put(it.url, "algo-2", GOOD))[0] == 200
            assert (await put(it.url, "algo-2", GOOD, address="127.0.0.9"))[0] == 403
        async with master(members=(Member("algo-2", "no-such-host.invalid", 1),)) as it:
            assert (await put(it.url, "algo-2", GOOD))[0] == 403

    asyncio.run(scenario())


# --------------------------------------------------------------------------- malformed, slow, many

MALFORMED: dict[str, tuple[bytes, int]] = {
    "no http": (b"\x00\x01\x02\x03\r\n\r\n", 400),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200, 400),
    "http2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "bad version": (b"GET / HTTPS/1.1\r\n\r\n", 400),
    "long line": (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "long header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000 + b"\r\n\r\n", 400),
    "no such route": (b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "traversal": (b"GET /../../x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "bad method": (b"DELETE /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    "post": (
        (
            b"POST /v1/hosts/algo-2 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
            b"Connection: close\r\n\r\n"
        ),
        405,
    ),
    "bad expect": (b"GET /livez HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n", 417),
    "bad expect at no route": (b"GET /no HTTP/1.1\r\nHost: x\r\nExpect: \xb9\r\n\r\n", 400),
    "bad wait": (
        b"GET /v1/job?wait=nan HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        400,
    ),
    "bad after": (
        b"GET /v1/job?after=-1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        400,
    ),
    "huge after": (
        b"GET /v1/job?after=" + b"9" * 3000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        400,
    ),
    "body too large": (
        b"PUT /v1/hosts/algo-2 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        + b"x" * 100_000,
        413,
    ),
    "chunked and too large": (
        b"PUT /v1/hosts/algo-2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 8
        + b"0\r\n\r\n",
        413,
    ),
    "negative length": (
        b"PUT /v1/hosts/algo-2 HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        400,
    ),
    "zip bomb": (
        (
            b"PUT /v1/hosts/algo-2 HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
            b"Content-Length: 4\r\nConnection: close\r\n\r\n\x1f\x8b\x08\x00"
        ),
        400,
    ),
    "upgrade": (
        b"GET /no HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        404,
    ),
    "bad percent": (b"GET /%zz%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "connect": (b"CONNECT evil:80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "nul in name": (
        (
            b"PUT /v1/hosts/a%00b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
            b"Connection: close\r\n\r\n"
        ),
        403,
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_gets_one_line_of_json(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    request, status = MALFORMED[name]

    async def scenario() -> None:
        async with master() as it:
            answer = await raw(it.server.port, request)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert int(head.split()[1]) == status, answer
            assert body.count(b"\n") == 1
            assert set(json.loads(body)) == {"error"}
            assert (await get(f"{it.url}/livez"))[0] == 200
            assert it.errors == []

    asyncio.run(scenario())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"\xff", b"[" * 60_000, b'{"v": 4}'])
def test_a_body_that_is_no_report_is_refused(body: bytes) -> None:
    async def scenario() -> None:
        async with master() as it:
            status, answer = await put(it.url, "algo-2", body)
            assert status == 400
            assert set(json.loads(answer)) == {"error"}
            assert it.reports == []
            assert it.server.members.peers()[0].state is MemberState.UNSEEN

    asyncio.run(scenario())


def test_a_defect_behind_a_route_is_503_and_told_in_one_line() -> None:
    def broken() -> Snapshot:
        raise KeyError("phase")

    async def scenario() -> None:
        async with master(show=broken) as it:
            for path in ("/status", "/metrics"):
                assert await get(it.url + path) == (503, b'{"error": "not available"}\n')
            assert it.errors == [
                "GET /status: KeyError('phase')",
                "GET /metrics: KeyError('phase')",
            ]

    asyncio.run(scenario())


def test_slow_headers_are_cut_off() -> None:
    async def scenario() -> None:
        async with master(limits=Limits(header_timeout_s=0.2), lease_s=0.8) as it:
            reader, writer = await asyncio.open_connection("127.0.0.1", it.server.port)
            writer.write(b"GET /livez HTTP/1.1\r\nHost:")
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(scenario())


def test_a_slow_body_is_cut_off() -> None:
    async def scenario() -> None:
        async with master(limits=Limits(body_timeout_s=0.1)) as it:
            reader, writer = await asyncio.open_connection("127.0.0.1", it.server.port)
            writer.write(b"PUT /v1/hosts/algo-2 HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
            async with asyncio.timeout(10):
                assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            writer.close()
            assert it.reports == []

    asyncio.run(scenario())


def test_an_answer_that_nobody_reads_is_cut_off() -> None:
    def large() -> Snapshot:
        return snapshot() | {"timeline": [{"at": 0.0, "event": "x" * 10_000_000}]}

    async def scenario() -> None:
        limits = Limits(write_timeout_s=0.2, header_timeout_s=0.4)
        async with master(show=large, limits=limits, lease_s=0.8) as it:
            with socket.socket() as end:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                end.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(end, ("127.0.0.1", it.server.port))
                await loop.sock_sendall(end, b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: it.server._connections)
                await until(lambda: not it.server._connections)

    asyncio.run(scenario())


# --------------------------------------------------------------------------- floods

FAR = (Member("algo-2", "127.0.0.2", 1),)
"""With these 127.0.0.1 is a stranger's address."""


def knock(port: int, address: str) -> socket.socket:
    """Connect before the loop can turn: the kernel takes it, as it does in a flood."""
    return socket.create_connection(("127.0.0.1", port), 5, source_address=(address, 0))


async def ask(port: int, path: str, address: str) -> int:
    """The status of one answer to a connection from ``address``."""
    url = f"http://127.0.0.1:{port}{path}"
    async with asyncio.timeout(20), session(address) as client, client.get(url) as answer:
        await answer.read()
        return answer.status


async def holding(port: int, address: str, words: bytes, count: int) -> list[socket.socket]:
    """Open connections from one address, say the words on each and keep them."""
    held: list[socket.socket] = []
    for _ in range(count):
        end = knock(port, address)
        end.sendall(words)
        held.append(end)
        await asyncio.sleep(0)
    return held


@pytest.mark.parametrize("is_master", [True, False])
def test_connections_that_close_at_once_hold_the_loop_for_a_moment_only(is_master: bool) -> None:
    """Seen with 200 threads: the loop took all that the kernel's queue held in one turn, with a
    transport, a protocol and a task for each, and for 33 s it heard no member."""

    async def scenario() -> None:
        async with master(is_master=is_master, members=FAR) as it:
            counts = it.server._counts
            for _ in range(700):
                knock(it.server.port, "127.0.0.66").close()
            turns = most = 0
            while counts["connections"] < 700:
                before = counts["connections"]
                await asyncio.sleep(0)
                turns += 1
                most = max(most, counts["connections"] - before)
                assert not it.server._connections
            assert turns >= 3
            assert most <= Limits().accepts_per_turn
            assert await ask(it.server.port, "/livez", "127.0.0.77") == 200

    asyncio.run(scenario())


def connects(port: int, address: str, *, to: str = "127.0.0.1") -> bool:
    """Whether the kernel takes a connection, at the first try."""
    try:
        socket.create_connection((to, port), 0.3, source_address=(address, 0)).close()
    except TimeoutError:
        return False
    return True


def test_who_fills_the_kernels_queue_is_shut_out_for_a_while() -> None:
    """A machine whose cores are all busy accepts more slowly than another one can connect; then
    the queue was full of the stranger's connections, and the members' were dropped with them."""

    async def scenario() -> None:
        limits = Limits(shut_s=3.0, backlog=1000)
        async with master(members=FAR, limits=limits) as it:
            port = it.server.port
            for _ in range(900):
                knock(port, "127.0.0.66").close()
            await until(lambda: it.server._counts["connections"])
            assert not connects(port, "127.0.0.66")
            assert await ask(port, "/livez", "127.0.0.77") == 200
            assert (await put(it.url, "algo-2", GOOD, address="127.0.0.2"))[0] == 200
            await until(lambda: connects(port, "127.0.0.66"))

    asyncio.run(scenario())


def test_only_what_is_new_and_of_these_addresses_is_shut_out() -> None:
    """IPv4 on a socket of both families too, and a /64 of IPv6."""
    with socket.create_server(
        ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100
    ) as end:
        port = int(end.getsockname()[1])
        with socket.create_connection(("127.0.0.1", port), 5, ("127.0.0.66", 0)) as earlier:
            accepted, _peer = end.accept()
            assert shut_out(end, ["10.0.0.1", "127.0.0.66", "fd00::/64"])
            assert not connects(port, "127.0.0.66")
            assert connects(port, "127.0.0.77")
            assert connects(port, "::1", to="::1")
            assert queue_share(end) == 2 / 100
            with accepted:
                accepted.sendall(b"goes on")
                assert earlier.recv(7) == b"goes on"
        for shut in ("::1", "::/64"):
            assert shut_out(end, ["fd00::1", shut])
            assert not connects(port, "::1", to="::1")
            assert connects(port, "127.0.0.66")
        assert shut_out(end, [])
        assert connects(port, "::1", to="::1")


FLOOD = """
import socket, sys, time
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1, (sys.argv[2], 0))
        if sys.argv[3] == "talk":
            s.sendall(b"GET /status HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        s.close()
    except OSError:
        pass
"""


@pytest.mark.xdist_group("floods")
@pytest.mark.parametrize("what", ["close", "talk"])
@pytest.mark.parametrize("source", ["127.0.0.66", "127.0.0.1"])
def test_a_member_loses_nothing_under_a_flood(source: str, what: str) -> None:
    """Neither under a stranger's nor under one from its own address: a neighbour's script."""

    async def scenario() -> None:
        async with (
            master(lease_s=6.0) as it,
            link(it.server.port, lease_s=6.0, wait_s=0.2) as member,
        ):
            await until(lambda: member.link.document)
            flood = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", FLOOD, str(it.server.port), source, what)
            )
            phases = [Phase.JOINING, Phase.RUNNING]
            slowest_s, reports = 0.0, 0
            while flood.returncode is None:
                began = time.monotonic()
                assert await ask(it.server.port, "/livez", "127.0.0.77") == 200
                assert await ask(it.server.port, "/readyz", "127.0.0.78") == 200
                slowest_s = max(slowest_s, time.monotonic() - began)
                reports += 1
                member.link.report(ev.Report(phases[reports % 2], script_ended=False, cause=None))
                assert await member.link.flush(6)
            assert it.server._counts["connections"] > 50, "on a busy machine too"
            assert slowest_s < 6
            assert it.lost == []
            assert not member.of(ev.MasterLost)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"", id="nothing said"),
        pytest.param(b"GET /livez HTTP/1.1\r\nHost:", id="half a head"),
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", id="idle after an answer"),
    ],
)
def test_idle_strangers_give_way(words: bytes) -> None:
    """70 idle connections of one stranger made ``/livez`` 503 for the orchestrator."""

    async def scenario() -> None:
        limits = Limits(waiting_per_address=16, waiting=32)
        async with master(members=FAR, limits=limits) as it:
            port = it.server.port
            held = await holding(port, "127.0.0.66", words, 80)
            for path in ("/livez", "/readyz", "/status"):
                assert await ask(port, path, "127.0.0.77") == 200
                assert await ask(port, path, "127.0.0.66") == 200
            assert (await put(it.url, "algo-2", GOOD, address="127.0.0.2"))[0] == 200
            await until(lambda: it.server._counts["connections"] >= 87)
            assert len(it.server._connections) <= limits.connections_per_address
            # Whoever came first went first, and the last is served yet.
            held[-1].setblocking(False)
            if words:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(held[-1], words if words.endswith(b"\n") else b" x\r\n\r\n")
                async with asyncio.timeout(5):
                    assert (await loop.sock_recv(held[-1], 99)).startswith(b"HTTP/1.1 200 ")
            for end in held:
                end.close()

    asyncio.run(scenario())


def test_health_is_answered_when_nobody_gives_way() -> None:
    """Every place is taken by a request that is being answered: health needs none."""

    async def scenario() -> None:
        state = (False, "joining")
        limits = Limits(stranger_connections=4)
        poll = b"GET /v1/job?after=1&instance=run-1&run=run-1&wait=30 HTTP/1.1\r\nHost: x\r\n\r\n"
        async with master(members=FAR, limits=limits, ready=lambda: state) as it:
            port = it.server.port
            held = [
                end
                for number in range(4)
                for end in await holding(port, f"127.0.0.{60 + number}", poll, 1)
            ]
            await until(lambda: sum(one.busy for one in it.server._connections) == 4)
            for _ in range(20):
                assert await ask(port, "/livez", "127.0.0.77") == 200
            async with session("127.0.0.77") as client:
                async with client.get(f"{it.url}/readyz") as answer:
                    assert answer.status == 503
                    assert await answer.json() == {"ready": False, "reason": "joining"}
                async with client.head(f"{it.url}/livez") as answer:
                    assert (answer.status, await answer.read()) == (200, b"")
                async with client.get(f"{it.url}/status") as answer:
                    assert answer.status == 503
                    assert await answer.json() == {"error": "too many connections"}
            assert (await put(it.url, "algo-2", GOOD, address="127.0.0.2"))[0] == 200
            for end in held:
                end.close()

    asyncio.run(scenario())


def test_strangers_have_a_rate_each() -> None:
    """One uses up its own, neither another's nor that of the health routes."""

    async def scenario() -> None:
        limits = Limits(requests_per_s=0.001, requests_burst=3)
        async with master(members=FAR, limits=limits) as it:
            port = it.server.port
            found = [await ask(port, "/status", "127.0.0.66") for _ in range(5)]
            assert found == [200, 200, 200, 429, 429]
            assert [await ask(port, "/livez", "127.0.0.66") for _ in range(5)] == [200] * 5
            assert await ask(port, "/status", "127.0.0.77") == 200
            assert (await put(it.url, "algo-2", GOOD, address="127.0.0.2"))[0] == 200

    asyncio.run(scenario())


def test_new_connections_have_a_rate_each() -> None:
    async def scenario() -> None:
        limits = Limits(admissions_per_s=0.001, admissions_burst=3)
        async with master(members=FAR, limits=limits) as it:
            port = it.server.port
            found = [await ask(port, "/status", "127.0.0.66") for _ in range(5)]
            assert found == [200, 200, 200, 503, 503]
            assert await ask(port, "/livez", "127.0.0.66") == 200
            assert await ask(port, "/status", "127.0.0.77") == 200
            # A script at a member's address does not use up what the member's reports need.
            for _ in range(10):
                await ask(port, "/status", "127.0.0.2")
            assert (await put(it.url, "algo-2", GOOD, address="127.0.0.2"))[0] == 200

    asyncio.run(scenario())


def test_the_readers_of_one_address_leave_places_for_others() -> None:
    async def scenario() -> None:
        async with master(members=FAR, limits=Limits(event_readers=4)) as it:
            events = f"{it.url}/events"
            async with session("127.0.0.66") as greedy, session("127.0.0.77") as other:
                found = [await greedy.get(events) for _ in range(4)]
                assert [answer.status for answer in found] == [200, 200, 503, 503]
                found.append(await other.get(events))
                assert found[-1].status == 200
                for answer in found:
                    answer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"a: b\r\n" * 5000, id="many"),
        pytest.param((b"a: " + b"b" * 4000 + b"\r\n") * 10, id="large"),
    ],
)
def test_a_head_has_a_bound(head: bytes) -> None:
    """Each field had a bound, the head had none: 42 MB became 197 under a flood of them."""

    async def scenario() -> None:
        async with master(members=FAR) as it:
            answer = await raw(it.server.port, b"GET /livez HTTP/1.1\r\n" + head + b"\r\n")
            assert answer == b"" or answer.split()[1] == b"400"
            assert await ask(it.server.port, "/livez", "127.0.0.1") == 200

    asyncio.run(scenario())


def test_the_body_of_a_refused_request_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies of one-byte chunks, each parsed although 403 was the answer long ago, took the loop
    for seconds. The answer comes before the body's end, and then the connection is closed."""

    def parsed(data: bytes) -> None:
        pytest.fail(f"{len(data)} bytes parsed")

    async def scenario() -> None:
        limits = Limits(refused_bytes=50_000)
        async with master(members=FAR, limits=limits) as it:
            reader, writer = await asyncio.open_connection("127.0.0.1", it.server.port)
            writer.write(
                b"PUT /v1/hosts/algo-2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")
                [connection] = it.server._connections
                assert connection.transport is not None
                handler = connection.transport.get_protocol()
                assert isinstance(handler, asyncio.BufferedProtocol)
                monkeypatch.setattr(type(handler), "data_received", lambda _, data: parsed(data))

                async def pour() -> None:
                    while True:
                        writer.write(b"1\r\na\r\n" * 10_000)
                        await writer.drain()

                with pytest.raises(ConnectionError):
                    await pour()
            writer.close()

    asyncio.run(scenario())


def test_requests_that_come_at_once_are_answered_one_after_the_other() -> None:
    async def scenario() -> None:
        async with master(members=FAR) as it:
            last = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
            answer = await raw(
                it.server.port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 100 + last
            )
            assert answer.count(b"HTTP/1.1 200 OK") == 100
            assert answer.count(b"HTTP/1.1 404 ") == 1

    asyncio.run(scenario())


def test_stopping_under_a_flood() -> None:
    async def scenario() -> None:
        async with master(members=FAR) as it:
            held = await holding(it.server.port, "127.0.0.66", b"", 50)
            held += await holding(it.server.port, "127.0.0.67", b"GET / HT", 50)
            for _ in range(100):
                knock(it.server.port, "127.0.0.66").close()
            began = time.monotonic()
            await it.server.stop()
            assert time.monotonic() - began < 5
            for end in held:
                end.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("address", "seats", "key"),
    [
        ("10.0.0.7", 0, "10.0.0.7"),
        ("fd00::1:2:3:4", 0, "fd00::/64"),
        ("fd00::5:6:7:8", 0, "fd00::/64"),
        ("fd00:0:0:1::1", 0, "fd00:0:0:1::/64"),
        ("fd00::1:2:3:4", 1, "fd00::1:2:3:4"),
        ("", 0, ""),
    ],
)
def test_what_the_limits_of_an_address_are_counted_by(address: str, seats: int, key: str) -> None:
    assert key_of(address, seats) == key


def _visitor(key: str, *, seats: int = 0, at: float = 0.0, **more: Any) -> Connection:
    visitor = Connection(key, key, seats, at, trusted=seats > 0, **more)
    visitor.idle_since = at
    return visitor


def test_who_goes_for_whom() -> None:
    """The longest idle of the greediest address; what is proven a member's never."""
    pool = Pool(Limits(stranger_connections=4, connections_per_address=3), members=1)
    greedy = [_visitor("a", at=float(number)) for number in range(3)]
    scraper = _visitor("b", at=-9.0)
    assert all(pool.enter(one) for one in (*greedy, scraper))
    assert pool.enter(_visitor("c"))
    assert greedy[0] not in pool
    assert scraper in pool
    # At its own limit an address gives up its own.
    pool.leave(scraper)
    assert pool.enter(_visitor("a", at=9.0))
    assert pool.enter(_visitor("a", at=10.0))
    assert greedy[1] not in pool
    assert len(pool) == 4
    # Nobody is sent away in the middle of an answer for somebody who has as much.
    for one in pool:
        one.busy = True
    assert not pool.enter(_visitor("a"))
    assert pool.enter(_visitor("d"))

    member = _visitor("m", seats=1, host="algo-2")
    others = [_visitor("m", seats=1, busy=True) for _ in range(5)]
    assert all(pool.enter(one) for one in (member, *others))
    for _ in range(20):
        assert pool.enter(_visitor("m", seats=1, busy=True))
    assert member in pool


METHODS = st.sampled_from([b"GET", b"PUT", b"HEAD", b"POST", b"OPTIONS", b"PATCH", b"BREW"])
PATHS = st.one_of(
    st.sampled_from(
        [b"/", b"/livez", b"/readyz", b"/status", b"/metrics", b"/v1/job", b"/v1/hosts/algo-2"]
    ),
    st.binary(max_size=30).map(lambda tail: b"/" + tail),
    st.binary(max_size=20).map(lambda tail: b"/v1/job?" + tail),
    st.binary(max_size=20).map(lambda tail: b"/v1/hosts/" + tail),
    st.binary(max_size=30),
)
HEADERS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(
                [
                    b"Content-Length",
                    b"Transfer-Encoding",
                    b"Content-Encoding",
                    b"Expect",
                    b"Authorization",
                    b"Connection",
                    b"Upgrade",
                    b"Range",
                    b"If-None-Match",
                    b"Cookie",
                    b"Content-Type",
                ]
            ),
            st.one_of(
                st.binary(max_size=20),
                st.sampled_from([b"chunked", b"gzip", b"100-continue", b"close", b"websocket"]),
                st.integers(-5, 200).map(lambda number: str(number).encode()),
            ),
        ),
        st.tuples(st.binary(max_size=10), st.binary(max_size=20)),
    ),
    max_size=4,
)
BODIES = st.one_of(st.binary(max_size=200), st.just(GOOD), st.just(b"5\r\nhello\r\n0\r\n\r\n"))


def test_fuzzed_requests_cannot_hurt(
    recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever comes, the answers are 2xx, 4xx or 503, or the connection ends.

    No task dies, nothing is logged, and afterwards the server serves.
    """
    complaints: list[dict[str, Any]] = []

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        # What is incomplete or kept alive is hung up on soon.
        limits = Limits(body_timeout_s=0.05, header_timeout_s=0.1, idle_timeout_s=0.05)
        stack = master(limits=limits, lease_s=0.4)
        it: Master = runner.run(stack.__aenter__())

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(METHODS, PATHS, HEADERS, BODIES)
        def fuzz(
            method: bytes, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes
        ) -> None:
            head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            request = method + b" " + path + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + body
            answer = runner.run(raw(it.server.port, request))
            if answer:
                status = int(answer.split(b" ", 2)[1])
                assert 100 <= status < 300 or 400 <= status < 500 or status == 503, answer

        fuzz()
        assert runner.run(get(f"{it.url}/livez"))[0] == 200
        runner.run(stack.__aexit__(None, None, None))
    assert complaints == []
    assert it.errors == []
    assert len(recwarn) == 0
    assert capfd.readouterr().err == ""


# --------------------------------------------------------------------------- the port


def test_a_port_that_is_taken_is_one_clear_error() -> None:
    async def scenario() -> None:
        async with master() as it:
            with pytest.raises(
                BindError, match=rf"port {it.server.port} is held by pid \d+ \(.*py"
            ):
                async with master(port=it.server.port):
                    pass

    asyncio.run(scenario())


def test_an_address_of_another_machine_is_one_clear_error() -> None:
    async def scenario() -> None:
        with pytest.raises(BindError, match=r"on 192\.0\.2\.1 cannot be bound"):
            async with master(bind="192.0.2.1"):
                pass

    asyncio.run(scenario())


@pytest.mark.parametrize("bind", ["", "0.0.0.0"])
def test_every_interface_is_served_and_a_mapped_address_is_still_the_members(bind: str) -> None:
    """On a dual-stack socket IPv4 peers show up as ``::ffff:127.0.0.1``."""

    async def scenario() -> None:
        async with master(bind=bind) as it:
            assert (await put(it.url, "algo-2", GOOD))[0] == 200

    asyncio.run(scenario())


def test_a_stopped_server_lets_its_port_go() -> None:
    async def scenario() -> None:
        port = free_port()
        for _ in range(3):
            async with master(port=port) as it, link(port) as member:
                await until(lambda: member.link.document)
                assert (await get(f"{it.url}/livez"))[0] == 200

    asyncio.run(scenario())


# --------------------------------------------------------------------------- watching members


def test_a_silent_member_is_lost_after_the_lease() -> None:
    async def scenario() -> None:
        async with master(members=MEMBERS, lease_s=0.4) as it:
            began = time.monotonic()
            await put(it.url, "algo-2", GOOD)
            await until(lambda: it.lost)
            assert time.monotonic() - began >= 0.4
            [(host, evidence)] = it.lost
            assert host == "algo-2"
            assert evidence.startswith("unreachable: nothing heard for ")

    asyncio.run(scenario())


def test_members_that_poll_or_are_done_are_not_lost() -> None:
    async def scenario() -> None:
        members = (*MEMBERS, Member("algo-4", "127.0.0.1", 1))
        async with master(members=members, lease_s=0.6) as it:
            report = HostReport("m-4", Phase.DONE, True, CAUSE, 0, 1)
            await put(it.url, "algo-4", encode_report(report))
            await put(it.url, "algo-3", GOOD, address="127.0.0.2")
            async with link(it.server.port, lease_s=0.6):
                await until(lambda: it.lost)
                gone = time.monotonic() + 1.2
                await until(lambda: time.monotonic() > gone)
            assert [host for host, _ in it.lost] == ["algo-3"]

    asyncio.run(scenario())


def test_the_masters_own_standstill_is_not_its_members_silence() -> None:
    """A loop that did not turn for three leases heard nobody, and must not blame them for it."""

    async def scenario() -> None:
        async with (
            master(lease_s=0.8) as it,
            link(it.server.port, lease_s=60, wait_s=0.1) as member,
        ):
            await until(lambda: member.link.document)
            time.sleep(2.4)  # noqa: ASYNC251 - the standstill itself
            gone = time.monotonic() + 0.6
            await until(lambda: time.monotonic() > gone)
            assert it.lost == []

    asyncio.run(scenario())


def test_a_dropped_poll_and_a_closed_port_is_a_crash() -> None:
    """Long before the lease: the member's own status port had opened and now refuses."""

    async def scenario() -> None:
        async with master(members=()) as member_server:
            port = member_server.server.port
            async with master(members=(Member("algo-2", "127.0.0.1", port),)) as it:
                async with link(it.server.port) as member:
                    await until(lambda: member.link.document)
                    await until(lambda: it.server.members._watch.proven_open("algo-2"))
                    await member_server.server.stop()
                    assert it.lost == []
                await until(lambda: it.lost)
                assert it.lost == [
                    (
                        "algo-2",
                        (
                            f"crashed: 127.0.0.1:{port} refuses connections: "
                            "3 connections refused in a row"
                        ),
                    )
                ]
                assert it.server.members.peers()[0].state is MemberState.CRASHED

    asyncio.run(scenario())


def test_a_port_that_closes_a_moment_after_the_connection_is_a_crash_too() -> None:
    """Seen on a loaded machine: the kernel closes a killed process's descriptors one by one, and
    a knock between the connection and the listening socket found the door still open."""

    async def scenario() -> None:
        async with master(members=()) as member_server:
            port = member_server.server.port
            async with master(members=(Member("algo-2", "127.0.0.1", port),)) as it:
                async with link(it.server.port) as member:
                    await until(lambda: member.link.document)
                    await until(lambda: it.server.members._watch.proven_open("algo-2"))
                knocked = member_server.server._counts["connections"]
                await until(lambda: member_server.server._counts["connections"] > knocked)
                await member_server.server.stop()
                await until(lambda: it.lost)
                assert it.lost[0][1].startswith("crashed: ")

    asyncio.run(scenario())


def test_a_dropped_poll_alone_is_nothing() -> None:
    async def scenario() -> None:
        async with (
            master(members=()) as member_server,
            master(members=(Member("algo-2", "127.0.0.1", member_server.server.port),)) as it,
        ):
            for _ in range(3):
                async with link(it.server.port, instance="m-1") as member:
                    await until(lambda: member.link.document)
            await until(lambda: not it.server._connections)
            await until(lambda: not it.server.members._doors._tasks)
            assert it.lost == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (lambda _port: Member("algo-2", "no-such-host.invalid", 2224), "DNS"),
        (lambda _port: Member("algo-2", "127.0.0.1", free_port()), " refused"),
        (lambda port: Member("algo-2", "127.0.0.1", port), "has not reported"),
    ],
)
def test_why_a_member_is_missing(member: Callable[[int], Member], reason: str) -> None:
    async def scenario() -> None:
        async with master() as other, master(members=(member(other.server.port),)) as it:
            said = await it.server.members.explain(["algo-2", "unknown"])
            assert list(said) == ["algo-2"]
            assert reason in said["algo-2"]

    asyncio.run(scenario())
