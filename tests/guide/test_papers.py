"""README and the guide: short enough, true where a machine can tell, and each fact once."""

from __future__ import annotations

import collections
import itertools
import pathlib
import re
import shlex
import tomllib
from collections.abc import Iterator

import pytest

from supervisor.life.outcome import EXIT_CODES
from supervisor.verbs import cli
from supervisor.verbs.help import guide
from tests.helpers.tree import ROOT

PACKAGE = ROOT / "supervisor"
README = ROOT / "README.md"
PAGES = sorted((PACKAGE / "guide").glob("*.md"))
PAPERS = [README, *PAGES]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAPERS}

each_paper = pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them; of two that are the same the second ends in -1."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", without_code(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        names = itertools.chain([slug], (f"{slug}-{count}" for count in itertools.count(1)))
        found.add(next(name for name in names if name not in found))
    return found


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", without_code(text)))


def commands(text: str) -> Iterator[list[str]]:
    """Every command line of ours: in blocks of a shell, and in words that are code."""
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                if words[0] in {"supervisor", "train"}:
                    yield words[:end]
                words = words[end + 1 :]
    for code in re.findall(r"`(supervisor [a-z][^`]*)`", without_code(text)):
        yield shlex.split(code)


def paragraphs(text: str) -> Iterator[str]:
    """Also each item of a list and each row of a table."""
    for block in re.split(r"\n\s*\n", text):
        for part in re.split(r"\n(?=[-|\d])", block):
            yield " ".join(part.split())


def test_readme_can_be_read_at_once() -> None:
    assert len(TEXTS[README].splitlines()) <= 150


@each_paper
def test_every_link_leads_somewhere(path: pathlib.Path) -> None:
    for link in links(TEXTS[path]):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_anchors_are_those_of_github() -> None:
    text = "# The `x` page\n## What's new?\n## Twice\n```\n# no heading\n```\n## Twice\n"
    assert anchors(text) == {"the-x-page", "whats-new", "twice", "twice-1"}


@each_paper
def test_every_command_is_one_that_the_program_takes(path: pathlib.Path) -> None:
    for words in commands(TEXTS[path]):
        if words[0] == "train":
            continue
        name, *arguments = words[1:]
        if name == "help":
            assert arguments == [] or arguments[0] in guide(), words
        else:
            cli._parsed(name, cli.VERBS[name], arguments)


def test_every_exit_code_of_ours_is_listed_with_its_meaning() -> None:
    page = TEXTS[PACKAGE / "guide" / "ending.md"]
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in page


def test_no_paragraph_stands_in_two_papers() -> None:
    places = collections.defaultdict(set)
    for path, text in TEXTS.items():
        for paragraph in paragraphs(text):
            if len(paragraph) >= 200:
                places[paragraph].add(path.name)
    assert not {text: names for text, names in places.items() if len(names) > 1}


def test_readme_names_every_page_of_the_guide() -> None:
    linked = {README.parent / link for link in links(TEXTS[README])}
    assert not set(PAGES) - linked


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_begins_with_its_title_and_says_what_it_is_about(path: pathlib.Path) -> None:
    """``supervisor help`` lists that sentence."""
    assert re.match(r"# .+\n\n[A-Z`][^\n]+[.:]", TEXTS[path])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_code_is_not_wrapped_on_a_terminal_of_80_columns(path: pathlib.Path) -> None:
    """``supervisor help`` keeps a column free on each side."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", TEXTS[path], re.DOTALL | re.MULTILINE)
    # What a terminal of 120 columns has shown is as wide as that.
    for block in (text for language, text in blocks if language not in {"mermaid", "console"}):
        assert not [line for line in block.splitlines() if len(line) > 78]


def test_the_files_that_the_design_names_are_there() -> None:
    named = re.findall(r"`([a-z_./]+/[a-z_./]*)`", without_code(TEXTS[PACKAGE / "guide/design.md"]))
    assert len(named) > 40
    assert [
        name for name in named if not any((top / name).exists() for top in (PACKAGE, ROOT))
    ] == []


def test_the_dependencies_beside_tensorflow_are_those_of_the_package() -> None:
    """README names them for images whose TensorFlow is another distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    others = {name for name in project["dependencies"] if not name.startswith("tensorflow")}
    text = TEXTS[README].replace("\\\n", " ")
    (install,) = re.findall(r"^pip install 'aio.*$", text, re.MULTILINE)
    assert set(shlex.split(install)[2:]) == others
