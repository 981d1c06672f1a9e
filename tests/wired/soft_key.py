"""A security key in software, with the browser around it: for tests."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

#: Flags of authenticator data: the user was present, and there is a credential.
PRESENT, ATTESTED = 0x01, 0x40


def written(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class SoftKey:
    """An ES256 key with a counter, that answers for whichever page asks it."""

    def __init__(self, origin: str = "https://proxy.example.com:3080") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.credential = os.urandom(32)
        self.count = 0
        self.origin = origin

    def _answer(self, kind: str, challenge: str, rest: dict[str, str], data: bytes) -> str:
        response = {"clientDataJSON": written(data), **rest}
        return json.dumps(
            {
                "id": written(self.credential), "rawId": written(self.credential),
                "type": "public-key", "response": response, "clientExtensionResults": {},
            }
        )  # fmt: skip

    def _client_data(self, kind: str, challenge: str) -> bytes:
        wanted = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps(wanted).encode()

    def _authenticator_data(self, rp_id: str, flags: int, credential: bytes = b"") -> bytes:
        digest = hashlib.sha256(rp_id.encode()).digest()
        return digest + bytes([flags]) + self.count.to_bytes(4, "big") + credential

    def make(self, options: str) -> str:
        """Answer ``navigator.credentials.create``."""
        asked: dict[str, Any] = json.loads(options)
        numbers = self.key.public_key().public_numbers()
        x, y = (each.to_bytes(32, "big") for each in (numbers.x, numbers.y))
        public = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: x, -3: y})
        credential = bytes(16) + len(self.credential).to_bytes(2, "big") + self.credential + public
        data = self._authenticator_data(asked["rp"]["id"], PRESENT | ATTESTED, credential)
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        client = self._client_data("webauthn.create", asked["challenge"])
        rest = {"attestationObject": written(attestation)}
        return self._answer("webauthn.create", asked["challenge"], rest, client)

    def sign(self, options: str, rp_id: str | None = None) -> str:
        """Answer ``navigator.credentials.get``."""
        asked: dict[str, Any] = json.loads(options)
        self.count += 1
        data = self._authenticator_data(rp_id or asked["rpId"], PRESENT)
        client = self._client_data("webauthn.get", asked["challenge"])
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(SHA256()))
        rest = {"authenticatorData": written(data), "signature": written(signature)}
        return self._answer("webauthn.get", asked["challenge"], rest, client)
