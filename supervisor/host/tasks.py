"""The tasks of one host that live beside its children, and what becomes of a defect in any task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from supervisor.faults import without_number
from supervisor.host.timeline import Say
from supervisor.life import events as ev
from supervisor.streams.masking import Masker


class Tasks:
    """Services: begun at any time, cancelled together when the life is over."""

    def __init__(self, post: Callable[[ev.Event], None], say: Say, masker: Masker) -> None:
        self._post = post
        self._say = say
        self._masker = masker
        self._group: asyncio.TaskGroup
        self._services: list[asyncio.Task[None]] = []

    def begin(self, group: asyncio.TaskGroup) -> None:
        """``group`` is where services run; before the first of them."""
        self._group = group

    def serve(self, name: str, work: Coroutine[Any, Any, None], *, vital: bool = True) -> None:
        """Run ``work`` as a service; see ``guard``."""
        task = self._group.create_task(self.guard(name, work, vital=vital), name=name)
        self._services.append(task)

    async def guard(self, name: str, work: Awaitable[None], *, vital: bool = True) -> None:
        """A defect of ours in a task is an event, so that the job still ends in order; in one that
        the job can do without it is only said."""
        try:
            await work
        except Exception as error:  # noqa: BLE001  # the last line of defence, reported as such
            if vital:
                self.broke(name, error)
            else:
                text = f"{name}: {type(error).__name__}: {error}"
                self._say("error", "internal.error", error=text)

    def broke(self, name: str, error: Exception) -> None:
        """A defect of ours: the job ends for it, unless it ends already."""
        text = self._masker.text(f"{name}: {type(error).__name__}: {without_number(str(error))}")
        self._post(ev.Broke(text, time.time()))

    def end(self) -> None:
        for task in self._services:
            task.cancel()
