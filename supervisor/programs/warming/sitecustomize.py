"""Found by the Python of a script that is to start later, at the head of PYTHONPATH: it imports
what the script will import, and waits for the word to go on.

The process was executed as the script itself: same command line, flags, directory, pipes, session.
``site`` imports this module after the interpreter is set up and before it looks at the script, so
that nothing of the script's life is imitated: when this returns, the interpreter runs the script as
it always does, and no frame of ours is below it. Rejected: a fork of a process that has imported
TensorFlow, which has threads by then; and a program that plays the interpreter (``runpy``), whose
frames, flags and end are not a script's.

The supervisor speaks over a socket, and leaves the environment in a memory file: see
``children/warm.py``. Nothing may leave this module by accident, or the script would begin unasked:
what goes wrong before the word ends the process, and after it the process executes the command line
once more, cold.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # a script is to find no module loaded that Python does not load
    from collections.abc import MutableMapping
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
VARIABLE = "SUPERVISOR_WARM"
"""The descriptors of the socket and of the memory file. In the environment of the exec alone."""
_GO = b"g"
_ENVIRONMENT_AT = 1 << 20
_WORDS = 1024
_LIKELIEST = b"1000"
"""``oom_score_adj`` while it waits: of all processes it is the one that can be done without. Going
back needs no privilege (see ``children/child.py``)."""


class _Unfit(Exception):  # noqa: N818  # no error
    """Why the script is not to be run by this process."""


def _warm(control: int, memory: int) -> None:
    """Import, say so, wait, and take the script's environment on."""
    try:
        for fd in (control, memory):
            os.set_inheritable(fd, False)
        modules, early, user_directories = _told(memory, _ENVIRONMENT_AT, 0)
        score = _swapped("/proc/self/oom_score_adj", _LIKELIEST)
        executed_with, why = _executed_with(), ""
        try:
            _import(modules, early, user_directories)
        except _Unfit as unfit:
            why = str(unfit)
        except KeyboardInterrupt:
            _die_of_sigint()
        except BaseException as error:  # noqa: BLE001  # the script is to have it, not we
            why = f"{type(error).__name__}: {error}"
        os.write(control, b"!" + why.encode("utf-8", "replace")[:_WORDS] if why else b"+")
        if os.read(control, 1) != _GO:  # the supervisor needs us no more
            os._exit(0)
        environ = _told(memory, 1 << 24, _ENVIRONMENT_AT)
        if score is not None:
            _swapped("/proc/self/oom_score_adj", score)
        if why:
            os.execve(sys.executable, sys.orig_argv, environ)  # noqa: S606
        os.close(control)
        os.close(memory)
        _take_on(environ, executed_with)
    except KeyboardInterrupt:
        _die_of_sigint()
    except BaseException:  # noqa: BLE001  # a defect: see the module's docstring
        os._exit(70)


def _told(memory: int, size: int, offset: int) -> Any:
    return marshal.loads(os.pread(memory, size, offset))  # noqa: S302  # the supervisor's own


def _import(modules: list[str], early: dict[str, str], user_directories: list[str]) -> None:
    """``early`` is what the script will have put into its environment by then."""
    site = sys.modules["site"]
    if getattr(site, "ENABLE_USER_SITE", False) and _is_there("usercustomize"):
        raise _Unfit("there is a usercustomize module, which is to come first")
    path = sys.path[:]
    # What of the user's code shadows a library is seen below, and not run here.
    sys.path[:] = trimmed = [each for each in path if each not in user_directories]
    before = set(sys.modules)
    overlaid = {name: os.environ.get(name) for name in early}
    os.environ.update(early)
    for name in modules:
        __import__(name)
    for name, value in overlaid.items():
        if os.environ.get(name) == early[name]:
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    if sys.path != trimmed:
        raise _Unfit("what it imports changes the search path")
    sys.path[:] = path
    imported = {name.partition(".")[0] for name in sys.modules if name not in before}
    for directory in _first_directories(user_directories):
        for entry in _listed(directory):
            path_of = os.path.join(directory, entry)
            if entry.partition(".")[0] in imported and _is_module(path_of):
                raise _Unfit(f"{path_of} has the name of a library")


def _first_directories(user_directories: list[str]) -> list[str]:
    """Where the script's imports look first: its own directory, then the user's."""
    argv = sys.orig_argv
    own = os.getcwd() if "-m" in argv[1:2] else os.path.dirname(os.path.realpath(argv[1]))
    return [own, *(each for each in user_directories if each != own)]


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _is_module(path: str) -> bool:
    """A directory without an ``__init__`` gives way to a package elsewhere (PEP 420)."""
    if os.path.isdir(path):
        return any(entry.startswith("__init__.") for entry in _listed(path))
    return path.endswith((".py", ".pyc", ".so"))


def _is_there(module: str) -> bool:
    return any(finder.find_spec(module, None) for finder in sys.meta_path)


def _executed_with() -> dict[str, str]:
    """The environment of the exec, without what is there for us."""
    parts: list[bytes] = []
    fd = os.open("/proc/self/environ", os.O_RDONLY)
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    os.close(fd)
    lines = os.fsdecode(b"".join(parts)).split("\0")
    environ = dict(line.split("=", 1) for line in lines if "=" in line[1:])
    environ.pop(VARIABLE, None)
    _forget_us(environ)
    return environ


def _forget_us(environ: MutableMapping[str, str]) -> None:
    first, _, rest = environ.get("PYTHONPATH", "").partition(os.pathsep)
    if first == _HERE:
        environ["PYTHONPATH"] = rest
        if not rest:
            del environ["PYTHONPATH"]


def _take_on(environ: dict[str, str], executed_with: dict[str, str]) -> None:
    """What differs by the time that has gone by since the exec."""
    # Python itself, what customizes it and what was imported may have set variables, or unset some.
    now = os.environ.items()
    environ.update({name: value for name, value in now if executed_with.get(name) != value})
    for name in executed_with:
        if name not in os.environ:
            environ.pop(name, None)
    os.environ.clear()
    os.environ.update(environ)
    # What was absent when a directory was looked at may be there now.
    for path, finder in tuple(sys.path_importer_cache.items()):
        if finder is not None and hasattr(finder, "invalidate_caches"):
            finder.invalidate_caches()
        elif finder is None and os.path.exists(path):
            del sys.path_importer_cache[path]
    logging = sys.modules.get("logging")
    if logging is not None and hasattr(logging, "_startTime"):  # what relativeCreated counts from
        time = sys.modules["time"]
        whole = isinstance(logging._startTime, int)  # noqa: SLF001
        logging._startTime = time.time_ns() if whole else time.time()  # type: ignore[attr-defined]  # noqa: SLF001


def _swapped(path: str, text: bytes) -> bytes | None:
    """What stood in the file, now overwritten; None where that is refused."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        before = os.read(fd, 64).strip()
        os.pwrite(fd, text, 0)
    except OSError:
        return None
    else:
        return before
    finally:
        os.close(fd)


def _die_of_sigint() -> None:
    """As a script does that is interrupted while it imports, without the stacks."""
    import signal  # noqa: PLC0415  # for it alone

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(130)


def _forget_all_of_us() -> list[str]:
    """The words that are for us, which are taken out of what a script sees."""
    words = os.environ.pop(VARIABLE, "").split()
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]
    sys.path_importer_cache.pop(_HERE, None)
    _forget_us(os.environ)
    sys.modules.pop("sitecustomize", None)
    return words


_failure: BaseException | None = None
try:
    _words = _forget_all_of_us()
except BaseException:  # noqa: BLE001  # a defect: see the module's docstring
    os._exit(70)
try:
    # The one that a script would have had, by the way it would have had it.
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
except Exception as _error:  # noqa: BLE001  # site's to report, as without us
    _failure = _error
if len(_words) == 2:
    _warm(int(_words[0]), int(_words[1]))
if _failure is not None:
    raise _failure
