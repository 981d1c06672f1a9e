"""``tele recordings`` rm, hold, release, holds, stuck, retry: how long recordings are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lists import pages
from tele.cli.output import Column, format_option, print_notice, show_list, show_pages
from tele.cli.recordings import full_id

if TYPE_CHECKING:
    from tele.model.api.operation import Operation

_HOLDS = (
    Column("ID", lambda r: r["id"]),
    Column("BY", lambda r: r["by"]),
    Column("SINCE", lambda r: r["since"]),
    Column("REASON", lambda r: r["reason"]),
)
_STUCK = (
    Column("ID", lambda r: r["id"]),
    Column("STATE", lambda r: r["state"]),
    Column("SINCE", lambda r: r["since"]),
    Column("ATTEMPTS", lambda r: r["attempts"]),
    Column("REASON", lambda r: r["reason"]),
)


def _each(
    recordings: Sequence[str],
    where: Where,
    operation: Operation[Any, Any],
    request: Callable[..., Any],
    *reason: str,
) -> Iterator[str]:
    """Perform ``operation`` on one recording after the other; yield the id of each that is done.

    The request is ``request(id, *reason)``.
    """
    with open_authority(where) as authority:
        for wanted in recordings:
            found = full_id(authority, wanted)
            authority.perform(operation, request(found, *reason))
            yield found


@click.command()
@click.argument("recording", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why; it is in the audit.")
@where_options(local=True)
def rm(recording: tuple[str, ...], reason: str, where: Where) -> None:
    """Remove recordings. The removal is in the audit, with the reason."""
    from tele.model.api.keeping import DELETE_RECORDING, RemoveRecording

    for found in _each(recording, where, DELETE_RECORDING, RemoveRecording, reason):
        print_notice(f"removed {found}")


@click.command()
@click.argument("recording", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why, such as the number of a case.")
@where_options(local=True)
def hold(recording: tuple[str, ...], reason: str, where: Where) -> None:
    """Hold recordings: neither people nor retention remove them until they are released."""
    from tele.model.api.keeping import HOLD_RECORDING, HoldRecording

    for found in _each(recording, where, HOLD_RECORDING, HoldRecording, reason):
        print_notice(f"held {found}")


@click.command()
@click.argument("recording", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why the hold ends.")
@where_options(local=True)
def release(recording: tuple[str, ...], reason: str, where: Where) -> None:
    """End the hold of recordings."""
    from tele.model.api.keeping import RELEASE_RECORDING, ReleaseRecording

    for found in _each(recording, where, RELEASE_RECORDING, ReleaseRecording, reason):
        print_notice(f"released {found}")


@click.command()
@format_option("names")
@where_options(local=True)
def holds(form: str, where: Where) -> None:
    """List recordings that are held, with who holds them and why."""
    from tele.model.api.keeping import LIST_HOLDS
    from tele.model.api.paging import Paged

    with open_authority(where) as authority:

        def ask(after: str, size: int) -> Any:
            return authority.perform(LIST_HOLDS, Paged(size, after))

        show_pages(form, pages(ask, 0), _HOLDS, name=lambda r: r["id"])


@click.command()
@format_option("names")
@where_options(local=True)
def stuck(form: str, where: Where) -> None:
    """List recordings whose upload to the archive does not go on, with the reason.

    retry: it is tried again by itself. refused: change credentials, rights or settings; it is tried
    again every few minutes. quarantine: it is set aside until `tele recordings retry`.
    """
    from tele.model.api.keeping import LIST_STUCK
    from tele.model.api.operation import Nothing

    with open_authority(where) as authority:
        found = authority.perform(LIST_STUCK, Nothing())
    show_list(form, found.items, _STUCK, name=lambda r: r["id"])


@click.command()
@click.argument("recording", nargs=-1, required=True)
@where_options(local=True)
def retry(recording: tuple[str, ...], where: Where) -> None:
    """Upload recordings that are stuck again, now."""
    from tele.model.api.keeping import RETRY_RECORDING
    from tele.model.api.paging import ById

    for found in _each(recording, where, RETRY_RECORDING, ById):
        print_notice(f"{found} is uploaded again")
