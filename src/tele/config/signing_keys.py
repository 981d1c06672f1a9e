"""What can be configured of the signing keys in auth's store: which key seals them?"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from tele.config.keys import key
from tele.config.scalars import Chosen
from tele.errors import InvalidInput, quoted
from tele.tape.key_files import read_public

#: Where the key can be.
SOURCES: Final = ("file", "env", "credential", "pkcs11")


def source_problem(chosen: Chosen) -> str:
    """Return what is wrong with a source of the key, or nothing."""
    if chosen.kind not in SOURCES:
        return f"{quoted(chosen.kind)} is none of {', '.join(SOURCES)}"
    if chosen.kind != "file" and not chosen.arguments:
        return f"{chosen.kind}: without its arguments"
    return ""


def _public_keys_problem(keys: tuple[str, ...]) -> str:
    for each in keys:
        try:
            read_public(each)
        except InvalidInput as error:
            return str(error)
    return ""


@frozen
class SigningKeysConfig:
    """By which key the keys of the CAs are sealed in the store."""

    sealed_by: Chosen = key(
        "Where the key is that opens them. ``file:PATH``; ``file`` alone is ``signing.key`` in"
        " ``data_dir``, which auth makes. ``env:NAME``: an environment variable."
        " ``credential:NAME``: a credential of systemd. ``pkcs11:MODULE?token=LABEL&object=LABEL"
        "&pin_file=PATH``: a key in a hardware security module.",
        Chosen("file"),
        check=source_problem,
    )
    also_for: tuple[str, ...] = key(
        "Public keys (``tele ca keygen``) whose private keys open them, too: of the other auths on"
        " this store, and one that is kept elsewhere in case this auth's is lost.",
        (),
        check=_public_keys_problem,
    )
