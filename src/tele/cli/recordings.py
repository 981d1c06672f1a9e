"""Which recordings are there, and can they be trusted?"""

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
    print_text,
    say,
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

#: What an id or the beginning of one looks like. It never means a file: others may be able to
#: put one of that name where somebody types a command.
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
        "show": Lazy("tele.cli.recordings:show", "Show what is known of a recording."),
        "export": Lazy("tele.cli.recordings:export", "Write a recording to a file."),
        "verify": Lazy("tele.cli.recordings:verify", "Check that a recording is whole."),
        "rm": Lazy("tele.cli.recordings:rm", "Remove a recording."),
    },
)
def recordings() -> None:
    """List, show, export, verify and remove recordings."""


@click.command()
@click.option("--of", callback=not_empty, metavar="USER", help="Only recordings of this user.")
@click.option("--node", callback=not_empty, help="Only those made on this node, by name or id.")
@click.option("--since", metavar="TIME", callback=read_moment, help="A time, or how long ago: 1h.")
@click.option("--until", metavar="TIME", callback=read_moment, help="A time, or how long ago.")
@click.option("--limit", type=click.IntRange(0), default=0, help="The newest so many; 0: all.")
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

    Order, --since and --until go by when auth heard of a session.
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
    """Give a recording by its id, the beginning of it, or as a ``.tape`` file.

    What looks like an id is one, whatever files are here.
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
    """Show what is known of a recording."""
    from tele.model.api.paging import ById
    from tele.model.api.recordings import GET_RECORDING

    with open_authority(where) as authority:
        details = authority.perform(GET_RECORDING, ById(full_id(authority, recording)))
    show_one(form, details.recording, _COLUMNS)


def _file_name(recording_id: str) -> str:
    """Return the id as the name of a file: a .tape file says what it likes."""
    if not is_name(recording_id):
        raise InvalidInput(f"{quoted(recording_id)} cannot be the name of a file: give one")
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
    help="tape keeps everything, signature included; the default is what FILE ends with.",
)
@where_options(local=True)
def export(recording: str, file: Path | None, form: str | None, where: Where) -> None:
    """Write a recording to FILE (default: ID.tape); - is standard output."""
    from tele.cli.play import rendered
    from tele.durable_files import sync_folder
    from tele.tape.file import write_file

    to_stdout = str(file) == "-"
    form = form or ("tape" if file is None or to_stdout else file.suffix[1:])
    if form not in ("tape", "cast", "json", "text", "txt"):
        raise InvalidInput(f"{file}: say with --format what it shall be: tape, cast, json or text")
    if to_stdout and form == "tape" and sys.stdout.isatty():
        raise InvalidInput("a terminal cannot show a .tape file: redirect it, or give a --format")
    with open_source(recording, where) as (source, _):
        target = file or Path(f"{_file_name(source.id)}.{form}")
        parts: Iterator[bytes] = (
            write_file(source.blobs())
            if form == "tape"
            else (part.encode("utf-8", "surrogateescape") for part in rendered(source, form, 0))
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
    say(f"wrote {target}")
    if source.manifest is None:
        say("it is not complete: the recording had no manifest yet, so nobody has signed it")
    elif source.missing:
        say(f"it is not complete: {printable(source.lost)}")


#: What is said, and the status to end with, of a recording that is good as far as it is there.
_INCOMPLETE = {
    "running": (7, "the session runs: its node is online and has not said that it ended"),
    "ended": (8, "the session has ended, but its node has not uploaded all of it yet"),
    "unfinished": (9, "it was never finished: its node is gone, or does not know of it any more"),
    "incomplete": (9, "it is incomplete, and closed"),
}
_FILE_IS_INCOMPLETE = "the file has no manifest: it was exported before the recording was complete"


@click.command()
@click.argument("recording")
@click.option(
    "--ca",
    metavar="FILE|SHA256:...",
    help="Trust this host authority, without asking anybody: public keys as `tele ca export"
    " --type host` prints them, or the fingerprint of one.",
)
@format_option()
@where_options(local=True)
def verify(recording: str, ca: str | None, form: str, where: Where) -> None:
    """Check that a recording, by id or as a .tape file, is whole and of the session it names.

    Its chunks, its manifest, what auth noted when the session began and the first frame have to
    agree; the signer has to be the node, by a certificate of the cluster's host authority. With
    a .tape file and --ca nothing else is needed. Status 0: all of it is good; 1: something is
    wrong; 7: good so far, the session runs; 8: good so far, it ended but is not uploaded; 9: good
    so far, but nobody will finish it, or a part of it is lost.
    """
    try:
        with open_source(recording, where) as (source, authority):
            keys, cluster = _trust(source, authority, ca, where)
            verdict = source.verify(keys, cluster)
    except BadRecording as error:
        raise BadRecording(f"{recording}: not to be trusted: {error}") from None
    status, said = _INCOMPLETE.get(source.state.value, (1, "auth has no manifest of it"))
    if source.details is None and source.manifest is None:
        said = _FILE_IS_INCOMPLETE
    if source.lost:
        said = f"{said}: {printable(source.lost)}"
    if form != "text":
        show_data(form, {"id": source.id, "ok": verdict.complete, "state": source.state.value,
                         "chunks": verdict.chunks, "frames": verdict.frames,
                         "complete": verdict.complete, "recovered": verdict.recovered,
                         "missing": list(source.missing), "incomplete": source.lost,
                         "user": source.start.user, "login": source.start.login,
                         "node": source.start.node, "node_id": source.start.node_id,
                         "cluster": cluster})  # fmt: skip
    if not verdict.complete:
        say(f"tele: {source.id}: {said}; its {verdict.chunks} chunks so far are unchanged")
        click.get_current_context().exit(status)
    if form == "text":
        recovered = "; its recorder was killed and closed it later" if verdict.recovered else ""
        print_text(
            f"ok: {source.id}: {verdict.chunks} chunks, {verdict.frames} frames,"
            f" {printable(source.start.user)}>{printable(source.start.login)} on"
            f" {printable(source.start.node)}, signed by {source.start.node_id}{recovered}"
        )


def _trust(
    source: Source, authority: Authority | None, ca: str | None, where: Where
) -> tuple[set[bytes], str]:
    """Return the host authority's keys (blobs) and the cluster that a recording has to be of."""
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
    """Remove recordings. The audit keeps that they were there."""
    from tele.model.api.paging import ById
    from tele.model.api.recordings import DELETE_RECORDING

    with open_authority(where) as authority:
        for wanted in recording:
            found = full_id(authority, wanted)
            authority.perform(DELETE_RECORDING, ById(found))
            say(f"removed {found}")
