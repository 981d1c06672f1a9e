"""``tele ca keygen``: a key that seals the CAs' keys in auth's store, and opens them."""

from __future__ import annotations

import click

from tele.cli.output import print_notice, print_text
from tele.errors import InvalidInput


@click.command()
@click.option("--public", "only_public", is_flag=True, help="Print that of a key that exists.")
@click.argument("source")
def keygen(source: str, only_public: bool) -> None:
    """Make a key at SOURCE, and print its public key.

    SOURCE is file:PATH (0600), or pkcs11:MODULE?token=LABEL&object=LABEL&pin_file=PATH: a key in a
    hardware security module, which it never leaves. It is for auth.signing_keys.sealed_by; the
    public key is for also_for of the other auths on the store.
    """
    import os
    from pathlib import Path

    from tele.config.scalars import Chosen
    from tele.embed.signing_key import read_key, write_key
    from tele.tape.key_files import public_text
    from tele.tape.sealing import public_key

    kind, _, arguments = source.partition(":")
    if kind not in ("file", "pkcs11") or not arguments:
        raise InvalidInput("SOURCE is file:PATH or pkcs11:MODULE?token=...&object=...&pin_file=...")
    if only_public:
        private = read_key(Chosen(kind, arguments), Path(), os.environ)
    elif kind == "file":
        private = write_key(Path(arguments))
    else:
        from tele.embed.hardware_key import make

        private = make(arguments)
    print_text(public_text(public_key(private)))
    if not only_public:
        print_notice(f"made {kind}:{arguments.partition('?')[0]}")
