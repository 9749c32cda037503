"""Trainings that tell of themselves in the usual ways: ``progressing.py WAY DIRECTORY``.

``keras`` and ``tf_keras`` by the bars of ``fit``, ``session`` by TensorFlow 1's
MonitoredTrainingSession, ``events`` by TensorBoard's files alone. Into ``DIRECTORY/truth`` each
appends a line a step: when it was over, and its number.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

STEPS, EPOCHS, STEP_S = 40, 3, 0.03


class Truth:
    def __init__(self, directory: pathlib.Path) -> None:
        self._file = open(directory / "truth", "a")  # noqa: SIM115
        self.step = 0

    def made(self) -> int:
        time.sleep(STEP_S)
        self.step += 1
        print(time.time(), self.step, file=self._file, flush=True)
        return self.step


def fit(keras: Any, truth: Truth) -> None:
    import numpy as np

    def made(batch: int, logs: Any = None) -> None:
        truth.made()

    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    points = np.ones((STEPS * 2, 4), "float32")
    model.fit(
        points,
        np.ones((STEPS * 2, 1), "float32"),
        validation_data=(points, np.zeros((STEPS * 2, 1), "float32")),
        batch_size=2,
        epochs=EPOCHS,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=made)],
    )


def session(tensorflow: Any, directory: pathlib.Path, truth: Truth) -> None:
    tf = tensorflow.compat.v1
    tf.disable_eager_execution()
    step = tf.train.get_or_create_global_step()
    tf.summary.scalar("loss", 1.0 / tf.cast(step + 1, tf.float32))
    train = tf.assign_add(step, 1)
    with tf.train.MonitoredTrainingSession(
        checkpoint_dir=str(directory / "run"),
        save_summaries_steps=10,
        log_step_count_steps=10,
        save_checkpoint_secs=2,
    ) as opened:
        for _ in range(STEPS * EPOCHS):
            opened.run(train)
            truth.made()


def events(tensorflow: Any, directory: pathlib.Path, truth: Truth) -> None:
    writer = tensorflow.summary.create_file_writer(str(directory / "logs" / "train"))
    with writer.as_default():
        for _ in range(STEPS * EPOCHS):
            step = truth.made()
            tensorflow.summary.scalar("loss", 1.0 / step, step=step)
            if step % 10 == 0:
                writer.flush()


def main() -> None:
    way, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    truth = Truth(directory)
    if way == "tf_keras":
        import tf_keras

        fit(tf_keras, truth)
        return
    import tensorflow as tf

    match way:
        case "keras":
            fit(tf.keras, truth)
        case "session":
            session(tf, directory, truth)
        case "events":
            events(tf, directory, truth)
    print("over", flush=True)


if __name__ == "__main__":
    main()
