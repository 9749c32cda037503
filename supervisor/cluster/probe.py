"""A member's link to its master: long poll, reports, liveness.

HTTP first: the master's status port gives the job document, and every answer is a sign of life.
Only while it has never answered is the chief's own TCP port looked at, for masters that run
another entrypoint. What observations mean is decided in ``liveness.py``; this module makes them
and tells the life cycle what follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_never,
    wait_random_exponential,
)

from supervisor.cluster import beat
from supervisor.cluster.liveness import (
    ActiveClock,
    ChiefOpen,
    ChiefRefused,
    ChiefSilent,
    Ended,
    Finding,
    How,
    Lost,
    MasterLiveness,
    MasterState,
    Observation,
    Seen,
    Tick,
)
from supervisor.cluster.master_port import MasterPort
from supervisor.cluster.net import Knock, Resolver, knock
from supervisor.cluster.outbox import Outbox
from supervisor.cluster.protocol import VERSION, JobDocument, JobIdentity, encode_report
from supervisor.life import events as ev
from supervisor.life.attempts import Past
from supervisor.life.words import JobState, place

Post = Callable[[ev.MasterSeen | ev.JobChanged | ev.MasterLost | ev.MasterEnded], None]


_MOST_STATUS = 16 * 1024 * 1024


class _NoAnswerError(Exception):
    """An attempt that brought no answer; the observation is made, the attempt worth repeating."""


class _OverError(_NoAnswerError):
    """The master is at a later attempt of the job than was spoken of."""


class MasterLink:
    """Keeps a member in touch with its master until cancelled.

    Args:
        host: this member's name.
        master_host: the master's name, for messages.
        status_endpoint: address (a name is looked up for every connection) and status port.
        chief_endpoint: address and TCP port of the chief; None switches the fallback off.
        token: the job's secret; None where none is configured.
        post: takes what follows, in the event loop; must not block.
        lease_s: silence after which the master is unreachable.
        refused_count: connections refused in a row that prove a crash …
        refused_window_s: … when they are spread over at least this long.
        bare_after_s: how long the chief's port must be open and the status port not, until the
            master is taken for one without a status server.
        wait_s: length of a long poll; a quarter of the lease if None. An answer may take
            `slack_s` longer.
        slack_s: time allowed for a connection, and for an answer beyond its wait; if None, a
            fifth of the lease, 5 s at most: a delay of 2 s each way fits.
        instance: names this run of the supervisor; random if None.
        job: the job that this host is of.
        rejoins: whether a master that is gone while the job runs may come back, where the job goes
            on after a failure.

    """

    def __init__(
        self,
        *,
        host: str,
        master_host: str,
        status_endpoint: tuple[str, int],
        post: Post,
        chief_endpoint: tuple[str, int] | None = None,
        token: str | None = None,
        lease_s: float = 30.0,
        refused_count: int = 4,
        refused_window_s: float = 1.0,
        bare_after_s: float = 10.0,
        wait_s: float | None = None,
        slack_s: float | None = None,
        instance: str | None = None,
        job: JobIdentity | None = None,
        resolver: Resolver | None = None,
        rejoins: bool = False,
    ) -> None:
        self._host = host
        self._rejoins = rejoins
        self._chief = chief_endpoint
        self._post = post
        self._lease_s = lease_s
        self._wait_s = min(30.0, lease_s / 4) if wait_s is None else wait_s
        self._slack_s = min(5.0, lease_s / 5) if slack_s is None else slack_s
        self._refused_pause_s = refused_window_s / max(1, refused_count - 1)
        self._instance = instance or os.urandom(8).hex()
        self._job = job or JobIdentity()
        self._resolver = resolver or Resolver()
        self._port = MasterPort(
            status_endpoint,
            master_host,
            token=token,
            slack_s=self._slack_s,
            resolver=self._resolver,
        )
        self._outbox = Outbox(self._instance, self._job)
        self._tick_s = min(1.0, lease_s / 8)
        self._clock = ActiveClock(time.monotonic(), max_step_s=4 * self._tick_s)
        self._liveness = MasterLiveness(lease_s, refused_count, refused_window_s, bare_after_s)
        self._document: JobDocument | None = None
        self._past: tuple[Past, ...] = ()
        """How attempts ended, as last heard: a master that is new knows less …"""
        self._world: tuple[int, ...] = ()
        """… and which hosts train."""
        self._in_touch = False
        """Whether the last poll was answered."""
        self._answers = asyncio.Event()
        """Set at the first answer: before it, a report has nowhere to go."""
        self.latency_s: float | None = None
        """How long the master's last answer took, its wait not counted."""
        self.prepared_s: float | None = None
        """How long this host took until it waited for the others; told with every report."""
        self.problem: str | None = None
        """Why the master refuses this member, if it does: ``answered 403 (…)``."""

    # ----------------------------------------------------------------- what people ask

    @property
    def state(self) -> MasterState:
        return self._liveness.state

    @property
    def silence_s(self) -> float | None:
        """Seconds since the master's last sign of life, our own suspensions not counted; None
        before the first."""
        if self.state is MasterState.UNSEEN:
            return None
        return self._liveness.silence_s(self._clock.advance(time.monotonic()))

    @property
    def evidence(self) -> str:
        """What is known of the master, for messages: ``no answer on 2224``, ``answers``."""
        return self.problem or self._liveness.evidence

    @property
    def answers(self) -> bool:
        """Whether the master answers now, as far as is known."""
        return self.state in {MasterState.UP, MasterState.DRAINING, MasterState.ENDED}

    @property
    def document(self) -> JobDocument | None:
        """The job's document as last heard."""
        return self._document

    # ----------------------------------------------------------------- reports

    def report(self, told: ev.Report) -> None:
        """Tell the master where this host stands: at once, and until it is acknowledged.

        A later report replaces one that is still on its way.
        """
        self._outbox.put(told)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the latest report is acknowledged.

        False if ``timeout_s`` seconds pass, and at once where nobody is there to hear it: the
        master crashed, or a bare one closed its port.
        """
        return await self._outbox.flush(timeout_s)

    # ----------------------------------------------------------------- life

    async def run(self) -> None:
        """Poll, report and watch until cancelled."""
        async with self._port, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_polling(), name="master poll")
            tasks.create_task(self._keep_reporting(), name="master report")
            tasks.create_task(self._keep_time(), name="master lease")
            if self._chief is not None:
                tasks.create_task(self._keep_knocking(self._chief), name="chief port")

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(beat.rest_s(self._tick_s))
            self._observe(Tick())

    async def _keep_polling(self) -> None:
        while True:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_NoAnswerError),
                wait=self._pause_s,
                stop=stop_never,  # the lease and the life cycle bound it, by cancelling
            ):
                with attempt:
                    await self._poll()

    async def _poll(self) -> None:
        document = self._document
        # After a failure the question is whether it lives: asked for an answer at once.
        wait_s = self._wait_s if self._in_touch and document is not None else 0.0
        self._in_touch = False
        params = {
            "v": str(VERSION),
            "host": self._host,
            "instance": self._instance,
            "job": self._job.name,
            "cluster": self._job.cluster,
            "run": document.run if document else "",
            "attempt": str(document.attempt if document else 1),
            "after": str(document.revision if document else 0),
            "wait": f"{wait_s:g}",
        }
        began = time.monotonic()
        await self._ask("GET", "/v1/job", params=params, timeout_s=wait_s + self._slack_s)
        self._in_touch = True
        if self._document is document:
            # No news, so it was held for the whole wait, and the rest is what the answer took.
            self.latency_s = max(0.0, time.monotonic() - began - wait_s)

    async def _keep_reporting(self) -> None:
        while True:
            await self._outbox.wait()
            await self._answers.wait()
            self._outbox.taken()
            try:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(_NoAnswerError),
                    wait=self._pause_s,
                    stop=stop_after_attempt(5),
                    reraise=True,
                ):
                    with attempt:
                        await self._send()
            except _NoAnswerError:
                # Out of attempts: a new round, because the report is not to be lost.
                self._outbox.not_sent()

    async def _send(self) -> None:
        report = self._outbox.newest  # the latest, on every attempt
        if report is None:
            return
        heard, run = (self._document.revision, self._document.run) if self._document else (0, "")
        began = time.monotonic()
        # A report of an attempt that is over is of no use to anybody: the poll brings the document,
        # and with it there is another to make.
        with contextlib.suppress(_OverError):
            await self._ask(
                "PUT",
                f"/v1/hosts/{self._host}",
                body=encode_report(
                    replace(
                        report,
                        heard=heard,
                        run=run,
                        past=self._past,
                        world=self._world,
                        prepared_s=self.prepared_s,
                    )
                ),
                timeout_s=2 * self._slack_s,
            )
        self.latency_s = time.monotonic() - began
        self._outbox.acknowledge(report)

    async def _keep_knocking(self, chief: tuple[str, int]) -> None:
        """Look at the chief's own port, only for as long as the status port never answered."""
        while self._liveness.wants_chief:
            address, port = chief
            found = await knock(address, port, resolver=self._resolver, timeout_s=self._slack_s)
            match found.knock:
                case Knock.OPEN:
                    self._observe(ChiefOpen())
                case Knock.REFUSED:
                    self._observe(ChiefRefused(found.evidence))
                case Knock.SILENT:
                    self._observe(ChiefSilent(found.evidence))
            closing = self.state is MasterState.BARE and found.knock is not Knock.OPEN
            await asyncio.sleep(self._refused_pause_s if closing else min(1.0, self._lease_s / 8))

    def _pause_s(self, retry: RetryCallState) -> float:
        """Seconds to the next attempt: short where a crash is to be proven, else with back-off."""
        if self._liveness.state in (MasterState.UP, MasterState.DRAINING) and not self.problem:
            return self._refused_pause_s * random.uniform(0.7, 1.0)  # noqa: S311 - jitter
        # A thousand members must not call in step, and none less than some times in a lease.
        longest_s = min(2.0, self._lease_s / 8)
        return wait_random_exponential(multiplier=0.2, max=longest_s)(retry) + 0.02

    # ----------------------------------------------------------------- what was heard

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> None:
        """Make one request, tell what was observed, and take in the job document.

        Raises:
            _NoAnswerError: refused, silent, broken off; or alive but not for us: a wrong token,
                another program, too many connections.
            _OverError: alive and our master, at a later attempt of the job than the report's.

        """
        heard = await self._port.ask(method, path, timeout_s=timeout_s, params=params, body=body)
        document = heard.document
        if document is not None or heard.over or heard.problem is not None:
            self.problem = heard.problem
        self._observe(heard.observation)
        if document is None:
            raise _OverError if heard.over else _NoAnswerError
        if self.state is not MasterState.LOST:  # else whatever is said now is not meant for us
            self._take(document)

    def _take(self, document: JobDocument) -> None:
        self._answers.set()
        known = self._document
        if known is not None and known.run == document.run and document.revision <= known.revision:
            return
        if known is not None and (known.run != document.run or _begins_again(known, document)):
            # The master's supervisor is a new one and knows nothing of us.
            self._outbox.forgotten()
        self._document = document
        self._past = document.past or self._past
        self._world = document.order.world if document.order else self._world
        self._liveness.may_return = self._rejoins and document.restarts
        self._post(_changed(document))

    def _observe(self, observation: Observation) -> None:
        finding = self._liveness.observe(observation, self._clock.advance(time.monotonic()))
        if isinstance(finding, Seen):
            self._outbox.forgotten()  # it may be another one, that knows nothing of us
        if finding is not None:
            crashed = isinstance(finding, Lost) and finding.how is not How.UNREACHABLE
            self._outbox.found(nobody_listens=crashed or isinstance(finding, Ended))
            self._post(_event(finding))


async def who_serves(address: str, port: int, *, timeout_s: float) -> Mapping[str, object] | None:
    """Ask a status port who it is: its ``/status``, empty where no supervisor answers.

    None where nothing was answered within ``timeout_s`` seconds.
    """
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(trust_env=False) as session,
            session.get(f"http://{place(address, port)}/status", allow_redirects=False) as answer,
        ):
            body = await answer.content.readexactly(min(answer.content_length or 0, _MOST_STATUS))
            status = json.loads(body)
    except TimeoutError:
        return None
    except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError, ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) else {}


def _begins_again(known: JobDocument, document: JobDocument) -> bool:
    """Whether a master has taken the run up that we follow. It may come so soon that the one before
    is not missed."""
    return document.state is JobState.JOINING and known.state is not JobState.JOINING


def _changed(document: JobDocument) -> ev.JobChanged:
    return ev.JobChanged(
        document.state,
        document.verdict,
        document.missing,
        document.restore,
        document.order,
        document.restarts,
    )


def _event(finding: Finding) -> ev.MasterSeen | ev.MasterLost | ev.MasterEnded:
    match finding:
        case Seen(bare):
            return ev.MasterSeen(bare)
        case Lost(how, evidence, final):
            return ev.MasterLost(how.value, evidence, time.time(), final)
        case Ended(evidence):
            return ev.MasterEnded(evidence, time.time())
