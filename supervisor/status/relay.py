"""Another host's lines, asked for on its own status port: from any host, people see all of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Final

import aiohttp

from supervisor.cluster.names import NamesResolver
from supervisor.cluster.net import NoAddress, Resolver
from supervisor.life.words import place
from supervisor.status.doors import Member
from supervisor.status.feed import END, STILL_HERE
from supervisor.status.http import Refused
from supervisor.status.limits import Limits

_CONNECT_S: Final = 5.0
_EVENT_BYTES: Final = 4 << 20
"""The longest event that is passed on."""
_ERROR_BYTES: Final = 4096


async def lines_of(
    member: Member, query: Mapping[str, str], *, token: bytes | None, limits: Limits
) -> AsyncGenerator[bytes, None]:
    """Whole events of ``GET /logs`` of ``member``, its end too: where the connection breaks it is
    said here.

    Raises:
        Refused: it cannot be reached, or refuses.

    """
    names = NamesResolver(Resolver(), member.address, _CONNECT_S)
    timeout = aiohttp.ClientTimeout(
        total=None, connect=_CONNECT_S, sock_read=2 * limits.events_heartbeat_s
    )
    headers = {} if token is None else {"Authorization": f"Bearer {token.decode()}"}
    there = member.host if "%" in member.address else member.address
    url = f"http://{place(there, member.port)}/logs"
    opened = ended = False
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=names, use_dns_cache=False),
                timeout=timeout,
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            ) as session,
            session.get(url, params=query, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                text = (await answer.content.read(_ERROR_BYTES)).decode("utf-8", "replace")
                raise Refused(502, f"{member.host} answered {answer.status}: {text}")
            opened = True
            yield STILL_HERE
            held = b""
            async for chunk in answer.content.iter_any():
                whole, separator, held = (held + chunk).rpartition(b"\n\n")
                if len(held) > _EVENT_BYTES:
                    break
                if separator:
                    ended = ended or b"event: end\n" in whole
                    yield whole + separator
    except (aiohttp.ClientError, TimeoutError, NoAddress, OSError) as error:
        if not opened:
            what = type(error).__name__ if isinstance(error, TimeoutError) else str(error)
            raise Refused(502, f"{member.host} cannot be asked: {what}") from None
    if not ended and query.get("follow", "1") != "0":
        yield END % json.dumps({"host": member.host, "broken": True}).encode()
