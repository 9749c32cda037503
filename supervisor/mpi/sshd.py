"""The process of an MPI job's other hosts: ``python -I sshd.py --port N [OPTIONS]``.

Becomes an sshd with a configuration of our own and a host key made for this run: it takes one way
in, the key of the image, and gives the sessions this host's ``PATH`` and ``LD_LIBRARY_PATH``, so
that mpirun's daemon is found where it is found here. Exit code 81: it could not begin.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import NoReturn

from supervisor.faults import safe
from supervisor.mpi.leftovers import remove

EXIT_START = 81
"""As for any failure before the job."""

PRIVILEGE_SEPARATION = "/run/sshd"
"""An empty directory that a privileged sshd insists on; packages leave it to an init to make."""

_PLAIN = re.compile(r"[\w./:,+@%-]+")
"""Values that need no quotes: how sshd reads them has changed between its versions."""


def main(arguments: Sequence[str]) -> NoReturn:
    """Write the configuration and the key, and become sshd."""
    parser = argparse.ArgumentParser(prog="sshd")
    parser.add_argument("--program", default="/usr/sbin/sshd")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--identity", default="")
    parser.add_argument("--variable", action="append", default=[])
    options = parser.parse_args(arguments)
    with contextlib.suppress(OSError):  # sshd says what is wrong with it
        os.makedirs(PRIVILEGE_SEPARATION, mode=0o755, exist_ok=True)
    # It stays: every connection reads it again, and the container ends with the job. That of an
    # earlier attempt, whose sshd is gone, does not.
    host = os.environ.get("SM_CURRENT_HOST", "").replace(os.sep, "")
    prefix = f"supervisor-sshd-{host}-{options.port}-{os.getppid()}-"
    remove(prefix)
    directory = tempfile.mkdtemp(prefix=prefix)
    key, config = os.path.join(directory, "host_key"), os.path.join(directory, "sshd_config")
    variables = os.path.join(directory, "environment.json")
    with open(variables, "w", encoding="utf-8") as file:
        json.dump({name: os.environ[name] for name in options.variable}, file)
    sessions = {
        "PATH": os.environ.get("PATH", ""),
        "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
        "SUPERVISOR_MPI_ENVIRONMENT": variables,
    }
    with open(config, "w", encoding="utf-8") as file:
        file.write(sshd_config(options.port, key, options.identity, sessions))
    make_key(key)
    try:
        command = [options.program, "-D", "-e", "-f", config]
        os.execv(options.program, command)  # noqa: S606  # no shell is the point
    except OSError as error:
        fail(f"cannot execute {options.program}: {error.strerror}; install openssh-server")


def sshd_config(port: int, host_key: str, identity: str, sessions: Mapping[str, str]) -> str:
    """Public keys alone; no PAM, which in containers fails on audit and limits."""
    lines = [
        f"Port {port}",
        f"HostKey {host_key}",
        "PidFile none",
        "LogLevel ERROR",
        "UsePAM no",
        "UseDNS no",
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        "ChallengeResponseAuthentication no",
        "MaxStartups 1000",
    ]
    if identity:
        # Its directory is what the image's author made it.
        lines += [f'AuthorizedKeysFile "{identity}.pub"', "StrictModes no"]
    words = [f"{name}={value}" for name, value in sessions.items() if _PLAIN.fullmatch(value)]
    lines.append("SetEnv " + " ".join(words))
    return "".join(f"{line}\n" for line in lines)


def make_key(path: str) -> None:
    """A host key of this run."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "strerror", None) or error
        fail(f"no host key could be made: {why}; install openssh-client")


def fail(text: str) -> NoReturn:
    """One line, and the exit code of what could not begin."""
    print(safe(f"MPI: {text}"), file=sys.stderr, flush=True)
    sys.exit(EXIT_START)


if __name__ == "__main__":
    main(sys.argv[1:])
