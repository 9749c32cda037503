"""Trains on parameter servers while an evaluator reads the checkpoints: ``evaluated.py SHARED GO``.

The chief trains until the evaluator has judged one of its checkpoints, saves a last one and ends.
The evaluator judges that one as soon as the file ``GO`` is there.
"""
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

SHARED, GO = map(pathlib.Path, sys.argv[1:])
JUDGED = SHARED / "judged"
POINTS = tf.linspace(-1.0, 1.0, 32)
TRUTH = 3.0 * POINTS - 1.0
PATIENCE_S = 60.0


def state() -> dict[str, tf.Variable]:
    return {
        "slope": tf.Variable(0.0),
        "offset": tf.Variable(0.0),
        "step": tf.Variable(0, dtype=tf.int64),
        "last": tf.Variable(False),
    }


def loss(model: dict[str, tf.Variable]) -> tf.Tensor:
    return tf.reduce_mean((model["slope"] * POINTS + model["offset"] - TRUTH) ** 2)


def wait_for(path: pathlib.Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"no {path}")
        time.sleep(0.05)


def train(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> None:
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        model = state()
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(**model), str(SHARED), max_to_keep=3)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            value = loss(model)
        variables = [model["slope"], model["offset"]]
        for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
            variable.assign_sub(0.1 * gradient)
        model["step"].assign_add(1)

    def some_steps() -> int:
        for _ in range(20):
            coordinator.schedule(step)
        coordinator.join()
        return int(model["step"].numpy())

    manager.save(checkpoint_number=some_steps())
    wait_for(JUDGED)
    done = some_steps()
    model["last"].assign(True)
    manager.save(checkpoint_number=done)
    print(f"trained {done} steps, on {model['slope'].device}", flush=True)


def evaluate() -> None:
    model = state()
    checkpoint = tf.train.Checkpoint(**model)
    for path in tf.train.checkpoints_iterator(str(SHARED), timeout=PATIENCE_S):
        checkpoint.restore(path).assert_existing_objects_matched()
        if model["last"]:
            wait_for(GO)
        print(f"judged step {model['step'].numpy()} loss {loss(model):.4f}", flush=True)
        if model["last"]:
            return
        JUDGED.touch()
    raise TimeoutError("no more checkpoints")


if __name__ == "__main__":
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if resolver.task_type == "evaluator":
        evaluate()
    else:
        train(resolver)
