"""Descriptors, children and tasks before and after."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

from supervisor.linux import procfs
from tests.helpers.waiting import wait_until


def open_descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one that lists
    return found


def own_children() -> set[int]:
    return set(procfs.own_children() or ())


@contextmanager
def no_leaks() -> Iterator[None]:
    """Fails if the block leaves a descriptor or a child (a zombie is one) behind."""
    gc.collect()
    descriptors, children = open_descriptors(), own_children()
    yield
    gc.collect()
    wait_until(
        lambda: own_children() <= children,
        2,
        f"children left: {own_children() - children}",
    )
    after = open_descriptors()
    left = {fd: what for fd, what in after.items() if descriptors.get(fd) != what}
    assert not left, f"descriptors left: {left}"


def no_other_tasks() -> bool:
    """Inside a coroutine: whether it is the loop's only task."""
    return asyncio.all_tasks() == {asyncio.current_task()}
