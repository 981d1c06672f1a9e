"""Operations on invitations: codes with which a user sets their first password."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from attrs import field, frozen

from tele.model.api.members import PublicKeys
from tele.model.api.operation import Anyone, Operation
from tele.model.authority import Certificates
from tele.model.lifetimes import USER_LIFETIME

#: The longest time for which an invitation may be valid.
LONGEST_INVITATION: Final = timedelta(days=7)


@frozen
class AcceptInvitation:
    """Sets the user's ``password`` and issues certificates. ``code`` names the user, and is good
    once; neither shows in a repr. ``ttl`` is that of the certificates, cut to what the user's roles
    allow.
    """

    code: str = field(repr=False)
    password: str = field(repr=False)
    keys: PublicKeys
    ttl: timedelta = USER_LIFETIME


ACCEPT_INVITATION = Operation(
    "accept_invitation",
    "POST",
    "/v1/invitation",
    AcceptInvitation,
    Certificates,
    (Anyone(),),
    "Set the first password of a user, and get certificates",
    limit=16 * 1024,
    cost=2,
)
