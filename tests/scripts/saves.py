"""A TensorFlow program that saves with a CheckpointManager: ``saves.py DIRECTORY SECONDS PAUSE_S``.

It ends after that time, or when its standard input ends.
With ``check DIRECTORY…`` it restores each directory instead, and prints the step of each, once it
has compared the weights with what they were at that step.
"""

from __future__ import annotations

import os
import select
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

SIZE = 50_000


def weights(step: int) -> tf.Tensor:
    return tf.random.stateless_normal([SIZE], seed=[step, 7])


def objects() -> tuple[tf.Variable, tf.Variable, tf.train.Checkpoint]:
    step, variable = tf.Variable(0, dtype=tf.int64), tf.Variable(tf.zeros([SIZE]))
    return step, variable, tf.train.Checkpoint(step=step, variable=variable)


def save(directory: str, seconds: float, pause_s: float) -> None:
    step, variable, checkpoint = objects()
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=2)
    until = time.monotonic() + seconds
    print("ready", flush=True)
    while time.monotonic() < until:
        step.assign_add(1)
        variable.assign(weights(int(step)))
        manager.save(checkpoint_number=int(step))
        print(int(step), flush=True)
        if select.select([sys.stdin], [], [], pause_s)[0]:
            break


def check(directory: str) -> int:
    newest = tf.train.latest_checkpoint(directory)
    assert newest is not None, os.listdir(directory)
    for path in tf.train.get_checkpoint_state(directory).all_model_checkpoint_paths:
        if not os.path.exists(f"{path}.index"):
            continue  # the state file is written before and after the removal
        step, variable, checkpoint = objects()
        checkpoint.restore(path).assert_consumed()
        tf.debugging.assert_equal(variable, weights(int(step)))
        assert path.endswith(f"-{int(step)}")
        assert (
            len(tf.train.load_checkpoint(path).get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE").shape)
            == 0
        )
    assert newest.endswith(f"-{int(step)}")
    return int(step)


if __name__ == "__main__":
    if sys.argv[1] == "check":
        for each in sys.argv[2:]:
            print(check(each), flush=True)
    else:
        save(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
