"""With which plain host keys do proxies answer for hosts, to clients without host certificates?

A plain key names no host. What a client signs that has accepted one shows to which host it logged
in only if the key is used for that host, by that proxy, and by no other server. So auth makes it:
from a secret of the cluster, the proxy and the host (``/target-key-secret``).

Invariants:

* One key belongs to one host and one proxy, for good, and nothing has to be remembered for it but
  how often it was replaced (``/plain-keys/<proxy>/<host>``).
* No server had it before: a proxy that was taken over cannot pass off its own port, a member or any
  other server on which a user logs in as the host.
* It is the same after each restart of the proxy, so that clients can keep it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from attrs import frozen

from tele.auth.repository import Repository
from tele.certs.key_sealing import KeySeal
from tele.certs.keys import PrivateKey
from tele.certs.suites import SignatureSuite
from tele.errors import Conflict, InvalidInput, Unavailable
from tele.interfaces import IBackend, Put

STORED: Final = "/target-key-secret"
#: For what the secret is sealed in the store.
PURPOSE: Final = "target-keys"
SECRET_SIZE: Final = 32
REPLACED: Final = "/plain-keys/"
_CONTEXT: Final = b"tele-target-key@tele"


@frozen
class ReplacedKey:
    """How many keys of a proxy for a host were replaced by the next one."""

    times: int


class TargetKeys:
    """The keys of a cluster's proxies for hosts. Its secret is made when it is first needed."""

    def __init__(self, backend: IBackend, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._backend = backend
        self._entropy = entropy
        self._secret = b""
        self._replaced = Repository(backend, REPLACED, ReplacedKey)

    async def key(
        self, proxy_id: str, host_id: str, suite: SignatureSuite, seal: KeySeal
    ) -> PrivateKey:
        """Return the key with which a proxy answers for a host; ``seal`` is that of the store."""
        secret = self._secret = self._secret or await self._read(seal)
        parts = [_CONTEXT, suite.value.encode(), proxy_id.encode(), host_id.encode()]
        if (entry := await self._replaced.get(_name(proxy_id, host_id))) is not None:
            parts.append(str(entry.value.times).encode())
        return PrivateKey.derived(
            suite.quick_key_type, hmac.digest(secret, b"\n".join(parts), "sha512")
        )

    async def replaced(self, proxy_id: str, host_id: str) -> Put:
        """Return the change after which a proxy has another key for a host.

        It fails with a :class:`Conflict` if another one was made meanwhile.
        """
        name = _name(proxy_id, host_id)
        entry = await self._replaced.get(name)
        if entry is None:
            return self._replaced.put(name, ReplacedKey(1), if_revision=0)
        return self._replaced.put(name, ReplacedKey(entry.value.times + 1), entry.revision)

    async def _read(self, seal: KeySeal) -> bytes:
        item = await self._backend.get(STORED)
        if item is None:
            made = seal.seal(PURPOSE, self._entropy(SECRET_SIZE))
            with suppress(Conflict):  # another auth on this store was first: its secret is used
                await self._backend.commit(Put(STORED, made, 0))
            item = await self._backend.get(STORED)
        try:
            secret = b"" if item is None else seal.open(PURPOSE, item.value)
        except InvalidInput as error:
            raise Unavailable(f"{STORED} in the store cannot be read: {error}") from None
        if len(secret) != SECRET_SIZE:
            raise Unavailable(f"{STORED} in the store is damaged")
        return secret


def _name(proxy_id: str, host_id: str) -> str:
    return f"{proxy_id}/{host_id}"
