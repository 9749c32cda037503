"""What may follow from blows, and what is wrong with what did. Pure.

`judge` is the oracle: from the trial, from what was dealt when, and from what every host left
behind, it says what is wrong. Its rules are the guide's (``ending.md``), told a second time and
independently of the program:

- a script that dies is the cause, with its host and the way it died; its host has its code
- a server that dies is the cause, with 85 on its host
- a supervisor that dies, or is silent for a lease, is lost: 84 where the master says so, 83 where
  the master is the one
- a stop signal is a stop, and every host has the chief's answer to it as its code
- a job is finished if, and only if, the scripts that decide it left with 0 before a blow could
  count
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.helpers.aftermath import BEFORE, Aftermath
from tests.helpers.blows import (
    ACK_S,
    END_GRACE_S,
    GROUP_S,
    JOIN_S,
    LEASE_S,
    MASTER,
    PUBLISH_S,
    STOP_GRACE_S,
    STOPPING,
    Dealt,
    Ended,
    Kind,
    Manner,
    Seen,
    Target,
    Trial,
)


def judge(
    trial: Trial, dealt: Sequence[Dealt], seen: Mapping[str, Seen], *, patience: float = 1.0
) -> list[str]:
    """What is wrong, in sentences; nothing where all is right.

    ``patience`` multiplies the times that a busy machine makes longer.
    """
    return list(_Oracle(Aftermath(trial, dealt, seen, patience)).complaints())


@dataclass(frozen=True, slots=True)
class Ending:
    """One way in which a run may end on a host."""

    kind: str
    host: str | None = None
    """None: any."""
    process: str | None = None
    pattern: str = ""
    codes: frozenset[int] | None = None
    """On ``host``; None: as the kind says."""

    def fits(self, cause: Ended) -> bool:
        return (
            self.kind == cause.kind
            and self.host in {None, cause.host}
            and self.process in {None, cause.process}
            and re.search(self.pattern, cause.message) is not None
        )

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.host, self.process, f"/{self.pattern}/")))


FINISHED: Final = Ending("finished", MASTER)
_BY_ITSELF: Final = ("master_lost", "join_timeout", "refused")
"""What each host finds by itself, in words of its own."""


class _Endings:
    """How a job may end after what was done to it, and with what codes."""

    def __init__(self, aftermath: Aftermath) -> None:
        self._after = aftermath
        self._trial = aftermath.trial
        self._dealt = aftermath.dealt
        self._seen = aftermath.seen

    def of(self, host: Seen) -> list[Ending]:
        """All that may be the cause on this host."""
        found = [FINISHED] if self._after.may_be_finished() else []
        for dealt in self._dealt:
            if self._after.too_late(dealt):
                continue
            found.extend(self._of_blow(dealt, host))
        if host.name in self._after.frozen | self._after.reborn:  # what it finds when it comes back
            found += [Ending(kind) for kind in ("member_lost", *_BY_ITSELF)]
            if host.name in self._after.frozen and self._seen[MASTER].finished_at is not None:
                found.append(FINISHED)
        return found

    def _of_blow(self, dealt: Dealt, host: Seen) -> Iterator[Ending]:
        blow, name = dealt.blow, re.escape(dealt.blow.host)
        here = self._seen[blow.host]
        dead = self._after.dies(dealt)
        lost = self._after.ended_it(dealt, here) or self._after.frozen_long(blow)
        match blow.target:
            case Target.SUPERVISOR if lost:
                if not self._after.joined_before(dealt, host):
                    yield Ending("join_timeout", pattern="joining timed out")
                if blow.host == MASTER:
                    if host.name != MASTER:
                        pattern = rf"the master {name} (crashed|unreachable): "
                        yield Ending("master_lost", host.name, pattern=pattern)
                else:
                    yield Ending("member_lost", blow.host, pattern="^lost: ")
            case Target.SUPERVISOR if blow.signum in STOPPING:
                word = signal.Signals(blow.signum).name
                yield Ending("stop_requested", blow.host, pattern=f"received {word}")
                if not self._after.met(here, host):
                    yield Ending("join_timeout", pattern="joining timed out")
            case Target.SCRIPT | Target.CHILD if dead:
                code = 128 + blow.signum
                word = signal.Signals(blow.signum).name
                pattern = f"{word}|exit {code}|KeyboardInterrupt"
                process = self._script_of(blow.host)
                yield Ending("script_failed", blow.host, process, pattern, frozenset({code}))
            case Target.SCRIPT if self._trial.hang_s and blow.signum == signal.SIGSTOP:
                # Of a real job all scripts wait for the one that is stopped.
                where = None if self._trial.kind.tensorflow else blow.host
                yield Ending("hang", where, pattern="hung")
            case Target.PS if dead:
                word = signal.Signals(blow.signum).name
                yield Ending("essential_died", blow.host, "ps", f"{word}|exit ")
            case Target.SERVER if dead:
                word = signal.Signals(blow.signum).name
                codes = frozenset({85, 128 + blow.signum})
                for kind in ("essential_died", "script_failed"):
                    yield Ending(kind, blow.host, "worker", f"{word}|exit ", codes)
            case _:
                return

    def _script_of(self, host: str) -> str:
        without_chief = {Kind.MWMS, Kind.TF_MWMS}
        return "chief" if host == MASTER and self._trial.kind not in without_chief else "worker"

    # ------------------------------------------------------------------ codes

    def codes(self, host: Seen, ending: Ending) -> frozenset[int]:
        own = ending.host == host.name or (host.cause and host.cause.host == host.name)
        match ending.kind:
            case "finished":
                return frozenset({0, 87} if self._after.sync_held() else {0})
            case "stop_requested":
                return frozenset(self._stop_codes(host))
            case "join_timeout" | "refused":
                return frozenset({82})
            case "master_lost":
                return frozenset({83})
            case "script_failed" if own and ending.codes:
                return ending.codes
            case "essential_died" if own:
                return ending.codes or frozenset({85})
            case "hang" if own:
                return frozenset({88})
            case _:
                return frozenset({84})

    def _stop_codes(self, host: Seen) -> Iterator[int]:
        chief = self._seen[MASTER]
        signals = [d.blow.signum for d in self._dealt if d.blow.signum in STOPPING]
        if MASTER not in self._after.killed | self._after.reborn:
            if chief.script_code is not None:
                yield from self._answers(chief)
            else:
                yield from (128 + signum for signum in signals)
        if host.name == MASTER:
            return
        if MASTER in self._after.gone or self._left_first(host):
            # The master's last word did not come in time.
            if host.script_code is not None:
                yield host.script_code
            else:
                yield from (128 + signum for signum in signals)

    def _left_first(self, host: Seen) -> bool:
        ended = self._seen[MASTER].ended_at
        return ended is None or host.ended_at is None or host.ended_at < ended

    def _answers(self, chief: Seen) -> Iterator[int]:
        """How the chief's script may have answered the stop."""
        answer = {Manner.SAVES: 0, Manner.PLAIN: 143, Manner.STUBBORN: 137, Manner.WRAPPED: 143}
        struck = (
            len(self._dealt) > 1
            or self._trial.kind is Kind.TF_MWMS
            or chief.finished_at is not None
        )
        ready = chief.began_at is not None and chief.began_at < min(d.at for d in self._dealt)
        may = {0, 130, 137, 143} if struck or not ready else {answer[self._trial.manner]}
        if chief.script_code in may:
            yield chief.script_code
        else:
            yield from may


class _Oracle:
    def __init__(self, aftermath: Aftermath) -> None:
        self._after = aftermath
        self._trial = aftermath.trial
        self._dealt = aftermath.dealt
        self._seen = aftermath.seen
        self._endings = _Endings(aftermath)

    def complaints(self) -> Iterator[str]:
        for host in self._seen.values():
            for each in self._of_host(host):
                yield f"{host.name}: {each}"
        yield from self._disagreement()
        yield from self._lateness()

    # ------------------------------------------------------------------ one host

    def _of_host(self, host: Seen) -> Iterator[str]:
        if host.code is None:
            yield "not over in time"
            return
        if host.begun > 1:
            yield f"its script began {host.begun} times"
        yield from (f"left behind: {what}" for what in host.left)
        if host.name in self._after.killed:
            return
        if host.cause is None:
            yield f"exit {host.code}, and no report that can be read"
            return
        if host.report_code != host.code:
            yield f"exit {host.code}, and the report says {host.report_code}"
        endings = self._endings.of(host)
        fitting = [ending for ending in endings if ending.fits(host.cause)]
        if not fitting:
            may = " or ".join(map(str, endings)) or "nothing that is known"
            yield f"ended by {_text(host.cause)}; right is {may}"
        codes = frozenset[int]().union(*(self._endings.codes(host, ending) for ending in fitting))
        if fitting and host.code not in codes:
            yield f"exit {host.code} with {_text(host.cause)}; right is {sorted(codes)}"
        yield from self._of_files(host, host.cause)

    def _of_files(self, host: Seen, cause: Ended) -> Iterator[str]:
        if host.code == 0:
            if host.failure is not None:
                yield f"exit 0, and a failure file: {host.failure.splitlines()[:1]}"
            if cause.kind == "finished" and not host.success:
                yield "succeeded without a success file"
            return
        if host.success:
            yield f"exit {host.code}, and a success file"
        if not host.failure:
            yield f"exit {host.code} without a failure file"
            return
        missing = [
            word
            for word in (cause.host, cause.process, cause.message[:200])
            if word and word not in host.failure
        ]
        if missing:
            yield f"the failure text does not name {missing}: {host.failure.splitlines()[0]}"

    # ------------------------------------------------------------------ the job as a whole

    def _disagreement(self) -> Iterator[str]:
        """One cause, in the same words, on all hosts that could hear of it.

        Two that are stopped before they have met leave each for its own signal.
        """
        struck = {d.blow.host for d in self._dealt if d.phase in BEFORE}
        unmet = struck if len(struck) > 1 else set[str]()
        told = {
            host.cause
            for host in self._seen.values()
            if host.cause is not None
            and host.cause.kind not in _BY_ITSELF
            and host.name not in self._after.gone
            and not (host.name in unmet and host.cause.host == host.name)
        }
        if len(told) > 1:
            yield f"the hosts do not agree: {' / '.join(sorted(map(_text, told)))}"
        stop = any(cause.kind == "stop_requested" for cause in told)
        chief = self._seen[MASTER]
        saves = self._trial.manner in {Manner.SAVES, Manner.WRAPPED}
        if stop and saves and len(self._dealt) == 1 and chief.began_at is not None:
            ready = chief.began_at < self._dealt[0].at
            if ready and chief.finished_at is None and not chief.saved:
                yield "the chief had no time to save after the stop"

    def _lateness(self) -> Iterator[str]:
        """Each stage within what the settings imply."""
        free = [host for host in self._seen.values() if host.name not in self._after.gone]
        endings = [host.ending_at for host in free if host.ending_at is not None]
        ended = [host.ended_at for host in free if host.ended_at is not None]
        if not endings or not ended:
            return
        first, last = min(endings), max(ended)
        harmful = [d for d in self._dealt if self._after.harmful(d) and not self._after.too_late(d)]
        running = bool(self._dealt) and self._dealt[0].phase == "running"
        if len(self._dealt) == 1 and harmful and running and not self._after.tolerated():
            took_s, bound_s = first - harmful[0].at, self._after.detected_s(harmful[0])
            if took_s > bound_s:
                yield f"{took_s:.1f} s from the blow to the job's ending; right is {bound_s:.1f}"
        took_s, bound_s = last - first, self._drain_s()
        if took_s > bound_s:
            yield f"{took_s:.1f} s from the ending to the end; right is {bound_s:.1f}"

    def _drain_s(self) -> float:
        """The longest time from the first host's ending to the last one's end."""
        trial = self._trial
        kinds = {host.cause.kind for host in self._seen.values() if host.cause}
        stop = "stop_requested" in kinds
        grace_s = STOP_GRACE_S if stop else END_GRACE_S
        if trial.manner in {Manner.SAVES, Manner.WRAPPED}:
            grace_s = min(trial.save_s, grace_s)
        seconds = 3.0 + (grace_s if trial.manner is not Manner.PLAIN else 0.0)
        if trial.manner is Manner.STUBBORN or trial.save_s > END_GRACE_S:
            seconds += GROUP_S
        if trial.kind.servers:
            seconds += 1.0
        if self._after.gone:  # not yet found when the job ended for another reason
            seconds += LEASE_S + ACK_S
        if kinds & {"join_timeout", "master_lost"}:  # each host by itself
            seconds += JOIN_S + 2.0
        if trial.kind is Kind.KEPT:
            seconds += 3.0 + PUBLISH_S * self._after.sync_held()
        if trial.kind.tensorflow:
            seconds += 4.0
        if trial.kind is Kind.TF_MWMS:
            seconds += grace_s + GROUP_S
        return seconds * self._after.patience


def _text(cause: Ended) -> str:
    who = " ".join(filter(None, (cause.host, cause.process)))
    return f"{cause.kind} ({who}: {cause.message})"
