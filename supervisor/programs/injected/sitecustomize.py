"""Found by the script's Python at its start, at the end of PYTHONPATH: stacks on request.

Registers a C-level handler that writes the stacks of all threads to stderr, so that it works in a
process that hangs in an extension. A sitecustomize of the image's own is imported after it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys

with contextlib.suppress(Exception):  # a diagnosis must never cost the run
    faulthandler.register(int(os.environ["SUPERVISOR_STACKS_SIGNAL"]), all_threads=True)

_here = os.path.dirname(os.path.abspath(__file__))
_path = sys.path[:]
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _here]
_ours = sys.modules.pop("sitecustomize", None)
with contextlib.suppress(ImportError):
    import sitecustomize as _next  # type: ignore[import-not-found]  # noqa: F401
if _ours is not None:
    sys.modules.setdefault("sitecustomize", _ours)
sys.path[:] = _path
