"""How may a host join, beside by a token? By the methods that auth is configured with.

A join token ``NAME:PROOF`` belongs to the method NAME. Without such a method it is unknown.

Invariants:

* No method is used that is not configured (``auth.join_methods``).
* No token begins like that of a method, whether there is one of that name or not: a method that is
  configured later takes no token away.
* What a method raises, and an answer that is none, refuses the host, with an event. The host does
  not learn what it was: the log has it.
* Only nodes and proxies join, whatever a method answers, and nodes get no labels but such as a node
  may announce.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import Factory, frozen
from twisted.internet.defer import CancelledError, maybeDeferred

from tele.errors import AccessDenied, InvalidInput, TeleError, quoted
from tele.interfaces import IJoinMethod, JoinAttempt
from tele.log import make_logger
from tele.model.api.members import JoinRequest
from tele.model.identity import HostRole
from tele.model.presence import LABEL_LIMIT, LABELS_LIMIT

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)

_log: Final = make_logger(__name__)


def method_of(token: str) -> str:
    """Return the name of the join method that ``token`` is for; nothing if it is a token."""
    name, colon, _ = token.partition(":")
    return name if colon and _NAME.fullmatch(name) else ""


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
        name = method_of(request.token)
        method = self._methods.get(name)
        if method is None:
            return None
        if request.role is HostRole.AUTH:
            raise AccessDenied("hosts join as node or proxy only", "token")
        attempt = JoinAttempt(
            request.token.removeprefix(f"{name}:"), request.name, request.role, request.keys.ssh,
            remote_addr,
        )  # fmt: skip
        try:
            joined = await maybeDeferred(method.check, attempt)
            # A proxy has no labels.
            labels = joined.labels if request.role is HostRole.NODE else {}
            is_fit = _is_fit(labels)
        except (TeleError, CancelledError):
            raise
        except Exception:
            _log.failure("join method failed", method=name, host=request.name)
            raise AccessDenied(
                f"the join method {name} failed; the log of auth says why", "token"
            ) from None
        if not is_fit:
            _log.error("join method gave labels that no node can have", method=name)
            raise AccessDenied(
                f"the join method {name} gave labels that a node cannot have", "token"
            )
        return Admission(dict(labels), method=name)


def _is_fit(labels: Mapping[str, str]) -> bool:
    """Whether a node can have these labels."""
    texts = [text for label in labels.items() for text in label]
    fit = all(isinstance(text, str) and len(text) <= LABEL_LIMIT for text in texts)
    return fit and all(labels) and len(labels) <= LABELS_LIMIT
