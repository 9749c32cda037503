"""What one line of output says: what people and libraries write while they train, and what looks
like it and is something else. A wrong step is worse than none."""

from __future__ import annotations

import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.training.lines import MOST_JSON, MOST_LINE, Kind, drawn_by, found_by, said_by
from tests.helpers.many import MANY

STEPS: dict[str, tuple[object, ...]] = {
    # step, total, epoch, epochs, loss: as many as are not None at the end
    "step 10": (10,),
    "step 10 loss 0.5": (10, None, None, None, 0.5),
    "step 10, loss 0.5": (10, None, None, None, 0.5),
    "step 10,loss=0.5": (10, None, None, None, 0.5),
    "Step: 10/100": (10, 100),
    "Step 10 of 100": (10, 100),
    "Step [10/100]": (10, 100),
    "step #10 | loss .5": (10, None, None, None, 0.5),
    "step=000010": (10,),
    "step = 10": (10,),
    "step is 10": (10,),
    "step 10.": (10,),
    "step 10 done": (10,),
    "step 10 took 0.3 s": (10,),
    "step 10 (0.3 sec/batch)": (10,),
    "step 10: 12.3 examples/sec": (10,),
    "step 10: acc 0.9": (10,),
    "step 10: reward = -3": (10,),
    "step 1,200 loss 1.5e-3": (1200, None, None, None, 1.5e-3),
    "step 1_200_000": (1_200_000,),
    "Restored from step 400": (400,),
    "Resuming from step 400": (400,),
    "at step 400": (400,),
    "global_step=1200 loss=+2": (1200, None, None, None, 2.0),
    "Global Step 1200": (1200,),
    "global step 1000 learning rate 0.5 step-time 0.3": (1000,),
    "train step 7": (7,),
    "Training step 7, examples/s: 1200": (7,),
    "it 100": (100,),
    "it 100: loss=0.3": (100, None, None, None, 0.3),
    "[12:00:01] it: 100": (100,),
    "Iteration 100": (100,),
    "Iteration 100 complete.": (100,),
    "iter: 000100 lr: 0.001 loss: 0.33": (100, None, None, None, 0.33),
    "iter 500: loss 1.2, time 23.4ms, mfu 1.2%": (500, None, None, None, 1.2),
    "train_loss=0.25 step=12": (12, None, None, None, 0.25),
    "step=12, train_loss=0.25": (12, None, None, None, 0.25),
    "step 12 val_loss=0.2 loss=0.25": (12, None, None, None, 0.25),
    "step 12 validation loss 0.2": (12,),
    "loss = 2.36, step = 1": (1, None, None, None, 2.36),
    "INFO:tensorflow:loss = 1.9, step = 11 (0.038 sec)": (11, None, None, None, 1.9),
    "I1130 12:00:00.123456 140234 train.py:55] step 12 loss 0.4": (12, None, None, None, 0.4),
    "I0000 00:00:1795998929.033983   20067 train.cc:153] Step 12: loss=0.4": (
        *(12, None, None, None, 0.4),
    ),
    "2026-11-30 12:00:00,123 INFO trainer: step 12": (12,),
    "2026-11-30 12:00:00,123 INFO trainer: step 12: loss -1": (12, None, None, None, -1.0),
    "[2026-11-30 12:00:00] Step 12/90 - loss: [0.5]": (12, 90, None, None, 0.5),
    "step 12 loss: tf.Tensor(0.5, shape=(), dtype=float32)": (12, None, None, None, 0.5),
    "step 12 loss: tensor(0.5, grad_fn=<X>)": (12, None, None, None, 0.5),
    "step 12 loss: inf": (12, None, None, None, math.inf),
    "step 12 loss: -inf": (12, None, None, None, -math.inf),
    "Epoch 1/3 | iter 20/400 | loss 0.4": (20, 400, 1, 3, 0.4),
    "Epoch [3/10], Step [200/600], Loss: 0.4": (200, 600, 3, 10, 0.4),
    "epoch=1 step=20": (20, None, 1),
    "Step 500 (Epoch 2): Batch Loss = 0.3": (500, None, 2, None, 0.3),
    "[Epoch 1/200] [Batch 10/938] [D loss: 0.7] [G loss: 0.6]": (10, 938, 1, 200, 0.7),
    "[10/100] loss: 0.1": (10, 100, None, None, 0.1),
    '{"step": 10, "loss": 0.5}': (10, None, None, None, 0.5),
    '{"global_step": 10, "max_steps": 90, "epoch": 1, "num_epochs": 3}': (10, 90, 1, 3),
    '{"iteration": 10.0}': (10,),
    'INFO:root:{"step": 10, "loss": NaN, "note": "{"}': (10, None, None, None, math.nan),
    '{"level": "info", "message": "step 10 loss 0.5"}': (10, None, None, None, 0.5),
    '{"severity": "INFO", "event": "trained", "step": 3}': (3,),
    "{'loss': 0.5, 'step': 10}": (10, None, None, None, 0.5),
    "Training:  45%|####   | 450/1000 [00:10<00:12, 43.21it/s, loss=0.5]": (
        *(450, 1000, None, None, 0.5),
    ),
    " 45%|####   | 450/1000 [1:00:10<2 days, 03:00:12,  2.1s/step, loss=0.5]": (
        *(450, 1000, None, None, 0.5),
    ),
    "Epoch 3/10:  45%|####   | 450/1000 [00:10<?, ?batch/s]": (450, 1000, 3, 10),
    "450it [00:10, 43.2it/s, loss=0.4]": (450, None, None, None, 0.4),
    "   450/Unknown - 1s 580ms/step - loss: 0.5": (450, None, None, None, 0.5),
    "450/900 [=====>......] - ETA: 1s - loss: 0.5": (450, 900, None, None, 0.5),
}

EPOCHS: dict[str, tuple[int, int | None, float | None, bool]] = {
    "Epoch 3/10": (3, 10, None, False),
    "===== Epoch 3/10 =====": (3, 10, None, False),
    "Epoch 3": (3, None, None, False),
    "Start of epoch 3": (3, None, None, False),
    "Epoch 3, loss: 0.5": (3, None, 0.5, True),
    "Epoch 3/10 done in 3 s": (3, 10, None, True),
    "Epoch: 3 | train loss 0.2 | val loss 0.3": (3, None, 0.2, True),
    "epoch 3 took 12 s": (3, None, None, True),
    "Epoch 00012: early stopping": (12, None, None, True),
    "Epoch 3: val_loss improved from inf to 6.1, saving model to x.keras": (3, None, None, False),
    "Epoch 3: LearningRateScheduler setting learning rate to 0.01.": (3, None, None, False),
    "Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.2": (1, None, 2.2, False),
    "| epoch   1 |   200/ 2928 batches | lr 5.00 | ms/batch 30 | loss 6.9": (1, None, 6.9, False),
    "Epochs:  30%|###   | 3/10 [00:10<00:12,  1.2s/it]": (3, 10, None, True),
    "fit:  30%|###   | 3/10 [00:10<00:12,  1.2epoch/s]": (3, 10, None, True),
    '{"epoch": 3.4, "loss": 0.5}': (3, None, 0.5, True),
}

NOTHING = """\
step took 3 s
Epoch time 3.2
ETA
ETA: 12:30
2026-11-30 12:00:00 started
2026-11-30 12:00:00,123 INFO trainer: started
I0000 00:00:1795998929.033983   20067 port.cc:153] oneDNN custom operations are on.
INFO:tensorflow:global_step/sec: 266.062
INFO:tensorflow:Saving checkpoints for 20 into /tmp/model/model.ckpt.
INFO:tensorflow:Restoring parameters from /tmp/model/model.ckpt-20
WARNING:tensorflow:It seems that global step (tf.train.get_global_step) has not been increased. \
Current value (could be stable): 20 vs previous value: 20.
12/100 MB
12/100 MB in 3s
12/100 [00:01<00:03, 3.2MB/s]
10/20
100/100 files
[10/100] files copied
45%
Progress: 45%
Downloading: 12%|#   | 12/100 [00:01<00:08, 10.1MB/s]
Downloading: 12%|#   | 12.0/100 [00:01<00:08, 10.1MB/s]
Map: 12%|#   | 12/100 [00:01<00:08, 10.1 examples/s]
 12%|#   | 12/100 [00:01<00:08, 10.1it/s]
Loading checkpoint shards: 50%|#####     | 1/2 [00:01<00:01, 1.2s/it]
Sanity Checking DataLoader 0: 50%|#####     | 1/2 [00:01<00:01, 1.2it/s, loss=1]
Fetching 12 files: 50%|#####     | 6/12 [00:01<00:01, 1.2it/s]
450it [00:10, 43.2it/s]
step size 0.01
step_size=10
steps: 1000
Total steps: 1000
num_steps=1000 max_step=100 decay_step 300
save every step 10
time per step 3
step 3 ms
step: 3.2 s
steps per second 12
12 steps/s
epochs: 10
epoch: 10
epoch=10
Training for 10 epochs
Step 1: download the data
Step 2/5: preprocessing
Step 2/5: installing 12 packages
Step 1) Install
Next step 3
step 2026-11-30
step 10:30
step 10-20
step 1.5
step 10k
step 10%
step 10 MB
step 10/100 MB
step 12/3/4
step 99999999999999999999999
epoch 3.5
epoch 3.5/10
unix epoch 1700000000
it 5 times
try it 3 times
do it 100
Namespace(step=10, epoch=3, lr=0.1, loss=0.5)
batch 32
batch size 32
Batch: 32
Loss for final step: None.
ckpt-step10.pt
ckpt/step 10.txt
footstep 10
multi-step 10
timestep 10
time step 10
env step 10
step
epoch
loss
loss function: mse
loss: mse
weight_loss=3
loss_scale: 32768
loss 50%
{"step": "train"}
{"step": true}
{"step": -1}
{"step": 1.5}
{"step": 1e999}
{}
[]
{"message": "hello"}
{"epoch": "3"}
Loaded 10/100 shards, loss of signal
""".splitlines()

EVALUATIONS = """\
eval step 10 loss 0.3
Validation: step 10/20 loss 0.3
[eval] iter 10/50 loss 0.2
Test step 10 loss 0.3
INFO:tensorflow:Evaluation [10/100]
INFO:tensorflow:Starting evaluation at 2026-11-30T12:00:00
Evaluating ...
Running validation
Evaluating: 12%|#   | 12/100 [00:01<00:08, 10.1it/s, loss=0.4]
Validation epoch 3: 12%|#   | 12/100 [00:01<00:08, 10.1it/s, loss=0.4]
""".splitlines()


@pytest.mark.parametrize("line", STEPS)
def test_a_line_that_says_a_step(line: str) -> None:
    said = said_by(line)
    assert said
    told = (said.step, said.total, said.epoch, said.epochs, said.loss)
    expected = (*STEPS[line], None, None, None, None)[:5]
    assert repr(told) == repr(expected)  # NaN is not itself


@pytest.mark.parametrize("line", EPOCHS)
def test_a_line_that_says_an_epoch(line: str) -> None:
    said = said_by(line)
    assert said
    assert said.step is None
    assert (said.epoch, said.epochs, said.loss, said.over) == EPOCHS[line]


@pytest.mark.parametrize("line", NOTHING)
def test_a_line_that_says_nothing_of_training(line: str) -> None:
    assert said_by(line) is None


@pytest.mark.parametrize("line", EVALUATIONS)
def test_a_line_of_an_evaluation(line: str) -> None:
    said = said_by(line)
    assert said
    assert said.kind is Kind.EVALUATION


@pytest.mark.parametrize(
    ("line", "loss"),
    [
        ("loss: 0.5", 0.5),
        ('{"loss": 0.5}', 0.5),
        ("  training loss is 1e-3", 1e-3),
        ("{'loss': 0.5, 'epoch': 0.3}", 0.5),
    ],
)
def test_a_loss_alone(line: str, loss: float) -> None:
    assert said_by(line) == (Kind.LOSS, None, None, None, None, loss, False)


@pytest.mark.parametrize("line", ["val_loss: 0.3", "Test loss: 0.4", "eval/loss=0.4", "val loss 1"])
def test_a_loss_of_something_else(line: str) -> None:
    said = said_by(line)
    assert said is None or said.loss is None


def test_a_bar_may_be_cut_off_in_its_loss() -> None:
    whole = "450/900 [=====>......] - ETA: 1s - loss: 12.75 - mae: 2"
    for size in range(len(whole)):
        said = drawn_by(whole[:size])
        assert said is None or (said.step == 450 and said.loss in {None, 12.75})
    assert (said := drawn_by(whole))
    assert said.loss == 12.75
    assert drawn_by("step 10 loss 0.5") is None


@pytest.mark.parametrize(
    ("pattern", "line", "expected"),
    [
        (r"at (?P<step>[\d,]+)", "at 1,000", (Kind.OWN, 1000)),
        (r"(?P<step>\d+)/(?P<total>\d+) (?P<loss>\S+)", "0/9 nan", (Kind.OWN, 0, 9)),
        (r"E(?P<epoch>\d+)/(?P<total>\d+)", "E3/9", (Kind.OWN, None, None, 3, 9)),
        (r"E(?P<epoch>\d+) (?P<step>\d+)", "E3 40", (Kind.OWN, 40, None, 3)),
        (r"L(?P<loss>\S+)", "L0.5", (Kind.LOSS, None, None, None, None, 0.5)),
        (r"L(?P<loss>\S+)", "Lx", None),
        (r"(?P<step>\w+)", "many", None),
        (r"(?P<step>-?\d+)", "-3", None),
        (r"(?P<step>\d+)?", "none", None),
        (r"step", "step 10 loss 0.5", None),
        (r"(?P<step>\d+)", "9" * 30, None),
        (r"(?P<step>\d+)", " " * MOST_LINE + "9", None),
    ],
)
def test_the_users_own_pattern(
    pattern: str, line: str, expected: tuple[object, ...] | None
) -> None:
    said = found_by(re.compile(pattern), line)
    assert (said and said[: len(expected or ())]) == expected


# --------------------------------------------------------------------------- what a line costs

PIECES = [
    *(
        "step",
        "epoch",
        "loss",
        "it",
        "batch",
        "iter",
        "global_step",
        "train",
        "val",
        "eval",
        "best",
    ),
    *(" ", "  ", "\t", ",", "/", ":", "=", "[", "]", "(", "%|", "|", ".", "-", "_", "{", "}", '"'),
    *("0", "1", "12", "1,000", "1e9", "0.5", "nan", "1/2", "it/s", "00:10", "Unknown", "━", "[==="),
    *("\x1b[1m", "\x1b]0;", "\x00", "é", "٣", "a", "done", "Namespace("),
]
NASTY = [piece * (MOST_LINE // len(piece)) for piece in PIECES]
NASTY += [
    ("step 1 x " * 200)[:MOST_LINE],
    ("it 1 " * 300)[:MOST_LINE],
    ("step 1,000 of 1,000 " * 80)[:MOST_LINE],
    ("epoch 1/2 " * 200)[:MOST_LINE],
    ("best step 1 " * 200)[:MOST_LINE],
    ("loss: 1e5 " * 200)[:MOST_LINE],
    ("a=1 " * 300)[:MOST_LINE],
    "1%|" + " " * 1000 + "| 1/2 [0",
    "1/2 " + "━" * 1000,
    "1/Unknown" + " " * 1000,
    "step" + " " * 1000 + "1",
    '{"a":' * 800 + "}",
    "{" * (MOST_JSON - 1) + "}",
    '{"step": ' + "9" * (MOST_JSON - 20) + "}",
    '{"message": "' + "step 1 x " * 400 + '"}',
]


def cost_s(line: str) -> float:
    """The least of a few: this machine has other things to do."""
    took = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(4):
            said_by(line)
            drawn_by(line)
        took.append((time.process_time() - began) / 4)
    return min(took)


@pytest.mark.parametrize(
    "line", NASTY, ids=lambda line: line[:12].encode("unicode_escape").decode()
)
def test_no_line_takes_long(line: str) -> None:
    """Half a millisecond where this was written. What grows with the square of a line's length
    would take a hundred times as long."""
    assert cost_s(line) < 0.005


@MANY
@given(st.lists(st.sampled_from(PIECES), max_size=400), st.text(max_size=20))
def test_any_line_says_something_sensible(pieces: list[str], text: str) -> None:
    line = ("".join(pieces) + text)[:MOST_LINE]
    began = time.process_time()
    said = said_by(line)
    assert time.process_time() - began < 0.05
    for number in said[1:5] if said else ():
        assert number is None or 0 <= number < 2**63
