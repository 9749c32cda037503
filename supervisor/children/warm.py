"""A child that has been executed as a script, has imported what the script will, and waits.

It is not asked to run a script: it *is* the script's process, whose interpreter has not come to the
script yet. What holds it there is ``programs/warming/sitecustomize.py``; the two speak over a
socket. The child says once that it is ready or why it is unfit, we say once that it is to go on.
The environment lies in a memory file, so that telling it never blocks, whatever the child is at.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final

from supervisor.children.child import Child, environment, spawn
from supervisor.life.words import ProcessSpec

DIRECTORY: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "programs", "warming")
VARIABLE: Final = "SUPERVISOR_WARM"
_ENVIRONMENT_AT: Final = 1 << 20
"""Where in the memory file the environment begins; before it, what to import."""
_WORDS: Final = 2048
"""Bytes of what it says, at most."""


class Warm:
    """Belongs to the event loop's thread."""

    def __init__(self, child: Child, control: socket.socket, memory: int) -> None:
        self.child = child
        self.pid = child.pid
        self.said: str | None = None
        """What it has said: empty where it is ready, else why it is unfit. None: nothing yet."""
        self._control = control
        self._memory = memory

    @classmethod
    def start(
        cls,
        spec: ProcessSpec,
        *,
        modules: Sequence[str],
        early: Mapping[str, str],
        user_directories: Sequence[str],
        one_pipe: bool,
    ) -> Warm:
        """Execute ``spec``, a Python script, but for the script.

        ``early`` is in its environment while it imports ``modules``. What has a library's name in
        the script's directory or in ``user_directories`` makes it unfit.

        Raises:
            SpawnError: it could not be executed.
            OSError: there is no descriptor to be had, or no memory file.

        """
        with contextlib.ExitStack() as held:
            ours, theirs = socket.socketpair()
            held.callback(theirs.close)
            with contextlib.ExitStack() as ours_held:
                ours_held.callback(ours.close)
                ours.setblocking(False)
                memory = os.memfd_create("warm", os.MFD_CLOEXEC)
                ours_held.callback(os.close, memory)
                told = marshal.dumps((list(modules), dict(early), list(user_directories)))
                os.pwrite(memory, told, 0)
                search = os.pathsep.join(filter(None, (DIRECTORY, spec.env.get("PYTHONPATH"))))
                also = {"PYTHONPATH": search, VARIABLE: f"{theirs.fileno()} {memory}"}
                child = spawn(spec, one_pipe=one_pipe, also=also, fds=(theirs.fileno(), memory))
                ours_held.pop_all()
            return cls(child, ours, memory)

    async def listen(self) -> bool:
        """Wait for what it says, and keep it in ``said``; False where it has nothing more to say:
        it is the script now, or dead."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._control, _WORDS)
        except OSError:
            return False
        return self._hear(data)

    def become(self, spec: ProcessSpec) -> Child | None:
        """Have it go on as the script: at once, or when it has imported. It is the script from here
        on, and the caller's to own; None where it is dead or has said that it is unfit.

        Where it finds itself unfit later it executes its command line once more, cold.
        """
        if self.child.exited():
            return None
        with contextlib.suppress(OSError):  # nothing yet
            self._hear(self._control.recv(_WORDS))
        if self.said:
            return None
        try:
            os.pwrite(
                self._memory, marshal.dumps(environment(spec, self.child.mark)), _ENVIRONMENT_AT
            )
            self._control.send(b"g")
        except OSError:
            return None
        now = time.monotonic()
        self.child.told = {"warm_s": round(now - self.child.started_at, 3)}
        self.child.spec, self.child.started_at = spec, now
        return self.child

    def let_go(self) -> None:
        """There is nothing more to hear. Idempotent."""
        self._control.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def _hear(self, data: bytes) -> bool:
        if data:
            self.said = data[1:].decode("utf-8", "replace")
        return bool(data)
