"""Event files and checkpoints below a directory, as TensorFlow, Keras and tf_keras write them; then
what TensorBoard and TensorFlow read in them, as JSON.

``python traces.py DIRECTORY``
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

v1 = tf.compat.v1
ROOT = pathlib.Path(sys.argv[1])
X, Y = np.ones((32, 4), "float32"), np.ones((32, 1), "float32")


def summaries() -> None:
    with tf.summary.create_file_writer(str(ROOT / "summary")).as_default():
        for step in range(1, 31):
            tf.summary.scalar("loss", 1 / step, step=step)
            tf.summary.scalar("zero", 0, step=step)
            tf.summary.histogram("weights", X, step=step)
        tf.summary.scalar("late", float("nan"), step=2**40)
        tf.summary.image("image", np.zeros((1, 8, 8, 3)), step=31)
        tf.summary.text("text", "hello", step=31)


def fits(library: Any, name: str) -> None:
    for frequency in ("epoch", 1):
        model = library.Sequential([library.layers.Dense(1)])
        model.compile("adam", "mse")
        logs = str(ROOT / f"{name}-{frequency}")
        board = library.callbacks.TensorBoard(logs, update_freq=frequency, write_graph=False)
        data = (X, Y)
        model.fit(*data, 8, epochs=2, verbose=0, validation_data=data, callbacks=[board])
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.save(str(ROOT / name / "ckpt"))


def sessions() -> None:
    with tf.Graph().as_default():
        step = v1.train.get_or_create_global_step()
        value = v1.get_variable("value", (), tf.float32)
        v1.summary.scalar("loss", value)
        v1.summary.histogram("values", value)
        train = step.assign_add(1)
        with v1.train.MonitoredTrainingSession(
            checkpoint_dir=str(ROOT / "session"),
            hooks=[v1.train.StopAtStepHook(last_step=25)],
            save_checkpoint_steps=10,
            save_summaries_steps=5,
            log_step_count_steps=5,
        ) as session:
            while not session.should_stop():
                session.run(train)
    with tf.Graph().as_default():
        with tf.device("/cpu:0"):
            step = v1.train.get_or_create_global_step()
        with tf.device("/cpu:1"):
            v1.get_variable("value", (4, 1), tf.float32)
        saver = v1.train.Saver(sharded=True)
        with v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
            session.run(v1.global_variables_initializer())
            session.run(step.assign(4242))
            (ROOT / "sharded").mkdir()
            saver.save(session, str(ROOT / "sharded" / "model"), global_step=step)


def checkpoints() -> None:
    weights, step = tf.Variable(X), tf.Variable(2**33, dtype=tf.int64)
    tf.train.Checkpoint(weights=weights, step=step).save(str(ROOT / "step" / "ckpt"))
    tf.train.Checkpoint(weights=weights).save(str(ROOT / "counter" / "ckpt"))
    names = [f"layer_{number}/some/long/name/of/a/variable" for number in range(6000)]
    (ROOT / "many").mkdir()
    tf.raw_ops.SaveV2(  # so many that their index has several blocks
        prefix=str(ROOT / "many" / "ckpt"),
        tensor_names=[*names, "step"],
        shape_and_slices=[""] * 6001,
        tensors=[tf.constant(1.0)] * 6000 + [tf.constant(77, tf.int64)],
    )


def scalars(path: pathlib.Path) -> list[list[Any]]:
    found = []
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            tensor = value.tensor
            if tensor.dtype == tf.float32.as_datatype_enum and not tensor.tensor_shape.dim:
                number = float(tensor_util.make_ndarray(tensor))
                found.append([event.step, event.wall_time, value.tag, repr(number)])
    return found


def counters(prefix: str) -> dict[str, int]:
    reader = tf.train.load_checkpoint(prefix)
    kinds = reader.get_variable_to_dtype_map()
    return {
        name: int(reader.get_tensor(name))
        for name, shape in reader.get_variable_to_shape_map().items()
        if not shape and kinds[name].is_integer
    }


def main() -> None:
    summaries()
    fits(keras, "keras")
    fits(tf_keras, "tf_keras")
    sessions()
    checkpoints()
    events = {str(path): scalars(path) for path in sorted(ROOT.rglob("*.tfevents.*"))}
    indexes = [str(path.with_suffix("")) for path in sorted(ROOT.rglob("*.index"))]
    print(json.dumps({"events": events, "checkpoints": {each: counters(each) for each in indexes}}))


main()
