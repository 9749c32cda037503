"""Parameter server training with a custom loop: a script to copy from.

Three kinds of task run this one file, and TF_CONFIG says which one this is:

* the chief builds the model, hands out training steps, saves checkpoints and the model;
* workers execute the steps that the chief sends them;
* parameter servers hold the variables. The supervisor starts those itself, without this script.

Without TF_CONFIG (one host) the same steps run right here.

Under the supervisor:  supervisor local --hosts 3 parameter_server_strategy.py --steps 500
"""

# mypy: disable-error-code="misc,untyped-decorator"

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import time
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # before TensorFlow is imported: errors only
os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")  # a dead peer is an error, not a long wait

import tensorflow as tf

CLASSES = 3


def arguments() -> argparse.Namespace:
    # Every hyperparameter of the job arrives as "--name value".
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", "--learning_rate", type=float, default=0.2)
    parser.add_argument("--batch-size", "--batch_size", type=int, default=128)
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


class Model(tf.Module):
    """Two hidden layers. Each variable lands on one of the parameter servers, in turn."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = [2, width, width, CLASSES]
        self.layers = []
        for rows, columns in itertools.pairwise(sizes):
            kernel = tf.random.normal([rows, columns], stddev=(2.0 / rows) ** 0.5)
            self.layers.append((tf.Variable(kernel), tf.Variable(tf.zeros([columns]))))

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


def restore_newest(manager: Any, options: Any) -> str | None:
    """The newest checkpoint that can be read: the last one may be torn, where a machine was lost or
    a disk was full as it was written. If none of several can be read, that is an error."""
    torn = None
    for path in reversed(manager.checkpoints):
        try:
            manager.checkpoint.restore(path, options).assert_consumed()
        except (tf.errors.OpError, ValueError) as error:
            print(f"{path} is not restored: {str(error).splitlines()[0]}", flush=True)
            torn = error
        else:
            return str(path)
    if torn is not None:
        raise torn
    return None


def serve(resolver: Any) -> None:
    """A worker: does what the chief asks for until somebody ends this process."""
    server = tf.distribute.Server(
        resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id
    )
    print(f"{resolver.task_type} {resolver.task_id} serves", flush=True)
    server.join()


def train(args: argparse.Namespace, strategy: Any, coordinator: Any, this_job: str) -> None:
    checkpoints = os.environ.get("SUPERVISOR_CHECKPOINT_DIR", "/opt/ml/checkpoints")
    model_dir = os.environ.get("SM_MODEL_DIR", "/opt/ml/model")

    with strategy.scope():
        model = Model()
        step = tf.Variable(0, dtype=tf.int64, name="step")

    # Variables live on the parameter servers, and unless told otherwise each server writes its own
    # part of a checkpoint to *its* disk. With this option all files are written by the chief.
    here = {"experimental_io_device": f"/job:{this_job}/task:0"}
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model, step=step), checkpoints, max_to_keep=3
    )
    on_chief = tf.train.CheckpointOptions(**here)

    if restored := restore_newest(manager, on_chief):
        print(f"resumed from {restored} at step {int(step)}", flush=True)

    # The platform says SIGTERM before it ends this host. Only note it: the loop below looks.
    stop_signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _frame: stop_signals.append(signum))

    def batches() -> tf.data.Dataset:  # runs on each worker, which reads its own data
        data = tf.data.Dataset.from_tensor_slices(spirals(3000, seed=1))
        return data.shuffle(3000).repeat().batch(args.batch_size)

    @tf.function
    def train_step(iterator: Any) -> tf.Tensor:
        points, labels = next(iterator)
        with tf.GradientTape() as tape:
            logits = model(points)["logits"]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        variables = model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(args.learning_rate * gradient)  # happens on the parameter server
        return loss

    if coordinator:
        iterator = iter(coordinator.create_per_worker_dataset(batches))
    else:
        iterator = iter(batches())

    saved_at = done = int(step)
    tell(done, args.steps)
    while done < args.steps and not stop_signals:
        # One round: the workers do these steps in any order, each at its own speed.
        number = min(args.report_every, args.steps - done)
        if coordinator:
            results = [coordinator.schedule(train_step, (iterator,)) for _ in range(number)]
            # Here an error of a worker or a parameter server is raised. No wait without an end: who
            # stops the job may have stopped the workers too.
            while not coordinator.done() and not stop_signals:
                time.sleep(0.005)
            if stop_signals:
                break
            losses = coordinator.fetch(results)
        else:
            losses = [train_step(iterator) for _ in range(number)]
        step.assign_add(number)
        done += number
        loss = float(sum(losses) / number)
        print(f"step {done}/{args.steps} loss {loss:.4f}", flush=True)
        tell(done, args.steps, loss)
        if done - saved_at >= args.save_every or done >= args.steps:
            try:
                manager.save(checkpoint_number=done, options=on_chief)
                saved_at = done
            except tf.errors.OpError as error:  # a full disk, say: again after the next round
                print(f"step {done} is not saved: {str(error).splitlines()[0]}", flush=True)

    if stop_signals:
        # Save what was learned and end with 0: started again, the job goes on from here.
        path = manager.save(checkpoint_number=done, options=on_chief)
        print(f"stopped by signal {stop_signals[0]} at step {done}, saved {path}", flush=True)
        return

    points, labels = spirals(1000, seed=2)  # points that it was not trained on
    guesses = tf.argmax(model(points)["logits"], axis=1, output_type=tf.int32)
    right = tf.reduce_mean(tf.cast(guesses == labels, tf.float32))
    print(f"accuracy on unseen points {right:.3f}", flush=True)

    # Serving wants one directory a version, and its name must be a number.
    path = os.path.join(model_dir, "1")
    tf.saved_model.save(model, path, options=tf.saved_model.SaveOptions(**here))
    print(f"saved model to {path}", flush=True)


def main() -> None:
    args = arguments()
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if not cluster.get("worker"):
        train(args, tf.distribute.get_strategy(), None, "localhost")
        return
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if resolver.task_type in ("worker", "ps"):
        serve(resolver)
        return
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    train(args, strategy, coordinator, resolver.task_type)


if __name__ == "__main__":
    main()
