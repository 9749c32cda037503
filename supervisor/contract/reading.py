"""Settings from all their sources, and the variables that look like one and are none. Pure.

Precedence: command line flag, environment, hyperparameter (or the platform's own variable),
the engine's default, default.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from supervisor.contract import strangers, values
from supervisor.contract.settings import (
    BY_ENV,
    TABLE,
    Setting,
    Settings,
    tail_of,
)
from supervisor.contract.strangers import PREFIX
from supervisor.faults import Fault, shown
from supervisor.streams.masking import is_secret_name

TOLD_TO_SCRIPT: Final = frozenset(
    {
        "SUPERVISOR_ATTEMPT",
        "SUPERVISOR_CHECKPOINT_DIR",
        "SUPERVISOR_ERROR_FILE",
        "SUPERVISOR_HEARTBEAT_FILE",
        "SUPERVISOR_LAST_CAUSE",
        "SUPERVISOR_STACKS_SIGNAL",
        "SUPERVISOR_MODEL_DIR_URI",
        "SUPERVISOR_PROCESS_MARK",
        "SUPERVISOR_PROGRESS_FILE",
        "SUPERVISOR_RESUMED_FROM",
        "SUPERVISOR_STOP_BUDGET_S",
        # For processes of our own, whose descendants may be supervisors again.
        "SUPERVISOR_MPI_ENVIRONMENT",
        "SUPERVISOR_STORAGE_JOB",
    }
)
"""Variables that we set for the script. Seen in our own environment (a supervisor that runs under
a supervisor) they are no setting and no fault."""


_SLIP: Final = 2
"""A variable that is so few letters away from a setting is one, misspelled."""

CHANNEL_PREFIX: Final = "SUPERVISOR_CHANNEL_"
"""With a channel's name behind it: a family of variables, and no row of the table."""


def parse_settings(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    hyperparameters: Mapping[str, Any],
    defaults: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> tuple[Settings, list[Fault]]:
    """Settings from all their sources, and what is wrong with them.

    ``flags`` maps field names to text; ``hyperparameters`` are the platform's (already decoded);
    ``defaults`` are those of an engine, ``Engine.defaults``.
    A faulty setting has its default in the result, so that the caller can go on and collect the
    other faults.
    """
    foreign = strangers_in(environ)
    environ = {name: value for name, value in environ.items() if name not in foreign.others}
    strict = _lookup(BY_ENV["SUPERVISOR_STRICT_SETTINGS"], flags, environ, hyperparameters, {})[2]
    faults = [
        _unknown(name, environ[name], near)
        for name, (near, letters) in foreign.unknown.items()
        if _is_slip(name, letters) or strict.lower() in values.TRUE
    ]
    given: dict[str, Any] = {"channels": _channels(environ, faults)}
    for setting in TABLE:
        source, key, text = _lookup(setting, flags, environ, hyperparameters, defaults)
        try:
            given[setting.field] = setting.parse(text)
        except ValueError as error:
            found = "a value that is not shown" if setting.secret else shown(text)
            faults.append(Fault(source, key, found, str(error)))
            given[setting.field] = setting.parse(setting.default)
    faults += _share_out(given)
    faults += _poll_wait(given)
    faults += _in_flight(given)
    return Settings(given), faults


def _channels(environ: Mapping[str, str], faults: list[Fault]) -> tuple[tuple[str, str], ...]:
    """The family ``SUPERVISOR_CHANNEL_<NAME>``; a channel's name is in lower case."""
    found = {}
    for key in sorted(environ):
        if not key.startswith(CHANNEL_PREFIX) or key in BY_ENV:
            continue
        name = key.removeprefix(CHANNEL_PREFIX).lower()
        expected = "a place such as s3://BUCKET/PREFIX"
        place = ""
        try:
            place = values.place(environ[key])
        except ValueError as error:
            expected = str(error)
        if not place or not name or "/" in name or name in found:
            expected = expected if name else "SUPERVISOR_CHANNEL_ and a name"
            expected = f"the channel {name} once" if name in found else expected
            faults.append(Fault("environment", key, shown(environ[key]), expected))
        found[name] = place
    return tuple(found.items())


def _lookup(
    setting: Setting,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    hyperparameters: Mapping[str, Any],
    defaults: Mapping[str, tuple[str, str]],
) -> tuple[str, str, str]:
    if setting.field in flags:
        return "command line", setting.flag, flags[setting.field]
    if setting.env in environ:
        return "environment", setting.env, environ[setting.env]
    for twin in setting.twins:
        if twin in hyperparameters:
            return "hyperparameters.json", twin, str(hyperparameters[twin])
        if twin in environ:
            return "environment", twin, environ[twin]
    if setting.field in defaults:
        text, source = defaults[setting.field]
        return "environment", source, text
    return "default", setting.env, setting.default


class Strangers(NamedTuple):
    """``SUPERVISOR_…`` variables that are none of ours."""

    others: tuple[str, ...]
    """Those of other programs, as is known: settings by name, among them, are none."""
    unknown: Mapping[str, tuple[str, int]]
    """The rest → the setting that is nearest by name, and how many letters it is away."""


def strangers_in(environ: Mapping[str, str]) -> Strangers:
    others = []
    unknown = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        if name in strangers.SUPERVISORD or strangers.is_of_a_service(name, environ[name]):
            others.append(name)
        elif not is_ours(name):
            unknown[name] = strangers.nearest(name, BY_ENV)
    return Strangers(tuple(others), unknown)


def is_ours(name: str) -> bool:
    """Whether a variable of this name is a setting, or one that we set."""
    return name in BY_ENV or name in TOLD_TO_SCRIPT or name.startswith(CHANNEL_PREFIX)


def warnings_on(unknown: Mapping[str, tuple[str, int]]) -> tuple[str, ...]:
    """What is said of variables that are likely another program's; their values are not."""
    return tuple(
        f"{name} is no setting of this program and is left alone: the nearest is {near}; "
        "SUPERVISOR_STRICT_SETTINGS=true makes it an error"
        for name, (near, letters) in unknown.items()
        if not _is_slip(name, letters)
    )


def _is_slip(name: str, letters: int) -> bool:
    return letters <= _SLIP and name not in strangers.LIKELY


def _unknown(name: str, value: str, near: str) -> Fault:
    secret = is_secret_name(name) or BY_ENV[near].secret
    found = "a value that is not shown" if secret else shown(value)
    return Fault("environment", name, found, f"a known setting; did you mean {near}?")


def _in_flight(given: dict[str, Any]) -> list[Fault]:
    part, room = given["s3_part_bytes"], given["s3_in_flight_bytes"]
    if part <= room:
        return []
    expected = f"at least SUPERVISOR_S3_PART_BYTES, {part}: one part must fit"
    return [Fault("settings", "SUPERVISOR_S3_IN_FLIGHT_BYTES", str(room), expected)]


def _poll_wait(given: dict[str, Any]) -> list[Fault]:
    """Resolve ``auto``. A member that waits for an answer gives no other sign of life."""
    lease_s = given["master_lease_s"]
    if given["poll_wait_s"] is None:
        given["poll_wait_s"] = min(30.0, lease_s / 4)
    if given["poll_wait_s"] <= min(30.0, lease_s / 2):
        return []
    return [
        Fault(
            "settings",
            "SUPERVISOR_POLL_WAIT_S",
            f"{given['poll_wait_s']:g}",
            f"at most 30, and half of SUPERVISOR_MASTER_LEASE_S, {lease_s / 2:g}",
        )
    ]


def _share_out(given: dict[str, Any]) -> list[Fault]:
    """Resolve ``auto`` shares; the shares must fit into the limit, else the last one is a lie."""
    limit_s = given["stop_limit_s"]
    tail = tail_of(limit_s)
    if given["publish_reserve_s"] is None:
        given["publish_reserve_s"] = limit_s / 8
    if given["server_grace_s"] is None:
        given["server_grace_s"] = tail.server_s
    tail_s = tail.fixed_s + given["server_grace_s"] + given["publish_reserve_s"]
    room_s = limit_s - tail_s
    grace_s = given["stop_grace_s"]
    given["stop_grace_s"] = max(room_s, 0.0) if grace_s is None else grace_s
    if room_s > 0 and given["stop_grace_s"] <= room_s:
        return []
    less = (
        f"SUPERVISOR_STOP_LIMIT_S {limit_s:g} less {tail_s:g} for process groups, servers "
        f"(SUPERVISOR_SERVER_GRACE_S {given['server_grace_s']:g}), SIGKILL, publishing "
        f"(SUPERVISOR_PUBLISH_RESERVE_S {given['publish_reserve_s']:g}) and the report"
    )
    if room_s <= 0:  # no grace fits, 0 neither: another setting is to be changed
        expected = f"a limit that leaves the script time: {less}; raise the limit, or lower those"
        return [Fault("settings", "SUPERVISOR_STOP_LIMIT_S", f"{limit_s:g}", expected)]
    expected = f"at most {room_s:g}: {less}; lower the grace or those, or raise the limit"
    return [Fault("settings", "SUPERVISOR_STOP_GRACE_S", f"{grace_s:g}", expected)]
