"""How does auth sign the head of the audit, and who kept which heads?

A chain does not show that the owner of the store made all of it anew, or cut its end off. Heads
that others have, nodes, proxies and the archive, show that.

Invariants:

* The signer is an auth of the cluster, by a certificate of the cluster's host authority that was
  valid when it signed.
* The signed bytes begin with a context string: no other signature of a host key can be taken for
  that of a head, nor the reverse.
* What is kept is bounded, and covers two years: what is older is kept more sparsely.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final

from attrs import evolve, frozen

from tele.audit.chain import Mark
from tele.certs.certificate import parse_certificate
from tele.certs.check import check_member
from tele.certs.keys import PrivateKey, parse_line
from tele.errors import BadCertificate, InvalidInput
from tele.model.audit_head import SignedHead
from tele.model.codec import decode, encode, format_time
from tele.model.identity import HostIdentity, HostRole

_CONTEXT: Final = b"tele-audit-head@tele\n"
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_APART: Final = timedelta(minutes=1)
#: Bytes of one head in a file.
LINE_LIMIT: Final = 16 * 1024
#: Of heads younger than the first, one is kept for each period of the second.
KEPT: Final = (
    (timedelta(hours=2), timedelta(0)),
    (timedelta(days=7), timedelta(hours=1)),
    (timedelta(days=731), timedelta(days=1)),
)


@frozen
class HeadSigner:
    """The SSH host key of an auth, and its certificate (one line)."""

    key: PrivateKey
    certificate: str

    def sign(self, head: SignedHead) -> SignedHead:
        """Return ``head`` with this certificate and a signature."""
        unsigned = evolve(head, host_certificate=self.certificate, signature=b"")
        return evolve(unsigned, signature=self.key.sign(to_sign(unsigned)))


def to_sign(head: SignedHead) -> bytes:
    """Return the bytes that the signature of a head covers."""
    return _CONTEXT + encode(evolve(head, signature=b""))


def mark_of(head: SignedHead) -> Mark:
    """Return the event that has to be in the audit."""
    return Mark(head.number, head.hash, f"auth signed at {format_time(head.time)}")


def check_head(head: SignedHead, host_authorities: Collection[bytes], cluster: str) -> HostIdentity:
    """Return the auth of ``cluster`` that signed ``head``.

    ``host_authorities`` are SSH key blobs. Raises :class:`InvalidInput`.
    """
    if head.cluster != cluster or head.number < 1 or _HASH.fullmatch(head.hash) is None:
        raise InvalidInput("it is no head of the audit of this cluster")
    try:
        certificate = parse_certificate(parse_line(head.host_certificate))
        checked = check_member(certificate, host_authorities, cluster, (HostRole.AUTH,), head.time)
        certificate.key.verify(head.signature, to_sign(head), certificate.key.signature_types)
    except (BadCertificate, InvalidInput) as error:
        raise InvalidInput(f"the head is not signed by auth: {error}") from None
    if checked.identity is None:
        raise InvalidInput("the head is not signed by auth")
    return checked.identity


def to_line(head: SignedHead) -> bytes:
    """Return a head as a line of a file."""
    return encode(head) + b"\n"


def read_lines(data: bytes) -> Iterator[SignedHead]:
    """Yield the heads in a file; a torn last line and lines that are none are skipped."""
    for line in data.split(b"\n"):
        if not line or len(line) > LINE_LIMIT:
            continue
        try:
            yield decode(SignedHead, line)
        except InvalidInput:
            continue


def contradiction(before: SignedHead, head: SignedHead) -> str:
    """Return why both cannot be heads of one audit, or nothing."""
    if head.number == before.number and head.hash != before.hash:
        return f"event {head.number} has two hashes"
    earlier, later = sorted((before, head), key=lambda each: each.time)
    # Two auths on one store may be seconds apart.
    if later.number < earlier.number and later.time - earlier.time > _APART:
        return f"the head was moved back from event {earlier.number} to {later.number}"
    return ""


def thinned(heads: Iterable[SignedHead]) -> Sequence[SignedHead]:
    """Return the heads to keep, by :data:`KEPT`, in order of time.

    Heads that contradict another one are always kept, up to 100.
    """
    unique = {(each.time, each.number, each.hash): each for each in heads}
    ordered = [unique[key] for key in sorted(unique)]
    if not ordered:
        return ()
    newest = ordered[-1].time
    kept: list[SignedHead] = []
    periods: set[tuple[int, int]] = set()
    odd = 0
    for at in range(len(ordered) - 1, -1, -1):
        head, age = ordered[at], newest - ordered[at].time
        if at + 1 < len(ordered) and odd < 100 and contradiction(head, ordered[at + 1]):
            odd += 1
            kept.append(head)
            continue
        for number, (limit, period) in enumerate(KEPT):
            if age > limit:
                continue
            place = (number, int(head.time.timestamp() // period.total_seconds()) if period else at)
            if place not in periods:
                periods.add(place)
                kept.append(head)
            break
    return tuple(reversed(kept))
