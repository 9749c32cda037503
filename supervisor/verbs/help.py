"""``supervisor help``: the guide, page by page."""

from __future__ import annotations

import difflib
import importlib.resources
import re
import sys
from collections.abc import Mapping
from typing import ClassVar, Final

EXIT_UNKNOWN: Final = 2
"""There is no such topic: what argparse says of a word that it does not know."""
_WIDEST: Final = 100
"""Columns: prose in longer lines is hard to read."""
_NAME_COLUMNS: Final = 30
"""Of a table's first column, unless a word in it is longer."""
_LINK: Final = re.compile(r"\[([^\]]+)\]\((?:([a-z-]+)\.md)?(?:#[^)]*)?\)")
"""To another page of the guide, or to another place of this one."""


def show(topic: str | None) -> int:
    """Print the list of topics, or the page of one; returns the exit code."""
    pages = guide()
    if topic is None:
        _list(pages)
        return 0
    if topic not in pages:
        print(f"supervisor help: {_unknown(topic, pages)}", file=sys.stderr)
        return EXIT_UNKNOWN
    _render(_for_reading(pages[topic]))
    return 0


def guide() -> dict[str, str]:
    """The pages in Markdown, by topic."""
    directory = importlib.resources.files("supervisor") / "guide"
    files = sorted(directory.iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".md"): file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith(".md")
    }


def summary(page: str) -> str:
    """The first sentence behind the page's heading."""
    text = page.partition("\n\n")[2].partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[.!?]) ", text, maxsplit=1)[0]


def _list(pages: Mapping[str, str]) -> None:
    width = max(map(len, pages))
    print("Topics of `supervisor help TOPIC`:\n")
    for topic, page in pages.items():
        print(f"  {topic:{width}}  {_for_reading(summary(page)).replace('`', '')}")
    print("\nThe options of a command: supervisor COMMAND --help")


def _unknown(topic: str, pages: Mapping[str, str]) -> str:
    nearest = difflib.get_close_matches(topic, pages, n=1)
    meant = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(pages)}"
    return f"no topic {topic!r}; {meant} (options of a command: supervisor COMMAND --help)"


def _for_reading(page: str) -> str:
    """A terminal follows no relative links: say what to type instead."""

    def said(link: re.Match[str]) -> str:
        return f"{link[1]} (`supervisor help {link[2]}`)" if link[2] else link[1]

    return _LINK.sub(said, page)


def _render(text: str) -> None:
    """Laid out for a pipe too: a table's lines in Markdown are too long to be read in a pager."""
    from rich.console import Console, ConsoleOptions, RenderResult  # noqa: PLC0415  # heavy
    from rich.markdown import Markdown, TableElement  # noqa: PLC0415
    from rich.measure import measure_renderables  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    class Whole(TableElement):
        """Names stay whole. rich would cut a long word to fit, and what is cut cannot be copied."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for table in super().__rich_console__(console, options):
                assert isinstance(table, Table)
                for column in table.columns:
                    column.overflow = "fold"
                first = table.columns[0]
                least, most = measure_renderables(console, options, [first.header, *first.cells])
                first.width = max(least, min(most, _NAME_COLUMNS))
                yield table

    class Page(Markdown):
        elements: ClassVar = {**Markdown.elements, "table_open": Whole}

    console = Console()
    console.print(Page(text, hyperlinks=False), width=min(console.width, _WIDEST))
