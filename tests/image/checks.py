"""What is checked of the image, each on containers of its own."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self

from supervisor.engines.kubernetes import TERMINATION_LOG
from supervisor.life.outcome import EXIT_ELSEWHERE
from tests.helpers import wheels
from tests.helpers.job import COMMAND, environment
from tests.helpers.netns import SWITCHES
from tests.helpers.tree import ROOT
from tests.image.podman import Container, Podman, Timed, remove_groups

BASE: Final = "localhost/python:3.12-slim"
IMAGE: Final = "localhost/supervisor-training:checked"
MPI_IMAGE: Final = "localhost/supervisor-training:checked-mpi"
NETWORK: Final = "job"
DOMAIN: Final = "dns.podman"
"""What podman's name server puts behind the names of a network: stands for a headless Service."""
HOSTS: Final = ("algo-1", "algo-2", "algo-3")
TRAINER: Final = 1000
EXAMPLE: Final = ROOT / "supervisor" / "examples" / "parameter_server_strategy.py"

KUBELET: Final = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
SERVICES: Final = {
    "SUPERVISOR_SERVICE_HOST": "10.0.0.2",
    "SUPERVISOR_SERVICE_PORT": "80",
    "SUPERVISOR_PORT": "tcp://10.0.0.2:80",
    "SUPERVISOR_PORT_80_TCP": "tcp://10.0.0.2:80",
    "SUPERVISOR_STATUS_PORT": "tcp://10.0.0.3:80",
    "SUPERVISOR_STATUS_SERVICE_HOST": "10.0.0.3",
}
"""What Kubernetes puts into pods beside Services called supervisor and supervisor-status."""

STOPPABLE: Final = """
import signal, sys, time

def stop(signum, frame):
    print(f"script: got {signal.Signals(signum).name}", flush=True)  # whole: lines mix in a log
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
print("script: runs", flush=True)
while True:
    time.sleep(1)
"""
STOP_LIMIT_S: Final = 30.0

GREEDY: Final = """
blocks = []
while True:
    blocks.append(bytearray(16 << 20))
"""

FAILING: Final = """
import os, time
if os.environ["JOB_COMPLETION_INDEX"] == "1":
    raise ValueError("loss is NaN")
time.sleep(600)
"""

RANKS: Final = """
import os, socket
print(f"rank {os.environ['OMPI_COMM_WORLD_RANK']} on {socket.gethostname()}", flush=True)
"""

IMPORTS: Final = """
import os, present_here
print(f"script: runs as {os.getuid()} {present_here.__file__}", flush=True)
"""


class Stage:
    """Where one check plays: a network, and containers on it. A context manager that ends them."""

    def __init__(self, podman: Podman, directory: pathlib.Path) -> None:
        self.podman = podman
        self.directory = directory
        """For /opt/ml of each host, and for what is mounted; the logs are left in it."""
        self._started: list[Container] = []

    def __enter__(self) -> Self:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self._clear()  # of a call that was killed
        self.podman("network", "create", NETWORK)
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._started:
            (self.directory / f"{each.name}.log").write_text(each.log, encoding="utf-8")
        self._clear()

    def _clear(self) -> None:
        quiet = ("--quiet", "--no-trunc")
        made = (self.podman("ps", "--all", *quiet) + self.podman("pod", "ps", *quiet)).split()
        self.podman("pod", "rm", "--all", "--force", "--time", "0")
        self.podman("rm", "--all", "--force", "--time", "0")
        self.podman.code("network", "rm", "--force", NETWORK)
        remove_groups(made)

    def place(self, name: str) -> pathlib.Path:
        """A directory of the user's own."""
        path = self.directory / name
        path.mkdir()
        os.chown(path, TRAINER, TRAINER)
        return path

    def write(self, name: str, text: str) -> pathlib.Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def host(
        self,
        name: str,
        script: str,
        *,
        hosts: Sequence[str] = (),
        strategy: str = "none",
        owner: int = TRAINER,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Container:
        """A container as a host of a job that SageMaker's files describe; it has been started."""
        base = self.directory / name
        wanted = {"sagemaker_program": "train.py"}
        if strategy in SWITCHES:
            wanted[SWITCHES[strategy]] = "true"
        resources = {"current_host": name, "hosts": list(hosts or (name,))}
        config = f"{name}/input/config"
        self.write(f"{config}/hyperparameters.json", json.dumps(wanted))
        self.write(f"{config}/resourceconfig.json", json.dumps(resources))
        self.write(f"{name}/code/train.py", script)
        for directory, _, files in os.walk(base):
            for path in (directory, *(os.path.join(directory, file) for file in files)):
                os.chown(path, owner, owner)
        mounted = ("--volume", f"{base}:/opt/ml")
        return self.run(name, *mounted, *options, place=base, **(env or {}))

    def run(
        self,
        name: str,
        *options: str,
        image: str = IMAGE,
        place: pathlib.Path | None = None,
        arguments: Sequence[str] = (),
        **env: str,
    ) -> Container:
        variables = [word for item in env.items() for word in ("--env", "=".join(item))]
        named = ("--name", name, "--hostname", name, "--network", NETWORK, "--network-alias", name)
        self.podman("run", "--detach", *named, *variables, *options, image, *arguments)
        return self.started(name, place)

    def pods(
        self, script: str, strategy: str, *arguments: str, first: Mapping[str, str] | None = None
    ) -> list[Container]:
        """The pods of the Job that ``supervisor launch kubernetes`` prints, as its controller would
        make them and the kubelet start them; ``first``: more variables for the one of index 0."""
        program = self.write("train.py", script)
        command = (
            *(*COMMAND, "launch", "kubernetes", "--format", "json", "--image", IMAGE),
            *("--hosts", "3", "--name", "train", "--strategy", strategy),
            *("--stop-limit-s", f"{STOP_LIMIT_S:g}", "--", "/app/train.py", *arguments),
        )
        printed = subprocess.run(
            command, stdout=subprocess.PIPE, env=environment(), timeout=60, check=True
        ).stdout
        job = next(each for each in json.loads(printed)["items"] if each["kind"] == "Job")
        made = []
        for index in range(job["spec"]["completions"]):
            name = f"train-{index}"
            message = self.write(f"{name}.message", "")
            message.chmod(0o666)  # as the kubelet makes it
            variables = {**KUBELET, "JOB_COMPLETION_INDEX": str(index)}
            if index == 0:
                variables |= first or {}
            files = {"/app/train.py": program, TERMINATION_LOG: message}
            pod = _pod(job["spec"]["template"], name, variables, files, self.place(name))
            path = self.write(f"{name}.json", json.dumps(pod))
            self.podman("kube", "play", "--network", NETWORK, str(path))
            made.append(self.started(f"{name}-{pod['spec']['containers'][0]['name']}"))
        return made

    def message(self, index: int) -> str:
        """What the kubelet would show as the reason why a pod of the job ended."""
        return (self.directory / f"train-{index}.message").read_text(encoding="utf-8").strip()

    def started(self, name: str, place: pathlib.Path | None = None) -> Container:
        """A container that somebody has started; it is looked after from now on."""
        made = Container(self.podman, name, place)
        self._started.append(made)
        return made


def _pod(
    template: Mapping[str, Any],
    name: str,
    variables: Mapping[str, str],
    files: Mapping[str, pathlib.Path],
    job_dir: pathlib.Path,
) -> Any:
    """What the template becomes. podman plays pods alone, and not all of them: here names have its
    domain, an ``emptyDir`` is a directory of ours, no port is one of the machine's, and there
    are no probes, for nobody asks."""
    pod: Any = json.loads(json.dumps(template))
    pod.update(apiVersion="v1", kind="Pod")
    pod["metadata"]["name"] = pod["spec"]["hostname"] = name
    container = pod["spec"]["containers"][0]
    for unknown in ("livenessProbe", "readinessProbe", "ports"):
        del container[unknown]
    env = {each["name"]: each.get("value", "default") for each in container["env"]}
    assert env["SUPERVISOR_HOST_DOMAIN"] == "train.$(POD_NAMESPACE).svc"
    env |= {"SUPERVISOR_HOST_DOMAIN": DOMAIN, **variables}
    container["env"] = [{"name": key, "value": value} for key, value in env.items()]
    container["imagePullPolicy"] = "Never"
    for volume in pod["spec"]["volumes"]:
        assert volume.pop("emptyDir") == {}
        volume["hostPath"] = {"path": str(job_dir), "type": "Directory"}
    for number, (place, path) in enumerate(files.items()):
        volume = {"name": f"file-{number}", "hostPath": {"path": str(path), "type": "File"}}
        pod["spec"]["volumes"].append(volume)
        container["volumeMounts"].append({"name": volume["name"], "mountPath": place})
    return pod


def image(stage: Stage) -> str:
    """What the image says of itself, and that it has what was tested."""
    config = stage.podman.inspect("image", IMAGE)["Config"]
    wanted = {
        "User": str(TRAINER),
        "StopSignal": "SIGTERM",
        "Entrypoint": ["supervisor"],
        "Cmd": ["train"],
        "WorkingDir": "/opt/ml",
    }
    found = {key: config.get(key) for key in wanted}
    assert found == wanted, f"{found}, not {wanted}"
    ran = ("run", "--rm", "--network", "none", "--entrypoint")
    frozen = stage.podman(*ran, "pip", IMAGE, "freeze").lower().replace("_", "-").splitlines()
    constraints = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = [line for line in constraints if not line.startswith("#")]
    others = sorted({line for line in tested if line not in frozen})
    assert not others, f"{others} were tested, and the image has {frozen}"
    stage.podman(*ran[:-1], IMAGE, "doctor")
    return f"user {found['User']}, {len(tested)} packages in the versions that were tested"


def example(stage: Stage) -> str:
    """Three containers train the example with parameter servers, by a list of their names."""
    hosts = []
    for name in HOSTS:
        place = stage.place(name)
        mounts = ("--volume", f"{EXAMPLE}:/job/train.py:ro", "--volume", f"{place}:/opt/ml")
        arguments = ("train", "/job/train.py", "--steps", "600")
        listed = {"SUPERVISOR_HOSTS": ",".join(HOSTS)}
        hosts.append(stage.run(name, *mounts, place=place, arguments=arguments, **listed))
    accuracy = _trained(stage, hosts)
    assert (stage.directory / HOSTS[0] / "model" / "1" / "saved_model.pb").exists()
    return f"exit 0 everywhere, healthy meanwhile, accuracy {accuracy}, model saved"


def _trained(stage: Stage, hosts: Sequence[Container]) -> str:
    """The example's job, seen to its end."""
    hosts[0].wait_for("step 50/600", 300)
    probe = stage.podman.inspect("image", IMAGE)["Healthcheck"]["Test"]
    for host in hosts:
        stage.podman("exec", host.name, *probe[1:])
    for host in hosts:
        host.ended(0, 300)
    return hosts[0].wait_for(r"accuracy on unseen points ([\d.]+)")[1]


def pods(stage: Stage) -> str:
    """The pods of the Job that is printed train the same, one beside Services of our name."""
    script = EXAMPLE.read_text(encoding="utf-8")
    hosts = stage.pods(script, "ps", "--steps", "600", first=SERVICES)
    accuracy = _trained(stage, hosts)
    said = [stage.message(index) for index in range(3)]
    assert said == ["", "", ""], said
    return f"exit 0 everywhere, healthy meanwhile, accuracy {accuracy}"


def failing_pods(stage: Stage) -> str:
    """One pod's script fails: every pod ends, and says whose fault it was in its message."""
    hosts = stage.pods(FAILING, "none")
    hosts[1].ended(1)
    for host in (hosts[0], hosts[2]):
        host.ended(EXIT_ELSEWHERE)
    said = [stage.message(index) for index in range(3)]
    assert all("ValueError: loss is NaN" in text for text in said), said
    return said[0].splitlines()[0]


def stopped_pods(stage: Stage) -> str:
    """Pods that are stopped are no job that is done, though their scripts left with 0."""
    hosts = stage.pods(STOPPABLE, "none")
    for host in hosts:
        host.wait_for("script: runs", 120)
    # The kubelet stops a pod's containers, then its network. "podman pod stop" does both at once:
    # then the master waits in vain, for most of its limit, for members that cannot tell their end.
    ended_s = _stopped(stage, hosts)
    for host in hosts:
        host.ended(128 + signal.SIGTERM)
        host.wait_for("script: got SIGTERM")
    return f"exit 143 everywhere after {ended_s:.1f} s: {stage.message(0).splitlines()[0]}"


def _stopped(stage: Stage, hosts: Sequence[Container]) -> float:
    """All at once, as a platform does that stops a job; how long it took, less than the limit."""
    took = Timed()
    with ThreadPoolExecutor() as pool:
        patience = ("stop", "--time", f"{STOP_LIMIT_S:g}")
        list(pool.map(lambda host: stage.podman(*patience, host.name), hosts))
    ended_s = took.s
    assert ended_s < STOP_LIMIT_S, f"{ended_s:.1f} s"
    return ended_s


def users(stage: Stage) -> str:
    """Its own user, root, and one that it has never heard of; each installs a requirement."""
    seen = []
    for user, owner in (("", TRAINER), ("0:0", 0), ("4321:8765", 4321)):
        name = f"by-{owner}"
        wheels.write_wheel(stage.directory / name / "code" / "wheels", "present_here", "1.0")
        stage.write(f"{name}/code/requirements.txt", "present_here\n")
        options = ("--user", user) if user else ()
        host = stage.host(name, IMPORTS, owner=owner, options=options)
        host.ended(0)
        found = host.wait_for(r"script: runs as (\d+) (\S+)/present_here.py")
        assert int(found[1]) == owner
        seen.append(f"{found[1]} into {found[2]}")
    return "; ".join(seen)


def stop(stage: Stage) -> str:
    """``podman stop``: the scripts are asked, all ends in time, one sentence says why."""
    limit = {"SUPERVISOR_STOP_LIMIT_S": f"{STOP_LIMIT_S:g}"}
    hosts = [stage.host(name, STOPPABLE, hosts=HOSTS, strategy="ps", env=limit) for name in HOSTS]
    for host in hosts:
        host.wait_for("script: runs", 120)
    ended_s = _stopped(stage, hosts)
    for host in hosts:
        host.ended(0)
        host.wait_for("script: got SIGTERM")
    why = hosts[0].wait_for(r"job\.ended.*|stopped: .*")[0]
    return f"SIGTERM in each script, exit 0 everywhere, all gone after {ended_s:.1f} s: {why}"


def memory(stage: Stage) -> str:
    """A script that takes more than the container may have is told as out of memory."""
    limits = ("--memory", "300m", "--memory-swap", "300m")
    host = stage.host("greedy", GREEDY, options=limits)
    host.ended(128 + signal.SIGKILL)
    failure = host.read("output/failure").strip()
    assert "out of memory" in failure, f"{failure}\n{host.log}"
    return failure.splitlines()[0]


def mpi(stage: Stage) -> str:
    """Built with its packages, the image runs ranks on two hosts, over sshd, and not as root."""
    key = stage.directory / "key"
    command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=30)
    for path in (key, key.with_name("key.pub")):
        os.chown(path, TRAINER, TRAINER)
    stage.write("train.py", RANKS)
    hosts = [
        stage.run(
            name,
            *("--volume", f"{stage.directory}:/job:ro"),
            image=MPI_IMAGE,
            arguments=("train", "/job/train.py"),
            SUPERVISOR_HOSTS=",".join(HOSTS[:2]),
            SUPERVISOR_STRATEGY="mpi",
            SUPERVISOR_MPI_SSH_KEY="/job/key",
        )
        for name in HOSTS[:2]
    ]
    for host in hosts:
        host.ended(0)
    return ", ".join(sorted(set(re.findall(r"rank \d+ on \S+", hosts[0].log))))


CHECKS: Final[Mapping[str, Callable[[Stage], str]]] = {
    check.__name__: check
    for check in (image, users, memory, example, stop, pods, failing_pods, stopped_pods, mpi)
}
