"""``tele users``: manage users."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.home import Home, Profile
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
from tele.model.lifetimes import INVITATION_LIFETIME
from tele.model.scalars import format_duration, parse_duration

if TYPE_CHECKING:
    from tele.model.api.users import UserPassword

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
        "mfa": Lazy("tele.cli.mfa:users_mfa", "Manage second factors of users."),
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


_invite = click.option(
    "--invite", is_flag=True, help="Print a one-time invitation in place of a password."
)


def _read_ttl(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_invite_ttl = click.option(
    "--invite-ttl",
    metavar="TIME",
    callback=_read_ttl,
    help="How long the invitation is valid; with --invite."
    f"  [default: {format_duration(INVITATION_LIFETIME)}]",
)


def _invited(invite: bool, ttl: timedelta | None, file: Path | None) -> timedelta | None:
    """Return how long an invitation is valid; None if there is none."""
    if invite and file is not None:
        raise InvalidInput("--invite and --password-file exclude each other; give one of them")
    if ttl is not None and not invite:
        raise InvalidInput("--invite-ttl needs --invite")
    if not invite:
        return None
    return INVITATION_LIFETIME if ttl is None else ttl


def _show_password(form: str, made: UserPassword, where: Where) -> None:
    from tele.model.codec import format_time

    name, expires = made.user.metadata.name, made.invitation_expires
    if form != "text":
        shown: dict[str, str | None] = {"name": name, "password": made.password or None}
        if expires is not None:
            shown |= {"invitation": made.invitation, "invitation_expires": format_time(expires)}
        show_data(form, shown)
    elif expires is not None:
        print_notice(
            f"the invitation of {name}, good once, until {format_time(expires)}; shown this once"
        )
        print_text(made.invitation)
        print_notice(
            f"{name} types: tele login {first_contact(where)} --invite\n"
            f"and enters it there, or in a browser: {_page(where)}"
        )
    elif made.password:
        print_notice(f"the password of {name}, shown this once:")
        print_text(made.password)


def _profile(where: Where) -> Profile | None:
    if where.config is not None:
        return None
    return Home.find().chosen(where.cluster, where.proxy, where.user)


def _page(where: Where) -> str:
    """Return the address of the page where an invitation is entered."""
    chosen = _profile(where)
    return f"https://{'HOST:PORT' if chosen is None else chosen.proxy}/#/invitation"


def first_contact(where: Where, pin: str = "PIN") -> str:
    """Return the options of a first ``tele login`` to this cluster; ``pin`` is that of its CA."""
    chosen = _profile(where)
    if chosen is None or not chosen.ca_pins:
        return f"--proxy HOST:PORT --ca-pin {pin}"
    return f"--proxy {chosen.proxy} --ca-pin {chosen.ca_pins[0]}"


@click.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, default=("access",), show_default=True)
@click.option("--login", "logins", multiple=True, help="OS accounts, comma separated.")
@click.option(
    "--password", "generate", is_flag=True, help="Print a generated password, no invitation."
)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file whose first line is the password; - is standard input. There is no invitation.",
)
@click.option("--invite", is_flag=True, help="Print a one-time invitation: the default.")
@click.option(
    "--invite-ttl",
    metavar="TIME",
    callback=_read_ttl,
    help=f"How long the invitation is valid.  [default: {format_duration(INVITATION_LIFETIME)}]",
)
@ttl_option("until the user is removed")
@end_option("the user")
@format_option()
@where_options(local=True)
def add(
    name: str,
    roles: tuple[str, ...],
    logins: tuple[str, ...],
    generate: bool,
    password_file: Path | None,
    invite: bool,
    invite_ttl: timedelta | None,
    ttl: timedelta | None,
    expires: datetime | None,
    form: str,
    where: Where,
) -> None:
    """Create a user, and print a one-time invitation.

    With the invitation the user sets a password and is logged in: tele login --invite.
    """
    from tele.model.api.users import ADD_USER, NewUser
    from tele.model.resources import Metadata, User, UserSpec

    if generate and password_file is not None:
        raise InvalidInput("--password and --password-file exclude each other; give one of them")
    if generate and invite:
        raise InvalidInput("--invite and --password exclude each other; give one of them")
    by_password = generate or password_file is not None
    invited = _invited(invite or not by_password, invite_ttl, password_file)
    password = _password(password_file)
    traits = {"logins": split_words(logins)} if logins else {}
    try:
        metadata = Metadata(name, expires=end_of(ttl, expires))
        user = User(metadata, UserSpec(split_words(roles), traits))
    except ValueError as error:
        raise InvalidInput(f"{name!r} cannot be the name of a user") from error
    with open_authority(where) as authority:
        made = authority.perform(ADD_USER, NewUser(user, password, invited))
    _show_password(form, made, where)


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
@_invite
@_invite_ttl
@format_option()
@where_options(local=True)
def reset(
    name: str,
    password_file: Path | None,
    invite: bool,
    invite_ttl: timedelta | None,
    form: str,
    where: Where,
) -> None:
    """Set a new password for a user, or make an invitation; ends a lock-out.

    The old password is void at once.
    """
    from tele.model.api.users import RESET_USER, ResetUser

    invited = _invited(invite, invite_ttl, password_file)
    password = _password(password_file)
    with open_authority(where) as authority:
        made = authority.perform(RESET_USER, ResetUser(name, password, invited))
    _show_password(form, made, where)


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
