"""How may a host join, beside by a token? By the methods that auth is configured with.

A join token ``NAME:PROOF`` belongs to the method NAME. Without such a method it is a token as any
other.

Invariants:

* No method is used that is not configured (``auth.join_methods``).
* Only nodes and proxies join, whatever a method answers, and nodes get no labels but such as a node
  may announce.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import Factory, frozen

from tele.errors import AccessDenied, InvalidInput, TeleError, quoted
from tele.interfaces import IJoinMethod, JoinAttempt
from tele.model.api.members import JoinRequest
from tele.model.identity import HostRole
from tele.model.presence import LABEL_LIMIT, LABELS_LIMIT

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)


@frozen
class Admission:
    """What a token, or a join method, gives to the host that joins with it."""

    labels: Mapping[str, str] = Factory(dict)
    addresses: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    host_id: str = ""
    method: str = "token"


class JoinMethods:
    """The methods of a cluster, by name. Raises :class:`InvalidInput` for two of one name."""

    def __init__(self, methods: Iterable[IJoinMethod]) -> None:
        self._methods: dict[str, IJoinMethod] = {}
        for method in methods:
            name = str(method.name)
            if not _NAME.fullmatch(name) or name in self._methods:
                raise InvalidInput(f"join method {quoted(name)}: no valid name, or given twice")
            self._methods[name] = method

    async def check(self, request: JoinRequest, remote_addr: str) -> Admission | None:
        """Return what the method of a request gives; None if the request is for no method."""
        name, colon, proof = request.token.partition(":")
        method = self._methods.get(name) if colon else None
        if method is None:
            return None
        if request.role is HostRole.AUTH:
            raise AccessDenied("hosts join as node or proxy only", "token")
        joined = await method.check(
            JoinAttempt(proof, request.name, request.role, request.keys.ssh, remote_addr)
        )
        labels = _checked(name, joined.labels) if request.role is HostRole.NODE else {}
        return Admission(labels, method=name)


def _checked(method: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that a method gives. Raises :class:`TeleError` if no node can have them."""
    texts = [text for label in labels.items() for text in label]
    fit = all(isinstance(text, str) and len(text) <= LABEL_LIMIT for text in texts)
    if not fit or not all(labels) or len(labels) > LABELS_LIMIT:
        raise TeleError(f"join method {quoted(method)} gave labels that a node cannot have")
    return dict(labels)
