"""Places by name: ``s3://bucket/prefix``, ``file:///directory``, or an absolute path. Pure."""

from __future__ import annotations

import enum
import posixpath
import re
from dataclasses import dataclass, replace
from typing import Final, Self
from urllib.parse import unquote

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", re.IGNORECASE)
"""Names of 3 to 63 characters. Upper case and underscores are those of old or foreign servers."""
_ARN: Final = re.compile(r"arn:[\w-]+:s3[\w-]*:[\w-]*:\d*:[\w-]+[:/][\w.-]+(/\w+/[\w.-]+)?")
"""Access points stand where a bucket does."""


class Scheme(enum.StrEnum):
    S3 = "s3"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Location:
    """One place. ``key`` has no slash at its ends; for files it is the absolute path."""

    scheme: Scheme
    bucket: str
    """Empty for files."""
    key: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError whose text says what is allowed."""
        scheme, separator, rest = text.partition("://")
        if not separator:
            if not text.startswith("/"):
                raise ValueError("s3://BUCKET/PREFIX, file:///DIRECTORY, or an absolute path")
            return cls(Scheme.FILE, "", posixpath.normpath(text))
        if scheme.lower() == "file":
            if not rest.startswith("/"):
                raise ValueError("file:/// and an absolute path (three slashes)")
            return cls(Scheme.FILE, "", posixpath.normpath(unquote(rest)))
        if scheme.lower() != "s3":
            raise ValueError("s3://BUCKET/PREFIX, file:///DIRECTORY, or an absolute path")
        arn = _ARN.match(rest)
        bucket = arn[0] if arn else rest.partition("/")[0]
        if not arn and not _BUCKET.fullmatch(bucket):
            raise ValueError("s3:// and the name of a bucket (3 to 63 letters, digits, dots, …)")
        key = rest[len(bucket) :].strip("/")
        if any(part in {".", ".."} for part in key.split("/")):
            raise ValueError("a key without the parts . and ..")
        return cls(Scheme.S3, bucket, key)

    def child(self, name: str) -> Self:
        """The place ``name`` (slashes allowed) below this one."""
        return replace(self, key=posixpath.join(self.key, name) if self.key else name)

    def __str__(self) -> str:
        if self.scheme is Scheme.FILE:
            return f"file://{self.key}"
        return f"s3://{self.bucket}/{self.key}".rstrip("/")
