"""The README lists every setting, as the program has them."""

from __future__ import annotations

import pathlib
import re

from supervisor.contract.settings import TABLE

README = (pathlib.Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")


def settings_table() -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for setting in TABLE:
        default = f"`{setting.default}`" if setting.default else ""
        if setting.unit and setting.default not in {"", "auto"}:
            default += f" {setting.unit}"
        twins = "".join(f"; also `{twin}`" for twin in setting.twins)
        rows.append(f"| `{setting.env}` | {default} | {setting.help}{twins} |")
    return "\n".join(rows)


def test_the_settings_table_is_that_of_the_program() -> None:
    found = re.search(r"<!-- settings -->\n(.*)\n<!-- /settings -->", README, re.DOTALL)
    assert found is not None
    assert found[1] == settings_table()
