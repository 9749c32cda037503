"""MPI jobs for real: Open MPI over sshd between hosts in network namespaces, and on one host."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.mpi import words as mpi_words
from supervisor.mpi.launcher import Lines, wait_for
from tests.helpers import openmpi
from tests.helpers.aio import free_port
from tests.helpers.job import COMMAND, Job, environment, processes_with
from tests.helpers.netns import Host, Network, why_not
from tests.helpers.waiting import wait_until

NO_MPI = openmpi.why_not()
needs_mpi = pytest.mark.skipif(bool(NO_MPI), reason=NO_MPI)
NO_NETWORK = NO_MPI or why_not() or ""
needs_network = pytest.mark.skipif(bool(NO_NETWORK), reason=NO_NETWORK)
pytestmark = [pytest.mark.twice, pytest.mark.xdist_group("mpi")]

PROGRAM = r"""
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;
static void stop(int signum) { stopped = signum; }
static const char *get(const char *name) { return getenv(name) ? getenv(name) : "-"; }

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "sum";
    int rank, size, sum;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("rank %d of %d on %s sum %d FOO=%s secret=%zu hosts=%s\n", rank, size,
           get("SM_CURRENT_HOST"), sum, get("FOO"), strlen(get("API_SECRET")), get("SM_HOSTS"));
    if (!strcmp(mode, "fail") && rank == 1) {
        fprintf(stderr, "cannot read the records\n");
        exit(3);
    }
    if (!strcmp(mode, "attempts")) {
        printf("rank %d attempt %s on %s pid %d after %s.\n", rank, get("SUPERVISOR_ATTEMPT"),
               get("SM_CURRENT_HOST"), getpid(), get("SUPERVISOR_LAST_CAUSE"));
        MPI_Barrier(MPI_COMM_WORLD);
        if (rank == 0) {
            FILE *progress = fopen(get("SUPERVISOR_PROGRESS_FILE"), "w");
            fprintf(progress, "{\"step\": %s}\n", get("SUPERVISOR_ATTEMPT"));
            fclose(progress);
            printf("training, attempt %s\n", get("SUPERVISOR_ATTEMPT"));
        }
        while (access(argv[2], F_OK)) usleep(10000);
    } else if (strcmp(mode, "sum")) {
        signal(SIGTERM, stop);
        while (!stopped) usleep(50000);
        usleep(2500000); /* longer than mpirun itself would leave us */
        MPI_Barrier(MPI_COMM_WORLD);
        printf("rank %d saved after signal %d\n", rank, (int)stopped);
    }
    MPI_Finalize();
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("program")
    (directory / "ring.c").write_text(PROGRAM)
    subprocess.run(["mpicc", "-O1", "-o", "ring", "ring.c"], cwd=directory, check=True)
    return directory / "ring"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("key") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return str(path)


@pytest.fixture(scope="module")
def cables() -> Iterator[Network]:
    with Network("algo-1", "algo-2", "algo-3") as network:
        yield network


class Cluster:
    """The hosts of one job, and what they are to run."""

    def __init__(
        self, network: Network, directory: pathlib.Path, program: pathlib.Path, key: str
    ) -> None:
        self._directory, self._program = directory, program
        self._env = {
            "SUPERVISOR_MPI_SSH_KEY": key,
            "SUPERVISOR_MPI_SSH_PORT": "2200",
            "API_SECRET": "geheim-geheim",
        }
        self.network = network
        self.hosts: list[Host] = []

    def start(self, count: int, mode: str, *, below: str = "", **more: object) -> list[Host]:
        """``below``: a script of sh(1) that is the entry point and runs the program."""
        names = [f"algo-{number}" for number in range(1, count + 1)]
        for name in names:
            host = Host(self.network, name, self._directory)
            host.lay_out(names, "none", "", [mode])
            shutil.copy(self._program, host.base / "code" / "ring")
            (host.base / "code" / "run.sh").write_text(f"#!/bin/sh\n{below}\n")
            (host.base / "code" / "run.sh").chmod(0o755)
            entry = "run.sh" if below else "ring"
            values = {"sagemaker_program": entry, "sagemaker_mpi_enabled": True, **more}
            hyper = {key: json.dumps(value) for key, value in values.items()}
            (host.base / "input/config/hyperparameters.json").write_text(json.dumps(hyper))
            host.start(**self._env)
            self.hosts.append(host)
        return self.hosts

    @property
    def logs(self) -> str:
        return "\n".join(f"---- {host.name}\n{host.log}" for host in self.hosts)


@pytest.fixture
def cluster(
    cables: Network, tmp_path: pathlib.Path, program: pathlib.Path, key: str
) -> Iterator[Cluster]:
    made = Cluster(cables, tmp_path, program, key)
    yield made
    cables.mend()
    for host in made.hosts:
        host.wait()


def ranks(log: str) -> dict[int, str]:
    """Rank → what it said of itself, from lines that carry the rank's own tag."""
    found = re.findall(r"^\[1,(\d+)\]<stdout>:rank (\d+) of (.*)$", log, re.MULTILINE)
    assert all(tag == rank for tag, rank, _ in found), log
    return {int(rank): said for _, rank, said in found}


@needs_network
def test_ranks_on_three_hosts(cluster: Cluster) -> None:
    """Two ranks a host, each with its own host's variables, the user's options and everything of
    the environment, none of which shows in a command line."""
    master, *members = cluster.start(
        3,
        "sum",
        sagemaker_mpi_num_of_processes_per_host=2,
        sagemaker_mpi_custom_mpi_options="-x FOO=bar --display-map",
    )
    assert [host.wait() for host in cluster.hosts] == [0, 0, 0], cluster.logs
    said = ranks(master.log)
    assert sorted(said) == list(range(6))
    for rank, text in said.items():
        name = f"algo-{rank // 2 + 1}"
        expected = f'6 on {name} sum 15 FOO=bar secret=13 hosts=["algo-1","algo-2","algo-3"]'
        assert text == expected
    assert "JOB MAP" in master.log, "the user's --display-map"
    assert "geheim" not in cluster.logs
    for host in cluster.hosts:
        assert (host.base / "output/success").exists()
    assert [row["role"] for row in master.report["processes"]] == ["launcher"]
    for host in members:
        assert [row["role"] for row in host.report["processes"]] == ["sshd"]
        assert host.report["cause"]["host"] == "algo-1"
        assert not cluster.network.pids(host.name)


@needs_network
def test_a_failing_rank_is_the_cause_everywhere(cluster: Cluster) -> None:
    hosts = cluster.start(2, "fail")
    assert [host.wait() for host in hosts] == [3, 84], cluster.logs
    for host in hosts:
        assert "rank 1 on algo-2: cannot read the records" in host.failure
        assert "exit 3" in host.failure
        assert not cluster.network.pids(host.name)


@needs_network
def test_a_stop_reaches_every_rank_and_leaves_it_its_grace(cluster: Cluster) -> None:
    """mpirun alone would kill the ranks two seconds after SIGTERM."""
    hosts = cluster.start(2, "wait", sagemaker_mpi_num_of_processes_per_host=2)
    wait_until(lambda: len(ranks(hosts[0].log)) == 4, 40, "not all ranks")
    for host in hosts:  # as a platform does it
        host.signal(signal.SIGTERM)
    assert [host.wait() for host in hosts] == [0, 0], cluster.logs
    saved = re.findall(r"rank (\d) saved after signal 15$", hosts[0].log, re.MULTILINE)
    assert sorted(saved) == ["0", "1", "2", "3"]
    assert hosts[1].report["outcome"] == "stopped"
    for host in hosts:
        assert not cluster.network.pids(host.name)


@needs_network
def test_ranks_below_a_shell_have_their_grace_on_every_host(cluster: Cluster) -> None:
    """The shell dies of the signal at once. mpirun took that for the end of the rank, and killed
    what all of them still did."""
    hosts = cluster.start(2, "wait", below='./ring "$@"; true')
    wait_until(lambda: len(ranks(hosts[0].log)) == 2, 40, "not all ranks")
    hosts[0].signal(signal.SIGTERM)
    assert [host.wait() for host in hosts] == [143, 143], cluster.logs
    saved = re.findall(r"rank (\d) saved after signal 15$", hosts[0].log, re.MULTILINE)
    assert sorted(saved) == ["0", "1"], cluster.logs
    for host in hosts:
        assert not cluster.network.pids(host.name)


@needs_network
def test_a_lost_host_ends_the_others_and_is_named(cluster: Cluster) -> None:
    hosts = cluster.start(3, "wait")
    wait_until(lambda: len(ranks(hosts[0].log)) == 3, 40, "not all ranks")
    cluster.network.kill("algo-3")
    codes = [host.wait() for host in hosts[:2]]
    assert all(codes), cluster.logs
    for host in hosts[:2]:
        assert "algo-3" in host.failure, cluster.logs
        assert not cluster.network.pids(host.name)


@needs_network
def test_a_dead_sshd_fails_the_job(cluster: Cluster) -> None:
    hosts = cluster.start(2, "wait")
    wait_until(lambda: len(ranks(hosts[0].log)) == 2, 40, "not all ranks")
    pid = int(hosts[1].wait_for(r"process\.started: sshd runs, pid (\d+)")[1])
    os.kill(pid, signal.SIGKILL)
    assert [host.wait() for host in hosts] == [84, 85], cluster.logs
    assert "algo-2 sshd" in hosts[0].failure


# --------------------------------------------------------------------------- one host

SCRIPT = """
import os, signal, sys, time
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
print("rank", rank, "of", os.environ["OMPI_COMM_WORLD_SIZE"], sys.argv[1:], flush=True)
if sys.argv[1] == "raise" and rank == 1:
    raise RuntimeError("loss is NaN")
if sys.argv[1] == "die" and rank == 1:
    os.kill(os.getpid(), signal.SIGSEGV)
if sys.argv[1] == "pieces":
    for _ in range(200):
        for part in ("begin ", str(rank) * 300, " end\\n"):
            os.write(1, part.encode())
    sys.exit()
if sys.argv[1] != "end":
    time.sleep(600)
"""


def run_alone(
    base: pathlib.Path, *arguments: str, hyper: Mapping[str, Any] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    config = base / "input" / "config"
    config.mkdir(parents=True)
    (base / "code").mkdir()
    (base / "code" / "train.py").write_text(SCRIPT)
    values: dict[str, Any] = {
        "sagemaker_program": "train.py",
        "sagemaker_mpi_enabled": True,
        "sagemaker_mpi_num_of_processes_per_host": 2,
        **(hyper or {}),
    }
    files = {
        "hyperparameters": {key: json.dumps(value) for key, value in values.items()},
        "resourceconfig": {"current_host": "algo-1", "hosts": ["algo-1"]},
        "supervisorconfig": {"arguments": arguments},
    }
    for name, content in files.items():
        (config / f"{name}.json").write_text(json.dumps(content))
    env = environment(SAGEMAKER_BASE_DIR=str(base), **env)
    done = subprocess.run(
        [*COMMAND, "train"],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not processes_with(str(base)), done.stderr
    return done


@needs_mpi
def test_one_host_runs_its_ranks_without_ssh(tmp_path: pathlib.Path) -> None:
    done = run_alone(tmp_path, "end", "a  b")
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert f"[1,{rank}]<stdout>:rank {rank} of 2 ['end', 'a  b']\n" in done.stdout


@needs_mpi
def test_lines_that_ranks_write_in_pieces_come_out_whole(tmp_path: pathlib.Path) -> None:
    """mpirun tags whatever it happens to read, and mixes the ranks' pieces."""
    done = run_alone(tmp_path, "pieces")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "begin" in line]
    expected = [f"[1,{rank}]<stdout>:begin {str(rank) * 300} end" for rank in range(2)]
    assert sorted(lines) == sorted(expected * 200)


@needs_mpi
def test_the_failure_text_is_the_failed_ranks_own(tmp_path: pathlib.Path) -> None:
    done = run_alone(tmp_path, "raise")
    assert done.returncode == 1, done.stderr
    failure = (tmp_path / "output/failure").read_text()
    assert failure.startswith(
        "algo-1 launcher: rank 1 on algo-1: RuntimeError: loss is NaN (train.py:6); exit 1 after"
    )
    assert "[1,1]" not in failure


@needs_mpi
def test_a_ranks_death_by_a_signal_is_told_as_such(tmp_path: pathlib.Path) -> None:
    done = run_alone(tmp_path, "die")
    assert done.returncode == 128 + signal.SIGSEGV, done.stderr
    failure = (tmp_path / "output/failure").read_text()
    assert "rank 1 on algo-1: " in failure
    assert "killed by SIGSEGV" in failure


@needs_mpi
def test_mpiruns_own_refusal_is_told_in_its_words(tmp_path: pathlib.Path) -> None:
    done = run_alone(tmp_path, "end", hyper={"sagemaker_mpi_num_processes": 5})
    assert done.returncode == 1
    failure = (tmp_path / "output/failure").read_text()
    assert "There are not enough slots available" in failure.splitlines()[0]


def test_an_image_without_open_mpi_is_told_so(tmp_path: pathlib.Path) -> None:
    done = run_alone(tmp_path, "end", PATH=os.path.dirname(sys.executable))
    assert done.returncode == 81
    failure = (tmp_path / "output/failure").read_text()
    assert "no mpirun in PATH: install Open MPI in the image" in failure


# --------------------------------------------------------------------------- supervisor local


@contextlib.contextmanager
def local_job(run_dir: pathlib.Path, *arguments: str, **env: str) -> Iterator[Job]:
    """Two ranks on each of three hosts of this machine. Nothing of ours stays in its /tmp."""
    # A short path: Open MPI has sockets below it.
    with tempfile.TemporaryDirectory(prefix="t") as scratch:
        two_each = ("-p", "sagemaker_mpi_num_of_processes_per_host=2")
        words = ("--strategy", "mpi", *two_each, *arguments)
        with Job(run_dir, *words, TMPDIR=scratch, **env) as job:
            yield job
        assert [name for name in os.listdir(scratch) if "supervisor" in name] == []


def local_ranks(job: Job) -> dict[int, str]:
    return ranks(re.sub(r"^algo-1 launcher │ ", "", job.output, flags=re.MULTILINE))


@needs_mpi
def test_hosts_on_one_machine_are_an_mpi_job(tmp_path: pathlib.Path, program: pathlib.Path) -> None:
    """Over real sshds with a key of the run; each rank has its own host's directories."""
    with local_job(tmp_path / "run", str(program), "sum") as job:
        assert job.wait() == 0, job.output
        said = local_ranks(job)
        assert sorted(said) == list(range(6)), job.output
        for rank, text in said.items():
            assert text.startswith(f"6 on algo-{rank // 2 + 1} sum 15 ")
        assert job.exit_codes("algo-1", "algo-2", "algo-3") == [0, 0, 0]

    script = tmp_path / "place.py"
    script.write_text("import os; print('saves to', os.environ['SM_MODEL_DIR'], flush=True)\n")
    with local_job(tmp_path / "a b", "--hosts", "2", str(script)) as job:
        assert job.wait() == 0, job.output
        found = re.findall(r"<stdout>:saves to (.*)$", job.output, re.MULTILINE)
        places = [str(tmp_path / "a b" / host / "model") for host in ("algo-1", "algo-2")]
        assert sorted(found) == [places[0], places[0], places[1], places[1]]


@needs_mpi
def test_a_stop_of_an_mpi_job_on_one_machine(tmp_path: pathlib.Path, program: pathlib.Path) -> None:
    with local_job(tmp_path / "run", "--hosts", "2", str(program), "wait") as job:
        wait_until(lambda: len(local_ranks(job)) == 4, 40, "not all ranks")
        job.process.send_signal(signal.SIGTERM)
        assert job.wait() == 0, job.output
        saved = re.findall(r"rank (\d) saved after signal 15$", job.output, re.MULTILINE)
        assert sorted(saved) == ["0", "1", "2", "3"]


VICTIMS = ("rank 0", "rank 5", "algo-1 launcher", "algo-2 sshd")
"""Who is killed, an attempt each: a rank on the master's host and elsewhere, a host's process."""


@needs_mpi
@pytest.mark.once
def test_all_ranks_start_anew_whichever_of_them_or_their_launcher_or_an_sshd_dies(
    tmp_path: pathlib.Path, program: pathlib.Path
) -> None:
    """One restart is allowed without progress, and each attempt makes some."""
    go = tmp_path / "go"
    restarts = {"SUPERVISOR_RESTARTS": "1"}
    with local_job(tmp_path / "run", str(program), "attempts", str(go), **restarts) as job:
        pids = ranks_of_attempt(job, 1, after="")
        for attempt, who in enumerate(VICTIMS, 2):
            host, process = who.split()
            if host == "rank":
                os.kill(pids[int(process)], signal.SIGKILL)
            else:
                started = rf"{host} supervisor .* process\.started: {process} runs, pid (\d+)"
                os.kill(int(re.findall(started, job.output)[-1]), signal.SIGKILL)
            before, pids = pids, ranks_of_attempt(job, attempt, after=who)
            assert not any(os.path.exists(f"/proc/{pid}") for pid in before.values())
        go.touch()
        assert job.wait() == 0, job.output
        assert job.exit_codes("algo-1", "algo-2", "algo-3") == [0, 0, 0]


def ranks_of_attempt(job: Job, attempt: int, *, after: str) -> dict[int, int]:
    """Rank → pid, once they train; all of them know their attempt, and who failed before."""
    job.wait_for(rf"training, attempt {attempt}\n")
    said = rf"<stdout>:rank (\d) attempt {attempt} on algo-(\d) pid (\d+) after (.*)\.$"

    def look() -> list[tuple[str, str, str, str]]:  # mpirun keeps no order between ranks
        rows = re.findall(said, job.output, re.MULTILINE)
        return rows if len(rows) == 6 else []

    found = wait_until(look, 20, "not all ranks")
    for rank, host, _, cause in found:
        assert int(host) == int(rank) // 2 + 1
        assert after in cause if after else not cause
    return {int(rank): int(pid) for rank, _, pid, _ in found}


# --------------------------------------------------------------------------- parts


@given(st.data())
def test_every_ranks_bytes_come_out_in_whole_lines(data: st.DataObject) -> None:
    """Whatever pieces mpirun makes of them, and wherever our reads cut those."""
    words = st.lists(
        st.sampled_from([b"a", b"[", b"[1", b"\n", b"<std", b",", b" \xff"]), max_size=12
    )
    ranks = data.draw(st.lists(words, min_size=1, max_size=3))
    pieces = [(rank, piece) for rank, each in enumerate(ranks) for piece in each]
    turns = data.draw(st.permutations([rank for rank, _ in pieces]))
    queues = {rank: [piece for whose, piece in pieces if whose == rank] for rank in range(3)}
    written, said = b"", dict.fromkeys(range(3), b"")
    for rank in turns:
        piece = queues[rank].pop(0)
        written += b"[1,%d]<stdout>:" % rank + piece
        said[rank] += piece
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=8)))
    lines = Lines()
    out = b"".join(
        lines.feed(written[begin:end])
        for begin, end in zip([0, *cuts], [*cuts, len(written)], strict=True)
    )
    out += lines.end()
    assert not lines.pending
    got = dict.fromkeys(range(3), b"")
    for line in out.splitlines(keepends=True):
        found = re.fullmatch(rb"\[1,(\d)\]<stdout>:(.*\n)", line, re.DOTALL)
        assert found, out
        got[int(found[1])] += found[2]
    for rank, text in said.items():
        assert got[rank] == (text if text.endswith(b"\n") or not text else text + b"\n")


def test_the_blank_behind_tags_of_open_mpi_5_is_no_part_of_a_line() -> None:
    lines = Lines(b" ")
    assert lines.feed(b"[1,0]<stdout>: a\n[1,1]<stdout>:") == b"[1,0]<stdout>:a\n"
    assert lines.feed(b"  b\n") == b"[1,1]<stdout>: b\n"


def test_mpiruns_own_text_and_progress_bars_pass_through() -> None:
    lines = Lines()
    assert lines.feed(b"[1,0]<stderr>:10%\r") == b""
    assert lines.feed(b"[1,0]<stderr>:20%\r") == b"[1,0]<stderr>:10%\r"
    assert lines.feed(b"[1,0]<stderr>:\n") == b"[1,0]<stderr>:20%\r\n"
    assert lines.feed(b"-----\nmpirun noticed\n") == b"-----\nmpirun noticed\n"
    assert lines.feed(b"[1,1]<stderr>:" + b"x" * 70000) != b"", "bounded"


def test_the_launcher_waits_for_every_sshd_in_bounded_time() -> None:
    """Refused, silent and something else than ssh are told apart; one that answers is enough."""
    with contextlib.ExitStack() as stack:
        ports = []
        for greeting in (b"SSH-2.0-x", b"HTTP", None):
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(server.getsockname()[1])
            if greeting is not None:
                threading.Thread(target=greet, args=(server, greeting), daemon=True).start()
        ports.append(free_port())
        members = [(f"algo-{n}", "127.0.0.1", port) for n, port in enumerate(ports, 2)]
        assert wait_for(members[:1], 30) == []
        found = wait_for(members, 0)
    assert [text.split(" ", 1)[0] for text in found] == ["algo-3", "algo-4", "algo-5"]
    assert "not an ssh server (it says b'HTTP')" in found[0]
    assert "timed out" in found[1]
    assert "Connection refused" in found[2]


def greet(server: socket.socket, words: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(words)


BANNER = b"-" * 74 + b"\n"


@pytest.mark.parametrize(
    ("stderr", "who", "text", "signum"),
    [
        pytest.param(
            b"[1,0]<stderr>:other\n[1,3]<stderr>:mine\n"
            b"[1,0]<stderr>:supervisor: rank 0 on algo-1: exit 1\n"
            b"[1,3]<stderr>:supervisor: rank 3 on algo-2: exit 1\n" + BANNER
            + b"mpirun detected that one or more processes exited with non-zero status, thus "
            b"causing\nthe job to be terminated. The first process to do so was:\n\n"
            b"  Process name: [[23414,1],3]\n  Exit code:    1\n" + BANNER,
            "rank 3 on algo-2", b"mine\n", None, id="mpirun knows who was first",
        ),
        pytest.param(
            b"[1,1]<stderr>:supervisor: rank 1 on algo-2: killed by SIGKILL\n" + BANNER
            + b"mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 "
            b"(Killed).\n" + BANNER,
            "rank 1 on algo-2", b"", 9, id="a signal",
        ),
        pytest.param(
            BANNER + b"MPI_ABORT was invoked on rank 2 in communicator MPI_COMM_WORLD\n"
            b"with errorcode 5.\n" + BANNER,
            "rank 2", b"", None, id="abort",
        ),
        pytest.param(
            b"[1,0]<stderr>:supervisor: rank 0 on algo-1: exit 14\n"
            b"[1,1]<stderr>:mine\n[1,1]<stderr>: supervisor: rank 1 on algo-2: exit 3\n" + BANNER
            + b"prterun detected that one or more processes exited with non-zero status, thus "
            b"causing\nthe job to be terminated. The first process to do so was:\n\n"
            b"   Process name: [prterun-algo-1-3325@1,1]\n   Exit code:    3\n" + BANNER,
            "rank 1 on algo-2", b"mine\n", None, id="Open MPI 5",
        ),
        pytest.param(b"[1,0]<stderr>:a\nb\n", "", b"a\nb\n", None, id="nobody is named"),
        pytest.param(b"\xff[1,", "", b"\xff[1,", None, id="any bytes"),
    ],
)  # fmt: skip
def test_the_words_of_the_rank_that_failed_first(
    stderr: bytes, who: str, text: bytes, signum: int | None
) -> None:
    words = mpi_words.read(b"", stderr)
    assert (words.who, words.stderr, words.signum) == (who, text, signum)


def test_a_failure_is_told_from_what_it_did_to_the_other_ranks() -> None:
    stderr = (
        b"[1,0]<stderr>:Socket closed\n[1,0]<stderr>:supervisor: rank 0 on algo-1: exit 14\n"
        b"[1,1]<stderr>:mine\n[1,1]<stderr>:supervisor: rank 1 on algo-2: exit 3\n"
    )
    assert mpi_words.read(b"", stderr, 3).who == "rank 1 on algo-2"
    assert mpi_words.read(b"", stderr, 9).who == "rank 0 on algo-1"


def test_a_lost_daemon_names_its_host() -> None:
    stderr = (
        BANNER
        + (
            b"ORTE has lost communication with a remote daemon.\n\n"
            b"  HNP daemon   : [[1906,0],0] on node algo-1\n"
            b"  Remote daemon: [[1906,0],2] on node algo-3\n\n"
            b"This is usually due to either a failure of the TCP network\n"
        )
        + BANNER
    )
    words = mpi_words.read(b"", stderr)
    assert words.who == "Open MPI lost algo-3"
    last = words.stderr.splitlines()[-1]
    assert last == b"ORTE has lost communication with a remote daemon."
