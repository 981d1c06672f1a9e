"""What does a user certificate withhold from whatever the roles allow?

:func:`tele.rbac.decision.decide` intersects it with the roles' options, for every server that users
log in to. ``source-address`` is not part of it: it decides whether the certificate is valid for a
connection at all, and is checked with the certificate (:mod:`tele.certs.check`); here it counts
whether there is one.

Invariant: what the certificate does not permit explicitly is withheld.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tele.model.access import CertificateLimits

# Extensions of user certificates (PROTOCOL.certkeys).
PERMIT_PTY: Final = "permit-pty"
PERMIT_PORT_FORWARDING: Final = "permit-port-forwarding"
PERMIT_AGENT_FORWARDING: Final = "permit-agent-forwarding"
PERMIT_X11_FORWARDING: Final = "permit-X11-forwarding"


def limits_of(
    extensions: Collection[str], force_command: str | None, pinned: bool = True, mfa_host: str = ""
) -> CertificateLimits:
    """Return the limits of a certificate with these extensions, this critical option, whether it
    has ``source-address``, and the host that a second factor was shown for.
    """
    return CertificateLimits(
        permit_pty=PERMIT_PTY in extensions,
        port_forwarding=PERMIT_PORT_FORWARDING in extensions,
        agent_forwarding=PERMIT_AGENT_FORWARDING in extensions,
        x11_forwarding=PERMIT_X11_FORWARDING in extensions,
        force_command=force_command,
        pinned=pinned,
        mfa_host=mfa_host,
    )
