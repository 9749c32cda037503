"""What a transfer process has to do, as frozen data that travels through its environment. Pure."""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.storage.location import Location, Scheme

VARIABLE: Final = "SUPERVISOR_STORAGE_JOB"
"""The job as JSON, in the environment of the process: an argument vector is everyone's to read."""


class Policy(enum.StrEnum):
    """What follows when a transfer cannot be done."""

    WARN = "warn"
    """It is said."""
    END = "end"
    """The job's end is a failure if it is not made good until then."""
    FAIL = "fail"
    """The job ends."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to speak to servers; see the settings table for each. Empty: the client's default."""

    endpoint: str = ""
    region: str = ""
    addressing: str = "auto"
    """``auto``, ``path`` or ``virtual``."""
    anonymous: bool = False
    part_bytes: int = 8 << 20
    in_flight_bytes: int = 48 << 20
    """Bytes in memory, of all transfers of the process together."""
    bandwidth_bytes_s: int = 0
    """0: no limit."""
    encryption: str = ""
    """``AES256``, ``aws:kms`` or ``aws:kms:dsse``."""
    kms_key: str = ""
    storage_class: str = ""
    requester_pays: bool = False
    retry_s: float = 300.0
    """How long one operation is tried in all."""
    timeout_s: float = 30.0
    """The longest silence of a server that is borne; first attempts bear less (``patience``)."""


@dataclass(frozen=True, slots=True)
class Source:
    """The script's code, from an archive or a directory."""

    origin: Location
    target: str
    """Directory."""
    max_bytes: int
    """Unpacked, in all."""
    max_files: int


@dataclass(frozen=True, slots=True)
class Tree:
    """All objects below a place into a directory: an input channel, a model directory."""

    name: str
    """As it is spoken of: ``channel training``."""
    origin: Location
    target: str
    shard: int = 0
    shards: int = 1
    """Of the objects in the order of their keys, every ``shards``-th from the ``shard``-th."""
    may_be_empty: bool = False
    optional: bool = False
    """What cannot be fetched is said and fails nothing."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The newest complete checkpoint into a directory."""

    origin: Location
    target: str
    mode: str = "auto"
    """``auto``: unless the directory holds files already; ``always``: it is emptied first;
    ``exact``: ``generation``, and what is there otherwise is moved aside."""
    generation: str = ""
    compared: bool = False
    """Other hosts restore from the same place: it is of interest what a directory holds."""
    again: bool = False
    """Between two attempts of a job. What is moved aside then is kept until the next time: each
    would leave a checkpoint's size on the disk that its successor does not have any more …"""
    superseded: str = ""
    """… and this is what the last time has moved aside."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes checkpoints, as places know him; see ``epochs``."""

    token: str = ""
    """16 hexadecimal digits of chance, the same for all processes of one life of a supervisor."""
    epoch: int = 0
    """0: none is claimed yet."""
    conditional: bool = False
    """The place writes what is not there yet and nothing else, if it is asked to."""
    again: bool = False
    """A process of this life may have claimed one, and is gone."""

    def of(self, epoch: int, *, conditional: bool) -> Writer:
        return Writer(self.token, epoch, conditional)


@dataclass(frozen=True, slots=True)
class Claiming:
    """A place of checkpoints where this host is going to write: no older writer does from now."""

    place: Location
    host: str
    job: str


@dataclass(frozen=True, slots=True)
class FetchJob:
    """Before the barrier. All at once; any failure fails the job."""

    result: str
    """File for the outcome: JSON, see ``Fetched``."""
    options: Options = field(default_factory=Options)
    live: bool = False
    """Progress is drawn in place, on a terminal; else a line every few seconds."""
    source: Source | None = None
    trees: tuple[Tree, ...] = ()
    restore: Restore | None = None
    claim: Claiming | None = None
    """Before anything is restored: what is restored does not get old by another one's next."""
    region_of: Location | None = None
    """The bucket that is asked where it is."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a ``FetchJob`` has done."""

    resumed_from: str = ""
    """The manifest's place; empty: nothing was there to resume from, or the directory had it."""
    bucket_region: str = ""
    """Of the bucket that was asked; empty: it did not say."""
    holds: str = ""
    """What the checkpoint directory holds now, see ``agreement.Held``."""
    aside: str = ""
    """Where that is which it held before, and which the next restore between attempts removes."""
    writer: str = ""
    """As which this host writes checkpoints, see ``Writer.token``; empty: it writes none."""
    epoch: int = 0
    conditional: bool = False
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0


class Kind(enum.StrEnum):
    """How a directory is kept elsewhere."""

    CHECKPOINTS = "checkpoints"
    """As generations, each complete, with a manifest written last."""
    MIRROR = "mirror"
    """Every file under its own name."""
    RESULT = "result"
    """As a mirror, once, when the job is over."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One directory that is sent somewhere."""

    name: str
    """``checkpoints``, ``intermediate``, ``model_dir``, ``logs``, ``output``, ``model``."""
    kind: Kind
    source: str
    """Directory."""
    target: Location
    policy: Policy = Policy.WARN
    keep: int = 0
    """Complete checkpoints that are kept at the target; 0: all."""
    grows: bool = False
    """Files are only ever appended to (logs): what is there now is sent without waiting for their
    end, and again when there is more, at most every ``rescan_s``."""


@dataclass(frozen=True, slots=True)
class SyncJob:
    """Beside the training, and after it."""

    transfers: tuple[Transfer, ...]
    """In the order in which they are published at the end."""
    host: str = ""
    job: str = ""
    """Host and job are named in manifests, for people."""
    writer: Writer = field(default_factory=Writer)
    """Of checkpoints."""
    options: Options = field(default_factory=Options)
    live: bool = False
    settle_s: float = 2.0
    """A file that was not written to for so long is complete."""
    rescan_s: float = 15.0
    lag_warn_s: float = 600.0
    """Age of the oldest unsent change from which on it is said."""


Job = FetchJob | SyncJob


def encode(job: Job) -> str:
    return json.dumps(dataclasses.asdict(job), default=str, separators=(",", ":"))


def drawn_in_place(text: str) -> str:
    """An encoded job, with its progress drawn in place: there is a terminal."""
    return json.dumps(_object(text) | {"live": True}, separators=(",", ":"))


def decode_fetch(text: str) -> FetchJob:
    """Raises ValueError where ``text`` is no job of ours."""
    raw = _object(text)
    source, restore, region_of = raw["source"], raw["restore"], raw["region_of"]
    claim = raw["claim"]
    return FetchJob(
        **raw
        | {
            "options": Options(**raw["options"]),
            "source": Source(**_placed(source, "origin")) if source else None,
            "trees": tuple(Tree(**_placed(tree, "origin")) for tree in raw["trees"]),
            "restore": Restore(**_placed(restore, "origin")) if restore else None,
            "claim": Claiming(**_placed(claim, "place")) if claim else None,
            "region_of": _location(region_of) if region_of else None,
        }
    )


def decode_sync(text: str) -> SyncJob:
    """Raises ValueError where ``text`` is no job of ours."""
    raw = _object(text)
    transfers = [_placed(each, "target") for each in raw["transfers"]]
    for each in transfers:
        each.update(kind=Kind(each["kind"]), policy=Policy(each["policy"]))
    return SyncJob(
        **raw
        | {
            "options": Options(**raw["options"]),
            "writer": Writer(**raw["writer"]),
            "transfers": tuple(Transfer(**each) for each in transfers),
        }
    )


def _object(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return dict(value)


def _placed(raw: dict[str, Any], key: str) -> dict[str, Any]:
    return raw | {key: _location(raw[key])}


def _location(raw: dict[str, str]) -> Location:
    return Location(Scheme(raw["scheme"]), raw["bucket"], raw["key"])
