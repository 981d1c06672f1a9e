"""``tele ca rotate``, and how far a rotation is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import click

from tele.cli.auth_client import Authority, Where, open_authority, where_options
from tele.cli.output import (
    Column,
    ago,
    format_option,
    plain,
    print_notice,
    show_data,
    show_list,
    show_table,
    words,
)
from tele.errors import InvalidInput
from tele.text import duration

#: Written here, too, so that ``--help`` loads no model.
CAS: Final = ("user", "host", "tls-user", "tls-host")
PHASES: Final = ("init", "update_clients", "update_servers", "standby", "rollback")
#: Seconds between two looks of ``tele ca status --watch``.
WATCH_SECONDS: Final = 2.0
#: A host's clock that is off by so many seconds gets a warning.
SKEW_WARNED: Final = 30


def _next(ca: Mapping[str, Any]) -> str:
    shown = [f"automatic at {ca['automatic']}"] if ca.get("automatic") else []
    for each in ca["next"]:
        held = len(each["holds"]) + each["more"]
        shown.append(f"{each['phase']} (held up by {held})" if held else each["phase"])
    return ", ".join(shown)


def _clock(ahead: int | None) -> str:
    """Return how far a host's clock is off, as it reports; nothing if it does not say."""
    if not ahead:
        return "" if ahead is None else "ok"
    return f"{duration(abs(ahead))} {'ahead' if ahead > 0 else 'behind'}"


_COLUMNS = (
    Column("CA", lambda c: c["ca"]),
    Column("PHASE", lambda c: c["phase"]),
    Column("SINCE", lambda c: ago(c["since"]) if c["since"] else ""),
    Column("NEXT", _next),
    Column("SIGNS", lambda c: c["signs"]),
)
_HOSTS = (
    Column("NAME", lambda h: h["name"]),
    Column("ROLE", lambda h: h["role"]),
    Column("STATUS", lambda h: h["status"]),
    Column("EXPIRES", lambda h: h.get("expires") or ""),
    Column("CLOCK", lambda h: _clock(h.get("clock_ahead"))),
    Column("ROTATION", lambda h: "; ".join(h.get("behind", ())) or "up to date"),
)


def show_rotation(form: str, found: Any) -> None:
    """Print the phase of each CA, and what holds the next one up."""
    show_list(form, found.items, _COLUMNS, name=lambda c: c["ca"])
    if form == "text":
        rows = _reasons(plain(found.items))
        if rows:
            print_notice("")
            show_table(("PHASE", "CA", "WHAT", "WHY"), rows)


def _reasons(cas: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return rows of what holds up which phase of which CAs, and of what is only to be known."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for ca in cas:
        for each in ca["next"]:
            for hold in (*each["holds"], *each["notices"]):
                key = each["phase"], hold["what"], hold["reason"]
                found.setdefault(key, []).append(ca["ca"])
    return [(phase, words(of), what, why) for (phase, what, why), of in found.items()]


def show_hosts(form: str, where: Where) -> None:
    """Print what each member has reported: those that are behind first."""
    with open_authority(where) as authority:
        hosts = _look(authority).hosts
    show_list(form, hosts, _HOSTS)
    for host in hosts:
        if abs(host.clock_ahead or 0) >= SKEW_WARNED:
            print_notice(
                f"warning: the clock of {host.name} is {_clock(host.clock_ahead)} of auth's:"
                " certificates may be refused there; set the clock that is wrong"
            )


def _look(authority: Authority) -> Any:
    from tele.model.api.authorities import ROTATION
    from tele.model.api.operation import Nothing

    return authority.perform(ROTATION, Nothing())


def watch_rotation(form: str, where: Where, *, watch: bool) -> None:
    """Print how far a rotation is; with ``watch`` at each change, until none is in progress."""
    shown = None
    while True:
        with open_authority(where) as authority:
            found = _look(authority)
        key = [plain(found.items), plain(found.hosts)]
        for item in key[1]:
            for name in ("status", "expires", "clock_ahead"):
                item.pop(name, None)
        if key != shown:
            show_rotation(form, found)
            sys.stdout.flush()
        shown = key
        if not watch or all(item.phase.value == "standby" for item in found.items):
            return
        time.sleep(WATCH_SECONDS)


@click.command()
@click.option(
    "--type", "cas", type=click.Choice(CAS), multiple=True, help="Which CA.  [default: all]"
)
@click.option("--manual", is_flag=True, help="Begin the phase given by --phase.")
@click.option("--grace", help="How long an automatic rotation takes, such as 96h.  [default: 48h]")
@click.option("--phase", type=click.Choice(PHASES), help="The phase to begin.")
@click.option("--rollback", is_flag=True, help="The same as --manual --phase rollback.")
@click.option("--force", is_flag=True, help="Begin it although something holds it up.")
@click.option(
    "--compromised",
    is_flag=True,
    help="The old keys may have been stolen: hosts that were away do not trust the new key of"
    " tls-host by what the old one says of it; they join again.",
)
@click.option("--yes", is_flag=True, help="With --force: do not ask.")
@format_option("names")
@where_options(local=True)
def rotate(
    cas: tuple[str, ...],
    manual: bool,
    grace: str | None,
    phase: str | None,
    rollback: bool,
    force: bool,
    compromised: bool,
    yes: bool,
    form: str,
    where: Where,
) -> None:
    """Replace the keys of the cluster's CAs, phase by phase.

    The phases are init, update_clients, update_servers and standby. Auth begins them over the
    grace time; with --manual --phase each is begun by a call of its own. A phase begins when all
    hosts that are online have what the one before needs of them; tele ca status --rotation shows
    who has not. An automatic rotation that is held up for long goes on by hand. With --rollback,
    and then --manual --phase standby, the old keys stay.
    """
    from tele.cli.trust import refresh_own
    from tele.model.api.authorities import ROTATE, Rotate
    from tele.model.rotation import Phase, RotatingCa

    if rollback and phase not in (None, "rollback"):
        raise click.UsageError("--rollback is a phase of its own: leave --phase out")
    wanted = "rollback" if rollback else phase or "init"
    by_hand = manual or rollback
    if (by_hand and grace is not None) or (manual and phase is None):
        raise click.UsageError("give --manual with --phase and without --grace")
    if phase is not None and not by_hand:
        raise click.UsageError(f"give --manual with --phase {phase}; without, auth begins phases")
    request = Rotate(
        Phase(wanted),
        tuple(RotatingCa(each) for each in cas),
        force,
        None if by_hand else _length(grace or "48h"),
        compromised,
    )
    with open_authority(where) as authority:
        if force:
            _confirm(_look(authority), wanted, cas, ask=not yes)
        found = authority.perform(ROTATE, request)
    if where.config is None:
        refresh_own(where)
    if form in ("text", "names"):
        show_rotation(form, found)
    else:
        show_data(form, plain(found.items))


def _length(text: str) -> timedelta:
    from tele.model.scalars import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--grace") from None


def _confirm(found: Any, wanted: str, cas: Sequence[str], *, ask: bool) -> None:
    """Say what a phase costs that is held up; ask on a terminal."""
    lines = list(dict.fromkeys(_costs(plain(found.items), wanted, cas)))
    if not lines:
        return
    print_notice(f"phase {wanted} is held up; if it begins now:")
    for line in lines:
        print_notice(f"  {line}")
    if ask and sys.stdin.isatty() and not click.confirm("Begin it?", err=True):
        raise InvalidInput("nothing was changed")


def _costs(found: Sequence[Mapping[str, Any]], wanted: str, cas: Sequence[str]) -> Iterator[str]:
    for ca in found:
        for each in ca["next"] if not cas or ca["ca"] in cas else ():
            if each["phase"] != wanted:
                continue
            for hold in each["holds"]:
                yield f"{hold['what']}: {hold['cost']}"
            if each["more"]:
                yield f"and so do {each['more']} more"
