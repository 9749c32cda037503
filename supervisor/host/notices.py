"""What scripts say of themselves at ``NOTIFY_SOCKET``, by the protocol of systemd, sd_notify(3).

One socket for all scripts of the host, made with the first of them. Its name is in the abstract
namespace of unix(7): no file to be left behind, no directory that must be there and writable, and
no 108 bytes that a job's path must fit into. The name is random, but in a network namespace that
others share it is no secret; so the kernel is asked who has sent a datagram (SO_PASSCRED), and the
sender must be a process of a script's tree. Who is a stranger can neither keep a script alive nor
lengthen its stop.

A sender that is gone by the time it is looked at is a stranger, as it is to systemd: nothing tells
any more whose it was. ``systemd-notify`` and ``sd_notify_barrier`` wait for us (see `_receive`);
what sends and ends at once (``python -c``) is to wait a moment, or to have its parent wait later.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from supervisor.faults import in_words, safe
from supervisor.host.present import Present
from supervisor.host.running import Running
from supervisor.host.timeline import Say
from supervisor.life import events as ev
from supervisor.life.words import ProcessSpec, Role
from supervisor.linux import procfs, tree
from supervisor.streams.logs import Log
from supervisor.streams.masking import Masker

if TYPE_CHECKING:  # for those that are told something
    from supervisor.training.notices import Notice

MOST_AT_ONCE: Final = 64
"""Datagrams that are read in one turn of the loop …"""
PAUSE_S: Final = 0.02
"""… and the rest so much later. A script may notify three thousand times a second without waiting,
and what floods waits for us, as the kernel keeps few datagrams (net.unix.max_dgram_qlen)."""
STATUS_S: Final = 10.0
"""Between two lines of the log that tell a status; the newest one is told then."""
AGAIN_S: Final = 0.1
"""To ask for more time again so soon, and for no more, is not passed on."""
_MOST_CHARACTERS: Final = 300
"""Of a status."""
_MOST_SENDERS: Final = 1024
_MOST_PARENTS: Final = 64
_BYTES: Final = 4096 + 1
_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid."""
_ANCILLARY: Final = socket.CMSG_SPACE(_CREDENTIALS.size)


class Notices:
    """Belongs to the event loop's thread."""

    def __init__(
        self,
        present: Present,
        *,
        post: Callable[[ev.Event], None],
        say: Say,
        log: Log,
        masker: Masker,
        heard: Callable[[str, Notice], None],
    ) -> None:
        """``heard`` is told each notice with the name of the process whose script has sent it, when
        all that is done here is done. What scripts say for people is for the ``log`` alone: with a
        line now and then for days it would push all else out of the timeline."""
        self._present = present
        self._post = post
        self._say = say
        self._log = log
        self._masker = masker
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._name = ""
        self._pause: asyncio.TimerHandle | None = None
        self._scripts: dict[int, Running] = {}
        """By the pid of their leaders."""
        self._senders: dict[int, tuple[int, Running]] = {}
        """Others that were found in a script's tree: when they began, and whose they are."""
        self._asked: dict[str, tuple[float, float]] = {}
        """When a script has last asked for more time, by the loop's clock, and for how much."""
        self._statuses: dict[str, _Told] = {}
        self._refused = False

    # ------------------------------------------------------------------ a script

    def told_to(self, spec: ProcessSpec) -> ProcessSpec:
        """A script with what it is told of the socket; servers and steps as they are."""
        if spec.essential or spec.role is Role.PREPARE or not self._open():
            return spec
        env = {**spec.env, "NOTIFY_SOCKET": self._name}
        timeout_s = self._present.plan.contract.settings.hang_timeout_s
        if timeout_s:
            env["WATCHDOG_USEC"] = str(round(timeout_s * 1e6))
        return replace(spec, env=env)

    def follow(self, running: Running) -> None:
        """A process was started: hear it, if it was told where."""
        child, name = running.child, running.spec.name
        if child is None or child.spec.env.get("NOTIFY_SOCKET") != self._name or not self._name:
            return
        ended = [pid for pid, each in self._scripts.items() if each.end is not None]
        for pid in ended:
            del self._scripts[pid]
        self._senders.clear()
        self._asked.pop(name, None)
        if (before := self._statuses.pop(name, None)) is not None:
            before.cancel()
        self._scripts[child.pid] = running
        if "warm_s" in child.told:
            running.imported_s = 0.0

    def close(self) -> None:
        """However the life ended. Idempotent."""
        for told in self._statuses.values():
            told.cancel()
        if self._pause is not None:
            self._pause.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    # ------------------------------------------------------------------ the socket

    def _open(self) -> bool:
        if self._name:
            return self._socket is not None
        name = f"supervisor-notify-{os.urandom(12).hex()}"
        self._name = f"@{name}"  # as the protocol writes an abstract name
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            made = socket.socket(socket.AF_UNIX, kind)
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                made.bind(f"\0{name}")
            except OSError:
                made.close()
                raise
        except OSError as error:
            self._say("warning", "notices.unavailable", error=in_words(error))
            return False
        self._socket = made
        self._loop.add_reader(made, self._receive)
        return True

    def _receive(self) -> None:
        """What has come. There is room for the sender's credentials alone: descriptors that come
        along (``FDSTORE=1``, ``BARRIER=1``) are closed by the kernel and never ours. That is all a
        barrier waits for, and it comes after what was sent before it."""
        from supervisor.training.notices import NOTHING, parse  # noqa: PLC0415  # for those who tell

        assert self._socket is not None
        for _ in range(MOST_AT_ONCE):
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(_BYTES, _ANCILLARY)
            except OSError:  # nothing more
                return
            # A barrier says nothing, and whoever waited for it may be gone by now.
            notice = NOTHING if flags & socket.MSG_TRUNC else parse(data)
            if notice == NOTHING:
                continue
            running = self._sender(_pid_of(ancillary))
            if running is not None:
                self._take(running, notice)
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        assert self._socket is not None
        self._loop.add_reader(self._socket, self._receive)

    # ------------------------------------------------------------------ who has sent it

    def _sender(self, pid: int) -> Running | None:
        """Whose script it was; None: nobody's here."""
        running = self._scripts.get(pid)
        if running is not None and running.end is None:  # until it is reaped the pid is its own
            return running
        process = procfs.stat(pid) if pid > 0 and procfs.usable() else None
        if process is None:
            self._refuse(pid, "it is gone, or in another PID namespace")
            return None
        start, running = self._senders.get(pid, (0, None))
        if start == process.start and running is not None:
            return running if running.end is None else None
        running = self._owner(process)
        if running is None:
            self._refuse(pid, "it belongs to no script of this host")
            return None
        if len(self._senders) >= _MOST_SENDERS:
            self._senders.clear()
        self._senders[pid] = (process.start, running)
        return running

    def _owner(self, process: procfs.Process) -> Running | None:
        """By its parents, by a session, else by the mark in its environment: what a daemon that has
        left both still has. To look through all processes, as ``tree.Tree`` does, would cost a
        stranger nothing and us a lot."""
        alive = {pid: each for pid, each in self._scripts.items() if each.end is None}
        each: procfs.Process | None = process
        for _ in range(_MOST_PARENTS):
            if each is None:
                break
            for pid in (each.pid, each.session):
                if pid in alive:
                    return alive[pid]
            each = procfs.stat(each.ppid) if each.ppid > 1 else None
        if procfs.stuck(process.pid):
            return None
        marks = {*tree.marks_in(procfs.environ(process.pid) or b"")}
        for running in alive.values():
            if running.child is not None and running.child.mark.encode() in marks:
                return running
        return None

    def _refuse(self, pid: int, why: str) -> None:
        """Said once: whoever looks for a notification that does nothing finds why."""
        if not self._refused:
            self._refused = True
            self._say("warning", "notices.refused", pid=pid, why=why)

    # ------------------------------------------------------------------ what follows

    def _take(self, running: Running, notice: Notice) -> None:
        name = running.spec.name
        running.watchdog_beats += notice.watchdog
        running.watchdog_triggered |= notice.watchdog_trigger
        assert running.child is not None
        if notice.imported and running.imported_s is None:  # of the first process that says it
            running.imported_s = time.monotonic() - running.child.started_at
        if notice.ready and not running.ready:
            running.ready = True
            seconds = round(time.monotonic() - running.child.started_at, 3)
            self._say("info", "script.ready", process=name, seconds=seconds)
        if notice.status is not None:
            running.status = notice.status
            told = self._statuses.get(name)
            if told is None:
                told = self._statuses[name] = _Told(self._loop, self._log, self._masker, running)
            told.news()
        if notice.extend_s is not None:
            self._ask(name, notice.extend_s)
        self._heard(name, notice)

    def _ask(self, name: str, seconds: float) -> None:
        """For more time."""
        now = self._loop.time()
        at, before_s = self._asked.get(name, (-math.inf, 0.0))
        if now - at >= AGAIN_S or seconds > 1.1 * before_s:
            self._asked[name] = now, seconds
            self._post(ev.MoreTime(name, seconds, time.time()))


class _Told:
    """What the log says of one script's status: a line now and then, the newest one at last."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, log: Log, masker: Masker, running: Running
    ) -> None:
        self._loop = loop
        self._log = log
        self._masker = masker
        self._running = running
        self._last = ""
        self._timer: asyncio.TimerHandle | None = None

    def news(self) -> None:
        if self._timer is None:
            self._tell()

    def _tell(self) -> None:
        self._timer = None
        text = status_text(self._running, self._masker)
        if text == self._last or self._running.end is not None:
            return
        self._last = text
        self._timer = self._loop.call_later(STATUS_S, self._tell)
        if text:
            self._log.say("info", "script.status", process=self._running.spec.name, text=text)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def status_text(running: Running, masker: Masker) -> str:
    """What a script has last said for people: one line, without secrets, bounded. A script may say
    a status at each step, so this is done for those that somebody reads."""
    return safe(masker.text(running.status.strip()))[:_MOST_CHARACTERS]


def _pid_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    """0 where the kernel has none to say: it is in a PID namespace that we cannot see into."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
    return 0
