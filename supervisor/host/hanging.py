"""Whether a script still does something; loaded where ``SUPERVISOR_HANG_TIMEOUT_S`` asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from supervisor.aside import Aside
from supervisor.children import attribution, stacks
from supervisor.children.watchdog import LATE, HangDetector, Signs, Steps
from supervisor.contract import record
from supervisor.contract.paths import Paths
from supervisor.faults import safe_lines
from supervisor.host.files import Files
from supervisor.host.running import Running
from supervisor.host.timeline import Say
from supervisor.life import events as ev
from supervisor.linux import procfs
from supervisor.streams.masking import Masker

LOOK_S: Final = 5.0
"""Longest pause between two looks."""


async def watch(
    running: Running,
    timeout_s: float | None,
    *,
    paths: Paths,
    files: Files,
    masker: Masker,
    say: Say,
    steps: Callable[[], Steps | None],
    look_now: Callable[[], Awaitable[None]],
    last_step: Callable[[], str],
    dump_stacks: Callable[[], int],
    post: Callable[[ev.Event], None],
) -> None:
    """Look now and then until the process has ended, or nothing of it has moved for ``timeout_s``
    seconds (None: ``auto``): then say so, with where it is, and post ``Hung``.

    ``steps``: what is seen of its training; ``look_now`` sees more; ``last_step``: how far that
    came, for people.
    ``dump_stacks`` asks the tree for its stacks; how many of it can answer.
    """
    signs = await _signs_of_life(running, paths, files, steps)
    detector = HangDetector.begin(signs, running.heartbeat_before)
    pause_s = LOOK_S if timeout_s is None else min(LOOK_S, timeout_s / 10)
    while not (running.watchdog_triggered or _is_over(detector, timeout_s)):
        if running.end is not None:
            return
        await asyncio.sleep(pause_s)
        late = time.monotonic() - detector.last.at > LATE * pause_s + 1.0
        # A script that waits for a stalled reader of its output is held, and does not hang.
        held = running.suspended or any(pump.held for pump in running.pumps)
        signs = await _signs_of_life(running, paths, files, steps)
        detector = detector.excuse(signs) if held or late else detector.look(signs)
        if detector.goes_by_steps and _is_over(detector, timeout_s):
            # Files are looked at seldom while nothing is new.
            await look_now()
            detector = detector.look(await _signs_of_life(running, paths, files, steps))
    name = running.spec.name
    say("warning", "process.hung", process=name, idle_s=round(detector.idle_s, 1))
    words = ""
    if dump_stacks():
        await asyncio.sleep(stacks.WRITE_S)
    elif running.child is not None:
        with contextlib.suppress(TimeoutError):
            words = await Aside("spy")(2 * stacks.SPY_S, stacks.spy, running.child.pid)
        say("info", "process.seen", process=name, stacks=words)
    words = masker.text(words) or running.tails(masker)[-1].decode("utf-8", "replace")
    detail = safe_lines(words)[-attribution.DETAIL_LIMIT :]
    lacking = ""
    if running.watchdog_triggered:
        lacking = "by its own word (WATCHDOG=trigger), no sign of life"
    elif detector.goes_by_steps:
        lacking = f"no step after {last_step()}"
    elif detector.beats:
        lacking = "no heartbeat came" if signs.watchdog else "its heartbeat file was not touched"
    post(ev.Hung(name, detector.idle_s, time.time(), detail, lacking))


def _is_over(detector: HangDetector, timeout_s: float | None) -> bool:
    limit_s = detector.limit_s(timeout_s)
    return limit_s is not None and detector.idle_s >= limit_s


async def _signs_of_life(
    running: Running, paths: Paths, files: Files, steps: Callable[[], Steps | None]
) -> Signs:
    child = running.child
    assert child is not None
    pids = (child.pid, *child.descendants())
    return Signs(
        at=time.monotonic(),
        output_bytes=running.output_bytes,
        cpu_s=sum(procfs.usage(pid)[0] or 0.0 for pid in pids),
        heartbeat=await files.look(lambda: record.heartbeat(paths), None),
        watchdog=running.watchdog_beats,
        steps=steps(),
    )
