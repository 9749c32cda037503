"""Entry points of the commands ``supervisor`` and ``train``.

Nothing is imported before the signals are held: a stop that comes while we import is delivered
when somebody can hear it. As PID 1 it would otherwise be lost, as any other process be the end of
us without a word.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def main(argv: list[str] | None = None) -> int:
    """``supervisor VERB …``."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    _fill_standard_descriptors()
    from supervisor import cli  # noqa: PLC0415

    return cli.main(sys.argv[1:] if argv is None else argv)


def _fill_standard_descriptors() -> None:
    """Where one was closed (``>&-``), the next pipe or socket of ours would get its number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


def train() -> int:
    """``train``: what a container platform calls in an image without an ENTRYPOINT."""
    return main(["train", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
