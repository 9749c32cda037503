"""Whom the master takes for a host of its job. Pure: one decision over frozen data.

Three names tell supervisors apart. The **job**: the platform's name of it and its hosts. The
**run**: made by the master's supervisor when it starts, so that a master which was started anew is
another run. The **instance**: made by every other host's supervisor when it starts.

While the hosts join nothing has been started, and a supervisor that is gone may be replaced by
another one of the same host. Once the job runs one may be where the job goes on after a failure:
what ran on its host starts anew. Where it does not, the scripts of a run began together, and one
that began later knows nothing of what the others hold for it.

A master that was started anew while the job ran is told by the others which run that is, and takes
it for its own: ``may_be_taken_up``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from supervisor.cluster.protocol import VERSION, JobIdentity, Refusal, versions_differ
from supervisor.life.words import JobState

_RUNS: Final = frozenset({JobState.RUNNING, JobState.RESTARTING})
_SAID_NONE: Final = 2
"""Up to this version a poll did not say which one it was."""
_FORMER: Final = 8
"""Replaced supervisors of a host that are remembered, to be told so when they come again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody says that it is a host of the job."""

    host: str
    instance: str
    job: JobIdentity
    run: str
    """The run that it follows; empty before it has heard of one."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Which supervisor is a host of the job."""

    instance: str = ""
    """Empty: none has come."""
    former: tuple[str, ...] = ()
    """Those it has replaced, the latest last."""
    earlier: bool = False
    """It was there before this master: it runs what an earlier life of the job has started."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What follows from a claim."""

    seat: Seat
    refusal: Refusal | None = None
    text: str = ""
    """Why it is refused, for both sides to say."""
    lost: bool = False
    """The supervisor that had the seat is proven to be gone."""


def speaks_otherwise(host: str, version: int | None) -> str:
    """Why a host's supervisor is not understood; empty if it is.

    Before the job, its run and its supervisors are compared: of another version they may mean
    something else. ``version`` is None where it says none.
    """
    if version == VERSION:
        return ""
    said = f"version {_SAID_NONE} or an older one" if version is None else f"version {version}"
    return versions_differ(f"{host} speaks {said}", f"the master version {VERSION}")


def may_be_taken_up(claim: Claim, *, job: JobIdentity, state: JobState, rejoins: bool) -> bool:
    """Whether a master that has just begun may go on with the run that a host of its job follows,
    and which is not its own."""
    return rejoins and state is JobState.JOINING and claim.job == job and bool(claim.run)


def admit(
    seat: Seat,
    claim: Claim,
    *,
    job: JobIdentity,
    runs: frozenset[str],
    earlier: str,
    state: JobState,
    alive: bool,
    rejoins: bool,
) -> Admission:
    """Decide about one claim.

    Args:
        seat: the host's, as the last claim left it.
        claim: who asks.
        job: the master's own.
        runs: the names that the master's own run has had.
        earlier: of these, the one that it has taken up from hosts of an earlier life.
        state: of the job.
        alive: whether the supervisor that has the seat is, as far as it can be known.
        rejoins: whether a host that is gone may come back while the job runs.

    """

    def refused(refusal: Refusal, text: str, *, lost: bool = False) -> Admission:
        return Admission(seat, refusal, text, lost)

    if claim.job.name != job.name:
        return refused(Refusal.JOB, f"{claim.host} is of {claim.job}, the master of {job}")
    if claim.job.cluster != job.cluster:
        return refused(
            Refusal.CLUSTER, f"{claim.host} is of {claim.job} with other hosts than the master's"
        )
    if claim.run and claim.run not in runs:
        return refused(
            Refusal.RUN,
            f"{claim.host} follows an earlier run of the job: the master was started anew",
        )
    if claim.instance == seat.instance:
        return Admission(seat)
    follows = bool(claim.run) and claim.run == earlier
    if not seat.instance:
        return Admission(replace(seat, instance=claim.instance, earlier=follows))
    if claim.instance in seat.former:
        return refused(Refusal.REPLACED, f"another supervisor of {claim.host} has taken its place")
    # One of an earlier life that nobody has ended may be cut off from its platform: the host is
    # whoever that has started in its place.
    fresh = seat.earlier and not follows and state is JobState.JOINING
    if alive and not fresh:
        return refused(
            Refusal.TAKEN, f"another supervisor of {claim.host} takes part in the job and is alive"
        )
    if state in _RUNS and not rejoins:
        return refused(
            Refusal.RUNNING,
            f"the job runs, and this supervisor of {claim.host} was started after that",
            lost=True,
        )
    former = (*seat.former, seat.instance)[-_FORMER:]
    return Admission(Seat(claim.instance, former, follows), lost=True)
