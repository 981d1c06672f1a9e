"""Does the identity that a host kept belong to the cluster that its configuration means?

A folder that was copied, or was used in another cluster, holds an identity that works. With it the
host would stay in a cluster that its operator has left.

Invariants:

* Configuration wins over the kept identity. A difference is an error, never a silent choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tele.certs.pins import pin, read_pin
from tele.errors import InvalidInput
from tele.membership.identity import tls_authorities
from tele.membership.store import MemberStore
from tele.model.authority import AuthorityKind
from tele.model.identity import HostRole


def check_kept_identity(
    store: MemberStore, pins: Sequence[str], role: HostRole, data_dir: Path
) -> None:
    """Raise :class:`InvalidInput` unless the identity in ``store`` is of a CA that ``pins`` name.

    Without an identity, or without pins, there is nothing to compare. Keys that will replace the CA
    and that the cluster has published count, too, and so do those that a rotation has replaced: the
    configuration of a host need not be changed for one.
    """
    identity = store.identity
    if identity is None:
        return
    folder = data_dir / "identity" / role.value
    host = identity.host
    kept = f"{folder} holds the identity of {host.role.value} {host.name} in cluster {host.cluster}"
    if host.role is not role:
        raise InvalidInput(f"{kept}: for a {role.value}, remove {folder}, or name another data_dir")
    published = () if store.state is None else store.state.authorities
    every = (*identity.authorities, *published)
    known = {pin(each) for each in tls_authorities(identity.authorities)}
    known |= {pin(each) for each in tls_authorities(published)}
    known |= {p for a in every if a.kind is AuthorityKind.HOST for p in a.retired_pins}
    wanted = {read_pin(each) for each in pins}
    if wanted and not wanted & known:
        raise InvalidInput(
            f"{kept}, whose CA has the pin {' or '.join(sorted(known))}, but ca_pin names"
            f" {' or '.join(sorted(wanted))}: correct ca_pin; or, to join the other cluster with a"
            f" new token, remove {folder}"
        )
