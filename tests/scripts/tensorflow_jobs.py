"""Small distributed jobs that misbehave on request: ``tensorflow_jobs.py JOB [options]``.

Run by the end-to-end tests as a user's script, once per host, with TF_CONFIG in the environment:

``ps``    ParameterServerStrategy with a ClusterCoordinator (chief, workers, parameter servers)
``tf1``   MonitoredTrainingSession with replica_device_setter (master or chief, workers, ps)
``mwms``  MultiWorkerMirroredStrategy (workers)

Nothing here waits for a time: ``--mark FILE`` is created by the chief once it has made
``--mark-at`` steps, and ``--worker-raises-when FILE`` waits for such a file (worker 1 does, or the
one that ``--failing-worker`` names; a job of ``ps`` goes on with the workers that are left).
"""
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import sys
import threading
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")

POLL_S = 0.05


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=("ps", "tf1", "mwms"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--step-s", type=float, default=0.0, help="seconds each step takes extra")
    parser.add_argument("--chief-raises-at", type=int, metavar="STEP")
    parser.add_argument("--chief-exits-at", type=int, metavar="STEP")
    parser.add_argument("--chief-exit-code", type=int, default=0)
    parser.add_argument("--chief-hangs-at", type=int, metavar="STEP")
    parser.add_argument("--worker-raises-when", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--failing-worker", type=int, default=1, metavar="INDEX")
    parser.add_argument("--mark", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--mark-at", type=int, default=1, metavar="STEP")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--model-dir", "--model_dir")
    return parser.parse_args()


def after_step(args: argparse.Namespace, step: int) -> None:
    """What the chief does once ``step`` steps are made."""
    print(f"step {step}", flush=True)
    if args.mark and step == args.mark_at:
        args.mark.touch()
    if step == args.chief_raises_at:
        raise RuntimeError(f"the chief failed at step {step}")
    if step == args.chief_exits_at:
        sys.exit(args.chief_exit_code)
    if step == args.chief_hangs_at:
        print("hanging", flush=True)
        threading.Event().wait()
    time.sleep(args.step_s)


def told(args: argparse.Namespace) -> bool:
    return args.worker_raises_when is not None and args.worker_raises_when.exists()


def serve(args: argparse.Namespace, server: Any, index: int) -> None:
    """A worker: serves, and raises as soon as the file is there if it is the one to fail."""
    if args.worker_raises_when is None or index != args.failing_worker:
        server.join()
    while not told(args):
        time.sleep(POLL_S)
    raise RuntimeError("the worker failed as it was told to")


def stubborn() -> None:
    def ignore(_signum: int, _frame: object) -> None:
        print("SIGTERM ignored", flush=True)

    signal.signal(signal.SIGTERM, ignore)


def parameter_server_job(args: argparse.Namespace) -> None:
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if resolver.task_type in ("worker", "ps"):
        server = tf.distribute.Server(
            resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id
        )
        print(f"{resolver.task_type} {resolver.task_id} serves", flush=True)
        serve(args, server, resolver.task_id)
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    if args.ignore_sigterm:
        stubborn()
    with strategy.scope():
        total = tf.Variable(0.0)

    @tf.function
    def add_one() -> None:
        total.assign_add(1.0)

    for step in range(1, args.steps + 1):
        coordinator.schedule(add_one)
        coordinator.join()
        after_step(args, step)
    print(f"total {float(total):.0f}", flush=True)


def tensorflow_1_job(args: argparse.Namespace) -> None:
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    described = json.loads(os.environ["TF_CONFIG"])
    cluster, task = described["cluster"], described["task"]
    server = tf.train.Server(cluster, job_name=task["type"], task_index=task["index"])
    is_chief = task["type"] in ("chief", "master")
    device = f"/job:{task['type']}/task:{task['index']}"
    placed = tf.train.replica_device_setter(cluster=cluster, worker_device=device)
    with tf.device(placed):
        step = tf.train.get_or_create_global_step()
        total = tf.get_variable("total", [], initializer=tf.zeros_initializer())
        train = tf.group(total.assign_add(1.0), step.assign_add(1))
    if args.ignore_sigterm:
        stubborn()
    print(f"total is on {total.device}", flush=True)
    hooks = [tf.train.StopAtStepHook(last_step=args.steps)]
    # A session otherwise waits for every task of the cluster, and for ever for one that has ended.
    config = tf.ConfigProto(device_filters=["/job:ps", device])
    with tf.train.MonitoredTrainingSession(
        master=server.target, is_chief=is_chief, hooks=hooks, config=config
    ) as session:
        made = 0
        while not session.should_stop():
            session.run(train)
            made += 1
            if is_chief:
                after_step(args, made)
    print(f"{task['type']} {task['index']} made {made} steps", flush=True)


def mirrored_job(args: argparse.Namespace) -> None:
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = strategy.cluster_resolver.task_id or 0
    if args.ignore_sigterm:
        stubborn()
    for step in range(1, args.steps + 1):
        everyone = strategy.reduce(tf.distribute.ReduceOp.SUM, tf.constant(1.0), axis=None)
        assert float(everyone) == strategy.num_replicas_in_sync
        if index == 0:
            after_step(args, step)
        elif index == args.failing_worker and told(args):
            raise RuntimeError("the worker failed as it was told to")
    print("trained", flush=True)


if __name__ == "__main__":
    options = arguments()
    {"ps": parameter_server_job, "tf1": tensorflow_1_job, "mwms": mirrored_job}[options.job](
        options
    )
