"""Progress and the ledger in words: units that fit, no digit more than is known, and no step that
was not seen."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.training import telling
from supervisor.training.ledger import Account

ROW = {
    "unit": "step", "step": 1234, "total": 10000, "rate": 3.21, "left_s": 2730.9, "loss": 0.34567,
    "source": "event files", "where": "logs/train", "at": 1.0,
}  # fmt: skip
TIME = {
    "runs": 1, "starts": 4, "wall_s": 22320.0, "steps": 12400, "goodput": 0.93,
    "seconds": {
        "training": 20760.0, "done_again": 660.0, "starting": 540.0, "down": 240.0,
        "fetching": 118.0, "joining": 2.0, "waiting": 0.0,
    },
}  # fmt: skip


def test_progress_is_one_line() -> None:
    said = "step 1,234 of 10,000, 3.2 /s, 46 min left, loss 0.346 (event files, logs/train)"
    assert telling.progress(ROW) == said
    bare = {"unit": "epoch", "step": 3, "source": "output", "where": "", "loss": "nan"}
    assert telling.progress(bare) == "epoch 3, loss nan (output)"
    assert telling.progress(ROW | {"rate": 0.0, "left_s": None}).startswith(
        "step 1,234 of 10,000, loss"
    )


@pytest.mark.parametrize("row", [{}, {"step": None}, {"step": "3"}, {"step": float("nan")}])
def test_what_is_no_progress_is_no_line(row: dict[str, Any]) -> None:
    assert telling.progress(row) == ""


@pytest.mark.parametrize(
    ("rate", "said"),
    [(250.4, "250 /s"), (12345.0, "12,345 /s"), (3.21, "3.2 /s"), (0.1, "0.1 /s"),
     (0.099, "5.9 /min"), (0.002, "0.1 /min"), (0.001, "3.6 /h"), (1e-6, "0.0 /h")],
)  # fmt: skip
def test_a_rate_is_of_the_time_that_fits(rate: float, said: str) -> None:
    assert telling.pace(rate) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1.0, "0.0 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"),
     (2730.9, "46 min"), (3599.0, "1 h 0 min"), (22320.0, "6 h 12 min"), (3.6e6, "1,000 h")],
)  # fmt: skip
def test_a_time_is_told_roughly(seconds: float, said: str) -> None:
    assert telling.rough(seconds) == said


def test_the_ledger_is_what_was_gained_and_what_was_lost() -> None:
    gained = "goodput 93 % of 6 h 12 min: 5 h 46 min of new steps (12,400; 0.6 /s)"
    lost = "lost: 11 min of steps done again, 9 min of starting, 4 min down, 2 min of fetching"
    row = {"unit": "step", "run": TIME, "all": TIME}
    assert telling.ledger(row) == (gained, lost)
    every = TIME | {"runs": 3}
    assert telling.ledger(row | {"all": every})[2] == f"all 3 runs: {gained}; {lost}"


def test_no_goodput_is_claimed_where_no_step_was_seen() -> None:
    time = TIME | {"goodput": None, "steps": None}
    row = {"unit": None, "run": time, "all": time}
    assert telling.ledger(row) == ("no step was seen in 6 h 12 min",)


@pytest.mark.parametrize(
    "row",
    [{}, {"run": 3, "all": TIME}, {"run": {"wall_s": 0}, "all": {}},
     {"run": {"wall_s": 3.0, "seconds": [1]}, "all": TIME}],
)  # fmt: skip
def test_whatever_a_server_says_is_no_ledger(row: dict[str, Any]) -> None:
    assert telling.ledger(row) == ()


def test_every_account_has_its_words() -> None:
    for account in Account:
        seconds = dict.fromkeys(Account, 0.0) | {account: 60.0}
        share = 1.0 if account is Account.KEPT else 0.0
        lines = telling.accounts(
            {"wall_s": 60.0, "seconds": seconds, "steps": 5, "goodput": share}, "step"
        )
        assert "1 min" in lines[-1]


@pytest.mark.parametrize(
    ("change", "failed", "told"),
    [
        ({"wall_s": 4.9}, False, False),
        ({"wall_s": 5.0}, False, True),
        ({"wall_s": 59.0}, True, False),
        ({"wall_s": 60.0}, True, True),
        ({"wall_s": 1.0, "starts": 2}, True, True),
        ({"wall_s": 3600.0, "goodput": None}, False, False),
    ],
)
def test_at_the_end_it_is_told_of_what_was_long_or_went_on(
    change: dict[str, Any], failed: bool, told: bool
) -> None:
    time = TIME | {"runs": 1, "starts": 1} | change
    row = {"unit": "step", "run": time, "all": time}
    assert telling.is_worth_it(row, failed=failed) is told
    several = {**row, "all": TIME | {"runs": 2}}
    assert telling.is_worth_it(several, failed=failed)
