"""The parameter server as a process, and the bundled examples on clusters without the supervisor.

Most tests start ``python -P -m supervisor.programs.parameter_server`` the way the supervisor does.
Where the question is not TensorFlow's behaviour, a tiny package of that name stands in for it,
which makes the process start in milliseconds.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from supervisor.programs import parameter_server
from supervisor.programs.parameter_server import ServerError, Task
from tests.helpers.aio import free_port
from tests.helpers.tree import ROOT, SCRIPTS

EXAMPLES = ROOT / "supervisor" / "examples"
JOBS = SCRIPTS / "tensorflow_jobs.py"
SERVER = (sys.executable, "-P", "-m", "supervisor.programs.parameter_server")

START_S = 60.0
"""A loaded machine imports TensorFlow in tens of seconds."""
JOB_S = 120.0
END_S = 10.0


def wait_until(holds: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


def free_ports(number: int) -> list[int]:
    """Not from the kernel's own range: a server binds its port seconds later, and until then an
    outgoing connection of a test beside this one could take it."""
    return [free_port() for _ in range(number)]


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def tf_config(cluster: Mapping[str, Sequence[str]], kind: str, index: int) -> str:
    return json.dumps(
        {"cluster": cluster, "task": {"type": kind, "index": index}, "environment": "cloud"}
    )


def ps_config(port: int) -> str:
    return tf_config({"ps": [f"127.0.0.1:{port}"], "chief": ["127.0.0.1:1"]}, "ps", 0)


def is_alive(pid: int) -> bool:
    """Whether ``pid`` runs; a zombie that nobody has reaped yet does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


@dataclass
class Process:
    popen: subprocess.Popen[bytes]
    log: pathlib.Path

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str, timeout_s: float = START_S) -> None:
        def said_or_ended() -> bool:
            return words in self.text() or self.popen.poll() is not None

        wait_until(said_or_ended, timeout_s, f"{words!r} in the output:\n{self.text()}")
        assert words in self.text(), self.text()

    def end(self, timeout_s: float = JOB_S) -> int:
        """The exit status as `subprocess` gives it; the output is shown if it never comes."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout_s} s:\n{self.text()}")


@dataclass
class Starter:
    """Starts processes, each with a working directory and a log of its own, and ends them all."""

    directory: pathlib.Path
    processes: list[Process] = field(default_factory=list)

    def __call__(self, name: str, argv: Sequence[object], **env: str) -> Process:
        cwd = self.directory / name
        cwd.mkdir(exist_ok=True)
        log = self.directory / f"{name}.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SM_", "SUPERVISOR"))}
        for key in ("TF_CONFIG", "CUDA_VISIBLE_DEVICES"):
            inherited.pop(key, None)
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [str(part) for part in argv],
                cwd=cwd,
                env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        process = Process(popen, log)
        self.processes.append(process)
        return process

    def end_all(self) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.kill()
            process.popen.wait(END_S)
        self.processes.clear()


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    try:
        yield starter
    finally:
        starter.end_all()


# The configuration


GOOD = {"cluster": {"ps": ["a:2223", "b:2223"]}, "task": {"type": "ps", "index": 1}}


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (None, "is not set"),
        ("", "is not set"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], "must be a JSON object, not []"),
        ({}, "must have a 'cluster'"),
        (GOOD | {"cluster": {}}, "must have a 'cluster'"),
        (GOOD | {"cluster": ["a:1"]}, "must have a 'cluster'"),
        (GOOD | {"cluster": {"ps": "a:1"}}, 'cluster.ps must be a list of host:port, not "a:1"'),
        (GOOD | {"cluster": {"ps": [1]}}, "cluster.ps must be a list of host:port, not [1]"),
        (GOOD | {"task": None}, "must have a 'task'"),
        (GOOD | {"task": {"index": 0}}, "task.type must be one of ps, worker, not null"),
        (GOOD | {"task": {"type": "chief", "index": 0}}, 'not "chief"'),
        (GOOD | {"task": {"type": ["ps"], "index": 0}}, 'not ["ps"]'),
        (GOOD | {"task": {"type": "ps"}}, "task.index must be a number from 0, not null"),
        (GOOD | {"task": {"type": "ps", "index": True}}, "not true"),
        (GOOD | {"task": {"type": "ps", "index": -1}}, "not -1"),
        (GOOD | {"task": {"type": "ps", "index": "²"}}, "task.index must be"),
        (GOOD | {"task": {"type": "ps", "index": 2}}, "ps 2 is not in the cluster, which has 2 ps"),
        (GOOD | {"task": {"type": "worker", "index": 0}}, "which has 0 worker"),
        (GOOD | {"cluster": {"ps": ["x", "no-port"]}}, 'must be host:port, not "no-port"'),
        (GOOD | {"cluster": {"ps": ["x", "host:0"]}}, "must be host:port"),
        (GOOD | {"cluster": {"ps": ["x", "host:65536"]}}, "must be host:port"),
        (GOOD | {"cluster": {"ps": ["x", ":2223"]}}, "must be host:port"),
        (GOOD | {"cluster": {"ps": ["x", "host:²"]}}, "must be host:port"),
        (GOOD | {"rpc_layer": 1}, "rpc_layer must be a string, not 1"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_with_its_fault(
    config: object, complaint: str
) -> None:
    text = config if config is None or isinstance(config, str) else json.dumps(config)
    with pytest.raises(ServerError) as caught:
        parameter_server.read_task(text)
    assert caught.value.code == 80
    message = str(caught.value)
    assert message.startswith("TF_CONFIG ")
    assert complaint in message
    assert "\n" not in message
    assert len(message) < 300


def test_a_long_faulty_value_is_not_quoted_whole() -> None:
    with pytest.raises(ServerError) as caught:
        parameter_server.read_task(json.dumps(["x" * 10_000]))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("chief", ["chief", "master"])
def test_the_task_of_a_cluster_whatever_its_chief_is_called(chief: str) -> None:
    cluster = {chief: ["a:2222"], "worker": ["b:2222"], "ps": ["a:2223", "[::1]:2224"]}
    assert parameter_server.read_task(tf_config(cluster, "ps", 1)) == Task(cluster, "ps", 1, 2224)


def test_a_worker_and_an_index_in_quotes_are_served_too() -> None:
    text = json.dumps({"cluster": {"worker": ["b:1"]}, "task": {"type": "worker", "index": "0"}})
    task = parameter_server.read_task(text)
    assert (task.type, task.index, str(task)) == ("worker", 0, "worker 0 of 1")


def test_a_parameter_server_sees_no_gpu_and_a_worker_sees_what_it_was_given() -> None:
    ps, worker = {"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "0,1"}
    parameter_server.prepare_environment(ps, Task({"ps": ["a:1"]}, "ps", 0, 1))
    parameter_server.prepare_environment(worker, Task({"worker": ["a:1"]}, "worker", 0, 1))
    assert (ps["CUDA_VISIBLE_DEVICES"], ps["HIP_VISIBLE_DEVICES"]) == ("-1", "-1")
    assert worker["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "HIP_VISIBLE_DEVICES" not in worker


# The process, without TensorFlow


STAND_IN = """
import os, signal
print("imported by", os.getpid(), "gpus", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
class Server:
    def __init__(self, cluster, job_name, task_index, protocol):
        print("serving", job_name, task_index, protocol, sorted(cluster), flush=True)
    def join(self):
        while True:
            signal.pause()
"""


def stand_in(
    directory: pathlib.Path, *, top: str = STAND_IN, private: str | None = STAND_IN
) -> str:
    """A package ``tensorflow`` with ``private`` as its server module; the PYTHONPATH to it."""
    package = directory / "site" / "tensorflow"
    training = package / "python" / "training"
    training.mkdir(parents=True)
    distribute = "\nclass distribute:\n    Server = Server\n" if top is STAND_IN else ""
    (package / "__init__.py").write_text(top + distribute)
    (package / "python" / "__init__.py").touch()
    (package / "python" / "pywrap_tensorflow.py").touch()
    (training / "__init__.py").touch()
    if private is not None:
        (training / "server_lib.py").write_text(private)
    return f"{package.parent}{os.pathsep}{ROOT}"


@pytest.mark.parametrize(
    ("env", "code", "complaint"),
    [
        ({}, 80, "TF_CONFIG is not set: expected a JSON object with 'cluster' and 'task'"),
        ({"TF_CONFIG": '{"cluster"'}, 80, "TF_CONFIG is not JSON"),
        (
            {"TF_CONFIG": ps_config(2223), "SUPERVISOR_PS_IMPORT": "lite"},
            80,
            'SUPERVISOR_PS_IMPORT must be light or full, not "lite"',
        ),
    ],
)
def test_a_bad_start_is_one_line_and_a_code(
    start: Starter, env: dict[str, str], code: int, complaint: str
) -> None:
    server = start("ps", SERVER, **env)
    assert server.end(END_S) == code
    (line,) = server.text().splitlines()
    assert line.startswith("parameter server: ")
    assert complaint in line


def test_a_port_that_is_taken_is_named_before_tensorflow_is_loaded(start: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        server = start("ps", SERVER, TF_CONFIG=ps_config(port))
        assert server.end(END_S) == 81
    said = f"parameter server: port {port} is already taken by another process on this machine\n"
    assert server.text() == said


def test_a_port_in_time_wait_is_no_obstacle() -> None:
    """A server that is started again at once meets connections of its predecessor."""
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)) as listener,
        socket.create_connection(("127.0.0.1", port)),
    ):
        # The side that closes first keeps the port in TIME_WAIT.
        listener.accept()[0].close()
    parameter_server.check_port(port)


def test_the_light_import_leaves_the_top_of_tensorflow_alone(
    start: Starter, tmp_path: pathlib.Path
) -> None:
    port = free_port()
    path = stand_in(tmp_path, top="raise SystemExit('all of TensorFlow was imported')")
    server = start(
        "ps", SERVER, TF_CONFIG=ps_config(port), PYTHONPATH=path, CUDA_VISIBLE_DEVICES="0"
    )
    server.wait_for("listens")
    assert f"imported by {server.popen.pid} gpus -1" in server.text()
    assert "serving ps 0 grpc ['chief', 'ps']" in server.text()
    assert f"parameter server: ps 0 of 1 listens on port {port} (light import" in server.text()


@pytest.mark.parametrize(
    ("private", "error"),
    [
        pytest.param(None, "ModuleNotFoundError", id="module is gone"),
        pytest.param("Server = None\ndel Server", "AttributeError", id="class is gone"),
        pytest.param("from os import no_such_name", "ImportError", id="import fails inside"),
    ],
)
def test_the_full_import_takes_over_where_the_light_one_fails(
    start: Starter, tmp_path: pathlib.Path, private: str | None, error: str
) -> None:
    port = free_port()
    path = stand_in(tmp_path, private=private)
    server = start("ps", SERVER, TF_CONFIG=ps_config(port), PYTHONPATH=path)
    server.wait_for("listens")
    assert f"light import failed ({error}: " in server.text()
    # The same process: the supervisor knows it by this pid.
    assert f"imported by {server.popen.pid} gpus -1" in server.text()
    assert "(full import" in server.text()
    server.popen.terminate()
    assert server.end(END_S) == -signal.SIGTERM


def test_no_tensorflow_is_one_line_and_a_code(start: Starter, tmp_path: pathlib.Path) -> None:
    port = free_port()
    path = stand_in(tmp_path, top="raise ImportError('libcudart.so.11: no such file')")
    (tmp_path / "site" / "tensorflow" / "python" / "pywrap_tensorflow.py").unlink()
    server = start("ps", SERVER, TF_CONFIG=ps_config(port), PYTHONPATH=path)
    assert server.end(END_S) == 81
    *_, last = server.text().splitlines()
    expected = "TensorFlow cannot be imported: libcudart.so.11: no such file"
    assert last == f"parameter server: {expected}"


def test_a_server_that_cannot_be_made_is_one_line_and_a_code(
    start: Starter, tmp_path: pathlib.Path
) -> None:
    port = free_port()
    path = stand_in(
        tmp_path, private=STAND_IN.replace("print(", "raise ValueError('no\\nprotocol') or print(")
    )
    server = start("ps", SERVER, TF_CONFIG=ps_config(port), PYTHONPATH=path)
    assert server.end(END_S) == 81
    assert server.text() == f"parameter server: port {port}: no server: ValueError: no\n"


def test_files_of_the_user_in_the_working_directory_are_not_imported(
    start: Starter, tmp_path: pathlib.Path
) -> None:
    port = free_port()
    (tmp_path / "ps").mkdir()
    for name in ("tensorflow", "supervisor", "json", "ctypes"):
        (tmp_path / "ps" / f"{name}.py").write_text("raise SystemExit('user code ran')")
    server = start("ps", SERVER, TF_CONFIG=ps_config(port), PYTHONPATH=stand_in(tmp_path))
    server.wait_for("listens")
    assert "user code" not in server.text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_stop_signals_end_it_even_where_the_parent_ignored_and_blocked_them(
    start: Starter, tmp_path: pathlib.Path, signum: signal.Signals
) -> None:
    port = free_port()
    stubborn = (
        "import os, signal, sys\n"
        f"signal.signal({signum:d}, signal.SIG_IGN)\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{signum:d}])\n"
        "os.execv(sys.executable, sys.argv[1:])\n"
    )
    server = start(
        "ps",
        (sys.executable, "-c", stubborn, *SERVER),
        TF_CONFIG=ps_config(port),
        PYTHONPATH=stand_in(tmp_path),
    )
    server.wait_for("listens")
    server.popen.send_signal(signum)
    assert server.end(END_S) == -signum


def send_from_a_stranger(pid: int, *signums: int) -> None:
    """From a process that is not its parent; each one is there when this returns."""
    sending = "import os, sys; [os.kill(int(sys.argv[1]), int(s)) for s in sys.argv[2:]]"
    subprocess.run([sys.executable, "-c", sending, str(pid), *map(str, signums)], check=True)


DEADLY = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGXCPU, signal.SIGPIPE, signal.SIGXFSZ),
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGRTMAX),
)
"""And a few that are not, beside them."""


def pending(pid: int) -> int:
    """How many of its signals nobody has taken."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^ShdPnd:\s+(\w+)$", status, re.MULTILINE)
    assert found
    return int(found[1], 16).bit_count()


def test_signals_of_strangers_are_without_effect(start: Starter, tmp_path: pathlib.Path) -> None:
    """A platform that signals every process of a container ended it while the chief saved."""
    port = free_port()
    env = {"TF_CONFIG": ps_config(port), "PYTHONPATH": stand_in(tmp_path)}
    server = start("ps", SERVER, **env)
    server.wait_for("listens")
    pid = server.popen.pid
    for _ in range(3):
        send_from_a_stranger(pid, *DEADLY)
        wait_until(lambda: pending(pid) == 0, END_S, "it has taken them")
    # What it thinks of the last one is known when it ends of the next: one thread does both.
    server.popen.send_signal(signal.SIGUSR1)
    assert server.end(END_S) == -signal.SIGUSR1
    said = [line for line in server.text().splitlines() if "without effect" in line]
    assert len(said) == 3
    assert re.fullmatch(
        rf"parameter server: SIG\w+ of process \d+ is left without effect: the supervisor "
        rf"\(pid {os.getpid()}\) says when this server ends",
        said[0],
    )


def test_a_stranger_has_no_effect_while_it_starts_and_the_parent_has(
    start: Starter, tmp_path: pathlib.Path
) -> None:
    port = free_port()
    slow = "import time\nprint('importing', flush=True)\nwhile True:\n    time.sleep(0.01)\n"
    env = {"TF_CONFIG": ps_config(port), "PYTHONPATH": stand_in(tmp_path, private=slow)}
    server = start("ps", SERVER, **env)
    server.wait_for("importing")
    send_from_a_stranger(server.popen.pid, signal.SIGTERM, signal.SIGUSR1)
    server.wait_for("left without effect")
    server.popen.terminate()
    assert server.end(END_S) == -signal.SIGTERM


def test_signals_are_held_before_anything_is_imported(
    start: Starter, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, signal\n"
        "importing = builtins.__import__\n"
        "def imported(name, globals=None, *rest, **named):\n"
        "    if name == 'contextlib' and (globals or {}).get('__name__') == '__main__':\n"
        "        print('first import', flush=True)\n"
        "        while not signal.sigpending(): pass\n"
        "    return importing(name, globals, *rest, **named)\n"
        "builtins.__import__ = imported\n"
    )
    path = f"{tmp_path}{os.pathsep}{stand_in(tmp_path)}"
    server = start("ps", SERVER, TF_CONFIG=ps_config(free_port()), PYTHONPATH=path)
    server.wait_for("first import")
    send_from_a_stranger(server.popen.pid, signal.SIGUSR1, signal.SIGTERM)
    server.wait_for("listens")
    server.popen.send_signal(signal.SIGHUP)
    assert server.end(END_S) == -signal.SIGHUP


def test_a_signal_that_comes_while_it_starts_over_is_kept(
    start: Starter, tmp_path: pathlib.Path
) -> None:
    port = free_port()
    path = stand_in(tmp_path, private=None)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "executed = os.execv\n"
        "def execv(*words):\n"
        "    print('starting over', flush=True)\n"
        "    while not signal.sigpending(): pass\n"
        "    executed(*words)\n"
        "os.execv = execv\n"
    )
    path = f"{tmp_path}{os.pathsep}{path}"
    server = start("ps", SERVER, TF_CONFIG=ps_config(port), PYTHONPATH=path)
    server.wait_for("starting over")
    server.popen.send_signal(signal.SIGQUIT)
    assert server.end(END_S) == -signal.SIGQUIT


def test_where_its_supervisor_is_gone_everybody_may_end_it(
    start: Starter, tmp_path: pathlib.Path
) -> None:
    """A sandbox may refuse that it is tied to its parent."""
    port = free_port()
    (tmp_path / "sitecustomize.py").write_text(
        "from supervisor.linux import prctl\n"
        "def refused(parent): raise OSError(1, 'Operation not permitted')\n"
        "prctl.die_with_parent = refused\n"
    )
    parent = start(
        "parent",
        (sys.executable, "-c", PARENT, *SERVER),
        TF_CONFIG=ps_config(port),
        PYTHONPATH=f"{tmp_path}{os.pathsep}{stand_in(tmp_path)}",
    )
    server = child_of(parent)
    parent.wait_for("listens")
    assert "cannot be tied to its parent: Operation not permitted" in parent.text()
    send_from_a_stranger(server, signal.SIGTERM)
    parent.wait_for("left without effect")
    parent.popen.kill()
    parent.popen.wait(END_S)
    send_from_a_stranger(server, signal.SIGTERM)
    wait_until(lambda: not is_alive(server), END_S, "the server ended")


PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print("child", child.pid, flush=True)
child.wait()
"""


def child_of(parent: Process) -> int:
    parent.wait_for("child ")
    found = re.search(r"^child (\d+)$", parent.text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_it_ends_with_its_parent(start: Starter, tmp_path: pathlib.Path) -> None:
    port = free_port()
    parent = start(
        "parent",
        (sys.executable, "-c", PARENT, *SERVER),
        TF_CONFIG=ps_config(port),
        PYTHONPATH=stand_in(tmp_path),
    )
    server = child_of(parent)
    parent.wait_for("listens")
    assert is_alive(server)
    parent.popen.kill()
    wait_until(lambda: not is_alive(server), END_S, "the server ended with its parent")


def test_a_parent_that_is_gone_already_is_noticed(start: Starter) -> None:
    """The parent may end between the first look at its pid and the arming of the signal."""
    code = (
        "from supervisor.programs import parameter_server as p;"
        "p.end_with_parent(2**22 + 1); print('on')"
    )
    orphan = start("orphan", (sys.executable, "-c", code))
    assert orphan.end(END_S) == -signal.SIGKILL
    assert orphan.text() == ""


# The process, with TensorFlow


CLIENT = """
import json, os
import tensorflow as tf
cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
tf.config.experimental_connect_to_cluster(
    tf.train.ClusterSpec(cluster), job_name="chief", task_index=0)
with tf.device("/job:ps/task:0"):
    variable = tf.Variable(40.0)
variable.assign_add(2.0)
print("value", float(variable), variable.device, flush=True)
kinds = {d.device_type for d in tf.config.list_logical_devices() if "/job:ps/" in d.name}
print("devices of the server", sorted(kinds), flush=True)
"""


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", ["light", "full", "light that fails"])
def test_it_serves_a_variable_to_a_chief_and_ends_at_once(
    start: Starter, tmp_path: pathlib.Path, mode: str
) -> None:
    ps, chief = free_ports(2)
    cluster = {"chief": [f"127.0.0.1:{chief}"], "ps": [f"127.0.0.1:{ps}"]}
    env = {
        "TF_CONFIG": tf_config(cluster, "ps", 0),
        "SUPERVISOR_PS_IMPORT": mode.split(maxsplit=1)[0],
    }
    if mode == "light that fails":
        # As if a coming version had no such module; only until the process starts over.
        (tmp_path / "sitecustomize.py").write_text(
            "import os, sys\n"
            "if os.environ['SUPERVISOR_PS_IMPORT'] == 'light':\n"
            "    sys.modules['tensorflow.python.training.server_lib'] = None\n"
        )
        env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    server = start("ps", SERVER, **env)
    server.wait_for("listens")
    assert is_open(ps)
    assert ("light import failed (" in server.text()) == (mode == "light that fails")
    assert f"({'light' if mode == 'light' else 'full'} import" in server.text()

    client = start("chief", (sys.executable, "-c", CLIENT), TF_CONFIG=env["TF_CONFIG"])
    assert client.end() == 0, client.text()
    assert "value 42.0 /job:ps/replica:0/task:0/device:CPU:0" in client.text()
    assert "devices of the server ['CPU']" in client.text()

    # Whoever signals every process of the container does not end it, its supervisor does.
    send_from_a_stranger(server.popen.pid, *DEADLY)
    server.wait_for("left without effect")
    client = start("chief", (sys.executable, "-c", CLIENT), TF_CONFIG=env["TF_CONFIG"])
    assert client.end() == 0, client.text()
    assert "value 42.0" in client.text()

    server.popen.terminate()
    assert server.end(END_S) == -signal.SIGTERM
    assert not is_open(ps)


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", ["light", "full"])
def test_it_hears_its_parent_while_tensorflow_is_loaded(
    start: Starter, tmp_path: pathlib.Path, mode: str
) -> None:
    """Loading the libraries takes longer than all else, and held Python's lock all the time."""
    port = free_port()
    server = start("ps", SERVER, TF_CONFIG=ps_config(port), SUPERVISOR_PS_IMPORT=mode)

    def is_loading() -> bool:
        maps = pathlib.Path(f"/proc/{server.popen.pid}/maps").read_text()
        return "libtensorflow_cc.so" in maps

    wait_until(is_loading, START_S, "the large library is being mapped")
    send_from_a_stranger(server.popen.pid, signal.SIGTERM, signal.SIGUSR1)

    def has_ended() -> bool:
        server.popen.terminate()  # again: it merges with a stranger's that is pending
        return server.popen.poll() is not None

    wait_until(has_ended, END_S / 2, "the parent's signal is heard")
    assert server.end(END_S) == -signal.SIGTERM
    assert "listens" not in server.text()


@pytest.mark.tensorflow
def test_a_chief_called_master_trains_with_sessions_and_the_server_ends_with_its_parent(
    start: Starter,
) -> None:
    ports = free_ports(3)
    master, worker, ps = (f"127.0.0.1:{port}" for port in ports)
    cluster = {"master": [master], "worker": [worker], "ps": [ps]}
    parent = start(
        "ps", (sys.executable, "-c", PARENT, *SERVER), TF_CONFIG=tf_config(cluster, "ps", 0)
    )
    server = child_of(parent)

    def host(kind: str) -> Process:
        argv = (sys.executable, JOBS, "tf1", "--steps", "20")
        return start(f"{kind}-0", argv, TF_CONFIG=tf_config(cluster, kind, 0))

    chief = host("master")
    # A worker that finds the variables not ready looks again 30 s later.
    chief.wait_for("step 1\n")
    late = host("worker")
    assert chief.end() == 0, chief.text()
    assert late.end() == 0, late.text()
    assert "total is on /job:ps" in chief.text()
    assert re.search(r"master 0 made [1-9]\d* steps", chief.text())

    assert is_alive(server)
    parent.popen.kill()
    wait_until(lambda: not is_alive(server), END_S, "the server ended with its parent")


# The examples


def losses(text: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"^step \d+/\d+ loss ([\d.]+)$", text, re.MULTILINE)]


def steps_made(text: str) -> list[int]:
    return [int(step) for step in re.findall(r"^step (\d+)/", text, re.MULTILINE)]


def files_below(directory: pathlib.Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


RELOAD = """
import importlib.util, sys
import tensorflow as tf
spec = importlib.util.spec_from_file_location("example", sys.argv[1])
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
points, labels = example.spirals(500, seed=3)
served = tf.saved_model.load(sys.argv[2]).signatures["serving_default"]
guesses = tf.argmax(served(points=points)["logits"], axis=1, output_type=tf.int32)
print("right", float(tf.reduce_mean(tf.cast(guesses == labels, tf.float32))), flush=True)
"""


def check_model(start: Starter, script: pathlib.Path, model: pathlib.Path) -> None:
    """The SavedModel predicts in a process that knows nothing of the training."""
    reader = start("reader", (sys.executable, "-c", RELOAD, script, model))
    assert reader.end() == 0, reader.text()
    found = re.search(r"right ([\d.]+)", reader.text())
    assert found
    assert float(found[1]) > 0.9


# Relative paths: whatever a process writes, it writes below its own working directory.
PLACES = {"SM_MODEL_DIR": "model", "SUPERVISOR_CHECKPOINT_DIR": "checkpoints"}


def start_parameter_server_job(start: Starter, script: pathlib.Path, *args: str) -> list[Process]:
    """Three hosts: a server on each, the chief on the first, workers on the others."""
    ports = [f"127.0.0.1:{port}" for port in free_ports(6)]
    cluster = {"chief": ports[:1], "worker": ports[1:3], "ps": ports[3:]}
    for index in range(3):
        start(f"ps-{index}", SERVER, TF_CONFIG=tf_config(cluster, "ps", index), **PLACES)
    return [
        start(
            f"{kind}-{index}",
            (sys.executable, script, *args),
            TF_CONFIG=tf_config(cluster, kind, index),
            **PLACES,
        )
        for kind, index in (("chief", 0), ("worker", 0), ("worker", 1))
    ]


@pytest.mark.tensorflow
def test_the_parameter_server_example_stops_resumes_and_saves_what_it_learned(
    start: Starter, tmp_path: pathlib.Path
) -> None:
    script = EXAMPLES / "parameter_server_strategy.py"
    chief, *_ = start_parameter_server_job(start, script, "--steps", "100000")
    chief.wait_for("step 100/", JOB_S)
    chief.popen.terminate()
    assert chief.end() == 0, chief.text()
    first = losses(chief.text())
    stopped_at = steps_made(chief.text())[-1]
    assert f"stopped by signal 15 at step {stopped_at}, saved checkpoints/" in chief.text()
    # Servers and workers do not notice, and are ended by whoever started them.
    others = start.processes[:3] + start.processes[4:]
    assert [p.popen.poll() for p in others] == [None] * 5
    start.end_all()

    steps = stopped_at + 400
    chief, *_ = start_parameter_server_job(start, script, "--steps", str(steps), "--save-every=150")
    assert chief.end() == 0, chief.text()
    resumed = f"resumed from checkpoints/ckpt-{stopped_at} at step {stopped_at}"
    assert resumed in chief.text()
    second = losses(chief.text())
    assert steps_made(chief.text())[0] == stopped_at + 50
    assert second[0] < first[0]
    assert second[-1] < 0.3 * first[0]
    assert "saved model to model/1" in chief.text()
    start.end_all()

    # Everything was written by the chief, although the variables were on the servers.
    written = files_below(tmp_path / "chief-0")
    assert f"checkpoints/ckpt-{steps}.index" in written
    assert "model/1/saved_model.pb" in written
    for name in ("ps-0", "ps-1", "ps-2", "worker-0", "worker-1"):
        assert files_below(tmp_path / name) == []
    check_model(start, script, tmp_path / "chief-0" / "model" / "1")


def start_mirrored_job(start: Starter, script: pathlib.Path, *args: str) -> list[Process]:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    return [
        start(
            f"worker-{index}",
            (sys.executable, script, *args),
            TF_CONFIG=tf_config(cluster, "worker", index),
            TMPDIR=str(start.directory / f"worker-{index}"),
            # TensorFlow compiles there what its autograph generates, and leaves that behind.
            PYTHONDONTWRITEBYTECODE="1",
            **PLACES,
        )
        for index in range(2)
    ]


@pytest.mark.tensorflow
def test_the_mirrored_example_stops_everywhere_resumes_and_saves_what_it_learned(
    start: Starter, tmp_path: pathlib.Path
) -> None:
    script = EXAMPLES / "multi_worker_mirrored_strategy.py"
    chief, worker = start_mirrored_job(start, script, "--steps", "100000")
    chief.wait_for("step 100/", JOB_S)
    # One is enough: all leave at the same step.
    worker.popen.terminate()
    assert worker.end() == 0, worker.text()
    assert chief.end() == 0, chief.text()
    first = losses(chief.text())
    stopped_at = steps_made(chief.text())[-1]
    for process in (chief, worker):
        assert f"stopped by a signal at step {stopped_at}, checkpoint saved" in process.text()
    assert files_below(tmp_path / "worker-1") == []

    steps = stopped_at + 400
    chief, worker = start_mirrored_job(start, script, "--steps", str(steps))
    assert chief.end() == 0, chief.text()
    assert worker.end() == 0, worker.text()
    resumed = f"resumed from checkpoints/ckpt-{stopped_at} at step {stopped_at}"
    assert resumed in chief.text()
    second = losses(chief.text())
    assert second[0] < first[0]
    assert second[-1] < 0.3 * first[0]
    written = files_below(tmp_path / "worker-0")
    assert f"checkpoints/ckpt-{steps}.index" in written
    assert "model/1/saved_model.pb" in written
    # The other worker took part in every save and left nothing behind.
    assert files_below(tmp_path / "worker-1") == []
    check_model(start, script, tmp_path / "worker-0" / "model" / "1")


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["parameter_server_strategy", "multi_worker_mirrored_strategy"])
def test_the_examples_run_alone_on_one_host(
    start: Starter, tmp_path: pathlib.Path, name: str
) -> None:
    # The arguments as hyperparameters give them, the platform's own included.
    arguments = ("--learning_rate", "0.2", "--model_dir", "s3://bucket/job", "--steps", "100")
    alone = start("alone", (sys.executable, EXAMPLES / f"{name}.py", *arguments), **PLACES)
    assert alone.end() == 0, alone.text()
    values = losses(alone.text())
    assert values[-1] < values[0]
    written = files_below(tmp_path / "alone")
    assert "checkpoints/ckpt-100.index" in written
    assert "model/1/saved_model.pb" in written
