"""``tele recordings keygen``: a key that opens sealed recordings without auth."""

from __future__ import annotations

from pathlib import Path

import click

from tele.cli.output import print_notice, print_text
from tele.errors import InvalidInput


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def keygen(file: Path) -> None:
    """Write a new private key to FILE (0600), and print its public key.

    The public key is for auth.recording_encryption.recovery_keys. Keep FILE away from auth.
    """
    import os

    from tele.durable_files import write_file
    from tele.tape.key_files import private_text, public_text
    from tele.tape.sealing import KEY_SIZE, public_key

    private = os.urandom(KEY_SIZE)
    try:
        made = write_file(file, private_text(private).encode("ascii"), replace=False)
    except OSError as error:
        raise InvalidInput(f"cannot write {file}: {error.strerror}") from None
    if not made:
        raise InvalidInput(f"{file} exists already; a key is not overwritten")
    print_text(public_text(public_key(private)))
    print_notice(f"wrote {file}")
