"""``tele recordings show``: a recording, or what the programs of its session did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.output import Column, format_option, show_one, show_pages
from tele.cli.recordings import (
    COLUMNS,
    full_id,
    identity_option,
    note_what_is_missing,
    open_source,
)
from tele.cli.recordings_search import clock

if TYPE_CHECKING:
    from tele.model.frame import Frame

#: Events that are printed together.
_PAGE = 100

_EVENTS = (
    Column("AT", lambda r: clock(r["at"])),
    Column("CHANNEL", lambda r: r["channel"]),
    Column("EVENT", lambda r: r["event"]),
    Column("PID", lambda r: r.get("pid", "")),
    Column("PROGRAM", lambda r: r.get("program", "")),
    Column("WHAT", lambda r: r["what"]),
)


@click.command()
@click.argument("recording")
@click.option("--events", is_flag=True, help="List what its programs did, as their node traced it.")
@identity_option
@format_option()
@where_options(local=True)
def show(recording: str, events: bool, identity: Path | None, form: str, where: Where) -> None:
    """Show the details of a recording, or what its programs did.

    Programs are traced for roles with enhanced_recording. With --events RECORDING may be a .tape
    file, too.
    """
    if events:
        _show_events(recording, identity, form, where)
        return
    if identity is not None:
        raise click.UsageError("--identity opens what is sealed: give --events, too")
    from tele.model.api.paging import ById
    from tele.model.api.recordings import GET_RECORDING

    with open_authority(where) as authority:
        details = authority.perform(GET_RECORDING, ById(full_id(authority, recording)))
    columns = (
        *COLUMNS,
        Column("RECORDED BY", _recorded_by),
        Column("STATE", lambda r: r["state"] + (f": {r['incomplete']}" if r["incomplete"] else "")),
        Column("SEALED", lambda r: r["sealed"]),
        Column("INDEX", lambda r: r["index"]),
    )
    show_one(
        form, details.recording, columns, index=details.index.value, state=details.state.value,
        sealed="yes" if details.keys else "no",
    )  # fmt: skip


def _recorded_by(row: Mapping[str, Any]) -> str:
    by = row.get("recorder") or "node"
    return f"{by} ({row['mode']})" if row.get("mode") else by


def _show_events(recording: str, identity: Path | None, form: str, where: Where) -> None:
    """Print what RECORDING has of its programs, in the order in which it happened."""
    with open_source(recording, where, identity) as (source, _):
        note_what_is_missing(source)
        # All of it is read, and checked: the index alone proves nothing.
        rows = _rows(source.frames())
        show_pages(form, iter(lambda: list(islice(rows, _PAGE)), []), _EVENTS)


def _rows(frames: Iterator[Frame]) -> Iterator[dict[str, Any]]:
    from tele.model.frame import FrameKind
    from tele.tape.details import details
    from tele.tape.exports.summary import TRACED, summary, traced_text

    for frame in frames:
        if frame.kind in TRACED:
            fields = details(frame)
            at = fields.pop("at", None)
            what = traced_text(frame.kind, fields) or _ended(fields)
            yield {
                **fields,
                "event": frame.kind.name.lower(),
                "channel": frame.channel,
                "at": (at if type(at) is int else frame.time) / 1e9,
                "what": what,
            }
        elif frame.kind is FrameKind.GAP:
            row = {"event": "gap", "channel": frame.channel, "at": frame.time / 1e9}
            yield {**row, "what": summary(frame)}


def _ended(fields: dict[str, Any]) -> str:
    if fields.get("signal"):
        return f"ended by {fields['signal']}"
    return f"exit {fields.get('status', '')}"
