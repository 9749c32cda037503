"""What ``--faults`` says, and when which fault is due: a grammar and a schedule. Pure.

``ACTION [TARGET] [DURATION] [at T | at step N | every T [until T] | randomly every T [until T]]``,
several separated by ``;``. All that is random is drawn from the seed, for each fault apart: the
same seed gives the same moments and victims, whatever else happens meanwhile.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from supervisor.faults import Fault, shown


class Action(enum.StrEnum):
    KILL = "kill"
    STOP = "stop"
    FREEZE = "freeze"
    PARTITION = "partition"
    KILL_HOST = "kill host"
    SPOIL = "spoil checkpoint"
    SLOW_DISK = "slow disk"
    FULL_DISK = "full disk"


class _Kind(NamedTuple):
    """What an action takes."""

    of: str
    """``process``: a role, a host or HOST/PROCESS; ``host``: a host."""
    lasts_s: float | None
    """How long it lasts where nothing is said; None: it takes no duration."""


_KINDS: Final = {
    Action.KILL: _Kind("process", None),
    Action.STOP: _Kind("process", None),
    Action.FREEZE: _Kind("process", 10.0),
    Action.PARTITION: _Kind("host", 10.0),
    Action.KILL_HOST: _Kind("host", 3.0),
    Action.SPOIL: _Kind("host", None),
    Action.SLOW_DISK: _Kind("host", 10.0),
    Action.FULL_DISK: _Kind("host", 10.0),
}
SCRIPTS: Final = ("chief", "master", "worker", "evaluator", "launcher")
"""Roles of scripts: of these one is taken where no target is named."""
ROLES: Final = (*SCRIPTS, "ps")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|m|h)")
_WHEN: Final = frozenset({"at", "every", "randomly", "until", "for"})
_SOONEST_S, _LATEST_S = 5.0, 30.0
"""Between these a fault without a time comes, once."""
_LEAST_S: Final = 0.1
_MOST_CLAUSES: Final = 100
_SEED_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Clause:
    """One part of ``--faults``."""

    text: str
    action: Action
    target: str = ""
    """Empty: one that the seed chooses, of the disks every host."""
    lasts_s: float = 0.0
    """Of a host that is killed: how long until it is started anew."""
    for_good: bool = False
    at_s: float | None = None
    """After the start; None with ``every_s`` None as well: whenever the seed says."""
    at_step: int | None = None
    """Once the script has told this step or a later one."""
    every_s: float | None = None
    until_s: float = math.inf
    randomly: bool = False
    """``every_s`` is the mean."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One fault of the schedule."""

    number: int
    """From 1, in the order of time."""
    at_s: float
    """After the job has begun to run; 0 for one that waits for a step."""
    clause: Clause
    draw: float
    """From 0 up to 1: what chooses the victim."""

    def pick(self, candidates: Sequence[str]) -> str:
        """One of them, which are not to be empty, whatever their order."""
        return sorted(candidates)[int(self.draw * len(candidates))]


@dataclass(frozen=True, slots=True)
class Faults:
    """What ``--faults`` and its companions ask for."""

    clauses: tuple[Clause, ...]
    seed: int
    strict: bool = False
    """A job that succeeds ends with 1 where training began anew that could have gone on."""

    def greeting(self, restarts: int) -> Iterator[str]:
        """What is said at the start."""
        yield f"faults of seed {self.seed}, --faults-seed {self.seed} repeats them: {self}"
        if restarts:
            yield f"what fails is started anew {restarts} times without progress between"
        else:
            yield "SUPERVISOR_RESTARTS is 0: the first fault that ends a script ends the job"

    def __str__(self) -> str:
        return "; ".join(clause.text for clause in self.clauses)


class _WrongError(Exception):
    """A word of a part is wrong; and what is possible there."""


class Wanted(NamedTuple):
    """The words of the command line, unread."""

    faults: str
    seed: str | None = None
    strict: bool = False


def read(wanted: Wanted, hosts: Sequence[str]) -> tuple[Faults | None, list[Fault]]:
    """What is asked for, or what is wrong with it. Without a seed one is drawn."""
    clauses, faults = parse(wanted.faults, hosts)
    seed = str(random.randrange(10_000)) if wanted.seed is None else wanted.seed  # noqa: S311
    if not (seed.isascii() and seed.isdigit() and len(seed) <= _SEED_DIGITS):
        expected = f"a whole number of at most {_SEED_DIGITS} digits"
        faults.append(Fault("command line", "--faults-seed", shown(seed), expected))
    return (None if faults else Faults(clauses, int(seed), wanted.strict)), faults


def parse(text: str, hosts: Sequence[str]) -> tuple[tuple[Clause, ...], list[Fault]]:
    """The parts, and what is wrong with them: one fault for each part that has one."""
    clauses, faults = [], []
    parts = [part.strip() for part in text.split(";")]
    for part in parts:
        if not part:
            continue
        try:
            clauses.append(_clause(part, hosts))
        except _WrongError as error:
            word, expected = error.args
            found = f"{shown(part)}: {shown(word)}" if word else f"{shown(part)}: it ends there"
            faults.append(Fault("command line", "--faults", found, expected))
    if not clauses and not faults:
        faults.append(Fault("command line", "--faults", repr(text), f"{_actions()}, and so on"))
    if len(clauses) > _MOST_CLAUSES:
        found = f"{len(clauses)} parts"
        faults.append(Fault("command line", "--faults", found, f"at most {_MOST_CLAUSES}"))
    return tuple(clauses), faults


def _actions() -> str:
    return ", ".join(Action)


def _clause(part: str, hosts: Sequence[str]) -> Clause:
    words = part.split()
    action, rest = _action(words)
    kind = _KINDS[action]
    target = ""
    if rest and rest[0] not in _WHEN and not rest[0][0].isdigit():
        target = _target(rest.pop(0), kind.of, hosts)
    lasts_s = kind.lasts_s or 0.0
    if rest and rest[0][0].isdigit():
        if kind.lasts_s is None:
            raise _WrongError(rest[0], f"no duration: {action} takes none; at T, or every T")
        lasts_s = _time(rest.pop(0))
    for_good = action is Action.KILL_HOST and rest[:2] == ["for", "good"]
    if for_good:
        del rest[:2]
    return _when(Clause(part, action, target, lasts_s, for_good), rest)


def _action(words: list[str]) -> tuple[Action, list[str]]:
    pair = " ".join(words[:2])
    if pair in set(Action):
        return Action(pair), words[2:]
    if words[0] in set(Action):
        return Action(words[0]), words[1:]
    begun = [str(action) for action in Action if action.startswith(f"{words[0]} ")]
    if begun:
        raise _WrongError("".join(words[1:2]), " or ".join(begun))
    raise _WrongError(words[0], f"one of {_actions()}")


def _target(word: str, of: str, hosts: Sequence[str]) -> str:
    known = f"one of the hosts {hosts[0]} to {hosts[-1]}" if len(hosts) > 1 else hosts[0]
    if word in hosts:
        return word
    if of == "host":
        raise _WrongError(word, f"{known}, a time such as 10s, or at, every, randomly every")
    host, slash, process = word.partition("/")
    if word in ROLES or (slash and host in hosts and process):
        return word
    roles = ", ".join(ROLES)
    raise _WrongError(
        word, f"a role ({roles}), {known}, HOST/PROCESS, or at, every, randomly every"
    )


def _time(word: str) -> float:
    """In seconds."""
    found = _TIME.fullmatch(word)
    if found is None:
        raise _WrongError(word, "a time with its unit, such as 500ms, 30s, 2min or 1h")
    seconds = float(found[1]) * _UNITS[found[2]]
    if not _LEAST_S <= seconds <= 1e6:
        raise _WrongError(word, "a time from 100ms to 10 days")
    return seconds


def _when(clause: Clause, rest: list[str]) -> Clause:
    randomly = rest[:1] == ["randomly"]
    if randomly:
        del rest[0]
        if rest[:1] != ["every"]:
            raise _WrongError("".join(rest[:1]), "every T after 'randomly'")
    word = rest[0] if rest else ""
    if rest[:2] == ["at", "step"]:
        clause = replace(clause, at_step=_step(rest))
    elif word == "at":
        clause = replace(clause, at_s=_after(rest))
    elif word == "every":
        clause = replace(clause, every_s=_after(rest), randomly=randomly)
        if rest[:1] == ["until"]:
            clause = replace(clause, until_s=_after(rest))
    if rest:
        raise _WrongError(rest[0], _more(clause, timed=word in {"at", "every"}))
    return clause


def _step(rest: list[str]) -> int:
    """Of ``at step N``, whose words are taken away."""
    number = rest[2] if len(rest) > 2 else ""
    if not (number.isascii() and number.isdigit() and len(number) <= _SEED_DIGITS):
        raise _WrongError(number, "the number of a step")
    del rest[:3]
    return int(number)


def _after(rest: list[str]) -> float:
    """The time after the first of these words; both are taken away."""
    word = rest.pop(0)
    if not rest:
        raise _WrongError("", f"a time after {word!r}, such as 30s")
    return _time(rest.pop(0))


def _more(clause: Clause, *, timed: bool) -> str:
    if timed:
        return "nothing more, until T after every T, or ; before the next fault"
    good = "for good, " if clause.action is Action.KILL_HOST and not clause.for_good else ""
    return f"{good}at T, at step N, every T, every T until T, or randomly every T"


def schedule(clauses: Sequence[Clause], seed: int) -> Iterator[Moment]:
    """Every fault in the order of time; without an end where a part says so."""
    streams = [_moments(index, clause, seed) for index, clause in enumerate(clauses)]
    for number, (at_s, _, clause, draw) in enumerate(heapq.merge(*streams, key=_due), 1):
        yield Moment(number, at_s, clause, draw)


def _due(moment: tuple[float, int, Clause, float]) -> tuple[float, int]:
    return moment[:2]


def _moments(index: int, clause: Clause, seed: int) -> Iterator[tuple[float, int, Clause, float]]:
    # By its place and words: another part before or after it changes nothing for this one.
    chance = random.Random(f"{seed} {index} {clause.text}")  # noqa: S311
    if clause.every_s is None:
        drawn_s = chance.uniform(_SOONEST_S, _LATEST_S)
        told_s = clause.at_s if clause.at_step is None else 0.0
        yield (drawn_s if told_s is None else told_s, index, clause, chance.random())
        return
    at_s = 0.0
    for turn in itertools.count(1):
        if clause.randomly:
            at_s += max(_LEAST_S, chance.expovariate(1 / clause.every_s))
        else:
            at_s = turn * clause.every_s
        if at_s > clause.until_s:
            return
        yield at_s, index, clause, chance.random()
