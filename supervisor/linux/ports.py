"""Who holds a TCP port of this machine, from ``/proc`` alone.

A port that is taken shows up as an error deep inside TensorFlow, minutes into a job; asked
beforehand, the answer names the process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass

MAX_COMMAND_CHARS = 160
_LISTEN = "0A"
"""``TCP_LISTEN`` of ``include/net/tcp_states.h``, as ``/proc/net/tcp`` prints it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a port.

    ``pid`` is None where it cannot be seen: another user's, another pid namespace's.
    """

    port: int
    pid: int | None
    command: str

    def __str__(self) -> str:
        if self.pid is None:
            return f"port {self.port} is held by a process that cannot be seen from here"
        return f"port {self.port} is held by pid {self.pid} ({self.command})"


def port_holder(port: int) -> Holder | None:
    """Find the process that listens on ``port`` of any address of this network namespace.

    Returns None when nobody does. Reads ``/proc``, some milliseconds per hundred processes.
    """
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for pid in _pids():
        if any(inode in inodes for inode in _socket_inodes(pid)):
            return Holder(port, pid, _command(pid))
    return Holder(port, None, "")


def check_free(port: int) -> str | None:
    """Say in one sentence why ``port`` cannot be bound on every interface; None if it can.

    Binds it for an instant, IPv4 and IPv6, as TensorFlow's server will, and lets it go.
    """
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
        try:
            end = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # a kernel without this family
            continue
        with end:
            # As gRPC does: a port in TIME_WAIT is free, a listening one is not.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                if family == socket.AF_INET6:
                    end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                end.bind((address, port))
                # Two sockets with SO_REUSEADDR may share a port until one listens on it.
                end.listen(1)
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue  # IPv6 switched off
                return why_not(port, error)
    return None


def why_not(port: int, error: OSError) -> str:
    """Turn the error of a failed bind into a sentence that names the holder of the port."""
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port)
        return str(holder) if holder else f"port {port} is in use"
    return f"port {port} cannot be bound: {error.strerror or error}"


def _listening_inodes(port: int) -> frozenset[str]:
    """Inodes of the sockets that listen on ``port``; the format is that of proc(5)."""
    wanted = f":{port:04X}"
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                if fields[3] == _LISTEN and fields[1].endswith(wanted):
                    found.add(fields[9])
    return frozenset(found)


def _pids() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return []


def _socket_inodes(pid: int) -> list[str]:
    inodes: list[str] = []
    # A process or a descriptor may go while we look, and others' are not ours to see.
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                target = os.readlink(entry.path)
                if target.startswith("socket:["):
                    inodes.append(target[8:-1])
    return inodes


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read(4 * MAX_COMMAND_CHARS)
    except OSError:
        return "?"
    words = raw.replace(b"\0", b" ").decode("utf-8", "replace").strip() or "?"
    printable = "".join(letter if letter.isprintable() else "?" for letter in words)
    if len(printable) <= MAX_COMMAND_CHARS:
        return printable
    return printable[: MAX_COMMAND_CHARS - 1] + "…"
