"""The guide's diagrams of a life, and its tables of attempts, are what the reducer's tables say."""

from __future__ import annotations

import re

from supervisor.life.attempts import KINDS, SCOPES
from supervisor.life.diagram import ATTEMPTS, GUIDE, diagrams, mermaid, renewed, tables

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


def test_the_guide_shows_what_starts_anew_and_how_often() -> None:
    page = ATTEMPTS.read_text()
    assert renewed(page) == page, STALE
    assert all(table in page for table in tables().values()), STALE
    assert sum(table.count("\n") - 2 for table in tables().values()) == len(SCOPES) + len(KINDS)


def test_a_stale_table_is_found_and_those_of_others_are_left() -> None:
    others = "| a | b |\n|---|---|\n| 1 | 2 |\n"
    fresh = f"{others}\n" + "\n".join(tables().values()) + "\nText.\n"
    stale = fresh.replace("the coordinator takes it back", "why not")
    assert stale != fresh
    assert renewed(stale) == renewed(fresh) == fresh
