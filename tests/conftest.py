"""Every test begins with default signals, whoever started the tests: what nohup or a shell's
background job ignores would reach every child, and a supervisor rightly respects it."""

from __future__ import annotations

import signal

for _signum in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
    if signal.getsignal(_signum) is signal.SIG_IGN:
        _default = signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL
        signal.signal(_signum, _default)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
