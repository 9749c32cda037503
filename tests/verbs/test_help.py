"""``supervisor help``: lists the guide's pages, shows one, and knows what was meant."""

from __future__ import annotations

import pytest

from supervisor.verbs.help import EXIT_UNKNOWN, guide, show, summary


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_without_a_topic_each_is_listed_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(guide()) > 10
    for topic in guide():
        (line,) = [line for line in lines if line.split()[:1] == [topic]]
        assert len(line) > len(topic) + 20


def test_the_line_is_the_first_sentence_behind_the_title() -> None:
    assert summary("# T\n\nWhat `v1.2` is,\nand why. More.\n\nText.") == "What `v1.2` is, and why."


@pytest.mark.parametrize("topic", guide())
def test_every_page_can_be_read_in_a_pipe(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(topic) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "](" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_names_in_tables_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """rich cut them to fit the terminal, and who copied one had half a name."""
    show("contract")
    assert "sagemaker_multi_worker_mirrored_strategy_enabled" in capsys.readouterr().out


def test_a_link_to_a_page_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    show("commands")
    assert "supervisor help settings" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("storge", "no topic 'storge'; did you mean storage?"),
        ("zzz", "there are attempts, changes, cluster, "),
        ("a\x1b[2J", r"no topic 'a\x1b[2J'; "),
    ],
)
def test_an_unknown_topic_is_answered_with_the_nearest(
    topic: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(topic) == EXIT_UNKNOWN
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True), err
