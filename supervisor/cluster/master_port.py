"""One request to a master's status port, and what was heard of the master by it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Self

import aiohttp

from supervisor.cluster.liveness import (
    Answered,
    Denied,
    NoAnswer,
    Observation,
    Refused,
    Rejected,
    Renewed,
)
from supervisor.cluster.names import NamesResolver
from supervisor.cluster.net import (
    NoAddress,
    Resolver,
    are_refusals,
    families,
)
from supervisor.cluster.protocol import (
    MAX_BODY_BYTES,
    VERSION,
    JobDocument,
    ProtocolError,
    Refusal,
    VersionError,
    decode_job,
    decode_refusal,
    versions_differ,
)
from supervisor.faults import in_words
from supervisor.life.words import place

_NOBODY = frozenset({401, 403, 404})
"""Answers to somebody who is no member of the job that is served there."""
_ERRNO = re.compile(r"\[Errno (\d+)\]")


@dataclass(frozen=True, slots=True)
class Heard:
    """What one request has shown."""

    observation: Observation
    problem: str | None = None
    """Why the master, or whoever answered in its place, is none to this host."""
    document: JobDocument | None = None
    over: bool = False
    """The master takes us for its member, and knows of a later attempt than we spoke of."""


class MasterPort:
    """A context manager: within it, requests can be made.

    Args:
        endpoint: address (a name is looked up for every connection) and status port.
        master_host: the master's name.
        token: the job's secret; None where none is configured.
        slack_s: time allowed for a connection.

    """

    def __init__(
        self,
        endpoint: tuple[str, int],
        master_host: str,
        *,
        token: str | None,
        slack_s: float,
        resolver: Resolver,
    ) -> None:
        address, port = endpoint
        self._where = place(address, port)
        # An address with a scope is none to a URL: the resolver knows it.
        self._there = f"{master_host}:{port}" if "%" in address else self._where
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._slack_s = slack_s
        self._names = NamesResolver(resolver, address, slack_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=4,
            use_dns_cache=False,
            keepalive_timeout=15.0,
            resolver=self._names,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Never through a proxy of the environment: that is for the world outside.
            trust_env=False,
            trace_configs=[_tracing()],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Heard:
        """Make one request; what it has shown, also where nothing answered."""
        assert self._session is not None
        where = self._where
        stage = _Stage()
        try:
            async with self._session.request(
                method,
                f"http://{self._there}{path}",
                params=params,
                data=body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._slack_s),
                trace_request_ctx=stage,
            ) as response:
                answer = bytearray()
                while chunk := await response.content.readany():
                    answer += chunk
                    if len(answer) > MAX_BODY_BYTES:
                        break
        except aiohttp.ClientConnectorError as error:
            return Heard(_of_connect(error.os_error, where, families(self._names.last)))
        except TimeoutError:
            over = families(self._names.last)
            return Heard(NoAnswer(f"{where}: no answer in {timeout_s:g} s{over}", stage.connected))
        except aiohttp.ClientResponseError as error:
            # Bytes came that are no HTTP: something lives there.
            return Heard(Answered(), f"{where} does not speak HTTP ({error.message})"[:300])
        except (aiohttp.ClientError, OSError) as error:
            # The connection broke: a death, a restart, a proxy. The next attempt tells.
            return Heard(NoAnswer(f"{where}: {type(error).__name__}", stage.connected))
        return _heard(response.status, bytes(answer), where)


def _heard(status: int, body: bytes, where: str) -> Heard:
    """What an HTTP answer says."""
    if status == 200:
        try:
            document = decode_job(body)
        except VersionError as error:
            # As a master says it of us: a name may lead to another one soon.
            theirs, ours = f"the master speaks version {error.found}", f"this host {VERSION}"
            problem = f"{where}: {versions_differ(theirs, ours)}"
            return Heard(Rejected(problem, final=False), problem)
        except ProtocolError as error:
            problem = f"{where} answered 200 without a job document ({error})"[:300]
            return Heard(Answered(), problem)
        return Heard(Answered(document.state, document.run), document=document)
    if status == 409:
        reason, text = decode_refusal(body)
        if reason is Refusal.ATTEMPT:
            return Heard(Answered(), over=True)
        problem = f"{where}: {text}"[:700]
        if reason is Refusal.RUN:
            return Heard(Renewed(), problem)
        return Heard(Rejected(problem, reason in {Refusal.REPLACED, Refusal.RUNNING}), problem)
    text = body[:200].decode("utf-8", "replace").strip()
    problem = (
        f"{where} refuses the token: SUPERVISOR_TOKEN is not the master's"
        if status == 401
        else f"{where} answered {status} ({text})"
    )
    return Heard(Denied(problem) if status in _NOBODY else Answered(), problem)


@dataclass(slots=True)
class _Stage:
    """How far one request came."""

    connected: bool = False


async def _connected(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.connected = True


def _tracing() -> aiohttp.TraceConfig:
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(_connected)
    tracing.on_connection_reuseconn.append(_connected)
    return tracing


def _of_connect(error: OSError, where: str, over: str) -> Observation:
    if isinstance(error, NoAddress):
        return NoAnswer(f"DNS: {error}"[:300])
    # aiohappyeyeballs puts the errors of several addresses into the text of one without a number.
    numbers = [error.errno] if error.errno else [int(n) for n in _ERRNO.findall(str(error))]
    if are_refusals(numbers):
        return Refused(f"{where} refuses connections{over}")
    return NoAnswer(f"{where}: {in_words(error)}{over}"[:300])
