"""Do two machines use the identity of one host?

The certificates of a host form a line: each is issued to the holder of the one before it. Two
machines with the same keys make two lines of it, and each has certificates that the other has not.

Invariants:

* A host that did not get an answer asks again with the certificate that it has, and is given
  another one. What it did not get is *lost*: only a copy of the host can use it.
* Nor does a host renew a certificate whose successor was renewed in turn.
* Serial numbers are random, and nothing here depends on a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from attrs import frozen

from tele.auth.repository import Repository
from tele.errors import AccessDenied
from tele.interfaces import Change, Delete, IBackend, Put
from tele.model.codec import decode
from tele.model.identity import HostIdentity, HostRole

PREFIX: Final = "/host-generations/"
LOST: Final = "/lost-host-certificates/"
#: A lost certificate is remembered for so long after its end, also on clocks that differ.
_MARGIN: Final = timedelta(hours=1)


class Copied(AccessDenied):
    """A certificate is used that the host itself cannot have, or would not use any more."""

    def __init__(self, host: HostIdentity) -> None:
        super().__init__(
            f"{host.role.value} {host.name} ({host.host_id}) is known by certificates that only a"
            " copy of it can have: two machines use one identity",
            "copied",
        )


@frozen
class Generation:
    """The last certificate of a host; ``number`` counts those that it was issued.

    ``serial`` is that of the TLS certificate (hexadecimal), ``renewed`` that of the one from which
    it was renewed; nothing after a rejoin. It holds for a member that was last issued one at
    ``issued``: an auth of an older version counts nothing.
    """

    number: int
    serial: str
    renewed: str
    issued: datetime
    expires: datetime


@frozen
class LostCertificate:
    """A certificate that its host has not got."""

    host_id: str
    role: HostRole


class Generations:
    """The lines of the certificates of all hosts. :meth:`start` reads which were lost."""

    def __init__(self, backend: IBackend) -> None:
        self._backend = backend
        self._stored = Repository(backend, PREFIX, Generation)
        self._marks = Repository(backend, LOST, LostCertificate)
        self._lost: dict[str, LostCertificate] = {}
        self._stop_watching: Callable[[], None] | None = None

    async def start(self) -> None:
        """Follow the store: another auth may have answered."""
        self._stop_watching = (await self._backend.watch(LOST, self._changed)).stop
        for entry in await self._marks.list():
            self._lost[entry.name] = entry.value

    def stop(self) -> None:
        """Stop following. May be called twice."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None

    def _changed(self, change: Change) -> None:
        name = change.key.removeprefix(LOST)
        if change.item is None:
            self._lost.pop(name, None)
        else:
            self._lost[name] = decode(LostCertificate, change.item.value)

    def check(self, host: HostIdentity) -> None:
        """Raise :class:`Copied` if a call is made with a certificate that was lost."""
        if self._lost and f"{host.serial:x}" in self._lost:
            raise Copied(host)

    async def renewed(
        self,
        used: HostIdentity | None,
        place: tuple[HostRole, str],
        before: datetime,
        serial: int,
        issued: datetime,
        expires: datetime,
    ) -> tuple[Put, ...]:
        """Return the changes by which a host gets the TLS certificate ``serial``.

        ``used`` is who asks, by the certificate in hand; None: one without, who has proved the key.
        ``before`` is when the member was issued one last, ``issued`` when it is now. The changes
        conflict with others of the same host. Raises :class:`Copied`.
        """
        entry = await self._stored.get(_key(place))
        known = None if entry is None or entry.value.issued != before else entry.value
        hand = "" if used is None or not used.serial else f"{used.serial:x}"
        changes: list[Put] = []
        if used is not None and known is not None and hand and hand != known.serial:
            if hand != known.renewed:
                raise Copied(used)
            mark = LostCertificate(place[1], place[0])
            left = known.expires - issued + _MARGIN
            changes.append(self._marks.put(known.serial, mark, ttl=max(left, _MARGIN)))
        number = 1 if known is None else known.number
        made = Generation(number + 1, f"{serial:x}", hand, issued, expires)
        revision = 0 if entry is None else entry.revision
        left = expires - issued + _MARGIN
        return (*changes, self._stored.put(_key(place), made, revision, left))

    async def number(self, host: HostIdentity) -> int:
        """Return how many certificates a host was issued, as far as they were counted."""
        entry = await self._stored.get(_key(host.place))
        return 0 if entry is None else entry.value.number

    async def forget(self, host: HostIdentity) -> None:
        """Begin a new line: the machine that renews next is the host."""
        lost = [s for s, m in self._lost.items() if (m.role, m.host_id) == host.place]
        changes: list[Put | Delete] = [self._marks.delete(serial) for serial in lost]
        await self._backend.commit(*changes, self._stored.delete(_key(host.place)))


def _key(place: tuple[HostRole, str]) -> str:
    role, host_id = place
    return f"{role.value}/{host_id}"
