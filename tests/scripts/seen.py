"""A script that writes down what it can see of its own process: ``seen.py FILE [MODULE]
[WORD …]``. MODULE is imported first, as a training script imports its framework."""

# No import before this: what a script finds loaded is a part of what it sees.
import sys

MODULES_AT_FIRST = sorted(sys.modules)
FRAMES = 0
_frame = sys._getframe().f_back
while _frame is not None:
    FRAMES, _frame = FRAMES + 1, _frame.f_back
if len(sys.argv) > 2:
    __import__(sys.argv[2])
MODULES = sorted(sys.modules)
GLOBALS = {name: type(value).__name__ for name, value in globals().items() if name[:2] == "__"}
STREAMS = [
    [
        stream.name, stream.mode, stream.encoding, stream.errors, stream.line_buffering,
        getattr(stream, "write_through", None), stream.isatty(), stream.fileno(),
        type(stream.buffer).__name__,
    ]
    for stream in (sys.stdin, sys.stdout, sys.stderr)
]  # fmt: skip
SEARCHED = sorted(sys.path_importer_cache)
SYS = {
    "argv": sys.argv,
    "orig_argv": sys.orig_argv,
    "path": sys.path,
    "flags": repr(sys.flags),
    "hash": hash("hash") if sys.flags.hash_randomization == 0 else None,
    "executable": [sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix],
    "warnoptions": sys.warnoptions,
    "xoptions": sys._xoptions,
    "hooks": [
        *(repr(each) for each in sys.meta_path),
        *(getattr(each, "__qualname__", repr(each)) for each in sys.path_hooks),
    ],
    "defaults": [
        sys.excepthook is sys.__excepthook__,
        sys.displayhook is sys.__displayhook__,
        sys.breakpointhook is sys.__breakpointhook__,
        sys.unraisablehook is sys.__unraisablehook__,
        sys.gettrace() is None,
        sys.getprofile() is None,
        sys.exc_info() == (None, None, None),
    ],
    "limits": [sys.getrecursionlimit(), sys.getswitchinterval(), sys.dont_write_bytecode],
    "encodings": [sys.getfilesystemencoding(), sys.getdefaultencoding()],
    "dlopen": sys.getdlopenflags(),
}

import atexit  # noqa: E402
import ctypes  # noqa: E402
import faulthandler  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import locale  # noqa: E402
import logging  # noqa: E402
import multiprocessing  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402


def text_of(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "surrogateescape")


def environ_in_c() -> list[str]:
    table = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    found: list[str] = []
    while (entry := table[len(found)]) is not None:
        found.append(entry.decode("utf-8", "surrogateescape"))
    return found


def descriptors() -> dict[str, str]:
    """Those that are open, without the one that this look takes."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            where = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        flags = re.findall(r"flags:\s+(\d+)", text_of(f"/proc/self/fdinfo/{name}"))
        found[name] = f"{re.sub(r'[0-9]{3,}', 'N', where)} {flags}"
    return found


def main() -> None:
    fields = dict(
        line.split(":\t", 1) for line in text_of("/proc/self/status").splitlines() if ":\t" in line
    )
    volatile = ("Vm", "Rss", "Huge", "voluntary", "nonvoluntary", "FDSize", "Pid", "Tgid", "NStgid",
                "NSpid", "NSpgid", "NSsid", "PPid", "SigQ", "Cpus", "Mems", "Ngid")  # fmt: skip
    stat = text_of("/proc/self/stat").rpartition(")")[2].split()
    me = str(os.getpid())
    seen = {
        "modules at first": MODULES_AT_FIRST,
        "modules": MODULES,
        "searched": SEARCHED,
        "frames": FRAMES,
        "globals": GLOBALS,
        "main": [
            __file__, repr(__spec__)[:60], type(globals()["__loader__"]).__name__, __package__,
            sys.modules["__main__"].__dict__ is globals(),
        ],
        "streams": STREAMS,
        **{f"sys {key}": value for key, value in SYS.items()},
        "environ": list(os.environ.items()),
        "environ in C": environ_in_c(),
        "/proc environ": text_of("/proc/self/environ").split("\0"),
        "/proc cmdline": text_of("/proc/self/cmdline").split("\0"),
        "/proc comm": text_of("/proc/self/comm"),
        "/proc status": {k: v for k, v in fields.items() if not k.startswith(volatile)},
        "/proc stat": ["self" if each == me else each for each in (*stat[2:7], *stat[15:18])],
        "/proc oom_score_adj": text_of("/proc/self/oom_score_adj"),
        "/proc limits": text_of("/proc/self/limits"),
        "/proc cgroup": text_of("/proc/self/cgroup"),
        "/proc exe": os.readlink("/proc/self/exe"),
        "threads": [each.name for each in threading.enumerate()],
        "main thread": threading.main_thread().ident == threading.get_ident(),
        "tasks": len(os.listdir("/proc/self/task")),
        "descriptors": descriptors(),
        "cwd": os.getcwd(),
        "umask": os.umask(0),
        "nice": [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)],
        "affinity": sorted(os.sched_getaffinity(0)),
        "session": [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()],
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "rlimits": [resource.getrlimit(each) for each in range(16)],
        "signals": {
            int(each): str(signal.getsignal(each))
            for each in signal.valid_signals()
        },
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "pending": sorted(map(int, signal.sigpending())),
        "wakeup": signal.set_wakeup_fd(-1),
        "timers": [signal.getitimer(each) for each in range(3)],
        "faulthandler": faulthandler.is_enabled(),
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), len(gc.callbacks)],
        "garbage": len(gc.garbage),
        "atexit": atexit._ncallbacks(),
        "warnings": [str(each) for each in warnings.filters],
        "logging": [
            repr(logging.root.handlers), logging.root.level, logging.getLoggerClass().__name__,
            sorted(logging.root.manager.loggerDict),
        ],
        "logging began": logging.LogRecord("", 0, "", 0, "", None, None).relativeCreated < 1000.0,
        "locale": [locale.setlocale(locale.LC_ALL), time.tzname],
        "multiprocessing": multiprocessing.get_start_method(allow_none=True),
        "temporary": tempfile.tempdir,
    }  # fmt: skip
    with open(sys.argv[1], "w") as file:
        json.dump(seen, file, default=repr)


if __name__ == "__main__":
    main()
