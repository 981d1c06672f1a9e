"""``tele tokens``: manage join tokens."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import click

from tele.cli.auth_client import Where, open_authority, where_options
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import not_empty, pages, split_pairs, split_words, ttl_option
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
from tele.model.lifetimes import BOT_TOKEN_LIFETIME, TOKEN_LIFETIME
from tele.model.scalars import format_duration


def _permits(token: Mapping[str, Any]) -> str:
    """What a token permits a host beside joining."""
    permits = [f"replace={name}" for name in token["replaces"]]
    permits += [f"address={address}" for address in token["addresses"]]
    if token["host_id"]:
        permits.append(f"host-id={token['host_id']}")
    return ",".join(permits)


_COLUMNS = (
    Column("ID", lambda t: t["id"]),
    Column("FOR", lambda t: t.get("bot") or words(t["roles"])),
    Column("EXPIRES", lambda t: t["expires"]),
    Column("USES", lambda t: f"{t['uses']}/{t['max_uses']}" if t["max_uses"] else t["uses"]),
    Column("LABELS", lambda t: words(t["labels"])),
    Column("PERMITS", _permits),
    Column("BY", lambda t: t["created_by"]),
)


@click.group(
    cls=LazyGroup,
    lazy={
        "add": Lazy("tele.cli.tokens:add", "Create a token."),
        "ls": Lazy("tele.cli.tokens:ls", "List tokens, without their secrets."),
        "rm": Lazy("tele.cli.tokens:rm", "Revoke a token."),
    },
)
def tokens() -> None:
    """Manage tokens of hosts and of machine identities."""


@click.command()
@click.option(
    "--role",
    "roles",
    multiple=True,
    default=("node",),
    show_default=True,
    help="node, proxy; with --bot the roles of a new user.",
)
@click.option(
    "--bot",
    metavar="NAME",
    help="A token with which a machine logs in as this user, who is made if need be;"
    f" --ttl is {format_duration(BOT_TOKEN_LIFETIME)} then.",
)
@click.option("--login", "logins", multiple=True, help="With --bot: OS accounts of a new user.")
@ttl_option(TOKEN_LIFETIME)
@click.option(
    "--max-uses", type=click.IntRange(0), default=0, help="How many joins or logins; 0: no limit."
)
@click.option("--label", "labels", multiple=True, help="A label K=V of hosts with this token.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    help="A DNS name or IP address for the host's certificates.",
)
@click.option(
    "--replace",
    "replaces",
    multiple=True,
    metavar="NAME",
    help="A name that the host may take over from an offline host.",
)
@click.option(
    "--host-id", callback=not_empty, help="Only for the host that had this id; it gets it back."
)
@format_option()
@where_options(local=True)
def add(
    roles: tuple[str, ...],
    bot: str | None,
    logins: tuple[str, ...],
    ttl: timedelta | None,
    max_uses: int,
    labels: tuple[str, ...],
    addresses: tuple[str, ...],
    replaces: tuple[str, ...],
    host_id: str | None,
    form: str,
    where: Where,
) -> None:
    """Create a token with which hosts can join, or a machine can log in (--bot)."""
    if bot is not None:
        from tele.cli.bots import add_bot

        add_bot(bot, roles, logins, ttl, max_uses, form, where)
        return
    if logins:
        raise InvalidInput("--login needs --bot: hosts have no logins")
    from tele.model.api.tokens import ADD_TOKEN, NewToken
    from tele.model.identity import HostRole

    known = {role.value: role for role in HostRole}
    wanted = split_words(roles)
    for role in wanted:
        if role not in known:
            raise InvalidInput(f"unknown role {quoted(role)}; there are {', '.join(known)}")
    request = NewToken(
        tuple(known[r] for r in wanted),
        TOKEN_LIFETIME if ttl is None else ttl,
        max_uses,
        split_pairs(labels),
        addresses=split_words(addresses),
        replaces=split_words(replaces),
        host_id=host_id or "",
    )
    with open_authority(where) as authority:
        made = plain(authority.perform(ADD_TOKEN, request))
    if form != "text":
        show_data(form, made)
        return
    print_text(made["token"])
    print_notice(
        f"for {words(made['roles'])}, until {made['expires']}; shown this once\n"
        f"on the host: write it to a file of mode 0600, and set token_file to its path, and\n"
        f"ca_pin: {_pins(made)}"
    )


def _pins(made: Mapping[str, Any]) -> str:
    """Return the value of ``ca_pin``: a list while the CA rotates."""
    pins = [f'"{each}"' for each in (made["ca_pin"], *made.get("other_ca_pins", ()))]
    return pins[0] if len(pins) == 1 else f"[{', '.join(pins)}]"


@click.command()
@format_option("names")
@where_options(local=True)
def ls(form: str, where: Where) -> None:
    """List tokens, without their secrets."""
    from tele.model.api.paging import Paged
    from tele.model.api.tokens import LIST_TOKENS

    with open_authority(where) as authority:
        found = pages(lambda after, size: authority.perform(LIST_TOKENS, Paged(size, after)))
        show_pages(form, found, _COLUMNS, name=lambda t: t["id"])


@click.command()
@click.argument("token_id", metavar="ID")
@where_options(local=True)
def rm(token_id: str, where: Where) -> None:
    """Revoke a token."""
    from tele.model.api.paging import ById
    from tele.model.api.tokens import DELETE_TOKEN

    with open_authority(where) as authority:
        authority.perform(DELETE_TOKEN, ById(token_id))
