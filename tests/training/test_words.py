"""What a stream of output says of training, line after line: recorded outputs of libraries, and the
habits of scripts. What is told is where the whole training is, or nothing."""

from __future__ import annotations

import math
import pathlib
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.training.reading import Unit
from supervisor.training.words import END_BYTES, Found, Words
from tests.helpers.many import MANY

RECORDED = pathlib.Path(__file__).parents[1] / "recorded" / "training"


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_bytes().decode()


def told(text: str, words: Words | None = None) -> list[Found]:
    """Everything that is told, one line after the other."""
    words, seen = words or Words(), list[Found]()
    for piece in re.split(r"(?<=[\r\n\b])", text):
        words = words.read(piece)
        if words.found is not None and (not seen or words.found != seen[-1]):
            seen.append(words.found)
    return seen


def steps(text: str, pattern: str | None = None) -> list[int]:
    found = told(text, Words(re.compile(pattern) if pattern else None))
    return [each.step for each in found if each.unit is Unit.STEP]


def epochs(text: str) -> list[int]:
    return [each.step for each in told(text) if each.unit is Unit.EPOCH]


# --------------------------------------------------------------------------- Keras

BOTH = pytest.mark.parametrize("keras", ["keras3", "tf_keras"])


@BOTH
@pytest.mark.parametrize("name", ["verbose1", "terminal"])
def test_keras_bars_count_within_an_epoch(keras: str, name: str) -> None:
    """Three epochs of 8 steps, ``evaluate`` and ``predict``, and two more epochs from 1 on."""
    found = told(recorded(f"{keras}_{name}"))
    moved = [each.step for each in found if each.unit is Unit.STEP]
    moved = [step for step, before in zip(moved, [-1, *moved], strict=False) if step != before]
    assert moved == [1, 8, 9, 16, 17, 24, 1, 8, 9, 16]
    assert {each.total for each in found if each.unit is Unit.STEP} == {24, 16}
    assert all(each.loss for each in found)


@BOTH
def test_keras_with_a_line_an_epoch(keras: str) -> None:
    found = told(recorded(f"{keras}_verbose2"))
    assert [each[:3] for each in found] == [
        *((Unit.STEP, step, 24) for step in (8, 16, 24)),
        *((Unit.STEP, step, 16) for step in (8, 16)),
    ]


@BOTH
def test_keras_does_not_know_at_first_how_long_an_epoch_is(keras: str) -> None:
    found = told(recorded(f"{keras}_unknown"))
    assert (Unit.STEP, 1, None) in [each[:3] for each in found]
    assert found[-1][:3] == (Unit.STEP, 18, 18)
    assert sorted({each.step for each in found if each.unit is Unit.STEP}) == [1, 6, 7, 12, 13, 18]


@BOTH
def test_keras_goes_on_from_a_later_epoch(keras: str) -> None:
    found = told(recorded(f"{keras}_initial_epoch"))
    assert found[0][:3] == (Unit.STEP, 17, 32)
    assert found[-1][:3] == (Unit.STEP, 32, 32)


@BOTH
def test_keras_writes_no_header_for_a_single_epoch(keras: str) -> None:
    """What comes after it, of ``evaluate`` and ``predict``, says nothing."""
    found = told(recorded(f"{keras}_one_epoch"))
    assert {each[:3] for each in found} == {(Unit.STEP, 1, 8), (Unit.STEP, 8, 8)}


@BOTH
@pytest.mark.parametrize("name", ["callbacks", "callbacks2"])
def test_what_keras_callbacks_write_in_between_moves_nothing(keras: str, name: str) -> None:
    moved = steps(recorded(f"{keras}_{name}"))
    assert moved == sorted(moved)
    assert {8, 16, 24} <= {*moved} <= {1, 8, 9, 16, 17, 24}


def test_keras_says_that_the_loss_is_nan() -> None:
    assert all(math.isnan(each.loss or 0) for each in told(recorded("keras3_nan")))


def test_a_prediction_alone_is_no_training() -> None:
    assert told("1/1 [==============================] - 0s 93ms/step\n" * 3) == []
    assert told("1/1 ━━━━━━━━━━━━━━━━━━━━ 0s 41ms/step\n" * 3) == []


def test_keras_evaluates_between_epochs() -> None:
    words = Words()
    states = []
    for line in ["Epoch 1/2", "4/8 - 1s - loss: 1", "8/8 - 1s - loss: 1", "1/2 - 1s - loss: 1"]:
        words = words.read(f"{line}\n")
        states.append(words.evaluating)
    words = words.read("Epoch 2/2\n")
    assert [*states, words.evaluating] == [False, False, True, True, False]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "name", ["keras3_verbose1", "tf_keras_verbose1", "keras3_terminal", "tf1_hooks", "tqdm"]
)
def test_pieces_may_be_cut_anywhere(name: str, seed: int) -> None:
    chance = random.Random(seed)
    text, words, seen = recorded(name), Words(), set()
    whole = {each[:3] for each in told(text)}
    while text:
        size = chance.randrange(1, 200)
        words = words.read(text[:size])
        text = text[size:]
        if words.found:
            seen.add(words.found[:3])
    assert seen <= whole
    assert words.found
    assert words.found == told(recorded(name))[-1]


# --------------------------------------------------------------------------- other libraries


def test_tensorflow_1_hooks() -> None:
    assert steps(recorded("tf1_hooks")) == [1, 11, 20, 30, 41]
    assert steps(recorded("tf1_resumed")) == [45, 56, 65, 76, 85]
    assert told(recorded("tf1_hooks"))[-1].loss == 1.4180956


@pytest.mark.parametrize("name", ["tqdm", "tqdm_terminal"])
def test_tqdm_counts_where_it_says_that_it_trains(name: str) -> None:
    """A download, a bar over anything, two epochs of 20 with a validation of 10 after each, and 40
    steps of training in one."""
    found = told(recorded(name))
    assert {each.unit for each in found} == {Unit.STEP}
    of_epochs = [each for each in found if each.total == 40]
    assert sorted({each.step for each in of_epochs}) == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    assert found[-1].step == 40


# --------------------------------------------------------------------------- scripts

E = "Epoch {}/{}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # One counter, whatever the epoch.
        ("epoch 1 step 10\nepoch 1 step 20\nepoch 2 step 30\nepoch 3 step 40\n", [10, 20, 30, 40]),
        ("epoch 5 step 4010\nepoch 5 step 4020\n", [4010, 4020]),
        ("Epoch 1/4 step 10/40\nEpoch 2/4 step 20/40\nEpoch 3/4 step 25/40\n", [10, 20, 25]),
        # One that begins anew in each epoch.
        (
            "Epoch [1/3], Step [5/9]\nEpoch [2/3], Step [5/9]\nEpoch [3/3], Step [9/9]\n",
            [5, 14, 27],
        ),
        ("Epoch [7/9], Step [5/100]\nEpoch [7/9], Step [10/100]\n", [605, 610]),
        (
            "epoch 0 step 5/9\nepoch 0 step 9/9\nepoch 1 step 5/9\nepoch 1 step 9/9\n",
            [5, 9, 14, 18],
        ),
        (E.format(1, 2) + "step 5/9\nstep 9/9\n" + E.format(2, 2) + "step 5/9\n", [5, 9, 14]),
        ("[Epoch 0/2] [Batch 8/9] [loss: 1]\n[Epoch 1/2] [Batch 1/9] [loss: 1]\n", [8, 10]),
        # How long an epoch is nobody knows: epochs are told from then on.
        ("epoch 1 step 5\nepoch 1 step 9\nepoch 2 step 5\nepoch 2 step 9\n", [5, 9]),
        ("epoch 5 iter 10\nepoch 5 iter 20\n", []),
        ("epoch 5 step 10/600\nepoch 5 step 20/600\n", []),
        ("Epoch 3:  45%|#   | 45/100 [00:10<00:12, 4.21it/s]\n", []),
        # It has begun anew.
        ("step 10\nstep 20\nstep 5\n", [10, 20, 5]),
        # What counts something else.
        ("step 100 loss 1\nit 3: loss=1\nstep 200 loss 1\nit 6: loss=1\n", [100, 200]),
        (
            "step 100\n" + "".join(f"iteration {number}\n" for number in range(30)),
            [100, *range(20, 30)],
        ),
    ],
)
def test_a_step_is_told_where_the_whole_training_is(text: str, expected: list[int]) -> None:
    assert steps(text) == expected


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("step 10/100\n", 100),
        ("Epoch [1/3], Step [5/9]\n", 27),
        ("Epoch [1/3], Step [1/9]\n", None),
        ("Epoch [1/1], Step [5/9]\n", 9),
        ("epoch 1 step 5/9\n", None),
        ("Epoch 2/4 step 20/40\n", 40),
        ("epoch 0 step 5/9\nepoch 1 step 1/9\n", None),
    ],
)
def test_where_it_ends_is_told_where_it_is_known(text: str, total: int | None) -> None:
    assert told(text)[-1].total == total


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Epoch 1/3\nEpoch 2/3\nEpoch 3/3\n", [1, 2]),
        ("Epoch 0/2\nEpoch 1/2\nEpoch 2/2\n", [1, 2]),
        ("Epoch 7/9\nEpoch 8/9\n", [7]),
        ("Epoch 1, loss: 1\nEpoch 2, loss: 0.5\n", [1, 2]),
        ("Epoch 1/2\nloss: 2\nEpoch 1/2 done in 3 s, loss: 1\n", [1]),
        ("epoch 5 step 10/600\nepoch 5 step 20/600\nepoch 6 step 10/600\n", [5]),
        ("epoch 1 step 5\nepoch 2 step 5\nepoch 3 step 5\n", [1, 2]),
        (
            "Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.2\nTrain Epoch: 2 [0/60000 (0%)]\tLoss: 1\n",
            [1],
        ),
        ('{"epoch": 1, "loss": 2}\n{"epoch": 2, "loss": 1}\n', [1, 2]),
    ],
)
def test_epochs_are_told_where_steps_are_not_known(text: str, expected: list[int]) -> None:
    assert epochs(text) == expected


def test_the_loss_may_stand_on_a_line_of_its_own() -> None:
    assert told("loss: 3\nstep 10\nloss: 2\nval_loss: 1\nstep 20\n") == [
        (Unit.STEP, 10, None, None),
        (Unit.STEP, 10, None, 2.0),
        (Unit.STEP, 20, None, 2.0),
    ]


def test_an_evaluation_goes_on_until_something_says_a_step() -> None:
    words = Words().read("step 10\nEvaluating on 300 batches\n")
    assert words.evaluating
    words = words.read("eval step 5/300\nloading\n")
    assert words.evaluating
    assert words.found == (Unit.STEP, 10, None, None)
    assert not words.read("step 11\n").evaluating


def test_the_users_own_pattern_is_all_that_counts() -> None:
    pattern = r"at (?P<step>\d+)(?: of (?P<total>\d+))?"
    assert steps("step 10\nEpoch 1/3\nat 5 of 9\nat 7\nat 3\n", pattern) == [5, 7, 3]
    assert steps("E1 at 5 of 9\nE2 at 3 of 9\n", r"E(?P<epoch>\d+) " + pattern) == [5, 3]
    bar = "\r5/9 [====>....] - ETA: 3s - loss: 1"
    assert steps(bar * 3, pattern) == []


# --------------------------------------------------------------------------- pieces


def test_a_line_is_read_when_it_has_its_end() -> None:
    words = Words().read("step 1")
    assert words.found is None
    words = words.read("23 loss 0.")
    assert words.found is None
    assert words.read("5\n").found == (Unit.STEP, 123, None, 0.5)


def test_what_was_cut_off_begins_with_its_second_line() -> None:
    words = Words().read("step 1")
    assert words.read("5 loss 0.5\nloss 0.25\nstep 9\nst", cut=True).found == (
        *(Unit.STEP, 9, None, None),
    )
    assert words.read("23\n", cut=True).found is None


def test_of_a_line_without_end_the_beginning_is_kept() -> None:
    words = Words().read("step 7 loss 1 ")
    for _ in range(100):
        words = words.read("x" * 1000 + " 3/9 [===] - 1s step 8 ")
        assert len(words.rest) <= 4097
    assert words.read("\n").found == (Unit.STEP, 7, None, 1.0)


def test_of_many_lines_the_last_are_read() -> None:
    text = "".join(f"step {number}\n" for number in range(100_000))
    assert Words().read(text[-END_BYTES:], cut=True).found == (Unit.STEP, 99_999, None, None)


def test_colours_and_titles_are_no_part_of_a_line() -> None:
    text = "\x1b]0;step 3\x07\x1b[1mstep\x1b[0m \x1b[38;5;12m10\x1b[m loss \x1b[31m0.5\x1b[0m\n"
    assert told(text) == [(Unit.STEP, 10, None, 0.5)]
    words = Words()
    for letter in text:
        words = words.read(letter)
    assert words.found == (Unit.STEP, 10, None, 0.5)


LINES = st.sampled_from(
    [
        *(
            "step 10 loss 0.5",
            "step 11/90",
            "Epoch 1/3",
            "Epoch 2/3",
            "Epoch 0/3",
            "epoch 7 step 3",
        ),
        *("5/8 - 1s - loss: 1", "8/8 - 1s - loss: 1", "3/Unknown - 1s - loss: nan", "it 7: a=1"),
        *("Epoch 2:  45%|#   | 4/9 [00:10<00:12, 4.21it/s]", "Epoch 5 done", "evaluating", "hello"),
        *(
            '{"step": 3, "epoch": 2}',
            '{"epoch": 2}',
            "[Epoch 1/2] [Batch 8/9] [loss: 1]",
            "loss: 1",
        ),
        *("Epoch [2/3], Step [5/9]", "epoch 3 step 5/9", "[3/9] loss 1", "5/8 [==>...] - loss: 1"),
    ]
)


@MANY
@given(st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r", "\b\b", "", "\r\n"])), max_size=30))
def test_any_lines_in_any_order_say_something_sensible(said: list[tuple[str, str]]) -> None:
    words = Words()
    for line, end in said:
        words = words.read(line + end)
        found = words.found
        if found is not None:
            assert 0 <= found.step < 10_000
            assert found.total is None or found.total > 0


@MANY
@given(st.lists(st.text(max_size=50), max_size=10), st.booleans())
def test_any_text_is_read(pieces: list[str], cut: bool) -> None:
    words = Words()
    for piece in pieces:
        words = words.read(piece, cut=cut)


@pytest.mark.parametrize("pattern", [None, r"step (?P<step>\d+)"])
def test_of_several_ranks_the_first_one_is_read(pattern: str | None) -> None:
    text = "".join(
        f"[1,{rank}]<stdout>:step {step} loss 0.5\n[1,{rank}]<stderr>: warning\n"
        for first in (1, 2, 3)
        for rank, step in ((1, first - 1), (0, first), (10, first - 1))
    )
    assert steps(text, pattern) == [1, 2, 3]
