"""Names of the job's hosts as aiohttp looks them up: in bounded time, anew for each connection."""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from supervisor.cluster.net import MOST_ADDRESSES, Resolver, is_address


class NamesResolver(AbstractResolver):
    """`Resolver` as aiohttp wants it, of one host: looked up for every new connection."""

    def __init__(self, resolver: Resolver, address: str, timeout_s: float) -> None:
        self._resolver = resolver
        self._address = address
        self._timeout_s = timeout_s
        self.last: tuple[str, ...] = (address,) if is_address(address) else ()
        """What was found last."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(self._address, timeout_s=self._timeout_s)
        self.last = found[:MOST_ADDRESSES]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in self.last
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else socket.AF_INET)
        ]

    async def close(self) -> None:
        pass
