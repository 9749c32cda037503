"""What is fetched and what is kept elsewhere, computed from the contract. Pure.

A module of its own, loaded only where there is something to do.
"""

from __future__ import annotations

import posixpath
import sys

from supervisor.contract.channels import is_sharded
from supervisor.contract.contract import Contract
from supervisor.contract.paths import Paths, channel_below
from supervisor.contract.values import TRANSFERS
from supervisor.faults import ContractError, Fault
from supervisor.life.words import OOM_RAISE_OF_HELPERS, ProcessSpec, Role
from supervisor.plan.environment import inherited
from supervisor.storage.job import (
    VARIABLE,
    Claiming,
    Fetched,
    FetchJob,
    Kind,
    Options,
    Policy,
    Restore,
    Source,
    SyncJob,
    Transfer,
    Tree,
    Writer,
    encode,
)
from supervisor.storage.location import Location, Scheme


def options(contract: Contract) -> Options:
    settings = contract.settings
    return Options(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        addressing=settings.s3_addressing,
        anonymous=settings.s3_anonymous,
        part_bytes=settings.s3_part_bytes,
        in_flight_bytes=settings.s3_in_flight_bytes,
        bandwidth_bytes_s=settings.s3_bandwidth_bytes_s,
        encryption=settings.s3_encryption,
        kms_key=settings.s3_kms_key,
        storage_class=settings.s3_storage_class,
        requester_pays=settings.s3_requester_pays,
        retry_s=settings.s3_retry_s,
        timeout_s=settings.s3_timeout_s,
    )


def fetch_job(contract: Contract, paths: Paths) -> FetchJob | None:
    """What this host needs before its script starts; None where all of it is here."""
    if contract.fetched is not None:
        return None
    settings = contract.settings
    source = restore = None
    if contract.source:
        source = Source(
            Location.parse(contract.source),
            contract.code_dir,
            settings.source_max_bytes,
            settings.source_max_files,
        )
    trees = [
        Tree(
            f"channel {name}",
            Location.parse(place),
            channel_below(contract.base_dir, name),
            shard=contract.hosts.index(contract.current_host),
            shards=len(contract.hosts) if is_sharded(settings, name) else 1,
        )
        for name, place in settings.channels
    ]
    if contract.model_dir_uri:
        place = Location.parse(contract.model_dir_uri)
        trees.append(Tree("model_dir", place, paths.model_dir, may_be_empty=True, optional=True))
    if settings.checkpoint_s3_uri and settings.restore != "never":
        several = len(contract.distribution_hosts) > 1
        restore = Restore(
            _checkpoints(contract), paths.checkpoints, settings.restore, compared=several
        )
    claim = None
    if _writes_checkpoints(contract):
        claim = Claiming(_checkpoints(contract), contract.current_host, contract.job_name)
    bucket = contract.model_dir_bucket
    region_of = Location.parse(bucket) if bucket else None
    if not (source or trees or restore or claim or region_of):
        return None
    return FetchJob(
        result=paths.fetched,
        options=options(contract),
        live=settings.log_progress == "live",
        source=source,
        trees=tuple(trees),
        restore=restore,
        claim=claim,
        region_of=region_of,
    )


def sync_job(contract: Contract, paths: Paths) -> SyncJob | None:
    """What this host keeps elsewhere; None where that is nothing.

    Raises ``ContractError`` where something would be kept inside of itself.
    """
    settings = contract.settings
    policies = TRANSFERS | dict(settings.storage_policy)
    master = contract.current_host == contract.master
    found: dict[str, Transfer] = {}

    def keep(name: str, kind: Kind, source: str, target: Location, number: int = 0) -> None:
        policy = Policy(policies[name])
        found[name] = Transfer(name, kind, source, target, policy, number, grows=name == "logs")

    def own(place: str) -> Location:
        """Below the host's name where there are several hosts."""
        location = Location.parse(place)
        return location.child(contract.current_host) if len(contract.hosts) > 1 else location

    if _writes_checkpoints(contract):
        target, number = _checkpoints(contract), settings.checkpoint_keep
        keep("checkpoints", Kind.CHECKPOINTS, paths.checkpoints, target, number)
    if contract.model_dir_uri:
        target = Location.parse(contract.model_dir_uri)
        keep("model_dir", Kind.MIRROR, paths.model_dir, target)
    intermediate = settings.intermediate_s3_uri or contract.intermediate_uri
    if intermediate:
        target = Location.parse(intermediate)
        keep("intermediate", Kind.MIRROR, paths.output_intermediate, target)
    if settings.log_s3_uri and settings.log_files:
        keep("logs", Kind.MIRROR, paths.logs, own(settings.log_s3_uri))
    if settings.output_s3_uri:
        keep("output", Kind.RESULT, paths.output_data, own(settings.output_s3_uri))
    if settings.model_s3_uri and master:
        keep("model", Kind.RESULT, paths.model, Location.parse(settings.model_s3_uri))
    faults = [
        Fault("settings", name, str(each.target), f"a place outside of {each.source}, its source")
        for name, each in found.items()
        if each.target.scheme is Scheme.FILE
        and f"{each.target.key}/".startswith(f"{posixpath.normpath(each.source)}/")
    ]
    if faults:
        raise ContractError(faults)
    if not found:
        return None
    fetched = contract.fetched or Fetched()
    return SyncJob(
        writer=Writer(
            fetched.writer,
            fetched.epoch,
            fetched.conditional,
            again=bool(fetched.writer and not fetched.epoch),
        ),
        transfers=tuple(found[name] for name in TRANSFERS if name in found),
        host=contract.current_host,
        job=contract.job_name,
        options=options(contract),
        live=settings.log_progress == "live",
        settle_s=settings.checkpoint_settle_s,
        rescan_s=settings.sync_rescan_s,
        lag_warn_s=settings.sync_lag_warn_s,
    )


def restore_step(
    contract: Contract, paths: Paths, generation: str, *, again: bool = False
) -> ProcessSpec:
    """What brings this host's directory to one checkpoint of the place; ``again``: between two
    attempts."""
    superseded = contract.fetched.aside if again and contract.fetched else ""
    work = FetchJob(
        result=paths.fetched,
        options=options(contract),
        live=contract.settings.log_progress == "live",
        restore=Restore(
            _checkpoints(contract),
            paths.checkpoints,
            "exact",
            generation,
            again=again,
            superseded=superseded,
        ),
    )
    return process(contract, paths, work)


def process(contract: Contract, paths: Paths, work: FetchJob | SyncJob) -> ProcessSpec:
    """The process that does it. ``-P``: a ``supervisor`` beside the user's script is not ours."""
    env = inherited(contract)
    env[VARIABLE] = encode(work)
    env["SUPERVISOR_ERROR_FILE"] = paths.error
    fetches = isinstance(work, FetchJob)
    name = "fetch" if fetches else "sync"
    return ProcessSpec(
        name=name,
        role=Role.PREPARE if fetches else Role.STORAGE,
        argv=(sys.executable, "-P", "-m", f"supervisor.storage.{name}"),
        env=env,
        cwd=contract.base_dir,
        oom_raise=OOM_RAISE_OF_HELPERS,
    )


def _writes_checkpoints(contract: Contract) -> bool:
    settings = contract.settings
    writes = contract.current_host == contract.master or settings.checkpoint_hosts == "all"
    return bool(settings.checkpoint_s3_uri) and writes


def _checkpoints(contract: Contract) -> Location:
    place = Location.parse(contract.settings.checkpoint_s3_uri)
    each = contract.settings.checkpoint_hosts == "all" and len(contract.hosts) > 1
    return place.child(contract.current_host) if each else place
