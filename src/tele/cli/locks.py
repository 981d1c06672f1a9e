"""``tele locks``: deny access at once, and end what runs."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import end_of, end_option, pages, ttl_option
from tele.cli.node_names import complete_node
from tele.cli.nodes import node_id
from tele.cli.output import (
    Column,
    format_option,
    plain,
    print_notice,
    print_text,
    show_data,
    show_pages,
)
from tele.errors import InvalidInput

_COLUMNS = (
    Column("NAME", lambda k: k["metadata"]["name"]),
    Column("STOPS", lambda k: _target(k["spec"]["target"])),
    Column("UNTIL", lambda k: k["metadata"]["expires"] or "removed"),
    Column("BY", lambda k: k["spec"]["created_by"]),
    Column("MESSAGE", lambda k: k["spec"]["message"]),
)


def _target(target: dict[str, str | None]) -> str:
    return ", ".join(f"{what} {value}" for what, value in target.items() if value is not None)


@click.group(
    cls=LazyGroup,
    lazy={
        "add": Lazy("tele.cli.locks:add", "Lock a user, a role, a login, a node or a session."),
        "ls": Lazy("tele.cli.locks:ls", "List locks in force."),
        "rm": Lazy("tele.cli.locks:rm", "Remove a lock."),
    },
)
def locks() -> None:
    """Lock users, roles, logins, nodes, certificates and sessions."""


@click.command()
@click.option("--user", help="A user.")
@click.option("--role", help="All users who have this role.")
@click.option("--login", help="An OS account, on every node.")
@click.option("--node", help="A node, by name or id.", shell_complete=complete_node)
@click.option(
    "--login-session", help="All certificates of one `tele login`, by its id in the audit."
)
@click.option(
    "--certificate", metavar="SERIAL", help="One certificate, as ssh-keygen -L prints it."
)
@click.option("--session", help="A session, by its id.")
@click.option("--message", default="", help="Shown to the locked user.")
@click.option("--name", help="The name of the lock.  [default: generated]")
@ttl_option("until it is removed")
@end_option("the lock")
@click.option("--force", is_flag=True, help="Even if it locks out the last administrator.")
@format_option()
@where_options(local=True, user=False)
def add(
    user: str | None,
    role: str | None,
    login: str | None,
    node: str | None,
    login_session: str | None,
    certificate: str | None,
    session: str | None,
    message: str,
    name: str | None,
    ttl: timedelta | None,
    expires: datetime | None,
    force: bool,
    form: str,
    where: Where,
) -> None:
    """Lock one target at once.

    A locked target cannot log in, use the API or connect through a proxy, and its sessions and
    connections end within seconds. Prints the name of the lock.
    """
    from tele.model.api.locks import PUT_LOCK, PutLock
    from tele.model.resources import Lock, LockSpec, LockTarget, Metadata

    targets = {
        "user": user, "role": role, "login": login, "host_id": node,
        "login_session": login_session, "certificate": certificate, "session": session,
    }  # fmt: skip
    given = {what: value for what, value in targets.items() if value is not None}
    if len(given) != 1:
        raise InvalidInput(
            "give one target: --user, --role, --login, --node, --login-session, --certificate or"
            " --session"
        )
    (what,) = given
    until = end_of(ttl, expires)
    made = name or f"{what.removesuffix('_id').replace('_', '-')}-{secrets.token_hex(4)}"
    with open_authority(where) as authority:
        if node is not None:
            given = {"host_id": node_id(authority, node)}
        try:
            spec = LockSpec(LockTarget(**given), message)
            lock = Lock(Metadata(made, expires=until), spec)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        lock = authority.perform(PUT_LOCK, PutLock(made, lock, force))
    if form != "text":
        show_data(form, plain(lock))
        return
    print_text(made)
    lasts = (
        "until it is removed" if until is None else f"until {plain(lock)['metadata']['expires']}"
    )
    print_notice(f"locked {lasts}: tele locks rm {made}")


@click.command()
@format_option("names")
@where_options(local=True)
def ls(form: str, where: Where) -> None:
    """List locks in force."""
    from tele.model.api.locks import LIST_LOCKS
    from tele.model.api.paging import Paged

    with open_authority(where) as authority:
        found = pages(lambda after, size: authority.perform(LIST_LOCKS, Paged(size, after)))
        show_pages(form, found, _COLUMNS, name=lambda k: k["metadata"]["name"])


@click.command()
@click.argument("name")
@where_options(local=True)
def rm(name: str, where: Where) -> None:
    """Remove a lock. Sessions that it ended are not restored."""
    from tele.model.api.locks import DELETE_LOCK
    from tele.model.api.paging import ByName

    with open_authority(where) as authority:
        authority.perform(DELETE_LOCK, ByName(name))
