"""Which numbers do the CAs of a cluster have? When they expire, and how far a rotation is."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from tele.auth.authorities import Authorities
from tele.measures import catalogue
from tele.measures.metric import Sample
from tele.model.authority import AuthorityKind
from tele.model.rotation import Phase, RotatingCa


@frozen
class AuthorityNumbers:
    """The numbers of ``authorities``."""

    authorities: Authorities

    def samples(self) -> Iterator[Sample]:
        """See :class:`tele.measures.metric.Measured`."""
        for kind in AuthorityKind:
            expires = self.authorities[kind].status.expires
            yield catalogue.CERTIFICATE.at(expires.timestamp(), f"{kind.value}_ca")
        for ca in RotatingCa:
            rotation = self.authorities[ca.kind].stored.rotation(ca)
            current = Phase.STANDBY if rotation is None else rotation.phase
            for phase in Phase:
                yield catalogue.PHASE.at(phase is current, ca.value, phase.value)
