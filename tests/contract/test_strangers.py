"""``SUPERVISOR_…`` variables of other programs: supervisord's, Kubernetes', Docker's, a user's."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from supervisor.contract.settings import TABLE
from supervisor.contract.strangers import LIKELY, SUPERVISORD, is_of_a_service, nearest
from tests.contract.test_contract import HYPER, read, refusal
from tests.helpers.job import COMMAND, environment
from tests.plan.test_plan import PS, plan

SERVICES = {
    # As Kubernetes 1.31 sets them for the services supervisor, supervisor-status and so on.
    "SUPERVISOR_SERVICE_HOST": "10.96.12.7",
    "SUPERVISOR_SERVICE_PORT": "80",
    "SUPERVISOR_SERVICE_PORT_HTTP": "80",
    "SUPERVISOR_PORT": "tcp://10.96.12.7:80",
    "SUPERVISOR_PORT_80_TCP": "tcp://10.96.12.7:80",
    "SUPERVISOR_PORT_80_TCP_ADDR": "10.96.12.7",
    "SUPERVISOR_PORT_80_TCP_PORT": "80",
    "SUPERVISOR_PORT_80_TCP_PROTO": "tcp",
    "SUPERVISOR_STATUS_SERVICE_HOST": "fd00::12",
    "SUPERVISOR_STATUS_PORT": "tcp://[fd00::12]:2224",
    "SUPERVISOR_STATUS_PORT_2224_TCP": "tcp://[fd00::12]:2224",
    "SUPERVISOR_STATUS_PORT_2224_TCP_ADDR": "fd00::12",
    "SUPERVISOR_MPI_SSH_PORT": "tcp://10.96.12.9:22",
    "SUPERVISOR_STATSD_PORT": "udp://10.96.12.9:8125",
    "SUPERVISOR_STATSD_PORT_8125_UDP_PROTO": "udp",
    "SUPERVISOR_CHANNEL_TRAIN_PORT": "tcp://10.96.12.9:80",
    "SUPERVISOR_CHANNEL_TRAIN_SERVICE_HOST": "10.96.12.9",
    # Docker's links.
    "SUPERVISOR_DB_NAME": "/web/supervisor_db",
    "SUPERVISOR_DB_PORT_1_TCP_START": "tcp://172.17.0.5:1",
}


def test_variables_of_services_are_no_settings() -> None:
    """A service called supervisor put exit code 80 into every pod of its namespace."""
    for name, value in SERVICES.items():
        assert is_of_a_service(name, value), name
    contract = read(environ=SERVICES)
    assert contract.settings.status_port == 2224
    assert contract.settings.mpi_ssh_port == 22
    assert contract.settings.channels == ()
    assert contract.notes == ()
    assert contract.variables_of_others == tuple(sorted(SERVICES))
    for value in ("http", "10.0.0.1:80", "tcp://"):
        assert "SUPERVISOR_STATUS_PORT" in refusal(environ={"SUPERVISOR_STATUS_PORT": value})
    assert read(environ={"SUPERVISOR_STATUS_PORT": "80"}).settings.status_port == 80


def test_supervisords_variables_are_no_settings() -> None:
    """What supervisord started ended with exit code 80."""
    contract = read(environ=dict.fromkeys(SUPERVISORD, "x"))
    assert contract.notes == ()
    assert set(contract.variables_of_others) == SUPERVISORD


@pytest.mark.parametrize("name", ["SUPERVISOR_BIN", "SUPERVISOR_DB_PASSWORD", "SUPERVISOR_ENV_X"])
def test_an_unknown_one_is_warned_of_with_the_nearest_name(name: str) -> None:
    """A test's own ``SUPERVISOR_BIN`` was exit code 80."""
    [note] = read(environ={name: "geheim"}).notes
    assert note.startswith(f"{name} is no setting of this program and is left alone: the nearest")
    assert nearest(name, [setting.env for setting in TABLE])[0] in note
    assert "geheim" not in note
    strict = refusal(environ={name: "x", "SUPERVISOR_STRICT_SETTINGS": "true"})
    assert f"environment: {name}: found " in strict


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SUPERVISOR_TOKENS", "SUPERVISOR_TOKEN"),
        ("SUPERVISOR_STOP_GRACE", "SUPERVISOR_STOP_GRACE_S"),
        ("SUPERVISOR_LOG_FROMAT", "SUPERVISOR_LOG_FORMAT"),
        ("SUPERVISOR_WROKER", "SUPERVISOR_WORKER"),
        ("SUPERVISOR_STATUSPORT", "SUPERVISOR_STATUS_PORT"),
    ],
)
def test_one_within_two_letters_of_a_setting_is_meant_for_us(name: str, meant: str) -> None:
    assert f"did you mean {meant}?" in refusal(environ={name: "x"})


def test_no_known_stranger_is_taken_for_a_slip() -> None:
    names = [setting.env for setting in TABLE]
    for name in (*SUPERVISORD, "SUPERVISOR_BIN", "SUPERVISOR_HOST", "SUPERVISOR_PORT"):
        assert nearest(name, names)[1] > 2 or name in LIKELY, name
    for name in LIKELY:
        [note] = read(environ={name: "x"}).notes
        assert "is left alone" in note


def test_the_script_keeps_what_is_not_ours() -> None:
    """All that began with the name was taken from it, supervisord's server too."""
    ours = {"SUPERVISOR_TOKEN": "geheim", "SUPERVISOR_CHANNEL_X": "s3://bucket/x"}
    environ = {**SERVICES, **dict.fromkeys(SUPERVISORD, "x"), "SUPERVISOR_BIN": "y"}
    for spec in plan(PS, 2, environ={**environ, **ours}).processes:
        assert environ.items() <= spec.env.items()
        assert not ours.keys() & spec.env.keys()


def test_doctor_and_status_leave_them_alone_too(tmp_path: pathlib.Path) -> None:
    env = environment(**SERVICES, SUPERVISOR_BIN="x")

    def said(verb: str) -> str:
        result = subprocess.run(
            [*COMMAND, verb], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return result.stdout + result.stderr

    [line] = [line for line in said("doctor").splitlines() if "SUPERVISOR_" in line]
    assert line.split()[:3] == ["contract", "warn", "SUPERVISOR_BIN"]
    # The default port; a supervisor of a test beside this one may have it.
    found = said("status")
    assert "127.0.0.1:2224: nothing listens" in found or "master algo-1" in found


def test_the_hyperparameters_of_the_platform_are_not_checked() -> None:
    assert read({**HYPER, "sagemaker_anything": "1"}).notes == ()
