"""Which recordings are there, and can they be trusted?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import all_pages
from tele.cli.output import Column, ago, format_option, say, show_data, show_list, show_one, span
from tele.cli.session import Authority, Where, open_authority, where_options
from tele.errors import BadRecording, InvalidInput, NotFound

if TYPE_CHECKING:
    from tele.recording.playback import Source


def lasted(row: Any) -> str:
    """Return how long a recorded session lasted, or that it runs."""
    from datetime import datetime

    if row["ended"] is None:
        return "runs"
    started, ended = (datetime.fromisoformat(row[k]) for k in ("started", "ended"))
    return span((ended - started).total_seconds())


_COLUMNS = (
    Column("ID", lambda r: r["id"]),
    Column("USER", lambda r: r["user"]),
    Column("LOGIN", lambda r: r["login"]),
    Column("NODE", lambda r: r["node"]),
    Column("STARTED", lambda r: ago(r["started"])),
    Column("LASTED", lasted),
    Column("TERMINAL", lambda r: "yes" if r["interactive"] else "no"),
    Column("SIZE", lambda r: r["size"]),
)


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": Lazy("tele.cli.recordings:ls", "List recordings, newest first."),
        "show": Lazy("tele.cli.recordings:show", "Show what is known of a recording."),
        "export": Lazy("tele.cli.recordings:export", "Write a recording to a file."),
        "verify": Lazy("tele.cli.recordings:verify", "Check that a recording is whole."),
        "rm": Lazy("tele.cli.recordings:rm", "Remove a recording."),
    },
)
def recordings() -> None:
    """List, show, export, verify and remove recordings."""


@click.command()
@format_option("names")
@where_options(local=True)
def ls(form: str, where: Where) -> None:
    """List recordings, newest first: all of them, or your own, as your roles allow."""
    with open_authority(where) as authority:
        found = _all(authority)
    show_list(form, found, _COLUMNS, name=lambda r: r["id"])


def _all(authority: Authority) -> list[Any]:
    from tele.model.api.people import Paged
    from tele.model.api.table import LIST_RECORDINGS

    return all_pages(lambda after: authority.perform(LIST_RECORDINGS, Paged(after=after)))


def full_id(authority: Authority, wanted: str) -> str:
    """Return the id of the one recording whose id begins with ``wanted``."""
    if len(wanted) == 36:
        return wanted
    found = [r.id for r in _all(authority) if r.id.startswith(wanted.lower())]
    if not found:
        raise NotFound(f"no recording {wanted[:64]!r}; tele recordings ls shows them")
    if len(found) > 1:
        raise InvalidInput(
            f"{len(found)} recordings begin with {wanted[:64]!r}; give more of the id"
        )
    return str(found[0])


@contextmanager
def open_source(wanted: str, where: Where) -> Iterator[tuple[Source, Authority | None]]:
    """Give a recording by its id, the beginning of it, or as a ``.tape`` file."""
    from tele.recording.playback import from_authority, from_file

    path = Path(wanted)
    if path.suffix == ".tape" or "/" in wanted or path.is_file():
        yield from_file(path), None
        return
    with open_authority(where) as authority:
        yield from_authority(authority.perform, full_id(authority, wanted)), authority


@click.command()
@click.argument("recording")
@format_option()
@where_options(local=True)
def show(recording: str, form: str, where: Where) -> None:
    """Show what is known of a recording."""
    from tele.model.api.members import ById
    from tele.model.api.table import GET_RECORDING

    with open_authority(where) as authority:
        details = authority.perform(GET_RECORDING, ById(full_id(authority, recording)))
    show_one(form, details.recording, _COLUMNS)


@click.command()
@click.argument("recording")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tape", "cast", "json", "text"]),
    default=None,
    help="tape keeps everything, signature included; the default is what FILE ends with.",
)
@where_options(local=True)
def export(recording: str, file: Path | None, form: str | None, where: Where) -> None:
    """Write a recording to FILE (default: ID.tape)."""
    from tele.cli.play import rendered
    from tele.tape.file import write_file

    form = form or (file.suffix[1:] if file is not None else "tape")
    if form not in ("tape", "cast", "json", "text", "txt"):
        raise InvalidInput(f"{file}: say with --format what it shall be: tape, cast, json or text")
    with open_source(recording, where) as (source, _):
        target = file or Path(f"{source.id}.{form}")
        parts: Iterator[bytes] = (
            write_file(source.blobs())
            if form == "tape"
            else (part.encode("utf-8", "surrogateescape") for part in rendered(source, form, 0))
        )
        with target.open("xb") as out:
            target.chmod(0o600)
            for part in parts:
                out.write(part)
    say(f"wrote {target}")


@click.command()
@click.argument("recording")
@format_option()
@where_options(local=True)
def verify(recording: str, form: str, where: Where) -> None:
    """Check chain, manifest and signature of a recording, by id or as a .tape file.

    The signature is checked against the host authority of the cluster that you are logged
    in to.
    """
    from tele.certs.keys import parse_line
    from tele.cli.session import current, host_keys

    with open_source(recording, where) as (source, authority):
        if where.config is not None and authority is not None:
            from tele.model.api.operation import Nothing
            from tele.model.api.table import AUTHORITIES

            trusted = authority.perform(AUTHORITIES, Nothing()).trusted
            lines = [k for a in trusted if a.kind.value == "host" for k in a.ssh_public_keys]
        else:
            home, profile = current(where)
            lines = list(host_keys(home.files(profile)))
        verdict = source.verify({parse_line(line) for line in lines})
    if form != "text":
        show_data(form, {"id": source.id, "ok": verdict.complete, "chunks": verdict.chunks,
                         "frames": verdict.frames, "complete": verdict.complete,
                         "recovered": verdict.recovered})  # fmt: skip
    if not verdict.complete:
        raise BadRecording(
            f"{source.id}: {verdict.chunks} chunks are unchanged, but it has no manifest yet:"
            " the session runs, or its node has not been back"
        )
    if form == "text":
        recovered = "; its recorder was killed and closed it later" if verdict.recovered else ""
        click.echo(f"ok: {source.id}: {verdict.chunks} chunks, {verdict.frames} frames{recovered}")


@click.command()
@click.argument("recording", nargs=-1, required=True)
@where_options(local=True)
def rm(recording: tuple[str, ...], where: Where) -> None:
    """Remove recordings. The audit keeps that they were there."""
    from tele.model.api.members import ById
    from tele.model.api.table import DELETE_RECORDING

    with open_authority(where) as authority:
        for wanted in recording:
            found = full_id(authority, wanted)
            authority.perform(DELETE_RECORDING, ById(found))
            say(f"removed {found}")
