"""``tele tokens add --bot``: a user for a machine, and the token with which it logs in."""

from __future__ import annotations

from datetime import timedelta

from tele.cli.auth_client import Authority, Where, open_authority, typed_options
from tele.cli.lists import split_words
from tele.cli.output import plain, print_notice, print_text, show_data
from tele.cli.users import first_contact
from tele.errors import InvalidInput, NotFound
from tele.model.lifetimes import BOT_TOKEN_LIFETIME

_OF_HOSTS = ("labels", "addresses", "replaces", "host_id")


def add_bot(
    name: str,
    roles: tuple[str, ...],
    logins: tuple[str, ...],
    ttl: timedelta | None,
    max_uses: int,
    form: str,
    where: Where,
) -> None:
    """Make the user ``name`` unless there is one, and print a token that logs it in."""
    from tele.model.api.tokens import ADD_TOKEN, NewToken

    if typed := typed_options(*_OF_HOSTS):
        raise InvalidInput(f"--bot excludes {', '.join(typed)}: these are about hosts")
    given = split_words(roles) if typed_options("roles") else ()
    lasts = BOT_TOKEN_LIFETIME if ttl is None else ttl
    with open_authority(where) as authority:
        _ensure_user(authority, name, given, split_words(logins) if logins else ())
        made = plain(authority.perform(ADD_TOKEN, NewToken((), lasts, max_uses, bot=name)))
    if form != "text":
        show_data(form, {**made, "user": name})
        return
    print_text(made["token"])
    print_notice(
        f"logs in {name}, until {made['expires']}; shown this once\n"
        f"on the machine: write it to a file of mode 0600, and type\n"
        f"tele login {first_contact(where, made['ca_pin'])} --token-file FILE --renew"
    )


def _ensure_user(
    authority: Authority, name: str, roles: tuple[str, ...], logins: tuple[str, ...]
) -> None:
    """Make a user without a password. An existing one is not changed: nothing may be given."""
    from tele.model.api.paging import ByName
    from tele.model.api.users import GET_USER, PUT_USER, PutUser
    from tele.model.resources import Metadata, User, UserSpec

    try:
        metadata = Metadata(name)
    except ValueError as error:
        raise InvalidInput(f"{name!r} cannot be the name of a user") from error
    try:
        authority.perform(GET_USER, ByName(name))
    except NotFound:
        if not roles:
            raise InvalidInput(
                f"there is no user {name} yet: say what it may do with --role, and --login"
            ) from None
        traits = {"logins": logins} if logins else {}
        authority.perform(PUT_USER, PutUser(name, User(metadata, UserSpec(roles, traits))))
        return
    if roles or logins:
        raise InvalidInput(
            f"user {name} exists: tele users update {name} changes its roles and logins;\n"
            "leave out --role and --login for another token"
        )
