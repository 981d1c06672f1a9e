"""``tele store``: move a cluster's state to another store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.output import print_notice, print_text
from tele.errors import InvalidInput, quoted

if TYPE_CHECKING:
    from tele.store.copying import Place


@click.group(
    cls=LazyGroup,
    lazy={"copy": Lazy("tele.cli.store:copy", "Copy all of a store into an empty one.")},
)
def store() -> None:
    """Move a cluster's state to another store."""


@click.command()
@click.argument("origin", metavar="FROM")
@click.argument("destination", metavar="TO")
def copy(origin: str, destination: str) -> None:
    """Copy all of the store FROM into the empty store TO, while every auth is stopped.

    FROM and TO are sqlite:PATH or postgresql://..., as in the key store of auth's configuration.
    Run it on auth's machine, as the account that auth runs as. It copies the state: hosts, users,
    roles, the CAs' keys as they are stored, the audit. Recordings, and the files of data_dir, stay
    where they are. All of TO is read again and compared before it counts; FROM stays as it is.
    """
    from tele.store.copying import copy_store

    places = _place(origin), _place(destination)
    if places[0] == places[1]:
        raise InvalidInput("FROM and TO are the same store")
    copied = copy_store(*places)
    print_text(f"ok: copied {copied.items} items")
    print_text(f"sha256: {copied.digest}")
    print_notice(
        "set store of auth's configuration to the new one on every auth, start one, and look at"
        " tele ls; then keep the old store away from auth"
    )


def _place(text: str) -> Place:
    kind, _, rest = text.partition(":")
    if kind == "sqlite" and rest:
        from tele.store.sqlite_copying import SqlitePlace

        return SqlitePlace(Path(rest).absolute())
    if kind == "postgresql" and rest:
        try:
            from tele.store.postgres_copying import PostgresPlace
        except ImportError as error:
            raise InvalidInput(
                f"the store postgresql needs psycopg ({error}): pip install 'tele-ssh[postgres]'"
            ) from None
        return PostgresPlace(text)
    known = "sqlite:PATH or postgresql://USER@HOST/DATABASE"
    raise InvalidInput(f"{quoted(kind)} is no store that can be copied: give {known}")
