"""What a script sets before its imports, and which variables an import reads."""

from __future__ import annotations

import pytest

from supervisor.plan.early import (
    Early,
    difference,
    early_settings,
    imports,
    may_differ,
    other_settings,
    reads_early,
)

LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"import os\nos.environ['{LEVEL}'] = '3'\nimport tensorflow", {LEVEL: "3"}),
        (f"from os import environ\nenviron['{LEVEL}'] = '3'\nimport keras", {LEVEL: "3"}),
        (f"import os\nos.environ.setdefault('{LEVEL}', '3')\nimport numpy", {LEVEL: "3"}),
        ("import os\nos.environ.setdefault('TF_GIVEN', '3')\nimport numpy", {}),
        (f"import os\nos.environ['{LEVEL}'] = '1'\nos.environ['{LEVEL}'] = '2'", {LEVEL: "2"}),
        ("import os\nos.environ['OWN'] = '3'\nimport tensorflow", {}),
        (f"import os, tensorflow\nos.environ['{LEVEL}'] = str(3)", {}),
        (f"import os, tensorflow\ndef f():\n    os.environ['{LEVEL}'] = '3'", {}),
        (f"import os\nprint(os.environ.get('{LEVEL}'), os.environ['{LEVEL}'])", {}),
        (f"import os\nif '{LEVEL}' in os.environ: pass\nos.getenv('{LEVEL}')", {}),
        (f"import os\nos.environ['OWN'] = '{LEVEL}'", {}),
        ("import os\nos.environ['TF_CONFIG'] = make()\nimport tensorflow", {}),
        ("a sentence, no script", {}),
        ("\0", {}),
        ("", {}),
    ],
)
def test_what_a_script_sets_by_constants_is_known(source: str, expected: dict[str, str]) -> None:
    assert early_settings(source.encode(), {"TF_GIVEN": "1"}) == Early(expected, None)


@pytest.mark.parametrize(
    "source",
    [
        f"import os, sys\nos.environ['{LEVEL}'] = sys.argv[1]\nimport tensorflow",
        f"import os\nif cold:\n    os.environ['{LEVEL}'] = '3'\nimport tensorflow",
        f"import os\ndef f():\n    os.environ['{LEVEL}'] = '3'\nf()\nimport tensorflow",
        f"import os, numpy\nos.environ['{LEVEL}'] = '3'\nimport tensorflow",
        f"import os\nos.putenv('{LEVEL}', '3')",
        f"import os\nos.environ.update({LEVEL}='3')",
        f"import os\nos.environ.update({{'{LEVEL}': '3'}})",
        f"import os\nos.environ |= {{'{LEVEL}': '3'}}",
        f"import os\nos.environ.pop('{LEVEL}')",
        f"import os\ndel os.environ['{LEVEL}']",
        f"import os\nos.environ.setdefault('{LEVEL}', level)",
        f"import own\nown.put('{LEVEL}')\nimport tensorflow",
    ],
)
def test_what_it_sets_otherwise_is_unclear(source: str) -> None:
    assert early_settings(source.encode(), {}).unclear == LEVEL
    assert other_settings(source.encode()) == LEVEL


def test_of_other_modules_everything_is_unclear() -> None:
    assert other_settings(f"import os\nos.environ['{LEVEL}'] = '3'".encode()) == LEVEL
    assert other_settings(b"import os\nos.environ['OWN'] = '3'\nos.getenv('TF_X')") is None
    assert other_settings(b"no module") is None


def test_what_the_plan_gives_otherwise_is_read_by_no_import() -> None:
    before = {"PATH": "/bin", "TF_CONFIG": "{}", "SUPERVISOR_ATTEMPT": "1", "OWN": "1"}
    now = before | {"TF_CONFIG": "", "SUPERVISOR_LAST_CAUSE": "x", "SM_HOSTS": "[]"}
    assert difference(before, now) is None
    assert difference(before, now | {"OWN": "2"}) == "OWN", "who knows what reads it"
    assert difference(before, {"PATH": "/bin"}) == "OWN"
    for name in ("PYTHONPATH", "LD_PRELOAD", "HOME", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "TZ"):
        assert reads_early(name)
        assert not may_differ(name)
    assert not reads_early("TF_CONFIG")


def test_what_a_module_imports_is_found_wherever_it_stands() -> None:
    source = (
        b"import a.b, c\ndef f():\n    from d import e\n    from . import g\n    from ..h import i"
    )
    found = {(0, "a.b"), (0, "c"), (0, "d.e"), (1, "g"), (2, "h.i")}
    assert set(imports(source)) == found
    assert list(imports(b"no module")) == []
