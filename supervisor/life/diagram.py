"""The automata of ``automaton.py`` and the ladder of ``ladder.py`` as Mermaid state diagrams, and
the tables of ``attempts.py`` in Markdown.

``python -m supervisor.life.diagram`` writes them anew where they stand in the guide. The reducer
steps through the same tables, so that what is drawn is what happens. (The model is h11, whose
documentation is drawn from its tables: docs/source/make-state-diagrams.py.)
"""

from __future__ import annotations

import enum
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from supervisor.life.attempts import KINDS, NEVER, SCOPES, Scope
from supervisor.life.automaton import JOB, LIVES, PHASES, Trigger
from supervisor.life.ladder import LADDER, Measure, To, Whom
from supervisor.life.words import JobState, Life, Phase, Rung

_PAGES: Final = pathlib.Path(__file__).parents[1] / "guide"
GUIDE: Final = _PAGES / "design.md"
ATTEMPTS: Final = _PAGES / "attempts.md"
_BLOCK: Final = re.compile(r"```mermaid\n---\ntitle: ([^\n]*)\n---\n.*?```", re.DOTALL)
_TABLE: Final = re.compile(r"^(\|[^\n]*\|)\n\|[-|]+\|\n(?:\|[^\n]*\n)*", re.MULTILINE)
_SCOPES: Final = "| strategy | what ended | what starts anew | because |"
_KINDS: Final = "| kind | what it is | restarts without progress | counted |"
_ANEW: Final = {
    Scope.ALONE: "it alone",
    Scope.CHIEF: "the chief and all parameter servers",
    Scope.ALL: "all processes of all hosts but the evaluator's",
}
_KILLED: Final = Phase.KILLING.value
"""Where the ladder ends."""
_DONE: Final = {
    Whom.EVERYBODY: "nobody is waited for any more",
    Whom.SCRIPTS: "no script is alive",
    Whom.SERVERS: "no server is alive",
}

_S = TypeVar("_S", bound=enum.StrEnum)


def diagrams() -> dict[str, str]:
    """Each diagram by its title."""
    return {
        "The life of a host": _automaton(PHASES, Phase.PREPARING),
        "The stop ladder, while draining": _ladder(),
        "The job, as the master announces it": _automaton(JOB, JobState.JOINING),
        "The life of a process": _automaton(LIVES, Life.PLANNED),
    }


def tables() -> dict[str, str]:
    """Each table of attempts by its first line, which is how it is found."""
    scopes = (
        f"`{strategy}` | {part} | {_ANEW[scope]} | {why}"
        for (strategy, part), (scope, why) in SCOPES.items()
    )
    kinds = (
        f"{kind} | {row.means} | {row.budget} | {_counted(row.charged, row.budget)}"
        for kind, row in KINDS.items()
    )
    return {_SCOPES: _table(_SCOPES, scopes), _KINDS: _table(_KINDS, kinds)}


def _counted(charged: bool, budget: str) -> str:
    return "" if budget == NEVER else "yes" if charged else "no"


def _table(head: str, rows: Iterable[str]) -> str:
    line = "|" + "---|" * (head.count("|") - 1)
    return "\n".join((head, line, *(f"| {row} |" for row in rows))) + "\n"


def mermaid() -> str:
    """All of them, fenced as they stand in the guide."""
    return "\n\n".join(_fenced(title, text) for title, text in diagrams().items())


def renewed(guide: str) -> str:
    """The guide's text with each of our diagrams and tables as it is by now; others stay."""
    drawn, written = diagrams(), tables()
    guide = _BLOCK.sub(
        lambda block: _fenced(block[1], drawn[block[1]]) if block[1] in drawn else block[0], guide
    )
    return _TABLE.sub(lambda table: written.get(table[1], table[0]), guide)


def _fenced(title: str, text: str) -> str:
    return f"```mermaid\n---\ntitle: {title}\n---\n{text}\n```"


def _drawn(lines: Iterable[str]) -> str:
    return "\n".join(("stateDiagram-v2", *(f"    {line}" for line in lines)))


def _automaton(table: Mapping[tuple[_S, Trigger], _S], first: _S) -> str:
    lines = [f"[*] --> {first}"]
    lines += [
        f"{before} --> {following}: {trigger}" for (before, trigger), following in table.items()
    ]
    left = {before for (before, _) in table}
    lines += [f"{state} --> [*]" for state in dict.fromkeys(table.values()) if state not in left]
    return _drawn(lines)


def _ladder() -> str:
    lines = [f"{_name(rung)}: {_name(rung)}, {_asked(each)}" for rung, each in LADDER.items()]
    lines += [f"{_KILLED}: {_KILLED}, SIGKILL to every tree"]
    lines += ["[*] --> hold: the chief or the evaluator is to have its time", "[*] --> scripts"]
    for rung, measure in LADDER.items():
        reasons: dict[str, list[str]] = {}
        over = _KILLED if measure.over is None else _name(measure.over)
        reasons.setdefault(over, []).append(f"the time ({measure.deadline}) is over")
        done = "[*]" if measure.done is None else _name(measure.done)
        reasons.setdefault(done, []).append(_DONE[measure.whom])
        lines += [f"{_name(rung)} --> {to}: {', or '.join(why)}" for to, why in reasons.items()]
    return _drawn([*lines, f"{_KILLED} --> [*]"])


def _name(rung: Rung) -> str:
    return rung.name.lower()


def _asked(measure: Measure) -> str:
    if measure.signalled is To.NOBODY:
        return "nobody is signalled"
    return f"the stop signal to the {measure.signalled} of the {measure.whom}"


if __name__ == "__main__":
    for page in (GUIDE, ATTEMPTS):
        page.write_text(renewed(page.read_text()))
