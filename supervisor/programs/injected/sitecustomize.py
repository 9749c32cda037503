"""Found by the script's Python at its start, at the end of PYTHONPATH: stacks on request, and word
of when TensorFlow is imported.

Registers a C-level handler that writes the stacks of all threads to stderr, so that it works in a
process that hangs in an extension. A sitecustomize of the image's own is imported after it.

That the first import of TensorFlow is over is told at NOTIFY_SOCKET, so that people see where the
time went before the first step. It costs a fifth of a microsecond for each module before it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys

with contextlib.suppress(Exception):  # a diagnosis must never cost the run
    faulthandler.register(int(os.environ["SUPERVISOR_STACKS_SIGNAL"]), all_threads=True)


class _Listener:
    """A finder of modules that finds none: it has the loader of TensorFlow say when it is done."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN206
        if name != "tensorflow":
            return None
        try:
            others = [finder for finder in sys.meta_path if finder is not cls]
            found = (finder.find_spec(name, path, target) for finder in others)
            spec = next((each for each in found if each is not None), None)
            loader = vars(spec)["loader"]
            load = loader.exec_module

            def exec_module(module):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
                with contextlib.suppress(Exception):
                    del loader.exec_module  # its own again
                    sys.meta_path.remove(cls)
                load(module)
                with contextlib.suppress(Exception):
                    _tell()

            loader.exec_module = exec_module
        except Exception:  # noqa: BLE001  # it is found as it would be without us
            return None
        return spec


def _tell() -> None:
    import _socket  # noqa: PLC0415  # TensorFlow has it loaded

    address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    teller = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK)
    teller.sendto(b"X_SUPERVISOR_IMPORTED=1", address)
    teller.close()


if "NOTIFY_SOCKET" in os.environ:
    sys.meta_path.insert(0, _Listener)

_here = os.path.dirname(os.path.abspath(__file__))
_path = sys.path[:]
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _here]
_ours = sys.modules.pop("sitecustomize", None)
with contextlib.suppress(ImportError):
    import sitecustomize as _next  # type: ignore[import-not-found]  # noqa: F401
if _ours is not None:
    sys.modules.setdefault("sitecustomize", _ours)
sys.path[:] = _path
