"""``tele recordings``: list, show, export, verify and remove recordings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tele.cli.home import is_name
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import not_empty, pages, read_moment
from tele.cli.output import (
    Column,
    format_option,
    print_notice,
    print_text,
    show_data,
    show_one,
    show_pages,
    span,
    started_ago,
)
from tele.cli.session import Authority, Where, open_authority, where_options
from tele.errors import BadCertificate, BadRecording, InvalidInput, NotFound, quoted
from tele.text import printable

if TYPE_CHECKING:
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


_COLUMNS = (
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
        "show": Lazy("tele.cli.recordings:show", "Show the details of a recording."),
        "export": Lazy("tele.cli.recordings:export", "Write a recording to a file."),
        "verify": Lazy("tele.cli.recordings:verify", "Check that a recording is unchanged."),
        "rm": Lazy("tele.cli.recordings:rm", "Remove a recording."),
    },
)
def recordings() -> None:
    """List, show, export, verify and remove recordings."""


@click.command()
@click.option("--of", callback=not_empty, metavar="USER", help="Only recordings of this user.")
@click.option("--node", callback=not_empty, help="Only recordings of this node, by name or id.")
@click.option("--since", metavar="TIME", callback=read_moment, help="A time, or how long ago: 1h.")
@click.option("--until", metavar="TIME", callback=read_moment, help="A time, or how long ago.")
@click.option("--limit", type=click.IntRange(0), default=0, help="How many of the newest; 0: all.")
@format_option("names")
@where_options(local=True)
def ls(
    of: str | None,
    node: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    form: str,
    where: Where,
) -> None:
    """List recordings, newest first: all of them, or your own, as your roles allow.

    The order, --since and --until use the time when auth learnt of a session.
    """
    from tele.model.api.recordings import LIST_RECORDINGS, ListRecordings

    with open_authority(where) as authority:

        def ask(after: str, size: int) -> Any:
            request = ListRecordings(
                size, after, user=of or "", node=node or "", since=since, until=until
            )
            return authority.perform(LIST_RECORDINGS, request)

        show_pages(form, pages(ask, limit), _COLUMNS, name=lambda r: r["id"])


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


@contextmanager
def open_source(wanted: str, where: Where) -> Iterator[tuple[Source, Authority | None]]:
    """Open a recording by its id, the beginning of it, or as a ``.tape`` file.

    What looks like an id is an id, even if there is a file of that name.
    """
    from tele.recording.playback import from_authority, from_file

    path = Path(wanted)
    named = path.suffix == ".tape" or "/" in wanted
    if named or (path.is_file() and not _ID.fullmatch(wanted)):
        yield from_file(path), None
        return
    with open_authority(where) as authority:
        yield from_authority(authority.perform, full_id(authority, wanted)), authority


@click.command()
@click.argument("recording")
@format_option()
@where_options(local=True)
def show(recording: str, form: str, where: Where) -> None:
    """Show the details of a recording."""
    from tele.model.api.paging import ById
    from tele.model.api.recordings import GET_RECORDING

    with open_authority(where) as authority:
        details = authority.perform(GET_RECORDING, ById(full_id(authority, recording)))
    show_one(form, details.recording, _COLUMNS)


def _file_name(recording_id: str) -> str:
    """Return the id as the name of a file; ids in .tape files are untrusted."""
    if not is_name(recording_id):
        raise InvalidInput(f"{quoted(recording_id)} cannot be the name of a file: give FILE")
    return recording_id


@click.command()
@click.argument("recording")
@click.argument(
    "file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True), required=False
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tape", "cast", "json", "text"]),
    default=None,
    help="tape has all data and the signature.  [default: the ending of FILE]",
)
@where_options(local=True)
def export(recording: str, file: Path | None, form: str | None, where: Where) -> None:
    """Write a recording to FILE (default: ID.tape); - is standard output."""
    from tele.durable_files import sync_folder
    from tele.tape.file import write_file

    to_stdout = str(file) == "-"
    form = form or ("tape" if file is None or to_stdout else file.suffix[1:])
    if form not in ("tape", "cast", "json", "text", "txt"):
        raise InvalidInput(f"{file}: give --format: tape, cast, json or text")
    if to_stdout and form == "tape" and sys.stdout.isatty():
        raise InvalidInput("a .tape file is not for a terminal: redirect it, or give --format")
    with open_source(recording, where) as (source, _):
        target = file or Path(f"{_file_name(source.id)}.{form}")
        parts: Iterator[bytes] = (
            write_file(source.blobs())
            if form == "tape"
            else (part.encode("utf-8", "surrogateescape") for part in source.rendered(form, 0))
        )
        if to_stdout:
            for part in parts:
                sys.stdout.buffer.write(part)
            return
        with target.open("xb") as out:
            target.chmod(0o600)
            for part in parts:
                out.write(part)
            out.flush()
            os.fsync(out.fileno())  # the recording may be removed from auth next
        sync_folder(target.absolute().parent)
    print_notice(f"wrote {target}")
    if source.manifest is None:
        print_notice("the recording is not complete: it has no signed manifest yet")
    elif source.missing:
        print_notice(f"the recording is not complete: {printable(source.lost)}")


#: Exit status and message for a recording that is correct so far, by its state.
_INCOMPLETE = {
    "running": (7, "the session is running: its node is online and has not reported an end"),
    "ended": (8, "the session has ended, but its node has not uploaded all of it yet"),
    "unfinished": (9, "it was never finished: its node is gone, or has no record of it"),
    "incomplete": (9, "it is closed as incomplete"),
}
_FILE_IS_INCOMPLETE = "the file has no manifest: it was exported before the recording was complete"


@click.command()
@click.argument("recording")
@click.option(
    "--ca",
    metavar="FILE|SHA256:...",
    help="Trust this host authority, without asking auth: a file with the output of `tele ca"
    " export --type host`, or a fingerprint.",
)
@format_option()
@where_options(local=True)
def verify(recording: str, ca: str | None, form: str, where: Where) -> None:
    """Check that a recording, by id or as a .tape file, is unchanged and authentic.

    Its chunks, its manifest, auth's record of the start and the first frame have to agree; it has
    to be signed by the node, with a certificate of the cluster's host authority. A .tape file can
    be checked offline with --ca. Exit status 0: complete and correct; 1: not correct; 7: correct so
    far, the session is running; 8: correct so far, ended but not uploaded; 9: correct so far, but
    it will not be finished, or a part is lost.
    """
    try:
        with open_source(recording, where) as (source, authority):
            keys, cluster = _trust(source, authority, ca, where)
            verdict = source.verify(keys, cluster)
    except BadRecording as error:
        raise BadRecording(f"{recording}: verification failed: {error}") from None
    status, message = _INCOMPLETE.get(source.state.value, (1, "auth has no manifest of it"))
    if source.details is None and source.manifest is None:
        message = _FILE_IS_INCOMPLETE
    if source.lost:
        message = f"{message}: {printable(source.lost)}"
    if form != "text":
        show_data(form, {"id": source.id, "ok": verdict.complete, "state": source.state.value,
                         "chunks": verdict.chunks, "frames": verdict.frames,
                         "complete": verdict.complete, "recovered": verdict.recovered,
                         "missing": list(source.missing), "incomplete": source.lost,
                         "user": source.start.user, "login": source.start.login,
                         "node": source.start.node, "node_id": source.start.node_id,
                         "cluster": cluster})  # fmt: skip
    if not verdict.complete:
        print_notice(
            f"tele: {source.id}: {message}; its {verdict.chunks} chunks so far are unchanged"
        )
        click.get_current_context().exit(status)
    if form == "text":
        recovered = "; closed after a crash of the node" if verdict.recovered else ""
        print_text(
            f"ok: {source.id}: {verdict.chunks} chunks, {verdict.frames} frames,"
            f" {printable(source.start.user)}>{printable(source.start.login)} on"
            f" {printable(source.start.node)}, signed by {source.start.node_id}{recovered}"
        )


def _trust(
    source: Source, authority: Authority | None, ca: str | None, where: Where
) -> tuple[set[bytes], str]:
    """Return the keys (blobs) of the host authority, and the cluster of the recording."""
    from tele.certs.keys import parse_line
    from tele.cli.session import current, host_keys

    if ca is not None:
        # Its certificates name one cluster; the manifest's has to be the same.
        return _given_authority(source, ca), where.cluster or source.start.cluster
    if where.config is not None:
        if authority is None:
            with open_authority(where) as local:
                return _own_authority(local)
        return _own_authority(authority)
    home, profile = current(where)
    return {parse_line(line) for line in host_keys(home.files(profile))}, profile.cluster


def _own_authority(authority: Authority) -> tuple[set[bytes], str]:
    from tele.certs.keys import parse_line
    from tele.model.api.authorities import AUTHORITIES
    from tele.model.api.members import CLUSTER
    from tele.model.api.operation import Nothing

    trusted = authority.perform(AUTHORITIES, Nothing()).trusted
    lines = [k for a in trusted if a.kind.value == "host" for k in a.ssh_public_keys]
    return {parse_line(k) for k in lines}, authority.perform(CLUSTER, Nothing()).cluster


def _given_authority(source: Source, ca: str) -> set[bytes]:
    from tele.certs.certificate import parse_certificate
    from tele.certs.keys import parse_line

    if not ca.startswith("SHA256:"):
        try:
            lines = Path(ca).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InvalidInput(f"cannot read {ca}: {why}") from None
        keys = {parse_line(line) for line in lines if line.strip()}
        if not keys:
            raise InvalidInput(f"{ca} has no public key; tele ca export --type host prints them")
        return keys
    if source.manifest is None:
        return set()
    try:
        signer = parse_certificate(parse_line(source.manifest.host_certificate))
    except (BadCertificate, InvalidInput) as error:
        raise BadRecording(f"the manifest is not signed by its host: {error}") from None
    if signer.authority_fingerprint != ca:
        raise BadRecording(
            f"its node's certificate is of the authority {signer.authority_fingerprint}, not {ca}"
        )
    return {signer.authority_key}


@click.command()
@click.argument("recording", nargs=-1, required=True)
@where_options(local=True)
def rm(recording: tuple[str, ...], where: Where) -> None:
    """Remove recordings. The removal is in the audit."""
    from tele.model.api.paging import ById
    from tele.model.api.recordings import DELETE_RECORDING

    with open_authority(where) as authority:
        for wanted in recording:
            found = full_id(authority, wanted)
            authority.perform(DELETE_RECORDING, ById(found))
            print_notice(f"removed {found}")
