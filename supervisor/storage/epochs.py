"""Who may write checkpoints at a place: epochs, and the claims by which they begin. Pure.

Each writer (one life of one supervisor) claims the place before it restores and has an *epoch* of
its own from then on, one more than any before. The number of a generation holds it: the first one
of epoch 7 is 000007000001, and those of six digits are of versions without epochs. So the order
of numbers is that of epochs, also for a program that knows nothing of them.

Where a place can write what is not there yet and nothing else (``Store.write_new``), each number is
taken once, by the name that ends in ``-00000000``; these names are the *chain*. Its writer takes
one number after another, and whoever claims the next epoch takes the number that the one before
would take next: there stands the claim instead of a manifest, for good. So there is no moment
between a look and a write. Elsewhere names end in chance, and the claim is number 0 of its epoch,
which a writer looks for before and after each manifest.

A claim is JSON below ``manifests/``. Versions without epochs take it for a manifest that they
cannot read, say so, and restore the one before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from supervisor.storage import manifest
from supervisor.storage.manifest import (
    PER_EPOCH,
    Manifest,
    ManifestError,
    generation_name,
    sequence_of,
)
from supervisor.storage.store import Reason, StorageError

MARK: Final = "claim"
"""The version of a claim, which manifests count."""
_SHOWN: Final = 200
"""Characters of a name that a message shows."""


@dataclass(frozen=True, slots=True)
class Claim:
    """From here on the place is that writer's."""

    epoch: int
    writer: str
    """16 hexadecimal digits of chance, of one supervisor's life."""
    host: str
    job: str
    at: float
    """Seconds since the epoch, by the writer's clock: for people, nothing is decided by it."""
    after: str = ""
    """The newest generation that its writer has seen. In the chain: that of the manifest before
    it, and all between are claims. Empty: not known, or none."""

    @property
    def order(self) -> tuple[int, str]:
        """Of two that claimed the same epoch, where a place cannot keep them apart, one goes."""
        return self.epoch, self.writer

    def __str__(self) -> str:
        """``algo-1 of job X, since 2026-05-01 12:03:04 UTC, epoch 7``."""
        who = f"{self.host} of job {self.job}" if self.job else self.host
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.at))
        return f"{who}, since {since}, epoch {self.epoch}"


class FencedError(StorageError):
    """Another writer has claimed the place since: nothing of this one counts there any more."""

    def __init__(self, place: str, epoch: int, by: Claim | None) -> None:
        whose = f"{by}; " if by else ""
        super().__init__(
            Reason.FENCED,
            f"fenced: the checkpoints at {place} belong to another run now ({whose}this one has "
            f"epoch {epoch}): what this one saves there would be lost or mix with it",
        )


# --------------------------------------------------------------------------- names


def epoch_of(generation: str) -> int:
    return sequence_of(generation) // PER_EPOCH


def chain_name(epoch: int, number: int) -> str:
    """What is there once, whoever writes it."""
    return generation_name(epoch * PER_EPOCH + number, 0)


def is_of_chain(generation: str) -> bool:
    return generation.endswith("-00000000")


def free_name(epoch: int, number: int, chance: int) -> str:
    """What nobody else has, where a place does not keep a number for one. ``chance``: 32 bits."""
    return generation_name(epoch * PER_EPOCH + number, chance or 1)


def claim_name(epoch: int, writer: str) -> str:
    """Where a claim stands that has no place in the chain."""
    return free_name(epoch, 0, int(writer[:8], 16))


def is_claim(generation: str) -> bool:
    """Whether it is one by its name alone."""
    return sequence_of(generation) % PER_EPOCH == 0


def newest_epoch(generations: Iterable[str]) -> int:
    return max(map(epoch_of, generations), default=0)


def last_of_chain(generations: Iterable[str], epoch: int) -> int:
    """The highest number that is taken; 0: none is."""
    return _last((name for name in generations if is_of_chain(name)), epoch)


def last_number(generations: Iterable[str], epoch: int) -> int:
    """In the chain or not; 0: there is none."""
    return _last(generations, epoch)


def _last(generations: Iterable[str], epoch: int) -> int:
    base = epoch * PER_EPOCH
    numbers = (sequence_of(name) - base for name in generations)
    return max((number for number in numbers if 0 < number < PER_EPOCH), default=0)


def newer_claims(generations: Iterable[str], epoch: int, writer: str) -> list[str]:
    """Names that say that a claim has come after this one's, the newest first."""
    base, own = epoch * PER_EPOCH, claim_name(epoch, writer)
    found = [
        name
        for name in generations
        if sequence_of(name) >= base + PER_EPOCH or (sequence_of(name) == base and name > own)
    ]
    return manifest.newest_first(found)


def without(generations: Iterable[str], claimed: str, claim: Claim) -> list[str]:
    """``generations``, in their order, less the claim ``claimed`` and what is known by it to be
    claims too: a place where many lives have saved nothing is not read one claim after another."""
    low = sequence_of(claim.after) if claim.after else sequence_of(claimed) - 1
    return [
        name
        for name in generations
        if not (is_of_chain(name) and low < sequence_of(name) <= sequence_of(claimed))
        and name != claimed
    ]


# --------------------------------------------------------------------------- content


def encode(claim: Claim) -> bytes:
    return json.dumps({"version": MARK} | asdict(claim), separators=(",", ":")).encode()


def decode(content: bytes) -> Manifest | Claim:
    """What stands below ``manifests/``. Raises ManifestError where it is neither."""
    if b'"version":"claim"' not in content[:40]:
        return manifest.decode(content)
    try:
        body: dict[str, Any] = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"no JSON: {error}") from None
    kinds = {"int": (int,), "float": (int, float), "str": (str,)}
    found: dict[str, Any] = {}
    for field in fields(Claim):
        value = body.get(field.name)
        if type(value) not in kinds[str(field.type)]:
            raise ManifestError(f"a claim whose {field.name!r} is {type(value).__name__}")
        found[field.name] = value[:_SHOWN] if isinstance(value, str) else value
    if found["after"]:
        sequence_of(found["after"])
    return Claim(**found)
