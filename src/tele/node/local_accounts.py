"""How does a node have accounts made in the files of its own machine? By its spawner.

Invariant: nothing here waits, and nothing is made in the node's own process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tele.interfaces import IHostUsers
from tele.model.host_user import Ensured, HostUser, Recovered, Released


@implementer(IHostUsers)
@define
class LocalAccounts:
    """Accounts of passwd(5), by useradd(8). ``request`` asks the spawner."""

    _request: Callable[[Mapping[str, Any]], Deferred[Mapping[str, Any]]]

    def recover(self) -> Deferred[Recovered]:
        """See :class:`IHostUsers`."""
        return self._request({"do": "recover"}).addCallback(
            lambda answer: Recovered(tuple(answer["kept"]), tuple(answer["dropped"]))
        )

    def ensure(self, login: str, wanted: HostUser | None) -> Deferred[Ensured]:
        """See :class:`IHostUsers`."""
        asked: dict[str, Any] = {"do": "ensure", "login": login, "make": wanted is not None}
        if wanted is not None:
            asked |= {
                "drop": wanted.drop,
                "groups": list(wanted.groups),
                "sudoers": list(wanted.sudoers),
                "shell": wanted.shell,
                "uid": wanted.uid,
                "gid": wanted.gid,
            }
        return self._request(asked).addCallback(
            lambda answer: Ensured(answer["managed"], answer["made"], answer["changed"])
        )

    def release(self, login: str) -> Deferred[Released]:
        """See :class:`IHostUsers`."""
        return self._request({"do": "release", "login": login}).addCallback(
            lambda answer: Released(answer["removed"], answer["busy"])
        )
