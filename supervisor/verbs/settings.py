"""``supervisor settings [WORD]``: every setting, or those that have to do with a word."""

from __future__ import annotations

import difflib
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from supervisor.contract.settings import TABLE, Setting
from supervisor.faults import shown

EXIT_UNKNOWN: Final = 2
"""No setting has to do with the word: what argparse says of one that it does not know."""
_WIDEST: Final = 100

_PAGE: Final = """\
# Settings

Everything that can be set, in groups, with its default. Every setting is a flag of \
`supervisor train` and `supervisor local`, and an environment variable: `--stop-grace-s` is \
`SUPERVISOR_STOP_GRACE_S`. `supervisor settings` shows them in the terminal, and \
`supervisor settings stop` those that have to do with a word.

Where a setting is given more than once, a flag counts before the environment, and that before a \
hyperparameter of the platform or the platform's own variable (here behind *also*).

A `SUPERVISOR_…` variable that is within two letters of a setting is an error that names it. \
Another unknown one is warned of, with the nearest name, and left to the script; with \
`SUPERVISOR_STRICT_SETTINGS=true` it is an error too. Those that supervisord, Kubernetes or \
Docker's links set (`SUPERVISOR_ENABLED`, `SUPERVISOR_PORT=tcp://10.0.0.1:80`, \
`SUPERVISOR_SERVICE_HOST`) are none of ours, even where a setting has the same name, and are \
ignored.
"""


def show(word: str | None, *, markdown: bool = False) -> int:
    """Print the settings, or the guide's page of them; returns the exit code."""
    if markdown:
        print(page(), end="")
        return 0
    found = [setting for setting in TABLE if word is None or _is_about(setting, word)]
    if not found:
        assert word is not None
        flags = {setting.field: setting.flag for setting in TABLE}
        near = [flags[name] for name in difflib.get_close_matches(_field(word), flags)]
        remedy = f"near by name: {', '.join(near)}" if near else "supervisor settings shows all"
        print(
            f"supervisor settings: no setting has {shown(word)} in its name, its group or its "
            f"meaning; {remedy}",
            file=sys.stderr,
        )
        return EXIT_UNKNOWN
    print("\n".join(_lines(found, min(shutil.get_terminal_size().columns, _WIDEST))))
    return 0


def page() -> str:
    """The guide's page, ``supervisor/guide/settings.md``."""
    lines = [_PAGE]
    for group, settings in _groups(TABLE):
        lines += [f"## {group}", "", "| setting | default | meaning |", "|---|---|---|"]
        for setting in settings:
            default = f"`{setting.default}`{_unit(setting)}" if setting.default else ""
            twins = "".join(f"; also `{twin}`" for twin in setting.twins)
            meaning = setting.help.replace("<", r"\<")  # <NAME> would be taken for HTML
            lines.append(f"| `{setting.env}` | {default} | {meaning}{twins} |")
        lines.append("")
    return "\n".join(lines)


def _groups(settings: Iterable[Setting]) -> Iterator[tuple[str, list[Setting]]]:
    for group, members in groupby(settings, key=lambda setting: setting.group):
        yield group, list(members)


def _unit(setting: Setting) -> str:
    """What is to be read behind its default, which may be a word, or have a unit (``64MiB``)."""
    return f" {setting.unit}" if setting.unit and setting.default.isdigit() else ""


def _field(word: str) -> str:
    """A word as it would stand in a field's name: of a flag, of a variable, of neither."""
    return word.lower().lstrip("-").replace("-", "_").removeprefix("supervisor_")


def _is_about(setting: Setting, word: str) -> bool:
    texts = (setting.help, setting.group, *setting.twins)
    return _field(word) in setting.field or any(word.lower() in text.lower() for text in texts)


def _lines(settings: Sequence[Setting], width: int) -> Iterator[str]:
    for group, members in _groups(settings):
        yield group
        yield ""
        for setting in members:
            default = f"  (default {setting.default}{_unit(setting)})" if setting.default else ""
            yield f"  {setting.flag}  {setting.env}{default}"
            twins = "".join(f"; also {twin}" for twin in setting.twins)
            yield textwrap.fill(
                setting.help + twins, width, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
        yield ""
