"""Settings as people meet them: ``supervisor settings``, ``--help``, unknown flags, the guide."""

from __future__ import annotations

import pathlib
import re

import pytest

import supervisor
from supervisor.contract.reading import parse_settings
from supervisor.contract.settings import FIELDS, TABLE, Setting
from supervisor.verbs import cli, settings

PAGE = pathlib.Path(supervisor.__file__).parent / "guide" / "settings.md"


def test_the_page_of_the_guide_is_made_from_the_declarations() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings.page(), (
        "renew it: supervisor settings --markdown > supervisor/guide/settings.md"
    )


def test_what_is_read_has_every_declared_setting_and_no_declaration() -> None:
    read, faults = parse_settings({}, {}, {})
    assert faults == []
    assert vars(read).keys() == FIELDS
    assert not [name for name, value in vars(read).items() if isinstance(value, Setting)]
    with pytest.raises(AttributeError, match="settings do not change"):
        read.stop_grace_s = 1.0


def test_all_settings_are_shown_in_their_groups_and_fit_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["settings"]) == 0
    out = capsys.readouterr().out
    shown = re.findall(r"^  (--[a-z0-9-]+)  (SUPERVISOR_\w+)", out, re.MULTILINE)
    assert shown == [(setting.flag, setting.env) for setting in TABLE]
    assert [line for line in out.splitlines() if line and line[0] != " "] == [
        *dict.fromkeys(setting.group for setting in TABLE)
    ]
    long = [line for line in out.splitlines() if len(line) > 80]
    assert all(line.startswith("  --") for line in long), "names are not broken"


@pytest.mark.parametrize(
    ("word", "flags"),
    [
        ("stop-grace", ["--stop-grace-s"]),
        ("SUPERVISOR_TOKEN", ["--token"]),
        ("--mpi-ssh-port", ["--mpi-ssh-port"]),
        ("--mpi_ssh_port", ["--mpi-ssh-port"]),
        ("S3_ENDPOINT_URL", ["--s3-endpoint"]),
        ("Hydra", ["--args-style"]),
    ],
)
def test_a_word_finds_settings_by_name_variable_and_meaning(
    word: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["settings", word]) == 0
    assert re.findall(r"^  (--[a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE) == flags


def test_a_word_like_none_is_answered_with_the_way_to_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["settings", "zzz"]) == settings.EXIT_UNKNOWN
    assert capsys.readouterr().err == (
        "supervisor settings: no setting has 'zzz' in its name, its group or its meaning; "
        "supervisor settings shows all\n"
    )


def test_a_word_that_finds_nothing_is_answered_with_the_nearest_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["settings", "stop-grase-s"]) == settings.EXIT_UNKNOWN
    out, error = capsys.readouterr()
    assert out == ""
    assert error == (
        "supervisor settings: no setting has 'stop-grase-s' in its name, its group or its meaning; "
        "near by name: --stop-grace-s, --evaluator-grace-s, --server-grace-s\n"
    )


@pytest.mark.parametrize("verb", ["train", "local", "plan", "doctor"])
def test_help_shows_the_few_that_people_use_and_help_all_every_one(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def flags(option: str) -> list[str]:
        with pytest.raises(SystemExit) as end:
            cli.main([verb, option])
        assert end.value.code == 0
        return re.findall(r"^  (--[a-z0-9-]+) X\b", capsys.readouterr().out, re.MULTILINE)

    without = cli.VERBS[verb].without
    taken = [setting for setting in TABLE if setting.field not in without]
    common = [setting.flag for setting in taken if setting.common]
    assert len(common) == (11 if without else 13)
    assert flags("--help") == common
    assert flags("--help-all") == [setting.flag for setting in taken]


@pytest.mark.parametrize(
    ("verb", "words"), [("train", ["--restarts", "3"]), ("local", ["--restarts", "3", "t.py"])]
)
def test_restarts_in_place_are_an_option_of_what_runs_a_job(verb: str, words: list[str]) -> None:
    parsed = cli._parsed(verb, cli.VERBS[verb], words)
    assert cli.setting_flags(parsed) == {"restarts": "3"}


def test_restarts_by_the_platform_are_told_from_those_in_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["launch", "kubernetes", "--help"])
    platforms = " ".join(capsys.readouterr().out.split())
    assert "--restarts N how often Kubernetes may start the whole job anew" in platforms
    with pytest.raises(SystemExit):
        cli.main(["local", "--help"])
    in_place = " ".join(capsys.readouterr().out.split())
    assert "--restarts X how often what fails is started anew in place" in in_place


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["train", "--stop-grace", "5"], "--stop-grace-s"),
        (["local", "--log-fromat=json", "train.py"], "--log-format"),
        (["local", "--host", "2", "train.py"], "--hosts"),
        (["plan", "--SUPERVISOR_TOKEN=x"], "--token"),
        (["settings", "--stop-grace"], "--stop-grace-s"),
        (["doctor", "--jsn"], "--json"),
        (["status", "--wtch"], "--watch"),
    ],
)
def test_an_unknown_flag_is_one_sentence_with_the_nearest_name(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 80
    out, error = capsys.readouterr()
    flag = words[1].partition("=")[0]
    [line] = error.splitlines()
    assert out == ""
    assert line == (
        f"supervisor: command line: {flag}: found an unknown option; expected an option of "
        f"supervisor {words[0]}; did you mean {near}?"
    )


@pytest.mark.parametrize(
    ("verb", "option"), [("train", "--help-all"), ("local", "--help-all"), ("status", "--help")]
)
def test_where_no_option_is_like_it_the_list_is_named(
    verb: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--foo`` was answered with "did you mean --token?"."""
    assert cli.main([verb, "--foo"]) == 80
    assert capsys.readouterr().err == (
        "supervisor: command line: --foo: found an unknown option; expected an option of "
        f"supervisor {verb}; supervisor {verb} {option} lists them\n"
    )


def test_what_the_page_has_in_angle_brackets_is_no_html(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help", "settings"]) == 0
    assert "SUPERVISOR_CHANNEL_<NAME>" in capsys.readouterr().out
