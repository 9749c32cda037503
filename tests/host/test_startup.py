"""The way to the first step: of all hosts the slowest is named, and the parts are the whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.host.startup import MOST_TOLD, Startups, fields_of
from supervisor.streams.sentences import brief, sentence


def startups(
    *, cluster: bool = True, fetched_s: float = 2.0, down_at: float | None = None, **others: float
) -> tuple[Startups, Any]:
    """Of a host whose life began at 100, with what other hosts have said of theirs."""
    plan = SimpleNamespace(host="algo-1", is_cluster=cluster)
    present: Any = SimpleNamespace(plan=plan, attempt_of=lambda _process: 1)
    book: Any = SimpleNamespace(
        process="chief", begun_at=100.0, fetched_s=fetched_s, down_at=down_at
    )
    said = {name.replace("_", "-"): seconds for name, seconds in others.items()}
    return Startups(present, book, lambda: said), book


def told(row: Any) -> str:
    more = {"unit": "step", "step": 10, "source": "output, stdout"}
    return sentence("training.began", fields_of(row) | more)


def test_the_slowest_host_is_named_and_what_was_waited_beyond_it() -> None:
    made, _ = startups(algo_2=4.0, algo_3=31.0)
    row = made.first_step(131.4, 171.0, 6.25)
    assert told(row) == (
        "first step after 71 s: fetch 31 (algo-3), join 0.4, import 6.2, first step 33; "
        "step 10, output, stdout"
    )
    assert row["seconds"] == pytest.approx(
        sum(row[key] or 0.0 for key in ("fetch_s", "join_s", "import_s", "first_step_s"))
    )


def test_a_host_that_began_late_is_waited_for_and_not_for_its_fetching() -> None:
    made, _ = startups(algo_2=4.0)
    row = made.first_step(160.0, 163.0, None)
    assert (row["fetch_s"], row["fetch_host"], row["join_s"]) == (4.0, "algo-2", 56.0)
    assert row["import_s"] is None
    assert "import" not in told(row)


def test_what_another_host_says_is_no_more_than_was_waited() -> None:
    """Its clock may have begun before ours."""
    made, _ = startups(algo_2=500.0)
    row = made.first_step(110.0, 111.0, None)
    assert (row["fetch_s"], row["join_s"], row["seconds"]) == (10.0, 0.0, 11.0)


def test_a_host_alone_names_none_and_parts_that_took_no_time_are_left_out() -> None:
    made, _ = startups(cluster=False, fetched_s=0.02)
    assert told(made.first_step(100.03, 101.0, None)).startswith("first step after 1.0 s; ")


def test_after_a_restart_it_is_counted_from_the_failure() -> None:
    made, _ = startups(down_at=200.0, algo_2=31.0)
    row = made.first_step(201.5, 205.0, 2.0)
    assert told(row).startswith("first step after 5.0 s: down 1.5, import 2.0, first step 1.5; ")
    assert (row["fetch_s"], row["fetch_host"]) == (None, "")


@pytest.mark.parametrize("import_s", [-1.0, 99.0])
def test_an_import_that_cannot_have_been_is_left_out(import_s: float) -> None:
    made, _ = startups()
    assert made.first_step(101.0, 105.0, import_s)["import_s"] is None


def test_the_first_one_and_the_newest_are_kept() -> None:
    made, book = startups()
    for number in range(30):
        made.first_step(110.0 + 10 * number, 111.0 + 10 * number, None)
        book.down_at = 115.0 + 10 * number
    rows = made.rows()
    assert len(rows) == MOST_TOLD
    assert rows[0]["down_s"] is None
    assert [row["down_s"] for row in rows[1:]] == [5.0] * (MOST_TOLD - 1)


def test_the_terminal_hears_of_starts_that_took_a_while() -> None:
    fields = {"seconds": 9.9, "unit": "step", "step": 1, "source": "output"}
    assert brief("training.began", fields, "algo-1") == ""
    assert brief("training.began", fields | {"seconds": 10.0}, "algo-1") != ""
