"""``tele recordings files``: which files a session copied, as its recording says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tele.cli.auth_client import Where, where_options
from tele.cli.output import Column, format_option, show_pages
from tele.cli.recordings import identity_option, note_what_is_missing, open_source
from tele.cli.recordings_search import clock

if TYPE_CHECKING:
    from tele.model.frame import Frame

#: Keys of a file in JSON that are text, from those of its frame.
_KEYS = (
    "protocol", "op", "direction", "path", "to", "mode", "sha256", "result",
)  # fmt: skip
#: Files that are printed together.
_PAGE = 100

_COLUMNS = (
    Column("AT", lambda r: clock(r["at"])),
    Column("PROTOCOL", lambda r: r["protocol"]),
    Column("WHAT", lambda r: r["direction"] or r["op"]),
    Column("BYTES", lambda r: "" if r["bytes"] is None else r["bytes"]),
    Column("RESULT", lambda r: r["result"]),
    Column("SHA-256", lambda r: r["sha256"]),
    Column("PATH", lambda r: f"{r['path']} -> {r['to']}" if r["to"] else r["path"]),
)


@click.command()
@click.argument("recording")
@identity_option
@format_option()
@where_options(local=True)
def files(recording: str, identity: Path | None, form: str, where: Where) -> None:
    """List what RECORDING, an id or a .tape file, says of files: copied, renamed, removed.

    SHA-256 is of what passed; nothing where the file was read or written in pieces out of order.
    """
    from tele.model.frame import FrameKind

    with open_source(recording, where, identity) as (source, _):
        note_what_is_missing(source)
        # All of it is read, and checked: the index alone proves nothing.
        frames = (each for each in source.frames() if each.kind is FrameKind.TRANSFER)
        show_pages(form, _pages(frames), _COLUMNS, name=lambda r: r["path"])


def _pages(frames: Iterator[Frame]) -> Iterator[list[dict[str, Any]]]:
    from tele.tape.details import details

    page: list[dict[str, Any]] = []
    for frame in frames:
        fields = details(frame)
        row: dict[str, Any] = {"at": frame.time / 1e9, "channel": frame.channel}
        for key in _KEYS:
            row[key] = str(fields.get(key, ""))
        size = fields.get("bytes")
        row["bytes"] = size if type(size) is int else None
        page.append(row)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page
