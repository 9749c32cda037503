"""``supervisor local``: N real supervisors as the hosts of one job on this machine.

The same code path as in a container: each host is a ``supervisor train`` with a base directory of
its own. What is here is only what a platform would do: lay out the hosts, start them, merge their
logs, pass a stop on, and say at the end what became of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from supervisor.children import execution
from supervisor.children.guardian import Guardian
from supervisor.contract.distribution import Strategy
from supervisor.contract.reading import parse_settings
from supervisor.engines.choosing import RUNS
from supervisor.engines.directory import absolute
from supervisor.engines.local import LocalHost, NoPortsError, lay_out, name_of
from supervisor.faults import ContractError, Fault, in_words
from supervisor.linux.inherited import STOP_SIGNALS, InheritedSignals, reset_inherited_signals
from supervisor.verbs import injection
from supervisor.verbs.fleet import GRACE_S, SSH_KEY, Fleet, Request
from supervisor.verbs.injection import Wanted
from supervisor.verbs.summary import Result, job_code

RESTARTS: Final = "3"
"""``SUPERVISOR_RESTARTS`` of a job with faults where nobody has set it."""
NOT_RESUMED: Final = 1
"""The exit code of ``--faults-strict`` where training began anew that could have gone on."""
_MOST_HOSTS: Final = 64
_EXAMPLES: Final = {
    Strategy.PS: "parameter_server_strategy.py",
    Strategy.MWMS: "multi_worker_mirrored_strategy.py",
    Strategy.NONE: "parameter_server_strategy.py",
    Strategy.MPI: "",
}


def read_request(
    *,
    hosts: str,
    strategy: str | None,
    run_dir: str | None,
    parameters: Sequence[str],
    script: str | None,
    arguments: Sequence[str],
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    wanted: Wanted | None = None,
) -> Request:
    """Check the command line; raises ``ContractError`` with all faults."""
    settings, faults = parse_settings(flags, environ, {})
    if not faults:
        environ = _with_our_own(flags, environ, min(settings.stop_grace_s, GRACE_S), wanted)
        settings, faults = parse_settings(flags, environ, {})

    def fault(key: str, found: object, expected: str) -> None:
        faults.append(Fault("command line", key, repr(found), expected))

    count = int(hosts) if hosts.isascii() and hosts.isdigit() and len(hosts) < 4 else 0
    if not 1 <= count <= _MOST_HOSTS:
        fault("--hosts", hosts, f"a number from 1 to {_MOST_HOSTS}")
    strategy = strategy or settings.strategy.replace("auto", "")
    chosen = Strategy(strategy) if strategy else (Strategy.PS if count > 1 else Strategy.NONE)
    if chosen is Strategy.PS and count == 1:
        fault(
            "--strategy",
            "ps with --hosts 1",
            "two hosts or more: a cluster of one host has no parameter server; "
            "add hosts, or take --strategy none",
        )
    planned = None
    if wanted is not None:
        planned, wrong = injection.read(wanted, tuple(map(name_of, range(1, max(count, 1) + 1))))
        faults += wrong
    hyperparameters: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals or not name:
            fault("-p", parameter, "NAME=VALUE")
            continue
        hyperparameters[name] = _decoded(value)
    path = absolute(script) if script else _example(chosen)
    if not os.path.isfile(path):
        there = "which is no file" if os.path.exists(path) else "which does not exist"
        kind = "a directory" if os.path.isdir(path) else there
        faults.append(
            Fault("command line", "SCRIPT", f"{script!r}, {kind}", "the path of a training script")
            if script
            else Fault("command line", "SCRIPT", "none", "one: there is no example for MPI")
        )
    elif not settings.command and (reason := _unrunnable(path)):
        expected = f"a script that can be run: {reason}"
        faults.append(Fault("command line", "SCRIPT", repr(script), expected))
    directory = absolute(run_dir) if run_dir else _new_run_dir(chosen, count)
    if os.path.exists(directory) and not os.path.isdir(directory):
        fault("--run-dir", run_dir, "a directory, or a name that is free")
    if faults:
        raise ContractError(faults)
    return Request(
        hosts=count,
        strategy=chosen,
        run_dir=directory,
        script=path,
        arguments=tuple(arguments),
        hyperparameters=hyperparameters,
        settings=settings,
        flags=flags,
        environ=environ,
        continued=os.path.isdir(os.path.join(directory, "algo-1")),
        faults=planned,
    )


def _with_our_own(
    flags: Mapping[str, str], environ: Mapping[str, str], grace_s: float, wanted: Wanted | None
) -> Mapping[str, str]:
    """What holds here where nobody says otherwise."""
    ours = {"stop_grace_s": f"{grace_s:g}"}
    if wanted:
        ours["restarts"] = RESTARTS  # else the first one is the last
    else:
        ours["rejoin_timeout_s"] = "0"  # nobody starts a host anew whose supervisor was killed
    named = {name: f"SUPERVISOR_{name.upper()}" for name in ours}
    unsaid = [name for name in ours if name not in flags and not environ.get(named[name])]
    return {**environ, **{named[name]: ours[name] for name in unsaid}}


def run(request: Request) -> int:
    """Run the job to its end; returns the job's exit code."""
    inherited = reset_inherited_signals(hold=STOP_SIGNALS)
    with contextlib.ExitStack() as promises:
        hosts = _laid_out(request, promises)
        with _ssh_directory(request) as ssh_dir:
            guardian = Guardian.start()
            try:
                results, resumed = asyncio.run(
                    _performed(request, hosts, guardian, ssh_dir, inherited)
                )
            finally:
                guardian.close()
    code, again = job_code(results), request.settings.restartable_exit_code
    if not code and not resumed and request.faults and request.faults.strict:
        return NOT_RESUMED
    # What its hosts say to a platform this job says to whoever has started it.
    return again if code and again in {result.exit_code for result in results} else code


async def _performed(
    request: Request,
    hosts: Sequence[LocalHost],
    guardian: Guardian,
    ssh_dir: str,
    inherited: InheritedSignals,
) -> tuple[list[Result], bool]:
    """The fleet belongs to a loop from its making. Also whether training went on after faults."""
    fleet = Fleet(request, hosts, guardian, ssh_dir)
    return await fleet.run(inherited), fleet.resumed


def _laid_out(request: Request, promises: contextlib.ExitStack) -> list[LocalHost]:
    """The hosts, whose ports are theirs until ``promises`` is closed; raises ContractError."""
    try:
        return lay_out(
            request.run_dir,
            request.hosts,
            request.strategy,
            request.script,
            request.arguments,
            request.hyperparameters,
            promises,
        )
    except NoPortsError as error:
        expected = f"fewer, or an end to what listens here: {error}"
        raise ContractError(
            [Fault("command line", "--hosts", str(request.hosts), expected)]
        ) from None
    except OSError as error:
        found = error.strerror or str(error)
        raise ContractError(
            [Fault("command line", "--run-dir", f"{request.run_dir} ({found})", "a writable place")]
        ) from None


@contextlib.contextmanager
def _ssh_directory(request: Request) -> Iterator[str]:
    """A directory for the run's ssh key and the files of its sshds; empty where there are none."""
    if request.strategy is not Strategy.MPI or request.hosts == 1:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="supervisor-mpi-") as directory:
        key = os.path.join(directory, SSH_KEY)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=30)
        except (OSError, subprocess.SubprocessError) as error:
            found = f"mpi, and no ssh key can be made ({in_words(error)})"
            wanted = "OpenSSH's client and server and Open MPI on this machine"
            raise ContractError([Fault("command line", "--strategy", found, wanted)]) from None
        yield directory


def _decoded(text: str) -> Any:
    """As a hyperparameter: JSON where it parses, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _unrunnable(path: str) -> str:
    """Why the script could not be run, and what helps; empty where nothing is seen against it. It
    is the user's: nothing about it is changed."""
    beside = os.path.join(os.path.dirname(path), "setup.py")
    if path.endswith(".py") or (not path.endswith(".sh") and os.path.exists(beside)):
        readable = os.access(path, os.R_OK)  # Python's to run, as a script or as a package
        return "" if readable else f"user {os.geteuid()} may not read {path}"
    return execution.refusal(path)


def _example(strategy: Strategy) -> str:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.join(package, "examples", _EXAMPLES[strategy])


def _new_run_dir(strategy: Strategy, count: int) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = absolute(os.path.join(RUNS, f"{stamp}-{strategy.value}-{count}"))
    path, number = base, 1
    while os.path.exists(path):
        number += 1
        path = f"{base}-{number}"
    return path
