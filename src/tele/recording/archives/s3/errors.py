"""What went wrong with a request to the bucket, and what follows from it?

Invariants:

* Every failure is one of four: the object is not there, the same request may succeed later, an
  operator has to change something, or this recording can never be stored as it is.
* What an answer says is used for the class by its code alone, and shown quoted and cut.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from tele.errors import Unavailable, quoted


class Trouble(str, Enum):
    """What follows from a failure.

    ``retry``: the same again, later. ``refused``: an operator has to change credentials, rights,
    the bucket or a setting; tried again rarely. ``quarantine``: never as it is.
    """

    MISSING = "missing"
    RETRY = "retry"
    REFUSED = "refused"
    QUARANTINE = "quarantine"


class BucketError(Unavailable):
    """A request to the bucket failed. ``code`` is that of S3, if there was an answer."""

    def __init__(self, message: str, trouble: Trouble, code: str = "") -> None:
        super().__init__(message)
        self.trouble = trouble
        self.code = code


#: The server says that it cannot now, or that a request of this kind was too slow.
_LATER: Final = frozenset((
    "InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "OperationAborted",
    "ThrottlingException", "RequestLimitExceeded", "ServerBusy", "IncompleteBody", "BadDigest",
    "ExpiredToken", "TokenRefreshRequired",
))  # fmt: skip
#: The objects themselves cannot be stored.
_NEVER: Final = frozenset((
    "EntityTooLarge", "EntityTooSmall", "InvalidPart", "InvalidPartOrder", "KeyTooLongError",
    "MalformedXML", "InvalidArgument", "InvalidRequest",
))  # fmt: skip
_MISSING: Final = frozenset(("NoSuchKey", "NoSuchUpload", "NotFound"))
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,200})")
_SERVER_FAULT: Final = 500
_NOT_IMPLEMENTED: Final = 501


def error_of(status: int, body: bytes, what: str) -> BucketError:
    """Return the error of an answer that is not a success; ``what`` is the request."""
    found = _CODE.search(body)
    code = found.group(1).decode("ascii") if found else ""
    message = _MESSAGE.search(body)
    said = f"{status} {code}".strip() + (f": {quoted(message.group(1))}" if message else "")
    return BucketError(f"{what}: the bucket answered {said}", _trouble(status, code), code)


def _trouble(status: int, code: str) -> Trouble:
    if code in _LATER or status in (408, 429):
        return Trouble.RETRY
    if code in _MISSING or (status == 404 and code != "NoSuchBucket"):
        return Trouble.MISSING
    if code in _NEVER:
        return Trouble.QUARANTINE
    # A store that does not implement something answers 501 whenever it is asked.
    if status >= _SERVER_FAULT and status != _NOT_IMPLEMENTED:
        return Trouble.RETRY
    if status == 409:
        return Trouble.RETRY
    return Trouble.REFUSED
