"""How far one attempt's training is and how fast, by all that says something of it. Pure.

Each counter (an origin, a unit, a place) is followed for itself, for they count different things:
steps and epochs, training and what two models of one script do. What is told is the best of them;
what counts as a sign of life is that any of them moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from supervisor.training.reading import Origin, Reading, Unit

MARKS: Final = 33
"""Of a counter, from which its rate is told."""
GAPS: Final = 65
"""Between two movements, from which their median is told."""
RATE_S: Final = 60.0
"""The rate is that of the last minute, or of the last few readings where they are rarer."""
_FEW: Final = 4
MOST_TRACKS: Final = 32
STRIDE: Final = 3
STALE_S: Final = 60.0
STALE_GAPS: Final = 10
"""A counter that has not moved for so long, and for so many times its usual gap, is not told while
another one moves."""
_UNITS: Final = tuple(Unit)
_ORIGINS: Final = tuple(Origin)

Key = tuple[Origin, Unit, str]


@dataclass(frozen=True, slots=True)
class Track:
    """One counter in one attempt."""

    first: Reading
    last: Reading
    """That has moved it …"""
    seen_at: float
    """… and when that was seen, by a steady clock."""
    moves: int = 0
    """How often it has moved since the first."""
    gap_s: float = 0.0
    """Between the last two movements that were seen."""
    marks: tuple[tuple[float, int], ...] = ()
    """Times and steps of the last few readings, by the clock of who says them."""

    @classmethod
    def begin(cls, reading: Reading, now: float) -> Track:
        return cls(reading, reading, now, marks=((reading.at, reading.step),))

    def take(self, reading: Reading, now: float) -> Track:
        last = self.last
        anew = reading.step < last.step
        kept = reading._replace(
            total=last.total if reading.total is None and not anew else reading.total,
            loss=last.loss if reading.loss is None and not anew else reading.loss,
        )
        if reading.step == last.step:
            return replace(self, last=kept._replace(at=last.at))
        return replace(
            self,
            last=kept,
            seen_at=now,
            moves=self.moves + 1,
            gap_s=now - self.seen_at or self.gap_s,  # several are seen at one look
            marks=_marked(() if anew else self.marks, reading),
        )

    @property
    def rate(self) -> float | None:
        """Steps a second; None where it is not known yet."""
        if len(self.marks) < 2:
            return None
        end, last = self.marks[-1]
        recent = sum(end - at <= RATE_S for at, _ in self.marks)
        begin, first = self.marks[-max(recent, min(_FEW, len(self.marks)))]
        return (last - first) / (end - begin) if end > begin else None

    @property
    def left_s(self) -> float | None:
        """Until the total at this rate; None where either is not known."""
        rate, total = self.rate, self.last.total
        if not rate or total is None:
            return None
        return max(0, total - self.last.step) / rate

    def stale(self, now: float) -> bool:
        return now - self.seen_at > max(STALE_S, STALE_GAPS * self.gap_s)


def _marked(
    marks: tuple[tuple[float, int], ...], reading: Reading
) -> tuple[tuple[float, int], ...]:
    """With one more: so far apart that they last for `RATE_S`, however fast they come."""
    if marks and reading.at < marks[-1][0]:  # the clock was set
        marks = ()
    if len(marks) > 1 and marks[-1][0] - marks[-2][0] < RATE_S / (MARKS - 2):
        marks = marks[:-1]
    return (*marks, (reading.at, reading.step))[-MARKS:]


def _has_room(tracks: dict[Key, Track], now: float) -> bool:
    """For one more; the one that has moved least lately makes it, if it moves no more."""
    if len(tracks) >= MOST_TRACKS:
        oldest = min(tracks, key=lambda key: tracks[key].seen_at)
        if not tracks[oldest].stale(now):
            return False
        del tracks[oldest]
    return True


@dataclass(frozen=True, slots=True)
class Course:
    """Of one attempt on one host."""

    tracks: Mapping[Key, Track] = field(default_factory=lambda: MappingProxyType({}))
    moved_at: float | None = None
    """When anything moved last, by a steady clock; None: nothing was read yet."""
    moves: int = 0
    """At how many looks something had moved; the first reading is none."""
    gaps: tuple[float, ...] = ()
    """Seconds between the last few of them."""
    begun: int | None = None
    """The step with which the attempt began, that of a checkpoint or 0; None: not known."""

    def take(self, readings: Iterable[Reading], now: float) -> Course:
        """After a look. ``now`` is a steady clock's, of the look."""
        tracks = dict(self.tracks)
        moved = begun = False
        for reading in readings:
            key = (reading.origin, reading.unit, reading.where)
            track = tracks.get(key)
            if track is None:
                if _has_room(tracks, now):
                    tracks[key] = Track.begin(reading, now)
                    begun = True
                continue
            tracks[key] = track.take(reading, now)
            moved |= tracks[key].moves > track.moves
        course = replace(self, tracks=MappingProxyType(tracks))
        if moved and self.moved_at is not None:
            gaps = (*self.gaps, now - self.moved_at)[-GAPS:]
            return replace(course, moved_at=now, moves=self.moves + 1, gaps=gaps)
        return replace(course, moved_at=now) if moved or begun else course

    @property
    def gap_s(self) -> float | None:
        """The median time between two movements, as seen; None before there are two."""
        if not self.gaps:
            return None
        # Not of `statistics`, which takes longer to load than all that reads progress.
        gaps, middle = sorted(self.gaps), len(self.gaps) // 2
        return (gaps[middle] + gaps[-middle - 1]) / 2

    @property
    def in_stride(self) -> bool:
        """The third step is behind it: what came before may have taken any time.

        A first reading of a greater step says so too, where it is known with which one it began. A
        line of the output does not: it may speak of the checkpoint that is restored.
        """

        def since(track: Track) -> int:
            told = track.last.origin not in {Origin.OUTPUT, Origin.CHECKPOINT}
            known = told and self.begun is not None
            return track.last.step - (self.begun or 0 if known else track.first.step)

        return self.moves >= STRIDE or any(
            track.last.unit is Unit.STEP and since(track) >= STRIDE
            for track in self.tracks.values()
        )

    def firsts(self) -> Iterator[Reading]:
        """The first reading of each counter that tells what the script does, not what it saved."""
        for track in self.tracks.values():
            if track.first.origin is not Origin.CHECKPOINT and not track.first.is_apart:
                yield track.first

    def best(self, now: float) -> Track | None:
        """What is told: steps before epochs, what a script says on purpose before what is found."""
        if not self.tracks:
            return None

        def rank(track: Track) -> tuple[object, ...]:
            last = track.last
            return (
                track.stale(now),
                _UNITS.index(last.unit),
                _ORIGINS.index(last.origin),
                last.is_apart,
                -last.step,
            )

        tracks = list(self.tracks.values())
        if all(track.stale(now) for track in tracks):  # then that is no difference
            now = min(track.seen_at for track in tracks)
        return min(tracks, key=rank)
