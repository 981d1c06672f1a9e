"""Operations on what is revoked, for servers that do not follow the cluster's state."""

from __future__ import annotations

from attrs import frozen

from tele.model.api.operation import Hosts, Nothing, Operation, Users
from tele.model.identity import HostRole


@frozen
class RevocationList:
    """A KRL of OpenSSH: the user certificates that are revoked now, by their serials."""

    data: bytes


GET_KRL = Operation(
    "get_krl",
    "GET",
    "/v1/krl",
    Nothing,
    RevocationList,
    (Users(), Hosts((HostRole.PROXY,))),
    "The user certificates that are locked or revoked, for RevokedKeys of OpenSSH's sshd",
    cost=50,
)
