"""How one host and the others of its job know of each other: the status port, on the master the
job's board behind it, on a member the link to the master; and, while they wait for each other, who
is missing and why.

What is heard becomes events. What needs aiohttp is loaded when it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from supervisor.aside import Aside
from supervisor.contract.facts import OVERLAY, RESOURCES
from supervisor.host.files import READY_S
from supervisor.host.present import Present
from supervisor.host.tasks import Tasks
from supervisor.host.timeline import Say
from supervisor.life import events as ev
from supervisor.life.words import CauseKind, JobState, Phase
from supervisor.plan.plan import Plan
from supervisor.streams.masking import Masker
from supervisor.streams.recent import Recent

if TYPE_CHECKING:  # not needed before the script's start: loaded when they are used
    from supervisor.cluster.probe import MasterLink
    from supervisor.cluster.protocol import HostReport, JobIdentity
    from supervisor.status.board import JobBoard
    from supervisor.status.server import StatusServer
    from supervisor.status.snapshot import HostRow, Sample, Snapshot

WAITING_FIRST_S: Final = 2.0
WAITING_EVERY_S: Final = 5.0
"""While hosts wait for each other, this often a line says for whom and why; the first comes after
``WAITING_FIRST_S``."""
WAITING_KNOCKS: Final = 64
"""So many missing hosts are asked why, each time."""
SAME_ADDRESS_S: Final = 2.0
"""So long the hosts' names are looked up for one that has our address."""
WHO_IS_IT_S: Final = 2.0
"""So long whoever has our status port may take to say who it is."""
FLUSH_S: Final = 1.0
"""At the very end: for the last words to the master, or to members that have not heard them."""
FIRST_WORD_S: Final = 20.0
"""… and where they are the first ones. Hosts of a job start at about the same time, and one that
fails at once may be over before its master serves, which then waits for its whole join timeout. A
stop signal cuts it short."""


class Coordination:
    """The status server of a host, and the board or the link beside it; none of them at first."""

    def __init__(
        self,
        present: Present,
        *,
        post: Callable[[ev.Event], None],
        say: Say,
        tasks: Tasks,
        snapshot: Callable[[], Snapshot],
        samples: Callable[[], Iterable[Sample]],
        recent: Recent,
        masker: Masker,
    ) -> None:
        """``snapshot`` and ``samples`` are what the status port shows, secrets masked; ``recent``
        is what the processes wrote last, as it is."""
        self._present = present
        self._post = post
        self._say = say
        self._tasks = tasks
        self._snapshot = snapshot
        self._samples = samples
        self._recent = recent
        self._masker = masker
        self._server: StatusServer | None = None
        self._board: JobBoard | None = None
        """On the master of a cluster."""
        self._link: MasterLink | None = None
        """On a member."""
        self.prepared: dict[str, float] = {}
        """On the master: how long members took until they waited for the others, in seconds."""
        self._began = time.monotonic()

    # ------------------------------------------------------------------ it begins

    async def begin(self) -> str | None:
        """Serve the status port, and the job on it or the link to it; what went wrong, or None."""
        from supervisor.cluster.probe import MasterLink  # noqa: PLC0415
        from supervisor.status.board import JobBoard  # noqa: PLC0415
        from supervisor.status.server import BindError  # noqa: PLC0415

        plan = self._present.plan
        if plan.is_master:
            self._board = JobBoard(
                os.urandom(8).hex(),
                missing=tuple(plan.hosts[1:]),
                restarts=plan.contract.settings.restarts > 0,
            )
        failed: BindError | None = None
        try:
            await self._open_status_port()
        except BindError as error:
            failed = error
        # A supervisor whose port is another one's of the same host says nothing to the master: it
        # would end the job of the other one.
        if not plan.is_master and not (failed and failed.taken and await _is_a_second_one(plan)):
            self._link = self._new_link(MasterLink)
            self._tasks.serve("link to the master", self._link.run())
        if failed:
            return str(failed) + await _at_our_address(plan)
        self._tasks.serve("who is missing", self._keep_explaining(), vital=False)
        return None

    async def serve_alone(self, after_s: float) -> None:
        """The status port of a job of one host, ``after_s`` from now."""
        await asyncio.sleep(after_s)
        # A quarter of a second, in which the loop still hears signals. Whoever imports it next is
        # told what went wrong.
        with contextlib.suppress(Exception):
            await Aside("import")(READY_S, importlib.import_module, "supervisor.status.server")
        from supervisor.status.server import BindError  # noqa: PLC0415

        try:
            await self._open_status_port()
        except BindError as error:
            # Nobody coordinates over it: a job of one host goes on without.
            self._say("warning", "status.unavailable", error=str(error))

    async def _open_status_port(self) -> None:
        from supervisor.status.doors import Member  # noqa: PLC0415
        from supervisor.status.lines import Lines  # noqa: PLC0415
        from supervisor.status.server import StatusServer  # noqa: PLC0415

        plan = self._present.plan
        others = [(name, plan.endpoints[name].status) for name in plan.hosts if name != plan.host]
        self._server = StatusServer(
            bind=plan.status_bind,
            port=plan.endpoints[plan.host].status.port,
            host=plan.host,
            board=self._board,
            members=[Member(name, at.address, at.port) for name, at in others],
            token=plan.contract.settings.token or None,
            snapshot=self._snapshot,
            ready=self._ready,
            on_report=self._on_report,
            on_lost=lambda host, why: self._post(ev.MemberLost(host, why, time.time())),
            on_refused=self._on_refused,
            job=self._identity,
            lease_s=plan.budgets.lease_s,
            samples=self._samples,
            lines=Lines(self._recent, host=plan.host, mask=self._masker),
            refused_count=plan.contract.settings.master_refused_count,
            refused_window_s=plan.contract.settings.master_refused_window_s,
            on_error=lambda line: self._say("error", "status.error", error=line),
            rejoins=plan.restart_policy is not None
            and (plan.budgets.rejoin_s > 0 or self._present.state.setup.elastic),
        )
        await self._server.start()
        self._tasks.serve("status server", _until_cancelled(self._server.stop))

    def _on_report(self, host: str, report: HostReport) -> None:
        if report.prepared_s is not None and host in self._present.plan.hosts:
            self.prepared.setdefault(host, report.prepared_s)
        joining = self._board is not None and self._board.document.state is JobState.JOINING
        runs_on = joining and report.phase in {Phase.RUNNING, Phase.RESTARTING}
        earlier = None
        if runs_on:
            earlier = ev.EarlierLife(
                report.attempt, report.ordered, report.past, report.world, report.run
            )
        self._post(
            ev.MemberReported(
                host,
                report.phase,
                report.script_ended,
                report.cause,
                report.holds,
                report.turn,
                report.progressed,
                time.time(),
                earlier,
            )
        )

    def _on_refused(self, host: str, reason: str) -> None:
        self._say("warning", "member.refused", host=host, reason=reason)

    def _ready(self) -> tuple[bool, str]:
        state = self._present.state
        reason = state.phase.value
        if state.phase is Phase.JOINING and state.waiting:
            reason += ", waiting for " + ", ".join(f"{host} ({why})" for host, why in state.waiting)
        return state.phase is Phase.RUNNING, reason

    def _new_link(self, kind: type[MasterLink]) -> MasterLink:
        plan = self._present.plan
        status, chief = plan.endpoints[plan.master].status, plan.chief_endpoint
        link = kind(
            host=plan.host,
            master_host=plan.master,
            status_endpoint=(status.address, status.port),
            chief_endpoint=(chief.address, chief.port) if chief else None,
            token=plan.contract.settings.token or None,
            lease_s=plan.budgets.lease_s,
            refused_count=plan.contract.settings.master_refused_count,
            refused_window_s=plan.contract.settings.master_refused_window_s,
            bare_after_s=plan.contract.settings.bare_master_after_s,
            wait_s=plan.contract.settings.poll_wait_s,
            job=self._identity,
            post=self._post,
            rejoins=plan.budgets.rejoin_s > 0,
        )
        link.report(ev.Report(Phase.PREPARING, script_ended=False, cause=None))
        return link

    @property
    def _identity(self) -> JobIdentity:
        from supervisor.cluster.protocol import identify  # noqa: PLC0415

        plan = self._present.plan
        # Hosts that do not agree on who stands by would have other clusters.
        spares = (f"{len(plan.cluster) - len(plan.world)} spares",)
        agreed = plan.hosts if plan.cluster == plan.world else (*plan.hosts, *spares)
        return identify(plan.contract.job_name, plan.master, agreed)

    # ------------------------------------------------------------------ what is told

    def announce(self, action: ev.Announce) -> None:
        """On the master: to every member."""
        if self._board is not None:
            self._board.announce(
                action.state,
                action.verdict,
                action.missing,
                action.restore,
                action.order,
                action.past,
            )

    @property
    def body(self) -> bytes:
        """On the master: the job's document, as every member reads it."""
        return b"" if self._board is None else self._board.body

    def report(self, action: ev.Report) -> None:
        """On a member: to the master."""
        if self._link is not None:
            if self._link.prepared_s is None and action.phase is Phase.JOINING:
                self._link.prepared_s = round(time.monotonic() - self._began, 3)
            self._link.report(action)

    def publish(self, entry: Mapping[str, object]) -> None:
        """An entry of the timeline, to whoever reads along at the status port."""
        if self._server is not None:
            self._server.publish(entry)

    async def farewell(self) -> None:
        """The last report to the master, the last answers to members, in bounded time."""
        if self._link is not None:
            first = self._has_failed_early() and self._link.document is None
            await self._link.flush(FIRST_WORD_S if first else FLUSH_S)
        if self._board is not None and self._server is not None:
            await self._server.members.told(FLUSH_S)

    def _has_failed_early(self) -> bool:
        """Before the job began, by itself, and not for want of others: those it has waited for."""
        state, plan = self._present.state, self._present.plan
        others = {CauseKind.JOIN_TIMEOUT, CauseKind.STOP_REQUESTED}
        cause = state.cause
        return (
            not state.begun
            and state.stop_signals == 0
            and cause is not None
            and cause.host == plan.host
            and cause.kind not in others
        )

    # ------------------------------------------------------------------ what is known of others

    @property
    def latency_s(self) -> float | None:
        """Of the master's last answer; None where there is none."""
        return self._link.latency_s if self._link else None

    def rows(self) -> list[HostRow]:
        """The other hosts, as far as this one knows of them: a member of the master alone."""
        if self._link is not None:
            return [
                {
                    "name": self._present.plan.master,
                    "phase": None,
                    "state": self._link.state.value,
                    "last_seen_s": self._link.silence_s,
                }
            ]
        return [
            {
                "name": peer.host,
                "phase": peer.phase.value if peer.phase else None,
                "state": peer.state.value,
                "last_seen_s": peer.last_seen_s,
            }
            for peer in (self._server.members.peers() if self._server else ())
        ]

    async def _keep_explaining(self) -> None:
        """Until the job runs: who is missing and why, every few seconds, as an event."""
        present = self._present
        longest_s = max(0.1, present.plan.budgets.join_s / 4)
        pause_s = min(WAITING_FIRST_S, longest_s)
        while present.state.phase in {Phase.PREPARING, Phase.JOINING}:
            await asyncio.sleep(pause_s)
            if present.state.phase is Phase.JOINING:
                self._post(ev.Waiting(tuple((await self._why_missing(longest_s)).items())))
                pause_s = min(WAITING_EVERY_S, longest_s)

    async def _why_missing(self, timeout_s: float) -> dict[str, str]:
        plan, link = self._present.plan, self._link
        if link is None:
            assert self._server is not None
            missing = self._present.state.missing[:WAITING_KNOCKS]
            return await self._server.members.explain(missing, timeout_s=min(2.0, timeout_s))
        heard = link.document
        if link.problem or heard is None or not link.answers:
            return {plan.master: link.evidence}
        if heard.restore and not heard.missing:
            return {plan.master: f"hosts restore checkpoint {heard.restore}"}
        return dict.fromkeys(
            (name for name in heard.missing if name != plan.host), "not heard from"
        )


async def _is_a_second_one(plan: Plan) -> bool:
    """Whether a supervisor of this host and job has the status port, as far as can be known.

    Another program, or another job's supervisor, keeps ours from ever coming: that the master
    is told. One that does not answer in time may be ours, and stopped.
    """
    from supervisor.cluster.net import is_wildcard  # noqa: PLC0415
    from supervisor.cluster.probe import who_serves  # noqa: PLC0415

    bind = plan.status_bind
    address = "127.0.0.1" if not bind or is_wildcard(bind) else bind
    port = plan.endpoints[plan.host].status.port
    told = await who_serves(address, port, timeout_s=WHO_IS_IT_S)
    own = {"host": plan.host, "master": plan.master, "job": plan.contract.job_name}
    return told is None or {key: told.get(key) for key in own} == own


async def _at_our_address(plan: Plan) -> str:
    """Which other host of the job has this one's address and port, if one does."""
    from supervisor.cluster.net import NoAddress, Resolver  # noqa: PLC0415

    resolver, own = Resolver(), plan.endpoints[plan.host].status
    hosts = [name for name in plan.hosts if name != plan.host][:WAITING_KNOCKS]

    async def addresses(name: str) -> set[str]:
        at = plan.endpoints[name].status
        with contextlib.suppress(NoAddress):
            if at.port == own.port:
                return {*await resolver.resolve(at.address, timeout_s=SAME_ADDRESS_S)}
        return set()

    ours, *others = await asyncio.gather(*map(addresses, (plan.host, *hosts)))
    for name, theirs in zip(hosts, others, strict=True):
        if both := ours & theirs:
            return (
                f"; {name} and {plan.host} are both at {min(both)}: correct the DNS or "
                f"{RESOURCES}, or give each ports of its own in {OVERLAY}"
            )
    return ""


async def _until_cancelled(stop: Callable[[], Awaitable[None]]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await stop()
