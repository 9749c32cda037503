"""What an answer of an S3 server, or its lack, means: try again, or one sentence. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from supervisor.storage.job import Options
from supervisor.storage.store import Reason


class Cure(enum.Enum):
    """What may help."""

    NONE = enum.auto()
    WAIT = enum.auto()
    """The same again, a little later."""
    REGION = enum.auto()
    """The same at the bucket's own region."""
    CREDENTIALS = enum.auto()
    """The same with credentials looked up anew."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as the server tells it."""

    status: int
    code: str = ""
    """Empty where the answer has no body: that of a HEAD request."""
    message: str = ""
    region: str = ""
    """Of the bucket, where the server names it."""
    date: str = ""
    """The server's clock, as in RFC 9110."""


@dataclass(frozen=True, slots=True)
class Fault:
    reason: Reason
    what: str
    """What happened, in the server's words where there are any."""
    remedy: str = ""
    cure: Cure = Cure.NONE
    region: str = ""


_THROTTLED: Final = {
    "SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded",
    "TooManyRequests", "TooManyRequestsException", "BandwidthLimitExceeded", "ServiceUnavailable",
    "RequestThrottled", "Reduce your request rate",
}  # fmt: skip
_PASSING: Final = {
    "RequestTimeout", "RequestTimeoutException", "BadDigest", "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch", "IncompleteBody", "OperationAborted", "InternalError",
    "ConditionalRequestConflict",
}  # fmt: skip
"""Broken on the way, or told by the server to be tried again."""
_EXPIRED: Final = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_UNKNOWN_KEY: Final = {
    "InvalidAccessKeyId", "InvalidToken", "InvalidClientTokenId", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}  # fmt: skip
_ELSEWHERE: Final = {
    "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "Redirect",
    "IllegalLocationConstraintException",
}  # fmt: skip
_DENIED: Final = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidPayer"}
_PERMISSIONS: Final = {
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "DeleteObjects": "s3:DeleteObject",
}
"""Source: Service Authorization Reference, "Actions defined by Amazon S3"."""
_OF_BUCKETS: Final = {"ListObjectsV2", "HeadBucket", "ListMultipartUploads"}


def fault_of(answer: Answer, operation: str, bucket: str, options: Options, now_s: float) -> Fault:
    """``now_s``: this host's clock, in seconds since the epoch."""
    code, status = answer.code, answer.status
    what = code or f"status {status}"
    if answer.message and answer.message != code:
        what = f"{what} ({answer.message.rstrip('. ')})"
    if code in _THROTTLED or (status in {429, 503} and code not in _PASSING):
        return Fault(Reason.THROTTLED, what, "the server asks for fewer requests", Cure.WAIT)
    if code in _ELSEWHERE or status in {301, 307}:
        if answer.region:
            return Fault(Reason.SERVER, what, "", Cure.REGION, answer.region)
        return Fault(Reason.SERVER, what, "name the bucket's region and endpoint")
    if code == "RequestTimeTooSkewed":
        return Fault(Reason.CLOCK, f"{what}{_skew(answer.date, now_s)}", "set this host's clock")
    if code in _EXPIRED or code == "RequestExpired":
        return Fault(Reason.CREDENTIALS, what, "the credentials ran out", Cure.CREDENTIALS)
    if code in _UNKNOWN_KEY:
        return Fault(Reason.CREDENTIALS, what, "check the credentials", Cure.CREDENTIALS)
    if code == "NoSuchBucket":
        return Fault(Reason.NO_BUCKET, what, f"make the bucket {bucket} or correct its name")
    if code in {"PreconditionFailed", "InvalidRange"} or status in {412, 416}:
        return Fault(Reason.CHANGED, "the object was changed meanwhile")
    if code == "InvalidPart":
        return Fault(Reason.CORRUPT, what, "a part is not the one that was sent last")
    if code == "InvalidObjectState":
        return Fault(Reason.DENIED, what, "it is archived: restore it first")
    if code in _DENIED or code.startswith("KMS.") or status in {401, 403}:
        return Fault(Reason.DENIED, what, _permission(answer, operation, bucket, options))
    if code == "NotImplemented" or status == 501:
        return Fault(Reason.SERVER, what, "the server has no such function")
    if code in _PASSING or status >= 500 or status == 408:
        return Fault(Reason.SERVER, what, "", Cure.WAIT)
    if status == 404:
        return Fault(Reason.NOT_FOUND, what)
    return Fault(Reason.SERVER, what)


def _permission(answer: Answer, operation: str, bucket: str, options: Options) -> str:
    wanted = _PERMISSIONS.get(operation, f"s3:{operation}")
    place = f"arn:aws:s3:::{bucket}" + ("" if operation in _OF_BUCKETS else "/*")
    said = f"needs {wanted} on {place}"
    if "kms" in answer.message.lower() or answer.code.startswith("KMS."):
        verb = "kms:Decrypt" if operation in {"GetObject", "HeadObject"} else "kms:GenerateDataKey"
        return f"needs {verb} on {options.kms_key or 'the key of the bucket'}"
    if wanted == "s3:PutObject" and options.encryption.startswith("aws:kms"):
        said += f", kms:GenerateDataKey and kms:Decrypt on {options.kms_key or 'the KMS key'}"
    if operation in {"GetObject", "HeadObject"}:
        said += f"; without s3:ListBucket on {bucket} this may also mean that it is not there"
    return said


def _skew(date: str, now_s: float) -> str:
    """By how much this host's clock differs from the server's."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return ""
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    ahead_s = round((datetime.fromtimestamp(now_s, UTC) - theirs).total_seconds())
    if not ahead_s:
        return ""
    side = "ahead of" if ahead_s > 0 else "behind"
    return f": this host's clock is {abs(ahead_s)} s {side} the server's"
