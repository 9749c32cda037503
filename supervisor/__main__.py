"""Entry points of the commands ``supervisor`` and ``train``.

Before a verb that runs a job nothing is imported until the signals are held: a stop that comes
while we import is delivered when somebody can hear it. As PID 1 it would otherwise be lost, as any
other process be the end of us without a word.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Final, NoReturn

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def main(argv: list[str] | None = None) -> NoReturn:
    """``supervisor VERB …``."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["train"], ["local"]):  # the others end of a signal like any program
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    _fill_standard_descriptors()
    _look_beside(words)
    from supervisor.verbs import cli  # noqa: PLC0415

    _leave(cli.main(words))


def _look_beside(words: list[str]) -> None:
    """PyPI's ``supervisor`` overwrites files of ours and takes them away when it goes. Two looks at
    the file system, and one sentence in place of a traceback."""
    import supervisor  # noqa: PLC0415
    from supervisor.host import neighbour  # noqa: PLC0415

    here = neighbour.is_beside()
    if not here and hasattr(supervisor, "__version__"):
        return
    if text := neighbour.damage():
        print(f"supervisor: {text}", file=sys.stderr)
        base = os.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml"
        if words[:1] == ["train"] and os.path.isdir(base):
            with contextlib.suppress(Exception):  # what it needs may be damaged too
                from supervisor.contract import record  # noqa: PLC0415
                from supervisor.contract.paths import paths_below  # noqa: PLC0415

                record.write_failure(paths_below(base), text)
        _leave(90)  # EXIT_INTERNAL
    if words[:1] != ["train"]:  # which says it in its log
        print(f"supervisor: {neighbour.warning()}", file=sys.stderr)


def _fill_standard_descriptors() -> None:
    """Where one was closed (``>&-``), the next pipe or socket of ours would get its number, and
    Python has None in the place of its stream."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def train() -> NoReturn:
    """``train``: what a container platform calls in an image without an ENTRYPOINT."""
    main(["train", *sys.argv[1:]])


def _leave(code: int) -> NoReturn:
    """End now. Whatever had to be closed is; taking the interpreter and every module of the status
    server apart would only hold the container for another 20 ms, and wait for any thread that is
    stuck in a write."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # its reader left, or closed
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
