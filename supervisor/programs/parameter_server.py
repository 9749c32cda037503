"""The parameter server of a host: ``python -P -m supervisor.programs.parameter_server``.

Reads the task and the cluster from ``TF_CONFIG``, starts TensorFlow's gRPC server and serves until
it is ended. It never ends by itself: TensorFlow's servers do not notice that the chief is gone.

===========================  ====================================================================
environment                  meaning
===========================  ====================================================================
``TF_CONFIG``                ``{"cluster": {"ps": ["host:port", …], …}, "task": {"type": "ps",
                             "index": 0}}``; task types ``ps`` and ``worker`` (a worker that
                             executes what the chief sends it)
``SUPERVISOR_PS_IMPORT``     ``light`` (default) or ``full``: how much of TensorFlow is imported
===========================  ====================================================================

Exit codes: 80 the configuration cannot be used, 81 the server cannot be started (the port is
taken, no TensorFlow); each says one line on stderr. A signal of its parent, the supervisor, ends it
at once, by that signal; everybody else's are left without effect (`Heeding`).

The only module of the package that imports TensorFlow. It imports next to nothing of the package
and must be started with ``-P``: what stands in the working directory is the user's, and a file
called ``tensorflow.py`` or ``json.py`` there is none of our business.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Before anything else is loaded: whoever signals all processes of a container does not ask how
    # far this one has come. `hold_signals` decides which are held on.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

import contextlib
import errno
import importlib
import importlib.util
import json
import os
import select
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, Protocol

from supervisor.faults import safe
from supervisor.linux.inherited import FAULT_SIGNALS, STOP_SIGNALS
from supervisor.linux.prctl import die_with_parent

IMPORT_VARIABLE = "SUPERVISOR_PS_IMPORT"

EXIT_CONFIG = 80
"""As for any contract of the supervisor that cannot be used."""
EXIT_START = 81
"""As for any other failure before the job."""

HELD: Final = frozenset(signal.valid_signals()) - FAULT_SIGNALS - {
    signal.SIGKILL, signal.SIGSTOP,  # cannot be held
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,  # stop, and do not end
    signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH,  # neither
}  # fmt: skip
"""Signals that end a process that does nothing about them."""
_MOST_SAID: Final = 3
"""Lines about signals without effect; more would only be the same."""
_SENT_BY_A_PROCESS: Final = frozenset({0, -1, -6})
"""``si_code``: SI_USER, SI_QUEUE, SI_TKILL (sigaction(2)); with others ``si_pid`` is no sender."""
_SERVED_TYPES = ("ps", "worker")
_SHOWN_BYTES = 120
"""How much of a faulty value a message quotes."""


class ServerError(Exception):
    """The server cannot be started; the message is one line for the person who reads the log."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a cluster, checked: its own endpoint exists and has a port."""

    cluster: Mapping[str, Sequence[str]]
    """Job name → ``host:port`` of each task, in order of the index."""
    type: str
    index: int
    port: int
    protocol: str = "grpc"

    def __str__(self) -> str:
        return f"{self.type} {self.index} of {len(self.cluster[self.type])}"


class Server(Protocol):
    """What is used of ``tf.distribute.Server``."""

    def join(self) -> None: ...


def _quoted(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN_BYTES else text[:_SHOWN_BYTES] + "…"


def read_task(text: str | None) -> Task:
    """The task that ``TF_CONFIG`` describes.

    Raises `ServerError` (80) for the first fault, with what was found and what is expected.
    The job names of the other tasks are not judged: a chief may be called ``chief`` or ``master``.
    """

    def fault(message: str) -> ServerError:
        return ServerError(EXIT_CONFIG, f"TF_CONFIG {message}")

    if not text or not text.strip():
        raise fault("is not set: expected a JSON object with 'cluster' and 'task'")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fault(f"is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise fault(f"must be a JSON object, not {_quoted(config)}")

    cluster = config.get("cluster")
    if not isinstance(cluster, dict) or not cluster:
        raise fault(
            f"must have a 'cluster' with one list of host:port a job, not {_quoted(cluster)}"
        )
    for job, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(isinstance(a, str) for a in addresses):
            raise fault(f"cluster.{job} must be a list of host:port, not {_quoted(addresses)}")

    task = config.get("task")
    if not isinstance(task, dict):
        raise fault(f"must have a 'task' with 'type' and 'index', not {_quoted(task)}")
    kind, index = task.get("type"), task.get("index")
    if kind not in _SERVED_TYPES:
        raise fault(f"task.type must be one of {', '.join(_SERVED_TYPES)}, not {_quoted(kind)}")
    if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 10:
        index = int(index)  # TensorFlow's own resolver takes a number in quotes too
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise fault(f"task.index must be a number from 0, not {_quoted(index)}")

    addresses = cluster.get(kind, [])
    if index >= len(addresses):
        raise fault(f"task {kind} {index} is not in the cluster, which has {len(addresses)} {kind}")
    host, _, port = addresses[index].rpartition(":")
    if not (host and port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise fault(f"cluster.{kind}[{index}] must be host:port, not {_quoted(addresses[index])}")
    protocol = config.get("rpc_layer") or "grpc"
    if not isinstance(protocol, str):
        raise fault(f"rpc_layer must be a string, not {_quoted(protocol)}")
    return Task(cluster=cluster, type=kind, index=index, port=int(port), protocol=protocol)


def read_import_mode(value: str | None) -> Literal["light", "full"]:
    """The setting ``SUPERVISOR_PS_IMPORT``; `ServerError` (80) for an unknown value."""
    if value is None or value in ("", "light"):
        return "light"
    if value == "full":
        return "full"
    raise ServerError(EXIT_CONFIG, f"{IMPORT_VARIABLE} must be light or full, not {_quoted(value)}")


def prepare_environment(environ: MutableMapping[str, str], task: Task) -> None:
    """Sets what TensorFlow reads when it is loaded.

    A parameter server must see no GPU: TensorFlow takes all memory of every GPU it sees, and the
    script on the same host needs it. This overrides what the environment says.
    """
    if task.type == "ps":
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
            environ[name] = "-1"
    # What `import tensorflow` does; parts of the C++ runtime ask for it.
    environ.setdefault("TF2_BEHAVIOR", "1")
    # Without it, gRPC calls to a peer that died wait for it to come back instead of failing
    # (tensorflow.org/tutorials/distribute/parameter_server_training, "Clusters in the real world").
    environ.setdefault("GRPC_FAIL_FAST", "use_caller")
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")


def check_port(port: int) -> None:
    """Raises `ServerError` (81) if ``port`` cannot be listened on.

    Asked before TensorFlow is loaded, because its own answer is "Could not start gRPC server",
    seconds later. Another process can still take the port in between; then that answer comes.
    """
    # TensorFlow binds every interface, whatever address the cluster names, and gRPC takes its
    # 0.0.0.0 for every address of both families (a socket of IPv6, where there is that).
    dual = socket.has_dualstack_ipv6()
    with socket.socket(socket.AF_INET6 if dual else socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As gRPC does: connections of the last attempt in TIME_WAIT are no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if dual:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "is already taken by another process on this machine"
            else:
                reason = f"cannot be listened on: {error.strerror}"
            raise ServerError(EXIT_START, f"port {port} {reason}") from None


def end_with_parent(parent: int) -> None:
    """Has this process killed when its parent ends; ``parent`` is its pid when we began.

    Of a parent that ended before that nothing is known: sweeping that away is the supervisor's
    guardian's part.
    """
    try:
        die_with_parent(parent)
    except OSError as error:
        # A sandbox may refuse; ending with the parent is a safety net, serving is the task.
        _say(f"cannot be tied to its parent: {error.strerror}")


def hold_signals() -> frozenset[int]:
    """Blocks every signal that would end this process but SIGKILL; returns those.

    Threads have the mask of the one that starts them, so TensorFlow's have it too. One that whoever
    started us had ignored stays so (SIGHUP, under nohup), unless it is a plain stop signal.
    """
    ignored = {each for each in HELD if signal.getsignal(each) is signal.SIG_IGN}
    held = HELD - (ignored - {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
    signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return held


class Heeding:
    """A thread that waits for the signals which are held, and knows whose each of them is.

    A platform may signal every process of a container (Slurm without cgroups, systemd's
    ``KillMode=control-group``). The chief then still saves variables that live here: when this
    server ends is for its supervisor to say. Nobody else has that say but

    - the kernel itself: the Ctrl-C of a terminal, where somebody started the server by hand;
    - anybody, once the supervisor is gone and this process is not (`end_with_parent` was refused).

    A parent outside of our PID namespace has the number 0, for us as in its signals. A thread, and
    not a handler: one in Python would never run, because ``join()`` does not return to the
    interpreter, and one in C would need a compiler.
    """

    def __init__(self, parent: int, held: frozenset[int]) -> None:
        self._parent = parent
        self._held = held
        self._said = 0
        self._thread = threading.Thread(target=self._wait, name="signals", daemon=True)

    def begin(self) -> None:
        """Raises `ServerError` (81) where there is no thread to be had."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ServerError(EXIT_START, f"no thread to be had: {error}") from error

    def end(self) -> None:
        """Stop waiting. A signal that came is acted on; one that comes now stays pending."""
        assert self._thread.ident is not None
        signal.pthread_kill(self._thread.ident, signal.SIGUSR1)
        self._thread.join()

    def _wait(self) -> None:
        while (came := signal.sigwaitinfo(self._held)).si_pid != os.getpid():
            if self._counts(came):
                _end_by(came.si_signo)
            if came.si_signo in STOP_SIGNALS and self._said < _MOST_SAID:
                self._said += 1
                name = signal.Signals(came.si_signo).name
                _say_if_it_is_read(
                    f"{name} of process {came.si_pid} is left without effect: the supervisor "
                    f"(pid {self._parent}) says when this server ends"
                )

    def _counts(self, came: signal.struct_siginfo) -> bool:
        if came.si_code not in _SENT_BY_A_PROCESS:
            return True
        return came.si_pid == self._parent or os.getppid() != self._parent


def _end_by(signum: int) -> NoReturn:
    """Die of ``signum``, at once and whatever the other threads do."""
    import ctypes  # noqa: PLC0415  # loaded by then: see prctl.py

    # TensorFlow's coordination service takes SIGTERM for itself, and Python's ``signal.signal`` is
    # for the main thread alone.
    ctypes.CDLL(None).signal(signum, None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # PID 1 does not die of its own signals


def _load_libraries(package: Sequence[str]) -> None:
    """Loads TensorFlow's libraries, a gigabyte, without holding Python's lock.

    An import holds it as long as that takes: 0.3 s, from a cold disk many times that, and no signal
    is heard meanwhile. What is not found here, or cannot be loaded, is for the import to say.
    """
    import ctypes  # noqa: PLC0415  # loaded by then: see prctl.py

    # Unlike ``ctypes.CDLL(path)``, a call of a C function lets the other threads go on.
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.restype, dlopen.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    for path in _libraries(package):
        dlopen(os.fsencode(path), os.RTLD_LAZY)


def _libraries(package: Sequence[str]) -> Iterator[str]:
    for directory in package:
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(directory))
            for first in ("libtensorflow_framework.so", "libtensorflow_cc.so"):
                yield from (os.path.join(directory, n) for n in names if n.startswith(first))


def _light_server(task: Task) -> Server:
    """The server with as little of TensorFlow around it as it needs.

    ``tensorflow/__init__`` imports the whole Python interface and Keras, none of which a server
    uses. A module that has its name and its path, and nothing else, lets the submodules be
    imported without it. These are private modules: if one is missing or different, ImportError or
    AttributeError is raised and the caller has the full import to fall back on.
    """
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("no package tensorflow")
    stub = types.ModuleType("tensorflow")
    stub.__spec__ = spec
    stub.__file__ = spec.origin
    stub.__path__ = list(spec.submodule_search_locations)
    sys.modules["tensorflow"] = stub
    _load_libraries(stub.__path__)
    importlib.import_module("tensorflow.python.pywrap_tensorflow")  # loads the shared libraries
    server_lib: Any = importlib.import_module("tensorflow.python.training.server_lib")
    return _new_server(server_lib.Server, task)


def _full_server(task: Task) -> Server:
    spec = importlib.util.find_spec("tensorflow")
    _load_libraries((spec and spec.submodule_search_locations) or ())
    try:
        tensorflow: Any = importlib.import_module("tensorflow")
    except ImportError as error:
        raise ServerError(EXIT_START, f"TensorFlow cannot be imported: {error}") from error
    return _new_server(tensorflow.distribute.Server, task)


def _new_server(factory: Any, task: Task) -> Server:
    server: Server = factory(
        {job: list(addresses) for job, addresses in task.cluster.items()},
        job_name=task.type,
        task_index=task.index,
        protocol=task.protocol,
    )
    return server


def _start_over_with_full_import(reason: BaseException, heeding: Heeding) -> NoReturn:
    """Replaces this process by itself with the full import: same pid, same parent, same pipes, and
    the same signals held; one that comes meanwhile waits.

    Importing TensorFlow again in the same process is no fallback: its extension modules are in
    memory once and cannot be initialized twice.
    """
    _say(f"light import failed ({type(reason).__name__}: {reason}); trying the full import")
    os.environ[IMPORT_VARIABLE] = "full"
    heeding.end()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell wanted


def _say(message: str) -> None:
    # Whoever reads stderr may be gone; that must not end the server.
    with contextlib.suppress(OSError, ValueError):
        print(safe(f"parameter server: {message}"), file=sys.stderr, flush=True)


def _say_if_it_is_read(message: str) -> None:
    """From the thread that hears of signals, which is not to wait for a reader."""
    writable = select.poll()
    writable.register(2, select.POLLOUT)
    if writable.poll(0):
        with contextlib.suppress(OSError):
            os.write(2, safe(f"parameter server: {message}").encode() + b"\n")


def serve(environ: MutableMapping[str, str], heeding: Heeding) -> NoReturn:
    """Starts the server that ``environ`` describes and serves until a signal ends the process.

    Raises `ServerError` if it cannot be started.
    """
    started_at = time.monotonic()
    task = read_task(environ.get("TF_CONFIG"))
    mode = read_import_mode(environ.get(IMPORT_VARIABLE))
    check_port(task.port)
    prepare_environment(environ, task)
    try:
        if mode == "light":
            try:
                server = _light_server(task)
            except (ImportError, AttributeError) as error:
                _start_over_with_full_import(error, heeding)
        else:
            server = _full_server(task)
    except ServerError:
        raise
    except Exception as error:
        check_port(task.port)
        raise ServerError(EXIT_START, f"port {task.port}: no server: {_one_line(error)}") from error
    took_s = time.monotonic() - started_at
    _say(f"{task} listens on port {task.port} ({mode} import, {took_s:.1f} s)")
    server.join()
    raise ServerError(EXIT_START, "the server ended by itself")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def main() -> int:
    parent = os.getppid()
    if not sys.flags.safe_path and sys.path:
        # Started without -P: the working directory comes first, and is the user's.
        del sys.path[0]
    heeding = Heeding(parent, hold_signals())
    end_with_parent(parent)
    try:
        heeding.begin()
        serve(os.environ, heeding)
    except ServerError as error:
        _say(str(error))
        return error.code


if __name__ == "__main__":
    sys.exit(main())
