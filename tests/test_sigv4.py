"""Signatures are those of botocore."""

from __future__ import annotations

import string
from datetime import datetime

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.utils import percent_encode
from hypothesis import given
from hypothesis import strategies as st

from supervisor.storage.sigv4 import Signer

WORDS = st.text(string.printable.strip(), min_size=1, max_size=20)
NAMES = st.text(string.ascii_letters + "-", min_size=1, max_size=12).map("X-".__add__)


class Theirs(S3SigV4Auth):  # type: ignore[misc]
    def payload(self, request: AWSRequest) -> str:
        return str(request.context["content"])


@given(
    method=st.sampled_from(["GET", "PUT", "HEAD"]),
    key=st.text(min_size=1, max_size=20).filter(lambda key: key.isprintable()),
    query=st.dictionaries(NAMES, WORDS, max_size=3),
    headers=st.dictionaries(NAMES.map(str.lower), st.text(string.printable), max_size=4),
    token=st.sampled_from(["", "a-token"]),
    content=st.sampled_from(["UNSIGNED-PAYLOAD", "ab" * 32]),
)
def test_they_are_the_same(
    method: str, key: str, query: dict[str, str], headers: dict[str, str], token: str, content: str
) -> None:
    path = "/bucket/" + percent_encode(key, safe="/~")
    words = "&".join(f"{name}={percent_encode(query[name])}" for name in sorted(query))
    headers = {name: " ".join(value.split()) for name, value in headers.items()}
    headers["Host"] = "host.test:9000"

    request = AWSRequest(method, f"http://host.test:9000{path}?{words}", dict(headers))
    request.context["content"] = content
    Theirs(Credentials("AKID", "secret", token or None), "s3", "eu-west-1").add_auth(request)
    at = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%S%z")

    signer = Signer("AKID", "secret", token, "eu-west-1", "s3")
    ours = signer.signed(method, path, words, headers, content, at.timestamp())
    assert ours["Authorization"] == request.headers["Authorization"]
    assert set(ours) == set(request.headers.keys())
