"""How requests are read and answered, in small parts: JSON, refusals, numbers of a query."""

from __future__ import annotations

import hmac
import json
import math
from typing import NoReturn

from aiohttp import web

from supervisor.cluster.protocol import MAX_MESSAGE_CHARS, MAX_NUMBER, Refusal


class Refused(Exception):  # noqa: N818 - an answer, not a failure of ours
    def __init__(self, status: int, text: str, reason: Refusal | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.reason = reason


def encode(value: object) -> bytes:
    return json.dumps(value, default=str, ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "replace"
    )


def json_answer(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=encode(value) + b"\n", status=status, content_type="application/json")


def error_answer(status: int, text: str, reason: Refusal | None = None) -> web.Response:
    told = {"error": " ".join(text.split())[: 200 if reason is None else MAX_MESSAGE_CHARS]}
    return json_answer(told if reason is None else told | {"reason": reason.value}, status=status)


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Answer ``Expect``; aiohttp's own handler answers an unknown one outside the middlewares."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # so that it is not taken for part of the answer
        return None
    response = error_answer(417, "Expect: only 100-continue is known")
    response.force_close()
    return response


def has_token(authorization: str, token: bytes) -> bool:
    """Whether an ``Authorization`` header holds the job's secret."""
    given = authorization.encode("utf-8", "surrogateescape")
    return hmac.compare_digest(given, b"Bearer " + token)


def whole_number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and int(text) <= MAX_NUMBER):
        _bad_number(name, "a whole number")
    return int(text)


def seconds(text: str, name: str) -> float:
    try:
        value = float(text[:32])
    except ValueError:
        _bad_number(name, "a number of seconds")
    if not (math.isfinite(value) and value >= 0):
        _bad_number(name, "a number of seconds")
    return value


def _bad_number(name: str, wanted: str) -> NoReturn:
    raise Refused(400, f"{name}: must be {wanted}")
