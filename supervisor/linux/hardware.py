"""What this container may compute with: CPUs, GPUs, Neuron cores. Asked once, at the start.

A tool that is not installed costs a look into ``PATH`` and counts 0; the others run side by side
and have ``TOOL_S`` together.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Mapping
from typing import Final

from supervisor.linux import orphans
from supervisor.linux.cgroup import cpu_quota

TOOL_S: Final = 2.0
_DRIVER: Final = "/proc/driver/nvidia/gpus"


def num_cpus() -> int:
    """CPUs that we may use: our affinity, and the cgroup's quota rounded up."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def count_accelerators(environ: Mapping[str, str], driver: str = _DRIVER) -> tuple[int, int]:
    """GPUs and Neuron cores. The driver's own list is preferred: it costs no process."""
    try:
        gpus = len(os.listdir(driver))
    except OSError:
        gpus = 0
    path = environ.get("PATH", os.defpath)
    started = {}
    if not gpus:
        started["gpus"] = _start(path, "nvidia-smi", "--list-gpus")
    started["neurons"] = _start(path, "neuron-ls", "--json-output")
    deadline = time.monotonic() + TOOL_S
    said = {what: _answer(tool, deadline) for what, tool in started.items() if tool is not None}
    listed = sum(line.startswith("GPU ") for line in said.get("gpus", "").splitlines())
    return gpus or listed, _neuron_cores(said.get("neurons", ""))


def _start(path: str, *command: str) -> subprocess.Popen[bytes] | None:
    # Not shutil.which: its module costs more than the search.
    places = (os.path.join(directory, command[0]) for directory in path.split(os.pathsep))
    program = next((place for place in places if os.access(place, os.X_OK)), None)
    if program is None:
        return None
    try:
        tool = subprocess.Popen(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    orphans.register(tool.pid, helper=True)  # nobody else is to collect it
    return tool


def _answer(tool: subprocess.Popen[bytes], deadline: float) -> str:
    """What it wrote; empty where it failed or took too long."""
    try:
        out, _ = tool.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(tool.pid, 9)
        if tool.stdout is not None:
            tool.stdout.close()
        tool.wait()
        return ""
    finally:
        orphans.release(tool.pid)
    return out.decode("utf-8", "replace") if tool.returncode == 0 else ""


def _neuron_cores(text: str) -> int:
    try:
        devices = json.loads(text)
        return sum(int(device.get("nc_count", 0)) for device in devices)
    except (ValueError, TypeError, AttributeError):
        return 0
