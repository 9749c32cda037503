"""What this host will do, computed from the contract without touching the world.

An endpoint is always looked up here (host, role → address:port) and never built from a constant:
TensorFlow's gRPC server binds every interface on its port whatever address it is given, so hosts
that share one network stack need ports of their own.
"""

from __future__ import annotations

import json
import posixpath
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from supervisor.contract.contract import Contract
from supervisor.contract.distribution import Strategy
from supervisor.contract.entry_point import EntryKind
from supervisor.contract.facts import HYPERPARAMETERS, OVERLAY, RESOURCES
from supervisor.contract.paths import Paths, paths_below
from supervisor.contract.settings import tail_of
from supervisor.faults import ContractError, Fault, counted, shown
from supervisor.life.words import (
    ECHO_S,
    STACKS_SIGNUM,
    Budgets,
    ProcessSpec,
    Role,
    SuccessPolicy,
    place,
)
from supervisor.plan import mpi as mpi_job
from supervisor.plan.environment import inherited, script_environment, user_arguments
from supervisor.plan.proxies import proxies_in
from supervisor.plan.world import cluster_of, fewest, first_world, narrowed
from supervisor.plan.world import faults_of as world_faults

if TYPE_CHECKING:  # for jobs that go on after a failure
    from supervisor.life.attempts import Policy

TRAIN_PORT: Final = 2222
"""The chief and the workers of a parameter-server cluster (the seed convention)."""
PS_PORT: Final = 2223
MWMS_PORT: Final = 8890
FETCH: Final = "fetch"
"""The step after which the plan is made again."""
RESTORE: Final = "restore"
"""The step that brings a host to the checkpoint of all, where it held another."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    address: str
    port: int

    def __str__(self) -> str:
        return place(self.address, self.port)


@dataclass(frozen=True, slots=True)
class HostEndpoints:
    """The ports of one host."""

    train: Endpoint
    ps: Endpoint
    status: Endpoint


@dataclass(frozen=True, slots=True)
class Plan:
    contract: Contract = field(repr=False)
    host: str
    hosts: tuple[str, ...]
    """The hosts that end together: those of the distribution, then those that follow it."""
    scriptless: tuple[str, ...]
    """Those of them that run servers alone, and whose script nobody waits for."""
    strategy: Strategy
    success_policy: SuccessPolicy
    success_share: float
    """Of all scripts but the evaluator's, how many must end with 0."""
    tolerated_failures: int
    """Workers that may fail without ending the job."""
    evaluator: str | None
    """The host that evaluates; no part of the others' cluster."""
    cluster: tuple[str, ...]
    """The hosts that train, the master first, and then those that stand by for it."""
    world: tuple[str, ...]
    """Those of them that train at first."""
    min_hosts: int
    """So many of them are enough to go on; 0: all are needed."""
    endpoints: Mapping[str, HostEndpoints]
    tf_config: Mapping[str, Any] | None
    """What the script sees; None without a distribution."""
    steps: tuple[ProcessSpec, ...]
    """What is run before the barrier, one after the other: fetching, installations."""
    storage: ProcessSpec | None
    """What keeps directories elsewhere, beside the processes and after them."""
    processes: tuple[ProcessSpec, ...]
    """In the order in which they are started."""
    listening: tuple[int, ...]
    """Ports that they will open: to be free before the start."""
    budgets: Budgets
    paths: Paths
    restore_agreement: str
    """What follows where hosts hold different checkpoints: ``same``, ``say`` or ``fail``."""
    stopped_code: int
    """The exit code after a stop that the chief's script answered with 0."""
    restart_policy: Policy | None
    """By which what fails is started anew; None: it never is."""
    proxies: tuple[str, ...]
    """Variables that name a proxy: not for the job's own hosts, see ``proxies.py``."""
    notes: tuple[str, ...]
    """What a person should know: things that were ignored, or not done by this version."""

    @property
    def master(self) -> str:
        return self.hosts[0]

    @property
    def is_master(self) -> bool:
        return self.host == self.master

    @property
    def is_cluster(self) -> bool:
        return len(self.hosts) > 1

    @property
    def status_bind(self) -> str:
        """The address that the status server binds; empty: every one, IPv4 and IPv6."""
        bind = self.contract.settings.status_bind
        return "" if bind == "auto" else bind

    @property
    def chief_endpoint(self) -> Endpoint | None:
        """The chief's TensorFlow port: what the probe falls back to, where there is one."""
        if self.strategy in {Strategy.NONE, Strategy.MPI}:
            return None
        return self.endpoints[self.master].train


def make_plan(contract: Contract) -> Plan:
    """The plan of the current host; raises ``ContractError`` where ports collide."""
    hosts = contract.distribution_hosts + contract.followers
    endpoints = {host: _endpoints(contract, host) for host in hosts}
    faults = _collisions(contract, endpoints)
    if faults:
        raise ContractError(faults)
    evaluator = evaluator_of(contract)
    cluster = world = cluster_of(contract, evaluator)
    if contract.settings.spares or contract.settings.min_hosts:
        given = bool(given_tf_config(contract))
        if faults := [*world_faults(contract, cluster, given=given)]:
            raise ContractError(faults)
        world = first_world(contract, cluster)
    paths = paths_below(contract.base_dir, contract.settings.checkpoint_local_dir)
    config, training, processes = _in_world(contract, world, evaluator, endpoints, paths)
    differing = _differing_tf_config(contract, config)
    fetch, storage = _transfers(contract, paths)
    return Plan(
        contract=contract,
        host=contract.current_host,
        hosts=hosts,
        scriptless=_scriptless(contract, evaluator),
        strategy=contract.strategy,
        success_policy=_success_policy(contract),
        success_share=_success_share(contract),
        tolerated_failures=_tolerated_failures(contract),
        evaluator=evaluator,
        cluster=cluster,
        world=world,
        min_hosts=fewest(contract),
        endpoints=endpoints,
        tf_config=config,
        steps=(*filter(None, (fetch,)), *_steps(contract, paths)),
        storage=storage,
        processes=tuple(processes),
        listening=_listening(contract, training, processes),
        budgets=_budgets(contract, fetches=fetch is not None),
        paths=paths,
        restore_agreement=_restore_agreement(contract),
        stopped_code=_stopped_code(contract),
        restart_policy=_restart_policy(contract),
        proxies=proxies_in(contract.environ),
        notes=(*_notes(contract), *differing),
    )


def processes_in(plan: Plan, world: tuple[str, ...]) -> tuple[ProcessSpec, ...]:
    """The processes of this host where these train, in the order of their ranks."""
    made = _in_world(plan.contract, world, plan.evaluator, plan.endpoints, plan.paths)
    return tuple(made[2])


def _in_world(
    contract: Contract,
    world: tuple[str, ...],
    evaluator: str | None,
    endpoints: Mapping[str, HostEndpoints],
    paths: Paths,
) -> tuple[Mapping[str, Any] | None, dict[str, HostEndpoints], list[ProcessSpec]]:
    """``TF_CONFIG``, the hosts of the cluster (the evaluator and followers are none) and the
    processes of the current one."""
    if contract.settings.spares or contract.settings.min_hosts:
        contract = narrowed(contract, (*world, *filter(None, (evaluator,))))
    chief = chief_name(contract.settings.chief_name, contract.tensorflow_version)
    role = Role.EVALUATOR if contract.current_host == evaluator else _script_role(contract, chief)
    training = {host: endpoints[host] for host in contract.distribution_hosts if host != evaluator}
    config: Mapping[str, Any] | None = None
    if given := given_tf_config(contract):
        config = json.loads(given)
    elif contract.strategy in {Strategy.PS, Strategy.MWMS}:
        config = tf_config(contract, training, chief, contract.current_host, role)
    return config, training, _processes(contract, training, paths, chief, role, config)


def _stopped_code(contract: Contract) -> int:
    setting = contract.settings.stopped_exit_code
    return contract.engine.stopped_code if setting is None else setting


def _restart_policy(contract: Contract) -> Policy | None:
    settings = contract.settings
    if not settings.restarts:
        return None
    from supervisor.life.attempts import Policy, Rules  # noqa: PLC0415  # start-up is a feature

    return Policy(
        restarts=settings.restarts,
        rules=settings.restart_rules or Rules(),
        deadline=contract.engine.deadline,
        needed_s=settings.stop_limit_s,
    )


def _restore_agreement(contract: Contract) -> str:
    """Of the strategies only MultiWorkerMirroredStrategy has every host restore: with parameter
    servers the chief does, with MPI the first rank, which broadcasts."""
    wish = contract.settings.restore_agreement
    if wish == "auto":
        wish = "same" if contract.strategy is Strategy.MWMS else "say"
    return wish


def evaluator_of(contract: Contract) -> str | None:
    """The host that evaluates, if there is one; raises ``ContractError`` where it cannot be.

    TensorFlow knows one evaluator task and no cluster that it belongs to. It needs a host of its
    own beside the training's, of which parameter servers need two or more.
    """
    if contract.evaluator:
        return contract.evaluator
    setting = contract.settings.evaluator
    hosts = [name for name in contract.distribution_hosts if name not in contract.ps_only_hosts]
    if setting.lower() in {"", "none"} or contract.outside:
        return None

    def fault(found: str, expected: str) -> ContractError:
        return ContractError([Fault("settings", "SUPERVISOR_EVALUATOR", found, expected)])

    fewest = 3 if contract.strategy is Strategy.PS else 2
    if contract.strategy in {Strategy.NONE, Strategy.MPI} or len(hosts) < fewest:
        raise fault(
            f"{shown(setting)} with {counted(len(hosts), 'host')} and "
            f"strategy {contract.strategy.value}",
            "three hosts or more with parameter servers, two or more with "
            "MultiWorkerMirroredStrategy: one of them evaluates",
        )
    if setting.lower() == "last":
        return hosts[-1]
    groups = {
        str(group.get("instance_group_name")): [str(host) for host in group.get("hosts", ())]
        for group in contract.resource_config.get("instance_groups") or ()
    }
    members = [host for host in groups.get(setting, ()) if host in hosts]
    if len(members) != 1 or members[0] == hosts[0]:
        raise fault(
            shown(setting),
            "none, last, or an instance group with one host of the distribution that is not its "
            f"first; the groups are {', '.join(sorted(groups)) or 'none'}",
        )
    return members[0]


def chief_name(setting: str, tensorflow_version: str | None) -> Role:
    """The chief's job name in TF_CONFIG.

    TensorFlow 2's ParameterServerStrategy and MultiWorkerMirroredStrategy refuse ``master``
    ("Disallowed task type found in cluster spec"); TensorFlow 1 knew both and its scripts, written
    for the predecessor, look for ``master``.
    """
    if setting != "auto":
        return Role(setting)
    major = (tensorflow_version or "2").split(".", 1)[0]
    return Role.MASTER if major == "1" else Role.CHIEF


def tf_config(
    contract: Contract,
    endpoints: Mapping[str, HostEndpoints],
    chief: Role,
    host: str,
    role: Role,
) -> dict[str, Any]:
    """TF_CONFIG of one process, in the seed convention.

    Parameter servers: ``{chief: [first host], worker: the others, ps: all}``, unless
    ``SUPERVISOR_PS_HOSTS`` lays them out otherwise; one host has no ``ps``, and asking for that
    task there is an error. MultiWorkerMirroredStrategy: every host is a ``worker`` and there is no
    ``ps`` (with one, the strategy hangs at construction). ``endpoints`` are those of the hosts
    that train; the evaluator is told their cluster, which it is no part of.
    """
    hosts = list(endpoints)
    master = hosts[0]
    ps_hosts = [name for name in contract.ps_hosts if name in endpoints]
    others = [name for name in hosts[1:] if name not in contract.ps_only_hosts]
    cluster: dict[str, list[str]]
    if contract.strategy is Strategy.MWMS:
        cluster = {"worker": [str(endpoints[name].train) for name in hosts]}
        task = {"type": Role.WORKER.value, "index": hosts.index(host) if host in hosts else 0}
    else:
        cluster = {chief.value: [str(endpoints[master].train)]}
        if others:
            cluster["worker"] = [str(endpoints[name].train) for name in others]
        if ps_hosts:
            cluster["ps"] = [str(endpoints[name].ps) for name in ps_hosts]
        if role is Role.PS and host not in ps_hosts:
            raise ContractError(
                [
                    Fault(
                        RESOURCES,
                        "hosts",
                        f"{host} of {len(hosts)}, with a parameter server task",
                        "a host with a parameter server: a cluster of one host has no parameter "
                        "server; run the script alone, or add hosts",
                    )
                ]
            )
        index = others.index(host) if role is Role.WORKER else 0
        if role is Role.PS:
            index = ps_hosts.index(host)
        task = {"type": role.value, "index": index}
    if role is Role.EVALUATOR:
        task = {"type": role.value, "index": 0}
    return {"cluster": cluster, "task": task, "environment": "cloud"}


def given_tf_config(contract: Contract) -> str:
    """The platform's own, which the script gets byte for byte; empty where there is none, or where
    the hosts do something else together than what it says."""
    job = contract.engine.job
    if job is None or contract.strategy is Strategy.MPI:
        return ""
    return job.tf_config


def _differing_tf_config(contract: Contract, ours: Mapping[str, Any] | None) -> tuple[str, ...]:
    """A note on the ``TF_CONFIG`` in our environment that contradicts the contract, where that is
    allowed; raises ``ContractError`` where it is not."""
    text = contract.environ.get("TF_CONFIG", "")
    if not text or (contract.engine.job is not None and contract.engine.job.tf_config):
        return ()
    from supervisor.plan.given_config import contradiction  # noqa: PLC0415  # where there is one

    hosts = {
        host: contract.overlays[host].address if host in contract.overlays else host
        for host in contract.hosts
    }
    mpi = contract.strategy is Strategy.MPI
    found = contradiction(text, ours, hosts, contract.current_host, mpi=mpi)
    if not found:
        return ()
    if contract.settings.tf_config_mismatch == "ignore":
        what = "the script is given another" if ours else "the script is given it as it is"
        return (f"TF_CONFIG in the environment contradicts the contract, {found}: {what}",)
    expected = (
        f"none, or one that agrees with {RESOURCES} and {HYPERPARAMETERS}, by which this is "
        f"{contract.current_host} of {counted(len(hosts), 'host')} with strategy "
        f"{contract.strategy.value}: unset it, or correct those; "
        "SUPERVISOR_TF_CONFIG_MISMATCH=ignore lets it pass"
    )
    raise ContractError([Fault("environment", "TF_CONFIG", found, expected)])


def _script_role(contract: Contract, chief: Role) -> Role:
    job = contract.engine.job
    if job is not None and job.tasks and contract.strategy is not Strategy.MPI:
        return Role(job.tasks[contract.current_host].type)
    if contract.strategy is Strategy.MWMS:
        return Role.WORKER
    if contract.strategy is Strategy.MPI:
        return Role.LAUNCHER
    if contract.current_host in contract.ps_only_hosts:
        return Role.PS
    if contract.current_host == contract.master:
        return chief if contract.strategy is Strategy.PS else Role.CHIEF
    return Role.WORKER


def _endpoints(contract: Contract, host: str) -> HostEndpoints:
    overlay = contract.overlays.get(host)
    address = overlay.address if overlay else host
    ports = overlay.ports if overlay else {}
    train = TRAIN_PORT
    if contract.strategy is Strategy.MWMS:
        train = MWMS_PORT
    elif contract.strategy is Strategy.MPI:
        train = contract.settings.mpi_ssh_port
    return HostEndpoints(
        train=Endpoint(address, ports.get("train", train)),
        ps=Endpoint(address, ports.get("ps", PS_PORT)),
        status=Endpoint(address, ports.get("status", contract.settings.status_port)),
    )


def _collisions(contract: Contract, endpoints: Mapping[str, HostEndpoints]) -> list[Fault]:
    """Two listeners on one address need two ports."""
    used: dict[Endpoint, str] = {}
    faults = []
    for host, each in endpoints.items():
        listeners = [("status", each.status)]
        inside = host in contract.distribution_hosts
        trains = inside and host not in contract.ps_only_hosts
        if contract.strategy in {Strategy.PS, Strategy.MWMS} and trains:
            listeners.append(("training", each.train))
        if contract.strategy is Strategy.MPI and inside and host != contract.master:
            listeners.append(("ssh", each.train))
        if host in contract.ps_hosts:
            listeners.append(("parameter server", each.ps))
        for what, endpoint in listeners:
            here = f"the {what} port of {host}"
            if endpoint in used:
                faults.append(
                    Fault(
                        "ports",
                        str(endpoint),
                        f"{used[endpoint]} and {here} at once, both at {endpoint.address}",
                        "a port of its own for each; SUPERVISOR_STATUS_PORT moves the status port, "
                        f"{OVERLAY} the others",
                    )
                )
            used.setdefault(endpoint, here)
    return faults


def _success_policy(contract: Contract) -> SuccessPolicy:
    setting = contract.settings.success_policy
    if setting in {"chief", "all"}:
        return SuccessPolicy(setting)
    if setting != "auto":
        return SuccessPolicy.SHARE
    # Workers of a parameter-server cluster never end by themselves, and mpirun's end is that of
    # all ranks; all others end by themselves.
    one_decides = contract.strategy in {Strategy.PS, Strategy.MPI}
    return SuccessPolicy.CHIEF if one_decides else SuccessPolicy.ALL


def _scriptless(contract: Contract, evaluator: str | None) -> tuple[str, ...]:
    others = contract.distribution_hosts[1:]
    if contract.strategy is Strategy.MPI:
        return others
    if contract.strategy is Strategy.PS and contract.settings.worker == "server":
        return tuple(host for host in others if host != evaluator)
    return contract.ps_only_hosts


def _processes(
    contract: Contract,
    training: Mapping[str, HostEndpoints],
    paths: Paths,
    chief: Role,
    role: Role,
    config: Mapping[str, Any] | None,
) -> list[ProcessSpec]:
    """What the current host runs, in the order in which it is started."""
    host = contract.current_host
    script = _script(contract, paths, role, config)
    if contract.strategy is Strategy.MPI:
        one_machine = len({each.train.address for each in training.values()}) < len(training)
        if host != contract.master:
            port = training[host].train.port
            return [mpi_job.sshd(contract, script.env, port, one_machine=one_machine)]
        members = [
            (name, each.train.address, each.train.port)
            for name, each in training.items()
            if name != host
        ]
        return [mpi_job.launcher(contract, script, members, one_machine=one_machine)]
    processes = []
    if role is Role.PS and contract.settings.ps == "script":
        return [script]
    if host in contract.ps_hosts and role is not Role.EVALUATOR:
        if not given_tf_config(contract):
            config_of_ps = tf_config(contract, training, chief, host, Role.PS)
        else:  # its task is this one
            assert config is not None
            config_of_ps = dict(config)
        processes.append(_server(contract, Role.PS, config_of_ps))
    if host in contract.ps_only_hosts:
        return processes
    if role is Role.WORKER and contract.strategy is Strategy.PS and _workers_are_servers(contract):
        assert config is not None
        return [*processes, _server(contract, Role.WORKER, config)]
    return [*processes, script]


def _workers_are_servers(contract: Contract) -> bool:
    return contract.settings.worker == "server"


def _listening(
    contract: Contract, training: Mapping[str, HostEndpoints], processes: Sequence[ProcessSpec]
) -> tuple[int, ...]:
    """Ports that the processes open; an evaluator's task and a host outside open none."""
    here = training.get(contract.current_host)
    if here is None or contract.strategy is Strategy.NONE:
        return ()
    silent = {Role.LAUNCHER}
    return tuple(
        here.ps.port if spec.role is Role.PS else here.train.port
        for spec in processes
        if spec.role not in silent
    )


def _success_share(contract: Contract) -> float:
    setting = contract.settings.success_policy
    return 1.0 if setting in {"auto", "chief", "all"} else float(setting)


def _tolerated_failures(contract: Contract) -> int:
    return int(contract.settings.failure_policy.partition(":")[2] or 0)


def _transfers(contract: Contract, paths: Paths) -> tuple[ProcessSpec | None, ProcessSpec | None]:
    """The processes that fetch before the job and keep things elsewhere beside it."""
    settings = contract.settings
    places = (
        settings.channels, settings.checkpoint_s3_uri, settings.log_s3_uri,
        settings.intermediate_s3_uri, settings.output_s3_uri, settings.model_s3_uri,
        contract.source, contract.model_dir_uri, contract.intermediate_uri,
        contract.model_dir_bucket,
    )  # fmt: skip
    if not any(places):  # loaded only where there is something to do: start-up is a feature
        return None, None
    from supervisor.plan import storage as storage_plan  # noqa: PLC0415

    fetch, sync = storage_plan.fetch_job(contract, paths), storage_plan.sync_job(contract, paths)
    return (
        None if fetch is None else storage_plan.process(contract, paths, fetch),
        None if sync is None else storage_plan.process(contract, paths, sync),
    )


def _budgets(contract: Contract, *, fetches: bool) -> Budgets:
    settings = contract.settings
    tail = tail_of(settings.stop_limit_s)
    return Budgets(
        prepare_s=settings.prepare_timeout_s + (settings.fetch_timeout_s if fetches else 0.0),
        join_s=settings.join_timeout_s,
        max_runtime_s=settings.max_runtime_s,
        stop_grace_s=settings.stop_grace_s,
        end_grace_s=settings.end_grace_s,
        group_s=tail.group_s,
        server_grace_s=settings.server_grace_s,
        kill_s=tail.kill_s,
        stop_limit_s=settings.stop_limit_s,
        limit_s=settings.stop_limit_s - settings.publish_reserve_s - tail.kill_s - tail.record_s,
        publish_s=settings.publish_reserve_s,
        publish_end_s=max(settings.publish_timeout_s, settings.publish_reserve_s),
        ack_s=settings.ack_timeout_s,
        lease_s=settings.master_lease_s,
        straggler_s=settings.straggler_timeout_s,
        evaluator_grace_s=settings.evaluator_grace_s,
        rejoin_s=settings.rejoin_timeout_s,
        record_s=tail.record_s,
        echo_s=max(ECHO_S, contract.engine.echo_s),
    )


def _script(
    contract: Contract, paths: Paths, role: Role, config: Mapping[str, Any] | None
) -> ProcessSpec:
    env = script_environment(contract)
    env["SUPERVISOR_CHECKPOINT_DIR"] = paths.checkpoints
    if contract.fetched is not None and contract.fetched.resumed_from:
        env["SUPERVISOR_RESUMED_FROM"] = contract.fetched.resumed_from
    if contract.model_dir_uri:
        env["SUPERVISOR_MODEL_DIR_URI"] = contract.model_dir_uri
    if contract.settings.stacks:
        env["SUPERVISOR_STACKS_SIGNAL"] = str(STACKS_SIGNUM)
    env["SUPERVISOR_ERROR_FILE"] = paths.error
    env["SUPERVISOR_HEARTBEAT_FILE"] = paths.heartbeat
    env["SUPERVISOR_PROGRESS_FILE"] = paths.progress
    env["SUPERVISOR_ATTEMPT"] = "1"
    if contract.settings.restarts and contract.strategy is Strategy.MPI:
        # mpirun and sshd carry variables by the names that the first attempt has.
        for later in ("SUPERVISOR_RESUMED_FROM", "SUPERVISOR_LAST_CAUSE"):
            env.setdefault(later, "")
    env["SUPERVISOR_STOP_BUDGET_S"] = f"{contract.settings.stop_grace_s:g}"
    if config is not None:
        env["TF_CONFIG"] = given_tf_config(contract) or json.dumps(config)
    return ProcessSpec(
        name=role.value,
        role=role,
        argv=_command(contract),
        env=env,
        cwd=contract.code_dir,
        stop_signal=contract.settings.stop_signal,
    )


def _command(contract: Contract) -> tuple[str, ...]:
    """The script's command line, word for word."""
    arguments = user_arguments(contract)
    name = contract.entry_point
    match contract.entry_kind:
        case EntryKind.SCRIPT:
            return (sys.executable, name, *arguments)
        case EntryKind.MODULE:
            return (sys.executable, "-m", name, *arguments)
        case EntryKind.PACKAGE:
            module = name.removesuffix(".py").replace("/", ".")
            return (sys.executable, "-m", module, *arguments)
        case EntryKind.COMMAND:
            # exec looks a name without a slash up in PATH, and the code directory is not in it.
            return (name if "/" in name else f"./{name}", *arguments)
        case EntryKind.TEMPLATE:
            words: list[str] = []
            for word in contract.settings.command:
                if word == "{args}":
                    words += arguments
                else:
                    words.append(word.format(python=sys.executable, program=name))
            return tuple(words)


def _steps(contract: Contract, paths: Paths) -> Iterator[ProcessSpec]:
    """Installations, each a process of ours around pip: see ``installation.py``."""
    if contract.settings.requirements == "skip":
        return
    # A command installs what it needs itself, as it did under the predecessor.
    if contract.has_requirements and contract.entry_kind is not EntryKind.COMMAND:
        yield _installation(contract, paths, "requirements")
    if contract.entry_kind is EntryKind.PACKAGE:
        yield _installation(contract, paths, "package")


def _installation(contract: Contract, paths: Paths, what: str) -> ProcessSpec:
    settings = contract.settings
    options = ["--constraints", paths.constraints]
    if settings.requirements == "replace":
        options.append("--replace")
    if contract.has_wheels:
        options += ["--wheels", posixpath.join(contract.code_dir, "wheels")]
    env = inherited(contract)
    env.setdefault("PYTHONUNBUFFERED", "1")
    env["SUPERVISOR_ERROR_FILE"] = paths.error
    return ProcessSpec(
        name=what,
        role=Role.PREPARE,
        argv=(sys.executable, "-P", "-m", "supervisor.plan.installation", what, *options),
        env=env,
        cwd=contract.code_dir,
    )


def _server(contract: Contract, role: Role, config: Mapping[str, Any]) -> ProcessSpec:
    """A TensorFlow server of ours, which sees none of the user's code.

    A parameter server sees no accelerator either; a worker server is what uses it.

    ``-P`` and the base directory as working directory: a ``tensorflow.py`` or a ``supervisor``
    directory beside the user's script must not shadow the real ones.
    """
    env = inherited(contract)
    env.update(SUPERVISOR_PS_IMPORT=contract.settings.ps_import, TF_CONFIG=json.dumps(config))
    if role is Role.PS:
        env.update(CUDA_VISIBLE_DEVICES="-1", HIP_VISIBLE_DEVICES="-1")
    # All of it: what is shown is chosen from the output, and the rest is in the file and explains
    # a failure.
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if role is Role.PS else "1")
    env.setdefault("PYTHONUNBUFFERED", "1")
    return ProcessSpec(
        name=role.value,
        role=role,
        argv=(sys.executable, "-P", "-m", "supervisor.programs.parameter_server"),
        env=env,
        cwd=contract.base_dir,
        essential=True,
        stop_signal=contract.settings.server_stop_signal,
    )


def _asked_for_servers(contract: Contract) -> str:
    if contract.settings.strategy == "ps":
        return "SUPERVISOR_STRATEGY=ps"
    return "sagemaker_parameter_server_enabled"


def _notes(contract: Contract) -> tuple[str, ...]:
    notes = list(contract.notes)
    if contract.ps_ignored:
        notes.append(
            f"{_asked_for_servers(contract)} is ignored: one host has no parameter server, its "
            "script runs alone"
        )
    elif contract.settings.worker == "server" and contract.strategy is not Strategy.PS:
        notes.append("SUPERVISOR_WORKER=server is ignored: it is for parameter-server clusters")
    if contract.has_requirements and contract.settings.requirements == "skip":
        notes.append("requirements.txt is not installed: SUPERVISOR_REQUIREMENTS=skip")
    model_dir = contract.hyperparameters.get("model_dir")
    version = contract.tensorflow_version or "2"
    if str(model_dir).startswith("s3://") and not (contract.writes_s3 or version.startswith("1.")):
        notes.append(
            f"model_dir is {model_dir}, and TensorFlow {version} has no s3:// file system: save to "
            f"SM_MODEL_DIR ({paths_below(contract.base_dir).model}), which the platform keeps"
        )
    if contract.settings.log_s3_uri and not contract.settings.log_files:
        notes.append("SUPERVISOR_LOG_S3_URI is ignored: there are no SUPERVISOR_LOG_FILES")
    settings = contract.settings
    if settings.log_repeat_window_s and settings.log_format == "raw":
        notes.append(
            "SUPERVISOR_LOG_REPEAT_WINDOW_S leaves the script's output alone: in the raw format it "
            "is written byte for byte; take SUPERVISOR_LOG_FORMAT prefix or json"
        )
    if settings.restart_rules is not None and not settings.restarts:
        notes.append("SUPERVISOR_RESTART_RULES is ignored: SUPERVISOR_RESTARTS is 0")
    if settings.min_hosts and not fewest(contract):
        why = "SUPERVISOR_RESTARTS is 0"
        if settings.restarts:
            why = "a parameter server that is lost takes its part of the variables with it"
        notes.append(f"SUPERVISOR_MIN_HOSTS is ignored: {why}")
    if settings.warm_start and (refusal := warm_start_refusal(contract)):
        notes.append(f"SUPERVISOR_WARM_START is ignored: {refusal}")
    return tuple(notes)


def warm_start_refusal(contract: Contract) -> str:
    """Why no script of this job can be started warm; empty: it can."""
    if contract.strategy is Strategy.MPI:
        return "mpirun starts the script"
    if contract.entry_kind in {EntryKind.COMMAND, EntryKind.TEMPLATE}:
        return "the script is not run by Python alone"
    return ""
