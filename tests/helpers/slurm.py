"""A real Slurm of three nodes on this machine: one slurmctld, and a slurmd for each node, every one
of them in a network namespace with a host name and a hosts file of its own.

Nothing of it shows in the machine's own network, and several can be up at the same time. Nodes are
named after this process: the control groups of Slurm are, and there is one tree of those for all.
Needs root, iproute2, util-linux and Debian's slurmctld, slurmd and slurm-client.

https://slurm.schedmd.com/slurm.conf.html
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from tests.helpers import netns, schemas
from tests.helpers.job import LAST_WORDS, environment
from tests.helpers.netns import Network
from tests.helpers.waiting import wait_until

SUPERVISOR: Final = f"{sys.executable} -P -m supervisor"
"""For the command lines of batch scripts."""
NODES: Final = 3
OVER: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"})
"""States that a job does not leave by itself."""
_PROGRAMS: Final = ("slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "nsenter")
_FREEZER: Final = pathlib.Path("/sys/fs/cgroup/freezer")
_CONTROL: Final = "ctl"
_UP_S: Final = 60.0
_NUMBERS: Final = itertools.count()
"""Of the clusters of this process."""

_CONFIG: Final = """\
ClusterName=trial
SlurmctldHost={control}({address})
AuthType=auth/none
CredType=cred/none
# A job that is queued again begins one second after its credential expires, 120 s by default. Told
# to begin sooner (scontrol update StartTime=now) it fails: "Job credential revoked".
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={directory}/state
SlurmdSpoolDir={spool}/%n
SlurmctldPidFile={directory}/run/control.pid
SlurmdPidFile={directory}/run/%n.pid
SlurmctldLogFile={directory}/log/control.log
SlurmdLogFile={directory}/log/%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
KillWait={kill_wait_s}
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
NodeName={nodes} CPUs=16 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes={nodes} Default=YES MaxTime=INFINITE State=UP GraceTime={grace_s}
PartitionName=high Nodes={nodes} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
"""
_ENTER: Final = (
    'mount --make-rprivate / && mount --bind "$1" /etc/hosts && hostname "$0" && shift && exec "$@"'
)


def why_not() -> str | None:
    """Why there can be no Slurm here, if so."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no Slurm here: {', '.join(missing)} (slurmctld, slurmd, slurm-client)"
    return netns.why_not()


def why_no_cgroups() -> str | None:
    """Why Slurm cannot follow its processes by control groups here, if so."""
    if not (_FREEZER / "release_agent").exists():
        return "no control groups of version 1: version 2 asks for systemd"
    return None if os.access(_FREEZER, os.W_OK) else "the control groups here are read-only"


class Cluster:
    """The daemons, and commands for them. A context manager that leaves nothing behind.

    ``kill_wait_s`` lies between SIGTERM and SIGKILL, ``grace_s`` between the notice of a preemption
    and that. Partition ``high`` preempts what runs in ``low``, the default.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        proctrack: str = "linuxproc",
        kill_wait_s: int = 30,
        grace_s: int = 30,
    ) -> None:
        tag = f"s{next(_NUMBERS)}"
        prefix = f"sv{os.getpid():x}{tag}n"
        self.nodes = tuple(f"{prefix}{number}" for number in range(1, NODES + 1))
        self._directory = directory
        self._network = Network(_CONTROL, *self.nodes, tag=tag)
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._names = directory / "hosts"
        self._settings = {
            "proctrack": proctrack,
            "kill_wait_s": kill_wait_s,
            "grace_s": grace_s,
            "nodes": f"{prefix}[1-{NODES}]",
        }
        self.config = directory / "slurm.conf"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove_cgroups)
            # The name of a socket in it has at most 107 bytes.
            spool = stack.enter_context(tempfile.TemporaryDirectory(prefix="slurmd-"))
            stack.enter_context(self._network)
            stack.callback(self._end)
            self._start(spool)
            self._down = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._down.close()

    def _start(self, spool: str) -> None:
        addresses = self._network.addresses
        for name in ("state", "run", "log"):
            (self._directory / name).mkdir()
        for node in self.nodes:
            os.mkdir(os.path.join(spool, node))
        lines = [f"{address} {name}\n" for name, address in addresses.items()]
        self._names.write_text("127.0.0.1 localhost\n" + "".join(lines))
        address = addresses[_CONTROL]
        self.config.write_text(
            _CONFIG.format(
                directory=self._directory,
                spool=spool,
                control=_CONTROL,
                address=address,
                **self._settings,
            )
        )
        # Else it asks systemd for what it finds of version 2 beside the others.
        (self._directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self._run_daemon(_CONTROL, "slurmctld")
        wait_until(self._answers, _UP_S, "slurmctld does not answer")
        for node in self.nodes:
            self._run_daemon(node, "slurmd")
        wait_until(self._all_idle, _UP_S, "the nodes do not come up")

    def _run_daemon(self, host: str, program: str) -> None:
        with open(self._directory / "log" / f"{host}.out", "wb") as out:
            daemon = subprocess.Popen(
                self.inside(host, program, "-D", "-f", str(self.config)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment(),
            )
        self._daemons.append(daemon)

    def _answers(self) -> bool:
        return "UP" in self._ask("scontrol", "ping", check=False)

    def _all_idle(self) -> bool:
        return self._ask("sinfo", "-h", "-N", "-p", "low", "-o", "%T").split() == ["idle"] * NODES

    def _end(self) -> None:
        """What Slurm started outlives it; each is in one of the namespaces."""
        for host in (_CONTROL, *self.nodes):
            self._network.kill(host)
        for daemon in self._daemons:
            daemon.wait(10)

    def _remove_cgroups(self) -> None:
        for node in self.nodes:
            top = _FREEZER / f"slurm_{node}"
            for directory, _, _ in os.walk(top, topdown=False):
                wait_until(functools.partial(_removed, directory), 10)

    def inside(self, host: str, *command: str) -> tuple[str, ...]:
        """A command line that runs ``command`` on that host."""
        enter = ("unshare", "-u", "-m", "sh", "-c", _ENTER, host, str(self._names), *command)
        return self._network.joining(host, *enter)

    def ask(self, *command: str) -> str:
        """The output of a command of Slurm's, which must succeed."""
        return self._ask(*command)

    def _ask(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            self.inside(_CONTROL, *command),
            capture_output=True,
            env=self.environment(),
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr.decode()}"
        return done.stdout.decode()

    def environment(self, **extra: str) -> dict[str, str]:
        return environment(SLURM_CONF=str(self.config), **extra)

    def submit(
        self, directory: pathlib.Path, script: str, *options: str, env: Mapping[str, str]
    ) -> Job:
        """``sbatch`` of a script of bash in ``directory``; on all nodes, one task each, where
        ``options`` say nothing else."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "job.sh"
        path.write_text(script if script.startswith("#!") else f"#!/bin/bash\n{script}\n")
        output = directory / "out"
        submitted = subprocess.run(
            self.inside(
                _CONTROL,
                *("sbatch", "--parsable", "--open-mode=append", f"--nodes={NODES}"),
                *("--ntasks-per-node=1", f"--output={output}", *options, str(path)),
            ),
            capture_output=True,
            env=self.environment(**env),
            cwd=directory,
            timeout=60,
            check=False,
        )
        assert submitted.returncode == 0, submitted.stderr.decode()
        return Job(self, int(submitted.stdout), directory, output)


def _removed(directory: str) -> bool:
    with contextlib.suppress(FileNotFoundError, OSError):
        os.rmdir(directory)
    return not os.path.exists(directory)


class Job:
    """A batch job. A context manager that ends it."""

    def __init__(
        self, cluster: Cluster, number: int, directory: pathlib.Path, out_path: pathlib.Path
    ) -> None:
        self._cluster = cluster
        self.id = number
        self.directory = directory
        self.out_path = out_path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(f"the job's last words:\n{self.output[-LAST_WORDS:]}")
        if self.state not in OVER:
            self._cluster.ask("scancel", "--quiet", "--signal=KILL", str(self.id))
            self._cluster.ask("scancel", "--quiet", str(self.id))

    @property
    def output(self) -> str:
        path = self.out_path
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def fields(self) -> Mapping[str, str]:
        """What Slurm says about it."""
        line = self._cluster.ask("scontrol", "show", "job", str(self.id), "--oneliner")
        return dict(re.findall(r"(\S+?)=(\S*)", line))

    @property
    def state(self) -> str:
        return self.fields()["JobState"]

    def wait(self, timeout_s: float = 60.0) -> tuple[str, str]:
        """Its last state and exit code as Slurm books them."""
        fields: Mapping[str, str] = {}

        def over() -> bool:
            nonlocal fields
            fields = self.fields()
            return fields["JobState"] in OVER

        try:
            wait_until(over, timeout_s)
        except AssertionError:
            raise AssertionError(f"not over in {timeout_s} s: {fields}\n{self.output}") from None
        return fields["JobState"], fields["ExitCode"]

    def wait_for(self, pattern: str, timeout_s: float = 60.0, times: int = 1) -> None:
        """Until ``pattern`` is that often in the output; fails early if the job has ended."""

        def look() -> bool:
            over = self.state in OVER
            found = len(re.findall(pattern, self.output, re.MULTILINE)) >= times
            assert found or not over, f"the job ended without {pattern!r}:\n{self.output}"
            return found

        wait_until(look, timeout_s, f"no {pattern!r} in {timeout_s} s")

    def cancel(self, *options: str) -> None:
        self._cluster.ask("scancel", *options, str(self.id))

    def signal_step(self, signal: str) -> None:
        """To all tasks of its first step, and not to the batch script."""
        self._cluster.ask("scancel", f"--signal={signal}", f"{self.id}.0")

    def host_dir(self, index: int) -> pathlib.Path:
        return self.directory / "supervisor-runs" / f"slurm-{self.id}" / f"host-{index}"

    def failure(self, index: int) -> str:
        path = self.host_dir(index) / "output" / "failure"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def report(self, index: int) -> dict[str, Any]:
        path = self.host_dir(index) / "output" / "supervisor" / "report.json"
        return schemas.read("report", path.read_text(encoding="utf-8"))

    def reports(self, hosts: int = NODES) -> Sequence[dict[str, Any]]:
        return [self.report(index) for index in range(hosts)]
