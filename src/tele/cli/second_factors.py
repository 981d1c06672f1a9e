"""How does a user show or set up a second factor on a terminal?

Invariant: the secret of an authenticator app is made here, shown on the terminal only, and stored
nowhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from tele.cli.output import print_notice, print_text
from tele.errors import SecondFactorNeeded, SecondFactorUnset

if TYPE_CHECKING:
    from tele.cli.auth_client import Authority
    from tele.model.api.invitations import Accepted, AcceptInvitation
    from tele.model.authority import Certificates
    from tele.model.second_factors import NewDevice, SecondFactor

#: What is drawn for two modules, one above the other, that are light or not.
_BLOCKS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


def otp_option() -> Callable[[F], F]:
    """Give a command ``--otp``."""
    return click.option(
        "--otp",
        envvar="TELE_OTP",
        metavar="CODE",
        help="The code of your authenticator app, or a recovery code."
        "  [env: TELE_OTP; default: asked for]",
    )


def with_factor(perform: Callable[[SecondFactor | None], T], otp: str | None) -> T:
    """Return what ``perform`` does with the second factor ``otp``; it is asked for if need be."""
    from tele.model.second_factors import SecondFactor

    try:
        return perform(None if otp is None else SecondFactor(otp))
    except SecondFactorNeeded:
        if not sys.stdin.isatty():
            raise SecondFactorNeeded(
                "a second factor is needed: give --otp CODE or TELE_OTP, the code of the"
                " authenticator app or a recovery code"
            ) from None
        code: str = click.prompt("Code of your authenticator app, or a recovery code", err=True)
        return perform(SecondFactor(code))


def accept(
    authority: Authority, request: AcceptInvitation, cluster: str, user: str, otp: str | None
) -> tuple[Certificates, tuple[str, ...]]:
    """Accept an invitation; returns the certificates, and recovery codes if a device was set up.

    Where the cluster requires a second factor, an authenticator app is set up.
    """
    from attrs import evolve

    from tele.model.api.invitations import ACCEPT_INVITATION

    def perform(factor: SecondFactor | None) -> Accepted:
        return authority.perform(ACCEPT_INVITATION, evolve(request, second_factor=factor))

    try:
        made = with_factor(perform, otp)
    except SecondFactorUnset:
        device = set_up(cluster, user, "phone")
        made = authority.perform(ACCEPT_INVITATION, evolve(request, device=device))
    return made, made.recovery_codes


def set_up(cluster: str, user: str, name: str) -> NewDevice:
    """Show a new secret to an authenticator app, and return it with the code that the app shows."""
    from tele.model.second_factors import NewDevice, new_secret, otpauth_uri

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SecondFactorUnset("an authenticator app is set up on a terminal, or in a browser")
    secret = new_secret(os.urandom)
    print_notice("Scan this with an authenticator app:")
    print_notice(qr_code(otpauth_uri(cluster, user, secret)))
    print_notice(f"or enter the key there: {_grouped(secret)}")
    code: str = click.prompt("Code that the app shows now", err=True)
    return NewDevice(name, secret, code)


def qr_code(text: str) -> str:
    """Return a QR code of ``text`` in half blocks, two modules high each.

    What is light is drawn, as terminals are dark; apps read it the other way round, too.
    """
    import segno

    code = segno.make(text, error="m", micro=False)
    rows = [[not dark for dark in row] for row in code.matrix_iter(border=2)]
    rows.append([True] * len(rows[0]))  # their number is odd
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return "\n".join(
        "".join(_BLOCKS[above, below] for above, below in zip(*pair, strict=True)) for pair in pairs
    )


def _grouped(secret: str) -> str:
    return " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))


def show_codes(codes: Sequence[str]) -> None:
    """Print recovery codes: they are data."""
    print_notice(
        "recovery codes, each good once in place of the app; shown this once, keep them safe:"
    )
    for each in codes:
        print_text(each)
