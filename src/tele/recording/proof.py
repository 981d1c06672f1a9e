"""Is a recording authentic: of the claimed session, signed by the host that recorded it?

Auth checks this when a recording is closed; ``tele recordings verify`` checks it again.

Invariants:

* The signer is a host of the cluster, by a certificate of the cluster's host authority (role, id
  and cluster): the node on which the session was, or the proxy that recorded it. A certificate that
  merely has the host's name is not enough.
* Auth's record of the start of the session, the manifest and the first frame agree: id, user,
  login, node, recorder, start.

Certificates are imported where they are checked: a player, which does not, starts faster.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from tele.errors import BadCertificate, BadRecording, InvalidInput, quoted
from tele.model.codec import format_time
from tele.model.identity import HostIdentity, HostPlace, HostRole
from tele.model.session import Manifest, Recording, RecordingStart
from tele.tape.verify import to_sign

#: How long after its end a recording may be closed with a certificate issued since: a node
#: whose disk is full keeps trying, and renews its certificate meanwhile.
CLOSED_WITHIN: Final = timedelta(days=7)
#: The roles of hosts that record sessions.
RECORDERS: Final = (HostRole.NODE, HostRole.PROXY)


def check_signer(
    manifest: Manifest, host_authorities: Collection[bytes], cluster: str
) -> HostIdentity:
    """Return the host of ``cluster`` that signed ``manifest``, which recorded the session.

    ``host_authorities`` are SSH key blobs. Raises :class:`BadRecording`.
    """
    from tele.certs.certificate import parse_certificate
    from tele.certs.check import LATEST, check_member
    from tele.certs.keys import parse_line

    start = manifest.start
    if start.cluster != cluster:
        raise BadRecording(f"it is of cluster {quoted(start.cluster)}, not {cluster}")
    if problem := recorder_problem(start):
        raise BadRecording(problem)
    role, host_id = start.recorded_by
    try:
        certificate = parse_certificate(parse_line(manifest.host_certificate))
        latest = int(LATEST.timestamp())
        issued = datetime.fromtimestamp(min(certificate.valid_after, latest), UTC)
        if manifest.ended < issued - CLOSED_WITHIN:
            raise BadCertificate("it was issued long after the recording ended", "validity")
        checked = check_member(
            certificate, host_authorities, cluster, (role,), max(manifest.ended, issued)
        )
        if checked.identity is None or checked.identity.host_id != host_id:
            raise BadCertificate(_whose(checked.identity, host_id), "host")
        certificate.key.verify(
            manifest.signature, to_sign(manifest), certificate.key.signature_types
        )
    except (BadCertificate, InvalidInput) as error:
        raise BadRecording(f"the manifest is not signed by its host: {error}") from None
    return checked.identity


def _whose(identity: HostIdentity | None, host_id: str) -> str:
    if identity is None:
        return "it names no host of tele"
    return f"the certificate is of host {quoted(identity.host_id)}, not {quoted(host_id)}"


def recorder_problem(start: RecordingStart) -> str:
    """Return why the host that ``start`` names cannot have recorded the session, or nothing."""
    if start.recorder is HostRole.NODE and start.recorder_id not in ("", start.node_id):
        return "a node records its own sessions only"
    if start.recorder is HostRole.PROXY and not start.recorder_id:
        return "it does not name the proxy that recorded it"
    if start.recorder not in RECORDERS:
        return f"sessions are not recorded by hosts of the role {start.recorder.value}"
    return ""


def claimed_name(manifest: Manifest | None) -> str:
    """Return the name of the signer of ``manifest`` from its certificate, not verified."""
    from tele.certs.certificate import parse_certificate
    from tele.certs.check import NODE_NAME
    from tele.certs.keys import parse_line

    try:
        line = "" if manifest is None else manifest.host_certificate
        return parse_certificate(parse_line(line)).extensions.get(NODE_NAME, b"").decode("utf-8")
    except (BadCertificate, InvalidInput, UnicodeDecodeError):
        return ""


def start_differences(
    row: Recording, start: RecordingStart, *more_names: str
) -> dict[str, tuple[str, str]]:
    """Return what ``start`` says otherwise than auth's record of the session: noted and claimed.

    ``more_names`` are further names of the signer, from its certificate: a node may have been
    renamed before the start was reported to auth.
    """
    compared = {
        "id": (row.id, start.id),
        "kind": (row.kind, start.kind),
        "user": (row.user, start.user),
        "login": (row.login, start.login),
        "node id": (row.node_id, start.node_id),
        "recorder": (_shown(row.recorded_by), _shown(start.recorded_by)),
        "mode": (row.mode, start.mode),
        "target": (row.target, start.target),
        "start": (format_time(row.started), format_time(start.started)),
    }
    if start.recorder is not HostRole.NODE or start.node not in more_names:
        compared["node"] = (row.node, start.node)
    return {what: both for what, both in compared.items() if both[0] != both[1]}


def check_start(row: Recording, start: RecordingStart, *more_names: str) -> None:
    """Raise :class:`BadRecording` unless ``start`` agrees with auth's record of the session.

    See :func:`start_differences`.
    """
    for what, (noted, claimed) in start_differences(row, start, *more_names).items():
        raise BadRecording(
            f"it is of another session than the one that started: its {what} is"
            f" {quoted(claimed)}, auth noted {quoted(noted)}"
        )


def _shown(place: HostPlace) -> str:
    role, host_id = place
    return f"{role.value} {host_id}"


def end_differences(
    row: Recording, manifest: Manifest, missing: Collection[int] = ()
) -> dict[str, tuple[str, str]]:
    """Return what ``manifest`` says otherwise than auth's record of the end: noted and claimed."""
    size = sum(chunk.size for chunk in manifest.chunks if chunk.number not in missing)
    compared = {
        "end": (format_time(row.ended) if row.ended else "", format_time(manifest.ended)),
        "number of chunks": (str(row.chunks), str(len(manifest.chunks))),
        "size": (str(row.size), str(size)),
        "terminal": _yes_no(row.interactive, manifest.interactive),
    }
    return {what: both for what, both in compared.items() if both[0] != both[1]}


def _yes_no(noted: bool, claimed: bool) -> tuple[str, str]:
    return "yes" if noted else "no", "yes" if claimed else "no"


def check_end(row: Recording, manifest: Manifest, missing: Collection[int] = ()) -> None:
    """Raise :class:`BadRecording` unless ``manifest`` agrees with auth's record of the end."""
    if not (row.complete or row.incomplete):
        raise BadRecording("it has a manifest, but auth has not accepted one")
    if end_differences(row, manifest, missing):
        raise BadRecording(
            "its manifest is not the one that auth accepted: end, chunks, size or terminal differ"
        )
