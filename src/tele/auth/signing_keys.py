"""By which secret are the CAs' private keys sealed in the store, and who can open it?

``/signing-keys/self`` has the secret, wrapped for the key of each auth and for those that its
configuration names. The key itself is outside of the store: see :mod:`tele.embed.signing_key`.

Invariants:

* The store alone signs nothing, and neither does a copy or a backup of it.
* The secret and the first sealed keys are stored by one commit: no crash leaves some keys in clear.
* From then on no key in clear is accepted.
* It is wrapped for the keys of the configuration and for no other: a row that was added to the
  store receives nothing, and is removed at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from attrs import field, frozen

from tele.auth.authorities import PREFIX, StoredAuthority
from tele.auth.repository import Repository, Versioned
from tele.auth.target_keys import PURPOSE as TARGET_PURPOSE
from tele.auth.target_keys import STORED as TARGET_SECRET
from tele.certs.key_sealing import SECRET_SIZE, KeySeal, unwrap_secret, wrap_secret
from tele.errors import Conflict, InvalidInput
from tele.interfaces import IBackend, Put
from tele.log import make_logger
from tele.model.session import WrappedKey
from tele.tape.key_files import public_text
from tele.tape.sealing import public_key

log = make_logger(__name__)

KEYRING: Final = "/signing-keys/"
_NAME: Final = "self"
_ATTEMPTS: Final = 5


@frozen
class StoredKeyring:
    """The secret, wrapped for each key that opens it."""

    wrapped: tuple[WrappedKey, ...]


@frozen
class SigningKeys:
    """``private`` is this auth's X25519 key; ``also_for`` are public keys that open it, too.

    ``source`` says where the key is, for messages.
    """

    private: bytes = field(repr=False)
    also_for: tuple[bytes, ...] = ()
    source: str = ""

    @property
    def recipients(self) -> tuple[bytes, ...]:
        """The public keys that open the secret."""
        return tuple(dict.fromkeys((public_key(self.private), *self.also_for)))


async def open_seal(
    backend: IBackend, cluster: str, keys: SigningKeys | None, entropy: Callable[[int], bytes]
) -> KeySeal:
    """Return what seals and opens the keys of the CAs.

    Without ``keys`` they are stored in clear. With them, keys in clear of an older version are
    sealed now. Raises :class:`InvalidInput` if the secret in the store does not open.
    """
    if keys is None:
        return KeySeal()
    repository = Repository(backend, KEYRING, StoredKeyring)
    for _ in range(_ATTEMPTS):
        entry = await repository.get(_NAME)
        try:
            if entry is None:
                return await _first(backend, repository, cluster, keys, entropy)
            return await _opened(backend, repository, entry, cluster, keys, entropy)
        except Conflict:
            log.debug("another auth on this store was first: its secret is used")
    raise Conflict("the signing keys in the store change too often; start auth again")


async def _opened(
    backend: IBackend,
    repository: Repository[StoredKeyring],
    entry: Versioned[StoredKeyring],
    cluster: str,
    keys: SigningKeys,
    entropy: Callable[[int], bytes],
) -> KeySeal:
    there = entry.value.wrapped
    secret = unwrap_secret(there, keys.private, cluster)
    if secret is None:
        known = ", ".join(public_text(each.recipient) for each in there)
        raise InvalidInput(
            f"the signing keys in the store do not open with {keys.source or 'this key'}, which is"
            f" {public_text(public_key(keys.private))}; they open with {known}: restore that key,"
            " or set auth.signing_keys.sealed_by to one of them"
        )
    wanted = keys.recipients
    if {each.recipient for each in there} != set(wanted):
        kept = [each for each in there if each.recipient in wanted]
        present = {each.recipient for each in kept}
        new = [wrap_secret(secret, each, cluster) for each in wanted if each not in present]
        value = StoredKeyring((*kept, *new))
        await backend.commit(repository.put(_NAME, value, if_revision=entry.revision))
        log.info("signing keys open with other keys now", keys=len(value.wrapped))
    return KeySeal(secret, entropy)


async def _first(
    backend: IBackend,
    repository: Repository[StoredKeyring],
    cluster: str,
    keys: SigningKeys,
    entropy: Callable[[int], bytes],
) -> KeySeal:
    """Make the secret, and seal what an older version has stored in clear."""
    secret = entropy(SECRET_SIZE)
    seal = KeySeal(secret, entropy)
    value = StoredKeyring(tuple(wrap_secret(secret, each, cluster) for each in keys.recipients))
    sealed = [*await _authorities(backend, seal), *await _target_secret(backend, seal)]
    await backend.commit(repository.put(_NAME, value, if_revision=0), *sealed)
    if sealed:
        log.warn(
            "signing keys are sealed now: back up the key that opens them, too",
            key=keys.source,
        )
    return seal


async def _authorities(backend: IBackend, seal: KeySeal) -> Sequence[Put]:
    repository = Repository(backend, PREFIX, StoredAuthority)
    return [
        repository.put(entry.name, entry.value.with_keys(seal.seal), if_revision=entry.revision)
        for entry in await repository.list()
    ]


async def _target_secret(backend: IBackend, seal: KeySeal) -> Sequence[Put]:
    item = await backend.get(TARGET_SECRET)
    if item is None:
        return ()
    return (Put(TARGET_SECRET, seal.seal(TARGET_PURPOSE, item.value), item.revision),)
