"""What the platform says about the job: its files and environment, read once, checked, frozen.

Pure: the shell hands over ``Facts`` (bytes of files, variables, what lies in the code directory)
and gets a ``Contract`` or one ``ContractError`` that lists every fault. The container contract is
that of Amazon SageMaker training containers; ``supervisorconfig.json`` is our own addition to it,
for engines that place several hosts on one network stack.
"""

from __future__ import annotations

import enum
import json
import posixpath
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from supervisor.contract.paths import model_dir_below
from supervisor.contract.reading import parse_settings, strangers_in, warnings_on
from supervisor.contract.settings import Settings
from supervisor.faults import ContractError, Fault, shown

if TYPE_CHECKING:
    from supervisor.storage.job import Fetched

HYPERPARAMETERS: Final = "hyperparameters.json"
RESOURCES: Final = "resourceconfig.json"
CHANNELS: Final = "inputdataconfig.json"
OVERLAY: Final = "supervisorconfig.json"
_MAY_BE_EMPTY: Final = frozenset({HYPERPARAMETERS, CHANNELS})
"""One that is empty counts as none. The others would lose what they are there for: hosts."""
ALONE: Final = "localhost"
"""The name of the only host where nobody has given it one: one that always resolves."""
CONFIG_FILES: Final = (HYPERPARAMETERS, RESOURCES, CHANNELS, OVERLAY)

ENVIRONMENT_TWINS: Final = {
    "sagemaker_program": "SAGEMAKER_PROGRAM",
    "sagemaker_submit_directory": "SAGEMAKER_SUBMIT_DIRECTORY",
    "sagemaker_region": "SAGEMAKER_REGION",
    "sagemaker_job_name": "SAGEMAKER_JOB_NAME",
    "sagemaker_s3_output": "SAGEMAKER_S3_OUTPUT",
}
"""Platform hyperparameters that an image or a platform may also give as a variable."""

TUNING_METRIC: Final = "_tuning_objective_metric"
_FALSE: Final = (None, False, 0, "", "false", "False")
_RESERVED: Final = frozenset({TUNING_METRIC, "default_user_module_name"})


class Strategy(enum.StrEnum):
    """How the hosts of the distribution train together."""

    NONE = "none"
    PS = "ps"
    """Parameter servers, one on every host (two hosts or more)."""
    MWMS = "mwms"
    """MultiWorkerMirroredStrategy."""
    MPI = "mpi"
    """``mpirun`` on the master, ranks on every host."""


SWITCHES: Final = {
    "sagemaker_parameter_server_enabled": Strategy.PS,
    "sagemaker_multi_worker_mirrored_strategy_enabled": Strategy.MWMS,
    "sagemaker_mpi_enabled": Strategy.MPI,
}
"""Hyperparameters that switch a distribution on which we run."""
UNSUPPORTED: Final = {
    "sagemaker_distributed_dataparallel_enabled": "SageMaker's data parallel library",
    "sagemaker_pytorch_ddp_enabled": "PyTorch's data parallel training",
    "sagemaker_pytorch_xla_multi_worker_enabled": "PyTorch/XLA",
    "sagemaker_torch_distributed_enabled": "torchrun",
}
"""Those that we do not: with ``SWITCHES`` all that ``sagemaker-training`` 5.1.4 knows."""


class EntryKind(enum.StrEnum):
    SCRIPT = "script"
    """``NAME.py``, run by Python."""
    PACKAGE = "package"
    """The code is a package (``setup.py``, ``pyproject.toml``): installed, run as ``-m NAME``."""
    MODULE = "module"
    """``-m NAME``, run from the code directory as it lies there."""
    COMMAND = "command"
    """Anything else: executed as it is."""
    TEMPLATE = "template"
    """The words of ``SUPERVISOR_COMMAND``."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The world as the contract needs it, collected by an engine."""

    base_dir: str
    environ: Mapping[str, str] = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    """Content of those ``CONFIG_FILES`` that exist."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Config files that exist and could not be read → the reason."""
    code: frozenset[str] | None = None
    """Paths below ``code``, relative; None where they are not known (too many to list)."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Settings given on the command line: field name → text."""
    num_cpus: int = 1
    num_gpus: int = 0
    num_neurons: int = 0
    tensorflow_version: str | None = None
    """From package metadata; None where TensorFlow is not installed."""
    tensorflow_io: bool = False
    """Installed: then TensorFlow can read and write s3://."""
    intermediate_exists: bool = False
    """``output/intermediate`` is there already: the platform takes care of it."""
    fetched: Fetched | None = None
    """What is to be fetched is here: the step before this reading has done it."""


@dataclass(frozen=True, slots=True)
class HostOverlay:
    """Where a host is, where it is not ``NAME:standard ports``."""

    address: str
    ports: Mapping[str, int]
    """``train``, ``ps``, ``status`` → port."""


@dataclass(frozen=True, slots=True)
class Mpi:
    """How ``mpirun`` is to be called."""

    processes_per_host: int
    processes: int
    """In all."""
    options: tuple[str, ...]
    """The user's own, after ours."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What the platform says, checked. Everything that later layers ask about the job."""

    base_dir: str
    settings: Settings
    hosts: tuple[str, ...]
    """All hosts of the job, as the platform orders them."""
    distribution_hosts: tuple[str, ...]
    """Those that take part in the distribution; the first is the master."""
    followers: tuple[str, ...]
    """Hosts outside the distribution that end with it (``SUPERVISOR_OUTSIDE=follow``)."""
    current_host: str
    strategy: Strategy
    """This host's: ``NONE`` outside the distribution."""
    outside: bool
    """This host takes no part in the distribution."""
    ps_ignored: bool
    """Parameter servers were asked for, and one host cannot have them."""
    ps_hosts: tuple[str, ...]
    """Hosts with a parameter server, in the order of their task indexes."""
    ps_only_hosts: tuple[str, ...]
    """Those of them that run nothing else."""
    mpi: Mpi | None
    entry_point: str
    entry_kind: EntryKind
    hyperparameters: Mapping[str, Any]
    """The user's, decoded."""
    platform_hyperparameters: Mapping[str, Any]
    resource_config: Mapping[str, Any]
    input_data_config: Mapping[str, Any]
    job_name: str
    region: str
    submit_directory: str
    arguments: tuple[str, ...]
    """Further arguments of the script, after those that hyperparameters make."""
    overlays: Mapping[str, HostOverlay]
    has_requirements: bool
    has_wheels: bool
    """There is a directory ``wheels`` beside requirements.txt: nothing is asked of an index."""
    environ: Mapping[str, str] = field(repr=False)
    num_cpus: int
    num_gpus: int
    num_neurons: int
    tensorflow_version: str | None
    writes_s3: bool
    """TensorFlow can write to s3:// itself."""
    source: str
    """Where the code is to be fetched from; empty: it is here."""
    model_dir_uri: str
    """The user's ``model_dir`` in S3, where the script is given a local one instead; else empty."""
    intermediate_uri: str
    """``sagemaker_s3_output`` and the job's name, where we are to send intermediate output."""
    fetched: Fetched | None
    notes: tuple[str, ...]
    """What a person should know of what the platform said."""
    variables_of_others: tuple[str, ...]
    """``SUPERVISOR_…`` variables that other programs set: they are no settings."""

    @property
    def master(self) -> str:
        return self.distribution_hosts[0]

    @property
    def code_dir(self) -> str:
        return posixpath.join(self.base_dir, "code")

    @property
    def model_dir_bucket(self) -> str:
        """A ``model_dir`` in S3, mirrored or not, whose bucket is asked for its region; or empty.

        As in the predecessor; it is not asked where the image names a region.
        """
        place = self.model_dir_uri or self.hyperparameters.get("model_dir")
        if "S3_REGION" in self.environ or not isinstance(place, str):
            return ""
        return place if place.startswith("s3://") else ""


def read_contract(facts: Facts) -> Contract:
    """Check everything and freeze it; raises ``ContractError`` with all faults at once."""
    return _Reader(facts).read()


class _Reader:
    """Collects faults while it reads; each method returns a usable value in any case."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def fault(self, source: str, key: str, value: object, expected: str) -> None:
        self.fault_in_words(source, key, shown(value), expected)

    def fault_in_words(self, source: str, key: str, found: str, expected: str) -> None:
        self.faults.append(Fault(self._path(source), key, found, expected))

    def _path(self, source: str) -> str:
        if source not in CONFIG_FILES:
            return source
        return posixpath.join(self.facts.base_dir, "input/config", source)

    def read(self) -> Contract:
        facts = self.facts
        user, platform = self._hyperparameters()
        settings, setting_faults = parse_settings(facts.flags, facts.environ, platform)
        for fault in setting_faults:
            self.fault_in_words(fault.source, fault.key, fault.found, fault.expected)
        foreign = strangers_in(facts.environ)
        self.notes += warnings_on(foreign.unknown)
        resources = self._resources()
        channels = self._channels()
        hosts, current = self._hosts(resources)
        wanted, unsupported = self._wanted(platform)
        ps_group = _ps_group(settings) if Strategy.PS in wanted else ""
        distribution = self._distribution_hosts(
            resources, platform, hosts, ps_group, distributed=bool(wanted)
        )
        if unsupported:
            meant = self._distribution_hosts(resources, platform, hosts, "", distributed=True)
            self._refuse(unsupported, platform, settings, alone=len(meant) == 1)
        self._unknown_switches(platform, user, wanted, alone=len(hosts) == 1)
        # Outside the distribution the script runs alone.
        chosen = platform.get("sagemaker_distribution_instance_groups")
        outside: tuple[str, ...] = ()
        if distribution and chosen is not None:
            outside = tuple(host for host in hosts if host not in distribution)
        followers = outside if settings.outside == "follow" else ()
        if current in outside:
            wanted = []
            distribution = distribution if followers else (current,)
        if isinstance(chosen, list) and resources.get("instance_groups") is None:
            wanted = wanted if _current_group(resources) in chosen else []
        # One host cannot have parameter servers: as in the predecessor its script runs alone.
        ps_ignored = Strategy.PS in wanted and len(distribution) < 2
        strategy = Strategy.NONE if ps_ignored or not wanted else wanted[0]
        ps_hosts: tuple[str, ...] = ()
        ps_only: tuple[str, ...] = ()
        if strategy is Strategy.PS:
            ps_hosts, ps_only = self._ps_hosts(settings, resources, distribution)
            distribution = tuple(host for host in distribution if host not in ps_only) + ps_only
        mpi = self._mpi(platform, len(distribution)) if strategy is Strategy.MPI else None
        submit = self._text(platform, "sagemaker_submit_directory")
        source = self._source(submit)
        entry, kind = self._entry_point(platform, settings, None if source else facts.code)
        overlays, arguments = self._overlay(hosts)
        job_name = self._text(platform, "sagemaker_job_name") or facts.environ.get(
            "TRAINING_JOB_NAME", ""
        )
        code = facts.code or frozenset()
        user = _with_tuning_model_dir(user, platform, job_name, facts.base_dir)
        model_dir_uri = self._mirrored_model_dir(user, settings)
        if model_dir_uri:
            user["model_dir"] = model_dir_below(facts.base_dir)
        region = self._text(platform, "sagemaker_region")
        intermediate_uri = self._intermediate_uri(platform, job_name)
        if self.faults:
            raise ContractError(self.faults)
        return Contract(
            base_dir=facts.base_dir,
            settings=settings,
            hosts=hosts,
            distribution_hosts=distribution,
            followers=followers,
            current_host=current,
            strategy=strategy,
            outside=current in outside,
            ps_ignored=ps_ignored,
            ps_hosts=ps_hosts,
            ps_only_hosts=ps_only,
            mpi=mpi,
            entry_point=entry,
            entry_kind=kind,
            hyperparameters=user,
            platform_hyperparameters=platform,
            resource_config=resources,
            input_data_config=_with_own_channels(channels, settings),
            job_name=job_name,
            region=region,
            submit_directory=submit,
            arguments=arguments,
            overlays=overlays,
            has_requirements="requirements.txt" in code,
            has_wheels=any(name.startswith("wheels/") for name in code),
            environ=facts.environ,
            num_cpus=facts.num_cpus,
            num_gpus=facts.num_gpus,
            num_neurons=facts.num_neurons,
            tensorflow_version=facts.tensorflow_version,
            writes_s3=facts.tensorflow_io,
            source=source,
            model_dir_uri=model_dir_uri,
            intermediate_uri=intermediate_uri,
            fetched=facts.fetched,
            notes=tuple(self.notes),
            variables_of_others=foreign.others,
        )

    # ------------------------------------------------------------------ files

    def _object(self, name: str) -> dict[str, Any]:
        """The JSON object in a config file; ``{}`` where there is none, and a fault besides where
        there should be."""
        facts = self.facts
        if name in facts.unreadable:
            self.fault_in_words(
                name, "", f"an unreadable file ({facts.unreadable[name]})", "a JSON object"
            )
            return {}
        content = facts.files.get(name)
        if content is None or (name in _MAY_BE_EMPTY and not content.strip()):
            return {}
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            self.fault_in_words(name, "", f"malformed JSON ({error})"[:200], "a JSON object")
            return {}
        if not isinstance(value, dict):
            self.fault_in_words(name, "", f"{type(value).__name__} {shown(value)}", "a JSON object")
            return {}
        return value

    def _resources(self) -> dict[str, Any]:
        """Without the file one host: ``docker run IMAGE train`` on a desk has no platform."""
        if RESOURCES in self.facts.files or RESOURCES in self.facts.unreadable:
            return self._object(RESOURCES)
        self.notes.append(
            f"{self._path(RESOURCES)} is missing, so this host is taken for the only one: where "
            "there are others, the platform has to write it"
        )
        return {"current_host": ALONE, "hosts": [ALONE]}

    def _object_is_bad(self, name: str) -> bool:
        return any(fault.source == self._path(name) and not fault.key for fault in self.faults)

    def _hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """User's and platform's hyperparameters, decoded.

        A value is JSON where it parses as JSON, else the string itself. An absent file means none.
        """
        user: dict[str, Any] = {}
        platform: dict[str, Any] = {}
        for twin, name in ENVIRONMENT_TWINS.items():
            if self.facts.environ.get(name):
                platform[twin] = self.facts.environ[name]
        for key, raw in self._object(HYPERPARAMETERS).items():
            mine = key.startswith("sagemaker_") or key in _RESERVED
            if key == "sagemaker_program" and key in platform:
                continue  # as in the predecessor, the image's word counts
            value = (platform if mine else user)[key] = _decoded(raw)
            for text in (key, value):
                if isinstance(text, str) and not _passes_exec(text):
                    expected = "text with no NUL and no half of a character, to be an argument"
                    self.fault(HYPERPARAMETERS, shown(key)[1:-1], text, expected)
        return user, platform

    def _channels(self) -> dict[str, Any]:
        channels = self._object(CHANNELS)
        for name, value in channels.items():
            if not isinstance(value, dict):
                self.fault(CHANNELS, name, value, "an object such as {TrainingInputMode, …}")
        return channels

    def _text(self, platform: Mapping[str, Any], key: str) -> str:
        value = platform.get(key, "")
        if not isinstance(value, str):
            self.fault(HYPERPARAMETERS, key, value, "a string")
            return ""
        return value

    def _truth(self, platform: Mapping[str, Any], key: str) -> bool:
        value = platform.get(key)
        if value is None or value == "":
            return False
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
        if not isinstance(value, bool):
            self.fault(HYPERPARAMETERS, key, value, "true or false")
            return False
        return value

    # ------------------------------------------------------------------ hosts

    def _hosts(self, resources: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
        if self._object_is_bad(RESOURCES):
            return (), ""
        hosts = self._names(RESOURCES, "hosts", resources.get("hosts"))
        current = resources.get("current_host")
        if not isinstance(current, str) or not current:
            self.fault(RESOURCES, "current_host", current, "the name of this host")
            return hosts, ""
        if hosts and current not in hosts:
            self.fault(
                RESOURCES, "current_host", current, f"one of the hosts {', '.join(hosts[:20])}"
            )
        interface = resources.get("network_interface_name", "eth0")
        if not isinstance(interface, str):
            self.fault(RESOURCES, "network_interface_name", interface, "a string such as eth0")
        group = resources.get("current_group_name", "")
        if group is not None and not isinstance(group, str):
            self.fault(RESOURCES, "current_group_name", group, "the name of this host's group")
        return hosts, current

    def _names(self, source: str, key: str, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            self.fault(source, key, value, "a list of one host name or more")
            return ()
        for name in value:
            # Others would break log lines and the environment, and no resolver takes them.
            if not isinstance(name, str) or not name or not name.isprintable() or " " in name:
                expected = "host names, each a string that is not empty and holds no blanks"
                self.fault(source, key, name, expected)
                return ()
        for name in sorted({name for name in value if value.count(name) > 1}):
            self.fault_in_words(source, key, f"{name} {value.count(name)} times", "each host once")
        return tuple(value)

    def _distribution_hosts(
        self,
        resources: Mapping[str, Any],
        platform: Mapping[str, Any],
        hosts: tuple[str, ...],
        ps_group: str,
        *,
        distributed: bool,
    ) -> tuple[str, ...]:
        """The hosts of the groups that take part, in the order of ``hosts``.

        Without instance groups all hosts do. A group of parameter servers always does; where
        nothing else says which groups it serves, it serves all.
        """
        groups = resources.get("instance_groups")
        if groups is None:
            return hosts
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            self.fault(RESOURCES, "instance_groups", groups, "a list of objects")
            return hosts
        by_name: dict[str, tuple[str, ...]] = {}
        for group in groups:
            name = group.get("instance_group_name")
            if not isinstance(name, str):
                self.fault(RESOURCES, "instance_groups", group, "an instance_group_name in each")
                continue
            key = f"instance_groups[{name}].hosts"
            by_name[name] = self._names(RESOURCES, key, group.get("hosts"))
            if hosts and (strangers := [host for host in by_name[name] if host not in hosts]):
                self.fault(RESOURCES, key, strangers, "hosts of the job, as in hosts")
        chosen = platform.get("sagemaker_distribution_instance_groups")
        if chosen is None:
            if ps_group in by_name:
                return hosts
            if not distributed:
                return hosts
            group, current = _current_group(resources), resources.get("current_host")
            if current in hosts and current not in by_name.get(group, hosts):
                expected = f"the instance group that {current} is in"
                self.fault(RESOURCES, "current_group_name", group, expected)
            return by_name.get(group, hosts)
        if not isinstance(chosen, list) or not chosen or not set(map(str, chosen)) <= set(by_name):
            self.fault(
                HYPERPARAMETERS,
                "sagemaker_distribution_instance_groups",
                chosen,
                f"a list of names among {', '.join(sorted(by_name))}",
            )
            return hosts
        names = {str(name) for name in chosen} | ({ps_group} & set(by_name))
        members = {host for name in names for host in by_name[name]}
        return tuple(host for host in hosts if host in members)

    # ------------------------------------------------------------------ job

    def _wanted(self, platform: Mapping[str, Any]) -> tuple[list[Strategy], list[str]]:
        """The distributions that the hyperparameters switch on: ours, one or none; and others."""
        keys = [key for key in SWITCHES if self._truth(platform, key)]
        if len(keys) > 1:
            found = "both true" if len(keys) == 2 else "all true"
            self.fault_in_words(HYPERPARAMETERS, ", ".join(keys), found, "at most one")
        unsupported = [key for key in UNSUPPORTED if self._truth(platform, key)]
        return [SWITCHES[key] for key in keys], unsupported

    def _refuse(
        self,
        keys: Sequence[str],
        platform: Mapping[str, Any],
        settings: Settings,
        *,
        alone: bool,
    ) -> None:
        """Distributions that we do not run: every host would train alone, and succeed.

        The predecessor starts one process for each accelerator, and one where there is none: on
        one host it may come to the same as the script alone.
        """
        each = platform.get("sagemaker_mpi_num_of_processes_per_host")
        processes = (each if type(each) is int else 0) or max(
            self.facts.num_gpus or self.facts.num_neurons, 1
        )
        for key in keys:
            if settings.unsupported_distribution == "ignore" or (alone and processes == 1):
                self.notes.append(
                    f"{key} is ignored: {UNSUPPORTED[key]} is not run by this program, and every "
                    "host runs its script as if it were not there"
                )
                continue
            self.fault_in_words(
                HYPERPARAMETERS,
                key,
                "true",
                f"false, or one of {', '.join(SWITCHES)} in its place: {UNSUPPORTED[key]} is not "
                "run by this program, and each host would train alone; "
                "SUPERVISOR_UNSUPPORTED_DISTRIBUTION=ignore lets it pass",
            )

    def _unknown_switches(
        self,
        platform: Mapping[str, Any],
        user: Mapping[str, Any],
        wanted: Sequence[Strategy],
        *,
        alone: bool,
    ) -> None:
        for key, value in platform.items():
            known = key in SWITCHES or key in UNSUPPORTED
            if known or alone or not key.endswith("_enabled") or value in _FALSE:
                continue
            self.notes.append(
                f"{key} means nothing to this program: if it is a distribution, each host trains "
                f"alone; those that are run are switched on by {', '.join(SWITCHES)}"
            )
        if user.get("mp_parameters") and not (alone and Strategy.MPI not in wanted):
            how = "mpirun starts the script itself" if wanted else "each host trains alone"
            self.notes.append(
                "mp_parameters: smddpmprun, the launcher of SageMaker's model parallel library, is "
                f"not run by this program: {how}"
            )

    def _ps_hosts(
        self, settings: Settings, resources: Mapping[str, Any], distribution: tuple[str, ...]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The hosts with a parameter server, and those of them that run nothing else."""
        layout, key = settings.ps_hosts, "SUPERVISOR_PS_HOSTS"
        if group := _ps_group(settings):
            groups = _groups(resources)
            if group not in groups:
                allowed = f"a group of {RESOURCES}: {', '.join(sorted(groups)) or 'it has none'}"
                self.fault("settings", key, layout, allowed)
                return (), ()
            only = tuple(host for host in distribution if host in groups[group])
            if len(only) == len(distribution):
                self.fault("settings", key, layout, "a group beside which others run the script")
                return (), ()
            return only, only
        if layout == "members":
            return distribution[1:], ()
        if layout == "all":
            return distribution, ()
        if int(layout) > len(distribution):
            self.fault("settings", key, layout, f"at most {len(distribution)}, all hosts")
        return distribution[: int(layout)], ()

    def _mpi(self, platform: Mapping[str, Any], hosts: int) -> Mpi:
        each = self._count(platform, "sagemaker_mpi_num_of_processes_per_host", 1)
        processes = self._count(platform, "sagemaker_mpi_num_processes", each * hosts)
        key = "sagemaker_mpi_custom_mpi_options"
        text = self._text(platform, key)
        try:
            options = tuple(shlex.split(text))
        except ValueError as error:
            self.fault(HYPERPARAMETERS, key, text, f"words as in a shell: {error}".lower())
            options = ()
        return Mpi(each, processes, options)

    def _count(self, platform: Mapping[str, Any], key: str, default: int) -> int:
        value = platform.get(key)
        if value is None or value == "":
            return default
        if type(value) is not int or value < 1:
            self.fault(HYPERPARAMETERS, key, value, "a number of processes, 1 or more")
            return default
        return value

    # ------------------------------------------------------------------ places

    def _source(self, submit: str) -> str:
        """Where the code comes from. As in the predecessor, code that is here already counts, and
        nothing is fetched."""
        facts = self.facts
        code_dir = posixpath.join(facts.base_dir, "code")
        if facts.fetched is not None or facts.code is None or not submit:
            return ""
        from supervisor.storage.snapshot import INCOMPLETE  # noqa: PLC0415  # where it is asked

        if facts.code and INCOMPLETE not in facts.code:
            return ""
        if posixpath.normpath(submit) == code_dir:
            return ""
        return self._place(HYPERPARAMETERS, "sagemaker_submit_directory", submit)

    def _place(self, source: str, key: str, text: str) -> str:
        from supervisor.storage.location import Location  # noqa: PLC0415  # where there is one

        try:
            return str(Location.parse(text))
        except ValueError as error:
            self.fault(source, key, text, str(error))
            return ""

    def _mirrored_model_dir(self, user: Mapping[str, Any], settings: Settings) -> str:
        """The ``model_dir`` in S3 that a local directory stands for; empty: none."""
        model_dir = user.get("model_dir")
        if not (isinstance(model_dir, str) and model_dir.startswith("s3://")):
            return ""
        old = (self.facts.tensorflow_version or "2").startswith("1.")
        able = old or self.facts.tensorflow_io
        if settings.model_dir_mirror == "off" or (settings.model_dir_mirror == "auto" and able):
            return ""
        return self._place(HYPERPARAMETERS, "model_dir", model_dir)

    def _intermediate_uri(self, platform: Mapping[str, Any], job_name: str) -> str:
        """As in the predecessor: below the output place, unless the platform made the directory."""
        output = self._text(platform, "sagemaker_s3_output")
        if not output or self.facts.intermediate_exists or output.startswith("file://"):
            return ""
        place = self._place(HYPERPARAMETERS, "sagemaker_s3_output", output)
        return posixpath.join(place, job_name, "output/intermediate") if place else ""

    def _entry_point(
        self, platform: Mapping[str, Any], settings: Settings, code: frozenset[str] | None
    ) -> tuple[str, EntryKind]:
        code_dir = posixpath.join(self.facts.base_dir, "code")
        key = "sagemaker_program"
        name = platform.get(key)
        if settings.command and (not name or isinstance(name, str)):
            if not name and any("{program}" in word for word in settings.command):
                self.fault_in_words("environment", "SUPERVISOR_COMMAND", "{program}", f"{key} set")
            return name or "", EntryKind.TEMPLATE
        if name is None or name == "":
            if self._object_is_bad(HYPERPARAMETERS):
                return "", EntryKind.SCRIPT  # it may well be named there
            self.fault_in_words(
                HYPERPARAMETERS,
                key,
                "nothing",
                f"the entry point, a path below {code_dir}; SAGEMAKER_PROGRAM sets it too",
            )
            return "", EntryKind.SCRIPT
        if not isinstance(name, str) or "\0" in name:
            self.fault(HYPERPARAMETERS, key, name, "the entry point's path, a string")
            return "", EntryKind.SCRIPT
        if name.startswith("-m"):
            module = name.removeprefix("-m").strip()
            if not all(part.isidentifier() for part in module.split(".")):
                self.fault(HYPERPARAMETERS, key, name, "-m and the name of a module: -m pkg.train")
            return module, EntryKind.MODULE
        if code is not None and not name.endswith(".sh"):
            # pyproject.toml lies beside many a plain script, for its tools; so only where there is
            # nothing else that the name could mean.
            unfiled = not name.endswith(".py") and posixpath.normpath(name) not in code
            if "setup.py" in code or ("pyproject.toml" in code and unfiled):
                return name, EntryKind.PACKAGE
        kind = EntryKind.SCRIPT if name.endswith(".py") else EntryKind.COMMAND
        absent = code is not None and posixpath.normpath(name) not in code
        if absent and not (posixpath.isabs(name)):
            self.fault(HYPERPARAMETERS, key, name, f"a file below {code_dir}; there is none")
        return name, kind

    # ------------------------------------------------------------------ our own addition

    def _overlay(self, hosts: tuple[str, ...]) -> tuple[dict[str, HostOverlay], tuple[str, ...]]:
        overlay = self._object(OVERLAY)
        for key in sorted(set(overlay) - {"hosts", "arguments"}):
            self.fault(OVERLAY, key, overlay[key], "only the keys hosts and arguments")
        arguments = overlay.get("arguments", [])
        if not isinstance(arguments, list) or not all(isinstance(a, str) for a in arguments):
            self.fault(OVERLAY, "arguments", arguments, "a list of strings")
            arguments = []
        result: dict[str, HostOverlay] = {}
        places = overlay.get("hosts", {})
        if not isinstance(places, dict):
            self.fault(OVERLAY, "hosts", places, "an object: host → {address, ports}")
            places = {}
        for host, place in places.items():
            if host not in hosts:
                self.fault(OVERLAY, f"hosts.{host}", host, f"a host of {RESOURCES}")
                continue
            address = place.get("address", host) if isinstance(place, dict) else None
            ports = place.get("ports", {}) if isinstance(place, dict) else None
            if not isinstance(address, str) or not isinstance(ports, dict):
                self.fault(OVERLAY, f"hosts.{host}", place, "{address: string, ports: object}")
                continue
            for role, port in ports.items():
                known = role in {"train", "ps", "status"}
                if not known or type(port) is not int or not 1 <= port <= 65535:
                    self.fault(
                        OVERLAY,
                        f"hosts.{host}.ports.{role}",
                        port,
                        "train, ps or status, each a port from 1 to 65535",
                    )
            result[host] = HostOverlay(address, ports)
        return result, tuple(arguments)


def _with_own_channels(channels: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The platform's channels, and those of ``SUPERVISOR_CHANNEL_<NAME>``."""
    result = dict(channels)
    for name, _ in settings.channels:
        sharded = is_sharded(settings, name)
        kind = "ShardedByS3Key" if sharded else "FullyReplicated"
        own = {"TrainingInputMode": "File", "S3DistributionType": kind, "RecordWrapperType": "None"}
        result[name] = {**result.get(name, {}), **own}
    return result


def is_sharded(settings: Settings, channel: str) -> bool:
    """Whether each host fetches its own share of the channel."""
    names = {name.strip().lower() for name in settings.channel_shard.split(",")}
    return bool(names & {"all", channel})


def _decoded(raw: object) -> Any:
    if not isinstance(raw, str):
        return raw
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw


def _passes_exec(text: str) -> bool:
    """Whether it can be an argument or a variable of a process."""
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _groups(resources: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Instance groups by name; what is malformed is a fault elsewhere, and left out here."""
    groups = resources.get("instance_groups")
    found = [group for group in groups if isinstance(group, dict)] if type(groups) is list else []
    return {
        str(group.get("instance_group_name")): hosts
        for group in found
        if isinstance(hosts := group.get("hosts"), list)
    }


def _ps_group(settings: Settings) -> str:
    """The instance group that runs the parameter servers and nothing else; empty if none does."""
    return settings.ps_hosts.removeprefix("group:") if ":" in settings.ps_hosts else ""


def _current_group(resources: Mapping[str, Any]) -> str:
    return str(resources.get("current_group_name", ""))


def _with_tuning_model_dir(
    user: Mapping[str, Any], platform: Mapping[str, Any], job_name: str, base_dir: str
) -> dict[str, Any]:
    """Under a tuning job every trial gets a model directory of its own.

    ``<model_dir>/<job name>/model``, unless it is local to the container already.
    """
    result = dict(user)
    model_dir = result.get("model_dir")
    if (
        platform.get(TUNING_METRIC)
        and isinstance(model_dir, str)
        and model_dir
        and not model_dir.startswith((base_dir, "/opt/ml"))
    ):
        result["model_dir"] = posixpath.join(model_dir, job_name, "model")
    return result
