"""The way to S3 servers: credentials, regions, connections, and one attempt after another.

Calls of the API go through aiobotocore. Objects' contents do not: the way through its layers costs
1.3 ms of CPU a request, so that no more than 700 small files a second could pass. For them
aiobotocore keeps what it knows best (credentials, the endpoint's address, signatures, connections,
the meaning of errors), and ``send`` leaves out the rest.

Its own retries are off: they know nothing of our budget, and two layers of them multiply.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

import aiohttp
import tenacity
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore import UNSIGNED
from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import RestXMLParser
from botocore.utils import parse_timestamp, percent_encode

from supervisor.faults import without_number
from supervisor.storage.job import Options
from supervisor.storage.patience import Patience, Waits
from supervisor.storage.s3_faults import Answer, Cure, Fault, fault_of
from supervisor.storage.store import Reason, StorageError

T = TypeVar("T")

CONNECTIONS: Final = 32
"""At once to all servers: as many requests are under way."""
_CONNECT_S: Final = 10.0
_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 20.0
"""Pauses between attempts are random between none and a bound that doubles (full jitter)."""
_ERROR_BODY: Final = 64 << 10
"""Bytes of an error's body that are read."""
_EMPTY_SHA256: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass(frozen=True, slots=True)
class Doing:
    """An operation as it is spoken of."""

    operation: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.operation} s3://{self.bucket}/{self.key}"


class FaultError(Exception):
    """One attempt failed."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.what)
        self.fault = fault


class Content(aiohttp.payload.Payload):
    """Bytes to be sent, in slices: each waits for its turn, and for the one before to be gone.

    For a block: requests and their answers refer to each other, and would keep the bytes until
    the next collection of garbage.
    """

    _SLICE: Final = 256 << 10

    def __init__(
        self,
        view: memoryview,
        patience: Patience,
        before_slice: Callable[[int, int], Awaitable[None]],
    ) -> None:
        """``before_slice``: told its offset and size. Offsets begin anew where aiohttp does."""
        super().__init__(None)
        self._patience = patience
        self._size = len(view)
        self._view = view
        self._before_slice = before_slice

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._view = memoryview(b"")

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._view).decode(encoding, errors)

    async def write(self, writer: Any) -> None:
        for offset in range(0, len(self._view), self._SLICE):
            piece = self._view[offset : offset + self._SLICE]
            self._patience.pause()
            await self._before_slice(offset, len(piece))
            self._patience.follow(writer.transport)
            await writer.write(piece)

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:  # noqa: ARG002
        await self.write(writer)


@dataclass(slots=True)
class _Request:
    """What ``AIOHTTPSession.send`` takes."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Content | bytes | None
    stream_output: bool = True
    context: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Where a bucket's objects are, and how requests to them are signed."""

    base: str
    region: str
    service: str


@dataclass(slots=True)
class _Regional:
    api: Any
    http: AIOHTTPSession
    buckets: dict[str, _Bucket] = field(default_factory=dict)


class _Signer(S3SigV4Auth):  # type: ignore[misc]
    """The content's hash is known already, or not needed."""

    def payload(self, request: AWSRequest) -> str:
        return str(request.context["sha256"])


class _Credentials(AioCredentials):  # type: ignore[misc]
    """What the chain of providers finds, looked for anew when a server refuses it.

    Providers that know when theirs expire refresh them by themselves. This is for the rest: a
    file that was replaced, a token that was revoked.
    """

    def __init__(self) -> None:
        super().__init__("", "")
        self._found: Any = None
        self._lock = asyncio.Lock()

    async def get_frozen_credentials(self) -> Any:
        if self._found is None:
            await self.renew(None)
        return await self._found.get_frozen_credentials()

    async def renew(self, refused: Any) -> None:
        """Look again, unless somebody else did since ``refused`` was in use."""
        async with self._lock:
            if self._found is None or await self._found.get_frozen_credentials() == refused:
                found = await AioSession().get_credentials()
                if found is None:
                    raise NoCredentialsError
                self._found = found


class _Provider:
    def __init__(self, credentials: _Credentials) -> None:
        self._credentials = credentials

    async def load_credentials(self) -> _Credentials:
        return self._credentials


class S3Client:
    """Of all stores of a process that have the same options. Nothing is asked before it is used."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.slots = asyncio.Semaphore(CONNECTIONS)
        """Small files wait here, and not each with its content in memory in the pool's queue."""
        named = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        endpoint = options.endpoint or next(filter(None, map(os.environ.get, named)), "")
        self.secure = not endpoint.lower().startswith("http:")
        """Whether TLS protects what is sent."""
        self._credentials = _Credentials()
        self._session: AioSession | None = None
        self._regions: dict[str, _Regional] = {}
        self._region_of: dict[str, str] = {}
        """Bucket → its region, where we were told that it is another."""
        self._opening = asyncio.Lock()
        self._open = contextlib.AsyncExitStack()
        self._parser = RestXMLParser()
        self._waits = Waits(options.timeout_s, options.retry_s)

    async def close(self) -> None:
        self._regions.clear()
        await self._open.aclose()

    # ------------------------------------------------------------------- attempts

    async def tried(self, doing: Doing, attempt: Callable[[Patience], Awaitable[T]]) -> T:
        """The outcome of ``attempt(…)``, made until it succeeds, cannot, or the time is over."""
        begun_s = time.monotonic()
        cured: set[Cure] = set()

        async def once(patience: Patience) -> T:
            used = None
            try:
                if Cure.CREDENTIALS not in cured and not self.options.anonymous:
                    used = await self._credentials.get_frozen_credentials()
                result = await attempt(patience)
            except (BotoCoreError, ClientError, aiohttp.ClientError, OSError) as error:
                fault = self._fault(error, doing, patience)
                if fault.cure in cured:
                    raise FaultError(_final(fault)) from error
                if fault.cure is Cure.REGION:
                    cured.add(fault.cure)
                    self._region_of[doing.bucket] = fault.region
                elif fault.cure is Cure.CREDENTIALS:
                    cured.add(fault.cure)
                    with contextlib.suppress(BotoCoreError):
                        await self._credentials.renew(used)
                raise FaultError(fault) from error
            self._waits.answered(doing.operation, patience.longest_s)
            return result

        count = 0

        async def again() -> T:
            nonlocal count
            spent_s = time.monotonic() - begun_s
            patience_s = self._waits.patience_s(doing.operation, count, spent_s)
            count += 1
            return await once(Patience(patience_s))

        try:
            try:
                # By itself, for most requests succeed at once and tenacity costs 0.1 ms.
                return await again()
            except FaultError as error:
                if not _may_pass(error):
                    raise
            await asyncio.sleep(random.uniform(0, _FIRST_WAIT_S))  # noqa: S311 - only to spread
            return await tenacity.AsyncRetrying(
                stop=tenacity.stop_after_delay(self.options.retry_s),
                wait=tenacity.wait_random_exponential(2 * _FIRST_WAIT_S, _LONGEST_WAIT_S),
                retry=tenacity.retry_if_exception(_may_pass),
                reraise=True,
            )(again)
        except FaultError as error:
            fault = error.fault
            text = f"{doing}: {fault.what}" + (f"; {fault.remedy}" if fault.remedy else "")
            if count > 1:
                text += f" (tried {count} times in {time.monotonic() - begun_s:.0f} s)"
            raise StorageError(fault.reason, text) from None

    def _fault(self, error: Exception, doing: Doing, patience: Patience) -> Fault:
        if isinstance(error, ClientError):
            response = error.response
            told = response.get("Error", {})
            headers = response["ResponseMetadata"].get("HTTPHeaders", {})
            answer = Answer(
                status=response["ResponseMetadata"].get("HTTPStatusCode", 0),
                code="" if told.get("Code", "").isdigit() else told.get("Code", ""),
                message=told.get("Message") or "",
                region=headers.get("x-amz-bucket-region", "") or told.get("Region", ""),
                date=headers.get("date", ""),
            )
            return fault_of(answer, doing.operation, doing.bucket, self.options, time.time())
        what = without_number(str(error)) or type(error).__name__
        if isinstance(error, NoCredentialsError):
            remedy = "give the job a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            return Fault(Reason.CREDENTIALS, "no credentials were found", remedy)
        if isinstance(error, CredentialRetrievalError | TokenRetrievalError):
            return Fault(Reason.CREDENTIALS, what, "check the job's role", Cure.WAIT)
        if isinstance(error, SSLError) and isinstance(
            error.kwargs.get("error"), aiohttp.ClientConnectorCertificateError
        ):
            return Fault(Reason.UNREACHABLE, what, "AWS_CA_BUNDLE names who is trusted")
        if isinstance(error, TimeoutError):
            what = f"silence for {patience.seconds:g} s"
        known = HTTPClientError | NoConnectionError | aiohttp.ClientError | OSError
        if isinstance(error, known):
            return Fault(Reason.UNREACHABLE, what, "check the network and the endpoint", Cure.WAIT)
        return Fault(Reason.SERVER, what, "check endpoint, region and the bucket's name")

    # ------------------------------------------------------------------- the API

    async def api(self, bucket: str) -> Any:
        """The client of aiobotocore for the region of ``bucket``."""
        return (await self._regional(bucket)).api

    async def ask(
        self, patience: Patience, bucket: str, method: str, **asked: Any
    ) -> dict[str, Any]:
        """A call of that client, once."""
        api = await self.api(bucket)
        # Ours is for the whole of it; the client's own timeout, for silence, is the limit.
        impatient = patience.seconds < self.options.timeout_s
        async with patience if impatient else contextlib.nullcontext():
            answer: dict[str, Any] = await getattr(api, method)(**asked)
        return answer

    async def _regional(self, bucket: str) -> _Regional:
        region = self._region_of.get(bucket, "")
        if (found := self._regions.get(region)) is None:
            async with self._opening:
                if (found := self._regions.get(region)) is None:
                    found = self._regions[region] = await self._opened(region)
        return found

    async def _opened(self, region: str) -> _Regional:
        options = self.options
        if self._session is None:
            self._session = AioSession()
            # The default reads any date at all, which is a third of the cost of a listing.
            self._session.get_component("response_parser_factory").set_parser_defaults(
                timestamp_parser=_timestamp
            )
            self._session.register_component("credential_provider", _Provider(self._credentials))
        made: list[AIOHTTPSession] = []

        class Http(AIOHTTPSession):  # type: ignore[misc]
            """Tells which one it is, so that contents go over the same connections."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                made.append(self)

        config = AioConfig(
            http_session_cls=Http,
            signature_version=UNSIGNED if options.anonymous else "s3v4",
            connect_timeout=min(_CONNECT_S, options.timeout_s),
            read_timeout=options.timeout_s,
            max_pool_connections=CONNECTIONS + 4,  # more than slots: to list, to end an upload
            parameter_validation=False,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"total_max_attempts": 1},
            s3={"addressing_style": options.addressing},
        )
        known = options.region or self._session.get_config_variable("region")
        api = await self._open.enter_async_context(
            self._session.create_client(
                "s3",
                region_name=region or known or os.environ.get("AWS_REGION") or "us-east-1",
                endpoint_url=options.endpoint or None,
                config=config,
            )
        )
        api.meta.events.register("before-endpoint-resolution.s3", _not_redirected)
        api.meta.events.register("before-parameter-build.s3", _at_its_region)
        api.meta.events.register("before-call.s3.DeleteObjects", _with_md5)
        return _Regional(api, made[-1])

    # ------------------------------------------------------------------- contents

    @contextlib.asynccontextmanager
    async def send(
        self,
        patience: Patience,
        method: str,
        bucket: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str],
        body: Content | bytes | None = None,
        sha256: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, once; the answer is open for the block. Raises ClientError for errors.

        ``sha256`` of the content, in hex; where it is left out, TLS protects the content.
        """
        regional = await self._regional(bucket)
        place = regional.buckets.get(bucket)
        if place is None:
            place = regional.buckets[bucket] = await self._place(regional, bucket)
        url = f"{place.base}/{percent_encode(key, safe='/~')}"
        if query:
            url += "?" + "&".join(f"{name}={percent_encode(query[name])}" for name in sorted(query))
        request = AWSRequest(method=method, url=url, headers=dict(headers))
        if self.options.requester_pays:
            request.headers["x-amz-request-payer"] = "requester"
        if not self.options.anonymous:
            credentials = await self._credentials.get_frozen_credentials()
            request.context["sha256"] = sha256 or (_EMPTY_SHA256 if not body else UNSIGNED_PAYLOAD)
            _Signer(credentials, place.service, place.region).add_auth(request)
        async with patience:
            answer = await regional.http.send(_Request(method, url, request.headers, body))
        response: aiohttp.ClientResponse = answer.raw
        try:
            if answer.status_code >= 300:
                raise ClientError(await self._error(response), method)
            yield response
        finally:
            # To the pool if all was read, else the connection is closed.
            response.release()

    async def _error(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        body = b""
        with contextlib.suppress(aiohttp.ClientError, OSError):  # what came is enough
            while len(body) < _ERROR_BODY and (piece := await response.content.readany()):
                body += piece
        headers = {name.lower(): value for name, value in response.headers.items()}
        parsed: dict[str, Any] = self._parser.parse(
            {"status_code": response.status, "headers": headers, "body": body, "context": {}}, None
        )
        return parsed

    async def _place(self, regional: _Regional, bucket: str) -> _Bucket:
        """As the endpoint rules have it: an address that was signed names all of it."""
        url = urlsplit(
            await regional.api.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": "x"}
            )
        )
        self.secure = url.scheme == "https"
        base = f"{url.scheme}://{url.netloc}{url.path.removesuffix('/x')}"
        if self.options.anonymous:
            return _Bucket(base, "", "")
        scope = parse_qs(url.query)["X-Amz-Credential"][0].split("/")
        return _Bucket(base, region=scope[-3], service=scope[-2])


def _not_redirected(context: dict[str, Any], **_: Any) -> None:
    """The client's own way to follow a bucket to its region is off: ours serves both ways, and
    its asks again without end where the answer names no region."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _at_its_region(context: dict[str, Any], **_: Any) -> None:
    """Addresses that are signed for others to use lead to the global endpoint, by default."""
    context["use_global_endpoint"] = False


def _with_md5(params: dict[str, Any], **_: Any) -> None:
    """What the API demanded before there were other checksums, and other servers still do."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


def _timestamp(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        found: datetime = parse_timestamp(text)
        return found


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, FaultError) and error.fault.cure is not Cure.NONE


def _final(fault: Fault) -> Fault:
    """What was cured already and comes again does not pass."""
    if fault.cure is Cure.WAIT:
        return fault
    return Fault(fault.reason, fault.what, fault.remedy)
