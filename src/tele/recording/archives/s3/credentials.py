"""With which credentials are requests signed? Those that botocore finds, as every tool of AWS does.

The order is botocore's: environment, ``~/.aws/credentials`` and ``~/.aws/config`` (profiles, roles,
web identity, processes), the container's, the instance's metadata.

Invariants:

* botocore is imported, and asks files, programs and services, in a thread that has a time limit.
* Credentials that expire are renewed before they do. Refused ones are looked up again.
* No secret is in an error or a log line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.errors import InvalidInput, Unavailable
from tele.recording.archives.s3.errors import BucketError, Trouble
from tele.single_flight import SingleFlight
from tele.workers import Workers

#: How long credentials are used before botocore is asked whether they are still the right ones.
KEEP_SECONDS: Final = 60.0
LOOKUP_SECONDS: Final = 60.0

#: Takes method, URL, headers and the hex SHA-256 of the body; returns the headers to send.
Sign = Callable[[str, str, Mapping[str, str], str], Mapping[str, str]]


class CredentialChain:
    """Signs for ``region``."""

    def __init__(self, reactor: IReactorTime, region: str) -> None:
        self._reactor = reactor
        self._region = region
        self._workers = Workers(
            reactor, "the lookup of S3 credentials", threads=1, share=1, waiting=4,
            seconds=LOOKUP_SECONDS,
        )  # fmt: skip
        self._lookup = SingleFlight(self._look_up)
        self._found: Any = None
        self._sign: Sign | None = None
        self._until = 0.0

    async def signer(self) -> Sign:
        """Return what signs requests for now. Raises :class:`BucketError`."""
        if self._sign is None or self._reactor.seconds() >= self._until:
            return await self._lookup.call()
        return self._sign

    def forget(self) -> None:
        """Look credentials up again for the next request: these were refused."""
        self._found = self._sign = None

    def close(self) -> None:
        """End the thread."""
        self._workers.close()

    async def _look_up(self) -> Sign:
        try:
            found: Deferred[tuple[Any, Sign]] = self._workers.call(
                "", _read, self._found, self._region
            )
            self._found, self._sign = await found
        except BucketError:
            raise
        except Unavailable as error:
            raise BucketError(str(error), Trouble.RETRY) from None
        self._until = self._reactor.seconds() + KEEP_SECONDS
        return self._sign


def require_botocore() -> None:
    """Raise :class:`InvalidInput` if the extra that S3 needs is not installed."""
    from importlib.util import find_spec

    if find_spec("botocore") is None:
        raise InvalidInput("s3 needs botocore: pip install 'tele-ssh[s3]'")


def _read(found: Any, region: str) -> tuple[Any, Sign]:
    """In the thread: find credentials, or renew those that were ``found``."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        found = found or Session().get_credentials()
        frozen = None if found is None else found.get_frozen_credentials()
    except (BotoCoreError, OSError, ValueError, RuntimeError) as error:
        # The message of some of them has what a file or a program said.
        raise BucketError(
            f"S3 credentials cannot be read: {type(error).__name__}", Trouble.REFUSED
        ) from None
    if frozen is None or not frozen.access_key:
        raise BucketError(
            "there are no S3 credentials, neither in the environment, nor in ~/.aws, nor from the"
            " instance",
            Trouble.REFUSED,
        )

    def sign(method: str, url: str, headers: Mapping[str, str], digest: str) -> Mapping[str, str]:
        named = {**headers, "X-Amz-Content-SHA256": digest}
        request = AWSRequest(method=method, url=url, headers=named)
        SigV4Auth(frozen, "s3", region).add_auth(request)
        return dict(request.headers.items())

    return found, sign
