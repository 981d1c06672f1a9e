"""Where does auth get the key that opens the CAs' keys in its store?

From a file, the environment, a credential of systemd, or a hardware security module (PKCS#11).

Invariants:

* It is read once, before anything is served, and is not in the store.
* What others can read is refused, as :mod:`tele.private_files` says.
* Where it was is said in errors; nothing of it is.
* A key that the store needs and that is not there is never replaced by a new one.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

from tele.auth.signing_keys import KEYRING, SigningKeys
from tele.config.scalars import Chosen
from tele.config.signing_keys import SigningKeysConfig
from tele.durable_files import write_file
from tele.errors import InvalidInput, TeleError
from tele.private_files import read_secret
from tele.tape.key_files import SIGNING_KEY, private_text, read_private, read_public
from tele.tape.sealing import KEY_SIZE

#: The key in data_dir, if the configuration names no other.
SIGNING_KEY_FILE: Final = "signing.key"
_WHAT: Final = "the key of the signing keys"


def signing_keys(config: SigningKeysConfig, folder: Path, store: Path | None) -> SigningKeys:
    """Return this auth's key. ``folder`` is data_dir, ``store`` its SQLite file, if it is one.

    Makes ``signing.key`` at the first start, if the configuration names no other. Raises
    :class:`TeleError` if the key cannot be read.
    """
    chosen = config.sealed_by
    path = folder / SIGNING_KEY_FILE
    if chosen == Chosen("file") and not path.exists():
        _make(path, store)
    private = read_key(chosen, folder, os.environ)
    also_for = tuple(read_public(text) for text in config.also_for)
    return SigningKeys(private, also_for, str(path) if chosen == Chosen("file") else source(chosen))


def source(chosen: Chosen) -> str:
    """Return the source as messages show it."""
    return str(Chosen(chosen.kind, chosen.arguments.partition("?")[0]))


def write_key(path: Path) -> bytes:
    """Write a new key to a file (0600), and return it. Raises :class:`InvalidInput`."""
    private = os.urandom(KEY_SIZE)
    try:
        made = write_file(path, private_text(private, SIGNING_KEY).encode("ascii"), replace=False)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from None
    if not made:
        raise InvalidInput(f"{path} exists already; a key is not overwritten")
    return private


def read_key(chosen: Chosen, folder: Path, environment: MutableMapping[str, str]) -> bytes:
    """Return the key of a source. Raises :class:`TeleError` if it cannot be read.

    A variable of the environment is removed from it: no program that is started later has it.
    """
    name = chosen.arguments
    if chosen.kind == "pkcs11":
        from tele.embed.hardware_key import derive

        try:
            return derive(name)
        except InvalidInput as error:
            raise InvalidInput(f"{_WHAT} (auth.signing_keys.sealed_by): {error}") from None
    if chosen.kind == "env":
        text = environment.pop(name, "")
        if not text:
            raise InvalidInput(f"{_WHAT}: the environment has no {name}")
        return _parsed(chosen, text.encode("utf-8", "replace"))
    if chosen.kind == "credential":
        given = environment.get("CREDENTIALS_DIRECTORY", "")
        if not given:
            raise InvalidInput(
                f"{_WHAT}: systemd gave no credentials: the unit needs LoadCredential={name}:PATH"
            )
        if "/" in name:
            raise InvalidInput(f"{_WHAT}: a credential is a name, not a path")
        path = Path(given) / name
    else:
        path = folder / (name or SIGNING_KEY_FILE)
    try:
        data = read_secret(path, _WHAT)
    except OSError as error:
        raise InvalidInput(f"{_WHAT} cannot be read from {path}: {error.strerror}") from None
    return _parsed(chosen, data)


def _parsed(chosen: Chosen, data: bytes) -> bytes:
    try:
        return read_private(data, SIGNING_KEY)
    except InvalidInput as error:
        raise InvalidInput(f"{_WHAT} ({source(chosen)}): {error}") from None


def _make(path: Path, store: Path | None) -> None:
    if store is not None and store.exists() and _is_sealed(store):
        raise TeleError(
            f"{path} is missing, and the signing keys in {store} open with it: restore it from the"
            " backup, or set auth.signing_keys.sealed_by to a key of also_for"
        )
    write_key(path)


def _is_sealed(store: Path) -> bool:
    from tele.store.reading import StoreFile

    found: list[object] = []
    with StoreFile(store) as opened:
        opened.range(KEYRING, KEYRING[:-1] + "0", 1).addCallback(found.extend)
    return bool(found)
