"""Is this the answer of a user's security key, for this cluster's pages, to our challenge?

WebAuthn (W3C), with the package ``webauthn``, which is imported when the first key is used.

Invariants:

* A key answers for one ``rp_id``, the domain of the pages: what another page asks of it is refused,
  by the browser and here again.
* A counter that does not grow, of a key that counts, is refused: there may be a copy of the key.
* What is wrong with an answer is for the audit; nothing of it is trusted before it is verified.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import field, frozen

from tele.errors import InvalidInput

CHALLENGE_BYTES: Final = 32
TIMEOUT_MS: Final = 60_000


@frozen
class StoredKey:
    """The public part of a security key; ``sign_count`` is 0 for one that does not count."""

    credential: bytes
    public_key: bytes = field(repr=False)
    sign_count: int
    rp_id: str


class BadAnswer(InvalidInput):
    """The answer of a security key is not acceptable; the text is for the audit."""


def creation_options(
    rp_id: str, cluster: str, user: str, challenge: bytes, present: Sequence[StoredKey]
) -> str:
    """Return what a browser needs to make a key, as JSON."""
    return json.dumps(
        {
            "rp": {"id": rp_id, "name": f"tele: {cluster}"},
            "user": {
                "id": written(f"{cluster}:{user}".encode()[:64]), "name": user, "displayName": user,
            },
            "challenge": written(challenge),
            "pubKeyCredParams": [{"type": "public-key", "alg": alg} for alg in (-8, -7, -257)],
            "timeout": TIMEOUT_MS,
            "excludeCredentials": _descriptors(present),
            "authenticatorSelection": {
                "residentKey": "discouraged", "requireResidentKey": False,
                "userVerification": "discouraged",
            },
            "attestation": "none",
        }
    )  # fmt: skip


def request_options(rp_id: str, challenge: bytes, keys: Sequence[StoredKey]) -> str:
    """Return what a browser needs to let a key sign ``challenge``, as JSON."""
    return json.dumps(
        {
            "challenge": written(challenge),
            "timeout": TIMEOUT_MS,
            "rpId": rp_id,
            "allowCredentials": _descriptors(keys),
            "userVerification": "discouraged",
        }
    )


def _descriptors(keys: Sequence[StoredKey]) -> list[dict[str, str]]:
    return [{"type": "public-key", "id": written(each.credential)} for each in keys]


def challenge_of(answer: str) -> bytes:
    """Return the challenge that an answer is about; it proves nothing. Raises BadAnswer."""
    try:
        return _bytes(_client_data(_read(answer))["challenge"])
    except (KeyError, TypeError, ValueError):
        raise BadAnswer("the answer has no challenge") from None


def credential_of(answer: str) -> bytes:
    """Return the id of the key that an answer is of; it proves nothing. Raises BadAnswer."""
    try:
        return _bytes(_read(answer)["rawId"])
    except (KeyError, TypeError, ValueError):
        raise BadAnswer("the answer has no rawId") from None


def made(answer: str, challenge: bytes, rp_id: str) -> StoredKey:
    """Return the key that a browser has made. Raises :class:`BadAnswer`."""
    from webauthn import verify_registration_response
    from webauthn.helpers.exceptions import WebAuthnException

    read = _read(answer)
    origin = _origin(read, rp_id)
    try:
        found = verify_registration_response(
            credential=read, expected_challenge=challenge, expected_rp_id=rp_id,
            expected_origin=origin,
        )  # fmt: skip
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise BadAnswer(f"the security key was not accepted: {error}") from None
    return StoredKey(
        found.credential_id, found.credential_public_key, found.sign_count, rp_id
    )  # fmt: skip


def counted(answer: str, challenge: bytes, key: StoredKey) -> int:
    """Return the counter of ``key`` after it has signed ``challenge``. Raises BadAnswer."""
    from webauthn import verify_authentication_response
    from webauthn.helpers.exceptions import WebAuthnException

    read = _read(answer)
    origin = _origin(read, key.rp_id)
    try:
        found = verify_authentication_response(
            credential=read, expected_challenge=challenge, expected_rp_id=key.rp_id,
            expected_origin=origin, credential_public_key=key.public_key,
            credential_current_sign_count=key.sign_count,
        )  # fmt: skip
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise BadAnswer(f"the answer of the security key was not accepted: {error}") from None
    return found.new_sign_count


def _origin(answer: dict[str, Any], rp_id: str) -> str:
    """Return the origin of the page that asked, if it is of ``rp_id``. Raises BadAnswer."""
    try:
        origin = _client_data(answer)["origin"]
        parts = urlsplit(origin)
        host = parts.hostname or ""
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadAnswer("the answer has no origin") from None
    if parts.scheme != "https" or not (host == rp_id or host.endswith(f".{rp_id}")):
        raise BadAnswer("the answer is for another page than those of this cluster")
    return str(origin)


def _client_data(answer: dict[str, Any]) -> dict[str, Any]:
    data = json.loads(_bytes(answer["response"]["clientDataJSON"]))
    if not isinstance(data, dict):
        raise TypeError("not an object")
    return data


def _read(answer: str) -> dict[str, Any]:
    try:
        read = json.loads(answer)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise BadAnswer("the answer of the security key is not JSON")
    return read


def written(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
