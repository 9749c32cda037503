"""What one event file's scalars say: which of them counts steps, and which is the loss. What is no
event says nothing."""

from __future__ import annotations

import math
import pathlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.training import events, framing
from supervisor.training.events import Told, Writer, event_of
from supervisor.training.reading import MOST_STEPS, Unit
from tests.helpers.eventfiles import checksum, event, field, float32, scalar, tensor, varint
from tests.helpers.many import MANY

RECORDED = pathlib.Path(__file__).parents[1] / "recorded" / "training"
AT = 1.75e9


def told(writer: Writer, path: pathlib.Path) -> list[Told]:
    """What a file says; it is as large as a piece at most."""
    part = framing.records(path.read_bytes(), checksum)
    return [said for each in part.data if (said := writer.take(each)) is not None]


def take(writer: Writer, tag: str, step: int, value: float = 0.5) -> Told | None:
    return writer.take(event(AT, step, tensor(tag, value)))


# --------------------------------------------------------------------------- real files


def test_keras_tells_batches_as_steps_and_epochs_when_they_are_over() -> None:
    said = told(Writer(), RECORDED / "keras3_train.tfevents")
    assert [each.step for each in said if each.unit is Unit.STEP] == list(range(1, 25))
    assert [each.step for each in said if each.unit is Unit.EPOCH] == [1, 2, 3]
    assert all(each.loss is not None and each.loss > 0 for each in said)


def test_keras_tells_epochs_alone_unless_it_is_told_otherwise() -> None:
    said = told(Writer(), RECORDED / "tf_keras_train.tfevents")
    assert [(each.unit, each.step) for each in said] == [(Unit.EPOCH, each) for each in (1, 2, 3)]


def test_what_keras_says_of_an_evaluation_counts_no_steps() -> None:
    said = told(Writer(), RECORDED / "keras3_validation.tfevents")
    assert [(each.unit, each.step) for each in said] == [(Unit.EPOCH, each) for each in (1, 2, 3)]


def test_tensorflow_1_has_the_value_in_another_field() -> None:
    said = told(Writer(), RECORDED / "tf1_filewriter.tfevents")
    assert [each.step for each in said] == list(range(30))
    assert said[3].loss == pytest.approx(1 / 4)


# --------------------------------------------------------------------------- which tag counts


def test_the_tag_that_comes_most_often_counts_the_steps() -> None:
    """A custom loop with one writer: the epoch's loss beside each batch's."""
    writer, said = Writer(), []
    for step in range(1, 101):
        said.append(take(writer, "loss/batch", step))
        if step % 10 == 0:
            said.append(take(writer, "loss/epoch", step // 10))
    assert [each.step for each in said if each] == list(range(1, 101))


def test_the_loss_counts_the_steps_before_what_comes_as_often() -> None:
    """As TF-Agents writes it: returns over steps of the environment beside those over steps of
    training."""
    writer, steps = Writer(), []
    for step in range(1, 51):
        if said := take(writer, "Metrics_vs_EnvironmentSteps/Return", step * 1000):
            steps.append(said.step)
        if said := take(writer, "Losses/loss", step):
            steps.append(said.step)
    assert steps[-40:] == list(range(11, 51))


def test_a_tag_that_is_written_no_more_counts_no_more() -> None:
    """A script that trains twice, with a tag each."""
    writer = Writer()
    for step in range(1, 1001):
        take(writer, "pretrain/loss", step, 0.1)
    said = [take(writer, "finetune/loss", step, 0.7) for step in range(1, 101)]
    steps = [each.step for each in said if each]
    assert steps == list(range(steps[0], 101))
    assert steps[0] <= 40
    assert said[-1]
    assert said[-1].loss == pytest.approx(0.7)


def test_a_hundred_tags_of_one_step_are_one_counter() -> None:
    writer = Writer()
    said = [
        take(writer, f"layer_{number}/norm", step) for step in range(1, 6) for number in range(100)
    ]
    assert [each.step for each in said if each] == [1, 2, 3, 4, 5]


def test_an_evaluation_in_between_counts_no_steps() -> None:
    writer = Writer()
    said = [take(writer, "learning_rate", step) for step in range(1, 11)]
    said += [take(writer, "val/accuracy", batch) for batch in range(500)]
    assert [each.step for each in said if each] == list(range(1, 11))


@pytest.mark.parametrize(
    ("tags", "loss"),
    [
        (["loss"], "loss"),
        (["loss_1"], "loss_1"),
        (["batch_loss", "batch_mae"], "batch_loss"),
        (["aux_loss", "loss"], "loss"),
        (["loss_scale", "train/total_loss"], "train/total_loss"),
        (["Loss/train"], "Loss/train"),
        (["discriminator.loss"], "discriminator.loss"),
        (["accuracy", "losses/regularization"], "losses/regularization"),
        (["loss_scale"], None),
        (["val_loss"], None),
        (["validation/loss"], None),
        (["Loss/val"], None),
        (["weightloss", "loss_of_signal"], None),
    ],
)
def test_which_tag_is_the_loss(tags: list[str], loss: str | None) -> None:
    """TensorFlow 1 merges summaries into one event."""
    summary = b"".join(scalar(tag, float(number)) for number, tag in enumerate(tags))
    said = Writer().take(event(AT, 7, summary))
    assert said
    assert said.loss == (None if loss is None else tags.index(loss))
    assert said.step == 7


def test_the_loss_comes_along_with_the_steps_of_another_tag() -> None:
    writer = Writer()
    for step in range(50):
        take(writer, "learning_rate", step)
    take(writer, "loss", 50, math.nan)
    said = take(writer, "learning_rate", 51)
    assert said
    assert said.loss is not None
    assert math.isnan(said.loss)


def test_tags_without_end_take_no_memory_without_end() -> None:
    writer = Writer()
    for number in range(1000):
        take(writer, f"step_{number}", number)
        take(writer, f"{number}" + "x" * 1000, number)
    assert len(writer._tags) == 64
    assert take(writer, "step_0", 1000)


# --------------------------------------------------------------------------- one event


@pytest.mark.parametrize(
    ("summary", "scalars"),
    [
        (tensor("a", 1.5), (("a", 1.5),)),
        (tensor("a", 1.5, dtype=2), (("a", 1.5),)),
        (scalar("a", 1.5) + scalar("b", 2.5), (("a", 1.5), ("b", 2.5))),
        (field(1, field(1, b"a") + field(8, field(1, 1) + float32(5, 1.5))), (("a", 1.5),)),
        (
            field(1, field(1, b"a") + field(8, field(1, 1) + field(5, struct.pack("<f", 1.5)))),
            (("a", 1.5),),
        ),
        (field(1, field(1, b"a") + field(8, field(1, 2) + field(6, 1.5))), (("a", 1.5),)),
        (field(1, field(1, b"a") + field(8, field(1, 1))), (("a", 0.0),)),
    ],
)
def test_a_scalar_is_written_in_many_ways(
    summary: bytes, scalars: tuple[tuple[str, float], ...]
) -> None:
    """summary.proto, tensor.proto: a value, a tensor's content, a list of floats, packed or not,
    and nothing for a zero."""
    assert event_of(event(AT, 3, summary)) == (3, AT, scalars)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        field(1, AT) + field(3, b"brain.Event:2"),
        event(AT, -1, scalar("loss", 1.0)),
        event(AT, MOST_STEPS - 1, scalar("loss", 1.0)),
        event(math.nan, 1, scalar("loss", 1.0)),
        event(math.inf, 1, scalar("loss", 1.0)),
        event(AT, 1, b""),
        event(AT, 1, field(1, field(1, b"text") + field(8, field(1, 7) + field(8, b"hello")))),
        event(AT, 1, field(1, field(1, b"a") + field(8, field(1, 1) + field(2, b"\x12\x00")))),
        event(AT, 1, field(1, field(1, b"half") + field(8, field(1, 19) + field(4, b"\0\0")))),
        event(AT, 1, field(1, field(1, b"a") + field(8, field(1, 1) + field(4, bytes(5))))),
        event(AT, 1, scalar("loss", 1.0))[:-1],
        event(AT, 1, scalar("loss", 1.0)) + b"\x07",
        event(AT, 1, scalar("loss", 1.0)) + b"\x00\x01",
        varint(2 << 3) + b"\xff" * 11,
        field(2, 5) + varint(5 << 3 | 2) + varint(1 << 62),
        field(2, 5) * 5000 + field(5, scalar("loss", 1.0)),
    ],
)
def test_what_says_nothing_of_training(record: bytes) -> None:
    """Another kind of event, no step or time, another tensor, and what is no message."""
    assert event_of(record) is None
    assert Writer().take(record) is None


@MANY
@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_none(record: bytes) -> None:
    said = event_of(record)
    assert said is None or 0 <= said.step < MOST_STEPS


@MANY
@given(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=5))
def test_a_number_of_64_bits_is_read_as_it_was_written(number: int, after: bytes) -> None:
    encoded = varint(number)
    assert events.varint(encoded + after, 0) == (number, len(encoded))


@MANY
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["loss", "epoch_loss", "val_loss", "lr", "a/loss", "evaluation_x"]),
            st.integers(0, 2**62),
            st.floats(width=32),
        ),
        max_size=80,
    )
)
def test_no_step_is_told_that_was_not_written(written: list[tuple[str, int, float]]) -> None:
    writer = Writer()
    for tag, step, value in written:
        said = take(writer, tag, step, value)
        if said is not None:
            assert said.step == step + (said.unit is Unit.EPOCH)
            assert (said.unit is Unit.EPOCH) == (tag == "epoch_loss")
