"""``tele mfa`` and ``tele users mfa``: second factors, one's own and those of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.home import Home
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import read_password
from tele.cli.output import Column, format_option, plain, print_notice, show_data, show_pages
from tele.cli.second_factors import otp_option, set_up, show_codes, with_factor
from tele.errors import NotLoggedIn

F = TypeVar("F", bound=Callable[..., object])

_COLUMNS = (
    Column("NAME", lambda d: d["name"]),
    Column("TYPE", lambda d: d["type"]),
    Column("ADDED", lambda d: d["added"]),
    Column("LAST USED", lambda d: d["last_used"] or ""),
    Column("ID", lambda d: d["id"]),
)

_password_file = click.option(
    "--password-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file whose first line is your password; - is standard input.",
)


@click.group(
    cls=LazyGroup,
    lazy={
        "add": Lazy("tele.cli.mfa:add", "Set up an authenticator app."),
        "ls": Lazy("tele.cli.mfa:ls", "List your second factors."),
        "rm": Lazy("tele.cli.mfa:rm", "Remove one of your second factors."),
        "codes": Lazy("tele.cli.mfa:codes", "Make new recovery codes."),
    },
)
def mfa() -> None:
    """Manage your second factors."""


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": Lazy("tele.cli.mfa:ls_of", "List the second factors of a user."),
        "rm": Lazy("tele.cli.mfa:rm_of", "Remove a second factor of a user."),
        "reset": Lazy("tele.cli.mfa:reset_of", "Remove all second factors of a user."),
    },
)
def users_mfa() -> None:
    """Manage second factors of users."""


def _read_password(file: Path | None) -> str:
    if file is not None:
        return read_password(file)
    password: str = click.prompt("Your password", hide_input=True, err=True)
    return password


@click.command()
@click.option("--name", default="phone", show_default=True, help="A name for the device.")
@_password_file
@otp_option()
@format_option()
@where_options()
def add(name: str, password_file: Path | None, otp: str | None, form: str, where: Where) -> None:
    """Set up an authenticator app (TOTP).

    Shows a QR code for the app, and asks for the code that the app shows then. With the first
    device, prints recovery codes.
    """
    from tele.model.api.mfa import ADD_MFA, AddMfa

    profile = Home.find().chosen(where.cluster, where.proxy, where.user)
    if profile is None:
        raise NotLoggedIn("not logged in: type tele login")
    with open_authority(where) as authority:
        password = _read_password(password_file)
        device = set_up(profile.cluster, profile.user, name)
        made = with_factor(
            lambda factor: authority.perform(ADD_MFA, AddMfa(device, password, factor)), otp
        )
    if form != "text":
        show_data(form, plain(made))
        return
    print_notice(f"added {made.device.name}: from now on logins ask for its code")
    if made.recovery_codes:
        show_codes(made.recovery_codes)


@click.command()
@format_option("names")
@where_options()
def ls(form: str, where: Where) -> None:
    """List your second factors, and how many recovery codes are left."""
    _list("", form, where)


def _list(user: str, form: str, where: Where) -> None:
    from tele.model.api.mfa import GET_MFA, GetMfa

    with open_authority(where) as authority:
        found = authority.perform(GET_MFA, GetMfa(user))
    if form in ("json", "yaml"):
        show_data(form, plain(found))
        return
    show_pages(form, [plain(found.devices)], _COLUMNS, name=lambda d: d["name"])
    print_notice(f"recovery codes left: {found.recovery_codes}; this cluster: {found.mode}")


@click.command()
@click.argument("device")
@_password_file
@otp_option()
@where_options()
def rm(device: str, password_file: Path | None, otp: str | None, where: Where) -> None:
    """Remove one of your second factors, by its name or id.

    With the last one, recovery codes are void, too.
    """
    from tele.model.api.mfa import REMOVE_MFA, RemoveMfa

    with open_authority(where) as authority:
        password = _read_password(password_file)
        with_factor(
            lambda factor: authority.perform(REMOVE_MFA, RemoveMfa(device, password, factor)), otp
        )
    print_notice(f"removed {device}")


@click.command()
@_password_file
@otp_option()
@format_option()
@where_options()
def codes(password_file: Path | None, otp: str | None, form: str, where: Where) -> None:
    """Make new recovery codes; earlier ones are void."""
    from tele.model.api.mfa import NEW_RECOVERY_CODES, NewRecoveryCodes

    with open_authority(where) as authority:
        password = _read_password(password_file)
        made = with_factor(
            lambda factor: authority.perform(
                NEW_RECOVERY_CODES, NewRecoveryCodes(password, factor)
            ),
            otp,
        )
    if form != "text":
        show_data(form, plain(made))
    else:
        show_codes(made.recovery_codes)


@click.command("ls")
@click.argument("name")
@format_option("names")
@where_options(local=True)
def ls_of(name: str, form: str, where: Where) -> None:
    """List the second factors of a user."""
    _list(name, form, where)


@click.command("rm")
@click.argument("name")
@click.argument("device")
@format_option()
@where_options(local=True)
def rm_of(name: str, device: str, form: str, where: Where) -> None:
    """Remove a second factor of a user, by its name or id."""
    _reset(name, device, form, where)


@click.command("reset")
@click.argument("name")
@format_option()
@where_options(local=True)
def reset_of(name: str, form: str, where: Where) -> None:
    """Remove all second factors of a user, and their recovery codes.

    Where the cluster requires one, they need an invitation then: tele users reset NAME --invite.
    """
    _reset(name, "", form, where)


def _reset(name: str, device: str, form: str, where: Where) -> None:
    from tele.model.api.mfa import RESET_MFA, ResetMfa

    with open_authority(where) as authority:
        left: Any = authority.perform(RESET_MFA, ResetMfa(name, device))
    if form != "text":
        show_data(form, plain(left))
        return
    names = ", ".join(each.name for each in left.devices) or "none"
    print_notice(f"second factors of {name}: {names}")
    if left.mode == "required" and not left.devices:
        print_notice(f"{name} needs an invitation to log in: tele users reset {name} --invite")
