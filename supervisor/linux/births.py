"""When a file was made, which Python's stat does not tell on Linux: statx(2)."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Callable
from typing import Any, Final

_AT_FDCWD: Final = -100
_NO_FOLLOW: Final = 0x100
_BTIME: Final = 0x800
_BTIME_AT: Final = 0x50
_BYTES: Final = 256


def born_ns(path: str) -> int | None:
    """Nanoseconds since the epoch, by the file system's clock; a rename keeps it. None where the
    file system does not know."""
    if (statx := _statx()) is None:
        return None
    found = ctypes.create_string_buffer(_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), _NO_FOLLOW, _BTIME, found) != 0:
        return None
    (known,) = struct.unpack_from("=I", found.raw)
    seconds, nanoseconds = struct.unpack_from("=qI", found.raw, _BTIME_AT)
    return seconds * 10**9 + nanoseconds if known & _BTIME else None


@functools.cache
def _statx() -> Callable[..., Any] | None:
    """The C library's; None where it has none."""
    return getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
