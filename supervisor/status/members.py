"""The members of the job as the master knows them: who they are, that they live, what they said."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from supervisor.cluster.admission import Claim, Seat, speaks_otherwise
from supervisor.cluster.liveness import Lost, MemberState, MemberWatch
from supervisor.cluster.net import AddressBook, Resolver
from supervisor.cluster.protocol import (
    MAX_NAME_CHARS,
    HostReport,
    JobDocument,
    JobIdentity,
    Refusal,
)
from supervisor.life.words import Phase
from supervisor.status.board import JobBoard
from supervisor.status.door import Door
from supervisor.status.doors import Doors, Member
from supervisor.status.http import Refused, has_token
from supervisor.status.limits import Connection, Pool
from supervisor.status.snapshot import Sample

REATTACH_S = 2.0
"""A member that lives and has lost its connection has a new one within this time."""
_TURNED_AWAY = 4
"""Reasons for which a host is turned away that are told."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A member as the master knows it."""

    host: str
    state: MemberState
    phase: Phase | None
    heard: int
    """The last revision of the job document that it is known to have."""
    last_seen_s: float | None


@dataclass(slots=True)
class _Reported:
    """What a member said last, to tell late reports from new ones."""

    report: HostReport | None = None
    heard: int = 0
    seat: Seat = field(default_factory=Seat)
    left_at: float = -math.inf
    """When its supervisor last closed a connection, active seconds."""
    turned_away: list[str] = field(default_factory=list)
    """Why others that said they were this host were not taken, each once."""

    def has_one_of(self, connections: Iterable[Connection], host: str) -> bool:
        """Whether the supervisor that is this member has a connection.

        The kernel closes those of a process that is killed, and only of such a one: one that is
        stopped or cut off keeps them, and then the lease decides.
        """
        return any(
            each.host == host and each.instance == self.seat.instance for each in connections
        )

    def turn_away(self, why: str) -> bool:
        """Note it; whether it is to be told."""
        news = why not in self.turned_away and len(self.turned_away) < _TURNED_AWAY
        if news:
            self.turned_away.append(why)
        return news


_NAMELESS = "instance: a member says which supervisor it is"


def claim_of(host: str, query: Mapping[str, str], run: str) -> Claim:
    """Who polls: the same names as in a report."""
    names = [query.get(key, "")[:MAX_NAME_CHARS] for key in ("instance", "job", "cluster")]
    if not names[0]:
        raise Refused(400, _NAMELESS)
    return Claim(host, names[0], JobIdentity(*names[1:]), run)


def _must_go_on(host: str, report: HostReport, document: JobDocument) -> None:
    """Refuse what is said of an attempt that is over.

    It is no fault: the host reported while another was being ordered. A host that ends says so
    whatever the attempt: it has no more to say, and nobody else says it.

    Raises:
        Refused: 409.

    """
    goes_on = report.phase in {Phase.RUNNING, Phase.RESTARTING}
    if report.attempt < document.attempt and goes_on:
        text = (
            f"{host} speaks of attempt {report.attempt}, the job is at attempt {document.attempt}"
        )
        raise Refused(409, text, Refusal.ATTEMPT)


def samples(peers: Iterable[Peer]) -> Iterator[Sample]:
    """Give the members by state, for ``/metrics``."""
    states = [peer.state for peer in peers]
    for state in MemberState:
        yield Sample("peers", "Members of the job by state.", states.count(state), {"state": state})


class Members:
    """Takes the members for what they prove to be, watches over them, and keeps what they said.

    Without a ``board`` this host is not the master: it knows their addresses and no more.

    Args:
        members: the other hosts of the job.
        board: the job's document.
        job: the job that this host is of; a host of another one is not taken for a member.
        token: the job's secret; None where none is configured.
        connections: all that are open.
        now: active seconds, see `ActiveClock`.
        lease_s, refused_count, refused_window_s: see `MemberWatch`.
        resolver: finds addresses.
        on_report, on_lost, on_refused, on_error, rejoins: see `StatusServer`.

    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        board: JobBoard | None,
        job: JobIdentity,
        token: bytes | None,
        connections: Pool,
        now: Callable[[], float],
        lease_s: float,
        refused_count: int,
        refused_window_s: float,
        resolver: Resolver,
        on_report: Callable[[str, HostReport], None],
        on_lost: Callable[[str, str], None],
        on_refused: Callable[[str, str], None],
        on_error: Callable[[str], None],
        rejoins: bool = False,
    ) -> None:
        self._members = {member.host: member for member in members}
        self._board = board
        self._token = token
        self._connections = connections
        self._now = now
        self._lease_s = lease_s
        self.door = None if board is None else Door(board, job, rejoins=rejoins)
        """On the master."""
        self._on_report = on_report
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._on_error = on_error
        self._watch = MemberWatch(
            self._members,
            lease_s=lease_s,
            refused_count=refused_count,
            refused_window_s=refused_window_s,
        )
        self._reported = {name: _Reported() for name in self._members}
        self._book = AddressBook(
            ((member.host, member.address) for member in members),
            resolver=resolver,
            now=time.monotonic,
        )
        self._heard_more = asyncio.Event()
        """Set whenever fewer members may be left that have not heard the last word."""
        self._tokenless: set[str] = set()
        """Members from whose addresses somebody spoke in their names with a wrong token."""
        self._doors = Doors(
            self._members,
            watch=self._watch,
            now=now,
            again_s=lease_s,
            refused_count=refused_count,
            refused_window_s=refused_window_s,
            resolver=resolver,
            on_lost=self._lost,
        )
        self._learning: asyncio.Task[object] | None = None

    def begin(self) -> None:
        """Examine members from now on, and find their addresses ahead of them."""
        if self._board is not None:
            self._learning = asyncio.create_task(self._learn(), name="status addresses")
            self._doors.begin()

    async def close(self) -> None:
        """Begin nothing any more, and end what goes on."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait([self._learning])
        await self._doors.close()

    async def _learn(self) -> None:
        # So that no member is taken for a stranger.
        pause_s = 2.0
        while not await self._book.learn():
            await asyncio.sleep(pause_s)
            pause_s = min(10.0, pause_s * 1.5)

    # ----------------------------------------------------------------- looking

    def seats(self, address: str) -> int:
        """How many members live at a canonical address."""
        return self._book.members_at(address)

    def peers(self) -> tuple[Peer, ...]:
        """Give every member as the master knows it now."""
        now = self._now()
        return tuple(
            Peer(
                host=host,
                state=self._watch.state(host),
                phase=said.report.phase if said.report else None,
                heard=said.heard,
                last_seen_s=self._watch.silence_s(host, now),
            )
            for host, said in self._reported.items()
        )

    async def explain(self, hosts: Iterable[str], *, timeout_s: float = 2.0) -> dict[str, str]:
        """Say why members have not joined, by knocking once at the door of each.

        ``DNS``, ``no answer on 2224``, ``2224 refused``, ``answers on 2224, has not reported``,
        ``comes without the job's token`` or why the one that came was not taken; after twice
        ``timeout_s`` for every 64 hosts at most.
        """
        members = [self._members[host] for host in hosts if host in self._members]
        turns = asyncio.Semaphore(64)

        async def reason(member: Member) -> str:
            if member.host in self._tokenless:
                return "comes without the job's token"
            turned_away = self._reported[member.host].turned_away
            if turned_away and self._watch.state(member.host) is not MemberState.UP:
                return turned_away[-1]
            async with turns:
                return await self._doors.answer(member, timeout_s)

        reasons = await asyncio.gather(*(reason(member) for member in members))
        return {member.host: why for member, why in zip(members, reasons, strict=True)}

    def understand(self, host: str, version: int | None) -> None:
        """Let pass only a supervisor that speaks our version of the protocol.

        Raises:
            Refused: 409 with both versions.

        """
        if why := speaks_otherwise(host, version):
            self._turn_away(host, why, Refusal.VERSION)

    def _turn_away(self, host: str, why: str, reason: Refusal) -> NoReturn:
        if self._reported[host].turn_away(why):
            self._on_refused(host, why)
        raise Refused(409, why, reason)

    def admit(self, claim: Claim, connection: Connection, heard: int, attempt: int) -> None:
        """Take whoever asks for the member that it says it is, and its life as proven.

        Args:
            claim: who it is.
            connection: from where it speaks.
            heard: the revision of the job's document that it knows.
            attempt: the one that it speaks of.

        Raises:
            Refused: 409 with the reason.

        """
        assert self.door is not None
        host, said = claim.host, self._reported[claim.host]
        self.door.take_up(claim, heard, attempt)
        admission = self.door.admission(
            said.seat,
            claim,
            alive=claim.instance != said.seat.instance and self._alive(host),
            done=self._watch.state(host) is MemberState.DONE,
        )
        now = self._now()
        if admission.refusal is not None:
            if admission.lost and (lost := self._watch.given_up(host)):
                self._lost(host, lost)
            self._turn_away(host, admission.text, admission.refusal)
        if admission.lost:
            said.report, said.heard = None, 0
            self._doors.forget(host)
            if lost := self._watch.replaced(host, now):
                self._lost(host, lost)
        if admission.seat != said.seat:
            said.seat = admission.seat
            said.turned_away.clear()
        connection.instance = claim.instance
        self._signed(host, connection, now)

    def _alive(self, host: str) -> bool:
        """Whether the supervisor that is this member lives, as far as can be known from here."""
        up = self._watch.state(host) is MemberState.UP
        silence_s = self._watch.silence_s(host, self._now()) or 0.0
        said = self._reported[host]
        return up and (
            said.has_one_of(self._connections, host)
            or min(silence_s, self._now() - said.left_at) < min(REATTACH_S, self._lease_s / 4)
        )

    def _signed(self, host: str, connection: Connection, now: float) -> None:
        self._connections.proven(connection, host)
        self._tokenless.discard(host)
        assert self._board is not None
        first = self._watch.signed(host, now)
        last = self._reported[host].report
        if first and last is not None and last.attempt == self._board.document.attempt:
            self._on_report(host, last)  # it was given up, and says nothing new of itself
        if first or not self._watch.proven_open(host):
            self._doors.examine(host, again=first)

    def _lost(self, host: str, lost: Lost) -> None:
        self._heard_more.set()
        try:
            self._on_lost(host, f"{lost.how}: {lost.evidence}")
        except Exception as error:  # noqa: BLE001 - the watch must outlive a defect of its listener
            self._on_error(f"on_lost: {error!r}")

    async def told(self, timeout_s: float) -> bool:
        """Wait until every member that is up has heard the last word, ``timeout_s`` at most."""
        assert self._board is not None
        revision = self._board.document.revision
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(
                    peer.state is MemberState.UP and peer.heard < revision for peer in self.peers()
                ):
                    await self._heard_more.wait()
                    self._heard_more.clear()
                return True
        return False

    def heard(self, host: str, revision: int) -> None:
        assert self._board is not None
        # A revision that does not exist yet was not heard from us.
        if revision <= self._board.document.revision:
            said = self._reported[host]
            said.heard = max(said.heard, revision)
            self._heard_more.set()

    async def prove(self, host: str, authorization: str, connection: Connection) -> None:
        """Let pass only what comes from ``host`` itself, with the token where there is one.

        Raises:
            Refused: 401 or 403.

        """
        if self._token is not None and not has_token(authorization, self._token):
            if host in self._members and connection.trusted:
                self._tokenless.add(host)
            raise Refused(401, "a valid token is needed")
        # One answer for an unknown name and a wrong address: strangers learn no names.
        if host not in self._book or not await self._book.owns(host, connection.address):
            raise Refused(403, "not a host of this job, or not at its address")

    def tick(self) -> None:
        """Look at the clock: who has been silent for too long?"""
        if self._board is not None:
            for host, lost in self._watch.tick(self._now()):
                self._lost(host, lost)

    def left(self, connection: Connection) -> None:
        """Note that a connection has ended; perhaps it was the end of the member."""
        host = connection.host
        if host is None:
            return
        if connection.instance == self._reported[host].seat.instance:
            self._reported[host].left_at = self._now()
        if self._watch.proven_open(host):
            self._doors.examine(host, again=True)

    def take(self, host: str, report: HostReport, connection: Connection) -> None:
        """Take a member's report, unless it is late.

        Raises:
            Refused: it says not who it is (400), is not taken for that member (409), or speaks of
                another attempt than the job's: one to come (400), or one that is over (409).

        """
        assert self._board is not None
        if not report.instance:
            raise Refused(400, _NAMELESS)
        claim = Claim(host, report.instance, report.job, report.run)
        self.admit(claim, connection, report.heard, report.attempt)
        assert self.door is not None
        self.door.must_have_begun(report.attempt)
        _must_go_on(host, report, self._board.document)
        said = self._reported[host]
        last = said.report
        if last is not None and report.seq < last.seq:
            return
        self.heard(host, report.heard)
        said.report = report
        if report.phase is Phase.DONE:
            self._watch.done(host)
            self._heard_more.set()
        if last is None or last.seq != report.seq:
            self._on_report(host, report)
