"""``tele recordings export``: a recording becomes a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from tele.cli.auth_client import Where, where_options
from tele.cli.home import is_name
from tele.cli.output import print_notice
from tele.cli.recordings import identity_option, open_source
from tele.errors import InvalidInput, quoted
from tele.text import printable

if TYPE_CHECKING:
    from tele.recording.playback import Source

#: Forms of :data:`tele.recording.playback.FORMS`, which takes longer to import than ``--help`` may.
FORMS: Final = ("text", "json", "cast", "cast2", "cast3")
_ENDINGS: Final = {"cast2": "cast", "cast3": "cast"}


def _file_name(recording_id: str) -> str:
    """Return the id as the name of a file; ids in .tape files are untrusted."""
    if not is_name(recording_id):
        raise InvalidInput(f"{quoted(recording_id)} cannot be the name of a file: give FILE")
    return recording_id


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that no other account can open at any time; a part of one does not stay."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from None
    try:
        with open(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())  # the recording may be removed from auth next
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _parts(source: Source, form: str, times: bool) -> Iterator[bytes]:
    """Return the bytes of the file, in parts."""
    from tele.tape.file import write_file

    if form == "tape":
        return write_file(source.blobs())
    if form == "html":
        from tele.web.offline import page_of

        return page_of(write_file(source.blobs()), source.secrets())
    text = source.rendered(form, 0, times=times)
    return (part.encode("utf-8", "surrogateescape") for part in text)


@click.command()
@click.argument("recording")
@click.argument(
    "file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True), required=False
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tape", "html", *FORMS]),
    default=None,
    help="tape has all data and the signature; html is a page with the same, which any browser"
    " plays without a network; cast is asciicast 2, cast3 version 3; json has a line for each"
    " frame; text is what terminals showed.  [default: the ending of FILE]",
)
@click.option("--times", is_flag=True, help="Begin each line with its time; text only.")
@identity_option
@where_options(local=True)
def export(
    recording: str,
    file: Path | None,
    form: str | None,
    times: bool,
    identity: Path | None,
    where: Where,
) -> None:
    """Write a recording to FILE (default: ID.tape); - is standard output."""
    from tele.durable_files import sync_folder

    to_stdout = str(file) == "-"
    form = form or ("tape" if file is None or to_stdout else file.suffix[1:])
    form = {"txt": "text", "jsonl": "json"}.get(form, form)
    if form not in ("tape", "html", *FORMS):
        raise InvalidInput(f"{file}: give --format: tape, html, {', '.join(FORMS)}")
    if times and form != "text":
        raise InvalidInput(f"--times is for --format text only; this is {form}")
    if to_stdout and form == "tape" and sys.stdout.isatty():
        raise InvalidInput("a .tape file is not for a terminal: redirect it, or give --format")
    with open_source(recording, where, identity) as (source, _):
        target = file or Path(f"{_file_name(source.id)}.{_ENDINGS.get(form, form)}")
        parts = _parts(source, form, times)
        if to_stdout:
            for part in parts:
                sys.stdout.buffer.write(part)
            return
        with _new_file(target) as out:
            for part in parts:
                out.write(part)
        sync_folder(target.absolute().parent)
    print_notice(f"wrote {target}")
    if source.manifest is None:
        print_notice("the recording is not complete: it has no signed manifest yet")
    elif source.missing:
        print_notice(f"the recording is not complete: {printable(source.lost)}")
