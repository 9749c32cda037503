"""``supervisor doctor``: what it makes of what it sees, and what it sees of a real machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from supervisor.contract.contract import read_contract
from supervisor.contract.distribution import Strategy
from supervisor.contract.facts import Facts
from supervisor.engines.local import lay_out
from supervisor.faults import Fault
from supervisor.plan.plan import make_plan
from supervisor.plan.requirements import Conflict
from supervisor.verbs.doctor import Check, Disk, Gpus, Sight, State, diagnose
from tests.helpers.aio import free_port
from tests.helpers.job import COMMAND, Job, environment

pytestmark = pytest.mark.twice

GIB = 1 << 30
NOW = 1_700_000_000.0


def facts(strategy: str = "ps", hosts: int = 3, **environ: str) -> Facts:
    names = [f"algo-{number}" for number in range(1, hosts + 1)]
    hyperparameters = {"sagemaker_program": "train.py"}
    if strategy == "ps":
        hyperparameters["sagemaker_parameter_server_enabled"] = "true"
    return Facts(
        base_dir="/opt/ml",
        environ=environ,
        files={
            "hyperparameters.json": json.dumps(hyperparameters).encode(),
            "resourceconfig.json": json.dumps({"current_host": "algo-1", "hosts": names}).encode(),
        },
        code=frozenset({"train.py"}),
        tensorflow_version="2.21.0",
    )


def sight(strategy: str = "ps", hosts: int = 3, **environ: str) -> Sight:
    """A host on which all is well."""
    seen = facts(strategy, hosts, **environ)
    plan = make_plan(read_contract(seen))
    return Sight(
        facts=seen,
        plan=plan,
        faults=(),
        has_contract=True,
        addresses={name: (f"10.0.0.{at}",) for at, name in enumerate(plan.hosts)},
        ports=(2222, 2223, 2224),
        directories=("/opt/ml/model",),
        disks={"/opt/ml/model": Disk(50 * GIB, 1_000_000)},
        python=(3, 12, 1),
        packages={"tensorflow": "2.21.0"},
        gpus=Gpus(installed=False),
        now=NOW,
        newest_file=NOW - 3600,
    )


def named(checks: list[Check], name: str) -> list[Check]:
    return [check for check in checks if check.check == name]


def not_ok(seen: Sight) -> list[Check]:
    return [check for check in diagnose(seen) if check.state is not State.OK]


# --------------------------------------------------------------------------- what it means


def test_a_sound_host_has_nothing_to_remedy() -> None:
    checks = diagnose(sight())
    assert {check.state for check in checks} == {State.OK}
    assert [check for check in checks if check.remedy] == []
    assert "algo-1, 3 hosts, parameter servers" in named(checks, "contract")[0].found
    assert named(checks, "ports")[0].found == "2222, 2223, 2224 free"


@pytest.mark.parametrize(
    ("bind", "address", "found"),
    [
        ("0.0.0.0", "fd77::1", "bound to 0.0.0.0: nobody comes there over IPv6"),
        ("fd77::1", "10.0.0.1", "bound to fd77::1: nobody comes there over IPv4"),
        ("0.0.0.0", "10.0.0.1", ""),
        ("auto", "fd77::1", ""),
        ("::", "10.0.0.1", ""),
    ],
)
def test_a_status_port_of_the_other_family(bind: str, address: str, found: str) -> None:
    """Hosts with IPv6 alone waited for each other until the join timeout, without a word why."""
    seen = sight(SUPERVISOR_STATUS_BIND=bind)
    others = {host: (f"{address}{number}",) for number, host in enumerate(seen.addresses)}
    red = not_ok(replace(seen, addresses=others | {"algo-1": (address,)}))
    assert [check.state for check in red] == [State.RED] * bool(found)
    assert not red or found in red[0].found


@pytest.mark.parametrize(
    ("change", "check", "state", "found"),
    [
        ({"taken": ("port 2222 is held by pid 7 (x)",)}, "ports", "red", "pid 7"),
        ({"unwritable": {"/opt/ml/model": "read-only"}}, "directories", "red", "read-only"),
        ({"disks": {"/m": Disk(10 << 20, None)}}, "disk", "red", "/m: 10 MiB free"),
        ({"disks": {"/m": Disk(500 << 20, None)}}, "disk", "warn", "/m: 500 MiB free"),
        ({"disks": {"/m": Disk(50 * GIB, 3)}}, "disk", "red", "no more files"),
        ({"programs": {"mpirun": True, "ssh": False}}, "MPI", "red", "not found: ssh"),
        ({"python": (3, 9, 1)}, "Python", "warn", "3.9.1"),
        ({"python": (3, 14, 0)}, "Python", "warn", "3.14.0"),
        ({"packages": {}}, "TensorFlow", "red", "not installed"),
        ({"packages": {"tensorflow": "2.11.1"}}, "TensorFlow", "warn", "2.11.1"),
        (
            {"packages": {"tensorflow": "2.21.0", "keras": "3.15.1"}},
            "Keras",
            "warn",
            "fit() does not work",
        ),
        ({"gpus": Gpus(error="has not answered within 2 s")}, "GPUs", "warn", "within 2 s"),
        (
            {"gpus": Gpus(("GPU 0: T4",)), "packages": {"tensorflow-cpu": "2.21.0"}},
            "GPUs",
            "warn",
            "ignores",
        ),
        ({"entry_error": "SyntaxError: invalid"}, "entry point", "red", "SyntaxError"),
        ({"conflicts": (), "has_pip": False}, "requirements", "red", "has no pip"),
        ({"now": NOW - 10_000}, "clock", "red", "before the newest file"),
        ({"own_is_here": False}, "host names", "red", "no address of this machine"),
    ],
)
def test_each_fault_is_one_line_with_a_remedy(
    change: Mapping[str, Any], check: str, state: str, found: str
) -> None:
    [line] = not_ok(replace(sight(), **change))
    assert (line.check, line.state) == (check, state)
    assert found in line.found
    assert line.remedy


def test_our_own_name_has_to_resolve_others_may_still_come() -> None:
    seen = sight()
    lost: dict[str, tuple[str, ...] | str] = dict.fromkeys(("algo-1", "algo-2"), "no such name")
    lost["algo-3"] = ("10.0.0.3",)
    lines = named(diagnose(replace(seen, addresses=lost)), "host names")
    assert [line.state for line in lines] == [State.RED, State.WARN, State.OK]
    assert lines[-1].found == "1 of 3 resolve"


def test_two_names_at_one_address_are_red() -> None:
    """The job failed with "port 2224 is held", and doctor was green."""
    both = {"algo-1": ("10.0.0.1",), "algo-2": ("10.0.0.2", "10.0.0.1"), "algo-3": ("10.0.0.3",)}
    [line] = not_ok(replace(sight(), addresses=both))
    assert line.state is State.RED
    assert line.found.startswith("algo-1 and algo-2 both lead to 10.0.0.1, ")


def test_the_name_of_a_host_alone_is_nobodys_business() -> None:
    """doctor was red, and the job ran: nothing asks for the name."""
    seen = replace(sight("none", 1), addresses={"algo-1": "no such name"})
    assert not_ok(seen) == []
    assert not_ok(replace(sight("none", 1), own_is_here=False)) == []


def test_a_host_alone_runs_without_its_status_port() -> None:
    seen = replace(sight("none", 1), ports=(2224,), taken=("port 2224 is held by pid 7 (x)",))
    [line] = not_ok(seen)
    assert (line.check, line.state) == ("ports", State.WARN)
    assert "pid 7" in line.found


def test_the_ports_of_a_job_that_runs_here_are_its_own() -> None:
    """``docker exec HOST supervisor doctor`` beside the job was red."""
    taken = tuple(f"port {port} is held by pid 7 (x)" for port in (2222, 2223, 2224))
    [line] = not_ok(replace(sight(), taken=taken, runs_here=True))
    assert (line.check, line.state) == ("ports", State.WARN)
    assert "this host's own job" in line.found


def test_public_buckets_need_no_credentials() -> None:
    words = {"SUPERVISOR_CHANNEL_X": "s3://bucket/x", "SUPERVISOR_S3_ANONYMOUS": "true"}
    seen = replace(sight("none", 1, **words), places={"x s3://bucket/x": ""})
    assert not_ok(seen) == []


def test_every_fault_of_a_contract_is_listed() -> None:
    faults = (Fault("a.json", "k", "1", "a string"), Fault("b.json", "", "no such file", "a file"))
    seen = replace(sight(), plan=None, faults=faults)
    lines = [line for line in diagnose(seen) if line.state is State.RED]
    assert [line.found for line in lines] == ["a.json: k: 1", "b.json: no such file"]
    assert [line.remedy for line in lines] == ["expected a string", "expected a file"]


def test_without_a_contract_the_machine_is_looked_at() -> None:
    seen = replace(sight(), plan=None, has_contract=False, addresses={}, ports=())
    checks = diagnose(seen)
    assert {check.state for check in checks} == {State.OK}
    assert "none below /opt/ml" in named(checks, "contract")[0].found
    assert "supervisor local" in named(checks, "ports")[0].found
    assert named(checks, "host names") == named(checks, "entry point") == []


@pytest.mark.parametrize(
    ("setting", "version", "state"),
    [
        ("auto", "2.21.0", State.OK),
        ("chief", "2.21.0", State.OK),
        ("master", "2.21.0", State.WARN),
        ("auto", "1.15.5", State.OK),
        ("master", "1.15.5", State.OK),
        ("chief", "1.15.5", State.WARN),
    ],
)
def test_the_chiefs_name_fits_the_tensorflow(setting: str, version: str, state: State) -> None:
    seen = sight(SUPERVISOR_CHIEF_NAME=setting)
    [line] = named(diagnose(replace(seen, packages={"tensorflow": version})), "chief's name")
    assert line.state is state


def test_a_script_alone_may_do_without_tensorflow() -> None:
    [line] = not_ok(replace(sight("none", 1), packages={}))
    assert (line.check, line.state) == ("TensorFlow", State.WARN)


def test_what_the_plan_says_to_people_is_a_warning() -> None:
    seen = sight()
    assert seen.plan is not None
    plan = replace(seen.plan, notes=("requirements.txt is ignored: put it into the image",))
    [line] = not_ok(replace(seen, plan=plan))
    assert line == Check(
        "contract", State.WARN, "requirements.txt is ignored", "put it into the image"
    )


@pytest.mark.parametrize(("setting", "state"), [("keep", State.RED), ("replace", State.WARN)])
def test_each_conflict_of_the_requirements_is_one_line(setting: str, state: State) -> None:
    found = (
        Conflict("requirements.txt", 2, "tensorflow==2.3.0", "tensorflow-cpu", "2.21.0"),
        Conflict("more.txt", 1, "numpy<2", "numpy", "2.3.1"),
    )
    seen = sight(SUPERVISOR_REQUIREMENTS=setting)
    lines = not_ok(replace(seen, conflicts=found))
    assert [(line.check, line.state) for line in lines] == [("requirements", state)] * 2
    for line, each in zip(lines, found, strict=True):
        assert line.found.startswith(f"{each.file} line {each.line}: {each.requirement} would")
        assert f"{each.name} {each.version}" in line.found
        assert f"{each.name} {each.version}" in line.remedy
        assert "SUPERVISOR_REQUIREMENTS=replace" in line.found + line.remedy


@pytest.mark.parametrize(
    ("environ", "state"),
    [
        ({}, State.WARN),
        ({"AWS_ACCESS_KEY_ID": "x"}, State.RED),
        ({"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "hidden-away"}, State.OK),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"}, State.OK),
        ({"AWS_PROFILE": "x"}, State.OK),
    ],
)
def test_credentials_matter_where_the_contract_names_s3(
    environ: dict[str, str], state: State
) -> None:
    seen = sight("ps", 3, **environ)
    assert named(diagnose(seen), "credentials") == []
    channels = b'{"train": {"S3Uri": "s3://bucket/x"}}'
    with_s3 = seen.facts._replace(files={**seen.facts.files, "inputdataconfig.json": channels})
    [line] = named(diagnose(replace(seen, facts=with_s3)), "credentials")
    assert line.state is state
    assert "hidden-away" not in line.found
    [line] = named(diagnose(replace(seen, places={"model s3://bucket/x": ""})), "credentials")
    assert line.state is state


# --------------------------------------------------------------------------- a real machine


def doctor(*words: str, cwd: pathlib.Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in environment().items() if "SAGEMAKER" not in key}
    return subprocess.run(
        [*COMMAND, "doctor", *words],
        env={**clean, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def checks_of(result: subprocess.CompletedProcess[str]) -> list[Check]:
    document = json.loads(result.stdout)
    checks = [
        Check(row["check"], State(row["state"]), row["found"], row["remedy"])
        for row in document["checks"]
    ]
    assert document["ok"] is (result.returncode == 0)
    assert document["ok"] is all(check.state is not State.RED for check in checks)
    return checks


def contract(tmp_path: pathlib.Path, source: str = "print('trained')\n") -> str:
    script = tmp_path / "train.py"
    script.write_text(source)
    host, *_ = lay_out(str(tmp_path / "run"), 2, Strategy.PS, str(script), (), {})
    return host.base_dir


def test_requirements_are_held_against_what_is_installed(tmp_path: pathlib.Path) -> None:
    """The file of the code directory and those it includes; what is missing is no conflict."""
    (tmp_path / "requirements.txt").write_text("not-installed-here==1\n-r more.txt\n")
    (tmp_path / "more.txt").write_text("# pinned\npackaging==0.1\n")
    base = contract(tmp_path)
    checks = checks_of(doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=base))
    [line] = named(checks, "requirements")
    version = importlib.metadata.version("packaging")
    assert line.state is State.RED
    assert line.found.startswith(
        f"more.txt line 2: packaging==0.1 would replace packaging {version}"
    )

    (tmp_path / "more.txt").write_text(f"packaging=={version}\n")
    checks = checks_of(doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=base))
    assert [line.state for line in named(checks, "requirements")] == [State.OK]

    skip = {"SUPERVISOR_REQUIREMENTS": "skip"}
    checks = checks_of(doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=base, **skip))
    assert named(checks, "requirements") == []


@pytest.mark.twice
def test_every_place_is_asked(tmp_path: pathlib.Path) -> None:
    base = contract(tmp_path)
    (tmp_path / "wall").touch()
    env = {
        "SAGEMAKER_BASE_DIR": base,
        "SUPERVISOR_CHECKPOINT_S3_URI": str(tmp_path / "kept"),
        "SUPERVISOR_MODEL_S3_URI": "s3://no-bucket/model",
        "SUPERVISOR_CHANNEL_TRAIN": "s3://no-bucket/train",
        "SUPERVISOR_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "SUPERVISOR_S3_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    checks = checks_of(doctor("--json", cwd=tmp_path, **env))
    places = {check.check: check for check in checks if check.check.startswith("storage: ")}
    assert set(places) == {
        f"storage: checkpoints file://{tmp_path}/kept",
        "storage: model s3://no-bucket/model",
        "storage: channel train s3://no-bucket/train",
    }
    red = places["storage: model s3://no-bucket/model"]
    assert (red.state, places[f"storage: checkpoints file://{tmp_path}/kept"].state) == (
        State.RED,
        State.OK,
    )
    assert red.found.startswith("ListObjectsV2 s3://no-bucket/model")
    assert "check the network and the endpoint" in red.found


@pytest.mark.parametrize(("host", "ports"), [("algo-1", 1), ("algo-2", 2)])
def test_an_mpi_job_is_looked_at_too(tmp_path: pathlib.Path, host: str, ports: int) -> None:
    """The table of strategies lacked it, so that ``doctor`` ended in a traceback."""
    base = pathlib.Path(contract(tmp_path)).parent / host
    hyper = base / "input/config/hyperparameters.json"
    values = json.loads(hyper.read_text())
    del values["sagemaker_parameter_server_enabled"]
    hyper.write_text(json.dumps({**values, "sagemaker_mpi_enabled": "true"}))
    checks = checks_of(doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=str(base)))
    assert named(checks, "contract")[0].found.endswith(f"{host}, 2 hosts, MPI")
    [line] = named(checks, "ports")  # the members' sshd needs one, the master has none
    assert len(line.found.removesuffix(" free").split(", ")) == ports
    [programs] = named(checks, "MPI")
    assert ("ssh-keygen" if host == "algo-2" else "mpirun") in programs.found


def ports_of(base: str) -> dict[str, int]:
    overlay = pathlib.Path(base, "input/config/supervisorconfig.json")
    ports: dict[str, int] = json.loads(overlay.read_text())["hosts"]["algo-1"]["ports"]
    return ports


def test_a_laptop_without_a_contract(tmp_path: pathlib.Path) -> None:
    result = doctor(cwd=tmp_path)
    assert result.stdout.startswith("CHECK")
    assert "none below /opt/ml" in result.stdout
    assert str(tmp_path) in result.stdout
    assert result.stderr == ""
    assert os.listdir(tmp_path) == []


def test_a_directory_that_was_named_must_hold_a_contract(tmp_path: pathlib.Path) -> None:
    result = doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=str(tmp_path))
    assert result.returncode == 1
    red = [check.found for check in checks_of(result) if check.state is State.RED]
    assert len([found for found in red if "sagemaker_program" in found]) == 1


@pytest.mark.tensorflow
def test_a_sound_contract_passes_and_nothing_is_started(tmp_path: pathlib.Path) -> None:
    base = contract(tmp_path, "open('started', 'w')\n")
    result = doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=base)
    checks = checks_of(result)
    assert [check for check in checks if check.state is State.RED] == []
    assert named(checks, "host names")[0].found == "2 of 2 resolve"
    assert named(checks, "ports")[0].found.endswith(" free")
    assert not (tmp_path / "started").exists()


def test_a_port_that_is_taken_names_its_holder(tmp_path: pathlib.Path) -> None:
    base = contract(tmp_path)
    port = ports_of(base)["ps"]
    with socket.create_server(("127.0.0.1", port)):
        result = doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=base)
    [line] = named(checks_of(result), "ports")
    assert line.state is State.RED
    assert f"port {port} is held by pid {os.getpid()}" in line.found


def test_a_script_that_cannot_be_compiled_is_red(tmp_path: pathlib.Path) -> None:
    base = contract(tmp_path, "def train(:\n")
    [line] = named(
        checks_of(doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=base)), "entry point"
    )
    assert line.state is State.RED
    assert "SyntaxError" in line.found
    assert "train.py, line 1" in line.found


@pytest.mark.parametrize(
    ("program", "files", "env", "found"),
    [
        ("", [], {"SUPERVISOR_COMMAND": "true {args}"}, ""),
        ("", [], {"SUPERVISOR_COMMAND": "no-such-program"}, "no-such-program is not found"),
        ("-m json.tool", [], {}, ""),
        ("-m no_such_package.train", [], {}, "there is no "),
        ("trainer", ["pyproject.toml", "trainer/__main__.py"], {}, ""),
        ("later.py", [], {"SAGEMAKER_SUBMIT_DIRECTORY": "/SOMEWHERE/code.tar.gz"}, ""),
    ],
)
def test_entry_points_that_are_no_file_are_not_looked_for_as_one(
    tmp_path: pathlib.Path, program: str, files: list[str], env: dict[str, str], found: str
) -> None:
    """A command of the settings, a module of the image, a package, code that is still to be
    fetched: each was red, though the job ran; a command that is nowhere was not."""
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(json.dumps({"sagemaker_program": program}))
    code = tmp_path / "code"
    for name in files:
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).touch()
    result = doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=str(tmp_path), **env)
    [line] = named(checks_of(result), "entry point")
    assert line.state is (State.RED if found else State.OK)
    assert found in line.found


def test_checkpoints_elsewhere_are_looked_for_there(tmp_path: pathlib.Path) -> None:
    base = contract(tmp_path)
    pathlib.Path(base, "checkpoints").write_text("in the way, and nobody's")
    place = str(tmp_path / "elsewhere")
    found = doctor(
        "--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=base, SUPERVISOR_CHECKPOINT_LOCAL_DIR=place
    )
    [line] = named(checks_of(found), "directories")
    assert line.state is State.OK
    assert place in line.found


def test_beside_its_own_job(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text("import time\ntime.sleep(60)\n")
    with Job(tmp_path / "run", "--hosts", "2", "--strategy", "none", str(script)) as job:
        job.wait_for(r"algo-2 supervisor │ .* process.started")
        job.wait_for(r"algo-1 supervisor │ .* process.started")
        result = doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=str(job.host_dir("algo-1")))
        [line] = named(checks_of(result), "ports")
        assert (line.state, line.found) == (State.WARN, "1 held by this host's own job, which runs")
        assert result.returncode == 0


def test_a_directory_that_cannot_be_made_is_red(tmp_path: pathlib.Path) -> None:
    base = contract(tmp_path)
    pathlib.Path(base, "model").write_text("in the way")
    [line] = named(
        checks_of(doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=base)), "directories"
    )
    assert line.state is State.RED
    assert "/model cannot be written" in line.found


def test_a_name_that_nobody_knows(tmp_path: pathlib.Path) -> None:
    base = contract(tmp_path)
    overlay = pathlib.Path(base, "input/config/supervisorconfig.json")
    content = json.loads(overlay.read_text())
    content["hosts"]["algo-2"]["address"] = "nobody.invalid"  # RFC 6761: never resolves
    overlay.write_text(json.dumps(content))
    result = doctor("--json", cwd=tmp_path, SAGEMAKER_BASE_DIR=base)
    lines = named(checks_of(result), "host names")
    assert [line.state for line in lines] == [State.WARN, State.OK]
    assert "algo-2" in lines[0].found


@pytest.mark.parametrize(
    ("body", "state", "found"),
    [
        ("echo 'GPU 0: Tesla T4 (UUID: GPU-1)'", State.WARN, "1, which tensorflow-cpu ignores"),
        ("echo 'No devices were found'; exit 6", State.WARN, "No devices were found"),
        ("exec sleep 60", State.WARN, "has not answered within 2 s"),
    ],
)
def test_nvidia_smi_is_asked_in_bounded_time(
    tmp_path: pathlib.Path, body: str, state: State, found: str
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    began = time.monotonic()
    [line] = named(checks_of(doctor("--json", cwd=tmp_path, PATH=path)), "GPUs")
    assert time.monotonic() - began < 30
    if "ignores" in found and line.state is State.OK:
        assert line.found == "GPU 0: Tesla T4"  # where TensorFlow with CUDA is installed
        return
    assert line.state is state
    assert found in line.found


@pytest.mark.tensorflow
def test_a_setting_that_is_unknown_is_red_without_a_contract_too(tmp_path: pathlib.Path) -> None:
    result = doctor("--json", cwd=tmp_path, SUPERVISOR_STOP_GRACE="3")
    [line] = [check for check in checks_of(result) if check.state is State.RED]
    assert "SUPERVISOR_STOP_GRACE" in line.found
    assert "SUPERVISOR_STOP_GRACE_S" in line.remedy


def test_the_verbs_that_run_no_job_end_of_a_signal(tmp_path: pathlib.Path) -> None:
    """Signals were held for every verb, so ``status --watch`` could not be interrupted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        process = subprocess.Popen(
            [*COMMAND, "status", "--watch", f"http://127.0.0.1:{server.getsockname()[1]}"],
            env=environment(),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            connection, _ = server.accept()  # it waits for an answer
            with connection:
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == -signal.SIGTERM
        finally:
            process.kill()
            process.wait()


def test_help_names_every_verb() -> None:
    result = subprocess.run(
        [*COMMAND, "--help"], env=environment(), capture_output=True, text=True, check=True
    )
    for verb in ("train", "local", "plan", "status", "doctor"):
        assert f"\n    {verb} " in result.stdout
    wrong = subprocess.run(
        [sys.executable, "-P", "-m", "supervisor", "heal"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2
    assert "doctor" in wrong.stderr
