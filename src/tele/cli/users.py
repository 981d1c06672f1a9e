"""``tele users``: manage users."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import end_of, end_option, pages, read_password, split_words, ttl_option
from tele.cli.output import (
    Column,
    format_option,
    plain,
    print_notice,
    print_text,
    show_data,
    show_pages,
    words,
)
from tele.errors import InvalidInput, quoted

_COLUMNS = (
    Column("NAME", lambda u: u["metadata"]["name"]),
    Column("ROLES", lambda u: words(u["spec"]["roles"])),
    Column("LOGINS", lambda u: words(u["spec"]["traits"].get("logins", ()))),
    Column("EXPIRES", lambda u: u["metadata"]["expires"] or ""),
)
_LOGINS = "logins"


@click.group(
    cls=LazyGroup,
    lazy={
        "add": Lazy("tele.cli.users:add", "Create a user."),
        "ls": Lazy("tele.cli.users:ls", "List users."),
        "update": Lazy("tele.cli.users:update", "Change a user's roles, logins and expiry."),
        "reset": Lazy("tele.cli.users:reset", "Set a new password; ends a lock-out."),
        "rm": Lazy("tele.cli.users:rm", "Remove a user."),
    },
)
def users() -> None:
    """Manage users."""


def _password(file: Path | None) -> str:
    """Return the first line of ``file``; if empty, auth generates a password."""
    return "" if file is None else read_password(file)


_password_file = click.option(
    "--password-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file whose first line is the password; - is standard input.  [default: generated]",
)


def _show_password(form: str, name: str, password: str) -> None:
    if form != "text":
        show_data(form, {"name": name, "password": password or None})
    elif password:
        print_notice(f"the password of {name}, shown this once:")
        print_text(password)


@click.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, default=("access",), show_default=True)
@click.option("--login", "logins", multiple=True, help="OS accounts, comma separated.")
@_password_file
@ttl_option("until the user is removed")
@end_option("the user")
@format_option()
@where_options(local=True)
def add(
    name: str,
    roles: tuple[str, ...],
    logins: tuple[str, ...],
    password_file: Path | None,
    ttl: timedelta | None,
    expires: datetime | None,
    form: str,
    where: Where,
) -> None:
    """Create a user."""
    from tele.model.api.users import ADD_USER, NewUser
    from tele.model.resources import Metadata, User, UserSpec

    password = _password(password_file)
    traits = {"logins": split_words(logins)} if logins else {}
    try:
        metadata = Metadata(name, expires=end_of(ttl, expires))
        user = User(metadata, UserSpec(split_words(roles), traits))
    except ValueError as error:
        raise InvalidInput(f"{name!r} cannot be the name of a user") from error
    with open_authority(where) as authority:
        made = authority.perform(ADD_USER, NewUser(user, password))
    _show_password(form, name, made.password)


@click.command()
@format_option("names")
@where_options(local=True)
def ls(form: str, where: Where) -> None:
    """List users."""
    from tele.model.api.paging import Paged
    from tele.model.api.users import LIST_USERS

    with open_authority(where) as authority:
        found = pages(lambda after, size: authority.perform(LIST_USERS, Paged(size, after)))
        show_pages(form, found, _COLUMNS, name=lambda u: u["metadata"]["name"])


@click.command()
@click.argument("name")
@_password_file
@format_option()
@where_options(local=True)
def reset(name: str, password_file: Path | None, form: str, where: Where) -> None:
    """Set a new password for a user; ends a lock-out."""
    from tele.model.api.users import RESET_USER, ResetUser

    password = _password(password_file)
    with open_authority(where) as authority:
        made = authority.perform(RESET_USER, ResetUser(name, password))
    _show_password(form, name, made.password)


@click.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, help="Replace the roles; comma separated.")
@click.option("--add-role", "more_roles", multiple=True, help="Roles to add.")
@click.option("--remove-role", "less_roles", multiple=True, help="Roles to remove.")
@click.option("--login", "logins", multiple=True, help="Replace the OS accounts.")
@click.option("--add-login", "more_logins", multiple=True, help="OS accounts to add.")
@click.option("--remove-login", "less_logins", multiple=True, help="OS accounts to remove.")
@ttl_option("as it was")
@end_option("the user")
@click.option("--no-expiry", is_flag=True, help="Remove the expiry.")
@click.option("--force", is_flag=True, help="Even if this leaves no administrator.")
@format_option()
@where_options(local=True)
def update(
    name: str,
    roles: tuple[str, ...],
    more_roles: tuple[str, ...],
    less_roles: tuple[str, ...],
    logins: tuple[str, ...],
    more_logins: tuple[str, ...],
    less_logins: tuple[str, ...],
    ttl: timedelta | None,
    expires: datetime | None,
    no_expiry: bool,
    force: bool,
    form: str,
    where: Where,
) -> None:
    """Change a user's roles, logins and expiry; everything else stays.

    Removals take effect at once, for existing certificates and sessions, too. Additions take effect
    at the next login.
    """
    from attrs import evolve

    from tele.model.api.paging import ByName
    from tele.model.api.users import GET_USER, PUT_USER, PutUser

    end = end_of(ttl, expires)
    if no_expiry and end is not None:
        raise InvalidInput("--no-expiry excludes --ttl and --expires")
    changes = (roles, more_roles, less_roles, logins, more_logins, less_logins)
    if not any(changes) and end is None and not no_expiry:
        raise InvalidInput(
            "nothing to change: give --add-role, --remove-role, --login, --expires ..."
        )
    with open_authority(where) as authority:
        user = authority.perform(GET_USER, ByName(name))
        spec = evolve(
            user.spec, roles=_changed(user.spec.roles, roles, more_roles, less_roles, "role")
        )
        if logins or more_logins or less_logins:
            had = spec.traits.get(_LOGINS, ())
            now_has = _changed(had, logins, more_logins, less_logins, "login")
            spec = evolve(spec, traits={**spec.traits, _LOGINS: now_has})
        metadata = user.metadata
        if end is not None or no_expiry:
            metadata = evolve(metadata, expires=end)
        # It has the revision that was read: a concurrent change is not overwritten.
        changed = evolve(user, metadata=metadata, spec=spec)
        made = authority.perform(PUT_USER, PutUser(name, changed, force))
    if form != "text":
        show_data(form, plain(made))
    else:
        accounts = words(made.spec.traits.get(_LOGINS, ()))
        print_notice(f"{name}: roles {words(made.spec.roles)}; logins {accounts}")


def _changed(
    had: tuple[str, ...],
    all_of_them: tuple[str, ...],
    more: tuple[str, ...],
    less: tuple[str, ...],
    what: str,
) -> tuple[str, ...]:
    """Return the values after ``--WHAT``, ``--add-WHAT`` and ``--remove-WHAT``."""
    values = split_words(all_of_them) or had
    gone = split_words(less)
    for each in gone:
        if each not in values:
            raise InvalidInput(f"the user has no {what} {quoted(each)}; there are: {words(values)}")
    return tuple(each for each in dict.fromkeys((*values, *split_words(more))) if each not in gone)


@click.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Even the last administrator.")
@format_option()
@where_options(local=True)
def rm(name: str, force: bool, form: str, where: Where) -> None:
    """Remove a user, and end their sessions.

    Their certificates and the tokens that they created are revoked. Prints what ended.
    """
    from tele.model.api.users import DELETE_USER, DeleteUser

    with open_authority(where) as authority:
        ended = plain(authority.perform(DELETE_USER, DeleteUser(name, force)))
    if form != "text":
        show_data(form, ended)
        return
    print_notice(f"removed {name}")
    for session in ended["sessions"]:
        print_notice(f"ended: session {session['id']}, {session['login']} at {session['node']}")
    for token in ended["tokens"]:
        print_notice(f"revoked: token {token}")
