"""Who may use the cluster?"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import click

from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import end_of, end_option, pages, read_password, split_words, ttl_option
from tele.cli.output import (
    Column,
    format_option,
    plain,
    print_text,
    say,
    show_data,
    show_pages,
    words,
)
from tele.cli.session import Where, open_authority, where_options
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
        "update": Lazy("tele.cli.users:update", "Change a user's roles, logins and end."),
        "reset": Lazy("tele.cli.users:reset", "Give a user a new password; ends a lock-out."),
        "rm": Lazy("tele.cli.users:rm", "Remove a user."),
    },
)
def users() -> None:
    """Administer users."""


def _password(file: Path | None) -> str:
    """Return the first line of ``file``; empty means that auth makes one."""
    return "" if file is None else read_password(file)


_password_file = click.option(
    "--password-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file whose first line is the password; - is standard input. Otherwise one is made.",
)


def _show_password(form: str, name: str, password: str) -> None:
    if form != "text":
        show_data(form, {"name": name, "password": password or None})
    elif password:
        say(f"the password of {name}, shown this once:")
        print_text(password)


@click.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, default=("access",), show_default=True)
@click.option("--login", "logins", multiple=True, help="OS accounts; several with commas.")
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
    """Give a user a new password; ends a lock-out."""
    from tele.model.api.users import RESET_USER, ResetUser

    password = _password(password_file)
    with open_authority(where) as authority:
        made = authority.perform(RESET_USER, ResetUser(name, password))
    _show_password(form, name, made.password)


@click.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, help="The roles from now on; several with commas.")
@click.option("--add-role", "more_roles", multiple=True, help="Roles that the user gets.")
@click.option("--remove-role", "less_roles", multiple=True, help="Roles that the user loses.")
@click.option("--login", "logins", multiple=True, help="The OS accounts from now on.")
@click.option("--add-login", "more_logins", multiple=True, help="OS accounts that the user gets.")
@click.option("--remove-login", "less_logins", multiple=True, help="OS accounts to take away.")
@ttl_option("as it was")
@end_option("the user")
@click.option("--no-expiry", is_flag=True, help="The user has no end from now on.")
@click.option("--force", is_flag=True, help="Also if nobody can administer the cluster then.")
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
    """Change a user's roles, logins and end; what is not named stays.

    What is taken away is gone at once, also for certificates and sessions that the user has.
    What is added counts from the next log-in.
    """
    from attrs import evolve

    from tele.model.api.paging import ByName
    from tele.model.api.users import GET_USER, PUT_USER, PutUser

    end = end_of(ttl, expires)
    if no_expiry and end is not None:
        raise InvalidInput("--no-expiry and an end contradict each other")
    changes = (roles, more_roles, less_roles, logins, more_logins, less_logins)
    if not any(changes) and end is None and not no_expiry:
        raise InvalidInput("say what to change: --add-role, --remove-role, --login, --expires ...")
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
        # It has the revision that was read: what somebody else changed meanwhile is not undone.
        changed = evolve(user, metadata=metadata, spec=spec)
        made = authority.perform(PUT_USER, PutUser(name, changed, force))
    if form != "text":
        show_data(form, plain(made))
    else:
        accounts = words(made.spec.traits.get(_LOGINS, ()))
        say(f"{name}: roles {words(made.spec.roles)}; logins {accounts}")


def _changed(
    had: tuple[str, ...],
    all_of_them: tuple[str, ...],
    more: tuple[str, ...],
    less: tuple[str, ...],
    what: str,
) -> tuple[str, ...]:
    """Return what there is after ``--WHAT``, ``--add-WHAT`` and ``--remove-WHAT``."""
    kept = split_words(all_of_them) or had
    gone = split_words(less)
    for each in gone:
        if each not in kept:
            raise InvalidInput(f"the user has no {what} {quoted(each)}; there are: {words(kept)}")
    return tuple(each for each in dict.fromkeys((*kept, *split_words(more))) if each not in gone)


@click.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also the last administrator.")
@format_option()
@where_options(local=True)
def rm(name: str, force: bool, form: str, where: Where) -> None:
    """Remove a user, and end what they have running.

    Their certificates are worth nothing from then on, and the tokens that they made are
    revoked. Says what ended.
    """
    from tele.model.api.users import DELETE_USER, DeleteUser

    with open_authority(where) as authority:
        ended = plain(authority.perform(DELETE_USER, DeleteUser(name, force)))
    if form != "text":
        show_data(form, ended)
        return
    say(f"{name} is removed")
    for session in ended["sessions"]:
        say(f"ended: session {session['id']}, {session['login']} at {session['node']}")
    for token in ended["tokens"]:
        say(f"revoked: token {token}")
