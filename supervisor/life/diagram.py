"""The automata of ``automaton.py`` and the ladder of ``ladder.py`` as Mermaid state diagrams.

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

from supervisor.life.automaton import JOB, LIVES, PHASES, Trigger
from supervisor.life.ladder import LADDER, Measure, To, Whom
from supervisor.life.words import JobState, Life, Phase, Rung

GUIDE: Final = pathlib.Path(__file__).parents[1] / "guide" / "design.md"
_BLOCK: Final = re.compile(r"```mermaid\n---\ntitle: ([^\n]*)\n---\n.*?```", re.DOTALL)
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


def mermaid() -> str:
    """All of them, fenced as they stand in the guide."""
    return "\n\n".join(_fenced(title, text) for title, text in diagrams().items())


def renewed(guide: str) -> str:
    """The guide's text with each of our diagrams as the tables give it; others stay."""
    drawn = diagrams()
    return _BLOCK.sub(
        lambda block: _fenced(block[1], drawn[block[1]]) if block[1] in drawn else block[0], guide
    )


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
    GUIDE.write_text(renewed(GUIDE.read_text()))
