"""N hosts on one machine: writes the container contract of each below a run directory.

TensorFlow binds every interface on its port, so each host gets ports of its own through
``supervisorconfig.json``; everything else is the contract that a container platform writes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor import regular
from supervisor.contract import record
from supervisor.contract.distribution import SWITCHES, Strategy
from supervisor.contract.facts import CHANNELS, HYPERPARAMETERS, OVERLAY, RESOURCES
from supervisor.contract.paths import paths_below

ADDRESS: Final = "127.0.0.1"
_LOWEST_PORT: Final = 20000
"""Below the kernel's ephemeral range (32768 up): a port that is free now is not handed to some
outgoing connection before TensorFlow binds it, seconds later."""
_HIGHEST_PORT: Final = 32000
_BLOCK: Final = 30
"""Ports that are promised in one: those of ten hosts, with one descriptor."""

_SWITCHES: Final = {strategy: key for key, strategy in SWITCHES.items()}


@dataclass(frozen=True, slots=True)
class LocalHost:
    name: str
    base_dir: str
    status_port: int


def name_of(number: int) -> str:
    """Of a host, counted from 1."""
    return f"algo-{number}"


def lay_out(
    run_dir: str,
    count: int,
    strategy: Strategy,
    script: str,
    arguments: Sequence[str],
    hyperparameters: Mapping[str, Any],
    promises: contextlib.ExitStack | None = None,
) -> list[LocalHost]:
    """Make the hosts' base directories and contracts; what a run left there before stays.

    ``script`` is an absolute path; its directory is each host's ``code``. Until ``promises`` is
    closed no other run is given the ports of this one. Raises OSError.
    """
    names = [name_of(number) for number in range(1, count + 1)]
    ports = free_ports(3 * count, promises)
    places = {
        name: dict(zip(("train", "ps", "status"), ports[3 * i : 3 * i + 3], strict=True))
        for i, name in enumerate(names)
    }
    platform: dict[str, object] = {
        "sagemaker_program": os.path.basename(script),
        "sagemaker_job_name": os.path.basename(os.path.normpath(run_dir)),
    }
    if strategy in _SWITCHES:
        platform[_SWITCHES[strategy]] = True
    values = {**hyperparameters, **platform}
    overlay = {
        "hosts": {name: {"address": ADDRESS, "ports": places[name]} for name in names},
        "arguments": list(arguments),
    }
    hosts = []
    for name in names:
        base = os.path.join(run_dir, name)
        record.clear(paths_below(base))
        config = os.path.join(base, "input", "config")
        os.makedirs(config, exist_ok=True)
        contract = {
            HYPERPARAMETERS: {key: json.dumps(value) for key, value in values.items()},
            RESOURCES: {"current_host": name, "hosts": names, "network_interface_name": "lo"},
            CHANNELS: {},
            OVERLAY: overlay,
        }
        for file_name, content in contract.items():
            regular.replace(os.path.join(config, file_name), json.dumps(content, indent=2))
        code = os.path.join(base, "code")
        if os.path.islink(code):
            os.unlink(code)
        os.symlink(os.path.dirname(script), code)
        hosts.append(LocalHost(name, base, places[name]["status"]))
    return hosts


class NoPortsError(OSError):
    """Too few ports are free."""


def free_ports(count: int, promises: contextlib.ExitStack | None = None) -> list[int]:
    """Ports of this machine that nobody listens on; raises NoPortsError where there are too few.

    Until ``promises`` is closed they are given to no other caller that promises.
    """
    found: list[int] = []
    # In random order, so that two runs that begin together seldom look at the same.
    blocks = list(range(_LOWEST_PORT, _HIGHEST_PORT, _BLOCK))
    random.shuffle(blocks)
    for first in blocks:
        if len(found) >= count:
            break
        if promises is None or _promise(first, promises):
            found += filter(_is_free, range(first, min(first + _BLOCK, _HIGHEST_PORT)))
    if len(found) < count:
        raise NoPortsError(f"only {len(found)} of {count} ports between 20000 and 32000 are free")
    return found[:count]


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
        return True
    return False


def _promise(first: int, promises: contextlib.ExitStack) -> bool:
    """Whether no other run has the block of ports in mind that begins here; we have, from now on.

    Between the choice and TensorFlow's bind lie seconds in which the port looks free: two runs
    that chose the same one lost a parameter server (exit 85). The promise is a name among the
    abstract sockets (unix(7)): they belong to a network namespace, as ports do, and end with the
    process. Rejected: to keep the port itself bound. A script that binds it without SO_REUSEADDR
    could not.
    """
    with contextlib.ExitStack() as kept:
        try:
            promise = kept.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            promise.bind(f"\0supervisor local {first}")
        except OSError as error:
            return error.errno != errno.EADDRINUSE  # without such names, unpromised is all there is
        promises.enter_context(kept.pop_all())
    return True
