"""``supervisor local`` as a person runs it: whole jobs of real supervisors, without TensorFlow in
the scripts, so that each takes seconds. The parameter servers are real."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from supervisor.linux import procfs
from supervisor.verbs.stragglers import Standing, is_over
from tests.helpers import schemas
from tests.helpers.job import COMMAND, Job, environment
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.twice

HOSTS = ("algo-1", "algo-2", "algo-3")
QUICK = {
    "SUPERVISOR_MASTER_LEASE_S": "8",
    "SUPERVISOR_END_GRACE_S": "3",
    "SUPERVISOR_STOP_LIMIT_S": "40",
}

SCRIPT = '''
"""A script with a part for each host: wait, end, fail, or answer SIGTERM in some way."""
import os, signal, sys, time
host, parts = os.environ["SM_CURRENT_HOST"], dict(a.split("=") for a in sys.argv[1:])
part = parts.get(host, parts.get("all", "wait"))
print("part", part, os.getpid(), flush=True)
if part == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if part == "save":
    def save(signum, frame):
        time.sleep(0.3)
        open(os.path.join(os.environ["SUPERVISOR_CHECKPOINT_DIR"], "saved"), "w").close()
        sys.exit(0)
    signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
if part == "fail":
    time.sleep(0.5)
    raise ValueError("loss is NaN")
if part == "end":
    time.sleep(0.5)
    sys.exit(0)
if part.startswith("exit"):
    time.sleep(0.5)
    sys.exit(int(part[4:]))
if part == "late":
    time.sleep(3)
    sys.exit(0)
while True:
    time.sleep(60)
'''


@pytest.fixture
def script(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "code" / "script.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    return str(path)


def start(tmp_path: pathlib.Path, script: str, *parts: str, strategy: str = "ps") -> Job:
    return Job(tmp_path / "run", "--strategy", strategy, script, *parts, **QUICK)


def all_ready(job: Job) -> None:
    for host in HOSTS:
        job.wait_for(rf"{host} \w+ │ ready")


def servers_serve(job: Job) -> None:
    for host in HOSTS:
        job.wait_for(rf"{host} ps │ .* listens on port", 60)


@pytest.mark.tensorflow
def test_a_job_that_succeeds(tmp_path: pathlib.Path, script: str) -> None:
    with start(tmp_path, script, "algo-1=late") as job:
        assert job.wait() == 0
        assert job.exit_codes(*HOSTS) == [0, 0, 0]
        for host in HOSTS:
            assert job.succeeded(host)
            assert job.failure(host) is None
        report = job.report("algo-2")
        assert report["outcome"] == "succeeded"
        assert report["cause"]["host"] == "algo-1"
        names = {row["name"]: row for row in report["processes"]}
        assert names["worker"]["stopped_by_us"]
        assert names["ps"]["stopped_by_us"]
        assert [span["phase"] for span in report["phases"]] == [
            "preparing", "joining", "running", "draining", "publishing", "done",
        ]  # fmt: skip
        table = job.output.partition("HOST")[2]
        for word in ("algo-3", "chief", "logs", str(job.run_dir)):
            assert word in table
        assert job.output.count("SUCCEEDED  algo-1 chief: finished, exit 0\n") == 1


@pytest.mark.tensorflow
def test_a_worker_that_fails_may_be_tolerated(tmp_path: pathlib.Path, script: str) -> None:
    """Its parameter server stays, the job succeeds, and what was tolerated is said."""
    parts = ("algo-1=late", "algo-2=fail")
    arguments = ("--strategy", "ps", "--failure-policy", "tolerate:1", script)
    with Job(tmp_path / "run", *arguments, *parts, **QUICK) as job:
        assert job.wait() == 0
        assert job.exit_codes(*HOSTS) == [0, 0, 0]
        for host in HOSTS[:2]:
            (failed,) = job.report(host)["tolerated"]
            assert failed["host"] == "algo-2"
            assert "ValueError: loss is NaN" in failed["message"]
            events = [entry["event"] for entry in job.report(host)["timeline"]]
            assert "failure.tolerated" in events
        server, worker = job.report("algo-2")["processes"]
        assert worker["exit_code"] == 1
        assert server["ended_at"] - worker["ended_at"] > 1.0
        assert job.failure("algo-2") is None
        assert re.search(r"algo-2 +worker +exit 1 +[\d.]+ s +tolerated", job.output)


def test_one_failure_more_than_is_tolerated_ends_the_job(
    tmp_path: pathlib.Path, script: str
) -> None:
    arguments = ("--strategy", "none", "--failure-policy", "tolerate:1", script)
    with Job(tmp_path / "run", *arguments, "algo-2=fail", "algo-3=fail", **QUICK) as job:
        assert job.wait() == 1
        assert sorted(job.exit_codes(*HOSTS)) == [1, 84, 84]
        for host in HOSTS:
            assert "ValueError: loss is NaN" in (job.failure(host) or "")


def test_a_share_of_the_scripts_may_be_enough(tmp_path: pathlib.Path, script: str) -> None:
    arguments = ("--strategy", "none", "--success-policy", "0.6", script)
    with Job(tmp_path / "run", *arguments, "algo-2=end", "algo-3=end", **QUICK) as job:
        assert job.wait() == 0
        report = job.report("algo-1")
        assert report["cause"]["message"] == "2 of 3 scripts ended with 0"
        assert report["processes"][0]["stopped_by_us"]


def test_stragglers_are_stopped_after_a_while(tmp_path: pathlib.Path, script: str) -> None:
    arguments = ("--strategy", "none", "--straggler-timeout-s", "2", script)
    with Job(tmp_path / "run", *arguments, "algo-1=end", "algo-2=end", **QUICK) as job:
        assert job.wait() == 0
        cause = job.report("algo-3")["cause"]
        assert cause["message"] == "finished, exit 0; not waited for after 2 s: algo-3"


def test_an_evaluator_ends_its_work_after_the_verdict(tmp_path: pathlib.Path, script: str) -> None:
    arguments = ("--strategy", "mwms", "--evaluator", "last", script)
    parts = ("algo-1=end", "algo-2=end", "algo-3=late")
    with Job(tmp_path / "run", *arguments, *parts, **QUICK) as job:
        assert job.wait() == 0
        (evaluator,) = job.report("algo-3")["processes"]
        assert (evaluator["name"], evaluator["exit_code"]) == ("evaluator", 0)
        assert not evaluator["stopped_by_us"]
        master = job.report("algo-1")
        assert evaluator["ended_at"] - master["processes"][0]["ended_at"] > 1.0
        assert master["phases"][-1]["at"] >= evaluator["ended_at"], "the master waited for it"


VICTIM = """
import os, socket, sys, time
if os.environ["SM_CURRENT_HOST"] == "algo-2":
    time.sleep(60)
print("ready", flush=True)
while True:
    # Somebody tells it that its peer is gone, as gRPC would.
    if os.path.exists(sys.argv[1]):
        raise ConnectionResetError(104, "Connection reset by peer")
    time.sleep(0.02)
"""


def test_the_lost_host_is_blamed_and_not_the_scripts_that_died_of_it(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "code" / "script.py"
    path.parent.mkdir()
    path.write_text(VICTIM)
    gone = tmp_path / "gone"
    with Job(tmp_path / "run", "--strategy", "mwms", str(path), str(gone), **QUICK) as job:
        for host in ("algo-1", "algo-3"):
            job.wait_for(rf"{host} \w+ │ ready")
        os.kill(job.supervisor_of("algo-2"), signal.SIGKILL)
        gone.touch()
        assert job.wait() == 84
        for host in ("algo-1", "algo-3"):
            assert (job.failure(host) or "").startswith(
                "stopped because algo-2 failed: lost: crashed"
            )
        also = [cause["message"] for cause in job.report("algo-1")["also"]]
        assert any("ConnectionResetError" in message for message in also)


def test_what_a_running_job_serves(tmp_path: pathlib.Path, script: str) -> None:
    """`supervisor status`, metrics and page of a real job: true, and without its secrets."""
    secret = "correct-horse-battery"
    arguments = ("--strategy", "none", script, f"api_token={secret}")
    with Job(tmp_path / "run", *arguments, **QUICK, SUPERVISOR_TOKEN=f"my-{secret}") as job:
        all_ready(job)
        config = job.host_dir("algo-1") / "input" / "config" / "supervisorconfig.json"
        places = json.loads(config.read_text())["hosts"]
        urls = {host: f"http://127.0.0.1:{places[host]['ports']['status']}" for host in HOSTS}
        served = {
            (host, route): urllib.request.urlopen(f"{url}/{route}", timeout=5).read().decode()
            for host, url in urls.items()
            for route in ("status", "metrics", "", "livez", "readyz")
        }
        assert not any(secret in text for text in served.values())
        assert "******" in served["algo-1", "status"]
        for host in HOSTS:
            schemas.read("status", served[host, "status"])
        assert 'supervisor_peers{state="up"} 2.0' in served["algo-1", "metrics"]
        assert "supervisor_probe_latency_seconds" in served["algo-2", "metrics"]
        assert 'supervisor_peer_silence_seconds{host="algo-1"}' in served["algo-2", "metrics"]

        def ask(*words: str) -> str:
            command = [*COMMAND, "status", *words]
            return subprocess.run(
                command, stdout=subprocess.PIPE, text=True, env=environment(), check=True
            ).stdout

        status = json.loads(ask("--json", urls["algo-2"]))
        assert status["phase"] == "running"
        assert [(row["name"], row["state"]) for row in status["hosts"]] == [
            ("algo-2", "self"),
            ("algo-1", "up"),
        ]
        table = ask(urls["algo-1"])
        for word in ("algo-3", "chief", "running", "up"):
            assert word in table
        job.process.send_signal(signal.SIGTERM)
        assert job.wait() == 143


def test_every_host_alone_ends_when_all_have(tmp_path: pathlib.Path, script: str) -> None:
    with start(tmp_path, script, "all=end", "algo-2=late", strategy="none") as job:
        assert job.wait() == 0
        assert job.exit_codes(*HOSTS) == [0, 0, 0]
        assert all(row["exit_code"] == 0 for row in job.report("algo-2")["processes"])


@pytest.mark.tensorflow
def test_a_worker_that_ends_early_keeps_its_parameter_server(
    tmp_path: pathlib.Path, script: str
) -> None:
    with start(tmp_path, script, "algo-1=late", "algo-2=end") as job:
        assert job.wait() == 0
        server, worker = job.report("algo-2")["processes"]
        assert worker["exit_code"] == 0
        assert server["ended_at"] - worker["ended_at"] > 1.0
        chief = job.report("algo-1")["processes"][1]
        assert server["ended_at"] > chief["ended_at"]


@pytest.mark.tensorflow
def test_a_server_hears_a_signal_of_ours_that_merges_with_a_strangers(
    tmp_path: pathlib.Path, script: str
) -> None:
    with start(tmp_path, script) as job:
        servers_serve(job)
        server = job.pid_of("algo-2", "ps")
        os.kill(server, signal.SIGSTOP)
        wait_until(lambda: (found := procfs.stat(server)) and found.stopped, 10, "it is stopped")
        os.kill(server, signal.SIGTERM)  # not of its parent, which continues it
        job.process.send_signal(signal.SIGTERM)
        assert job.wait() == 143
        assert job.report("algo-2")["processes"][0]["signal"] == signal.SIGTERM


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("parts", "who", "codes", "job_code"),
    [
        (("algo-1=fail",), "algo-1 chief", [1, 84, 84], 1),
        (("algo-3=fail",), "algo-3 worker", [84, 84, 1], 1),
        (("algo-2=exit42",), "algo-2 worker", [84, 42, 84], 42),
    ],
)
def test_a_script_that_fails_fails_the_job_everywhere_with_its_cause(
    tmp_path: pathlib.Path,
    script: str,
    parts: tuple[str, ...],
    who: str,
    codes: list[int],
    job_code: int,
) -> None:
    with start(tmp_path, script, *parts) as job:
        assert job.wait() == job_code
        assert job.exit_codes(*HOSTS) == codes
        failed, _, process = who.partition(" ")
        for host in HOSTS:
            text = job.failure(host) or ""
            assert len(text) <= 1024
            expected = f"{who}: " if host == failed else f"stopped because {who} failed: "
            assert text.startswith(expected)
            assert ("ValueError: loss is NaN" in text) == ("fail" in parts[0])
            assert job.report(host)["cause"]["process"] == process
            assert not job.succeeded(host)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("host", "process", "codes", "job_code"),
    [
        ("algo-1", "chief", [137, 84, 84], 137),
        ("algo-2", "worker", [84, 137, 84], 137),
        ("algo-3", "ps", [84, 84, 85], 85),
        ("algo-1", "ps", [85, 84, 84], 85),
    ],
)
def test_a_process_killed_from_outside_fails_the_job(
    tmp_path: pathlib.Path, script: str, host: str, process: str, codes: list[int], job_code: int
) -> None:
    with start(tmp_path, script) as job:
        all_ready(job)
        os.kill(job.pid_of(host, process), signal.SIGKILL)
        assert job.wait() == job_code
        assert job.exit_codes(*HOSTS) == codes
        for each in HOSTS:
            text = job.failure(each) or ""
            assert f"{host} {process}" in text
            assert "SIGKILL" in text


@pytest.mark.tensorflow
def test_sigterm_stops_the_chief_first_and_its_exit_is_the_jobs(
    tmp_path: pathlib.Path, script: str
) -> None:
    with start(tmp_path, script, "all=save") as job:
        all_ready(job)
        servers_serve(job)
        job.process.send_signal(signal.SIGTERM)
        assert job.wait() == 0
        assert job.exit_codes(*HOSTS) == [0, 0, 0]
        assert (job.host_dir("algo-1") / "checkpoints" / "saved").exists()
        chief = job.report("algo-1")["processes"][1]
        for host in HOSTS[1:]:
            report = job.report(host)
            assert report["outcome"] == "stopped"
            assert report["cause"]["kind"] == "stop_requested"
            for row in report["processes"]:
                assert row["ended_at"] > chief["ended_at"], "members wait for the chief"
            assert job.failure(host) is None


@pytest.mark.tensorflow
def test_a_script_that_does_not_answer_sigterm_dies_of_it_and_the_job_says_so(
    tmp_path: pathlib.Path, script: str
) -> None:
    with start(tmp_path, script) as job:
        all_ready(job)
        job.process.send_signal(signal.SIGINT)
        assert job.wait() == 143
        assert "received SIGINT" in (job.failure("algo-1") or "")


@pytest.mark.tensorflow
def test_sigterm_to_one_member_ends_the_whole_job_in_order(
    tmp_path: pathlib.Path, script: str
) -> None:
    with start(tmp_path, script, "all=save") as job:
        all_ready(job)
        os.kill(job.supervisor_of("algo-3"), signal.SIGTERM)
        assert job.wait() == 0
        for host in HOSTS:
            cause = job.report(host)["cause"]
            assert (cause["kind"], cause["host"]) == ("stop_requested", "algo-3")
        assert (job.host_dir("algo-1") / "checkpoints" / "saved").exists()


@pytest.mark.tensorflow
def test_a_second_ctrl_c_means_now(tmp_path: pathlib.Path, script: str) -> None:
    with start(tmp_path, script, "all=ignore") as job:
        all_ready(job)
        job.process.send_signal(signal.SIGINT)
        job.wait_for(r"algo-1 supervisor .* process.signalled: SIGTERM to chief")
        job.process.send_signal(signal.SIGTERM)  # the same one again at once would be an echo
        assert job.wait() == 137
        chief = job.report("algo-1")["processes"][1]
        assert chief["exit"] == "killed by SIGKILL"
        assert chief["seconds"] < 20, "the grace was not waited for"


@pytest.mark.tensorflow
def test_a_script_that_ignores_sigterm_is_killed_when_the_job_has_failed(
    tmp_path: pathlib.Path, script: str
) -> None:
    with start(tmp_path, script, "all=ignore", "algo-2=fail") as job:
        assert job.wait() == 1
        assert job.exit_codes(*HOSTS) == [84, 1, 84]
        chief = job.report("algo-1")["processes"][1]
        assert chief["exit"] == "killed by SIGKILL"
        assert chief["stopped_by_us"]
        for host in HOSTS:
            assert "algo-2 worker" in (job.failure(host) or ""), "what we killed is not blamed"


@pytest.mark.tensorflow
def test_a_master_that_is_killed_is_noticed(tmp_path: pathlib.Path, script: str) -> None:
    with start(tmp_path, script) as job:
        all_ready(job)
        began = time.monotonic()
        os.kill(job.supervisor_of("algo-1"), signal.SIGKILL)
        assert job.wait() == 137, "the exit of the host on which it began"
        assert time.monotonic() - began < 10
        for host in HOSTS[1:]:
            text = job.failure(host) or ""
            assert "algo-1" in text
            assert "crashed" in text
            assert job.report(host)["exit_code"] == 83
        assert "no report" in job.output


@pytest.mark.tensorflow
def test_a_member_that_is_killed_is_noticed(tmp_path: pathlib.Path, script: str) -> None:
    with start(tmp_path, script) as job:
        all_ready(job)
        os.kill(job.supervisor_of("algo-3"), signal.SIGKILL)
        assert job.wait() == 84
        for host in HOSTS[:2]:
            assert (job.failure(host) or "").startswith("stopped because algo-3 failed: lost")


def test_a_program_that_is_not_there(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "code" / "run.sh"
    path.parent.mkdir()
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with Job(tmp_path / "run", "--hosts", "1", str(path), **QUICK) as job:
        assert job.wait() == 80
        assert "/no/such/interpreter" in job.output
        assert not job.run_dir.exists()


@pytest.mark.once
@pytest.mark.parametrize(("last_words", "code"), [("1 / 0", 99), ("raise SystemExit(127)", 127)])
def test_a_failure_that_is_worth_another_start_has_a_code_of_its_own(
    tmp_path: pathlib.Path, last_words: str, code: int
) -> None:
    """On every host and of the job; a program that was not found is not there the next time."""
    path = tmp_path / "code" / "train.py"
    path.parent.mkdir()
    path.write_text(f"{last_words}\n")
    words = ("--hosts", "2", "--strategy", "mwms", "--restartable-exit-code", "99")
    with Job(tmp_path / "run", *words, str(path), **QUICK) as job:
        assert job.wait() == code
        codes = set(job.exit_codes("algo-1", "algo-2"))
    assert codes == {99} if code == 99 else codes <= {127, 84}


def test_arguments_reach_the_script_as_they_are(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "code" / "show.py"
    path.parent.mkdir()
    path.write_text("import sys, json; print(json.dumps(sys.argv[1:]))")
    words = ["--x", "a b", "$(id)", "-p", "q'\"", "--hosts", "9"]
    with Job(tmp_path / "run", "--hosts", "1", "-p", "lr=0.1", str(path), *words, **QUICK) as job:
        assert job.wait() == 0
        line = job.wait_for(r"chief │ (\[.*\])")[1]
        assert json.loads(line) == ["--lr", "0.1", *words]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--hosts", "9" * 5000), ["--hosts", "1 to 64"]),
        (("--hosts", "0"), ["--hosts", "'0'", "1 to 64"]),
        (("--hosts", "x", "-p", "novalue"), ["'x'", "'novalue'", "NAME=VALUE"]),
        (("--hosts", "1", "--strategy", "ps"), ["a cluster of one host has no parameter server"]),
        (
            ("nothing.py",),
            ["SCRIPT: found 'nothing.py', which does not exist; expected the path of a training"],
        ),
        (("/tmp",), ["SCRIPT: found '/tmp', a directory; expected"]),
        (("--stop-grace-s", "-3"), ["--stop-grace-s", "'-3'"]),
    ],
)
def test_bad_input_starts_nothing(
    tmp_path: pathlib.Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    with Job(tmp_path / "run", *arguments) as job:
        assert job.wait() == 80
        for word in words:
            assert word in job.output
        assert "Traceback" not in job.output
        assert not job.run_dir.exists()


def test_options_of_ours_behind_the_script_are_said(tmp_path: pathlib.Path) -> None:
    """``supervisor local train.py --hosts 2`` ran three hosts, and nothing said why."""
    script = tmp_path / "code" / "show.py"
    script.parent.mkdir()
    script.write_text("import sys, json; print(json.dumps(sys.argv[1:]))")
    said = "--hosts, --stop-grace-s=1 after show.py is the script's and no option of supervisor"
    words = ("--hosts", "2", "--epochs", "3", "--stop-grace-s=1")
    for name, dashes, count in (("a", (), 1), ("b", ("--",), 0)):
        with Job(tmp_path / name, "--hosts", "1", str(script), *dashes, *words, **QUICK) as job:
            assert job.wait() == 0
            assert json.loads(job.wait_for(r"chief │ (\[.*\])")[1]) == [*words]
            assert job.output.count(said) == count
            assert job.output.count("supervisor: 1 host, show.py, in ") == 1


def shell(command: str, tmp_path: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``supervisor`` with these words as ``"$@"`` of a shell's command."""
    return subprocess.run(
        ["/bin/sh", "-c", command, "sh", *COMMAND, *words],
        cwd=tmp_path,
        env=environment() | {"SAGEMAKER_BASE_DIR": "relative" if "plan" in words else ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_too_few_free_ports_are_not_the_run_directorys_fault(tmp_path: pathlib.Path) -> None:
    program = (
        "import sys; from supervisor.engines import local; from supervisor.__main__ import main\n"
        "local._HIGHEST_PORT = local._LOWEST_PORT + 2; main(sys.argv[1:])"
    )
    words = ("local", "--run-dir", str(tmp_path / "run"), "--hosts", "3")
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 80
    assert "--hosts: found 3; expected fewer, or an end to what listens here: only " in done.stderr


def test_a_host_that_cannot_be_started_ends_the_job(tmp_path: pathlib.Path, script: str) -> None:
    """The others waited for it until the time to join was over."""
    words = ("local", "--run-dir", "run", "--hosts", "40", script, "all=end")
    done = shell('ulimit -n 40 && exec "$@"', tmp_path, *words)
    assert done.returncode == 126
    assert re.search(r"algo-1 .* algo-\d+ was not started: .* too many open files", done.stdout)


def test_a_closed_output_costs_no_exit_code(tmp_path: pathlib.Path, script: str) -> None:
    """Python has None for such a stream, and the table at the end asked it for a terminal."""
    words = ("local", "--run-dir", "run", "--hosts", "1", script, "all=exit7")
    done = shell('exec "$@" >&-', tmp_path, *words)
    assert done.returncode == 7
    assert "Traceback" not in done.stderr
    assert "exit code 7" in done.stderr


@pytest.mark.parametrize("words", [("local", "script.py"), ("doctor",), ("plan",)])
def test_a_working_directory_that_was_removed_is_said(
    tmp_path: pathlib.Path, words: tuple[str, ...]
) -> None:
    """It ended in a traceback of ours."""
    done = shell('mkdir gone && cd gone && rmdir "$PWD" && exec "$@"', tmp_path, *words)
    assert done.returncode == 80
    assert done.stderr.startswith("supervisor: working directory: found ")
    assert "cd to another directory" in done.stderr
    assert len(done.stderr.splitlines()) == 1


RESUMING = """
import os
place = os.environ["SUPERVISOR_CHECKPOINT_DIR"]
print("found", sorted(os.listdir(place)), os.environ.get("SUPERVISOR_RESUMED_FROM"), flush=True)
step = len(os.listdir(place)) + 1
open(os.path.join(place, f"step-{step}.npy"), "w").close()
import time
time.sleep(1)
"""


def test_a_run_that_is_continued_is_announced(tmp_path: pathlib.Path) -> None:
    """``--run-dir`` of an earlier run went on from its checkpoints without a word, and its log
    files had nothing between the two runs."""
    path = tmp_path / "resuming.py"
    path.write_text(RESUMING)
    outputs = []
    for _ in range(2):
        with Job(tmp_path / "run", "--hosts", "1", str(path)) as job:
            assert job.wait() == 0, job.output
            outputs.append(job.output)
    first, second = outputs
    assert "is continued" not in first
    assert "resumed" not in first
    assert "supervisor: the run in this directory is continued" in second
    place = tmp_path / "run" / "algo-1" / "checkpoints" / "step-1.npy"
    assert f"job.resumed: resumed from {place}" in second
    assert f"note   algo-1 resumed from {place}" in second.replace("\n", "")
    (log,) = (tmp_path / "run" / "algo-1").glob("output/supervisor/logs/[cw]*.log")
    lines = log.read_text().splitlines()
    (heading,) = [number for number, line in enumerate(lines) if "supervisor: a new run" in line]
    assert [line.split()[0] for line in lines] == ["found", "────", "found"]
    assert heading == 1


AGREEING = """
import os, sys, time
place, host = os.environ["SUPERVISOR_CHECKPOINT_DIR"], os.environ["SM_CURRENT_HOST"]
found = sorted(name for name in os.listdir(place) if not name.startswith("."))
print("begins with", found, flush=True)
if not found and host == "algo-1":
    open(os.path.join(place, "step-1"), "w").write("1")
if not found and host == "algo-2":
    os.makedirs(os.path.join(place, "backup", "workertemp_1"))
time.sleep(0.3)
"""


@pytest.mark.once
def test_hosts_begin_from_the_same_checkpoint_whatever_they_find(tmp_path: pathlib.Path) -> None:
    """The chief resumed at its checkpoint and the worker at 0: an empty directory had stopped its
    restore. And a host that is started in place has files of its own, a new machine has none."""
    path = tmp_path / "agreeing.py"
    path.write_text(AGREEING)
    arguments = ["--hosts", "2", "--strategy", "mwms", "--checkpoints", str(tmp_path / "kept")]

    def begun(**env: str) -> tuple[list[str], str]:
        with Job(tmp_path / "run", *arguments, str(path), **QUICK, **env) as job:
            job.wait()
            found = [re.search(rf"{host} \w+ │ begins with (.*)", job.output) for host in HOSTS[:2]]
            return [match[1] if match else "" for match in found], job.output

    places = [tmp_path / "run" / host / "checkpoints" for host in HOSTS[:2]]
    assert begun()[0] == ["[]", "[]"]
    assert begun()[0] == ["['step-1']"] * 2, "an empty directory is empty"
    (places[1] / "mine").write_text("of an attempt that nobody sent")
    found, output = begun(SUPERVISOR_RESTORE_AGREEMENT="fail")
    assert found == ["", ""]
    assert "the hosts would begin from different checkpoints: " in output
    found, output = begun()
    assert found == ["['step-1']"] * 2
    assert "checkpoints.differ" in output
    (aside,) = places[1].parent.glob("checkpoints.kept-*")
    assert [each.name for each in aside.iterdir()] == ["mine"], "nothing is deleted"
    assert (places[1] / "step-1").exists()
    (places[0] / "step-1").unlink()
    (places[0] / "step-1").mkdir()
    (places[0] / "step-1" / "unsent").write_text("2")
    (places[1] / "step-1").unlink()
    found, output = begun()
    assert found == ["['step-1']"] * 2, output
    assert (places[0] / "step-1").is_file(), "the master restores what its members hold"


# --------------------------------------------------------------------------- stopped supervisors

SHORT = ("--master-lease-s", "2", "--ack-timeout-s", "1", "--end-grace-s", "2")


@contextlib.contextmanager
def job_of_sleepers(tmp_path: pathlib.Path, hosts: int, text: str = "") -> Iterator[Job]:
    """All scripts are up, and would sleep on."""
    path = tmp_path / "sleeper.py"
    path.write_text(f"import signal, time\n{text}\nprint('up', flush=True)\ntime.sleep(600)\n")
    words = ("--hosts", str(hosts), "--strategy", "none", *SHORT, str(path))
    with Job(tmp_path / "run", *words) as job:
        for number in range(1, hosts + 1):
            job.wait_for(rf"algo-{number} \w+ │ up")
        yield job


@pytest.mark.once
@pytest.mark.parametrize(
    ("stopped", "code"),
    [(("algo-2",), 84), (("algo-1",), 83), (("algo-2", "algo-3"), 84), (("algo-1", "algo-3"), 83)],
)
def test_a_stopped_supervisor_does_not_hold_the_job(
    tmp_path: pathlib.Path, stopped: tuple[str, ...], code: int
) -> None:
    """The others had ended it, and ``local`` waited for the stopped one without end."""
    with job_of_sleepers(tmp_path, 3) as job:
        for host in stopped:
            os.kill(job.supervisor_of(host), signal.SIGSTOP)
        assert job.wait(60) == code
        table = job.output[job.output.rindex("HOST") :]
        for host in ("algo-1", "algo-2", "algo-3"):
            named = re.search(rf"{host} +supervisor .*was stopped \(SIGSTOP\)", table)
            assert bool(named) == (host in stopped), table
        assert re.search(rf"the supervisor of {stopped[0]} \(pid \d+\) was stopped", job.output)


@pytest.mark.once
def test_one_that_does_not_act_on_its_end_is_killed_with_its_children(
    tmp_path: pathlib.Path,
) -> None:
    with job_of_sleepers(tmp_path, 2, "signal.signal(signal.SIGTERM, signal.SIG_IGN)") as job:
        pid = job.supervisor_of("algo-2")
        os.kill(pid, signal.SIGSTOP)
        job.wait_for(r"the supervisor of algo-2 \(pid \d+\) was stopped", 60)
        job.wait_for(r"algo-2 supervisor │ .*signal\.received", 10)
        os.kill(pid, signal.SIGSTOP)  # again
        assert job.wait(60) == 84
        assert re.search(r"algo-2 +supervisor +exit 137 .*was stopped", job.output)


def test_a_stop_reaches_a_stopped_supervisor_too(tmp_path: pathlib.Path) -> None:
    """Ctrl-C while one of them is stopped."""
    with job_of_sleepers(tmp_path, 2) as job:
        pid = job.supervisor_of("algo-2")
        os.kill(pid, signal.SIGSTOP)
        stat = pathlib.Path(f"/proc/{pid}/stat")
        wait_until(lambda: stat.read_text().rsplit(") ", 1)[1][0] == "T")
        job.process.send_signal(signal.SIGINT)
        assert job.wait(30) == 143
        assert "was stopped (SIGSTOP)" not in job.output


@pytest.mark.parametrize(
    ("hosts", "over"),
    [
        ("..", False),
        ("T.", False),
        ("TT", False),  # nobody ended anything: they are somebody's to continue
        ("e.", True),
        ("eT", True),
        (".e", False),  # a member may be first; its master tells the others
        ("Te", True),
        ("T.e", False),
        ("TTe", True),
        ("ee", False),
    ],
)
def test_when_a_job_is_over(hosts: str, over: bool) -> None:
    assert is_over([Standing(each == "e", each == "T") for each in hosts]) == over
