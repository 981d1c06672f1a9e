"""Operations on invitations: codes with which a user sets their first password."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from attrs import field, frozen

from tele.model.api.members import PublicKeys
from tele.model.api.operation import Anyone, Operation
from tele.model.authority import Certificates
from tele.model.bounds import OMITTED
from tele.model.lifetimes import USER_LIFETIME
from tele.model.second_factors import NewDevice, SecondFactor

#: The longest time for which an invitation may be valid.
LONGEST_INVITATION: Final = timedelta(days=7)


@frozen
class AcceptInvitation:
    """Sets the user's ``password`` and issues certificates. ``code`` names the user, and is good
    once; neither shows in a repr. ``ttl`` is that of the certificates, cut to what the user's roles
    allow. A user who has a second factor shows it (``second_factor``); one who has none may set up
    a ``device``, and has to where the cluster requires one.
    """

    code: str = field(repr=False)
    password: str = field(repr=False)
    keys: PublicKeys
    ttl: timedelta = USER_LIFETIME
    second_factor: SecondFactor | None = field(default=None, metadata=OMITTED)
    device: NewDevice | None = field(default=None, metadata=OMITTED)


@frozen
class Accepted(Certificates):
    """Certificates; and recovery codes, this once, if a second factor was set up."""

    recovery_codes: tuple[str, ...] = field(default=(), repr=False, metadata=OMITTED)


ACCEPT_INVITATION = Operation(
    "accept_invitation",
    "POST",
    "/v1/invitation",
    AcceptInvitation,
    Accepted,
    (Anyone(),),
    "Set the first password of a user, and get certificates",
    limit=16 * 1024,
    cost=2,
)
