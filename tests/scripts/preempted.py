"""Trains until TensorFlow's PreemptionCheckpointHandler saves and exits for a restart."""

from __future__ import annotations

import os
import sys

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    step = tf.Variable(0, dtype=tf.int64)
checkpoint = tf.train.Checkpoint(step=step)
handler = tf.distribute.experimental.PreemptionCheckpointHandler(
    strategy.cluster_resolver, checkpoint, os.environ["SUPERVISOR_CHECKPOINT_DIR"]
)


def train() -> None:
    step.assign_add(1)


while True:
    handler.run(train)
    if step.numpy() == 10:
        sys.stdout.write("training\n")
        sys.stdout.flush()
