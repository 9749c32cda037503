"""The guide's diagrams of a life are what the reducer's tables say."""

from __future__ import annotations

import re

from supervisor.life.diagram import GUIDE, diagrams, mermaid, renewed

STALE = "write the diagrams anew: python -m supervisor.life.diagram"


def test_the_guide_shows_the_automata_as_they_are() -> None:
    guide = GUIDE.read_text()
    assert renewed(guide) == guide, STALE
    assert set(re.findall(r"(?m)^```mermaid\n---\ntitle: (.*)$", guide)) >= {*diagrams()}, STALE


def test_a_stale_diagram_is_found_and_what_others_drew_is_left() -> None:
    fresh = f"# Design\n\n{mermaid()}\n\n```mermaid\nflowchart\n    a --> b\n```\n"
    stale = fresh.replace("preparing --> joining", "preparing --> running")
    assert stale != fresh
    assert renewed(stale) == renewed(fresh) == fresh
