"""``tele recordings``: list recordings, and open one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tele.cli.auth_client import Authority, Where, open_authority, where_options
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import not_empty, pages, read_moment
from tele.cli.output import (
    Column,
    format_option,
    print_notice,
    show_pages,
    span,
    started_ago,
)
from tele.errors import InvalidInput, NotFound
from tele.text import printable

if TYPE_CHECKING:
    from tele.recording.evidence import Evidence
    from tele.recording.playback import Source

#: An id or the beginning of one. It never means a file: others may be able to create a file of that
#: name in the current folder.
_ID = re.compile(r"[0-9a-f-]{1,36}", re.ASCII | re.IGNORECASE)
#: Ids that are shown when several fit.
SHOWN = 3


def lasted(row: Any) -> str:
    """Return how long a recorded session lasted, if it is known to have ended."""
    if row["ended"] is None:
        return "open"
    started, ended = (datetime.fromisoformat(row[k]) for k in ("started", "ended"))
    length = span((ended - started).total_seconds())
    return f"{length} (incomplete)" if row["incomplete"] else length


#: Columns of a list of recordings.
COLUMNS = (
    Column("ID", lambda r: r["id"]),
    Column("USER", lambda r: r["user"]),
    Column("LOGIN", lambda r: r["login"]),
    Column("NODE", lambda r: r["node"]),
    Column("STARTED", started_ago),
    Column("LASTED", lasted),
    Column("TERMINAL", lambda r: "yes" if r["interactive"] else "no"),
    Column("SIZE", lambda r: r["size"]),
)


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": Lazy("tele.cli.recordings:ls", "List recordings, newest first."),
        "show": Lazy("tele.cli.recordings_show:show", "Show the details of a recording."),
        "export": Lazy("tele.cli.recordings_export:export", "Write a recording to a file."),
        "search": Lazy("tele.cli.recordings_search:search", "Find a text in recordings."),
        "files": Lazy("tele.cli.recordings_files:files", "List the files that a session copied."),
        "verify": Lazy("tele.cli.recordings_verify:verify", "Check that a recording is unchanged."),
        "rm": Lazy("tele.cli.recordings_keep:rm", "Remove a recording."),
        "hold": Lazy("tele.cli.recordings_keep:hold", "Keep a recording until it is released."),
        "release": Lazy("tele.cli.recordings_keep:release", "End the hold of a recording."),
        "keygen": Lazy("tele.cli.recordings_keygen:keygen", "Make a recovery key."),
        "holds": Lazy("tele.cli.recordings_keep:holds", "List recordings that are held."),
        "stuck": Lazy("tele.cli.recordings_keep:stuck", "List uploads that do not go on."),
        "retry": Lazy("tele.cli.recordings_keep:retry", "Upload a stuck recording again."),
    },
)
def recordings() -> None:
    """List, show, search, export, verify, hold and remove recordings."""


@click.command()
@click.option(
    "--user",
    "--of",
    "of",
    callback=not_empty,
    metavar="USER",
    help="Only recordings of this user.",
)
@click.option("--node", callback=not_empty, help="Only of this node: a name, an id, or 'web*'.")
@click.option("--command", callback=not_empty, help="Only with a command that has this text.")
@click.option("--since", metavar="TIME", callback=read_moment, help="A time, or how long ago: 1h.")
@click.option("--until", metavar="TIME", callback=read_moment, help="A time, or how long ago.")
@click.option("--limit", type=click.IntRange(0), default=0, help="How many of the newest; 0: all.")
@format_option("names")
@where_options(local=True, user=False)
def ls(
    of: str | None,
    node: str | None,
    since: datetime | None,
    until: datetime | None,
    command: str | None,
    limit: int,
    form: str,
    where: Where,
) -> None:
    """List recordings, newest first: all of them, or your own, as your roles allow.

    The order, --since and --until use the time when auth learnt of a session. --command finds
    closed recordings that have an index.
    """
    from tele.model.api.recordings import LIST_RECORDINGS, ListRecordings

    with open_authority(where) as authority:

        def ask(after: str, size: int) -> Any:
            request = ListRecordings(
                size,
                after,
                user=of or "",
                node=node or "",
                since=since,
                until=until,
                command=command or "",
            )
            return authority.perform(LIST_RECORDINGS, request)

        show_pages(form, pages(ask, limit), COLUMNS, name=lambda r: r["id"])


def full_id(authority: Authority, wanted: str) -> str:
    """Return the id of the one recording whose id begins with ``wanted``."""
    if len(wanted) == 36:
        return wanted
    found = [] if not _ID.fullmatch(wanted) else _beginning_with(authority, wanted.lower())
    if not found:
        here = f"; for the file here, type ./{wanted}" if Path(wanted).is_file() else ""
        raise NotFound(f"no recording {wanted[:64]!r}; tele recordings ls shows them{here}")
    if len(found) > 1:
        raise InvalidInput(
            f"several recordings begin with {wanted[:64]!r}; give more of the id: "
            f"{', '.join(found[:SHOWN])}"
        )
    return found[0]


def _beginning_with(authority: Authority, beginning: str) -> list[str]:
    from tele.model.api.recordings import LIST_RECORDINGS, ListRecordings

    found: list[str] = []
    for some in pages(
        lambda after, size: authority.perform(
            LIST_RECORDINGS, ListRecordings(size, after, id=beginning)
        ),
        SHOWN,
    ):
        found += [str(row.id) for row in some]
    return found


#: The option of commands that read sealed recordings.
identity_option = click.option(
    "--identity",
    metavar="KEYFILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The private key that opens a sealed recording, instead of auth's.",
)


def note_what_is_missing(source: Source) -> None:
    """Say on standard error that the recording is incomplete, or not complete yet."""
    if source.lost:
        print_notice(f"this recording is incomplete: {printable(source.lost)}")
    elif source.manifest is None:
        print_notice("this recording is not complete yet")


@contextmanager
def open_source(
    wanted: str, where: Where, identity: Path | None = None
) -> Iterator[tuple[Source, Authority | None]]:
    """Open a recording by its id, the beginning of it, or as a ``.tape`` file.

    What looks like an id is an id, even if there is a file of that name. ``identity`` is the file
    of a private key that opens a sealed recording.
    """
    from tele.recording.playback import from_authority, from_file

    with _opened(wanted, where) as (found, authority):
        if authority is None:
            yield from_file(Path(found), _read_identity(identity)), None
        else:
            yield from_authority(authority.perform, found, _read_identity(identity)), authority


def _read_identity(path: Path | None) -> bytes | None:
    if path is None:
        return None
    from tele.private_files import read_secret
    from tele.tape.key_files import read_private

    try:
        return read_private(read_secret(path, "the key", pipes=True))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


@contextmanager
def open_evidence(wanted: str, where: Where) -> Iterator[tuple[Evidence, Authority | None]]:
    """Open a recording like :func:`open_source`, to find out what is wrong with it."""
    from tele.recording.evidence import evidence_at_authority, evidence_in_file

    with _opened(wanted, where) as (found, authority):
        if authority is None:
            yield evidence_in_file(Path(found)), None
        else:
            yield evidence_at_authority(authority.perform, found), authority


@contextmanager
def _opened(wanted: str, where: Where) -> Iterator[tuple[str, Authority | None]]:
    """Yield the path of a file, or the whole id and the authority that has it."""
    path = Path(wanted)
    named = path.suffix == ".tape" or "/" in wanted
    if named or (path.is_file() and not _ID.fullmatch(wanted)):
        yield wanted, None
        return
    with open_authority(where) as authority:
        yield full_id(authority, wanted), authority
