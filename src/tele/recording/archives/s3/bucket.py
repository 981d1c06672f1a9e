"""What is a bucket asked? To store, read, measure and delete an object, and to store it in parts.

Invariants:

* The body of each request is signed: what the server stores is what was sent, or it refuses.
* There is no request that lists: every key is known.
* A request that may succeed later is repeated a few times here, with a new signature; what still
  fails is the caller's to repeat.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from html import unescape
from typing import Final
from urllib.parse import quote

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tele.loop import backoff
from tele.recording.archives.s3.credentials import CredentialChain
from tele.recording.archives.s3.errors import BucketError, Trouble, error_of
from tele.recording.archives.s3.location import Location
from tele.recording.archives.s3.transport import HttpTransport, Response

#: Attempts of one request, and the longest wait between two of them, in seconds.
ATTEMPTS: Final = 3
LONGEST_WAIT: Final = 5.0
_ANSWER_LIMIT: Final = 64 * 1024
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]{1,2048})</UploadId>")
#: Codes by which credentials are looked up again at once: they were renewed or replaced.
_STALE: Final = frozenset(("ExpiredToken", "InvalidAccessKeyId", "TokenRefreshRequired"))


class Bucket:
    """The objects below the prefix of ``location``."""

    def __init__(
        self,
        reactor: IReactorTime,
        location: Location,
        transport: HttpTransport,
        credentials: CredentialChain,
        *,
        attempts: int = ATTEMPTS,
    ) -> None:
        self._reactor = reactor
        self._location = location
        self._transport = transport
        self._credentials = credentials
        self._attempts = attempts

    async def put(self, key: str, data: bytes) -> None:
        """Store an object, durably."""
        await self._ask("PUT", key, "storing an object", body=data)

    async def get(self, key: str, first: int, size: int) -> bytes:
        """Return ``size`` bytes (at least one) from the offset ``first``."""
        headers = {"Range": f"bytes={first}-{first + size - 1}"}
        answer = await self._ask(
            "GET", key, "reading an object", headers=headers, limit=size, good=(206,)
        )
        if len(answer.body) != size:
            raise BucketError("reading an object: it is shorter than it was", Trouble.MISSING)
        return answer.body

    async def size(self, key: str) -> int | None:
        """Return the size of an object; None if there is none."""
        try:
            answer = await self._ask("HEAD", key, "asking for an object")
        except BucketError as error:
            if error.trouble is Trouble.MISSING:
                return None
            raise
        length = answer.headers.get("content-length", "")
        return int(length) if length.isdecimal() else None

    async def delete(self, key: str) -> None:
        """Delete an object; succeeds if there is none."""
        try:
            await self._ask("DELETE", key, "deleting an object", good=(200, 204))
        except BucketError as error:
            if error.trouble is not Trouble.MISSING:
                raise

    # -- in parts ---------------------------------------------------------------------
    async def begin(self, key: str) -> str:
        """Begin to store an object in parts; returns the id of the upload."""
        what = "beginning an upload"
        answer = await self._ask("POST", key, what, query="uploads=")
        found = _UPLOAD_ID.search(answer.body)
        if found is None:
            raise BucketError(f"{what}: the answer has no id", Trouble.RETRY)
        return unescape(found.group(1).decode("utf-8", "replace"))

    async def put_part(self, key: str, upload: str, number: int, data: bytes) -> str:
        """Store part ``number``, from 1; returns its tag."""
        what = "storing a part"
        query = f"partNumber={number}&uploadId={_escaped(upload)}"
        answer = await self._ask("PUT", key, what, query=query, body=data)
        tag = answer.headers.get("etag", "")
        if not tag:
            raise BucketError(f"{what}: the answer has no tag", Trouble.RETRY)
        return tag

    async def complete(self, key: str, upload: str, tags: Sequence[str]) -> None:
        """Make the object of its parts."""
        what = "completing an upload"
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{_xml(tag)}</ETag></Part>"
            for number, tag in enumerate(tags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        answer = await self._ask("POST", key, what, query=f"uploadId={_escaped(upload)}", body=body)
        if b"<Error>" in answer.body:  # it was decided after the status was sent
            raise error_of(500, answer.body, what)

    async def abort(self, key: str, upload: str) -> None:
        """Give up an upload; succeeds if there is none."""
        query = f"uploadId={_escaped(upload)}"
        try:
            await self._ask("DELETE", key, "giving up an upload", query=query, good=(200, 204))
        except BucketError as error:
            if error.trouble is not Trouble.MISSING:
                raise

    # -- one request ------------------------------------------------------------------
    async def _ask(
        self,
        method: str,
        key: str,
        what: str,
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        limit: int = _ANSWER_LIMIT,
        good: tuple[int, ...] = (200,),
    ) -> Response:
        digest = hashlib.sha256(body).hexdigest()
        path = self._location.path(key) + (f"?{query}" if query else "")
        for attempt in range(self._attempts):
            try:
                sign = await self._credentials.signer()
                named = {"Host": self._location.authority, **(headers or {})}
                signed = sign(method, self._transport.url(path), named, digest)
                answer = await self._transport.send(
                    method, path, signed, body, max(limit, _ANSWER_LIMIT), what
                )
                if answer.status in good:
                    return answer
                raise error_of(answer.status, answer.body, what)
            except BucketError as error:
                if error.code in _STALE:
                    self._credentials.forget()
                elif error.trouble is not Trouble.RETRY:
                    raise
                if attempt + 1 == self._attempts:
                    raise
            await deferLater(self._reactor, backoff(attempt, longest=LONGEST_WAIT))
        raise AssertionError("at least one attempt")

    async def close(self) -> None:
        """Close connections and the thread of the credentials."""
        self._credentials.close()
        await self._transport.close()


def _escaped(text: str) -> str:
    return quote(text, safe="-_.~")


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
