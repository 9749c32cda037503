"""Input channels: those that the platform names, and those of ``SUPERVISOR_CHANNEL_<NAME>``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor.contract.document import Documents
from supervisor.contract.facts import CHANNELS
from supervisor.contract.settings import Settings


def read(documents: Documents) -> dict[str, Any]:
    """The platform's channels: name → what it says of each."""
    channels = documents.read(CHANNELS)
    for name, value in channels.items():
        if not isinstance(value, dict):
            documents.fault(CHANNELS, name, value, "an object such as {TrainingInputMode, …}")
    return channels


def with_own_channels(channels: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
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
