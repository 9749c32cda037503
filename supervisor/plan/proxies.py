"""Proxy variables of the environment, and the job's own hosts, which no proxy is asked for. Pure.

gRPC takes a proxy for every address that its list of exceptions does not name, the job's hosts
too; TensorFlow's servers then never hear of each other, and nothing says so. How gRPC reads the
list (``src/core/handshaker/http_connect/http_proxy_mapper.cc``): ``no_grpc_proxy``, where that is
unset ``no_proxy``, in lower case only; commas between the entries; an entry holds for every host
name that ends with it, and a subnet for the addresses in it. It knows no ``*``, which for curl and
Python means every host where it is the whole value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


def proxies_in(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that name a proxy."""
    names = [each for name in _PROXIES for each in (name, name.upper())]
    return tuple(name for name in names if environ.get(name))


def exceptions(environ: Mapping[str, str], hosts: Iterable[str]) -> dict[str, str]:
    """The variables by which ``hosts``, names or addresses, are reached without a proxy.

    What the user excepts stays. Empty where no proxy is set.
    """
    if not proxies_in(environ):
        return {}
    own = tuple(dict.fromkeys(_entries(hosts)))
    lower, upper = environ.get("no_proxy"), environ.get("NO_PROXY")
    common = (lower if lower is not None else upper) or ""
    # Each as its readers find it today; where one is unset, they take the other.
    found = {
        "no_grpc_proxy": environ.get("no_grpc_proxy", common),
        "no_proxy": common,
        "NO_PROXY": (upper if upper is not None else lower) or "",
    }
    return {
        # With anything beside it the asterisk would lose its meaning.
        name: value if name != "no_grpc_proxy" and value.strip() == "*" else _joined(value, own)
        for name, value in found.items()
    }


def _joined(value: str, own: Iterable[str]) -> str:
    present = {entry.strip() for entry in value.split(",")}
    more = [entry for entry in own if entry not in present]
    return ",".join([*([value.strip().rstrip(",")] if value.strip(", ") else []), *more])


def _entries(hosts: Iterable[str]) -> Iterator[str]:
    for host in (*_LOOPBACK, *hosts):
        bare = host.strip("[]")
        yield bare
        if ":" in bare:
            yield f"[{bare}]"  # as it stands in a URL, which is what Python's urllib compares
            continue
        short, dot, _ = bare.partition(".")
        # No part of an address: for gRPC "10" would be every address that ends with it.
        if dot and any(map(str.isalpha, short)):
            yield short
