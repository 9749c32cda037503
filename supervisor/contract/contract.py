"""What the platform says about the job: its files and environment, read once, checked, frozen.

Pure: the shell hands over ``Facts`` (bytes of files, variables, what lies in the code directory)
and gets a ``Contract`` or one ``ContractError`` that lists every fault. The container contract is
that of Amazon SageMaker training containers; ``supervisorconfig.json`` is our own addition to it,
for engines that place several hosts on one network stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from supervisor.contract import (
    channels,
    distribution,
    entry_point,
    hosts,
    hyperparameters,
    places,
)
from supervisor.contract.distribution import Mpi, Strategy
from supervisor.contract.document import Documents
from supervisor.contract.entry_point import EntryKind
from supervisor.contract.facts import Engine, Facts
from supervisor.contract.hosts import HostOverlay
from supervisor.contract.hyperparameters import Hyperparameters
from supervisor.contract.reading import parse_settings, strangers_in, warnings_on
from supervisor.contract.settings import Settings
from supervisor.faults import ContractError

if TYPE_CHECKING:
    from supervisor.storage.job import Fetched


class Contract(NamedTuple):  # of so many fields a dataclass takes milliseconds of each start
    """What the platform says, checked. Everything that later layers ask about the job."""

    base_dir: str
    code_dir: str
    """Where the entry point is, and the script's working directory."""
    engine: Engine
    """Where all of this comes from."""
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
    evaluator: str
    """The host that evaluates, where the platform says so; else empty."""
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
    environ: Mapping[str, str]
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

    def __repr__(self) -> str:
        """Without the variables, in which there are secrets."""
        return f"Contract({self.base_dir!r}, {self.current_host!r})"

    @property
    def master(self) -> str:
        return self.distribution_hosts[0]

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
    documents = Documents(facts)
    # In the order in which faults are told.
    hyper = hyperparameters.read(documents)
    settings, strangers = _settings(documents, hyper)
    resources = hosts.resource_config(documents)
    input_data = channels.read(documents)
    job_hosts = hosts.read(documents, resources)
    distributed = distribution.read(documents, hyper, settings, job_hosts)
    submit = hyper.text("sagemaker_submit_directory")
    source = entry_point.source(documents, submit)
    entry, kind = entry_point.read(documents, hyper, settings, to_fetch=bool(source))
    overlays, arguments = hosts.overlay(documents, job_hosts)
    job_name = (
        hyper.text("sagemaker_job_name")
        or facts.environ.get("TRAINING_JOB_NAME", "")
        or facts.engine.job_name
    )
    user, model_dir_uri = places.model_dir(documents, hyper, settings, job_name)
    region = hyper.text("sagemaker_region")
    intermediate_uri = places.intermediate_uri(documents, hyper, job_name)
    if documents.faults:
        raise ContractError(documents.faults)
    code = facts.code or frozenset()
    return Contract(
        base_dir=facts.base_dir,
        code_dir=facts.code_dir,
        engine=facts.engine,
        settings=settings,
        hosts=job_hosts.names,
        distribution_hosts=distributed.hosts,
        followers=distributed.followers,
        current_host=job_hosts.current,
        strategy=distributed.strategy,
        outside=distributed.outside,
        ps_ignored=distributed.ps_ignored,
        ps_hosts=distributed.ps_hosts,
        ps_only_hosts=distributed.ps_only_hosts,
        evaluator=distributed.evaluator,
        mpi=distributed.mpi,
        entry_point=entry,
        entry_kind=kind,
        hyperparameters=user,
        platform_hyperparameters=hyper.platform,
        resource_config=resources,
        input_data_config=channels.with_own_channels(input_data, settings),
        job_name=job_name,
        region=region,
        submit_directory=submit,
        arguments=(*arguments, *(facts.given.arguments if facts.given else ())),
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
        notes=tuple(documents.notes),
        variables_of_others=strangers,
    )


def _settings(documents: Documents, hyper: Hyperparameters) -> tuple[Settings, tuple[str, ...]]:
    """The settings, and the variables of their prefix that are others'."""
    facts = documents.facts
    engine = facts.engine
    settings, faults = parse_settings(facts.flags, facts.environ, hyper.platform, engine.defaults)
    documents.notes += engine.notes
    for fault in (*engine.faults, *faults):
        documents.fault_in_words(fault.source, fault.key, fault.found, fault.expected)
    foreign = strangers_in(facts.environ)
    documents.notes += warnings_on(foreign.unknown)
    return settings, foreign.others
