"""Synchronous training on several workers with a custom loop: a script to copy from.

Every worker runs this one file and holds a copy of the variables; after each step the gradients of
all workers are averaged. TF_CONFIG names the workers, and the first of them is the chief: it alone
keeps checkpoints and the model. Without TF_CONFIG (one host) it is a job of one worker.

Under the supervisor:
    supervisor local --hosts 2 --strategy mwms multi_worker_mirrored_strategy.py --steps 500
"""
# mypy: disable-error-code="misc,untyped-decorator"

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # before TensorFlow is imported: errors only

import tensorflow as tf

CLASSES = 3


def arguments() -> argparse.Namespace:
    # Every hyperparameter of the job arrives as "--name value".
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", "--learning_rate", type=float, default=0.2)
    parser.add_argument("--batch-size", "--batch_size", type=int, default=64, help="of each worker")
    parser.add_argument("--report-every", "--report_every", type=int, default=50)
    parser.add_argument("--save-every", "--save_every", type=int, default=200)
    parser.add_argument("--model-dir", "--model_dir", help="an S3 location; not used here")
    return parser.parse_args()


def spirals(number: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Points on three noisy spiral arms, and which arm each is on."""
    labels = tf.random.stateless_uniform([number], [seed, 0], 0, CLASSES, tf.int32)
    radius = tf.random.stateless_uniform([number], [seed, 1], 0.1, 1.0)
    noise = tf.random.stateless_normal([number], [seed, 2], stddev=0.2)
    angle = 6.0 * radius + 2.0 * 3.14159 / CLASSES * tf.cast(labels, tf.float32) + noise
    return tf.stack([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1) * 2.0, labels


def shared_variable(value: tf.Tensor) -> tf.Variable:
    """A variable with a copy on each worker; what the workers assign to it is averaged."""
    return tf.Variable(value, aggregation=tf.VariableAggregation.MEAN)


class Model(tf.Module):
    """Two hidden layers. The chief's first values are given to all workers."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = [2, width, width, CLASSES]
        self.layers = []
        for rows, columns in itertools.pairwise(sizes):
            kernel = tf.random.normal([rows, columns], stddev=(2.0 / rows) ** 0.5)
            self.layers.append((shared_variable(kernel), shared_variable(tf.zeros([columns]))))

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="points")])
    def __call__(self, points: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden = points
        for kernel, bias in self.layers[:-1]:
            hidden = tf.nn.relu(hidden @ kernel + bias)
        kernel, bias = self.layers[-1]
        return {"logits": hidden @ kernel + bias}


def tell(step: int, total: int, loss: float | None = None) -> None:
    """Say how far training has come: the supervisor then knows what a restart has cost."""
    if path := os.environ.get("SUPERVISOR_PROGRESS_FILE"):
        try:
            with open(f"{path}.new", "w") as file:
                json.dump({"step": step, "total": total, "loss": loss}, file)
            os.replace(f"{path}.new", path)
        except OSError as error:
            print(f"step {step} is not told: {error}", flush=True)


def restore_newest(manager: Any) -> str | None:
    """The newest checkpoint that can be read: the last one may be torn, where a machine was lost or
    a disk was full as it was written. If none of several can be read, that is an error."""
    torn = None
    for path in reversed(manager.checkpoints):
        try:
            manager.checkpoint.restore(path).assert_consumed()
        except (tf.errors.OpError, ValueError) as error:
            print(f"{path} is not restored: {str(error).splitlines()[0]}", flush=True)
            torn = error
        else:
            return str(path)
    if torn is not None:
        raise torn
    return None


def main() -> None:
    args = arguments()
    checkpoints = os.environ.get("SUPERVISOR_CHECKPOINT_DIR", "/opt/ml/checkpoints")
    model_dir = os.environ.get("SM_MODEL_DIR", "/opt/ml/model")

    # First of all, and once: this connects the workers, and waits until all of them are there.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    is_chief = resolver.task_type in (None, "", "chief") or (
        resolver.task_type == "worker"
        and resolver.task_id == 0
        and "chief" not in resolver.cluster_spec().as_dict()
    )

    # The platform says SIGTERM before it ends this host. Only note it: the loop below looks.
    # Set after the strategy was made, which installs a handler that lets training go on.
    stop_signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _frame: stop_signals.append(signum))

    # These two give every worker the same answer, once all of them have asked.
    def sum_over_all(value_of: Callable[[int], tf.Tensor]) -> tf.Tensor:
        values = strategy.experimental_distribute_values_from_function(
            lambda replica: value_of(replica.replica_id_in_sync_group)
        )
        return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

    def anyone(mine: bool) -> bool:
        return bool(sum_over_all(lambda _: tf.constant(float(mine))) > 0)

    with strategy.scope():
        model = Model()
        step = tf.Variable(0, dtype=tf.int64, name="step")

    # All workers take part in saving, but only the chief's files count.
    scratch = None if is_chief else tempfile.mkdtemp(prefix="not-chief-")
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model, step=step), scratch or checkpoints, max_to_keep=3
    )
    if is_chief and (restored := restore_newest(manager)):
        print(f"resumed from {restored} at step {step.numpy()}", flush=True)
    # Only the chief has the checkpoint on its disk: everybody takes over the chief's values.
    for variable in (*model.variables, step):
        mine = variable.read_value()
        variable.assign(sum_over_all(lambda i, mine=mine: mine if i == 0 else tf.zeros_like(mine)))

    # Each worker draws its own batches; data that is read from files would be sharded here.
    data = tf.data.Dataset.from_tensor_slices(spirals(3000, seed=1))
    data = data.shuffle(3000).repeat().batch(args.batch_size)
    # Data in memory needs no tuning, and the tuner's thread can hold up the end of the process by
    # 3 to 14 seconds (seen with TensorFlow 2.21: it misses its own cancellation).
    options = tf.data.Options()
    options.autotune.enabled = False
    iterator = iter(data.with_options(options))

    @tf.function
    def train_step(batch: Any) -> tf.Tensor:
        def on_replica(points: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                logits = model(points)["logits"]
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                )
            variables = model.trainable_variables
            for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
                variable.assign_sub(args.learning_rate * gradient)  # averaged over all workers
            return loss

        losses = strategy.run(on_replica, batch)
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)

    def next_batch() -> Any:  # one batch for each device of this worker
        return strategy.experimental_distribute_values_from_function(lambda _: next(iterator))

    saved_at = done = int(step.numpy())
    if is_chief:
        tell(done, args.steps)
    stopped = False
    while done < args.steps and not stopped:
        number = min(args.report_every, args.steps - done)
        losses = [train_step(next_batch()) for _ in range(number)]
        step.assign_add(number)
        done += number
        if is_chief:
            loss = float(sum(losses) / number)
            print(f"step {done}/{args.steps} loss {loss:.4f}", flush=True)
            tell(done, args.steps, loss)
        # All must leave the loop at the same step, or the rest would wait for ever.
        stopped = anyone(bool(stop_signals))
        # What was learned is saved on a stop too: started again, the job goes on from here.
        if stopped or done - saved_at >= args.save_every or done >= args.steps:
            try:
                manager.save(checkpoint_number=done)
            except tf.errors.OpError as error:  # a full disk, say: the next one may be saved again
                print(f"step {done} is not saved: {str(error).splitlines()[0]}", flush=True)
            saved_at = done  # for all workers alike

    if stopped:
        print(f"stopped by a signal at step {done}, checkpoint saved", flush=True)
    else:
        points, labels = spirals(1000, seed=2)  # points that it was not trained on
        guesses = tf.argmax(model(points)["logits"], axis=1, output_type=tf.int32)
        right = tf.reduce_mean(tf.cast(guesses == labels, tf.float32))
        # Serving wants one directory a version, and its name must be a number.
        path = os.path.join(scratch or model_dir, "1")
        tf.saved_model.save(model, path)
        if is_chief:
            print(f"accuracy on unseen points {right:.3f}", flush=True)
            print(f"saved model to {path}", flush=True)
    if scratch:
        shutil.rmtree(scratch)
    anyone(False)  # leave together: a worker whose chief is gone would end with an error


if __name__ == "__main__":
    main()
