"""``tele join``: watch a running session of another user, or take part in it.

Invariant: ssh does it, end to end with the node of the session: a proxy sees ciphertext.
"""

from __future__ import annotations

import sys

import click

from tele.cli.auth_client import Where, open_authority
from tele.cli.output import plain
from tele.cli.ssh import execute, full_name, ready_for, target_options
from tele.errors import AccessDenied


@click.command()
@click.argument("session_id", metavar="ID")
@click.option(
    "--mode",
    type=click.Choice(("observer", "moderator", "peer")),
    default="observer",
    show_default=True,
    help="An observer watches; a moderator may end the session, too; a peer types in it.",
)
@target_options
def join(
    session_id: str, mode: str, cluster: str | None, proxy: str | None, user: str | None
) -> None:
    """Watch a running session, or take part in it; tele sessions ls has the IDs.

    Your roles say which sessions you may join (join_sessions). The session's user sees that you
    come and leave, and so do its recording and the audit. Ctrl-C leaves, as a peer Enter ~.
    """
    from tele.model.api.paging import ById
    from tele.model.api.sessions import GET_SESSION
    from tele.model.joining import join_login

    program, profile, configuration, _ = ready_for("ssh", cluster, proxy, user)
    with open_authority(Where(cluster, proxy, user)) as authority:
        session = plain(authority.perform(GET_SESSION, ById(session_id)))["session"]
    if session.get("recorder", "node") != "node":
        raise AccessDenied(
            "the session ends at a proxy, which records it, and cannot be joined there: watch its"
            f" recording as it grows, with tele play {session['id']}",
            "recording",
        )
    node = full_name(session["node_id"], profile.cluster)
    terminal = ["-t"] if sys.stdin.isatty() else ["-T"]
    words = [*configuration, *terminal, f"{join_login(session['id'])}@{node}"]
    execute(program, words if mode == "observer" else [*words, mode])
