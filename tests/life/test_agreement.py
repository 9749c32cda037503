"""Whether the hosts of a job begin from the same checkpoint, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.life import agreement
from supervisor.life.agreement import Held, Kind

NOTHING = str(Held(Kind.NOTHING))
OLD, NEW = (str(Held(Kind.GENERATION, name)) for name in ("000009-bb", "000010-aa"))


def files(mark: str, newest: str = "") -> str:
    return str(Held(Kind.FILES, mark, newest))


@pytest.mark.parametrize(
    ("told", "restore"),
    [
        ([NEW, NEW], None),
        ([NOTHING, NOTHING], None),
        ([files("1f"), files("1f")], None),  # one directory of all hosts, or of one image
        ([NEW, "", "nonsense", "a b c"], None),  # who says nothing is not compared
        (["", ""], None),
        ([NEW, OLD], "000010-aa"),
        ([OLD, NEW], "000010-aa"),  # a straggler published it between their looks
        ([NEW, NOTHING], "000010-aa"),
        ([NOTHING, NEW], "000010-aa"),
        ([files("1f", "000011-cc"), NEW], "000010-aa"),  # what one host holds is known to be whole
        ([files("1f", "000010-aa"), files("2e", "000009-bb")], "000010-aa"),
        ([files("1f", "000010-aa"), NOTHING], "000010-aa"),
        ([files("1f"), NOTHING], ""),  # nothing that all could have
        ([files("1f"), files("2e")], ""),
        ([str(Held(Kind.OBJECTS, "1f")), NOTHING], ""),
    ],
)
def test_what_all_are_to_hold(told: list[str], restore: str | None) -> None:
    named = {f"algo-{number}": each for number, each in enumerate(told, 1)}
    found = agreement.compare(named, own_lines=False)
    assert (None if found.same else found.restore) == restore
    assert bool(found.words) == (not found.same)


@pytest.mark.parametrize(
    ("told", "same"),
    [
        ([NEW, OLD], True),  # their numbers say nothing of each other
        ([NEW, files("1f")], True),
        ([NOTHING, NOTHING], True),
        ([NEW, NOTHING], False),
    ],
)
def test_where_each_host_keeps_its_own(told: list[str], same: bool) -> None:
    found = agreement.compare(dict(enumerate_hosts(told)), own_lines=True)
    assert found.same is same
    assert found.restore == "", "one host's is not another's"


def enumerate_hosts(told: list[str]) -> list[tuple[str, str]]:
    return [(f"algo-{number}", each) for number, each in enumerate(told, 1)]


def test_the_words_name_hosts_by_what_they_hold_and_are_bounded() -> None:
    told = dict(enumerate_hosts([NEW, NOTHING, NEW]))
    words = agreement.compare(told, own_lines=False).words
    assert words == "algo-1, algo-3: checkpoint 000010-aa; algo-2: no checkpoint"
    many = {f"algo-{number}": files(f"{number:x}") for number in range(1, 1001)}
    words = agreement.compare(many, own_lines=False).words
    assert len(words) < 600
    assert words.endswith("992 further kinds")
    many = dict.fromkeys(many, NEW) | {"algo-1": NOTHING}
    assert "and 991 more: checkpoint 000010-aa" in agreement.compare(many, own_lines=False).words


def test_who_differs() -> None:
    told = dict(enumerate_hosts([NEW, OLD, "", NOTHING]))
    assert agreement.differing(told, "000010-aa") == ["algo-2", "algo-4"]


@given(
    st.sampled_from(list(Kind)),
    st.from_regex(r"([0-9a-f][0-9a-f-]*[0-9a-f])?", fullmatch=True),
    st.from_regex(r"([0-9a-f][0-9a-f-]*[0-9a-f])?", fullmatch=True),
)
def test_what_is_told_is_heard(kind: Kind, mark: str, newest: str) -> None:
    assert Held.parse(str(Held(kind, mark, newest))) == Held(kind, mark, newest)


@given(st.text())
def test_whatever_is_told_breaks_nothing(text: str) -> None:
    agreement.compare({"algo-1": text, "algo-2": NEW}, own_lines=False)
