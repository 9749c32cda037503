"""Requirements and packages: judged before pip starts, installed by it, and why they could not."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.plan.installation import installed_versions
from supervisor.plan.requirements import code_artifact, conflicts, constraints, diagnosis
from tests.helpers import schemas
from tests.helpers.job import environment, processes_with
from tests.helpers.tree import RECORDINGS, ROOT
from tests.helpers.waiting import wait_until
from tests.helpers.wheels import layered_python, write_wheel

pytestmark = pytest.mark.twice

IMAGE = {"tensorflow": "2.21.0", "numpy": "2.4.6", "pip": "25.0", "six": "1.17.0"}


TENSORFLOWS = {"tensorflow", "tensorflow-cpu"}


def found(text: str, files: dict[str, str] | None = None) -> list[str]:
    texts = {"requirements.txt": text, **(files or {})}
    return [str(each) for each in conflicts("requirements.txt", texts.get, IMAGE)]


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy>=2",
        "NumPy ~= 2.4",
        "pandas==1.0",
        "tensorflow==2.21.0",
        "tensorflow==2.15; python_version < '3'",
        "# tensorflow==2.15",
        "--index-url https://index.test/simple",
        "./wheels/tensorflow-2.15.whl",
        "",
    ],
)
def test_requirements_that_the_image_meets_or_does_not_know(line: str) -> None:
    assert found(line) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tensorflow==2.15.0", "line 1: tensorflow==2.15.0 would replace tensorflow 2.21.0"),
        ("TensorFlow < 2.16  # old", "TensorFlow<2.16 would replace tensorflow 2.21.0"),
        ("\n\nnumpy<2 ; python_version>'3'", "line 3: numpy<2 would replace numpy 2.4.6"),
        ("tensorflow-cpu==2.15", "tensorflow-cpu==2.15 would replace tensorflow 2.21.0"),
        ("numpy[x]<2", "numpy<2 would replace numpy 2.4.6"),
        ("numpy \\\n  <2", "line 1: numpy<2"),
        ("six==1.0 --hash=sha256:abc", "six==1.0 would replace six 1.17.0"),
        ("numpy @ https://x.test/numpy-1-py3-none-any.whl", "@ https://x.test/numpy-1"),
    ],
)
def test_requirements_that_would_replace_a_package_of_the_image(line: str, words: str) -> None:
    (text,) = found(line)
    assert words in text


def test_included_files_are_read_and_include_each_other_no_more_than_a_few_times() -> None:
    texts = {"more/a.txt": "numpy<2\n-r b.txt", "more/b.txt": "-r a.txt"}
    lines = found("-r more/a.txt", files=texts)
    assert 1 <= len(lines) <= 8
    assert lines[0] == "more/a.txt line 1: numpy<2 would replace numpy 2.4.6 of the image"


def test_constraints_pin_the_image_and_not_its_tools() -> None:
    lines = constraints({"tensorflow-cpu": "2.21.0", "numpy": "2.4.6", "pip": "25"}).splitlines()
    assert "numpy==2.4.6" in lines
    assert "tensorflow==2.21.0" in lines, "the same package under another name"
    assert not [line for line in lines if line.startswith("pip=")]


_RETRY = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after"
    " connection broken by '{}': /simple/six/"
)
_NEW = "NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: {}')"
_NONE = [
    "ERROR: Could not find a version that satisfies the requirement six>9 (from versions: none)",
    "ERROR: No matching distribution found for six>9",
]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([_RETRY.format(_NEW.format("[Errno 111] Connection refused")), *_NONE],
         "no route to the package index: Connection refused (asked for /simple/six/)"),
        ([_RETRY.format(_NEW.format("[Errno -2] Name or service not known")), *_NONE],
         "index: Name or service not known"),
        ([_RETRY.format("ConnectTimeoutError(<x>, 'Connection to x timed out.')"), *_NONE],
         "index: no connection in time"),
        ([_RETRY.format('ReadTimeoutError("x: Read timed out. (read timeout=8.0)")'), *_NONE],
         "index: no answer in time"),
        (_NONE, "the index has no distribution for six>9"),
        (["  Downloading x.whl", "ERROR: [Errno 28] No space left on device"], "a disk is full"),
        (["The conflict is caused by:", "    a 1.0 depends on numpy<2",
          "    The user requested (constraint) numpy==2.4.6", "", "To fix this"],
         "a 1.0 depends on numpy<2, and the image has numpy 2.4.6"),
        (["ERROR: Invalid requirement: '=='", "[notice] a new release of pip"],
         "Invalid requirement: '=='"),
        ([], "pip said nothing"),
    ],
)  # fmt: skip
def test_why_pip_failed(lines: list[str], words: str) -> None:
    assert words in diagnosis(lines)


RECORDED = {
    "cfail": "cfail: cfail.c:1:11: error: expected declaration specifiers",
    "hdr": "hdr: hdr.c:1:10: fatal error: nosuchlib/api.h: No such file or directory",
    "raises": "./raises: RuntimeError: CUDA_HOME is not set",
    "git": "y: fatal: unable to access 'https://example.invalid/x/y.git/': Could not resolve host",
    "gitlocal": "y: fatal: '/nosuch/repo' does not appear to be a git repository",
    "nogit": "Cannot find command 'git' - do you have 'git' installed and in your PATH?",
    "hash": "six==1.16.0 is not the file whose hash is given: Expected sha256 0000",
    "pyver": "Package 'pyver' requires a different Python: 3.11.7 not in '>=3.99'",
    "nobe": "ModuleNotFoundError: No module named 'nosuch'",
    "missing": "the index has no distribution for nosuchpackage-zz-00",
    "version": "the index has no distribution for six==99.0",
    "conflict": "The user requested six==1.16.0; The user requested six==1.15.0",
}
"""Recorded of pip, file → what the cause begins with."""


@pytest.mark.parametrize("name", RECORDED)
def test_the_line_that_says_why_is_the_cause_and_not_pips_headline(name: str) -> None:
    """Whatever pip ran and failed was called ``subprocess-exited-with-error``."""
    path = RECORDINGS / "pip" / f"{name}.txt"
    assert diagnosis(path.read_text().split("\n")).startswith(RECORDED[name])


def test_a_version_for_another_python_is_said() -> None:
    ignored = "1.0 Requires-Python >=3.99; 1.1 Requires-Python >=3.99"
    lines = [
        f"ERROR: Ignored the following versions that require a different python version: {ignored}",
        "ERROR: Could not find a version that satisfies the requirement x==1.0 (from versions: )",
        "ERROR: No matching distribution found for x==1.0",
    ]
    assert diagnosis(lines).endswith("(there is one for Python >=3.99)")


def test_arns() -> None:
    found = code_artifact("arn:aws:codeartifact:eu-west-1:123:repository/team/py/x")
    assert found is not None
    assert (found.region, found.domain, found.repository) == ("eu-west-1", "team", "py/x")
    assert code_artifact("arn:aws:s3:::bucket") is None


# --------------------------------------------------------------------------- whole runs


class Host:
    """One host whose Python installs into a place of its own."""

    def __init__(self, base: pathlib.Path, python: str) -> None:
        self.base, self.python = base, python
        self.code = base / "code"
        self.code.mkdir(parents=True)
        self.lay_out("import wares; print('sold', wares.PRICE)")

    def lay_out(self, script: str, program: str = "train.py", requirements: str = "wares") -> None:
        config = self.base / "input" / "config"
        config.mkdir(parents=True, exist_ok=True)
        (self.code / "train.py").write_text(script)
        (self.code / "requirements.txt").write_text(requirements)
        hyper = {"sagemaker_program": program}
        (config / "hyperparameters.json").write_text(json.dumps(hyper))
        resources = {"current_host": "algo-1", "hosts": ["algo-1"]}
        (config / "resourceconfig.json").write_text(json.dumps(resources))

    def start(self, **env: str) -> subprocess.Popen[bytes]:
        clean = {k: v for k, v in environment().items() if not k.startswith("PIP_")}
        return subprocess.Popen(
            [self.python, "-P", "-m", "supervisor", "train"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean | {"SAGEMAKER_BASE_DIR": str(self.base), "PIP_CONFIG_FILE": os.devnull} | env,
        )

    def run(self, **env: str) -> tuple[int, str, str]:
        with self.start(**env) as process:
            try:
                out, err = process.communicate(timeout=90)
            finally:
                process.kill()
        assert not processes_with(f"SAGEMAKER_BASE_DIR={self.base}")
        return process.returncode, out.decode(), err.decode()

    @property
    def failure(self) -> str:
        return (self.base / "output" / "failure").read_text()

    @property
    def report(self) -> dict[str, Any]:
        path = self.base / "output" / "supervisor" / "report.json"
        return schemas.read("report", path.read_text())


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path / "ml", layered_python(tmp_path / "python"))


def test_a_local_wheel_installs_offline_and_the_script_imports_it(host: Host) -> None:
    write_wheel(host.code / "wheels", "wares", "1.0", "PRICE = 3")
    code, out, err = host.run(PIP_INDEX_URL="http://127.0.0.1:9/simple/")
    assert (code, out) == (0, "sold 3\n"), err
    assert re.search(r"^algo-1 prepare │ .*wares-1\.0", err, re.MULTILINE), "progress is shown"
    step, script = host.report["processes"]
    assert (step["name"], step["role"], step["exit_code"]) == ("requirements", "prepare", 0)
    assert step["ended_at"] <= script["started_at"]
    assert host.report["phases"][0]["seconds"] >= step["seconds"]
    exited = [e for e in host.report["timeline"] if e["event"] == "process.exited"]
    assert exited[0]["process"] == "requirements"
    assert exited[0]["seconds"] > 0


@pytest.mark.tensorflow
def test_a_requirement_that_would_downgrade_tensorflow_is_refused_before_pip(host: Host) -> None:
    version = next(version for name, version in installed_versions().items() if name in TENSORFLOWS)
    host.lay_out("open('../model/ran', 'w')", requirements="wares\ntensorflow==2.3.0\n")
    code, out, err = host.run()
    assert (code, out) == (81, "")
    first = host.failure.splitlines()[0]
    assert first.startswith("algo-1 requirements: requirements.txt line 2: tensorflow==2.3.0 would")
    assert version in first
    assert "SUPERVISOR_REQUIREMENTS=replace" in first
    assert "Collecting" not in err
    assert not (host.base / "model" / "ran").exists()


def test_what_a_dependency_would_replace_is_refused_with_both_versions(host: Host) -> None:
    write_wheel(host.code / "wheels", "wares", "1.0", "PRICE = 3", requires="packaging<2")
    here = importlib.metadata.version("packaging")
    code, _, _ = host.run()
    assert code == 81
    first = host.failure.splitlines()[0]
    assert f"wares 1.0 depends on packaging<2, and the image has packaging {here}" in first


def test_replacing_is_a_setting_and_so_is_skipping(host: Host) -> None:
    write_wheel(host.code / "wheels", "six", "0.1", "PRICE = 4")
    host.lay_out("import six; print(six.PRICE)", requirements="six==0.1")
    code, out, err = host.run(SUPERVISOR_REQUIREMENTS="replace")
    assert (code, out) == (0, "4\n"), err
    host.lay_out("print('alone')", requirements="six==0.2")
    code, out, err = host.run(SUPERVISOR_REQUIREMENTS="skip")
    assert (code, out) == (0, "alone\n")
    assert "requirements.txt is not installed" in err


def test_an_index_that_refuses_is_said_within_its_bound(host: Host) -> None:
    began = time.monotonic()
    code, _, _ = host.run(PIP_INDEX_URL="http://127.0.0.1:9/simple/")
    assert code == 81
    assert time.monotonic() - began < 60
    assert "no route to the package index: Connection refused" in host.failure.splitlines()[0]


@pytest.fixture
def silent_index() -> Iterator[str]:
    """Accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple/"


def test_a_silent_index_is_given_up(host: Host, silent_index: str) -> None:
    code, _, _ = host.run(PIP_INDEX_URL=silent_index, PIP_TIMEOUT="1", PIP_RETRIES="1")
    assert code == 81
    assert "no route to the package index: no answer in time" in host.failure.splitlines()[0]


def test_a_stop_while_installing_ends_it(host: Host, silent_index: str) -> None:
    mark = f"SAGEMAKER_BASE_DIR={host.base}"
    with host.start(PIP_INDEX_URL=silent_index, PIP_TIMEOUT="100") as process:
        wait_until(lambda: len(processes_with(mark)) >= 4, 30, "pip was not started")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143, "0 would be a job that is done"
    assert not processes_with(mark)
    assert host.report["outcome"] == "stopped"
    assert "algo-1 chief: not started before the stop" in host.failure
    assert [p["name"] for p in host.report["processes"] if p["pid"]] == ["requirements"]


def test_preparing_has_a_deadline(host: Host, silent_index: str) -> None:
    code, _, _ = host.run(
        PIP_INDEX_URL=silent_index, PIP_TIMEOUT="100", SUPERVISOR_PREPARE_TIMEOUT_S="2"
    )
    assert code == 81
    assert "not prepared within 2 s (SUPERVISOR_PREPARE_TIMEOUT_S" in host.failure


_BACKEND = """
import pathlib, sys
sys.path.insert(0, {root!r})
from tests.helpers.wheels import write_wheel
def build_wheel(directory, config_settings=None, metadata_directory=None):
    return write_wheel(pathlib.Path(directory), "shop", "2.0",
        "import sys; print('shop', sys.argv[1:], 'site-packages' in __file__)").name
"""


def test_a_package_is_installed_and_run_as_a_module(host: Host) -> None:
    (host.code / "backend.py").write_text(_BACKEND.format(root=str(ROOT)))
    (host.code / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "2.0"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    host.lay_out("", program="shop")
    (host.code / "requirements.txt").unlink()
    code, out, err = host.run(PIP_INDEX_URL="http://127.0.0.1:9/simple/")
    assert (code, out) == (0, "shop [] True\n"), err
    assert [p["name"] for p in host.report["processes"]] == ["package", "chief"]


# --------------------------------------------------------------------------- CodeArtifact

TOKEN = "a-token-of-24-characters-or-more"


class _CodeArtifact(http.server.BaseHTTPRequestHandler):
    """The two operations, and an index behind them that wants the token."""

    wheel: pathlib.Path
    seen: list[str]

    def do_POST(self) -> None:
        assert self.path.startswith("/v1/authorization-token?")
        self._answer({"authorizationToken": TOKEN, "expiration": 1})

    def do_GET(self) -> None:
        if self.path.startswith("/v1/repository/endpoint?"):
            place = f"http://127.0.0.1:{self.headers['Host'].rpartition(':')[2]}/pypi/py/"
            self._answer({"repositoryEndpoint": place})
        elif "Authorization" not in self.headers:
            self.send_response(401)
            self.end_headers()
        elif self.path == "/pypi/py/simple/wares/":
            self.seen.append(self.headers["Authorization"])
            self._send(f'<a href="/{self.wheel.name}">{self.wheel.name}</a>'.encode(), "text/html")
        else:
            self._send(self.wheel.read_bytes(), "application/octet-stream")

    def _answer(self, document: dict[str, object]) -> None:
        self._send(json.dumps(document).encode(), "application/json")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_code_artifact_is_the_index_and_its_token_is_seen_by_nobody(
    host: Host, tmp_path: pathlib.Path
) -> None:
    _CodeArtifact.wheel = write_wheel(tmp_path / "index", "wares", "1.0", "PRICE = 5")
    _CodeArtifact.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _CodeArtifact) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        code, out, err = host.run(
            CA_REPOSITORY_ARN="arn:aws:codeartifact:eu-west-1:123456789012:repository/team/py",
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_address[1]}",
            AWS_ACCESS_KEY_ID="AKIAEXAMPLE",
            AWS_SECRET_ACCESS_KEY="geheim-geheim",
        )
        server.shutdown()
        thread.join()
    assert (code, out) == (0, "sold 5\n"), err
    assert len(_CodeArtifact.seen) == 1
    assert TOKEN not in err
    assert TOKEN not in json.dumps(host.report)


def test_code_artifact_without_access_is_said_with_what_it_needs(host: Host) -> None:
    code, _, _ = host.run(CA_REPOSITORY_ARN="arn:aws:s3:::bucket")
    assert code == 81
    assert "CA_REPOSITORY_ARN is 'arn:aws:s3:::bucket'; expected arn:" in host.failure
