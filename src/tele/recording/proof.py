"""Is a recording authentic: of the claimed session, signed by the claimed node?

Auth checks this when a recording is closed; ``tele recordings verify`` checks it again.

Invariants:

* The signer is a node of the cluster, by a certificate of the cluster's host authority (role, id
  and cluster), and it is the node on which the session was. A certificate that merely has the
  node's name is not enough.
* Auth's record of the start of the session, the manifest and the first frame agree: id, user,
  login, node, start.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from tele.certs.certificate import parse_certificate
from tele.certs.check import LATEST, NODE_NAME, check_member
from tele.certs.keys import parse_line
from tele.errors import BadCertificate, BadRecording, InvalidInput, quoted
from tele.model.codec import format_time
from tele.model.identity import HostIdentity, HostRole
from tele.model.session import Manifest, Recording, RecordingStart
from tele.tape.verify import to_sign

#: How long after its end a recording may be closed with a certificate issued since: a node
#: whose disk is full keeps trying, and renews its certificate meanwhile.
CLOSED_WITHIN: Final = timedelta(days=7)
_LATEST: Final = int(LATEST.timestamp())


def check_signer(
    manifest: Manifest, host_authorities: Collection[bytes], cluster: str
) -> HostIdentity:
    """Return the node of ``cluster`` that signed ``manifest``, on which the session was.

    ``host_authorities`` are SSH key blobs. Raises :class:`BadRecording`.
    """
    start = manifest.start
    if start.cluster != cluster:
        raise BadRecording(f"it is of cluster {quoted(start.cluster)}, not {cluster}")
    try:
        certificate = parse_certificate(parse_line(manifest.host_certificate))
        issued = datetime.fromtimestamp(min(certificate.valid_after, _LATEST), UTC)
        if manifest.ended < issued - CLOSED_WITHIN:
            raise BadCertificate("it was issued long after the recording ended", "validity")
        checked = check_member(
            certificate, host_authorities, cluster, (HostRole.NODE,), max(manifest.ended, issued)
        )
        if checked.identity is None or checked.identity.host_id != start.node_id:
            raise BadCertificate("it is another host's certificate", "host")
        certificate.key.verify(manifest.signature, to_sign(manifest), {certificate.key.type})
    except (BadCertificate, InvalidInput) as error:
        raise BadRecording(f"the manifest is not signed by its host: {error}") from None
    return checked.identity


def claimed_name(manifest: Manifest | None) -> str:
    """Return the name of the signer of ``manifest`` from its certificate, not verified."""
    try:
        line = "" if manifest is None else manifest.host_certificate
        return parse_certificate(parse_line(line)).extensions.get(NODE_NAME, b"").decode("utf-8")
    except (BadCertificate, InvalidInput, UnicodeDecodeError):
        return ""


def check_start(row: Recording, start: RecordingStart, *more_names: str) -> None:
    """Raise :class:`BadRecording` unless ``start`` agrees with auth's record of the session.

    ``more_names`` are further names of the node, from its certificate: it may have been renamed
    before the start was reported to auth.
    """
    compared = {
        "id": (row.id, start.id),
        "kind": (row.kind, start.kind),
        "user": (row.user, start.user),
        "login": (row.login, start.login),
        "node id": (row.node_id, start.node_id),
        "start": (format_time(row.started), format_time(start.started)),
    }
    if start.node not in more_names:
        compared["node"] = (row.node, start.node)
    for what, (noted, claimed) in compared.items():
        if noted != claimed:
            raise BadRecording(
                f"it is of another session than the one that started: its {what} is"
                f" {quoted(claimed)}, auth noted {quoted(noted)}"
            )


def check_end(row: Recording, manifest: Manifest, missing: Collection[int] = ()) -> None:
    """Raise :class:`BadRecording` unless ``manifest`` agrees with auth's record of the end."""
    if not (row.complete or row.incomplete):
        raise BadRecording("it has a manifest, but auth has not accepted one")
    noted = (row.ended and format_time(row.ended), row.chunks, row.size, row.interactive)
    size = sum(chunk.size for chunk in manifest.chunks if chunk.number not in missing)
    claimed = (format_time(manifest.ended), len(manifest.chunks), size, manifest.interactive)
    if noted != claimed:
        raise BadRecording(
            "its manifest is not the one that auth accepted: end, chunks, size or terminal differ"
        )
