"""``supervisor launch``: what Slurm and Kubernetes are given, run and checked as far as it can be
without them. What real ones make of it is tested with the engines."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from supervisor.contract.reading import parse_settings
from supervisor.engines.choosing import choose
from supervisor.engines.world import World
from supervisor.verbs import cli, launch, manifests
from tests.helpers.tree import ROOT

ODD = (
    *("it's", '"x"', "$HOME", "$(POD_NAMESPACE)", "$$", "`id`", "a b", "", "*", "\\", "#x", "~"),
    *("two\nlines", "tab\t", "é", "\u2028", "\u0085", "\x1b[2J", "\U0001f600", "\U000e0041", "--"),
    *("--nodes", "{{x}}", "yes", "null", "1e3", ": ", "- a", "&a", "!x", "%j", "\x7f", "\ufeff"),
)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["launch", *words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert cli.main(["launch", *words]) == 80
    out, error = capsys.readouterr()
    assert out == ""
    return [line.removeprefix("supervisor: command line: ") for line in error.splitlines()]


def trained(words: list[str]) -> tuple[str, ...]:
    """What ``supervisor`` with these words takes for the script and its arguments."""
    assert words[0] == "train"
    return cli._asked(cli._parsed("train", cli.VERBS["train"], words[1:])).command


def test_without_a_platform_they_are_listed_with_what_to_type(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(capsys).splitlines()
    assert [line.split()[0] for line in lines] == ["slurm", "kubernetes"]
    assert all(f"supervisor launch {line.split()[0]} " in line for line in lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pbs", "train.py"], "PLATFORM: found 'pbs'; expected slurm or kubernetes: where the"),
        (["slurm", "--nods", "3", "t.py"], "of supervisor launch slurm; did you mean --nodes?"),
        (["kubernetes", "--zzz", "t.py"], "supervisor launch kubernetes --help lists them"),
        (["slurm"], "SCRIPT: found none; expected the training script's path"),
        (["slurm", "--nodes", "0", "t.py"], "--nodes: found '0'; expected a number from 1 to 1000"),
        (["slurm", "--nodes", "1-4", "t.py"], "--nodes: found '1-4'; expected a number"),
        (["slurm", "--name", "a b", "t.py"], "--name: found 'a b'; expected up to 64 letters"),
        (["slurm", "--time", "1h", "t.py"], "--time: found '1h'; expected minutes, minutes:sec"),
        (["slurm", "--partition", "a\nb", "t.py"], r"--partition: found 'a\nb'; expected a part"),
        (["slurm", "--gpus", "0", "t.py"], "--gpus: found '0'; expected a number, or TYPE:NUMBER"),
        (["slurm", "--mem", "8Gi", "t.py"], "--mem: found '8Gi'; expected a number with K, M, G"),
        (["slurm", "--cpus", "x", "t.py"], "--cpus: found 'x'; expected a number from 1 to 9999"),
        (
            ["slurm", "--time", "2", "--requeue", "t.py"],
            "--signal-s: found '120'; expected less than --time, which is before the job begins",
        ),
        (
            ["slurm", "--signal-s", "5", "--env", "SUPERVISOR_SERVER_GRACE_S=5", "t.py"],
            "--signal-s: found 5; expected a limit that leaves the script time",
        ),
        (["slurm", "--strategy", "ps", "t.py"], "--strategy: found 'ps with --nodes 1'; expected"),
        (["slurm", "--sbatch", "a\nb", "t.py"], r"--sbatch: found 'a\nb'; expected an option"),
        (["slurm", "--before", "a\nb", "t.py"], r"--before: found 'a\nb'; expected one line"),
        (["slurm", "--venv", "", "t.py"], "--venv: found ''; expected the directory of a virtual"),
        (["slurm", "--env", "x y=1", "t.py"], "--env: found 'x y=1'; expected NAME=VALUE"),
        (
            ["slurm", "--env", "SUPERVISOR_STOP_GRACE_S=soon", "t.py"],
            "--env SUPERVISOR_STOP_GRACE_S: found 'soon'; expected a number of seconds",
        ),
        (
            ["slurm", "--env", "SUPERVISOR_STOP_GRASE_S=5", "t.py"],
            "--env SUPERVISOR_STOP_GRASE_S: found '5'; expected ",
        ),
        (
            ["slurm", "--requeue", "--env", "SUPERVISOR_STOPPED_EXIT_CODE=0", "t.py"],
            "--env: found SUPERVISOR_STOPPED_EXIT_CODE; expected none: by it the script knows",
        ),
        (
            ["slurm", "--requeue", "--env", "SUPERVISOR_MAX_RUNTIME_S=60", "t.py"],
            "--env: found SUPERVISOR_MAX_RUNTIME_S; expected none: a job that it stopped would be",
        ),
        (["slurm", "--checkpoints", "ck", "t.py"], "--checkpoints: found 'ck'; expected an absol"),
        (["slurm", "t.py", "\udcff"], r"SCRIPT or ARGS: found '\udcff'; expected text in UTF-8"),
        (["kubernetes", "t.py"], "--image: found none; expected the image that has the script"),
        (["kubernetes", "--image", "a b", "t.py"], "--image: found 'a b'; expected an image's"),
        (
            ["kubernetes", "--image", "i", "--name", "1st", "t.py"],
            "--name: found '1st'; expected lower-case letters, digits and '-', beginning with a",
        ),
        (
            ["kubernetes", "--image", "i", "--hosts", "11", "--name", "a" * 60, "t.py"],
            f"--name: found '{'a' * 60}'; expected at most 54 characters: pods are named like",
        ),
        (
            ["kubernetes", "--image", "i", "--kind", "jobset", "--name", "a" * 60, "t.py"],
            f"--name: found '{'a' * 60}'; expected at most 48 characters: pods are named like",
        ),
        (
            ["kubernetes", "--image", "i", "--namespace", "A", "t.py"],
            "--namespace: found 'A'; expected lower-case letters, digits and '-', up to 63",
        ),
        (
            ["kubernetes", "--image", "i", "--memory", "8GB", "t.py"],
            "--memory: found '8GB'; expected an amount above 0 as Kubernetes writes it",
        ),
        (["kubernetes", "--image", "i", "--cpu", "0", "t.py"], "--cpu: found '0'; expected an am"),
        (
            [
                *("kubernetes", "--image", "i", "--stop-limit-s", "60"),
                *("--env", "SUPERVISOR_STOP_GRACE_S=60", "t.py"),
            ],
            "--env SUPERVISOR_STOP_GRACE_S: found 60; expected at most",
        ),
        (
            ["kubernetes", "--image", "i", "--env", "SUPERVISOR_HOST_COUNT=3", "t.py"],
            "--env: found SUPERVISOR_HOST_COUNT; expected --hosts, which sets it",
        ),
        (
            ["kubernetes", "--image", "i", "--deadline-s", "0", "t.py"],
            "--deadline-s: found '0'; expected a number from 1 to 2147483647",
        ),
        (
            [
                *("kubernetes", "--image", "i", "--checkpoints", "s3://b"),
                *("--checkpoint-claim", "c", "t.py"),
            ],
            "--checkpoints: found 's3://b beside --checkpoint-claim c'; expected one of the two",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_option_and_what_is_right(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = refused(capsys, *words)
    assert said in line


def test_all_that_is_wrong_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--nodes", "x", "--mem", "y", "--time", "z"]
    assert [line.split(":")[0] for line in refused(capsys, "slurm", *words)] == [
        *("SCRIPT", "--nodes", "--time", "--mem"),
    ]


def test_an_option_behind_the_script_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["launch", "slurm", "train.py", "--nodes", "3"]) == 0
    out, error = capsys.readouterr()
    assert error.startswith("supervisor: --nodes after train.py is the script's and no option of")
    assert "train.py --nodes 3" in out
    assert cli.main(["launch", "slurm", "--", "train.py", "--nodes", "3"]) == 0
    assert capsys.readouterr().err == ""


# --------------------------------------------------------------------------- Slurm


@pytest.fixture
def programs(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory of programs that stand where Slurm's would."""
    place = tmp_path / "bin"
    place.mkdir()
    return place


def program(place: pathlib.Path, name: str, text: str) -> None:
    path = place / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def performed(
    script: str, programs: pathlib.Path, *, code: int = 0, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    found = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "42", **environ}
    path = programs.parent / "job.sbatch"
    path.write_text(script)
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=30)
    done = subprocess.run(
        ["bash", str(path)], check=False, env=found, timeout=30, capture_output=True
    )
    assert done.returncode == code, done
    return done


def directives(script: str) -> list[str]:
    """As sbatch reads them: up to the first line that is no comment."""
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    end = next(at for at, line in enumerate(lines) if line and line[0] != "#")
    assert not [line for line in lines[end:] if line.startswith("#SBATCH")]
    return [line.removeprefix("#SBATCH ") for line in lines[:end] if line.startswith("#SBATCH")]


def test_options_become_directives(capsys: pytest.CaptureFixture[str]) -> None:
    script = printed(
        capsys,
        *("slurm", "--nodes", "3", "--name", "mnist", "--time", "1-12:00:00", "--partition", "gpu"),
        *("--cpus", "8", "--gpus", "a100:2", "--mem", "64G", "--signal-s", "300", "--requeue"),
        *("--sbatch=--account=lab", "--sbatch", "exclusive", "train.py"),
    )
    assert directives(script) == [
        "--job-name=mnist",
        "--nodes=3",
        "--ntasks-per-node=1",
        "--time=1-12:00:00",
        "--partition=gpu",
        "--cpus-per-task=8",
        "--gpus-per-node=a100:2",
        "--mem=64G",
        "--signal=TERM@300",
        "--output=%x-%j.out",
        "--requeue",
        "--open-mode=append",
        "--account=lab",
        "--exclusive",
    ]


def test_without_options_there_is_little(capsys: pytest.CaptureFixture[str]) -> None:
    script = printed(capsys, "slurm", "a/my_model.v2.py")
    assert directives(script) == [
        *("--job-name=my-model", "--nodes=1", "--ntasks-per-node=1", "--output=%x-%j.out"),
    ]
    assert "export" not in script
    assert "--output=%x-%j-%N.out" not in script


@pytest.mark.parametrize("requeue", [[], ["--requeue"]])
@pytest.mark.parametrize("nodes", ["1", "2"])
def test_every_line_is_short_and_the_shell_takes_it(
    nodes: str, requeue: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    script = printed(capsys, "slurm", "--nodes", nodes, *requeue, "--time", "60", "train.py")
    subprocess.run(["bash", "-n"], input=script.encode(), check=True, timeout=30)
    assert not [line for line in script.splitlines() if len(line) > 100]


@pytest.mark.parametrize("requeue", [[], ["--requeue"]])
def test_the_scripts_words_arrive_as_they_were_given(
    requeue: list[str], programs: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(programs, "srun", """for word in "$@"; do printf '%s\\0' "$word"; done""")
    script = printed(
        capsys,
        *("slurm", "--nodes", "2", "--strategy", "mwms", *requeue, "--", "my train.py"),
        *ODD,
    )
    words = performed(script, programs).stdout.decode().split("\0")[:-1]
    options, command = words[: words.index("supervisor")], words[words.index("supervisor") :]
    assert all(word.startswith("--") for word in options)
    assert {"--kill-on-bad-exit=0", "--wait=0", "--output=%x-%j-%N.out"} <= {*options}
    assert ("--open-mode=append" in options) == bool(requeue)
    assert command == ["supervisor", "train", "--strategy", "mwms", "--", "my train.py", *ODD]
    assert trained(command[1:]) == ("my train.py", *ODD)


def test_processors_are_told_to_srun_too(
    programs: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From 22.05 on it takes them from no variable of sbatch's, and gave the task one."""
    program(programs, "srun", 'echo "$@"')
    script = printed(capsys, "slurm", "--cpus", "8", "train.py")
    assert b"--cpus-per-task=8" in performed(script, programs).stdout


def test_what_prepares_the_environment_comes_first(
    programs: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / "an env's"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "activate").write_text('ACTIVE="$LOADED and active"\nexport ACTIVE\n')
    program(programs, "srun", """printf '%s\\0' "$ACTIVE" "$A" "$SUPERVISOR_CHECKPOINT_S3_URI" """)
    script = printed(
        capsys,
        *("slurm", "--before", "LOADED=loaded", "--venv", str(venv), "--env", "A=it's $HOME"),
        *("--checkpoints", "/shared/a b", "train.py"),
    )
    assert performed(script, programs).stdout.decode().split("\0")[:-1] == [
        *("loaded and active", "it's $HOME", "/shared/a b"),
    ]


def test_nothing_starts_where_preparing_failed(
    programs: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(programs, "srun", "echo started")
    script = printed(capsys, "slurm", "--before", "false", "train.py")
    assert performed(script, programs, code=1).stdout == b""


def test_srun_takes_the_shells_place_where_nothing_is_queued_again(
    programs: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(programs, "srun", "echo $$; exit 84")
    script = printed(capsys, "slurm", "--before", "echo $$", "train.py")
    before, srun = performed(script, programs, code=84).stdout.split()
    assert before == srun


@pytest.mark.parametrize(
    ("code", "told", "queued"),
    [
        (143, False, True),  # --signal before the time limit, or preempted with a grace
        (143, True, False),  # scancel, or the time limit: called back to life it would be
        (0, False, False),
        (1, False, False),
        (84, False, False),
        (137, False, False),
        (0, True, False),
    ],
)
def test_a_job_that_was_stopped_is_queued_again_unless_slurm_told_the_shell(
    code: int,
    told: bool,
    queued: bool,
    programs: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Slurm books 143 as failed and queues nothing again by itself, and after scancel a requeue
    un-cancels the job: both were seen on a real one."""
    tell = "kill -TERM $PPID; " if told else ""
    program(programs, "srun", f"{tell}echo last line; exit {code}")
    program(programs, "scontrol", 'echo "scontrol $*"')
    script = printed(capsys, "slurm", "--requeue", "train.py")
    lines = performed(script, programs, code=code).stdout.decode().splitlines()
    assert lines == ["last line", *(["scontrol requeue 42"] if queued else [])]


def test_the_signal_before_the_limit_is_the_stop_limit(
    programs: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(programs, "srun", "echo $SUPERVISOR_STOP_LIMIT_S")
    script = printed(capsys, "slurm", "--signal-s", "300", "--time", "60", "train.py")
    assert performed(script, programs).stdout == b"300\n"
    assert "B:" not in script, "it would kill every task at once"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:02:03", 3723),
        ("1-0", 86400),
        ("1-2", 93600),
        ("1-2:30", 95400),
        ("1-2:30:05", 95405),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, seconds: int) -> None:
    faults = launch._Faults()
    assert launch._seconds_of(text, faults) == seconds
    assert not faults


# --------------------------------------------------------------------------- Kubernetes

VARIANTS = {
    "least": [],
    "hosts": ["--hosts", "3", "--strategy", "ps"],
    "namespace": ["--hosts", "2", "--namespace", "research"],
    "restarts": ["--hosts", "4", "--restarts", "3", "--deadline-s", "86400"],
    "places": ["--checkpoint-claim", "ckpt", "--volume-claim", "runs", "--hosts", "2"],
    "s3": ["--checkpoints", "s3://bucket/$(X)/a"],
    "extras": [
        *("--gpus", "8", "--cpu", "500m", "--memory", "1.5Gi", "--service-account", "trainer"),
        *("--secret", "aws", "--secret", "token", "--env", "A=yes", "--env", "B=$(A) 'x'"),
        *("--stop-limit-s", "300", "--name", "mnist"),
    ],
}
KINDS = ("job", "jobset")


def objects(capsys: pytest.CaptureFixture[str], kind: str, *options: str) -> list[dict[str, Any]]:
    """From YAML; JSON has to say the same."""
    words = ("kubernetes", "--kind", kind, "--image", "registry:5000/lab/train:1", *options)
    if "train.py" not in options:
        words = (*words, "--", "/app/train.py", "--lr", "0.1")
    at = words.index("--image")
    found = [*yaml.safe_load_all(printed(capsys, *words))]
    whole = json.loads(printed(capsys, *words[:at], "--format", "json", *words[at:]))
    assert found == (whole["items"] if whole["kind"] == "List" else [whole])
    return found


def job_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The Job, or the one that a JobSet makes."""
    last = found[-1]
    if last["kind"] == "Job":
        return last
    [replicated] = last["spec"]["replicatedJobs"]
    name = f"{last['metadata']['name']}-{replicated['name']}-0"
    template = replicated["template"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, **template["metadata"]},
        "spec": template["spec"],
    }


def pod_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    pod = job_of(found)["spec"]["template"]["spec"]
    assert isinstance(pod, dict)
    return pod


def environment_of(found: list[dict[str, Any]]) -> dict[str, str]:
    [container] = pod_of(found)["containers"]
    names = [each["name"] for each in container["env"]]
    assert len(names) == len({*names})
    return {
        each["name"]: each.get("value") or each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in container["env"]
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_schemas_of_kubernetes_take_every_variant(
    kind: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = objects(capsys, kind, *options)
    for version in ("1.31", kubernetes_validate.latest_version()):
        for document in (*found[:-1], job_of(found)):
            kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_refuse_what_is_no_field(capsys: pytest.CaptureFixture[str]) -> None:
    found = objects(capsys, "job")
    pod_of(found)["gracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job_of(found), "1.31", strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_has_what_a_host_of_a_job_needs(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = objects(capsys, kind, "--hosts", "3", "--stop-limit-s", "90", "--name", "mnist")
    spec, pod = job_of(found)["spec"], pod_of(found)
    [container] = pod["containers"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 3
    assert pod["restartPolicy"] == "Never"
    assert pod["enableServiceLinks"] is False
    assert pod["terminationGracePeriodSeconds"] == 90
    assert container["command"] == ["supervisor", "train"]
    assert container["args"] == ["--", "/app/train.py", "--lr", "0.1"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"train": 2222, "ps": 2223, "status": 2224, "mwms": 8890}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "status"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "status"}
    assert container["terminationMessagePath"] == "/dev/termination-log"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    environ = environment_of(found)
    assert environ["SUPERVISOR_HOST_COUNT"] == "3"
    assert environ["SUPERVISOR_STOP_LIMIT_S"] == "90"
    assert environ["SUPERVISOR_HOST_DOMAIN"] == "mnist.$(POD_NAMESPACE).svc"
    assert [*environ].index("POD_NAMESPACE") < [*environ].index("SUPERVISOR_HOST_DOMAIN")
    mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert {each["name"] for each in pod["volumes"]} == {*mounted.values()}
    assert environ["SUPERVISOR_BASE_DIR"] in mounted
    assert not [name for name in mounted if name.startswith("/opt/ml")], "it would hide the image's"


def test_sshd_has_a_port_that_a_user_may_open(capsys: pytest.CaptureFixture[str]) -> None:
    mpi = ("--hosts", "2", "--strategy", "mpi")
    assert environment_of(objects(capsys, "job", *mpi))["SUPERVISOR_MPI_SSH_PORT"] == "2022"
    given = objects(capsys, "job", *mpi, "--env", "SUPERVISOR_MPI_SSH_PORT=2200")
    assert environment_of(given)["SUPERVISOR_MPI_SSH_PORT"] == "2200"


def test_the_service_names_the_pods_of_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    service, job = objects(capsys, "job", "--hosts", "2", "--namespace", "lab")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["metadata"]["namespace"] == job["metadata"]["namespace"] == "lab"
    environ = environment_of([job])
    assert environ["SUPERVISOR_HOST_DOMAIN"] == f"{service['metadata']['name']}.lab.svc"
    assert "POD_NAMESPACE" not in environ


def test_a_set_has_its_service_made_and_tells_its_attempt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By hand, since a CRD's schema is in no package: ``jobset_types.go`` of v1alpha2, and what its
    webhook refuses."""
    [found] = objects(capsys, "jobset", "--restarts", "5", "--deadline-s", "60", "--hosts", "2")
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    spec = found["spec"]
    assert spec.keys() == {"network", "failurePolicy", "replicatedJobs"}
    assert spec["network"] == {
        "enableDNSHostnames": True,
        "publishNotReadyAddresses": True,
        "subdomain": found["metadata"]["name"],
    }
    [replicated] = spec["replicatedJobs"]
    assert replicated.keys() == {"name", "replicas", "template"}
    assert "subdomain" not in replicated["template"]["spec"]["template"]["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 5
    assert replicated["template"]["spec"]["backoffLimit"] == 0
    for rule in spec["failurePolicy"]["rules"]:
        assert rule.keys() == {"name", "action", "onJobFailureReasons"}
        assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        assert rule["action"] == "FailJobSet"
    reasons = [rule["onJobFailureReasons"] for rule in spec["failurePolicy"]["rules"]]
    assert reasons == [["PodFailurePolicy"], ["DeadlineExceeded"]]
    label = "metadata.labels['jobset.sigs.k8s.io/restart-attempt']"
    assert environment_of([found])["SUPERVISOR_RESTART_COUNT"] == label


@pytest.mark.parametrize("kind", KINDS)
def test_each_pod_finds_the_others_by_what_the_manifests_say(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Job's controller sets the index and names the pod's host after it."""
    found = objects(capsys, kind, "--hosts", "3", "--name", "mnist", "--strategy", "mwms")
    prefix = job_of(found)["metadata"]["name"]
    pod = environment_of(found) | {"POD_NAMESPACE": "lab", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    if kind == "jobset":
        pod["SUPERVISOR_RESTART_COUNT"] = "2"
    for index in range(3):
        environ = {
            **{key: value.replace("$(POD_NAMESPACE)", "lab") for key, value in pod.items()},
            "JOB_COMPLETION_INDEX": str(index),
            "HOSTNAME": f"{prefix}-{index}",
        }
        world = World(environ, {}, lambda: "", lambda _path: False, lambda _path: "")
        engine = choose(world, has_files=False)
        assert engine.name == "kubernetes"
        assert engine.faults == ()
        assert engine.job is not None
        assert engine.job.hosts == tuple(f"{prefix}-{each}.mnist.lab.svc" for each in range(3))
        assert engine.job.current == engine.job.hosts[index]
        settings, faults = parse_settings({}, environ, {})
        assert not faults
        assert (settings.strategy, settings.stop_limit_s) == ("mwms", 120)
        assert settings.restart_count == (2 if kind == "jobset" else 0)


def test_every_pod_of_an_attempt_counts_and_a_bad_contract_ends_the_job(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = objects(capsys, "job", "--hosts", "4", "--restarts", "3")[-1]["spec"]
    assert spec["backoffLimit"] == 12
    assert spec["podReplacementPolicy"] == "Failed"
    contract, disruption = spec["podFailurePolicy"]["rules"]
    assert contract["action"] == "FailJob"
    assert contract["onExitCodes"]["values"] == [80]
    assert (
        contract["onExitCodes"]["containerName"]
        == pod_of([{"kind": "Job", "spec": spec}])["containers"][0]["name"]
    )
    assert disruption["action"] == "Ignore"
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


@pytest.mark.parametrize("kind", KINDS)
def test_words_and_variables_arrive_as_they_were_given(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = objects(capsys, kind, "--env", "A=$(B) $$ it's\n\u2028", "--", "train.py", *ODD)
    [container] = pod_of(found)["containers"]
    assert expanded(container["args"]) == ["--", "train.py", *ODD]
    words = [*container["command"][1:], *expanded(container["args"])]
    assert trained(words) == ("train.py", *ODD)
    assert expanded([environment_of(found)["A"]]) == ["$(B) $$ it's\n\u2028"]


def expanded(words: list[str]) -> list[str]:
    """As the kubelet expands references to variables, of which there are none."""
    assert not [word for word in words if re.search(r"(?<!\$)(\$\$)*\$\(", word)]
    return [word.replace("$$", "$") for word in words]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_yaml(text: str) -> None:
    written = manifests.as_yaml([{"a": text, text: ["x", text]}])
    assert yaml.safe_load(written) == {"a": text, text: ["x", text]}
    assert all(line.isprintable() for line in written.splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_readable_and_says_why(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *("kubernetes", "--kind", kind, "--image", "i", "--hosts", "3"), "t.py")
    lines = text.splitlines()
    assert not [line for line in lines if len(line) > 100 or line != line.rstrip()]
    at = next(i for i, line in enumerate(lines) if "terminationGracePeriodSeconds" in line)
    assert lines[at - 1].lstrip().startswith("# ")
    assert "SUPERVISOR_STOP_LIMIT_S: change both" in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_name_fits(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name's letters are for the pods too: one more is refused (see above)."""
    name = "a" * (55 if kind == "job" else 48)
    found = objects(capsys, kind, "--name", name, "--hosts", "10")
    assert len(f"{job_of(found)['metadata']['name']}-9-abcde") == 63


# --------------------------------------------------------------------------- the guide


def test_what_the_guide_says_to_type_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "supervisor" / "guide" / "launch.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    typed = [
        shlex.split(re.split("[|>]", line)[0], comments=True)
        for line in blocks.replace("\\\n", " ").splitlines()
        if line.startswith("supervisor launch ")
    ]
    assert len(typed) >= 4
    for words in typed:
        assert printed(capsys, *words[2:])
