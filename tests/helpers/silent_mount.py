"""Mount a file system that never answers at DIR, as a dead NFS server: ``silent_mount.py DIR``.

A FUSE mount whose other side reads nothing. Prints ``mounted`` and lives until it is killed or its
parent ends; every call on the file system then fails with ENOTCONN.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    if libc.mount(b"silent", os.fsencode(sys.argv[1]), b"fuse", 0, options.encode()):
        sys.exit(os.strerror(ctypes.get_errno()))
    print("mounted", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
