"""Shut an address out of a listening socket, in the kernel.

A flood that comes faster than it can be accepted fills the kernel's queue, and then everybody's
connections are dropped alike, however little each of the flood's costs us. A classic BPF program on
the listening socket (``socket(7)``, SO_ATTACH_FILTER; needs no privilege) drops what asks for a new
connection (SYN without ACK, RFC 9293) and comes from one of some addresses, before it takes a place
in the queue. The sockets of accepted connections inherit the program, and it lets all that
belongs to a connection pass.

Loads at negative offsets are from the network header: ``SKF_NET_OFF`` of ``linux/filter.h``.
"""

from __future__ import annotations

import array
import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterable

MAX_SHUT = 16
"""Addresses that are shut out at the same time."""
_ATTACH, _DETACH = 26, 27
"""``SO_ATTACH_FILTER``, ``SO_DETACH_FILTER`` of ``asm-generic/socket.h``; not in `socket`."""
_NET = 0xFFF00000
_LOAD_WORD, _LOAD_BYTE, _AND, _SHIFT, _EQUAL, _RETURN = 0x20, 0x30, 0x54, 0x74, 0x15, 0x06
_TCP_FLAGS, _SYN, _SYN_ACK = 13, 0x02, 0x12
_PASS, _DROP = 0xFFFFFFFF, 0

_Step = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand: ``struct sock_filter``."""


def program(shut: Iterable[str]) -> list[_Step]:
    """Write the program that drops new connections of addresses and of IPv6 prefixes (``…/64``)."""
    four: list[_Step] = [(_LOAD_WORD, 0, 0, _NET + 12)]
    six: list[_Step] = []
    for text in list(shut)[:MAX_SHUT]:
        network = ipaddress.ip_network(text)
        packed = network.network_address.packed
        words = struct.unpack(f"!{len(packed) // 4}I", packed)
        if network.version == 4:
            four += [(_EQUAL, 0, 1, words[0]), (_RETURN, 0, 0, _DROP)]
            continue
        words = words[: network.prefixlen // 32]
        for at, word in enumerate(words):
            # Each comparison that fails leads behind this address's part.
            left = 2 * (len(words) - at) - 1
            six += [(_LOAD_WORD, 0, 0, _NET + 8 + 4 * at), (_EQUAL, 0, left, word)]
        six.append((_RETURN, 0, 0, _DROP))
    four.append((_RETURN, 0, 0, _PASS))
    return [
        (_LOAD_BYTE, 0, 0, _TCP_FLAGS),
        (_AND, 0, 0, _SYN_ACK),
        (_EQUAL, 1, 0, _SYN),
        (_RETURN, 0, 0, _PASS),
        (_LOAD_BYTE, 0, 0, _NET),
        (_SHIFT, 0, 0, 4),
        (_EQUAL, 0, len(four), 4),
        *four,
        *six,
        (_RETURN, 0, 0, _PASS),
    ]


def shut_out(end: socket.socket, addresses: Iterable[str]) -> bool:
    """Shut out these addresses and no others; False where the kernel has no such filter."""
    shut = list(addresses)
    with contextlib.suppress(OSError, ValueError):
        if shut:
            steps = program(shut)
            code = array.array("B", b"".join(struct.pack("HBBI", *step) for step in steps))
            place, _length = code.buffer_info()
            end.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HP", len(steps), place))
        else:
            end.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
        return True
    return False


def queue_share(end: socket.socket) -> float:
    """How full the queue of connections to be accepted is, 0 to 1; 0 where no kernel says it.

    ``tcpi_unacked`` and ``tcpi_sacked`` of ``struct tcp_info`` are, for a listening socket, the
    queue's length and limit.
    """
    with contextlib.suppress(OSError, struct.error):
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        length, limit = struct.unpack_from("II", info, 24)
        return float(length / limit) if limit else 0.0
    return 0.0
