"""Hyperparameters in the styles of argument parsers; the words of a command; entry points."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

import pytest

from supervisor.contract.contract import read_contract
from supervisor.contract.reading import parse_settings
from supervisor.faults import ContractError
from supervisor.plan.arguments import script_arguments
from supervisor.plan.plan import make_plan
from tests.contract.test_contract import HYPER, facts
from tests.helpers.train import lay_out
from tests.verbs.test_train import run


def made(values: dict[str, Any], **settings: str) -> tuple[str, ...]:
    chosen, faults = parse_settings(settings, {}, {})
    assert not faults
    return script_arguments(values, chosen)


VALUES = {"b_c": True, "off": False, "layers": [1, "x y"], "a": None, "m": {"k": 1}}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {},
            "-a||--b_c|True|--layers|[1, 'x y']|-m|k=1|--off|False",
        ),
        ({"args_order": "given"}, "--b_c|True|--off|False|--layers|[1, 'x y']|-a||-m|k=1"),
        ({"args_flags": "true"}, "-a||--b_c|--layers|[1, 'x y']|-m|k=1"),
        ({"args_lists": "expanded"}, "-a||--b_c|True|--layers|1|x y|-m|k=1|--off|False"),
        ({"args_dashes": "true"}, "-a||--b-c|True|--layers|[1, 'x y']|-m|k=1|--off|False"),
        ({"args_style": "hydra"}, "a=null|b_c=true|layers=[1,'x y']|m={k:1}|off=false"),
        ({"args_style": "none"}, ""),
    ],
)
def test_styles(settings: dict[str, str], expected: str) -> None:
    assert "|".join(made(VALUES, **settings)) == expected


def test_argparse_takes_what_is_made_for_it() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--layers", nargs="*", type=int)
    words = made(
        {"dry_run": True, "verbose": False, "layers": [3, 4]},
        args_flags="true",
        args_lists="expanded",
        args_dashes="true",
    )
    assert vars(parser.parse_args(words)) == {"dry_run": True, "verbose": False, "layers": [3, 4]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain/path-1.2", "x=plain/path-1.2"),
        ("it's", "x='it\\'s'"),
        ("back\\'slash", "x='back\\\\\\'slash'"),
        ("end\\", "x='end\\\\'"),
        ("$(touch x)", "x='$(touch x)'"),
        ("1", "x='1'"),
        ("null", "x='null'"),
        (1.5, "x=1.5"),
        ("", "x=''"),
    ],
)
def test_hydra_quotes_what_it_would_read_otherwise(value: object, expected: str) -> None:
    assert made({"x": value}, args_style="hydra") == (expected,)


def argv(
    program: str, code: set[str], command: str = "", hyper: dict[str, Any] | None = None
) -> tuple[str, ...]:
    given = {**HYPER, "sagemaker_program": program, **(hyper or {})}
    environ = {"PATH": "/bin"} | ({"SUPERVISOR_COMMAND": command} if command else {})
    contract = read_contract(facts(given, code=frozenset(code), environ=environ))
    return make_plan(contract).processes[-1].argv


def test_modules_packages_and_commands() -> None:
    assert argv("-m pkg.train", {"pkg/train.py"}) == (sys.executable, "-m", "pkg.train")
    assert argv("shop", {"pyproject.toml"}) == (sys.executable, "-m", "shop")
    assert argv("shop", {"pyproject.toml", "shop"}) == ("./shop",)
    assert argv("train.py", {"pyproject.toml", "train.py"}) == (sys.executable, "train.py")
    with pytest.raises(ContractError, match="-m and the name of a module"):
        argv("-m pkg/train", set())


def test_requirements_are_installed_for_what_python_runs() -> None:
    def steps(program: str, *code: str, **env: str) -> list[str]:
        given = {**HYPER, "sagemaker_program": program}
        names = frozenset({*code, "requirements.txt"})
        environ = {"PATH": "/bin", **env}
        plan = make_plan(read_contract(facts(given, code=names, environ=environ)))
        return [step.name for step in plan.steps]

    assert steps("train.py", "train.py") == ["requirements"]
    assert steps("-m pkg.train") == ["requirements"]
    assert steps("shop", "setup.py") == ["requirements", "package"]
    assert steps("run.sh", "run.sh") == [], "as in the predecessor"
    assert steps("shop", "setup.py", SUPERVISOR_REQUIREMENTS="skip") == []


def test_a_command_template_is_words_and_never_a_shell() -> None:
    hyper = {"lr": "0.1", "name": "a b; $(x)"}
    words = argv("train.py", {"train.py"}, "nice -n 5 {python} '-X dev' {program} {args}", hyper)
    assert words == (
        *("nice", "-n", "5", sys.executable, "-X dev", "train.py"),
        *("--lr", "0.1", "--name", "a b; $(x)"),
    )
    assert argv("", set(), "/opt/run --config=x") == ("/opt/run", "--config=x")


@pytest.mark.parametrize("command", ["{what}", "a 'b", "--x={args}", "{program"])
def test_a_bad_command_template_is_refused(command: str) -> None:
    with pytest.raises(ContractError, match="SUPERVISOR_COMMAND"):
        argv("train.py", {"train.py"}, command)


def test_a_command_template_runs(tmp_path: pathlib.Path) -> None:
    lay_out(tmp_path, "import sys; print(sys.flags.utf8_mode, sys.argv[1:])", {"a": "x  y"})
    code, out, _ = run(tmp_path, SUPERVISOR_COMMAND="{python} -X utf8 {program} {args} end")
    assert (code, out) == (0, b"1 ['-a', 'x  y', 'end']\n")
