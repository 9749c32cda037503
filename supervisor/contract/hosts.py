"""Hosts: who they are, which is this one, its instance group, and where each can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from supervisor.contract.document import Documents
from supervisor.contract.facts import OVERLAY, RESOURCES
from supervisor.faults import shown

ALONE: Final = "localhost"
"""The name of the only host where nobody has given it one: one that always resolves."""


class Hosts(NamedTuple):
    """What resourceconfig.json says; no hosts where it cannot be read."""

    resources: Mapping[str, Any]
    names: tuple[str, ...]
    """All of the job, as the platform orders them."""
    current: str
    """This one."""

    @property
    def own_group(self) -> str:
        """The instance group of this host."""
        return str(self.resources.get("current_group_name", ""))

    @property
    def groups(self) -> dict[str, list[Any]]:
        """Instance groups by name; what is malformed is a fault elsewhere, and left out here."""
        groups = self.resources.get("instance_groups")
        found = (
            [group for group in groups if isinstance(group, dict)] if type(groups) is list else []
        )
        return {
            str(group.get("instance_group_name")): hosts
            for group in found
            if isinstance(hosts := group.get("hosts"), list)
        }


class HostOverlay(NamedTuple):
    """Where a host is, where it is not ``NAME:standard ports``."""

    address: str
    ports: Mapping[str, int] = MappingProxyType({})
    """``train``, ``ps``, ``status`` → port."""


def resource_config(documents: Documents) -> dict[str, Any]:
    """Without the file, and without variables of a platform, one host: ``docker run IMAGE train``
    on a desk has none."""
    job = documents.facts.engine.job
    if job is not None:
        return {"current_host": job.current, "hosts": list(job.hosts)}
    if RESOURCES in documents.facts.files or RESOURCES in documents.facts.unreadable:
        return documents.read(RESOURCES)
    if documents.facts.given is None:
        documents.notes.append(
            f"{documents.path(RESOURCES)} is missing, so this host is taken for the only one: "
            "where there are others, the platform has to write it"
        )
    return {"current_host": ALONE, "hosts": [ALONE]}


def read(documents: Documents, resources: Mapping[str, Any]) -> Hosts:
    """Who the hosts are, and which is this one."""
    engine = documents.facts.engine
    unknown = engine.job is not None and not engine.job.hosts and engine.faults
    if documents.is_bad(RESOURCES) or unknown:  # that is told already
        return Hosts(resources, (), "")
    names = _names(documents, RESOURCES, "hosts", resources.get("hosts"))
    current = resources.get("current_host")
    if not isinstance(current, str) or not current:
        documents.fault(RESOURCES, "current_host", current, "the name of this host")
        return Hosts(resources, names, "")
    if names and current not in names:
        documents.fault(
            RESOURCES, "current_host", current, f"one of the hosts {', '.join(names[:20])}"
        )
    _compare(documents, names)
    interface = resources.get("network_interface_name", "eth0")
    if not isinstance(interface, str):
        documents.fault(RESOURCES, "network_interface_name", interface, "a string such as eth0")
    group = resources.get("current_group_name", "")
    if group is not None and not isinstance(group, str):
        documents.fault(RESOURCES, "current_group_name", group, "the name of this host's group")
    return Hosts(resources, names, current)


def _compare(documents: Documents, names: tuple[str, ...]) -> None:
    """The file counts; variables of a platform that say something else are no accident."""
    rival = documents.facts.engine.rival
    if rival is None or rival.job is None or not names:
        return
    told = rival.job.hosts
    ours = "SUPERVISOR_HOSTS" in rival.job.sources.values()
    if len(told) == len(names) and (not ours or set(told) == set(names)):
        return
    found = f"{', '.join(names[:20])}, and {rival.evidence}: {', '.join(told[:20])}"
    expected = (
        "the same hosts from both; SUPERVISOR_ENGINE=sagemaker takes the file, "
        f"SUPERVISOR_ENGINE={rival.name} the variables"
    )
    documents.fault_in_words(RESOURCES, "hosts", found, expected)


def instance_groups(documents: Documents, hosts: Hosts) -> dict[str, tuple[str, ...]] | None:
    """The hosts of each group, by its name; None where there are no groups to be read."""
    groups = hosts.resources.get("instance_groups")
    if groups is None:
        return None
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        documents.fault(RESOURCES, "instance_groups", groups, "a list of objects")
        return None
    by_name: dict[str, tuple[str, ...]] = {}
    for group in groups:
        name = group.get("instance_group_name")
        if not isinstance(name, str):
            documents.fault(RESOURCES, "instance_groups", group, "an instance_group_name in each")
            continue
        key = f"instance_groups[{name}].hosts"
        by_name[name] = _names(documents, RESOURCES, key, group.get("hosts"))
        names = hosts.names
        if names and (strangers := [host for host in by_name[name] if host not in names]):
            documents.fault(RESOURCES, key, strangers, "hosts of the job, as in hosts")
    return by_name


def overlay(documents: Documents, hosts: Hosts) -> tuple[dict[str, HostOverlay], tuple[str, ...]]:
    """What our own addition to the files says: where hosts are, and arguments of the script."""
    document = documents.read(OVERLAY)
    for key in sorted(set(document) - {"hosts", "arguments"}):
        documents.fault(OVERLAY, key, document[key], "only the keys hosts and arguments")
    arguments = document.get("arguments", [])
    if not isinstance(arguments, list) or not all(isinstance(a, str) for a in arguments):
        documents.fault(OVERLAY, "arguments", arguments, "a list of strings")
        arguments = []
    job = documents.facts.engine.job
    result = {name: HostOverlay(*place) for name, place in job.places.items()} if job else {}
    places = document.get("hosts", {})
    if not isinstance(places, dict):
        documents.fault(OVERLAY, "hosts", places, "an object: host → {address, ports}")
        places = {}
    for host, place in places.items():
        if host not in hosts.names:
            documents.fault(OVERLAY, f"hosts.{host}", host, f"a host of {RESOURCES}")
            continue
        address = place.get("address", host) if isinstance(place, dict) else None
        ports = place.get("ports", {}) if isinstance(place, dict) else None
        if not isinstance(address, str) or not isinstance(ports, dict):
            documents.fault(OVERLAY, f"hosts.{host}", place, "{address: string, ports: object}")
            continue
        for role, port in ports.items():
            known = role in {"train", "ps", "status"}
            if not known or type(port) is not int or not 1 <= port <= 65535:
                documents.fault(
                    OVERLAY,
                    f"hosts.{host}.ports.{role}",
                    port,
                    "train, ps or status, each a port from 1 to 65535",
                )
        told = result.get(host)
        if told is not None and "address" not in place:
            address = told.address  # the platform's; the file says the ports alone
        elif told is not None and told.address not in {address, host}:
            found, expected = shown(address), f"{told.address}, as the platform's variables say"
            documents.fault_in_words(OVERLAY, f"hosts.{host}.address", found, expected)
        result[host] = HostOverlay(address, {**(told.ports if told else {}), **ports})
    return result, tuple(arguments)


def _names(documents: Documents, source: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        documents.fault(source, key, value, "a list of one host name or more")
        return ()
    for name in value:
        # Others would break log lines and the environment, and no resolver takes them.
        if not isinstance(name, str) or not name or not name.isprintable() or " " in name:
            expected = "host names, each a string that is not empty and holds no blanks"
            documents.fault(source, key, name, expected)
            return ()
    for name in sorted({name for name in value if value.count(name) > 1}):
        documents.fault_in_words(source, key, f"{name} {value.count(name)} times", "each host once")
    return tuple(value)
