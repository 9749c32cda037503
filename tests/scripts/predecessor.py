"""Runs the predecessor on contract trees, as its image does. Executed by the predecessor's Python.

Reads one JSON object a line, ``{"base": …, "env": …}``, and lives each in a forked child: its
modules read the environment when they are imported. What is left out needs what is not here:
TensorFlow itself, the wait for the master, and S3.
"""
# mypy: ignore-errors

import json
import os
import sys
import types

import boto3  # noqa: F401  # loaded once, before the forks
import numpy as np  # noqa: F401
import scipy.sparse  # noqa: F401

AT_ONCE = 4


def live(base: str, env: dict) -> None:
    os.environ.clear()
    os.environ.update(env, SAGEMAKER_BASE_DIR=base, SM_STUDIO_LOCAL_MODE="true")
    sys.modules["tensorflow"] = types.ModuleType("tensorflow")
    from sagemaker_tensorflow_container import s3_utils, training

    training._run_ps = lambda *_: None  # a server of TensorFlow
    training._wait_until_master_is_down = lambda *_: None
    s3_utils._s3_region = lambda region, *_: region  # a call to S3
    training.main()


alive = 0
for line in sys.stdin:
    tree = json.loads(line)
    if alive == AT_ONCE:
        os.wait()
        alive -= 1
    alive += 1
    if os.fork() == 0:
        code = 1
        try:
            live(tree["base"], tree["env"])
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
for _ in range(alive):
    os.wait()
