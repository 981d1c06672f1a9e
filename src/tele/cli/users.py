"""Who may use the cluster?"""

from __future__ import annotations

from pathlib import Path

import click

from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import all_pages, read_password, split_words
from tele.cli.output import Column, format_option, print_text, say, show_data, show_list, words
from tele.cli.session import Where, open_authority, where_options
from tele.errors import InvalidInput

_COLUMNS = (
    Column("NAME", lambda u: u["metadata"]["name"]),
    Column("ROLES", lambda u: words(u["spec"]["roles"])),
    Column("LOGINS", lambda u: words(u["spec"]["traits"].get("logins", ()))),
)


@click.group(
    cls=LazyGroup,
    lazy={
        "add": Lazy("tele.cli.users:add", "Create a user."),
        "ls": Lazy("tele.cli.users:ls", "List users."),
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
@format_option()
@where_options(local=True)
def add(
    name: str,
    roles: tuple[str, ...],
    logins: tuple[str, ...],
    password_file: Path | None,
    form: str,
    where: Where,
) -> None:
    """Create a user."""
    from tele.model.api.people import NewUser
    from tele.model.api.table import ADD_USER
    from tele.model.resources import Metadata, User, UserSpec

    password = _password(password_file)
    traits = {"logins": split_words(logins)} if logins else {}
    try:
        user = User(Metadata(name), UserSpec(split_words(roles), traits))
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
    from tele.model.api.people import Paged
    from tele.model.api.table import LIST_USERS

    with open_authority(where) as authority:
        found = all_pages(lambda after: authority.perform(LIST_USERS, Paged(after=after)))
    show_list(form, found, _COLUMNS, name=lambda u: u["metadata"]["name"])


@click.command()
@click.argument("name")
@_password_file
@format_option()
@where_options(local=True)
def reset(name: str, password_file: Path | None, form: str, where: Where) -> None:
    """Give a user a new password; ends a lock-out."""
    from tele.model.api.people import ResetUser
    from tele.model.api.table import RESET_USER

    password = _password(password_file)
    with open_authority(where) as authority:
        made = authority.perform(RESET_USER, ResetUser(name, password))
    _show_password(form, name, made.password)


@click.command()
@click.argument("name")
@where_options(local=True)
def rm(name: str, where: Where) -> None:
    """Remove a user."""
    from tele.model.api.members import ByName
    from tele.model.api.table import DELETE_USER

    with open_authority(where) as authority:
        authority.perform(DELETE_USER, ByName(name))
